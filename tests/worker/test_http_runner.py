"""The HTTP runner against a real server: what is sent, what comes back, and how requests fail."""

import asyncio
import base64
import gzip
import ssl
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Iterator
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import pytest
import trustme
from pg_durable.http import HttpRunner

from tests.support import wait_until
from tests.worker.http_requests import FixedResolver, request
from tests.worker.http_server import HttpServer


@pytest.fixture
async def runner() -> AsyncIterator[HttpRunner]:
    made = HttpRunner()
    yield made
    await made.close()


def raw(*lines: str, body: bytes = b"") -> str:
    """The path at which the server sends exactly this."""
    return "/raw?b64=" + quote(base64.b64encode("\r\n".join([*lines, "", ""]).encode() + body), safe="")


def typed(content_type: str | None, body: bytes) -> str:
    kind = f"type={quote(content_type)}&" if content_type else ""
    return f"/typed?{kind}b64={quote(base64.b64encode(body), safe='')}"


async def test_a_response_becomes_the_value_of_the_node(web: HttpServer, runner: HttpRunner) -> None:
    value = (await runner.run(request(web.url("/typed?type=text/plain&b64=aGk="))))["value"]
    assert value.pop("duration_ms") >= 0
    headers = {"content-type": "text/plain", "content-length": "2"}
    assert value == {"status": 200, "body": "hi", "encoding": "text", "headers": headers, "ok": True}


async def test_method_headers_and_body_are_sent_as_given(web: HttpServer, runner: HttpRunner) -> None:
    headers = {"X-One": " ünï ", "User-Agent": "mine"}
    outcome = await runner.run(request(web.url("/ok?a=b c"), method="DELETE", body="täxt", headers=headers))
    assert outcome["value"]["ok"]
    sent = web.received[-1]
    assert (sent.method, sent.query, sent.body.decode()) == ("DELETE", {"a": "b c"}, "täxt")
    assert sent.headers["x-one"] == "ünï"
    assert sent.headers["user-agent"] == "mine"
    assert sent.headers["host"] == f"127.0.0.1:{web.port}"
    assert sent.headers["connection"] == "close"


async def test_a_post_without_body_says_so(web: HttpServer, runner: HttpRunner) -> None:
    await runner.run(request(web.url(), method="POST"))
    assert web.received[-1].headers["content-length"] == "0"


async def test_credentials_of_the_url_are_sent_and_never_quoted(web: HttpServer, runner: HttpRunner) -> None:
    url = f"http://me:s3cret@127.0.0.1:{web.port}/status/500?x=1"
    outcome = await runner.run(request(url))
    assert web.received[-1].headers["authorization"] == "Basic " + base64.b64encode(b"me:s3cret").decode()
    assert "s3cret" not in outcome["error"]
    assert f"http://127.0.0.1:{web.port}/status/500?x=1" in outcome["error"]


async def test_redirects_are_results(web: HttpServer, runner: HttpRunner) -> None:
    before = len(web.received)
    value = (await runner.run(request(web.url("/redirect"))))["value"]
    assert (value["status"], value["ok"], value["headers"]["location"]) == (302, False, "/ok")
    assert len(web.received) == before + 1


async def test_proxies_of_the_environment_are_ignored(web: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    outcome = await HttpRunner().run(request(web.url()))
    assert outcome["value"]["status"] == 200


@pytest.mark.parametrize("status", [200, 204, 301, 400, 404, 499])
async def test_statuses_that_complete_the_node(web: HttpServer, runner: HttpRunner, status: int) -> None:
    value = (await runner.run(request(web.url(f"/status/{status}"))))["value"]
    assert (value["status"], value["ok"]) == (status, status < 300)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503, 599])
async def test_statuses_that_fail(web: HttpServer, runner: HttpRunner, status: int) -> None:
    outcome = await runner.run(request(web.url(f"/status/{status}?body=sorry"), method="PUT"))
    assert outcome["class"] == f"http:{status}"
    assert outcome["error"] == f"PUT {web.url(f'/status/{status}?body=sorry')}: HTTP status {status}: sorry"


@pytest.mark.parametrize("listed", ["404", "4xx"])
async def test_a_listed_status_fails(web: HttpServer, runner: HttpRunner, listed: str) -> None:
    outcome = await runner.run(request(web.url("/status/404"), error_statuses=[listed]))
    assert outcome["class"] == "http:404"
    assert (await runner.run(request(web.url("/status/301"), error_statuses=[listed])))["value"]["status"] == 301


async def test_errors_quote_at_most_512_bytes_of_the_body(web: HttpServer, runner: HttpRunner) -> None:
    outcome = await runner.run(request(web.url("/status/500?body=" + "ü" * 600)))
    assert outcome["error"].endswith("ü" * 256)
    assert outcome["error"].count("ü") == 256


async def test_an_endless_error_body_is_not_read_to_its_end(web: HttpServer, runner: HttpRunner) -> None:
    path = raw("HTTP/1.1 503 Busy", "Content-Length: 99999999999", body=b"\0z" * 5000)
    outcome = await runner.run(request(web.url(path)))
    assert outcome["class"] == "http:503"
    assert "\0" not in outcome["error"]


