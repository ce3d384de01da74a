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
  insert into df.http_allowlist (pattern, note)
  select pattern, 'seeded at installation'
  from unnest(array[
    'api.github.com', '.blob.core.windows.net', '.blob.storage.azure.net', '.queue.core.windows.net',
    '.table.core.windows.net', '.file.core.windows.net', '.azurewebsites.net', '.azure-api.net', '.documents.azure.com',
    '.servicebus.windows.net', '.openai.azure.com', '.cognitiveservices.azure.com', '.vault.azure.net',
    '.redis.cache.windows.net', '.database.windows.net', '.kusto.windows.net', '.azurefd.net', '.azureedge.net',
    '.azure-devices.net', '.trafficmanager.net', '.cloudapp.azure.com']) pattern;

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

-- HTTP: the builders, the checks that they share with the moment of execution, the allow-list, and what the worker is given
-- to send. Policy is decided here; the worker filters addresses and moves bytes. Refusals have SQLSTATE DF020: never retried.

create or replace function df_engine.http_scheme_problem(p_url text) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select case when p_url ~* '^https?://' then null
    else format('unsupported URL scheme in "%s": a URL starts with http:// or https://',
                coalesce(substring(p_url from '^[^:/?#@]{1,100}'), '')) end
$$;

create or replace function df_engine.http_method_problem(p_node_type text, p_method text) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select case when upper(p_method collate "C") = any (m.allowed) then null
    else format('Invalid HTTP method "%s": use %s', left(p_method, 100), array_to_string(m.allowed, ', ')) end
  from (select case p_node_type when 'HTTP' then array['GET', 'POST', 'PUT', 'DELETE', 'PATCH']
                                else array['POST', 'PUT', 'PATCH'] end) m(allowed)
$$;

-- Says which header is wrong and why, never what its value is.
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

-- What the two builders check; df.http_multipart adds its parts.
create or replace function df_engine.check_http(
  p_node_type text, p_function text, p_url text, p_method text, p_headers jsonb, p_timeout_seconds int) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_problem text;
begin
  if p_url is null or p_method is null or p_timeout_seconds is null then
    raise exception '%: url, method and timeout_seconds must not be NULL', p_function
      using errcode = 'null_value_not_allowed';
  end if;
  if df_engine.setting('http_mode') = 'off' then
    raise exception '%() is disabled: http_mode is off', p_function
      using errcode = 'object_not_in_prerequisite_state';
  end if;
  v_problem := coalesce(
    case when p_url ~ '^\$[A-Za-z_]' or position('{' in p_url) = 0 then df_engine.http_scheme_problem(p_url) end,
    df_engine.http_method_problem(p_node_type, p_method),
    case when p_timeout_seconds < 1 then 'Timeout must be positive'
         when p_timeout_seconds > df_engine.setting_number('http_max_timeout') then
           'timeout_seconds must not exceed http_max_timeout' end,
    df_engine.http_headers_problem(p_headers));
  if v_problem is not null then
    raise exception '%: %', p_function, v_problem using errcode = 'invalid_parameter_value';
  end if;
end
$$;

-- JSON text without blanks, in the order of the contract.
create or replace function df_engine.http_headers_text(p_headers jsonb) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select case when p_headers is null then 'null'
    else '{' || coalesce((select string_agg(to_json(key) || ':' || value, ',') from jsonb_each(p_headers)), '') || '}' end
$$;

create or replace function df_engine.http_parts_text(p_parts jsonb) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select '[' || string_agg('{' || f.fields || '}', ',' order by p.n) || ']'
  from jsonb_array_elements(p_parts) with ordinality p(part, n),
    lateral (select string_agg(to_json(k.key) || ':' || (p.part->k.key), ',' order by k.n)
             from unnest(array['name', 'filename', 'content_type', 'data_b64']) with ordinality k(key, n)
             where p.part->>k.key is not null) f(fields)
$$;

