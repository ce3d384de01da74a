"""HTTP policy in the database: privileges, the allow-list, and the checks before a request is made."""

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import errors

from generator.render import release
from tests.support import Database

SEEDED = 21


def ask(db: Database, config: dict[str, Any], node_type: str = "HTTP", role: str = "app", **context: Any) -> Any:
    """What the worker would get for a config; raises what the node would fail with."""
    return db.admin(
        "select df_engine.http_request(%s, %s, quote_ident(%s)::regrole, %s)",
        node_type, json.dumps(config), role, json.dumps(context),
    )  # fmt: skip


def refusal(db: Database, config: dict[str, Any], node_type: str = "HTTP", role: str = "app") -> str:
    with pytest.raises(psycopg.DatabaseError) as caught:
        ask(db, config, node_type, role)
    assert caught.value.sqlstate == "DF020", caught.value
    return str(caught.value)


@pytest.fixture
def trial(shared: Database) -> Iterator[Database]:
    """The same, in a transaction that is rolled back; it ends at the first error."""
    shared.admin("begin")
    yield shared
    shared.admin("rollback")


@pytest.fixture
def web(db: Database) -> Database:
    """A database in which h.test may be reached."""
    db.admin("select df.http_allow('h.test')")
    return db


def mode(db: Database, value: str) -> None:
    db.admin("select df.set_setting('http_mode', %s)", value)


@pytest.mark.parametrize(
    "call",
    [
        "df.http('http://h.test/')",
        """df.http_multipart('http://h.test/', parts => '[{"name": "a", "data_b64": ""}]')""",
        "df.http_allow('h.test')",
        "df.http_disallow('h.test')",
        "df_engine.http_request('HTTP', '{}', 'app')",
    ],
)
def test_public_may_not(db: Database, call: str) -> None:
    with pytest.raises(errors.InsufficientPrivilege):
        db.sql(f"select {call}", user="other")


def test_the_seeded_entries_come_once(db: Database) -> None:
    assert db.admin("select count(*) from df.http_allowlist where not allow_private") == SEEDED
    assert db.admin("select 1 from df.http_allowlist where pattern = 'api.github.com'") == 1


@pytest.mark.parametrize(
    ("pattern", "stored"),
    [
        ("API.Example.com", "api.example.com"),
        (".example.com:8443", ".example.com:8443"),
        ("localhost", "localhost"),
        ("127.0.0.1", "127.0.0.1"),
        ("2001:DB8::1", "2001:db8::1"),
        ("[::1]:80", "[::1]:80"),
    ],
)
def test_patterns(db: Database, pattern: str, stored: str) -> None:
    assert db.admin("select df.http_allow(%s, true, 'first')", pattern) == "OK"
    assert db.admin("select df.http_allow(%s, note => 'second')", pattern) == "OK"
    rows = db.rows("select allow_private, note from df.http_allowlist where pattern = %s", stored, user=None)
    assert rows == [(False, "second")]
    assert db.admin("select df.http_disallow(upper(%s))", pattern) == "OK"
    assert db.admin("select df.http_disallow(%s)", pattern) == "OK"
    assert db.admin("select count(*) from df.http_allowlist") == SEEDED


@pytest.mark.parametrize(
    "pattern",
    ["", ".", "*", "*.example.com", "http://example.com", "example.com/x", "a..b", "a.b.", "a.b:0", "a.b:65536",
     "a.b:x", "a b", "a@b", "ü.test", "127.1", "0x7f.1", "010.0.0.1", "10.0.0.0/8", "fe80::1%1", "[a]", ":80"],
)  # fmt: skip
def test_bad_patterns(shared: Database, pattern: str) -> None:
    with pytest.raises(errors.InvalidParameterValue, match="pattern"):
        shared.admin("select df.http_allow(%s)", pattern)


@pytest.mark.parametrize("role", ["other", 'Odd "Role" ü'])
def test_the_execute_privilege_is_checked_at_run_time(db: Database, role: str) -> None:
    db.admin(f"""do $$ begin create role "{role.replace('"', '""')}"; exception when duplicate_object then end $$""")
    db.admin("select df.http_allow('h.test')")
    config = {"url": "ftp://h.test/"}
    assert "does not have EXECUTE privilege" in refusal(db, config, role=role)
    assert "df.http_multipart" in refusal(db, config, "HTTP_MULTIPART", role=role)
    db.admin("""grant execute on function df.http to "{}" """.format(role.replace('"', '""')))
    assert "unsupported URL scheme" in refusal(db, config, role=role)
    db.admin("""revoke execute on function df.http from "{}" """.format(role.replace('"', '""')))
    assert "does not have EXECUTE privilege" in refusal(db, config, role=role)


