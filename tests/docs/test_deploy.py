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
from tests.worker.process import SpawnWorker, run, start

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
DASHBOARD = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = {alert["alert"]: [alert["expr"]] for alert in ALERTS} | {
    panel["title"]: [target["expr"] for target in panel["targets"]] for panel in PANELS
}
GROUPING = r"\b(?:by|without|ignoring|on|group_left|group_right)\s*\(([^)]*)\)"
PROMQL_WORDS = {"and", "or", "unless", "bool", "offset"}
ADDED_BY_PROMETHEUS = {"job", "instance", "le"}


def metrics_and_labels(expression: str) -> tuple[set[str], set[str]]:
    """The names that a PromQL expression asks for: what is no function, no word of the language, and not quoted."""
    text = re.sub(r"\[[^\]]*\]", "", re.sub(r'"[^"]*"', '""', expression))
    labels = {name for inside in re.findall(r"{([^}]*)}", text) for name in re.findall(r"(\w+)\s*[=!]", inside)}
    labels |= {name.strip() for listed in re.findall(GROUPING, text) for name in listed.split(",")}
    text = re.sub(GROUPING, "", re.sub(r"{[^}]*}", "", text))
    return set(re.findall(r"\b[a-zA-Z_:]\w*\b(?!\s*\()", text)) - PROMQL_WORDS, labels


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


def test_what_alerts_and_dashboard_ask_for_is_served(db: Database, spawn: SpawnWorker) -> None:  # noqa: F811
    port = free_port()
    spawn("--metrics", str(port))
    run(db, "'select 1'")
    run(db, "'vacuum'")
    start(db, "'select pg_sleep(60)'")
    pages: list[str] = []

    def served() -> dict[str, set[str]]:
        """The labels of each metric that has been shown."""
        pages.append(page(port, "metrics"))
        found: dict[str, set[str]] = {}
        for name, labels in re.findall(r"^(\w+)(?:{(.*)})? ", "\n".join(pages), re.MULTILINE):
            found.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
        return found

    wait_until(lambda: "pg_durable_queue_ready" in served(), 30)
    shown = served()
    for title, expressions in EXPRESSIONS.items():
        for metrics, labels in map(metrics_and_labels, expressions):
            assert metrics and metrics <= set(shown), f"{title}: {metrics - set(shown)}"
            known = set().union(*(shown[name] for name in metrics)) | ADDED_BY_PROMETHEUS
            assert labels <= known, f"{title}: {labels - known}"
    values = re.compile(r'\w+{\w+="\w+"}')
    assert set(values.findall(str(ALERTS))) <= set(values.findall(pages[-1]))


@pytest.mark.parametrize(
    ("expression", "metrics", "labels"),
    [
        ('max by (role, lane) (rate(a_b{job=~"x{y}",k!="v"}[5m]))', {"a_b"}, {"role", "lane", "job", "k"}),
        ("a >= ignoring(state) b and rate(c[1h:5m] offset 5m) > 0.5", {"a", "b", "c"}, {"state"}),
    ],
)
def test_names_of_promql_are_found(expression: str, metrics: set[str], labels: set[str]) -> None:
    assert metrics_and_labels(expression) == (metrics, labels)


def test_the_panels_of_the_dashboard_stand_beside_each_other() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids) > 15
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    for panel in PANELS:
        assert panel["title"] and panel["description"]
        assert [target["refId"] for target in panel["targets"]] == list("ABCDEF"[: len(panel["targets"])])


def test_what_alerts_and_dashboard_tell_to_ask_is_sql_that_runs(db: Database) -> None:
    texts = [alert["annotations"]["description"] for alert in ALERTS] + [panel["description"] for panel in PANELS]
    queries = [query for text in texts for query in re.findall(r"SELECT [^;]*", text)]
    assert len(queries) > 8
    for query in queries:
        db.sql(query)


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_says_what_it_means(alert: dict[str, dict[str, str]]) -> None:
    assert set(alert) - {"for"} == {"alert", "expr", "labels", "annotations"}
    assert set(alert["annotations"]) == {"summary", "description"}
    assert alert["labels"]["severity"] in ("critical", "warning", "info")
