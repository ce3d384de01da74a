"""CALL df.work(): a round of work without a worker, for the calling role only."""

import threading

import psycopg
import pytest
from psycopg import errors

from tests import state
from tests.support import Database, Run, member_of_other, wait_until

CANCEL = "select pg_cancel_backend(%s)"


def started(db: Database, flow: str, user: str = "app") -> Run:
    return Run(db, db.sql(f"select df.start({flow})", user=user))


@pytest.mark.parametrize("policy", ["strict", "relaxed"])
def test_a_round_runs_what_is_ready(db: Database, policy: str) -> None:
    db.admin("select df.set_setting('commit_policy', %s)", policy)
    run = started(db, "'select 1 as a' |=> 'x' ~> ('select $x + 1 as b' & 'select $x + 2 as b')")
    db.sql("call df.work()")
    assert (run.status, [branch["rows"] for branch in run.result]) == ("completed", [[{"b": 2}], [{"b": 3}]])


def test_a_round_fires_timers_and_signals(db: Database) -> None:
    run = started(db, "df.wait_for_signal('go') ~> df.sleep(0) ~> 'select 7'")
    db.sql("call df.work()")
    assert run.status == "running"
    db.sql("select df.signal(%s, 'go')", run.id)
    db.sql("call df.work()")
    assert (run.status, run.value()) == ("completed", 7)


def test_a_round_ends_when_nothing_is_ready(db: Database) -> None:
    run = started(db, "df.sleep(3600)")
    db.sql("call df.work(3600)")
    assert run.status == "running"


def test_a_round_ends_when_its_time_is_up(db: Database) -> None:
    run = started(db, "df.loop('select pg_sleep(0.01)', 'select true')")
    db.sql("call df.work(1)")
    assert run.status == "running"


def test_the_runs_of_others_wait(db: Database) -> None:
    other = started(db, "'select 1'", user="other")
    db.sql("call df.work()")
    assert other.status == "None"
    assert db.sql("select df.status(%s)", other.id, user="other") == "pending"


def test_steps_find_the_settings_that_they_rely_on(db: Database) -> None:
    settings = "select current_setting('TimeZone') as zone, current_setting('df.in_workflow') as inside"
    with db.connect("app") as conn:
        conn.execute("set timezone to 'Europe/Berlin'; set datestyle to 'German'")
        run = started(db, f"$${settings}$$ ~> 'set timezone to ''Asia/Tokyo''' ~> $${settings}$$")
        conn.execute("call df.work()")
    assert run.result["rows"] == [{"zone": "UTC", "inside": "true"}]


def test_what_steps_leave_does_not_stay_in_the_session(db: Database) -> None:
    with db.connect("app") as conn:
        started(db, "'create temp table left_over (i int)' ~> 'set work_mem = ''65kB'''")
        conn.execute("call df.work()")
        left = conn.execute("select to_regclass('left_over'), current_setting('work_mem') = '65kB'").fetchone()
    assert left == (None, False)


def test_a_step_outside_of_transactions_waits_for_a_worker_and_says_so(db: Database) -> None:
    run = started(db, "'vacuum'")
    db.sql("call df.work()")
    reason = "a step outside of transactions waits for a worker, and none is running"
    assert db.rows("select status, wait_reason from df.instances where id = %s", run.id) == [("pending", reason)]


def test_a_failing_step_fails_its_run(db: Database) -> None:
    run = started(db, "'select 1 / 0'")
    db.sql("call df.work()")
    assert (run.status, "division by zero" in run.error) == ("failed", True)


def test_a_cancelled_step_is_rolled_back_and_waits(db: Database) -> None:
    run = started(db, "'select pg_sleep(60)' ~> 'select 1'")
    with db.connect("app") as conn:
        pid = conn.info.backend_pid
        with psycopg.connect(db.dsn("app"), autocommit=True) as other:

            def cancel() -> bool:
                sleeping = "select from pg_stat_activity where pid = %s and wait_event = 'PgSleep'"
                return bool(other.execute(sleeping, [pid]).fetchall() and other.execute(CANCEL, [pid]))

            canceller = threading.Thread(target=lambda: wait_until(cancel))
            canceller.start()
            with pytest.raises(errors.QueryCanceled, match="rolled back and waits"):
                conn.execute("call df.work(60)")
            canceller.join()
    assert run.status in ("pending", "running")
    assert db.admin(state.WORK_IS_LEFT) is True


def test_refused_in_a_transaction_block(db: Database) -> None:
    with (
        db.connect("app", autocommit=False) as conn,
        pytest.raises(errors.ActiveSqlTransaction, match="in a transaction block"),
    ):
        conn.execute("call df.work()")


@pytest.mark.parametrize(
    "statement", ["do $$ begin call df.work(); end $$", "select public.sneak()", "call public.sneak_too()"]
)
def test_refused_in_a_function_a_procedure_or_a_do_block(db: Database, statement: str) -> None:
    db.sql("create function public.sneak() returns void language plpgsql as $$ begin call df.work(); end $$")
    db.sql("create procedure public.sneak_too() language plpgsql as $$ begin call df.work(); end $$")
    with pytest.raises(errors.ActiveSqlTransaction, match="in a function, a procedure or a DO block"):
        db.sql(statement)


def test_refused_after_set_role(db: Database) -> None:
    with member_of_other(db), db.connect("app") as conn:
        conn.execute("set role other")
        with pytest.raises(errors.ObjectNotInPrerequisiteState, match='the current role is "other"'):
            conn.execute("call df.work()")


def test_refused_to_superusers_unless_they_may_start_runs(db: Database) -> None:
    with db.connect() as conn:
        with pytest.raises(errors.ObjectNotInPrerequisiteState, match="enable_superuser_instances"):
            conn.execute("call df.work()")
        conn.execute("select df.set_setting('enable_superuser_instances', 'on')")
        conn.execute("call df.work()")


def test_refused_without_usage_with_the_hint_of_df_start(db: Database) -> None:
    db.admin("create role visitor login; grant usage on schema df to visitor")
    try:
        with db.connect("visitor") as conn, pytest.raises(errors.InsufficientPrivilege) as caught:
            conn.execute("call df.work()")
        assert "df.grant_usage" in str(caught.value.diag.message_hint)
    finally:
        db.admin("drop owned by visitor; drop role visitor")


@pytest.mark.parametrize(
    ("seconds", "error"), [("null", errors.NullValueNotAllowed), ("-1", errors.InvalidParameterValue)]
)
def test_bad_seconds(db: Database, seconds: str, error: type[psycopg.Error]) -> None:
    with pytest.raises(error, match="max_seconds"):
        db.sql(f"call df.work({seconds})")
