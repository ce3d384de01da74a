"""df.http and df.http_multipart: the envelope they return, and what they refuse at build time."""

import json
from typing import Any

import psycopg
import pytest
from psycopg import errors

from tests.support import Database

PART = {"name": "a", "data_b64": "YQ=="}


def http(shared: Database, url: str | None = "https://h.test/x", **given: Any) -> str:
    return build(shared, "df.http", url, given)


def multipart(shared: Database, url: str | None = "https://h.test/x", **given: Any) -> str:
    return build(shared, "df.http_multipart", url, given)


def build(shared: Database, function: str, url: str | None, given: dict[str, Any]) -> str:
    named = "".join(f", {name} => %s" for name in given)
    values = [json.dumps(v) if name in ("headers", "parts") and v is not None else v for name, v in given.items()]
    envelope = shared.admin(f"select {function}(%s{named})", url, *values)
    assert isinstance(envelope, str)
    return envelope


def test_the_envelope_is_written_in_the_order_of_the_contract(shared: Database) -> None:
    envelope = http(shared, method="put", body='{"a": "é"}', headers={"X-Bb": "2", "X-A": "ü"}, timeout_seconds=7)
    query = (
        '{"url":"https://h.test/x","method":"PUT","body":"{\\"a\\": \\"é\\"}",'
        '"headers":{"X-A":"ü","X-Bb":"2"},"timeout_seconds":7}'
    )
    assert envelope == '{"node_type":"HTTP","query":' + json.dumps(query, ensure_ascii=False) + "}"


def test_defaults(shared: Database) -> None:
    query = json.loads(json.loads(http(shared))["query"])
    assert query == {
        "url": "https://h.test/x", "method": "POST", "body": None, "headers": None, "timeout_seconds": 30,
    }  # fmt: skip


def test_multipart_envelope(shared: Database) -> None:
    parts = [{"data_b64": "$r.pdf", "filename": "f", "name": "a", "content_type": None}, PART]
    query = (
        '{"url":"https://h.test/x","method":"POST","parts":[{"name":"a","filename":"f","data_b64":"$r.pdf"},'
        '{"name":"a","data_b64":"YQ=="}],"headers":null,"timeout_seconds":30}'
    )
    assert multipart(shared, parts=parts) == '{"node_type":"HTTP_MULTIPART","query":' + json.dumps(query) + "}"


@pytest.mark.parametrize("url", ["HTTP://h/", "{base}/x", "ftp{s}://x", "https://$r.host/x"])
def test_accepted_urls(shared: Database, url: str) -> None:
    assert json.loads(json.loads(http(shared, url))["query"])["url"] == url


@pytest.mark.parametrize("url", ["ftp://h/", "file:///etc/passwd", "", "h.test", "$r.url", "$r.url/{x}", "http:/h"])
def test_unsupported_schemes(shared: Database, url: str) -> None:
    with pytest.raises(errors.InvalidParameterValue, match="unsupported URL scheme"):
        http(shared, url)


def test_credentials_are_not_quoted_in_the_error(shared: Database) -> None:
    with pytest.raises(errors.InvalidParameterValue) as caught:
        http(shared, "ftp://me:s3cret@h/")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("method", ["TRACE", "OPTIONS", "CONNECT", "", "GET "])
def test_invalid_methods(shared: Database, method: str) -> None:
    with pytest.raises(errors.InvalidParameterValue, match="Invalid HTTP method"):
        http(shared, method=method)


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_invalid_multipart_methods(shared: Database, method: str) -> None:
    with pytest.raises(errors.InvalidParameterValue, match="Invalid HTTP method"):
        multipart(shared, method=method, parts=[PART])


@pytest.mark.parametrize(("seconds", "message"), [(0, "Timeout must be positive"), (301, "http_max_timeout")])
def test_timeouts(shared: Database, seconds: int, message: str) -> None:
    with pytest.raises(errors.InvalidParameterValue, match=message):
        http(shared, timeout_seconds=seconds)
    with pytest.raises(errors.InvalidParameterValue, match=message):
        multipart(shared, parts=[PART], timeout_seconds=seconds)
    assert http(shared, timeout_seconds=1) and http(shared, timeout_seconds=300)


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
def test_bad_headers(shared: Database, headers: Any, name: str) -> None:
    with pytest.raises(errors.InvalidParameterValue, match="headers") as caught:
        http(shared, headers=headers)
    assert name in str(caught.value)
    with pytest.raises(errors.InvalidParameterValue, match="headers"):
        multipart(shared, headers=headers, parts=[PART])


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
def test_bad_parts(shared: Database, parts: Any) -> None:
    with pytest.raises(errors.InvalidParameterValue, match="parts"):
        multipart(shared, parts=parts)


def test_nulls(shared: Database) -> None:
    with pytest.raises(errors.NullValueNotAllowed):
        http(shared, None)
    with pytest.raises(errors.NullValueNotAllowed):
        http(shared, method=None)
    with pytest.raises(errors.NullValueNotAllowed):
        http(shared, timeout_seconds=None)
    with pytest.raises(errors.NullValueNotAllowed, match="parts"):
        multipart(shared, parts=None)
    assert http(shared, body=None, headers=None)


def test_http_mode_off(shared: Database) -> None:
    shared.admin("select df.set_setting('http_mode', 'off')")
    with pytest.raises(psycopg.Error, match=r"df\.http\(\) is disabled"):
        http(shared, "ftp://h/")
    with pytest.raises(psycopg.Error, match=r"df\.http_multipart\(\) is disabled"):
        multipart(shared, parts=[PART])
    shared.admin("select df.set_setting('http_mode', 'any')")


def test_any_search_path(shared: Database) -> None:
    with shared.connect() as conn:
        conn.execute("set search_path = ''")
        assert conn.execute("select df.http('http://h.test/', headers => '{}')").fetchone()
