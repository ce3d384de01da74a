-- throughput: runs that ended within 24 hours, by minute, with how long they took.
select t.at, t.completed, t.failed, t.cancelled, t.median_run, t.longest_run
from df.recent_throughput('24 hours', '1 minute') t
order by t.at;

-- queue: what is ready to run, by role and lane.
select q.role::text as role, q.lane, q.ready, q.oldest_age, q.running, q.slots, q.paused, q.limited, q.wait_reason
from df.queue q
order by q.ready desc, q.role::text, q.lane
limit 50;

-- running: what runs now, longest first.
select r.instance_id, r.label, r.node_id, left(r.query, 200) as query, r.submitted_by::text as role, r.attempts,
       r.running_since, r.progress_done, r.progress_total, r.progress_note, count(*) over () as all_of_them
from df.running_steps r
order by r.running_since nulls last
limit 20;

-- failures: steps that failed within the last hour, by what they said.
with failure as materialized (
  select left(f.error, 300) as error, f.instance_id, f.label, f.failed_at
  from df.failed_steps f
  where f.failed_at > now() - interval '1 hour'
)
select f.error, count(*) as failures, count(distinct f.instance_id) as runs, max(f.failed_at) as last_at,
       (array_agg(f.instance_id order by f.failed_at desc))[1] as newest,
       (array_agg(f.label order by f.failed_at desc))[1] as label
from failure f
group by f.error
order by failures desc, last_at desc
limit 20;

-- people: how many waits for signals are open, and since when the oldest.
select count(*) as waits, min(w.waiting_since) as oldest
from df.waiting w
where w.kind = 'signal';

-- limits: limits and what is in use of them, the fullest first.
select l.name, l.owner::text as owner, l.shared, l.concurrency, l.in_use, l.waiting, l.rate, l.per, l.granted,
       l.paused_until
from df.limits l
order by l.waiting desc, l.in_use desc, l.name
limit 20;

-- late: schedules whose time has come, and of which nothing came.
select s.name, s.owner::text as owner, s.next_at, s.wait_reason
from df.schedules s
where s.next_at + s.jitter < now() - interval '1 minute'
order by s.next_at
limit 20;
