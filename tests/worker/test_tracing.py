"""Runs and steps as spans: what the database gives out, what is made of it, and what an OTLP receiver gets."""

from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pg_durable.tracing.spans import Spans

from tests.state import ENDED_BEFORE, TRACED_SINCE, UPKEEP_LOCKED
from tests.support import Database, Pump, wait_until
from tests.worker.http_server import HttpServer
from tests.worker.process import WorkerProcess, await_end, start

TRACE, ABOVE = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{ABOVE}-01"


def taken(pump: Pump) -> list[dict[str, Any]] | None:
    """What a worker is told next."""
    row = pump.supervisor.execute("select df_engine.take_spans()").fetchone()
    assert row is not None
    found: list[dict[str, Any]] | None = row[0]
    return found


@pytest.fixture
def since(pump: Pump) -> Pump:
    """All that ends is to be given out, once it is made six seconds older."""
    pump.db.admin(TRACED_SINCE, "1 minute")
    return pump


def spans(runs: list[dict[str, Any]] | None) -> dict[str, ReadableSpan]:
    """The spans that are exported of them, by name."""
    exporter = InMemorySpanExporter()
    made = Spans(SimpleSpanProcessor(exporter), "shop")
    made.emit(runs or [])
    made.close()
    return {span.name: span for span in exporter.get_finished_spans()}


def parent(span: ReadableSpan) -> str | None:
    return span.parent and f"{span.parent.span_id:016x}"


def own(span: ReadableSpan) -> str:
    return f"{span.context.span_id:016x}"


def trace(span: ReadableSpan) -> str:
    return f"{span.context.trace_id:032x}"


def test_a_run_is_given_out_once(since: Pump) -> None:
    since.run("'select 1'")
    assert taken(since) == [], "not in the first seconds"
    since.db.admin(ENDED_BEFORE, "6 s")
    assert [run["status"] for run in taken(since) or []] == ["completed"]
    assert taken(since) == []


def test_tracing_begins_when_somebody_asks(pump: Pump) -> None:
    pump.run("'select 1'")
    pump.db.admin(ENDED_BEFORE, "6 s")
    assert taken(pump) == []
    pump.db.admin(TRACED_SINCE, "1 day")
    assert taken(pump) == []


def test_nobody_waits_for_another_worker_that_asks(since: Pump) -> None:
    with since.db.connect(autocommit=False) as conn:
        conn.execute(UPKEEP_LOCKED)
        assert taken(since) is None


def test_a_run_is_a_span_below_that_of_who_started_it_and_its_steps_below_it(since: Pump) -> None:
    since.db.sql(f"set df.traceparent = '{TRACEPARENT}'")
    since.run("'select 1' |=> 'one' ~> df.retry('select 1/0', 1)", label="order")
    since.db.admin(ENDED_BEFORE, "6 s")
    found = spans(taken(since))
    assert set(found) == {"order", "one", "sql"}
    order, one, failed = (found[name] for name in ("order", "one", "sql"))
    assert {trace(span) for span in found.values()} == {TRACE}
    assert [parent(span) for span in (order, one, failed)] == [ABOVE, own(order), own(order)]
    assert [span.status.is_ok for span in (order, one, failed)] == [False, True, False]
    assert "division by zero" in (failed.status.description or "")
    assert (one.attributes or {})["pg_durable.kind"] == "sql"
    assert (order.attributes or {})["db.namespace"] == "shop"
    assert (one.start_time or 0) <= (one.end_time or 0) <= (failed.end_time or 0)
    assert "select" not in " ".join(map(str, (one.attributes or {}).values()))
    assert order.resource.attributes["service.name"] == "pg_durable"


def test_what_a_run_has_called_is_in_its_trace(since: Pump) -> None:
    since.run("df.call('select 2' |=> 'two', label => 'child')", label="parent")
    since.db.admin(ENDED_BEFORE, "6 s")
    found = spans(taken(since))
    assert {trace(span) for span in found.values()} == {trace(found["parent"])}
    assert parent(found["parent"]) is None
    assert parent(found["child"]) == own(found["parent"])
    assert parent(found["two"]) == own(found["child"])


def test_a_trace_that_is_not_sampled_is_not_exported(since: Pump) -> None:
    since.db.sql(f"set df.traceparent = '{TRACEPARENT[:-1]}0'")
    since.run("'select 1'")
    since.db.admin(ENDED_BEFORE, "6 s")
    assert spans(taken(since)) == {}


@pytest.mark.slow
def test_a_worker_exports_by_otlp(db: Database) -> None:
    with HttpServer() as receiver:
        where = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": receiver.url("/ok/traces"), "OTEL_BSP_SCHEDULE_DELAY": "100"}
        worker = WorkerProcess(db, "--otel", **where).logged("registered", 30)
        try:
            assert await_end(db, start(db, "'select 1' ~> 'vacuum'", "traced")) == "completed"
            wait_until(lambda: receiver.received, 60, "spans")
            assert worker.stop() == 0
        finally:
            worker.kill()
        exported = [ExportTraceServiceRequest.FromString(request.body) for request in receiver.received]
        names = [
            span.name for each in exported for of in each.resource_spans for by in of.scope_spans for span in by.spans
        ]
        assert sorted(names) == ["sql", "sql", "traced"]
