-- waits: who waits for a signal, longest first.
with waits as materialized (
  select w.instance_id, w.label, w.node_id, w.submitted_by::text as role, w.waits_for as signal, w.waiting_since, w.due_at
  from df.waiting w
  where w.kind = 'signal' and (%(id)s is null or w.instance_id = %(id)s)
  order by w.waiting_since, w.instance_id, w.node_id
  limit %(limit)s
)
select w.*, i.definition, i.input
from waits w
cross join lateral (select x.definition, x.input from df.instances x where x.id = w.instance_id limit 1) i
order by w.waiting_since, w.instance_id, w.node_id;

-- results: what runs have found out so far, by name.
select n.instance_id, n.result_name as name, n.result
from df.nodes n
where n.instance_id = any (%(ids)s::text[]) and n.result_name is not null and n.status = 'completed'
order by n.completed_at;

-- answer: sends a signal.
select df.signal(%(id)s, %(signal)s, %(data)s) as answer;
