"""A worker as users run it: a process of its own."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from generator.render import artifacts
from tests.support import Database, Server, install, wait_until

ROOT = Path(__file__).resolve().parents[2]
ENDED = ("completed", "failed", "cancelled")


class WorkerProcess:
    """`pg-durable worker` on a database; its log is in `log`."""

    prefix: tuple[str, ...] = ()
    program: tuple[str, ...] = ("-m", "pg_durable")

    def __init__(self, db: Database, *arguments: str, dsn: str | None = None, **environment: str) -> None:
        self._db = db
        self._file = tempfile.NamedTemporaryFile("w+", prefix="worker-", suffix=".log")  # noqa: SIM115
        dsn = dsn or db.dsn("durable_worker")
        command = [
            *self.prefix,
            sys.executable,
            *self.program,
            "worker",
            "--dsn",
            dsn,
            "--log-level",
            "debug",
            *arguments,
        ]
        environment |= {"PYTHONPATH": str(ROOT / "worker")}
        self.process = subprocess.Popen(command, env=os.environ | environment, stderr=self._file)

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return Path(self._file.name).read_text()

    @property
    def number(self) -> int:
        """The number under which it is registered."""
        found = re.findall(r"registered worker=(\d+)", self.log)
        return int(found[-1])

    def logged(self, text: str, seconds: float = 30.0) -> "WorkerProcess":
        """Waits for an event."""
        wait_until(lambda: text in self.log, seconds, f"{text!r} in the worker's log:\n{self.log}")
        return self

    def stop(self, seconds: float = 20.0) -> int:
        """SIGTERM, and the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()


class PatientWorker(WorkerProcess):
    """A worker that asks nothing for an hour: it acts only when something wakes it, or when a timer is due."""

    program = (
        "-c",
        "from pg_durable import cli\n"
        "from pg_durable.worker import polling\n"
        "polling.SWEEP, polling.POLLS_AFTERWARDS = 3600.0, ()\n"
        "raise SystemExit(cli.main())",
    )


class Gate:
    """A lock for which steps wait until the test lets them pass; `waiting` counts those at the gate."""

    STEP = "select pg_advisory_xact_lock_shared(4711)"
    WAITING = """
select count(*) from pg_locks l join pg_database d on d.oid = l.database
where l.locktype = 'advisory' and l.objid = 4711 and not l.granted and d.datname = current_database()"""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._holder = db.connect()
        self._holder.execute("select pg_advisory_lock(4711)")

    @property
    def waiting(self) -> int:
        return int(self._db.admin(self.WAITING))

    def open(self) -> None:
        """Lets all pass."""
        self._holder.close()


class Reachable(Protocol):
    """A server, however it was made."""

    def dsn(self) -> str:
        """The connection string of the superuser."""


def own_database(server: Reachable) -> Database:
    """The database of a test that has a server of its own, with df installed."""
    db = Database(Server(server.dsn()), "postgres")
    db.admin("create role app login; create role durable_worker login; grant create on schema public to app")
    install(db.dsn(), artifacts()["dist/pg_durable.sql"], worker_role="durable_worker")
    db.admin("select df.grant_usage('app')")
    return db


SpawnWorker = Callable[..., WorkerProcess]


def start(db: Database, flow: str, label: str | None = None, database: str | None = None, user: str = "app") -> str:
    """Starts a flow, an SQL expression; the instance id."""
    return str(db.sql(f"select df.start({flow}, %s, database => %s)", label, database, user=user))


def begin(db: Database, flow: str, *args: Any) -> str:
    """Starts a flow, an SQL expression with parameters; the instance id."""
    return str(db.sql(f"select df.start({flow})", *args))


def completed(db: Database, flow: str, *args: Any) -> str:
    """The same for one that is to complete."""
    instance = begin(db, flow, *args)
    assert await_end(db, instance) == "completed", error(db, instance)
    return instance


def failure(db: Database, flow: str, *args: Any) -> str:
    """The same for one that is to fail; the instance's error."""
    instance = begin(db, flow, *args)
    assert await_end(db, instance) == "failed"
    return error(db, instance)


def start_as(db: Database, role: str, flow: str) -> None:
    """Starts a flow as a role that cannot log in."""
    db.admin(f"set session authorization {role}; select df.start({flow}); reset session authorization")


def status(db: Database, run: str) -> str:
    """The run's status."""
    return str(db.admin("select status from df.instances where id = %s", run))


# A step that ends when another one runs at the same time.
MEETING = """'do $$ begin
  loop
    perform pg_stat_clear_snapshot();
    exit when (select count(*) from pg_stat_activity
               where datname = current_database() and application_name like ''pg_durable:%%:%%'') > 1;
    perform pg_sleep(0.01);
  end loop;
  perform pg_sleep(0.2);
end $$'"""


def await_end(db: Database, run: str, seconds: float = 15.0) -> str:
    """The status with which the run ended."""
    wait_until(lambda: status(db, run) in ENDED, seconds, f"the end of {db.rows(STATE, run, user=None)}")
    return status(db, run)


def run(db: Database, flow: str, seconds: float = 15.0, **options: Any) -> Any:
    """Starts a flow and returns its root's result; fails when the run does not complete."""
    instance = start(db, flow, **options)
    ended = await_end(db, instance, seconds)
    assert ended == "completed", error(db, instance)
    return db.admin(RESULT, instance)


def error(db: Database, run: str) -> str:
    """Why the run failed."""
    return str(db.admin("select error from df.instances where id = %s", run))


STATE = "select to_jsonb(i) from df.instances i where id = %s"
RESULT = (
    "select result from df.nodes n join df.instances i on (i.id, i.root_node) = (n.instance_id, n.id) where i.id = %s"
)
