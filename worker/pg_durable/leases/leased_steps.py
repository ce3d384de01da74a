"""The steps leased to this worker: SQL outside a transaction, and HTTP requests. At least once, many at a time."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterable
from functools import partial
from logging import ERROR, INFO
from time import monotonic
from typing import Any

import psycopg

from pg_durable import statements
from pg_durable.http.secrets import Secrets
from pg_durable.leases import direct
from pg_durable.leases.byte_budget import Bytes
from pg_durable.leases.byte_reasons import ByteReasons
from pg_durable.leases.http_requests import HttpRequests
from pg_durable.log import event
from pg_durable.login import Login, reason
from pg_durable.metrics.metrics import Metrics
from pg_durable.sessions.pool import LoginFailed, Pool
from pg_durable.sessions.progress import ProgressReports
from pg_durable.sessions.session import Session
from pg_durable.shares.shared import Shared
from pg_durable.supervisor.command_queue import CommandQueue
from pg_durable.supervisor.connection import Lease, Supervisor

DIRECT, HTTP = "direct", "http"


class LeasedSteps:
    """One asyncio task a step; what came of it goes to the command queue."""

    def __init__(self, login: Login, pool: Pool, commands: CommandQueue, metrics: Metrics, shared: Shared) -> None:
        self._login = login
        self._pool = pool
        self._limits = pool.role_limits
        self._commands = commands
        self._progress = ProgressReports(commands)
        self._metrics = metrics
        self._keys = shared.keys
        self._http = shared.http
        self.requests = HttpRequests(commands, shared.requests)
        self.budget = shared.memory.share(metrics)
        self.reasons = ByteReasons(self.budget, commands)
        self.left: tuple[str, ...] = ()  # lanes with steps that wait for room
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._running: Counter[str] = Counter()
        self._unreported: set[Bytes] = set()  # of outcomes that the database does not have yet

    @property
    def tickets(self) -> list[int]:
        """The steps in flight."""
        return list(self._tasks)

    def running(self, lane: str) -> int:
        """How many steps of a lane are in flight."""
        return self._running[lane]

    def start(self, lane: str, leases: Iterable[Lease]) -> None:
        """Runs steps that have just been claimed."""
        for lease in leases:
            self._count(lane, 1)
            held = self.budget.open(lease.role, 2 * lease.bytes, lease.ticket)  # as it came, and as it is sent
            self._tasks[lease.ticket] = asyncio.create_task(self._run(lane, lease, held))

    def abandon_except(self, valid: frozenset[int]) -> None:
        """Stops steps whose run is over or whose branch lost its race: all that the engine does not count as ours."""
        for ticket, task in self._tasks.items():
            if ticket not in valid and not task.cancelling():
                event(INFO, "leased step abandoned", ticket=ticket)
                task.cancel()

    async def cancel(self) -> None:
        """Stops all steps."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def forget(self) -> None:
        """The outcomes that the database does not have will never be reported."""
        self.reasons.forget()
        self.requests.wanted = False
        for held in list(self._unreported):
            self._forget(held)

    async def _run(self, lane: str, lease: Lease, held: Bytes) -> None:
        began = monotonic()
        try:
            outcome = await (self._request(lease, held) if lane == HTTP else self._statement(lease, held))
            self._metrics.add("leased_total", lane=lane)
            self._metrics.observe("leased_seconds", monotonic() - began, lane=lane)
            self._report(lane, lease, outcome, held)
        except LoginFailed as failure:
            await self._wait_for_role(lease, failure)
        except Exception as error:
            event(ERROR, "leased step broke", lane=lane, ticket=lease.ticket, error=repr(error))
            self._report(lane, lease, refusal(f"the worker could not run this step: {error!r}"), held)
        finally:
            self._tasks.pop(lease.ticket, None)
            self._count(lane, -1)
            if held not in self._unreported:
                held.free()

    def _report(self, lane: str, lease: Lease, outcome: bytes, held: Bytes) -> None:
        """Hands the outcome over; it counts as held until the database has it."""
        held.ended(len(outcome))
        self._unreported.add(held)

        async def message(db: Supervisor) -> bool:
            try:
                taken = await complete(db, lease.ticket, outcome)
            except psycopg.OperationalError:
                raise  # it is said again
            except psycopg.Error:
                self._forget(held)
                raise
            if taken:
                self._forget(held)
            return taken

        self._commands.put(message, poll=lane in self.left)

    def _forget(self, held: Bytes) -> None:
        self._unreported.discard(held)
        held.free()

    async def _request(self, lease: Lease, held: Bytes) -> bytes:
        secrets = Secrets(lease.role, lease.secrets or (), self._keys)
        return encoded(await self._http.run(lease.request, held, secrets))

    async def _statement(self, lease: Lease, held: Bytes) -> bytes:
        if not lease.database_exists:
            return direct.no_database(str(lease.database)).encode()
        async with self._limits.session(lease.role):
            at_home = self._login.at_home(lease.database)
            outcome = await (self._at_home(lease, held) if at_home else self._elsewhere(lease, held))
            return outcome.encode()

    async def _at_home(self, lease: Lease, held: Bytes) -> str:
        session = await self._pool.acquire(lease.role)
        try:
            session.on_progress = partial(self._progress.heard, session.pid, lease.ticket)
            outcome = await direct.run_step(session.conn, lease.request, held)
            if session.usable():
                await session.conn.execute(statements.DISCARD_ALL)
            return outcome
        finally:
            session.on_progress = None
            await self._pool.release(session)

    async def _elsewhere(self, lease: Lease, held: Bytes) -> str:
        """In another database: the session is closed at once, so that it never stands in the way of DROP DATABASE."""
        async with self._pool.elsewhere(lease.role):
            try:
                session = await Session.open(self._login, lease.role, lease.database)
            except (psycopg.Error, OSError) as error:
                return direct.connection_failure(reason(error))
            try:
                return await direct.run_step(session.conn, lease.request, held)
            finally:
                await session.close()

    async def _wait_for_role(self, lease: Lease, failure: LoginFailed) -> None:
        """Keeps the lease until a login may be tried again, so that it is not claimed in vain, then gives it back."""
        if failure.alone:
            self._pool.block(lease.role)
            self._commands.put(lambda db: db.role_unreachable(lease.role, str(failure), failure.login))
        await asyncio.sleep(max(self._pool.try_at(lease.role) - monotonic(), 0))
        self._commands.put(lambda db: db.release([lease.ticket]))

    def _count(self, lane: str, change: int) -> None:
        self._running[lane] += change
        if lane == HTTP:
            self.requests.count(change)
        self._metrics.set("leased", self._running[lane], lane=lane)


async def complete(db: Supervisor, ticket: int, outcome: bytes) -> bool:
    """Stores an outcome; one that cannot be stored (a zero character, say) fails the step."""
    try:
        return await db.complete(ticket, outcome)
    except psycopg.DataError as error:
        return await db.complete(ticket, refusal(f"the result cannot be stored: {error.diag.message_primary}"))


def refusal(why: str) -> bytes:
    """An outcome that is never retried."""
    return encoded({"error": why, "sqlstate": None, "class": "refused", "retry_after": None})


def encoded(outcome: dict[str, Any]) -> bytes:
    """An outcome as it is sent: each character in as few bytes as it takes."""
    return json.dumps(outcome, ensure_ascii=False).encode("utf-8", "replace")
