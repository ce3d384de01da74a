"""The `pg-durable` command: each sub-command is a module with register(subparsers)."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version

from pg_durable.errors import CommandError

COMMANDS = (
    "cli.worker_command",
    "cli.install",
    "cli.uninstall",
    "cli.doctor",
    "dev.command",
    "web.command",
    "embed.command",
    "cli.flow_commands",
    "cli.apply_command",
    "cli.test_command",
    "cli.operator_commands",
    "cli.schedule_commands",
    "cli.secret_commands",
    "cli.psql_command",
    "cli.completion",
)
EXIT_CODES = """exit codes:
  0    done
  1    not done, or the answer is no: a run or a test failed, a file is not
       formatted, a folder not applied
  2    the command line is wrong, or must say more: fmt of a file with comments
  130  interrupted by Ctrl-C
  141  nobody read the output to its end

environment:
  PG_DURABLE_DSN     what --dsn is by default; libpq's PG* variables fill it up
  PG_DURABLE_JSON    anything: print JSON, as with --json
  PG_DURABLE_...     the options of worker, dev and web (PG_DURABLE_SESSIONS),
                     and of embed (PG_DURABLE_EMBED_THREADS)
  NO_COLOR           anything: no colours; a pipe has none in any case
"""
# Commands whose options all have a variable, and how its name begins.
BY_ENVIRONMENT = {"worker": "", "dev": "", "web": "", "embed": "EMBED_"}
EVERYWHERE = ("--dsn", "--json")
FAILED, INTERRUPTED, UNREAD = 1, 130, 141


def parser() -> argparse.ArgumentParser:
    """The command line; register() of each module adds a sub-command and its `run`, arguments -> exit code."""
    root = argparse.ArgumentParser(
        prog="pg-durable",
        description="Durable functions for PostgreSQL, written as SQL.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root.add_argument("--version", action="version", version=f"pg-durable {version('pg-durable')}")
    subparsers = root.add_subparsers(required=True, metavar="COMMAND")
    for name in COMMANDS:
        import_module(f"pg_durable.{name}").register(subparsers)
    for name, command in subparsers.choices.items():
        heed_environment(name, command)
    return root


def heed_environment(name: str, command: argparse.ArgumentParser) -> None:
    """Gives options the defaults that the environment has for them; those of the command line are stronger."""
    for action in command._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                heed_environment(name, inner)
        for option in action.option_strings:
            begin = "" if option in EVERYWHERE else BY_ENVIRONMENT.get(name, "")
            value = os.environ.get("PG_DURABLE_" + begin + option.removeprefix("--").replace("-", "_").upper())
            if value and option.startswith("--") and (name in BY_ENVIRONMENT or option in EVERYWHERE):
                action.default = True if action.nargs == 0 else value


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a sub-command; what a user can put right is a line on stderr, not a traceback."""
    prepare_streams()
    try:
        return perform(argv)
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        silence_stdout()


def perform(argv: Sequence[str] | None) -> int:
    """The exit code of a sub-command. Imports stand here, where an interrupt is quiet."""
    import psycopg  # noqa: PLC0415

    from pg_durable.cli.asking import explained  # noqa: PLC0415
    from pg_durable.printing import complain  # noqa: PLC0415

    try:
        code = run(argv)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        return UNREAD
    except psycopg.Error as error:
        message = explained(error)
    except OSError as error:
        reason = error.strerror or str(error)
        message = f"{error.filename}: {reason}" if error.filename else reason
    except UnicodeEncodeError as error:
        message = f"{error.object!r} is not UTF-8"
    except CommandError as error:
        message = str(error)
    complain(f"pg-durable: {message}")
    return FAILED


def run(argv: Sequence[str] | None) -> int:
    """Reads the command line and does what it says."""
    try:
        arguments = parser().parse_args(argv)
    except SystemExit as done:  # --help, --version, or a wrong line that argparse has explained
        return int(done.code or 0)
    return int(arguments.run(arguments))


def prepare_streams() -> None:
    """Output that is closed, or whose encoding has no ✓, is no reason to fail."""
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: PTH123, SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def silence_stdout() -> None:
    """Where output could not be written, Python would try again on its way out, and complain."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
