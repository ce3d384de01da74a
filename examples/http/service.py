"""A small service to call: it knows companies, is busy now and then, and takes uploads."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

EMPLOYEES = {"acme.test": 120, "globex.test": 4500, "initech.test": 77}
LOGO = bytes.fromhex("89504e470d0a1a0a") + bytes(range(256))
MOODS = [(429, "1"), (503, "0")]  # what the first requests get, and the Retry-After that comes with it


class Service(BaseHTTPRequestHandler):
    """GET /companies/<domain> · GET /logo.png · POST /upload"""

    def do_GET(self) -> None:
        if self.path == "/logo.png":
            self.reply(200, LOGO, "image/png")
        elif MOODS:
            status, after = MOODS.pop(0)
            self.reply(status, b"busy", "text/plain", {"Retry-After": after})
        else:
            domain = self.path.rsplit("/", 1)[1]
            self.reply(200, json.dumps({"employees": EMPLOYEES[domain]}).encode(), "application/json")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        answer = {"intact": LOGO in body, "key": self.headers["Idempotency-Key"]}
        self.reply(201, json.dumps(answer).encode(), "application/json")

    def reply(self, status: int, body: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        print("  service:", format % args)


def serve() -> ThreadingHTTPServer:
    """The service, on a free port of this machine; call serve_forever in a thread."""
    return ThreadingHTTPServer(("127.0.0.1", 0), Service)
