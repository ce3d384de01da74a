"""Upgrading in place, tried with a made-up next version that changes a table: runs in flight go on."""

import pytest

from generator.render import artifacts, installer, release
from tests.crash.crew import problems
from tests.engine.test_install import OBJECTS, empty
from tests.state import ADDED_COLUMN, LAYOUT, MIGRATION
from tests.support import Database, Pump, Run, Server, install

SCRIPT = artifacts()["dist/pg_durable.sql"]
VERSION = release()[0]
NEXT = VERSION + ".1"

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


def next_version() -> str:
    """This installer as its successor: another version, and a migration where migrations stand."""
    place, script = "-- Migrations: ", installer(version=NEXT, oldest_upgradable=VERSION)
    assert script.count(place) == 1
    return script.replace(place, MIGRATION + place)


def upgrade(db: Database) -> None:
    """Installs the made-up version over this one; who was connected has to connect again."""
    for conn in db.connections.values():
        conn.close()
    install(db.dsn(), next_version())


@pytest.mark.usefixtures("template")  # it makes the roles
def test_runs_in_flight_go_on(server: Server) -> None:
    with empty(server) as db:
        install(db.dsn(), SCRIPT, worker_role="durable_worker")
        db.admin("select df.grant_usage('app')")
        before = Pump(db)
        runs = {name: before.start(flow) for name, flow in FLOWS.items() if name != "not begun"}
        signalled = before.start("df.wait_for_signal('go') |=> 's' ~> 'select $s.data as v'")
        before.work()
        before.close()
        runs["not begun"] = Run(db, str(db.sql(f"select df.start({FLOWS['not begun']})")))
        upgrade(db)
        assert NEXT in str(db.sql("select df.version()"))
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


def test_nothing_but_what_the_migration_says_is_different_afterwards(server: Server, db: Database) -> None:
    with empty(server) as old:
        install(old.dsn(), SCRIPT)
        old.admin("select df.grant_usage('app', include_http => true), df.grant_usage('other')")
        old.admin("select df.grant_worker('durable_worker')")
        upgrade(old)
        before, after = names(db), names(old)
        assert (after - before, before - after) == ({("column", ADDED_COLUMN)}, set())
        assert old.admin(LAYOUT) == 2
        upgrade(old)
        assert names(old) == after, "and it is applied once"


def names(db: Database) -> set[tuple[str, ...]]:
    """The kinds and names of all that is installed, but for the version."""
    return {row[:2] for row in db.rows(OBJECTS, user=None) if row[0] not in ("release", "constraint")}
