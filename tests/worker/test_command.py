"""The command line: version, install, log formats."""

import json
import os
import subprocess
import sys
from importlib.metadata import version

import pytest
from pg_durable.cli import install

from generator.render import ROOT, artifacts
from tests import state
from tests.support import Database
from tests.worker.process import SpawnWorker


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "worker")}
    arguments = (sys.executable, "-m", "pg_durable", *arguments)
    return subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False, timeout=30)


def test_version() -> None:
    assert command("--version").stdout == f"pg-durable {version('pg-durable')}\n"


def test_install_can_be_run_again(db: Database) -> None:
    done = command("install", "--dsn", db.dsn(), "--worker-role", "durable_worker")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"is installed in database {db.name}" in done.stdout
    assert db.admin(state.WORKER_ROLES) == 1


def test_the_installer_is_the_generated_one() -> None:
    assert install.script() == artifacts()["dist/pg_durable.sql"]


def test_what_cannot_be_done_is_one_line() -> None:
    done = command("install", "--dsn", "host=/nowhere user=nobody")
    assert done.returncode == 1
    assert done.stderr.startswith("pg-durable: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["worker", "--sessions", "0"], ["worker", "--log-format", "xml"], ["nothing"]])
def test_wrong_usage(arguments: list[str]) -> None:
    assert command(*arguments).returncode == 2


def test_the_log_is_json_on_request(spawn: SpawnWorker) -> None:
    worker = spawn("--log-format", "json")
    worker.stop()
    events = [json.loads(line) for line in worker.log.splitlines()]
    assert [event["event"] for event in events][:1] == ["registered"]
    assert events[0]["worker"] == worker_number(events)
    assert events[-1]["event"] == "stopped"


def worker_number(events: list[dict[str, object]]) -> object:
    return next(event["worker"] for event in events if "worker" in event)
