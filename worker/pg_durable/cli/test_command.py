"""`pg-durable test`: runs a flow to its end with df.test, in virtual time, and undoes all it has done."""

import argparse
from pathlib import Path
from typing import Any

from pg_durable.cli.flow_commands import read, read_input
from pg_durable.cli.operator_commands import Connection, add, present, rows
from pg_durable.cli.operator_screen import table
from pg_durable.printing import complain

# What is tested, a flow or the name of a definition, and with what.
TEST_FLOW = """
select no, at, node, query, status, value, error
from df.test(df.flow(%(what)s), %(input)s::jsonb, %(mocks)s::jsonb, %(steps)s) order by no"""
TEST_DEFINITION = """
select no, at, node, query, status, value, error
from df.test(%(what)s, %(input)s::jsonb, %(mocks)s::jsonb, %(steps)s) order by no"""
MOST_MOVES = 10000


def register(subparsers: Any) -> None:
    """Adds the sub-command."""
    command = add(subparsers, "test", test, "run a flow in virtual time, and undo it")
    command.add_argument("what", metavar="FILE.flow|@NAME", help="the file, or the definition: @bill, or @bill:3")
    command.add_argument("--input", type=Path, metavar="FILE", help="a file with the JSON of its input; - is stdin")
    command.add_argument("--mocks", type=Path, metavar="FILE", help="a file with the JSON of its mocks; - is stdin")
    command.add_argument(
        "--steps", type=int, default=MOST_MOVES, metavar="N", help=f"the most moves; default {MOST_MOVES}"
    )


def test(conn: Connection, arguments: argparse.Namespace) -> int:
    """`pg-durable test`: 1 when the run does not complete."""
    named = arguments.what.startswith("@")
    given = {
        "what": arguments.what if named else read(Path(arguments.what)),
        "input": read_input(arguments.input),
        "mocks": read_input(arguments.mocks),
        "steps": arguments.steps,
    }
    with conn.transaction(force_rollback=True):
        found = rows(conn, TEST_DEFINITION if named else TEST_FLOW, **given)
    present(arguments, found, lambda: table([shown(row) for row in found]))
    status, error = found[-1]["status"], found[-1]["error"]
    if status != "completed" and not arguments.json:
        complain(f"{status}: {error or f'after {arguments.steps} moves'}")
    return int(status != "completed")


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """A row for people: what a step returned, or its error, in one column; the last is the run."""
    return {
        "at": row["at"],
        "status": row["status"],
        "step": row["node"] or "the run",
        "outcome": row["error"] if row["status"] == "failed" else row["value"],
    }
