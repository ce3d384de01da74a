"""A run that fails as a whole, because its role may not go on, leaves no node that reads running."""

import pytest

from tests.support import Database, Run, wait_until
from tests.worker.conftest import spawn, worker  # noqa: F401 - fixtures
from tests.worker.process import WorkerProcess

# Flows that come back to the queue once the time has passed, with what is open then around them.
FLOWS = [
    "df.sleep(1) ~> 'select 1'",
    "'select 1' ~> (df.sleep(1) ~> 'select 2' & df.wait_for_signal('never'))",
    "df.loop(df.sleep(1) ~> 'select 1')",
    "df.loop('select 0' & (df.sleep(1) ~> 'select 1'))",
    "'select 1' ~> df.loop(df.sleep(1) ~> 'select 1', 'select false') ~> 'select 3'",
    "df.if('select true', df.sleep(1) ~> 'select 1', 'select 2')",
    "df.race(df.sleep(1) ~> 'select 1', df.wait_for_signal('never'))",
]
NODES = "select node_type, status, coalesce(error, ''), result #>> '{}', completed_at from df.nodes where instance_id = %s"


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("flow", FLOWS)
def test_what_was_open_reads_failed_with_the_error_of_the_run(db: Database, flow: str) -> None:
    run = Run(db, str(db.sql(f"select df.start({flow})")))
    sleeping = "select count(*) from df.nodes where instance_id = %s and node_type = 'SLEEP' and status = 'running'"
    wait_until(lambda: db.admin(sleeping, run.id) == 1)
    open_nodes = db.admin("select count(*) from df.nodes where instance_id = %s and status = 'running'", run.id)
    db.admin("select df.revoke_usage('app')")
    try:
        status = "select status from df.instances where id = %s"
        wait_until(lambda: db.admin(status, run.id) == "failed", 20)
        nodes = db.rows(NODES, run.id, user=None)
    finally:
        db.admin("select df.grant_usage('app')")
    assert "USAGE" in run.error
    assert [node for node in nodes if node[1] == "running"] == []
    failed = [node for node in nodes if node[1] == "failed"]
    assert 0 < len(failed) <= open_nodes
    assert all((error, result) == (run.error, run.error) and at is not None for _, _, error, result, at in failed)


def test_the_loser_of_a_race_keeps_what_it_read(db: Database, worker: WorkerProcess) -> None:  # noqa: F811
    run = Run(db, str(db.sql("select df.start(df.race('select 1', df.wait_for_signal('never')) ~> df.sleep(1) ~> "
                             "'select 2')")))  # fmt: skip
    wait_until(lambda: run.node("SLEEP")["status"] == "running")
    before = run.node("SIGNAL")["status"]
    db.admin("select df.revoke_usage('app')")
    try:
        wait_until(lambda: db.admin("select status from df.instances where id = %s", run.id) == "failed", 20)
        assert (run.node("SIGNAL")["status"], run.node("RACE")["status"]) == (before, "completed")
    finally:
        db.admin("select df.grant_usage('app')")
