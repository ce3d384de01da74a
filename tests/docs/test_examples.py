"""The scenarios of examples/, each played as a user plays it, with a worker."""

import os
import subprocess
import sys

import pytest

from examples.scenario import SCENARIOS
from generator.render import ROOT
from tests import state
from tests.cluster import free_port
from tests.support import Database, wait_until
from tests.worker.conftest import spawn, worker  # noqa: F401 - fixtures
from tests.worker.process import WorkerProcess


def play(*arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "worker")}
    command = [sys.executable, "-m", "examples", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)


def ended(process: subprocess.Popen[str], seconds: float = 60) -> str:
    out, err = process.communicate(timeout=seconds)
    assert process.returncode == 0, out + err
    return out


def service(name: str, db: Database) -> tuple[str, ...]:
    """The arguments of a scenario with a web service, once it may be called."""
    if name != "http":
        return ()
    port = free_port()
    db.admin("select df.http_allow('127.0.0.1:' || %s::int, allow_private => true)", port)
    return ("--port", str(port))


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_ends_as_its_check_says(name: str, db: Database, worker: WorkerProcess) -> None:  # noqa: F811
    process = play(name, "--dsn", db.dsn("app"), *service(name, db))  # nobody waits for its first full minute
    wait_until(lambda: db.admin(state.SCHEDULES_ARE_DUE) or process.poll() is not None, 60, f"the end of {name}")
    assert ended(process).endswith(f"{name}: as expected.\n")
    assert db.admin(LEFT) == 0


def test_a_check_that_does_not_hold_is_an_error(db: Database, worker: WorkerProcess) -> None:  # noqa: F811
    db.admin("create function deny() returns event_trigger language plpgsql as $$ begin raise 'not here'; end $$")
    db.admin(
        "create event trigger deny on ddl_command_end when tag in ('REFRESH MATERIALIZED VIEW') execute function deny()"
    )
    process = play("aggregation", "--dsn", db.dsn("app"))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.startswith("NOT as expected: failed")


@pytest.mark.parametrize("name", ["aggregation", "http"])
def test_without_a_dsn_it_makes_a_server(name: str) -> None:
    assert f"{name}: as expected." in ended(play(name))


@pytest.mark.slow
def test_documents_are_found_by_what_they_mean() -> None:
    out = ended(play("rag", "--documents", "4"), 300)
    assert out.endswith("rag: as expected.\n")
    assert max(map(len, out.splitlines())) < 80


LEFT = "select count(*) from df.instances where status in ('pending', 'running')"
