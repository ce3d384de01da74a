"""/metrics and /healthz over HTTP: what the worker has done, and how the runs of the database stand."""

import re
import urllib.request
from urllib.error import HTTPError

import pytest

from tests import state
from tests.cluster import free_port
from tests.support import Database, wait_until
from tests.worker.process import SpawnWorker, await_end, run, start, start_as

IN_PROGRESS = ('pg_durable_runs{status="pending"}', 'pg_durable_runs{status="running"}', "pg_durable_runs_blocked",
               "pg_durable_timers_overdue")  # fmt: skip


class Page:
    """What a worker of its own serves."""

    def __init__(self, spawn: SpawnWorker) -> None:
        self._port = free_port()
        self.worker = spawn("--metrics", str(self._port))

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/{path}") as answer:
            return str(answer.read().decode())

    def metrics(self) -> dict[str, int]:
        """Each value, by name and labels other than that of the database, which is only one."""
        shown = re.sub(r'{database="\w+"}|(?<={)database="\w+",', "", self.get("metrics"))
        found = re.findall(r"^([^# ]\S*) (\d+(?:\.\d+)?(?:e[+-]\d+)?)$", shown, re.MULTILINE)
        return {name: int(float(value)) for name, value in found}

    def in_progress(self) -> tuple[int, ...]:
        """Runs pending, running and blocked, and timers overdue; empty while nobody knows."""
        values = self.metrics()
        return tuple(values[name] for name in IN_PROGRESS if name in values)

    def ended(self) -> dict[str, int]:
        """Runs that have ended, by how."""
        counter = re.compile(r'pg_durable_runs_ended_total\{outcome="(\w+)"\}')
        return {named[1]: value for name, value in self.metrics().items() if (named := counter.fullmatch(name))}


@pytest.fixture
def page(spawn: SpawnWorker) -> Page:
    return Page(spawn)


def test_metrics_and_health_are_served(db: Database, page: Page) -> None:
    run(db, "'select 1'")
    assert page.metrics()['pg_durable_worker_calls_total{end="empty"}'] >= 1
    assert page.metrics()["pg_durable_worker_up"] == 1
    assert page.get("healthz") == "ok\n"
    with pytest.raises(HTTPError, match="404"):
        page.get("else")


def test_runs_in_progress_are_counted(db: Database, page: Page, locked_out: str) -> None:
    assert page.in_progress() == (0, 0, 0, 0)
    sleeping = start(db, "df.sleep(1000)")
    start(db, "df.wait_for_signal('go')")
    db.admin(f"alter role {locked_out} connection limit 0")
    start_as(db, locked_out, "'select 1'")
    run(db, "'select 1'")
    wait_until(lambda: page.in_progress() == (1, 2, 1, 0))
    db.sql("select df.cancel(%s)", sleeping)
    wait_until(lambda: page.in_progress() == (1, 1, 1, 0))


def test_the_queue_is_shown_by_role_and_lane(db: Database, page: Page, locked_out: str) -> None:
    of = f'lane="sql",role="{locked_out}"'
    assert f"pg_durable_queue_ready{{{of}}}" not in page.metrics()
    db.admin(f"alter role {locked_out} connection limit 0")
    start_as(db, locked_out, "'select 1'")
    wait_until(lambda: page.metrics().get(f"pg_durable_queue_ready{{{of}}}") == 1, 40)
    found = page.metrics()
    assert found[f"pg_durable_queue_running{{{of}}}"] == 0
    assert found[f"pg_durable_queue_slots{{{of}}}"] == 10
    oldest = f"pg_durable_queue_oldest_seconds{{{of}}}"
    wait_until(lambda: page.metrics()[oldest] > found[oldest] >= 0, 40, "the oldest to grow older")
    db.admin("select df.cancel(id) from df.instances")
    wait_until(lambda: f"pg_durable_queue_ready{{{of}}}" not in page.metrics(), 40)


def test_overdue_timers_are_counted(db: Database, page: Page) -> None:
    """A worker leaves a run alone that somebody's open transaction holds, here for longer than it should sleep."""
    sleeping = start(db, "df.sleep(1000)")
    wait_until(lambda: db.admin(state.TIMERS) == 1)
    with db.connect(autocommit=False) as conn:
        conn.execute(state.RUN_LOCKED, [sleeping])
        db.admin(state.DUE_AGO, "9 s", "9 s")
        assert page.in_progress() == (0, 1, 0, 0)
        db.admin(state.DUE_AGO, "11 s", "11 s")
        wait_until(lambda: page.in_progress() == (0, 1, 0, 1))
    assert await_end(db, sleeping) == "completed"
    wait_until(lambda: page.in_progress() == (0, 0, 0, 0))


def test_runs_are_counted_as_they_end(db: Database, page: Page) -> None:
    run(db, "'select 1'")
    nothing = dict.fromkeys(("completed", "failed", "cancelled"), 0)
    assert page.ended() == nothing
    db.admin(state.ENDED_YESTERDAY)  # ended before anybody asked
    run(db, "'select 1'")
    run(db, "'select 2' ~> 'select 3'")
    await_end(db, start(db, "'select 1/0'"))
    db.sql("select df.cancel(df.start(df.sleep(1000)))")
    wait_until(lambda: page.ended() == {"completed": 2, "failed": 1, "cancelled": 1}, 15)
    run(db, "'select 1'")
    wait_until(lambda: page.ended() == {"completed": 3, "failed": 1, "cancelled": 1}, 15)


def test_a_database_that_cannot_be_asked_has_no_figures(db: Database, page: Page) -> None:
    assert len(page.in_progress()) == len(IN_PROGRESS)
    with db.connect(autocommit=False) as conn:
        conn.execute(state.TIMERS_LOCKED)
        wait_until(lambda: page.in_progress() == ())
        assert page.ended() != {}, "a counter stays"
        assert "not counted" in page.worker.log
    wait_until(lambda: page.in_progress() == (0, 0, 0, 0), 30)


def test_every_budget_has_a_limit_and_what_is_used_of_it(db: Database, page: Page) -> None:
    for name, value in (
        ("max_http_requests", "40"), ("reserved_http_requests", "4"), ("worker_bytes_in_flight", "2000000"),
        ("tick_timers", "7"), ("tick_time", "0.3"), ("max_transition_rows", "90"), ("reserved_connections", "3"),
    ):  # fmt: skip
        db.admin("select df.set_setting(%s, %s)", name, value)
    limits = {
        "http_limit": 40, "http_reserve": 4, "bytes_in_flight_limit": 2_000_000, "tick_timers_limit": 7,
        "tick_milliseconds_limit": 300, "transition_rows_limit": 90, "session_reserve": 3, "session_limit": 10,
        "session_limit_shared": 1000,
    }  # fmt: skip

    def shown() -> dict[str, int]:
        found = page.metrics()
        return {name: found[f"pg_durable_worker_{name}"] for name in limits}

    wait_until(lambda: shown() == limits, what=f"{limits}, not {shown()}")
    run(db, "'vacuum' ~> df.sleep(0)")
    used = page.metrics()
    for name in ("tick_timers", "tick_milliseconds", "bytes_in_flight"):
        assert f"pg_durable_worker_{name}" in used
    wait_until(lambda: page.metrics()["pg_durable_worker_bytes_in_flight"] == 0)
