-- pg_durable 0.1.0 (built 2026-11-23 00:00:00 UTC): durable functions for PostgreSQL 14 to 18.
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

create schema if not exists df;
create schema if not exists df_engine;
comment on schema df is 'pg_durable: durable functions written as SQL; the public interface';
comment on schema df_engine is 'pg_durable: private state and functions of the engine';

create table if not exists df_engine.release (
  version text not null,
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
    insert into df_engine.release(version, layout) values ('0.1.0', p_layout);
  end if;
  return true;
end
$$;

-- Tables: all state there is. The public ones are df.instances, df.nodes and df.vars; a column whose name begins with `_`
-- is the engine's own and is never writable by users. `status` is what is displayed, `_state` is what the engine obeys.

do $migration$
begin
if df_engine.migrating(1) then

  create table df.instances (
    id varchar(8) not null,
    label text,
    root_node varchar(8) not null,
    status text default 'pending',
    submitted_by regrole not null,
    database text,
    created_at timestamptz not null default now(),
    updated_at timestamptz default now(),
    completed_at timestamptz,
    finished_at timestamptz,
    error text,
    wait_reason text,
    _state text,                       -- NULL: inserted by hand, never executed
    _submitter regrole,                -- the identity recorded by df.start
    _vars jsonb,                       -- variables and system variables, frozen at start
    _generation int not null default 1,
    _events bigint not null default 0, -- status changes of earlier iterations of a root loop
    _version text,
    _cancelled_in xid8,                -- the transaction that cancelled: a step in it may still commit
    constraint instances_pkey primary key (id),
    constraint instances_identity_key unique (id, submitted_by),
    constraint instances_id_format_chk check (id ~ '^[0-9a-f]{8}$'),
    constraint instances_root_node_format_chk check (root_node ~ '^[0-9a-f]{8}$'),
    constraint instances_status_chk check (status in ('pending', 'running', 'completed', 'failed', 'cancelled')),
    constraint instances_state_chk check (_state in ('pending', 'running', 'completed', 'failed', 'cancelled'))
  ) with (fillfactor = 70);

  -- df.list_instances with a status, without one, with a label
  create index instances_status_created_idx on df.instances (status, created_at desc, id);
  create index instances_created_idx on df.instances (created_at desc, id);
  create index instances_label_created_idx on df.instances (label, created_at desc, id) where label is not null;

  create table df.nodes (
    id varchar(8) not null,
    instance_id varchar(8) not null,
    node_type text not null,
    query text,
    result_name text,
    left_node varchar(8),
    right_node varchar(8),
    status text default 'pending',
    result jsonb,
    error text,
    submitted_by regrole,
    database text,
    created_at timestamptz default now(),
    updated_at timestamptz default now(),
    status_details jsonb,
    result_columns text[],
    retry_policy jsonb,
    attempts int not null default 0,
    started_at timestamptz,
    completed_at timestamptz,
    _parent varchar(8),
    _scope varchar(8),                 -- top node of the innermost scope the node runs in; NULL: the root scope
    _open int,                         -- JOIN: branches that have not ended; RACE: 1 until it is decided
    constraint nodes_pkey primary key (instance_id, id),
    constraint nodes_instance_id_present_chk check (instance_id is not null),
    constraint nodes_submitted_by_present_chk check (submitted_by is not null),
    constraint nodes_id_format_chk check (id ~ '^[0-9a-f]{8}$'),
    constraint nodes_instance_id_format_chk check (instance_id ~ '^[0-9a-f]{8}$'),
    constraint nodes_left_node_format_chk check (left_node ~ '^[0-9a-f]{8}$'),
    constraint nodes_right_node_format_chk check (right_node ~ '^[0-9a-f]{8}$'),
    constraint nodes_node_type_chk check (node_type in ('SQL', 'THEN', 'IF', 'JOIN', 'RACE', 'LOOP', 'BREAK', 'SLEEP', 'WAIT_SCHEDULE', 'SIGNAL', 'HTTP', 'HTTP_MULTIPART')),
    constraint nodes_status_chk check (status in ('pending', 'running', 'completed', 'failed')),
    constraint nodes_result_name_chk check (result_name ~ '^[A-Za-z_][A-Za-z0-9_]*$'),
    constraint nodes_result_status_chk check (result is null or status in ('completed', 'failed')),
    constraint nodes_structure_chk check (
      case
        when node_type in ('SQL', 'HTTP', 'HTTP_MULTIPART', 'SLEEP', 'WAIT_SCHEDULE', 'SIGNAL', 'BREAK') then left_node is null and right_node is null and query is not null
        when node_type in ('THEN', 'RACE') then left_node is not null and right_node is not null and query is null
        when node_type = 'IF' then left_node is not null and right_node is not null and query is not null
        when node_type = 'JOIN' then left_node is not null and right_node is not null
        when node_type = 'LOOP' then left_node is not null and right_node is null
        else false
      end)
  ) with (fillfactor = 60);

  alter table df.instances
    add constraint instances_root_node_same_instance_fkey foreign key (id, root_node)
      references df.nodes (instance_id, id) deferrable initially deferred;
  alter table df.nodes
    add constraint nodes_instance_identity_fkey foreign key (instance_id, submitted_by)
      references df.instances (id, submitted_by) deferrable initially deferred,
    add constraint nodes_left_node_same_instance_fkey foreign key (instance_id, left_node)
      references df.nodes (instance_id, id) deferrable initially deferred,
    add constraint nodes_right_node_same_instance_fkey foreign key (instance_id, right_node)
      references df.nodes (instance_id, id) deferrable initially deferred;

  create table df.vars (
    name text not null,
    value text,
    owner regrole not null default quote_ident(current_user)::regrole,
    constraint vars_pkey primary key (owner, name)
  );

  create table df._worker_epoch (
    epoch_id uuid not null default gen_random_uuid(),
    started_at timestamptz not null default now(),
    last_seen_at timestamptz not null default now(),
    _worker int not null generated always as identity,
    _role regrole not null default quote_ident(current_user)::regrole,
    _sleeps_until timestamptz,         -- NULL while it has no room; a transaction with earlier work notifies
    constraint worker_epoch_pkey primary key (epoch_id)
  ) with (fillfactor = 50);

  create table df.settings (
    name text not null constraint settings_pkey primary key,
    value text not null,
    description text not null
  );

  create table df.http_allowlist (
    pattern text not null constraint http_allowlist_pkey primary key,
    allow_private boolean not null default false,
    note text
  );

  -- A row exists exactly while a node can be entered or run now; the claim is the lock on the row.
  create table df_engine.ready (
    id bigint generated always as identity,
    lane text not null default 'sql' check (lane in ('sql', 'direct', 'http')),
    submitter regrole not null,
    instance_id varchar(8) not null,
    node_id varchar(8) not null,
    worker int,                        -- who holds the lease of a direct or http step
    deaths smallint not null default 0,
    constraint ready_pkey primary key (lane, submitter, id)
  ) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000,
          autovacuum_vacuum_cost_delay = 0);
  create index ready_instance_idx on df_engine.ready (instance_id);  -- cancel, lost races, df.check

  -- At most one due time a node: the end of a sleep, a schedule, a signal's time-out, a retry, a loop's pace.
  create table df_engine.timers (
    instance_id varchar(8) not null,
    node_id varchar(8) not null,
    due_at timestamptz not null,
    kind text not null check (kind in ('sleep', 'schedule', 'timeout', 'retry', 'pace')),
    constraint timers_pkey primary key (instance_id, node_id)
  );
  create index timers_due_idx on df_engine.timers (due_at);          -- the next due time, and what is due

  -- Open waits for a signal.
  create table df_engine.waits (
    instance_id varchar(8) not null,
    node_id varchar(8) not null,
    signal_name text not null,
    constraint waits_pkey primary key (instance_id, node_id)
  );

  -- Every signal sent. `fresh` until a worker has looked at it once: then delivered, kept or undeliverable.
  create table df_engine.inbox (
    signal_id bigint generated always as identity,
    instance_id varchar(8) not null,
    signal_name text not null,
    signal_data jsonb not null,
    status text not null default 'pending' check (status in ('pending', 'delivered', 'undeliverable')),
    fresh boolean not null default true,
    sent_by regrole not null,
    sent_at timestamptz not null default now(),
    delivered_at timestamptz,
    delivered_to text[],
    constraint inbox_pkey primary key (signal_id)
  );
  create index inbox_fresh_idx on df_engine.inbox (signal_id) where fresh;       -- the worker's look
  create index inbox_instance_idx on df_engine.inbox (instance_id, signal_id);   -- the oldest kept one, df.signals

  -- A child scope that was opened: a branch of a JOIN or RACE, or a loop below the top of its scope.
  create table df_engine.scopes (
    instance_id varchar(8) not null,
    node_id varchar(8) not null,       -- the scope's top node
    parent varchar(8),                 -- the surrounding scope's top node; NULL: the root scope
    owner varchar(8),                  -- the JOIN or RACE whose branch it is; NULL for a loop's own scope
    branch int,                        -- its place among the branches, from 1
    path text not null,                -- the scope's id of the contract, <parent scope>::<generation>::<node>
    generation int not null default 1,
    outcome text check (outcome in ('ok', 'failed', 'broke', 'lost')),   -- NULL while it runs
    events bigint not null default 0,  -- status changes of earlier generations
    constraint scopes_pkey primary key (instance_id, node_id)
  ) with (fillfactor = 70);

  -- Named results. scope: top node of the scope, '' for the root scope.
  create table df_engine.bindings (
    instance_id varchar(8) not null,
    scope varchar(8) not null,
    name text not null,
    value jsonb,
    columns text[],
    constraint bindings_pkey primary key (instance_id, scope, name)
  ) with (fillfactor = 70);

  -- Earlier iterations of root loops; the newest 10 000 a run are kept.
  create table df_engine.executions (
    instance_id varchar(8) not null,
    generation int not null,
    events bigint not null,
    started_at timestamptz not null,
    finished_at timestamptz not null,
    constraint executions_pkey primary key (instance_id, generation)
  );

  -- Failed attempts of steps that were tried again: what an overwrite of the node would lose.
  create table df_engine.attempts (
    instance_id varchar(8) not null,
    node_id varchar(8) not null,
    attempt int not null,
    stamp text,
    failed_at timestamptz not null default now(),
    sqlstate text,
    error text
  );
  create index attempts_instance_idx on df_engine.attempts (instance_id, node_id);   -- one run's history, retention

  -- Roles authorised with df.grant_worker.
  create table df_engine.worker_roles (
    role regrole not null constraint worker_roles_pkey primary key
  );

  -- When the last retention pass was begun.
  create table df_engine.upkeep (
    retained_at timestamptz not null default now()
  );
  insert into df_engine.upkeep default values;

