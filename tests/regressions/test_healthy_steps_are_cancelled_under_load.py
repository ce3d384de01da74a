"""Healthy steps must not be cancelled: counted in the log of a server of the test's own, under many short runs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import Cluster, under_test
from tests.support import wait_until
from tests.worker.process import WorkerProcess, own_database

DEBIAN_15 = Path("/usr/lib/postgresql/15/bin")
CANCELLED = "canceling statement due to user request"
OPEN = "select count(*) from df.instances where status in ('pending', 'running')"


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A server that logs its errors: PostgreSQL 15, where it was seen, if it is installed."""
    programs = DEBIAN_15 if (DEBIAN_15 / "initdb").exists() else under_test()
    with Cluster(programs, {"log_min_messages": "error", "log_min_error_statement": "panic"}) as made:
        yield made


@pytest.mark.parametrize(
    ("flow", "runs"),
    [("'select 1'", 3000), ("'select 1 / 0'", 500), ("'select 1' | df.sleep(60)", 300)],
    ids=["complete", "fail", "win a race"],
)
def test_no_step_of_many_short_runs_is_cancelled(cluster: Cluster, flow: str, runs: int) -> None:
    db = own_database(cluster)
    worker = WorkerProcess(db).logged("registered")
    try:
        for _ in range(10):
            db.sql(f"select count(df.start({flow})) from generate_series(1, %s)", runs // 10)
        wait_until(lambda: db.admin(OPEN) == 0, 300, "the end of all runs")
    finally:
        worker.stop()
        for conn in db.connections.values():
            conn.close()
    assert db.admin("select count(*) from df.instances") == runs
    db.connections[""].close()
    assert (cluster.home / "log").read_text().count(CANCELLED) == 0
