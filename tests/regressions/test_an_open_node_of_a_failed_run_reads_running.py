"""A run that fails as a whole, because its role may not go on, leaves no node that reads running."""

import uuid
from collections.abc import Iterator

import pytest

from tests.support import Database, Run, wait_until
from tests.worker.conftest import spawn, worker  # noqa: F401 - fixtures

# Flows that come back to the queue once the time has passed, with what is open then around them.
FLOWS = [
    "df.sleep(3) ~> 'select 1'",
    "'select 1' ~> (df.sleep(3) ~> 'select 2' & df.wait_for_signal('never'))",
    "df.loop(df.sleep(3) ~> 'select 1')",
    "df.loop('select 0' & (df.sleep(3) ~> 'select 1'))",
    "'select 1' ~> df.loop(df.sleep(3) ~> 'select 1', 'select false') ~> 'select 3'",
    "df.if('select true', df.sleep(3) ~> 'select 1', 'select 2')",
    "df.race(df.sleep(3) ~> 'select 1', df.wait_for_signal('never'))",
]
SLEEPING = "select count(*) from df.nodes where instance_id = %s and node_type = 'SLEEP' and status = 'running'"
NODES = (
    "select node_type, status, coalesce(error, ''), result #>> '{}', completed_at from df.nodes where instance_id = %s"
)


@pytest.fixture
def role(db: Database) -> Iterator[str]:
    """A role that is to go."""
    role = f"r_{uuid.uuid4().hex[:8]}"
    db.admin(f"create role {role} login; select df.grant_usage('{role}')")
    yield role
    if db.admin("select count(*) from pg_roles where rolname = %s", role):
        drop(db, role)


def drop(db: Database, role: str) -> None:
    db.admin(f"drop owned by {role}; drop role {role}")


def start_and_sleep(db: Database, role: str, flow: str) -> Run:
    """A run that has arrived at its sleep; the session that has started it is gone."""
    with db.connect(role) as conn:
        row = conn.execute(f"select df.start({flow})".encode()).fetchone()
        assert row
    run = Run(db, str(row[0]))
    wait_until(lambda: db.admin(SLEEPING, run.id) == 1)
    return run


def await_failure(db: Database, run: Run) -> None:
    wait_until(lambda: db.admin("select status from df.instances where id = %s", run.id) == "failed", 30)


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("flow", FLOWS)
def test_what_was_open_reads_failed_with_the_error_of_the_run(db: Database, role: str, flow: str) -> None:
    run = start_and_sleep(db, role, flow)
    open_nodes = db.admin("select count(*) from df.nodes where instance_id = %s and status = 'running'", run.id)
    drop(db, role)
    await_failure(db, run)
    nodes = db.rows(NODES, run.id, user=None)
    assert [node for node in nodes if node[1] == "running"] == []
    failed = [node for node in nodes if node[1] == "failed"]
    assert 0 < len(failed) <= open_nodes
    assert all((error, result) == (run.error, run.error) and at is not None for _, _, error, result, at in failed)


@pytest.mark.usefixtures("worker")
def test_the_loser_of_a_race_keeps_what_it_read(db: Database, role: str) -> None:
    flow = "df.race('select 1', df.wait_for_signal('never')) ~> df.sleep(3) ~> 'select 2'"
    run = start_and_sleep(db, role, flow)
    before = run.node("SIGNAL")["status"]
    drop(db, role)
    await_failure(db, run)
    assert (run.node("SIGNAL")["status"], run.node("RACE")["status"]) == (before, "completed")
