"""A clock that a test moves, and sessions without a server, for the parts of the worker."""

import asyncio
from itertools import count
from types import ModuleType
from typing import Any

import psycopg
import pytest
from pg_durable.sessions import crash_attribution, pool
from pg_durable.supervisor import command_queue
from pg_durable.worker import dispatcher

MODULES: tuple[ModuleType, ...] = (crash_attribution, pool, command_queue, dispatcher)


class Clock:
    """Stands still until a test moves it. Seconds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


class FakeSession:
    """A session of which a test says how old it is, whether it can be used and what its call answers."""

    numbers = count(1)

    def __init__(self, role: str) -> None:
        self.role = role
        self.pid = next(self.numbers)
        self.oid = 16384 + sum(role.encode())
        self.age = 0.0
        self.idle_since = 0.0
        self.fresh = True
        self.interrupted = False
        self.alive = True
        self.told: str | None = None
        self.step: tuple[int, str] | None = None
        self.careful: list[bool] = []
        self.conn = self
        self.answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @property
    def closed(self) -> bool:
        return not self.alive

    def usable(self) -> bool:
        return self.alive

    async def cancel_arrived(self) -> None:
        """There is no cancel request."""

    async def close(self) -> None:
        self.alive = False

    async def work(self, careful: bool, briefly: bool) -> str:
        """Waits until the test answers the call."""
        self.careful.append(careful)
        self.answer = asyncio.get_running_loop().create_future()
        return await self.answer


class Sessions:
    """In place of Session.open: all that were opened, by role; `refused` are the roles that cannot log in."""

    def __init__(self) -> None:
        self.opened: list[FakeSession] = []
        self.refused: set[str] = set()
        self.tries = 0

    async def open(self, login: Any, role: str) -> FakeSession:
        self.tries += 1
        if role in self.refused:
            raise psycopg.OperationalError("no such role")
        self.opened.append(FakeSession(role))
        return self.opened[-1]

    def of(self, role: str) -> list[FakeSession]:
        """Those that are open."""
        return [session for session in self.opened if session.role == role and session.alive]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time of all parts of the worker."""
    clock = Clock()
    for module in MODULES:
        monkeypatch.setattr(module, "monotonic", clock)
    return clock


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> Sessions:
    """All that is opened."""
    sessions = Sessions()
    monkeypatch.setattr(pool, "Session", sessions)
    return sessions
