"""The HTTP requests of one database, among those that the databases of a worker share."""

from pg_durable.shares.places import Places
from pg_durable.supervisor.command_queue import CommandQueue


class HttpRequests:
    """How many are in flight, and how many more may be leased. What could not be is tried again when one has ended."""

    def __init__(self, commands: CommandQueue, places: Places) -> None:
        self.most = 1  # the setting
        self.in_use = 0
        self.wanted = False
        self._commands = commands
        self._places = places
        places.join(self)

    def leasable(self, ready: int) -> int:
        """Of so many that can be sent, how many may be."""
        asked = min(ready, self.most - self.in_use)
        room = self._places.room(self)
        self.wanted = asked > room
        return min(asked, room)

    def count(self, change: int) -> None:
        """One more is in flight, or one less."""
        self.in_use += change
        self._places.offer()

    def offer(self) -> None:
        """There may be a place: a poll leases what it is for."""
        self._commands.ask()
