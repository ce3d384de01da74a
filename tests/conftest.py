"""Fixtures: a real server for the session, a template database with df installed, a fresh clone of it for each test."""

import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from psycopg import errors, sql

from generator.render import artifacts
from tests.cluster import Cluster, under_test
from tests.support import Database, Pump, Server, install

# A job in the background of a script ignores interrupts, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The server under test: PG_DURABLE_TEST_DSN when it is set (a superuser's), else one made from the programs in
    PG_DURABLE_TEST_BIN, else an embedded PostgreSQL 18."""
    dsn = os.environ.get("PG_DURABLE_TEST_DSN")
    if dsn:
        yield Server(dsn)
        return
    if "PG_DURABLE_TEST_BIN" in os.environ:
        with Cluster(under_test()) as cluster:
            yield Server(cluster.dsn())
        return
    from pg_durable.embedded import EmbeddedServer  # noqa: PLC0415 - only where no server is given

    home = Path(tempfile.mkdtemp(prefix="pgd-", dir="/tmp"))
    home.chmod(0o755)
    version = int(os.environ.get("PG_DURABLE_TEST_VERSION", "18"))
    with EmbeddedServer(home / "data", version, {"fsync": "off", "full_page_writes": "off"}) as embedded:
        yield Server(embedded.dsn(), embedded)
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def template(server: Server) -> Iterator[str]:
    name = f"template_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(server.dsn, autocommit=True) as conn:
        conn.execute(sql.SQL("create database {} encoding 'UTF8' template template0").format(sql.Identifier(name)))
        for role in ("app", "other", "durable_worker"):
            with suppress(errors.DuplicateObject, errors.UniqueViolation):  # another test process may have made it
                conn.execute(sql.SQL("create role {} login").format(sql.Identifier(role)))
    install(server.dsn_for(name), artifacts()["dist/pg_durable.sql"])
    with psycopg.connect(server.dsn_for(name), autocommit=True) as conn:
        conn.execute("grant create on schema public to app, other")
        conn.execute("select df.grant_usage('app', include_http => true), df.grant_usage('other')")
        conn.execute("select df.grant_worker('durable_worker')")
    yield name
    with psycopg.connect(server.dsn, autocommit=True) as conn:
        conn.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@pytest.fixture
def db(server: Server, template: str) -> Iterator[Database]:
    """A fresh database with df installed; `db.sql(...)` asks as role `app`, `db.admin(...)` as the superuser."""
    database = Database.clone(server, template)
    yield database
    database.drop()


@pytest.fixture(scope="module")
def shared(server: Server, template: str) -> Iterator[Database]:
    """One database for all tests of a module: for those that leave nothing behind."""
    database = Database.clone(server, template)
    yield database
    database.drop()


@pytest.fixture
def pump(db: Database) -> Iterator[Pump]:
    """Runs flows of the role `app`; table fx(i int, t text) is there for effects."""
    db.sql("create table fx (i int, t text)")
    pump = Pump(db)
    yield pump
    pump.close()
