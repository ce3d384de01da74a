"""What the fixture `durable` is: a database with df, and how to run flows in it."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.rows import class_row
from pytest_postgresql.janitor import DatabaseJanitor

from pg_durable.cli.asking import connect
from pg_durable.cli.install import install
from pg_durable.client import Client
from pg_durable.testing.worker import worker

RUN_SECONDS = 60.0
INSTALLED = "select pg_catalog.to_regnamespace('df') is not null"
GRANT_WORKER = "select df.grant_worker(current_user)"
# So that a superuser, whom many test servers have as their only role, can start runs.
ALLOW_SUPERUSER = """
select df.set_setting('enable_superuser_instances', 'on') from pg_catalog.pg_roles
where rolname = current_user and rolsuper"""
TEST = """
select no, at, node, query, status, value, error
from df.test(case when starts_with(%(flow)s, '@') then %(flow)s else df.flow(%(flow)s) end,
             %(input)s::jsonb, %(mocks)s::jsonb, %(steps)s) order by no"""


class Move(NamedTuple):
    """A row of df.test: what happened, and after how much virtual time. The last one, without node, is the run."""

    no: int
    at: timedelta
    node: str | None
    query: str | None
    status: str
    value: Any
    error: str | None


class Durable:
    """A database with df. `conn` is a connection in autocommit mode, `dsn` how to open another."""

    def __init__(self, dsn: str, stack: ExitStack) -> None:
        self.dsn = dsn
        self._stack = stack
        self.conn: psycopg.Connection[Any] = stack.enter_context(connect(dsn))
        self._client: Client | None = None

    def test(self, flow: str, input: Any = None, mocks: Any = None, steps: int = 10000) -> list[Move]:
        """Runs a flow, or @name, to its end in virtual time, without a worker. What its steps did stays."""
        given = {"flow": flow.strip(), "input": as_json(input), "mocks": as_json(mocks), "steps": steps}
        with self.conn.cursor(row_factory=class_row(Move)) as cursor:
            return cursor.execute(TEST, given).fetchall()

    def run(self, flow: str, input: Any = None, timeout: float = RUN_SECONDS) -> Any:
        """Runs a flow, or @name, with a worker, and waits: what it returned. Raises RunError unless it completes."""
        client = self.client
        run = client.start(flow, input=input)
        client.wait(run, timeout)
        return client.result(run)

    @property
    def client(self) -> Client:
        """A client of this database; from here on until the end of the test a worker runs."""
        if self._client is None:
            self._stack.enter_context(worker(self.dsn))
            self._client = self._stack.enter_context(Client(self.dsn))
        return self._client


def as_json(value: Any) -> str | None:
    """None is no value."""
    return None if value is None else json.dumps(value)


def place(server: Any, database: str) -> str:
    """The connection string of a database of pytest-postgresql's server."""
    options = {"options": server.options} if server.options else {}
    password = {"password": server.password} if server.password else {}
    return make_conninfo(
        "", host=server.host, port=server.port, user=server.user, dbname=database, **password, **options
    )


def prepare_template(server: Any) -> None:
    """Installs df into the template, once; what has been loaded into it stays."""
    dsn = place(server, server.template_dbname)
    with connect(dsn) as conn:
        found = conn.execute(INSTALLED).fetchone()
    if found and not found[0]:
        install(dsn)
        with connect(dsn) as conn:
            conn.execute(GRANT_WORKER)
            conn.execute(ALLOW_SUPERUSER)


@contextmanager
def database(server: Any) -> Iterator[Durable]:
    """A copy of the template, which is dropped at the end."""
    name = f"{server.dbname}_durable"
    janitor = DatabaseJanitor(
        user=server.user, host=server.host, port=server.port, password=server.password, dbname=name,
        template_dbname=server.template_dbname, maintenance_dbname=server.maintenance_dbname,
    )  # fmt: skip
    janitor.drop()  # one that a test run which was killed has left
    with janitor, ExitStack() as stack:
        yield Durable(place(server, name), stack)
