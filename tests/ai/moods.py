"""A proxy before the model that is in a mood: it counts what is sent, and refuses some of it."""

import json
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

import httpx

REFUSED = "unspeakable"  # a text with it is refused always
Mood = Callable[[int], int]  # the number of a request, from 1 on; 200, or with what it is answered instead


def content(_: int) -> int:
    """Answers all."""
    return 200


def moody(number: int) -> int:
    """Every fifth request is answered 429, every seventh 500."""
    if number % 5 == 0:
        return 429
    return 500 if number % 7 == 0 else 200


class Proxy(ThreadingHTTPServer):
    """The proxy, in a thread of its own. `answered` counts each text that the model has embedded: what is paid for."""

    daemon_threads = True

    def __init__(self, model: str, mood: Mood = content) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.mood = mood
        self.answered: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self.gate = threading.Event()  # requests wait while it is not set
        self.gate.set()
        self._model = model
        self._lock = threading.Lock()
        self._number = 0

    def __enter__(self) -> "Proxy":
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.gate.set()
        self.shutdown()
        self.server_close()

    @property
    def host(self) -> str:
        """HOST:PORT, as df.http_allow takes it."""
        return f"127.0.0.1:{self.server_port}"

    @property
    def url(self) -> str:
        """The address, as ai.set_model takes it."""
        return f"http://{self.host}/v1/embeddings"

    @property
    def paid(self) -> int:
        """How many texts the model has embedded, each time."""
        with self._lock:
            return self.answered.total()

    def serve(self, body: bytes) -> tuple[int, bytes]:
        """Status and body of an answer."""
        self.gate.wait()
        texts = json.loads(body)["input"]
        status = self._mood(texts)
        answer = json.dumps({"error": {"message": f"refused: {status}", "type": "mood"}}).encode()
        if status == 200:
            found = httpx.post(f"{self._model}/v1/embeddings", content=body, timeout=120)
            status, answer = found.status_code, found.content
        with self._lock:
            self.statuses[status] += 1
            if status == 200:
                self.answered.update(texts)
        return status, answer

    def _mood(self, texts: list[str]) -> int:
        with self._lock:
            self._number += 1
            status = self.mood(self._number)
        return 400 if status == 200 and any(REFUSED in text for text in texts) else status


class Handler(BaseHTTPRequestHandler):
    """A request."""

    server: Proxy

    def do_POST(self) -> None:
        status, body = self.server.serve(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(status)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        for name, value in (headers | ({"Retry-After": "1"} if status == 429 else {})).items():
            self.send_header(name, value)
        with suppress(ConnectionError):  # of a worker that was killed
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""
