"""Secrets from the command line to the server that gets them, and nowhere else."""

import base64
import json
import os
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from pg_durable.cli import secret_commands
from psycopg.rows import dict_row

from tests import state
from tests.support import Database, wait_until
from tests.terminal import command, on_a_terminal
from tests.worker.http_server import HttpServer
from tests.worker.process import SpawnWorker, WorkerProcess, await_end, begin, completed, error, failure
from tests.worker.test_metrics import Page

VALUE = 'sk_live/"ü"&<42>+x'
HEADERS = """headers => jsonb_build_object('Authorization', 'Bearer ' || df.secret('stripe'))"""


@pytest.fixture
def app(db: Database, web: HttpServer) -> Database:
    """A database in which app may reach the server, and has a secret."""
    db.admin("select df.grant_usage('app', include_http => true)")
    db.admin("select df.http_allow('127.0.0.1', allow_private => true)")
    db.admin("select df.set_setting('retry_initial_delay', '10 ms'), df.set_setting('retry_max_delay', '20 ms')")
    db.sql("select df.set_secret('stripe', %s)", VALUE)
    return db


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return write_key(tmp_path / "key")


def write_key(path: Path, *more: str) -> Path:
    path.write_text("\n".join([base64.b64encode(os.urandom(32)).decode(), *more, ""]))
    return path


