"""The steps leased to this worker: SQL outside a transaction, and HTTP requests. At least once, many at a time."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterable
from logging import ERROR, INFO
from time import monotonic

import psycopg

from pg_durable import statements
from pg_durable.http.runner import HttpRunner
from pg_durable.leases import direct
from pg_durable.log import event
from pg_durable.login import Login, reason
from pg_durable.metrics.metrics import Metrics
from pg_durable.sessions.pool import LoginFailed, Pool
from pg_durable.sessions.role_limits import RoleLimits
from pg_durable.sessions.session import Session
from pg_durable.supervisor.command_queue import Outbox
from pg_durable.supervisor.connection import Lease, Supervisor

DIRECT, HTTP = "direct", "http"


class LeasedSteps:
    """One task a step; what came of it goes to the outbox."""

    def __init__(self, login: Login, pool: Pool, limits: RoleLimits, outbox: Outbox, metrics: Metrics) -> None:
        self._login = login
        self._pool = pool
        self._limits = limits
        self._outbox = outbox
        self._metrics = metrics
        self._http = HttpRunner()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._running: Counter[str] = Counter()

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
            self._tasks[lease.ticket] = asyncio.create_task(self._run(lane, lease))

    def abandon_except(self, held: frozenset[int]) -> None:
        """Stops steps whose run is over or whose branch lost its race: all that the engine does not count as ours."""
        for ticket, task in self._tasks.items():
            if ticket not in held and not task.cancelling():
                event(INFO, "leased step abandoned", ticket=ticket)
                task.cancel()

    async def cancel(self) -> None:
        """Stops all steps."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self) -> None:
        """Frees the HTTP client."""
        await self._http.close()

    async def _run(self, lane: str, lease: Lease) -> None:
        try:
            outcome = await (self._request(lease) if lane == HTTP else self._statement(lease))
            self._metrics.add("leased_total", lane=lane)
            self._outbox.put(lambda db: finish(db, lease.ticket, outcome), look=False)
        except LoginFailed as failure:
            await self._wait_for_role(lease, failure)
        except Exception as error:
            event(ERROR, "leased step broke", lane=lane, ticket=lease.ticket, error=repr(error))
            broken = refusal(f"the worker could not run this step: {error!r}")
            self._outbox.put(lambda db: finish(db, lease.ticket, broken), look=False)
        finally:
            self._tasks.pop(lease.ticket, None)
            self._count(lane, -1)

    async def _request(self, lease: Lease) -> str:
        return json.dumps(await self._http.run(lease.request))

    async def _statement(self, lease: Lease) -> str:
        if not lease.database_exists:
            return direct.no_database(str(lease.database))
        async with self._limits.session(lease.role):
            at_home = self._login.at_home(lease.database)
            return await (self._at_home(lease) if at_home else self._elsewhere(lease))

    async def _at_home(self, lease: Lease) -> str:
        session = await self._pool.acquire(lease.role)
        try:
            outcome = await direct.run_step(session.conn, lease.request)
            if session.usable():
                await session.conn.execute(statements.DISCARD_ALL)
            return outcome
        finally:
            await self._pool.release(session)

    async def _elsewhere(self, lease: Lease) -> str:
        """In another database: the session is closed at once, so that it never stands in the way of DROP DATABASE."""
        await self._pool.make_room(1)
        try:
            session = await Session.open(self._login, lease.role, lease.database)
        except (psycopg.Error, OSError) as error:
            return direct.connection_failure(reason(error))
        try:
            return await direct.run_step(session.conn, lease.request)
        finally:
            await session.close()

    async def _wait_for_role(self, lease: Lease, failure: LoginFailed) -> None:
        """Keeps the lease until a login may be tried again, so that it is not claimed in vain, then gives it back."""
        if failure.alone:
            self._pool.block(lease.role)
            self._outbox.put(lambda db: db.role_unreachable(lease.role, str(failure), failure.login))
        await asyncio.sleep(max(self._pool.try_at(lease.role) - monotonic(), 0))
        self._outbox.put(lambda db: db.release([lease.ticket]))

    def _count(self, lane: str, change: int) -> None:
        self._running[lane] += change
        self._metrics.set("leased", self._running[lane], lane=lane)


async def finish(db: Supervisor, ticket: int, outcome: str) -> bool:
    """Stores an outcome; one that cannot be stored (a zero character, say) fails the step."""
    try:
        return await db.finish(ticket, outcome)
    except psycopg.DataError as error:
        return await db.finish(ticket, refusal(f"the result cannot be stored: {error.diag.message_primary}"))


def refusal(why: str) -> str:
    """An outcome that is never retried."""
    return json.dumps({"error": why, "sqlstate": None, "class": "refused", "retry_after": None})
