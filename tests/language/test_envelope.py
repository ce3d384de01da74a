"""Envelopes at random: what is started is what was written, and nothing but a clear refusal comes of nonsense."""

import json
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from generator.model import LEAVES, NODE_TYPES, STEPS
from tests.support import Database

Node = dict[str, Any]
CHILDREN = ("left_node", "right_node", "condition_node")
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)


def named(node: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    return st.builds(
        lambda n, name: n | ({"result_name": name} if name else {}), node, st.sampled_from(["", "x", "_y1"])
    )


def bare(query: str) -> bool:
    """Whether it is no JSON object, of which some nodes expect certain keys."""
    return not query.lstrip().startswith("{")


def free_text(node: Node) -> bool:
    """Whether its query may be any text."""
    return node["node_type"] != "BLOCK" and (node["node_type"] != "SLEEP" or bare(node["query"]))


def leaf() -> st.SearchStrategy[Node]:
    retry = st.fixed_dictionaries(
        {},
        optional={
            "max_attempts": st.integers(1, 1000),
            "retry_on": st.just(["23505"]),
            "exhausted": st.sampled_from(["fail", "pause"]),
        },
    )
    plain = st.fixed_dictionaries(
        {"node_type": st.sampled_from(LEAVES).filter(lambda kind: kind != "CALL"), "query": text}
    )
    step = st.fixed_dictionaries({"node_type": st.sampled_from(STEPS), "query": text, "retry": retry})
    free = (plain | step).filter(free_text)
    statements = st.lists(text.filter(bare), min_size=1, max_size=3)
    listed = statements.map(lambda texts: json.dumps({"statements": texts}))
    block = st.fixed_dictionaries({"node_type": st.just("BLOCK"), "query": listed}, optional={"retry": retry})
    return named(free | block)


def inner(node: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    pair = {"left_node": node, "right_node": node}
    kinds: list[st.SearchStrategy[Any]] = [
        st.builds(lambda n: {"node_type": "CALL", "query": json.dumps({"flow": json.dumps(n)})}, node),
        st.fixed_dictionaries({"node_type": st.sampled_from(["THEN", "RACE", "JOIN"]), **pair}),
        st.fixed_dictionaries({"node_type": st.just("IF"), **pair, "condition_node": node}),
        st.fixed_dictionaries({"node_type": st.just("IF"), "left_node": node, "condition_node": node}),
        st.fixed_dictionaries({"node_type": st.just("IF"), **pair, "query": st.just('{"result_name":"r"}')}),
        st.fixed_dictionaries({"node_type": st.just("LOOP"), "left_node": node}, optional={"condition_node": node}),
        st.fixed_dictionaries(
            {"node_type": st.just("JOIN"), **pair, "extra_nodes": st.lists(node, min_size=1, max_size=3)}
        ),
    ]
    return named(st.one_of(kinds))


graphs = st.recursive(leaf(), inner, max_leaves=12)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | text | st.sampled_from(["{}", '{"condition_node":"x"}', "[]"]),
    lambda v: (
        st.lists(v, max_size=2)
        | st.fixed_dictionaries(
            {"node_type": st.sampled_from([*NODE_TYPES, "NOPE"]) | v},
            optional=dict.fromkeys([*CHILDREN, "query", "result_name", "retry", "extra_nodes"], v),
        )
    ),
    max_leaves=10,
)


@pytest.fixture(scope="module")
def conn(shared: Database) -> psycopg.Connection[Any]:
    shared.admin("select df.grant_usage('app')")
    return shared.connect("app")


def rebuilt(rows: dict[str, Node], node_id: str) -> Node:
    """The envelope that a node's row stands for."""
    row = rows[node_id]
    node = {key: row[key] for key in ("node_type", "query", "result_name") if row[key] is not None}
    node |= {"retry": row["retry_policy"]} if row["retry_policy"] is not None else {}
    node |= {key: rebuilt(rows, row[key]) for key in ("left_node", "right_node") if row[key]}
    if row["node_type"] in ("IF", "LOOP", "JOIN") and row["query"] is not None:
        config = json.loads(node.pop("query"))
        if "condition_node" in config:
            node["condition_node"] = rebuilt(rows, config.pop("condition_node"))
        if "extra_nodes" in config:
            node["extra_nodes"] = [rebuilt(rows, extra) for extra in config.pop("extra_nodes")]
        node |= {"query": json.dumps(config, separators=(",", ":"))} if config else {}
    return node


@FUZZ
@given(graph=graphs)
def test_what_is_started_is_what_was_written(conn: psycopg.Connection[Any], graph: Node) -> None:
    with conn.transaction(force_rollback=True):
        started = conn.execute("select df.start(%s)", [json.dumps(graph)]).fetchone()
        nodes = conn.execute("select to_jsonb(n) from df.nodes n where instance_id = %s", started).fetchall()
        root = conn.execute("select root_node from df.instances where id = %s", started).fetchone()
        conn.execute("set constraints all immediate")
    assert root
    assert rebuilt({row["id"]: row for (row,) in nodes}, root[0]) == graph


@FUZZ
@given(graph=anything)
def test_nonsense_is_started_as_a_statement_or_refused_clearly(conn: psycopg.Connection[Any], graph: Any) -> None:
    envelope = isinstance(graph, dict) and isinstance(graph["node_type"], str)
    with conn.transaction(force_rollback=True):
        try:
            conn.execute("select df.start(%s)", [json.dumps(graph)])
            conn.execute("set constraints all immediate")
        except psycopg.Error as error:
            assert envelope
            assert error.sqlstate in ("22P02", "23514")
            assert error.sqlstate == "23514" or str(error).startswith("Invalid durable function")


@FUZZ
@given(a=text, b=text)
def test_any_text_survives_every_builder(conn: psycopg.Connection[Any], a: str, b: str) -> None:
    row = conn.execute("select df.if(%s, df.break(%s), df.wait_for_signal(%s || 'x'))", [a, b, a]).fetchone()
    assert row
    graph = json.loads(row[0])
    assert graph["condition_node"]["query"] == a
    assert json.loads(graph["left_node"]["query"]) == {"break_value": b}
    assert json.loads(graph["right_node"]["query"])["signal_name"] == a + "x"
