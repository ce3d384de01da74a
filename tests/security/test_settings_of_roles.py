"""What a role or a database sets for its sessions changes neither what the engine means nor whom a worker serves."""

from collections.abc import Iterator

import pytest

from tests.crash.crew import problems
from tests.support import Database, wait_until
from tests.worker.conftest import spawn  # noqa: F401
from tests.worker.process import SpawnWorker, await_end, error, run, start

FLOW = r"""df.flow($f$'select ''a\b'' as v, ''{sys_label}'' as l' |=> x ~> 'select $x.v' ~> sleep(0)
  ~> ('select 1' & E'select\n2')
  ~> (wait_for_schedule('* * * * *') | 'select true' ?> 'select 3 as n' !> 'select 4')$f$)"""
STRANGE = {
    "row_security": "off",
    "jit": "on",
    "jit_above_cost": "0",
    "search_path": "nowhere",
    "lc_messages": "'C'",
    "DateStyle": "'SQL, DMY'",
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "client_min_messages": "error",
    "quote_all_identifiers": "on",
    "xmlbinary": "hex",
}
SHORT = ("idle_session_timeout", "idle_in_transaction_session_timeout", "statement_timeout", "lock_timeout",
         "transaction_timeout")  # fmt: skip


@pytest.fixture
def altered(db: Database) -> Iterator[Database]:
    """A database whose settings are its own, as those of its roles in it are."""
    yield db
    with db.connect(options="-c default_transaction_read_only=off") as conn:
        conn.execute(f"alter database {db.name} reset all".encode())


def known(db: Database, setting: str) -> bool:
    return bool(db.admin("select count(*) from pg_settings where name = lower(%s)", setting))


@pytest.mark.parametrize("setting", STRANGE)
def test_everything_works_whatever_a_database_sets(
    altered: Database,
    spawn: SpawnWorker,  # noqa: F811
    setting: str,
) -> None:
    db = altered
    value = STRANGE[setting]
    db.admin(f"alter database {db.name} set {setting} = {value}")
    for conn in db.connections.values():
        conn.close()
    spawn()
    begin = "set transaction read write; " if setting == "default_transaction_read_only" else ""
    with db.connect("app", options="-c default_transaction_read_only=off" if begin else "") as conn:
        row = conn.execute(f"select df.start({FLOW})".encode()).fetchone()
        assert row
        assert await_end(db, str(row[0]), 90) == "completed", error(db, str(row[0]))
        for query in ("select df.explain(%s)", "select df.result(%s)", "select df.to_flow(%s)"):
            assert conn.execute(query, [row[0]]).fetchone() != (None,)
    assert problems(db) == []


def test_escapes_in_literals_change_nothing(altered: Database, spawn: SpawnWorker) -> None:  # noqa: F811
    """Workers and steps have sessions in which there are none."""
    db = altered
    db.admin(f"alter database {db.name} set standard_conforming_strings = off")
    spawn()
    with db.connect("app") as conn:
        row = conn.execute(f"select df.start({FLOW})".encode()).fetchone()
        assert row
        assert await_end(db, str(row[0]), 90) == "completed", error(db, str(row[0]))
        for call in ("df.status(id)", "df.result(id)", "df.explain(id)", "df.to_flow(id)"):
            conn.execute(f"select {call} from df.instances".encode())
        conn.execute("select * from df.list_instances()")
    assert problems(db) == []


@pytest.mark.parametrize("setting", SHORT)
def test_time_outs_do_not_end_the_supervising_connection(
    altered: Database,
    spawn: SpawnWorker,  # noqa: F811
    setting: str,
) -> None:
    db = altered
    if not known(db, setting):
        pytest.skip(f"this server has no {setting}")
    db.admin(f"alter role durable_worker in database {db.name} set {setting} = '200ms'")
    worker = spawn()
    wait_until(lambda: db.admin(f"select now() - backend_start > '1 s' from pg_stat_activity {SUPERVISOR}"))
    run(db, "'select 1'")
    assert worker.log.count("registered") == 1
    assert "not connected" not in worker.log


SUPERVISOR = (
    "where application_name = 'pg_durable worker' and usename = 'durable_worker' and datname = current_database()"
)


def test_idle_sessions_of_a_role_are_kept(altered: Database, spawn: SpawnWorker) -> None:  # noqa: F811
    db = altered
    db.admin(f"alter role app in database {db.name} set idle_session_timeout = '100ms'")
    worker = spawn()
    run(db, "'select 1' ~> df.sleep(0.5) ~> 'select 2'")
    assert worker.log.count("session closed") == 0


def test_a_step_over_transaction_timeout_fails_at_once(altered: Database, spawn: SpawnWorker) -> None:  # noqa: F811
    db = altered
    if not known(db, "transaction_timeout"):
        pytest.skip("this server has no transaction_timeout")
    db.admin(f"alter role app in database {db.name} set transaction_timeout = '500ms'")
    db.sql("create sequence begun")
    worker = spawn()
    slow = start(db, "'select nextval(''begun''), pg_sleep(60)'")
    quick = start(db, "'select 1' ~> 'select 2'")
    assert await_end(db, slow) == "failed"
    assert error(db, slow) == "SQL execution failed: terminating connection due to transaction timeout (SQLSTATE 25P04)"
    assert db.sql("select last_value from begun") == 1
    assert await_end(db, quick) == "completed"
    assert "death held" not in worker.log
