"""The HTTP side: requests of OpenAI's form in, vectors out. Sizes, requests at a time and their time are bounded."""

import asyncio
import base64
import json
import logging
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pg_durable.embed.model import DIMENSIONS, NAME, Model, Tokens, Vector, packs
from pg_durable.log import event
from pg_durable.printing import say

MOST_TEXTS = 2048  # of a request, as OpenAI's
MOST_BYTES = 8 * 1024 * 1024  # of a request's body
BODY_SECONDS = 30.0  # for a body to arrive
MOST_CONNECTIONS = 1000
FORMATS = ("float", "base64")
CREATED = 1630281600  # when the model was published


class Refusal(Exception):
    """An answer that is an error in OpenAI's form."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def response(self) -> JSONResponse:
        """The answer."""
        kind = {429: "rate_limit_error", 503: "server_error"}.get(self.status, "invalid_request_error")
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return JSONResponse({"error": error}, self.status, {"Retry-After": "1"} if self.status == 429 else None)


@dataclass(frozen=True)
class Wanted:
    """What a request asks for."""

    texts: list[str]
    encoding: str


@dataclass
class Totals:
    """What was served so far."""

    requests: int = 0
    refused: int = 0
    texts: int = 0
    tokens: int = 0
    truncated: int = 0


class Service:
    """The answers."""

    def __init__(self, model: Model, max_requests: int) -> None:
        self._model = model
        self._max_requests = max_requests
        self._open = 0
        self._slots = asyncio.Semaphore(model.threads)  # first come first served, a pack each: nobody waits for a batch
        self._totals = Totals()

    def application(self) -> Starlette:
        """The addresses, and what errors are answered with."""
        routes = [
            Route("/v1/embeddings", self.embeddings, methods=["POST"]),
            Route("/v1/models", self.models, methods=["GET"]),
            Route("/v1/models/{name}", self.models, methods=["GET"]),
            Route("/healthz", self.health, methods=["GET"]),
        ]
        handlers: dict[Any, Any] = {Refusal: refused, HTTPException: http_error}
        return Starlette(routes=routes, exception_handlers=handlers)

    async def models(self, request: Request) -> Response:
        """The one model."""
        card = {"id": NAME, "object": "model", "created": CREATED, "owned_by": "sentence-transformers"}
        name = request.path_params.get("name")
        if name is None:
            return JSONResponse({"object": "list", "data": [card]})
        if name != NAME:
            raise unknown_model(name)
        return JSONResponse(card)

    async def health(self, _: Request) -> Response:
        """That it answers, and what it has served."""
        return JSONResponse({"status": "ok", "model": NAME, "dimensions": DIMENSIONS, **asdict(self._totals)})

    async def embeddings(self, request: Request) -> Response:
        """A vector for each text."""
        if self._open >= self._max_requests:
            self._totals.refused += 1
            raise Refusal(429, f"{self._max_requests} requests are open", code="rate_limit_exceeded")
        self._open += 1
        try:
            return await self._embeddings(request)
        except ClientDisconnect:
            return Response(status_code=400)  # which nobody reads
        except Refusal:
            self._totals.refused += 1
            raise
        finally:
            self._open -= 1

    async def _embeddings(self, request: Request) -> Response:
        wanted = read(await body(request))
        tokens = await self._run(self._model.tokens, wanted.texts)
        encoded: list[str] = [""] * len(tokens)
        parts = packs(tokens)
        await asyncio.gather(*(self._embed(request, parts, wanted, encoded) for _ in range(self._model.threads)))
        count, cut = sum(len(each.ids) for each in tokens), sum(each.cut for each in tokens)
        self._count(len(tokens), count, cut)
        data = ",".join(
            f'{{"object":"embedding","index":{at},"embedding":{vector}}}' for at, vector in enumerate(encoded)
        )
        usage = json.dumps({"prompt_tokens": count, "total_tokens": count, "truncated_texts": cut})
        answer = f'{{"object":"list","data":[{data}],"model":"{NAME}","usage":{usage}}}'
        return Response(answer, media_type="application/json")

    async def _embed(self, request: Request, parts: Iterator[list[Tokens]], wanted: Wanted, encoded: list[str]) -> None:
        """Embeds packs until there are no more, or nobody waits for them."""
        for pack in parts:
            async with self._slots:
                if await request.is_disconnected():
                    raise ClientDisconnect
                vectors = await self._run(self._vectors, pack, wanted.encoding)
            for each, vector in zip(pack, vectors, strict=True):
                encoded[each.at] = vector

    def _vectors(self, pack: list[Tokens], encoding: str) -> list[str]:
        return [encode(vector, encoding) for vector in self._model.vectors(pack)]

    async def _run(self, function: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._model.pool, function, *arguments)

    def _count(self, texts: int, tokens: int, cut: int) -> None:
        self._totals.requests += 1
        self._totals.texts += texts
        self._totals.tokens += tokens
        self._totals.truncated += cut
        event(logging.DEBUG, "embedded", texts=texts, tokens=tokens, truncated=cut)
        if cut:
            event(logging.WARNING, "texts are longer than the model can read", texts=cut)


def encode(vector: Vector, encoding: str) -> str:
    """A vector as JSON: numbers, or the bytes of float32 in base64."""
    if encoding == "base64":
        return f'"{base64.b64encode(vector.astype("<f4").tobytes()).decode()}"'
    return f"[{','.join(['%.9g'] * len(vector)) % tuple(vector.tolist())}]"


async def body(request: Request) -> bytes:
    """A body that is not too large and does not take for ever."""
    data = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                data += part
                if len(data) > MOST_BYTES:
                    raise Refusal(413, f"The body is larger than {MOST_BYTES} bytes", code="request_too_large")
    except TimeoutError:
        raise Refusal(408, f"The body has not arrived within {BODY_SECONDS:.0f} s") from None
    return bytes(data)


def read(data: bytes) -> Wanted:
    """What a body asks for; refuses what it cannot."""
    try:
        given = json.loads(data)
    except (ValueError, RecursionError):
        raise Refusal(400, "The body is not valid JSON") from None
    if not isinstance(given, dict):
        raise Refusal(400, "The body is not a JSON object")
    if (model := given.get("model")) != NAME:
        raise unknown_model(model)
    if (encoding := given.get("encoding_format", "float")) not in FORMATS:
        raise Refusal(400, f"encoding_format is one of {', '.join(FORMATS)}", "encoding_format")
    if given.get("dimensions", DIMENSIONS) != DIMENSIONS:
        raise Refusal(400, f"{NAME} has {DIMENSIONS} dimensions, and no others", "dimensions")
    return Wanted(texts(given.get("input")), encoding)


def texts(given: Any) -> list[str]:
    """The texts to embed: one, or a list."""
    listed = [given] if isinstance(given, str) else given
    if not isinstance(listed, list) or not all(isinstance(text, str) for text in listed):
        raise Refusal(400, "input is a string or an array of strings; tokens are not taken", "input")
    if not 1 <= len(listed) <= MOST_TEXTS:
        raise Refusal(400, f"input has {len(listed)} texts; 1 to {MOST_TEXTS} are possible", "input")
    if "" in listed:
        raise Refusal(400, f"input[{listed.index('')}] is an empty string", "input")
    try:
        "".join(listed).encode()
    except UnicodeEncodeError:
        raise Refusal(400, "input has half of a surrogate pair", "input") from None
    return listed


def unknown_model(name: Any) -> Refusal:
    """There is one model."""
    return Refusal(404, f"The model {json.dumps(name)} does not exist; {NAME} does", "model", "model_not_found")


async def refused(_: Request, refusal: Exception) -> Response:
    """Answers a refusal."""
    assert isinstance(refusal, Refusal)
    return refusal.response()


async def http_error(request: Request, error: Exception) -> Response:
    """Answers what no address or method fits."""
    assert isinstance(error, HTTPException)
    return Refusal(error.status_code, f"{error.detail}: {request.method} {request.url.path}").response()


class Server(uvicorn.Server):
    """A server that signals of the process end, quietly."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self.stop)
        yield

    def stop(self) -> None:
        """Lets open requests end; a second signal does not."""
        self.force_exit = self.should_exit
        self.should_exit = True


async def serve(model: Model, host: str, port: int, max_requests: int) -> None:
    """Serves until a signal."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as listener:
        place = f"[{host}]" if ":" in host else host
        say(f"{NAME} is served at http://{place}:{listener.getsockname()[1]}/v1/embeddings. Ctrl-C stops it.")
        config = uvicorn.Config(
            Service(model, max_requests).application(),
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            limit_concurrency=MOST_CONNECTIONS,
        )
        with suppress(asyncio.CancelledError):
            await Server(config).serve(sockets=[listener])
