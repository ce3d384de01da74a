"""The test bed: a database on a real server, its sessions, workers and pgbench beside them."""

import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

INSERT = "insert into fx values (1, 'x') returning i"
SESSION = "-c TimeZone=UTC -c df.in_workflow=true"
CHAIN = " ~> ".join("'insert into fx values (1, ''x'') returning i'" for _ in range(5))
DEADLINE = 3600.0


@dataclass
class Bed:
    """One database with df installed, a table fx, and the role `bench` that submits."""

    dsn: str
    pgbench: Path
    name: str = "pg_durable_bench"

    def connect(self, user: str | None = None, **options: Any) -> psycopg.Connection[Any]:
        """A connection in autocommit, as the superuser or as `user`."""
        login = {"user": user} if user else {}
        return psycopg.connect(make_conninfo(self.dsn, dbname=self.name, **login), autocommit=True, **options)

    def create(self, installer: str) -> None:
        """Makes the database anew and installs df. Retention is off: what finished is kept."""
        self.create_database(self.name)
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            for role in ("bench", "bench_worker"):
                if not conn.execute("select 1 from pg_roles where rolname = %s", [role]).fetchone():
                    conn.execute(f"create role {role} login".encode())
        with psycopg.connect(make_conninfo(self.dsn, dbname=self.name)) as conn:
            conn.execute(installer.split("\n-- body\n", 1)[1].rsplit("commit;", 1)[0].encode())
        with self.connect() as conn:
            conn.execute("select df.grant_usage('bench'), df.grant_worker('bench_worker')")
            conn.execute("create table fx (i int, t text); grant all on fx to bench")
        self.setting("reconcile_interval", "0")
        self.setting("reserved_connections", "0")

    def twin(self, installer: str) -> "Bed":
        """Another database on the same server, new: what a database with much in it is compared with."""
        bed = replace(self, name=f"{self.name}_twin")
        bed.create(installer)
        return bed

    def create_database(self, name: str) -> None:
        """An empty database."""
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            conn.execute(f"drop database if exists {name} with (force)".encode())
            conn.execute(f"create database {name} encoding 'UTF8' template template0".encode())

    def rows(self, query: str, *args: Any) -> list[tuple[Any, ...]]:
        """All rows, asked as the superuser."""
        with self.connect() as conn:
            cursor = conn.execute(query.encode(), args or None)
            return cursor.fetchall() if cursor.description else []

    def ask(self, query: str, *args: Any) -> Any:
        """The first column of the first row, asked as the superuser."""
        rows = self.rows(query, *args)
        return rows[0][0] if rows else None

    def setting(self, name: str, value: str | None) -> None:
        """Changes a setting of pg_durable."""
        self.ask("select df.set_setting(%s, %s)", name, value)

    def start(self, flow: str, count: int = 1) -> list[str]:
        """Starts a flow, given as an SQL expression, so many times in one transaction; the ids."""
        with self.connect("bench") as conn:
            query = f"select df.start(flow) from (select {flow} as flow) f, generate_series(1, {count})"
            return [row[0] for row in conn.execute(query.encode()).fetchall()]

    def start_chains(self, count: int) -> None:
        """Starts `count` five-step chains of one-row INSERTs in one transaction, and leaves the tables tidy."""
        self.start(CHAIN, count)
        self.tidy()

    def tidy(self) -> None:
        """What autovacuum would have done, done now, so that it does not happen while a clock runs."""
        with self.connect() as conn:
            for table in ("df_engine.instances", "df_engine.outcomes", "df_engine.queue", "df_engine.timers"):
                conn.execute(f"vacuum analyze {table}".encode())

    def session(self) -> psycopg.Connection[Any]:
        """A session as a worker opens it."""
        return self.connect("bench", options=SESSION, prepare_threshold=None)

    @contextmanager
    def crew(self, sessions: int) -> Iterator["Crew"]:
        """So many sessions that work, and nothing but work."""
        with ExitStack() as stack:
            yield Crew([stack.enter_context(self.session()) for _ in range(sessions)])

    def drain(self, sessions: int) -> float:
        """Runs everything that is ready with so many new sessions; the seconds it took."""
        with self.crew(sessions) as crew:
            return crew.drain()

    def await_served(self) -> float:
        """Waits until workers have left nothing ready; the seconds it took."""
        return self.await_true("select not exists (select from df_engine.queue)")

    def await_true(self, query: str, *args: Any, poll: float = 0.01) -> float:
        """Waits until a query answers true; the seconds it took."""
        began = time.perf_counter()
        with self.connect() as conn:
            while conn.execute(query.encode(), args).fetchone() != (True,):
                if time.perf_counter() - began > DEADLINE:
                    raise TimeoutError(f"the workers did not come to an end: {query}")
                time.sleep(poll)
        return time.perf_counter() - began

    def pgbench_tps(self, sessions: int, seconds: int, statement: str = INSERT, user: str = "bench") -> float:
        """Transactions a second of one statement, prepared, as pgbench measures it."""
        target = conninfo_to_dict(self.dsn)
        command = [str(self.pgbench), "-n", "-c", str(sessions), "-j", "2", "-T", str(seconds)]
        command += ["-M", "prepared", "-U", user, "-h", str(target["host"]), "-p", str(target.get("port", 5432))]
        with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
            script.write(statement + ";\n")
            script.flush()
            output = subprocess.run(
                [*command, "-f", script.name, self.name], check=True, capture_output=True, text=True
            ).stdout
        found = re.search(r"tps = ([0-9.]+)", output)
        if found is None:
            raise RuntimeError(f"pgbench printed no tps:\n{output}")
        return float(found[1])

    @contextmanager
    def worker(self, sessions: int = 8) -> Iterator[subprocess.Popen[bytes]]:
        """A real worker process, idle when it is handed over."""
        with self.workers(1, sessions) as processes:
            yield processes[0]

    @contextmanager
    def workers(self, count: int, sessions: int = 8) -> Iterator[list[subprocess.Popen[bytes]]]:
        """Real worker processes, idle when they are handed over."""
        dsn = make_conninfo(self.dsn, dbname=self.name, user="bench_worker")
        command = [sys.executable, "-m", "pg_durable", "worker", "--dsn", dsn, "--sessions", str(sessions)]
        began = self.ask("select clock_timestamp()")
        query = "select count(*) from df_engine.workers where idle_until > now() and started_at >= %s"
        deadline = time.monotonic() + DEADLINE
        with ExitStack() as stack:
            processes = [stack.enter_context(running(command)) for _ in range(count)]
            while self.ask(query, began) < count:
                if any(process.poll() is not None for process in processes):
                    raise RuntimeError("a worker has ended")
                if time.monotonic() > deadline:
                    raise TimeoutError("the workers do not come to rest")
                time.sleep(0.05)
            yield processes


@dataclass
class Crew:
    """Sessions that work as those of a worker do, without the worker."""

    sessions: list[psycopg.Connection[Any]]

    def drain(self) -> float:
        """Runs everything that is ready; the seconds it took."""

        def work(conn: psycopg.Connection[Any]) -> None:
            while call_work(conn) != "empty":
                pass

        threads = [threading.Thread(target=work, args=(conn,)) for conn in self.sessions]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - began


@contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is told to end, and awaited."""
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def call_work(conn: psycopg.Connection[Any]) -> str:
    """One call of the driver; why it stopped."""
    row = conn.execute("call df_engine.work(1000, false, null)").fetchone()
    return str(row[0]) if row else ""
