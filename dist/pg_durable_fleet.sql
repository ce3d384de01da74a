-- pg_durable_fleet 1.0.0 (built 2026-11-28 00:00:00 UTC): part of pg_durable, for PostgreSQL 14 to 18.
--
--   psql -v ON_ERROR_STOP=1 -f pg_durable_fleet.sql
--
-- One transaction; no superuser needed; run again it changes nothing. Generated: do not edit.
\set QUIET on
begin;
-- body
-- The beginning of whatever is installed by a file of its own.

set local client_min_messages = warning;
set local search_path = pg_catalog, pg_temp;
set local check_function_bodies = off;

do $check$
begin
  if current_setting('server_version_num')::int < 140000 then
    raise exception 'pg_durable needs PostgreSQL 14 or later, this is %', current_setting('server_version')
      using errcode = 'feature_not_supported';
  end if;
end
$check$;

-- A fleet: databases with pg_durable, its cells, each whole in itself. A start goes to a cell by the hash of its key.
-- What is here is a table of cells, one of places, and functions that ask the cells through postgres_fdw, as the
-- caller, with the caller's user mapping. Nothing here runs with other rights than the caller's. pg_durable need not
-- be installed in this database.
--
-- A key belongs to one of 1024 buckets for ever. A place says where a bucket is, or was: its number is
-- the bucket, plus 1024 for each cell the bucket has moved to. The first three digits of a fleet's id
-- are a place, so an id leads to its cell for ever, also after its bucket has moved: cells make their ids alike, and
-- 2f7-a1b2c3d4 is not af7-a1b2c3d4.

do $owner$
declare
  v_owner text := (select pg_get_userbyid(n.nspowner) from pg_namespace n where n.nspname = 'fleet');
begin
  if v_owner <> current_user then
    raise exception 'schema "fleet" belongs to role "%", and this is "%"', v_owner, current_user
      using errcode = 'insufficient_privilege',
        hint = 'If it is pg_durable''s, install as that role. If not, rename or drop it.';
  elsif v_owner is not null and to_regclass('fleet.cells') is null then
    raise exception 'schema "fleet" exists and is not pg_durable''s'
      using errcode = 'duplicate_schema', hint = 'Rename or drop schema "fleet", then install again.';
  end if;
end
$owner$;

create schema if not exists fleet;
comment on schema fleet is
  'pg_durable: a fleet of databases with pg_durable. GRANT USAGE lets a role use it; what it may do in a cell its '
  'user mapping says';

create table if not exists fleet.cells (
  number int not null constraint cells_pkey primary key constraint cells_number_check check (number > 0),
  name text not null constraint cells_name_key unique constraint cells_name_check check (name <> ''),
  server text not null,
  state text not null default 'active' constraint cells_state_check check (state in ('active', 'drained')),
  added_at timestamptz not null default now()
);
comment on table fleet.cells is
  'The cells: a name, the foreign server that leads there, and whether it gets buckets (active) or no new runs '
  '(drained)';

create table if not exists fleet.places (
  place int not null constraint places_pkey primary key
    constraint places_place_check check (place between 0 and 4095),
  cell int not null constraint places_cell_fkey references fleet.cells,
  is_current boolean not null
);
comment on table fleet.places is
  'Where the buckets are (is_current) and were: place = bucket + 1024 * n; the first three hex '
  'digits of a fleet''s id are one';
create unique index if not exists places_current_key on fleet.places ((place & 1023))
  where is_current;

create or replace view fleet.buckets as
  select p.place & 1023 as bucket, c.name as cell, p.place
  from fleet.places p join fleet.cells c on c.number = p.cell
  where p.is_current;
comment on view fleet.buckets is
  'Which cell the new runs of each bucket go to, and the place with which their ids begin';

grant select on fleet.cells, fleet.places, fleet.buckets to public;

-- Keys, buckets and ids. The hash can be made in any language: the first two bytes of the sha-256 of the key in UTF-8,
-- modulo 1024. What each start calls is PL/pgSQL: before version 18 PostgreSQL plans an SQL function at
-- each call.

create or replace function fleet.bucket(key text) returns int
language plpgsql immutable strict parallel safe set search_path = pg_catalog, pg_temp as $$
declare
  v_hash constant bytea := sha256(convert_to(coalesce(substring(key from '^[^{]*\{([^}]+)\}'), key), 'UTF8'));
begin
  return (get_byte(v_hash, 0) * 256 + get_byte(v_hash, 1)) & 1023;
