"""The tracer: asks the database, over a connection of its own, for runs that have ended, and exports their spans."""

import asyncio
from importlib import import_module
from logging import WARNING
from typing import Any

import psycopg

from pg_durable import statements
from pg_durable.errors import CommandError
from pg_durable.log import event
from pg_durable.login import Login, reason

EVERY = 5.0  # seconds between two questions


class Tracer:
    """Exports by OTLP over HTTP, to where the variables OTEL_EXPORTER_OTLP_... say. It holds up nothing else."""

    def __init__(self, login: Login, database: str) -> None:
        self._login = login
        self._conn: psycopg.AsyncConnection[Any] | None = None
        try:
            export = import_module("opentelemetry.sdk.trace.export")
            exporter = import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter").OTLPSpanExporter()
            spans = import_module("pg_durable.tracing.spans")
        except ImportError as error:
            raise CommandError("--otel needs an extra: pip install 'pg-durable[otel]'") from error
        self._spans = spans.Spans(export.BatchSpanProcessor(exporter), database)

    async def run(self) -> None:
        """Goes on until it is cancelled."""
        try:
            while True:
                await self._export()
                await asyncio.sleep(EVERY)
        finally:
            await self._disconnect()
            await asyncio.to_thread(self._spans.close)

    async def _export(self) -> None:
        try:
            self._conn = self._conn or await self._login.collector()
            while runs := await self._take(self._conn):
                self._spans.emit(runs)
        except Exception as error:  # whatever it is, steps go on
            event(WARNING, "spans not taken", reason=reason(error))
            await self._disconnect()

    @staticmethod
    async def _take(conn: psycopg.AsyncConnection[Any]) -> list[dict[str, Any]]:
        """The next runs; none where another worker takes them."""
        row = await (await conn.execute(statements.TAKE_SPANS)).fetchone()
        return row[0] or [] if row else []

    async def _disconnect(self) -> None:
        conn, self._conn = self._conn, None
        if conn:
            await conn.close()
