"""What sessions and notifications say is parsed for what the engine sends, and bounded: a user can say anything."""

from types import SimpleNamespace
from typing import Any

import pytest
from pg_durable.sessions.session import Session
from pg_durable.supervisor.connection import MOST_HINTS, Supervisor


@pytest.fixture
def conn() -> Any:
    """As much of a connection as listens."""
    handlers: list[Any] = []
    return SimpleNamespace(
        handlers=handlers,
        info=SimpleNamespace(backend_pid=1),
        add_notice_handler=handlers.append,
        add_notify_handler=handlers.append,
    )


def hints(conn: Any, *payloads: str) -> list[str]:
    supervisor = Supervisor(conn, 1)
    for payload in payloads:
        conn.handlers[1](SimpleNamespace(payload=payload))
    return list(supervisor._hints)


def test_hints_are_kept_once(conn: Any) -> None:
    assert hints(conn, "r 16384", "t", "r 16384", "x") == ["r 16384", "t", "x"]


@pytest.mark.parametrize("payload", ["", "r", "r x", "r -1", "r " + "1" * 4301, "\u00e4 1", "x" * 5000, "r 1 1"])
def test_anything_else_says_only_that_there_is_something(conn: Any, payload: str) -> None:
    assert hints(conn, payload) == ["t"]


def test_of_a_flood_of_hints_few_are_kept(conn: Any) -> None:
    assert len(hints(conn, *(f"r {oid}" for oid in range(10 * MOST_HINTS)))) <= MOST_HINTS + 1


@pytest.mark.parametrize(
    ("message", "step"),
    [("pg_durable:12:0123abcd", (12, "0123abcd")), ("pg_durable:" + "1" * 5000 + ":x", None), ("12:0123abcd", None)],
)
def test_a_session_says_its_step(conn: Any, message: str, step: tuple[int, str] | None) -> None:
    session = Session("app", 1, conn, 1000)
    session.step = None
    session._hear(SimpleNamespace(message_primary=message, severity_nonlocalized="INFO", sqlstate="00000"))  # type: ignore[arg-type]
    assert session.step == step
