"""df.http and df.http_multipart: the envelope they return, and what they refuse at build time."""

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import errors

from tests.support import Database, Server

PART = {"name": "a", "data_b64": "YQ=="}


@pytest.fixture(scope="module")
def db(server: Server, template: str) -> Iterator[Database]:
    """One database for all tests: builders write nothing."""
    database = Database.clone(server, template)
    yield database
    database.drop()


def http(db: Database, url: str | None = "https://h.test/x", **given: Any) -> str:
    return build(db, "df.http", url, given)


def multipart(db: Database, url: str | None = "https://h.test/x", **given: Any) -> str:
    return build(db, "df.http_multipart", url, given)


def build(db: Database, function: str, url: str | None, given: dict[str, Any]) -> str:
    named = "".join(f", {name} => %s" for name in given)
    values = [json.dumps(v) if name in ("headers", "parts") and v is not None else v for name, v in given.items()]
    envelope = db.admin(f"select {function}(%s{named})", url, *values)
    assert isinstance(envelope, str)
    return envelope


def test_the_envelope_is_written_in_the_order_of_the_contract(db: Database) -> None:
    envelope = http(db, method="put", body='{"a": "é"}', headers={"X-Bb": "2", "X-A": "ü"}, timeout_seconds=7)
    query = (
        '{"url":"https://h.test/x","method":"PUT","body":"{\\"a\\": \\"é\\"}",'
        '"headers":{"X-A":"ü","X-Bb":"2"},"timeout_seconds":7}'
    )
    assert envelope == '{"node_type":"HTTP","query":' + json.dumps(query, ensure_ascii=False) + "}"


def test_defaults(db: Database) -> None:
    query = json.loads(json.loads(http(db))["query"])
    assert query == {
        "url": "https://h.test/x", "method": "POST", "body": None, "headers": None, "timeout_seconds": 30,
    }  # fmt: skip


def test_multipart_envelope(db: Database) -> None:
    parts = [{"data_b64": "$r.pdf", "filename": "f", "name": "a", "content_type": None}, PART]
    query = (
        '{"url":"https://h.test/x","method":"POST","parts":[{"name":"a","filename":"f","data_b64":"$r.pdf"},'
        '{"name":"a","data_b64":"YQ=="}],"headers":null,"timeout_seconds":30}'
    )
    assert multipart(db, parts=parts) == '{"node_type":"HTTP_MULTIPART","query":' + json.dumps(query) + "}"


@pytest.mark.parametrize("url", ["HTTP://h/", "{base}/x", "ftp{s}://x", "https://$r.host/x"])
def test_accepted_urls(db: Database, url: str) -> None:
    assert json.loads(json.loads(http(db, url))["query"])["url"] == url


@pytest.mark.parametrize("url", ["ftp://h/", "file:///etc/passwd", "", "h.test", "$r.url", "$r.url/{x}", "http:/h"])
def test_unsupported_schemes(db: Database, url: str) -> None:
    with pytest.raises(errors.InvalidParameterValue, match="unsupported URL scheme"):
        http(db, url)


def test_credentials_are_not_quoted_in_the_error(db: Database) -> None:
    with pytest.raises(errors.InvalidParameterValue) as caught:
        http(db, "ftp://me:s3cret@h/")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "CONNECT", "", "GET "])
def test_invalid_methods(db: Database, method: str) -> None:
    with pytest.raises(errors.InvalidParameterValue, match="Invalid HTTP method"):
        http(db, method=method)


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_invalid_multipart_methods(db: Database, method: str) -> None:
    with pytest.raises(errors.InvalidParameterValue, match="Invalid HTTP method"):
        multipart(db, method=method, parts=[PART])


@pytest.mark.parametrize(("seconds", "message"), [(0, "Timeout must be positive"), (301, "http_max_timeout")])
def test_timeouts(db: Database, seconds: int, message: str) -> None:
    with pytest.raises(errors.InvalidParameterValue, match=message):
        http(db, timeout_seconds=seconds)
    with pytest.raises(errors.InvalidParameterValue, match=message):
        multipart(db, parts=[PART], timeout_seconds=seconds)
    assert http(db, timeout_seconds=1) and http(db, timeout_seconds=300)


@pytest.mark.parametrize(
    ("headers", "name"),
    [
        ([], ""),
        ("x", ""),
        ({"A b": "1"}, "A b"),
        ({"": "1"}, '""'),
        ({"X-{v}": "1"}, "X-{v}"),
        ({"X-A": 1}, "X-A"),
        ({"X-A": None}, "X-A"),
        ({"X-A": "1\r\nB: 2"}, "X-A"),
        ({"X-A": "1\n"}, "X-A"),
        ({"hOST": "a"}, "hOST"),
        ({"Content-Length": "1"}, "Content-Length"),
        ({"transfer-encoding": "chunked"}, "transfer-encoding"),
    ],
)
def test_bad_headers(db: Database, headers: Any, name: str) -> None:
    with pytest.raises(errors.InvalidParameterValue, match="headers") as caught:
        http(db, headers=headers)
    assert name in str(caught.value)
    with pytest.raises(errors.InvalidParameterValue, match="headers"):
        multipart(db, headers=headers, parts=[PART])


@pytest.mark.parametrize(
    "parts",
    [
        [],
        {},
        "x",
        [1],
        [{"name": "a"}],
        [{"data_b64": ""}],
        [PART | {"name": ""}],
        [PART | {"name": 1}],
        [PART | {"data_b64": 1}],
        [PART | {"filename": 1}],
        [PART | {"content_type": []}],
        [PART, PART | {"filename": "a\r\nb"}],
        [PART | {"name": "a\nb"}],
        [PART | {"content_type": "a\nb"}],
    ],
)
def test_bad_parts(db: Database, parts: Any) -> None:
    with pytest.raises(errors.InvalidParameterValue, match="parts"):
        multipart(db, parts=parts)


def test_nulls(db: Database) -> None:
    with pytest.raises(errors.NullValueNotAllowed):
        http(db, None)
    with pytest.raises(errors.NullValueNotAllowed):
        http(db, method=None)
    with pytest.raises(errors.NullValueNotAllowed):
        http(db, timeout_seconds=None)
    with pytest.raises(errors.NullValueNotAllowed, match="parts"):
        multipart(db, parts=None)
    assert http(db, body=None, headers=None)


def test_http_mode_off(db: Database) -> None:
    db.admin("update df.settings set value = 'off' where name = 'http_mode'")
    with pytest.raises(psycopg.Error, match=r"df\.http\(\) is disabled"):
        http(db, "ftp://h/")
    with pytest.raises(psycopg.Error, match=r"df\.http_multipart\(\) is disabled"):
        multipart(db, parts=[PART])
    db.admin("update df.settings set value = 'any' where name = 'http_mode'")


def test_any_search_path(db: Database) -> None:
    with db.connect() as conn:
        conn.execute("set search_path = ''")
        assert conn.execute("select df.http('http://h.test/', headers => '{}')").fetchone()
