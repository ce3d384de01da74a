"""What the worker's tasks have to tell the database, until the task that owns the supervising connection says it."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from logging import ERROR

import psycopg

from pg_durable.log import event
from pg_durable.login import reason
from pg_durable.supervisor import Supervisor

Message = Callable[[Supervisor], Awaitable[None]]


class Outbox:
    """A queue of calls; putting one in wakes the owner of the connection."""

    def __init__(self, wake: asyncio.Event) -> None:
        self._look = False  # whether something was put in that the engine's next answer depends on
        self._wake = wake
        self._messages: deque[Message] = deque()

    def __bool__(self) -> bool:
        return bool(self._messages)

    def put(self, message: Message, look: bool = True) -> None:
        """Adds a call. It is followed by a look, unless the engine notifies of what comes of it."""
        self._messages.append(message)
        self._look = self._look or look
        self._wake.set()

    def clear(self) -> None:
        """Forgets everything: the registration it belonged to is gone."""
        self._messages.clear()

    def take_look(self) -> bool:
        """Whether a look is due; not any more after this."""
        look, self._look = self._look, False
        return look

    async def deliver(self, db: Supervisor) -> None:
        """Makes the calls. One with bad luck (a deadlock, say) is kept, and raises; what cannot succeed is logged."""
        while self._messages:
            try:
                await self._messages[0](db)
            except psycopg.OperationalError:
                self._messages.rotate(-1)
                raise
            except psycopg.Error as error:
                event(ERROR, "report refused", reason=reason(error))
            self._messages.popleft()
