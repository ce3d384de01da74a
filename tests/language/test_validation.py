"""What df.start refuses, and where in the graph it says the mistake is."""

import json
from typing import Any

import psycopg
import pytest

from tests.support import Database

SQL = {"node_type": "SQL", "query": "a"}
STEP = {"max_attempts": 3}


def node(kind: str, **keys: Any) -> dict[str, Any]:
    return {"node_type": kind, **keys}


def pair(kind: str, left: Any = SQL, right: Any = SQL, **keys: Any) -> dict[str, Any]:
    return node(kind, left_node=left, right_node=right, **keys)


def call(query: str) -> dict[str, Any]:
    return node("CALL", query=query)


def calling(flow: dict[str, Any]) -> dict[str, Any]:
    return call(json.dumps({"flow": json.dumps(flow)}))


def wait_for(query: str, condition: Any = SQL) -> dict[str, Any]:
    return node("WAIT_FOR", condition_node=condition, query=query)


def chain(depth: int) -> dict[str, Any]:
    graph = SQL
    for _ in range(depth):
        graph = pair("THEN", graph)
    return graph


def wide(nodes: int) -> dict[str, Any]:
    return pair("JOIN", extra_nodes=[SQL] * (nodes - 3))


def refusal(db: Database, graph: Any) -> psycopg.Error:
    """The error of starting it; nothing of it may be left."""
    with pytest.raises(psycopg.Error) as caught:
        db.sql("select df.start(%s)", graph if isinstance(graph, str) else json.dumps(graph))
    assert db.admin("select (select count(*) from df.instances) + (select count(*) from df.nodes)") == 0
    return caught.value


PARSE = [
    ('{"node_type":"NOPE"}', ["Unknown node_type 'NOPE'", "WAIT_SCHEDULE"]),
    ('{"node_type":"sql","query":"a"}', ["Unknown node_type 'sql'"]),
    ('{"node_type":"THEN","left_node":1}', ["Malformed", "node_type 'THEN'", "left_node"]),
    ('{"node_type":"IF","condition_node":"x"}', ["Malformed", "node_type 'IF'", "condition_node"]),
    ('{"node_type":"SQL","query":1}', ["Malformed", "node_type 'SQL'", "query"]),
    ('{"node_type":"JOIN","extra_nodes":[1]}', ["Malformed", "node_type 'JOIN'", "extra_nodes"]),
]

