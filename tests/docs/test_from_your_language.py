"""Every program of docs/from-your-language.md, with its driver; skipped where that is not installed."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from generator.render import ROOT
from tests.cluster import Cluster, free_port, under_test
from tests.support import Database
from tests.worker.process import WorkerProcess, await_end, own_database

PROGRAM = re.compile(r"^## (?P<heading>[^\n]+)\n(?:(?!^## ).)*?^```\w+\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)
PROGRAMS = {
    match["heading"]: match["code"]
    for match in PROGRAM.finditer((ROOT / "docs/from-your-language.md").read_text("utf-8"))
}
JDBC = Path("/usr/share/java/postgresql.jar")
GO = Path("/usr/share/gocode")


def need(installed: object, what: str) -> None:
    if not installed:
        pytest.skip(f"needs {what}")


def python(module: str) -> Callable[[Path], list[str]]:
    def command(code: Path) -> list[str]:
        need(find_spec(module), module)
        return [sys.executable, str(code)]

    return command


def java(code: Path) -> list[str]:
    need(shutil.which("java") and shutil.which("javac") and JDBC.exists(), "javac, libpostgresql-jdbc-java")
    return ["java", "-cp", str(JDBC), str(code)]


def node(code: Path) -> list[str]:
    need(shutil.which("npm"), "npm")
    done = subprocess.run(["npm", "install", "--silent", "pg"], cwd=code.parent, capture_output=True, check=False)
    need(done.returncode == 0, "the npm package pg")
    return ["node", str(code)]


def go(code: Path) -> list[str]:
    need(shutil.which("go") and (GO / "src/github.com/lib/pq").exists(), "golang-go, golang-github-lib-pq-dev")
    return ["env", "GO111MODULE=off", f"GOPATH={GO}", f"GOCACHE={code.parent}", "go", "run", str(code)]


def perl(code: Path) -> list[str]:
    found = shutil.which("perl") and subprocess.run(["perl", "-MDBD::Pg", "-e1"], capture_output=True, check=False)
    need(found and found.returncode == 0, "libdbd-pg-perl")
    return ["perl", str(code)]


LANGUAGES = {
    "Python, with pg_durable.client": ("start.py", python("psycopg")),
    "psycopg 3": ("start.py", python("psycopg")),
    "SQLAlchemy": ("start.py", python("sqlalchemy")),
    "Java, JDBC": ("Start.java", java),
    "JavaScript, node-postgres": ("start.js", node),
    "Go, lib/pq": ("start.go", go),
    "Perl, DBD::Pg": ("start.pl", perl),
}


@pytest.fixture(scope="module")
def reachable() -> Iterator[Database]:
    """A database on a TCP port, since JDBC knows no Unix sockets; with a worker."""
    options = {"listen_addresses": "127.0.0.1", "port": str(free_port())}
    with Cluster(under_test(), options) as cluster:
        db = own_database(cluster)
        worker = WorkerProcess(db).logged("registered")
        yield db
        worker.kill()


def test_the_page_has_these_languages() -> None:
    assert list(PROGRAMS) == list(LANGUAGES)


@pytest.mark.parametrize("heading", LANGUAGES)
def test_each_line_starts_the_flow_that_it_shows(heading: str, reachable: Database, tmp_path: Path) -> None:
    name, command = LANGUAGES[heading]
    code = tmp_path / name
    code.write_text(PROGRAMS[heading])
    info = conninfo_to_dict(reachable.dsn("app"))
    where = {"PGHOST": "127.0.0.1", "PGPORT": info["port"], "PGDATABASE": info["dbname"], "PGUSER": "app"}
    environment = os.environ | {name: str(value) for name, value in where.items()}
    done = subprocess.run(command(code), env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    runs = done.stdout.split()
    assert len(runs) == PROGRAMS[heading].count("df.start(")
    for run in runs:
        assert await_end(reachable, run) == "completed"
        rows = reachable.sql("select (df.result(%s)::jsonb -> 'rows' -> 0)::text", run)
        assert "odd" in rows, rows
