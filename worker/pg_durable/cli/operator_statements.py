"""What the operator commands ask: functions and views of schema df, with the rights of whoever asks. An error is shown
as its cause: what the constructs around a failed step put before that could be all that a terminal has room for."""

# since: a time, or how long ago. role: NULL is every role that the reader sees. limit: NULL is all.
LIST = """
with newest as materialized (
  select i.id, i.created_at, row_number() over (order by i.created_at desc, i.id desc) as place
  from df.instances i
  where i.status = coalesce(%(status)s, i.status) and (%(label)s::text is null or i.label = %(label)s)
    and i.submitted_by = coalesce(quote_ident(%(role)s)::regrole, i.submitted_by)
    and i.created_at >= case when %(since)s ~ '^\\s*[0-9.]+\\s*[a-z]' then now() - %(since)s::interval
                             else coalesce(%(since)s, '-infinity')::timestamptz end
  order by i.created_at desc, i.id desc limit %(limit)s
)
select n.id as instance_id, f.label, f.status, i.submitted_by::text as role,
       f.current_execution_id as iteration, n.created_at,
       case when f.status = 'failed' then df_engine.cause(f.output) else f.output end as output, i.wait_reason
from newest n
join df.instances i on i.id = n.id
cross join lateral df.instance_info(n.id) f
order by n.place"""
# df.settings comes first, so that whoever may not use df is told so of df.
CHECK_PAGE = "select df_engine.check_page_size(%(limit)s) from df.settings limit 1"
RUN = """
select i.instance_id, i.label, i.status, i.current_execution_id as iteration, i.function_version as version,
       case when i.status = 'failed' then df_engine.cause(i.output) else i.output end as output
from df.instance_info(%(id)s) i"""
TREE = "select df.explain(%(id)s) as tree"
STEPS = """
select s.node_id, n.node_type, n.query, s.inferred_status as status, n.attempts, n.started_at, n.completed_at,
       n.completed_at - n.started_at as took, df_engine.cause(n.error) as error, n.result
from df.instance_nodes(%(id)s) s
join df.nodes n on n.instance_id = %(id)s and n.id = s.node_id
where n.node_type in ('SQL', 'BLOCK', 'HTTP', 'HTTP_MULTIPART', 'SLEEP', 'WAIT_SCHEDULE', 'SIGNAL', 'BREAK')
order by n.started_at nulls last, n.created_at, n.id"""
SIGNALS = """
select s.signal_name, s.status, s.signal_data, s.sent_by::text, s.sent_at, s.delivered_at
from df.signals s
where s.instance_id = %(id)s
order by s.signal_id"""
QUEUE = """
select q.role::text, q.lane, q.ready, q.oldest_age as oldest, q.running, q.slots, q.paused, q.limited, q.wait_reason
from df.queue q
order by q.role::text, q.lane"""
LIMITS = """
select l.name, coalesce(l.owner::text, 'shared') as owner, l.concurrency, l.in_use, l.rate, l.per, l.granted,
       l.waiting, l.waiting_keys as keys, clock_timestamp() - l.waiting_since as oldest, l.paused_until
from df.limits l
order by l.name, l.owner::text nulls last"""
STUCK = """
select s.instance_id, s.label, s.submitted_by::text, s.node_id, s.query, s.state, s.since, s.stuck_for, s.reason
from df.stuck(%(interval)s) s"""
TIMELINE = """
select t.at, t.event, t.node_id, t.node_type, t.query, t.attempt, t.duration, t.by, t.detail
from df.timeline(%(id)s, %(limit)s) t"""
CHECK = "select c.problem, c.instance_id, c.node_id, c.detail from df.check() c"
CANCEL = "select df.cancel(%(id)s, %(reason)s, %(undo)s) as answer"
PAUSE_ROLE = "select df.pause_role(%(role)s, %(reason)s) as answer"
RESUME_ROLE = "select df.resume_role(%(role)s) as answer"
PAUSE = "select df.pause(%(id)s, %(reason)s) as answer"
RESUME = "select df.resume(%(id)s, %(input)s::jsonb) as answer"
SKIP = "select df.skip(%(id)s, %(node)s, %(value)s::jsonb, %(scope)s) as answer"
RERUN = "select df.rerun(%(id)s, %(input)s::jsonb) as answer"
FORGET = "select df.forget(%(id)s) as answer"
SIGNAL = "select df.signal(%(id)s, %(name)s, %(data)s) as answer"
SCHEDULES = """
select s.name, s.cron, s.timezone, s.next_at, s.last_at, s.last_status, s.last_instance_id,
       coalesce(s.wait_reason, s.last_error) as reason
from df.schedules s
where s.owner = coalesce(quote_ident(%(owner)s)::regrole, s.owner) order by s.name, s.owner"""
TICKS = """
select t.scheduled_for, t.made_by, t.status, t.instance_id, t.instance_status, t.reason
from df.schedule_ticks t
where t.name = %(name)s and t.owner = coalesce(quote_ident(%(owner)s)::regrole, t.owner)
order by t.scheduled_for desc limit 50"""
PAUSE_SCHEDULE = "select df.pause_schedule(%(name)s, %(reason)s, quote_ident(%(owner)s)::regrole) as answer"
RESUME_SCHEDULE = "select df.resume_schedule(%(name)s, quote_ident(%(owner)s)::regrole)::text as answer"
TRIGGER_SCHEDULE = """
select coalesce(df.trigger_schedule(%(name)s, quote_ident(%(owner)s)::regrole),
                'waits for the end of an earlier run') as answer"""