async def test_retry_after_is_handed_on(web: HttpServer, runner: HttpRunner) -> None:
    outcome = await runner.run(request(web.url("/status/429?retry_after=17")))
    assert outcome["retry_after"] == 17
    outcome = await runner.run(request(web.url("/flaky?key=date&retry_after=date&status=429")))
    assert 1800 < outcome["retry_after"] <= 3600


@pytest.mark.parametrize(
    ("content_type", "body", "text"),
    [
        ("text/plain", b"abc", "abc"),
        ("text/html; charset=iso-8859-1", b"\xfc", "ü"),
        ('application/json; charset="utf-16"', "ü".encode("utf-16"), "ü"),
        ("application/problem+json", b"{}", "{}"),
        ("application/x-www-form-urlencoded", b"a=b", "a=b"),
        ("text/plain; charset=shift_jis", "日本".encode("shift_jis"), "日本"),
        ("text/plain", b"a\0b", None),
        ("text/plain", b"\xff", None),
        ("text/plain; charset=nonsense", b"abc", None),
        ("text/plain; charset=unicode_escape", b"\\ud800", None),
        ("text/plain; charset=zlib", b"abc", None),
        ("application/octet-stream", b"abc", "abc"),
        ("application/octet-stream; charset=iso-8859-1", b"\xfc", None),
        (None, "ü".encode(), "ü"),
        (None, b"\xfc", None),
        ("image/png", b"\x89PNG\0", None),
    ],
)
async def test_text_and_base64(
    web: HttpServer, runner: HttpRunner, content_type: str | None, body: bytes, text: str | None
) -> None:
    value = (await runner.run(request(web.url(typed(content_type, body)))))["value"]
    assert value["encoding"] == ("base64" if text is None else "text")
    assert value["body"] == (base64.b64encode(body).decode() if text is None else text)


async def test_response_headers(web: HttpServer, runner: HttpRunner) -> None:
    head = b"HTTP/1.1 200 OK\r\nX-A: 1\r\nx-a: 2\r\nX-Bad: \xff\r\nContent-Length: 0\r\n\r\n"
    value = (await runner.run(request(web.url("/raw?b64=" + quote(base64.b64encode(head), safe="")))))["value"]
    assert value["headers"] == {"x-a": "1, 2", "x-bad": "ÿ", "content-length": "0"}


@pytest.mark.parametrize(
    "path",
    [
        raw(),
        raw("what is this?"),
        raw("HTTP/1.1 200 OK", "Content-Length: 10", body=b"short"),
        raw("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", body=b"zz\r\n"),
        raw("HTTP/1.1 200 OK", "X-Secret\x01: abc"),
        raw("HTTP/1.1 200 OK", "Content-Encoding: gzip", "Content-Length: 4", body=b"nope"),
        raw("HTTP/1.1 200 OK", "Content-Encoding: gzip", body=gzip.compress(b"abc" * 100, mtime=0)[:-9]),
        "/header?bytes=1000000",
    ],
)
async def test_broken_responses_are_connection_errors(web: HttpServer, runner: HttpRunner, path: str) -> None:
    outcome = await runner.run(request(web.url(path)))
    assert outcome["class"] == "connection"
    assert "X-Secret" not in outcome["error"]


async def test_nobody_listens(runner: HttpRunner) -> None:
    outcome = await runner.run(request("http://127.0.0.1:1/"))
    assert outcome["class"] == "connection"
    assert outcome["error"].startswith("GET http://127.0.0.1:1/: cannot connect")


async def test_an_unknown_name_is_a_connection_error() -> None:
    outcome = await HttpRunner(FixedResolver()).run(request("http://nowhere.test/"))
    assert outcome["class"] == "connection"
    assert "nowhere.test" in outcome["error"]


@pytest.mark.parametrize("path", ["/hang", "/drip"])
async def test_the_timeout_covers_the_whole_exchange(web: HttpServer, runner: HttpRunner, path: str) -> None:
    outcome = await runner.run(request(web.url(path), timeout_seconds=0.3))
    assert outcome["class"] == "timeout"


async def test_the_timeout_covers_resolution() -> None:
    class Stuck(FixedResolver):
        async def resolve(self, host: str, port: int) -> list[str]:
            await asyncio.sleep(60)
            return []

    outcome = await HttpRunner(Stuck()).run(request("http://slow.test/", timeout_seconds=0.1))
    assert outcome["class"] == "timeout"


