-- The yardstick: compiled chains, outcomes that are appended, one row of a queue. A measure, not an engine: see yardstick.py.
drop schema if exists yardstick cascade;
create schema yardstick;
create table yardstick.program (
  id bigint generated always as identity primary key,
  hash bytea not null unique,
  envelope text not null,
  sql text[] not null,      -- statement of each op
  rows boolean[] not null,
  next int[] not null,
  plain boolean[] not null,
  names text[] not null
);
create table yardstick.run (
  id bigint generated always as identity primary key,
  submitter oid not null,
  program bigint not null,
  label text,
  state text not null default 'pending',
  generation int not null default 1,
  created_at timestamptz not null default now(),
  finished_at timestamptz,
  error text,
  vars jsonb,
  constraint c1 check (state = any ('{pending,running,completed,failed,cancelled}'::text[]))
) with (fillfactor = 85);
create index run_status on yardstick.run(state, created_at desc, id);
create index run_created on yardstick.run(created_at desc, id);
create table yardstick.thread (
  id bigint generated always as identity,
  submitter oid not null,
  lane "char" not null default 's',
  run bigint not null,
  op int not null,
  picked boolean not null default false,
  deaths smallint not null default 0,
  primary key (lane, submitter, id)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
create index thread_run on yardstick.thread(run);
create table yardstick.outcome (
  run bigint not null,
  op int not null,
  generation int not null default 1,
  attempt smallint not null default 1,
  started_at timestamptz,
  ended_at timestamptz,
  value json,
  error text,
  primary key (run, op)
);

-- compile a trivial chain (spike only)
create or replace function yardstick.program_of(p_env text, p_sqls text[]) returns bigint language plpgsql security definer set search_path = '' as $$
declare v_id bigint; v_hash bytea := pg_catalog.sha256(p_env::bytea);
begin
  select p.id into v_id from yardstick.program p where p.hash = v_hash;
  if v_id is null then
    insert into yardstick.program(hash, envelope, sql, rows, next, plain, names)
    select v_hash, p_env, p_sqls, array_agg(s ~* 'returning|select' order by o), array_agg(case when o < cardinality(p_sqls) then o::int + 1 end order by o), array_agg(true), array_agg(null::text)
    from unnest(p_sqls) with ordinality u(s, o)
    on conflict (hash) do nothing returning id into v_id;
    if v_id is null then select p.id into v_id from yardstick.program p where p.hash = v_hash; end if;
  end if;
  return v_id;
end $$;
create or replace function yardstick.insert_run(p_role oid, p_prog bigint, p_label text) returns bigint language plpgsql security definer set search_path = '' as $$
declare v_id bigint;
begin
  insert into yardstick.run(submitter, program, label) values (p_role, p_prog, p_label) returning id into v_id;
  insert into yardstick.thread(submitter, run, op) values (p_role, v_id, 1);
  return v_id;
end $$;
create or replace function yardstick.start(p_env text, p_sqls text[], p_label text) returns bigint language plpgsql set search_path = '' as $$
begin
  return yardstick.insert_run(quote_ident(current_user)::pg_catalog.regrole, yardstick.program_of(p_env, p_sqls), p_label);
end $$;

create type yardstick.step as (op int, sql text, rows boolean, plain boolean, next int);
create or replace function yardstick.claim(p_key text, inout p_low bigint, out p_thread bigint, out p_version xid, out p_run bigint, out p_steps yardstick.step[])
language plpgsql security definer set search_path = '' set plan_cache_mode = 'force_generic_plan' set enable_seqscan = off as $$
declare
  v_role constant oid := quote_ident(session_user)::pg_catalog.regrole;
  v record; v_prog bigint; v_state text; v_op int;
begin
  select r.id, r.run, r.op, r.xmin, r.picked into v from yardstick.thread r
  where r.lane = 's' and r.submitter = v_role and r.id >= p_low order by r.id limit 1 for update skip locked;
  if v.id is null then
    select r.id, r.run, r.op, r.xmin, r.picked into v from yardstick.thread r
    where r.lane = 's' and r.submitter = v_role and r.id >= 0 order by r.id limit 1 for update skip locked;
    if v.id is null then return; end if;
  end if;
  p_low := v.id; p_thread := v.id; p_version := v.xmin; p_run := v.run;
  select r.program, r.state into v_prog, v_state from yardstick.run r where r.id = p_run and r.submitter = v_role;
  if v_state not in ('pending', 'running') then return; end if;
  v_op := coalesce((select max(x.op) + 1 from yardstick.outcome x where x.run = p_run), v.op);
  if v_op > v.op then
    update yardstick.thread t set op = v_op where t.lane = 's' and t.submitter = v_role and t.id = v.id returning t.xmin into p_version;
    p_version := pg_catalog.pg_current_xact_id()::pg_catalog.xid;
  end if;
  select array(select row(o, p.sql[o], p.rows[o], p.plain[o], p.next[o])::yardstick.step from generate_series(v_op, cardinality(p.sql)) o)
  into p_steps from yardstick.program p where p.id = v_prog;
  perform set_config('application_name', 'pg_durable:' || p_run || ':' || v.op, true);
end $$;
-- The driver, lean: after each COMMIT PL/pgSQL prepares every expression anew, so few of them; json keeps columns and their order by itself.
create or replace function yardstick.rows_of(p_sql text) returns json language plpgsql as $$
declare v_row record; v_rows text; 
begin
  for v_row in execute p_sql loop
    v_rows := pg_catalog.concat_ws(',', v_rows, pg_catalog.row_to_json(v_row));
  end loop;
  return v_rows;
end $$;
create or replace function yardstick.record(p_key text, p_thread bigint, p_run bigint, p_op int, p_next int, p_value json, p_started timestamptz) returns boolean
language plpgsql security definer set search_path = '' set enable_seqscan = off as $$
begin
  insert into yardstick.outcome(run, op, generation, started_at, ended_at, value)
  select p_run, p_op, r.generation, p_started, clock_timestamp(), p_value
  from yardstick.run r where r.id = p_run and r.submitter = quote_ident(session_user)::pg_catalog.regrole and r.state = any ('{pending,running}') for key share;
  if not found then return false; end if;
  if p_next is null then
    update yardstick.run r set state = 'completed', finished_at = clock_timestamp() where r.id = p_run;
    delete from yardstick.thread t where t.lane = 's' and t.submitter = quote_ident(session_user)::pg_catalog.regrole and t.id = p_thread;
  end if;
  return true;
end $$;
create or replace function yardstick.hold(p_thread bigint, p_version xid, p_name text) returns boolean
language plpgsql security definer set search_path = '' set enable_seqscan = off as $$
begin
  perform set_config('application_name', p_name, true)
  from (select from yardstick.thread r where r.lane = 's' and r.submitter = quote_ident(session_user)::pg_catalog.regrole and r.id = p_thread and r.xmin = p_version and r.deaths = 0 for update skip locked) h;
  return found;
end $$;
create or replace procedure yardstick.work(inout p_done int) language plpgsql as $$
declare
  v_key text := 'k'; v_claim record; v_steps yardstick.step[]; v_step yardstick.step; v_at int; v_json json; v_started timestamptz; v_held boolean := false; v_low bigint := 0; v_code text; v_thread bigint; v_version xid; v_run bigint; v_next int;
begin
  p_done := 0;
  loop
    reset all; deallocate all; execute 'close all'; unlisten *;
    v_started := pg_catalog.clock_timestamp();
    if v_held and yardstick.hold(v_thread, v_version, pg_catalog.concat('pg_durable:', v_run, ':', v_next)) then
      v_at := v_at + 1;
    else
      select c.p_low, c.p_thread, c.p_version, c.p_run, c.p_steps, 1 into v_low, v_thread, v_version, v_run, v_steps, v_at from yardstick.claim(v_key, v_low) c;
      exit when v_thread is null;
    end if;
    v_step := v_steps[v_at];
    v_next := v_step.next;
    begin
      if v_step.rows then v_json := yardstick.rows_of(v_step.sql);
      else execute v_step.sql; end if;
      set constraints all immediate;
    exception when others or query_canceled or assert_failure then
      get stacked diagnostics v_code = returned_sqlstate;
      raise;
    end;
    reset default_transaction_isolation; reset default_transaction_read_only; reset role;
    if not yardstick.record(v_key, v_thread, v_run, v_step.op, v_next, v_json, v_started) then raise exception 'lost'; end if;
    commit;
    v_held := v_next is not null;
    p_done := p_done + 1;
  end loop;
end $$;
grant execute on all functions in schema yardstick to public;
grant execute on all procedures in schema yardstick to public;
