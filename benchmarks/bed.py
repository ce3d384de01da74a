"""The test bed: a database on a real server, its sessions, pgbench beside them."""

import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

INSERT = "insert into fx values (1, 'x')"
SESSION = "-c TimeZone=UTC -c df.in_workflow=true"
CHAIN = " ~> ".join("'insert into fx values (1, ''x'')'" for _ in range(5))


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
        """Makes the database anew and installs df."""
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            conn.execute(f"drop database if exists {self.name} with (force)".encode())
            conn.execute(f"create database {self.name} encoding 'UTF8' template template0".encode())
            for role in ("bench", "bench_worker"):
                if not conn.execute("select 1 from pg_roles where rolname = %s", [role]).fetchone():
                    conn.execute(f"create role {role} login".encode())
        with psycopg.connect(make_conninfo(self.dsn, dbname=self.name)) as conn:
            conn.execute(installer.split("\n-- body\n", 1)[1].rsplit("commit;", 1)[0].encode())
        with self.connect() as conn:
            conn.execute("select df.grant_usage('bench'), df.grant_worker('bench_worker')")
            conn.execute("create table fx (i int, t text); grant all on fx to bench")

    def ask(self, query: str, *args: Any) -> Any:
        """The first column of the first row, asked as the superuser."""
        with self.connect() as conn:
            cursor = conn.execute(query.encode(), args or None)
            row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None

    def setting(self, name: str, value: str | None) -> None:
        """Changes a setting of pg_durable."""
        self.ask("select df.set_setting(%s, %s)", name, value)

    def start_chains(self, count: int) -> None:
        """Starts `count` five-step chains of one-row INSERTs in one transaction."""
        with self.connect("bench") as conn:
            statement = f"select count(df.start(flow)) from (select {CHAIN} as flow) f, generate_series(1, {count})"
            conn.execute(statement.encode())
        with self.connect() as conn:
            conn.execute("vacuum analyze df.nodes")
            conn.execute("vacuum analyze df.instances")
            conn.execute("vacuum analyze df_engine.ready")

    def drain(self, sessions: int) -> float:
        """Runs everything that is ready with so many sessions; the seconds it took."""
        connections = [self.connect("bench", options=SESSION, prepare_threshold=None) for _ in range(sessions)]

        def work(conn: psycopg.Connection[Any]) -> None:
            report = None
            while report != "empty":
                row = conn.execute("call df_engine.work(1000, false, null)").fetchone()
                report = row[0] if row else None

        threads = [threading.Thread(target=work, args=(conn,)) for conn in connections]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took = time.perf_counter() - began
        for conn in connections:
            conn.close()
        return took

    def pgbench_tps(self, sessions: int, seconds: int, statement: str = INSERT, user: str = "bench") -> float:
        """Transactions a second of one statement, prepared, as pgbench measures it."""
        target = conninfo_to_dict(self.dsn)
        script = Path("/tmp") / f"{self.name}.sql"
        script.write_text(statement + ";\n")
        command = [str(self.pgbench), "-n", "-f", str(script), "-c", str(sessions), "-j", "2", "-T", str(seconds)]
        command += ["-M", "prepared", "-U", user, "-h", str(target["host"]), self.name]
        if "port" in target:
            command[1:1] = ["-p", str(target["port"])]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found = re.search(r"tps = ([0-9.]+)", output)
        if found is None:
            raise RuntimeError(f"pgbench printed no tps:\n{output}")
        return float(found[1])

    @contextmanager
    def worker(self, sessions: int = 8) -> Iterator[subprocess.Popen[bytes]]:
        """A real worker process."""
        dsn = make_conninfo(self.dsn, dbname=self.name, user="bench_worker")
        command = ["pg-durable", "worker", "--dsn", dsn, "--sessions", str(sessions)]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            while not self.ask("select count(*) from df._worker_epoch where _sleeps_until > now()"):
                time.sleep(0.05)
            yield process
        finally:
            process.terminate()
            process.wait()
