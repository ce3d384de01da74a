"""df.block: several statements that are one step and one transaction."""

import json
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg import errors

from tests.crash.crew import problems
from tests.state import RAISE_ALL_CRASH_SCORES
from tests.support import Database, Pump, Run, member_of_other

TWO = "df.block('insert into fx values (1, ''a'')', 'select count(*) as n from fx')"


def effects(pump: Pump) -> list[tuple[Any, ...]]:
    return pump.db.rows("select i, t from fx order by i, t")


def block(*statements: str, **keys: Any) -> str:
    """A hand-written envelope."""
    return json.dumps({"node_type": "BLOCK", "query": json.dumps({"statements": statements}), **keys})


def test_the_envelope_lists_the_statements(pure: Callable[..., Any]) -> None:
    assert json.loads(pure("select df.block('select 1', E'select ''\\n\"$x''')")) == {
        "node_type": "BLOCK",
        "query": '{"statements":["select 1","select \'\\n\\"$x\'"]}',
    }


def test_a_statement_has_any_text_but_a_graph(pure: Callable[..., Any]) -> None:
    assert json.loads(json.loads(pure("select df.block('{cmd}', '$x')"))["query"]) == {"statements": ["{cmd}", "$x"]}


@pytest.mark.parametrize(
    ("call", "sqlstate", "message"),
    [
        ("df.block(variadic '{}')", "22023", "df.block: it has 1 to 1000 statements, not 0"),
        ("df.block(variadic array_fill('select 1'::text, '{1001}'))", "54000", "1 to 1000 statements, not 1001"),
        ("df.block(variadic null)", "22004", "argument statements of df.block is NULL"),
        ("df.block('select 1', null)", "22004", "statement 2 of df.block is NULL"),
        ("df.block('select 1', df.sleep(5))", "22023", "df.block: statement 2 is a graph, not an SQL statement"),
        ("df.block('a' ~> 'b')", "22023", "df.block: statement 1 is a graph, not an SQL statement"),
        ("df.block('a' ?> 'b')", "22023", "df.block: statement 1 is a graph, not an SQL statement"),
    ],
)
def test_what_is_no_statement_is_refused_at_build(
    pure: Callable[..., Any], call: str, sqlstate: str, message: str
) -> None:
    with pytest.raises(psycopg.Error) as caught:
        pure(f"select {call}")
    assert caught.value.sqlstate == sqlstate
    assert message in str(caught.value)
    assert caught.value.diag.message_hint


def test_what_a_helper_returned_is_no_statement(app: Database) -> None:
    with pytest.raises(errors.InvalidParameterValue, match="setvar cannot be used as a workflow step"):
        app.sql("select df.block('select 1', df.setvar('a', 'b'))")


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        (None, "query is missing"),
        ("select 1", 'query in BLOCK must be {"statements": [text, ...]}'),
        ('["select 1"]', 'query in BLOCK must be {"statements": [text, ...]}'),
        ('{"statements": ["a"], "x": 1}', 'query in BLOCK must be {"statements": [text, ...]}'),
        ("{}", "BLOCK: statements must be a list of SQL texts"),
        ('{"statements": "a"}', "BLOCK: statements must be a list of SQL texts"),
        ('{"statements": []}', "BLOCK: it has 1 to 1000 statements, not 0"),
        ('{"statements": ["a", 1]}', "BLOCK: statement 2 is no text"),
        ('{"statements": ["a", {"node_type": "SQL"}]}', "BLOCK: statement 2 is no text"),
        ('{"statements": ["{\\"node_type\\":\\"SQL\\"}"]}', "BLOCK: statement 1 is a graph, not an SQL statement"),
    ],
)
def test_a_hand_written_envelope_is_checked_at_start(app: Database, query: str | None, problem: str) -> None:
    graph = {"node_type": "BLOCK"} | ({"query": query} if query is not None else {})
    with pytest.raises(errors.InvalidTextRepresentation) as caught:
        app.sql("select df.start(%s)", json.dumps(graph))
    assert problem in str(caught.value)


def test_a_block_has_no_children(app: Database) -> None:
    child = {"node_type": "SQL", "query": "select 1"}
    with pytest.raises(errors.InvalidTextRepresentation, match="left_node is not valid for BLOCK nodes"):
        app.sql("select df.start(%s)", block("select 1", left_node=child))


