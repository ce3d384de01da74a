"""Blocks with a real worker: whatever stops one in the middle leaves nothing of it."""

import pytest
from pg_durable.embedded import EmbeddedServer

from tests.support import Database, wait_until
from tests.worker.process import (
    Gate,
    SpawnWorker,
    WorkerProcess,
    await_end,
    error,
    own_database,
    run,
    start,
)

IN_THE_MIDDLE = f"df.block('insert into fx values (1)', '{Gate.STEP}', 'insert into fx values (2)')"


@pytest.fixture
def fx(db: Database) -> Database:
    db.sql("create table fx (i int)")
    return db


def rows(db: Database) -> list[int]:
    return [i for (i,) in db.rows("select i from fx order by i", user=None)]


def test_a_session_that_is_killed_in_the_middle_leaves_nothing(fx: Database, worker: WorkerProcess) -> None:
    gate = Gate(fx)
    instance = start(fx, IN_THE_MIDDLE)
    wait_until(lambda: gate.waiting)
    pid = fx.admin("select pid from df.running_steps")
    fx.admin("select pg_terminate_backend(%s)", pid)
    wait_until(lambda: gate.waiting and fx.admin("select pid from df.running_steps where pid <> %s", pid))
    assert rows(fx) == []
    gate.open()
    assert await_end(fx, instance) == "completed", error(fx, instance)
    assert rows(fx) == [1, 2]


def test_a_worker_that_is_killed_in_the_middle_leaves_nothing(fx: Database, spawn: SpawnWorker) -> None:
    gate = Gate(fx)
    first = spawn()
    instance = start(fx, IN_THE_MIDDLE)
    wait_until(lambda: gate.waiting)
    first.kill()
    gate.open()
    spawn()
    assert await_end(fx, instance) == "completed", error(fx, instance)
    assert rows(fx) == [1, 2]


@pytest.mark.slow
def test_a_crash_of_the_server_in_the_middle_leaves_nothing(own_server: EmbeddedServer) -> None:
    db = own_database(own_server)
    db.sql("create table fx (i int)")
    worker = WorkerProcess(db).logged("registered")
    try:
        gate = Gate(db)
        instance = start(db, IN_THE_MIDDLE)
        wait_until(lambda: gate.waiting)
        own_server.stop("immediate")
        worker.logged("not connected")
        own_server.restart()
        for conn in db.connections.values():
            conn.close()
        assert await_end(db, instance) == "completed", error(db, instance)
        assert rows(db) == [1, 2]
    finally:
        worker.kill()


def test_a_cancel_in_the_middle_leaves_nothing(fx: Database, worker: WorkerProcess) -> None:
    gate = Gate(fx)
    instance = start(fx, IN_THE_MIDDLE)
    wait_until(lambda: gate.waiting)
    fx.sql("select df.cancel(%s)", instance)
    wait_until(lambda: not gate.waiting)
    assert (await_end(fx, instance), rows(fx)) == ("cancelled", [])


def test_a_time_out_in_the_middle_leaves_nothing(fx: Database, worker: WorkerProcess) -> None:
    gate = Gate(fx)
    assert run(fx, f"df.timeout({IN_THE_MIDDLE}, 0.3, 'select 5 as v')")["rows"] == [{"v": 5}]
    wait_until(lambda: not gate.waiting)
    assert rows(fx) == []


def test_a_lost_race_in_the_middle_leaves_nothing(fx: Database, worker: WorkerProcess) -> None:
    gate = Gate(fx)
    assert run(fx, f"{IN_THE_MIDDLE} | df.sleep(0.3)")["slept"]
    wait_until(lambda: not gate.waiting)
    assert rows(fx) == []
