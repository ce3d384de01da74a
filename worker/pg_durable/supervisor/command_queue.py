"""The command queue: calls of the engine that wait for the asyncio task that owns the supervising connection."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from logging import ERROR
from math import inf
from time import monotonic

import psycopg

from pg_durable.log import event
from pg_durable.login import reason
from pg_durable.supervisor.connection import Supervisor

Command = Callable[[Supervisor], Awaitable[bool | None]]  # False: the engine cannot take it now

AT_ONCE = 50  # commands of the second try and later
AGAIN = 0.25


class CommandQueue:
    """Commands in their order; putting one in wakes the owner of the connection."""

    def __init__(self, wake: asyncio.Event) -> None:
        self._poll = False  # whether something was put in that the engine's next answer depends on
        self._wake = wake
        self._commands: deque[Command] = deque()
        self._later: deque[Command] = deque()  # about runs that somebody's open transaction has locked
        self._again_at = 0.0

    def __bool__(self) -> bool:
        return bool(self._commands or self._later)

    def put(self, command: Command, poll: bool = True) -> None:
        """Adds a command. A poll follows it, unless the engine notifies of what comes of it."""
        self._commands.append(command)
        self._poll = self._poll or poll
        self._wake.set()

    def ask(self) -> None:
        """Has a poll follow."""
        self._poll = True
        self._wake.set()

    def clear(self) -> None:
        """Forgets everything: the registration it belonged to is gone."""
        self._commands.clear()
        self._later.clear()

    def take_poll(self) -> bool:
        """Whether a poll is due; not any more after this."""
        poll, self._poll = self._poll, False
        return poll

    def again_at(self) -> float:
        """When to deliver what the engine could not take; infinity when there is nothing of that kind."""
        return self._again_at if self._later else inf

    async def deliver(self, db: Supervisor) -> None:
        """Makes the calls. One with bad luck (a deadlock, say) is kept, and raises; what cannot succeed is logged."""
        if self._later and self._again_at <= monotonic():
            for _ in range(min(AT_ONCE, len(self._later))):
                await self._make(self._later, db)
            self._again_at = monotonic() + AGAIN
        while self._commands:
            await self._make(self._commands, db)

    async def _make(self, queue: deque[Command], db: Supervisor) -> None:
        command, taken = queue[0], None
        try:
            taken = await command(db)
        except psycopg.OperationalError:
            queue.rotate(-1)
            raise
        except psycopg.Error as error:
            event(ERROR, "report refused", reason=reason(error))
        queue.popleft()
        if taken is False:
            if not self._later:
                self._again_at = monotonic() + AGAIN
            self._later.append(command)