def test_the_order_of_the_checks(web: Database) -> None:
    mode(web, "off")
    config: dict[str, Any] = {"url": "gopher://nope.test/", "headers": {"Host": "x"}, "method": "TRACE", "body": 1}
    assert "unsupported URL scheme" in refusal(web, config)
    config["url"] = "http://nope.test/"
    assert "outbound HTTP requests are disabled" in refusal(web, config)
    mode(web, "allowlist")
    assert "not in the allowed" in refusal(web, config)
    config["url"] = "http://h.test/"
    assert "headers" in refusal(web, config)
    del config["headers"]
    assert "Invalid HTTP method" in refusal(web, config)
    del config["method"]
    assert "body" in refusal(web, config)
    del config["body"]
    assert ask(web, config)["method"] == "POST"


@pytest.mark.parametrize(
    ("pattern", "url", "allowed"),
    [
        ("a.test", "http://a.test/x", True),
        ("a.test", "https://A.TEST:99?x", True),
        ("a.test", "http://b.a.test/", False),
        ("a.test", "http://a.test.evil.test/", False),
        ("a.test", "http://a.test@evil.test/", False),
        ("a.test", "http://evil.test/@a.test", False),
        ("a.test", "http://evil.test#@a.test/", False),
        ("a.test", "http://evil.test\\@a.test/", False),
        ("a.test", "http://a.test\\.evil.test/", False),
        ("a.test", "http://user:pw@a.test/", True),
        ("a.test", "http://a.test./", False),
        ("a.test", "http://a%2etest/", False),
        ("a.test", "http://a.te\u017ft/", False),
        ("a.test", "http://a.test\t/", False),
        ("a.test", "http:///a.test", False),
        ("a.test", "http://a.test:x/", False),
        ("a.test", "http://a.test:0/", False),
        ("a.test:81", "http://a.test:81/", True),
        ("a.test:81", "http://a.test/", False),
        ("a.test:443", "https://a.test/", True),
        (".a.test", "http://b.a.test/", True),
        (".a.test", "http://c.b.a.test/", True),
        (".a.test", "http://a.test/", False),
        (".a.test", "http://.a.test/", False),
        (".a.test", "http://ba.test/", False),
    ],
)
def test_host_names(trial: Database, pattern: str, url: str, allowed: bool) -> None:
    trial.admin("select df.http_allow(%s)", pattern)
    if allowed:
        assert ask(trial, {"url": url})["url"] == url
    else:
        assert "not in the allowed" in refusal(trial, {"url": url})


@pytest.mark.parametrize(
    ("pattern", "url", "allowed"),
    [
        ("127.0.0.1", "http://127.0.0.1/", True),
        ("127.0.0.1:80", "http://127.0.0.1/", True),
        ("127.0.0.1:80", "http://127.0.0.1:81/", False),
        ("127.0.0.1", "http://127.0.0.2/", False),
        ("127.0.0.1", "http://127.0.0.01/", False),
        ("127.0.0.1", "http://127.1/", False),
        ("127.0.0.1", "http://0x7f000001/", False),
        ("127.0.0.1", "http://2130706433/", False),
        ("127.0.0.1", "http://0177.0.0.1/", False),
        ("127.0.0.1", "http://[::ffff:127.0.0.1]/", False),
        ("::1", "http://[::1]:8080/", True),
        ("::1", "http://[0:0:0:0:0:0:0:1]/", True),
        ("[::1]:80", "http://[::1]/", True),
        ("[::1]:80", "http://[::1]:81/", False),
        (".0.1.test", "http://127.0.0.1/", False),
    ],
)
def test_addresses(trial: Database, pattern: str, url: str, allowed: bool) -> None:
    trial.admin("select df.http_allow(%s)", pattern)
    if allowed:
        assert ask(trial, {"url": url})["url"] == url
    else:
        assert "bare IP" in refusal(trial, {"url": url})


def test_mode_any(web: Database) -> None:
    mode(web, "any")
    assert ask(web, {"url": "http://nowhere.test/"})["allow_private"] is False
    assert ask(web, {"url": "http://8.8.8.8/"})["host"] == "8.8.8.8"
    for url in ("http://127.1/", "http://0x7f.1", "http://a%2eb/", "http://a\\@b/", "http://[fe80::1%25lo]/"):
        message = refusal(web, {"url": url})
        assert "Blocked:" in message and "restricted" in message


def test_allow_private_belongs_to_the_matching_entry(web: Database) -> None:
    web.admin("select df.http_allow('ci.internal:8443', allow_private => true)")
    mode(web, "any")
    assert ask(web, {"url": "https://ci.internal:8443/"})["allow_private"] is True
    assert ask(web, {"url": "https://ci.internal/"})["allow_private"] is False


