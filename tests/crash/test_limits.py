"""Limits while sessions and workers are killed: never more steps at a time than they say, and no place is lost."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg
import pytest

from tests.crash.crew import problems
from tests.engine.test_limits import limits, running, within
from tests.state import UNFINISHED
from tests.support import Database, Pump, wait_until
from tests.worker.process import WorkerProcess

PLACES = 3
KILLS = 8
STEPS = int(os.environ.get("LIMITED_STEPS", "2000"))
# A step that says when it was under way, by its own clock.
SPAN = """
with a as materialized (select clock_timestamp() as at), b as materialized (select a.at, pg_sleep(0.002) from a)
insert into spans (key, began, ended) select ''{key}'', b.at, clock_timestamp() from b"""
MOST_AT_A_TIME = """
select max(together)
from (select sum(e.change) over (order by e.at, e.change) as together
      from spans s cross join lateral (values (s.began, 1), (s.ended, -1)) e(at, change)) o"""
KILL_ONE = """
select count(pg_terminate_backend(a.pid)) from (
  select pid from pg_stat_activity
  where usename = 'app' and datname = current_database() and application_name ~ '^pg_durable:'
  order by random() limit 1) a"""


@contextmanager
def sessions_that_are_replaced(db: Database, sessions: int) -> Iterator[None]:
    """Sessions that run steps, each followed by another when it is killed; and one that polls."""
    stop = threading.Event()

    def guard(tick: bool) -> None:
        while not stop.is_set():
            pump = Pump(db)
            with suppress(psycopg.errors.AdminShutdown, psycopg.OperationalError):  # killed
                while not stop.is_set():
                    if tick:
                        pump.tick()
                        stop.wait(0.02)
                    elif pump.session.execute("call df_engine.work(200, false, null)").fetchone() == ("empty",):
                        stop.wait(0.005)
            pump.close()

    threads = [threading.Thread(target=guard, args=(number == 0,)) for number in range(sessions + 1)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def run_all_while_sessions_are_killed(db: Database, sessions: int) -> None:
    """Runs what has been started to its end, and kills one of the sessions now and then."""
    killed = 0
    with sessions_that_are_replaced(db, sessions):

        def ended() -> bool:
            nonlocal killed
            killed += int(db.admin(KILL_ONE))
            return not db.admin(UNFINISHED)

        wait_until(ended, 240, "all runs to end")
    assert killed > 10
    assert db.sql("select count(*) from df.instances where status <> 'completed'") == 0


@pytest.fixture
def spans(pump: Pump) -> Pump:
    pump.db.sql("create table spans (key text, began timestamptz, ended timestamptz)")
    return pump


def test_no_more_steps_run_at_a_time_than_a_limit_says(spans: Pump) -> None:
    db = spans.db
    db.sql(f"select df.set_limit('api', {PLACES})")
    for key in ("a", "b"):
        flow = within(SPAN.format(key=key), key=key)
        db.sql(f"select count(df.start({flow} ~> {flow})) from generate_series(1, {STEPS // 4})")
    run_all_while_sessions_are_killed(db, 6)
    assert db.sql("select count(*) from spans") == STEPS
    assert db.sql(MOST_AT_A_TIME) == PLACES  # as many, too
    assert problems(db) == []
    assert limits(db) == (PLACES, 0, 0)
    for _ in range(PLACES + 1):
        spans.start(within())
    with running(spans, PLACES):  # no place is lost
        assert spans.work() == "empty"
        assert limits(db) == (PLACES, PLACES, 1)


def test_workers_that_are_killed_exceed_no_limit(spans: Pump) -> None:
    db = spans.db
    db.sql(f"select df.set_limit('api', {PLACES})")
    for key in ("a", "b", "c"):
        flow = within(SPAN.format(key=key).replace("0.002", "0.02"), key=key)
        db.sql(f"select count(df.start({flow} ~> {flow})) from generate_series(1, {STEPS // 12})")
    steps = STEPS // 12 * 6
    workers = [WorkerProcess(db) for _ in range(2)]
    try:
        for killed in range(KILLS):
            part = steps * (killed + 1) // (KILLS + 1)
            wait_until(lambda: db.sql("select count(*) from spans") >= part, 240, f"{part} steps to run")  # noqa: B023
            workers[killed % 2].kill()
            workers[killed % 2] = WorkerProcess(db)
        wait_until(lambda: not db.admin(UNFINISHED), 240, "all runs to end")
    finally:
        for worker in workers:
            worker.stop()
    assert db.sql("select count(*) from spans") == steps
    assert db.sql("select count(*) from df.instances where status <> 'completed'") == 0
    assert db.sql(MOST_AT_A_TIME) == PLACES  # as many, too
    assert problems(db) == []
    assert limits(db) == (PLACES, 0, 0)
