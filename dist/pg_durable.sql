-- pg_durable 1.0.0 (built 2026-11-28 00:00:00 UTC): durable functions for PostgreSQL 14 to 18.
--
--   psql -v ON_ERROR_STOP=1 [-v operator_schema=S] [-v worker_role=W] -f pg_durable.sql
--
-- One transaction; no superuser needed; run again it upgrades in place. Generated: do not edit.
\set QUIET on
\if :{?operator_schema}
\else
\set operator_schema public
\endif
\if :{?worker_role}
\else
\set worker_role ''
\endif
begin;
select pg_catalog.set_config('pg_durable.operator_schema', :'operator_schema', true),
       pg_catalog.set_config('pg_durable.worker_role', :'worker_role', true) \g /dev/null
-- body

-- Prologue: refuses databases that pg_durable cannot live in, makes the two schemas, says which version is installed.
-- df is the public interface; df_engine is private: no USAGE for PUBLIC, and nothing in it is called by users directly.

set local client_min_messages = warning;
set local search_path = pg_catalog, pg_temp;
set local check_function_bodies = off;

do $check$
begin
  if current_setting('server_version_num')::int < 140000 then
    raise exception 'pg_durable needs PostgreSQL 14 or later, this is %', current_setting('server_version')
      using errcode = 'feature_not_supported';
  end if;
  if getdatabaseencoding() <> 'UTF8' then
    raise exception 'pg_durable needs a database with encoding UTF8, database "%" has %',
      current_database(), getdatabaseencoding()
      using errcode = 'object_not_in_prerequisite_state',
            hint = 'Create one with: CREATE DATABASE ... ENCODING ''UTF8'' TEMPLATE template0';
  end if;
  if to_regnamespace('df') is not null and to_regclass('df_engine.release') is null then
    raise exception 'schema "df" exists and is not pg_durable''s'
      using errcode = 'duplicate_schema', hint = 'Rename or drop schema "df", then install again.';
  end if;
end
$check$;

-- A schema that somebody else made before is no place for functions that act with the rights of who installs them.
do $owner$
declare
  v_schema text;
  v_owner text;
begin
  select n.nspname, pg_get_userbyid(n.nspowner) into v_schema, v_owner
  from pg_namespace n
  where n.nspname in ('df', 'df_engine') and n.nspowner <> quote_ident(current_user)::regrole;
  if found then
    raise exception 'schema "%" belongs to role "%", and this is "%"', v_schema, v_owner, current_user
      using errcode = 'insufficient_privilege',
            hint = 'If it is pg_durable''s, install as that role. If not, rename or drop it.';
  end if;
end
$owner$;

-- An installation that is newer than this script, or too old for it, stays as it is. Versions are compared number by number;
-- one with a suffix, such as 1.0.0-rc.2 or 1.0.0rc2, comes before the one without, and is ordered by word, then by number.
do $versions$
declare
  v_installed text;
  v_newer boolean;
  v_too_old boolean;
  v_removal text;
begin
  if to_regclass('df_engine.release') is null then
    return;
  end if;
  execute 'select version from df_engine.release' into v_installed;

  with compared as (
    select v.role,
           string_to_array(v.parts[1], '.')::numeric[]
             || array_fill(0::numeric, array[8 - cardinality(string_to_array(v.parts[1], '.'))])
             || case when v.parts[2] = '' then 100  -- a release: after all that has a suffix
                     else coalesce(array_position('{dev,a,alpha,b,beta,c,rc}'::text[], lower(v.parts[2])), 0) end
             || coalesce(nullif(v.parts[3], ''), '0')::numeric as key
    from (select r.role, regexp_match(r.version, '^(\d+(?:\.\d+){0,7})[-._]?([A-Za-z]*)[-._]?(\d*)') as parts
          from (values ('installed', v_installed), ('this', '1.0.0'), ('oldest', '1.0.0'))
            as r(role, version)) as v
  )
  select i.key > t.key, i.key is null or i.key < o.key into v_newer, v_too_old
  from compared i, compared t, compared o
  where i.role = 'installed' and t.role = 'this' and o.role = 'oldest';

  if v_newer then
    raise exception 'pg_durable % is installed here, which is newer than this installer of 1.0.0', v_installed
      using errcode = 'object_not_in_prerequisite_state',
            hint = format('Nothing has been changed. Take the installer of version %s or later.', v_installed);
  elsif v_too_old then
    select case when exists (select from pg_extension where extname = 'pg_durable') then 'DROP EXTENSION pg_durable CASCADE'
                else 'DROP SCHEMA df, df_engine CASCADE' end into v_removal;
    raise exception 'pg_durable % is installed here, which is too old: 1.0.0 upgrades from 1.0.0 on',
      v_installed
      using errcode = 'object_not_in_prerequisite_state',
            hint = format('Nothing has been changed. When its runs have ended, remove it, with their history, its variables '
                          'and its settings: %s; then install again.', v_removal);
  end if;
end
$versions$;

create schema if not exists df;
create schema if not exists df_engine;
comment on schema df is 'pg_durable: durable functions written as SQL; the public interface';
comment on schema df_engine is 'pg_durable: private state and functions of the engine';

create table if not exists df_engine.release (
  version text not null constraint release_pkey primary key,
  layout int not null,
  installed_at timestamptz not null default now()
);
comment on table df_engine.release is 'One row: the installed version, and the number of the last migration applied';

-- True for the one run of the installer that has to apply migration p_layout.
create or replace function df_engine.migrating(p_layout int) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if exists (select from df_engine.release where layout >= p_layout) then
    return false;
  end if;
  update df_engine.release set layout = p_layout;
  if not found then
    insert into df_engine.release(version, layout) values ('1.0.0', p_layout);
  end if;
  return true;
end
$$;

-- Another version's private routines make room for this one's, which may take and answer other things. Those that triggers,
-- views or constraints call stay, and are replaced as they are.
do $renewal$
declare
  v_routine regprocedure;
begin
  for v_routine in
    select p.oid from pg_proc p
    where p.pronamespace = 'df_engine'::regnamespace and p.proname <> 'migrating'
      and exists (select from df_engine.release where version <> '1.0.0')
      and not exists (select from pg_depend d
                      where d.refclassid = 'pg_proc'::regclass and d.refobjid = p.oid and d.deptype <> 'e')
  loop
    execute format('drop routine %s', v_routine);
  end loop;
end
$renewal$;

-- Tables: all state there is, in private tables without grants and with row security and no policy. What clients read are the
-- views of observe/public_views. A graph is compiled once; a run is one row of instances; what has happened to its nodes is appended to
-- outcomes; and each of its threads waits in exactly one place: queue (it can run), timers (until then), waits (for a signal),
-- or activations (for what is inside it).

-- The engine's clock. Inside of df.test it is virtual; the setting alone makes it so for nobody. It is put in where it is called. Tests
-- replace it to move time.
create or replace function df_engine.clock() returns timestamptz
language sql volatile as $$
  select case when pg_catalog.current_setting('df_engine.virtual', true) operator(pg_catalog.<>) '' then df_engine.virtual_clock()
              else pg_catalog.clock_timestamp() end
$$;

create sequence if not exists df_engine.queue_places;

-- The place in the queue of what becomes ready now: the time, 3 s earlier for each point of priority, in units of 1/64 s since 2020; a
-- number that makes it unique; p_rank. So one column orders the queue of a role, and nothing waits for what comes more than 600 s later.
-- p_rank: the priority, from 0 to 200. It stands in the text once: then the function is put in where it is called.
create or replace function df_engine.queue_place(p_rank int default 100) returns bigint
language sql volatile as $$
  select ((floor((date_part('epoch', df_engine.clock()) - 1577836800) * 64)::bigint + 19200) << 26)
    + ((nextval('df_engine.queue_places') & 262143) << 8) - p_rank * 12884901887
$$;

-- When what has a place became ready, in units of 1/64 s: roles take turns by that, whatever their priorities are.
create or replace function df_engine.ready_at(p_place bigint) returns bigint
language sql immutable as $$
  select (p_place >> 26) + 192 * (p_place & 255)
$$;

-- The same as a time.
-- Granted to users.
create or replace function df_engine.ready_time(p_place bigint) returns timestamptz
language sql immutable
return timestamptz 'epoch' + (1577836800 + ((p_place >> 26) + 192 * ((p_place & 255) - 100)) / 64.0) * interval '1 s';

do $migration$
begin
if df_engine.migrating(1) then

  -- One row a flow text and submitter. Looked up by hash, which is not unique: a start takes a row that it can see, else makes
  -- its own, and never waits for another transaction.
  create table df_engine.graphs (
    id bigint generated always as identity constraint graphs_pkey primary key,
    submitter oid not null,
    submitter_name name not null,      -- when the graph was compiled
    hash bytea not null,               -- sha256 of the text given to df.start
    entry int not null,                -- the node that a run enters first
    names text[] not null,             -- that its nodes bind
    envelope jsonb not null,
    placeholders boolean not null,     -- whether it may hold {name}: then df.start checks it, and gives the run its variables
    secrets text[],                    -- that its HTTP steps name, which df.start checks; NULL: none
    definitions text[],                -- that its CALLs name, which df.start checks; NULL: none
    has_undo boolean not null,
    used_at timestamptz not null default now()
  );
  create index graphs_hash_idx on df_engine.graphs (submitter, hash);       -- df.start
  create index graphs_used_idx on df_engine.graphs (used_at);               -- retention

  -- One narrow row a node, numbered from 1 in pre-order, so that a subtree is the range from node to last. Written once: all
  -- that does not depend on data is decided here.
  create table df_engine.graph_nodes (
    graph bigint not null,
    node int not null,
    last int not null,                 -- the last node below it
    parent int,
    map int,                           -- the innermost MAP whose body it is in
    place int not null,                -- among the children of parent: 0 condition, 1 left, 2 right, 3 and on extra nodes
    kind text not null,
    query text,
    result_name text,
    retry jsonb,
    -- what is to be run
    refs text[],                       -- names that its texts refer to; NULL: none. Of an UNDO: those that its compensation refers to
    vars boolean not null,             -- whether there is a { in them. Of an UNDO: whether they may be any names
    statement text,                    -- SQL that runs as it is: its kind, see df_engine.statement_kind; NULL: judged after rendering
    typed boolean not null,            -- whether somebody looks for a name that its value may get
    -- where it stands
    levels int not null,               -- scopes around it, itself included if it opens one, without the root scope
    opens boolean not null,            -- whether it is a LOOP with a scope of its own
    tops int[] not null,               -- top nodes of those scopes, from the outside in
    name_scopes int[] not null,        -- where a name is looked up, from the inside out: top nodes of branches, last 0 for the run, or minus the UNDO whose compensation it is in
    in_loop boolean not null,
    forever boolean not null,          -- a LOOP that nothing in it can end
    continues boolean not null,        -- a LOOP that goes on after a failure of its body
    -- what follows when it has completed
    after "char" not null,             -- n next is entered; v the same, and the value is kept; c next if it is true, else other;
                                       -- w the same for a LOOP, p for a WAIT_FOR; t end of an iteration; b end of a branch; u end of a compensation; e end of the run
    next int,
    other int,                         -- NULL: the loop ends; an IF without else: that IF
    binds text[],                      -- names under which somebody looks for its value
    undoes int[],                      -- UNDOs whose step ends with it, from the inside out; NULL: none
    closes int not null,               -- sequences and IFs that end with it
    plain boolean not null,            -- nothing but the next step of the same segment follows
    until int not null,                -- last node of its segment: a chain of plain steps and the step that ends it
    batch int not null,                -- last node of what a session takes at once of the segment
    decides boolean not null,          -- its completion may decide a RACE
    -- whom its failure or its BREAK concerns
    up int not null,                   -- the construct around it; 0: the run
    branch int not null,               -- of up in which it is
    catch int,                         -- CATCH between it and up that is told of its failure first
    drops int not null,                -- sequences and IFs between it and that CATCH, or up
    break_binds text[],                -- names under which somebody looks for the value of a BREAK that passes through
    -- of a construct
    inside int[],                      -- entries: of the branches, of the body, of then and else where an IF asks for rows
    valued int,                        -- LOOP: the node whose outcome is the value of the body, if that is known beforehand
    constraint graph_nodes_pkey primary key (graph, node)
  );

  -- A domain, because a CHECK constraint of a table is read anew by each statement that writes to it.
  create domain df_engine.run_status as text constraint run_status_chk check (value = any ('{pending,running,completed,failed,cancelled}'::text[]));

  create table df_engine.instances (
    instance bigint generated always as identity constraint instances_pkey primary key,
    id varchar(8) not null constraint instances_id_key unique,
    submitter oid not null,
    graph bigint not null,
    status df_engine.run_status not null default 'pending',
    generation int not null default 1,     -- of the root scope
    label text,
    database text,                         -- NULL: the home database
    vars jsonb,                            -- NULL: none, or no text of the graph has a placeholder
    input jsonb,                           -- what df.start was given for $input
    key text,                              -- with which it was started; start_keys says whether it has it still
    priority smallint,                     -- NULL: 0
    start_at timestamptz,                  -- when it may begin; NULL: at once
    definition text,                       -- name:version of the definition that it was started from
    traceparent text,                      -- of the trace that its HTTP steps belong to
    parent bigint,                         -- the run that has called it, and the node; NULL: df.start
    parent_node int,
    call bigint,                           -- the row of waits in which its parent waits for it, while it does; minus the schedule that waits for its end
    result int,                            -- the node whose value is the run's, once it has completed
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    finished_at timestamptz,
    error text,
    version text not null,
    run_key bigint not null,               -- random: part of the idempotency keys of its HTTP steps
    cancelled_in xid8,                     -- the transaction that cancelled: a step in it may still commit
    undo_as text,                          -- the status that it gets when its compensations have ended; NULL: they have not begun
    undo_error text,                       -- the same for error
    paused boolean,                        -- true: nothing of it begins; NULL: it is not paused
    notifies boolean                       -- true: its end is told to end_channels; NULL: to nobody
  ) with (fillfactor = 85);
  create index instances_status_created_idx on df_engine.instances (status, created_at desc, id);  -- a list by status
  create index instances_created_idx on df_engine.instances (created_at desc, id);                 -- a list of the newest
  create index instances_label_created_idx on df_engine.instances (label, created_at desc, id) where label is not null;
  create index instances_parent_idx on df_engine.instances (parent, parent_node) where parent is not null;  -- the children of a run
  create index instances_finished_idx on df_engine.instances (finished_at, id) where finished_at is not null;      -- counts
  create index instances_kept_idx on df_engine.instances (submitter, finished_at, instance) where finished_at is not null;  -- retention

  create index instances_definition_idx on df_engine.instances (submitter, definition)
    where definition is not null and finished_at is null;                                  -- live runs of a definition

  -- Flows that have a name, a row a version. A run keeps its own graph, so what becomes of these rows does not concern it.
  create table df_engine.flow_definitions (
    owner regrole not null,
    name text collate "C" not null,
    version int not null,
    graph text not null,               -- as it was given; its hash finds the compiled graph
    flow text not null,                -- the same in the text language
    comment text,
    created_at timestamptz not null default now(),
    created_by regrole not null,
    hidden_at timestamptz,             -- NULL: it can be used; else its row keeps the number of the next version
    hidden_by regrole,
    constraint flow_definitions_pkey primary key (owner, name, version)
  );

  -- What starts runs at the times of a cron expression. A worker puts a row into the queue when due_at has come (instance: minus the schedule, node 0), and a
  -- session of the owner does the rest: see engine/schedules.
  create table df_engine.schedules (
    schedule bigint generated always as identity constraint schedules_pkey primary key,
    owner regrole not null,
    name text collate "C" not null,
    cron text not null,
    timezone text,                     -- NULL: that of the setting
    graph text not null,               -- as it was given
    flow text not null,                -- the same in the text language
    input jsonb,
    overlap text not null,
    catch_up interval not null,
    jitter interval not null,
    paused boolean not null default false,
    next_at timestamptz not null,      -- the first time that has not been dealt with; it only ascends
    due_at timestamptz,                -- when a worker is to queue it, or to queue it again; NULL: it is paused, or its role is gone
    problem text,                      -- why nothing could be done the last time
    created_at timestamptz not null,
    changed_at timestamptz not null,
    constraint schedules_owner_name_key unique (owner, name)
  ) with (fillfactor = 70);
  create index schedules_due_idx on df_engine.schedules (due_at, schedule) where due_at is not null;  -- what is due, and what is next

  -- Each time of a schedule, and what has become of it. Of those that are dealt with the newest 1000 a schedule are kept.
  create table df_engine.schedule_ticks (
    schedule bigint not null,
    scheduled_for timestamptz not null,
    made_by text not null check (made_by in ('cron', 'trigger', 'backfill')),
    state text not null check (state in ('waiting', 'started', 'skipped', 'missed', 'failed')),
    instance bigint,
    live boolean not null default false,       -- whether that run may not have ended
    reason text,                       -- why no run was started
    handled_at timestamptz not null,
    constraint schedule_ticks_pkey primary key (schedule, scheduled_for)
  );
  create index schedule_ticks_live_idx on df_engine.schedule_ticks (schedule) where live;               -- whether an earlier run goes on
  create index schedule_ticks_waiting_idx on df_engine.schedule_ticks (schedule, scheduled_for) where state = 'waiting';
  create index schedule_ticks_handled_idx on df_engine.schedule_ticks (schedule, handled_at);           -- the last one, what is to be removed

  -- What happened to a node, one row for each that something has happened to. state: c completed, f failed, x failed so that no
  -- loop continues, h handled: what is on the right of a CATCH or TIMEOUT runs, b completed by a BREAK that goes on upwards, d completed and
  -- e failed in the transaction that cancelled the run, after which nothing around it ends, r a failed attempt after which there will be another, o a LOOP or MAP that was left open, s a CALL that was.
  create table df_engine.outcomes (
    instance bigint not null,
    scope bigint not null default 0,   -- the item of a MAP that it is in: see engine/maps; 0: none
    node int not null,
    generations int[],                 -- of the scopes around it, from the root's; NULL: {1}
    state "char" not null,
    attempts int not null default 1,
    events int not null default 2,     -- changes of its status, and of those that ended with it, in this generation of the root
    started_at timestamptz not null,
    ended_at timestamptz not null,     -- of a failed attempt: when the next one is due
    value json,
    columns text[],                    -- where no row of value shows them
    types text[],                      -- of the columns, where somebody looks for the value
    last_item bigint,                  -- of a MAP that had items: the scope of the last one that began; of a CALL that has not completed: the run that it has called
    error text,
    failure jsonb,                     -- of one that failed, what $error shows: {node, sqlstate, class, message, detail, hint}
    constraint outcomes_pkey primary key (instance, scope, node)
  ) with (fillfactor = 85);
  create index outcomes_failed_idx on df_engine.outcomes (ended_at) where state in ('f', 'x', 'e');       -- df.failed_steps

  -- Keys of starts, and the run that has each: while there is one, on_conflict of df.start says what another start with it does.
  create table df_engine.start_keys (
    submitter oid not null,
    key text collate "C" not null,
    instance bigint not null,
    constraint start_keys_pkey primary key (submitter, key)
  );
  create index start_keys_instance_idx on df_engine.start_keys (instance);  -- whether a run has its key; retention

  -- Where a thread of a run is: the columns that queue, timers, waits and activations have in common.
  create type df_engine.thread as (
    instance bigint, scope bigint, node int,
    generations int[],                 -- of the scopes around node, as in outcomes
    activation bigint,                 -- innermost open construct
    races bigint[]                     -- RACEs, ANYs and TIMEOUTs around it, from the outside in; NULL: none
  );

  -- What operators have done to runs, and to schedules, whose number is negative: who, when, why. The newest 100 of each are kept.
  create table df_engine.acts (
    instance bigint not null,
    id bigint generated always as identity,
    act text not null,
    acted_by name not null,            -- the role that acted, and that which had logged in
    logged_in_as name not null,
    reason text,
    acted_at timestamptz not null,
    constraint acts_pkey primary key (instance, id)
  );
  create index acts_pause_idx on df_engine.acts (instance, id) where act = 'pause';       -- runs that are paused

  -- Channels that are notified of the end of a run.
  create table df_engine.end_channels (
    instance bigint not null,
    channel text not null,
    constraint end_channels_pkey primary key (instance, channel)
  );

  -- Threads that can run now; the claim is the lock on the row.
  create table df_engine.queue (
    id bigint not null default df_engine.queue_place(),    -- its place among those of its lane and role
    lane text not null default 'sql',  -- sql: in a session of its submitter; direct, http: leased by a worker; paused ...: of a paused run, found by nobody
    submitter oid not null,
    instance bigint not null,
    scope bigint not null default 0,
    node int not null,
    generations int[],
    activation bigint,
    races bigint[],
    picked boolean not null default false,     -- false: the run has not begun, and is checked before it does
    wakes boolean not null default false,      -- whether workers are told of it: the first start of its role in a transaction
    offered boolean not null default false,    -- whether the session that made the transition to it was told its steps
    worker int,                        -- who holds the lease, and since when
    leased_at timestamptz,
    next_try_at timestamptz,           -- of a leased step: when it became ready, or later when its run was locked
    request jsonb,                     -- what a leased step is to do
    crash_score smallint not null default 0,   -- evidence that it kills what runs it
    constraint queue_pkey primary key (lane, submitter, id)
  ) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000,
          autovacuum_vacuum_cost_delay = 0);
  create index queue_instance_idx on df_engine.queue (instance);                      -- cancel, lost races, df.nodes
  create index queue_leased_idx on df_engine.queue (lane, submitter, id) where lane <> 'sql' and worker is null;  -- to be leased
  create index queue_worker_idx on df_engine.queue (lane, submitter) where worker is not null;     -- leases of a role

  -- Threads that wait for a time. kind: sleep and schedule end their node, timeout ends the wait of the same id, deadline the
  -- TIMEOUT or WAIT_FOR whose activation has the same id; start puts a run into the queue for the first time, retry, pace and check put a thread back. poke is no thread: a poke has come
  -- for a WAIT_FOR whose check may just be running; nor is child: the run for which the wait of the same id waits has ended; nor sweep: its run has been stopped with
  -- its caller, and what waits of it is to be removed. next_try_at: due_at, or later when the run was locked.
  create table df_engine.timers (
    id bigint not null constraint timers_pkey primary key,
    submitter oid not null,
    instance bigint not null,
    scope bigint not null default 0,
    node int not null,
    generations int[],
    activation bigint,
    races bigint[],
    kind text not null check (kind in ('sleep', 'schedule', 'timeout', 'deadline', 'retry', 'pace', 'check', 'poke', 'child', 'start', 'sweep')),
    since timestamptz not null,
    due_at timestamptz not null,
    next_try_at timestamptz not null,
    tries smallint not null default 0  -- that have failed for reasons of the run's own
  );
  create index timers_next_idx on df_engine.timers (submitter, next_try_at, id);      -- what is due of a role, and what is next
  create index timers_instance_idx on df_engine.timers (instance);

  -- Threads that wait for a signal, or, at a CALL, for the end of the run that it has started.
  create table df_engine.waits (
    id bigint not null constraint waits_pkey primary key,
    submitter oid not null,
    instance bigint not null,
    scope bigint not null default 0,
    node int not null,
    generations int[],
    activation bigint,
    races bigint[],
    signal_name text,
    child bigint,
    since timestamptz not null,
    constraint waits_for_chk check (num_nonnulls(signal_name, child) = 1)
  );
  create index waits_instance_idx on df_engine.waits (instance, signal_name);
  create index waits_submitter_idx on df_engine.waits (submitter);                      -- live runs of a role that has a limit

  -- Constructs that are open: threads that wait for what is inside. Inserted on entry, deleted at the end, never reused. One at node 0 is what all
  -- threads of a run with an UNDO race against, but for compensations: it is there until the run ends or is undone.
  create table df_engine.activations (
    id bigint not null constraint activations_pkey primary key,
    instance bigint not null,
    scope bigint not null default 0,
    node int not null,
    generations int[],
    activation bigint,
    races bigint[],
    open int,                          -- JOIN, ANY: branches that have not ended; MAP: threads
    body int,                          -- LOOP: the node with which the last iteration of the body ended, where it varies
    turned_at timestamptz,             -- LOOP: the beginning of this iteration, where somebody asks
    failures int not null default 0,   -- LOOP that continues on failure: iterations in a row that have failed; MAP: items
    error text,                        -- why the last one did
    key text,                          -- WAIT_FOR: on which df.poke wakes it
    poked boolean not null default false,      -- WAIT_FOR: while its check was running
    items int,                         -- MAP: how many there are
    stride int,                        -- MAP: how many a thread takes at a time
    next_item int,                     -- MAP: the first that no thread has taken
    todo int[],                        -- MAP that was resumed: earlier ones that no thread has taken yet; NULL: none
    done int,                          -- MAP: items that have ended, as far as threads have said
    halted boolean not null default false,     -- MAP: no item begins any more
    since timestamptz not null
  ) with (fillfactor = 50);
  create index activations_instance_idx on df_engine.activations (instance);
  create index activations_key_idx on df_engine.activations (hashtextextended(key, 0), id) where key is not null;  -- df.poke
  create sequence df_engine.thread_ids;  -- of timers, waits and activations

  -- The rows of the items of open MAPs, some of them together.
  create table df_engine.map_items (
    instance bigint not null,
    activation bigint not null,
    part int not null,
    items json[] not null,
    columns text[],
    types text[],
    constraint map_items_pkey primary key (instance, activation, part)
  );

  -- Pokes that no worker has seen yet, one row a transaction and key. Not logged: each time a worker starts, all keys are poked.
  create unlogged table df_engine.pokes (
    hash bigint not null,              -- of the key; 0: all keys
    sent_in xid8 not null,
    upto bigint not null default 0,    -- activations that have heard of it
    again xid8,                        -- of all keys: to be heard once more when all transactions before this one have ended
    constraint pokes_pkey primary key (hash, sent_in)
  );

  -- Every signal sent. fresh: no worker has seen it yet; then it is delivered, kept or undeliverable.
  create table df_engine.inbox (
    signal_id bigint generated always as identity constraint inbox_pkey primary key,
    instance bigint not null,
    submitter oid not null,            -- of the run
    signal_name text not null,
    signal_data jsonb not null,
    status text not null default 'pending' check (status in ('pending', 'delivered', 'undeliverable')),
    fresh boolean not null default true,
    reserved bigint[],                 -- waits that it is for; NULL: all of its name
    sent_by regrole not null,
    sent_at timestamptz not null default now(),
    sent_in xid8 not null default pg_current_xact_id(),    -- until it commits, waiting for what it brings is in vain
    next_try_at timestamptz not null default now(),
    tries smallint not null default 0,
    delivered_at timestamptz,
    delivered_to int[]                 -- nodes
  );
  create index inbox_fresh_idx on df_engine.inbox (submitter, next_try_at, signal_id) where fresh;   -- what a worker has to deliver
  create index inbox_instance_idx on df_engine.inbox (instance, signal_id);               -- the oldest kept one, df.signals

  -- What the step in each session has said last of its progress. Holds for the transaction xid, or for the lease of the row in the queue.
  create table df_engine.progress (
    pid int not null constraint progress_pkey primary key,
    xid xid8,                          -- NULL: a leased step is in none
    queue bigint not null,
    leased boolean not null,
    node int not null,
    done numeric not null,
    total numeric,
    note text,
    said_at timestamptz not null
  ) with (fillfactor = 50);

  -- UNDOs whose step has completed. state: r registered; o open, its compensation runs; c, f that has completed, failed. While it is open,
  -- what follows is at a CATCH, or in several branches at several, or it is the end of the run: that thread.
  create table df_engine.compensations (
    instance bigint not null,
    undo int not null,
    place bigint not null,             -- in the order of completion
    state "char" not null check (state in ('r', 'o', 'c', 'f')),
    named boolean not null,            -- whether what its names stand for has been kept for it; else no thread has gone on since
    node int,                          -- that CATCH; NULL: the run ends
    generations int[],
    activation bigint,
    races bigint[],
    constraint compensations_pkey primary key (instance, undo)
  );

  -- Named results. name_scope: top node of the branch in which they are bound, 0 for the run; of $error, the handler of its CATCH; minus an
  -- UNDO what its compensation refers to, as it was when the step had completed.
  create table df_engine.bindings (
    instance bigint not null,
    scope bigint not null default 0,
    name_scope int not null,
    name text not null,
    value json,
    columns text[],
    types text[],
    built_in boolean not null default false,   -- not the result of a node: $error
    constraint bindings_pkey primary key (instance, scope, name_scope, name)
  ) with (fillfactor = 70);

  -- Earlier iterations of root loops; the newest 10 000 a run are kept.
  create table df_engine.executions (
    instance bigint not null,
    generation int not null,
    events bigint not null,
    started_at timestamptz not null,
    finished_at timestamptz not null,
    error text,                        -- why the iteration failed, after which the loop has continued
    constraint executions_pkey primary key (instance, generation)
  );

  -- Failed attempts of what was tried again: what the outcome does not keep.
  create table df_engine.attempts (
    id bigint generated always as identity,
    instance bigint not null,
    scope bigint not null default 0,
    node int not null,
    generations int[],
    attempt int not null,
    failed_at timestamptz not null,
    sqlstate text,
    error text,
    kept boolean,                      -- true: of before the run was resumed; attempts that follow do not replace it
    constraint attempts_pkey primary key (instance, node, id)
  );

  create table df_engine.vars (
    name text not null,
    value text,
    owner regrole not null,
    constraint vars_pkey primary key (owner, name)
  );

  -- What roles keep to send and nobody reads. encrypted: by the client, with a key that only workers have.
  create table df_engine.kept_secrets (
    owner regrole not null,
    name text not null,
    value text not null,
    encrypted boolean not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint kept_secrets_pkey primary key (owner, name)
  );

  create table df_engine.settings (
    name text not null constraint settings_pkey primary key,
    value text not null,
    description text not null
  );

  create table df_engine.http_allowlist (
    pattern text not null constraint http_allowlist_pkey primary key,
    allow_private boolean not null default false,
    note text
  );
  insert into df_engine.http_allowlist (pattern, note)
  select pattern, 'seeded at installation'
  from unnest(array[
    'api.github.com', '.blob.core.windows.net', '.blob.storage.azure.net', '.queue.core.windows.net',
    '.table.core.windows.net', '.file.core.windows.net', '.azurewebsites.net', '.azure-api.net', '.documents.azure.com',
    '.servicebus.windows.net', '.openai.azure.com', '.cognitiveservices.azure.com', '.vault.azure.net',
    '.redis.cache.windows.net', '.database.windows.net', '.kusto.windows.net', '.azurefd.net', '.azureedge.net',
    '.azure-devices.net', '.trafficmanager.net', '.cloudapp.azure.com']) pattern;

  create table df_engine.workers (
    epoch_id uuid not null default gen_random_uuid() constraint workers_pkey primary key,
    worker int not null generated always as identity,
    role regrole not null,
    alive bigint not null default ('x' || left(replace(gen_random_uuid()::text, '-', ''), 16))::bit(64)::bigint,  -- the advisory lock that its session holds
    started_at timestamptz not null default now(),
    last_seen_at timestamptz not null default now(),
    idle_until timestamptz             -- NULL while it has no room; a transaction with earlier work notifies
  ) with (fillfactor = 50);

  -- Roles authorised with df.grant_worker.
  create table df_engine.worker_roles (
    role regrole not null constraint worker_roles_pkey primary key
  );

  -- Rows to lock while a start in transaction_mode 'new' is under way: as many as the setting allows are used.
  create table df_engine.launch_slots (
    slot int not null constraint launch_slots_pkey primary key
  );
  insert into df_engine.launch_slots select generate_series(1, 1000);
  -- How much of what all share a role may have at a time; NULL: no limit.
  create table df_engine.role_limits (
    role regrole not null constraint role_limits_pkey primary key,
    sessions int check (sessions >= 0),
    http int check (http >= 0),
    live_instances int check (live_instances >= 0)
  );

  -- Why no session runs the steps of a role now.
  create table df_engine.role_reasons (
    submitter oid not null constraint role_reasons_pkey primary key,
    reason text not null
  );

  -- When the last retention pass was begun.
  create table df_engine.upkeep (
    only_row boolean not null default true constraint upkeep_pkey primary key check (only_row),
    retained_at timestamptz not null default now()
  );
  insert into df_engine.upkeep default values;

  -- A df.test that is under way. No row of these two tables outlives the call, so none is ever seen by another transaction.
  create table df_engine.tests (
    xid xid8 not null constraint tests_pkey primary key,
    submitter oid not null,
    token text not null,               -- what the setting df_engine.virtual says while the engine acts for the test
    run bigint not null,               -- the instance that is tested; no column named so, for no run has rows here
    mocks jsonb not null,
    started_at timestamptz not null
  );
  -- What it has done, move by move, and its clock: the time of the newest. Rows are added only: those of its own transaction that it had
  -- replaced would have to be read again and again.
  create table df_engine.test_moves (
    xid xid8 not null,
    no int not null,
    at timestamptz not null,
    node text,
    query text,
    status text,                       -- NULL: nothing that df.test shows
    value json,
    error text,
    mock text,                         -- what was used of the mocks
    constraint test_moves_pkey primary key (xid, no)
  );

  -- One random text, from which the keys of roles are made, and another.
  create table df_engine.secret (
    only_row boolean primary key default true check (only_row),
    value text not null default left(replace(gen_random_uuid()::text || gen_random_uuid(), '-', ''), 44),  -- with a role's oid one block of sha256
    channel text not null default 'df_' || replace(gen_random_uuid()::text, '-', '')   -- on which idle workers are woken
  );
  insert into df_engine.secret default values;

  -- A step that a session is about to run, as its graph has it.
  create type df_engine.step as (
    node int, name text, text text, statement text, typed boolean, refs text[], vars boolean, name_scopes int[], after "char",
    binds text[], closes int, plain boolean, decides boolean,
    fresh boolean,                     -- whether the node can have no outcome yet
    block boolean                      -- whether text lists several statements
  );
  -- A row of the queue that a session has locked, and its version.
  create type df_engine.claim as (claimed df_engine.queue, version xid);
  -- What a session works on: the steps of a segment, in order. report: there is nothing, and why.
  create type df_engine.place as (
    report text, queue bigint, version xid, id text, graph bigint, thread df_engine.thread, steps df_engine.step[]
  );
  -- What a statement returned: its value; columns where no row shows them; types of the columns, where they are wanted.
  create type df_engine.result as (value json, columns text[], types text[]);
  -- How a node ended. state as in outcomes; NULL: it has not, it is to be entered.
  create type df_engine.ending as (
    state "char", value json, columns text[], types text[], error text, started_at timestamptz, failure jsonb, last_item bigint
  );

end if;
end
$migration$;

-- Row security without a policy: pg_read_all_data and pg_write_all_data see and write nothing here. Only what is missing: each of
-- these statements waits for the steps that run, and all else then waits for it.
do $security$
declare
  v_table regclass;
begin
  for v_table in
    select c.oid from pg_class c
    where c.relnamespace = 'df_engine'::regnamespace and c.relkind = 'r' and not c.relrowsecurity
  loop
    execute format('alter table %s enable row level security', v_table);
  end loop;
end
$security$;

-- Migrations: what the tables of schema/tables have gained since the first version that can be upgraded in place, each applied once,
-- in this order, with runs in flight: `do $migration$ begin if df_engine.migrating(2) then ... end if; end $migration$`.
-- schema/tables is for new installations and gets the same change; a test compares what the two ways lead to.

-- Access: who sees what, and how functions with the owner's rights know whom they act for.

-- The secret never changes, so plans keep it as a constant. Callable by the owner only, like all of df_engine.
create or replace function df_engine.secret() returns text
language plpgsql immutable set search_path = '' as $$
begin
  return (select s.value from df_engine.secret s);
end
$$;

-- A role's key is what only those who act as the role can read: a view sees its reader as current_user, and so sees through
-- functions with somebody else's rights.
-- Granted to users.
create or replace view df_engine.own_key with (security_barrier) as
  select encode(sha256((s.value || quote_ident(current_user)::regrole::oid::text)::pg_catalog.bytea), 'hex') as key from df_engine.secret s;

-- Whether a role may act on the runs of all roles, and change what concerns them: an administrator.
-- Granted to users.
create or replace function df_engine.may_act_on_all(p_role oid) returns boolean
language sql stable set search_path = '' as $$ select pg_catalog.has_function_privilege(p_role, 'df.set_setting(pg_catalog.text, pg_catalog.text)', 'execute') $$;

-- Whoever may execute it sees the runs of all roles: df.grant_monitor.
create or replace function df_engine.monitor() returns void language sql immutable as $$ select null::pg_catalog.void $$;

-- Whether a role sees the runs of all roles.
-- Granted to users.
create or replace function df_engine.may_see_all(p_role oid) returns boolean
language sql stable set search_path = '' as $$
  select df_engine.may_act_on_all(p_role) or pg_catalog.has_function_privilege(p_role, 'df_engine.monitor()', 'execute')
$$;

-- Raises unless p_key is the key of p_role: the caller acts as that role. No key is the key of nobody.
create or replace function df_engine.require_key(p_key text, p_role oid) returns void
language plpgsql stable as $$
begin
  if (p_key = encode(sha256((df_engine.secret() || p_role::pg_catalog.text)::pg_catalog.bytea), 'hex')) is not true then
    raise exception 'this function of df_engine is called by the functions of df only'
      using errcode = 'insufficient_privilege';
  end if;
end
$$;

-- Settings: rows of df.settings, read where they are used and never cached for longer than a statement. They are written by
-- df.set_setting only, so that whoever reads one may rely on its form.

insert into df_engine.settings (name, value, description) values
  ('enable_superuser_instances', 'off', 'whether superusers may submit instances'),
  ('list_instances_max_limit', '1000', 'largest limit_count of df.list_instances'),
  ('loop_min_interval', '1', 'least time between the starts of two iterations of a forever loop, in seconds'),
  ('timezone', 'UTC', 'time zone of schedules that name none'),
  ('max_user_connections', '10', 'SQL steps that one worker runs at the same time'),
  ('reserved_connections', '2', 'of max_user_connections: for roles of which nothing runs; two at least are for all'),
  ('max_http_requests', '510', 'HTTP requests that one worker makes at the same time'),
  ('reserved_http_requests', '10', 'of max_http_requests: for roles that have none under way at that worker'),
  ('worker_bytes_in_flight', '268435456', 'requests and results of steps outside of transactions that one worker holds in memory, in bytes'),
  ('max_transition_rows', '1000', 'branches that a worker opens in one transition, or called runs that it ends; what is more is left to a session of the role, or for later'),
  ('tick_timers', '50', 'timers and signals, of all roles together, that a worker fires in one transaction'),
  ('tick_time', '0.2', 'how long a worker fires timers, and removes old runs, before it asks again what is ready, in seconds'),
  ('max_new_transaction_starts', '2', 'starts in transaction_mode ''new'' that may be under way at the same time'),
  ('new_transaction_start_timeout', '5', 'how long a start in transaction_mode ''new'' waits for a slot, in seconds'),
  ('loopback_dsn', '', 'how transaction_mode ''new'' reaches this server: host, port and means to authenticate'),
  ('retention_days', '30', 'age in days at which a finished instance is removed'),
  ('retention_max', '10000', 'number of finished instances of a role that are kept'),
  ('reconcile_interval', '3600', 'seconds between two retention passes; 0 is off'),
  ('retry_max_attempts', '5', 'attempts of a step that fails with a transient error'),
  ('retry_initial_delay', '1', 'largest delay before the second attempt, in seconds'),
  ('retry_backoff', '2', 'factor by which the delay grows with each attempt'),
  ('retry_max_delay', '60', 'largest delay between two attempts, in seconds'),
  ('max_result_bytes', '16777216', 'largest JSON text of one result, in bytes'),
  ('max_flow_bytes', '1048576', 'largest text of a flow, and of a step in it, in bytes'),
  ('commit_policy', 'strict', 'strict: every step is a transaction that waits for the disk; relaxed: short steps share one, and a run waits at its end and where the outside could notice'),
  ('http_mode', 'allowlist', 'outbound HTTP: off, allowlist or any'),
  ('http_max_timeout', '300', 'largest timeout_seconds of an HTTP step'),
  ('http_max_request_bytes', '10485760', 'largest HTTP request body, in bytes'),
  ('http_max_response_bytes', '10485760', 'largest HTTP response body, in bytes'),
  ('http_retry_after_max', '86400', 'longest Retry-After that is honoured, in seconds'),
  ('secrets_encrypted', 'off', 'whether secrets must be encrypted by the client: df.set_secret then refuses plain text')
on conflict (name) do update set description = excluded.description
  where settings.description is distinct from excluded.description;

-- The value as text; NULL for loopback_dsn, which this function's callers have no business to know.
-- Granted to users.
create or replace function df_engine.setting(p_name text) returns text
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
  return (select s.value from df_engine.settings s where s.name = p_name and s.name <> 'loopback_dsn');
end
$$;

-- Seconds of a duration: a number, or an interval text.
-- Granted to users.
create or replace function df_engine.seconds(p_value text) returns numeric
language plpgsql stable set search_path = '' as $$
begin
  return case when p_value ~ '^\s*[+-]?[0-9.]+\s*$' then p_value::pg_catalog.numeric
              else extract(epoch from p_value::pg_catalog.interval) end;
end
$$;

-- The value of an integer or a number; of a duration, in seconds.
-- Granted to users.
create or replace function df_engine.setting_number(p_name text) returns numeric
language plpgsql stable set search_path = '' as $$
begin
  return df_engine.seconds(df_engine.setting(p_name));
end
$$;

-- Granted to users.
create or replace function df_engine.setting_on(p_name text) returns boolean
language plpgsql stable set search_path = '' as $$
begin
  return df_engine.setting(p_name)::pg_catalog.bool;
end
$$;

-- What each setting accepts.
create or replace view df_engine.setting_rules as
select name, default_value, kind, low, high, choices
from (values
  ('enable_superuser_instances', 'off', 'boolean', 0::numeric, 0::numeric, array[]::text[]),
  ('list_instances_max_limit', '1000', 'integer', 1::numeric, 1000000::numeric, array[]::text[]),
  ('loop_min_interval', '1', 'duration', 0::numeric, 3600::numeric, array[]::text[]),
  ('timezone', 'UTC', 'zone', 0::numeric, 0::numeric, array[]::text[]),
  ('max_user_connections', '10', 'integer', 1::numeric, 1000::numeric, array[]::text[]),
  ('reserved_connections', '2', 'integer', 0::numeric, 1000::numeric, array[]::text[]),
  ('max_http_requests', '510', 'integer', 1::numeric, 10000::numeric, array[]::text[]),
  ('reserved_http_requests', '10', 'integer', 0::numeric, 10000::numeric, array[]::text[]),
  ('worker_bytes_in_flight', '268435456', 'integer', 1048576::numeric, 1099511627776::numeric, array[]::text[]),
  ('max_transition_rows', '1000', 'integer', 1::numeric, 1000000::numeric, array[]::text[]),
  ('tick_timers', '50', 'integer', 1::numeric, 10000::numeric, array[]::text[]),
  ('tick_time', '0.2', 'duration', 0::numeric, 10::numeric, array[]::text[]),
  ('max_new_transaction_starts', '2', 'integer', 1::numeric, 1000::numeric, array[]::text[]),
  ('new_transaction_start_timeout', '5', 'duration', 1::numeric, 3600::numeric, array[]::text[]),
  ('loopback_dsn', '', 'conninfo', 0::numeric, 0::numeric, array[]::text[]),
  ('retention_days', '30', 'integer', 0::numeric, 36500::numeric, array[]::text[]),
  ('retention_max', '10000', 'integer', 1::numeric, 10000000::numeric, array[]::text[]),
  ('reconcile_interval', '3600', 'duration', 0::numeric, 86400::numeric, array[]::text[]),
  ('retry_max_attempts', '5', 'integer', 1::numeric, 1000::numeric, array[]::text[]),
  ('retry_initial_delay', '1', 'duration', 0::numeric, 86400::numeric, array[]::text[]),
  ('retry_backoff', '2', 'number', 1::numeric, 100::numeric, array[]::text[]),
  ('retry_max_delay', '60', 'duration', 0::numeric, 86400::numeric, array[]::text[]),
  ('max_result_bytes', '16777216', 'integer', 1024::numeric, 268435456::numeric, array[]::text[]),
  ('max_flow_bytes', '1048576', 'integer', 1024::numeric, 104857600::numeric, array[]::text[]),
  ('commit_policy', 'strict', 'choice', 0::numeric, 0::numeric, array['strict', 'relaxed']::text[]),
  ('http_mode', 'allowlist', 'choice', 0::numeric, 0::numeric, array['off', 'allowlist', 'any']::text[]),
  ('http_max_timeout', '300', 'duration', 1::numeric, 86400::numeric, array[]::text[]),
  ('http_max_request_bytes', '10485760', 'integer', 0::numeric, 104857600::numeric, array[]::text[]),
  ('http_max_response_bytes', '10485760', 'integer', 0::numeric, 104857600::numeric, array[]::text[]),
  ('http_retry_after_max', '86400', 'duration', 0::numeric, 604800::numeric, array[]::text[]),
  ('secrets_encrypted', 'off', 'boolean', 0::numeric, 0::numeric, array[]::text[])
) as r(name, default_value, kind, low, high, choices);

-- Why a connection string cannot be loopback_dsn; NULL: it can. pg_durable appends user and database, so that neither may
-- be given and nothing may swallow what follows.
create or replace function df_engine.conninfo_problem(p_value text) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $function$
  select case
    when p_value !~ $re$^\s*(\w+\s*=\s*('([^'\\]|\\.)*'|[^\s'\\]+)(\s+|$))*$$re$ then
      'is not of the form "host=... port=..." (key = value, values with blanks in single quotes)'
    when p_value ~* '(^|\s)(user|dbname|service|replication|options)\s*=' then
      'must not name user, dbname, service, replication or options'
    end
$function$;

-- Why a value does not suit a rule; NULL: it does. Texts that PostgreSQL cannot read raise its own errors.
create or replace function df_engine.setting_problem(p_rule df_engine.setting_rules, p_value text) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  case p_rule.kind
    when 'boolean' then
      perform p_value::boolean;
    when 'zone' then
      if not exists (select from pg_timezone_names z where lower(z.name) = lower(p_value)) then
        return 'is not the name of a time zone';
      end if;
    when 'choice' then
      if not p_value = any (p_rule.choices) then
        return 'is none of ' || array_to_string(p_rule.choices, ', ');
      end if;
    when 'conninfo' then
      return df_engine.conninfo_problem(p_value);
    else
      if p_rule.kind = 'integer' and p_value !~ '^\s*[+-]?[0-9]+\s*$' then
        return 'is not an integer';
      elsif not coalesce(case p_rule.kind when 'duration' then df_engine.seconds(p_value) else p_value::numeric end
                         between p_rule.low and p_rule.high, false) then
        return format('is not between %s and %s%s', p_rule.low, p_rule.high,
                      case p_rule.kind when 'duration' then ' seconds' end);
      end if;
  end case;
  return null;
exception when data_exception then
  return format('is not a valid %s', p_rule.kind);
end
$$;

create or replace function df.set_setting(name text, value text) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_rule df_engine.setting_rules;
  v_value text;
  v_problem text;
begin
  if set_setting.name is null then
    raise exception 'df.set_setting: name must not be NULL' using errcode = 'null_value_not_allowed';
  end if;
  select * into v_rule from df_engine.setting_rules r where r.name = set_setting.name;
  if not found then
    raise exception 'unknown setting "%"', set_setting.name
      using errcode = 'invalid_parameter_value', hint = 'df.settings lists all settings.';
  end if;
  v_value := coalesce(set_setting.value, v_rule.default_value);
  v_problem := df_engine.setting_problem(v_rule, v_value);
  if v_problem is not null then
    raise exception 'setting "%": % %', v_rule.name,
      case when v_rule.name = 'loopback_dsn' then 'the value' else quote_literal(v_value) end, v_problem
      using errcode = 'invalid_parameter_value';
  end if;
  update df_engine.settings s set value = v_value where s.name = v_rule.name;
  return 'OK';
end
$$;
comment on function df.set_setting(text, text) is
  'Validates and stores a setting; NULL restores its default. Durations are seconds or interval texts. Returns OK; raises '
  'for an unknown name or a bad value, naming the setting. For administrators';
revoke execute on function df.set_setting(text, text) from public;

-- Whether the function that asks was called straight from a statement, by a role that may administrate. Inside a definer
-- function PostgreSQL does not tell who called; called from a further function, it could be anybody.
create or replace function df_engine.asked_by_administrator(p_stack text) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select p_stack !~ '\n'
     and df_engine.may_act_on_all(quote_ident(coalesce(nullif(current_setting('role'), 'none'), session_user))::regrole)
$$;

create or replace function df.setting(name text) returns text
language plpgsql stable strict security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_value text;
  v_stack text;
begin
  select s.value into v_value from df_engine.settings s where s.name = setting.name;
  if not found then
    raise exception 'unknown setting "%"', setting.name
      using errcode = 'invalid_parameter_value', hint = 'df.settings lists all settings.';
  elsif setting.name = 'loopback_dsn' then
    get diagnostics v_stack = pg_context;
    return case when df_engine.asked_by_administrator(v_stack) then v_value end;
  end if;
  return v_value;
end
$$;
comment on function df.setting(text) is
  'The effective value of a setting, as text; raises for an unknown name. loopback_dsn is NULL for all but administrators';

-- Secrets: values that a role keeps and nobody reads. A flow holds {secret:name}; the worker that sends a request asks for the
-- value then, and puts it in. What counts is the flow's own text: before references and variables are inserted each place
-- gets a mark that nobody can guess, and only a place with that mark is replaced.

create or replace function df.secret(name text) returns text
language plpgsql immutable set search_path = '' as $$
begin
  if name is null then
    raise exception 'argument name of df.secret is NULL' using errcode = 'null_value_not_allowed';
  elsif name !~ '^[A-Za-z_][A-Za-z0-9_.-]{0,62}$' then
    raise exception 'df.secret: invalid name "%"', name using errcode = 'invalid_parameter_value',
      hint = 'A name is a letter or _, then up to 62 letters, digits, _, . or -.';
  end if;
  return '{secret:' || name || '}';
end
$$;
comment on function df.secret(text) is
  'Where a secret goes in header values, path and query of the URL, body and data_b64 of HTTP steps: {secret:name}, which may be written as it is. The worker puts the value in when it sends the request. Raises on a bad name';

-- The names in a text, once each.
create or replace function df_engine.secret_names(p_text text) returns text[]
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select array(select distinct m.part[1] from regexp_matches(p_text, '[{]secret:([A-Za-z_][A-Za-z0-9_.-]{0,62})[}]', 'g') m(part) order by 1)
$$;

-- Where in the config of an HTTP node a secret stands that cannot; NULL: nowhere.
-- Granted to users.
create or replace function df_engine.secret_problem(p_config jsonb) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select case
    when p_config ->> 'url' ~* '^[a-z]+://[^/?#]*[{]secret:([A-Za-z_][A-Za-z0-9_.-]{0,62})[}]' then
      'url: a secret can stand in the path and the query, not in the host or before it; credentials go into a header'
    else (
      select format('parts: part %s: ', p.n) || case f.key
        when 'data_b64' then 'a secret must be all of data_b64, which is then its value'
        else format('%s cannot hold a secret', f.key) end
      from jsonb_array_elements(case when jsonb_typeof(p_config -> 'parts') = 'array' then p_config -> 'parts' end) with ordinality p(part, n)
      cross join unnest(array['name', 'filename', 'content_type', 'data_b64']) f(key)
      where p.part ->> f.key ~ '[{]secret:([A-Za-z_][A-Za-z0-9_.-]{0,62})[}]' and (f.key <> 'data_b64' or p.part ->> f.key !~ '^[{]secret:([A-Za-z_][A-Za-z0-9_.-]{0,62})[}]$')
      order by p.n limit 1) end
$$;

-- A config with a mark at each secret, and under keys of its own the mark and the names. They are what the worker goes by, so
-- that a config that somebody has written with these keys loses them.
create or replace function df_engine.mark_secrets(p_config jsonb) returns jsonb
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_config constant jsonb := p_config - '{mark,secrets}'::text[];
  v_names constant text[] := df_engine.secret_names(v_config::text);
  v_mark constant text := replace(gen_random_uuid()::text, '-', '');
begin
  if v_names = '{}' then
    return v_config;
  end if;
  return regexp_replace(v_config::text, '[{]secret:([A-Za-z_][A-Za-z0-9_.-]{0,62})[}]', '{secret:\1:' || v_mark || '}', 'g')::jsonb
    || jsonb_build_object('mark', v_mark, 'secrets', v_names);
end
$$;

-- Whether a text is a marked secret and nothing else.
create or replace function df_engine.is_secret(p_text text) returns boolean
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select coalesce(p_text ~ '^[{]secret:[A-Za-z_][A-Za-z0-9_.-]{0,62}:[0-9a-f]{32}[}]$', false)
$$;

-- The first of these secrets that a role has not.
create or replace function df_engine.missing_secret(p_role oid, p_names text[]) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select n.name from unnest(p_names) n(name)
  where not exists (select from df_engine.kept_secrets s where s.owner = p_role::regrole and s.name = n.name)
  order by n.name limit 1
$$;

-- Raises when a role lacks a secret of a flow that it starts.
create or replace function df_engine.check_secrets(p_role oid, p_names text[]) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_missing constant text := df_engine.missing_secret(p_role, p_names);
begin
  if v_missing is not null then
    raise exception 'role % has no secret "%"', p_role::regrole, v_missing
      using errcode = 'undefined_object', hint = format('Set it before the run starts: pg-durable secret set %s', v_missing);
  end if;
end
$$;

-- Sets a secret of p_role, or removes it if the value is NULL. p_encrypted: the client has encrypted it.
-- Granted to users.
create or replace function df_engine.change_secret(p_key text, p_role oid, p_name text, p_value text, p_encrypted boolean) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform df_engine.require_key(p_key, p_role);
  if p_value is null then
    delete from df_engine.kept_secrets s where s.owner = p_role::regrole and s.name = p_name;
    return;
  elsif not p_encrypted and df_engine.setting_on('secrets_encrypted') then
    raise exception 'df.set_secret: secrets_encrypted is on, and this value is plain text'
      using errcode = 'object_not_in_prerequisite_state',
            hint = format('Let the client encrypt it: pg-durable secret set %s --secret-key-file FILE', p_name);
  end if;
  insert into df_engine.kept_secrets as s (owner, name, value, encrypted) values (p_role::regrole, p_name, p_value, p_encrypted)
  on conflict on constraint kept_secrets_pkey
    do update set value = excluded.value, encrypted = excluded.encrypted, updated_at = now();
end
$$;

create or replace function df.set_secret(name text, value text, encrypted boolean default false) returns text
language plpgsql set search_path = '' as $$
begin
  if not (pg_catalog.has_schema_privilege('df_engine', 'usage')
          and pg_catalog.has_table_privilege('df_engine.own_key', 'select')) then
    raise exception 'permission denied: role "%" may not use pg_durable', current_user
      using errcode = 'insufficient_privilege',
            hint = pg_catalog.format('An administrator grants it: SELECT df.grant_usage(%L);', current_user);
  end if;
  if name is null or value is null or encrypted is null then
    raise exception 'argument % of df.set_secret is NULL',
      case when name is null then 'name' when value is null then 'value' else 'encrypted' end
      using errcode = 'null_value_not_allowed', hint = 'df.unset_secret removes a secret.';
  end if;
  perform df_engine.reject_in_workflow('set_secret');
  perform df.secret(name);
  if value = '' or pg_catalog.octet_length(value) > 65536 then
    raise exception 'df.set_secret: a value has from 1 to 65536 bytes, and this one has %', pg_catalog.octet_length(value)
      using errcode = 'invalid_parameter_value';
  elsif encrypted and value !~ '^aes256gcm:[0-9a-f]{8}:[A-Za-z0-9+/]{38,}={0,2}$' then
    raise exception 'df.set_secret: this is not what pg-durable secret set makes of a value'
      using errcode = 'invalid_parameter_value';
  end if;
  perform df_engine.change_secret((select k.key from df_engine.own_key k), pg_catalog.quote_ident(current_user)::pg_catalog.regrole,
                                  name, value, encrypted);
  perform df_engine.note_helper('set_secret', 'OK');
  return 'OK';
end
$$;
comment on function df.set_secret(text, text, boolean) is
  'Keeps a secret of the current user, which nobody can read again; HTTP steps use it by df.secret(name). This statement shows the value to the server''s log: prefer pg-durable secret set. encrypted: the value is what that command has made of it. Returns OK; raises for plain text when secrets_encrypted is on';

create or replace function df.unset_secret(name text) returns text
language plpgsql strict set search_path = '' as $$
begin
  if not (pg_catalog.has_schema_privilege('df_engine', 'usage')
          and pg_catalog.has_table_privilege('df_engine.own_key', 'select')) then
    raise exception 'permission denied: role "%" may not use pg_durable', current_user
      using errcode = 'insufficient_privilege',
            hint = pg_catalog.format('An administrator grants it: SELECT df.grant_usage(%L);', current_user);
  end if;
  perform df_engine.reject_in_workflow('unset_secret');
  perform df_engine.change_secret((select k.key from df_engine.own_key k), pg_catalog.quote_ident(current_user)::pg_catalog.regrole,
                                  name, null, false);
  perform df_engine.note_helper('unset_secret', 'OK');
  return 'OK';
end
$$;
comment on function df.unset_secret(text) is 'Removes a secret of the current user; returns OK, also if there was none';

-- What the worker puts into a request: the secrets of a step that it holds the lease of, and no others. NULL: it holds none, or the
-- secrets are gone. Volatile, so that it sees a lease that its own statement has taken.
-- Granted to workers.
create or replace function df_engine.leased_secrets(p_worker int, p_ticket bigint) returns json
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
begin
  return (
    select json_agg(json_build_object('name', s.name, 'value', s.value, 'encrypted', s.encrypted))
    from df_engine.queue q
    join df_engine.workers w on w.worker = q.worker and w.role = quote_ident(session_user)::regrole
    cross join lateral jsonb_array_elements_text(q.request -> 'secrets') n(name)
    join df_engine.kept_secrets s on s.owner = q.submitter::regrole and s.name = n.name
    where q.id = p_ticket and q.worker = p_worker and q.lane = 'http');
end
$$;

-- Cron: five fields by the rules of Vixie's cron, read in a time zone. Used when a schedule is built and when its node
-- starts. cron_problem and cron_next are what others call; they run as the owner so that the parts need no grants.

do $type$
begin
  if to_regtype('df_engine.cron_plan') is null then
    create type df_engine.cron_plan as (
      minutes int[], hours int[], days int[], months int[], weekdays int[],
      either_day boolean,  -- both day fields are restricted: a day matches when one of them does
      by_clock boolean     -- the hour field begins with *: follow the local clock through changes of it
    );
  end if;
end
$type$;

create or replace function df_engine.cron_plan(p_fields text[]) returns df_engine.cron_plan
language sql immutable as $$
  select
    array_agg(distinct v) filter (where i.field = 1),
    array_agg(distinct v) filter (where i.field = 2),
    array_agg(distinct v) filter (where i.field = 3),
    array_agg(distinct v) filter (where i.field = 4),
    array_agg(distinct v % 7) filter (where i.field = 5),
    p_fields[3] !~ '^[*?]' and p_fields[5] !~ '^[*?]',
    p_fields[2] like '*%'
  from (select g.field, r.first_value, r.last_value, r.step, case
      when p.part is null
        then format('%s: "%s" is not *, a value, a range or one of them with a step; values go from %s to %s%s',
          g.name, i.item, g.low, g.high, ' or ' || g.names[1] || ' to ' || g.names[cardinality(g.names)])
      when r.first_value > r.last_value then format('%s: the range "%s" descends', g.name, i.item)
      when r.step > g.high then format('%s: the step of "%s" is above %s', g.name, i.item, g.high)
    end as problem
  from (values
    (1, 'minute', 0, 59, array[]::pg_catalog.text[],
      E'^(?:(\\*)|(0*[1-5]?[0-9])(?:-(0*[1-5]?[0-9]))?)(?:/(0*[1-9][0-9]?))?$'),
    (2, 'hour', 0, 23, array[]::pg_catalog.text[],
      E'^(?:(\\*)|(0*(?:1?[0-9]|2[0-3]))(?:-(0*(?:1?[0-9]|2[0-3])))?)(?:/(0*[1-9][0-9]?))?$'),
    (3, 'day of month', 1, 31, array[]::pg_catalog.text[],
      E'^(?:(\\*|\\?)|(0*(?:[1-9]|[12][0-9]|3[01]))(?:-(0*(?:[1-9]|[12][0-9]|3[01])))?)(?:/(0*[1-9][0-9]?))?$|^L$'),
    (4, 'month', 1, 12, array['JAN', 'FEB', 'MAR', 'APR', 'MAY', 'JUN', 'JUL', 'AUG', 'SEP', 'OCT', 'NOV', 'DEC']::pg_catalog.text[],
      E'^(?:(\\*)|((?:0*(?:[1-9]|1[0-2])|JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC))(?:-((?:0*(?:[1-9]|1[0-2])|JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC)))?)(?:/(0*[1-9][0-9]?))?$'),
    (5, 'day of week', 0, 7, array['SUN', 'MON', 'TUE', 'WED', 'THU', 'FRI', 'SAT']::pg_catalog.text[],
      E'^(?:(\\*|\\?)|((?:0*[0-7]|SUN|MON|TUE|WED|THU|FRI|SAT))(?:-((?:0*[0-7]|SUN|MON|TUE|WED|THU|FRI|SAT)))?)(?:/(0*[1-9][0-9]?))?$')
  ) g(field, name, low, high, names, item)
  cross join lateral regexp_split_to_table((p_fields)[g.field], ',') with ordinality i(item, ord)
  left join lateral regexp_match(i.item, g.item) p(part) on true
  cross join lateral (select case when i.item = 'L' then 32 end) l(last_day)
  cross join lateral (select
      coalesce(l.last_day, case
        when false and p.part[2] = 'SUN' then 7
        when p.part[2] ~ '^[A-Z]' then array_position(g.names, p.part[2]) - 1 + g.low
        else p.part[2]::int
      end, g.low),
      case when l.last_day is not null then l.last_day
        when p.part[2] is null or p.part[3] is null and p.part[4] is not null then g.high
        else case
          when p.part[3] is not null and coalesce(p.part[3], p.part[2]) = 'SUN' then 7
          when coalesce(p.part[3], p.part[2]) ~ '^[A-Z]' then array_position(g.names, coalesce(p.part[3], p.part[2])) - 1 + g.low
          else coalesce(p.part[3], p.part[2])::int
        end end,
      coalesce(p.part[4]::int, 1)
    ) r(first_value, last_value, step)
  order by g.field, i.ord) i
  cross join lateral generate_series(i.first_value, i.last_value, i.step) v
$$;

-- NULL when the line is a schedule that will come due, else the reason why it is not.
create or replace function df_engine.cron_problem(p_expr text) returns text
language plpgsql immutable strict security definer set search_path = pg_catalog, pg_temp set jit = off as $$
declare
  v_fields text[] := (
    select regexp_split_to_array(
      case v_line
        when '@HOURLY' then '0 * * * *'
        when '@DAILY' then '0 0 * * *'
        when '@MIDNIGHT' then '0 0 * * *'
        when '@WEEKLY' then '0 0 * * 0'
        when '@MONTHLY' then '0 0 1 * *'
        when '@YEARLY' then '0 0 1 1 *'
        when '@ANNUALLY' then '0 0 1 1 *'
        else v_line
      end, '[[:space:]]+')
    from upper(btrim(p_expr, E' \t\n\r') collate "C") v_line);
begin
  return case when cardinality(v_fields) <> 5 then
    'expected five fields or one of @hourly, @daily, @midnight, @weekly, @monthly, @yearly, @annually'
  else (
    select coalesce(
      (array_agg(i.problem) filter (where i.problem is not null))[1],
      case when ((v_fields)[3] ~ '^[*?]' or (v_fields)[5] ~ '^[*?]')
                and min(i.first_value % 32) filter (where i.field = 3) > max(m.days) then
        'no month in it has such a day, so it never comes due' end)
    from (select g.field, r.first_value, r.last_value, r.step, case
        when p.part is null
          then format('%s: "%s" is not *, a value, a range or one of them with a step; values go from %s to %s%s',
            g.name, i.item, g.low, g.high, ' or ' || g.names[1] || ' to ' || g.names[cardinality(g.names)])
        when r.first_value > r.last_value then format('%s: the range "%s" descends', g.name, i.item)
        when r.step > g.high then format('%s: the step of "%s" is above %s', g.name, i.item, g.high)
      end as problem
    from (values
      (1, 'minute', 0, 59, array[]::pg_catalog.text[],
        E'^(?:(\\*)|(0*[1-5]?[0-9])(?:-(0*[1-5]?[0-9]))?)(?:/(0*[1-9][0-9]?))?$'),
      (2, 'hour', 0, 23, array[]::pg_catalog.text[],
        E'^(?:(\\*)|(0*(?:1?[0-9]|2[0-3]))(?:-(0*(?:1?[0-9]|2[0-3])))?)(?:/(0*[1-9][0-9]?))?$'),
      (3, 'day of month', 1, 31, array[]::pg_catalog.text[],
        E'^(?:(\\*|\\?)|(0*(?:[1-9]|[12][0-9]|3[01]))(?:-(0*(?:[1-9]|[12][0-9]|3[01])))?)(?:/(0*[1-9][0-9]?))?$|^L$'),
      (4, 'month', 1, 12, array['JAN', 'FEB', 'MAR', 'APR', 'MAY', 'JUN', 'JUL', 'AUG', 'SEP', 'OCT', 'NOV', 'DEC']::pg_catalog.text[],
        E'^(?:(\\*)|((?:0*(?:[1-9]|1[0-2])|JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC))(?:-((?:0*(?:[1-9]|1[0-2])|JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC)))?)(?:/(0*[1-9][0-9]?))?$'),
      (5, 'day of week', 0, 7, array['SUN', 'MON', 'TUE', 'WED', 'THU', 'FRI', 'SAT']::pg_catalog.text[],
        E'^(?:(\\*|\\?)|((?:0*[0-7]|SUN|MON|TUE|WED|THU|FRI|SAT))(?:-((?:0*[0-7]|SUN|MON|TUE|WED|THU|FRI|SAT)))?)(?:/(0*[1-9][0-9]?))?$')
    ) g(field, name, low, high, names, item)
    cross join lateral regexp_split_to_table((v_fields)[g.field], ',') with ordinality i(item, ord)
    left join lateral regexp_match(i.item, g.item) p(part) on true
    cross join lateral (select case when i.item = 'L' then 32 end) l(last_day)
    cross join lateral (select
        coalesce(l.last_day, case
          when false and p.part[2] = 'SUN' then 7
          when p.part[2] ~ '^[A-Z]' then array_position(g.names, p.part[2]) - 1 + g.low
          else p.part[2]::int
        end, g.low),
        case when l.last_day is not null then l.last_day
          when p.part[2] is null or p.part[3] is null and p.part[4] is not null then g.high
          else case
            when p.part[3] is not null and coalesce(p.part[3], p.part[2]) = 'SUN' then 7
            when coalesce(p.part[3], p.part[2]) ~ '^[A-Z]' then array_position(g.names, coalesce(p.part[3], p.part[2])) - 1 + g.low
            else coalesce(p.part[3], p.part[2])::int
          end end,
        coalesce(p.part[4]::int, 1)
      ) r(first_value, last_value, step)
    order by g.field, i.ord) i
    left join lateral (
      select max((array[31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])[v.month])
      from generate_series(i.first_value, i.last_value, i.step) v(month)
      where i.field = 4) m(days) on true)
  end;
end
$$;

create or replace function df_engine.cron_day_matches(p_plan df_engine.cron_plan, p_day date) returns boolean
language sql immutable as $$
  select extract(month from p_day)::int = any (p_plan.months) and case
    when p_plan.either_day then m.matches or extract(dow from p_day)::int = any (p_plan.weekdays)
    else m.matches and extract(dow from p_day)::int = any (p_plan.weekdays)
  end
  from (select extract(day from p_day)::int = any (p_plan.days)
               or 32 = any (p_plan.days) and extract(day from p_day + 1) = 1) m(matches)
$$;

-- The first matching day from p_from on. 29 February falls on a given weekday at least once in 40 years.
create or replace function df_engine.cron_day(p_plan df_engine.cron_plan, p_from date) returns date
language sql immutable as $$
  select d.day from (select p_from + generate_series(0, 41 * 366) as day) d
  where df_engine.cron_day_matches(p_plan, d.day)
  limit 1
$$;

-- The first minute at which the clock of the zone shows p_local or more: of a local time that happens twice the first
-- pass, for a skipped one the first minute after the gap. A day before and after, only one change of the clock counts.
create or replace function df_engine.cron_instant(p_local timestamp, p_zone text) returns timestamptz
language sql stable as $$
  select t.at
  from (values (p_local at time zone 'UTC')) u(utc)
  cross join lateral (values (
      (u.utc - interval '24 hours') at time zone p_zone - (u.utc - interval '24 hours') at time zone 'UTC',
      (u.utc + interval '24 hours') at time zone p_zone - (u.utc + interval '24 hours') at time zone 'UTC'
    )) o(before, after)
  cross join lateral generate_series(
      u.utc - greatest(o.before, o.after), u.utc - least(o.before, o.after), interval '1 minute') t(at)
  where t.at at time zone p_zone >= p_local
  order by t.at
  limit 1
$$;

-- The next time on p_day for lines with given hours: each local time once.
create or replace function df_engine.cron_once(p_plan df_engine.cron_plan, p_day date, p_zone text, p_after timestamptz)
returns timestamptz
language sql stable as $$
  select t.at
  from (
    select l.at from unnest(p_plan.hours) h(hour) cross join unnest(p_plan.minutes) m(minute)
    cross join lateral (values (p_day + make_time(h.hour, m.minute, 0))) l(at)
    where l.at > p_after at time zone p_zone
    order by l.at offset 0
  ) l
  cross join lateral df_engine.cron_instant(l.at, p_zone) t(at)
  where t.at > p_after
  limit 1
$$;

-- The next minute, from the beginning of p_day to a few hours after its end, whose local time matches.
create or replace function df_engine.cron_by_clock(
  p_plan df_engine.cron_plan, p_day date, p_zone text, p_after timestamptz
) returns timestamptz
language sql stable as $$
  select t.at
  from (
    select greatest(date_trunc('minute', p_after) + interval '1 minute', d.start - interval '3 hours')
      + generate_series(0, 31 * 60 - 1) * interval '1 minute' as at
    from (values (p_day::timestamp at time zone p_zone)) d(start)
  ) t
  cross join lateral (values (t.at at time zone p_zone)) l(at)
  where extract(minute from l.at)::int = any (p_plan.minutes)
    and extract(hour from l.at)::int = any (p_plan.hours)
    and df_engine.cron_day_matches(p_plan, l.at::pg_catalog.date)
  limit 1
$$;

-- The first time after p_after at which the schedule comes due in the zone; raises when the line or the zone is bad.
-- Granted to users.
create or replace function df_engine.cron_next(p_expr text, p_zone text, p_after timestamptz) returns timestamptz
language plpgsql stable strict security definer set search_path = pg_catalog, pg_temp set jit = off as $$
declare
  v_problem text := df_engine.cron_problem(p_expr);
  v_plan df_engine.cron_plan;
  v_day date;
  v_at timestamptz;
begin
  if v_problem is not null then
    raise exception 'Invalid cron expression "%": %', p_expr, v_problem using errcode = 'invalid_parameter_value';
  end if;
  v_plan := df_engine.cron_plan((
    select regexp_split_to_array(
      case v_line
        when '@HOURLY' then '0 * * * *'
        when '@DAILY' then '0 0 * * *'
        when '@MIDNIGHT' then '0 0 * * *'
        when '@WEEKLY' then '0 0 * * 0'
        when '@MONTHLY' then '0 0 1 * *'
        when '@YEARLY' then '0 0 1 1 *'
        when '@ANNUALLY' then '0 0 1 1 *'
        else v_line
      end, '[[:space:]]+')
    from upper(btrim(p_expr, E' \t\n\r') collate "C") v_line));
  v_day := (p_after at time zone p_zone)::date - 1;
  while v_at is null loop
    v_day := df_engine.cron_day(v_plan, v_day);
    v_at := case when v_plan.by_clock then df_engine.cron_by_clock(v_plan, v_day, p_zone, p_after)
      else df_engine.cron_once(v_plan, v_day, p_zone, p_after) end;
    v_day := v_day + 1;
  end loop;
  return v_at;
end
$$;

-- Blocks: several statements that are one step. Their builder, what an envelope must say, and the list of statements; how they run is
-- in session/execute.

create or replace function df.block(variadic statements text[]) returns text
language plpgsql set search_path = '' as $$
declare
  v_statement pg_catalog.text;
  v_problem pg_catalog.text;
begin
  if statements is null then
    raise exception 'argument statements of df.block is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;

  if pg_catalog.array_position(statements, null) is not null then
    raise exception 'statement % of df.block is NULL', pg_catalog.array_position(statements, null) using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;
  foreach v_statement in array statements loop
    if nullif(pg_catalog.current_setting('pg_durable.returned', true), '')::pg_catalog.jsonb
      -> pg_catalog.statement_timestamp()::pg_catalog.text ? v_statement then
      raise exception '% cannot be used as a workflow step', nullif(pg_catalog.current_setting('pg_durable.returned', true), '')::pg_catalog.jsonb
      -> pg_catalog.statement_timestamp()::pg_catalog.text ->> v_statement
        using errcode = 'invalid_parameter_value',
              hint = 'It returns a value, not a graph. Call it in a statement of its own.';
    end if;
  end loop;
  v_problem := (
    select case
      when pg_catalog.jsonb_typeof(l.list) is distinct from 'array' then 'statements must be a list of SQL texts'
      when pg_catalog.jsonb_array_length(l.list) not between 1 and 1000 then
        'it has 1 to 1000 statements, not ' || pg_catalog.jsonb_array_length(l.list)
      else (
        select 'statement ' || s.place || case when pg_catalog.jsonb_typeof(s.text) <> 'string' then ' is no text'
          else ' is a graph, not an SQL statement' end
        from pg_catalog.jsonb_array_elements(l.list) with ordinality s(text, place)
        where pg_catalog.jsonb_typeof(s.text) <> 'string' or s.text #>> '{}' ~ '^\s*[{]\s*"'
        order by s.place limit 1)
    end
    from (select pg_catalog.to_jsonb(statements)) l(list));
  if v_problem is not null then
    raise exception 'df.block: %', v_problem using
      errcode = case when pg_catalog.cardinality(statements) > 1000 then 'program_limit_exceeded' else 'invalid_parameter_value' end,
      hint = 'A block is one step: each argument is the text of an SQL statement. Steps that follow each other are joined with ~>.';
  end if;
  return '{"node_type":"BLOCK","query":' || pg_catalog.to_json('{"statements":' || pg_catalog.to_json(statements) || '}') || '}';
end
$$;
comment on function df.block(text[]) is
  'The node of 1 to 1000 SQL statements that are one step and one transaction: they take effect together, are tried again together, and the result is that of the last. Raises for a NULL and for a graph';

-- What is wrong with the query of a BLOCK; NULL: nothing.
-- Granted to users.
create or replace function df_engine.block_problem(p_query text) returns text
language plpgsql immutable as $$
declare
  v_config constant jsonb := df_engine.json_or_null(p_query);
begin
  return case
    when jsonb_typeof(v_config) is distinct from 'object' or v_config - 'statements' <> '{}' then 'query in BLOCK must be {"statements": [text, ...]}'
    else 'BLOCK: ' || (
    select case
      when pg_catalog.jsonb_typeof(l.list) is distinct from 'array' then 'statements must be a list of SQL texts'
      when pg_catalog.jsonb_array_length(l.list) not between 1 and 1000 then
        'it has 1 to 1000 statements, not ' || pg_catalog.jsonb_array_length(l.list)
      else (
        select 'statement ' || s.place || case when pg_catalog.jsonb_typeof(s.text) <> 'string' then ' is no text'
          else ' is a graph, not an SQL statement' end
        from pg_catalog.jsonb_array_elements(l.list) with ordinality s(text, place)
        where pg_catalog.jsonb_typeof(s.text) <> 'string' or s.text #>> '{}' ~ '^\s*[{]\s*"'
        order by s.place limit 1)
    end
    from (select v_config -> 'statements') l(list)) end;
end
$$;

-- The statements of a step in their order: those of a BLOCK, or the one of any other.
-- Granted to users.
create or replace function df_engine.statements_of(p_kind text, p_query text) returns setof text
language plpgsql immutable rows 2 as $$
begin
  if p_kind = 'BLOCK' then
    return query select json_array_elements_text(p_query::pg_catalog.json -> 'statements');
  else
    return next p_query;
  end if;
end
$$;

-- The envelope: the JSON text of a graph before it is started. Here is what reads it, the strict parser, and the rules that a
-- graph must keep. The builders, which write it, come later. Nothing here writes to a table.

-- Remembers what a helper that is no graph builder returned, until the end of the top-level statement.
-- Granted to users.
create or replace function df_engine.note_helper(p_function text, p_returned text) returns void
language plpgsql set search_path = '' as $$
declare
  v_now pg_catalog.text := pg_catalog.statement_timestamp()::pg_catalog.text;
  v_noted pg_catalog.jsonb := nullif(pg_catalog.current_setting('pg_durable.returned', true), '')::pg_catalog.jsonb;
begin
  v_noted := coalesce(v_noted -> v_now, '{}') || pg_catalog.jsonb_build_object(p_returned, p_function);
  perform pg_catalog.set_config(
    'pg_durable.returned', pg_catalog.jsonb_build_object(v_now, v_noted)::pg_catalog.text, true);
end
$$;

-- Raises inside a workflow session.
-- Granted to users.
create or replace function df_engine.reject_in_workflow(p_function text) returns void
language plpgsql set search_path = '' as $$
begin
  if pg_catalog.current_setting('df.in_workflow', true) = 'true' then
    raise exception '% cannot be called inside a workflow', p_function
      using errcode = 'object_not_in_prerequisite_state';
  end if;
end
$$;

-- A text as jsonb, NULL when it is none, or nested too deeply for PostgreSQL to read.
-- Granted to users.
create or replace function df_engine.json_or_null(p_text text) returns jsonb
language plpgsql immutable as $$
begin
  return p_text::pg_catalog.jsonb;
exception when data_exception or program_limit_exceeded then
  return null;
end
$$;

-- Why a node is not well-formed, NULL when it is.
-- Granted to users.
create or replace function df_engine.malformed(p_node jsonb) returns text
language sql immutable as $$
  select case
    when pg_catalog.jsonb_typeof(p_node -> 'left_node') <> 'object' then 'left_node must be a Durofut JSON object'
    when pg_catalog.jsonb_typeof(p_node -> 'right_node') <> 'object' then 'right_node must be a Durofut JSON object'
    when pg_catalog.jsonb_typeof(p_node -> 'condition_node') <> 'object' then 'condition_node must be a Durofut JSON object'
    when pg_catalog.jsonb_typeof(p_node -> 'query') <> 'string' then 'query must be a string'
    when pg_catalog.jsonb_typeof(p_node -> 'result_name') <> 'string' then 'result_name must be a string'
    when pg_catalog.jsonb_typeof(p_node -> 'extra_nodes') <> 'array' then 'extra_nodes must be an array'
    when p_node ? 'extra_nodes' and p_node @? '$.extra_nodes[*] ? (@.type() != "object")' then
      'extra_nodes entries must be Durofut JSON objects'
  end
$$;

-- Granted to users.
create or replace function df_engine.unknown_type(p_type text) returns text
language sql immutable as $$
  select case when p_type not in ('SQL', 'THEN', 'IF', 'JOIN', 'RACE', 'ANY', 'LOOP', 'CATCH', 'TIMEOUT', 'UNDO', 'MAP', 'BREAK', 'SLEEP', 'WAIT_SCHEDULE', 'SIGNAL', 'WAIT_FOR', 'CALL', 'HTTP', 'HTTP_MULTIPART', 'BLOCK') then
    'Unknown node_type ''' || p_type || '''; valid types are SQL, THEN, IF, JOIN, RACE, ANY, LOOP, CATCH, TIMEOUT, UNDO, MAP, BREAK, SLEEP, WAIT_SCHEDULE, SIGNAL, WAIT_FOR, CALL, HTTP, HTTP_MULTIPART, BLOCK' end
$$;

-- The graph that df.start and df.explain were given: an envelope, or any other text as one SQL node.
-- Granted to users.
create or replace function df_engine.parse_graph(p_text text, p_prefix text default '') returns jsonb
language plpgsql immutable as $$
declare
  v_graph pg_catalog.jsonb;
  v_type pg_catalog.text;
  v_problem pg_catalog.text;
begin
  if p_text ~ '^\s*\{' then
    v_graph := pg_catalog.jsonb_strip_nulls(df_engine.json_or_null(p_text));
  end if;
  if v_graph -> '_partial_if' = 'true' and v_graph ?& array['condition', 'then_branch'] then
    v_graph := df.if(v_graph ->> 'condition', v_graph ->> 'then_branch')::pg_catalog.jsonb;
  end if;
  if pg_catalog.jsonb_typeof(v_graph -> 'node_type') is distinct from 'string' then
    return pg_catalog.jsonb_build_object('node_type', 'SQL', 'query', p_text);
  end if;
  v_type := v_graph ->> 'node_type';
  v_problem := coalesce(df_engine.unknown_type(v_type),
    'Malformed Durofut JSON with node_type ''' || v_type || ''': ' || df_engine.malformed(v_graph));
  if v_problem is not null then
    raise exception '%', p_prefix || v_problem using errcode = 'invalid_text_representation';
  end if;
  return v_graph;
end
$$;

-- Granted to users.
create or replace function df_engine.retry_problem(p_policy jsonb) returns text
language plpgsql immutable set search_path = '' as $$
begin
  return case
    when pg_catalog.jsonb_typeof(p_policy) <> 'object' then 'retry must be a JSON object'
    else (
      select 'retry: ' || coalesce(given.key || ' ' || rule.says, 'unknown key ' || given.key)
      from pg_catalog.jsonb_each(p_policy) given
      left join (values
        ('max_attempts', '$.type() == "number" && $ >= 1 && $ <= 1000 && $.floor() == $', 'must be an integer from 1 to 1000'),
        ('initial_delay', '$.type() == "number" && $ >= 0 && $ <= 86400', 'must be from 0 to 86400 s'),
        ('backoff', '$.type() == "number" && $ >= 1', 'must be a number of at least 1'),
        ('max_delay', '$.type() == "number" && $ >= 0 && $ <= 86400', 'must be from 0 to 86400 s'),
        ('retry_on', '$.type() == "array" && !exists($[*] ? (@.type() != "string" || !(@ like_regex "^([0-9A-Z]{5}|[0-9A-Z]{2}|connection|timeout|transient|http:[1-5]([0-9][0-9]|xx))$")))', 'must list SQLSTATEs, classes of them, connection, timeout, transient, http:404 or http:4xx')
      ) rule(key, valid, says) on rule.key = given.key
      where pg_catalog.jsonb_path_match(given.value, rule.valid::pg_catalog.jsonpath) is not true
      order by given.key
      limit 1)
  end;
end
$$;

-- What is wrong with the query of a construct, into which the ids of its children must be able to be merged; NULL: nothing.
-- Granted to users.
create or replace function df_engine.config_problem(p_type text, p_query text) returns text
language plpgsql immutable set search_path = '' as $$
declare
  v_config pg_catalog.jsonb := df_engine.json_or_null(p_query);
  v_key pg_catalog.text := case when p_type in ('IF', 'LOOP') then 'condition_node' else 'extra_nodes' end;
begin
  return case
    when v_config is null then 'query in ' || p_type || ' must be valid JSON config'
    when pg_catalog.jsonb_typeof(v_config) <> 'object' then 'query in ' || p_type || ' must be a JSON config object'
    when v_config ? v_key then v_key || ' in ' || p_type || ' must be a first-class Durofut field'
    when p_type = 'LOOP' and pg_catalog.jsonb_typeof(v_config -> 'continue_on_failure') <> 'boolean' then
      'continue_on_failure in LOOP must be true or false'
    when p_type = 'CATCH' then case when not pg_catalog.jsonb_path_match(v_config -> 'errors', '$.type() == "array" && !exists($[*] ? (@.type() != "string" || !(@ like_regex "^([0-9A-Z]{5}|[0-9A-Z]{2}|connection|timeout|transient|http:[1-5]([0-9][0-9]|xx))$")))') then 'errors ' || 'must list SQLSTATEs, classes of them, connection, timeout, transient, http:404 or http:4xx' end
    when p_type = 'TIMEOUT' then case
      when pg_catalog.jsonb_typeof(v_config -> 'after') = 'number' and (v_config -> 'after')::pg_catalog.numeric > 0
           and (v_config -> 'after')::pg_catalog.numeric <= 3155760000 then null
      when pg_catalog.jsonb_typeof(v_config -> 'after') = 'string' and v_config -> 'after' #>> '{}' ~ $re$\$[A-Za-z_]|[{][A-Za-z_][A-Za-z0-9_]*[}]$re$ then null
      else 'after in TIMEOUT must be a number of seconds above 0, or a text with references' end
  end;
end
$$;

-- What of a node is too large; NULL: nothing.
-- Granted to users.
create or replace function df_engine.size_problem(p_node jsonb, p_type text) returns text
language sql immutable as $$
  select case
    when octet_length(p_node ->> 'result_name') > 63 then
      format('result_name has %s bytes, and 63 are allowed', octet_length(p_node ->> 'result_name'))
    when p_type in ('WAIT_SCHEDULE', 'SIGNAL') then (
      select format('%s has %s bytes, and 1024 are allowed', c.key, octet_length(c.value))
      from df_engine.json_or_null(p_node ->> 'query') q(config)
      cross join lateral jsonb_each_text(case when jsonb_typeof(q.config) = 'object' then q.config end) c
      where c.key in ('cron_expr', 'signal_name') and octet_length(c.value) > 1024)
  end
$$;

-- Why the query of a SLEEP that is an object says no time; NULL: it does, or only the run can tell.
-- Granted to users.
create or replace function df_engine.sleep_problem(p_query text) returns text
language plpgsql stable as $$
declare
  v_config constant pg_catalog.jsonb := df_engine.json_or_null(p_query);
  v_text constant pg_catalog.text := coalesce(v_config ->> 'until', v_config ->> 'duration');
begin
  if (select count(*) from jsonb_object_keys(case when jsonb_typeof(v_config) = 'object' then v_config end)) <> 1
     or jsonb_typeof(coalesce(v_config -> 'until', v_config -> 'duration')) is distinct from 'string' then
    return 'query in SLEEP must be seconds, {"until": text} or {"duration": text}';
  end if;
  perform case when v_config ? 'until' then df.sleep_until(v_text) else df.sleep(v_text) end;
  return null;
exception when data_exception then
  return 'SLEEP: ' || sqlerrm;
end
$$;

-- What of a node is missing or too much, NULL when it has what its type needs.
-- Granted to users.
create or replace function df_engine.shape_problem(p_node jsonb, p_type text) returns text
language sql immutable as $$
  select case
    when not p_node ? 'query' and p_type in ('SQL', 'BLOCK', 'HTTP', 'HTTP_MULTIPART', 'SLEEP', 'WAIT_SCHEDULE', 'SIGNAL', 'BREAK', 'CALL', 'TIMEOUT', 'WAIT_FOR') then 'query is missing'
    when p_node ? 'query' and p_type in ('THEN', 'UNDO', 'RACE', 'ANY') then 'query is not valid for ' || p_type || ' nodes'
    when p_node ? 'left_node' and p_type in ('SQL', 'BLOCK', 'HTTP', 'HTTP_MULTIPART', 'SLEEP', 'WAIT_SCHEDULE', 'SIGNAL', 'BREAK', 'CALL', 'WAIT_FOR') then 'left_node is not valid for ' || p_type || ' nodes'
    when not p_node ? 'left_node' and p_type not in ('SQL', 'BLOCK', 'HTTP', 'HTTP_MULTIPART', 'SLEEP', 'WAIT_SCHEDULE', 'SIGNAL', 'BREAK', 'CALL', 'WAIT_FOR')         then 'left_node is missing'
    when p_node ? 'right_node' and p_type in ('SQL', 'BLOCK', 'HTTP', 'HTTP_MULTIPART', 'SLEEP', 'WAIT_SCHEDULE', 'SIGNAL', 'BREAK', 'CALL', 'WAIT_FOR', 'LOOP', 'MAP') then 'right_node is not valid for ' || p_type || ' nodes'
    when not p_node ? 'right_node' and p_type not in ('SQL', 'BLOCK', 'HTTP', 'HTTP_MULTIPART', 'SLEEP', 'WAIT_SCHEDULE', 'SIGNAL', 'BREAK', 'CALL', 'WAIT_FOR', 'LOOP', 'MAP', 'TIMEOUT')         and not (p_type = 'JOIN' and not p_node ? 'extra_nodes') and not (p_type = 'IF' and p_node ? 'condition_node')         then 'right_node is missing'
    when p_type = 'IF' and not p_node ?| '{condition_node,query}' then 'condition_node is missing'
    when p_node ->> 'result_name' !~ '^[A-Za-z_][A-Za-z0-9_]*$' then 'result_name must be a letter or _, then letters, digits or _'
  end
$$;

-- What of a WAIT_FOR is wrong that has all it needs; NULL: nothing.
-- Granted to users.
create or replace function df_engine.wait_for_problem(p_node jsonb) returns text
language sql immutable as $$
  select case
    when not p_node ? 'condition_node' then 'condition_node is missing'
    when p_node #>> '{condition_node,node_type}' <> 'SQL' then
      'condition_node in WAIT_FOR must be an SQL step, not ' || (p_node #>> '{condition_node,node_type}')
    when jsonb_typeof(q.config) is distinct from 'object' then 'query in WAIT_FOR must be a JSON config object'
    when not q.config ? 'every' then 'every is missing'
    else (
      select case
        when c.key = 'key' and (jsonb_typeof(c.value) <> 'string' or c.value = '""') then 'key must be a text that is not empty'
        when c.key = 'key' and octet_length(c.value #>> '{}') > 1024 then
          format('key has %s bytes, and 1024 are allowed', octet_length(c.value #>> '{}'))
        when c.key in ('every', 'timeout')
             and not jsonb_path_match(c.value, '$.type() == "number" && $ > 0 && $ <= 3155760000') then
          c.key || ' must be a number of seconds above 0, and at most 3155760000'
        when c.key not in ('every', 'key', 'timeout') then 'unknown key ' || c.key
      end as says
      from jsonb_each(q.config) c
      order by says limit 1)
  end
  from (select jsonb_strip_nulls(df_engine.json_or_null(p_node ->> 'query'))) q(config)
$$;

-- What of a CALL is wrong that has all it needs, but for the graph in its flow; NULL: nothing.
-- Granted to users.
create or replace function df_engine.call_problem(p_query text) returns text
language sql immutable as $$
  select case
    when jsonb_typeof(q.config) is distinct from 'object' then 'query in CALL must be a JSON config object'
    when not q.config ? 'flow' then 'flow is missing'
    else (
      select case
        when c.key not in ('flow', 'input', 'label') then 'unknown key ' || c.key
        when jsonb_typeof(c.value) <> 'string' then c.key || ' in CALL must be a string'
        when c.key = 'label' and octet_length(c.value #>> '{}') > 1024 then
          format('label has %s bytes, and 1024 are allowed', octet_length(c.value #>> '{}'))
        when c.key = 'input' and not c.value #>> '{}' ~ $re$\$[A-Za-z_]|[{][A-Za-z_][A-Za-z0-9_]*[}]$re$
             and df_engine.json_or_null(c.value #>> '{}') is null then 'input in CALL is no JSON, and holds no reference'
      end as says
      from jsonb_each(q.config) c
      order by says limit 1)
  end
  from (select jsonb_strip_nulls(df_engine.json_or_null(p_query))) q(config)
$$;

-- What of a MAP is wrong that has all it needs; NULL: nothing.
-- Granted to users.
create or replace function df_engine.map_problem(p_node jsonb) returns text
language sql immutable as $$
  select case
    when jsonb_typeof(q.config) is distinct from 'object' then 'query in MAP must be a JSON config object'
    when p_node ? 'condition_node' and q.config ? 'items' then 'items in MAP are those of condition_node'
    when not p_node ? 'condition_node' and not q.config ? 'items' then 'condition_node or items is missing'
    when p_node #>> '{condition_node,node_type}' not in ('SQL', 'BLOCK') then
      'condition_node in MAP must be a step that returns rows, not ' || (p_node #>> '{condition_node,node_type}')
    else (
      select case c.key
        when 'parallel' then 'parallel must be a whole number from 1 to 1000'
        when 'on_error' then 'on_error must be fail, stop, collect'
        when 'collect_values' then 'collect_values must be true or false'
        when 'items' then 'items must be all rows of a name, such as $name.*'
        else 'unknown key ' || c.key end
      from pg_catalog.jsonb_each(q.config) c(key, value)
      where case c.key
        when 'parallel' then pg_catalog.jsonb_path_match(c.value, '$.type() == "number" && $ >= 1 && $ <= 1000 && $.floor() == $')
        when 'on_error' then c.value #>> '{}' in ('fail', 'stop', 'collect')
        when 'collect_values' then pg_catalog.jsonb_typeof(c.value) = 'boolean'
        when 'items' then c.value #>> '{}' ~ '^[[:space:]]*([$][A-Za-z_][A-Za-z0-9_]*[.][*])[[:space:]]*$' end is not true
      order by c.key limit 1) end
  from (select jsonb_strip_nulls(coalesce(df_engine.json_or_null(p_node ->> 'query'), case when not p_node ? 'query' then '{}'::pg_catalog.jsonb end))) q(config)
$$;

-- Why a node breaks the rules of a graph, NULL when it does not. An expression, so that the walk has it inlined.
-- Granted to users.
create or replace function df_engine.node_problem(p_node jsonb, p_type text) returns text
language sql immutable as $$
  select case
    when p_type is null then 'a node must be a Durofut JSON object with a node_type'
    when p_node ? 'condition_node' and p_type not in ('IF', 'LOOP', 'WAIT_FOR', 'MAP') then
      'condition_node is not valid for ' || p_type || ' nodes'
    when p_node ? 'extra_nodes' and p_type not in ('JOIN', 'RACE', 'ANY') then 'extra_nodes is not valid for ' || p_type || ' nodes'
    when p_node ? 'retry' and p_type not in ('SQL', 'BLOCK', 'HTTP', 'HTTP_MULTIPART', 'WAIT_FOR') then 'retry is not valid for ' || p_type || ' nodes'
    else coalesce(
      df_engine.unknown_type(p_type),
      df_engine.malformed(p_node),
      case when p_node ? 'retry' then df_engine.retry_problem(p_node -> 'retry') end,
      case when p_node ? 'query' and p_type in ('IF', 'LOOP', 'JOIN', 'CATCH', 'TIMEOUT') then
        df_engine.config_problem(p_type, p_node ->> 'query') end,
      case when p_type = 'SLEEP' and p_node ->> 'query' ~ '^\s*[{]' then df_engine.sleep_problem(p_node ->> 'query') end,
      case when p_node ? 'result_name' or p_type in ('WAIT_SCHEDULE', 'SIGNAL') then df_engine.size_problem(p_node, p_type) end,
      case when p_type in ('HTTP', 'HTTP_MULTIPART') and strpos(p_node ->> 'query', '{secret:') > 0 then
        df_engine.secret_problem(df_engine.json_or_null(p_node ->> 'query')) end,
      df_engine.shape_problem(p_node, p_type),
      case p_type when 'WAIT_FOR' then df_engine.wait_for_problem(p_node) when 'MAP' then df_engine.map_problem(p_node)
        when 'BLOCK' then df_engine.block_problem(p_node ->> 'query') when 'CALL' then df_engine.call_problem(p_node ->> 'query') end)
  end
$$;

-- Granted to users.
create or replace function df_engine.reject_node(p_prefix text, p_path text, p_depth int, p_ord int, p_problem text) returns boolean
language plpgsql immutable as $$
begin
  raise exception '%: %', p_prefix || p_path,
    case
      when p_depth > 256 then 'exceeds the maximum nesting depth of 256'
      when p_ord > 10000 then 'exceeds the maximum node count of 10000'
      else p_problem
    end
    using errcode = case when p_depth > 256 or p_ord > 10000 then 'program_limit_exceeded'
                         else 'invalid_text_representation' end;
end
$$;

-- The walk over a graph: its nodes in pre-order, checked one by one. df.start compiles what it gives, df.explain draws it. Nothing
-- here reads or writes a table.

-- The children of a node in pre-order: place 0 is the condition, 1 left, 2 right, 3 and on the extra nodes. The condition of a LOOP
-- comes after its body, as it runs after it.
-- Granted to users.
create or replace function df_engine.child_nodes(p_node jsonb, out places int[], out nodes jsonb[])
language plpgsql immutable as $$
begin
  select array_agg(c.place order by c.rank), array_agg(c.node order by c.rank) into places, nodes
  from (
    select case p_node ->> 'node_type' when 'LOOP' then 3 else 0 end, 0, p_node -> 'condition_node'
    union all select 1, 1, p_node -> 'left_node'
    union all select 2, 2, p_node -> 'right_node'
    union all select 2 + e.place::int, 2 + e.place::int, e.node
    from jsonb_array_elements(p_node -> 'extra_nodes') with ordinality e(node, place)
  ) c(rank, place, node)
  where c.node is not null;
end
$$;

-- The step of the path to a child, as error messages show it.
-- Granted to users.
create or replace function df_engine.path_step(p_place int) returns text
language sql immutable as $$
  select case p_place when 0 then '.condition_node' when 1 then '.left' when 2 then '.right'
                      else '.extra_nodes[' || p_place - 3 || ']' end
$$;

-- The graph of a CALL.
-- Granted to users.
create or replace function df_engine.called_graph(p_query text, p_prefix text default '') returns jsonb
language plpgsql immutable as $$
begin
  return df_engine.parse_graph(df_engine.json_or_null(p_query) ->> 'flow', p_prefix);
end
$$;

-- The nodes of a graph in pre-order, numbered from 1. Raises for the first that breaks a rule, in the graph of a CALL, too. Those that
-- are still to be visited are kept in arrays, so the depth of a graph is never the depth of a stack.
-- Granted to users.
create or replace function df_engine.walk(p_graph jsonb, p_prefix text default '', p_root text default 'root')
returns table (node int, depth int, parent int, place int, kind text, body jsonb)
language plpgsql as $$
declare
  v_bodies pg_catalog.jsonb[] := array[p_graph];
  v_parents int[] := '{null}';
  v_places int[] := '{null}';
  v_depths int[] := '{0}';
  v_paths pg_catalog.text[] := array[p_root];
  v_inside pg_catalog.text[] := '{null}';  -- what around it may hold no UNDO
  v_path pg_catalog.text;
  v_around pg_catalog.text;
  v_problem pg_catalog.text;
  v_children pg_catalog.record;
  v_top int := 1;
begin
  node := 0;
  while v_top > 0 loop
    body := v_bodies[v_top];
    parent := v_parents[v_top];
    place := v_places[v_top];
    depth := v_depths[v_top];
    v_path := v_paths[v_top];
    v_around := v_inside[v_top];
    v_top := v_top - 1;
    node := node + 1;
    kind := body ->> 'node_type';
    v_problem := df_engine.node_problem(body, kind);
    if node > 1 and kind = 'SQL' and v_problem is null and body ->> 'query' ~ '^\s*@[A-Za-z_][A-Za-z0-9_-]*(:[0-9]+)?\s*$' then
      v_problem := format('%s is the name of a definition: as a step it is called, df.call(%L)', body ->> 'query', body ->> 'query');
    elsif kind = 'UNDO' and v_around is not null and v_problem is null then
      v_problem := 'UNDO cannot be inside ' || v_around || '. It can be in sequences, conditions, branches of df.all and &, and in df.catch: put df.undo around the whole, or start what is inside as a run of its own.';
    end if;
    if v_problem is not null or depth > 256 or node > 10000 then
      perform df_engine.reject_node(p_prefix, v_path, depth, node, v_problem);
    end if;
    if kind = 'CALL' then
      perform from df_engine.walk(df_engine.called_graph(body ->> 'query', p_prefix || v_path || '.flow: '), p_prefix, v_path || '.flow');
    end if;
    return next;
    if body ?| '{left_node,right_node,condition_node,extra_nodes}' then
      v_children := df_engine.child_nodes(body);
      for i in reverse cardinality(v_children.places)..1 loop
        v_top := v_top + 1;
        v_bodies[v_top] := v_children.nodes[i];
        v_parents[v_top] := node;
        v_places[v_top] := v_children.places[i];
        v_depths[v_top] := depth + 1;
        v_paths[v_top] := v_path || df_engine.path_step(v_children.places[i]);
        v_inside[v_top] := case when kind in ('RACE', 'ANY', 'TIMEOUT', 'LOOP', 'MAP') then kind
                                when kind = 'UNDO' and v_children.places[i] = 2 then 'a compensation' else v_around end;
      end loop;
    end if;
  end loop;
end
$$;

-- Where a node of a compiled graph stands, as error messages show it.
create or replace function df_engine.node_path(p_graph bigint, p_node int) returns text
language sql stable as $$
  with recursive above as (
    select g.parent, g.place, '' as path from df_engine.graph_nodes g where g.graph = p_graph and g.node = p_node
    union all
    select g.parent, g.place, df_engine.path_step(a.place) || a.path
    from above a join df_engine.graph_nodes g on g.graph = p_graph and g.node = a.parent
  )
  select 'root' || a.path from above a where a.parent is null
$$;

-- The id of a node: of a run's n-th node, whose first is its root. Like all functions in views, it is parsed here and now: the
-- search_path of who reads does not matter, and it can be inlined all the same.
-- Granted to users.
create or replace function df_engine.node_id(p_instance text, p_node int) returns varchar
language sql immutable
return lpad(to_hex((('x' || p_instance)::bit(32)::bigint + p_node * 2654435761) & 4294967295), 8, '0')::varchar;

-- The place of the node that has this public id in an instance: 244002641 is the inverse of the factor in node_id, modulo 2^32.
-- Granted to users.
create or replace function df_engine.node_of(p_instance text, p_node_id text) returns bigint
language sql immutable
return ((('x' || p_node_id)::bit(32)::bigint - ('x' || p_instance)::bit(32)::bigint + 4294967296) & 4294967295) * 244002641 & 4294967295;

-- What df.nodes shows as the query of a node: its own, with the ids of the children that it has no column for.
-- Granted to users.
create or replace function df_engine.shown_query(p_query text, p_condition text, p_extras text[]) returns text
language sql stable
return case
  when p_condition is null and p_extras is null then p_query
  else '{' || concat_ws(',',
    nullif(substring(p_query from '^\s*\{\s*(.*)\}\s*$'), ''),
    '"condition_node":"' || p_condition || '"',
    '"extra_nodes":["' || array_to_string(p_extras, '","') || '"]') || '}'
  end;

-- Builders: functions that return the envelope of a node. They write nothing and need nothing but USAGE on df, so they call
-- no private function. A graph given as an argument is wrapped by df.all alone; the others take it out of what that returns.

create or replace function df.sql(query text) returns text
language plpgsql strict set search_path = '' as $$
begin
  return '{"node_type":"SQL","query":' || pg_catalog.to_json(sql.query) || '}';
end
$$;

create or replace function df.loop(body text, condition text default null, continue_on_failure boolean default false)
returns text
language plpgsql set search_path = '' as $$
declare
  v_loop pg_catalog.text;
begin
  if body is null then
    raise exception 'argument body of df.loop is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;
  if continue_on_failure is null then
    raise exception 'argument continue_on_failure of df.loop is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;

  -- Statement by statement: what of it is not reached is not prepared either.
  v_loop := case when not (pg_catalog.strpos(body, '{') > 0 and body ~ '^\s*\{') and pg_catalog."left"(body, 1) <> '@' and (nullif(pg_catalog.current_setting('pg_durable.returned', true), '') is not null) is not true then '{"node_type":"SQL","query":' || pg_catalog.to_json(body) || '}'
         when df.all(body) = '{"node_type":"JOIN","left_node":' || body || '}' then body
         else (df.all(body)::pg_catalog.json -> 'left_node')::pg_catalog.text end;
  if condition is not null then
    v_loop := v_loop || ',"condition_node":' || case when not (pg_catalog.strpos(condition, '{') > 0 and condition ~ '^\s*\{') and pg_catalog."left"(condition, 1) <> '@' and (nullif(pg_catalog.current_setting('pg_durable.returned', true), '') is not null) is not true then '{"node_type":"SQL","query":' || pg_catalog.to_json(condition) || '}'
         when df.all(condition) = '{"node_type":"JOIN","left_node":' || condition || '}' then condition
         else (df.all(condition)::pg_catalog.json -> 'left_node')::pg_catalog.text end;
  end if;
  if (pg_catalog.strpos(v_loop, '"UNDO"') > 0 and v_loop ~ '[{,]\s*"node_type"\s*:\s*"UNDO"') then
    raise exception 'df.undo cannot be inside a loop' using errcode = 'invalid_parameter_value',
      hint = 'It can be in sequences, conditions, branches of df.all and &, and in df.catch: put df.undo around the whole, or start what is inside as a run of its own.';
  end if;
  if continue_on_failure then
    v_loop := v_loop || ',"query":' || pg_catalog.to_json('{"continue_on_failure":true}'::pg_catalog.text);
  end if;
  return '{"node_type":"LOOP","left_node":' || v_loop || '}';
end
$$;

create or replace function df.seq(a text, b text) returns text
language plpgsql set search_path = '' as $$
begin
  if a is null then
    raise exception 'the first step of ~> is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;
  if b is null then
    raise exception 'the second step of ~> is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;

  return '{"node_type":"THEN","left_node":' || case when not (pg_catalog.strpos(a, '{') > 0 and a ~ '^\s*\{') and pg_catalog."left"(a, 1) <> '@' and (nullif(pg_catalog.current_setting('pg_durable.returned', true), '') is not null) is not true then '{"node_type":"SQL","query":' || pg_catalog.to_json(a) || '}'
         when df.all(a) = '{"node_type":"JOIN","left_node":' || a || '}' then a
         else (df.all(a)::pg_catalog.json -> 'left_node')::pg_catalog.text end
    || ',"right_node":' || case when not (pg_catalog.strpos(b, '{') > 0 and b ~ '^\s*\{') and pg_catalog."left"(b, 1) <> '@' and (nullif(pg_catalog.current_setting('pg_durable.returned', true), '') is not null) is not true then '{"node_type":"SQL","query":' || pg_catalog.to_json(b) || '}'
         when df.all(b) = '{"node_type":"JOIN","left_node":' || b || '}' then b
         else (df.all(b)::pg_catalog.json -> 'left_node')::pg_catalog.text end || '}';
end
$$;

create or replace function df.join(a text, b text) returns text
language plpgsql set search_path = '' as $$
begin
  if a is null then
    raise exception 'the first branch of & is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;
  if b is null then
    raise exception 'the second branch of & is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;

  return '{"node_type":"JOIN","left_node":' || case when not (pg_catalog.strpos(a, '{') > 0 and a ~ '^\s*\{') and pg_catalog."left"(a, 1) <> '@' and (nullif(pg_catalog.current_setting('pg_durable.returned', true), '') is not null) is not true then '{"node_type":"SQL","query":' || pg_catalog.to_json(a) || '}'
         when df.all(a) = '{"node_type":"JOIN","left_node":' || a || '}' then a
         else (df.all(a)::pg_catalog.json -> 'left_node')::pg_catalog.text end
    || ',"right_node":' || case when not (pg_catalog.strpos(b, '{') > 0 and b ~ '^\s*\{') and pg_catalog."left"(b, 1) <> '@' and (nullif(pg_catalog.current_setting('pg_durable.returned', true), '') is not null) is not true then '{"node_type":"SQL","query":' || pg_catalog.to_json(b) || '}'
         when df.all(b) = '{"node_type":"JOIN","left_node":' || b || '}' then b
         else (df.all(b)::pg_catalog.json -> 'left_node')::pg_catalog.text end || '}';
end
$$;

create or replace function df.race(a text, b text) returns text
language plpgsql set search_path = '' as $$
declare
  v_a pg_catalog.text;
  v_b pg_catalog.text;
begin
  if a is null then
    raise exception 'the first branch of | is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;
  if b is null then
    raise exception 'the second branch of | is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;

  v_a := case when not (pg_catalog.strpos(a, '{') > 0 and a ~ '^\s*\{') and pg_catalog."left"(a, 1) <> '@' and (nullif(pg_catalog.current_setting('pg_durable.returned', true), '') is not null) is not true then '{"node_type":"SQL","query":' || pg_catalog.to_json(a) || '}'
         when df.all(a) = '{"node_type":"JOIN","left_node":' || a || '}' then a
         else (df.all(a)::pg_catalog.json -> 'left_node')::pg_catalog.text end;
  v_b := case when not (pg_catalog.strpos(b, '{') > 0 and b ~ '^\s*\{') and pg_catalog."left"(b, 1) <> '@' and (nullif(pg_catalog.current_setting('pg_durable.returned', true), '') is not null) is not true then '{"node_type":"SQL","query":' || pg_catalog.to_json(b) || '}'
         when df.all(b) = '{"node_type":"JOIN","left_node":' || b || '}' then b
         else (df.all(b)::pg_catalog.json -> 'left_node')::pg_catalog.text end;
  if (pg_catalog.strpos(v_a || ',' || v_b, '"UNDO"') > 0 and v_a || ',' || v_b ~ '[{,]\s*"node_type"\s*:\s*"UNDO"') then
    raise exception 'df.undo cannot be inside a race' using errcode = 'invalid_parameter_value',
      hint = 'It can be in sequences, conditions, branches of df.all and &, and in df.catch: put df.undo around the whole, or start what is inside as a run of its own.';
  end if;
  return '{"node_type":"RACE","left_node":' || v_a || ',"right_node":' || v_b || '}';
end
$$;

create or replace function df.join3(a text, b text, c text) returns text
language plpgsql set search_path = '' as $$
begin
  if a is null then
    raise exception 'argument a of df.join3 is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;
  if b is null then
    raise exception 'argument b of df.join3 is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;
  if c is null then
    raise exception 'argument c of df.join3 is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;

  return '{"node_type":"JOIN","left_node":' || case when not (pg_catalog.strpos(a, '{') > 0 and a ~ '^\s*\{') and pg_catalog."left"(a, 1) <> '@' and (nullif(pg_catalog.current_setting('pg_durable.returned', true), '') is not null) is not true then '{"node_type":"SQL","query":' || pg_catalog.to_json(a) || '}'
         when df.all(a) = '{"node_type":"JOIN","left_node":' || a || '}' then a
         else (df.all(a)::pg_catalog.json -> 'left_node')::pg_catalog.text end
    || ',"right_node":' || case when not (pg_catalog.strpos(b, '{') > 0 and b ~ '^\s*\{') and pg_catalog."left"(b, 1) <> '@' and (nullif(pg_catalog.current_setting('pg_durable.returned', true), '') is not null) is not true then '{"node_type":"SQL","query":' || pg_catalog.to_json(b) || '}'
         when df.all(b) = '{"node_type":"JOIN","left_node":' || b || '}' then b
         else (df.all(b)::pg_catalog.json -> 'left_node')::pg_catalog.text end
    || ',"extra_nodes":[' || case when not (pg_catalog.strpos(c, '{') > 0 and c ~ '^\s*\{') and pg_catalog."left"(c, 1) <> '@' and (nullif(pg_catalog.current_setting('pg_durable.returned', true), '') is not null) is not true then '{"node_type":"SQL","query":' || pg_catalog.to_json(c) || '}'
         when df.all(c) = '{"node_type":"JOIN","left_node":' || c || '}' then c
         else (df.all(c)::pg_catalog.json -> 'left_node')::pg_catalog.text end || ']}';
end
$$;

create or replace function df.all(variadic branches text[]) returns text
language plpgsql set search_path = '' as $$
declare
  v_nodes pg_catalog.text[];
  v_branch pg_catalog.text;
  v_node pg_catalog.jsonb;
  v_problem pg_catalog.text;
begin
  if branches is null then
    return null;  -- an aggregate of no rows
  elsif pg_catalog.cardinality(branches) not between 1 and 1000 then
    raise exception 'df.all takes 1 to 1000 branches, and got %', pg_catalog.cardinality(branches)
      using errcode = case pg_catalog.cardinality(branches) when 0 then 'invalid_parameter_value' else 'program_limit_exceeded' end;
  elsif pg_catalog.array_position(branches, null) is not null then
    raise exception 'argument % of df.all is NULL', pg_catalog.array_position(branches, null)
      using errcode = 'null_value_not_allowed',
            hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;
  foreach v_branch in array branches loop
    if (nullif(pg_catalog.current_setting('pg_durable.returned', true), '') is not null) then
      if nullif(pg_catalog.current_setting('pg_durable.returned', true), '')::pg_catalog.jsonb
        -> pg_catalog.statement_timestamp()::pg_catalog.text ? v_branch then
        raise exception '% cannot be used as a workflow step', nullif(pg_catalog.current_setting('pg_durable.returned', true), '')::pg_catalog.jsonb
        -> pg_catalog.statement_timestamp()::pg_catalog.text ->> v_branch
          using errcode = 'invalid_parameter_value',
                hint = 'It returns a value, not a graph. Call it in a statement of its own.';
      end if;
    end if;
    if pg_catalog."left"(v_branch, 1) = '@' and v_branch ~ '^\s*@[A-Za-z_][A-Za-z0-9_-]*(:[0-9]+)?\s*$' then
      raise exception '% is the name of a definition, and no step', v_branch using errcode = 'invalid_parameter_value',
        hint = pg_catalog.format('As a step it is called: df.call(%L).', v_branch);
    elsif not (pg_catalog.strpos(v_branch, '{') > 0 and v_branch ~ '^\s*\{') then
      v_nodes := v_nodes || ('{"node_type":"SQL","query":' || pg_catalog.to_json(v_branch) || '}');
      continue;
    end if;
    begin
      v_node := case when pg_catalog.strpos(v_branch, 'null') > 0 then pg_catalog.jsonb_strip_nulls(v_branch::pg_catalog.jsonb)
                     else v_branch::pg_catalog.jsonb end;
    exception when data_exception or program_limit_exceeded then
      v_node := null;
    end;
    if pg_catalog.jsonb_typeof(v_node -> 'node_type') = 'string' then
      v_problem := case
        when pg_catalog.jsonb_typeof(v_node -> 'left_node') <> 'object' then 'left_node must be a Durofut JSON object'
        when pg_catalog.jsonb_typeof(v_node -> 'right_node') <> 'object' then 'right_node must be a Durofut JSON object'
        when pg_catalog.jsonb_typeof(v_node -> 'condition_node') <> 'object' then 'condition_node must be a Durofut JSON object'
        when pg_catalog.jsonb_typeof(v_node -> 'query') <> 'string' then 'query must be a string'
        when pg_catalog.jsonb_typeof(v_node -> 'result_name') <> 'string' then 'result_name must be a string'
        when pg_catalog.jsonb_typeof(v_node -> 'extra_nodes') <> 'array' then 'extra_nodes must be an array'
        when v_node ? 'extra_nodes' and v_node @? '$.extra_nodes[*] ? (@.type() != "object")' then
          'extra_nodes entries must be Durofut JSON objects'
      end;
      if v_problem is not null then
        raise exception 'Invalid Durofut JSON: %', v_problem using errcode = 'invalid_text_representation';
      end if;
    end if;
    if v_node ->> 'node_type' in ('SQL', 'THEN', 'IF', 'JOIN', 'RACE', 'ANY', 'LOOP', 'CATCH', 'TIMEOUT', 'UNDO', 'MAP', 'BREAK', 'SLEEP', 'WAIT_SCHEDULE', 'SIGNAL', 'WAIT_FOR', 'CALL', 'HTTP', 'HTTP_MULTIPART', 'BLOCK') then
      v_nodes := v_nodes || v_branch;
    elsif v_node -> '_partial_if' = 'true' and v_node ?& array['condition', 'then_branch'] then
      v_nodes := v_nodes || df.if(v_branch::pg_catalog.json ->> 'condition', v_branch::pg_catalog.json ->> 'then_branch');
    else
      v_nodes := v_nodes || df.sql(v_branch);
    end if;
  end loop;
  return '{"node_type":"JOIN","left_node":' || v_nodes[1] || coalesce(',"right_node":' || v_nodes[2], '')
    || case when pg_catalog.cardinality(v_nodes) > 2 then
         ',"extra_nodes":[' || pg_catalog.array_to_string(v_nodes[3:], ',') || ']' else '' end || '}';
end
$$;

create or replace function df.race_all(variadic branches text[]) returns text
language plpgsql set search_path = '' as $$
declare
  v_nodes pg_catalog.text[];
begin
  if branches is null then
    return null;  -- an aggregate of no rows
  elsif pg_catalog.cardinality(branches) not between 1 and 1000 then
    raise exception 'df.race_all takes 1 to 1000 branches, and got %', pg_catalog.cardinality(branches)
      using errcode = case pg_catalog.cardinality(branches) when 0 then 'invalid_parameter_value' else 'program_limit_exceeded' end;
  elsif pg_catalog.array_position(branches, null) is not null then
    raise exception 'argument % of df.race_all is NULL', pg_catalog.array_position(branches, null)
      using errcode = 'null_value_not_allowed',
            hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;
  v_nodes := array(select case when not (pg_catalog.strpos(g.graph, '{') > 0 and g.graph ~ '^\s*\{') and pg_catalog."left"(g.graph, 1) <> '@' and (nullif(pg_catalog.current_setting('pg_durable.returned', true), '') is not null) is not true then '{"node_type":"SQL","query":' || pg_catalog.to_json(g.graph) || '}'
           when df.all(g.graph) = '{"node_type":"JOIN","left_node":' || g.graph || '}' then g.graph
           else (df.all(g.graph)::pg_catalog.json -> 'left_node')::pg_catalog.text end from pg_catalog.unnest(branches) with ordinality g(graph, place) order by g.place);
  if pg_catalog.cardinality(v_nodes) = 1 then
    return v_nodes[1];
  end if;
  if (pg_catalog.strpos(pg_catalog.array_to_string(v_nodes, ','), '"UNDO"') > 0 and pg_catalog.array_to_string(v_nodes, ',') ~ '[{,]\s*"node_type"\s*:\s*"UNDO"') then
    raise exception 'df.undo cannot be inside a race' using errcode = 'invalid_parameter_value',
      hint = 'It can be in sequences, conditions, branches of df.all and &, and in df.catch: put df.undo around the whole, or start what is inside as a run of its own.';
  end if;
  return '{"node_type":"RACE","left_node":' || v_nodes[1] || ',"right_node":' || v_nodes[2]
    || case when pg_catalog.cardinality(v_nodes) > 2 then
         ',"extra_nodes":[' || pg_catalog.array_to_string(v_nodes[3:], ',') || ']' else '' end || '}';
end
$$;

create or replace function df.any(variadic branches text[]) returns text
language plpgsql set search_path = '' as $$
declare
  v_nodes pg_catalog.text[];
begin
  if branches is null then
    return null;  -- an aggregate of no rows
  elsif pg_catalog.cardinality(branches) not between 1 and 1000 then
    raise exception 'df.any takes 1 to 1000 branches, and got %', pg_catalog.cardinality(branches)
      using errcode = case pg_catalog.cardinality(branches) when 0 then 'invalid_parameter_value' else 'program_limit_exceeded' end;
  elsif pg_catalog.array_position(branches, null) is not null then
    raise exception 'argument % of df.any is NULL', pg_catalog.array_position(branches, null)
      using errcode = 'null_value_not_allowed',
            hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;
  v_nodes := array(select case when not (pg_catalog.strpos(g.graph, '{') > 0 and g.graph ~ '^\s*\{') and pg_catalog."left"(g.graph, 1) <> '@' and (nullif(pg_catalog.current_setting('pg_durable.returned', true), '') is not null) is not true then '{"node_type":"SQL","query":' || pg_catalog.to_json(g.graph) || '}'
           when df.all(g.graph) = '{"node_type":"JOIN","left_node":' || g.graph || '}' then g.graph
           else (df.all(g.graph)::pg_catalog.json -> 'left_node')::pg_catalog.text end from pg_catalog.unnest(branches) with ordinality g(graph, place) order by g.place);
  if pg_catalog.cardinality(v_nodes) = 1 then
    return v_nodes[1];
  end if;
  if (pg_catalog.strpos(pg_catalog.array_to_string(v_nodes, ','), '"UNDO"') > 0 and pg_catalog.array_to_string(v_nodes, ',') ~ '[{,]\s*"node_type"\s*:\s*"UNDO"') then
    raise exception 'df.undo cannot be inside a race' using errcode = 'invalid_parameter_value',
      hint = 'It can be in sequences, conditions, branches of df.all and &, and in df.catch: put df.undo around the whole, or start what is inside as a run of its own.';
  end if;
  return '{"node_type":"ANY","left_node":' || v_nodes[1] || ',"right_node":' || v_nodes[2]
    || case when pg_catalog.cardinality(v_nodes) > 2 then
         ',"extra_nodes":[' || pg_catalog.array_to_string(v_nodes[3:], ',') || ']' else '' end || '}';
end
$$;

-- A balanced tree: a sequence that is nested to one side would soon be too deep.
create or replace function df.chain(variadic steps text[]) returns text
language plpgsql set search_path = '' as $$
declare
  v_nodes pg_catalog.text[];
begin
  if steps is null then
    return null;  -- an aggregate of no rows
  elsif pg_catalog.cardinality(steps) not between 1 and 5000 then
    raise exception 'df.chain takes 1 to 5000 steps, and got %', pg_catalog.cardinality(steps)
      using errcode = case pg_catalog.cardinality(steps) when 0 then 'invalid_parameter_value' else 'program_limit_exceeded' end;
  elsif pg_catalog.array_position(steps, null) is not null then
    raise exception 'argument % of df.chain is NULL', pg_catalog.array_position(steps, null)
      using errcode = 'null_value_not_allowed',
            hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;
  v_nodes := array(select case when not (pg_catalog.strpos(g.graph, '{') > 0 and g.graph ~ '^\s*\{') and pg_catalog."left"(g.graph, 1) <> '@' and (nullif(pg_catalog.current_setting('pg_durable.returned', true), '') is not null) is not true then '{"node_type":"SQL","query":' || pg_catalog.to_json(g.graph) || '}'
           when df.all(g.graph) = '{"node_type":"JOIN","left_node":' || g.graph || '}' then g.graph
           else (df.all(g.graph)::pg_catalog.json -> 'left_node')::pg_catalog.text end from pg_catalog.unnest(steps) with ordinality g(graph, place) order by g.place);
  while pg_catalog.cardinality(v_nodes) > 1 loop
    v_nodes := array(
      select case when b.node is null then a.node else '{"node_type":"THEN","left_node":' || a.node || ',"right_node":' || b.node || '}' end
      from pg_catalog.unnest(v_nodes) with ordinality a(node, place)
      left join pg_catalog.unnest(v_nodes) with ordinality b(node, place) on b.place = a.place + 1
      where a.place % 2 = 1
      order by a.place);
  end loop;
  return v_nodes[1];
end
$$;

create or replace aggregate df.all_agg(text) (sfunc = pg_catalog.array_append, stype = text[], finalfunc = df.all);
comment on aggregate df.all_agg(text) is
  'df.all of all rows, in the order of ORDER BY inside; no rows give NULL';
create or replace aggregate df.chain_agg(text) (sfunc = pg_catalog.array_append, stype = text[], finalfunc = df.chain);
comment on aggregate df.chain_agg(text) is
  'df.chain of all rows, in the order of ORDER BY inside; no rows give NULL';

create or replace function df.if(condition text, then_branch text, else_branch text) returns text
language plpgsql set search_path = '' as $$
begin
  if condition is null then
    raise exception 'argument condition of df.if is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;
  if then_branch is null then
    raise exception 'argument then_branch of df.if is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;
  if else_branch is null then
    raise exception 'argument else_branch of df.if is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;

  return '{"node_type":"IF","left_node":' || case when not (pg_catalog.strpos(then_branch, '{') > 0 and then_branch ~ '^\s*\{') and pg_catalog."left"(then_branch, 1) <> '@' and (nullif(pg_catalog.current_setting('pg_durable.returned', true), '') is not null) is not true then '{"node_type":"SQL","query":' || pg_catalog.to_json(then_branch) || '}'
         when df.all(then_branch) = '{"node_type":"JOIN","left_node":' || then_branch || '}' then then_branch
         else (df.all(then_branch)::pg_catalog.json -> 'left_node')::pg_catalog.text end
    || ',"right_node":' || case when not (pg_catalog.strpos(else_branch, '{') > 0 and else_branch ~ '^\s*\{') and pg_catalog."left"(else_branch, 1) <> '@' and (nullif(pg_catalog.current_setting('pg_durable.returned', true), '') is not null) is not true then '{"node_type":"SQL","query":' || pg_catalog.to_json(else_branch) || '}'
         when df.all(else_branch) = '{"node_type":"JOIN","left_node":' || else_branch || '}' then else_branch
         else (df.all(else_branch)::pg_catalog.json -> 'left_node')::pg_catalog.text end
    || ',"condition_node":' || case when not (pg_catalog.strpos(condition, '{') > 0 and condition ~ '^\s*\{') and pg_catalog."left"(condition, 1) <> '@' and (nullif(pg_catalog.current_setting('pg_durable.returned', true), '') is not null) is not true then '{"node_type":"SQL","query":' || pg_catalog.to_json(condition) || '}'
         when df.all(condition) = '{"node_type":"JOIN","left_node":' || condition || '}' then condition
         else (df.all(condition)::pg_catalog.json -> 'left_node')::pg_catalog.text end || '}';
end
$$;

create or replace function df.if(condition text, then_branch text) returns text
language plpgsql set search_path = '' as $$
begin
  if condition is null then
    raise exception 'argument condition of df.if is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;
  if then_branch is null then
    raise exception 'argument then_branch of df.if is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;

  return '{"node_type":"IF","left_node":' || case when not (pg_catalog.strpos(then_branch, '{') > 0 and then_branch ~ '^\s*\{') and pg_catalog."left"(then_branch, 1) <> '@' and (nullif(pg_catalog.current_setting('pg_durable.returned', true), '') is not null) is not true then '{"node_type":"SQL","query":' || pg_catalog.to_json(then_branch) || '}'
         when df.all(then_branch) = '{"node_type":"JOIN","left_node":' || then_branch || '}' then then_branch
         else (df.all(then_branch)::pg_catalog.json -> 'left_node')::pg_catalog.text end
    || ',"condition_node":' || case when not (pg_catalog.strpos(condition, '{') > 0 and condition ~ '^\s*\{') and pg_catalog."left"(condition, 1) <> '@' and (nullif(pg_catalog.current_setting('pg_durable.returned', true), '') is not null) is not true then '{"node_type":"SQL","query":' || pg_catalog.to_json(condition) || '}'
         when df.all(condition) = '{"node_type":"JOIN","left_node":' || condition || '}' then condition
         else (df.all(condition)::pg_catalog.json -> 'left_node')::pg_catalog.text end || '}';
end
$$;

create or replace function df.if_rows(result_name text, then_branch text, else_branch text) returns text
language plpgsql set search_path = '' as $$
begin
  if result_name is null then
    raise exception 'argument result_name of df.if_rows is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;
  if then_branch is null then
    raise exception 'argument then_branch of df.if_rows is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;
  if else_branch is null then
    raise exception 'argument else_branch of df.if_rows is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;

  return '{"node_type":"IF","left_node":' || case when not (pg_catalog.strpos(then_branch, '{') > 0 and then_branch ~ '^\s*\{') and pg_catalog."left"(then_branch, 1) <> '@' and (nullif(pg_catalog.current_setting('pg_durable.returned', true), '') is not null) is not true then '{"node_type":"SQL","query":' || pg_catalog.to_json(then_branch) || '}'
         when df.all(then_branch) = '{"node_type":"JOIN","left_node":' || then_branch || '}' then then_branch
         else (df.all(then_branch)::pg_catalog.json -> 'left_node')::pg_catalog.text end
    || ',"right_node":' || case when not (pg_catalog.strpos(else_branch, '{') > 0 and else_branch ~ '^\s*\{') and pg_catalog."left"(else_branch, 1) <> '@' and (nullif(pg_catalog.current_setting('pg_durable.returned', true), '') is not null) is not true then '{"node_type":"SQL","query":' || pg_catalog.to_json(else_branch) || '}'
         when df.all(else_branch) = '{"node_type":"JOIN","left_node":' || else_branch || '}' then else_branch
         else (df.all(else_branch)::pg_catalog.json -> 'left_node')::pg_catalog.text end
    || ',"query":' || pg_catalog.to_json(
         '{"condition_type":"result_has_rows","result_name":' || pg_catalog.to_json(result_name) || '}') || '}';
end
$$;

create or replace function df.as(fut text, name text) returns text
language plpgsql set search_path = '' as $$
begin
  if fut is null then
    raise exception 'argument fut of df.as is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;
  if name is null then
    raise exception 'argument name of df.as is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;

  if name = '' then
    raise exception 'the name of a result cannot be empty' using errcode = 'invalid_parameter_value';
  elsif name !~ '^[A-Za-z_][A-Za-z0-9_]*$' then
    raise exception '"%" is not a valid identifier', name
      using errcode = 'invalid_parameter_value',
            hint = 'The name of a result begins with a letter or _, and goes on with letters, digits and _.';
  elsif pg_catalog.octet_length(name) > 63 then
    raise exception 'the name of a result has % bytes, and 63 are allowed', pg_catalog.octet_length(name)
      using errcode = 'program_limit_exceeded';
  elsif name in ('input', 'item', 'item_no', 'error') then
    raise exception '$% is what a run binds itself: no result can have this name', name
      using errcode = 'invalid_parameter_value', hint = 'Give the result another name.';
  end if;
  return (
    select '{' || pg_catalog.string_agg(pg_catalog.to_json(k.key) || ':' || k.value, ',' order by known.place) || '}'
    from (
      select e.key, e.value
      from pg_catalog.json_each(df.all(fut)::pg_catalog.json -> 'left_node') e
      where e.key <> 'result_name'
      union all
      select 'result_name', pg_catalog.to_json(name)
    ) k
    join pg_catalog.unnest(array['node_type', 'left_node', 'right_node', 'condition_node', 'extra_nodes', 'query', 'result_name', 'retry']) with ordinality known(key, place) on known.key = k.key);
end
$$;

create or replace function df.break(value text default null) returns text
language plpgsql set search_path = '' as $$
begin
  return '{"node_type":"BREAK","query":'
    || pg_catalog.to_json('{"break_value":' || coalesce(pg_catalog.to_json(value)::pg_catalog.text, 'null') || '}') || '}';
end
$$;

comment on function df.sql(text) is
  'The node of an SQL statement. The text is taken verbatim, even if it looks like an envelope';
comment on function df.seq(text, text) is
  'First a, then b; the result is that of b';
comment on function df.as(text, text) is
  'Names the result of a graph, for $name in later steps; replaces an earlier name. Raises for a name that is not an identifier';
comment on function df.loop(text, text, boolean) is
  'Repeats the body as long as the condition, judged after it, is true; without a condition until df.break ends it. With continue_on_failure a failure of the body is recorded and, after a pause that grows with each failure in a row, the next iteration begins';
comment on function df.break(text) is
  'Ends the nearest enclosing loop, whose result becomes the value: JSON if it parses, else a string';
comment on function df.if(text, text, text) is
  'Runs the condition, then one of the branches; the result is that of the branch';
comment on function df.if(text, text) is
  'Runs the condition and, if it is true, the branch; if it is not, the result is null';
comment on function df.if_rows(text, text, text) is
  'Runs the first branch if the named result has rows, else the second';
comment on function df.join(text, text) is
  'Runs both in parallel and waits for both; the result is the array of theirs';
comment on function df.join3(text, text, text) is
  'Runs the three in parallel and waits for all; the result is the array of theirs';
comment on function df.race(text, text) is
  'Runs both in parallel; the one that finishes first decides, and the other is cancelled';
comment on function df.all(text[]) is
  'Runs all branches in parallel and waits for all of them; the result is the array of theirs. 1 to 1000 branches';
comment on function df.race_all(text[]) is
  'Runs all branches in parallel; the one that ends first decides, and the others are cancelled';
comment on function df.any(text[]) is
  'Runs all branches in parallel; the first one that succeeds decides, and the others are cancelled. Fails when all have failed, with all errors';
comment on function df.chain(text[]) is
  'Runs the steps one after the other; the result is that of the last';

-- Builders of what deals with failures and time: df.catch, df.undo, df.timeout, df.retry. As all builders: see graph/builders.

create or replace function df.catch(body text, handler text, errors text[] default null) returns text
language plpgsql set search_path = '' as $$
declare
  v_config constant pg_catalog.text := '{"errors":' || pg_catalog.to_json(errors) || '}';
  v_problem pg_catalog.text;
begin
  if body is null then
    raise exception 'argument body of df.catch is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;
  if handler is null then
    raise exception 'argument handler of df.catch is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;

  v_problem := case when not pg_catalog.jsonb_path_match(pg_catalog.to_jsonb(errors), '$.type() == "array" && !exists($[*] ? (@.type() != "string" || !(@ like_regex "^([0-9A-Z]{5}|[0-9A-Z]{2}|connection|timeout|transient|http:[1-5]([0-9][0-9]|xx))$")))') then 'errors ' || 'must list SQLSTATEs, classes of them, connection, timeout, transient, http:404 or http:4xx' end;
  if v_problem is not null then
    raise exception 'df.catch: %', v_problem using errcode = 'invalid_parameter_value',
      hint = 'Such as array[''23505'', ''40'', ''http:5xx'', ''DF408'']; without a list every failure is caught.';
  end if;
  return '{"node_type":"CATCH","left_node":' || case when not (pg_catalog.strpos(body, '{') > 0 and body ~ '^\s*\{') and pg_catalog."left"(body, 1) <> '@' and (nullif(pg_catalog.current_setting('pg_durable.returned', true), '') is not null) is not true then '{"node_type":"SQL","query":' || pg_catalog.to_json(body) || '}'
         when df.all(body) = '{"node_type":"JOIN","left_node":' || body || '}' then body
         else (df.all(body)::pg_catalog.json -> 'left_node')::pg_catalog.text end || ',"right_node":' || case when not (pg_catalog.strpos(handler, '{') > 0 and handler ~ '^\s*\{') and pg_catalog."left"(handler, 1) <> '@' and (nullif(pg_catalog.current_setting('pg_durable.returned', true), '') is not null) is not true then '{"node_type":"SQL","query":' || pg_catalog.to_json(handler) || '}'
         when df.all(handler) = '{"node_type":"JOIN","left_node":' || handler || '}' then handler
         else (df.all(handler)::pg_catalog.json -> 'left_node')::pg_catalog.text end
    || coalesce(',"query":' || pg_catalog.to_json(v_config), '') || '}';
end
$$;

create or replace function df.undo(step text, compensation text) returns text
language plpgsql set search_path = '' as $$
declare
  v_compensation pg_catalog.text;
begin
  if step is null then
    raise exception 'argument step of df.undo is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;
  if compensation is null then
    raise exception 'argument compensation of df.undo is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;

  v_compensation := case when not (pg_catalog.strpos(compensation, '{') > 0 and compensation ~ '^\s*\{') and pg_catalog."left"(compensation, 1) <> '@' and (nullif(pg_catalog.current_setting('pg_durable.returned', true), '') is not null) is not true then '{"node_type":"SQL","query":' || pg_catalog.to_json(compensation) || '}'
         when df.all(compensation) = '{"node_type":"JOIN","left_node":' || compensation || '}' then compensation
         else (df.all(compensation)::pg_catalog.json -> 'left_node')::pg_catalog.text end;
  if (pg_catalog.strpos(v_compensation, '"UNDO"') > 0 and v_compensation ~ '[{,]\s*"node_type"\s*:\s*"UNDO"') then
    raise exception 'df.undo cannot be inside a compensation' using errcode = 'invalid_parameter_value',
      hint = 'It can be in sequences, conditions, branches of df.all and &, and in df.catch: put df.undo around the whole, or start what is inside as a run of its own.';
  end if;
  return '{"node_type":"UNDO","left_node":' || case when not (pg_catalog.strpos(step, '{') > 0 and step ~ '^\s*\{') and pg_catalog."left"(step, 1) <> '@' and (nullif(pg_catalog.current_setting('pg_durable.returned', true), '') is not null) is not true then '{"node_type":"SQL","query":' || pg_catalog.to_json(step) || '}'
         when df.all(step) = '{"node_type":"JOIN","left_node":' || step || '}' then step
         else (df.all(step)::pg_catalog.json -> 'left_node')::pg_catalog.text end || ',"right_node":' || v_compensation || '}';
end
$$;

create or replace function df.timeout(body text, after numeric, otherwise text default null) returns text
language plpgsql set search_path = '' as $$
declare
  v_parts pg_catalog.text;
begin
  if body is null then
    raise exception 'argument body of df.timeout is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;
  if after is null then
    raise exception 'argument after of df.timeout is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;

  v_parts := case when not (pg_catalog.strpos(body, '{') > 0 and body ~ '^\s*\{') and pg_catalog."left"(body, 1) <> '@' and (nullif(pg_catalog.current_setting('pg_durable.returned', true), '') is not null) is not true then '{"node_type":"SQL","query":' || pg_catalog.to_json(body) || '}'
           when df.all(body) = '{"node_type":"JOIN","left_node":' || body || '}' then body
           else (df.all(body)::pg_catalog.json -> 'left_node')::pg_catalog.text end
    || case when otherwise is null then '' else ',"right_node":' || case when not (pg_catalog.strpos(otherwise, '{') > 0 and otherwise ~ '^\s*\{') and pg_catalog."left"(otherwise, 1) <> '@' and (nullif(pg_catalog.current_setting('pg_durable.returned', true), '') is not null) is not true then '{"node_type":"SQL","query":' || pg_catalog.to_json(otherwise) || '}'
           when df.all(otherwise) = '{"node_type":"JOIN","left_node":' || otherwise || '}' then otherwise
           else (df.all(otherwise)::pg_catalog.json -> 'left_node')::pg_catalog.text end end;
  if (pg_catalog.strpos(v_parts, '"UNDO"') > 0 and v_parts ~ '[{,]\s*"node_type"\s*:\s*"UNDO"') then
    raise exception 'df.undo cannot be inside a time-out' using errcode = 'invalid_parameter_value',
      hint = 'It can be in sequences, conditions, branches of df.all and &, and in df.catch: put df.undo around the whole, or start what is inside as a run of its own.';
  end if;
  if not (after > 0 and after <= 3155760000) then
    raise exception 'the time of df.timeout must be above 0 and at most 3155760000 s (100 years), not % s', after
      using errcode = 'invalid_parameter_value';
  end if;
  return '{"node_type":"TIMEOUT","left_node":' || v_parts
    || ',"query":' || pg_catalog.to_json('{"after":' || pg_catalog.trim_scale(after) || '}') || '}';
end
$$;

create or replace function df.timeout(body text, after double precision, otherwise text default null) returns text
language plpgsql set search_path = '' as $$
begin
  return df.timeout(body, after::pg_catalog.numeric, otherwise);
end
$$;

create or replace function df.timeout(body text, after interval, otherwise text default null) returns text
language plpgsql set search_path = '' as $$
begin
  return df.timeout(body, extract(epoch from after)::pg_catalog.numeric, otherwise);
end
$$;

-- Untyped literals and parameters resolve to this one. A time with references is known when the body begins.
create or replace function df.timeout(body text, after text, otherwise text default null) returns text
language plpgsql set search_path = '' as $$
declare
  v_seconds pg_catalog.numeric;
  v_parts pg_catalog.text;
begin
  if body is null then
    raise exception 'argument body of df.timeout is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;
  if after is null then
    raise exception 'argument after of df.timeout is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;

  if after ~ $re$\$[A-Za-z_]|[{][A-Za-z_][A-Za-z0-9_]*[}]$re$ then
    v_parts := case when not (pg_catalog.strpos(body, '{') > 0 and body ~ '^\s*\{') and pg_catalog."left"(body, 1) <> '@' and (nullif(pg_catalog.current_setting('pg_durable.returned', true), '') is not null) is not true then '{"node_type":"SQL","query":' || pg_catalog.to_json(body) || '}'
             when df.all(body) = '{"node_type":"JOIN","left_node":' || body || '}' then body
             else (df.all(body)::pg_catalog.json -> 'left_node')::pg_catalog.text end
      || case when otherwise is null then '' else ',"right_node":' || case when not (pg_catalog.strpos(otherwise, '{') > 0 and otherwise ~ '^\s*\{') and pg_catalog."left"(otherwise, 1) <> '@' and (nullif(pg_catalog.current_setting('pg_durable.returned', true), '') is not null) is not true then '{"node_type":"SQL","query":' || pg_catalog.to_json(otherwise) || '}'
             when df.all(otherwise) = '{"node_type":"JOIN","left_node":' || otherwise || '}' then otherwise
             else (df.all(otherwise)::pg_catalog.json -> 'left_node')::pg_catalog.text end end;
    if (pg_catalog.strpos(v_parts, '"UNDO"') > 0 and v_parts ~ '[{,]\s*"node_type"\s*:\s*"UNDO"') then
      raise exception 'df.undo cannot be inside a time-out' using errcode = 'invalid_parameter_value',
        hint = 'It can be in sequences, conditions, branches of df.all and &, and in df.catch: put df.undo around the whole, or start what is inside as a run of its own.';
    end if;
    return '{"node_type":"TIMEOUT","left_node":' || v_parts
    || ',"query":' || pg_catalog.to_json('{"after":' || pg_catalog.to_json(after) || '}') || '}';
  end if;
  begin
    v_seconds := case when after ~ '^[[:space:]]*[+-]?([0-9]|[.][0-9])[0-9.eE+-]*[[:space:]]*$' then after::pg_catalog.numeric
                      else extract(epoch from after::pg_catalog.interval) end;
  exception when data_exception then
    raise exception '"%" is no duration', left(after, 100)
      using errcode = 'invalid_parameter_value', hint = 'Write seconds, such as 0.5, or an interval, such as 5 minutes.';
  end;
  return df.timeout(body, v_seconds, otherwise);
end
$$;

create or replace function df.retry(fut text, max_attempts integer default null, initial_delay interval default null,
  backoff numeric default null, max_delay interval default null, retry_on text[] default null) returns text
language plpgsql set search_path = '' as $$
declare
  v_policy pg_catalog.text;
  v_type pg_catalog.text;
  v_problem pg_catalog.text;
begin
  if fut is null then
    raise exception 'argument fut of df.retry is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;

  v_type := df.all(fut)::pg_catalog.json #>> '{left_node,node_type}';
  v_policy := '{' || pg_catalog.concat_ws(',',
    '"max_attempts":' || max_attempts,
    '"initial_delay":' || pg_catalog.to_json(pg_catalog.trim_scale(extract(epoch from initial_delay))),
    '"backoff":' || pg_catalog.to_json(pg_catalog.trim_scale(backoff)),
    '"max_delay":' || pg_catalog.to_json(pg_catalog.trim_scale(extract(epoch from max_delay))),
    '"retry_on":' || pg_catalog.to_json(retry_on)) || '}';
  v_problem := case when v_type not in ('SQL', 'BLOCK', 'HTTP', 'HTTP_MULTIPART', 'WAIT_FOR') then 'retry is not valid for ' || v_type || ' nodes'
    else case
      when pg_catalog.jsonb_typeof(v_policy::pg_catalog.jsonb) <> 'object' then 'retry must be a JSON object'
      else (
        select 'retry: ' || coalesce(given.key || ' ' || rule.says, 'unknown key ' || given.key)
        from pg_catalog.jsonb_each(v_policy::pg_catalog.jsonb) given
        left join (values
          ('max_attempts', '$.type() == "number" && $ >= 1 && $ <= 1000 && $.floor() == $', 'must be an integer from 1 to 1000'),
          ('initial_delay', '$.type() == "number" && $ >= 0 && $ <= 86400', 'must be from 0 to 86400 s'),
          ('backoff', '$.type() == "number" && $ >= 1', 'must be a number of at least 1'),
          ('max_delay', '$.type() == "number" && $ >= 0 && $ <= 86400', 'must be from 0 to 86400 s'),
          ('retry_on', '$.type() == "array" && !exists($[*] ? (@.type() != "string" || !(@ like_regex "^([0-9A-Z]{5}|[0-9A-Z]{2}|connection|timeout|transient|http:[1-5]([0-9][0-9]|xx))$")))', 'must list SQLSTATEs, classes of them, connection, timeout, transient, http:404 or http:4xx')
        ) rule(key, valid, says) on rule.key = given.key
        where pg_catalog.jsonb_path_match(given.value, rule.valid::pg_catalog.jsonpath) is not true
        order by given.key
        limit 1)
    end end;
  if v_problem is not null then
    raise exception '%', v_problem using errcode = 'invalid_parameter_value',
      hint = 'df.retry takes one SQL or HTTP step, or a block: put it around each step that is to be tried again.';
  end if;
  return (
    select '{' || pg_catalog.string_agg(pg_catalog.to_json(k.key) || ':' || k.value, ',' order by known.place) || '}'
    from (
      select e.key, e.value
      from pg_catalog.json_each(df.all(fut)::pg_catalog.json -> 'left_node') e
      where e.key <> 'retry'
      union all
      select 'retry', v_policy::pg_catalog.json
    ) k
    join pg_catalog.unnest(array['node_type', 'left_node', 'right_node', 'condition_node', 'extra_nodes', 'query', 'result_name', 'retry']) with ordinality known(key, place) on known.key = k.key);
end
$$;

comment on function df.catch(text, text, text[]) is
  'Runs the body; when it fails for good with one of the errors (SQLSTATEs, their classes, connection, timeout, http:404, http:4xx, transient; NULL is any), the handler runs, in which $error is the failure. The result is that of the body or of the handler. Raises for an element that is no such error';
comment on function df.undo(text, text) is
  'Runs the step; once it has completed, its compensation is kept with the values that the references in it have then. When the run fails, or df.cancel is called with undo, the compensations run in reverse order. A failure that df.catch catches runs those of its body before the handler. The result is that of the step. Raises inside races, time-outs, maps and loops';
comment on function df.timeout(text, numeric, text) is
  'Stops the body when so many seconds have passed since it began, then runs otherwise; without it the node fails with DF408, which can be caught. Raises for a time that is not above 0';
comment on function df.timeout(text, double precision, text) is
  'The same, with a number of any other type';
comment on function df.timeout(text, interval, text) is
  'The same with an interval, in which a month counts 30 days';
comment on function df.timeout(text, text, text) is
  'The same with a duration as text: seconds (0.5), an interval (5 minutes), or one with references (2 * $cfg.pause), which are resolved when the body begins';
comment on function df.retry(text, integer, interval, numeric, interval, text[]) is
  'Sets how a step is tried again when it fails; what is NULL keeps its default. retry_on lists SQLSTATEs, their classes, connection, timeout, http:404, http:4xx and transient; NULL is every error that may be retried';

-- The builder of maps: df.map. As all builders: see graph/builders.

create or replace function df.map(items text, body text, parallel integer default 10, on_error text default 'fail',
  collect_values boolean default true) returns text
language plpgsql set search_path = '' as $$
declare
  v_items pg_catalog.text;
  v_body pg_catalog.text;
  v_type pg_catalog.text;
  v_rows pg_catalog.text;
  v_problem pg_catalog.text;
begin
  if items is null then
    raise exception 'argument items of df.map is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;
  if body is null then
    raise exception 'argument body of df.map is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;
  if parallel is null then
    raise exception 'argument parallel of df.map is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;
  if on_error is null then
    raise exception 'argument on_error of df.map is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;
  if collect_values is null then
    raise exception 'argument collect_values of df.map is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;

  v_items := case when not (pg_catalog.strpos(items, '{') > 0 and items ~ '^\s*\{') and pg_catalog."left"(items, 1) <> '@' and (nullif(pg_catalog.current_setting('pg_durable.returned', true), '') is not null) is not true then '{"node_type":"SQL","query":' || pg_catalog.to_json(items) || '}'
         when df.all(items) = '{"node_type":"JOIN","left_node":' || items || '}' then items
         else (df.all(items)::pg_catalog.json -> 'left_node')::pg_catalog.text end;
  v_type := v_items::pg_catalog.json ->> 'node_type';
  if v_type = 'SQL' then
    v_rows := pg_catalog.substring(v_items::pg_catalog.json ->> 'query', '^[[:space:]]*([$][A-Za-z_][A-Za-z0-9_]*[.][*])[[:space:]]*$');
  end if;
  v_problem := case
    when v_type not in ('SQL', 'BLOCK') then 'its items come from a step that returns rows or from ''$name.*'', not from a node of type ' || v_type
    else (
      select case c.key
        when 'parallel' then 'parallel must be a whole number from 1 to 1000'
        when 'on_error' then 'on_error must be fail, stop, collect'
        when 'collect_values' then 'collect_values must be true or false'
        when 'items' then 'items must be all rows of a name, such as $name.*'
        else 'unknown key ' || c.key end
      from pg_catalog.jsonb_each(pg_catalog.jsonb_build_object('parallel', parallel, 'on_error', on_error)) c(key, value)
      where case c.key
        when 'parallel' then pg_catalog.jsonb_path_match(c.value, '$.type() == "number" && $ >= 1 && $ <= 1000 && $.floor() == $')
        when 'on_error' then c.value #>> '{}' in ('fail', 'stop', 'collect')
        when 'collect_values' then pg_catalog.jsonb_typeof(c.value) = 'boolean'
        when 'items' then c.value #>> '{}' ~ '^[[:space:]]*([$][A-Za-z_][A-Za-z0-9_]*[.][*])[[:space:]]*$' end is not true
      order by c.key limit 1) end;
  if v_problem is not null then
    raise exception 'df.map: %', v_problem using errcode = 'invalid_parameter_value';
  end if;
  v_body := case when not (pg_catalog.strpos(body, '{') > 0 and body ~ '^\s*\{') and pg_catalog."left"(body, 1) <> '@' and (nullif(pg_catalog.current_setting('pg_durable.returned', true), '') is not null) is not true then '{"node_type":"SQL","query":' || pg_catalog.to_json(body) || '}'
         when df.all(body) = '{"node_type":"JOIN","left_node":' || body || '}' then body
         else (df.all(body)::pg_catalog.json -> 'left_node')::pg_catalog.text end;
  if (pg_catalog.strpos(v_body, '"UNDO"') > 0 and v_body ~ '[{,]\s*"node_type"\s*:\s*"UNDO"') then
    raise exception 'df.undo cannot be inside a map' using errcode = 'invalid_parameter_value',
      hint = 'It can be in sequences, conditions, branches of df.all and &, and in df.catch: put df.undo around the whole, or start what is inside as a run of its own.';
  end if;
  return '{"node_type":"MAP","left_node":' || v_body
    || case when v_rows is null then ',"condition_node":' || v_items else '' end
    || ',"query":' || pg_catalog.to_json('{' || pg_catalog.concat_ws(',',
      '"items":' || pg_catalog.to_json(v_rows), '"parallel":' || parallel, '"on_error":' || pg_catalog.to_json(on_error),
      case when not collect_values then '"collect_values":false' end) || '}') || '}';
end
$$;
comment on function df.map(text, text, integer, text, boolean) is
  'Runs the body once for each row of items, which is a statement or ''$name.*'', with $item and $item_no, parallel rows at a time (1 to 1000), in their order. The result is the array of the results, or with collect_values => false {"ok": n, "failed": m}. on_error: fail (no further row begins, then it fails), stop (those that run are stopped), collect (each result says whether it is one). A statement that returns no rows, such as an INSERT without RETURNING, gives no items. Raises for items of any other kind';

-- Builders of waits: for a time, a schedule, a signal, data. As all builders: see graph/builders.

create or replace function df.sleep(seconds numeric) returns text
language plpgsql set search_path = '' as $$
begin
  if seconds is null then
    raise exception 'argument seconds of df.sleep is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;

  if seconds < 0 then
    raise exception 'the duration of a sleep must be non-negative, not % s', seconds
      using errcode = 'invalid_parameter_value', hint = 'df.sleep(0) goes on at once.';
  elsif seconds > 3155760000 then
    raise exception 'the duration of a sleep must be at most 3155760000 s (100 years), not % s', seconds
      using errcode = 'invalid_parameter_value', hint = 'A wait without a limit is one for a signal.';
  end if;
  return '{"node_type":"SLEEP","query":"' || pg_catalog.trim_scale(seconds) || '"}';
end
$$;

-- Integers of all sizes resolve to this one, whose type is the preferred one of all numbers.
create or replace function df.sleep(seconds double precision) returns text
language plpgsql set search_path = '' as $$
begin
  return df.sleep(seconds::pg_catalog.numeric);
end
$$;

create or replace function df.sleep(duration interval) returns text
language plpgsql set search_path = '' as $$
begin
  if duration is null then
    raise exception 'argument duration of df.sleep is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;

  return df.sleep(extract(epoch from duration));
end
$$;

-- Untyped literals and parameters resolve to this one.
create or replace function df.sleep(duration text) returns text
language plpgsql set search_path = '' as $$
declare
  v_seconds pg_catalog.numeric;
begin
  if duration is null then
    raise exception 'argument duration of df.sleep is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;

  if duration ~ $re$\$[A-Za-z_]|[{][A-Za-z_][A-Za-z0-9_]*[}]$re$ then
    return '{"node_type":"SLEEP","query":' || pg_catalog.to_json('{"duration":' || pg_catalog.to_json(duration) || '}') || '}';
  end if;
  begin
    v_seconds := case when duration ~ '^[[:space:]]*[+-]?([0-9]|[.][0-9])[0-9.eE+-]*[[:space:]]*$' then duration::pg_catalog.numeric
                      else extract(epoch from duration::pg_catalog.interval) end;
  exception when data_exception then
    raise exception '"%" is no duration', left(duration, 100)
      using errcode = 'invalid_parameter_value', hint = 'Write seconds, such as 0.5, or an interval, such as 5 minutes.';
  end;
  return df.sleep(v_seconds);
end
$$;

create or replace function df.sleep_until(due timestamptz) returns text
language plpgsql set search_path = '' as $$
begin
  if due is null then
    raise exception 'argument due of df.sleep_until is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;

  if due > pg_catalog.now() + interval '36525 days' then
    raise exception 'a sleep must end within 100 years, not at %', due
      using errcode = 'invalid_parameter_value', hint = 'A wait without a limit is one for a signal.';
  end if;
  return '{"node_type":"SLEEP","query":' || pg_catalog.to_json(
    '{"until":"' || (pg_catalog.to_json(due at time zone 'UTC') #>> '{}') || 'Z"}') || '}';
end
$$;

-- Untyped literals and parameters resolve to this one.
create or replace function df.sleep_until(due text) returns text
language plpgsql set search_path = '' as $$
declare
  v_due pg_catalog.timestamptz;
begin
  if due is null then
    raise exception 'argument due of df.sleep_until is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;

  if due ~ $re$\$[A-Za-z_]|[{][A-Za-z_][A-Za-z0-9_]*[}]$re$ then
    return '{"node_type":"SLEEP","query":' || pg_catalog.to_json('{"until":' || pg_catalog.to_json(due) || '}') || '}';
  end if;
  begin
    v_due := due::pg_catalog.timestamptz;
  exception when data_exception then
    raise exception '"%" is no time', due
      using errcode = 'invalid_parameter_value', hint = 'Write a date and a time, such as 2030-01-31 08:00:00+01.';
  end;
  return df.sleep_until(v_due);
end
$$;

create or replace function df.wait_for_schedule(cron_expr text, timezone text default null) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_fields text[] := case when octet_length(cron_expr) <= 1024 then (
    select regexp_split_to_array(
      case v_line
        when '@HOURLY' then '0 * * * *'
        when '@DAILY' then '0 0 * * *'
        when '@MIDNIGHT' then '0 0 * * *'
        when '@WEEKLY' then '0 0 * * 0'
        when '@MONTHLY' then '0 0 1 * *'
        when '@YEARLY' then '0 0 1 1 *'
        when '@ANNUALLY' then '0 0 1 1 *'
        else v_line
      end, '[[:space:]]+')
    from upper(btrim(cron_expr, E' \t\n\r') collate "C") v_line) end;
  v_problem text;
begin
  if cron_expr is null then
    return null;
  elsif v_fields is null then
    raise exception 'a cron expression has at most 1024 bytes, and this one has %', octet_length(cron_expr)
      using errcode = 'program_limit_exceeded';
  end if;
  v_problem := case when cardinality(v_fields) <> 5 then
    'expected five fields or one of @hourly, @daily, @midnight, @weekly, @monthly, @yearly, @annually'
  else (
    select coalesce(
      (array_agg(i.problem) filter (where i.problem is not null))[1],
      case when ((v_fields)[3] ~ '^[*?]' or (v_fields)[5] ~ '^[*?]')
                and min(i.first_value % 32) filter (where i.field = 3) > max(m.days) then
        'no month in it has such a day, so it never comes due' end)
    from (select g.field, r.first_value, r.last_value, r.step, case
        when p.part is null
          then format('%s: "%s" is not *, a value, a range or one of them with a step; values go from %s to %s%s',
            g.name, i.item, g.low, g.high, ' or ' || g.names[1] || ' to ' || g.names[cardinality(g.names)])
        when r.first_value > r.last_value then format('%s: the range "%s" descends', g.name, i.item)
        when r.step > g.high then format('%s: the step of "%s" is above %s', g.name, i.item, g.high)
      end as problem
    from (values
      (1, 'minute', 0, 59, array[]::pg_catalog.text[],
        E'^(?:(\\*)|(0*[1-5]?[0-9])(?:-(0*[1-5]?[0-9]))?)(?:/(0*[1-9][0-9]?))?$'),
      (2, 'hour', 0, 23, array[]::pg_catalog.text[],
        E'^(?:(\\*)|(0*(?:1?[0-9]|2[0-3]))(?:-(0*(?:1?[0-9]|2[0-3])))?)(?:/(0*[1-9][0-9]?))?$'),
      (3, 'day of month', 1, 31, array[]::pg_catalog.text[],
        E'^(?:(\\*|\\?)|(0*(?:[1-9]|[12][0-9]|3[01]))(?:-(0*(?:[1-9]|[12][0-9]|3[01])))?)(?:/(0*[1-9][0-9]?))?$|^L$'),
      (4, 'month', 1, 12, array['JAN', 'FEB', 'MAR', 'APR', 'MAY', 'JUN', 'JUL', 'AUG', 'SEP', 'OCT', 'NOV', 'DEC']::pg_catalog.text[],
        E'^(?:(\\*)|((?:0*(?:[1-9]|1[0-2])|JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC))(?:-((?:0*(?:[1-9]|1[0-2])|JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC)))?)(?:/(0*[1-9][0-9]?))?$'),
      (5, 'day of week', 0, 7, array['SUN', 'MON', 'TUE', 'WED', 'THU', 'FRI', 'SAT']::pg_catalog.text[],
        E'^(?:(\\*|\\?)|((?:0*[0-7]|SUN|MON|TUE|WED|THU|FRI|SAT))(?:-((?:0*[0-7]|SUN|MON|TUE|WED|THU|FRI|SAT)))?)(?:/(0*[1-9][0-9]?))?$')
    ) g(field, name, low, high, names, item)
    cross join lateral regexp_split_to_table((v_fields)[g.field], ',') with ordinality i(item, ord)
    left join lateral regexp_match(i.item, g.item) p(part) on true
    cross join lateral (select case when i.item = 'L' then 32 end) l(last_day)
    cross join lateral (select
        coalesce(l.last_day, case
          when false and p.part[2] = 'SUN' then 7
          when p.part[2] ~ '^[A-Z]' then array_position(g.names, p.part[2]) - 1 + g.low
          else p.part[2]::int
        end, g.low),
        case when l.last_day is not null then l.last_day
          when p.part[2] is null or p.part[3] is null and p.part[4] is not null then g.high
          else case
            when p.part[3] is not null and coalesce(p.part[3], p.part[2]) = 'SUN' then 7
            when coalesce(p.part[3], p.part[2]) ~ '^[A-Z]' then array_position(g.names, coalesce(p.part[3], p.part[2])) - 1 + g.low
            else coalesce(p.part[3], p.part[2])::int
          end end,
        coalesce(p.part[4]::int, 1)
      ) r(first_value, last_value, step)
    order by g.field, i.ord) i
    left join lateral (
      select max((array[31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])[v.month])
      from generate_series(i.first_value, i.last_value, i.step) v(month)
      where i.field = 4) m(days) on true)
  end;
  if v_problem is not null then
    raise exception 'Invalid cron expression "%": %', cron_expr, v_problem using errcode = 'invalid_parameter_value';
  elsif timezone is not null and not exists (select from pg_timezone_names z where z.name = timezone) then
    raise exception 'unknown time zone "%"', timezone
      using errcode = 'invalid_parameter_value', hint = 'The names are in pg_timezone_names.';
  end if;
  return '{"node_type":"WAIT_SCHEDULE","query":' || to_json(
    '{"cron_expr":' || to_json(cron_expr) || coalesce(',"timezone":' || to_json(timezone), '') || '}') || '}';
end
$$;

create or replace function df.wait_for_signal(name text, timeout_seconds integer default null) returns text
language plpgsql set search_path = '' as $$
begin
  if name is null then
    raise exception 'argument name of df.wait_for_signal is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;

  if name = '' then
    raise exception 'the name of a signal cannot be empty' using errcode = 'invalid_parameter_value';
  elsif pg_catalog.octet_length(name) > 1024 then
    raise exception 'the name of a signal has % bytes, and 1024 are allowed', pg_catalog.octet_length(name)
      using errcode = 'program_limit_exceeded';
  elsif timeout_seconds < 1 then
    raise exception 'Timeout must be positive, not % s', timeout_seconds using errcode = 'invalid_parameter_value';
  end if;
  return '{"node_type":"SIGNAL","query":' || pg_catalog.to_json(
    '{"signal_name":' || pg_catalog.to_json(name)
    || ',"timeout_seconds":' || coalesce(timeout_seconds::pg_catalog.text, 'null') || '}') || '}';
end
$$;

create or replace function df.wait_for(condition text, every interval default '1 minute', key text default null,
  timeout interval default null) returns text
language plpgsql set search_path = '' as $$
declare
  v_type pg_catalog.text;
begin
  if condition is null then
    raise exception 'argument condition of df.wait_for is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;
  if every is null then
    raise exception 'argument every of df.wait_for is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;

  v_type := df.all(condition)::pg_catalog.json #>> '{left_node,node_type}';
  if v_type <> 'SQL' then
    raise exception 'the condition of df.wait_for is one SQL step, not %', v_type using errcode = 'invalid_parameter_value',
      hint = 'Write what is to be done before it as a step before the wait, and what is to be done after it as a step after it.';
  elsif key = '' then
    raise exception 'the key of a wait cannot be empty' using errcode = 'invalid_parameter_value';
  elsif pg_catalog.octet_length(key) > 1024 then
    raise exception 'the key of a wait has % bytes, and 1024 are allowed', pg_catalog.octet_length(key)
      using errcode = 'program_limit_exceeded';
  end if;
  if not extract(epoch from every) > 0 or extract(epoch from every) > 3155760000 then
    raise exception 'argument every of df.wait_for must be positive, and at most 100 years, not %', every
      using errcode = 'invalid_parameter_value';
  end if;
  if not extract(epoch from timeout) > 0 or extract(epoch from timeout) > 3155760000 then
    raise exception 'argument timeout of df.wait_for must be positive, and at most 100 years, not %', timeout
      using errcode = 'invalid_parameter_value';
  end if;
  return '{"node_type":"WAIT_FOR","condition_node":' || case when not (pg_catalog.strpos(condition, '{') > 0 and condition ~ '^\s*\{') and pg_catalog."left"(condition, 1) <> '@' and (nullif(pg_catalog.current_setting('pg_durable.returned', true), '') is not null) is not true then '{"node_type":"SQL","query":' || pg_catalog.to_json(condition) || '}'
         when df.all(condition) = '{"node_type":"JOIN","left_node":' || condition || '}' then condition
         else (df.all(condition)::pg_catalog.json -> 'left_node')::pg_catalog.text end || ',"query":' || pg_catalog.to_json(
    '{"every":' || pg_catalog.trim_scale(extract(epoch from every))
    || coalesce(',"key":' || pg_catalog.to_json(key), '')
    || coalesce(',"timeout":' || pg_catalog.trim_scale(extract(epoch from timeout)), '') || '}') || '}';
end
$$;

comment on function df.sleep(numeric) is
  'Waits for so many seconds, fractions included; 0 to 3155760000';
comment on function df.sleep(double precision) is
  'The same, with a number of any other type';
comment on function df.sleep(interval) is
  'Waits for the interval, in which a month counts 30 days; up to 100 years';
comment on function df.sleep(text) is
  'Waits for a duration given as text: seconds (0.5) or an interval (5 minutes). Raises for any other text. One that holds references is read when the node starts';
comment on function df.sleep_until(timestamptz) is
  'Waits until that time; if it has passed, goes on at once';
comment on function df.sleep_until(text) is
  'The same, given as text. Raises for a text that is no time. One that holds references is read when the node starts';
comment on function df.wait_for_schedule(text, text) is
  'Waits for the next minute that matches a cron expression of five fields (L as day of month is its last day), in the named time zone or that of the setting timezone. Raises for an expression that is invalid or never comes due';
comment on function df.wait_for_signal(text, integer) is
  'Waits for a signal of that name, without a limit or for so many seconds; the result has signal_name, timed_out and data. The name may hold references';
comment on function df.wait_for(text, interval, text, interval) is
  'Asks the condition, an SQL step, at once, then each time the interval has passed, and when df.poke has named the key, until it is true. The result is its rows and timed_out; at the time-out those of the last time';

-- The builder of a CALL: the flow to be called is a text in its configuration. As all builders: see graph/builders.

create or replace function df.call(flow text, input text default null, label text default null) returns text
language plpgsql set search_path = '' as $$
begin
  if flow is null then
    raise exception 'argument flow of df.call is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;

  if pg_catalog.octet_length(label) > 1024 then
    raise exception 'the label of a call has % bytes, and 1024 are allowed', pg_catalog.octet_length(label)
      using errcode = 'program_limit_exceeded';
  end if;
  if not input ~ $re$\$[A-Za-z_]|[{][A-Za-z_][A-Za-z0-9_]*[}]$re$ then
    begin
      perform input::pg_catalog.jsonb;
    exception when data_exception then
      raise exception 'the input of df.call is no JSON, and holds no reference: %', pg_catalog."left"(input, 100)
        using errcode = 'invalid_parameter_value',
              hint = 'A string is JSON in double quotes, "x"; a value comes from a reference, such as {"id": $order.id}.';
    end;
  end if;
  return '{"node_type":"CALL","query":' || pg_catalog.to_json(
    '{"flow":' || pg_catalog.to_json(
      case when flow ~ '^\s*@[A-Za-z_][A-Za-z0-9_-]*(:[0-9]+)?\s*$' then df.sql(pg_catalog.btrim(flow, E' \t\r\n')) else case when not (pg_catalog.strpos(flow, '{') > 0 and flow ~ '^\s*\{') and pg_catalog."left"(flow, 1) <> '@' and (nullif(pg_catalog.current_setting('pg_durable.returned', true), '') is not null) is not true then '{"node_type":"SQL","query":' || pg_catalog.to_json(flow) || '}'
         when df.all(flow) = '{"node_type":"JOIN","left_node":' || flow || '}' then flow
         else (df.all(flow)::pg_catalog.json -> 'left_node')::pg_catalog.text end end)
    || coalesce(',"input":' || pg_catalog.to_json(input), '')
    || coalesce(',"label":' || pg_catalog.to_json(label), '') || '}') || '}';
end
$$;
comment on function df.call(text, text, text) is
  'Starts the flow, or the definition @name or @name:3, as a run of its own, a child of this one, and waits for its end; the result is the child''s. When the child fails or is cancelled, the node fails with its error. What stops the node cancels the child. input: a JSON text that the child reads as $input; it and the label may hold references, which are resolved when the node starts. The newest version of a definition is that of the moment when the node starts. Raises for an input that is no JSON';

-- Literals: values as constants for SQL code.

-- A value for SQL code, in which nothing looks like a reference to anybody who reads the text of a step. Neither the text of this
-- function nor what it writes depends on standard_conforming_strings.
create or replace function df.literal(value text) returns text
language plpgsql set search_path = '' as $$
declare
  v_text pg_catalog.text := replace(replace(replace(replace(value, E'\\', E'\\\\'), '''', ''''''), '$', E'\\x24'), '{', E'\\x7B');
begin
  if v_text is null then
    return 'NULL';
  elsif v_text ~ '[[:cntrl:]]' then
    for v_code in 1..127 loop
      continue when v_code between 32 and 126;
      v_text := replace(v_text, chr(v_code), E'\\x' || lpad(upper(to_hex(v_code)), 2, '0'));
    end loop;
  end if;
  return 'E''' || v_text || '''::text';
end
$$;

-- The settings are those under which steps read it.
create or replace function df.literal(value anyelement) returns text
language plpgsql
set search_path = '' set datestyle = 'ISO, MDY' set intervalstyle = postgres set bytea_output = hex set extra_float_digits = 1
as $$
declare
  v_text constant pg_catalog.text := value::pg_catalog.text;
begin
  if v_text is null then
    return 'NULL';
  elsif pg_typeof(value) = 'pg_catalog.record'::pg_catalog.regtype then
    raise exception 'a row without a type cannot be written as a constant'
      using errcode = 'invalid_parameter_value', hint = 'Cast it to a composite type, or use to_jsonb.';
  end if;
  return left(df.literal(v_text), -length('text')) || format_type(pg_typeof(value), -1);
end
$$;

comment on function df.literal(text) is
  'A text as a constant for SQL code in which no {name} and no $name is replaced; NULL gives NULL. Where a step can read it as $input, that is the better way';
comment on function df.literal(anyelement) is
  'The same for a value of any other type, with a cast to that type';

-- Operators: shorthands for the builders, in the schema chosen at installation (pg_durable.operator_schema, default public).
-- All group from left to right with the same precedence. Operands are text only, so that untyped literals resolve to text.

create or replace function df.as_op(fut text, name text) returns text
language plpgsql immutable set search_path = '' as $$
begin
  if fut is null then
    raise exception 'the step on the left of |=> is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;
  if name is null then
    raise exception 'the name on the right of |=> is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;

  return df.as(fut, name);
end
$$;

create or replace function df.if_then_op(condition text, then_branch text) returns text
language plpgsql immutable set search_path = '' as $$
begin
  if condition is null then
    raise exception 'the condition on the left of ?> is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;
  if then_branch is null then
    raise exception 'the branch on the right of ?> is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;

  return '{"_partial_if":true,"condition":' || pg_catalog.to_json(condition)
    || ',"then_branch":' || pg_catalog.to_json(then_branch) || '}';
end
$$;

create or replace function df.if_else_op(partial_if text, else_branch text) returns text
language plpgsql immutable set search_path = '' as $$
begin
  if partial_if is null then
    raise exception 'the left side of !> is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;
  if else_branch is null then
    raise exception 'the branch on the right of !> is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;

  if (partial_if::pg_catalog.jsonb -> '_partial_if' = 'true' and partial_if::pg_catalog.jsonb ?& array['condition', 'then_branch']) is not true then
    raise exception 'Invalid if-then-else: the left operand of !> is not what ?> returns'
      using errcode = 'invalid_text_representation',
            hint = 'Operators group from left to right: put a branch that uses operators itself in parentheses.';
  end if;
  return df.if(partial_if::pg_catalog.json ->> 'condition', partial_if::pg_catalog.json ->> 'then_branch', else_branch);
end
$$;

create or replace function df.loop_prefix_op(body text) returns text
language plpgsql immutable set search_path = '' as $$
begin
  if body is null then
    raise exception 'the body of @> is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;

  return df.loop(body);
end
$$;

-- Run again, the installer leaves the operators where they are.
do $operators$
declare
  v_schema text := coalesce(nullif(current_setting('pg_durable.operator_schema', true), ''), 'public');
begin
  if not exists (select from pg_operator where oprcode = 'df.seq'::regproc) then
    execute format(
      'create operator %I.~> (function = df.seq, leftarg = text, rightarg = text)',
      v_schema);
    execute format('comment on operator %I.~> (text, text) is %L', v_schema, 'a, then b: df.seq(a, b)');
  end if;
  if not exists (select from pg_operator where oprcode = 'df.as_op'::regproc) then
    execute format(
      'create operator %I.|=> (function = df.as_op, leftarg = text, rightarg = text)',
      v_schema);
    execute format('comment on operator %I.|=> (text, text) is %L', v_schema, 'names the result of a graph: df.as(a, name)');
  end if;
  if not exists (select from pg_operator where oprcode = 'df.join'::regproc) then
    execute format(
      'create operator %I.& (function = df.join, leftarg = text, rightarg = text)',
      v_schema);
    execute format('comment on operator %I.& (text, text) is %L', v_schema, 'both in parallel: df.join(a, b)');
  end if;
  if not exists (select from pg_operator where oprcode = 'df.race'::regproc) then
    execute format(
      'create operator %I.| (function = df.race, leftarg = text, rightarg = text)',
      v_schema);
    execute format('comment on operator %I.| (text, text) is %L', v_schema, 'in parallel, the first one decides: df.race(a, b)');
  end if;
  if not exists (select from pg_operator where oprcode = 'df.if_then_op'::regproc) then
    execute format(
      'create operator %I.?> (function = df.if_then_op, leftarg = text, rightarg = text)',
      v_schema);
    execute format('comment on operator %I.?> (text, text) is %L', v_schema, 'an IF: b if a is true, else null, or what !> adds: df.if(condition, then_branch)');
  end if;
  if not exists (select from pg_operator where oprcode = 'df.if_else_op'::regproc) then
    execute format(
      'create operator %I.!> (function = df.if_else_op, leftarg = text, rightarg = text)',
      v_schema);
    execute format('comment on operator %I.!> (text, text) is %L', v_schema, 'the else-branch of an IF: df.if(condition, then_branch, else_branch)');
  end if;
  if not exists (select from pg_operator where oprcode = 'df.loop_prefix_op'::regproc) then
    execute format(
      'create operator %I.@> (function = df.loop_prefix_op, rightarg = text)',
      v_schema);
    execute format('comment on operator %I.@> (none, text) is %L', v_schema, 'repeats a graph: df.loop(a)');
  end if;
end
$operators$;

comment on function df.as_op(text, text) is
  'Behind the operator |=>: names the result of a graph: df.as(a, name)';
comment on function df.if_then_op(text, text) is
  'Behind the operator ?>: an IF: b if a is true, else null, or what !> adds: df.if(condition, then_branch)';
comment on function df.if_else_op(text, text) is
  'Behind the operator !>: the else-branch of an IF: df.if(condition, then_branch, else_branch)';
comment on function df.loop_prefix_op(text) is
  'Behind the operator @>: repeats a graph: df.loop(a)';

-- The flow language, first half: text to tokens to the list of reductions. The lexer is one set-based query, the parser a
-- loop over the tables made from generator/grammar/flow.lark. Neither knows what a flow means; neither raises.

-- The regular expression of all tokens for this text: dollar quotes need one alternative for each tag that is used twice.
create or replace function df_engine.flow_pattern(p_source text) returns text
language sql immutable as $$
  select replace(E'[ \t\r
\f]+|--[^
]*|\\/\\*(?:[^*]|\\*+[^*\\/])*(?:\\*+\\/)?|''(?:[^'']|'''')*(?:'')?|[eE]''(?:[^''\\\\]|''''|\\\\(?:.|
))*(?:'')?|\\$\\$(?:[^$]|\\$[^$])*\\$\\$|"(?:[^"\\\\]|\\\\(?:.|
))*(?:")?|[A-Za-z_][A-Za-z0-9_]*|[dD][fF]\\.|-?[0-9]+(?:\\.[0-9]+)?(?:[eE][-+]?[0-9]+)?|\\|=>|@>|\\?>|!>|\\~>|=>|\\||\\&|\\(|\\)|,|\\{|\\}|:|\\[|\\]@tags@|.', '@tags@', coalesce(string_agg(
           replace(E'|\\$@tag@\\$(?:[^$]|\\$(?!@tag@\\$))*\\$@tag@\\$', '@tag@', tag), '' order by tag), ''))
  from (select substr(m[1], 2) from regexp_matches(p_source, '\$[A-Za-z_][A-Za-z0-9_]*(?=\$)', 'g') m
        group by m[1] having count(*) > 1 order by count(*) desc, m[1] limit 32) t(tag)
$$;

-- Every character of the text, as tokens: kind is the number of the terminal, -1 to be dropped.
create or replace function df_engine.flow_lex(p_source text) returns table (ord bigint, kind int, token text)
language sql immutable as $$
  select t.ord,
         coalesce(case when length(t.match[1]) < 6 then ('{"break":8,"true":9,"false":10,"null":11,"@>":12,"?>":13,"!>":14,"~>":15,"|":16,"&":17,"|=>":18,"(":19,")":20,",":21,"=>":22,"{":23,"}":24,":":25,"[":26,"]":27}'::pg_catalog.jsonb ->> lower(t.match[1]))::int end,
           case
             when t.match[1] ~ E'^(?:[ \t\r
\f]+)$' then -1
             when t.match[1] ~ '^(?:--[^
]*)$' then -1
             when t.match[1] ~ E'^(?:\\/\\*(?:[^*]|\\*+[^*\\/])*\\*+\\/)$' then -1
             when t.match[1] ~ '^(?:''(?:[^'']|'''')*'')$' then 1
             when t.match[1] ~ E'^(?:[eE]''(?:[^''\\\\]|''''|\\\\(?:.|
))*'')$' then 2
             when t.match[1] ~ E'^(?:\\$[^$]*\\$.*\\$[^$]*\\$)$' then 3
             when t.match[1] ~ E'^(?:"(?:[^"\\\\]|\\\\(?:.|
))*")$' then 4
             when t.match[1] ~ '^(?:[A-Za-z_][A-Za-z0-9_]*)$' then 5
             when t.match[1] ~ E'^(?:[dD][fF]\\.)$' then 6
             when t.match[1] ~ E'^(?:-?[0-9]+(?:\\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)$' then 7
             else 29
           end),
         t.match[1]
  from regexp_matches(p_source, df_engine.flow_pattern(p_source), 'g') with ordinality t(match, ord)
$$;

-- The tokens that the parser reads; the last one is the end of the text.
create or replace function df_engine.flow_tokens(p_source text, out kinds int[], out texts text[])
language sql immutable as $$
  select coalesce(array_agg(kind order by ord), '{}') || 28, coalesce(array_agg(token order by ord), '{}')
  from df_engine.flow_lex(p_source) where kind >= 0
$$;

-- One row a state, one column a symbol: the row to go to, minus the rule to reduce by, or 0.
create or replace function df_engine.flow_table() returns int[] language sql immutable as $$
  select '{51,102,153,0,204,255,0,306,0,0,0,357,0,0,0,0,0,0,408,0,0,0,459,0,0,510,0,0,0,561,612,663,714,765,816,867,918,0,969,1020,1071,0,0,0,1122,1173,0,0,1224,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-27,-27,-27,-27,-27,-27,0,-27,-27,0,0,0,0,0,0,-27,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-28,-28,-28,-28,-28,-28,0,-28,-28,0,0,0,0,0,0,-28,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-29,-29,-29,-29,-29,-29,0,-29,-29,0,0,0,0,0,0,-29,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,1275,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,1326,0,0,1377,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,51,102,153,0,0,0,0,0,0,0,0,0,-24,-24,-24,-24,-24,-24,1428,-24,-24,0,0,0,0,0,0,-24,0,0,0,0,0,0,0,0,0,0,0,1479,0,0,0,0,0,0,0,0,0,0,0,51,102,153,0,204,255,0,306,0,0,0,357,0,0,0,0,0,0,408,0,0,0,459,0,0,510,0,0,0,0,1530,663,714,765,816,867,918,0,969,1020,1071,0,0,0,1122,1173,0,0,1224,0,0,51,102,153,0,204,255,0,306,0,0,0,357,0,0,0,0,0,0,408,0,0,0,459,0,0,510,0,0,0,0,1581,663,714,765,816,867,918,0,969,1020,1071,0,0,0,1122,1173,0,0,1224,0,0,0,0,0,1632,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,1683,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,1734,1785,0,0,0,0,0,0,1836,0,0,1887,0,1938,1989,2040,0,0,0,0,0,0,0,0,0,0,0,459,0,0,510,2091,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,2142,0,0,2193,2244,2295,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,561,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-1,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-2,0,0,0,0,0,-2,-2,0,0,0,0,0,0,-2,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,2346,-4,2397,0,0,0,0,-4,-4,0,0,0,0,0,0,-4,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-7,-7,-7,2448,0,0,0,-7,-7,0,0,0,0,0,0,-7,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-9,-9,-9,-9,0,0,0,-9,-9,0,0,0,0,0,0,-9,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-13,-13,-13,-13,2499,0,0,-13,-13,0,0,0,0,0,0,-13,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-11,-11,-11,-11,2550,2601,0,-11,-11,0,0,0,0,0,0,-11,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-16,-16,-16,-16,-16,-16,0,-16,-16,0,0,0,0,0,0,-16,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-21,-21,-21,-21,-21,-21,0,-21,-21,0,0,0,0,0,0,-21,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-23,-23,-23,-23,-23,-23,0,-23,-23,0,0,0,0,0,0,-23,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-22,-22,-22,-22,-22,-22,0,-22,-22,0,0,0,0,0,0,-22,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-48,-48,-48,-48,-48,-48,0,-48,-48,0,0,0,0,0,0,-48,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-49,-49,-49,-49,-49,-49,0,-49,-49,0,0,0,0,0,0,-49,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,51,102,153,2652,2703,255,2754,306,2805,2856,2907,357,0,0,0,0,0,0,408,2958,0,0,459,0,0,510,0,0,0,0,3009,663,714,765,816,867,918,0,969,1020,1071,3060,3111,3162,1122,1173,0,0,1224,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,3213,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,3264,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,51,102,153,2652,2703,255,2754,306,2805,2856,2907,357,0,0,0,0,0,0,408,3315,0,0,459,0,0,510,0,0,0,0,3009,663,714,765,816,867,918,0,969,1020,1071,3366,3111,3162,1122,1173,0,0,1224,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-25,-25,-25,-25,-25,-25,0,-25,-25,0,0,0,0,0,0,-25,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-3,0,0,0,0,0,-3,-3,0,0,0,0,0,0,-3,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,3417,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,3468,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-50,-50,-50,-50,-50,-50,0,-50,-50,0,0,-50,0,0,-50,-50,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,3519,0,0,3570,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-52,0,0,-52,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-61,0,0,-61,0,0,-61,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-62,0,0,-62,0,0,-62,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-63,0,0,-63,0,0,-63,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-64,0,0,-64,0,0,-64,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-65,0,0,-65,0,0,-65,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-55,-55,-55,-55,-55,-55,0,-55,-55,0,0,-55,0,0,-55,-55,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-59,0,0,-59,0,0,-59,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-60,0,0,-60,0,0,-60,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,3621,0,0,0,0,0,3672,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-57,0,0,0,0,0,-57,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,51,102,153,0,204,255,0,306,0,0,0,357,0,0,0,0,0,0,408,0,0,0,459,0,0,510,0,0,0,0,3723,663,714,765,816,867,918,0,969,1020,1071,0,0,0,1122,1173,0,0,1224,0,0,51,102,153,0,204,255,0,306,0,0,0,0,0,0,0,0,0,0,408,0,0,0,459,0,0,510,0,0,0,0,0,0,0,3774,816,867,918,0,969,1020,1071,0,0,0,1122,1173,0,0,1224,0,0,51,102,153,0,204,255,0,306,0,0,0,0,0,0,0,0,0,0,408,0,0,0,459,0,0,510,0,0,0,0,0,0,0,0,3825,867,918,0,969,1020,1071,0,0,0,1122,1173,0,0,1224,0,0,51,102,153,0,204,255,0,306,0,0,0,0,0,0,0,0,0,0,408,0,0,0,459,0,0,510,0,0,0,0,0,0,0,0,0,0,3876,0,969,1020,1071,0,0,0,1122,1173,0,0,1224,0,0,51,102,153,0,204,255,0,306,0,0,0,0,0,0,0,0,0,0,408,0,0,0,459,0,0,510,0,0,0,0,0,0,0,0,0,0,3927,0,969,1020,1071,0,0,0,1122,1173,0,0,1224,0,0,3978,0,0,4029,4080,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,4131,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-47,-47,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,1275,0,0,4182,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-43,-43,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-44,-44,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-45,-45,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-46,-46,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-32,-32,-32,-32,-32,-32,0,-32,-32,0,0,0,0,0,0,-32,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-42,-42,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,4233,4284,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-38,-38,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-40,-40,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,51,102,153,2652,2703,255,2754,306,2805,2856,2907,357,0,0,0,0,0,0,408,4335,0,0,459,0,0,510,0,0,0,0,3009,663,714,765,816,867,918,0,969,1020,1071,4386,3111,3162,1122,1173,0,0,1224,0,0,51,102,153,2652,2703,255,2754,306,2805,2856,2907,357,0,0,0,0,0,0,408,4437,0,0,459,0,0,510,0,0,0,0,3009,663,714,765,816,867,918,0,969,1020,1071,4488,3111,3162,1122,1173,0,0,1224,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-33,-33,-33,-33,-33,-33,0,-33,-33,0,0,0,0,0,0,-33,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,4539,4284,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-26,-26,-26,-26,-26,-26,0,-26,-26,0,0,0,0,0,0,-26,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,1836,0,0,1887,0,1938,1989,2040,0,0,0,0,0,0,0,0,0,0,0,459,0,0,510,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,2142,0,0,2193,0,4590,0,0,0,1632,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,4641,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-51,-51,-51,-51,-51,-51,0,-51,-51,0,0,-51,0,0,-51,-51,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,1836,0,0,1887,0,1938,1989,2040,0,0,0,0,0,0,0,0,0,0,0,459,0,0,510,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,2142,0,0,2193,0,4692,0,0,0,0,0,0,0,0,0,0,0,0,-56,-56,-56,-56,-56,-56,0,-56,-56,0,0,-56,0,0,-56,-56,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,4743,0,0,0,0,0,-6,-6,0,0,0,0,0,0,-6,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-8,-8,-8,2448,0,0,0,-8,-8,0,0,0,0,0,0,-8,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-10,-10,-10,-10,0,0,0,-10,-10,0,0,0,0,0,0,-10,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-15,-15,-15,-15,-15,2601,0,-15,-15,0,0,0,0,0,0,-15,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-12,-12,-12,-12,4794,2601,0,-12,-12,0,0,0,0,0,0,-12,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-19,-19,-19,-19,-19,-19,0,-19,-19,0,0,0,0,0,0,-19,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-20,-20,-20,-20,-20,-20,0,-20,-20,0,0,0,0,0,0,-20,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-18,-18,-18,-18,-18,-18,0,-18,-18,0,0,0,0,0,0,-18,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-17,-17,-17,-17,-17,-17,0,-17,-17,0,0,0,0,0,0,-17,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,51,102,153,2652,204,255,2754,306,2805,2856,2907,357,0,0,0,0,0,0,408,0,0,0,459,0,0,510,0,0,0,0,3009,663,714,765,816,867,918,0,969,1020,1071,0,0,4845,1122,1173,0,0,1224,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-36,-36,-36,-36,-36,-36,0,-36,-36,0,0,0,0,0,0,-36,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,51,102,153,2652,2703,255,2754,306,2805,2856,2907,357,0,0,0,0,0,0,408,0,0,0,459,0,0,510,0,0,0,0,3009,663,714,765,816,867,918,0,969,1020,1071,0,4896,3162,1122,1173,0,0,1224,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-30,-30,-30,-30,-30,-30,0,-30,-30,0,0,0,0,0,0,-30,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,4947,4284,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-31,-31,-31,-31,-31,-31,0,-31,-31,0,0,0,0,0,0,-31,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,4998,4284,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-37,-37,-37,-37,-37,-37,0,-37,-37,0,0,0,0,0,0,-37,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-54,0,0,-54,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-53,0,0,-53,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-58,0,0,0,0,0,-58,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,51,102,153,0,204,255,0,306,0,0,0,357,0,0,0,0,0,0,408,0,0,0,459,0,0,510,0,0,0,0,5049,663,714,765,816,867,918,0,969,1020,1071,0,0,0,1122,1173,0,0,1224,0,0,51,102,153,0,204,255,0,306,0,0,0,0,0,0,0,0,0,0,408,0,0,0,459,0,0,510,0,0,0,0,0,0,0,0,0,0,5100,0,969,1020,1071,0,0,0,1122,1173,0,0,1224,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-41,-41,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-39,-39,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-34,-34,-34,-34,-34,-34,0,-34,-34,0,0,0,0,0,0,-34,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-35,-35,-35,-35,-35,-35,0,-35,-35,0,0,0,0,0,0,-35,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-5,0,0,0,0,0,-5,-5,0,0,0,0,0,0,-5,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-14,-14,-14,-14,-14,2601,0,-14,-14,0,0,0,0,0,0,-14,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0}'::int[]
$$;

-- Parses tokens. The tree comes out as its nodes in post-order: the item (0: a token) and the tokens it spans.
-- failed_at is the token that cannot follow what was read (NULL: all is well), states the stack at that point.
create or replace function df_engine.flow_parse(
  p_kinds int[], out items int[], out froms int[], out untils int[], out failed_at int, out states int[])
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  c_table constant int[] := df_engine.flow_table();
  c_items constant int[] := '{0,0,1,0,2,2,0,3,0,4,0,5,0,6,7,0,8,0,0,0,0,0,0,9,9,0,0,0,0,9,9,9,9,9,9,9,9,0,0,0,10,0,0,0,0,0,0,11,11,0,0,0,0,0,0,0,0,0,11,11,0,0,0,0,0}';
  c_lengths constant int[] := '{1,1,2,1,5,3,1,3,1,3,1,3,1,5,3,1,3,1,1,1,1,1,1,1,2,3,1,1,1,4,4,3,3,5,5,4,4,1,3,1,3,1,1,1,1,1,1,1,1,2,3,1,3,3,2,3,1,3,1,1,1,1,1,1,1}';
  c_heads constant int[] := '{30,31,31,32,32,32,33,33,34,34,35,35,35,36,36,37,37,38,38,38,39,39,39,39,39,39,40,40,40,41,41,41,41,41,41,41,41,42,42,43,43,44,44,44,44,44,44,45,45,46,46,47,47,48,49,49,50,50,51,51,51,51,51,51,51}';
  c_kept constant int[] := '{1,1,1,1,1,0,1,1,1,1,1,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0}';
  v_begins int[] := '{1}';
  v_top int := 1;
  v_state int := 0;
  v_at int := 1;
  v_kind int := p_kinds[1];
  v_move int;
  v_count int := 0;
begin
  items := '{}'; froms := '{}'; untils := '{}'; states := '{0}';
  loop
    v_move := c_table[v_state + v_kind];
    if v_move < 0 then
      v_top := v_top - c_lengths[-v_move] + 1;
      v_state := c_table[states[v_top - 1] + c_heads[-v_move]];
      states[v_top] := v_state;
      if c_items[-v_move] > 0 then
        v_count := v_count + 1;
        items[v_count] := c_items[-v_move];
        froms[v_count] := v_begins[v_top];
        untils[v_count] := v_at - 1;
      end if;
    elsif v_move > 0 and v_kind < 28 then
      v_top := v_top + 1;
      v_state := v_move;
      states[v_top] := v_state;
      v_begins[v_top] := v_at;
      if c_kept[v_kind] = 1 then
        v_count := v_count + 1;
        items[v_count] := 0;
        froms[v_count] := v_at;
        untils[v_count] := v_at;
      end if;
      v_at := v_at + 1;
      v_kind := p_kinds[v_at];
    else
      exit;
    end if;
  end loop;
  if v_move <= 0 then
    failed_at := v_at;
    states := states[1:v_top];
  end if;
end
$$;

-- The terminals that could have come next, given the parser's stack.
create or replace function df_engine.flow_expected(p_states int[]) returns int[]
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  c_table constant int[] := df_engine.flow_table();
  c_lengths constant int[] := '{1,1,2,1,5,3,1,3,1,3,1,3,1,5,3,1,3,1,1,1,1,1,1,1,2,3,1,1,1,4,4,3,3,5,5,4,4,1,3,1,3,1,1,1,1,1,1,1,1,2,3,1,3,3,2,3,1,3,1,1,1,1,1,1,1}';
  c_heads constant int[] := '{30,31,31,32,32,32,33,33,34,34,35,35,35,36,36,37,37,38,38,38,39,39,39,39,39,39,40,40,40,41,41,41,41,41,41,41,41,42,42,43,43,44,44,44,44,44,44,45,45,46,46,47,47,48,49,49,50,50,51,51,51,51,51,51,51}';
  v_expected int[] := '{}';
  v_states int[];
  v_top int;
  v_move int;
begin
  for v_kind in 1..28 loop
    v_states := p_states;
    v_top := cardinality(p_states);
    loop
      v_move := c_table[v_states[v_top] + v_kind];
      exit when v_move >= 0;
      v_top := v_top - c_lengths[-v_move] + 1;
      v_states[v_top] := c_table[v_states[v_top - 1] + c_heads[-v_move]];
    end loop;
    if v_move > 0 then
      v_expected := v_expected || v_kind;
    end if;
  end loop;
  return v_expected;
end
$$;

-- How many comments a text has: whoever rewrites it from its graph would lose them.
-- Granted to users.
create or replace function df_engine.flow_comments(p_text text) returns bigint
language sql immutable security definer set search_path = pg_catalog, pg_temp as $$
  select count(*) from df_engine.flow_lex(p_text) where kind = -1 and token ~ '^(--|/)'
$$;

-- The flow language: what is said about a text that is none. Only called once something is wrong, so nothing here is fast.

-- Where the n-th token stands, and the line with a caret under it. A token behind the last one is the end of the text.
create or replace function df_engine.flow_position(
  p_source text, p_token int, out line int, out col int, out excerpt text)
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  v_offset int;
  v_before text;
  v_line text;
  v_skip int;
begin
  with tokens as materialized (
    select ord, token, kind >= 0 as kept, sum((kind >= 0)::int) over (order by ord) as nth from df_engine.flow_lex(p_source)
  ), found as (
    select coalesce(min(ord) filter (where nth = p_token), max(ord) filter (where kept) + 1) as ord from tokens
  )
  select coalesce(sum(length(tokens.token)), 0) into v_offset from tokens, found where tokens.ord < found.ord;
  v_before := left(p_source, v_offset);
  line := 1 + length(v_before) - length(replace(v_before, E'\n', ''));
  col := 1 + length(regexp_replace(v_before, '^.*\n', ''));
  v_line := translate(split_part(p_source, E'\n', line), E'\t\r', '  ');
  v_skip := case when col > 60 then col - 40 else 0 end;
  excerpt := 'line ' || line || ': ' || case when v_skip > 0 then '...' else '' end || substr(v_line, v_skip + 1, 76);
  excerpt := excerpt || E'\n'
             || repeat(' ', length('line : ' || line) + case when v_skip > 0 then 3 else 0 end + col - 1 - v_skip) || '^';
end
$$;

-- A list of words: a, b or c.
create or replace function df_engine.flow_words(p_words text[]) returns text
language sql immutable as $$
  select case when cardinality(p_words) < 2 then p_words[1]
    else array_to_string(p_words[:cardinality(p_words) - 1], ', ') || ' or ' || p_words[cardinality(p_words)] end
$$;

-- The innermost parenthesis that is still open before a token, 0 when there is none.
create or replace function df_engine.flow_open_parenthesis(p_texts text[], p_before int) returns int
language plpgsql immutable as $$
declare
  v_open int := 0;
begin
  for v_at in reverse p_before - 1..1 loop
    v_open := v_open + case p_texts[v_at] when '(' then 1 when ')' then -1 else 0 end;
    if v_open > 0 then
      return v_at;
    end if;
  end loop;
  return 0;
end
$$;

-- What probably went wrong.
create or replace function df_engine.flow_hint(p_found text, p_kind int, p_expected text[]) returns text
language sql immutable as $$
  select case
    when p_kind = 29 and p_found ~ '^(''|"|[eE]''|\$|/)' then 'What begins here never ends.'
    when p_found = ';' then 'A flow is one expression, without a semicolon.'
    when p_found = '=>' and '"|=>"' = any(p_expected) then 'A result is named with |=>.'
    when p_found = '!>' then 'Every !> belongs to a ?>; a branch that is a longer flow may need parentheses.'
    when p_found = ')' then 'No parenthesis is open here.'
    when p_found = '@>' then 'A loop inside a flow needs parentheses: a ~> (@> b).'
    when p_kind = 4 then 'SQL goes in single quotes; double quotes are for JSON and names.'
    when 'SQL in quotes' = any(p_expected) and p_kind = 28 then 'An operator needs a step on both sides.'
    when '"~>"' = any(p_expected) then 'Two steps need an operator between them: ~>, & or |.'
  end
$$;

-- Raises the syntax error of a text that df_engine.flow_parse refused. What was expected is asked before the parser has seen
-- the token: after it the parser may have reduced too much.
create or replace function df_engine.flow_refuse(
  p_source text, p_kinds int[], p_texts text[], p_failed_at int) returns void
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  c_words constant text[] := array['SQL in quotes', 'SQL in quotes', 'SQL in quotes', 'text in double quotes', 'a name', '', 'a number', 'break', 'true', 'false', 'null', '"@>"', '"?>"', '"!>"', '"~>"', '"|"', '"&"', '"|=>"', '"("', '")"', '","', '"=>"', '"{"', '"}"', '":"', '"["', '"]"', 'the end'];
  v_at int := p_failed_at;
  v_expected text[];
  v_hint text;
  v_open int := df_engine.flow_open_parenthesis(p_texts, p_failed_at);
begin
  select array_agg(word order by first) into v_expected
  from (select c_words[kind], min(nth)
        from df_engine.flow_parse(p_kinds[:p_failed_at - 1] || 29) p,
             unnest(df_engine.flow_expected(p.states)) with ordinality e(kind, nth)
        where c_words[kind] <> '' group by 1) w(word, first);
  if p_kinds[v_at - 1] = 5 and '"("' = any(v_expected) then
    v_at := v_at - 1;
    v_expected := '{SQL in quotes,a function call}';
    v_hint := 'SQL goes in quotes: ''SELECT ...''.';
  elsif p_kinds[v_at] = 28 and v_open > 0 and '")"' = any(v_expected) then
    select format('The parenthesis opened at line %s, column %s is not closed.', line, col) into v_hint
    from df_engine.flow_position(p_source, v_open);
  else
    v_hint := df_engine.flow_hint(p_texts[v_at], p_kinds[v_at], v_expected);
  end if;
  perform df_engine.flow_raise(p_source, v_at, 'syntax_error', format('expected %s, found %s',
    df_engine.flow_words(v_expected), coalesce('"' || left(p_texts[v_at], 40) || '"', 'the end')), v_hint);
end
$$;

-- Raises a syntax error at a token.
create or replace function df_engine.flow_raise(
  p_source text, p_token int, p_code text, p_message text, p_hint text default null) returns void
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  v_at record;
begin
  select * into v_at from df_engine.flow_position(p_source, p_token);
  perform df_engine.flow_error(p_code, format('flow syntax error at line %s, column %s: %s', v_at.line, v_at.col, p_message),
    E'In the flow:\n' || v_at.excerpt, p_hint);
end
$$;

-- RAISE takes no NULL for a hint.
create or replace function df_engine.flow_error(p_code text, p_message text, p_detail text, p_hint text) returns void
language plpgsql immutable as $$
begin
  if p_hint <> '' then
    raise exception using errcode = p_code, message = p_message, detail = p_detail, hint = p_hint;
  end if;
  raise exception using errcode = p_code, message = p_message, detail = p_detail;
end
$$;

-- The flow language, second half: from the tree to the envelope. What an envelope looks like is left to the builders: each is
-- called with stand-ins for its graphs, the text between the stand-ins is kept, and the pieces are put together at the end,
-- so that the time does not depend on how the graph is nested.

-- The text of an E'' string, NULL when an escape in it stands for nothing.
create or replace function df_engine.flow_unescape(p_token text) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  return (
    select convert_from(coalesce(string_agg(case
        when piece ~ '^\\u.' then convert_to(('"' || piece || '"')::json #>> '{}', 'UTF8')
        when piece ~ '^\\U.' then convert_to(chr(('x' || substr(piece, 3))::bit(32)::int), 'UTF8')
        when piece in ('\u', '\U') then decode(piece, 'hex')
        when piece ~ '^\\x.' then decode(lpad(substr(piece, 3), 2, '0'), 'hex')
        when piece ~ '^\\[0-7]' then decode(lpad(to_hex((
          select sum(digit::int * (8 ^ (nth - 1))::int)::int & 255
          from unnest(string_to_array(reverse(substr(piece, 2)), null)) with ordinality d(digit, nth))), 2, '0'), 'hex')
        when piece ~ '^\\' then convert_to(translate(substr(piece, 2), 'bfnrt', E'\b\f\n\r\t'), 'UTF8')
        when piece = '''''' then '\x27'
        else convert_to(piece, 'UTF8')
      end, '' order by nth), ''), 'UTF8')
    from regexp_matches(substr(p_token, 3, length(p_token) - 3),
           '(?:\\u[0-9A-Fa-f]{4})+|\\U[0-9A-Fa-f]{8}|\\x[0-9A-Fa-f]{1,2}|\\[0-7]{1,3}|\\.|''''|[^\\'']+', 'g')
         with ordinality m(match, nth), lateral (select match[1]) p(piece));
exception when data_exception or program_limit_exceeded then
  return null;
end
$$;

-- What a token stands for.
create or replace function df_engine.flow_value(p_kind int, p_token text) returns text
language sql immutable as $$
  select case p_kind
    when 1 then replace(substr(p_token, 2, length(p_token) - 2), '''''', '''')
    when 3 then substr(p_token, strpos(substr(p_token, 2), '$') + 2,
                 length(p_token) - 2 * strpos(substr(p_token, 2), '$') - 2)
    when 2 then df_engine.flow_unescape(p_token)
    when 4 then df_engine.json_or_null(p_token) #>> '{}'
    when 11 then null
    else p_token
  end
$$;

-- Values of all tokens; for quoted texts also the envelope of the SQL node up to its closing brace, unless the text may be
-- an envelope itself.
create or replace function df_engine.flow_values(p_kinds int[], p_texts text[], out vals text[], out heads text[])
language sql immutable as $$
  select array_agg(val order by nth),
         array_agg(case when kind in (1, 3, 2) and val !~ '^\s*\{'
                     then '{"node_type":"SQL","query":' || to_json(val) end order by nth)
  from (select t.nth, t.kind, df_engine.flow_value(t.kind, t.token) as val
        from unnest(p_kinds, p_texts) with ordinality t(kind, token, nth) offset 0) v
$$;

-- A list given as a JSON array or as the text of an array.
create or replace function df_engine.flow_list(p_text text) returns text[]
language sql immutable as $$
  select case when p_text ~ '^\s*\[' then array(select jsonb_array_elements_text(p_text::pg_catalog.jsonb)) else p_text::pg_catalog.text[] end
$$;

-- Calls a graph builder; arguments in the order of its parameters.
create or replace function df_engine.flow_call(p_signature int, p_args text[]) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  case p_signature
    when 1 then return df.sql(query => p_args[1]);
    when 2 then return df.block(variadic p_args);
    when 3 then return df.seq(a => p_args[1], b => p_args[2]);
    when 4 then return df.as(fut => p_args[1], name => p_args[2]);
    when 5 then return df.sleep(seconds => p_args[1]::numeric);
    when 6 then return df.sleep(duration => p_args[1]);
    when 7 then return df.sleep_until(due => p_args[1]);
    when 8 then return df.wait_for_schedule(cron_expr => p_args[1], timezone => p_args[2]);
    when 9 then return df.loop(body => p_args[1], condition => p_args[2], continue_on_failure => p_args[3]::boolean);
    when 10 then return df.break(value => p_args[1]);
    when 11 then return df.if(condition => p_args[1], then_branch => p_args[2], else_branch => p_args[3]);
    when 12 then return df.if(condition => p_args[1], then_branch => p_args[2]);
    when 13 then return df.if_rows(result_name => p_args[1], then_branch => p_args[2], else_branch => p_args[3]);
    when 14 then return df.join(a => p_args[1], b => p_args[2]);
    when 15 then return df.join3(a => p_args[1], b => p_args[2], c => p_args[3]);
    when 16 then return df.race(a => p_args[1], b => p_args[2]);
    when 17 then return df.all(variadic p_args);
    when 18 then return df.race_all(variadic p_args);
    when 19 then return df.any(variadic p_args);
    when 20 then return df.chain(variadic p_args);
    when 21 then return df.catch(body => p_args[1], handler => p_args[2], errors => df_engine.flow_list(p_args[3]));
    when 22 then return df.undo(step => p_args[1], compensation => p_args[2]);
    when 23 then return df.timeout(body => p_args[1], after => p_args[2]::numeric, otherwise => p_args[3]);
    when 24 then return df.timeout(body => p_args[1], after => p_args[2], otherwise => p_args[3]);
    when 25 then return df.map(items => p_args[1], body => p_args[2], parallel => p_args[3]::integer, on_error => p_args[4], collect_values => p_args[5]::boolean);
    when 26 then return df.map(items => p_args[1], body => p_args[2], parallel => p_args[3]::integer, on_error => p_args[4], collect_values => p_args[5]::boolean);
    when 27 then return df.wait_for_signal(name => p_args[1], timeout_seconds => p_args[2]::integer);
    when 28 then return df.wait_for(condition => p_args[1], every => p_args[2]::interval, key => p_args[3], timeout => p_args[4]::interval);
    when 29 then return df.call(flow => p_args[1], input => p_args[2], label => p_args[3]);
    when 30 then return df.retry(fut => p_args[1], max_attempts => p_args[2]::integer, initial_delay => p_args[3]::interval, backoff => p_args[4]::numeric, max_delay => p_args[5]::interval, retry_on => df_engine.flow_list(p_args[6]));
    when 31 then return df.http(url => p_args[1], method => p_args[2], body => p_args[3], headers => p_args[4]::jsonb, timeout_seconds => p_args[5]::integer, expect => p_args[6]);
    when 32 then return df.http_multipart(url => p_args[1], method => p_args[2], parts => p_args[3]::jsonb, headers => p_args[4]::jsonb, timeout_seconds => p_args[5]::integer, expect => p_args[6]);
  end case;
end
$$;

-- How arguments, in the order written (labels: NULL means by position), are given to a builder: the number of the first
-- signature that they fit, and for each parameter its argument, whether that is a graph, and its default. NULL: none fits.
create or replace function df_engine.flow_plan(p_builder text, p_labels text[], p_classes text[]) returns jsonb
language sql immutable as $$
  select jsonb_build_object('number', s.number, 'parameters', coalesce(r.parameters, '[]'))
  from jsonb_to_recordset('{"sql":[{"number":1,"usage":"sql(query text)","parameters":[{"names":["query"],"takes":["string","quoted","json","name"],"graph":false,"default":null,"optional":false,"variadic":false}]}],"block":[{"number":2,"usage":"block(text, text, ...)","parameters":[{"names":["statements"],"takes":["string","quoted","json","name"],"graph":false,"default":null,"optional":false,"variadic":true}]}],"seq":[{"number":3,"usage":"seq(a flow, b flow)","parameters":[{"names":["a"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false},{"names":["b"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false}]}],"as":[{"number":4,"usage":"as(fut flow, name text)","parameters":[{"names":["fut"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false},{"names":["name"],"takes":["string","quoted","json","name"],"graph":false,"default":null,"optional":false,"variadic":false}]}],"sleep":[{"number":5,"usage":"sleep(seconds number)","parameters":[{"names":["seconds"],"takes":["number"],"graph":false,"default":null,"optional":false,"variadic":false}]},{"number":6,"usage":"sleep(duration text)","parameters":[{"names":["duration"],"takes":["string","quoted","json","name"],"graph":false,"default":null,"optional":false,"variadic":false}]}],"sleep_until":[{"number":7,"usage":"sleep_until(due text)","parameters":[{"names":["due"],"takes":["string","quoted","json","name"],"graph":false,"default":null,"optional":false,"variadic":false}]}],"wait_for_schedule":[{"number":8,"usage":"wait_for_schedule(cron_expr text, timezone text = null)","parameters":[{"names":["cron_expr"],"takes":["string","quoted","json","name"],"graph":false,"default":null,"optional":false,"variadic":false},{"names":["timezone"],"takes":["string","quoted","json","name","null"],"graph":false,"default":null,"optional":true,"variadic":false}]}],"loop":[{"number":9,"usage":"loop(body flow, while flow = null, continue_on_failure boolean = false)","parameters":[{"names":["body"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false},{"names":["condition","while"],"takes":["graph","string","json","null"],"graph":true,"default":null,"optional":true,"variadic":false},{"names":["continue_on_failure"],"takes":["boolean","null"],"graph":false,"default":"false","optional":true,"variadic":false}]}],"break":[{"number":10,"usage":"break(value text = null)","parameters":[{"names":["value"],"takes":["string","quoted","json","name","null"],"graph":false,"default":null,"optional":true,"variadic":false}]}],"if":[{"number":11,"usage":"if(condition flow, then_branch flow, else_branch flow)","parameters":[{"names":["condition"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false},{"names":["then_branch"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false},{"names":["else_branch"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false}]},{"number":12,"usage":"if(condition flow, then_branch flow)","parameters":[{"names":["condition"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false},{"names":["then_branch"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false}]}],"if_rows":[{"number":13,"usage":"if_rows(result_name text, then_branch flow, else_branch flow)","parameters":[{"names":["result_name"],"takes":["string","quoted","json","name"],"graph":false,"default":null,"optional":false,"variadic":false},{"names":["then_branch"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false},{"names":["else_branch"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false}]}],"join":[{"number":14,"usage":"join(a flow, b flow)","parameters":[{"names":["a"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false},{"names":["b"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false}]}],"join3":[{"number":15,"usage":"join3(a flow, b flow, c flow)","parameters":[{"names":["a"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false},{"names":["b"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false},{"names":["c"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false}]}],"race":[{"number":16,"usage":"race(a flow, b flow)","parameters":[{"names":["a"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false},{"names":["b"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false}]}],"all":[{"number":17,"usage":"all(flow, flow, ...)","parameters":[{"names":["branches"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":true}]}],"race_all":[{"number":18,"usage":"race_all(flow, flow, ...)","parameters":[{"names":["branches"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":true}]}],"any":[{"number":19,"usage":"any(flow, flow, ...)","parameters":[{"names":["branches"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":true}]}],"chain":[{"number":20,"usage":"chain(flow, flow, ...)","parameters":[{"names":["steps"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":true}]}],"catch":[{"number":21,"usage":"catch(body flow, handler flow, errors list = null)","parameters":[{"names":["body"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false},{"names":["handler"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false},{"names":["errors"],"takes":["json","string","null"],"graph":false,"default":null,"optional":true,"variadic":false}]}],"undo":[{"number":22,"usage":"undo(step flow, compensation flow)","parameters":[{"names":["step"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false},{"names":["compensation"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false}]}],"timeout":[{"number":23,"usage":"timeout(body flow, after number, otherwise flow = null)","parameters":[{"names":["body"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false},{"names":["after"],"takes":["number"],"graph":false,"default":null,"optional":false,"variadic":false},{"names":["otherwise"],"takes":["graph","string","json","null"],"graph":true,"default":null,"optional":true,"variadic":false}]},{"number":24,"usage":"timeout(body flow, after text, otherwise flow = null)","parameters":[{"names":["body"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false},{"names":["after"],"takes":["string","quoted","json","name"],"graph":false,"default":null,"optional":false,"variadic":false},{"names":["otherwise"],"takes":["graph","string","json","null"],"graph":true,"default":null,"optional":true,"variadic":false}]}],"map":[{"number":25,"usage":"map(items sql, body flow, parallel integer = 10, on_error text = fail, collect_values boolean = true)","parameters":[{"names":["items"],"takes":["string","json"],"graph":false,"default":null,"optional":false,"variadic":false},{"names":["body"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false},{"names":["parallel"],"takes":["number","null"],"graph":false,"default":"10","optional":true,"variadic":false},{"names":["on_error"],"takes":["string","quoted","json","name","null"],"graph":false,"default":"fail","optional":true,"variadic":false},{"names":["collect_values"],"takes":["boolean","null"],"graph":false,"default":"true","optional":true,"variadic":false}]},{"number":26,"usage":"map(items flow, body flow, parallel integer = 10, on_error text = fail, collect_values boolean = true)","parameters":[{"names":["items"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false},{"names":["body"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false},{"names":["parallel"],"takes":["number","null"],"graph":false,"default":"10","optional":true,"variadic":false},{"names":["on_error"],"takes":["string","quoted","json","name","null"],"graph":false,"default":"fail","optional":true,"variadic":false},{"names":["collect_values"],"takes":["boolean","null"],"graph":false,"default":"true","optional":true,"variadic":false}]}],"wait_for_signal":[{"number":27,"usage":"wait_for_signal(name text, timeout_seconds integer = null)","parameters":[{"names":["name"],"takes":["string","quoted","json","name"],"graph":false,"default":null,"optional":false,"variadic":false},{"names":["timeout_seconds"],"takes":["number","null"],"graph":false,"default":null,"optional":true,"variadic":false}]}],"wait_for":[{"number":28,"usage":"wait_for(condition flow, every interval = 1 minute, key text = null, timeout interval = null)","parameters":[{"names":["condition"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false},{"names":["every"],"takes":["string","null"],"graph":false,"default":"1 minute","optional":true,"variadic":false},{"names":["key"],"takes":["string","quoted","json","name","null"],"graph":false,"default":null,"optional":true,"variadic":false},{"names":["timeout"],"takes":["string","null"],"graph":false,"default":null,"optional":true,"variadic":false}]}],"call":[{"number":29,"usage":"call(flow flow, input text = null, label text = null)","parameters":[{"names":["flow"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false},{"names":["input"],"takes":["string","quoted","json","name","null"],"graph":false,"default":null,"optional":true,"variadic":false},{"names":["label"],"takes":["string","quoted","json","name","null"],"graph":false,"default":null,"optional":true,"variadic":false}]}],"retry":[{"number":30,"usage":"retry(fut flow, max_attempts integer = null, initial_delay interval = null, backoff number = null, max_delay interval = null, retry_on list = null)","parameters":[{"names":["fut"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false},{"names":["max_attempts"],"takes":["number","null"],"graph":false,"default":null,"optional":true,"variadic":false},{"names":["initial_delay"],"takes":["string","null"],"graph":false,"default":null,"optional":true,"variadic":false},{"names":["backoff"],"takes":["number","null"],"graph":false,"default":null,"optional":true,"variadic":false},{"names":["max_delay"],"takes":["string","null"],"graph":false,"default":null,"optional":true,"variadic":false},{"names":["retry_on"],"takes":["json","string","null"],"graph":false,"default":null,"optional":true,"variadic":false}]}],"http":[{"number":31,"usage":"http(url text, method text = POST, body text = null, headers json = null, timeout_seconds integer = 30, expect text = null)","parameters":[{"names":["url"],"takes":["string","quoted","json","name"],"graph":false,"default":null,"optional":false,"variadic":false},{"names":["method"],"takes":["string","quoted","json","name","null"],"graph":false,"default":"POST","optional":true,"variadic":false},{"names":["body"],"takes":["string","quoted","json","name","null"],"graph":false,"default":null,"optional":true,"variadic":false},{"names":["headers"],"takes":["json","string","null"],"graph":false,"default":null,"optional":true,"variadic":false},{"names":["timeout_seconds"],"takes":["number","null"],"graph":false,"default":"30","optional":true,"variadic":false},{"names":["expect"],"takes":["string","quoted","json","name","null"],"graph":false,"default":null,"optional":true,"variadic":false}]}],"http_multipart":[{"number":32,"usage":"http_multipart(url text, method text = POST, parts json = null, headers json = null, timeout_seconds integer = 30, expect text = null)","parameters":[{"names":["url"],"takes":["string","quoted","json","name"],"graph":false,"default":null,"optional":false,"variadic":false},{"names":["method"],"takes":["string","quoted","json","name","null"],"graph":false,"default":"POST","optional":true,"variadic":false},{"names":["parts"],"takes":["json","string","null"],"graph":false,"default":null,"optional":true,"variadic":false},{"names":["headers"],"takes":["json","string","null"],"graph":false,"default":null,"optional":true,"variadic":false},{"names":["timeout_seconds"],"takes":["number","null"],"graph":false,"default":"30","optional":true,"variadic":false},{"names":["expect"],"takes":["string","quoted","json","name","null"],"graph":false,"default":null,"optional":true,"variadic":false}]}]}'::pg_catalog.jsonb -> p_builder) s(number int, parameters pg_catalog.jsonb),
  lateral (
    select jsonb_agg(jsonb_build_object('slot', a.nth, 'default', p.is -> 'default',
                                        'graph', (p.is ->> 'graph')::boolean and a.class <> 'null') order by p.nth, a.nth) as parameters,
           coalesce(bool_and(coalesce(p.is -> 'takes' ? a.class, (p.is ->> 'optional')::boolean)), true) as fits,
           count(a.nth) as taken, count(distinct p.nth) as listed
    from jsonb_array_elements(s.parameters) with ordinality p("is", nth)
    left join unnest(p_labels, p_classes) with ordinality a(label, class, nth)
      on case when a.label is null then a.nth = p.nth or p.is -> 'variadic' = 'true' and a.nth > p.nth else p.is -> 'names' ? a.label end) r
  where r.fits and r.taken = cardinality(p_classes) and r.listed = jsonb_array_length(s.parameters)
  order by s.number limit 1
$$;

-- The arguments of a builder, in the order of its parameters, with stand-ins for graphs.
create or replace function df_engine.flow_arguments(p_plan jsonb, p_scalars text[]) returns text[]
language plpgsql immutable set search_path = '' as $$
begin
  return (
    select coalesce(pg_catalog.array_agg(case when p.is -> 'slot' = 'null' then p.is ->> 'default'
                                           when p.is -> 'graph' = 'true' then E'\u0001' || p.nth
                                           else p_scalars[(p.is -> 'slot')::int] end order by p.nth), '{}')
    from pg_catalog.jsonb_array_elements(p_plan -> 'parameters') with ordinality p("is", nth));
end
$$;

-- What is wrong with a call that fits no signature.
create or replace function df_engine.flow_call_problem(p_builder text, out message text, out hint text)
language sql immutable as $$
  select case when c.builders ? p_builder then 'these arguments do not fit df.' || p_builder
           else 'there is no graph builder df.' || p_builder end,
         case when c.builders ? p_builder then 'It is called ' || (
             select string_agg(s ->> 'usage', ' or ') from jsonb_array_elements(c.builders -> p_builder) s) || '.'
           else 'The graph builders are ' || (select string_agg(b, ', ' order by b) from jsonb_object_keys(c.builders) b) || '.' end
  from (select '{"sql":[{"number":1,"usage":"sql(query text)","parameters":[{"names":["query"],"takes":["string","quoted","json","name"],"graph":false,"default":null,"optional":false,"variadic":false}]}],"block":[{"number":2,"usage":"block(text, text, ...)","parameters":[{"names":["statements"],"takes":["string","quoted","json","name"],"graph":false,"default":null,"optional":false,"variadic":true}]}],"seq":[{"number":3,"usage":"seq(a flow, b flow)","parameters":[{"names":["a"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false},{"names":["b"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false}]}],"as":[{"number":4,"usage":"as(fut flow, name text)","parameters":[{"names":["fut"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false},{"names":["name"],"takes":["string","quoted","json","name"],"graph":false,"default":null,"optional":false,"variadic":false}]}],"sleep":[{"number":5,"usage":"sleep(seconds number)","parameters":[{"names":["seconds"],"takes":["number"],"graph":false,"default":null,"optional":false,"variadic":false}]},{"number":6,"usage":"sleep(duration text)","parameters":[{"names":["duration"],"takes":["string","quoted","json","name"],"graph":false,"default":null,"optional":false,"variadic":false}]}],"sleep_until":[{"number":7,"usage":"sleep_until(due text)","parameters":[{"names":["due"],"takes":["string","quoted","json","name"],"graph":false,"default":null,"optional":false,"variadic":false}]}],"wait_for_schedule":[{"number":8,"usage":"wait_for_schedule(cron_expr text, timezone text = null)","parameters":[{"names":["cron_expr"],"takes":["string","quoted","json","name"],"graph":false,"default":null,"optional":false,"variadic":false},{"names":["timezone"],"takes":["string","quoted","json","name","null"],"graph":false,"default":null,"optional":true,"variadic":false}]}],"loop":[{"number":9,"usage":"loop(body flow, while flow = null, continue_on_failure boolean = false)","parameters":[{"names":["body"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false},{"names":["condition","while"],"takes":["graph","string","json","null"],"graph":true,"default":null,"optional":true,"variadic":false},{"names":["continue_on_failure"],"takes":["boolean","null"],"graph":false,"default":"false","optional":true,"variadic":false}]}],"break":[{"number":10,"usage":"break(value text = null)","parameters":[{"names":["value"],"takes":["string","quoted","json","name","null"],"graph":false,"default":null,"optional":true,"variadic":false}]}],"if":[{"number":11,"usage":"if(condition flow, then_branch flow, else_branch flow)","parameters":[{"names":["condition"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false},{"names":["then_branch"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false},{"names":["else_branch"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false}]},{"number":12,"usage":"if(condition flow, then_branch flow)","parameters":[{"names":["condition"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false},{"names":["then_branch"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false}]}],"if_rows":[{"number":13,"usage":"if_rows(result_name text, then_branch flow, else_branch flow)","parameters":[{"names":["result_name"],"takes":["string","quoted","json","name"],"graph":false,"default":null,"optional":false,"variadic":false},{"names":["then_branch"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false},{"names":["else_branch"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false}]}],"join":[{"number":14,"usage":"join(a flow, b flow)","parameters":[{"names":["a"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false},{"names":["b"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false}]}],"join3":[{"number":15,"usage":"join3(a flow, b flow, c flow)","parameters":[{"names":["a"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false},{"names":["b"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false},{"names":["c"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false}]}],"race":[{"number":16,"usage":"race(a flow, b flow)","parameters":[{"names":["a"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false},{"names":["b"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false}]}],"all":[{"number":17,"usage":"all(flow, flow, ...)","parameters":[{"names":["branches"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":true}]}],"race_all":[{"number":18,"usage":"race_all(flow, flow, ...)","parameters":[{"names":["branches"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":true}]}],"any":[{"number":19,"usage":"any(flow, flow, ...)","parameters":[{"names":["branches"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":true}]}],"chain":[{"number":20,"usage":"chain(flow, flow, ...)","parameters":[{"names":["steps"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":true}]}],"catch":[{"number":21,"usage":"catch(body flow, handler flow, errors list = null)","parameters":[{"names":["body"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false},{"names":["handler"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false},{"names":["errors"],"takes":["json","string","null"],"graph":false,"default":null,"optional":true,"variadic":false}]}],"undo":[{"number":22,"usage":"undo(step flow, compensation flow)","parameters":[{"names":["step"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false},{"names":["compensation"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false}]}],"timeout":[{"number":23,"usage":"timeout(body flow, after number, otherwise flow = null)","parameters":[{"names":["body"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false},{"names":["after"],"takes":["number"],"graph":false,"default":null,"optional":false,"variadic":false},{"names":["otherwise"],"takes":["graph","string","json","null"],"graph":true,"default":null,"optional":true,"variadic":false}]},{"number":24,"usage":"timeout(body flow, after text, otherwise flow = null)","parameters":[{"names":["body"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false},{"names":["after"],"takes":["string","quoted","json","name"],"graph":false,"default":null,"optional":false,"variadic":false},{"names":["otherwise"],"takes":["graph","string","json","null"],"graph":true,"default":null,"optional":true,"variadic":false}]}],"map":[{"number":25,"usage":"map(items sql, body flow, parallel integer = 10, on_error text = fail, collect_values boolean = true)","parameters":[{"names":["items"],"takes":["string","json"],"graph":false,"default":null,"optional":false,"variadic":false},{"names":["body"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false},{"names":["parallel"],"takes":["number","null"],"graph":false,"default":"10","optional":true,"variadic":false},{"names":["on_error"],"takes":["string","quoted","json","name","null"],"graph":false,"default":"fail","optional":true,"variadic":false},{"names":["collect_values"],"takes":["boolean","null"],"graph":false,"default":"true","optional":true,"variadic":false}]},{"number":26,"usage":"map(items flow, body flow, parallel integer = 10, on_error text = fail, collect_values boolean = true)","parameters":[{"names":["items"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false},{"names":["body"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false},{"names":["parallel"],"takes":["number","null"],"graph":false,"default":"10","optional":true,"variadic":false},{"names":["on_error"],"takes":["string","quoted","json","name","null"],"graph":false,"default":"fail","optional":true,"variadic":false},{"names":["collect_values"],"takes":["boolean","null"],"graph":false,"default":"true","optional":true,"variadic":false}]}],"wait_for_signal":[{"number":27,"usage":"wait_for_signal(name text, timeout_seconds integer = null)","parameters":[{"names":["name"],"takes":["string","quoted","json","name"],"graph":false,"default":null,"optional":false,"variadic":false},{"names":["timeout_seconds"],"takes":["number","null"],"graph":false,"default":null,"optional":true,"variadic":false}]}],"wait_for":[{"number":28,"usage":"wait_for(condition flow, every interval = 1 minute, key text = null, timeout interval = null)","parameters":[{"names":["condition"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false},{"names":["every"],"takes":["string","null"],"graph":false,"default":"1 minute","optional":true,"variadic":false},{"names":["key"],"takes":["string","quoted","json","name","null"],"graph":false,"default":null,"optional":true,"variadic":false},{"names":["timeout"],"takes":["string","null"],"graph":false,"default":null,"optional":true,"variadic":false}]}],"call":[{"number":29,"usage":"call(flow flow, input text = null, label text = null)","parameters":[{"names":["flow"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false},{"names":["input"],"takes":["string","quoted","json","name","null"],"graph":false,"default":null,"optional":true,"variadic":false},{"names":["label"],"takes":["string","quoted","json","name","null"],"graph":false,"default":null,"optional":true,"variadic":false}]}],"retry":[{"number":30,"usage":"retry(fut flow, max_attempts integer = null, initial_delay interval = null, backoff number = null, max_delay interval = null, retry_on list = null)","parameters":[{"names":["fut"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false,"variadic":false},{"names":["max_attempts"],"takes":["number","null"],"graph":false,"default":null,"optional":true,"variadic":false},{"names":["initial_delay"],"takes":["string","null"],"graph":false,"default":null,"optional":true,"variadic":false},{"names":["backoff"],"takes":["number","null"],"graph":false,"default":null,"optional":true,"variadic":false},{"names":["max_delay"],"takes":["string","null"],"graph":false,"default":null,"optional":true,"variadic":false},{"names":["retry_on"],"takes":["json","string","null"],"graph":false,"default":null,"optional":true,"variadic":false}]}],"http":[{"number":31,"usage":"http(url text, method text = POST, body text = null, headers json = null, timeout_seconds integer = 30, expect text = null)","parameters":[{"names":["url"],"takes":["string","quoted","json","name"],"graph":false,"default":null,"optional":false,"variadic":false},{"names":["method"],"takes":["string","quoted","json","name","null"],"graph":false,"default":"POST","optional":true,"variadic":false},{"names":["body"],"takes":["string","quoted","json","name","null"],"graph":false,"default":null,"optional":true,"variadic":false},{"names":["headers"],"takes":["json","string","null"],"graph":false,"default":null,"optional":true,"variadic":false},{"names":["timeout_seconds"],"takes":["number","null"],"graph":false,"default":"30","optional":true,"variadic":false},{"names":["expect"],"takes":["string","quoted","json","name","null"],"graph":false,"default":null,"optional":true,"variadic":false}]}],"http_multipart":[{"number":32,"usage":"http_multipart(url text, method text = POST, parts json = null, headers json = null, timeout_seconds integer = 30, expect text = null)","parameters":[{"names":["url"],"takes":["string","quoted","json","name"],"graph":false,"default":null,"optional":false,"variadic":false},{"names":["method"],"takes":["string","quoted","json","name","null"],"graph":false,"default":"POST","optional":true,"variadic":false},{"names":["parts"],"takes":["json","string","null"],"graph":false,"default":null,"optional":true,"variadic":false},{"names":["headers"],"takes":["json","string","null"],"graph":false,"default":null,"optional":true,"variadic":false},{"names":["timeout_seconds"],"takes":["number","null"],"graph":false,"default":"30","optional":true,"variadic":false},{"names":["expect"],"takes":["string","quoted","json","name","null"],"graph":false,"default":null,"optional":true,"variadic":false}]}]}'::pg_catalog.jsonb) c(builders)
$$;

-- The tree as calls. A value is a call (positive) or a token (negative; JSON goes on until another token). Call n is item
-- ops[n], written with its name or sign at token tokens[n], and has counts[n] arguments from firsts[n]. The last argument is
-- the whole flow.
create or replace function df_engine.flow_tree(
  p_items int[], p_froms int[], p_untils int[], out ops int[], out tokens int[], out firsts int[], out counts int[],
  out args int[], out untils int[], out labels int[])
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  v_args int[] := '{}';
  v_untils int[] := '{}';
  v_labels int[] := '{}';
  v_begins int[] := '{}';
  v_top int := 0;
  v_base int;
  v_item int;
  v_from int;
  v_call int := 0;
  v_arg int := 0;
  v_named int;
  v_until int;
begin
  ops := '{}'; tokens := '{}'; firsts := '{}'; counts := '{}'; args := '{}'; untils := '{}'; labels := '{}';
  for v_at in 1..cardinality(p_items) loop
    v_item := p_items[v_at];
    v_from := p_froms[v_at];
    v_base := v_top + 1;
    v_named := 0;
    v_until := p_untils[v_at];
    if v_item > 0 then
      while v_base > 1 and v_begins[v_base - 1] >= v_from loop
        v_base := v_base - 1;
      end loop;
    end if;
    if v_item in (0, 11) then
      v_args[v_base] := -v_from;
    elsif v_item = 10 then
      v_named := -v_args[v_base];
      v_args[v_base] := v_args[v_top];
      v_until := v_untils[v_top];
    else
      v_call := v_call + 1;
      ops[v_call] := v_item;
      tokens[v_call] := case when v_item = 9 then -v_args[v_base] else v_from end;
      firsts[v_call] := v_arg + 1;
      for v_place in v_base + (v_item = 9)::int..v_top loop
        v_arg := v_arg + 1;
        args[v_arg] := v_args[v_place];
        untils[v_arg] := v_untils[v_place];
        labels[v_arg] := v_labels[v_place];
      end loop;
      counts[v_call] := v_arg + 1 - firsts[v_call];
      v_args[v_base] := v_call;
    end if;
    v_labels[v_base] := v_named;
    v_begins[v_base] := v_from;
    v_untils[v_base] := v_until;
    v_top := v_base;
  end loop;
  args[v_arg + 1] := v_args[1];
  untils[v_arg + 1] := v_untils[1];
  labels[v_arg + 1] := 0;
end
$$;

-- Raises an error of a builder again, with the place in the flow in front of its detail.
create or replace function df_engine.flow_locate(
  p_source text, p_token int, p_code text, p_message text, p_detail text, p_hint text) returns void
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  v_at record;
begin
  if p_message not like 'flow syntax error at line %' then
    select * into v_at from df_engine.flow_position(p_source, p_token);
    p_detail := concat_ws(E'\n', format('In the flow at line %s, column %s:', v_at.line, v_at.col), v_at.excerpt, nullif(p_detail, ''));
  end if;
  perform df_engine.flow_error(p_code, p_message, p_detail, p_hint);
end
$$;

-- The flow language, last part: calls the builders once for each kind of node, and writes the envelope.

-- In PL/pgSQL for its cached plan. The arguments of a call: labels and classes, for finding its signature, and what those that are no graph stand for.
create or replace function df_engine.flow_given(
  p_kinds int[], p_texts text[], p_values text[], p_args int[], p_untils int[], p_labels int[],
  out labels text[], out classes text[], out scalars text[])
language plpgsql immutable as $$
begin
  select coalesce(array_agg(lower(p_texts[nullif(label, 0)]) order by nth), '{}'),
         coalesce(array_agg(class order by nth), '{}'),
         coalesce(array_agg(case class when 'graph' then null
                              when 'json' then array_to_string(p_texts[-arg:until], '')
                              else p_values[-arg] end order by nth), '{}')
  into labels, classes, scalars
  from (select nth, arg, label, until, case when arg > 0 then 'graph' else (array['string', 'string', 'string', 'quoted', 'name', '', 'number', '', 'boolean', 'boolean', 'null', '', '', '', '', '', '', '', '', '', '', '', 'json', '', '', 'json', '', '', '', '', '', '', '', '', '', '', '', '', '', '', '', '', '', '', '', '', '', '', '', '', ''])[p_kinds[-arg]] end as class
        from unnest(p_args, p_untils, p_labels) with ordinality a(arg, until, label, nth)) a;
end
$$;

-- An envelope with the keys of another object set anew, in the order in which the builders write them.
create or replace function df_engine.flow_merge(p_envelope text, p_keys text) returns text
language sql immutable as $$
  select case when p_keys = '{}' then p_envelope else (
    select '{' || string_agg(to_json(k.key) || ':' || k.value, ',' order by known.place) || '}'
    from (select key, value from json_each(p_envelope::pg_catalog.json) where not p_keys::pg_catalog.jsonb ? key
          union all select key, value from json_each(p_keys::pg_catalog.json)) k
    join unnest(array['node_type', 'left_node', 'right_node', 'condition_node', 'extra_nodes', 'query', 'result_name', 'retry']) with ordinality known(key, place) on known.key = k.key) end
$$;

-- The node of a text that may be an envelope, or of JSON, which must be one; keys are set in it.
create or replace function df_engine.flow_leaf(p_text text, p_json boolean, p_keys text) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_node text;
begin
  if p_text is null then
    raise exception 'an escape in this text stands for no character' using errcode = 'invalid_escape_sequence';
  end if;
  v_node := (df.all(p_text)::json -> 'left_node')::text;
  if p_json and v_node = df.sql(p_text) then
    raise exception 'this JSON is no envelope' using errcode = 'syntax_error', hint = 'SQL goes in single quotes.';
  end if;
  return df_engine.flow_merge(v_node, '{' || substr(p_keys, 2) || '}');
end
$$;

-- Raises when a call fits no signature.
create or replace function df_engine.flow_require(p_builder text, p_plan jsonb) returns void
language plpgsql immutable as $$
declare
  v_problem pg_catalog.record;
begin
  if p_plan is null then
    select * into v_problem from df_engine.flow_call_problem(p_builder);
    raise exception '%', v_problem.message using errcode = 'syntax_error', hint = v_problem.hint;
  end if;
end
$$;

-- What one call is. A modifier gives the suffix that it adds to the graph in argument slots[1]; any other builder the parts of
-- its text and the arguments that come between them.
create or replace function df_engine.flow_shape(
  p_plan jsonb, p_scalars text[], out suffix text, out parts text[], out slots int[])
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  c_stand_in constant text := '{"node_type":"SQL","query":"\u00011"';
  v_shape text := df_engine.flow_call((p_plan -> 'number')::int, df_engine.flow_arguments(p_plan, p_scalars));
begin
  if (p_plan -> 'number')::int in (4, 30) then
    suffix := substr(left(v_shape, -1), length(c_stand_in) + 1);
    slots := array[(p_plan #> '{parameters,0,slot}')::int];
  elsif p_plan @? '$.parameters[*] ? (@.graph == true)' then
    -- In the flow of a CALL, which is a text in a text, quotes are escaped.
    parts := regexp_split_to_array(left(v_shape, -1), '\{\\*"node_type\\*":\\*"SQL\\*",\\*"query\\*":\\*"\\+u0001[0-9]+\\*"\}');
    slots := array(select (p_plan -> 'parameters' -> m[1]::int - 1 -> 'slot')::int
                   from regexp_matches(v_shape, '\{\\*"node_type\\*":\\*"SQL\\*",\\*"query\\*":\\*"\\+u0001([0-9]+)\\*"\}', 'g') m) || 0;
  else
    parts := array[left(v_shape, -1)];
    slots := '{0}';
  end if;
end
$$;

-- For each call what its builder gives: the number of its first part in parts (shared by calls that differ only in their graphs),
-- or the suffix that it adds to the graph in argument inners[n]. slots: the argument that follows a part, 0 at the end.
-- nexts: the argument that follows an argument in the list of branches.
create or replace function df_engine.flow_shapes(
  p_source text, p_kinds int[], p_texts text[], p_values text[], p_ops int[], p_tokens int[], p_firsts int[], p_counts int[],
  p_args int[], p_untils int[], p_labels int[],
  out starts int[], out parts text[], out slots int[], out suffixes text[], out inners int[], out nexts int[])
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  c_items constant text[] := array['loop', 'if', 'seq', 'race', 'join', 'join3', 'branch', 'as', 'call', 'named_argument', 'json'];
  c_classes constant text[] := array['string', 'string', 'string', 'quoted', 'name', '', 'number', '', 'boolean', 'boolean', 'null', '', '', '', '', '', '', '', '', '', '', '', 'json', '', '', 'json', '', '', '', '', '', '', '', '', '', '', '', '', '', '', '', '', '', '', '', '', '', '', '', '', ''];
  v_keys text[] := '{}';
  v_shapes int[] := '{}';
  v_key text;
  v_known int;
  v_first int;
  v_last int;
  v_plans jsonb[] := '{}';
  v_plan jsonb;
  v_is record;
  v_given record;
  v_start int;
  v_tails int[] := '{}';
  v_token int := 1;
  v_state text; v_message text; v_detail text; v_hint text;
begin
  starts := '{}'; parts := '{}'; slots := '{}'; suffixes := '{}'; inners := '{}'; nexts := '{}';
  for v_call in 1..cardinality(p_ops) loop
    v_token := p_tokens[v_call];
    v_first := p_firsts[v_call];
    v_last := v_first + p_counts[v_call] - 1;
    if p_ops[v_call] = 7 then
      v_known := p_args[v_first];
      v_tails[v_call] := v_last;
      nexts[coalesce(v_tails[v_known], p_firsts[v_known] + p_counts[v_known] - 1)] := v_last;
      inners[v_call] := v_first;
      continue;
    elsif p_ops[v_call] = 8 and p_values[-p_args[v_last]] ~ '^[A-Za-z_][A-Za-z0-9_]*$'
          and p_values[-p_args[v_last]] not in ('input', 'item', 'item_no', 'error') then
      suffixes[v_call] := ',"result_name":"' || p_values[-p_args[v_last]] || '"';
      inners[v_call] := v_first;
      continue;
    end if;
    v_key := case p_ops[v_call] when 9 then lower(p_texts[v_token]) else c_items[p_ops[v_call]] end;
    for v_arg in v_first..v_last loop
      v_key := v_key || ' ' || coalesce(p_texts[nullif(p_labels[v_arg], 0)], '')
               || case when p_args[v_arg] > 0 then 'graph' else c_classes[p_kinds[-p_args[v_arg]]] end;
    end loop;
    v_known := array_position(v_keys, v_key);
    if v_shapes[v_known] is not null then
      starts[v_call] := v_shapes[v_known];
      continue;
    end if;
    select * into v_given from df_engine.flow_given(p_kinds, p_texts, p_values,
      p_args[v_first:v_last], p_untils[v_first:v_last], p_labels[v_first:v_last]);
    if v_known is null then
      v_plan := df_engine.flow_plan(split_part(v_key, ' ', 1), v_given.labels, v_given.classes);
      perform df_engine.flow_require(split_part(v_key, ' ', 1), v_plan);
      v_keys := v_keys || v_key;
      v_plans := v_plans || v_plan;
      v_known := cardinality(v_keys);
    end if;
    select * into v_is from df_engine.flow_shape(v_plans[v_known], v_given.scalars);
    if v_is.suffix is not null then
      suffixes[v_call] := v_is.suffix;
      inners[v_call] := v_first + v_is.slots[1] - 1;
      continue;
    end if;
    v_start := cardinality(parts) + 1;
    starts[v_call] := v_start;
    parts := parts || v_is.parts;
    slots := slots || v_is.slots;
    if not v_plans[v_known] @? '$.parameters[*] ? (@.slot != null && @.graph == false)' then
      v_shapes[v_known] := v_start;
    end if;
  end loop;
exception when others then
  get stacked diagnostics v_state = returned_sqlstate, v_message = message_text, v_detail = pg_exception_detail, v_hint = pg_exception_hint;
  perform df_engine.flow_locate(p_source, v_token, v_state, v_message, v_detail, v_hint);
end
$$;

-- A graph as it stands in the flow of a CALL: a text in a text.
create or replace function df_engine.flow_nested(p_graph text) returns text
language sql immutable as $$
  select substr(t.text, 2, length(t.text) - 2)
  from (select to_json(substr(i.text, 2, length(i.text) - 2))::pg_catalog.text from (select to_json(p_graph)::pg_catalog.text) i(text)) t(text)
$$;

-- Writes the envelope of the whole flow, which is the last argument: walks the calls from there, part by part.
create or replace function df_engine.flow_emit(
  p_source text, p_texts text[], p_values text[], p_heads text[], p_tokens int[], p_firsts int[], p_args int[],
  p_untils int[], p_starts int[], p_parts text[], p_slots int[], p_suffixes text[], p_inners int[], p_nexts int[]) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_out text[] := '{}';
  v_count int := 0;
  v_top int := 0;           -- the calls that are being written: number, next part, argument they stand in, end
  v_calls int[] := '{}'; v_places int[] := '{}'; v_args int[] := '{}'; v_ends text[] := '{}';
  v_nested int[] := '{}';   -- where the flow of a CALL begins in v_out; NULL: it is no CALL
  v_arg int := cardinality(p_args);
  v_done int;
  v_value int;
  v_until int;
  v_token int;
  v_name text; v_retry text;
  v_state text; v_message text; v_detail text; v_hint text;
begin
  loop
    v_done := v_arg;
    v_value := p_args[v_arg];
    v_until := p_untils[v_arg];
    v_name := null;
    v_retry := null;
    while p_inners[v_value] is not null loop
      v_token := p_tokens[v_value];
      if p_suffixes[v_value] like ',"result_name"%' then
        v_name := coalesce(v_name, p_suffixes[v_value]);
      else
        v_retry := coalesce(v_retry, p_suffixes[v_value]);
      end if;
      v_until := p_untils[p_inners[v_value]];
      v_value := p_args[p_inners[v_value]];
    end loop;
    if v_retry <> '' and v_value > 0 then
      perform df.retry(substring(p_parts[p_starts[v_value]] from '^\{"node_type":"[A-Z_]+"') || '}');
    end if;
    if v_top > 0 and p_parts[p_starts[v_calls[v_top]]] like '{"node_type":"WAIT_FOR"%' then
      v_token := p_tokens[v_calls[v_top]];  -- whose builder has not seen its condition
      perform df.wait_for(case when v_value > 0 then substring(p_parts[p_starts[v_value]] from '^\{"node_type":"[A-Z_]+"') || '}'
                               when p_heads[-v_value] is null then p_values[-v_value] else '' end);
    elsif v_top > 0 and v_nested[v_top] > 0 and v_value < 0 then
      v_token := p_tokens[v_calls[v_top]];
      perform df.call(p_values[-v_value]);
    end if;
    v_count := v_count + 1;
    if v_value > 0 then
      v_done := 0;
      v_top := v_top + 1;
      v_args[v_top] := v_arg;
      v_calls[v_top] := v_value;
      v_places[v_top] := p_starts[v_value];
      v_ends[v_top] := concat(v_name, v_retry, '}');
      v_nested[v_top] := case when p_parts[p_starts[v_value]] like '{"node_type":"CALL"%' then 0 end;
      v_out[v_count] := '';
    elsif p_heads[-v_value] is not null then
      v_out[v_count] := concat(p_heads[-v_value], v_name, v_retry, '}');
    else
      v_token := -v_value;
      v_out[v_count] := df_engine.flow_leaf(
        case when v_until > -v_value then array_to_string(p_texts[-v_value:v_until], '') else p_values[-v_value] end,
        v_until > -v_value, concat(v_name, v_retry));
    end if;
    loop
      v_count := v_count + 1;
      if v_done > 0 and p_nexts[v_done] > 0 then
        v_out[v_count] := ',';
        v_arg := p_nexts[v_done];
        exit;
      elsif v_top = 0 then
        return array_to_string(v_out, '');
      elsif v_nested[v_top] > 0 then  -- its flow is written
        v_out := v_out[:v_nested[v_top] - 1] || df_engine.flow_nested(array_to_string(v_out[v_nested[v_top]:v_count - 1], ''));
        v_count := v_nested[v_top] + 1;
      end if;
      v_out[v_count] := p_parts[v_places[v_top]];
      v_nested[v_top] := v_nested[v_top] + v_count + 1;
      if p_slots[v_places[v_top]] > 0 then
        v_arg := p_firsts[v_calls[v_top]] + p_slots[v_places[v_top]] - 1;
        v_places[v_top] := v_places[v_top] + 1;
        exit;
      end if;
      v_count := v_count + 1;
      v_out[v_count] := v_ends[v_top];
      v_done := v_args[v_top];
      v_top := v_top - 1;
    end loop;
  end loop;
exception when others then
  get stacked diagnostics v_state = returned_sqlstate, v_message = message_text, v_detail = pg_exception_detail, v_hint = pg_exception_hint;
  perform df_engine.flow_locate(p_source, v_token, v_state, v_message, v_detail, v_hint);
end
$$;

create or replace function df.flow(source text) returns text
language plpgsql immutable strict security definer set search_path = pg_catalog, pg_temp set standard_conforming_strings = on as $$
declare
  v_in record;
  v_parse record;
  v_of record;
  v_tree record;
  v_is record;
begin
  select * into v_in from df_engine.flow_tokens(flow.source);
  select * into v_parse from df_engine.flow_parse(v_in.kinds);
  if v_parse.failed_at is not null then
    perform df_engine.flow_refuse(flow.source, v_in.kinds, v_in.texts, v_parse.failed_at);
  end if;
  select * into v_of from df_engine.flow_values(v_in.kinds, v_in.texts);
  select * into v_tree from df_engine.flow_tree(v_parse.items, v_parse.froms, v_parse.untils);
  select * into v_is from df_engine.flow_shapes(flow.source, v_in.kinds, v_in.texts, v_of.vals, v_tree.ops, v_tree.tokens,
    v_tree.firsts, v_tree.counts, v_tree.args, v_tree.untils, v_tree.labels);
  return df_engine.flow_emit(flow.source, v_in.texts, v_of.vals, v_of.heads, v_tree.tokens, v_tree.firsts, v_tree.args,
    v_tree.untils, v_is.starts, v_is.parts, v_is.slots, v_is.suffixes, v_is.inners, v_is.nexts);
end
$$;
comment on function df.flow(text) is
  'The envelope of a flow written in the text language, the same text that the graph builders give. Raises 42601 with line, column and an excerpt on a syntax error, and the errors of the builders with their place in DETAIL';

-- The layout of a flow: which text goes on which line. The operands of a node are known: see flow/to_flow.

-- Nodes (of df_engine.flow_nodes) as arrays: node n has counts[n] operands from firsts[n], the same as JSON in operands[n]. Node 1
-- is the root, children come after their parents. An operand is a chain when its operators go on with those of its parent.
create or replace function df_engine.flow_outline(
  p_nodes jsonb, out names text[], out forms text[], out levels int[], out operands jsonb[], out firsts int[], out counts int[],
  out signs text[], out children int[], out words text[], out needs int[])
language sql immutable set search_path = pg_catalog, pg_temp as $$
  with n as materialized (
    select row_number() over (order by depth, id)::int as number, nodes.*
    from jsonb_to_recordset(p_nodes) nodes(id text, depth int, node_type text, query text, result_name text, left_node text,
                                           right_node text, retry jsonb)
  ), o as materialized (
    select n.number, o.form, o.level, o.sign, c.number as child, o.word, o.need,
           row_number() over (order by n.number, o.nth)::int as place,
           c.node_type = n.node_type and c.result_name is null and o.form = '' and (n.node_type, o.sign) in
             (('THEN', ''), ('RACE', ''), ('IF', '!> ')) and c.query !~ '"condition_type"' is not false as chain
    from n cross join lateral df_engine.flow_operands(n.node_type, n.query, n.left_node, n.right_node, n.retry) o
    left join n c on c.id = o.child
  ), f as (
    select number, min(form) as form, min(level) as level, min(place) as first, count(*)::int as operands,
           jsonb_agg(jsonb_build_object('sign', sign, 'child', child, 'word', word, 'need', need, 'chain', chain) order by place) as listed
    from o group by number
  )
  select l.names, l.forms, l.levels, l.operands, l.firsts, l.counts, p.signs, p.children, p.words, p.needs
  from (select array_agg(' |=> ' || df_engine.flow_name(n.result_name) order by n.number) as names,
               array_agg(f.form order by n.number) as forms, array_agg(f.level order by n.number) as levels,
               array_agg(f.listed order by n.number) as operands,
               array_agg(f.first order by n.number) as firsts, array_agg(f.operands order by n.number) as counts
        from n left join f using (number)) l,
       (select array_agg(sign order by place) as signs, array_agg(child order by place) as children,
               array_agg(word order by place) as words, array_agg(need order by place) as needs from o) p
$$;

-- For each node its text on one line, without its name; NULL when it is too long or has line breaks.
create or replace function df_engine.flow_flat(
  p_names text[], p_forms text[], p_levels int[], p_firsts int[], p_counts int[], p_signs text[], p_children int[],
  p_words text[], p_needs int[]) returns text[]
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  v_flat text[] := '{}';
  v_text text;
  v_child int;
begin
  for v_node in reverse cardinality(p_forms)..1 loop
    v_text := '';
    for v_place in p_firsts[v_node]..p_firsts[v_node] + p_counts[v_node] - 1 loop
      v_child := p_children[v_place];
      v_text := v_text || case when v_place = p_firsts[v_node] then '' when p_forms[v_node] = '' then ' ' else ', ' end
        || p_signs[v_place] || case when v_child is null then p_words[v_place]
             else df_engine.flow_operand(v_flat[v_child], p_names[v_child], p_levels[v_child], p_needs[v_place]) end;
    end loop;
    if p_forms[v_node] <> '' then
      v_text := p_forms[v_node] || '(' || v_text || ')';
    end if;
    v_flat[v_node] := case when length(v_text) <= 100 and strpos(v_text, E'\n') = 0 then v_text end;
  end loop;
  return v_flat;
end
$$;

-- A node as an operand, in parentheses when it binds less than is needed there.
create or replace function df_engine.flow_operand(p_flat text, p_name text, p_level int, p_need int) returns text
language sql immutable as $$
  select case
    when p_name is null and p_level < p_need then '(' || p_flat || ')'
    when p_name is null then p_flat
    when p_level < 6 then '(' || p_flat || ')' || p_name
    else p_flat || p_name
  end
$$;

-- What is to be written when a node is opened, last thing first: a line that is ready, or a node (node) with what stands before and
-- after it. Modes of a node: operand (in parentheses when opened), body (of parentheses or an argument), bare (the same
-- without its name), chain (goes on with the operators of the node above).
create or replace function df_engine.flow_open(p_item jsonb, p_name text, p_form text, p_operands jsonb) returns setof jsonb
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  v_depth int := (p_item -> 'depth')::int;
  v_before text := p_item ->> 'before';
  v_after text := p_item ->> 'after';
  v_count int := jsonb_array_length(p_operands);
  v_end text := coalesce(p_name, '') || v_after;
begin
  if p_form <> '' then
    return next jsonb_build_object('line', ')' || v_end, 'depth', v_depth);
    return query select case
        when o ->> 'child' is null then jsonb_build_object('line', concat(o ->> 'sign', o ->> 'word', comma), 'depth', v_depth + 1)
        else jsonb_build_object('node', o -> 'child', 'depth', v_depth + 1, 'before', o -> 'sign', 'after', comma, 'need', 0,
                                'mode', case o ->> 'sign' when '' then 'body' else 'operand' end) end
      from jsonb_array_elements(p_operands) with ordinality a(o, nth), lateral (select case nth when v_count then '' else ',' end) c(comma)
      order by nth desc;
    return next jsonb_build_object('line', v_before || p_form || '(', 'depth', v_depth);
  elsif p_operands #>> '{0,word}' <> '' then
    return next jsonb_build_object('line', v_before || (p_operands #>> '{0,word}') || v_end, 'depth', v_depth);
  elsif p_name is not null or p_item ->> 'mode' = 'operand' then
    return next jsonb_build_object('line', ')' || v_end, 'depth', v_depth);
    return next p_item || jsonb_build_object('mode', 'bare', 'depth', v_depth + 1, 'before', '', 'after', '', 'need', 0);
    return next jsonb_build_object('line', v_before || '(', 'depth', v_depth);
  else
    return query select jsonb_build_object('node', o -> 'child', 'depth', v_depth, 'need', o -> 'need',
        'before', case nth when 1 then v_before else '' end || (o ->> 'sign'), 'after', case nth when v_count then v_after else '' end,
        'mode', case when (o -> 'chain')::boolean then 'chain' else 'operand' end)
      from jsonb_array_elements(p_operands) with ordinality a(o, nth) order by nth desc;
  end if;
end
$$;

-- Lays a graph out in lines of a hundred columns. What is still to be written is kept on a stack; a node goes on one line when
-- it fits there, else it is opened and its operands get a line each. The definer has no rights that matter: this only writes text.
-- Granted to users.
create or replace function df_engine.flow_layout(p_nodes jsonb) returns text
language plpgsql immutable security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_of record;
  v_names text[]; v_forms text[]; v_levels int[]; v_operands jsonb[];
  v_flat text[];
  v_lines text[] := '{}';
  v_count int := 0;
  v_stack jsonb[] := array['{"node":1,"depth":0,"before":"","after":"","mode":"body","need":0}'::jsonb];
  v_top int := 1;
  v_item jsonb;
  v_next jsonb;
  v_node int;
  v_name text;
  v_line text;
begin
  select * into v_of from df_engine.flow_outline(p_nodes);
  v_names := v_of.names; v_forms := v_of.forms; v_levels := v_of.levels; v_operands := v_of.operands;
  v_flat := df_engine.flow_flat(v_names, v_forms, v_levels, v_of.firsts, v_of.counts, v_of.signs, v_of.children, v_of.words, v_of.needs);
  while v_top > 0 loop
    v_item := v_stack[v_top];
    v_top := v_top - 1;
    v_line := v_item ->> 'line';
    v_node := (v_item -> 'node')::int;
    if v_line is null then
      v_name := case when v_item ->> 'mode' <> 'bare' then v_names[v_node] end;
      v_line := (v_item ->> 'before') || case v_item ->> 'mode' when 'chain' then null else df_engine.flow_operand(
        v_flat[v_node], v_name, v_levels[v_node], (v_item -> 'need')::int) end || (v_item ->> 'after');
      if v_line is null or 2 * (v_item -> 'depth')::int + length(v_line) > 100 then
        for v_next in select df_engine.flow_open(v_item, v_name, v_forms[v_node], v_operands[v_node]) loop
          v_top := v_top + 1;
          v_stack[v_top] := v_next;
        end loop;
        continue;
      end if;
    end if;
    v_count := v_count + 1;
    v_lines[v_count] := repeat('  ', (v_item -> 'depth')::int) || v_line;
  end loop;
  return array_to_string(v_lines, E'\n');
end
$$;

-- From a graph back to text, the canonical one: parentheses only where they are needed, a line each where a line is not enough.
-- The nodes come as rows, from an envelope or from a run that the caller may see; children have higher numbers than parents.

-- A text in quotes: dollars when that saves doubling quotes.
create or replace function df_engine.flow_quote(p_text text) returns text
language sql immutable as $$
  select case when strpos(p_text, '''') > 0 and strpos(p_text || '$' || '$', '$' || '$') > length(p_text)
    then '$' || '$' || p_text || '$' || '$'
    else '''' || replace(p_text, '''', '''''') || '''' end
$$;

-- A name, quoted where it would be read as a word of the language.
create or replace function df_engine.flow_name(p_name text) returns text
language sql immutable as $$
  select case when lower(p_name) in ('break', 'true', 'false', 'null', '@>', '?>', '!>', '~>', '|', '&', '|=>', '(', ')', ',', '=>', '{', '}', ':', '[', ']') then '''' || p_name || '''' else p_name end
$$;

-- How a leaf is called: the builder ('' for a bare text) and its arguments; NULL when no builder makes such a leaf.
create or replace function df_engine.flow_leaf_call(p_type text, p_query text) returns text[]
language sql immutable as $$
  select case p_type
    when 'SQL' then array[case when p_query ~ '^\s*\{' and df_engine.json_or_null(p_query) ->> 'node_type' <> '' then 'sql' else '' end,
                          df_engine.flow_quote(p_query)]
    when 'SLEEP' then case when p_query ~ '^[0-9]{1,10}(\.[0-9]*[1-9])?$' then array['sleep', p_query]
      -- Only what the builders themselves write.
      when p_query = '{"duration":' || to_json(c ->> 'duration') || '}' and c ->> 'duration' ~ $re$\$[A-Za-z_]|[{][A-Za-z_][A-Za-z0-9_]*[}]$re$ then
        array['sleep', df_engine.flow_quote(c ->> 'duration')]
      when p_query = '{"until":' || to_json(c ->> 'until') || '}'
           and (c ->> 'until' ~ $re$\$[A-Za-z_]|[{][A-Za-z_][A-Za-z0-9_]*[}]$re$ or c ->> 'until' ~ '^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}([.][0-9]*[1-9])?Z$') then
        array['sleep_until', df_engine.flow_quote(c ->> 'until')] end
    when 'BLOCK' then case when df_engine.block_problem(p_query) is null then (
      select array_prepend('block', array_agg(df_engine.flow_quote(s.text) order by s.place))
      from jsonb_array_elements_text(c -> 'statements') with ordinality s(text, place)) end
    when 'BREAK' then case
      when p_query = '{"break_value":null}' then '{"",break}'
      when p_query = '{"break_value":' || to_json(c ->> 'break_value') || '}' then
        array['', 'break ' || df_engine.flow_quote(c ->> 'break_value')] end
    when 'SIGNAL' then case when c ?& '{signal_name,timeout_seconds}' then array_remove(
      array['wait_for_signal', df_engine.flow_quote(c ->> 'signal_name'), c ->> 'timeout_seconds'], null) end
    when 'WAIT_SCHEDULE' then case when c ? 'cron_expr' then array_remove(
      array['wait_for_schedule', df_engine.flow_quote(c ->> 'cron_expr'), df_engine.flow_quote(c ->> 'timezone')], null) end
    else case when c ?& '{url,method,timeout_seconds}' then array_remove(array[
      lower(p_type), df_engine.flow_quote(c ->> 'url'),
      'method => ' || df_engine.flow_quote(nullif(c ->> 'method', 'POST')),
      'body => ' || df_engine.flow_quote(c ->> 'body'),
      'parts => ' || nullif(c -> 'parts', 'null')::pg_catalog.text,
      'headers => ' || nullif(c -> 'headers', 'null')::pg_catalog.text,
      'timeout_seconds => ' || nullif(c ->> 'timeout_seconds', '30'),
      'expect => ' || df_engine.flow_quote(c ->> 'expect')], null) end
  end
  from (select case when p_type <> 'SQL'
                 then df_engine.json_or_null(p_query) end) q(c)
$$;

-- How df.chain nests so many steps: a T for each sequence and a dot for each step, in pre-order.
-- Granted to users.
create or replace function df_engine.chain_shape(p_steps bigint) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  v_nodes text[] := array_fill('.'::text, array[p_steps::int]);
begin
  while cardinality(v_nodes) > 1 loop
    v_nodes := array(
      select case when b.node is null then a.node else 'T' || a.node || b.node end
      from pg_catalog.unnest(v_nodes) with ordinality a(node, place)
      left join pg_catalog.unnest(v_nodes) with ordinality b(node, place) on b.place = a.place + 1
      where a.place % 2 = 1
      order by a.place);
  end loop;
  return v_nodes[1];
end
$$;

-- The nodes of a graph. A WAIT_FOR that is tried again is two: the call of retry, and what it is put around. Those of the flow of a CALL
-- are its children; a flow that is no envelope is not what a builder writes. p_prefix: of ids.
-- Granted to users.
create or replace function df_engine.flow_nodes(p_graph jsonb, p_prefix text default '', p_depth int default 0)
returns table (id text, depth int, node_type text, query text, result_name text, left_node text, right_node text, retry jsonb)
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_call record;
begin
  for v_call in
    select p_prefix || w.node || '.' as prefix, p_depth + 2 * w.depth + 1 as depth, df_engine.called_graph(w.body ->> 'query') as graph
    from df_engine.walk(p_graph) w where w.kind = 'CALL' and df_engine.json_or_null(df_engine.json_or_null(w.body ->> 'query') ->> 'flow') ? 'node_type'
  loop
    return query select n.* from df_engine.flow_nodes(v_call.graph, v_call.prefix, v_call.depth) n;
  end loop;
  return query
    with recursive graph as materialized (
      select w.* from df_engine.walk(p_graph) w
    ), part as (  -- of each sequence that is in no other without a name: the sequences in it, and what they are sequences of
      select g.node as top, g.node, true as opened
      from graph g left join graph p on p.node = g.parent
      where g.kind = 'THEN' and (g.body ? 'result_name' or p.kind is distinct from 'THEN')
      union all
      select m.top, c.node, c.kind = 'THEN' and not c.body ? 'result_name'
      from part m join graph c on c.parent = m.node where m.opened
    ), chain as (
      select m.top, jsonb_agg(p_prefix || m.node order by m.node) filter (where not m.opened) as steps
      from part m group by m.top
      having count(*) > 6 and string_agg(case when m.opened then 'T' else '.' end, '' order by m.node)
                              = df_engine.chain_shape(1 + count(*) filter (where m.opened))
    ), children as (
      select c.parent, p_prefix || max(c.node) filter (where c.place = 0) as condition,
             p_prefix || max(c.node) filter (where c.place = 1) as lefts, p_prefix || max(c.node) filter (where c.place = 2) as rights,
             array_agg(p_prefix || c.node order by c.place) filter (where c.place > 2) as extras
      from graph c group by c.parent
      union all
      select g.node, null, p_prefix || g.node || '.1', null, null from graph g
      where g.kind = 'CALL' and df_engine.json_or_null(df_engine.json_or_null(g.body ->> 'query') ->> 'flow') ? 'node_type'
    )
    select n.*
    from graph g
    left join children k on k.parent = g.node
    left join chain s on s.top = g.node
    cross join lateral (select case when s.top is null then df_engine.shown_query(g.body ->> 'query', k.condition, k.extras)
                                    else jsonb_build_object('steps', s.steps)::pg_catalog.text end,
                               g.kind = 'WAIT_FOR' and g.body ? 'retry') w(query, twice)
    cross join lateral (
      select p_prefix || g.node, p_depth + 2 * g.depth, case when w.twice then 'RETRY' else g.kind end, w.query, g.body ->> 'result_name',
             case when w.twice then p_prefix || g.node || 'w' else k.lefts end, k.rights, g.body -> 'retry'
      union all
      select p_prefix || g.node || 'w', p_depth + 2 * g.depth + 1, g.kind, w.query, null, k.lefts, k.rights, null where w.twice
    ) n
    order by g.node;
end
$$;

-- The arguments of df.retry after the step itself.
create or replace function df_engine.flow_retry_arguments(p_retry jsonb) returns text[]
language sql immutable as $$
  select array(
    select key || ' => ' || case when key like '%delay' then df_engine.flow_quote((p_retry ->> key) || ' s') else (p_retry -> key)::pg_catalog.text end
    from unnest('{max_attempts,initial_delay,backoff,max_delay,retry_on}'::pg_catalog.text[]) with ordinality k(key, nth)
    where p_retry ? key order by nth)
$$;

-- A leaf as the call of a builder; one that no builder makes as its envelope, which needs no call.
create or replace function df_engine.flow_leaf_text(p_type text, p_query text, p_retry jsonb, out form text, out words text[])
language sql immutable as $$
  select case when p_retry is null then call[1] else 'retry' end,
         case when p_retry is null then call[2:]
           else case when call[1] = '' then call[2] else call[1] || '(' || array_to_string(call[2:], ', ') || ')' end
                || df_engine.flow_retry_arguments(p_retry) end
  from (select coalesce(df_engine.flow_leaf_call(p_type, p_query),
          array['', '{"node_type":"' || p_type || '","query":' || to_json(p_query) || '}'])) l(call)
$$;

-- What stands between the operands of a node: operand nth is written as sign, then a child or a text; child operands are put in
-- parentheses when their level is below need. Levels: 0 @>, 1 ?>, 2 ~>, 3 |, 4 &, 5 |=>, 6 a call or a text.
create or replace function df_engine.flow_operands(p_type text, p_query text, p_left text, p_right text, p_retry jsonb)
returns table (nth int, form text, level int, sign text, child text, word text, need int)
language sql immutable as $$
  select row_number() over ()::int, o.form, o.level, o.sign, o.child, o.word, o.need
  from (select case when p_type not in ('SQL', 'BLOCK', 'HTTP', 'HTTP_MULTIPART', 'SLEEP', 'WAIT_SCHEDULE', 'SIGNAL', 'BREAK', 'CALL') or p_left is not null then df_engine.json_or_null(p_query) end) q(c)
  cross join lateral (
    select '', 2, s.* from (values ('', p_left, null, 2), ('~> ', p_right, null, 3)) s where p_type = 'THEN' and c is null
    union all
    select 'chain', 6, '', s.id, null, 0 from jsonb_array_elements_text(c -> 'steps') s(id) where p_type = 'THEN'
    union all
    select '', 3, s.* from (values ('', p_left, null, 3), ('| ', p_right, null, 4)) s where p_type = 'RACE' and not coalesce(c ? 'extra_nodes', false)
    union all
    select '', 4, s.* from (values ('', p_left, null, 5), ('& ', p_right, null, 5)) s where p_type = 'JOIN' and p_right is not null
    union all
    select '', 4, '& ', e.id, null, 5 from jsonb_array_elements_text(c -> 'extra_nodes') e(id) where p_type = 'JOIN'
    union all
    select case p_type when 'JOIN' then 'all' when 'RACE' then 'race_all' else 'any' end, 6, '', s.child, null, 0
    from (values (p_left), (p_right)) s(child)
    where s.child is not null and (p_type = 'ANY' or p_type = 'RACE' and c ? 'extra_nodes' or p_type = 'JOIN' and p_right is null)
    union all
    select case p_type when 'RACE' then 'race_all' else 'any' end, 6, '', e.id, null, 0
    from jsonb_array_elements_text(c -> 'extra_nodes') e(id) where p_type in ('RACE', 'ANY')
    union all
    select lower(p_type), 6, s.* from (values
      ('', p_left, null, 0), ('', case when p_type <> 'TIMEOUT' then p_right end, null, 0),
      ('', null, case jsonb_typeof(c -> 'after') when 'number' then c ->> 'after' when 'string' then df_engine.flow_quote(c ->> 'after') end, 0),
      ('', case p_type when 'TIMEOUT' then p_right end, null, 0),
      ('errors => ', null, (c -> 'errors')::pg_catalog.text, 0)) s(sign, child, word, need)
    where p_type in ('CATCH', 'UNDO', 'TIMEOUT') and num_nonnulls(s.child, s.word) = 1
    union all
    select '', 1, s.* from (values ('', c ->> 'condition_node', null, 2), ('?> ', p_left, null, 2), ('!> ', p_right, null, 0)) s(sign, child)
    where p_type = 'IF' and c ? 'condition_node' and s.child is not null
    union all
    select 'if_rows', 6, s.* from (values ('', null, df_engine.flow_quote(c ->> 'result_name'), 0), ('', p_left, null, 0),
                                          ('', p_right, null, 0)) s
    where p_type = 'IF' and c ->> 'condition_type' = 'result_has_rows' and not c ? 'condition_node'
    union all
    select '', 0, '@> ', p_left, null, 0 where p_type = 'LOOP' and not coalesce(c ? 'condition_node' or c -> 'continue_on_failure' = 'true', false)
    union all
    select 'loop', 6, s.* from (values ('', p_left, null, 0), ('while => ', c ->> 'condition_node', null, 0),
                                       ('continue_on_failure => ', null, nullif(c ->> 'continue_on_failure', 'false'), 0)) s(sign, child, word, need)
    where p_type = 'LOOP' and (c ? 'condition_node' or c -> 'continue_on_failure' = 'true') and num_nonnulls(s.child, s.word) = 1
    union all
    select 'wait_for', 6, s.* from (values ('', c ->> 'condition_node', null, 0),
                                           ('every => ', null, df_engine.flow_quote(nullif(c ->> 'every', '60') || ' s'), 0),
                                           ('key => ', null, df_engine.flow_quote(c ->> 'key'), 0),
                                           ('timeout => ', null, df_engine.flow_quote((c ->> 'timeout') || ' s'), 0)) s(sign, child, word, need)
    where p_type = 'WAIT_FOR' and num_nonnulls(s.child, s.word) = 1
    union all
    select 'call', 6, s.* from (values ('', p_left, null, 0), ('input => ', null, df_engine.flow_quote(c ->> 'input'), 0),
                                       ('label => ', null, df_engine.flow_quote(c ->> 'label'), 0)) s(sign, child, word, need)
    where p_type = 'CALL' and p_left is not null and num_nonnulls(s.child, s.word) = 1
    union all
    select 'map', 6, s.* from (values ('', c ->> 'condition_node', null, 0), ('', null, df_engine.flow_quote(c ->> 'items'), 0),
                                      ('', p_left, null, 0),
                                      ('parallel => ', null, nullif(c ->> 'parallel', '10'), 0),
                                      ('on_error => ', null, df_engine.flow_quote(nullif(c ->> 'on_error', 'fail')), 0),
                                      ('collect_values => ', null, nullif(c ->> 'collect_values', 'true'), 0)) s(sign, child, word, need)
    where p_type = 'MAP' and num_nonnulls(s.child, s.word) = 1
    union all
    select 'retry', 6, '', p_left, null, 0 where p_type = 'RETRY'
    union all
    select 'retry', 6, '', null, w.word, 6 from unnest(df_engine.flow_retry_arguments(p_retry)) w(word) where p_type = 'RETRY'
    union all
    select l.form, 6, '', null, w.word, 6 from df_engine.flow_leaf_text(p_type, p_query, p_retry) l, unnest(l.words) w(word)
    where p_type in ('SQL', 'BLOCK', 'HTTP', 'HTTP_MULTIPART', 'SLEEP', 'WAIT_SCHEDULE', 'SIGNAL', 'BREAK', 'CALL') and p_left is null
  ) o(form, level, sign, child, word, need)
$$;

-- The flow text of a graph.
-- Granted to users.
create or replace function df_engine.graph_text(p_graph jsonb) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp set standard_conforming_strings = on as $$
begin
  return (select df_engine.flow_layout(jsonb_agg(to_jsonb(n))) from df_engine.flow_nodes(p_graph) n);
end
$$;

create or replace function df.to_flow(envelope text) returns text
language plpgsql strict set search_path = pg_catalog, pg_temp set standard_conforming_strings = on as $$
declare
  v_graph jsonb;
begin
  if not (pg_catalog.has_schema_privilege('df_engine', 'usage')
          and pg_catalog.has_table_privilege('df_engine.own_key', 'select')) then
    raise exception 'permission denied: role "%" may not use pg_durable', current_user
      using errcode = 'insufficient_privilege',
            hint = pg_catalog.format('An administrator grants it: SELECT df.grant_usage(%L);', current_user);
  end if;
  if envelope ~ '^[0-9a-f]{8}$' then
    v_graph := (select r.envelope from df_engine.visible_runs r where r.id = to_flow.envelope);
    if v_graph is null then
      raise exception 'instance % not found or access denied', envelope using errcode = 'insufficient_privilege';
    end if;
  else
    v_graph := df_engine.parse_graph(envelope);
  end if;
  return df_engine.graph_text(v_graph);
end
$$;
comment on function df.to_flow(text) is
  'The flow text of a graph, complete and in canonical form: of an envelope, of a statement, or of a run that the caller may see when given its id. df.flow gives the graph back';

-- Lexing: SQL text cut into tokens by PostgreSQL's lexical rules, and values written as SQL. Here begins substitution, which
-- goes on in the next files. The long regular expressions come from generator/grammar/template.lark; the others do without
-- backslashes, so that they mean the same whatever standard_conforming_strings is. Of all this only render_vars, render_names,
-- template_names and single_statement_problem are called from elsewhere; they pin the search_path for the rest.

-- The region that begins p_text: a comment with all comments inside it, or a dollar-quoted string that p_opener opens.
create or replace function df_engine.sql_region(p_text pg_catalog.text, p_opener pg_catalog.text)
returns pg_catalog.text
language sql immutable as $$
  select left(p_text, case
    when p_opener = '/*' then (
      select min(m.reached) filter (where m.depth = 0)
      from (
        select sum(case t.token[1] when '/*' then 1 when '*/' then -1 else 0 end) over w as depth,
          sum(length(t.token[1])) over w as reached
        from regexp_matches(p_text, '/[*]|[*]/|[^*/]+|[*/]', 'g') with ordinality t(token, ord)
        window w as (order by t.ord)
      ) m
    )::int
    else length(p_opener) * 2 - 1 + nullif(strpos(substr(p_text, length(p_opener) + 1), p_opener), 0)
  end)
$$;

-- The region that begins at p_place, looked for in more and more of the text; one that does not end is all the rest.
create or replace function df_engine.whole_region(p_text pg_catalog.text, p_place int, p_opener pg_catalog.text)
returns pg_catalog.text
language plpgsql immutable as $$
declare
  v_region pg_catalog.text;
  v_width int := 32;
begin
  while v_width < length(p_text) loop
    v_region := df_engine.sql_region(substr(p_text, p_place, v_width), p_opener);
    if v_region is not null then
      return v_region;
    end if;
    v_width := 16 * v_width;
  end loop;
  return coalesce(df_engine.sql_region(substr(p_text, p_place), p_opener), substr(p_text, p_place));
end
$$;

-- The tokens of SQL text, comments, literals and dollar-quoted strings being one each; together they are the text. Where it has
-- regions it is read through a window that grows until it shows where the next one begins: what is before that is right whatever
-- follows. So each character is read a few times, however many regions there are. A block is what windows are cut from: cutting
-- them from all of the text would count its characters anew each time.
create or replace function df_engine.sql_tokens(p_text pg_catalog.text) returns pg_catalog.text[]
language plpgsql immutable as $fn$
declare
  c_block constant int := 4096;
  c_window constant int := 32;
  v_tokens pg_catalog.text[] := '{}';
  v_length constant int := length(p_text);
  v_base int := 0;                             -- characters before the block
  v_block pg_catalog.text := left(p_text, c_block);
  v_place int := 1;                            -- of the window in the block
  v_width int := c_window;
  v_next pg_catalog.text[];
  v_token pg_catalog.text;
  v_opener pg_catalog.text;
begin
  if p_text !~ $re$/\*|\$(?:[A-Za-z_\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff][A-Za-z0-9_\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff]*)?\$$re$ then
    v_width := v_length;
    v_block := p_text;
  end if;
  loop
    if v_place + v_width > length(v_block) + 1 and v_base + length(v_block) < v_length then
      v_base := v_base + v_place - 1;
      v_place := 1;
      v_block := substr(p_text, v_base + 1, greatest(c_block, v_width));
    end if;
    v_next := array(select t.token[1] from regexp_matches(substr(v_block, v_place, v_width), $re$(?:(?:[A-Za-z0-9_\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff][A-Za-z0-9_$\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff]*)?[^A-Za-z0-9_$'"&\/\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff-])+|[A-Za-z0-9_\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff][A-Za-z0-9_$\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff]*|(?:\$[A-Za-z_][A-Za-z0-9_]*(?:\.(?:[A-Za-z_\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff][A-Za-z0-9_\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff]*|[0-9]+))+\$[A-Za-z0-9_$\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff]*|\$[A-Za-z_][A-Za-z0-9_]*(?:(?:(?:\.(?:[A-Za-z_\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff][A-Za-z0-9_\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff]*|[0-9]+))+|\.\*))?(?:\?)?)|\$|[&\/-]|(?:'(?:[^']|'')*'|'(?:[^']|'')*)|[Ee](?:'(?:[^'\\]|''|\\(?:.|\u000a))*'(?:[ \u0009\u000c\v]|--[^\u000a\u000d]*)*[\u000a\u000d](?:[ \u0009\u000c\v\u000a\u000d]|--[^\u000a\u000d]*[\u000a\u000d])*)*(?:'(?:[^'\\]|''|\\(?:.|\u000a))*'|'(?:[^'\\]|''|\\(?:.|\u000a))*)|(?:[BbXx]|[Uu]&)(?:'(?:[^']|'')*'(?:[ \u0009\u000c\v]|--[^\u000a\u000d]*)*[\u000a\u000d](?:[ \u0009\u000c\v\u000a\u000d]|--[^\u000a\u000d]*[\u000a\u000d])*)*(?:'(?:[^']|'')*'|'(?:[^']|'')*)|"[^"]*"?|--[^\u000a\u000d]*|\/\*(?:[^*\/]|\*+[^*\/]|\/+[^*\/])*\*+\/|/\*|\$(?:[A-Za-z_\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff][A-Za-z0-9_\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff]*)?\$|\$\$[^$]*\$\$$re$, 'g') t(token));
    v_opener := (select t.token from unnest(v_next) with ordinality t(token, ord)
                 where t.token ~ $re$^(?:/\*|\$(?:[A-Za-z_\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff][A-Za-z0-9_\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff]*)?\$)$$re$ order by t.ord limit 1);
    if v_opener is null and v_base + v_place + v_width <= v_length then
      v_width := 2 * v_width;
      continue;
    end if;
    foreach v_token in array v_next loop
      exit when v_token = v_opener;
      v_tokens := array_append(v_tokens, v_token);
      v_place := v_place + length(v_token);
    end loop;
    if v_opener is null then
      return v_tokens;
    end if;
    v_token := df_engine.whole_region(v_block, v_place, v_opener);
    if v_place + length(v_token) > length(v_block) then  -- or it ends after the block
      v_token := df_engine.whole_region(p_text, v_base + v_place, v_opener);
    end if;
    v_tokens := array_append(v_tokens, v_token);
    v_place := v_place + length(v_token);
    v_width := c_window;
  end loop;
end
$fn$;

-- A dollar-quoted string as its opening tag, its body and its closing tag, which is empty when it is missing.
create or replace function df_engine.dollar_parts(p_token pg_catalog.text) returns pg_catalog.text[]
language sql immutable as $fn$
  select case
    when length(p_token) >= 2 * length(t.tag) and right(p_token, length(t.tag)) = t.tag
      then array[t.tag, substr(p_token, length(t.tag) + 1, length(p_token) - 2 * length(t.tag)), t.tag]
    else array[t.tag, substr(p_token, length(t.tag) + 1), '']
  end
  from substring(p_token from $re$^\$(?:[A-Za-z_\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff][A-Za-z0-9_\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff]*)?\$$re$) t(tag)
$fn$;

create or replace function df_engine.quoted(p_text pg_catalog.text) returns pg_catalog.text
language sql immutable as $$
  select '''' || replace(p_text, '''', '''''') || ''''
$$;

create or replace function df_engine.quoted_name(p_name pg_catalog.text) returns pg_catalog.text
language sql immutable as $$
  select '"' || replace(p_name, '"', '""') || '"'
$$;

-- Variables: {name} in the text of a step, replaced before anything else reads the text.
-- Called for every step, so text without a brace returns at once.

create or replace function df_engine.fill_placeholders(p_text pg_catalog.text, p_vars pg_catalog.jsonb)
returns pg_catalog.text
language plpgsql immutable as $fn$
declare
  v_tokens pg_catalog.text[] := array(
    select t.token[1] from regexp_matches(p_text, $re$\{[A-Za-z_][A-Za-z0-9_]*\}|\{|[^{]+$re$, 'g') t(token));
begin
  for i in 1 .. cardinality(v_tokens) loop
    if v_tokens[i] ~ '^[{].' then
      v_tokens[i] := coalesce(p_vars ->> btrim(v_tokens[i], '{}'), v_tokens[i]);
    end if;
  end loop;
  return array_to_string(v_tokens, '');
end
$fn$;

-- The same everywhere but in comments, those in the bodies of dollar-quoted strings included.
create or replace function df_engine.fill_sql_placeholders(p_text pg_catalog.text, p_vars pg_catalog.jsonb)
returns pg_catalog.text
language plpgsql immutable as $fn$
declare
  v_tokens pg_catalog.text[] := df_engine.sql_tokens(p_text);
  v_part pg_catalog.text[];
begin
  for i in 1 .. cardinality(v_tokens) loop
    continue when strpos(v_tokens[i], '{') = 0 or v_tokens[i] ~ '^(--|/[*])';
    if v_tokens[i] ~ $re$^\$(?:[A-Za-z_\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff][A-Za-z0-9_\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff]*)?\$$re$ then
      v_part := df_engine.dollar_parts(v_tokens[i]);
      v_part[2] := df_engine.fill_sql_placeholders(v_part[2], p_vars);
      v_tokens[i] := array_to_string(v_part, '');
    else
      v_tokens[i] := df_engine.fill_placeholders(v_tokens[i], p_vars);
    end if;
  end loop;
  return array_to_string(v_tokens, '');
end
$fn$;

create or replace function df_engine.render_vars(
  p_text pg_catalog.text, p_mode pg_catalog.text, p_vars pg_catalog.jsonb
) returns pg_catalog.text
language plpgsql immutable set search_path = '' as $fn$
begin
  if p_text is null or strpos(p_text, '{') = 0 then
    return p_text;
  elsif p_mode = 'sql' and p_text ~ '--|/[*]' then
    return df_engine.fill_sql_placeholders(p_text, p_vars);
  elsif p_mode <> 'whole' then
    return df_engine.fill_placeholders(p_text, p_vars);
  elsif btrim(p_text, E' \t\n\r') ~ $re$^\{[A-Za-z_][A-Za-z0-9_]*\}$$re$ and p_vars ? btrim(p_text, E'{} \t\n\r') then
    return p_vars ->> btrim(p_text, E'{} \t\n\r');
  end if;
  return df_engine.refuse_partial_reference(p_text);
end
$fn$;

-- The first {name} in SQL code that is no variable: outside of literals, identifiers, comments and dollar-quoted bodies a
-- brace is never SQL. NULL when there is none.
create or replace function df_engine.unknown_variable(p_sql pg_catalog.text, p_vars pg_catalog.jsonb)
returns pg_catalog.text
language sql immutable as $fn$
  select m.part[1]
  from (
    select string_agg(case when t.token ~ $re$^(--|/[*]|['"]|[EeBbXx]'|[Uu]&['"]|[$].)$re$ then ' ' else t.token end, '' order by t.ord)
    from unnest(df_engine.sql_tokens(p_sql)) with ordinality t(token, ord)
  ) code(text)
  cross join lateral regexp_matches(code.text, $re$[{]([A-Za-z_][A-Za-z0-9_]*)[}]$re$, 'g') with ordinality m(part, nth)
  where not p_vars ? m.part[1]
  order by m.nth limit 1
$fn$;

-- Raises for the first step whose SQL names a variable that the run does not have.
create or replace function df_engine.check_variables(p_graph bigint, p_vars pg_catalog.jsonb, p_prefix pg_catalog.text)
returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $fn$
declare
  v_vars constant jsonb := p_vars || '{"sys_instance_id": "", "sys_label": ""}';
  v_step record;
begin
  select df_engine.node_path(g.graph, g.node) as path, u.name into v_step
  from df_engine.graph_nodes g
  cross join lateral df_engine.statements_of(g.kind, g.query) with ordinality s(text, place)
  cross join lateral df_engine.unknown_variable(s.text, v_vars) u(name)
  where g.graph = p_graph and g.kind in ('SQL', 'BLOCK') and g.query ~ $re$\{[A-Za-z_][A-Za-z0-9_]*\}$re$ and u.name is not null
  order by g.node, s.place limit 1;
  if found then
    raise exception '%: the run has no variable %; it has %', p_prefix || v_step.path, '{' || v_step.name || '}',
      (select string_agg('{' || k.name || '}', ', ' order by k.name) from jsonb_object_keys(v_vars) k(name))
      using errcode = 'invalid_parameter_value',
            hint = format('Call df.setvar before df.start. A result is written $%s, and what is in the input $input.%1$s.', v_step.name);
  end if;
end
$fn$;

-- Named results: what $name, $name.column and $name.* stand for, and what is said of one that stands for nothing (DF010;
-- DF013: for nothing in any run of this graph).
-- How it is written where it stands is the next file's.

create or replace function df_engine.refuse_partial_reference(p_text pg_catalog.text) returns pg_catalog.text
language plpgsql immutable as $$
begin
  raise exception 'not a whole-value reference: "%"; here $ and { may only be those of one reference to a known name',
    left(p_text, 100) using errcode = 'DF010';
end
$$;

-- A name that is unknown once is unknown for ever: no loop continues after this.
create or replace function df_engine.refuse_unknown_name(p_reference pg_catalog.text, p_name pg_catalog.text, p_known pg_catalog.text[])
returns pg_catalog.text
language plpgsql immutable as $$
begin
  raise exception 'reference %: %', p_reference, df_engine.unknown_name(p_name, p_known) using errcode = 'DF013';
end
$$;

create or replace function df_engine.refuse_reference(p_reference pg_catalog.text, p_reason pg_catalog.text)
returns pg_catalog.text
language plpgsql immutable as $$
begin
  raise exception 'reference %: %', p_reference, p_reason using errcode = 'DF010';
end
$$;

-- Number of insertions, deletions and replacements of a character that make one text of the other.
create or replace function df_engine.edit_distance(p_one pg_catalog.text, p_other pg_catalog.text) returns int
language plpgsql immutable as $$
declare
  v_row int[] := array(select generate_series(0, length(p_other)));
  v_diagonal int;
  v_above int;
begin
  for i in 1 .. length(p_one) loop
    v_diagonal := v_row[1];
    v_row[1] := i;
    for j in 1 .. length(p_other) loop
      v_above := v_row[j + 1];
      v_row[j + 1] := least(v_above + 1, v_row[j] + 1,
        v_diagonal + (substr(p_one, i, 1) <> substr(p_other, j, 1))::int);
      v_diagonal := v_above;
    end loop;
  end loop;
  return v_row[length(p_other) + 1];
end
$$;

-- What to say of a name that nothing binds.
create or replace function df_engine.unknown_name(p_name pg_catalog.text, p_known pg_catalog.text[])
returns pg_catalog.text
language sql immutable as $$
  select format('no node binds the name "%s"', p_name)
    || case p_name when 'input' then ', and the run was started without input' else '' end || case when cardinality(p_known) > 0 then format(
    '; did you mean $%s? Known names: %s', (
      select c.name
      from (
        select k.name from unnest(p_known) k(name) order by abs(length(k.name) - length(p_name)), k.name limit 100
      ) c
      order by df_engine.edit_distance(lower(left(p_name, 63)), lower(left(c.name, 63))), c.name
      limit 1
    ), (
      select string_agg('$' || k.name, ', ' order by k.name)
      from (select u.name from unnest(p_known) u(name) order by u.name limit 20) k
    ) || case when cardinality(p_known) > 20 then ', ...' else '' end)
  else '' end
$$;

-- The columns of a row set: as the statement returned them, else the keys of the first row.
create or replace function df_engine.entry_columns(p_entry pg_catalog.jsonb) returns pg_catalog.text[]
language sql immutable as $$
  select case
    when jsonb_typeof(p_entry -> 'columns') = 'array' then array(select jsonb_array_elements_text(p_entry -> 'columns'))
    when jsonb_typeof(p_entry #> '{value,rows,0}') = 'object'
      then array(select jsonb_object_keys(p_entry #> '{value,rows,0}'))
    else '{}'
  end
$$;

-- Whether the value of a name is the rows of a statement. The input of a run never is, whatever keys it has.
create or replace function df_engine.is_row_set(p_entry pg_catalog.jsonb) returns pg_catalog.bool
language sql immutable as $$
  select coalesce(jsonb_typeof(p_entry #> '{value,rows}') = 'array', false) and not p_entry ? 'built_in'
$$;

-- What a reference other than $n.* stands for: a value, or what is missing (which ? turns into NULL), or a mistake. p_path is what
-- is written behind the name. Of a row set it goes on through a column that holds JSON; behind any other column it is no part
-- of the reference: used says how much of it is. The rows of a WAIT_FOR have timed_out beside them.
create or replace function df_engine.resolve(
  p_name pg_catalog.text, p_path pg_catalog.text[], p_entry pg_catalog.jsonb,
  out value pg_catalog.jsonb, out missing pg_catalog.text, out mistake pg_catalog.text, out used int
) language plpgsql immutable as $$
declare
  v_rows constant pg_catalog.bool := df_engine.is_row_set(p_entry)
    and not (coalesce(p_path[1], '') = 'timed_out' and p_entry -> 'value' ? 'timed_out');
  v_key pg_catalog.text;
begin
  used := 0;
  value := p_entry -> 'value';
  if p_entry is null then
    missing := format('"%s" has no value yet', p_name);
    return;
  elsif v_rows then
    value := value #> '{rows,0}';
    used := (p_path[1] ~ '^[^0-9]')::int;
    v_key := coalesce(case when used = 1 then p_path[1] end, p_entry -> 'columns' ->> 0, (df_engine.entry_columns(p_entry))[1]);
    missing := df_engine.missing_column(p_name, v_key, p_entry);
    value := value -> v_key;
  elsif p_path = '{}' and not p_entry ? 'built_in' then
    value := to_jsonb(value::pg_catalog.text);
    return;
  elsif value = 'null' and p_path = '{}' then
    missing := format('"%s" is NULL', p_name);
  end if;
  used := coalesce(used, 0);
  while missing is null and used < cardinality(p_path) 
        and not ((v_rows or used > 0) and jsonb_typeof(value) not in ('object', 'array')) loop
    select w.missing, w.mistake into missing, mistake
    from df_engine.missing_key(concat_ws('.', p_name, nullif(array_to_string(p_path[:used], '.'), '')), p_path[used + 1], value) w;
    exit when mistake is not null;
    value := case jsonb_typeof(value) when 'array' then value -> p_path[used + 1]::int else value -> p_path[used + 1] end;
    used := used + 1;
  end loop;
  if missing is not null or mistake is not null then
    value := null;
  end if;
end
$$;

-- Why there is nothing in a column of the first row; NULL when there is.
create or replace function df_engine.missing_column(
  p_name pg_catalog.text, p_column pg_catalog.text, p_entry pg_catalog.jsonb
) returns pg_catalog.text
language plpgsql immutable as $$
begin
  return case
    when p_entry #> '{value,rows,0}' is null then format('"%s" has no rows', p_name)
    when p_column is null or not p_entry #> '{value,rows,0}' ? p_column then
      format('"%s" has no column%s; it has: %s', p_name, coalesce(' "' || p_column || '"', 's'),
             coalesce(nullif(array_to_string(df_engine.entry_columns(p_entry), ', '), ''), 'none'))
    when p_entry #> array['value', 'rows', '0', p_column] = 'null' then format('column "%s" of "%s" is NULL', p_column, p_name)
  end;
end
$$;

-- Why there is nothing under a key of an object, or at a place of an array, which a path has led to.
create or replace function df_engine.missing_key(
  p_holder pg_catalog.text, p_key pg_catalog.text, p_value pg_catalog.jsonb,
  out missing pg_catalog.text, out mistake pg_catalog.text
) language plpgsql immutable as $$
declare
  v_place constant numeric := case when p_key ~ '^[0-9]+$' then p_key::numeric end;
begin
  if jsonb_typeof(p_value) = 'array' and v_place is not null then
    missing := case
      when v_place >= jsonb_array_length(p_value) then
        format('"%s" has no element %s; it has %s, counted from 0', p_holder, p_key, jsonb_array_length(p_value))
      when p_value -> v_place::int = 'null' then format('element %s of "%s" is NULL', p_key, p_holder) end;
  elsif jsonb_typeof(p_value) = 'array' then
    mistake := format('the value of "%s" is neither a row set nor a JSON object; it is an array, whose first element is $%1$s.0',
                      p_holder);
  elsif jsonb_typeof(p_value) <> 'object' then
    mistake := format('the value of "%s" is neither a row set nor a JSON object; a ? ends a reference: $%1$s?.%s', p_holder, p_key);
  elsif not p_value ? p_key then
    missing := format('"%s" has no key "%s"; it has: %s', p_holder, p_key, coalesce(nullif(array_to_string(
      array(select jsonb_object_keys(p_value)), ', '), ''), 'none'));
  elsif p_value -> p_key = 'null' then
    missing := format('key "%s" of "%s" is NULL', p_key, p_holder);
  end if;
end
$$;

-- Rendering: references replaced in the text of a step, so that a value is one value wherever it is put: in code, in a
-- literal, in the body of a dollar-quoted string. Called for every step, so text without a reference returns at once.

-- The type of a column, as it was recorded; NULL when it was not, or the value is no row set.
create or replace function df_engine.column_type(p_entry pg_catalog.jsonb, p_column pg_catalog.text)
returns pg_catalog.text
language plpgsql immutable as $$
begin
  if jsonb_typeof(p_entry -> 'types') is distinct from 'array' then
    return null;
  end if;
  return p_entry -> 'types' ->> case when p_column is null then 0 else (
    select c.place::int - 1
    from jsonb_array_elements_text(p_entry -> 'columns') with ordinality c(name, place)
    where c.name = p_column) end;
end
$$;

-- What a type is for who writes a value of it: text, where nothing need be said of it, json, or one that is named.
create or replace function df_engine.type_class(p_type pg_catalog.text) returns pg_catalog.text
language sql immutable as $$
  select case
    when p_type is null or p_type ~ '^pg_catalog[.]"?(text|varchar|bpchar|char|name)"?$' then 'text'
    when p_type ~ '^pg_catalog[.]"?jsonb?"?$' then 'json'
    else 'named' end
$$;

-- A JSON array in the form that PostgreSQL reads arrays in. p_json: its elements are JSON themselves.
create or replace function df_engine.array_text(p_value pg_catalog.jsonb, p_json boolean) returns pg_catalog.text
language sql immutable as $$
  select '{' || coalesce(string_agg(case
    when e.value = 'null' then 'NULL'
    when jsonb_typeof(e.value) = 'array' and not p_json then df_engine.array_text(e.value, p_json)
    else '"' || replace(replace(case when p_json then e.value::pg_catalog.text else e.value #>> '{}' end,
                                E'\\', E'\\\\'), '"', E'\\"') || '"'
  end, ',' order by e.place), '') || '}'
  from jsonb_array_elements(p_value) with ordinality e(value, place)
$$;

-- Whether a value is one of a composite type, or an array of such: PostgreSQL does not read it from its JSON text.
create or replace function df_engine.is_composite(p_value pg_catalog.jsonb, p_type pg_catalog.text) returns boolean
language sql immutable as $$
  select jsonb_typeof(p_value) = 'object'
    or jsonb_typeof(p_value) = 'array' and p_type !~ '^pg_catalog[.]"?jsonb?"?\[\]$'
       and jsonb_path_exists(p_value, 'strict $.** ? (@.type() == "object")')
$$;

-- A value that is neither text nor JSON in the form in which PostgreSQL reads its type, quoted.
create or replace function df_engine.typed_literal(p_value pg_catalog.jsonb, p_type pg_catalog.text) returns pg_catalog.text
language sql immutable as $$
  select df_engine.quoted(case jsonb_typeof(p_value)
    when 'array' then df_engine.array_text(p_value, p_type ~ '^pg_catalog[.]"?jsonb?"?\[\]$') else p_value #>> '{}' end)
$$;

-- A JSON value, which comes from a column of p_type, as SQL code, as characters of a literal, or as it is; NULL is the SQL NULL.
-- An array stands in parentheses, so that an element of it can be asked for.
create or replace function df_engine.write_value(
  p_value pg_catalog.jsonb, p_place pg_catalog.text, p_type pg_catalog.text default null
) returns pg_catalog.text
language plpgsql immutable as $$
begin
  return case
    when p_value is null then 'NULL'
    when p_place = 'raw' then p_value #>> '{}'
    when p_place = 'literal' then replace(p_value #>> '{}', '''', '''''')
    when p_place = 'escape' then replace(replace(p_value #>> '{}', E'\\', E'\\\\'), '''', '''''')
    when jsonb_typeof(p_value) in ('number', 'boolean') and (p_type is null or p_type ~ '^pg_catalog[.]') then p_value #>> '{}'
    when df_engine.type_class(p_type) <> 'named' or df_engine.is_composite(p_value, p_type)
      then df_engine.quoted(p_value #>> '{}')
    when jsonb_typeof(p_value) = 'array' then '(' || df_engine.typed_literal(p_value, p_type) || '::' || p_type || ')'
    else df_engine.typed_literal(p_value, p_type) || '::' || p_type
  end;
end
$$;

-- A value as a cell of a list of VALUES. The first row says the types of the columns; where the type is no built-in one the other
-- rows say it, too, because PostgreSQL would take the base type of a domain.
create or replace function df_engine.write_cell(p_value pg_catalog.jsonb, p_type pg_catalog.text, p_first boolean)
returns pg_catalog.text
language sql immutable as $$
  select case
    when p_type is null then df_engine.write_value(nullif(p_value, 'null'), 'code')
      || case when jsonb_typeof(p_value) in ('string', 'object', 'array') then '::text' else '' end
    when p_value = 'null' then 'NULL'
    when df_engine.type_class(p_type) = 'json' then df_engine.quoted(p_value::pg_catalog.text)
    when df_engine.type_class(p_type) = 'text' then df_engine.quoted(p_value #>> '{}')
    when df_engine.is_composite(p_value, p_type) then format(
      '(SELECT v FROM pg_catalog.jsonb_to_record(%s) AS _(v %s))',
      df_engine.quoted(jsonb_build_object('v', p_value)::pg_catalog.text), p_type)
    else df_engine.typed_literal(p_value, p_type)
  end || case when p_first or p_type !~ '^pg_catalog[.]' then coalesce('::' || p_type, '') else '' end
$$;

-- All rows of a row set as a relation that can stand in FROM, its columns with their types.
create or replace function df_engine.write_relation(p_name pg_catalog.text, p_entry pg_catalog.jsonb)
returns pg_catalog.text
language sql immutable as $$
  select case
    when cardinality(c.names) = 0
      then '(SELECT FROM pg_catalog.generate_series(1, ' || jsonb_array_length(p_entry #> '{value,rows}') || '))'
    when p_entry #> '{value,rows,0}' is null
      then '(SELECT ' || (
          select string_agg('NULL' || coalesce('::' || (p_entry -> 'types' ->> (n.ord - 1)::int), '') || ' AS '
                            || df_engine.quoted_name(n.name), ', ' order by n.ord)
          from unnest(c.names) with ordinality n(name, ord)
        ) || ' WHERE false)'
    else '(VALUES ' || (
        select string_agg('(' || (
            select string_agg(
              coalesce(df_engine.write_cell(r.value -> n.name, p_entry -> 'types' ->> (n.ord - 1)::int, r.ord = 1), 'NULL'),
              ',' order by n.ord)
            from unnest(c.names) with ordinality n(name, ord)
          ) || ')', ',' order by r.ord)
        from jsonb_array_elements(p_entry #> '{value,rows}') with ordinality r(value, ord)
      ) || ')'
  end || ' AS ' || df_engine.quoted_name(p_name) || case
    when cardinality(c.names) = 0 or p_entry #> '{value,rows,0}' is null then ''
    else '(' || (select string_agg(df_engine.quoted_name(n), ',') from unnest(c.names) n) || ')'
  end
  from (select df_engine.entry_columns(p_entry)) c(names)
$$;

create or replace function df_engine.render_rows(
  p_reference pg_catalog.text, p_name pg_catalog.text, p_entry pg_catalog.jsonb, p_place pg_catalog.text
) returns pg_catalog.text
language plpgsql immutable as $$
declare
  v_limit constant int := 10000;
  v_rows constant pg_catalog.jsonb := p_entry #> '{value,rows}';
begin
  if not df_engine.is_row_set(p_entry) then
    return df_engine.refuse_reference(p_reference, format('the value of "%s" is not a row set', p_name));
  elsif jsonb_array_length(v_rows) > v_limit then
    return df_engine.refuse_reference(p_reference, format('"%s" has %s rows, exceeding the maximum of %s',
      p_name, jsonb_array_length(v_rows), v_limit));
  elsif p_place = 'code' then
    return df_engine.write_relation(p_name, p_entry);
  end if;
  return df_engine.write_value(v_rows, p_place);
end
$$;

-- The text that replaces a reference. p_place: code (unknown names fail), body (code in which they stay), literal,
-- escape, raw. A second $ and what follows it is glued to the reference but no part of it.
create or replace function df_engine.render_reference(
  p_token pg_catalog.text, p_place pg_catalog.text, p_names pg_catalog.jsonb, p_known pg_catalog.text[]
) returns pg_catalog.text
language plpgsql immutable as $$
declare
  v_reference constant pg_catalog.text := '$' || split_part(p_token, '$', 2);
  v_parts constant pg_catalog.text[] := string_to_array(rtrim(substr(v_reference, 2), '?'), '.');
  v_name constant pg_catalog.text := v_parts[1];
  v_place constant pg_catalog.text := case when p_place = 'body' then 'code' else p_place end;
  v_entry constant pg_catalog.jsonb := nullif(p_names -> v_name, 'null');
  v_found pg_catalog.record;
  v_type pg_catalog.text;
begin
  if v_entry is null and not p_names ? v_name and v_name <> all (p_known) then
    return case when p_place = 'code'
      then df_engine.refuse_unknown_name(v_reference, v_name, p_known) else p_token end;
  elsif v_entry is not null and v_parts[2] = '*' then
    return df_engine.render_rows(v_reference, v_name, v_entry, v_place);
  end if;
  v_found := df_engine.resolve(v_name, v_parts[2:], v_entry);
  if v_found.mistake is not null or v_found.missing is not null and right(v_reference, 1) <> '?' then
    return df_engine.refuse_reference(v_reference, coalesce(v_found.mistake, v_found.missing));
  elsif v_place = 'code' and v_found.missing is null and v_found.used < cardinality(v_parts) - 1 and not df_engine.is_row_set(v_entry) then
    -- Elsewhere what follows a value that has no parts is text: $file.name.txt.
    return df_engine.refuse_reference(v_reference, (df_engine.missing_key(
      array_to_string(v_parts[:v_found.used + 1], '.'), v_parts[v_found.used + 2], v_found.value)).mistake);
  end if;
  if v_found.used = 1 or v_found.used = 0 and not v_entry ? 'built_in' then  -- what is inside of JSON has no type of its own
    v_type := df_engine.column_type(v_entry, case v_found.used when 1 then v_parts[2] end);
  end if;
  return df_engine.write_value(v_found.value, v_place, v_type) || case
    when v_found.missing is null and v_found.used < cardinality(v_parts) - 1
      then substr(p_token, 2 + length(array_to_string(v_parts[:v_found.used + 1], '.')))
    else substr(p_token, length(v_reference) + 1) end;
end
$$;

-- References in text that has no regions of its own: the inside of a literal, or anything that is not SQL.
create or replace function df_engine.render_plain(
  p_text pg_catalog.text, p_place pg_catalog.text, p_names pg_catalog.jsonb, p_known pg_catalog.text[]
) returns pg_catalog.text
language plpgsql immutable as $fn$
declare
  v_tokens pg_catalog.text[] := array(
    select t.token[1]
    from regexp_matches(p_text, case p_place
        when 'literal' then $re$[A-Za-z0-9_\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff][A-Za-z0-9_$\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff]*|(?:\$[A-Za-z_][A-Za-z0-9_]*(?:\.(?:[A-Za-z_\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff][A-Za-z0-9_\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff]*|[0-9]+))+\$[A-Za-z0-9_$\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff]*|\$[A-Za-z_][A-Za-z0-9_]*(?:(?:(?:\.(?:[A-Za-z_\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff][A-Za-z0-9_\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff]*|[0-9]+))+|\.\*))?(?:\?)?)|\$|[^A-Za-z0-9_$\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff]+$re$
        when 'escape' then $re$[A-Za-z0-9_\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff][A-Za-z0-9_$\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff]*|(?:\$[A-Za-z_][A-Za-z0-9_]*(?:\.(?:[A-Za-z_\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff][A-Za-z0-9_\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff]*|[0-9]+))+\$[A-Za-z0-9_$\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff]*|\$[A-Za-z_][A-Za-z0-9_]*(?:(?:(?:\.(?:[A-Za-z_\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff][A-Za-z0-9_\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff]*|[0-9]+))+|\.\*))?(?:\?)?)|\$|[^A-Za-z0-9_$'\\\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff]+|\\(?:.|\u000a)?|(?:''|')|'(?:[ \u0009\u000c\v]|--[^\u000a\u000d]*)*[\u000a\u000d](?:[ \u0009\u000c\v\u000a\u000d]|--[^\u000a\u000d]*[\u000a\u000d])*'$re$
        else $re$\$[A-Za-z_][A-Za-z0-9_]*(?:(?:(?:\.(?:[A-Za-z_\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff][A-Za-z0-9_\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff]*|[0-9]+))+|\.\*))?(?:\?)?|\$\$[A-Za-z_][A-Za-z0-9_]*|\$|[^$]+$re$
      end, 'g') t(token));
begin
  for i in 1 .. cardinality(v_tokens) loop
    if starts_with(v_tokens[i], '$' || '$') then
      v_tokens[i] := substr(v_tokens[i], 2);
    elsif v_tokens[i] ~ '^[$].' then
      v_tokens[i] := df_engine.render_reference(v_tokens[i], p_place, p_names, p_known);
    end if;
  end loop;
  return array_to_string(v_tokens, '');
end
$fn$;

-- A dollar-quoted string; what is inserted must not end it.
create or replace function df_engine.render_body(
  p_token pg_catalog.text, p_names pg_catalog.jsonb, p_known pg_catalog.text[]
) returns pg_catalog.text
language plpgsql immutable as $$
declare
  v_part constant pg_catalog.text[] := df_engine.dollar_parts(p_token);
  v_body constant pg_catalog.text := df_engine.render_sql(v_part[2], 'body', p_names, p_known);
begin
  if v_body <> v_part[2] and strpos(v_body || v_part[1], v_part[1]) <= length(v_body) then
    raise exception 'text inserted into the body of % contains its closing tag', v_part[1]
      using errcode = 'DF010', hint = 'Quote the body with a tag that the data cannot contain.';
  end if;
  return v_part[1] || v_body || v_part[3];
end
$$;

-- What must stand between a value and the code before it: two minus signs would make a comment, and a literal with
-- escapes would go on in a literal that follows it, where the backslashes of the value would count.
create or replace function df_engine.separator(
  p_value pg_catalog.text, p_tokens pg_catalog.text[], p_position int
) returns pg_catalog.text
language plpgsql immutable as $$
begin
  if left(p_value, 1) = '-' and right(p_tokens[p_position - 1], 1) = '-' then
    return ' ';
  elsif left(p_value, 1) = '''' and p_tokens[p_position - 1] ~ '^[[:space:]]*$|^([EeBbXx]|[Uu]&)''' and (
    select t.token ~ '^([EeBbXx]|[Uu]&)'''
    from unnest(p_tokens[:p_position - 1]) with ordinality t(token, ord)
    where t.token !~ '^([[:space:]]*$|--)'
    order by t.ord desc
    limit 1
  ) then
    return '/**/';
  end if;
  return '';
end
$$;

-- p_place says what the code of the text is: code of a statement, or of the body of a dollar-quoted string.
create or replace function df_engine.render_sql(
  p_text pg_catalog.text, p_place pg_catalog.text, p_names pg_catalog.jsonb, p_known pg_catalog.text[]
) returns pg_catalog.text
language plpgsql immutable as $fn$
declare
  v_tokens pg_catalog.text[] := df_engine.sql_tokens(p_text);
  v_token pg_catalog.text;
begin
  for i in 1 .. cardinality(v_tokens) loop
    v_token := v_tokens[i];
    continue when strpos(v_token, '$') = 0;
    if left(v_token, 1) = '''' then
      v_tokens[i] := df_engine.render_plain(v_token, 'literal', p_names, p_known);
    elsif v_token ~ '^[Ee]''' then
      v_tokens[i] := df_engine.render_plain(v_token, 'escape', p_names, p_known);
    elsif v_token ~ $re$^\$(?:[A-Za-z_\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff][A-Za-z0-9_\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff]*)?\$$re$ then
      v_tokens[i] := df_engine.render_body(v_token, p_names, p_known);
    elsif v_token ~ '^[$].' then
      v_token := df_engine.render_reference(v_token, p_place, p_names, p_known);
      v_tokens[i] := df_engine.separator(v_token, v_tokens, i) || v_token;
    end if;
  end loop;
  return array_to_string(v_tokens, '');
end
$fn$;

-- A text that is one reference to a known name, with white space around it, or else may hold no $ at all.
create or replace function df_engine.render_whole(
  p_text pg_catalog.text, p_names pg_catalog.jsonb, p_known pg_catalog.text[]
) returns pg_catalog.text
language plpgsql immutable as $fn$
declare
  v_text constant pg_catalog.text := btrim(p_text, E' \t\n\r');
  v_name constant pg_catalog.text := substring(v_text from $re$[A-Za-z_][A-Za-z0-9_]*$re$);
begin
  if v_text ~ $re$^\$[A-Za-z_][A-Za-z0-9_]*(?:(?:\.(?:[A-Za-z_\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff][A-Za-z0-9_\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff]*|[0-9]+))+)?\??$$re$
     and (p_names ? v_name or v_name = any (p_known)) then
    return df_engine.render_plain(v_text, 'raw', p_names, p_known);
  end if;
  return df_engine.refuse_partial_reference(p_text);
end
$fn$;

create or replace function df_engine.render_names(
  p_text pg_catalog.text, p_mode pg_catalog.text, p_names pg_catalog.jsonb, p_known pg_catalog.text[]
) returns pg_catalog.text
language plpgsql immutable set search_path = '' as $$
declare
  v_names constant pg_catalog.jsonb := coalesce(p_names, '{}');
  v_known constant pg_catalog.text[] := coalesce(p_known, '{}');
begin
  if p_text is null or strpos(p_text, '$') = 0 then
    return p_text;
  elsif p_mode = 'sql' then
    return df_engine.render_sql(p_text, 'code', v_names, v_known);
  elsif p_mode = 'raw' then
    return df_engine.render_plain(p_text, 'raw', v_names, v_known);
  end if;
  return df_engine.render_whole(p_text, v_names, v_known);
end
$$;

-- The names whose values a text may need: those that follow a $ anywhere. NULL when there are none.
create or replace function df_engine.template_names(p_text pg_catalog.text, p_mode pg_catalog.text)
returns pg_catalog.text[]
language plpgsql immutable set search_path = '' as $fn$
begin
  if p_text is null or strpos(p_text, '$') = 0 then
    return null;
  end if;
  return nullif(array(
    select distinct m.part[1] from regexp_matches(p_text, $re$\$([A-Za-z_][A-Za-z0-9_]*)$re$, 'g') m(part)), '{}');
end
$fn$;

-- A step is one statement: how many a text holds, and what is said of one that holds none, several, or a brace.
-- Called for every step; most texts are judged without being read token by token.

-- SQL text in lower case with its literals and names in quotes as ? and without comments.
-- Granted to users.
create or replace function df_engine.bare_sql(p_sql pg_catalog.text) returns pg_catalog.text
language sql immutable as $$
  select lower(string_agg(
    case when t.token ~ '^(--|/[*])' then ' ' when t.token ~ '[''"]|^[$].' then '?' else t.token end,
    '' order by t.ord))
  from unnest(df_engine.sql_tokens(p_sql)) with ordinality t(token, ord)
$$;

-- The number of statements of a text. The actions of a rule, in parentheses, and the body of a routine in
-- BEGIN ATOMIC ... END, where CASE has an END too, hold semicolons of their own.
create or replace function df_engine.count_statements(p_sql pg_catalog.text) returns pg_catalog.int8
language sql immutable as $$
  with nested as (
    select w.token[1] as word, w.ord,
      sum(case w.token[1] when '(' then 1 when ')' then -1 else 0 end) over sofar as parentheses,
      sum(case when w.token[1] ~ '^(begin.+|case)$' then 1 when w.token[1] = 'end' then -1 else 0 end) over sofar
        as blocks
    from regexp_matches(df_engine.bare_sql(p_sql), 'begin[[:space:]]+atomic|[[:alnum:]_]+|[^[:space:]]', 'g')
      with ordinality w(token, ord)
    window sofar as (order by w.ord)
  ), numbered as (
    select n.word,
      count(*) filter (where n.word = ';' and n.parentheses <= 0 and n.blocks <= 0) over (order by n.ord) as statement
    from nested n
  )
  select count(distinct n.statement) from numbered n where n.word <> ';'
$$;

-- A brace outside of literals is never SQL. What the server says of it, and what was meant, where that can be told.
-- Granted to users.
create or replace function df_engine.brace_problem(p_sql pg_catalog.text) returns pg_catalog.text
language plpgsql immutable set search_path = pg_catalog, pg_temp as $fn$
declare
  v_problem constant text := 'syntax error at or near "{" (SQLSTATE 42601)' || E'\nHINT: ';
  v_name constant text := substring(df_engine.bare_sql(p_sql) from $re$\{([A-Za-z_][A-Za-z0-9_]*)\}$re$);
begin
  if p_sql ~ '^[{]"(node_type|_partial_if)"' then
    return v_problem || 'Text is joined to a graph: || and the operators of a flow bind alike, so a || b stands in parentheses.';
  elsif v_name is not null then
    return v_problem || 'The run has no variable {' || v_name || '}: call df.setvar before df.start. A result is written $'
           || v_name || '.';
  end if;
  return null;
end
$fn$;

-- NULL when the text holds exactly one statement, which a step may be. Most texts have no semicolon but at their end, and begin with a word.
create or replace function df_engine.single_statement_problem(p_sql pg_catalog.text) returns pg_catalog.text
language plpgsql immutable set search_path = '' as $$
begin
  if strpos(p_sql, '{') > 0 and p_sql ~ '^[{]"_?(node_type|partial_if)"|[{][A-Za-z_][A-Za-z0-9_]*[}]' then
    return coalesce(df_engine.brace_problem(p_sql), df_engine.statements_problem(p_sql));
  end if;
  return df_engine.statements_problem(p_sql);
end
$$;

-- Granted to users.
create or replace function df_engine.statements_problem(p_sql pg_catalog.text) returns pg_catalog.text
language plpgsql immutable set search_path = '' as $$
begin
  if strpos(rtrim(p_sql, E'; \t\n\r'), ';') = 0 and p_sql ~ '^[[:space:]]*[A-Za-z(]' then
    return df_engine.refused_statement(p_sql);
  end if;
  return case df_engine.count_statements(p_sql)
    when 0 then 'the step holds no SQL statement'
    when 1 then df_engine.refused_statement(p_sql)
    else 'the step holds more than one SQL statement; make a step of each, or one of all with df.block'
  end;
end
$$;

-- The kind of a statement: whether it may return rows, whether it can stand in FROM, and what no step may be. The one answer to
-- these questions, for the home database, for others and for conditions. The text is read past comments, white space,
-- parentheses and semicolons. Called once for a text that runs as it is, else for every step.

-- A statement without what PostgreSQL does not read or does not know: semicolons around it, and invisible characters before it.
create or replace function df_engine.bare_statement(p_sql text) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp as $fn$
declare
  v_blank constant text := $re$[; \t\n\r\f\v\u0085\u00a0\u00ad\u1680\u180e\u2000-\u200f\u2028\u2029\u202f\u205f\u2060\u3000\ufeff]+$re$;
  v_tokens text[];
begin
  if strpos(p_sql, ';') = 0 and p_sql ~ E'^[ \t\n\r\f\x0b]*[A-Za-z(]' then
    return p_sql;
  end if;
  v_tokens := df_engine.sql_tokens(p_sql);
  for i in 1 .. cardinality(v_tokens) loop
    continue when v_tokens[i] ~ '^(--|/[*])';
    v_tokens[i] := regexp_replace(v_tokens[i], '^' || v_blank, E'\n');
    exit when v_tokens[i] <> E'\n';
  end loop;
  for i in reverse cardinality(v_tokens) .. 1 loop
    continue when v_tokens[i] ~ '^(--|/[*])';
    v_tokens[i] := regexp_replace(v_tokens[i], v_blank || '$', E'\n');
    exit when v_tokens[i] <> E'\n';
  end loop;
  return array_to_string(v_tokens, '');
end
$fn$;

-- The first word of a statement, in lower case.
create or replace function df_engine.statement_word(p_sql text) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  return coalesce(lower(substring(p_sql from E'^[ \t\n\r\f\x0b(]*([A-Za-z]+)')),
                  substring(df_engine.bare_sql(p_sql) from '^[^a-z?]*([a-z]+)'));
end
$$;

-- Whether no parenthesis is closed that was not opened: put into parentheses, such a text would be another statement. Most texts
-- show it before they are read token by token.
create or replace function df_engine.parentheses_match(p_sql text) returns boolean
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  v_rest text := p_sql;
begin
  for i in 1..20 loop
    exit when v_rest !~ '[(][^()]*[)]';
    v_rest := regexp_replace(v_rest, '[(][^()]*[)]', '', 'g');
  end loop;
  return strpos(v_rest, ')') = 0 or not exists (
    select from (
      select sum(case w.token[1] when '(' then 1 else -1 end) over (order by w.ord) as depth
      from regexp_matches(df_engine.bare_sql(p_sql), '[()]', 'g') with ordinality w(token, ord)
    ) d
    where d.depth < 0);
end
$$;

-- query: it can stand in FROM. rows: it returns rows. perhaps: it may return rows, and PREPARE knows it. utility: it may return rows.
-- call: it returns what its parameters hold. command: it returns nothing.
create or replace function df_engine.statement_kind(p_sql text) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  v_word constant text := df_engine.statement_word(p_sql);
begin
  return case
    when v_word = 'with' and p_sql ~* '[^a-z_](insert|update|delete|merge)[^a-z_]'
         and df_engine.bare_sql(p_sql) ~ '[()][[:space:]]*(insert|update|delete|merge)[^a-z0-9_$]' then 'perhaps'
    when v_word in ('select', 'values', 'table', 'with') then case when df_engine.parentheses_match(p_sql) then 'query' else 'utility' end
    when v_word in ('insert', 'update', 'delete', 'merge') and p_sql ~* '[^a-z0-9_]returning[^a-z0-9_]'
         and df_engine.bare_sql(p_sql) ~ '[^a-z0-9_]returning[^a-z0-9_]' then 'rows'
    when v_word in ('show', 'explain', 'fetch', 'execute') then 'utility'
    when v_word = 'call' then 'call'
    else 'command'
  end;
end
$$;

-- Whether the INTO of a text without literals and comments makes a table: it follows a SELECT that is the statement itself.
create or replace function df_engine.selects_into(p_bare text) returns boolean
language sql immutable as $$
  with words as (
    select w.token[1] as word, w.ord,
      sum(case w.token[1] when '(' then 1 when ')' then -1 else 0 end) over (order by w.ord) as depth
    from regexp_matches(p_bare, '[[:alnum:]_]+|[^[:space:]]', 'g') with ordinality w(token, ord)
  ), statement as (
    select w.depth from words w where w.word ~ '^[a-z]' order by w.ord limit 1
  )
  select exists (
    select from words i join statement s on s.depth = i.depth
    where i.word = 'into' and 'select' = (
      select v.word from words v
      where v.ord < i.ord and v.depth = i.depth and v.word in ('select', 'insert', 'merge') order by v.ord desc limit 1))
$$;

-- What is said of a statement that no step may be, with what to write instead; NULL of any other.
create or replace function df_engine.refused_statement(p_sql text) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  v_word constant text := df_engine.statement_word(p_sql);
begin
  if v_word in ('begin', 'start', 'commit', 'end', 'rollback', 'abort', 'savepoint', 'release')
     or v_word = 'prepare' and df_engine.bare_sql(p_sql) ~ 'prepare[[:space:]]+transaction' then
    return 'transaction control, here ' || upper(v_word) || ', cannot be a step (SQLSTATE 0A000)' || E'\nHINT: '
      'Every step is a transaction of its own. What must succeed or fail together is one statement, the statements of df.block, or a '
      'DO block, which also has BEGIN ... EXCEPTION in place of a savepoint.';
  elsif v_word = 'copy' and df_engine.bare_sql(p_sql) ~ '[^a-z0-9_](from|to)[[:space:]]+(stdin|stdout)([^a-z0-9_]|$)' then
    return 'a step cannot COPY from or to a client: it has none (SQLSTATE 0A000)' || E'\nHINT: '
      'Select the rows, which are then the result of the step; insert rows from $name.*; or COPY from or to a file or a '
      'program of the server.';
  elsif v_word in ('select', 'with') and p_sql ~* '[^a-z0-9_]into[^a-z0-9_]'
        and df_engine.selects_into(df_engine.bare_sql(p_sql)) then
    return 'SELECT ... INTO cannot be a step (SQLSTATE 0A000)' || E'\nHINT: '
      'Write CREATE TABLE ... AS SELECT ..., or name the result with |=> and read it as $name.*.';
  end if;
  return null;
end
$$;

-- The kind of SQL that runs as it is, because there is nothing in it to replace or to refuse; NULL for any other.
create or replace function df_engine.plain_kind(p_sql text) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  return case when p_sql !~ '[${;]' and p_sql ~ E'^[ \t\n\r\f\x0b]*[A-Za-z(]' and df_engine.refused_statement(p_sql) is null
    then df_engine.statement_kind(p_sql) end;
end
$$;

-- Truth: how the value of a condition decides an IF or a while-loop. Called by transitions.

-- A string, trimmed: false when it is empty, says no, or reads as the number 0.
create or replace function df_engine.string_truth(p_text pg_catalog.text) returns boolean
language sql immutable as $$
  select lower(btrim(p_text, E' \t\n\r\f\x0b')) !~ '^(|false|f|no|[-+]?(0+[.]?0*|[.]0+)(e[-+]?[0-9]+)?)$'
$$;

create or replace function df_engine.scalar_truth(p_value pg_catalog.jsonb) returns boolean
language sql immutable as $$
  select case jsonb_typeof(p_value)
    when 'boolean' then p_value::boolean
    when 'number' then p_value::numeric <> 0
    when 'string' then df_engine.string_truth(p_value #>> '{}')
    when 'null' then false
    else p_value not in ('[]', '{}')
  end
$$;

-- Truth of a node's value: of a row set that of the first column of the first row. NULL is false.
create or replace function df_engine.truth(p_value pg_catalog.json) returns boolean
language plpgsql immutable set search_path = '' as $$
declare
  v_row constant pg_catalog.json := p_value #> '{rows,0}';
begin
  if json_typeof(p_value -> 'rows') is distinct from 'array' then
    return coalesce(df_engine.scalar_truth(p_value::pg_catalog.jsonb), false);
  elsif v_row is null then
    return false;
  elsif json_typeof(v_row) <> 'object' or v_row::pg_catalog.text = '{}' then
    return true;
  end if;
  return coalesce((select df_engine.scalar_truth(c.value::pg_catalog.jsonb) from json_each(v_row) c limit 1), false);
end
$$;

-- Compiling: a graph becomes rows that answer, without reading data, what follows when a node has ended and whom its failure
-- concerns. Called by df.start for a text that its caller has not started before; never by a worker.

-- Which names somebody looks for: those that follow a $ in any text of the graph, and those that an if_rows names. NULL: perhaps
-- any, because a variable may hold a reference.
create or replace function df_engine.wanted_names(p_queries text[]) returns text[]
language plpgsql immutable as $fn$
begin
  if exists (select from unnest(p_queries) q where strpos(q, '{') > 0 and q !~ '^\{[^{]*\}$' or q ~ '\\u0024') then
    return null;
  end if;
  return array(
    select distinct coalesce(m.part[1], m.part[2])
    from unnest(p_queries) q,
         regexp_matches(q, $re$\$([A-Za-z_][A-Za-z0-9_]*)|"result_name"\s*:\s*"([^"]*)"$re$, 'g') m(part));
end
$fn$;

-- The text of a node in which references are replaced; of a request that is all it holds.
create or replace function df_engine.replaced_text(p_kind text, p_query text) returns text
language plpgsql immutable as $$
begin
  return case
    when p_kind = 'BLOCK' then (
      select string_agg(s.text, E'\n' order by s.place) from df_engine.statements_of(p_kind, p_query) with ordinality s(text, place))
    when p_kind in ('SQL', 'BLOCK', 'HTTP', 'HTTP_MULTIPART') then p_query
    when p_kind = 'BREAK' then df_engine.json_or_null(p_query) ->> 'break_value'
    when p_kind = 'TIMEOUT' then df_engine.json_or_null(p_query) ->> 'after'
    when p_kind = 'WAIT_FOR' then df_engine.json_or_null(p_query) ->> 'key'
    when p_kind = 'CALL' then concat_ws(E'\n', df_engine.json_or_null(p_query) ->> 'input', df_engine.json_or_null(p_query) ->> 'label')
    when p_kind = 'SIGNAL' then df_engine.json_or_null(p_query) ->> 'signal_name'
    when p_kind = 'SLEEP' then coalesce(df_engine.json_or_null(p_query) ->> 'until', df_engine.json_or_null(p_query) ->> 'duration')
  end;
end
$$;

-- Compiles and stores a graph of p_submitter. p_typed: somebody looks for its result.
create or replace function df_engine.compile(p_submitter oid, p_hash bytea, p_graph jsonb, p_prefix text, p_typed boolean) returns bigint
language plpgsql as $fn$
declare
  v_kinds text[]; v_parents int[]; v_maps int[]; v_places int[]; v_queries text[]; v_named text[]; v_retries jsonb[];
  v_lasts int[]; v_entries int[]; v_valued int[];
  v_afters "char"[]; v_nexts int[]; v_others int[]; v_closes int[]; v_drops int[]; v_decides boolean[]; v_binds jsonb[]; v_passed jsonb[];
  v_ups int[]; v_branches int[]; v_catches int[]; v_loops boolean[]; v_opens boolean[]; v_tops jsonb[]; v_scopes jsonb[];
  v_plain boolean[]; v_sizes int[]; v_until int[]; v_batch int[]; v_entered int[]; v_breaks boolean[]; v_typed boolean[];
  v_undoes jsonb[];
  v_naming text[];  -- in which names are looked for
  v_wanted text[];
  v_texts text[];  -- in which references are replaced
  v_count int;
  v_graph bigint;
  k text;
  p int;
  w int;
  v_branch boolean;
begin
  select array_agg(n.kind), array_agg(n.parent), array_agg(n.place), array_agg(n.body ->> 'query'),
         array_agg(n.body ->> 'result_name'), array_agg(n.body -> 'retry'), count(*)
  into v_kinds, v_parents, v_places, v_queries, v_named, v_retries, v_count
  from df_engine.walk(p_graph, p_prefix) n;
  v_naming := array(
    select case n.kind when 'CALL' then df_engine.replaced_text(n.kind, n.query) else n.query end
    from unnest(v_kinds, v_queries) with ordinality n(kind, query, node) order by n.node);
  v_wanted := df_engine.wanted_names(v_naming);

  -- From the leaves: where a node ends and is entered, whose value it has, and whether a BREAK in it can end a loop around it.
  for i in reverse v_count..1 loop
    p := v_parents[i];
    v_lasts[i] := coalesce(v_lasts[i], i);
    v_breaks[i] := coalesce(v_breaks[i], v_kinds[i] = 'BREAK');
    v_entries[i] := case when v_kinds[i] in ('THEN', 'CATCH', 'UNDO')
                              or v_kinds[i] in ('IF', 'MAP') and v_places[i + 1] = 0 and v_parents[i + 1] = i
                         then v_entries[i + 1] else i end;
    v_valued[i] := case when v_kinds[i] = 'THEN' then v_valued[v_lasts[i + 1] + 1]
                        when v_kinds[i] = 'UNDO' then v_valued[i + 1]
                        when v_kinds[i] in ('IF', 'CATCH') or v_kinds[i] = 'TIMEOUT' and v_lasts[i + 1] < v_lasts[i] then null
                        else i end;
    if p is not null then
      v_lasts[p] := coalesce(v_lasts[p], v_lasts[i]);
      v_breaks[p] := coalesce(v_breaks[p], false) or v_breaks[i] and v_kinds[i] <> 'LOOP';
    end if;
  end loop;

  -- From the root: what follows.
  for i in 1..v_count loop
    p := v_parents[i];
    v_decides[i] := false;
    v_closes[i] := 0;
    v_drops[i] := 0;
    v_binds[i] := '[]';
    v_passed[i] := '[]';
    v_opens[i] := false;
    v_undoes[i] := '[]';
    if p is null then
      v_afters[i] := 'e';
      v_decides[i] := 'UNDO' = any (v_kinds);  -- the race against its being undone
      v_ups[i] := 0;
      v_branches[i] := 0;
      v_loops[i] := false;
      v_tops[i] := '[]';
      v_scopes[i] := '[0]';
    else
      k := v_kinds[p];
      w := v_places[i];
      v_branch := k in ('JOIN', 'RACE', 'ANY') or k in ('TIMEOUT', 'MAP') and w = 1;
      v_maps[i] := case when k = 'MAP' and w = 1 then p else v_maps[p] end;
      v_passed[i] := case when k in ('LOOP', 'WAIT_FOR') or v_branch or k = 'UNDO' and w = 2 then '[]' else v_passed[p] end;
      v_ups[i] := v_ups[p];
      v_branches[i] := v_branches[p];
      v_drops[i] := v_drops[p] + 1;
      v_catches[i] := v_catches[p];
      v_loops[i] := v_loops[p];
      v_tops[i] := v_tops[p];
      v_scopes[i] := v_scopes[p];
      if k = 'THEN' and w = 1 then
        v_afters[i] := 'n';
        v_nexts[i] := v_entries[v_lasts[i] + 1];
      elsif k = 'MAP' and w = 0 then
        v_afters[i] := 'n';
        v_nexts[i] := p;
      elsif k = 'IF' and w = 0 then
        v_afters[i] := 'c';
        v_nexts[i] := v_entries[v_lasts[i] + 1];
        if v_lasts[v_lasts[i] + 1] < v_lasts[p] then
          v_others[i] := v_entries[v_lasts[v_lasts[i] + 1] + 1];
        else  -- without an else the IF itself is entered, and ends with null
          v_others[i] := p;
          v_decides[i] := v_decides[p];
        end if;
      elsif k = 'UNDO' and w = 2 then
        v_afters[i] := 'u';
        v_catches[i] := null;
        v_ups[i] := p;
        v_branches[i] := 1;
        v_drops[i] := 0;
        v_scopes[i] := to_jsonb(array[-p]);
      elsif k not in ('LOOP', 'WAIT_FOR') and not v_branch then
        v_afters[i] := v_afters[p];
        v_nexts[i] := v_nexts[p];
        v_others[i] := v_others[p];
        v_closes[i] := v_closes[p] + 1;
        v_binds[i] := v_binds[p];
        v_undoes[i] := case when k = 'UNDO' then to_jsonb(p) else '[]' end || v_undoes[p];
        v_decides[i] := v_decides[p];
        if k = 'CATCH' and w = 1 then
          v_catches[i] := p;
          v_drops[i] := 0;
        elsif k = 'CATCH' then
          v_scopes[i] := jsonb_insert(v_scopes[p], '{1}', to_jsonb(i));
        end if;
      elsif k = 'LOOP' then
        v_catches[i] := null;
        v_ups[i] := p;
        v_branches[i] := 1;
        v_drops[i] := 0;
        v_loops[i] := true;
        if w = 0 then
          v_afters[i] := 'w';
          v_nexts[i] := v_entries[p + 1];
          v_decides[i] := v_decides[p];
        elsif v_lasts[i] < v_lasts[p] then
          v_afters[i] := case when v_valued[i] is null then 'v' else 'n' end;
          v_nexts[i] := v_entries[v_lasts[i] + 1];
        else
          v_afters[i] := 't';
          v_nexts[i] := v_entries[i];
        end if;
      elsif k = 'WAIT_FOR' then
        v_afters[i] := 'p';
        v_catches[i] := null;
        v_ups[i] := p;
        v_branches[i] := 1;
        v_drops[i] := 0;
        v_decides[i] := true;  -- the race between a check and the time-out
        v_retries[i] := coalesce(v_retries[i], v_retries[p]);
      else  -- a branch
        v_afters[i] := 'b';
        v_catches[i] := null;
        v_ups[i] := p;
        v_branches[i] := w;
        v_drops[i] := 0;
        v_tops[i] := v_tops[p] || to_jsonb(i);
        v_scopes[i] := to_jsonb(i) || v_scopes[p];
        v_decides[i] := v_decides[p] or k not in ('JOIN', 'MAP')
                        or k = 'MAP' and coalesce(df_engine.json_or_null(v_queries[p]) ->> 'on_error' = 'stop', false);
      end if;
      if v_kinds[i] = 'LOOP' and not v_branch then
        v_opens[i] := true;
        v_tops[i] := v_tops[i] || to_jsonb(i);
      end if;
    end if;
    if v_named[i] is not null and v_kinds[i] not in ('SLEEP', 'WAIT_SCHEDULE', 'BREAK')
       and (v_wanted is null or v_named[i] = any (v_wanted)) then
      v_binds[i] := v_binds[i] || to_jsonb(v_named[i]);
      v_passed[i] := v_passed[i] || to_jsonb(v_named[i]);
    end if;
    v_texts[i] := df_engine.replaced_text(v_kinds[i], v_queries[i]);
    v_typed[i] := coalesce(v_typed[p], p_typed) or v_named[i] is not null and (v_wanted is null or v_named[i] = any (v_wanted))
                  or coalesce(k = 'MAP' and w = 0, false) and (v_wanted is null or 'item' = any (v_wanted));
  end loop;

  -- Segments: a node with two predecessors begins one, else a place in it could not be told from outcomes.
  v_entered := array_fill(0, array[v_count]);
  for i in 1..v_count loop
    if v_kinds[i] <> 'THEN' and (v_entries[i] = i or v_others[i + 1] = i or v_kinds[i] = 'MAP') then
      if v_nexts[i] is not null then
        v_entered[v_nexts[i]] := v_entered[v_nexts[i]] + 1;
      end if;
      if v_others[i] is not null then
        v_entered[v_others[i]] := v_entered[v_others[i]] + 1;
      end if;
    end if;
    if v_kinds[i] = 'LOOP' then
      v_entered[v_entries[i + 1]] := v_entered[v_entries[i + 1]] + 1;
    end if;
  end loop;
  for i in reverse v_count..1 loop
    -- A node that ends as it is entered (a BREAK, a time that has passed, a kept signal, a CALL that fails, a MAP of
    -- no rows) may decide a race in the transaction of the step before.
    v_decides[i] := v_decides[i] or coalesce(v_kinds[v_nexts[i]] in ('BREAK', 'SLEEP', 'SIGNAL', 'CALL', 'MAP'), false)
                    or coalesce(v_kinds[v_others[i]] in ('BREAK', 'SLEEP', 'SIGNAL', 'CALL', 'MAP'), false);
    v_plain[i] := v_kinds[i] in ('SQL', 'BLOCK') and v_afters[i] = 'n' and v_undoes[i] = '[]' and v_kinds[v_nexts[i]] in ('SQL', 'BLOCK')
                  and v_entered[v_nexts[i]] = 1;
  end loop;
  -- Batches: 32 steps of a segment at most, or 100 kB of statements.
  for i in 1..v_count loop
    if v_plain[i] then
      v_sizes[i] := coalesce(v_sizes[i], 0) + 3125 + length(v_queries[i]);
      v_sizes[v_nexts[i]] := case when v_sizes[i] < 100000 then v_sizes[i] else 0 end;
    end if;
  end loop;
  for i in reverse v_count..1 loop
    v_until[i] := case when v_plain[i] then v_until[v_nexts[i]] else i end;
    v_batch[i] := case when v_plain[i] and v_sizes[v_nexts[i]] > 0 then v_batch[v_nexts[i]] else i end;
  end loop;

  insert into df_engine.graphs (submitter, submitter_name, hash, entry, names, envelope, placeholders, has_undo, secrets, definitions)
  values (p_submitter, pg_get_userbyid(p_submitter), p_hash, v_entries[1],
          array(select distinct u.name from unnest(v_named) u(name) where u.name is not null), p_graph,
          p_graph::pg_catalog.text ~ $re$\{[A-Za-z_][A-Za-z0-9_]*\}|\\u007[Bb]$re$, 'UNDO' = any (v_kinds),
          nullif(array(select distinct s.name from unnest(v_kinds, v_queries) n(kind, query)
                       cross join lateral unnest(df_engine.secret_names(df_engine.json_or_null(n.query)::pg_catalog.text)) s(name)
                       where n.kind in ('HTTP', 'HTTP_MULTIPART')), '{}'),
          nullif(array(select distinct d.reference from unnest(v_kinds, v_queries) n(kind, query)
                       cross join lateral (select df_engine.reference_in(df_engine.json_or_null(n.query) ->> 'flow')) d(reference)
                       where n.kind = 'CALL' and d.reference is not null), '{}'))
  returning id into v_graph;
  insert into df_engine.graph_nodes
  select v_graph, n, v_lasts[n], v_parents[n], v_maps[n], coalesce(v_places[n], 0), v_kinds[n], v_queries[n], v_named[n], v_retries[n],
         case when v_kinds[n] = 'UNDO' then df_engine.wanted_names(v_naming[v_lasts[n + 1] + 1:v_lasts[n]])
              else df_engine.template_names(v_texts[n], 'sql') end,
         case when v_kinds[n] = 'UNDO' then df_engine.wanted_names(v_naming[v_lasts[n + 1] + 1:v_lasts[n]]) is null
              else coalesce(v_kinds[n] not like 'HTTP%' and strpos(v_texts[n], '{') > 0, false) end,
         case when v_kinds[n] = 'SQL' then df_engine.plain_kind(v_queries[n]) end, v_typed[n],
         jsonb_array_length(v_tops[n]), v_opens[n],
         array(select e::int from jsonb_array_elements_text(v_tops[n]) e),
         array(select e::int from jsonb_array_elements_text(v_scopes[n]) e),
         v_loops[n],
         v_kinds[n] = 'LOOP' and not v_breaks[n] and v_lasts[n + 1] = v_lasts[n],
         coalesce(v_kinds[n] = 'LOOP' and df_engine.json_or_null(v_queries[n]) -> 'continue_on_failure' = 'true', false),
         v_afters[n], v_nexts[n], v_others[n],
         nullif(array(select distinct e from jsonb_array_elements_text(v_binds[n]) e), '{}'),
         nullif(array(select e::int from jsonb_array_elements_text(v_undoes[n]) with ordinality u(e, depth) order by u.depth), '{}'),
         v_closes[n], v_plain[n], v_until[n], v_batch[n], v_decides[n], v_ups[n], v_branches[n], v_catches[n], v_drops[n],
         nullif(array(select distinct e from jsonb_array_elements_text(v_passed[n]) e), '{}'),
         case when v_kinds[n] not in ('SQL', 'BLOCK', 'HTTP', 'HTTP_MULTIPART', 'SLEEP', 'WAIT_SCHEDULE', 'SIGNAL', 'BREAK', 'CALL', 'THEN') and not (v_kinds[n] = 'IF' and v_places[n + 1] = 0)
              then array(select v_entries[c] from generate_subscripts(v_parents, 1) c where v_parents[c] = n order by c) end,
         case when v_kinds[n] = 'LOOP' then v_valued[n + 1] end
  from generate_series(1, v_count) n;
  return v_graph;
end
$fn$;

-- Starting: df.start finds or compiles the graph of the text it is given, and inserts a run and the row of the queue that makes it
-- eligible, all in the caller's transaction. What is written, is written by a function that knows by the key whom it acts for.

-- Raises when a role may not submit, or when the database does not exist; before that, when the text is malformed.
create or replace function df_engine.check_submitter(p_role oid, p_fut text, p_database text) returns void
language plpgsql as $$
declare
  v_name name;
  v_login boolean;
  v_super boolean;
begin
  if p_database is not null and not exists (select from pg_catalog.pg_database d where d.datname = p_database) then
    perform df_engine.parse_graph(p_fut, 'Invalid durable function: ');
    raise exception 'database "%" does not exist', p_database using errcode = 'invalid_catalog_name';
  end if;
  select r.rolname, r.rolcanlogin, r.rolsuper into v_name, v_login, v_super from pg_catalog.pg_roles r where r.oid = p_role;
  if not v_login or v_super and not df_engine.setting_on('enable_superuser_instances') then
    perform df_engine.parse_graph(p_fut, 'Invalid durable function: ');
  end if;
  if not v_login then
    raise exception 'role "%" cannot submit instances: it has no LOGIN', v_name
      using errcode = 'object_not_in_prerequisite_state',
            hint = 'Steps run in a session that has logged in as the role that called df.start.';
  elsif v_super and not df_engine.setting_on('enable_superuser_instances') then
    raise exception 'superuser "%" cannot submit instances: enable_superuser_instances is off', v_name
      using errcode = 'object_not_in_prerequisite_state',
            hint = 'Call df.start as an ordinary role.';
  end if;
end
$$;

-- Drawn at installation; it never changes, so plans keep it as a constant.
create or replace function df_engine.id_key() returns bigint
language plpgsql immutable as $$
begin
  return (select ('x' || left(md5(s.value), 8))::bit(32)::bigint from df_engine.secret s);
end
$$;

-- A run's public id: a permutation of the low half of its number, so that ids do not follow each other. One expression, so that
-- PostgreSQL inlines it.
create or replace function df_engine.public_id(p_instance bigint) returns varchar
language sql immutable as $$
  select lpad(to_hex(((((((p_instance & 4294967295) # df_engine.id_key()) * 1640531527) & 4294967295) # (((((p_instance & 4294967295) # df_engine.id_key()) * 1640531527) & 4294967295) >> 16)) * 1640531527) & 4294967295), 8, '0')::varchar
$$;

-- The number of a new run. After 2^32 runs ids come round, and one that a kept run still has is passed over.
create or replace function df_engine.free_instance(p_instance bigint) returns bigint
language plpgsql as $$
declare
  v_instance bigint := p_instance;
begin
  while exists (select from df_engine.instances k where k.id = df_engine.public_id(v_instance)) loop
    v_instance := nextval('df_engine.instances_instance_seq');
  end loop;
  return v_instance;
end
$$;

-- Raises when something has more bytes than are allowed.
create or replace function df_engine.check_size(p_what text, p_bytes bigint, p_limit bigint) returns void
language plpgsql immutable as $$
begin
  if p_bytes > p_limit then
    raise exception '% has at most % bytes, and this one has %', p_what, p_limit, p_bytes using errcode = 'program_limit_exceeded';
  end if;
end
$$;

-- By which a graph is found.
create or replace function df_engine.graph_hash(p_text text, p_typed boolean) returns bytea
language sql immutable as $$
  select sha256(convert_to(p_text, 'UTF8')) || case when p_typed then '\x01'::pg_catalog.bytea else '' end
$$;

-- Compiles a text. p_typed: somebody looks for its result; such a graph has a hash of its own.
create or replace function df_engine.new_graph(p_role oid, p_text text, p_typed boolean) returns bigint
language plpgsql as $$
begin
  perform df_engine.check_size('a flow', octet_length(p_text), df_engine.setting('max_flow_bytes')::bigint);
  return df_engine.compile(p_role, df_engine.graph_hash(p_text, p_typed), df_engine.parse_graph(p_text, 'Invalid durable function: '),
                           'Invalid durable function graph: ', p_typed);
end
$$;

-- A start uses a graph: once a day that is noted, for retention. It waits for nobody.
create or replace function df_engine.note_use(p_graph bigint) returns void
language plpgsql as $$
begin
  update df_engine.graphs g set used_at = now()
  from (select f.id from df_engine.graphs f where f.id = p_graph and f.used_at < now() - interval '1 day'
        for no key update skip locked) f
  where g.id = f.id;
end
$$;

-- A traceparent of W3C Trace Context. Any other is left out with a warning: a mistake in tracing stops no work.
create or replace function df_engine.valid_traceparent(p_text text) returns text
language plpgsql stable as $$
begin
  if p_text ~ '^(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$' then
    return p_text;
  end if;
  raise warning 'df.traceparent is not the traceparent of a trace, and is left out: "%"', left(p_text, 100)
    using hint = 'It has the form 00-<32 hexadecimal digits>-<16>-<2>, in lower case; neither id is all zeros.';
  return null;
end
$$;

-- The graph of a text, p_graph if it is known.
create or replace function df_engine.graph_to_start(p_role oid, p_text text, p_typed boolean, p_graph bigint) returns df_engine.graphs
language plpgsql as $$
declare
  v_graph bigint := p_graph;
  g df_engine.graphs;
begin
  if v_graph is null then
    v_graph := df_engine.new_graph(p_role, p_text, p_typed);
  else
    perform df_engine.note_use(v_graph);
  end if;
  select * into g from df_engine.graphs x where x.id = v_graph;
  return g;
end
$$;

-- Raises unless a run of a graph may be started with that.
create or replace function df_engine.check_start(p_role oid, p_graph df_engine.graphs, p_label text, p_input jsonb, p_vars jsonb) returns void
language plpgsql as $$
declare
  v_live constant int := (select l.live_instances from df_engine.role_limits l where l.role = p_role::pg_catalog.regrole);
begin
  perform df_engine.check_size('a label', octet_length(p_label), 1024);
  if p_input is not null then
    perform df_engine.check_size('the input of a run', octet_length(p_input::pg_catalog.text), df_engine.setting('max_result_bytes')::bigint);
  end if;
  if v_live is not null then
    perform df_engine.check_live_runs(p_role, v_live);
  end if;
  if (p_graph).placeholders then
    perform df_engine.check_variables((p_graph).id, coalesce(p_vars, '{}'), 'Invalid durable function graph: ');
  end if;
  if (p_graph).secrets is not null then
    perform df_engine.check_secrets(p_role, (p_graph).secrets);
  end if;
  if (p_graph).definitions is not null then
    perform df_engine.check_definitions(p_role, (p_graph).definitions);
  end if;
end
$$;

-- Checks a start whatever it is. Gives it its graph, p_graph if it is known; its variables, where the graph has placeholders; its
-- traceparent; and its definition, if its text is the name of one.
create or replace function df_engine.prepare_start(
  p_role oid, p_text text, p_label text, p_database text, p_input jsonb,
  inout p_graph bigint, inout p_traceparent text, out p_entry int, out p_vars jsonb, out p_definition text, out p_has_undo boolean
)
language plpgsql as $$
declare
  g df_engine.graphs;
begin
  if p_graph is null and df_engine.reference_in(p_text) is not null then
    select d.graph, d.definition, d.compiled into p_text, p_definition, p_graph from df_engine.definition_of(p_role, p_text, false) d;
  end if;
  perform df_engine.check_submitter(p_role, p_text, p_database);
  g := df_engine.graph_to_start(p_role, p_text, false, p_graph);
  if g.placeholders then
    p_vars := (select jsonb_object_agg(v.name, v.value) from df_engine.vars v where v.owner = p_role::pg_catalog.regrole and v.value is not null);
  end if;
  perform df_engine.check_start(p_role, g, p_label, p_input, p_vars);
  p_graph := g.id;
  p_entry := g.entry;
  p_has_undo := g.has_undo;
  if p_traceparent is not null then
    p_traceparent := df_engine.valid_traceparent(p_traceparent);
  end if;
end
$$;

-- Begins a run of a graph that is at hand, with what p_run says of it: role, label, database, variables, input, traceparent, caller, priority, definition.
create or replace function df_engine.begin_run(p_run df_engine.instances, p_graph df_engine.graphs) returns bigint
language plpgsql as $$
declare
  v_instance constant bigint := df_engine.free_instance(nextval('df_engine.instances_instance_seq'));
begin
  perform df_engine.check_start((p_run).submitter, p_graph, (p_run).label, (p_run).input, (p_run).vars);
  insert into df_engine.instances (instance, id, submitter, graph, label, database, vars, input, traceparent, parent, parent_node, call,
    priority, definition, version, run_key)
  overriding system value
  values (v_instance, df_engine.public_id(v_instance), (p_run).submitter, (p_graph).id, (p_run).label, (p_run).database, (p_run).vars,
          (p_run).input, (p_run).traceparent, (p_run).parent, (p_run).parent_node, (p_run).call, (p_run).priority, (p_run).definition,
          '1.0.0', hashint8extended(v_instance, (random() * 9007199254740991)::bigint));
  insert into df_engine.queue (id, submitter, instance, node, races, wakes)
  values (df_engine.queue_place(100 + coalesce((p_run).priority, 0)), (p_run).submitter, v_instance, (p_graph).entry,
          case when (p_graph).has_undo then array[df_engine.open_undoable(v_instance)] end,
          coalesce(current_setting('df_engine.virtual', true), '') = '');  -- of what df.test runs workers hear nothing
  return v_instance;
end
$$;

-- Raises for a start_at, or a priority, that df.start does not take.
-- Granted to users.
create or replace function df_engine.check_start_time(p_start_at timestamptz, p_priority int) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  if p_priority not between -100 and 100 then
    raise exception 'invalid priority %', p_priority
      using errcode = 'invalid_parameter_value', hint = 'It is a number from -100 to 100, by default 0.';
  elsif not isfinite(p_start_at) or p_start_at > now() + 3155760000 * interval '1 s' then
    raise exception 'invalid start_at %', p_start_at
      using errcode = 'invalid_parameter_value', hint = 'It is a time, at most 100 years from now.';
  end if;
end
$$;

-- Inserts a run of p_role, and queues it, or lets it wait for p_start_at. A known graph of a role that may log in and has no limit, without
-- variables, secrets, UNDOs, input and the like, is started without more ado; all others go through prepare_start. p_instance: the number
-- with which it has taken the key p_start_key. The first start of a role in a transaction notifies for all of them. What reads no table
-- stands in no query: PL/pgSQL prepares it once a transaction, and a query's expressions at each start.
-- Granted to users.
create or replace function df_engine.insert_instance(
  p_key text, p_role oid, p_text text, p_label text, p_database text, p_input jsonb,
  p_start_at timestamptz default null, p_priority int default 0, p_instance bigint default null, p_start_key text default null
) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = 'force_generic_plan' set jit = off set enable_seqscan = off as $$
declare
  v_hash constant bytea := sha256(convert_to(p_text, 'UTF8'));
  v_graph bigint;
  v_entry int;
  v_ordinary boolean;
  v_has_undo boolean;
  v_used timestamptz;
  v_vars jsonb;
  v_definition text;
  v_trace text := nullif(current_setting('df.traceparent', true), '');
  v_instance bigint;
  v_id text;
  v_run_key bigint;
  v_races bigint[];
  v_wakes constant boolean := current_setting('df_engine.started', true) is distinct from concat(p_role, ' in ', pg_current_xact_id());
begin
  if (p_key = encode(sha256((df_engine.secret() || p_role::pg_catalog.text)::pg_catalog.bytea), 'hex')) is not true then
    raise exception 'this function of df_engine is called by the functions of df only'
      using errcode = 'insufficient_privilege';
  end if;
  select g.id, g.entry, r.rolcanlogin and not r.rolsuper and not g.placeholders and g.secrets is null and g.definitions is null
      and not g.has_undo and l.role is null,
    g.used_at
  into v_graph, v_entry, v_ordinary, v_used
  from pg_roles r
  left join df_engine.graphs g on g.submitter = p_role and g.hash = v_hash
  left join df_engine.role_limits l on l.role = p_role::regrole
  where r.oid = p_role limit 1;
  if (v_ordinary and v_used > now() - interval '1 day' and p_database is null and p_input is null and v_trace is null
      and coalesce(octet_length(p_label), 0) <= 1024) is not true then
    select s.p_graph, s.p_entry, s.p_vars, s.p_traceparent, s.p_definition, s.p_has_undo
    into v_graph, v_entry, v_vars, v_trace, v_definition, v_has_undo
    from df_engine.prepare_start(p_role, p_text, p_label, p_database, p_input, v_graph, v_trace) s;
  end if;
  if v_wakes then
    perform set_config('df_engine.started', concat(p_role, ' in ', pg_current_xact_id()), true);
  end if;
  v_instance := coalesce(p_instance, nextval('df_engine.instances_instance_seq'));
  if v_instance >= 4294967296 then
    v_instance := df_engine.free_instance(v_instance);
  end if;
  v_id := df_engine.public_id(v_instance);
  v_run_key := hashint8extended(v_instance, (random() * 9007199254740991)::bigint);
  insert into df_engine.instances (instance, id, submitter, graph, label, database, vars, input, key, priority, start_at, definition,
    traceparent, version, run_key)
  overriding system value
  values (v_instance, v_id, p_role, v_graph, p_label, p_database, v_vars, p_input, p_start_key, nullif(p_priority, 0), p_start_at, v_definition,
          v_trace, '1.0.0', v_run_key);
  if v_has_undo then
    v_races := array[df_engine.open_undoable(v_instance)];
  end if;
  if p_start_at > df_engine.clock() then
    perform df_engine.set_timer(row(v_instance, 0, v_entry, null, null, v_races), 'start', p_start_at);
  else
    insert into df_engine.queue (id, submitter, instance, node, races, wakes)
    values (df_engine.queue_place(100 + p_priority), p_role, v_instance, v_entry, v_races, v_wakes);
  end if;
  return v_id;
end
$$;

create or replace function df.start(fut text, label text default null, database text default null,
  transaction_mode text default 'caller', input jsonb default null, key text default null, on_conflict text default 'return',
  start_at timestamptz default null, priority integer default 0) returns text
language plpgsql set search_path = '' set plan_cache_mode = force_generic_plan as $$
begin
  if not (pg_catalog.has_schema_privilege('df_engine', 'usage')
          and pg_catalog.has_table_privilege('df_engine.own_key', 'select')) then
    raise exception 'permission denied: role "%" may not use pg_durable', current_user
      using errcode = 'insufficient_privilege',
            hint = pg_catalog.format('An administrator grants it: SELECT df.grant_usage(%L);', current_user);
  end if;
  if fut is null or transaction_mode is distinct from 'caller' or key is not null or on_conflict is distinct from 'return'
     or start_at is not null or priority is distinct from 0 or (nullif(pg_catalog.current_setting('pg_durable.returned', true), '') is not null) then
    if fut is null then
      raise exception 'argument fut of df.start is NULL' using errcode = 'null_value_not_allowed',
        hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
    end if;
    if transaction_mode is null then
      raise exception 'argument transaction_mode of df.start is NULL' using errcode = 'null_value_not_allowed',
        hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
    end if;
    if on_conflict is null then
      raise exception 'argument on_conflict of df.start is NULL' using errcode = 'null_value_not_allowed',
        hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
    end if;
    if priority is null then
      raise exception 'argument priority of df.start is NULL' using errcode = 'null_value_not_allowed',
        hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
    end if;

    if pg_catalog.lower(transaction_mode) not in ('caller', 'new') then
      raise exception 'invalid transaction_mode "%"', transaction_mode
        using errcode = 'invalid_parameter_value', hint = 'It is caller or new.';
    end if;
    perform df_engine.check_start_key(key, on_conflict);
    perform df_engine.check_start_time(start_at, priority);
    if nullif(pg_catalog.current_setting('pg_durable.returned', true), '')::pg_catalog.jsonb
      -> pg_catalog.statement_timestamp()::pg_catalog.text ? fut then
      raise exception '% cannot be used as a workflow step', nullif(pg_catalog.current_setting('pg_durable.returned', true), '')::pg_catalog.jsonb
      -> pg_catalog.statement_timestamp()::pg_catalog.text ->> fut
        using errcode = 'invalid_parameter_value',
              hint = 'It returns a value, not a graph. Call it in a statement of its own.';
    end if;
    if pg_catalog.lower(transaction_mode) = 'new' then
      return df_engine.start_new(pg_catalog.jsonb_build_object(
        'fut', fut, 'label', label, 'database', database, 'input', input::pg_catalog.text, 'key', key, 'on_conflict', on_conflict,
        'start_at', start_at, 'priority', priority));
    elsif key is not null then
      return df_engine.start_keyed((select k.key from df_engine.own_key k), quote_ident(current_user)::pg_catalog.regrole,
                                   fut, label, database, input, start_at, priority, key, on_conflict);
    end if;
  end if;
  return df_engine.insert_instance((select k.key from df_engine.own_key k), quote_ident(current_user)::pg_catalog.regrole,
                                   fut, label, database, input, start_at, priority);
end
$$;
comment on function df.start(text, text, text, text, jsonb, text, text, timestamptz, integer) is
  'Starts a graph, one SQL statement, or a definition (@name the newest version, @name:3 that one), as the current user and returns the id of the instance. It becomes eligible when the transaction commits; with transaction_mode ''new'' it is started in a transaction of its own. database: where its SQL steps run, by default here. input: what steps read as $input, $input.key, $input.list.0; a {name} in SQL code that is no variable of the run raises. key: while a run of the same role has it, live or ended and kept, on_conflict decides: return (its id; nothing is started), error (DF409), restart (starts anew if it has ended, else returns its id), replace (cancels it if it has not ended, and starts anew). start_at: it does not begin before. priority: from -100 to 100; among the runs of its role a point counts like 3 s of waiting, and the runs that it calls have it too';

-- Keys of starts: a run can be started with a key, and while it is kept, what another start of its role with that key does is for its
-- on_conflict to say. A key is a row that points to the run that has it. Who starts waits for an open start with the same key, which is one of
-- its own role; nobody else waits for a key. The run is locked before the row of its key: retention locks runs only, if they are
-- free, and then removes the keys that they have.

-- Raises for a key, or an on_conflict, that df.start does not take.
-- Granted to users.
create or replace function df_engine.check_start_key(p_start_key text, p_on_conflict text) returns void
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  if p_on_conflict not in ('return', 'error', 'restart', 'replace') then
    raise exception 'invalid on_conflict "%"', p_on_conflict
      using errcode = 'invalid_parameter_value', hint = 'It is return, error, restart or replace.';
  elsif p_start_key is null and p_on_conflict <> 'return' then
    raise exception 'on_conflict => ''%'' needs a key', p_on_conflict
      using errcode = 'invalid_parameter_value', hint = 'Name what is to be started once: df.start(..., key => ''order 17'').';
  elsif p_start_key = '' then
    raise exception 'the key of a start is empty' using errcode = 'invalid_parameter_value';
  elsif octet_length(p_start_key) > 1024 then
    raise exception 'the key of a start has % bytes, and 1024 are allowed', octet_length(p_start_key)
      using errcode = 'program_limit_exceeded';
  end if;
end
$$;

-- Starts a run with a key, or answers the id of the one that has it. In READ COMMITTED each statement sees what has been committed
-- before it; in REPEATABLE READ a key that was taken or moved after the snapshot is a serialization failure.
-- Granted to users.
create or replace function df_engine.start_keyed(
  p_key text, p_role oid, p_text text, p_label text, p_database text, p_input jsonb,
  p_start_at timestamptz, p_priority int, p_start_key text, p_on_conflict text
) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = 'force_generic_plan' set jit = off set enable_seqscan = off as $$
declare
  v_old bigint;
  v_new bigint;
  i record;
begin
  if (p_key = encode(sha256((df_engine.secret() || p_role::pg_catalog.text)::pg_catalog.bytea), 'hex')) is not true then
    raise exception 'this function of df_engine is called by the functions of df only'
      using errcode = 'insufficient_privilege';
  end if;
  loop
    v_old := (select k.instance from df_engine.start_keys k where k.submitter = p_role and k.key = p_start_key);
    i := df_engine.holder_of_key(v_old, p_on_conflict);
    if p_on_conflict = 'error' and i.id is not null then
      raise exception 'instance % has the key "%", and is %', i.id, p_start_key, i.status using errcode = 'DF409',
        hint = 'on_conflict => ''return'' gives its id, ''restart'' starts anew once it has ended, ''replace'' cancels it. Removed by retention, it gives the key back.';
    elsif i.stays then
      return i.id;
    end if;
    v_new := df_engine.free_instance(nextval('df_engine.instances_instance_seq'));
    if v_old is null then
      insert into df_engine.start_keys (submitter, key, instance) values (p_role, p_start_key, v_new) on conflict do nothing;
    else
      update df_engine.start_keys k set instance = v_new where k.submitter = p_role and k.key = p_start_key and k.instance = v_old;
    end if;
    exit when found;
  end loop;
  if i.status in ('pending', 'running') then
    perform df_engine.note_act(v_old, 'cancel', p_role, 'replaced by a start with the same key');
    perform df_engine.cancel_locked(v_old, 'replaced by a start with the same key');
  end if;
  return df_engine.insert_instance(p_key, p_role, p_text, p_label, p_database, p_input, p_start_at, p_priority, v_new, p_start_key);
end
$$;

-- The run that has a key, locked where the key may be taken from it, and whether it keeps it. No id: it is gone.
create or replace function df_engine.holder_of_key(p_instance bigint, p_on_conflict text, out id text, out status text, out stays boolean)
language plpgsql as $$
begin
  if p_on_conflict = 'replace' then
    select i.id, i.status, false into id, status, stays from df_engine.instances i where i.instance = p_instance for update;
  elsif p_on_conflict = 'restart' then
    select i.id, i.status, i.status in ('pending', 'running') into id, status, stays
    from df_engine.instances i where i.instance = p_instance for key share;
  else
    select i.id, i.status, true into id, status, stays from df_engine.instances i where i.instance = p_instance;
  end if;
end
$$;

-- Definitions: flows that have a name, version by version, for the runs of the role that owns them. '@name' is the newest version at the
-- moment when a run starts, '@name:3' that one. A run keeps the graph that it was started with, so nothing here concerns it later.

-- The name of a definition that a text is, as it was given, or as a builder has wrapped it as the flow of a CALL; NULL: it is none.
create or replace function df_engine.reference_in(p_text text) returns text
language sql immutable as $$
  select case when p_text ~ '^\s*@' then btrim(p_text, E' \t\r\n\f')
              when p_text ~ '^\s*\{"node_type":"SQL","query":"@[^"]*"\}\s*$' then p_text::pg_catalog.jsonb ->> 'query' end
$$;

-- Name and version of a reference; no version: the newest. Raises for what is none.
-- Granted to users.
create or replace function df_engine.read_reference(p_reference text, out name text, out version int)
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  if not p_reference ~ '^\s*@[A-Za-z_][A-Za-z0-9_-]*(:[0-9]+)?\s*$' then
    raise exception '% is no name of a definition', left(p_reference, 100) using errcode = 'invalid_parameter_value',
      hint = 'It is @name, or @name:3 for a version: letters, digits, _ and -, a letter or _ first.';
  end if;
  name := substring(p_reference from '@([A-Za-z0-9_-]+)');
  version := substring(p_reference from ':([0-9]+)')::int;
exception when numeric_value_out_of_range then
  version := 0;  -- there is no such version
end
$$;

-- Granted to users.
create or replace function df_engine.refuse_definition(p_reference text) returns void
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  raise exception 'there is no definition %', btrim(p_reference) using errcode = 'undefined_object',
    hint = 'Names and versions: SELECT name, version, owner FROM df.definitions. A new one: df.define(name, flow). Only what starts or calls it writes @ before it.';
end
$$;

-- What a reference stands for, among the definitions of a role, and for whoever starts what it gives: the text of the graph, name:version, and
-- the graph compiled for p_typed, if it is. Raises when there is none.
create or replace function df_engine.definition_of(
  p_role oid, p_text text, p_typed boolean, out graph text, out definition text, out compiled bigint
)
language plpgsql stable set jit = off set enable_seqscan = off as $$
declare
  r constant record := df_engine.read_reference(df_engine.reference_in(p_text));
begin
  select d.graph, d.name || ':' || d.version into graph, definition
  from df_engine.flow_definitions d
  where d.owner = p_role::pg_catalog.regrole and d.name = r.name and d.version = coalesce(r.version, d.version) and d.hidden_at is null
  order by d.version desc limit 1;
  if graph is null then
    perform df_engine.refuse_definition(df_engine.reference_in(p_text));
  end if;
  compiled := (
    select g.id from df_engine.graphs g
    where g.submitter = p_role and g.hash = df_engine.graph_hash(graph, p_typed) order by g.id desc limit 1);
end
$$;

-- Raises for the first of some references that a role has no definition for.
create or replace function df_engine.check_definitions(p_role oid, p_references text[]) returns void
language plpgsql stable as $$
begin
  perform df_engine.definition_of(p_role, r.reference, false) from unnest(p_references) r(reference);
end
$$;

-- Raises unless a role may change the definitions of another: it is a member of that role, or may administrate. What a superuser
-- runs, only superusers define.
create or replace function df_engine.require_owner(p_role oid, p_owner oid) returns void
language plpgsql stable as $$
begin
  if p_role <> p_owner and not pg_has_role(p_role, p_owner, 'usage') and (
      not df_engine.may_act_on_all(p_role)
      or (select r.rolsuper from pg_catalog.pg_roles r where r.oid = p_owner)) then
    raise exception 'role "%" is no member of role "%"', pg_get_userbyid(p_role), pg_get_userbyid(p_owner)
      using errcode = 'insufficient_privilege', hint = 'The definitions of a role are for its members, and for administrators, to change.';
  end if;
end
$$;

-- Defines a flow for p_owner; the number of its version. The same graph as the newest version is no new one, but may bring a new comment.
-- Granted to users.
create or replace function df_engine.define_flow(p_key text, p_role oid, p_owner oid, p_name text, p_text text, p_comment text) returns int
language plpgsql security definer set search_path = pg_catalog, pg_temp set jit = off set enable_seqscan = off as $$
declare
  v_graph jsonb;
  v_newest df_engine.flow_definitions;
begin
  if (p_key = encode(sha256((df_engine.secret() || p_role::pg_catalog.text)::pg_catalog.bytea), 'hex')) is not true then
    raise exception 'this function of df_engine is called by the functions of df only'
      using errcode = 'insufficient_privilege';
  end if;
  perform df_engine.require_owner(p_role, p_owner);
  perform df_engine.check_size('the name of a definition', octet_length(p_name), 63);
  perform df_engine.check_size('the comment of a definition', octet_length(p_comment), 10000);
  v_graph := df_engine.parse_graph(p_text, 'Invalid durable function: ');
  loop
    select * into v_newest from df_engine.flow_definitions d
    where d.owner = p_owner::regrole and d.name = p_name order by d.version desc limit 1;
    if v_newest.hidden_at is null and df_engine.parse_graph(v_newest.graph) = v_graph then
      update df_engine.flow_definitions d set comment = nullif(p_comment, '')
      where d.owner = p_owner::regrole and d.name = p_name and d.version = v_newest.version
        and p_comment <> coalesce(d.comment, '');
      return v_newest.version;
    elsif (select count(*) from df_engine.flow_definitions d where d.owner = p_owner::regrole) >= 10000 then
      raise exception 'role "%" has 10000 versions of definitions, which is as many as it can have', pg_get_userbyid(p_owner)
        using errcode = 'program_limit_exceeded', hint = 'df.undefine(name) removes the versions of one.';
    end if;
    if not exists (select from df_engine.graphs g where g.submitter = p_owner and g.hash = df_engine.graph_hash(p_text, false)) then
      perform df_engine.new_graph(p_owner, p_text, false);
    end if;
    insert into df_engine.flow_definitions (owner, name, version, graph, flow, comment, created_by)
    values (p_owner::regrole, p_name, coalesce(v_newest.version, 0) + 1, p_text, df_engine.graph_text(v_graph), nullif(p_comment, ''), p_role::regrole)
    on conflict do nothing;
    exit when found;
  end loop;
  return coalesce(v_newest.version, 0) + 1;
end
$$;

-- Hides a definition of p_owner: of its versions the newest is kept, for the number of the next one. False: there is none.
-- Granted to users.
create or replace function df_engine.hide_definition(p_key text, p_role oid, p_owner oid, p_name text) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp set jit = off set enable_seqscan = off as $$
declare
  v_newest int;
begin
  if (p_key = encode(sha256((df_engine.secret() || p_role::pg_catalog.text)::pg_catalog.bytea), 'hex')) is not true then
    raise exception 'this function of df_engine is called by the functions of df only'
      using errcode = 'insufficient_privilege';
  end if;
  perform df_engine.require_owner(p_role, p_owner);
  update df_engine.flow_definitions d set hidden_at = now(), hidden_by = p_role::regrole
  where d.owner = p_owner::regrole and d.name = p_name and d.hidden_at is null
    and d.version = (select max(n.version) from df_engine.flow_definitions n where n.owner = p_owner::regrole and n.name = p_name)
  returning d.version into v_newest;
  delete from df_engine.flow_definitions d where d.owner = p_owner::regrole and d.name = p_name and d.version < v_newest;
  return v_newest is not null;
end
$$;

create or replace function df.define(name text, fut text, comment text default null, owner regrole default null) returns integer
language plpgsql set search_path = '' as $$
begin
  if not (pg_catalog.has_schema_privilege('df_engine', 'usage')
          and pg_catalog.has_table_privilege('df_engine.own_key', 'select')) then
    raise exception 'permission denied: role "%" may not use pg_durable', current_user
      using errcode = 'insufficient_privilege',
            hint = pg_catalog.format('An administrator grants it: SELECT df.grant_usage(%L);', current_user);
  end if;
  if name is null then
    raise exception 'argument name of df.define is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;
  if fut is null then
    raise exception 'argument fut of df.define is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;

  if nullif(pg_catalog.current_setting('pg_durable.returned', true), '')::pg_catalog.jsonb
    -> pg_catalog.statement_timestamp()::pg_catalog.text ? fut then
    raise exception '% cannot be used as a workflow step', nullif(pg_catalog.current_setting('pg_durable.returned', true), '')::pg_catalog.jsonb
    -> pg_catalog.statement_timestamp()::pg_catalog.text ->> fut
      using errcode = 'invalid_parameter_value',
            hint = 'It returns a value, not a graph. Call it in a statement of its own.';
  end if;
  if name !~ '^[A-Za-z_][A-Za-z0-9_-]*$' then
    raise exception 'invalid name of a definition: "%"', pg_catalog."left"(name, 100)
      using errcode = 'invalid_name', hint = 'It has letters, digits, _ and -, a letter or _ first.';
  elsif fut ~ '^\s*@[A-Za-z_][A-Za-z0-9_-]*(:[0-9]+)?\s*$' then
    raise exception 'a definition is a flow, and % is the name of one', fut using errcode = 'invalid_parameter_value',
      hint = pg_catalog.format('A flow that does nothing but call it: df.call(%L).', fut);
  end if;
  return df_engine.define_flow((select k.key from df_engine.own_key k), quote_ident(current_user)::pg_catalog.regrole,
                               coalesce(owner, quote_ident(current_user)::pg_catalog.regrole), name, fut, comment);
end
$$;
comment on function df.define(text, text, text, regrole) is
  'Gives a graph, or one SQL statement, a name, under which df.start, df.call and df.explain know it: @name is the newest version, @name:3 that one. Returns the number of the version, which is a new one unless the graph is that of the newest. owner: whose runs use it, by default the current user''s; another role''s are for its members, and for administrators. Raises 42602 for a name that is not [A-Za-z_][A-Za-z0-9_-]*, and what df.start raises for the graph; definitions that it calls are looked up when a run starts';

create or replace function df.undefine(name text, owner regrole default null) returns text
language plpgsql set search_path = '' as $$
begin
  if not (pg_catalog.has_schema_privilege('df_engine', 'usage')
          and pg_catalog.has_table_privilege('df_engine.own_key', 'select')) then
    raise exception 'permission denied: role "%" may not use pg_durable', current_user
      using errcode = 'insufficient_privilege',
            hint = pg_catalog.format('An administrator grants it: SELECT df.grant_usage(%L);', current_user);
  end if;
  if name is null then
    raise exception 'argument name of df.undefine is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;

  if not df_engine.hide_definition((select k.key from df_engine.own_key k), quote_ident(current_user)::pg_catalog.regrole,
                                   coalesce(owner, quote_ident(current_user)::pg_catalog.regrole), name) then
    perform df_engine.refuse_definition(name);
  end if;
  return 'OK';
end
$$;
comment on function df.undefine(text, regrole) is
  'Hides a definition, all versions of it: nothing can be started from it any more, and what runs goes on. Defined again, it goes on with the next version. Returns OK; raises 42704 when there is none';

-- Granted to users.
create or replace view df_engine.visible_definitions with (security_barrier) as
  select d.owner, d.name, d.version, d.graph from df_engine.flow_definitions d where d.hidden_at is null and (d.owner = (select quote_ident(current_user)::regrole) or (select df_engine.may_see_all(quote_ident(current_user)::regrole)) or pg_has_role(d.owner::oid, 'usage'));

create or replace view df.definitions with (security_barrier) as
  select d.name, d.version, d.flow, d.comment, d.created_at, d.created_by,
         (select count(*) from df_engine.instances i
          where i.submitter = d.owner and i.definition = d.name || ':' || d.version and i.finished_at is null) as live_instances, d.owner
  from df_engine.flow_definitions d
  where d.hidden_at is null and (d.owner = (select quote_ident(current_user)::regrole) or (select df_engine.may_see_all(quote_ident(current_user)::regrole)) or pg_has_role(d.owner::oid, 'usage'));
comment on view df.definitions is
  'Flows that have a name, one row a version: those of the current user, and of the roles that it is a member of. flow: in the text language; live_instances: runs of that version that have not ended';

-- The graph that a reference of the current user stands for.
-- Granted to users.
create or replace function df_engine.definition_to_show(p_reference text) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  r constant record := df_engine.read_reference(p_reference);
  v_graph text;
begin
  select d.graph into v_graph from df_engine.visible_definitions d
  where d.owner = quote_ident(current_user)::regrole and d.name = r.name and d.version = coalesce(r.version, d.version)
  order by d.version desc limit 1;
  if v_graph is null then
    perform df_engine.refuse_definition(p_reference);
  end if;
  return v_graph;
end
$$;

-- Variables: values that a role keeps under names of its own, and that its runs read as {name}. What is changed is the caller's own,
-- whoever that is, so that nobody, not even a superuser, touches another role's by accident.

-- Sets variables of p_role, or removes those whose value is NULL; all of them with p_all.
-- Granted to users.
create or replace function df_engine.change_vars(p_key text, p_role oid, p_name text, p_value text, p_all boolean default false)
returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform df_engine.require_key(p_key, p_role);
  if p_value is null then
    delete from df_engine.vars v where v.owner = p_role::regrole and (p_all or v.name = p_name);
  else
    perform df_engine.check_size('the name of a variable', octet_length(p_name), 63);
    perform df_engine.check_size('a variable', octet_length(p_value), df_engine.setting('max_result_bytes')::bigint);
    insert into df_engine.vars (name, value, owner) values (p_name, p_value, p_role::regrole)
    on conflict (owner, name) do update set value = excluded.value;
  end if;
end
$$;

create or replace function df.setvar(name text, value text) returns text
language plpgsql strict set search_path = '' as $$
begin
  if not (pg_catalog.has_schema_privilege('df_engine', 'usage')
          and pg_catalog.has_table_privilege('df_engine.own_key', 'select')) then
    raise exception 'permission denied: role "%" may not use pg_durable', current_user
      using errcode = 'insufficient_privilege',
            hint = pg_catalog.format('An administrator grants it: SELECT df.grant_usage(%L);', current_user);
  end if;
  perform df_engine.reject_in_workflow('setvar');
  perform df_engine.change_vars((select k.key from df_engine.own_key k),
                                quote_ident(current_user)::pg_catalog.regrole, setvar.name, setvar.value);
  perform df_engine.note_helper('setvar', 'OK');
  return 'OK';
end
$$;

create or replace function df.getvar(name text) returns text
language plpgsql strict set search_path = '' as $$
begin
  if not (pg_catalog.has_schema_privilege('df_engine', 'usage')
          and pg_catalog.has_table_privilege('df_engine.own_key', 'select')) then
    raise exception 'permission denied: role "%" may not use pg_durable', current_user
      using errcode = 'insufficient_privilege',
            hint = pg_catalog.format('An administrator grants it: SELECT df.grant_usage(%L);', current_user);
  end if;
  return (
    select v.value from df.vars v
    where v.owner = quote_ident(current_user)::pg_catalog.regrole and v.name = getvar.name);
end
$$;

create or replace function df.unsetvar(name text) returns text
language plpgsql strict set search_path = '' as $$
begin
  if not (pg_catalog.has_schema_privilege('df_engine', 'usage')
          and pg_catalog.has_table_privilege('df_engine.own_key', 'select')) then
    raise exception 'permission denied: role "%" may not use pg_durable', current_user
      using errcode = 'insufficient_privilege',
            hint = pg_catalog.format('An administrator grants it: SELECT df.grant_usage(%L);', current_user);
  end if;
  perform df_engine.reject_in_workflow('unsetvar');
  perform df_engine.change_vars((select k.key from df_engine.own_key k),
                                quote_ident(current_user)::pg_catalog.regrole, unsetvar.name, null);
  perform df_engine.note_helper('unsetvar', 'OK');
  return 'OK';
end
$$;

create or replace function df.clearvars() returns text
language plpgsql set search_path = '' as $$
begin
  if not (pg_catalog.has_schema_privilege('df_engine', 'usage')
          and pg_catalog.has_table_privilege('df_engine.own_key', 'select')) then
    raise exception 'permission denied: role "%" may not use pg_durable', current_user
      using errcode = 'insufficient_privilege',
            hint = pg_catalog.format('An administrator grants it: SELECT df.grant_usage(%L);', current_user);
  end if;
  perform df_engine.reject_in_workflow('clearvars');
  perform df_engine.change_vars((select k.key from df_engine.own_key k),
                                quote_ident(current_user)::pg_catalog.regrole, null, null, true);
  perform df_engine.note_helper('clearvars', 'OK');
  return 'OK';
end
$$;

comment on function df.setvar(text, text) is
  'Sets a variable of the current user, read as {name} in the runs it starts from now on; returns OK';
comment on function df.getvar(text) is 'The value of a variable of the current user, NULL if there is none';
comment on function df.unsetvar(text) is 'Removes a variable of the current user; returns OK, also if there was none';
comment on function df.clearvars() is 'Removes all variables of the current user; returns OK';

-- Locks and their order, in every transaction of the engine:
--   1. the row that is the claim: of queue, timers, waits or inbox;
--   2. the RACEs around the thread, from the outside in: their rows of activations;
--   3. the instance, FOR KEY SHARE; whatever ends a run or makes a transition for it takes it FOR UPDATE first, so that a step that is just
--      committing is waited for, and none commits after;
--   4. the JOIN that a branch ends in: its row of activations; the compensations of the run;
--   5. runs that have been called, when their caller is stopped: the instance, FOR UPDATE, and then theirs. Who ends one of them locks nothing of
--      its caller.
--
-- A supervising connection acts for every role, so it waits for no lock that a user can hold: it takes what it works on with
-- SKIP LOCKED, the instance first of all, and comes back later to what it cannot have. It gives up, and comes back, where it
-- would have to wait for a step that is just ending.

-- Locks the RACEs around a thread, and says whether all of them are still open. p_decides: the caller may decide one; a weaker lock
-- would have to be made stronger then, and two who try that deadlock.
create or replace function df_engine.lock_races(p_instance bigint, p_races bigint[], p_decides boolean) returns boolean
language plpgsql as $$
declare
  v_open int;
begin
  if p_decides then
    perform from df_engine.activations a where a.id = any (p_races) and a.instance = p_instance order by a.id for update;
  else
    perform from df_engine.activations a where a.id = any (p_races) and a.instance = p_instance order by a.id for key share;
  end if;
  get diagnostics v_open = row_count;
  return v_open = cardinality(p_races);
end
$$;

-- The same for a thread that a session of p_role shows: nobody locks what belongs to another role's run.
create or replace function df_engine.lock_own_races(p_role oid, p_thread df_engine.thread, p_decides boolean) returns boolean
language plpgsql as $$
begin
  return exists (select from df_engine.instances i where i.instance = (p_thread).instance and i.submitter = p_role)
     and df_engine.lock_races((p_thread).instance, (p_thread).races, p_decides);
end
$$;

-- Locks what must still be open while a thread goes on, and says whether it is: the RACEs around it, and its run.
create or replace function df_engine.lock_thread(p_thread df_engine.thread) returns boolean
language plpgsql as $$
begin
  if (p_thread).races is not null and not df_engine.lock_races((p_thread).instance, (p_thread).races, true) then
    return false;
  end if;
  perform from df_engine.instances i
  where i.instance = (p_thread).instance and i.status in ('pending', 'running') for key share;
  return found;
end
$$;

-- Whether a thread has lost a race. Not locked: whoever writes its outcome asks again, with locks.
create or replace function df_engine.has_lost(p_races bigint[]) returns boolean
language plpgsql stable as $$
begin
  return (select count(*) from df_engine.activations a where a.id = any (p_races)) < cardinality(p_races);
end
$$;

-- Locks a run that is to be stopped with its caller, and answers its status. Waits for a step that is just committing and for a cancel that
-- is undecided, but a supervising connection, which has set df_engine.waits_for_nobody, gives up.
create or replace function df_engine.lock_child(p_instance bigint) returns text
language plpgsql as $$
declare
  v_status text;
begin
  if current_setting('df_engine.waits_for_nobody', true) = 'on' then
    select i.status into v_status from df_engine.instances i where i.instance = p_instance for update skip locked;
    if not found and exists (select from df_engine.instances i where i.instance = p_instance) then
      raise lock_not_available using message = 'a run that is to be stopped with its caller is locked';
    end if;
  else
    select i.status into v_status from df_engine.instances i where i.instance = p_instance for update;
  end if;
  return v_status;
end
$$;

-- Locks a run if no open transaction of a user has locked it, and says whether it did. Also true of a run that is no longer there.
-- p_begins: something of it is to begin, so not a paused one.
create or replace function df_engine.try_lock_run(p_instance bigint, p_begins boolean default false) returns boolean
language plpgsql as $$
begin
  perform from df_engine.instances i where i.instance = p_instance and (i.paused is null or not p_begins) for no key update skip locked;
  return found or not exists (select from df_engine.instances i where i.instance = p_instance);
end
$$;

-- Pauses: nothing new of a paused run begins. Its rows of the queue that nobody has locked leave the lanes in which they are looked for, and a step that
-- runs finds out when it is recorded. Timers and signals are tried when they are due, and then not before the run goes on. So a run
-- that is not paused is asked nothing more than before.

create or replace function df_engine.is_paused(p_instance bigint) returns boolean
language sql stable set search_path = '' as $$
  select exists (select from df_engine.instances i where i.instance = p_instance and i.paused and i.status in ('pending', 'running'))
$$;

-- Sets aside what could begin of a run, if it is paused, and says whether it is. The run is written to, so that a caller of df.resume who has
-- an older snapshot gets a serialization failure.
create or replace function df_engine.set_aside(p_instance bigint) returns boolean
language plpgsql as $$
begin
  update df_engine.instances i set updated_at = df_engine.clock()
  where i.instance = p_instance and i.paused and i.status in ('pending', 'running');
  if not found then
    return false;
  end if;
  update df_engine.queue q set lane = 'paused ' || d.lane
  from (select r.lane, r.submitter, r.id from df_engine.queue r
        where r.instance = p_instance and r.lane in ('sql', 'direct', 'http') and r.worker is null
        for update skip locked) d
  where q.lane = d.lane and q.submitter = d.submitter and q.id = d.id;
  return true;
end
$$;

-- Takes back what was set aside; the caller has locked the run. A timer may just be tried in vain, so all of them are told.
create or replace function df_engine.take_back(p_instance bigint) returns void
language plpgsql as $$
begin
  update df_engine.instances i set paused = null, updated_at = df_engine.clock() where i.instance = p_instance;
  update df_engine.queue q set lane = substr(q.lane, 8), next_try_at = case when q.lane <> 'paused sql' then df_engine.clock() end
  where q.instance = p_instance and q.lane like 'paused %';
  update df_engine.timers t set next_try_at = t.due_at where t.instance = p_instance;
  update df_engine.inbox s set next_try_at = clock_timestamp() where s.instance = p_instance and s.status = 'pending';
  perform df_engine.notify('r ' || i.submitter) from df_engine.instances i where i.instance = p_instance;
  perform df_engine.notify('t');
end
$$;

-- Resuming what has ended: a failed or cancelled run goes on where it was. Where that is, outcomes say: a thread is walked along what has completed
-- to its first node that has not, as it would have gone. That node's outcome, if it has one, is forgotten but for the history of attempts; then it is
-- put into the queue and entered by a session of the submitter like any other, with a fresh policy and new times. Only of a construct in which
-- something has happened the parts are gone through: it is opened anew, by the function that opens it otherwise, and each of its threads is walked in the
-- same way. So its activation is a new one, and nothing of before finds it. What this needs of a run that has failed is kept: names of
-- branches, and items of maps (see df_engine.ends_run).

-- Whether nothing around a construct that fails handles that: then the run fails with it, sooner or later, and what df.resume needs is kept.
-- An ANY counts as nothing: it forgets at its end what its branches have kept.
create or replace function df_engine.ends_run(p_node df_engine.graph_nodes, p_ending df_engine.ending) returns boolean
language plpgsql stable as $$
declare
  n df_engine.graph_nodes := p_node;
  c df_engine.graph_nodes;
begin
  loop
    c := n;
    while c.catch is not null loop
      select x.* into c from df_engine.graph_nodes x where x.graph = n.graph and x.node = c.catch;
      if df_engine.is_caught(c.query::pg_catalog.jsonb -> 'errors', (p_ending).failure) then
        return false;
      end if;
    end loop;
    if n.up = 0 then
      return true;
    end if;
    select * into n from df_engine.graph_nodes x where x.graph = n.graph and x.node = n.up;
    if n.kind = 'LOOP' and n.continues and (p_ending).state = 'f' or n.kind = 'UNDO'
       or n.kind = 'MAP' and df_engine.map_config(n.query) ->> 'on_error' = 'collect' then
      return false;
    end if;
  end loop;
end
$$;

-- Whether an outcome is of what a thread with such generations comes to: of a LOOP, whichever iteration it was in.

-- Walks a thread along what has completed. ended: to the end of its branch, iteration or run, at node g with outcome o; else it stands at
-- g, which has not completed, and o is what has become of it, if anything. body: as in activations.
create or replace function df_engine.find_position(
  p_graph bigint, p_thread df_engine.thread,
  out t df_engine.thread, out g df_engine.graph_nodes, out o df_engine.outcomes, out ended boolean, out body int
)
language plpgsql stable as $$
declare
  v_next int;
begin
  t := p_thread;
  ended := false;
  loop
    select x.* into g from df_engine.graph_nodes x where x.graph = p_graph and x.node = t.node;
    select x.* into o from df_engine.outcomes x
    where x.instance = t.instance and x.scope = t.scope and x.node = t.node and (coalesce(x.generations, '{1}'))[:g.levels + (g.kind <> 'LOOP')::int] = (coalesce(t.generations, '{1}'))[:g.levels + (g.kind <> 'LOOP')::int];
    v_next := null;
    if o.state = 'c' then
      v_next := (
        select u.undo from unnest(g.undoes) with ordinality u(undo, depth)
        join df_engine.compensations c on c.instance = t.instance and c.undo = u.undo and not c.named and c.state = 'r' order by u.depth limit 1);
      if v_next is not null then  -- its names are still to be kept
        t.node := v_next;
        select x.* into g from df_engine.graph_nodes x where x.graph = p_graph and x.node = t.node;
        o := null;
        return;
      elsif g.after in ('n', 'v') or g.after = 'c' and df_engine.truth(o.value) then
        v_next := g.next;
        body := case when g.after = 'v' then g.node else body end;
      elsif g.after = 'c' then
        v_next := g.other;
      elsif g.after = 't' or g.after = 'w' and df_engine.truth(o.value) then
        v_next := g.next;
        select l.levels into strict g.levels from df_engine.graph_nodes l where l.graph = p_graph and l.node = g.up;
        t.generations := (coalesce(t.generations, '{1}'))[:g.levels + 1];
        t.generations[g.levels + 1] := t.generations[g.levels + 1] + 1;
      else
        ended := true;
        return;
      end if;
    elsif o.state = 'b' then
      ended := true;
      return;
    elsif o.state = 'h' then  -- a TIMEOUT
      v_next := g.inside[2];
    elsif o.state in ('f', 'x') then
      v_next := df_engine.handler_of(t, g);
    elsif o.state is null and g.kind = 'IF' and g.inside is not null then  -- an if_rows: the side on which something has happened
      select c.entry into v_next
      from (select x.node, x.last, x.place, g.inside[x.place] as entry
            from df_engine.graph_nodes x where x.graph = p_graph and x.parent = g.node) c
      where exists (select from df_engine.outcomes x
                    where x.instance = t.instance and x.scope = t.scope and x.node between c.node and c.last and (coalesce(x.generations, '{1}'))[:g.levels + (g.kind <> 'LOOP')::int] = (coalesce(t.generations, '{1}'))[:g.levels + (g.kind <> 'LOOP')::int]);
    end if;
    if v_next is null then
      return;
    end if;
    t.node := v_next;
  end loop;
end
$$;

-- The first node of the handler that has run because a node of a thread has failed; NULL: none has.
create or replace function df_engine.handler_of(p_thread df_engine.thread, p_node df_engine.graph_nodes) returns int
language plpgsql stable as $$
declare
  t constant df_engine.thread := p_thread;
  g df_engine.graph_nodes := p_node;
begin
  while g.catch is not null loop
    select x.* into g from df_engine.graph_nodes x where x.graph = g.graph and x.node = g.catch;
    if exists (select from df_engine.outcomes x
               where x.instance = t.instance and x.scope = t.scope and x.node = g.node and x.state = 'h' and (coalesce(x.generations, '{1}'))[:g.levels + (g.kind <> 'LOOP')::int] = (coalesce(t.generations, '{1}'))[:g.levels + (g.kind <> 'LOOP')::int]) then
      return g.inside[2];
    end if;
  end loop;
  return null;
end
$$;

-- Puts a thread into the queue.
create or replace function df_engine.put_back(p_run df_engine.instances, p_thread df_engine.thread, p_node df_engine.graph_nodes) returns void
language plpgsql as $$
begin
  insert into df_engine.queue (id, submitter, instance, scope, node, generations, activation, races)
  values (df_engine.queue_place(100 + coalesce((p_run).priority, 0)), (p_run).submitter, (p_run).instance, (p_thread).scope, (p_node).node,
          df_engine.at_level((p_thread).generations, (p_node).levels - (p_node).opens::int), (p_thread).activation, (p_thread).races);
end
$$;

-- Forgets that a node has failed, or was tried, and with it the CATCHes that have not caught it, and the last check of a wait: history keeps
-- what there was.
create or replace function df_engine.reopen(p_thread df_engine.thread, p_node df_engine.graph_nodes) returns void
language plpgsql as $$
declare
  v_check constant int := case when (p_node).kind = 'WAIT_FOR' then (p_node).inside[1] end;
  v_nodes int[] := array[(p_node).node, v_check];
  v_catch int := (p_node).catch;
begin
  while v_catch is not null loop
    v_nodes := v_nodes || v_catch;
    v_catch := (select c.catch from df_engine.graph_nodes c where c.graph = (p_node).graph and c.node = v_catch);
  end loop;
  update df_engine.attempts a set kept = true
  where a.instance = (p_thread).instance and a.node = (p_node).node and a.scope = (p_thread).scope and a.kept is null;
  with gone as (
    delete from df_engine.outcomes o
    where o.instance = (p_thread).instance and o.scope = (p_thread).scope and o.node = any (v_nodes)
      and (o.state not in ('c', 'b', 'h') or o.node = v_check)
    returning o.*
  )
  insert into df_engine.attempts (instance, scope, node, generations, attempt, failed_at, sqlstate, error, kept)
  select o.instance, o.scope, o.node, o.generations, o.attempts, o.ended_at, o.failure ->> 'sqlstate', o.error, true
  from gone o where o.state in ('f', 'x', 'e') order by o.node desc;
end
$$;

-- A thread of a resumed run goes on. ended: unless all of it has ended; that thread, at its last node, with how that ended. body: as in activations.
create or replace function df_engine.resume_thread(
  p_run df_engine.instances, p_thread df_engine.thread, out ended df_engine.thread, out ending df_engine.ending, out body int
)
language plpgsql as $$
declare
  p record;
begin
  p := df_engine.find_position((p_run).graph, p_thread);
  body := p.body;
  if p.ended then
    ended := p.t;
    ending := row((p.o).state, (p.o).value, (p.o).columns, (p.o).types, null, (p.o).started_at, null, null)::df_engine.ending;
    return;
  end if;
  perform df_engine.reopen(p.t, p.g);
  if (p.g).kind = 'CALL' and (p.o).last_item is not null then
    perform df_engine.resume_call(p_run, p.t, (p.o).last_item);
  elsif (p.g).kind = 'MAP' and (p.o).last_item is not null then
    perform df_engine.resume_map(p_run, p.t, p.g, (p.o).last_item);
  elsif (p.g).kind in ('LOOP', 'TIMEOUT', 'JOIN', 'RACE', 'ANY') then
    perform df_engine.resume_construct(p_run, p.t, p.g, p.o);
  else
    perform df_engine.put_back(p_run, p.t, p.g);
  end if;
end
$$;

-- A construct goes on with what of it has not completed. One in which nothing has happened is entered as any other.
create or replace function df_engine.resume_construct(
  p_run df_engine.instances, p_thread df_engine.thread, p_node df_engine.graph_nodes, p_outcome df_engine.outcomes
) returns void
language plpgsql as $$
declare
  g constant df_engine.graph_nodes := p_node;
  t df_engine.thread := p_thread;
  v_inside constant int[] := (
    select max((coalesce(x.generations, '{1}'))[:g.levels + 1])
    from df_engine.outcomes x
    where x.instance = t.instance and x.scope = t.scope and x.node > g.node and x.node <= g.last and (coalesce(x.generations, '{1}'))[:g.levels + (g.kind <> 'LOOP')::int] = (coalesce(t.generations, '{1}'))[:g.levels + (g.kind <> 'LOOP')::int]);
  v_entered record;
  v_threads df_engine.thread[];
  r record;
  v_last record;
  v_ended int := 0;
begin
  if v_inside is null and (g.kind <> 'LOOP' or (p_outcome).node is null) then
    perform df_engine.put_back(p_run, t, g);
    return;
  end if;
  v_entered := df_engine.enter(t, g, null);
  if (v_entered.ending).state is not null then  -- it cannot be opened any more: a session says so
    perform df_engine.reopen(t, g);
    perform df_engine.put_back(p_run, t, g);
    return;
  end if;
  t := v_entered.thread;
  if g.kind = 'LOOP' then
    t.generations := greatest((coalesce((p_outcome).generations, '{1}'))[:g.levels + 1], v_inside,
                              case when g.node = 1 then array[(p_run).generation] end);
  end if;
  v_threads := t || v_entered.others;
  for n in 1 .. cardinality(v_threads) loop
    r := df_engine.resume_thread(p_run, v_threads[n]);
    if (r.ended).node is not null then
      v_ended := v_ended + 1;
      v_last := r;
    end if;
  end loop;
  if g.kind = 'LOOP' and r.body is not null then
    update df_engine.activations a set body = r.body where a.id = t.activation;
  end if;
  if v_ended > 0 and g.kind = 'JOIN' then
    update df_engine.activations a set open = greatest(1, a.open - v_ended) where a.id = t.activation;
  end if;
  -- What has ended and has not decided the construct, in the transaction that cancelled the run, say, does so now.
  if v_ended > 0 and (g.kind <> 'JOIN' or v_ended = cardinality(v_threads)) then
    perform df_engine.advance((p_run).id, (p_run).graph, (p_run).submitter, true, v_last.ended, null, v_last.ending);
  end if;
end
$$;

-- A MAP goes on with its items that have not ended: those that had begun first, then the others of those that its threads had taken, then the rest.
create or replace function df_engine.resume_map(
  p_run df_engine.instances, p_thread df_engine.thread, p_map df_engine.graph_nodes, p_last_item bigint
) returns void
language plpgsql as $$
declare
  v_old constant bigint := p_last_item >> 23;
  v_opened record;
  p_activation df_engine.activations;
  v_taken int;
  v_todo int[];
  v_begun int;
  v_failed int;
  v_threads int;
  r record;
begin
  v_opened := df_engine.open_map(p_thread, p_map);
  if (v_opened.ending).state is not null then
    perform df_engine.reopen(p_thread, p_map);
    perform df_engine.put_back(p_run, p_thread, p_map);
    return;
  end if;
  select * into p_activation from df_engine.activations a where a.id = (v_opened.thread).activation;
  delete from df_engine.map_items m where m.instance = (p_run).instance and m.activation = v_old;
  update df_engine.outcomes x set scope = x.scope + ((p_activation.id - v_old) << 23)
  where x.instance = (p_run).instance and x.scope between v_old << 23 and v_old << 23 | 8388607;
  update df_engine.bindings x set scope = x.scope + ((p_activation.id - v_old) << 23)
  where x.instance = (p_run).instance and x.scope between v_old << 23 and v_old << 23 | 8388607;
  update df_engine.attempts x set scope = x.scope + ((p_activation.id - v_old) << 23)
  where x.instance = (p_run).instance and x.scope between v_old << 23 and v_old << 23 | 8388607;
  v_taken := least(p_activation.items, greatest((p_last_item & 8388607)::int + 15, (
    select df_engine.scope_item(max(o.scope)) from df_engine.outcomes o
    where o.instance = (p_run).instance and o.scope between p_activation.id << 23 and p_activation.id << 23 | 8388607)));
  with ends as materialized (    select o.scope, o.state, o.value, o.error, o.failure
    from df_engine.graph_nodes g
    join df_engine.outcomes o on o.instance = (p_thread).instance and o.scope between (p_activation).id << 23 and (p_activation).id << 23 | 8388607 and o.node = g.node
    where g.graph = (p_map).graph and g.node > (p_map).node and g.node <= (p_map).last and g.up = (p_map).node and g.branch = 1
      and (o.state in ('f', 'x') and g.catch is null or o.state = 'b' or o.state = 'c' and g.after = 'b')
  ), open as (
    select s.item, exists (select from df_engine.outcomes o
                           where o.instance = (p_run).instance and o.scope = df_engine.item_scope(p_activation.id, s.item)) as begun
    from generate_series(1, v_taken) s(item)
    where not exists (select from ends e where e.scope = df_engine.item_scope(p_activation.id, s.item)
                        and (e.state in ('c', 'b') or df_engine.map_config((p_map).query) ->> 'on_error' = 'collect'))
  )
  select coalesce(array_agg(o.item order by o.begun desc, o.item), '{}'), count(*) filter (where o.begun),
         (select count(*) from ends e where e.state in ('f', 'x')
            and df_engine.map_config((p_map).query) ->> 'on_error' = 'collect')
  into v_todo, v_begun, v_failed from open o;
  v_threads := least(greatest(p_activation.open, v_begun), cardinality(v_todo) + p_activation.items - v_taken);
  update df_engine.activations a
  set open = greatest(v_threads, 1), stride = 1, todo = nullif(v_todo[v_threads + 1:], '{}'), failures = v_failed,
      next_item = v_taken + 1 + greatest(0, v_threads - cardinality(v_todo)), done = v_taken - cardinality(v_todo)
  where a.id = p_activation.id;
  if v_threads = 0 then  -- all have ended: a session comes to the MAP itself
    r := v_opened.thread;
    perform df_engine.put_back(p_run, row(p_activation.instance, p_activation.scope, p_activation.node, p_activation.generations, p_activation.id, r.races), p_map);
  end if;
  for n in 1 .. v_threads loop
    r := df_engine.resume_thread(p_run, df_engine.item_thread(
      v_opened.thread, p_map, coalesce(v_todo[n], v_taken + n - cardinality(v_todo))));
  end loop;
end
$$;

-- A CALL goes on with the run that it has called, which is resumed if it has failed or was cancelled.
create or replace function df_engine.resume_call(p_run df_engine.instances, p_thread df_engine.thread, p_child bigint) returns void
language plpgsql as $$
declare
  v_id constant bigint := nextval('df_engine.thread_ids');
  v_status text;
begin
  perform df_engine.clear_ended(p_child);
  select i.status into v_status from df_engine.instances i where i.instance = p_child for update;
  if not found then
    raise exception 'instance % cannot be resumed: a run that it has called is gone', (p_run).id using errcode = 'object_not_in_prerequisite_state',
      hint = 'df.rerun starts it again from its beginning.';
  end if;
  update df_engine.instances i set call = v_id where i.instance = p_child;
  insert into df_engine.waits (id, submitter, instance, scope, node, generations, activation, races, child, since)
  values (v_id, (p_run).submitter, (p_run).instance, (p_thread).scope, (p_thread).node, (p_thread).generations, (p_thread).activation,
          (p_thread).races, p_child, df_engine.clock());
  if v_status = 'completed' then
    perform df_engine.check_kept(i) from df_engine.instances i where i.instance = p_child;
    perform df_engine.note_end_of_child(v_id);
  elsif v_status in ('completed', 'failed', 'cancelled') then
    perform df_engine.resume_ended(p_child, null);
  end if;
end
$$;

-- Removes what a step that ran when a run ended has kept locked; waits for that step, which is being cancelled. The run must not be locked yet:
-- the step wants it for a moment. What begins once somebody else has resumed the run is left alone.
create or replace function df_engine.clear_ended(p_instance bigint) returns void
language plpgsql as $$
declare
  v_left bigint[];
begin
  if exists (select from df_engine.timers t where t.instance = p_instance and t.kind = 'sweep') then
    return;  -- what waits of it has not been removed yet, see df_engine.resume_ended
  end if;
  v_left := array(
    select x.id from df_engine.instances i join df_engine.queue x on x.instance = i.instance
    where i.instance = p_instance and i.status in ('completed', 'failed', 'cancelled') order by x.id);
  if v_left <> '{}' then
    delete from df_engine.queue x where x.instance = p_instance and x.id = any (v_left);
  end if;
  v_left := array(
    select x.id from df_engine.instances i join df_engine.timers x on x.instance = i.instance
    where i.instance = p_instance and i.status in ('completed', 'failed', 'cancelled') order by x.id);
  if v_left <> '{}' then
    delete from df_engine.timers x where x.instance = p_instance and x.id = any (v_left);
  end if;
  v_left := array(
    select x.id from df_engine.instances i join df_engine.waits x on x.instance = i.instance
    where i.instance = p_instance and i.status in ('completed', 'failed', 'cancelled') order by x.id);
  if v_left <> '{}' then
    delete from df_engine.waits x where x.instance = p_instance and x.id = any (v_left);
  end if;
  v_left := array(
    select x.id from df_engine.instances i join df_engine.activations x on x.instance = i.instance
    where i.instance = p_instance and i.status in ('completed', 'failed', 'cancelled') order by x.id);
  if v_left <> '{}' then
    delete from df_engine.activations x where x.instance = p_instance and x.id = any (v_left);
  end if;
end
$$;

-- Raises when what a run has done is not kept any more.
create or replace function df_engine.check_kept(p_run df_engine.instances) returns void
language plpgsql stable as $$
begin
  if exists (select from df_engine.acts a where a.instance = (p_run).instance and a.act in ('forget', 'retention')) then
    raise exception 'instance % cannot be resumed: what it has done is not kept any more', (p_run).id
      using errcode = 'object_not_in_prerequisite_state', hint = 'Start its flow again with df.start.';
  end if;
end
$$;

-- Raises when a run that has ended cannot go on.
create or replace function df_engine.check_resumable(p_run df_engine.instances) returns void
language plpgsql as $$
declare
  v_role record;
  v_live constant int := (select l.live_instances from df_engine.role_limits l where l.role = (p_run).submitter::pg_catalog.regrole);
begin
  perform df_engine.check_kept(p_run);
  if (p_run).undo_as is not null or exists (select from df_engine.compensations c where c.instance = (p_run).instance and c.state = 'o') then
    raise exception 'instance % has begun to be undone, and cannot be resumed', (p_run).id using errcode = 'object_not_in_prerequisite_state',
      hint = 'df.rerun starts it again from its beginning.';
  elsif (p_run).cancelled_in = pg_current_xact_id() then
    raise exception 'instance % was cancelled in this transaction', (p_run).id using errcode = 'object_not_in_prerequisite_state',
      hint = 'COMMIT first, then resume it.';
  end if;
  select r.rolcanlogin, r.rolsuper into v_role from pg_catalog.pg_roles r where r.oid = (p_run).submitter;
  if v_role.rolcanlogin is not true then
    raise exception 'instance % cannot be resumed: the role that has started it %', (p_run).id,
      case when v_role.rolcanlogin is null then 'is gone' else 'has no LOGIN' end using errcode = 'object_not_in_prerequisite_state',
      hint = 'Start its flow again as another role.';
  elsif v_role.rolsuper and not df_engine.setting_on('enable_superuser_instances') then
    raise exception 'instance % cannot be resumed: enable_superuser_instances is off', (p_run).id using errcode = 'object_not_in_prerequisite_state';
  end if;
  if v_live is not null then
    perform df_engine.check_live_runs((p_run).submitter, v_live);
  end if;
end
$$;

-- Resumes a run that has failed or was cancelled, and that the caller has locked FOR UPDATE.
create or replace function df_engine.resume_ended(p_instance bigint, p_input jsonb) returns void
language plpgsql as $$
declare
  i df_engine.instances;
  g df_engine.graphs;
  r record;
begin
  select * into i from df_engine.instances x where x.instance = p_instance;
  select * into g from df_engine.graphs x where x.id = i.graph;
  perform df_engine.check_resumable(i);
  delete from df_engine.timers t where t.instance = p_instance and t.kind = 'sweep';
  if found then
    perform df_engine.withdraw(p_instance, null, null, null, null);
  end if;
  if exists (select from df_engine.queue x where x.instance = p_instance)     or exists (select from df_engine.timers x where x.instance = p_instance)     or exists (select from df_engine.waits x where x.instance = p_instance)     or exists (select from df_engine.activations x where x.instance = p_instance) then
    raise exception 'instance % has just ended, and something of it is still being stopped', i.id using errcode = 'object_in_use',
      hint = 'Try again.';
  end if;
  -- Whoever has called it hears of its end then, if that has not happened yet. Nobody else does.
  delete from df_engine.timers t where t.id = i.call and t.kind = 'child';
  update df_engine.instances x
  set status = 'running', error = null, result = null, finished_at = null, cancelled_in = null, paused = null, updated_at = df_engine.clock(),
      input = coalesce(p_input, x.input), call = (select w.id from df_engine.waits w where w.id = x.call)
  where x.instance = p_instance;
  perform df_engine.adopt_last_steps(i);
  r := df_engine.resume_thread(i, row(
    i.instance, 0, g.entry, case when i.generation > 1 then array[i.generation] end, null,
    case when g.has_undo then array[df_engine.open_undoable(i.instance)] end)::df_engine.thread);
  if (r.ended).node is not null then
    perform df_engine.advance(i.id, i.graph, i.submitter, true, r.ended, null, r.ending);
  end if;
  perform df_engine.notify('r ' || i.submitter);
end
$$;

-- A step that has completed in the transaction that cancelled its run has completed like any other, now that the run goes on.
create or replace function df_engine.adopt_last_steps(p_run df_engine.instances) returns void
language plpgsql as $$
declare
  o df_engine.outcomes;
  n df_engine.graph_nodes;
  t df_engine.thread;
begin
  for o in select x.* from df_engine.outcomes x where x.instance = (p_run).instance and x.state = 'd' loop
    update df_engine.outcomes x set state = 'c' where x.instance = o.instance and x.scope = o.scope and x.node = o.node;
    select x.* into n from df_engine.graph_nodes x where x.graph = (p_run).graph and x.node = o.node;
    t := row(o.instance, o.scope, o.node, o.generations, null, null);
    if n.binds is not null then
      perform df_engine.bind(t, n.name_scopes[1], n.binds, o.value, o.columns, o.types);
    end if;
    if n.undoes is not null then
      perform df_engine.register_compensations(t, n, true);
    end if;
  end loop;
end
$$;

-- Outcomes: what a node ended with, and the end of a run.

-- The columns of a row set, in their order; p_columns: as they were kept because no row shows them.
-- Granted to users.
create or replace function df_engine.columns_of(p_value json, p_columns text[]) returns text[]
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  return coalesce(p_columns, case
    when json_typeof(p_value -> 'rows' -> 0) = 'object' then array(select k from json_object_keys(p_value -> 'rows' -> 0) k) end);
end
$$;

-- The three ways in which a node ends.
create or replace function df_engine.completed(
  p_value json, p_columns text[] default null, p_types text[] default null, p_started timestamptz default null
)
returns df_engine.ending
language sql immutable as $$ select row('c', p_value, p_columns, p_types, null, p_started, null, null)::df_engine.ending $$;

create or replace function df_engine.broke(p_value json) returns df_engine.ending
language sql immutable as $$ select row('b', p_value, null, null, null, null, null, null)::df_engine.ending $$;

-- p_failure: what is known of the error beyond its text, as in outcomes.failure.
create or replace function df_engine.failed(
  p_error text, p_started timestamptz default null, p_sqlstate text default null, p_failure jsonb default '{}'
) returns df_engine.ending
language sql immutable as $$
  select row(case p_sqlstate when 'DF013' then 'x' else 'f' end, null, null, null, p_error, p_started,
             p_failure || case when p_sqlstate is null then '{}' else jsonb_build_object('sqlstate', p_sqlstate) end, null)::df_engine.ending
$$;

-- Generations of the scopes around a node that has p_levels of them below the root scope. NULL: {1}.
create or replace function df_engine.at_level(p_generations int[], p_levels int) returns int[]
language sql immutable as $$
  select case when p_levels > 0 then p_generations[1:p_levels + 1] when p_generations[1] > 1 then p_generations[1:1] end
$$;

-- How many changes of status an ending stands for: its node's own two, those of the sequences and IFs that end with it, and of a loop
-- one for each further iteration.
create or replace function df_engine.ending_events(p_node df_engine.graph_nodes, p_state "char", p_generations int[]) returns int
language sql immutable as $$
  select 2 * (1 + case p_state when 'c' then (p_node).closes else (p_node).drops end)
    + case when (p_node).kind = 'LOOP' and (p_node).levels > 0 then p_generations[(p_node).levels + 1] - 1 else 0 end
$$;

-- Records how a node ended. A node in a loop has an earlier outcome, and a step that was tried before one that says so.
create or replace function df_engine.put_outcome(
  p_thread df_engine.thread, p_node df_engine.graph_nodes, p_ending df_engine.ending
) returns void
language plpgsql as $$
begin
  insert into df_engine.outcomes as o (instance, scope, node, generations, state, events, started_at, ended_at, value, columns, types,
    error, failure, last_item)
  select (p_thread).instance, (p_thread).scope, (p_node).node, g.generations, (p_ending).state,
         df_engine.ending_events(p_node, (p_ending).state, g.generations),
         coalesce((p_ending).started_at, df_engine.clock()), df_engine.clock(), (p_ending).value, (p_ending).columns, (p_ending).types,
         (p_ending).error, df_engine.failure_at(p_node, p_ending), (p_ending).last_item
  from (select df_engine.at_level((p_thread).generations, (p_node).levels)) g(generations)
  on conflict (instance, scope, node) do update
    set generations = excluded.generations, state = excluded.state, ended_at = excluded.ended_at, value = excluded.value,
        columns = excluded.columns, types = excluded.types, error = excluded.error, failure = excluded.failure, last_item = excluded.last_item,
        attempts = case when o.state = 'r' and o.generations is not distinct from excluded.generations then o.attempts + 1 else 1 end,
        started_at = case when o.state = 'r' and o.generations is not distinct from excluded.generations
                          then o.started_at else excluded.started_at end,
        events = excluded.events + case when o.generations[1] is not distinct from excluded.generations[1] then o.events else 0 end;
end
$$;

-- What outcomes keep of a failure: of a construct, that of the node which has brought it about.
create or replace function df_engine.failure_at(p_node df_engine.graph_nodes, p_ending df_engine.ending) returns jsonb
language sql stable as $$
  select case when (p_ending).error is not null then jsonb_build_object('node', (p_node).node) || (p_ending).failure end
$$;

-- A run has begun: shown as running.
create or replace function df_engine.note_running(p_instance bigint) returns void
language plpgsql as $$
begin
  update df_engine.instances i set status = 'running', updated_at = df_engine.clock()
  where i.instance = p_instance and i.status = 'pending';
end
$$;

-- Ends a run. What waited of it is gone; signals that nobody took cannot be delivered any more; whoever has called it goes on.
create or replace function df_engine.end_run(p_instance bigint, p_status text, p_error text, p_result int) returns void
language plpgsql as $$
declare
  v_call bigint;
  v_notifies boolean;
begin
  update df_engine.instances i
  set status = p_status, error = p_error, result = p_result,
      finished_at = df_engine.clock(), updated_at = df_engine.clock()
  where i.instance = p_instance
  returning i.call, i.notifies into v_call, v_notifies;
  if v_call is not null then
    perform df_engine.note_end_of_child(v_call);
  end if;
  if v_notifies then
    perform df_engine.tell_end(p_instance);
  end if;
  update df_engine.inbox s set status = 'undeliverable', fresh = false
  where s.instance = p_instance and s.status = 'pending' and not s.fresh;
end
$$;

-- What is open of a part of a run: between two nodes in a scope, and in the items of the maps p_maps, or without p_scope all of it; and in which generations: a LOOP is
-- in that of what is inside it, and what its next iteration will begin with is not open yet. last_item: as in outcomes.
create or replace function df_engine.open_nodes(p_instance bigint, p_scope bigint, p_from int, p_last int, p_maps bigint[])
returns table (scope bigint, node int, kind text, generations int[], since timestamptz, last_item bigint)
language plpgsql stable as $$
begin
  return query
    with thread as materialized (
      select q.scope, q.node, q.generations, case when q.worker is not null then q.leased_at end as since, null::bigint as last_item from df_engine.queue q
      where q.instance = p_instance and (p_scope is null or q.scope = p_scope and q.node between p_from and p_last or q.scope >> 23 = any (p_maps))
      union all
      select x.scope, x.node, x.generations, case when x.kind not in ('start', 'pace', 'deadline', 'check', 'poke', 'child', 'sweep') then x.since end,
             null from df_engine.timers x
      where x.instance = p_instance and (p_scope is null or x.scope = p_scope and x.node between p_from and p_last or x.scope >> 23 = any (p_maps))
      union all
      select x.scope, x.node, x.generations, x.since,
             x.child from df_engine.waits x
      where x.instance = p_instance and (p_scope is null or x.scope = p_scope and x.node between p_from and p_last or x.scope >> 23 = any (p_maps))
      union all
      select x.scope, x.node, x.generations, x.since,
             x.id << 23 | x.next_item - x.stride from df_engine.activations x
      where x.instance = p_instance and (p_scope is null or x.scope = p_scope and x.node between p_from and p_last or x.scope >> 23 = any (p_maps))
    )
    select distinct on (t.scope, t.node) t.scope, t.node, g.kind,
           df_engine.at_level(case when g.kind = 'LOOP' then (
             select max((coalesce(u.generations, '{1}'))[:g.levels + 1]) from thread u
             where u.node between g.node + 1 and g.last
               and (coalesce(u.generations, '{1}'))[:g.levels] = (coalesce(t.generations, '{1}'))[:g.levels])
           else t.generations end, g.levels), t.since, t.last_item
    from thread t
    join df_engine.instances i on i.instance = p_instance
    join df_engine.graph_nodes g on g.graph = i.graph and g.node = t.node
    where t.since is not null
    order by t.scope, t.node;
end
$$;

-- Removes what could still start of a part of a run: between two nodes in a scope, with all items of maps there, and of p_maps, or without p_scope
-- all of it; but for one row of the queue. A row that a running step has locked is left to that step, which finds out when it wants to record its outcome, and so is a
-- construct: it is removed with the step's row of the queue. Of loops and maps it is
-- kept how far they had come. Runs that a CALL there has started are cancelled. p_keep: the run ends with that, as it does without p_scope, and what maps
-- have kept for their items stays, for df.resume.
create or replace function df_engine.withdraw(
  p_instance bigint, p_scope bigint, p_from int, p_last int, p_but bigint, p_maps bigint[] default '{}', p_keep boolean default false
) returns void
language plpgsql as $$
declare
  v_maps bigint[] := p_maps;
  v_children bigint[];
begin
  if exists (select from df_engine.activations a where a.instance = p_instance and (p_scope is null or a.scope = p_scope and a.node between p_from and p_last or a.scope >> 23 = any (v_maps)))
     or exists (select from df_engine.waits w where w.instance = p_instance and w.child is not null) then
    v_maps := df_engine.with_inner_maps(p_instance, p_maps || array(
      select a.id from df_engine.activations a
      where a.instance = p_instance and a.scope = p_scope and a.node between p_from and p_last and a.items is not null));
    insert into df_engine.outcomes as o (instance, scope, node, generations, state, events, started_at, ended_at, last_item)
    select p_instance, n.scope, n.node, n.generations, case when n.kind = 'CALL' then 's' else 'o' end, (n.kind <> 'CALL')::int, n.since, df_engine.clock(), n.last_item
    from df_engine.open_nodes(p_instance, p_scope, p_from, p_last, v_maps) n where n.kind = 'LOOP' or n.last_item is not null
    on conflict (instance, scope, node) do update
      set generations = excluded.generations, state = excluded.state, ended_at = excluded.ended_at, value = excluded.value,
        columns = excluded.columns, types = excluded.types, error = excluded.error, failure = excluded.failure, last_item = excluded.last_item,
        attempts = case when o.state = 'r' and o.generations is not distinct from excluded.generations then o.attempts + 1 else 1 end,
        started_at = case when o.state = 'r' and o.generations is not distinct from excluded.generations
                          then o.started_at else excluded.started_at end,
        events = excluded.events + case when o.generations[1] is not distinct from excluded.generations[1] then o.events else 0 end;
    perform df_engine.forget_items(p_instance, g, a.id)
    from unnest(case when p_scope is not null and not p_keep then v_maps end) m(id)
    join df_engine.activations a on a.id = m.id
    join df_engine.instances i on i.instance = p_instance
    join df_engine.graph_nodes g on g.graph = i.graph and g.node = a.node;
  end if;
  delete from df_engine.queue q using (
    select r.lane, r.submitter, r.id from df_engine.queue r
    where r.instance = p_instance and (p_scope is null or r.scope = p_scope and r.node between p_from and p_last or r.scope >> 23 = any (v_maps)) and r.id is distinct from p_but
    for update skip locked) d
  where q.lane = d.lane and q.submitter = d.submitter and q.id = d.id;
  delete from df_engine.timers x using (
    select r.id from df_engine.timers r
    where r.instance = p_instance and (p_scope is null or r.scope = p_scope and r.node between p_from and p_last or r.scope >> 23 = any (v_maps)) for update skip locked) d
  where x.id = d.id;
  with gone as (  delete from df_engine.waits x using (
      select r.id from df_engine.waits r
      where r.instance = p_instance and (p_scope is null or r.scope = p_scope and r.node between p_from and p_last or r.scope >> 23 = any (v_maps)) for update skip locked) d
    where x.id = d.id returning x.child
  )
  select array_agg(g.child order by g.child) into v_children from gone g where g.child is not null;
  delete from df_engine.activations x using (
    select r.id from df_engine.activations r
    where r.instance = p_instance and (p_scope is null or r.scope = p_scope and r.node between p_from and p_last or r.scope >> 23 = any (v_maps)) for update skip locked) d
  where x.id = d.id;
  if v_children is not null then
    perform df_engine.cancel_children(p_instance, v_children);
  end if;
end
$$;

-- Ends a run, which the caller has locked FOR UPDATE, as cancelled. One that is being undone ends as it would have ended then.
create or replace function df_engine.end_cancelled(p_instance bigint, p_reason text) returns void
language plpgsql as $$
begin
  perform df_engine.end_run(p_instance, coalesce(i.undo_as, 'cancelled'), coalesce(i.undo_error, 'canceled: ' || p_reason), i.result)
  from df_engine.instances i where i.instance = p_instance;
  update df_engine.instances i set cancelled_in = pg_current_xact_id() where i.instance = p_instance;
end
$$;

-- The same, and removes what waits of it.
create or replace function df_engine.cancel_locked(p_instance bigint, p_reason text) returns void
language plpgsql as $$
begin
  perform df_engine.end_cancelled(p_instance, p_reason);
  perform df_engine.withdraw(p_instance, null, null, null, null);
  perform df_engine.notify('x');
end
$$;

-- The same as df_engine.fail_run, unless a run that it has called is locked: false, not now.
create or replace function df_engine.try_fail_run(p_instance bigint, p_error text, p_undo boolean) returns boolean
language plpgsql as $$
begin
  perform df_engine.fail_run(p_instance, p_error, p_undo);
  return true;
exception when lock_not_available then
  return false;
end
$$;

-- Ends a run that must not go on. What is open of it has failed with it. p_undo: its compensations may still run, and do before it ends.
create or replace function df_engine.fail_run(p_instance bigint, p_error text, p_undo boolean) returns void
language plpgsql as $$
begin
  insert into df_engine.outcomes as o (instance, scope, node, generations, state, events, started_at, ended_at, error, last_item)
  select p_instance, n.scope, n.node, n.generations, 'f', 2, n.since, df_engine.clock(), p_error, n.last_item
  from df_engine.open_nodes(p_instance, null, null, null, '{}') n
  on conflict (instance, scope, node) do update
    set generations = excluded.generations, state = excluded.state, ended_at = excluded.ended_at, value = excluded.value,
        columns = excluded.columns, types = excluded.types, error = excluded.error, failure = excluded.failure, last_item = excluded.last_item,
        attempts = case when o.state = 'r' and o.generations is not distinct from excluded.generations then o.attempts + 1 else 1 end,
        started_at = case when o.state = 'r' and o.generations is not distinct from excluded.generations
                          then o.started_at else excluded.started_at end,
        events = excluded.events + case when o.generations[1] is not distinct from excluded.generations[1] then o.events else 0 end;
  p_undo := p_undo and exists (select from df_engine.compensations c where c.instance = p_instance);
  if not p_undo then
    perform df_engine.end_run(p_instance, 'failed', p_error, null);
  end if;
  delete from df_engine.activations a where a.instance = p_instance;
  perform df_engine.withdraw(p_instance, null, null, null, null);
  if p_undo then
    update df_engine.compensations c set state = 'f' where c.instance = p_instance and c.state = 'o';
    if not df_engine.undo_from_outside(p_instance, 'failed', p_error) then
      perform df_engine.end_undone(p_instance);
    end if;
  end if;
end
$$;

-- Names: what a node sees of the named results of its run, and its text with the references replaced.

-- The values of the wanted names as a thread sees them: name -> {value, columns, types}, or null when known without a value. The
-- input of the run is known everywhere, and the item of a map in its body, unless a hand-written envelope gives its name to a result.
create or replace function df_engine.names(
  p_instance bigint, p_scope bigint, p_name_scopes int[], p_wanted text[], p_known text[]
) returns jsonb
language plpgsql stable as $$
declare
  v_scopes constant bigint[] := case when p_scope = 0 then array_fill(p_scope, array[cardinality(p_name_scopes)])
                                     else df_engine.scopes_of(p_scope, p_name_scopes) end;
begin
  return (
    select coalesce(jsonb_object_agg(w.name, coalesce(n.entry, b.entry)), '{}')
    from unnest(p_wanted) as w(name)
    left join lateral (
      select jsonb_build_object('value', b.value, 'columns', to_jsonb(df_engine.columns_of(b.value, b.columns)), 'types', to_jsonb(b.types))
             || case when b.built_in then '{"built_in": true}' else '{}' end::pg_catalog.jsonb as entry
      from unnest(v_scopes, p_name_scopes) with ordinality s(scope, name_scope, place)
      join df_engine.bindings b on b.instance = p_instance and b.scope = s.scope and b.name_scope = s.name_scope and b.name = w.name
      order by s.place limit 1) n on true
    left join lateral (
      select jsonb_build_object('value', i.input, 'built_in', true) as entry
      from df_engine.instances i where w.name = 'input' and i.instance = p_instance and i.input is not null
      union all
      select df_engine.item_entry(p_instance, p_scope, w.name) where w.name in ('item', 'item_no')) b on true
    where n.entry is not null or b.entry is not null or w.name = any (p_known));
end
$$;

-- The names that nodes of a run bind, and what is bound without a node: input, if it has any; in a map its item.
create or replace function df_engine.known_names(p_instance bigint, p_scope bigint) returns text[]
language plpgsql stable as $$
begin
  return (
    select g.names || case when i.input is not null then '{input}'::pg_catalog.text[] end
                   || case when p_scope > 0 then '{item,item_no}'::pg_catalog.text[] end
    from df_engine.instances i join df_engine.graphs g on g.id = i.graph where i.instance = p_instance);
end
$$;

-- The variables of a run, those of the system included.
create or replace function df_engine.variables_of(p_instance bigint) returns jsonb
language plpgsql stable as $$
begin
  return (
    select coalesce(i.vars, '{}') || jsonb_build_object('sys_instance_id', i.id, 'sys_label', coalesce(i.label, ''))
    from df_engine.instances i where i.instance = p_instance);
end
$$;

-- A text of a node with its references replaced; raises DF010 or DF013 where that is not possible.
create or replace function df_engine.render(
  p_thread df_engine.thread, p_name_scopes int[], p_text text, p_mode text
) returns text
language plpgsql stable as $$
declare
  v_text text := p_text;
  v_wanted text[];
  v_known text[];
begin
  if strpos(v_text, '{') > 0 then
    v_text := df_engine.render_vars(v_text, p_mode, df_engine.variables_of((p_thread).instance));
  end if;
  v_wanted := df_engine.template_names(v_text, p_mode);
  if v_wanted is not null then
    v_known := df_engine.known_names((p_thread).instance, (p_thread).scope);
    v_text := df_engine.render_names(v_text, p_mode, df_engine.names(
      (p_thread).instance, (p_thread).scope, p_name_scopes, v_wanted, v_known), v_known);
  end if;
  return v_text;
end
$$;

-- Binds the value of a node that ended.
create or replace function df_engine.bind(
  p_thread df_engine.thread, p_name_scope int, p_names text[], p_value json, p_columns text[], p_types text[]
) returns void
language plpgsql as $$
begin
  insert into df_engine.bindings (instance, scope, name_scope, name, value, columns, types)
  select (p_thread).instance, (p_thread).scope, p_name_scope, n, p_value, p_columns, p_types
  from unnest(p_names) n
  on conflict (instance, scope, name_scope, name) do update
    set value = excluded.value, columns = excluded.columns, types = excluded.types;
end
$$;

-- Hands the names bound in branches (p_tops, in order) on to the scope around the construct, later ones over earlier ones, and
-- forgets those of all of its branches.
create or replace function df_engine.merge_names(
  p_thread df_engine.thread, p_construct df_engine.graph_nodes, p_tops int[]
) returns void
language plpgsql as $$
begin
  with moved as (
    delete from df_engine.bindings b
    where b.instance = (p_thread).instance and b.scope = (p_thread).scope
      and b.name_scope > (p_construct).node and b.name_scope <= (p_construct).last
    returning b.*
  )
  insert into df_engine.bindings (instance, scope, name_scope, name, value, columns, types)
  select distinct on (m.name) m.instance, m.scope, (p_construct).name_scopes[1], m.name, m.value, m.columns, m.types
  from moved m where m.name_scope = any (p_tops)
  order by m.name, m.name_scope desc
  on conflict (instance, scope, name_scope, name) do update
    set value = excluded.value, columns = excluded.columns, types = excluded.types;
end
$$;

-- Text as JSON if it parses, else as a JSON string; none is null.
-- Granted to users.
create or replace function df_engine.as_json(p_text text) returns jsonb
language plpgsql immutable set search_path = '' as $$
begin
  return coalesce(p_text, 'null')::pg_catalog.jsonb;
exception when data_exception or program_limit_exceeded then
  return to_jsonb(p_text);
end
$$;

-- Waking: how workers that have said they are idle learn that something is to be done. The channel has a name that nobody can guess, and
-- stands in no statement that others see. What arrives is a hint: workers find everything at their next poll, too.

create or replace function df_engine.wake_channel() returns text
language plpgsql stable as $$
begin
  return (select s.channel from df_engine.secret s);
end
$$;

-- Listens to the channel, whatever its name is now.
-- Granted to workers.
create or replace function df_engine.listen_for_work() returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  execute 'unlisten *';
  execute format('listen %I', df_engine.wake_channel());
end
$$;

-- Draws a new name; the workers are told on the old channel.
create or replace function df.rotate_wake_channel() returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if lower(current_setting('df.wake', true)) in ('off', 'false', 'no', '0') then
    raise exception 'workers are to be told of a new channel, and df.wake is off' using errcode = 'object_not_in_prerequisite_state',
      hint = 'RESET df.wake first.';
  end if;
  perform pg_notify(df_engine.wake_channel(), 'c');
  update df_engine.secret s set channel = default;
  return 'OK';
end
$$;
revoke all on function df.rotate_wake_channel() from public;
comment on function df.rotate_wake_channel() is
  'Draws a new name for the channel on which idle workers are woken, should it have become known; workers follow at once. Returns OK.';

-- Notifies workers. The payload is a hint: r = ready SQL, l = leased steps, t = timers and signals, x = steps to interrupt, c = the
-- channel has a new name. PostgreSQL prepares no transaction that has notified: a session that does that says SET df.wake = off. Nor is
-- anything sent while a session that does not read fills the queue of notifications: that would end with the errors of others.
create or replace function df_engine.notify(p_kind text) returns void
language plpgsql volatile as $$
begin
  if lower(current_setting('df.wake', true)) in ('off', 'false', 'no', '0') or pg_notification_queue_usage() > 0.5 then
    return;
  end if;
  perform pg_notify(df_engine.wake_channel(), p_kind);
end
$$;

-- Notifies workers that have said they are idle beyond p_due (NULL: now). A notification costs a cluster-wide lock, so none is
-- sent in vain.
create or replace function df_engine.wake(p_kind text, p_due timestamptz) returns void
language plpgsql volatile as $$
begin
  if exists (select from df_engine.workers w where w.idle_until > coalesce(p_due, df_engine.clock())) then
    perform df_engine.notify(p_kind);
  end if;
end
$$;

create or replace function df_engine.wake_for_start() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform df_engine.wake('r ' || new.submitter, null);
  return null;
end
$$;

create or replace function df_engine.wake_for_signal() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform df_engine.wake('t', null);
  return null;
end
$$;

-- At the commit of a start or a signal: deferred, so that a worker that became idle in the meantime is seen.
do $triggers$
begin
  if not exists (select from pg_trigger where tgname = 'queue_wake') then
    create constraint trigger queue_wake after insert on df_engine.queue deferrable initially deferred
      for each row when (new.wakes) execute function df_engine.wake_for_start();
  end if;
  if not exists (select from pg_trigger where tgname = 'inbox_wake') then
    create constraint trigger inbox_wake after insert on df_engine.inbox deferrable initially deferred
      for each row execute function df_engine.wake_for_signal();
  end if;
end
$triggers$;

-- What df.run does.
-- Granted to users.
create or replace function df_engine.wake_idle_workers() returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform df_engine.wake('t', null);
end
$$;

-- Waiting: what sleeps, schedules and waits for a signal leave behind when a thread arrives at them; calls are in engine/calls.

-- Lets a thread wait for a time. p_id: the wait that it is the time-out of.
create or replace function df_engine.set_timer(
  p_thread df_engine.thread, p_kind text, p_due timestamptz, p_id bigint default null, p_since timestamptz default df_engine.clock()
) returns void
language plpgsql as $$
begin
  insert into df_engine.timers (id, submitter, instance, scope, node, generations, activation, races, kind, since, due_at, next_try_at)
  select coalesce(p_id, nextval('df_engine.thread_ids')), i.submitter, (p_thread).instance, (p_thread).scope, (p_thread).node,
         (p_thread).generations, (p_thread).activation, (p_thread).races, p_kind, p_since, p_due, p_due
  from df_engine.instances i where i.instance = (p_thread).instance;
  perform df_engine.wake('t', p_due);
end
$$;

-- Begins to wait. Answers an ending only when there is nothing to wait for, or the node's content, which may come from data or from
-- a hand-written envelope, is unusable.
create or replace function df_engine.park(p_thread df_engine.thread, p_node df_engine.graph_nodes) returns df_engine.ending
language plpgsql as $$
declare
  v_config jsonb;
begin
  v_config := (p_node).query::pg_catalog.jsonb;
  if (p_node).kind = 'SLEEP' then
    return df_engine.fall_asleep(p_thread, p_node, v_config);
  elsif (p_node).kind = 'CALL' then
    perform df_engine.open_call(p_thread, p_node, v_config);
    return null;
  end if;
  if (p_node).kind = 'WAIT_SCHEDULE' then
    perform df_engine.set_timer(p_thread, 'schedule', df_engine.cron_next(
      v_config ->> 'cron_expr', coalesce(v_config ->> 'timezone', df_engine.setting('timezone')), df_engine.clock()));
  else
    perform df_engine.open_wait(p_thread, df_engine.render_wait(p_thread, p_node, v_config ->> 'signal_name'), (v_config ->> 'timeout_seconds')::numeric);
  end if;
  return null;
exception
  when sqlstate 'DF010' or sqlstate 'DF013' or data_exception or program_limit_exceeded or not_null_violation or undefined_object then
    return df_engine.failed(format('%s: %s', (p_node).kind, sqlerrm), null, sqlstate);
end
$$;

-- The text of a wait with its references replaced. What comes of them is as long as a text that is written.
create or replace function df_engine.render_wait(p_thread df_engine.thread, p_node df_engine.graph_nodes, p_text text) returns text
language plpgsql stable as $$
declare
  v_text text;
begin
  if (p_node).refs is null and not (p_node).vars then
    return p_text;
  end if;
  v_text := df_engine.render(p_thread, (p_node).name_scopes, p_text, 'raw');
  if v_text = '' then
    raise exception '% has given an empty text', p_text using errcode = 'invalid_parameter_value';
  elsif octet_length(v_text) > 1024 then
    raise exception '% has given a text of % bytes, and 1024 are allowed', p_text, octet_length(v_text)
      using errcode = 'program_limit_exceeded';
  end if;
  return v_text;
end
$$;

-- Sleeps for so many seconds, or as long as its text says: {"duration"} or {"until"}. What has come from data is read as the builders
-- read it, and holds no references, whatever it looks like.
create or replace function df_engine.fall_asleep(
  p_thread df_engine.thread, p_node df_engine.graph_nodes, p_config jsonb
) returns df_engine.ending
language plpgsql as $$
declare
  v_now constant timestamptz := df_engine.clock();
  v_kind constant text := case when p_config ? 'until' then 'until' else 'duration' end;
  v_text text := (p_node).query;
  v_due timestamptz;
begin
  if jsonb_typeof(p_config) = 'object' then
    v_text := df_engine.render_wait(p_thread, p_node, p_config ->> v_kind);
    if v_kind = 'until' and v_text ~ '[${]' then
      raise exception '"%" is no time', left(v_text, 100) using errcode = 'invalid_parameter_value';
    end if;
  end if;
  v_due := case
    when v_kind = 'until' then ((df.sleep_until(v_text)::pg_catalog.json ->> 'query')::pg_catalog.json ->> 'until')::pg_catalog.timestamptz
    else v_now + interval '1 s' * case when jsonb_typeof(p_config) = 'object' then df_engine.duration_seconds(v_text, true)
                                       else df_engine.sleep_seconds(v_text) end end;
  if v_kind = 'until' and v_due <= v_now then
    return df_engine.completed(df_engine.slept((p_node).query, v_now, v_due)::pg_catalog.json, null, null, v_now);
  end if;
  perform df_engine.set_timer(p_thread, 'sleep', v_due, null, v_now);
  return null;
end
$$;

-- The value of a SLEEP that began and ended at those times.
create or replace function df_engine.slept(p_query text, p_since timestamptz, p_due timestamptz) returns jsonb
language sql stable as $$
  select jsonb_build_object('slept', true) || case
    when jsonb_typeof(c) = 'number' then jsonb_build_object('seconds', c)
    when c ? 'until' then jsonb_build_object('until', (to_json(p_due at time zone 'UTC') #>> '{}') || 'Z')
    else jsonb_build_object('seconds', trim_scale(extract(epoch from p_due - p_since))) end
  from (select p_query::pg_catalog.jsonb) q(c)
$$;

-- A duration that comes from data: seconds, or an interval, above 0 or, with p_zero, not below it.
create or replace function df_engine.duration_seconds(p_text text, p_zero boolean default false) returns numeric
language plpgsql stable set search_path = '' as $$
declare
  v_seconds numeric;
begin
  begin
    v_seconds := case when p_text ~ '^[[:space:]]*[+-]?([0-9]|[.][0-9])[0-9.eE+-]*[[:space:]]*$' then p_text::pg_catalog.numeric
                      else extract(epoch from p_text::pg_catalog.interval) end;
  exception when data_exception then
    raise exception '"%" is no duration', left(p_text, 100)
      using errcode = 'invalid_parameter_value', hint = 'Write seconds, such as 0.5, or an interval, such as 5 minutes.';
  end;
  if v_seconds < 0 or v_seconds > 3155760000 or v_seconds = 0 and not p_zero then
    raise exception '"%" is no duration %', left(p_text, 100),
      case when p_zero then 'from 0 to 100 years' else 'above 0, up to 100 years' end using errcode = 'invalid_parameter_value';
  end if;
  return v_seconds;
end
$$;

create or replace function df_engine.sleep_seconds(p_query text) returns numeric
language plpgsql immutable set search_path = '' as $$
declare
  v_seconds numeric := p_query::numeric;
begin
  if not (v_seconds between 0 and 3155760000) then
    raise exception 'sleep of % seconds: must be non-negative and at most 100 years', p_query
      using errcode = 'invalid_parameter_value';
  end if;
  return v_seconds;
end
$$;

-- Says of each signal of a name that was sent and not delivered yet whom it is for, before another wait opens: the waits that
-- are open, or none, and then it is kept. The first of several takes those waits from the later ones.
create or replace function df_engine.reserve_signals(p_instance bigint, p_signal text) returns void
language plpgsql as $$
declare
  v_id bigint;
  v_waits bigint[];
begin
  for v_id in
    select s.signal_id from df_engine.inbox s
    where s.instance = p_instance and s.signal_name = p_signal and s.fresh and s.reserved is null
    order by s.signal_id
  loop
    v_waits := array(
      select w.id from df_engine.waits w
      where w.instance = p_instance and w.signal_name = p_signal
        and not exists (select from df_engine.inbox r
                        where r.instance = p_instance and r.fresh and w.id = any (r.reserved))
      order by w.id);
    update df_engine.inbox s set fresh = v_waits <> '{}', reserved = nullif(v_waits, '{}')
    where s.signal_id = v_id;
  end loop;
end
$$;

-- Opens a wait for a signal. The oldest kept signal of that name, if any, is reserved for it and tried again.
create or replace function df_engine.open_wait(p_thread df_engine.thread, p_signal text, p_timeout numeric) returns void
language plpgsql as $$
declare
  v_id constant bigint := nextval('df_engine.thread_ids');
  v_submitter oid;
begin
  if p_signal is null then
    raise exception 'signal_name is missing' using errcode = 'null_value_not_allowed';
  end if;
  select i.submitter into v_submitter from df_engine.instances i where i.instance = (p_thread).instance for no key update;
  perform df_engine.reserve_signals((p_thread).instance, p_signal);
  insert into df_engine.waits (id, submitter, instance, scope, node, generations, activation, races, signal_name, since)
  values (v_id, v_submitter, (p_thread).instance, (p_thread).scope, (p_thread).node, (p_thread).generations, (p_thread).activation,
          (p_thread).races, p_signal, df_engine.clock());
  if p_timeout is not null then
    perform df_engine.set_timer(p_thread, 'timeout', df_engine.clock() + p_timeout * interval '1 s', v_id);
  end if;
  update df_engine.inbox s set fresh = true, reserved = array[v_id]
  where s.signal_id = (select k.signal_id from df_engine.inbox k
                       where k.instance = (p_thread).instance and k.signal_name = p_signal
                         and k.status = 'pending' and not k.fresh
                       order by k.signal_id limit 1);
  if found then
    perform df_engine.wake('t', null);
  end if;
end
$$;

-- Retries: whether a step that failed is tried again, and when.

-- A field of the node's own policy, or the setting.
create or replace function df_engine.policy_number(p_policy jsonb, p_key text) returns numeric
language sql stable set search_path = '' as $$
  select coalesce((p_policy ->> p_key)::numeric, df_engine.setting_number('retry_' || p_key));
$$;

-- Whether an SQLSTATE is named by a policy; without a list in it every error is, without a policy the transient ones.
create or replace function df_engine.sql_retryable(p_sqlstate text, p_policy jsonb) returns boolean
language sql stable set search_path = '' as $$
  select case
    when p_sqlstate ~ '^DF' or p_sqlstate = '57014' then false
    when p_policy is null then df_engine.transient(p_sqlstate)
    when not p_policy ? 'retry_on' then true
    else df_engine.error_listed(array(select jsonb_array_elements_text(p_policy -> 'retry_on')), p_sqlstate, null)
  end;
$$;

-- Whether an error is in a list of SQLSTATEs, their classes, connection, timeout, http:404, http:4xx and transient. p_class: of a
-- request, connection, timeout, http:503 or refused.
create or replace function df_engine.error_listed(p_list text[], p_sqlstate text, p_class text) returns boolean
language sql immutable set search_path = '' as $$
  select exists (
    select from unnest(p_list) as e(item)
    where e.item in (p_sqlstate, p_class) or length(e.item) = 2 and starts_with(p_sqlstate, e.item)
       or e.item = left(p_class, 6) || 'xx' and p_class ~ '^http:'
       or e.item = 'transient' and (df_engine.transient(p_sqlstate)
         or p_class in ('connection', 'timeout') or p_class ~ '^http:(408|425|429|5[0-9][0-9])$'))
$$;

create or replace function df_engine.transient(p_sqlstate text) returns boolean
language sql immutable set search_path = '' as $$
  select left(p_sqlstate, 2) in ('08', '40', '53') or p_sqlstate in ('55P03', '57P01', '57P02', '57P03');
$$;

-- When a node that has just failed its attempt number p_attempt is due again; NULL when it is not tried again.
-- p_after: seconds that the other side asked to wait (Retry-After).
create or replace function df_engine.retry_due(p_policy jsonb, p_attempt int, p_after numeric) returns timestamptz
language plpgsql volatile set search_path = '' as $$
declare
  v_limit numeric;
begin
  if p_attempt >= df_engine.policy_number(p_policy, 'max_attempts') then
    return null;
  end if;
  v_limit := least(df_engine.policy_number(p_policy, 'max_delay'),
                   df_engine.policy_number(p_policy, 'initial_delay')
                   * df_engine.policy_number(p_policy, 'backoff') ^ least(p_attempt - 1, 60));
  return df_engine.clock() + interval '1 s' * greatest(
    v_limit * random()::numeric,
    case when p_after > 0 then least(p_after, df_engine.setting_number('http_retry_after_max')) end, 0);
end
$$;

-- Records a failed attempt of the step at which a thread stands and sets the timer for the next; false when it is not to be tried again.
create or replace function df_engine.retry_step(
  p_thread df_engine.thread, p_node df_engine.graph_nodes, p_error text, p_code text, p_retryable boolean, p_after numeric,
  p_started timestamptz
) returns boolean
language plpgsql as $$
declare
  v_attempt int;
  v_due timestamptz;
begin
  if not p_retryable then
    return false;
  end if;
  v_attempt := 1 + coalesce((
    select o.attempts from df_engine.outcomes o
    where o.instance = (p_thread).instance and o.scope = (p_thread).scope and o.node = (p_node).node
      and o.state = 'r' and o.generations is not distinct from (p_thread).generations), 0);
  v_due := df_engine.retry_due((p_node).retry, v_attempt, p_after);
  if v_due is null then
    return false;
  end if;
  insert into df_engine.outcomes as o (instance, scope, node, generations, state, events, started_at, ended_at, error)
  values ((p_thread).instance, (p_thread).scope, (p_node).node, (p_thread).generations, 'r', 0, p_started, v_due, p_error)
  on conflict (instance, scope, node) do update
    set generations = excluded.generations, state = excluded.state, ended_at = excluded.ended_at, value = excluded.value,
        columns = excluded.columns, types = excluded.types, error = excluded.error, failure = excluded.failure, last_item = excluded.last_item,
        attempts = case when o.state = 'r' and o.generations is not distinct from excluded.generations then o.attempts + 1 else 1 end,
        started_at = case when o.state = 'r' and o.generations is not distinct from excluded.generations
                          then o.started_at else excluded.started_at end,
        events = excluded.events + case when o.generations[1] is not distinct from excluded.generations[1] then o.events else 0 end;
  delete from df_engine.attempts a  -- of earlier generations, and of earlier checks: history does not grow with a loop or a wait
  where a.instance = (p_thread).instance and a.node = (p_node).node and a.scope = (p_thread).scope
    and (v_attempt = 1 and a.kept is null or a.generations is distinct from (p_thread).generations);
  insert into df_engine.attempts (instance, scope, node, generations, attempt, failed_at, sqlstate, error)
  values ((p_thread).instance, (p_thread).scope, (p_node).node, (p_thread).generations, v_attempt, df_engine.clock(), p_code, p_error);
  perform df_engine.note_running((p_thread).instance);
  perform df_engine.set_timer(p_thread, 'retry', v_due);
  return true;
end
$$;

-- Constructs: what a JOIN, a RACE, an ANY and a TIMEOUT do when a part of them has ended. Each function gets the thread that arrives, the construct,
-- the node that it arrives from and how that ended, and answers with the event that follows: the construct's own ending, a node to be
-- entered, or none, because others are waited for.

do $type$
begin
  if to_regtype('df_engine.event') is null then
    create type df_engine.event as (thread df_engine.thread, ending df_engine.ending, turned boolean);
  end if;
end
$type$;

-- A construct ends: recorded, and its thread is where it was when it opened the construct.
create or replace function df_engine.close_construct(
  p_thread df_engine.thread, p_construct df_engine.graph_nodes, p_activation df_engine.activations, p_ending df_engine.ending
) returns df_engine.event
language plpgsql as $$
declare
  v_event df_engine.event;
begin
  v_event.thread := row((p_thread).instance, (p_activation).scope, (p_construct).node,
                        df_engine.at_level((p_thread).generations, (p_construct).levels),
                        (p_activation).activation, (p_activation).races)::df_engine.thread;
  v_event.ending := p_ending;
  v_event.ending.started_at := (p_activation).since;
  perform df_engine.put_outcome(v_event.thread, p_construct, v_event.ending);
  return v_event;
end
$$;

-- A branch of a JOIN has ended. The last one decides: the first break or failure in branch order, else the array of all values.
create or replace function df_engine.end_join_branch(p_thread df_engine.thread, p_join df_engine.graph_nodes) returns df_engine.event
language plpgsql as $$
declare
  v_activation df_engine.activations;
  v_ending df_engine.ending;
  v_first record;
begin
  update df_engine.activations a set open = a.open - 1 where a.id = (p_thread).activation and a.instance = (p_thread).instance
  returning * into v_activation;
  if v_activation.open > 0 then
    return null;
  end if;
  delete from df_engine.activations a where a.id = v_activation.id;
  with ends as materialized (    select g.branch, g.name_scopes[1] as top, o.state, o.value, o.error, o.failure
    from df_engine.instances i
    join df_engine.graph_nodes g on g.graph = i.graph and g.node > (p_join).node and g.node <= (p_join).last
      and g.up = (p_join).node
    join df_engine.outcomes o on o.instance = i.instance and o.scope = (p_thread).scope and o.node = g.node
    where i.instance = (p_thread).instance
      and (o.state in ('f', 'x') and g.catch is null or o.state = 'b' or o.state = 'c' and g.after = 'b')
      and o.generations[:(p_join).levels + 1] = (coalesce((p_thread).generations, '{1}'))[:(p_join).levels + 1]
  ), decider as (
    select e.* from ends e where e.state <> 'c' order by e.branch limit 1
  )
  select d.branch, d.state, d.value, d.error, d.failure,
         (select array_agg(e.top) from ends e where e.branch <= coalesce(d.branch, e.branch) and (e.branch <> d.branch or d.state = 'b') is not false) as tops,
         case when d.branch is null and n.bytes <= n.allowed then (select json_agg(e.value order by e.branch) from ends e) end as value_list,
         n.bytes, n.allowed
  into v_first
  from (select (select sum(octet_length(e.value::pg_catalog.text)) from ends e) as bytes,
               df_engine.setting('max_result_bytes')::bigint as allowed) n
  left join decider d on true;
  if v_first.state in ('f', 'x') then
    v_ending.state := v_first.state;
    v_ending.error := format('JOIN branch %s failed: %s', v_first.branch, v_first.error);
    v_ending.failure := v_first.failure;
  elsif v_first.branch is null and v_first.bytes > v_first.allowed then
    v_ending.state := 'f';
    v_ending.failure := '{"sqlstate": "54000"}';
    v_ending.error := format('JOIN: the results of its branches have %s bytes, and max_result_bytes allows %s', v_first.bytes, v_first.allowed);
  else
    v_ending.state := coalesce(v_first.state, 'c');
    v_ending.value := coalesce(v_first.value, v_first.value_list);
  end if;
  if v_ending.error is null or not df_engine.ends_run(p_join, v_ending) then
    perform df_engine.merge_names(p_thread, p_join, v_first.tops);
  end if;
  return df_engine.close_construct(p_thread, p_join, v_activation, v_ending);
end
$$;

-- How an error names a branch of a RACE or ANY.
create or replace function df_engine.branch_name(p_branch int) returns text
language sql immutable as $$
  select case p_branch when 1 then 'left branch' when 2 then 'right branch' else 'branch ' || p_branch end
$$;

-- A branch of a RACE, of an ANY or the body of a TIMEOUT has ended, and so decided it, unless it is one of an ANY that has failed while
-- others have not: the caller holds the lock. p_queue is the row of the thread that arrives.
create or replace function df_engine.end_race_branch(
  p_thread df_engine.thread, p_queue bigint, p_race df_engine.graph_nodes, p_node df_engine.graph_nodes, p_ending df_engine.ending
) returns df_engine.event
language plpgsql as $$
declare
  v_activation df_engine.activations;
  v_ending df_engine.ending := p_ending;
  v_winner constant int := (p_node).name_scopes[1];
  v_keep boolean := false;
begin
  if (p_race).kind = 'ANY' and v_ending.error is not null then
    update df_engine.activations a set open = a.open - 1 where a.id = (p_thread).activation and a.instance = (p_thread).instance and a.open > 1;
    if found then
      return null;
    end if;
  end if;
  delete from df_engine.activations a where a.id = (p_thread).activation and a.instance = (p_thread).instance
  returning * into v_activation;
  if not found then
    raise exception 'a thread of instance % has lost its race', (p_thread).instance using errcode = 'DF001';
  end if;
  if v_ending.error is not null then
    v_keep := df_engine.ends_run(p_race, v_ending);
  end if;
  if (p_race).kind = 'TIMEOUT' then
    delete from df_engine.timers t where t.id = v_activation.id;
  else
    perform df_engine.withdraw((p_thread).instance, (p_thread).scope, (p_race).node + 1, (p_race).last, p_queue, '{}', v_keep);
    perform df_engine.lose_loops(p_thread, p_race, v_winner);
    perform df_engine.wake('x', null);
  end if;
  if not v_keep then
    if (p_race).kind = 'ANY' then
      perform df_engine.forget_failed_maps(p_thread, p_race);
    end if;
    perform df_engine.merge_names(p_thread, p_race, case when v_ending.error is not null then '{}' else array[v_winner] end);
  end if;
  if v_ending.error is not null and (p_race).kind = 'RACE' then
    v_ending.error := format('RACE %s failed: %s', df_engine.branch_name((p_node).branch), v_ending.error);
  elsif v_ending.error is not null and (p_race).kind = 'ANY' then
    select string_agg(format('ANY %s failed: %s', df_engine.branch_name(e.branch), e.error), '; ' order by e.branch),
           (array_agg(e.failure order by e.branch))[1], max(e.state::pg_catalog.text)
    into v_ending.error, v_ending.failure, v_ending.state
    from (    select g.branch, g.name_scopes[1] as top, o.state, o.value, o.error, o.failure
    from df_engine.instances i
    join df_engine.graph_nodes g on g.graph = i.graph and g.node > (p_race).node and g.node <= (p_race).last
      and g.up = (p_race).node
    join df_engine.outcomes o on o.instance = i.instance and o.scope = (p_thread).scope and o.node = g.node
    where i.instance = (p_thread).instance
      and (o.state in ('f', 'x') and g.catch is null or o.state = 'b' or o.state = 'c' and g.after = 'b')
      and o.generations[:(p_race).levels + 1] = (coalesce((p_thread).generations, '{1}'))[:(p_race).levels + 1]) e;
  end if;
  return df_engine.close_construct(p_thread, p_race, v_activation, v_ending);
end
$$;

-- Branches that are LOOPs and have not ended when a race is decided: they have failed, and say which race it was.
create or replace function df_engine.lose_loops(p_thread df_engine.thread, p_race df_engine.graph_nodes, p_winner int) returns void
language plpgsql as $$
declare
  v_generations constant int[] := (coalesce((p_thread).generations, '{1}'))[:(p_race).levels + 1] || 1;
begin
  perform df_engine.put_outcome(
    row((p_thread).instance, (p_thread).scope, l.node, v_generations, null, null)::df_engine.thread, l,
    df_engine.failed(format('lost the race %s', df_engine.node_id(i.id, (p_race).node))))
  from df_engine.instances i
  join df_engine.graph_nodes l on l.graph = i.graph and l.parent = (p_race).node and l.kind = 'LOOP' and l.node <> p_winner
  where i.instance = (p_thread).instance and not exists (
    select from df_engine.outcomes o
    where o.instance = i.instance and o.scope = (p_thread).scope and o.node = l.node and o.state in ('f', 'x')
      and o.generations[:(p_race).levels + 1] = v_generations[:(p_race).levels + 1]);
end
$$;

-- Loops: what a LOOP does when its body or condition has ended: the next iteration, or its own end.

-- When the next iteration of a loop may begin: a loop for ever keeps its pace from start to start; after a failure there is a pause, which
-- is doubled for each further failure in a row, up to 5 minutes.
create or replace function df_engine.next_turn(p_forever boolean, p_begun timestamptz, p_failures int) returns timestamptz
language plpgsql as $$
declare
  v_pace constant numeric := df_engine.setting_number('loop_min_interval');
begin
  return greatest(
    df_engine.clock(),
    case when p_forever then p_begun + v_pace * interval '1 s' end,
    case when p_failures > 0 then
      df_engine.clock() + greatest(v_pace, least(v_pace * 2 ^ least(p_failures - 1, 30), 300)) * interval '1 s' end);
end
$$;

-- Keeps a failure after which a loop continues: the last 100 of each loop.
create or replace function df_engine.keep_failure(p_thread df_engine.thread, p_loop int, p_error text) returns void
language plpgsql as $$
declare
  v_attempt constant int := 1 + coalesce((
    select a.attempt from df_engine.attempts a
    where a.instance = (p_thread).instance and a.node = p_loop and a.scope = (p_thread).scope order by a.id desc limit 1), 0);
begin
  insert into df_engine.attempts (instance, scope, node, generations, attempt, failed_at, error)
  values ((p_thread).instance, (p_thread).scope, p_loop, (p_thread).generations, v_attempt, df_engine.clock(), p_error);
  delete from df_engine.attempts a
  where a.instance = (p_thread).instance and a.node = p_loop and a.scope = (p_thread).scope and a.attempt <= v_attempt - 100;
end
$$;

-- The next iteration of a loop: at the back of the queue, or when its pace allows it. p_error: why the body has failed; NULL: it has not.
-- No thread: it waits.
create or replace function df_engine.next_iteration(p_thread df_engine.thread, p_loop df_engine.graph_nodes, p_error text default null)
returns df_engine.thread
language plpgsql as $$
declare
  t df_engine.thread := p_thread;
  a df_engine.activations;
  v_due timestamptz;
begin
  t.generations := (coalesce(t.generations, '{1}'))[1:(p_loop).levels + 1];
  t.generations[(p_loop).levels + 1] := t.generations[(p_loop).levels + 1] + 1;
  t.node := (p_loop).inside[1];
  if (p_loop).node > 1 and not (p_loop).forever and not (p_loop).continues then
    return t;
  end if;
  select * into a from df_engine.activations x where x.id = t.activation and x.instance = t.instance;
  a.failures := case when p_error is null then 0 else a.failures + 1 end;
  if p_error is not null then
    perform df_engine.keep_failure(p_thread, (p_loop).node, p_error);
  end if;
  if (p_loop).node = 1 then
    perform df_engine.next_execution(t.instance, t.generations[1], a.turned_at, p_error);
  end if;
  v_due := df_engine.next_turn((p_loop).forever, a.turned_at, a.failures);
  update df_engine.activations x set turned_at = v_due, failures = a.failures, error = p_error
  where x.id = t.activation and x.instance = t.instance;
  if v_due > df_engine.clock() then
    perform df_engine.set_timer(t, 'pace', v_due);
    t := null;
  end if;
  return t;
end
$$;

-- Closes an iteration of a root loop: it becomes history (the newest 10 000 are kept), and its names are forgotten. p_generation: of the
-- one that begins.
create or replace function df_engine.next_execution(
  p_instance bigint, p_generation int, p_started timestamptz, p_error text
) returns void
language plpgsql as $$
begin
  insert into df_engine.executions (instance, generation, events, started_at, finished_at, error)
  select p_instance, p_generation - 1, 1 + coalesce(sum(o.events), 0), p_started, df_engine.clock(), p_error
  from df_engine.outcomes o
  where o.instance = p_instance and coalesce(o.generations[1], 1) = p_generation - 1;
  delete from df_engine.executions e where e.instance = p_instance and e.generation = p_generation - 10001;
  delete from df_engine.bindings b where b.instance = p_instance;
  update df_engine.instances i set generation = p_generation where i.instance = p_instance;
end
$$;

-- A loop ends: with the value of a BREAK, with the failure of a part, or with the last value of its body.
create or replace function df_engine.end_loop(
  p_thread df_engine.thread, p_loop df_engine.graph_nodes, p_ending df_engine.ending
) returns df_engine.event
language plpgsql as $$
declare
  v_activation df_engine.activations;
  v_ending df_engine.ending := p_ending;
begin
  delete from df_engine.activations a where a.id = (p_thread).activation and a.instance = (p_thread).instance
  returning * into v_activation;
  if v_ending.state = 'b' then
    v_ending.state := 'c';
  elsif v_ending.state = 'c' then
    select o.value, o.columns, o.types into v_ending.value, v_ending.columns, v_ending.types
    from df_engine.outcomes o
    where o.instance = (p_thread).instance and o.scope = (p_thread).scope
      and o.node = coalesce((p_loop).valued, v_activation.body);
  end if;
  return df_engine.close_construct(p_thread, p_loop, v_activation, v_ending);
end
$$;

-- Failures: what follows when the time of a TIMEOUT or WAIT_FOR is over, and which CATCH a failure comes to.

-- The time of a TIMEOUT or WAIT_FOR is over, and its activation is locked: what is inside is stopped. A TIMEOUT goes on with its otherwise,
-- or fails; a WAIT_FOR has completed.
create or replace function df_engine.time_out(p_thread df_engine.thread, p_activation bigint, p_seconds numeric) returns void
language plpgsql as $$
declare
  i df_engine.instances;
  g df_engine.graph_nodes;
  t df_engine.thread := p_thread;
  v_activation df_engine.activations;
  v_ending df_engine.ending := df_engine.failed(format('timeout after %s s', trim_scale(p_seconds)), null, 'DF408');
  v_keep boolean;
begin
  select * into i from df_engine.instances x where x.instance = t.instance;
  select * into g from df_engine.graph_nodes n where n.graph = i.graph and n.node = t.node;
  v_keep := g.kind = 'TIMEOUT' and g.inside[2] is null and df_engine.ends_run(g, v_ending);
  delete from df_engine.activations a where a.id = p_activation returning * into v_activation;
  perform df_engine.withdraw(t.instance, t.scope, g.node + 1, b.last, null, '{}', v_keep)
  from df_engine.graph_nodes b where b.graph = i.graph and b.node = g.node + 1;
  perform df_engine.wake('x', null);
  if not v_keep then
    perform df_engine.merge_names(t, g, '{}');
  end if;
  if g.kind = 'WAIT_FOR' then
    v_ending := df_engine.wait_for_timed_out(t);
  elsif g.inside[2] is not null then
    v_ending.state := 'h';
  end if;
  v_ending.started_at := v_activation.since;
  perform df_engine.put_outcome(t, g, v_ending);
  if v_ending.state = 'h' then
    v_ending := null;
    t.node := g.inside[2];
  end if;
  perform df_engine.advance(i.id, i.graph, i.submitter, true, t, null, v_ending);
end
$$;

-- Whether a failure is one of those that a CATCH lists; without a list it is.
create or replace function df_engine.is_caught(p_errors jsonb, p_failure jsonb) returns boolean
language sql immutable as $$
  select p_errors is null or df_engine.error_listed(
    array(select jsonb_array_elements_text(p_errors)), p_failure ->> 'sqlstate', p_failure ->> 'class')
$$;

-- A failure that has come to p_catch, the innermost CATCH around: the thread that goes on at the first one that catches it, with what its
-- body is undone by and then its handler, where $error is bound. Those that do not have failed. NULL: none does.
create or replace function df_engine.catch_failure(
  p_graph bigint, p_thread df_engine.thread, p_catch int, p_ending df_engine.ending
) returns df_engine.thread
language plpgsql as $$
declare
  c df_engine.graph_nodes;
  t df_engine.thread := p_thread;
  v_ending df_engine.ending := p_ending;
  v_next int := p_catch;
begin
  while v_next is not null loop
    select * into c from df_engine.graph_nodes n where n.graph = p_graph and n.node = v_next;
    if df_engine.is_caught(c.query::pg_catalog.jsonb -> 'errors', v_ending.failure) then
      v_ending.state := 'h';
      perform df_engine.put_outcome(p_thread, c, v_ending);
      insert into df_engine.bindings (instance, scope, name_scope, name, value, built_in)
      select (p_thread).instance, (p_thread).scope, h.node, 'error', df_engine.shown_failure(p_graph, p_thread, v_ending), true
      from df_engine.graph_nodes h where h.graph = p_graph and h.parent = c.node and h.place = 2 and h.node > c.node
      on conflict (instance, scope, name_scope, name) do update set value = excluded.value;
      t.node := c.node;
      return df_engine.after_undoing(p_graph, t);
    end if;
    perform df_engine.put_outcome(p_thread, c, v_ending);
    v_next := c.catch;
  end loop;
  return null;
end
$$;

-- What $error stands for.
create or replace function df_engine.shown_failure(p_graph bigint, p_thread df_engine.thread, p_ending df_engine.ending) returns json
language plpgsql stable as $$
declare
  f constant jsonb := (p_ending).failure;
begin
  return (
    select json_build_object(
      'message', coalesce(f ->> 'message', df_engine.cause((p_ending).error)),
      'sqlstate', coalesce(f ->> 'sqlstate', case when f ->> 'class' in ('connection', 'timeout') then 'DF404' else 'DF000' end),
      'detail', f -> 'detail', 'hint', f -> 'hint', 'node_id', df_engine.node_id(i.id, n.node), 'query', n.query,
      'attempts', (select o.attempts from df_engine.outcomes o
                   where o.instance = i.instance and o.scope = (p_thread).scope and o.node = n.node),
      'status', substring(f ->> 'class' from '^http:([0-9]+)$')::int)
    from df_engine.instances i
    join df_engine.graph_nodes n on n.graph = p_graph and n.node = (f ->> 'node')::int
    where i.instance = (p_thread).instance);
end
$$;

-- Undoing: what the compensations of UNDOs are registered by and how they run, one after the other, the one whose step completed last first. A
-- failure that a CATCH catches is followed by those of its body and then its handler; one that ends the run, or a cancel that asks for
-- it, by all that are left. A compensation is a thread without races and without an open construct around it. What it ends is
-- recorded in the transaction that begins the next one.
--
-- What is done here is little, whoever does it: a caller without a claim, who acts for every role, copies no names and begins no compensation.
-- It leaves a row in the queue at the UNDO, and a session of the submitter comes to that (enter_undo).
--
-- A run with an UNDO is in a race from its beginning: against its being undone. Whoever undoes it takes away the row of that race, and all that was
-- under way has lost. Lock order: that row, the instance, the rows of compensations.

-- Opens that race for a run that begins.
create or replace function df_engine.open_undoable(p_instance bigint) returns bigint
language sql as $$
  insert into df_engine.activations (id, instance, node, since)
  values (nextval('df_engine.thread_ids'), p_instance, 0, df_engine.clock())
  returning id
$$;

-- Registers the compensations of the UNDOs whose step ends with p_node; p_names: with the values of the names that they refer to. Answers
-- whether they have them.
create or replace function df_engine.register_compensations(p_thread df_engine.thread, p_node df_engine.graph_nodes, p_names boolean) returns boolean
language plpgsql as $$
declare
  v_named boolean;
begin
  with registered as (
    insert into df_engine.compensations as c (instance, undo, place, state, named)
    select (p_thread).instance, u.undo, nextval('df_engine.thread_ids'), 'r', p_names or coalesce(cardinality(u.refs) = 0, false)
    from (select x.undo, g.refs
          from unnest((p_node).undoes) with ordinality x(undo, depth)
          join df_engine.graph_nodes g on g.graph = (p_node).graph and g.node = x.undo
          order by x.depth) u
    on conflict (instance, undo) do update set named = excluded.named
    returning c.named
  )
  select bool_and(r.named) into v_named from registered r;
  if p_names then
    perform df_engine.keep_names((p_thread).instance, (p_node).graph, (p_node).undoes);
  end if;
  return v_named;
end
$$;

-- Keeps for compensations what the names that they refer to stand for where their step has ended.
create or replace function df_engine.keep_names(p_instance bigint, p_graph bigint, p_undoes int[]) returns void
language plpgsql as $$
begin
  insert into df_engine.bindings (instance, scope, name_scope, name, value, columns, types, built_in)
  select distinct on (u.node, b.name) b.instance, b.scope, -u.node, b.name, b.value, b.columns, b.types, b.built_in
  from df_engine.graph_nodes u
  join df_engine.bindings b on b.instance = p_instance and b.scope = 0 and b.name_scope = any (u.name_scopes)
    and (u.vars or b.name = any (u.refs))
  where u.graph = p_graph and u.node = any (p_undoes)
  order by u.node, b.name, array_position(u.name_scopes, b.name_scope);
end
$$;

-- Begins the compensation that was registered last, of those in the body of the CATCH at which p_thread is; at no node: of the run. What is
-- at p_thread waits for it. The thread stands at its UNDO; no node: there is none.
create or replace function df_engine.begin_compensation(p_thread df_engine.thread) returns df_engine.thread
language plpgsql as $$
declare
  t df_engine.thread;
begin
  update df_engine.compensations c
  set state = 'o', node = (p_thread).node, generations = (p_thread).generations, activation = (p_thread).activation, races = (p_thread).races
  from (
    select x.undo, u.levels
    from df_engine.instances i
    join df_engine.compensations x on x.instance = i.instance and x.state = 'r'
    join df_engine.graph_nodes u on u.graph = i.graph and u.node = x.undo
    left join df_engine.graph_nodes h on h.graph = i.graph and h.node = (p_thread).node
    where i.instance = (p_thread).instance and (h.node is null or x.undo between h.node and h.last)
    order by x.place desc limit 1) n
  where c.instance = (p_thread).instance and c.undo = n.undo
  returning n.undo, case when n.levels > 0 then array_fill(1, array[n.levels + 1]) end into t.node, t.generations;
  t.instance := (p_thread).instance;
  t.scope := 0;
  return t;
end
$$;

-- Where a thread goes on that has come to a CATCH with a failure that it catches: to a compensation of its body, else to its handler.
create or replace function df_engine.after_undoing(p_graph bigint, p_thread df_engine.thread) returns df_engine.thread
language plpgsql as $$
declare
  t df_engine.thread := p_thread;
begin
  if t.races is not null then
    t := df_engine.begin_compensation(p_thread);
    if t.node is not null then
      return t;
    end if;
  end if;
  t := p_thread;
  t.node := (select n.inside[2] from df_engine.graph_nodes n where n.graph = p_graph and n.node = (p_thread).node);
  return t;
end
$$;

-- A run with an UNDO ends, at p_thread: at once, or once its compensations have ended.
create or replace function df_engine.end_undoable(p_thread df_engine.thread, p_error text) returns df_engine.event
language plpgsql as $$
declare
  t df_engine.thread;
begin
  delete from df_engine.activations a where a.id = (p_thread).races[1] and a.instance = (p_thread).instance;
  if p_error is not null then
    t := df_engine.begin_compensation(row((p_thread).instance, 0, null, null, null, null)::df_engine.thread);
    if t.node is not null then
      update df_engine.instances i
      set status = 'running', undo_as = 'failed', undo_error = p_error, result = (p_thread).node, updated_at = df_engine.clock()
      where i.instance = t.instance;
      return row(t, null::df_engine.ending, false)::df_engine.event;
    end if;
  end if;
  perform df_engine.end_run((p_thread).instance, case when p_error is null then 'completed' else 'failed' end, p_error, (p_thread).node);
  return null;
end
$$;

-- A compensation has ended. What follows is the next one, and then what it was for.
create or replace function df_engine.end_compensation(
  p_graph bigint, p_thread df_engine.thread, p_undo df_engine.graph_nodes, p_ending df_engine.ending
) returns df_engine.event
language plpgsql as $$
declare
  c df_engine.compensations;
begin
  -- Two that a cancel has found open may end at the same time, and one of them goes on.
  perform from df_engine.compensations x where x.instance = (p_thread).instance and x.state = 'o' order by x.undo for update;
  update df_engine.compensations x set state = case when (p_ending).error is null then 'c' else 'f' end
  where x.instance = (p_thread).instance and x.undo = (p_undo).node
  returning * into c;
  delete from df_engine.bindings b
  where b.instance = c.instance and b.scope = 0 and b.name_scope = -c.undo;
  return row(
    case when c.node is null then df_engine.undo_run(c.instance)
         else df_engine.after_undoing(p_graph, row(c.instance, 0, c.node, c.generations, c.activation, c.races)::df_engine.thread) end,
    null::df_engine.ending, false)::df_engine.event;
end
$$;

-- Ends a run whose compensations have ended, as what they were for would have ended it.
create or replace function df_engine.end_undone(p_instance bigint) returns void
language plpgsql as $$
begin
  perform df_engine.end_run(i.instance, i.undo_as, i.undo_error, i.result) from df_engine.instances i where i.instance = p_instance;
end
$$;

-- The next compensation of a run that is undone. No node: there is none, and the run has ended, or others that are open go on.
create or replace function df_engine.undo_run(p_instance bigint) returns df_engine.thread
language plpgsql as $$
declare
  t df_engine.thread;
begin
  if exists (select from df_engine.compensations c where c.instance = p_instance and c.state = 'o') then
    return null;
  end if;
  t := df_engine.begin_compensation(row(p_instance, 0, null, null, null, null)::df_engine.thread);
  if t.node is null then
    perform df_engine.end_undone(p_instance);
    return null;
  end if;
  return t;
end
$$;

-- A thread comes to an UNDO. One of the run's own: its step has ended, and the names are still to be kept. One of a compensation: it begins.
-- Else the run is to be undone.
create or replace function df_engine.enter_undo(
  p_thread df_engine.thread, p_undo df_engine.graph_nodes, out thread df_engine.thread, out ending df_engine.ending
)
language plpgsql as $$
declare
  v_named boolean;
  v_ended record;
begin
  thread := p_thread;
  if thread.races is not null then
    select n.node, o.value, o.columns, o.types, o.started_at into strict v_ended
    from df_engine.graph_nodes n
    join df_engine.outcomes o on o.instance = thread.instance and o.scope = 0 and o.node = n.node and o.state = 'c'
    where n.graph = (p_undo).graph and n.node between (p_undo).node + 1 and (p_undo).last and n.undoes[1] = (p_undo).node;
    thread.node := v_ended.node;
    ending := df_engine.completed(v_ended.value, v_ended.columns, v_ended.types, v_ended.started_at);
    return;
  end if;
  select c.named into v_named from df_engine.compensations c
  where c.instance = thread.instance and c.undo = (p_undo).node and c.state = 'o';
  if not found then
    thread := df_engine.undo_run(thread.instance);
    return;
  elsif not v_named then
    perform df_engine.keep_names(thread.instance, (p_undo).graph, array[(p_undo).node]);
  end if;
  thread.node := (p_undo).inside[2];
end
$$;

-- Undoes a run from outside of it: what was open of it has been withdrawn, but for compensations. A session of the submitter begins with the
-- first one, unless some are open and go on. False: there is nothing to undo.
create or replace function df_engine.undo_from_outside(p_instance bigint, p_status text, p_error text) returns boolean
language plpgsql as $$
declare
  v_found boolean;
begin
  delete from df_engine.activations a where a.instance = p_instance and a.node = 0;
  perform df_engine.take_back(i.instance) from df_engine.instances i where i.instance = p_instance and i.paused;
  update df_engine.instances i
  set undo_as = coalesce(i.undo_as, p_status), undo_error = case when i.undo_as is null then p_error else i.undo_error end
  where i.instance = p_instance;
  update df_engine.compensations c set node = null, generations = null, activation = null, races = null
  where c.instance = p_instance and c.state = 'o';
  v_found := found;
  if not v_found then
    insert into df_engine.queue (id, submitter, instance, node, generations, picked)
    select df_engine.queue_place(100 + coalesce(i.priority, 0)), i.submitter, i.instance, u.node, case when u.levels > 0 then array_fill(1, array[u.levels + 1]) end, true
    from df_engine.instances i
    join df_engine.compensations c on c.instance = i.instance and c.state = 'r'
    join df_engine.graph_nodes u on u.graph = i.graph and u.node = c.undo
    where i.instance = p_instance
    order by c.place desc limit 1;
    v_found := found;
    perform df_engine.wake('r ' || i.submitter, null) from df_engine.instances i where i.instance = p_instance and v_found;
  end if;
  update df_engine.instances i
  set status = 'running', error = null, finished_at = null, updated_at = df_engine.clock()
  where i.instance = p_instance and v_found;
  return v_found;
end
$$;

-- A step that has cancelled its own run so that it is undone has completed, and with it what p_node ends: that is undone, too.
create or replace function df_engine.undo_own_step(
  p_thread df_engine.thread, p_node df_engine.graph_nodes, p_value json, p_columns text[], p_types text[]
) returns void
language plpgsql as $$
declare
  i df_engine.instances;
begin
  select * into i from df_engine.instances x where x.instance = (p_thread).instance and x.undo_as is not null;
  if found then
    if (p_node).binds is not null then
      perform df_engine.bind(p_thread, (p_node).name_scopes[1], (p_node).binds, p_value, p_columns, p_types);
    end if;
    perform df_engine.register_compensations(p_thread, p_node, true);
    if i.status in ('completed', 'failed', 'cancelled') then
      delete from df_engine.timers t where t.id = i.call and t.kind = 'child';  -- whoever has called it hears of its end then
      perform df_engine.undo_from_outside(i.instance, i.undo_as, i.undo_error);
    end if;
  end if;
end
$$;

-- Withdraws what is open of a run, but for compensations.
create or replace function df_engine.withdraw_but_compensations(p_instance bigint) returns void
language plpgsql as $$
declare
  v_open record;
  v_from int := 1;
begin
  for v_open in
    select u.node as undo, h.node as first, u.last
    from df_engine.instances i
    join df_engine.compensations c on c.instance = i.instance and c.state = 'o'
    join df_engine.graph_nodes u on u.graph = i.graph and u.node = c.undo
    join df_engine.graph_nodes h on h.graph = u.graph and h.parent = u.node and h.place = 2 and h.node > u.node
    where i.instance = p_instance
    order by h.node
  loop
    perform df_engine.withdraw(p_instance, 0, v_from, v_open.undo - 1, null);
    perform df_engine.withdraw(p_instance, 0, v_open.undo + 1, v_open.first - 1, null);
    v_from := v_open.last + 1;
  end loop;
  perform df_engine.withdraw(p_instance, 0, v_from, 2147483647, null);
end
$$;

-- Locks all that is to be locked of a run that is failed from outside of it. False: not now.
create or replace function df_engine.try_lock_whole_run(p_instance bigint) returns boolean
language plpgsql as $$
begin
  perform from df_engine.activations a where a.instance = p_instance and a.node = 0 for update skip locked;
  if not found and exists (select from df_engine.activations a where a.instance = p_instance and a.node = 0) then
    return false;  -- a step of it is just ending
  end if;
  perform from df_engine.instances i where i.instance = p_instance for update skip locked;
  return found;
end
$$;

-- MAP: a body that runs once for each row of its items. An item is no row anywhere: it is a scope, the key of the outcomes and names of
-- what runs for it, made of the map's activation and the item's number, which is its generation as well. A map has as many threads as run
-- at the same time. Each takes a few items, one after the other, without writing to the map's row, on which threads would wait for each
-- other's commits; then it takes the next few, if there are any.

-- The scope of an item of an activation.
create or replace function df_engine.item_scope(p_activation bigint, p_item int) returns bigint
language sql immutable as $$ select p_activation << 23 | p_item $$;

-- The item of a scope.
create or replace function df_engine.scope_item(p_scope bigint) returns int
language sql immutable as $$ select (p_scope & 8388607)::int $$;

-- For each of the name scopes of a thread in an item, from the inside out, the scope that it is of: a name that is
-- bound outside of the body of a map is kept in the scope around that map.
create or replace function df_engine.scopes_of(p_scope bigint, p_name_scopes int[]) returns bigint[]
language plpgsql stable as $$
declare
  v_scopes bigint[];
  v_scope bigint := p_scope;
  v_map df_engine.activations;
begin
  for i in 1 .. cardinality(p_name_scopes) loop
    while v_scope > 0 loop
      if v_map.id is distinct from v_scope >> 23 then
        select * into v_map from df_engine.activations a where a.id = v_scope >> 23;
      end if;
      exit when p_name_scopes[i] > v_map.node;
      v_scope := v_map.scope;
    end loop;
    v_scopes[i] := v_scope;
  end loop;
  return v_scopes;
end
$$;

-- What $item and $item_no stand for in a scope; NULL outside of a map.
create or replace function df_engine.item_entry(p_instance bigint, p_scope bigint, p_name text) returns jsonb
language plpgsql stable as $$
declare
  v_item constant int := df_engine.scope_item(p_scope);
begin
  if p_scope = 0 then
    return null;
  elsif p_name = 'item_no' then
    return jsonb_build_object('value', v_item, 'built_in', true);
  end if;
  return (
    select jsonb_build_object('value', m.items[1 + (v_item - 1) % 50], 'columns', to_jsonb(m.columns),
                              'types', to_jsonb(m.types), 'built_in', true)
    from df_engine.map_items m
    where m.instance = p_instance and m.activation = p_scope >> 23 and m.part = (v_item - 1) / 50);
end
$$;

-- How a map runs, with the defaults of what is not said.
create or replace function df_engine.map_config(p_query text) returns jsonb
language sql immutable as $$
  select '{"parallel": 10, "on_error": "fail"}'::pg_catalog.jsonb || coalesce(p_query, '{}')::pg_catalog.jsonb
$$;

-- The rows of a map: those of its items step, or of the name that it says.
create or replace function df_engine.map_rows(
  p_thread df_engine.thread, p_map df_engine.graph_nodes, p_config jsonb, out rows json, out columns text[], out types text[]
)
language plpgsql stable as $$
declare
  v_name constant text := substring(btrim(p_config ->> 'items') from '^\$(.*)\.\*$');
  v_entry jsonb;
begin
  if v_name is null then
    select o.value -> 'rows', df_engine.columns_of(o.value, o.columns), o.types into rows, columns, types
    from df_engine.instances i
    join df_engine.graph_nodes c on c.graph = i.graph and c.parent = (p_map).node and c.place = 0 and c.node = (p_map).node + 1
    join df_engine.outcomes o on o.instance = i.instance and o.scope = (p_thread).scope and o.node = c.node
    where i.instance = (p_thread).instance;
    return;
  end if;
  v_entry := df_engine.names((p_thread).instance, (p_thread).scope, (p_map).name_scopes, array[v_name], '{}') -> v_name;
  if v_entry is null then
    perform df_engine.refuse_reference(p_config ->> 'items', df_engine.unknown_name(v_name, df_engine.known_names((p_thread).instance, (p_thread).scope)));
  elsif not df_engine.is_row_set(v_entry) then
    perform df_engine.refuse_reference(p_config ->> 'items', format('the value of "%s" is not a row set', v_name));
  end if;
  rows := v_entry #> '{value,rows}';
  columns := df_engine.entry_columns(v_entry);
  types := case when jsonb_typeof(v_entry -> 'types') = 'array' then array(select jsonb_array_elements_text(v_entry -> 'types')) end;
end
$$;

-- A thread comes to a MAP: it is to be opened, or the thread has come from its last item, and it is to end.
create or replace function df_engine.enter_map(
  p_thread df_engine.thread, p_map df_engine.graph_nodes, p_queue bigint,
  out thread df_engine.thread, out ending df_engine.ending, out others df_engine.thread[]
)
language plpgsql as $$
declare
  v_entered record;
  a df_engine.activations;
begin
  select * into a from df_engine.activations x
  where x.id = (p_thread).activation and x.instance = (p_thread).instance and x.scope = (p_thread).scope and x.node = (p_map).node;
  if found then
    v_entered := df_engine.end_map(p_thread, p_queue, p_map, a);
    thread := v_entered.thread;
    ending := v_entered.ending;
    return;
  end if;
  v_entered := df_engine.open_map(p_thread, p_map);
  thread := v_entered.thread;
  ending := v_entered.ending;
  others := v_entered.others;
end
$$;

-- Opens a map: its first threads, or, without rows, how it has ended.
create or replace function df_engine.open_map(
  p_thread df_engine.thread, p_map df_engine.graph_nodes,
  out thread df_engine.thread, out ending df_engine.ending, out others df_engine.thread[]
)
language plpgsql as $$
declare
  v_config constant jsonb := df_engine.map_config((p_map).query);
  v_id constant bigint := nextval('df_engine.thread_ids');
  v_given record;
  a df_engine.activations;
begin
  thread := p_thread;
  v_given := df_engine.map_rows(p_thread, p_map, v_config);
  a.items := json_array_length(v_given.rows);
  perform df_engine.check_size('a map, in items,', a.items, 8388607);
  if a.items = 0 then
    ending := df_engine.completed(df_engine.map_value(v_config, '[]', 0, 0));
    perform df_engine.put_outcome(thread, p_map, ending);
    return;
  end if;
  a.stride := greatest(1, least(16, a.items / (8 * (v_config ->> 'parallel')::int)));
  a.open := least((v_config ->> 'parallel')::int, (a.items + a.stride - 1) / a.stride, df_engine.room_for_threads(thread));
  insert into df_engine.activations (id, instance, scope, node, generations, activation, races, open, items, stride, next_item, done, since)
  values (v_id, thread.instance, thread.scope, (p_map).node, thread.generations, thread.activation, thread.races, a.open,
          a.items, a.stride, a.open * a.stride + 1, 0, df_engine.clock());
  insert into df_engine.map_items (instance, activation, part, items, columns, types)
  select thread.instance, v_id, (r.place - 1) / 50, array_agg(r.item order by r.place), v_given.columns, v_given.types
  from json_array_elements(v_given.rows) with ordinality r(item, place) group by 3;
  perform df_engine.note_running(thread.instance);
  thread.activation := v_id;
  if v_config ->> 'on_error' = 'stop' then
    thread.races := thread.races || v_id;
  end if;
  others := array(
    select df_engine.item_thread(thread, p_map, 1 + s * a.stride) from generate_series(1, a.open - 1) s order by s);
  thread := df_engine.item_thread(thread, p_map, 1);
exception
  when sqlstate 'DF010' or sqlstate 'DF013' or program_limit_exceeded then
    thread := p_thread;
    ending := df_engine.failed('MAP: ' || sqlerrm, null, sqlstate);
    perform df_engine.put_outcome(thread, p_map, ending);
end
$$;

-- How many threads a map may have: those of maps in maps are not multiplied without end.
create or replace function df_engine.room_for_threads(p_thread df_engine.thread) returns int
language plpgsql stable as $$
begin
  return case when (p_thread).scope = 0 then 10000 else greatest(1, 10000 - (
    select sum(a.open)::int from df_engine.activations a where a.instance = (p_thread).instance and a.items is not null)) end;
end
$$;

-- A thread of a map as it begins an item.
create or replace function df_engine.item_thread(p_thread df_engine.thread, p_map df_engine.graph_nodes, p_item int) returns df_engine.thread
language plpgsql stable as $$
declare
  t df_engine.thread := p_thread;
begin
  t.scope := df_engine.item_scope(t.activation, p_item);
  t.generations := (coalesce(t.generations, '{1}'))[:(p_map).levels + 1] || p_item;
  t.node := (p_map).inside[cardinality((p_map).inside)];
  return t;
end
$$;

-- An item has ended: the thread goes on with the next one of those that it has taken, takes more, or is at its end. After a failure, or a
-- BREAK, no item begins any more, unless failures are collected. No thread: nothing, for now. A map may have millions of values: a caller
-- without a claim, who acts for every role, leaves its end to a session of the submitter, which then comes to the MAP itself.
create or replace function df_engine.end_item(
  p_thread df_engine.thread, p_queue bigint, p_map df_engine.graph_nodes, p_ending df_engine.ending
) returns df_engine.event
language plpgsql as $$
declare
  v_item constant int := df_engine.scope_item((p_thread).scope);
  v_on_error constant text := df_engine.map_config((p_map).query) ->> 'on_error';
  v_failed constant boolean := (p_ending).error is not null;
  v_halts constant boolean := (p_ending).state = 'b' or v_failed and v_on_error <> 'collect';
  v_stops constant boolean := v_halts and v_on_error = 'stop';
  v_next int;
  a df_engine.activations;
begin
  if v_failed or v_halts then
    update df_engine.activations x set failures = x.failures + v_failed::int, halted = x.halted or v_halts
    where x.id = (p_thread).activation and x.instance = (p_thread).instance;
  end if;
  select * into a from df_engine.activations x where x.id = (p_thread).activation and x.instance = (p_thread).instance;
  if not found then
    raise exception 'an item of instance % has ended after its map', (p_thread).instance using errcode = 'DF001';
  elsif not v_stops and not a.halted and v_item % a.stride <> 0 and v_item < a.items then
    return row(df_engine.item_thread(p_thread, p_map, v_item + 1), null::df_engine.ending, false)::df_engine.event;
  elsif a.todo is not null then
    update df_engine.activations x set todo = nullif(y.todo[2:], '{}'), done = x.done + 1
    from (select z.id, z.todo from df_engine.activations z where z.id = a.id for update) y
    where x.id = y.id and not x.halted and y.todo is not null and not v_stops
    returning y.todo[1] into v_next;
    if found then
      return row(df_engine.item_thread(p_thread, p_map, v_next), null::df_engine.ending, true)::df_engine.event;
    end if;
  end if;
  update df_engine.activations x set next_item = x.next_item + x.stride, done = x.done + (v_item - 1) % x.stride + 1
  where x.id = a.id and not x.halted and x.next_item <= x.items and not v_stops
  returning x.next_item - x.stride into v_next;
  if found then
    return row(df_engine.item_thread(p_thread, p_map, v_next), null::df_engine.ending, true)::df_engine.event;
  end if;
  update df_engine.activations x set open = x.open - 1, done = x.done + (v_item - 1) % x.stride + 1
  where x.id = a.id and x.open > 1 and not v_stops;
  if found then
    return null;
  elsif p_queue is null then
    return row(row(a.instance, a.scope, a.node, a.generations, a.id, (p_thread).races), null::df_engine.ending, true)::df_engine.event;
  end if;
  select * into a from df_engine.activations x where x.id = a.id;
  return df_engine.end_map(p_thread, p_queue, p_map, a);
end
$$;

-- The value of a map whose items have the values or failures p_values.
create or replace function df_engine.map_value(p_config jsonb, p_values json, p_ok bigint, p_failed bigint) returns json
language sql immutable as $$
  select case when p_config -> 'collect_values' = 'false' then json_build_object('ok', p_ok, 'failed', p_failed) else p_values end
$$;

-- A map ends, because its last thread has or because a failure stops the others: with the first failure or BREAK in the order of items, else
-- with the values. What items have bound is forgotten, and in a loop what became of them, too.
create or replace function df_engine.end_map(
  p_thread df_engine.thread, p_queue bigint, p_map df_engine.graph_nodes, p_activation df_engine.activations
) returns df_engine.event
language plpgsql as $$
declare
  v_config constant jsonb := df_engine.map_config((p_map).query);
  v_collects constant boolean := v_config ->> 'on_error' = 'collect';
  v_limit constant bigint := df_engine.setting('max_result_bytes')::bigint;
  v_ending df_engine.ending;
  v_event df_engine.event;
  v_first record;
  v_keep boolean;
begin
  delete from df_engine.activations a where a.id = (p_activation).id;
  with ends as materialized (    select o.scope, o.state, o.value, o.error, o.failure
    from df_engine.graph_nodes g
    join df_engine.outcomes o on o.instance = (p_thread).instance and o.scope between (p_activation).id << 23 and (p_activation).id << 23 | 8388607 and o.node = g.node
    where g.graph = (p_map).graph and g.node > (p_map).node and g.node <= (p_map).last and g.up = (p_map).node and g.branch = 1
      and (o.state in ('f', 'x') and g.catch is null or o.state = 'b' or o.state = 'c' and g.after = 'b')
  ), decider as (
    select e.* from ends e where e.state = 'b' or e.state <> 'c' and not v_collects order by e.scope limit 1
  )
  select d.*, n.bytes, n.ok, n.failed into v_first
  from (select sum(octet_length(e.value::pg_catalog.text)) as bytes, count(*) filter (where e.state = 'c') as ok,
               count(*) filter (where e.state <> 'c') as failed from ends e) n
  left join decider d on true;
  if v_first.state in ('f', 'x') then
    v_ending := row(v_first.state, null, null, null, v_first.error, null, v_first.failure, null);
  elsif v_first.state = 'b' then
    v_ending := df_engine.broke(v_first.value);
  elsif v_first.bytes > v_limit and v_config -> 'collect_values' is distinct from 'false' then
    v_ending := df_engine.failed(format(
      E'MAP: the values of its items have %s bytes, and max_result_bytes allows %s\nHINT: Map a page of the rows at a time, or let items write to a table, with collect_values => false.',
      v_first.bytes, v_limit), null, '54000');
  else
    v_ending := df_engine.completed(df_engine.map_value(v_config, df_engine.item_values(p_thread, p_map, p_activation), v_first.ok, v_first.failed));
  end if;
  v_ending.last_item := df_engine.item_scope((p_activation).id, case
    when (p_activation).halted then (p_activation).next_item - (p_activation).stride else (p_activation).items end);
  v_keep := v_ending.error is not null and df_engine.ends_run(p_map, v_ending);
  if v_config ->> 'on_error' = 'stop' and (p_activation).halted then
    perform df_engine.withdraw((p_thread).instance, (p_activation).scope, (p_map).node, (p_map).last, p_queue, array[(p_activation).id], v_keep);
    perform df_engine.wake('x', null);
  end if;
  v_event := df_engine.close_construct(p_thread, p_map, p_activation, v_ending);
  if not v_keep then
    perform df_engine.forget_items((p_thread).instance, p_map, (p_activation).id);
  end if;
  return v_event;
end
$$;

-- The values of the items of a map, in their order; of one that collects failures, whether each is one.
create or replace function df_engine.item_values(
  p_thread df_engine.thread, p_map df_engine.graph_nodes, p_activation df_engine.activations
) returns json
language plpgsql stable as $$
declare
  v_config constant jsonb := df_engine.map_config((p_map).query);
begin
  if v_config -> 'collect_values' = 'false' then
    return null;
  elsif v_config ->> 'on_error' = 'collect' then
    return (
      select json_agg(case when e.state = 'c' then json_build_object('ok', true, 'value', e.value)
                           else json_build_object('ok', false, 'error', df_engine.shown_failure((p_map).graph,
                                row((p_thread).instance, e.scope, null, null, null, null),
                                row('f', null, null, null, e.error, null, e.failure, null)))
                      end order by e.scope)
      from (    select o.scope, o.state, o.value, o.error, o.failure
    from df_engine.graph_nodes g
    join df_engine.outcomes o on o.instance = (p_thread).instance and o.scope between (p_activation).id << 23 and (p_activation).id << 23 | 8388607 and o.node = g.node
    where g.graph = (p_map).graph and g.node > (p_map).node and g.node <= (p_map).last and g.up = (p_map).node and g.branch = 1
      and (o.state in ('f', 'x') and g.catch is null or o.state = 'b' or o.state = 'c' and g.after = 'b')) e);
  end if;
  return (select json_agg(e.value order by e.scope) from (    select o.scope, o.state, o.value, o.error, o.failure
    from df_engine.graph_nodes g
    join df_engine.outcomes o on o.instance = (p_thread).instance and o.scope between (p_activation).id << 23 and (p_activation).id << 23 | 8388607 and o.node = g.node
    where g.graph = (p_map).graph and g.node > (p_map).node and g.node <= (p_map).last and g.up = (p_map).node and g.branch = 1
      and (o.state in ('f', 'x') and g.catch is null or o.state = 'b' or o.state = 'c' and g.after = 'b')) e);
end
$$;

-- Forgets what a map has kept for its items.
create or replace function df_engine.forget_items(p_instance bigint, p_map df_engine.graph_nodes, p_activation bigint) returns void
language plpgsql as $$
begin
  delete from df_engine.map_items m where m.instance = p_instance and m.activation = p_activation;
  delete from df_engine.bindings b where b.instance = p_instance and b.scope between p_activation << 23 and p_activation << 23 | 8388607;
  if (p_map).in_loop then
    delete from df_engine.outcomes o where o.instance = p_instance and o.scope between p_activation << 23 and p_activation << 23 | 8388607;
    delete from df_engine.attempts a where a.instance = p_instance and a.node > (p_map).node and a.scope between p_activation << 23 and p_activation << 23 | 8388607;
  end if;
end
$$;

-- Forgets what maps have kept that have failed, or were stopped, in a construct which has not failed with them.
create or replace function df_engine.forget_failed_maps(p_thread df_engine.thread, p_construct df_engine.graph_nodes) returns void
language plpgsql as $$
begin
  perform df_engine.forget_items((p_thread).instance, m, o.last_item >> 23)
  from df_engine.graph_nodes m
  join df_engine.outcomes o on o.instance = (p_thread).instance and o.scope = (p_thread).scope and o.node = m.node
    and o.state in ('f', 'x', 'o') and o.last_item is not null
  where m.graph = (p_construct).graph and m.node > (p_construct).node and m.node <= (p_construct).last and m.kind = 'MAP';
end
$$;

-- Maps of a run, and those that are open in their items.
create or replace function df_engine.with_inner_maps(p_instance bigint, p_maps bigint[]) returns bigint[]
language plpgsql stable as $$
begin
  return array(
    with recursive maps as (
      select u.id from unnest(p_maps) u(id)
      union all
      select a.id from maps m join df_engine.activations a on a.instance = p_instance and a.scope between m.id << 23 and m.id << 23 | 8388607 and a.items is not null
    )
    select m.id from maps m);
end
$$;

-- WAIT_FOR: a condition that is asked again and again. It is a construct with one step in it, the check, which races with the time-out:
-- its thread has the wait among its races, so either a check that commits or the time-out ends it. Between two checks there is
-- nothing but a timer. A poke moves that timer; see supervisor/pokes.

-- Opens a wait: the thread that goes on with the first check, or how the wait has failed.
create or replace function df_engine.open_wait_for(
  p_thread df_engine.thread, p_node df_engine.graph_nodes, out thread df_engine.thread, out ending df_engine.ending
)
language plpgsql as $$
declare
  v_config constant jsonb := (p_node).query::pg_catalog.jsonb;
  v_id constant bigint := nextval('df_engine.thread_ids');
  v_key text;
begin
  v_key := df_engine.render(p_thread, (p_node).name_scopes, v_config ->> 'key', 'raw');
  if v_key = '' then
    raise exception 'the key of a wait is empty' using errcode = 'DF010';
  end if;
  perform df_engine.check_size('the key of a wait', octet_length(v_key), 1024);
  thread := p_thread;
  insert into df_engine.activations (id, instance, scope, node, generations, activation, races, key, since)
  values (v_id, thread.instance, thread.scope, thread.node, thread.generations, thread.activation, thread.races, v_key,
          df_engine.clock());
  perform df_engine.note_running(thread.instance);
  if v_config ? 'timeout' then
    perform df_engine.set_timer(thread, 'deadline', df_engine.clock() + (v_config ->> 'timeout')::numeric * interval '1 s', v_id);
  end if;
  thread.activation := v_id;
  thread.races := thread.races || v_id;
  thread.node := (p_node).inside[1];
exception
  when sqlstate 'DF010' or sqlstate 'DF013' or data_exception or program_limit_exceeded or not_null_violation then
    thread := p_thread;
    ending := df_engine.failed('WAIT_FOR: ' || sqlerrm, null, sqlstate);
    perform df_engine.put_outcome(thread, p_node, ending);
end
$$;

-- A check has ended: with it the wait, if it was true or has failed; else there is another one. The caller has locked the wait.
create or replace function df_engine.end_check(
  p_thread df_engine.thread, p_queue bigint, p_wait df_engine.graph_nodes, p_ending df_engine.ending
) returns df_engine.event
language plpgsql as $$
declare
  v_wait df_engine.activations;
  v_ending df_engine.ending := p_ending;
begin
  if v_ending.state = 'c' and not df_engine.truth(v_ending.value) then
    perform df_engine.set_check(p_thread, p_wait, v_ending.started_at);
    return null;
  end if;
  delete from df_engine.activations a where a.id = (p_thread).activation and a.instance = (p_thread).instance
  returning * into v_wait;
  if not found then
    raise exception 'a check of instance % has lost against its time-out', (p_thread).instance using errcode = 'DF001';
  end if;
  perform df_engine.withdraw((p_thread).instance, (p_thread).scope, (p_wait).node, (p_wait).last, p_queue);
  if v_ending.state = 'c' then
    v_ending.value := df_engine.with_timed_out(v_ending.value, false);
  end if;
  return df_engine.close_construct(p_thread, p_wait, v_wait, v_ending);
end
$$;

-- The value of a wait: the rows of a check, and whether the time was up.
create or replace function df_engine.with_timed_out(p_value json, p_timed_out boolean) returns json
language sql immutable set search_path = '' as $$
  select (rtrim(p_value::pg_catalog.text, E'} \n') || ',"timed_out":' || p_timed_out::pg_catalog.text || '}')::pg_catalog.json
$$;

-- Sets the timer of the next check, counted from the beginning of the last one, which may have been before or after the engine's clock was set.
create or replace function df_engine.set_check(p_thread df_engine.thread, p_wait df_engine.graph_nodes, p_started timestamptz) returns void
language plpgsql as $$
declare
  v_now constant timestamptz := df_engine.clock();
  v_began constant timestamptz := least(v_now, v_now - (clock_timestamp() - p_started));
  v_due timestamptz := greatest(v_now, v_began + ((p_wait).query::pg_catalog.jsonb ->> 'every')::numeric * interval '1 s');
begin
  update df_engine.activations a set poked = false
  where a.id = (p_thread).activation and a.instance = (p_thread).instance and a.poked;
  if found then
    v_due := least(v_due, df_engine.poked_due(v_began));
  end if;
  perform df_engine.set_timer(p_thread, 'check', v_due, null, v_began);
end
$$;

-- When the check that follows a poke is due, given when the last one began: pokes make a wait check at most once a second.
create or replace function df_engine.poked_due(p_began timestamptz) returns timestamptz
language plpgsql as $$
begin
  return greatest(df_engine.clock(), p_began + interval '1 s');
end
$$;

-- How a wait ends whose time is up: with the rows of its last check.
create or replace function df_engine.wait_for_timed_out(p_thread df_engine.thread) returns df_engine.ending
language plpgsql stable as $$
declare
  v_last df_engine.outcomes;
begin
  select * into v_last from df_engine.outcomes o
  where o.instance = (p_thread).instance and o.scope = (p_thread).scope and o.node = (p_thread).node + 1 and o.state = 'c'
    and o.generations is not distinct from (p_thread).generations;
  return df_engine.completed(df_engine.with_timed_out(coalesce(v_last.value, '{"rows":[],"row_count":0}'), true),
                             v_last.columns, v_last.types);
end
$$;

-- Calls: a CALL starts a run, its child, and waits for its end without a session: in a row of waits that names the child. Whoever ends a
-- child leaves a note, a timer that is due at once, and locks nothing of the caller; what fires timers ends the CALL. Whatever stops
-- a CALL (a cancel, a lost race, a time-out, a failure of its run) takes that row away and cancels the child in the same transaction.

-- Starts the child of a CALL, as the transition that enters it: there is one for each. What keeps it from being started is raised.
create or replace function df_engine.open_call(p_thread df_engine.thread, p_node df_engine.graph_nodes, p_config jsonb) returns void
language plpgsql as $$
declare
  v_id constant bigint := nextval('df_engine.thread_ids');
  v_text constant text := df_engine.render(p_thread, (p_node).name_scopes, p_config ->> 'input', 'raw');
  v_input constant jsonb := df_engine.json_or_null(v_text);
  i df_engine.instances;
  v_child bigint;
  v_flow pg_catalog.text := p_config ->> 'flow';
  v_definition pg_catalog.text;
begin
  if v_input is null and v_text is not null then
    raise exception 'the input is no JSON, once its references are replaced: %', left(v_text, 100) using errcode = 'invalid_text_representation';
  elsif df_engine.levels_above((p_thread).instance) >= 32 then
    raise exception 'a run can stand 32 levels below one that df.start has started, and this one would stand lower'
      using errcode = 'program_limit_exceeded';
  end if;
  select * into i from df_engine.instances x where x.instance = (p_thread).instance;
  if df_engine.reference_in(v_flow) is not null then
    select d.graph, d.definition into v_flow, v_definition from df_engine.definition_of(i.submitter, v_flow, (p_node).typed) d;
  end if;
  -- What it does not have from its caller.
  i.parent := i.instance;
  i.parent_node := (p_node).node;
  i.call := v_id;
  i.label := df_engine.render(p_thread, (p_node).name_scopes, p_config ->> 'label', 'raw');
  i.input := v_input;
  i.definition := v_definition;
  v_child := df_engine.begin_run(
    i, df_engine.graph_to_start(i.submitter, v_flow, (p_node).typed, (
      select g.id from df_engine.graphs g
      where g.submitter = i.submitter and g.hash = df_engine.graph_hash(v_flow, (p_node).typed) order by g.id desc limit 1)));
  insert into df_engine.waits (id, submitter, instance, scope, node, generations, activation, races, child, since)
  values (v_id, i.submitter, i.instance, (p_thread).scope, (p_thread).node, (p_thread).generations, (p_thread).activation, (p_thread).races,
          v_child, df_engine.clock());
end
$$;

-- How many runs stand above one: its caller, whoever has called that, ...
create or replace function df_engine.levels_above(p_instance bigint) returns int
language plpgsql stable as $$
begin
  return (
    with recursive above as (
      select i.parent, 0 as levels from df_engine.instances i where i.instance = p_instance
      union all
      select i.parent, a.levels + 1 from above a join df_engine.instances i on i.instance = a.parent
    )
    select max(a.levels) from above a);
end
$$;

-- Notes that the child has ended for which a CALL, or a schedule, waits. One that nobody waits for any more notes nothing.
create or replace function df_engine.note_end_of_child(p_call bigint) returns void
language plpgsql as $$
begin
  if p_call < 0 then
    perform df_engine.queue_schedule(-p_call);
    return;
  end if;
  insert into df_engine.timers (id, submitter, instance, scope, node, generations, activation, races, kind, since, due_at, next_try_at)
  select w.id, w.submitter, w.instance, w.scope, w.node, w.generations, w.activation, w.races, 'child', w.since, n.now, n.now
  from df_engine.waits w, (select df_engine.clock()) n(now)
  where w.id = p_call;
  if found then
    perform df_engine.wake('t', null);
  end if;
end
$$;

-- How a CALL ends whose child has ended: with its result, or its error.
create or replace function df_engine.call_ending(p_child bigint, p_since timestamptz) returns df_engine.ending
language plpgsql stable as $$
declare
  r record;
  v_ending df_engine.ending;
begin
  select i.status, i.error, o.value, o.columns, o.types, o.failure - 'node' as failure into r
  from df_engine.instances i
  left join df_engine.outcomes o on o.instance = i.instance and o.scope = 0 and o.node = i.result
  where i.instance = p_child;
  if r.status = 'completed' then
    return df_engine.completed(r.value, r.columns, r.types, p_since);
  end if;
  v_ending := df_engine.failed(
    coalesce(r.error, 'the run that was called is gone'), p_since,
    coalesce(r.failure ->> 'sqlstate', case r.status when 'cancelled' then '57014' end), coalesce(r.failure, '{}'));
  v_ending.last_item := p_child;
  return v_ending;
end
$$;

-- Cancels runs that a run has called, in order, and what they have called. A supervising connection acts for every role: it ends them, so
-- that nothing of them commits any more, and leaves what waits of each to be swept; beyond max_transition_rows also what they have called.
-- Answers how many it has ended.
create or replace function df_engine.cancel_children(p_instance bigint, p_children bigint[], p_most bigint default null) returns bigint
language plpgsql as $$
declare
  v_child bigint;
  v_ended bigint := 0;
  v_most constant bigint := coalesce(p_most, df_engine.setting_number('max_transition_rows')::bigint);
  v_below bigint[];
  v_sweeps constant boolean := coalesce(current_setting('df_engine.waits_for_nobody', true), '') <> 'on';
  v_reason constant text := (
    select format('instance %s, which has called it, %s', i.id, case i.status
             when 'cancelled' then 'is ' || i.error when 'failed' then 'has failed' else 'does not wait for it any more' end)
    from df_engine.instances i where i.instance = p_instance);
begin
  foreach v_child in array p_children loop
    continue when (df_engine.lock_child(v_child) in ('pending', 'running')) is not true;
    if v_sweeps then
      perform df_engine.cancel_locked(v_child, v_reason);
    else
      perform df_engine.end_cancelled(v_child, v_reason);
      insert into df_engine.timers (id, submitter, instance, node, kind, since, due_at, next_try_at)
      select nextval('df_engine.thread_ids'), i.submitter, v_child, 0, 'sweep', i.finished_at, i.finished_at, i.finished_at
      from df_engine.instances i where i.instance = v_child;
      v_ended := v_ended + 1;
      v_below := array(select w.child from df_engine.waits w where w.instance = v_child and w.child is not null order by w.child);
      if v_ended + cardinality(v_below) <= v_most then
        v_ended := v_ended + df_engine.cancel_children(v_child, v_below, v_most - v_ended);
      end if;
    end if;
  end loop;
  return v_ended;
end
$$;

-- Schedules: a worker's supervising connection only puts a row for a schedule that is due into the queue of its owner. A session of the owner claims
-- it like a step, and does the rest: one tick a transaction. So nothing of a schedule is read, compiled or waited for on behalf of others, and
-- what it costs is the owner's. No time is lost: next_at ascends in the transaction that records what has become of a tick. None is doubled: it never moves
-- back, and a tick is a row whose key is its time. A row of the queue that comes to nothing is made again once due_at has come.

-- When the tick for a time is made: up to the jitter later, and for all workers the same.
create or replace function df_engine.tick_due(p_schedule df_engine.schedules, p_at timestamptz) returns timestamptz
language sql stable as $$
  select p_at + (p_schedule).jitter * ((hashint8extended(extract(epoch from p_at)::bigint, (p_schedule).schedule) & 65535) / 65536.0)
$$;

-- The first time of a schedule after another.
create or replace function df_engine.tick_after(p_schedule df_engine.schedules, p_after timestamptz) returns timestamptz
language plpgsql stable as $$
begin
  return df_engine.cron_next((p_schedule).cron, coalesce((p_schedule).timezone, df_engine.setting('timezone')), p_after);
end
$$;

-- Puts schedules that are due into the queue; answers how many. One that an open transaction has locked is left for later. Whoever claims the row
-- sets due_at again; it is set here too, should the row be lost or the schedule be locked then.
create or replace function df_engine.queue_schedules(p_limit int) returns int
language plpgsql as $$
declare
  v_queued int;
begin  with due as (
    select s.schedule, s.owner::pg_catalog.oid as owner from df_engine.schedules s
    where s.due_at <= (select df_engine.clock())
    order by s.due_at, s.schedule limit p_limit for update skip locked
  ), handed as (
    update df_engine.schedules s
    set due_at = case when u.oid is not null then df_engine.clock() + interval '1 minute' end,
        problem = case when u.oid is null then 'its role does not exist any more' else s.problem end
    from due d left join pg_catalog.pg_roles u on u.oid = d.owner
    where s.schedule = d.schedule
    returning s.schedule, d.owner, u.oid is not null as served
  )
  insert into df_engine.queue (submitter, instance, node)
  select h.owner, -h.schedule, 0 from handed h
  where h.served and not exists (select from df_engine.queue q where q.instance = -h.schedule);
  get diagnostics v_queued = row_count;
  return v_queued;
end
$$;

-- The same for those of one role, of which there are few.
create or replace function df_engine.queue_own_schedules(p_role oid) returns int
language plpgsql as $$
declare
  v_queued int;
begin  with due as (
    select s.schedule, s.owner::pg_catalog.oid as owner from df_engine.schedules s
    where s.due_at <= (select df_engine.clock()) and s.owner = p_role::pg_catalog.regrole for update skip locked
  ), handed as (
    update df_engine.schedules s
    set due_at = case when u.oid is not null then df_engine.clock() + interval '1 minute' end,
        problem = case when u.oid is null then 'its role does not exist any more' else s.problem end
    from due d left join pg_catalog.pg_roles u on u.oid = d.owner
    where s.schedule = d.schedule
    returning s.schedule, d.owner, u.oid is not null as served
  )
  insert into df_engine.queue (submitter, instance, node)
  select h.owner, -h.schedule, 0 from handed h
  where h.served and not exists (select from df_engine.queue q where q.instance = -h.schedule);
  get diagnostics v_queued = row_count;
  return v_queued;
end
$$;

-- In how many milliseconds a schedule is due; what is due and locked is tried again after a while. NULL: none is.
create or replace function df_engine.next_schedule_ms() returns numeric
language plpgsql volatile as $$
declare
  v_now constant timestamptz := df_engine.clock();
  v_due constant timestamptz := (select s.due_at from df_engine.schedules s where s.due_at is not null order by s.due_at, s.schedule limit 1);
begin
  if v_due is null or v_due > v_now then
    return ceil(extract(epoch from v_due - v_now) * 1000);
  end if;
  perform from df_engine.schedules s
  where s.due_at <= (select df_engine.clock()) order by s.due_at, s.schedule limit 1 for update skip locked;
  return case when found then 0 else 50 end;
end
$$;

-- Puts a schedule into the queue at once, whatever is there already: it may just have been worked on.
create or replace function df_engine.queue_schedule(p_schedule bigint) returns void
language plpgsql as $$
begin
  insert into df_engine.queue (submitter, instance, node, wakes)
  select s.owner::pg_catalog.oid, -s.schedule, 0, true from df_engine.schedules s where s.schedule = p_schedule;
end
$$;

-- Works on a schedule that a session of its owner has claimed. What is locked is tried again later, and so is what nobody has thought of: it
-- must not end the session, which has other work.
create or replace function df_engine.try_schedule(p_schedule bigint) returns void
language plpgsql set lock_timeout = '100ms' as $$
declare
  v_wait interval := interval '1 second';
  v_problem text;
begin
  perform df_engine.work_schedule(p_schedule);
exception when others then
  if sqlstate not in ('55P03', '40P01', '40001', 'DF001') then
    v_wait := interval '1 minute';
    v_problem := left(sqlerrm, 1024);
  end if;
  update df_engine.schedules s set due_at = df_engine.clock() + v_wait, problem = coalesce(v_problem, s.problem)
  where s.schedule in (select x.schedule from df_engine.schedules x where x.schedule = p_schedule and not x.paused for update skip locked);
end
$$;

-- Does one thing for a schedule: starts what waits for the end of an earlier run, or makes the tick that is due, or starts one that is made up.
create or replace function df_engine.work_schedule(p_schedule bigint) returns void
language plpgsql as $$
declare
  s df_engine.schedules;
  v_live bigint[];
  v_now constant timestamptz := df_engine.clock();
begin
  select * into s from df_engine.schedules x where x.schedule = p_schedule for update;
  if s.schedule is null or s.paused or s.owner <> quote_ident(session_user)::pg_catalog.regrole then
    return;
  end if;
  v_live := df_engine.live_ticks(s);
  if v_live = '{}' and df_engine.start_waiting(s, false) then
    null;
  elsif df_engine.tick_due(s, s.next_at) <= v_now then
    if df_engine.latest_of(s, v_now) > s.next_at then
      perform df_engine.miss_ticks(s, df_engine.tick_after(s, df_engine.latest_of(s, v_now) - interval '1 microsecond'), 'more than catch_up late');
      s.next_at := df_engine.tick_after(s, df_engine.latest_of(s, v_now) - interval '1 microsecond');
    else
      perform df_engine.make_tick(s, s.next_at, 'cron', v_live, null);
      s.next_at := df_engine.tick_after(s, s.next_at);
    end if;
  elsif v_live = '{}' then
    perform df_engine.start_waiting(s, true);
  end if;
  perform df_engine.plan_schedule(s, true);
end
$$;

-- The time from which on ticks are made up. What is less than a minute late, beside its jitter, is not missed.
create or replace function df_engine.latest_of(p_schedule df_engine.schedules, p_now timestamptz) returns timestamptz
language sql stable as $$
  select p_now - greatest((p_schedule).catch_up, interval '1 minute') - (p_schedule).jitter
$$;

-- The runs of a schedule that have not ended, where an earlier run matters.
create or replace function df_engine.live_ticks(p_schedule df_engine.schedules) returns bigint[]
language plpgsql as $$
begin
  update df_engine.schedule_ticks t set live = false
  where t.schedule = (p_schedule).schedule and t.live
    and not exists (select from df_engine.instances i where i.instance = t.instance and i.status in ('pending', 'running'));
  return case when (p_schedule).overlap = 'allow' then '{}'::bigint[] else array(
    select t.instance from df_engine.schedule_ticks t where t.schedule = (p_schedule).schedule and t.live order by t.scheduled_for) end;
end
$$;

-- Notes that the times from next_at to p_until bring nothing: one row for all of them.
create or replace function df_engine.miss_ticks(p_schedule df_engine.schedules, p_until timestamptz, p_why text) returns void
language plpgsql as $$
begin
  insert into df_engine.schedule_ticks (schedule, scheduled_for, made_by, state, reason, handled_at)
  values ((p_schedule).schedule, (p_schedule).next_at, 'cron', 'missed',
          format('nothing was started from here to %s, which is next: %s', df_engine.iso_time(p_until), p_why), df_engine.clock())
  on conflict do nothing;
end
$$;

-- A time as a run reads it, whatever the settings of the session are.
create or replace function df_engine.iso_time(p_at timestamptz) returns text
language sql stable as $$
  select (to_json(p_at at time zone 'UTC') #>> '{}') || '+00:00'
$$;

-- Makes the tick of a time, under the overlap rule; the id of the run that it has started. p_by: who asks for it, and is told of an error.
create or replace function df_engine.make_tick(
  p_schedule df_engine.schedules, p_at timestamptz, p_made_by text, p_live bigint[], p_by oid
) returns text
language plpgsql as $$
declare
  v_reason text;
  v_state text := 'started';
begin
  if p_live <> '{}' and (p_schedule).overlap = 'skip' then
    v_state := 'skipped';
    v_reason := format('instance %s, of an earlier tick, has not ended', df_engine.public_id(p_live[1]));
    if p_by is not null then
      raise exception 'schedule "%": %', (p_schedule).name, v_reason using errcode = 'object_not_in_prerequisite_state',
        hint = 'Its overlap rule is skip. Wait for the end of that run, or df.cancel it.';
    end if;
  elsif p_live <> '{}' and (p_schedule).overlap = 'queue' then
    v_state := 'waiting';
    update df_engine.schedule_ticks t
    set state = 'skipped', reason = format('%s has taken its place in line', df_engine.iso_time(p_at)), handled_at = df_engine.clock()
    where t.schedule = (p_schedule).schedule and t.state = 'waiting' and t.made_by <> 'backfill';
  end if;
  insert into df_engine.schedule_ticks (schedule, scheduled_for, made_by, state, reason, handled_at)
  values ((p_schedule).schedule, p_at, p_made_by, v_state, v_reason, df_engine.clock())
  on conflict do nothing;
  if not found or v_state <> 'started' then
    return null;
  end if;
  perform df_engine.cancel_earlier(p_live, p_at);
  return df_engine.start_tick(p_schedule, p_at, p_by is null);
end
$$;

-- Cancels earlier runs of a schedule, which have to make way.
create or replace function df_engine.cancel_earlier(p_live bigint[], p_at timestamptz) returns void
language plpgsql as $$
declare
  v_run bigint;
begin
  foreach v_run in array p_live loop
    if df_engine.lock_child(v_run) in ('pending', 'running') then
      perform df_engine.cancel_locked(v_run, format('its schedule has started a run for %s', df_engine.iso_time(p_at)));
    end if;
  end loop;
end
$$;

-- Starts the run of a tick that is recorded, as the owner, with what its definition and its variables are now. p_keeps: what is wrong with that is the
-- tick's; else it is raised.
create or replace function df_engine.start_tick(p_schedule df_engine.schedules, p_at timestamptz, p_keeps boolean) returns text
language plpgsql as $$
declare
  v_id text;
  v_error text;
begin
  begin
    if not has_schema_privilege((p_schedule).owner::pg_catalog.oid, 'df', 'usage') then
      raise exception 'role % has no USAGE on schema df any more', (p_schedule).owner using errcode = 'insufficient_privilege';
    end if;
    v_id := df_engine.insert_instance(
      encode(sha256((df_engine.secret() || (p_schedule).owner::pg_catalog.oid::pg_catalog.text)::pg_catalog.bytea), 'hex'), (p_schedule).owner::pg_catalog.oid, (p_schedule).graph, (p_schedule).name, null,
      coalesce((p_schedule).input, '{}') || jsonb_build_object('scheduled_for', df_engine.iso_time(p_at)));
  exception when others then
    if not p_keeps or sqlstate in ('55P03', '40P01', '40001') then
      raise;
    end if;
    get stacked diagnostics v_error = message_text;
    v_error := left(v_error, 1024) || ' (SQLSTATE ' || sqlstate || ')';
  end;
  update df_engine.schedule_ticks t
  set state = case when v_id is null then 'failed' else 'started' end, reason = v_error, live = v_id is not null, handled_at = df_engine.clock(),
      instance = (select i.instance from df_engine.instances i where i.id = v_id)
  where t.schedule = (p_schedule).schedule and t.scheduled_for = p_at;
  return v_id;
end
$$;

-- Starts the oldest tick that waits, of a backfill or else of the overlap rule; whether there was one.
create or replace function df_engine.start_waiting(p_schedule df_engine.schedules, p_backfill boolean) returns boolean
language plpgsql as $$
declare
  v_at constant timestamptz := (
    select t.scheduled_for from df_engine.schedule_ticks t
    where t.schedule = (p_schedule).schedule and t.state = 'waiting' and (t.made_by = 'backfill') = p_backfill
    order by t.scheduled_for limit 1);
begin
  if v_at is null then
    return false;
  end if;
  perform df_engine.start_tick(p_schedule, v_at, true);
  return true;
end
$$;

-- Sees to it that each of some runs that have not ended tells the schedule of its end; false: one has ended, or there is none. Whoever ends a run
-- updates its row, and so waits for this, or is waited for.
create or replace function df_engine.watch_runs(p_schedule bigint, p_live bigint[]) returns boolean
language plpgsql as $$
declare
  v_live constant bigint[] := array(
    select i.instance from df_engine.instances i
    where i.instance = any (p_live) and i.status in ('pending', 'running') order by i.instance for no key update);
begin
  update df_engine.instances i set call = -p_schedule where i.instance = any (v_live) and i.call is null;
  return p_live <> '{}' and cardinality(v_live) = cardinality(p_live);
end
$$;

-- What follows when a schedule has been worked on: it is queued again at once while there is more to do, else it is due at its next time. Keeps the newest ticks.
-- p_claimed: by a session of its owner; else a worker is to queue it.
create or replace function df_engine.plan_schedule(p_schedule df_engine.schedules, p_claimed boolean) returns void
language plpgsql as $$
declare
  s df_engine.schedules := p_schedule;
  v_more boolean := df_engine.tick_due(p_schedule, p_schedule.next_at) <= df_engine.clock();
begin
  if exists (select from df_engine.schedule_ticks t where t.schedule = s.schedule and t.state = 'waiting') then
    v_more := not df_engine.watch_runs(s.schedule, df_engine.live_ticks(s)) or v_more;
  end if;
  s.due_at := case when s.paused then null
                   when not v_more then df_engine.tick_due(s, s.next_at)
                   when p_claimed then df_engine.clock() + interval '1 minute'
                   else df_engine.clock() end;
  update df_engine.schedules x set next_at = s.next_at, due_at = s.due_at, problem = null where x.schedule = s.schedule;
  if s.paused then
    return;
  elsif not p_claimed then
    perform df_engine.wake('t', s.due_at);
  elsif v_more then
    perform df_engine.queue_schedule(s.schedule);
  end if;
  delete from df_engine.schedule_ticks t
  where t.schedule = s.schedule and t.state <> 'waiting' and not t.live
    and t.handled_at < (select x.handled_at from df_engine.schedule_ticks x
                        where x.schedule = s.schedule order by x.handled_at desc offset 999 limit 1);
end
$$;

-- Entering: what it means that a thread arrives at a node that is no step. Constructs are opened, waits begin, a BREAK ends at once.

-- Enters a node. thread and ending: the event that follows, none while the node waits; others: further threads that are to be entered.
-- p_queue: the caller's claim.
create or replace function df_engine.enter(
  p_thread df_engine.thread, p_node df_engine.graph_nodes, p_queue bigint,
  out thread df_engine.thread, out ending df_engine.ending, out others df_engine.thread[]
)
language plpgsql as $$
declare
  v_opened record;
begin
  thread := p_thread;
  thread.generations := df_engine.at_level(thread.generations, (p_node).levels - (p_node).opens::int);
  case
    when (p_node).kind = 'TIMEOUT' then
      v_opened := df_engine.open_timeout(thread, p_node);
      thread := v_opened.thread;
      ending := v_opened.ending;
    when (p_node).kind = 'MAP' then
      v_opened := df_engine.enter_map(thread, p_node, p_queue);
      thread := v_opened.thread;
      ending := v_opened.ending;
      others := v_opened.others;
    when (p_node).kind in ('LOOP', 'JOIN', 'RACE', 'ANY') then
      v_opened := df_engine.open_construct(thread, p_node);
      thread := v_opened.thread;
      others := v_opened.others;
    when (p_node).kind = 'IF' and (p_node).inside is null then  -- its condition is false, and it has no else
      ending := df_engine.completed('null');
      perform df_engine.put_outcome(thread, p_node, ending);
    when (p_node).kind = 'WAIT_FOR' then
      v_opened := df_engine.open_wait_for(thread, p_node);
      thread := v_opened.thread;
      ending := v_opened.ending;
    when (p_node).kind = 'IF' then
      ending := df_engine.if_rows_ending(thread, p_node);
      if ending.error is not null then
        perform df_engine.put_outcome(thread, p_node, ending);
      else
        thread.node := (p_node).inside[case when ending.value::text::numeric > 0 then 1 else 2 end];
        ending := null;
      end if;
    when (p_node).kind = 'UNDO' then
      v_opened := df_engine.enter_undo(thread, p_node);
      thread := v_opened.thread;
      ending := v_opened.ending;
    when (p_node).kind = 'BREAK' then
      ending := df_engine.break_ending(thread, p_node);
      perform df_engine.put_outcome(thread, p_node, ending);
    else
      perform df_engine.note_running(thread.instance);
      ending := df_engine.park(thread, p_node);
      if ending.state is null then
        thread := null;
      else
        perform df_engine.put_outcome(thread, p_node, ending);
      end if;
  end case;
end
$$;

-- Opens a construct: the thread that goes on in it, and those of the further branches.
create or replace function df_engine.open_construct(
  p_thread df_engine.thread, p_node df_engine.graph_nodes, out thread df_engine.thread, out others df_engine.thread[]
)
language plpgsql as $$
declare
  v_id constant bigint := nextval('df_engine.thread_ids');
begin
  thread := p_thread;
  insert into df_engine.activations (id, instance, scope, node, generations, activation, races, open, turned_at, since)
  values (v_id, thread.instance, thread.scope, (p_node).node, thread.generations, thread.activation, thread.races,
          case when (p_node).kind in ('JOIN', 'ANY') then cardinality((p_node).inside) end,
          case (p_node).kind when 'LOOP' then df_engine.clock() end, df_engine.clock());
  perform df_engine.note_running(thread.instance);
  thread.activation := v_id;
  if (p_node).kind in ('RACE', 'ANY', 'TIMEOUT') then
    thread.races := thread.races || v_id;
  end if;
  if (p_node).opens or (p_node).kind <> 'LOOP' then
    thread.generations := coalesce(thread.generations, '{1}') || 1;
  end if;
  thread.node := (p_node).inside[1];
  if (p_node).kind in ('JOIN', 'RACE', 'ANY') then
    others := array(
      select row(thread.instance, thread.scope, b.node, thread.generations, thread.activation, thread.races)::df_engine.thread
      from unnest((p_node).inside[2:]) with ordinality b(node, place) order by b.place);
  end if;
end
$$;

-- Opens a TIMEOUT: its body, and the timer that ends it. A time that comes from data may be none.
create or replace function df_engine.open_timeout(
  p_thread df_engine.thread, p_node df_engine.graph_nodes, out thread df_engine.thread, out ending df_engine.ending
)
language plpgsql as $$
declare
  v_after text := (p_node).query::pg_catalog.jsonb ->> 'after';
  v_outer df_engine.thread := p_thread;
  v_now constant timestamptz := df_engine.clock();
  v_seconds numeric;
begin
  begin
    if (p_node).refs is not null or (p_node).vars then
      v_after := df_engine.render(p_thread, (p_node).name_scopes, v_after, 'raw');
    end if;
    v_seconds := df_engine.duration_seconds(v_after);
  exception when sqlstate 'DF010' or sqlstate 'DF013' or data_exception or program_limit_exceeded then
    ending := df_engine.failed('TIMEOUT: ' || sqlerrm, null, sqlstate);
    perform df_engine.put_outcome(p_thread, p_node, ending);
    thread := p_thread;
    return;
  end;
  v_outer.node := (p_node).node;
  thread := (df_engine.open_construct(p_thread, p_node)).thread;
  perform df_engine.set_timer(v_outer, 'deadline', v_now + v_seconds * interval '1 s', thread.activation, v_now);
end
$$;

-- if_rows runs no SQL: the row count of a named result decides, which is the value here.
create or replace function df_engine.if_rows_ending(p_thread df_engine.thread, p_node df_engine.graph_nodes)
returns df_engine.ending
language plpgsql as $$
declare
  v_name constant text := (p_node).query::pg_catalog.jsonb ->> 'result_name';
  v_value constant jsonb := df_engine.names((p_thread).instance, (p_thread).scope, (p_node).name_scopes, array[v_name], '{}')
                            -> v_name -> 'value';
  v_count constant jsonb := v_value -> 'row_count';
begin
  if v_count is null or jsonb_typeof(v_count) <> 'number' or v_count::numeric < 0 or v_count::numeric <> trunc(v_count::numeric) then
    return df_engine.failed(format('if_rows: result "%s" %s', v_name,
                                   case when v_value is null then 'does not exist' else 'has no row_count' end));
  end if;
  return df_engine.completed(v_count::json);
end
$$;

-- BREAK: its text after substitution, on the way to the nearest enclosing loop, if there is one.
create or replace function df_engine.break_ending(p_thread df_engine.thread, p_node df_engine.graph_nodes)
returns df_engine.ending
language plpgsql as $$
begin
  if not (p_node).in_loop then
    return df_engine.failed('BREAK outside of a loop');
  end if;
  return df_engine.broke(df_engine.as_json(df_engine.render(
    p_thread, (p_node).name_scopes, (p_node).query::pg_catalog.jsonb ->> 'break_value', 'raw'))::json);
exception
  when sqlstate 'DF010' or sqlstate 'DF013' or data_exception or program_limit_exceeded then
    return df_engine.failed('BREAK: ' || sqlerrm, null, sqlstate);
end
$$;

-- The transition: a node has ended, or is to be entered; what now? One loop between the two questions, answered from graph_nodes, until
-- every thread it touched waits in its place: the queue, a timer, a signal, or for its siblings.

-- The steps from p_node to the end of its batch. p_instance, p_scope: where the first of them may have an outcome that says so.
create or replace function df_engine.steps_from(
  p_id text, p_graph bigint, p_node int, p_batch int, p_instance bigint default null, p_scope bigint default null
) returns df_engine.step[]
language plpgsql stable as $$
begin
  return array(
    select row(g.node, 'pg_durable:' || p_id || ':' || df_engine.node_id(p_id, g.node), g.query, g.statement, g.typed, g.refs, g.vars,
               g.name_scopes, g.after, g.binds, g.closes, g.plain, g.decides,
               not (g.in_loop or g.node = p_node and exists (
                 select from df_engine.outcomes o where o.instance = p_instance and o.scope = p_scope and o.node = p_node)), g.kind = 'BLOCK')::df_engine.step
    from df_engine.graph_nodes g
    where g.graph = p_graph and g.node between p_node and p_batch and g.kind in ('SQL', 'BLOCK')
    order by g.node);
end
$$;

-- The end of a node that has no successor of its own: told to the construct around it.
create or replace function df_engine.tell_construct(
  p_graph bigint, p_thread df_engine.thread, p_queue bigint, p_node df_engine.graph_nodes, p_ending df_engine.ending
) returns df_engine.event
language plpgsql as $$
declare
  u df_engine.graph_nodes;
begin
  select * into u from df_engine.graph_nodes n where n.graph = p_graph and n.node = (p_node).up;
  if u.kind = 'JOIN' then
    return df_engine.end_join_branch(p_thread, u);
  elsif u.kind in ('RACE', 'ANY', 'TIMEOUT') then
    return df_engine.end_race_branch(p_thread, p_queue, u, p_node, p_ending);
  elsif u.kind = 'MAP' then
    return df_engine.end_item(p_thread, p_queue, u, p_ending);
  elsif u.kind = 'WAIT_FOR' then
    return df_engine.end_check(p_thread, p_queue, u, p_ending);
  elsif u.kind = 'UNDO' then
    return df_engine.end_compensation(p_graph, p_thread, u, p_ending);
  elsif (p_ending).state = 'f' and u.continues and (p_node).node < coalesce(u.inside[2], u.last + 1) then
    return row(df_engine.next_iteration(p_thread, u, (p_ending).error), null::df_engine.ending, true)::df_engine.event;
  elsif (p_ending).state = 'c' and (p_node).after in ('t', 'w')
        and ((p_node).after = 't' or df_engine.truth((p_ending).value)) then
    return row(df_engine.next_iteration(p_thread, u), null::df_engine.ending, true);
  end if;
  return df_engine.end_loop(p_thread, u, p_ending);
end
$$;

-- What follows the end of a node: the next node to enter, or how the construct around it ends. No thread: nothing, for now.
create or replace function df_engine.after_ending(
  p_graph bigint, p_thread df_engine.thread, p_queue bigint, p_node df_engine.graph_nodes, p_ending df_engine.ending
) returns df_engine.event
language plpgsql as $$
declare
  t df_engine.thread := p_thread;
  e df_engine.ending := p_ending;
begin
  if e.state = 'c' then
    if (p_node).binds is not null then
      perform df_engine.bind(t, (p_node).name_scopes[1], (p_node).binds, (p_ending).value, (p_ending).columns,
                             (p_ending).types);
    end if;
    if (p_node).undoes is not null then
      if not df_engine.register_compensations(t, p_node, p_queue is not null) then
        t.node := (p_node).undoes[1];
        return row(t, null::df_engine.ending, true)::df_engine.event;
      end if;
    end if;
    if (p_node).after in ('n', 'v', 'c') then
      if (p_node).after = 'v' then
        update df_engine.activations a set body = t.node where a.id = t.activation and a.instance = t.instance;
      end if;
      t.node := case
        when (p_node).after = 'c' and not df_engine.truth((p_ending).value) then (p_node).other
        else (p_node).next end;
      return row(t, null::df_engine.ending, false);
    end if;
  elsif e.state = 'b' and (p_node).break_binds is not null then
    perform df_engine.bind(t, (p_node).name_scopes[1], (p_node).break_binds, (p_ending).value, null, null);
  elsif e.error is not null then
    e.failure := df_engine.failure_at(p_node, e);
    t := df_engine.catch_failure(p_graph, t, (p_node).catch, e);
    if t.node is not null then
      return row(t, null::df_engine.ending, false);
    end if;
    t := p_thread;
  end if;
  if (p_node).up > 0 then
    return df_engine.tell_construct(p_graph, t, p_queue, p_node, e);
  elsif t.races is not null then
    return df_engine.end_undoable(t, (p_ending).error);
  end if;
  perform df_engine.end_run(t.instance, case when (p_ending).error is not null then 'failed' else 'completed' end, (p_ending).error, t.node);
  return null;
end
$$;

-- Makes the transition that follows an event: p_thread stands at a node that has ended so, or, without p_ending, is to be
-- entered. p_queue is the caller's claim: its row goes with the first step that is entered, and is deleted when there is none.
-- p_home: SQL steps run in this database. Answers the steps that the caller can go on with. Without a claim the caller acts
-- for every role, reads no text of a user and opens few branches at a time: a node whose text holds references, a CALL, an UNDO, and a
-- construct with more branches are left to a session of the submitter.
create or replace function df_engine.advance(
  p_id text, p_graph bigint, p_submitter oid, p_home boolean, p_thread df_engine.thread, p_queue bigint, p_ending df_engine.ending
) returns df_engine.place
language plpgsql as $$
declare
  t df_engine.thread := p_thread;
  e df_engine.ending := p_ending;
  g df_engine.graph_nodes;
  v_event df_engine.event;
  v_waiting df_engine.thread[];
  v_entered record;
  v_queue bigint := p_queue;
  v_offered boolean;
  v_place df_engine.place;
  v_most constant int := case when p_queue is null then df_engine.setting_number('max_transition_rows') end;
  v_rows int := 0;
begin
  v_event.turned := false;
  loop
    while t.node is null loop
      if coalesce(cardinality(v_waiting), 0) = 0 then
        if v_queue is not null then
          delete from df_engine.queue q where q.lane = 'sql' and q.submitter = p_submitter and q.id = v_queue;
        end if;
        return v_place;
      end if;
      t := v_waiting[1];
      v_waiting := v_waiting[2:];
      if t.races is not null and df_engine.has_lost(t.races) then
        t := null;
      end if;
    end loop;
    select * into g from df_engine.graph_nodes n where n.graph = p_graph and n.node = t.node;
    if e.state is not null then
      v_event := df_engine.after_ending(p_graph, t, v_queue, g, e);
      t := v_event.thread;
      e := v_event.ending;
      v_event.turned := coalesce(v_event.turned and t.node is not null, false);
      continue when not v_event.turned;
    end if;
    if v_event.turned or g.kind in ('SQL', 'BLOCK', 'HTTP', 'HTTP_MULTIPART') or p_queue is null and (g.refs is not null or g.vars or g.kind in ('CALL', 'MAP', 'UNDO'))
       or v_rows + cardinality(g.inside) > v_most then
      if not v_event.turned then
        t.generations := df_engine.at_level(t.generations, g.levels - g.opens::int);
      end if;
      if v_queue is null then
        insert into df_engine.queue (id, submitter, instance, scope, node, generations, activation, races, picked)
        values (df_engine.queue_place(coalesce((p_queue & 255)::int, (
                  select 100 + coalesce(i.priority, 0) from df_engine.instances i where i.instance = t.instance))), p_submitter, t.instance, t.scope, t.node, t.generations, t.activation, t.races, true);
        perform df_engine.wake('r ' || p_submitter, null);
      else
        -- Between two iterations a run goes to the back of the queue.
        v_offered := g.kind in ('SQL', 'BLOCK') and p_home and not v_event.turned;
        perform df_engine.requeue(
          p_submitter, v_queue, t, case when v_event.turned then df_engine.queue_place((v_queue & 255)::int) else v_queue end, v_offered);
        if v_offered then
          v_place := row(null, v_queue, pg_current_xact_id()::pg_catalog.xid, p_id, p_graph, t,
                         df_engine.steps_from(p_id, p_graph, g.node, g.batch))::df_engine.place;
        end if;
        v_queue := null;
      end if;
      t := null;
      v_event.turned := false;
    else
      v_entered := df_engine.enter(t, g, v_queue);
      v_rows := v_rows + coalesce(cardinality(g.inside), 0);
      t := v_entered.thread;
      e := v_entered.ending;
      v_waiting := v_entered.others || v_waiting;
    end if;
  end loop;
end
$$;

-- Moves a claimed row of the queue to another node.
create or replace function df_engine.requeue(
  p_submitter oid, p_queue bigint, p_thread df_engine.thread, p_id bigint, p_offered boolean
) returns void
language plpgsql as $$
begin
  update df_engine.queue q
  set id = p_id, scope = (p_thread).scope, node = (p_thread).node, generations = (p_thread).generations,
      activation = (p_thread).activation, races = (p_thread).races, picked = true, offered = p_offered, crash_score = 0
  where q.lane = 'sql' and q.submitter = p_submitter and q.id = p_queue;
end
$$;

-- Skipping: an operator says that a node has completed, and with what value. A run that has ended is resumed first, so that there is always a thread which stands
-- at the node, or a construct that is open there. What is open of the node goes away, and the transition of a completed node is made. Nothing here is
-- asked by a run that nobody skips anything of.

-- The items of maps that a scope is in, by number, from the outside in: 2.7; NULL: none.
create or replace function df_engine.item_path(p_scope bigint) returns text
language plpgsql stable as $$
declare
  v_scope bigint := p_scope;
  v_path text;
begin
  while v_scope > 0 loop
    v_path := concat_ws('.', v_scope & 8388607, v_path);
    v_scope := (select a.scope from df_engine.activations a where a.id = v_scope >> 23);
  end loop;
  return v_path;
end
$$;

-- The threads of a run that stand at a node, or are inside of it: one for each of its scopes.
create or replace function df_engine.threads_at(p_instance bigint, p_node df_engine.graph_nodes) returns setof df_engine.thread
language plpgsql stable as $$
begin
  return query
    select distinct on (t.scope) p_instance, t.scope, (p_node).node, t.generations, t.activation, t.races
    from (
      select 1 as place, a.scope, a.generations, a.activation, a.races from df_engine.activations a
      where a.instance = p_instance and a.node = (p_node).node
      union all
      select 2, w.scope, w.generations, w.activation, w.races from df_engine.waits w where w.instance = p_instance and w.node = (p_node).node
      union all
      select 3, m.scope, m.generations, m.activation, m.races from df_engine.timers m
      where m.instance = p_instance and m.node = (p_node).node and m.kind in ('start', 'sleep', 'schedule', 'retry', 'pace')
      union all
      select 4, q.scope, q.generations, q.activation, q.races
      from df_engine.queue q join df_engine.graph_nodes n on n.graph = (p_node).graph and n.node = q.node
      where q.instance = p_instance and df_engine.next_node(q, n) = (p_node).node) t
    where t.races is null or not df_engine.has_lost(t.races)
    order by t.scope, t.place;
end
$$;

-- Raises unless a node can be skipped at all: an operator cannot say which way a node goes that has no value of its own.
create or replace function df_engine.check_skippable(p_id text, p_node df_engine.graph_nodes) returns void
language plpgsql as $$
begin
  if (p_node).node is null then
    raise exception 'instance % has no such node', p_id using errcode = 'invalid_parameter_value',
      hint = 'df.nodes has the ids of the nodes of a run.';
  elsif (p_node).kind in ('THEN', 'IF', 'CATCH', 'UNDO', 'BREAK') then
    raise exception 'node % of instance % is no step: a % cannot be skipped', df_engine.node_id(p_id, (p_node).node), p_id, (p_node).kind
      using errcode = 'object_not_in_prerequisite_state', hint = 'Skip the step in it that has failed or waits.';
  elsif (p_node).after = 'p' then
    raise exception 'node % of instance % is the check of a WAIT_FOR', df_engine.node_id(p_id, (p_node).node), p_id
      using errcode = 'object_not_in_prerequisite_state', hint = 'Skip the WAIT_FOR itself.';
  end if;
end
$$;

-- The thread that p_scope means of those that stand at a node; the caller has locked the run.
create or replace function df_engine.thread_to_skip(p_run df_engine.instances, p_node df_engine.graph_nodes, p_scope text) returns df_engine.thread
language plpgsql stable as $$
declare
  v_open constant df_engine.thread[] := array(select t from df_engine.threads_at((p_run).instance, p_node) t);
  v_meant constant df_engine.thread[] := array(
    select o from unnest(v_open) o where p_scope is null or df_engine.item_path(o.scope) = p_scope);
  v_paths constant text := (select string_agg(df_engine.item_path(p.scope), ', ' order by p.scope)
                            from (select o.scope from unnest(v_open) o order by o.scope limit 20) p);
begin
  if cardinality(v_open) = 0 then
    raise exception 'node % of instance % is not open: it has completed, or the run has not come to it', df_engine.node_id((p_run).id, (p_node).node), (p_run).id
      using errcode = 'object_not_in_prerequisite_state', hint = 'What has failed, what waits and what is next can be skipped.';
  elsif cardinality(v_meant) = 0 then
    raise exception 'node % of instance % is not open in scope %', df_engine.node_id((p_run).id, (p_node).node), (p_run).id, p_scope
      using errcode = 'invalid_parameter_value', hint = coalesce('It is open in: ' || v_paths, 'It is in no df.map: leave scope out.');
  elsif cardinality(v_meant) > 1 then
    raise exception 'node % of instance % is open % times', df_engine.node_id((p_run).id, (p_node).node), (p_run).id, cardinality(v_meant)
      using errcode = 'ambiguous_parameter', detail = 'It is open in: ' || v_paths || case when cardinality(v_open) > 20 then ', ...' else '' end,
            hint = 'Say which with scope => the number of its item.';
  end if;
  return v_meant[1];
end
$$;

-- Locks what is open of a node in a scope, and raises when a step of it runs right now. Nobody else makes a transition of the run, which is locked; a supervising
-- connection that has locked a timer waits for nobody.
create or replace function df_engine.lock_part(p_id text, p_instance bigint, p_scope bigint, p_node df_engine.graph_nodes, p_races bigint[]) returns void
language plpgsql as $$
declare
  v_maps constant bigint[] := df_engine.with_inner_maps(p_instance, array(
    select a.id from df_engine.activations a
    where a.instance = p_instance and a.scope = p_scope and a.node between (p_node).node and (p_node).last and a.items is not null));
  p_from constant int := (p_node).node;
  p_last constant int := (p_node).last;
  v_queued bigint;
  v_locked bigint;
begin
  select count(*) into v_queued from df_engine.queue q join df_engine.graph_nodes n on n.graph = (p_node).graph and n.node = q.node
  where q.instance = p_instance
    and (q.scope = p_scope and df_engine.next_node(q, n) between (p_node).node and (p_node).last or q.scope >> 23 = any (v_maps));
  perform from df_engine.queue r
  where r.instance = p_instance and r.worker is null and (r.lane, r.id) in (select q.lane, q.id from df_engine.queue q join df_engine.graph_nodes n on n.graph = (p_node).graph and n.node = q.node
  where q.instance = p_instance
    and (q.scope = p_scope and df_engine.next_node(q, n) between (p_node).node and (p_node).last or q.scope >> 23 = any (v_maps))) for update skip locked;
  get diagnostics v_locked = row_count;
  if v_locked < v_queued then
    raise exception 'node % of instance % runs right now', df_engine.node_id(p_id, p_from), p_id using errcode = 'object_not_in_prerequisite_state',
      hint = 'Wait for its end: df.pause the run, so that nothing follows, or df.cancel and df.skip it then.';
  end if;
  perform from df_engine.timers x where x.instance = p_instance and (p_scope is null or x.scope = p_scope and x.node between p_from and p_last or x.scope >> 23 = any (v_maps)) order by x.id for update;
  perform from df_engine.waits x where x.instance = p_instance and (p_scope is null or x.scope = p_scope and x.node between p_from and p_last or x.scope >> 23 = any (v_maps)) order by x.id for update;
  perform from df_engine.activations x where x.instance = p_instance and (p_scope is null or x.scope = p_scope and x.node between p_from and p_last or x.scope >> 23 = any (v_maps)) order by x.id for update;
  perform from df_engine.activations a where a.instance = p_instance and a.id = any (p_races) order by a.id for update nowait;
exception when lock_not_available then
  raise exception 'a branch beside node % of instance % is just ending', df_engine.node_id(p_id, p_from), p_id using errcode = 'object_in_use', hint = 'Try again.';
end
$$;

-- Removes what is open of a node, which has been locked, and answers the thread as it was when it came to the node, with the generations that the node ends in.
create or replace function df_engine.withdraw_node(p_thread df_engine.thread, p_node df_engine.graph_nodes) returns df_engine.thread
language plpgsql as $$
declare
  t df_engine.thread := p_thread;
begin
  perform df_engine.withdraw(t.instance, t.scope, (p_node).node, (p_node).last, null);
  delete from df_engine.queue q using df_engine.graph_nodes n
  where q.instance = t.instance and q.scope = t.scope and n.graph = (p_node).graph and n.node = q.node and df_engine.next_node(q, n) = (p_node).node;
  perform df_engine.merge_names(t, p_node, '{}');
  if (p_node).kind = 'LOOP' then
    t.generations := coalesce(
      (select o.generations from df_engine.outcomes o where o.instance = t.instance and o.scope = t.scope and o.node = (p_node).node and o.state = 'o'),
      case when (p_node).opens then coalesce(t.generations, '{1}') || 1 else t.generations end);
  end if;
  return t;
end
$$;

-- Skips a node of a run that the caller has locked FOR UPDATE, and answers what of it, for the note. What follows waits if the run is paused.
create or replace function df_engine.skip_node(p_instance bigint, p_node int, p_value json, p_scope text) returns text
language plpgsql as $$
declare
  i df_engine.instances;
  g df_engine.graph_nodes;
  t df_engine.thread;
  v_ending df_engine.ending;
begin
  select * into i from df_engine.instances x where x.instance = p_instance;
  select * into g from df_engine.graph_nodes n where n.graph = i.graph and n.node = p_node;
  perform df_engine.check_skippable(i.id, g);
  if i.status in ('failed', 'cancelled') then
    if g.kind = 'CALL' then  -- what it has called stays as it has ended
      update df_engine.outcomes o set last_item = null where o.instance = p_instance and o.scope = 0 and o.node = g.node;
    end if;
    perform df_engine.resume_ended(p_instance, null);
  end if;
  t := df_engine.thread_to_skip(i, g, p_scope);
  perform df_engine.lock_part(i.id, p_instance, t.scope, g, t.races);
  v_ending := df_engine.completed(p_value, null, null, df_engine.clock());
  perform df_engine.note_running(p_instance);
  perform df_engine.reopen(t, g);
  t := df_engine.withdraw_node(t, g);
  perform df_engine.put_outcome(t, g, v_ending);
  perform df_engine.advance(i.id, i.graph, i.submitter, true, t, null, v_ending);
  perform df_engine.set_aside(p_instance);
  perform df_engine.notify('r ' || i.submitter);
  perform df_engine.notify('x');
  return concat_ws(' in scope ', 'node ' || df_engine.node_id(i.id, p_node), p_scope);
end
$$;

-- Executing: the user's statement, as the session's role, and what it returns. Independent of tables and of the rest of the engine:
-- p_kind is what df_engine.statement_kind says of a text that df_engine.bare_statement has been through.

-- The final names of columns: the first of a name keeps it, later ones get _2, _3, ..., skipping names that are taken.
-- Granted to users.
create or replace function df_engine.final_names(p_columns text[]) returns text[]
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  v_names text[] := p_columns;
  v_number int;
begin
  for i in 2 .. coalesce(cardinality(p_columns), 0) loop
    v_number := 1;
    while v_names[i] = any (v_names[:i - 1]) or v_number > 1 and v_names[i] = any (p_columns) loop
      v_number := v_number + 1;
      v_names[i] := p_columns[i] || '_' || v_number;
    end loop;
  end loop;
  return v_names;
end
$$;

-- Rows with the final names of their columns as keys.
-- Granted to users.
create or replace function df_engine.renamed_rows(p_rows json, p_names text[]) returns json
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  return coalesce((
    select json_agg(r.value order by r.place)
    from (
      select a.place, json_object_agg(p_names[c.place], c.value order by c.place) as value
      from json_array_elements(p_rows) with ordinality a(value, place)
      cross join json_each(a.value) with ordinality c(key, value, place)
      group by a.place
    ) r), p_rows);
end
$$;

-- The columns of a row as PostgreSQL names them.
-- Granted to users.
create or replace function df_engine.column_names(p_row json) returns text[]
language plpgsql immutable set search_path = '' as $$
begin
  return array(select k from json_object_keys(p_row) k);
end
$$;

-- What a step that returned no rows has as its value.
-- Granted to users.
create or replace function df_engine.no_rows(p_shape json) returns df_engine.result
language plpgsql immutable set search_path = '' as $$
begin
  return row('{"rows":[],"row_count":0}'::pg_catalog.json,
             case when p_shape is not null then df_engine.final_names(df_engine.column_names(p_shape)) end, null)::df_engine.result;
end
$$;

-- Rows as the value of a step: with commas between, as JSON objects whose keys are columns as PostgreSQL names them.
-- Granted to users.
create or replace function df_engine.row_set(p_rows text) returns json
language plpgsql immutable set search_path = '' as $$
declare
  v_rows pg_catalog.json := ('[' || p_rows || ']')::pg_catalog.json;
  v_columns constant pg_catalog.text[] := df_engine.column_names(v_rows -> 0);
  v_names constant pg_catalog.text[] := df_engine.final_names(v_columns);
begin
  if v_names <> v_columns then
    v_rows := df_engine.renamed_rows(v_rows, v_names);
  end if;
  return ('{"rows":' || v_rows || ',"row_count":' || json_array_length(v_rows) || '}')::pg_catalog.json;
end
$$;

-- The types of the columns of a result; NULL where they cannot be told.
-- Granted to users.
create or replace function df_engine.result_types(p_sql text, p_kind text, p_columns text[]) returns text[]
language plpgsql as $fn$
declare
  v_types pg_catalog.oid[];
  p_types pg_catalog.text[];
begin
  if p_columns is null or pg_catalog.int4eq(pg_catalog.cardinality(p_columns), 0) then
    return null;
  end if;
  if pg_catalog.texteq(p_kind, 'query') then
    execute (
      select pg_catalog.concat('select array[', pg_catalog.string_agg(pg_catalog.concat('pg_catalog.pg_typeof(x.c', g, ')'), ','),
        ']::pg_catalog.oid[] from (select) d left join (', p_sql, E'\n) x(', pg_catalog.string_agg(pg_catalog.concat('c', g), ','),
        ') on false')
      from pg_catalog.generate_series(1, pg_catalog.cardinality(p_columns)) g)
    into v_types;
  elsif (pg_catalog.texteq(p_kind, 'rows') or pg_catalog.texteq(p_kind, 'perhaps')) and pg_catalog.int4ge(pg_catalog.current_setting('server_version_num')::int, 160000) then
    execute pg_catalog.concat('prepare pg_durable_step as ', p_sql);
    execute pg_catalog.concat('select s.result_types::pg_catalog.oid[] from pg_catalog.pg_prepared_statements s ',
      'where pg_catalog.texteq(s.name, ''pg_durable_step'')') into v_types;
    deallocate pg_durable_step;
  end if;
  if v_types is not null then
    p_types := (select pg_catalog.array_agg(case
      when pg_catalog.oideq(t.typbasetype, 114::pg_catalog.oid) or exists (
        select from pg_catalog.pg_cast c
        where pg_catalog.oideq(c.castsource, t.oid) and pg_catalog.oideq(c.casttarget, 114::pg_catalog.oid)
          and pg_catalog.chareq(c.castmethod, 'f')) then 'pg_catalog.json'
      when pg_catalog.oideq(t.typbasetype, 3802::pg_catalog.oid) then 'pg_catalog.jsonb'
      when pg_catalog.chareq(coalesce(e.typtype, t.typtype), 'p') then 'pg_catalog.text'
      else pg_catalog.concat(pg_catalog.quote_ident(n.nspname), '.', pg_catalog.quote_ident(coalesce(e.typname, t.typname)),
                             case when e.oid is not null then '[]' end)
    end order by o.place)
  from pg_catalog.unnest(v_types) with ordinality o(id, place)
  join pg_catalog.pg_type t on pg_catalog.oideq(t.oid, o.id)
  left join pg_catalog.pg_type e on pg_catalog.oideq(e.oid, t.typelem) and pg_catalog.oideq(e.typarray, t.oid)
  join pg_catalog.pg_namespace n on pg_catalog.oideq(n.oid, coalesce(e.typnamespace, t.typnamespace)));
  end if;
  return p_types;
end
$fn$;

-- As what kind a statement is to be tried again that could not be read as p_kind; NULL: the error is its own.
-- Granted to users.
create or replace function df_engine.other_kind(p_kind text, p_sqlstate text) returns text
language plpgsql immutable as $$
begin
  return case
        when pg_catalog.texteq(p_kind, 'query') and pg_catalog.textregexeq(p_sqlstate, '^(42601|0A000|54)') then 'utility'
        when pg_catalog.texteq(p_kind, 'rows') and pg_catalog.texteq(p_sqlstate, '42P11') then 'perhaps'
      end;
end
$$;

-- Runs a statement that may return rows. columns are kept where no row shows them, types where p_typed wants them: see type_names
-- in session/statement.j2. p_limit: bytes of the rows. A query that cannot stand in FROM raises an error, as do rows that no cursor can read;
-- df_engine.other_kind knows how it is tried again.
-- Granted to users.
create or replace function df_engine.run_statement(p_sql text, p_kind text, p_typed boolean, p_limit bigint)
returns df_engine.result
language plpgsql as $fn$
declare
  v_result df_engine.result;
  v_row pg_catalog.record;
  v_rows pg_catalog.text;
  v_list pg_catalog.text[];
  v_size bigint;
begin
  if pg_catalog.texteq(p_kind, 'rows') then
    for v_row in execute p_sql loop
      v_rows := pg_catalog.concat_ws(',', v_rows, pg_catalog.row_to_json(v_row));
      if pg_catalog.int4gt(pg_catalog.octet_length(v_rows), 65536) then
        v_list := pg_catalog.array_append(v_list, v_rows);
        v_size := pg_catalog.int84pl(coalesce(v_size, 0), pg_catalog.octet_length(v_rows));
        v_rows := null;
        if pg_catalog.int8gt(v_size, p_limit) then
          raise exception 'the result has more than % bytes of JSON, and max_result_bytes allows %', v_size, p_limit
        using errcode = 'DF012', hint = 'Return keys, and leave the data in a table that the next step reads.';
        end if;
      end if;
    end loop;
  elsif pg_catalog.texteq(p_kind, 'query') then
    -- In FROM it gets the plan that it has by itself, a parallel one too, which a cursor never gets.
    execute pg_catalog.concat('select pg_catalog.string_agg(pg_catalog.row_to_json(q.*)::pg_catalog.text, '','') from (', p_sql, E'\n) q')
    into v_rows;
    if v_rows is null then
      for v_row in execute pg_catalog.concat('select * from (', p_sql, E'\n) q where false') loop
        null;  -- what is wanted is the row's shape
      end loop;
    end if;
  elsif pg_catalog.texteq(p_kind, 'call') and not exists (
    select from pg_catalog.pg_proc p
    join pg_catalog.pg_namespace n on pg_catalog.oideq(n.oid, p.pronamespace)
    cross join pg_catalog.parse_ident(pg_catalog.substring(
      pg_catalog.regexp_replace(p_sql, E'--[^\n\r]*|/[*].*?[*]/', ' ', 'g'),
      '^[[:space:]]*[Cc][Aa][Ll][Ll][[:space:]]+((?:"[^"]+"|[^[:space:]"(.]+)(?:[[:space:]]*[.][[:space:]]*'
      '(?:"[^"]+"|[^[:space:]"(.]+))?)[[:space:]]*[(]')) i(name)
    where pg_catalog.nameeqtext(p.proname, i.name[pg_catalog.cardinality(i.name)]) and pg_catalog.chareq(p.prokind, 'p')
      and pg_catalog.arrayoverlap(p.proargmodes, '{o,b}'::pg_catalog."char"[])
      and (pg_catalog.nameeqtext(n.nspname, i.name[1]) or pg_catalog.pg_function_is_visible(p.oid))) then
    execute p_sql;  -- a CALL without parameters that hold a result
  elsif pg_catalog.texteq(p_kind, 'call') then
    execute p_sql into v_row;
    v_rows := pg_catalog.row_to_json(v_row);
  elsif pg_catalog.texteq(p_kind, 'block') then
    return df_engine.run_block(p_sql::pg_catalog.text[], p_typed, p_limit);
  else
    begin
      for v_row in execute p_sql loop
      v_rows := pg_catalog.concat_ws(',', v_rows, pg_catalog.row_to_json(v_row));
      if pg_catalog.int4gt(pg_catalog.octet_length(v_rows), 65536) then
        v_list := pg_catalog.array_append(v_list, v_rows);
        v_size := pg_catalog.int84pl(coalesce(v_size, 0), pg_catalog.octet_length(v_rows));
        v_rows := null;
        if pg_catalog.int8gt(v_size, p_limit) then
          raise exception 'the result has more than % bytes of JSON, and max_result_bytes allows %', v_size, p_limit
        using errcode = 'DF012', hint = 'Return keys, and leave the data in a table that the next step reads.';
        end if;
      end if;
    end loop;
    exception when invalid_cursor_definition then
      execute p_sql;  -- it returns none after all
    end;
  end if;
  -- Few rows of one column, so that no two have one name: the commonest result, and one test.
  if v_list is null and not p_typed and pg_catalog.int4eq(pg_catalog.strpos(v_rows, ',"'), 0)
     and pg_catalog.int84ge(p_limit, pg_catalog.octet_length(v_rows)) then
    v_result.value := pg_catalog.concat('{"rows":[', v_rows, '],"row_count":', pg_catalog.json_array_length(
      pg_catalog.concat('[', v_rows, ']')::pg_catalog.json), '}')::pg_catalog.json;
    return v_result;
  elsif v_list is not null then
    v_rows := pg_catalog.array_to_string(pg_catalog.array_append(v_list, v_rows), ',');
  end if;
  if v_rows is null then
    v_result := df_engine.no_rows(pg_catalog.row_to_json(v_row));
  elsif pg_catalog.int84lt(p_limit, pg_catalog.octet_length(v_rows)) then
    raise exception 'the result has % bytes of JSON, and max_result_bytes allows %', pg_catalog.octet_length(v_rows), p_limit
        using errcode = 'DF012', hint = 'Return keys, and leave the data in a table that the next step reads.';
  elsif pg_catalog.int4eq(pg_catalog.strpos(v_rows, ',"'), 0) then  -- one column, so no two of one name
    v_result.value := pg_catalog.concat('{"rows":[', v_rows, '],"row_count":', pg_catalog.json_array_length(
      pg_catalog.concat('[', v_rows, ']')::pg_catalog.json), '}')::pg_catalog.json;
  else
    v_result.value := df_engine.row_set(v_rows);
  end if;
  if p_typed then
    v_result.types := df_engine.result_types(p_sql, p_kind, coalesce(
      v_result.columns, df_engine.column_names(pg_catalog.json_extract_path(v_result.value, 'rows', '0'))));
  end if;
  return v_result;
end
$fn$;

-- Runs the statements of a block: p_list is the kind of the last of them, then all of them. A statement may change the role: nothing of
-- df_engine is called before it is changed back.
-- Granted to users.
create or replace function df_engine.run_block(p_list text[], p_typed boolean, p_limit bigint) returns df_engine.result
language plpgsql as $fn$
declare
  p_statements constant pg_catalog.text[] := p_list[2:];
  p_sql constant pg_catalog.text := p_list[pg_catalog.cardinality(p_list)];
  p_kind pg_catalog.text := p_list[1];
  p_block constant boolean := true;
  p_columns pg_catalog.text[];
  p_types pg_catalog.text[];
  v_types pg_catalog.oid[];
  v_result df_engine.result;
  v_row pg_catalog.record;
  v_rows pg_catalog.text;
  v_list pg_catalog.text[];
  v_size bigint;
  v_number int := 0;
  v_code pg_catalog.text;
  v_message pg_catalog.text;
  v_detail pg_catalog.text;
  v_hint pg_catalog.text;
begin
  begin
    for v_at in 1 .. pg_catalog.int4mi(pg_catalog.cardinality(p_statements), 1) loop
      v_number := v_at;
      execute p_statements[v_at];
    end loop;
    v_number := pg_catalog.cardinality(p_statements);
    loop
      if pg_catalog.texteq(p_kind, 'command') then
        execute p_sql;
        exit;
      end if;
      begin
  if pg_catalog.texteq(p_kind, 'rows') then
    for v_row in execute p_sql loop
      v_rows := pg_catalog.concat_ws(',', v_rows, pg_catalog.row_to_json(v_row));
      if pg_catalog.int4gt(pg_catalog.octet_length(v_rows), 65536) then
        v_list := pg_catalog.array_append(v_list, v_rows);
        v_size := pg_catalog.int84pl(coalesce(v_size, 0), pg_catalog.octet_length(v_rows));
        v_rows := null;
        if pg_catalog.int8gt(v_size, p_limit) then
          raise exception 'the result has more than % bytes of JSON, and max_result_bytes allows %', v_size, p_limit
        using errcode = 'DF012', hint = 'Return keys, and leave the data in a table that the next step reads.';
        end if;
      end if;
    end loop;
  elsif pg_catalog.texteq(p_kind, 'query') then
    -- In FROM it gets the plan that it has by itself, a parallel one too, which a cursor never gets.
    execute pg_catalog.concat('select pg_catalog.string_agg(pg_catalog.row_to_json(q.*)::pg_catalog.text, '','') from (', p_sql, E'\n) q')
    into v_rows;
    if v_rows is null then
      for v_row in execute pg_catalog.concat('select * from (', p_sql, E'\n) q where false') loop
        null;  -- what is wanted is the row's shape
      end loop;
    end if;
  elsif pg_catalog.texteq(p_kind, 'call') and not exists (
    select from pg_catalog.pg_proc p
    join pg_catalog.pg_namespace n on pg_catalog.oideq(n.oid, p.pronamespace)
    cross join pg_catalog.parse_ident(pg_catalog.substring(
      pg_catalog.regexp_replace(p_sql, E'--[^\n\r]*|/[*].*?[*]/', ' ', 'g'),
      '^[[:space:]]*[Cc][Aa][Ll][Ll][[:space:]]+((?:"[^"]+"|[^[:space:]"(.]+)(?:[[:space:]]*[.][[:space:]]*'
      '(?:"[^"]+"|[^[:space:]"(.]+))?)[[:space:]]*[(]')) i(name)
    where pg_catalog.nameeqtext(p.proname, i.name[pg_catalog.cardinality(i.name)]) and pg_catalog.chareq(p.prokind, 'p')
      and pg_catalog.arrayoverlap(p.proargmodes, '{o,b}'::pg_catalog."char"[])
      and (pg_catalog.nameeqtext(n.nspname, i.name[1]) or pg_catalog.pg_function_is_visible(p.oid))) then
    execute p_sql;  -- a CALL without parameters that hold a result
  elsif pg_catalog.texteq(p_kind, 'call') then
    execute p_sql into v_row;
    v_rows := pg_catalog.row_to_json(v_row);
  else
    begin
      for v_row in execute p_sql loop
      v_rows := pg_catalog.concat_ws(',', v_rows, pg_catalog.row_to_json(v_row));
      if pg_catalog.int4gt(pg_catalog.octet_length(v_rows), 65536) then
        v_list := pg_catalog.array_append(v_list, v_rows);
        v_size := pg_catalog.int84pl(coalesce(v_size, 0), pg_catalog.octet_length(v_rows));
        v_rows := null;
        if pg_catalog.int8gt(v_size, p_limit) then
          raise exception 'the result has more than % bytes of JSON, and max_result_bytes allows %', v_size, p_limit
        using errcode = 'DF012', hint = 'Return keys, and leave the data in a table that the next step reads.';
        end if;
      end if;
    end loop;
    exception when invalid_cursor_definition then
      execute p_sql;  -- it returns none after all
    end;
  end if;
        exit;
      exception when others then
        p_kind := case
        when pg_catalog.texteq(p_kind, 'query') and pg_catalog.textregexeq(sqlstate, '^(42601|0A000|54)') then 'utility'
        when pg_catalog.texteq(p_kind, 'rows') and pg_catalog.texteq(sqlstate, '42P11') then 'perhaps'
      end;
        if p_kind is null then
          raise;
        end if;
      end;
    end loop;
  exception when others or query_canceled or assert_failure then
    get stacked diagnostics v_code = returned_sqlstate, v_message = message_text, v_detail = pg_exception_detail, v_hint = pg_exception_hint;
    if p_block then
      v_message := pg_catalog.concat('statement ', v_number, ' of ', pg_catalog.cardinality(p_statements), ': ', v_message);
    end if;
    if p_block and (pg_catalog.texteq(v_code, '25001') or pg_catalog.texteq(v_code, '2D000')) then
      v_hint := 'A block is one transaction. Make this statement, which cannot be in one, a step of its own.';
    end if;
    raise exception using errcode = v_code, message = v_message, detail = v_detail, hint = v_hint;
  end;
  if v_list is not null then
    v_rows := pg_catalog.array_to_string(pg_catalog.array_append(v_list, v_rows), ',');
  end if;
  if pg_catalog.int84lt(p_limit, pg_catalog.octet_length(v_rows)) then
    raise exception 'the result has % bytes of JSON, and max_result_bytes allows %', pg_catalog.octet_length(v_rows), p_limit
        using errcode = 'DF012', hint = 'Return keys, and leave the data in a table that the next step reads.';
  end if;
  if p_typed then
    p_columns := (select pg_catalog.array_agg(k) from pg_catalog.json_object_keys(coalesce(
      pg_catalog.json_array_element(pg_catalog.concat('[', v_rows, ']')::pg_catalog.json, 0), pg_catalog.row_to_json(v_row))) k);
    if p_columns is not null then
  if pg_catalog.texteq(p_kind, 'query') then
    execute (
      select pg_catalog.concat('select array[', pg_catalog.string_agg(pg_catalog.concat('pg_catalog.pg_typeof(x.c', g, ')'), ','),
        ']::pg_catalog.oid[] from (select) d left join (', p_sql, E'\n) x(', pg_catalog.string_agg(pg_catalog.concat('c', g), ','),
        ') on false')
      from pg_catalog.generate_series(1, pg_catalog.cardinality(p_columns)) g)
    into v_types;
  elsif (pg_catalog.texteq(p_kind, 'rows') or pg_catalog.texteq(p_kind, 'perhaps')) and pg_catalog.int4ge(pg_catalog.current_setting('server_version_num')::int, 160000) then
    execute pg_catalog.concat('prepare pg_durable_step as ', p_sql);
    execute pg_catalog.concat('select s.result_types::pg_catalog.oid[] from pg_catalog.pg_prepared_statements s ',
      'where pg_catalog.texteq(s.name, ''pg_durable_step'')') into v_types;
    deallocate pg_durable_step;
  end if;
  if v_types is not null then
    p_types := (select pg_catalog.array_agg(case
      when pg_catalog.oideq(t.typbasetype, 114::pg_catalog.oid) or exists (
        select from pg_catalog.pg_cast c
        where pg_catalog.oideq(c.castsource, t.oid) and pg_catalog.oideq(c.casttarget, 114::pg_catalog.oid)
          and pg_catalog.chareq(c.castmethod, 'f')) then 'pg_catalog.json'
      when pg_catalog.oideq(t.typbasetype, 3802::pg_catalog.oid) then 'pg_catalog.jsonb'
      when pg_catalog.chareq(coalesce(e.typtype, t.typtype), 'p') then 'pg_catalog.text'
      else pg_catalog.concat(pg_catalog.quote_ident(n.nspname), '.', pg_catalog.quote_ident(coalesce(e.typname, t.typname)),
                             case when e.oid is not null then '[]' end)
    end order by o.place)
  from pg_catalog.unnest(v_types) with ordinality o(id, place)
  join pg_catalog.pg_type t on pg_catalog.oideq(t.oid, o.id)
  left join pg_catalog.pg_type e on pg_catalog.oideq(e.oid, t.typelem) and pg_catalog.oideq(e.typarray, t.oid)
  join pg_catalog.pg_namespace n on pg_catalog.oideq(n.oid, coalesce(e.typnamespace, t.typnamespace)));
  end if;
    end if;
  end if;
  if not pg_catalog.nameeq(current_user, session_user) then
    reset role;
  end if;
  if v_rows is null then
    v_result := df_engine.no_rows(pg_catalog.row_to_json(v_row));
  else
    v_result.value := df_engine.row_set(v_rows);
  end if;
  v_result.types := p_types;
  return v_result;
end
$fn$;

-- Preparing: a step whose text holds references, or may hold something else than one statement, in its own session.

-- The statements of a block with their references replaced. Raises as df_engine.prepare_step.
create or replace function df_engine.prepare_block(p_thread df_engine.thread, p_name_scopes int[], p_query text) returns text[]
language plpgsql stable as $$
declare
  v_statements text[] := array(select df_engine.statements_of('BLOCK', p_query));
  v_problem text;
begin
  for i in 1..cardinality(v_statements) loop
    begin
      v_statements[i] := df_engine.bare_statement(df_engine.render(p_thread, p_name_scopes, v_statements[i], 'sql'));
    exception when sqlstate 'DF010' or sqlstate 'DF013' or data_exception or program_limit_exceeded then
      raise exception 'statement % of %: %', i, cardinality(v_statements), sqlerrm using errcode = sqlstate;
    end;
    v_problem := df_engine.single_statement_problem(v_statements[i]);
    if v_problem is not null then
      raise exception 'SQL execution failed: statement % of %: %', i, cardinality(v_statements), v_problem using errcode = 'DF011';
    end if;
  end loop;
  return v_statements;
end
$$;

-- The text of a step with its references replaced, and its kind; of a block an array of the kind of its last statement and of all of
-- them. Raises DF010, DF011 or DF013 where it cannot be run.
-- Granted to users.
create or replace function df_engine.prepare_step(
  p_key text, p_graph bigint, p_thread df_engine.thread, p_step df_engine.step, out sql text, out statement text
)
language plpgsql security definer set search_path = pg_catalog, pg_temp set jit = off set enable_seqscan = off as $$
declare
  v_problem text;
  v_statements text[];
begin
  perform df_engine.require_key(p_key, (
    select i.submitter from df_engine.instances i where i.instance = (p_thread).instance and i.graph = p_graph));
  if (p_step).block then
    v_statements := df_engine.prepare_block(p_thread, (p_step).name_scopes, (p_step).text);
    sql := df_engine.statement_kind(v_statements[cardinality(v_statements)]) || v_statements;
    statement := 'block';
    return;
  end if;
  sql := df_engine.bare_statement(
    case when (p_step).refs is null and not (p_step).vars then (p_step).text
         else df_engine.render(p_thread, (p_step).name_scopes, (p_step).text, 'sql') end);
  v_problem := df_engine.single_statement_problem(sql);
  if v_problem is not null then
    raise exception 'SQL execution failed: %', v_problem using errcode = 'DF011';
  end if;
  statement := df_engine.statement_kind(sql);
end
$$;

-- Claiming: the lock on a row of the queue, in the step's own transaction, is the claim. What is not a statement for this session is
-- entered here; what may not run any more is dropped or failed. The functions act for session_user only.

-- Locks the row p_queue of a role if it is still there and free, else the longest-waiting free one from p_low on, else any: the row and its
-- version.
create or replace function df_engine.lock_queue(p_role oid, p_queue bigint, p_low bigint) returns df_engine.claim
language plpgsql as $$
declare
  v_claim df_engine.claim;
begin
  if p_queue is not null then    select q as claimed, q.xmin as version into v_claim from df_engine.queue q
    where q.lane = 'sql' and q.submitter = p_role and q.id = p_queue for update skip locked;
    if found then
      return v_claim;
    end if;
  end if;    select q as claimed, q.xmin as version into v_claim from df_engine.queue q
    where q.lane = 'sql' and q.submitter = p_role and q.id >= p_low order by q.id limit 1 for update skip locked;
    if found then
      return v_claim;
    end if;
  if p_low > 0 then    select q as claimed, q.xmin as version into v_claim from df_engine.queue q
    where q.lane = 'sql' and q.submitter = p_role order by q.id limit 1 for update skip locked;
    if found then
      return v_claim;
    end if;
  end if;
  return null;
end
$$;

-- The next node of a thread, given the node in its row of the queue: a plain step leaves the row as it is, so the thread is past all
-- of its segment that have ended since.
create or replace function df_engine.next_node(p_queue df_engine.queue, p_node df_engine.graph_nodes) returns int
language plpgsql stable as $$
declare
  v_done int;
begin
  if (p_node).plain then
    v_done := (
      select o.node from df_engine.outcomes o
      where o.instance = (p_queue).instance and o.scope = (p_queue).scope and o.node between (p_node).node and (p_node).until - 1
        and o.state = 'c' and o.generations is not distinct from (p_queue).generations
      order by o.node desc limit 1);
  end if;
  if v_done is null then
    return (p_node).node;
  end if;
  return (select n.next from df_engine.graph_nodes n where n.graph = (p_node).graph and n.node = v_done);
end
$$;

-- Claims a thread of session_user: row p_queue if it is still there, else the longest-waiting one. report: empty, nothing can run;
-- again, a transition was made, to be committed; without either the steps are to be run in order, the first of them now, each of the
-- others once claim_next has said so.
-- p_low is a low-water mark: while somebody holds an old snapshot the dead rows of all runs since stay in the index, and are
-- not to be walked over again. p_careful: tell the worker which step is about to run, so that it can attribute a crash of
-- this session. INFO goes out at once, whatever the settings.
-- Granted to users.
create or replace function df_engine.claim_step(p_key text, p_queue bigint, p_low bigint, p_careful boolean) returns df_engine.place
language plpgsql security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = 'force_generic_plan' set jit = off set enable_seqscan = off as $$
declare
  v_role constant oid := quote_ident(session_user)::regrole;
  v_claim df_engine.claim;
  q df_engine.queue;
  t df_engine.thread;
  r record;
  g df_engine.graph_nodes;
  v_place df_engine.place;
begin
  if (p_key = encode(sha256((df_engine.secret() || v_role::pg_catalog.text)::pg_catalog.bytea), 'hex')) is not true then
    raise exception 'this function of df_engine is called by the functions of df only'
      using errcode = 'insufficient_privilege';
  end if;
  v_claim := df_engine.lock_queue(v_role, p_queue, p_low);
  if v_claim.version is null then
    v_place.report := 'empty';
    return v_place;
  end if;
  q := v_claim.claimed;
  t := row(q.instance, q.scope, q.node, q.generations, q.activation, q.races);
  v_place := row('again', q.id, v_claim.version, null, null, t, null)::df_engine.place;
  select i.id, i.graph, i.status, coalesce(i.database = current_database(), true) as home,
         has_schema_privilege(v_role, 'df', 'usage') as allowed, u.rolsuper as super, i.paused into r
  from df_engine.instances i
  left join pg_roles u on u.oid = v_role
  where i.instance = q.instance;
  if r.status is null or r.status not in ('pending', 'running') or q.races is not null and df_engine.has_lost(q.races) then
    if q.instance < 0 then
      perform df_engine.try_schedule(-q.instance);
    end if;
    -- Whoever ended the run has left what a step had locked.
    delete from df_engine.activations a where a.instance = q.instance and r.status not in ('pending', 'running');
    delete from df_engine.queue x where x.lane = 'sql' and x.submitter = v_role and x.id = q.id;
    return v_place;
  elsif r.paused is true and df_engine.set_aside(q.instance) then  -- it was locked when the run was paused
    return v_place;
  end if;
  v_place.id := r.id;
  v_place.graph := r.graph;
  select * into g from df_engine.graph_nodes n where n.graph = r.graph and n.node = q.node;
  if g.plain then
    t.node := df_engine.next_node(q, g);
    if t.node <> g.node then
      select * into g from df_engine.graph_nodes n where n.graph = r.graph and n.node = t.node;
    end if;
    -- The session that made the transition to this node goes on with the thread as long as the row is as it left it, which a plain step leaves it, too.
    if q.offered or t.node <> q.node then
      perform df_engine.requeue(v_role, q.id, t, q.id, false);
      v_place.version := pg_current_xact_id()::xid;
      v_place.thread := t;
    end if;
  end if;
  if not q.picked and t.node = q.node and r.super and not df_engine.setting_on('enable_superuser_instances') then  -- it has not begun
    perform df_engine.fail_run(q.instance, format(
      'superuser %s may not run instances: setting enable_superuser_instances is off', v_role::regrole), false);
    return v_place;
  elsif not r.allowed then
    perform df_engine.fail_run(q.instance, format('role %s has no USAGE on schema df any more', v_role::regrole), false);
    return v_place;
  end if;
  if (g.kind not in ('SQL', 'BLOCK') or not r.home or q.crash_score >= 12) and not df_engine.lock_thread(t) then
    return v_place;  -- to be claimed, and dropped, again
  elsif g.kind not in ('SQL', 'BLOCK', 'HTTP', 'HTTP_MULTIPART') then
    v_place := df_engine.advance(r.id, r.graph, v_role, r.home, t, q.id, null);
    v_place.report := 'again';
  elsif q.crash_score >= 12 then
    perform df_engine.fail_node(r.id, r.graph, v_role, r.home, t, q.id, g,
      'SQL execution failed: the session that ran this step died, again and again', df_engine.clock());
  elsif g.kind in ('SQL', 'BLOCK') and r.home then
    v_place.steps := df_engine.steps_from(r.id, r.graph, g.node, case when p_careful then g.node else g.batch end, q.instance, q.scope);
    v_place.report := set_config('application_name', v_place.steps[1].name, true);
    v_place.report := null;
    if p_careful then
      raise info 'pg_durable:%:%', q.id, df_engine.node_id(r.id, g.node);
    end if;
  else
    perform df_engine.open_request(r.id, r.graph, v_role, r.home, t, q.id, g, false);
  end if;
  return v_place;
end
$$;

-- Claims the next step, named p_name, of a thread whose last step this session has just run, if nobody was faster: then the row in the
-- queue is still the version that was claimed. There is nothing to check again, because whoever ends a run takes away the rows that
-- are not locked.
-- Granted to users.
create or replace function df_engine.claim_next(p_queue bigint, p_version xid, p_name text) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp set jit = off set enable_seqscan = off as $$
begin
  perform set_config('application_name', p_name, true)
  from (select from df_engine.queue q
        where q.lane = 'sql' and q.submitter = quote_ident(session_user)::regrole and q.id = p_queue and q.xmin = p_version and q.crash_score = 0
          and has_schema_privilege(session_user, 'df', 'usage')
        for update skip locked) as claimed;
  return found;
end
$$;

-- Completing: a step's result, or its error, and the transition that follows, in the step's own transaction. Called by the
-- driver, in the session of the submitter.

-- Records that a step has completed, and makes the transition. NULL: the next step of the same segment follows; else a place with the steps
-- that follow, or with a report: again, commit; lost, the run is over or a race was lost meanwhile, roll back. A plain step whose value nobody
-- wants, the commonest, is asked one thing only: PL/pgSQL prepares each question anew in each transaction. p_more: another step
-- follows in this transaction; neither the run nor a race is locked yet, or what stops them would wait for that step instead of interrupting it.
-- Granted to users.
create or replace function df_engine.record_step(
  p_key text, p_id text, p_graph bigint, p_queue bigint, p_thread df_engine.thread, p_step df_engine.step,
  p_result df_engine.result, p_started timestamptz, p_more boolean
) returns df_engine.place
language plpgsql security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = 'force_generic_plan' set jit = off set enable_seqscan = off as $$
begin
  if (p_step).plain and (p_step).fresh and (p_step).binds is null and (p_thread).races is null and not p_more then
    insert into df_engine.outcomes as o (instance, scope, node, generations, state, events, started_at, ended_at, value, columns, types)
    select i.instance, (p_thread).scope, (p_step).node, (p_thread).generations, 'c', 2 * (1 + (p_step).closes), p_started,
           df_engine.clock(), (p_result).value, (p_result).columns, (p_result).types
    from df_engine.instances i
    where i.instance = (p_thread).instance and i.graph = p_graph and i.status = any ('{pending,running}') and i.paused is null
      and p_key = encode(sha256((df_engine.secret() || i.submitter::text)::pg_catalog.bytea), 'hex')
    for key share;
    if found then
      return null;
    end if;
    return df_engine.record_apart(p_key, p_id, p_graph, p_queue, p_thread, p_step, p_result, p_started);
  elsif (p_thread).races is not null and not p_more
        and not df_engine.lock_own_races(quote_ident(session_user)::regrole, p_thread, (p_step).decides) then
    return df_engine.record_cancelled(p_key, p_thread, p_step, p_result, null, p_started);
  end if;
  if (p_step).fresh and not p_more then
    insert into df_engine.outcomes as o (instance, scope, node, generations, state, events, started_at, ended_at, value, columns, types)
    select i.instance, (p_thread).scope, (p_step).node, (p_thread).generations, 'c', 2 * (1 + (p_step).closes), p_started,
           df_engine.clock(), (p_result).value, (p_result).columns, (p_result).types
    from df_engine.instances i
    where i.instance = (p_thread).instance and i.graph = p_graph and i.status = any ('{pending,running}') and i.paused is null
      and p_key = encode(sha256((df_engine.secret() || i.submitter::text)::pg_catalog.bytea), 'hex')
    for key share;
  elsif (p_step).fresh then
    insert into df_engine.outcomes as o (instance, scope, node, generations, state, events, started_at, ended_at, value, columns, types)
    select i.instance, (p_thread).scope, (p_step).node, (p_thread).generations, 'c', 2 * (1 + (p_step).closes), p_started,
           df_engine.clock(), (p_result).value, (p_result).columns, (p_result).types
    from df_engine.instances i
    where i.instance = (p_thread).instance and i.graph = p_graph and i.status = any ('{pending,running}') and i.paused is null
      and p_key = encode(sha256((df_engine.secret() || i.submitter::text)::pg_catalog.bytea), 'hex');
  elsif not p_more then
    insert into df_engine.outcomes as o (instance, scope, node, generations, state, events, started_at, ended_at, value, columns, types)
    select i.instance, (p_thread).scope, (p_step).node, (p_thread).generations, 'c', 2 * (1 + (p_step).closes), p_started,
           df_engine.clock(), (p_result).value, (p_result).columns, (p_result).types
    from df_engine.instances i
    where i.instance = (p_thread).instance and i.graph = p_graph and i.status = any ('{pending,running}') and i.paused is null
      and p_key = encode(sha256((df_engine.secret() || i.submitter::text)::pg_catalog.bytea), 'hex')
    for key share
    on conflict (instance, scope, node) do update
      set generations = excluded.generations, state = excluded.state, ended_at = excluded.ended_at, value = excluded.value,
        columns = excluded.columns, types = excluded.types, error = excluded.error, failure = excluded.failure, last_item = excluded.last_item,
        attempts = case when o.state = 'r' and o.generations is not distinct from excluded.generations then o.attempts + 1 else 1 end,
        started_at = case when o.state = 'r' and o.generations is not distinct from excluded.generations
                          then o.started_at else excluded.started_at end,
        events = excluded.events + case when o.generations[1] is not distinct from excluded.generations[1] then o.events else 0 end;
  else
    insert into df_engine.outcomes as o (instance, scope, node, generations, state, events, started_at, ended_at, value, columns, types)
    select i.instance, (p_thread).scope, (p_step).node, (p_thread).generations, 'c', 2 * (1 + (p_step).closes), p_started,
           df_engine.clock(), (p_result).value, (p_result).columns, (p_result).types
    from df_engine.instances i
    where i.instance = (p_thread).instance and i.graph = p_graph and i.status = any ('{pending,running}') and i.paused is null
      and p_key = encode(sha256((df_engine.secret() || i.submitter::text)::pg_catalog.bytea), 'hex')
    on conflict (instance, scope, node) do update
      set generations = excluded.generations, state = excluded.state, ended_at = excluded.ended_at, value = excluded.value,
        columns = excluded.columns, types = excluded.types, error = excluded.error, failure = excluded.failure, last_item = excluded.last_item,
        attempts = case when o.state = 'r' and o.generations is not distinct from excluded.generations then o.attempts + 1 else 1 end,
        started_at = case when o.state = 'r' and o.generations is not distinct from excluded.generations
                          then o.started_at else excluded.started_at end,
        events = excluded.events + case when o.generations[1] is not distinct from excluded.generations[1] then o.events else 0 end;
  end if;
  if not found then
    return df_engine.record_apart(p_key, p_id, p_graph, p_queue, p_thread, p_step, p_result, p_started);
  end if;
  if (p_step).binds is not null then
    perform df_engine.bind(p_thread, (p_step).name_scopes[1], (p_step).binds, (p_result).value, (p_result).columns, (p_result).types);
  end if;
  if (p_step).plain then
    return null;
  elsif (p_step).after = 'e' and (p_thread).races is null then
    perform df_engine.end_run((p_thread).instance, 'completed', null, (p_step).node);
    delete from df_engine.queue q where q.lane = 'sql' and q.submitter = quote_ident(session_user)::regrole and q.id = p_queue;
    return row('again', p_queue, null, null, null, null, null)::df_engine.place;
  end if;
  return df_engine.go_on(p_id, p_graph, quote_ident(session_user)::regrole, true, p_thread, (p_step).node, p_queue,
                         df_engine.completed((p_result).value, (p_result).columns, (p_result).types, p_started));
end
$$;

-- A step that has completed in a run that is paused, or has ended. A paused run takes its outcome, and stops there.
create or replace function df_engine.record_apart(
  p_key text, p_id text, p_graph bigint, p_queue bigint, p_thread df_engine.thread, p_step df_engine.step,
  p_result df_engine.result, p_started timestamptz
) returns df_engine.place
language plpgsql as $$
declare
  v_role constant oid := quote_ident(session_user)::pg_catalog.regrole;
  v_ending constant df_engine.ending := df_engine.completed((p_result).value, (p_result).columns, (p_result).types, p_started);
  g df_engine.graph_nodes;
begin
  perform df_engine.require_key(p_key, v_role);
  if (p_thread).races is not null and not df_engine.lock_own_races(v_role, p_thread, (p_step).decides) then
    return df_engine.record_cancelled(p_key, p_thread, p_step, p_result, null, p_started);
  end if;
  perform from df_engine.instances i
  where i.instance = (p_thread).instance and i.submitter = v_role and i.graph = p_graph and i.status = any ('{pending,running}')
  for key share;
  if not found then
    return df_engine.record_cancelled(p_key, p_thread, p_step, p_result, null, p_started);
  end if;
  select n.* into g from df_engine.graph_nodes n where n.graph = p_graph and n.node = (p_step).node;
  -- A step that has paused its own run has set its own row aside.
  update df_engine.queue q set lane = 'sql' where q.lane = 'paused sql' and q.submitter = v_role and q.id = p_queue;
  perform df_engine.put_outcome(p_thread, g, v_ending);
  perform df_engine.go_on(p_id, p_graph, v_role, true, p_thread, g.node, p_queue, v_ending);
  perform df_engine.set_aside((p_thread).instance);
  return row('again', null, null, null, null, null, null)::df_engine.place;
end
$$;

-- Whether what has been recorded of a thread without locks may be committed: its run has not ended meanwhile, no race around it is lost, and
-- neither happens before that.
-- Granted to users.
create or replace function df_engine.lock_own_run(p_thread df_engine.thread) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = 'force_generic_plan' set jit = off set enable_seqscan = off as $$
begin
  if (p_thread).races is not null and not df_engine.lock_own_races(quote_ident(session_user)::regrole, p_thread, false) then
    return false;
  end if;
  perform from df_engine.instances i
  where i.instance = (p_thread).instance and i.submitter = quote_ident(session_user)::regrole and i.status in ('pending', 'running')
  for key share;
  return found;
end
$$;

-- The transition from a node whose outcome is written; the place says at least that there is something to commit.
create or replace function df_engine.go_on(
  p_id text, p_graph bigint, p_submitter oid, p_home boolean, p_thread df_engine.thread, p_node int, p_queue bigint,
  p_ending df_engine.ending
) returns df_engine.place
language plpgsql as $$
declare
  t df_engine.thread := p_thread;
  v_place df_engine.place;
begin
  t.node := p_node;
  v_place := df_engine.advance(p_id, p_graph, p_submitter, p_home, t, p_queue, p_ending);
  if v_place.steps is null then
    v_place.report := 'again';
  end if;
  return v_place;
end
$$;

-- A step that has cancelled its own run, whose thread is gone with that: it still commits, and the run does not go on. Else the
-- step is lost.
create or replace function df_engine.record_cancelled(
  p_key text, p_thread df_engine.thread, p_step df_engine.step, p_result df_engine.result, p_error text, p_started timestamptz
) returns df_engine.place
language plpgsql as $$
declare
  g df_engine.graph_nodes;
begin
  perform df_engine.require_key(p_key, quote_ident(session_user)::pg_catalog.regrole);
  select n.* into g
  from df_engine.instances i join df_engine.graph_nodes n on n.graph = i.graph and n.node = (p_step).node
  where i.instance = (p_thread).instance and i.submitter = quote_ident(session_user)::pg_catalog.regrole
    and i.cancelled_in = pg_current_xact_id();
  if not found then
    return row('lost', null, null, null, null, null, null)::df_engine.place;
  end if;
  perform df_engine.put_outcome(p_thread, g,
    row(case when p_error is null then 'd' else 'e' end, (p_result).value, (p_result).columns, (p_result).types, p_error,
        p_started, '{}', null)::df_engine.ending);
  if g.undoes is not null and p_error is null then
    perform df_engine.undo_own_step(p_thread, g, (p_result).value, (p_result).columns, (p_result).types);
  end if;
  if g.node = 1 and p_error is null then
    update df_engine.instances i set result = g.node where i.instance = (p_thread).instance;  -- it is the root, which has completed
  end if;
  return row('again', null, null, null, null, null, null)::df_engine.place;
end
$$;

-- A node has failed for good, and with it what is around it.
create or replace function df_engine.fail_node(
  p_id text, p_graph bigint, p_submitter oid, p_home boolean, p_thread df_engine.thread, p_queue bigint,
  p_node df_engine.graph_nodes, p_error text, p_started timestamptz,
  p_sqlstate text default null, p_failure jsonb default '{}'
) returns df_engine.place
language plpgsql as $$
declare
  t df_engine.thread := p_thread;
  v_ending constant df_engine.ending := df_engine.failed(p_error, p_started, p_sqlstate, p_failure);
begin
  t.node := (p_node).node;
  perform df_engine.put_outcome(t, p_node, v_ending);
  return df_engine.go_on(p_id, p_graph, p_submitter, p_home, t, (p_node).node, p_queue, v_ending);
end
$$;

-- What becomes of a step that has raised an error. Reports: again, commit; lost, roll back; interrupted, roll back and tell the worker.
-- Granted to users.
create or replace function df_engine.fail_step(
  p_key text, p_id text, p_graph bigint, p_queue bigint, p_thread df_engine.thread, p_step df_engine.step, p_sqlstate text,
  p_message text, p_detail text, p_hint text, p_refused boolean, p_started timestamptz
) returns df_engine.place
language plpgsql security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = 'force_generic_plan' set jit = off set enable_seqscan = off as $$
declare
  v_role constant oid := quote_ident(session_user)::regrole;
  v_refused constant boolean := p_refused and p_sqlstate ~ '^(DF01|22|54)';
  v_verdict constant text := case when v_refused then 'fail' else df_engine.judge_error(p_sqlstate, p_started) end;
  v_error constant text := case when v_refused then p_message else df_engine.error_text(p_sqlstate, p_message, p_detail, p_hint) end;
  t df_engine.thread := p_thread;
  g df_engine.graph_nodes;
  r record;
  v_place df_engine.place;
begin
  perform df_engine.require_key(p_key, v_role);
  if v_verdict = 'interrupted' then
    return row('interrupted', p_queue, null, null, null, null, null)::df_engine.place;
  elsif t.races is not null and not df_engine.lock_own_races(v_role, t, true) then
    return df_engine.record_cancelled(p_key, t, p_step, null, v_error, p_started);
  end if;
  select n as node, i.paused into r
  from df_engine.instances i join df_engine.graph_nodes n on n.graph = i.graph and n.node = (p_step).node
  where i.instance = t.instance and i.submitter = v_role and i.graph = p_graph and i.status = any ('{pending,running}')
  for key share of i;
  if not found then
    return df_engine.record_cancelled(p_key, t, p_step, null, v_error, p_started);
  end if;
  g := r.node;
  t.node := g.node;
  if v_verdict = 'divert' and not (p_step).block then
    perform df_engine.open_request(p_id, p_graph, v_role, true, t, p_queue, g, true);
  elsif not v_refused and df_engine.retry_step(t, g, v_error, p_sqlstate, df_engine.sql_retryable(p_sqlstate, g.retry), null, p_started) then
    delete from df_engine.queue q where q.lane = 'sql' and q.submitter = v_role and q.id = p_queue;
  else
    v_place := df_engine.fail_node(p_id, p_graph, v_role, true, t, p_queue, g, v_error, p_started, p_sqlstate,
                                   df_engine.error_parts(p_message, p_detail, p_hint));
  end if;
  if r.paused then
    perform df_engine.set_aside(t.instance);
  elsif v_place.report is not null or v_place.steps is not null then
    return v_place;
  end if;
  return row('again', p_queue, null, null, null, null, null)::df_engine.place;
end
$$;

-- What an error of a step says: the server's message with its SQLSTATE, then detail and hint. The JSON text of a composite value,
-- put where its type is wanted, is refused by PostgreSQL without a word on what it is. A step decides how long each part is.
create or replace function df_engine.error_text(p_sqlstate text, p_message text, p_detail text, p_hint text)
returns text
language sql immutable set search_path = '' as $$
  select 'SQL execution failed: ' || left(p_message, 10000) || ' (SQLSTATE ' || p_sqlstate || ')'
    || coalesce(chr(10) || 'DETAIL: ' || nullif(left(p_detail, 10000), ''), '')
    || coalesce(chr(10) || 'HINT: ' || coalesce(nullif(left(p_hint, 10000), ''), case when p_sqlstate = '22P02' and strpos(p_message, '{"') > 0
      then 'This is the JSON text of a value of a composite type: read it with jsonb_populate_record(null::the_type, $name.column).'
    end), '');
$$;

-- What outcomes keep of such an error beside its text.
create or replace function df_engine.error_parts(p_message text, p_detail text, p_hint text) returns jsonb
language sql immutable set search_path = '' as $$
  select jsonb_build_object('message', left(p_message, 10000), 'detail', left(nullif(p_detail, ''), 10000),
                            'hint', left(nullif(p_hint, ''), 10000))
$$;

-- How a step that failed is to be treated: divert (PostgreSQL wants it outside a transaction), interrupted (a cancel
-- request that its own statement_timeout does not explain), or fail.
create or replace function df_engine.judge_error(p_sqlstate text, p_started timestamptz) returns text
language plpgsql volatile set search_path = '' as $$
declare
  v_limit constant interval := current_setting('statement_timeout')::interval;
begin
  if p_sqlstate in ('25001', '2D000') then
    return 'divert';
  elsif p_sqlstate = '57014'
        and (v_limit = interval '0' or clock_timestamp() - p_started < v_limit - interval '100 ms') then
    return 'interrupted';
  end if;
  return 'fail';
end
$$;

-- The driver: df_engine.work runs in a session logged in as the submitter and loops inside the server. One transaction a step: claim,
-- statement, outcome, transition. Under the relaxed commit policy plain steps that follow each other share one, if they have just been
-- seen to be short, and a commit waits for the disk only where the outside could notice. It runs with the search_path of the role, so
-- every name in it is qualified, operators included. After each COMMIT PL/pgSQL prepares every expression anew: the fewer, the better.

-- Granted to users and workers.
create or replace function df_engine.deadline(p_ms int) returns timestamptz
language sql volatile set search_path = '' as $$
  select clock_timestamp() + p_ms * interval '1 ms';
$$;

-- How many steps may share a transaction.
-- Granted to users.
create or replace function df_engine.group_limit(p_careful boolean) returns int
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select case when s.value = 'relaxed' and not p_careful then 16 else 1 end from df_engine.settings s where s.name = 'commit_policy';
$$;

-- Steps that have been seen to take less than 5 ms, as the keys of p_short, after one more that began at p_started.
-- Granted to users.
create or replace function df_engine.short_steps(p_short jsonb, p_step text, p_started timestamptz) returns jsonb
language plpgsql volatile set search_path = '' as $$
begin
  if clock_timestamp() > p_started + interval '5 ms' then
    return p_short - p_step;
  elsif p_short ? p_step then
    return p_short;
  elsif pg_column_size(p_short) > 20000 then
    p_short := '{}';
  end if;
  return p_short || jsonb_build_object(p_step, null);
end
$$;

-- What every step may rely on, whatever the defaults of its role are. A worker logs in with them.
-- Granted to users.
create or replace function df_engine.set_step_settings() returns void
language plpgsql as $$
begin
  perform pg_catalog.set_config('TimeZone', 'UTC', false);
  perform pg_catalog.set_config('DateStyle', 'ISO,MDY', false);
  perform pg_catalog.set_config('IntervalStyle', 'postgres', false);
  perform pg_catalog.set_config('bytea_output', 'hex', false);
  perform pg_catalog.set_config('extra_float_digits', '1', false);
  perform pg_catalog.set_config('standard_conforming_strings', 'on', false);
  perform pg_catalog.set_config('df.in_workflow', 'true', false);
  perform pg_catalog.set_config('default_transaction_isolation', 'read committed', false);
  perform pg_catalog.set_config('default_transaction_read_only', 'off', false);
end
$$;

-- Runs ready steps of session_user until none is ready ('empty'), p_budget_ms have passed ('budget'), or a step was
-- cancelled by somebody else ('interrupted:<queue>:<instance>:<node>'). p_careful: say before each step which one
-- it is, so that a step that kills its session fails in the end. p_visiting: in a session that is not a worker's, so the settings that
-- steps rely on are made here.
-- Granted to users.
create or replace procedure df_engine.work(p_budget_ms int, p_careful boolean, inout p_report text, p_visiting boolean default false)
language plpgsql as $$
declare
  v_deadline constant pg_catalog.timestamptz := df_engine.deadline(p_budget_ms);
  v_together constant int := df_engine.group_limit(p_careful);
  v_limit bigint;
  v_key pg_catalog.text;
  v_low bigint := 0;
  v_place df_engine.place;
  v_next df_engine.place;
  v_at int := 0;
  v_step df_engine.step;
  v_result df_engine.result;
  v_no_rows df_engine.result;
  v_started pg_catalog.timestamptz;
  v_refused boolean := false;
  v_code pg_catalog.text;
  v_message pg_catalog.text;
  v_detail pg_catalog.text;
  v_hint pg_catalog.text;
  v_group int := 0;                       -- steps in this transaction before this one
  v_begun pg_catalog.timestamptz;
  v_more boolean := false;                -- the next step follows in this transaction
  v_short pg_catalog.jsonb := '{}'::pg_catalog.jsonb;
begin
  -- A function of df, not of df_engine: a role without USAGE on df is refused here, and its runs wait and say so.
  select k.key, df.setting('max_result_bytes')::bigint into v_key, v_limit from df_engine.own_key k;
  v_no_rows := df_engine.no_rows(null);
  -- Nothing of a step, or of whoever had this session before, reaches the next one. Of a session without temporary tables one test is made.
  reset all;
  deallocate all;
  execute 'close all';
  unlisten *;
  if pg_catalog.pg_advisory_unlock_all() is not null and (pg_catalog.oidne(pg_catalog.pg_my_temp_schema(), 0::pg_catalog.oid)
      or not pg_catalog.nameeq(current_user, session_user) or p_visiting) then
    reset role;
    discard temp;
    if p_visiting then
      perform df_engine.set_step_settings();
    end if;
  end if;
  commit;  -- an installer that is run again waits for no step
  loop
    v_started := pg_catalog.clock_timestamp();
    v_at := pg_catalog.int4pl(v_at, 1);
    if pg_catalog.int4eq(v_group, 0) and (
        v_place.steps[v_at].node is null or pg_catalog.timestamptz_gt(v_started, v_deadline)
        or not df_engine.claim_next(v_place.queue, v_place.version, v_place.steps[v_at].name)) then
      if pg_catalog.timestamptz_gt(v_started, v_deadline) then
        p_report := 'budget';
        exit;
      end if;
      v_place := df_engine.claim_step(v_key, v_place.queue, v_low, p_careful);
      if v_place.report is not null then
        if pg_catalog.texteq(v_place.report, 'empty') then
          p_report := 'empty';
          exit;
        end if;
        commit;
        v_at := 0;
        continue;
      end if;
      v_at := 1;
      v_low := v_place.queue;
    end if;
    v_step := v_place.steps[v_at];
    loop
      begin
        if pg_catalog.texteq(v_step.statement, 'rows') then  -- the commonest
          v_result := df_engine.run_statement(v_step.text, v_step.statement, v_step.typed, v_limit);
        else
          if v_step.statement is null then
            v_refused := true;
            select p.sql, p.statement into v_step.text, v_step.statement
            from df_engine.prepare_step(v_key, v_place.graph, v_place.thread, v_step) p;
            v_refused := false;
          end if;
          if pg_catalog.texteq(v_step.statement, 'command') then
            execute v_step.text;
            v_result := v_no_rows;
          else
            v_result := df_engine.run_statement(v_step.text, v_step.statement, v_step.typed, v_limit);
          end if;
        end if;
        set constraints all immediate;
        exit;
      exception when others or query_canceled or assert_failure then
        get stacked diagnostics v_code = returned_sqlstate, v_message = message_text, v_detail = pg_exception_detail,
          v_hint = pg_exception_hint;
        exit when df_engine.other_kind(v_step.statement, v_code) is null;
        v_step.statement := df_engine.other_kind(v_step.statement, v_code);
        v_code := null;
      end;
    end loop;
    -- Nothing of a step, or of whoever had this session before, reaches the next one. Of a session without temporary tables one test is made.
    reset all;
    deallocate all;
    execute 'close all';
    unlisten *;
    if pg_catalog.pg_advisory_unlock_all() is not null and (pg_catalog.oidne(pg_catalog.pg_my_temp_schema(), 0::pg_catalog.oid)
        or not pg_catalog.nameeq(current_user, session_user) or p_visiting) then
      reset role;
      discard temp;
      if p_visiting then
        perform df_engine.set_step_settings();
      end if;
    end if;
    if v_code is null and pg_catalog.int4eq(v_together, 1) then
      v_next := df_engine.record_step(v_key, v_place.id, v_place.graph, v_place.queue, v_place.thread, v_step, v_result,
                                      v_started, false);
      if v_next is null then
        commit;
        continue;
      end if;
    elsif v_code is null then
      v_short := df_engine.short_steps(v_short, pg_catalog.hashtextextended(v_place.steps[v_at].text, 0)::pg_catalog.text, v_started);
      v_begun := case when pg_catalog.int4gt(v_group, 0) then v_begun else v_started end;
      v_more := v_step.plain and pg_catalog.jsonb_exists(
          v_short, pg_catalog.hashtextextended(v_place.steps[pg_catalog.int4pl(v_at, 1)].text, 0)::pg_catalog.text)
        and pg_catalog.int4lt(pg_catalog.int4pl(v_group, 1), v_together)
        and pg_catalog.timestamptz_lt(pg_catalog.clock_timestamp(),
              pg_catalog.timestamptz_pl_interval(v_begun, '20 ms'::pg_catalog.interval));
      v_next := df_engine.record_step(v_key, v_place.id, v_place.graph, v_place.queue, v_place.thread, v_step, v_result,
                                      v_started, v_more);
      if v_next.report is null then
        if v_more and v_next.steps is null then
          v_group := pg_catalog.int4pl(v_group, 1);
          perform pg_catalog.set_config('application_name', v_place.steps[pg_catalog.int4pl(v_at, 1)].name, true);
          continue;
        end if;
        set local synchronous_commit = off;
        if v_next.steps is null then
          v_group := 0;
          commit;
          continue;
        end if;
      end if;
    elsif pg_catalog.int4gt(v_group, 0) then
      -- What fails in company may fail because of it: those before it are recorded, and it runs again alone.
      v_short := pg_catalog.jsonb_delete(v_short, pg_catalog.hashtextextended(v_place.steps[v_at].text, 0)::pg_catalog.text);
      v_group := 0;
      v_at := pg_catalog.int4mi(v_at, 1);
      v_code := null;
      v_refused := false;
      if df_engine.lock_own_run(v_place.thread) then
        set local synchronous_commit = off;
        commit;
      else
        rollback;
        v_place := null;
        v_at := 0;
      end if;
      continue;
    else
      v_next := df_engine.fail_step(v_key, v_place.id, v_place.graph, v_place.queue, v_place.thread, v_step, v_code, v_message,
                                    v_detail, v_hint, v_refused, v_started);
      v_code := null;
      v_refused := false;
    end if;
    v_group := 0;
    if v_next.report is null or pg_catalog.texteq(v_next.report, 'again') then
      commit;
    else
      rollback;
    end if;
    if pg_catalog.texteq(v_next.report, 'interrupted') then
      p_report := pg_catalog.concat('interrupted:', v_place.queue, ':', v_place.id, ':', pg_catalog.split_part(v_step.name, ':', 3));
      exit;
    end if;
    if v_next.steps is null then
      v_next.queue := null;
    end if;
    v_place := v_next;
    v_at := 0;
  end loop;
end
$$;

-- Requests: what a worker is given to run a step itself, be it SQL outside a transaction or in another database, or HTTP. Made in a
-- session of the submitter, after substitution and all checks, and kept in the queue until a worker leases it.


-- What a direct step needs: the statement if it is one, and unless it is refused there, a DO block that runs it, or the several of a
-- BLOCK, in a transaction and leaves its value in the setting df.step_result.
create or replace function df_engine.direct_request(
  p_id text, p_thread df_engine.thread, p_node df_engine.graph_nodes, p_autocommit boolean
) returns jsonb
language plpgsql stable as $$
declare
  v_is_block constant boolean := (p_node).kind = 'BLOCK';
  v_statements text[];
  v_problem text;
begin
  if v_is_block then
    v_statements := df_engine.prepare_block(p_thread, (p_node).name_scopes, (p_node).query);
  else
    v_statements := array[df_engine.bare_statement(df_engine.render(p_thread, (p_node).name_scopes, (p_node).query, 'sql'))];
    v_problem := df_engine.single_statement_problem(v_statements[1]);
    if v_problem is not null then
      raise exception 'SQL execution failed: %', v_problem using errcode = 'DF011';
    end if;
  end if;
  return jsonb_build_object(
    'sql', case when not v_is_block then v_statements[1] end,
    'application_name', 'pg_durable:' || p_id || ':' || df_engine.node_id(p_id, (p_node).node),
    'block', case when not p_autocommit then df_engine.remote_block(v_statements, v_is_block, (p_node).typed) end,
    'max_result_bytes', df_engine.setting_number('max_result_bytes'),
    'name_types', case when (p_node).typed then $sql$select pg_catalog.array_agg(case
      when pg_catalog.oideq(t.typbasetype, 114::pg_catalog.oid) or exists (
        select from pg_catalog.pg_cast c
        where pg_catalog.oideq(c.castsource, t.oid) and pg_catalog.oideq(c.casttarget, 114::pg_catalog.oid)
          and pg_catalog.chareq(c.castmethod, 'f')) then 'pg_catalog.json'
      when pg_catalog.oideq(t.typbasetype, 3802::pg_catalog.oid) then 'pg_catalog.jsonb'
      when pg_catalog.chareq(coalesce(e.typtype, t.typtype), 'p') then 'pg_catalog.text'
      else pg_catalog.concat(pg_catalog.quote_ident(n.nspname), '.', pg_catalog.quote_ident(coalesce(e.typname, t.typname)),
                             case when e.oid is not null then '[]' end)
    end order by o.place)
  from pg_catalog.unnest(%s::pg_catalog.oid[]) with ordinality o(id, place)
  join pg_catalog.pg_type t on pg_catalog.oideq(t.oid, o.id)
  left join pg_catalog.pg_type e on pg_catalog.oideq(e.oid, t.typelem) and pg_catalog.oideq(e.typarray, t.oid)
  join pg_catalog.pg_namespace n on pg_catalog.oideq(n.oid, coalesce(e.typnamespace, t.typnamespace))$sql$ end);
end
$$;

-- df_engine.run_statement for a database in which pg_durable is not installed, as a DO block; names are made final at home.
create or replace function df_engine.remote_block(p_statements text[], p_block boolean, p_typed boolean) returns text
language plpgsql stable set search_path = '' as $$
begin
  return 'do ' || quote_literal(replace(replace(replace(replace(replace($block$
declare
  p_statements constant pg_catalog.text[] := array[@STATEMENTS@];
  p_sql constant pg_catalog.text := p_statements[pg_catalog.cardinality(p_statements)];
  p_block constant boolean := @BLOCK@;
  p_kind pg_catalog.text := @KIND@;
  p_typed constant boolean := @TYPED@;
  p_limit constant bigint := @LIMIT@;
  p_columns pg_catalog.text[];
  p_types pg_catalog.text[];
  v_types pg_catalog.oid[];
  v_row pg_catalog.record;
  v_rows pg_catalog.text;
  v_list pg_catalog.text[];
  v_size bigint;
  v_number int := 0;
  v_code pg_catalog.text;
  v_message pg_catalog.text;
  v_detail pg_catalog.text;
  v_hint pg_catalog.text;
begin
  begin
    for v_at in 1 .. pg_catalog.int4mi(pg_catalog.cardinality(p_statements), 1) loop
      v_number := v_at;
      execute p_statements[v_at];
    end loop;
    v_number := pg_catalog.cardinality(p_statements);
    loop
      if pg_catalog.texteq(p_kind, 'command') then
        execute p_sql;
        exit;
      end if;
      begin
  if pg_catalog.texteq(p_kind, 'rows') then
    for v_row in execute p_sql loop
      v_rows := pg_catalog.concat_ws(',', v_rows, pg_catalog.row_to_json(v_row));
      if pg_catalog.int4gt(pg_catalog.octet_length(v_rows), 65536) then
        v_list := pg_catalog.array_append(v_list, v_rows);
        v_size := pg_catalog.int84pl(coalesce(v_size, 0), pg_catalog.octet_length(v_rows));
        v_rows := null;
        if pg_catalog.int8gt(v_size, p_limit) then
          raise exception 'the result has more than % bytes of JSON, and max_result_bytes allows %', v_size, p_limit
        using errcode = 'DF012', hint = 'Return keys, and leave the data in a table that the next step reads.';
        end if;
      end if;
    end loop;
  elsif pg_catalog.texteq(p_kind, 'query') then
    -- In FROM it gets the plan that it has by itself, a parallel one too, which a cursor never gets.
    execute pg_catalog.concat('select pg_catalog.string_agg(pg_catalog.row_to_json(q.*)::pg_catalog.text, '','') from (', p_sql, E'\n) q')
    into v_rows;
    if v_rows is null then
      for v_row in execute pg_catalog.concat('select * from (', p_sql, E'\n) q where false') loop
        null;  -- what is wanted is the row's shape
      end loop;
    end if;
  elsif pg_catalog.texteq(p_kind, 'call') and not exists (
    select from pg_catalog.pg_proc p
    join pg_catalog.pg_namespace n on pg_catalog.oideq(n.oid, p.pronamespace)
    cross join pg_catalog.parse_ident(pg_catalog.substring(
      pg_catalog.regexp_replace(p_sql, E'--[^\n\r]*|/[*].*?[*]/', ' ', 'g'),
      '^[[:space:]]*[Cc][Aa][Ll][Ll][[:space:]]+((?:"[^"]+"|[^[:space:]"(.]+)(?:[[:space:]]*[.][[:space:]]*'
      '(?:"[^"]+"|[^[:space:]"(.]+))?)[[:space:]]*[(]')) i(name)
    where pg_catalog.nameeqtext(p.proname, i.name[pg_catalog.cardinality(i.name)]) and pg_catalog.chareq(p.prokind, 'p')
      and pg_catalog.arrayoverlap(p.proargmodes, '{o,b}'::pg_catalog."char"[])
      and (pg_catalog.nameeqtext(n.nspname, i.name[1]) or pg_catalog.pg_function_is_visible(p.oid))) then
    execute p_sql;  -- a CALL without parameters that hold a result
  elsif pg_catalog.texteq(p_kind, 'call') then
    execute p_sql into v_row;
    v_rows := pg_catalog.row_to_json(v_row);
  else
    begin
      for v_row in execute p_sql loop
      v_rows := pg_catalog.concat_ws(',', v_rows, pg_catalog.row_to_json(v_row));
      if pg_catalog.int4gt(pg_catalog.octet_length(v_rows), 65536) then
        v_list := pg_catalog.array_append(v_list, v_rows);
        v_size := pg_catalog.int84pl(coalesce(v_size, 0), pg_catalog.octet_length(v_rows));
        v_rows := null;
        if pg_catalog.int8gt(v_size, p_limit) then
          raise exception 'the result has more than % bytes of JSON, and max_result_bytes allows %', v_size, p_limit
        using errcode = 'DF012', hint = 'Return keys, and leave the data in a table that the next step reads.';
        end if;
      end if;
    end loop;
    exception when invalid_cursor_definition then
      execute p_sql;  -- it returns none after all
    end;
  end if;
        exit;
      exception when others then
        p_kind := case
        when pg_catalog.texteq(p_kind, 'query') and pg_catalog.textregexeq(sqlstate, '^(42601|0A000|54)') then 'utility'
        when pg_catalog.texteq(p_kind, 'rows') and pg_catalog.texteq(sqlstate, '42P11') then 'perhaps'
      end;
        if p_kind is null then
          raise;
        end if;
      end;
    end loop;
  exception when others or query_canceled or assert_failure then
    get stacked diagnostics v_code = returned_sqlstate, v_message = message_text, v_detail = pg_exception_detail, v_hint = pg_exception_hint;
    if p_block then
      v_message := pg_catalog.concat('statement ', v_number, ' of ', pg_catalog.cardinality(p_statements), ': ', v_message);
    end if;
    if p_block and (pg_catalog.texteq(v_code, '25001') or pg_catalog.texteq(v_code, '2D000')) then
      v_hint := 'A block is one transaction. Make this statement, which cannot be in one, a step of its own.';
    end if;
    raise exception using errcode = v_code, message = v_message, detail = v_detail, hint = v_hint;
  end;
  v_rows := nullif(pg_catalog.array_to_string(pg_catalog.array_append(v_list, v_rows), ','), '');
  if pg_catalog.int84lt(p_limit, pg_catalog.octet_length(v_rows)) then
    raise exception 'the result has % bytes of JSON, and max_result_bytes allows %', pg_catalog.octet_length(v_rows), p_limit
        using errcode = 'DF012', hint = 'Return keys, and leave the data in a table that the next step reads.';
  end if;
  p_columns := (select pg_catalog.array_agg(k) from pg_catalog.json_object_keys(coalesce(
    pg_catalog.json_array_element(pg_catalog.concat('[', v_rows, ']')::pg_catalog.json, 0), pg_catalog.row_to_json(v_row))) k);
  if p_typed and p_columns is not null then
  if pg_catalog.texteq(p_kind, 'query') then
    execute (
      select pg_catalog.concat('select array[', pg_catalog.string_agg(pg_catalog.concat('pg_catalog.pg_typeof(x.c', g, ')'), ','),
        ']::pg_catalog.oid[] from (select) d left join (', p_sql, E'\n) x(', pg_catalog.string_agg(pg_catalog.concat('c', g), ','),
        ') on false')
      from pg_catalog.generate_series(1, pg_catalog.cardinality(p_columns)) g)
    into v_types;
  elsif (pg_catalog.texteq(p_kind, 'rows') or pg_catalog.texteq(p_kind, 'perhaps')) and pg_catalog.int4ge(pg_catalog.current_setting('server_version_num')::int, 160000) then
    execute pg_catalog.concat('prepare pg_durable_step as ', p_sql);
    execute pg_catalog.concat('select s.result_types::pg_catalog.oid[] from pg_catalog.pg_prepared_statements s ',
      'where pg_catalog.texteq(s.name, ''pg_durable_step'')') into v_types;
    deallocate pg_durable_step;
  end if;
  if v_types is not null then
    p_types := (select pg_catalog.array_agg(case
      when pg_catalog.oideq(t.typbasetype, 114::pg_catalog.oid) or exists (
        select from pg_catalog.pg_cast c
        where pg_catalog.oideq(c.castsource, t.oid) and pg_catalog.oideq(c.casttarget, 114::pg_catalog.oid)
          and pg_catalog.chareq(c.castmethod, 'f')) then 'pg_catalog.json'
      when pg_catalog.oideq(t.typbasetype, 3802::pg_catalog.oid) then 'pg_catalog.jsonb'
      when pg_catalog.chareq(coalesce(e.typtype, t.typtype), 'p') then 'pg_catalog.text'
      else pg_catalog.concat(pg_catalog.quote_ident(n.nspname), '.', pg_catalog.quote_ident(coalesce(e.typname, t.typname)),
                             case when e.oid is not null then '[]' end)
    end order by o.place)
  from pg_catalog.unnest(v_types) with ordinality o(id, place)
  join pg_catalog.pg_type t on pg_catalog.oideq(t.oid, o.id)
  left join pg_catalog.pg_type e on pg_catalog.oideq(e.oid, t.typelem) and pg_catalog.oideq(e.typarray, t.oid)
  join pg_catalog.pg_namespace n on pg_catalog.oideq(n.oid, coalesce(e.typnamespace, t.typnamespace)));
  end if;
  end if;
  perform pg_catalog.set_config('df.step_result', pg_catalog.json_build_object(
    'rows', pg_catalog.concat('[', v_rows, ']')::pg_catalog.json,
    'row_count', pg_catalog.json_array_length(pg_catalog.concat('[', v_rows, ']')::pg_catalog.json),
    'columns', p_columns, 'types', p_types)::pg_catalog.text, true);
end$block$, '@KIND@', quote_literal(df_engine.statement_kind(p_statements[cardinality(p_statements)]))),
    '@TYPED@', p_typed::pg_catalog.text), '@LIMIT@', df_engine.setting('max_result_bytes')), '@BLOCK@', p_block::pg_catalog.text),
    '@STATEMENTS@', (select string_agg(quote_literal(s.text), ',' order by s.place) from unnest(p_statements) with ordinality s(text, place))));
end
$$;

-- The key under which the other side knows a request again: all attempts of a node in one generation share it, and no two
-- generations do.
create or replace function df_engine.idempotency_key(p_instance bigint, p_node df_engine.graph_nodes, p_generations int[]) returns text
language plpgsql stable as $$
begin
  return (
    select lpad(to_hex(i.run_key), 16, '0') || '/' || (p_node).node || '/'
           || substr(replace(df_engine.stamp(i.id, (p_node).tops, p_generations), '::', '.'), 10)
    from df_engine.instances i where i.instance = p_instance);
end
$$;

-- What an HTTP step sends, after substitution and the checks of the policy. Of its secrets it has the names only.
create or replace function df_engine.http_step(
  p_submitter oid, p_thread df_engine.thread, p_node df_engine.graph_nodes
) returns jsonb
language plpgsql stable as $$
declare
  v_config constant jsonb := df_engine.mark_secrets(df_engine.http_config((p_node).kind, (p_node).query));
  v_vars constant jsonb := df_engine.variables_of((p_thread).instance);
  v_wanted constant text[] := df_engine.http_names((p_node).kind, v_config::pg_catalog.text, v_vars);
  v_known constant text[] := df_engine.known_names((p_thread).instance, (p_thread).scope);
  v_missing constant text := case when v_config ? 'mark' then
    df_engine.missing_secret(p_submitter, array(select jsonb_array_elements_text(v_config -> 'secrets'))) end;
begin
  if v_missing is not null then
    raise exception 'role % has no secret "%"; set it: pg-durable secret set %', p_submitter::pg_catalog.regrole, v_missing, v_missing
      using errcode = 'DF020';
  end if;
  return df_engine.http_request(
    (p_node).kind,
    df_engine.render_http((p_node).kind, v_config::pg_catalog.text, v_vars,
                          df_engine.names((p_thread).instance, (p_thread).scope, (p_node).name_scopes, v_wanted, v_known), v_known),
    p_submitter,
    jsonb_build_object(
      'idempotency_key', df_engine.idempotency_key((p_thread).instance, p_node, (p_thread).generations),
      'traceparent', (select i.traceparent from df_engine.instances i where i.instance = (p_thread).instance),
      'retry_on', (p_node).retry -> 'retry_on'));
end
$$;

-- Puts a claimed step into the lane of those that workers run, with its request; or fails it, if it is refused.
create or replace function df_engine.open_request(
  p_id text, p_graph bigint, p_submitter oid, p_home boolean, p_thread df_engine.thread, p_queue bigint,
  p_node df_engine.graph_nodes, p_autocommit boolean
) returns void
language plpgsql as $$
declare
  v_request jsonb;
begin
  if (p_node).kind in ('SQL', 'BLOCK') then
    v_request := df_engine.direct_request(p_id, p_thread, p_node, p_autocommit);
  else
    v_request := df_engine.http_step(p_submitter, p_thread, p_node);
  end if;
  update df_engine.queue q
  set lane = case when (p_node).kind in ('SQL', 'BLOCK') then 'direct' else 'http' end, request = v_request, picked = true,
      id = df_engine.queue_place((p_queue & 255)::int), next_try_at = df_engine.clock(),
      node = (p_node).node
  where q.lane = 'sql' and q.submitter = p_submitter and q.id = p_queue;
  perform df_engine.wake('l', null);
exception when sqlstate 'DF010' or sqlstate 'DF011' or sqlstate 'DF013' or sqlstate 'DF020' or data_exception or program_limit_exceeded then
  perform df_engine.fail_node(p_id, p_graph, p_submitter, p_home, p_thread, p_queue, p_node, sqlerrm, df_engine.clock(), sqlstate);
end
$$;

-- Leases: steps that are not run inside the database are claimed by a worker with a lease that holds as long as its
-- supervising session does; the worker runs them itself and reports what came of it. At least once.

-- Workers that are alive: their session holds their advisory lock, and is logged in as a worker role.
create or replace function df_engine.live_workers() returns setof int
language sql stable set search_path = '' as $$
  select w.worker
  from df_engine.workers w
  join pg_catalog.pg_locks l on l.classid = ((w.alive >> 32) & 4294967295)::pg_catalog.oid and l.objid = (w.alive & 4294967295)::pg_catalog.oid
  join pg_catalog.pg_stat_activity a on a.pid = l.pid
  join df_engine.worker_roles r on r.role = a.usesysid
  where l.locktype = 'advisory' and l.objsubid = 1 and l.granted
    and l.database = (select d.oid from pg_catalog.pg_database d where d.datname = current_database());
$$;

-- Claims one step of a lane, if it may still run. False: it was dropped, or somebody has locked its run, and it is tried again later.
create or replace function df_engine.lease_step(p_worker int, p_queue df_engine.queue) returns boolean
language plpgsql as $$
declare
  v_status text;
  v_paused boolean;
begin
  if not df_engine.try_lock_run((p_queue).instance) then
    update df_engine.queue q set next_try_at = df_engine.clock() + interval '200 ms'
    where q.lane = (p_queue).lane and q.submitter = (p_queue).submitter and q.id = (p_queue).id;
    return false;
  end if;
  select i.status, i.paused into v_status, v_paused from df_engine.instances i where i.instance = (p_queue).instance;
  if v_status is null or v_status not in ('pending', 'running') or (p_queue).races is not null and df_engine.has_lost((p_queue).races) then
    delete from df_engine.queue q
    where q.lane = (p_queue).lane and q.submitter = (p_queue).submitter and q.id = (p_queue).id;
    return false;
  elsif v_paused then  -- another worker had it when the run was paused
    perform df_engine.set_aside((p_queue).instance);
    return false;
  end if;
  update df_engine.queue q set worker = p_worker, leased_at = df_engine.clock()
  where q.lane = (p_queue).lane and q.submitter = (p_queue).submitter and q.id = (p_queue).id;
  return found;
end
$$;

-- The steps of a lane that a worker may lease now, in their order: each role's in theirs; between roles the one with the fewest leases
-- is next. At most p_limit; p_common of them for roles that hold leases of this worker already, the others one each for those that hold none (first).
create or replace function df_engine.leasable(p_worker int, p_lane text, p_limit int, p_common int)
returns table (submitter oid, id bigint, turn bigint, next_try_at timestamptz, first boolean)
language plpgsql stable as $$
begin
  return query
    select s.role, f.id, f.place + s.leased, f.next_try_at, f.place = 1 and s.here = 0
    from (
      select r.role, count(l.worker) as leased, count(*) filter (where l.worker = p_worker) as here
      from df_engine.submitters(p_lane) r(role)
      left join df_engine.queue l on l.lane = p_lane and l.submitter = r.role and l.worker is not null
      group by r.role) s
    left join df_engine.role_shares(p_worker) x on x.role = s.role
    cross join lateral (
      select w.id, w.next_try_at, row_number() over (order by w.id) as place
      from df_engine.queue w
      where w.lane = p_lane and w.lane <> 'sql' and w.submitter = s.role and w.worker is null
        and w.next_try_at <= (select df_engine.clock())
      order by w.id
      limit greatest(0, least(case when p_common > 0 then p_limit + 100 else (s.here = 0)::int end,
                              case p_lane when 'http' then x.http else x.sessions end - s.here))) f
    where p_limit > 0
    order by 3, 4, 2;
end
$$;

-- How many steps of the lane http a worker has room for; of these, for roles that hold some already.
create or replace function df_engine.http_room(p_worker int, out room int, out common int)
language plpgsql stable as $$
declare
  v_most constant int := df_engine.setting_number('max_http_requests');
begin
  room := greatest(0, v_most - (
    select count(*) from df_engine.submitters('http') r(role)
    join df_engine.queue q on q.lane = 'http' and q.submitter = r.role and q.worker = p_worker));
  common := greatest(0, room - least(df_engine.setting_number('reserved_http_requests')::int, v_most - 1));
end
$$;

-- Claims up to p_limit steps of a lane for a worker, passing over those of runs that somebody has locked. One that has killed its workers again and again fails.
-- One at least, and no more requests than fit into p_bytes; none of the roles p_sated, whose steps fill the worker's memory.
-- Granted to workers.
create or replace function df_engine.claim_leased(
  p_worker int, p_lane text, p_limit int, p_bytes bigint default null, p_sated name[] default null
) returns table (ticket bigint, role text, database text, request jsonb, bytes bigint)
language plpgsql security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = 'force_generic_plan'
  set jit = off set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off as $$
declare
  v_common int := p_limit;
  v_next record;
  v_queue df_engine.queue;
  v_claimed int := 0;
  v_bytes bigint := 0;
begin
  if p_lane = 'http' then
    select least(p_limit, h.room), least(p_limit, h.common) into p_limit, v_common from df_engine.http_room(p_worker) h;
  end if;
  for v_next in
    select q as queue, n.first
    from df_engine.leasable(p_worker, p_lane, p_limit, v_common) n
    join df_engine.queue q on q.lane = p_lane and q.submitter = n.submitter and q.id = n.id
    where q.lane <> 'sql' and not coalesce(pg_get_userbyid(q.submitter) = any (p_sated), false)
    order by n.turn, n.next_try_at, n.id for update of q skip locked
  loop
    exit when v_claimed >= p_limit or v_bytes > p_bytes;
    v_queue := v_next.queue;
    continue when v_claimed >= v_common and not v_next.first or not df_engine.lease_step(p_worker, v_queue);
    if v_queue.crash_score >= 12 then
      perform df_engine.complete_leased(p_worker, v_queue.id, json_build_object(
        'error', 'the worker that ran this step died, again and again', 'class', 'refused', 'sqlstate', 'DF011'));
      continue;
    end if;
    ticket := v_queue.id;
    role := pg_get_userbyid(v_queue.submitter);
    database := case when p_lane = 'direct' then coalesce(
      (select i.database from df_engine.instances i where i.instance = v_queue.instance), current_database()) end;
    request := v_queue.request;
    bytes := octet_length(request::text);
    v_bytes := v_bytes + bytes;
    v_claimed := v_claimed + 1;
    return next;
  end loop;
end
$$;

-- Records the outcome of a leased step and makes the transition. False: the run is over or the lease was lost, and the outcome
-- is dropped. NULL: not now, somebody has locked the run. p_outcome: {"rows", "row_count", "columns", "types"} of a statement,
-- {"value"} of a request, or {"error", "class", "sqlstate", "retry_after"}, where a statement's error is {"message", "detail", "hint"}.
create or replace function df_engine.record_leased(p_worker int, p_ticket bigint, p_outcome json) returns boolean
language plpgsql as $$
declare
  q df_engine.queue;
  i df_engine.instances;
  g df_engine.graph_nodes;
  t df_engine.thread;
  v_ending df_engine.ending;
  v_outcome constant jsonb := (
    select coalesce(jsonb_object_agg(o.key, o.value), '{}') from json_each(p_outcome) o where o.key not in ('rows', 'value'));
begin
  select * into q from df_engine.queue x
  where x.id = p_ticket and x.worker = p_worker and x.lane in ('direct', 'http');
  if not found then
    return false;
  elsif not df_engine.try_lock_run(q.instance) then
    return null;
  end if;
  delete from df_engine.queue x where x.lane = q.lane and x.submitter = q.submitter and x.id = q.id;
  select * into i from df_engine.instances x where x.instance = q.instance and x.status in ('pending', 'running');
  if not found or q.races is not null and not df_engine.lock_races(q.instance, q.races, true) then
    return false;
  end if;
  select * into g from df_engine.graph_nodes n where n.graph = i.graph and n.node = q.node;
  t := row(q.instance, q.scope, q.node, q.generations, q.activation, q.races);
  v_ending := df_engine.leased_ending(p_outcome);
  v_ending.started_at := coalesce(q.leased_at, df_engine.clock());
  if v_ending.error is not null and df_engine.retry_step(t, g, v_ending.error,
       coalesce(v_outcome ->> 'sqlstate', v_outcome ->> 'class'), df_engine.leased_retryable(g, v_outcome),
       (v_outcome ->> 'retry_after')::numeric, v_ending.started_at) then
    return true;
  end if;
  perform df_engine.put_outcome(t, g, v_ending);
  perform df_engine.advance(i.id, i.graph, i.submitter, true, t, null, v_ending);
  if i.paused then
    perform df_engine.set_aside(i.instance);
  end if;
  return true;
end
$$;

-- The same. What cannot be recorded for its own reasons fails its run, and nothing else.
-- Granted to workers.
create or replace function df_engine.complete_leased(p_worker int, p_ticket bigint, p_outcome json) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = 'force_generic_plan'
  set jit = off set enable_seqscan = off as $$
declare
  v_instance bigint;
begin
  perform set_config('df_engine.waits_for_nobody', 'on', true);
  return df_engine.record_leased(p_worker, p_ticket, p_outcome);
exception
  when lock_not_available or deadlock_detected or sqlstate 'DF001' then
    return null;
  when data_exception or program_limit_exceeded or integrity_constraint_violation or internal_error then
    select q.instance into v_instance from df_engine.queue q
    where q.id = p_ticket and q.worker = p_worker and q.lane in ('direct', 'http');
    if not df_engine.try_lock_whole_run(v_instance) then
      return null;
    end if;
    if not df_engine.try_fail_run(v_instance, 'the outcome of a step outside of transactions could not be recorded: ' || sqlerrm, true) then
      return null;
    end if;
    delete from df_engine.queue q where q.id = p_ticket and q.worker = p_worker and q.lane in ('direct', 'http');
    return true;
end
$$;

-- Read once: a result can be large.
create or replace function df_engine.leased_ending(p_outcome json) returns df_engine.ending
language plpgsql stable as $$
declare
  v_limit constant bigint := df_engine.setting('max_result_bytes')::bigint;
  r record;
  v_columns pg_catalog.text[];
  v_names pg_catalog.text[];
  v_result pg_catalog.json;
  v_size bigint;
begin
  select * into r from json_to_record(p_outcome) as x(
    rows pg_catalog.json, row_count pg_catalog.json, columns pg_catalog.json, types pg_catalog.json, value pg_catalog.json,
    error pg_catalog.text, class pg_catalog.text, sqlstate pg_catalog.text, message pg_catalog.text, detail pg_catalog.text, hint pg_catalog.text);
  v_result := coalesce(r.rows, r.value);
  v_size := octet_length(v_result::pg_catalog.text);
  if r.message is not null then
    return df_engine.failed(df_engine.error_text(r.sqlstate, r.message, r.detail, r.hint), null, r.sqlstate,
      df_engine.error_parts(r.message, r.detail, r.hint));
  elsif r.error is not null then
    return df_engine.failed(r.error, null, r.sqlstate, case when r.class is null then '{}' else jsonb_build_object('class', r.class) end);
  elsif v_size > v_limit then
    return df_engine.failed(format('the result has %s bytes of JSON, and max_result_bytes allows %s' || chr(10)
      || 'HINT: Return keys, and leave the data in a table that the next step reads.', v_size, v_limit), null, 'DF012');
  elsif r.rows is null then
    return df_engine.completed(v_result);
  end if;
  v_columns := df_engine.texts(r.columns);
  v_names := df_engine.final_names(v_columns);
  if v_names <> v_columns then
    v_result := df_engine.renamed_rows(v_result, v_names);
  end if;
  return df_engine.completed(json_build_object('rows', v_result, 'row_count', r.row_count), v_names, df_engine.texts(r.types));
end
$$;

-- A JSON array of strings as an array; NULL of anything else.
create or replace function df_engine.texts(p_list json) returns text[]
language sql immutable set search_path = '' as $$
  select array(select json_array_elements_text(p_list)) where json_typeof(p_list) = 'array'
$$;

create or replace function df_engine.leased_retryable(p_node df_engine.graph_nodes, p_outcome jsonb) returns boolean
language sql stable as $$
  select case
    when p_outcome ->> 'class' = 'refused' then false
    when p_outcome ->> 'error' is null and p_outcome ->> 'message' is null then false  -- it has ended, and its result is too large
    when (p_node).kind in ('SQL', 'BLOCK') then df_engine.sql_retryable(coalesce(p_outcome ->> 'sqlstate', '08006'), (p_node).retry)
    when (p_node).retry is not null and not (p_node).retry ? 'retry_on' then true
    else df_engine.http_retryable(p_outcome ->> 'class',
      case when (p_node).retry ? 'retry_on' then array(select jsonb_array_elements_text((p_node).retry -> 'retry_on'))
           else '{transient}' end)  -- an expected status that did not come is no reason to ask again
  end;
$$;

-- Gives leased steps back, for another worker. False: some of them not now, somebody is cancelling their runs.
-- Granted to workers.
create or replace function df_engine.release_leased(p_worker int, p_tickets bigint[]) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  update df_engine.queue r set worker = null
  from (select q.lane, q.submitter, q.id from df_engine.queue q
        where q.worker = p_worker and q.id = any (p_tickets) and q.lane in ('direct', 'http') for update skip locked) f
  where r.lane = f.lane and r.submitter = f.submitter and r.id = f.id;
  perform df_engine.wake('l', null);
  return not exists (select from df_engine.queue r
                     where r.worker = p_worker and r.id = any (p_tickets) and r.lane in ('direct', 'http'));
end
$$;

-- The worker that was p_former is alive: it had lost its connection while it ran these steps, which was not their doing.
-- Granted to workers.
create or replace function df_engine.clear_crash_scores(p_former int, p_tickets bigint[]) returns void
language sql security definer set search_path = pg_catalog, pg_temp as $$
  update df_engine.queue r set crash_score = 0, worker = nullif(r.worker, p_former)
  from (select q.lane, q.submitter, q.id from df_engine.queue q
        where q.lane in ('direct', 'http') and q.id = any (p_tickets) for update skip locked) f
  where r.lane = f.lane and r.submitter = f.submitter and r.id = f.id;
$$;

-- Frees the leases of workers that are gone. Each is weak evidence that the step has killed the worker (as in df_engine.raise_crash_score),
-- unless the server has been restarted since the worker was last seen.
-- Granted to workers.
create or replace function df_engine.reclaim_leases() returns int
language plpgsql security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = 'force_generic_plan'
  set jit = off set enable_seqscan = off as $$
declare
  v_freed int;
begin
  perform pg_stat_clear_snapshot();  -- who is alive must not be older than the leases
  update df_engine.queue r
  set worker = null,
      crash_score = r.crash_score + (exists (select from df_engine.workers w
                                   where w.worker = r.worker and w.last_seen_at > pg_postmaster_start_time()))::int
  where r.lane in ('direct', 'http') and r.worker is not null and r.id = any (array(
    select q.id from df_engine.queue q
    where q.lane in ('direct', 'http') and q.worker is not null
      and q.worker <> all (array(select df_engine.live_workers())) for update skip locked));
  get diagnostics v_freed = row_count;
  return v_freed;
end
$$;

-- Node states: what outcomes and waiting threads say about each node of a run, also about those that leave no outcome of their own,
-- the sequences and IFs. What is said of one run is folded by a function that reads no table; the view brings the rows together, with
-- its owner's rights, and df.nodes and the functions of monitoring read it.

do $types$
begin
  if to_regtype('df_engine.node_shape') is null then
    create type df_engine.node_shape as (node int, last int, parent int, place int, kind text, levels int, top int);
    -- key: the generations of the scopes around the node, as eight hexadecimal digits each, so that text compares as they do.
    -- state: as in outcomes; q queued, w running.
    create type df_engine.node_sign as (node int, state "char", key text);
    create type df_engine.node_state as (
      node int, status text, key text, began_with int, ended_with int, inferred_status text, from_ancestor int);
  end if;
end
$types$;

-- Steps that sessions are in now, as their application_name says. PostgreSQL keeps what it has read of activity until the end of
-- the transaction: whoever joins this with rows that may be newer calls pg_stat_clear_snapshot first.
create or replace view df_engine.steps_in_sessions as
  select a.pid, a.usesysid as submitter, split_part(a.application_name, ':', 2)::varchar as id,
         split_part(a.application_name, ':', 3)::varchar as node_id, a.xact_start,
         a.state is not null and a.backend_xid is null as ended  -- its transaction is over; unknown to who may not read activity
  from pg_catalog.pg_stat_activity a
  where a.datname = current_database() and a.application_name ~ '^pg_durable:[0-9a-f]{8}:[0-9a-f]{8}$';

-- A stamp: <scope>::<generation>, where a scope is <stamp of the surrounding scope>::<its top node>.
-- Granted to users.
create or replace function df_engine.stamp(p_id text, p_tops int[], p_generations int[]) returns text
language sql immutable
return p_id || '::' || coalesce(p_generations[1], 1) || coalesce((
  select string_agg('::' || df_engine.node_id(p_id, t.top) || '::' || p_generations[t.place + 1], '' order by t.place)
  from unnest(p_tops) with ordinality t(top, place)), '');

-- Granted to users.
create or replace function df_engine.generations_key(p_generations int[]) returns text
language sql immutable
return coalesce((select string_agg(lpad(to_hex(g.generation), 8, '0'), '' order by g.place)
                 from unnest(p_generations) with ordinality g(generation, place)), '00000001');

-- Granted to users.
create or replace function df_engine.key_generations(p_key text) returns int[]
language sql immutable
return array(select ('x' || substr(p_key, 8 * n + 1, 8))::bit(32)::int from generate_series(0, length(p_key) / 8 - 1) n);

-- The states of all nodes of a run. p_shapes: its graph in pre-order. p_signs: what is known of nodes, outcomes before threads.
--
-- From the leaves: a sequence, IF or CATCH is what its last touched part is, and a MAP
-- while it has no items yet; an UNDO is what its step is, and nobody around decides its compensation. A part counts when it was touched in the newest generation of
-- the scopes around. From the root: a stamp is superseded when its scope, or one around it, has a newer generation; what can no longer
-- run is skipped, and the nearest ancestor that has ended for good decides so.
-- Granted to users.
create or replace function df_engine.fold_states(
  p_shapes df_engine.node_shape[], p_signs df_engine.node_sign[], p_generation int, p_run text
) returns setof df_engine.node_state
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  c_ended constant "char"[] := '{c,b,f}';
  n df_engine.node_shape;
  s df_engine.node_sign;
  v_lasts int[]; v_parents int[]; v_places int[]; v_kinds text[]; v_levels int[]; v_tops int[];
  v_states "char"[];       -- what is shown
  v_keys text[];           -- the stamp of that
  v_newest text[] collate "C";  -- the newest generations seen in the node or below
  v_began int[]; v_ended int[];
  v_live boolean[]; v_old boolean[]; v_deciders int[]; v_origins int[]; v_highest int[];
  v_count int := 0;
  v_handlers boolean[];
  v_part int; v_next int; v_prefix text; v_width int; v_state "char"; v_top int; v_open boolean; v_whole boolean; v_handled boolean;
  r df_engine.node_state;
begin
  foreach n in array p_shapes loop
    v_count := v_count + 1;
    v_lasts[v_count] := n.last;
    v_parents[v_count] := n.parent;
    v_places[v_count] := n.place;
    v_kinds[v_count] := n.kind;
    v_levels[v_count] := n.levels;
    v_tops[v_count] := n.top;
  end loop;
  v_newest := array_fill(''::text, array[v_count]);
  v_keys := array_fill(null::text, array[v_count]);
  v_states := array_fill(null::"char", array[v_count]);
  foreach s in array p_signs loop
    if s.state <> 'q' then
      v_states[s.node] := case when s.state in ('w', 'o') then 'r' when s.state = 'x' then 'f' else s.state end;
      v_keys[s.node] := s.key;
    end if;
    if v_newest[s.node] < s.key collate "C" then
      v_newest[s.node] := s.key;
    end if;
  end loop;

  for i in reverse v_count..1 loop
    v_width := 8 * (v_levels[i] + 1);
    v_began[i] := i;
    v_ended[i] := i;
    v_handled := coalesce(v_states[i] = 'h' and v_keys[i] = left(v_newest[i], v_width), false);
    if v_kinds[i] in ('THEN', 'IF', 'CATCH', 'UNDO') or v_handled
       or v_kinds[i] = 'MAP' and (v_states[i] is null or v_keys[i] < left(v_newest[i], v_width) collate "C") then
      v_prefix := left(v_newest[i], v_width);
      v_state := case when v_handled then 'r' end;  -- the right side of a CATCH or TIMEOUT runs
      v_part := i + 1;
      while v_prefix <> '' and v_part <= v_lasts[i] loop
        if left(v_newest[v_part], v_width) = v_prefix and not (v_handled and v_places[v_part] = 1)
           and not (v_kinds[i] = 'UNDO' and v_places[v_part] = 2) then
          v_open := left(v_keys[v_part], v_width) is distinct from v_prefix;  -- it has only been queued
          if v_state is null then
            v_began[i] := v_began[v_part];
          end if;
          v_ended[i] := v_ended[v_part];
          -- A part that has completed ends the whole if it is a branch, or the second of a sequence.
          v_state := case
            when not v_open and v_states[v_part] = any (c_ended)
              then case when v_states[v_part] = 'c' and v_places[v_part] = case v_kinds[i] when 'THEN' then 1 when 'IF' then 0 when 'MAP' then 0 end
                        then 'r' else v_states[v_part] end
            when v_state is null and (v_open or v_states[v_part] is null) then 'q'
            else 'r' end;
        end if;
        v_part := v_lasts[v_part] + 1;
      end loop;
      if v_states[i] in ('f', 'c') and v_keys[i] = v_prefix then  -- an IF that could not be judged, or had nothing else to do
        v_state := v_states[i];
        v_ended[i] := i;
      end if;
      v_states[i] := nullif(v_state, 'q');
      v_handlers[i] := v_handled;
      v_keys[i] := case when v_states[i] is not null then v_prefix end;
    elsif v_kinds[i] = 'LOOP' and v_states[i] = 'r' then
      v_keys[i] := left(v_newest[i], v_width);  -- a thread in it may be further on than the row of the LOOP says
    end if;
    if v_parents[i] is not null and v_newest[v_parents[i]] < v_newest[i] collate "C" then
      v_newest[v_parents[i]] := v_newest[i];
    end if;
  end loop;

  v_whole := p_run = 'failed' and not coalesce(v_states[1] = any (c_ended), false);
  for i in 1..v_count loop
    v_width := 8 * (v_levels[i] + 1);
    v_part := v_parents[i];
    v_top := v_tops[i];
    -- Whether the newest generation of the scope whose top this is lies within the newest of the scope around it.
    if v_top = i then
      v_next := v_tops[v_part];
      v_live[i] := case when v_next = 0 then left(v_newest[i], 8) = lpad(to_hex(p_generation), 8, '0')
                        else v_live[v_next] and left(v_newest[i], v_width - 8) = left(v_newest[v_next], v_width - 8) end;
    end if;
    v_old[i] := v_keys[i] is not null and not (
      case when v_top = 0 then v_keys[i] = lpad(to_hex(p_generation), 8, '0')
           else v_live[v_top] and v_keys[i] = left(v_newest[v_top], v_width) end);
    if v_part is not null then
      v_deciders[i] := case when v_kinds[v_part] = 'UNDO' and v_places[i] = 2 and v_states[v_part] = 'c' then null
                            when (v_states[v_part] = any (c_ended) or v_handlers[v_part] and v_places[i] = 1) and not v_old[v_part]
                            then v_part else v_deciders[v_part] end;
      v_next := ('x' || right(v_keys[v_part], 8))::bit(32)::int;
      v_origins[i] := case when v_next >= coalesce(v_highest[v_part], 0) then v_part else v_origins[v_part] end;
      v_highest[i] := greatest(v_next, v_highest[v_part]);
    end if;
    v_state := v_states[i];
    r.node := i;
    r.key := v_keys[i];
    r.began_with := v_began[i];
    r.ended_with := v_ended[i];
    r.status := case
      when v_state in ('c', 'b', 'd') then 'completed'
      when v_state in ('f', 'e') or v_state = 'r' and v_whole then 'failed'
      when v_state = 'r' and p_run = 'running' then 'running'  -- of a pending run a session may be in it: that is inferred
      else 'pending' end;
    r.inferred_status := case
      when v_state in ('c', 'b', 'd', 'f', 'x', 'e') and not v_old[i] or v_state = 'r' and v_whole then r.status
      when v_deciders[i] is not null or p_run not in ('pending', 'running') then 'skipped'
      when v_state = any (c_ended) then 'pending'
      when v_state = 'r' then 'running'
      else r.status end;
    r.from_ancestor := case
      when r.inferred_status = 'skipped' then v_deciders[i]
      when r.inferred_status = 'pending' and v_state = any (c_ended) then v_origins[i] end;
    return next r;
  end loop;
end
$$;

-- Every node of every run, with its graph's part of it and what is known; not filtered, so nobody is granted this.
create or replace view df_engine.node_rows as
  select i.instance, i.id as instance_id, i.submitter, i.database, i.created_at, g.node, g.parent, g.place, g.kind, g.query,
         g.result_name, g.retry, g.tops, s.left_child, s.right_child, s.condition_child, s.extra_children, s.status,
         s.inferred_status, s.from_ancestor, s.key, s.items, o.state, o.value, o.columns,
         case s.status when 'failed' then coalesce(o.error, i.error) when 'running' then coalesce(o.error, s.error) end as error,
         case when o.node is not null then o.attempts when s.status = 'running' then 1 else 0 end as attempts,
         case when o.state = 'r' then o.started_at else coalesce(s.since, b.started_at) end as started_at,
         case when o.state = 'r' then o.ended_at end as retry_at,
         case when o.state = 'r' then (
           select a.failed_at from df_engine.attempts a
           where a.instance = i.instance and a.node = o.node and a.scope = o.scope order by a.id desc limit 1) end as failed_at,
         case when s.status in ('completed', 'failed') then o.ended_at end as completed_at
  from df_engine.instances i
  cross join lateral (
    with recursive graph as materialized (
      select n.* from df_engine.graph_nodes n where n.graph = i.graph
    ), shown(map, scope, items) as (
      select n.node, m.scope, m.items from graph n left join lateral (
        (select a.id << 23 | a.next_item - a.stride as scope,
                format('%s of %s items', a.done, a.items) || case when a.failures > 0 then format(', %s failed', a.failures) else '' end as items
         from df_engine.activations a
         where a.instance = i.instance and a.scope = 0 and a.node = n.node and a.items is not null order by a.id desc limit 1)
        union all
        (select o.last_item, format('%s items', o.last_item & 8388607)
         from df_engine.outcomes o
         where o.instance = i.instance and o.scope = 0 and o.node = n.node and o.last_item is not null)
        limit 1) m on true where n.kind = 'MAP' and n.map is null
      union all
      select n.node, m.scope, m.items from shown s join graph n on n.map = s.map and n.kind = 'MAP' left join lateral (
        (select a.id << 23 | a.next_item - a.stride as scope,
                format('%s of %s items', a.done, a.items) || case when a.failures > 0 then format(', %s failed', a.failures) else '' end as items
         from df_engine.activations a
         where a.instance = i.instance and a.scope = s.scope and a.node = n.node and a.items is not null order by a.id desc limit 1)
        union all
        (select o.last_item, format('%s items', o.last_item & 8388607)
         from df_engine.outcomes o
         where o.instance = i.instance and o.scope = s.scope and o.node = n.node and o.last_item is not null)
        limit 1) m on true
    ), placed as materialized (
      select n.node, case when n.map is null then 0 else coalesce(d.scope, -1) end as scope from graph n left join shown d on d.map = n.map
    ), waiting as materialized (
      select w.* from placed p join (
      select t.scope, t.node, case when t.kind in ('start', 'retry', 'pace', 'check', 'poke') then 'q' else 'w' end::"char" as state, t.generations, t.since
      from df_engine.timers t where t.instance = i.instance and t.kind not in ('deadline', 'child', 'sweep')
      union all
      select x.scope, x.node, 'w', x.generations, x.since from df_engine.waits x where x.instance = i.instance
      union all
      select a.scope, a.node, 'w', a.generations, a.since from df_engine.activations a where a.instance = i.instance and a.node > 0
      union all
      select q.scope, q.node, case when q.worker is null then 'q' else 'w' end::"char", q.generations, q.leased_at
      from df_engine.queue q where q.instance = i.instance
      union all
      -- Steps that a session is in: at the node of a row in the queue, or further on in its segment.
      select q.scope, n.node, 'w', q.generations, c.xact_start
      from df_engine.steps_in_sessions c
      join df_engine.queue q on q.instance = i.instance and q.lane = 'sql'
      join graph b on b.node = q.node
      join graph n on n.node between q.node and b.until and df_engine.node_id(i.id, n.node) = c.node_id
      where c.id = i.id and c.submitter = i.submitter and i.status in ('pending', 'running') and not exists (
        select from df_engine.outcomes d
        where d.instance = i.instance and d.scope = q.scope and d.node = n.node and d.state in ('c', 'b', 'd', 'f', 'x', 'e') and d.generations is not distinct from q.generations)
      ) w on w.node = p.node and w.scope = p.scope
    ), children as (
      select c.parent, max(c.node) filter (where c.place = 0) as condition_child, max(c.node) filter (where c.place = 1) as left_child,
             max(c.node) filter (where c.place = 2) as right_child,
             array_agg(c.node order by c.place) filter (where c.place > 2) as extra_children
      from graph c group by c.parent
    )
    select f.*, p.scope, (select d.items from shown d where d.map = f.node) as items, k.condition_child, k.left_child, k.right_child, k.extra_children,
           (select w.since from waiting w where w.node = f.began_with and w.state = 'w' limit 1) as since,
           (select a.error from df_engine.activations a
            where a.instance = i.instance and a.scope = p.scope and a.node = f.node and a.error is not null limit 1) as error
    from df_engine.fold_states(
      array(select row(n.node, n.last, n.parent, n.place, n.kind, n.levels,
                       coalesce(n.tops[cardinality(n.tops)], 0))::df_engine.node_shape
            from graph n order by n.node),
      array(select row(u.node, u.state, df_engine.generations_key(u.generations))::df_engine.node_sign
            from (select o.node, o.state, o.generations, 1 as place
                  from df_engine.outcomes o join placed p on p.node = o.node and p.scope = o.scope
                  where o.instance = i.instance and o.state <> 's' and o.scope = any (array(select distinct c.scope from placed c))
                  union all
                  select w.node, w.state, w.generations, case w.state when 'q' then 2 else 3 end from waiting w) u
            order by u.place),
      i.generation, i.status) f
    join placed p on p.node = f.node
    left join children k on k.parent = f.node
  ) s
  join df_engine.graph_nodes g on g.graph = i.graph and g.node = s.node
  left join df_engine.outcomes o on o.instance = i.instance and o.scope = s.scope and o.node = s.ended_with
    and (s.status in ('completed', 'failed') or o.state in ('r', 'o'))
  left join df_engine.outcomes b on b.instance = i.instance and b.scope = s.scope and b.node = s.began_with and s.key is not null;

-- Limits of roles: how many sessions, HTTP steps and live instances a role may have at a time. The workers share the first two among
-- themselves, so that none has to ask another; the third is checked by df.start.

-- The runs of a role that have not ended: each of their threads is in one of these places. A schedule in the queue is no run.
create or replace function df_engine.live_runs(p_role oid) returns bigint
language plpgsql stable as $$
begin
  return (
    select count(distinct t.instance)
    from (select q.instance from df_engine.queue q
          where q.lane in ('sql', 'direct', 'http', 'paused sql', 'paused direct', 'paused http') and q.submitter = p_role and q.instance > 0
          union all
          select m.instance from df_engine.timers m where m.submitter = p_role
          union all
          select w.instance from df_engine.waits w where w.submitter = p_role) t);
end
$$;

create sequence if not exists df_engine.checked_starts;

-- What a transaction keeps of a count of live runs: its proof, room, the place in checked_starts. The proof is of this transaction, role and limit, so a caller who sets the
-- setting brings nothing but a count that was made here, and each start that was checked since then, whoever made it, is taken from the room.
create or replace function df_engine.proof_of_room(p_role oid, p_limit int, p_room bigint, p_place bigint) returns text
language plpgsql stable as $$
begin
  return encode(sha256(concat_ws(':', df_engine.secret(), 'room', pg_current_xact_id(), p_role, p_limit, p_room, p_place)::pg_catalog.bytea), 'hex');
end
$$;

-- Whether a count that this transaction has made leaves room for one more.
create or replace function df_engine.has_room(p_role oid, p_limit int, p_place bigint) returns boolean
language plpgsql stable as $$
declare
  v_kept constant text[] := string_to_array(current_setting('df_engine.room', true), ':');
begin
  if cardinality(v_kept) is distinct from 3 or v_kept[2] !~ '^[0-9]{1,18}$' or v_kept[3] !~ '^[0-9]{1,18}$' then
    return false;
  end if;
  return p_place - v_kept[3]::bigint < v_kept[2]::bigint
     and v_kept[1] = df_engine.proof_of_room(p_role, p_limit, v_kept[2]::bigint, v_kept[3]::bigint);
end
$$;

-- Raises when a role may not have one more live instance. Sees what is committed and what this transaction has started, and waits for
-- nobody: starts that commit at the same time can exceed the limit together. Counting reads all live runs, so a transaction that starts many counts
-- once, and again when what there was room for may be used up.
create or replace function df_engine.check_live_runs(p_role oid, p_limit int) returns void
language plpgsql as $$
declare
  v_place constant bigint := nextval('df_engine.checked_starts');
  v_live bigint;
begin
  if df_engine.has_room(p_role, p_limit, v_place) then
    return;
  end if;
  v_live := df_engine.live_runs(p_role);
  if v_live < p_limit then
    perform set_config('df_engine.room', concat_ws(':', df_engine.proof_of_room(p_role, p_limit, p_limit - v_live, v_place), p_limit - v_live, v_place), true);
  else
    raise exception 'role "%" may have % live instances, and has %', pg_get_userbyid(p_role), p_limit, v_live
      using errcode = 'program_limit_exceeded', hint = 'df.role_limits shows the limits of a role; administrators change them with df.set_role_limit.';
  end if;
end
$$;

-- What of the limits of roles is a worker's: an equal share of the workers that are alive; what is left over goes to another worker for each role.
create or replace function df_engine.role_shares(p_worker int) returns table (role oid, sessions int, http int)
language plpgsql stable as $$
begin
  if exists (select from df_engine.role_limits) then
    return query
      with alive as materialized (
        select w.worker, (row_number() over (order by w.worker) - 1) as place, count(*) over () as workers
        from df_engine.live_workers() w(worker)
      )
      select l.role::oid, (l.sessions / a.workers + ((a.place + l.role::oid::bigint) % a.workers < l.sessions % a.workers)::int)::int,
             (l.http / a.workers + ((a.place + l.role::oid::bigint) % a.workers < l.http % a.workers)::int)::int
      from df_engine.role_limits l join alive a on a.worker = p_worker;
  end if;
end
$$;

-- The limits of sessions, by role, that hold for a worker; NULL: there are none.
create or replace function df_engine.session_limits(p_worker int) returns jsonb
language plpgsql stable as $$
begin
  return (
    select jsonb_object_agg(u.rolname, s.sessions)
    from df_engine.role_shares(p_worker) s join pg_catalog.pg_roles u on u.oid = s.role
    where s.sessions is not null);
end
$$;

create or replace function df.set_role_limit(
  role text, sessions integer default null, http integer default null, live_instances integer default null
) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_role regrole;
begin
  if set_role_limit.role is null then
    raise exception 'df.set_role_limit: role must not be NULL' using errcode = 'null_value_not_allowed';
  elsif least(sessions, http, live_instances) < 0 then
    raise exception 'df.set_role_limit: a limit must not be negative' using errcode = 'invalid_parameter_value',
      hint = 'NULL removes a limit.';
  end if;
  v_role := quote_ident(set_role_limit.role)::regrole;
  delete from df_engine.role_limits l
  where l.role = v_role or not exists (select from pg_roles u where u.oid = l.role);
  if coalesce(sessions, http, live_instances) is not null then
    insert into df_engine.role_limits values (v_role, sessions, http, live_instances);
  end if;
  perform df_engine.notify('x');
  return 'OK';
end
$$;
revoke execute on function df.set_role_limit(text, integer, integer, integer) from public;
comment on function df.set_role_limit(text, integer, integer, integer) is
  'Limits how many sessions and how many HTTP requests of a role the workers have at a time, all workers together, and how many live instances it may have: df.start raises 54000 beyond that. Sets all three; NULL removes a limit. What runs goes on. Returns OK. For administrators';

create or replace view df.role_limits with (security_barrier) as
  select l.role, l.sessions, (select count(distinct s.pid) from df_engine.steps_in_sessions s where s.submitter = l.role) as sessions_in_use,
         l.http, (select count(*) from df_engine.queue q where q.lane = 'http' and q.submitter = l.role and q.worker is not null) as http_in_use,
         l.live_instances, (select count(*) from df_engine.instances i where i.submitter = l.role and i.status in ('pending', 'running')) as live_instances_in_use
  from df_engine.role_limits l
  where ((select df_engine.may_see_all(quote_ident(current_user)::regrole)) or l.role::oid = (select quote_ident(current_user)::regrole::oid));
comment on view df.role_limits is
  'The limits of roles (df.set_role_limit; NULL: none), and what is in use of each; a role sees its own';

-- The views that clients read: read-only, with the owner's rights, filtered to what the reader may see. Their columns are public.

-- Why runs do not progress that have not ended.
create or replace view df_engine.wait_reasons as
  select q.instance, w.reason
  from df_engine.queue q join df_engine.role_reasons w on w.submitter = q.submitter
  where q.lane in ('sql', 'direct')
  union all
  select q.instance, 'a step outside of transactions waits for a worker, and none is running'
  from df_engine.queue q
  where q.lane in ('direct', 'http') and q.worker is null
    and not exists (select from df_engine.workers w where w.last_seen_at > clock_timestamp() - interval '15 s')
  union all
  select q.instance, format('no worker can log in as role "%s": it has no LOGIN', u.rolname)
  from df_engine.queue q join pg_roles u on u.oid = q.submitter
  where not u.rolcanlogin
  union all
  select q.instance, format('role "%s" may have %s sessions at a time (df.set_role_limit), and all of them are busy', l.role::text, l.sessions)
  from df_engine.queue q join df_engine.role_limits l on l.role = q.submitter
  where q.lane in ('sql', 'direct') and q.worker is null
    and q.submitter = any (array(
      select f.role::oid from df_engine.role_limits f
      where f.sessions <= (select count(distinct s.pid) from df_engine.steps_in_sessions s where s.submitter = f.role)))
    and not q.instance = any (array(select i.instance from df_engine.steps_in_sessions s join df_engine.instances i on i.id = s.id))
  union all
  select q.instance, format('role "%s" may have %s HTTP requests under way at a time (df.set_role_limit), and has', l.role::text, l.http)
  from df_engine.queue q join df_engine.role_limits l on l.role = q.submitter
  where q.lane = 'http' and q.worker is null
    and q.submitter = any (array(
      select f.role::oid from df_engine.role_limits f
      where f.http <= (select count(*) from df_engine.queue x where x.lane = 'http' and x.submitter = f.role and x.worker is not null)))
  union all
  select q.instance, format('all %s HTTP requests of a worker are under way, %s of them reserved, held by %s roles',
    df_engine.setting('max_http_requests'), df_engine.setting('reserved_http_requests'),
    (select count(distinct x.submitter) from df_engine.queue x where x.lane = 'http' and x.worker is not null))
  from df_engine.queue q
  where q.lane = 'http' and q.worker is null
    and (select bool_and(b.busy >= df_engine.setting_number('max_http_requests') - df_engine.setting_number('reserved_http_requests'))
         from (select count(x.worker) as busy
               from df_engine.workers w left join df_engine.queue x on x.lane = 'http' and x.worker = w.worker
               where w.last_seen_at > clock_timestamp() - interval '15 s' group by w.worker) b);

-- The runs that are paused: since when, by whom, why.
create or replace view df_engine.pauses as
  select distinct on (a.instance) a.instance, a.acted_at as paused_at,
         format('paused by %s at %s', a.acted_by, a.acted_at) || coalesce(': ' || a.reason, '') as reason
  from df_engine.acts a join df_engine.instances i on i.instance = a.instance
  where a.act = 'pause' and i.paused and i.status in ('pending', 'running')
  order by a.instance, a.id desc;

create or replace view df.instances with (security_barrier) as
  select i.id, i.label, df_engine.node_id(i.id, 1)::varchar(8) as root_node, i.status::text, i.submitter::regrole as submitted_by, i.database,
         i.created_at, i.updated_at, case i.status when 'completed' then i.finished_at end as completed_at, i.finished_at, i.error,
         case when i.paused and i.status not in ('completed', 'failed', 'cancelled') then (
             select p.reason from df_engine.pauses p where p.instance = i.instance)
           when i.status = 'pending' and i.start_at > clock_timestamp() then format('it does not start before %s', i.start_at)
           else (select r.reason from df_engine.wait_reasons r where r.instance = i.instance limit 1) end as wait_reason, i.input, i.key,
         case when i.key is not null then exists (select from df_engine.start_keys k where k.instance = i.instance) end as key_current,
         coalesce(i.priority, 0)::int as priority, i.start_at, i.definition,
         (select p.id from df_engine.instances p where p.instance = i.parent)::varchar(8) as parent_id,
         (select df_engine.node_id(p.id, i.parent_node) from df_engine.instances p where p.instance = i.parent)::varchar(8) as parent_node_id,
         (
           select case when (i.undo_as is not null or bool_or(c.state = 'o')) and i.status not in ('completed', 'failed', 'cancelled') then 'running'
                       when bool_or(c.state in ('o', 'f')) or i.status = 'failed' and bool_or(c.state = 'r') then 'failed'
                       when bool_or(c.state = 'c') then 'completed' end
           from df_engine.compensations c where c.instance = i.instance) as undo_status, i.traceparent
  from df_engine.instances i
  where ((select df_engine.may_see_all(quote_ident(current_user)::regrole)) or i.submitter = (select quote_ident(current_user)::regrole::oid));

-- What monitoring needs beyond df.instances.
-- Granted to users.
create or replace view df_engine.visible_runs with (security_barrier) as
  select i.instance, i.id, i.label, i.status::text, i.submitter, i.generation, i.version, i.created_at, i.finished_at, i.error,
         case when i.paused and i.status not in ('completed', 'failed', 'cancelled') then (
             select p.reason from df_engine.pauses p where p.instance = i.instance)
           when i.status = 'pending' and i.start_at > clock_timestamp() then format('it does not start before %s', i.start_at)
           else (select r.reason from df_engine.wait_reasons r where r.instance = i.instance limit 1) end as wait_reason, (
           select case when (i.undo_as is not null or bool_or(c.state = 'o')) and i.status not in ('completed', 'failed', 'cancelled') then 'running'
                       when bool_or(c.state in ('o', 'f')) or i.status = 'failed' and bool_or(c.state = 'r') then 'failed'
                       when bool_or(c.state = 'c') then 'completed' end
           from df_engine.compensations c where c.instance = i.instance) as undo_status, i.cancelled_in, i.xmin as version_of_row, (select g.envelope from df_engine.graphs g where g.id = i.graph) as envelope,
         i.parent, i.parent_node,
         (select o.value from df_engine.outcomes o where o.instance = i.instance and o.scope = 0 and o.node = i.result) as result
  from df_engine.instances i
  where ((select df_engine.may_see_all(quote_ident(current_user)::regrole)) or i.submitter = (select quote_ident(current_user)::regrole::oid));

-- Granted to users.
create or replace view df_engine.visible_nodes with (security_barrier) as
  select df_engine.node_id(r.instance_id, r.node)::varchar(8) as id, r.instance_id, r.node, r.parent, r.place, r.kind as node_type,
         df_engine.shown_query(r.query, df_engine.node_id(r.instance_id, r.condition_child),
           (select array_agg(df_engine.node_id(r.instance_id, e.node) order by e.node) from unnest(r.extra_children) e(node))) as query,
         r.result_name, df_engine.node_id(r.instance_id, r.left_child)::varchar(8) as left_node,
         df_engine.node_id(r.instance_id, r.right_child)::varchar(8) as right_node, r.status,
         case r.status when 'completed' then r.value::jsonb when 'failed' then to_jsonb(r.error) end as result, r.error,
         r.submitter::regrole as submitted_by, r.database, r.created_at,
         coalesce(r.completed_at, r.failed_at, r.started_at, r.created_at) as updated_at,
         case when r.key is not null then jsonb_build_object(
           'execution_id', df_engine.stamp(r.instance_id, r.tops, df_engine.key_generations(r.key)))
           || case when r.retry_at is not null then jsonb_build_object('retry_at', r.retry_at) else '{}' end end as status_details,
         case when r.status = 'completed' then df_engine.columns_of(r.value, r.columns) end as result_columns, r.retry as retry_policy, r.attempts, r.started_at, r.completed_at,
         r.inferred_status, df_engine.node_id(r.instance_id, r.from_ancestor) as from_ancestor, r.items
  from df_engine.node_rows r
  where ((select df_engine.may_see_all(quote_ident(current_user)::regrole)) or r.submitter = (select quote_ident(current_user)::regrole::oid));

create or replace view df.nodes with (security_barrier) as
  select n.id::varchar(8), n.instance_id, n.node_type, n.query, n.result_name, n.left_node::varchar(8), n.right_node::varchar(8), n.status, n.result, n.error,
         n.submitted_by, n.database, n.created_at, n.updated_at, n.status_details, n.result_columns, n.retry_policy, n.attempts,
         n.started_at, n.completed_at
  from df_engine.visible_nodes n;

-- What outcomes say of all that has happened to nodes: of each item of a map, too.
-- Granted to users.
create or replace view df_engine.visible_outcomes with (security_barrier) as
  select i.id as instance_id, df_engine.node_id(i.id, o.node) as node_id, g.kind as node_type, o.scope,
         nullif(o.scope & 8388607, 0)::int as item_no,
         df_engine.stamp(i.id, g.tops, coalesce(o.generations, '{1}')) as execution_id,
         case when o.state in ('c', 'b', 'd') then 'completed' when o.state in ('f', 'x', 'e') then 'failed'
              when i.status in ('pending', 'running') then 'running' else 'pending' end as status,
         o.value, o.error, o.attempts, o.started_at, case when o.state in ('c', 'b', 'd', 'f', 'x', 'e') then o.ended_at end as completed_at
  from df_engine.instances i
  join df_engine.outcomes o on o.instance = i.instance
  join df_engine.graph_nodes g on g.graph = i.graph and g.node = o.node
  where o.state <> 's' and ((select df_engine.may_see_all(quote_ident(current_user)::regrole)) or i.submitter = (select quote_ident(current_user)::regrole::oid));

create or replace view df.vars with (security_barrier) as
  select v.name, v.value, v.owner from df_engine.vars v where ((select df_engine.may_see_all(quote_ident(current_user)::regrole)) or v.owner::oid = (select quote_ident(current_user)::regrole::oid));

create or replace view df.secrets with (security_barrier) as
  select s.name, s.created_at, s.updated_at from df_engine.kept_secrets s
  where s.owner::oid = (select quote_ident(current_user)::regrole::oid);

create or replace view df._worker_epoch as
  select w.epoch_id, w.started_at, w.last_seen_at from df_engine.workers w;

create or replace view df.settings with (security_barrier) as
  select s.name, s.value, s.description from df_engine.settings s where s.name <> 'loopback_dsn' or (select df_engine.may_act_on_all(quote_ident(current_user)::regrole));

create or replace view df.http_allowlist as
  select a.pattern, a.allow_private, a.note from df_engine.http_allowlist a;

create or replace view df.signals with (security_barrier) as
  select s.signal_id, i.id as instance_id, s.signal_name, s.signal_data, s.status, s.sent_by, s.sent_at, s.delivered_at,
         (select array_agg(df_engine.node_id(i.id, d.node)::text order by d.place)
          from unnest(s.delivered_to) with ordinality d(node, place)) as delivered_to
  from df_engine.inbox s join df_engine.instances i on i.instance = s.instance
  where ((select df_engine.may_see_all(quote_ident(current_user)::regrole)) or i.submitter = (select quote_ident(current_user)::regrole::oid));

-- Signals of runs that the reader can see, and the transactions that sent them.
-- Granted to users.
create or replace view df_engine.visible_inbox with (security_barrier) as
  select s.instance, s.sent_in
  from df_engine.inbox s join df_engine.instances i on i.instance = s.instance
  where ((select df_engine.may_see_all(quote_ident(current_user)::regrole)) or i.submitter = (select quote_ident(current_user)::regrole::oid));

-- Granted to users.
create or replace view df_engine.visible_executions with (security_barrier) as
  select i.id as instance_id, e.generation, e.events, e.started_at, e.finished_at, e.error
  from df_engine.executions e join df_engine.instances i on i.instance = e.instance
  where ((select df_engine.may_see_all(quote_ident(current_user)::regrole)) or i.submitter = (select quote_ident(current_user)::regrole::oid));

-- Status changes of the current generation of a run's root scope, which began when its LOOP last turned, or with its first step. What is
-- open or waits has begun, and has not ended: one change each.
-- Granted to users.
create or replace view df_engine.visible_events with (security_barrier) as
  select i.id as instance_id,
         (select coalesce(sum(o.events), 0) from df_engine.outcomes o
          where o.instance = i.instance and coalesce(o.generations[1], 1) = i.generation)::bigint
           + (select count(*) from df_engine.activations a where a.instance = i.instance and a.node > 0)
           + (select count(*) from df_engine.waits w where w.instance = i.instance)
           + (select count(*) from df_engine.timers t where t.instance = i.instance and t.kind in ('sleep', 'schedule', 'retry')) as events,
         coalesce((select max(e.finished_at) from df_engine.executions e where e.instance = i.instance),
                  (select min(o.started_at) from df_engine.outcomes o where o.instance = i.instance), i.created_at) as began_at
  from df_engine.instances i
  where ((select df_engine.may_see_all(quote_ident(current_user)::regrole)) or i.submitter = (select quote_ident(current_user)::regrole::oid));

comment on view df.instances is 'One row a run; error says why it failed or was cancelled, wait_reason why it does not progress, undo_status what becomes of its compensations (df.undo)';
comment on view df.nodes is 'One row a node of the graph of a run, with its status, result, error, attempts and times';
comment on view df.vars is 'Variables, read in workflows as {name}; each role has its own, copied into a run when it starts';
comment on view df.secrets is 'The names of the current users secrets; their values are shown to nobody';
comment on view df._worker_epoch is 'One row a running worker; max(last_seen_at) less than 15 s ago means that one is alive';
comment on view df.settings is 'The settings; change them with df.set_setting';
comment on view df.http_allowlist is 'Hosts that HTTP steps may reach; change it with df.http_allow and df.http_disallow';
comment on view df.signals is 'Signals of the runs the reader can see: pending in the inbox, delivered (and to which nodes), or undeliverable';

-- Pokes: how those that wait for data learn that there is some. df.poke leaves a row, which is seen once it is committed; a
-- supervising connection takes it away and makes the checks of all waits with that key due, a part at a time. A check begins after that, so
-- it sees what the poke is about; one that is running is followed by another. Nobody waits for anybody's locks.
--
-- A poke is not kept: while no worker is alive df.poke writes nothing, and when a worker starts all keys are poked, once more when all
-- transactions have ended that may have seen no worker.

create or replace function df.poke(key text) returns void
language plpgsql strict security definer set search_path = pg_catalog, pg_temp as $$
declare
  -- What this transaction has done last, which a rollback to a savepoint undoes, too. Empty: nothing.
  v_done constant text := coalesce(current_setting('df_engine.poked', true), '');
  v_hash constant bigint := hashtextextended(key, 0);
begin
  if v_done = v_hash::text or v_done = 'no worker' then
    return;
  end if;
  perform df_engine.check_size('the key of a poke', octet_length(key), 1024);
  if v_done = '' then
    perform pg_current_xact_id();  -- before looking for a worker: see df_engine.hear_pokes
    if current_setting('transaction_isolation') = 'read committed' and not df_engine.worker_may_be_alive() then
      perform set_config('df_engine.poked', 'no worker', true);
      return;
    end if;
  end if;
  insert into df_engine.pokes (hash, sent_in) values (v_hash, pg_current_xact_id()) on conflict do nothing;
  perform set_config('df_engine.poked', v_hash::text, true);
end
$$;
comment on function df.poke(text) is
  'Makes every df.wait_for with that key, of any role, check its condition when the caller commits, at most once a second. It writes one row a transaction and key, waits for no locks, and may stand in a trigger. A hint: it is kept for nobody.';

-- Whether a worker has been seen not long ago. A worker that has been away for longer pokes all keys.
create or replace function df_engine.worker_may_be_alive() returns boolean
language plpgsql stable as $$
begin
  return exists (select from df_engine.workers w where w.last_seen_at > clock_timestamp() - interval '10 minutes');
end
$$;

create or replace function df_engine.wake_for_poke() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if exists (select from df_engine.activations a where a.key is not null) then
    perform df_engine.wake('t', null);
  end if;
  return null;
end
$$;

-- At the commit of the first poke of a transaction.
do $triggers$
begin
  if not exists (select from pg_trigger where tgname = 'pokes_wake') then
    create constraint trigger pokes_wake after insert on df_engine.pokes deferrable initially deferred
      for each row when (coalesce(current_setting('df_engine.poked', true), '') = '') execute function df_engine.wake_for_poke();
  end if;
end
$triggers$;

-- Makes the next checks of waits due. A wait that is being checked, or whose timer somebody has locked, gets a timer of kind poke: see fire_poke.
create or replace function df_engine.poke_waits(p_waits bigint[]) returns void
language plpgsql as $$
declare
  v_timers bigint[];
  v_idle bigint[];
begin
  select coalesce(array_agg(d.id), '{}'), coalesce(array_agg(d.activation), '{}') into v_timers, v_idle
  from (select t.id, t.activation
        from df_engine.timers t
        where t.kind = 'check' and t.activation = any (p_waits)
          and t.instance in (select a.instance from df_engine.activations a where a.id = any (p_waits)) for update skip locked) d;
  update df_engine.timers t set due_at = df_engine.poked_due(t.since), next_try_at = df_engine.poked_due(t.since)
  where t.id = any (v_timers) and t.next_try_at > df_engine.poked_due(t.since);
  insert into df_engine.timers (id, submitter, instance, scope, node, generations, activation, kind, since, due_at, next_try_at)
  select nextval('df_engine.thread_ids'), i.submitter, a.instance, a.scope, a.node + 1, a.generations, a.id, 'poke', n.now, n.now, n.now
  from (select df_engine.clock()) n(now), df_engine.activations a join df_engine.instances i on i.instance = a.instance
  where a.id = any (p_waits) and a.id <> all (v_idle)
    and not exists (select from df_engine.timers x where x.instance = a.instance and x.activation = a.id and x.kind = 'poke');
end
$$;

-- For a poked wait whose next check could not be made due, because it is queued or runs. A check that is still queued will see the data;
-- one that runs is followed by another. Raises where a lock keeps it from telling which of the two it is.
create or replace function df_engine.fire_poke(p_instance bigint, p_wait bigint) returns void
language plpgsql as $$
begin
  update df_engine.timers t set due_at = d.due, next_try_at = d.due
  from (select x.id, least(x.next_try_at, df_engine.poked_due(x.since)) as due from df_engine.timers x
        where x.instance = p_instance and x.activation = p_wait and x.kind = 'check' for update skip locked) d
  where t.id = d.id;
  if found then
    return;
  end if;
  perform from df_engine.queue q
  where q.instance = p_instance and q.activation = p_wait and q.worker is null for update skip locked;
  if found then
    return;
  end if;
  update df_engine.activations a set poked = true
  where a.id in (select x.id from df_engine.activations x where x.id = p_wait and x.instance = p_instance for update skip locked);
  if not found and exists (select from df_engine.activations a where a.id = p_wait) then
    raise lock_not_available;
  end if;
end
$$;

-- Takes away pokes that concern nobody, many at once: a wait that is opened later begins with a check that sees what they are about. So
-- a role that pokes a million keys does not put off the pokes of others.
create or replace function df_engine.drop_idle_pokes(p_limit int) returns void
language plpgsql as $$
begin
  delete from df_engine.pokes p
  where (p.hash, p.sent_in) in (
    select x.hash, x.sent_in from df_engine.pokes x
    where x.hash <> 0
      and not exists (select from df_engine.activations a where a.key is not null and hashtextextended(a.key, 0) = x.hash)
    limit p_limit for update skip locked);
end
$$;

-- Hears pokes that have been committed, from any key on, so that none waits for the many waits of another; answers how many it has tried. That of all
-- keys is heard again: a transaction that was open when the worker registered may have seen no worker, and commits later.
create or replace function df_engine.hear_pokes(p_limit int) returns int
language plpgsql as $$
declare
  v_from constant bigint := hashint8extended(extract(epoch from clock_timestamp())::bigint, 0);
  v_waits bigint[];
  v_count int := 0;
  p record;
begin
  if not exists (select from df_engine.pokes) then
    return 0;
  end if;
  perform df_engine.drop_idle_pokes(100 * p_limit);
  for v_round in 1..2 loop
    for p in
      select x.*, pg_snapshot_xmin(pg_current_snapshot()) as oldest, pg_snapshot_xmax(pg_current_snapshot()) as next
      from df_engine.pokes x
      where x.hash between case v_round when 1 then v_from else -9223372036854775808 end
        and case v_round when 1 then 9223372036854775807 else v_from - 1 end
        and (x.again is null or x.again <= pg_snapshot_xmin(pg_current_snapshot()))
      order by x.hash, x.sent_in limit p_limit - v_count for update skip locked
    loop
      v_count := v_count + 1;
      v_waits := case when p.hash = 0
        then array(select a.id from df_engine.activations a where a.key is not null and a.id > p.upto order by a.id limit 20 * p_limit)
        else array(select a.id from df_engine.activations a
                   where a.key is not null and hashtextextended(a.key, 0) = p.hash and a.id > p.upto
                   order by a.id limit 20 * p_limit) end;
      perform df_engine.poke_waits(v_waits);
      if cardinality(v_waits) = 20 * p_limit then
        update df_engine.pokes x set upto = v_waits[20 * p_limit] where x.hash = p.hash and x.sent_in = p.sent_in;
      elsif p.hash = 0 and p.again is null and p.oldest < p.next then
        update df_engine.pokes x set upto = 0, again = p.next where x.hash = p.hash and x.sent_in = p.sent_in;
      else
        delete from df_engine.pokes x where x.hash = p.hash and x.sent_in = p.sent_in;
      end if;
    end loop;
  end loop;
  return v_count;
end
$$;

-- Pokes all keys.
create or replace function df_engine.poke_all() returns void
language plpgsql as $$
begin
  insert into df_engine.pokes (hash, sent_in) values (0, pg_current_xact_id()) on conflict do nothing;
end
$$;

-- Signals: a fresh one is delivered to the waits that are open for it, kept for the next one, or given up with its run.

-- The open waits that a signal is for, locked: all of its name; for a reserved one those it is reserved for, or one other
-- when they have all ended in the meantime. Waits of branches that have lost their race are removed.
create or replace function df_engine.waits_for(p_signal df_engine.inbox) returns bigint[]
language plpgsql as $$
declare
  v_waits bigint[];
begin
  delete from df_engine.waits w
  where w.instance = (p_signal).instance and w.signal_name = (p_signal).signal_name
    and w.races is not null and df_engine.has_lost(w.races);
  v_waits := array(
    select w.id from df_engine.waits w
    where w.instance = (p_signal).instance and w.signal_name = (p_signal).signal_name
    order by w.id for update);
  return case
    when (p_signal).reserved is null then v_waits
    when not v_waits && (p_signal).reserved then v_waits[:1]
    else array(select w from unnest(v_waits) w where w = any ((p_signal).reserved))
  end;
end
$$;

-- Delivers one fresh signal to open waits, keeps it, or gives it up. Its run is locked.
create or replace function df_engine.deliver_signal(p_signal df_engine.inbox) returns void
language plpgsql as $$
declare
  v_waits bigint[];
  v_id bigint;
  w df_engine.waits;
  v_nodes int[];
begin
  perform from df_engine.instances i where i.instance = (p_signal).instance and i.status in ('pending', 'running');
  if not found then
    update df_engine.inbox s set status = 'undeliverable', fresh = false, reserved = null
    where s.signal_id = (p_signal).signal_id;
    return;
  end if;
  v_waits := df_engine.waits_for(p_signal);
  if v_waits <> '{}' then
    -- At once: a wait that opens when one of these has ended must not find this signal.
    update df_engine.inbox s set fresh = false, status = 'delivered' where s.signal_id = (p_signal).signal_id;
  end if;
  foreach v_id in array v_waits loop
    -- A wait is gone when one before it has decided the race between them.
    delete from df_engine.waits x where x.id = v_id returning * into w;
    if found and (w.races is null or df_engine.lock_races(w.instance, w.races, true)) then
      delete from df_engine.timers t where t.id = v_id;
      v_nodes := v_nodes || w.node;
      perform df_engine.end_wait(
        row(w.instance, w.scope, w.node, w.generations, w.activation, w.races)::df_engine.thread,
        df_engine.completed(jsonb_build_object('signal_name', (p_signal).signal_name, 'timed_out', false,
                                               'data', (p_signal).signal_data)::json, null, null, w.since));
    end if;
  end loop;
  update df_engine.inbox s
  set fresh = false, reserved = null, delivered_to = v_nodes,
      status = case when v_nodes is not null then 'delivered'
                    when exists (select from df_engine.instances i where i.instance = s.instance and i.status in ('pending', 'running'))
                    then 'pending' else 'undeliverable' end,
      delivered_at = case when v_nodes is not null then df_engine.clock() end
  where s.signal_id = (p_signal).signal_id;
end
$$;

create or replace function df_engine.try_signal(p_signal bigint) returns boolean
language plpgsql as $$
declare
  s df_engine.inbox;
begin
  select * into s from df_engine.inbox x where x.signal_id = p_signal;  -- one delivered before it may have reserved it
  -- In the order in which they were sent.
  if not exists (select from df_engine.inbox e
                 where e.instance = s.instance and e.signal_name = s.signal_name and e.fresh and e.signal_id < s.signal_id)
     and df_engine.try_lock_run(s.instance, true) then
    perform df_engine.deliver_signal(s);
    return true;
  end if;
  return false;
exception
  when lock_not_available or deadlock_detected or sqlstate 'DF001' then
    return false;
  when others then
    update df_engine.inbox x set tries = x.tries + 1 where x.signal_id = p_signal;
    if df_engine.charge(s.instance, s.tries, format('the signal %s could not be delivered', s.signal_name), sqlerrm) then
      update df_engine.inbox x set fresh = false, status = 'undeliverable', reserved = null where x.signal_id = p_signal;
    end if;
    return false;
end
$$;

-- Due: what happens when the time of a timer has come or a signal has been sent. Nothing here runs a user's SQL or reads a user's text, so
-- a worker's supervising connection does it for every role, and waits for nobody's locks. Each item is tried in a subtransaction of its
-- own; one whose run is locked is tried again later.

-- The transition that follows when a waiting thread's node ends. Its rows are gone, and its run is locked.
create or replace function df_engine.end_wait(p_thread df_engine.thread, p_ending df_engine.ending) returns void
language plpgsql as $$
declare
  i df_engine.instances;
  g df_engine.graph_nodes;
begin
  select * into i from df_engine.instances x where x.instance = (p_thread).instance;
  select * into g from df_engine.graph_nodes n where n.graph = i.graph and n.node = (p_thread).node;
  perform df_engine.put_outcome(p_thread, g, p_ending);
  perform df_engine.advance(i.id, i.graph, i.submitter, true, p_thread, null, p_ending);
end
$$;

-- Whether a waiting thread may still go on; the caller has locked its run.
create or replace function df_engine.may_go_on(p_instance bigint, p_races bigint[]) returns boolean
language plpgsql as $$
begin
  perform from df_engine.instances i where i.instance = p_instance and i.status in ('pending', 'running');
  return found and (p_races is null or df_engine.lock_races(p_instance, p_races, true));
end
$$;

-- Fires one due timer, whose row and run the caller has locked.
create or replace function df_engine.fire_timer(p_timer df_engine.timers) returns void
language plpgsql as $$
declare
  t constant df_engine.thread := row((p_timer).instance, (p_timer).scope, (p_timer).node, (p_timer).generations,
                                     (p_timer).activation, (p_timer).races);
  v_query text;
  v_signal text;
  v_child bigint;
begin
  delete from df_engine.timers x where x.id = (p_timer).id;
  if not found then
    return;  -- one that fired before it has taken it away
  end if;
  if (p_timer).kind = 'poke' then
    perform df_engine.fire_poke(t.instance, t.activation);
    return;
  elsif (p_timer).kind = 'sweep' then
    perform df_engine.withdraw(t.instance, null, null, null, null);
    perform df_engine.notify('x');
    return;
  elsif (p_timer).kind = 'timeout' then
    delete from df_engine.waits w where w.id = (p_timer).id returning w.signal_name into v_signal;
  elsif (p_timer).kind = 'child' then
    delete from df_engine.waits w where w.id = (p_timer).id returning w.child into v_child;
    if not found then
      return;  -- nobody waits for it any more
    end if;
  end if;
  if not df_engine.may_go_on(t.instance, t.races) then
    return;
  elsif (p_timer).kind = 'deadline' then  -- its construct is open: whatever ends that takes this timer away
    perform df_engine.time_out(t, (p_timer).id, extract(epoch from (p_timer).due_at - (p_timer).since));
    return;
  elsif (p_timer).kind in ('start', 'retry', 'pace', 'check') then
    insert into df_engine.queue (id, submitter, instance, scope, node, generations, activation, races, picked)
    select df_engine.queue_place(100 + coalesce(i.priority, 0)), i.submitter, t.instance, t.scope, t.node, t.generations,
           t.activation, t.races, (p_timer).kind <> 'start'
    from df_engine.instances i where i.instance = t.instance;
    return;
  elsif (p_timer).kind = 'child' then
    perform df_engine.end_wait(t, df_engine.call_ending(v_child, (p_timer).since));
    return;
  end if;
  select n.query into v_query
  from df_engine.instances i join df_engine.graph_nodes n on n.graph = i.graph and n.node = t.node where i.instance = t.instance;
  perform df_engine.end_wait(t, df_engine.completed(case (p_timer).kind
    when 'sleep' then df_engine.slept(v_query, (p_timer).since, (p_timer).due_at)
    when 'schedule' then '{"scheduled": true}'
    else jsonb_build_object('signal_name', v_signal, 'timed_out', true, 'data', null) end::json, null, null, (p_timer).since));
end
$$;

-- An item that fails is its run's: after three tries the run fails with the reason, and the item is gone. Everybody else goes on.
create or replace function df_engine.charge(p_instance bigint, p_tries int, p_what text, p_error text) returns boolean
language plpgsql as $$
begin
  if p_tries < 2 then
    return false;
  end if;
  if not df_engine.try_lock_whole_run(p_instance) then
    return false;  -- a step of it is just ending
  end if;
  begin
    perform df_engine.fail_run(p_instance, format('%s: %s', p_what, p_error), true);
    return true;
  exception when lock_not_available then
    raise;
  when others then  -- not even that its nodes have failed can be recorded
    perform df_engine.end_run(p_instance, 'failed', format('%s: %s', p_what, p_error), null);
    delete from df_engine.activations a where a.instance = p_instance;
    perform df_engine.withdraw(p_instance, null, null, null, null);
    return true;
  end;
exception when lock_not_available then  -- a run that it has called is locked
  return false;
end
$$;

-- One due timer or fresh signal, whose row the caller has locked. False: not now, its run is locked, or a step of it is just ending.
create or replace function df_engine.try_timer(p_timer df_engine.timers) returns boolean
language plpgsql as $$
begin
  if df_engine.try_lock_run((p_timer).instance, (p_timer).kind <> 'sweep') then
    perform df_engine.fire_timer(p_timer);
    return true;
  end if;
  return false;
exception
  when lock_not_available or deadlock_detected or sqlstate 'DF001' then
    return false;
  when others then
    update df_engine.timers t set tries = t.tries + 1 where t.id = (p_timer).id;
    if df_engine.charge((p_timer).instance, (p_timer).tries, format('the end of a wait (%s) could not be recorded', (p_timer).kind), sqlerrm) then
      delete from df_engine.timers t where t.id = (p_timer).id;
    end if;
    return false;
end
$$;

-- Of each role, when its next timer and its next fresh signal are to be tried; a probe of an index a role.
create or replace function df_engine.next_by_role() returns table (submitter oid, next_try_at timestamptz)
language plpgsql stable as $$
begin
  return query
    with recursive roles as (
      select (select x.submitter from df_engine.timers x order by x.submitter limit 1) as submitter
      union all
      select (select x.submitter from df_engine.timers x
              where x.submitter > r.submitter order by x.submitter limit 1)
      from roles r where r.submitter is not null
    )
    select r.submitter, (select x.next_try_at from df_engine.timers x
                         where x.submitter = r.submitter order by x.next_try_at, x.id limit 1)
    from roles r where r.submitter is not null;
  return query
    with recursive roles as (
      select (select x.submitter from df_engine.inbox x where x.fresh order by x.submitter limit 1) as submitter
      union all
      select (select x.submitter from df_engine.inbox x
              where x.submitter > r.submitter and x.fresh order by x.submitter limit 1)
      from roles r where r.submitter is not null
    )
    select r.submitter, (select x.next_try_at from df_engine.inbox x
                         where x.fresh and x.submitter = r.submitter order by x.next_try_at, x.signal_id limit 1)
    from roles r where r.submitter is not null;
end
$$;

-- Fires due timers and fresh signals of a role, at most p_limit of each, and one of each at least until p_deadline; answers how many it tried.
create or replace function df_engine.fire_role(p_submitter oid, p_limit int, p_deadline timestamptz) returns int
language plpgsql as $$
declare
  v_signal bigint;
  v_timer df_engine.timers;
  v_count int := 0;
begin
  for v_signal in
    select s.signal_id from df_engine.inbox s
    where s.submitter = p_submitter and s.fresh and s.next_try_at <= (select clock_timestamp())
    order by s.next_try_at, s.signal_id limit p_limit for update skip locked
  loop
    v_count := v_count + 1;
    if not df_engine.try_signal(v_signal) then
      update df_engine.inbox s
      set next_try_at = case when df_engine.is_paused(s.instance) then 'infinity' else clock_timestamp() + interval '200 ms' end
      where s.signal_id = v_signal;
    end if;
    exit when clock_timestamp() >= p_deadline;
  end loop;
  for v_timer in
    select t.* from df_engine.timers t
    where t.submitter = p_submitter and t.next_try_at <= (select df_engine.clock())
    order by t.next_try_at, t.id limit p_limit for update skip locked
  loop
    v_count := v_count + 1;
    if not df_engine.try_timer(v_timer) then
      update df_engine.timers t
      set next_try_at = case when df_engine.is_paused(t.instance) then 'infinity' else df_engine.clock() + interval '200 ms' end
      where t.id = v_timer.id;
    end if;
    exit when clock_timestamp() >= p_deadline;
  end loop;
  return v_count;
end
$$;

-- The same for all roles that have any, in equal shares of the timers and of the time, so that none waits for the many of another.
-- Granted to workers.
create or replace function df_engine.fire_due(p_limit int) returns int
language plpgsql security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = 'force_generic_plan'
  set lock_timeout = '20ms' set jit = off set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off as $$
declare
  v_roles oid[];
  v_role oid;
  v_time constant interval := df_engine.setting_number('tick_time') * interval '1 second';
  v_count int := df_engine.hear_pokes(p_limit) + df_engine.queue_schedules(p_limit);
begin
  perform set_config('df_engine.waits_for_nobody', 'on', true);
  v_roles := array(
    select distinct n.submitter from df_engine.next_by_role() n where n.next_try_at <= greatest(clock_timestamp(), df_engine.clock()));
  foreach v_role in array v_roles loop
    v_count := v_count + df_engine.fire_role(v_role, 1 + p_limit / cardinality(v_roles), clock_timestamp() + v_time / cardinality(v_roles));
  end loop;
  return v_count;
end
$$;

-- The same for the calling role: see df.work. p_begins: it has just been called, which is as good as the start of a worker.
-- Granted to users.
create or replace function df_engine.fire_own(p_key text, p_limit int, p_begins boolean) returns int
language plpgsql security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = 'force_generic_plan'
  set lock_timeout = '20ms' set jit = off set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off as $$
begin
  perform set_config('df_engine.waits_for_nobody', 'on', true);
  perform df_engine.require_key(p_key, quote_ident(session_user)::regrole);
  if p_begins and not df_engine.worker_may_be_alive() then
    perform df_engine.poke_waits(array(
      select a.id from df_engine.activations a join df_engine.instances i on i.instance = a.instance
      where a.key is not null and i.submitter = quote_ident(session_user)::regrole));
  end if;
  return df_engine.fire_role(quote_ident(session_user)::regrole, p_limit, 'infinity')
    + df_engine.queue_own_schedules(quote_ident(session_user)::regrole);
end
$$;

-- Whether something is due that nobody has locked.
create or replace function df_engine.can_fire() returns boolean
language plpgsql volatile as $$
declare
  v_role oid;
begin
  for v_role in select n.submitter from df_engine.next_by_role() n where n.next_try_at <= greatest(clock_timestamp(), df_engine.clock()) loop
    perform from df_engine.timers t
    where t.submitter = v_role and t.next_try_at <= (select df_engine.clock()) order by t.next_try_at, t.id limit 1 for update skip locked;
    if not found then
      perform from df_engine.inbox s
      where s.submitter = v_role and s.fresh and s.next_try_at <= (select clock_timestamp())
      order by s.next_try_at, s.signal_id limit 1 for update skip locked;
    end if;
    if found then
      return true;
    end if;
  end loop;
  return false;
end
$$;

-- In how many milliseconds something is due. What is due and locked, by a cancel that is not committed, is tried again after a while.
-- Granted to workers.
create or replace function df_engine.next_due_ms() returns numeric
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = 'force_generic_plan' set jit = off set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off as $$
declare
  v_ms numeric := (
    select greatest(0, ceil(extract(epoch from n.next_try_at - df_engine.clock()) * 1000))
    from df_engine.next_by_role() n where n.next_try_at < 'infinity' order by n.next_try_at limit 1);  -- NULL: nothing is
begin
  if exists (select from df_engine.pokes x where x.again is null or x.again <= pg_snapshot_xmin(pg_current_snapshot())) then
    return least(v_ms, 20);
  end if;
  v_ms := case when v_ms = 0 and not df_engine.can_fire() then 50 else v_ms end;
  return least(v_ms, df_engine.next_schedule_ms());
end
$$;

-- df.work: a round of work without a worker. A procedure that commits can have neither the owner's rights nor a SET clause, so every name
-- in it is qualified, operators included.

-- What PostgreSQL says of a COMMIT in a transaction block, a function or a trigger; of one in an exception handler alone it says
-- something else.
-- Granted to users.
create or replace function df_engine.said_of_commit() returns text
language plpgsql as $$
begin
  commit;
  return null;
exception when invalid_transaction_termination then
  return sqlerrm;
end
$$;

-- Raises unless df.work may run in this session.
-- Granted to users.
create or replace function df_engine.check_visit(p_stack text, p_said_of_commit text) returns void
language plpgsql as $$
begin
  if pg_catalog.strpos(p_stack, E'\n') operator(pg_catalog.>) 0 then
    raise exception 'df.work cannot be called in a function, a procedure or a DO block' using errcode = 'active_sql_transaction',
      hint = 'Call it in a statement of its own: CALL df.work().';
  elsif current_user operator(pg_catalog.<>) session_user then
    raise exception 'df.work works for the role that has logged in, "%", and the current role is "%"', session_user, current_user
      using errcode = 'object_not_in_prerequisite_state', hint = 'RESET ROLE first.';
  elsif (select r.rolsuper from pg_catalog.pg_roles r where r.rolname operator(pg_catalog.=) current_user)
        and not df_engine.setting_on('enable_superuser_instances') then
    raise exception 'df.work runs the steps of the calling role, and superuser "%" has none: enable_superuser_instances is off',
      current_user using errcode = 'object_not_in_prerequisite_state', hint = 'Log in as the role that has called df.start.';
  elsif p_said_of_commit operator(pg_catalog.=) df_engine.said_of_commit() then
    raise exception 'df.work cannot be called in a transaction block: every step commits' using errcode = 'active_sql_transaction',
      hint = 'Call it outside of BEGIN ... COMMIT; a driver may have to be told autocommit.';
  end if;
end
$$;

create or replace procedure df.work(max_seconds integer default 10)
language plpgsql as $$
declare
  v_stack pg_catalog.text;
  v_key pg_catalog.text;
  v_until pg_catalog.timestamptz;
  v_fired int;
  v_report pg_catalog.text;
begin
  if not (pg_catalog.has_schema_privilege('df_engine', 'usage')
          and pg_catalog.has_table_privilege('df_engine.own_key', 'select')) then
    raise exception 'permission denied: role "%" may not use pg_durable', current_user
      using errcode = 'insufficient_privilege',
            hint = pg_catalog.format('An administrator grants it: SELECT df.grant_usage(%L);', current_user);
  end if;
  if max_seconds is null then
    raise exception 'argument max_seconds of df.work is NULL' using errcode = 'null_value_not_allowed';
  elsif pg_catalog.int4lt(max_seconds, 0) then
    raise exception 'max_seconds must not be negative: %', max_seconds using errcode = 'invalid_parameter_value';
  end if;
  get diagnostics v_stack = pg_context;
  begin
    commit;
  exception when invalid_transaction_termination then
    perform df_engine.check_visit(v_stack, sqlerrm);
  end;
  v_until := df_engine.deadline(pg_catalog.int4mul(least(max_seconds, 1000000), 1000));
  v_key := (select k.key from df_engine.own_key k);
  perform df_engine.set_step_settings();
  commit;  -- the next transaction has them
  loop
    v_fired := df_engine.fire_own(v_key, 50, v_fired is null);
    commit;
    exit when pg_catalog.texteq(v_report, 'empty') and pg_catalog.int4eq(v_fired, 0);
    call df_engine.work(least(df_engine.milliseconds(pg_catalog.clock_timestamp(), v_until), 1000)::int, false, v_report, true);
    if pg_catalog.starts_with(v_report, 'interrupted') then
      raise exception 'df.work was canceled while a step ran; the step was rolled back and waits' using errcode = 'query_canceled';
    end if;
    exit when pg_catalog.timestamptz_ge(pg_catalog.clock_timestamp(), v_until);
  end loop;
  reset all;
end
$$;
comment on procedure df.work(integer) is
  'Works for the calling role without a worker: fires due timers and signals, and runs ready SQL steps, until none is ready or max_seconds have passed. Every step commits. The session is reset before and after each step, so call it in one of its own. HTTP steps, and steps in other databases or outside of transactions, wait for a worker. Raises 25001 in a transaction block, function or DO block, and 55000 after SET ROLE and for superusers.';

-- Mocks: what stands in for the outside in df.test. {"signals": {name: ...}, "http": {pattern: ...}, "steps": {name or path: ...}}; an
-- array of signals, or of responses, is taken in order.

-- The names of the steps of a graph, and of those that it calls; a graph is read once.
create or replace function df_engine.step_names(p_role oid, p_graph jsonb) returns text[]
language plpgsql stable as $$
declare
  v_names text[] := '{}';
  v_open jsonb[] := array[p_graph];
  v_seen text[] := '{}';
  v_flow text;
  v_step jsonb;
  n jsonb;
begin
  while cardinality(v_open) > 0 loop
    for n in select x.node from jsonb_path_query(v_open[1], 'strict $.** ? (exists (@.node_type))') x(node) loop
      if n ? 'result_name' then
        v_step := n;
        while v_step ->> 'node_type' in ('THEN', 'UNDO') loop
          v_step := v_step -> case v_step ->> 'node_type' when 'THEN' then 'right_node' else 'left_node' end;
        end loop;
        if v_step ->> 'node_type' in ('SQL', 'BLOCK', 'HTTP', 'HTTP_MULTIPART') then
          v_names := v_names || (n ->> 'result_name');
        end if;
      end if;
      if n ->> 'node_type' = 'CALL' then
        v_flow := df_engine.json_or_null(n ->> 'query') ->> 'flow';
        if v_flow is not null and v_flow <> all (v_seen) then
          v_seen := v_seen || v_flow;
          if df_engine.reference_in(v_flow) is not null then
            v_flow := (df_engine.definition_of(p_role, v_flow, false)).graph;
          end if;
          v_open := v_open || df_engine.json_or_null(v_flow);
        end if;
      end if;
    end loop;
    v_open := v_open[2:];
  end loop;
  return v_names;
end
$$;

-- Raises for mocks that can stand in for nothing.
create or replace function df_engine.check_mocks(p_role oid, p_graph df_engine.graphs, p_mocks jsonb) returns void
language plpgsql stable as $$
declare
  v_names text[];
  v_key text;
begin
  if jsonb_typeof(p_mocks) <> 'object' then
    raise exception 'mocks must be a JSON object, and is of type %', jsonb_typeof(p_mocks) using errcode = 'invalid_parameter_value';
  end if;
  perform df_engine.check_size('mocks', octet_length(p_mocks::pg_catalog.text), df_engine.setting('max_result_bytes')::bigint);
  for v_key in select k from jsonb_object_keys(p_mocks) k loop
    if v_key not in ('signals', 'http', 'steps') then
      raise exception 'mocks has an unknown key "%"', v_key using errcode = 'invalid_parameter_value',
        hint = 'It has signals, http and steps.';
    elsif jsonb_typeof(p_mocks -> v_key) <> 'object' then
      raise exception 'mocks.% must be a JSON object', v_key using errcode = 'invalid_parameter_value';
    end if;
  end loop;
  if p_mocks ? 'steps' then
    v_names := df_engine.step_names(p_role, (p_graph).envelope);
    for v_key in select k from jsonb_object_keys(p_mocks -> 'steps') k loop
      if v_key <> all (v_names) and not exists (
        select from df_engine.graph_nodes n
        where n.graph = (p_graph).id and n.kind in ('SQL', 'BLOCK', 'HTTP', 'HTTP_MULTIPART') and df_engine.node_path(n.graph, n.node) = v_key) then
        raise exception 'mocks.steps: the flow has no step "%"', v_key using errcode = 'invalid_parameter_value',
          hint = 'It is the name of a result, or a path such as root.left. What has no result of its own, such as a sequence, is no step.';
      end if;
    end loop;
  end if;
end
$$;

-- The names of a node, from the inside out: its own, and those of what has its value, because it ends with it.
create or replace function df_engine.names_of_step(p_graph bigint, p_node int) returns text[]
language plpgsql stable as $$
begin
  return (
    with recursive around as (
      select n.parent, n.place, n.result_name, 1 as level from df_engine.graph_nodes n where n.graph = p_graph and n.node = p_node
      union all
      select n.parent, n.place, n.result_name, a.level + 1
      from around a join df_engine.graph_nodes n on n.graph = p_graph and n.node = a.parent
      where n.kind = 'THEN' and a.place = 2 or n.kind = 'UNDO' and a.place = 1
    )
    select array_agg(a.result_name order by a.level) from around a where a.result_name is not null);
end
$$;

-- How often something of the mocks of this test has been used.
create or replace function df_engine.mock_uses(p_mock text) returns int
language plpgsql stable as $$
begin
  return (select count(*) from df_engine.test_moves m where m.xid = pg_current_xact_id_if_assigned() and m.mock = p_mock);
end
$$;

-- What p_mocks has under a key for the next time; of an array the next element. NULL: nothing, or nothing any more.
create or replace function df_engine.next_mock(p_mocks jsonb, p_kind text, p_key text) returns jsonb
language plpgsql stable as $$
declare
  v_mock constant jsonb := p_mocks -> p_kind -> p_key;
begin
  return case jsonb_typeof(v_mock) when 'array' then v_mock -> df_engine.mock_uses(p_kind || '.' || p_key) else v_mock end;
end
$$;

-- The key of a step in the mocks: its name, or its path in the run that is tested. NULL: there is none.
create or replace function df_engine.step_mock(p_test df_engine.tests, p_instance bigint, p_node int) returns text
language plpgsql stable as $$
declare
  v_steps constant jsonb := (p_test).mocks -> 'steps';
begin
  if v_steps is null then
    return null;
  end if;
  return (
    select k.key
    from df_engine.instances i
    cross join unnest(df_engine.names_of_step(i.graph, p_node)
                      || case when p_instance = (p_test).run then df_engine.node_path(i.graph, p_node) end) k(key)
    where i.instance = p_instance and v_steps ? k.key limit 1);
end
$$;

-- What the mock of a step says for this time: a value, or an error. Neither: the step runs after all.
create or replace function df_engine.mocked_step(p_mock jsonb, p_uses int, out value jsonb, out error jsonb)
language plpgsql immutable as $$
begin
  if jsonb_typeof(p_mock) = 'object' and p_mock ? 'error' then
    if p_uses < coalesce((p_mock ->> 'times')::int, p_uses + 1) then
      error := case jsonb_typeof(p_mock -> 'error') when 'object' then p_mock -> 'error'
                    else jsonb_build_object('message', p_mock ->> 'error') || (p_mock - '{error,times,value}'::pg_catalog.text[]) end;
    else
      value := p_mock -> 'value';
    end if;
  else
    value := p_mock;
  end if;
end
$$;

-- A value that stands in for the result of a statement. An object is a row, unless it has rows; anything else is a row of one column.
create or replace function df_engine.mocked_rows(p_value jsonb) returns df_engine.result
language plpgsql immutable as $$
declare
  v_rows constant jsonb := case
    when jsonb_typeof(p_value) = 'object' and jsonb_typeof(p_value -> 'rows') = 'array' then p_value -> 'rows'
    when jsonb_typeof(p_value) = 'array' then p_value
    when jsonb_typeof(p_value) = 'null' then '[]' else jsonb_build_array(p_value) end;
begin
  if v_rows = '[]' then
    return df_engine.no_rows(null);
  end if;
  return row(df_engine.row_set((
    select string_agg(case jsonb_typeof(r.value) when 'object' then r.value else jsonb_build_object('value', r.value) end::pg_catalog.text, ',' order by r.no)
    from jsonb_array_elements(v_rows) with ordinality r(value, no))), null, null)::df_engine.result;
end
$$;

-- What a worker would report of a request that is answered so.
create or replace function df_engine.mocked_response(p_mock jsonb, p_request jsonb) returns json
language plpgsql immutable as $$
declare
  v_title constant text := concat(p_request ->> 'method', ' ', p_request ->> 'url');
  v_status constant int := coalesce((p_mock ->> 'status')::int, 200);
  v_body constant text := coalesce(p_mock ->> 'body', '');
begin
  if p_mock ? 'error' then
    return json_build_object('error', concat(v_title, ': ', p_mock ->> 'error'), 'class', coalesce(p_mock ->> 'class', 'connection'));
  elsif v_status in (408, 425, 429) or v_status >= 500
        or p_request -> 'error_statuses' ?| array[v_status::pg_catalog.text, v_status / 100 || 'xx'] then
    return json_build_object('error', concat(v_title, ': HTTP status ', v_status, ': ' || nullif(left(v_body, 512), '')),
                             'class', 'http:' || v_status, 'retry_after', substring(p_mock #>> '{headers,retry-after}' from '^[0-9]+$'));
  end if;
  return json_build_object('value', json_build_object(
    'status', v_status, 'body', v_body, 'encoding', 'text', 'headers', coalesce(p_mock -> 'headers', '{}'),
    'ok', v_status between 200 and 299, 'duration_ms', 0));
end
$$;

-- The pattern among p_mocks.http that a request matches, the longest first: a URL, with * for anything, after a method if one is meant.
create or replace function df_engine.http_mock(p_mocks jsonb, p_request jsonb) returns text
language sql stable as $$
  select k.pattern
  from jsonb_object_keys(p_mocks -> 'http') k(pattern)
  where case when k.pattern ~ '^[A-Z]+ ' then concat(p_request ->> 'method', ' ', p_request ->> 'url') else p_request ->> 'url' end
        ~ ('^' || replace(regexp_replace(k.pattern, '([^A-Za-z0-9*])', '\\\1', 'g'), '*', '.*') || '$')
  order by length(k.pattern) desc, k.pattern limit 1
$$;

-- df.test: a run from its beginning to its end, inside of the transaction of its caller. The engine's own functions claim, record and fire; what is
-- here chooses what is next, moves a virtual clock to it when nothing is ready, and answers in place of the outside. No row of the run
-- outlives the call. User code runs between these functions, never in them, and the clock is virtual in them only: the setting that
-- makes it so has to match a row that nobody can read.


-- From here on the clock is virtual, and nobody is told of anything.
create or replace function df_engine.set_virtual(p_token text) returns void
language plpgsql as $$
begin
  perform set_config('df_engine.virtual', p_token, true), set_config('df.wake', 'off', true);
end
$$;

-- The clock is real again.
create or replace function df_engine.leave_test(p_wake text) returns void
language plpgsql as $$
begin
  perform set_config('df_engine.virtual', '', true), set_config('df.wake', p_wake, true);
end
$$;

-- The time of the test of this transaction, if the session's setting is its token; else the time.
create or replace function df_engine.virtual_clock() returns timestamptz
language plpgsql volatile as $$
declare
  v_now pg_catalog.timestamptz;
begin
  if exists (select from df_engine.tests t where t.xid = pg_current_xact_id_if_assigned() and t.token = current_setting('df_engine.virtual', true)) then
    select m.at into v_now from df_engine.test_moves m where m.xid = pg_current_xact_id_if_assigned() order by m.no desc limit 1;
  end if;
  return coalesce(v_now, clock_timestamp());
end
$$;

-- What steps see as the time.
-- Granted to users.
create or replace function df_engine.now_in_test() returns timestamptz
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
begin
  return coalesce((select m.at from df_engine.test_moves m where m.xid = pg_current_xact_id_if_assigned() order by m.no desc limit 1),
                  clock_timestamp());
end
$$;

create or replace function df.now() returns timestamptz
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
  if not (pg_catalog.has_schema_privilege('df_engine', 'usage')
          and pg_catalog.has_table_privilege('df_engine.own_key', 'select')) then
    raise exception 'permission denied: role "%" may not use pg_durable', current_user
      using errcode = 'insufficient_privilege',
            hint = pg_catalog.format('An administrator grants it: SELECT df.grant_usage(%L);', current_user);
  end if;
  return df_engine.now_in_test();
end
$$;
comment on function df.now() is
  'The time: in a step that df.test runs the virtual time of the test, else what clock_timestamp() says. Conditions that wait for a time ask it, so that a test can pass them.';

-- The test that is under way, for who acts as its role; from here on the clock is virtual, as long as the calling function runs.
create or replace function df_engine.enter_test(p_key text) returns df_engine.tests
language plpgsql as $$
declare
  v_role constant oid := quote_ident(session_user)::pg_catalog.regrole;
  v_test df_engine.tests;
begin
  if (p_key = encode(sha256((df_engine.secret() || v_role::pg_catalog.text)::pg_catalog.bytea), 'hex')) is not true then
    raise exception 'this function of df_engine is called by the functions of df only'
      using errcode = 'insufficient_privilege';
  end if;
  select t.* into v_test from df_engine.tests t where t.xid = pg_current_xact_id_if_assigned() and t.submitter = v_role;
  if not found then
    raise exception 'no test is under way' using errcode = 'object_not_in_prerequisite_state';
  end if;
  perform df_engine.set_virtual(v_test.token);
  return v_test;
end
$$;

-- The run that is tested, and those that it has called.
create or replace function df_engine.runs_in_test(p_instance bigint) returns bigint[]
language plpgsql stable as $$
begin
  return array(
    with recursive runs as (
      select p_instance as instance
      union all
      select i.instance from runs r join df_engine.instances i on i.parent = r.instance
    )
    select r.instance from runs r);
end
$$;

-- How df.test names a node: by its result, else by where it stands; in a run that was called, after the CALL.
create or replace function df_engine.shown_node(p_instance bigint, p_node int) returns text
language plpgsql stable as $$
declare
  i df_engine.instances;
  v_name text;
begin
  select * into i from df_engine.instances x where x.instance = p_instance;
  v_name := coalesce((df_engine.names_of_step(i.graph, p_node))[1], df_engine.node_path(i.graph, p_node));
  return case when i.parent is not null then df_engine.shown_node(i.parent, i.parent_node) || ' > ' else '' end || v_name;
end
$$;

-- Adds a move. p_at: the time to which it moves the clock.
create or replace function df_engine.note_move(
  p_at timestamptz, p_node text default null, p_query text default null, p_status text default null, p_value json default null,
  p_error text default null, p_mock text default null
) returns void
language plpgsql as $$
begin
  insert into df_engine.test_moves (xid, no, at, node, query, status, value, error, mock)
  select pg_current_xact_id(), 1 + coalesce(max(m.no), 0), coalesce(p_at, df_engine.clock()), p_node, p_query, p_status, p_value, p_error, p_mock
  from df_engine.test_moves m where m.xid = pg_current_xact_id();
end
$$;

-- Adds how a wait has ended at whose node a thread stood.
create or replace function df_engine.note_end_of_wait(p_instance bigint, p_scope bigint, p_node int, p_mock text default null) returns void
language plpgsql as $$
declare
  r record;
begin
  select g.query, case when o.state in ('c', 'b', 'd') then 'completed' when o.state in ('f', 'x', 'e', 'h') then 'failed' end as status,
         o.value, o.error into r
  from df_engine.instances i
  join df_engine.graph_nodes g on g.graph = i.graph and g.node = p_node
  left join df_engine.outcomes o on o.instance = i.instance and o.scope = p_scope and o.node = p_node
  where i.instance = p_instance;
  perform df_engine.note_move(null, df_engine.shown_node(p_instance, p_node), r.query, r.status, r.value, r.error, p_mock);
end
$$;

-- Adds how a step has ended.
create or replace function df_engine.note_step(
  p_instance bigint, p_node int, p_query text, p_value json, p_error text, p_mock text default null
) returns void
language plpgsql as $$
begin
  perform df_engine.note_move(null, df_engine.shown_node(p_instance, p_node), p_query, case when p_error is null then 'completed' else 'failed' end,
                              p_value, p_error, p_mock);
end
$$;

-- Begins the test of a flow: its run, which nobody sees before this transaction has removed it.
-- Granted to users.
create or replace function df_engine.begin_test(p_key text, p_text text, p_input jsonb, p_mocks jsonb) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = 'force_generic_plan'
  set application_name = '' set jit = off set enable_seqscan = off as $$
declare
  v_role constant oid := quote_ident(session_user)::regrole;
  v_test df_engine.tests := row(pg_current_xact_id(), v_role, replace(gen_random_uuid()::text, '-', ''), 0, coalesce(p_mocks, '{}'), clock_timestamp());
  v_text text := p_text;
  v_run df_engine.instances;
  v_graph bigint;
  g df_engine.graphs;
  v_wake constant text := coalesce(current_setting('df.wake', true), '');
begin
  if (p_key = encode(sha256((df_engine.secret() || v_role::pg_catalog.text)::pg_catalog.bytea), 'hex')) is not true then
    raise exception 'this function of df_engine is called by the functions of df only'
      using errcode = 'insufficient_privilege';
  end if;
  if exists (select from df_engine.tests t where t.xid = v_test.xid) then
    raise exception 'a step of df.test cannot call df.test' using errcode = 'object_not_in_prerequisite_state';
  end if;
  if df_engine.reference_in(v_text) is not null then
    select d.graph, d.definition, d.compiled into v_text, v_run.definition, v_graph from df_engine.definition_of(v_role, v_text, false) d;
  else
    v_graph := (select x.id from df_engine.graphs x
                where x.submitter = v_role and x.hash = df_engine.graph_hash(v_text, false) order by x.id desc limit 1);
  end if;
  g := df_engine.graph_to_start(v_role, v_text, false, v_graph);
  perform df_engine.check_mocks(v_role, g, v_test.mocks);
  if g.placeholders then
    v_run.vars := (select jsonb_object_agg(v.name, v.value) from df_engine.vars v where v.owner = v_role::regrole and v.value is not null);
  end if;
  v_run.submitter := v_role;
  v_run.input := p_input;
  perform df_engine.set_virtual(v_test.token);
  set constraints df_engine.tests_end deferred;
  insert into df_engine.tests select v_test.*;
  perform df_engine.note_move(v_test.started_at);
  v_test.run := df_engine.begin_run(v_run, g);
  update df_engine.tests t set run = v_test.run where t.xid = v_test.xid;
  update df_engine.queue q set picked = true where q.instance = v_test.run;  -- it has begun: a superuser's, too
  perform df_engine.leave_test(v_wake);
end
$$;

-- Whoever begins a test and does not end it cannot commit: so no run of a test is ever seen, whoever calls what is here.
create or replace function df_engine.refuse_open_test() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if exists (select from df_engine.tests t where t.xid = new.xid) then
    raise exception 'df.test has not ended' using errcode = 'object_not_in_prerequisite_state',
      hint = 'A step of df.test that says SET CONSTRAINTS names them. Private functions are called by the functions of df only.';
  end if;
  return null;
end
$$;

do $triggers$
begin
  if not exists (select from pg_trigger where tgname = 'tests_end') then
    create constraint trigger tests_end after insert on df_engine.tests deferrable initially deferred
      for each row execute function df_engine.refuse_open_test();
  end if;
end
$triggers$;

-- Answers a step that a worker would run itself, or fails it.
create or replace function df_engine.answer_request(p_test df_engine.tests, p_queue df_engine.queue) returns void
language plpgsql as $$
declare
  v_step constant text := df_engine.step_mock(p_test, (p_queue).instance, (p_queue).node);
  v_pattern constant text := df_engine.http_mock((p_test).mocks, (p_queue).request);
  v_mock constant text := coalesce('steps.' || v_step, 'http.' || v_pattern);
  m record;
  v_answer jsonb;
  v_outcome json;
begin
  if (p_queue).lane = 'http' and v_step is not null then
    m := df_engine.mocked_step((p_test).mocks -> 'steps' -> v_step, df_engine.mock_uses(v_mock));
    v_answer := case when m.error is not null then jsonb_build_object('error', m.error ->> 'message', 'class', m.error ->> 'class') else m.value end;
  end if;
  if (p_queue).lane = 'http' and v_answer is null and v_pattern is not null then
    v_answer := df_engine.next_mock((p_test).mocks, 'http', v_pattern);
  end if;
  if v_answer is null then
    v_outcome := json_build_object('class', 'refused', 'sqlstate', 'DF501', 'error', case (p_queue).lane
      when 'http' then format('df.test sends nothing, and no mock answers %s %s', (p_queue).request ->> 'method', (p_queue).request ->> 'url')
      else 'df.test cannot run a step outside of its transaction' end || chr(10) || case (p_queue).lane
      when 'http' then 'HINT: Give it one in mocks.http.' else 'HINT: Give it a mock in mocks.steps.' end);
  elsif jsonb_typeof(v_answer) = 'object' and v_answer ?| '{status,body,error}' then
    v_outcome := df_engine.mocked_response(v_answer, (p_queue).request);
  else
    v_outcome := json_build_object('value', v_answer);
  end if;
  update df_engine.queue q set worker = 0, leased_at = df_engine.clock()
  where q.lane = (p_queue).lane and q.submitter = (p_queue).submitter and q.id = (p_queue).id;
  perform df_engine.note_step((p_queue).instance, (p_queue).node, coalesce((p_queue).request ->> 'sql', concat(
    (p_queue).request ->> 'method', ' ', (p_queue).request ->> 'url')), v_outcome -> 'value', v_outcome ->> 'error', v_mock);
  perform df_engine.record_leased(0, (p_queue).id, v_outcome);
end
$$;

-- What a statement of this session is to be run for a step; its text and kind are in it. NULL: it needs none, because it has a mock, or has failed.
create or replace function df_engine.step_to_run(p_key text, p_test df_engine.tests, p_place df_engine.place) returns df_engine.step
language plpgsql as $$
declare
  t constant df_engine.thread := (p_place).thread;
  v_step df_engine.step := (p_place).steps[1];
  v_mock constant text := df_engine.step_mock(p_test, t.instance, v_step.node);
  m record;
  v_code text;
  v_message text;
begin
  m := df_engine.mocked_step((p_test).mocks -> 'steps' -> v_mock, df_engine.mock_uses('steps.' || v_mock));
  begin
    if v_step.statement is null then
      select p.sql, p.statement into v_step.text, v_step.statement from df_engine.prepare_step(p_key, (p_place).graph, t, v_step) p;
    end if;
  exception when others then
    get stacked diagnostics v_code = returned_sqlstate, v_message = message_text;
    perform df_engine.note_step(t.instance, v_step.node, v_step.text, null, v_message);
    perform df_engine.fail_step(p_key, (p_place).id, (p_place).graph, (p_place).queue, t, v_step, v_code, v_message, null, null, true, df_engine.clock());
    return null;
  end;
  if m.value is null and m.error is null then
    return v_step;
  elsif m.error is not null then
    perform df_engine.end_step(p_key, p_place, v_step, null, coalesce(m.error ->> 'sqlstate', 'P0001'), m.error ->> 'message', m.error ->> 'detail',
                               m.error ->> 'hint', 'steps.' || v_mock);
  else
    perform df_engine.end_step(p_key, p_place, v_step, df_engine.mocked_rows(m.value), null, null, null, null, 'steps.' || v_mock);
  end if;
  return null;
end
$$;

-- Records a step that has run, or failed.
create or replace function df_engine.end_step(
  p_key text, p_place df_engine.place, p_step df_engine.step, p_result df_engine.result, p_code text, p_message text, p_detail text,
  p_hint text, p_mock text default null
) returns void
language plpgsql as $$
declare
  t constant df_engine.thread := (p_place).thread;
  v_next df_engine.place;
begin
  if p_code is null then
    perform df_engine.note_step(t.instance, (p_step).node, (p_step).text, (p_result).value, null, p_mock);
    v_next := df_engine.record_step(p_key, (p_place).id, (p_place).graph, (p_place).queue, t, p_step, p_result, df_engine.clock(), false);
  else
    if p_code not in ('25001', '2D000') or (p_step).block then  -- else it has to be answered
      perform df_engine.note_step(t.instance, (p_step).node, (p_step).text, null, df_engine.error_text(p_code, p_message, p_detail, p_hint), p_mock);
    end if;
    v_next := df_engine.fail_step(p_key, (p_place).id, (p_place).graph, (p_place).queue, t, p_step, p_code, p_message, p_detail, p_hint, false,
                                  df_engine.clock());
  end if;
  if v_next.report in ('lost', 'interrupted') then
    raise exception '%', coalesce(p_message, 'the step is lost') using errcode = coalesce(p_code, 'internal_error');
  end if;
end
$$;

-- The same for the statement that df_engine.next_in_test has answered.
-- Granted to users.
create or replace function df_engine.end_step_in_test(
  p_key text, p_place df_engine.place, p_step df_engine.step, p_result df_engine.result, p_code text, p_message text, p_detail text, p_hint text
) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = 'force_generic_plan'
  set application_name = '' set jit = off set enable_seqscan = off as $$
declare
  v_wake constant text := coalesce(current_setting('df.wake', true), '');
  v_test constant df_engine.tests := df_engine.enter_test(p_key);
begin
  if (p_place).thread.instance <> all (df_engine.runs_in_test(v_test.run)) then
    raise exception 'the step is of no run of this test' using errcode = 'insufficient_privilege';
  end if;
  perform df_engine.end_step(p_key, p_place, p_step, p_result, p_code, p_message, p_detail, p_hint);
  perform df_engine.leave_test(v_wake);
end
$$;

-- Delivers a signal that a step has sent to a run of the test; false: there is none.
create or replace function df_engine.deliver_sent(p_runs bigint[]) returns boolean
language plpgsql as $$
declare
  s df_engine.inbox;
  w df_engine.waits;
  v_waits df_engine.waits[];
begin
  select x.* into s from df_engine.inbox x where x.instance = any (p_runs) and x.fresh order by x.signal_id limit 1;
  if not found then
    return false;
  end if;
  v_waits := array(select x from df_engine.waits x where x.instance = s.instance and x.signal_name = s.signal_name order by x.id);
  perform df_engine.try_signal(s.signal_id);
  foreach w in array v_waits loop
    if not exists (select from df_engine.waits x where x.id = w.id) then
      perform df_engine.note_end_of_wait(w.instance, w.scope, w.node);
    end if;
  end loop;
  perform df_engine.note_move(null);
  return true;
end
$$;

-- Lets what is next happen: a signal that a mock sends, or a timer, to which the clock moves. Of what is due at the same time the branch that
-- began to wait first is first. False: nothing can.
create or replace function df_engine.move_on(p_test df_engine.tests, p_runs bigint[]) returns boolean
language plpgsql as $$
declare
  v_now constant timestamptz := df_engine.clock();
  r record;
  v_wait df_engine.waits;
  v_timer df_engine.timers;
begin
  select x.* into r from (
    select t.id, greatest(t.next_try_at, v_now) as due, null::df_engine.waits as wait, t as timer
    from df_engine.timers t
    where t.instance = any (p_runs) and t.next_try_at < 'infinity'
      and not exists (select from df_engine.instances i where i.instance = t.instance and i.paused)
    union all
    select w.id, v_now, w, null from df_engine.waits w
    where w.instance = any (p_runs) and df_engine.next_mock((p_test).mocks, 'signals', w.signal_name) is not null
      and not exists (select from df_engine.instances i where i.instance = w.instance and i.paused)) x
  order by x.due, x.id limit 1;
  if not found then
    return false;
  elsif (r.wait).id is not null then
    v_wait := r.wait;
    perform df_engine.deliver_signal(jsonb_populate_record(null::df_engine.inbox, jsonb_build_object(
      'instance', v_wait.instance, 'signal_name', v_wait.signal_name, 'signal_data', df_engine.next_mock((p_test).mocks, 'signals', v_wait.signal_name))));
    perform df_engine.note_end_of_wait(v_wait.instance, v_wait.scope, v_wait.node, 'signals.' || v_wait.signal_name);
    return true;
  end if;
  v_timer := r.timer;
  perform df_engine.note_move(r.due);
  perform df_engine.try_timer(v_timer);
  if v_timer.kind in ('sleep', 'schedule', 'timeout', 'deadline', 'child') then
    perform df_engine.note_end_of_wait(v_timer.instance, v_timer.scope, v_timer.node);
  end if;
  return true;
end
$$;

-- Raises: nothing of a test can go on.
create or replace function df_engine.refuse_to_wait(p_runs bigint[]) returns void
language plpgsql as $$
declare
  v_waits constant text := (
    select string_agg(format('signal "%s" (%s)', w.signal_name, df_engine.shown_node(w.instance, w.node)), ', ' order by w.id)
    from df_engine.waits w where w.instance = any (p_runs) and w.signal_name is not null);
  v_failed constant text := (
    select format('%s has failed: %s', m.node, m.error) from df_engine.test_moves m
    where m.xid = pg_current_xact_id() and m.error is not null order by m.no desc limit 1);
begin
  if exists (select from df_engine.instances i where i.instance = any (p_runs) and i.paused) then
    raise exception 'df.test: the run is paused, and nothing resumes it' using errcode = 'DF502';
  end if;
  raise exception 'df.test: the flow waits for %, and nothing comes', coalesce(v_waits, 'what is no signal') using errcode = 'DF502',
    detail = coalesce(v_failed, 'No step has failed before.'), hint = 'Give the signal in mocks: ''{"signals": {"name": {"ok": true}}}'', or the wait a time-out.';
end
$$;

-- Lets a test go on until a statement of a step is to be run by this session: place and step. over: it has ended, or made p_moves moves.
-- Granted to users.
create or replace function df_engine.next_in_test(p_key text, p_moves int, out over boolean, out place df_engine.place, out step df_engine.step)
language plpgsql security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = 'force_generic_plan'
  set application_name = '' set jit = off set enable_seqscan = off as $$
declare
  v_wake constant text := coalesce(current_setting('df.wake', true), '');
  v_test constant df_engine.tests := df_engine.enter_test(p_key);
  v_runs bigint[];
  q df_engine.queue;
begin
  over := false;
  loop
    if exists (select from df_engine.instances i where i.instance = v_test.run and i.status not in ('pending', 'running'))
       or (select m.no >= p_moves from df_engine.test_moves m where m.xid = v_test.xid order by m.no desc limit 1) then
      over := true;
      exit;
    end if;
    v_runs := df_engine.runs_in_test(v_test.run);
    select x.* into q from df_engine.queue x where x.instance = any (v_runs) and x.lane in ('sql', 'direct', 'http') order by x.id limit 1;
    if not found then
      if not df_engine.deliver_sent(v_runs) and not df_engine.move_on(v_test, v_runs) then
        perform df_engine.refuse_to_wait(v_runs);
      end if;
      continue;
    elsif q.lane <> 'sql' then
      perform df_engine.answer_request(v_test, q);
      continue;
    end if;
    place := df_engine.claim_step(p_key, q.id, 0, false);
    if place.steps is null then
      perform df_engine.note_move(null);
      continue;
    end if;
    step := df_engine.step_to_run(p_key, v_test, place);
    exit when step.node is not null;
  end loop;
  perform df_engine.leave_test(v_wake);
end
$$;

-- Ends a test: what happened in it, with how its run has ended as the last row. All of it is removed.
-- Granted to users.
create or replace function df_engine.end_test(p_key text)
returns table (no int, at interval, node text, query text, status text, value jsonb, error text)
language plpgsql security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = 'force_generic_plan'
  set application_name = '' set jit = off set enable_seqscan = off as $$
#variable_conflict use_column
declare
  v_wake constant pg_catalog.text := coalesce(current_setting('df.wake', true), '');
  v_test constant df_engine.tests := df_engine.enter_test(p_key);
  v_runs constant bigint[] := df_engine.runs_in_test(v_test.run);
  i df_engine.instances;
begin
  select x.* into i from df_engine.instances x where x.instance = v_test.run;
  perform df_engine.note_move(null, null, null, i.status, (
    select o.value from df_engine.outcomes o where o.instance = i.instance and o.scope = 0 and o.node = i.result), i.error);
  return query
    select (row_number() over (order by m.no))::int, m.at - v_test.started_at, m.node, m.query, m.status, m.value::jsonb, m.error
    from df_engine.test_moves m where m.xid = v_test.xid and m.status is not null order by m.no;
  delete from df_engine.outcomes o where o.instance = any (v_runs);
  perform df_engine.remove_traces(v_runs);
  delete from df_engine.instances x where x.instance = any (v_runs);
  delete from df_engine.test_moves m where m.xid = v_test.xid;
  delete from df_engine.tests t where t.xid = v_test.xid;
  perform df_engine.leave_test(v_wake);
end
$$;

-- What of df.test runs as its caller, and with the caller's search_path: the statements of steps. So every name is qualified, operators
-- included.

-- Raises unless df.test may run.
-- Granted to users.
create or replace function df_engine.check_test(fut text, steps int) returns void
language plpgsql volatile set search_path = '' as $$
begin
  if fut is null then
    raise exception 'argument fut of df.test is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;
  if steps is null then
    raise exception 'argument steps of df.test is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;

  if nullif(pg_catalog.current_setting('pg_durable.returned', true), '')::pg_catalog.jsonb
    -> pg_catalog.statement_timestamp()::pg_catalog.text ? fut then
    raise exception '% cannot be used as a workflow step', nullif(pg_catalog.current_setting('pg_durable.returned', true), '')::pg_catalog.jsonb
    -> pg_catalog.statement_timestamp()::pg_catalog.text ->> fut
      using errcode = 'invalid_parameter_value',
            hint = 'It returns a value, not a graph. Call it in a statement of its own.';
  end if;
  if steps < 1 then
    raise exception 'steps must be at least 1, and is %', steps using errcode = 'invalid_parameter_value';
  elsif current_user <> session_user then
    raise exception 'df.test runs steps as the role that has logged in, "%", and the current role is "%"', session_user, current_user
      using errcode = 'object_not_in_prerequisite_state', hint = 'RESET ROLE first; a superuser can SET SESSION AUTHORIZATION.';
  end if;
end
$$;

-- The constraints of users that are deferred until COMMIT, as SET CONSTRAINTS takes them. ALL would mean those of df_engine, too.
-- Granted to users.
create or replace function df_engine.deferred_constraints() returns text
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select string_agg(distinct format('%I.%I', n.nspname, c.conname), ',')
  from pg_constraint c join pg_namespace n on n.oid = c.connamespace
  where c.condeferred and n.nspname <> 'df_engine' and has_schema_privilege(session_user, n.oid, 'usage')
    and not exists (select from pg_constraint x where x.conname = c.conname and x.connamespace = c.connamespace and not x.condeferrable)
$$;

-- Runs the statement of a step with the settings that steps rely on, and puts them back. code and what follows: how it has failed. What it has
-- left until COMMIT is checked at its end, as when it is a transaction.
-- Granted to users.
create or replace function df_engine.run_in_test(
  p_step df_engine.step, p_limit bigint, out result df_engine.result, out code text, out message text, out detail text, out hint text
)
language plpgsql
set TimeZone = 'UTC'
set DateStyle = 'ISO,MDY'
set IntervalStyle = 'postgres'
set bytea_output = 'hex'
set extra_float_digits = '1'
set standard_conforming_strings = 'on'
set default_transaction_isolation = 'read committed'
set default_transaction_read_only = 'off'
as $$
declare
  v_deferred constant pg_catalog.text := df_engine.deferred_constraints();
  v_df_in_workflow constant pg_catalog.text := coalesce(pg_catalog.current_setting('df.in_workflow', true), '');
begin
  perform pg_catalog.set_config('df.in_workflow', 'true', true);
  loop
    begin
      if pg_catalog.texteq(p_step.statement, 'command') then
        execute p_step.text;
        result := df_engine.no_rows(null);
      else
        result := df_engine.run_statement(p_step.text, p_step.statement, p_step.typed, p_limit);
      end if;
      if v_deferred is not null then
        execute pg_catalog.concat('set constraints ', v_deferred, ' immediate');
      end if;
      code := null;
      exit;
    exception when others or assert_failure then
      get stacked diagnostics code = returned_sqlstate, message = message_text, detail = pg_exception_detail, hint = pg_exception_hint;
      p_step.statement := df_engine.other_kind(p_step.statement, code);
      exit when p_step.statement is null;
    end;
  end loop;
  if v_deferred is not null then
    execute pg_catalog.concat('set constraints ', v_deferred, ' deferred');
  end if;
  perform pg_catalog.set_config('df.in_workflow', v_df_in_workflow, true);
end
$$;

-- The driver of df.test.
-- Granted to users.
create or replace function df_engine.run_test(p_fut text, p_input jsonb, p_mocks jsonb, p_steps int) returns void
language plpgsql as $$
declare
  v_key constant pg_catalog.text := (select k.key from df_engine.own_key k);
  v_limit constant bigint := df.setting('max_result_bytes')::bigint;
  v_next pg_catalog.record;
  v_ran pg_catalog.record;
begin
  perform df_engine.begin_test(v_key, p_fut, p_input, p_mocks);
  loop
    v_next := df_engine.next_in_test(v_key, p_steps);
    exit when v_next.over;
    v_ran := df_engine.run_in_test(v_next.step, v_limit);
    perform df_engine.end_step_in_test(v_key, v_next.place, v_next.step, v_ran.result, v_ran.code, v_ran.message, v_ran.detail, v_ran.hint);
  end loop;
end
$$;

create or replace function df.test(fut text, input jsonb default null, mocks jsonb default null, steps integer default 10000)
returns table (no integer, at interval, node text, query text, status text, value jsonb, error text)
language plpgsql as $$
begin
  if not (pg_catalog.has_schema_privilege('df_engine', 'usage')
          and pg_catalog.has_table_privilege('df_engine.own_key', 'select')) then
    raise exception 'permission denied: role "%" may not use pg_durable', current_user
      using errcode = 'insufficient_privilege',
            hint = pg_catalog.format('An administrator grants it: SELECT df.grant_usage(%L);', current_user);
  end if;
  perform df_engine.check_test(fut, steps);
  perform df_engine.run_test(fut, input, mocks, steps);
  return query select * from df_engine.end_test((select k.key from df_engine.own_key k));
end
$$;
comment on function df.test(text, jsonb, jsonb, integer) is
  'Runs a graph, one SQL statement or a definition (@name) to its end inside of the calling transaction, as the caller and without a worker, and returns what happened, in order; the last row, without a node, is the run: its status, value and error. SQL steps really run, one after another. Time is virtual: sleeps, schedules, time-outs and pauses before retries pass at once, at says how much has passed, df.now() what time it is. mocks: {"signals": {"name": data}, "http": {"https://host/*": {"status": 503, "body": ..., "headers": {...}} or {"error": ..., "class": "timeout"}}, "steps": {"name of a result, or path of a node": value or {"error": ..., "sqlstate": ..., "times": 2}}}; an array of signals or responses is taken in order. A step that cannot run in a transaction, or a request, without a mock fails with DF501. steps: at most so many moves; then the last row says running. Raises DF502 when the flow waits for what never comes. COMMIT keeps what the steps have done, and no run.';

-- Progress: what a step says of itself while it runs. df.progress raises an INFO, which arrives at the worker at once; the worker hands it on, at most
-- once a second for each session, and the supervising connection keeps the newest of each session. The text is sealed: nothing that a step
-- prints is believed, and what is said holds for the transaction, or the lease, in which it was said.

-- The step in which the caller's transaction is; NULL: in none. The name of the session, which a step can change, only narrows the search; that
-- this transaction has claimed the row of the queue, or a worker has leased it, is what counts.
create or replace function df_engine.own_step(out queue df_engine.queue, out node int)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_name constant text := current_setting('application_name');
  v_xid constant xid := pg_current_xact_id_if_assigned()::xid;
  g df_engine.graph_nodes;
begin
  select q.* into queue
  from df_engine.instances i
  join df_engine.queue q on q.instance = i.instance
  where i.id = substring(v_name from '^pg_durable:([0-9a-f]{8}):') and i.submitter = quote_ident(session_user)::regrole
    and case q.lane
      when 'sql' then q.xmax = v_xid or q.xmin = v_xid and q.picked
      when 'direct' then q.worker is not null and q.request ->> 'application_name' = v_name end
  limit 1;
  if found then
    select n.* into g
    from df_engine.instances i join df_engine.graph_nodes n on n.graph = i.graph
    where i.instance = (queue).instance and n.node = (queue).node;
    node := df_engine.next_node(queue, g);
  end if;
end
$$;

create or replace function df.progress(done numeric, total numeric default null, note text default null) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_step record;
  v_said text;
begin
  if not (abs(done) < 1e18 and abs(coalesce(total, 0)) < 1e18) then
    raise exception 'df.progress takes numbers below 1e18' using errcode = 'numeric_value_out_of_range';
  end if;
  v_step := df_engine.own_step();
  if done is null or v_step.node is null then
    return;
  end if;
  v_said := jsonb_build_object(
    'pid', pg_backend_pid(), 'xid', pg_current_xact_id_if_assigned()::text, 'queue', (v_step.queue).id,
    'leased', (v_step.queue).lane <> 'sql', 'node', v_step.node,
    'done', trim_scale(round(done, 6)), 'total', trim_scale(round(total, 6)), 'note', nullif(left(note, 200), ''));
  raise info 'pg_durable progress %', concat_ws(' of ', trim_scale(round(done, 6)), trim_scale(round(total, 6)))
    using detail = df_engine.sealed(v_said);
end
$$;
comment on function df.progress(numeric, numeric, text) is
  'Says how far the step that calls it has come: so much of a total, and a note of at most 200 characters. df.running_steps and df.explain show the newest while the step runs, at most a second after it was said. Outside of a step it does nothing, in CALL df.work() it is only printed. Nothing is written by the step itself';

-- A text that only this database can have said, of a form that only note_progress reads.
create or replace function df_engine.sealed(p_text text) returns text
language sql stable as $$
  select encode(sha256((df_engine.secret() || 'progress ' || encode(sha256(convert_to(p_text, 'UTF8')), 'hex'))::pg_catalog.bytea), 'hex') || p_text
$$;

-- A session of this worker, in a step that it has leased if p_ticket is not NULL, has said this. What is not df.progress' own, or was said
-- elsewhere, is passed over. What sessions that are gone have said is removed on the way.
-- Granted to workers.
create or replace function df_engine.note_progress(p_pid int, p_ticket bigint, p_said text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_said jsonb;
begin
  if p_said = df_engine.sealed(substr(p_said, 65)) then
    v_said := substr(p_said, 65)::jsonb;
  end if;
  if (v_said ->> 'pid')::int = p_pid
     and (case when (v_said ->> 'leased')::boolean then (v_said ->> 'queue')::bigint end) is not distinct from p_ticket then
    insert into df_engine.progress as p (pid, xid, queue, leased, node, done, total, note, said_at)
    select p_pid, s.xid::xid8, s.queue, s.leased, s.node, s.done, s.total, s.note, df_engine.clock()
    from jsonb_to_record(v_said) s(xid text, queue bigint, leased boolean, node int, done numeric, total numeric, note text)
    on conflict (pid) do update
      set xid = excluded.xid, queue = excluded.queue, leased = excluded.leased, node = excluded.node, done = excluded.done, total = excluded.total,
          note = excluded.note, said_at = excluded.said_at;
    delete from df_engine.progress p using (
      select o.pid from df_engine.progress o
      where not exists (select from pg_catalog.pg_stat_activity a where a.pid = o.pid) for update skip locked) gone
    where p.pid = gone.pid;
  end if;
end
$$;

-- How df.explain writes progress, in one line, with what a terminal would obey written out.
-- Granted to users.
create or replace function df_engine.progress_text(p_done numeric, p_total numeric, p_note text) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select p_done || coalesce(' of ' || p_total, '') || coalesce(' (' || trunc(100 * p_done / nullif(p_total, 0)) || ' %)', '') || coalesce(': ' || (
    select string_agg(case
        when c.letter ~ E'[\x01-\x1f\x7f]' or getdatabaseencoding() = 'UTF8' and (
          ascii(c.letter) in (1564, 8206, 8207, 65279) or ascii(c.letter) between 128 and 159
          or ascii(c.letter) between 8232 and 8238 or ascii(c.letter) between 8294 and 8297)
        then '\u' || lpad(to_hex(ascii(c.letter)), 4, '0') else c.letter end, '' order by c.place)
    from regexp_split_to_table(p_note, '') with ordinality c(letter, place)), '')
$$;

-- Workers: how they register, say that they are idle and alive, and what they say of roles that they cannot serve.

-- Registers a worker, whose number is answered. The role must be authorised: those are the workers that live_workers counts. The
-- advisory lock that says that it is alive has a random number, so that nobody can have taken it before.
-- Granted to workers.
create or replace function df_engine.register_worker() returns int
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_worker df_engine.workers;
begin
  if not exists (select from df_engine.worker_roles w where w.role = quote_ident(session_user)::regrole) then
    raise exception 'role "%" is not authorised to run a worker', session_user
      using errcode = 'insufficient_privilege',
            hint = format('As an administrator: SELECT df.grant_worker(%L);', session_user);
  end if;
  delete from df_engine.workers w
  where w.last_seen_at < clock_timestamp() - interval '1 minute' and w.worker not in (select df_engine.live_workers());
  insert into df_engine.workers as w (role) values (quote_ident(session_user)::pg_catalog.regrole) returning w.* into v_worker;
  perform pg_advisory_lock(v_worker.alive);
  perform df_engine.poke_all();
  return v_worker.worker;
end
$$;

-- Granted to workers.
create or replace function df_engine.unregister_worker(p_worker int) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_alive bigint;
begin
  perform df_engine.release_leased(p_worker, array(
    select r.id from df_engine.queue r where r.lane in ('direct', 'http') and r.worker = p_worker));
  delete from df_engine.workers w where w.worker = p_worker returning w.alive into v_alive;
  perform pg_advisory_unlock(v_alive);
end
$$;

-- The worker is idle, and does not poll before p_ms have passed; NULL: it has no room.
-- Granted to workers.
create or replace function df_engine.say_idle(p_worker int, p_ms int) returns void
language sql security definer set search_path = pg_catalog, pg_temp as $$
  update df_engine.workers w
  set idle_until = clock_timestamp() + p_ms * interval '1 ms', last_seen_at = clock_timestamp()
  where w.worker = p_worker;
$$;

-- Granted to workers.
create or replace function df_engine.heartbeat(p_worker int) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if not df_engine.worker_may_be_alive() then
    perform df_engine.poke_all();
  end if;
  update df_engine.workers w set last_seen_at = clock_timestamp()
  where w.worker = p_worker and w.last_seen_at < clock_timestamp() - interval '2 s';
  if not found and not exists (select from df_engine.workers w where w.worker = p_worker) then
    raise exception 'worker % is not registered here any more', p_worker using errcode = 'object_not_in_prerequisite_state';
  end if;
end
$$;

-- Says why the runs of a role do not go on, unless a session is serving them. One row a role, however many its runs are.
-- Granted to workers.
create or replace function df_engine.role_waits(p_role text, p_reason text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform pg_stat_clear_snapshot();
  insert into df_engine.role_reasons as w (submitter, reason)
  select u.oid, p_reason
  from pg_roles u
  where u.rolname = p_role and not exists (select from df_engine.steps_in_sessions s where s.submitter = u.oid)
  on conflict (submitter) do update set reason = excluded.reason where w.reason <> excluded.reason;
end
$$;

-- The same where sessions fail: p_login: the role cannot log in; else it can, and its sessions fail for p_reason.
-- Granted to workers.
create or replace function df_engine.role_unreachable(p_role text, p_reason text, p_login boolean) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform df_engine.role_waits(p_role, format(
    case when p_login then 'no worker can log in as role "%s": %s' else 'sessions of role "%s" cannot run steps: %s' end,
    p_role, p_reason));
end
$$;

-- Granted to workers.
create or replace function df_engine.role_reachable(p_role text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  delete from df_engine.role_reasons w using pg_roles u where u.rolname = p_role and w.submitter = u.oid;
end
$$;

-- Supervision: what a worker's supervising connection calls. It tells the worker what to do next. It acts
-- for every role, so nothing here waits for a lock that a user can hold (engine/locks has the order), and no query leaves the planner
-- a choice that costs more the more runs a role has: a plan that was made while a table was empty is kept. A lateral subquery with a
-- limit is read once for each row before it.

-- Says of runs that have begun that they run: a session is in their first step, or it has an outcome. Transitions that open
-- something say so themselves. Of each role those count that are next: whoever has many that cannot begin yet hides nobody's.
-- Granted to workers.
create or replace function df_engine.mark_running() returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp set jit = off set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off as $$
declare
  v_begun bigint[];
begin
  perform pg_catalog.pg_stat_clear_snapshot();  -- activity must not be older than the rows that are found
  v_begun := array(
    select b.instance
    from df_engine.steps_in_sessions s
    cross join lateral (select x.instance from df_engine.instances x where x.id = s.id and x.submitter = s.submitter limit 1) b
    union
    select p.instance
    from unnest('{sql,direct,http}'::text[]) l(lane)
    cross join lateral df_engine.submitters(l.lane) r(submitter)
    cross join lateral (select x.instance from df_engine.queue x
                        where x.lane = l.lane and x.submitter = r.submitter order by x.id limit 50) q
    cross join lateral (select x.instance, x.status from df_engine.instances x where x.instance = q.instance limit 1) p
    cross join lateral (select from df_engine.outcomes x where x.instance = p.instance limit 1) o
    where p.status = 'pending');
  if v_begun <> '{}' then
    update df_engine.instances i set status = 'running', updated_at = df_engine.clock()
    where i.instance = any (array(select x.instance from df_engine.instances x
                                  where x.instance = any (v_begun) and x.status = 'pending' for no key update skip locked));
  end if;
end
$$;

-- The roles that have steps in a lane; a probe of the index a role.
create or replace function df_engine.submitters(p_lane text) returns setof oid
language plpgsql stable set search_path = '' as $$
begin
  return query
    with recursive roles as (
      select (select x.submitter from df_engine.queue x where x.lane = p_lane order by x.submitter limit 1) as submitter
      union all
      select (select x.submitter from df_engine.queue x
              where x.submitter > r.submitter and x.lane = p_lane order by x.submitter limit 1)
      from roles r where r.submitter is not null
    )
    select r.submitter from roles r where r.submitter is not null;
end
$$;

-- Roles with SQL steps that no session is in, longest-waiting first.
create or replace function df_engine.waiting_roles() returns jsonb
language plpgsql stable set search_path = '' as $$
begin
  return (
    with work as (
      select q.submitter, pg_catalog.min(df_engine.ready_at(w.id)) as oldest,
             count(*) - (select count(*) from df_engine.steps_in_sessions s where s.submitter = q.submitter) as ready
      from df_engine.submitters('sql') q(submitter)
      cross join lateral (select r.id from df_engine.queue r
                          where r.lane = 'sql' and r.submitter = q.submitter order by r.id limit 100) w
      group by q.submitter
    )
    select coalesce(jsonb_agg(jsonb_build_object('role', u.rolname, 'ready', w.ready) order by w.oldest), '[]')
    from work w join pg_catalog.pg_roles u on u.oid = w.submitter
    where w.ready > 0);
end
$$;

-- Fails runs that can never begin or go on, because their role is gone.
-- Granted to workers.
create or replace function df_engine.fail_orphans() returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp set jit = off set enable_seqscan = off as $$
declare
  v_run record;
begin
  perform set_config('df_engine.waits_for_nobody', 'on', true);
  delete from df_engine.role_reasons w where not exists (select from pg_catalog.pg_roles u where u.oid = w.submitter);
  for v_run in
    select q.instance, q.lane, q.submitter, q.id, g.submitter_name
    from (select l.lane, s.submitter
          from unnest('{sql,direct,http}'::text[]) l(lane) cross join lateral df_engine.submitters(l.lane) s(submitter)
          where not exists (select from pg_catalog.pg_roles u where u.oid = s.submitter) offset 0) o
    cross join lateral (select x.* from df_engine.queue x
                        where x.lane = o.lane and x.submitter = o.submitter order by x.id limit 100 for update skip locked) q
    left join lateral (select x.graph from df_engine.instances x where x.instance = q.instance limit 1 for update skip locked) i on true
    left join lateral (select x.submitter_name from df_engine.graphs x where x.id = i.graph limit 1) g on true
    where i.graph is not null or q.instance < 0
    limit 100
  loop
    if v_run.instance < 0 then
      delete from df_engine.queue q where q.lane = v_run.lane and q.submitter = v_run.submitter and q.id = v_run.id;
      continue;  -- the schedule itself comes to nothing when it is due again
    end if;
    perform df_engine.try_fail_run(v_run.instance, format('role %s does not exist any more', v_run.submitter_name), false);
  end loop;
end
$$;

-- Backends whose step belongs to a run that was cancelled or has failed, or to a branch that lost its race. Not to one that has
-- completed: nothing of that runs. A session shows the name of its step for a moment after the step's commit, and may be in the
-- next step when a cancel request arrives: a step that has ended itself, before the session's present transaction, does not count, unless a thread
-- has come to it again.
create or replace function df_engine.doomed_sessions() returns jsonb
language plpgsql stable as $$
begin
  return (
    select coalesce(jsonb_agg(s.pid), '[]')
    from df_engine.steps_in_sessions s
    cross join lateral (select x.* from df_engine.instances x where x.id = s.id and x.submitter = s.submitter limit 1) i
    cross join lateral (select x.* from df_engine.graph_nodes x
                        where x.graph = i.graph and x.node = df_engine.node_of(i.id, s.node_id) limit 1) m
    where not s.ended and not exists (
      select from df_engine.outcomes o
      where o.instance = i.instance and o.node = m.node and o.state in ('c', 'b', 'd', 'f', 'x', 'e') and coalesce(s.xact_start >= o.ended_at, true)
        and not exists (
          select from df_engine.queue q join df_engine.graph_nodes b on b.graph = i.graph and b.node = q.node
          where q.instance = i.instance and q.lane = 'sql' and m.node between q.node and b.until
            and (m.after = 'p' or q.generations is distinct from o.generations))
    ) and (i.status in ('failed', 'cancelled') or exists (
      select from df_engine.queue q join df_engine.graph_nodes b on b.graph = i.graph and b.node = q.node
      where q.instance = i.instance and q.lane = 'sql' and q.races is not null and df_engine.has_lost(q.races)
        and m.node between q.node and b.until)));
end
$$;

-- The leases of a worker whose outcome still counts: it abandons all other steps.
create or replace function df_engine.valid_leases(p_worker int) returns jsonb
language plpgsql stable as $$
begin
  return (
    select coalesce(jsonb_agg(q.id), '[]')
    from df_engine.queue q
    cross join lateral (select x.status from df_engine.instances x where x.instance = q.instance limit 1) i
    where q.lane in ('direct', 'http') and q.worker = p_worker
      and i.status in ('pending', 'running') and not (q.races is not null and df_engine.has_lost(q.races)));
end
$$;

-- What is to be done now, and when to poll again.
-- Granted to workers.
create or replace function df_engine.work_list(p_worker int) returns jsonb
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set jit = off set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off as $$
declare
  v_http record;
begin
  perform pg_stat_clear_snapshot();
  v_http := df_engine.http_room(p_worker);
  return jsonb_build_object(
    'roles', df_engine.waiting_roles(),
    'direct', (select count(*) from (select from df_engine.leasable(p_worker, 'direct', 100, 100) limit 100) q),
    'http', (select count(*) from (select from df_engine.leasable(p_worker, 'http', v_http.room, v_http.common) limit v_http.room) q),
    'limits', df_engine.session_limits(p_worker),
    'next_ms', df_engine.next_due_ms(),
    'interrupt', df_engine.doomed_sessions(),
    'leases', df_engine.valid_leases(p_worker),
    'server_started', extract(epoch from pg_postmaster_start_time()),
    'notifications_pent_up', pg_notification_queue_usage() > 0.5,
    'max_sessions', df_engine.setting_number('max_user_connections'),
    'reserved', df_engine.setting_number('reserved_connections'),
    'max_http', df_engine.setting_number('max_http_requests'),
    'reserved_http', df_engine.setting_number('reserved_http_requests'),
    'max_rows', df_engine.setting_number('max_transition_rows'),
    'max_bytes', df_engine.setting_number('worker_bytes_in_flight'),
    'left', array(select l.lane from unnest('{direct,http}'::text[]) l(lane)
                  where (select true from df_engine.queue q where q.lane = l.lane and q.worker is null and q.lane <> 'sql' limit 1)));
end
$$;

-- How much a poll does before it asks again what is ready.
-- Granted to workers.
create or replace function df_engine.tick_limits(out timers int, out ms int)
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select df_engine.setting_number('tick_timers')::int, (1000 * df_engine.setting_number('tick_time'))::int
$$;

-- Does what is due, in short transactions, and answers with the work list. A poll that finds nothing is one transaction.
-- Granted to workers.
create or replace procedure df_engine.tick(p_worker int, inout p_work jsonb)
language plpgsql as $$
declare
  v_began constant pg_catalog.timestamptz := pg_catalog.clock_timestamp();
  v_most constant pg_catalog.record := df_engine.tick_limits();
  v_deadline constant pg_catalog.timestamptz := df_engine.deadline(v_most.ms);
  v_fired int;
  v_timers int := 0;
begin
  perform df_engine.heartbeat(p_worker);
  loop
    v_fired := df_engine.fire_due(v_most.timers);
    v_timers := pg_catalog.int4pl(v_timers, v_fired);
    exit when pg_catalog.int4eq(v_fired, 0) or pg_catalog.timestamptz_ge(pg_catalog.clock_timestamp(), v_deadline);
    commit;
  end loop;
  if pg_catalog.pg_current_xact_id_if_assigned() is not null then
    commit;
  end if;
  perform df_engine.mark_running();
  if pg_catalog.pg_current_xact_id_if_assigned() is not null then
    commit;
  end if;
  perform df_engine.reclaim_leases();
  perform df_engine.fail_orphans();
  if pg_catalog.pg_current_xact_id_if_assigned() is not null then
    commit;
  end if;
  while df_engine.retain() and pg_catalog.timestamptz_lt(pg_catalog.clock_timestamp(), v_deadline) loop
    commit;
  end loop;
  if pg_catalog.pg_current_xact_id_if_assigned() is not null then
    commit;
  end if;
  p_work := pg_catalog.jsonb_set(df_engine.work_list(p_worker), '{tick}', pg_catalog.jsonb_build_object(
    'timers', v_timers, 'most_timers', v_most.timers, 'most_ms', v_most.ms,
    'ms', pg_catalog.round(pg_catalog.numeric_mul(1000, pg_catalog.extract('epoch', pg_catalog.timestamptz_mi(pg_catalog.clock_timestamp(), v_began))))));
end
$$;

-- Crashes: what a worker says of steps that have not ended by themselves: cancelled by somebody, ended by the server for their time, or dead with
-- their session. Nobody's locks are waited for.

-- Whether the node with a public id is the step to which a row in the queue has come. What a worker has seen of a run may have been
-- lost since with the server, commits that did not wait for the disk or for a standby, and then the row is before it.
create or replace function df_engine.is_at(p_queue df_engine.queue, p_node text) returns boolean
language plpgsql stable as $$
begin
  return (
    select df_engine.node_id(i.id, df_engine.next_node(p_queue, n)) = p_node
    from df_engine.instances i
    join df_engine.graph_nodes n on n.graph = i.graph and n.node = (p_queue).node
    where i.instance = (p_queue).instance);
end
$$;

-- Fails a step that was stopped from outside of it, and does not try it again: somebody has sent a cancel request, or the server has ended its
-- session for its transaction_timeout. p_queue: the row that it was claimed by. False: not now, its run is locked, or it runs again.
-- Granted to workers.
create or replace function df_engine.fail_stopped(p_submitter oid, p_queue bigint, p_node text, p_sqlstate text, p_said text) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  i df_engine.instances;
  q df_engine.queue;
  g df_engine.graph_nodes;
begin
  perform set_config('df_engine.waits_for_nobody', 'on', true);
  select * into q from df_engine.queue x where x.lane = 'sql' and x.submitter = p_submitter and x.id = p_queue;
  if q.id is null or not df_engine.is_at(q, p_node) then
    return true;
  end if;
  select * into i from df_engine.instances x where x.instance = q.instance;
  if not df_engine.try_lock_run(i.instance) then
    return false;
  end if;
  delete from df_engine.queue x using (
    select r.lane, r.submitter, r.id from df_engine.queue r
    where r.lane = 'sql' and r.submitter = p_submitter and r.id = p_queue and df_engine.is_at(r, p_node) for update skip locked) d
  where x.lane = d.lane and x.submitter = d.submitter and x.id = d.id
  returning x.* into q;
  if not found then
    return false;
  elsif df_engine.may_go_on(i.instance, q.races) then
    select n.* into g from df_engine.graph_nodes n
    where n.graph = i.graph and n.node >= q.node and df_engine.node_id(i.id, n.node) = p_node;
    perform df_engine.fail_node(i.id, i.graph, i.submitter, true,
      row(q.instance, q.scope, q.node, q.generations, q.activation, q.races)::df_engine.thread, null, g,
      df_engine.error_text(p_sqlstate, p_said, null, null), df_engine.clock(), p_sqlstate);
  end if;
  return true;
exception when lock_not_available then  -- a run that a branch beside it has called is locked
  return false;
end
$$;

-- A session died while it ran this step. p_weight is how much that says about the step: 4 when it died alone, 1 when others
-- died with it and nothing explains why, or when it was terminated by pg_terminate_backend; at 12 the step fails. False: not
-- now, it is being tried again.
-- Granted to workers.
create or replace function df_engine.raise_crash_score(p_submitter oid, p_queue bigint, p_node text, p_weight int) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  q df_engine.queue;
begin
  select * into q from df_engine.queue x where x.lane = 'sql' and x.submitter = p_submitter and x.id = p_queue for update skip locked;
  if not found then
    return not exists (select from df_engine.queue x where x.lane = 'sql' and x.submitter = p_submitter and x.id = p_queue);
  elsif df_engine.is_at(q, p_node) then
    update df_engine.queue x
    set crash_score = q.crash_score + p_weight,
        node = (select df_engine.next_node(q, n) from df_engine.instances i
                join df_engine.graph_nodes n on n.graph = i.graph and n.node = q.node where i.instance = q.instance)
    where x.lane = 'sql' and x.submitter = p_submitter and x.id = p_queue;
  end if;
  return true;
end
$$;

-- Control: reading a run's status and result, and waiting for its end. All of it sees what row security shows the caller.

create or replace function df.status(instance_id text) returns text
language plpgsql strict set search_path = '' as $$
begin
  if not (pg_catalog.has_schema_privilege('df_engine', 'usage')
          and pg_catalog.has_table_privilege('df_engine.own_key', 'select')) then
    raise exception 'permission denied: role "%" may not use pg_durable', current_user
      using errcode = 'insufficient_privilege',
            hint = pg_catalog.format('An administrator grants it: SELECT df.grant_usage(%L);', current_user);
  end if;
  return (select r.status from df_engine.visible_runs r where r.id = status.instance_id);
end
$$;
comment on function df.status(text) is 'The status of a run; NULL when it is unknown or invisible';

create or replace function df.result(instance_id text) returns text
language plpgsql strict set search_path = '' as $$
begin
  if not (pg_catalog.has_schema_privilege('df_engine', 'usage')
          and pg_catalog.has_table_privilege('df_engine.own_key', 'select')) then
    raise exception 'permission denied: role "%" may not use pg_durable', current_user
      using errcode = 'insufficient_privilege',
            hint = pg_catalog.format('An administrator grants it: SELECT df.grant_usage(%L);', current_user);
  end if;
  return (
    select r.result::pg_catalog.jsonb::pg_catalog.text from df_engine.visible_runs r where r.id = result.instance_id);
end
$$;
comment on function df.result(text) is
  'The result of a completed run, a JSON text; NULL while it runs, when it failed or was cancelled, or is invisible';

-- What to do about a run that is not there.
-- Granted to users.
create or replace function df_engine.missing_run_hint(p_instance_id text) returns text
language sql stable set search_path = '' as $$
  select case
    when exists (select from df.instances i where i.label = p_instance_id) then
      'That is the label of a run. Its id: ' || format('SELECT id FROM df.instances WHERE label = %L', p_instance_id)
    when p_instance_id !~ '^[0-9a-f]{8}$' then 'The id of a run is what df.start has returned: 8 hexadecimal digits.'
    else 'A role sees its own runs, once their start has been committed.'
  end;
$$;

-- The number of a run that the caller sees; raises of any other.
-- Granted to users.
create or replace function df_engine.visible_run(p_instance_id text) returns bigint
language plpgsql stable set search_path = '' as $$
declare
  v_instance constant bigint := (select r.instance from df_engine.visible_runs r where r.id = p_instance_id);
begin
  if p_instance_id is null then
    raise exception 'the id of the instance is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows.';
  elsif v_instance is null then
    raise exception 'Instance ''%'' not found or access denied', p_instance_id
      using errcode = 'insufficient_privilege', hint = df_engine.missing_run_hint(p_instance_id);
  end if;
  return v_instance;
end
$$;

create or replace function df.run(instance_id text default null) returns text
language plpgsql set search_path = '' as $$
begin
  if not (pg_catalog.has_schema_privilege('df_engine', 'usage')
          and pg_catalog.has_table_privilege('df_engine.own_key', 'select')) then
    raise exception 'permission denied: role "%" may not use pg_durable', current_user
      using errcode = 'insufficient_privilege',
            hint = pg_catalog.format('An administrator grants it: SELECT df.grant_usage(%L);', current_user);
  end if;
  perform df_engine.wake_idle_workers();
  return 'Triggered run' || coalesce(' of instance ' || instance_id, ' of all that is ready');
end
$$;
comment on function df.run(text) is 'Wakes idle workers, when the caller commits. Never needed: they wake by themselves';

-- Raises when waiting in this transaction is in vain. A row that this transaction, or a later one whose effect is
-- already visible, has written is not older than the transaction's own id; created_at tells the insert from an update.
-- Granted to users.
create or replace function df_engine.check_awaitable(p_instance_id text) returns void
language plpgsql set search_path = '' as $$
declare
  v_transaction constant pg_catalog.xid8 := pg_catalog.pg_current_xact_id_if_assigned();
  v_run pg_catalog.record;
begin
  select i.status, i.created_at = pg_catalog.transaction_timestamp()
         and pg_catalog.age(i.version_of_row) <= pg_catalog.age(v_transaction::pg_catalog.xid) as own,
         case when i.cancelled_in = v_transaction then 'cancelled'
              when exists (select from df_engine.visible_inbox s
                           where s.instance = i.instance and s.sent_in = v_transaction) then 'signalled' end as act
  into v_run from df_engine.visible_runs i where i.id = p_instance_id;
  if not found then
    raise exception 'Instance not found: %', p_instance_id
      using errcode = 'insufficient_privilege', hint = df_engine.missing_run_hint(p_instance_id);
  elsif v_run.own then
    raise exception 'instance % is not yet committed: no worker can see it', p_instance_id
      using errcode = 'object_not_in_prerequisite_state', hint = 'COMMIT first, then wait.';
  elsif v_run.act is not null then
    raise exception 'this transaction has % instance %, which is not yet committed: no worker can see it', v_run.act,
      p_instance_id using errcode = 'object_not_in_prerequisite_state', hint = 'COMMIT first, then wait.';
  elsif v_run.status not in ('completed', 'failed', 'cancelled')
        and pg_catalog.current_setting('transaction_isolation') in ('repeatable read', 'serializable') then
    raise exception 'cannot wait for instance % in a % transaction: it would never see the end', p_instance_id,
      pg_catalog.upper(pg_catalog.current_setting('transaction_isolation'))
      using errcode = 'object_not_in_prerequisite_state', hint = 'Wait in a READ COMMITTED transaction.';
  end if;
end
$$;

-- Waits for a terminal status and returns it: polls after 1 ms, then less and less often, but 20 times a second at least.
-- Granted to users.
create or replace function df_engine.await_end(p_instance_id text, p_timeout int) returns text
language plpgsql set search_path = '' as $$
declare
  v_deadline pg_catalog.timestamptz := pg_catalog.clock_timestamp() + p_timeout * '1 s'::pg_catalog.interval;
  v_pause double precision := 0.001;
  v_run pg_catalog.record;
begin
  if p_timeout < 1 then
    raise exception 'timeout_seconds must be at least 1, not %', p_timeout using errcode = 'invalid_parameter_value';
  end if;
  perform df_engine.check_awaitable(p_instance_id);
  loop
    select i.status, i.wait_reason into v_run from df_engine.visible_runs i where i.id = p_instance_id;
    if not found then
      raise exception 'Instance not found: %', p_instance_id using errcode = 'insufficient_privilege';
    elsif v_run.status in ('completed', 'failed', 'cancelled') then
      return v_run.status;
    elsif pg_catalog.clock_timestamp() > v_deadline then
      raise exception 'Timed out after % s waiting for instance %: status is %', p_timeout, p_instance_id,
        v_run.status || coalesce(', ' || coalesce(v_run.wait_reason, df_engine.worker_problem()), '')
        using errcode = 'DF030', hint = format('SELECT df.explain(%L) shows how far it is.', p_instance_id);
    end if;
    perform pg_catalog.pg_sleep(v_pause);
    v_pause := least(v_pause * 1.25, 0.05);
  end loop;
end
$$;

create or replace function df.await_instance(instance_id text, timeout_seconds integer default 30) returns text
language plpgsql strict set search_path = '' as $$
declare
  v_status pg_catalog.text;
begin
  if not (pg_catalog.has_schema_privilege('df_engine', 'usage')
          and pg_catalog.has_table_privilege('df_engine.own_key', 'select')) then
    raise exception 'permission denied: role "%" may not use pg_durable', current_user
      using errcode = 'insufficient_privilege',
            hint = pg_catalog.format('An administrator grants it: SELECT df.grant_usage(%L);', current_user);
  end if;
  perform df_engine.reject_in_workflow('await_instance');
  v_status := df_engine.await_end(instance_id, timeout_seconds);
  perform df_engine.note_helper('await_instance', v_status);
  return v_status;
end
$$;
comment on function df.await_instance(text, integer) is
  'Waits until a run has ended and returns its status; raises DF030 when it has not within timeout_seconds, and at once '
  'where waiting would be in vain (started, signalled or cancelled by this transaction, or a REPEATABLE READ or SERIALIZABLE one)';

create or replace function df.wait_for_completion(instance_id text, timeout_seconds integer default 30) returns text
language plpgsql strict set search_path = '' as $$
declare
  v_status pg_catalog.text;
begin
  if not (pg_catalog.has_schema_privilege('df_engine', 'usage')
          and pg_catalog.has_table_privilege('df_engine.own_key', 'select')) then
    raise exception 'permission denied: role "%" may not use pg_durable', current_user
      using errcode = 'insufficient_privilege',
            hint = pg_catalog.format('An administrator grants it: SELECT df.grant_usage(%L);', current_user);
  end if;
  raise warning 'df.wait_for_completion is deprecated: use df.await_instance';
  perform df_engine.reject_in_workflow('wait_for_completion');
  v_status := df_engine.await_end(instance_id, timeout_seconds);
  perform df_engine.note_helper('wait_for_completion', v_status);
  return v_status;
end
$$;
comment on function df.wait_for_completion(text, integer) is 'Deprecated: df.await_instance with a warning';

-- df.cancel and df.signal: requests of a caller, in the caller's transaction. Whether the caller may is decided with the caller's eyes:
-- what it does not see it cannot touch. The change itself is made by functions that know by the key whom they act for.

-- Cancels a run that p_role may cancel. FOR UPDATE waits for a step that is just committing, and keeps others from doing so until the
-- caller has decided. p_undo: it ends once its compensations have ended. Answers what came of it, as a sentence.
-- Granted to users.
create or replace function df_engine.cancel_run(p_key text, p_role oid, p_instance bigint, p_reason text, p_undo boolean) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  i df_engine.instances;
begin
  perform df_engine.require_key(p_key, p_role);
  perform df_engine.check_size('a reason', octet_length(p_reason), 1024);
  perform df_engine.require_right(p_role, p_instance);
  if p_undo then
    perform from df_engine.activations a where a.instance = p_instance and a.node = 0 for update;
  end if;
  select x.* into i from df_engine.instances x where x.instance = p_instance for update;
  if i.status in ('completed', 'failed', 'cancelled') then
    return format('Instance %s is already %s; nothing to cancel (%s)', i.id, i.status, p_reason);
  elsif p_undo and i.undo_as is not null then
    return format('Instance %s is being undone already; nothing to cancel (%s)', i.id, p_reason);
  end if;
  perform df_engine.note_act(p_instance, 'cancel', p_role, p_reason);
  if p_undo then
    perform df_engine.withdraw_but_compensations(p_instance);
    p_undo := df_engine.undo_from_outside(p_instance, 'cancelled', 'canceled: ' || p_reason);
  end if;
  if p_undo then
    update df_engine.instances x set cancelled_in = pg_current_xact_id() where x.instance = p_instance;
    perform df_engine.notify('x');
  else
    perform df_engine.cancel_locked(p_instance, p_reason);
  end if;
  return format('Instance %s %s: %s', i.id, case when p_undo then 'is undone, then cancelled'
                                                 when i.undo_as is not null then 'is not undone any further'
                                                 else 'cancelled' end, p_reason);
end
$$;

-- Raises unless a run is the role's own, or the role may administrate.
create or replace function df_engine.require_right(p_role oid, p_instance bigint) returns void
language plpgsql stable as $$
begin
  if not exists (select from df_engine.instances i where i.instance = p_instance and i.submitter = p_role)
     and not df_engine.may_act_on_all(p_role) then
    raise exception 'the run belongs to another role' using errcode = 'insufficient_privilege';
  end if;
end
$$;

create or replace function df.cancel(instance_id text, reason text default 'Cancelled by user', undo boolean default false) returns text
language plpgsql strict set search_path = pg_catalog, pg_temp as $$
begin
  if not (pg_catalog.has_schema_privilege('df_engine', 'usage')
          and pg_catalog.has_table_privilege('df_engine.own_key', 'select')) then
    raise exception 'permission denied: role "%" may not use pg_durable', current_user
      using errcode = 'insufficient_privilege',
            hint = pg_catalog.format('An administrator grants it: SELECT df.grant_usage(%L);', current_user);
  end if;
  return df_engine.cancel_run((select k.key from df_engine.own_key k), quote_ident(current_user)::regrole,
                              df_engine.visible_run(cancel.instance_id), reason, undo);
end
$$;
comment on function df.cancel(text, text, boolean) is
  'Cancels a run when the caller commits: nothing of it starts any more and running statements are cancelled. With undo the compensations '
  'of df.undo run first, and the run ends with the last of them; a second cancel without undo ends it at once. Returns a '
  'sentence with id and reason, also when the run had already ended; raises 42501 when the run is unknown or invisible.';

-- Granted to users.
create or replace function df_engine.send_signal(p_key text, p_role oid, p_instance bigint, p_name text, p_data jsonb) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform df_engine.require_key(p_key, p_role);
  perform df_engine.require_right(p_role, p_instance);
  perform df_engine.check_size('the name of a signal', octet_length(p_name), 1024);
  perform df_engine.check_size('the data of a signal', octet_length(p_data::text), df_engine.setting('max_result_bytes')::bigint);
  insert into df_engine.inbox (instance, submitter, signal_name, signal_data, sent_by)
  select i.instance, i.submitter, p_name, p_data, p_role::regrole from df_engine.instances i where i.instance = p_instance;
end
$$;

create or replace function df.signal(instance_id text, signal_name text, signal_data text default '{}') returns text
language plpgsql strict set search_path = pg_catalog, pg_temp as $$
begin
  if not (pg_catalog.has_schema_privilege('df_engine', 'usage')
          and pg_catalog.has_table_privilege('df_engine.own_key', 'select')) then
    raise exception 'permission denied: role "%" may not use pg_durable', current_user
      using errcode = 'insufficient_privilege',
            hint = pg_catalog.format('An administrator grants it: SELECT df.grant_usage(%L);', current_user);
  end if;
  if instance_id = '' or signal_name = '' then
    raise exception 'instance_id and signal_name cannot be empty' using errcode = 'invalid_parameter_value';
  end if;
  perform df_engine.send_signal((select k.key from df_engine.own_key k), quote_ident(current_user)::regrole,
                                df_engine.visible_run(signal.instance_id), signal_name, df_engine.as_json(signal_data));
  return 'OK';
end
$$;
comment on function df.signal(text, text, text) is
  'Sends a signal to a run, when the caller commits: to every open wait of that name, else to the inbox, where the next wait '
  'finds it. signal_data: JSON, or text that becomes a JSON string. Returns OK; raises 42501 when the run is invisible.';

-- df.pause and df.resume, and what all acts of operators have in common: they lock the run first, and leave a note of who, when and why.

-- Notes what an operator has done to a run.
create or replace function df_engine.note_act(p_instance bigint, p_act text, p_role oid, p_reason text) returns void
language plpgsql as $$
begin
  insert into df_engine.acts (instance, act, acted_by, logged_in_as, reason, acted_at)
  values (p_instance, p_act, pg_get_userbyid(p_role), session_user, p_reason, df_engine.clock());
  delete from df_engine.acts a where a.instance = p_instance and a.id < (
    select x.id from df_engine.acts x where x.instance = p_instance order by x.id desc offset 99 limit 1);
end
$$;

-- Locks a run that p_role may act on, and answers how it is. p_moves: it is changed, so whoever is just committing a step of it is waited for;
-- false: it only has to stay, whatever retention does.
create or replace function df_engine.lock_for_act(
  p_key text, p_role oid, p_instance bigint, p_moves boolean default true, out status text, out paused boolean
)
language plpgsql as $$
begin
  perform df_engine.require_key(p_key, p_role);
  perform df_engine.require_right(p_role, p_instance);
  if p_moves then
    select i.status, i.paused into status, paused from df_engine.instances i where i.instance = p_instance for update;
  else
    select i.status, i.paused into status, paused from df_engine.instances i where i.instance = p_instance for key share;
  end if;
end
$$;

-- Granted to users.
create or replace function df_engine.pause_run(p_key text, p_role oid, p_instance bigint, p_reason text) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp set jit = off set enable_seqscan = off as $$
declare
  v_run record;
begin
  perform df_engine.check_size('a reason', octet_length(p_reason), 1024);
  v_run := df_engine.lock_for_act(p_key, p_role, p_instance);
  if v_run.status in ('pending', 'running') then
    perform df_engine.note_act(p_instance, 'pause', p_role, nullif(p_reason, ''));
    update df_engine.instances i set paused = true where i.instance = p_instance and i.paused is null;
    perform df_engine.set_aside(p_instance);
  end if;
  return v_run.status;
end
$$;

-- Granted to users.
create or replace function df_engine.resume_run(p_key text, p_role oid, p_instance bigint, p_input jsonb) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp set jit = off set enable_seqscan = off as $$
declare
  v_run record;
begin
  if p_input is not null then
    perform df_engine.check_size('the input of a run', octet_length(p_input::pg_catalog.text), df_engine.setting('max_result_bytes')::bigint);
  end if;
  perform df_engine.require_key(p_key, p_role);
  perform df_engine.require_right(p_role, p_instance);
  perform df_engine.clear_ended(p_instance);
  v_run := df_engine.lock_for_act(p_key, p_role, p_instance);
  if v_run.status in ('failed', 'cancelled') then
    perform df_engine.resume_ended(p_instance, p_input);
    perform df_engine.note_act(p_instance, 'resume', p_role, null);
    return null;
  elsif v_run.status in ('pending', 'running') and v_run.paused then
    update df_engine.instances i set input = p_input where i.instance = p_instance and p_input is not null;
    perform df_engine.note_act(p_instance, 'resume', p_role, null);
    perform df_engine.take_back(p_instance);
    return null;
  end if;
  return v_run.status;
end
$$;

create or replace function df.pause(instance_id text, reason text default null) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_status text;
begin
  if not (pg_catalog.has_schema_privilege('df_engine', 'usage')
          and pg_catalog.has_table_privilege('df_engine.own_key', 'select')) then
    raise exception 'permission denied: role "%" may not use pg_durable', current_user
      using errcode = 'insufficient_privilege',
            hint = pg_catalog.format('An administrator grants it: SELECT df.grant_usage(%L);', current_user);
  end if;
  v_status := df_engine.pause_run((select k.key from df_engine.own_key k), quote_ident(current_user)::regrole,
                                  df_engine.visible_run(pause.instance_id), pause.reason);
  if v_status in ('completed', 'failed', 'cancelled') then
    raise exception 'instance % is already %', instance_id, v_status using errcode = 'object_not_in_prerequisite_state',
      hint = 'df.rerun starts it again from its beginning.';
  end if;
  return 'OK';
end
$$;
comment on function df.pause(text, text) is
  'Pauses a run when the caller commits: nothing new of it begins, what runs ends and is recorded, timers and time-outs keep their time and act when '
  'it is resumed; runs that it has called go on. wait_reason says who has paused it, when and why; of a paused run it changes the reason. '
  'Returns OK; raises 42501 when the run is unknown or invisible, 55000 when it has ended.';

create or replace function df.resume(instance_id text, input jsonb default null) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_status text;
begin
  if not (pg_catalog.has_schema_privilege('df_engine', 'usage')
          and pg_catalog.has_table_privilege('df_engine.own_key', 'select')) then
    raise exception 'permission denied: role "%" may not use pg_durable', current_user
      using errcode = 'insufficient_privilege',
            hint = pg_catalog.format('An administrator grants it: SELECT df.grant_usage(%L);', current_user);
  end if;
  v_status := df_engine.resume_run((select k.key from df_engine.own_key k), quote_ident(current_user)::regrole,
                                   df_engine.visible_run(resume.instance_id), resume.input);
  if v_status is not null then
    raise exception 'instance % is %', instance_id, v_status || case when v_status <> 'completed' then ', and not paused' else '' end using errcode = 'object_not_in_prerequisite_state',
      hint = 'What is paused, has failed or was cancelled is resumed; df.rerun starts any again from its beginning.';
  end if;
  return 'OK';
end
$$;
comment on function df.resume(text, jsonb) is
  'Lets a run go on when the caller commits. A paused one: what has become due meanwhile acts at once. One that has failed or was cancelled: under the same id, from what has '
  'failed or had not begun, with a fresh retry policy and new times; what has completed keeps its result and is not run again. A CALL resumes the run that it has called. '
  'input takes the place of its input. Returns OK; raises 42501 when the run is unknown or invisible, 55000 when it goes on or has completed, has begun to be undone, or is not kept any more.';

-- df.rerun and df.forget: what becomes of runs that have ended, or are to be made once more.

-- Granted to users.
create or replace function df_engine.rerun(p_key text, p_role oid, p_instance bigint, p_input jsonb) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp set jit = off set enable_seqscan = off as $$
declare
  i df_engine.instances;
  g df_engine.graphs;
  v_trace constant text := nullif(current_setting('df.traceparent', true), '');
  v_new bigint;
begin
  perform df_engine.lock_for_act(p_key, p_role, p_instance, false);
  select * into i from df_engine.instances x where x.instance = p_instance;
  select * into g from df_engine.graphs x where x.id = i.graph;
  if exists (select from df_engine.acts a where a.instance = p_instance and a.act = 'forget') then
    raise exception 'instance % is forgotten, and cannot be run again', i.id using errcode = 'object_not_in_prerequisite_state',
      hint = 'Start its flow again with df.start.';
  end if;
  i.input := coalesce(p_input, i.input);
  i.traceparent := case when v_trace is not null then df_engine.valid_traceparent(v_trace) end;
  i.parent := null;
  i.parent_node := null;
  i.call := null;
  v_new := df_engine.begin_run(i, g);
  perform df_engine.note_act(v_new, 'rerun', p_role, 'of ' || i.id);
  return df_engine.public_id(v_new);
end
$$;

create or replace function df.rerun(instance_id text, input jsonb default null) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if not (pg_catalog.has_schema_privilege('df_engine', 'usage')
          and pg_catalog.has_table_privilege('df_engine.own_key', 'select')) then
    raise exception 'permission denied: role "%" may not use pg_durable', current_user
      using errcode = 'insufficient_privilege',
            hint = pg_catalog.format('An administrator grants it: SELECT df.grant_usage(%L);', current_user);
  end if;
  return df_engine.rerun((select k.key from df_engine.own_key k), quote_ident(current_user)::regrole,
                         df_engine.visible_run(rerun.instance_id), rerun.input);
end
$$;
comment on function df.rerun(text, jsonb) is
  'Starts a new run of the same graph, from its beginning, as the role that had started the run, with its label, variables, database and priority, and '
  'with its input unless another is given; returns the id of the new run. Raises 42501 when the run is unknown or invisible, 55000 when it is forgotten.';

-- Removes what a run that has ended has read and written, and not that it was.
-- Granted to users.
create or replace function df_engine.forget_run(p_key text, p_role oid, p_instance bigint) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp set jit = off set enable_seqscan = off as $$
declare
  v_run record;
begin
  v_run := df_engine.lock_for_act(p_key, p_role, p_instance);
  if v_run.status not in ('completed', 'failed', 'cancelled') then
    return v_run.status;
  elsif exists (select from df_engine.instances i join df_engine.waits w on w.id = i.call where i.instance = p_instance) then
    return v_run.status || ', and its caller has not taken its result yet';
  end if;
  update df_engine.instances i set input = null, vars = null, error = null, undo_error = null where i.instance = p_instance;
  update df_engine.outcomes o set value = null, columns = null, types = null, error = null, failure = null where o.instance = p_instance;
  update df_engine.attempts a set error = null where a.instance = p_instance;
  update df_engine.executions e set error = null where e.instance = p_instance;
  update df_engine.inbox s set signal_data = 'null' where s.instance = p_instance;
  update df_engine.acts a set reason = null where a.instance = p_instance;
  delete from df_engine.bindings b where b.instance = p_instance;
  delete from df_engine.map_items m where m.instance = p_instance;
  perform df_engine.note_act(p_instance, 'forget', p_role, null);
  return null;
end
$$;

create or replace function df.forget(instance_id text) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_status text;
begin
  if not (pg_catalog.has_schema_privilege('df_engine', 'usage')
          and pg_catalog.has_table_privilege('df_engine.own_key', 'select')) then
    raise exception 'permission denied: role "%" may not use pg_durable', current_user
      using errcode = 'insufficient_privilege',
            hint = pg_catalog.format('An administrator grants it: SELECT df.grant_usage(%L);', current_user);
  end if;
  v_status := df_engine.forget_run((select k.key from df_engine.own_key k), quote_ident(current_user)::regrole,
                                   df_engine.visible_run(forget.instance_id));
  if v_status is not null then
    raise exception 'instance % is %', instance_id, v_status using errcode = 'object_not_in_prerequisite_state',
      hint = 'Wait for its end, or df.cancel it first; what was called goes after its caller has its result.';
  end if;
  return 'OK';
end
$$;
comment on function df.forget(text) is
  'Removes input, variables, results, names, data of signals and errors of a run that has ended; its status and times are kept, as are its flow, its label and the runs that it '
  'has called. Returns OK; raises 42501 when the run is unknown or invisible, 55000 when it has not ended or its caller has not taken its result.';

-- df.skip: an operator's word that a node has completed.

-- Granted to users.
create or replace function df_engine.skip(p_key text, p_role oid, p_instance bigint, p_node int, p_value jsonb, p_scope text) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp set jit = off set enable_seqscan = off as $$
declare
  v_run record;
  v_what text;
begin
  perform df_engine.check_size('the value of a node', octet_length(p_value::pg_catalog.text), df_engine.setting('max_result_bytes')::bigint);
  perform df_engine.check_size('a scope', octet_length(p_scope), 1024);
  perform df_engine.require_key(p_key, p_role);
  perform df_engine.require_right(p_role, p_instance);
  perform df_engine.clear_ended(p_instance);
  v_run := df_engine.lock_for_act(p_key, p_role, p_instance);
  if v_run.status = 'completed' then
    return v_run.status;
  end if;
  v_what := df_engine.skip_node(p_instance, p_node, coalesce(p_value, 'null')::json, p_scope);
  perform df_engine.note_act(p_instance, 'skip', p_role, v_what);
  return null;
end
$$;

create or replace function df.skip(instance_id text, node_id text, value jsonb, scope text default null) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_run bigint;
  v_node bigint;
  v_status text;
begin
  if not (pg_catalog.has_schema_privilege('df_engine', 'usage')
          and pg_catalog.has_table_privilege('df_engine.own_key', 'select')) then
    raise exception 'permission denied: role "%" may not use pg_durable', current_user
      using errcode = 'insufficient_privilege',
            hint = pg_catalog.format('An administrator grants it: SELECT df.grant_usage(%L);', current_user);
  end if;
  v_run := df_engine.visible_run(skip.instance_id);
  if skip.node_id is null or skip.node_id !~ '^[0-9a-f]{8}$' then
    raise exception '% is not the id of a node', coalesce(quote_literal(left(skip.node_id, 100)), 'NULL') using errcode = 'invalid_parameter_value',
      hint = 'df.nodes has the ids of the nodes of a run.';
  end if;
  v_node := df_engine.node_of(skip.instance_id, skip.node_id);
  v_status := df_engine.skip((select k.key from df_engine.own_key k), quote_ident(current_user)::regrole,
                             v_run, case when v_node < 2147483648 then v_node end::int, skip.value, skip.scope);
  if v_status is not null then
    raise exception 'instance % is %', instance_id, v_status using errcode = 'object_not_in_prerequisite_state',
      hint = 'df.rerun starts it again from its beginning.';
  end if;
  return 'OK';
end
$$;
comment on function df.skip(text, text, jsonb, text) is
  'Declares a node of a run done with that value, when the caller commits: one that has failed, that waits (for a time, a signal, a retry, a run that it has called) or that is next; a loop, map or other construct '
  'with all that is open in it. Its name gets the value, as that of a signal does. A run that has failed or was cancelled goes on as with df.resume; one that is paused stays paused. '
  'scope: in a map the number of the item, in nested ones 2.7. Returns OK; raises 42501 when the run is unknown or invisible, 22023 when it has no such node, 42P08 when the node is open in several items, '
  '55000 when it runs right now, has completed or is not reached yet, or the run cannot be resumed.';

-- df.schedule and what one can do with a schedule. What comes of it at its times: engine/schedules. Each act is noted: who, when, why.

-- Raises for what no schedule can be made of.
create or replace function df_engine.check_schedule(
  p_name text, p_cron text, p_timezone text, p_input jsonb, p_overlap text, p_catch_up interval, p_jitter interval
) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  if octet_length(p_name) not between 1 and 1024 then
    raise exception 'the name of a schedule has 1 to 1024 bytes, and this one has %', octet_length(p_name)
      using errcode = 'invalid_parameter_value';
  elsif octet_length(p_cron) > 1024 then
    raise exception 'a cron expression has at most 1024 bytes, and this one has %', octet_length(p_cron)
      using errcode = 'program_limit_exceeded';
  elsif p_timezone is not null and not exists (select from pg_timezone_names z where z.name = p_timezone) then
    raise exception 'unknown time zone "%"', left(p_timezone, 100)
      using errcode = 'invalid_parameter_value', hint = 'The names are in pg_timezone_names.';
  elsif jsonb_typeof(p_input) <> 'object' then
    raise exception 'the input of a schedule is a JSON object, and this is of type %', jsonb_typeof(p_input)
      using errcode = 'invalid_parameter_value', hint = 'Each run gets it, and scheduled_for in it: $input.scheduled_for.';
  elsif p_overlap not in ('skip', 'queue', 'allow', 'cancel') then
    raise exception 'invalid overlap "%"', left(p_overlap, 100)
      using errcode = 'invalid_parameter_value', hint = 'It is skip, queue, allow or cancel: what a tick does while an earlier run has not ended.';
  elsif extract(epoch from p_catch_up) not between 0 and 3155760000 then
    raise exception 'invalid catch_up %', p_catch_up
      using errcode = 'invalid_parameter_value', hint = 'It is an interval, at most 100 years.';
  elsif extract(epoch from p_jitter) not between 0 and 86400 then
    raise exception 'invalid jitter %', p_jitter
      using errcode = 'invalid_parameter_value', hint = 'It is an interval, at most a day.';
  end if;
end
$$;

-- The schedule of a name of p_owner, for p_role to act on, locked: a tick of it waits.
create or replace function df_engine.lock_schedule(p_key text, p_role oid, p_owner oid, p_name text) returns df_engine.schedules
language plpgsql as $$
declare
  s df_engine.schedules;
begin
  perform df_engine.require_key(p_key, p_role);
  if p_owner = p_role or df_engine.may_act_on_all(p_role) then
    select * into s from df_engine.schedules x where x.owner = p_owner::pg_catalog.regrole and x.name = p_name for update;
  end if;
  if s.schedule is null then
    raise exception 'there is no schedule "%"', left(p_name, 100) using errcode = 'undefined_object',
      hint = 'Names: SELECT name, owner FROM df.schedules. Administrators say whose it is: owner => ''role''.';
  end if;
  return s;
end
$$;

-- Makes a schedule of p_role, or replaces the one of that name: its ticks stay, and so do the time that is next if the times are the same, and a pause.
-- Granted to users.
create or replace function df_engine.put_schedule(
  p_key text, p_role oid, p_name text, p_cron text, p_text text, p_timezone text, p_input jsonb, p_overlap text, p_catch_up interval, p_jitter interval
) returns timestamptz
language plpgsql security definer set search_path = pg_catalog, pg_temp set jit = off set enable_seqscan = off as $$
declare
  s df_engine.schedules;
  v_old df_engine.schedules;
begin
  if (p_key = encode(sha256((df_engine.secret() || p_role::pg_catalog.text)::pg_catalog.bytea), 'hex')) is not true then
    raise exception 'this function of df_engine is called by the functions of df only'
      using errcode = 'insufficient_privilege';
  end if;
  perform df_engine.check_schedule(p_name, p_cron, p_timezone, p_input, p_overlap, p_catch_up, p_jitter);
  perform df_engine.check_submitter(p_role, p_text, null);
  if p_input is not null then
    perform df_engine.check_size('the input of a schedule', octet_length(p_input::text), df_engine.setting('max_result_bytes')::bigint);
  end if;
  s.flow := df_engine.scheduled_flow(p_role, p_text);
  s.cron := p_cron;
  s.timezone := p_timezone;
  s.jitter := p_jitter;
  s.next_at := df_engine.tick_after(s, df_engine.clock());
  loop
    select * into v_old from df_engine.schedules x where x.owner = p_role::regrole and x.name = p_name for update;
    exit when found;
    if (select count(*) from df_engine.schedules x where x.owner = p_role::regrole) >= 1000 then
      raise exception 'role "%" has 1000 schedules, which is as many as it can have', pg_get_userbyid(p_role)
        using errcode = 'program_limit_exceeded', hint = 'df.unschedule(name) removes one.';
    end if;
    insert into df_engine.schedules (owner, name, cron, timezone, graph, flow, overlap, catch_up, jitter, next_at, created_at, changed_at)
    values (p_role::regrole, p_name, p_cron, p_timezone, p_text, s.flow, p_overlap, p_catch_up, p_jitter, s.next_at, df_engine.clock(), df_engine.clock())
    on conflict do nothing;
  end loop;
  if v_old.cron = p_cron and v_old.timezone is not distinct from p_timezone then
    s.next_at := v_old.next_at;
  end if;
  update df_engine.schedules x
  set cron = p_cron, timezone = p_timezone, graph = p_text, flow = s.flow, input = p_input, overlap = p_overlap, catch_up = p_catch_up,
      jitter = p_jitter, next_at = s.next_at, changed_at = df_engine.clock()
  where x.schedule = v_old.schedule returning x.* into s;
  perform df_engine.plan_schedule(s, false);
  perform df_engine.note_act(-s.schedule, 'schedule', p_role, null);
  return case when not s.paused then s.next_at end;
end
$$;

-- Raises unless a schedule of p_role can start a text; the text in the language of flows.
create or replace function df_engine.scheduled_flow(p_role oid, p_text text) returns text
language plpgsql as $$
begin
  if df_engine.reference_in(p_text) is not null then
    perform df_engine.definition_of(p_role, p_text, false);
    return df_engine.reference_in(p_text);
  end if;
  if not exists (select from df_engine.graphs g where g.submitter = p_role and g.hash = df_engine.graph_hash(p_text, false)) then
    perform df_engine.new_graph(p_role, p_text, false);
  end if;
  return df_engine.graph_text(df_engine.parse_graph(p_text));
end
$$;

create or replace function df.schedule(name text, cron text, fut text, timezone text default null, input jsonb default null,
  overlap text default 'skip', catch_up interval default '1 hour', jitter interval default '0') returns timestamptz
language plpgsql set search_path = '' as $$
begin
  if not (pg_catalog.has_schema_privilege('df_engine', 'usage')
          and pg_catalog.has_table_privilege('df_engine.own_key', 'select')) then
    raise exception 'permission denied: role "%" may not use pg_durable', current_user
      using errcode = 'insufficient_privilege',
            hint = pg_catalog.format('An administrator grants it: SELECT df.grant_usage(%L);', current_user);
  end if;
  if name is null then
    raise exception 'argument name of df.schedule is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;
  if cron is null then
    raise exception 'argument cron of df.schedule is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;
  if fut is null then
    raise exception 'argument fut of df.schedule is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;
  if overlap is null then
    raise exception 'argument overlap of df.schedule is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;
  if catch_up is null then
    raise exception 'argument catch_up of df.schedule is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;
  if jitter is null then
    raise exception 'argument jitter of df.schedule is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;

  if nullif(pg_catalog.current_setting('pg_durable.returned', true), '')::pg_catalog.jsonb
    -> pg_catalog.statement_timestamp()::pg_catalog.text ? fut then
    raise exception '% cannot be used as a workflow step', nullif(pg_catalog.current_setting('pg_durable.returned', true), '')::pg_catalog.jsonb
    -> pg_catalog.statement_timestamp()::pg_catalog.text ->> fut
      using errcode = 'invalid_parameter_value',
            hint = 'It returns a value, not a graph. Call it in a statement of its own.';
  end if;
  return df_engine.put_schedule((select k.key from df_engine.own_key k), quote_ident(current_user)::pg_catalog.regrole,
                                name, cron, fut, timezone, input, overlap, catch_up, jitter);
end
$$;
comment on function df.schedule(text, text, text, text, jsonb, text, interval, interval) is
  'Starts a graph, one SQL statement or a definition (@name: the newest version at that time) at each time of a cron expression of five fields (as df.wait_for_schedule), as the current user, with name as its label and the time in $input.scheduled_for. Returns the first time; one of that name is replaced, and keeps its ticks. timezone: a name, by default the setting timezone. input: a JSON object that each run gets. overlap: what a tick does while an earlier run has not ended: skip, queue (waits for its end; at most one waits, the newest), allow, cancel (the earlier one). catch_up: how late a tick may be and is still made, oldest first; a minute always. jitter: each tick is made up to so much later. Raises 22023 for an argument that is invalid, 54000 beyond 1000 schedules, and what df.start raises for the graph';

-- Granted to users.
create or replace function df_engine.remove_schedule(p_key text, p_role oid, p_owner oid, p_name text) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp set jit = off set enable_seqscan = off as $$
declare
  s constant df_engine.schedules := df_engine.lock_schedule(p_key, p_role, p_owner, p_name);
begin
  delete from df_engine.schedule_ticks t where t.schedule = s.schedule;
  delete from df_engine.acts a where a.instance = -s.schedule;
  delete from df_engine.schedules x where x.schedule = s.schedule;
  return 'OK';
end
$$;

create or replace function df.unschedule(name text, owner regrole default null) returns text
language plpgsql set search_path = '' as $$
begin
  if not (pg_catalog.has_schema_privilege('df_engine', 'usage')
          and pg_catalog.has_table_privilege('df_engine.own_key', 'select')) then
    raise exception 'permission denied: role "%" may not use pg_durable', current_user
      using errcode = 'insufficient_privilege',
            hint = pg_catalog.format('An administrator grants it: SELECT df.grant_usage(%L);', current_user);
  end if;
  if name is null then
    raise exception 'argument name of df.unschedule is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;

  return df_engine.remove_schedule((select k.key from df_engine.own_key k), quote_ident(current_user)::pg_catalog.regrole,
                                   coalesce(owner, quote_ident(current_user)::pg_catalog.regrole), name);
end
$$;
comment on function df.unschedule(text, regrole) is
  'Removes a schedule, with its ticks; its runs go on. owner: whose it is, by default the current user''s; another role''s are for administrators. Returns OK; raises 42704 when there is none';

-- Granted to users.
create or replace function df_engine.pause_schedule(p_key text, p_role oid, p_owner oid, p_name text, p_reason text) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp set jit = off set enable_seqscan = off as $$
declare
  s constant df_engine.schedules := df_engine.lock_schedule(p_key, p_role, p_owner, p_name);
begin
  perform df_engine.check_size('a reason', octet_length(p_reason), 1024);
  update df_engine.schedules x set paused = true, due_at = null where x.schedule = s.schedule;
  perform df_engine.note_act(-s.schedule, 'pause', p_role, nullif(p_reason, ''));
  return 'OK';
end
$$;

create or replace function df.pause_schedule(name text, reason text default null, owner regrole default null) returns text
language plpgsql set search_path = '' as $$
begin
  if not (pg_catalog.has_schema_privilege('df_engine', 'usage')
          and pg_catalog.has_table_privilege('df_engine.own_key', 'select')) then
    raise exception 'permission denied: role "%" may not use pg_durable', current_user
      using errcode = 'insufficient_privilege',
            hint = pg_catalog.format('An administrator grants it: SELECT df.grant_usage(%L);', current_user);
  end if;
  if name is null then
    raise exception 'argument name of df.pause_schedule is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;

  return df_engine.pause_schedule((select k.key from df_engine.own_key k), quote_ident(current_user)::pg_catalog.regrole,
                                  coalesce(owner, quote_ident(current_user)::pg_catalog.regrole), name, reason);
end
$$;
comment on function df.pause_schedule(text, text, regrole) is
  'Pauses a schedule: it starts nothing until df.resume_schedule; its runs go on. Of a paused one it changes the reason. owner: whose it is, by default the current user''s; another role''s are for administrators. Returns OK; raises 42704 when there is none';

-- Times that passed meanwhile bring nothing: whoever has paused it did not want them.
-- Granted to users.
create or replace function df_engine.resume_schedule(p_key text, p_role oid, p_owner oid, p_name text) returns timestamptz
language plpgsql security definer set search_path = pg_catalog, pg_temp set jit = off set enable_seqscan = off as $$
declare
  s df_engine.schedules := df_engine.lock_schedule(p_key, p_role, p_owner, p_name);
  v_next timestamptz;
begin
  if not s.paused then
    raise exception 'schedule "%" is not paused', s.name using errcode = 'object_not_in_prerequisite_state';
  end if;
  if s.next_at <= df_engine.clock() then
    v_next := df_engine.tick_after(s, df_engine.clock());
    perform df_engine.miss_ticks(s, v_next, 'the schedule was paused');
    s.next_at := v_next;
  end if;
  s.paused := false;
  update df_engine.schedules x set paused = false where x.schedule = s.schedule;
  perform df_engine.plan_schedule(s, false);
  perform df_engine.note_act(-s.schedule, 'resume', p_role, null);
  return s.next_at;
end
$$;

create or replace function df.resume_schedule(name text, owner regrole default null) returns timestamptz
language plpgsql set search_path = '' as $$
begin
  if not (pg_catalog.has_schema_privilege('df_engine', 'usage')
          and pg_catalog.has_table_privilege('df_engine.own_key', 'select')) then
    raise exception 'permission denied: role "%" may not use pg_durable', current_user
      using errcode = 'insufficient_privilege',
            hint = pg_catalog.format('An administrator grants it: SELECT df.grant_usage(%L);', current_user);
  end if;
  if name is null then
    raise exception 'argument name of df.resume_schedule is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;

  return df_engine.resume_schedule((select k.key from df_engine.own_key k), quote_ident(current_user)::pg_catalog.regrole,
                                   coalesce(owner, quote_ident(current_user)::pg_catalog.regrole), name);
end
$$;
comment on function df.resume_schedule(text, regrole) is
  'Lets a paused schedule go on, and returns its next time. Times that passed meanwhile are not made up; df.backfill does that. owner: whose it is, by default the current user''s; another role''s are for administrators. Raises 42704 when there is none, 55000 when it is not paused';

-- Granted to users.
create or replace function df_engine.trigger_schedule(p_key text, p_role oid, p_owner oid, p_name text) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp set jit = off set enable_seqscan = off as $$
declare
  s constant df_engine.schedules := df_engine.lock_schedule(p_key, p_role, p_owner, p_name);
  v_at timestamptz := df_engine.clock();
  v_id text;
begin
  while exists (select from df_engine.schedule_ticks t where t.schedule = s.schedule and t.scheduled_for = v_at) loop
    v_at := v_at + interval '1 microsecond';
  end loop;
  v_id := df_engine.make_tick(s, v_at, 'trigger', df_engine.live_ticks(s), p_role);
  perform df_engine.plan_schedule(s, false);
  perform df_engine.note_act(-s.schedule, 'trigger', p_role, null);
  return v_id;
end
$$;

create or replace function df.trigger_schedule(name text, owner regrole default null) returns text
language plpgsql set search_path = '' as $$
begin
  if not (pg_catalog.has_schema_privilege('df_engine', 'usage')
          and pg_catalog.has_table_privilege('df_engine.own_key', 'select')) then
    raise exception 'permission denied: role "%" may not use pg_durable', current_user
      using errcode = 'insufficient_privilege',
            hint = pg_catalog.format('An administrator grants it: SELECT df.grant_usage(%L);', current_user);
  end if;
  if name is null then
    raise exception 'argument name of df.trigger_schedule is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;

  return df_engine.trigger_schedule((select k.key from df_engine.own_key k), quote_ident(current_user)::pg_catalog.regrole,
                                    coalesce(owner, quote_ident(current_user)::pg_catalog.regrole), name);
end
$$;
comment on function df.trigger_schedule(text, regrole) is
  'Makes a tick of a schedule now, paused or not, under its overlap rule, and returns the id of the run that it has started, as the owner of the schedule; NULL: it waits for the end of an earlier run. owner: whose it is, by default the current user''s; another role''s are for administrators. Raises 42704 when there is none, 55000 when an earlier run has not ended and the rule is skip, and what df.start raises';

-- Lets the times of a schedule in an interval wait for their turn, but those that have started a run; how many.
-- Granted to users.
create or replace function df_engine.backfill(
  p_key text, p_role oid, p_owner oid, p_name text, p_after timestamptz, p_until timestamptz
) returns int
language plpgsql security definer set search_path = pg_catalog, pg_temp set jit = off set enable_seqscan = off as $$
declare
  s constant df_engine.schedules := df_engine.lock_schedule(p_key, p_role, p_owner, p_name);
  v_waiting constant int := (select count(*) from df_engine.schedule_ticks t where t.schedule = s.schedule and t.state = 'waiting');
  v_at timestamptz;
  v_count int := 0;
begin
  if not isfinite(p_after) or p_until > df_engine.clock() then
    raise exception 'a backfill is for times that have passed' using errcode = 'invalid_parameter_value',
      hint = 'after is a time, and until is not later than now.';
  end if;
  v_at := df_engine.tick_after(s, p_after);
  while v_at <= p_until loop
    insert into df_engine.schedule_ticks as t (schedule, scheduled_for, made_by, state, handled_at)
    values (s.schedule, v_at, 'backfill', 'waiting', df_engine.clock())
    on conflict (schedule, scheduled_for) do update
      set made_by = 'backfill', state = 'waiting', reason = null where t.state not in ('started', 'waiting');
    v_count := v_count + case when found then 1 else 0 end;
    if v_count + v_waiting > 1000 then
      raise exception 'at most 1000 ticks of a schedule can wait, and that would be more' using errcode = 'program_limit_exceeded',
        hint = format('The next after %s is already too much: let them run first.', df_engine.iso_time(v_at));
    end if;
    v_at := df_engine.tick_after(s, v_at);
  end loop;
  perform df_engine.plan_schedule(s, false);
  perform df_engine.note_act(-s.schedule, 'backfill', p_role, format('after %s until %s', df_engine.iso_time(p_after), df_engine.iso_time(p_until)));
  return v_count;
end
$$;

create or replace function df.backfill(name text, after timestamptz, until timestamptz, owner regrole default null) returns integer
language plpgsql set search_path = '' as $$
begin
  if not (pg_catalog.has_schema_privilege('df_engine', 'usage')
          and pg_catalog.has_table_privilege('df_engine.own_key', 'select')) then
    raise exception 'permission denied: role "%" may not use pg_durable', current_user
      using errcode = 'insufficient_privilege',
            hint = pg_catalog.format('An administrator grants it: SELECT df.grant_usage(%L);', current_user);
  end if;
  if name is null then
    raise exception 'argument name of df.backfill is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;
  if after is null then
    raise exception 'argument after of df.backfill is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;
  if until is null then
    raise exception 'argument until of df.backfill is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;

  return df_engine.backfill((select k.key from df_engine.own_key k), quote_ident(current_user)::pg_catalog.regrole,
                            coalesce(owner, quote_ident(current_user)::pg_catalog.regrole), name, after, until);
end
$$;
comment on function df.backfill(text, timestamptz, timestamptz, regrole) is
  'Makes up the times of a schedule that are later than one and not later than the other, but those whose runs are recorded, oldest first: one after the other, and all at once if its overlap rule is allow. Returns how many. A paused schedule makes them when it is resumed. owner: whose it is, by default the current user''s; another role''s are for administrators. Raises 42704 when there is none, 22023 for times to come, 54000 when more than 1000 would wait';

create or replace view df.schedules with (security_barrier) as
  select s.name, s.cron, coalesce(s.timezone, df_engine.setting('timezone')) as timezone, s.flow, s.input, s.overlap, s.catch_up, s.jitter, s.paused,
         case when not s.paused and (s.due_at is not null or s.problem is null) then s.next_at end as next_at,
         l.scheduled_for as last_at, case l.state when 'started' then coalesce(i.status::text, l.state) else l.state end as last_status,
         i.id as last_instance_id, coalesce(l.reason, i.error) as last_error,
         (select count(*) from df_engine.schedule_ticks t where t.schedule = s.schedule and t.state = 'waiting') as waiting,
         case when s.paused then (
                select format('paused by %s at %s', a.acted_by, a.acted_at) || coalesce(': ' || a.reason, '')
                from df_engine.acts a where a.instance = -s.schedule and a.act = 'pause' order by a.id desc limit 1)
              when s.next_at + s.jitter < clock_timestamp() then coalesce(s.problem, (
                select r.reason from df_engine.role_reasons r where r.submitter = s.owner::oid))
              else s.problem end as wait_reason,
         s.created_at, s.changed_at, s.owner
  from df_engine.schedules s
  left join lateral (
    select t.* from df_engine.schedule_ticks t
    where t.schedule = s.schedule and t.state <> 'waiting' order by t.handled_at desc, t.scheduled_for desc limit 1) l on true
  left join df_engine.instances i on i.instance = l.instance
  where ((select df_engine.may_see_all(quote_ident(current_user)::regrole)) or s.owner::oid = (select quote_ident(current_user)::regrole::oid));
comment on view df.schedules is
  'What df.schedule has made. next_at: the next time, NULL while it is paused; last_at: that of the last tick; last_status: that of its run, or skipped (the overlap rule), missed (not made up) or failed (it could not be started), with the reason in last_error; waiting: ticks that wait for the end of an earlier run; wait_reason: why nothing comes of it now';

create or replace view df.schedule_ticks with (security_barrier) as
  select s.name, t.scheduled_for, t.made_by, t.state as status, i.id as instance_id, i.status::text as instance_status, t.reason, t.handled_at, s.owner
  from df_engine.schedule_ticks t
  join df_engine.schedules s on s.schedule = t.schedule
  left join df_engine.instances i on i.instance = t.instance
  where ((select df_engine.may_see_all(quote_ident(current_user)::regrole)) or s.owner::oid = (select quote_ident(current_user)::regrole::oid));
comment on view df.schedule_ticks is
  'Each time of a schedule, and what has come of it: started (instance_id: the run, while it is kept), waiting (for the end of an earlier run), skipped, missed (none from there on was made up) or failed, with the reason; made_by: cron, trigger or backfill. The newest 1000 of a schedule are kept';

-- df.notify_end: who is told when a run ends. The channels of a run are rows of their own, and a column of the run says whether there are any, so the
-- end of a run without asks nothing more.

-- Adds a channel. Locks the run, so that its end comes before or after; on one that has ended it is told at the caller's COMMIT.
-- Granted to users.
create or replace function df_engine.add_end_channel(p_key text, p_role oid, p_instance bigint, p_channel text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_run record;
begin
  perform df_engine.require_key(p_key, p_role);
  perform df_engine.require_right(p_role, p_instance);
  select i.status, i.notifies into v_run from df_engine.instances i where i.instance = p_instance for no key update;
  insert into df_engine.end_channels (instance, channel) values (p_instance, p_channel) on conflict do nothing;
  if (select count(*) from df_engine.end_channels c where c.instance = p_instance) > 10 then
    raise exception 'the end of a run is told on 10 channels at most' using errcode = 'program_limit_exceeded',
      hint = 'Several sessions can listen to one channel, and one channel can serve many runs: the payload says which.';
  end if;
  update df_engine.instances i set notifies = true where i.instance = p_instance and v_run.notifies is null;
  if v_run.status in ('completed', 'failed', 'cancelled') then
    perform df_engine.tell_end(p_instance, p_channel);
  end if;
end
$$;

-- Notifies the channels of a run, or one of them. The same conditions hold as for workers.
create or replace function df_engine.tell_end(p_instance bigint, p_channel text default null) returns void
language plpgsql as $$
begin
  if lower(current_setting('df.wake', true)) in ('off', 'false', 'no', '0') or pg_notification_queue_usage() > 0.5 then
    return;
  end if;
  perform pg_notify(c.channel, df_engine.public_id(p_instance))
  from df_engine.end_channels c where c.instance = p_instance and c.channel = coalesce(p_channel, c.channel);
end
$$;

create or replace function df.notify_end(instance_id text, channel text) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if not (pg_catalog.has_schema_privilege('df_engine', 'usage')
          and pg_catalog.has_table_privilege('df_engine.own_key', 'select')) then
    raise exception 'permission denied: role "%" may not use pg_durable', current_user
      using errcode = 'insufficient_privilege',
            hint = pg_catalog.format('An administrator grants it: SELECT df.grant_usage(%L);', current_user);
  end if;
  if channel is null or octet_length(channel) not between 1 and 63 then
    raise exception 'a channel has a name of 1 to 63 bytes' using errcode = 'invalid_parameter_value',
      hint = 'It is the name that LISTEN has: LISTEN "Name" if it has capitals or blanks, else LISTEN name.';
  end if;
  perform df_engine.add_end_channel((select k.key from df_engine.own_key k), quote_ident(current_user)::regrole,
                                    df_engine.visible_run(notify_end.instance_id), notify_end.channel);
  return 'OK';
end
$$;
comment on function df.notify_end(text, text) is
  'Lets the transaction that ends a run notify a channel, with the id of the run as payload and nothing else; again if it is resumed and ends again. Of a run that has ended, when the caller commits. A run has at most 10 channels. Nothing is sent to who does not listen yet, nor with SET df.wake = off: LISTEN first, then read the status, then wait. Returns OK; raises 42501 when the run is unknown or invisible, 54000 when it has too many channels, 22023 when the name is empty or longer than 63 bytes.';

-- Monitoring: what users read about their runs. Everything here runs with the caller's rights and sees what row security
-- shows the caller, but df.metrics, which counts all runs; nothing here writes.

-- What a run shows as its output.
-- Granted to users.
create or replace function df_engine.run_output(p_status text, p_error text, p_result json) returns text
language sql immutable as $$
  select case
    when p_status = 'completed' then p_result::pg_catalog.jsonb::pg_catalog.text
    when p_status in ('failed', 'cancelled') then p_error
  end
$$;

-- What a step said when it failed, without what it and the constructs around it put before that: p_error is of any of them.
-- Granted to users.
create or replace function df_engine.cause(p_error text) returns text
language sql immutable strict set search_path = pg_catalog, pg_temp as $$
  select regexp_replace(
    p_error, '^((JOIN|(RACE|ANY)( left| right)?) branch (\d+ )?failed: )*(SQL execution failed: )?', '')
$$;

-- The largest page a session may ask for: the setting, or what the session lowered it to.
-- Granted to users.
create or replace function df_engine.page_cap() returns int
language sql stable set search_path = pg_catalog, pg_temp as $$
  select least(df_engine.setting_number('list_instances_max_limit')::int,
               substring(current_setting('pg_durable.list_instances_max_limit', true)
                         from '^\s*(0*[1-9]\d{0,8})\s*$')::int)
$$;

-- Granted to users.
create or replace function df_engine.check_page_size(p_limit int) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  if p_limit is null then
    raise exception 'limit_count must not be null' using errcode = 'null_value_not_allowed';
  end if;
  if p_limit < 1 then
    raise exception 'limit_count must be at least 1, not %', p_limit using errcode = 'invalid_parameter_value';
  end if;
  if p_limit > df_engine.page_cap() then
    raise exception 'limit_count % exceeds list_instances_max_limit (%)', p_limit, df_engine.page_cap()
      using errcode = 'program_limit_exceeded', hint = 'Read page by page, with after_cursor => next_cursor.';
  end if;
end
$$;

-- Granted to users.
create or replace function df_engine.encode_cursor(p_created_at timestamptz, p_id text) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select encode(convert_to(
    format('v1|%s+00|%s', to_char(p_created_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US'), p_id), 'UTF8'), 'hex')
$$;

-- Granted to users.
create or replace function df_engine.decode_cursor(p_cursor text, out created_at timestamptz, out id text)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_parts text[];
begin
  if p_cursor is null then
    return;
  end if;
  -- decode() would skip blanks and line breaks
  if length(p_cursor) <= 512 and p_cursor ~ '^([0-9A-Fa-f]{2})+$' then
    v_parts := regexp_match(
      convert_from(decode(p_cursor, 'hex'), 'UTF8'),
      '^v1\|(\d{4,6}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}[+-]\d\d(?::\d\d){0,2})\|([0-9a-f]{8})$');
    created_at := v_parts[1]::timestamptz;
    id := v_parts[2];
  end if;
  if v_parts is null then
    raise exception 'not a cursor' using errcode = 'data_exception';
  end if;
exception when data_exception then
  raise exception 'invalid after_cursor' using
    errcode = 'invalid_parameter_value', hint = 'Pass next_cursor of the page before, unchanged.';
end
$$;

-- The numbers of the runs of a page, in order, and of one more if there is. Reads the table, not the view: the order of an index is lost
-- in a view that is a security barrier. Planned for each call, so that absent filters vanish and the index for those that are left is used.
-- Granted to users.
create or replace function df_engine.page_of_instances(
  p_key text, p_role oid, p_status text, p_label text, p_after timestamptz, p_after_id text, p_limit int
) returns bigint[]
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan as $$
declare
  v_all constant boolean := df_engine.may_see_all(p_role);
begin
  perform df_engine.require_key(p_key, p_role);
  return array(
    select i.instance
    from df_engine.instances i
    where (v_all or i.submitter = p_role)
      and (p_status is null or i.status = p_status)
      and (p_label is null or i.label = p_label)
      and (p_after is null or i.created_at <= p_after)
      and (p_after is null or i.created_at < p_after or i.id > p_after_id)
    order by i.created_at desc, i.id
    limit p_limit);
end
$$;

create or replace function df.list_instances(
  status_filter text, limit_count integer, label_filter text, after_cursor text default null
) returns table (
  instance_id text, label text, function_name text, status text, execution_count bigint, output text,
  created_at timestamptz, completed_at timestamptz, next_cursor text
)
language plpgsql set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  v_after record;
  v_page bigint[];
begin
  if not (pg_catalog.has_schema_privilege('df_engine', 'usage')
          and pg_catalog.has_table_privilege('df_engine.own_key', 'select')) then
    raise exception 'permission denied: role "%" may not use pg_durable', current_user
      using errcode = 'insufficient_privilege',
            hint = pg_catalog.format('An administrator grants it: SELECT df.grant_usage(%L);', current_user);
  end if;
  perform df_engine.check_page_size(limit_count);
  if status_filter not in ('pending', 'running', 'completed', 'failed', 'cancelled') then
    raise notice 'no run has the status "%": it is one of %', status_filter, 'pending, running, completed, failed, cancelled';
  end if;
  select * into v_after from df_engine.decode_cursor(after_cursor);
  v_page := df_engine.page_of_instances(
    (select k.key from df_engine.own_key k), quote_ident(current_user)::regrole, status_filter, label_filter,
    v_after.created_at, v_after.id, limit_count + 1);
  return query
  with page as materialized (
    select r.*, array_position(v_page, r.instance) as place
    from df_engine.visible_runs r where r.instance = any (v_page)
  )
  select p.id::text, p.label, 'pg_durable::orchestration::execute-function-graph', p.status, p.generation::bigint,
         df_engine.run_output(p.status, p.error, p.result), p.created_at, case p.status when 'completed' then p.finished_at end,
         (select df_engine.encode_cursor(l.created_at, l.id) from page l
          where l.place = limit_count and cardinality(v_page) > limit_count)
  from page p
  where p.place <= limit_count
  order by p.place;
end
$$;
comment on function df.list_instances(text, integer, text, text) is
  'Runs visible to the caller, newest first, filtered by status and label (NULL: all), limit_count at a time. next_cursor, the same on every row and NULL on the last page, is the after_cursor of the next page. Raises when limit_count is below 1 or above the cap list_instances_max_limit, and for an invalid after_cursor.';

create or replace function df.list_instances(status_filter text default null, limit_count integer default 100)
returns table (
  instance_id text, label text, function_name text, status text, execution_count bigint, output text
)
language sql set search_path = pg_catalog, pg_temp as $$
  select l.instance_id, l.label, l.function_name, l.status, l.execution_count, l.output
  from df.list_instances(list_instances.status_filter, list_instances.limit_count, null) l
$$;
comment on function df.list_instances(text, integer) is
  'The newest runs visible to the caller, at most limit_count of them, filtered by status (NULL: all). Raises when limit_count is below 1 or above the cap list_instances_max_limit.';

-- Named, because PL/pgSQL does not let a column of the result have the name of the argument.
do $type$
begin
  if to_regtype('df_engine.run_info') is null then
    create type df_engine.run_info as (
      instance_id text, label text, function_name text, function_version text, current_execution_id bigint, status text,
      output text);
  end if;
end
$type$;

create or replace function df.instance_info(instance_id text) returns setof df_engine.run_info
language plpgsql strict set search_path = pg_catalog, pg_temp as $$
begin
  if not (pg_catalog.has_schema_privilege('df_engine', 'usage')
          and pg_catalog.has_table_privilege('df_engine.own_key', 'select')) then
    raise exception 'permission denied: role "%" may not use pg_durable', current_user
      using errcode = 'insufficient_privilege',
            hint = pg_catalog.format('An administrator grants it: SELECT df.grant_usage(%L);', current_user);
  end if;
  return query
  select i.id::text, i.label, 'pg_durable::orchestration::execute-function-graph', i.version, i.generation::bigint, i.status,
         df_engine.run_output(i.status, i.error, i.result)
  from df_engine.visible_runs i
  where i.id = instance_info.instance_id;
end
$$;
comment on function df.instance_info(text) is
  'One run: label, the version of pg_durable that started it, generation of its root scope, status and output. No row when the run is unknown or not visible.';

-- The newest generation of a run's root scope.
-- Granted to users.
create or replace function df_engine.current_execution(p_instance text)
returns table (execution_id bigint, status text, event_count bigint, duration_ms bigint, output text)
language sql stable set search_path = pg_catalog, pg_temp as $$
  select i.generation::bigint,
         case when i.status in ('completed', 'failed', 'cancelled') then initcap(i.status) else 'Running' end,
         e.events, coalesce(df_engine.milliseconds(e.began_at, i.finished_at), 0),
         df_engine.run_output(i.status, i.error, i.result)
  from df_engine.visible_runs i
  join df_engine.visible_events e on e.instance_id = i.id
  where i.id = p_instance
$$;

-- Granted to users.
create or replace function df_engine.milliseconds(p_from timestamptz, p_to timestamptz) returns bigint
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select greatest(round(1000 * extract(epoch from p_to - p_from))::bigint, 0)
$$;

create or replace function df.instance_executions(instance_id text, limit_count integer default 5)
returns table (execution_id bigint, status text, event_count bigint, duration_ms bigint, output text)
language plpgsql strict set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
  if not (pg_catalog.has_schema_privilege('df_engine', 'usage')
          and pg_catalog.has_table_privilege('df_engine.own_key', 'select')) then
    raise exception 'permission denied: role "%" may not use pg_durable', current_user
      using errcode = 'insufficient_privilege',
            hint = pg_catalog.format('An administrator grants it: SELECT df.grant_usage(%L);', current_user);
  end if;
  if limit_count < 1 then
    raise exception 'limit_count must be at least 1, not %', limit_count using errcode = 'invalid_parameter_value';
  end if;
  return query
  select c.* from df_engine.current_execution(instance_executions.instance_id) c
  union all
  (select e.generation::bigint, 'ContinuedAsNew', e.events, df_engine.milliseconds(e.started_at, e.finished_at), e.error
   from df_engine.visible_executions e
   where e.instance_id = instance_executions.instance_id
   order by e.generation desc
   limit least(limit_count, 10000) - 1)
  order by 1 desc;
end
$$;
comment on function df.instance_executions(text, integer) is
  'The generations of a run''s root scope, newest first, at most limit_count (10000 are kept): status, number of node status changes, duration in milliseconds (0 while running) and output, or why it failed when the loop continued all the same. Raises when limit_count is below 1.';

create or replace function df.instance_nodes(instance_id_param text)
returns table (
  node_id text, node_type text, query text, result_name text, left_node text, right_node text, status text, result text,
  status_details text, inferred_status text, inferred_status_from_ancestor_id text, updated_at timestamptz
)
language plpgsql strict set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
  if not (pg_catalog.has_schema_privilege('df_engine', 'usage')
          and pg_catalog.has_table_privilege('df_engine.own_key', 'select')) then
    raise exception 'permission denied: role "%" may not use pg_durable', current_user
      using errcode = 'insufficient_privilege',
            hint = pg_catalog.format('An administrator grants it: SELECT df.grant_usage(%L);', current_user);
  end if;
  return query
  select n.id::text, n.node_type, n.query, n.result_name, n.left_node::text, n.right_node::text, n.status, n.result::text,
         n.status_details::text, n.inferred_status, n.from_ancestor::text, n.updated_at
  from df_engine.visible_nodes n where n.instance_id = instance_id_param;
end
$$;
comment on function df.instance_nodes(text) is
  'One row a node of a run, in no particular order: its physical status, and the status inferred from its ancestors (a node that can no longer run is skipped). No rows when the run is unknown or not visible.';

create or replace function df.instance_nodes(instance_id_param text, _last_n_executions integer)
returns table (
  execution_id bigint, node_id text, node_type text, query text, result_name text, left_node text, right_node text,
  status text, result text, updated_at timestamptz
)
language sql strict set search_path = pg_catalog, pg_temp as $$
  select 1::bigint, n.node_id, n.node_type, n.query, n.result_name, n.left_node, n.right_node, n.status, n.result,
         n.updated_at
  from df.instance_nodes(instance_id_param) n
$$;
comment on function df.instance_nodes(text, integer) is
  'The nodes of a run without inferred statuses; execution_id is always 1 and the second argument has no effect. Kept for compatibility.';

create or replace function df.node_activations(instance_id text)
returns table (
  node_id text, item_no integer, execution_id text, node_type text, status text, result jsonb, error text, attempts integer,
  started_at timestamptz, completed_at timestamptz
)
language plpgsql strict set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
  if not (pg_catalog.has_schema_privilege('df_engine', 'usage')
          and pg_catalog.has_table_privilege('df_engine.own_key', 'select')) then
    raise exception 'permission denied: role "%" may not use pg_durable', current_user
      using errcode = 'insufficient_privilege',
            hint = pg_catalog.format('An administrator grants it: SELECT df.grant_usage(%L);', current_user);
  end if;
  return query
  select o.node_id::text, o.item_no, o.execution_id, o.node_type, o.status,
         case o.status when 'completed' then o.value::jsonb when 'failed' then to_jsonb(o.error) end, o.error, o.attempts,
         o.started_at, o.completed_at
  from df_engine.visible_outcomes o where o.instance_id = node_activations.instance_id
  order by o.scope, o.started_at;
end
$$;
comment on function df.node_activations(text) is
  'What has happened to the nodes of a run, also where df.nodes shows the last of many: one row for each node that has begun, and for each item of a map in which it has (item_no: of the innermost map, from 1). Sequences have none. No rows when the run is unknown or not visible.';

-- All events: as df_engine.visible_events and visible_executions have them, but for all runs at once.
create or replace function df.metrics()
returns table (
  total_instances bigint, running_instances bigint, completed_instances bigint, failed_instances bigint,
  total_executions bigint, total_events bigint
)
language sql security definer set search_path = pg_catalog, pg_temp as $$
  select count(*),
         count(*) filter (where i.status = 'running'),
         count(*) filter (where i.status = 'completed'),
         count(*) filter (where i.status in ('failed', 'cancelled')),
         coalesce(sum(i.generation), 0)::bigint,
         (select coalesce(sum(o.events), 0)::bigint from df_engine.outcomes o
          join df_engine.instances r on r.instance = o.instance and r.generation = coalesce(o.generations[1], 1))
           + (select coalesce(sum(e.events), 0)::bigint from df_engine.executions e)
           + (select count(*) from df_engine.activations a where a.node > 0) + (select count(*) from df_engine.waits)
           + (select count(*) from df_engine.timers t where t.kind in ('sleep', 'schedule', 'retry'))
  from df_engine.instances i
$$;
revoke all on function df.metrics() from public;
comment on function df.metrics() is
  'Counts over all runs of the database, whoever owns them; cancelled runs count as failed, and branches and inner loops are not counted as runs.';

create or replace function df.version() returns text
language sql set search_path = pg_catalog, pg_temp as $$
  select '1.0.0 (built 2026-11-28 00:00:00 UTC)'
$$;
comment on function df.version() is 'Version and build time of the installed pg_durable.';

create or replace function df.target_database() returns text
language sql stable parallel safe set search_path = pg_catalog, pg_temp as $$
  select current_database()::text
$$;
comment on function df.target_database() is 'The home database: the one that pg_durable is installed in, this one.';

-- Views for whoever operates the database: what runs, what failed, what waits, how much gets done, who does it. Each shows
-- the runs that the reader may see: the owner of a view reads for the reader, so the view filters itself.

create or replace view df.running_steps with (security_barrier) as
  with step as (
    select i.instance, i.id as instance_id, i.label, i.submitter, g.node, g.kind, g.query, s.pid, null::int as worker, s.xact_start as since,
           null::bigint as leased
    from df_engine.steps_in_sessions s
    join df_engine.instances i on i.id = s.id and i.submitter = s.submitter
    join df_engine.graph_nodes g on g.graph = i.graph and df_engine.node_id(i.id, g.node) = s.node_id
    union all
    select i.instance, i.id, i.label, i.submitter, g.node, g.kind, g.query, null, q.worker, q.leased_at, q.id
    from df_engine.queue q
    join df_engine.instances i on i.instance = q.instance
    join df_engine.graph_nodes g on g.graph = i.graph and g.node = q.node
    where q.worker is not null
  )
  select s.instance_id, s.label, df_engine.node_id(s.instance_id, s.node)::varchar(8) as node_id, s.kind as node_type, s.query,
         s.submitter::regrole as submitted_by, 1 + coalesce(o.attempts, 0) as attempts, max(s.pid) as pid, max(s.worker) as worker,
         min(s.since) as running_since, clock_timestamp() - min(s.since) as running_for,
         (array_agg(p.done order by p.said_at desc nulls last))[1] as progress_done,
         (array_agg(p.total order by p.said_at desc nulls last))[1] as progress_total,
         (array_agg(p.note order by p.said_at desc nulls last))[1] as progress_note
  from step s
  left join df_engine.outcomes o on o.instance = s.instance and o.scope = 0 and o.node = s.node and o.state = 'r'
  left join df_engine.progress p on p.node = s.node and case when p.leased then p.queue = s.leased and p.said_at >= s.since
    else p.pid = s.pid and exists (select from df_engine.queue q where q.instance = s.instance and q.id = p.queue) and exists (
      select from pg_catalog.pg_stat_activity a where a.pid = p.pid and a.backend_xid = p.xid::pg_catalog.xid) end
  where ((select df_engine.may_see_all(quote_ident(current_user)::regrole)) or s.submitter = (select quote_ident(current_user)::regrole::oid))
  group by s.instance_id, s.label, s.node, s.kind, s.query, s.submitter, o.attempts;
comment on view df.running_steps is
  'Steps being executed now: pid is the session of an SQL step, worker who holds the lease of any other. running_since is NULL for whoever may not read the activity of that session. progress_done, progress_total and progress_note are what the step has said last with df.progress.';

create or replace view df.failed_steps with (security_barrier) as
  select i.id as instance_id, i.label, df_engine.node_id(i.id, g.node)::varchar(8) as node_id, g.kind as node_type, g.query,
         i.submitter::regrole as submitted_by, i.status::text as instance_status, o.ended_at as failed_at, o.attempts, df_engine.cause(o.error) as error
  from df_engine.outcomes o
  join df_engine.instances i on i.instance = o.instance
  join df_engine.graph_nodes g on g.graph = i.graph and g.node = o.node
  where o.state in ('f', 'x', 'e') and g.kind in ('SQL', 'BLOCK', 'HTTP', 'HTTP_MULTIPART', 'SLEEP', 'WAIT_SCHEDULE', 'SIGNAL', 'BREAK', 'CALL') and ((select df_engine.may_see_all(quote_ident(current_user)::regrole)) or i.submitter = (select quote_ident(current_user)::regrole::oid));
comment on view df.failed_steps is
  'Leaves that failed, after how many attempts and why (error: the cause alone, without the words that begin df.nodes.error); the failures of their parents, which only repeat it, are left out';

create or replace view df.waiting with (security_barrier) as
  with wait as (
    select t.instance, t.scope, t.node, t.kind, null as signal_name, t.due_at, t.since, t.activation
    from df_engine.timers t where t.kind not in ('timeout', 'deadline', 'check', 'poke', 'child', 'sweep')
    union all
    select a.instance, a.scope, a.node, 'condition', a.key, t.due_at, a.since, null
    from df_engine.timers t join df_engine.activations a on a.id = t.activation where t.kind = 'check'
    union all
    select w.instance, w.scope, w.node, 'signal', w.signal_name, t.due_at, w.since, null
    from df_engine.waits w left join df_engine.timers t on t.id = w.id where w.child is null
    union all
    select w.instance, w.scope, w.node, 'call', c.id, null, w.since, null
    from df_engine.waits w join df_engine.instances c on c.instance = w.child
    union all
    select distinct on (r.instance) r.instance, null::bigint, null::int, 'blocked', r.reason, null::timestamptz, null::timestamptz, null::bigint
    from df_engine.wait_reasons r
    union all
    select p.instance, null, null, 'paused', p.reason, null, p.paused_at, null from df_engine.pauses p
  )
  select i.id as instance_id, i.label, df_engine.node_id(i.id, w.node)::varchar(8) as node_id, i.submitter::regrole as submitted_by, w.kind,
         case w.kind
           when 'start' then 'start_at'
           when 'sleep' then format('%s s', g.query)
           when 'schedule' then g.query::jsonb ->> 'cron_expr'
           when 'signal' then w.signal_name
           when 'condition' then coalesce('poke ' || w.signal_name || ' or ', '') || (
             select c.query from df_engine.graph_nodes c where c.graph = i.graph and c.node = w.node + 1)
           when 'retry' then df_engine.cause(o.error)
           when 'pace' then 'next iteration' || coalesce(' after: ' || df_engine.cause(
             (select a.error from df_engine.activations a where a.id = w.activation)), '')
           else w.signal_name
         end as waits_for,
         w.due_at, case w.kind when 'retry' then o.started_at else w.since end as waiting_since
  from wait w
  join df_engine.instances i on i.instance = w.instance
  left join df_engine.graph_nodes g on g.graph = i.graph and g.node = w.node
  left join df_engine.outcomes o on o.instance = w.instance and o.scope = w.scope and o.node = w.node and o.state = 'r'
  where ((select df_engine.may_see_all(quote_ident(current_user)::regrole)) or i.submitter = (select quote_ident(current_user)::regrole::oid));
comment on view df.waiting is
  'What waits, and for what: the time at which it is to start, the end of a sleep, a schedule, a signal (due_at: its time-out), the condition of df.wait_for (due_at: the next check), the end of a run that df.call has started (waits_for: its id), a retry (waits_for: the last error), the pace of a forever loop, or the pause after a failure of one that continues; blocked are runs that no worker can go on with, with the reason; paused are runs that somebody has paused: who, when, why';

create or replace view df.throughput with (security_barrier) as
  with finished as (
    select date_trunc('hour', i.finished_at) as hour, i.status::text as run, null as step, i.finished_at - i.created_at as took
    from df_engine.instances i
    where i.finished_at is not null and ((select df_engine.may_see_all(quote_ident(current_user)::regrole)) or i.submitter = (select quote_ident(current_user)::regrole::oid))
    union all
    select date_trunc('hour', o.ended_at), null, case when o.state in ('f', 'x', 'e') then 'failed' else 'completed' end, null
    from df_engine.outcomes o
    join df_engine.instances i on i.instance = o.instance
    join df_engine.graph_nodes g on g.graph = i.graph and g.node = o.node
    where o.state in ('c', 'b', 'd', 'f', 'x', 'e') and g.kind in ('SQL', 'BLOCK', 'HTTP', 'HTTP_MULTIPART') and ((select df_engine.may_see_all(quote_ident(current_user)::regrole)) or i.submitter = (select quote_ident(current_user)::regrole::oid))
  )
  select f.hour,
         count(*) filter (where f.run = 'completed') as runs_completed,
         count(*) filter (where f.run = 'failed') as runs_failed,
         count(*) filter (where f.run = 'cancelled') as runs_cancelled,
         percentile_cont(0.5) within group (order by f.took) as median_run,
         max(f.took) as longest_run,
         count(*) filter (where f.step = 'completed') as steps_completed,
         count(*) filter (where f.step = 'failed') as steps_failed
  from finished f
  group by f.hour;
comment on view df.throughput is
  'Runs that ended and steps that were done, by hour, as far back as retention keeps them; of a step in a loop only the last iteration counts. Run times are from creation to end.';

create or replace view df.workers as
  select w.epoch_id, w.worker, w.role, w.started_at, w.last_seen_at, clock_timestamp() - w.last_seen_at as silent_for,
         w.last_seen_at > clock_timestamp() - interval '15 s' as alive,
         (select count(*) from df_engine.queue q where q.lane in ('direct', 'http') and q.worker = w.worker) as leases
  from df_engine.workers w;
comment on view df.workers is
  'Worker processes: who they are, when they were last seen, whether they are alive, and how many steps outside of transactions they hold';

-- What operators ask when something is wrong: what is in the queue and why nothing of it runs, which steps wait for a lock, what has not moved.
-- By index: of each role and lane the oldest are read, at most so many; what is kept of runs that have ended is not.

-- What the reader may see of the queue, by role and lane.
create or replace view df_engine.queue_by_role with (security_barrier) as
  with recursive every(lane, submitter) as (
    (select q.lane, q.submitter from df_engine.queue q where (select df_engine.may_see_all(quote_ident(current_user)::regrole)) order by q.lane, q.submitter limit 1)
    union all
    select n.lane, n.submitter
    from every e cross join lateral (
      select q.lane, q.submitter from df_engine.queue q
      where (q.lane, q.submitter) > (e.lane, e.submitter) order by q.lane, q.submitter limit 1) n
  ), part as (
    select distinct r.submitter, regexp_replace(r.lane, '^paused ', '') as lane
    from (select e.lane, e.submitter from every e
          union all
          select l.lane, o.me from unnest('{sql,direct,http,paused sql,paused direct,paused http}'::text[]) l(lane)
          cross join (select (select quote_ident(current_user)::regrole::oid) as me) o
          where not (select df_engine.may_see_all(quote_ident(current_user)::regrole)) and exists (select from df_engine.queue q where q.lane = l.lane and q.submitter = o.me)) r
  ), step as materialized (
    select s.pid, s.submitter, i.instance is not null and exists (
      select from df_engine.queue q
      where q.instance = i.instance and q.lane = 'direct' and df_engine.node_id(s.id, q.node) = s.node_id) as direct
    from df_engine.steps_in_sessions s left join df_engine.instances i on i.id = s.id
    where not s.ended
  ), worker as materialized (
    select count(*) as alive from df_engine.workers w where w.last_seen_at > clock_timestamp() - interval '15 s'
  ), counted as materialized (
    select p.submitter, p.lane,
           case p.lane when 'sql' then (select count(distinct s.pid) from step s where s.submitter = p.submitter and not s.direct)
             else (select count(*) from df_engine.queue q where q.lane = p.lane and q.submitter = p.submitter and q.worker is not null)
           end as running,
           (select count(*) from (select from df_engine.queue q
                                  where q.lane = p.lane and q.submitter = p.submitter limit 10000) q) as listed,
           (select count(*) from (select from df_engine.queue q
                                  where q.lane = 'paused ' || p.lane and q.submitter = p.submitter limit 10000) q) as paused,
           case p.lane when 'http' then l.http else l.sessions end as most,
           case p.lane when 'http' then df_engine.setting_number('max_http_requests')
             else df_engine.setting_number('max_user_connections') end::bigint * w.alive as places,
           case p.lane when 'http' then (select count(*) from df_engine.queue q where q.lane = 'http' and q.worker is not null)
             else (select count(distinct s.pid) from step s) end as taken,
           case p.lane when 'http' then (select count(*) from df_engine.queue q
                                         where q.lane = 'http' and q.submitter = p.submitter and q.worker is not null)
             else (select count(distinct s.pid) from step s where s.submitter = p.submitter) end as used,
           w.alive
    from part p
    cross join worker w
    left join df_engine.role_limits l on l.role = p.submitter
  )
  select c.submitter, c.lane, greatest(c.listed - c.running, 0) as ready, c.paused, c.running,
         df_engine.ready_time(o.id) as oldest_since, least(c.places, c.most) as slots,
         case when c.listed <= c.running or c.running > 0 then null
              when u.oid is null then 'the role does not exist any more'
              when not u.rolcanlogin then format('no worker can log in as role "%s": it has no LOGIN', u.rolname)
              when c.lane <> 'http' and r.reason is not null then r.reason
              when c.used >= c.most then format('role "%s" may have %s of these at a time (df.set_role_limit), and has', u.rolname, c.most)
              when c.alive = 0 then 'no worker is running'
              when c.taken >= c.places then format('all %s places of the workers are taken', c.places) end as wait_reason
  from counted c
  left join pg_catalog.pg_roles u on u.oid = c.submitter
  left join df_engine.role_reasons r on r.submitter = c.submitter
  left join lateral (
    select q.id from df_engine.queue q
    where q.lane = c.lane and q.submitter = c.submitter and (c.lane = 'sql' or q.worker is null)
    order by q.id offset case c.lane when 'sql' then c.running else 0 end limit 1) o on true;

create or replace view df.queue with (security_barrier) as
  select q.submitter::regrole as role, q.lane, q.ready, clock_timestamp() - q.oldest_since as oldest_age, q.running, q.slots, q.paused, q.wait_reason
  from df_engine.queue_by_role q;
comment on view df.queue is
  'What is ready to run, by role and lane (sql: in sessions of the role; direct: outside of transactions; http): how many steps, the age of the oldest, how many run, how many places the running workers have for it, how many belong to paused runs, and why nothing of it runs. At most 10000 are counted. Sessions of other roles are seen by members of pg_read_all_stats';

create or replace view df.blocked_steps with (security_barrier) as
  select i.id as instance_id, i.label, s.node_id::varchar(8) as node_id, g.query, i.submitter::regrole as submitted_by, s.pid,
         coalesce(l.lock, 'unknown') as waits_for, l.waitstart as waiting_since, b.pid as blocked_by,
         a.usename as blocking_role, a.application_name as blocking_application, a.state as blocking_state, a.xact_start as blocking_since,
         a.query as blocking_statement
  from df_engine.steps_in_sessions s
  join df_engine.instances i on i.id = s.id and i.submitter = s.submitter
  join df_engine.graph_nodes g on g.graph = i.graph and g.node = df_engine.node_of(s.id, s.node_id)
  cross join lateral (
    select k.waitstart, k.mode || ' of ' || case when k.relation is not null then k.relation::regclass::text else k.locktype end as lock
    from pg_catalog.pg_locks k where k.pid = s.pid and not k.granted limit 1) l
  cross join lateral (select distinct p.pid from unnest(pg_blocking_pids(s.pid)) p(pid)) b
  left join pg_catalog.pg_stat_activity a on a.pid = b.pid
  where ((select df_engine.may_see_all(quote_ident(current_user)::regrole)) or i.submitter = (select quote_ident(current_user)::regrole::oid));
comment on view df.blocked_steps is
  'Running steps that wait for a lock, one row for each session that blocks: since when, for which lock, and what that session does or did last, as far as the reader may see it (members of pg_read_all_stats: all). blocked_by 0 is a prepared transaction (pg_prepared_xacts)';

-- Threads that do not move, the oldest 1000 of each role and kind: since when, and why.
-- Granted to users.
create or replace view df_engine.visible_standstill with (security_barrier) as
  with reader as materialized (
    select u.oid as submitter, u.rolname from pg_catalog.pg_roles u where ((select df_engine.may_see_all(quote_ident(current_user)::regrole)) or u.oid = (select quote_ident(current_user)::regrole::oid))
  ), ready as materialized (
    select q.instance, q.node, q.lane, q.submitter, q.worker, q.leased_at, greatest(df_engine.ready_time(q.id), (
             select max(o.ended_at)  -- the row stays the same while its chain of steps goes on
             from df_engine.instances i
             join df_engine.graph_nodes b on b.graph = i.graph and b.node = q.node
             join df_engine.outcomes o on o.instance = q.instance and o.scope = q.scope and o.node between q.node and b.until
             where i.instance = q.instance)) as since
    from reader r
    cross join unnest('{sql,direct,http}'::text[]) l(lane)
    cross join lateral (select x.* from df_engine.queue x
                        where x.lane = l.lane and x.submitter = r.submitter order by x.id limit 1000) q
  ), step as materialized (
    select i.instance, i.graph, df_engine.node_of(s.id, s.node_id)::int as node, s.pid, s.xact_start as since
    from df_engine.steps_in_sessions s join df_engine.instances i on i.id = s.id and i.submitter = s.submitter
    where not s.ended and ((select df_engine.may_see_all(quote_ident(current_user)::regrole)) or i.submitter = (select quote_ident(current_user)::regrole::oid))
  ), part as materialized (
    select * from df_engine.queue_by_role
  ), standstill as (
    select s.instance, s.node, 'running' as state, s.since,
           coalesce((select format('it waits for a lock that pid %s holds (df.blocked_steps)', b.pids[1])
                     from (select pg_blocking_pids(s.pid) as pids) b where b.pids <> '{}'),
                    format('the session with pid %s is in it', s.pid)) as reason
    from step s
    union all
    select q.instance, q.node, 'running', q.leased_at, format('worker %s has it', q.worker)
    from ready q where q.worker is not null and not exists (select from step s where s.instance = q.instance and s.node = q.node)
    union all
    select q.instance, q.node, 'ready', q.since, coalesce(
      p.wait_reason, format('it waits for its turn: %s steps of its role run, of %s places', p.running, p.slots))
    from ready q
    left join part p on p.submitter = q.submitter and p.lane = q.lane
    where q.worker is null and not exists (
      select from step s join df_engine.graph_nodes b on b.graph = s.graph and b.node = q.node
      where s.instance = q.instance and s.node between q.node and b.until)
    union all
    select t.instance, t.node, 'due', t.due_at, case
      when not exists (select from df_engine.workers w where w.last_seen_at > clock_timestamp() - interval '15 s') then 'no worker is running'
      when t.tries > 0 then format('what is due has been tried %s times in vain', t.tries)
      else 'nobody acts on what is due: the workers do not keep up, or a transaction has locked its run' end
    from reader r
    cross join lateral (select x.* from df_engine.timers x
                        where x.submitter = r.submitter and x.next_try_at < (select clock_timestamp() + interval '1 min')
                        order by x.next_try_at, x.id limit 1000) t
    where t.due_at < clock_timestamp() and t.node > 0
    union all
    select w.instance, w.node, 'signal', w.since, format('it waits for the signal "%s", without a time-out', w.signal_name)
    from reader r
    cross join lateral (select x.* from df_engine.waits x where x.submitter = r.submitter limit 10000) w
    where w.signal_name is not null and not exists (select from df_engine.timers t where t.id = w.id)
    union all
    select p.instance, null, 'paused', p.paused_at, p.reason from df_engine.pauses p
  )
  select i.id as instance_id, i.label, i.submitter, df_engine.node_id(i.id, s.node)::varchar(8) as node_id, g.query, s.state, s.since, s.reason
  from standstill s
  cross join lateral (select x.* from df_engine.instances x where x.instance = s.instance limit 1) i
  left join lateral (select x.query from df_engine.graph_nodes x where x.graph = i.graph and x.node = s.node limit 1) g on true
  where (s.state = 'paused' or i.paused is null) and ((select df_engine.may_see_all(quote_ident(current_user)::regrole)) or i.submitter = (select quote_ident(current_user)::regrole::oid));

create or replace function df.stuck(for_at_least interval default '10 minutes')
returns table (
  instance_id text, label text, submitted_by regrole, node_id text, query text, state text, since timestamptz, stuck_for interval, reason text
)
language plpgsql set search_path = pg_catalog, pg_temp set jit = off set enable_seqscan = off as $$
#variable_conflict use_column
begin
  if not (pg_catalog.has_schema_privilege('df_engine', 'usage')
          and pg_catalog.has_table_privilege('df_engine.own_key', 'select')) then
    raise exception 'permission denied: role "%" may not use pg_durable', current_user
      using errcode = 'insufficient_privilege',
            hint = pg_catalog.format('An administrator grants it: SELECT df.grant_usage(%L);', current_user);
  end if;
  return query
  select s.instance_id::text, s.label, s.submitter::regrole, s.node_id::text, s.query, s.state, s.since, clock_timestamp() - s.since, s.reason
  from df_engine.visible_standstill s
  where s.since <= clock_timestamp() - coalesce(for_at_least, '10 minutes')
  order by s.since limit 10000;
end
$$;
comment on function df.stuck(interval) is
  'What has not moved for so long, and why, longest first, at most 10000 rows: steps that are ready (state ready), steps that run (running), what is due (due), runs that are paused, and waits for a signal that have no time-out (signal). What waits for a time that is to come is not stuck, nor is a call: the run that it has called is.';

-- Metrics: how many runs there are, counted for the metrics collector of a worker. Reads what lives, and what has ended since
-- the last count, by index; the runs that are kept are never counted. Nothing here writes.

-- The runs that have ended since a place, a time and an id, by how; and the place of the last of them. Without a place it
-- begins now. A run shows its end only once that is committed, so the last five seconds are left for the next count.
create or replace function df_engine.ended_since(p_place jsonb) returns jsonb
language plpgsql stable set search_path = '' as $$
declare
  v_upto constant pg_catalog.timestamptz := df_engine.clock() - '5 s'::pg_catalog.interval;
  v_after constant pg_catalog.timestamptz := coalesce((p_place ->> 0)::pg_catalog.timestamptz, v_upto);
  v_id constant pg_catalog.text := coalesce(p_place ->> 1, '');
begin
  return (
    with ended as materialized (
      select i.finished_at as ended_at, i.id, i.status
      from df_engine.instances i
      where i.status in ('completed', 'failed', 'cancelled') and (i.finished_at, i.id) > (v_after, v_id)
        and i.finished_at <= v_upto
      order by i.finished_at, i.id limit 100000
    )
    select jsonb_build_object(
      'completed', count(*) filter (where e.status = 'completed'),
      'failed', count(*) filter (where e.status = 'failed'),
      'cancelled', count(*) filter (where e.status = 'cancelled'),
      'place', coalesce(
        (select jsonb_build_array(l.ended_at, l.id) from ended l order by l.ended_at desc, l.id desc limit 1),
        jsonb_build_array(v_after, v_id)))
    from ended e);
end
$$;

-- Overdue is what should have happened ten seconds ago; blocked are runs that say what keeps them from going on.
-- Granted to workers.
create or replace function df_engine.run_metrics(p_place jsonb) returns jsonb
language sql stable security definer set search_path = pg_catalog, pg_temp
  set jit = off set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off as $$
  select jsonb_build_object(
    'pending', count(*) filter (where i.status = 'pending'),
    'running', count(*) filter (where i.status = 'running'),
    'blocked', (select count(distinct q.instance) from df_engine.role_reasons w
                join df_engine.queue q on q.submitter = w.submitter and q.lane in ('sql', 'direct')),
    'overdue', (select count(*) from df_engine.timers t
                where t.due_at < (select df_engine.clock() - '10 s'::pg_catalog.interval)),
    'queue', (select coalesce(jsonb_agg(jsonb_build_object(
                'role', q.submitter::regrole, 'lane', q.lane, 'ready', q.ready, 'running', q.running, 'slots', q.slots,
                'oldest_seconds', coalesce(extract(epoch from clock_timestamp() - q.oldest_since), 0))), '[]')
              from df_engine.queue_by_role q),
    'ended', df_engine.ended_since(p_place))
  from df_engine.instances i
  where i.status in ('pending', 'running');
$$;

-- Runs that have failed since a time, for the log of a worker, and the time of this answer. Without a time it begins now. A
-- run shows its end only once that is committed, so answers overlap by five seconds; the longest is of 10,000 runs.
-- Granted to workers.
create or replace function df_engine.failed_since(p_since timestamptz) returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set jit = off set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off as $$
declare
  v_upto constant timestamptz := df_engine.clock();
begin
  return jsonb_build_object('upto', v_upto, 'runs', coalesce((
    select jsonb_agg(jsonb_build_object(
      'instance', f.id, 'label', f.label, 'node', df_engine.node_id(f.id, leaf.node),
      'error', left(coalesce(df_engine.cause(leaf.error), f.error), 1000)) order by f.finished_at)
    from (select i.instance, i.graph, i.id, i.label, i.error, i.finished_at
          from df_engine.instances i
          where i.finished_at is not null and i.status = 'failed' and i.finished_at >= p_since - '5 s'::interval
          order by i.finished_at limit 10000) f
    left join lateral (
      select o.node, o.error
      from df_engine.outcomes o join df_engine.graph_nodes g on g.graph = f.graph and g.node = o.node
      where o.instance = f.instance and o.state in ('f', 'x', 'e') and g.kind in ('SQL', 'BLOCK', 'HTTP', 'HTTP_MULTIPART', 'SLEEP', 'WAIT_SCHEDULE', 'SIGNAL', 'BREAK', 'CALL') and 0 = any (g.name_scopes)
      order by o.ended_at desc limit 1) leaf on true), '[]'));
end
$$;

-- What has happened to a run, in order: df.timeline reads it from where it is kept, each part by the number of the run.

-- What operators have done to the runs that the reader may see.
-- Granted to users.
create or replace view df_engine.visible_acts with (security_barrier) as
  select i.id as instance_id, x.id, x.act, x.acted_at, x.reason,
         x.acted_by || case when x.logged_in_as <> x.acted_by then format(' (logged in as %s)', x.logged_in_as) else '' end as acted_by
  from df_engine.instances i join df_engine.acts x on x.instance = i.instance where ((select df_engine.may_see_all(quote_ident(current_user)::regrole)) or i.submitter = (select quote_ident(current_user)::regrole::oid));

-- place: of what happened at the same time.
-- Granted to users.
create or replace view df_engine.visible_timeline with (security_barrier) as
  select i.id as instance_id, i.created_at as at, 0 as place, 'run started' as event, null::int as node, null::bigint as scope, null::int as attempt,
         null::interval as duration, i.submitter::regrole::text as by,
         nullif(concat_ws(', ', i.definition, 'not before ' || i.start_at), '') as detail
  from df_engine.instances i where ((select df_engine.may_see_all(quote_ident(current_user)::regrole)) or i.submitter = (select quote_ident(current_user)::regrole::oid))
  union all
  select i.id, x.failed_at, 1, 'attempt failed', x.node, x.scope, x.attempt, null, null, df_engine.cause(x.error)
  from df_engine.instances i join df_engine.attempts x on x.instance = i.instance where ((select df_engine.may_see_all(quote_ident(current_user)::regrole)) or i.submitter = (select quote_ident(current_user)::regrole::oid))
  union all
  select i.id, x.ended_at, 2, case when x.state in ('f', 'x', 'e') then 'node failed' else 'node completed' end, x.node, x.scope, x.attempts,
         x.ended_at - x.started_at, null, df_engine.cause(x.error)
  from df_engine.instances i join df_engine.outcomes x on x.instance = i.instance where ((select df_engine.may_see_all(quote_ident(current_user)::regrole)) or i.submitter = (select quote_ident(current_user)::regrole::oid)) and x.state in ('c', 'b', 'd', 'f', 'x', 'e')
  union all
  select i.id, x.sent_at, 3, 'signal sent', null, null, null, null, x.sent_by::text,
         x.signal_name || case x.status when 'undeliverable' then ' (undeliverable)' else '' end
  from df_engine.instances i join df_engine.inbox x on x.instance = i.instance where ((select df_engine.may_see_all(quote_ident(current_user)::regrole)) or i.submitter = (select quote_ident(current_user)::regrole::oid))
  union all
  select i.id, x.delivered_at, 4, 'signal delivered', x.delivered_to[1], null, null, x.delivered_at - x.sent_at, null, x.signal_name
  from df_engine.instances i join df_engine.inbox x on x.instance = i.instance where ((select df_engine.may_see_all(quote_ident(current_user)::regrole)) or i.submitter = (select quote_ident(current_user)::regrole::oid)) and x.delivered_at is not null
  union all
  select i.id, c.created_at, 5, 'run called', c.parent_node, null, null, null, null, c.id
  from df_engine.instances i join df_engine.instances c on c.parent = i.instance where ((select df_engine.may_see_all(quote_ident(current_user)::regrole)) or i.submitter = (select quote_ident(current_user)::regrole::oid))
  union all
  select i.id, x.finished_at, 6, 'iteration ended', null, null, null, x.finished_at - x.started_at, null,
         x.generation || coalesce(': ' || df_engine.cause(x.error), '')
  from df_engine.instances i join df_engine.executions x on x.instance = i.instance where ((select df_engine.may_see_all(quote_ident(current_user)::regrole)) or i.submitter = (select quote_ident(current_user)::regrole::oid))
  union all
  select a.instance_id, a.acted_at, 7, case a.act when 'pause' then 'paused' when 'resume' then 'resumed' when 'rerun' then 'run again'
           when 'skip' then 'skipped' when 'forget' then 'forgotten' when 'cancel' then 'cancel asked' else a.act end, null, null, null, null, a.acted_by, a.reason
  from df_engine.visible_acts a
  union all
  select i.id, i.finished_at, 8, 'run ' || i.status, null, null, null, i.finished_at - i.created_at, null, df_engine.cause(i.error)
  from df_engine.instances i where i.finished_at is not null and ((select df_engine.may_see_all(quote_ident(current_user)::regrole)) or i.submitter = (select quote_ident(current_user)::regrole::oid));

-- Granted to users.
create or replace view df_engine.visible_texts with (security_barrier) as
  select i.id as instance_id, g.node, g.kind, g.query
  from df_engine.instances i join df_engine.graph_nodes g on g.graph = i.graph
  where ((select df_engine.may_see_all(quote_ident(current_user)::regrole)) or i.submitter = (select quote_ident(current_user)::regrole::oid));

create or replace function df.timeline(instance_id text, limit_count integer default 1000, before timestamptz default null)
returns table (
  at timestamptz, event text, node_id text, node_type text, query text, attempt integer, duration interval, by text, detail text
)
language plpgsql set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
  if not (pg_catalog.has_schema_privilege('df_engine', 'usage')
          and pg_catalog.has_table_privilege('df_engine.own_key', 'select')) then
    raise exception 'permission denied: role "%" may not use pg_durable', current_user
      using errcode = 'insufficient_privilege',
            hint = pg_catalog.format('An administrator grants it: SELECT df.grant_usage(%L);', current_user);
  end if;
  perform df_engine.visible_run(timeline.instance_id);
  if limit_count is null or limit_count not between 1 and 10000 then
    raise exception 'limit_count must be from 1 to 10000, not %', coalesce(limit_count::text, 'NULL')
      using errcode = 'invalid_parameter_value', hint = 'before => the first time of a page is that of the page before it.';
  end if;
  return query
  select t.at, t.event, df_engine.node_id(timeline.instance_id, t.node)::text, g.kind, left(g.query, 200), t.attempt, t.duration, t.by,
         nullif(concat_ws(': ', 'item ' || nullif(t.scope & 8388607, 0), t.detail), '')
  from (
    select v.* from df_engine.visible_timeline v
    where v.instance_id = timeline.instance_id and (timeline.before is null or v.at < timeline.before)
    order by v.at desc, v.place desc, v.node desc limit limit_count) t
  left join df_engine.visible_texts g on g.instance_id = timeline.instance_id and g.node = t.node
  order by t.at, t.place, t.node;
end
$$;
comment on function df.timeline(text, integer, timestamptz) is
  'What has happened to a run, in order: its start, attempts that failed, nodes that ended (attempt: how many it took, duration: from its first), signals, runs that it called, iterations, what operators did (by: who), its end. The newest limit_count, at most 10000; before: only what happened before that. Of nodes in loops the last iteration is shown. Raises 42501 when the run is unknown or invisible';

-- df.explain: reads what it is given, as a run's id, an envelope, an expression that builds one, or SQL. It is the one
-- function that hands the caller's search_path on: to the expression, which is the caller's to evaluate.

create or replace function df.explain(input text) returns text
language plpgsql strict as $$
begin
  if not (pg_catalog.has_schema_privilege('df_engine', 'usage')
          and pg_catalog.has_table_privilege('df_engine.own_key', 'select')) then
    raise exception 'permission denied: role "%" may not use pg_durable', current_user
      using errcode = 'insufficient_privilege',
            hint = pg_catalog.format('An administrator grants it: SELECT df.grant_usage(%L);', current_user);
  end if;
  return df_engine.explain(input, pg_catalog.current_setting('search_path'));
end
$$;
comment on function df.explain(text) is
  'Draws a graph as text: of a run with the statuses of its nodes when input is its id, else of a definition (@name, @name:3), of an envelope, of a statement, or of an SQL expression, which is evaluated with the rights of the caller. A graph that is not valid is described, an SQL error in the expression raised.';

-- Granted to users.
create or replace function df_engine.explain(p_input text, p_search_path text) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_input text := btrim(p_input, E' \t\r\n\f');
begin
  case df_engine.explain_kind(v_input)
    when 'instance' then
      return df_engine.explain_run(v_input);
    when 'expression' then
      return df_engine.explain_graph(df_engine.read_expression(v_input, p_search_path));
    when 'graph' then
      return df_engine.explain_graph(v_input);
    when 'definition' then
      return df_engine.explain_graph(df_engine.definition_to_show(v_input));
    else
      return 'Nothing to explain. Accepted are the id of an instance (8 hexadecimal digits), an envelope, an expression'
        || E' that builds one,\nsuch as ''SELECT 1'' ~> ''SELECT 2'' or df.sleep(5), and an SQL statement.';
  end case;
end
$$;

-- How df.explain reads its input. What is to be read as a graph, in whatever notation, is for parse_graph to understand.
-- Granted to users.
create or replace function df_engine.explain_kind(p_input text) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select case
    when p_input ~ '^[0-9A-Fa-f]{8}$' then 'instance'
    when p_input ~ '^@[A-Za-z_]' then 'definition'
    when p_input ~ '^\{' and (jsonb_typeof(df_engine.node_config('', p_input) -> 'node_type') = 'string' or starts_with(p_input, '{"_partial_if"')) then 'graph'
    when p_input ~ '~>|\|=>|\?>|!>|@>|df\.' then 'expression'
    when p_input ~* '^(select|insert|update|delete|merge|with|values|create|alter|drop|call|do|truncate|grant|revoke|explain)\M'
      then 'graph'
    else 'other'
  end
$$;

-- The value of an expression, read with p_search_path: SET LOCAL of what a function pins ends with the function.
-- Granted to users.
create or replace function df_engine.evaluate_expression(p_expression text, p_search_path text) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_statement text := format(E'select (\n%s\n)::pg_catalog.text', rtrim(p_expression, E'; \t\r\n'));
  v_value text;
begin
  perform set_config('search_path', p_search_path, true);
  execute v_statement into v_value;
  return v_value;
end
$$;

-- An expression as SQL reads it; where SQL cannot, but the text language can, as a flow.
-- Granted to users.
create or replace function df_engine.read_expression(p_text text, p_search_path text) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  return df_engine.evaluate_expression(p_text, p_search_path);
exception
  when syntax_error then
    return df.flow(p_text);
  when undefined_function or undefined_column then
    declare
      v_flow text;
    begin
      begin
        v_flow := df.flow(p_text);
      exception when syntax_error then
        null; -- the expression's error is raised below
      end;
      if v_flow is null then
        raise;
      end if;
      return v_flow;
    end;
end
$$;

-- Dry run: the tree of what df.start would start, or the reason why it would not.
-- Granted to users.
create or replace function df_engine.explain_graph(p_text text) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_graph jsonb;
  v_path text := 'root: ';           -- graph_nodes names the path itself
begin
  if p_text is null then
    return 'The expression is NULL: there is no graph to explain.';
  end if;
  v_graph := df_engine.parse_graph(p_text);
  v_path := '';
  return df_engine.padded(array(select df_engine.draw_graph(null, v_graph)));
exception
  when invalid_text_representation or program_limit_exceeded then
    return 'Invalid durable function graph: ' || v_path || sqlerrm;
end
$$;

-- Granted to users.
create or replace function df_engine.explain_run(p_instance text) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_head text[] := array(select df_engine.run_head(p_instance));
begin
  if v_head = '{}' then
    return format('Instance ''%s'' not found', p_instance);
  end if;
  return df_engine.padded(v_head || array(select df_engine.draw_graph(p_instance, null)));
end
$$;

-- The lines above the tree of a run.
-- Granted to users.
create or replace function df_engine.run_head(p_instance text) returns setof text
language sql stable set search_path = pg_catalog, pg_temp as $$
  with run as (
    select i.id, i.label, i.wait_reason, i.undo_status, i.status in ('completed', 'failed', 'cancelled') as ended,
           case when i.status = 'pending' and exists (
             select from df_engine.visible_nodes n where n.instance_id = i.id and n.inferred_status = 'running') then 'running'
                else i.status end as status,
           df_engine.run_output(i.status, i.error, i.result) as output
    from df_engine.visible_runs i
    where i.id = p_instance
  )
  select l.line
  from run r
  cross join lateral (values
    (1, 'Instance: ' || r.id || coalesce(' (' || df_engine.one_line(r.label, null) || ')', '')),
    (2, 'Status:   ' || df_engine.status_icon(r.status) || ' ' || r.status),
    (3, 'Output:   ' || case when r.status = 'failed' then df_engine.one_line(df_engine.cause(r.output), null)
                             else df_engine.one_line(r.output, 60) end),
    (4, 'Undo:     ' || df_engine.status_icon(r.undo_status) || ' ' || r.undo_status),
    (5, case when not r.ended then 'Waiting:  ' || df_engine.one_line(
          coalesce(r.wait_reason, df_engine.worker_problem()), null) end),
    (6, (select 'Forgotten: by ' || a.acted_by || ' at ' || a.acted_at
         from df_engine.visible_acts a where a.instance_id = r.id and a.act = 'forget' order by a.id desc limit 1)),
    (7, '')) as l(place, line)
  where l.line is not null
  order by l.place
$$;

-- Why nothing can run at all; NULL while a worker is alive.
-- Granted to users.
create or replace function df_engine.worker_problem() returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select case
    when max(w.last_seen_at) > clock_timestamp() - interval '15 s' then null
    when max(w.last_seen_at) is null then 'no worker is running'
    else 'no worker has been seen for 15 s'
  end
  from df._worker_epoch w
$$;

-- Lines of one width, so that psql centers nothing.
-- Granted to users.
create or replace function df_engine.padded(p_lines text[]) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select string_agg(rpad(l.line, w.width), E'\n' order by l.place)
  from unnest(p_lines) with ordinality as l(line, place)
  cross join (select max(length(u.line)) + 4 from unnest(p_lines) as u(line)) as w(width)
$$;

-- Drawing: the tree that df.explain shows, one renderer for graphs not yet started and for runs.

-- Granted to users.
create or replace function df_engine.status_icon(p_status text) returns text
language sql immutable as $$
  select case p_status
    when 'completed' then '✓'
    when 'failed' then '✗'
    when 'cancelled' then '✗'
    when 'running' then '⏳'
    when 'pending' then '○'
    when 'skipped' then '⊘'
  end
$$;

-- Text on one line, cut to p_max characters.
-- Granted to users.
create or replace function df_engine.one_line(p_text text, p_max int) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select case when length(t.flat) > p_max then left(t.flat, p_max - 3) || '...' else t.flat end
  from (select regexp_replace(p_text, '[\r\n]+', ' ', 'g')) as t(flat)
$$;

-- A node without its children. Configurations that are no JSON, in rows inserted by hand, are shown as they are.
-- Granted to users.
create or replace function df_engine.node_text(p_type text, p_query text, p_config jsonb, p_children int) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select case p_type
    when 'SQL' then 'SQL: ' || df_engine.one_line(p_query, 50)
    when 'SLEEP' then 'SLEEP ' || case
      when p_config ? 'until' then 'until ' || df_engine.one_line(p_config ->> 'until', 50)
      when p_config ? 'duration' then '''' || df_engine.one_line(p_config ->> 'duration', 50) || ''''
      else df_engine.one_line(p_query, null) || 's' end
    when 'WAIT_SCHEDULE' then 'WAIT ''' || coalesce(p_config ->> 'cron_expr', p_query) || ''''
                              || coalesce(' ' || (p_config ->> 'timezone'), '')
    when 'SIGNAL' then 'SIGNAL ''' || coalesce(p_config ->> 'signal_name', p_query) || ''''
                       || coalesce(' (' || (p_config ->> 'timeout_seconds') || 's)', '')
    when 'WAIT_FOR' then 'WAIT_FOR (every ' || (p_config ->> 'every') || 's'
                         || coalesce(', key ''' || df_engine.one_line(p_config ->> 'key', 40) || '''', '')
                         || coalesce(', ' || (p_config ->> 'timeout') || 's at most', '') || ')'
    when 'CALL' then 'CALL ' || coalesce(df_engine.one_line(regexp_replace(
                               df_engine.graph_text(df_engine.called_graph(p_query)), '\n\s*', ' ', 'g'), 50), '')
                     || coalesce(' (' || df_engine.one_line(p_config ->> 'label', 40) || ')', '')
    when 'BREAK' then 'BREAK' || coalesce(' ''' || df_engine.one_line(p_config ->> 'break_value', 20) || '''', '')
    when 'LOOP' then 'LOOP (' || case when p_children > 1 then 'while' else 'infinite' end
                     || case when p_config -> 'continue_on_failure' = 'true' then ', continues on failure' else '' end || ')'
    when 'JOIN' then 'JOIN (' || p_children || ')'
    when 'ANY' then 'ANY (' || p_children || ')'
    when 'CATCH' then 'CATCH' || coalesce(' ' || array_to_string(array(
      select jsonb_array_elements_text(nullif(p_config -> 'errors', 'null'))), ', '), '')
    when 'TIMEOUT' then 'TIMEOUT ' || case jsonb_typeof(p_config -> 'after') when 'number' then (p_config ->> 'after') || 's'
                                       else '''' || (p_config ->> 'after') || '''' end
    when 'BLOCK' then 'BLOCK (' || jsonb_array_length(p_config -> 'statements') || '): ' || df_engine.one_line((
      select string_agg(df_engine.one_line(s.text, 40), '; ' order by s.place)
      from jsonb_array_elements_text(p_config -> 'statements') with ordinality s(text, place)), 100)
    when 'MAP' then 'MAP ' || coalesce(df_engine.one_line(p_config ->> 'items', 40) || ' ', '') || '('
                    || concat_ws(', ', coalesce(p_config ->> 'parallel', '10') || ' at a time',
                                 case p_config ->> 'on_error' when 'stop' then 'stops on error' when 'collect' then 'collects errors' end) || ')'
    when 'HTTP' then df_engine.request_text(p_type, p_config)
    when 'HTTP_MULTIPART' then df_engine.request_text(p_type, p_config)
    else p_type
  end
$$;

-- Granted to users.
create or replace function df_engine.request_text(p_type text, p_config jsonb) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select concat_ws(' ', p_type, upper(p_config ->> 'method'), df_engine.one_line(p_config ->> 'url', 40))
$$;

-- What is drawn: the nodes of a graph, or those of a run, each with its mark.
-- Granted to users.
create or replace function df_engine.drawn_nodes(p_instance text, p_graph jsonb)
returns table (node int, parent int, place int, node_type text, config jsonb, query text, result_name text, mark text)
language sql as $$
  select g.node, g.parent, g.place, g.kind, df_engine.node_config(g.kind, g.body ->> 'query'), g.body ->> 'query',
         g.body ->> 'result_name', ''
  from df_engine.walk(p_graph) g
  where p_graph is not null
  union all
  select n.node, n.parent, n.place, n.node_type, df_engine.node_config(n.node_type, n.query), n.query, n.result_name,
         case when n.node_type = 'CALL' then coalesce(' → ' || (
           select c.id from df_engine.visible_runs r join df_engine.visible_runs c on c.parent = r.instance
           where r.id = p_instance and c.parent_node = n.node order by c.instance desc limit 1), '') else '' end
         || coalesce(' ' || n.items, '') || ' ' || df_engine.status_icon(n.inferred_status) || coalesce(' ' || r.progress, '')
  from df_engine.visible_nodes n
  left join (
    select s.node_id, df_engine.progress_text(s.progress_done, s.progress_total, s.progress_note) as progress
    from df.running_steps s
    where s.instance_id = p_instance and s.progress_done is not null
  ) r on r.node_id = n.id
  where n.instance_id = p_instance
$$;

-- The configuration in the query of a node that has one; NULL where there is none.
-- Granted to users.
create or replace function df_engine.node_config(p_type text, p_query text) returns jsonb
language sql immutable as $$
  select case when p_type <> 'SQL' then df_engine.json_or_null(p_query) end
$$;

-- The line under which a child is shown; NULL in a sequence.
-- Granted to users.
create or replace function df_engine.section(p_type text, p_place int) returns text
language sql immutable as $$
  select case
    when p_type = 'THEN' then null
    when p_type = 'WAIT_FOR' then '? until:'
    when p_type = 'MAP' then case p_place when 0 then '≡ items:' else '↻ each:' end
    when p_type = 'IF' then case p_place when 0 then '? condition:' when 1 then '✓ then:' else '✗ else:' end
    when p_type = 'LOOP' then case p_place when 0 then '? while:' else '↻ body:' end
    when p_type in ('CATCH', 'TIMEOUT') and p_place = 1 then '↳ body:'
    when p_type = 'UNDO' then case p_place when 1 then '↳ step:' else '↶ compensation:' end
    when p_type = 'CATCH' then '✗ handler:'
    when p_type = 'TIMEOUT' then '✗ otherwise:'
    else '║ branch ' || p_place || ':' end
$$;

-- The lines of the tree. A node's line is indent, lead and text; its sections are at indent and tail, and what belongs to
-- a section is two columns deeper. Sequences have no line: their elements follow each other at the same indent.
-- Granted to users.
create or replace function df_engine.draw_graph(p_instance text, p_graph jsonb) returns setof text
language sql set search_path = pg_catalog, pg_temp set jit = off set enable_nestloop = off as $$
  with recursive
  node as materialized (
    select d.*, c.children
    from df_engine.drawn_nodes(p_instance, p_graph) d
    left join (select e.parent, count(*)::int as children from df_engine.drawn_nodes(p_instance, p_graph) e group by e.parent) c
      on c.parent = d.node
  ),
  edge as materialized (
    select n.node as parent, n.node_type = 'THEN' as in_sequence,
           case when n.node_type = 'LOOP' and c.place = 0 then 3 else c.place end as place,
           df_engine.section(n.node_type, c.place) as section, c.node as child,
           n.node_type in ('JOIN', 'RACE', 'ANY') and c.place < max(c.place) over (partition by n.node) as goes_on
    from node n join node c on c.parent = n.node
  ),
  walk as (
    select n.node as id, '{}'::int[] as place, null as section, '' as indent, '' as lead, '    ' as tail
    from node n where n.parent is null
    union all
    select e.child, w.place || e.place,
           case when not e.in_sequence then w.indent || w.tail || e.section end,
           case when e.in_sequence then w.indent else w.indent || w.tail || '  ' end,
           case when not e.in_sequence then case when e.goes_on then '├─' else '└─' end
                when e.place = 1 then w.lead
                else '→ ' end,
           case when e.in_sequence then w.tail when e.goes_on then '│   ' else '    ' end
    from walk w join edge e on e.parent = w.id
  ),
  line as (
    select b.place, 1 as rank, b.section as line from walk b where b.section is not null
    union all
    select b.place, 2,
           b.indent || b.lead || df_engine.one_line(df_engine.node_text(n.node_type, n.query, n.config, n.children), null)
           || case when n.node_type = 'RACE' then '' else coalesce(' |=> ''' || n.result_name || '''', '') end
           || n.mark
    from walk b join node n on n.node = b.id
    where n.node_type <> 'THEN'
  )
  select l.line from line l order by l.place, l.rank
$$;

-- HTTP: the builders, and the checks of their arguments, which are made again when the step runs. A problem is a text that
-- says what is wrong, or NULL; it never holds a header's value.

-- Granted to users.
create or replace function df_engine.http_scheme_problem(p_url text) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select case when p_url ~* '^https?://' then null
    else format('unsupported URL scheme in "%s": a URL starts with http:// or https://',
                coalesce(substring(p_url from '^[^:/?#@]{1,100}'), '')) end
$$;

-- Granted to users.
create or replace function df_engine.http_method_problem(p_node_type text, p_method text) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select case when upper(p_method collate "C") = any (m.allowed) then null
    else format('Invalid HTTP method "%s": use %s', left(p_method, 100), array_to_string(m.allowed, ', ')) end
  from (select case p_node_type when 'HTTP' then array['GET', 'HEAD', 'POST', 'PUT', 'DELETE', 'PATCH']
                                else array['POST', 'PUT', 'PATCH'] end) m(allowed)
$$;

-- Says which header is wrong and why, never what its value is.
-- Granted to users.
create or replace function df_engine.http_headers_problem(p_headers jsonb) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select case when jsonb_typeof(p_headers) <> 'object' then 'headers must be a JSON object'
    else (
      select format('headers: "%s" %s', left(h.key, 100), c.problem)
      from jsonb_each(p_headers) h,
        lateral (select case
          when h.key !~ '^[!#$%&''*+.^_`|~0-9A-Za-z-]+$' then 'is not a valid header name'
          when lower(h.key collate "C") in ('host', 'content-length', 'transfer-encoding') then 'cannot be set'
          when jsonb_typeof(h.value) <> 'string' then 'must have a string as its value'
          when h.value #>> '{}' ~ '[\u0001-\u0008\u000a-\u001f\u007f]' then 'has a control character in its value'
        end) c(problem)
      where c.problem is not null
      limit 1) end
$$;

-- Granted to users.
create or replace function df_engine.http_parts_problem(p_parts jsonb) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select case when jsonb_typeof(p_parts) is distinct from 'array' or p_parts = '[]'
    then 'parts must be a non-empty JSON array of objects'
    else (
      select format('parts: part %s: %s', p.n, c.problem)
      from jsonb_array_elements(p_parts) with ordinality p(part, n),
        lateral (select case
          when jsonb_typeof(part) <> 'object' then 'is not an object'
          when jsonb_typeof(part->'name') is distinct from 'string' or part->>'name' = '' then
            'name must be a non-empty string'
          when jsonb_typeof(part->'data_b64') is distinct from 'string' then 'data_b64 must be a string of base64'
          when jsonb_typeof(part->'filename') not in ('string', 'null') then 'filename must be a string'
          when jsonb_typeof(part->'content_type') not in ('string', 'null') then 'content_type must be a string'
          when concat(part->>'name', part->>'filename', part->>'content_type') ~ '[\r\n]' then
            'name, filename and content_type must not contain line breaks'
          when part->>'content_type' ~ '[\u0001-\u001f\u007f]' then 'content_type contains a control character'
        end) c(problem)
      where c.problem is not null
      order by p.n limit 1) end
$$;

-- Granted to users.
create or replace function df_engine.http_expect_problem(p_expect jsonb) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select case when p_expect not in ('"ok"', 'null') then
    format('expect must be ''ok'' or NULL, and is %s', left(p_expect::text, 100)) end
$$;

-- What the two builders check; df.http_multipart adds its parts.
-- Granted to users.
create or replace function df_engine.check_http(
  p_node_type text, p_function text, p_url text, p_method text, p_headers jsonb, p_timeout_seconds int,
  p_expect text) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_problem text;
begin
  if p_url is null or p_method is null or p_timeout_seconds is null then
    raise exception 'argument % of % is NULL',
      case when p_url is null then 'url' when p_method is null then 'method' else 'timeout_seconds' end, p_function
      using errcode = 'null_value_not_allowed', hint = 'Of the arguments only body, headers and expect may be NULL.';
  end if;
  if df_engine.setting('http_mode') = 'off' then
    raise exception '%() is disabled: http_mode is off', p_function
      using errcode = 'object_not_in_prerequisite_state';
  end if;
  v_problem := coalesce(
    case when p_url ~ '^\$[A-Za-z_]' or position('{' in replace(p_url, '{secret:', '')) = 0 then df_engine.http_scheme_problem(p_url) end,
    df_engine.secret_problem(jsonb_build_object('url', p_url)),
    df_engine.http_method_problem(p_node_type, p_method),
    case when p_timeout_seconds < 1 then 'Timeout must be positive'
         when p_timeout_seconds > df_engine.setting_number('http_max_timeout') then
           'timeout_seconds must not exceed http_max_timeout' end,
    df_engine.http_headers_problem(p_headers), df_engine.http_expect_problem(to_jsonb(p_expect)));
  if v_problem is not null then
    raise exception '%: %', p_function, v_problem using errcode = 'invalid_parameter_value';
  end if;
end
$$;

-- JSON text without blanks, in the order of the contract.
-- Granted to users.
create or replace function df_engine.http_headers_text(p_headers jsonb) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select case when p_headers is null then 'null'
    else '{' || coalesce((select string_agg(to_json(key) || ':' || value, ',') from jsonb_each(p_headers)), '') || '}' end
$$;

-- Granted to users.
create or replace function df_engine.http_parts_text(p_parts jsonb) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select '[' || string_agg('{' || f.fields || '}', ',' order by p.n) || ']'
  from jsonb_array_elements(p_parts) with ordinality p(part, n),
    lateral (select string_agg(to_json(k.key) || ':' || (p.part->k.key), ',' order by k.n)
             from unnest(array['name', 'filename', 'content_type', 'data_b64']) with ordinality k(key, n)
             where p.part->>k.key is not null) f(fields)
$$;

-- Granted to users.
create or replace function df_engine.http_node(
  p_node_type text, p_url text, p_method text, p_content text, p_headers jsonb, p_timeout_seconds int,
  p_expect text) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select format('{"node_type":"%s","query":%s}', p_node_type, to_json(format(
    '{"url":%s,"method":%s,%s,"headers":%s,"timeout_seconds":%s%s}', to_json(p_url),
    to_json(upper(p_method collate "C")), p_content, df_engine.http_headers_text(p_headers), p_timeout_seconds,
    ',"expect":' || to_json(p_expect))))
$$;

create or replace function df.http(
  url text, method text default 'POST', body text default null, headers jsonb default null,
  timeout_seconds integer default 30, expect text default null) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if not (pg_catalog.has_schema_privilege('df_engine', 'usage')
          and pg_catalog.has_table_privilege('df_engine.own_key', 'select')) then
    raise exception 'permission denied: role "%" may not use pg_durable', current_user
      using errcode = 'insufficient_privilege',
            hint = pg_catalog.format('An administrator grants it: SELECT df.grant_usage(%L);', current_user);
  end if;
  perform df_engine.check_http('HTTP', 'df.http', url, method, headers, timeout_seconds, expect);
  return df_engine.http_node('HTTP', url, method, '"body":' || coalesce(to_json(body)::text, 'null'), headers,
                             timeout_seconds, expect);
end
$$;
comment on function df.http(text, text, text, jsonb, integer, text) is
  'A step that makes an HTTP request; {name} and $name are replaced in url, body and header values. a secret goes where df.secret(name) stands. The result has status, body, encoding, headers, ok and duration_ms. expect ''ok'': a status outside of 200 to 299 fails the step. Raises on a bad URL scheme, method, time-out or header';

create or replace function df.http_multipart(
  url text, method text default 'POST', parts jsonb default null, headers jsonb default null,
  timeout_seconds integer default 30, expect text default null) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_problem text;
begin
  if not (pg_catalog.has_schema_privilege('df_engine', 'usage')
          and pg_catalog.has_table_privilege('df_engine.own_key', 'select')) then
    raise exception 'permission denied: role "%" may not use pg_durable', current_user
      using errcode = 'insufficient_privilege',
            hint = pg_catalog.format('An administrator grants it: SELECT df.grant_usage(%L);', current_user);
  end if;
  perform df_engine.check_http('HTTP_MULTIPART', 'df.http_multipart', url, method, headers, timeout_seconds, expect);
  v_problem := coalesce(df_engine.http_parts_problem(parts), df_engine.secret_problem(jsonb_build_object('parts', parts)));
  if v_problem is not null then
    raise exception 'df.http_multipart: %', v_problem
      using errcode = case when parts is null then 'null_value_not_allowed' else 'invalid_parameter_value' end;
  end if;
  return df_engine.http_node('HTTP_MULTIPART', url, method, '"parts":' || df_engine.http_parts_text(parts), headers,
                             timeout_seconds, expect);
end
$$;
comment on function df.http_multipart(text, text, jsonb, jsonb, integer, text) is
  'A step that uploads multipart/form-data; parts is an array of objects with name, data_b64 and, if wanted, filename and content_type. The result and expect are those of df.http. Raises on bad arguments';

revoke execute on function df.http(text, text, text, jsonb, integer, text),
  df.http_multipart(text, text, jsonb, jsonb, integer, text) from public;

-- The HTTP allow-list: what its entries may be, how administrators change it, and whether it lets a host pass.

-- An address in its one plain spelling: inet_aton would read 010.0.0.1 as octal where inet does not, so neither may.
create or replace function df_engine.plain_address(p_text text) returns inet
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  if p_text ~ '(^|\.)0[0-9]' or p_text ~ '[^0-9a-f:.]' then
    return null;
  end if;
  return p_text::inet;
exception when data_exception then
  return null;
end
$$;

-- What resolvers may take for an address: it has a colon, or its last label is a number.
create or replace function df_engine.address_like(p_host text) returns boolean
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select p_host ~ ':' or p_host ~ '(^|\.)(0x[0-9a-f]*|[0-9]+)\.?$'
$$;

-- An address, a host name, or a suffix with its leading dot.
create or replace function df_engine.http_host_valid(p_host text) returns boolean
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select case when df_engine.address_like(p_host) then df_engine.plain_address(p_host) is not null
    else p_host ~ '^\.?[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*$' end
$$;

-- An entry of the allow-list, taken apart; no host when it is not a valid one.
create or replace function df_engine.http_pattern(p_pattern text, out host text, out port int)
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  v_part text[] := case when p_pattern ~ '^[0-9a-f.]*:[0-9a-f.]*:' then array[p_pattern]
    else regexp_match(p_pattern, '^(\[[0-9a-f.]*:[0-9a-f:.]*\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?$') end;
begin
  host := btrim(v_part[1], '[]');
  port := v_part[2]::int;
  if not df_engine.http_host_valid(host) or port not between 1 and 65535 then
    host := null;
  end if;
end
$$;

-- NULL: no entry matches; else whether one that does lets the host be at a private address.
create or replace function df_engine.http_allowed(p_host text, p_port int, p_address inet) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select bool_or(a.allow_private)
  from df_engine.http_allowlist a, df_engine.http_pattern(a.pattern) p
  where coalesce(p.port, p_port) = p_port
    and case when df_engine.address_like(p_host) then
               df_engine.address_like(p.host) and df_engine.plain_address(p.host) = p_address
             when left(p.host, 1) = '.' then
               right(p_host, length(p.host)) = p.host and length(p_host) > length(p.host)
             else p.host = p_host end
$$;

create or replace function df.http_allow(pattern text, allow_private boolean default false, note text default null)
returns text language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_pattern text := lower(http_allow.pattern collate "C");
begin
  if http_allow.pattern is null or http_allow.allow_private is null then
    raise exception 'df.http_allow: pattern and allow_private must not be NULL'
      using errcode = 'null_value_not_allowed';
  end if;
  if (df_engine.http_pattern(v_pattern)).host is null then
    raise exception 'df.http_allow: invalid pattern "%"', http_allow.pattern
      using errcode = 'invalid_parameter_value',
            hint = 'Give a host (api.example.com), a suffix (.example.com) or an address, each with :port if wanted; '
                   'no scheme, no path, no wildcard.';
  end if;
  insert into df_engine.http_allowlist as a values (v_pattern, http_allow.allow_private, http_allow.note)
  on conflict on constraint http_allowlist_pkey
    do update set allow_private = excluded.allow_private, note = excluded.note;
  return 'OK';
end
$$;
comment on function df.http_allow(text, boolean, text) is
  'Lets HTTP steps reach a host, a suffix (.example.com) or an address, each with :port if wanted; allow_private also lets it resolve to private addresses. Returns OK; raises on an invalid pattern';

create or replace function df.http_disallow(pattern text) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if http_disallow.pattern is null then
    raise exception 'df.http_disallow: pattern must not be NULL' using errcode = 'null_value_not_allowed';
  end if;
  delete from df_engine.http_allowlist a where a.pattern = lower(http_disallow.pattern collate "C");
  return 'OK';
end
$$;
comment on function df.http_disallow(text) is 'Removes an entry of the HTTP allow-list; OK even if there was none';

revoke execute on function df.http_allow(text, boolean, text), df.http_disallow(text) from public;

-- What the worker is given to send, and what came of it. Policy is decided here, when the step runs; the worker filters
-- addresses and moves bytes. Refusals have SQLSTATE DF020 and are never tried again.

-- The authority of a URL, read strictly: no host when it has anything that two parsers could read differently.
-- The worker connects to nothing else: it refuses a URL whose host or port it reads otherwise.
create or replace function df_engine.http_target(p_url text, out host text, out port int, out literal boolean,
                                                 out address inet)
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  v_part text[] := regexp_match(p_url, '^(https?)://(?:[^\u0001-\u0020\u007f/?#\\]*@)?'
                                       '(\[[0-9a-f.]*:[0-9a-f:.]*\]|[a-z0-9._-]+)(?::([0-9]{1,5})?)?(?:[/?#]|$)', 'i');
begin
  host := lower(btrim(v_part[2], '[]') collate "C");
  port := coalesce(v_part[3]::int, case lower(v_part[1] collate "C") when 'https' then 443 else 80 end);
  literal := df_engine.address_like(host);
  address := case when literal then df_engine.plain_address(host) end;
  if port not between 1 and 65535 then
    host := null;
  end if;
end
$$;

create or replace function df_engine.http_target_problem(p_url text, p_mode text) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select case
    when p_mode = 'any' then
      case when t.host is null or left(t.host, 1) = '.' or not df_engine.http_host_valid(t.host) then
        'Blocked: the host of the URL is restricted: it is neither a plain host name nor a plain address' end
    when t.host is null then 'the host of the URL is not in the allowed hosts: it is not a plain host name'
    when df_engine.http_allowed(t.host, t.port, t.address) is not null then null
    when t.literal then format('the bare IP address "%s" is not in the allowed hosts of df.http_allowlist', t.host)
    else format('host "%s" (port %s) is not in the allowed hosts of df.http_allowlist', t.host, t.port) end
  from df_engine.http_target(p_url) t
$$;

create or replace function df_engine.http_privilege_problem(p_node_type text, p_submitter regrole) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select format('role %s does not have EXECUTE privilege on %s', p_submitter, f.name)
  from (select case p_node_type when 'HTTP' then 'df.http' else 'df.http_multipart' end,
               case p_node_type when 'HTTP' then 'df.http(text, text, text, jsonb, integer, text)'
                                else 'df.http_multipart(text, text, jsonb, jsonb, integer, text)' end) f(name, signature)
  where not has_function_privilege(p_submitter, f.signature::regprocedure, 'execute')
$$;

-- Decoded length; NULL when it is not base64.
create or replace function df_engine.base64_length(p_text text) returns int
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  return octet_length(decode(p_text, 'base64'));
exception when data_exception then
  return null;
end
$$;

-- Body or parts: their shape, and their size against http_max_request_bytes.
create or replace function df_engine.http_content_problem(p_node_type text, p_config jsonb) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_problem text := case when p_node_type = 'HTTP_MULTIPART' then df_engine.http_parts_problem(p_config->'parts')
                         when jsonb_typeof(p_config->'body') not in ('string', 'null') then 'body must be a string' end;
  v_bytes bigint;
  v_bad int;
begin
  if v_problem is not null then
    return v_problem;
  end if;
  if p_node_type = 'HTTP' then
    v_bytes := octet_length(p_config->>'body');
  else
    select sum(l.bytes), min(n) filter (where l.bytes is null)
    into v_bytes, v_bad
    from jsonb_array_elements(p_config->'parts') with ordinality p(part, n),
      lateral (select case when df_engine.is_secret(part->>'data_b64') and part->>'data_b64' like '%:' || (p_config->>'mark') || '}' then 0
                           else df_engine.base64_length(part->>'data_b64') end) l(bytes);
  end if;
  return case
    when v_bad is not null then format('parts: part %s: data_b64 is not valid base64', v_bad)
    when v_bytes > df_engine.setting_number('http_max_request_bytes') then
      format('the request has %s bytes, more than http_max_request_bytes allows', v_bytes) end;
end
$$;

-- Every check of the contract but the address filter, in its order; NULL when the request may be made.
create or replace function df_engine.http_refusal(p_node_type text, p_config jsonb, p_submitter regrole) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select coalesce(
    df_engine.http_privilege_problem(p_node_type, p_submitter),
    df_engine.http_scheme_problem(coalesce(p_config->>'url', '')),
    case when m.mode = 'off' then 'outbound HTTP requests are disabled: http_mode is off' end,
    df_engine.http_target_problem(p_config->>'url', m.mode),
    df_engine.http_headers_problem(nullif(p_config->'headers', 'null')),
    df_engine.http_method_problem(p_node_type, coalesce(p_config->>'method', 'POST')),
    case when jsonb_typeof(p_config->'timeout_seconds') not in ('number', 'null') then 'timeout_seconds must be a number'
         when (p_config->>'timeout_seconds')::numeric < 1 then 'Timeout must be positive' end,
    df_engine.http_expect_problem(p_config->'expect'),
    df_engine.http_content_problem(p_node_type, p_config))
  from (select df_engine.setting('http_mode')) m(mode)
$$;

-- The headers to send: the caller's, and ours where the caller set none of that name.
create or replace function df_engine.http_headers(p_node_type text, p_headers jsonb, p_idempotency_key text, p_traceparent text)
returns jsonb language sql immutable set search_path = pg_catalog, pg_temp as $$
  select coalesce(jsonb_object_agg(h.name, h.value), '{}')
  from (
    select key, value from jsonb_each_text(p_headers)
    where p_node_type = 'HTTP' or lower(key collate "C") <> 'content-type'
    union all
    select d.name, d.value
    from (values ('User-Agent', 'pg_durable/1.0.0'), ('Idempotency-Key', p_idempotency_key),
                 ('traceparent', p_traceparent)) d(name, value)
    where d.value is not null
      and lower(d.name) <> all (select lower(key collate "C") from jsonb_object_keys(p_headers) key)
  ) h(name, value)
$$;

-- What the worker is to send, from a config after substitution. p_context: idempotency_key, traceparent, and retry_on of the step.
-- secrets and mark: which secrets the worker is to put in, and where.
create or replace function df_engine.http_request(
  p_node_type text, p_config jsonb, p_submitter regrole, p_context jsonb default '{}') returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_refusal text := df_engine.http_refusal(p_node_type, p_config, p_submitter);
begin
  if v_refusal is not null then
    raise exception '%', v_refusal using errcode = 'DF020';
  end if;
  return (
    select jsonb_build_object(
      'url', p_config->'url',
      'method', upper(coalesce(p_config->>'method', 'POST') collate "C"),
      'headers', df_engine.http_headers(p_node_type, coalesce(nullif(p_config->'headers', 'null'), '{}'),
                                        p_context->>'idempotency_key', p_context->>'traceparent'),
      'body', case p_node_type when 'HTTP' then p_config->'body' end,
      'parts', case p_node_type when 'HTTP_MULTIPART' then p_config->'parts' end,
      'timeout_seconds', least(coalesce((p_config->>'timeout_seconds')::numeric, 30),
                               df_engine.setting_number('http_max_timeout')),
      'max_response_bytes', df_engine.setting_number('http_max_response_bytes'),
      'max_result_bytes', df_engine.setting_number('max_result_bytes'),
      'host', t.host,
      'port', t.port,
      'allow_private', coalesce(df_engine.http_allowed(t.host, t.port, t.address), false),
      'error_statuses', (select coalesce(jsonb_agg(substr(e, 6)), '[]')
                         from jsonb_array_elements_text(nullif(p_context->'retry_on', 'null')) e
                         where e like 'http:%')
                        || case p_config->>'expect' when 'ok' then '["1xx", "3xx", "4xx", "5xx"]' else '[]' end::jsonb)
      || case when p_config ? 'mark' then jsonb_build_object('mark', p_config->'mark', 'secrets', p_config->'secrets')
              else '{}' end
    from df_engine.http_target(p_config->>'url') t);
end
$$;

-- Whether an HTTP error of a class (connection, timeout, http:503, refused) may be tried again; without retry_on all but
-- refusals may.
create or replace function df_engine.http_retryable(p_class text, p_retry_on text[]) returns boolean
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select p_class is not null and p_class <> 'refused' and (p_retry_on is null or df_engine.error_listed(p_retry_on, null, p_class))
$$;

-- References in HTTP nodes: the places in which they are replaced, and how.

-- A node's query as JSON; hand-written envelopes may hold anything there.
create or replace function df_engine.http_config(p_node_type text, p_query text) returns jsonb
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  v_config jsonb := df_engine.json_or_null(p_query);
begin
  if jsonb_typeof(v_config) is distinct from 'object' then
    raise exception 'malformed % node: query must be a JSON object', p_node_type using errcode = 'DF020';
  end if;
  return v_config;
end
$$;

-- The texts of a config in which references are replaced, with the mode of replacement.
create or replace function df_engine.http_texts(p_node_type text, p_config jsonb)
returns table (mode text, value text) language sql immutable set search_path = pg_catalog, pg_temp as $$
  select 'raw', p_config->>'url'
  union all
  select 'raw', p_config->>'body' where p_node_type = 'HTTP'
  union all
  select 'raw', h.value
  from jsonb_each_text(case when jsonb_typeof(p_config->'headers') = 'object' then p_config->'headers' end) h
  union all
  select f.mode, f.value
  from jsonb_array_elements(case when jsonb_typeof(p_config->'parts') = 'array' then p_config->'parts' end) part,
    lateral (values ('raw', part->>'name'), ('raw', part->>'filename'), ('whole', part->>'data_b64')) f(mode, value)
  where p_node_type = 'HTTP_MULTIPART' and not (f.mode = 'whole' and df_engine.is_secret(f.value))
$$;

-- The names that a node's texts refer to, once variables are in: those whose values render_http needs.
create or replace function df_engine.http_names(p_node_type text, p_query text, p_vars jsonb) returns text[]
language sql stable set search_path = pg_catalog, pg_temp as $$
  select array_agg(distinct n)
  from df_engine.http_texts(p_node_type, df_engine.http_config(p_node_type, p_query)) t,
    unnest(df_engine.template_names(df_engine.render_vars(t.value, t.mode, p_vars), t.mode)) n
  where t.value is not null
$$;

-- One JSON string with its references replaced; anything else as it is.
create or replace function df_engine.render_string(
  p_value jsonb, p_mode text, p_vars jsonb, p_names jsonb, p_known text[]) returns jsonb
language sql stable set search_path = pg_catalog, pg_temp as $$
  select case when jsonb_typeof(p_value) = 'string' then
      to_jsonb(df_engine.render_names(df_engine.render_vars(p_value #>> '{}', p_mode, p_vars), p_mode, p_names, p_known))
    else p_value end
$$;

create or replace function df_engine.render_headers(p_headers jsonb, p_vars jsonb, p_names jsonb, p_known text[])
returns jsonb language sql stable set search_path = pg_catalog, pg_temp as $$
  select case when jsonb_typeof(p_headers) = 'object' then (
      select coalesce(jsonb_object_agg(key, df_engine.render_string(value, 'raw', p_vars, p_names, p_known)), '{}')
      from jsonb_each(p_headers))
    else p_headers end
$$;

create or replace function df_engine.render_parts(p_parts jsonb, p_vars jsonb, p_names jsonb, p_known text[])
returns jsonb language sql stable set search_path = pg_catalog, pg_temp as $$
  select case when jsonb_typeof(p_parts) = 'array' then (
      select coalesce(jsonb_agg(case when jsonb_typeof(part) = 'object' then part || jsonb_build_object(
               'name', df_engine.render_string(part->'name', 'raw', p_vars, p_names, p_known),
               'filename', df_engine.render_string(part->'filename', 'raw', p_vars, p_names, p_known),
               'data_b64', case when df_engine.is_secret(part->>'data_b64') then part->'data_b64'
                                else df_engine.render_string(part->'data_b64', 'whole', p_vars, p_names, p_known) end)
             else part end order by n), '[]')
      from jsonb_array_elements(p_parts) with ordinality p(part, n))
    else p_parts end
$$;

create or replace function df_engine.render_http(
  p_node_type text, p_query text, p_vars jsonb, p_names jsonb, p_known text[]) returns jsonb
language sql stable set search_path = pg_catalog, pg_temp as $$
  select c.config || jsonb_build_object(
      'url', df_engine.render_string(c.config->'url', 'raw', p_vars, p_names, p_known),
      'headers', df_engine.render_headers(c.config->'headers', p_vars, p_names, p_known))
    || case p_node_type
         when 'HTTP' then jsonb_build_object(
           'body', df_engine.render_string(c.config->'body', 'raw', p_vars, p_names, p_known))
         else jsonb_build_object('parts', df_engine.render_parts(c.config->'parts', p_vars, p_names, p_known)) end
  from df_engine.http_config(p_node_type, p_query) c(config)
$$;

-- Administration: who may use pg_durable, and who may be its worker. df.grant_usage and df.revoke_usage act with the
-- caller's own privileges, so that they can be delegated; df.grant_worker and df.revoke_worker act as the owner.



-- What every user holds: the first half of a GRANT or REVOKE each. Private objects are named where they stand, by a comment that says
-- that they are granted to users.
-- Granted to users.
create or replace function df_engine.usage_privileges() returns text[]
language sql stable set search_path = pg_catalog, pg_temp as $$
  select array['usage on schema df, df_engine']
    || array(select 'select on ' || c.oid::regclass from pg_class c
             where c.relkind = 'v' and (c.relnamespace = 'df'::regnamespace
               or c.relnamespace = 'df_engine'::regnamespace and c.relname = any (array['own_key', 'visible_acts', 'visible_definitions', 'visible_events', 'visible_executions', 'visible_inbox', 'visible_nodes', 'visible_outcomes', 'visible_runs', 'visible_standstill', 'visible_texts', 'visible_timeline']))
             order by c.relname)
    || df_engine.execute_privileges(array['add_end_channel', 'as_json', 'await_end', 'backfill', 'bare_sql', 'begin_test', 'block_problem', 'brace_problem', 'call_problem', 'called_graph', 'cancel_run', 'cause', 'chain_shape', 'change_secret', 'change_vars', 'check_awaitable', 'check_http', 'check_page_size', 'check_start_key', 'check_start_time', 'check_test', 'check_visit', 'child_nodes', 'claim_next', 'claim_step', 'column_names', 'columns_of', 'config_problem', 'cron_next', 'current_execution', 'deadline', 'decode_cursor', 'deferred_constraints', 'define_flow', 'definition_to_show', 'draw_graph', 'drawn_nodes', 'encode_cursor', 'end_step_in_test', 'end_test', 'evaluate_expression', 'execute_privileges', 'explain', 'explain_graph', 'explain_kind', 'explain_run', 'fail_step', 'final_names', 'fire_own', 'flow_comments', 'flow_layout', 'flow_nodes', 'fold_states', 'forget_run', 'generations_key', 'graph_text', 'group_limit', 'hide_definition', 'http_expect_problem', 'http_headers_problem', 'http_headers_text', 'http_method_problem', 'http_node', 'http_parts_problem', 'http_parts_text', 'http_scheme_problem', 'insert_instance', 'json_or_null', 'key_generations', 'launch', 'lock_own_run', 'malformed', 'map_problem', 'may_act_on_all', 'may_see_all', 'milliseconds', 'missing_run_hint', 'next_in_test', 'no_rows', 'node_config', 'node_id', 'node_of', 'node_problem', 'node_text', 'note_helper', 'now_in_test', 'one_line', 'other_kind', 'padded', 'page_cap', 'page_of_instances', 'parse_graph', 'path_step', 'pause_run', 'pause_schedule', 'prepare_step', 'progress_text', 'put_schedule', 'read_expression', 'read_reference', 'ready_time', 'record_step', 'refuse_definition', 'reject_in_workflow', 'reject_node', 'remove_schedule', 'renamed_rows', 'request_text', 'require_grantable', 'rerun', 'result_types', 'resume_run', 'resume_schedule', 'retry_problem', 'row_set', 'run_block', 'run_head', 'run_in_test', 'run_output', 'run_statement', 'run_test', 'said_of_commit', 'seconds', 'secret_problem', 'section', 'send_signal', 'set_step_settings', 'setting', 'setting_number', 'setting_on', 'shape_problem', 'short_steps', 'shown_query', 'size_problem', 'skip', 'sleep_problem', 'stamp', 'start_keyed', 'start_new', 'statements_of', 'statements_problem', 'status_icon', 'trigger_schedule', 'unknown_type', 'usage_privileges', 'visible_run', 'wait_for_problem', 'wake_idle_workers', 'walk', 'work', 'worker_problem'])
$$;

-- Granted to users.
create or replace function df_engine.execute_privileges(p_names text[]) returns text[]
language sql stable set search_path = pg_catalog, pg_temp as $$
  select array(select 'execute on routine ' || p.oid::regprocedure from pg_proc p
               where p.pronamespace = 'df_engine'::regnamespace and p.proname = any (p_names) order by p.proname)
$$;

-- GRANT only warns a caller who holds a privilege without its grant option; df.grant_usage must fail.
-- Granted to users.
create or replace function df_engine.require_grantable(p_routine regprocedure) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  if not has_function_privilege(p_routine, 'execute with grant option') then
    raise exception 'role "%" may not grant EXECUTE on %', current_user, p_routine::text
      using errcode = 'insufficient_privilege';
  end if;
end
$$;

create or replace function df.grant_usage(p_role text, include_http boolean default false,
  with_grant boolean default false) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_option text := case when with_grant then ' with grant option' else '' end;
  v_routines text[] := case when include_http then array['df.http(text, text, text, jsonb, integer, text)', 'df.http_multipart(text, text, jsonb, jsonb, integer, text)'] else '{}' end
                       || case when with_grant then array['df.grant_usage(text, boolean, boolean)', 'df.revoke_usage(text)', 'df.metrics()'] else '{}' end;
  v_routine text;
  v_privilege text;
begin
  if not (pg_catalog.has_schema_privilege('df_engine', 'usage')
          and pg_catalog.has_table_privilege('df_engine.own_key', 'select')) then
    raise exception 'permission denied: role "%" may not use pg_durable', current_user
      using errcode = 'insufficient_privilege',
            hint = pg_catalog.format('An administrator grants it: SELECT df.grant_usage(%L);', current_user);
  end if;
  if p_role is null or include_http is null or with_grant is null then
    raise exception 'df.grant_usage: arguments must not be NULL' using errcode = 'null_value_not_allowed';
  end if;
  foreach v_routine in array v_routines loop
    perform df_engine.require_grantable(v_routine::regprocedure);
  end loop;
  foreach v_privilege in array df_engine.usage_privileges() loop
    execute format('grant %s to %I%s', v_privilege, p_role, v_option);
  end loop;
  foreach v_routine in array v_routines loop
    execute format('grant execute on function %s to %I%s', v_routine, p_role, v_option);
  end loop;
  raise notice 'granted usage of pg_durable to %', quote_ident(p_role);
  if exists (select from pg_roles r where r.rolname = p_role and r.rolbypassrls and not r.rolsuper
      and (pg_has_role(r.oid, 'pg_read_all_data', 'usage') or pg_has_role(r.oid, 'pg_write_all_data', 'usage'))) then
    raise warning 'role % reads or writes the runs of all roles', quote_ident(p_role)
      using detail = 'It has BYPASSRLS and is a member of pg_read_all_data or pg_write_all_data: PostgreSQL lets nobody refuse that.',
            hint = 'Let another role submit and serve runs, or take one of the two away.';
  end if;
end
$$;
comment on function df.grant_usage(text, boolean, boolean) is
  'Lets a role (or public) use pg_durable, HTTP steps too with include_http, and pass its rights on with with_grant. Grants '
  'with the caller''s own privileges; adds to what the role has; raises when the caller lacks one';

create or replace function df.revoke_usage(p_role text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_routine text;
  v_privilege text;
begin
  if not (pg_catalog.has_schema_privilege('df_engine', 'usage')
          and pg_catalog.has_table_privilege('df_engine.own_key', 'select')) then
    raise exception 'permission denied: role "%" may not use pg_durable', current_user
      using errcode = 'insufficient_privilege',
            hint = pg_catalog.format('An administrator grants it: SELECT df.grant_usage(%L);', current_user);
  end if;
  if p_role is null then
    raise exception 'df.revoke_usage: p_role must not be NULL' using errcode = 'null_value_not_allowed';
  end if;
  foreach v_routine in array array['df.http(text, text, text, jsonb, integer, text)', 'df.http_multipart(text, text, jsonb, jsonb, integer, text)', 'df.grant_usage(text, boolean, boolean)', 'df.revoke_usage(text)', 'df.metrics()', 'df_engine.monitor()'] loop
    if has_function_privilege(v_routine::regprocedure, 'execute with grant option') then
      execute format('revoke execute on function %s from %I cascade', v_routine, p_role);
    end if;
  end loop;
  foreach v_privilege in array df_engine.usage_privileges() loop
    execute format('revoke %s from %I cascade', v_privilege, p_role);
  end loop;
  raise notice 'revoked usage of pg_durable from %', quote_ident(p_role);
end
$$;
comment on function df.revoke_usage(text) is
  'Takes back what df.grant_usage grants, as far as the caller granted it, and from whom the role passed it on to. The '
  'role''s unfinished runs stop at their next step';

create or replace function df.grant_monitor(p_role text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_privilege text;
begin
  if p_role is null then
    raise exception 'df.grant_monitor: p_role must not be NULL' using errcode = 'null_value_not_allowed';
  end if;
  perform quote_ident(p_role)::regrole;
  foreach v_privilege in array df_engine.usage_privileges() || array['execute on function df_engine.monitor()'] loop
    execute format('grant %s to %I', v_privilege, p_role);
  end loop;
end
$$;
comment on function df.grant_monitor(text) is
  'Lets a role and its members see the runs of all roles, with texts, inputs, variables and results, and no secrets. It may use pg_durable like any user, and change the runs of others as little. What other sessions do PostgreSQL shows to members of pg_read_all_stats. For administrators';

create or replace function df.revoke_monitor(p_role text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if p_role is null then
    raise exception 'df.revoke_monitor: p_role must not be NULL' using errcode = 'null_value_not_allowed';
  end if;
  execute format('revoke execute on function df_engine.monitor() from %I', p_role);
end
$$;
comment on function df.revoke_monitor(text) is
  'Takes back what df.grant_monitor lets a role see. It stays a user until df.revoke_usage. For administrators';

-- What a worker role holds beyond its row in df_engine.worker_roles.
create or replace function df_engine.worker_privileges() returns text[]
language sql stable set search_path = pg_catalog, pg_temp as $$
  select array['usage on schema df, df_engine'] || df_engine.execute_privileges(array['claim_leased', 'clear_crash_scores', 'complete_leased', 'deadline', 'fail_orphans', 'fail_stopped', 'failed_since', 'fire_due', 'heartbeat', 'leased_secrets', 'listen_for_work', 'mark_running', 'next_due_ms', 'note_progress', 'raise_crash_score', 'reclaim_leases', 'register_worker', 'release_leased', 'retain', 'role_reachable', 'role_unreachable', 'role_waits', 'run_metrics', 'say_idle', 'tick', 'tick_limits', 'unregister_worker', 'work_list'])
$$;

create or replace function df.grant_worker(p_role text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_privilege text;
begin
  if p_role is null then
    raise exception 'df.grant_worker: p_role must not be NULL' using errcode = 'null_value_not_allowed';
  end if;
  insert into df_engine.worker_roles (role) values (quote_ident(p_role)::regrole) on conflict do nothing;
  foreach v_privilege in array df_engine.worker_privileges() loop
    execute format('grant %s to %I', v_privilege, p_role);
  end loop;
end
$$;
comment on function df.grant_worker(text) is
  'Authorises a role as worker role: trusted with the bookkeeping of all runs, not with anybody''s tables';

create or replace function df.revoke_worker(p_role text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_privilege text;
begin
  if p_role is null then
    raise exception 'df.revoke_worker: p_role must not be NULL' using errcode = 'null_value_not_allowed';
  end if;
  delete from df_engine.worker_roles w where w.role = quote_ident(p_role)::regrole;
  foreach v_privilege in array df_engine.worker_privileges() loop
    execute format('revoke %s from %I', v_privilege, p_role);
  end loop;
end
$$;
comment on function df.revoke_worker(text) is 'Takes the rights of a worker role back. Grant usage again if it is also a user';

revoke execute on function df.grant_usage(text, boolean, boolean), df.revoke_usage(text), df.metrics(),
  df.grant_monitor(text), df.revoke_monitor(text), df.grant_worker(text), df.revoke_worker(text) from public;

-- Gives those who already are users and workers what a new version has added to the private objects.
create or replace function df_engine.renew_grants() returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_user record;
  v_privilege text;
begin
  for v_user in
    select case when a.grantee = 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end as name,
           case when bool_or(a.is_grantable) then ' with grant option' else '' end as option
    from pg_class c, aclexplode(c.relacl) a
    where c.oid = 'df.instances'::regclass and a.privilege_type = 'SELECT' and a.grantee <> c.relowner
    group by a.grantee
  loop
    foreach v_privilege in array df_engine.usage_privileges() loop
      continue when v_privilege !~ ' on (routine )?df_engine\.';
      execute format('grant %s to %s%s', v_privilege, v_user.name, v_user.option);
    end loop;
  end loop;
  perform df.grant_worker(pg_get_userbyid(w.role)) from df_engine.worker_roles w
  where exists (select from pg_roles r where r.oid = w.role);
end
$$;

-- transaction_mode 'new': df.start on a second session, through dblink, so that the run survives a rollback of the caller.
-- That session must be the caller's own role and nobody else's, although it is opened by a definer function, in which
-- PostgreSQL does not tell who called: the caller's key does.

-- p_start: the arguments of df.start, as texts.
-- Granted to users.
create or replace function df_engine.start_new(p_start jsonb) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform df_engine.reject_in_workflow('start(..., transaction_mode => ''new'')');
  if not (select r.rolcanlogin from pg_roles r where r.rolname = current_user) then
    raise exception 'role "%" cannot submit instances: it has no LOGIN', current_user
      using errcode = 'object_not_in_prerequisite_state';
  elsif current_user <> session_user then
    raise exception 'transaction_mode ''new'' needs the session''s own role: this session is "%", and acts as "%"',
      session_user, current_user
      using errcode = 'object_not_in_prerequisite_state',
            hint = 'Use it neither after SET ROLE nor in a SECURITY DEFINER function.';
  end if;
  return df_engine.launch((select k.key from df_engine.own_key k), p_start);
end
$$;

-- The schema of dblink, quoted, and the connection string to this database as the session's role.
create or replace function df_engine.loopback(out dblink text, out conninfo text)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  select quote_ident(n.nspname) into dblink
  from pg_extension e join pg_namespace n on n.oid = e.extnamespace where e.extname = 'dblink';
  select nullif(btrim(s.value), '') into conninfo from df_engine.settings s where s.name = 'loopback_dsn';
  if dblink is null then
    raise exception 'transaction_mode ''new'' needs the extension dblink in database "%"', current_database()
      using errcode = 'object_not_in_prerequisite_state', hint = 'CREATE EXTENSION dblink;';
  elsif conninfo is null then
    raise exception 'transaction_mode ''new'' needs the setting loopback_dsn'
      using errcode = 'object_not_in_prerequisite_state',
            hint = 'For example: SELECT df.set_setting(''loopback_dsn'', ''host=/var/run/postgresql port=5432'');';
  end if;
  conninfo := format('connect_timeout=30 %s user=%s dbname=%s application_name=pg_durable_start', conninfo,
                     df_engine.conninfo_value(session_user), df_engine.conninfo_value(current_database()));
end
$$;

create or replace function df_engine.conninfo_value(p_value text) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select '''' || regexp_replace(p_value, '([''\\])', '\\\1', 'g') || ''''
$$;

-- Takes a launch slot: locks its row, until the subtransaction of the caller ends.
create or replace function df_engine.take_launch_slot() returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_slots int := df_engine.setting_number('max_new_transaction_starts');
  v_seconds numeric := df_engine.setting_number('new_transaction_start_timeout');
  v_deadline timestamptz := clock_timestamp() + v_seconds * interval '1 s';
begin
  loop
    perform from df_engine.launch_slots s where s.slot <= v_slots limit 1 for update skip locked;
    if found then
      return;
    elsif clock_timestamp() >= v_deadline then
      raise exception 'Timed out after %s waiting for a launch slot (max_new_transaction_starts=%)',
        trim_scale(v_seconds), v_slots using errcode = 'program_limit_exceeded';
    end if;
    perform pg_sleep(0.1);
  end loop;
end
$$;

-- Starts the run on the second session, after a check that it is what it should be: the same role, and a session that sees this one,
-- by a name that nobody else has, hence in the same database of the same server.
create or replace function df_engine.start_on(p_dblink text, p_link text, p_start text) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_same boolean;
  v_id text;
begin
  execute format('select %s.dblink_exec($1::text, $2::text)', p_dblink)
  using p_link, format('set lock_timeout = ''30s''; set statement_timeout = ''30s''; set df.traceparent = %L',
                        coalesce(current_setting('df.traceparent', true), ''));
  execute format('select same from %s.dblink($1::text, $2::text) as t(same boolean)', p_dblink) into v_same
  using p_link, format(
    'select session_user = %1$L and current_user = %1$L and exists (
       select from pg_catalog.pg_stat_activity a
       where a.pid = %2$L and a.application_name = %3$L and a.usename = %1$L and a.datname = pg_catalog.current_database())',
    session_user, pg_backend_pid(), current_setting('application_name'));
  if v_same is not true then
    raise exception 'loopback_dsn does not lead to a session of role "%" in database "%" of this server',
      session_user, current_database() using errcode = 'object_not_in_prerequisite_state';
  end if;
  execute format('select id from %s.dblink($1::text, $2::text) as t(id text)', p_dblink) into v_id using p_link, p_start;
  return v_id;
end
$$;

-- Starts the run within a slot, which is free again when this has ended: the subtransaction that holds it is always rolled back.
-- Granted to users.
create or replace function df_engine.launch(p_key text, p_start jsonb) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_link constant text := 'pg_durable_start';
  v_loopback record;
  v_id text;
begin
  perform df_engine.require_key(p_key, quote_ident(session_user)::regrole);
  v_loopback := df_engine.loopback();
  begin
    perform df_engine.take_launch_slot();
    perform set_config('application_name', concat('pg_durable_start ', gen_random_uuid()), true);
    perform df_engine.open_link(v_loopback.dblink, v_link, v_loopback.conninfo);
    v_id := df_engine.start_on(v_loopback.dblink, v_link, format(
      'select df.start(fut => %L, label => %L, database => %L, input => %L, key => %L, on_conflict => %L, start_at => %L, priority => %L)',
      p_start ->> 'fut', p_start ->> 'label', p_start ->> 'database', p_start ->> 'input', p_start ->> 'key', p_start ->> 'on_conflict',
      p_start ->> 'start_at', p_start ->> 'priority'));
    raise exception 'started' using errcode = 'DF000';
  exception when others or query_canceled then
    perform df_engine.close_launch(v_loopback.dblink, v_link);
    if v_id is null or sqlstate <> 'DF000' then
      raise;
    end if;
  end;
  return v_id;
end
$$;

-- dblink lets only superusers connect without a password, unless the owner was given dblink_connect_u.
create or replace function df_engine.open_link(p_dblink text, p_link text, p_conninfo text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_unchecked regprocedure := format('%s.dblink_connect_u(text, text)', p_dblink)::regprocedure;
begin
  execute format('select %s.%s($1::text, $2::text)', p_dblink,
                 case when has_function_privilege(v_unchecked, 'execute') then 'dblink_connect_u'
                      else 'dblink_connect' end)
  using p_link, p_conninfo;
end
$$;

create or replace function df_engine.close_launch(p_dblink text, p_link text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  execute format('select %1$s.dblink_disconnect($1::text) where $1 = any (%1$s.dblink_get_connections())', p_dblink)
  using p_link;
end
$$;

-- Retention: removes runs that ended long ago, or that are not among the newest that their submitter keeps, and graphs that nobody
-- uses. A run that was called is kept as any other, but not beyond its caller, and not before that has its result: its caller goes after it. Called by every worker's tick; the row of df_engine.upkeep says when the last pass ended, and its lock lets one worker at a
-- time work on the next.

create or replace function df_engine.retention_due() returns boolean
language plpgsql volatile as $$
declare
  v_interval interval := df_engine.setting_number('reconcile_interval') * interval '1 s';
begin
  perform from df_engine.upkeep u
  where v_interval > interval '0' and u.retained_at + v_interval <= df_engine.clock() for update skip locked;
  return found;
end
$$;

-- For each submitter the end and number of the run from which on runs are outlived: too old, or too many. The index on (submitter,
-- finished_at) is read from its newest end.
create or replace function df_engine.retention_limits() returns table (submitter oid, finished_at timestamptz, instance bigint)
language plpgsql stable as $$
declare
  v_old constant timestamptz := df_engine.clock() - df_engine.setting_number('retention_days') * interval '1 day';
  v_max constant int := df_engine.setting_number('retention_max');
begin
  return query
    with recursive roles as (
      (select i.submitter as role from df_engine.instances i where i.finished_at is not null order by i.submitter limit 1)
      union all
      select (select i.submitter from df_engine.instances i
              where i.finished_at is not null and i.submitter > r.role order by i.submitter limit 1)
      from roles r where r.role is not null
    )
    select r.role, coalesce(k.finished_at, v_old), coalesce(k.instance, 0)
    from roles r
    left join lateral (
      select i.finished_at, i.instance from df_engine.instances i
      where i.submitter = r.role and i.finished_at >= v_old
      order by i.finished_at desc, i.instance desc offset v_max limit 1) k on true
    where r.role is not null;
end
$$;

-- Removes what runs have left, but for their outcomes and themselves.
create or replace function df_engine.remove_traces(p_runs bigint[]) returns void
language plpgsql as $$
begin
  delete from df_engine.queue t where t.instance = any (p_runs);
  delete from df_engine.timers t where t.instance = any (p_runs);
  delete from df_engine.waits t where t.instance = any (p_runs);
  delete from df_engine.activations t where t.instance = any (p_runs);
  delete from df_engine.map_items t where t.instance = any (p_runs);
  delete from df_engine.inbox t where t.instance = any (p_runs);
  delete from df_engine.bindings t where t.instance = any (p_runs);
  delete from df_engine.executions t where t.instance = any (p_runs);
  delete from df_engine.attempts t where t.instance = any (p_runs);
  delete from df_engine.start_keys t where t.instance = any (p_runs);
  delete from df_engine.compensations t where t.instance = any (p_runs);
  delete from df_engine.acts t where t.instance = any (p_runs);
  delete from df_engine.end_channels t where t.instance = any (p_runs);
end
$$;

-- Removes up to p_limit runs with up to p_nodes nodes, but one at least, and everything that belongs to them; answers whether more may be left. Runs
-- that somebody has locked are left alone, and those of which a step still runs, which was cancelled: it has locked its row of the queue.
create or replace function df_engine.remove_outlived(p_limit int, p_nodes int) returns boolean
language plpgsql as $$
declare
  v_runs bigint[];
  v_queued bigint[];
  v_more boolean;
  v_removed int;
begin
  select array_agg(s.instance) filter (where s.fits), count(*) = p_limit or coalesce(bool_or(not s.fits), false)
  into v_runs, v_more
  from (
    select i.instance, sum(g.last) over (order by i.instance) <= greatest(p_nodes, g.last) as fits
    from (
      select x.instance, x.graph
      from df_engine.retention_limits() l
      cross join lateral (
        select o.instance, o.graph from df_engine.instances o
        where o.submitter = l.submitter and o.finished_at is not null and (o.finished_at, o.instance) <= (l.finished_at, l.instance)
          and not exists (select from df_engine.instances c where c.parent = o.instance)
          and not exists (select from df_engine.waits w where w.id = o.call)
        order by o.finished_at, o.instance limit p_limit for update skip locked) x
      limit p_limit) i
    cross join lateral (
      select coalesce(max(n.last), 1) as last from df_engine.graph_nodes n where n.graph = i.graph and n.node = 1) g
  ) s;
  v_queued := array(select q.id from df_engine.queue q where q.instance = any (v_runs) for update skip locked);
  v_runs := array(select r.instance from unnest(v_runs) r(instance)
                  where not exists (select from df_engine.queue q where q.instance = r.instance and q.id <> all (v_queued)));
  if v_runs = '{}' then
    return false;
  end if;
  -- A run with a map can have many more outcomes than nodes.
  delete from df_engine.outcomes o
  where o.ctid = any (array(select x.ctid from df_engine.outcomes x where x.instance = any (v_runs) limit 10 * p_nodes));
  get diagnostics v_removed = row_count;
  if v_removed = 10 * p_nodes then
    insert into df_engine.acts (instance, act, acted_by, logged_in_as, acted_at)
    select r.instance, 'retention', current_user, session_user, df_engine.clock() from unnest(v_runs) r(instance)
    where not exists (select from df_engine.acts a where a.instance = r.instance and a.act = 'retention');
    return true;
  end if;
  perform df_engine.remove_traces(v_runs);
  with gone as (
    delete from df_engine.instances i where i.instance = any (v_runs) returning i.parent
  )
  select v_more or coalesce(bool_or(g.parent is not null), false) into v_more from gone g;
  return v_more;
end
$$;

-- Removes graphs without a run that have not been used for 30 days; an open start uses its graph now.
create or replace function df_engine.remove_unused_graphs(p_limit int) returns void
language plpgsql as $$
declare
  v_graphs constant bigint[] := array(
    select g.id from df_engine.graphs g
    where g.used_at < now() - interval '30 days' and not exists (select from df_engine.instances i where i.graph = g.id)
    order by g.used_at limit p_limit for update skip locked);
begin
  delete from df_engine.graph_nodes n where n.graph = any (v_graphs);
  delete from df_engine.graphs g where g.id = any (v_graphs);
end
$$;

-- Removes one batch if a pass is due; answers whether more is to do. Each call is a transaction of its own.
-- Granted to workers.
create or replace function df_engine.retain() returns boolean
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
begin
  if not df_engine.retention_due() then
    return false;
  elsif df_engine.remove_outlived(200, 2000) then
    return true;
  end if;
  perform df_engine.remove_unused_graphs(200);
  update df_engine.upkeep u set retained_at = df_engine.clock();
  return false;
end
$$;

-- df.check: what must always hold, asked of the tables. It shows nothing while the engine is right, whatever crashed before;
-- each part below looks for one kind of problem. Nothing here writes.

-- Every thread of every run, and what it waits for.
create or replace view df_engine.threads as
  select q.instance, q.scope, q.node, q.generations, q.activation, q.races, 'queue, lane ' || q.lane as what, null::bigint as id
  from df_engine.queue q where q.instance > 0
  union all
  select t.instance, t.scope, t.node, t.generations, t.activation, t.races, 'timer, ' || t.kind, t.id
  from df_engine.timers t where t.kind not in ('timeout', 'deadline', 'poke', 'child', 'sweep')
  union all
  select w.instance, w.scope, w.node, w.generations, w.activation, w.races, coalesce('wait for signal ' || w.signal_name, 'call'), w.id
  from df_engine.waits w
  union all
  select a.instance, a.scope, a.node, a.generations, a.activation, a.races, 'open construct', a.id
  from df_engine.activations a where a.node > 0
  union all
  select c.instance, 0, c.node, c.generations, c.activation, c.races, 'compensation of its body', null
  from df_engine.compensations c
  join df_engine.instances i on i.instance = c.instance and i.status not in ('completed', 'failed', 'cancelled')  -- of one that was cancelled they stay open
  where c.state = 'o' and c.node is not null;

create or replace function df.check()
returns table (problem text, instance_id text, node_id text, detail text)
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  with thread as materialized (
    select t.*, i.id as run, i.status, i.graph, g.kind, g.levels, g.opens, df_engine.node_id(i.id, t.node) as node_id
    from df_engine.threads t
    left join df_engine.instances i on i.instance = t.instance
    left join df_engine.graph_nodes g on g.graph = i.graph and g.node = t.node
  ), problems as (
    select 'a row without its run' as problem, t.instance::text as run, null as node_id, t.what as detail from thread t where t.run is null
    union all
    select 'work on a node that does not exist', t.run, t.node_id, t.what from thread t where t.run is not null and t.kind is null
    union all
    select 'work is left of a run that has ended', t.run, t.node_id, t.what from thread t
    where t.status in ('completed', 'failed', 'cancelled')
      and not exists (select from df_engine.timers w where w.instance = t.instance and w.kind = 'sweep')
      and not exists (select from df_engine.steps_in_sessions s where s.id = t.run)
    union all
    select 'work is left of a branch that has lost its race', t.run, t.node_id, t.what from thread t
    where t.races is not null and df_engine.has_lost(t.races)
      and not exists (select from df_engine.steps_in_sessions s where s.id = t.run)
    union all
    select 'work on a node that cannot have it', t.run, t.node_id, t.what || ', at a ' || t.kind from thread t
    where case
      when t.what = 'open construct' then t.kind not in ('LOOP', 'TIMEOUT', 'WAIT_FOR', 'MAP', 'JOIN', 'RACE', 'ANY')
      when t.what like 'wait%' then t.kind <> 'SIGNAL'
      when t.what like 'compensation%' then t.kind <> 'CATCH'
      when t.what = 'call' then t.kind <> 'CALL'
      when t.what = 'timer, sleep' then t.kind <> 'SLEEP'
      when t.what = 'timer, schedule' then t.kind <> 'WAIT_SCHEDULE'
      when t.what in ('queue, lane direct', 'timer, retry', 'timer, check') then t.kind not in ('SQL', 'BLOCK', 'HTTP', 'HTTP_MULTIPART')
      when t.what = 'queue, lane http' then t.kind not like 'HTTP%' end
    union all
    select 'a thread is not where its generations say', t.run, t.node_id, t.what from thread t
    where coalesce(cardinality(t.generations), 1) <> t.levels + 1 - t.opens::int
    union all
    select 'a thread is in a construct that is not open', t.run, t.node_id, t.what from thread t
    where t.activation is not null and t.status in ('pending', 'running')
      and not exists (select from df_engine.activations a where a.id = t.activation and a.instance = t.instance)
      and not (t.races is not null and df_engine.has_lost(t.races))
    union all
    select 'nothing moves a run that has not ended', i.id, null, 'it is ' || i.status
    from df_engine.instances i
    where i.status in ('pending', 'running')
      and not exists (select from thread t where t.instance = i.instance and t.what <> 'open construct' and t.what not like 'compensation%')
    union all
    select 'a ' || a.kind || ' does not agree with its branches', a.run, a.node_id, format('%s threads for %s open branches', c.count, o.open)
    from thread a
    join df_engine.activations o on o.id = a.id
    cross join lateral (select count(*) from thread t where t.activation = a.id) c
    where a.what = 'open construct' and a.status in ('pending', 'running') and not (a.races is not null and df_engine.has_lost(a.races))
      and c.count <> case when a.kind in ('LOOP', 'TIMEOUT', 'WAIT_FOR') then 1 when a.kind in ('JOIN', 'ANY', 'MAP') then o.open
                     else (select cardinality(g.inside) from df_engine.graph_nodes g where g.graph = a.graph and g.node = a.node) end
    union all
    select 'what a run can be undone by does not agree with it', i.id, null, format('it is %s, %s races against that', i.status, o.races)
    from df_engine.instances i
    join df_engine.graphs g on g.id = i.graph
    cross join lateral (select count(*) as races from df_engine.activations a where a.instance = i.instance and a.node = 0) o
    where o.races <> (g.has_undo and i.status not in ('completed', 'failed', 'cancelled') and i.undo_as is null)::int
    union all
    select 'a run has ended and its root has not', i.id, df_engine.node_id(i.id, 1), 'the run is completed'
    from df_engine.instances i
    where i.status = 'completed'
      and not exists (select from df_engine.outcomes o where o.instance = i.instance and o.node = i.result and o.state = 'c')
    union all
    select 'a name that no node binds', i.id, null, b.name
    from df_engine.bindings b
    join df_engine.instances i on i.instance = b.instance join df_engine.graphs g on g.id = i.graph
    where b.name <> all (g.names) and not b.built_in
    union all
    select 'a call waits for a run that is not there, or was not told of its end', i.id, df_engine.node_id(i.id, w.node), coalesce(c.id, 'run ' || w.child)
    from df_engine.waits w
    join df_engine.instances i on i.instance = w.instance
    left join df_engine.instances c on c.instance = w.child and c.parent = w.instance and c.parent_node = w.node and c.call = w.id
    where w.child is not null and (c.instance is null or c.status in ('completed', 'failed', 'cancelled')
      and not exists (select from df_engine.timers t where t.id = w.id and t.kind = 'child'))
    union all
    select 'a run goes on for which its caller does not wait', c.id, null, coalesce(i.id, 'run ' || c.parent)
    from df_engine.instances c left join df_engine.instances i on i.instance = c.parent
    where c.call > 0 and c.status in ('pending', 'running')
      and not exists (select from df_engine.waits w where w.id = c.call and w.child = c.instance)
    union all
    select 'a run without its caller', c.id, null, 'run ' || c.parent
    from df_engine.instances c
    where c.parent is not null and not exists (select from df_engine.instances i where i.instance = c.parent)
    union all
    select 'a kept signal and an open wait have not met', i.id, df_engine.node_id(i.id, w.node), 'signal ' || s.signal_id
    from df_engine.inbox s
    join df_engine.waits w on w.instance = s.instance and w.signal_name = s.signal_name
    join df_engine.instances i on i.instance = s.instance
    where s.status = 'pending' and not s.fresh
    union all
    select 'a signal of a run that has ended is kept', i.id, null, 'signal ' || s.signal_id
    from df_engine.inbox s join df_engine.instances i on i.instance = s.instance
    where i.status in ('completed', 'failed', 'cancelled') and s.status = 'pending' and not s.fresh
    union all
    select 'a row without its run', o.instance::text, null, 'df_engine.outcomes'
    from df_engine.outcomes o where not exists (select from df_engine.instances i where i.instance = o.instance)
    union all
    select 'a row without its run', o.instance::text, null, 'df_engine.map_items'
    from df_engine.map_items o where not exists (select from df_engine.instances i where i.instance = o.instance)
    union all
    select 'a row without its run', o.instance::text, null, 'df_engine.inbox'
    from df_engine.inbox o where not exists (select from df_engine.instances i where i.instance = o.instance)
    union all
    select 'a row without its run', o.instance::text, null, 'df_engine.bindings'
    from df_engine.bindings o where not exists (select from df_engine.instances i where i.instance = o.instance)
    union all
    select 'a row without its run', o.instance::text, null, 'df_engine.executions'
    from df_engine.executions o where not exists (select from df_engine.instances i where i.instance = o.instance)
    union all
    select 'a row without its run', o.instance::text, null, 'df_engine.attempts'
    from df_engine.attempts o where not exists (select from df_engine.instances i where i.instance = o.instance)
    union all
    select 'a row without its run', o.instance::text, null, 'df_engine.start_keys'
    from df_engine.start_keys o where not exists (select from df_engine.instances i where i.instance = o.instance)
    union all
    select 'a row without its run', o.instance::text, null, 'df_engine.compensations'
    from df_engine.compensations o where not exists (select from df_engine.instances i where i.instance = o.instance)
    union all
    select 'a row without its run', o.instance::text, null, 'df_engine.acts'
    from df_engine.acts o where not exists (select from df_engine.instances i where i.instance = o.instance)
      and not exists (select from df_engine.schedules s where s.schedule = -o.instance)
    union all
    select 'a row without its run', o.instance::text, null, 'df_engine.end_channels'
    from df_engine.end_channels o where not exists (select from df_engine.instances i where i.instance = o.instance)
    union all
    select 'nothing moves a schedule', null, null, format('%s of role %s', s.name, s.owner)
    from df_engine.schedules s where not s.paused and s.due_at is null and s.problem is null
    union all
    select 'a tick without its schedule', null, null, 'schedule ' || t.schedule
    from df_engine.schedule_ticks t where not exists (select from df_engine.schedules s where s.schedule = t.schedule)
    union all
    select 'a secret is plain text, and secrets_encrypted is on', null, null, format('%s of role %s', s.name, s.owner)
    from df_engine.kept_secrets s where not s.encrypted and df_engine.setting_on('secrets_encrypted')
    union all
    -- Nothing in a database can keep these roles from that.
    select 'a role reads or writes what is of all', null, null, format('role %I has BYPASSRLS and is a member of pg_read_all_data or pg_write_all_data', r.rolname)
    from pg_roles r where r.rolbypassrls and not r.rolsuper
      and (pg_has_role(r.oid, 'pg_read_all_data', 'usage') or pg_has_role(r.oid, 'pg_write_all_data', 'usage'))
    union all
    select 'a run without its graph', i.id, null, 'graph ' || i.graph
    from df_engine.instances i where not exists (select from df_engine.graphs g where g.id = i.graph)
  )
  select p.* from problems p
$$;
revoke all on function df.check() from public;
comment on function df.check() is
  'Looks through the engine''s tables for anything that must not be: one row a problem, none when all is well. For '
  'administrators; it reads all runs.';

-- Views are read-only: a view over one table could be written through otherwise, with its owner's rights, past row security.

create or replace function df_engine.refuse_write() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  raise exception '%.% is read-only', tg_table_schema, tg_table_name
    using errcode = 'insufficient_privilege', hint = case tg_table_name
      when 'instances' then 'Start runs with df.start, end them with df.cancel.'
      when 'nodes' then 'Nodes are what df.start was given; df.cancel ends a run.'
      when 'vars' then 'Change variables with df.setvar, df.unsetvar and df.clearvars.'
      when 'secrets' then 'Change secrets with pg-durable secret, or df.set_secret and df.unset_secret.'
      when 'definitions' then 'Define flows with df.define, hide them with df.undefine.'
      when 'signals' then 'Send signals with df.signal.'
      when 'settings' then 'Change settings with df.set_setting.'
      when 'http_allowlist' then 'Change the list with df.http_allow and df.http_disallow.'
      else 'The functions of schema df change what it shows.' end;
end
$$;

do $triggers$
declare
  v_view regclass;
begin
  for v_view in
    select c.oid from pg_class c
    where c.relkind = 'v' and c.relnamespace in ('df'::regnamespace, 'df_engine'::regnamespace)
      and not exists (select from pg_trigger t where t.tgrelid = c.oid and t.tgname = 'read_only')
  loop
    execute format('create trigger read_only instead of insert or update or delete on %s
                    for each row execute function df_engine.refuse_write()', v_view);
  end loop;
end
$triggers$;

-- Epilogue: privileges that PUBLIC must not have, the version, what existing users need of it, the worker role given.

revoke all on all routines in schema df_engine from public;

update df_engine.release set version = '1.0.0', installed_at = now() where version <> '1.0.0';

do $grants$
begin
  perform df_engine.renew_grants();
  if nullif(current_setting('pg_durable.worker_role', true), '') is not null then
    perform df.grant_worker(current_setting('pg_durable.worker_role'));
  end if;
end
$grants$;

commit;
