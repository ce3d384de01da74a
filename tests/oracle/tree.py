"""The graphs of the oracle: nodes that know their envelope and, for an SQL step, the model of its statement."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.oracle.steps import Step

SESSION_STEPS = ("SQL", "BLOCK")
LEAVES = (*SESSION_STEPS, "SLEEP", "WAIT_SCHEDULE", "SIGNAL", "BREAK", "CALL")


@dataclass(eq=False)
class Node:
    """One vertex. `config` is the content of the envelope's query: a number, a text or an object."""

    type: str
    left: "Node | None" = None
    right: "Node | None" = None
    condition: "Node | None" = None
    extras: list["Node"] = field(default_factory=list)
    name: str | None = None
    config: Any = None
    step: Step = field(default_factory=Step)
    label: str = ""

    @property
    def children(self) -> list["Node"]:
        """In the order in which they are laid out."""
        return [child for child in (self.condition, self.left, self.right, *self.extras) if child]

    @property
    def branches(self) -> list["Node"]:
        return [child for child in (self.left, self.right, *self.extras) if child]

    def walk(self) -> Iterator["Node"]:
        yield self
        for child in self.children:
            yield from child.walk()

    def query(self) -> str | None:
        if self.type == "SQL":
            return self.step.statement(self.label)
        if self.type == "BLOCK":
            return json.dumps({"statements": self.step.statements(self.label)})
        if self.type == "CALL":
            return json.dumps({"flow": json.dumps(self.callee()), "input": self.config["input"]})
        return self.config if isinstance(self.config, str | None) else json.dumps(self.config)

    def callee(self) -> dict[str, Any]:
        """What a CALL calls: it sleeps for a while, then returns a row or fails."""
        sleep = {"node_type": "SLEEP", "query": self.config["seconds"]}
        if self.config["value"] == "slept":
            return sleep
        step = {"node_type": "SQL", "query": "select 7 as v" if self.config["value"] == "row" else "select 1/0"}
        return {"node_type": "THEN", "left_node": sleep, "right_node": step} if float(self.config["seconds"]) else step

    def envelope(self) -> dict[str, Any]:
        """The JSON object that df.start is given."""
        parts = {
            "left_node": self.left and self.left.envelope(),
            "right_node": self.right and self.right.envelope(),
            "condition_node": self.condition and self.condition.envelope(),
            "extra_nodes": [extra.envelope() for extra in self.extras],
            "query": self.query(),
            "result_name": self.name,
            "retry": self.step.policy,
        }
        return {"node_type": self.type, **{key: value for key, value in parts.items() if value not in (None, [])}}


def labelled(root: Node) -> Node:
    """Gives every node a label of its own, under which its effects are recorded."""
    for number, node in enumerate(root.walk()):
        node.label = f"s{number}"
    return root


def parents(root: Node) -> dict[Node, Node]:
    return {child: node for node in root.walk() for child in node.children}


def ancestors(node: Node, above: dict[Node, Node]) -> Iterator[Node]:
    """From the parent up."""
    while node in above:
        node = above[node]
        yield node


def is_forever(loop: Node) -> bool:
    """A loop that nothing in it can end."""
    return not loop.condition and not has_break(loop.left)


def has_break(node: Node | None) -> bool:
    """A BREAK, not counting those of nested loops."""
    if not node or node.type == "LOOP":
        return False
    return node.type == "BREAK" or any(map(has_break, node.children))
