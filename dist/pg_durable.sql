-- pg_durable 0.6.0 (built 2026-11-28 00:00:00 UTC): durable functions for PostgreSQL 14 to 18.
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
          from (values ('installed', v_installed), ('this', '0.6.0'), ('oldest', '0.6.0'))
            as r(role, version)) as v
  )
  select i.key > t.key, i.key is null or i.key < o.key into v_newer, v_too_old
  from compared i, compared t, compared o
  where i.role = 'installed' and t.role = 'this' and o.role = 'oldest';

  if v_newer then
    raise exception 'pg_durable % is installed here, which is newer than this installer of 0.6.0', v_installed
      using errcode = 'object_not_in_prerequisite_state',
            hint = format('Nothing has been changed. Take the installer of version %s or later.', v_installed);
  elsif v_too_old then
    select case when exists (select from pg_extension where extname = 'pg_durable') then 'DROP EXTENSION pg_durable CASCADE'
                else 'DROP SCHEMA df, df_engine CASCADE' end into v_removal;
    raise exception 'pg_durable % is installed here, which is too old: 0.6.0 upgrades from 0.6.0 on',
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
    insert into df_engine.release(version, layout) values ('0.6.0', p_layout);
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
      and exists (select from df_engine.release where version <> '0.6.0')
      and not exists (select from pg_depend d
                      where d.refclassid = 'pg_proc'::regclass and d.refobjid = p.oid and d.deptype <> 'e')
  loop
    execute format('drop routine %s', v_routine);
  end loop;
end
$renewal$;

-- Tables: all state there is. The public ones are df.instances, df.nodes and df.vars; a column whose name begins with `_`
-- is the engine's own and is never writable by users. `status` is what is displayed, `_state` is what the engine obeys.

do $migration$
begin
if df_engine.migrating(1) then

  -- Checks compare with array constants: PostgreSQL reads every check's expression tree for every UPDATE, and a list of
  -- single literals, or a long regular expression, costs more than the rest of the write.
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
    input jsonb,                       -- what df.start was given for $input
    _state text,                       -- NULL: inserted by hand, never executed
    _submitter regrole,                -- the identity recorded by df.start
    _vars jsonb,                       -- variables and system variables, frozen at start
    _generation int not null default 1,
    _version text,
    _cancelled_in xid8,                -- the transaction that cancelled: a step in it may still commit
    constraint instances_pkey primary key (id),
    constraint instances_identity_key unique (id, submitted_by),
    constraint instances_id_format_chk check (id ~ '^[0-9a-f]{8}$'),
    constraint instances_root_node_format_chk check (root_node ~ '^[0-9a-f]{8}$'),
    constraint instances_status_chk check (status = any ('{pending,running,completed,failed,cancelled}'::text[])),
    constraint instances_state_chk check (_state = any ('{pending,running,completed,failed,cancelled}'::text[]))
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
    _open int,                         -- JOIN: stripes of branches that have not ended; RACE: 1 until it is decided
    _forever boolean,                  -- LOOP: no condition and no break of its own, so its iterations are paced
    _failures int,                     -- LOOP that continues on failure: iterations in a row that have failed
    -- What follows a node is laid out at the start, instead of being looked for whenever a node ends.
    _ends varchar[],                   -- what ends when this node ends well: itself, sequences that it is the last of, and IFs
    _next varchar(8),                  -- what is entered then; NULL: the construct around it decides. Of a THEN: its beginning
    _named boolean,                    -- whether one of _ends has a name
    _plain boolean,                    -- whether nothing but a move to _next, or the end of the run, follows a good end
    _kind text,                        -- SQL that runs as it is: its kind, see df_engine.statement_kind; NULL: it is looked at each time
    _typed boolean,                    -- whether something refers to a name that its value may get
    _types text[],                     -- types of result_columns, where they were wanted
    constraint nodes_pkey primary key (instance_id, id),
    constraint nodes_instance_id_present_chk check (instance_id is not null),
    constraint nodes_submitted_by_present_chk check (submitted_by is not null),
    constraint nodes_id_format_chk check (id ~ '^[0-9a-f]{8}$'),
    constraint nodes_instance_id_format_chk check (instance_id ~ '^[0-9a-f]{8}$'),
    constraint nodes_left_node_format_chk check (left_node ~ '^[0-9a-f]{8}$'),
    constraint nodes_right_node_format_chk check (right_node ~ '^[0-9a-f]{8}$'),
    constraint nodes_node_type_chk check (node_type = any ('{SQL,THEN,IF,JOIN,RACE,LOOP,BREAK,SLEEP,WAIT_SCHEDULE,SIGNAL,HTTP,HTTP_MULTIPART}'::text[])),
    constraint nodes_status_chk check (status = any ('{pending,running,completed,failed}'::text[])),
    constraint nodes_result_name_chk check (result_name ~ '^[A-Za-z_][A-Za-z0-9_]*$'),
    constraint nodes_result_status_chk check (result is null or status = any ('{completed,failed}'::text[])),
    -- The type, then which of left_node, right_node and query are NULL. PostgreSQL reads the text of every check for every
    -- UPDATE, so this is the shortest that says it.
    constraint nodes_structure_chk check (
      strpos(' SQLttf HTTPttf HTTP_MULTIPARTttf SLEEPttf WAIT_SCHEDULEttf SIGNALttf BREAKttf '
             'THENfft RACEfft IFfff JOINfft JOINfff LOOPftt LOOPftf ',
             concat(node_type, left_node is null, right_node is null, query is null)) > 0)
  ) with (fillfactor = 40);  -- a node grows when it ends: room for that on its page keeps the update out of the index

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
    lane text not null default 'sql',        -- sql, direct or http
    submitter oid not null,
    instance_id varchar(8) not null,
    node_id varchar(8) not null,
    picked boolean not null default false,   -- false: the run has not begun, and is checked before it does
    autocommit boolean not null default false, -- PostgreSQL refuses the statement inside a transaction
    worker int,                        -- who holds the lease of a direct or http step
    deaths smallint not null default 0,      -- evidence that it kills what runs it: see df_engine.accuse
    constraint ready_pkey primary key (lane, submitter, id)
  ) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000,
          autovacuum_vacuum_cost_delay = 0);
  create index ready_instance_idx on df_engine.ready (instance_id);  -- cancel, lost races, df.check
  create index ready_leased_idx on df_engine.ready (lane, id) where lane <> 'sql';  -- leased steps, from a place on

  -- At most one due time a node: the end of a sleep, a schedule, a signal's time-out, a retry, a loop's pace.
  create table df_engine.timers (
    instance_id varchar(8) not null,
    node_id varchar(8) not null,
    due_at timestamptz not null,
    kind text not null check (kind in ('sleep', 'schedule', 'timeout', 'retry', 'pace')),
    constraint timers_pkey primary key (instance_id, node_id)
  );
  create index timers_due_idx on df_engine.timers (due_at, instance_id, node_id);  -- the next due time; what is due, from a place on

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
    sent_in xid8 not null default pg_current_xact_id(),    -- until it commits, waiting for what it brings is in vain
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
    outcome text check (outcome in ('ok', 'failed', 'fatal', 'broke', 'lost')),   -- NULL while it runs
    events bigint not null default 0,  -- status changes of earlier generations
    stripe varchar(8),                 -- the branch in whose row the end of this one is counted, too; NULL: this one
    open int not null default 1,       -- in a branch of a JOIN: branches of its stripe that have not ended
    constraint scopes_pkey primary key (instance_id, node_id)
  ) with (fillfactor = 70);

  -- Named results. scope: top node of the scope, '' for the root scope.
  create table df_engine.bindings (
    instance_id varchar(8) not null,
    scope varchar(8) not null,
    name text not null,
    value jsonb,
    columns text[],
    types text[],                      -- of the columns, where something refers to the name
    constraint bindings_pkey primary key (instance_id, scope, name)
  ) with (fillfactor = 70);

  -- Earlier iterations of root loops; the newest 10 000 a run are kept.
  create table df_engine.executions (
    instance_id varchar(8) not null,
    generation int not null,
    events bigint not null,
    started_at timestamptz not null,
    finished_at timestamptz not null,
    error text,                        -- why the iteration failed, after which the loop has continued
    constraint executions_pkey primary key (instance_id, generation)
  );

  -- Failed attempts of steps that were tried again: what an overwrite of the node would lose.
  create table df_engine.attempts (
    id bigint generated always as identity,
    instance_id varchar(8) not null,
    node_id varchar(8) not null,
    attempt int not null,
    stamp text,
    failed_at timestamptz not null default now(),
    sqlstate text,
    error text,
    constraint attempts_pkey primary key (instance_id, node_id, id)   -- one run's history, retention
  );

  -- Roles authorised with df.grant_worker.
  create table df_engine.worker_roles (
    role regrole not null constraint worker_roles_pkey primary key
  );

  -- The move of a node: it ended, with outcome ok, failed, fatal (a failure after which no loop continues), broke (on its way to
  -- the enclosing loop) or lost (in a race);
  -- or other nodes are to be entered; or, all NULL, it waits.
  create type df_engine.move as (
    outcome text, value jsonb, columns text[], types text[], error text, enter varchar(8)[]);

  -- A step that can be run as it is: its statement, the kind of that, and whether the types of its columns are wanted; of a plain
  -- one what ends when it ends well, what is entered then, and whether one of ends has a name.
  create type df_engine.step as (
    node varchar, sql text, kind text, typed boolean, plain boolean, ends varchar[], next varchar, named boolean
  );
  -- A plain step that has ended well: what ends with it, its result, and when it ran.
  create type df_engine.outcome as (
    ends varchar[], value jsonb, columns text[], types text[], started timestamptz, ended timestamptz
  );

  -- When the last retention pass was begun.
  create table df_engine.upkeep (
    only_row boolean not null default true constraint upkeep_pkey primary key check (only_row),
    retained_at timestamptz not null default now()
  );
  insert into df_engine.upkeep default values;

  -- One random text, from which the keys of roles are made.
  create table df_engine.secret (
    only_row boolean primary key default true check (only_row),
    value text not null default gen_random_uuid()::text || gen_random_uuid()
  );
  insert into df_engine.secret default values;

  -- Proofs of identity, consumed in the transaction that wrote them.
  create table df_engine.launches (
    launcher regrole not null,
    started_in xid8 not null default pg_current_xact_id(),
    constraint launches_pkey primary key (started_in, launcher)
  );

end if;
end
$migration$;

comment on table df.instances is 'One row a run; status is what is displayed, and error says why it failed or was cancelled';
comment on table df.nodes is 'One row a node of the graph of a run, with its status, result, error, attempts and times';
comment on table df.vars is 'Variables, read in workflows as {name}; each role has its own, copied into a run when it starts';
comment on table df._worker_epoch is 'One row a running worker; max(last_seen_at) less than 15 s ago means that one is alive';
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

-- Migrations: what the tables of file 010 have gained since the first version that can be upgraded in place, each applied once,
-- in this order, with runs in flight: `do $migration$ begin if df_engine.migrating(2) then ... end if; end $migration$`.
-- File 010 is for new installations and gets the same change; a test compares what the two ways lead to.

-- Row security: who sees and writes which rows. Through the views own_instances and visible_inbox, functions that run with the
-- caller's rights write what callers must not write by hand: a view's owner lends its rights to the table, while
-- current_user stays the caller, and WITH CHECK OPTION lets a role write only rows of its own.

-- Only what is missing: each of these statements waits for the steps that run, and all else then waits for it.
do $policies$
begin
  if not (select c.relrowsecurity from pg_class c where c.oid = 'df.instances'::regclass) then
    alter table df.instances enable row level security;
  end if;
  if not (select c.relrowsecurity from pg_class c where c.oid = 'df.nodes'::regclass) then
    alter table df.nodes enable row level security;
  end if;
  if not (select c.relrowsecurity from pg_class c where c.oid = 'df.vars'::regclass) then
    alter table df.vars enable row level security;
  end if;
  if not (select c.relrowsecurity from pg_class c where c.oid = 'df.settings'::regclass) then
    alter table df.settings enable row level security;
  end if;
  if not exists (select from pg_policy p where p.polrelid = 'df.instances'::regclass and p.polname = 'instances_own') then
    create policy instances_own on df.instances
      using (submitted_by = (select quote_ident(current_user)::regrole))
      with check (submitted_by = (select quote_ident(current_user)::regrole));
  end if;
  if not exists (select from pg_policy p where p.polrelid = 'df.nodes'::regclass and p.polname = 'nodes_own') then
    create policy nodes_own on df.nodes
      using (submitted_by = (select quote_ident(current_user)::regrole))
      with check (submitted_by = (select quote_ident(current_user)::regrole));
  end if;
  if not exists (select from pg_policy p where p.polrelid = 'df.vars'::regclass and p.polname = 'vars_own') then
    create policy vars_own on df.vars
      using (owner = (select quote_ident(current_user)::regrole))
      with check (owner = (select quote_ident(current_user)::regrole));
  end if;
end
$policies$;

create or replace view df_engine.own_instances as
  select id, label, root_node, submitted_by, database, input, _state, _submitter, _vars, _version
  from df.instances
  where submitted_by = quote_ident(current_user)::regrole and _submitter = submitted_by and _state = 'pending'
    and jsonb_typeof(_vars) = 'object'
  with check option;

-- Whether the caller may see a run's row: row_security_active asks for the caller, also inside a view.
create or replace view df_engine.visible_inbox with (security_barrier) as
  select s.signal_id, s.instance_id, s.signal_name, s.signal_data, s.sent_by, s.sent_in
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

-- A role's key is what only those who act as the role can read: a view sees its reader as current_user, and so sees through
-- functions with somebody else's rights.
create or replace view df_engine.own_key with (security_barrier) as
  select encode(sha256((s.value || quote_ident(current_user)::regrole::oid::text)::pg_catalog.bytea), 'hex') as key from df_engine.secret s;

-- The secret never changes, so plans keep it as a constant. Callable by the owner only, like all of df_engine.
create or replace function df_engine.secret() returns text
language plpgsql immutable set search_path = '' as $$
begin
  return (select s.value from df_engine.secret s);
end
$$;

-- Settings: rows of df.settings, read where they are used and never cached for longer than a statement. They are written by
-- df.set_setting only, so that whoever reads one may rely on its form.

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
  ('commit_policy', 'strict', 'strict: every step is a transaction that waits for the disk; relaxed: short steps share one, and a run waits at its end and where the outside could notice'),
  ('http_mode', 'allowlist', 'outbound HTTP: off, allowlist or any'),
  ('http_max_timeout', '300', 'largest timeout_seconds of an HTTP step'),
  ('http_max_request_bytes', '10485760', 'largest HTTP request body, in bytes'),
  ('http_max_response_bytes', '10485760', 'largest HTTP response body, in bytes'),
  ('http_retry_after_max', '86400', 'longest Retry-After that is honoured, in seconds')
on conflict (name) do update set description = excluded.description
  where settings.description is distinct from excluded.description;

-- The value as text; NULL for loopback_dsn, which this function's callers have no business to know.
create or replace function df_engine.setting(p_name text) returns text
language plpgsql stable security definer set search_path = '' as $$
begin
  return (select s.value from df.settings s where s.name = p_name and s.name <> 'loopback_dsn');
end
$$;

-- Seconds of a duration: a number, or an interval text.
create or replace function df_engine.seconds(p_value text) returns numeric
language sql stable set search_path = '' as $$
  select case when p_value ~ '^\s*[+-]?[0-9.]+\s*$' then p_value::pg_catalog.numeric
              else extract(epoch from p_value::pg_catalog.interval) end;
$$;

-- The value of an integer or a number; of a duration, in seconds.
create or replace function df_engine.setting_number(p_name text) returns numeric
language plpgsql stable set search_path = '' as $$
begin
  return df_engine.seconds(df_engine.setting(p_name));
end
$$;

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
  ('commit_policy', 'strict', 'choice', 0::numeric, 0::numeric, array['strict', 'relaxed']::text[]),
  ('http_mode', 'allowlist', 'choice', 0::numeric, 0::numeric, array['off', 'allowlist', 'any']::text[]),
  ('http_max_timeout', '300', 'duration', 1::numeric, 86400::numeric, array[]::text[]),
  ('http_max_request_bytes', '10485760', 'integer', 0::numeric, 104857600::numeric, array[]::text[]),
  ('http_max_response_bytes', '10485760', 'integer', 0::numeric, 104857600::numeric, array[]::text[]),
  ('http_retry_after_max', '86400', 'duration', 0::numeric, 604800::numeric, array[]::text[])
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
  update df.settings s set value = v_value where s.name = v_rule.name;
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
     and has_function_privilege(coalesce(nullif(current_setting('role'), 'none'), session_user),
                                'df.set_setting(pg_catalog.text, pg_catalog.text)', 'execute')
$$;

create or replace function df.setting(name text) returns text
language plpgsql stable strict security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_value text;
  v_stack text;
begin
  select s.value into v_value from df.settings s where s.name = setting.name;
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

do $policy$
begin
  if not exists (select from pg_policy p where p.polrelid = 'df.settings'::regclass and p.polname = 'settings_public') then
    create policy settings_public on df.settings for select using (
      name <> 'loopback_dsn'
      or (select has_function_privilege('df.set_setting(text, text)'::regprocedure, 'execute')));
  end if;
