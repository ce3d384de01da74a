"""7.1 to 7.6: what each construct does, its value, and how failures and breaks pass through it."""

import pytest

from tests.state import HISTORY_SPAN, QUEUED_STEPS
from tests.support import Pump


def rows(*values: int) -> list[dict[str, object]]:
    return [{"rows": [{"v": value}], "row_count": 1} for value in values]


@pytest.mark.parametrize(
    ("flow", "result"),
    [
        ("'select 1 as v'", rows(1)[0]),
        ("'select 1 as v' ~> 'select 2 as v'", rows(2)[0]),
        ("'select true' ?> 'select 1 as v' !> 'select 2 as v'", rows(1)[0]),
        ("'select false' ?> 'select 1 as v' !> 'select 2 as v'", rows(2)[0]),
        ("'select 1 as v' & 'select 2 as v'", rows(1, 2)),
        ("df.join3('select 1 as v', 'select 2 as v', 'select 3 as v')", rows(1, 2, 3)),
        ("('select 1 as v' & 'select 2 as v') & 'select 3 as v'", [rows(1, 2), *rows(3)]),
        ("'select 1 as v' | df.sleep(60)", rows(1)[0]),
        ("df.sleep(60) | 'select 1 as v'", rows(1)[0]),
        ("@> ('select 1' ~> df.break('[7]'))", [7]),
        ("@> df.break()", None),
        ("@> df.break('not json')", "not json"),
        ("df.loop('select 3 as v', 'select false')", rows(3)[0]),
        ("df.loop('select 3 as v', df.break('5'))", 5),
        ("df.sleep(0.01)", {"slept": True, "seconds": 0.01}),
        ("df.wait_for_signal('s', 1) | df.sleep(0.01)", {"slept": True, "seconds": 0.01}),
        ("'select 1 as v' |=> 'r' ~> df.if_rows('r', 'select 1 as v', 'select 2 as v')", rows(1)[0]),
        ("'select 1 as v where false' |=> 'r' ~> df.if_rows('r', 'select 1 as v', 'select 2 as v')", rows(2)[0]),
        ("'select false' ?> 'select 1 as v'", None),
        ("'select true' ?> 'select 1 as v'", rows(1)[0]),
        ("'select null' ?> ('select 1' ~> 'select 2') ~> 'select 3 as v'", rows(3)[0]),
        ("'select 1' & ('select false' ?> 'select 2')", [{"rows": [{"?column?": 1}], "row_count": 1}, None]),
        ("('select false' ?> 'select 2') | df.sleep(60)", None),
        ("df.loop('select false' ?> 'select 1', 'select false')", None),
        ("('select false' ?> 'select 1') ?> 'select 1 as v' !> 'select 2 as v'", rows(2)[0]),
        ("('select false' ?> 'select 1') |=> 'n' ~> 'select ''<$n>'' = ''<null>'' as v'", rows(True)[0]),
        ("df.sleep(0) ?> 'select 1 as v'", rows(1)[0]),
        ("'create table made (i int)'", {"rows": [], "row_count": 0}),
    ],
)
def test_a_construct_delivers_its_value(pump: Pump, flow: str, result: object) -> None:
    run = pump.run(flow)
    assert (run.status, run.error, run.result) == ("completed", "", result)


FAILURE = "SQL execution failed: division by zero (SQLSTATE 22012)"


