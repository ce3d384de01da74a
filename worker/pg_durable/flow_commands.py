"""`pg-durable start`, `fmt` and `explain`: flows from files, which the database reads; here is what a shell needs."""

import argparse
import sys
from pathlib import Path
from typing import Any

import psycopg

WAIT_SECONDS = 3600

SET_VARIABLE = "select df.setvar(%s, %s)"
START = "select df.start(df.flow(%s), %s)"
AWAIT = "select df.await_instance(%s, %s)"
RESULT = "select status, df.result(id), error from df.instances where id = %s"
COMMENTS = "select df_engine.flow_comments(%s)"
FORMAT = "select df.to_flow(df.flow(%s))"
EXPLAIN_FLOW = "select df.explain(df.flow(%s))"
EXPLAIN_RUN = "select df.explain(%s)"


def register(subparsers: Any) -> None:
    """Adds the sub-commands."""
    start = subparsers.add_parser("start", help="start the flow in a file", description="Starts the flow in a file.")
    start.add_argument("file", type=Path, metavar="FILE.flow")
    start.add_argument("--label", help="the label of the run")
    start.add_argument(
        "--var", action="append", default=[], type=variable, metavar="K=V", help="a variable; repeatable"
    )
    start.add_argument("--wait", action="store_true", help="wait for the end and print the result; exit 1 on failure")
    fmt = subparsers.add_parser(
        "fmt", help="write a flow in its canonical form", description="Formats a file in place."
    )
    fmt.add_argument("file", type=Path, metavar="FILE.flow")
    fmt.add_argument("--check", action="store_true", help="write nothing; exit 1 when the file would change")
    fmt.add_argument("--drop-comments", action="store_true", help="format a file with comments, which are lost")
    explain = subparsers.add_parser("explain", help="draw a flow or a run", description="Draws a flow or a run.")
    explain.add_argument("what", metavar="FILE.flow|ID")
    for command, run in ((start, run_start), (fmt, run_fmt), (explain, run_explain)):
        command.add_argument("--dsn", default="", help="the database; what is left out libpq takes from PG*")
        command.set_defaults(run=run)


def variable(text: str) -> tuple[str, str]:
    """Reads K=V."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form K=V")
    return name, value


def ask(conn: psycopg.Connection[Any], statement: str, *arguments: Any) -> Any:
    """The one row of a statement; its value when it has one column."""
    row = conn.execute(statement.encode(), arguments).fetchone()
    return row[0] if row and len(row) == 1 else row


def read(path: Path) -> str:
    return path.read_bytes().decode()


def run_start(arguments: argparse.Namespace) -> int:
    """Starts the flow, with its variables, in one transaction."""
    with psycopg.connect(arguments.dsn, autocommit=True) as conn:
        with conn.transaction():
            for name, value in arguments.var:
                ask(conn, SET_VARIABLE, name, value)
            instance = ask(conn, START, read(arguments.file), arguments.label)
        sys.stdout.write(f"{instance}\n")
        sys.stdout.flush()
        return outcome(conn, instance) if arguments.wait else 0


def outcome(conn: psycopg.Connection[Any], instance: str) -> int:
    """Waits for the end of a run and says what it was."""
    ask(conn, AWAIT, instance, WAIT_SECONDS)
    status, result, error = ask(conn, RESULT, instance)
    if status == "completed":
        sys.stdout.write(f"{result}\n")
        return 0
    sys.stderr.write(f"{status}: {error}\n")
    return 1


def run_fmt(arguments: argparse.Namespace) -> int:
    """Rewrites the file, or says whether it would; a file with comments only when told so."""
    text = read(arguments.file)
    with psycopg.connect(arguments.dsn, autocommit=True) as conn:
        if not arguments.drop_comments and ask(conn, COMMENTS, text) > 0:
            sys.stderr.write(f"{arguments.file} has comments, which formatting loses; --drop-comments allows it\n")
            return 2
        formatted = ask(conn, FORMAT, text) + "\n"
    if formatted == text:
        return 0
    if arguments.check:
        sys.stderr.write(f"{arguments.file} is not formatted\n")
        return 1
    arguments.file.write_bytes(formatted.encode())
    return 0


def run_explain(arguments: argparse.Namespace) -> int:
    """Draws the flow in a file, or the run with an id."""
    path = Path(arguments.what)
    with psycopg.connect(arguments.dsn, autocommit=True) as conn:
        drawn = ask(conn, EXPLAIN_FLOW, read(path)) if path.exists() else ask(conn, EXPLAIN_RUN, arguments.what)
    sys.stdout.write(f"{drawn}\n")
    return 0
