"""What df.instance_nodes infers, from the rows of the oracle."""

from collections.abc import Iterator

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
    for stamp in (*(row.stamp for row in oracle.rows.values()), *oracle.shown.values()):
        for scope, generation in levels(stamp):
            found[scope] = max(generation, found.get(scope, 0))
    return found


def inferred(oracle: Oracle) -> dict[Node, Inferred]:
    """The status of every node, and the ancestor that decides where it is skipped."""
    latest = newest(oracle)

    def decided(node: Node) -> bool:
        row = oracle.rows[node]
        return row.status in ("completed", "failed") and all(latest[s] <= g for s, g in levels(row.stamp))

    def infer(node: Node) -> Inferred:
        row = oracle.rows[node]
        decider = next(filter(decided, ancestors(node, oracle.above)), None)
        if decided(node):
            return row.status, None
        if decider or oracle.ended:
            return "skipped", decider
        return ("pending" if row.status in ("completed", "failed") else row.status), None

    return {node: infer(node) for node in oracle.rows}