end if;
end
$migration$;

comment on table df.instances is 'One row a run; status is what is displayed, and error says why it failed or was cancelled';
comment on table df.nodes is 'One row a node of each runs graph, with its status, result, error, attempts and times';
comment on table df.vars is 'Variables, read in workflows as {name}; each role has its own, copied into a run when it starts';
comment on table df._worker_epoch is 'One row a running worker; max(last_seen_at) > now() - interval 15 s means that one is alive';
comment on table df.settings is 'The settings; change them with df.set_setting';
comment on table df.http_allowlist is 'Hosts that HTTP steps may reach; change it with df.http_allow and df.http_disallow';

-- The engine's clock. Tests replace it to move time.
create or replace function df_engine.clock() returns timestamptz
language sql volatile as $$ select pg_catalog.clock_timestamp() $$;

-- A terminal status brings its times with it, whoever writes it.
create or replace function df_engine.note_end() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  new.finished_at := coalesce(new.finished_at, clock_timestamp());
  if new.status = 'completed' then
    new.completed_at := coalesce(new.completed_at, new.finished_at);
  end if;
  return new;
end
$$;

-- Sets finished_at and completed_at when an instance ends.
create or replace trigger instances_end_inserted before insert on df.instances
  for each row when (new.status in ('completed', 'failed', 'cancelled')) execute function df_engine.note_end();
