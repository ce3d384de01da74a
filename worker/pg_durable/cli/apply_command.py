"""`pg-durable apply`: defines each flow of a folder under the name of its file, all of them or none.

The comment of a definition is the one with which its file begins. What has no file is left as it is.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

import psycopg

from pg_durable.cli.asking import connect, explained
from pg_durable.cli.flow_commands import ask, read
from pg_durable.errors import CommandError
from pg_durable.printing import complain, say, say_json

NEWEST = """
select d.version, coalesce(d.comment, '') from df.definitions d
where d.name = %s and d.owner = coalesce(quote_ident(%s), quote_ident(current_user))::regrole
order by d.version desc limit 1"""
DEFINE = "select df.define(%s, df.flow(%s), %s, quote_ident(%s)::regrole)"
LEADING = re.compile(r"\s*(?:/\*(?P<block>.*?)\*/|(?P<lines>(?:[ \t]*--[^\n]*(?:\n|$))+))", re.DOTALL)
CHANGES = ("new", "changed", "comment", "same")


def register(subparsers: Any) -> None:
    """Adds the sub-command."""
    command = subparsers.add_parser("apply", help="define the flows of a folder", description=__doc__)
    command.add_argument("folder", type=Path, metavar="FOLDER", help="with a file NAME.flow for each definition")
    command.add_argument("--owner", metavar="ROLE", help="whose runs use them; default: the role that the command is")
    command.add_argument(
        "--check", action="store_true", help="change nothing; exit 1 when there is something to change"
    )
    command.add_argument("--json", action="store_true", help="print JSON")
    command.add_argument("--dsn", default="", help="the database; what is left out libpq takes from PG*")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Defines what is new or has changed, and says what that is."""
    if not arguments.folder.is_dir():
        raise CommandError(f"{arguments.folder} is no folder")
    files = sorted(arguments.folder.glob("*.flow"))
    if not files:
        raise CommandError(f"{arguments.folder} has no file whose name ends with .flow; folders in it are not read")
    done: list[dict[str, Any]] = []
    failed = 0
    with connect(arguments.dsn) as conn, conn.transaction(force_rollback=arguments.check) as whole:
        for file in files:
            try:
                with conn.transaction():
                    done.append(define(conn, file.stem, read(file), arguments.owner))
            except psycopg.Error as error:
                failed += 1
                complain(f"{file}: {explained(error)}")
        if failed:
            raise psycopg.Rollback(whole)
    if failed:
        raise CommandError(f"nothing was defined: {failed} of {len(files)} files cannot be")
    show(done, arguments.json)
    return int(arguments.check and any(each["change"] != "same" for each in done))


def define(conn: psycopg.Connection[Any], name: str, text: str, owner: str | None) -> dict[str, Any]:
    """Defines one flow; its version, and what has changed."""
    comment = leading_comment(text)
    before = ask(conn, NEWEST, name, owner)
    version = ask(conn, DEFINE, name, text, comment, owner)
    if before is None:
        change = "new"
    elif version != before[0]:
        change = "changed"
    else:
        change = "same" if comment == before[1] else "comment"
    return {"name": name, "version": version, "change": change}


def leading_comment(text: str) -> str:
    """The comment with which a flow begins, without its signs."""
    found = LEADING.match(text)
    if not found:
        return ""
    lines = (found["block"] or found["lines"]).splitlines()
    return "\n".join(re.sub(r"^\s*(--|\*)?\s?", "", line).rstrip() for line in lines).strip()


def show(done: list[dict[str, Any]], as_json: bool) -> None:
    """A line a definition."""
    if as_json:
        say_json(json.dumps(done))
        return
    for each in done:
        say(f"{each['change']:8} {each['name']}:{each['version']}")