end
$policy$;

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
      E'^(?:(\\*|\\?)|(0*(?:[1-9]|[12][0-9]|3[01]))(?:-(0*(?:[1-9]|[12][0-9]|3[01])))?)(?:/(0*[1-9][0-9]?))?$'),
    (4, 'month', 1, 12, array['JAN', 'FEB', 'MAR', 'APR', 'MAY', 'JUN', 'JUL', 'AUG', 'SEP', 'OCT', 'NOV', 'DEC']::pg_catalog.text[],
      E'^(?:(\\*)|((?:0*(?:[1-9]|1[0-2])|JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC))(?:-((?:0*(?:[1-9]|1[0-2])|JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC)))?)(?:/(0*[1-9][0-9]?))?$'),
    (5, 'day of week', 0, 7, array['SUN', 'MON', 'TUE', 'WED', 'THU', 'FRI', 'SAT']::pg_catalog.text[],
      E'^(?:(\\*|\\?)|((?:0*[0-7]|SUN|MON|TUE|WED|THU|FRI|SAT))(?:-((?:0*[0-7]|SUN|MON|TUE|WED|THU|FRI|SAT)))?)(?:/(0*[1-9][0-9]?))?$')
  ) g(field, name, low, high, names, item)
  cross join lateral regexp_split_to_table((p_fields)[g.field], ',') with ordinality i(item, ord)
  left join lateral regexp_match(i.item, g.item) p(part) on true
  cross join lateral (select
      coalesce(case
        when false and p.part[2] = 'SUN' then 7
        when p.part[2] ~ '^[A-Z]' then array_position(g.names, p.part[2]) - 1 + g.low
        else p.part[2]::int
      end, g.low),
      case when p.part[2] is null or p.part[3] is null and p.part[4] is not null then g.high
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
                and min(i.first_value) filter (where i.field = 3) > max(m.days) then
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
        E'^(?:(\\*|\\?)|(0*(?:[1-9]|[12][0-9]|3[01]))(?:-(0*(?:[1-9]|[12][0-9]|3[01])))?)(?:/(0*[1-9][0-9]?))?$'),
      (4, 'month', 1, 12, array['JAN', 'FEB', 'MAR', 'APR', 'MAY', 'JUN', 'JUL', 'AUG', 'SEP', 'OCT', 'NOV', 'DEC']::pg_catalog.text[],
        E'^(?:(\\*)|((?:0*(?:[1-9]|1[0-2])|JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC))(?:-((?:0*(?:[1-9]|1[0-2])|JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC)))?)(?:/(0*[1-9][0-9]?))?$'),
      (5, 'day of week', 0, 7, array['SUN', 'MON', 'TUE', 'WED', 'THU', 'FRI', 'SAT']::pg_catalog.text[],
        E'^(?:(\\*|\\?)|((?:0*[0-7]|SUN|MON|TUE|WED|THU|FRI|SAT))(?:-((?:0*[0-7]|SUN|MON|TUE|WED|THU|FRI|SAT)))?)(?:/(0*[1-9][0-9]?))?$')
    ) g(field, name, low, high, names, item)
    cross join lateral regexp_split_to_table((v_fields)[g.field], ',') with ordinality i(item, ord)
    left join lateral regexp_match(i.item, g.item) p(part) on true
    cross join lateral (select
        coalesce(case
          when false and p.part[2] = 'SUN' then 7
          when p.part[2] ~ '^[A-Z]' then array_position(g.names, p.part[2]) - 1 + g.low
          else p.part[2]::int
        end, g.low),
        case when p.part[2] is null or p.part[3] is null and p.part[4] is not null then g.high
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
    when p_plan.either_day
      then extract(day from p_day)::int = any (p_plan.days) or extract(dow from p_day)::int = any (p_plan.weekdays)
    else extract(day from p_day)::int = any (p_plan.days) and extract(dow from p_day)::int = any (p_plan.weekdays)
  end
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

-- The envelope: the JSON text of a graph before it is started. Here is what reads it, the strict parser, and the rules that a
-- graph must keep. The builders, which write it, come later. Nothing here writes to a table.

-- Remembers what a helper that is no graph builder returned, until the end of the top-level statement.
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
create or replace function df_engine.json_or_null(p_text text) returns jsonb
language plpgsql immutable as $$
begin
  return p_text::pg_catalog.jsonb;
exception when data_exception or program_limit_exceeded then
  return null;
end
$$;

-- Why a node is not well-formed, NULL when it is.
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

create or replace function df_engine.unknown_type(p_type text) returns text
language sql immutable as $$
  select case when p_type not in ('SQL', 'THEN', 'IF', 'JOIN', 'RACE', 'LOOP', 'BREAK', 'SLEEP', 'WAIT_SCHEDULE', 'SIGNAL', 'HTTP', 'HTTP_MULTIPART') then
    'Unknown node_type ''' || p_type || '''; valid types are SQL, THEN, IF, JOIN, RACE, LOOP, BREAK, SLEEP, WAIT_SCHEDULE, SIGNAL, HTTP, HTTP_MULTIPART' end
$$;

-- The graph that df.start and df.explain were given: an envelope, or any other text as one SQL node.
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

-- Why the ids of its children cannot be merged into the query of an IF, LOOP or JOIN, NULL when they can.
create or replace function df_engine.config_problem(p_type text, p_query text) returns text
language plpgsql immutable set search_path = '' as $$
declare
  v_config pg_catalog.jsonb := df_engine.json_or_null(p_query);
  v_key pg_catalog.text := case p_type when 'JOIN' then 'extra_nodes' else 'condition_node' end;
begin
  return case
    when v_config is null then 'query in ' || p_type || ' must be valid JSON config'
    when pg_catalog.jsonb_typeof(v_config) <> 'object' then 'query in ' || p_type || ' must be a JSON config object'
    when v_config ? v_key then v_key || ' in ' || p_type || ' must be a first-class Durofut field'
    when p_type = 'LOOP' and pg_catalog.jsonb_typeof(v_config -> 'continue_on_failure') <> 'boolean' then
      'continue_on_failure in LOOP must be true or false'
  end;
end
$$;

-- Why a node breaks the rules of a graph, NULL when it does not. An expression, so that the walk has it inlined.
create or replace function df_engine.node_problem(p_node jsonb, p_type text) returns text
language sql immutable as $$
  select case
    when p_type is null then 'a node must be a Durofut JSON object with a node_type'
    when p_node ? 'condition_node' and p_type not in ('IF', 'LOOP') then
      'condition_node is not valid for ' || p_type || ' nodes'
    when p_node ? 'extra_nodes' and p_type <> 'JOIN' then 'extra_nodes is not valid for ' || p_type || ' nodes'
    when p_node ? 'retry' and p_type not in ('SQL', 'HTTP', 'HTTP_MULTIPART') then 'retry is not valid for ' || p_type || ' nodes'
    else coalesce(
      df_engine.unknown_type(p_type),
      df_engine.malformed(p_node),
      case when p_node ? 'retry' then df_engine.retry_problem(p_node -> 'retry') end,
      case when p_node ? 'query' and p_type in ('IF', 'LOOP', 'JOIN') then
        df_engine.config_problem(p_type, p_node ->> 'query') end)
  end
$$;

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

-- The graph: the walk that checks what an envelope says and lays it out as rows. Nothing here writes to a table.

create or replace function df_engine.random_id() returns text
language sql volatile as $$ select pg_catalog.left(pg_catalog.gen_random_uuid()::pg_catalog.text, 8) $$;

-- The p_ord-th id of a run: as random as the root's, which is the first, and never the same twice.
create or replace function df_engine.node_id(p_root text, p_ord bigint) returns text
language sql immutable as $$
  select pg_catalog.lpad(pg_catalog.to_hex(
    (('x' || p_root)::bit(32)::bigint + (p_ord - 1) * 2654435761) & 4294967295), 8, '0')
$$;

-- What df.nodes keeps as the query of a node: its own, with the ids of the children that it has no column for.
-- STABLE, as concat_ws is: declared stricter than its parts it would not be inlined.
create or replace function df_engine.stored_query(p_query text, p_condition text, p_extras text[]) returns text
language sql stable as $$
  select case when p_condition is null and p_extras is null then p_query
    else '{' || pg_catalog.concat_ws(',',
      nullif(substring(p_query from '^\s*\{\s*(.*)\}\s*$'), ''),
      '"condition_node":"' || p_condition || '"',
      '"extra_nodes":["' || pg_catalog.array_to_string(p_extras, '","') || '"]') || '}'
  end
$$;

-- A node that is still to be laid out: its number and id, the id of what it begins with, the way to it, what it ends and what
-- is entered after it.
do $type$
begin
  if to_regtype('df_engine.graph_visit') is null then
    create type df_engine.graph_visit as (
      number int, id text, begins text, path text, depth int, parent text, scope text, ends text, after text,
      named boolean, referred boolean);
  end if;
end
$type$;

-- How far below a node the one is that it begins with: a sequence begins with what its first part begins with.
create or replace function df_engine.steps_to_beginning(p_node jsonb) returns int
language plpgsql immutable as $$
declare
  v_steps int := 0;
begin
  while p_node ->> 'node_type' = 'THEN' and p_node ? 'left_node' and v_steps <= 256 loop
    p_node := p_node -> 'left_node';
    v_steps := v_steps + 1;
  end loop;
  return v_steps;
end
$$;

-- The children of a node in pre-order, and the step of the path to each.
create or replace function df_engine.child_nodes(p_node jsonb, p_type text, out p_steps text[], out p_nodes jsonb[])
language plpgsql immutable set search_path = '' as $$
begin
  select pg_catalog.array_agg(c.step order by c.place, c.number), pg_catalog.array_agg(c.node order by c.place, c.number)
  into p_steps, p_nodes
  from (
    values (case p_type when 'LOOP' then 3 else 0 end, 0, '.condition_node', p_node -> 'condition_node'),
           (1, 0, '.left', p_node -> 'left_node'),
           (2, 0, '.right', p_node -> 'right_node')
    union all
    select 4, e.number, '.extra_nodes[' || e.number - 1 || ']', e.node
    from pg_catalog.jsonb_path_query(p_node, '$.extra_nodes[*]') with ordinality e(node, number)
  ) c(place, number, step, node)
  where c.node is not null;
end
$$;

-- The first part of a sequence, which begins with what the sequence begins with.
create or replace function df_engine.first_part(p_whole df_engine.graph_visit, p_id text, p_scope text, p_after text)
returns df_engine.graph_visit
language sql immutable as $$
  select row(p_whole.number + 1, p_id, p_whole.begins, p_whole.path || '.left', p_whole.depth + 1, p_whole.id, p_scope,
             null, p_after, false, p_whole.referred)::df_engine.graph_visit
$$;

-- The other part, which is the last of the sequence, and of all that the sequence is the last of.
create or replace function df_engine.last_part(p_whole df_engine.graph_visit, p_number int, p_id text, p_begins text,
  p_scope text, p_named boolean) returns df_engine.graph_visit
language sql stable as $$
  select row(p_number, p_id, p_begins, p_whole.path || '.right', p_whole.depth + 1, p_whole.id, p_scope,
             concat_ws(',', p_whole.id, p_whole.ends), p_whole.after, p_named, p_whole.referred)::df_engine.graph_visit
$$;

-- What is below a construct: the visits of its children, and what df.nodes keeps of their ids. A branch of a JOIN or RACE is a
-- scope of its own. A branch of an IF ends it, and the body of a LOOP is followed by its condition; after all others the
-- construct decides.
create or replace function df_engine.construct_parts(p_root text, p_visit df_engine.graph_visit, p_node jsonb, p_scope text,
  inout p_issued int, out p_nodes jsonb[], out p_visits df_engine.graph_visit[], out p_left text, out p_right text, out p_query text)
language plpgsql as $$
declare
  v_type constant pg_catalog.text := p_node ->> 'node_type';
  v_steps pg_catalog.text[];
  v_ids pg_catalog.text[];
  v_number int;
  v_ends_it boolean;
begin
  select c.p_steps, c.p_nodes into v_steps, p_nodes from df_engine.child_nodes(p_node, v_type) c;
  for i in reverse coalesce(cardinality(p_nodes), 0)..1 loop
    v_number := p_issued + 1;
    v_ids[i] := df_engine.node_id(p_root, v_number);
    p_issued := v_number + df_engine.steps_to_beginning(p_nodes[i]);
    v_ends_it := v_type = 'IF' and v_steps[i] <> '.condition_node';
    p_visits[i] := row(v_number, v_ids[i], df_engine.node_id(p_root, p_issued), p_visit.path || v_steps[i], p_visit.depth + 1,
                       p_visit.id, case when v_type in ('JOIN', 'RACE') then v_ids[i] else p_scope end,
                       case when v_ends_it then concat_ws(',', p_visit.id, p_visit.ends) end,
                       case when v_ends_it then p_visit.after when v_type = 'LOOP' then (p_visits[i + 1]).begins end,
                       v_ends_it and (p_visit.named or p_node ? 'result_name'), p_visit.referred)::df_engine.graph_visit;
  end loop;
  p_left := v_ids[array_position(v_steps, '.left')];
  p_right := v_ids[array_position(v_steps, '.right')];
  p_query := df_engine.stored_query(p_node ->> 'query', v_ids[array_position(v_steps, '.condition_node')],
                                    v_ids[array_position(v_steps, '.extra_nodes[0]'):]);
end
$$;

-- A graph laid out as rows in pre-order, as df.nodes keeps it. Raises for the first node that breaks a rule. The nodes that
-- are still to be visited are kept, so the depth of a graph is never the depth of a stack. What follows a node is known before
-- anything runs: ends are the sequences that it is the last of, and each IF whose branch ends with it; next is what is entered
-- after it (of a sequence: the node that it begins with); named says whether it or one of ends has a name, and referred whether it or a node around it has one of p_referred. Ids are issued from
-- above, to a sequence together with all that it begins with. A loop, not a recursive query: the executor takes longer to start than this to end, and what
-- the planner guesses about such a query makes PostgreSQL compile it each time, which takes seconds.
create or replace function df_engine.graph_nodes(p_graph jsonb, p_root text default pg_catalog.left(pg_catalog.gen_random_uuid()::text, 8),
  p_prefix text default '', p_referred text[] default null)
returns table (ord int, path text, depth int, id text, node_type text, query text, result_name text, left_node text,
               right_node text, retry_policy jsonb, parent text, scope text, ends text[], next text, named boolean, referred boolean)
language plpgsql as $$
declare
  v_root constant pg_catalog.text collate pg_catalog."default" := p_root;  -- whatever collation df.start was called with
  v_issued int := 1 + df_engine.steps_to_beginning(p_graph);
  v_visit df_engine.graph_visit :=
    row(1, v_root, df_engine.node_id(v_root, v_issued), 'root', 0, null, null, null, null, false, false);
  v_node pg_catalog.jsonb := p_graph;
  v_waiting df_engine.graph_visit[];  -- the next one last
  v_nodes pg_catalog.jsonb[];         -- theirs
  v_count int := 0;
  v_problem pg_catalog.text;
  v_number int;
  v_after pg_catalog.text;
  v_inside pg_catalog.jsonb[];         -- what a construct has below it
  v_children df_engine.graph_visit[];
begin
  ord := 0;
  loop
    node_type := v_node ->> 'node_type';
    v_problem := df_engine.node_problem(v_node, node_type);
    ord := ord + 1;
    path := v_visit.path;
    depth := v_visit.depth;
    if v_problem is not null or depth > 256 or ord > 10000 then
      perform df_engine.reject_node(p_prefix, path, depth, ord, v_problem);
    end if;
    id := v_visit.id;
    query := v_node ->> 'query';
    result_name := v_node ->> 'result_name';
    retry_policy := v_node -> 'retry';
    parent := v_visit.parent;
    scope := case when node_type = 'LOOP' and ord > 1 then id else v_visit.scope end;
    ends := coalesce(string_to_array(v_visit.ends, ','), '{}');
    named := v_visit.named or result_name is not null;
    v_visit.referred := v_visit.referred or coalesce(result_name = any (p_referred), false);
    referred := v_visit.referred;
    if node_type = 'THEN' and v_node ?& '{left_node,right_node}' then
      v_count := v_count + 1;
      v_nodes[v_count] := v_node -> 'right_node';
      v_number := v_issued + 1;
      v_issued := v_number + df_engine.steps_to_beginning(v_nodes[v_count]);
      left_node := df_engine.node_id(v_root, v_visit.number + 1);
      right_node := df_engine.node_id(v_root, v_number);
      next := v_visit.begins;
      return next;
      v_after := df_engine.node_id(v_root, v_issued);
      v_waiting[v_count] := df_engine.last_part(v_visit, v_number, right_node, v_after, scope, named);
      v_node := v_node -> 'left_node';
      v_visit := df_engine.first_part(v_visit, left_node, scope, v_after);
      continue;
    end if;
    left_node := null;
    right_node := null;
    next := v_visit.after;
    if v_node ?| '{left_node,right_node,condition_node,extra_nodes}' then
      select * into v_issued, v_inside, v_children, left_node, right_node, query
      from df_engine.construct_parts(v_root, v_visit, v_node, scope, v_issued);
      for i in reverse coalesce(cardinality(v_inside), 0)..1 loop
        v_count := v_count + 1;
        v_nodes[v_count] := v_inside[i];
        v_waiting[v_count] := v_children[i];
      end loop;
    end if;
    return next;
    exit when v_count = 0;
    v_node := v_nodes[v_count];
    v_visit := v_waiting[v_count];
    v_count := v_count - 1;
  end loop;
end
$$;

-- Builders: functions that return the envelope of a node. They write nothing and need nothing but USAGE on df, so they call
-- no private function. A graph given as an argument is wrapped by df.loop alone; the others take it out of what that returns.

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
  v_node pg_catalog.jsonb;
  v_problem pg_catalog.text;
begin
  if body is null then
    raise exception 'argument body of df.loop is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;
  if continue_on_failure is null then
    raise exception 'argument continue_on_failure of df.loop is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;

  if nullif(pg_catalog.current_setting('pg_durable.returned', true), '')::pg_catalog.jsonb
    -> pg_catalog.statement_timestamp()::pg_catalog.text ? body then
    raise exception '% cannot be used as a workflow step', nullif(pg_catalog.current_setting('pg_durable.returned', true), '')::pg_catalog.jsonb
    -> pg_catalog.statement_timestamp()::pg_catalog.text ->> body
      using errcode = 'invalid_parameter_value',
            hint = 'It returns a value, not a graph. Call it in a statement of its own.';
  end if;
  if body ~ '^\s*\{' then
    begin
      v_node := pg_catalog.jsonb_strip_nulls(body::pg_catalog.jsonb);
    exception when data_exception or program_limit_exceeded then
      v_node := null;
    end;
  end if;
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
  return '{"node_type":"LOOP","left_node":'
    || case when v_node ->> 'node_type' in ('SQL', 'THEN', 'IF', 'JOIN', 'RACE', 'LOOP', 'BREAK', 'SLEEP', 'WAIT_SCHEDULE', 'SIGNAL', 'HTTP', 'HTTP_MULTIPART') then body else df.sql(body) end
    || case when condition is null then '' else ',"condition_node":' || (df.loop(condition)::pg_catalog.json -> 'left_node')::pg_catalog.text end
    || case when continue_on_failure then ',"query":' || pg_catalog.to_json('{"continue_on_failure":true}'::pg_catalog.text)
         else '' end || '}';
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

  return '{"node_type":"THEN","left_node":' || (df.loop(a)::pg_catalog.json -> 'left_node')::pg_catalog.text
    || ',"right_node":' || (df.loop(b)::pg_catalog.json -> 'left_node')::pg_catalog.text || '}';
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

  return '{"node_type":"JOIN","left_node":' || (df.loop(a)::pg_catalog.json -> 'left_node')::pg_catalog.text
    || ',"right_node":' || (df.loop(b)::pg_catalog.json -> 'left_node')::pg_catalog.text || '}';
end
$$;

create or replace function df.race(a text, b text) returns text
language plpgsql set search_path = '' as $$
begin
  if a is null then
    raise exception 'the first branch of | is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;
  if b is null then
    raise exception 'the second branch of | is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;

  return '{"node_type":"RACE","left_node":' || (df.loop(a)::pg_catalog.json -> 'left_node')::pg_catalog.text
    || ',"right_node":' || (df.loop(b)::pg_catalog.json -> 'left_node')::pg_catalog.text || '}';
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

  return '{"node_type":"JOIN","left_node":' || (df.loop(a)::pg_catalog.json -> 'left_node')::pg_catalog.text
    || ',"right_node":' || (df.loop(b)::pg_catalog.json -> 'left_node')::pg_catalog.text
    || ',"extra_nodes":[' || (df.loop(c)::pg_catalog.json -> 'left_node')::pg_catalog.text || ']}';
end
$$;

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

  return '{"node_type":"IF","left_node":' || (df.loop(then_branch)::pg_catalog.json -> 'left_node')::pg_catalog.text
    || ',"right_node":' || (df.loop(else_branch)::pg_catalog.json -> 'left_node')::pg_catalog.text
    || ',"condition_node":' || (df.loop(condition)::pg_catalog.json -> 'left_node')::pg_catalog.text || '}';
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

  return '{"node_type":"IF","left_node":' || (df.loop(then_branch)::pg_catalog.json -> 'left_node')::pg_catalog.text
    || ',"right_node":' || (df.loop(else_branch)::pg_catalog.json -> 'left_node')::pg_catalog.text
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
  elsif name in ('input', 'item', 'item_no', 'error') then
    raise exception '$% is what a run binds itself: no result can have this name', name
      using errcode = 'invalid_parameter_value', hint = 'Give the result another name.';
  end if;
  return (
    select '{' || pg_catalog.string_agg(pg_catalog.to_json(k.key) || ':' || k.value, ',' order by known.place) || '}'
    from (
      select e.key, e.value
      from pg_catalog.json_each(df.loop(fut)::pg_catalog.json -> 'left_node') e
      where e.key <> 'result_name'
      union all
      select 'result_name', pg_catalog.to_json(name)
    ) k
    join pg_catalog.unnest(array['node_type', 'left_node', 'right_node', 'condition_node', 'extra_nodes', 'query', 'result_name', 'retry']) with ordinality known(key, place) on known.key = k.key);
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

  v_type := df.loop(fut)::pg_catalog.json #>> '{left_node,node_type}';
  v_policy := '{' || pg_catalog.concat_ws(',',
    '"max_attempts":' || max_attempts,
    '"initial_delay":' || pg_catalog.to_json(pg_catalog.trim_scale(extract(epoch from initial_delay))),
    '"backoff":' || pg_catalog.to_json(pg_catalog.trim_scale(backoff)),
    '"max_delay":' || pg_catalog.to_json(pg_catalog.trim_scale(extract(epoch from max_delay))),
    '"retry_on":' || pg_catalog.to_json(retry_on)) || '}';
  v_problem := case when v_type not in ('SQL', 'HTTP', 'HTTP_MULTIPART') then 'retry is not valid for ' || v_type || ' nodes'
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
      hint = 'df.retry takes one SQL or HTTP step: put it around each step that is to be tried again.';
  end if;
  return (
    select '{' || pg_catalog.string_agg(pg_catalog.to_json(k.key) || ':' || k.value, ',' order by known.place) || '}'
    from (
      select e.key, e.value
      from pg_catalog.json_each(df.loop(fut)::pg_catalog.json -> 'left_node') e
      where e.key <> 'retry'
      union all
      select 'retry', v_policy::pg_catalog.json
    ) k
    join pg_catalog.unnest(array['node_type', 'left_node', 'right_node', 'condition_node', 'extra_nodes', 'query', 'result_name', 'retry']) with ordinality known(key, place) on known.key = k.key);
end
$$;

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

  begin
    v_seconds := case when duration ~ '^[[:space:]]*[+-]?([0-9]|[.][0-9])[0-9.eE+-]*[[:space:]]*$' then duration::pg_catalog.numeric
                      else extract(epoch from duration::pg_catalog.interval) end;
  exception when data_exception then
    raise exception '"%" is no duration', duration
      using errcode = 'invalid_parameter_value', hint = 'Write seconds, such as 0.5, or an interval, such as 5 minutes.';
  end;
  return df.sleep(v_seconds);
end
$$;

create or replace function df.wait_for_schedule(cron_expr text, timezone text default null) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
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
    from upper(btrim(cron_expr, E' \t\n\r') collate "C") v_line);
  v_problem text;
begin
  if cron_expr is null then
    return null;
  end if;
  v_problem := case when cardinality(v_fields) <> 5 then
    'expected five fields or one of @hourly, @daily, @midnight, @weekly, @monthly, @yearly, @annually'
  else (
    select coalesce(
      (array_agg(i.problem) filter (where i.problem is not null))[1],
      case when ((v_fields)[3] ~ '^[*?]' or (v_fields)[5] ~ '^[*?]')
                and min(i.first_value) filter (where i.field = 3) > max(m.days) then
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
        E'^(?:(\\*|\\?)|(0*(?:[1-9]|[12][0-9]|3[01]))(?:-(0*(?:[1-9]|[12][0-9]|3[01])))?)(?:/(0*[1-9][0-9]?))?$'),
      (4, 'month', 1, 12, array['JAN', 'FEB', 'MAR', 'APR', 'MAY', 'JUN', 'JUL', 'AUG', 'SEP', 'OCT', 'NOV', 'DEC']::pg_catalog.text[],
        E'^(?:(\\*)|((?:0*(?:[1-9]|1[0-2])|JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC))(?:-((?:0*(?:[1-9]|1[0-2])|JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC)))?)(?:/(0*[1-9][0-9]?))?$'),
      (5, 'day of week', 0, 7, array['SUN', 'MON', 'TUE', 'WED', 'THU', 'FRI', 'SAT']::pg_catalog.text[],
        E'^(?:(\\*|\\?)|((?:0*[0-7]|SUN|MON|TUE|WED|THU|FRI|SAT))(?:-((?:0*[0-7]|SUN|MON|TUE|WED|THU|FRI|SAT)))?)(?:/(0*[1-9][0-9]?))?$')
    ) g(field, name, low, high, names, item)
    cross join lateral regexp_split_to_table((v_fields)[g.field], ',') with ordinality i(item, ord)
    left join lateral regexp_match(i.item, g.item) p(part) on true
    cross join lateral (select
        coalesce(case
          when false and p.part[2] = 'SUN' then 7
          when p.part[2] ~ '^[A-Z]' then array_position(g.names, p.part[2]) - 1 + g.low
          else p.part[2]::int
        end, g.low),
        case when p.part[2] is null or p.part[3] is null and p.part[4] is not null then g.high
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
  elsif timeout_seconds < 1 then
    raise exception 'Timeout must be positive, not % s', timeout_seconds using errcode = 'invalid_parameter_value';
  end if;
  return '{"node_type":"SIGNAL","query":' || pg_catalog.to_json(
    '{"signal_name":' || pg_catalog.to_json(name)
    || ',"timeout_seconds":' || coalesce(timeout_seconds::pg_catalog.text, 'null') || '}') || '}';
end
$$;

create or replace function df.break(value text default null) returns text
language plpgsql set search_path = '' as $$
begin
  return '{"node_type":"BREAK","query":'
    || pg_catalog.to_json('{"break_value":' || coalesce(pg_catalog.to_json(value)::pg_catalog.text, 'null') || '}') || '}';
end
$$;

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

comment on function df.sql(text) is
  'The node of an SQL statement. The text is taken verbatim, even if it looks like an envelope';
comment on function df.literal(text) is
  'A text as a constant for SQL code in which no {name} and no $name is replaced; NULL gives NULL. Where a step can read it as $input, that is the better way';
comment on function df.literal(anyelement) is
  'The same for a value of any other type, with a cast to that type';
comment on function df.seq(text, text) is
  'First a, then b; the result is that of b';
comment on function df.as(text, text) is
  'Names the result of a graph, for $name in later steps; replaces an earlier name. Raises for a name that is not an identifier';
comment on function df.sleep(numeric) is
  'Waits for so many seconds, fractions included; 0 to 3155760000';
comment on function df.sleep(double precision) is
  'The same, with a number of any other type';
comment on function df.sleep(interval) is
  'Waits for the interval, in which a month counts 30 days; up to 100 years';
comment on function df.sleep(text) is
  'Waits for a duration given as text: seconds (0.5) or an interval (5 minutes). Raises for any other text';
comment on function df.wait_for_schedule(text, text) is
  'Waits for the next minute that matches a cron expression of five fields, in the named time zone or that of the setting timezone. Raises for an expression that is invalid or never comes due';
comment on function df.loop(text, text, boolean) is
  'Repeats the body as long as the condition, judged after it, is true; without a condition until df.break ends it. With continue_on_failure a failure of the body is recorded and, after a pause that grows with each failure in a row, the next iteration begins';
comment on function df.break(text) is
  'Ends the nearest enclosing loop, whose result becomes the value: JSON if it parses, else a string';
comment on function df.if(text, text, text) is
  'Runs the condition, then one of the branches; the result is that of the branch';
comment on function df.if_rows(text, text, text) is
  'Runs the first branch if the named result has rows, else the second';
comment on function df.join(text, text) is
  'Runs both in parallel and waits for both; the result is the array of theirs';
comment on function df.join3(text, text, text) is
  'Runs the three in parallel and waits for all; the result is the array of theirs';
comment on function df.race(text, text) is
  'Runs both in parallel; the one that finishes first decides, and the other is cancelled';
comment on function df.wait_for_signal(text, integer) is
  'Waits for a signal of that name, without a limit or for so many seconds; the result has signal_name, timed_out and data';
comment on function df.retry(text, integer, interval, numeric, interval, text[]) is
  'Sets how a step is tried again when it fails; what is NULL keeps its default. retry_on lists SQLSTATEs, their classes, connection, timeout, http:404, http:4xx and transient; NULL is every error that may be retried';

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

  if (partial_if::pg_catalog.jsonb -> '_partial_if' = 'true'
      and partial_if::pg_catalog.jsonb ?& array['condition', 'then_branch']) is not true then
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
    execute format('comment on operator %I.?> (text, text) is %L', v_schema, 'condition and then-branch of an IF, to be completed with !>');
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
  'Behind the operator ?>: condition and then-branch of an IF, to be completed with !>';
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
  select '{51,102,153,0,204,255,0,306,0,0,0,357,0,0,0,0,0,0,408,0,0,0,459,0,0,510,0,0,0,561,612,663,714,765,816,867,918,0,969,1020,1071,0,0,0,1122,1173,0,0,1224,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-26,-26,-26,-26,-26,-26,0,-26,-26,0,0,0,0,0,0,-26,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-27,-27,-27,-27,-27,-27,0,-27,-27,0,0,0,0,0,0,-27,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-28,-28,-28,-28,-28,-28,0,-28,-28,0,0,0,0,0,0,-28,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,1275,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,1326,0,0,1377,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,51,102,153,0,0,0,0,0,0,0,0,0,-23,-23,-23,-23,-23,-23,1428,-23,-23,0,0,0,0,0,0,-23,0,0,0,0,0,0,0,0,0,0,0,1479,0,0,0,0,0,0,0,0,0,0,0,51,102,153,0,204,255,0,306,0,0,0,357,0,0,0,0,0,0,408,0,0,0,459,0,0,510,0,0,0,0,1530,663,714,765,816,867,918,0,969,1020,1071,0,0,0,1122,1173,0,0,1224,0,0,51,102,153,0,204,255,0,306,0,0,0,357,0,0,0,0,0,0,408,0,0,0,459,0,0,510,0,0,0,0,1581,663,714,765,816,867,918,0,969,1020,1071,0,0,0,1122,1173,0,0,1224,0,0,0,0,0,1632,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,1683,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,1734,1785,0,0,0,0,0,0,1836,0,0,1887,0,1938,1989,2040,0,0,0,0,0,0,0,0,0,0,0,459,0,0,510,2091,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,2142,0,0,2193,2244,2295,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,561,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-1,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-2,0,0,0,0,0,-2,-2,0,0,0,0,0,0,-2,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,2346,-4,2397,0,0,0,0,-4,-4,0,0,0,0,0,0,-4,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-6,-6,-6,2448,0,0,0,-6,-6,0,0,0,0,0,0,-6,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-8,-8,-8,-8,0,0,0,-8,-8,0,0,0,0,0,0,-8,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-12,-12,-12,-12,2499,0,0,-12,-12,0,0,0,0,0,0,-12,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-10,-10,-10,-10,2550,2601,0,-10,-10,0,0,0,0,0,0,-10,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-15,-15,-15,-15,-15,-15,0,-15,-15,0,0,0,0,0,0,-15,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-20,-20,-20,-20,-20,-20,0,-20,-20,0,0,0,0,0,0,-20,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-22,-22,-22,-22,-22,-22,0,-22,-22,0,0,0,0,0,0,-22,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-21,-21,-21,-21,-21,-21,0,-21,-21,0,0,0,0,0,0,-21,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-47,-47,-47,-47,-47,-47,0,-47,-47,0,0,0,0,0,0,-47,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-48,-48,-48,-48,-48,-48,0,-48,-48,0,0,0,0,0,0,-48,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,51,102,153,2652,2703,255,2754,306,2805,2856,2907,357,0,0,0,0,0,0,408,2958,0,0,459,0,0,510,0,0,0,0,3009,663,714,765,816,867,918,0,969,1020,1071,3060,3111,3162,1122,1173,0,0,1224,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,3213,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,3264,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,51,102,153,2652,2703,255,2754,306,2805,2856,2907,357,0,0,0,0,0,0,408,3315,0,0,459,0,0,510,0,0,0,0,3009,663,714,765,816,867,918,0,969,1020,1071,3366,3111,3162,1122,1173,0,0,1224,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-24,-24,-24,-24,-24,-24,0,-24,-24,0,0,0,0,0,0,-24,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-3,0,0,0,0,0,-3,-3,0,0,0,0,0,0,-3,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,3417,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,3468,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-49,-49,-49,-49,-49,-49,0,-49,-49,0,0,-49,0,0,-49,-49,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,3519,0,0,3570,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-51,0,0,-51,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-60,0,0,-60,0,0,-60,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-61,0,0,-61,0,0,-61,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-62,0,0,-62,0,0,-62,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-63,0,0,-63,0,0,-63,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-64,0,0,-64,0,0,-64,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-54,-54,-54,-54,-54,-54,0,-54,-54,0,0,-54,0,0,-54,-54,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-58,0,0,-58,0,0,-58,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-59,0,0,-59,0,0,-59,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,3621,0,0,0,0,0,3672,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-56,0,0,0,0,0,-56,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,51,102,153,0,204,255,0,306,0,0,0,357,0,0,0,0,0,0,408,0,0,0,459,0,0,510,0,0,0,0,3723,663,714,765,816,867,918,0,969,1020,1071,0,0,0,1122,1173,0,0,1224,0,0,51,102,153,0,204,255,0,306,0,0,0,0,0,0,0,0,0,0,408,0,0,0,459,0,0,510,0,0,0,0,0,0,0,3774,816,867,918,0,969,1020,1071,0,0,0,1122,1173,0,0,1224,0,0,51,102,153,0,204,255,0,306,0,0,0,0,0,0,0,0,0,0,408,0,0,0,459,0,0,510,0,0,0,0,0,0,0,0,3825,867,918,0,969,1020,1071,0,0,0,1122,1173,0,0,1224,0,0,51,102,153,0,204,255,0,306,0,0,0,0,0,0,0,0,0,0,408,0,0,0,459,0,0,510,0,0,0,0,0,0,0,0,0,0,3876,0,969,1020,1071,0,0,0,1122,1173,0,0,1224,0,0,51,102,153,0,204,255,0,306,0,0,0,0,0,0,0,0,0,0,408,0,0,0,459,0,0,510,0,0,0,0,0,0,0,0,0,0,3927,0,969,1020,1071,0,0,0,1122,1173,0,0,1224,0,0,3978,0,0,4029,4080,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,4131,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-46,-46,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,1275,0,0,4182,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-42,-42,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-43,-43,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-44,-44,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-45,-45,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-31,-31,-31,-31,-31,-31,0,-31,-31,0,0,0,0,0,0,-31,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-41,-41,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,4233,4284,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-37,-37,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-39,-39,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,51,102,153,2652,2703,255,2754,306,2805,2856,2907,357,0,0,0,0,0,0,408,4335,0,0,459,0,0,510,0,0,0,0,3009,663,714,765,816,867,918,0,969,1020,1071,4386,3111,3162,1122,1173,0,0,1224,0,0,51,102,153,2652,2703,255,2754,306,2805,2856,2907,357,0,0,0,0,0,0,408,4437,0,0,459,0,0,510,0,0,0,0,3009,663,714,765,816,867,918,0,969,1020,1071,4488,3111,3162,1122,1173,0,0,1224,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-32,-32,-32,-32,-32,-32,0,-32,-32,0,0,0,0,0,0,-32,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,4539,4284,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-25,-25,-25,-25,-25,-25,0,-25,-25,0,0,0,0,0,0,-25,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,1836,0,0,1887,0,1938,1989,2040,0,0,0,0,0,0,0,0,0,0,0,459,0,0,510,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,2142,0,0,2193,0,4590,0,0,0,1632,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,4641,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-50,-50,-50,-50,-50,-50,0,-50,-50,0,0,-50,0,0,-50,-50,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,1836,0,0,1887,0,1938,1989,2040,0,0,0,0,0,0,0,0,0,0,0,459,0,0,510,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,2142,0,0,2193,0,4692,0,0,0,0,0,0,0,0,0,0,0,0,-55,-55,-55,-55,-55,-55,0,-55,-55,0,0,-55,0,0,-55,-55,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,4743,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-7,-7,-7,2448,0,0,0,-7,-7,0,0,0,0,0,0,-7,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-9,-9,-9,-9,0,0,0,-9,-9,0,0,0,0,0,0,-9,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-14,-14,-14,-14,-14,2601,0,-14,-14,0,0,0,0,0,0,-14,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-11,-11,-11,-11,4794,2601,0,-11,-11,0,0,0,0,0,0,-11,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-18,-18,-18,-18,-18,-18,0,-18,-18,0,0,0,0,0,0,-18,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-19,-19,-19,-19,-19,-19,0,-19,-19,0,0,0,0,0,0,-19,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-17,-17,-17,-17,-17,-17,0,-17,-17,0,0,0,0,0,0,-17,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-16,-16,-16,-16,-16,-16,0,-16,-16,0,0,0,0,0,0,-16,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,51,102,153,2652,204,255,2754,306,2805,2856,2907,357,0,0,0,0,0,0,408,0,0,0,459,0,0,510,0,0,0,0,3009,663,714,765,816,867,918,0,969,1020,1071,0,0,4845,1122,1173,0,0,1224,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-35,-35,-35,-35,-35,-35,0,-35,-35,0,0,0,0,0,0,-35,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,51,102,153,2652,2703,255,2754,306,2805,2856,2907,357,0,0,0,0,0,0,408,0,0,0,459,0,0,510,0,0,0,0,3009,663,714,765,816,867,918,0,969,1020,1071,0,4896,3162,1122,1173,0,0,1224,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-29,-29,-29,-29,-29,-29,0,-29,-29,0,0,0,0,0,0,-29,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,4947,4284,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-30,-30,-30,-30,-30,-30,0,-30,-30,0,0,0,0,0,0,-30,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,4998,4284,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-36,-36,-36,-36,-36,-36,0,-36,-36,0,0,0,0,0,0,-36,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-53,0,0,-53,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-52,0,0,-52,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-57,0,0,0,0,0,-57,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,51,102,153,0,204,255,0,306,0,0,0,357,0,0,0,0,0,0,408,0,0,0,459,0,0,510,0,0,0,0,5049,663,714,765,816,867,918,0,969,1020,1071,0,0,0,1122,1173,0,0,1224,0,0,51,102,153,0,204,255,0,306,0,0,0,0,0,0,0,0,0,0,408,0,0,0,459,0,0,510,0,0,0,0,0,0,0,0,0,0,5100,0,969,1020,1071,0,0,0,1122,1173,0,0,1224,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-40,-40,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-38,-38,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-33,-33,-33,-33,-33,-33,0,-33,-33,0,0,0,0,0,0,-33,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-34,-34,-34,-34,-34,-34,0,-34,-34,0,0,0,0,0,0,-34,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-5,0,0,0,0,0,-5,-5,0,0,0,0,0,0,-5,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,-13,-13,-13,-13,-13,2601,0,-13,-13,0,0,0,0,0,0,-13,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0}'::int[]
$$;

-- Parses tokens. The tree comes out as its nodes in post-order: the item (0: a token) and the tokens it spans.
-- failed_at is the token that cannot follow what was read (NULL: all is well), states the stack at that point.
create or replace function df_engine.flow_parse(
  p_kinds int[], out items int[], out froms int[], out untils int[], out failed_at int, out states int[])
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  c_table constant int[] := df_engine.flow_table();
  c_items constant int[] := '{0,0,1,0,2,0,3,0,4,0,5,0,6,7,0,8,0,0,0,0,0,0,9,9,0,0,0,0,9,9,9,9,9,9,9,9,0,0,0,10,0,0,0,0,0,0,11,11,0,0,0,0,0,0,0,0,0,11,11,0,0,0,0,0}';
  c_lengths constant int[] := '{1,1,2,1,5,1,3,1,3,1,3,1,5,3,1,3,1,1,1,1,1,1,1,2,3,1,1,1,4,4,3,3,5,5,4,4,1,3,1,3,1,1,1,1,1,1,1,1,2,3,1,3,3,2,3,1,3,1,1,1,1,1,1,1}';
  c_heads constant int[] := '{30,31,31,32,32,33,33,34,34,35,35,35,36,36,37,37,38,38,38,39,39,39,39,39,39,40,40,40,41,41,41,41,41,41,41,41,42,42,43,43,44,44,44,44,44,44,45,45,46,46,47,47,48,49,49,50,50,51,51,51,51,51,51,51}';
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
  c_lengths constant int[] := '{1,1,2,1,5,1,3,1,3,1,3,1,5,3,1,3,1,1,1,1,1,1,1,2,3,1,1,1,4,4,3,3,5,5,4,4,1,3,1,3,1,1,1,1,1,1,1,1,2,3,1,3,3,2,3,1,3,1,1,1,1,1,1,1}';
  c_heads constant int[] := '{30,31,31,32,32,33,33,34,34,35,35,35,36,36,37,37,38,38,38,39,39,39,39,39,39,40,40,40,41,41,41,41,41,41,41,41,42,42,43,43,44,44,44,44,44,44,45,45,46,46,47,47,48,49,49,50,50,51,51,51,51,51,51,51}';
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
    when '"!>"' = any(p_expected) then 'Every ?> needs its !>: condition ?> then !> else.'
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
    when 2 then return df.seq(a => p_args[1], b => p_args[2]);
    when 3 then return df.as(fut => p_args[1], name => p_args[2]);
    when 4 then return df.sleep(seconds => p_args[1]::numeric);
    when 5 then return df.sleep(duration => p_args[1]);
    when 6 then return df.wait_for_schedule(cron_expr => p_args[1], timezone => p_args[2]);
    when 7 then return df.loop(body => p_args[1], condition => p_args[2], continue_on_failure => p_args[3]::boolean);
    when 8 then return df.break(value => p_args[1]);
    when 9 then return df.if(condition => p_args[1], then_branch => p_args[2], else_branch => p_args[3]);
    when 10 then return df.if_rows(result_name => p_args[1], then_branch => p_args[2], else_branch => p_args[3]);
    when 11 then return df.join(a => p_args[1], b => p_args[2]);
    when 12 then return df.join3(a => p_args[1], b => p_args[2], c => p_args[3]);
    when 13 then return df.race(a => p_args[1], b => p_args[2]);
    when 14 then return df.wait_for_signal(name => p_args[1], timeout_seconds => p_args[2]::integer);
    when 15 then return df.retry(fut => p_args[1], max_attempts => p_args[2]::integer, initial_delay => p_args[3]::interval, backoff => p_args[4]::numeric, max_delay => p_args[5]::interval, retry_on => df_engine.flow_list(p_args[6]));
    when 16 then return df.http(url => p_args[1], method => p_args[2], body => p_args[3], headers => p_args[4]::jsonb, timeout_seconds => p_args[5]::integer);
    when 17 then return df.http_multipart(url => p_args[1], method => p_args[2], parts => p_args[3]::jsonb, headers => p_args[4]::jsonb, timeout_seconds => p_args[5]::integer);
  end case;
end
$$;

-- How arguments, in the order written (labels: NULL means by position), are given to a builder: the number of the first
-- signature that they fit, and for each parameter its argument, whether that is a graph, and its default. NULL: none fits.
create or replace function df_engine.flow_plan(p_builder text, p_labels text[], p_classes text[]) returns jsonb
language sql immutable as $$
  select jsonb_build_object('number', s.number, 'parameters', coalesce(r.parameters, '[]'))
  from jsonb_to_recordset('{"sql":[{"number":1,"usage":"sql(query text)","parameters":[{"names":["query"],"takes":["string","quoted","json","name"],"graph":false,"default":null,"optional":false}]}],"seq":[{"number":2,"usage":"seq(a flow, b flow)","parameters":[{"names":["a"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false},{"names":["b"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false}]}],"as":[{"number":3,"usage":"as(fut flow, name text)","parameters":[{"names":["fut"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false},{"names":["name"],"takes":["string","quoted","json","name"],"graph":false,"default":null,"optional":false}]}],"sleep":[{"number":4,"usage":"sleep(seconds number)","parameters":[{"names":["seconds"],"takes":["number"],"graph":false,"default":null,"optional":false}]},{"number":5,"usage":"sleep(duration text)","parameters":[{"names":["duration"],"takes":["string","quoted","json","name"],"graph":false,"default":null,"optional":false}]}],"wait_for_schedule":[{"number":6,"usage":"wait_for_schedule(cron_expr text, timezone text = null)","parameters":[{"names":["cron_expr"],"takes":["string","quoted","json","name"],"graph":false,"default":null,"optional":false},{"names":["timezone"],"takes":["string","quoted","json","name","null"],"graph":false,"default":null,"optional":true}]}],"loop":[{"number":7,"usage":"loop(body flow, while flow = null, continue_on_failure boolean = false)","parameters":[{"names":["body"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false},{"names":["condition","while"],"takes":["graph","string","json","null"],"graph":true,"default":null,"optional":true},{"names":["continue_on_failure"],"takes":["boolean","null"],"graph":false,"default":"false","optional":true}]}],"break":[{"number":8,"usage":"break(value text = null)","parameters":[{"names":["value"],"takes":["string","quoted","json","name","null"],"graph":false,"default":null,"optional":true}]}],"if":[{"number":9,"usage":"if(condition flow, then_branch flow, else_branch flow)","parameters":[{"names":["condition"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false},{"names":["then_branch"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false},{"names":["else_branch"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false}]}],"if_rows":[{"number":10,"usage":"if_rows(result_name text, then_branch flow, else_branch flow)","parameters":[{"names":["result_name"],"takes":["string","quoted","json","name"],"graph":false,"default":null,"optional":false},{"names":["then_branch"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false},{"names":["else_branch"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false}]}],"join":[{"number":11,"usage":"join(a flow, b flow)","parameters":[{"names":["a"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false},{"names":["b"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false}]}],"join3":[{"number":12,"usage":"join3(a flow, b flow, c flow)","parameters":[{"names":["a"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false},{"names":["b"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false},{"names":["c"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false}]}],"race":[{"number":13,"usage":"race(a flow, b flow)","parameters":[{"names":["a"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false},{"names":["b"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false}]}],"wait_for_signal":[{"number":14,"usage":"wait_for_signal(name text, timeout_seconds integer = null)","parameters":[{"names":["name"],"takes":["string","quoted","json","name"],"graph":false,"default":null,"optional":false},{"names":["timeout_seconds"],"takes":["number","null"],"graph":false,"default":null,"optional":true}]}],"retry":[{"number":15,"usage":"retry(fut flow, max_attempts integer = null, initial_delay interval = null, backoff number = null, max_delay interval = null, retry_on list = null)","parameters":[{"names":["fut"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false},{"names":["max_attempts"],"takes":["number","null"],"graph":false,"default":null,"optional":true},{"names":["initial_delay"],"takes":["string","null"],"graph":false,"default":null,"optional":true},{"names":["backoff"],"takes":["number","null"],"graph":false,"default":null,"optional":true},{"names":["max_delay"],"takes":["string","null"],"graph":false,"default":null,"optional":true},{"names":["retry_on"],"takes":["json","string","null"],"graph":false,"default":null,"optional":true}]}],"http":[{"number":16,"usage":"http(url text, method text = POST, body text = null, headers json = null, timeout_seconds integer = 30)","parameters":[{"names":["url"],"takes":["string","quoted","json","name"],"graph":false,"default":null,"optional":false},{"names":["method"],"takes":["string","quoted","json","name","null"],"graph":false,"default":"POST","optional":true},{"names":["body"],"takes":["string","quoted","json","name","null"],"graph":false,"default":null,"optional":true},{"names":["headers"],"takes":["json","string","null"],"graph":false,"default":null,"optional":true},{"names":["timeout_seconds"],"takes":["number","null"],"graph":false,"default":"30","optional":true}]}],"http_multipart":[{"number":17,"usage":"http_multipart(url text, method text = POST, parts json = null, headers json = null, timeout_seconds integer = 30)","parameters":[{"names":["url"],"takes":["string","quoted","json","name"],"graph":false,"default":null,"optional":false},{"names":["method"],"takes":["string","quoted","json","name","null"],"graph":false,"default":"POST","optional":true},{"names":["parts"],"takes":["json","string","null"],"graph":false,"default":null,"optional":true},{"names":["headers"],"takes":["json","string","null"],"graph":false,"default":null,"optional":true},{"names":["timeout_seconds"],"takes":["number","null"],"graph":false,"default":"30","optional":true}]}]}'::pg_catalog.jsonb -> p_builder) s(number int, parameters pg_catalog.jsonb),
  lateral (
    select jsonb_agg(jsonb_build_object('slot', a.nth, 'default', p.is -> 'default',
                                        'graph', (p.is ->> 'graph')::boolean and a.class <> 'null') order by p.nth) as parameters,
           coalesce(bool_and(coalesce(p.is -> 'takes' ? a.class, (p.is ->> 'optional')::boolean)), true) as fits,
           count(a.nth) as taken, count(*) as listed
    from jsonb_array_elements(s.parameters) with ordinality p("is", nth)
    left join unnest(p_labels, p_classes) with ordinality a(label, class, nth)
      on case when a.label is null then a.nth = p.nth else p.is -> 'names' ? a.label end) r
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
  from (select '{"sql":[{"number":1,"usage":"sql(query text)","parameters":[{"names":["query"],"takes":["string","quoted","json","name"],"graph":false,"default":null,"optional":false}]}],"seq":[{"number":2,"usage":"seq(a flow, b flow)","parameters":[{"names":["a"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false},{"names":["b"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false}]}],"as":[{"number":3,"usage":"as(fut flow, name text)","parameters":[{"names":["fut"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false},{"names":["name"],"takes":["string","quoted","json","name"],"graph":false,"default":null,"optional":false}]}],"sleep":[{"number":4,"usage":"sleep(seconds number)","parameters":[{"names":["seconds"],"takes":["number"],"graph":false,"default":null,"optional":false}]},{"number":5,"usage":"sleep(duration text)","parameters":[{"names":["duration"],"takes":["string","quoted","json","name"],"graph":false,"default":null,"optional":false}]}],"wait_for_schedule":[{"number":6,"usage":"wait_for_schedule(cron_expr text, timezone text = null)","parameters":[{"names":["cron_expr"],"takes":["string","quoted","json","name"],"graph":false,"default":null,"optional":false},{"names":["timezone"],"takes":["string","quoted","json","name","null"],"graph":false,"default":null,"optional":true}]}],"loop":[{"number":7,"usage":"loop(body flow, while flow = null, continue_on_failure boolean = false)","parameters":[{"names":["body"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false},{"names":["condition","while"],"takes":["graph","string","json","null"],"graph":true,"default":null,"optional":true},{"names":["continue_on_failure"],"takes":["boolean","null"],"graph":false,"default":"false","optional":true}]}],"break":[{"number":8,"usage":"break(value text = null)","parameters":[{"names":["value"],"takes":["string","quoted","json","name","null"],"graph":false,"default":null,"optional":true}]}],"if":[{"number":9,"usage":"if(condition flow, then_branch flow, else_branch flow)","parameters":[{"names":["condition"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false},{"names":["then_branch"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false},{"names":["else_branch"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false}]}],"if_rows":[{"number":10,"usage":"if_rows(result_name text, then_branch flow, else_branch flow)","parameters":[{"names":["result_name"],"takes":["string","quoted","json","name"],"graph":false,"default":null,"optional":false},{"names":["then_branch"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false},{"names":["else_branch"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false}]}],"join":[{"number":11,"usage":"join(a flow, b flow)","parameters":[{"names":["a"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false},{"names":["b"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false}]}],"join3":[{"number":12,"usage":"join3(a flow, b flow, c flow)","parameters":[{"names":["a"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false},{"names":["b"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false},{"names":["c"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false}]}],"race":[{"number":13,"usage":"race(a flow, b flow)","parameters":[{"names":["a"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false},{"names":["b"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false}]}],"wait_for_signal":[{"number":14,"usage":"wait_for_signal(name text, timeout_seconds integer = null)","parameters":[{"names":["name"],"takes":["string","quoted","json","name"],"graph":false,"default":null,"optional":false},{"names":["timeout_seconds"],"takes":["number","null"],"graph":false,"default":null,"optional":true}]}],"retry":[{"number":15,"usage":"retry(fut flow, max_attempts integer = null, initial_delay interval = null, backoff number = null, max_delay interval = null, retry_on list = null)","parameters":[{"names":["fut"],"takes":["graph","string","json"],"graph":true,"default":null,"optional":false},{"names":["max_attempts"],"takes":["number","null"],"graph":false,"default":null,"optional":true},{"names":["initial_delay"],"takes":["string","null"],"graph":false,"default":null,"optional":true},{"names":["backoff"],"takes":["number","null"],"graph":false,"default":null,"optional":true},{"names":["max_delay"],"takes":["string","null"],"graph":false,"default":null,"optional":true},{"names":["retry_on"],"takes":["json","string","null"],"graph":false,"default":null,"optional":true}]}],"http":[{"number":16,"usage":"http(url text, method text = POST, body text = null, headers json = null, timeout_seconds integer = 30)","parameters":[{"names":["url"],"takes":["string","quoted","json","name"],"graph":false,"default":null,"optional":false},{"names":["method"],"takes":["string","quoted","json","name","null"],"graph":false,"default":"POST","optional":true},{"names":["body"],"takes":["string","quoted","json","name","null"],"graph":false,"default":null,"optional":true},{"names":["headers"],"takes":["json","string","null"],"graph":false,"default":null,"optional":true},{"names":["timeout_seconds"],"takes":["number","null"],"graph":false,"default":"30","optional":true}]}],"http_multipart":[{"number":17,"usage":"http_multipart(url text, method text = POST, parts json = null, headers json = null, timeout_seconds integer = 30)","parameters":[{"names":["url"],"takes":["string","quoted","json","name"],"graph":false,"default":null,"optional":false},{"names":["method"],"takes":["string","quoted","json","name","null"],"graph":false,"default":"POST","optional":true},{"names":["parts"],"takes":["json","string","null"],"graph":false,"default":null,"optional":true},{"names":["headers"],"takes":["json","string","null"],"graph":false,"default":null,"optional":true},{"names":["timeout_seconds"],"takes":["number","null"],"graph":false,"default":"30","optional":true}]}]}'::pg_catalog.jsonb) c(builders)
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
  v_node := (df.loop(p_text)::json -> 'left_node')::text;
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
  if (p_plan -> 'number')::int in (3, 15) then
    suffix := substr(left(v_shape, -1), length(c_stand_in) + 1);
    slots := array[(p_plan #> '{parameters,0,slot}')::int];
  elsif p_plan @? '$.parameters[*] ? (@.graph == true)' then
    parts := regexp_split_to_array(left(v_shape, -1), '\{"node_type":"SQL","query":"\\u0001[0-9]"\}');
    slots := array(select (p_plan -> 'parameters' -> m[1]::int - 1 -> 'slot')::int
                   from regexp_matches(v_shape, '\{"node_type":"SQL","query":"\\u0001([0-9])"\}', 'g') m) || 0;
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
    v_count := v_count + 1;
    if v_value > 0 then
      v_done := 0;
      v_top := v_top + 1;
      v_args[v_top] := v_arg;
      v_calls[v_top] := v_value;
      v_places[v_top] := p_starts[v_value];
      v_ends[v_top] := concat(v_name, v_retry, '}');
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
      end if;
      v_out[v_count] := p_parts[v_places[v_top]];
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
language plpgsql immutable strict security definer set search_path = pg_catalog, pg_temp as $$
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
    when 'SLEEP' then case when p_query ~ '^[0-9]{1,10}(\.[0-9]*[1-9])?$' then array['sleep', p_query] end
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
      'timeout_seconds => ' || nullif(c ->> 'timeout_seconds', '30')], null) end
  end
  from (select case when p_type in ('BREAK', 'SIGNAL', 'WAIT_SCHEDULE', 'HTTP', 'HTTP_MULTIPART')
                 then df_engine.json_or_null(p_query) end) q(c)
$$;

-- The nodes of a graph, from an envelope (or a statement) or, by its id, from a run that the caller may see.
create or replace function df_engine.flow_nodes(p_input text)
returns table (id text, depth int, node_type text, query text, result_name text, left_node text, right_node text, retry jsonb)
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if p_input !~ '^[0-9a-f]{8}$' then
    return query select g.id, g.depth, g.node_type, g.query, g.result_name, g.left_node, g.right_node, g.retry_policy
                 from df_engine.graph_nodes(df_engine.parse_graph(p_input)) g;
    return;
  end if;
  return query
    with recursive walk as (
      select n as node, 0 as depth
      from df.instances i join df.nodes n on n.instance_id = i.id and n.id = i.root_node where i.id = p_input
      union all
      select n, w.depth + 1
      from walk w
      cross join lateral df_engine.children_of((w.node).node_type, (w.node).left_node, (w.node).right_node,
                                               df_engine.node_config((w.node).node_type, (w.node).query)) c
      join df.nodes n on n.instance_id = p_input and n.id = c.id
    )
    select (node).id::text, w.depth, (node).node_type, (node).query, (node).result_name, (node).left_node::text,
           (node).right_node::text, (node).retry_policy
    from walk w;
  if not found then
    raise exception 'instance % not found or access denied', p_input using errcode = 'insufficient_privilege';
  end if;
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
  from (select case when p_type in ('IF', 'JOIN', 'LOOP') then df_engine.json_or_null(p_query) end) q(c)
  cross join lateral (
    select '', 2, s.* from (values ('', p_left, null, 2), ('~> ', p_right, null, 3)) s where p_type = 'THEN'
    union all
    select '', 3, s.* from (values ('', p_left, null, 3), ('| ', p_right, null, 4)) s where p_type = 'RACE'
    union all
    select '', 4, s.* from (values ('', p_left, null, 5), ('& ', p_right, null, 5)) s where p_type = 'JOIN'
    union all
    select '', 4, '& ', e.id, null, 5 from jsonb_array_elements_text(c -> 'extra_nodes') e(id) where p_type = 'JOIN'
    union all
    select '', 1, s.* from (values ('', c ->> 'condition_node', null, 2), ('?> ', p_left, null, 2), ('!> ', p_right, null, 0)) s
    where p_type = 'IF' and c ? 'condition_node'
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
    select l.form, 6, '', null, w.word, 6 from df_engine.flow_leaf_text(p_type, p_query, p_retry) l, unnest(l.words) w(word)
    where p_type in ('SQL', 'HTTP', 'HTTP_MULTIPART', 'SLEEP', 'WAIT_SCHEDULE', 'SIGNAL', 'BREAK')
  ) o(form, level, sign, child, word, need)
$$;

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

create or replace function df.to_flow(envelope text) returns text
language plpgsql strict set search_path = pg_catalog, pg_temp as $$
begin
  if not (pg_catalog.has_schema_privilege('df_engine', 'usage')
          and pg_catalog.has_table_privilege('df_engine.own_key', 'select')) then
    raise exception 'permission denied: role "%" may not use pg_durable', current_user
      using errcode = 'insufficient_privilege',
            hint = pg_catalog.format('An administrator grants it: SELECT df.grant_usage(%L);', current_user);
  end if;
  return (select df_engine.flow_layout(jsonb_agg(to_jsonb(n))) from df_engine.flow_nodes(envelope) n);
end
$$;
comment on function df.to_flow(text) is
  'The flow text of a graph, complete and in canonical form: of an envelope, of a statement, or of a run that the caller may see when given its id. df.flow gives the graph back';

-- Lexing: SQL text cut into tokens by PostgreSQL's lexical rules, and values written as SQL. Here begins substitution, which
-- goes on to file 094. The long regular expressions come from generator/grammar/template.lark; the others do without
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

-- The tokens of SQL text, comments, literals and dollar-quoted strings being one each; together they are the text.
create or replace function df_engine.sql_tokens(p_text pg_catalog.text) returns pg_catalog.text[]
language plpgsql immutable as $fn$
declare
  v_tokens pg_catalog.text[] := '{}';
  v_rest pg_catalog.text := p_text;
  v_next pg_catalog.text[];
  v_opener int;
  v_region pg_catalog.text;
begin
  loop
    v_next := array(select t.token[1] from regexp_matches(v_rest,
      $re$(?:(?:[A-Za-z0-9_\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff][A-Za-z0-9_$\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff]*)?[^A-Za-z0-9_$'"&\/\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff-])+|[A-Za-z0-9_\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff][A-Za-z0-9_$\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff]*|(?:\$[A-Za-z_][A-Za-z0-9_]*(?:\.(?:[A-Za-z_\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff][A-Za-z0-9_\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff]*|[0-9]+))+\$[A-Za-z0-9_$\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff]*|\$[A-Za-z_][A-Za-z0-9_]*(?:(?:(?:\.(?:[A-Za-z_\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff][A-Za-z0-9_\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff]*|[0-9]+))+|\.\*))?(?:\?)?)|\$|[&\/-]|(?:'(?:[^']|'')*'|'(?:[^']|'')*)|[Ee](?:'(?:[^'\\]|''|\\(?:.|\u000a))*'(?:[ \u0009\u000c\v]|--[^\u000a\u000d]*)*[\u000a\u000d](?:[ \u0009\u000c\v\u000a\u000d]|--[^\u000a\u000d]*[\u000a\u000d])*)*(?:'(?:[^'\\]|''|\\(?:.|\u000a))*'|'(?:[^'\\]|''|\\(?:.|\u000a))*)|(?:[BbXx]|[Uu]&)(?:'(?:[^']|'')*'(?:[ \u0009\u000c\v]|--[^\u000a\u000d]*)*[\u000a\u000d](?:[ \u0009\u000c\v\u000a\u000d]|--[^\u000a\u000d]*[\u000a\u000d])*)*(?:'(?:[^']|'')*'|'(?:[^']|'')*)|"[^"]*"?|--[^\u000a\u000d]*|\/\*(?:[^*\/]|\*+[^*\/]|\/+[^*\/])*\*+\/|/\*|\$(?:[A-Za-z_\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff][A-Za-z0-9_\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff]*)?\$|\$\$[^$]*\$\$$re$, 'g') t(token));
    exit when v_rest !~ $re$/\*|\$(?:[A-Za-z_\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff][A-Za-z0-9_\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff]*)?\$$re$;
    v_opener := (select min(t.ord) from unnest(v_next) with ordinality t(token, ord)
      where t.token ~ $re$^(?:/\*|\$(?:[A-Za-z_\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff][A-Za-z0-9_\u00c0-\u1fff\u2c00-\u2dff\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\U00010000-\U0001efff\U00020000-\U0003ffff]*)?\$)$$re$);
    exit when v_opener is null;
    v_rest := substr(v_rest, 1 + length(array_to_string(v_next[:v_opener - 1], '')));
    v_region := coalesce(df_engine.sql_region(v_rest, v_next[v_opener]), v_rest);
    v_tokens := v_tokens || v_next[:v_opener - 1] || v_region;
    v_rest := substr(v_rest, 1 + length(v_region));
  end loop;
  return v_tokens || v_next;
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

-- Variables: {name} in the text of a step, replaced before anything else looks at the text.
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
create or replace function df_engine.check_variables(p_graph pg_catalog.jsonb, p_vars pg_catalog.jsonb, p_prefix pg_catalog.text)
returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $fn$
declare
  v_step record;
begin
  select g.path, u.name into v_step
  from df_engine.graph_nodes(p_graph, p_prefix => p_prefix) g
  cross join lateral df_engine.unknown_variable(g.query, p_vars) u(name)
  where g.node_type = 'SQL' and g.query ~ $re$\{[A-Za-z_][A-Za-z0-9_]*\}$re$ and u.name is not null
  order by g.ord limit 1;
  if found then
    raise exception '%: the run has no variable %; it has %', p_prefix || v_step.path, '{' || v_step.name || '}',
      (select string_agg('{' || k.name || '}', ', ' order by k.name) from jsonb_object_keys(p_vars) k(name))
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
-- of the reference: used says how much of it is.
create or replace function df_engine.resolve(
  p_name pg_catalog.text, p_path pg_catalog.text[], p_entry pg_catalog.jsonb,
  out value pg_catalog.jsonb, out missing pg_catalog.text, out mistake pg_catalog.text, out used int
) language plpgsql immutable as $$
declare
  v_rows constant pg_catalog.bool := df_engine.is_row_set(p_entry);
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
  if v_found.used <= 1 then  -- what is inside of JSON has no type of its own
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
create or replace function df_engine.brace_problem(p_sql pg_catalog.text) returns pg_catalog.text
language plpgsql immutable set search_path = pg_catalog, pg_temp as $fn$
declare
  v_problem constant text := 'syntax error at or near "{" (SQLSTATE 42601)' || E'\nHINT: ';
  v_name constant text := substring(df_engine.bare_sql(p_sql) from $re$\{([A-Za-z_][A-Za-z0-9_]*)\}$re$);
begin
  if starts_with(p_sql, '{"_partial_if"') then
    return v_problem || '?> has no !> beside it: c ?> a !> b, with parentheses around a or b when it uses operators.';
  elsif starts_with(p_sql, '{"node_type"') then
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

create or replace function df_engine.statements_problem(p_sql pg_catalog.text) returns pg_catalog.text
language plpgsql immutable set search_path = '' as $$
begin
  if strpos(rtrim(p_sql, E'; \t\n\r'), ';') = 0 and p_sql ~ '^[[:space:]]*[A-Za-z(]' then
    return df_engine.refused_statement(p_sql);
  end if;
  return case df_engine.count_statements(p_sql)
    when 0 then 'the step holds no SQL statement'
    when 1 then df_engine.refused_statement(p_sql)
    else 'the step holds more than one SQL statement; make a step of each, or a DO block of all'
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
  while v_rest ~ '[(][^()]*[)]' loop
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

-- query: it can stand in FROM. rows: it may return rows, and PREPARE knows it. utility: it may return rows. call: it returns
-- what its parameters hold. command: it returns nothing.
create or replace function df_engine.statement_kind(p_sql text) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  v_word constant text := df_engine.statement_word(p_sql);
begin
  return case
    when v_word = 'with' and p_sql ~* '[^a-z_](insert|update|delete|merge)[^a-z_]'
         and df_engine.bare_sql(p_sql) ~ '[()][[:space:]]*(insert|update|delete|merge)[^a-z0-9_$]' then 'rows'
    when v_word in ('select', 'values', 'table', 'with') then case when df_engine.parentheses_match(p_sql) then 'query' else 'utility' end
    when v_word in ('insert', 'update', 'delete', 'merge') and p_sql ~* '[^a-z0-9_]returning[^a-z0-9_]' then 'rows'
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
      'Every step is a transaction of its own. What must succeed or fail together is one statement, or a DO block; a DO block '
      'also has BEGIN ... EXCEPTION in place of a savepoint.';
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

-- Truth of a node's value; p_columns is the order of the columns of an SQL result. NULL is false.
create or replace function df_engine.truth(p_value pg_catalog.jsonb, p_columns pg_catalog.text[]) returns boolean
language plpgsql immutable set search_path = '' as $$
declare
  v_row constant pg_catalog.jsonb := p_value #> '{rows,0}';
  v_column pg_catalog.text := p_columns[1];
begin
  if jsonb_typeof(p_value -> 'rows') is distinct from 'array' then
    return coalesce(df_engine.scalar_truth(p_value), false);
  elsif v_row is null then
    return false;
  elsif jsonb_typeof(v_row) <> 'object' or v_row = '{}' then
    return true;
  elsif v_column is null then
    v_column := (select k from jsonb_object_keys(v_row) k limit 1);
  end if;
  return coalesce(df_engine.scalar_truth(v_row -> v_column), false);
end
$$;

-- Starting: df.start inserts the run with the caller's rights, through the view that lets a role insert its own; that row
-- proves who started it. The rest is written on its behalf. The checks of the submitter explain, they do not guard.

-- Raises when the current user may not submit, or when the database does not exist.
create or replace function df_engine.check_submitter(p_database text) returns void
language plpgsql as $$
declare
  v_login boolean;
  v_super boolean;
begin
  if p_database is not null and not exists (select from pg_catalog.pg_database d where d.datname = p_database) then
    raise exception 'database "%" does not exist', p_database using errcode = 'invalid_catalog_name';
  end if;
  select r.rolcanlogin, r.rolsuper into v_login, v_super from pg_catalog.pg_roles r where r.rolname = current_user;
  if not v_login then
    raise exception 'role "%" cannot submit instances: it has no LOGIN', current_user
      using errcode = 'object_not_in_prerequisite_state',
            hint = 'Steps run in a session that has logged in as the role that called df.start.';
  elsif v_super and not df_engine.setting_on('enable_superuser_instances') then
    raise exception 'superuser "%" cannot submit instances: enable_superuser_instances is off', current_user
      using errcode = 'object_not_in_prerequisite_state',
            hint = 'Call df.start as an ordinary role.';
  end if;
end
$$;

-- Inserts the instance's row and returns its id. ON CONFLICT sees ids that row security hides from the caller. The two
-- variables of the system cannot be shadowed.
create or replace function df_engine.insert_instance(p_label text, p_database text, p_root text, p_input jsonb) returns text
language plpgsql as $$
declare
  v_caller pg_catalog.regrole := pg_catalog.quote_ident(current_user);
  v_id pg_catalog.text;
begin
  for v_try in 1..10 loop
    v_id := df_engine.random_id();
    insert into df_engine.own_instances
      (id, label, root_node, submitted_by, database, input, _state, _submitter, _version, _vars)
    select v_id, p_label, p_root, v_caller, p_database, p_input, 'pending', v_caller, '0.6.0',
           coalesce(pg_catalog.jsonb_object_agg(v.name, v.value), '{}')
             || pg_catalog.jsonb_build_object('sys_instance_id', v_id, 'sys_label', coalesce(p_label, ''))
    from df.vars v
    where v.owner = v_caller and v.value is not null
    on conflict do nothing;
    if found then
      return v_id;
    end if;
  end loop;
  raise exception 'found no free instance id in 10 tries' using errcode = 'unique_violation';
end
$$;

-- Writes the nodes of a run, and makes it eligible. What the engine walks along is thus never written by users. A pending
-- run without nodes is one that the current transaction has just inserted: the deferred foreign key lets none be committed.
create or replace function df_engine.lay_out(p_instance_id text, p_graph jsonb) returns void
language plpgsql security definer set search_path = '' as $$
declare
  v_run df.instances;
begin
  select * into v_run from df.instances i
  where i.id = p_instance_id and i._state = 'pending'
    and not exists (select from df.nodes n where n.instance_id = i.id);
  if not found then
    raise exception 'df_engine.lay_out is called by df.start only' using errcode = 'insufficient_privilege';
  end if;
  if p_graph::pg_catalog.text ~ $re$\{[A-Za-z_][A-Za-z0-9_]*\}$re$ then
    perform df_engine.check_variables(p_graph, v_run._vars, 'Invalid durable function graph: ');
  end if;
  insert into df.nodes
    (id, instance_id, node_type, query, result_name, left_node, right_node, submitted_by, database, retry_policy,
     _parent, _scope, _ends, _next, _named, _plain, _kind, _typed)
  select n.id, v_run.id, n.node_type, n.query, n.result_name, n.left_node, n.right_node, v_run.submitted_by,
         v_run.database, n.retry_policy, n.parent, n.scope, case when n.node_type <> 'THEN' then n.id || n.ends end,
         n.next, n.named,
         n.scope is null and (n.next is not null or coalesce(n.ends[cardinality(n.ends)], n.id) = v_run.root_node),
         case when n.node_type = 'SQL' then df_engine.plain_kind(n.query) end, n.referred
  from df_engine.graph_nodes(p_graph, v_run.root_node, 'Invalid durable function graph: ',
                             df_engine.template_names(p_graph::pg_catalog.text || v_run._vars::pg_catalog.text, 'raw')) n;
  insert into df_engine.ready (submitter, instance_id, node_id)
  select v_run._submitter, v_run.id, case n.node_type when 'THEN' then n._next else n.id end
  from df.nodes n where n.instance_id = v_run.id and n.id = v_run.root_node;
end
$$;

create or replace function df_engine.start_here(p_fut text, p_label text, p_database text, p_input jsonb) returns text
language plpgsql as $$
declare
  v_graph pg_catalog.jsonb := df_engine.parse_graph(p_fut, 'Invalid durable function: ');
  v_id pg_catalog.text;
begin
  perform df_engine.check_submitter(p_database);
  v_id := df_engine.insert_instance(p_label, p_database, df_engine.random_id(), p_input);
  perform df_engine.lay_out(v_id, v_graph);
  return v_id;
end
$$;

create or replace function df.start(fut text, label text default null, database text default null,
  transaction_mode text default 'caller', input jsonb default null) returns text
language plpgsql set search_path = '' set plan_cache_mode = force_generic_plan as $$
begin
  if not (pg_catalog.has_schema_privilege('df_engine', 'usage')
          and pg_catalog.has_table_privilege('df_engine.own_key', 'select')) then
    raise exception 'permission denied: role "%" may not use pg_durable', current_user
      using errcode = 'insufficient_privilege',
            hint = pg_catalog.format('An administrator grants it: SELECT df.grant_usage(%L);', current_user);
  end if;
  if fut is null then
    raise exception 'argument fut of df.start is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;
  if transaction_mode is null then
    raise exception 'argument transaction_mode of df.start is NULL' using errcode = 'null_value_not_allowed',
      hint = 'An expression there has given NULL, such as a subquery without rows, or || with a NULL.';
  end if;

  if pg_catalog.lower(transaction_mode) not in ('caller', 'new') then
    raise exception 'invalid transaction_mode "%"', transaction_mode
      using errcode = 'invalid_parameter_value', hint = 'It is caller or new.';
  end if;
  if nullif(pg_catalog.current_setting('pg_durable.returned', true), '')::pg_catalog.jsonb
    -> pg_catalog.statement_timestamp()::pg_catalog.text ? fut then
    raise exception '% cannot be used as a workflow step', nullif(pg_catalog.current_setting('pg_durable.returned', true), '')::pg_catalog.jsonb
    -> pg_catalog.statement_timestamp()::pg_catalog.text ->> fut
      using errcode = 'invalid_parameter_value',
            hint = 'It returns a value, not a graph. Call it in a statement of its own.';
  end if;
  if pg_catalog.lower(transaction_mode) = 'new' then
    return df_engine.start_new(fut, label, database, input);
  end if;
  return df_engine.start_here(fut, label, database, input);
end
$$;
comment on function df.start(text, text, text, text, jsonb) is
  'Starts a graph, or one SQL statement, as the current user and returns the id of the instance. It becomes eligible when the transaction commits; with transaction_mode ''new'' it is started in a transaction of its own. database: where its SQL steps run, by default here. input: what steps read as $input, $input.key, $input.list.0; a {name} in SQL code that is no variable of the run raises';

-- Variables: values that a role keeps under names of its own, and that its runs read as {name}. Row security and the
-- comparison with the owner see to it that nobody, not even a superuser, touches another role's by accident.

create or replace function df.setvar(name text, value text) returns text
language plpgsql strict set search_path = '' as $$
#variable_conflict use_column
begin
  if not (pg_catalog.has_schema_privilege('df_engine', 'usage')
          and pg_catalog.has_table_privilege('df_engine.own_key', 'select')) then
    raise exception 'permission denied: role "%" may not use pg_durable', current_user
      using errcode = 'insufficient_privilege',
            hint = pg_catalog.format('An administrator grants it: SELECT df.grant_usage(%L);', current_user);
  end if;
  perform df_engine.reject_in_workflow('setvar');
  insert into df.vars (name, value, owner)
  values (setvar.name, setvar.value, pg_catalog.quote_ident(current_user)::pg_catalog.regrole)
  on conflict (owner, name) do update set value = excluded.value;
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
    where v.owner = pg_catalog.quote_ident(current_user)::pg_catalog.regrole and v.name = getvar.name);
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
  delete from df.vars v
  where v.owner = pg_catalog.quote_ident(current_user)::pg_catalog.regrole and v.name = unsetvar.name;
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
  delete from df.vars v where v.owner = pg_catalog.quote_ident(current_user)::pg_catalog.regrole;
  perform df_engine.note_helper('clearvars', 'OK');
  return 'OK';
end
$$;

comment on function df.setvar(text, text) is
  'Sets a variable of the current user, read as {name} in the runs it starts from now on; returns OK';
comment on function df.getvar(text) is 'The value of a variable of the current user, NULL if there is none';
comment on function df.unsetvar(text) is 'Removes a variable of the current user; returns OK, also if there was none';
comment on function df.clearvars() is 'Removes all variables of the current user; returns OK';

-- Transitions: what follows when a node ends. The driver, the timers and the signals call df_engine.advance, which climbs
-- from a node that ended, and descends into what runs next, one level a turn, without recursion.
--
-- Lock order, in every transaction of the engine: the ready row or timer that is the claim; the instance, FOR KEY SHARE
-- (df.cancel takes it FOR UPDATE, so a step that is just committing is waited for, and none commits after); the RACE rows
-- around the node, from the inside out; branches and JOIN rows from the inside out; last the instance FOR NO KEY UPDATE.
--
-- A supervising connection acts for every role, so it never waits for a lock that a user can hold: those on df.instances and,
-- by df.cancel, on ready rows, timers and waits; and FOR KEY SHARE, through a foreign key, on df.nodes. It takes the instance
-- first, FOR NO KEY UPDATE SKIP LOCKED (hold_at_once), and passes over a run that it cannot have; it gives up, and tries
-- again later, where it would have to wait for a step that is just ending.

-- The stamp of what runs in a scope now: <scope>::<generation>. p_scope NULL is the root scope.
create or replace function df_engine.stamp(p_instance varchar, p_scope varchar) returns text
language plpgsql stable set search_path = '' as $$
begin
  if p_scope is null then
    return (select i.id || '::' || i._generation from df.instances i where i.id = p_instance);
  end if;
  return (select s.path || '::' || s.generation from df_engine.scopes s
          where s.instance_id = p_instance and s.node_id = p_scope);
end
$$;

-- Shows a node, which began at p_started, its ancestors and the instance as running; stops at the first that is already shown so.
-- A sequence that is at its other part began with its first one.
create or replace function df_engine.mark_running(p_instance varchar, p_node varchar, p_started timestamptz) returns void
language plpgsql set search_path = '' as $$
declare
  v_node varchar := p_node;
  v_child varchar;
  v_row pg_catalog.record;
  v_stamp pg_catalog.text;
begin
  while v_node is not null loop
    select n._parent as parent, n._scope as scope, n.status, n.status_details ->> 'execution_id' as stamp into v_row
    from df.nodes n where n.instance_id = p_instance and n.id = v_node;
    v_stamp := df_engine.stamp(p_instance, v_row.scope);
    exit when v_row.stamp = v_stamp
              and (v_row.status = 'running' or v_node <> p_node and v_row.status in ('completed', 'failed'));
    update df.nodes n
    set status = 'running', result = null, result_columns = null, error = null, attempts = 1,
        started_at = coalesce(case when n.node_type = 'THEN' and n.right_node = v_child
                                   then df_engine.began(p_instance, n.left_node) end, p_started),
        completed_at = null, updated_at = df_engine.clock(),
        status_details = jsonb_build_object('execution_id', v_stamp)
    where n.instance_id = p_instance and n.id = v_node
      and n.status = v_row.status and n.status_details ->> 'execution_id' is not distinct from v_row.stamp;
    exit when not found;  -- the supervisor marks without holding the run: somebody has been quicker
    v_child := v_node;
    v_node := v_row.parent;
  end loop;
  update df.instances i
  set _state = 'running', status = case when i.status = 'pending' then 'running' else i.status end,
      updated_at = df_engine.clock(), wait_reason = null
  where i.id = p_instance and i._state = 'pending';
end
$$;

-- Stores a named result in the map of a scope.
create or replace function df_engine.bind(
  p_instance varchar, p_scope varchar, p_name text, p_value jsonb, p_columns text[], p_types text[]
) returns void
language plpgsql set search_path = '' as $$
begin
  insert into df_engine.bindings (instance_id, scope, name, value, columns, types)
  values (p_instance, coalesce(p_scope, ''), p_name, p_value, p_columns, p_types)
  on conflict (instance_id, scope, name) do update
    set value = excluded.value, columns = excluded.columns, types = excluded.types;
end
$$;

-- Hands the names bound in a scope's branches, up to branch p_last, to the surrounding scope; later branches win.
create or replace function df_engine.merge_names(
  p_instance varchar, p_scopes varchar[], p_target varchar
) returns void
language plpgsql set search_path = '' as $$
begin
  with moved as (
    delete from df_engine.bindings b
    where b.instance_id = p_instance and b.scope = any (p_scopes)
    returning b.*
  )
  insert into df_engine.bindings (instance_id, scope, name, value, columns, types)
  select distinct on (m.name) p_instance, coalesce(p_target, ''), m.name, m.value, m.columns, m.types
  from moved m
  order by m.name, array_position(p_scopes, m.scope) desc
  on conflict (instance_id, scope, name) do update
    set value = excluded.value, columns = excluded.columns, types = excluded.types;
end
$$;

-- Opens child scopes below p_parent, one a top node, in branch order; what an earlier generation left there is dropped. Answers
-- in how many stripes their ends are counted: the row of the JOIN is then written, and held until a commit, once a stripe.
create or replace function df_engine.open_scopes(
  p_instance varchar, p_owner varchar, p_parent varchar, p_tops varchar[]
) returns int
language plpgsql set search_path = '' as $$
declare
  v_stamp pg_catalog.text := df_engine.stamp(p_instance, p_parent);
  v_count constant int := cardinality(p_tops);
  v_stripes constant int := least(v_count, 16);
begin
  delete from df_engine.bindings b where b.instance_id = p_instance and b.scope = any (p_tops);
  insert into df_engine.scopes (instance_id, node_id, parent, owner, branch, path, stripe, open)
  select p_instance, p_tops[b], p_parent, p_owner, b, v_stamp || '::' || p_tops[b],
         case when b > v_stripes then p_tops[(b - 1) % v_stripes + 1] end,
         case when b > v_stripes then 1 else (v_count - b) / v_stripes + 1 end
  from generate_series(1, v_count) b
  on conflict (instance_id, node_id) do update
    set path = excluded.path, generation = 1, outcome = null, events = 0, open = excluded.open;
  return v_stripes;
end
$$;

-- Removes what the loser of a race's earlier run has left, and waits for a step of it that still runs: it would not know
-- that it has lost once the race is open again.
create or replace function df_engine.await_loser(p_instance varchar, p_tops varchar[]) returns void
language plpgsql set search_path = '' as $$
declare
  v_loser constant varchar := (select s.node_id from df_engine.scopes s
    where s.instance_id = p_instance and s.node_id = any (p_tops) and s.outcome = 'lost');
begin
  if v_loser is not null then
    delete from df_engine.ready d
    where d.instance_id = p_instance and df_engine.is_below(p_instance, d.node_id, v_loser);
    delete from df_engine.timers d
    where d.instance_id = p_instance and df_engine.is_below(p_instance, d.node_id, v_loser);
    delete from df_engine.waits d
    where d.instance_id = p_instance and df_engine.is_below(p_instance, d.node_id, v_loser);
  end if;
end
$$;

-- The branches of a JOIN or RACE, in order.
create or replace function df_engine.branches(p_left varchar, p_right varchar, p_query text) returns varchar[]
language plpgsql immutable set search_path = '' as $$
begin
  return array[p_left, p_right] || coalesce(
    (select array_agg(e.id::varchar order by e.place)
     from jsonb_array_elements_text(p_query::pg_catalog.jsonb -> 'extra_nodes') with ordinality as e(id, place)), '{}');
end
$$;

-- A LOOP that can only end by failure or cancel: no condition, and no BREAK in its body outside of nested loops.
create or replace function df_engine.is_forever(p_instance varchar, p_loop varchar) returns boolean
language plpgsql stable set search_path = '' as $$
begin
  return (
    with recursive body as (
      select n.* from df.nodes l join df.nodes n on n.instance_id = l.instance_id and n.id = l.left_node
      where l.instance_id = p_instance and l.id = p_loop
      union all
      select n.*
      from body b
      cross join lateral unnest(
        df_engine.branches(b.left_node, b.right_node, b.query)
        || (b.query::pg_catalog.jsonb ->> 'condition_node')::varchar) as c(id)
      join df.nodes n on n.instance_id = p_instance and n.id = c.id
      where b.node_type in ('THEN', 'IF', 'JOIN', 'RACE')
    )
    select not exists (select from body b where b.node_type = 'BREAK')
      and not exists (select from df.nodes l where l.instance_id = p_instance and l.id = p_loop
                      and l.query::pg_catalog.jsonb ? 'condition_node'));
end
$$;

-- Whether p_node is p_top or below it.
create or replace function df_engine.is_below(p_instance varchar, p_node varchar, p_top varchar) returns boolean
language plpgsql stable set search_path = '' as $$
begin
  return (
    with recursive up as (
      select n.id, n._parent from df.nodes n where n.instance_id = p_instance and n.id = p_node
      union all
      select n.id, n._parent from up join df.nodes n on n.instance_id = p_instance and n.id = up._parent
      where up.id <> p_top
    )
    select exists (select from up where up.id = p_top));
end
$$;

-- Removes what could still start below p_top (NULL: in the whole run). A row that a running step has locked is left to
-- that step, which finds out when it wants to finish.
create or replace function df_engine.withdraw(p_instance varchar, p_top varchar) returns void
language plpgsql set search_path = '' as $$
begin
  delete from df_engine.ready r using (
    select q.lane, q.submitter, q.id from df_engine.ready q
    where q.instance_id = p_instance and (p_top is null or df_engine.is_below(p_instance, q.node_id, p_top))
    for update skip locked) d
  where r.lane = d.lane and r.submitter = d.submitter and r.id = d.id;
  delete from df_engine.timers t using (
    select q.node_id from df_engine.timers q
    where q.instance_id = p_instance and (p_top is null or df_engine.is_below(p_instance, q.node_id, p_top))
    for update skip locked) d
  where t.instance_id = p_instance and t.node_id = d.node_id;
  delete from df_engine.waits w using (
    select q.node_id from df_engine.waits q
    where q.instance_id = p_instance and (p_top is null or df_engine.is_below(p_instance, q.node_id, p_top))
    for update skip locked) d
  where w.instance_id = p_instance and w.node_id = d.node_id;
end
$$;

-- Ends a run. A terminal status found in the column is left as it is.
create or replace function df_engine.end_run(p_instance varchar, p_state text, p_error text) returns void
language plpgsql as $$
begin
  update df.instances i
  set _state = p_state, error = p_error, updated_at = df_engine.clock(), wait_reason = null,
      status = case when i.status in ('completed', 'failed', 'cancelled') then i.status else p_state end
  where i.id = p_instance;
  update df_engine.inbox s set status = 'undeliverable', fresh = false
  where s.instance_id = p_instance and s.status = 'pending' and not s.fresh;
end
$$;

-- Fails a run that must not go on as a whole: what is open in it fails with it, but for a node that a step is just ending,
-- which then says itself what became of it. What has lost a race, or was left behind by an earlier iteration, is not open.
create or replace function df_engine.fail_run(p_instance varchar, p_error text) returns void
language plpgsql set search_path = '' as $$
begin
  perform df_engine.end_run(p_instance, 'failed', p_error);
  perform df_engine.withdraw(p_instance, null);
  update df.nodes n
  set status = 'failed', result = to_jsonb(p_error), result_columns = null, error = p_error,
      completed_at = df_engine.clock(), updated_at = df_engine.clock(),
      status_details = n.status_details - 'retry_at'
  from (select q.id from df.nodes q
        where q.instance_id = p_instance and q.status = 'running'
          and q.status_details ->> 'execution_id' = df_engine.stamp(p_instance, q._scope)
          and df_engine.scope_open(p_instance, q._scope)
        for no key update skip locked) open_now
  where n.instance_id = p_instance and n.id = open_now.id;
end
$$;

-- Puts a step, or a node that is to be entered, at the back of the queue.
create or replace function df_engine.enqueue(p_instance varchar, p_node varchar, p_lane text) returns void
language plpgsql set search_path = '' as $$
begin
  insert into df_engine.ready (lane, submitter, instance_id, node_id, picked)
  select p_lane, i._submitter, p_instance, p_node, true from df.instances i where i.id = p_instance;
end
$$;

-- Status changes recorded in one generation of a loop's scope, child scopes included: what superseding it would lose. Without
-- child scopes nothing in it is superseded yet, and no stamps need to be compared.
create or replace function df_engine.generation_events(p_instance varchar, p_stamp text) returns bigint
language plpgsql stable set search_path = '' as $$
begin
  if exists (select from df_engine.scopes s where s.instance_id = p_instance and starts_with(s.path, p_stamp || '::')) then
    return df_engine.count_events(array[p_instance]::pg_catalog.text[], p_stamp);
  end if;
  return (
    select coalesce(sum(df_engine.node_events(n.status, n.started_at)), 0)
    from df.nodes n
    where n.instance_id = p_instance and n.status <> 'pending' and n.status_details ->> 'execution_id' = p_stamp);
end
$$;

-- When the next iteration of a loop may begin: a loop for ever keeps its pace from start to start; after a failure there is a pause,
-- which is doubled for each further failure in a row, up to 5 minutes. NULL: at once.
create or replace function df_engine.next_iteration(p_loop df.nodes, p_failures int) returns timestamptz
language plpgsql volatile set search_path = '' as $$
declare
  v_pace numeric;
begin
  if not p_loop._forever and p_failures = 0 then
    return null;
  end if;
  v_pace := df_engine.setting_number('loop_min_interval');
  return greatest(
    case when p_loop._forever then p_loop.started_at + v_pace * interval '1 s' end,
    case when p_failures > 0 then
      df_engine.clock() + greatest(v_pace, least(v_pace * 2 ^ least(p_failures - 1, 30), 300)) * interval '1 s' end);
end
$$;

-- Keeps a failure after which a loop continues: the last 100 of each loop.
create or replace function df_engine.keep_failure(p_instance varchar, p_loop varchar, p_stamp text, p_error text) returns void
language plpgsql set search_path = '' as $$
declare
  v_attempt constant int := 1 + coalesce((
    select max(a.attempt) from df_engine.attempts a where a.instance_id = p_instance and a.node_id = p_loop), 0);
begin
  insert into df_engine.attempts (instance_id, node_id, attempt, stamp, error)
  values (p_instance, p_loop, v_attempt, p_stamp, p_error);
  delete from df_engine.attempts a
  where a.instance_id = p_instance and a.node_id = p_loop and a.attempt <= v_attempt - 100;
end
$$;

-- Goes on with a loop: next generation, LOOP stamped again, body queued, now or when it may begin. p_failure: why the body has
-- failed; NULL: it has not.
create or replace function df_engine.iterate(p_instance varchar, p_loop varchar, p_scope varchar, p_failure text default null)
returns void
language plpgsql set search_path = '' as $$
declare
  v_loop df.nodes;
  v_failures int;
  v_due pg_catalog.timestamptz;
begin
  select * into v_loop from df.nodes n where n.instance_id = p_instance and n.id = p_loop;
  v_failures := case when p_failure is null then 0 else coalesce(v_loop._failures, 0) + 1 end;
  if p_failure is not null then
    perform df_engine.keep_failure(p_instance, p_loop, df_engine.stamp(p_instance, p_scope), p_failure);
  end if;
  v_due := df_engine.next_iteration(v_loop, v_failures);
  if p_scope is null then
    perform df_engine.next_execution(p_instance, v_loop.started_at, p_failure);
  else
    update df_engine.scopes s
    set generation = s.generation + 1,
        events = s.events + df_engine.generation_events(p_instance, s.path || '::' || s.generation)
    where s.instance_id = p_instance and s.node_id = p_scope;
  end if;
  if v_due > df_engine.clock() then
    insert into df_engine.timers (instance_id, node_id, due_at, kind) values (p_instance, p_loop, v_due, 'pace');
  else
    perform df_engine.enqueue(p_instance, v_loop.left_node, 'sql');
    v_due := df_engine.clock();
  end if;
  update df.nodes n
  set status = 'running', result = null, error = p_failure, started_at = v_due, completed_at = null,
      updated_at = df_engine.clock(), _failures = v_failures,
      status_details = jsonb_build_object('execution_id', df_engine.stamp(p_instance, p_scope))
  where n.instance_id = p_instance and n.id = p_loop;
end
$$;

-- Closes an iteration of a root loop: it becomes history (the newest 10 000 are kept), and its names are forgotten.
create or replace function df_engine.next_execution(p_instance varchar, p_started timestamptz, p_failure text) returns void
language plpgsql set search_path = '' as $$
declare
  v_generation int;
begin
  select i._generation into v_generation from df.instances i where i.id = p_instance;
  insert into df_engine.executions (instance_id, generation, events, started_at, finished_at, error)
  values (p_instance, v_generation, df_engine.generation_events(p_instance, p_instance || '::' || v_generation),
          coalesce(p_started, df_engine.clock()), df_engine.clock(), p_failure);
  delete from df_engine.executions e where e.instance_id = p_instance and e.generation = v_generation - 10000;
  delete from df_engine.bindings b where b.instance_id = p_instance and b.scope = '';
  update df.instances i set _generation = v_generation + 1 where i.id = p_instance;
end
$$;

-- Constructs: what IF, LOOP, JOIN and RACE do when a child ends. Each function gets the construct and the child's
-- ending, and answers with the construct's own move: its ending, the node to enter next, or to wait for the others.
-- Outcome 'lost' means that a race was decided in the meantime: the caller rolls back.

create or replace function df_engine.enter(variadic p_nodes varchar[]) returns df_engine.move
language sql immutable as $$
  select row(null, null, null, null, null, p_nodes)::df_engine.move;
$$;

create or replace function df_engine.done(p_outcome text, p_value jsonb, p_columns text[] default null,
  p_types text[] default null) returns df_engine.move
language sql immutable as $$
  select row(p_outcome, p_value, p_columns, p_types, null, null)::df_engine.move;
$$;

create or replace function df_engine.fail(p_error text) returns df_engine.move
language sql immutable as $$
  select row('failed', null, null, null, p_error, null)::df_engine.move;
$$;

create or replace function df_engine.if_child(
  p_construct df.nodes, p_child varchar, inout p_end df_engine.move
)
language plpgsql set search_path = '' as $$
begin
  if p_end.outcome <> 'ok' or p_child in (p_construct.left_node, p_construct.right_node) then
    return;
  end if;
  p_end := df_engine.enter(case when df_engine.truth(p_end.value, p_end.columns)
                                then p_construct.left_node else p_construct.right_node end);
end
$$;

create or replace function df_engine.loop_child(
  p_construct df.nodes, p_child varchar, inout p_end df_engine.move
)
language plpgsql set search_path = '' as $$
begin
  if p_end.outcome = 'broke' then
    p_end.outcome := 'ok';
  elsif p_end.outcome = 'failed' and p_child = p_construct.left_node
        and p_construct.query::pg_catalog.jsonb -> 'continue_on_failure' = 'true' then
    perform df_engine.iterate(p_construct.instance_id, p_construct.id, p_construct._scope, p_end.error);
    p_end := null;
  elsif p_end.outcome = 'ok' and (p_child = p_construct.left_node or df_engine.truth(p_end.value, p_end.columns)) then
    perform df_engine.iterate(p_construct.instance_id, p_construct.id, p_construct._scope);
    p_end := null;
  elsif p_end.outcome = 'ok' then
    select n.result, n.result_columns, n._types into p_end.value, p_end.columns, p_end.types
    from df.nodes n where n.instance_id = p_construct.instance_id and n.id = p_construct.left_node;
  end if;
  if p_end.outcome = 'ok' then
    -- A loop that opened its own scope, not as a branch, hands its names on now.
    perform df_engine.merge_names(s.instance_id, array[s.node_id], s.parent)
    from df_engine.scopes s
    where s.instance_id = p_construct.instance_id and s.node_id = p_construct.id and s.owner is null;
  end if;
end
$$;

-- The first break or failure in branch order decides; else the array of the branches' values.
create or replace function df_engine.join_ending(p_construct df.nodes, out p_end df_engine.move)
language plpgsql set search_path = '' as $$
declare
  v_first pg_catalog.record;
  v_scopes varchar[];
begin
  select s.branch, s.outcome, n.result, n.error into v_first
  from df_engine.scopes s
  join df.nodes n on n.instance_id = s.instance_id and n.id = s.node_id
  where s.instance_id = p_construct.instance_id and s.owner = p_construct.id and s.outcome <> 'ok'
  order by s.branch limit 1;
  select array_agg(s.node_id order by s.branch) into v_scopes
  from df_engine.scopes s
  where s.instance_id = p_construct.instance_id and s.owner = p_construct.id
    and s.branch <= coalesce(v_first.branch, s.branch);
  perform df_engine.merge_names(p_construct.instance_id, v_scopes, p_construct._scope);
  if v_first.outcome in ('failed', 'fatal') then
    p_end := row(v_first.outcome, null, null, null, format('JOIN branch %s failed: %s', v_first.branch, v_first.error), null);
  elsif v_first.outcome = 'broke' then
    p_end := df_engine.done('broke', v_first.result);
  else
    select (df_engine.done('ok', jsonb_agg(n.result order by s.branch))).* into p_end
    from df_engine.scopes s
    join df.nodes n on n.instance_id = s.instance_id and n.id = s.node_id
    where s.instance_id = p_construct.instance_id and s.owner = p_construct.id;
  end if;
end
$$;

create or replace function df_engine.join_child(
  p_construct df.nodes, p_child varchar, inout p_end df_engine.move
)
language plpgsql set search_path = '' as $$
declare
  v_open int;
  v_stripe varchar;
begin
  update df_engine.scopes s set outcome = (p_end).outcome, open = s.open - 1
  where s.instance_id = p_construct.instance_id and s.node_id = p_child
  returning s.open, s.stripe into v_open, v_stripe;
  p_end := null;
  if v_stripe is not null then
    update df_engine.scopes s set open = s.open - 1
    where s.instance_id = p_construct.instance_id and s.node_id = v_stripe
    returning s.open into v_open;
  end if;
  if v_open = 0 then
    update df.nodes n set _open = n._open - 1
    where n.instance_id = p_construct.instance_id and n.id = p_construct.id
    returning n._open into v_open;
    if v_open = 0 then
      p_end := df_engine.join_ending(p_construct);
    end if;
  end if;
end
$$;

-- The losing top node of a decided RACE is closed when it is a LOOP; other losers keep their status.
create or replace function df_engine.lose_race(p_construct df.nodes, p_loser varchar) returns void
language plpgsql set search_path = '' as $$
declare
  v_text pg_catalog.text := format('lost the race %s', p_construct.id);
begin
  update df_engine.scopes s set outcome = 'lost'
  where s.instance_id = p_construct.instance_id and s.node_id = p_loser;
  perform df_engine.withdraw(p_construct.instance_id, p_loser);
  update df.nodes n
  set status = 'failed', error = v_text, result = to_jsonb(v_text), result_columns = null,
      completed_at = df_engine.clock(), updated_at = df_engine.clock(),
      status_details = jsonb_build_object('execution_id', s.path || '::1')
  from df_engine.scopes s
  where n.instance_id = p_construct.instance_id and n.id = p_loser and n.node_type = 'LOOP'
    and s.instance_id = n.instance_id and s.node_id = n.id;
end
$$;

create or replace function df_engine.race_child(
  p_construct df.nodes, p_child varchar, inout p_end df_engine.move
)
language plpgsql set search_path = '' as $$
declare
  v_left boolean := p_child = p_construct.left_node;
begin
  update df.nodes n set _open = 0
  where n.instance_id = p_construct.instance_id and n.id = p_construct.id and n._open = 1;
  if not found then
    p_end := df_engine.done('lost', null);
    return;
  end if;
  update df_engine.scopes s set outcome = (p_end).outcome
  where s.instance_id = p_construct.instance_id and s.node_id = p_child;
  perform df_engine.lose_race(p_construct, case when v_left then p_construct.right_node else p_construct.left_node end);
  perform df_engine.wake('x', null);
  if p_end.outcome in ('failed', 'fatal') then
    p_end.error := format('RACE %s branch failed: %s', case when v_left then 'left' else 'right' end,
                                     p_end.error);
  else
    perform df_engine.merge_names(p_construct.instance_id, array[p_child], p_construct._scope);
  end if;
end
$$;

create or replace function df_engine.child_ended(
  p_instance varchar, p_construct varchar, p_child varchar, p_end df_engine.move
) returns df_engine.move
language plpgsql set search_path = '' as $$
declare
  v_construct df.nodes;
begin
  select * into v_construct from df.nodes n where n.instance_id = p_instance and n.id = p_construct;
  return case v_construct.node_type
    when 'IF' then df_engine.if_child(v_construct, p_child, p_end)
    when 'LOOP' then df_engine.loop_child(v_construct, p_child, p_end)
    when 'JOIN' then df_engine.join_child(v_construct, p_child, p_end)
    when 'RACE' then df_engine.race_child(v_construct, p_child, p_end)
  end;
end
$$;

-- Names: what a node sees of the named results of its run, and its text with the references replaced.

-- The values of the wanted names as a scope sees them: name -> {value, columns, types}, or null when known without a value. The
-- input of the run is known everywhere, unless a hand-written envelope gives its name to a result.
create or replace function df_engine.names(p_instance varchar, p_scope varchar, p_wanted text[]) returns jsonb
language plpgsql stable set search_path = '' as $$
declare
  v_scopes varchar[];  -- from the inside out; the root scope, which is the last, as bindings have it
begin
  while p_scope is not null loop
    v_scopes := array_append(v_scopes, p_scope);
    p_scope := (select s.parent from df_engine.scopes s where s.instance_id = p_instance and s.node_id = p_scope);
  end loop;
  v_scopes := array_append(v_scopes, '');
  return (
    select coalesce(jsonb_object_agg(w.name, coalesce(n.entry, b.entry)), '{}')
    from unnest(p_wanted) as w(name)
    left join lateral (
      select jsonb_build_object('value', b.value, 'columns', to_jsonb(b.columns), 'types', to_jsonb(b.types)) as entry
      from df_engine.bindings b
      where b.instance_id = p_instance and b.scope = any (v_scopes) and b.name = w.name
      order by array_position(v_scopes, b.scope) limit 1) n on true
    left join lateral (
      select jsonb_build_object('value', i.input, 'built_in', true) as entry
      from df.instances i where w.name = 'input' and i.id = p_instance and i.input is not null) b on true
    where n.entry is not null or b.entry is not null or exists (
      select from df.nodes k where k.instance_id = p_instance and k.result_name = w.name));
end
$$;

-- Every name that a run knows, for suggestions in messages.
create or replace function df_engine.known_names(p_instance varchar) returns text[]
language plpgsql stable set search_path = '' as $$
begin
  return (
    select coalesce(array_agg(distinct n.result_name), '{}')
    from (
      select k.result_name from df.nodes k where k.instance_id = p_instance and k.result_name is not null
      union all
      select 'input' from df.instances i where i.id = p_instance and i.input is not null
    ) n);
end
$$;

-- A step's text with its references replaced; raises DF010 or DF013 where that is not possible.
create or replace function df_engine.render_step(
  p_instance varchar, p_scope varchar, p_text text, p_mode text
) returns text
language plpgsql stable set search_path = '' as $$
declare
  v_text pg_catalog.text := p_text;
  v_wanted pg_catalog.text[];
begin
  if strpos(v_text, '{') > 0 then
    v_text := df_engine.render_vars(v_text, p_mode, (select i._vars from df.instances i where i.id = p_instance));
  end if;
  if strpos(v_text, '$') > 0 then
    v_wanted := df_engine.template_names(v_text, p_mode);
    if cardinality(v_wanted) > 0 then
      v_text := df_engine.render_names(v_text, p_mode, df_engine.names(p_instance, p_scope, v_wanted),
                                       df_engine.known_names(p_instance));
    end if;
  end if;
  return v_text;
end
$$;

-- Text as JSON if it parses, else as a JSON string; none is null.
create or replace function df_engine.as_json(p_text text) returns jsonb
language plpgsql immutable set search_path = '' as $$
begin
  return coalesce(p_text, 'null')::pg_catalog.jsonb;
exception when data_exception or program_limit_exceeded then
  return to_jsonb(p_text);
end
$$;

-- Entering: what happens when the run arrives at a node. Constructs are opened, steps queued, waits parked, a BREAK ends at
-- once.

-- Opens a JOIN, a RACE or a LOOP: shown as running, with its scopes; answers the nodes to enter, in order.
create or replace function df_engine.open_construct(p_node df.nodes) returns varchar[]
language plpgsql set search_path = '' as $$
declare
  v_tops varchar[];
  v_stripes int;
begin
  if p_node.node_type = 'LOOP' then
    if p_node._scope = p_node.id
       and not exists (select from df_engine.scopes s where s.instance_id = p_node.instance_id
                       and s.node_id = p_node.id and s.owner is not null) then
      perform df_engine.open_scopes(p_node.instance_id, null, df_engine.surrounding_scope(p_node), array[p_node.id]);
    end if;
    v_tops := array[p_node.left_node];
  else
    v_tops := df_engine.branches(p_node.left_node, p_node.right_node, p_node.query);
    if p_node.node_type = 'RACE' then
      perform df_engine.await_loser(p_node.instance_id, v_tops);
    end if;
    v_stripes := df_engine.open_scopes(p_node.instance_id, p_node.id, p_node._scope, v_tops);
  end if;
  perform df_engine.mark_running(p_node.instance_id, p_node.id, df_engine.clock());
  update df.nodes n
  set _open = case p_node.node_type when 'JOIN' then v_stripes when 'RACE' then 1 end,
      _failures = 0,
      _forever = case when p_node.node_type = 'LOOP' then df_engine.is_forever(p_node.instance_id, p_node.id) end
  where n.instance_id = p_node.instance_id and n.id = p_node.id;
  return v_tops;
end
$$;

-- The scope around the top node of a scope.
create or replace function df_engine.surrounding_scope(p_node df.nodes) returns varchar
language plpgsql stable set search_path = '' as $$
begin
  return (select n._scope from df.nodes n where n.instance_id = p_node.instance_id and n.id = p_node._parent);
end
$$;

-- Queues a step in its lane.
create or replace function df_engine.make_ready(p_instance varchar, p_node varchar, p_lane text) returns void
language plpgsql set search_path = '' as $$
begin
  perform df_engine.enqueue(p_instance, p_node, p_lane);
  perform df_engine.wake(case when p_lane = 'sql' then 'r' else 'l' end, null);
end
$$;

-- The lane in which a step runs: sql inside a session's driver, direct and http from the worker.
create or replace function df_engine.lane(p_instance varchar, p_type text) returns text
language plpgsql stable set search_path = '' as $$
begin
  return (
    select case when p_type <> 'SQL' then 'http'
                when i.database <> current_database() then 'direct'
                else 'sql' end
    from df.instances i where i.id = p_instance);
end
$$;

-- Enters one node.
create or replace function df_engine.enter_node(p_instance varchar, p_node varchar)
returns df_engine.move
language plpgsql set search_path = '' as $$
declare
  v_node df.nodes;
begin
  if df_engine.is_lost(p_instance, p_node) then
    return null;
  end if;
  select * into v_node from df.nodes n where n.instance_id = p_instance and n.id = p_node;
  case
    when v_node.node_type = 'THEN' then
      return df_engine.enter(v_node._next);
    when v_node.node_type in ('JOIN', 'RACE', 'LOOP') then
      return df_engine.enter(variadic df_engine.open_construct(v_node));
    when v_node.node_type = 'IF' and v_node.query::pg_catalog.jsonb ? 'condition_node' then
      return df_engine.enter((v_node.query::pg_catalog.jsonb ->> 'condition_node')::varchar);
    when v_node.node_type = 'IF' then
      return df_engine.if_rows_branch(v_node);
    when v_node.node_type in ('SQL', 'HTTP', 'HTTP_MULTIPART') then
      perform df_engine.make_ready(p_instance, p_node, df_engine.lane(p_instance, v_node.node_type));
      return null;
    when v_node.node_type = 'BREAK' then
      return df_engine.break_move(v_node);
    else
      return df_engine.park_node(v_node);
  end case;
end
$$;

-- Whether a node is the top of a branch that has lost its race before it was entered.
create or replace function df_engine.is_lost(p_instance varchar, p_node varchar) returns boolean
language plpgsql stable set search_path = '' as $$
begin
  return exists (select from df_engine.scopes s
                 where s.instance_id = p_instance and s.node_id = p_node and s.outcome = 'lost');
end
$$;

-- if_rows: no SQL runs, the row count of a named result decides.
create or replace function df_engine.if_rows_branch(p_node df.nodes) returns df_engine.move
language plpgsql set search_path = '' as $$
declare
  v_name pg_catalog.text := p_node.query::pg_catalog.jsonb ->> 'result_name';
  v_value pg_catalog.jsonb := df_engine.names(p_node.instance_id, p_node._scope, array[v_name]) -> v_name -> 'value';
  v_count pg_catalog.jsonb := v_value -> 'row_count';
begin
  if v_count is null or jsonb_typeof(v_count) <> 'number' or v_count::numeric < 0
     or v_count::numeric <> trunc(v_count::numeric) then
    return df_engine.fail(format(
      'if_rows: result "%s" %s', v_name, case when v_value is null then 'does not exist' else 'has no row_count' end));
  end if;
  return df_engine.enter(case when v_count::numeric > 0 then p_node.left_node else p_node.right_node end);
end
$$;

-- BREAK: its text after substitution, on the way to the nearest enclosing loop, if there is one.
create or replace function df_engine.break_move(p_node df.nodes) returns df_engine.move
language plpgsql set search_path = '' as $$
declare
  v_text pg_catalog.text;
begin
  if not df_engine.in_loop(p_node.instance_id, p_node.id) then
    return df_engine.fail('BREAK outside of a loop');
  end if;
  v_text := df_engine.render_step(p_node.instance_id, p_node._scope, p_node.query::pg_catalog.jsonb ->> 'break_value', 'raw');
  return df_engine.done('broke', df_engine.as_json(v_text));
exception
  when sqlstate 'DF010' or data_exception or program_limit_exceeded then
    return df_engine.fail('BREAK: ' || sqlerrm);
end
$$;

create or replace function df_engine.in_loop(p_instance varchar, p_node varchar) returns boolean
language plpgsql stable set search_path = '' as $$
begin
  return (
    with recursive up as (
      select n._parent, n.node_type from df.nodes n where n.instance_id = p_instance and n.id = p_node
      union all
      select n._parent, n.node_type from up join df.nodes n on n.instance_id = p_instance and n.id = up._parent
    )
    select exists (select from up where node_type = 'LOOP'));
end
$$;

-- df_engine.advance: the one loop that moves a run. It climbs from nodes that ended and descends into nodes that are
-- entered, until every branch it touched waits for something: a ready row, a timer, a signal, or its siblings.

-- When a node began. Not inlined: a statement that may ask this is planned without a look at the table.
create or replace function df_engine.began(p_instance varchar, p_node varchar) returns timestamptz
language plpgsql stable as $$
begin
  return (select n.started_at from df.nodes n where n.instance_id = p_instance and n.id = p_node);
end
$$;

-- Writes one ending for several nodes, a node and the sequences that end with it, in one statement. p_root: the stamp of the
-- root scope.
create or replace function df_engine.complete_nodes(
  p_instance varchar, p_root text, p_nodes varchar[], p_end df_engine.move, p_started timestamptz
) returns void
language plpgsql as $$
declare
  v_failed constant boolean := p_end.outcome in ('failed', 'fatal');
begin
  update df.nodes n
  set status = case when v_failed then 'failed' else 'completed' end,
      result = case when v_failed then to_jsonb(p_end.error) else p_end.value end,
      error = p_end.error, result_columns = p_end.columns, _types = p_end.types,
      attempts = case when n.status_details ? 'retry_at' and n.status = 'running' and (n._scope is null or n.status_details ->> 'execution_id' = df_engine.stamp(n.instance_id, n._scope)) then n.attempts + 1 else 1 end,
      started_at = case
        when n.status = 'running' and (n._scope is null or n.status_details ->> 'execution_id' = df_engine.stamp(n.instance_id, n._scope)) then n.started_at
        when n.node_type <> 'THEN' then p_started
        else coalesce(null, df_engine.began(n.instance_id, n.left_node), p_started) end,
      completed_at = df_engine.clock(), updated_at = df_engine.clock(),
      status_details = jsonb_build_object('execution_id',
        case when n._scope is null then p_root else df_engine.stamp(p_instance, n._scope) end)
  where n.instance_id = p_instance and n.id = any (p_nodes);
end
$$;

-- Binds the value of a node that ended, if it has a name and its type keeps one.
create or replace function df_engine.bind_node(
  p_instance varchar, p_node varchar, p_type text, p_scope varchar, p_name text, p_end df_engine.move
) returns void
language plpgsql as $$
begin
  if p_type not in ('SLEEP', 'WAIT_SCHEDULE', 'BREAK') then
    perform df_engine.bind(p_instance,
                           case when p_type = 'LOOP' then df_engine.loop_target(p_instance, p_node, p_scope)
                                else p_scope end,
                           p_name, p_end.value, p_end.columns, p_end.types);
  end if;
end
$$;

-- Where the name of a LOOP is bound: around the scope it opened itself, or in the scope it is a branch of.
create or replace function df_engine.loop_target(p_instance varchar, p_loop varchar, p_scope varchar) returns varchar
language sql stable as $$
  select case when s.owner is null and s.node_id is not null then s.parent else p_scope end
  from (values (1)) as one(row)
  left join df_engine.scopes s on s.instance_id = p_instance and s.node_id = p_loop;
$$;

-- Moves a run on: from p_node, which made a move. p_root: the stamp of the root scope. p_ready is the caller's claim on a
-- thread of control; it goes with the first node that is entered next, and is deleted when there is none. False: a race was
-- lost in the meantime, and the caller has to roll back.
create or replace function df_engine.advance(
  p_instance varchar, p_root text, p_ready bigint, p_node varchar, p_move df_engine.move, p_started timestamptz
) returns boolean
language plpgsql as $$
declare
  v_node varchar := p_node;
  v_move df_engine.move := p_move;
  v_enter varchar[] := '{}';
  v_climb pg_catalog.record;
begin
  loop
    if v_move.outcome is not null then
      v_climb := df_engine.climb(p_instance, p_root, v_node, v_move, p_started);
      if v_climb.p_scope is not null and v_node = p_node and not df_engine.hold_races(p_instance, v_climb.p_scope) then
        return false;
      elsif v_climb.p_next is not null then
        v_move := df_engine.enter(v_climb.p_next);
      elsif v_climb.p_construct is null then
        perform df_engine.end_run(
          p_instance, case when v_move.outcome in ('failed', 'fatal') then 'failed' else 'completed' end, v_move.error);
        exit;
      else
        v_move := df_engine.child_ended(p_instance, v_climb.p_construct, v_climb.p_child, v_move);
      end if;
      v_node := v_climb.p_construct;
    end if;
    if v_move.outcome = 'lost' then
      return false;
    end if;
    if v_move.outcome is null then
      v_enter := v_move.enter || v_enter;
      exit when cardinality(v_enter) = 0;
      v_node := v_enter[1];
      v_enter := v_enter[2:];
      if p_ready is not null then
        -- The thread's own next node is entered when it is claimed again, which is at once.
        perform df_engine.move_ready(p_instance, p_ready, v_node);
        p_ready := null;
        v_move := null;
      else
        v_move := df_engine.enter_node(p_instance, v_node);
      end if;
    end if;
  end loop;
  if p_ready is not null then
    perform df_engine.drop_ready(p_instance, p_ready);
  end if;
  return true;
end
$$;

-- Ends a node, and with it the sequences around it whose last child it is, or which it breaks or fails. p_next is the rest
-- of a sequence; without one, p_construct is where that arrives (NULL: the root has ended), and p_child what has ended there.
create or replace function df_engine.climb(
  p_instance varchar, p_root text, p_node varchar, p_end df_engine.move, p_started timestamptz,
  out p_construct varchar, out p_child varchar, out p_next varchar, out p_scope varchar
)
language plpgsql as $$
declare
  v_ends varchar[];
  v_named boolean;
begin
  select n._ends, n._next, n._named, n._scope into v_ends, p_next, v_named, p_scope
  from df.nodes n where n.instance_id = p_instance and n.id = p_node;
  if p_end.outcome <> 'ok' then
    v_ends := df_engine.sequences_around(p_instance, p_node);
    p_next := null;
    v_named := p_end.outcome = 'broke';
  end if;
  if v_named then
    perform df_engine.bind_node(p_instance, n.id, n.node_type, n._scope, n.result_name, p_end)
    from df.nodes n
    where n.instance_id = p_instance and n.id = any (v_ends) and n.result_name is not null
    order by array_position(v_ends, n.id);
  end if;
  perform df_engine.complete_nodes(p_instance, p_root, v_ends, p_end, p_started);
  if p_next is null then
    p_child := v_ends[cardinality(v_ends)];
    p_construct := (select n._parent from df.nodes n where n.instance_id = p_instance and n.id = p_child);
  end if;
end
$$;

-- A node and the sequences around it, from the inside out: all that a failure or a break of the node ends.
create or replace function df_engine.sequences_around(p_instance varchar, p_node varchar) returns varchar[]
language sql stable as $$
  with recursive up as (
    select n.id, n._parent, 1 as distance from df.nodes n where n.instance_id = p_instance and n.id = p_node
    union all
    select n.id, n._parent, up.distance + 1
    from up join df.nodes n on n.instance_id = p_instance and n.id = up._parent and n.node_type = 'THEN'
  )
  select array_agg(up.id order by up.distance) from up;
$$;

-- Moves a claimed thread of control to its next node; answers the row's new version. The row is found by its key: the run is
-- only compared, in a way that no index serves, lest all rows of a wide run be looked through. Only session_user's own rows can
-- be named. Under the relaxed policy this commit need not wait for the disk: a crash that loses it loses the step's effect
-- with it, and the run's last commit, or any other that something outside the database can see, flushes the log up to itself.
create or replace function df_engine.move_ready(p_instance varchar, p_ready bigint, p_node varchar) returns xid
language plpgsql as $$
declare
  v_policy pg_catalog.text;
  v_version pg_catalog.xid;
begin
  update df_engine.ready r set node_id = p_node, picked = true, deaths = 0
  where r.lane = 'sql' and r.submitter = quote_ident(session_user)::pg_catalog.regrole and r.id = p_ready
    and r.instance_id is not distinct from p_instance
  returning (select s.value from df.settings s where s.name = 'commit_policy'), r.xmin into v_policy, v_version;
  if not found then
    raise exception 'instance % is not claimed by this session', p_instance using errcode = 'DF002';
  elsif v_policy = 'relaxed' then
    perform set_config('synchronous_commit', 'off', true);
  end if;
  return v_version;
end
$$;

create or replace function df_engine.drop_ready(p_instance varchar, p_ready bigint) returns void
language plpgsql as $$
begin
  delete from df_engine.ready r
  where r.lane = 'sql' and r.submitter = quote_ident(session_user)::pg_catalog.regrole and r.id = p_ready
    and r.instance_id is not distinct from p_instance;
  if not found then
    raise exception 'instance % is not claimed by this session', p_instance using errcode = 'DF002';
  end if;
end
$$;

-- Locks the races around a scope, from the inside out, and says whether all of them are still open for it. The caller is
-- about to commit a step: no step of a loser commits once its race is decided. They are locked before the run is moved on:
-- who decides a race writes rows of the loser.
create or replace function df_engine.hold_races(p_instance varchar, p_scope varchar) returns boolean
language plpgsql set search_path = '' as $$
declare
  v_scope pg_catalog.record;
  v_next varchar := p_scope;
begin
  while v_next is not null loop
    select s.parent, s.owner, n.node_type into v_scope
    from df_engine.scopes s
    left join df.nodes n on n.instance_id = s.instance_id and n.id = s.owner
    where s.instance_id = p_instance and s.node_id = v_next;
    if v_scope.node_type = 'RACE' then
      perform from df.nodes n where n.instance_id = p_instance and n.id = v_scope.owner for no key update;
      if df_engine.is_lost(p_instance, v_next) then
        return false;
      end if;
    end if;
    v_next := v_scope.parent;
  end loop;
  return true;
end
$$;

-- Waiting: what sleeps, schedules and waits for a signal leave behind when a run arrives at them, and how workers are woken.

-- Notifies workers. The payload is a hint: r = ready SQL, l = leased steps, t = timers and signals, x = steps to interrupt.
-- PostgreSQL prepares no transaction that has notified: a session that does that says SET df.wake = off, and the workers find
-- what it has committed at their next poll.
create or replace function df_engine.notify(p_kind text) returns void
language plpgsql volatile set search_path = '' as $$
begin
  if lower(current_setting('df.wake', true)) in ('off', 'false', 'no', '0') then
    return;
  end if;
  perform pg_notify('df_wake', p_kind);
end
$$;

-- Notifies workers that have said they sleep beyond p_due (NULL: now). A notification costs a cluster-wide lock, so none is
-- sent in vain.
create or replace function df_engine.wake(p_kind text, p_due timestamptz) returns void
language plpgsql volatile set search_path = '' as $$
begin
  if exists (select from df._worker_epoch w where w._sleeps_until > coalesce(p_due, df_engine.clock())) then
    perform df_engine.notify(p_kind);
  end if;
end
$$;

create or replace function df_engine.wake_for_start() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  perform df_engine.wake('r ' || new.submitter, null);
  return null;
end
$$;

create or replace function df_engine.wake_for_signal() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  perform df_engine.wake('t', null);
  return null;
end
$$;

-- At the commit of a start or a signal: deferred, so that a worker that went to sleep in the meantime is seen.
do $triggers$
begin
  if not exists (select from pg_trigger where tgname = 'ready_wake') then
    create constraint trigger ready_wake after insert on df_engine.ready deferrable initially deferred
      for each row when (not new.picked) execute function df_engine.wake_for_start();
  end if;
  if not exists (select from pg_trigger where tgname = 'inbox_wake') then
    create constraint trigger inbox_wake after insert on df_engine.inbox deferrable initially deferred
      for each row execute function df_engine.wake_for_signal();
  end if;
end
$triggers$;

create or replace function df_engine.set_timer(
  p_instance varchar, p_node varchar, p_kind text, p_due timestamptz
) returns void
language plpgsql set search_path = '' as $$
begin
  insert into df_engine.timers (instance_id, node_id, due_at, kind) values (p_instance, p_node, p_due, p_kind)
  on conflict (instance_id, node_id) do update set due_at = excluded.due_at, kind = excluded.kind;
  perform df_engine.wake('t', p_due);
end
$$;

-- Starts a wait. Answers an ending only when the node's content, checked here for hand-written envelopes, is unusable.
create or replace function df_engine.park_node(p_node df.nodes) returns df_engine.move
language plpgsql set search_path = '' as $$
declare
  v_config pg_catalog.jsonb;
begin
  perform df_engine.mark_running(p_node.instance_id, p_node.id, df_engine.clock());
  if p_node.node_type = 'SLEEP' then
    perform df_engine.set_timer(p_node.instance_id, p_node.id, 'sleep', df_engine.clock()
      + df_engine.sleep_seconds(p_node.query) * interval '1 s');
    return null;
  end if;
  v_config := p_node.query::pg_catalog.jsonb;
  if p_node.node_type = 'WAIT_SCHEDULE' then
    perform df_engine.set_timer(p_node.instance_id, p_node.id, 'schedule', df_engine.cron_next(
      v_config ->> 'cron_expr', coalesce(v_config ->> 'timezone', df_engine.setting('timezone')), df_engine.clock()));
  else
    perform df_engine.open_wait(p_node, v_config ->> 'signal_name', (v_config ->> 'timeout_seconds')::numeric);
  end if;
  return null;
exception
  when data_exception or program_limit_exceeded or not_null_violation then
    return df_engine.fail(format('%s: %s', p_node.node_type, sqlerrm));
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

-- Says of each signal of a name that was sent and not looked at yet whom it is for, before another wait opens: the waits that
-- are open, or none, and then it is kept. The first of several takes those waits from the later ones.
create or replace function df_engine.reserve_signals(p_instance varchar, p_signal text) returns void
language plpgsql set search_path = '' as $$
declare
  v_id bigint;
  v_waits pg_catalog.text[];
begin
  for v_id in
    select s.signal_id from df_engine.inbox s
    where s.instance_id = p_instance and s.signal_name = p_signal and s.fresh and s.delivered_to is null
    order by s.signal_id
  loop
    v_waits := array(
      select w.node_id from df_engine.waits w
      where w.instance_id = p_instance and w.signal_name = p_signal
        and not exists (select from df_engine.inbox r
                        where r.instance_id = p_instance and r.fresh and w.node_id = any (r.delivered_to)));
    update df_engine.inbox s set fresh = v_waits <> '{}', delivered_to = nullif(v_waits, '{}')
    where s.signal_id = v_id;
  end loop;
end
$$;

-- Opens a wait for a signal. The oldest kept signal of that name, if any, is reserved for it and looked at again.
create or replace function df_engine.open_wait(p_node df.nodes, p_signal text, p_timeout numeric) returns void
language plpgsql set search_path = '' as $$
begin
  perform from df.instances i where i.id = p_node.instance_id for no key update;
  perform df_engine.reserve_signals(p_node.instance_id, p_signal);
  insert into df_engine.waits (instance_id, node_id, signal_name) values (p_node.instance_id, p_node.id, p_signal)
  on conflict (instance_id, node_id) do update set signal_name = excluded.signal_name;
  if p_timeout is not null then
    perform df_engine.set_timer(p_node.instance_id, p_node.id, 'timeout',
                                df_engine.clock() + p_timeout * interval '1 s');
  end if;
  update df_engine.inbox s set fresh = true, delivered_to = array[p_node.id]
  where s.signal_id = (select k.signal_id from df_engine.inbox k
                       where k.instance_id = p_node.instance_id and k.signal_name = p_signal
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
    else exists (
      select from jsonb_array_elements_text(p_policy -> 'retry_on') as e(item)
      where e.item = p_sqlstate or (length(e.item) = 2 and starts_with(p_sqlstate, e.item))
         or (e.item = 'transient' and df_engine.transient(p_sqlstate)))
  end;
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

-- Records a failed attempt and sets the timer for the next; false when the step is not to be tried again.
create or replace function df_engine.retry_step(
  p_instance varchar, p_node varchar, p_error text, p_code text, p_retryable boolean, p_after numeric,
  p_started timestamptz
) returns boolean
language plpgsql set search_path = '' as $$
declare
  v_node pg_catalog.record;
  v_attempt int;
  v_due pg_catalog.timestamptz;
begin
  if not p_retryable then
    return false;
  end if;
  select n.*, df_engine.stamp(p_instance, n._scope) as stamp into v_node
  from df.nodes n where n.instance_id = p_instance and n.id = p_node;
  v_attempt := case when v_node.status = 'running' and v_node.status_details ? 'retry_at'
                         and v_node.status_details ->> 'execution_id' = v_node.stamp  -- else it lost a race then
                    then v_node.attempts else 0 end + 1;
  v_due := df_engine.retry_due(v_node.retry_policy, v_attempt, p_after);
  if v_due is null then
    return false;
  end if;
  perform df_engine.mark_running(p_instance, p_node, p_started);
  update df.nodes n
  set attempts = v_attempt, error = p_error, updated_at = df_engine.clock(),
      started_at = case when v_attempt = 1 then p_started else n.started_at end,
      status_details = jsonb_build_object('execution_id', v_node.stamp, 'retry_at', v_due)
  where n.instance_id = p_instance and n.id = p_node;
  delete from df_engine.attempts a  -- of earlier generations: history does not grow with a loop
  where a.instance_id = p_instance and a.node_id = p_node and a.stamp <> v_node.stamp;
  insert into df_engine.attempts (instance_id, node_id, attempt, stamp, sqlstate, error)
  values (p_instance, p_node, v_attempt, v_node.stamp, p_code, p_error);
  perform df_engine.set_timer(p_instance, p_node, 'retry', v_due);
  return true;
end
$$;

-- Due: what happens when the time of a timer has come or a signal has been sent. Nothing here runs a user's SQL, so a worker's
-- supervising connection does it for every role, and waits for nobody's locks.

-- Locks a run for a transition that comes from outside a step; answers the stamp of its root scope, NULL when the run is
-- over.
create or replace function df_engine.hold_run(p_instance varchar) returns text
language plpgsql volatile set search_path = '' as $$
begin
  return (
    select i.id || '::' || i._generation
    from df.instances i where i.id = p_instance and i._state in ('pending', 'running') for key share);
end
$$;

-- Ends a waiting node, in a run that the caller holds. Raises where a race was lost in the meantime.
create or replace function df_engine.end_wait(p_instance varchar, p_root text, p_node varchar, p_value jsonb)
returns void
language plpgsql set search_path = '' as $$
begin
  delete from df_engine.timers t where t.instance_id = p_instance and t.node_id = p_node;
  delete from df_engine.waits w where w.instance_id = p_instance and w.node_id = p_node;
  if not df_engine.advance(p_instance, p_root, null, p_node, df_engine.done('ok', p_value), df_engine.clock()) then
    raise exception 'node % of instance % lost its race', p_node, p_instance using errcode = 'DF001';
  end if;
end
$$;

-- Fires one due timer; the caller has locked its row.
create or replace function df_engine.fire_timer(p_timer df_engine.timers) returns void
language plpgsql set search_path = '' as $$
declare
  v_root constant pg_catalog.text := df_engine.hold_run(p_timer.instance_id);
  v_node df.nodes;
begin
  select * into v_node from df.nodes n where n.instance_id = p_timer.instance_id and n.id = p_timer.node_id;
  if v_root is null or not df_engine.hold_races(v_node.instance_id, v_node._scope) then
    delete from df_engine.timers t where t.instance_id = p_timer.instance_id and t.node_id = p_timer.node_id;
    delete from df_engine.waits w where w.instance_id = p_timer.instance_id and w.node_id = p_timer.node_id;
    return;
  end if;
  case p_timer.kind
    when 'sleep' then
      perform df_engine.end_wait(v_node.instance_id, v_root, v_node.id, jsonb_build_object(
        'slept', true, 'seconds', v_node.query::pg_catalog.jsonb));
    when 'schedule' then
      perform df_engine.end_wait(v_node.instance_id, v_root, v_node.id, '{"scheduled": true}');
    when 'timeout' then
      perform df_engine.end_wait(v_node.instance_id, v_root, v_node.id, jsonb_build_object(
        'signal_name', v_node.query::pg_catalog.jsonb -> 'signal_name', 'timed_out', true, 'data', null));
    else
      delete from df_engine.timers t where t.instance_id = v_node.instance_id and t.node_id = v_node.id;
      perform df_engine.enqueue(v_node.instance_id,
        case p_timer.kind when 'pace' then v_node.left_node else v_node.id end,
        case p_timer.kind when 'pace' then 'sql' else df_engine.lane(v_node.instance_id, v_node.node_type) end);
  end case;
end
$$;

-- The open waits that a signal is for, locked: all of its name; for a reserved one those it is reserved for, or one other
-- when they have all ended in the meantime. Waits of branches that have lost their race are removed.
create or replace function df_engine.waits_for(p_signal df_engine.inbox) returns varchar[]
language plpgsql set search_path = '' as $$
declare
  v_waits varchar[];
begin
  delete from df_engine.waits w using df.nodes n
  where w.instance_id = p_signal.instance_id and w.signal_name = p_signal.signal_name
    and n.instance_id = w.instance_id and n.id = w.node_id and not df_engine.scope_open(n.instance_id, n._scope);
  v_waits := array(
    select w.node_id from df_engine.waits w
    where w.instance_id = p_signal.instance_id and w.signal_name = p_signal.signal_name
    order by w.node_id for update);
  return case
    when p_signal.delivered_to is null then v_waits
    when not v_waits && p_signal.delivered_to::varchar[] then v_waits[:1]
    else array(select w from unnest(v_waits) w where w = any (p_signal.delivered_to))
  end;
end
$$;

-- Looks at one fresh signal: delivers it to open waits, keeps it, or gives it up.
create or replace function df_engine.deliver_signal(p_signal df_engine.inbox) returns void
language plpgsql set search_path = '' as $$
declare
  v_waits varchar[];
  v_node varchar;
  v_nodes pg_catalog.text[];
  v_root pg_catalog.text;
begin
  select i.id || '::' || i._generation into v_root from df.instances i
  where i.id = p_signal.instance_id and i._state in ('pending', 'running') for no key update;
  if v_root is null then
    update df_engine.inbox s set status = 'undeliverable', fresh = false, delivered_to = null
    where s.signal_id = p_signal.signal_id;
    return;
  end if;
  v_waits := df_engine.waits_for(p_signal);
  if v_waits <> '{}' then
    -- At once: a wait that opens when one of these has ended must not find this signal.
    update df_engine.inbox s set fresh = false, status = 'delivered' where s.signal_id = p_signal.signal_id;
  end if;
  foreach v_node in array v_waits loop
    -- A wait is gone when one before it has decided the race between them.
    if exists (select from df_engine.waits w where w.instance_id = p_signal.instance_id and w.node_id = v_node) then
      v_nodes := v_nodes || v_node::pg_catalog.text;
      perform df_engine.end_wait(p_signal.instance_id, v_root, v_node, jsonb_build_object(
        'signal_name', p_signal.signal_name, 'timed_out', false, 'data', p_signal.signal_data));
    end if;
  end loop;
  update df_engine.inbox s
  set fresh = false, delivered_to = v_nodes,
      status = case when v_nodes is null then 'pending' else 'delivered' end,
      delivered_at = case when v_nodes is not null then df_engine.clock() end
  where s.signal_id = p_signal.signal_id;
end
$$;

-- Whether a run can be moved on without waiting for anybody: no caller's open transaction holds it. It is held from then on.
-- Also true of a run that is no longer there.
create or replace function df_engine.hold_at_once(p_instance varchar) returns boolean
language plpgsql set search_path = '' as $$
begin
  perform from df.instances i where i.id = p_instance for no key update skip locked;
  return found or not exists (select from df.instances i where i.id = p_instance);
end
$$;

-- One due timer or fresh signal, if its run is free: no caller's open transaction holds up the others. What needs the lock
-- of a step that is just ending gives up where that takes long, and is tried again.
create or replace function df_engine.try_timer(p_timer df_engine.timers) returns boolean
language plpgsql set search_path = '' as $$
begin
  if not df_engine.hold_at_once(p_timer.instance_id) then
    return false;
  end if;
  begin
    select * into p_timer from df_engine.timers t
    where t.instance_id = p_timer.instance_id and t.node_id = p_timer.node_id and t.due_at <= df_engine.clock()
    for update skip locked;
    if found then
      perform df_engine.fire_timer(p_timer);
    end if;
    return found;
  exception when lock_not_available or deadlock_detected or sqlstate 'DF001' then
    return false;
  end;
end
$$;

create or replace function df_engine.try_signal(p_signal df_engine.inbox) returns boolean
language plpgsql set search_path = '' as $$
begin
  if not df_engine.hold_at_once(p_signal.instance_id) then
    return false;
  end if;
  begin
    select * into p_signal from df_engine.inbox s
    where s.signal_id = p_signal.signal_id and s.fresh
      and not exists (select from df_engine.inbox e
                      where e.instance_id = s.instance_id and e.signal_name = s.signal_name and e.fresh
                        and e.signal_id < s.signal_id)
    for update skip locked;
    if found then
      perform df_engine.deliver_signal(p_signal);
    end if;
    return found;
  exception when lock_not_available or deadlock_detected or sqlstate 'DF001' then
    return false;
  end;
end
$$;

-- Queues are looked through in order, from the place (front) at which this session stopped last, so that nothing waits behind
-- entries of runs that an open transaction holds. Those are left behind, and looked at again in turns (back), at most 1000
-- of them a look. The places of a session are kept in its settings.
create or replace function df_engine.place(p_queue text) returns text
language plpgsql stable set search_path = '' as $$
begin
  return nullif(current_setting('df_engine.' || p_queue, true), '');
end
$$;

create or replace function df_engine.set_place(p_queue text, p_place text) returns void
language plpgsql volatile set search_path = '' as $$
begin
  perform set_config('df_engine.' || p_queue, coalesce(p_place, ''), false);
end
$$;

create or replace function df_engine.timer_place(p_queue text) returns df_engine.timers
language plpgsql stable set search_path = '' as $$
begin
  return jsonb_populate_record(row('', '', '-infinity', null)::df_engine.timers,
                               coalesce(df_engine.place(p_queue), '{}')::pg_catalog.jsonb);
end
$$;

-- Fires up to p_limit timers that are due by p_due, after a place. p_last: the last one that was looked at; p_ended: there
-- was no other.
create or replace function df_engine.fire_timers(
  p_after df_engine.timers, p_due timestamptz, p_limit int, out p_fired int, out p_last df_engine.timers, out p_ended boolean
)
language plpgsql set search_path = '' as $$
declare
  v_timer df_engine.timers;
  v_looked int := 0;
begin
  p_fired := 0;
  p_last := p_after;
  for v_timer in
    select * from df_engine.timers t
    where t.due_at <= p_due
      and (t.due_at, t.instance_id, t.node_id) > (p_after.due_at, p_after.instance_id, p_after.node_id)
    order by t.due_at, t.instance_id, t.node_id limit 1000
  loop
    exit when p_fired = p_limit;
    v_looked := v_looked + 1;
    p_last := v_timer;
    p_fired := p_fired + df_engine.try_timer(v_timer)::int;
  end loop;
  p_ended := v_looked < 1000 and p_fired < p_limit;
end
$$;

create or replace function df_engine.fire_due_timers(p_limit int) returns int
language plpgsql set search_path = '' as $$
declare
  v_front constant df_engine.timers := df_engine.timer_place('timers_front');
  v_old pg_catalog.record;
  v_new pg_catalog.record;
begin
  v_old := df_engine.fire_timers(df_engine.timer_place('timers_back'), least(v_front.due_at, df_engine.clock()), p_limit);
  perform df_engine.set_place('timers_back', case when not v_old.p_ended then to_jsonb(v_old.p_last)::pg_catalog.text end);
  v_new := df_engine.fire_timers(v_front, df_engine.clock(), p_limit);
  perform df_engine.set_place('timers_front', to_jsonb(v_new.p_last)::pg_catalog.text);
  return v_old.p_fired + v_new.p_fired;
end
$$;

-- The same for signals that are fresh, up to p_upto.
create or replace function df_engine.fire_signals(
  p_after bigint, p_upto bigint, p_limit int, out p_fired int, out p_last bigint, out p_ended boolean
)
language plpgsql set search_path = '' as $$
declare
  v_signal df_engine.inbox;
  v_looked int := 0;
begin
  p_fired := 0;
  p_last := p_after;
  for v_signal in
    select * from df_engine.inbox s
    where s.fresh and s.signal_id > p_after and s.signal_id <= p_upto
    order by s.signal_id limit 1000
  loop
    exit when p_fired = p_limit;
    v_looked := v_looked + 1;
    p_last := v_signal.signal_id;
    p_fired := p_fired + df_engine.try_signal(v_signal)::int;
  end loop;
  p_ended := v_looked < 1000 and p_fired < p_limit;
end
$$;

create or replace function df_engine.fire_fresh_signals(p_limit int) returns int
language plpgsql set search_path = '' as $$
declare
  v_front constant bigint := coalesce(df_engine.place('signals_front')::bigint, 0);
  v_old pg_catalog.record;
  v_new pg_catalog.record;
begin
  v_old := df_engine.fire_signals(coalesce(df_engine.place('signals_back')::bigint, 0), v_front, p_limit);
  perform df_engine.set_place('signals_back', case when not v_old.p_ended then v_old.p_last::pg_catalog.text end);
  v_new := df_engine.fire_signals(v_front, 9223372036854775807, p_limit);
  perform df_engine.set_place('signals_front', v_new.p_last::pg_catalog.text);
  return v_old.p_fired + v_new.p_fired;
end
$$;

-- Fires due timers and fresh signals, not many more than p_limit; answers how many.
create or replace function df_engine.fire_due(p_limit int) returns int
language sql security definer set search_path = '' set plan_cache_mode = 'force_generic_plan'
  set lock_timeout = '20ms' set jit = off set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off as $$
  select df_engine.fire_fresh_signals(p_limit) + df_engine.fire_due_timers(p_limit);
$$;

-- In how many milliseconds to look again: at the next due time; soon while a turn through those left behind is not
-- complete, and otherwise often enough to see within a second that one of them is free.
create or replace function df_engine.next_due_ms() returns numeric
language plpgsql volatile set search_path = '' set plan_cache_mode = 'force_generic_plan'
  set jit = off set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off as $$
declare
  v_now constant pg_catalog.timestamptz := df_engine.clock();
  v_timer constant df_engine.timers := df_engine.timer_place('timers_front');
  v_signal constant bigint := coalesce(df_engine.place('signals_front')::bigint, 0);
begin
  return least(
    (select greatest(0, ceil(extract(epoch from t.due_at - v_now) * 1000)) from df_engine.timers t
     where (t.due_at, t.instance_id, t.node_id) > (v_timer.due_at, v_timer.instance_id, v_timer.node_id)
     order by t.due_at, t.instance_id, t.node_id limit 1),
    (select case when df_engine.place('timers_back') is null then 200 else 20 end
     where exists (select from df_engine.timers t where t.due_at <= v_timer.due_at and t.due_at <= v_now)),
    (select 0 where exists (select from df_engine.inbox s where s.fresh and s.signal_id > v_signal)),
    (select case when df_engine.place('signals_back') is null then 200 else 20 end
     where exists (select from df_engine.inbox s where s.fresh and s.signal_id <= v_signal)));
end
$$;

-- Claiming: the lock on a ready row, in the step's own transaction, is the claim. What is not a statement for this session is
-- entered here; what may not run any more is dropped or failed. The functions act for session_user only.

-- Checked once, before a run begins; NULL when it may.
create or replace function df_engine.pickup_problem(p_instance df.instances) returns text
language plpgsql stable set search_path = '' as $$
declare
  v_login boolean;
  v_super boolean;
begin
  if p_instance.submitted_by is distinct from p_instance._submitter then
    return 'submitted_by is not the role that started this run';
  end if;
  select r.rolcanlogin, r.rolsuper into v_login, v_super
  from pg_catalog.pg_roles r where r.oid = p_instance._submitter;
  if v_login is not true then
    return format('role %s does not exist or has no LOGIN', p_instance._submitter);
  elsif v_super and not df_engine.setting_on('enable_superuser_instances') then
    return format('superuser %s may not run instances: setting enable_superuser_instances is off',
                  p_instance._submitter);
  end if;
  return null;
end
$$;

-- The text of a claimed SQL step with its references replaced; NULL when it cannot be run and has been failed.
create or replace function df_engine.prepare_step(
  p_instance varchar, p_node varchar, p_scope varchar, p_query text, p_ready bigint, p_poisoned boolean
) returns text
language plpgsql set search_path = '' as $$
declare
  v_sql pg_catalog.text;
  v_problem pg_catalog.text := case when p_poisoned then
    'SQL execution failed: the session that ran this step died, again and again' end;
begin
  if v_problem is null then
    v_sql := df_engine.bare_statement(df_engine.render_step(p_instance, p_scope, p_query, 'sql'));
    v_problem := 'SQL execution failed: ' || df_engine.single_statement_problem(v_sql);
  end if;
  if v_problem is not null then
    perform df_engine.finish_step(p_ready, p_instance, p_node, null, null, null, 'DF011', v_problem, df_engine.clock());
    return null;
  end if;
  return v_sql;
exception when sqlstate 'DF010' or sqlstate 'DF013' or data_exception or program_limit_exceeded then
  perform df_engine.finish_step(p_ready, p_instance, p_node, null, null, null,
                                case sqlstate when 'DF013' then sqlstate else 'DF010' end, sqlerrm, df_engine.clock());
  return null;
end
$$;

-- Enters a claimed node that is not a statement for this session: it is opened, parked or queued elsewhere.
create or replace function df_engine.enter_claimed(p_instance varchar, p_ready bigint, p_node varchar, p_scope varchar)
returns void
language plpgsql set search_path = '' as $$
declare
  v_root constant pg_catalog.text := df_engine.hold_run(p_instance);
begin
  if v_root is null
     or not df_engine.hold_races(p_instance, p_scope)
     or not df_engine.advance(p_instance, v_root, p_ready, p_node, df_engine.enter_node(p_instance, p_node),
                              df_engine.clock()) then
    raise exception 'node % of instance % may not run any more', p_node, p_instance using errcode = 'DF001';
  end if;
exception when sqlstate 'DF001' then
  perform df_engine.drop_ready(p_instance, p_ready);
end
$$;

-- Raises unless p_key is the key of session_user. session_user alone does not prove who calls: a session may be in a
-- function that acts with somebody else's rights, and that cannot read this key.
create or replace function df_engine.require_key(p_key text, p_role oid) returns void
language plpgsql stable as $$
begin
  if p_key is distinct from encode(sha256((df_engine.secret() || p_role::pg_catalog.text)::pg_catalog.bytea), 'hex') then
    raise exception 'only df_engine.work, called by the session''s own role, may call this function'
      using errcode = 'insufficient_privilege';
  end if;
end
$$;

-- Goes on with a run that this session has just passed on to p_node, if nobody was faster: then the row in the queue is still
-- the version that was claimed. There is nothing to check again, because whoever ends a run takes away the rows that are not
-- locked.
create or replace function df_engine.hold_step(p_ready bigint, p_version xid, p_instance varchar, p_node varchar)
returns boolean
language plpgsql security definer set search_path = '' set jit = off set enable_seqscan = off as $$
declare
  v_role constant pg_catalog.oid := quote_ident(session_user)::pg_catalog.regrole;
begin
  perform set_config('application_name', 'pg_durable:' || p_instance || ':' || p_node, true)
  from (select from df_engine.ready r
        where r.lane = 'sql' and r.submitter = v_role and r.id = p_ready and r.xmin = p_version and r.deaths = 0
          and r.instance_id is not distinct from p_instance and has_schema_privilege(v_role, 'df', 'usage')
        for update skip locked) as held;
  return found;
end
$$;

-- A step, and the plain ones that follow it as far as they can be run as they are: 32 in all, or 100 kB of statements. A loop,
-- because a recursive query takes longer to set up than a few of these look-ups.
create or replace function df_engine.steps_from(p_instance varchar, p_step df_engine.step) returns df_engine.step[]
language plpgsql stable as $$
declare
  v_steps df_engine.step[] := array[p_step];
  v_room int := 100000;
begin
  while p_step.plain and p_step.next is not null and v_room > 0 and cardinality(v_steps) < 32 loop
    select n.id, n.query, n._kind, n._typed, n._plain, n._ends, n._next, n._named into p_step
    from df.nodes n
    where n.instance_id = p_instance and n.id = p_step.next and n._kind is not null and n.database is null;
    exit when not found;
    v_steps := array_append(v_steps, p_step);
    v_room := v_room - length(p_step.sql);
  end loop;
  return v_steps;
end
$$;

-- Where a thread of control is whose row in the queue says p_node. A sequence is at its beginning; and a plain step leaves
-- the row as it is, so the thread is past all that have ended since. p_stamp: of the root scope, where all plain steps are.
create or replace function df_engine.thread_node(p_node df.nodes, p_stamp text) returns df.nodes
language plpgsql stable as $$
begin
  while p_node.node_type = 'THEN'
        or p_node.status = 'completed' and p_node._plain and p_node._next is not null
           and p_node.status_details ->> 'execution_id' = p_stamp loop
    select * into p_node from df.nodes n where n.instance_id = p_node.instance_id and n.id = p_node._next;
  end loop;
  return p_node;
end
$$;

-- Claims a step of session_user: row p_ready if it is still there, else the longest-waiting one. p_steps: to be run in this
-- order, the first of them now, and each of the others once hold_step has said so; p_fresh: the first begins now; p_version:
-- of the row, for hold_step. With p_report: stop, nothing is ready. With neither: commit and claim again, because a
-- transition was made.
-- p_low is a low-water mark: while somebody holds an old snapshot the dead rows of all runs since stay in the index, and are
-- not to be walked over again. p_careful: tell the worker which step is about to run, so that it knows whose the death of this
-- session is. INFO goes out at once, whatever the settings.
create or replace function df_engine.claim_step(
  p_key text, inout p_ready bigint, inout p_low bigint, p_careful boolean, out p_report text, out p_instance varchar,
  out p_version xid, out p_fresh boolean, out p_steps df_engine.step[]
)
language plpgsql security definer set search_path = '' set plan_cache_mode = 'force_generic_plan'
  set jit = off set enable_seqscan = off as $$
declare
  v_role constant pg_catalog.oid := quote_ident(session_user)::pg_catalog.regrole;
  v_ready pg_catalog.record;
  v_stamp pg_catalog.text;
  v_database pg_catalog.text;
  v_live boolean;
  v_problem pg_catalog.text;
  v_node df.nodes;
  v_begins varchar;  -- a row at a sequence is at its beginning
  v_sql pg_catalog.text;
  v_kind pg_catalog.text;
begin
  perform df_engine.require_key(p_key, v_role);
  v_ready := df_engine.lock_ready(v_role, p_ready, p_low);
  if v_ready.id is null then
    p_report := 'empty';
    return;
  end if;
  p_low := case when v_ready.id = p_ready then p_low else v_ready.id end;
  p_ready := v_ready.id;
  p_instance := v_ready.instance_id;
  p_version := v_ready.version;
  select i.id || '::' || i._generation, i.database, i._state in ('pending', 'running') and i._submitter = v_role,
         case when not v_ready.picked then df_engine.pickup_problem(i) end
  into v_stamp, v_database, v_live, v_problem
  from df.instances i where i.id = p_instance;
  select * into v_node from df.nodes n where n.instance_id = p_instance and n.id = v_ready.node_id;
  v_begins := case v_node.node_type when 'THEN' then v_node._next else v_node.id end;
  if v_node.node_type = 'THEN' or v_node.status = 'completed' then
    v_node := df_engine.thread_node(v_node, v_stamp);
  end if;
  if v_live is not true or not (v_node._scope is null or df_engine.scope_open(p_instance, v_node._scope)) then
    perform df_engine.drop_ready(p_instance, p_ready);
    return;
  elsif v_problem is not null and v_node.id = v_ready.node_id or not has_schema_privilege(v_role, 'df', 'usage') then
    perform df_engine.fail_run(p_instance, coalesce(
      v_problem, format('role %s has no USAGE on schema df any more', v_role::pg_catalog.regrole)));
    return;
  elsif v_node.node_type <> 'SQL' or v_database <> current_database() then
    perform df_engine.enter_claimed(p_instance, p_ready, v_node.id, v_node._scope);
    return;
  end if;
  if v_node.id <> v_begins then
    p_version := df_engine.move_ready(p_instance, p_ready, v_node.id);
  end if;
  v_sql := v_node.query;
  v_kind := v_node._kind;
  if v_kind is null or v_ready.deaths >= 12 then
    v_sql := df_engine.prepare_step(p_instance, v_node.id, v_node._scope, v_sql, p_ready, v_ready.deaths >= 12);
    if v_sql is null then
      return;
    end if;
    v_kind := df_engine.statement_kind(v_sql);
  end if;
  p_fresh := v_node.status <> 'running';
  p_steps := df_engine.steps_from(
    p_instance, row(v_node.id, v_sql, v_kind, v_node._typed, v_node._plain and not p_careful, v_node._ends, v_node._next,
                    v_node._named));
  if p_careful then
    raise info 'pg_durable:%:%', p_ready, v_node.id;
  end if;
  perform set_config('application_name', 'pg_durable:' || p_instance || ':' || v_node.id, true);
end
$$;

-- Locks ready row p_ready of a role if it is still there and free, else the longest-waiting free one from p_low on, else any.
create or replace function df_engine.lock_ready(
  p_role oid, p_ready bigint, p_low bigint,
  out id bigint, out instance_id varchar, out node_id varchar, out version xid, out picked boolean, out deaths int
)
language plpgsql as $$
begin
  if p_ready is not null then
    select r.id, r.instance_id, r.node_id, r.xmin, r.picked, r.deaths into id, instance_id, node_id, version, picked, deaths
    from df_engine.ready r
    where r.lane = 'sql' and r.submitter = p_role and r.id = p_ready for update skip locked;
  end if;
  if id is null then
    select r.id, r.instance_id, r.node_id, r.xmin, r.picked, r.deaths into id, instance_id, node_id, version, picked, deaths
    from df_engine.ready r
    where r.lane = 'sql' and r.submitter = p_role and r.id >= p_low order by r.id limit 1 for update skip locked;
  end if;
  if id is null and p_low > 0 then
    select q.* into id, instance_id, node_id, version, picked, deaths from df_engine.lock_ready(p_role, null, 0) q;
  end if;
end
$$;

-- Whether no race around a scope has been lost. Not locked: the finish of a step asks again, with locks. A loop: most scopes
-- are not deep.
create or replace function df_engine.scope_open(p_instance varchar, p_scope varchar) returns boolean
language plpgsql stable set search_path = '' as $$
declare
  v_outcome pg_catalog.text;
begin
  while p_scope is not null and v_outcome is distinct from 'lost' loop
    select s.parent, s.outcome into p_scope, v_outcome
    from df_engine.scopes s where s.instance_id = p_instance and s.node_id = p_scope;
  end loop;
  return v_outcome is distinct from 'lost';
end
$$;

-- Executing: the user's statement, as the session's role, and what it returns. Independent of tables and of the rest of the engine:
-- p_kind is what df_engine.statement_kind says of a text that df_engine.bare_statement has been through.

-- The final names of columns: the first of a name keeps it, later ones get _2, _3, ..., skipping names that are taken.
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

-- Runs a statement that may return rows. p_rows: a JSON array of objects, their keys in the order of p_columns; p_columns is NULL
-- when it returns no row set. p_types, where p_typed wants them: see type_names in statement.j2. p_limit: bytes of p_rows.
create or replace function df_engine.run_statement(
  p_sql text, p_kind text, p_typed boolean, p_limit bigint,
  out p_rows json, out p_count bigint, out p_columns text[], out p_types text[]
)
language plpgsql as $fn$
declare
  v_names pg_catalog.text[];
  v_kind pg_catalog.text := p_kind;
  v_row pg_catalog.record;
  v_json pg_catalog.json;
  v_list pg_catalog.json[] := '{}';
  v_size bigint := 0;
  v_types pg_catalog.oid[];
begin
  if pg_catalog.texteq(v_kind, 'query') then
    -- In FROM it gets the plan that it has by itself, a parallel one too, which a cursor never gets. A query that cannot stand
    -- there, or is no query, or has more rows than fit into one value, is read row by row: then its own error is raised, too.
    begin
      execute pg_catalog.concat('select pg_catalog.json_agg(pg_catalog.row_to_json(q.*)), pg_catalog.count(*) from (', p_sql, E'\n) q')
      into p_rows, p_count;
      if pg_catalog.int8eq(p_count, 0) then
        for v_row in execute pg_catalog.concat('select * from (', p_sql, E'\n) q where false') loop
          null;  -- what is wanted is the row's shape
        end loop;
        p_rows := '[]';
        v_json := pg_catalog.row_to_json(v_row);
      else
        v_json := pg_catalog.json_array_element(p_rows, 0);
        if pg_catalog.int48gt(pg_catalog.pg_column_size(p_rows), pg_catalog.int84pl(p_limit, 4)) then
          raise exception 'the result has % bytes of JSON, and max_result_bytes allows %', pg_catalog.int4mi(pg_catalog.pg_column_size(p_rows), 4), p_limit
        using errcode = 'DF012', hint = 'Return keys, and leave the data in a table that the next step reads.';
        end if;
      end if;
    exception when syntax_error or feature_not_supported or program_limit_exceeded then
      v_kind := 'rows';
      p_rows := null;
    end;
  elsif pg_catalog.texteq(v_kind, 'call') and exists (
    select from pg_catalog.pg_proc p
    join pg_catalog.pg_namespace n on pg_catalog.oideq(n.oid, p.pronamespace)
    cross join pg_catalog.parse_ident(pg_catalog.substring(
      pg_catalog.regexp_replace(p_sql, E'--[^\n\r]*|/[*].*?[*]/', ' ', 'g'),
      '^[[:space:]]*[Cc][Aa][Ll][Ll][[:space:]]+((?:"[^"]+"|[^[:space:]"(.]+)(?:[[:space:]]*[.][[:space:]]*'
      '(?:"[^"]+"|[^[:space:]"(.]+))?)[[:space:]]*[(]')) i(name)
    where pg_catalog.nameeqtext(p.proname, i.name[pg_catalog.cardinality(i.name)]) and pg_catalog.chareq(p.prokind, 'p')
      and pg_catalog.arrayoverlap(p.proargmodes, '{o,b}'::pg_catalog."char"[])
      and (pg_catalog.nameeqtext(n.nspname, i.name[1]) or pg_catalog.pg_function_is_visible(p.oid))) then
    execute p_sql into v_row;
    v_json := pg_catalog.row_to_json(v_row);
    v_list := array[v_json];
  elsif pg_catalog.texteq(v_kind, 'call') then
    execute p_sql;
  end if;
  if pg_catalog.texteq(v_kind, 'rows') or pg_catalog.texteq(v_kind, 'utility') then
    begin
      for v_row in execute p_sql loop
        v_json := pg_catalog.row_to_json(v_row);
        v_size := pg_catalog.int84pl(v_size, pg_catalog.int4pl(pg_catalog.octet_length(v_json::pg_catalog.text), 1));
        v_list := pg_catalog.array_append(v_list, v_json);
        if pg_catalog.int8gt(v_size, p_limit) then
          raise exception 'the result has more than % bytes of JSON, and max_result_bytes allows %', v_size, p_limit
        using errcode = 'DF012', hint = 'Return keys, and leave the data in a table that the next step reads.';
        end if;
      end loop;
      v_json := pg_catalog.row_to_json(v_row);
    exception when invalid_cursor_definition then
      execute p_sql;  -- it returns none after all
    end;
  end if;
  if p_rows is null then
    p_rows := pg_catalog.array_to_json(v_list);
    p_count := pg_catalog.cardinality(v_list);
  end if;
  if v_json is not null then
    p_columns := array(select k from pg_catalog.json_object_keys(v_json) k);
  end if;
  if p_typed and pg_catalog.int4gt(pg_catalog.cardinality(p_columns), 0) then
    if pg_catalog.texteq(v_kind, 'query') then
      execute (
        select pg_catalog.concat('select array[', pg_catalog.string_agg(pg_catalog.concat('pg_catalog.pg_typeof(x.c', g, ')'), ','),
          ']::pg_catalog.oid[] from (select) d left join (', p_sql, E'\n) x(', pg_catalog.string_agg(pg_catalog.concat('c', g), ','),
          ') on false')
        from pg_catalog.generate_series(1, pg_catalog.cardinality(p_columns)) g)
      into v_types;
    elsif pg_catalog.texteq(v_kind, 'rows')
          and pg_catalog.int4ge(pg_catalog.current_setting('server_version_num')::int, 160000) then
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
  if pg_catalog.int4gt(pg_catalog.cardinality(p_columns), 1) then
    v_names := df_engine.final_names(p_columns);
    if pg_catalog.array_ne(v_names, p_columns) then
      p_columns := v_names;
      p_rows := df_engine.renamed_rows(p_rows, v_names);
    end if;
  end if;
end
$fn$;

-- Finishing: a step's result, or its error, and the transition that follows, in the step's own transaction. Called by the
-- driver only.

-- Records what a step did and moves the run on, in the step's own transaction. False: the run was cancelled, or a race was
-- lost, while it ran; the caller rolls back.
create or replace function df_engine.finish_step(
  p_ready bigint, p_instance varchar, p_node varchar, p_value jsonb, p_columns text[], p_types text[], p_sqlstate text,
  p_error text, p_started timestamptz
) returns boolean
language plpgsql as $$
declare
  v_end constant df_engine.move := df_engine.step_ending(p_value, p_columns, p_types, p_sqlstate, p_error);
  v_root pg_catalog.text;
  v_over boolean;
  v_mine boolean;
begin
  select i.id || '::' || i._generation, i._state not in ('pending', 'running'), i._cancelled_in = pg_current_xact_id()
  into v_root, v_over, v_mine
  from df.instances i
  where i.id = p_instance and i._submitter = quote_ident(session_user)::pg_catalog.regrole for key share;
  if v_root is null or (v_over and v_mine is not true) then
    return false;
  elsif v_over then
    -- The step cancelled its own run, which withdrew its ready row: it still commits, and the run does not go on.
    perform df_engine.complete_nodes(p_instance, v_root, array[p_node], v_end, p_started);
    return true;
  elsif p_error is not null and df_engine.retry_step(p_instance, p_node, p_error, p_sqlstate, df_engine.sql_retryable(
      p_sqlstate, (select n.retry_policy from df.nodes n where n.instance_id = p_instance and n.id = p_node)),
      null, p_started) then
    perform df_engine.drop_ready(p_instance, p_ready);
    return df_engine.hold_races(p_instance, (select n._scope from df.nodes n
                                             where n.instance_id = p_instance and n.id = p_node));
  end if;
  return df_engine.advance(p_instance, v_root, p_ready, p_node, v_end, p_started);
end
$$;

create or replace function df_engine.step_ending(p_value jsonb, p_columns text[], p_types text[], p_sqlstate text, p_error text)
returns df_engine.move
language sql immutable as $$
  select row(case when p_error is null then 'ok' when p_sqlstate = 'DF013' then 'fatal' else 'failed' end, p_value, p_columns,
             p_types, p_error, null)::df_engine.move;
$$;

-- Ends a plain step well, with the sequences that it is the last of, and the run if nothing comes after it: all that most steps
-- need. The run's row in the queue stays as it is: see df_engine.thread_node. False: the run is over or not the caller's, and
-- nothing was written. p_ends, p_next and p_named are those of the step. p_first, p_begun: the node at which this session took the run
-- over, and when that began; a sequence that it is the beginning of need not look that up.
create or replace function df_engine.pass_on(
  p_key text, p_ready bigint, p_instance varchar, p_ends varchar[], p_next varchar, p_named boolean, p_value jsonb,
  p_columns text[], p_types text[], p_started timestamptz, p_first varchar, p_begun timestamptz
) returns boolean
language plpgsql security definer set search_path = '' set plan_cache_mode = 'force_generic_plan'
  set jit = off set enable_seqscan = off as $$
declare
  v_role constant pg_catalog.oid := quote_ident(session_user)::pg_catalog.regrole;
  v_stamp pg_catalog.text;
begin
  select i.id || '::' || i._generation into v_stamp
  from df.instances i
  where i.id = p_instance and i._submitter = v_role and i._state in ('pending', 'running')
    and p_key = encode(sha256((df_engine.secret() || v_role::pg_catalog.text)::pg_catalog.bytea), 'hex')
  for key share;
  if v_stamp is null then
    return false;
  end if;
  update df.nodes n
  set status = 'completed', result = p_value, result_columns = p_columns, _types = p_types, error = null,
      attempts = case when n.status_details ? 'retry_at' and n.status = 'running' then n.attempts + 1 else 1 end,
      started_at = case
        when n.status = 'running' then n.started_at
        when n.node_type <> 'THEN' then p_started
        else coalesce(case when n._next = p_first then p_begun end, df_engine.began(n.instance_id, n.left_node), p_started) end,
      completed_at = df_engine.clock(), updated_at = df_engine.clock(),
      status_details = jsonb_build_object('execution_id', v_stamp)
  where n.instance_id = p_instance and n.id = any (p_ends);
  if p_named then
    insert into df_engine.bindings (instance_id, scope, name, value, columns, types)
    select distinct on (n.result_name) p_instance, '', n.result_name, p_value, p_columns, p_types
    from df.nodes n
    where n.instance_id = p_instance and n.id = any (p_ends) and n.result_name is not null
    order by n.result_name
    on conflict (instance_id, scope, name) do update
      set value = excluded.value, columns = excluded.columns, types = excluded.types;
  end if;
  if p_next is null then
    perform df_engine.end_run(p_instance, 'completed', null);
    perform df_engine.drop_ready(p_instance, p_ready);
  end if;
  return true;
end
$$;

-- The same for several plain steps that have run one after the other in this transaction. p_named: one of them is.
create or replace function df_engine.pass_on_group(
  p_key text, p_ready bigint, p_instance varchar, p_outcomes df_engine.outcome[], p_next varchar, p_named boolean,
  p_first varchar, p_begun timestamptz
) returns boolean
language plpgsql security definer set search_path = '' set plan_cache_mode = 'force_generic_plan'
  set jit = off set enable_seqscan = off as $$
declare
  v_role constant pg_catalog.oid := quote_ident(session_user)::pg_catalog.regrole;
  v_stamp pg_catalog.text;
begin
  select i.id || '::' || i._generation into v_stamp
  from df.instances i
  where i.id = p_instance and i._submitter = v_role and i._state in ('pending', 'running')
    and p_key = encode(sha256((df_engine.secret() || v_role::pg_catalog.text)::pg_catalog.bytea), 'hex')
  for key share;
  if v_stamp is null then
    return false;
  end if;
  update df.nodes n
  set status = 'completed', result = o.value, result_columns = o.columns, _types = o.types, error = null,
      attempts = case when n.status_details ? 'retry_at' and n.status = 'running' then n.attempts + 1 else 1 end,
      started_at = case
        when n.status = 'running' then n.started_at
        when n.node_type <> 'THEN' then o.started
        else coalesce(case when n._next = p_first then p_begun
                       else (select q.started from unnest(p_outcomes) q where q.ends[1] = n._next) end, df_engine.began(n.instance_id, n.left_node), o.started) end,
      completed_at = o.ended, updated_at = o.ended,
      status_details = jsonb_build_object('execution_id', v_stamp)
  from unnest(p_outcomes) o
  where n.instance_id = p_instance and n.id = any (o.ends);
  if p_named then
    insert into df_engine.bindings (instance_id, scope, name, value, columns, types)
    select distinct on (n.result_name) p_instance, '', n.result_name, o.value, o.columns, o.types
    from unnest(p_outcomes) with ordinality o(ends, value, columns, types, started, ended, place), df.nodes n
    where n.instance_id = p_instance and n.id = any (o.ends) and n.result_name is not null
    order by n.result_name, o.place desc
    on conflict (instance_id, scope, name) do update
      set value = excluded.value, columns = excluded.columns, types = excluded.types;
  end if;
  if p_next is null then
    perform df_engine.end_run(p_instance, 'completed', null);
    perform df_engine.drop_ready(p_instance, p_ready);
  end if;
  return true;
end
$$;

-- What becomes of a step that has been executed: true: commit; false: roll back; NULL: roll back and report the
-- interruption.
create or replace function df_engine.settle_step(
  p_key text, p_ready bigint, p_instance varchar, p_node varchar, p_value jsonb, p_columns text[], p_types text[],
  p_sqlstate text, p_message text, p_detail text, p_hint text, p_started timestamptz
) returns boolean
language plpgsql security definer set search_path = '' set plan_cache_mode = 'force_generic_plan'
  set jit = off set enable_seqscan = off as $$
begin
  perform df_engine.require_key(p_key, quote_ident(session_user)::pg_catalog.regrole);
  if p_sqlstate is null then
    return df_engine.finish_step(p_ready, p_instance, p_node, p_value, p_columns, p_types, null, null, p_started);
  end if;
  case df_engine.judge_error(p_sqlstate, p_started)
    when 'divert' then
      return df_engine.divert_step(p_ready, p_node, p_started);
    when 'interrupted' then
      return null;
    else
      return df_engine.finish_step(p_ready, p_instance, p_node, null, null, null, p_sqlstate,
        df_engine.error_text(p_sqlstate, p_message, p_detail, p_hint), p_started);
  end case;
end
$$;

-- A statement that PostgreSQL refuses inside a transaction is handed to the worker, which runs it outside one.
create or replace function df_engine.divert_step(p_ready bigint, p_node varchar, p_started timestamptz) returns boolean
language plpgsql set search_path = '' as $$
begin
  update df_engine.ready r set lane = 'direct', autocommit = true, picked = true, node_id = p_node
  where r.lane = 'sql' and r.submitter = quote_ident(session_user)::pg_catalog.regrole and r.id = p_ready;
  perform df_engine.mark_running(r.instance_id, p_node, p_started)
  from df_engine.ready r
  where r.lane = 'direct' and r.submitter = quote_ident(session_user)::pg_catalog.regrole and r.id = p_ready;
  perform df_engine.wake('l', null);
  return true;
end
$$;

-- What an error of a step says: the server's message with its SQLSTATE, then detail and hint. The JSON text of a composite value,
-- put where its type is wanted, is refused by PostgreSQL without a word on what it is.
create or replace function df_engine.error_text(p_sqlstate text, p_message text, p_detail text, p_hint text)
returns text
language sql immutable set search_path = '' as $$
  select 'SQL execution failed: ' || p_message || ' (SQLSTATE ' || p_sqlstate || ')'
    || coalesce(chr(10) || 'DETAIL: ' || nullif(p_detail, ''), '')
    || coalesce(chr(10) || 'HINT: ' || coalesce(nullif(p_hint, ''), case when p_sqlstate = '22P02' and strpos(p_message, '{"') > 0
      then 'This is the JSON text of a value of a composite type: read it with jsonb_populate_record(null::the_type, $name.column).'
    end), '');
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

-- The driver: df_engine.work runs in a session logged in as the submitter and loops inside the server. One transaction a
-- step: claim, statement, result, transition. It runs with the search_path of the role, so every name in it is qualified.

create or replace function df_engine.deadline(p_ms int) returns timestamptz
language sql volatile set search_path = '' as $$
  select clock_timestamp() + p_ms * interval '1 ms';
$$;

create or replace function df_engine.commits_relaxed() returns boolean
language sql stable set search_path = '' as $$
  select s.value = 'relaxed' from df.settings s where s.name = 'commit_policy';
$$;

-- Runs ready steps of session_user until none is ready ('empty'), p_budget_ms have passed ('budget'), or a step was
-- cancelled by somebody else ('interrupted:<instance>:<node>'). p_careful: say before each step which one
-- it is, so that a step that kills its session fails in the end.
create or replace procedure df_engine.work(p_budget_ms int, p_careful boolean, inout p_report text)
language plpgsql as $$
declare
  v_deadline constant pg_catalog.timestamptz := df_engine.deadline(p_budget_ms);
  v_key pg_catalog.text;
  v_claim pg_catalog.record;
  v_steps df_engine.step[];
  v_at int;
  v_step df_engine.step;
  v_limit bigint;
  v_result pg_catalog.record;
  v_no_rows pg_catalog.record;
  v_value pg_catalog.jsonb;
  v_no_value constant pg_catalog.jsonb := '{"rows": [], "row_count": 0}'::pg_catalog.jsonb;
  v_started pg_catalog.timestamptz;
  v_ready bigint;
  v_version pg_catalog.xid;
  v_instance varchar;
  v_first varchar;
  v_begun pg_catalog.timestamptz;
  v_low bigint := 0;
  v_held boolean := false;
  v_kept boolean;
  v_code pg_catalog.text;
  v_message pg_catalog.text;
  v_detail pg_catalog.text;
  v_hint pg_catalog.text;
begin
  if df_engine.commits_relaxed() and not p_careful then
    call df_engine.work_in_groups(p_budget_ms, p_report);
    return;
  end if;
  v_key := (select k.key from df_engine.own_key k);
  v_limit := df_engine.setting('max_result_bytes')::bigint;
  select '[]'::pg_catalog.json as p_rows, 0 as p_count, null::pg_catalog.text[] as p_columns, null::pg_catalog.text[] as p_types
  into v_no_rows;
  commit;  -- an installer that is run again waits for no step
  loop
    -- Nothing of the step before, or of whoever had this session, reaches the next one.
    reset all;
    deallocate all;
    execute 'close all';
    perform pg_catalog.pg_advisory_unlock_all();
    if pg_catalog.oidne(pg_catalog.pg_my_temp_schema(), 0::pg_catalog.oid) then
      discard temp;
    end if;
    v_started := pg_catalog.clock_timestamp();
    if pg_catalog.timestamptz_gt(v_started, v_deadline) then
      p_report := 'budget';
      exit;
    end if;
    if v_held then
      v_held := df_engine.hold_step(v_ready, v_version, v_instance, v_step.next);
    end if;
    if v_held then
      v_at := pg_catalog.int4pl(v_at, 1);
    else
      v_claim := df_engine.claim_step(v_key, v_ready, v_low, p_careful);
      v_ready := v_claim.p_ready;
      v_version := v_claim.p_version;
      v_instance := v_claim.p_instance;
      v_low := v_claim.p_low;
      v_steps := v_claim.p_steps;
      p_report := v_claim.p_report;
      exit when p_report is not null;
      if v_steps is null then
        commit;
        continue;
      end if;
      v_at := 1;
      v_first := case when v_claim.p_fresh then v_steps[1].node end;
      v_begun := v_started;
    end if;
    v_step := v_steps[v_at];

    begin
      if pg_catalog.texteq(v_step.kind, 'command') then
        execute v_step.sql;
        v_result := v_no_rows;
        v_value := v_no_value;
      else
        v_result := df_engine.run_statement(v_step.sql, v_step.kind, v_step.typed, v_limit);
        v_value := pg_catalog.jsonb_build_object('rows', v_result.p_rows, 'row_count', v_result.p_count);
      end if;
      set constraints all immediate;
    exception when others or query_canceled or assert_failure then
      get stacked diagnostics v_code = returned_sqlstate, v_message = message_text, v_detail = pg_exception_detail,
        v_hint = pg_exception_hint;
      v_result := v_no_rows;
    end;
    if not pg_catalog.nameeq(current_user, session_user) then
      reset role;
    end if;
    -- These three reach the next transaction unless they are undone in this one.
    reset default_transaction_isolation;
    reset default_transaction_read_only;
    unlisten *;

    if v_code is null and v_step.plain
       and df_engine.pass_on(v_key, v_ready, v_instance, v_step.ends, v_step.next, v_step.named,
                             v_value, v_result.p_columns, v_result.p_types, v_started, v_first, v_begun) then
      v_held := pg_catalog.int4lt(v_at, pg_catalog.cardinality(v_steps));
      if v_step.next is null then
        v_ready := null;
      end if;
      commit;
      continue;
    end if;
    v_kept := df_engine.settle_step(v_key, v_ready, v_instance, v_step.node, v_value, v_result.p_columns,
                                    v_result.p_types, v_code, v_message, v_detail, v_hint, v_started);
    v_code := null;
    v_held := false;
    if v_kept is null then
      commit;
      p_report := pg_catalog.concat('interrupted:', v_instance, ':', v_step.node);
      exit;
    elsif v_kept then
      commit;
    else
      rollback;
    end if;
  end loop;
end
$$;

-- The driver under the relaxed commit policy: plain steps of a run that follow each other share a transaction, if the statements
-- have just been seen to be short, and commits wait for the disk only where the outside could notice. A step whose transaction
-- is lost, with others or alone, is lost together with its effect, and runs again.

-- Statements that have been seen to take less than 5 ms, as the keys of p_short, after one more that began at p_started.
create or replace function df_engine.short_statements(p_short jsonb, p_sql text, p_started timestamptz) returns jsonb
language plpgsql volatile set search_path = '' as $$
begin
  if clock_timestamp() > p_started + interval '5 ms' then
    return p_short - p_sql;
  elsif p_short ? p_sql or length(p_sql) > 2000 then
    return p_short;
  elsif pg_column_size(p_short) > 20000 then
    p_short := '{}'::pg_catalog.jsonb;
  end if;
  return p_short || jsonb_build_object(p_sql, null);
end
$$;

-- Whether one more step may join a group: there is one, it has just been seen to be short, and those before it have left time.
create or replace function df_engine.has_room(p_group df_engine.outcome[], p_step df_engine.step, p_short jsonb) returns boolean
language plpgsql volatile set search_path = '' as $$
begin
  return p_short ? p_step.sql and p_step.plain and cardinality(p_group) < 16 and pg_column_size(p_group) < 100000
    and clock_timestamp() < p_group[1].started + interval '20 ms';
end
$$;

-- As df_engine.work, for sessions that are not watched for steps that kill them.
create or replace procedure df_engine.work_in_groups(p_budget_ms int, inout p_report text)
language plpgsql as $$
declare
  v_deadline constant pg_catalog.timestamptz := df_engine.deadline(p_budget_ms);
  v_key pg_catalog.text;
  v_claim pg_catalog.record;
  v_steps df_engine.step[];
  v_at int;
  v_step df_engine.step;
  v_limit bigint;
  v_result pg_catalog.record;
  v_no_rows pg_catalog.record;
  v_value pg_catalog.jsonb;
  v_no_value constant pg_catalog.jsonb := '{"rows": [], "row_count": 0}'::pg_catalog.jsonb;
  v_started pg_catalog.timestamptz;
  v_ready bigint;
  v_version pg_catalog.xid;
  v_instance varchar;
  v_first varchar;
  v_begun pg_catalog.timestamptz;
  v_low bigint := 0;
  v_held boolean := false;
  v_kept boolean;
  v_code pg_catalog.text;
  v_message pg_catalog.text;
  v_detail pg_catalog.text;
  v_hint pg_catalog.text;
  v_short pg_catalog.jsonb := '{}'::pg_catalog.jsonb;  -- statements that may share a transaction
  v_group df_engine.outcome[];  -- of those in this transaction that are not recorded yet; NULL: none
  v_named boolean;  -- whether one of them has a name
  v_over boolean;
begin
  v_key := (select k.key from df_engine.own_key k);
  v_limit := df_engine.setting('max_result_bytes')::bigint;
  select '[]'::pg_catalog.json as p_rows, 0 as p_count, null::pg_catalog.text[] as p_columns, null::pg_catalog.text[] as p_types
  into v_no_rows;
  commit;  -- an installer that is run again waits for no step
  loop
    -- Nothing of the step before, or of whoever had this session, reaches the next one.
    reset all;
    deallocate all;
    execute 'close all';
    perform pg_catalog.pg_advisory_unlock_all();
    if pg_catalog.oidne(pg_catalog.pg_my_temp_schema(), 0::pg_catalog.oid) then
      discard temp;
    end if;
    v_started := pg_catalog.clock_timestamp();
    if v_group is not null then
      perform pg_catalog.set_config('application_name', pg_catalog.concat('pg_durable:', v_instance, ':', v_step.node), true);
    else
      if pg_catalog.timestamptz_gt(v_started, v_deadline) then
        p_report := 'budget';
        exit;
      end if;
      if v_held then
        v_held := df_engine.hold_step(v_ready, v_version, v_instance, v_step.next);
      end if;
      if v_held then
        v_at := pg_catalog.int4pl(v_at, 1);
      else
        v_claim := df_engine.claim_step(v_key, v_ready, v_low, false);
        v_ready := v_claim.p_ready;
        v_version := v_claim.p_version;
        v_instance := v_claim.p_instance;
        v_low := v_claim.p_low;
        v_steps := v_claim.p_steps;
        p_report := v_claim.p_report;
        exit when p_report is not null;
        if v_steps is null then
          commit;
          continue;
        end if;
        v_at := 1;
        v_first := case when v_claim.p_fresh then v_steps[1].node end;
        v_begun := v_started;
      end if;
      v_step := v_steps[v_at];
    end if;

    begin
      if pg_catalog.texteq(v_step.kind, 'command') then
        execute v_step.sql;
        v_result := v_no_rows;
        v_value := v_no_value;
      else
        v_result := df_engine.run_statement(v_step.sql, v_step.kind, v_step.typed, v_limit);
        v_value := pg_catalog.jsonb_build_object('rows', v_result.p_rows, 'row_count', v_result.p_count);
      end if;
      set constraints all immediate;
    exception when others or query_canceled or assert_failure then
      get stacked diagnostics v_code = returned_sqlstate, v_message = message_text, v_detail = pg_exception_detail,
        v_hint = pg_exception_hint;
      v_result := v_no_rows;
    end;
    if not pg_catalog.nameeq(current_user, session_user) then
      reset role;
    end if;
    -- These three reach the next transaction unless they are undone in this one.
    reset default_transaction_isolation;
    reset default_transaction_read_only;
    unlisten *;

    if v_code is null and v_step.plain then
      v_short := df_engine.short_statements(v_short, v_step.sql, v_started);
      v_named := v_step.named or v_group is not null and v_named;
      v_group := pg_catalog.array_append(v_group, row(
        v_step.ends, v_value, v_result.p_columns, v_result.p_types, v_started, pg_catalog.clock_timestamp())::df_engine.outcome);
      if df_engine.has_room(v_group, v_steps[pg_catalog.int4pl(v_at, 1)], v_short) then
        v_at := pg_catalog.int4pl(v_at, 1);
        v_step := v_steps[v_at];
        continue;
      end if;
      if df_engine.pass_on_group(v_key, v_ready, v_instance, v_group, v_step.next, v_named, v_first, v_begun) then
        v_group := null;
        v_held := pg_catalog.int4lt(v_at, pg_catalog.cardinality(v_steps));
        if v_step.next is not null then
          set local synchronous_commit = off;
        else
          v_ready := null;
        end if;
        commit;
        continue;
      end if;
      v_over := pg_catalog.int4gt(pg_catalog.cardinality(v_group), 1);
    elsif v_group is not null then
      v_short := pg_catalog.jsonb_delete(v_short, v_step.sql);
      v_over := not df_engine.pass_on_group(v_key, v_ready, v_instance, v_group, v_step.node, v_named, v_first, v_begun);
      if not v_over and pg_catalog.textne(v_code, '57014') then
        -- What fails in company may fail because of it: those before it are recorded, and it runs again alone.
        set local synchronous_commit = off;
        commit;
        v_group := null;
        v_held := false;
        v_code := null;
        continue;
      end if;
    else
      v_over := false;
    end if;
    v_group := null;
    if v_over then
      -- The run is over, and perhaps one of them has ended it: they run again one by one.
      rollback;
      v_short := '{}'::pg_catalog.jsonb;
      v_held := false;
      v_code := null;
      continue;
    end if;
    v_kept := df_engine.settle_step(v_key, v_ready, v_instance, v_step.node, v_value, v_result.p_columns,
                                    v_result.p_types, v_code, v_message, v_detail, v_hint, v_started);
    v_code := null;
    v_held := false;
    if v_kept is null then
      commit;
      p_report := pg_catalog.concat('interrupted:', v_instance, ':', v_step.node);
      exit;
    elsif v_kept then
      commit;
    else
      rollback;
    end if;
  end loop;
end
$$;

-- Requests: what a worker is given to run a step itself, be it SQL outside a transaction or in another database, or HTTP.
-- Made when the step is leased, after substitution and all checks; nothing here writes.

-- What a direct step needs: the statement, and unless it is refused there, a block that runs it in a transaction and leaves
-- its value in the setting df.step_result.
create or replace function df_engine.direct_request(p_node df.nodes, p_autocommit boolean) returns jsonb
language plpgsql stable set search_path = '' as $$
declare
  v_sql constant pg_catalog.text := df_engine.bare_statement(
    df_engine.render_step(p_node.instance_id, p_node._scope, p_node.query, 'sql'));
  v_problem constant pg_catalog.text := df_engine.single_statement_problem(v_sql);
begin
  if v_problem is not null then
    raise exception 'SQL execution failed: %', v_problem using errcode = 'DF011';
  end if;
  return jsonb_build_object(
    'sql', v_sql,
    'application_name', 'pg_durable:' || p_node.instance_id || ':' || p_node.id,
    'block', case when not p_autocommit then df_engine.remote_block(v_sql, coalesce(p_node._typed, false)) end,
    'name_types', case when p_node._typed then $sql$select pg_catalog.array_agg(case
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
create or replace function df_engine.remote_block(p_sql text, p_typed boolean) returns text
language plpgsql stable set search_path = '' as $$
begin
  return 'do ' || quote_literal(replace(replace(replace(replace($block$
declare
  p_sql constant pg_catalog.text := @SQL@;
  p_kind constant pg_catalog.text := @KIND@;
  p_typed constant boolean := @TYPED@;
  p_limit constant bigint := @LIMIT@;
  p_rows pg_catalog.json;
  p_count bigint;
  p_columns pg_catalog.text[];
  p_types pg_catalog.text[];
  v_kind pg_catalog.text := p_kind;
  v_row pg_catalog.record;
  v_json pg_catalog.json;
  v_list pg_catalog.json[] := '{}';
  v_size bigint := 0;
  v_types pg_catalog.oid[];
begin
  if pg_catalog.texteq(p_kind, 'command') then
    execute p_sql;
  end if;
  if pg_catalog.texteq(v_kind, 'query') then
    -- In FROM it gets the plan that it has by itself, a parallel one too, which a cursor never gets. A query that cannot stand
    -- there, or is no query, or has more rows than fit into one value, is read row by row: then its own error is raised, too.
    begin
      execute pg_catalog.concat('select pg_catalog.json_agg(pg_catalog.row_to_json(q.*)), pg_catalog.count(*) from (', p_sql, E'\n) q')
      into p_rows, p_count;
      if pg_catalog.int8eq(p_count, 0) then
        for v_row in execute pg_catalog.concat('select * from (', p_sql, E'\n) q where false') loop
          null;  -- what is wanted is the row's shape
        end loop;
        p_rows := '[]';
        v_json := pg_catalog.row_to_json(v_row);
      else
        v_json := pg_catalog.json_array_element(p_rows, 0);
        if pg_catalog.int48gt(pg_catalog.pg_column_size(p_rows), pg_catalog.int84pl(p_limit, 4)) then
          raise exception 'the result has % bytes of JSON, and max_result_bytes allows %', pg_catalog.int4mi(pg_catalog.pg_column_size(p_rows), 4), p_limit
        using errcode = 'DF012', hint = 'Return keys, and leave the data in a table that the next step reads.';
        end if;
      end if;
    exception when syntax_error or feature_not_supported or program_limit_exceeded then
      v_kind := 'rows';
      p_rows := null;
    end;
  elsif pg_catalog.texteq(v_kind, 'call') and exists (
    select from pg_catalog.pg_proc p
    join pg_catalog.pg_namespace n on pg_catalog.oideq(n.oid, p.pronamespace)
    cross join pg_catalog.parse_ident(pg_catalog.substring(
      pg_catalog.regexp_replace(p_sql, E'--[^\n\r]*|/[*].*?[*]/', ' ', 'g'),
      '^[[:space:]]*[Cc][Aa][Ll][Ll][[:space:]]+((?:"[^"]+"|[^[:space:]"(.]+)(?:[[:space:]]*[.][[:space:]]*'
      '(?:"[^"]+"|[^[:space:]"(.]+))?)[[:space:]]*[(]')) i(name)
    where pg_catalog.nameeqtext(p.proname, i.name[pg_catalog.cardinality(i.name)]) and pg_catalog.chareq(p.prokind, 'p')
      and pg_catalog.arrayoverlap(p.proargmodes, '{o,b}'::pg_catalog."char"[])
      and (pg_catalog.nameeqtext(n.nspname, i.name[1]) or pg_catalog.pg_function_is_visible(p.oid))) then
    execute p_sql into v_row;
    v_json := pg_catalog.row_to_json(v_row);
    v_list := array[v_json];
  elsif pg_catalog.texteq(v_kind, 'call') then
    execute p_sql;
  end if;
  if pg_catalog.texteq(v_kind, 'rows') or pg_catalog.texteq(v_kind, 'utility') then
    begin
      for v_row in execute p_sql loop
        v_json := pg_catalog.row_to_json(v_row);
        v_size := pg_catalog.int84pl(v_size, pg_catalog.int4pl(pg_catalog.octet_length(v_json::pg_catalog.text), 1));
        v_list := pg_catalog.array_append(v_list, v_json);
        if pg_catalog.int8gt(v_size, p_limit) then
          raise exception 'the result has more than % bytes of JSON, and max_result_bytes allows %', v_size, p_limit
        using errcode = 'DF012', hint = 'Return keys, and leave the data in a table that the next step reads.';
        end if;
      end loop;
      v_json := pg_catalog.row_to_json(v_row);
    exception when invalid_cursor_definition then
      execute p_sql;  -- it returns none after all
    end;
  end if;
  if p_rows is null then
    p_rows := pg_catalog.array_to_json(v_list);
    p_count := pg_catalog.cardinality(v_list);
  end if;
  if v_json is not null then
    p_columns := array(select k from pg_catalog.json_object_keys(v_json) k);
  end if;
  if p_typed and pg_catalog.int4gt(pg_catalog.cardinality(p_columns), 0) then
    if pg_catalog.texteq(v_kind, 'query') then
      execute (
        select pg_catalog.concat('select array[', pg_catalog.string_agg(pg_catalog.concat('pg_catalog.pg_typeof(x.c', g, ')'), ','),
          ']::pg_catalog.oid[] from (select) d left join (', p_sql, E'\n) x(', pg_catalog.string_agg(pg_catalog.concat('c', g), ','),
          ') on false')
        from pg_catalog.generate_series(1, pg_catalog.cardinality(p_columns)) g)
      into v_types;
    elsif pg_catalog.texteq(v_kind, 'rows')
          and pg_catalog.int4ge(pg_catalog.current_setting('server_version_num')::int, 160000) then
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
    'rows', p_rows, 'row_count', p_count, 'columns', p_columns, 'types', p_types)::pg_catalog.text, true);
end$block$, '@KIND@', quote_literal(df_engine.statement_kind(p_sql))), '@TYPED@', p_typed::pg_catalog.text),
    '@LIMIT@', df_engine.setting('max_result_bytes')), '@SQL@', quote_literal(p_sql)));
end
$$;

-- What an HTTP step sends, after substitution and the checks of the policy. All attempts of one execution of a node share
-- an idempotency key, and no two executions do.
create or replace function df_engine.http_step(p_node df.nodes, p_submitter oid) returns jsonb
language plpgsql stable set search_path = '' as $$
declare
  v_vars constant pg_catalog.jsonb := (select i._vars from df.instances i where i.id = p_node.instance_id);
  v_wanted constant pg_catalog.text[] := df_engine.http_names(p_node.node_type, p_node.query, v_vars);
  v_generation constant pg_catalog.text :=
    replace(substr(df_engine.stamp(p_node.instance_id, p_node._scope), 11), '::', '.');
begin
  return df_engine.http_request(
    p_node.node_type,
    df_engine.render_http(p_node.node_type, p_node.query, v_vars,
                          df_engine.names(p_node.instance_id, p_node._scope, v_wanted),
                          df_engine.known_names(p_node.instance_id)),
    p_submitter,
    jsonb_build_object('idempotency_key', p_node.instance_id || '/' || p_node.id || '/' || v_generation,
                       'retry_on', p_node.retry_policy -> 'retry_on'));
end
$$;

-- What the worker needs to run a leased step; raises a refusal.
create or replace function df_engine.leased_request(p_ready df_engine.ready, p_node df.nodes) returns jsonb
language plpgsql stable set search_path = '' as $$
begin
  if p_ready.deaths >= 12 then
    raise exception 'the worker that ran this step died, again and again' using errcode = 'DF011';
  elsif p_ready.lane = 'direct' then
    return df_engine.direct_request(p_node, p_ready.autocommit);
  end if;
  return df_engine.http_step(p_node, p_ready.submitter);
end
$$;

-- Leases: steps that are not run inside the database are claimed by a worker with a lease that holds as long as its
-- supervising session does; the worker runs them itself and reports what came of it. At least once.

-- Workers that are alive: their session holds the advisory lock of their number, and is logged in as a worker role.
create or replace function df_engine.live_workers() returns setof int
language sql stable set search_path = '' as $$
  select l.objid::int
  from pg_catalog.pg_locks l
  join pg_catalog.pg_stat_activity a on a.pid = l.pid
  join df_engine.worker_roles w on w.role = a.usesysid
  where l.locktype = 'advisory' and l.classid = 1346982471 and l.granted
    and l.database = (select d.oid from pg_catalog.pg_database d where d.datname = current_database());
$$;

-- Claims one leased step, if it may still run. NULL: somebody holds its run or has claimed it, or it was dropped or failed
-- at once.
create or replace function df_engine.lease_step(p_worker int, p_ready df_engine.ready) returns jsonb
language plpgsql set search_path = '' as $$
declare
  v_node df.nodes;
begin
  if not df_engine.hold_at_once(p_ready.instance_id) then
    return null;
  end if;
  update df_engine.ready r set worker = p_worker
  from (select q.lane, q.submitter, q.id from df_engine.ready q
        where q.lane = p_ready.lane and q.submitter = p_ready.submitter and q.id = p_ready.id and q.worker is null
        for update skip locked) f
  where r.lane = f.lane and r.submitter = f.submitter and r.id = f.id;
  if not found then
    return null;
  end if;
  select * into v_node from df.nodes n where n.instance_id = p_ready.instance_id and n.id = p_ready.node_id;
  if df_engine.hold_run(p_ready.instance_id) is null
     or not df_engine.scope_open(p_ready.instance_id, v_node._scope) then
    delete from df_engine.ready r where r.lane = p_ready.lane and r.submitter = p_ready.submitter and r.id = p_ready.id;
    return null;
  end if;
  return df_engine.open_lease(p_worker, p_ready, v_node);
end
$$;

-- The request of a step that has just been leased; NULL when it is refused, and so has failed.
create or replace function df_engine.open_lease(p_worker int, p_ready df_engine.ready, p_node df.nodes) returns jsonb
language plpgsql set search_path = '' as $$
declare
  v_request pg_catalog.jsonb;
begin
  v_request := df_engine.leased_request(p_ready, p_node);
  perform df_engine.mark_running(p_ready.instance_id, p_ready.node_id, df_engine.clock());
  return v_request;
exception when sqlstate 'DF010' or sqlstate 'DF013' or sqlstate 'DF011' or sqlstate 'DF020' or data_exception or program_limit_exceeded then
  perform df_engine.finish_leased(p_worker, p_ready.id, json_build_object(
    'error', sqlerrm, 'class', 'refused', 'sqlstate', sqlstate));
  return null;
end
$$;

-- Claims up to p_limit steps of a lane after a place. p_last: the last one that was looked at; p_ended: there was no other.
create or replace function df_engine.lease_steps(
  p_worker int, p_lane text, p_after bigint, p_upto bigint, p_limit int,
  out p_leases jsonb[], out p_last bigint, out p_ended boolean
)
language plpgsql set search_path = '' as $$
declare
  v_ready df_engine.ready;
  v_request pg_catalog.jsonb;
  v_looked int := 0;
begin
  p_leases := '{}';
  p_last := p_after;
  for v_ready in
    select * from df_engine.ready r
    where r.lane = p_lane and r.lane <> 'sql' and r.id > p_after and r.id <= p_upto and r.worker is null
    order by r.id limit 1000
  loop
    exit when cardinality(p_leases) >= p_limit;
    v_looked := v_looked + 1;
    p_last := v_ready.id;
    v_request := df_engine.lease_step(p_worker, v_ready);
    if v_request is not null then
      p_leases := p_leases || jsonb_build_object(
        'ticket', v_ready.id, 'role', pg_get_userbyid(v_ready.submitter), 'database',
        (select case when p_lane = 'direct' then coalesce(i.database, current_database()) end
         from df.instances i where i.id = v_ready.instance_id), 'request', v_request);
    end if;
  end loop;
  p_ended := v_looked < 1000 and cardinality(p_leases) < p_limit;
end
$$;

-- Claims up to p_limit steps of a lane for a worker, first of those that it had to leave behind.
create or replace function df_engine.claim_leased(p_worker int, p_lane text, p_limit int)
returns table (ticket bigint, role text, database text, request jsonb)
language plpgsql security definer set search_path = '' set plan_cache_mode = 'force_generic_plan'
  set jit = off set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off as $$
declare
  v_front constant bigint := coalesce(df_engine.place(p_lane || '_front')::bigint, 0);
  v_old pg_catalog.record;
  v_new pg_catalog.record;
begin
  v_old := df_engine.lease_steps(p_worker, p_lane, coalesce(df_engine.place(p_lane || '_back')::bigint, 0), v_front, p_limit);
  perform df_engine.set_place(p_lane || '_back', case when not v_old.p_ended then v_old.p_last::pg_catalog.text end);
  v_new := df_engine.lease_steps(p_worker, p_lane, v_front, 9223372036854775807,
                                 p_limit - cardinality(v_old.p_leases));
  perform df_engine.set_place(p_lane || '_front', v_new.p_last::pg_catalog.text);
  return query
    select (l.lease ->> 'ticket')::bigint, l.lease ->> 'role', l.lease ->> 'database', l.lease -> 'request'
    from unnest(v_old.p_leases || v_new.p_leases) as l(lease);
end
$$;

-- Records the outcome of a leased step and moves its run on. False: the run is over or the lease was lost, and the outcome
-- is dropped. NULL: not now, somebody holds the run. p_outcome: {"rows", "row_count", "columns", "types"} of a statement,
-- {"value"} of a request, or {"error", "class", "sqlstate", "retry_after"}, where a statement's error is {"message", "detail", "hint"}.
create or replace function df_engine.finish_leased(p_worker int, p_ticket bigint, p_outcome json) returns boolean
language plpgsql security definer set search_path = '' set plan_cache_mode = 'force_generic_plan'
  set jit = off set enable_seqscan = off as $$
declare
  v_ready df_engine.ready;
  v_node df.nodes;
  v_end df_engine.move;
  v_root pg_catalog.text;
  v_kept boolean;
  v_outcome constant pg_catalog.jsonb := p_outcome::pg_catalog.jsonb;
begin
  select * into v_ready from df_engine.ready r
  where r.id = p_ticket and r.worker = p_worker and r.lane in ('direct', 'http');
  if not found then
    return false;
  elsif not df_engine.hold_at_once(v_ready.instance_id) then
    return null;
  end if;
  delete from df_engine.ready r where r.id = p_ticket and r.worker = p_worker and r.lane in ('direct', 'http');
  v_root := df_engine.hold_run(v_ready.instance_id);
  if v_root is null then
    return false;
  end if;
  select * into v_node from df.nodes n where n.instance_id = v_ready.instance_id and n.id = v_ready.node_id;
  v_end := df_engine.leased_ending(p_outcome);
  if v_end.error is not null and df_engine.retry_step(v_node.instance_id, v_node.id, v_end.error,
       coalesce(v_outcome ->> 'sqlstate', v_outcome ->> 'class'), df_engine.leased_retryable(v_node, v_outcome),
       (v_outcome ->> 'retry_after')::numeric, coalesce(v_node.started_at, df_engine.clock())) then
    v_kept := df_engine.hold_races(v_node.instance_id, v_node._scope);
  else
    v_kept := df_engine.advance(v_node.instance_id, v_root, null, v_node.id, v_end, df_engine.clock());
  end if;
  if not v_kept then
    raise exception 'node % of instance % lost its race', v_node.id, v_node.instance_id using errcode = 'DF001';
  end if;
  return true;
exception when sqlstate 'DF001' then
  delete from df_engine.ready r where r.id = p_ticket and r.worker = p_worker and r.lane in ('direct', 'http');
  return false;
end
$$;

create or replace function df_engine.leased_ending(p_outcome json) returns df_engine.move
language plpgsql stable set search_path = '' as $$
declare
  v_limit constant bigint := df_engine.setting('max_result_bytes')::bigint;
  v_columns constant pg_catalog.text[] := df_engine.texts(p_outcome -> 'columns');
  v_names constant pg_catalog.text[] := df_engine.final_names(v_columns);
  v_result pg_catalog.json := coalesce(p_outcome -> 'rows', p_outcome -> 'value');
begin
  if p_outcome ->> 'message' is not null then
    return df_engine.fail(df_engine.error_text(
      p_outcome ->> 'sqlstate', p_outcome ->> 'message', p_outcome ->> 'detail', p_outcome ->> 'hint'));
  elsif p_outcome ->> 'error' is not null then
    return df_engine.step_ending(null, null, null, p_outcome ->> 'sqlstate', p_outcome ->> 'error');
  elsif octet_length(v_result::pg_catalog.text) > v_limit then
    return df_engine.fail(format('the result has %s bytes of JSON, and max_result_bytes allows %s' || chr(10)
      || 'HINT: Return keys, and leave the data in a table that the next step reads.',
      octet_length(v_result::pg_catalog.text), v_limit));
  elsif p_outcome -> 'rows' is null then
    return df_engine.done('ok', v_result::pg_catalog.jsonb);
  elsif v_names <> v_columns then
    v_result := df_engine.renamed_rows(v_result, v_names);
  end if;
  return df_engine.done('ok', jsonb_build_object('rows', v_result, 'row_count', p_outcome -> 'row_count'), v_names,
                        df_engine.texts(p_outcome -> 'types'));
end
$$;

-- A JSON array of strings as an array; NULL of anything else.
create or replace function df_engine.texts(p_list json) returns text[]
language sql immutable set search_path = '' as $$
  select array(select json_array_elements_text(p_list)) where json_typeof(p_list) = 'array'
$$;

create or replace function df_engine.leased_retryable(p_node df.nodes, p_outcome jsonb) returns boolean
language sql stable set search_path = '' as $$
  select case
    when p_outcome ->> 'class' = 'refused' then false
    when p_node.node_type = 'SQL' then df_engine.sql_retryable(coalesce(p_outcome ->> 'sqlstate', '08006'), p_node.retry_policy)
    when p_node.retry_policy is not null and not p_node.retry_policy ? 'retry_on' then true
    else df_engine.http_retryable(p_outcome ->> 'class',
      case when p_node.retry_policy ? 'retry_on'
           then array(select jsonb_array_elements_text(p_node.retry_policy -> 'retry_on')) end)
  end;
$$;

-- Gives leased steps back, for another worker. False: some of them not now, somebody is cancelling their runs.
create or replace function df_engine.release_leased(p_worker int, p_tickets bigint[]) returns boolean
language plpgsql security definer set search_path = '' as $$
begin
  update df_engine.ready r set worker = null
  from (select q.lane, q.submitter, q.id from df_engine.ready q
        where q.worker = p_worker and q.id = any (p_tickets) and q.lane in ('direct', 'http') for update skip locked) f
  where r.lane = f.lane and r.submitter = f.submitter and r.id = f.id;
  perform df_engine.wake('l', null);
  return not exists (select from df_engine.ready r
                     where r.worker = p_worker and r.id = any (p_tickets) and r.lane in ('direct', 'http'));
end
$$;

-- The worker that was p_former is alive: it had lost its connection while it ran these steps, which was not their doing.
create or replace function df_engine.acquit_leased(p_former int, p_tickets bigint[]) returns void
language sql security definer set search_path = '' as $$
  update df_engine.ready r set deaths = 0, worker = nullif(r.worker, p_former)
  from (select q.lane, q.submitter, q.id from df_engine.ready q
        where q.lane in ('direct', 'http') and q.id = any (p_tickets) for update skip locked) f
  where r.lane = f.lane and r.submitter = f.submitter and r.id = f.id;
$$;

-- Frees the leases of workers that are gone. Each is weak evidence that the step has killed the worker (df_engine.accuse),
-- unless the server has been restarted since the worker was last seen.
create or replace function df_engine.reclaim_leases() returns int
language plpgsql security definer set search_path = '' set plan_cache_mode = 'force_generic_plan'
  set jit = off set enable_seqscan = off as $$
declare
  v_freed int;
begin
  perform pg_catalog.pg_stat_clear_snapshot();  -- who is alive must not be older than the leases
  update df_engine.ready r
  set worker = null,
      deaths = r.deaths + (exists (select from df._worker_epoch w
                                   where w._worker = r.worker and w.last_seen_at > pg_postmaster_start_time()))::int
  from (select q.lane, q.submitter, q.id from df_engine.ready q
        where q.lane in ('direct', 'http') and q.worker is not null
          and q.worker not in (select df_engine.live_workers()) for update skip locked) f
  where r.lane = f.lane and r.submitter = f.submitter and r.id = f.id;
  get diagnostics v_freed = row_count;
  return v_freed;
end
$$;

-- Supervision: what a worker's supervising connection calls. It tells the worker what to do next; the worker obeys. It acts
-- for every role, so nothing here waits for a lock that a user can hold (120_transitions has the order).

-- Registers a worker, whose number is answered. The role must be authorised: those are the workers that live_workers counts.
create or replace function df_engine.register_worker(p_sessions int) returns int
language plpgsql security definer set search_path = '' as $$
declare
  v_worker int;
begin
  if not exists (select from df_engine.worker_roles w where w.role = quote_ident(session_user)::pg_catalog.regrole) then
    raise exception 'role "%" is not authorised to run a worker', session_user
      using errcode = 'insufficient_privilege',
            hint = format('As an administrator: SELECT df.grant_worker(%L);', session_user);
  end if;
  delete from df._worker_epoch w where w.last_seen_at < clock_timestamp() - interval '1 minute';
  loop
    insert into df._worker_epoch (_role) values (quote_ident(session_user)::pg_catalog.regrole)
    returning _worker into v_worker;
    exit when pg_try_advisory_lock(1346982471, v_worker);
    -- Anybody can hold such a lock: the next number, then.
    delete from df._worker_epoch w where w._worker = v_worker;
  end loop;
  return v_worker;
end
$$;

create or replace function df_engine.unregister_worker(p_worker int) returns void
language plpgsql security definer set search_path = '' as $$
begin
  perform df_engine.release_leased(p_worker, array(
    select r.id from df_engine.ready r where r.lane in ('direct', 'http') and r.worker = p_worker));
  delete from df._worker_epoch w where w._worker = p_worker;
  perform pg_advisory_unlock(1346982471, p_worker);
end
$$;

-- The worker has room, and does not look again before p_ms have passed; NULL: it has no room.
create or replace function df_engine.sleep_until(p_worker int, p_ms int) returns void
language sql security definer set search_path = '' as $$
  update df._worker_epoch w
  set _sleeps_until = clock_timestamp() + p_ms * interval '1 ms', last_seen_at = clock_timestamp()
  where w._worker = p_worker;
$$;

create or replace function df_engine.heartbeat(p_worker int) returns void
language plpgsql security definer set search_path = '' as $$
begin
  update df._worker_epoch w set last_seen_at = clock_timestamp()
  where w._worker = p_worker and w.last_seen_at < clock_timestamp() - interval '2 s';
end
$$;

-- Steps that sessions are in now, as their application_name says. PostgreSQL keeps what it has read of activity until the end of the
-- transaction: whoever joins this with rows that may be newer calls pg_stat_clear_snapshot first.
create or replace view df_engine.steps_in_sessions as
  select a.pid, a.usesysid as submitter, split_part(a.application_name, ':', 2)::varchar as instance_id,
         split_part(a.application_name, ':', 3)::varchar as node_id, a.application_name as step, a.xact_start as began,
         a.state is not null and a.backend_xid is null as ended  -- its transaction is over; unknown to who may not read activity
  from pg_catalog.pg_stat_activity a
  where a.datname = current_database() and a.application_name ~ '^pg_durable:[0-9a-f]{8}:[0-9a-f]{8}$';

-- Shows steps as running, since the beginning of their transaction, that were already under way at this session's previous look, a quarter of a second ago or more. A
-- step that ends meanwhile has written its node's row: only a row that is still as it was found is marked. A session shows
-- its application_name for a moment after the step's commit, so a row that says the step has ended is believed.
create or replace function df_engine.mark_long_steps() returns void
language plpgsql security definer set search_path = '' set lock_timeout = '20ms' set jit = off set enable_seqscan = off as $$
declare
  v_seen constant pg_catalog.jsonb := coalesce(nullif(current_setting('df_engine.seen', true), ''), '{}')::pg_catalog.jsonb;
  v_now constant numeric := extract(epoch from clock_timestamp());
begin
  if v_now - coalesce((v_seen ->> 'at')::numeric, 0) < 0.2 then
    return;
  end if;
  perform pg_catalog.pg_stat_clear_snapshot();  -- activity must not be older than the rows that are found
  perform df_engine.try_mark_running(s.instance_id, s.node_id, n.xmin, s.began)
  from df_engine.steps_in_sessions s
  join df.instances i on i.id = s.instance_id and i._submitter = s.submitter and i._state in ('pending', 'running')
  join df.nodes n on n.instance_id = s.instance_id and n.id = s.node_id
  where v_seen -> 'steps' ? (s.pid || s.step)
    and (n.status = 'pending'
         or n.status_details ->> 'execution_id' is distinct from df_engine.stamp(n.instance_id, n._scope))
    and exists (select from df_engine.ready r
                where r.lane = 'sql' and r.submitter = s.submitter and r.instance_id = s.instance_id);
  perform set_config('df_engine.seen', jsonb_build_object('at', v_now, 'steps',
    (select jsonb_agg(s.pid || s.step) from df_engine.steps_in_sessions s))::pg_catalog.text, false);
end
$$;

-- Shows a step as running unless its rows are being written, then the next look does, or its node is not what it was.
create or replace function df_engine.try_mark_running(
  p_instance varchar, p_node varchar, p_version xid, p_began timestamptz
) returns void
language plpgsql set search_path = '' as $$
begin
  if df_engine.hold_at_once(p_instance) then
    begin
      perform from df.nodes n
      where n.instance_id = p_instance and n.id = p_node and n.xmin = p_version for no key update;
      if found then
        perform df_engine.mark_running(p_instance, p_node, p_began);
      end if;
    exception when lock_not_available then
      null; -- said above
    end;
  end if;
end
$$;

-- The roles that have steps in a lane; a probe of the index a role.
create or replace function df_engine.submitters(p_lane text) returns setof oid
language plpgsql stable set search_path = '' as $$
begin
  return query
    with recursive roles as (
      select (select r.submitter from df_engine.ready r where r.lane = p_lane order by r.submitter limit 1) as submitter
      union all
      select (select r.submitter from df_engine.ready r
              where r.lane = p_lane and r.submitter > q.submitter order by r.submitter limit 1)
      from roles q where q.submitter is not null
    )
    select q.submitter from roles q where q.submitter is not null;
end
$$;

-- Roles with SQL steps that no session is in, longest-waiting first.
create or replace function df_engine.waiting_roles() returns jsonb
language plpgsql stable set search_path = '' as $$
begin
  return (
    with work as (
      select q.submitter, pg_catalog.min(w.id) as oldest,
             count(*) - (select count(*) from df_engine.steps_in_sessions s where s.submitter = q.submitter) as ready
      from df_engine.submitters('sql') q(submitter)
      cross join lateral (select r.id from df_engine.ready r
                          where r.lane = 'sql' and r.submitter = q.submitter order by r.id limit 100) w
      group by q.submitter
    )
    select coalesce(jsonb_agg(jsonb_build_object('role', u.rolname, 'ready', w.ready) order by w.oldest), '[]')
    from work w join pg_catalog.pg_roles u on u.oid = w.submitter
    where w.ready > 0 and u.rolcanlogin);
end
$$;

-- Fails runs that can never begin or go on, because their role is gone or may not log in.
create or replace function df_engine.fail_orphans() returns void
language plpgsql security definer set search_path = '' set jit = off set enable_seqscan = off as $$
declare
  v_ready pg_catalog.record;
begin
  for v_ready in
    select r.instance_id, i._submitter as submitter
    from unnest('{sql,direct,http}'::pg_catalog.text[]) l(lane)
    cross join df_engine.submitters(l.lane) s(submitter)
    join df_engine.ready r on r.lane = l.lane and r.submitter = s.submitter
    join df.instances i on i.id = r.instance_id and i._submitter = r.submitter
    where not exists (select from pg_catalog.pg_roles u where u.oid = s.submitter and u.rolcanlogin)
    limit 100 for update of r skip locked for no key update of i skip locked
  loop
    perform df_engine.fail_run(v_ready.instance_id,
                               format('role %s does not exist or has no LOGIN', v_ready.submitter));
  end loop;
end
$$;

-- Backends whose step belongs to a run that was cancelled or has failed, or to a branch that lost its race. Not to one that has
-- completed: nothing of that runs. A session shows the name of its step for a moment after the step's commit, and may be in the
-- next step when a cancel request arrives: a step that has ended itself, before the session's present transaction, does not count.
create or replace function df_engine.doomed_sessions() returns jsonb
language plpgsql stable set search_path = '' as $$
begin
  return (
    select coalesce(jsonb_agg(s.pid), '[]')
    from df_engine.steps_in_sessions s
    join df.instances i on i.id = s.instance_id and i._submitter = s.submitter
    join df.nodes n on n.instance_id = s.instance_id and n.id = s.node_id
    where not s.ended and (i._state in ('failed', 'cancelled') or not df_engine.scope_open(n.instance_id, n._scope))
      and not (n.status in ('completed', 'failed') and coalesce(s.began >= n.completed_at, true)
               and n.status_details ->> 'execution_id' = df_engine.stamp(n.instance_id, n._scope)));
end
$$;

-- Leased steps that a worker still holds, and whose outcome still counts: it abandons all others.
create or replace function df_engine.held_leases(p_worker int) returns jsonb
language plpgsql stable set search_path = '' as $$
begin
  return (
    select coalesce(jsonb_agg(r.id), '[]')
    from df_engine.ready r
    join df.instances i on i.id = r.instance_id
    join df.nodes n on n.instance_id = r.instance_id and n.id = r.node_id
    where r.lane in ('direct', 'http') and r.worker = p_worker
      and i._state in ('pending', 'running') and df_engine.scope_open(n.instance_id, n._scope));
end
$$;

-- What is to be done now, and when to look again.
create or replace function df_engine.agenda(p_worker int) returns jsonb
language plpgsql volatile security definer set search_path = '' set jit = off set enable_seqscan = off as $$
begin
  perform pg_catalog.pg_stat_clear_snapshot();
  return jsonb_build_object(
    'roles', df_engine.waiting_roles(),
    'direct', (select count(*) from (select from df_engine.ready r where r.lane = 'direct' and r.worker is null limit 100) q),
    'http', (select count(*) from (select from df_engine.ready r where r.lane = 'http' and r.worker is null limit 500) q),
    'next_ms', df_engine.next_due_ms(),
    'interrupt', df_engine.doomed_sessions(),
    'held', df_engine.held_leases(p_worker),
    'server_started', extract(epoch from pg_postmaster_start_time()),
    'max_sessions', df_engine.setting_number('max_user_connections'));
end
$$;

-- Does what is due, in short transactions, and answers with the agenda. A look that finds nothing is one transaction.
create or replace procedure df_engine.tick(p_worker int, inout p_agenda jsonb)
language plpgsql as $$
declare
  v_deadline pg_catalog.timestamptz := df_engine.deadline(200);
begin
  perform df_engine.heartbeat(p_worker);
  while pg_catalog.int4gt(df_engine.fire_due(50), 0) and pg_catalog.timestamptz_lt(pg_catalog.clock_timestamp(), v_deadline) loop
    commit;
  end loop;
  if pg_catalog.pg_current_xact_id_if_assigned() is not null then
    commit;
  end if;
  perform df_engine.mark_long_steps();
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
  p_agenda := df_engine.agenda(p_worker);
end
$$;

-- Whether p_node is the step to which a row in the queue has come. What a worker has seen of a run may have been lost since
-- with the server, commits that did not wait for the disk or for a standby, and then the row is before it.
create or replace function df_engine.is_at(p_ready df_engine.ready, p_node text) returns boolean
language sql stable set search_path = '' as $$
  select (df_engine.thread_node(n, i.id || '::' || i._generation)).id = p_node
  from df.instances i
  join df.nodes n on n.instance_id = i.id and n.id = p_ready.node_id
  where i.id = p_ready.instance_id;
$$;

-- A step was cancelled by somebody else than pg_durable: it fails, and is not tried again. False: not now, its run is held.
create or replace function df_engine.fail_interrupted(p_instance text, p_node text) returns boolean
language plpgsql security definer set search_path = '' as $$
declare
  v_root pg_catalog.text;
  v_ready df_engine.ready;
begin
  if not df_engine.hold_at_once(p_instance) then
    return false;
  end if;
  v_root := df_engine.hold_run(p_instance);
  select * into v_ready from df_engine.ready r
  where r.instance_id = p_instance and r.lane = 'sql' and df_engine.is_at(r, p_node)
  for update skip locked;
  if found then
    delete from df_engine.ready r where r.lane = 'sql' and r.submitter = v_ready.submitter and r.id = v_ready.id;
    if v_root is not null and df_engine.hold_races(p_instance, (select n._scope from df.nodes n
                                         where n.instance_id = p_instance and n.id = p_node)) then
      perform df_engine.advance(p_instance, v_root, null, p_node, df_engine.fail(df_engine.error_text(
        '57014', 'canceling statement due to user request', null, null)), df_engine.clock());
    end if;
  end if;
  return true;
end
$$;

-- A session died while it ran this step. p_weight is how much that says about the step: 4 when it died alone, 1 when others
-- died with it and nothing explains why, or when it was terminated by pg_terminate_backend; at 12 the step fails. False: not
-- now, it is being tried again.
create or replace function df_engine.accuse(p_submitter oid, p_ready bigint, p_node text, p_weight int) returns boolean
language plpgsql security definer set search_path = '' as $$
begin
  update df_engine.ready r set deaths = r.deaths + p_weight, node_id = p_node
  from (select q.id from df_engine.ready q
        where q.lane = 'sql' and q.submitter = p_submitter and q.id = p_ready for update skip locked) f
  where r.lane = 'sql' and r.submitter = p_submitter and r.id = f.id and df_engine.is_at(r, p_node);
  return found or not exists (
    select from df_engine.ready r
    where r.lane = 'sql' and r.submitter = p_submitter and r.id = p_ready and df_engine.is_at(r, p_node));
end
$$;

-- Writes on runs of a role why they do not progress; NULL: they do. False: some were held.
create or replace function df_engine.set_wait_reason(p_submitter oid, p_reason text) returns boolean
language plpgsql set search_path = '' as $$
declare
  v_runs constant varchar[] := array(
    select i.id from df.instances i
    where i._submitter = p_submitter and i._state in ('pending', 'running') and i.wait_reason is distinct from p_reason
      and (p_reason is null or i.id in (select r.instance_id from df_engine.ready r where r.submitter = p_submitter)));
  v_written bigint;
begin
  update df.instances i set wait_reason = p_reason
  where i.id in (select f.id from df.instances f where f.id = any (v_runs) for no key update skip locked);
  get diagnostics v_written = row_count;
  return v_written = cardinality(v_runs);
end
$$;

-- Says on the runs of a role why they do not progress, unless another worker is serving them. p_login: it cannot log in; else it can,
-- and its sessions fail for p_reason.
create or replace function df_engine.role_unreachable(p_role text, p_reason text, p_login boolean) returns boolean
language plpgsql security definer set search_path = '' as $$
begin
  perform pg_catalog.pg_stat_clear_snapshot();
  return (
    select df_engine.set_wait_reason(u.oid, format(
      case when p_login then 'no worker can log in as role "%s": %s' else 'sessions of role "%s" cannot run steps: %s' end,
      p_role, p_reason))
    from pg_catalog.pg_roles u
    where u.rolname = p_role and not exists (select from df_engine.steps_in_sessions s where s.submitter = u.oid));
end
$$;

create or replace function df_engine.role_reachable(p_worker int, p_role text) returns boolean
language sql security definer set search_path = '' as $$
  select df_engine.set_wait_reason(u.oid, null) from pg_catalog.pg_roles u where u.rolname = p_role;
$$;

-- The census: how many runs there are, counted for a worker that is asked for its metrics. Reads what lives, and what has
-- ended since the last census, by index; the runs that are kept are never counted. Nothing here writes.

-- The runs that have ended since a place, a time and an id, by how; and the place of the last of them. Without a place it
-- begins now. A run shows its end only once that is committed, so the last five seconds are left for the next census.
create or replace function df_engine.ended_since(p_place jsonb) returns jsonb
language plpgsql stable set search_path = '' as $$
declare
  v_upto constant pg_catalog.timestamptz := df_engine.clock() - '5 s'::pg_catalog.interval;
  v_after constant pg_catalog.timestamptz := coalesce((p_place ->> 0)::pg_catalog.timestamptz, v_upto);
  v_id constant pg_catalog.text := coalesce(p_place ->> 1, '');
begin
  return (
    with ended as materialized (
      select coalesce(i.finished_at, i.created_at) as ended_at, i.id, i.status
      from df.instances i
      where i.status in ('completed', 'failed', 'cancelled') and (coalesce(i.finished_at, i.created_at), i.id) > (v_after, v_id)
        and coalesce(i.finished_at, i.created_at) <= v_upto
      order by coalesce(i.finished_at, i.created_at), i.id limit 100000
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
create or replace function df_engine.census(p_place jsonb) returns jsonb
language sql stable security definer set search_path = ''
  set jit = off set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off as $$
  select jsonb_build_object(
    'pending', count(*) filter (where i.status = 'pending'),
    'running', count(*) filter (where i.status = 'running'),
    'blocked', count(i.wait_reason),
    'overdue', (select count(*) from df_engine.timers t
                where t.due_at < (select df_engine.clock() - '10 s'::pg_catalog.interval)),
    'ended', df_engine.ended_since(p_place))
  from df.instances i
  where i.status in ('pending', 'running') and i._state in ('pending', 'running');
$$;

-- Runs that have failed since a time, for the log of a worker, and the time of this answer. Without a time it begins now. A
-- run shows its end only once that is committed, so answers overlap by five seconds; the longest is of 10,000 runs.
create or replace function df_engine.failed_since(p_since timestamptz) returns jsonb
language plpgsql stable security definer set search_path = '' set jit = off set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off as $$
declare
  v_upto constant pg_catalog.timestamptz := df_engine.clock();
begin
  return jsonb_build_object('upto', v_upto, 'runs', coalesce((
    select jsonb_agg(jsonb_build_object('instance', f.id, 'label', f.label, 'node', leaf.id,
                                        'error', left(coalesce(df_engine.cause(leaf.error), f.error), 1000)) order by f.ended_at)
    from (select i.id, i.label, i.error, coalesce(i.finished_at, i.created_at) as ended_at
          from df.instances i
          where i.status in ('completed', 'failed', 'cancelled') and i.status = 'failed'
            and coalesce(i.finished_at, i.created_at) >= p_since - '5 s'::pg_catalog.interval
          order by coalesce(i.finished_at, i.created_at) limit 10000) f
    left join lateral (
      select n.id, n.error from df.nodes n
      where n.instance_id = f.id and n.status = 'failed' and n.node_type in ('SQL', 'HTTP', 'HTTP_MULTIPART', 'SLEEP', 'WAIT_SCHEDULE', 'SIGNAL', 'BREAK')
      order by n.completed_at desc limit 1) leaf on true), '[]'));
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
  return (select i.status from df.instances i where i.id = status.instance_id);
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
    select n.result::pg_catalog.text
    from df.instances i
    join df.nodes n on n.instance_id = i.id and n.id = i.root_node
    where i.id = result.instance_id and n.status = 'completed');
end
$$;
comment on function df.result(text) is
  'The result of a completed run, a JSON text; NULL while it runs, when it failed or was cancelled, or is invisible';

-- What to do about a run that is not there.
create or replace function df_engine.missing_run_hint(p_instance_id text) returns text
language sql stable set search_path = '' as $$
  select case
    when exists (select from df.instances i where i.label = p_instance_id) then
      'That is the label of a run. Its id: ' || format('SELECT id FROM df.instances WHERE label = %L', p_instance_id)
    when p_instance_id !~ '^[0-9a-f]{8}$' then 'The id of a run is what df.start has returned: 8 hexadecimal digits.'
    else 'A role sees its own runs, once their start has been committed.'
  end;
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
  perform df_engine.notify('t');
  return 'Triggered run' || coalesce(' of instance ' || instance_id, ' of all that is ready');
end
$$;
comment on function df.run(text) is 'Wakes idle workers, when the caller commits. Never needed: they wake by themselves';

-- Raises when waiting in this transaction is in vain. A row that this transaction, or a later one whose effect is
-- already visible, has written is not older than the transaction's own id; created_at tells the insert from an update.
create or replace function df_engine.check_awaitable(p_instance_id text) returns void
language plpgsql set search_path = '' as $$
declare
  v_transaction constant pg_catalog.xid8 := pg_catalog.pg_current_xact_id_if_assigned();
  v_run pg_catalog.record;
begin
  select i.status, i.created_at = pg_catalog.transaction_timestamp()
         and pg_catalog.age(i.xmin) <= pg_catalog.age(v_transaction::pg_catalog.xid) as own,
         case when i._cancelled_in = v_transaction then 'cancelled'
              when exists (select from df_engine.visible_inbox s
                           where s.instance_id = i.id and s.sent_in = v_transaction) then 'signalled' end as act
  into v_run from df.instances i where i.id = p_instance_id;
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

-- Waits for a terminal status and returns it: looks after 1 ms, then less and less often, but 20 times a second at least.
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
    select i.status, i.wait_reason into v_run from df.instances i where i.id = p_instance_id;
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

-- df.cancel and df.signal: requests of a caller, in the caller's transaction. What they may touch is decided by row security
-- on df.instances; the definer trigger below only completes a write that the caller was allowed to make.

-- df.cancel's UPDATE of the visible status becomes the cancel itself. A status written by hand stays display only.
create or replace function df_engine.cancel_run() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_request constant jsonb := nullif(current_setting('df_engine.cancel', true), '')::jsonb;
begin
  if v_request ->> 'instance_id' = new.id and old._state in ('pending', 'running') then
    new._state := 'cancelled';
    new._cancelled_in := pg_current_xact_id();
    new.error := 'canceled: ' || (v_request ->> 'reason');
    new.wait_reason := null;
    new.updated_at := clock_timestamp();
    perform df_engine.withdraw(new.id, null);
    update df_engine.inbox s set status = 'undeliverable', fresh = false
    where s.instance_id = new.id and s.status = 'pending' and not s.fresh;
    perform df_engine.notify('x');
  end if;
  return new;
end
$$;

create or replace trigger instances_cancel before update of status on df.instances
  for each row when (new.status = 'cancelled' and old.status in ('pending', 'running'))
  execute function df_engine.cancel_run();

create or replace function df.cancel(instance_id text, reason text default 'Cancelled by user') returns text
language plpgsql strict set search_path = pg_catalog, pg_temp as $$
declare
  v_status text;
begin
  if not (pg_catalog.has_schema_privilege('df_engine', 'usage')
          and pg_catalog.has_table_privilege('df_engine.own_key', 'select')) then
    raise exception 'permission denied: role "%" may not use pg_durable', current_user
      using errcode = 'insufficient_privilege',
            hint = pg_catalog.format('An administrator grants it: SELECT df.grant_usage(%L);', current_user);
  end if;
  -- FOR UPDATE waits for a step that is just committing, and keeps others from doing so until the caller has decided.
  select i.status into v_status from df.instances i where i.id = cancel.instance_id for update;
  if not found then
    raise exception 'Instance ''%'' not found or access denied', instance_id
      using errcode = 'insufficient_privilege', hint = df_engine.missing_run_hint(instance_id);
  end if;
  if v_status in ('completed', 'failed', 'cancelled') then
    return format('Instance %s is already %s; nothing to cancel (%s)', instance_id, v_status, reason);
  end if;
  perform set_config('df_engine.cancel',
                     jsonb_build_object('instance_id', instance_id, 'reason', reason)::text, true);
  update df.instances i set status = 'cancelled' where i.id = cancel.instance_id;
  perform set_config('df_engine.cancel', '', true);
  return format('Instance %s cancelled: %s', instance_id, reason);
end
$$;
comment on function df.cancel(text, text) is
  'Cancels a run when the caller commits: nothing of it starts any more and running statements are cancelled. Returns a '
  'sentence with id and reason, also when the run had already ended; raises 42501 when the run is unknown or invisible.';

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
  perform from df.instances i where i.id = signal.instance_id;
  if not found then
    raise exception 'Instance ''%'' not found or access denied', instance_id
      using errcode = 'insufficient_privilege', hint = df_engine.missing_run_hint(instance_id);
  end if;
  insert into df_engine.visible_inbox (instance_id, signal_name, signal_data, sent_by)
  values (instance_id, signal_name, df_engine.as_json(signal_data), quote_ident(current_user)::regrole);
  return 'OK';
end
$$;
comment on function df.signal(text, text, text) is
  'Sends a signal to a run, when the caller commits: to every open wait of that name, else to the inbox, where the next wait '
  'finds it. signal_data: JSON, or text that becomes a JSON string. Returns OK; raises 42501 when the run is invisible.';

-- Monitoring: what users read about their runs. Everything here runs with the caller's rights and sees what row security
-- shows the caller, but df.metrics, which counts all runs; nothing here writes.

create or replace view df_engine.visible_executions with (security_barrier) as
  select e.instance_id, e.generation, e.events, e.started_at, e.finished_at, e.error
  from df_engine.executions e
  where (select not row_security_active('df.instances'))
     or exists (select from df.instances i
                where i.id = e.instance_id and i.submitted_by = (select quote_ident(current_user)::regrole));

create or replace view df_engine.visible_scopes with (security_barrier) as
  select s.instance_id, s.node_id, s.path, s.generation, s.events, s.outcome
  from df_engine.scopes s
  where (select not row_security_active('df.instances'))
     or exists (select from df.instances i
                where i.id = s.instance_id and i.submitted_by = (select quote_ident(current_user)::regrole));

-- What a run shows as its output, from its own row and its root node's.
create or replace function df_engine.run_output(p_status text, p_error text, p_root_status text, p_root_result jsonb)
returns text
language sql immutable as $$
  select case when p_status = 'completed' and p_root_status = 'completed' then p_root_result::pg_catalog.text
              when p_status in ('failed', 'cancelled') then p_error end
$$;

-- What a step said when it failed, without what it and the constructs around it put before that: p_error is of any of them.
create or replace function df_engine.cause(p_error text) returns text
language sql immutable strict set search_path = pg_catalog, pg_temp as $$
  select regexp_replace(
    p_error, '^((JOIN|RACE left|RACE right|RACE) branch (\d+ )?failed: )*(SQL execution failed: )?', '')
$$;

-- The largest page a session may ask for: the setting, or what the session lowered it to.
create or replace function df_engine.page_cap() returns int
language sql stable set search_path = pg_catalog, pg_temp as $$
  select least(df_engine.setting_number('list_instances_max_limit')::int,
               substring(current_setting('pg_durable.list_instances_max_limit', true)
                         from '^\s*(0*[1-9]\d{0,8})\s*$')::int)
$$;

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

create or replace function df_engine.encode_cursor(p_created_at timestamptz, p_id text) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select encode(convert_to(
    format('v1|%s+00|%s', to_char(p_created_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US'), p_id), 'UTF8'), 'hex')
$$;

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

-- Planned for each call, so that absent filters vanish and the index for those that are left is used.
create or replace function df_engine.page_of_instances(
  p_status text, p_label text, p_after timestamptz, p_after_id text, p_limit int
) returns setof df.instances
language plpgsql stable
set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan as $$
begin
  return query
  select i.*
  from df.instances i
  where (p_status is null or i.status = p_status)
    and (p_label is null or i.label = p_label)
    and (p_after is null or i.created_at <= p_after)
    and (p_after is null or i.created_at < p_after or i.id > p_after_id)
  order by i.created_at desc, i.id
  limit p_limit;
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
  return query
  with page as materialized (
    select p.*, row_number() over (order by p.created_at desc, p.id) as place
    from df_engine.page_of_instances(status_filter, label_filter, v_after.created_at, v_after.id, limit_count + 1) p
  )
  select p.id::text, p.label, 'pg_durable::orchestration::execute-function-graph', p.status, p._generation::bigint,
         df_engine.run_output(p.status, p.error, r.status, r.result), p.created_at, p.completed_at,
         (select df_engine.encode_cursor(l.created_at, l.id) from page l
          where l.place = limit_count and exists (select from page m where m.place > limit_count))
  from page p
  left join df.nodes r on r.instance_id = p.id and r.id = p.root_node
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

create or replace function df.instance_info(instance_id text)
returns table (
  instance_id text, label text, function_name text, function_version text, current_execution_id bigint, status text,
  output text
)
language sql strict set search_path = pg_catalog, pg_temp as $$
  select df.status(instance_info.instance_id);  -- raises for a role that may not use pg_durable
  select i.id::text, i.label, 'pg_durable::orchestration::execute-function-graph', i._version, i._generation::bigint, i.status,
         case when i.status = 'completed' and r.status = 'completed' then r.result::pg_catalog.text
              when i.status in ('failed', 'cancelled') then i.error end
  from df.instances i
  left join df.nodes r on r.instance_id = i.id and r.id = i.root_node
  where i.id = instance_info.instance_id
$$;
comment on function df.instance_info(text) is
  'One run: label, the version of pg_durable that started it, generation of its root scope, status and output. No row when the run is unknown or not visible.';

-- The newest generation of a run's root scope.
create or replace function df_engine.current_execution(p_instance text)
returns table (execution_id bigint, status text, event_count bigint, duration_ms bigint, output text)
language sql stable set search_path = pg_catalog, pg_temp as $$
  select i._generation::bigint,
         case when i.status in ('completed', 'failed', 'cancelled') then initcap(i.status) else 'Running' end,
         df_engine.count_events(i.id),
         coalesce(df_engine.milliseconds(coalesce(r.started_at, i.created_at), i.finished_at), 0),
         df_engine.run_output(i.status, i.error, r.status, r.result)
  from df.instances i
  left join df.nodes r on r.instance_id = i.id and r.id = i.root_node
  where i.id = p_instance
$$;

create or replace function df_engine.milliseconds(p_from timestamptz, p_to timestamptz) returns bigint
language sql immutable as $$
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
  select n.id::text, n.node_type, n.query, n.result_name, n.left_node::text, n.right_node::text, s.status,
         case when s.status = n.status then n.result::text end,
         n.status_details::text, s.inferred_status, s.from_ancestor, n.updated_at
  from df_engine.node_states(instance_id_param) s
  join df.nodes n on n.instance_id = instance_id_param and n.id = s.node_id;
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
         coalesce(sum(i._generation), 0)::bigint,
         df_engine.count_events(coalesce(array_agg(i.id::text), '{}'), null)
           + (select coalesce(sum(e.events), 0)::bigint from df_engine.executions e)
  from df.instances i
$$;
revoke all on function df.metrics() from public;
comment on function df.metrics() is
  'Counts over all runs of the database, whoever owns them; cancelled runs count as failed, and branches and inner loops are not counted as runs.';

create or replace function df.version() returns text
language sql set search_path = pg_catalog, pg_temp as $$
  select '0.6.0 (built 2026-11-28 00:00:00 UTC)'
$$;
comment on function df.version() is 'Version and build time of the installed pg_durable.';

create or replace function df.target_database() returns text
language sql stable parallel safe set search_path = pg_catalog, pg_temp as $$
  select current_database()::text
$$;
comment on function df.target_database() is 'The home database: the one that pg_durable is installed in, this one.';

-- Node states: what the rows of df.nodes mean now. A loop does not reset the rows of its body when it iterates; it raises
-- the generation of its scope, and rows with an older stamp are superseded. Read by monitoring, by df.explain, and by the
-- engine when it closes an iteration; all with the rights of whoever asks.
--
-- The queries join what they have just read of one run, about which the planner knows nothing: without enable_nestloop
-- = off it would take 10 000 nodes for five, and compare all pairs of them. What is switched off counts as enormous cost,
-- for which a server with JIT would compile for seconds: hence jit = off.

-- The configuration in `query` of a node that has one; NULL where there is none, or no JSON (rows inserted by hand).
create or replace function df_engine.node_config(p_type text, p_query text) returns jsonb
language sql immutable as $$
  select case when p_type not in ('SQL', 'SLEEP') then df_engine.json_or_null(p_query) end
$$;

-- The children of a node in the order of the walk, and the line under which df.explain shows them.
create or replace function df_engine.children_of(p_type text, p_left text, p_right text, p_config jsonb)
returns table (place int, section text, id text)
language sql immutable as $$
  select c.place, c.section, c.id
  from (values
    (0, '? condition:', case when p_type = 'IF' then p_config ->> 'condition_node' end),
    (1, case p_type when 'IF' then '✓ then:' when 'LOOP' then '↻ body:' else '║ branch 1:' end, p_left),
    (2, case p_type when 'IF' then '✗ else:' else '║ branch 2:' end, p_right),
    (3, '? while:', case when p_type = 'LOOP' then p_config ->> 'condition_node' end)) as c(place, section, id)
  where c.id is not null
  union all
  select 2 + e.place::int, '║ branch ' || 2 + e.place || ':', e.id
  from jsonb_array_elements_text(
    case when p_type = 'JOIN' and jsonb_typeof(p_config -> 'extra_nodes') = 'array'
         then p_config -> 'extra_nodes' else '[]' end) with ordinality as e(id, place)
$$;

-- Whether a text is a stamp, <scope>::<generation>, where a scope is <stamp of the surrounding scope>::<node>.
create or replace function df_engine.is_stamp(p_text text) returns boolean
language sql immutable as $$ select p_text ~ '^[^:]+::\d+(?:::[^:]+::\d+)*$' $$;

-- Stamps of deep graphs are kilobytes long and have long beginnings in common: no regular expressions where strpos will
-- do, and no joins and sorts but by hash.
create or replace function df_engine.stamp_key(p_stamp text) returns bigint
language sql immutable as $$ select hashtextextended(p_stamp, 0) $$;

create or replace function df_engine.generation_of(p_stamp text) returns numeric
language sql immutable as $$ select right(p_stamp, strpos(reverse(p_stamp), '::') - 1)::numeric $$;

-- In PL/pgSQL because the planner would paste the expressions into each other.
create or replace function df_engine.split_stamp(
  p_stamp text, out scope text, out generation numeric, out outer_stamp text
)
language plpgsql immutable as $$
declare
  v_last int := strpos(reverse(p_stamp), '::');
begin
  scope := left(p_stamp, -(v_last + 1));
  generation := right(p_stamp, v_last - 1)::pg_catalog.numeric;
  v_last := strpos(reverse(scope), '::');
  if v_last > 0 then
    outer_stamp := left(scope, -(v_last + 1));
  end if;
end
$$;

-- The keys of the stamps that are not superseded: of every scope the highest generation, below live ones. A loop that lost
-- its race is closed with its first stamp, and only what its body shows supersedes that.
create or replace function df_engine.live_stamps(p_instances text[]) returns setof bigint
language sql stable as $$
  with recursive
  seen as (
    select f.stamp
    from (
      select n.status_details ->> 'execution_id' from df.nodes n where n.instance_id = any (p_instances)
      union all
      select i.id || '::' || i._generation from df.instances i where i.id = any (p_instances)
      union all
      select s.path || '::' || s.generation from df_engine.visible_scopes s
      where s.instance_id = any (p_instances) and s.outcome is distinct from 'lost'
    ) as f(stamp)
    where df_engine.is_stamp(f.stamp)
    union
    select o.outer_stamp
    from seen s cross join lateral df_engine.split_stamp(s.stamp) o
    where o.outer_stamp is not null
  ),
  newest as materialized (
    select distinct on (p.scope) p.key, p.parent
    from (
      select df_engine.stamp_key(s.stamp), df_engine.stamp_key(o.scope), df_engine.stamp_key(o.outer_stamp), o.generation
      from seen s cross join lateral df_engine.split_stamp(s.stamp) o
    ) as p(key, scope, parent, generation)
    order by p.scope, p.generation desc
  ),
  live as (
    select n.key from newest n where n.parent is null
    union all
    select n.key from live l join newest n on n.parent = l.key
  )
  select l.key from live l
$$;

-- How often the status of a node that is not pending has changed.
create or replace function df_engine.node_events(p_status text, p_started timestamptz) returns int
language sql immutable as $$ select case when p_status = 'running' or p_started is null then 1 else 2 end $$;

-- Status changes recorded in the current generation of the root scope, child scopes included; only those within a stamp, if one
-- is given. Planning it takes ten times as long as running it.
create or replace function df_engine.count_events(p_instances text[], p_within text) returns bigint
language plpgsql stable set search_path = pg_catalog, pg_temp
set jit = off set enable_seqscan = off set enable_nestloop = off set plan_cache_mode = force_generic_plan as $$
begin
  return (
    with live as materialized (select l.key from df_engine.live_stamps(p_instances) as l(key)),
    changes as (
      select df_engine.node_events(n.status, n.started_at) as number
      from df.nodes n
      where n.instance_id = any (p_instances) and n.status <> 'pending'
        and df_engine.stamp_key(n.status_details ->> 'execution_id') in (select l.key from live l)
        and (p_within is null or starts_with((n.status_details ->> 'execution_id') || '::', p_within || '::'))
      union all
      select s.events
      from df_engine.visible_scopes s
      where s.instance_id = any (p_instances)
        and df_engine.stamp_key(left(s.path, -length('::' || s.node_id))) in (select l.key from live l)
        and (p_within is null or starts_with(s.path, p_within || '::'))
    )
    select coalesce(sum(c.number), 0) from changes c);
end
$$;

create or replace function df_engine.count_events(p_instance text) returns bigint
language sql stable as $$ select df_engine.count_events(array[p_instance], null) $$;

-- Steps that a session is executing now, as its application_name says. Only sessions of the submitter are believed.
create or replace function df_engine.live_nodes(p_instance text) returns setof text
language sql stable as $$
  select split_part(a.application_name, ':', 3)
  from pg_catalog.pg_stat_activity a
  join df.instances i on i.id = p_instance and a.usesysid = coalesce(i._submitter, i.submitted_by)
  where a.datname = current_database() and starts_with(a.application_name, 'pg_durable:' || p_instance || ':')
$$;

-- Physical and inferred status of every node of a run. `decider` is the nearest ancestor that has ended for good,
-- `origin` the stamped ancestor with the highest generation. A step that a session is executing, and what waits for it,
-- is running, though for a short step no row says so.
create or replace function df_engine.node_states(p_instance text)
returns table (node_id text, status text, inferred_status text, from_ancestor text)
language sql stable set search_path = pg_catalog, pg_temp set jit = off set enable_nestloop = off as $$
  with recursive
  run as materialized (
    select i.root_node::text as root, i.status in ('completed', 'failed', 'cancelled') as ended
    from df.instances i where i.id = p_instance
  ),
  live as materialized (select l.key from df_engine.live_stamps(array[p_instance]) as l(key)),
  node as materialized (
    select n.id::text as id, n.status, n.node_type, n.left_node::text, n.right_node::text,
           n.status in ('completed', 'failed') as ended,
           df_engine.node_config(n.node_type, case when n.node_type in ('IF', 'LOOP', 'JOIN') then n.query end) as config,
           s.generation, s.generation is not null and l.key is null as superseded
    from df.nodes n
    cross join lateral (
      select case when df_engine.is_stamp(n.status_details ->> 'execution_id')
                  then df_engine.generation_of(n.status_details ->> 'execution_id') end) as s(generation)
    left join live l on l.key = df_engine.stamp_key(n.status_details ->> 'execution_id')
    where n.instance_id = p_instance
  ),
  edge as materialized (
    select n.id as parent, n.ended and not n.superseded as decides, n.generation, c.id as child
    from node n cross join lateral df_engine.children_of(n.node_type, n.left_node, n.right_node, n.config) c
  ),
  walk as (
    select r.root as id, null::text as decider, null::text as origin, null::numeric as generation from run r
    union
    select e.child, case when e.decides then e.parent else w.decider end,
           case when e.generation >= coalesce(w.generation, 0) then e.parent else w.origin end,
           greatest(e.generation, w.generation)
    from walk w join edge e on e.parent = w.id
  ),
  reached as (select distinct on (w.id) w.* from walk w order by w.id),
  active as (
    select l.id from df_engine.live_nodes(p_instance) as l(id)
    union
    select e.parent from active a join edge e on e.child = a.id
  ),
  inferred as (
    select n.id, n.status, w.decider, w.origin,
           case
             when w.id is null or n.ended and not n.superseded then n.status
             when w.decider is not null or r.ended then 'skipped'
             when n.ended then 'pending'
             else n.status
           end as inferred_status,
           n.ended and n.superseded as outdated
    from run r cross join node n left join reached w on w.id = n.id
  )
  select f.id,
         case when o.running then 'running' else f.status end,
         case when o.running then 'running' else f.inferred_status end,
         case when o.running then null
              when f.inferred_status = 'skipped' then f.decider
              when f.inferred_status = 'pending' and f.outdated then f.origin end
  from inferred f
  cross join lateral (
    select f.inferred_status = 'pending' and f.id in (select a.id from active a)) as o(running)
$$;

-- Views for whoever operates the database: what runs, what failed, what waits, how much gets done, who does it. Each shows
-- the runs that row security lets the reader see: the owner of a view reads for the reader, so the view filters itself.

create or replace view df.running_steps with (security_barrier) as
  with session as (
    select split_part(a.application_name, ':', 2) as instance_id, split_part(a.application_name, ':', 3) as node_id,
           a.pid, a.usesysid, a.xact_start
    from pg_stat_activity a
    where a.datname = current_database() and starts_with(a.application_name, 'pg_durable:')
  ),
  leased as (
    select r.instance_id::text, r.node_id::text, r.worker from df_engine.ready r where r.worker is not null
  )
  select i.id as instance_id, i.label, n.id as node_id, n.node_type, n.query, i.submitted_by, n.attempts, s.pid,
         l.worker, since.running_since, clock_timestamp() - since.running_since as running_for
  from session s
  full join leased l on l.instance_id = s.instance_id and l.node_id = s.node_id
  join df.nodes n on n.instance_id = coalesce(s.instance_id, l.instance_id) and n.id = coalesce(s.node_id, l.node_id)
  join df.instances i on i.id = n.instance_id
  cross join lateral (
    select coalesce(case when n.status = 'running' then n.started_at end, s.xact_start) as running_since) as since
  where (s.usesysid is null or s.usesysid = coalesce(i._submitter, i.submitted_by))
    and ((select not row_security_active('df.instances'))
       or i.submitted_by = (select quote_ident(current_user)::regrole));
comment on view df.running_steps is
  'Steps being executed now: pid is the session of an SQL step, worker who holds the lease of any other. Who may not read the activity of another role''s session sees when a step began only after about a quarter of a second.';

create or replace view df.failed_steps with (security_barrier) as
  select i.id as instance_id, i.label, n.id as node_id, n.node_type, n.query, i.submitted_by, i.status as instance_status,
         n.completed_at as failed_at, n.attempts, df_engine.cause(n.error) as error
  from df.nodes n
  join df.instances i on i.id = n.instance_id
  where n.status = 'failed' and n.node_type in ('SQL', 'HTTP', 'HTTP_MULTIPART', 'SLEEP', 'WAIT_SCHEDULE', 'SIGNAL', 'BREAK')
    and ((select not row_security_active('df.instances'))
       or i.submitted_by = (select quote_ident(current_user)::regrole));
comment on view df.failed_steps is
  'Leaves that failed, after how many attempts and why (error: the cause alone, without the words that begin df.nodes.error); the failures of their parents, which only repeat it, are left out';

create or replace view df.waiting with (security_barrier) as
  with wait as (
    select t.instance_id, t.node_id, t.kind, null as signal_name, t.due_at
    from df_engine.timers t
    where t.kind <> 'timeout'
    union all
    select w.instance_id, w.node_id, 'signal', w.signal_name, t.due_at
    from df_engine.waits w
    left join df_engine.timers t on t.instance_id = w.instance_id and t.node_id = w.node_id
    union all
    select i.id, null, 'blocked', null, null
    from df.instances i
    where i.wait_reason is not null and i.status not in ('completed', 'failed', 'cancelled')
  )
  select i.id as instance_id, i.label, w.node_id, i.submitted_by, w.kind,
         case w.kind
           when 'sleep' then format('%s s', n.query)
           when 'schedule' then n.query::jsonb ->> 'cron_expr'
           when 'signal' then w.signal_name
           when 'retry' then df_engine.cause(n.error)
           when 'pace' then 'next iteration' || coalesce(' after: ' || df_engine.cause(n.error), '')
           else i.wait_reason
         end as waits_for,
         w.due_at, n.started_at as waiting_since
  from wait w
  join df.instances i on i.id = w.instance_id
  left join df.nodes n on n.instance_id = w.instance_id and n.id = w.node_id
  where ((select not row_security_active('df.instances'))
       or i.submitted_by = (select quote_ident(current_user)::regrole));
comment on view df.waiting is
  'What waits, and for what: the end of a sleep, a schedule, a signal (due_at: its time-out), a retry (waits_for: the last error), the pace of a forever loop, or the pause after a failure of one that continues; blocked are runs that no worker can go on with, with the reason';

create or replace view df.throughput with (security_barrier) as
  with finished as (
    select date_trunc('hour', i.finished_at) as hour, i.status as run, null as step, i.finished_at - i.created_at as took
    from df.instances i
    where i.finished_at is not null and ((select not row_security_active('df.instances'))
       or i.submitted_by = (select quote_ident(current_user)::regrole))
    union all
    select date_trunc('hour', n.completed_at), null, n.status, null
    from df.nodes n
    join df.instances i on i.id = n.instance_id
    where n.completed_at is not null and n.node_type in ('SQL', 'HTTP', 'HTTP_MULTIPART') and ((select not row_security_active('df.instances'))
       or i.submitted_by = (select quote_ident(current_user)::regrole))
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
  select w.epoch_id, w._worker as worker, w._role as role, w.started_at, w.last_seen_at,
         clock_timestamp() - w.last_seen_at as silent_for,
         w.last_seen_at > clock_timestamp() - interval '15 s' as alive,
         (select count(*) from df_engine.ready r where r.worker = w._worker) as leases
  from df._worker_epoch w;
comment on view df.workers is
  'Worker processes: who they are, when they were last seen, whether they are alive, and how many steps outside of transactions they hold';

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
  'Draws a graph as text: of a run with the statuses of its nodes when input is its id, else of an envelope, of a statement, or of an SQL expression, which is evaluated with the rights of the caller. A graph that is not valid is described, an SQL error in the expression raised.';

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
    else
      return 'Nothing to explain. Accepted are the id of an instance (8 hexadecimal digits), an envelope, an expression'
        || E' that builds one,\nsuch as ''SELECT 1'' ~> ''SELECT 2'' or df.sleep(5), and an SQL statement.';
  end case;
end
$$;

-- How df.explain reads its input. What is to be read as a graph, in whatever notation, is for parse_graph to understand.
create or replace function df_engine.explain_kind(p_input text) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select case
    when p_input ~ '^[0-9A-Fa-f]{8}$' then 'instance'
    when p_input ~ '^\{' and jsonb_typeof(df_engine.node_config('', p_input) -> 'node_type') = 'string' then 'graph'
    when p_input ~ '~>|\|=>|\?>|!>|@>|df\.' then 'expression'
    when p_input ~* '^(select|insert|update|delete|merge|with|values|create|alter|drop|call|do|truncate|grant|revoke|explain)\M'
      then 'graph'
    else 'other'
  end
$$;

-- The value of an expression, read with p_search_path: SET LOCAL of what a function pins ends with the function.
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

-- An expression as SQL reads it; where SQL cannot, as a flow. Of what is neither the flow's error is raised, which has the
-- place; but what SQL can parse, and has a name that it does not know, is an expression.
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
create or replace function df_engine.run_head(p_instance text) returns setof text
language sql stable set search_path = pg_catalog, pg_temp as $$
  with run as (
    select i.id, i.label, i.wait_reason, i.status in ('completed', 'failed', 'cancelled') as ended,
           case when i.status = 'pending' and exists (select df_engine.live_nodes(i.id)) then 'running'
                else i.status end as status,
           df_engine.run_output(i.status, i.error, r.status, r.result) as output
    from df.instances i
    left join df.nodes r on r.instance_id = i.id and r.id = i.root_node
    where i.id = p_instance
  )
  select l.line
  from run r
  cross join lateral (values
    (1, 'Instance: ' || r.id || coalesce(' (' || df_engine.one_line(r.label, null) || ')', '')),
    (2, 'Status:   ' || df_engine.status_icon(r.status) || ' ' || r.status),
    (3, 'Output:   ' || case when r.status = 'failed' then df_engine.one_line(df_engine.cause(r.output), null)
                             else df_engine.one_line(r.output, 60) end),
    (4, case when not r.ended then 'Waiting:  ' || df_engine.one_line(
          coalesce(r.wait_reason, df_engine.worker_problem()), null) end),
    (5, '')) as l(place, line)
  where l.line is not null
  order by l.place
$$;

-- Why nothing can run at all; NULL while a worker is alive.
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
create or replace function df_engine.padded(p_lines text[]) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select string_agg(rpad(l.line, w.width), E'\n' order by l.place)
  from unnest(p_lines) with ordinality as l(line, place)
  cross join (select max(length(u.line)) + 4 from unnest(p_lines) as u(line)) as w(width)
$$;

-- Drawing: the tree that df.explain shows, one renderer for graphs not yet started and for runs.

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
create or replace function df_engine.one_line(p_text text, p_max int) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select case when length(t.flat) > p_max then left(t.flat, p_max - 3) || '...' else t.flat end
  from (select regexp_replace(p_text, '[\r\n]+', ' ', 'g')) as t(flat)
$$;

-- A node without its children. Configurations that are no JSON, in rows inserted by hand, are shown as they are.
create or replace function df_engine.node_text(p_type text, p_query text, p_config jsonb) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select case p_type
    when 'SQL' then 'SQL: ' || df_engine.one_line(p_query, 50)
    when 'SLEEP' then 'SLEEP ' || df_engine.one_line(p_query, null) || 's'
    when 'WAIT_SCHEDULE' then 'WAIT ''' || coalesce(p_config ->> 'cron_expr', p_query) || ''''
                              || coalesce(' ' || (p_config ->> 'timezone'), '')
    when 'SIGNAL' then 'SIGNAL ''' || coalesce(p_config ->> 'signal_name', p_query) || ''''
                       || coalesce(' (' || (p_config ->> 'timeout_seconds') || 's)', '')
    when 'BREAK' then 'BREAK' || coalesce(' ''' || df_engine.one_line(p_config ->> 'break_value', 20) || '''', '')
    when 'LOOP' then 'LOOP (' || case when p_config ? 'condition_node' then 'while' else 'infinite' end
                     || case when p_config -> 'continue_on_failure' = 'true' then ', continues on failure' else '' end || ')'
    when 'JOIN' then 'JOIN (' || (select count(*) from df_engine.children_of('JOIN', '', '', p_config)) || ')'
    when 'HTTP' then df_engine.request_text(p_type, p_config)
    when 'HTTP_MULTIPART' then df_engine.request_text(p_type, p_config)
    else p_type
  end
$$;

create or replace function df_engine.request_text(p_type text, p_config jsonb) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select concat_ws(' ', p_type, upper(p_config ->> 'method'), df_engine.one_line(p_config ->> 'url', 40))
$$;

-- What is drawn: the nodes of a graph, or those of a run, each with its mark.
create or replace function df_engine.drawn_nodes(p_instance text, p_graph jsonb)
returns table (
  id text, is_root boolean, node_type text, query text, result_name text, left_node text, right_node text, mark text
)
language sql as $$
  select g.id, g.parent is null, g.node_type, g.query, g.result_name, g.left_node, g.right_node, ''
  from df_engine.graph_nodes(p_graph) g
  where p_graph is not null
  union all
  select n.id, n.id = i.root_node, n.node_type, n.query, n.result_name, n.left_node, n.right_node,
         ' ' || df_engine.status_icon(s.inferred_status)
  from df.instances i
  cross join df_engine.node_states(p_instance) s
  join df.nodes n on n.instance_id = i.id and n.id = s.node_id
  where i.id = p_instance
$$;

-- The lines of the tree. A node's line is indent, lead and text; its sections are at indent and tail, and what belongs to
-- a section is two columns deeper. Sequences have no line: their elements follow each other at the same indent. Rows
-- inserted by hand may form cycles, so both depth and number are bounded as they are for graphs.
create or replace function df_engine.draw_graph(p_instance text, p_graph jsonb) returns setof text
language sql set search_path = pg_catalog, pg_temp set jit = off set enable_nestloop = off as $$
  with recursive
  node as materialized (
    select d.id, d.is_root, d.node_type, d.query, d.result_name, d.left_node, d.right_node, d.mark,
           df_engine.node_config(d.node_type, d.query) as config
    from df_engine.drawn_nodes(p_instance, p_graph) d
  ),
  edge as materialized (
    select n.id as parent, n.node_type = 'THEN' as in_sequence, c.place, c.section, c.id as child,
           n.node_type in ('JOIN', 'RACE') and c.place < max(c.place) over (partition by n.id) as goes_on
    from node n cross join lateral df_engine.children_of(n.node_type, n.left_node, n.right_node, n.config) c
  ),
  walk as (
    select n.id, '{}'::int[] as place, null as section, '' as indent, '' as lead, '    ' as tail
    from node n where n.is_root
    union all
    select e.child, w.place || e.place,
           case when not e.in_sequence then w.indent || w.tail || e.section end,
           case when e.in_sequence then w.indent else w.indent || w.tail || '  ' end,
           case when not e.in_sequence then case when e.goes_on then '├─' else '└─' end
                when e.place = 1 then w.lead
                else '→ ' end,
           case when e.in_sequence then w.tail when e.goes_on then '│   ' else '    ' end
    from walk w join edge e on e.parent = w.id
    where cardinality(w.place) < 256
  ),
  bounded as materialized (select w.* from walk w limit 10000),
  line as (
    select b.place, 1 as rank, b.section as line from bounded b where b.section is not null
    union all
    select b.place, 2,
           b.indent || b.lead || df_engine.one_line(df_engine.node_text(n.node_type, n.query, n.config), null)
           || case when n.node_type = 'RACE' then '' else coalesce(' |=> ''' || n.result_name || '''', '') end
           || n.mark
    from bounded b join node n on n.id = b.id
    where n.node_type <> 'THEN'
  )
  select l.line from line l order by l.place, l.rank
$$;

-- HTTP: the builders, and the checks of their arguments, which are made again when the step runs. A problem is a text that
-- says what is wrong, or NULL; it never holds a header's value.

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
  from (select case p_node_type when 'HTTP' then array['GET', 'HEAD', 'POST', 'PUT', 'DELETE', 'PATCH']
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
    raise exception 'argument % of % is NULL',
      case when p_url is null then 'url' when p_method is null then 'method' else 'timeout_seconds' end, p_function
      using errcode = 'null_value_not_allowed', hint = 'Of the arguments only body and headers may be NULL.';
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
  if not (pg_catalog.has_schema_privilege('df_engine', 'usage')
          and pg_catalog.has_table_privilege('df_engine.own_key', 'select')) then
    raise exception 'permission denied: role "%" may not use pg_durable', current_user
      using errcode = 'insufficient_privilege',
            hint = pg_catalog.format('An administrator grants it: SELECT df.grant_usage(%L);', current_user);
  end if;
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
  v_problem text;
begin
  if not (pg_catalog.has_schema_privilege('df_engine', 'usage')
          and pg_catalog.has_table_privilege('df_engine.own_key', 'select')) then
    raise exception 'permission denied: role "%" may not use pg_durable', current_user
      using errcode = 'insufficient_privilege',
            hint = pg_catalog.format('An administrator grants it: SELECT df.grant_usage(%L);', current_user);
  end if;
  perform df_engine.check_http('HTTP_MULTIPART', 'df.http_multipart', url, method, headers, timeout_seconds);
  v_problem := df_engine.http_parts_problem(parts);
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

revoke execute on function df.http(text, text, text, jsonb, integer), df.http_multipart(text, text, jsonb, jsonb, integer)
  from public;

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
  from df.http_allowlist a, df_engine.http_pattern(a.pattern) p
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
    from (values ('User-Agent', 'pg_durable/0.6.0'), ('Idempotency-Key', p_idempotency_key)) d(name, value)
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

-- Whether a status matches http:404 or http:4xx.
create or replace function df_engine.http_status_listed(p_status text, p_retry_on text[]) returns boolean
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select coalesce('http:' || p_status = any (p_retry_on) or 'http:' || left(p_status, 1) || 'xx' = any (p_retry_on), false)
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

-- Administration: who may use pg_durable, and who may be its worker. df.grant_usage and df.revoke_usage act with the
-- caller's own privileges, so that they can be delegated; df.grant_worker and df.revoke_worker act as the owner.


-- What every user holds: the first half of a GRANT or REVOKE each.
create or replace function df_engine.usage_privileges() returns text[]
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select array[
    'usage on schema df, df_engine',
    'select on df.instances, df.nodes, df.signals, df.settings, df.http_allowlist, df._worker_epoch',
    'insert (id, label, root_node, submitted_by, database), update (status, updated_at) on df.instances',
    'insert (id, instance_id, node_type, query, result_name, left_node, right_node, submitted_by, database, retry_policy) on df.nodes',
    'select, insert, update, delete on df.vars',
    'select on df.failed_steps',
    'select on df.running_steps',
    'select on df.throughput',
    'select on df.waiting',
    'select on df.workers',
    'insert on df_engine.own_instances',
    'select on df_engine.own_key',
    'insert on df_engine.own_launches',
    'select on df_engine.visible_executions',
    'select, insert on df_engine.visible_inbox',
    'select on df_engine.visible_scopes',
    'execute on routine df_engine.as_json(text)',
    'execute on routine df_engine.await_end(text, int)',
    'execute on routine df_engine.bare_sql(text)',
    'execute on routine df_engine.brace_problem(text)',
    'execute on routine df_engine.cause(text)',
    'execute on routine df_engine.check_awaitable(text)',
    'execute on routine df_engine.check_http(text, text, text, text, jsonb, int)',
    'execute on routine df_engine.check_page_size(int)',
    'execute on routine df_engine.check_submitter(text)',
    'execute on routine df_engine.child_nodes(jsonb, text)',
    'execute on routine df_engine.children_of(text, text, text, jsonb)',
    'execute on routine df_engine.claim_step(text, bigint, bigint, boolean)',
    'execute on routine df_engine.commits_relaxed()',
    'execute on routine df_engine.config_problem(text, text)',
    'execute on routine df_engine.construct_parts(text, df_engine.graph_visit, jsonb, text, int)',
    'execute on routine df_engine.count_events(text)',
    'execute on routine df_engine.count_events(text[], text)',
    'execute on routine df_engine.cron_next(text, text, timestamptz)',
    'execute on routine df_engine.current_execution(text)',
    'execute on routine df_engine.deadline(int)',
    'execute on routine df_engine.decode_cursor(text)',
    'execute on routine df_engine.draw_graph(text, jsonb)',
    'execute on routine df_engine.drawn_nodes(text, jsonb)',
    'execute on routine df_engine.encode_cursor(timestamptz, text)',
    'execute on routine df_engine.evaluate_expression(text, text)',
    'execute on routine df_engine.explain(text, text)',
    'execute on routine df_engine.explain_graph(text)',
    'execute on routine df_engine.explain_kind(text)',
    'execute on routine df_engine.explain_run(text)',
    'execute on routine df_engine.final_names(text[])',
    'execute on routine df_engine.first_part(df_engine.graph_visit, text, text, text)',
    'execute on routine df_engine.flow_comments(text)',
    'execute on routine df_engine.flow_layout(jsonb)',
    'execute on routine df_engine.flow_nodes(text)',
    'execute on routine df_engine.generation_of(text)',
    'execute on routine df_engine.graph_nodes(jsonb, text, text, text[])',
    'execute on routine df_engine.has_room(df_engine.outcome[], df_engine.step, jsonb)',
    'execute on routine df_engine.hold_step(bigint, xid, varchar, varchar)',
    'execute on routine df_engine.http_headers_problem(jsonb)',
    'execute on routine df_engine.http_headers_text(jsonb)',
    'execute on routine df_engine.http_method_problem(text, text)',
    'execute on routine df_engine.http_node(text, text, text, text, jsonb, int)',
    'execute on routine df_engine.http_parts_problem(jsonb)',
    'execute on routine df_engine.http_parts_text(jsonb)',
    'execute on routine df_engine.http_scheme_problem(text)',
    'execute on routine df_engine.insert_instance(text, text, text, jsonb)',
    'execute on routine df_engine.is_stamp(text)',
    'execute on routine df_engine.json_or_null(text)',
    'execute on routine df_engine.last_part(df_engine.graph_visit, int, text, text, text, boolean)',
    'execute on routine df_engine.launch(text, text, text, jsonb)',
    'execute on routine df_engine.lay_out(text, jsonb)',
    'execute on routine df_engine.live_nodes(text)',
    'execute on routine df_engine.live_stamps(text[])',
    'execute on routine df_engine.malformed(jsonb)',
    'execute on routine df_engine.milliseconds(timestamptz, timestamptz)',
    'execute on routine df_engine.missing_run_hint(text)',
    'execute on routine df_engine.node_config(text, text)',
    'execute on routine df_engine.node_events(text, timestamptz)',
    'execute on routine df_engine.node_id(text, bigint)',
    'execute on routine df_engine.node_problem(jsonb, text)',
    'execute on routine df_engine.node_states(text)',
    'execute on routine df_engine.node_text(text, text, jsonb)',
    'execute on routine df_engine.note_helper(text, text)',
    'execute on routine df_engine.notify(text)',
    'execute on routine df_engine.one_line(text, int)',
    'execute on routine df_engine.padded(text[])',
    'execute on routine df_engine.page_cap()',
    'execute on routine df_engine.page_of_instances(text, text, timestamptz, text, int)',
    'execute on routine df_engine.parse_graph(text, text)',
    'execute on routine df_engine.pass_on(text, bigint, varchar, varchar[], varchar, boolean, jsonb, text[], text[], timestamptz, varchar, timestamptz)',
    'execute on routine df_engine.pass_on_group(text, bigint, varchar, df_engine.outcome[], varchar, boolean, varchar, timestamptz)',
    'execute on routine df_engine.random_id()',
    'execute on routine df_engine.read_expression(text, text)',
    'execute on routine df_engine.reject_in_workflow(text)',
    'execute on routine df_engine.reject_node(text, text, int, int, text)',
    'execute on routine df_engine.renamed_rows(json, text[])',
    'execute on routine df_engine.request_text(text, jsonb)',
    'execute on routine df_engine.require_grantable(regprocedure)',
    'execute on routine df_engine.retry_problem(jsonb)',
    'execute on routine df_engine.run_head(text)',
    'execute on routine df_engine.run_output(text, text, text, jsonb)',
    'execute on routine df_engine.run_statement(text, text, boolean, bigint)',
    'execute on routine df_engine.seconds(text)',
    'execute on routine df_engine.setting(text)',
    'execute on routine df_engine.setting_number(text)',
    'execute on routine df_engine.setting_on(text)',
    'execute on routine df_engine.settle_step(text, bigint, varchar, varchar, jsonb, text[], text[], text, text, text, text, timestamptz)',
    'execute on routine df_engine.short_statements(jsonb, text, timestamptz)',
    'execute on routine df_engine.split_stamp(text)',
    'execute on routine df_engine.stamp_key(text)',
    'execute on routine df_engine.start_here(text, text, text, jsonb)',
    'execute on routine df_engine.start_new(text, text, text, jsonb)',
    'execute on routine df_engine.statements_problem(text)',
    'execute on routine df_engine.status_icon(text)',
    'execute on routine df_engine.steps_to_beginning(jsonb)',
    'execute on routine df_engine.stored_query(text, text, text[])',
    'execute on routine df_engine.unknown_type(text)',
    'execute on routine df_engine.usage_privileges()',
    'execute on routine df_engine.work(int, boolean, text)',
    'execute on routine df_engine.work_in_groups(int, text)',
    'execute on routine df_engine.worker_problem()'
  ]
$$;

-- GRANT only warns a caller who holds a privilege without its grant option; df.grant_usage must fail.
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
  v_routines text[] := case when include_http then array['df.http(text, text, text, jsonb, integer)', 'df.http_multipart(text, text, jsonb, jsonb, integer)'] else '{}' end
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
  foreach v_routine in array array['df.http(text, text, text, jsonb, integer)', 'df.http_multipart(text, text, jsonb, jsonb, integer)', 'df.grant_usage(text, boolean, boolean)', 'df.revoke_usage(text)', 'df.metrics()'] loop
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

-- What a worker role holds beyond its row in df_engine.worker_roles.
create or replace function df_engine.worker_privileges() returns text[]
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select array[
    'usage on schema df, df_engine',
    'execute on routine df_engine.accuse(oid, bigint, text, int)',
    'execute on routine df_engine.acquit_leased(int, bigint[])',
    'execute on routine df_engine.agenda(int)',
    'execute on routine df_engine.census(jsonb)',
    'execute on routine df_engine.claim_leased(int, text, int)',
    'execute on routine df_engine.deadline(int)',
    'execute on routine df_engine.fail_interrupted(text, text)',
    'execute on routine df_engine.fail_orphans()',
    'execute on routine df_engine.failed_since(timestamp with time zone)',
    'execute on routine df_engine.finish_leased(int, bigint, json)',
    'execute on routine df_engine.fire_due(int)',
    'execute on routine df_engine.heartbeat(int)',
    'execute on routine df_engine.mark_long_steps()',
    'execute on routine df_engine.reclaim_leases()',
    'execute on routine df_engine.register_worker(int)',
    'execute on routine df_engine.release_leased(int, bigint[])',
    'execute on routine df_engine.retain()',
    'execute on routine df_engine.role_reachable(int, text)',
    'execute on routine df_engine.role_unreachable(text, text, boolean)',
    'execute on routine df_engine.sleep_until(int, int)',
    'execute on routine df_engine.tick(int, jsonb)',
    'execute on routine df_engine.unregister_worker(int)'
  ]
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
  df.grant_worker(text), df.revoke_worker(text) from public;

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
-- PostgreSQL does not tell who called. So the caller proves it: with a row that the view lets it write for itself only.

create or replace view df_engine.own_launches as
  select launcher from df_engine.launches where launcher = quote_ident(current_user)::regrole
  with check option;

create or replace function df_engine.start_new(p_fut text, p_label text, p_database text, p_input jsonb) returns text
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
  insert into df_engine.own_launches (launcher) values (quote_ident(current_user)::regrole);
  return df_engine.launch(p_fut, p_label, p_database, p_input);
end
$$;

-- The schema of dblink, quoted, and the connection string to this database as the session's role.
create or replace function df_engine.loopback(out dblink text, out conninfo text)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  select quote_ident(n.nspname) into dblink
  from pg_extension e join pg_namespace n on n.oid = e.extnamespace where e.extname = 'dblink';
  select nullif(btrim(s.value), '') into conninfo from df.settings s where s.name = 'loopback_dsn';
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

-- Takes a launch slot, a session-level advisory lock.
create or replace function df_engine.take_launch_slot() returns int
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_slots int := df_engine.setting_number('max_new_transaction_starts');
  v_seconds numeric := df_engine.setting_number('new_transaction_start_timeout');
  v_deadline timestamptz := clock_timestamp() + v_seconds * interval '1 s';
begin
  loop
    for v_slot in 0 .. v_slots - 1 loop
      if pg_try_advisory_lock(1346982470, v_slot) then
        return v_slot;
      end if;
    end loop;
    if clock_timestamp() >= v_deadline then
      raise exception 'Timed out after %s waiting for a launch slot (max_new_transaction_starts=%)',
        trim_scale(v_seconds), v_slots using errcode = 'program_limit_exceeded';
    end if;
    perform pg_sleep(0.1);
  end loop;
end
$$;

-- Starts the run on the second session, after a look whether it is what it should be: the same role, and a session that
-- sees this one holding the slot, hence in the same database of the same server.
create or replace function df_engine.start_on(p_dblink text, p_link text, p_slot int, p_start text) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_same boolean;
  v_id text;
begin
  execute format('select %s.dblink_exec($1::text, $2::text)', p_dblink)
  using p_link, 'set lock_timeout = ''30s''; set statement_timeout = ''30s''';
  execute format('select same from %s.dblink($1::text, $2::text) as t(same boolean)', p_dblink) into v_same
  using p_link, format(
    'select session_user = %1$L and current_user = %1$L and exists (
       select from pg_catalog.pg_locks l
       where l.locktype = ''advisory'' and l.classid = 1346982470 and l.objid = %2$L and l.pid = %3$L
         and l.database = (select d.oid from pg_catalog.pg_database d where d.datname = pg_catalog.current_database()))',
    session_user, p_slot, pg_backend_pid());
  if v_same is not true then
    raise exception 'loopback_dsn does not lead to a session of role "%" in database "%" of this server',
      session_user, current_database() using errcode = 'object_not_in_prerequisite_state';
  end if;
  execute format('select id from %s.dblink($1::text, $2::text) as t(id text)', p_dblink) into v_id using p_link, p_start;
  return v_id;
