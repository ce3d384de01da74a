"""df.status, df.result, df.run, df.await_instance and df.wait_for_completion."""

import threading

import psycopg
import pytest

from tests import state
from tests.state import WAIT_REASON
from tests.support import Database, Pump

WRONG_CONTEXT = psycopg.errors.ObjectNotInPrerequisiteState
INVISIBLE = psycopg.errors.InsufficientPrivilege


def start(db: Database, flow: str) -> str:
    return str(db.sql("select df.start(%s, 'a label')", flow))


@pytest.fixture
def run(db: Database) -> str:
    """A started, pending run of `app`."""
    return start(db, "SELECT 1 AS a")


def work(db: Database) -> None:
    """Ends what is ready."""
    pump = Pump(db)
    pump.work()
    pump.close()


def test_status_and_result_of_a_run(db: Database, run: str) -> None:
    assert db.rows("select df.status(%s), df.result(%s)", run, run) == [("pending", None)]
    work(db)
    shown = ("completed", '{"rows": [{"a": 1}], "row_count": 1}')
    assert db.rows("select df.status(%s), df.result(%s)", run, run) == [shown]


@pytest.mark.parametrize("which", ["'ffffffff'", "'a label'", "null", "''"])
def test_status_and_result_are_null_for_what_is_no_id(db: Database, run: str, which: str) -> None:
    assert db.rows(f"select df.status({which}), df.result({which})") == [(None, None)]


def test_others_see_neither_status_nor_result(db: Database, run: str) -> None:
    work(db)
    assert db.rows("select df.status(%s), df.result(%s)", run, run, user="other") == [(None, None)]
    with pytest.raises(INVISIBLE, match="Instance not found"):
        db.sql("select df.await_instance(%s)", run, user="other")


def test_run_wakes_and_says_so(db: Database, run: str) -> None:
    db.admin(state.A_WORKER_IDLE)
    with db.connect() as listener:
        listener.execute(state.LISTEN)
        for call in ("df.run()", "df.run(null)", f"df.run('{run}')"):
            assert db.sql(f"select {call}").startswith("Triggered run")
        assert len(list(listener.notifies(timeout=2, stop_after=3))) == 3


def test_await_returns_a_terminal_status_at_once(db: Database, run: str) -> None:
    failed = start(db, "SELECT 1/0")
    work(db)
    cancelled = start(db, "SELECT 1")
    db.sql("select df.cancel(%s)", cancelled)
    for ended, status in ((run, "completed"), (failed, "failed"), (cancelled, "cancelled")):
        assert db.sql("select df.await_instance(%s, 1)", ended) == status


def test_await_notices_the_end(db: Database, run: str) -> None:
    ended = threading.Timer(0.5, work, [db])
    ended.start()
    assert db.sql("select df.await_instance(%s, 60)", run) == "completed"
    ended.join()


def test_await_times_out_with_all_that_is_known(db: Database, run: str) -> None:
    db.admin(WAIT_REASON, "no worker can log in")
    with pytest.raises(psycopg.Error) as caught:
        db.sql("select df.await_instance(%s, 1)", run)
    assert caught.value.sqlstate == "DF030"
    for fragment in ("1 s", run, "pending", "no worker can log in"):
        assert fragment in str(caught.value.diag.message_primary)


@pytest.mark.parametrize("timeout", [0, -1])
def test_await_refuses_timeouts_below_one(db: Database, run: str, timeout: int) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="timeout_seconds"):
        db.sql("select df.await_instance(%s, %s)", run, timeout)


def test_await_of_an_unknown_id(db: Database) -> None:
    with pytest.raises(INVISIBLE, match="Instance not found"):
        db.sql("select df.await_instance('ffffffff')")


def test_await_is_strict(db: Database, run: str) -> None:
    assert db.rows("select df.await_instance(null), df.await_instance(%s, null)", run) == [(None, None)]


@pytest.mark.parametrize("savepoint", [False, True])
def test_await_refuses_what_the_transaction_itself_started(db: Database, savepoint: bool) -> None:
    with db.connect("app", autocommit=False) as conn:
        if savepoint:
            conn.execute("savepoint a")
        row = conn.execute("select df.start('SELECT 1')").fetchone()
        if savepoint:
            conn.execute("release savepoint a")
        with pytest.raises(WRONG_CONTEXT, match="not yet committed"):
            conn.execute("select df.await_instance(%s)", row)


def test_await_in_the_next_transaction_of_the_same_message(db: Database) -> None:
    db.sql("create table public.note (x int)")
    script = """begin; select set_config('t.run', df.start('SELECT 1'), false); commit;
                begin; insert into public.note values (1); select df.await_instance(current_setting('t.run'), 1)"""
    with db.connect("app") as conn, pytest.raises(psycopg.Error) as caught:
        conn.execute(script.encode())
    assert caught.value.sqlstate == "DF030"


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
def test_await_refuses_transactions_that_would_never_see_the_end(db: Database, run: str, isolation: str) -> None:
    with db.connect("app", autocommit=False) as conn:
        conn.execute(f"set transaction isolation level {isolation}".encode())
        with pytest.raises(WRONG_CONTEXT, match=isolation.upper()):
            conn.execute("select df.await_instance(%s)", [run])
    work(db)
    with db.connect("app", autocommit=False) as conn:
        conn.execute(f"set transaction isolation level {isolation}".encode())
        assert conn.execute("select df.await_instance(%s)", [run]).fetchone() == ("completed",)


@pytest.mark.parametrize("function", ["await_instance", "wait_for_completion"])
def test_neither_works_inside_a_workflow(db: Database, run: str, function: str) -> None:
    with db.connect("app") as conn:
        conn.execute("set df.in_workflow = 'true'")
        with pytest.raises(WRONG_CONTEXT, match=f"{function} cannot be called inside a workflow"):
            conn.execute(f"select df.{function}('{run}')".encode())


@pytest.mark.parametrize("function", ["await_instance", "wait_for_completion"])
def test_neither_is_a_workflow_step(db: Database, run: str, function: str) -> None:
    work(db)
    with pytest.raises(psycopg.Error, match=f"{function} cannot be used as a workflow step"):
        db.sql(f"select df.start(df.{function}(%s))", run)


def test_wait_for_completion_warns_and_waits(db: Database, run: str) -> None:
    work(db)
    with db.connect("app") as conn:
        warnings: list[str | None] = []
        conn.add_notice_handler(lambda d: warnings.append(d.severity))
        assert conn.execute("select df.wait_for_completion(%s)", [run]).fetchone() == ("completed",)
    assert warnings == ["WARNING"]