create or replace trigger instances_end_updated before update of status on df.instances
  for each row when (new.status in ('completed', 'failed', 'cancelled') and old.status is distinct from new.status)
  execute function df_engine.note_end();

-- Row security: who sees and writes which rows. The views own_* are how functions that run with the caller's rights write
-- what callers must not write by hand: a view's owner lends its rights to the table, while current_user stays the caller,
-- and WITH CHECK OPTION lets a role write only rows of its own.

alter table df.instances enable row level security;
alter table df.nodes enable row level security;
alter table df.vars enable row level security;
alter table df.settings enable row level security;

drop policy if exists instances_own on df.instances;
create policy instances_own on df.instances
  using (submitted_by = (select quote_ident(current_user)::regrole))
  with check (submitted_by = (select quote_ident(current_user)::regrole));
drop policy if exists nodes_own on df.nodes;
create policy nodes_own on df.nodes
  using (submitted_by = (select quote_ident(current_user)::regrole))
  with check (submitted_by = (select quote_ident(current_user)::regrole));
drop policy if exists vars_own on df.vars;
create policy vars_own on df.vars
  using (owner = (select quote_ident(current_user)::regrole))
  with check (owner = (select quote_ident(current_user)::regrole));
drop policy if exists settings_public on df.settings;
create policy settings_public on df.settings for select using (name <> 'loopback_dsn');

