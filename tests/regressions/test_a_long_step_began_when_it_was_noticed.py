"""started_at is when a step began, not when somebody noticed that it runs. Only the order of times is compared."""

import pytest

from tests.support import Database, wait_until
from tests.worker.process import SpawnWorker, WorkerProcess, await_end, start

BEGAN = "select clock_timestamp() as began, pg_sleep(1.5)"
TIMES = (
    "select started_at, (result #>> '{rows,0,began}')::timestamptz from df.nodes where instance_id = %s and query = %s"
)


def test_a_step_that_takes_long(db: Database, worker: WorkerProcess) -> None:
    run_id = start(db, f"'{BEGAN}'")
    await_end(db, run_id)
    started, began = db.rows(TIMES, run_id, BEGAN, user=None)[0]
    assert started <= began
    assert worker.process.poll() is None


def test_a_step_that_runs_shows_when_it_began(db: Database, worker: WorkerProcess) -> None:
    run_id = start(db, "'select pg_sleep(4)'")
    running = "select started_at from df.nodes where instance_id = %s and status = 'running' and node_type = 'SQL'"
    started = wait_until(lambda: db.admin(running, run_id))
    activity = "select xact_start from pg_stat_activity where application_name like %s and datname = %s"
    begun = db.rows(activity, f"pg_durable:{run_id}:%", db.name, user=None)
    assert begun
    assert started <= begun[0][0]
    assert worker.process.poll() is None


def test_the_sequence_around_it_began_with_its_first_step(db: Database, worker: WorkerProcess) -> None:
    run_id = start(db, f"'select clock_timestamp() as began' ~> '{BEGAN}'")
    await_end(db, run_id)
    first = "select completed_at from df.nodes where instance_id = %s and query = 'select clock_timestamp() as began'"
    sequence = "select started_at from df.nodes where instance_id = %s and node_type = 'THEN'"
    assert db.admin(sequence, run_id) <= db.admin(first, run_id)
    assert worker.process.poll() is None


def test_a_step_outside_a_transaction_began_when_it_was_first_tried(db: Database, worker: WorkerProcess) -> None:
    db.sql(
        "create procedure p(inout began timestamptz) language plpgsql as "
        "'begin began := clock_timestamp(); perform pg_sleep(0.6); commit; end'"
    )
    text = "call p(null)"
    run_id = start(db, f"'{text}'")
    await_end(db, run_id)
    started, began = db.rows(TIMES, run_id, text, user=None)[0]
    assert started <= began
    assert worker.process.poll() is None


def test_a_retried_step_began_with_its_first_attempt(db: Database, spawn: SpawnWorker) -> None:
    spawn()
    db.sql("create sequence tries")
    text = "select clock_timestamp() as began, 1 / (nextval('tries') - 1) as v, pg_sleep(1)"
    literal = db.sql("select quote_literal(%s)", text)
    run_id = start(db, f"df.retry({literal}, initial_delay => '10 ms', max_delay => '10 ms')")
    assert await_end(db, run_id) == "completed"
    started, began = db.rows(TIMES, run_id, text, user=None)[0]
    assert started <= began


@pytest.mark.usefixtures("worker")
def test_a_retried_step_in_another_database_began_with_its_first_attempt(db: Database) -> None:
    text = "select clock_timestamp() as began, 1 / (random() * 0)::int"
    run_id = start(db, f"df.retry('{text}', 2, '1 s')", database="postgres")
    query = "select started_at, updated_at from df.nodes where instance_id = %s and error is not null"
    started, failed = wait_until(lambda: db.rows(query, run_id, user=None))[0]
    assert started < failed
