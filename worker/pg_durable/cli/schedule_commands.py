"""The schedules of a database, from a terminal: `pg-durable schedules [ticks | pause | resume | trigger NAME]`."""

import argparse
from typing import Any

from pg_durable.cli import operator_statements as statements
from pg_durable.cli.operator_commands import Connection, add, answer, present, rows
from pg_durable.cli.operator_screen import table
from pg_durable.errors import CommandError

ACTS = {
    "pause": statements.PAUSE_SCHEDULE,
    "resume": statements.RESUME_SCHEDULE,
    "trigger": statements.TRIGGER_SCHEDULE,
}


def register(subparsers: Any) -> None:
    """Adds the sub-command."""
    command = add(subparsers, "schedules", schedules, "schedules: what is next, and what came of the last time")
    command.add_argument("act", nargs="?", choices=("ticks", *ACTS), help="show, or do something with, one of them")
    command.add_argument("name", nargs="?", help="its name")
    command.add_argument("--owner", help="whose it is; default: the role that logs in. For administrators")
    command.add_argument("--reason", help="of a pause: shown as why nothing comes of it")


def schedules(conn: Connection, arguments: argparse.Namespace) -> int:
    """`pg-durable schedules`"""
    asked = {"name": arguments.name, "owner": arguments.owner, "reason": arguments.reason}
    if arguments.act and arguments.name is None:
        raise CommandError(f"schedules {arguments.act} needs the name of a schedule")
    if arguments.act in ACTS:
        return answer(arguments, rows(conn, ACTS[arguments.act], **asked))
    found = rows(conn, statements.TICKS if arguments.act else statements.SCHEDULES, **asked)
    present(arguments, found, lambda: table(found))
    return 0