def test_flow_text_and_back(pure: Callable[..., Any], ask: Callable[..., Any]) -> None:
    flow = "'select 0' ~> block('select 1', 'select ''x''') |=> 'b' ~> retry(block('a'), max_attempts => 2)"
    built = pure("select df.flow(%s)", flow)
    written = "df.block('select 1', 'select ''x''')"
    assert built == pure(f"select 'select 0' ~> ({written} |=> 'b') ~> df.retry(df.block('a'), max_attempts => 2)")
    assert ask("select df.flow(df.to_flow(%s))", built) == built
    assert "block('select 1', $$select 'x'$$)" in ask("select df.to_flow(%s)", built)


def test_flow_text_refuses_graphs_in_a_block(pure: Callable[..., Any]) -> None:
    with pytest.raises(psycopg.Error) as caught:
        pure("select df.flow('block(''a'', sleep(5))')")
    assert "do not fit df.block" in str(caught.value)
    assert "block(text, text, ...)" in (caught.value.diag.message_hint or "")


def test_explain_shows_the_statements(pump: Pump) -> None:
    flow = "df.block('update a set b = 1', 'select 2') ~> 'select 3'"
    drawn = "BLOCK (2): update a set b = 1; select 2"
    assert drawn in pump.db.sql("select df.explain(%s)", flow)
    run = pump.run(TWO)
    assert "BLOCK (2): insert into fx values (1, 'a'); select count(*) as n from fx ✓" in pump.db.sql(
        "select df.explain(%s)", run.id
    )


def test_all_statements_take_effect_and_the_value_is_that_of_the_last(pump: Pump) -> None:
    run = pump.run(f"{TWO} |=> 'b' ~> 'select $b.n + 1 as v'")
    assert (run.status, run.value(), effects(pump)) == ("completed", 2, [(1, "a")])
    node = run.node("BLOCK")
    assert node["result"] == {"rows": [{"n": 1}], "row_count": 1}
    assert (node["node_type"], node["result_columns"], node["attempts"]) == ("BLOCK", ["n"], 1)


def test_statements_are_one_transaction_and_see_each_other(pump: Pump) -> None:
    xid = "insert into fx select 0, pg_current_xact_id()::text"
    run = pump.run(f"df.block('{xid}', '{xid}', 'select count(distinct t) from fx')")
    assert (run.value(), len(effects(pump))) == (1, 2)


@pytest.mark.parametrize(
    ("last", "result"),
    [
        ("insert into fx values (7, ''x'') returning i, t", {"rows": [{"i": 7, "t": "x"}], "row_count": 1}),
        ("delete from fx where false", {"rows": [], "row_count": 0}),
        ("with w as (insert into fx values (8) returning i) select i from w", {"rows": [{"i": 8}], "row_count": 1}),
        ("show bytea_output", {"rows": [{"bytea_output": "hex"}], "row_count": 1}),
        ("do $$ begin perform 1; end $$", {"rows": [], "row_count": 0}),
        ("select 1 as a, 2 as a", {"rows": [{"a": 1, "a_2": 2}], "row_count": 1}),
        ("fetch all from c", {"rows": [{"x": 1}, {"x": 2}], "row_count": 2}),
    ],
)
def test_the_last_statement_is_read_as_that_of_any_step(pump: Pump, last: str, result: dict[str, Any]) -> None:
    run = pump.run(f"df.block('declare c cursor for select generate_series(1, 2) as x', '{last}')")
    assert run.status == "completed", run.error
    assert run.result == result


def test_types_are_those_of_the_last_statement(pump: Pump) -> None:
    run = pump.run(
        "df.block('select 1', 'select 1::int8 as a, date ''2026-01-02'' as b where false') |=> 'r'"
        " ~> 'select pg_typeof(a)::text || pg_typeof(b)::text as t from (select) x left join $r.* on true'"
    )
    assert run.value() == "bigintdate", run.error


def test_references_and_variables_are_replaced_in_every_statement(pump: Pump) -> None:
    pump.db.sql("select df.setvar('v', '5')")
    run = pump.run(
        "'select 3 as n' |=> 'a' ~> df.block('insert into fx values ($a.n, ''$a.n {v}'')', 'select $a.n + {v} as v')"
    )
    assert (run.value(), effects(pump)) == (8, [(3, "3 5")])


