"""pg_durable.client, with a real worker: start, wait by notification, typed results, signal, cancel."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, NamedTuple

import psycopg
import pytest
from pg_durable import client
from pg_durable.client import AsyncClient, Client, RunError

from tests.support import Database, wait_until
from tests.worker.process import WorkerProcess


@dataclass
class Line:
    """A row of a result."""

    no: int
    amount: Decimal
    on: date
    note: str | None


class Pair(NamedTuple):
    """Another."""

    name: str
    tags: list[str]


LINES = "'SELECT 1 AS no, 9.99 AS amount, date ''2026-01-31'' AS \"on\", NULL::text AS note'"


@pytest.fixture
def df(db: Database) -> Iterator[Client]:
    with Client(db.dsn("app")) as df:
        yield df


def test_a_run_is_started_awaited_and_read(df: Client, worker: WorkerProcess) -> None:
    run = df.start("'SELECT 6 * 7 AS answer'", label="first")
    assert df.wait(run, 30) == "completed"
    assert df.status(run) == "completed"
    assert df.result(run) == [{"answer": 42}]


def test_rows_have_the_types_that_they_are_asked_for(df: Client, worker: WorkerProcess) -> None:
    run = df.start(LINES)
    df.wait(run, 30)
    assert df.result(run, Line) == [Line(1, Decimal("9.99"), date(2026, 1, 31), None)]
    run = df.start("'SELECT ''a'' AS name, array[''x'', ''y''] AS tags'")
    df.wait(run, 30)
    assert df.result(run, Pair) == [Pair("a", ["x", "y"])]
    assert df.result(run) == [{"name": "a", "tags": ["x", "y"]}]


def test_options_of_a_start_are_passed_on(df: Client, db: Database, worker: WorkerProcess) -> None:
    run = df.start("'SELECT ($input)::jsonb AS given'", "x", input={"n": [1, "ä"]}, key="k", priority=3)
    assert df.start("'SELECT 2'", key="k") == run
    df.wait(run, 30)
    assert df.result(run) == [{"given": {"n": [1, "ä"]}}]
    assert db.rows("select label, key, priority from df.instances") == [("x", "k", 3)]
    with pytest.raises(TypeError, match="no option lable"):
        df.start("'SELECT 1'", lable="x")
    df_id = db.sql("select df.define('bill', 'select 5 as five')")
    assert df_id == 1
    run = df.start("@bill")
    df.wait(run, 30)
    assert df.result(run) == [{"five": 5}]


def test_what_failed_has_no_result(df: Client, worker: WorkerProcess) -> None:
    run = df.start("'SELECT 1/0'")
    assert df.wait(run, 30) == "failed"
    with pytest.raises(RunError, match=f"run {run} is failed: .*division by zero") as raised:
        df.result(run)
    assert (raised.value.run, raised.value.status) == (run, "failed")
    waits = df.start("wait_for_signal('go')")
    with pytest.raises(RunError, match=r"is (pending|running)"):
        df.result(waits)
    assert "cancelled" in df.cancel(waits, "enough")
    assert df.wait(waits) == "cancelled"
    with pytest.raises(RunError, match="is not there"):
        df.result("deadbeef")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="not found"):
        df.wait("deadbeef")


def test_a_signal_brings_data(df: Client, worker: WorkerProcess) -> None:
    run = df.start("wait_for_signal('go')")
    df.signal(run, "go", {"by": "kim"})
    assert df.wait(run, 30) == "completed"
    assert "kim" in str(df.result(run))


def test_many_runs_are_awaited_over_one_connection(
    df: Client, db: Database, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order in which they end; only notifications tell: no status is read again in time."""
    monkeypatch.setattr(client, "AGAIN", 3600.0)
    runs = [df.start("wait_for_signal('go')") for _ in range(20)]
    done = []
    order = list(reversed(runs))
    df.signal(order[0], "go")
    for run, status in df.as_completed(runs, 60):
        done.append(run)
        assert status == "completed"
        if len(done) < len(order):
            df.signal(order[len(done)], "go")
    assert done == order


