"""A worker for a while, as a process of its own."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pg_durable.errors import CommandError

STOP_SECONDS = 20
ARGUMENTS = ("-m", "pg_durable", "worker", "--dsn")


@contextmanager
def worker(dsn: str) -> Iterator[None]:
    """Runs a worker; what it has logged is told when it ends too early. Its password is in no command line."""
    place = conninfo_to_dict(dsn)
    password = place.pop("password", None)
    environment = os.environ | ({} if password is None else {"PGPASSWORD": str(password)})
    line = (sys.executable, *ARGUMENTS, make_conninfo("", **place))
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(line, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            yield
        finally:
            ended = process.poll()
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if ended is not None:
            log.seek(0)
            raise CommandError(f"the worker has ended, with exit code {ended}:\n{log.read().strip()}")
