"""What the worker's tasks have to tell the database, until the task that owns the supervising connection says it."""

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

Message = Callable[[Supervisor], Awaitable[bool | None]]  # False: the engine cannot take it now

AT_ONCE = 50  # messages of the second try and later
AGAIN = 0.25


class Outbox:
    """A queue of calls; putting one in wakes the owner of the connection."""

    def __init__(self, wake: asyncio.Event) -> None:
        self._look = False  # whether something was put in that the engine's next answer depends on
        self._wake = wake
        self._messages: deque[Message] = deque()
        self._later: deque[Message] = deque()  # about runs that somebody's open transaction holds
        self._again_at = 0.0

    def __bool__(self) -> bool:
        return bool(self._messages or self._later)

    def put(self, message: Message, look: bool = True) -> None:
        """Adds a call. It is followed by a look, unless the engine notifies of what comes of it."""
        self._messages.append(message)
        self._look = self._look or look
        self._wake.set()

    def clear(self) -> None:
        """Forgets everything: the registration it belonged to is gone."""
        self._messages.clear()
        self._later.clear()

    def take_look(self) -> bool:
        """Whether a look is due; not any more after this."""
        look, self._look = self._look, False
        return look

    def again_at(self) -> float:
        """When to deliver what the engine could not take; infinity when there is nothing of that kind."""
        return self._again_at if self._later else inf

    async def deliver(self, db: Supervisor) -> None:
        """Makes the calls. One with bad luck (a deadlock, say) is kept, and raises; what cannot succeed is logged."""
        if self._later and self._again_at <= monotonic():
            for _ in range(min(AT_ONCE, len(self._later))):
                await self._make(self._later, db)
            self._again_at = monotonic() + AGAIN
        while self._messages:
            await self._make(self._messages, db)

    async def _make(self, queue: deque[Message], db: Supervisor) -> None:
        message, taken = queue[0], None
        try:
            taken = await message(db)
        except psycopg.OperationalError:
            queue.rotate(-1)
            raise
        except psycopg.Error as error:
            event(ERROR, "report refused", reason=reason(error))
        queue.popleft()
        if taken is False:
            if not self._later:
                self._again_at = monotonic() + AGAIN
            self._later.append(message)
