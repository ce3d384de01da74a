"""`pg-durable install`: installs or upgrades schema df in a database, without psql."""

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

from pg_durable import statements
from pg_durable.cli.asking import connect
from pg_durable.printing import say, say_json

PACKAGE = Path(__file__).resolve().parent.parent


class Installed(NamedTuple):
    """What is there now, and that in words."""

    version: str
    database: str
    text: str


def register(subparsers: Any) -> None:
    """Adds the sub-command."""
    command = subparsers.add_parser("install", help="install or upgrade pg_durable in a database", description=__doc__)
    command.add_argument("--dsn", default="", help="the database, as a role that may create a schema in it")
    command.add_argument("--operator-schema", default="public", metavar="SCHEMA", help="where the operators go")
    command.add_argument("--worker-role", default="", metavar="ROLE", help="a role to authorise as worker")
    command.add_argument("--json", action="store_true", help="print JSON: version and database")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Installs and says so."""
    installed = install(arguments.dsn, arguments.operator_schema, arguments.worker_role)
    if arguments.json:
        say_json(json.dumps({"version": installed.version, "database": installed.database}))
    else:
        say(installed.text)
    return 0


def script() -> str:
    """The installer: carried by the package, or in the source tree around it."""
    packaged = PACKAGE / "pg_durable.sql"
    path = packaged if packaged.exists() else PACKAGE.parent.parent / "dist" / "pg_durable.sql"
    return path.read_bytes().decode()


def install(dsn: str, operator_schema: str = "public", worker_role: str = "") -> Installed:
    """Runs the installer in one transaction. Its head, which is for psql, only sets what is set here."""
    body = script().split("\n-- body\n", 1)[1].rsplit("commit;", 1)[0]
    with connect(dsn, autocommit=False) as conn:
        conn.execute(statements.INSTALL_OPTIONS, [operator_schema, worker_role])
        conn.execute(body.encode())
        row = conn.execute(statements.INSTALLED).fetchone()
    return Installed(*(row or ("", "", "")))
