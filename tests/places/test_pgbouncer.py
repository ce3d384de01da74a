"""Clients behind PgBouncer in transaction mode, the worker connected directly."""

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.cluster import Cluster, free_port
from tests.places.conftest import MakeCluster, Spawn, home
from tests.support import Database, wait_until
from tests.worker.process import await_end

CONFIGURATION = """
[databases]
postgres = host={home} pool_size=1
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {home}/users
pool_mode = transaction
logfile = {home}/pgbouncer.log
"""


def serve(cluster: Cluster, program: str) -> tuple[subprocess.Popen[bytes], str]:
    """PgBouncer before the server, with one connection to it for each role; and how to reach it."""
    port = free_port()
    for name, text in [("pgbouncer.ini", CONFIGURATION.format(home=cluster.home, port=port)), ("users", '"app" ""\n')]:
        path = cluster.home / name
        path.write_text(text)
        cluster.own(path)
    user = "nobody" if os.geteuid() == 0 else None
    process = subprocess.Popen([program, "-q", str(cluster.home / "pgbouncer.ini")], user=user, cwd="/")
    return process, f"host=127.0.0.1 port={port} dbname=postgres user=app"


@pytest.fixture
def bouncer(make: MakeCluster) -> Iterator[tuple[Database, str]]:
    """The database, reached directly; and the connection string of its clients."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")
    if program is None:
        pytest.skip("PgBouncer is not installed (apt-get install pgbouncer)")
    cluster = make()
    db = home(cluster)
    process, dsn = serve(cluster, program)
    wait_until(lambda: answers(dsn), what="PgBouncer")
    yield db, dsn
    process.terminate()
    process.wait(10)


def answers(dsn: str) -> bool:
    try:
        psycopg.connect(dsn, prepare_threshold=None).close()
    except psycopg.OperationalError:
        return False
    return True


def test_everything_a_client_does_works_in_transaction_mode(bouncer: tuple[Database, str], spawn: Spawn) -> None:
    direct, dsn = bouncer
    spawn(direct)
    client = Client(dsn)
    assert client.ask("select pg_backend_pid()") == Client(dsn).ask("select pg_backend_pid()"), (
        "one session for two clients"
    )
    client.ask("select df.setvar('who', 'kim')")
    run = client.ask(
        "select df.start('select ''{who}'' as who' |=> 'n' ~> df.wait_for_signal('go') ~> 'select ''$n'' as n')"
    )
    wait_until(lambda: client.ask("select count(*) from df.waiting"))
    assert client.ask("select df.status(%s)", run) == "running"
    assert "SIGNAL 'go'" in client.ask("select df.explain(%s)", run)
    assert client.ask("select count(*) from df.list_instances()") == 1
    assert client.ask("select count(*) from df.instance_nodes(%s)", run) == 5
    client.ask("select df.signal(%s, 'go', '1')", run)
    assert await_end(direct, run) == "completed"
    assert '{"n": "kim"}' in client.ask("select df.result(%s)", run)
    doomed = client.ask("select df.start(df.sleep(600))")
    client.ask("select df.cancel(%s, 'enough')", doomed)
    assert client.ask("select df.status(%s)", doomed) == "cancelled"


def test_a_client_awaits_a_run_through_its_pool(bouncer: tuple[Database, str], spawn: Spawn) -> None:
    direct, dsn = bouncer
    spawn(direct)
    run = Client(dsn).ask("select df.start('select pg_sleep(0.3)' ~> 'select 42 as n')")
    answer: list[Any] = []
    waiter = threading.Thread(target=lambda: answer.append(Client(dsn).ask("select df.await_instance(%s)", run)))
    waiter.start()
    waiter.join(15)
    assert answer == ["completed"]


class Client:
    """What an application has: a connection on which nothing is prepared."""

    def __init__(self, dsn: str) -> None:
        self._conn = psycopg.connect(dsn, autocommit=True, prepare_threshold=None)

    def ask(self, query: str, *args: Any) -> Any:
        """The first column of the first row."""
        row = self._conn.execute(query.encode(), args or None).fetchone()
        return row[0] if row else None
