-- schedules: all of them, the next first.
select s.name, s.owner::text as owner, s.cron, s.timezone, s.flow, s.input, s.overlap, s.catch_up, s.jitter, s.paused,
       s.next_at, s.last_at, s.last_status, s.last_instance_id, s.last_error, s.waiting, s.wait_reason, s.created_at,
       s.changed_at
from df.schedules s
where (%(called)s is null or s.name = %(called)s and s.owner = to_regrole(%(owner)s))
order by s.next_at nulls last, s.name, s.owner::text
limit %(limit)s;

-- history: the newest times of schedules, and what came of them.
select s.name, s.owner::text as owner, t.scheduled_for, t.made_by, coalesce(t.instance_status, t.status) as status,
       t.instance_id, t.reason, t.handled_at
from unnest(%(names)s::text[], %(owners)s::text[]) a(name, owner)
join df.schedules s on s.name = a.name and s.owner = to_regrole(a.owner)
cross join lateral (
  select x.scheduled_for, x.made_by, x.status, x.instance_status, x.instance_id, x.reason, x.handled_at
  from df.schedule_ticks x
  where x.name = s.name and x.owner = s.owner
  order by x.scheduled_for desc
  limit %(limit)s) t
order by s.name, s.owner::text, t.scheduled_for;

-- trigger: makes a run now.
select df.trigger_schedule(%(called)s, to_regrole(%(owner)s)) as answer;

-- pause: makes no more.
select df.pause_schedule(%(called)s, %(reason)s, to_regrole(%(owner)s)) as answer;

-- resume: goes on.
select df.resume_schedule(%(called)s, to_regrole(%(owner)s)) as answer;

-- backfill: makes up what was missed.
select df.backfill(%(called)s, %(after)s::timestamptz, %(until)s::timestamptz, to_regrole(%(owner)s)) as answer;
