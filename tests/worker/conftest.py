"""Workers as processes, stopped at the end of the test."""

from collections.abc import Iterator

import pytest

from tests.support import Database
from tests.worker.process import SpawnWorker, WorkerProcess


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
