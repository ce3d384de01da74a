"""HTTP steps from df.start to their result, with a worker and a server that misbehaves."""

import json
from collections import Counter
from typing import Any

import pytest

from tests import state
from tests.support import Database, wait_until
from tests.worker.http_server import HttpServer
from tests.worker.process import SpawnWorker, WorkerProcess, await_end, begin, completed, error, failure


@pytest.fixture
def app(db: Database, web: HttpServer) -> Database:
    """A database in which app may reach the server, and retries come quickly."""
    db.admin("select df.http_allow('127.0.0.1', allow_private => true)")
    db.admin("select df.set_setting('retry_initial_delay', '50 ms'), df.set_setting('retry_max_delay', '100 ms')")
    return db


def http_node(db: Database, instance: str, column: str) -> Any:
    return db.sql(f"select {column} from df.nodes where instance_id = %s and node_type like 'HTTP%%'", instance)


def run_keys(db: Database) -> dict[str, str]:
    """The first part of a run's idempotency keys: 64 random bits, by instance."""
    return dict(db.rows(state.RUN_KEYS, user=None))


def test_references_are_replaced_in_url_headers_and_body(app: Database, web: HttpServer, worker: WorkerProcess) -> None:
    app.sql("select df.setvar('token', 't0p')")
    flow = """'select 7 as id' |=> 'o'
              ~> df.http(%s || '/$o.id??$top=1', 'PUT', '{"n": $o.id, "x": $p}',
                         '{"X-Token": "Bearer {token}", "X-Id": "$o.id"}') |=> 'h'
              ~> 'select $h.status as s, $h.ok as k'"""
    instance = completed(app, flow, web.url("/ok"))
    sent = web.received[-1]
    assert (sent.method, sent.path, sent.query, sent.body) == ("PUT", "/ok/7", {"$top": "1"}, b'{"n": 7, "x": $p}')
    assert (sent.headers["x-token"], sent.headers["x-id"]) == ("Bearer t0p", "7")
    assert json.loads(app.sql("select df.result(%s)", instance))["rows"] == [{"s": 200, "k": True}]


def test_a_downloaded_file_is_uploaded(app: Database, web: HttpServer, worker: WorkerProcess) -> None:
    flow = """df.http(%s, 'GET') |=> 'f' ~> df.http_multipart(%s, parts =>
              '[{"name": "doc", "filename": "$f.status.bin", "data_b64": " $f.body "}]')"""
    completed(app, flow, web.url("/file"), web.url())
    assert bytes(range(256)) in web.received[-1].body
    assert b'filename="200.bin"' in web.received[-1].body


def test_transient_statuses_are_tried_again_with_the_same_key(
    app: Database, web: HttpServer, worker: WorkerProcess
) -> None:
    instance = completed(app, "df.http(%s, 'GET')", web.url("/flaky?key=again&fail=3"))
    attempts = app.sql("select attempts from df.nodes where instance_id = %s", instance)
    keys = [r.headers["idempotency-key"] for r in web.received if r.query.get("key") == "again"]
    assert (attempts, keys) == (4, [f"{run_keys(app)[instance]}/1/1"] * 4)


@pytest.mark.parametrize("after", ["3600", "date"])
def test_retry_after_is_honoured(app: Database, web: HttpServer, worker: Any, after: str) -> None:
    """Without it the next attempt would be due within a second."""
    instance = begin(app, "df.http(%s, 'GET')", web.url(f"/flaky?key=after{after}&status=429&retry_after={after}"))
    column = "(status_details->>'retry_at')::timestamptz > created_at + interval '30 minutes'"
    assert wait_until(lambda: http_node(app, instance, column) is not None and [http_node(app, instance, column)]) == [
        True
    ]


def test_a_step_is_tried_again_when_the_time_of_retry_after_is_up(app: Database, web: HttpServer, worker: Any) -> None:
    instance = completed(app, "df.http(%s, 'GET')", web.url("/flaky?key=soon&status=429&retry_after=1"))
    assert http_node(app, instance, "attempts") == 2


def test_an_answer_429_pauses_the_limit_around_its_step(app: Database, web: HttpServer, worker: Any) -> None:
    app.sql("select df.set_limit('api', 1)")
    flow = "df.within('api', df.http(%s, 'GET'))"
    first = begin(app, flow, web.url("/flaky?key=limited&status=429&retry_after=3600"))
    wait_until(lambda: app.sql("select paused_until > now() + interval '50 minutes' from df.limits"))
    before = len(web.received)
    second = begin(app, flow, web.url("/ok"))
    wait_until(lambda: app.sql("select waiting from df.limits") == 1)
    assert [r.path for r in web.received[before:]] == []
    app.sql("select df.set_limit('api', 1)")
    wait_until(lambda: app.sql("select df.status(%s)", second) == "completed")
    assert app.sql("select df.status(%s)", first) == "running"