# Secrets: a plain value is copied into a table that ends with the transaction, so that no statement holds it.
SECRETS = "select s.name, s.created_at, s.updated_at from df.secrets s order by s.name"
WHO_AM_I = "select current_user::text as role"
SET_ENCRYPTED_SECRET = "select df.set_secret(%(name)s, %(value)s, encrypted => true)"
SECRET_TABLE = "create temporary table pg_durable_secret (value text) on commit drop"
COPY_SECRET = "copy pg_temp.pg_durable_secret (value) from stdin"
SET_COPIED_SECRET = "select df.set_secret(%(name)s, s.value) from pg_temp.pg_durable_secret s"
UNSET_SECRET = """
select exists (select from df.secrets s where s.name = %(name)s) as found, df.unset_secret(%(name)s)"""

# What `top` shows, by heading.
TOP = {
    "runs": "select i.status, count(*) as runs from df.instances i group by i.status order by i.status",
    "done in the last 10 s": """
select count(distinct i.id) filter (where i.finished_at > now() - interval '10 s') as runs,
       count(n.id) as steps, round(count(n.id) / 10.0, 1) as steps_per_second
from df.instances i
left join df.nodes n on n.instance_id = i.id and n.completed_at > now() - interval '10 s'
                    and n.node_type in ('SQL', 'BLOCK', 'HTTP', 'HTTP_MULTIPART')
where i.status in ('pending', 'running') or i.finished_at > now() - interval '10 s'""",
    "longest running steps": """
select r.instance_id, r.label, r.node_type, r.query, r.running_for, r.attempts, r.pid, r.worker,
       df_engine.progress_text(r.progress_done, r.progress_total, r.progress_note) as progress
from df.running_steps r
order by r.running_for desc nulls last
limit 10""",
    "waiting": """
select w.kind, w.waits_for, count(*) as waits, min(w.due_at) as first_due
from df.waiting w
group by w.kind, w.waits_for
order by count(*) desc, w.kind, w.waits_for
limit 10""",
    "failed last": """
select f.instance_id, f.label, f.failed_at, f.attempts, f.query, f.error
from df.failed_steps f
order by f.failed_at desc
limit 5""",
    "workers": """
select w.worker, w.role::text, w.alive, w.started_at, w.silent_for, w.leases
from df.workers w
order by w.worker""",
}
