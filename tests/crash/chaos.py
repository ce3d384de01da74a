"""A server and workers that are killed, stopped and cut off at random while a mixed load runs."""

import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

import psycopg

from tests.crash.crew import problems
from tests.crash.load import Load, prepare
from tests.crash.pair import Pair
from tests.state import STANDSTILL, UNFINISHED
from tests.support import wait_until
from tests.worker.http_server import HttpServer
from tests.worker.process import WorkerProcess, own_database

RECOVERY = 120.0
SEEN = (
    *STANDSTILL,
    "select usename, state, wait_event_type, wait_event, application_name, left(query, 60) from pg_stat_activity",
    "select application_name, state, sync_state from pg_stat_replication",
)


class Chaos:
    """Its own server, with fsync on and perhaps a standby; `injected` counts what was done to it."""

    def __init__(self, seed: int, workers: int = 2, standby: bool = False) -> None:
        self.injected: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._server = Pair(standby)
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
        self._server.remove()
        self._web.__exit__(None, None, None)

    def rage(self, seconds: float) -> None:
        """Starts runs and does harm, at random, for so long."""
        harms = {
            self.kill_worker: 3, self.pause_worker: 3, self.cut_sessions: 4, self.cut_supervisor: 2,
            self.crash_server: 2, self.cancel_runs: 6, self.pause_runs: 6, self.resume_runs: 4, self.skip_waits: 4,
            self.pause_role: 2, self.resume_role: 3,
            self.fill_connections: 1, self.revoke_rights: 1,
            self.switch_policy: 1, self.fail_over: 0.5 if self._server.has_standby else 0,
        }  # fmt: skip
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.start(self._random.randrange(20))
            time.sleep(self._random.random() * 0.5)
            self._random.choices([*harms], weights=[*harms.values()])[0]()

    def start(self, runs: int) -> None:
        """Starts runs of any flows."""
        for _ in range(runs):
            self._attempt(self._load.start)

    def settle(self) -> None:
        """Resumes what is paused and lets all runs end; then every effect is there once, and nothing is left over."""
        self._attempt(self._load.resume_role)
        self._attempt(self._load.resume)

        def over() -> bool:
            self._attempt(self._load.skip)
            return not self._attempt(lambda: self.db.admin(UNFINISHED))

        try:
            wait_until(over, RECOVERY, "all runs to end")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self._standstill()}") from error
        wrong = [*self._load.wrong(), *map(str, problems(self.db))]
        assert not wrong, "\n".join(wrong)

    def _standstill(self) -> str:
        """What has not ended, and what the sessions do."""
        return "\n".join(str(row) for query in SEEN for row in self.db.rows(query, user=None))

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

    def switch_policy(self) -> None:
        """Lets steps share transactions and commits not wait for the disk, or ends that."""
        self.injected["commit policy switched"] += 1
        policy = self._random.choice(["strict", "relaxed", "relaxed"])
        self._attempt(lambda: self.db.admin("select df.set_setting('commit_policy', %s)", policy))

    def crash_server(self) -> None:
        """Stops the server as if the machine had lost power, and starts it again."""
        self.injected["server crashed"] += 1
        self._server.crash()
        time.sleep(self._random.random() * 0.3)
        self._server.restart()

    def fail_over(self) -> None:
        """The server is lost for good; its standby goes on in its place, and gets a standby of its own."""
        self.injected["failed over"] += 1
        self._server.fail_over()

    def cancel_runs(self) -> None:
        """Cancels some runs, wherever they are."""
        for _ in range(self._random.randrange(1, 6)):
            self.injected["run cancelled"] += 1
            self._attempt(self._load.cancel)

    def pause_runs(self) -> None:
        """Pauses some runs, wherever they are."""
        for _ in range(self._random.randrange(1, 10)):
            self.injected["run paused"] += 1
            self._attempt(self._load.pause)

    def resume_runs(self) -> None:
        """Resumes some of the runs that are paused, and some that were cancelled."""
        self.injected["runs resumed"] += 1
        self._attempt(lambda: self._load.resume(0.5))
        for _ in range(self._random.randrange(3)):
            self._attempt(self._load.resume_cancelled)

    def skip_waits(self) -> None:
        """Skips what nothing else ends."""
        self.injected["waits skipped"] += 1
        self._attempt(self._load.skip)

    def pause_role(self) -> None:
        """Pauses all runs of the role, those too that are started from now on."""
        self.injected["role paused"] += 1
        self._attempt(self._load.pause_role)

    def resume_role(self) -> None:
        """Lets them go on."""
        self.injected["role resumed"] += 1
        self._attempt(self._load.resume_role)

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
        self._load.excused = ("has no LOGIN", "has no USAGE", "does not have EXECUTE privilege on df.http")
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
