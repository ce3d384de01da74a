"""Places for steps that the databases of a worker share: none has all of them, and none waits behind another one."""

from collections import deque
from typing import Protocol


class Member(Protocol):
    """One database, as far as it uses such places."""

    @property
    def most(self) -> int:
        """How many it may have, whoever else wants some."""
        ...

    @property
    def in_use(self) -> int:
        """How many it has."""
        ...

    @property
    def wanted(self) -> bool:
        """Whether it would take one more, as far as it is concerned."""
        ...

    def offer(self) -> None:
        """Takes what there is for it, or sees to it soon."""
        ...


class Places:
    """At most `limit` in use, over all databases; without a limit as many as the database that may have most."""

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit
        self._members: deque[Member] = deque()

    @property
    def limit(self) -> int:
        """How many there are."""
        return self._limit or max((member.most for member in self._members), default=1)

    @property
    def most_of_one(self) -> int:
        """How many one database can have: one is kept for each of the others, but no more than half of all."""
        return self.limit - min(len(self._members) - 1, self.limit // 2)

    @property
    def in_use(self) -> int:
        """How many are in use."""
        return sum(member.in_use for member in self._members)

    def join(self, member: Member) -> None:
        """Adds a database."""
        self._members.append(member)

    def room(self, member: Member) -> int:
        """How many more the database may take."""
        in_use = member.in_use
        if len(self._members) == 1:
            return max(self.limit - in_use, 0)
        free = self.limit - self.in_use
        others = [each for each in self._members if each is not member]
        room = free - min(sum(not each.in_use for each in others), self.limit // 2)
        share = self._share(member)
        if any(each.wanted and each.in_use < share for each in others):
            room = min(room, share - in_use)
        return max(room, min(free, 0 if in_use else 1), 0)

    def offer(self) -> None:
        """Has databases take what they may have, the one with the fewest first; among equals they take turns."""
        self._members.rotate()
        before = -1
        while before != self.in_use:  # what one has left is for another
            before = self.in_use
            for member in sorted(self._members, key=lambda each: each.in_use):
                if member.wanted and self.room(member):
                    member.offer()

    def _share(self, member: Member) -> int:
        """How many each database has when all that want some have as many."""
        sharers = sum(bool(each is member or each.in_use or each.wanted) for each in self._members)
        return -(-self.limit // sharers)