create or replace function df_engine.http_node(
  p_node_type text, p_url text, p_method text, p_content text, p_headers jsonb, p_timeout_seconds int) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select format('{"node_type":"%s","query":%s}', p_node_type, to_json(format(
    '{"url":%s,"method":%s,%s,"headers":%s,"timeout_seconds":%s}', to_json(p_url),
    to_json(upper(p_method collate "C")), p_content, df_engine.http_headers_text(p_headers), p_timeout_seconds)))
$$;

create or replace function df.http(
  url text, method text default 'POST', body text default null, headers jsonb default null,
  timeout_seconds integer default 30) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform df_engine.check_http('HTTP', 'df.http', url, method, headers, timeout_seconds);
  return df_engine.http_node('HTTP', url, method, '"body":' || coalesce(to_json(body)::text, 'null'), headers,
                             timeout_seconds);
end
$$;
comment on function df.http(text, text, text, jsonb, integer) is
  'A step that makes an HTTP request; {name} and $name are replaced in url, body and header values. The result has status, body, encoding, headers, ok and duration_ms. Raises on a bad URL scheme, method, time-out or header';

create or replace function df.http_multipart(
  url text, method text default 'POST', parts jsonb default null, headers jsonb default null,
  timeout_seconds integer default 30) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_problem text := df_engine.http_parts_problem(parts);
begin
  perform df_engine.check_http('HTTP_MULTIPART', 'df.http_multipart', url, method, headers, timeout_seconds);
  if v_problem is not null then
    raise exception 'df.http_multipart: %', v_problem
      using errcode = case when parts is null then 'null_value_not_allowed' else 'invalid_parameter_value' end;
  end if;
  return df_engine.http_node('HTTP_MULTIPART', url, method, '"parts":' || df_engine.http_parts_text(parts), headers,
                             timeout_seconds);
end
$$;
comment on function df.http_multipart(text, text, jsonb, jsonb, integer) is
  'A step that uploads multipart/form-data; parts is an array of objects with name, data_b64 and, if wanted, filename and content_type. The result is that of df.http. Raises on bad arguments';

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
  insert into df.http_allowlist as a values (v_pattern, http_allow.allow_private, http_allow.note)
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
  delete from df.http_allowlist a where a.pattern = lower(http_disallow.pattern collate "C");
  return 'OK';
end
$$;
comment on function df.http_disallow(text) is 'Removes an entry of the HTTP allow-list; OK even if there was none';

revoke execute on function df.http(text, text, text, jsonb, integer), df.http_multipart(text, text, jsonb, jsonb, integer),
  df.http_allow(text, boolean, text), df.http_disallow(text) from public;

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

-- NULL: no entry matches; else whether one that does lets the host be at a private address.
create or replace function df_engine.http_allowed(p_host text, p_port int, p_address inet) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select bool_or(a.allow_private)
  from df.http_allowlist a, df_engine.http_pattern(a.pattern) p
  where coalesce(p.port, p_port) = p_port
    and case when df_engine.address_like(p_host) then
               df_engine.address_like(p.host) and df_engine.plain_address(p.host) = p_address
             when left(p.host, 1) = '.' then
               right(p_host, length(p.host)) = p.host and length(p_host) > length(p.host)
             else p.host = p_host end
$$;

create or replace function df_engine.http_target_problem(p_url text, p_mode text) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select case
    when p_mode = 'any' then
      case when t.host is null or (t.literal and t.address is null) then
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
               case p_node_type when 'HTTP' then 'df.http(text, text, text, jsonb, integer)'
                                else 'df.http_multipart(text, text, jsonb, jsonb, integer)' end) f(name, signature)
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
    select sum(df_engine.base64_length(part->>'data_b64')),
           min(n) filter (where df_engine.base64_length(part->>'data_b64') is null)
    into v_bytes, v_bad
    from jsonb_array_elements(p_config->'parts') with ordinality p(part, n);
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
    df_engine.http_content_problem(p_node_type, p_config))
  from (select df_engine.setting('http_mode')) m(mode)
