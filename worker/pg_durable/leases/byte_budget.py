"""The bytes that leased steps hold, from when they are read until the database has them: bounded, shared by role."""

import asyncio
from collections import Counter
from contextlib import suppress

from pg_durable.metrics.metrics import Metrics

SMALL = 65_536  # bytes for which no step waits
SHARE = 3 / 4  # of the budget is the most that one role holds while others may want some


class Bytes:
    """What one step holds."""

    def __init__(self, budget: "ByteBudget", role: str, number: int, request: int, ticket: int) -> None:
        self.role = role
        self.ticket = ticket  # of its lease
        self.number = number  # in the order in which the steps began
        self.request = request
        self.held = 0
        self.wanted = 0
        self.granted: asyncio.Future[None] | None = None  # while it waits
        self._budget = budget

    async def hold(self, total: int) -> None:
        """Holds so many bytes beside its request, once there is room for them."""
        if total <= SMALL or self.request + total <= self.held:
            self.note(total)
            return
        self.wanted = self.request + total - self.held
        self.granted = asyncio.get_running_loop().create_future()
        self._budget.enqueue(self)
        try:
            await self.granted
        finally:
            self.granted = None
            self._budget.dequeue(self)

    def note(self, total: int) -> None:
        """Holds so many bytes beside its request, which are there already, or not any more."""
        self._budget.change(self, self.request + total - self.held)

    def ended(self, outcome: int) -> None:
        """The request is gone, and an outcome of so many bytes is there."""
        self.request = 0
        self.note(outcome)

    def free(self) -> None:
        """Holds nothing any more."""
        self.ended(0)


class ByteBudget:
    """Grants room in the order of what the roles hold, the least first; then in the order in which steps began.

    A step that waits keeps what it has read. So that steps never wait for each other for ever, one is let pass where
    no other can end: the bytes held exceed the budget by one result at most.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.limit = 1
        self.used = 0
        self._by_role: Counter[str] = Counter()
        self._holding: set[Bytes] = set()
        self._waiting: list[Bytes] = []
        self._number = 0

    @property
    def room(self) -> int:
        """Bytes that nobody holds."""
        return max(self.limit - self.used, 0)

    @property
    def waiting(self) -> int:
        """Steps that wait for room."""
        return len(self._waiting)

    @property
    def short(self) -> list[int]:
        """The tickets of these steps."""
        return [step.ticket for step in self._waiting]

    @property
    def sated(self) -> list[str]:
        """Roles that hold as much as one role may."""
        return [role for role, held in self._by_role.items() if held >= self.limit * SHARE]

    def open(self, role: str, request: int, ticket: int = 0) -> Bytes:
        """The account of a step that begins, with the bytes of its request."""
        self._number += 1
        step = Bytes(self, role, self._number, request, ticket)
        step.note(0)
        return step

    def resize(self, limit: int) -> None:
        """Sets the budget."""
        if limit != self.limit:
            self.limit = limit
            self._metrics.set("bytes_in_flight_limit", limit)
            self._let_go()

    def change(self, step: Bytes, by: int) -> None:
        """Books bytes; what becomes free is granted to those who wait."""
        step.held += by
        self.used += by
        self._metrics.set("bytes_in_flight", self.used)
        self._by_role[step.role] += by
        if step.held:
            self._holding.add(step)
        else:
            self._holding.discard(step)
        if not self._by_role[step.role]:
            del self._by_role[step.role]
        if by < 0:
            self._let_go()

    def enqueue(self, step: Bytes) -> None:
        """Lets a step wait; it is granted at once where there is room."""
        self._waiting.append(step)
        self._let_go()
        self._metrics.set("bytes_waiting", self.waiting)

    def dequeue(self, step: Bytes) -> None:
        """Takes back a step that waits no more."""
        with suppress(ValueError):
            self._waiting.remove(step)
            self._let_go()
        self._metrics.set("bytes_waiting", self.waiting)

    def _let_go(self) -> None:
        while step := self._next():
            self._waiting.remove(step)
            self.change(step, step.wanted)
            if step.granted and not step.granted.done():
                step.granted.set_result(None)

    def _next(self) -> Bytes | None:
        """The step that gets room next. The first for which there is none keeps those behind it waiting."""
        waiting = sorted(self._waiting, key=lambda step: (self._by_role[step.role], step.number))
        for step in waiting:
            if self.used + step.wanted > self.limit:
                return step if self._stuck() else None
            if self._by_role[step.role] + step.wanted <= self.limit * SHARE or self._stuck(step.role):
                return step
        return waiting[0] if waiting and self._stuck() else None

    def _stuck(self, role: str | None = None) -> bool:
        """Whether all steps, or all of a role, that hold any bytes wait for more."""
        return all(step in self._waiting for step in self._holding if role is None or step.role == role)
