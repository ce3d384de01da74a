"""A publication of all tables: every table has a primary key, so that no update or delete of the engine is refused."""

from tests import state
from tests.support import Database, Pump

KEYLESS = """
select c.oid::regclass::text from pg_class c
where c.relkind = 'r' and c.relnamespace in ('df'::regnamespace, 'df_engine'::regnamespace)
  and not exists (select from pg_index i where i.indrelid = c.oid and i.indisprimary)"""


def test_every_table_has_a_primary_key(db: Database) -> None:
    assert db.rows(KEYLESS, user=None) == []


def test_everything_the_engine_does_is_published(db: Database) -> None:
    db.admin("select df.set_setting('retry_initial_delay', '10 ms'), df.set_setting('loop_min_interval', '0')")
    db.sql("create table effect (n int primary key)")
    db.sql("create sequence tries")
    db.admin("create publication everything for all tables")
    pump = Pump(db)
    failing = "'select 1 / (mod(nextval(''tries''), 3) / 2)'"
    retried = f"df.retry({failing}, max_attempts => 5, initial_delay => '10 ms', retry_on => '{{22012}}')"
    runs = [
        pump.run(f"df.loop({retried}, 'select currval(''tries'') < 9')"),
        pump.run("('insert into effect values (1)' & 'select 2') ~> ('select 3' | df.sleep(600))"),
    ]
    assert [run.status for run in runs] == ["completed", "completed"], [run.error for run in runs]
    waiting = pump.start("df.wait_for_signal('go') |=> 'answer' ~> 'select 1'")
    pump.until(lambda: db.sql("select count(*) from df.waiting") == 1)
    db.sql("select df.signal(%s, 'go')", waiting.id)
    pump.until(waiting.ended)
    doomed = pump.start("df.sleep(600)")
    pump.until(lambda: db.sql("select count(*) from df.waiting") == 1)
    db.sql("select df.cancel(%s, 'enough')", doomed.id)
    pump.until(doomed.ended)
    db.sql("select df.setvar('a', '1'), df.setvar('a', '2'), df.unsetvar('a')")
    db.admin("select df.set_setting('retention_days', '0')")
    db.admin(state.RETENTION_IS_DUE)
    pump.until(lambda: db.admin("select count(*) from df.instances") == 0)
    pump.supervisor.execute("select df_engine.unregister_worker(%s)", [pump.worker])
    pump.close()