$$;

-- The headers to send: the caller's, and ours where the caller set none of that name.
create or replace function df_engine.http_headers(p_node_type text, p_headers jsonb, p_idempotency_key text)
returns jsonb language sql immutable set search_path = pg_catalog, pg_temp as $$
  select coalesce(jsonb_object_agg(h.name, h.value), '{}')
  from (
    select key, value from jsonb_each_text(p_headers)
    where p_node_type = 'HTTP' or lower(key collate "C") <> 'content-type'
    union all
    select d.name, d.value
    from (values ('User-Agent', 'pg_durable/0.1.0'), ('Idempotency-Key', p_idempotency_key)) d(name, value)
    where d.value is not null
      and lower(d.name) <> all (select lower(key collate "C") from jsonb_object_keys(p_headers) key)
  ) h(name, value)
$$;

-- What the worker is to send, from a config after substitution. p_context: idempotency_key, and retry_on of the step.
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
                                        p_context->>'idempotency_key'),
      'body', case p_node_type when 'HTTP' then p_config->'body' end,
      'parts', case p_node_type when 'HTTP_MULTIPART' then p_config->'parts' end,
      'timeout_seconds', least(coalesce((p_config->>'timeout_seconds')::numeric, 30),
                               df_engine.setting_number('http_max_timeout')),
      'max_response_bytes', df_engine.setting_number('http_max_response_bytes'),
      'host', t.host,
      'port', t.port,
      'allow_private', coalesce(df_engine.http_allowed(t.host, t.port, t.address), false),
      'error_statuses', (select coalesce(jsonb_agg(substr(e, 6)), '[]')
                         from jsonb_array_elements_text(nullif(p_context->'retry_on', 'null')) e
                         where e like 'http:%'))
    from df_engine.http_target(p_config->>'url') t);
end
$$;

-- A node's query as JSON; hand-written envelopes may hold anything there.
create or replace function df_engine.http_config(p_node_type text, p_query text) returns jsonb
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  v_config jsonb;
begin
  begin
    v_config := p_query::jsonb;
  exception when data_exception then
    null;
  end;
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
  where p_node_type = 'HTTP_MULTIPART'
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
               'data_b64', df_engine.render_string(part->'data_b64', 'whole', p_vars, p_names, p_known))
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

-- Whether a status matches http:404 or http:4xx.
create or replace function df_engine.http_status_listed(p_status text, p_retry_on text[]) returns boolean
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select coalesce('http:' || p_status = any (p_retry_on) or 'http:' || left(p_status, 1) || 'xx' = any (p_retry_on), false)
$$;

-- The error class of a response, http:503 for one; NULL when the response completes the step.
create or replace function df_engine.http_outcome_class(p_status int, p_retry_on text[]) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select 'http:' || p_status
  where p_status in (408, 425, 429) or p_status between 500 and 599
     or df_engine.http_status_listed(p_status::text, p_retry_on)
$$;

-- Whether an HTTP error of a class (connection, timeout, http:503, refused) may be tried again; without retry_on all but
-- refusals may.
create or replace function df_engine.http_retryable(p_class text, p_retry_on text[]) returns boolean
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select p_class is not null and p_class <> 'refused' and (
    p_retry_on is null
    or p_class = any (p_retry_on)
    or ('transient' = any (p_retry_on)
        and (p_class in ('connection', 'timeout') or p_class ~ '^http:(408|425|429|5[0-9][0-9])$'))
    or df_engine.http_status_listed(substring(p_class from '^http:(.*)$'), p_retry_on))
$$;

-- Epilogue: privileges that PUBLIC must not have, the version, the worker role given on the command line.

revoke all on all functions in schema df_engine from public;
revoke all on all procedures in schema df_engine from public;

update df_engine.release set version = '0.1.0', installed_at = now() where version <> '0.1.0';

commit;
