"""HTTP responses as servers send them: marks before JSON, repeated headers, strange Retry-After, cut bodies, HEAD."""

import base64
import gzip
import json
from typing import Any
from urllib.parse import quote

import pytest

from tests.support import Database
from tests.worker.http_server import HttpServer
from tests.worker.process import await_end, error

MARK = b"\xef\xbb\xbf"
pytestmark = pytest.mark.usefixtures("worker")


def get(db: Database, url: str, method: str = "GET") -> Any:
    """Starts a flow of one request; its result, or the error with which it failed."""
    db.admin("select df.http_allow('127.0.0.1', allow_private => true)")
    db.admin("select df.set_setting('retry_initial_delay', '10 ms'), df.set_setting('retry_max_delay', '10 ms')")
    run_id = str(db.sql("select df.start(df.http(%s, %s))", url, method))
    if await_end(db, run_id) == "failed":
        return error(db, run_id)
    return json.loads(db.sql("select df.result(%s)", run_id))


def raw(body: bytes, *headers: str, status: int = 200) -> str:
    """The path at which the server sends exactly this."""
    head = "\r\n".join([f"HTTP/1.1 {status} Whatever", *headers, f"Content-Length: {len(body)}", "", ""])
    return "/raw?b64=" + quote(base64.b64encode(head.encode("latin-1") + body), safe="")


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (MARK + b'{"a": 1}', "application/json"),
        (MARK + b'{"a": 1}', "application/problem+json; charset=utf-8"),
        (MARK + b'{"a": 1}', "application/octet-stream"),
        ('\ufeff{"a": 1}'.encode("utf-16-le"), "text/json; charset=utf-16le"),
        ('{"a": 1}'.encode("utf-16"), "text/plain; charset=utf-16"),
    ],
)
def test_a_mark_before_text_is_dropped(db: Database, web: HttpServer, body: bytes, kind: str) -> None:
    said = get(db, web.url(raw(body, f"Content-Type: {kind}")))
    assert (said["encoding"], json.loads(said["body"])) == ("text", {"a": 1})


def test_repeated_headers_are_joined_and_cookies_an_array(db: Database, web: HttpServer) -> None:
    lines = ("Link: <a>; rel=next", "link: <b>; rel=last", "Set-Cookie: a=1", "Set-Cookie: b=2", "X-Old: caf\xe9")
    headers = get(db, web.url(raw(b"", *lines)))["headers"]
    assert headers["link"] == "<a>; rel=next, <b>; rel=last"
    assert headers["set-cookie"] == ["a=1", "b=2"]
    assert headers["x-old"] == "café"


@pytest.mark.parametrize(
    "value", ["-5", "soon", "1.5", "", "9" * 400, "Fri, 31 Dec 9999999 23:59:59 GMT", "Thu, 99 Foo 2020 25:61:61 GMT"]
)
def test_a_malformed_retry_after_is_ignored(db: Database, web: HttpServer, value: str) -> None:
    said = get(db, web.url(raw(b"busy", f"Retry-After: {value}", status=503)))
    assert "HTTP status 503: busy" in said


@pytest.mark.parametrize("body", [gzip.compress(b"x" * 10_000)[:-12], b"not gzip at all"], ids=["cut", "never"])
def test_a_body_that_is_not_whole_says_so(db: Database, web: HttpServer, body: bytes) -> None:
    said = get(db, web.url(raw(body, "Content-Encoding: gzip")))
    assert "the body is not whole, or not compressed as its Content-Encoding says" in said
    assert "(error)" not in said


@pytest.mark.parametrize("method", ["HEAD", "head"])
def test_head_is_a_method(db: Database, web: HttpServer, method: str) -> None:
    path = "/raw?b64=" + quote(base64.b64encode(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"), safe="")
    said = get(db, web.url(path), method)
    assert web.received[-1].method == "HEAD"
    assert (said["status"], said["body"], said["headers"]["content-length"]) == (200, "", "99999999999")


def test_head_is_no_method_of_an_upload(db: Database) -> None:
    with pytest.raises(Exception, match='Invalid HTTP method "HEAD"'):
        db.sql('select df.http_multipart(\'https://example.com\', \'HEAD\', \'[{"name": "a", "data_b64": ""}]\')')
