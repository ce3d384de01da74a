"""Waking and idling: a worker acts at once on what commits, and asks next to nothing when nothing happens.

That it acts at once is shown by workers that do not poll: they find what they are told of, and nothing else.
"""

from collections.abc import Iterator

import psycopg
import pytest

from tests import state
from tests.support import Database, wait_until
from tests.worker.process import Gate, PatientWorker, SpawnWorker, WorkerProcess, await_end, run, start
from tests.worker.test_metrics import Page

NAP = 6  # seconds; a worker that polls every two seconds, and shortly after it became idle, does so fewer than 12 times
POLLS = "pg_durable_worker_ticks_total"


@pytest.fixture
def patient(db: Database) -> Iterator[PatientWorker]:
    """A worker that does not poll, and waits to be woken."""
    worker = PatientWorker(db)
    try:
        worker.logged("registered")
        wait_until(lambda: db.admin(state.A_WORKER_IDLES))
        yield worker
    finally:
        worker.kill()


def test_an_idle_worker_hardly_polls(db: Database, spawn: SpawnWorker) -> None:
    page = Page(spawn)
    run(db, "'select 1'")
    before = page.metrics()[POLLS]
    run(db, f"df.sleep({NAP})", seconds=60)
    assert page.metrics()[POLLS] - before < 2 * NAP


def test_a_start_wakes_the_worker(db: Database, patient: PatientWorker) -> None:
    for _ in range(10):
        run(db, "'select 1'")


def test_a_start_that_commits_late_wakes_the_worker(db: Database, patient: PatientWorker) -> None:
    with db.connect("app", autocommit=False) as conn:
        row = conn.execute("select df.start('select 1')").fetchone()
        assert row
        run(db, "'select 1'")  # by which the worker has polled, and has not seen the other one
        conn.commit()
    assert await_end(db, row[0]) == "completed"


def test_a_timer_fires_when_it_is_due(db: Database, patient: PatientWorker) -> None:
    run(db, "'select clock_timestamp() as t' |=> 'a' ~> df.sleep(1) ~> "
            "'select clock_timestamp() - $a.t >= interval ''1 s'' as slept' |=> 'b' ~> "
            "'select case when not $b.slept then 1 / 0 end'")  # fmt: skip


def test_a_signal_wakes_the_worker(db: Database, patient: PatientWorker) -> None:
    instance = start(db, "df.wait_for_signal('go')")
    wait_until(lambda: db.admin("select count(*) from df.waiting where kind = 'signal'"))
    db.sql("select df.signal(%s, 'go')", instance)
    assert await_end(db, instance) == "completed"


def test_anybody_may_send_nonsense(db: Database, worker: WorkerProcess) -> None:
    with psycopg.connect(db.dsn("other"), autocommit=True) as conn:
        for payload in ("", "r", "r x", "r 99999999999999999999", "r -1", "\u00e4 1", "x" * 5000, "r 1 1"):
            conn.execute("select pg_notify('df_wake', %s)", [payload])
    assert run(db, "'select 1 as one'")["rows"] == [{"one": 1}]
    assert worker.process.poll() is None


def test_a_setting_is_noticed(db: Database, spawn: SpawnWorker) -> None:
    page = Page(spawn)
    db.admin("select df.set_setting('max_user_connections', '1')")
    wait_until(lambda: page.metrics()["pg_durable_worker_session_limit"] == 1)
    gate = Gate(db)
    runs = [start(db, f"'{Gate.STEP}'") for _ in range(3)]
    wait_until(lambda: gate.waiting)
    polls = page.metrics()[POLLS]
    wait_until(lambda: page.metrics()[POLLS] > polls + 1)  # it has polled with all three in the queue
    assert gate.waiting == 1
    gate.open()
    assert [await_end(db, instance) for instance in runs] == ["completed"] * 3
