"""`pg-durable worker`: runs a worker until SIGTERM or SIGINT, for one database or several.

Several databases share its sessions, HTTP requests and memory; none gets all of them, and one that is lost does not
disturb the others.
"""

import argparse
import asyncio
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pg_durable import log
from pg_durable.errors import CommandError
from pg_durable.login import ROLE
from pg_durable.secret_keys import KeyRing
from pg_durable.supervisor.connection import RefusedError
from pg_durable.worker.options import Options
from pg_durable.worker.worker import Worker


def register(subparsers: Any) -> None:
    """Adds the sub-command."""
    command = subparsers.add_parser("worker", help="run a worker", description=__doc__)
    command.add_argument(
        "--dsn", action=Each, default="",
        help="a home database, as the worker's role; once for each; default: libpq's PG* variables",
    )  # fmt: skip
    command.add_argument(
        "--dsn-file", metavar="FILE",
        help="a file with more of them, one a line; empty lines and lines with # are left out; read once",
    )  # fmt: skip
    command.add_argument(
        "--login-format", type=login_format, default=ROLE, metavar="FORMAT",
        help="the user name with which a role logs in; default {role}; for poolers that want more: {role}.project",
    )  # fmt: skip
    command.add_argument(
        "--sessions", type=positive, metavar="N",
        help="SQL steps to run at the same time, in all databases; default, and upper limit of each: its setting "
             "max_user_connections",
    )  # fmt: skip
    command.add_argument(
        "--grace", type=seconds, default=10.0, metavar="SECONDS",
        help="how long running steps may take to end after SIGTERM; default 10",
    )  # fmt: skip
    command.add_argument(
        "--session-age", type=seconds, default=os.environ.get("PG_DURABLE_SESSION_AGE") or "60", metavar="SECONDS",
        help="how long a session makes calls before a new one takes its place, so that ALTER ROLE ... SET is heeded; "
             "default: $PG_DURABLE_SESSION_AGE, or 60",
    )  # fmt: skip
    add_key_file(command, "with the keys of encrypted secrets")
    command.add_argument("--log-format", choices=("text", "json"), default="text")
    command.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    command.add_argument("--metrics", type=address, metavar="[HOST:]PORT", help="serve /metrics and /healthz there")
    command.add_argument(
        "--otel", action="store_true",
        help="export runs that have ended and their steps as OpenTelemetry spans; where to say the variables OTEL_...",
    )  # fmt: skip
    command.set_defaults(run=run)


class Each(argparse.Action):
    """An option that can be given several times; what is given replaces the default."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        """Called by the parser."""
        earlier = getattr(namespace, self.dest)
        setattr(namespace, self.dest, [*(earlier if isinstance(earlier, list) else ()), values])


def connection_strings(dsn: str | list[str], file: str | None) -> Sequence[str]:
    """The databases: those of the command line, then those of the file; without either, what --dsn is by default."""
    given = dsn if isinstance(dsn, list) else []
    if file is None:
        return given or [str(dsn)]
    lines = (line.strip() for line in Path(file).read_text("utf-8").splitlines())
    found = [*given, *(line for line in lines if line and not line.startswith("#"))]
    if not found:
        raise CommandError(f"{file}: there is no connection string in it")
    return found


def add_key_file(command: argparse.ArgumentParser, what: str) -> None:
    """The option of whoever encrypts or decrypts secrets."""
    command.add_argument(
        "--secret-key-file", default=os.environ.get("PG_DURABLE_SECRET_KEY_FILE") or None, metavar="FILE",
        help=f"file {what}; default: $PG_DURABLE_SECRET_KEY_FILE",
    )  # fmt: skip


def login_format(text: str) -> str:
    """A user name with the role in it."""
    if ROLE not in text:
        raise argparse.ArgumentTypeError(f"{text!r} does not contain {ROLE}")
    return text


def positive(text: str) -> int:
    """A number of sessions."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def seconds(text: str) -> float:
    """A duration."""
    number = float(text)
    if not 0 <= number <= 86400:  # nor NaN
        raise argparse.ArgumentTypeError("must be from 0 to 86400")
    return number


def address(text: str) -> str:
    """[HOST:]PORT; what is no address at all is better said now than when the worker has begun."""
    port = text.rpartition(":")[2]
    if not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form [HOST:]PORT, such as 9187 or 0.0.0.0:9187")
    return text


def run(arguments: argparse.Namespace) -> int:
    """Runs the worker."""
    log.configure(arguments.log_format, arguments.log_level)
    options = Options(
        connection_strings(arguments.dsn, arguments.dsn_file),
        arguments.sessions,
        arguments.grace,
        arguments.metrics,
        session_age=arguments.session_age,
        login_format=arguments.login_format,
        otel=arguments.otel,
        keys=KeyRing.read(arguments.secret_key_file),
    )
    try:
        asyncio.run(serve(options))
    except RefusedError as refusal:
        raise CommandError(str(refusal)) from refusal
    return 0


async def serve(options: Options) -> None:
    """A worker that the signals of the process stop."""
    worker = Worker(options)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.stop)
    await worker.run()
