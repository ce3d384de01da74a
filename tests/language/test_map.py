"""df.map: a body for each row."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
from psycopg import errors

from tests.support import Database, Pump, wait_until

SERIES = "'select g as n from generate_series(1, {}) g'"


def check(pump: Pump) -> None:
    assert pump.db.admin("select count(*) from df.check()") == 0


def values(result: Any) -> list[Any]:
    return [next(iter(item["rows"][0].values())) for item in result]


@pytest.mark.parametrize(
    ("call", "envelope"),
    [
        (
            "df.map('a', 'b')",
            {
                "node_type": "MAP",
                "left_node": {"node_type": "SQL", "query": "b"},
                "condition_node": {"node_type": "SQL", "query": "a"},
                "query": '{"parallel":10,"on_error":"fail"}',
            },
        ),
        (
            "df.map('$n.*', 'b', 3, 'collect', false)",
            {
                "node_type": "MAP",
                "left_node": {"node_type": "SQL", "query": "b"},
                "query": '{"items":"$n.*","parallel":3,"on_error":"collect","collect_values":false}',
            },
        ),
    ],
)
def test_envelopes(shared: Database, call: str, envelope: dict[str, Any]) -> None:
    written = shared.sql(f"select {call}")
    assert written == json.dumps(envelope, separators=(",", ":"))
    assert shared.sql("select df.flow(df.to_flow(%s))", written) == written


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("df.map('a', 'b', 0)", "parallel must be a whole number from 1 to 1000"),
        ("df.map('a', 'b', 1001)", "parallel must be"),
        ("df.map('a', 'b', on_error => 'ignore')", "on_error must be fail, stop, collect"),
        ("df.map(df.sleep(1), 'b')", "not from a node of type SLEEP"),
        ("df.map('a' ~> 'b', 'b')", "not from a node of type THEN"),
    ],
)
def test_what_is_refused_when_it_is_built(shared: Database, call: str, message: str) -> None:
    with pytest.raises(errors.InvalidParameterValue, match=message):
        shared.sql(f"select {call}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query": '{"parallel":0}'}, "root: parallel must be"),
        ({"query": '{"colour":1}'}, "root: unknown key colour"),
        ({"query": '{"items":"$n.*"}'}, "root: items in MAP are those of condition_node"),
        ({"condition_node": None}, "root: condition_node or items is missing"),
        ({"condition_node": None, "query": '{"items":"$n"}'}, "root: items must be all rows of a name"),
        ({"condition_node": {"node_type": "SLEEP", "query": "1"}}, "must be a step that returns rows, not SLEEP"),
        ({"right_node": {"node_type": "SQL", "query": "a"}}, "right_node is not valid for MAP nodes"),
        ({"left_node": None}, "left_node is missing"),
    ],
)
def test_what_is_refused_when_it_is_started(shared: Database, changes: dict[str, Any], message: str) -> None:
    envelope = json.loads(shared.sql("select df.map('a', 'b')")) | changes
    with pytest.raises(errors.InvalidTextRepresentation, match=message.replace("$", "[$]")):
        shared.sql("select df.start(%s)", json.dumps(envelope))


def test_a_body_runs_for_each_row(pump: Pump) -> None:
    run = pump.run(f"df.map({SERIES.format(5)}, 'select $item.n * 10 + $item_no')")
    assert run.status == "completed", run.error
    assert values(run.result) == [11, 22, 33, 44, 55]
    check(pump)


def test_many_rows_few_at_a_time(pump: Pump) -> None:
    run = pump.run(f"df.map({SERIES.format(1000)}, 'select $item.n', parallel => 3)", seconds=60)
    assert run.status == "completed", run.error
    assert values(run.result) == list(range(1, 1001))
    check(pump)


def test_rows_of_a_name(pump: Pump) -> None:
    flow = "'select 1 as a, ''x'' as b union all select 2, ''y''' |=> 'rows' ~> "
    run = pump.run(flow + "df.map('$rows.*', 'select concat($item.a, $item.b)')")
    assert values(run.result) == ["1x", "2y"]
    run = pump.run("df.seq('select 1', df.map('$rows.*', 'select 1'))")
    assert (run.status, run.error) == ("failed", 'MAP: reference $rows.*: no node binds the name "rows"')


def test_no_rows(pump: Pump) -> None:
    run = pump.run("df.map('select 1 where false', 'select 1') |=> 'm' ~> 'select 2'")
    assert run.status == "completed"
    assert pump.run("df.map('select 1 where false', 'select 1')").result == []
    none = pump.run("df.map('select 1 where false', 'select 1', collect_values => false)")
    assert none.result == {"ok": 0, "failed": 0}


def test_columns_keep_their_types(pump: Pump) -> None:
    run = pump.run(
        "df.map('select date ''2026-01-31'' as d, array[1, 2] as a', "
        "'select pg_typeof($item.d)::text || array_length($item.a, 1)')"
    )
    assert values(run.result) == ["date2"], run.error


def test_the_first_failure_in_order_fails_it(pump: Pump) -> None:
    run = pump.run(f"df.map({SERIES.format(20)}, 'select 1 / ($item.n - 3)', parallel => 2)")
    assert (run.status, run.error) == ("failed", "SQL execution failed: division by zero (SQLSTATE 22012)")
    ended = pump.db.admin("select count(*) from df_engine.outcomes where scope > 0")
    assert 3 <= ended <= 5, "no item begins after a failure"
    check(pump)


def test_a_failure_stops_the_others(pump: Pump) -> None:
    body = "'select $item.n = 2' ?> 'select 1 / ($item.n - 2)' !> df.wait_for_signal('never')"
    run = pump.run(f"df.map({SERIES.format(3)}, {body}, on_error => 'stop')")
    assert (run.status, run.error) == ("failed", "SQL execution failed: division by zero (SQLSTATE 22012)")
    check(pump)


def test_failures_are_collected(pump: Pump) -> None:
    run = pump.run(f"df.map({SERIES.format(3)}, 'select 6 / ($item.n - 2) as v', on_error => 'collect')")
    assert run.status == "completed"
    assert [item["ok"] for item in run.result] == [True, False, True]
    assert run.result[0]["value"]["rows"] == [{"v": -6}]
    assert run.result[1]["error"]["sqlstate"] == "22012"
    assert run.result[1]["error"]["message"] == "division by zero"
    run = pump.run(
        f"df.map({SERIES.format(3)}, 'select 6 / ($item.n - 2)', on_error => 'collect', collect_values => false)"
    )
    assert run.result == {"ok": 2, "failed": 1}
    check(pump)


def test_a_failure_can_be_caught(pump: Pump) -> None:
    run = pump.run(f"df.catch(df.map({SERIES.format(3)}, 'select 1/0'), 'select $error.sqlstate as v')")
    assert run.value() == "22012"
    run = pump.run(f"df.map({SERIES.format(3)}, df.catch('select 1/($item.n - 1)', 'select 100 + $item_no'))")
    assert values(run.result) == [101, 1, 0]
    check(pump)


def test_maps_in_maps(pump: Pump) -> None:
    inner = "df.map('select g as m from generate_series(1, $outer) g', 'select $outer * 10 + $item.m')"
    run = pump.run(f"df.map({SERIES.format(3)}, ('select $item.n' |=> 'outer') ~> {inner})")
    assert run.status == "completed", run.error
    assert [values(item) for item in run.result] == [[11], [21, 22], [31, 32, 33]]
    check(pump)


def test_names_stay_in_their_item(pump: Pump) -> None:
    body = "('select $x + $item.n' |=> 'x') ~> 'select $x'"
    run = pump.run(f"'select 7' |=> 'x' ~> df.map({SERIES.format(3)}, {body}) ~> 'select $x'")
    assert run.value() == 7
    assert pump.db.admin("select count(*) from df_engine.bindings where scope > 0") == 0
    check(pump)


def test_in_a_loop(pump: Pump) -> None:
    pump.db.sql("create table seen (n int)")
    run = pump.run(
        f"df.loop(df.map({SERIES.format(2)}, 'insert into seen select $item.n'), 'select count(*) < 6 from seen')"
    )
    assert run.status == "completed", run.error
    assert pump.db.sql("select count(*) from seen") == 6
    assert pump.db.admin("select count(*) from df_engine.outcomes where scope > 0") == 0
    check(pump)


def test_a_break_ends_the_loop_around(pump: Pump) -> None:
    run = pump.run(f"df.loop(df.map({SERIES.format(3)}, 'select $item.n = 2' ?> df.break('$item_no') !> 'select 1'))")
    assert (run.status, run.result) == ("completed", 2)
    check(pump)


def test_a_time_out_stops_it(pump: Pump) -> None:
    run = pump.run(f"df.timeout(df.map({SERIES.format(3)}, df.wait_for_signal('never')), 0.2, 'select 5')")
    assert run.value() == 5
    check(pump)
    run = pump.run(f"df.map({SERIES.format(3)}, df.wait_for_signal('never')) | 'select 6'")
    assert run.value() == 6
    check(pump)


def test_cancelled(pump: Pump) -> None:
    run = pump.start(f"df.map({SERIES.format(30)}, df.wait_for_signal('go'), parallel => 4)")
    pump.until(lambda: pump.db.admin("select count(*) from df_engine.waits") == 4)
    pump.db.sql("select df.cancel(%s)", run.id)
    assert run.status == "cancelled"
    check(pump)


def test_waiting_items(pump: Pump) -> None:
    run = pump.start(
        f"df.map({SERIES.format(3)}, df.wait_for_signal('go') ~> df.sleep(0) ~> 'select $item_no', parallel => 3)"
    )
    pump.until(lambda: pump.db.admin("select count(*) from df_engine.waits") == 3)
    tree = pump.db.sql("select df.explain(%s)", run.id)
    assert "MAP (10 at a time)" in tree or "MAP (3 at a time)" in tree
    pump.db.sql("select df.signal(%s, 'go')", run.id)
    pump.until(run.ended)
    assert values(run.result) == [1, 2, 3]
    check(pump)


def test_too_much_for_a_result(pump: Pump) -> None:
    pump.db.admin("select df.set_setting('max_result_bytes', '2000')")
    run = pump.run(f"df.map({SERIES.format(20)}, 'select repeat(''x'', 200)')")
    assert run.status == "failed"
    assert "max_result_bytes allows 2000" in run.error
    assert "Map a page" in run.error
    run = pump.run(f"df.map({SERIES.format(20)}, 'select repeat(''x'', 200)', collect_values => false)")
    assert run.result == {"ok": 20, "failed": 0}


def test_an_item_is_known_in_a_map_only(pump: Pump) -> None:
    run = pump.run("'select $item.n'")
    assert run.status == "failed"
    assert 'no node binds the name "item"' in run.error


def test_explain_counts_items_and_shows_the_last(pump: Pump) -> None:
    body = "'select 1 / (mod($item.n, 100))' ~> df.sleep(0)"
    run = pump.start(f"df.map({SERIES.format(200)}, {body}, on_error => 'collect', parallel => 1)")
    pump.until(lambda: pump.db.admin("select max(done) from df_engine.activations") > 110)
    tree = pump.db.sql("select df.explain(%s)", run.id)
    assert " of 200 items, 1 failed ⏳" in tree
    pump.until(run.ended)
    tree = pump.db.sql("select df.explain(%s)", run.id)
    assert "MAP (1 at a time, collects errors) 200 items ✓" in tree
    step = run.node("select 1 / (mod")
    assert (step["status"], step["status_details"]["execution_id"].rpartition("::")[2]) == ("failed", "200")
    assert run.node("select g as n")["status"] == "completed"


def test_nodes_of_a_map_in_a_map(pump: Pump) -> None:
    run = pump.run(f"df.map({SERIES.format(2)}, df.map({SERIES.format(3)}, 'select 1'))")
    assert [row[0] for row in pump.db.rows("select distinct status from df.nodes where instance_id = %s", run.id)] == [
        "completed"
    ]


def test_a_failing_items_step_fails_the_map(pump: Pump) -> None:
    run = pump.run("df.map('select 1/0', 'select 1')")
    assert (run.status, run.error) == ("failed", "SQL execution failed: division by zero (SQLSTATE 22012)")
    states = pump.db.rows(
        "select node_type, status, inferred_status from df.instance_nodes(%s) order by node_type", run.id
    )
    assert states == [("MAP", "failed", "failed"), ("SQL", "failed", "failed"), ("SQL", "pending", "skipped")]


def test_all_items_are_seen_by_node_activations(pump: Pump) -> None:
    run = pump.run(f"df.map({SERIES.format(3)}, 'select 6 / ($item.n - 2) as v', on_error => 'collect')")
    rows = pump.db.rows(
        "select node_type, item_no, status, result #>> '{rows,0,v}', error from df.node_activations(%s)", run.id
    )
    error = "SQL execution failed: division by zero (SQLSTATE 22012)"
    assert sorted(rows[2:]) == [
        ("SQL", 1, "completed", "-6", None),
        ("SQL", 2, "failed", None, error),
        ("SQL", 3, "completed", "6", None),
    ]
    assert {(row[0], row[2]) for row in rows[:2]} == {("MAP", "completed"), ("SQL", "completed")}
    assert pump.db.rows("select * from df.node_activations(%s)", run.id, user="other") == []


@pytest.mark.parametrize("on_error", ["fail", "stop", "collect"])
def test_who_acts_for_every_role_leaves_the_end_of_a_map_to_its_submitter(pump: Pump, on_error: str) -> None:
    """The values of a map may be millions, and gathering them keeps nobody else waiting."""
    body = "df.timeout(df.wait_for_signal('never'), 0.01)" if on_error == "stop" else "df.sleep(0)"
    run = pump.start(f"df.map({SERIES.format(3)}, {body}, on_error => '{on_error}', parallel => 3)")
    pump.work()
    wait_until(lambda: pump.tick() and pump.db.admin("select count(*) from df_engine.queue") > 0)
    pump.tick()
    assert run.status == "running"
    check(pump)
    pump.work()
    assert run.status == ("failed" if on_error == "stop" else "completed")
    assert run.error == ("timeout after 0.01 s" if on_error == "stop" else "")
    check(pump)


def test_maps_in_maps_have_so_many_threads_together(pump: Pump) -> None:
    inner = f"df.map({SERIES.format(150)}, df.wait_for_signal('go'), parallel => 150)"
    run = pump.start(f"df.map({SERIES.format(100)}, {inner}, parallel => 100)")
    pump.until(lambda: pump.db.admin("select count(*) from df_engine.activations") == 101, 60)
    threads = pump.db.admin("select sum(open) from df_engine.activations")
    assert 10_000 <= threads <= 10_000 + 101
    pump.db.sql("select df.cancel(%s)", run.id)
    check(pump)


def test_a_cancel_interrupts_the_statement_of_a_later_item(pump: Pump) -> None:
    body = "select pg_sleep(case when $item.n = 1 then 0 else 600 end)"
    run = pump.start(f"df.map({SERIES.format(2)}, '{body}', parallel => 1)")
    with ThreadPoolExecutor() as executor:
        working = executor.submit(pump.work)
        asleep = "select pid from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'"
        wait_until(lambda: pump.db.admin(asleep))
        pump.db.sql("select df.cancel(%s)", run.id)
        with closing(Pump(pump.db)) as supervisor:
            assert supervisor.tick()["interrupt"] == [pump.db.admin(asleep)]
        pump.db.admin(f"select pg_cancel_backend(({asleep}))")
        working.result()
    pump.work()  # drops what the statement had locked
    assert run.status == "cancelled"
    check(pump)
