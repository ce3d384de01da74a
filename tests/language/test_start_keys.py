"""Keyed starts: what a second start with a key does, and what two at once do."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest

from tests.state import ENDED_YESTERDAY, KEYS, RETENTION_IS_DUE, RUN_LOCKED
from tests.support import Database, Pump, Run, wait_until

Session = psycopg.Connection[Any]
ROUNDS = 100
LOCK_WAITS = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
KEYED = "select id, status, key, key_current from df.instances order by created_at, finished_at nulls last"


def start(db: Database, on_conflict: str = "return", flow: str = "select 1", key: str = "k", user: str = "app") -> str:
    query = "select df.start(%s, key => %s, on_conflict => %s)"
    return str(db.sql(query, flow, key, on_conflict, user=user))


def ended(pump: Pump, how: str) -> str:
    """A run with the key k that has ended so."""
    run = start(pump.db, flow="select 1/0" if how == "failed" else "select 1")
    if how == "cancelled":
        pump.db.sql("select df.cancel(%s)", run)
    pump.until(Run(pump.db, run).ended)
    assert pump.db.sql("select df.status(%s)", run) == how
    return run


def test_a_second_start_returns_the_id_of_the_first_whatever_it_says(app: Database) -> None:
    run = start(app)
    assert app.sql("select df.start('{\"node_type\":\"X\"}', input => '1', database => 'nowhere', key => 'k')") == run
    assert app.rows(KEYED) == [(run, "pending", "k", True)]


@pytest.mark.parametrize("how", ["completed", "failed", "cancelled"])
def test_a_run_that_has_ended_keeps_its_key(pump: Pump, how: str) -> None:
    run = ended(pump, how)
    assert start(pump.db) == run
    with pytest.raises(psycopg.Error, match=run) as caught:
        start(pump.db, "error")
    assert caught.value.sqlstate == "DF409"
    assert len(pump.db.rows(KEYED)) == 1


def test_error_starts_what_has_not_been_started(app: Database) -> None:
    run = start(app, "error")
    with pytest.raises(psycopg.Error, match=run) as caught:
        start(app, "error")
    assert caught.value.sqlstate == "DF409"


@pytest.mark.parametrize("how", ["completed", "failed", "cancelled"])
def test_restart_starts_anew_what_has_ended_and_moves_the_key(pump: Pump, how: str) -> None:
    old = ended(pump, how)
    new = start(pump.db, "restart")
    assert pump.db.rows(KEYED) == [(old, how, "k", False), (new, "pending", "k", True)]
    assert {start(pump.db, "restart"), start(pump.db)} == {new}


def test_replace_cancels_what_is_live_and_starts_anew_in_one_transaction(pump: Pump) -> None:
    old = start(pump.db, flow="select pg_sleep(100)")
    with pump.db.connect("app") as session:
        session.execute("begin")
        session.execute("select df.start('select 1', key => 'k', on_conflict => 'replace')")
        session.execute("rollback")
    assert pump.db.rows(KEYED) == [(old, "pending", "k", True)]
    new = start(pump.db, "replace")
    assert pump.db.rows(KEYED) == [(old, "cancelled", "k", False), (new, "pending", "k", True)]
    assert "replaced" in pump.db.sql("select error from df.instances where id = %s", old)
    pump.until(Run(pump.db, new).ended)
    assert start(pump.db, "replace") not in (old, new)
    assert pump.db.rows("select status from df.instances where id = %s", new) == [("completed",)]
    assert pump.db.admin("select count(*) from df.check()") == 0


def test_a_step_replaces_its_own_run(pump: Pump) -> None:
    step = "select df.start($$select 2$$, key => $$k$$, on_conflict => $$replace$$)"
    old = start(pump.db, flow=step)
    pump.until(lambda: pump.db.sql("select count(*) = 1 from df.instances where status = 'completed'"))
    assert [row[:2] for row in pump.db.rows(KEYED) if row[3] is False] == [(old, "cancelled")]
    assert pump.db.admin("select count(*) from df.check()") == 0


def test_a_key_is_the_submitters_own(app: Database) -> None:
    assert start(app) != start(app, user="other")
    assert start(app, key="K") != start(app)


def test_a_start_that_is_rolled_back_or_refused_leaves_the_key_free(app: Database) -> None:
    for flow in ("select 1", '{"node_type":"X"}'):
        with app.connect("app", autocommit=False) as session, pytest.raises(psycopg.Error):
            session.execute("select df.start(%s, key => 'k')", [flow])
            session.execute("select 1/0")
    assert app.admin(KEYS) == 0
    start(app, "error")


@pytest.mark.parametrize(
    ("call", "code", "fragment"),
    [
        ("df.start('a', on_conflict => 'ignore', key => 'k')", "22023", "ignore"),
        ("df.start('a', on_conflict => 'error')", "22023", "needs a key"),
        ("df.start('a', on_conflict => null)", "22004", "on_conflict"),
        ("df.start('a', key => '')", "22023", "empty"),
        ("df.start('a', key => repeat('é', 513))", "54000", "1024"),
    ],
)
def test_refused(app: Database, call: str, code: str, fragment: str) -> None:
    with pytest.raises(psycopg.Error, match=fragment) as caught:
        app.sql(f"select {call}")
    assert caught.value.sqlstate == code


def test_the_key_of_a_run_that_is_removed_is_free(pump: Pump) -> None:
    old = ended(pump, "completed")
    pump.db.admin("select df.set_setting('retention_days', '0')")
    pump.db.admin(ENDED_YESTERDAY)
    pump.db.admin(RETENTION_IS_DUE)
    pump.tick()
    assert pump.db.admin(KEYS) == 0
    assert start(pump.db, "error") != old


@pytest.fixture
def sessions(db: Database) -> Iterator[list[Session]]:
    """Two open transactions of app, and one of other that would rather fail than wait."""
    with ExitStack() as stack:
        opened = [stack.enter_context(db.connect(role, autocommit=False)) for role in ("app", "app", "other")]
        opened[2].execute("set lock_timeout = '1s'")
        opened[2].commit()
        yield opened


def keyed(session: Session, on_conflict: str = "return") -> str:
    row = session.execute("select df.start('select 1', key => 'k', on_conflict => %s)", [on_conflict]).fetchone()
    assert row
    return str(row[0])


def committed(session: Session, on_conflict: str = "return") -> str:
    run = keyed(session, on_conflict)
    session.commit()
    return run


def test_the_second_of_two_waits_for_the_first_and_returns_its_id(db: Database, sessions: list[Session]) -> None:
    first = keyed(sessions[0])
    with ThreadPoolExecutor() as pool:
        second = pool.submit(committed, sessions[1])
        wait_until(lambda: db.admin(LOCK_WAITS) == 1)
        committed(sessions[2])  # of another role, which waits for nobody
        sessions[0].commit()
        assert second.result() == first


def test_the_second_of_two_starts_when_the_first_is_rolled_back(db: Database, sessions: list[Session]) -> None:
    first = keyed(sessions[0])
    with ThreadPoolExecutor() as pool:
        second = pool.submit(committed, sessions[1])
        wait_until(lambda: db.admin(LOCK_WAITS) == 1)
        sessions[0].rollback()
        assert second.result() != first
    assert db.sql("select count(*) from df.instances") == 1


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
@pytest.mark.parametrize("on_conflict", ["return", "error", "restart", "replace"])
def test_a_key_that_was_taken_after_the_snapshot(sessions: list[Session], level: str, on_conflict: str) -> None:
    reader = sessions[1]
    reader.execute(f"set transaction isolation level {level}".encode())
    reader.execute("select count(*) from df.instances")
    first = committed(sessions[0])
    with pytest.raises(psycopg.errors.SerializationFailure):
        keyed(reader, on_conflict)
    reader.rollback()
    assert committed(reader) == first


@pytest.mark.parametrize("on_conflict", ["restart", "replace"])
def test_a_key_that_was_moved_after_the_snapshot(pump: Pump, sessions: list[Session], on_conflict: str) -> None:
    ended(pump, "completed")
    reader = sessions[1]
    reader.execute("set transaction isolation level repeatable read")
    reader.execute("select count(*) from df.instances")
    committed(sessions[0], "restart")
    with pytest.raises(psycopg.errors.SerializationFailure):
        keyed(reader, on_conflict)


def test_two_starts_of_a_key_at_once_a_hundred_times_are_one_run(db: Database) -> None:
    query = "select df.start('select 1', key => %s)"
    with ThreadPoolExecutor(2) as pool, db.connect("app") as one, db.connect("app") as two:
        for number in range(ROUNDS):
            ids = {*pool.map(lambda session, key=f"k{number}": session.execute(query, [key]).fetchone(), (one, two))}
            assert len(ids) == 1
    assert db.sql("select count(*) from df.instances") == ROUNDS


def test_two_restarts_at_once_start_one_run(pump: Pump, sessions: list[Session]) -> None:
    ended(pump, "failed")
    first = keyed(sessions[0], "restart")
    with ThreadPoolExecutor() as pool:
        second = pool.submit(committed, sessions[1], "restart")
        wait_until(lambda: pump.db.admin(LOCK_WAITS) == 1)
        sessions[0].commit()
        assert second.result() == first
    assert pump.db.sql("select count(*) from df.instances") == 2


def test_two_replacements_at_once_leave_one_live_run(pump: Pump, sessions: list[Session]) -> None:
    start(pump.db)
    first = keyed(sessions[0], "replace")
    with ThreadPoolExecutor() as pool:
        second = pool.submit(committed, sessions[1], "replace")
        wait_until(lambda: pump.db.admin(LOCK_WAITS) == 1)
        sessions[0].commit()
        last = second.result()
    assert pump.db.rows("select id from df.instances where status = 'pending'") == [(last,)]
    assert pump.db.sql("select df.status(%s)", first) == "cancelled"


def test_retention_waits_for_no_start_that_moves_a_key(pump: Pump, sessions: list[Session]) -> None:
    """It leaves the run that has the key, and removes it when the start is decided."""
    old = ended(pump, "completed")
    pump.db.admin("select df.set_setting('retention_days', '0')")
    pump.db.admin(ENDED_YESTERDAY)
    keyed(sessions[0], "restart")
    pump.supervisor.execute("set lock_timeout = '1s'")
    pump.db.admin(RETENTION_IS_DUE)
    pump.tick()
    assert pump.db.admin("select count(*) from df.instances where id = %s", old) == 1
    sessions[0].commit()
    pump.db.admin(RETENTION_IS_DUE)
    pump.tick()
    assert pump.db.admin("select count(*) from df.instances where id = %s", old) == 0
    assert pump.db.admin(KEYS) == 1


def test_a_start_with_a_key_whose_run_is_being_removed_starts_anew(pump: Pump) -> None:
    old = ended(pump, "completed")
    with pump.db.connect(autocommit=False) as retention, ThreadPoolExecutor() as pool:
        retention.execute(RUN_LOCKED, [old])
        new = pool.submit(start, pump.db, "restart")
        wait_until(lambda: pump.db.admin(LOCK_WAITS) == 1)
        retention.execute("delete from df_engine.start_keys")
        retention.execute("delete from df_engine.instances")
        retention.commit()
        assert new.result() != old
    assert pump.db.rows("select key, key_current from df.instances") == [("k", True)]
