"""What the worker counts, and the small HTTP server that shows it: /metrics for Prometheus, /healthz for everybody."""

import asyncio
import os
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from itertools import accumulate
from operator import itemgetter

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from pg_durable.errors import CommandError
from pg_durable.printing import printable

# What this worker does: pg_durable_worker_...
WORKER = {
    "calls_total": ("counter", "calls that ran SQL steps, by how they ended"),
    "call_seconds": ("histogram", "how long such calls took; many short steps share one, a long step has its own"),
    "leased_total": ("counter", "steps run outside a transaction, by lane"),
    "leased_seconds": ("histogram", "how long they took, by lane"),
    "login_failures_total": ("counter", "sessions that could not be opened"),
    "sessions_opened_total": ("counter", "sessions opened"),
    "sessions_lost_total": ("counter", "sessions that died while they ran steps"),
    "interrupts_total": ("counter", "cancel requests sent to running steps"),
    "ticks_total": ("counter", "polls: the worker asked what is due"),
    "wakeups_total": ("counter", "notifications received"),
    "server_lost_total": ("counter", "losses of the supervising connection"),
    "sessions": ("gauge", "open sessions, by state"),
    "session_limit": ("gauge", "sessions that may be open at the same time"),
    "session_limit_shared": ("gauge", "sessions that all databases of this worker may have open together"),
    "session_reserve": ("gauge", "sessions, of these, for roles of which nothing runs"),
    "tick_timers": ("gauge", "timers and signals that the last poll has fired"),
    "tick_timers_limit": ("gauge", "timers and signals fired in one transaction"),
    "tick_milliseconds": ("gauge", "how long the last poll took in the database"),
    "tick_milliseconds_limit": ("gauge", "how long a poll fires timers and removes old runs"),
    "transition_rows_limit": ("gauge", "branches that a worker opens in one transition"),
    "leased": ("gauge", "leased steps in flight, by lane"),
    "http_limit": ("gauge", "HTTP requests that may be in flight at the same time"),
    "http_reserve": ("gauge", "HTTP requests, of these, for roles that have none in flight"),
    "bytes_in_flight": ("gauge", "bytes of requests and results of leased steps that are held in memory"),
    "bytes_in_flight_limit": ("gauge", "bytes that leased steps may hold in memory"),
    "bytes_waiting": ("gauge", "leased steps that wait for room in memory"),
    "up": ("gauge", "1 while the supervising connection works"),
}

# What is in the database, the same whichever worker is asked, and absent while it cannot be asked: pg_durable_...
DATABASE = {
    "runs": ("gauge", "runs that have not ended, by status"),
    "runs_blocked": ("gauge", "runs that cannot go on, and say why in wait_reason"),
    "timers_overdue": ("gauge", "timers that were due more than 10 seconds ago"),
    "queue_ready": ("gauge", "steps that are ready, by role and lane"),
    "queue_oldest_seconds": ("gauge", "how long the oldest of them has been ready, by role and lane"),
    "queue_running": ("gauge", "steps that run, by role and lane"),
    "queue_slots": ("gauge", "places that the running workers have for such steps, by role and lane"),
    "retries_waiting": ("gauge", "steps that have failed and wait for another attempt"),
    "runs_ended_total": ("counter", "runs that have ended since this worker was first asked, by how they ended"),
    "undo_failed_total": ("counter", "of these, runs whose compensations have not undone everything"),
    "step_seconds": ("histogram", "how long the steps of these runs took, with all attempts, by kind"),
    "retries_total": ("counter", "attempts of these steps that failed and were followed by another"),
}
BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3600.0)  # seconds

Labels = tuple[tuple[str, str], ...]


@dataclass
class Durations:
    """How many were in each of BUCKETS, and above the last; their sum in seconds."""

    counts: list[int]
    total: float = 0.0

    def add(self, counts: Sequence[int], total: float) -> None:
        """Counts more."""
        self.counts = [before + more for before, more in zip(self.counts, counts, strict=True)]
        self.total += total

    def cumulative(self) -> list[tuple[str, float]]:
        """As Prometheus wants them: how many were not longer than each bound."""
        return list(zip([*map(str, BUCKETS), "+Inf"], accumulate(self.counts), strict=True))