end
$$;

-- Uses the caller's proof up, then starts the run within a slot.
create or replace function df_engine.launch(p_fut text, p_label text, p_database text, p_input jsonb) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_link constant text := 'pg_durable_start';
  v_loopback record;
  v_slot int;
  v_id text;
begin
  delete from df_engine.launches l
  where l.launcher = quote_ident(session_user)::regrole and l.started_in = pg_current_xact_id();
  if not found then
    raise exception 'df_engine.launch is called by df.start only' using errcode = 'insufficient_privilege';
  end if;
  v_loopback := df_engine.loopback();
  v_slot := df_engine.take_launch_slot();
  begin
    perform df_engine.open_link(v_loopback.dblink, v_link, v_loopback.conninfo);
    v_id := df_engine.start_on(v_loopback.dblink, v_link, v_slot, format(
      'select df.start(fut => %L, label => %L, database => %L, input => %L)', p_fut, p_label, p_database, p_input));
    perform df_engine.close_launch(v_loopback.dblink, v_link, v_slot);
    return v_id;
  exception when others or query_canceled then
    perform df_engine.close_launch(v_loopback.dblink, v_link, v_slot);
    raise;
  end;
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

create or replace function df_engine.close_launch(p_dblink text, p_link text, p_slot int) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  execute format('select %1$s.dblink_disconnect($1::text) where $1 = any (%1$s.dblink_get_connections())', p_dblink)
  using p_link;
  perform pg_advisory_unlock(1346982470, p_slot);
