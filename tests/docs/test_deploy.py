"""The files of deploy/: the lines of the container file run in a directory, unit and alerts tried on a worker."""

import configparser
import json
import os
import re
import shlex
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError

import pytest
import yaml
from pg_durable import cli

from generator.render import ROOT
from tests.cluster import free_port
from tests.support import Database, wait_until
from tests.worker.conftest import spawn, worker  # noqa: F401 - fixtures
from tests.worker.process import SpawnWorker

DEPLOY = ROOT / "deploy"
CONTAINER = dict(
    line.split(" ", 1) for line in (DEPLOY / "Containerfile").read_text().splitlines() if not line.startswith("#")
)
UNIT = configparser.ConfigParser(interpolation=None)
UNIT.optionxform = str  # type: ignore[method-assign,assignment]
UNIT.read(DEPLOY / "pg-durable-worker.service")
ALERTS = [
    rule for group in yaml.safe_load((DEPLOY / "prometheus-rules.yml").read_text())["groups"] for rule in group["rules"]
]
METRIC = re.compile(r"\bpg_durable_\w+")


def page(port: int, path: str) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}") as answer:
            return str(answer.read().decode())
    except URLError:
        return ""


@contextmanager
def running(command: list[str], db: Database) -> Iterator[None]:
    """A worker that finds its database in the variables of libpq."""
    info = dict(part.split("=", 1) for part in shlex.split(db.dsn("durable_worker")))
    environment = os.environ | {"PGHOST": info["host"], "PGDATABASE": info["dbname"], "PGUSER": info["user"]}
    if "port" in info:
        environment["PGPORT"] = info["port"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()
            assert process.wait(20) == 0


@pytest.mark.slow
def test_what_the_containerfile_does_is_a_worker(db: Database, tmp_path: Path) -> None:
    source, home = tmp_path / "src", tmp_path / "venv"
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert CONTAINER["COPY"] == ". /src"
    for name in filter(None, files.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run([sys.executable, "-m", "venv", home], check=True)
    steps = CONTAINER["RUN"].replace("/src", str(source))
    subprocess.run(f"PATH={home}/bin:$PATH; {steps}", shell=True, check=True, stdout=subprocess.DEVNULL)
    command = json.loads(CONTAINER["CMD"])
    port = free_port()
    with running([str(home / "bin" / command[0]), *command[1:-1], f"127.0.0.1:{port}"], db):
        wait_until(lambda: page(port, "healthz") == "ok\n", 30, "a healthy worker")


def test_the_unit_starts_a_worker(db: Database) -> None:
    path, *arguments = shlex.split(UNIT["Service"]["ExecStart"])
    assert path.endswith("/bin/pg-durable")
    grace = cli.parser().parse_args(arguments).grace
    assert grace < int(UNIT["Service"]["TimeoutStopSec"]), "systemd must not kill what is still leaving"
    port = free_port()
    arguments[-1] = str(port)
    with running([sys.executable, "-m", "pg_durable", *arguments], db):
        wait_until(lambda: page(port, "healthz") == "ok\n", 30, "a healthy worker")


def test_the_metrics_of_the_alerts_are_served(spawn: SpawnWorker) -> None:  # noqa: F811
    port = free_port()
    spawn("--metrics", str(port))
    wait_until(lambda: 'pg_durable_worker_sessions{state="' in page(port, "metrics"))
    served = set(re.findall(r"^(?:# TYPE )?(\w+)(?:\{| )", page(port, "metrics"), re.MULTILINE))
    named = {name for alert in ALERTS for name in METRIC.findall(alert["expr"])}
    assert len(named) >= 5
    assert named <= served
    label = re.compile(r'\w+\{\w+="\w+"\}')
    assert set(label.findall(str(ALERTS))) <= set(label.findall(page(port, "metrics")))


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_says_what_it_means(alert: dict[str, dict[str, str]]) -> None:
    assert set(alert) - {"for"} == {"alert", "expr", "labels", "annotations"}
    assert set(alert["annotations"]) == {"summary", "description"}
    assert alert["labels"]["severity"] in ("critical", "warning", "info")
