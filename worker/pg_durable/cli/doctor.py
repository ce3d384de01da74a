"""`pg-durable doctor`: looks for what hurts an installation, and says what to do. It changes nothing.

Ask as a superuser or the owner of schema df: others are told what they may not see. Notes do not change the exit code.
"""

import argparse
import json
import textwrap
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import psycopg
from psycopg import errors

from pg_durable.cli import doctor_statements as ask
from pg_durable.cli.asking import connect, explained
from pg_durable.printing import say, say_json

PROBLEM, NOTE = "problem", "note"
UNSEEN = "not examined"  # how such a finding begins
WIDTH = 80
CLOCK = 5.0  # seconds between the clocks
LIMITS = {
    "snapshot": "1 hour",  # how long a transaction may be open
    "age": 1_000_000_000,  # of the oldest transaction, in transactions
    "queue": 0.25,  # of the notification queue that may be full
}


@dataclass(frozen=True)
class Check:
    """A question whose answers are findings, and what to do about them."""

    group: str
    name: str
    level: str
    query: str
    todo: str


@dataclass(frozen=True)
class Finding:
    """Something that hurts, or may."""

    group: str
    check: str
    level: str
    finding: str
    todo: str


TIME_OUT = "ALTER ROLE or ALTER DATABASE ... RESET it, unless steps are meant to end so."
CLOSE = "ALTER ROLE ... NOBYPASSRLS, or REVOKE; else trust it as an administrator."
END = "End it: SELECT pg_terminate_backend(pid). While it is open vacuum removes nothing."
ASK_AS = "Ask as the owner of df or as a superuser."
CHECKS = (
    Check("installed", "rights", NOTE, ask.SEES_LESS, ASK_AS),
    Check("server", "standby", PROBLEM, ask.STANDBY, "Ask the primary: --dsn with its host."),
    Check("worker", "role", PROBLEM, ask.WORKER_ROLE, "SELECT df.grant_worker('durable_worker');"),
    Check("worker", "login", PROBLEM, ask.WORKER_LOGIN, "ALTER ROLE ... LOGIN;"),
    Check("worker", "alive", PROBLEM, ask.WORKER_ALIVE, "Start one: pg-durable worker. Its log says why it ends."),
    Check("grants", "reached", PROBLEM, ask.ROLE_REASONS, "Mend pg_hba.conf, the password file or the role."),
    Check("grants", "paused", NOTE, ask.PAUSED, "SELECT df.resume_role(...), or set paused off, to let runs go on."),
    Check("grants", "submitter", PROBLEM, ask.NO_LOGIN, "ALTER ROLE ... LOGIN; its runs wait until then."),
    Check("settings", "time_outs", NOTE, ask.TIME_OUTS, TIME_OUT),
    Check("settings", "read_only", PROBLEM, ask.READ_ONLY_ROLES, "RESET default_transaction_read_only there."),
    Check("settings", "commit", PROBLEM, ask.NO_DISK, "RESET it there, or choose commit_policy relaxed."),
    Check("roles", "all_seeing", PROBLEM, ask.ALL_SEEING, CLOSE),
    Check("roles", "bypassrls", NOTE, ask.BYPASSRLS, CLOSE),
    Check("roles", "write_all", NOTE, ask.WRITES_ALL, "REVOKE pg_write_all_data, or trust it with these tables."),
    Check("roles", "maintain", NOTE, ask.MAINTAINS, "REVOKE pg_maintain, or trust it not to lock them."),
    Check("vacuum", "snapshots", PROBLEM, ask.SNAPSHOTS, END),
    Check("vacuum", "prepared", PROBLEM, ask.PREPARED, "COMMIT PREPARED or ROLLBACK PREPARED it."),
    Check("vacuum", "slots", PROBLEM, ask.SLOTS, "Start its standby, or pg_drop_replication_slot(name)."),
    Check("vacuum", "autovacuum", PROBLEM, ask.AUTOVACUUM, "Turn it on: the engine's tables change all the time."),
    Check("vacuum", "wraparound", PROBLEM, ask.WRAPAROUND, "VACUUM FREEZE, and see what holds vacuum back."),
    Check(
        "server", "notifications", PROBLEM, ask.NOTIFICATIONS, "End the session that listens in an open transaction."
    ),
    Check("server", "sessions", PROBLEM, ask.SESSIONS, "Raise max_connections, or lower max_user_connections."),
    Check("server", "limit", PROBLEM, ask.CONNECTION_LIMIT, "ALTER DATABASE ... CONNECTION LIMIT higher."),
    Check("server", "dblink", NOTE, ask.DBLINK, "CREATE EXTENSION dblink; transaction_mode 'new' needs it."),
    Check("runs", "timers", PROBLEM, ask.OVERDUE, "See that a worker is alive; its log says what fails."),
    Check(
        "runs", "schedules", NOTE, ask.SCHEDULES_OVERDUE, "See that its role is served: df.waiting, the worker's log."
    ),
    Check("runs", "undo", NOTE, ask.UNDO_FAILED, "df.explain(id) shows which compensation failed: do it by hand."),
    Check("runs", "check", PROBLEM, ask.CHECK, "Keep the database as it is, and report this."),
)


