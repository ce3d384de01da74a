"""`pg-durable dev`: one a folder, with logins that can be pasted; it keeps what users set, and names versions."""

import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from tests.cluster import free_port
from tests.support import wait_until
from tests.terminal import command, environment

LOG_IN = re.compile(r'psql "([^"]+)"')


class Dev:
    """`pg-durable dev` in a folder, once it can be used."""

    def __init__(self, home: Path, *arguments: str, **variables: str) -> None:
        self._log = home / f"log-{len(list(home.glob('log-*')))}"
        line = [sys.executable, "-m", "pg_durable", "dev", "--data", str(home / "dev"), *arguments]
        with self._log.open("w") as log:
            self.process = subprocess.Popen(line, env=environment(**variables), stdout=log, stderr=log)
        try:
            wait_until(lambda: "registered" in self.said or self.process.poll() is not None, 60)
        except BaseException:
            self.stop()
            raise
        assert self.process.poll() is None, self.said

    @property
    def said(self) -> str:
        return self._log.read_text()

    @property
    def app(self) -> str:
        return str(LOG_IN.findall(self.said)[0])

    @property
    def admin(self) -> str:
        return str(LOG_IN.findall(self.said)[1])

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(30)


@contextmanager
def dev(home: Path, *arguments: str, **variables: str) -> Iterator[Dev]:
    running = Dev(home, *arguments, **variables)
    try:
        yield running
    finally:
        assert running.stop() == 0, running.said


@pytest.fixture
def home() -> Iterator[Path]:
    """Short, because the paths of sockets are."""
    path = Path(tempfile.mkdtemp(prefix="pgd-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def run_to_the_end(dsn: str) -> str:
    with psycopg.connect(dsn, autocommit=True) as conn:
        run = conn.execute("select df.start('select 1' ~> 'select 2')").fetchone()
        found = conn.execute("select df.await_instance(%s, 30)", run).fetchone()
        return str(found[0]) if found else ""


def test_a_second_one_says_that_one_runs_and_leaves_it_alone(home: Path) -> None:
    with dev(home) as first:
        for arguments in ((), ("--version", "16"), ("--port", str(free_port()))):
            second = command("dev", "--data", str(home / "dev"), *arguments)
            assert second.returncode == 1 and second.stdout == ""
            assert f"process {first.process.pid}" in second.stderr
            assert LOG_IN.findall(second.stderr) == [first.app, first.admin]
        assert run_to_the_end(first.app) == "completed"


def test_of_one_that_was_killed_the_server_is_taken_over(home: Path) -> None:
    first = Dev(home)
    first.process.kill()
    first.process.wait()
    with dev(home, "--port", str(free_port())) as second:
        assert run_to_the_end(second.app) == "completed"


@pytest.mark.parametrize("how", ["flag", "variable"])
def test_it_listens_on_the_port_asked_for(home: Path, how: str) -> None:
    port = str(free_port())
    arguments = ("--port", port) if how == "flag" else ()
    variables = {} if how == "flag" else {"PG_DURABLE_PORT": port}
    with dev(home, *arguments, **variables) as running:
        info = psycopg.conninfo.conninfo_to_dict(running.app)
        assert (info["host"], info["port"], info["user"]) == ("127.0.0.1", port, "app")
        assert run_to_the_end(running.app) == "completed"
        with psycopg.connect(running.admin) as conn:
            assert conn.execute("select current_user, count(*) from df.instances").fetchone() == ("postgres", 1)
        # What it prints, pasted into a shell.
        exports = "".join(line + "\n" for line in running.said.splitlines() if line.startswith("  export "))
        shell = ["bash", "-c", f"{exports} {sys.executable} -m pg_durable list"]
        done = subprocess.run(shell, env=environment(), capture_output=True, text=True, check=True, timeout=60)
        assert "completed" in done.stdout
        taken = command("dev", "--data", str(home / "another"), "--port", port)
        assert taken.returncode == 1
        assert f"port {port} of 127.0.0.1" in taken.stderr and "Traceback" not in taken.stderr


def test_what_alter_system_has_set_is_kept_and_the_version_is_the_folders(home: Path) -> None:
    with dev(home, "--version", "16") as running, psycopg.connect(running.admin, autocommit=True) as conn:
        conn.execute("alter system set work_mem = '7MB'")
        conn.execute("alter system set max_connections = 123")
    with dev(home) as running, psycopg.connect(running.admin) as conn:
        shown = conn.execute(
            "select current_setting('work_mem'), current_setting('max_connections'), current_setting('server_version')"
        ).fetchone()
        assert shown and shown[:2] == ("7MB", "123") and shown[2].startswith("16.")
    other = command("dev", "--data", str(home / "dev"), "--version", "18")
    assert (other.returncode, other.stdout) == (1, "")
    assert re.match(r"pg-durable: PostgreSQL 16 made \S+, and PostgreSQL 18 cannot read it\n", other.stderr)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--data", "{home}/full"], 1, "is not empty, and no data directory"),
        (["--data", "{home}/file"], 1, "File exists"),
        (["--port", "0"], 2, "no port"),
        (["--port", "many"], 2, "no port"),
    ],
)
def test_what_cannot_be_is_said(home: Path, arguments: list[str], code: int, said: str) -> None:
    (home / "full" / "data").mkdir(parents=True)
    (home / "full" / "data" / "something").touch()
    (home / "file").touch()
    done = command("dev", *(argument.format(home=home) for argument in arguments))
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr and "Traceback" not in done.stderr
