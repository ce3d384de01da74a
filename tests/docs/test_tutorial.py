"""What the tutorial promises of `pg-durable dev`: stopped and started again, runs go on waiting, and then end."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from generator.render import ROOT
from tests.support import wait_until


@contextmanager
def dev(home: Path) -> Iterator[str]:
    """`pg-durable dev`, ended by Ctrl-C; the connection string that it prints."""
    command = [sys.executable, "-m", "pg_durable", "dev", "--data", str(home)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "worker")}
    with (home / "log").open("w+") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            printed = wait_until(lambda: re.search(r'psql "([^"]+)"', (home / "log").read_text()), 60)
            yield printed[1]
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0, (home / "log").read_text()


def test_a_run_waits_through_a_restart_of_everything() -> None:
    with tempfile.TemporaryDirectory(prefix="pgd-", dir="/tmp") as name:
        home = Path(name)
        home.chmod(0o755)
        with dev(home) as dsn, psycopg.connect(dsn, autocommit=True) as conn:
            run = conn.execute("select df.start(df.wait_for_signal('go') ~> 'select 42 as answer')").fetchone()
            wait_until(lambda: conn.execute("select 1 from df.waiting").fetchone(), 30)
        with dev(home) as dsn, psycopg.connect(dsn, autocommit=True) as conn:
            assert conn.execute("select df.signal(%s, 'go')", run).fetchone() == ("OK",)
            assert conn.execute("select df.await_instance(%s, 30)", run).fetchone() == ("completed",)
