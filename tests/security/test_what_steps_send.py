"""What a step sends to its worker, notices and errors, is bounded: neither memory nor tables fill with it."""

from collections.abc import Iterator

import psycopg
import pytest

from tests.crash.rogue import peak
from tests.crash.test_poison import DIED
from tests.state import LONGEST_FAILURE
from tests.support import Database, Pump
from tests.worker.conftest import spawn, worker  # noqa: F401 - fixtures
from tests.worker.process import WorkerProcess, await_end, error, run, start

LONG = "repeat(''x'', 120000000)"


def raising(what: str) -> str:
    return f"'do $x$ begin raise {what}; end $x$'"


@pytest.fixture
def elsewhere(db: Database) -> Iterator[str]:
    """Another database."""
    name = f"{db.name}_elsewhere"
    db.admin(f"create database {name}")
    yield name
    db.admin(f"drop database {name} with (force)")


def test_a_long_message_ends_its_step(db: Database, worker: WorkerProcess) -> None:  # noqa: F811
    """Its worker knows it when the message begins: it does not depend on who is faster, and others do not notice."""
    long = start(db, raising(f"info ''%%'', {LONG}"))
    other = start(db, "'select 1'", user="other")
    assert await_end(db, other, 60) == "completed"
    assert await_end(db, long, 60) == "failed"
    assert error(db, long) == DIED
    run(db, raising("info ''%%'', repeat(''x'', 1000000)"))
    assert peak(worker) < 150
    assert worker.process.poll() is None


def test_many_messages_are_no_harm(db: Database, worker: WorkerProcess) -> None:  # noqa: F811
    run(db, "'do $x$ begin for i in 1..20000 loop raise info ''%%'', repeat(''1'', 1000); end loop; end $x$'", 60)
    assert peak(worker) < 150


@pytest.mark.parametrize("step", [raising(f"exception ''%%'', {LONG}"), f"'select {LONG}'"])
def test_what_another_database_sends_is_stored_up_to_a_length(
    db: Database,
    worker: WorkerProcess,  # noqa: F811
    elsewhere: str,
    step: str,
) -> None:
    long = start(db, step, database=elsewhere)
    assert await_end(db, long, 60) == "failed"
    assert len(error(db, long)) < 21_000
    assert worker.process.poll() is None


def test_an_error_is_stored_up_to_a_length(db: Database) -> None:
    pump = Pump(db)
    failed = pump.run(raising("exception using message = repeat(''m'', 99999), detail = repeat(''d'', 99999)"))
    assert len(failed.error) < 21_000
    assert "mmm (SQLSTATE P0001)\nDETAIL: ddd" in failed.error
    assert db.admin(LONGEST_FAILURE) < 21_000
    pump.close()


def test_a_reason_has_a_limit(db: Database) -> None:
    instance = start(db, "df.sleep(60)")
    with pytest.raises(psycopg.errors.ProgramLimitExceeded):
        db.sql("select df.cancel(%s, repeat('x', 1025))", instance)
