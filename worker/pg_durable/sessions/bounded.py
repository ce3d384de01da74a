"""A connection that no message of the server can fill the worker's memory through."""

import ctypes
import fcntl
import struct
import termios
from collections.abc import Generator
from typing import Any

import psycopg
from psycopg.waiting import Ready, Wait

MOST_BYTES = 4 << 20  # of one message, where nothing larger is expected
SMALL = 4096  # so many bytes at once are no part of a large message

_MEMORY = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")


class _Memory(ctypes.Structure):
    """The struct mallinfo2 of glibc; hblkhd is what large blocks take, uordblks what the others take."""

    _fields_ = [(name, ctypes.c_size_t) for name in _MEMORY]


class TooLargeError(psycopg.OperationalError):
    """The server was sending more than is wanted; the connection is closed."""


class BoundedConnection(psycopg.AsyncConnection[Any]):
    """Closes when the server begins a message that is too large for libpq to keep.

    A step decides how long its notices and errors are, and INFO is sent whatever client_min_messages says. libpq makes
    room for a whole message when it has read its length, up to twice as much, so a jump of what is allocated gives a
    large one away. Where that cannot be asked, what arrives is counted until a message is whole, without what arrives
    while libpq reads.
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
                arrived = self._count() if ready & Ready.R else 0
                before = _allocated() if arrived > SMALL else 0
                wanted = gen.send(ready)
                if before and _allocated() - before > 2 * self.most_bytes:
                    self._refuse()
        except StopIteration as end:
            return end.value

    def _count(self) -> int:
        arrived: int = struct.unpack("i", fcntl.ioctl(self.pgconn.socket, termios.FIONREAD, bytes(4)))[0]
        self._came += arrived
        if self._came > self.most_bytes:
            self._refuse()
        return arrived

    def _refuse(self) -> None:
        self.pgconn.finish()
        raise TooLargeError(f"the server was sending more than {self.most_bytes} bytes at once")

    def _message_ended(self, _: object) -> None:
        self._came = 0


def _ask_glibc() -> Any:
    try:
        asked = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError):
        return None
    asked.restype = _Memory
    return asked


_mallinfo2 = _ask_glibc()


def _allocated() -> int:
    """The bytes that this process has allocated; 0 where it cannot know."""
    if _mallinfo2 is None:
        return 0
    memory = _mallinfo2()
    return int(memory.hblkhd + memory.uordblks)
