"""Workers as processes, stopped at the end of the test."""

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from pg_durable.embedded import EmbeddedServer

from tests.support import Database
from tests.worker.clock import clock, sessions
from tests.worker.http_server import HttpServer
from tests.worker.process import SpawnWorker, WorkerProcess

__all__ = ["clock", "sessions"]


@pytest.fixture
def spawn(db: Database) -> Iterator[SpawnWorker]:
    """Starts a worker with the arguments given, once the roles app and other may use df."""
    db.admin("select df.grant_worker('durable_worker'), df.grant_usage('app'), df.grant_usage('other')")
    workers: list[WorkerProcess] = []

    def spawn(*arguments: str, dsn: str | None = None) -> WorkerProcess:
        workers.append(WorkerProcess(db, *arguments, dsn=dsn))
        return workers[-1].logged("registered")

    yield spawn
    for worker in workers:
        if worker.process.poll() is None:
            worker.kill()


@pytest.fixture
def worker(spawn: SpawnWorker) -> WorkerProcess:
    """A running worker."""
    return spawn()


@pytest.fixture(scope="module")
def web() -> Iterator[HttpServer]:
    """An HTTP server of the module's own."""
    with HttpServer() as server:
        yield server


@pytest.fixture
def own_server() -> Iterator[EmbeddedServer]:
    """A server that the test may stop and configure."""
    home = Path(tempfile.mkdtemp(prefix="pgd-", dir="/tmp"))
    home.chmod(0o755)
    with EmbeddedServer(home / "data", 18, {"fsync": "off"}) as server:
        yield server
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def locked_out(db: Database) -> Iterator[str]:
    """A role that may not have any session now."""
    role = f"r_{uuid.uuid4().hex[:8]}"
    db.admin(f"create role {role} login; select df.grant_usage('{role}')")
    yield role
    for conn in db.connections.values():
        conn.close()
    db.admin(f"drop owned by {role}; drop role {role}")
