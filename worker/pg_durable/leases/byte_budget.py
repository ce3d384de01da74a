"""The bytes that leased steps hold, from when they are read until the database has them.

They are bounded, and shared by the databases of a worker and by the roles of each.
"""

import asyncio
from collections import Counter
from contextlib import suppress

from pg_durable.metrics.metrics import Metrics

SMALL = 65_536  # bytes for which no step waits
SHARE = 3 / 4  # of the budget is the most that one role, or one of several databases, holds while others may want some


class Bytes:
    """What one step holds."""

    def __init__(self, share: "ByteShare", role: str, number: int, request: int, ticket: int) -> None:
        self.share = share
        self.role = role
        self.ticket = ticket  # of its lease
        self.number = number  # in the order in which the steps began
        self.request = request
        self.held = 0
        self.wanted = 0
        self.granted: asyncio.Future[None] | None = None  # while it waits

    async def hold(self, total: int) -> None:
        """Holds so many bytes beside its request, once there is room for them."""
        if total <= SMALL or self.request + total <= self.held:
            self.note(total)
            return
        self.wanted = self.request + total - self.held
        self.granted = asyncio.get_running_loop().create_future()
        self.share.enqueue(self)
        try:
            await self.granted
        finally:
            self.granted = None
            self.share.dequeue(self)

    def note(self, total: int) -> None:
        """Holds so many bytes beside its request, which are there already, or not any more."""
        self.share.change(self, self.request + total - self.held)

    def ended(self, outcome: int) -> None:
        """The request is gone, and an outcome of so many bytes is there."""
        self.request = 0
        self.note(outcome)

    def free(self) -> None:
        """Holds nothing any more."""
        self.ended(0)


class ByteShare:
    """What the steps of one database hold. A step that waits keeps what it has read."""

    def __init__(self, budget: "ByteBudget", metrics: Metrics) -> None:
        self.limit = 1
        self.used = 0
        self.by_role: Counter[str] = Counter()
        self._budget = budget
        self._metrics = metrics

    @property
    def most(self) -> int:
        """The most that they hold while others may want some."""
        return self.limit if self._budget.undivided else min(self.limit, int(self._budget.limit * SHARE))

    @property
    def room(self) -> int:
        """Bytes that they may hold more."""
        return max(min(self.most - self.used, self._budget.free), 0)

    @property
    def waiting(self) -> int:
        """Steps that wait for room."""
        return len(self.short)

    @property
    def short(self) -> list[int]:
        """The tickets of these steps."""
        return [step.ticket for step in self._budget.waiting if step.share is self]

    @property
    def sated(self) -> list[str]:
        """Roles that hold as much as one role may."""
        return [role for role, held in self.by_role.items() if held >= self.limit * SHARE]

    def open(self, role: str, request: int, ticket: int = 0) -> Bytes:
        """The account of a step that begins, with the bytes of its request."""
        step = Bytes(self, role, self._budget.number(), request, ticket)
        step.note(0)
        return step

    def resize(self, limit: int) -> None:
        """Sets how much they may hold."""
        if limit != self.limit:
            self.limit = limit
            self._metrics.set("bytes_in_flight_limit", limit)
            self._budget.let_go()

    def change(self, step: Bytes, by: int) -> None:
        """Books bytes; what becomes free is granted to those who wait."""
        step.held += by
        self.used += by
        self._metrics.set("bytes_in_flight", self.used)
        self.by_role[step.role] += by
        if not self.by_role[step.role]:
            del self.by_role[step.role]
        self._budget.changed(step, by)

    def enqueue(self, step: Bytes) -> None:
        """Lets a step wait; it is granted at once where there is room."""
        self._budget.waiting.append(step)
        self._budget.let_go()
        self._metrics.set("bytes_waiting", self.waiting)

    def dequeue(self, step: Bytes) -> None:
        """Takes back a step that waits no more."""
        with suppress(ValueError):
            self._budget.waiting.remove(step)
            self._budget.let_go()
        self._metrics.set("bytes_waiting", self.waiting)


class ByteBudget:
    """Grants room in the order of what databases, then roles hold, the least first; then in which steps began.

    So that steps never wait for each other for ever, one is let pass where no other can end: the bytes held exceed the
    budget by one result at most.
    """

    def __init__(self) -> None:
        self.waiting: list[Bytes] = []
        self._shares: list[ByteShare] = []
        self._holding: set[Bytes] = set()
        self._number = 0

    def share(self, metrics: Metrics) -> ByteShare:
        """The part of another database."""
        self._shares.append(ByteShare(self, metrics))
        return self._shares[-1]

    @property
    def limit(self) -> int:
        """As much as the database may hold that may hold most."""
        return max(share.limit for share in self._shares)

    @property
    def free(self) -> int:
        """Bytes that nobody holds."""
        return self.limit - sum(share.used for share in self._shares)

    @property
    def undivided(self) -> bool:
        """Whether it is all for one database."""
        return len(self._shares) == 1

    def number(self) -> int:
        """That of the next step."""
        self._number += 1
        return self._number

    def changed(self, step: Bytes, by: int) -> None:
        """Notes whether a step holds anything; grants what has become free."""
        if step.held:
            self._holding.add(step)
        else:
            self._holding.discard(step)
        if by < 0:
            self.let_go()

    def let_go(self) -> None:
        """Grants what is free."""
        while step := self._next():
            self.waiting.remove(step)
            step.share.change(step, step.wanted)
            if step.granted and not step.granted.done():
                step.granted.set_result(None)

    def _next(self) -> Bytes | None:
        """The step that gets room next. The first for which there is none keeps those behind it waiting."""
        waiting = sorted(self.waiting, key=lambda step: (step.share.used, step.share.by_role[step.role], step.number))
        for step in waiting:
            if step.wanted > self.free:
                return step if self._stuck() else None
            if self._allowed(step):
                return step
        return waiting[0] if waiting and self._stuck() else None

    def _allowed(self, step: Bytes) -> bool:
        """Whether neither its role nor its database would hold too much; one that cannot go on otherwise may."""
        share, role = step.share, step.role
        role_may = share.by_role[role] + step.wanted <= share.limit * SHARE or self._stuck(share, role)
        return role_may and (share.used + step.wanted <= share.most or self._stuck(share))

    def _stuck(self, share: ByteShare | None = None, role: str | None = None) -> bool:
        """Whether all steps, or all of a database or role, that hold any bytes wait for more."""
        return all(
            step in self.waiting for step in self._holding if share in (None, step.share) and role in (None, step.role)
        )