GRAPH = [
    (pair("THEN", node("NOPE")), "root.left", "Unknown node_type 'NOPE'"),
    (pair("THEN", {"query": "a"}), "root.left", "node_type"),
    (pair("THEN", pair("RACE", SQL, 5)), "root.left", "right_node must be a Durofut JSON object"),
    (pair("THEN", SQL, pair("IF", condition_node="c")), "root.right", "condition_node"),
    (pair("THEN", SQL, pair("IF", condition_node=node("X"))), "root.right.condition_node", "Unknown node_type 'X'"),
    (pair("THEN", pair("JOIN", extra_nodes=["abcd1234"])), "root.left",
     "extra_nodes entries must be Durofut JSON objects"),
    (pair("JOIN", extra_nodes=[SQL, SQL, SQL, node("X")]), "root.extra_nodes[3]", "Unknown node_type 'X'"),
    (pair("IF", query='{"condition_node":"abcd1234"}'), "root",
     "condition_node in IF must be a first-class Durofut field"),
    (node("LOOP", left_node=SQL, query='{"condition_node":"abcd1234"}'), "root",
     "condition_node in LOOP must be a first-class Durofut field"),
    (pair("JOIN", query='{"extra_nodes":[]}'), "root", "extra_nodes in JOIN must be a first-class Durofut field"),
    (pair("IF", query="x"), "root", "query in IF must be valid JSON config"),
    (node("LOOP", left_node=SQL, query="x"), "root", "query in LOOP must be valid JSON config"),
    (pair("JOIN", query="[1]"), "root", "query in JOIN must be a JSON config object"),
    (node("SQL", query="a", condition_node=SQL), "root", "condition_node is not valid for SQL nodes"),
    (pair("CATCH", extra_nodes=[SQL]), "root", "extra_nodes is not valid for CATCH nodes"),
    (pair("THEN", retry=STEP), "root", "retry is not valid for THEN nodes"),
    (node("SLEEP", query="1", retry=STEP), "root", "retry is not valid for SLEEP nodes"),
    (SQL | {"retry": 3}, "root", "retry"),
    (SQL | {"retry": {"max_attempts": 0}}, "root", "max_attempts"),
    (SQL | {"retry": {"max_attempts": 1.5}}, "root", "max_attempts"),
    (SQL | {"retry": {"initial_delay": "1 s"}}, "root", "initial_delay"),
    (SQL | {"retry": {"backoff": 0}}, "root", "backoff"),
    (SQL | {"retry": {"retry_on": [5]}}, "root", "retry_on"),
    (SQL | {"retry": {"exhausted": ["pause"]}}, "root", "exhausted"),
    (SQL | {"retry": {"retries": 5}}, "root", "retries"),
    (wait_for('{"every":60}') | {"retry": {"retries": 5}}, "root", "retries"),
    (wait_for("[]"), "root", "query in WAIT_FOR must be a JSON config object"),
    (wait_for("{}"), "root", "every is missing"),
    (wait_for('{"every":0}'), "root", "every must be a number of seconds above 0"),
    (wait_for('{"every":"1"}'), "root", "every must be a number of seconds above 0"),
    (wait_for('{"every":1,"timeout":3155760001}'), "root", "timeout must be a number of seconds above 0, and at most"),
    (wait_for('{"every":1,"key":""}'), "root", "key must be a text that is not empty"),
    (wait_for('{"every":1,"key":5}'), "root", "key must be a text that is not empty"),
    (wait_for('{"every":1,"key":"%s"}' % ("k" * 1025)), "root", "key has 1025 bytes, and 1024 are allowed"),
    (wait_for('{"every":1,"often":true}'), "root", "unknown key often"),
    (
        wait_for('{"every":1}', node("SLEEP", query="1")), "root",
        "condition_node in WAIT_FOR must be an SQL step, not SLEEP",
    ),
    (wait_for('{"every":1}', node("SQL")), "root.condition_node", "query is missing"),
    (call("[]"), "root", "query in CALL must be a JSON config object"),
    (call("{}"), "root", "flow is missing"),
    (call('{"flow":7}'), "root", "flow in CALL must be a string"),
    (call('{"flow":"a","in":"1"}'), "root", "unknown key in"),
    (call('{"flow":"a","input":{}}'), "root", "input in CALL must be a string"),
    (call('{"flow":"a","input":"{"}'), "root", "input in CALL is no JSON, and holds no reference"),
    (call('{"flow":"a","label":"%s"}' % ("k" * 1025)), "root", "label has 1025 bytes, and 1024 are allowed"),
    (node("THEN", left_node=SQL, right_node={"node_type": "SQL", "query": "@bill"}), "root.right",
     "@bill is the name of a definition: as a step it is called, df.call('@bill')"),
    (calling(node("NOPE")), "root.flow", "Unknown node_type 'NOPE'"),
    (calling({"node_type": "SQL", "query": 1}), "root.flow", "query must be a string"),
    (node("THEN", left_node=SQL, right_node=calling(node("THEN", left_node=SQL))), "root.right.flow",
     "right_node is missing"),
    (calling(calling(node("JOIN", left_node=SQL, right_node=node("SLEEP")))), "root.flow.flow.right",
     "query is missing"),
]  # fmt: skip

