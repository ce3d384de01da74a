"""What the worker counts, and the small HTTP server that shows it: /metrics for Prometheus, /healthz for everybody."""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

HELP = {
    "calls_total": ("counter", "calls that ran SQL steps, by how they ended"),
    "leased_total": ("counter", "steps run outside a transaction, by lane"),
    "login_failures_total": ("counter", "sessions that could not be opened"),
    "sessions_opened_total": ("counter", "sessions opened"),
    "sessions_lost_total": ("counter", "sessions that died while they ran steps"),
    "interrupts_total": ("counter", "cancel requests sent to running steps"),
    "ticks_total": ("counter", "looks at what is due"),
    "wakeups_total": ("counter", "notifications received"),
    "server_lost_total": ("counter", "losses of the supervising connection"),
    "sessions": ("gauge", "open sessions, by state"),
    "session_limit": ("gauge", "sessions that may be open at the same time"),
    "leased": ("gauge", "leased steps in flight, by lane"),
    "up": ("gauge", "1 while the supervising connection works"),
}


class Metrics:
    """Counters and gauges, each under a name of HELP and a set of labels."""

    def __init__(self) -> None:
        self._values: Counter[tuple[str, tuple[tuple[str, str], ...]]] = Counter()

    def add(self, name: str, **labels: str) -> None:
        """Counts one more."""
        self._values[name, tuple(labels.items())] += 1

    def set(self, name: str, value: int, **labels: str) -> None:
        """Sets a gauge."""
        self._values[name, tuple(labels.items())] = value

    def total(self, name: str) -> int:
        """The sum over all labels."""
        return sum(value for (key, _), value in self._values.items() if key == name)

    def render(self) -> str:
        """The Prometheus text format."""
        lines = []
        for name, (kind, meaning) in HELP.items():
            full = f"pg_durable_worker_{name}"
            lines += [f"# HELP {full} {meaning}", f"# TYPE {full} {kind}"]
            found = [(labels, value) for (key, labels), value in self._values.items() if key == name]
            lines += [f"{full}{_labels(labels)} {value}" for labels, value in sorted(found) or [((), 0)]]
        return "\n".join(lines) + "\n"


def _labels(labels: tuple[tuple[str, str], ...]) -> str:
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels) + "}" if labels else ""


class MetricsServer:
    """Answers GET /metrics and GET /healthz; `healthy` says whether the worker is in touch with the database."""

    def __init__(self, metrics: Metrics, healthy: Callable[[], bool]) -> None:
        self._metrics = metrics
        self._healthy = healthy
        self._server: asyncio.Server | None = None

    async def start(self, address: str) -> None:
        """Listens on PORT or HOST:PORT; only on this machine when no host is given."""
        host, _, port = address.rpartition(":")
        self._server = await asyncio.start_server(self._answer, host.strip("[]") or "127.0.0.1", int(port))

    async def close(self) -> None:
        """Stops listening."""
        if self._server:
            self._server.close()
            await self._server.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, TimeoutError, ValueError, asyncio.IncompleteReadError):
            async with asyncio.timeout(5):
                request = await reader.readline()
                while (await reader.readline()).strip():
                    pass
                writer.write(self._respond(request.decode("latin-1").split()))
                await writer.drain()
        writer.close()

    def _respond(self, request: list[str]) -> bytes:
        status, body = self._page(request[1].split("?")[0] if len(request) == 3 and request[0] == "GET" else "")
        head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nConnection: close\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()

    def _page(self, path: str) -> tuple[str, str]:
        if path == "/metrics":
            return "200 OK", self._metrics.render()
        if path != "/healthz":
            return "404 Not Found", "there are /metrics and /healthz\n"
        return ("200 OK", "ok\n") if self._healthy() else ("503 Service Unavailable", "no database\n")
