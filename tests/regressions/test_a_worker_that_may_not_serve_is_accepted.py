"""A worker that is not installed or not authorised for must refuse to start, and say the statement that helps."""

import pytest

from tests.regressions.test_healthy_steps_are_cancelled_under_load import OPEN
from tests.support import Database
from tests.worker.process import SpawnWorker, WorkerProcess, run


def refusal(db: Database, dsn: str) -> str:
    """What a worker said that ended by itself."""
    worker = WorkerProcess(db, dsn=dsn)
    try:
        assert worker.process.wait(30) == 1
    finally:
        worker.kill()
    assert "Traceback" not in worker.log
    return worker.log


@pytest.mark.parametrize("role", ["other", None], ids=["a role without grant", "the owner, a superuser"])
def test_without_grant_it_refuses_with_the_statement_that_helps(db: Database, role: str | None) -> None:
    said = refusal(db, db.dsn(role))
    name = role or db.admin("select current_user::text")
    assert f"SELECT df.grant_worker('{name}');" in said
    assert db.admin("select count(*) from df.workers") == 0


@pytest.mark.parametrize("role", ["other", None], ids=["other", "superuser"])
def test_the_statement_helps(db: Database, spawn: SpawnWorker, role: str | None) -> None:
    said = refusal(db, db.dsn(role))
    db.admin(said[said.index("SELECT df.grant_worker") :].partition(";")[0])
    spawn(dsn=db.dsn(role))
    db.sql("create table calls (n int)")
    db.sql(
        "create procedure p() language plpgsql as "
        "'begin insert into calls values (1); commit; perform pg_sleep(1.5); end'"
    )
    run(db, "'call p()'")
    assert db.sql("select count(*) from calls") == 1
    assert db.admin(OPEN) == 0


def test_without_installation_it_refuses_with_the_command_that_helps(db: Database) -> None:
    said = refusal(db, db.server.dsn_for("template1", "durable_worker"))
    assert "pg-durable install --worker-role durable_worker" in said
    assert '"template1"' in said