end
$$;

-- Retention: removes runs that ended long ago, or that are not among the newest that are kept. Called by every worker's
-- tick; the row of df_engine.upkeep says when the last pass ended, and its lock lets one worker at a time work on the next.

-- The runs to remove, oldest first.
create index if not exists instances_ended_idx on df.instances ((coalesce(finished_at, created_at)), id)
  where status in ('completed', 'failed', 'cancelled');

create or replace function df_engine.retention_due() returns boolean
language plpgsql volatile set search_path = '' as $$
declare
  v_interval pg_catalog.interval := df_engine.setting_number('reconcile_interval') * '1 s'::pg_catalog.interval;
begin
  perform from df_engine.upkeep u
  where v_interval > '0'::pg_catalog.interval and u.retained_at + v_interval <= df_engine.clock() for update skip locked;
  return found;
end
$$;

-- Up to p_limit runs, locked, that are too old or too many, from where this pass has come to. Runs that still run, whatever their status was made to show,
-- and those somebody has locked are left alone.
create or replace function df_engine.outlived_runs(p_limit int) returns varchar[]
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  v_old timestamptz := df_engine.clock() - df_engine.setting_number('retention_days') * interval '1 day';
  v_ended timestamptz;
  v_id varchar;
  v_place constant jsonb := coalesce(df_engine.place('retention'), '["-infinity", ""]')::jsonb;
