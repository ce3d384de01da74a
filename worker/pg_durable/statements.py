"""Every statement this package sends, by name: calls of stored functions and procedures, and plain session commands."""

# On the supervising connection.
REGISTER = "select df_engine.register_worker()"
UNREGISTER = "select df_engine.unregister_worker(%s)"
TICK = "call df_engine.tick(%s, null)"
SAY_IDLE = "select df_engine.say_idle(%s, %s)"
FAIL_STOPPED = "select df_engine.fail_stopped(%s, %s, %s, %s, %s)"
RAISE_CRASH_SCORE = "select df_engine.raise_crash_score(%s, %s, %s, %s)"
CLEAR_CRASH_SCORES = "select df_engine.clear_crash_scores(%s, %s::bigint[])"
ROLE_UNREACHABLE = "select df_engine.role_unreachable(%s, %s, %s)"
ROLE_WAITS = "select df_engine.role_waits(%s, %s)"
ROLE_REACHABLE = "select df_engine.role_reachable(%s)"
CLAIM_LEASED = """
select l.ticket, l.role, l.database,
       l.database is null or exists (select from pg_catalog.pg_database d where d.datname = l.database),
       l.request, l.bytes,
       case when l.request operator(pg_catalog.?) 'secrets' then df_engine.leased_secrets(%s, l.ticket) end
from df_engine.claim_leased(%s, %s, %s, %s, %s::name[]) l"""
COMPLETE_LEASED = "select df_engine.complete_leased(%s, %s, pg_catalog.convert_from(%b, 'UTF8')::pg_catalog.json)"
RELEASE_LEASED = "select df_engine.release_leased(%s, %s::bigint[])"
NOTE_SHORT_OF_BYTES = "select df_engine.note_short_of_bytes(%s, %s::bigint[], %s::name[])"
NOTE_PROGRESS = "select df_engine.note_progress(%s, %s, %s)"
FAILED_RUNS = "select df_engine.failed_since(%s)"
LISTEN = "select df_engine.listen_for_work()"
UNLISTEN = "unlisten *"

# On the connection of the metrics collector.
RUN_METRICS = "select df_engine.run_metrics(%s::jsonb, %s::double precision[])"

# On the connection of the tracer.
TAKE_SPANS = "select df_engine.take_spans()"

# In the session of a role.
WORK = "call df_engine.work(%s, %s, null)"
IDENTIFY = """
select oid, pg_catalog.current_setting('statement_timeout'), pg_catalog.current_setting('transaction_timeout', true)
from pg_catalog.pg_roles where rolname = session_user"""

# In the session of a role, for a step that cannot be in a transaction.
NAME_STEP = "select pg_catalog.set_config('application_name', %s, false)"
STEP_RESULT = "select pg_catalog.current_setting('df.step_result')"
STEP_RESULT_SIZE = "select pg_catalog.octet_length(pg_catalog.current_setting('df.step_result'))"
DISCARD_ALL = "discard all"
TYPE_NAMES = """
select pg_catalog.format_type(t.oid, t.modifier)
from rows from (pg_catalog.unnest(%s::oid[]), pg_catalog.unnest(%s::int[])) with ordinality t(oid, modifier, place)
order by t.place"""
RENDER_ROW = "select pg_catalog.row_to_json(r)::text from (select {}) r"

# Installation and development.
INSTALL_OPTIONS = """
select pg_catalog.set_config('pg_durable.operator_schema', %s, true),
       pg_catalog.set_config('pg_durable.worker_role', %s, true)"""
INSTALLED = """
select r.version, pg_catalog.current_database(),
       pg_catalog.format('pg_durable %s is installed in database %I', r.version, pg_catalog.current_database())
from df_engine.release r"""
DEV_OBJECTS = {
    "app": "create role app login",
    "durable_worker": "create role durable_worker login",
    "durable": "create database durable encoding 'UTF8' template template0",
}
DEV_EXISTS = """
select true from pg_catalog.pg_roles where rolname = %(name)s
union all
select true from pg_catalog.pg_database where datname = %(name)s"""
DEV_GRANTS = "grant create on schema public to app; select df.grant_usage('app', include_http => true)"
