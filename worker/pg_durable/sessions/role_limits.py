"""How many sessions a role may use at this worker: its share of what df.set_role_limit allows."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import inf


class RoleLimits:
    """Counts the sessions of limited roles, for statements and for steps outside transactions alike."""

    def __init__(self) -> None:
        self._limits: dict[str, int] = {}
        self._in_use: Counter[str] = Counter()
        self._awaited: Counter[str] = Counter()  # by steps outside transactions, which come before further statements
        self._changed = asyncio.Event()

    def apply(self, limits: dict[str, int]) -> None:
        """Takes what the engine says; what runs goes on."""
        if limits != self._limits:
            self._limits = limits
            self._wake()

    def allows(self, role: str) -> bool:
        """Whether the role may use one more session."""
        return self._in_use[role] + self._awaited[role] < self._limits.get(role, inf)

    def take(self, role: str) -> None:
        """Notes a session in use."""
        self._in_use[role] += 1

    def give(self, role: str) -> None:
        """Notes that one is free again."""
        self._in_use[role] -= 1
        if role in self._limits:
            self._wake()

    @asynccontextmanager
    async def session(self, role: str) -> AsyncIterator[None]:
        """Waits until the role may use one more session, and notes it as long as it does."""
        self._awaited[role] += 1
        try:
            while self._in_use[role] >= self._limits.get(role, inf):
                await self._changed.wait()
            self.take(role)
        finally:
            self._awaited[role] -= 1
        try:
            yield
        finally:
            self.give(role)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
