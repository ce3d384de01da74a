"""df.start waits for no other transaction, whoever else starts the same flow, and in whatever order."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest

from tests import state
from tests.support import Database, Pump

Session = psycopg.Connection[Any]
NEW, OTHER_NEW = "select 'new text'", "select 'other new text'"


@pytest.fixture
def sessions(db: Database) -> Iterator[dict[str, Session]]:
    """Open transactions that would rather fail than wait: two of app, one of other."""
    with ExitStack() as stack:
        opened = {}
        for name, role in (("app", "app"), ("app again", "app"), ("other", "other")):
            opened[name] = stack.enter_context(db.connect(role, autocommit=False))
            opened[name].execute("set lock_timeout = '1s'")
            opened[name].commit()
        yield opened


def start(session: Session, text: str) -> str:
    row = session.execute("select df.start(%s)", [text]).fetchone()
    assert row
    return str(row[0])


@pytest.mark.parametrize("second", ["app again", "other"])
@pytest.mark.parametrize("first_ends", ["commit", "rollback"])
def test_beside_an_open_start_of_the_same_new_text(
    db: Database, sessions: dict[str, Session], second: str, first_ends: str
) -> None:
    start(sessions["app"], NEW)
    run = start(sessions[second], NEW)
    getattr(sessions["app"], first_ends)()
    sessions[second].commit()
    assert db.admin("select status from df.instances where id = %s", run) == "pending"


@pytest.mark.parametrize("second", ["app again", "other"])
def test_two_new_texts_in_opposite_order(db: Database, sessions: dict[str, Session], second: str) -> None:
    one, two = sessions["app"], sessions[second]
    start(one, NEW), start(two, OTHER_NEW), start(one, OTHER_NEW), start(two, NEW)
    one.commit()
    two.commit()
    assert db.admin("select count(*) from df.instances") == 4


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_a_text_that_was_compiled_after_the_snapshot(db: Database, sessions: dict[str, Session], level: str) -> None:
    reader = sessions["app again"]
    reader.execute(f"set transaction isolation level {level}".encode())
    reader.execute("select count(*) from df.instances")
    start(sessions["app"], NEW)
    sessions["app"].commit()
    start(reader, NEW)
    reader.commit()
    assert db.admin("select count(*) from df.instances") == 2


def test_retention_beside_an_open_start_leaves_its_graph(db: Database, sessions: dict[str, Session]) -> None:
    pump = Pump(db)
    pump.run(f"$${NEW}$$")
    db.admin(state.GRAPHS_ARE_OLD)
    db.admin("select df.set_setting('retention_days', '0')")
    db.admin(state.ENDED_YESTERDAY)
    run = start(sessions["app"], NEW)
    db.admin(state.RETENTION_IS_DUE)
    pump.tick()
    sessions["app"].commit()
    pump.until(lambda: db.sql("select df.status(%s)", run) == "completed")
    assert db.admin("select count(*) from df.check()") == 0
    pump.close()
