"""The dispatcher: gives the worker's slots to roles that have work. The call finds the step, in the database."""

import asyncio
from collections import Counter
from collections.abc import Coroutine
from contextvars import copy_context
from functools import partial
from logging import INFO, WARNING
from math import inf
from time import monotonic
from typing import Any

import psycopg

from pg_durable.log import event
from pg_durable.login import reason
from pg_durable.metrics.metrics import Metrics
from pg_durable.sessions.crash_attribution import CrashAttribution
from pg_durable.sessions.pool import LoginFailed, Pool
from pg_durable.sessions.progress import ProgressReports
from pg_durable.sessions.session import Session
from pg_durable.shares.places import Places
from pg_durable.supervisor.command_queue import CommandQueue
from pg_durable.supervisor.connection import Supervisor

CONTENDED = ("40001", "40P01", "55P03")  # a lock that was not to be had in time, also by the role's own lock_timeout
TRANSACTION_TIMEOUT = "25P04"
INTERRUPTED = ("57014", "canceling statement due to user request")
PATIENCE = 2.0  # seconds that a role waits for a slot before its runs say why


async def _say_why(role: str, why: str, db: Supervisor) -> bool:
    return await db.role_waits(role, why)


async def _fail_stopped(role: int, step: tuple[int, str], why: tuple[str, str], db: Supervisor) -> bool:
    return await db.fail_stopped(role, *step, *why)


async def _say_reached(role: str, db: Supervisor) -> bool:
    return await db.role_reachable(role)


