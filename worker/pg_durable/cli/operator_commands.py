"""The runs of a database, from a terminal: `pg-durable list | show | watch | top | cancel | pause | resume | skip |
rerun | forget | signal | timeline | queue | limits | stuck | check`.

Each command asks the functions and views of schema df, as the role that it logs in as, and sees what that role sees.
"""

import argparse
import json
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
from psycopg import errors
from psycopg.rows import dict_row
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from pg_durable.cli import operator_statements as statements
from pg_durable.cli.asking import connect
from pg_durable.cli.flow_commands import read_input
from pg_durable.cli.operator_screen import Row, console, overview, print_json, table, tree
from pg_durable.errors import CommandError
from pg_durable.printing import printable

ENDED = ("completed", "failed", "cancelled")
CONFIGURED = {  # what of a configuration says what a step does
    "SLEEP": ("until", "duration"),
    "SIGNAL": ("signal_name",),
    "CALL": ("label", "flow"),
    "WAIT_SCHEDULE": ("cron_expr", "timezone"),
    "HTTP": ("method", "url"),
    "HTTP_MULTIPART": ("method", "url"),
    "BREAK": ("break_value",),
}
STATUSES = ("pending", "running", *ENDED)
Connection = psycopg.Connection[dict[str, Any]]


def register(subparsers: Any) -> None:
    """Adds the sub-commands."""
    command = add(subparsers, "list", list_runs, "the newest runs")
    command.add_argument("--status", choices=STATUSES, help="only runs of this status")
    command.add_argument("--label", help="only runs of this label")
    command.add_argument("--role", help="only runs of this role; others' are seen by monitors and administrators")
    command.add_argument("--since", metavar="TIME", help="only runs started since then: a time, or how long ago, '2 h'")
    most = command.add_mutually_exclusive_group()
    most.add_argument("--limit", type=limit, default=20, metavar="N", help="at most so many; default 20")
    most.add_argument("--all", dest="limit", action="store_const", const=None, help="not only the newest")
    add(subparsers, "show", show, "a run: its tree, steps and signals", of_a_run=True)
    command = add(subparsers, "watch", watch, "a run's tree, until it ends; exit code 0 if it completed", of_a_run=True)
    add_interval(command)
    command = add(subparsers, "top", top, "what goes on: runs, speed, slow steps, waits, failures, workers; q quits")
    command.add_argument("--once", action="store_true", help="ask once; the default where there is no terminal")
    add_interval(command)
    command = add(subparsers, "cancel", cancel, "cancel a run", of_a_run=True)
    command.add_argument("--reason", default="Cancelled by user", help="kept with the run")
    command.add_argument("--undo", action="store_true", help="run the compensations of df.undo before it ends")
    command = add(subparsers, "pause", pause, "pause a run, or all of a role: nothing new of it begins")
    add_run_or_role(command)
    command.add_argument("--reason", help="shown as what the run waits for")
    text = "let a run go on that is paused, has failed or was cancelled, or those of a role that is paused"
    command = add(subparsers, "resume", resume, text)
    add_run_or_role(command)
    add_input(command)
    command = add(subparsers, "skip", skip, "declare a node of a run done with a value", of_a_run=True)
    command.add_argument("node", help="the id of the node, as show prints it")
    command.add_argument("value", help="JSON")
    command.add_argument("--scope", metavar="ITEM", help="in a map the number of the item; in nested ones 2.7")
    command = add(subparsers, "rerun", rerun, "run the same flow again from its beginning; says its id", of_a_run=True)
    add_input(command)
    add(subparsers, "forget", forget, "remove input, results and errors of a run that has ended", of_a_run=True)
    command = add(subparsers, "signal", signal, "send a signal to a run", of_a_run=True)
    command.add_argument("name", help="the name that the run waits for")
    command.add_argument("data", nargs="?", default="{}", help="JSON, or any other text; default {}")
    command = add(subparsers, "timeline", timeline, "what has happened to a run, and who did it", of_a_run=True)
    command.add_argument("--limit", type=limit, default=1000, metavar="N", help="the newest; default 1000")
    add(subparsers, "queue", queue, "what is ready, by role and lane, and why nothing of it runs")
    add(subparsers, "limits", limits, "how many steps run within each limit, and how many wait in its line")
    command = add(subparsers, "stuck", stuck, "what has not moved, and why; exit code 1 if there is any")
    command.add_argument(
        "--for", dest="since", default="10 minutes", metavar="INTERVAL", help="for at least so long; default 10 minutes"
    )
    add(subparsers, "check", check, "look for what must not be in the engine's tables; exit code 1 if there is any")


