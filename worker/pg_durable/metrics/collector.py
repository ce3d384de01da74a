"""The metrics collector: what the database counts for /metrics, asked only for a request, over its own connection."""

import asyncio
import json
from logging import WARNING
from time import monotonic
from typing import Any

import psycopg

from pg_durable import statements
from pg_durable.log import event
from pg_durable.login import Login, reason
from pg_durable.metrics.metrics import BUCKETS, Metrics

LONGEST = 4.0
SHARE = 5  # after counting it rests for so many times as long as that took
OUTCOMES = ("completed", "failed", "cancelled")
QUEUE = ("ready", "oldest_seconds", "running", "slots")
GAUGES = ("runs", "runs_blocked", "timers_overdue", "retries_waiting", *(f"queue_{name}" for name in QUEUE))


class MetricsCollector:
    """Keeps the metrics of the database; a database that does not answer has no gauges."""

    def __init__(self, login: Login, metrics: Metrics) -> None:
        self._login = login
        self._metrics = metrics
        self._task: asyncio.Task[None] | None = None
        self._conn: psycopg.AsyncConnection[Any] | None = None
        self._place: list[str] | None = None  # the last ended run that was counted
        self._again_at = 0.0

    async def refresh(self) -> None:
        """Counts again, unless that was done a moment ago; waits for the answer, but not for long."""
        if self._task is None or (self._task.done() and monotonic() >= self._again_at):
            self._task = asyncio.create_task(self._count())
        await asyncio.wait({self._task}, timeout=LONGEST)
        if not self._task.done():
            self._metrics.forget(*GAUGES)

    async def close(self) -> None:
        """Closes the connection."""
        if self._task:
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=1)
        await self._disconnect()

    async def _count(self) -> None:
        began = monotonic()
        try:
            self._show(await self._ask())
        except (psycopg.Error, OSError) as error:
            event(WARNING, "not counted", reason=reason(error))
            self._metrics.forget(*GAUGES)
            await self._disconnect()
        self._again_at = monotonic() + 1 + SHARE * (monotonic() - began)

    async def _ask(self) -> dict[str, Any]:
        self._conn = self._conn or await self._login.collector()
        place = json.dumps(self._place) if self._place else None
        row = await (await self._conn.execute(statements.RUN_METRICS, (place, list(BUCKETS)))).fetchone()
        answer: dict[str, Any] = row[0] if row else {}
        return answer

    def _show(self, found: dict[str, Any]) -> None:
        for status in ("pending", "running"):
            self._metrics.set("runs", found[status], status=status)
        self._metrics.set("runs_blocked", found["blocked"])
        self._metrics.set("timers_overdue", found["overdue"])
        self._metrics.set("retries_waiting", found["retries_waiting"])
        self._metrics.forget(*(f"queue_{name}" for name in QUEUE))  # of roles that have nothing there any more
        for part in found["queue"]:
            for name in QUEUE:
                self._metrics.set(f"queue_{name}", part[name], role=part["role"], lane=part["lane"])
        self._show_ended(found["ended"])

    def _show_ended(self, ended: dict[str, Any]) -> None:
        """Counts the runs that have ended since the last time, and their steps."""
        for outcome in OUTCOMES:
            self._metrics.add("runs_ended_total", ended[outcome], outcome=outcome)
        self._metrics.add("undo_failed_total", ended["undo_failed"])
        self._metrics.add("retries_total", ended["retries"])
        for steps in ended["steps"]:
            self._metrics.add_durations("step_seconds", steps["counts"], steps["seconds"], kind=steps["kind"])
        self._place = ended["place"]

    async def _disconnect(self) -> None:
        conn, self._conn = self._conn, None
        if conn:
            await conn.close()
