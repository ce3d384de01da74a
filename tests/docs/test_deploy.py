"""The files of deploy/: the lines of the container file run in a directory, unit, pod and alerts tried on a worker."""

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
from typing import Any
from urllib.error import URLError

import kubernetes_validate
import pytest
import yaml
from pg_durable import cli

from generator.render import ROOT
from tests.cluster import free_port
from tests.support import Database, wait_until
from tests.worker.conftest import spawn, worker  # noqa: F401 - fixtures
from tests.worker.process import SpawnWorker, run, start

DEPLOY = ROOT / "deploy"
CONTAINER = [
    line.split(" ", 1) for line in (DEPLOY / "Containerfile").read_text().splitlines() if re.match("[A-Z]", line)
]
FROM = [number for number, (kind, _) in enumerate(CONTAINER) if kind == "FROM"]
INSTRUCTIONS = [(sum(n <= number for n in FROM), kind, text) for number, (kind, text) in enumerate(CONTAINER)]
MANIFESTS = list(yaml.safe_load_all((DEPLOY / "kubernetes" / "worker.yaml").read_text()))
WEB = list(yaml.safe_load_all((DEPLOY / "kubernetes" / "web.yaml").read_text()))
EMBED = list(yaml.safe_load_all((DEPLOY / "kubernetes" / "embed.yaml").read_text()))
KUBERNETES = "1.31"
READ_ONLY = """
import errno, os, sys
def hook(event, arguments):
    writes = event == 'open' and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and arguments[0] != '/dev/null'
    if writes or event in ('os.mkdir', 'os.rename', 'os.remove'):
        raise OSError(errno.EROFS, 'read-only', str(arguments[0]))
sys.addaudithook(hook)
"""
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
def running(command: list[str], db: Database, **variables: str) -> Iterator[None]:
    """A worker that finds its database in the variables of libpq."""
    info = dict(part.split("=", 1) for part in shlex.split(db.dsn("durable_worker")))
    environment = (
        os.environ | {"PGHOST": info["host"], "PGDATABASE": info["dbname"], "PGUSER": info["user"]} | variables
    )
    if "port" in info:
        environment["PGPORT"] = info["port"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()
            assert process.wait(20) == 0


def stage(number: int, instruction: str) -> list[str]:
    """What an instruction of a stage of the container file says, each time."""
    return [text for found, kind, text in INSTRUCTIONS if (found, kind) == (number, instruction)]


@pytest.mark.slow
def test_what_the_containerfile_does_is_a_worker_that_writes_nothing(db: Database, tmp_path: Path) -> None:
    copy_sources(tmp_path)
    home = tmp_path / "venv"
    [steps] = stage(1, "RUN")
    steps = steps.replace("/src", f"{tmp_path}/src").replace("/opt/pg_durable", str(home))
    steps = steps.replace("python ", f"{sys.executable} ", 1)
    subprocess.run(steps, shell=True, check=True, stdout=subprocess.DEVNULL)
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(READ_ONLY)
    assert stage(2, "COPY") == ["--from=build /opt/pg_durable /opt/pg_durable"]
    [program], *_ = (json.loads(text) for text in stage(2, "ENTRYPOINT"))
    [variables] = stage(2, "ENV")
    command = [program.replace("/opt/pg_durable", str(home)), *json.loads(stage(2, "CMD")[0])]
    port = free_port()
    command[command.index("0.0.0.0:9187")] = f"127.0.0.1:{port}"
    read_only = {"PYTHONPATH": str(tmp_path / "hook"), **dict([variables.split("=")])}
    refused = subprocess.run([home / "bin/python", "-c", "open('x', 'w')"], env=read_only, cwd=tmp_path, check=False)
    assert refused.returncode == 1
    with running(command, db, **read_only):
        wait_until(lambda: page(port, "healthz") == "ok\n", 30, "a healthy worker")
        run(db, "'select 1' ~> 'vacuum'")


def copy_sources(target: Path) -> None:
    """What the first stage of the container file copies, of what git knows."""
    for text in stage(1, "COPY"):
        *names, to = text.split()
        listed = subprocess.run(["git", "ls-files", "-z", *names], cwd=ROOT, capture_output=True, text=True, check=True)
        for name in filter(None, listed.stdout.split("\0")):
            below = Path(name).relative_to(names[0]) if (ROOT / names[0]).is_dir() else Path(name)
            path = target / to.strip("/") / below
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes((ROOT / name).read_bytes())


def test_the_container_is_not_root() -> None:
    assert stage(2, "USER") == ["65534:65534"]
    assert {number for number, *_ in INSTRUCTIONS} == {1, 2}


@pytest.mark.parametrize(
    "manifest", MANIFESTS + WEB + EMBED, ids=lambda manifest: f"{manifest['metadata']['name']} {manifest['kind']}"
)
def test_a_manifest_follows_the_schema(manifest: dict[str, Any]) -> None:
    """The schemas of Kubernetes, strictly: no field that it does not know. What it would do with them is not shown."""
    kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest | {"unheard_of": 2}, KUBERNETES, strict=True)


