"""Many sessions at once, without worker processes: what they do to each other shows, with nothing to hide it."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

import psycopg

from tests.state import UNFINISHED
from tests.support import Database, Pump, wait_until


class Crew:
    """Sessions of the role `app` that make calls of df_engine.work, and supervisors that tick, each in a thread."""

    def __init__(self, db: Database, sessions: int = 4, supervisors: int = 1, interrupts: bool = True) -> None:
        self.db = db
        self.errors: list[str] = []
        self._interrupts = interrupts
        self._stop = threading.Event()
        jobs = [self._work] * sessions + [self._tick] * supervisors
        self._threads = [threading.Thread(target=self._guard, args=(job,), daemon=True) for job in jobs]

    def __enter__(self) -> "Crew":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20)

    def settled(self, seconds: float = 30.0) -> None:
        """Waits until every run has ended and nothing is left of them; no call may have failed meanwhile."""
        wait_until(lambda: self.errors or not self.db.admin(UNFINISHED), seconds, "all runs to end")
        assert not self.errors, self.errors[0]
        found = problems(self.db)
        assert not found, found

    def _guard(self, job: Callable[[Pump], None]) -> None:
        pump = Pump(self.db)
        while not self._stop.is_set():
            try:
                job(pump)
            except psycopg.errors.QueryCanceled:
                continue  # a cancel request meant for the step before
            except psycopg.Error as error:
                self.errors.append(f"{type(error).__name__}: {error}")
                if pump.session.closed or pump.supervisor.closed:
                    return
        pump.close()

    def _work(self, pump: Pump) -> None:
        row = pump.session.execute("call df_engine.work(100, false, null)").fetchone()
        assert row is not None
        if row[0] == "empty":
            self._stop.wait(0.002)

    def _tick(self, pump: Pump) -> None:
        try:
            work: dict[str, Any] = pump.tick()
        except psycopg.errors.LockNotAvailable:
            return  # a lock that came just as its time was over; a worker polls again, too
        if self._interrupts:
            for pid in work["interrupt"]:
                self._cancel(pid)
        self._stop.wait(0.005)

    def _cancel(self, pid: int) -> None:
        """Sends a cancel request, as a worker does to its own sessions."""
        with self.db.connect() as conn:
            conn.execute("select pg_cancel_backend(%s)", [pid])


def problems(db: Database) -> list[Any]:
    """What df.check shows."""
    return db.rows("select problem, instance_id, node_id, detail from df.check()", user=None)
