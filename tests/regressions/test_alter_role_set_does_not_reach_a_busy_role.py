"""A role that is never idle must get what ALTER ROLE ... SET says; its steps go on without a loss."""

from tests.support import Database, wait_until
from tests.worker.process import SpawnWorker, WorkerProcess, await_end, start, status

BUSY = "df.loop('insert into seen values (current_setting(''df_test.mark'', true))')"


def marks(db: Database) -> set[str | None]:
    return {mark for (mark,) in db.rows("select distinct mark from seen")}


def pids(db: Database) -> set[int]:
    busy = "select pid from pg_stat_activity where application_name like 'pg_durable:%%' and datname = %s"
    return {pid for (pid,) in db.rows(busy, db.name, user=None)}


def test_a_busy_role_sees_the_change(db: Database, spawn: SpawnWorker) -> None:
    db.sql("create table seen (mark text)")
    worker = spawn("--session-age", "1")
    run_id = start(db, BUSY)
    wait_until(lambda: marks(db))
    db.admin(f"alter role app in database {db.name} set df_test.mark = 'new'")
    wait_until(lambda: "new" in marks(db), 20)
    assert status(db, run_id) == "running"
    assert "role not reached" not in worker.log
    assert "session closed" in worker.log


def test_a_role_with_one_connection_goes_on(db: Database, spawn: SpawnWorker, locked_out: str) -> None:
    start(db, "'select 1'", user=locked_out)
    db.connections.pop(locked_out).close()
    db.admin(f"alter role {locked_out} connection limit 1")
    worker = spawn("--session-age", "0")
    db.admin("create table counted (n int)")
    db.admin(f"grant insert on counted to {locked_out}")
    db.admin(
        f"set session authorization {locked_out}; "
        "select df.start(df.loop('insert into counted values (1)')); reset session authorization"
    )
    wait_until(lambda: worker.log.count("session opened") > 3, 30)
    before = db.admin("select count(*) from counted")
    wait_until(lambda: db.admin("select count(*) from counted") > before, 30)
    assert db.admin("select count(*) from df.instances where status = 'failed'") == 0


def test_the_age_can_come_from_the_environment(db: Database) -> None:
    db.admin("select df.grant_worker('durable_worker'), df.grant_usage('app')")
    worker = WorkerProcess(db, PG_DURABLE_SESSION_AGE="0").logged("registered")
    try:
        for _ in range(3):
            assert await_end(db, start(db, "'select 1'")) == "completed"
        assert worker.log.count("session opened") > 1
    finally:
        worker.kill()
