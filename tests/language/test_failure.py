"""df.catch and df.timeout: what fails is handled, what takes too long is stopped."""

import json

import psycopg
import pytest
from psycopg import errors

from tests.support import Database, Pump, Run

ZERO = "'select 1/0'"


def problems(pump: Pump) -> list[tuple[object, ...]]:
    return pump.db.rows("select * from df.check()", user=None)


def states(run: Run) -> dict[str, str]:
    query = (
        "select case node_type when 'SQL' then query else node_type end, status from df.nodes where instance_id = %s"
    )
    rows = run.db.rows(query, run.id)
    return dict(rows)


def test_a_failure_is_handled(pump: Pump) -> None:
    run = pump.run(
        f"df.catch({ZERO}, 'select $error.sqlstate as s, $error.message as m', array['22012']) ~> 'select 5 as v'"
    )
    assert (run.status, run.value()) == ("completed", 5)
    handler = run.node("$error.sqlstate")
    assert handler["result"]["rows"] == [{"s": "22012", "m": "division by zero"}]
    assert run.node("select 1/0")["status"] == "failed"
    assert run.node("CATCH")["status"] == "completed"
    assert problems(pump) == []


def test_what_error_holds(pump: Pump) -> None:
    raising = "$q$do $d$ begin raise exception 'no' using detail = 'd', hint = 'h', errcode = 'P0042'; end $d$$q$"
    run = pump.run(f"df.catch(df.retry({raising}, 2, '0'), 'select $error::jsonb as e')")
    assert run.status == "completed", run.error
    step = run.node("raise exception")
    error = run.value()
    assert error == {
        "message": "no", "sqlstate": "P0042", "detail": "d", "hint": "h", "node_id": step["id"], "query": step["query"],
        "attempts": 2, "status": None,
    }  # fmt: skip


def test_what_is_not_listed_is_not_caught(pump: Pump) -> None:
    run = pump.run(f"df.catch({ZERO} ~> 'select 2', 'select 3', array['23', '42P01'])")
    assert (run.status, run.error) == ("failed", "SQL execution failed: division by zero (SQLSTATE 22012)")
    assert states(run) == {
        "CATCH": "failed", "THEN": "failed", "select 1/0": "failed", "select 2": "pending", "select 3": "pending",
    }  # fmt: skip
    assert run.node("CATCH")["error"] == run.error


def test_the_value_is_that_of_the_body_or_of_the_handler_and_names_stay(pump: Pump) -> None:
    run = pump.run("df.catch('select 1 as v' |=> 'a', 'select 2') |=> 'r' ~> 'select $r + $a as v'")
    assert run.value() == 2
    run = pump.run(f"df.catch('select 1 as v' |=> 'a' ~> {ZERO}, 'select 2') |=> 'r' ~> 'select $r + $a as v'")
    assert run.value() == 3


def test_catches_in_each_other(pump: Pump) -> None:
    inner = f"df.catch({ZERO}, 'select y', array['23505'])"
    run = pump.run(f"df.catch({inner}, 'select $error.sqlstate as v')")
    assert run.value() == "22012"
    run = pump.run(f"df.catch(df.catch({ZERO}, 'select nothing'), 'select $error.sqlstate as v')")
    assert run.value() == "42703"
    run = pump.run(
        f"df.catch({ZERO}, df.catch('select nothing', 'select $error.sqlstate as v') ~> 'select $error.sqlstate as v')"
    )
    assert run.value() == "22012"


def test_a_catch_sees_what_comes_through_constructs(pump: Pump) -> None:
    run = pump.run(f"df.catch(df.all('select 1', {ZERO} & 'select 2'), 'select $error.sqlstate as v', array['22'])")
    assert run.value() == "22012"
    run = pump.run(f"df.catch(@> {ZERO}, 'select $error.query as v')")
    assert run.value() == "select 1/0"
    run = pump.run(f"('select 1' & df.catch({ZERO}, 'select 7 as v')) |=> 'j' ~> 'select ($j.1.rows.0.v)::int as v'")
    assert run.value() == 7


def test_a_break_passes_through_a_catch(pump: Pump) -> None:
    run = pump.run("@> df.catch(df.break('9'), 'select 1')")
    assert (run.status, run.result) == ("completed", 9)


def test_a_catch_in_a_loop_begins_anew_each_turn(pump: Pump) -> None:
    pump.db.sql("create sequence tries")
    run = pump.run(
        "df.loop(df.catch('select 1 / (mod(nextval(''tries''), 2)) as v', 'select -1 as v'), 'select "
        "nextval(''tries'') < 6')"
    )
    assert run.status == "completed", run.error
    assert problems(pump) == []