end
$$;
comment on function fleet.bucket(text) is
  'The bucket of a key: a number from 0 to 1023. Of a key with braces only what they enclose '
  'counts, so that {customer 7} order 1 and {customer 7} order 2 are in one bucket, hence in one cell';

create or replace function fleet.cell_of(key text) returns text
language sql stable strict set search_path = pg_catalog, pg_temp as $$
  select b.cell from fleet.buckets b where b.bucket = fleet.bucket(cell_of.key)
$$;
comment on function fleet.cell_of(text) is
  'The cell that new runs with a key go to, where the data of their steps has to be; NULL while no cell has its '
  'bucket';

create or replace function fleet._id(p_place int, p_instance_id text) returns text
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
begin
  return lpad(to_hex(p_place), 3, '0') || '-' || p_instance_id;
end
$$;
comment on function fleet._id(int, text) is 'The id in the fleet of a run in the cell of a place';

-- A run that was started in the cell itself has any place of the cell: all of them lead to it.
create or replace function fleet._id_in_cell(p_cell int, p_key text, p_instance_id text) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select fleet._id((
    select p.place from fleet.places p where p.cell = p_cell
    order by (p.place & 1023) is distinct from fleet.bucket(p_key), p.place limit 1), p_instance_id)
$$;
comment on function fleet._id_in_cell(int, text, text) is 'The id in the fleet of a run of a cell, by its key';

create or replace function fleet._cell_of_id(p_id text) returns int
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_cell int;
begin
  if p_id !~ '^[0-9a-f]{3}-[0-9a-f]{8}$' then
    raise exception 'invalid id "%"', p_id
      using errcode = 'invalid_parameter_value',
        hint = 'The id of a run in a fleet is what fleet.start has returned, such as 2f7-a1b2c3d4.';
  end if;
  select p.cell into v_cell from fleet.places p where p.place = ('x0' || substr(p_id, 1, 3))::bit(16)::int;
  if not found then
    raise exception 'run % is in no cell of this fleet', p_id
      using errcode = 'undefined_object', hint = 'Its cell has been removed, or it is a run of another fleet.';
  end if;
  return v_cell;
end
$$;
comment on function fleet._cell_of_id(text) is
  'The number of the cell in which a run is, by the place with which its id begins';

-- Asking cells. Each has a foreign table, cell_1, cell_2, ... by its number, over the view there whose one row is
-- updated with a request. postgres_fdw sends such an UPDATE as it is, in one message; an INSERT would be prepared at each call.

create or replace function fleet._ask(p_cell int, p_verb text, p_arguments jsonb) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_answer jsonb;
begin
  execute format('update fleet.cell_%s set verb = $1, arguments = $2 returning answer', p_cell)
  into v_answer using p_verb, p_arguments;
  return v_answer;
end
$$;
comment on function fleet._ask(int, text, jsonb) is
  'Lets a cell do something as the role of the caller''s user mapping, in the caller''s transaction; its answer';

create or replace function fleet._require_writable() returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if current_setting('transaction_read_only')::boolean then
    raise exception 'a fleet cannot be asked in a read-only transaction'
      using errcode = 'read_only_sql_transaction', hint = 'Requests are updates of foreign tables: BEGIN READ WRITE.';
  end if;
end
$$;
comment on function fleet._require_writable() is
  'Raises in a read-only transaction, in which foreign tables cannot be updated';

-- One cell after the other, each in a subtransaction. p_after: time, number of a cell, id: a point in the common order
-- of all cells, by time, newest first, then by cell, then by id. Of the time there a cell further back gives all, and
-- one before it nothing.
create or replace function fleet._ask_all(p_verb text, p_arguments jsonb default '{}', p_after text default null)
returns table (cell int, name text, answer jsonb, state text, error text)
language plpgsql set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  v_after constant text[] := fleet._parsed_cursor(p_after);
  v_detail text;
  c record;
begin
  perform fleet._require_writable();
  for c in select k.number, k.name from fleet.cells k order by k.number loop
    begin
      cell := c.number;
      name := c.name;
      state := null;
      error := null;
      answer := fleet._ask(c.number, p_verb, p_arguments || case when p_after is null then '{}' else jsonb_build_object(
        'after', v_after[1],
        'after_id', case when c.number < v_after[2]::int then 'g' when c.number > v_after[2]::int
          then '' else v_after[3] end) end);
    exception when others then
      get stacked diagnostics v_detail = pg_exception_detail;
      answer := null;
      state := sqlstate;
      error := concat_ws(': ', sqlerrm, nullif(v_detail, ''));
    end;
    return next;
  end loop;
