"""The installer run again where runs are in flight and a worker works: they go on unchanged, nothing waits for it."""

import psycopg

from generator.render import artifacts
from tests import state
from tests.places.flight import begin, finish
from tests.support import Database, install
from tests.worker.conftest import spawn, worker  # noqa: F401 - fixtures
from tests.worker.process import WorkerProcess, run

SCRIPT = artifacts()["dist/pg_durable.sql"]


def test_runs_in_flight_go_on_unchanged(db: Database, worker: WorkerProcess) -> None:  # noqa: F811
    runs = begin(db)
    before = db.rows(state.IN_FLIGHT, user=None)
    install(f"{db.dsn()} options='-c lock_timeout=10s'", SCRIPT)
    after = db.rows(state.IN_FLIGHT, user=None)
    lasting = [row for row in before if row[0].get("status") == "completed"]
    assert [row for row in lasting if row not in after] == []
    assert run(db, "'select 1'")["row_count"] == 1, "others go on while a step is in progress"
    finish(db, runs)
    refused = [line for line in worker.log.splitlines() if "refused" in line]
    assert [line for line in refused if "lock timeout" not in line] == []  # it asks again at once


def test_an_installation_that_fails_half_way_leaves_the_runs_alone(db: Database, worker: WorkerProcess) -> None:  # noqa: F811
    runs = begin(db)
    try:
        install(db.dsn(), SCRIPT, worker_role="nobody_here")
    except psycopg.Error as error:
        assert "nobody_here" in str(error)
    else:
        raise AssertionError("a worker role that does not exist was accepted")
    finish(db, runs)