def test_the_manifests_name_each_other_and_what_the_container_has() -> None:
    by_kind = {manifest["kind"]: manifest for manifest in MANIFESTS}
    deployment, secret = by_kind["Deployment"]["spec"], by_kind["Secret"]
    pod = deployment["template"]
    [container] = pod["spec"]["containers"]
    labels = pod["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"].items() <= labels.items()
    assert by_kind["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert by_kind["PodDisruptionBudget"]["spec"]["minAvailable"] < deployment["replicas"]
    assert container["envFrom"] == [{"configMapRef": {"name": by_kind["ConfigMap"]["metadata"]["name"]}}]
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    assert volumes["secret"]["secret"]["secretName"] == secret["metadata"]["name"]
    for each in (*pod["spec"]["initContainers"], container):
        assert {mount["name"] for mount in each["volumeMounts"]} <= set(volumes)
        assert each["securityContext"]["readOnlyRootFilesystem"] is True
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    options = cli.parser().parse_args(container["args"])
    assert options.metrics == f"0.0.0.0:{ports['metrics']}"
    assert str(ports["metrics"]) in stage(2, "EXPOSE")[0].split()
    assert {container[probe]["httpGet"]["port"] for probe in ("readinessProbe", "livenessProbe")} <= set(ports)
    assert options.grace < pod["spec"]["terminationGracePeriodSeconds"]
    assert f"{pod['spec']['securityContext']['runAsUser']}:65534" == stage(2, "USER")[0]


def test_the_manifests_of_the_page_name_each_other_and_what_the_container_has() -> None:
    by_kind = {manifest["kind"]: manifest for manifest in WEB}
    pod = by_kind["Deployment"]["spec"]["template"]
    [container] = pod["spec"]["containers"]
    options = cli.parser().parse_args(container["args"])
    [port] = container["ports"]
    assert options.listen == f"0.0.0.0:{port['containerPort']}"
    assert str(port["containerPort"]) in stage(2, "EXPOSE")[0].split()
    service = by_kind["Service"]["spec"]
    assert service["selector"].items() <= pod["metadata"]["labels"].items()
    assert service["ports"][0]["targetPort"] == port["name"]
    [key] = by_kind["Secret"]["stringData"]
    assert options.cookie_key_file == f"{container['volumeMounts'][0]['mountPath']}/{key}"
    assert {container[probe]["httpGet"]["path"] for probe in ("readinessProbe", "livenessProbe")} == {"/healthz"}


def test_the_manifests_of_the_model_name_each_other() -> None:
    deployment, service, policy = (manifest["spec"] for manifest in EMBED)
    pod = deployment["template"]
    labels = pod["metadata"]["labels"]
    for selector in (
        deployment["selector"]["matchLabels"],
        service["selector"],
        policy["podSelector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
    [workers] = [manifest["spec"]["template"]["metadata"] for manifest in MANIFESTS if manifest["kind"] == "Deployment"]
    [rule] = policy["ingress"]
    assert rule["from"][0]["podSelector"]["matchLabels"].items() <= workers["labels"].items()
    [container] = pod["spec"]["containers"]
    [port] = container["ports"]
    assert {service["ports"][0]["targetPort"], rule["ports"][0]["port"]} == {port["name"]}
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    options = cli.parser().parse_args(container["args"])
    assert (options.listen, options.port) == ("0.0.0.0", port["containerPort"])
    assert str(options.threads) == container["resources"]["limits"]["cpu"]


def test_the_pod_starts_a_worker_with_a_password_file_that_libpq_takes(db: Database, tmp_path: Path) -> None:
    [deployment] = [manifest for manifest in MANIFESTS if manifest["kind"] == "Deployment"]
    [secret] = [manifest for manifest in MANIFESTS if manifest["kind"] == "Secret"]
    pod = deployment["spec"]["template"]["spec"]
    [prepare], [container] = pod["initContainers"], pod["containers"]
    for folder in ("secret", "passwords"):
        (tmp_path / folder).mkdir()
    [(name, lines)] = secret["stringData"].items()
    (tmp_path / "secret" / name).write_text(lines)
    (tmp_path / "secret" / name).chmod(0o640)
    script = re.sub(r"/(?=(secret|passwords)/)", f"{tmp_path}/", prepare["command"][-1])
    subprocess.run([*prepare["command"][:-1], script], check=True)
    [passfile] = [entry["value"] for entry in container["env"] if entry["name"] == "PGPASSFILE"]
    made = tmp_path / passfile.lstrip("/")
    assert (made.read_text(), made.stat().st_mode & 0o777) == (lines, 0o600)
    port = free_port()
    arguments = [text.replace("0.0.0.0:9187", str(port)) for text in container["args"]]
    with running([sys.executable, "-m", "pg_durable", *arguments], db, PGPASSFILE=str(made)):
        path = container["readinessProbe"]["httpGet"]["path"].lstrip("/")
        wait_until(lambda: page(port, path) == "ok\n", 30, "a healthy worker")


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
    without_database = re.sub(r'(?<={)database="\w+",', "", pages[-1])
    assert set(values.findall(str(ALERTS))) <= set(values.findall(without_database))


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
