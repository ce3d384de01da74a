"""HTTP responses as servers send them: marks before JSON, repeated headers, strange Retry-After, cut bodies, HEAD."""

import base64
import gzip
import json
import zlib
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


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("text/plain; charset=latin-1, text/plain; charset=latin-1", "café"),
        ("text/plain; charset='latin-1'", "café"),
        ('text/plain; CHARSET="windows-1252"; x=y', "café"),
        ("application/json;;charset=latin-1", "café"),
        ("text/plain; charset=no-such", None),
        ("text/plain; charset=base64", None),
        ("text/plain; charset=" + "a" * 5000, None),
        ("text/plain; charset=utf-8", None),
        (";", None),
    ],
    ids=[
        "twice",
        "single quotes",
        "more after it",
        "two semicolons",
        "unknown",
        "no charset of text",
        "long",
        "false",
        "nothing",
    ],
)
def test_a_strange_content_type_is_no_failure(db: Database, web: HttpServer, kind: str, text: str | None) -> None:
    said = get(db, web.url(raw(b"caf\xe9", f"Content-Type: {kind}")))
    expected = ("base64", "Y2Fm6Q==") if text is None else ("text", text)
    assert (said["encoding"], said["body"]) == expected


@pytest.mark.parametrize("retry_after", ["0", "Fri, 31 Dec 1999 23:59:59 GMT", "Fri, 31-Dec-99 23:59:59 GMT"])
def test_a_retry_after_that_has_passed_delays_nothing(db: Database, web: HttpServer, retry_after: str) -> None:
    before = len(web.received)
    get(db, web.url(raw(b"busy", f"Retry-After: {retry_after}", status=429)))
    assert len(web.received) - before == 5


def test_an_encoding_that_nobody_asked_for_is_left_as_it_is(db: Database, web: HttpServer) -> None:
    said = get(db, web.url(raw(b"\x8b\x02\x80hi\x03", "Content-Encoding: br")))
    assert (said["encoding"], base64.b64decode(said["body"])) == ("base64", b"\x8b\x02\x80hi\x03")
    assert said["headers"]["content-encoding"] == "br"


@pytest.mark.parametrize(
    "body",
    [zlib.compress(b"hi"), zlib.compress(b"hi")[2:-4], gzip.compress(b"h") + gzip.compress(b"i")],
    ids=["deflate", "deflate without its wrapper", "gzip of two members"],
)
def test_what_was_compressed_is_as_it_was(db: Database, web: HttpServer, body: bytes) -> None:
    kind = "gzip" if body[:2] == b"\x1f\x8b" else "deflate"
    assert get(db, web.url(raw(body, f"Content-Encoding: {kind}")))["body"] == "hi"


def test_a_chunked_body_that_is_cut_fails_the_step(db: Database, web: HttpServer) -> None:
    cut = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nabc"
    said = get(db, web.url("/raw?b64=" + quote(base64.b64encode(cut), safe="")))
    assert "the connection broke, or what came is not HTTP" in said


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_without_a_body_has_none(db: Database, web: HttpServer, status: int) -> None:
    lines = f"HTTP/1.1 {status} Whatever\r\nETag: x\r\nContent-Encoding: gzip\r\n\r\n".encode()
    said = get(db, web.url("/raw?b64=" + quote(base64.b64encode(lines), safe="")))
    assert (said["status"], said["body"], said["ok"]) == (status, "", status == 204)


@pytest.mark.parametrize("method", ["HEAD", "head"])
def test_head_is_a_method(db: Database, web: HttpServer, method: str) -> None:
    path = "/raw?b64=" + quote(base64.b64encode(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"), safe="")
    said = get(db, web.url(path), method)
    assert web.received[-1].method == "HEAD"
    assert (said["status"], said["body"], said["headers"]["content-length"]) == (200, "", "99999999999")


def test_head_is_no_method_of_an_upload(db: Database) -> None:
    with pytest.raises(Exception, match='Invalid HTTP method "HEAD"'):
        db.sql('select df.http_multipart(\'https://example.com\', \'HEAD\', \'[{"name": "a", "data_b64": ""}]\')')
