"""What an operator looks for in a worker's log: runs that failed, sessions that it may not open, a port in use."""

import json
import socket
import subprocess

from tests.support import Database, wait_until
from tests.worker.process import SpawnWorker, WorkerProcess, await_end, start
from tests.worker.test_command import command


def failures(worker: WorkerProcess) -> list[str]:
    return [line for line in worker.log.splitlines() if " run failed " in line]


def test_a_failed_run_is_logged_once_on_one_line(db: Database, worker: WorkerProcess) -> None:
    flow = r"""'do $x$ begin raise exception E''first\nsecond \x1b[31m''; end $x$'"""
    run_id = start(db, flow, label="nightly")
    assert await_end(db, run_id) == "failed"
    worker.logged("run failed")
    node = db.admin("select id from df.nodes where instance_id = %s and node_type = 'SQL'", run_id)
    second = start(db, "'select 1 / 0'")
    assert await_end(db, second) == "failed"
    worker.logged("division by zero")
    assert worker.stop() == 0
    first, last = failures(worker)
    assert f"instance={run_id} label=nightly node={node} error=" in first
    assert r"first\nsecond \u001b[31m" in first
    assert f"instance={second} " in last


def test_a_run_that_fails_just_before_the_worker_stops_is_logged(db: Database, worker: WorkerProcess) -> None:
    assert await_end(db, start(db, "'select 1 / 0'", label="last")) == "failed"
    worker.stop()
    assert len(failures(worker)) == 1


def test_the_failure_of_a_run_as_a_whole_is_logged(db: Database, spawn: SpawnWorker) -> None:
    worker = spawn("--log-format", "json")
    db.admin("create role leaves login; select df.grant_usage('leaves')")
    run_id = start(db, "df.sleep(1) ~> 'select 1'", user="leaves")
    db.connections.pop("leaves").close()
    wait_until(lambda: db.admin("select count(*) from df.waiting where instance_id = %s", run_id))
    db.admin("drop owned by leaves; drop role leaves")
    assert await_end(db, run_id) == "failed"
    worker.logged(run_id)
    events = [json.loads(line) for line in worker.log.splitlines()]
    assert [e["error"] for e in events if e["event"] == "run failed"] == ["role leaves does not exist any more"]


def test_more_sessions_than_the_setting_allows_are_said(db: Database, spawn: SpawnWorker) -> None:
    worker = spawn("--sessions", "50").logged("fewer sessions than asked for")
    assert "sessions=50 max_user_connections=10" in worker.log
    assert "SELECT df.set_setting('max_user_connections', '50')" in json.loads(
        worker.log.split(" hint=")[1].split("\n")[0]
    )
    assert "fewer sessions" not in spawn("--sessions", "5").logged("registered").log


def test_a_busy_port_is_a_clear_message(db: Database) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done: subprocess.CompletedProcess[str] = command(
            "worker", "--dsn", db.dsn("durable_worker"), "--metrics", address
        )
    assert done.returncode == 1
    assert done.stderr == (
        f"pg-durable: cannot serve metrics on {address}: Address already in use. Choose another --metrics [HOST:]PORT\n"
    )
