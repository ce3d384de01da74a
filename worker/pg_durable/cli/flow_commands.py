"""`pg-durable start`, `fmt` and `explain`: flows from files, which the database reads; here is what a shell needs."""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
from psycopg import IsolationLevel, errors

from pg_durable.cli.asking import connect
from pg_durable.errors import CommandError
from pg_durable.printing import complain, say, say_json

WAIT_SECONDS = 3600
MOST_TRIES = 10
NOTHING_DRAWN = ("Invalid durable function graph: ", "Instance '", "The expression is NULL")
NOT_UNDERSTOOD = "Nothing to explain"
DID_YOU_MEAN = re.compile(r"^There is a definition .*$", re.MULTILINE)

GET_VARIABLE = "select df.getvar(%s)"
SET_VARIABLE = "select df.setvar(%s, %s)"
UNSET_VARIABLE = "select df.unsetvar(%s)"
# What is started, a flow or the name of a definition, and how.
START_FLOW = """
select df.start(df.flow(%s), %s, database => %s, input => %s::jsonb, key => %s, on_conflict => %s,
                start_at => %s::timestamptz, priority => %s)"""
START_DEFINITION = """
select df.start(%s, %s, database => %s, input => %s::jsonb, key => %s, on_conflict => %s,
                start_at => %s::timestamptz, priority => %s)"""
AWAIT = "select df.await_instance(%s, %s)"
RESULT = """
select i.status, df.result(i.id), case when i.status = 'failed' then df_engine.cause(i.error) else i.error end
from df.instances i
where i.id = %s"""
COMMENTS = "select df_engine.flow_comments(%s)"
FORMAT = "select df.to_flow(df.flow(%s))"
EXPLAIN_FLOW = "select df.explain(df.flow(%s))"
EXPLAIN_RUN = "select df.explain(%s)"
SVG_FLOW = "select df.svg(df.flow(%s))"
SVG_RUN = "select df.svg(%s)"
# The newest runs that a run has called, oldest first.
CALLED = """
select c.id from (
  select i.id, i.created_at from df.instances i where i.parent_id = %s order by i.created_at desc, i.id desc limit %s) c
order by c.created_at, c.id"""
MOST_CALLED = 100


def register(subparsers: Any) -> None:
    """Adds the sub-commands."""
    start = subparsers.add_parser(
        "start",
        help="start a flow, from a file or by its name",
        description="Starts a flow, from a file or by its name.",
    )
    start.add_argument("what", metavar="FILE.flow|@NAME", help="the file, or the definition: @bill, or @bill:3")
    start.add_argument("--label", help="the label of the run")
    start.add_argument("--database", help="where its SQL steps run; default: the database that it is started in")
    start.add_argument("--input", type=Path, metavar="FILE", help="a file with the JSON of its input; - is stdin")
    start.add_argument("--key", help="start nothing while a run of this role has the key")
    start.add_argument(
        "--on-conflict", choices=("return", "error", "restart", "replace"), default="return",
        help="what is done then; default: return, which prints that run's id",
    )  # fmt: skip
    start.add_argument("--start-at", metavar="TIME", help="not before this time")
    start.add_argument("--priority", type=int, default=0, metavar="N", help="from -100 to 100; default 0")
    start.add_argument(
        "--var", action="append", default=[], type=variable, metavar="K=V", help="a variable of this run; repeatable"
    )
    start.add_argument(
        "--wait", action="store_true", help="wait for the end and print the result; Ctrl-C lets it go on"
    )
    start.add_argument("--json", action="store_true", help="print JSON: the id; with --wait also status, result, error")
    fmt = subparsers.add_parser(
        "fmt", help="write a flow in its canonical form", description="Formats a file in place."
    )
    fmt.add_argument("file", type=Path, metavar="FILE.flow")
    fmt.add_argument("--check", action="store_true", help="write nothing; exit 1 when the file would change")
    fmt.add_argument("--drop-comments", action="store_true", help="format a file with comments, which are lost")
    fmt.add_argument("--json", action="store_true", help="print JSON: whether it was formatted, and is written")
    explain = subparsers.add_parser("explain", help="draw a flow or a run", description="Draws a flow or a run.")
    explain.add_argument("what", metavar="FILE.flow|ID")
    explain.add_argument(
        "--deep", action="store_true", help=f"of a run, draw what it has called, too; of each the newest {MOST_CALLED}"
    )
    explain.add_argument("--json", action="store_true", help="print JSON: a list of what is drawn, each a text")
    explain.add_argument("--svg", type=Path, metavar="FILE", help="write a picture to a file; - is stdout")
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
    """A file that holds a flow, with or without a byte order mark."""
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise CommandError(f"{path} is not UTF-8: line {line} has the byte 0x{content[error.start]:02x}") from error
    if "\0" in text:
        raise CommandError(f"{path} is not text: it has NUL bytes")
    return text


def run_start(arguments: argparse.Namespace) -> int:
    """Starts the flow, and waits for its end when told so."""
    named = arguments.what.startswith("@")
    flow = arguments.what if named else read(Path(arguments.what))
    given = (
        flow, arguments.label, arguments.database, read_input(arguments.input), arguments.key, arguments.on_conflict,
        arguments.start_at, arguments.priority,
    )  # fmt: skip
    with connect(arguments.dsn) as conn:
        instance = start(conn, START_DEFINITION if named else START_FLOW, given, dict(arguments.var))
        if not (arguments.json and arguments.wait):
            say_json(json.dumps({"id": instance})) if arguments.json else say(instance)
        return outcome(conn, instance, arguments.json) if arguments.wait else 0


