"""What tests must know of the engine's private state: the only place that names its tables."""

WORK_IS_LEFT = """
select exists (select from df_engine.queue) or exists (select from df_engine.inbox where fresh)
    or exists (select from df_engine.timers where due_at <= df_engine.clock())"""

UNLOCKED_WORK_IS_LEFT = """
select exists (select from (select from df_engine.queue for update skip locked) r)
    or exists (select from df_engine.inbox where fresh)
    or exists (select from df_engine.timers where due_at <= df_engine.clock())"""

UNFINISHED = """
select exists (select from df_engine.instances where status in ('pending', 'running'))
    or exists (select from df_engine.queue) or exists (select from df_engine.timers)
    or exists (select from df_engine.inbox where fresh)"""

# Everything that is stored of a run.
STORED = """
with run as (select * from df_engine.instances where id = %s)
select to_jsonb(run)::text from run
union all select to_jsonb(n)::text from df.nodes n join run on run.id = n.instance_id
union all select to_jsonb(q)::text from df_engine.queue q join run using (instance)
union all select to_jsonb(t)::text from df_engine.timers t join run using (instance)
union all select to_jsonb(w)::text from df_engine.waits w join run using (instance)
union all select to_jsonb(a)::text from df_engine.activations a join run using (instance)
union all select to_jsonb(o)::text from df_engine.outcomes o join run using (instance)
union all select to_jsonb(b)::text from df_engine.bindings b join run using (instance)
union all select to_jsonb(s)::text from df_engine.inbox s join run using (instance)
order by 1"""

# Of a run whose step is queued: number, graph, row in the queue, node and its activation.
QUEUED = """
select i.instance, i.graph, q.id, q.node, q.activation
from df_engine.instances i join df_engine.queue q using (instance) where i.id = %s"""

# Of a run: what waits for a signal.
WAITING = "select w.* from df_engine.waits w join df_engine.instances i using (instance) where i.id = %s"
RACES_LOCKED = "select from df_engine.activations for update nowait"

# Ways to keep the runs of `other` from being moved on, as long as a transaction is open.
RUNS_HELD = (
    "select from df_engine.instances where submitter = 'other'::regrole for update",
    "select from df_engine.instances where submitter = 'other'::regrole for share",
    "update df_engine.instances set updated_at = now() where submitter = 'other'::regrole",
)
TIMERS_DUE = "select count(*) from df_engine.timers where due_at <= clock_timestamp()"
MORE_TIMERS = """
insert into df_engine.timers (id, submitter, instance, node, kind, since, due_at, next_try_at)
select nextval('df_engine.thread_ids'), i.submitter, i.instance, 1, 'sleep', now(), now() + d.due, now() + d.due
from (select %s::interval as due) d, generate_series(1, %s), df_engine.instances i where i.id = %s"""
# When what is due is tried again, if anything is that nobody has locked.
NEXT_TRY = """
select min(due.next_try_at)
from (select * from (select t.next_try_at from df_engine.timers t for update skip locked) t
      union all
      select * from (select s.next_try_at from df_engine.inbox s where s.fresh for update skip locked) s) due"""
LEASED_BY_NOBODY = "select worker is null from df_engine.queue"
WAIT_REASON = "insert into df_engine.role_reasons select 'app'::regrole, %s"
RUNS_AGED = "update df_engine.instances set finished_at = now() - %s::interval"
GRAPHS_ARE_OLD = "update df_engine.graphs set used_at = now() - interval '31 days'"
RETENTION_IS_DUE = "update df_engine.upkeep set retained_at = '-infinity'"

PRIVATE_TABLES = (
    "select oid::regclass::text from pg_class where relnamespace = 'df_engine'::regnamespace and relkind = 'r'"
)

