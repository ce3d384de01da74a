"""`python -m examples NAME`: plays a scenario on a server of its own, or with --dsn on yours, where a worker runs."""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import psycopg
from pg_durable.dev import DATABASE, USER, WORKER, prepare
from pg_durable.embedded import EmbeddedServer

from examples.scenario import HERE, SCENARIOS, Scenario


@contextmanager
def database() -> Iterator[str]:
    """A database on a server of its own, with pg_durable installed and a worker running."""
    with tempfile.TemporaryDirectory(prefix="pg-durable-") as home:
        Path(home).chmod(0o755)
        with EmbeddedServer(Path(home) / "data") as server:
            prepare(server)
            command = [sys.executable, "-m", "pg_durable", "worker", "--log-level", "warning"]
            with subprocess.Popen([*command, "--dsn", server.dsn(DATABASE, WORKER)]) as worker:
                yield server.dsn(DATABASE, USER)
                worker.terminate()


def main() -> int:
    """Plays one scenario."""
    parser = argparse.ArgumentParser(prog="python -m examples", description=__doc__)
    parser.add_argument("name", choices=[*SCENARIOS, "http"])
    parser.add_argument("--dsn", help="a database where pg_durable is installed, as a role that may create tables")
    arguments = parser.parse_args()
    if arguments.name == "http":
        return subprocess.call([sys.executable, HERE / "http" / "run.py"])
    with nullcontext(arguments.dsn) if arguments.dsn else database() as dsn:
        try:
            Scenario(arguments.name, dsn, print).play()
        except (psycopg.Error, TimeoutError) as error:
            print(f"NOT as expected: {str(error).strip()}", file=sys.stderr)
            return 1
    print(f"{arguments.name}: as expected.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