SHAPES = [
    (node("SQL"), "query is missing"),
    (node("SLEEP"), "query is missing"),
    (node("THEN", left_node=SQL), "right_node is missing"),
    (node("LOOP"), "left_node is missing"),
    (node("JOIN", right_node=SQL), "left_node is missing"),
    (pair("THEN", query="a"), "query is not valid for THEN nodes"),
    (pair("RACE", query="{}"), "query is not valid for RACE nodes"),
    (pair("SQL", query="a"), "left_node is not valid for SQL nodes"),
    (node("SIGNAL", right_node=SQL, query="{}"), "right_node is not valid for SIGNAL nodes"),
    (pair("IF"), "condition_node is missing"),
    (node("IF", left_node=SQL, query='{"condition_type":"result_has_rows"}'), "right_node is missing"),
    (node("IF", condition_node=SQL), "left_node is missing"),
    (node("SLEEP", query='{"until":"soon"}'), 'SLEEP: "soon" is no time'),
    (node("SLEEP", query='{"duration":"soon"}'), 'SLEEP: "soon" is no duration'),
    (node("SLEEP", query='{"duration":"1 s","until":"now"}'), "query in SLEEP must be seconds"),
    (node("SLEEP", query='{"until":5}'), "query in SLEEP must be seconds"),
    (node("WAIT_FOR", query="{}"), "condition_node is missing"),
    (node("WAIT_FOR", condition_node=SQL), "query is missing"),
    (node("CALL"), "query is missing"),
    (node("CALL", query='{"flow":"a"}', left_node=SQL), "left_node is not valid for CALL nodes"),
    (node("CALL", query='{"flow":"a"}', retry={}), "retry is not valid for CALL nodes"),
    (node("WAIT_FOR", condition_node=SQL, left_node=SQL, query="{}"), "left_node is not valid for WAIT_FOR nodes"),
    (pair("LOOP"), "right_node is not valid for LOOP nodes"),
    (SQL | {"result_name": "1x"}, "result_name"),
    (SQL | {"result_name": ""}, "result_name"),
    (SQL | {"result_name": "a b"}, "result_name"),
]


@pytest.mark.parametrize(("text", "fragments"), PARSE)
def test_the_outermost_object_is_read_strictly(app: Database, text: str, fragments: list[str]) -> None:
    error = refusal(app, text)
    assert error.sqlstate == "22P02"
    assert str(error).startswith("Invalid durable function: ")
    assert all(fragment in str(error) for fragment in fragments)


@pytest.mark.parametrize(("graph", "path", "fragment"), GRAPH)
def test_each_rule_is_checked_at_every_level(app: Database, graph: Any, path: str, fragment: str) -> None:
    error = refusal(app, graph)
    assert error.sqlstate == "22P02"
    assert str(error).startswith(f"Invalid durable function graph: {path}: ")
    assert fragment in str(error)


@pytest.mark.parametrize(("graph", "fragment"), SHAPES)
def test_a_node_has_what_its_type_needs_and_no_more(app: Database, graph: Any, fragment: str) -> None:
    for above, path in ((graph, "root"), (pair("THEN", SQL, graph), "root.right")):
        error = refusal(app, above)
        assert error.sqlstate == "22P02"
        assert str(error).startswith(f"Invalid durable function graph: {path}: {fragment}")


def test_depth_is_limited(app: Database) -> None:
    for depth in (257, 3000):
        error = refusal(app, chain(depth) if depth < 900 else deep_text(depth))
        assert (error.sqlstate, "maximum nesting depth of 256" in str(error)) == ("54000", True)
        assert str(error).startswith("Invalid durable function graph: root.left.left.")
    assert app.sql("select df.start(%s)", json.dumps(chain(256)))


def deep_text(depth: int) -> str:
    sql = json.dumps(SQL)
    return '{"node_type":"THEN","left_node":' * depth + sql + f',"right_node":{sql}}}' * depth


def test_the_number_of_nodes_is_limited(app: Database) -> None:
    error = refusal(app, wide(10_001))
    assert (error.sqlstate, "maximum node count" in str(error)) == ("54000", True)
    assert app.sql("select df.start(%s)", json.dumps(wide(10_000)))
    assert app.sql("select count(distinct id) from df.nodes") == 10_000


@pytest.mark.parametrize("graph", [
    SQL | {"left_node": None, "result_name": None, "retry": None, "mystery": {"left_node": 5}},
    pair("IF", query='{"condition_type":"result_has_rows","result_name":"r"}'),
    SQL | {"retry": {}},
    node("HTTP", query="whatever", retry={"retry_on": ["http:503"]}),
    node("SLEEP", query="not checked here"),
])  # fmt: skip
def test_accepted(app: Database, graph: Any) -> None:
    assert app.sql("select df.start(%s)", json.dumps(graph))


@pytest.mark.parametrize("text", ["SELECT 1", "", '{"a":1}', "{broken", '{"node_type":7}', " [1]"])
def test_other_text_is_one_statement(app: Database, text: str) -> None:
    started = app.sql("select df.start(%s)", text)
    assert app.rows("select node_type, query from df.nodes where instance_id = %s", started) == [("SQL", text)]