# A log of all that happens to nodes, as public.log, in the order of commits where one transaction waits for another.
LOG = """
create table public.log (id bigint generated always as identity, tx xid8 default pg_current_xact_id(), run text,
                         node text, status text, stamp text, retry_at timestamptz, result jsonb);
create function public.note(p_instance bigint, p_node int, p_status text, p_generations int[], p_retry_at timestamptz,
                            p_result jsonb) returns void language sql as $$
  insert into public.log (run, node, status, stamp, retry_at, result)
  select i.id, df_engine.node_id(i.id, g.node), p_status, df_engine.stamp(i.id, g.tops, p_generations), p_retry_at,
         p_result
  from df_engine.instances i join df_engine.graph_nodes g on g.graph = i.graph and g.node = p_node
  where i.instance = p_instance
$$;
create function public.note_outcome() returns trigger language plpgsql security definer as $$
begin
  perform public.note(new.instance, new.node,
                      case when new.state in ('f', 'x', 'e') then 'failed' when new.state = 'r' then 'running'
                           else 'completed' end,
                      new.generations,
                      case new.state when 'r' then new.ended_at end,
                      case when new.state in ('f', 'x', 'e') then to_jsonb(new.error) else new.value::jsonb end);
  return null;
end $$;
create function public.note_wait() returns trigger language plpgsql security definer as $$
begin
  perform public.note(new.instance, new.node, 'running', new.generations, null, null);
  return null;
end $$;
create trigger note after insert or update on df_engine.outcomes
  for each row when (new.state not in ('o', 's')) execute function public.note_outcome();
create trigger note after insert on df_engine.waits for each row execute function public.note_wait();
"""

# The log of what df.test does, with the time of the test; the run that it has begun; the ids of its nodes in pre-order.
VIRTUAL_LOG = """
alter table public.log add at timestamptz default df_engine.clock();
create table public.tested (run text, at timestamptz);
create function public.note_test() returns trigger language plpgsql security definer as $$
begin
  if new.parent is null then
    insert into public.tested values (new.id, df_engine.clock());
  end if;
  return null;
end $$;
create trigger note after insert on df_engine.instances for each row execute function public.note_test();
"""
TESTED_NODES = "select df_engine.node_id(%s, n) from generate_series(1, %s) n"

# Of a run: the first part of the idempotency keys of its HTTP steps.
RUN_KEYS = "select i.id, lpad(to_hex(i.run_key), 16, '0') from df_engine.instances i"

TIMERS = "select count(*) from df_engine.timers"
NAMES_KEPT = "select count(*) from df_engine.bindings where name_scope < 0"
WAITS = "select count(*) from df_engine.waits"
DUE_AGO = "update df_engine.timers set due_at = now() - %s::interval, next_try_at = now() - %s::interval"
# Waits for a condition: how many have nothing but a timer that is due within an interval; all of them are due; their
# last checks were begun a while ago; their time-outs are due. How many pokes nobody has heard, those of starts of
# workers, and outcomes there are.
CHECKS_DUE_WITHIN = (
    "select count(*) from df_engine.timers where kind = 'check' and due_at <= clock_timestamp() + %s::interval"
)
CHECKS_DUE = "update df_engine.timers set due_at = now(), next_try_at = now() where kind = 'check'"
LAST_CHECK_AGO = "update df_engine.timers set since = clock_timestamp() - %s::interval where kind = 'check'"
TIMEOUT_IS_DUE = "update df_engine.timers set due_at = now(), next_try_at = now() where kind = 'deadline'"
CHECKS_LOCKED = "select from df_engine.timers where kind = 'check' for update"
PROGRESS = "select pid, node, done::float, total::float, note from df_engine.progress order by pid"
POKES = "select count(*) from df_engine.pokes where hash <> 0"
POKES_HEARD = "delete from df_engine.pokes"
POKED_BY_START = "select count(*) from df_engine.pokes where hash = 0"
OUTCOMES = "select count(*) from df_engine.outcomes"
LONGEST_FAILURE = "select max(length(failure::text)) from df_engine.outcomes"

# Lets the schedules of the next two minutes come due, those of first iterations, and tells the workers.
SCHEDULES_ARE_DUE = """
with moved as (
  update df_engine.timers t set due_at = clock_timestamp(), next_try_at = clock_timestamp()
  where t.kind = 'schedule' and t.due_at < now() + interval '2 minutes'
    and exists (select from df_engine.instances i where i.instance = t.instance and i.generation = 1)
  returning 1)
select df.run() from moved limit 1"""
TIMERS_LOCKED = "lock table df_engine.timers"
# Moves the engine's time; the comments of steps outside of transactions that a worker claims, in its order.
CLOCK_AHEAD = """
create or replace function df_engine.clock() returns timestamptz language sql volatile as
  $$ select pg_catalog.clock_timestamp() + interval '{}' $$"""
