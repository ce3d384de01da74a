"""What the databases of a worker share: sessions, HTTP requests and who makes them, memory, keys."""

from pg_durable.http.runner import HttpRunner
from pg_durable.leases.byte_budget import ByteBudget
from pg_durable.secret_keys import KeyRing
from pg_durable.sessions.pool import MOST_SESSIONS, Pools
from pg_durable.shares.places import Places


class Shared:
    """The sessions are those of the command line; of the rest there is as much as the largest of the settings says."""

    def __init__(self, sessions: int | None, keys: KeyRing) -> None:
        self.pools = Pools(sessions or MOST_SESSIONS)
        self.slots = Places(self.pools.limit)
        self.requests = Places()
        self.memory = ByteBudget()
        self.http = HttpRunner()
        self.keys = keys  # of encrypted secrets

    async def close(self) -> None:
        """Frees the HTTP client."""
        await self.http.close()
