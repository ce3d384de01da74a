"""Waking and idling: a worker acts at once on what commits, and asks next to nothing when nothing happens."""

import statistics
import time

import psycopg

from tests import state
from tests.support import Database, wait_until
from tests.worker.process import WorkerProcess, await_end, run, start

QUERIES = "select backend_start, query_start from pg_stat_activity where usename = 'durable_worker' and datname = %s"


def test_an_idle_worker_asks_less_than_once_a_second(db: Database, worker: WorkerProcess) -> None:
    run(db, "'select 1'")
    time.sleep(1)  # the looks shortly after it became idle
    seen = set()
    began = time.monotonic()
    while time.monotonic() - began < 5:
        seen |= set(db.rows(QUERIES, db.name, user=None))
        time.sleep(0.0005)
    assert len(seen) - 1 <= 5


def test_a_start_is_acted_upon_in_milliseconds(db: Database, worker: WorkerProcess) -> None:
    run(db, "'select 1'")
    times = []
    for _ in range(10):
        wait_until(lambda: db.admin(state.A_WORKER_IDLES))
        began = time.monotonic()
        instance = start(db, "'select 1'")
        await_end(db, instance)
        times.append(time.monotonic() - began)
    assert statistics.median(times) < 0.1


def test_a_start_that_commits_late_is_seen(db: Database, worker: WorkerProcess) -> None:
    with db.connect("app", autocommit=False) as conn:
        row = conn.execute("select df.start('select 1')").fetchone()
        assert row
        time.sleep(1.5)
        conn.commit()
    began = time.monotonic()
    await_end(db, row[0])
    assert time.monotonic() - began < 1


def test_a_timer_fires_when_it_is_due(db: Database, worker: WorkerProcess) -> None:
    began = time.monotonic()
    run(db, "df.sleep(1) ~> 'select 1'")
    assert 1 <= time.monotonic() - began < 1.6


def test_a_signal_is_acted_upon_at_once(db: Database, worker: WorkerProcess) -> None:
    instance = start(db, "df.wait_for_signal('go')")
    wait_until(lambda: db.admin(state.WAITS))
    began = time.monotonic()
    db.sql("select df.signal(%s, 'go')", instance)
    await_end(db, instance)
    assert time.monotonic() - began < 0.5


def test_anybody_may_send_nonsense(db: Database, worker: WorkerProcess) -> None:
    with psycopg.connect(db.dsn("other"), autocommit=True) as conn:
        for payload in ("", "r", "r x", "r 99999999999999999999", "r -1", "\u00e4 1", "x" * 5000, "r 1 1"):
            conn.execute("select pg_notify('df_wake', %s)", [payload])
    assert run(db, "'select 1 as one'")["rows"] == [{"one": 1}]
    assert worker.process.poll() is None


def test_a_setting_is_noticed(db: Database, worker: WorkerProcess) -> None:
    db.admin("select df.set_setting('max_user_connections', '1')")
    time.sleep(4)
    began = time.monotonic()
    runs = [start(db, "'select pg_sleep(0.5)'") for _ in range(3)]
    for instance in runs:
        await_end(db, instance)
    assert time.monotonic() - began >= 1.5