begin
  select coalesce(i.finished_at, i.created_at), i.id into v_ended, v_id
  from df.instances i
  where i.status in ('completed', 'failed', 'cancelled') and coalesce(i.finished_at, i.created_at) >= v_old
  order by coalesce(i.finished_at, i.created_at) desc, i.id desc
  offset df_engine.setting_number('retention_max')::int limit 1;
  return array(
    select i.id from df.instances i
    where i.status in ('completed', 'failed', 'cancelled') and coalesce(i._state, i.status) in ('completed', 'failed', 'cancelled')
      and (coalesce(i.finished_at, i.created_at), i.id) <= (coalesce(v_ended, v_old), coalesce(v_id, ''))
      and (coalesce(i.finished_at, i.created_at), i.id) > ((v_place ->> 0)::timestamptz, v_place ->> 1)
    order by coalesce(i.finished_at, i.created_at), i.id
    limit p_limit for update skip locked);
end
$$;

-- Removes runs and everything that belongs to them.
create or replace function df_engine.remove_runs(p_ids varchar[]) returns void
language sql volatile set search_path = '' as $$
  delete from df.nodes n where n.instance_id = any (p_ids);
  delete from df_engine.ready t where t.instance_id = any (p_ids);
  delete from df_engine.timers t where t.instance_id = any (p_ids);
  delete from df_engine.waits t where t.instance_id = any (p_ids);
  delete from df_engine.inbox t where t.instance_id = any (p_ids);
  delete from df_engine.scopes t where t.instance_id = any (p_ids);
  delete from df_engine.bindings t where t.instance_id = any (p_ids);
  delete from df_engine.executions t where t.instance_id = any (p_ids);
  delete from df_engine.attempts t where t.instance_id = any (p_ids);
  delete from df.instances i where i.id = any (p_ids);