CLAIM_DIRECT = "select split_part(request ->> 'sql', ' ', 3) from df_engine.claim_leased(%s, 'direct', 10)"
# Versions of definitions that are hidden.
LATEST_HIDDEN = "select array_agg(version) from df_engine.flow_definitions where hidden_at is not null"
# Keys of starts; those whose run is gone; those that more than one live run was started with.
KEYS = "select count(*) from df_engine.start_keys"
FREE_RUNS_ENDED_YESTERDAY = """
update df_engine.instances set finished_at = finished_at - interval '2 days'
where instance in (select instance from df_engine.instances where status = 'completed' for update skip locked)"""
KEYS_WITHOUT_RUN = """
select count(*) from df_engine.start_keys k
where not exists (select from df_engine.instances i where i.instance = k.instance and i.key = k.key)"""
LIVE_RUNS_OF_KEYS = """
select i.key, count(*) from df.instances i where i.status in ('pending', 'running') and i.key is not null
group by i.key having count(*) > 1"""
STEP_LOCKED = """
select from df_engine.queue q join df_engine.instances i using (instance) where i.id = %s for update of q"""
RUN_LOCKED = "select from df_engine.instances where id = %s for update"
ENDED_YESTERDAY = "update df_engine.instances set finished_at = finished_at - interval '1 day'"
A_WORKER_IDLES = "select idle_until > clock_timestamp() from df_engine.workers"
WORKERS_GONE = "delete from df_engine.workers"
LEASED_DIRECT_BY = "select worker from df_engine.queue where lane = 'direct'"
A_WORKER_IDLE = "insert into df_engine.workers (role, idle_until) values ('durable_worker', now() + interval '1 h')"
MARK = "select pg_notify(df_engine.wake_channel(), 'mark')"
LISTEN = "select df_engine.listen_for_work()"
WORKER_ROLES = "select count(*) from df_engine.worker_roles"
LOSE_THE_QUEUE = "delete from df_engine.queue"
TIMERS_ARE_LATE = "update df_engine.timers set next_try_at = now() - interval '1 h'"
INSTALLED_VERSION = "update df_engine.release set version = '0.9.9'"
NO_AUTOVACUUM = "alter table df_engine.queue set (autovacuum_enabled = off)"

# How a run stands, as it could not be made to without much ado: status, error, label, wait_reason, of an id.
STANDS = """
with given as (
  select %s::text as status, %s::text as error, %s::text as label, %s::text as reason, %s::text as id
), why as (
  insert into df_engine.role_reasons (submitter, reason)
  select i.submitter, g.reason from given g join df_engine.instances i on i.id = g.id where g.reason is not null
)
update df_engine.instances i set status = g.status, error = g.error, label = g.label from given g where i.id = g.id"""
WORKERS_SEEN_AGO = "update df_engine.workers set last_seen_at = now() - %s::interval"

# Of a run: what its steps read as {name}.
VARIABLES = "select df_engine.variables_of(i.instance) from df_engine.instances i where i.id = %s"

# Of a run, its compiled graph in pre-order: where a node stands and in which scope; what is entered when it has ended
# well, when it is false, and how many sequences and IFs end with it.
LAID_OUT = """
select df_engine.node_path(g.graph, g.node), g.kind, df_engine.node_path(g.graph, g.tops[cardinality(g.tops)]),
       g.after::text, df_engine.node_path(g.graph, g.next), df_engine.node_path(g.graph, g.other), g.closes
from df_engine.graph_nodes g join df_engine.instances i using (graph) where i.id = %s order by g.node"""

RUNS_OF_GRAPHS = """
select count(i.instance) from df_engine.graphs g left join df_engine.instances i on i.graph = g.id group by g.id"""

# In a session of a submitter: the next step is claimed and recorded as done; answers with it and the one that follows.
CLAIM = "select from df_engine.own_key k cross join lateral df_engine.claim_step(k.key, null, 0, false)"
ONE_STEP = """
select c.queue, c.version, c.steps[1].name, c.steps[2].name
from df_engine.own_key k
cross join lateral df_engine.claim_step(k.key, null, 0, false) c
cross join lateral df_engine.record_step(
  k.key, c.id, c.graph, c.queue, c.thread, c.steps[1], df_engine.no_rows(null), now(), false) r"""
