"""`pg-durable install`: installs or upgrades schema df in a database, without psql."""

import argparse
from pathlib import Path
from typing import Any

from pg_durable import statements
from pg_durable.cli.asking import connect
from pg_durable.printing import say

PACKAGE = Path(__file__).resolve().parent.parent


def register(subparsers: Any) -> None:
    """Adds the sub-command."""
    command = subparsers.add_parser("install", help="install or upgrade pg_durable in a database", description=__doc__)
    command.add_argument("--dsn", default="", help="the database, as a role that may create a schema in it")
    command.add_argument("--operator-schema", default="public", metavar="SCHEMA", help="where the operators go")
    command.add_argument("--worker-role", default="", metavar="ROLE", help="a role to authorise as worker")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Installs and says so."""
    installed = install(arguments.dsn, arguments.operator_schema, arguments.worker_role)
    say(installed)
    return 0


def script() -> str:
    """The installer: carried by the package, or in the source tree around it."""
    packaged = PACKAGE / "pg_durable.sql"
    path = packaged if packaged.exists() else PACKAGE.parent.parent / "dist" / "pg_durable.sql"
    return path.read_bytes().decode()


def install(dsn: str, operator_schema: str = "public", worker_role: str = "") -> str:
    """Runs the installer in one transaction. Its head, which is for psql, only sets what is set here."""
    body = script().split("\n-- body\n", 1)[1].rsplit("commit;", 1)[0]
    with connect(dsn, autocommit=False) as conn:
        conn.execute(statements.INSTALL_OPTIONS, [operator_schema, worker_role])
        conn.execute(body.encode())
        row = conn.execute(statements.INSTALLED).fetchone()
    return str(row[0]) if row else ""
