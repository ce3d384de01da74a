"""Runs made of rows, without an engine: what monitoring shows can be tested against states that are exact.

Nodes have names in tests and ids in the database; names are translated in stamps, children and configurations.
"""

import hashlib
import re
from dataclasses import dataclass, field
from typing import Any

from psycopg.types.json import Jsonb

from tests.support import Database

RUN = "a1b2c3d4"


def ident(name: str) -> str:
    """The node id that stands for a name."""
    return hashlib.md5(name.encode()).hexdigest()[:8]


def stamp(text: str, run: str = RUN) -> str:
    """A stamp written with names: `run::1::loop::3`."""
    return re.sub(r"[a-z]\w*", lambda word: run if word[0] == "run" else ident(word[0]), text)


@dataclass
class Node:
    """A row of df.nodes; `columns` are set as they are, and `config` refers to other nodes as `{name}`."""

    name: str
    type: str = "SQL"
    query: str | None = None
    children: tuple[str, ...] = ()
    status: str = "pending"
    stamp: str | None = None
    columns: dict[str, Any] = field(default_factory=dict)

    def row(self, run: str, owner: str) -> dict[str, Any]:
        """The row as column -> value."""
        query = re.sub(r"\{(\w+)\}", lambda name: f'"{ident(name[1])}"', self.query) if self.query else None
        left, right = (*map(ident, self.children), None, None)[:2]
        values: dict[str, Any] = {"id": ident(self.name), "instance_id": run, "node_type": self.type, "query": query,
                  "left_node": left, "right_node": right, "status": self.status, "submitted_by": owner}  # fmt: skip
        if self.type == "SQL" and query is None:
            values["query"] = f"SELECT '{self.name}'"
        if self.stamp:
            values["status_details"] = Jsonb({"execution_id": stamp(self.stamp, run)})
        return values | self.columns


def insert(conn: Any, table: str, row: dict[str, Any]) -> None:
    """Inserts one row."""
    places = ", ".join(f"%({column})s" for column in row)
    conn.execute(f"insert into {table} ({', '.join(row)}) values ({places})", row)


def insert_run(db: Database, *nodes: Node, id: str = RUN, owner: str = "app", **columns: Any) -> str:
    """Inserts a run whose root is the first node; `columns` are those of df.instances."""
    with db.connect(autocommit=False) as conn:
        root = {"id": id, "root_node": ident(nodes[0].name), "submitted_by": owner, "status": "running"}
        insert(conn, "df.instances", root | columns)
        for node in nodes:
            insert(conn, "df.nodes", node.row(id, owner))
    return id


def states(db: Database, run: str, *nodes: Node, user: str | None = None) -> dict[str, tuple[str, str | None]]:
    """What df.instance_nodes infers: name -> (status, name of the ancestor it comes from)."""
    names = {ident(node.name): node.name for node in nodes}
    rows = db.rows(
        "select node_id, inferred_status, inferred_status_from_ancestor_id from df.instance_nodes(%s)", run, user=user
    )
    return {names[node]: (status, names.get(ancestor) if ancestor else None) for node, status, ancestor in rows}