@pytest.mark.parametrize("path", ["/huge?bytes=2000000000", "/endless", "/gzip?mb=100", "/huge?bytes=1048577"])
async def test_reading_stops_at_the_cap(web: HttpServer, runner: HttpRunner, path: str) -> None:
    await runner.run(request(web.url()))
    tracemalloc.start()
    outcome = await runner.run(request(web.url(path)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert outcome["class"] == "refused"
    assert "http_max_response_bytes" in outcome["error"]
    assert peak < 10 << 20


async def test_a_body_as_large_as_the_cap_is_read(web: HttpServer, runner: HttpRunner) -> None:
    value = (await runner.run(request(web.url("/huge?bytes=1048576"))))["value"]
    assert len(value["body"]) == 1 << 20


async def test_gzip_is_undone(web: HttpServer, runner: HttpRunner) -> None:
    value = (await runner.run(request(web.url("/gzip?mb=1"))))["value"]
    assert base64.b64decode(value["body"]) == bytes(1 << 20)


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(b"one ", mtime=0) + gzip.compress(b"two", mtime=0)),
        ("GZIP", gzip.compress(b"one two", mtime=0)),
        ("deflate", zlib.compress(b"one two")),
        ("deflate", zlib.compress(b"one two", wbits=-15)),
        ("identity", b"one two"),
        ("br", b"one two"),
    ],
)
async def test_encodings(web: HttpServer, runner: HttpRunner, encoding: str, body: bytes) -> None:
    value = await runner.run(request(web.url(raw("HTTP/1.1 200 OK", f"Content-Encoding: {encoding}", body=body))))
    assert value["value"]["body"] == "one two"


async def test_multipart(web: HttpServer, runner: HttpRunner) -> None:
    parts = [
        {"name": "doc", "filename": 'a"; x="\\.pdf', "content_type": "application/pdf", "data_b64": "AAEC /w=\n="},
        {"name": "ü", "filename": None, "data_b64": "aGk="},
    ]
    outcome = await runner.run(request(web.url(), method="POST", parts=parts))
    assert outcome["value"]["ok"]
    sent = web.received[-1]
    form = message_from_bytes(f"Content-Type: {sent.headers['content-type']}\r\n\r\n".encode() + sent.body)
    first, second = cast(list[Message], form.get_payload())
    assert first.get_payload(decode=True) == b"\0\x01\x02\xff"
    assert first.get_content_type() == "application/pdf"
    assert first.get_param("filename", header="content-disposition") == "a%22; x=%22%5C.pdf"
    assert second.get_payload(decode=True) == b"hi"
    assert 'name="ü"'.encode() in sent.body


@pytest.mark.parametrize("change", [{"name": "a\r\nb"}, {"filename": "\n"}, {"content_type": "\n"}, {"data_b64": "%"}])
async def test_malformed_parts_are_refused(runner: HttpRunner, change: dict[str, str]) -> None:
    parts = [{"name": "a", "data_b64": ""} | change]
    outcome = await runner.run(request("http://127.0.0.1:1/", method="POST", parts=parts))
    assert outcome["class"] == "refused"
    assert "parts" in outcome["error"]


async def test_a_header_that_cannot_be_sent_is_refused_unquoted(web: HttpServer, runner: HttpRunner) -> None:
    outcome = await runner.run(request(web.url(), headers={"X-A": "tok\x0cen"}))
    assert outcome["class"] == "refused"
    assert "tok" not in outcome["error"]


async def test_hundreds_are_in_flight_at_once(web: HttpServer, runner: HttpRunner) -> None:
    requests = [asyncio.create_task(runner.run(request(web.url("/hang"), timeout_seconds=60))) for _ in range(300)]
    await asyncio.to_thread(wait_until, lambda: web.most_open >= 300, 60)
    for task in requests:
        task.cancel()
    await asyncio.gather(*requests, return_exceptions=True)


async def test_cancelling_abandons_the_request(web: HttpServer, runner: HttpRunner) -> None:
    before = len(web.received)
    task = asyncio.create_task(runner.run(request(web.url("/hang"))))
    await asyncio.to_thread(wait_until, lambda: len(web.received) > before)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(wait_until, lambda: web.open == 0)


async def test_switching_protocols_is_a_result(web: HttpServer, runner: HttpRunner) -> None:
    path = raw("HTTP/1.1 101 Switching Protocols", "Upgrade: x", "Connection: Upgrade")
    outcome = await runner.run(request(web.url(path), headers={"Connection": "Upgrade", "Upgrade": "x"}))
    assert outcome.get("value", {}).get("status") == 101


class TestTls:
    @pytest.fixture
    def authority(self) -> trustme.CA:
        return trustme.CA()

    @pytest.fixture
    def secure(self, authority: trustme.CA) -> Iterator[HttpServer]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("api.test").configure_cert(context)
        with HttpServer(tls=context) as server:
            yield server

    async def ask(self, secure: HttpServer, host: str) -> dict[str, Any]:
        runner = HttpRunner(FixedResolver(**{host: ["127.0.0.1"]}))
        return await runner.run(request(secure.url("/ok", host)))

    async def test_a_trusted_authority_and_the_name_it_signed(
        self, authority: trustme.CA, secure: HttpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        assert (await self.ask(secure, "api.test"))["value"]["status"] == 200
        assert secure.received[-1].headers["host"] == f"api.test:{secure.port}"
        assert "certificate" in (await self.ask(secure, "evil.test"))["error"]

    async def test_an_unknown_authority(self, secure: HttpServer) -> None:
        outcome = await self.ask(secure, "api.test")
        assert outcome["class"] == "connection"
        assert "certificate verify failed" in outcome["error"]
        assert not secure.received
