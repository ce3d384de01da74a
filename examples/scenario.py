"""A scenario: a folder of SQL files, played one after the other against a database with a worker.

setup.sql makes tables, session.sql (where there is one) is somebody's session that stays open, flow.sql starts runs,
next.sql (where there is one) is what somebody does once these have ended or wait, watch.sql is what one looks at,
check.sql raises when something is not as it should be, cleanup.sql removes the tables.
"""

import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import psycopg

HERE = Path(__file__).resolve().parent
SCENARIOS = sorted(path.parent.name for path in HERE.glob("*/flow.sql"))

# Runs that go on by themselves: not those that wait for somebody who has not spoken, for a time that is far away, or
# for the next time of many.
MOVING = """
SELECT i.label FROM df.instances i
WHERE i.label LIKE %(name)s || '%%' AND i.status IN ('pending', 'running')
  AND NOT EXISTS (SELECT FROM df.waiting w
                  WHERE w.instance_id = i.id AND w.kind IN ('signal', 'schedule', 'condition')
                    AND (w.due_at IS NULL OR w.due_at > clock_timestamp() + interval '2 minutes'
                         OR w.kind = 'schedule'
                            AND (SELECT f.current_execution_id > 1 FROM df.instance_info(i.id) f))
                    AND NOT EXISTS (SELECT FROM df.signals s WHERE s.instance_id = i.id
                                    AND s.signal_name = w.waits_for AND s.status = 'pending'))"""


class Scenario:
    """One of SCENARIOS, in the database that `dsn` leads to; `say` is told what happens."""

    def __init__(self, name: str, dsn: str, say: Callable[[str], None]) -> None:
        self._name = name
        self._dsn = dsn
        self._say = say

    def play(self) -> None:
        """From setup to cleanup; raises when the check does."""
        self._run("setup")
        try:
            with closing(self._connect()) as somebody:
                if self._path("session").exists():
                    self._run("session", somebody)
                self._act()
        finally:
            self._run("cleanup")

    def _act(self) -> None:
        """From the start of the runs to the check."""
        self._run("flow")
        self._settle()
        if self._path("next").exists():
            self._run("next")
            self._settle()
        self._run("watch")
        self._run("check")

    def _connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self._dsn, autocommit=True)

    def _path(self, part: str) -> Path:
        return HERE / self._name / f"{part}.sql"

    def _run(self, part: str, conn: psycopg.Connection[Any] | None = None) -> None:
        """A file, in a session of its own when none is given."""
        self._say(f"-- {self._path(part).relative_to(HERE.parent)}\n")
        with nullcontext(conn) if conn else closing(self._connect()) as session:
            cursor = session.execute(self._path(part).read_bytes())
            while part == "watch":
                self._say(as_text(cursor))
                if not cursor.nextset():
                    break

    def _settle(self, seconds: float = 120) -> None:
        """Until nothing goes on by itself any more."""
        deadline = time.monotonic() + seconds
        with closing(self._connect()) as conn:
            while moving := conn.execute(MOVING, {"name": self._name}).fetchall():
                if time.monotonic() > deadline:
                    raise TimeoutError(f"still running after {seconds:.0f} s: {moving}. Is a worker running?")
                time.sleep(0.1)


def as_text(cursor: psycopg.Cursor[Any]) -> str:
    """A result, its columns under each other; a tree as it is."""
    rows = [[str(value) for value in row] for row in cursor.fetchall()]
    names = [column.name for column in cursor.description or []]
    if len(names) == 1:
        return "\n".join(line.rstrip() for row in rows for line in row[0].splitlines()) + "\n"
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in (names, *rows))
    return "\n".join(lines) + "\n"
