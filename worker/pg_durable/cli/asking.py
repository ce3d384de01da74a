"""What the commands share that ask a database: the connection, and how an error of the server is told."""

from typing import Any

import psycopg
from psycopg import errors

MISSING = (errors.InvalidSchemaName, errors.UndefinedTable, errors.UndefinedFunction)
EXCERPT = 72  # characters shown of the line in which an error is


def connect(dsn: str, **options: Any) -> psycopg.Connection[Any]:
    """The connection of a command; what `dsn` leaves out libpq takes from the PG* variables."""
    settings: dict[str, Any] = {
        "autocommit": True,
        "client_encoding": "utf8",
        "fallback_application_name": "pg-durable",
    }
    return psycopg.connect(dsn, **(settings | options))


def explained(error: psycopg.Error) -> str:
    """Message, place, detail and hint. Where in the engine it was raised helps nobody who typed a command."""
    diag = error.diag
    if not diag.message_primary:
        return str(error).strip()
    hint = diag.message_hint or remedy(error)
    return "\n".join(line for line in (diag.message_primary, place(diag), diag.message_detail, hint) if line)


def remedy(error: psycopg.Error) -> str | None:
    """The hint that the server cannot give: about schema df as a whole."""
    if isinstance(error, MISSING) and not error.diag.internal_query:
        return "Is pg_durable installed in this database?"
    if isinstance(error, errors.InsufficientPrivilege) and "schema df" in str(error.diag.message_primary):
        return "Whoever installed pg_durable can let a role use it: SELECT df.grant_usage('role')"
    return None


def place(diag: errors.Diagnostic) -> str | None:
    """The line of the user's own SQL in which the error is, and a mark below it."""
    if not diag.internal_query or not diag.internal_position:
        return None
    before, after = diag.internal_query[: (at := int(diag.internal_position) - 1)], diag.internal_query[at:]
    start = before.rpartition("\n")[2][-EXCERPT // 2 :]
    line = start + after.partition("\n")[0][: EXCERPT // 2]
    return f"{line}\n{' ' * len(start)}^"
