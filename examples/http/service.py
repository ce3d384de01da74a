"""A small service to call. It cuts texts, knows companies, classifies, takes uploads; and is in a mood at first.

`python examples/http/service.py 8808` runs it alone.
"""

import json
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

EMPLOYEES = {"acme.test": 120, "globex.test": 4500, "initech.test": 77}
CLASSES = {"invoice": ("billing", 0.9), "broken": ("support", 0.8)}
LOGO = bytes.fromhex("89504e470d0a1a0a") + bytes(range(256))
LOST = 0  # no answer: the connection ends


class Service(ThreadingHTTPServer):
    """Its moods: what the first requests to a path get instead of an answer."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self._moods = {"chunk": [503], "companies": [429, 503], "classify": [LOST, 429, 503]}
        self._lock = threading.Lock()

    def mood(self, path: str) -> int | None:
        """What this request is to get, if not an answer."""
        with self._lock:
            moods = self._moods.get(path)
            return moods.pop(0) if moods else None


class Handler(BaseHTTPRequestHandler):
    """GET /companies/<domain> · GET /logo.png · POST /chunk · POST /classify · POST /upload"""

    server: Service

    def do_GET(self) -> None:
        self.handle_request(b"")

    def do_POST(self) -> None:
        self.handle_request(self.rfile.read(int(self.headers["Content-Length"])))

    def handle_request(self, body: bytes) -> None:
        path, _, rest = self.path[1:].partition("/")
        mood = self.server.mood(path)
        if mood == LOST:
            self.close_connection = True
        elif mood:
            self.reply(mood, b"busy", "text/plain")
        elif path == "logo.png":
            self.reply(200, LOGO, "image/png")
        else:
            status, answer = getattr(self, f"answer_{path}")(body, rest)
            self.reply(status, json.dumps(answer).encode(), "application/json")

    def answer_chunk(self, body: bytes, _: str) -> tuple[int, Any]:
        sentences = re.split(r"\.\s*", json.loads(body)["text"])
        return 200, {"chunks": [sentence for sentence in sentences if sentence]}

    def answer_companies(self, _: bytes, domain: str) -> tuple[int, Any]:
        return 200, {"employees": EMPLOYEES[domain]}

    def answer_classify(self, body: bytes, _: str) -> tuple[int, Any]:
        text = json.loads(body)["text"]
        for word, (name, confidence) in CLASSES.items():
            if word in text:
                return 200, {"class": name, "confidence": confidence}
        return 422, {"error": "not a text"}

    def answer_upload(self, body: bytes, _: str) -> tuple[int, Any]:
        return 201, {"intact": LOGO in body, "key": self.headers["Idempotency-Key"]}

    def reply(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(body))}
        for name, value in (headers | ({"Retry-After": "1"} if status == 429 else {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        print("  service:", format % args)


@contextmanager
def serving(port: int = 0) -> Iterator[str]:
    """The service in a thread, on a port of this machine, a free one for 0; its address."""
    with Service(port) as service:
        threading.Thread(target=service.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{service.server_port}"
        service.shutdown()


if __name__ == "__main__":
    Service(int(sys.argv[1])).serve_forever()
