"""The sessions of all roles: kept for reuse, closed when idle, opened with a back-off where a login fails."""

import time
from collections import defaultdict
from dataclasses import dataclass, field
from logging import INFO, WARNING

import psycopg

from pg_durable.log import event
from pg_durable.login import Login, reason
from pg_durable.metrics import Metrics
from pg_durable.session import Session

KEEP_IDLE = 30.0
CAREFUL_FOR = 60.0
FIRST_BACKOFF = 1.0
LONGEST_BACKOFF = 30.0


class LoginFailed(Exception):
    """No session as this role now; the message says why."""


@dataclass
class RoleState:
    """What is known about one role."""

    idle: list[Session] = field(default_factory=list)
    failures: int = 0
    try_at: float = 0.0
    careful_until: float = 0.0


class Pool:
    """At most `limit` sessions, over all roles. Times are those of the monotonic clock."""

    def __init__(self, login: Login, metrics: Metrics) -> None:
        self.limit = 1
        self.roles: dict[int, str] = {}
        self._login = login
        self._metrics = metrics
        self._states: defaultdict[str, RoleState] = defaultdict(RoleState)
        self._in_use = 0

    async def acquire(self, role: str) -> Session:
        """An idle session of the role, else a new one in place of another role's idle one. Raises LoginFailed."""
        self._in_use += 1
        try:
            return await self._idle_session(role) or await self._open(role)
        except BaseException:
            self._in_use -= 1
            raise

    async def make_room(self, wanted: int = 0) -> None:
        """Closes sessions, the one that has been idle longest first, until there are no more than there may be."""
        idle = [session for state in self._states.values() for session in state.idle]
        excess = len(idle) + self._in_use + wanted - self.limit
        for session in sorted(idle, key=lambda session: session.idle_since)[: max(excess, 0)]:
            await self._discard(session)

    async def release(self, session: Session) -> None:
        """Keeps the session for the next step of its role, or closes it when it cannot be used again."""
        self._in_use -= 1
        await session.settle()
        if session.usable():
            session.idle_since = time.monotonic()
            self._states[session.role].idle.append(session)
        else:
            await self._close(session)

    def died(self, role: str) -> None:
        """A session died while it ran a step: for a while the engine keeps count of such deaths."""
        self._metrics.add("sessions_lost_total")
        self._states[role].careful_until = time.monotonic() + CAREFUL_FOR

    def careful(self, role: str) -> bool:
        """Whether a session of the role died a short while ago."""
        return self._states[role].careful_until > time.monotonic()

    def try_at(self, role: str) -> float:
        """When a login as the role may be tried again; in the past for a role that can be reached."""
        return self._states[role].try_at

    def avoid(self, role: str) -> None:
        """Leaves the role alone for a while, longer each time."""
        state = self._states[role]
        delay = min(FIRST_BACKOFF * 2**state.failures, LONGEST_BACKOFF)
        state.failures += 1
        state.try_at = time.monotonic() + delay

    def reached(self, role: str) -> bool:
        """Notes that the role can be served; true when it could not be before."""
        state = self._states[role]
        failures, state.failures, state.try_at = state.failures, 0, 0.0
        return failures > 0

    async def close_idle(self, longer_than: float = KEEP_IDLE) -> None:
        """Closes sessions that have had nothing to do for so many seconds."""
        before = time.monotonic() - longer_than
        for state in self._states.values():
            for session in [session for session in state.idle if session.idle_since <= before]:
                await self._discard(session)
        self._count()

    def _count(self) -> None:
        self._metrics.set("sessions", self._in_use, state="running")
        self._metrics.set("sessions", sum(len(state.idle) for state in self._states.values()), state="idle")

    async def _idle_session(self, role: str) -> Session | None:
        idle = self._states[role].idle
        while idle:
            session = idle.pop()
            if session.usable():
                return session
            await self._close(session)
        return None

    async def _open(self, role: str) -> Session:
        await self.make_room()
        try:
            session = await Session.open(self._login, role)
        except (psycopg.Error, OSError) as error:
            self.avoid(role)
            self._metrics.add("login_failures_total")
            event(WARNING, "login failed", role=role, reason=reason(error))
            raise LoginFailed(reason(error)) from error
        self.roles[session.oid] = role
        self._metrics.add("sessions_opened_total")
        event(INFO, "session opened", role=role, pid=session.pid)
        return session

    async def _discard(self, session: Session) -> None:
        idle = self._states[session.role].idle
        if session in idle:
            idle.remove(session)
            await self._close(session)

    async def _close(self, session: Session) -> None:
        await session.close()
        event(INFO, "session closed", role=session.role, pid=session.pid)