$$;

-- Those of some runs whose nodes nobody has locked: a foreign key of a node that is about to be added can. They are locked
-- from then on.
create or replace function df_engine.free_of_locks(p_ids varchar[]) returns varchar[]
language sql volatile set search_path = '' as $$
  with locked as (
    select n.instance_id from df.nodes n where n.instance_id = any (p_ids) for update skip locked
  )
  select coalesce(pg_catalog.array_agg(u.id order by u.place), '{}')
  from pg_catalog.unnest(p_ids) with ordinality u(id, place)
  where (select count(*) from df.nodes n where n.instance_id = u.id)
        = (select count(*) from locked l where l.instance_id = u.id);
$$;

-- The first of some runs that can be removed in a fraction of a second. For each node that goes, the foreign keys to nodes
-- look at all nodes of its run, so a run costs the square of its size; one run is always among them.
create or replace function df_engine.removable_at_once(p_ids varchar[]) returns varchar[]
language sql stable set search_path = '' as $$
  select coalesce(pg_catalog.array_agg(r.id), '{}')
  from (
    select u.id, u.place, pg_catalog.sum(c.nodes * c.nodes) over (order by u.place) as cost
    from pg_catalog.unnest(p_ids) with ordinality u(id, place)
    cross join lateral (select pg_catalog.count(*) as nodes from df.nodes n where n.instance_id = u.id) c
  ) r
  where r.cost <= 2000000 or r.place = 1;