def test_error_is_an_unknown_name_elsewhere(pump: Pump) -> None:
    run = pump.run("df.catch('select 1', 'select 2') ~> 'select $error.message'")
    assert run.status == "failed" and "$error.message" in run.error


def test_a_list_of_errors_is_checked_when_it_is_written(shared: Database) -> None:
    with pytest.raises(errors.InvalidParameterValue, match=r"df\.catch: errors must list SQLSTATEs") as raised:
        shared.sql("select df.catch('a', 'b', array['unique_violation'])")
    assert "without a list every failure is caught" in str(raised.value.diag.message_hint)
    node = {"node_type": "SQL", "query": "select 1"}
    with pytest.raises(errors.InvalidTextRepresentation, match="root: errors must list SQLSTATEs"):
        shared.sql("select df.start(%s)", json.dumps(
            {"node_type": "CATCH", "left_node": node, "right_node": node, "query": '{"errors": "22"}'}))  # fmt: skip


def test_time_runs_out(pump: Pump) -> None:
    run = pump.run("df.timeout(df.wait_for_signal('go'), 0.01) ")
    assert (run.status, run.error) == ("failed", "timeout after 0.01 s")
    assert problems(pump) == []
    run = pump.run("df.timeout(df.wait_for_signal('go') ~> 'select 2', 0.01, 'select 1 as v') ~> 'select 4 as v'")
    assert (run.status, run.value()) == ("completed", 4)
    assert run.node("TIMEOUT")["status"] == "completed"
    run = pump.run(
        "df.catch(df.timeout(df.wait_for_signal('go'), '10 ms'), 'select $error.sqlstate as v', array['DF408'])"
    )
    assert run.value() == "DF408"
    assert problems(pump) == []


def test_time_does_not_run_out(pump: Pump) -> None:
    run = pump.run("df.timeout('select 1 as v' |=> 'n', 3600, 'select 2') ~> 'select $n + 4 as v'")
    assert (run.status, run.value()) == ("completed", 5)
    assert pump.db.admin("select count(*) from df.waiting") == 0
    run = pump.run(f"df.timeout({ZERO}, 3600)")
    assert run.error == "SQL execution failed: division by zero (SQLSTATE 22012)"
    assert problems(pump) == []


def test_a_timeout_counts_from_its_entry_and_stops_branches(pump: Pump) -> None:
    run = pump.run(
        "df.timeout(('select 1' ~> df.sleep(3600)) & df.loop(df.sleep(3600)) & df.wait_for_signal('x'), "
        "0.01, 'select 3 as v')"
    )
    assert (run.status, run.value()) == ("completed", 3)
    assert problems(pump) == []


@pytest.mark.parametrize("after", ["'5 s'", "5", "0.5", "0.5::float8", "interval '1 minute'", "'$cfg.pause'"])
def test_times_of_all_types_resolve(shared: Database, after: str) -> None:
    assert shared.sql(f"select df.timeout('select 1', {after})").startswith('{"node_type":"TIMEOUT"')


@pytest.mark.parametrize("after", ["0", "-1", "'soon'", "'0 s'", "'NaN'::numeric"])
def test_times_that_are_none(shared: Database, after: str) -> None:
    with pytest.raises(errors.InvalidParameterValue):
        shared.sql(f"select df.timeout('select 1', {after})")


def test_a_time_from_data(pump: Pump) -> None:
    run = pump.run(
        "'select ''10 ms'' as t' |=> 'cfg' ~> df.timeout(df.wait_for_signal('go'), '$cfg.t', 'select 1 as v')"
    )
    assert run.value() == 1
    run = pump.run(
        "'select ''soon'' as t' |=> 'cfg' ~> df.timeout(df.wait_for_signal('go'), '$cfg.t', 'select 1 as v')"
    )
    assert (run.status, run.error) == ("failed", 'TIMEOUT: "soon" is no duration')
    run = pump.run(
        "df.sleep(0) ~> 'select 0.01 as t' |=> 'cfg' ~> df.sleep(0) ~> df.timeout(df.sleep(60), "
        "'$cfg.t', 'select 2 as v')"
    )
    assert run.value() == 2


def test_hand_written_timeouts_are_checked(shared: Database) -> None:
    node = {"node_type": "SQL", "query": "select 1"}
    for query in ('{"after": 0}', '{"after": "soon"}', "{}", None):
        with pytest.raises(
            psycopg.errors.InvalidTextRepresentation, match=r"after in TIMEOUT must be|query is missing"
        ):
            shared.sql("select df.start(%s)", json.dumps({"node_type": "TIMEOUT", "left_node": node, "query": query}))
