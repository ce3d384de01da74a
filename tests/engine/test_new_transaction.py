"""transaction_mode 'new': refusals everywhere; starts, slots and identity where dblink can be had."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from generator.render import artifacts
from tests.cluster import Cluster
from tests.state import BOUND_VARIABLE, LAUNCHES, SLOT_TAKEN
from tests.support import Database, Server, install, wait_until

WRONG_CONTEXT = psycopg.errors.ObjectNotInPrerequisiteState
START = "select df.start('SELECT 1', 'apart', transaction_mode => 'new')"


def dblink_available(dsn: str) -> bool:
    with psycopg.connect(dsn) as conn:
        return bool(conn.execute("select 1 from pg_available_extensions where name = 'dblink'").fetchone())


@pytest.fixture(scope="module")
def system_server() -> Iterator[Server]:
    """A server of the installed PostgreSQL, with contrib, run by an ordinary user."""
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not binaries:
        pytest.skip("no PostgreSQL with dblink is installed")
    with Cluster(binaries[-1]) as cluster:
        yield Server(cluster.dsn())


@pytest.fixture
def linked(server: Server, request: pytest.FixtureRequest) -> Iterator[Database]:
    """A database in which mode 'new' works, on the server under test or on the installed one."""
    usable = server if dblink_available(server.dsn) else request.getfixturevalue("system_server")
    database = Database(usable, f"linked_{os.getpid()}_{time.monotonic_ns()}")
    with psycopg.connect(usable.dsn, autocommit=True) as conn:
        for role in ("app", "other"):
            if not conn.execute("select 1 from pg_roles where rolname = %s", [role]).fetchone():
                conn.execute(f"create role {role} login".encode())
        conn.execute(f"create database {database.name} encoding 'UTF8' template template0".encode())
    install(database.dsn(), artifacts()["dist/pg_durable.sql"])
    database.admin(
        'create schema "Contrib"; create extension dblink schema "Contrib"; grant usage on schema "Contrib" to app;'
        " grant create on schema public to app"
    )
    database.admin("select df.grant_usage('app'), df.grant_usage('other')")
    info = psycopg.conninfo.conninfo_to_dict(usable.dsn)
    database.admin("select df.set_setting('loopback_dsn', %s)", f"host={info['host']} port={info.get('port', 5432)}")
    yield database
    database.drop()


def test_dblink_and_loopback_dsn_are_asked_for_by_name(db: Database) -> None:
    with pytest.raises(WRONG_CONTEXT, match="dblink") as caught:
        db.sql(START)
    assert "CREATE EXTENSION dblink" in str(caught.value.diag.message_hint)


def test_it_is_refused_inside_a_workflow(db: Database) -> None:
    with db.connect("app") as conn:
        conn.execute("set df.in_workflow = 'true'")
        with pytest.raises(WRONG_CONTEXT, match="cannot be called inside a workflow"):
            conn.execute(START.encode())


def test_it_needs_login(db: Database) -> None:
    db.admin("create role no_login; grant app to no_login")
    try:
        with db.connect() as conn:
            conn.execute("set role no_login")
            with pytest.raises(WRONG_CONTEXT, match="LOGIN"):
                conn.execute(START.encode())
    finally:
        db.admin("drop role no_login")


def test_it_is_refused_for_another_than_the_session_user(db: Database) -> None:
    db.sql(f"create function public.apart() returns text language sql security definer as $$ {START} $$")
    with db.connect() as conn:
        conn.execute("set role app")
        with pytest.raises(WRONG_CONTEXT, match="session"):
            conn.execute(START.encode())
    with pytest.raises(WRONG_CONTEXT, match="session"):
        db.sql("select public.apart()", user="other")


def test_code_run_as_somebody_else_cannot_open_a_session_as_the_session_user(db: Database) -> None:
    """The key that it can read is that of the role it runs as."""
    db.sql("""create function public.apart() returns text language plpgsql security definer as $$
              begin
                return df_engine.launch((select k.key from df_engine.own_key k), '{}');
              end $$""")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="df_engine"):
        db.sql("select public.apart()", user="other")


@pytest.mark.parametrize("key", ["null", "''", "'x'"])
def test_without_a_key_no_session_is_opened(db: Database, key: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="df_engine"):
        db.sql(f"select df_engine.launch({key}, '{{}}')")


def test_the_run_survives_a_rollback(linked: Database) -> None:
    with linked.connect("app", autocommit=False) as conn:
        row = conn.execute(START.encode()).fetchone()
        conn.rollback()
    rows = linked.rows("select id, label, submitted_by::text from df.instances")
    assert rows == [(row[0] if row else None, "apart", "app")]
    assert linked.admin(LAUNCHES) == 0


def test_the_run_belongs_to_the_trace_of_the_caller(linked: Database) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with linked.connect("app") as conn:
        conn.execute("select set_config('df.traceparent', %s, false)", [trace])
        conn.execute(START.encode())
    assert linked.sql("select traceparent from df.instances") == trace


def test_only_committed_variables_are_seen(linked: Database) -> None:
    linked.sql("select df.setvar('a', 'committed')")
    with linked.connect("app", autocommit=False) as conn:
        conn.execute("select df.setvar('a', 'pending')")
        conn.execute(b"select df.start('select ''{a}''', transaction_mode => 'new')")
    assert linked.admin(BOUND_VARIABLE) == "committed"


def test_texts_arrive_as_they_are(linked: Database) -> None:
    label = 'it\'s \\ a "label" ${x} é\n'
    linked.sql("select df.start(%s, %s, transaction_mode => 'NEW')", "SELECT 'a\\b', 'é'", label)
    assert linked.rows("select label from df.instances") == [(label,)]
    assert linked.rows("select query from df.nodes") == [("SELECT 'a\\b', 'é'",)]


def test_errors_of_the_start_come_through_and_free_the_slot(linked: Database) -> None:
    with linked.connect("app") as conn:
        for _ in range(3):
            with pytest.raises(psycopg.Error, match="does not exist") as caught:
                conn.execute("select df.start('SELECT 1', null, 'no_such_db', 'new')")
            assert caught.value.sqlstate == "3D000"
        assert linked.admin(LAUNCHES) == 0
        conn.execute(START.encode())


def test_a_start_frees_its_slot_before_the_caller_ends(linked: Database) -> None:
    linked.admin("select df.set_setting('max_new_transaction_starts', '1')")
    with linked.connect("app", autocommit=False) as conn:
        conn.execute(START.encode())
        conn.execute(START.encode())
        assert linked.admin(LAUNCHES) == 0


def test_nobody_can_take_the_slots_of_others(linked: Database) -> None:
    linked.admin("select df.set_setting('max_new_transaction_starts', '1')")
    with linked.connect("other") as holder:
        for keys in ("i", "1346982470, i"):
            holder.execute(f"select count(pg_advisory_lock({keys})) from generate_series(0, 100) i".encode())
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            holder.execute(SLOT_TAKEN)
        assert len(linked.sql(START)) == 8


def test_without_a_slot_it_times_out_and_opens_no_session(linked: Database) -> None:
    linked.admin("select df.set_setting('max_new_transaction_starts', '1')")
    linked.admin("select df.set_setting('new_transaction_start_timeout', '1')")
    with linked.connect(autocommit=False) as holder:
        holder.execute(SLOT_TAKEN)
        with pytest.raises(
            psycopg.errors.ProgramLimitExceeded, match="Timed out after 1s waiting for a launch slot"
        ) as e:
            linked.sql(START)
        assert "max_new_transaction_starts=1" in str(e.value)
    assert len(linked.sql(START)) == 8


def test_a_canceled_start_frees_its_slot(linked: Database) -> None:
    linked.admin("select df.set_setting('loopback_dsn', 'host=192.0.2.1 port=1')")
    with linked.connect("app") as conn:
        conn.execute("set statement_timeout = '500ms'")
        with pytest.raises(psycopg.Error):
            conn.execute(START.encode())
        assert linked.admin(LAUNCHES) == 0


def test_the_setting_is_asked_for_by_name(linked: Database) -> None:
    linked.admin("select df.set_setting('loopback_dsn', null)")
    with pytest.raises(WRONG_CONTEXT, match="loopback_dsn") as caught:
        linked.sql(START)
    assert caught.value.diag.message_hint


def test_no_connection_and_no_open_transaction_stay(linked: Database) -> None:
    with linked.connect("app") as conn:
        conn.execute(START.encode())
        assert conn.execute('select "Contrib".dblink_get_connections()').fetchone() == (None,)
    left = "select count(*) from pg_stat_activity where application_name = 'pg_durable_start'"
    wait_until(lambda: linked.admin(left) == 0, what="the second session has gone")


def test_a_loopback_that_leads_elsewhere_is_refused(linked: Database, system_server: Server) -> None:
    linked.admin("alter role app set role to other; grant other to app")
    try:
        with linked.connect("app") as conn:
            conn.execute("set role none")
            with pytest.raises(WRONG_CONTEXT, match="does not lead to a session of role"):
                conn.execute(START.encode())
    finally:
        linked.admin("alter role app reset role; revoke other from app")
