"""A worker behind a pooler that wants user names like app.shop, and logs in at the server as app."""

import asyncio
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest
from pg_durable import cli

from tests.cluster import Cluster
from tests.places.conftest import MakeCluster, home
from tests.support import wait_until
from tests.worker.process import WorkerProcess, run

PROTOCOL_3 = 196608


class Pooler:
    """In place of one: takes the project from the user name of each start-up message, and hands on all else."""

    def __init__(self, cluster: Cluster) -> None:
        self._socket = f"{cluster.home}/.s.PGSQL.5432"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        listening = asyncio.start_server(self._serve, "127.0.0.1", 0)
        server = asyncio.run_coroutine_threadsafe(listening, self._loop).result(10)
        self.port = server.sockets[0].getsockname()[1]
        self.users: set[str] = set()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length, code = struct.unpack("!ii", await reader.readexactly(8))
        rest = await reader.readexactly(length - 8)
        if code == PROTOCOL_3:
            named = rest.split(b"\0")
            place = named.index(b"user") + 1
            self.users.add(named[place].decode())
            named[place], _, project = named[place].partition(b".")
            if project != b"shop":
                writer.close()
                return
            rest = b"\0".join(named)
        server_reader, server_writer = await asyncio.open_unix_connection(self._socket)
        server_writer.write(struct.pack("!ii", len(rest) + 8, code) + rest)
        await asyncio.gather(self._copy(reader, server_writer), self._copy(server_reader, writer))

    @staticmethod
    async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()


@pytest.fixture
def pooled(make: MakeCluster) -> Iterator[tuple[Cluster, Pooler]]:
    cluster = make()
    pooler = Pooler(cluster)
    yield cluster, pooler
    pooler.close()


@pytest.mark.slow
def test_roles_log_in_with_the_user_names_that_a_pooler_wants(pooled: tuple[Cluster, Pooler]) -> None:
    cluster, pooler = pooled
    db = home(cluster)
    place = (
        f"host=127.0.0.1 port={pooler.port} dbname=postgres user=durable_worker.shop sslmode=disable gssencmode=disable"
    )
    worker = WorkerProcess(db, "--login-format", "{role}.shop", dsn=place)
    try:
        who = run(db, "'select session_user::text as who' ~> 'select session_user::text as who'", 30)
        assert who["rows"] == [{"who": "app"}]
        db.admin("select df.grant_usage('durable_worker')")
        assert (
            run(db, "'select session_user::text as who'", 30, user="durable_worker")["rows"][0]["who"]
            == "durable_worker"
        )
        wait_until(lambda: pooler.users == {"durable_worker.shop", "app.shop"})
        assert worker.stop() == 0
    finally:
        worker.kill()


def test_a_format_without_the_role_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.parser().parse_args(["worker", "--login-format", "x"])
    assert "'x' does not contain {role}" in capsys.readouterr().err
