"""A step that a cancel request had stopped was claimed again before its worker said so, and what it said was lost."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from tests.crash.crew import problems
from tests.support import Database, Pump, wait_until

ASLEEP = "select pid from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'"


@pytest.fixture
def second(db: Database) -> Iterator[Pump]:
    with closing(Pump(db)) as pump:
        yield pump


def stopped(pump: Pump, threads: ThreadPoolExecutor) -> str:
    """What a call answers whose step somebody stops."""
    working = threads.submit(pump.work)
    wait_until(lambda: pump.db.admin(ASLEEP))
    pump.db.admin(f"select pg_cancel_backend(({ASLEEP}))")
    return working.result()


def test_a_step_that_runs_again_fails_when_it_is_stopped_again(pump: Pump, second: Pump) -> None:
    run = pump.start("'select pg_sleep(600)'")
    with ThreadPoolExecutor() as threads:
        report = stopped(pump, threads)
        again = threads.submit(second.work)
        wait_until(lambda: pump.db.admin(ASLEEP))
        assert pump.fail_stopped(report) is False, "not now: it runs"
        pump.db.admin(f"select pg_cancel_backend(({ASLEEP}))")
        again.result()
    assert pump.fail_stopped(report) is True
    assert (run.status, run.error) == (
        "failed", "SQL execution failed: canceling statement due to user request (SQLSTATE 57014)"
    )  # fmt: skip
    assert pump.fail_stopped(report) is True, "it is gone"
    assert problems(pump.db) == []


def test_of_several_items_at_one_node_that_fails_which_was_stopped(pump: Pump) -> None:
    body = "select $item.n from pg_sleep(case when $item.n = 2 then 600 else 0 end)"
    items = "select g as n from generate_series(1, 3) g"
    run = pump.start(f"df.map('{items}', '{body}', parallel => 3, on_error => 'collect')")
    with ThreadPoolExecutor() as threads:
        pump.fail_stopped(stopped(pump, threads))
    pump.until(run.ended)
    assert [item["ok"] for item in run.result] == [True, False, True]
    assert problems(pump.db) == []
