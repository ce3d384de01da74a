"""df.await_instance raises at once when this transaction has signalled or cancelled the run, which nobody can see."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.support import Database

ACTS = ["df.signal(%s, 'go')", "df.signal(%s, 'go', '{\"a\": 1}')", "df.cancel(%s)", "df.cancel(%s, 'no longer')"]
WRONG_CONTEXT = psycopg.errors.ObjectNotInPrerequisiteState


@pytest.fixture
def run(db: Database) -> str:
    """A run that waits for a signal, committed."""
    return str(db.sql("select df.start(df.wait_for_signal('go'))"))


@pytest.fixture
def transaction(db: Database) -> Iterator[psycopg.Connection[Any]]:
    with db.connect("app", autocommit=False) as conn:
        yield conn


def refused(conn: psycopg.Connection[Any], run: str) -> None:
    with pytest.raises(WRONG_CONTEXT, match="not yet committed") as caught:
        conn.execute("select df.await_instance(%s, 60)", [run])
    assert run in str(caught.value.diag.message_primary)
    assert "COMMIT" in str(caught.value.diag.message_hint)


@pytest.mark.parametrize("act", ACTS)
def test_it_raises_at_once(transaction: psycopg.Connection[Any], run: str, act: str) -> None:
    transaction.execute(f"select {act}".encode(), [run])
    refused(transaction, run)


@pytest.mark.parametrize("act", ACTS)
def test_it_raises_after_a_released_savepoint(transaction: psycopg.Connection[Any], run: str, act: str) -> None:
    transaction.execute("savepoint a")
    transaction.execute(f"select {act}".encode(), [run])
    transaction.execute("release savepoint a")
    refused(transaction, run)


@pytest.mark.parametrize("act", ACTS)
def test_it_waits_again_when_that_was_rolled_back(transaction: psycopg.Connection[Any], run: str, act: str) -> None:
    transaction.execute("savepoint a")
    transaction.execute(f"select {act}".encode(), [run])
    transaction.execute("rollback to savepoint a")
    with pytest.raises(psycopg.Error) as caught:
        transaction.execute("select df.await_instance(%s, 1)", [run])
    assert caught.value.sqlstate == "DF030"


def test_it_waits_when_another_transaction_has_signalled(db: Database, run: str) -> None:
    db.sql("select df.signal(%s, 'go')", run)
    with pytest.raises(psycopg.Error) as caught:
        db.sql("select df.await_instance(%s, 1)", run)
    assert caught.value.sqlstate == "DF030"


def test_it_waits_when_another_run_was_signalled(transaction: psycopg.Connection[Any], db: Database, run: str) -> None:
    other = db.sql("select df.start(df.wait_for_signal('go'))")
    transaction.execute("select df.signal(%s, 'go')", [other])
    with pytest.raises(psycopg.Error) as caught:
        transaction.execute("select df.await_instance(%s, 1)", [run])
    assert caught.value.sqlstate == "DF030"


def test_it_answers_after_the_commit_of_a_cancel(db: Database, run: str) -> None:
    db.sql("select df.cancel(%s)", run)
    assert db.sql("select df.await_instance(%s)", run) == "cancelled"


def test_the_old_name_raises_too(transaction: psycopg.Connection[Any], run: str) -> None:
    transaction.execute("select df.signal(%s, 'go')", [run])
    with pytest.raises(WRONG_CONTEXT, match="not yet committed"):
        transaction.execute("select df.wait_for_completion(%s, 60)", [run])
