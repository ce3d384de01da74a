"""Roles that the worker cannot log in as: their runs wait and say why, and go on when they can."""

from pathlib import Path

import pytest
from pg_durable.embedded import EmbeddedServer
from pg_durable.login import Login

from tests.support import Database, wait_until
from tests.worker.process import WorkerProcess, await_end, own_database, run, start, start_as, status


def wait_reason(db: Database, instance: str) -> str:
    return db.admin("select wait_reason from df.instances where id = %s", instance) or ""


@pytest.mark.parametrize("flow", ["'select 1'", "'vacuum pg_catalog.pg_class'"])
def test_an_unreachable_role_waits_with_a_reason(
    db: Database, worker: WorkerProcess, locked_out: str, flow: str
) -> None:
    instance = start(db, flow, user=locked_out)
    assert await_end(db, instance) == "completed"
    db.admin(f"alter role {locked_out} connection limit 0")
    db.admin("select pg_terminate_backend(pid) from pg_stat_activity where usename = %s", locked_out)
    db.connections.pop(locked_out).close()
    start_as(db, locked_out, flow)
    waiting = str(db.admin("select id from df.instances order by created_at desc limit 1"))
    wait_until(lambda: f'no worker can log in as role "{locked_out}"' in wait_reason(db, waiting))
    assert "too many connections" in wait_reason(db, waiting)
    assert status(db, waiting) == "pending"
    run(db, "'select 1'")
    db.admin(f"alter role {locked_out} connection limit -1")
    assert await_end(db, waiting) == "completed"
    assert wait_reason(db, waiting) == ""


async def test_the_password_of_the_worker_is_not_sent_for_other_roles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "secret")
    login = Login("host=db.example user=durable_worker password=secret sslmode=require dbname=home")
    arguments = login.for_role("app")
    assert arguments["user"] == "app"
    assert arguments["password"] == ""
    assert arguments["sslmode"] == "require"


async def test_the_options_of_the_dsn_are_kept() -> None:
    options = Login("options='-c search_path=x' dbname=home").for_role("app")["options"]
    assert options.startswith("-c search_path=x -c TimeZone=UTC")


def test_a_role_with_few_sessions_is_served_with_those(db: Database, worker: WorkerProcess, locked_out: str) -> None:
    start(db, "'select 1'", user=locked_out)
    db.connections.pop(locked_out).close()
    db.admin(f"alter role {locked_out} connection limit 1")
    start_as(db, locked_out, "df.join('select pg_sleep(0.3)', 'select pg_sleep(0.3)')")
    waiting = str(db.admin("select id from df.instances order by created_at desc limit 1"))
    assert await_end(db, waiting) == "completed"
    assert wait_reason(db, waiting) == ""


@pytest.mark.slow
def test_the_password_of_a_role_comes_from_the_password_file(own_server: EmbeddedServer, tmp_path: Path) -> None:
    db = own_database(own_server)
    db.admin("alter role app password 'right'; alter role durable_worker password 'own'")
    (own_server.data / "pg_hba.conf").write_text(PASSWORDS)
    db.admin("select pg_reload_conf()")
    passwords = tmp_path / "pgpass"
    write_passwords(passwords, "wrong")
    dsn = f"{db.dsn('durable_worker')} password=own"
    worker = WorkerProcess(db, dsn=dsn, PGPASSFILE=str(passwords), PGPASSWORD="own").logged("registered")
    start_as(db, "app", "'select session_user'")
    instance = str(db.admin("select id from df.instances"))
    wait_until(lambda: wait_reason(db, instance))
    assert wait_reason(db, instance) == (
        'no worker can log in as role "app": password authentication failed for user "app"'
    )
    write_passwords(passwords, "right")
    assert await_end(db, instance) == "completed"
    assert worker.stop() == 0
    assert "own" not in worker.log.replace("down", "")


def write_passwords(path: Path, password: str) -> None:
    path.write_text(f"*:*:*:app:{password}\n")
    path.chmod(0o600)


PASSWORDS = """
local all app scram-sha-256
local all durable_worker scram-sha-256
local all all trust
"""
