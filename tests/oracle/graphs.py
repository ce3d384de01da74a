"""Graphs as envelopes: the JSON objects of the contract, written as Python dictionaries."""

import json
from typing import Any

Node = dict[str, Any]


def sql(query: str, **fields: Any) -> Node:
    return {"node_type": "SQL", "query": query, **fields}


def block(*steps: Node, **fields: Any) -> Node:
    """One step of the statements of several."""
    return {"node_type": "BLOCK", "query": json.dumps({"statements": [step["query"] for step in steps]}), **fields}


def then(first: Node, *rest: Node) -> Node:
    """A sequence, grouped to the right."""
    return {"node_type": "THEN", "left_node": first, "right_node": then(*rest)} if rest else first


def if_(condition: Node, yes: Node, no: Node | None = None) -> Node:
    return {"node_type": "IF", "left_node": yes, **({"right_node": no} if no else {}), "condition_node": condition}


def if_rows(name: str, yes: Node, no: Node) -> Node:
    query = json.dumps({"condition_type": "result_has_rows", "result_name": name})
    return {"node_type": "IF", "left_node": yes, "right_node": no, "query": query}


def join(first: Node, second: Node, *extra: Node) -> Node:
    more = {"extra_nodes": list(extra)} if extra else {}
    return {"node_type": "JOIN", "left_node": first, "right_node": second, **more}


def race(left: Node, right: Node) -> Node:
    return {"node_type": "RACE", "left_node": left, "right_node": right}


def any_(first: Node, second: Node, *extra: Node) -> Node:
    return {**join(first, second, *extra), "node_type": "ANY"}


def catch(body: Node, handler: Node, *errors: str) -> Node:
    listed = {"query": json.dumps({"errors": errors})} if errors else {}
    return {"node_type": "CATCH", "left_node": body, "right_node": handler, **listed}


def undo(step: Node, compensation: Node) -> Node:
    return {"node_type": "UNDO", "left_node": step, "right_node": compensation}


def timeout(body: Node, after: float, otherwise: Node) -> Node:
    query = json.dumps({"after": after})
    return {"node_type": "TIMEOUT", "left_node": body, "right_node": otherwise, "query": query}


def loop(body: Node, condition: Node | None = None) -> Node:
    return {"node_type": "LOOP", "left_node": body, **({"condition_node": condition} if condition else {})}


def break_(value: str | None = None) -> Node:
    return {"node_type": "BREAK", "query": json.dumps({"break_value": value})}


def sleep(seconds: float) -> Node:
    return {"node_type": "SLEEP", "query": f"{seconds:g}"}


def signal(name: str, timeout: int | None = None) -> Node:
    return {"node_type": "SIGNAL", "query": json.dumps({"signal_name": name, "timeout_seconds": timeout})}


def each(items: Node, body: Node, parallel: int, on_error: str = "fail") -> Node:
    query = json.dumps({"parallel": parallel, "on_error": on_error})
    return {"node_type": "MAP", "left_node": body, "condition_node": items, "query": query}


def call(flow: Node, label: str) -> Node:
    return {"node_type": "CALL", "query": json.dumps({"flow": json.dumps(flow), "input": '"$x"', "label": label})}


def named(node: Node, name: str) -> Node:
    return {**node, "result_name": name}


def quoted(graph: Node) -> str:
    """As an SQL expression that df.start takes."""
    text = json.dumps(graph).replace("'", "''")
    return f"'{text}'"


def effect(name: str) -> Node:
    """A step that leaves a row in fx(t, run). It has nothing to substitute, so it runs as it is."""
    return sql(f"insert into fx select '{name}', split_part(current_setting('application_name'), ':', 2)")


def fewer(name: str, count: int) -> Node:
    """Whether the effect has happened fewer times than that in this run."""
    return sql(f"select count(*) < {count} from fx where t = '{name}' and run = '{{sys_instance_id}}'")