def add(
    subparsers: Any, name: str, act: Callable[[Connection, argparse.Namespace], int], text: str, of_a_run: bool = False
) -> argparse.ArgumentParser:
    """A sub-command with what all of them have."""
    command: argparse.ArgumentParser = subparsers.add_parser(name, help=text, description=text.capitalize() + ".")
    command.add_argument("--dsn", default="", help="database and role; default: libpq's PG* variables")
    command.add_argument("--json", action="store_true", help="print JSON")
    if of_a_run:
        command.add_argument("id", help="the run: what df.start returned")
    command.set_defaults(run=lambda arguments: ask(act, arguments))
    return command


def add_run_or_role(command: argparse.ArgumentParser) -> None:
    """One run, or all of a role."""
    which = command.add_mutually_exclusive_group(required=True)
    which.add_argument("id", nargs="?", help="the run: what df.start returned")
    which.add_argument("--role", help="all runs of this role, those that are started later too")


def add_input(command: argparse.ArgumentParser) -> None:
    """Another input than the run has."""
    command.add_argument("--input", type=Path, metavar="FILE", help="a file with the JSON of another input; - is stdin")


def add_interval(command: argparse.ArgumentParser) -> None:
    """How often to ask."""
    command.add_argument(
        "--interval", type=interval, default=1.0, metavar="SECONDS", help="between two polls; default 1"
    )


def limit(text: str) -> int:
    """A number of rows; the server knows the highest."""
    if not text.isdecimal() or not 1 <= int(text) < 2**31:
        raise argparse.ArgumentTypeError("must be a number, at least 1")
    return int(text)


def interval(text: str) -> float:
    """A number of seconds."""
    number = float(text)
    if not 0.1 <= number <= 3600:
        raise argparse.ArgumentTypeError("must be from 0.1 to 3600")
    return number


def ask(act: Callable[[Connection, argparse.Namespace], int], arguments: argparse.Namespace) -> int:
    """Runs a command on a connection of its own."""
    with connect(arguments.dsn, row_factory=dict_row) as conn:
        return act(conn, arguments)


def rows(conn: Connection, statement: str, **parameters: Any) -> list[dict[str, Any]]:
    """All rows of a statement."""
    return conn.execute(statement.encode(), parameters).fetchall()


def list_runs(conn: Connection, arguments: argparse.Namespace) -> int:
    """`pg-durable list`"""
    asked = {name: getattr(arguments, name) for name in ("status", "label", "role", "since", "limit")}
    if arguments.limit is not None:
        check_page(conn, arguments.limit)
    found = rows(conn, statements.LIST, **asked)
    present(arguments, found, lambda: table([listed(run) for run in found]))
    return 0


def check_page(conn: Connection, number: int) -> None:
    """Refuses more than the setting allows, as df.list_instances does."""
    try:
        rows(conn, statements.CHECK_PAGE, limit=number)
    except errors.ProgramLimitExceeded as error:
        raise CommandError(f"{error.diag.message_primary}\nRead them all with --all") from error


def listed(run: Row) -> Row:
    """A line of the list: of a run that does not go on, why, where the output of others is."""
    return {name: value for name, value in run.items() if name not in ("role", "wait_reason")} | {
        "output": run["output"] or run["wait_reason"]
    }


def show(conn: Connection, arguments: argparse.Namespace) -> int:
    """`pg-durable show`"""
    found = {
        "run": the_run(conn, arguments.id),
        "steps": rows(conn, statements.STEPS, id=arguments.id),
        "signals": rows(conn, statements.SIGNALS, id=arguments.id),
    }
    present(arguments, found, lambda: picture(conn, found))
    return 0


def picture(conn: Connection, found: Row) -> RenderableType:
    """A run: the tree, and what the tree has no room for."""
    parts: list[RenderableType] = [drawn(conn, found["run"]["instance_id"]), ""]
    parts += [table([brief(step) for step in found["steps"]], "steps")]
    if found["signals"]:
        parts += [table(found["signals"], "signals")]
    parts += [failure(step) for step in found["steps"] if step["error"]]
    return Group(*parts)


