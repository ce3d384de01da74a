"""Room for what a request reads."""

from typing import Protocol


class Room(Protocol):
    """What a step may hold in memory."""

    async def hold(self, total: int) -> None:
        """Holds so many bytes in all, once there is room for them."""
        ...


class Unlimited:
    """Room without end."""

    async def hold(self, total: int) -> None:
        pass
