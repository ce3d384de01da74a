"""Upgrading in place, from every release: what was started before goes on, and the result is a fresh installation."""

import gzip
from pathlib import Path

import pytest

from generator.render import ROOT
from tests.crash.crew import problems
from tests.engine.test_install import OBJECTS, SCRIPT, empty
from tests.support import Database, Pump, Run, Server, install

RELEASES = sorted((ROOT / "tests" / "releases").glob("pg_durable-*.sql.gz"))

# Flows that wait while the upgrade is made, but for the last; their last step gives 3.
FLOWS = {
    "a sequence grouped to the left": "df.sleep(0.01) ~> 'select 1' |=> 'x' ~> 'select 2' ~> 'select $x + 2 as v'",
    "a sequence grouped to the right": "df.sleep(0.01) ~> ('select 1' |=> 'x' ~> ('select 2' ~> 'select $x + 2 as v'))",
    "a named sequence": "('select 1' ~> df.sleep(0.01) ~> 'select 3 as v') |=> 'x' ~> 'select $x as v'",
    "a join": "(('select 1' ~> df.sleep(0.01) ~> 'select 2') & df.sleep(0.01)) ~> ('select 1' ~> 'select 3 as v')",
    "a join of which one branch has ended": "('select 1' & df.sleep(0.01)) ~> 'select 3 as v'",
    "a race": "((df.sleep(0.01) ~> 'select 2') | df.sleep(100)) ~> 'select 3 as v'",
    "a branch": "(df.sleep(0.01) ~> 'select true') ?> ('select 1' ~> 'select 3 as v') !> 'select 4'",
    "a loop": "'create temp sequence s' ~> df.loop(df.sleep(0.01) ~> 'select 1' ~> 'select 3 as v', 'select false')",
    "not begun": "'select 1' ~> 'select 2' ~> 'select 3 as v'",
}


@pytest.fixture(params=RELEASES, ids=lambda path: path.name.removesuffix(".sql.gz"))
def release(request: pytest.FixtureRequest) -> str:
    path: Path = request.param
    return gzip.decompress(path.read_bytes()).decode()


def upgraded(db: Database) -> None:
    for conn in db.connections.values():
        conn.close()
    install(db.dsn(), SCRIPT)


@pytest.mark.usefixtures("template")  # it makes the roles
def test_runs_in_flight_go_on(server: Server, release: str) -> None:
    with empty(server) as db:
        install(db.dsn(), release, worker_role="durable_worker")
        db.admin("select df.grant_usage('app')")
        before = Pump(db)
        runs = {name: before.start(flow) for name, flow in FLOWS.items() if name != "not begun"}
        signalled = before.start("df.wait_for_signal('go') |=> 's' ~> 'select $s.data as v'")
        before.work()
        before.close()
        runs["not begun"] = Run(db, str(db.sql(f"select df.start({FLOWS['not begun']})")))
        upgraded(db)
        assert problems(db) == []
        after = Pump(db)
        db.sql("select df.signal(%s, 'go', '3')", signalled.id)
        for run in (*runs.values(), signalled):
            after.until(run.ended)
        assert {name: (run.status, run.error) for name, run in runs.items()} == dict.fromkeys(runs, ("completed", ""))
        assert {name: last_value(run) for name, run in runs.items()} == dict.fromkeys(runs, 3)
        assert last_value(signalled) == 3
        assert problems(db) == []
        after.close()


def last_value(run: Run) -> object:
    """The column v of the run's result, which a loop and a branch hand on as it is."""
    return run.result["rows"][0]["v"]


def test_what_stands_afterwards_is_what_a_fresh_installation_makes(server: Server, release: str, db: Database) -> None:
    with empty(server) as old:
        install(old.dsn(), release)
        old.admin("select df.grant_usage('app', include_http => true), df.grant_usage('other')")
        old.admin("select df.grant_worker('durable_worker')")
        upgraded(old)
        assert kinds(old) == kinds(db)


def kinds(db: Database) -> set[tuple[str, ...]]:
    """Everything that is installed, but for the moment at which it was."""
    return {row for row in db.rows(OBJECTS, user=None) if row[0] != "release"}