def brief(step: Row) -> Row:
    """The columns of a step that a terminal has room for."""
    names = ("node_type", "query", "status", "attempts", "took")
    outcome = step["error"] or (step["result"] if step["status"] == "completed" else None)
    return {name: step[name] for name in names} | {"query": what(step), "outcome": outcome}


def what(step: Row) -> str:
    """What a step does, without the form in which that is stored."""
    kind, query = step["node_type"] or "", step["query"] or ""
    if kind == "SLEEP" and not query.startswith("{"):
        return f"{query} s"
    if kind == "BLOCK":
        with suppress(ValueError, TypeError, KeyError):
            return "; ".join(json.loads(query)["statements"])
    if kind in CONFIGURED:
        with suppress(ValueError, TypeError, AttributeError):  # rows inserted by hand
            config = json.loads(query)
            return " ".join(str(config[name]) for name in CONFIGURED[kind] if config.get(name))
    return str(query)


def failure(step: Row) -> RenderableType:
    """The whole error of a step."""
    return Text.assemble((f"{printable(what(step))}\n", "bold"), (f"{printable(step['error'])}\n", "red"))


def watch(conn: Connection, arguments: argparse.Namespace) -> int:
    """`pg-durable watch`"""
    run = the_run(conn, arguments.id)
    screen = console()
    if screen.is_terminal and not arguments.json:
        with Live(console=screen, auto_refresh=False) as live:
            while run["status"] not in ENDED:
                live.update(drawn(conn, arguments.id, screen.height), refresh=True)
                time.sleep(arguments.interval)
                run = the_run(conn, arguments.id)
            live.update("", refresh=True)
        screen.print(drawn(conn, arguments.id))
    else:
        while run["status"] not in ENDED:
            time.sleep(arguments.interval)
            run = the_run(conn, arguments.id)
        present(arguments, run, lambda: drawn(conn, arguments.id))
    if run["status"] != "completed" and not arguments.json:
        console().print(Text(printable(run["output"] or run["status"]), "red"))
    return int(run["status"] != "completed")


def top(conn: Connection, arguments: argparse.Namespace) -> int:
    """`pg-durable top`"""
    screen = console()
    if arguments.once or arguments.json or not screen.is_terminal:
        found = poll(conn)
        present(arguments, found, lambda: overview(found))
        return 0
    with keys() as quit_within, Live(console=screen, auto_refresh=False, screen=True) as live:
        live.update(overview(poll(conn), screen.height), refresh=True)
        while not quit_within(arguments.interval):
            live.update(overview(poll(conn), screen.height), refresh=True)
    return 0


@contextmanager
def keys() -> Iterator[Callable[[float], bool]]:
    """Waits for a number of seconds and says whether q was pressed; without a keyboard it only waits."""
    if not sys.stdin or not sys.stdin.isatty():
        yield slept
        return
    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    tty.setcbreak(keyboard)
    try:
        yield lambda seconds: q_within(keyboard, time.monotonic() + seconds)
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


def slept(seconds: float) -> bool:
    """Waits; nobody can press q."""
    time.sleep(seconds)
    return False


def q_within(keyboard: int, deadline: float) -> bool:
    """Reads keys until the deadline, or until one is q, or the terminal is gone."""
    while select.select([keyboard], [], [], max(0.0, deadline - time.monotonic()))[0]:
        pressed = os.read(keyboard, 64)
        if not pressed or b"q" in pressed.lower():
            return True
    return False


def poll(conn: Connection) -> dict[str, list[dict[str, Any]]]:
    """Everything that `top` shows, by heading."""
    return {title: rows(conn, statement) for title, statement in statements.TOP.items()}


def cancel(conn: Connection, arguments: argparse.Namespace) -> int:
    """`pg-durable cancel`"""
    asked = {"id": arguments.id, "reason": arguments.reason, "undo": arguments.undo}
    return answer(arguments, rows(conn, statements.CANCEL, **asked))


def pause(conn: Connection, arguments: argparse.Namespace) -> int:
    """`pg-durable pause`"""
    statement = statements.PAUSE if arguments.role is None else statements.PAUSE_ROLE
    asked = {"id": arguments.id, "role": arguments.role, "reason": arguments.reason}
    return answer(arguments, rows(conn, statement, **asked))


