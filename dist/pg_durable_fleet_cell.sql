-- pg_durable_fleet_cell 1.0.0 (built 2026-11-28 00:00:00 UTC): part of pg_durable, for PostgreSQL 14 to 18.
--
--   psql -v ON_ERROR_STOP=1 -f pg_durable_fleet_cell.sql
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

-- A cell's side of a fleet: one view, whose one row the fleet updates with what it asks, through postgres_fdw, which
-- calls no functions. Everything is done as the role that asks, by the public functions of df: who may do nothing there
-- may do nothing here.

do $owner$
declare
  v_schema text;
  v_owner text;
begin
  if to_regnamespace('df') is null or to_regnamespace('df_engine') is null then
    raise exception 'pg_durable is not installed in database "%"', current_database()
      using errcode = 'object_not_in_prerequisite_state',
        hint = 'Install dist/pg_durable.sql first: a cell is a database with pg_durable.';
  end if;
  select n.nspname, pg_get_userbyid(n.nspowner) into v_schema, v_owner
  from pg_namespace n
  where n.nspname in ('df', 'fleet_cell') and n.nspowner <> quote_ident(current_user)::regrole
    order by n.nspname limit 1;
  if found then  -- whoever owns the trigger acts as those whose requests it answers
    raise exception 'schema "%" belongs to role "%", and this is "%"', v_schema, v_owner, current_user
      using errcode = 'insufficient_privilege', hint = 'Install as the role that owns pg_durable.';
  end if;
end
$owner$;

create schema if not exists fleet_cell;
comment on schema fleet_cell is 'pg_durable: what a fleet asks of this database';

-- The newest runs that the caller sees, after a point in their order. A page of ids is found by index, like that of
-- df.list_instances.
create or replace function fleet_cell.instances(p_asked jsonb) returns jsonb
language sql set search_path = pg_catalog, pg_temp set jit = off set enable_seqscan = off as $$
  select coalesce(jsonb_agg(to_jsonb(i) order by i.created_at desc, i.id), '[]')
  from df.instances i
  where i.id = any (array(
    select r.id
    from df_engine.visible_runs r
    where r.instance = any (df_engine.page_of_instances(
      (select k.key from df_engine.own_key k), quote_ident(current_user)::regrole, p_asked ->> 'status',
        p_asked ->> 'label',
      (p_asked ->> 'after')::timestamptz, p_asked ->> 'after_id', (p_asked ->> 'limit')::int))))
$$;
comment on function fleet_cell.instances(jsonb) is 'A page of the runs that the caller sees, as JSON';

create or replace function fleet_cell.failed_steps(p_asked jsonb) returns jsonb
language sql set search_path = pg_catalog, pg_temp set jit = off set enable_seqscan = off as $$
  select coalesce(jsonb_agg(to_jsonb(p) || jsonb_build_object('key', i.key) order by p.failed_at desc, p.instance_id,
    p.node_id), '[]')
  from (select f.* from df.failed_steps f
        where p_asked ->> 'after' is null or f.failed_at < (p_asked ->> 'after')::timestamptz
           or f.failed_at = (p_asked ->> 'after')::timestamptz and concat(f.instance_id,
             f.node_id) > p_asked ->> 'after_id'
        order by f.failed_at desc, f.instance_id, f.node_id limit (p_asked ->> 'limit')::int) p
  left join df.instances i on i.id = p.instance_id
$$;
comment on function fleet_cell.failed_steps(jsonb) is 'A page of the failed steps that the caller sees, as JSON';

create or replace function fleet_cell.queue() returns jsonb
language sql set search_path = pg_catalog, pg_temp set jit = off set enable_seqscan = off as $$
  select coalesce(jsonb_agg(to_jsonb(q)), '[]') from df.queue q
$$;
comment on function fleet_cell.queue() is 'df.queue as the caller sees it, as JSON';

create or replace function fleet_cell.status() returns jsonb
language sql set search_path = pg_catalog, pg_temp set jit = off set enable_seqscan = off as $$
  select jsonb_build_object(
    'version', split_part(df.version(), ' ', 1), 'database', current_database(), 'role', current_user,
    'workers', (select count(*) from df.workers w where w.alive),
    'ready', coalesce(sum(q.ready), 0), 'running', coalesce(sum(q.running), 0))
  from df.queue q
$$;
comment on function fleet_cell.status() is 'How the cell is, as the caller sees it, as JSON';

-- Found by a start that never comes to be.
create or replace function fleet_cell.has_key(p_key text) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform df.start('select 1', key => p_key, on_conflict => 'error');
  raise exception 'nobody has the key' using errcode = 'DF000';
exception
  when sqlstate 'DF409' then
    return true;
  when sqlstate 'DF000' or program_limit_exceeded then
    return false;
end
$$;
comment on function fleet_cell.has_key(text) is 'Whether a run of the caller has the key of a start';

-- Statement by statement, with what is asked most first: PL/pgSQL prepares an expression anew in each transaction.
create or replace function fleet_cell.answer() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  p constant jsonb := new.arguments;
begin
  if new.verb = 'start' then
    if p ->> 'traceparent' is not null then
      perform set_config('df.traceparent', p ->> 'traceparent', true);
    end if;
    new.answer := to_jsonb(df.start(
      p ->> 'flow', p ->> 'label', p ->> 'database', 'caller', nullif(p -> 'input', 'null'), p ->> 'key',
      p ->> 'on_conflict', (p ->> 'start_at')::timestamptz, (p ->> 'priority')::int));
  elsif new.verb = 'status' then
    new.answer := to_jsonb(df.status(p ->> 'id'));
  elsif new.verb = 'result' then
    new.answer := to_jsonb(df.result(p ->> 'id'));
  elsif new.verb = 'signal' then
    new.answer := to_jsonb(df.signal(p ->> 'id', p ->> 'name', p ->> 'data'));
  elsif new.verb = 'cancel' then
    new.answer := to_jsonb(df.cancel(p ->> 'id', p ->> 'reason', (p ->> 'undo')::boolean));
  elsif new.verb = 'resume' then
    new.answer := to_jsonb(df.resume(p ->> 'id', nullif(p -> 'input', 'null')));
  elsif new.verb = 'has_key' then
    new.answer := to_jsonb(fleet_cell.has_key(p ->> 'key'));
  elsif new.verb = 'instances' then
    new.answer := fleet_cell.instances(p);
  elsif new.verb = 'failed_steps' then
    new.answer := fleet_cell.failed_steps(p);
  elsif new.verb = 'queue' then
    new.answer := fleet_cell.queue();
  elsif new.verb = 'cell_status' then
    new.answer := fleet_cell.status();
  end if;
  return new;
end
$$;
comment on function fleet_cell.answer() is 'Does, as the role that updates fleet_cell.requests, what the row asks';

create or replace view fleet_cell.requests as
  select null::text as verb, null::jsonb as arguments, null::jsonb as answer;
comment on view fleet_cell.requests is
  'What a fleet asks: its one row is updated with a verb and its arguments, and returned with the answer. Nothing '
  'is stored';

create or replace trigger requests_answered instead of update on fleet_cell.requests
  for each row execute function fleet_cell.answer();

-- Who may use pg_durable may use it through a fleet; df refuses all others, for everything here is done as the caller.
grant usage on schema fleet_cell to public;
grant select, update on fleet_cell.requests to public;

commit;