# The same for a step after which the thread is moved on: where to, and the first step there.
MOVED_ON = ONE_STEP.replace(
    "c.queue, c.version, c.steps[1].name, c.steps[2].name", "r.queue, r.version, r.steps[1].name"
)
# The same for a step of an item of a map, which fails and says of which item it is.
FAILED_ITEM = """
select r.queue
from df_engine.own_key k
cross join lateral df_engine.claim_step(k.key, null, 0, false) c
cross join lateral df_engine.fail_step(
  k.key, c.id, c.graph, c.queue, c.thread, c.steps[1], '22P02', format('item-%s', (c.thread).scope & 8388607),
  null, null, false, now()) r"""
# The same for any step.
FAILED_STEP = FAILED_ITEM.replace("format('item-%s', (c.thread).scope & 8388607)", "'no number'")
HELD = "select df_engine.claim_next(%s, %s, %s)"
QUEUE_ROWS = "select submitter, id, node, crash_score from df_engine.queue order by id"
QUEUE_LOCKED = "select from df_engine.queue for update"
QUEUED_NODES = """
select q.id, n.id, n.node_type from df_engine.queue q join df_engine.instances i using (instance)
join df.nodes n on n.instance_id = i.id"""
RAISE_CRASH_SCORE = "select df_engine.raise_crash_score(%s, %s, %s, 4)"
SIGNAL_ROWS_READ = """
select sum(t.seq_tup_read + coalesce(t.idx_tup_fetch, 0) + coalesce((
         select sum(i.idx_tup_read) from pg_stat_user_indexes i where i.relid = t.relid), 0))::bigint
from pg_stat_user_tables t where t.relname in ('inbox', 'waits')"""
FRESH_SIGNALS = "select count(*) from df_engine.inbox where fresh"
WAITS_DELETED = "select n_tup_del from pg_stat_user_tables where relname = 'waits'"
SHORT_OF_BYTES = "select from df_engine.workers where short_of_bytes is not null or sated is not null"
LEASED_STEPS = "select count(*) from df_engine.queue where worker is not null"
LEASED_SCORE = "select coalesce(max(crash_score), 0) from df_engine.queue where worker is not null"
GENERATION = "select generation from df_engine.instances where id = %s"
SECONDS_TO_TIMER = (
    "select coalesce(min(extract(epoch from due_at - clock_timestamp())), 9)::float from df_engine.timers"
)
SIGNAL_IS_FRESH = "select fresh from df_engine.inbox"
TRY_SIGNAL = "select df_engine.try_signal(s.signal_id) from df_engine.inbox s where s.signal_data = %s::jsonb"

# A signal of a run that was kept for a wait that has ended in the meantime.
RESERVED = """
insert into df_engine.inbox (instance, submitter, signal_name, signal_data, sent_by, reserved)
select i.instance, i.submitter, %s, '1', 'app'::regrole, '{-1}' from df_engine.instances i where i.id = %s"""

# Ends of steps do not commit while somebody holds the advisory lock 42.
HELD_ENDS = """
create function public.hold() returns trigger language plpgsql as $$
begin
  perform pg_advisory_xact_lock_shared(42);
  return new;
end
$$;
create trigger hold after insert on df_engine.outcomes for each row execute function public.hold()"""

# Puts ended runs, each called by the one before, above the run with that id: so many of them.
CHAIN_OF_CALLERS = """
with above as (
  insert into df_engine.instances
    (instance, id, submitter, graph, status, parent, parent_node, version, run_key, finished_at)
  overriding system value
  select -1000 * i.instance - n, left(md5(i.id || n), 8), i.submitter, i.graph, 'failed',
         case when n < c.count then -1000 * i.instance - n - 1 end, case when n < c.count then 1 end, '0', 0, now()
  from (select %s::text as id, %s::int as count) c
  join df_engine.instances i on i.id = c.id
  cross join lateral generate_series(1, c.count) n
  returning id, instance
)
update df_engine.instances i set parent = -1000 * i.instance - 1, parent_node = 1
where i.id = %s and exists (select from above)"""

