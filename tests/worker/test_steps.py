"""SQL steps: run in sessions of the submitter, interrupted when their run is over, survived when they kill those."""

from tests.support import Database, wait_until
from tests.worker.process import MEETING, SpawnWorker, WorkerProcess, await_end, error, run, start, status


def test_a_step_is_logged_in_as_its_submitter(db: Database, worker: WorkerProcess) -> None:
    row = run(db, "'select session_user, current_user, current_setting(''TimeZone'') as zone'")["rows"][0]
    assert row == {"session_user": "app", "current_user": "app", "zone": "UTC"}


def test_the_settings_of_a_step_do_not_depend_on_the_role(db: Database, worker: WorkerProcess) -> None:
    db.admin("alter role other set timezone to 'Europe/Berlin'; alter role other set intervalstyle to 'iso_8601'")
    try:
        result = run(db, "'select timestamptz ''2026-05-01 12:00+02'' as t, interval ''26 h'' as i'", user="other")
    finally:
        db.admin("alter role other reset all")
    assert result["rows"] == [{"t": "2026-05-01T10:00:00+00:00", "i": "26:00:00"}]


def test_a_step_that_sets_something_leaves_nothing_behind(db: Database, worker: WorkerProcess) -> None:
    run(db, "'create temporary table scratch (i int)' ~> 'set search_path to nowhere' ~> 'listen something'")
    left = run(db, "'select to_regclass(''pg_temp.scratch'') as t, current_setting(''search_path'') as p'")
    assert left["rows"] == [{"t": None, "p": '"$user", public'}]


def test_branches_run_at_the_same_time(db: Database, worker: WorkerProcess) -> None:
    run(db, f"df.join({MEETING}, {MEETING})")


def test_no_more_steps_run_at_the_same_time_than_there_are_sessions(db: Database, spawn: SpawnWorker) -> None:
    spawn("--sessions", "2")
    for _ in range(4):
        start(db, "'select pg_sleep(0.4)'")
    most = 0

    def all_ended() -> bool:
        nonlocal most
        active = "select count(*)::int from pg_stat_activity where application_name ~ '^pg_durable:' and datname = %s"
        most = max(most, db.admin(active, db.name))
        return bool(db.admin("select every(status = 'completed') from df.instances"))

    wait_until(all_ended)
    assert most == 2


def test_a_busy_role_does_not_keep_others_waiting(db: Database, spawn: SpawnWorker) -> None:
    spawn("--sessions", "1")
    for _ in range(20):
        start(db, "'select pg_sleep(0.3)'")
    run(db, "'select 1'", user="other")
    left = "select count(*) from df.instances where submitted_by = 'app'::regrole and status <> 'completed'"
    assert db.admin(left) > 0, "it came before the last of them"


def test_a_long_step_is_shown_running(db: Database, worker: WorkerProcess) -> None:
    instance = start(db, "'select pg_sleep(60)'")
    seen = "select count(*) from df.nodes where instance_id = %s and status = 'running'"
    wait_until(lambda: db.admin(seen, instance))
    wait_until(lambda: status(db, instance) == "running", what="the worker to poll")


def test_cancel_interrupts_a_running_step(db: Database, worker: WorkerProcess) -> None:
    db.sql("create table effects (i int)")
    instance = start(db, "'with w as (select pg_sleep(30)) insert into effects select 1 from w'")
    wait_until(lambda: db.admin(IN_STEP, instance), what="the step to run")
    db.sql("select df.cancel(%s, 'enough')", instance)
    wait_until(lambda: not db.admin(IN_STEP, instance), 20, "the step to be interrupted")
    assert status(db, instance) == "cancelled"
    assert run(db, "'select count(*) from effects'")["rows"] == [{"count": 0}]


def test_the_loser_of_a_race_is_interrupted(db: Database, worker: WorkerProcess) -> None:
    instance = start(db, "df.race('select pg_sleep(30)', df.sleep(1))")
    assert await_end(db, instance, 5) == "completed"
    wait_until(lambda: not db.admin(IN_STEP, instance), 3, "the loser to be interrupted")


def test_a_step_that_somebody_else_cancels_fails_and_is_not_tried_again(db: Database, worker: WorkerProcess) -> None:
    instance = start(db, "'select pg_sleep(30)'")
    wait_until(lambda: db.admin(ASLEEP, instance), what="the step's statement to run")
    db.admin(
        "select pg_cancel_backend(pid) from pg_stat_activity where application_name ~ %s", f"^pg_durable:{instance}"
    )
    assert await_end(db, instance, 25) == "failed"
    assert "SQL execution failed" in error(db, instance)
    assert "57014" in error(db, instance)


def test_a_step_that_kills_its_session_fails_after_a_few_crashes(db: Database, worker: WorkerProcess) -> None:
    instance = start(db, "'select pg_terminate_backend(pg_backend_pid())'")
    assert await_end(db, instance, 15) == "failed"
    assert "died" in error(db, instance)
    assert run(db, "'select 1 as one'")["rows"] == [{"one": 1}]


def test_the_statement_timeout_of_a_role_counts_for_each_step(db: Database, worker: WorkerProcess) -> None:
    db.admin("alter role other set statement_timeout to '600ms'")
    try:
        run(db, "'select pg_sleep(0.4)' ~> 'select pg_sleep(0.4)' ~> 'select pg_sleep(0.4)'", user="other")
    finally:
        db.admin("alter role other reset all")


IN_STEP = """
select exists (select from pg_stat_activity
               where state = 'active' and application_name like 'pg_durable:' || %s || ':%%')"""
ASLEEP = """
select exists (select from pg_stat_activity
               where wait_event = 'PgSleep' and application_name like 'pg_durable:' || %s || ':%%')"""
