"""Stopping, dying and taking over: nothing is lost, nothing is done twice."""

import os
import signal
import time

import pytest
from pg_durable.embedded import EmbeddedServer
from psycopg import errors

from generator.render import artifacts
from tests import state
from tests.support import Database, install, wait_until
from tests.worker.process import MEETING, SpawnWorker, WorkerProcess, await_end, own_database, run, start, status

EFFECT = "'with w as (select pg_sleep({})) insert into effects select 1 from w'"
EPOCHS = "select count(*) from df._worker_epoch"
SLEEPING = """
select count(*) from pg_stat_activity
where application_name ~ '^pg_durable:' and wait_event = 'PgSleep' and datname = current_database()"""


@pytest.fixture
def effects(db: Database) -> Database:
    """The database with a table that counts what steps did."""
    db.sql("create table effects (i int)")
    return db


def test_an_idle_worker_stops_at_once(db: Database, worker: WorkerProcess) -> None:
    assert db.admin(EPOCHS) == 1
    assert worker.stop() == 0
    assert db.admin(EPOCHS) == 0


def test_interrupt_from_the_keyboard_is_a_stop_too(worker: WorkerProcess) -> None:
    worker.process.send_signal(signal.SIGINT)
    assert worker.process.wait(5) == 0


def test_a_stopping_worker_lets_its_steps_end(effects: Database, worker: WorkerProcess) -> None:
    instance = start(effects, EFFECT.format(1.5))
    wait_until(lambda: effects.admin(SLEEPING))
    assert worker.stop() == 0
    assert status(effects, instance) == "completed"


def test_a_stopping_worker_does_not_begin_anything(effects: Database, spawn: SpawnWorker) -> None:
    worker = spawn("--sessions", "1")
    start(effects, EFFECT.format(1))
    wait_until(lambda: effects.admin(SLEEPING))
    second = start(effects, EFFECT.format(0))
    time.sleep(0.2)
    assert worker.stop() == 0
    assert status(effects, second) in ("pending", "completed")
    assert effects.admin(EPOCHS) == 0


def test_after_the_grace_time_steps_are_cancelled_and_taken_over(effects: Database, spawn: SpawnWorker) -> None:
    worker = spawn("--grace", "0.5")
    instance = start(effects, EFFECT.format(3))
    wait_until(lambda: effects.admin(SLEEPING))
    assert worker.stop() == 0
    assert status(effects, instance) != "completed"
    spawn()
    assert await_end(effects, instance) == "completed"
    assert effects.admin("select count(*) from effects") == 1


def test_another_worker_takes_over_from_one_that_was_killed(effects: Database, spawn: SpawnWorker) -> None:
    victim = spawn()
    instance = start(effects, f"{EFFECT.format(0)} ~> {EFFECT.format(4)}")
    wait_until(lambda: effects.admin(SLEEPING))
    spawn()
    victim.kill()
    assert await_end(effects, instance, 20) == "completed"
    assert effects.admin("select count(*) from effects") == 2


def test_a_leased_step_is_taken_over_from_a_worker_that_was_killed(db: Database, spawn: SpawnWorker) -> None:
    db.sql("create procedure slow() language plpgsql as $$ begin perform pg_sleep(3); commit; end $$")
    victim = spawn()
    instance = start(db, "'call slow()'")
    wait_until(lambda: db.admin(state.LEASED_DIRECT_BY) == victim.number)
    victim.kill()
    spawn()
    assert await_end(db, instance, 20) == "completed"


def test_a_server_that_does_not_answer_cannot_hold_a_worker(db: Database, spawn: SpawnWorker) -> None:
    worker = spawn("--grace", "0")
    backend = db.admin("select pid from pg_stat_activity where usename = 'durable_worker' and datname = %s", db.name)
    os.kill(backend, signal.SIGSTOP)
    try:
        time.sleep(4)  # until the worker has asked something
        assert worker.stop() == 0
    finally:
        os.kill(backend, signal.SIGCONT)


def test_workers_share_the_work(effects: Database, spawn: SpawnWorker) -> None:
    spawn("--sessions", "1")
    spawn("--sessions", "1")
    runs = [start(effects, MEETING) for _ in range(2)]
    assert [await_end(effects, instance) for instance in runs] == ["completed", "completed"]


def test_a_worker_that_loses_its_supervising_connection_registers_again(db: Database, worker: WorkerProcess) -> None:
    db.admin("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'durable_worker'")
    wait_until(lambda: worker.log.count("registered") == 2)
    assert run(db, "'select 1 as one'")["rows"] == [{"one": 1}]


def test_a_worker_whose_registration_is_gone_registers_again(db: Database, worker: WorkerProcess) -> None:
    db.admin(state.WORKERS_GONE)
    wait_until(lambda: db.admin(EPOCHS) == 1)
    assert run(db, "'select 1 as one'")["rows"] == [{"one": 1}]


def test_a_worker_that_may_not_work_any_more_says_what_helps_and_goes_on_then(
    db: Database, worker: WorkerProcess
) -> None:
    db.admin("select df.revoke_worker('durable_worker')")
    worker.logged("SELECT df.grant_worker")
    db.admin("select df.grant_worker('durable_worker')")
    wait_until(lambda: db.admin(EPOCHS) == 1)


def removed(db: Database) -> bool:
    """Whether the schemas could be dropped: the worker works in them and takes its locks in another order."""
    try:
        db.admin("drop schema df, df_engine cascade")
    except errors.DeadlockDetected:
        return False
    return True


def test_a_worker_registers_where_pg_durable_is_installed_anew(db: Database, worker: WorkerProcess) -> None:
    wait_until(lambda: removed(db), what="the schemas to be dropped")
    worker.logged("pg-durable install")
    install(db.dsn(), artifacts()["dist/pg_durable.sql"], worker_role="durable_worker")
    wait_until(lambda: db.admin(EPOCHS) == 1)


@pytest.mark.slow
def test_a_worker_survives_a_crash_of_the_server(own_server: EmbeddedServer) -> None:
    db = own_database(own_server)
    db.sql("create table effects (i int)")
    worker = WorkerProcess(db).logged("registered")
    instance = start(db, f"{EFFECT.format(0)} ~> {EFFECT.format(2)} ~> df.sleep(1) ~> {EFFECT.format(0)}")
    wait_until(lambda: db.admin(SLEEPING))
    own_server.stop("immediate")
    worker.logged("not connected")
    own_server.restart()
    for conn in db.connections.values():
        conn.close()
    assert await_end(db, instance, 30) == "completed"
    assert db.admin("select count(*) from effects") == 3
    assert worker.stop() == 0