# What there is to see when nothing goes on.
STANDSTILL = (
    "select id, label, status, generation from df_engine.instances where status in ('pending', 'running') limit 20",
    "select * from df_engine.threads limit 20",
    "select signal_id, instance, status from df_engine.inbox where fresh limit 20",
)

# What must be the same before and after the installer has run again.
IN_FLIGHT = """
select to_jsonb(i) from df_engine.instances i union all select to_jsonb(n) from df.nodes n
union all select to_jsonb(o) from df_engine.outcomes o
union all select to_jsonb(t) from df_engine.timers t union all select to_jsonb(w) from df_engine.waits w
union all select to_jsonb(a) from df_engine.activations a
union all select to_jsonb(q) from df_engine.queue q order by 1"""

# Runs as a query describes them, without a graph: (id, label, status, created_at, finished_at), of the role app.
KEPT_RUNS = """
insert into df_engine.instances (id, label, submitter, graph, status, created_at, finished_at, version, run_key)
select r.id, r.label, 'app'::regrole, 0, r.status, r.created_at, r.finished_at, '0', 0
from ({}) r (id, label, status, created_at, finished_at)"""
ANALYZE_RUNS = "analyze df_engine.instances"
RUN_INDEXES = "select indexdef from pg_indexes where schemaname = 'df_engine' and tablename = 'instances'"

# A run ends: its status, how many days ago and how many seconds later, its id.
ENDED = """
update df_engine.instances
set status = %s, finished_at = now() - %s * interval '1 day' + %s * interval '1 second' where id = %s"""
CREATED_LONG_AGO = "update df_engine.instances set created_at = now() - interval '1 year', updated_at = now()"
CREATED_AT = "update df_engine.instances set created_at = %s where label = %s"
RUN_TIMES = "update df_engine.instances set created_at = %s, finished_at = %s where id = %s"
OUTCOME_TIMES = """
update df_engine.outcomes set started_at = %s, ended_at = %s
where instance = (select i.instance from df_engine.instances i where i.id = %s) and node = %s"""
# The history of the only run: events and seconds of each iteration.
HISTORY = """
update df_engine.executions
set events = 10 * generation, started_at = '2026-01-01 00:00:00+00',
    finished_at = timestamptz '2026-01-01 00:00:00.2504+00' + generation * interval '1 s'"""
VERSION = "select version from df_engine.release"
RETAINED_AT = "select retained_at from df_engine.upkeep"
QUEUED_STEPS = "select count(*) from df_engine.queue"
BOUND_VARIABLE = "select vars ->> 'a' from df_engine.instances"
FAILED_ATTEMPTS = "select attempt, sqlstate from df_engine.attempts order by 1"
ATTEMPTS_IN_ORDER = "select attempt, sqlstate from df_engine.attempts order by id"
REMOVED_OF_RUNS = "select df_engine.remove_outlived(%s, %s)"
LABELS_GONE = "update df_engine.instances set label = null"
STEPS_IN_SESSIONS = "select count(*) from df_engine.steps_in_sessions where id = %s"
RAISE_ALL_CRASH_SCORES = """
select df_engine.raise_crash_score(q.submitter, q.id, df_engine.node_id(i.id, q.node), 4)
from df_engine.queue q join df_engine.instances i using (instance)"""
A_WORKER_SEEN = "insert into df_engine.workers (role, last_seen_at) values ('durable_worker', now() - %s::interval)"
HISTORY_SPAN = "select max(finished_at) - min(finished_at) >= %s::interval from df_engine.executions"

# Private tables with rows of runs, which ticks of schedules are not: they outlive them. How many rows one of them has.
TABLES_OF_RUNS = """
select a.attrelid::regclass::text from pg_attribute a join pg_class c on c.oid = a.attrelid
where c.relnamespace = 'df_engine'::regnamespace and c.relkind = 'r' and a.attname = 'instance'
  and c.oid <> 'df_engine.schedule_ticks'::regclass"""
ROWS = "select count(*) from {}"
# The rows of a table in which a text is, as JSON.
ROWS_WITH = "select to_jsonb(t) from {} t where strpos(to_jsonb(t)::text, %s) > 0"
SECRETS_TABLE = "df_engine.kept_secrets"
SECRET_VALUES = "select value from df_engine.kept_secrets"
QUEUED_REQUEST = "select request from df_engine.queue where lane = 'http'"

