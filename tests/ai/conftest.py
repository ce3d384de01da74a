"""A database with the AI pipelines in it, on servers that have pgvector."""

import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from generator.render import artifacts
from tests.ai.model import ModelProcess
from tests.support import Database, Server, install


@pytest.fixture(scope="session")
def ai_template(server: Server, template: str) -> Iterator[str]:
    """The template with pgvector and the AI pipelines; skips where the server has no pgvector."""
    with psycopg.connect(server.dsn, autocommit=True) as conn:
        if not conn.execute("select 1 from pg_available_extensions where name = 'vector'").fetchone():
            pytest.skip("this server has no pgvector; the embedded servers of PostgreSQL 16 and 18 have it")
        name = f"template_ai_{uuid.uuid4().hex[:8]}"
        statement = sql.SQL("create database {} template {}")
        conn.execute(statement.format(sql.Identifier(name), sql.Identifier(template)))
    install_ai(server.dsn_for(name))
    with psycopg.connect(server.dsn_for(name), autocommit=True) as conn:
        conn.execute("select ai.grant_usage('app'), ai.grant_usage('other')")
        conn.execute("select df.grant_usage('other', include_http => true)")
    yield name
    with psycopg.connect(server.dsn, autocommit=True) as conn:
        conn.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def install_ai(dsn: str) -> None:
    """Installs pgvector and dist/pg_durable_ai.sql."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("create extension if not exists vector")
    install(dsn, artifacts()["dist/pg_durable_ai.sql"])


@pytest.fixture
def db(server: Server, ai_template: str) -> Iterator[Database]:
    """A fresh database with df and ai installed."""
    database = Database.clone(server, ai_template)
    yield database
    database.drop()


@pytest.fixture(scope="module")
def shared(server: Server, ai_template: str) -> Iterator[Database]:
    """One database for all tests of a module: for those that leave nothing behind."""
    database = Database.clone(server, ai_template)
    yield database
    database.drop()


def record(db: Database, query: str, *args: Any) -> dict[str, Any]:
    """The first row of a statement, as a dictionary."""
    row: dict[str, Any] = db.sql(f"select to_jsonb(r) from ({query}) r", *args)
    return row


@pytest.fixture(scope="session")
def model() -> Iterator[ModelProcess]:
    """A running model."""
    model = ModelProcess()
    yield model
    assert model.stop() == 0
