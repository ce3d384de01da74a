"""One worker for several databases: each is served, none keeps the others waiting, and all is told by database."""

import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from pg_durable.cli.worker_command import connection_strings
from pg_durable.errors import CommandError
from pg_durable.login import names

from tests.cluster import free_port
from tests.support import Database, Server, wait_until
from tests.worker.http_server import HttpServer
from tests.worker.process import Gate, SpawnWorker, await_end, begin, run, start, status
from tests.worker.test_command import command


@pytest.fixture
def second(server: Server, template: str) -> Iterator[Database]:
    """Another database of the same server."""
    database = Database.clone(server, template)
    yield database
    database.drop()


@pytest.fixture
def both(db: Database, second: Database) -> list[Database]:
    return [db, second]


def arguments(both: list[Database], *more: str) -> tuple[str, ...]:
    """The command line: the fixture spawn gives the first database itself."""
    return ("--dsn", both[1].dsn("durable_worker"), *more)


def test_steps_and_requests_of_both_are_run(both: list[Database], web: HttpServer, spawn: SpawnWorker) -> None:
    for db in both:
        db.admin("select df.http_allow('127.0.0.1', allow_private => true)")
    port = free_port()
    worker = spawn(*arguments(both, "--metrics", str(port)))
    for number, db in enumerate(both):
        path = f"/ok/of/{number}"
        flow = "'select 1' ~> df.http(%s, 'GET') ~> 'vacuum' ~> df.sleep(0.1)"
        assert await_end(db, begin(db, flow, web.url(path)), 60) == "completed"
        assert path in [request.path for request in web.received]
        assert await_end(db, start(db, "'select 1/0'"), 60) == "failed"
    failed = re.compile(r"run failed database=(\w+)")
    wait_until(lambda: set(failed.findall(worker.log)) == {db.name for db in both}, 30)
    page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    for db in both:
        of_it = {name: value for name, value in re.findall(rf'^(\w+){{database="{db.name}".*?}} (\S+)$', page, re.M)}
        assert of_it["pg_durable_worker_up"] == "1.0"
        assert float(of_it["pg_durable_worker_calls_total"]) > 0
        assert {"pg_durable_runs", "pg_durable_worker_leased_total", "pg_durable_worker_sessions"} <= set(of_it)
    assert worker.stop() == 0
    for db in both:
        assert f"stopped database={db.name}" in worker.log
        assert db.admin("select count(*) from df._worker_epoch") == 0


def test_every_event_names_its_database_also_where_the_other_one_has_freed_the_slot(
    both: list[Database], spawn: SpawnWorker
) -> None:
    worker = spawn(*arguments(both, "--sessions", "1", "--log-format", "json"))
    runs = [(db, start(db, "'select 1'")) for _ in range(5) for db in both]
    assert {await_end(db, instance, 60) for db, instance in runs} == {"completed"}
    worker.stop()
    events = [json.loads(line) for line in worker.log.splitlines()]
    for event in ("registered", "session opened", "session closed", "stopped"):
        assert {said["database"] for said in events if said["event"] == event} == {db.name for db in both}
    pids = {said["pid"]: said["database"] for said in events if said["event"] == "session opened"}
    assert all(pids[said["pid"]] == said["database"] for said in events if said["event"] == "session closed")


def test_a_busy_database_does_not_starve_the_other_and_both_share_the_sessions(
    both: list[Database], spawn: SpawnWorker
) -> None:
    busy, calm = both
    spawn(*arguments(both, "--sessions", "4"))
    gates = [Gate(db) for db in both]
    runs = [(busy, start(busy, f"'{Gate.STEP}'")) for _ in range(10)]
    wait_until(lambda: gates[0].waiting == 2, 30)
    assert run(calm, "'select 1 as one' ~> 'vacuum' ~> 'select 2 as two'", 60)["rows"] == [{"two": 2}]
    assert gates[0].waiting == 2, "nothing of the busy one has ended meanwhile"
    runs += [(calm, start(calm, f"'{Gate.STEP}'")) for _ in range(10)]
    wait_until(lambda: gates[1].waiting == 2, 30)
    late = start(busy, "'select 1'", user="other")
    reason = "select wait_reason from df.instances where id = %s"
    why = "all 4 sessions of the worker are busy, 2 of them for other databases"
    wait_until(lambda: why in (busy.admin(reason, late) or ""), 30, "the reason why it waits")
    assert [gate.waiting for gate in gates] == [2, 2]
    for gate in gates:
        gate.open()
    assert {await_end(db, instance, 60) for db, instance in [*runs, (busy, late)]} == {"completed"}


def test_a_stopping_worker_lets_the_steps_of_both_end(both: list[Database], spawn: SpawnWorker) -> None:
    worker = spawn(*arguments(both, "--grace", "60"))
    gates = [Gate(db) for db in both]
    runs = [(db, start(db, f"'{Gate.STEP}'")) for db in both]
    wait_until(lambda: all(gate.waiting for gate in gates), 30)
    worker.process.terminate()
    wait_until(lambda: worker.log.count("stopping database=") == 2, 30)
    for gate in gates:
        gate.open()
    assert worker.process.wait(60) == 0
    assert [status(db, instance) for db, instance in runs] == ["completed"] * 2


def test_a_database_that_refuses_the_worker_does_not_disturb_the_other(
    both: list[Database], spawn: SpawnWorker
) -> None:
    refusing = both[1]
    refusing.admin("select df.revoke_worker('durable_worker')")
    port = free_port()
    worker = spawn(*arguments(both, "--metrics", str(port)))
    run(both[0], "'select 1'", 60)
    worker.logged(f"not connected database={refusing.name}").logged("SELECT df.grant_worker")
    health = f"http://127.0.0.1:{port}/healthz"
    assert urllib.request.urlopen(health).read().decode() == f"ok, but not in touch with {refusing.name}\n"
    refusing.admin("select df.grant_worker('durable_worker')")
    run(refusing, "'select 1'", 60)
    assert urllib.request.urlopen(health).read() == b"ok\n"


def test_databases_are_named_as_they_are_or_with_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGHOST", "PGPORT", "PGSERVICE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PGDATABASE", "shop")
    assert names(["", "dbname=stock"]) == ["shop", "stock"]
    assert names(["service=far"]) == ["far"]
    assert names(["host=a", "host=b port=6000", "postgresql://c/stock"]) == ["a:5432/shop", "b:6000/shop", "stock"]
    with pytest.raises(CommandError, match="same database: a:5432/shop"):
        names(["host=a", "host=a dbname=shop user=other"])


def test_connection_strings_come_from_the_command_line_and_a_file(tmp_path: Path) -> None:
    file = tmp_path / "databases"
    file.write_text("# two\nhost=a dbname=x\n\n  postgresql://b/y  \n")
    assert connection_strings("of the environment", None) == ["of the environment"]
    assert connection_strings(["one", "two"], None) == ["one", "two"]
    assert connection_strings("of the environment", str(file)) == ["host=a dbname=x", "postgresql://b/y"]
    assert connection_strings(["one"], str(file)) == ["one", "host=a dbname=x", "postgresql://b/y"]
    file.write_text("# none\n")
    done = command("worker", PG_DURABLE_DSN_FILE=str(file))
    assert (done.returncode, done.stderr) == (1, f"pg-durable: {file}: there is no connection string in it\n")
