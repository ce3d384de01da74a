"""How the worker reaches the database: as itself, and as each role whose steps it runs."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Conninfo

from pg_durable.errors import CommandError
from pg_durable.sessions.bounded import BoundedConnection
from pg_durable.step_settings import STEP_SETTINGS

# What the engine relies on.
TRANSACTION_SETTINGS = {
    "default_transaction_isolation": r"read\ committed",
    "default_transaction_read_only": "off",
    "standard_conforming_strings": "on",
}

# A worker keeps its sessions open between calls: what a role or a database sets for idle sessions must not end them.
IDLE_SETTINGS = {"idle_session_timeout": "0", "idle_in_transaction_session_timeout": "0"}

# The network is gone: the server notices within a minute, too. Without effect where there is no network.
SERVER_KEEPALIVES = {
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "50s",
}

# The supervising connection serves all roles: should the engine have it wait for a lock that a user holds, it gives up.
SUPERVISOR_SETTINGS = (
    TRANSACTION_SETTINGS | IDLE_SETTINGS | SERVER_KEEPALIVES | {"lock_timeout": "1s", "statement_timeout": "0"}
)

# Collecting metrics waits for nobody, and takes no long time.
COLLECTOR_SETTINGS = SUPERVISOR_SETTINGS | {"statement_timeout": "3s"}

# Of servers that know it, from 17 on.
NO_TRANSACTION_TIMEOUT = {"transaction_timeout": "0"}

# Of the sessions in which steps run; RESET ALL comes back to these.
SESSION_SETTINGS = (
    STEP_SETTINGS
    | IDLE_SETTINGS
    | SERVER_KEEPALIVES
    | {"client_connection_check_interval": "500ms"}  # a step whose worker died is rolled back, not finished hours later
)

# A connection that has gone silent is noticed within a minute.
CONNECTION_DEFAULTS = {
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "50000",
    "target_session_attrs": "read-write",
    "application_name": "pg_durable worker",
}


ROLE = "{role}"


class Login:
    """The worker's connection string, as given, and derived from it the one of any other role.

    `login_format` is the user name with which a role logs in, where that is not the role alone.
    """

    def __init__(self, dsn: str, login_format: str = ROLE) -> None:
        self._format = login_format
        self._own = CONNECTION_DEFAULTS | {k: str(v) for k, v in conninfo_to_dict(dsn).items() if v is not None}
        self._home: dict[str, str] = {}
        self._newer: dict[str, str] = {}  # settings that the server is known to have
        self._me = ""

    async def supervisor(self) -> psycopg.AsyncConnection[Any]:
        """Opens the supervising connection, and learns from it who and where the worker is."""
        conn = await self._connect(self._with_settings(self._own, SUPERVISOR_SETTINGS | self._newer))
        if conn.info.server_version >= 170000 and not self._newer:
            self._newer = NO_TRANSACTION_TIMEOUT
            await conn.close()
            return await self.supervisor()
        self._me = conn.info.user
        self._home = {"dbname": conn.info.dbname}
        return conn

    async def collector(self) -> psycopg.AsyncConnection[Any]:
        """Opens the connection of the metrics collector."""
        own = self._own | {"application_name": "pg_durable collector"}
        return await self._connect(self._with_settings(own, COLLECTOR_SETTINGS | self._newer))

    async def role(self, role: str, database: str | None = None) -> BoundedConnection:
        """Opens a session logged in as `role`, in the home database or another one."""
        parameters: dict[str, Any] = self.for_role(role, database)
        return await BoundedConnection.connect("", autocommit=True, prepare_threshold=None, **parameters)

    def for_role(self, role: str, database: str | None = None) -> dict[str, str]:
        """The connection parameters of a role: the worker's with the user replaced and its password left out."""
        settings = SESSION_SETTINGS | TRANSACTION_SETTINGS
        user = self._format.replace(ROLE, role)
        arguments = self._with_settings(self._own, settings) | self._home | {"user": user}
        if user != self._me:
            # Empty, not absent: libpq then asks the password file, and neither PGPASSWORD nor the service file.
            arguments["password"] = ""
        if database is not None:
            arguments["dbname"] = database
        return arguments

    @property
    def database(self) -> str:
        """The home database, once connected."""
        return self._home.get("dbname", "")

    def at_home(self, database: str | None) -> bool:
        """Whether a database is the one in which df is installed."""
        return database is None or database == self.database

    @staticmethod
    def _with_settings(arguments: dict[str, str], settings: dict[str, str]) -> dict[str, str]:
        options = [arguments.get("options", ""), *(f"-c {name}={value}" for name, value in settings.items())]
        return arguments | {"options": " ".join(options).strip(), "client_encoding": "UTF8"}

    @staticmethod
    async def _connect(arguments: dict[str, str]) -> psycopg.AsyncConnection[Any]:
        parameters: dict[str, Any] = {**arguments}
        return await psycopg.AsyncConnection.connect("", autocommit=True, prepare_threshold=None, **parameters)


def names(dsns: Sequence[str]) -> list[str]:
    """What the databases of a worker are called in its log and its metrics: as they are, where that is not enough with
    host and port."""
    short, long = zip(*map(_names, dsns), strict=True)
    often = Counter(short)
    found = [a if often[a] == 1 else b for a, b in zip(short, long, strict=True)]
    for name in found:
        if found.count(name) > 1:
            raise CommandError(f"two of the connection strings are of the same database: {name}")
    return found


def _names(dsn: str) -> tuple[str, str]:
    defaults = {option.keyword.decode(): option.val.decode() for option in Conninfo.get_defaults() if option.val}
    given = {key: str(value) for key, value in conninfo_to_dict(dsn).items() if value}
    known = defaults | given
    service = given.get("service") if "dbname" not in given else None
    name = service or known.get("dbname") or known.get("user", "")
    where = known.get("host") or known.get("hostaddr") or "local"
    return name, f"{where}:{known.get('port', '5432')}/{name}"


def reason(error: BaseException) -> str:
    """Why a login failed, in the server's words where it got that far, on one line."""
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        return error.diag.message_primary
    for line in reversed(str(error).splitlines()):
        _, refused, why = line.partition("FATAL: ")
        if refused:
            return why.strip()
    return " ".join(str(error).split()) or type(error).__name__
