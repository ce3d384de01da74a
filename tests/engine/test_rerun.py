"""df.rerun starts the same graph again; df.forget keeps of a run that it was."""

import psycopg
import pytest

from tests.state import STORED
from tests.support import Pump, Run

ECHO = "'insert into fx (t) values ($input.word)' ~> 'select {greeting} as x'"


def begin(pump: Pump) -> Run:
    pump.db.sql("select df.setvar('greeting', '4711')")
    options = """'echo', input => '{"word": "secret"}', priority => 7"""
    return Run(pump.db, str(pump.db.sql(f"select df.start({ECHO}, {options})")))


def test_the_same_graph_runs_again(pump: Pump) -> None:
    run = begin(pump)
    pump.until(run.ended)
    pump.db.sql("select df.setvar('greeting', '0')")
    again = Run(pump.db, str(pump.db.sql("select df.rerun(%s)", run.id)))
    other = Run(pump.db, str(pump.db.admin("""select df.rerun(%s, '{"word": "other"}')""", run.id)))
    pump.until(lambda: again.ended() and other.ended())
    assert pump.db.rows("select t from fx order by ctid") == [("secret",), ("secret",), ("other",)]
    assert [again.value(), other.value()] == [4711, 4711]
    query = "select distinct label, priority, submitted_by::text from df.instances"
    assert pump.db.rows(query) == [("echo", 7, "app")]
    assert len({run.id, again.id, other.id}) == 3


def test_what_runs_again_can_be_undone_again(pump: Pump) -> None:
    fails = "df.undo('insert into fx (t) values (''done'')', 'insert into fx (t) values (''undone'')') ~> 'select 1/0'"
    run = pump.run(fails)
    again = Run(pump.db, str(pump.db.sql("select df.rerun(%s)", run.id)))
    assert pump.db.rows("select * from df.check()", user=None) == []
    pump.until(again.ended)
    assert [t for (t,) in pump.db.rows("select t from fx order by ctid")] == ["done", "undone"] * 2
    assert pump.db.rows("select undo_status from df.instances") == [("completed",)] * 2


def test_who_may_run_it_again(pump: Pump) -> None:
    run = pump.start("'select 1'")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        pump.db.sql("select df.rerun(%s)", run.id, user="other")
    pump.db.admin("select df.set_role_limit('app', live_instances => 1)")
    with pytest.raises(psycopg.errors.ProgramLimitExceeded):
        pump.db.sql("select df.rerun(%s)", run.id)


def test_what_is_forgotten(pump: Pump) -> None:
    run = begin(pump)
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="is pending"):
        pump.db.sql("select df.forget(%s)", run.id)
    pump.until(run.ended)
    before = pump.db.rows("select status, created_at, finished_at, label from df.instances")
    stored = "".join(row for (row,) in pump.db.rows(STORED, run.id, user=None))
    assert "secret" in stored
    assert "4711" in stored
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        pump.db.sql("select df.forget(%s)", run.id, user="other")
    assert pump.db.sql("select df.forget(%s)", run.id) == "OK"
    stored = "".join(row for (row,) in pump.db.rows(STORED, run.id, user=None))
    assert "secret" not in stored
    assert "4711" not in stored
    assert pump.db.rows("select status, created_at, finished_at, label from df.instances") == before
    assert pump.db.rows("select distinct status from df.nodes") == [("completed",)]
    assert pump.db.rows("select * from df.check()", user=None) == []
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="forgotten"):
        pump.db.sql("select df.rerun(%s)", run.id)


def test_the_error_of_a_failed_run_is_forgotten(pump: Pump) -> None:
    run = pump.run("'select ''secret''::int'")
    assert "secret" in run.error
    pump.db.sql("select df.forget(%s)", run.id)
    assert (run.status, run.error) == ("failed", "")
    assert pump.db.rows("select status, error from df.nodes") == [("failed", None)]


def test_a_result_that_is_wanted_is_not_forgotten(pump: Pump) -> None:
    run = pump.start("df.call('select 7 as x')")
    pump.work()
    child = pump.db.sql("select id from df.instances where parent_id = %s and status = 'completed'", run.id)
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="has not taken its result"):
        pump.db.sql("select df.forget(%s)", child)
    pump.until(run.ended)
    assert run.value() == 7
    assert pump.db.sql("select df.forget(%s)", child) == "OK"