$$;

-- Removes one batch if a pass is due; answers whether more is to do. Each call is a transaction of its own.
create or replace function df_engine.retain() returns boolean
language plpgsql volatile security definer set search_path = '' as $$
declare
  v_outlived varchar[];
  v_ids varchar[];
  v_ended boolean;
begin
  if not df_engine.retention_due() then
    return false;
  end if;
  v_outlived := df_engine.outlived_runs(200);
  v_ids := df_engine.removable_at_once(v_outlived);
  v_ended := cardinality(v_ids) = cardinality(v_outlived) and cardinality(v_ids) < 200;
  perform df_engine.set_place('retention', case when not v_ended then (
    select jsonb_build_array(coalesce(i.finished_at, i.created_at), i.id)::pg_catalog.text
    from df.instances i where i.id = v_ids[cardinality(v_ids)]) end);
  perform df_engine.remove_runs(df_engine.free_of_locks(v_ids));
  if v_ended then
    update df_engine.upkeep u set retained_at = df_engine.clock();
  end if;
  return not v_ended;
end
$$;

-- df.check: what must always hold, asked of the tables. It shows nothing while the engine is right, whatever crashed before;
-- each function below looks for one kind of problem. Nothing here writes.

-- All that can move a run: what is ready, what is due some time, what waits for a signal.
create or replace view df_engine.pending_work as
  select r.instance_id, r.node_id, 'ready row, lane ' || r.lane as what, null as timer_kind, r.lane from df_engine.ready r
  union all
  select t.instance_id, t.node_id, 'timer, ' || t.kind, t.kind, null from df_engine.timers t
  union all
  select w.instance_id, w.node_id, 'wait for signal ' || w.signal_name, null, null from df_engine.waits w;

