"""The event log: one line an event on stderr, as text or as JSON, through the standard library's logging."""

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from pg_durable.printing import printable_json

LOGGER = logging.getLogger("pg_durable")
DATABASE: ContextVar[str] = ContextVar("database")  # the one whose events these are, in a worker for several


def event(level: int, what: str, **fields: Any) -> None:
    """Logs an event. Fields name roles, counts and reasons; never SQL parameters or secrets."""
    name = DATABASE.get(None)
    LOGGER.log(level, what, extra={"fields": fields if name is None else {"database": name} | fields})


def configure(style: str, level: str) -> None:
    """Sends the log to stderr; `style` is text or json."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    LOGGER.handlers[:] = [handler]
    LOGGER.setLevel(level.upper())
    LOGGER.propagate = False


def moment(record: logging.LogRecord) -> str:
    """When the event was, in UTC."""
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def details(record: logging.LogRecord) -> dict[str, Any]:
    """The event's fields, and what went wrong when it was an exception."""
    fields = dict(getattr(record, "fields", {}))
    if record.exc_info and record.exc_info[0]:
        fields["exception"] = logging.Formatter().formatException(record.exc_info)
    return fields


class TextFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.000Z INFO session opened role=app pid=4711`"""

    def format(self, record: logging.LogRecord) -> str:
        fields = [f"{name}={self._quoted(value)}" for name, value in details(record).items()]
        return " ".join([moment(record), record.levelname, record.getMessage(), *fields])

    @staticmethod
    def _quoted(value: Any) -> str:
        text = str(value)
        return text if text and text.isprintable() and not set(text) & set(' "=') else printable_json(json.dumps(text))


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, event, and the event's fields."""

    def format(self, record: logging.LogRecord) -> str:
        head = {"time": moment(record), "level": record.levelname.lower(), "event": record.getMessage()}
        return printable_json(json.dumps(head | details(record), default=str))
