"""What the demo needs and leaves nothing of: a server in a temporary directory, sessions on it, workers."""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
from pg_durable.dev import DATABASE, USER, WORKER, prepare
from pg_durable.embedded import EmbeddedServer

HERE = Path(__file__).resolve().parent


class DemoError(Exception):
    """Something that had to hold does not."""


def script(name: str) -> str:
    """An SQL file of this directory."""
    return (HERE / name).read_text("utf-8")


class Stage:
    """The server, a session on it as the role `app`, and at most one worker."""

    def __init__(self, home: Path, server: EmbeddedServer) -> None:
        self.server = server
        self.app = psycopg.connect(server.dsn(DATABASE, USER), autocommit=True)
        self._log = home / "worker.log"
        self._worker: subprocess.Popen[bytes] | None = None

    def rows(self, query: str, **parameters: Any) -> list[tuple[Any, ...]]:
        """All rows of a query, asked as `app`."""
        return self.app.execute(query.encode(), parameters or None).fetchall()

    def one(self, query: str, **parameters: Any) -> Any:
        """The first column of the first row, or None."""
        rows = self.rows(query, **parameters)
        return rows[0][0] if rows else None

    def start_worker(self) -> int:
        """Starts `pg-durable worker` as the role durable_worker; its process id, once it has registered."""
        command = [sys.executable, "-m", "pg_durable", "worker", "--dsn", self.server.dsn(DATABASE, WORKER)]
        before = self.one(WORKERS)
        with self._log.open("ab") as log:
            self._worker = subprocess.Popen(command, stderr=log, start_new_session=True)
        self.until(lambda: self.one(WORKERS) != before, 20, "a worker that registers")
        return self._worker.pid

    @property
    def state(self) -> str:
        """Who makes the runs go on."""
        return f"worker: process {self._worker.pid}" if self._worker else "no worker"

    def kill_worker(self) -> None:
        """SIGKILL: no farewell, no clean-up."""
        if self._worker:
            self._worker.kill()
            self._worker.wait()
            self._worker = None

    def until(self, condition: Callable[[], Any], seconds: float, what: str) -> Any:
        """The first true value of the condition."""
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            if time.monotonic() > deadline:
                raise DemoError(
                    f"waited {seconds:.0f} s in vain for {what}. The worker's log:\n{self._log.read_text()}"
                )
            time.sleep(0.05)
        return value

    def close(self) -> None:
        """Ends worker and session."""
        self.kill_worker()
        self.app.close()


@contextmanager
def stage() -> Iterator[Stage]:
    """A stage, cleared away afterwards, whatever happens."""
    with ExitStack() as stack:
        home = Path(tempfile.mkdtemp(prefix="pg_durable-demo-"))
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        home.chmod(0o755)  # run by root, the server is another user
        server = EmbeddedServer(home / "data")
        server.start()
        stack.callback(server.stop, "immediate")
        prepare(server)
        stage = Stage(home, server)
        stack.callback(stage.close)
        yield stage


WORKERS = "SELECT max(worker) FROM df.workers"
