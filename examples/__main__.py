"""`python -m examples NAME`: plays a scenario on a server of its own, or with --dsn on yours, where a worker runs."""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from pg_durable.dev import DATABASE, USER, WORKER, prepare
from pg_durable.embedded import EmbeddedServer

from examples.http.service import serving
from examples.rag import story
from examples.scenario import SCENARIOS, Scenario

ALLOW = "SELECT df.http_allow(%s, allow_private => true, note => 'the service of the example')"


@contextmanager
def database(service: str | None) -> Iterator[str]:
    """A database on a server of its own, with pg_durable installed and a worker running, which may call the service."""
    with tempfile.TemporaryDirectory(prefix="pg-durable-") as home:
        Path(home).chmod(0o755)
        with EmbeddedServer(Path(home) / "data") as server:
            prepare(server)
            if service:
                with psycopg.connect(server.dsn(DATABASE)) as administrator:
                    administrator.execute(ALLOW, [service])
            command = [sys.executable, "-m", "pg_durable", "worker", "--log-level", "warning"]
            with subprocess.Popen([*command, "--dsn", server.dsn(DATABASE, WORKER)]) as worker:
                yield server.dsn(DATABASE, USER)
                worker.terminate()


def play(name: str, dsn: str | None, service: str | None) -> None:
    """Plays a scenario there, or on a server of its own; the variable {service} is the address of the web service."""
    if not dsn:
        with database(service) as own:
            play(name, own, service)
        return
    if service:
        with psycopg.connect(dsn) as conn:
            conn.execute("SELECT df.setvar('service', %s)", [service])
    Scenario(name, dsn, print).play()


def main() -> int:
    """Plays one scenario."""
    parser = argparse.ArgumentParser(prog="python -m examples", description=__doc__)
    parser.add_argument("name", choices=sorted([*SCENARIOS, "rag"]))
    parser.add_argument("--dsn", help="a database where pg_durable is installed, as a role that may create tables")
    parser.add_argument(
        "--port", type=int, default=0,
        help="for http: where its service listens; with --dsn allow it first, as administrator: "
        "SELECT df.http_allow('127.0.0.1:PORT', allow_private => true)",
    )  # fmt: skip
    parser.add_argument("--documents", type=int, default=150, help="for rag: how many, besides 53; default 150")
    arguments = parser.parse_args()
    if arguments.name == "rag" and arguments.dsn:
        parser.error("rag plays on a server of its own")
    try:
        if arguments.name == "rag":
            story.play(arguments.documents, print)
        elif arguments.name == "http":
            with serving(arguments.port) as service:
                play(arguments.name, arguments.dsn, service)
        else:
            play(arguments.name, arguments.dsn, None)
    except (psycopg.Error, TimeoutError, story.UnexpectedError) as error:
        print(f"NOT as expected: {str(error).strip()}", file=sys.stderr)
        return 1
    print(f"{arguments.name}: as expected.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
