"""Makes the request of an HTTP step and says how it ended."""

import asyncio
import contextlib
import ssl
import sys
import time
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpcore
import httpx

from pg_durable.http.addresses import Resolver, SystemResolver
from pg_durable.http.errors import RequestFailed
from pg_durable.http.inflate import decoder_for
from pg_durable.http.mask import Mask
from pg_durable.http.network import CheckedNetwork
from pg_durable.http.request import Request
from pg_durable.http.response import (
    QUOTED_BYTES,
    Headers,
    header,
    header_map,
    quoted_body,
    response_object,
    response_size,
    retry_after,
)
from pg_durable.http.room import Room, Unlimited
from pg_durable.http.secrets import Secrets

Hold = Callable[[int], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Received:
    """A whole response."""

    status: int
    headers: Headers
    body: bytearray
    seconds: float


# What reading and writing may raise when the other side or the network misbehaves; OSError includes those of TLS.
BROKEN = (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError)


class HttpRunner:
    """Shared by all HTTP steps of a worker; any number of requests may be in flight.

    Each request has a connection of its own, so that each one is checked and nothing is shared between roles: no
    redirects, no proxies, no cookies, no reuse. Certificates of SSL_CERT_FILE or SSL_CERT_DIR are honoured.
    """

    def __init__(self, resolver: Resolver | None = None) -> None:
        self._resolver = resolver or SystemResolver()
        self._tls: ssl.SSLContext = httpx.create_ssl_context()

    async def run(
        self, request: dict[str, Any], room: Room | None = None, secrets: Secrets | None = None
    ) -> dict[str, Any]:
        """Sends what df_engine.http_request approved: {"value": ...}, or {"error", "class", "retry_after", "sqlstate"}.

        Of its secrets none is in what comes back, and nothing is read for which there is no `room`. Cancelling the task
        abandons the request.
        """
        secrets = secrets or Secrets()
        try:
            approved = Request.from_json(secrets.put_into(request))
            return {"value": secrets.mask.response(await self._run(approved, room or Unlimited(), secrets.mask))}
        except RequestFailed as failure:
            return {
                "error": secrets.mask.text(str(failure)),
                "class": failure.kind,
                "retry_after": failure.retry_after,
                "sqlstate": None,
            }
        except Exception as error:
            if not request.get("secrets"):
                raise
            raise RuntimeError(secrets.mask.text(repr(error))) from None

    async def close(self) -> None:
        """Frees the resolver's threads; requests in flight are their tasks' business."""
        self._resolver.close()

    async def _run(self, request: Request, room: Room, mask: Mask) -> dict[str, Any]:
        received = await self._received(request, room, mask)
        size, held = response_size(received.status, received.headers, received.body), sys.getsizeof(received.body)
        if size > request.max_result_bytes:
            text = f"the result has {size} bytes of JSON, and max_result_bytes allows {request.max_result_bytes}"
            raise RequestFailed("refused", f"{request.title}: {text}\nHINT: Ask for a smaller response.")
        await room.hold(held + (3 if mask.longest else 1) * size)  # masking takes two copies more
        return response_object(received.status, received.headers, received.body, received.seconds)

    async def _received(self, request: Request, room: Room, mask: Mask) -> Received:
        try:
            async with asyncio.timeout(request.timeout) as deadline:
                return await self._exchange(request, lambda size: _hold(room, size, deadline), mask)
        except RequestFailed as failure:
            raise RequestFailed(failure.kind, f"{request.title}: {failure}", failure.retry_after) from failure
        except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
            message = f"{request.title}: cannot connect: {error or 'no answer'}"
            raise RequestFailed("connection", message) from error
        except httpcore.LocalProtocolError as error:
            raise RequestFailed("refused", f"{request.title}: the request cannot be written as HTTP") from error
        except zlib.error as error:
            message = f"{request.title}: the body is not whole, or not compressed as its Content-Encoding says"
            raise RequestFailed("connection", message) from error
        except BROKEN as error:
            if deadline.expired():
                raise RequestFailed("timeout", f"{request.title}: timeout after {request.timeout:g} s") from error
            # Its text is not quoted: it can hold header values.
            message = f"{request.title}: the connection broke, or what came is not HTTP ({type(error).__name__})"
            raise RequestFailed("connection", message) from error

    async def _exchange(self, request: Request, hold: Hold, mask: Mask) -> Received:
        started = time.monotonic()
        url = httpcore.URL(
            scheme=request.url.raw_scheme, host=request.url.raw_host, port=request.port, target=request.url.raw_path
        )
        network = CheckedNetwork(self._resolver, request.allow_private, request.timeout)
        async with (
            httpcore.AsyncHTTPConnection(url.origin, self._tls, network_backend=network) as connection,
            connection.stream(request.method, url, headers=request.headers, content=request.content) as response,
        ):
            headers = header_map(response.headers)
            if request.is_failure(response.status):
                raise await _status_failure(response, headers, mask)
            bodiless = request.method == "HEAD" or response.status == 304  # Content-Length is of what would be sent
            body = bytearray() if bodiless else await _read(response, headers, request.max_response_bytes, hold)
            return Received(response.status, headers, body, time.monotonic() - started)


async def _hold(room: Room, size: int, deadline: asyncio.Timeout) -> None:
    """Waits for room; that is not time that the other side takes."""
    clock = asyncio.get_running_loop().time
    left = (deadline.when() or clock()) - clock()
    if not deadline.expired():
        deadline.reschedule(None)
    try:
        await room.hold(size)
    finally:
        if not deadline.expired():
            deadline.reschedule(clock() + left)


async def _read(response: httpcore.Response, headers: Headers, limit: int, hold: Hold) -> bytearray:
    """The whole body; fails as soon as it is known to be larger than the limit."""
    length = header(headers, "content-length")
    body = bytearray()
    if not (length.isdecimal() and int(length) > limit):
        async with contextlib.aclosing(_pieces(response, headers)) as pieces:
            async for piece in pieces:
                body += piece
                if len(body) > limit:
                    break
                await hold(sys.getsizeof(body))
            else:
                return body
    raise RequestFailed("refused", f"the response is larger than http_max_response_bytes allows ({limit})")


async def _status_failure(response: httpcore.Response, headers: Headers, mask: Mask) -> RequestFailed:
    body = b""
    with contextlib.suppress(zlib.error, *BROKEN):
        async with contextlib.aclosing(_pieces(response, headers)) as pieces:
            async for piece in pieces:
                body += piece
                if len(body) >= QUOTED_BYTES + mask.longest:
                    break
    quote = quoted_body(body, header(headers, "content-type"), mask)
    message = f"HTTP status {response.status}" + (f": {quote}" if quote else "")
    return RequestFailed(f"http:{response.status}", message, retry_after(headers))


async def _pieces(response: httpcore.Response, headers: Headers) -> AsyncGenerator[bytes, None]:
    decoder = decoder_for(header(headers, "content-encoding"))
    async for chunk in response.aiter_stream():
        for piece in decoder.decode(chunk):
            yield piece
    decoder.finish()