def test_the_request(web: Database) -> None:
    config = {
        "url": "https://h.test:8/x",
        "method": "put",
        "body": "b",
        "headers": {"X-A": "1"},
        "timeout_seconds": 999,
    }
    assert ask(web, config, idempotency_key="i/n/1", retry_on=["http:404", "http:3xx", "23505"]) == {
        "url": "https://h.test:8/x",
        "method": "PUT",
        "headers": {"X-A": "1", "User-Agent": f"pg_durable/{release()[0]}", "Idempotency-Key": "i/n/1"},
        "body": "b",
        "parts": None,
        "timeout_seconds": 300,
        "max_response_bytes": 10485760,
        "max_result_bytes": 16777216,
        "host": "h.test",
        "port": 8,
        "allow_private": False,
        "error_statuses": ["404", "3xx"],
    }


def test_the_callers_headers_win(web: Database) -> None:
    headers = {"user-agent": "mine", "IDEMPOTENCY-KEY": "own"}
    assert ask(web, {"url": "http://h.test/", "headers": headers}, idempotency_key="k")["headers"] == headers


def test_the_content_type_of_a_form_is_ours(web: Database) -> None:
    config = {"url": "http://h.test/", "headers": {"content-TYPE": "x"}, "parts": [{"name": "a", "data_b64": ""}]}
    assert list(ask(web, config, "HTTP_MULTIPART")["headers"]) == ["User-Agent"]
    assert ask(web, config | {"parts": None})["headers"]["content-TYPE"] == "x"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"headers": []}, "headers"),
        ({"headers": {"X-A": "secret\r\nB: c"}}, "headers"),
        ({"headers": {"Content-Length": "1"}}, "headers"),
        ({"method": "TRACE"}, "Invalid HTTP method"),
        ({"timeout_seconds": 0}, "Timeout must be positive"),
        ({"timeout_seconds": "x"}, "timeout_seconds"),
        ({"body": "x" * 1001}, "http_max_request_bytes"),
        ({"body": {}}, "body"),
        ({"url": None}, "unsupported URL scheme"),
        ({"url": 5}, "unsupported URL scheme"),
    ],
)
def test_hand_written_configs_meet_the_same_checks(trial: Database, change: dict[str, Any], message: str) -> None:
    trial.admin("select df.http_allow('h.test')")
    trial.admin("select df.set_setting('http_max_request_bytes', '1000')")
    text = refusal(trial, {"url": "http://h.test/"} | change)
    assert message in text
    assert "secret" not in text


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (None, "parts"),
        ([{"name": "a", "data_b64": "YQ"}], "base64"),
        ([{"name": "a", "data_b64": "$x"}], "base64"),
        ([{"name": "a\n", "data_b64": ""}], "line breaks"),
        ([{"name": "a", "data_b64": "YWFh" * 200}, {"name": "b", "data_b64": "YWFh" * 200}], "http_max_request_bytes"),
    ],
)
def test_parts_at_run_time(trial: Database, parts: Any, message: str) -> None:
    trial.admin("select df.http_allow('h.test')")
    trial.admin("select df.set_setting('http_max_request_bytes', '1000')")
    assert message in refusal(trial, {"url": "http://h.test/", "parts": parts}, "HTTP_MULTIPART")


@pytest.mark.parametrize("query", ["", "x", "[]", '"http://h.test/"', '{"url": "\\u0000"}'])
def test_a_query_that_is_no_object(shared: Database, query: str) -> None:
    with pytest.raises(psycopg.DatabaseError, match="malformed HTTP node") as caught:
        shared.admin("select df_engine.http_config('HTTP', %s)", query)
    assert caught.value.sqlstate == "DF020"


@pytest.mark.parametrize(
    ("kind", "retry_on", "retryable"),
    [
        ("refused", None, False), ("refused", ["transient", "refused"], False), (None, None, False),
        ("connection", None, True), ("timeout", ["transient"], True), ("timeout", ["connection"], False),
        ("http:503", ["transient"], True), ("http:503", ["http:5xx"], True), ("http:503", ["http:500"], False),
        ("http:404", ["transient"], False), ("http:404", ["http:404"], True), ("http:404", None, True),
        ("http:503", ["40", "23505"], False), ("http:429", ["transient"], True),
    ],
)  # fmt: skip
def test_what_is_retryable(shared: Database, kind: str | None, retry_on: list[str] | None, retryable: bool) -> None:
    assert shared.admin("select df_engine.http_retryable(%s, %s)", kind, retry_on) is retryable
