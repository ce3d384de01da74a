"""Tells the engine what waits for room in memory, so that runs say why they do not go on."""

from functools import partial
from time import monotonic

from pg_durable.leases.byte_budget import ByteShare
from pg_durable.supervisor.command_queue import CommandQueue
from pg_durable.supervisor.connection import Supervisor

PATIENCE = 2.0  # seconds that something waits before that is said
ALL = ""  # instead of a role: no step is leased at all


async def _note(tickets: list[int], roles: list[str], db: Supervisor) -> None:
    await db.note_short_of_bytes(tickets, roles)


class ByteReasons:
    """Compares, at each poll, what waits with what the engine has been told."""

    def __init__(self, budget: ByteShare, commands: CommandQueue) -> None:
        self._budget = budget
        self._commands = commands
        self._since: dict[int | str, float] = {}  # of steps, by ticket, and of roles
        self._told: set[int | str] = set()

    def tell(self) -> None:
        """Says what has changed."""
        now = monotonic()
        waiting: list[int | str] = [*self._budget.short, *self._budget.sated, *([] if self._budget.room else [ALL])]
        self._since = {each: self._since.get(each, now) for each in waiting}
        told = {each for each, since in self._since.items() if now - since >= PATIENCE}
        if told != self._told:
            self._told = told
            tickets = sorted(each for each in told if isinstance(each, int))
            roles = sorted(each for each in told if isinstance(each, str))
            self._commands.put(partial(_note, tickets, roles), poll=False)

    def forget(self) -> None:
        """The engine knows nothing of what it was told: the registration is gone."""
        self._told = set()