# What is inferred of the nodes of a run, given signs (node, state, generations of each), its generation and its status.
FOLDED = """
select f.node, f.inferred_status, f.from_ancestor
from df_engine.instances i
cross join lateral df_engine.fold_states(
  array(select row(n.node, n.last, n.parent, n.place, n.kind, n.levels,
                   coalesce(n.tops[cardinality(n.tops)], 0))::df_engine.node_shape
        from df_engine.graph_nodes n where n.graph = i.graph order by n.node),
  array(select row((s ->> 0)::int, (s ->> 1)::"char", df_engine.generations_key(
                     array(select g::int from jsonb_array_elements_text(s -> 2) g)))::df_engine.node_sign
        from jsonb_array_elements(%s) s),
  %s, %s) f
where i.id = %s"""
GRAPH = """
select g.node, coalesce(g.query, g.kind), g.levels
from df_engine.graph_nodes g join df_engine.instances i using (graph) where i.id = %s"""

# Each kind of damage to a run that waits, and what df.check says of it.
DAMAGE = (
    ("update df_engine.instances set status = 'failed'", "work is left of a run that has ended"),
    (
        "delete from df_engine.activations where id in (select unnest(races) from df_engine.timers)",
        "work is left of a branch that has lost its race",
    ),
    ("update df_engine.waits set node = 99", "work on a node that does not exist"),
    ("update df_engine.timers set node = 1", "work on a node that cannot have it"),
    ("update df_engine.activations set node = 3", "work on a node that cannot have it"),
    ("update df_engine.timers set kind = 'retry' where kind = 'sleep'", "work on a node that cannot have it"),
    ("update df_engine.waits set generations = '{1,1,1,1}'", "a thread is not where its generations say"),
    ("update df_engine.timers set activation = -1", "a thread is in a construct that is not open"),
    (
        "delete from df_engine.timers; delete from df_engine.waits",
        "nothing moves a run that has not ended",
    ),
    ("delete from df_engine.waits", "a JOIN does not agree with its branches"),
    ("delete from df_engine.timers where kind = 'sleep'", "a RACE does not agree with its branches"),
    (
        "delete from df_engine.timers where cardinality(generations) = 3",
        "a LOOP does not agree with its branches",
    ),
    (
        "insert into df_engine.queue (submitter, instance, node, generations, activation, races) "
        "select 0, instance, node, generations, activation, races from df_engine.timers",
        "a RACE does not agree with its branches",
    ),
    ("update df_engine.activations set open = open + 1", "a JOIN does not agree with its branches"),
    ("update df_engine.instances set status = 'completed', result = 1", "a run has ended and its root has not"),
    ("update df_engine.bindings set name = 'zz'", "a name that no node binds"),
    (
        "insert into df_engine.inbox (instance, submitter, signal_name, signal_data, sent_by, fresh) "
        "select instance, submitter, 's', '1', submitter, false from df_engine.instances",
        "a kept signal and an open wait have not met",
    ),
    (
        "insert into df_engine.inbox (instance, submitter, signal_name, signal_data, sent_by, fresh) "
        "select instance, submitter, 's', '1', submitter, false from df_engine.instances; "
        "update df_engine.instances set status = 'failed'",
        "a signal of a run that has ended is kept",
    ),
    ("update df_engine.waits set instance = -1", "a row without its run"),
    ("update df_engine.outcomes set instance = -1", "a row without its run"),
    ("update df_engine.bindings set instance = -1", "a row without its run"),
    ("delete from df_engine.graphs", "a run without its graph"),
    (
        "update df_engine.waits set child = -1 where child is not null",
        "a call waits for a run that is not there, or was not told of its end",
    ),
    (
        "update df_engine.instances set status = 'failed' where parent is not null",
        "a call waits for a run that is not there, or was not told of its end",
    ),
    (
        "delete from df_engine.waits where child is not null",
        "a run goes on for which its caller does not wait",
    ),
    ("delete from df_engine.instances where parent is null", "a run without its caller"),
    ("update df_engine.schedules set due_at = null", "nothing moves a schedule"),
    (
        "insert into df_engine.schedule_ticks (schedule, scheduled_for, made_by, state, handled_at) "
        "values (-1, now(), 'cron', 'skipped', now())",
        "a tick without its schedule",
    ),
)