def read_input(path: Path | None) -> str | None:
    """The JSON of an input; what is none the server says."""
    if path is None:
        return None
    if str(path) == "-":
        return sys.stdin.read()
    return read(path)


def start(conn: psycopg.Connection[Any], statement: str, given: tuple[Any, ...], variables: dict[str, str]) -> str:
    """Starts a flow with variables that no other run sees: a run keeps those of its start, and the transaction puts
    back what there was before. It fails, and is tried again, when somebody else has changed one of them meanwhile."""
    conn.isolation_level = IsolationLevel.REPEATABLE_READ if variables else None
    for attempt in range(1, MOST_TRIES + 1):
        try:
            with conn.transaction():
                before = {name: ask(conn, GET_VARIABLE, name) for name in sorted(variables)}
                for name in before:
                    ask(conn, SET_VARIABLE, name, variables[name])
                instance = str(ask(conn, statement, *given))
                for name, value in before.items():
                    ask(conn, *((UNSET_VARIABLE, name) if value is None else (SET_VARIABLE, name, value)))
            break
        except errors.SerializationFailure:
            if attempt == MOST_TRIES:
                raise
    conn.isolation_level = None
    return instance


def outcome(conn: psycopg.Connection[Any], instance: str, as_json: bool = False) -> int:
    """Waits for the end of a run and says what it was."""
    ask(conn, AWAIT, instance, WAIT_SECONDS)
    status, result, error = ask(conn, RESULT, instance)
    if as_json:
        result = json.loads(result) if result else None
        say_json(json.dumps({"id": instance, "status": status, "result": result, "error": error}))
    elif status == "completed":
        say_json(result)
    else:
        complain(f"{status}: {error}")
    return 0 if status == "completed" else 1


def run_fmt(arguments: argparse.Namespace) -> int:
    """Rewrites the file, or says whether it would; a file with comments only when told so."""
    text = read(arguments.file)
    with connect(arguments.dsn) as conn:
        if not arguments.drop_comments and ask(conn, COMMENTS, text) > 0:
            complain(f"{arguments.file} has comments, which formatting loses; --drop-comments allows it")
            return 2
        formatted = ask(conn, FORMAT, text) + "\n"
    changes = formatted != text
    if arguments.json:
        written = changes and not arguments.check
        say_json(json.dumps({"file": str(arguments.file), "formatted": not changes, "written": written}))
    if arguments.check and changes:
        complain(f"{arguments.file} is not formatted")
        return 1
    if changes:
        arguments.file.write_bytes(formatted.encode())
    return 0


def run_explain(arguments: argparse.Namespace) -> int:
    """Draws the flow in a file, or the run with an id. Where there is nothing to draw, df.explain says why."""
    file = flow_file(arguments.what)
    text = read(file) if file else None
    if arguments.svg:
        return write_picture(arguments, text)
    with connect(arguments.dsn) as conn:
        drawn = ask(conn, EXPLAIN_RUN, arguments.what) if text is None else ask(conn, EXPLAIN_FLOW, text)
    if text is None and drawn.startswith(NOT_UNDERSTOOD):
        raise CommandError(
            "\n".join([f"{arguments.what!r} is no file, no id of a run, and no flow", *DID_YOU_MEAN.findall(drawn)])
        )
    if drawn.startswith(NOTHING_DRAWN):
        raise CommandError(drawn.strip())
    trees = [trimmed(drawn)]
    if arguments.deep and text is None:
        with connect(arguments.dsn) as conn:
            trees += called(conn, arguments.what, "    ")
    say_json(json.dumps(trees)) if arguments.json else say("\n\n".join(trees))
    return 0


def write_picture(arguments: argparse.Namespace, text: str | None) -> int:
    """Writes the picture of the flow in a file, or of the run with an id. The database says why there is none."""
    if arguments.deep or arguments.json:
        raise CommandError("--svg draws one picture: leave out --deep and --json")
    with connect(arguments.dsn) as conn:
        drawn = ask(conn, SVG_RUN, arguments.what) if text is None else ask(conn, SVG_FLOW, text)
    if str(arguments.svg) == "-":
        say(drawn)
    else:
        arguments.svg.write_text(drawn + "\n", "utf-8")
    return 0


def trimmed(drawn: str, indent: str = "") -> str:
    """A drawing without the blanks at the ends of its lines."""
    return "\n".join((indent + line).rstrip() for line in drawn.removesuffix("\n").split("\n"))


def called(conn: psycopg.Connection[Any], run: str, indent: str) -> Iterator[str]:
    """Draws the runs that a run has called, each below the one that has called it."""
    for (child,) in conn.execute(CALLED, [run, MOST_CALLED]).fetchall():
        yield trimmed(ask(conn, EXPLAIN_RUN, child), indent)
        yield from called(conn, child, indent + "    ")


def flow_file(what: str) -> Path | None:
    """The file of that name; None when there is none, as for an id or an expression of any length."""
    try:
        return Path(what) if what and Path(what).exists() else None
    except OSError:
        return None