def test_a_wait_holds_no_snapshot_and_ends_in_time(df: Client, db: Database, worker: WorkerProcess) -> None:
    run = df.start("wait_for_signal('go')")
    with pytest.raises(TimeoutError, match=run):
        df.wait(run, 0.2)
    query = (
        "select backend_xmin is null and state = 'idle' from pg_stat_activity "
        "where query ~ 'df.instances i where i.id = any' and pid <> pg_backend_pid()"
    )
    assert db.rows(query, user=None) == [(True,)]
    df.signal(run, "go")
    assert df.wait(run, 30) == "completed"


def test_a_start_in_a_transaction_of_the_callers(df: Client, db: Database, worker: WorkerProcess) -> None:
    with db.connect("app", autocommit=False) as conn:
        lost = df.start("'SELECT 1'", conn=conn)
        conn.rollback()
        run = df.start("'SELECT 1'", conn=conn)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            df.wait(run)
        conn.commit()
    assert df.wait(run, 30) == "completed"
    with pytest.raises(RunError, match="is not there"):
        df.status(lost)


def test_a_lost_connection_is_an_error(df: Client, db: Database, worker: WorkerProcess) -> None:
    run = df.start("wait_for_signal('go')")
    own = (
        "select pg_terminate_backend(pid) from pg_stat_activity "
        "where query ~ 'df.instances i where i.id' and usename = 'app'"
    )
    waiting = df.as_completed([run])
    with pytest.raises(TimeoutError):
        df.wait(run, 0.1)
    db.admin(own)
    with pytest.raises(psycopg.OperationalError):
        next(waiting)


def test_types_that_postgresql_has_not_are_refused() -> None:
    @dataclass
    class Odd:
        at: datetime
        what: complex

    with pytest.raises(TypeError, match="what: PostgreSQL has no type for"):
        client.columns(Odd)


async def many(dsn: str, number: int) -> list[Any]:
    async with AsyncClient(dsn) as df:
        runs = [await df.start(f"wait_for_signal('go') ~> 'SELECT {n} AS n'") for n in range(number)]
        waiting = [asyncio.create_task(df.wait(run)) for run in (*runs, *runs)]
        for run in runs:
            await df.signal(run, "go")
        async with asyncio.timeout(60):
            statuses = await asyncio.gather(*waiting)
        assert set(statuses) == {"completed"}
        return [(await df.result(run))[0]["n"] for run in runs]


def test_tasks_wait_together(db: Database, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "AGAIN", 3600.0)
    assert asyncio.run(many(db.dsn("app"), 20)) == list(range(20))


def test_the_rest_of_the_asynchronous_client(db: Database, worker: WorkerProcess) -> None:
    async def session() -> None:
        async with AsyncClient(db.dsn("app")) as df:
            run = await df.start(LINES, label="typed")
            assert await df.wait(run) == "completed"
            assert await df.status(run) == "completed"
            assert await df.result(run, Line) == [Line(1, Decimal("9.99"), date(2026, 1, 31), None)]
            waits = await df.start("wait_for_signal('go')")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await df.wait(waits)
            task = asyncio.create_task(df.wait(waits))
            await asyncio.sleep(0)
            await df.cancel(waits, "enough")
            assert await task == "cancelled"
            with pytest.raises(RunError, match="is cancelled"):
                await df.result(waits)

    asyncio.run(asyncio.wait_for(session(), 60))


def test_who_listens_learns_that_the_connection_is_lost(db: Database, worker: WorkerProcess) -> None:
    async def session() -> None:
        async with AsyncClient(db.dsn("app")) as df:
            run = await df.start("wait_for_signal('go')")
            task = asyncio.create_task(df.wait(run))
            query = "select pid from pg_stat_activity where usename = 'app' and query ~ '^listen' and state = 'idle'"
            pid = await asyncio.to_thread(wait_until, lambda: db.admin(query))
            db.admin("select pg_terminate_backend(%s)", pid)
            with pytest.raises(psycopg.OperationalError):
                await task
            await df.signal(run, "go")
            assert await df.wait(run) == "completed"

    asyncio.run(asyncio.wait_for(session(), 60))
