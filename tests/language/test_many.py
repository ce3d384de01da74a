"""df.all, df.race_all, df.any, df.chain and their aggregates."""

import json
from typing import Any

import psycopg
import pytest
from psycopg import errors

from tests.support import Database, Pump


def sql(query: str) -> dict[str, Any]:
    return {"node_type": "SQL", "query": query}


A, B, C, D = map(sql, "abcd")


@pytest.mark.parametrize(
    ("call", "envelope"),
    [
        ("df.all('a')", {"node_type": "JOIN", "left_node": A}),
        ("df.all('a','b')", {"node_type": "JOIN", "left_node": A, "right_node": B}),
        (
            "df.any('a','b','c','d')",
            {"node_type": "ANY", "left_node": A, "right_node": B, "extra_nodes": [C, D]},
        ),
        ("df.race_all('a','b','c')", {"node_type": "RACE", "left_node": A, "right_node": B, "extra_nodes": [C]}),
        ("df.race_all('a')", A),
        ("df.any('a')", A),
        ("df.chain('a')", A),
        ("df.all(variadic array['a','b'])", {"node_type": "JOIN", "left_node": A, "right_node": B}),
    ],
)
def test_envelopes(shared: Database, call: str, envelope: dict[str, Any]) -> None:
    assert shared.sql(f"select {call}") == json.dumps(envelope, separators=(",", ":"))


def test_a_chain_is_balanced_and_an_aggregate_of_nothing_is_null(shared: Database) -> None:
    chained = "select df.chain_agg('select ' || i order by i desc) from generate_series(1, 1000) i"
    tree = json.loads(shared.sql(chained))

    def leaves(node: dict[str, Any], depth: int = 0) -> list[tuple[int, str]]:
        if node["node_type"] == "SQL":
            return [(depth, node["query"])]
        return [*leaves(node["left_node"], depth + 1), *leaves(node["right_node"], depth + 1)]

    assert [query for _, query in leaves(tree)] == [f"select {i}" for i in range(1000, 0, -1)]
    assert max(depth for depth, _ in leaves(tree)) == 10
    for aggregate in ("all_agg", "chain_agg"):
        assert shared.sql(f"select df.{aggregate}('select 1') from generate_series(1, 0)") is None


@pytest.mark.parametrize("name", ["all", "race_all", "any", "chain"])
def test_what_is_no_list_of_graphs(shared: Database, name: str) -> None:
    with pytest.raises(errors.NullValueNotAllowed, match=f"argument 2 of df.{name} is NULL"):
        shared.sql(f"select df.{name}('a', null, 'c')")
    with pytest.raises(errors.InvalidParameterValue, match="and got 0"):
        shared.sql(f"select df.{name}(variadic '{{}}'::text[])")
    with pytest.raises(errors.ProgramLimitExceeded, match="and got 5001"):
        shared.sql(f"select df.{name}(variadic array_fill('a'::text, array[5001]))")


FLOWS = [
    "all('select 1')",
    "race_all('select 1', 'select 2', 'select 3')",
    "any('select 1', 'select 2')",
    "any('select 1', 'select 2' ~> 'select 3', 'select 4')",
    "('select 1' & 'select 2') |=> 'n'",
    "chain('select 1', 'select 2', 'select 3', 'select 4', 'select 5')",
    "'select 0' ~> chain('select 1', 'select 2', 'select 3' & 'select 4', 'select 5' ~> 'select 6')",
    "chain('select 1', 'select 2', 'select 3' ~> 'select 4', 'select 5') |=> 'n'",
    "catch('select 1', 'select 2')",
    'catch(\'select 1\' ~> \'select 2\', break, errors => ["23505", "40", "http:5xx"]) |=> n',
    "timeout('select 1', 5)",
    "timeout('select 1' & 'select 2', 0.5, 'select 3' ~> 'select 4')",
    "timeout('select 1', '$cfg.pause', any('select 3', sleep(1)))",
    "'select 1' ~> timeout(catch('select 1', 'select 2'), 86400)",
]


@pytest.mark.parametrize("flow", FLOWS)
def test_flow_text_and_back(shared: Database, flow: str) -> None:
    envelope = shared.sql("select df.flow(%s)", flow)
    text = shared.sql("select df.to_flow(%s)", envelope)
    assert shared.sql("select df.flow(%s)", text) == envelope
    function = flow.replace("break", "df.break()")
    for name in ("all", "race_all", "any", "chain", "catch", "timeout", "sleep"):
        function = function.replace(f"{name}(", f"df.{name}(").replace(f"race_df.{name}", f"race_{name}")
    if "[" not in flow and "|=> n" not in flow:
        assert shared.sql(f"select {function}") == envelope