@pytest.mark.parametrize(
    ("flow", "error"),
    [
        ("'select 1/0'", FAILURE),
        ("'select 1/0' ~> 'insert into fx values (1)'", FAILURE),
        ("'select 1/0' ?> 'select 1' !> 'select 2'", FAILURE),
        ("df.loop('select 1', 'select 1/0')", FAILURE),
        ("@> 'select 1/0'", FAILURE),
        ("'select 1/0' & 'select 1'", f"JOIN branch 1 failed: {FAILURE}"),
        ("'select 1' & ('select 1/0' ~> 'select 2')", f"JOIN branch 2 failed: {FAILURE}"),
        ("df.join3('select 1', 'select 1', 'select 1/0')", f"JOIN branch 3 failed: {FAILURE}"),
        ("'select 1/0' | df.sleep(60)", f"RACE left branch failed: {FAILURE}"),
        ("df.sleep(60) | 'select 1/0'", f"RACE right branch failed: {FAILURE}"),
        ("df.break('1')", "BREAK outside of a loop"),
        ("df.if_rows('nope', 'select 1', 'select 2')", 'if_rows: result "nope" does not exist'),
    ],
)
def test_a_failure_fails_the_parents_and_the_run(pump: Pump, flow: str, error: str) -> None:
    run = pump.run(flow)
    assert (run.status, run.error) == ("failed", error)
    assert run.db.sql("select df.result(%s)", run.id) is None
    assert run.db.sql("select count(*) from fx") == 0


def test_the_other_branches_of_a_failed_join_keep_their_effects(pump: Pump) -> None:
    run = pump.run("'select 1/0' & ('insert into fx values (1)' ~> 'insert into fx values (2)')")
    assert run.status == "failed"
    assert run.db.sql("select array_agg(i order by i) from fx") == [1, 2]


@pytest.mark.parametrize(
    ("flow", "result"),
    [
        ("@> (df.break('1') ~> 'select 1/0')", 1),
        ("@> (df.break('1') ?> 'select 1/0' !> 'select 1/0')", 1),
        ("@> ('select 1' & df.break('2'))", 2),
        ("@> (df.break('1') & df.break('2'))", 1),
        ("@> (df.break('3') | df.sleep(60))", 3),
        ("@> (@> df.break('1') ~> df.break('2'))", 2),
        ("@> ('select 1' & ((@> df.break('1')) ~> df.break('9')))", 9),
    ],
)
def test_a_break_unwinds_to_the_nearest_loop(pump: Pump, flow: str, result: object) -> None:
    run = pump.run(flow)
    assert (run.status, run.error, run.result) == ("completed", "", result)


@pytest.mark.parametrize("query", ["", "never", "[" * 50000])
def test_a_break_whose_content_is_no_json_fails_the_run_and_not_the_worker(pump: Pump, query: str) -> None:
    run = pump.run(f"""'{{"node_type":"LOOP","left_node":{{"node_type":"BREAK","query":"{query}"}}}}'""")
    assert run.status == "failed"
    assert "BREAK" in run.error


def test_a_break_value_that_is_nested_too_deeply_is_a_string(pump: Pump) -> None:
    run = pump.run("df.loop(df.break(repeat('[', 50000)))")
    assert run.status == "completed"
    assert run.result == "[" * 50000


def test_the_losing_branch_of_a_race_does_not_break_the_loop(pump: Pump) -> None:
    run = pump.run("@> (('select 1' | (df.sleep(30) ~> df.break('lost'))) ~> df.break('won'))")
    assert run.result == "won"


def test_a_while_loop_runs_until_its_condition_is_false(pump: Pump) -> None:
    run = pump.run("df.loop('insert into fx select count(*) from fx', 'select count(*) < 50 from fx')")
    assert run.status == "completed"
    assert run.db.sql("select array_agg(i order by i) from fx") == list(range(50))


def test_a_forever_loop_keeps_its_pace(pump: Pump) -> None:
    pump.db.admin("select df.set_setting('loop_min_interval', '0.2')")
    run = pump.start("@> 'insert into fx values (1)'")
    pump.until(lambda: pump.db.sql("select count(*) from fx") >= 3)
    assert pump.db.admin(HISTORY_SPAN, "190 ms")
    pump.db.sql("select df.cancel(%s)", run.id)
    assert run.status == "cancelled"


def test_a_losing_loop_is_closed_with_its_stamp(pump: Pump) -> None:
    run = pump.run("df.sleep(0.1) | df.loop('select 1', 'select true')")
    loop = run.node("LOOP")
    assert loop["status"] == "failed"
    assert "lost the race" in loop["error"]
    assert loop["status_details"]["execution_id"] == f"{run.id}::1::{loop['id']}::1"