def resume(conn: Connection, arguments: argparse.Namespace) -> int:
    """`pg-durable resume`"""
    if arguments.role is not None:
        if arguments.input is not None:
            raise CommandError("--input is for one run, not for --role")
        return answer(arguments, rows(conn, statements.RESUME_ROLE, role=arguments.role))
    return answer(arguments, rows(conn, statements.RESUME, id=arguments.id, input=read_input(arguments.input)))


def skip(conn: Connection, arguments: argparse.Namespace) -> int:
    """`pg-durable skip`"""
    asked = {"id": arguments.id, "node": arguments.node, "value": arguments.value, "scope": arguments.scope}
    return answer(arguments, rows(conn, statements.SKIP, **asked))


def rerun(conn: Connection, arguments: argparse.Namespace) -> int:
    """`pg-durable rerun`"""
    return answer(arguments, rows(conn, statements.RERUN, id=arguments.id, input=read_input(arguments.input)))


def forget(conn: Connection, arguments: argparse.Namespace) -> int:
    """`pg-durable forget`"""
    return answer(arguments, rows(conn, statements.FORGET, id=arguments.id))


def signal(conn: Connection, arguments: argparse.Namespace) -> int:
    """`pg-durable signal`"""
    return answer(arguments, rows(conn, statements.SIGNAL, id=arguments.id, name=arguments.name, data=arguments.data))


def timeline(conn: Connection, arguments: argparse.Namespace) -> int:
    """`pg-durable timeline`"""
    found = rows(conn, statements.TIMELINE, id=arguments.id, limit=arguments.limit)
    present(arguments, found, lambda: table([happened(row) for row in found]))
    return 0


def happened(row: Row) -> Row:
    """A line of the timeline: what there is no column for is in the last one."""
    said = (f"by {row['by']}" if row["by"] else None, row["detail"] or what(row))
    return {name: row[name] for name in ("at", "event", "attempt", "duration")} | {
        "detail": ": ".join(text for text in said if text)
    }


def queue(conn: Connection, arguments: argparse.Namespace) -> int:
    """`pg-durable queue`"""
    found = rows(conn, statements.QUEUE)
    left_out = () if any(row["limited"] for row in found) else ("limited",)
    present(arguments, found, lambda: table([{n: row[n] for n in row if n not in left_out} for row in found]))
    return 0


def limits(conn: Connection, arguments: argparse.Namespace) -> int:
    """`pg-durable limits`"""
    found = rows(conn, statements.LIMITS)
    rated = ("rate", "per", "granted", "paused_until")
    left_out = [name for name in rated if all(row[name] is None for row in found)]
    present(arguments, found, lambda: table([{n: row[n] for n in row if n not in left_out} for row in found]))
    return 0


def stuck(conn: Connection, arguments: argparse.Namespace) -> int:
    """`pg-durable stuck`"""
    found = rows(conn, statements.STUCK, interval=arguments.since)
    shown = ("instance_id", "label", "state", "stuck_for", "reason")
    present(arguments, found, lambda: table([{name: row[name] for name in shown} for row in found]))
    return int(bool(found))


def check(conn: Connection, arguments: argparse.Namespace) -> int:
    """`pg-durable check`"""
    problems = rows(conn, statements.CHECK)
    present(arguments, problems, lambda: table(problems) if problems else "no problems")
    return int(bool(problems))


def answer(arguments: argparse.Namespace, found: list[dict[str, Any]]) -> int:
    """Prints what the function said."""
    present(arguments, found[0], lambda: printable(found[0]["answer"]))
    return 0


def present(arguments: argparse.Namespace, found: Any, rendered: Callable[[], RenderableType]) -> None:
    """As JSON, or for people."""
    if arguments.json:
        print_json(found)
    else:
        console().print(rendered(), markup=False)
    sys.stdout.flush()


def the_run(conn: Connection, run: str) -> dict[str, Any]:
    """A run, which must be there."""
    found = rows(conn, statements.RUN, id=run)
    if not found:
        raise CommandError(f"run '{run}' not found, or not visible to role {conn.info.user}")
    return found[0]


def drawn(conn: Connection, run: str, height: int | None = None) -> RenderableType:
    """The tree of a run, in no more than `height` lines."""
    return tree(rows(conn, statements.TREE, id=run)[0]["tree"], height)
