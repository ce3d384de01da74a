"""How the worker reaches the database: as itself, and as each role whose steps it runs."""

from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

# What every step may rely on, whatever the role's defaults are; RESET ALL comes back to these.
SESSION_SETTINGS = {
    "TimeZone": "UTC",
    "DateStyle": "ISO,MDY",
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "standard_conforming_strings": "on",
    "df.in_workflow": "true",
    "default_transaction_isolation": r"read\ committed",
    "default_transaction_read_only": "off",
    "client_connection_check_interval": "2s",  # a step whose worker died is rolled back, not finished hours later
}

# A connection that has gone silent is noticed within a minute.
CONNECTION_DEFAULTS = {
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "application_name": "pg_durable worker",
}


class Login:
    """The worker's connection string, as given, and derived from it the one of any other role."""

    def __init__(self, dsn: str) -> None:
        self._own = CONNECTION_DEFAULTS | {k: str(v) for k, v in conninfo_to_dict(dsn).items() if v is not None}
        self._home: dict[str, str] = {}
        self._me = ""

    async def supervisor(self) -> psycopg.AsyncConnection[Any]:
        """Opens the supervising connection, and learns from it who and where the worker is."""
        conn = await psycopg.AsyncConnection.connect("", autocommit=True, prepare_threshold=None, **self._arguments())
        self._me = conn.info.user
        self._home = {"dbname": conn.info.dbname}
        return conn

    async def role(self, role: str, database: str | None = None) -> psycopg.AsyncConnection[Any]:
        """Opens a session logged in as `role`, in the home database or another one."""
        return await psycopg.AsyncConnection.connect(
            "", autocommit=True, prepare_threshold=None, **self.for_role(role, database)
        )

    def for_role(self, role: str, database: str | None = None) -> dict[str, Any]:
        """The connection parameters of a role: the worker's with the user replaced and its password left out."""
        arguments = self._arguments() | self._home
        settings = " ".join(f"-c {name}={value}" for name, value in SESSION_SETTINGS.items())
        arguments |= {"user": role, "options": f"{arguments.get('options', '')} {settings}".strip()}
        if role != self._me:
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

    def _arguments(self) -> dict[str, Any]:
        return self._own | {"client_encoding": "UTF8"}


def reason(error: BaseException) -> str:
    """Why a login failed, in the server's words where it got that far, on one line."""
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        return error.diag.message_primary
    for line in reversed(str(error).splitlines()):
        _, refused, why = line.partition("FATAL: ")
        if refused:
            return why.strip()
    return " ".join(str(error).split()) or type(error).__name__
