"""The sessions of all roles: kept for reuse, closed when idle, opened with a back-off where a login fails."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from logging import INFO, WARNING
from time import monotonic

import psycopg

from pg_durable.log import event
from pg_durable.login import Login, reason
from pg_durable.metrics.metrics import Metrics
from pg_durable.sessions.crash_attribution import WINDOW, CrashAttribution
from pg_durable.sessions.role_limits import RoleLimits
from pg_durable.sessions.session import Session

MOST_SESSIONS = 1000
KEEP_IDLE = 30.0
CAREFUL_FOR = 60.0
FIRST_BACKOFF = 1.0
LONGEST_BACKOFF = 30.0
UNTIL_GONE = (0.1, 0.4, 1.0)  # seconds in which the server stops counting a session that was closed


class LoginFailed(Exception):
    """No session as this role now; the message says why.

    `alone`: this worker has no other session of it either. `login`: it was the log-in that failed, not what followed.
    """

    def __init__(self, why: str, alone: bool, login: bool = True) -> None:
        super().__init__(why)
        self.alone = alone
        self.login = login


@dataclass
class RoleState:
    """What is known about one role."""

    idle: list[Session] = field(default_factory=list)
    in_use: int = 0  # with the attempts to open one
    open: int = 0
    failures: int = 0
    try_at: float = 0.0
    blocked: bool = False
    careful_until: float = 0.0
    pause_until: float = 0.0


class Pools:
    """The pools of a worker, one a database, and how many sessions they may have together."""

    def __init__(self, limit: int = MOST_SESSIONS) -> None:
        self.limit = limit
        self.all: list[Pool] = []


class Pool:
    """At most `limit` sessions, over all roles, of one database. Times are those of the monotonic clock.

    A session older than `longest_age` seconds makes no call any more: ALTER ROLE ... SET reaches only new ones.
    """

    def __init__(
        self,
        login: Login,
        metrics: Metrics,
        crashes: CrashAttribution,
        longest_age: float,
        pools: Pools | None = None,
    ) -> None:
        self.limit = 1
        self._context = copy_context()  # the log of its database, whichever database wants room
        self._pools = pools or Pools()
        self._pools.all.append(self)
        self.role_limits = RoleLimits()
        self._longest_age = longest_age
        self._crashes = crashes
        self.roles: dict[int, str] = {}
        self._login = login
        self._metrics = metrics
        self._states: defaultdict[str, RoleState] = defaultdict(RoleState)

    async def acquire(self, role: str) -> Session:
        """An idle session of the role, else a new one in place of another role's idle one. Raises LoginFailed."""
        state = self._states[role]
        state.in_use += 1
        try:
            found, replaces = await self._idle_session(state)
            return found or await self._open(role, state, replaces)
        except BaseException:
            state.in_use -= 1
            raise

    @asynccontextmanager
    async def elsewhere(self, role: str) -> AsyncIterator[None]:
        """Room for a session of the role in another database, which is none of the pool."""
        self._states[role].in_use += 1
        try:
            await self._make_room()
            yield
        finally:
            self._states[role].in_use -= 1

    async def release(self, session: Session) -> None:
        """Keeps the session for the next step of its role, or closes it when it cannot be used again."""
        self._states[session.role].in_use -= 1
        await session.cancel_arrived()
        if session.usable():
            session.idle_since = monotonic()
            self._states[session.role].idle.append(session)
        else:
            await self._close(session)

    def died(self, role: str) -> None:
        """A session died in a call: for a while they say what they run, and there is no haste with the next one."""
        self._metrics.add("sessions_lost_total")
        state, now = self._states[role], monotonic()
        state.careful_until = now + CAREFUL_FOR
        state.pause_until = now + WINDOW

    def careful(self, role: str) -> bool:
        """Whether a session of the role died a short while ago."""
        return self._states[role].careful_until > monotonic()

    def try_at(self, role: str) -> float:
        """When the role can be served: in the past with a session at hand, else when a login may be tried again."""
        state = self._states[role]
        return max(state.pause_until, 0.0 if state.idle else state.try_at)

    def avoid(self, role: str, why: str) -> None:
        """Opens no session as the role for a while, longer each time; several failures at once count as one."""
        state, now = self._states[role], monotonic()
        if state.try_at <= now:
            state.try_at = now + min(FIRST_BACKOFF * 2**state.failures, LONGEST_BACKOFF)
            state.failures += 1
            self._metrics.add("login_failures_total")
            event(WARNING, "role not reached", role=role, reason=why)

    def block(self, role: str) -> None:
        """Notes that the role's runs have to wait."""
        self._states[role].blocked = True

    def unblock(self, role: str) -> bool:
        """Notes that a new session of the role has made a call; true when its runs had to wait."""
        state = self._states[role]
        before, state.blocked, state.failures, state.try_at = state.blocked, False, 0, 0.0
        return before

    async def close_idle(self, longer_than: float = KEEP_IDLE) -> None:
        """Closes sessions that have had nothing to do for so many seconds."""
        before = monotonic() - longer_than
        for state in self._states.values():
            for session in [session for session in state.idle if session.idle_since <= before]:
                await self._discard(session)
        self._count()

    async def close_dead(self) -> None:
        """Closes idle sessions that the server has ended, and notes them as lost."""
        for session in [session for state in self._states.values() for session in state.idle]:
            if not session.usable():
                self._crashes.lost("idle", session.told)
                await self._discard(session)

    async def _make_room(self) -> None:
        """Closes idle sessions until there are no more than there may be, here and in all pools."""
        await self._close_longest_idle([self], self.limit)
        await self._close_longest_idle(self._pools.all, self._pools.limit)

    @staticmethod
    async def _close_longest_idle(pools: "list[Pool]", limit: int) -> None:
        idle = [(session, pool) for pool in pools for state in pool._states.values() for session in state.idle]
        excess = len(idle) + sum(pool._in_use() for pool in pools) - limit
        for session, pool in sorted(idle, key=lambda each: each[0].idle_since)[: max(excess, 0)]:
            await asyncio.create_task(pool._discard(session), context=pool._context)

    def _in_use(self) -> int:
        return sum(state.in_use for state in self._states.values())

    def _count(self) -> None:
        self._metrics.set("session_limit", self.limit)
        self._metrics.set("session_limit_shared", self._pools.limit)
        self._metrics.set("sessions", self._in_use(), state="running")
        self._metrics.set("sessions", sum(len(state.idle) for state in self._states.values()), state="idle")

    async def _idle_session(self, state: RoleState) -> tuple[Session | None, bool]:
        """A session that can be used, and whether one was closed because of its age."""
        replaces = False
        while state.idle:
            session = state.idle.pop()
            usable, aged = session.usable(), session.age > self._longest_age
            if usable and not aged:
                return session, replaces
            if not usable:
                self._crashes.lost("idle", session.told)
            replaces = replaces or aged
            await self._close(session)
        return None, replaces

    async def _open(self, role: str, state: RoleState, replaces: bool) -> Session:
        if state.try_at > monotonic():
            raise LoginFailed("a login failed a moment ago", alone=False)
        await self._make_room()
        try:
            session = await self._log_in(role, replaces)
        except (psycopg.Error, OSError) as error:
            self.avoid(role, reason(error))
            login = not (isinstance(error, psycopg.Error) and error.diag.message_primary)
            raise LoginFailed(reason(error), state.open == 0, login) from error
        state.open += 1
        self.roles[session.oid] = role
        self._metrics.add("sessions_opened_total")
        event(INFO, "session opened", role=role, pid=session.pid)
        return session

    async def _log_in(self, role: str, replaces: bool) -> Session:
        """A new session. In place of one that was closed a moment ago there may be room only in a moment."""
        for pause in UNTIL_GONE if replaces else ():
            try:
                return await Session.open(self._login, role)
            except (psycopg.Error, OSError):
                await asyncio.sleep(pause)
        return await Session.open(self._login, role)

    async def _discard(self, session: Session) -> None:
        idle = self._states[session.role].idle
        if session in idle:
            idle.remove(session)
            await self._close(session)

    async def _close(self, session: Session) -> None:
        self._states[session.role].open -= 1
        await session.close()
        event(INFO, "session closed", role=session.role, pid=session.pid)
