-- page: the newest runs that match. Status and label are looked for by index; what else is asked, in the newest %(scan)s
-- of those, so that the answer comes soon however many runs are kept. at_end: where to go on, for older ones.
with listed as materialized (
  select l.instance_id as id, l.label, l.status, l.next_cursor, l.place
  from df.list_instances(
         %(status)s,
         least(%(scan)s, (select s.value::int from df.settings s where s.name = 'list_instances_max_limit')),
         %(label)s, %(after)s) with ordinality
       l (instance_id, label, function_name, status, execution_count, output, created_at, completed_at, next_cursor, place)
)
select l.id, l.label, l.status, l.next_cursor, i.submitted_by::text as role, i.definition, i.created_at, i.finished_at,
       i.start_at, i.finished_at - coalesce(i.start_at, i.created_at) as took, i.wait_reason, i.error,
       i.priority, i.parent_id, min(i.created_at) over () as searched_to, count(*) over () as searched,
       coalesce(i.wait_reason ~ '^paused ', false) as paused,
       (%(role)s is null or i.submitted_by::text = %(role)s)
         and (%(definition)s is null or split_part(i.definition, ':', 1) = split_part(ltrim(%(definition)s, '@'), ':', 1)
              and split_part(ltrim(%(definition)s, '@'), ':', 2) in ('', split_part(i.definition, ':', 2)))
         and (%(error)s is null or strpos(lower(i.error), lower(%(error)s)) > 0)
         and (%(since)s is null or i.created_at >= now() - %(since)s::interval) as matches,
       %(since)s is null or i.created_at >= now() - %(since)s::interval as recent
from listed l
join (select x.* from df.instances x where x.id = any (array(select y.id from listed y))) i on i.id = l.id
order by l.place;

-- doing: what the runs of a page do right now: steps that run, and what they wait for.
select r.instance_id as id, 'running' as kind, r.node_id, left(r.query, 200) as what, r.running_since as since,
       r.progress_done, r.progress_total, r.progress_note
from df.running_steps r
where r.instance_id = any (%(ids)s::text[])
union all
select w.instance_id, w.kind, w.node_id, left(w.waits_for, 200), w.waiting_since, null, null, null
from df.waiting w
where w.instance_id = any (%(ids)s::text[]) and w.kind <> 'paused';

-- chosen: runs by their ids, as they are now.
select i.id, i.label, i.status, i.submitted_by::text as role, i.created_at,
       coalesce(i.wait_reason ~ '^paused ', false) as paused
from df.instances i
where i.id = any (%(ids)s::text[])
order by i.created_at desc, i.id
