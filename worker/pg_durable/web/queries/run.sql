-- run: one run.
select i.id, i.label, i.status, i.submitted_by::text as role, i.definition, i.created_at, i.finished_at, i.start_at,
       i.finished_at - coalesce(i.start_at, i.created_at) as took, i.wait_reason, i.error, i.input,
       i.key, i.key_current, i.priority, i.database, i.parent_id, i.parent_node_id, i.undo_status, i.traceparent,
       coalesce(i.wait_reason ~ '^paused ', false) as paused, df.result(i.id) as result
from df.instances i
where i.id = %(id)s;

-- picture: its graph.
select df.svg(%(id)s) as svg;

-- steps: what has begun of it, for the time line, oldest first.
with begun as materialized (
  select a.node_id, a.item_no, a.execution_id, a.node_type, a.status, a.attempts, a.started_at, a.completed_at,
         count(*) over () as all_of_them
  from df.node_activations(%(id)s) a
  where a.started_at is not null
  order by a.started_at, a.node_id
  limit %(limit)s
)
select b.*, left(n.query, 200) as query, n.result_name
from begun b
left join df.nodes n on n.instance_id = %(id)s and n.id = b.node_id
order by b.started_at, b.item_no nulls first, b.node_id;

-- events: what has happened, newest first.
select t.at, t.event, t.node_id, t.node_type, t.query, t.attempt, t.duration, t.by, t.detail
from df.timeline(%(id)s, %(limit)s, %(before)s) t
order by t.at desc;

-- node: one node of it.
select n.id, n.node_type, n.query, n.result_name, s.inferred_status as status, n.result, n.error, n.database,
       n.created_at, n.started_at, n.completed_at, coalesce(n.completed_at, now()) - n.started_at as took, n.attempts,
       n.retry_policy, n.status_details
from df.nodes n
join df.instance_nodes(%(id)s) s on s.node_id = n.id
where n.instance_id = %(id)s and n.id = %(node)s;

-- items: what has happened to a node in the items of a map.
select a.item_no, a.execution_id, a.status, a.attempts, a.started_at, a.completed_at, left(a.error, 2000) as error,
       a.completed_at - a.started_at as took, count(*) over () as all_of_them
from df.node_activations(%(id)s) a
where a.node_id = %(node)s and a.item_no is not null
order by a.status = 'failed' desc, a.item_no
limit 100;

-- bindings: the results that a node reads.
select n.result_name, n.id, n.status, n.result
from df.nodes n
where n.instance_id = %(id)s and n.result_name = any (%(names)s::text[])
order by n.completed_at nulls first;

-- signals: what was sent to it.
select s.signal_name, s.signal_data, s.status, s.sent_by::text, s.sent_at, s.delivered_at
from df.signals s
where s.instance_id = %(id)s
order by s.signal_id desc
limit 100;

-- waits: what it waits for.
select w.node_id, w.kind, w.waits_for, w.due_at, w.waiting_since
from df.waiting w
where w.instance_id = %(id)s
order by w.waiting_since
limit 100;

-- running: what it executes now.
select r.node_id, left(r.query, 300) as query, r.running_since, r.pid, r.worker, r.attempts,
       r.progress_done, r.progress_total, r.progress_note
from df.running_steps r
where r.instance_id = %(id)s
order by r.running_since
limit 100;

-- children: the runs that it has called.
with called as materialized (
  select t.detail as id
  from df.timeline(%(id)s, 10000) t
  where t.event = 'run called'
  order by t.at desc
  limit 50
)
select i.id, i.label, i.status, i.definition, i.created_at, i.finished_at,
       i.finished_at - coalesce(i.start_at, i.created_at) as took
from called c
join df.instances i on i.id = c.id
order by i.created_at desc;

-- cancel: ends it.
select df.cancel(%(id)s, coalesce(%(reason)s, 'Cancelled by user'), %(undo)s) as answer;

-- pause: nothing new of it begins.
select df.pause(%(id)s, %(reason)s) as answer;

-- resume: it goes on.
select df.resume(%(id)s, %(input)s::jsonb) as answer;

-- rerun: the same from its beginning, as a new run.
select df.rerun(%(id)s, %(input)s::jsonb) as answer;

-- skip: declares a node done.
select df.skip(%(id)s, %(node)s, %(value)s::jsonb, %(scope)s) as answer;

-- signal: sends it one.
select df.signal(%(id)s, %(name)s, %(data)s) as answer
