"""`python -m tests.crash.rogue`: one role attacks in every way it can; what one that behaves notices of it."""

import argparse
import os
import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import psycopg

from tests.cluster import Cluster, under_test
from tests.crash.attacks import ALL, Attack
from tests.crash.crew import problems
from tests.support import Database, wait_until
from tests.worker.http_server import HttpServer
from tests.worker.process import WorkerProcess, own_database

MOST_MEMORY = 400  # megabytes of a worker
PATIENCE = 60.0  # seconds within which a run of the role that behaves must have ended
MIXTURE = 5.0  # seconds
# The attackers' own sessions do not suffer from what they do to the role.
UNHURT = "-c statement_timeout=0 -c idle_session_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0"
ENDED = ("completed", "failed", "cancelled")


@dataclass
class Neighbour:
    """The role that behaves: starts `select 1`, waits for its end, starts the next one."""

    db: Database
    completed: int = 0
    longest: float = 0.0
    lately: float = 0.0  # the longest since it was last asked
    wrong: list[str] = field(default_factory=list)
    refused: int = 0  # starts that the server refused, because an attack had taken all its locks, say

    def __post_init__(self) -> None:
        self._began = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Lets the last run end."""
        self._stop.set()
        self._thread.join(PATIENCE + 10)

    def recent(self) -> float:
        """The longest wait since this was last asked, of the run that waits now too."""
        longest, self.lately = max(self.lately, time.monotonic() - self._began), 0.0
        return longest

    def _live(self) -> None:
        conn = self.db.connect("app")
        while not self._stop.is_set():
            try:
                self._one(conn)
            except psycopg.Error as error:
                self.refused += 1
                if conn.closed:
                    self.wrong.append(f"the session of app was lost: {error}")
                    conn = self.db.connect("app")

    def _one(self, conn: psycopg.Connection[tuple[str | None, ...]]) -> None:
        self._began = time.monotonic()
        (run,) = conn.execute("select df.start('select 1')").fetchone() or (None,)
        while True:
            (status,) = conn.execute("select df.status(%s)", [run]).fetchone() or (None,)
            waited = time.monotonic() - self._began
            if status in ENDED or waited > PATIENCE:
                break
            time.sleep(0.002)
        self.longest, self.lately = max(self.longest, waited), max(self.lately, waited)
        self.completed += status == "completed"
        if status != "completed":
            said = conn.execute("select coalesce(error, wait_reason) from df.instances where id = %s", [run]).fetchone()
            self.wrong.append(f"run {run} is {status} after {waited:.1f} s: {said and said[0]}")


class Rogue:
    """Its own server, two workers, and what attacks them."""

    def __init__(self, seed: int = 1, workers: int = 2) -> None:
        self._random = random.Random(seed)
        self._web = HttpServer()
        self.workers: list[WorkerProcess] = []
        self.done: dict[str, int] = {}  # how often each attack came to its end
        self.said: dict[str, str] = {}  # the last error that each met
        options = {"max_notify_queue_pages": "16384"}
        self._server = Cluster(under_test(), options if self._queue_can_be_bounded() else None)
        try:
            self._set_up(workers)
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def _set_up(self, workers: int) -> None:
        self._server.initialise().start()
        self.db = own_database(self._server)
        self.db.admin("create role rogue login connection limit 100; create role vandal login connection limit 40")
        self.db.admin("create database elsewhere")
        self.db.admin(
            "select df.grant_usage('rogue', include_http => true), df.http_allow('127.0.0.1', allow_private => true)"
        )
        self._web.__enter__()
        for _ in range(workers):
            self.workers.append(WorkerProcess(self.db, "--log-level", "info"))
        for worker in self.workers:
            worker.logged("registered")

    def __enter__(self) -> "Rogue":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self.workers:
            worker.kill()
        self._server.remove()
        if self._web.port:
            self._web.__exit__(None, None, None)

    def attack(self, attacks: Sequence[Attack], seconds: float) -> None:
        """Makes these attacks at the same time, for so long."""
        stop = threading.Event()
        jobs = [attack for attack in attacks for _ in range(attack.sessions)]
        threads = [threading.Thread(target=self._make, args=(job, stop), daemon=True) for job in jobs]
        for thread in threads:
            thread.start()
        stop.wait(seconds)
        stop.set()
        self.db.admin(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity "
            "where usename in ('rogue', 'vandal') and application_name = 'attack'"
        )
        for thread in threads:
            thread.join(30)

    def mixture(self) -> list[Attack]:
        """Some attacks, at random."""
        return self._random.sample(ALL, self._random.randint(2, 6))

    def memory(self) -> int:
        """The most memory that a worker has had, in megabytes."""
        return max(map(peak, self.workers))

    def ended(self) -> list[WorkerProcess]:
        """Workers that have ended."""
        return [worker for worker in self.workers if worker.process.poll() is not None]

    def calm(self) -> None:
        """Ends what the attackers have begun, so that what is left can be judged."""
        self.db.admin("alter role rogue reset all")
        cancel = (
            "select count(df.cancel(id)) from (select id from df.instances "
            "where submitted_by = 'rogue'::regrole and status in ('pending', 'running') limit 1000) i"
        )
        while self.db.admin(cancel):
            continue  # tens of thousands in one transaction would hold all of them for minutes

    def wrong(self) -> list[str]:
        """What must not be: a worker that has ended or has had too much memory, anything that df.check shows."""
        ended = [f"worker {worker.process.pid} ended:\n{worker.log[-2000:]}" for worker in self.ended()]
        large = [f"a worker has had {self.memory()} MB"] if self.memory() > MOST_MEMORY else []
        with suppress(AssertionError):  # a session may be about to clear away what was cancelled a moment ago
            wait_until(lambda: not problems(self.db), PATIENCE)
        return ended + large + [str(row) for row in problems(self.db)]

    def _make(self, attack: Attack, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                with self.db.connect(attack.role, application_name="attack", options=UNHURT) as conn:
                    self._send(conn, attack, stop)
            except psycopg.Error as error:
                self.said[attack.name] = str(error).strip()
            stop.wait(0.1)

    def _send(self, conn: psycopg.Connection[tuple[object, ...]], attack: Attack, stop: threading.Event) -> None:
        while not stop.is_set():
            for statement in attack.statements:
                try:
                    conn.execute(statement.replace("{url}", self._web.url("")).encode())
                except psycopg.Error as error:
                    self.said[attack.name] = str(error).strip()
                    if conn.closed:
                        return
                if stop.is_set():
                    return
            self.done[attack.name] = self.done.get(attack.name, 0) + 1
            stop.wait(3600 if attack.held else attack.pause)

    @staticmethod
    def _queue_can_be_bounded() -> bool:
        return int(under_test_version().split(".")[0]) >= 17


def under_test_version() -> str:
    """The version of the server under test."""
    import subprocess  # noqa: PLC0415

    said = subprocess.run([under_test() / "postgres", "--version"], capture_output=True, text=True, check=True)
    return said.stdout.split()[2]


def peak(worker: WorkerProcess) -> int:
    """The most memory that the process has had, in megabytes; 0 once it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{worker.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) // 1024
    return 0


