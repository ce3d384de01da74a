"""df.pause and df.resume: nothing new of a paused run begins, and nothing of it is lost."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg
import pytest

from tests.state import CLAIM_DIRECT, CLOCK_AHEAD, DUE_SOON, THREADS_IN_QUEUE
from tests.support import Database, Pump, Run, wait_until

PAUSE_SELF = "'select df.pause(id, ''the bank is closed'') from df.instances where label = ''self'''"
A, B = ("'insert into fx (t) values (''a'')'", "'insert into fx (t) values (''b'')'")


def notes(db: Database) -> list[str]:
    return [text for (text,) in db.rows("select t from fx order by ctid")]


def pause(run: Run, reason: str | None = None) -> None:
    assert run.db.sql("select df.pause(%s, %s)", run.id, reason) == "OK"


def resume(run: Run) -> None:
    assert run.db.sql("select df.resume(%s)", run.id) == "OK"


def stands_still(pump: Pump, run: Run) -> None:
    """Working and ticking move nothing of a paused run, and nothing is done again and again for it."""
    before = pump.db.admin(THREADS_IN_QUEUE)
    for _ in range(3):
        assert pump.work() == "empty"
        work = pump.tick()
    assert (work["roles"], work["direct"], work["http"], work["next_ms"]) == ([], 0, 0, None)
    assert not run.ended()
    assert pump.db.admin(THREADS_IN_QUEUE) == before
    assert pump.db.rows("select * from df.check()", user=None) == []


@contextmanager
def in_a_step(pump: Pump) -> Iterator[threading.Thread]:
    """Works beside the test; the step that inserts into fx waits until the end of the block."""

    def work() -> None:
        with suppress(psycopg.errors.AdminShutdown):  # a test ends this session
            pump.work()

    thread = threading.Thread(target=work)
    with pump.db.connect("app", autocommit=False) as holder:
        holder.execute("lock table fx")
        thread.start()
        wait_until(
            lambda: pump.db.admin("select count(*) from pg_locks where relation = 'fx'::regclass and not granted")
        )
        yield thread
    thread.join()


def test_a_run_stops_behind_the_step_that_pauses_it(pump: Pump) -> None:
    run = pump.start(f"{A} ~> {PAUSE_SELF} ~> {B}", "self")
    pump.work()
    stands_still(pump, run)
    assert notes(pump.db) == ["a"]
    reason = pump.db.sql("select wait_reason from df.instances")
    assert reason.startswith("paused by app at ")
    assert reason.endswith(": the bank is closed")
    pause(run, "for good")
    assert pump.db.sql("select wait_reason from df.instances").endswith(": for good")
    resume(run)
    pump.until(run.ended)
    assert (run.status, notes(pump.db)) == ("completed", ["a", "b"])
    assert pump.db.sql("select wait_reason from df.instances") is None


@pytest.mark.parametrize(
    "flow",
    [
        f"({A} & {PAUSE_SELF}) ~> {B}",
        f"df.loop({A} ~> {PAUSE_SELF} ~> df.break()) ~> {B}",
        f"df.map('select 1 as x', {A} ~> {PAUSE_SELF}) ~> {B}",
        f"df.timeout({A} ~> {PAUSE_SELF}, '1 hour') ~> {B}",
        f"({A} ~> {PAUSE_SELF} ~> {B}) | df.sleep(3600)",
    ],
)
def test_constructs_go_on_where_they_were(pump: Pump, flow: str) -> None:
    run = pump.start(flow, "self")
    pump.work()
    assert pump.db.sql("select wait_reason like 'paused by app%%' from df.instances")
    assert pump.work() == "empty"
    assert notes(pump.db) == ["a"]
    resume(run)
    pump.until(run.ended)
    assert (run.status, notes(pump.db)) == ("completed", ["a", "b"])


def test_a_run_that_has_not_begun(pump: Pump) -> None:
    run = pump.start(A)
    pause(run)
    stands_still(pump, run)
    assert run.status == "pending"
    resume(run)
    pump.until(run.ended)
    assert notes(pump.db) == ["a"]


@pytest.mark.parametrize("ends", [True, False])
def test_a_step_that_runs_ends_and_is_recorded(pump: Pump, ends: bool) -> None:
    step = A if ends else "'select 1 / count(*) from fx'"
    run = pump.start(f"df.catch({step} ~> {A}, {B})")
    pump.db.sql("set lock_timeout = '5s'")
    with in_a_step(pump):
        pause(run)  # waits for no step
    stands_still(pump, run)
    assert notes(pump.db) == (["a"] if ends else [])
    resume(run)
    pump.until(run.ended)
    assert (run.status, notes(pump.db)) == ("completed", ["a", "a"] if ends else ["b"])


def test_a_step_whose_session_dies_is_not_claimed_again(pump: Pump) -> None:
    run = pump.start(A)
    with in_a_step(pump) as thread:
        pause(run)
        pump.db.admin("select pg_terminate_backend(%s)", pump.session.info.backend_pid)
        thread.join()
    again = Pump(pump.db)
    again.work()
    stands_still(again, run)
    assert notes(pump.db) == []
    resume(run)
    again.until(run.ended)
    assert notes(pump.db) == ["a"]
    again.close()


@pytest.mark.parametrize("resumed_while_it_runs", [True, False])
def test_a_pause_that_is_over_before_the_step_is(pump: Pump, resumed_while_it_runs: bool) -> None:
    run = pump.start(f"{A} ~> {B}")
    with in_a_step(pump):
        pause(run)
        if resumed_while_it_runs:
            resume(run)
    if not resumed_while_it_runs:
        resume(run)
    pump.until(run.ended)
    assert notes(pump.db) == ["a", "b"]


@pytest.mark.parametrize(
    "wait", ["df.sleep(3600)", "df.wait_for_signal('go', 3600)", "df.timeout(df.wait_for_signal('go'), '1 hour')"]
)
def test_what_becomes_due_acts_when_the_run_goes_on(pump: Pump, wait: str) -> None:
    run = pump.start(f"df.catch({wait}, 'select 1') ~> {B}")
    pump.work()
    pause(run)
    pump.db.admin(CLOCK_AHEAD.format("2 hours"))
    stands_still(pump, run)
    resume(run)
    assert pump.db.admin(DUE_SOON)
    pump.until(run.ended)
    assert notes(pump.db) == ["b"]


def test_signals_wait_for_the_run(pump: Pump) -> None:
    run = pump.start(f"df.wait_for_signal('go') ~> df.wait_for_signal('go') ~> {B}")
    pump.work()
    pump.tick()
    pause(run)
    pump.db.sql("select df.signal(%s, 'go'), df.signal(%s, 'go')", run.id, run.id)
    stands_still(pump, run)
    resume(run)
    pump.until(run.ended)
    assert notes(pump.db) == ["b"]


def test_a_step_for_workers_is_leased_when_the_run_goes_on(pump: Pump) -> None:
    run = pump.start("'vacuum fx'")
    pump.work()
    pause(run)
    stands_still(pump, run)
    assert pump.db.rows(CLAIM_DIRECT, pump.worker, user=None) == []
    resume(run)
    assert len(pump.db.rows(CLAIM_DIRECT, pump.worker, user=None)) == 1


def test_a_paused_run_is_cancelled(pump: Pump) -> None:
    run = pump.start(f"{A} & df.sleep(10)")
    pause(run)
    pump.db.sql("select df.cancel(%s)", run.id)
    pump.tick()
    assert (run.status, pump.db.sql("select wait_reason from df.instances")) == ("cancelled", None)
    assert pump.db.admin(THREADS_IN_QUEUE) is None
    resume(run)
    pump.work()
    pump.db.admin(CLOCK_AHEAD.format("11 s"))
    pump.until(run.ended)
    assert (run.status, notes(pump.db)) == ("completed", ["a"])


def test_a_paused_run_is_undone(pump: Pump) -> None:
    run = pump.start(f"df.undo({A}, {B}) ~> {PAUSE_SELF} ~> {A}", "self")
    pump.work()
    stands_still(pump, run)
    pump.db.sql("select df.cancel(%s, undo => true)", run.id)
    pump.until(run.ended)
    assert (run.status, notes(pump.db)) == ("cancelled", ["a", "b"])


def test_paused_runs_count_as_live(pump: Pump) -> None:
    pump.db.admin("select df.set_role_limit('app', live_instances => 1)")
    pause(pump.start(A))
    with pytest.raises(psycopg.errors.ProgramLimitExceeded):
        pump.start(A)


def test_who_may_and_when(pump: Pump) -> None:
    run = pump.start("'select 1'")
    for act in ("pause", "resume"):
        for id_ in (run.id, "00000000"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                pump.db.sql(f"select df.{act}(%s)", id_, user="other")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="not paused"):
        resume(run)
    with pytest.raises(psycopg.errors.ProgramLimitExceeded):
        pause(run, "x" * 2_000_000)
    pump.until(run.ended)
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="already completed"):
        pause(run)


def test_a_rollback_undoes_it(pump: Pump) -> None:
    run = pump.start(A)
    with pump.db.connect("app", autocommit=False) as conn:
        conn.execute("select df.pause(%s)", [run.id])
        conn.rollback()
    pump.until(run.ended)
    assert notes(pump.db) == ["a"]


def resumed_behind(pump: Pump, run: Run, first: str) -> str | None:
    """Does something to the run in a transaction, for which a df.resume waits; the SQLSTATE that this gets."""
    errors: list[str | None] = []

    def second() -> None:
        with pump.db.connect("app") as conn:
            try:
                conn.execute("select df.resume(%s)", [run.id])
            except psycopg.Error as error:
                errors.append(error.sqlstate)

    with pump.db.connect("app", autocommit=False) as conn:
        conn.execute(first.encode(), [run.id])
        thread = threading.Thread(target=second)
        thread.start()
        wait_until(lambda: pump.db.admin("select count(*) from pg_stat_activity where wait_event_type = 'Lock'"))
    thread.join()
    return errors[0] if errors else None


def test_of_two_that_resume_one_does(pump: Pump) -> None:
    run = pump.start(A)
    pause(run)
    assert resumed_behind(pump, run, "select df.resume(%s)") == "55000"
    pump.until(run.ended)
    assert notes(pump.db) == ["a"]


def test_a_resume_against_a_cancel(pump: Pump) -> None:
    run = pump.start(A)
    pause(run)
    assert (resumed_behind(pump, run, "select df.cancel(%s)"), run.status) == (None, "running")
    pump.until(run.ended)
    assert (run.status, notes(pump.db)) == ("completed", ["a"])


def test_an_old_snapshot_cannot_resume_past_a_step(pump: Pump) -> None:
    run = pump.start(f"{A} ~> {B}")
    with pump.db.connect("app", autocommit=False) as conn:
        conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        with in_a_step(pump):
            pause(run)
            conn.execute("select df.status(%s)", [run.id])
        with pytest.raises(psycopg.errors.SerializationFailure):
            conn.execute("select df.resume(%s)", [run.id])
    resume(run)
    pump.until(run.ended)
    assert notes(pump.db) == ["a", "b"]