def test_steps_in_line_begin_when_the_next_grant_is_due(app: Database, web: HttpServer, worker: Any) -> None:
    app.sql("select df.set_limit('api', rate => 2, per => '0.5 s')")
    for number in range(7):
        begin(app, "df.within('api', df.http(%s, 'GET'))", web.url(f"/ok?number={number}"))
    wait_until(lambda: app.sql("select count(*) from df.instances where status = 'completed'") == 7)


def test_the_last_attempt_fails_the_step(app: Database, web: HttpServer, worker: WorkerProcess) -> None:
    message = failure(app, "df.retry(df.http(%s), max_attempts => 2)", web.url("/status/502?body=sorry"))
    assert message == f"POST {web.url('/status/502?body=sorry')}: HTTP status 502: sorry"


def test_a_listed_status_is_an_error_of_the_step(app: Database, web: HttpServer, worker: WorkerProcess) -> None:
    completed(app, "df.http(%s)", web.url("/status/404"))
    flow = "df.retry(df.http(%s), 2, retry_on => array['http:4xx'])"
    before = len(web.received)
    assert "HTTP status 404" in failure(app, flow, web.url("/status/404"))
    assert len(web.received) == before + 2


def test_refusals_are_not_retried(app: Database, web: HttpServer, worker: WorkerProcess) -> None:
    before = web.connections
    app.admin("select df.http_allow('127.0.0.1')")
    instance = begin(app, "df.retry(df.http(%s), 5)", web.url())
    assert await_end(app, instance) == "failed"
    assert "Blocked:" in http_node(app, instance, "error") and "restricted" in http_node(app, instance, "error")
    assert http_node(app, instance, "attempts") == 1
    assert "not in the allowed" in failure(app, "df.http('http://elsewhere.test/')")
    assert web.connections == before


def test_a_privilege_that_is_revoked_stops_the_next_request(
    app: Database, web: HttpServer, worker: WorkerProcess
) -> None:
    before = web.connections
    instance = begin(app, "df.wait_for_signal('go') ~> df.http(%s)", web.url())
    app.admin("revoke execute on function df.http from app")
    app.sql("select df.signal(%s, 'go')", instance)
    assert await_end(app, instance) == "failed"
    assert "does not have EXECUTE privilege" in error(app, instance)
    assert web.connections == before


def test_cancel_abandons_the_request(app: Database, web: HttpServer, worker: WorkerProcess) -> None:
    instance = begin(app, "df.http(%s)", web.url("/hang"))
    wait_until(lambda: web.open == 1)
    app.sql("select df.cancel(%s)", instance)
    wait_until(lambda: web.open == 0)
    assert await_end(app, instance) == "cancelled"


def test_a_request_that_loses_its_race_is_abandoned(app: Database, web: HttpServer, worker: WorkerProcess) -> None:
    completed(app, "df.http(%s) | df.sleep(0.5)", web.url("/hang"))
    wait_until(lambda: web.open == 0)


def test_each_iteration_has_a_key_of_its_own(app: Database, web: HttpServer, worker: WorkerProcess) -> None:
    app.sql("create table public.turns (n int)")
    flow = (
        "df.loop(df.http(%s, 'GET') ~> 'insert into public.turns values (1)', 'select count(*) < 3 from public.turns')"
    )
    instance = completed(app, flow, web.url("/ok/turns"))
    keys = [r.headers["idempotency-key"] for r in web.received if r.path == "/ok/turns"]
    assert keys == [f"{run_keys(app)[instance]}/3/{generation}" for generation in (1, 2, 3)]


@pytest.mark.slow
def test_five_hundred_slow_requests_at_once(app: Database, web: HttpServer, worker: WorkerProcess) -> None:
    app.rows(
        "select df.start(df.http(%s, 'GET', timeout_seconds => 300)) from generate_series(1, 500)", web.url("/hang")
    )
    wait_until(lambda: web.most_open >= 500, 60, "500 requests open at the same time")
    app.rows("select df.cancel(id) from df.instances")


@pytest.mark.slow
def test_a_worker_that_is_killed_repeats_requests_with_their_keys(
    app: Database, web: HttpServer, worker: WorkerProcess, spawn: SpawnWorker
) -> None:
    app.rows("select df.start(df.http(%s, 'GET')) from generate_series(1, 200)", web.url("/slow/kill?s=0.5"))
    wait_until(lambda: sum(r.path == "/slow/kill" for r in web.received) >= 50, 20)
    worker.kill()
    spawn()
    wait_until(lambda: app.sql("select count(*) from df.instances where status = 'completed'") == 200, 60)
    expected = {f"{key}/1/1" for key in run_keys(app).values()}
    assert len(expected) == 200
    sent = Counter(r.headers["idempotency-key"] for r in web.received if r.path == "/slow/kill")
    assert set(sent) == expected
    assert max(sent.values()) == 2
