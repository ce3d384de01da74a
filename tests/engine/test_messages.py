"""What the usual mistakes say: what happened, and what to do about it."""

from typing import Any

import psycopg
import pytest

from tests.support import Database, Pump


def hint(db: Database, statement: str, *args: Any) -> str:
    with pytest.raises(psycopg.Error) as error:
        db.sql(statement, *args)
    return error.value.diag.message_hint or ""


@pytest.mark.parametrize(
    ("step", "says"),
    [
        ("'select 1' ~> 'select ' || '2'", "a || b stands in parentheses"),
        ("df.sql('select true' ?> 'select 2')", "Text is joined to a graph"),
    ],
)
def test_a_brace_in_a_step_says_what_was_meant(pump: Pump, step: str, says: str) -> None:
    error = pump.run(step).error
    assert error.startswith('SQL execution failed: syntax error at or near "{" (SQLSTATE 42601)\nHINT: ')
    assert says in error


@pytest.mark.parametrize(
    "step", ["select '{never_set}'", "select '{\"node_type\": 1}'::json", "select 1 -- {never_set}"]
)
def test_a_brace_in_a_literal_is_text(pump: Pump, step: str) -> None:
    assert pump.run(f"$s${step}\n$s$").status == "completed"


@pytest.mark.parametrize("call", ["df.cancel(%s)", "df.signal(%s, 'go')", "df.await_instance(%s)"])
def test_a_run_that_is_not_there_says_what_an_id_is(db: Database, call: str) -> None:
    db.sql("select df.start('select 1', 'nightly')")
    assert "SELECT id FROM df.instances WHERE label = 'nightly'" in hint(db, f"select {call}", "nightly")
    assert "8 hexadecimal digits" in hint(db, f"select {call}", "weekly")
    assert "its own runs" in hint(db, f"select {call}", "deadbeef")


def test_waiting_without_a_worker_says_so(db: Database) -> None:
    run = db.sql("select df.start('select 1')")
    with pytest.raises(psycopg.Error, match="status is pending, no worker is running") as error:
        db.sql("select df.await_instance(%s, 1)", run)
    assert "df.explain" in (error.value.diag.message_hint or "")


@pytest.mark.parametrize(("status", "said"), [("complete", 1), ("Failed", 1), ("failed", 0), (None, 0)])
def test_a_status_that_is_none_is_noticed(db: Database, status: str | None, said: int) -> None:
    notices: list[str] = []
    with db.connect("app") as conn:
        conn.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
        conn.execute("select from df.list_instances(%s)", [status])
    assert [f'"{status}"' in notice and "cancelled" in notice for notice in notices] == [True] * said


def test_retry_of_a_sequence_says_where_it_belongs(db: Database) -> None:
    assert "around each step" in hint(db, "select df.retry('select 1' ~> 'select 2')")


def test_the_place_in_a_flow_stands_under_its_text(db: Database) -> None:
    with pytest.raises(psycopg.Error) as error:
        db.sql("select df.flow($$'select 1' ~> )$$)")
    _, line, caret = (error.value.diag.message_detail or "").split("\n")
    assert line[caret.index("^")] == ")"
