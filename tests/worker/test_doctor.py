"""`pg-durable doctor`: silent where all is well; names each broken set-up, with what to do."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from pg_durable.cli.doctor import CHECKS, LIMITS, Finding, examine, shown

from tests import state
from tests.support import Database, Pump, wait_until
from tests.terminal import command
from tests.worker.process import WorkerProcess, await_end, start


@pytest.fixture
def healthy(db: Database) -> Iterator[Database]:
    """A database in which a worker was seen just now, and a role for what a test breaks."""
    db.admin(state.A_WORKER_IDLE)
    db.admin("drop role if exists patient")
    db.admin("create role patient login; select df.grant_usage('patient')")
    yield db
    with db.connect(options="-c default_transaction_read_only=off") as conn:
        conn.execute("drop owned by patient")
        conn.execute("drop role patient")
        conn.execute("alter role durable_worker login")
        conn.execute("alter role app login")
        conn.execute(
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = 'left_over'"
        )


def found(db: Database, **limits: Any) -> set[tuple[str, str]]:
    """Level and place of each finding, but for what other tests of this server may have open."""
    with db.connect() as conn:
        return {(each.level, f"{each.group}.{each.check}") for each in examine(conn, LIMITS | limits)}


def test_a_healthy_installation_shows_nothing(healthy: Database) -> None:
    done = command("doctor", "--dsn", healthy.dsn())
    assert (done.returncode, done.stdout, done.stderr) == (0, "no problems\n", "")
    done = command("doctor", "--json", "--dsn", healthy.dsn())
    assert (done.returncode, json.loads(done.stdout)) == (0, [])


def test_a_busy_installation_shows_nothing(db: Database, worker: WorkerProcess) -> None:
    assert await_end(db, start(db, "'select 1' & df.sleep(0) & 'select 2'")) == "completed"
    for flow in ("'select pg_sleep(30)'", "df.sleep(3600)", "df.wait_for_signal('go')"):
        start(db, flow)
    wait_until(lambda: db.rows("select * from df.running_steps", user=None))
    assert found(db) == set()


BROKEN = [
    ("problem worker.role", "select df.revoke_worker('durable_worker')"),
    ("problem worker.login", "alter role durable_worker nologin"),
    ("problem worker.alive", state.WORKERS_SEEN_AGO.replace("%s", "'1 h'")),
    ("note settings.time_outs", "alter role patient in database {db} set statement_timeout = '5s'"),
    ("note settings.time_outs", "alter role patient in database {db} set lock_timeout = '5s'"),
    ("note settings.time_outs", "alter database {db} set statement_timeout = '5min'"),
    ("problem settings.read_only", "alter database {db} set default_transaction_read_only = on"),
    ("problem settings.read_only", "alter role patient in database {db} set default_transaction_read_only = on"),
    ("problem settings.commit", "alter database {db} set synchronous_commit = off"),
    ("problem settings.commit", "alter role patient in database {db} set synchronous_commit = off"),
    ("problem roles.all_seeing", "alter role patient bypassrls; grant pg_write_all_data to patient"),
    ("problem roles.all_seeing", "alter role patient bypassrls; grant pg_read_all_data to patient"),
    ("note roles.bypassrls", "alter role patient bypassrls"),
    ("note roles.write_all", "grant pg_write_all_data to patient"),
    ("note roles.maintain", "grant pg_maintain to patient"),
    ("problem vacuum.slots", "select pg_create_physical_replication_slot('left_over', true)"),
    ("problem vacuum.autovacuum", state.NO_AUTOVACUUM),
    ("problem server.sessions", "select df.set_setting('max_user_connections', '900')"),
    ("problem server.limit", "alter database {db} connection limit 5"),
    ("note server.dblink", "select df.set_setting('loopback_dsn', 'host=/tmp')"),
    ("note installed.version", state.INSTALLED_VERSION),
]  # fmt: skip


@pytest.mark.parametrize(("expected", "breaking"), BROKEN)
def test_what_is_broken_is_named(healthy: Database, expected: str, breaking: str) -> None:
    if "pg_maintain" in breaking and healthy.admin("select to_regrole('pg_maintain') is null"):
        pytest.skip("PostgreSQL 17 and later")
    healthy.admin(breaking.replace("{db}", healthy.name))
    level, place = expected.split()
    assert found(healthy) == {(level, place)}
    done = command("doctor", "--dsn", healthy.dsn())
    assert done.returncode == (level == "problem") and done.stdout.startswith(level), done.stderr
    assert "->" in done.stdout and max(map(len, done.stdout.splitlines())) <= 80


def test_roles_that_no_worker_reaches_are_named(healthy: Database) -> None:
    start(healthy, "'select 1'")
    healthy.admin(state.WAIT_REASON, 'no worker can log in as role "app": no entry in pg_hba.conf')
    assert found(healthy) == {("problem", "grants.reached")}
    healthy.admin("alter role app nologin")
    assert found(healthy) == {("problem", "grants.reached"), ("problem", "grants.submitter")}


def test_a_role_that_is_paused_is_named(healthy: Database) -> None:
    healthy.sql("select df.pause_role('app')")
    assert found(healthy) == set()  # it has no runs
    start(healthy, "'select 1'")
    assert found(healthy) == {("note", "grants.paused")}
    healthy.sql("select df.resume_role('app')")
    healthy.admin("select df.set_setting('paused', 'on')")
    assert found(healthy) == {("note", "grants.paused")}


def test_a_role_whose_runs_wait_must_log_in_too(healthy: Database) -> None:
    start(healthy, "df.sleep(3600)")
    with healthy.connect("app") as conn:
        conn.execute("call df.work(10)")
    healthy.admin("alter role app nologin")
    try:
        assert found(healthy) == {("problem", "grants.submitter")}
    finally:
        healthy.admin("alter role app login")


def test_what_could_not_be_undone_is_named(healthy: Database) -> None:
    start(healthy, "df.undo('select 1', 'select 1/0') ~> 'select 1/0'")
    with healthy.connect("app") as conn:
        conn.execute("call df.work(10)")
    assert found(healthy) == {("note", "runs.undo")}


def test_what_holds_back_vacuum_is_named(healthy: Database) -> None:
    with healthy.connect(autocommit=False) as conn:
        conn.execute("create table held ()")
        assert ("problem", "vacuum.snapshots") in found(healthy, snapshot="0")


def test_limits_that_are_exceeded_are_named(healthy: Database) -> None:
    assert found(healthy, age=-1, queue=-1) == {("problem", "vacuum.wraparound"), ("problem", "server.notifications")}


def test_what_df_check_finds_is_named(healthy: Database) -> None:
    start(healthy, "'select 1'")
    healthy.admin(state.LOSE_THE_QUEUE)
    assert found(healthy) == {("problem", "runs.check")}


def test_timers_that_nobody_fires_are_named(healthy: Database, pump: Pump) -> None:
    run = pump.start("df.sleep(3600)")
    pump.until(lambda: run.status == "running" or healthy.rows("select * from df.waiting", user=None))
    healthy.admin(state.TIMERS_ARE_LATE)
    assert found(healthy) == {("problem", "runs.timers")}


def test_schedules_that_are_overdue_are_named(healthy: Database) -> None:
    healthy.sql("select df.schedule('nightly', '0 3 * * *', 'select 1')")
    assert found(healthy) == set()
    healthy.admin(state.SCHEDULES_LATE, "10 minutes")
    assert found(healthy) == {("note", "runs.schedules")}


def test_another_clock_is_named(healthy: Database) -> None:
    with healthy.connect() as conn:
        findings = examine(conn, LIMITS, datetime.now(UTC) + timedelta(hours=1))
    assert [each.check for each in findings] == ["clock"]


def test_a_database_without_it_is_named(server: Any) -> None:
    done = command("doctor", "--dsn", server.dsn_for("template1"))
    assert done.returncode == 1 and "is not installed in database template1" in done.stdout


def test_a_role_is_told_what_it_may_not_see(healthy: Database) -> None:
    done = command("doctor", "--dsn", healthy.dsn("app"))
    assert done.returncode == 0, done.stdout
    assert "not examined: permission denied" in done.stdout and "Ask as the owner" in done.stdout
    unseen = " ".join(done.stdout.split()).partition("This says nothing about what was not examined: ")[2].split(", ")
    assert {"installed.rights", "worker.role", "grants.reached", "runs.timers", "runs.check"} <= set(unseen)
    assert "the runs and schedules of other roles, which role app does not see" in " ".join(done.stdout.split())


def test_it_writes_nothing(healthy: Database) -> None:
    with healthy.connect() as conn:
        examine(conn, LIMITS)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            conn.execute("create table t ()")


def test_each_check_says_what_to_do_in_few_words() -> None:
    assert len({(check.group, check.name) for check in CHECKS}) == len(CHECKS)
    for check in CHECKS:
        assert check.todo
        lines = shown(Finding(check.group, check.name, check.level, "word " * 60, check.todo))
        assert max(map(len, lines)) <= 80
