"""`python examples/http/run.py`: rows enriched through a web service that is busy at first, and a file carried over.

Everything is its own and goes away at the end: a PostgreSQL server, a worker, the web service.
"""

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from pg_durable.dev import DATABASE, USER, WORKER, prepare
from pg_durable.embedded import EmbeddedServer
from service import serve

HERE = Path(__file__).resolve().parent

ALLOW = "SELECT df.http_allow(%s, allow_private => true, note => 'the service of the example')"
STEPS = """
SELECT n.node_type, n.result ->> 'status' AS status, n.result ->> 'encoding' AS encoding
FROM df.nodes n JOIN df.instances i ON i.id = n.instance_id
WHERE i.label = 'enrich' AND n.node_type LIKE 'HTTP%' ORDER BY n.completed_at"""


@contextmanager
def database() -> Iterator[EmbeddedServer]:
    """A server with pg_durable installed and a worker running."""
    with tempfile.TemporaryDirectory(prefix="pg-durable-") as home:
        Path(home).chmod(0o755)
        with EmbeddedServer(Path(home) / "data") as server:
            prepare(server)
            command = [sys.executable, "-m", "pg_durable", "worker", "--log-level", "warning"]
            with subprocess.Popen([*command, "--dsn", server.dsn(DATABASE, WORKER)]) as worker:
                yield server
                worker.terminate()


def await_end(conn: psycopg.Connection[Any]) -> str:
    """The status with which the run ended."""
    while True:
        row = conn.execute("SELECT status FROM df.instances WHERE label = 'enrich'").fetchone()
        if row and row[0] in ("completed", "failed", "cancelled"):
            return str(row[0])
        time.sleep(0.1)


def show(title: str, cursor: psycopg.Cursor[Any]) -> None:
    """A result as a table."""
    print(f"\n{title}\n  " + " | ".join(column.name for column in cursor.description or []))
    for row in cursor:
        print("  " + " | ".join(str(value) for value in row))


def main() -> int:
    service = serve()
    threading.Thread(target=service.serve_forever, daemon=True).start()
    address = f"127.0.0.1:{service.server_port}"
    with database() as server:
        with psycopg.connect(server.dsn(DATABASE)) as admin:
            admin.execute(ALLOW, [address])
        with psycopg.connect(server.dsn(DATABASE, USER), autocommit=True) as conn:
            conn.execute("SELECT df.setvar('service', %s)", [address])
            conn.execute((HERE / "enrich.sql").read_bytes())
            status = await_end(conn)
            show("Companies", conn.execute("SELECT * FROM company ORDER BY domain"))
            show("Upload", conn.execute("SELECT * FROM upload"))
            show("HTTP steps", conn.execute(STEPS))
    service.shutdown()
    print(f"\nThe run has {status}.")
    return int(status != "completed")


if __name__ == "__main__":
    sys.exit(main())
