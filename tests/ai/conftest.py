"""A database with the AI pipelines in it, on servers that have pgvector."""

import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from generator.render import artifacts
from tests.ai.embeddings import Embeddings
from tests.ai.model import ModelProcess
from tests.support import Database, Server, install, wait_until
from tests.worker.process import WorkerProcess


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


@pytest.fixture
def endpoint() -> Iterator[Embeddings]:
    """An endpoint of the test's own."""
    server = Embeddings()
    with server:
        yield server


@pytest.fixture
def worker(db: Database) -> Iterator[WorkerProcess]:
    """A running worker."""
    process = WorkerProcess(db).logged("registered", 60)
    yield process
    if process.process.poll() is None:
        process.kill()


@pytest.fixture
def library(db: Database, endpoint: Embeddings) -> Database:
    """A table of documents, and a model at the endpoint."""
    db.admin("select df.http_allow(%s, allow_private => true)", f"127.0.0.1:{endpoint.port}")
    db.sql("""create table documents (id int primary key, title text, body text, metadata jsonb default '{}',
                                      updated_at timestamptz default now())""")
    db.sql("select df.set_secret('openai', 'sk-0123456789')")
    db.sql("select ai.set_model('small', %s, 'tiny-16', 16, secret => 'openai', batch_size => 8, concurrency => 3, "
           "price_per_million => 2)", endpoint.address)  # fmt: skip
    return db


def create(db: Database, steps: str = "ai.chunk('body', 60, 10), ai.embed('small')", more: str = "") -> str:
    """The pipeline docs over the documents; the id of its run."""
    return str(
        db.sql(f"""select ai.create_pipeline('docs', ai.table_source('documents', 'updated_at'), array[{steps}],
                                                    sink => ai.table_sink('documents_chunks') {more})""")
    )


def caught_up(db: Database, name: str = "docs") -> dict[str, Any]:
    """Waits until a pipeline has nothing to do; its status."""
    run = db.sql("select ai.run(%s)", name)
    ended = "select status in ('completed', 'failed') from df.instances where id = %s"
    try:
        wait_until(lambda: db.sql(ended, run), 60)
    except AssertionError as error:
        raise AssertionError(f"{status(db, name)}\n{db.sql('select ai.explain(%s)', name)}") from error
    assert db.sql("select df.status(%s)", run) == "completed", db.sql("select df.explain(%s)", run)
    return status(db, name)


def status(db: Database, name: str = "docs") -> dict[str, Any]:
    """The row of ai.status for the generation that serves."""
    return record(db, "select * from ai.status(%s) where serving", name)