def test_a_name_of_the_block_is_not_known_in_it(pump: Pump) -> None:
    run = pump.run("df.block('select 1', 'select $b') |=> 'b'")
    assert run.status == "failed"
    assert "statement 2 of 2" in run.error


def test_an_unknown_variable_fails_at_the_start(app: Database) -> None:
    with pytest.raises(errors.InvalidParameterValue, match=r"root: the run has no variable \{nope\}"):
        app.sql("select df.start(df.block('select 1', 'select {nope}'))")


def test_an_error_says_which_statement_failed_and_nothing_is_kept(pump: Pump) -> None:
    run = pump.run("df.block('insert into fx values (1)', 'select 1/0', 'select 2')")
    assert (run.status, effects(pump)) == ("failed", [])
    assert run.error == "SQL execution failed: statement 2 of 3: division by zero (SQLSTATE 22012)"


def test_a_deferred_constraint_fails_in_the_step(pump: Pump) -> None:
    pump.db.sql("create table p (i int primary key); create table c (i int references p deferrable initially deferred)")
    run = pump.run("df.block('insert into c values (1)', 'insert into p values (1)')")
    assert run.status == "completed", run.error
    run = pump.run("df.block('insert into c values (2)', 'select 1') ~> 'select 2'")
    assert (run.status, pump.db.sql("select count(*) from c")) == ("failed", 1)
    assert "23503" in run.error


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("commit", "statement 2 of 3: transaction control, here COMMIT, cannot be a step"),
        ("savepoint s", "statement 2 of 3: transaction control"),
        ("select 1; select 2", "statement 2 of 3: the step holds more than one SQL statement"),
        ("", "statement 2 of 3: the step holds no SQL statement"),
        ("copy fx to stdout", "statement 2 of 3: a step cannot COPY"),
        ("select 1 into x", "statement 2 of 3: SELECT ... INTO cannot be a step"),
        ("selct 1", "statement 2 of 3: syntax error"),
    ],
)
def test_what_no_step_may_be_no_statement_of_a_block_may_be(pump: Pump, statement: str, message: str) -> None:
    run = pump.run(f"df.block('insert into fx values (1)', '{statement}', 'select 1')")
    assert (run.status, effects(pump)) == ("failed", [])
    assert message in run.error


@pytest.mark.parametrize("statement", ["vacuum fx", "call commits()", "do $$ begin commit; end $$"])
def test_what_cannot_be_in_a_transaction_fails_and_nothing_is_kept(pump: Pump, statement: str) -> None:
    pump.db.sql("create procedure commits() language plpgsql as $$ begin commit; end $$")
    run = pump.run(f"df.block('insert into fx values (1)', '{statement}')")
    assert (run.status, effects(pump)) == ("failed", [])
    assert "statement 2 of 2: " in run.error
    assert (
        "HINT: A block is one transaction. Make this statement, which cannot be in one, a step of its own." in run.error
    )
    assert run.node("BLOCK")["attempts"] == 1


def test_a_step_of_several_statements_names_the_way_out(pump: Pump) -> None:
    run = pump.run("'select 1; select 2'")
    assert "more than one SQL statement; make a step of each, or one of all with df.block" in run.error


def test_a_block_is_tried_again_as_a_whole(pump: Pump) -> None:
    pump.db.sql("create sequence s")
    run = pump.run(
        "df.retry(df.block('insert into fx values (1)', 'select 1 / (nextval(''s'') - 1)'),"
        " max_attempts => 3, initial_delay => '0')"
    )
    assert (run.status, effects(pump), run.node("BLOCK")["attempts"]) == ("completed", [(1, None)], 2)


def test_a_transient_error_is_tried_again_by_itself(pump: Pump) -> None:
    pump.db.sql("create sequence s; select nextval('s')")
    raises = "do $d$ begin if nextval(''s'') < 3 then raise ''x'' using errcode = ''40001''; end if; end $d$"
    pump.db.admin("select df.set_setting('retry_initial_delay', '0')")
    run = pump.run(f"df.block('insert into fx values (1)', '{raises}')")
    assert (run.status, effects(pump), run.node("BLOCK")["attempts"]) == ("completed", [(1, None)], 2)


