"""What tests share: the server, a database of their own, and waiting for a condition with a deadline."""

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
from pg_durable.step_settings import STEP_SETTINGS
from psycopg import sql
from psycopg.conninfo import make_conninfo


@dataclass
class Server:
    """A running server, reached as a superuser; `embedded` is set when the tests own it."""

    dsn: str
    embedded: Any = None

    def dsn_for(self, database: str, user: str | None = None) -> str:
        """The connection string of a database, as the superuser or as `user`."""
        return make_conninfo(self.dsn, dbname=database, **({"user": user} if user else {}))


def install(dsn: str, script: str, operator_schema: str = "public", worker_role: str = "") -> None:
    """Installs dist/pg_durable.sql without psql: its head only sets what is set here."""
    body = script.split("\n-- body\n", 1)[1].rsplit("commit;", 1)[0]
    with psycopg.connect(dsn) as conn:
        conn.execute("select set_config('pg_durable.operator_schema', %s, true)", [operator_schema])
        conn.execute("select set_config('pg_durable.worker_role', %s, true)", [worker_role])
        conn.execute(body.encode())


def wait_until(condition: Callable[[], Any], seconds: float = 10.0, what: str = "") -> Any:
    """Returns the first true value of `condition`; fails when there is none within the deadline."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what or condition}")
        time.sleep(0.01)


@dataclass
class Database:
    """One test's database."""

    server: Server
    name: str
    connections: dict[str, psycopg.Connection[Any]] = field(default_factory=dict)

    @classmethod
    def clone(cls, server: Server, template: str) -> "Database":
        """Makes a database from a template."""
        name = f"t_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(server.dsn, autocommit=True) as conn:
            statement = sql.SQL("create database {} template {}")
            conn.execute(statement.format(sql.Identifier(name), sql.Identifier(template)))
        return cls(server, name)

    def drop(self) -> None:
        """Closes what is open and drops the database."""
        for conn in self.connections.values():
            conn.close()
        with psycopg.connect(self.server.dsn, autocommit=True) as conn:
            conn.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(self.name)))

    def dsn(self, user: str | None = None) -> str:
        """The connection string of this database."""
        return self.server.dsn_for(self.name, user)

    def connect(self, user: str | None = None, **kwargs: Any) -> psycopg.Connection[Any]:
        """A new connection, in autocommit unless told otherwise."""
        return psycopg.connect(self.dsn(user), **{"autocommit": True, **kwargs})

    def rows(self, query: str, *args: Any, user: str | None = "app") -> list[tuple[Any, ...]]:
        """All rows of a statement, asked as `user` (None: the superuser) on a connection that is kept."""
        key = user or ""
        if key not in self.connections or self.connections[key].closed:
            self.connections[key] = self.connect(user)
        cursor = self.connections[key].execute(query.encode(), args or None)
        return cursor.fetchall() if cursor.description else []

    def sql(self, query: str, *args: Any, user: str | None = "app") -> Any:
        """The first column of the first row, or None."""
        rows = self.rows(query, *args, user=user)
        return rows[0][0] if rows else None

    def admin(self, query: str, *args: Any) -> Any:
        """The same, asked as the superuser."""
        return self.sql(query, *args, user=None)


def read_by(db: "Database", query: str) -> int:
    """How many rows a statement reads, in all nodes of its plan: what it is given and what it throws away."""
    plan = db.sql(f"explain (analyze, format json, timing off) {query}", user=None)[0]["Plan"]

    def rows(node: dict[str, Any]) -> float:
        removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Join Filter", 0)
        below = sum(rows(child) for child in node.get("Plans", ()))
        return float((node["Actual Rows"] + removed) * node["Actual Loops"] + below)

    return int(rows(plan))


@contextmanager
def member_of_other(db: "Database") -> Iterator[None]:
    """For the length of a with block app is a member of other: roles are of the whole server, which tests share."""
    db.admin("grant other to app")
    try:
        yield
    finally:
        db.admin("revoke other from app")


@dataclass
class Run:
    """One run, as its owner sees it."""

    db: "Database"
    id: str

    @property
    def status(self) -> str:
        return str(self.db.sql("select df.status(%s)", self.id))

    @property
    def error(self) -> str:
        return str(self.db.admin("select coalesce(error, '') from df.instances where id = %s", self.id))

    @property
    def result(self) -> Any:
        """The value of the root node, completed or not."""
        query = (
            "select n.result from df.instances i join df.nodes n on n.instance_id = i.id and n.id = i.root_node "
            "where i.id = %s"
        )
        return self.db.admin(query, self.id)

    def value(self) -> Any:
        """The first column of the first row of the root's result."""
        rows = self.result["rows"]
        return next(iter(rows[0].values())) if rows else None

    def node(self, pattern: str) -> dict[str, Any]:
        """The only node whose type or query contains the text, as a dictionary of its columns."""
        query = (
            "select to_jsonb(n) from df.nodes n where instance_id = %s "
            "and (node_type = %s or strpos(query, %s) > 0) order by created_at"
        )
        rows = self.db.rows(query, self.id, pattern, pattern, user=None)
        assert len(rows) == 1, f"{len(rows)} nodes match {pattern}"
        node: dict[str, Any] = rows[0][0]
        return node

    def ended(self) -> bool:
        return self.status in ("completed", "failed", "cancelled")


class Pump:
    """A worker without a process: one session of a role and one supervising connection, driven step by step."""

    OPTIONS = " ".join(f"-c {name}={value}" for name, value in STEP_SETTINGS.items())

    def __init__(self, db: "Database", role: str = "app") -> None:
        self.db = db
        self.role = role
        self.session = db.connect(role, prepare_threshold=None, options=self.OPTIONS)
        self.supervisor = db.connect("durable_worker", prepare_threshold=None)
        row = self.supervisor.execute("select df_engine.register_worker()").fetchone()
        assert row is not None
        self.worker: int = row[0]

    def work(self, careful: bool = False) -> str:
        """Runs what is ready; answers why it stopped."""
        row = self.session.execute("call df_engine.work(1000, %s, null)", [careful]).fetchone()
        assert row is not None
        return str(row[0])

    def tick(self) -> dict[str, Any]:
        """Fires what is due; answers the work."""
        row = self.supervisor.execute("call df_engine.tick(%s, null)", [self.worker]).fetchone()
        assert row is not None
        work: dict[str, Any] = row[0]
        return work

    def fail_stopped(self, report: str) -> bool:
        """Says of a step, as a worker does, that somebody has stopped it; `report` is what the call answered."""
        _, queue_id, _, node = report.split(":")
        row = self.supervisor.execute(
            "select df_engine.fail_stopped(%s::regrole, %s, %s, '57014', 'canceling statement due to user request')",
            [self.role, queue_id, node],
        ).fetchone()
        assert row is not None
        return bool(row[0])

    def until(self, condition: Callable[[], Any], seconds: float = 10.0) -> None:
        """Works and ticks until the condition holds."""

        def step() -> Any:
            self.work()
            self.tick()
            return condition()

        wait_until(step, seconds)

    def start(self, flow: str, label: str | None = None) -> Run:
        """Starts a flow, given as an SQL expression, as the role `app`."""
        return Run(self.db, str(self.db.sql(f"select df.start({flow}, %s)", label)))

    def run(self, flow: str, label: str | None = None, seconds: float = 10.0) -> Run:
        """Starts a flow and drives it to its end."""
        run = self.start(flow, label)
        self.until(run.ended, seconds)
        return run

    def close(self) -> None:
        self.session.close()
        self.supervisor.close()