def register(subparsers: Any) -> None:
    """Adds the sub-command."""
    command = subparsers.add_parser(
        "doctor", help="look for what hurts, and say what to do; exit code 1 for problems", description=__doc__
    )
    command.add_argument("--dsn", default="", help="the database; what is left out libpq takes from PG*")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Prints the findings."""
    with connect(arguments.dsn) as conn:
        findings = examine(conn, LIMITS)
    if arguments.json:
        say_json(json.dumps([asdict(finding) for finding in findings]))
    else:
        say("\n".join(line for finding in findings for line in shown(finding)) or "no problems")
        unseen = [f"{finding.group}.{finding.check}" for finding in findings if finding.finding.startswith(UNSEEN)]
        if unseen:
            say("\n".join(textwrap.wrap(f"This says nothing about what was not examined: {', '.join(unseen)}", WIDTH)))
    return int(any(finding.level == PROBLEM for finding in findings))


def examine(conn: psycopg.Connection[Any], limits: dict[str, Any], now: datetime | None = None) -> list[Finding]:
    """All that is found; `now` is the time here."""
    conn.execute(ask.READ_ONLY)
    conn.execute(ask.PATIENCE)
    row = conn.execute(ask.INSTALLED).fetchone()
    assert row is not None
    installed, there = row
    if not installed:
        missing = f"pg_durable is not installed in database {conn.info.dbname}"
        return [Finding("installed", "installed", PROBLEM, missing, "pg-durable install, or another database.")]
    findings = [*clock(there, now or datetime.now(UTC)), *versions(conn)]
    for check in CHECKS:
        findings += answers(conn, check, limits)
    return findings


def clock(there: datetime, here: datetime) -> list[Finding]:
    """Whether this machine and the server agree about the time."""
    apart = abs((here - there).total_seconds())
    if apart <= CLOCK:
        return []
    said = f"the server's clock and the one here are {apart:.0f} s apart"
    return [Finding("server", "clock", NOTE, said, "Run NTP on both: due times are the server's.")]


def versions(conn: psycopg.Connection[Any]) -> list[Finding]:
    """Whether the command is the one of what is installed."""
    mine = version("pg-durable")
    try:
        row = conn.execute(ask.VERSION).fetchone()
    except errors.InsufficientPrivilege:
        return []  # the checks say so
    if row is None or row[0] == mine.partition(".dev")[0]:  # a build between releases names its commit as well
        return []
    said = f"version {row[0]} is installed, and this command is {mine}"
    todo = "Upgrade the older: pg-durable install, or pip install -U pg-durable."
    return [Finding("installed", "version", NOTE, said, todo)]


def answers(conn: psycopg.Connection[Any], check: Check, limits: dict[str, Any]) -> list[Finding]:
    """The findings of one check. One that cannot be made is a finding, too."""
    try:
        found = conn.execute(check.query.encode(), limits if "%(" in check.query else None).fetchall()
    except psycopg.errors.InsufficientPrivilege as error:
        return [Finding(check.group, check.name, NOTE, f"{UNSEEN}: {explained(error)}", ASK_AS)]
    except psycopg.errors.QueryCanceled as error:
        said, todo = f"{UNSEEN}: {explained(error)}", "Ask again when the server has less to do."
        return [Finding(check.group, check.name, NOTE, said, todo)]
    return [Finding(check.group, check.name, check.level, str(row[0]), check.todo) for row in found]


def shown(finding: Finding) -> list[str]:
    """A finding in lines of a terminal."""
    head = f"{finding.level:8} {finding.group}: {' '.join(finding.finding.split())}"
    return [
        *textwrap.wrap(head, WIDTH, subsequent_indent=" " * 9),
        *textwrap.wrap(f"-> {finding.todo}", WIDTH, initial_indent=" " * 9, subsequent_indent=" " * 12),
    ]
