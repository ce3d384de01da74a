"""Runs in flight: one that waits for a signal, one asleep, one in the middle of a step; and how they end."""

from tests.support import Database, wait_until
from tests.worker.process import await_end

PREPARE = """
create table effect (what text); create table gate (open bool);
create function pass_gate() returns void language plpgsql as
  'begin while not exists (select from gate) loop perform pg_sleep(0.02); end loop; end'"""

NOTE = "'insert into effect values (''{}'')'"
FLOWS = {
    "waits": f"{NOTE.format('waits: before')} ~> df.wait_for_signal('go') ~> {NOTE.format('waits: after')}",
    "sleeps": f"{NOTE.format('sleeps: before')} ~> df.sleep(2) ~> {NOTE.format('sleeps: after')}",
    "works": f"{NOTE.format('works: before')} ~> 'with w as (select pass_gate()) "
    "insert into effect select ''works: gate'' from w' ~> " + NOTE.format("works: after"),
}
EFFECTS = sorted([f"{name}: {when}" for name in FLOWS for when in ("before", "after")] + ["works: gate"])

IN_FLIGHT = """
select (select count(*) from df.waiting where kind in ('signal', 'sleep')) = 2
   and exists (select from pg_stat_activity
               where datname = current_database() and application_name ~ '^pg_durable:' and wait_event = 'PgSleep')"""


def begin(db: Database, user: str = "app") -> dict[str, str]:
    """Starts the runs; the worker has brought each to where it is meant to be. Name -> id."""
    db.sql(PREPARE, user=user)
    db.sql("select df.define('again', 'select 1')", user=user)
    keyed = "select df.start({}, %s, key => %s)"
    runs = {name: str(db.sql(keyed.format(flow), name, name, user=user)) for name, flow in FLOWS.items()}
    wait_until(lambda: db.sql(IN_FLIGHT, user=user), 20, f"runs in flight: {db.rows(STATES, user=None)}")
    return runs


def finish(db: Database, runs: dict[str, str], user: str = "app") -> None:
    """Lets the runs end: every effect is there once, and nothing is left over."""
    db.sql("insert into gate values (true)", user=user)
    db.sql("select df.signal(%s, 'go')", runs["waits"], user=user)
    assert {name: await_end(db, run, 20) for name, run in runs.items()} == dict.fromkeys(runs, "completed")
    assert await_end(db, db.sql("select df.start('@again')", user=user), 20) == "completed"
    again = "select df.start('select 1', key => %s)"
    for name in FLOWS:
        assert db.sql(again, name, user=user) == runs[name], "a key is lost"
    assert db.rows('select what from effect order by what collate "C"', user=user) == [(what,) for what in EFFECTS]
    assert db.rows("select * from df.check()", user=None) == []


STATES = "select label, status, error, wait_reason from df.instances"
