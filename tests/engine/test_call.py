"""df.call: a run that starts another, waits for its end, and stops it when it is itself stopped."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.crash.crew import problems
from tests.state import CHAIN_OF_CALLERS, TIMEOUT_IS_DUE, WAITS
from tests.support import Database, Pump, Run, wait_until


def children(run: Run) -> list[Run]:
    """The runs that a run has called, oldest first."""
    rows = run.db.rows("select id from df.instances where parent_id = %s order by created_at, id", run.id)
    return [Run(run.db, row[0]) for row in rows]


def child(run: Run) -> Run:
    """The only one."""
    (only,) = children(run)
    return only


def called(pump: Pump, flow: str, number: int = 1) -> Run:
    """A run of which, with what it has called, so many threads wait for a signal or for a run."""
    run = pump.start(flow)
    pump.until(lambda: pump.db.admin(WAITS) == number)
    return run


def lines(db: Database, run: Run) -> list[str]:
    return [line.strip() for line in db.sql("select df.explain(%s)", run.id).splitlines()]


def test_the_value_of_a_call_is_the_result_of_the_run_that_it_starts(pump: Pump) -> None:
    run = pump.run("df.call('select 7 as n, ''x'' as t') |=> 'c' ~> 'select $c.n + 1 as n, $c.t as t'")
    assert run.result["rows"] == [{"n": 8, "t": "x"}]
    assert run.node("CALL")["result"] == {"rows": [{"n": 7, "t": "x"}], "row_count": 1}
    assert (child(run).status, child(run).result["rows"][0]["n"]) == ("completed", 7)
    assert problems(pump.db) == []


def test_a_child_says_who_has_called_it(pump: Pump) -> None:
    run = called(pump, "'select 1' ~> df.call(df.wait_for_signal('go'))", 2)
    node = run.node("CALL")
    parents = pump.db.rows(
        "select id, parent_id, parent_node_id, submitted_by::text from df.instances order by created_at"
    )
    assert parents == [(run.id, None, None, "app"), (child(run).id, run.id, node["id"], "app")]
    assert (run.status, node["status"], child(run).status) == ("running", "running", "running")
    assert pump.db.rows("select kind, waits_for from df.waiting where instance_id = %s", run.id) == [
        ("call", child(run).id)
    ]


@pytest.mark.parametrize(
    ("value", "text", "result"),
    [
        ("7", '{"id": $v}', {"id": 7}),
        ("'it''s'", '"$v"', "it's"),
        ("'{\"a\": [1, 2]}'::jsonb", "$v", {"a": [1, 2]}),
        ("1", "{\"label\": \"{sys_label}\"}", {"label": "outer"}),
        ("1", "[1, {\"deep\": $v}]", [1, {"deep": 1}]),
        ("1", "null", None),
    ],
)  # fmt: skip
def test_the_input_is_json_with_references(pump: Pump, value: str, text: str, result: Any) -> None:
    flow = df_call("select $input? as v", text)
    run = pump.start(f"$$select {value} as v$$ |=> 'v' ~> {flow}", "outer")
    pump.until(run.ended)
    assert pump.db.sql("select input from df.instances where parent_id = %s", run.id) == result, run.error


@pytest.mark.parametrize("rows", [1, 0])
def test_the_result_of_a_child_keeps_its_types(pump: Pump, rows: int) -> None:
    query = f"select date ''2030-01-31'' as d, array[1, 2] as a from generate_series(1, {rows})"
    reader = "select sum(d - date ''2030-01-01'') as days, count(*) filter (where 2 = any (a)) as n from $c.*"
    for flow in (f"df.call('{query}')", f"df.call(df.call('select 1' ~> '{query}'))"):
        run = pump.run(f"{flow} |=> 'c' ~> '{reader}'")
        assert run.result["rows"] == [{"days": 30 if rows else None, "n": rows}], run.error


def df_call(flow: str, given: str) -> str:
    return f"df.call($f${flow}$f$, $i${given}$i$)"


def test_an_input_that_is_no_json_fails_the_node_and_starts_nothing(pump: Pump) -> None:
    run = pump.run("'select ''a\"b'' as v' |=> 'v' ~> df.call('select 1', '{\"v\": \"$v\"}')")
    assert (run.status, children(run)) == ("failed", [])
    assert run.error.startswith('CALL: the input is no JSON, once its references are replaced: {"v": "a"b"}')
    assert problems(pump.db) == []


def test_a_label_may_hold_references(pump: Pump) -> None:
    run = pump.run("'select 5 as v' |=> 'v' ~> df.call('select 1', label => 'order $v')")
    assert pump.db.sql("select label from df.instances where parent_id = %s", run.id) == "order 5"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("$v.nope", 'CALL: reference $v.nope: "v" has no column "nope"; it has: v'),
        ("$nobody", "CALL: the input is no JSON, once its references are replaced: $nobody"),
    ],
)
def test_a_reference_that_stands_for_nothing_fails_the_node(pump: Pump, text: str, problem: str) -> None:
    run = pump.run(f"'select 1 as v' |=> 'v' ~> df.call('select 1', '{text}')")
    assert (run.status, run.error) == ("failed", problem)


def test_a_child_has_the_variables_of_its_caller_as_they_were_at_its_start(pump: Pump) -> None:
    pump.db.sql("select df.setvar('v', 'before')")
    run = called(pump, "df.call(df.wait_for_signal('go') ~> 'select ''{v}'' as v')", 2)
    pump.db.sql("select df.setvar('v', 'after')")
    pump.db.sql("select df.signal(%s, 'go')", child(run).id)
    pump.until(run.ended)
    assert run.value() == "before"


def test_a_child_has_database_and_traceparent_of_its_caller(pump: Pump) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    pump.db.sql("select set_config('df.traceparent', %s, false)", trace)
    run = pump.start("df.call(df.sleep(0))", None)
    here = pump.db.sql("select df.start(df.call('select 1'), database => current_database())")
    pump.db.sql("select set_config('df.traceparent', '', false)")
    pump.until(lambda: run.ended() and Run(pump.db, here).ended())
    assert pump.db.sql("select traceparent from df.instances where parent_id = %s", run.id) == trace
    assert pump.db.sql("select database = current_database() from df.instances where parent_id = %s", here)


def test_a_failed_child_fails_the_node_with_its_error(pump: Pump) -> None:
    run = pump.run("df.call('select 1' ~> 'select 1/0')")
    assert (run.status, child(run).status) == ("failed", "failed")
    assert run.error == child(run).error == run.node("CALL")["error"]


def test_a_catch_sees_what_is_known_of_the_error_of_a_child(pump: Pump) -> None:
    handler = "select $error.sqlstate as code, $error.message as said, $error.node_id as node"
    run = pump.run(f"df.catch(df.call('select 1' & 'select 1/0'), '{handler}', array['22'])")
    (row,) = run.result["rows"]
    assert row == {"code": "22012", "said": "division by zero", "node": run.node("CALL")["id"]}


def test_a_cancelled_child_fails_the_node_and_can_be_caught(pump: Pump) -> None:
    run = called(pump, "df.catch(df.call(df.sleep(3600)), 'select $error.message as m', array['57014'])")
    pump.db.sql("select df.cancel(%s, 'enough')", child(run).id)
    pump.until(run.ended)
    assert run.value() == "canceled: enough"
    assert problems(pump.db) == []


def stopped(pump: Pump, run: Run, why: str) -> None:
    """All that the run had called is cancelled, and says why."""
    for below in children(run):
        assert (below.status, below.error) == ("cancelled", f"canceled: instance {run.id}, which has called it, {why}")
    assert problems(pump.db) == []
    assert pump.db.admin(WAITS) == 0


def test_a_cancel_reaches_children_in_its_own_transaction(pump: Pump) -> None:
    run = called(pump, "df.call(df.call(df.sleep(3600)) & df.sleep(3600)) & df.call(df.sleep(3600))", 3)
    with pump.db.connect("app", autocommit=False) as conn:
        conn.execute("select df.cancel(%s, 'enough')", [run.id])
        assert {below.status for below in children(run)} == {"running"}
        conn.commit()
    assert run.status == "cancelled"
    below = next(c for c in children(run) if children(c))
    stopped(pump, below, f"is canceled: instance {run.id}, which has called it, is canceled: enough")
    stopped(pump, run, "is canceled: enough")


def test_a_cancel_that_is_rolled_back_leaves_the_child(pump: Pump) -> None:
    run = called(pump, "df.call(df.wait_for_signal('go'))", 2)
    with pump.db.connect("app", autocommit=False) as conn:
        conn.execute("select df.cancel(%s)", [run.id])
        conn.rollback()
    pump.db.sql("select df.signal(%s, 'go')", child(run).id)
    pump.until(run.ended)
    assert (run.status, child(run).status) == ("completed", "completed")


def test_a_time_out_reaches_the_child(pump: Pump) -> None:
    run = called(pump, "df.timeout(df.call(df.sleep(3600)), 3600, 'select 3 as n')")
    pump.db.admin(TIMEOUT_IS_DUE)
    pump.until(run.ended)
    assert run.value() == 3
    stopped(pump, run, "does not wait for it any more")


@pytest.mark.parametrize("race", ["{} | {}", "df.any({}, {})"])
@pytest.mark.parametrize("winner", ["df.sleep(0.01)", "df.wait_for_signal('go', 1)", "'select 1' ~> 'select 2'"])
def test_a_lost_race_reaches_the_child(pump: Pump, race: str, winner: str) -> None:
    run = pump.run(race.format("df.call(df.sleep(3600))", f"({winner})"))
    assert run.status == "completed"
    stopped(pump, run, "does not wait for it any more")


def test_a_failing_run_reaches_the_child(pump: Pump) -> None:
    run = called(pump, "df.call(df.sleep(3600)) & df.wait_for_signal('s')", 2)
    fail = "select df_engine.fail_run(i.instance, 'broken', false) from df_engine.instances i where i.id = %s"
    pump.db.admin(fail, run.id)
    assert run.error == "broken"
    stopped(pump, run, "has failed")


def test_the_statement_of_a_child_is_interrupted_when_its_caller_is_cancelled(pump: Pump) -> None:
    run = pump.start("df.call('select pg_advisory_lock(5)')")
    with pump.db.connect() as holder:
        holder.execute("select pg_advisory_lock(5)")
        with ThreadPoolExecutor(1) as threads:
            working = threads.submit(pump.work)
            wait_until(lambda: pump.db.admin("select count(*) from df.running_steps") == 1)
            pump.db.sql("select df.cancel(%s)", run.id)
            doomed = pump.tick()["interrupt"]
            assert len(doomed) == 1
            pump.db.admin("select pg_cancel_backend(%s)", doomed[0])
            working.result()
    assert (run.status, child(run).status) == ("cancelled", "cancelled")
    pump.until(lambda: problems(pump.db) == [])


def test_each_iteration_calls_anew(pump: Pump) -> None:
    pump.db.sql("create sequence s")
    run = pump.run("df.loop(df.call('select nextval(''s'') as n') |=> 'c', 'select $c.n < 3')")
    assert (run.value(), [c.value() for c in children(run)]) == (3, [1, 2, 3])
    assert problems(pump.db) == []


def test_a_call_in_a_join_and_a_call_in_a_call(pump: Pump) -> None:
    run = pump.run("df.all(df.call(df.call('select 1 as n')), df.call('select 2 as n'), 'select 3 as n')")
    assert [r["rows"][0]["n"] for r in run.result] == [1, 2, 3]
    assert problems(pump.db) == []


def test_a_run_stands_at_most_32_levels_below_one_that_was_started(pump: Pump) -> None:
    deep = pump.start("df.wait_for_signal('go') ~> df.call('select 1 as n')")
    pump.db.admin(CHAIN_OF_CALLERS, deep.id, 31, deep.id)
    deeper = pump.start("df.wait_for_signal('go') ~> df.call('select 1 as n')")
    pump.db.admin(CHAIN_OF_CALLERS, deeper.id, 32, deeper.id)
    pump.until(lambda: pump.db.admin(WAITS) == 2)
    for run in (deep, deeper):
        pump.db.sql("select df.signal(%s, 'go')", run.id)
        pump.until(run.ended)
    assert (deep.status, deeper.status, children(deeper)) == ("completed", "failed", [])
    assert "32 levels" in deeper.error


def test_a_limit_of_live_instances_fails_the_node_as_it_would_a_start(pump: Pump) -> None:
    pump.db.admin("select df.set_role_limit('app', live_instances => 1)")
    run = pump.run("df.catch(df.call('select 1'), 'select $error.sqlstate as code', array['54000'])")
    assert run.value() == "54000"
    assert children(run) == []


def test_a_flow_that_cannot_be_started_when_it_is_called_fails_the_node(pump: Pump) -> None:
    pump.db.sql("select df.setvar('v', '1')")
    run = pump.run("df.call('select {nobody}')")
    assert (run.status, children(run)) == ("failed", [])
    assert run.error.startswith("CALL: Invalid durable function graph: root: the run has no variable {nobody}")


def test_explain_shows_the_child(pump: Pump) -> None:
    run = called(pump, "'select 1' ~> df.call('select 2' ~> df.wait_for_signal('go'), label => 'below')", 2)
    line = f"→ CALL 'select 2' ~> wait_for_signal('go') (below) → {child(run).id} ⏳"
    assert line in lines(pump.db, run)
    drawn = pump.db.sql("select df.explain($$df.call('select 2' ~> df.wait_for_signal('go'), label => 'below')$$)")
    assert drawn.strip() == "CALL 'select 2' ~> wait_for_signal('go') (below)"


def test_a_run_is_removed_after_what_it_has_called(pump: Pump) -> None:
    pump.run("df.call(df.call('select 1'))")
    pump.db.admin("select df.set_setting('retention_days', '0'), df.set_setting('reconcile_interval', '0.01')")
    seen = set()

    def gone() -> bool:
        seen.add(pump.db.admin("select count(*) from df.instances"))
        assert problems(pump.db) == []
        pump.supervisor.execute("select df_engine.retain()")
        return not pump.db.admin("select count(*) from df.instances")

    wait_until(gone)
    assert len(seen) > 1


def test_a_child_is_not_removed_before_its_caller_has_its_result(pump: Pump) -> None:
    run = pump.start("df.call('select 1 as n')")
    pump.work()
    assert child(run).status == "completed"
    pump.db.admin("select df.set_setting('retention_days', '0'), df.set_setting('reconcile_interval', '0.01')")
    pump.supervisor.execute("select df_engine.retain()")
    assert child(run).status == "completed"


def test_df_work_serves_a_call_from_begin_to_end(db: Database) -> None:
    run = Run(db, db.sql("select df.start(df.call(df.call('select 1 as n')) ~> 'select 2 as n')"))
    with db.connect("app") as conn:
        conn.execute("call df.work()")
    assert (run.status, run.value()) == ("completed", 2)
