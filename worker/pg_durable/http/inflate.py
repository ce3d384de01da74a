"""Content-Encoding gzip and deflate, undone in bounded pieces: a small body can stand for a huge one."""

import zlib
from collections.abc import Iterator
from typing import Protocol

PIECE = 64 * 1024


class Decoder(Protocol):
    """Undoes an encoding while the body arrives."""

    def decode(self, data: bytes) -> Iterator[bytes]:
        """Pieces of the decoded body; raises zlib.error when the body is not what it claims to be."""
        ...

    def finish(self) -> None:
        """Raises zlib.error when the body ended too early."""
        ...


class Identity:
    """No encoding, or one that the caller asked for and gets as it is."""

    def decode(self, data: bytes) -> Iterator[bytes]:
        yield data

    def finish(self) -> None:
        pass


class Inflate:
    """gzip, with any number of members, or deflate, with or without its wrapper."""

    def __init__(self) -> None:
        self._inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)
        self._fresh = True
        self._whole = True

    def decode(self, data: bytes) -> Iterator[bytes]:
        full = False
        while data or full:
            self._whole = False
            piece = self._piece(data)
            yield piece
            full = len(piece) == PIECE
            data = self._inflater.unconsumed_tail
            if self._inflater.eof:
                data = self._inflater.unused_data
                self._inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)
                full, self._whole = False, True

    def finish(self) -> None:
        if not self._whole:
            raise zlib.error("the body ended too early")

    def _piece(self, data: bytes) -> bytes:
        try:
            return self._inflater.decompress(data, PIECE)
        except zlib.error:
            if not self._fresh:
                raise
            self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
            return self._inflater.decompress(data, PIECE)
        finally:
            self._fresh = False


def decoder_for(content_encoding: str) -> Decoder:
    """The decoder of a response with this Content-Encoding."""
    return Inflate() if content_encoding.strip().lower() in ("gzip", "x-gzip", "deflate") else Identity()
