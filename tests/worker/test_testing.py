"""pg_durable.testing, as the suite of a user has it: pytest in a folder of its own."""

import subprocess
import sys
import tomllib
from pathlib import Path

import psycopg
import pytest
from pg_durable import testing
from pg_durable.client import Client
from psycopg.conninfo import conninfo_to_dict

from generator.render import ROOT
from tests.support import Server
from tests.terminal import environment

PLUGIN = "pg_durable.pytest_plugin"

FLOWS = """
def test_virtual(durable):
    durable.conn.execute("create table fx (t text)")
    moves = durable.test("'insert into fx values (''a'')' ~> sleep(86400) ~> wait_for_signal('go') |=> 'go'",
                         mocks={"signals": {"go": {"ok": True}}})
    assert moves[-1].status == "completed"
    assert moves[-1].at.days == 1
    assert moves[-1].value["data"] == {"ok": True}
    assert durable.conn.execute("select t from fx").fetchall() == [("a",)]


def test_a_database_of_its_own(durable):
    assert durable.conn.execute("select to_regclass('fx')").fetchone() == (None,)
    assert durable.test("'select 1/0'")[-1].status == "failed"


def test_worker(durable):
    assert durable.run("'select $input.n * 2 as n'", input={"n": 21}) == [{"n": 42}]


def test_failure_with_a_worker(durable):
    import pytest
    from pg_durable.client import RunError
    with pytest.raises(RunError, match="division by zero"):
        durable.run("'select 1/0'")
    assert durable.run("'select 1 as n'") == [{"n": 1}]
"""
UNRELATED = """
import sys

def test_nothing_is_imported(request):
    assert "psycopg" not in sys.modules
    assert "pytest_postgresql" not in sys.modules
    assert "durable" not in request.fixturenames
"""


def pytest_in(folder: Path, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a file of tests as a user does, with no plugins but those that are named."""
    (folder / "test_flows.py").write_text(text)
    line = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", PLUGIN, *arguments, str(folder))
    variables = environment(PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    return subprocess.run(line, env=variables, cwd=folder, capture_output=True, text=True, check=False, timeout=300)


def on(server: Server) -> list[str]:
    """The options with which pytest-postgresql finds a server."""
    found = conninfo_to_dict(server.dsn)
    options = ["-p", "pytest_postgresql.plugin", f"--postgresql-dbname=user_{id(server)}"]
    for name in ("host", "port", "user", "password"):
        options += [f"--postgresql-{name}={found[name]}"] if found.get(name) else []
    return options


def test_the_fixture(server: Server, tmp_path: Path) -> None:
    done = pytest_in(tmp_path, FLOWS, *on(server))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout
    with psycopg.connect(server.dsn) as conn:
        assert conn.execute("select datname from pg_database where datname like 'user\\_%'").fetchall() == []


def test_a_suite_that_does_not_use_it(tmp_path: Path) -> None:
    done = pytest_in(tmp_path, UNRELATED)
    assert done.returncode == 0, done.stdout + done.stderr


def test_without_pytest_postgresql_it_says_what_is_missing(tmp_path: Path) -> None:
    done = pytest_in(tmp_path, FLOWS)
    assert done.returncode == 1
    assert "pip install 'pg-durable[testing]'" in done.stdout


def test_the_package_needs_no_pytest() -> None:
    code = "import sys; sys.modules['pytest'] = None; import pg_durable.testing, pg_durable.cli"
    done = subprocess.run((sys.executable, "-c", code), env=environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_pytest_is_told_of_the_plugin() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"pg_durable": PLUGIN}
    assert any(line.startswith("pytest-postgresql") for line in project["optional-dependencies"]["testing"])


@pytest.mark.slow
def test_a_server_with_a_worker() -> None:
    with testing.server() as found, Client(found.dsn) as client:
        run = client.start("'select 6 * 7 as n' ~> sleep(0.01) ~> 'select 42 as n'")
        assert client.wait(run, 60) == "completed"
        assert client.result(run) == [{"n": 42}]
