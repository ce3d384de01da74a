"""The `pg-durable` command: its command line, and a module for each sub-command."""

from pg_durable.cli.command_line import main, parser

__all__ = ["main", "parser"]