def test_a_failure_is_caught_with_its_parts(pump: Pump) -> None:
    run = pump.run("df.catch(df.block('select 1', 'select 1/0'), 'select $error.sqlstate || $error.message as v')")
    assert run.value() == "22012statement 2 of 2: division by zero"


def test_settings_and_the_role_of_a_statement_hold_to_the_end_of_the_block(pump: Pump) -> None:
    with member_of_other(pump.db):
        run = pump.run(
            "df.block('set local role other', 'set local work_mem = ''3MB''',"
            " 'select current_user::text as u, current_setting(''work_mem'') as m') |=> 'r'"
            " ~> 'select ''$r.u'' as u, ''$r.m'' as m, current_user::text as now, current_setting(''work_mem'') as mem'"
        )
    assert run.result["rows"] == [{"u": "other", "m": "3MB", "now": "app", "mem": "4MB"}], run.error


def test_the_value_of_a_condition(pump: Pump) -> None:
    run = pump.run("df.block('select 1', 'select false') ?> 'select 1 as v' !> 'select 2 as v'")
    assert run.value() == 2


def test_blocks_in_loops_joins_and_races(pump: Pump) -> None:
    run = pump.run(
        "df.loop(df.block('insert into fx values (1)', 'select 1'), 'select count(*) < 3 from fx')"
        " ~> (df.block('select 1', 'select 2') & df.block('insert into fx values (2)', 'select 3'))"
        " ~> (df.block('select 1', 'select 4') | df.wait_for_signal('never'))"
    )
    assert (run.status, [i for i, _ in effects(pump)]) == ("completed", [1, 1, 1, 2]), run.error
    assert problems(pump.db) == []


def test_blocks_and_steps_share_a_transaction_where_commits_are_relaxed(pump: Pump) -> None:
    pump.db.admin("select df.set_setting('commit_policy', 'relaxed')")
    flow = " ~> ".join(f"df.block('insert into fx values ({i})', 'select {i}') ~> 'select {i}'" for i in range(6))
    for _ in range(3):
        run = pump.run(flow)
        assert run.status == "completed", run.error
    assert [i for i, _ in effects(pump)] == sorted([*range(6)] * 3)


def test_a_step_that_cancels_its_run_in_a_block_still_commits(pump: Pump) -> None:
    run = pump.run("df.block('insert into fx values (1)', 'select df.cancel(''{sys_instance_id}'')') ~> 'select 1'")
    assert (run.status, len(effects(pump))) == ("cancelled", 1)


def test_a_result_that_is_too_large_fails(pump: Pump) -> None:
    pump.db.admin("select df.set_setting('max_result_bytes', '1024')")
    run = pump.run("df.block('insert into fx values (1)', 'select repeat(''x'', 2000)')")
    assert (run.status, effects(pump)) == ("failed", [])
    assert "max_result_bytes allows 1024" in run.error


def test_the_text_of_a_block_is_bounded_with_its_flow(app: Database) -> None:
    app.admin("select df.set_setting('max_flow_bytes', '1024')")
    with pytest.raises(errors.ProgramLimitExceeded, match="a flow has at most 1024 bytes"):
        app.sql("select df.start(df.block('select 1', format('select %L', repeat('x', 2000))))")


def test_the_result_is_read_as_that_of_any_node(pump: Pump) -> None:
    run = pump.run(TWO)
    assert json.loads(pump.db.sql("select df.result(%s)", run.id)) == {"rows": [{"n": 1}], "row_count": 1}


def test_a_block_that_kills_its_sessions_fails(pump: Pump) -> None:
    run = pump.start(TWO)
    for _ in range(3):
        pump.db.admin(RAISE_ALL_CRASH_SCORES)
    pump.until(run.ended)
    assert (run.status, effects(pump)) == ("failed", [])
    assert "the session that ran this step died, again and again" in run.error


def test_without_a_worker(app: Database) -> None:
    app.sql("create table fx (i int)")
    instance = app.sql("select df.start(df.block('insert into fx values (1)', 'select 5 as v'))")
    app.sql("call df.work()")
    assert Run(app, instance).value() == 5


def test_it_cannot_be_asked_as_a_condition_of_wait_for(pure: Callable[..., Any]) -> None:
    with pytest.raises(errors.InvalidParameterValue, match="is one SQL step, not BLOCK"):
        pure("select df.wait_for(df.block('select true'))")
