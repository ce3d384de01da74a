"""What df.instance_nodes infers, from the rows of the oracle."""

from collections.abc import Iterator
from itertools import pairwise

from tests.oracle.interpreter import Oracle
from tests.oracle.tree import Node, ancestors

Inferred = tuple[str, Node | None]


def levels(stamp: str) -> Iterator[tuple[str, int]]:
    """The scopes of a stamp with their generations, from the root."""
    parts = stamp.split("::")
    for place in range(1, len(parts), 2):
        yield "::".join(parts[:place]), int(parts[place])


def newest(oracle: Oracle) -> dict[str, int]:
    """The highest generation of each scope that a stamp shows."""
    found: dict[str, int] = {}
    for stamp in (*(row.stamp for row in oracle.rows.values()), *oracle.shown.values(), *oracle.handled.values()):
        for scope, generation in levels(stamp):
            found[scope] = max(generation, found.get(scope, 0))
    return found


def inferred(oracle: Oracle) -> dict[Node, Inferred]:
    """The status of every node, and the ancestor that decides where it is skipped."""
    latest = newest(oracle)

    def current(stamp: str) -> bool:
        return all(latest[scope] <= generation for scope, generation in levels(stamp))

    def decided(node: Node) -> bool:
        row = oracle.rows[node]
        return row.status in ("completed", "failed") and current(row.stamp)

    def decides(node: Node, child: Node) -> bool:
        return decided(node) or (child is node.left and node in oracle.handled and current(oracle.handled[node]))

    def nearest_decider(node: Node) -> Node | None:
        line = [node, *ancestors(node, oracle.above)]
        for child, above in pairwise(line):
            if above.type == "UNDO" and child is above.right and oracle.rows[above].status == "completed":
                return None  # whether it is needed is for the end of the run to say
            if decides(above, child):
                return above
        return None

    def infer(node: Node) -> Inferred:
        row = oracle.rows[node]
        decider = nearest_decider(node)
        if decided(node):
            return row.status, None
        if decider or oracle.ended:
            return "skipped", decider
        return ("pending" if row.status in ("completed", "failed") else row.status), None

    return {node: infer(node) for node in oracle.rows}