ENDED_BEFORE = "update df_engine.instances set finished_at = finished_at - %s::interval"
STARTED_AGO = "update df_engine.instances set created_at = created_at - %s::interval where id = %s"
ENDED_TOGETHER = "update df_engine.instances set finished_at = date_trunc('second', now()) - interval '1 minute'"
ENDED_INDEX = "instances_finished_idx"
STEP_LASTED = """
update df_engine.outcomes o set started_at = o.ended_at - %s::interval
from df_engine.instances i join df_engine.graph_nodes n on n.graph = i.graph
where i.instance = o.instance and n.node = o.node and n.query = %s"""

# What a made-up next version changes, and what is there afterwards.
MIGRATION = """
do $migration$
begin
if df_engine.migrating(2) then
  alter table df_engine.waits add column asked_by oid;
  update df_engine.waits w set asked_by = i.submitter from df_engine.instances i where i.instance = w.instance;
  alter table df_engine.waits alter column asked_by set not null, alter column asked_by set default 0;
end if;
end
$migration$;
"""
ADDED_COLUMN = "df_engine.waits.asked_by"
LAYOUT = "select layout from df_engine.release"

# Tables that steps write to.
HOT_TABLES = (
    "df_engine.instances",
    "df_engine.outcomes",
    "df_engine.queue",
    "df_engine.activations",
    "df_engine.bindings",
    "df_engine.timers",
    "df_engine.waits",
)
# Tables that grow with runs or with what is to be done, and that must not be read as a whole.
LARGE_TABLES = (*HOT_TABLES, "df_engine.inbox")
QUEUE = "df_engine.queue"
TIMERS_BY_TIME = "timers_next_idx"
XIDS = "select pg_snapshot_xmax(pg_current_snapshot())::text::bigint"

END_CHANNELS = "select count(*) from df_engine.end_channels"
UPKEEP = "select count(*) from df_engine.upkeep"
TRACED_SINCE = "update df_engine.upkeep set traced_at = clock_timestamp() - %s::interval, traced_id = ''"
UPKEEP_LOCKED = "select from df_engine.upkeep for update"
# The table by which an installation is known, as somebody else might make it.
RELEASE = "create table df_engine.release (version text primary key, layout int, installed_at timestamptz)"

# Starts in transaction_mode 'new' that are under way; one that would be, as its transaction sees it.
LAUNCHES = """
select 1000 - count(*) from (select from df_engine.launch_slots for update skip locked) s"""
SLOT_TAKEN = "select from df_engine.launch_slots order by slot limit 1 for update"

LIVE_WORKERS = "select df_engine.live_workers()"
WORKER_LOCK = "select alive from df_engine.workers where worker = %s"
OTHER_WORKERS_GONE = "delete from df_engine.workers where worker <> %s"
# All rows of the queue, and whether a timer or signal is tried in this hour.
THREADS_IN_QUEUE = "select jsonb_agg(to_jsonb(q) order by q.id) from df_engine.queue q"
DUE_SOON = "select exists (select from df_engine.timers where next_try_at <= df_engine.clock())"

# The ends of waits for signals cannot be stored.
SIGNALS_BROKEN = """
create function public.broken() returns trigger language plpgsql as $$
begin
  raise exception 'cannot be stored' using errcode = 'program_limit_exceeded';
end $$;
create trigger broken before insert on df_engine.outcomes
  for each row when (new.value::text like '%timed_out%') execute function public.broken()"""

# The engine's clock stands at a time. Tests move it to another.
CLOCK_AT = """
create or replace function df_engine.clock() returns timestamptz language sql volatile as
  $$ select timestamptz '{}' $$"""