end
$$;
comment on function fleet._ask_all(text, jsonb, text) is 'Asks all cells; of one that fails the SQLSTATE and the error';

create or replace function fleet._parsed_cursor(p_cursor text) returns text[]
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  v_parts constant text[] := regexp_match(p_cursor,
    '^(\d{4,6}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z),(\d{1,9}),([0-9a-f]{8,16})$');
begin
  if p_cursor is not null and v_parts is null then
    raise exception 'invalid after_cursor'
      using errcode = 'invalid_parameter_value',
        hint = 'Pass the column cursor of the last row of the page before, unchanged.';
  end if;
  return v_parts;
end
$$;
comment on function fleet._parsed_cursor(text) is 'Time, cell and id of a point in the order of a list';

create or replace function fleet._cursor(p_at timestamptz, p_cell int, p_id text) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  select concat_ws(',', to_char(p_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), p_cell, p_id)
$$;
comment on function fleet._cursor(timestamptz, int, text) is 'A point in the order of a list, as a text';

-- fleet.start: a start in the cell of its key. Reading fleet.places locks it until the caller's transaction ends, so
-- that buckets move only when no start is under way that goes by where they were.

-- A key that a kept run has in a cell where its bucket was stays there. p_is_new: no run can have it.
create or replace function fleet._place_of_key(p_key text, p_is_new boolean) returns fleet.places
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_bucket constant int := fleet.bucket(p_key);
  p fleet.places;
begin
  for p in
    select x.* from fleet.places x
    where (x.is_current or not p_is_new)
      and x.place in (v_bucket, v_bucket + 1024, v_bucket + 2048, v_bucket + 3072)
    order by x.is_current, x.place
  loop
    exit when p.is_current or fleet._ask(p.cell, 'has_key', jsonb_build_object('key', p_key)) = 'true';
  end loop;
  if p.place is null then
    raise exception 'no cell has bucket % of the key "%"', v_bucket, p_key
      using errcode = 'object_not_in_prerequisite_state',
            hint = 'The owner of the fleet gives cells their buckets: SELECT fleet.rebalance();';
  end if;
  return p;
end
$$;
comment on function fleet._place_of_key(text, boolean) is 'The place where a start with a key goes to';

create or replace function fleet.start(key text, flow text, label text default null, database text default null,
  input jsonb default null, on_conflict text default 'return', start_at timestamptz default null,
    priority integer default 0) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_key constant text := coalesce(key, gen_random_uuid()::text);
  p fleet.places;
