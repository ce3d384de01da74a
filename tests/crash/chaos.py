"""A server and workers that are killed, stopped and cut off at random while a mixed load runs."""

import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import psycopg
from pg_durable.embedded import EmbeddedServer

from tests.crash.crew import UNFINISHED, problems
from tests.crash.load import Load, prepare
from tests.support import wait_until
from tests.worker.http_server import HttpServer
from tests.worker.process import WorkerProcess, own_database

RECOVERY = 120.0


class Chaos:
    """Its own server, with fsync on; `injected` counts what was done to it."""

    def __init__(self, seed: int, workers: int = 2) -> None:
        self.injected: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._home = Path(tempfile.mkdtemp(prefix="pgd-", dir="/tmp"))
        self._home.chmod(0o755)
        self._server = EmbeddedServer(self._home / "data", 18)
        self._server.start()
        self.db = own_database(self._server)
        prepare(self.db)
        self.db.admin("create role guest login")
        self.db.admin("select df.grant_usage('app', include_http => true)")
        self.db.admin("select df.http_allow('127.0.0.1', allow_private => true)")
        self._web = HttpServer().__enter__()
        self._load = Load(self.db, seed, self._web)
        self._workers = [self._worker() for _ in range(workers)]

    def __enter__(self) -> "Chaos":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.kill()
        self._server.stop("immediate")
        self._web.__exit__(None, None, None)
        shutil.rmtree(self._home, ignore_errors=True)

    def rage(self, seconds: float) -> None:
        """Starts runs and does harm, at random, for so long."""
        harms = [self.kill_worker, self.pause_worker, self.cut_sessions, self.cut_supervisor, self.crash_server,
                 self.cancel_runs, self.fill_connections, self.revoke_rights]  # fmt: skip
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.start(self._random.randrange(20))
            time.sleep(self._random.random() * 0.5)
            self._random.choices(harms, weights=[3, 3, 4, 2, 2, 6, 1, 1])[0]()

    def start(self, runs: int) -> None:
        """Starts runs of any flows."""
        for _ in range(runs):
            self._attempt(self._load.start)

    def settle(self) -> None:
        """Lets all runs end; afterwards every effect is there once, and nothing is left over."""
        wait_until(lambda: not self._attempt(lambda: self.db.admin(UNFINISHED)), RECOVERY, "all runs to end")
        wrong = [*self._load.wrong(), *map(str, problems(self.db))]
        assert not wrong, "\n".join(wrong)

    def summary(self) -> str:
        """Counts of what was done, and of the runs and effects."""
        done = [f"{count} x {what}" for what, count in sorted(self.injected.items())]
        ends = self.db.rows("select status, count(*) from df.instances group by status", user=None)
        effects = self.db.admin("select count(*) from fx")
        return ", ".join([*done, *(f"{count} runs {status}" for status, count in ends), f"{effects} effects"])

    def kill_worker(self) -> None:
        """SIGKILL; another one takes its place."""
        self.injected["worker killed"] += 1
        self._workers.pop(self._random.randrange(len(self._workers))).kill()
        self._workers.append(self._worker())

    def pause_worker(self) -> None:
        """SIGSTOP, and after a while SIGCONT."""
        self.injected["worker paused"] += 1
        worker = self._random.choice(self._workers)
        worker.process.send_signal(signal.SIGSTOP)
        time.sleep(self._random.random())
        worker.process.send_signal(signal.SIGCONT)

    def cut_sessions(self) -> None:
        """Terminates some of the sessions in which steps run."""
        self.injected["sessions terminated"] += 1
        self._terminate("usename = 'app' and pid <> pg_backend_pid() and random() < 0.5")

    def cut_supervisor(self) -> None:
        """Terminates the connections by which workers hold their leases."""
        self.injected["supervisors terminated"] += 1
        self._terminate("usename = 'durable_worker'")

    def crash_server(self) -> None:
        """Stops the server as if the machine had lost power, and starts it again."""
        self.injected["server crashed"] += 1
        self._server.stop("immediate")
        time.sleep(self._random.random() * 0.3)
        self._server.restart()

    def cancel_runs(self) -> None:
        """Cancels some runs, wherever they are."""
        for _ in range(self._random.randrange(1, 6)):
            self.injected["run cancelled"] += 1
            self._attempt(self._load.cancel)

    def fill_connections(self) -> None:
        """Takes all connections that the server gives to ordinary roles, for a while."""
        self.injected["connection limit filled"] += 1
        taken: list[psycopg.Connection[Any]] = []
        with suppress(psycopg.OperationalError):
            while True:
                taken.append(self.db.connect("guest"))
        time.sleep(self._random.random())
        for conn in taken:
            conn.close()

    def revoke_rights(self) -> None:
        """Takes LOGIN, or the use of df, from the role and gives it back; runs may fail of that, as they must."""
        self.injected["rights revoked"] += 1
        self._load.excused = ("has no LOGIN", "has no USAGE")
        if self._random.random() < 0.5:
            harm, heal = "alter role app nologin", "alter role app login"
        else:
            harm, heal = "select df.revoke_usage('app')", "select df.grant_usage('app', include_http => true)"
        self._attempt(lambda: self.db.admin(harm))
        time.sleep(self._random.random() * 0.3)
        self._attempt(lambda: self.db.admin(heal))

    def _terminate(self, which: str) -> None:
        self._attempt(lambda: self.db.admin(f"select pg_terminate_backend(pid) from pg_stat_activity where {which}"))

    def _worker(self) -> WorkerProcess:
        return WorkerProcess(self.db)

    def _attempt(self, call: Callable[[], Any]) -> Any:
        """A call that is made again when its connection is lost; what it started may be there twice."""
        deadline = time.monotonic() + RECOVERY
        while True:
            try:
                return call()
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
