-- page: the newest runs with a status and a label, by index, and a cursor for those that are older.
select l.instance_id as id, l.label, l.status, l.next_cursor, i.submitted_by::text as role, i.definition, i.created_at,
       i.finished_at, coalesce(i.finished_at, now()) - coalesce(i.start_at, i.created_at) as took, i.wait_reason,
       i.error, i.priority, i.parent_id
from df.list_instances(%(status)s, %(limit)s, %(label)s, %(after)s) with ordinality
       l (instance_id, label, function_name, status, execution_count, output, created_at, completed_at, next_cursor, place)
join df.instances i on i.id = l.instance_id
order by l.place
