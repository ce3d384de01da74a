"""A misbehaving HTTP server on a real socket, in a thread of its own: what a URL's path and query ask for, it does."""

import asyncio
import base64
import json
import ssl
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, quote, quote_plus, urlsplit

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter
Query = dict[str, str]


@dataclass
class Received:
    """One request as it arrived; header names are in lower case."""

    method: str
    path: str
    query: Query
    headers: dict[str, str]
    body: bytes


def reply(status: int, body: bytes = b"", *headers: str) -> bytes:
    """A whole response."""
    lines = [f"HTTP/1.1 {status} Whatever", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


@dataclass
class HttpServer:
    """`received` has every request that was read; `connections` counts accepted ones, `open` those not yet closed."""

    tls: ssl.SSLContext | None = None
    host: str = "127.0.0.1"
    received: list[Received] = field(default_factory=list, repr=False)
    connections: int = 0
    open: int = 0
    most_open: int = 0
    port: int = 0
    seen: Counter[str] = field(default_factory=Counter)

    def __enter__(self) -> "HttpServer":
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._serve, self.host, 0, ssl=self.tls, backlog=1000))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call(self._shut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def url(self, path: str = "/ok", host: str | None = None) -> str:
        """The URL of a path."""
        scheme = "https" if self.tls else "http"
        return f"{scheme}://{host or self.host}:{self.port}{path}"

    def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _shut(self) -> None:
        self._server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: Reader, writer: Writer) -> None:
        self.connections += 1
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            await self._answer(await self._read(reader), reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.open -= 1
            writer.close()

    async def _answer(self, request: Received, reader: Reader, writer: Writer) -> None:
        """Does what the path asks for, until the client hangs up."""
        action: Callable[[Received, Writer], Coroutine[Any, Any, None]]
        action = getattr(self, f"_do_{request.path.split('/')[1]}")
        work = asyncio.create_task(action(request, writer))
        hang_up = asyncio.create_task(reader.read())
        await asyncio.wait((work, hang_up), return_when=asyncio.FIRST_COMPLETED)
        for task in (work, hang_up):
            task.cancel()
        await asyncio.gather(work, hang_up, return_exceptions=True)

    async def _read(self, reader: Reader) -> Received:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        method, target, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        split = urlsplit(target)
        query = {name: values[-1] for name, values in parse_qs(split.query).items()}
        request = Received(method, split.path, query, headers, body)
        self.received.append(request)
        return request

    async def _do_ok(self, request: Received, writer: Writer) -> None:
        echo = {"method": request.method, "path": request.path, "headers": request.headers, "n": len(self.received)}
        body = json.dumps(echo | {"body": request.body.decode("utf-8", "replace")}).encode()
        writer.write(reply(200, body, "Content-Type: application/json"))

    async def _do_status(self, request: Received, writer: Writer) -> None:
        """/status/404?body=text&retry_after=5"""
        headers = [f"Retry-After: {request.query['retry_after']}"] if "retry_after" in request.query else []
        writer.write(reply(int(request.path.split("/")[2]), request.query.get("body", "").encode(), *headers))

    async def _do_echo(self, request: Received, writer: Writer) -> None:
        """/echo/500?pad=n: what it was authorized with in all the ways in which it may be written, after n bytes."""
        told = request.headers.get("authorization", "").removeprefix("Bearer ")
        packed = [base64.b64encode(f"{'x' * n}{told}y".encode()).decode() for n in range(3)]
        ways = [
            told,
            json.dumps(told),
            json.dumps(told).replace("/", "\\/"),
            quote(told, safe=""),
            quote_plus(told),
            *packed,
        ]
        body = "." * int(request.query.get("pad", "0")) + " ".join(ways)
        kind = f"Content-Type: {request.query.get('type', 'text/plain')}"
        writer.write(
            reply(int(request.path.split("/")[2]), body.encode(), kind, f"X-Told: {quote(told)}", f"Set-Cookie: {told}")
        )

    async def _do_typed(self, request: Received, writer: Writer) -> None:
        """/typed?type=text/plain&b64=...: a body of any type."""
        types = [f"Content-Type: {request.query['type']}"] if "type" in request.query else []
        writer.write(reply(200, base64.b64decode(request.query["b64"]), *types))

    async def _do_raw(self, request: Received, writer: Writer) -> None:
        """/raw?b64=...: exactly these bytes, then the end of the connection."""
        writer.write(base64.b64decode(request.query["b64"]))
        await writer.drain()

    async def _do_slow(self, request: Received, writer: Writer) -> None:
        await asyncio.sleep(float(request.query.get("s", "1")))
        await self._do_ok(request, writer)

    async def _do_hang(self, request: Received, writer: Writer) -> None:
        await asyncio.sleep(3600)

    async def _do_drip(self, request: Received, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b".")
            await writer.drain()
            await asyncio.sleep(0.02)

    async def _do_huge(self, request: Received, writer: Writer) -> None:
        """/huge?bytes=n&s=t: a body of n bytes, announced, after t seconds."""
        await asyncio.sleep(float(request.query.get("s", "0")))
        size = int(request.query["bytes"])
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode())
        while size > 0:
            writer.write(b"x" * min(size, 65536))
            size -= 65536
            await writer.drain()

    async def _do_control(self, request: Received, writer: Writer) -> None:
        """/control?bytes=n: as many control characters, each of which takes six in JSON."""
        writer.write(reply(200, b"\x01" * int(request.query["bytes"]), "Content-Type: text/plain"))

    async def _do_endless(self, request: Received, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            await writer.drain()

    async def _do_redirect(self, request: Received, writer: Writer) -> None:
        writer.write(reply(302, b"", "Location: /ok"))

    async def _do_flaky(self, request: Received, writer: Writer) -> None:
        """/flaky?key=k&fail=2&status=503&retry_after=1: fails so often, then is well; retry_after=date: in an hour."""
        self.seen[request.query["key"]] += 1
        if self.seen[request.query["key"]] > int(request.query.get("fail", "1")):
            await self._do_ok(request, writer)
            return
        after = request.query.get("retry_after", "0")
        if after == "date":
            after = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
        writer.write(reply(int(request.query.get("status", "503")), b"not yet", f"Retry-After: {after}"))

    async def _do_header(self, request: Received, writer: Writer) -> None:
        """/header?bytes=n: one header of n bytes."""
        writer.write(reply(200, b"", "X-Big: " + "h" * int(request.query["bytes"])))

    async def _do_gzip(self, request: Received, writer: Writer) -> None:
        """/gzip?mb=n: so many megabytes of zeros, packed."""
        packer = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
        pieces = [packer.compress(bytes(1 << 20)) for _ in range(int(request.query["mb"]))]
        writer.write(reply(200, b"".join(pieces) + packer.flush(), "Content-Encoding: gzip"))

    async def _do_file(self, request: Received, writer: Writer) -> None:
        writer.write(reply(200, bytes(range(256)), "Content-Type: application/octet-stream"))
