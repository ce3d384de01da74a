"""Why the runs of a role wait must be the real reason: only a log-in that failed is said to be one."""

import pytest

from tests.support import Database, wait_until
from tests.worker.process import WorkerProcess, await_end, start, start_as, status

NEWEST = "select id from df.instances order by created_at desc limit 1"


def reason(db: Database, instance: str) -> str:
    return str(db.admin("select coalesce(wait_reason, '') from df.instances where id = %s", instance))


def waiting_run(db: Database, role: str, obstacle: str) -> str:
    """A run of a role that has met an obstacle after its start; no session of it is left from before."""
    assert await_end(db, start(db, "'select 1'", user=role)) == "completed"
    db.connections.pop(role).close()
    db.admin("select pg_terminate_backend(pid) from pg_stat_activity where usename = %s", role)
    start_as(db, role, "'select 1', start_at => clock_timestamp() + interval '1 s'")  # no session of it before that
    instance = str(db.admin(NEWEST))
    db.admin(obstacle.format(role))
    wait_until(lambda: role in reason(db, instance), 30, "a reason")
    return instance


@pytest.mark.parametrize(
    "case",
    [
        ("select df.revoke_usage('{}')", "select df.grant_usage('{}')", "permission denied for schema df"),
        ("revoke usage on schema df from {}", "grant usage on schema df to {}", "permission denied for schema df"),
    ],
    ids=["usage revoked", "schema revoked by hand"],
)
def test_sessions_that_cannot_run_steps_say_why(
    db: Database, worker: WorkerProcess, locked_out: str, case: tuple[str, str, str]
) -> None:
    obstacle, remedy, says = case
    instance = waiting_run(db, locked_out, obstacle)
    assert reason(db, instance).startswith(f'sessions of role "{locked_out}" cannot run steps: {says}')
    assert "log in" not in reason(db, instance)
    db.admin(remedy.format(locked_out))
    assert await_end(db, instance, 60) == "completed"
    assert reason(db, instance) == ""


@pytest.mark.parametrize(
    ("obstacle", "says"),
    [
        ("alter role {} connection limit 0", "too many connections for role"),
        ("alter role {} set session_preload_libraries to 'no_such_library'", "could not access file"),
    ],
    ids=["no connection allowed", "a library that is not there"],
)
def test_a_login_that_fails_says_so(
    db: Database, worker: WorkerProcess, locked_out: str, obstacle: str, says: str
) -> None:
    instance = waiting_run(db, locked_out, obstacle)
    assert reason(db, instance).startswith(f'no worker can log in as role "{locked_out}": {says}')
    assert status(db, instance) in ("pending", "running")