def set_secret(db: Database, value: str, *arguments: str, name: str = "stripe") -> str:
    """`pg-durable secret set`; what it prints."""
    done = given(db, value, "set", name, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def given(db: Database, value: str | None, *arguments: str) -> subprocess.CompletedProcess[str]:
    return command("secret", *arguments, "--dsn", db.dsn("app"), given=value)


def result(db: Database, instance: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(db.sql("select df.result(%s)", instance))
    return found


def test_a_secret_reaches_header_path_query_and_body(app: Database, web: HttpServer, worker: WorkerProcess) -> None:
    body = "body => 'key=' || df.secret('stripe')"
    completed(app, f"df.http(%s, {body}, {HEADERS})", web.url("/ok/{secret:stripe}/x?key={secret:stripe}&a=b"))
    sent = web.received[-1]
    assert sent.headers["authorization"] == f"Bearer {VALUE}"
    assert (sent.path, sent.query) == (f"/ok/{quote(VALUE)}/x", {"key": VALUE, "a": "b"})
    assert sent.body.decode() == f"key={VALUE}"


def test_a_part_of_a_form_may_be_a_secret(app: Database, web: HttpServer, worker: WorkerProcess) -> None:
    parts = json.dumps([{"name": "key", "data_b64": "{secret:stripe}"}])
    completed(app, "df.http_multipart(%s, parts => %s::jsonb)", web.url(), parts)
    assert f'name="key"\r\n\r\n{VALUE}\r\n'.encode() in web.received[-1].body


def test_a_placeholder_in_a_value_is_sent_as_it_is(app: Database, web: HttpServer, worker: WorkerProcess) -> None:
    app.sql("select df.setvar('v', '{secret:stripe}')")
    flow = """'select ''{secret:stripe}'' as s' |=> 'r' ~> df.http(%s || '?a=$r&b={v}',
              body => '$r {v} {secret:stripe}', headers => '{"X-A": "$r {v} {secret:stripe}"}')"""
    completed(app, flow, web.url())
    sent, as_text = web.received[-1], "{secret:stripe}"
    assert sent.query == {"a": as_text, "b": as_text}
    assert sent.body.decode() == sent.headers["x-a"] == f"{as_text} {as_text} {VALUE}"


def test_the_value_at_the_time_of_sending_counts(app: Database, web: HttpServer, worker: WorkerProcess) -> None:
    instance = begin(app, f"df.wait_for_signal('go') ~> df.http(%s, {HEADERS})", web.url())
    app.sql("select df.set_secret('stripe', 'another value')")
    app.sql("select df.signal(%s, 'go')", instance)
    assert await_end(app, instance) == "completed"
    assert web.received[-1].headers["authorization"] == "Bearer another value"


def test_a_secret_that_is_gone_fails_the_step_once(app: Database, web: HttpServer, worker: WorkerProcess) -> None:
    flow = f"df.wait_for_signal('go') ~> df.retry(df.http(%s, {HEADERS}), 5)"
    instance = begin(app, flow, web.url())
    app.sql("select df.unset_secret('stripe'), df.signal(%s, 'go')", instance)
    assert await_end(app, instance) == "failed"
    assert 'role app has no secret "stripe"; set it: pg-durable secret set stripe' in error(app, instance)
    assert app.sql("select max(attempts) from df.nodes where instance_id = %s", instance) == 1


def forms(value: str) -> list[str]:
    """How a value may be written in what the engine stores or logs."""
    packed = base64.b64encode(value.encode()).decode()
    return [value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1], quote(value, safe=""), packed]


def assert_nowhere(db: Database, value: str, *texts: str) -> None:
    """In none of the texts, and in no table of the engine but that of secrets, whatever form it has."""
    for form in forms(value):
        for text in texts:
            assert form not in text
        for (table,) in db.rows(state.PRIVATE_TABLES, user=None):
            found = db.rows(state.ROWS_WITH.format(table), json.dumps(form, ensure_ascii=False)[1:-1], user=None)
            assert table == state.SECRETS_TABLE or found == [], table


def test_an_echoed_secret_is_masked(app: Database, web: HttpServer, worker: WorkerProcess) -> None:
    """In the body, in headers, in an error; and then it is in no table of the engine and no log."""
    instance = completed(app, f"df.http(%s, {HEADERS}) |=> 'h' ~> 'select $h.body as b'", web.url("/echo/200"))
    body = result(app, instance)["rows"][0]["b"]
    assert body.startswith('*** "***" "***" *** *** ')
    for packed in body.split(" ")[-3:]:
        assert "***" in packed and len(packed) <= 12
    headers = app.sql(
        "select result -> 'headers' from df.nodes where instance_id = %s and node_type = 'HTTP'", instance
    )
    assert (headers["x-told"], headers["set-cookie"]) == ("***", ["***"])
    message = failure(app, f"df.retry(df.http(%s, {HEADERS}), 2)", web.url("/echo/500?key={secret:stripe}"))
    assert message.startswith(f'POST {web.url("/echo/500?key={secret:stripe}")}: HTTP status 500: *** "***" "***" *** ')
    seen = app.sql("select df.explain(%s)", instance) + json.dumps(app.rows("select to_jsonb(n) from df.nodes n"))
    assert_nowhere(app, VALUE, message, seen, worker.log)


def test_half_a_secret_is_masked_where_an_error_quotes_no_more(app: Database, web: HttpServer, worker: Any) -> None:
    message = failure(app, f"df.retry(df.http(%s, {HEADERS}), 1)", web.url("/echo/500?pad=505"))
    assert message.endswith("." * 505 + '*** "**')


def test_a_secret_in_a_body_that_is_no_text_is_masked(app: Database, web: HttpServer, worker: Any) -> None:
    path = "/echo/200?type=text/plain;charset=nonsense"
    instance = completed(app, f"df.http(%s, {HEADERS})", web.url(path))
    value = result(app, instance)
    assert value["encoding"] == "base64"
    assert base64.b64decode(value["body"]).startswith(b'*** "***"')


def test_a_failed_connection_names_the_url_without_the_secret(app: Database, worker: WorkerProcess) -> None:
    app.sql("select df.set_secret('pin', '1234')")
    message = failure(app, "df.retry(df.http('http://127.0.0.1:1/{secret:pin}?k={secret:pin}'), 1)")
    assert "http://127.0.0.1:1/{secret:pin}?k={secret:pin}: cannot connect" in message
    assert "1234" not in message


def test_a_header_of_a_secret_with_a_line_break_is_not_sent(app: Database, web: HttpServer, worker: Any) -> None:
    app.sql("select df.set_secret('stripe', %s)", "sesame\r\nX-More: 1")
    before = web.connections
    message = failure(app, f"df.http(%s, {HEADERS})", web.url())
    assert 'secret "stripe" has a line break' in message
    assert "sesame" not in message and web.connections == before


def test_the_command_keeps_lists_and_removes(app: Database) -> None:
    assert set_secret(app, "from stdin\n", name="a") == "Secret a set\n"
    names = [row["name"] for row in json.loads(given(app, None, "list", "--json").stdout)]
    assert names == ["a", "stripe"]
    assert "from stdin" not in given(app, None, "list").stdout
    assert given(app, None, "unset", "a").stdout == "Secret a removed\n"
    gone = given(app, None, "unset", "a")
    assert (gone.returncode, gone.stderr) == (1, "pg-durable: there is no secret a\n")


def test_a_terminal_does_not_show_what_is_typed(app: Database, web: HttpServer, worker: WorkerProcess) -> None:
    with on_a_terminal("secret", "set", "stripe", "--dsn", app.dsn("app")) as terminal:
        terminal.until("Value of stripe: ")
        terminal.press("typed value\n")
        terminal.until("Secret stripe set")
        assert "typed value" not in terminal.shown
    completed(app, f"df.http(%s, {HEADERS})", web.url())
    assert web.received[-1].headers["authorization"] == "Bearer typed value"


@pytest.mark.parametrize(("value", "why"), [("", "there is no value"), ("\n", "there is no value"), ("a\0b", "zero")])
def test_values_that_are_none(app: Database, value: str, why: str) -> None:
    done = given(app, value, "set", "stripe")
    assert done.returncode == 1 and why in done.stderr


def test_the_server_logs_no_value_that_the_command_sends(app: Database) -> None:
    """It logs all statements with their parameters here, and sends what it logs."""
    loud = "-c log_statement=all -c log_min_duration_statement=0 -c client_min_messages=log"
    with app.connect(options=loud, row_factory=dict_row) as conn:
        said: list[str] = []
        conn.add_notice_handler(lambda notice: said.append(f"{notice.message_primary} {notice.message_detail}"))
        secret_commands.set_plain(conn, "stripe", "quiet value")
        assert any("df.set_secret" in text and "stripe" in text for text in said)
        assert not any("quiet value" in text for text in said)
        conn.execute("select df.set_secret('stripe', %s)", ["shown value"])
        assert any("shown value" in text for text in said)
    assert app.admin(state.SECRET_VALUES + " where owner = current_user::regrole") == "shown value"


def test_an_encrypted_secret_is_sent_by_a_worker_with_the_key(
    app: Database, web: HttpServer, spawn: SpawnWorker, key_file: Path
) -> None:
    app.admin("select df.set_setting('secrets_encrypted', 'on')")
    assert set_secret(app, VALUE, "--secret-key-file", str(key_file)) == "Secret stripe set, encrypted\n"
    spawn("--secret-key-file", str(key_file))
    completed(app, f"df.http(%s, {HEADERS})", web.url())
    assert web.received[-1].headers["authorization"] == f"Bearer {VALUE}"
    stored = app.rows(state.SECRET_VALUES, user=None)
    assert [value.partition(":")[0] for (value,) in stored] == ["aes256gcm"]


def test_the_log_that_the_server_writes_has_no_encrypted_value(app: Database, key_file: Path) -> None:
    """What is set as plain text is there."""
    since = app.admin("select pg_walfile_name(pg_current_wal_lsn())")
    encrypted, plain = (f"{word} value {app.name}" for word in ("encrypted", "plain"))
    set_secret(app, encrypted, "--secret-key-file", str(key_file))
    app.sql("select df.set_secret('plain', %s)", plain)
    app.admin("select pg_switch_wal()")
    assert app.admin(state.LOG_HOLDS, plain, since)
    for form in forms(encrypted):
        assert not app.admin(state.LOG_HOLDS, form, since)


def test_metrics_have_no_secret(app: Database, web: HttpServer, spawn: SpawnWorker) -> None:
    page = Page(spawn)
    failure(app, f"df.retry(df.http(%s, {HEADERS}), 1)", web.url("/echo/500?key={secret:stripe}"))
    completed(app, f"df.http(%s, {HEADERS})", web.url("/echo/200"))
    wait_until(lambda: page.ended().get("failed") and page.ended().get("completed"), what="both to be counted")
    for form in forms(VALUE):
        assert form not in page.get("metrics")


def test_a_worker_without_the_key_says_what_is_missing(
    app: Database, web: HttpServer, spawn: SpawnWorker, key_file: Path, tmp_path: Path
) -> None:
    set_secret(app, VALUE, "--secret-key-file", str(key_file))
    worker, before = spawn(), web.connections
    message = failure(app, f"df.http(%s, {HEADERS})", web.url())
    assert "this worker has no key: start it with --secret-key-file (PG_DURABLE_SECRET_KEY_FILE)" in message
    assert worker.stop() == 0
    spawn("--secret-key-file", str(write_key(tmp_path / "other")))
    assert "is not in the key file of this worker" in failure(app, f"df.http(%s, {HEADERS})", web.url())
    assert web.connections == before


def test_a_new_key_goes_first_and_the_old_one_still_decrypts(
    app: Database, web: HttpServer, spawn: SpawnWorker, key_file: Path, tmp_path: Path
) -> None:
    set_secret(app, VALUE, "--secret-key-file", str(key_file))
    both = write_key(tmp_path / "both", key_file.read_text().strip())
    set_secret(app, "newer value", "--secret-key-file", str(both), name="newer")
    spawn("--secret-key-file", str(both))
    completed(app, "df.http(%s, body => '{secret:stripe} {secret:newer}')", web.url())
    assert web.received[-1].body.decode() == f"{VALUE} newer value"


def test_what_was_encrypted_for_one_role_and_name_is_of_no_use_to_another(
    app: Database, web: HttpServer, spawn: SpawnWorker, key_file: Path
) -> None:
    """Somebody who has found a dump cannot have a worker decrypt it for a server of his own."""
    set_secret(app, VALUE, "--secret-key-file", str(key_file))
    stored = app.admin(state.SECRET_VALUES)
    app.admin("select df.grant_usage('other', include_http => true)")
    app.sql("select df.set_secret('stripe', %s, encrypted => true)", stored, user="other")
    app.sql("select df.set_secret('mine', %s, encrypted => true)", stored)
    spawn("--secret-key-file", str(key_file))
    completed(app, f"df.http(%s, {HEADERS})", web.url())
    before = web.connections
    assert "was not encrypted for role app and this name" in failure(
        app, "df.http(%s, body => '{secret:mine}')", web.url()
    )
    instance = str(app.sql(f"select df.start(df.http(%s, {HEADERS}))", web.url(), user="other"))
    assert await_end(app, instance) == "failed"
    assert "was not encrypted for role other and this name" in error(app, instance)
    assert web.connections == before


@pytest.mark.parametrize("content", ["", "short\n", "!!\n", base64.b64encode(b"x" * 31).decode()])
def test_a_bad_key_file_is_refused_at_the_beginning(db: Database, tmp_path: Path, content: str) -> None:
    (tmp_path / "key").write_text(content)
    done = command("worker", "--secret-key-file", str(tmp_path / "key"), "--dsn", db.dsn("durable_worker"))
    assert done.returncode == 1
    assert "does not hold keys of 32 bytes in base64, one a line\nopenssl rand -base64 32 > FILE" in done.stderr


def test_a_key_file_that_is_not_there(db: Database, tmp_path: Path) -> None:
    done = command("worker", "--dsn", db.dsn("durable_worker"), PG_DURABLE_SECRET_KEY_FILE=str(tmp_path / "none"))
    assert (done.returncode, done.stderr) == (1, f"pg-durable: {tmp_path}/none: No such file or directory\n")


def test_an_expected_status_that_does_not_come_fails_the_step(app: Database, web: HttpServer, worker: Any) -> None:
    before = len(web.received)
    message = failure(app, "df.http(%s, expect => 'ok')", web.url("/status/404?body=none"))
    assert message == f"POST {web.url('/status/404?body=none')}: HTTP status 404: none"
    assert len(web.received) == before + 1, "no reason to try again"
    assert "HTTP status 302" in failure(app, "df.http(%s, expect => 'ok')", web.url("/redirect"))
    completed(app, "df.http(%s, expect => 'ok')", web.url("/status/204"))
    before = len(web.received)
    failure(app, "df.retry(df.http(%s, expect => 'ok'), 2, retry_on => array['http:404'])", web.url("/status/404"))
    assert len(web.received) == before + 2


def test_the_trace_of_the_run_is_sent_on(app: Database, web: HttpServer, worker: WorkerProcess) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    app.sql(f"select set_config('df.traceparent', '{trace}', false)")
    completed(app, "df.http(%s)", web.url())
    assert web.received[-1].headers["traceparent"] == trace
    own = trace.replace("b7", "c7")
    completed(app, "df.http(%s, headers => jsonb_build_object('Traceparent', %s::text))", web.url(), own)
    assert web.received[-1].headers["traceparent"] == own
    app.sql("select set_config('df.traceparent', '', false)")
    completed(app, "df.http(%s)", web.url())
    assert "traceparent" not in web.received[-1].headers