begin
  perform fleet._require_writable();
  p := fleet._place_of_key(v_key, key is null);
  return fleet._id(p.place, fleet._ask(p.cell, 'start', jsonb_build_object(
    'flow', flow, 'label', label, 'database', database, 'input', input, 'key', v_key, 'on_conflict', on_conflict,
      'start_at', start_at,
    'priority', priority, 'traceparent', nullif(current_setting('df.traceparent', true), ''))) #>> '{}');
end
$$;
comment on function fleet.start(text, text, text, text, jsonb, text, timestamptz, integer) is
  'Starts a run in the cell of its key, as the role of the caller''s user mapping there, and returns its id in the '
  'fleet, such as 2f7-a1b2c3d4. The key is that of df.start, too: a repetition with it returns the id of the same '
  'run; NULL: one of its own. Of a key with braces what they enclose says where the run goes to. flow and the other '
  'arguments: as for df.start in the cell. Rolls back with the caller; the cell commits just before the caller does';

-- What is done with one run: its id says which cell is asked.

create or replace function fleet._ask_of(p_id text, p_verb text, p_arguments jsonb default '{}') returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform fleet._require_writable();
  return fleet._ask(fleet._cell_of_id(p_id), p_verb, jsonb_build_object('id', substr(p_id, 5)) || p_arguments) #>> '{}';
end
$$;
comment on function fleet._ask_of(text, text, jsonb) is
  'Lets the cell of a run do something with it; its answer as a text';

create or replace function fleet.status(id text) returns text
language plpgsql strict set search_path = pg_catalog, pg_temp as $$
begin
  return fleet._ask_of(id, 'status');
end
$$;
comment on function fleet.status(text) is
  'The status of a run, as df.status says it in its cell; NULL when it is unknown or invisible there. Within a '
  'transaction a cell says what was so when it was first asked';

create or replace function fleet.result(id text) returns text
language plpgsql strict set search_path = pg_catalog, pg_temp as $$
begin
  return fleet._ask_of(id, 'result');
end
$$;
comment on function fleet.result(text) is
  'The result of a completed run, a JSON text, as df.result; NULL while it runs, when it failed or was cancelled, '
  'or is invisible';

create or replace function fleet.signal(id text, name text, data text default '{}') returns text
language plpgsql strict set search_path = pg_catalog, pg_temp as $$
begin
  return fleet._ask_of(id, 'signal', jsonb_build_object('name', name, 'data', data));
end
$$;
comment on function fleet.signal(text, text, text) is
  'Sends a signal to a run, when the caller commits, as df.signal. Returns OK';

create or replace function fleet.cancel(id text, reason text default 'Cancelled by user', undo boolean default false)
  returns text
language plpgsql strict set search_path = pg_catalog, pg_temp as $$
begin
  return fleet._ask_of(id, 'cancel', jsonb_build_object('reason', reason, 'undo', undo));
end
$$;
comment on function fleet.cancel(text, text, boolean) is
  'Cancels a run when the caller commits, as df.cancel. Raises 40001 when a step of it commits at that moment: '
  'repeat it';

create or replace function fleet.resume(id text, input jsonb default null) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  return fleet._ask_of(id, 'resume', jsonb_build_object('input', input));
end
$$;
comment on function fleet.resume(text, jsonb) is
  'Lets a run go on that is paused, has failed or was cancelled, as df.resume. Returns OK';

-- Lists over all cells, and a view over each. A cell that fails is left out, with a warning; fleet.cell_status says
-- why.

create or replace function fleet._rows(p_verb text, p_arguments jsonb default '{}', p_after text default null)
returns table (cell int, name text, entry jsonb)
language plpgsql set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
  a record;
begin
  for a in select * from fleet._ask_all(p_verb, p_arguments, p_after) loop
    if a.state is not null then
      raise warning 'cell "%" is left out: %', a.name, a.error using errcode = a.state,
        hint = 'SELECT * FROM fleet.cell_status;';
    end if;
    return query select a.cell, a.name, e.value from jsonb_array_elements(a.answer) with ordinality e(value, place)
      order by e.place;
  end loop;
end
$$;
comment on function fleet._rows(text, jsonb, text) is
  'The rows that the cells answer; a cell that fails is left out, with a warning';

create or replace function fleet._page_size(p_limit int) returns int
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  if p_limit is null or p_limit not between 1 and 1000 then
    raise exception 'limit_count must be from 1 to 1000, not %', coalesce(p_limit::text, 'NULL')
      using errcode = 'invalid_parameter_value',
        hint = 'Read page by page, with after_cursor => the column cursor of the last row.';
  end if;
  return p_limit;
end
$$;
comment on function fleet._page_size(int) is 'The size of a page; raises when it is none';

create or replace function fleet.list_instances(
  status_filter text default null, limit_count int default 100, label_filter text default null,
  after_cursor text default null
) returns table (
  cell text, id text, label text, status text, submitted_by text, created_at timestamptz, updated_at timestamptz,
  finished_at timestamptz, error text, wait_reason text, key text, priority int, start_at timestamptz, definition text,
  undo_status text, cursor text
)
language sql set search_path = pg_catalog, pg_temp as $$
  select r.name, fleet._id_in_cell(r.cell, i.key, i.id), i.label, i.status, i.submitted_by, i.created_at, i.updated_at,
         i.finished_at, i.error, i.wait_reason, i.key, i.priority, i.start_at, i.definition, i.undo_status,
         fleet._cursor(i.created_at, r.cell, i.id)
  from fleet._rows(
    'instances', jsonb_build_object('status', status_filter, 'limit', limit_count, 'label', label_filter), after_cursor) r
  cross join lateral jsonb_to_record(r.entry) as i(
    id text, label text, status text, submitted_by text, created_at timestamptz, updated_at timestamptz,
    finished_at timestamptz, error text, wait_reason text, key text, priority int, start_at timestamptz,
    definition text, undo_status text)
  order by i.created_at desc, r.cell, i.id collate "C" limit fleet._page_size(limit_count)
$$;
comment on function fleet.list_instances(text, int, text, text) is
  'The newest runs of all cells that the caller''s user mappings see. after_cursor: the column cursor of the last '
  'row of the page before';

create or replace view fleet.instances as select * from fleet.list_instances(limit_count => 1000);
comment on view fleet.instances is
  'The newest 1000 runs of all cells: fleet.list_instances has pages and filters';

create or replace function fleet.list_failed_steps(
  limit_count int default 100, after_cursor text default null
) returns table (
  cell text, id text, label text, node_id text, node_type text, query text, submitted_by text, instance_status text,
  failed_at timestamptz, attempts int, error text, cursor text
)
language sql set search_path = pg_catalog, pg_temp as $$
  select r.name, fleet._id_in_cell(r.cell, f.key, f.instance_id), f.label, f.node_id, f.node_type, f.query,
         f.submitted_by, f.instance_status, f.failed_at, f.attempts, f.error,
         fleet._cursor(f.failed_at, r.cell, f.instance_id || f.node_id)
  from fleet._rows('failed_steps', jsonb_build_object('limit', limit_count), after_cursor) r
  cross join lateral jsonb_to_record(r.entry) as f(
    key text, instance_id text, label text, node_id text, node_type text, query text, submitted_by text,
    instance_status text, failed_at timestamptz, attempts int, error text)
  order by f.failed_at desc, r.cell, f.instance_id collate "C", f.node_id collate "C"
  limit fleet._page_size(limit_count)
$$;
comment on function fleet.list_failed_steps(int, text) is
  'The steps of all cells that failed last, as df.failed_steps. after_cursor: the column cursor of the last row of '
  'the page before';

create or replace view fleet.failed_steps as
  select * from fleet.list_failed_steps(limit_count => 1000);
comment on view fleet.failed_steps is
  'The 1000 steps of all cells that failed last: fleet.list_failed_steps has pages';

create or replace function fleet.list_queue() returns table (
  cell text, role text, lane text, ready bigint, oldest_age interval, running bigint, slots bigint, paused bigint,
  wait_reason text, limited bigint
)
language sql set search_path = pg_catalog, pg_temp as $$
  select r.name, q.*
  from fleet._rows('queue') r
  cross join lateral jsonb_to_record(r.entry) as q(
    role text, lane text, ready bigint, oldest_age interval, running bigint, slots bigint, paused bigint,
    wait_reason text, limited bigint)
$$;
comment on function fleet.list_queue() is 'What is ready to run, by cell, role and lane, as df.queue';

create or replace view fleet.queue as select * from fleet.list_queue();
comment on view fleet.queue is 'What is ready to run, by cell, role and lane, as df.queue';

create or replace function fleet.list_cells() returns table (
  cell text, server text, state text, buckets bigint, reachable boolean, role text, version text, workers int,
  ready bigint, running bigint, sqlstate text, error text
)
language sql set search_path = pg_catalog, pg_temp as $$
  select c.name, c.server, c.state, (select count(*) from fleet.places p where p.cell = c.number and p.is_current),
         a.state is null, s.role, s.version, s.workers, s.ready, s.running, a.state, a.error
  from fleet._ask_all('cell_status') a
  join fleet.cells c on c.number = a.cell
  cross join lateral jsonb_to_record(coalesce(a.answer, '{}')) as s(
    role text, version text, workers int, ready bigint, running bigint)
  order by c.number
$$;
comment on function fleet.list_cells() is
  'Each cell: its buckets; whether it answers the caller, as which role, with which version of pg_durable; workers '
  'that are alive there; what is ready and runs, as far as that role sees; the error of one that does not answer';

create or replace view fleet.cell_status as select * from fleet.list_cells();
comment on view fleet.cell_status is
  'Each cell: its buckets; whether it answers, as which role and with which version; its workers; what is ready and '
  'runs; the error of one that does not answer';

grant select on fleet.instances, fleet.failed_steps, fleet.queue, fleet.cell_status to public;

-- Cells come, get buckets, and go. For the owner of the fleet: others have no rights on its tables. Whoever moves
-- buckets waits until no transaction is open that has started a run by the table of places, and lets nobody start one
-- meanwhile.

create or replace function fleet._cell(p_name text) returns int
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_number constant int := (select c.number from fleet.cells c where c.name = p_name);
begin
  if v_number is null then
    raise exception 'there is no cell "%"', p_name using errcode = 'undefined_object',
      hint = 'SELECT name FROM fleet.cells;';
  end if;
  return v_number;
end
$$;
comment on function fleet._cell(text) is 'The number of a cell';

create or replace function fleet.add_cell(name text, server text) returns int
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_options text[];
  v_number int;
begin
  lock table fleet.cells in share row exclusive mode;
  select s.srvoptions into v_options
  from pg_foreign_server s join pg_foreign_data_wrapper w on w.oid = s.srvfdw
  where s.srvname = add_cell.server and w.fdwname = 'postgres_fdw';
  if not found then
    raise exception 'there is no server "%" of postgres_fdw', server
      using errcode = 'undefined_object',
            hint = format('CREATE SERVER %I FOREIGN DATA WRAPPER postgres_fdw '
                          'OPTIONS (host ..., dbname ..., connect_timeout ''5'');', server);
  elsif not exists (select from unnest(v_options) o(text) where o.text ~ '^connect_timeout=') then
    raise exception 'server "%" has no connect_timeout: a cell that does not answer would keep lists waiting', server
      using errcode = 'object_not_in_prerequisite_state',
        hint = format('ALTER SERVER %I OPTIONS (ADD connect_timeout ''5'');', server);
  elsif exists (select from fleet.cells c where c.name = add_cell.name) then
    raise exception 'there is a cell "%" already', name using errcode = 'duplicate_object';
  end if;
  v_number := (select coalesce(max(c.number), 0) + 1 from fleet.cells c);
  insert into fleet.cells (number, name, server) values (v_number, add_cell.name, add_cell.server);
  execute format('create foreign table fleet.cell_%s (verb text, arguments jsonb, answer jsonb) server %I
                  options (schema_name ''fleet_cell'', table_name ''requests'')', v_number, server);
  execute format('comment on foreign table fleet.cell_%s is %L', v_number,
    'What the fleet asks the cell ' || quote_ident(name));
  execute format('grant select, update on fleet.cell_%s to public', v_number);
  return v_number;
end
$$;
comment on function fleet.add_cell(text, text) is
  'Adds a database with pg_durable and pg_durable_fleet_cell.sql to the fleet, by the name of a foreign server of '
  'postgres_fdw that leads there. It gets no runs before fleet.rebalance or fleet.move_buckets. Returns its number. '
  'For the owner of the fleet';

-- Lets the starts of a bucket go to a cell: back to the place that it has there, or to the first that is free.
create or replace function fleet._move_bucket(p_bucket int, p_cell int) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_place constant int := (
    select g.place from generate_series(p_bucket, 4095, 1024) g(place)
    left join fleet.places p on p.place = g.place
    where p.cell = p_cell or p.place is null order by p.place is null, g.place limit 1);
begin
  if v_place is null then
    raise exception 'bucket % has been in 4 cells, and has no place in another', p_bucket
      using errcode = 'program_limit_exceeded',
        hint = 'fleet.remove_cell gives back the places of a drained cell whose runs nobody needs any more.';
  end if;
  update fleet.places p set is_current = false
  where p.is_current
    and p.place in (p_bucket, p_bucket + 1024, p_bucket + 2048, p_bucket + 3072);
  insert into fleet.places as p (place, cell, is_current) values (v_place, p_cell, true)
  on conflict (place) do update set is_current = true;
end
$$;
comment on function fleet._move_bucket(int, int) is 'Lets the new runs of a bucket go to a cell';

create or replace function fleet.move_buckets(cell text, buckets int[]) returns int
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_cell constant int := fleet._cell(cell);
  v_bucket int;
  v_moved int := 0;
begin
  lock table fleet.places in access exclusive mode;
  if exists (select from fleet.cells c where c.number = v_cell and c.state = 'drained') then
    raise exception 'cell "%" is drained', cell
      using errcode = 'object_not_in_prerequisite_state', hint = format('SELECT fleet.undrain(%L);', cell);
  elsif exists (select from unnest(buckets) b(bucket) where b.bucket not between 0 and 1023
    or b.bucket is null) then
    raise exception 'buckets are numbers from 0 to 1023' using errcode = 'invalid_parameter_value',
      hint = 'SELECT fleet.bucket(key) gives that of a key.';
  end if;
  foreach v_bucket in array array(
    select distinct b.bucket from unnest(buckets) b(bucket)
    where not exists (select from fleet.places p where p.is_current and p.cell = v_cell
      and p.place & 1023 = b.bucket)
    order by 1)
  loop
    perform fleet._move_bucket(v_bucket, v_cell);
    v_moved := v_moved + 1;
  end loop;
  return v_moved;
end
$$;
comment on function fleet.move_buckets(text, int[]) is
  'Lets the new runs of some buckets go to a cell, and returns how many of them have moved. Runs stay where they '
  'are, and so do keys that a kept run has: a start with one of them goes to its cell. For the owner of the fleet';

-- The fewest moves after which every active cell has as many buckets as any other, or one more.
create or replace function fleet.rebalance() returns int
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_cells constant int := (select count(*) from fleet.cells c where c.state = 'active');
  v_moved int := 0;
  m record;
begin
  lock table fleet.places in access exclusive mode;
  if v_cells = 0 then
    raise exception 'no cell is active' using errcode = 'object_not_in_prerequisite_state',
      hint = 'SELECT fleet.add_cell(''c1'', ''server''); or fleet.undrain one that is drained.';
  end if;
  for m in
    with bucket as (
      select b.bucket, p.cell from generate_series(0, 1023) b(bucket)
      left join fleet.places p on p.is_current and p.place & 1023 = b.bucket
    ), counted as (
      select c.number, (select count(*) from bucket b where b.cell = c.number) as has from fleet.cells c
        where c.state = 'active'
    ), share as (
      select c.number, c.has, 1024 / v_cells
               + (row_number() over (order by c.has desc, c.number) <= 1024 % v_cells)::int as gets
      from counted c
    ), excess as (
      select x.bucket, row_number() over (order by x.bucket) as n
      from (select b.bucket, row_number() over (partition by b.cell order by b.bucket) as rank, s.gets
            from bucket b left join share s on s.number = b.cell) x
      where x.gets is null or x.rank > x.gets
    ), vacancy as (
      select s.number, row_number() over (order by v.slot - s.has, s.number) as n
      from share s cross join lateral generate_series(s.has + 1, s.gets) v(slot)
    )
    select e.bucket, v.number from excess e join vacancy v using (n) order by e.bucket
  loop
    perform fleet._move_bucket(m.bucket, m.number);
    v_moved := v_moved + 1;
  end loop;
  return v_moved;
end
$$;
comment on function fleet.rebalance() is
  'Shares the buckets among the active cells, with as few moves as possible, and returns how many have moved. Runs '
  'and the keys of kept runs stay where they are. For the owner of the fleet';

create or replace function fleet.drain(cell text) returns int
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  update fleet.cells c set state = 'drained' where c.number = fleet._cell(cell);
  return fleet.rebalance();
end
$$;
comment on function fleet.drain(text) is
  'Gives the buckets of a cell to the others, and returns how many have moved: it gets no new runs, those that it '
  'has end there, and repetitions with their keys find them. For the owner of the fleet';

create or replace function fleet.undrain(cell text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  update fleet.cells c set state = 'active' where c.number = fleet._cell(cell);
end
$$;
comment on function fleet.undrain(text) is
  'Makes a drained cell active again: it gets buckets with fleet.rebalance or fleet.move_buckets. For the owner of '
  'the fleet';

create or replace function fleet.remove_cell(cell text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_cell constant int := fleet._cell(cell);
begin
  lock table fleet.places in access exclusive mode;
  if exists (select from fleet.cells c where c.number = v_cell and c.state <> 'drained')
     or exists (select from fleet.places p where p.cell = v_cell and p.is_current) then
    raise exception 'cell "%" is not drained', cell
      using errcode = 'object_not_in_prerequisite_state',
        hint = format('SELECT fleet.drain(%L); and let its runs end.', cell);
  end if;
  delete from fleet.places p where p.cell = v_cell;
  delete from fleet.cells c where c.number = v_cell;
  execute format('drop foreign table if exists fleet.cell_%s', v_cell);
end
$$;
comment on function fleet.remove_cell(text) is
  'Forgets a cell that is drained: the fleet knows neither its runs nor the keys they have any more. In the cell '
  'nothing changes. For the owner of the fleet';

create or replace function fleet.version() returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select '1.0.0 (built 2026-11-28 00:00:00 UTC)'
$$;
comment on function fleet.version() is 'Version and build time of the installed fleet';

revoke all on function fleet.add_cell(text, text), fleet._move_bucket(int, int), fleet.move_buckets(text, int[]),
  fleet.rebalance(),
  fleet.drain(text), fleet.undrain(text), fleet.remove_cell(text) from public;

commit;
