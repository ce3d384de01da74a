"""The rules of df.test: what is virtual, what is left, who may call it."""

import psycopg
import pytest

from tests.state import (
    BEGIN_TEST,
    CLOCK_IS_REAL,
    END_REAL_STEP_IN_TEST,
    LEFT_OF_TESTS,
    NEXT_IN_TEST,
    OWN_KEY,
    READY_SOON,
    VIRTUAL,
)
from tests.support import Database, Pump

MANY = (
    "df.join(df.map('select g as x from generate_series(1, 3) g', 'insert into fx (i) values ($item.x)'), "
    "df.undo('insert into fx (t) values (''undone'')', 'delete from fx where t = ''undone''') ~> df.sleep(60) "
    "~> df.wait_for_signal('s') |=> 's' ~> df.retry('select 1/0', max_attempts => 2))"
)
SIGNAL = """, mocks => '{"signals": {"s": 1}}'"""


def test_nothing_is_left_but_effects(granted: Database) -> None:
    granted.sql("begin")
    rows = granted.rows(f"select status from df.test({MANY}{SIGNAL})")
    assert rows[-1] == ("failed",)
    assert granted.rows("select i from fx order by i") == [(1,), (2,), (3,)]
    granted.sql("commit")
    assert granted.admin(LEFT_OF_TESTS) == 0
    assert granted.rows("select i from fx order by i") == [(1,), (2,), (3,)]
    assert granted.rows("select * from df.check()", user=None) == []


def test_a_rollback_undoes_all(granted: Database) -> None:
    granted.sql("begin")
    granted.rows(f"select * from df.test({MANY}{SIGNAL})")
    granted.sql("rollback")
    assert granted.rows("select * from fx") == []


def test_what_raises_leaves_nothing(granted: Database) -> None:
    granted.sql("begin")
    granted.sql("savepoint s")
    with pytest.raises(psycopg.Error, match='signal "s"'):
        granted.rows(f"select * from df.test({MANY})")
    granted.sql("rollback to s")
    assert granted.sql("select count(*) from fx") == 0
    assert granted.rows("select status from df.test('select 1')")[-1] == ("completed",)
    granted.sql("commit")
    assert granted.admin(LEFT_OF_TESTS) == 0


def test_it_ends_when_it_is_out_of_steps(granted: Database) -> None:
    rows = granted.rows("select status from df.test(df.loop('insert into fx (i) values (1)'), steps => 30)")
    assert rows[-1] == ("running",)
    assert 3 < len(rows) < 30
    assert granted.sql("select count(*) from fx") == len(rows) - 1
    assert granted.admin(LEFT_OF_TESTS) == 0


def test_a_superuser_may_call_it(granted: Database) -> None:
    assert granted.rows("select status from df.test('select 1' ~> 'select 2')", user=None)[-1] == ("completed",)
    with granted.connect() as conn:
        conn.execute("set session authorization app")
        row = conn.execute("select value from df.test('select current_user as u')").fetchone()
        assert row is not None
        assert row[0]["rows"] == [{"u": "app"}]
        conn.execute("reset session authorization")
        conn.execute("set role app")
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="the current role is"):
            conn.execute("select * from df.test('select 1')")


def test_steps_have_the_rights_of_the_caller(granted: Database) -> None:
    granted.admin("create table secret (x int)")
    rows = granted.rows("select status, error from df.test('select * from secret')")
    assert rows[0][0] == "failed"
    assert "permission denied" in rows[0][1]


def test_settings_hold_in_steps_and_are_put_back(granted: Database) -> None:
    names = ["TimeZone", "DateStyle", "application_name", "df.in_workflow", "df.wake", "df_engine.virtual",
             "search_path"]  # fmt: skip
    ask = "select array[" + ", ".join(f"coalesce(current_setting('{name}', true), '')" for name in names) + "]"
    granted.sql("set timezone = 'Asia/Tokyo'")
    granted.sql("set search_path = pg_temp, public")
    before = granted.sql(ask)
    granted.sql("begin")
    flow = "'select current_setting(''TimeZone'') as z, current_setting(''search_path'') as p' ~> 'select 1/0'"
    rows = granted.rows(f"select value from df.test({flow})")
    assert rows[0][0]["rows"] == [{"z": "UTC", "p": "pg_temp, public"}]
    assert granted.sql(ask) == before
    granted.sql("create temporary table kept as select 1")
    granted.rows("select * from df.test('select 1')")
    assert granted.sql("select count(*) from kept") == 1
    granted.sql("commit")
    assert granted.sql(ask) == before