def main() -> int:
    """Attacks until the time is up; the exit code says whether all held."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.rogue", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--only", metavar="TEXT", help="only attacks whose name contains this")
    parser.add_argument("--each", action="store_true", help="one attack after the other, in place of mixtures")
    parser.add_argument("--verbose", action="store_true", help="say what each attack met")
    options = parser.parse_args()
    print(f"seed {options.seed}, {os.cpu_count()} cores, {len(ALL)} attacks, 2 workers", flush=True)
    print(f"{'attacks':48}{'runs':>6}{'longest':>11}{'memory':>10}", flush=True)
    with Rogue(options.seed) as rogue:
        app = Neighbour(rogue.db)
        for attacks, seconds in rounds(rogue, options):
            rogue.attack(attacks, seconds)
            name = ", ".join(attack.name for attack in attacks) if len(attacks) < len(ALL) else "all at once"
            print(f"{name[:47]:48}{app.completed:6}{app.recent():9.2f} s{rogue.memory():7} MB", flush=True)
        rogue.calm()
        app.stop()
        wrong = app.wrong + rogue.wrong()
        for attack in ALL if options.verbose else ():
            said = " ".join(rogue.said.get(attack.name, "").split())[:100]
            print(f"{rogue.done.get(attack.name, 0):6} x {attack.name}: {said}")
    print(
        f"{app.completed} runs of app, the longest took {app.longest:.2f} s, {app.refused} starts refused by the server"
    )
    print("\n".join(wrong) or "every run of app completed, no worker ended, df.check() shows nothing")
    return bool(wrong)


def rounds(rogue: Rogue, options: argparse.Namespace) -> Iterator[tuple[list[Attack], float]]:
    """What is to be done for how long: first everything at once for a third of the time, then mixtures."""
    chosen = [attack for attack in ALL if not options.only or options.only in attack.name]
    if options.each:
        for attack in chosen:
            yield [attack], options.seconds / len(chosen)
            rogue.calm()
        return
    yield chosen, options.seconds / (1 if options.only else 3)
    until = time.monotonic() + options.seconds * 2 / 3
    while not options.only and (left := until - time.monotonic()) > 0:
        yield rogue.mixture(), min(left, MIXTURE)


if __name__ == "__main__":
    raise SystemExit(main())