-- Work of runs that are over or of branches that have lost their race, but for what a session is still in.
create or replace function df_engine.check_left_over()
returns table (problem text, instance_id text, node_id text, detail text)
language sql stable set search_path = '' as $$
  select case when i._state in ('completed', 'failed', 'cancelled') then 'work is left of a run that has ended'
              else 'work is left of a branch that has lost its race' end,
         p.instance_id, p.node_id, p.what
  from df_engine.pending_work p
  join df.instances i on i.id = p.instance_id
  left join df.nodes n on n.instance_id = p.instance_id and n.id = p.node_id
  where (i._state in ('completed', 'failed', 'cancelled') or not df_engine.scope_open(p.instance_id, n._scope))
    and not exists (select from df_engine.steps_in_sessions s where s.instance_id = p.instance_id);
$$;

-- Work on nodes that do not exist or cannot be in such a state.
create or replace function df_engine.check_misplaced()
returns table (problem text, instance_id text, node_id text, detail text)
language sql stable set search_path = '' as $$
  select case when n.id is null then 'work on a node that does not exist' else 'work on a node that cannot have it' end,
         p.instance_id, p.node_id, p.what || coalesce(', at a ' || n.node_type || ' that is ' || n.status, '')
  from df_engine.pending_work p
  left join df.nodes n on n.instance_id = p.instance_id and n.id = p.node_id
  where case
    when n.id is null then true
    when p.lane is not null then
      (p.lane = 'direct' and n.node_type <> 'SQL') or (p.lane = 'http' and n.node_type not like 'HTTP%')
    when n.status <> 'running' then true
    else n.node_type <> all (case p.timer_kind
      when 'sleep' then '{SLEEP}' when 'schedule' then '{WAIT_SCHEDULE}' when 'pace' then '{LOOP}'
      when 'retry' then '{SQL,HTTP,HTTP_MULTIPART}' else '{SIGNAL}' end::pg_catalog.text[])
  end;
$$;

-- Whether a scope belongs to what its run is doing now: neither lost, nor left by an earlier generation around it.
create or replace function df_engine.scope_current(p_instance varchar, p_scope varchar) returns boolean
language sql stable set search_path = '' as $$
  with recursive up as (
    select s.* from df_engine.scopes s where s.instance_id = p_instance and s.node_id = p_scope
    union all
    select s.* from up join df_engine.scopes s on s.instance_id = p_instance and s.node_id = up.parent
  )
  select bool_and(up.outcome is null and up.path = df_engine.stamp(p_instance, up.parent) || '::' || up.node_id) from up;
$$;

-- Runs that have not ended and that nothing will move; and branches, of which the same is true.
create or replace function df_engine.check_stuck()
returns table (problem text, instance_id text, node_id text, detail text)
language sql stable set search_path = '' as $$
  with recursive moved as (
    select p.instance_id, n._scope as scope
    from df_engine.pending_work p
    join df.nodes n on n.instance_id = p.instance_id and n.id = p.node_id
    union
    select m.instance_id, s.parent
    from moved m join df_engine.scopes s on s.instance_id = m.instance_id and s.node_id = m.scope
  )
  select 'nothing moves a run that has not ended', i.id::pg_catalog.text, null, 'it is ' || i._state
  from df.instances i
  where i._state in ('pending', 'running')
    and not exists (select from df_engine.pending_work p where p.instance_id = i.id)
  union all
  select 'nothing moves a branch that has not ended', s.instance_id, s.node_id, 'branch ' || s.branch || ' of ' || s.owner
  from df_engine.scopes s
  join df.instances i on i.id = s.instance_id and i._state in ('pending', 'running')
  where s.owner is not null and df_engine.scope_current(s.instance_id, s.node_id)
    and not exists (select from moved m where m.instance_id = s.instance_id and m.scope = s.node_id);
$$;

-- A scope runs one thing at a time: whatever runs side by side has a scope of its own.
create or replace function df_engine.check_doubled()
returns table (problem text, instance_id text, node_id text, detail text)
language sql stable set search_path = '' as $$
  select 'two threads of control in one scope', p.instance_id, min(p.node_id),
         string_agg(p.what || ' at ' || p.node_id, ', ' order by p.node_id, p.what)
  from df_engine.pending_work p
  join df.nodes n on n.instance_id = p.instance_id and n.id = p.node_id
  where p.timer_kind is distinct from 'timeout' and df_engine.scope_open(p.instance_id, n._scope)
  group by p.instance_id, n._scope
  having count(*) > 1;
$$;

-- JOINs that count their branches wrongly, races with no or two winners, ended runs whose root has not.
create or replace function df_engine.check_counts()
returns table (problem text, instance_id text, node_id text, detail text)
language sql stable set search_path = '' as $$
  select 'a ' || n.node_type || ' does not agree with its branches', n.instance_id, n.id,
         format('_open is %s, outcomes: %s', n._open, string_agg(coalesce(s.outcome, 'open'), ', ' order by s.branch))
  from df.nodes n
  join df_engine.scopes s on s.instance_id = n.instance_id and s.owner = n.id
  where n._open is not null
  group by n.instance_id, n.id, n.node_type, n._open
  having case n.node_type
    when 'JOIN' then n._open <> count(*) filter (where s.stripe is null and s.open > 0)
      or sum(s.open) filter (where s.stripe is null) <> count(*) filter (where s.outcome is null)
    else n._open * 2 <> count(*) filter (where s.outcome is null)
      or n._open + count(*) filter (where s.outcome = 'lost') <> 1 end
  union all
  select 'a run has ended and its root has not', i.id, i.root_node, format('the run is completed, the root %s', n.status)
  from df.instances i
  join df.nodes n on n.instance_id = i.id and n.id = i.root_node
  where i._state = 'completed' and n.status <> 'completed';
$$;

-- Scopes whose id does not follow from the scope around them, and names without a scope or without a node that binds them.
create or replace function df_engine.check_scopes()
returns table (problem text, instance_id text, node_id text, detail text)
language sql stable set search_path = '' as $$
  select 'a scope does not follow from the scope around it', s.instance_id, s.node_id, s.path
  from df_engine.scopes s
  join df.instances i on i.id = s.instance_id
  left join df_engine.scopes p on p.instance_id = s.instance_id and p.node_id = s.parent
  cross join lateral (select coalesce(p.path, i.id) || '::' as around,
                             case when s.parent is null then i._generation else p.generation end as generation) e
  where e.generation is null or s.path !~ ('^' || s.instance_id || '(::\d+::[0-9a-f]{8})*::\d+::' || s.node_id || '$')
     or starts_with(s.path, e.around)
        and substring(s.path from length(e.around) + 1 for strpos(substr(s.path, length(e.around) + 1), '::') - 1)::int
            > e.generation
  union all
  select 'a name without a scope', b.instance_id, nullif(b.scope, ''), b.name
  from df_engine.bindings b
  where b.scope <> ''
    and not exists (select from df_engine.scopes s where s.instance_id = b.instance_id and s.node_id = b.scope)
  union all
  select 'a name that no node binds', b.instance_id, nullif(b.scope, ''), b.name
  from df_engine.bindings b
  where not exists (select from df.nodes n where n.instance_id = b.instance_id and n.result_name = b.name);
$$;

-- Signals that were kept although a wait is open for them, or although the run has ended.
create or replace function df_engine.check_signals()
returns table (problem text, instance_id text, node_id text, detail text)
language sql stable set search_path = '' as $$
  select 'a kept signal and an open wait have not met', s.instance_id, w.node_id, 'signal ' || s.signal_id
  from df_engine.inbox s
  join df_engine.waits w on w.instance_id = s.instance_id and w.signal_name = s.signal_name
  where s.status = 'pending' and not s.fresh
  union all
  select 'a signal of a run that has ended is kept', s.instance_id, null, 'signal ' || s.signal_id
  from df_engine.inbox s
  join df.instances i on i.id = s.instance_id and i._state in ('completed', 'failed', 'cancelled')
  where s.status = 'pending' and not s.fresh;
$$;

-- Rows of runs, or of nodes, that are not there.
create or replace function df_engine.check_orphans()
returns table (problem text, instance_id text, node_id text, detail text)
language sql stable set search_path = '' as $$
  select 'a row without its run', o.instance_id::pg_catalog.text, o.node_id::pg_catalog.text, 'df_engine.ready'
  from df_engine.ready o
  where not exists (select from df.instances i where i.id = o.instance_id)
  union all
  select 'a row without its run', o.instance_id::pg_catalog.text, o.node_id::pg_catalog.text, 'df_engine.timers'
  from df_engine.timers o
  where not exists (select from df.instances i where i.id = o.instance_id)
  union all
  select 'a row without its run', o.instance_id::pg_catalog.text, o.node_id::pg_catalog.text, 'df_engine.waits'
  from df_engine.waits o
  where not exists (select from df.instances i where i.id = o.instance_id)
  union all
  select 'a row without its run', o.instance_id::pg_catalog.text, null::pg_catalog.text, 'df_engine.inbox'
  from df_engine.inbox o
  where not exists (select from df.instances i where i.id = o.instance_id)
  union all
  select 'a row without its run', o.instance_id::pg_catalog.text, o.node_id::pg_catalog.text, 'df_engine.scopes'
  from df_engine.scopes o
  where not exists (select from df.instances i where i.id = o.instance_id)
  union all
  select 'a row without its node', o.instance_id, o.node_id, 'df_engine.scopes'
  from df_engine.scopes o
  where exists (select from df.instances i where i.id = o.instance_id)
    and not exists (select from df.nodes n where n.instance_id = o.instance_id and n.id = o.node_id)
  union all
  select 'a row without its run', o.instance_id::pg_catalog.text, nullif(o.scope, '')::pg_catalog.text, 'df_engine.bindings'
  from df_engine.bindings o
  where not exists (select from df.instances i where i.id = o.instance_id)
  union all
  select 'a row without its run', o.instance_id::pg_catalog.text, null::pg_catalog.text, 'df_engine.executions'
  from df_engine.executions o
  where not exists (select from df.instances i where i.id = o.instance_id)
  union all
  select 'a row without its run', o.instance_id::pg_catalog.text, o.node_id::pg_catalog.text, 'df_engine.attempts'
  from df_engine.attempts o
  where not exists (select from df.instances i where i.id = o.instance_id)
  union all
  select 'a row without its node', o.instance_id, o.node_id, 'df_engine.attempts'
  from df_engine.attempts o
  where exists (select from df.instances i where i.id = o.instance_id)
    and not exists (select from df.nodes n where n.instance_id = o.instance_id and n.id = o.node_id)
  ;
$$;

create or replace function df.check()
returns table (problem text, instance_id text, node_id text, detail text)
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
  select c.* from df_engine.check_left_over() c union all
  select c.* from df_engine.check_misplaced() c union all
  select c.* from df_engine.check_stuck() c union all
  select c.* from df_engine.check_doubled() c union all
  select c.* from df_engine.check_counts() c union all
  select c.* from df_engine.check_scopes() c union all
  select c.* from df_engine.check_signals() c union all
  select c.* from df_engine.check_orphans() c
$$;
revoke all on function df.check() from public;
comment on function df.check() is
  'Looks through the engine''s tables for anything that must not be: one row a problem, none when all is well. For '
  'administrators; it reads all runs.';

-- Epilogue: privileges that PUBLIC must not have, the version, what existing users need of it, the worker role given.

revoke all on all routines in schema df_engine from public;

update df_engine.release set version = '0.6.0', installed_at = now() where version <> '0.6.0';

do $grants$
begin
  perform df_engine.renew_grants();
  if nullif(current_setting('pg_durable.worker_role', true), '') is not null then
    perform df.grant_worker(current_setting('pg_durable.worker_role'));
  end if;
end
$grants$;

commit;
