"""A connection that no message of the server can fill the worker's memory through."""

import fcntl
import struct
import termios
from collections.abc import Generator
from typing import Any

import psycopg
from psycopg.waiting import Ready, Wait

MOST_BYTES = 4 << 20  # of one message, where nothing larger is expected


class TooLargeError(psycopg.OperationalError):
    """The server was sending more than is wanted; the connection is closed."""


class BoundedConnection(psycopg.AsyncConnection[Any]):
    """Counts what arrives until a message is whole, which libpq would keep, and closes when that is too much.

    A step decides how long its notices and errors are, and INFO is sent whatever client_min_messages says. The bound is
    a rough one: what arrives while libpq reads is not counted.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.most_bytes = MOST_BYTES
        self._came = 0
        self.add_notice_handler(self._message_ended)
        self.add_notify_handler(self._message_ended)  # without one psycopg would keep them

    async def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
        """As in psycopg, for a generator that is watched."""
        return await super().wait(self._watched(gen), *args, **kwargs)

    def _watched(self, gen: Generator[Wait, Ready | int, Any]) -> Generator[Wait, Ready | int, Any]:
        self._came = 0
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if ready & Ready.R:
                    self._count()
                wanted = gen.send(ready)
        except StopIteration as end:
            return end.value

    def _count(self) -> None:
        arrived = fcntl.ioctl(self.pgconn.socket, termios.FIONREAD, bytes(4))
        self._came += struct.unpack("i", arrived)[0]
        if self._came > self.most_bytes:
            self.pgconn.finish()
            raise TooLargeError(f"the server was sending more than {self.most_bytes} bytes at once")

    def _message_ended(self, _: object) -> None:
        self._came = 0
