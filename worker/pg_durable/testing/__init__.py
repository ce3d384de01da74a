"""Tests of one's own flows: a server with a worker for a while; the fixture `durable` of pytest is in pytest_plugin.py.

with server() as durable:
    with Client(durable.dsn) as df:
        df.wait(df.start("'SELECT 1'"))
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pg_durable.dev.command import ADMIN, DATABASE, USER, WORKER, prepare
from pg_durable.embedded import EmbeddedServer
from pg_durable.testing.worker import worker

__all__ = ["Server", "server"]


@dataclass(frozen=True)
class Server:
    """How to connect: as who starts runs, as who administers them."""

    dsn: str
    admin_dsn: str


@contextmanager
def server(version: int | None = None) -> Iterator[Server]:
    """An embedded server with a new database, pg_durable installed, and a worker. It needs the extra dev-server."""
    with tempfile.TemporaryDirectory(prefix="pg-durable-") as home:
        Path(home).chmod(0o755)  # where this is root, the server is not
        with EmbeddedServer(Path(home) / "data", version, {"fsync": "off"}) as embedded:
            prepare(embedded)
            with worker(embedded.dsn(DATABASE, WORKER)):
                yield Server(embedded.dsn(DATABASE, USER), embedded.dsn(DATABASE, ADMIN))
