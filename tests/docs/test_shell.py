"""The shell lines of the pages: run on a server of their own, or tested elsewhere, or with a reason why not."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pg_durable.embedded import EmbeddedServer

from generator.render import ROOT
from tests.docs.test_blocks import PAGES
from tests.support import Database, Server, wait_until
from tests.worker.conftest import own_server  # noqa: F401 - a fixture

FENCE = re.compile(r"^```(?:sh|bash)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NOT_HERE = {
    r"make demo": "test_demo",
    r"(\.venv/bin/)?pg-durable (dev|worker|web)\b": "test_tutorial, test_deploy, tests/web",
    r"pg-durable embed\b|psql .*(EXTENSION vector|ai\.grant)|-c .*http_allow": "tests/ai",
    r"pip install|python3 -m venv|\S+/pip install": "test_deploy installs it so",
    r"\.venv/bin/python -m examples": "test_examples",
    r"make bench|\.venv/bin/python -m benchmarks": "takes long, and measures",
    r"useradd|install -D|(PG|OTEL_)[A-Z_]+=|END$|cp deploy|systemctl": "would change this machine; see test_deploy",
    r'psql "host=(c1|front)\.example': "tests/fleet/test_page.py",
    r"openssl|pg-durable secret\b": "tests/worker/test_secrets.py",
    r"pg-durable test\b": "tests/language/test_test_command.py",
    r"kubectl": "no cluster; test_deploy checks the manifests and runs the pod's commands",
    r"podman": "no container engine; test_deploy runs the lines of the container file",
}


def lines() -> list[tuple[str, str]]:
    """Page and line of everything that a shell is given."""
    return [
        (page.path.name, line.partition("  #")[0].strip())
        for page in PAGES
        for block in FENCE.findall(page.text)
        for line in block.splitlines()
    ]


def runnable() -> list[tuple[str, str]]:
    return [(page, line) for page, line in lines() if not any(re.match(pattern, line) for pattern in NOT_HERE)]


def test_every_line_is_a_known_one() -> None:
    assert len(runnable()) >= 9
    assert [line for _, line in runnable() if line.split()[0] not in PROGRAMS] == []
    for pattern in NOT_HERE:
        assert any(re.match(pattern, line) for _, line in lines()), f"no page has {pattern} any more"


def test_the_lines_do_what_they_say(own_server: EmbeddedServer, tmp_path: Path) -> None:  # noqa: F811
    if not (own_server.bin / "createuser").exists():
        pytest.skip("the embedded server has no createuser")
    admin = Database(Server(own_server.dsn()), "postgres")
    host = own_server.dsn().split()[0]
    for statement in (
        "role app login",
        "role owner login",
        "database mydb",
        "database shop owner owner",
        "database copy",
    ):
        admin.admin(f"create {statement}")
    for page, line in runnable():
        done = shell(line, host, own_server.bin, tmp_path)
        assert done.returncode == 0, f"{page}: {line}\n{done.stderr}"
    for name in ("mydb", "copy"):
        assert Database(Server(own_server.dsn()), name).admin("select df.version() is not null")
    assert Database(Server(own_server.dsn()), "shop").admin(LEFT) == 0, "the last lines uninstall it"
    wait_until(lambda: (tmp_path / "shop.sql").stat().st_size > 0)


def shell(line: str, host: str, binaries: Path, directory: Path) -> "subprocess.CompletedProcess[str]":
    """A line, with the names of the pages replaced by those of here."""
    for name, here in NAMES.items():
        line = line.replace(name, here.format(host=host))
    line = line.replace("pg-durable", f"{sys.executable} -m pg_durable")
    (directory / "dist").mkdir(exist_ok=True)
    (directory / "dist" / "pg_durable.sql").write_bytes((ROOT / "dist" / "pg_durable.sql").read_bytes())
    environment = os.environ | {
        "PATH": f"{binaries}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT / "worker"),
        "PGHOST": host.partition("=")[2], "PGUSER": "postgres",
    }  # fmt: skip
    return subprocess.run(
        ["bash", "-c", line], env=environment, cwd=directory, capture_output=True, text=True, timeout=60, check=False
    )


LEFT = """
select (select count(*) from pg_namespace where nspname ~ '^df')
     + (select count(*) from pg_operator where oprnamespace = 'public'::regnamespace)
     + (select count(*) from pg_proc where pronamespace = 'public'::regnamespace)"""
PROGRAMS = ("psql", "createuser", "pg_dump", "pg-durable")
NAMES = {
    "host=db.example": "{host}",
    "host=other.example dbname=shop": "{host} dbname=copy",
}