def test_a_loop_that_loses_before_its_next_iteration_has_begun_is_shown_as_failed(pump: Pump) -> None:
    run = pump.run("df.loop('select 1', 'select true') | 'select 2'")
    states = pump.db.rows("select query, inferred_status from df.instance_nodes(%s) where node_type <> 'RACE'", run.id)
    assert dict(states)["select 2"] == "completed"
    assert [status for query, status in states if query.startswith("{")] == ["failed"]


def test_stamps_name_scope_and_generation(pump: Pump) -> None:
    run = pump.run(
        "'select 1' ~> df.loop('select 2' & 'select 3', 'select count(*) < 3 from fx' ~> "
        "'insert into fx values (1) returning (select count(*) < 2 from fx)')"
    )
    loop = run.node("LOOP")["id"]
    assert run.node("select 1")["status_details"]["execution_id"] == f"{run.id}::1"
    assert run.node("JOIN")["status_details"]["execution_id"] == f"{run.id}::1::{loop}::3"
    branch = run.node("select 2")
    assert branch["status_details"]["execution_id"] == f"{run.id}::1::{loop}::3::{branch['id']}::1"


def test_a_graph_256_deep_runs(pump: Pump) -> None:
    run_id = pump.db.sql(
        """
        with recursive chain(depth, flow) as (
          select 0, 'select 0'
          union all
          select depth + 1, df.seq(flow, 'select ' || depth) from chain where depth < 256)
        select df.start(flow) from chain where depth = 256
        """
    )
    pump.until(lambda: pump.db.sql("select df.status(%s)", run_id) == "completed", 30)


def test_a_run_becomes_terminal_together_with_its_nodes(pump: Pump) -> None:
    run = pump.run("'select 1' & ('select 2' ~> 'select 3')")
    assert pump.db.sql("select count(*) from df.nodes where instance_id = %s and status <> 'completed'", run.id) == 0
    assert pump.db.admin(QUEUED_STEPS) == 0


def test_events_of_earlier_iterations_are_counted(pump: Pump) -> None:
    run = pump.run("'select 1' ~> df.loop('insert into fx values (1)', 'select count(*) < 3 from fx')")
    # THEN, select 1 and LOOP change twice; body and condition twice in each of three iterations, LOOP once more in two
    assert run.db.sql("select event_count from df.instance_executions(%s)", run.id) == 3 * 2 + 3 * 4 + 2


def twice(body: str, sequence: str) -> str:
    """A loop that turns twice, as often as it is entered."""
    return f"df.loop({body}, 'select mod(nextval(''{sequence}''), 2) = 1')"


# Its turns take different branches: what the first has left is superseded, and must not be counted again.
CHOOSING = twice("df.if('select mod(nextval(''a''), 2) = 1', 'select 1', 'select 2')", "b")


@pytest.mark.parametrize(
    ("body", "events"),
    [
        ("'select 1'", 2),
        ("'select 1' ~> 'select 2'", 6),
        ("'select 1' & 'select 2'", 6),
        ("'select 1' & df.loop('select 1', 'select false')", 10),
        (f"'select 1' & {CHOOSING}", 4 + 19),
        (f"'select 1' & {twice(CHOOSING, 'c')}", 4 + 3 + 2 * (19 + 2)),
    ],
)
def test_an_iteration_of_a_root_loop_is_history_with_its_events(pump: Pump, body: str, events: int) -> None:
    """The changes of the body, then those of the condition; the loop runs once more."""
    pump.db.sql("create sequence turns; create sequence a; create sequence b; create sequence c")
    run = pump.run(f"df.loop({body}, 'select nextval(''turns'') < 3')")
    history = "select event_count from df.instance_executions(%s) where status = 'ContinuedAsNew' order by execution_id"
    assert run.db.rows(history, run.id) == [(events + 2 + 1,)] * 2