def test_a_chain_is_written_as_one(shared: Database) -> None:
    for count in (2, 3, 4, 7, 100):
        steps = ", ".join(f"'select {i}'" for i in range(count))
        text = shared.sql(f"select df.to_flow(df.chain({steps}))")
        assert "(" not in text.removeprefix("chain(") and text.startswith("chain(") == (count > 3)
        assert shared.sql("select df.flow(%s)", text) == shared.sql(f"select df.chain({steps})")
    assert shared.sql("select df.to_flow(('a' ~> 'b') ~> ('c' ~> 'd'))") == "chain('a', 'b', 'c', 'd')"
    assert shared.sql("select df.to_flow('a' ~> 'b' ~> 'c' ~> 'd')") == "'a' ~> 'b' ~> 'c' ~> 'd'"


def test_calls_with_many_branches_in_flow_text(shared: Database) -> None:
    branches = ", ".join(f"'select {i}'" for i in range(1000))
    assert shared.sql("select df.flow(%s)", f"all({branches})") == shared.sql(
        "select df.all_agg('select ' || i order by i) from generate_series(0, 999) i"
    )
    with pytest.raises(errors.SyntaxError, match=r"(?s)do not fit df.any"):
        shared.sql("select df.flow('any()')")


def test_all_and_chain_run(pump: Pump) -> None:
    run = pump.run(
        "df.chain('select 1 as v' , df.all('select 2 as v') |=> 'a', df.all('select $a.0', 'select 3', df.sleep(0)))"
    )
    assert run.status == "completed", run.error
    assert [len(run.result), run.result[1]["rows"]] == [3, [{"?column?": 3}]]


def test_the_first_of_many_decides(pump: Pump) -> None:
    run = pump.run("df.race_all(df.wait_for_signal('a'), df.wait_for_signal('b'), 'select 1 as v')")
    assert (run.status, run.value()) == ("completed", 1)
    run = pump.run("df.race_all(df.wait_for_signal('a'), df.wait_for_signal('b'), 'select 1/0')")
    cause = "SQL execution failed: division by zero (SQLSTATE 22012)"
    assert (run.status, run.error) == ("failed", f"RACE branch 3 failed: {cause}")


def test_any_takes_the_first_that_succeeds(pump: Pump) -> None:
    run = pump.run(
        "df.any('select 1/0', df.seq(df.sleep(0), 'select 2 as v') |=> 'n', "
        "df.wait_for_signal('never')) ~> 'select $n + 1 as v'"
    )
    assert (run.status, run.value()) == ("completed", 3)
    assert run.node("never")["status"] == "pending"
    assert pump.db.admin("select count(*) from df.check()") == 0


def test_any_fails_with_all_errors(pump: Pump) -> None:
    run = pump.run("df.any('select 1/0', 'select x', df.loop('select 1/0'))")
    assert run.status == "failed"
    assert run.error == (
        "ANY left branch failed: SQL execution failed: division by zero (SQLSTATE 22012); "
        'ANY right branch failed: SQL execution failed: column "x" does not exist (SQLSTATE 42703); '
        "ANY branch 3 failed: SQL execution failed: division by zero (SQLSTATE 22012)"
    )


def test_a_catch_around_any_sees_the_failure_of_the_first_branch(pump: Pump) -> None:
    run = pump.run(
        "df.catch(df.any(df.sleep(0) ~> 'select 1/0', 'select x'), 'select $error.sqlstate as v', array['22'])"
    )
    assert (run.status, run.value()) == ("completed", "22012"), run.error


def test_a_break_in_any_decides_and_ends_the_loop(pump: Pump) -> None:
    run = pump.run("@> df.any('select 1/0', df.break('7'), df.wait_for_signal('never'))")
    assert (run.status, run.result) == ("completed", 7)


def test_explain_draws_them(shared: Database) -> None:
    drawn = shared.sql(
        "select df.explain(df.any('a', 'b', df.timeout('c', 5, 'd')) ~> df.catch('e', 'f', array['22','40']))"
    )
    for line in ("ANY (3)", "║ branch 3:", "TIMEOUT 5s", "✗ otherwise:", "CATCH 22, 40", "✗ handler:"):
        assert line in drawn, drawn


@pytest.mark.parametrize("kind", ["RACE", "ANY"])
def test_hand_written_envelopes_are_checked(shared: Database, kind: str) -> None:
    leaf = sql("select 1")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"left_node": leaf}, "right_node is missing"),
        ({"left_node": leaf, "right_node": leaf, "extra_nodes": [1]}, "extra_nodes entries must be"),
        ({"left_node": leaf, "right_node": leaf, "query": "x"}, "query is not valid"),
    ]
    for node, message in cases:
        with pytest.raises(psycopg.errors.InvalidTextRepresentation, match=message):
            shared.sql("select df.start(%s)", json.dumps({"node_type": kind, **node}))