def test_deferred_constraints_are_checked_at_the_end_of_a_step(granted: Database) -> None:
    granted.sql("create table a (id int primary key)")
    granted.sql("create table b (id int references a deferrable initially deferred)")
    rows = granted.rows("select status, error from df.test(df.catch('insert into b values (1)', 'select 1'))")
    assert [row[0] for row in rows] == ["failed", "completed", "completed"]
    assert "foreign key" in rows[0][1]
    granted.sql("begin")
    flow = "df.block('insert into b values (1)', 'insert into a values (1)') ~> 'select 1'"
    rows = granted.rows(f"select status from df.test({flow})")
    assert [row[0] for row in rows] == ["completed"] * 3
    granted.sql("insert into b values (2)")
    granted.sql("insert into a values (2)")
    granted.sql("commit")


def test_whoever_does_not_end_a_test_cannot_commit(granted: Database) -> None:
    with granted.connect("app", autocommit=False) as conn:
        conn.execute(BEGIN_TEST)
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="has not ended"):
            conn.commit()
    assert granted.admin(LEFT_OF_TESTS) == 0
    rows = granted.rows("select error from df.test('set constraints all immediate')")
    assert "df.test has not ended" in rows[0][0]
    granted.sql("begin; set constraints all immediate")
    assert granted.rows("select status from df.test('select 1')")[-1] == ("completed",)
    granted.sql("commit")


def test_a_setting_makes_no_clock_virtual(granted: Database) -> None:
    for said in ("on", "x"):
        granted.admin(VIRTUAL, said)
        assert granted.admin(CLOCK_IS_REAL)
    granted.sql("begin")
    start = "select set_config(''df_engine.virtual'', ''on'', false), df.start(''select 1'')"
    rows = granted.rows(f"select status from df.test(df.sleep('1 day') ~> '{start}')")
    assert [row[0] for row in rows] == ["completed"] * 3
    granted.sql("commit")
    assert granted.admin(READY_SOON) is True


def test_no_step_of_a_real_run_is_ended_as_one_of_a_test(granted: Database) -> None:
    run = granted.sql("select df.start('select 1')")
    granted.sql("begin")
    granted.sql(BEGIN_TEST)
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="of no run of this test"):
        granted.sql(END_REAL_STEP_IN_TEST)
    granted.sql("rollback")
    assert granted.sql("select df.status(%s)", run) == "pending"


def test_what_a_step_starts_is_real(pump: Pump) -> None:
    pump.db.sql("select status from df.test(df.sleep('1 day') ~> 'select df.start(''insert into fx (i) values (1)'')')")
    assert pump.db.sql("select count(*) from df.instances") == 1
    pump.until(lambda: pump.db.sql("select count(*) from fx") == 1)


def test_workers_hear_nothing(granted: Database) -> None:
    granted.sql("select df.define('child', 'select 1')")
    with granted.connect("durable_worker") as listener:
        listener.execute("select df_engine.register_worker()")
        listener.execute("select df_engine.listen_for_work()")
        worker = granted.admin("select worker from df.workers")
        listener.execute("select df_engine.say_idle(%s, 60000)", [worker])
        granted.rows(f"select * from df.test(df.join({MANY}, df.call('@child')){SIGNAL})")
        assert list(listener.notifies(timeout=0.2)) == []
        granted.sql("select df.start('select 1')")
        assert list(listener.notifies(timeout=5, stop_after=1)) != []


def test_a_step_cannot_call_it(granted: Database) -> None:
    rows = granted.rows("select error from df.test('select * from df.test(''select 1'')')")
    assert "a step of df.test cannot call df.test" in rows[0][0]


def test_private_functions_need_a_test(granted: Database) -> None:
    key = granted.sql(OWN_KEY)
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="no test is under way"):
        granted.sql(NEXT_IN_TEST, key)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        granted.sql(NEXT_IN_TEST, key, user="other")


@pytest.mark.parametrize(
    ("mocks", "says"),
    [("[]", "must be a JSON object"), ('{"step": {}}', 'unknown key "step"'), ('{"http": []}', "mocks.http must be"),
     ('{"steps": {"root": 1}}', 'no step "root"')],
)  # fmt: skip
def test_mocks_that_mean_nothing(granted: Database, mocks: str, says: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=says):
        granted.rows("select * from df.test('select 1' ~> 'select 2', mocks => %s)", mocks)


def test_other_runs_are_left_alone(pump: Pump) -> None:
    real = pump.start("'insert into fx (t) values (''real'')'")
    pump.start("df.sleep(60)")
    pump.until(lambda: pump.db.sql("select count(*) from df.instances where status = 'completed'") == 1)
    waiting = pump.start("'insert into fx (t) values (''later'')'")
    rows = pump.db.rows("select status from df.test(df.sleep('1 hour') ~> 'select 1')")
    assert [row[0] for row in rows] == ["completed"] * 3
    assert (real.status, waiting.status) == ("completed", "pending")
    assert pump.db.rows("select t from fx") == [("real",)]
    assert pump.db.sql("select count(*) from df.instances where status = 'running'") == 1
