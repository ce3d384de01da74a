"""Scenarios in which server and worker die at the wrong moment, and everything that blocks VACUUM stands in the way."""

from contextlib import closing

import psycopg
import pytest
from pg_durable.embedded import EmbeddedServer

from examples.scenario import HERE
from tests import state
from tests.support import Database, wait_until
from tests.worker.conftest import own_server  # noqa: F401 - a fixture
from tests.worker.process import WorkerProcess, await_end, own_database

BLOCKERS = {"idle in transaction", "old transaction", "stale replication slot", "prepared transaction"}


def script(part: str, scenario: str = "maintenance") -> bytes:
    return (HERE / scenario / f"{part}.sql").read_bytes()


def crash(db: Database, worker: WorkerProcess, server: EmbeddedServer) -> None:
    """SIGKILL to the worker, then to the server, which starts again."""
    worker.kill()
    for conn in db.connections.values():
        conn.close()
    db.connections.clear()
    server.stop("immediate")
    server.restart()


def test_schedules_survive_a_crash_of_everything(own_server: EmbeddedServer) -> None:  # noqa: F811
    db = own_database(own_server)
    db.rows(script("setup", "schedule").decode())
    first = WorkerProcess(db).logged("registered")
    db.rows(script("flow", "schedule").decode())
    waits = "select label, due_at from df.waiting where kind = 'schedule' order by label <> 'schedule morning'"
    wait_until(lambda: len(db.rows(waits)) == 3)
    wait_until(lambda: db.sql("select count(*) from sched_loaded") == 2, 30, "what has arrived to be loaded")
    morning = db.rows(waits)[0]
    crash(db, first, own_server)
    assert db.rows(waits)[0] == morning
    db.admin(state.SCHEDULES_ARE_DUE)
    second = WorkerProcess(db).logged("registered", 30)
    try:
        wait_until(lambda: db.sql("select count(*) >= 910 from sched_event_archive"), 30, "what is old to be archived")
        wait_until(lambda: len(db.rows(waits)) == 3, 30, "all to wait again")
        db.sql("insert into sched_inbox values ('c')")
        wait_until(lambda: db.sql("select count(*) from sched_loaded") == 3, 30, "what arrives to be loaded")
    finally:
        second.kill()


@pytest.fixture
def blocked(own_server: EmbeddedServer) -> Database:  # noqa: F811
    """A database in which everything holds VACUUM back that can, as the role app, which may see and end it."""
    own_server.stop()
    own_server.options |= {"max_prepared_transactions": "2"}
    own_server.start()
    db = own_database(own_server)
    db.admin("grant pg_monitor, pg_signal_backend to app")
    db.admin("alter role app replication")
    db.rows(script("setup").decode())
    return db


def block(db: Database) -> list[psycopg.Connection[tuple[object, ...]]]:
    """Each kind of blocker; the sessions that stay open."""
    idle, prepared, busy = (db.connect("app") for _ in range(3))
    idle.execute(script("session"))
    prepared.execute("begin; insert into maint_clean values (0); prepare transaction 'maint'")
    db.admin("select pg_create_physical_replication_slot('maint', true)::text")
    busy.execute("begin isolation level repeatable read; select count(*) from maint_clean")
    busy.pgconn.send_query(b"select pg_sleep(600)")
    return [idle, prepared, busy]


def test_maintenance_finds_all_and_survives_a_crash(blocked: Database, own_server: EmbeddedServer) -> None:  # noqa: F811
    db = blocked
    sessions = block(db)
    first = WorkerProcess(db).logged("registered")
    db.rows(script("flow").decode())
    run = str(db.admin("select id from df.instances where label = 'maintenance'"))
    wait_until(lambda: db.admin("select count(*) from df.waiting where kind = 'signal'"), 30, "the report")
    found = {kind for (kind,) in db.rows("select kind from maint_finding where remedy is not null or kind ~ '^prep'")}
    assert found == BLOCKERS | {"wraparound", "bloated table", "bloated index"}
    db.rows("rollback prepared 'maint'")

    with closing(db.connect()) as holder:
        holder.execute("begin; lock table maint_event in share update exclusive mode")
        db.rows("select df.signal(%s, 'remedy', (select json_agg(id) from maint_finding)::text)", run)
        wait_until(lambda: db.admin(VACUUM_WAITS), 30, "VACUUM to wait for the lock")
        crash(db, first, own_server)
    for session in sessions:
        session.close()
    second = WorkerProcess(db).logged("registered", 30)
    try:
        assert await_end(db, run, 60) == "completed"
        assert db.rows("select what from maint_finding where approved and not gone") == []
        assert db.rows("select what from maint_finding where approved and df.status(run) <> 'completed'") == []
        assert db.sql("select count(distinct run) = count(*) from maint_finding where approved")
        assert db.rows("select slot_name::text from pg_replication_slots") == []
    finally:
        second.kill()


VACUUM_WAITS = """
select count(*) from pg_stat_activity where query like 'VACUUM (ANALYZE)%%' and wait_event_type = 'Lock'"""