class Dispatcher:
    """One asyncio task a slot in use; each makes one call of df_engine.work in a session of its role."""

    def __init__(
        self,
        pool: Pool,
        commands: CommandQueue,
        metrics: Metrics,
        wake: asyncio.Event,
        crashes: CrashAttribution,
        *,
        places: Places | None = None,
    ) -> None:
        self.limit = 1
        self.reserve = 0  # of these slots: for roles that have nothing running, one step each
        self.taken = 0  # slots in use by, or kept for, steps that run outside a transaction
        self.accepting = False
        self._pool = pool
        self._limits = pool.role_limits
        self._commands = commands
        self._progress = ProgressReports(commands)
        self._crashes = crashes
        self._metrics = metrics
        self._wake = wake
        self._demand: dict[str, int] = {}  # steps that can run, by role, the role that has waited longest first
        self._running: Counter[str] = Counter()
        self._reserved = 0  # slots of the reserve in use
        self._waiting_since: dict[str, float] = {}  # of roles that have nothing running and get no slot
        self._told: set[str] = set()  # roles whose runs say that they wait for a slot
        self._held_until: dict[str, float] = {}  # of roles with a stopped step that the engine is about to fail
        self._turns: Counter[str] = Counter()
        self._turn = 0
        self._sessions: dict[int, Session] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._context = copy_context()  # the log of its database, whichever database frees the slot
        self._places = places or Places()  # shared with other databases
        self._places.join(self)

    @property
    def busy(self) -> int:
        """Calls under way."""
        return self._running.total()

    @property
    def most(self) -> int:
        """Slots, free or not."""
        return self.limit

    @property
    def in_use(self) -> int:
        """Slots that are not free."""
        return self.busy + self.taken

    @property
    def wanted(self) -> bool:
        """Whether another slot would be used at once."""
        return self._own_room > 0 and self._neediest(self._own_room) is not None

    @property
    def room(self) -> int:
        """Slots that are free, here and among those that databases share."""
        own = self._own_room
        return min(own, self._places.room(self)) if own else 0

    @property
    def common_room(self) -> int:
        """Free slots that are not of the reserve."""
        return self._common(self.room)

    @property
    def _own_room(self) -> int:
        return max(self.limit - self.in_use, 0) if self.accepting else 0

    def _common(self, room: int) -> int:
        """Of so many free slots those that are not of the reserve."""
        return max(min(room, self._own_room - (self.reserve - self._reserved)), 0)

    def retry_at(self) -> float:
        """When a login may be tried again for which steps are waiting; infinity when none are."""
        times = [at for role in self._demand if (at := self._pool.try_at(role)) > monotonic()]
        return min(times, default=inf)

    def plan(self, ready: dict[str, int]) -> None:
        """Notes how many steps of each role can run, as the engine says, and fills the free slots."""
        self._demand = dict(ready)
        self._places.offer()
        self._note_waiting()

    def serve(self, oid: int) -> bool:
        """Serves a role that, as a transaction has just said, has work; false when the role is not known yet."""
        role = self._pool.roles.get(oid)
        if role is None:
            return False
        self._want(role)
        self._places.offer()
        return True

    def offer(self) -> None:
        """Fills the free slots."""
        while (room := self.room) and (role := self._neediest(room)):
            reserved = not self._common(room)
            self._reserved += reserved
            self._take(role)
            self._running[role] += 1
            self._limits.take(role)
            self._turn += 1
            self._turns[role] = self._turn
            self._spawn(self._serve(role, reserved))

    def interrupt(self, pid: int) -> None:
        """Sends a cancel request to a call of this worker: its step's run was cancelled, or has lost a race."""
        session = self._sessions.get(pid)
        if session is None:
            return
        if not session.interrupted:
            self._metrics.add("interrupts_total")
            event(INFO, "step interrupted", role=session.role, pid=pid)
        self._spawn(session.interrupt())

    async def cancel(self) -> None:
        """Cancels all calls under way: their steps roll back."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, context=self._context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _neediest(self, room: int) -> str | None:
        """Of the roles that may have one of so many slots, the one with the fewest; then whose turn was longest ago.

        No role gets all slots: the reserve is for those that have nothing running.
        """
        now = monotonic()
        most = self.limit - self.reserve if self._common(room) else 1
        waiting = [role for role in self._demand if self._servable(role, now) and self._running[role] < most]
        return min(waiting, key=lambda role: (self._running[role], self._turns[role]), default=None)

    def _servable(self, role: str, now: float) -> bool:
        held = self._held_until.get(role, 0.0) > now
        return not held and self._pool.try_at(role) <= now and self._limits.allows(role)

    def _note_waiting(self) -> None:
        """Says on the runs of roles that have waited for a slot for a while why they do not go on."""
        now = monotonic()
        waiting = {role for role in self._demand if not self._running[role] and self._servable(role, now)}
        self._waiting_since = {role: self._waiting_since.get(role, now) for role in waiting}
        for role, since in self._waiting_since.items():
            if now - since > PATIENCE and role not in self._told:
                self._told.add(role)
                self._commands.put(partial(_say_why, role, self._why_none_is_free()))
        for role in self._told - waiting:
            self._told.discard(role)
            self._commands.put(partial(_say_reached, role))

    def _why_none_is_free(self) -> str:
        if self._own_room:
            elsewhere = self._places.in_use - self.in_use
            return f"all {self._places.limit} sessions of the worker are busy, {elsewhere} of them for other databases"
        holders = sum(1 for count in self._running.values() if count)
        return f"all {self.limit} sessions are busy, {self.reserve} of them reserved, held by {holders} roles"

    def _want(self, role: str) -> None:
        self._demand[role] = min(self._demand.get(role, 0) + 1, self.limit)

    def _take(self, role: str) -> None:
        self._demand[role] -= 1
        if self._demand[role] <= 0:
            del self._demand[role]

    async def _serve(self, role: str, reserved: bool) -> None:
        more = False
        try:
            session = await self._pool.acquire(role)
            try:
                more = await self._call(session, reserved)
            finally:
                await self._pool.release(session)
        except LoginFailed as failure:
            if failure.alone:
                self._unreachable(role, str(failure), failure.login)
        except psycopg.Error as error:
            self._pool.avoid(role, reason(error))
            self._unreachable(role, reason(error), login=False)  # the session is there
        finally:
            self._reserved -= reserved
            self._free(role, more)

    async def _call(self, session: Session, briefly: bool) -> bool:
        """One call; true when there may be more for this role. Raises when the role may not make such calls at all."""
        self._sessions[session.pid] = session
        session.on_progress = partial(self._progress.heard, session.pid, None)
        began = monotonic()
        try:
            report = await session.work(self._pool.careful(session.role), briefly)
        except psycopg.Error as error:
            report = self._broken_off(session, error)
            if not report:
                raise
            if report == "timed out" and session.step:
                self._commands.put(
                    partial(_fail_stopped, session.oid, session.step, (TRANSACTION_TIMEOUT, reason(error)))
                )
            elif report == "died":
                self._crashes.lost("call", error.sqlstate or session.told, session.oid, session.step)
            event(WARNING, "call broken off", role=session.role, pid=session.pid, reason=reason(error))
        finally:
            del self._sessions[session.pid]
            self._metrics.observe("call_seconds", monotonic() - began)
        return self._judge(session, *report.split(":"))

    @staticmethod
    def _broken_off(session: Session, error: psycopg.Error) -> str:
        """Why a call did not return; empty when the role will not fare better in the next one."""
        if session.interrupted:
            return "cancelled"
        if error.sqlstate == TRANSACTION_TIMEOUT and session.names_steps:
            return "timed out" if session.step else ""
        if session.conn.closed:
            return "died"
        return "contended" if error.sqlstate in CONTENDED else ""

    def _judge(self, session: Session, end: str, *step: str) -> bool:
        self._metrics.add("calls_total", end=end)
        if end in ("died", "timed out"):
            self._pool.died(session.role)
            return True
        if session.fresh and self._pool.unblock(session.role):
            event(INFO, "role reached again", role=session.role)
            self._commands.put(lambda db: db.role_reachable(session.role))
        session.fresh = False
        if end == "interrupted" and not session.interrupted:
            queue_id, instance, node = step
            event(WARNING, "step interrupted by somebody else", role=session.role, step=f"{instance}:{node}")
            self._held_until[session.role] = monotonic() + PATIENCE
            self._commands.put(partial(self._fail_before_it_runs_again, session, (int(queue_id), node)))
            return False
        return end != "empty"

    async def _fail_before_it_runs_again(self, session: Session, step: tuple[int, str], db: Supervisor) -> bool:
        # Until the engine has answered its role gets no session here: that would run the step from its beginning.
        try:
            return await _fail_stopped(session.oid, step, INTERRUPTED, db)
        finally:
            self._held_until.pop(session.role, None)

    def _unreachable(self, role: str, why: str, login: bool) -> None:
        self._pool.block(role)
        self._commands.put(lambda db: db.role_unreachable(role, why, login))

    def _free(self, role: str, more: bool) -> None:
        self._running[role] -= 1
        self._limits.give(role)
        if more:
            self._want(role)
        self._places.offer()
        self._wake.set()
