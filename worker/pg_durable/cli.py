"""The `pg-durable` command: each sub-command is a module with register(subparsers)."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version

import psycopg

COMMANDS = ("worker_command", "install", "dev", "flow_commands", "operator_commands")


class CommandError(Exception):
    """Something that whoever typed the command can put right."""


def parser() -> argparse.ArgumentParser:
    """The command line; register() of each module adds a sub-command and its `run`, arguments -> exit code."""
    root = argparse.ArgumentParser(prog="pg-durable", description="Durable functions for PostgreSQL, written as SQL.")
    root.add_argument("--version", action="version", version=f"pg-durable {version('pg-durable')}")
    subparsers = root.add_subparsers(required=True, metavar="COMMAND")
    for name in COMMANDS:
        import_module(f"pg_durable.{name}").register(subparsers)
    return root


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a sub-command; what a user can put right is a line on stderr, not a traceback."""
    arguments = parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except (CommandError, psycopg.Error, OSError) as error:
        sys.stderr.write(f"pg-durable: {str(error).strip()}\n")
        return 1