SCHEDULES_QUEUED = "select count(*) from df_engine.queue where instance < 0"
SCHEDULES_LOST = "delete from df_engine.queue where instance < 0"
SCHEDULES_QUEUED_AGAIN = """
insert into df_engine.queue (submitter, instance, node)
select submitter, instance, node from df_engine.queue where instance < 0"""
ZONE_OF_SCHEDULE = "update df_engine.schedules set timezone = %s where name = %s"
# Ticks, one a minute, of a schedule before a time.
EARLIER_TICKS = """
insert into df_engine.schedule_ticks (schedule, scheduled_for, made_by, state, handled_at)
select s.schedule, t.at, 'cron', 'skipped', t.at
from df_engine.schedules s, generate_series(%s::timestamptz - %s::interval, %s, interval '1 minute') t(at)"""
# Many schedules of as many roles, due in an hour.
MANY_SCHEDULES = """
insert into df_engine.schedules (owner, name, cron, graph, flow, overlap, catch_up, jitter, next_at, due_at, created_at,
                                 changed_at)
select (100000 + n)::oid::regrole, 'many', '* * * * *', 'select 1', 'select 1', 'skip', '1 hour', '0',
       now() + interval '1 hour', now() + interval '1 hour', now(), now()
from generate_series(1, %s) n"""
# What this transaction has read of schedules: scans of the table, searches of its index, entries there.
SCHEDULES_READ = """
select pg_stat_get_xact_numscans('df_engine.schedules'::regclass),
       pg_stat_get_xact_numscans('df_engine.schedules_due_idx'::regclass),
       pg_stat_get_xact_tuples_returned('df_engine.schedules_due_idx'::regclass)"""
SCHEDULES_LATE = "update df_engine.schedules set next_at = now() - %s::interval"
# All that is stored of runs, variables, secrets and definitions, but for what each reader moves.
ALL_STATE = tuple(
    f"select to_jsonb(t)::text from df_engine.{table} t order by 1"
    for table in ("instances", "queue", "timers", "waits", "activations", "outcomes", "bindings", "inbox", "acts",
                  "vars", "kept_secrets", "flow_definitions", "end_channels", "settings", "role_limits", "paused_roles",
                  "http_allowlist", "worker_roles", "start_keys", "role_reasons", "schedules", "schedule_ticks",
                  "limits", "limit_places", "limit_grants")
)  # fmt: skip
# What tests have left of themselves.
LEFT_OF_TESTS = "select sum(x) from (" + " union all ".join(
    f"select count(*) from df_engine.{table}" for table in (
        "tests", "test_moves", "instances", "outcomes", "queue", "timers", "waits", "activations", "bindings", "inbox",
        "attempts", "compensations", "map_items", "acts", "end_channels")) + ") n(x)"  # fmt: skip
# What a session can say to have a virtual clock.
VIRTUAL = "select set_config('df_engine.virtual', %s, false)"
CLOCK_IS_REAL = "select abs(extract(epoch from df_engine.clock() - clock_timestamp())) < 10"
OWN_KEY = "select key from df_engine.own_key"
BEGIN_TEST = "select df_engine.begin_test((select key from df_engine.own_key), 'select 1', null, null)"
NEXT_IN_TEST = "select df_engine.next_in_test(%s, 1)"
# A step of a run that is no test's is claimed, and ended as if it were.
END_REAL_STEP_IN_TEST = """
select df_engine.end_step_in_test(k.key, c, (c).steps[1], null, null, null, null, null)
from df_engine.own_key k cross join lateral df_engine.claim_step(k.key, null, 0, false) c"""
# The keys with which steps wait in the lines of limits.
KEYS_IN_LINE = "select line_key from df_engine.queue where lane = 'limited sql' order by 1"
# Whether all that is queued is so by the real clock.
READY_SOON = """
select bool_and(df_engine.ready_at(id) < (extract(epoch from clock_timestamp()) - 1577836800 + 3600) * 64)
from df_engine.queue"""
# Whether the log that the server has written since a file of it holds some text.
LOG_HOLDS = """
select bool_or(position(convert_to(%s, 'UTF8') in pg_read_binary_file('pg_wal/' || w.name)) > 0)
from pg_ls_waldir() w where w.name >= %s"""
# Grants of limits, as if they had been given so much earlier.
AGE_GRANTS = "update df_engine.limit_grants set granted_at = granted_at - %s::interval"
# What is in the queue has been granted, until so much later, to a session.
GRANTED = "update df_engine.queue set granted_until = now() + %s::interval, granted_to = %s"
PAUSE_IS_OVER = "update df_engine.limits set paused_until = now() - interval '1 s'"
LOCK_GRANT = "select df_engine.lock_grant(l.limit_id, l.rate, l.per) from df_engine.limits l"