class Metrics(Collector):
    """Counters, gauges and histograms, each under a name from above and a set of labels."""

    def __init__(self) -> None:
        self._always: Labels = ()
        self._databases: list[Labels] = []
        self._values: defaultdict[tuple[str, Labels], float] = defaultdict(float)
        self._durations: defaultdict[tuple[str, Labels], Durations] = defaultdict(
            lambda: Durations([0] * (len(BUCKETS) + 1))
        )
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def of(self, database: str) -> "Metrics":
        """The part of these metrics that is about one database, which is a label of each."""
        part = copy(self)
        part._always = (("database", database),)
        self._databases.append(part._always)
        return part

    def add(self, name: str, number: int = 1, **labels: str) -> None:
        """Counts one more, or so many."""
        self._values[name, self._labels(labels)] += number

    def set(self, name: str, value: float, **labels: str) -> None:
        """Sets a gauge."""
        self._values[name, self._labels(labels)] = value

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        """Counts one more duration."""
        place = bisect_left(BUCKETS, seconds)
        self.add_durations(name, [int(at == place) for at in range(len(BUCKETS) + 1)], seconds, **labels)

    def add_durations(self, name: str, counts: Sequence[int], total: float, **labels: str) -> None:
        """Counts more durations: so many in each bucket, and their sum."""
        self._durations[name, self._labels(labels)].add(counts, total)

    def forget(self, *names: str) -> None:
        """Takes gauges away whose values are not known any more."""
        always = len(self._always)
        for key in [key for key in self._values if key[0] in names and key[1][:always] == self._always]:
            del self._values[key]

    def total(self, name: str) -> float:
        """The sum over all labels."""
        return sum(value for (key, _), value in self._values.items() if key == name)

    def render(self) -> str:
        """The Prometheus text format."""
        return generate_latest(self._registry).decode()

    def collect(self) -> Iterator[Metric]:
        """What prometheus_client asks for."""
        for name, about in WORKER.items():
            yield self._family("pg_durable_worker_", name, *about, 0)
        for name, about in DATABASE.items():
            yield self._family("pg_durable_", name, *about)

    def _labels(self, labels: dict[str, str]) -> Labels:
        return (*self._always, *labels.items())

    def _family(self, prefix: str, name: str, kind: str, meaning: str, *default: float) -> Metric:
        if kind == "histogram":
            return self._histogram(prefix + name, meaning, name)
        found = sorted((labels, value) for (key, labels), value in self._values.items() if key == name)
        for known in self._databases or [()]:
            if not any(labels[: len(known)] == known for labels, _ in found):
                found += [(known, value) for value in default]
        labels = [label for label, _ in max((labels for labels, _ in found), key=len, default=())]
        make = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
        family = make(prefix + name, meaning, labels=labels)
        for values, value in found:
            family.add_metric([printable(text) for _, text in values], value)
        return family

    def _histogram(self, shown: str, meaning: str, name: str) -> Metric:
        found = sorted(
            ((key[1], durations) for key, durations in self._durations.items() if key[0] == name), key=itemgetter(0)
        )
        labels = [label for label, _ in found[0][0]] if found else []
        family = HistogramMetricFamily(shown, meaning, labels=labels)
        for values, durations in found:
            family.add_metric([printable(text) for _, text in values], durations.cumulative(), durations.total)
        return family


class MetricsServer:
    """Answers GET /metrics and GET /healthz; `health` says whether the worker serves anything, and what to answer.

    `refresh` brings up to date what is only counted when somebody asks.
    """

    def __init__(
        self, metrics: Metrics, health: Callable[[], tuple[bool, str]], refresh: Callable[[], Awaitable[None]]
    ) -> None:
        self._metrics = metrics
        self._refresh = refresh
        self._health = health
        self._server: asyncio.Server | None = None

    async def start(self, address: str) -> None:
        """Listens on PORT or HOST:PORT; only on this machine when no host is given."""
        host, _, port = address.rpartition(":")
        try:
            self._server = await asyncio.start_server(self._answer, host.strip("[]") or "127.0.0.1", int(port))
        except OSError as error:
            why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
            raise CommandError(
                f"cannot serve metrics on {address}: {why}. Choose another --metrics [HOST:]PORT"
            ) from error

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
                writer.write(await self._respond(request.decode("latin-1").split()))
                await writer.drain()
        writer.close()

    async def _respond(self, request: list[str]) -> bytes:
        status, body = await self._page(request[1].split("?")[0] if len(request) == 3 and request[0] == "GET" else "")
        head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nConnection: close\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()

    async def _page(self, path: str) -> tuple[str, str]:
        if path == "/metrics":
            await self._refresh()
            return "200 OK", self._metrics.render()
        if path != "/healthz":
            return "404 Not Found", "there are /metrics and /healthz\n"
        serves, said = self._health()
        return "200 OK" if serves else "503 Service Unavailable", f"{said}\n"
