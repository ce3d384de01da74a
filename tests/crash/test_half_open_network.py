"""A network that swallows everything and says nothing: both sides notice, and go on when it is back."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pg_durable.embedded import server as embedded

from tests.support import wait_until
from tests.worker.process import WorkerProcess, await_end, own_database, start

HERE, THERE = "10.199.77.1", "10.199.77.2"
NAMESPACE, OURS, THEIRS = "pgd-half-open", "pgd-here", "pgd-there"
NOBODY = "02:00:00:00:00:99"
PORT = 54977
# The worker's own are longer, and tested in tests/worker/test_login_settings.py.
SOON = (
    "keepalives_idle=1 keepalives_interval=1 keepalives_count=3 tcp_user_timeout=4000 connect_timeout=5 "
    "options='-c tcp_keepalives_idle=1 -c tcp_keepalives_interval=1 -c tcp_keepalives_count=3 -c tcp_user_timeout=4s'"
)


def ip(*arguments: str, check: bool = True) -> None:
    subprocess.run(["ip", *arguments], check=check, capture_output=True)


class Network:
    """A pair of virtual interfaces, one of them in a namespace of its own."""

    def __enter__(self) -> "Network":
        ip("netns", "add", NAMESPACE)
        ip("link", "add", OURS, "type", "veth", "peer", "name", THEIRS, "netns", NAMESPACE)
        ip("addr", "add", f"{HERE}/24", "dev", OURS)
        ip("link", "set", OURS, "up")
        ip("-n", NAMESPACE, "addr", "add", f"{THERE}/24", "dev", THEIRS)
        ip("-n", NAMESPACE, "link", "set", THEIRS, "up")
        return self

    def __exit__(self, *_: object) -> None:
        ip("netns", "del", NAMESPACE, check=False)
        ip("link", "del", OURS, check=False)

    def cut(self) -> None:
        """What is sent goes to a card that nobody has, in both directions."""
        ip("neigh", "replace", THERE, "lladdr", NOBODY, "dev", OURS, "nud", "permanent")
        ip("-n", NAMESPACE, "neigh", "replace", HERE, "lladdr", NOBODY, "dev", THEIRS, "nud", "permanent")

    def heal(self) -> None:
        ip("neigh", "del", THERE, "dev", OURS)
        ip("-n", NAMESPACE, "neigh", "del", HERE, "dev", THEIRS)


@pytest.fixture
def network() -> Iterator[Network]:
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("needs root and ip(8)")
    try:
        with Network() as network:
            yield network
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")


class FarWorker(WorkerProcess):
    """In the namespace."""

    prefix = ("ip", "netns", "exec", NAMESPACE)


def test_both_sides_notice_that_the_network_is_gone(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "LOOPBACK", HERE)
    home = Path(tempfile.mkdtemp(prefix="pgd-", dir="/tmp"))
    home.chmod(0o755)
    with embedded.EmbeddedServer(home / "data", 18, {"fsync": "off"}, port=PORT) as server:
        with (home / "data" / "pg_hba.conf").open("a") as hba:
            hba.write(f"host all all {HERE}/24 trust\n")
        db = own_database(server)
        db.admin("select pg_reload_conf()")
        worker = FarWorker(db, dsn=f"host={HERE} port={PORT} dbname={db.name} user=durable_worker {SOON}")
        try:
            assert await_end(db, start(db, "'select 1'"), 30) == "completed"
            held = start(db, "'select pg_sleep(5)' ~> 'select 2'")
            wait_until(lambda: db.admin("select count(*) from df.running_steps"), what="the step to run")
            network.cut()
            worker.logged("not connected", 90)
            here = "select count(*) from pg_stat_activity where client_addr = %s"
            wait_until(lambda: db.admin(here, THERE) == 0, 90, "the server to notice")
            network.heal()
            assert await_end(db, held, 60) == "completed"
            assert await_end(db, start(db, "'select 1'"), 30) == "completed"
        finally:
            worker.kill()
    shutil.rmtree(home, ignore_errors=True)