create or replace view df_engine.own_instances as
  select id, label, root_node, submitted_by, database, _state, _submitter, _vars, _version
  from df.instances
  where submitted_by = quote_ident(current_user)::regrole and _submitter = submitted_by and _state = 'pending'
  with check option;

create or replace view df_engine.own_nodes as
  select id, instance_id, node_type, query, result_name, left_node, right_node, submitted_by, database, retry_policy,
         _parent, _scope
  from df.nodes
  where submitted_by = quote_ident(current_user)::regrole
  with check option;

create or replace view df_engine.own_ready as
  select submitter, instance_id, node_id
  from df_engine.ready
  where submitter = quote_ident(current_user)::regrole
  with check option;

-- Whether the caller may see a run's row: row_security_active asks for the caller, also inside a view.
create or replace view df_engine.visible_inbox with (security_barrier) as
  select s.signal_id, s.instance_id, s.signal_name, s.signal_data, s.sent_by
  from df_engine.inbox s
  where s.sent_by = quote_ident(current_user)::regrole
    and s.status = 'pending' and s.fresh
    and (not row_security_active('df.instances')
         or exists (select from df.instances i
                    where i.id = s.instance_id and i.submitted_by = quote_ident(current_user)::regrole))
  with check option;

create or replace view df.signals with (security_barrier) as
  select s.signal_id, s.instance_id, s.signal_name, s.signal_data, s.status, s.sent_by, s.sent_at,
         s.delivered_at, s.delivered_to
  from df_engine.inbox s
  where not row_security_active('df.instances')
     or exists (select from df.instances i
                where i.id = s.instance_id and i.submitted_by = quote_ident(current_user)::regrole);
comment on view df.signals is
  'Signals of the runs the reader can see: pending in the inbox, delivered (and to which nodes), or undeliverable';

-- Settings: read where they are used, never cached for longer than a statement; written only by df.set_setting.

insert into df.settings (name, value, description) values
  ('enable_superuser_instances', 'off', 'whether superusers may submit instances'),
  ('list_instances_max_limit', '1000', 'largest limit_count of df.list_instances'),
  ('loop_min_interval', '1', 'least time between the starts of two iterations of a forever loop, in seconds'),
  ('timezone', 'UTC', 'time zone of schedules that name none'),
  ('max_user_connections', '10', 'SQL steps that one worker runs at the same time'),
  ('max_new_transaction_starts', '2', 'starts in transaction_mode ''new'' that may be under way at the same time'),
  ('new_transaction_start_timeout', '5', 'how long a start in transaction_mode ''new'' waits for a slot, in seconds'),
  ('loopback_dsn', '', 'how transaction_mode ''new'' reaches this server: host, port and means to authenticate'),
  ('retention_days', '30', 'age in days at which a finished instance is removed'),
  ('retention_max', '10000', 'number of finished instances that are kept'),
  ('reconcile_interval', '3600', 'seconds between two retention passes; 0 is off'),
  ('retry_max_attempts', '5', 'attempts of a step that fails with a transient error'),
  ('retry_initial_delay', '1', 'largest delay before the second attempt, in seconds'),
  ('retry_backoff', '2', 'factor by which the delay grows with each attempt'),
  ('retry_max_delay', '60', 'largest delay between two attempts, in seconds'),
  ('max_result_bytes', '16777216', 'largest JSON text of one result, in bytes'),
  ('http_mode', 'allowlist', 'outbound HTTP: off, allowlist or any'),
  ('http_max_timeout', '300', 'largest timeout_seconds of an HTTP step'),
  ('http_max_request_bytes', '10485760', 'largest HTTP request body, in bytes'),
  ('http_max_response_bytes', '10485760', 'largest HTTP response body, in bytes'),
  ('http_retry_after_max', '86400', 'longest Retry-After that is honoured, in seconds')
on conflict (name) do update set description = excluded.description
  where settings.description is distinct from excluded.description;

-- Epilogue: privileges that PUBLIC must not have, the version, the worker role given on the command line.

revoke all on all functions in schema df_engine from public;
revoke all on all procedures in schema df_engine from public;

update df_engine.release set version = '0.1.0', installed_at = now() where version <> '0.1.0';

commit;
