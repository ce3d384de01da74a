"""What the database says of runs that have ended, as spans: one of the run, below it one of each step.

The ids of spans are made of those of runs and nodes, so that a run that was called stands below its caller, whichever
worker exports them. Texts of steps, inputs and results are in no span.
"""

import re
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, NamedTuple

from opentelemetry.context import Context
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

TRACEPARENT = re.compile("00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


class Place(NamedTuple):
    """A span's trace and its own id."""

    trace: int
    span: int


class Ids(IdGenerator):
    """Gives the next span the ids that it is to have."""

    def __init__(self) -> None:
        self.next = Place(0, 0)

    def generate_trace_id(self) -> int:
        """Called by the SDK, for a span without a parent."""
        return self.next.trace

    def generate_span_id(self) -> int:
        """Called by the SDK."""
        return self.next.span


class Spans:
    """Makes spans of runs, and hands them to a processor of the SDK."""

    def __init__(self, processor: SpanProcessor, database: str) -> None:
        self._database = database
        self._ids = Ids()
        self._provider = TracerProvider(resource=resource(), id_generator=self._ids, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("pg_durable")

    def emit(self, runs: Sequence[dict[str, Any]]) -> None:
        """Makes the spans of these runs, except where the trace of one is not sampled."""
        for run in runs:
            sent = TRACEPARENT.fullmatch(run["traceparent"] or "")
            if not sent or int(sent[3], 16) & TraceFlags.SAMPLED:
                self._emit(run, sent)

    def close(self) -> None:
        """Exports what is left."""
        self._provider.shutdown()

    def _emit(self, run: dict[str, Any], sent: re.Match[str] | None) -> None:
        own = Place(int(sent[1], 16) if sent else number(run["trace"], 16), number(run["id"], 8))
        above = number(run["caller"], 8) if run["caller"] else int(sent[2], 16) if sent else None
        whole = {"instance_id": run["id"], "label": run["label"], "status": run["status"], "role": run["role"]}
        self._span(run["label"] or "run", own, above, run, whole)
        for step in run["steps"]:
            place = Place(own.trace, number(f"{run['id']}/{step['node']}/{step['scope']}", 8))
            part = {"instance_id": run["id"], **{name: step[name] for name in ("node", "kind", "attempts")}}
            self._span(step["name"] or step["kind"], place, own.span, step, part)

    def _span(self, name: str, own: Place, above: int | None, said: dict[str, Any], about: dict[str, Any]) -> None:
        self._ids.next = own
        context = Context()
        if above is not None:
            parent = SpanContext(own.trace, above, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
            context = set_span_in_context(NonRecordingSpan(parent), context)
        attributes = {"db.system.name": "postgresql", "db.namespace": self._database}
        attributes |= {f"pg_durable.{key}": value for key, value in about.items() if value is not None}
        span = self._tracer.start_span(name, context, attributes=attributes, start_time=nanoseconds(said["began"]))
        if said["failed"]:
            span.set_status(Status(StatusCode.ERROR, said["error"]))
        span.end(nanoseconds(said["ended"]))


def resource() -> Resource:
    """Whose spans they are: what the environment says, else pg_durable."""
    found = Resource.create()
    unnamed = str(found.attributes.get(SERVICE_NAME, "")).startswith("unknown_service")
    return found.merge(Resource({SERVICE_NAME: "pg_durable"})) if unnamed else found


def number(text: str, size: int) -> int:
    """An id of so many bytes, which is the same for the same text."""
    return int.from_bytes(sha256(text.encode()).digest()[:size])


def nanoseconds(seconds: float) -> int:
    """A time as the SDK wants it; the database knows microseconds."""
    return round(seconds * 1_000_000) * 1000
