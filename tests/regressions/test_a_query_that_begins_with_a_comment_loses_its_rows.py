"""Whether a statement returns rows is read past comments, white space, parentheses and semicolons."""

from typing import Any

import pytest

from tests.support import Database, Pump
from tests.worker.process import WorkerProcess, run

QUERIES = {
    "a line comment": "-- c\nselect 41 as a",
    "several line comments": "-- c\n-- d\r\n  -- e\nselect 41 as a",
    "a block comment": "/* c */select 41 as a",
    "a nested comment": "/* a /* b */ c */ select 41 as a",
    "a semicolon": ";select 41 as a",
    "semicolons and white space": " ;\n;; select 41 as a;",
    "a semicolon and a comment at the end": "select 41 as a; -- that is all; really",
    "a comment at the end": "select 41 as a -- no line end",
    "a semicolon in a comment at the end": "select 41 as a -- ;",
    "a comment and parentheses": "/* c */ ( -- d\n (select 41 as a))",
    "a form feed": "\f\v select 41 as a",
    "a comment without white space after the word": "select/**/41 as a",
    "a comment before VALUES": "-- c\nvalues (41)",
    "a comment before TABLE": "-- c\ntable answers",
    "a comment before WITH": "/* c */ with x as (select 41 as a) select a from x",
    "a comment inside WITH": "with/**/x as (select 41 as a) select a from x",
    "a comment before RETURNING": "/* c */ insert into answers values (41) returning/**/a",
    "a comment before a modifying WITH": "-- c\nwith x as (insert into answers values (41) returning a) table x",
    "WITH around an INSERT": "with x as (select 41 as a) insert into answers select a from x returning a",
    "a comment before SHOW": "-- c\nshow statement_timeout",
    "a comment before EXPLAIN": "/* c */ explain select 1",
    "a byte order mark": "\ufeffselect 41 as a",
    "a byte order mark and a comment": "\ufeff-- c\nselect 41 as a",
    "a no-break space": "\u00a0\u00a0select 41 as a",
    "an invisible character between comments": "-- c\n\u200b/* d */\u00a0select 41 as a",
}


@pytest.fixture
def answers(pump: Pump) -> Pump:
    pump.db.sql("create table answers (a int); insert into answers values (41)")
    return pump


def start(pump: Pump, query: str) -> Any:
    """Runs one statement; its value."""
    run_id = str(pump.db.sql("select df.start(%s)", query))
    pump.until(lambda: pump.db.sql("select df.status(%s)", run_id) != "running" and ended(pump, run_id))
    assert pump.db.sql("select df.status(%s)", run_id) == "completed", pump.db.sql(
        "select error from df.instances where id = %s", run_id
    )
    return pump.db.sql("select df.result(%s)::jsonb", run_id)


def ended(pump: Pump, run_id: str) -> bool:
    return pump.db.sql("select df.status(%s)", run_id) in ("completed", "failed")


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_a_step_returns_its_rows(answers: Pump, query: str) -> None:
    rows = start(answers, query)["rows"]
    assert len(rows) == 1
    assert "explain" in query or "show" in query or list(rows[0].values()) == [41]


@pytest.mark.parametrize("condition", ["-- c\nselect 41 as a", "/* c */ select true", ";select 1", "\ufeffvalues (1)"])
def test_a_condition_takes_its_branch(pump: Pump, condition: str) -> None:
    flow = pump.db.sql("select df.if(%s, 'select 1 as yes', 'select 0 as no')", condition)
    assert start(pump, flow)["rows"] == [{"yes": 1}]


@pytest.mark.parametrize("comment", ["-- c\n", "/* c */", ";", "\ufeff"])
def test_a_loop_goes_on_while_its_condition_is_true(pump: Pump, comment: str) -> None:
    condition = f"{comment}select count(*) < 3 from fx"
    flow = pump.db.sql("select df.loop('insert into fx values (1)', %s)", condition)
    start(pump, flow)
    assert pump.db.sql("select count(*) from fx") == 3


@pytest.mark.parametrize(
    "text", ["-- c\nselect $n + 1 as a", "/* {v} */ select $n + 1 as a;", "\ufeff select $n + 1 as a"]
)
def test_a_step_with_references_returns_its_rows(pump: Pump, text: str) -> None:
    assert start(pump, pump.db.sql("select df.seq(df.as('select 40', 'n'), %s)", text))["rows"] == [{"a": 41}]


@pytest.mark.parametrize("comment", ["-- c\n", "/* c */ ;", "\ufeff", "(", "\u00a0-- c\n"])
@pytest.mark.usefixtures("worker")
def test_a_step_in_another_database_returns_its_rows(db: Database, worker: WorkerProcess, comment: str) -> None:
    text = f"{comment}select 41 as a" + (")" if comment == "(" else "")
    literal = db.sql("select quote_literal(%s)", text)
    assert run(db, literal, database="postgres")["rows"] == [{"a": 41}]
    assert worker.process.poll() is None


def test_a_comment_does_not_hide_that_there_is_no_statement(pump: Pump) -> None:
    run_id = str(pump.db.sql("select df.start(%s)", "/* c */ ; -- d"))
    pump.until(lambda: ended(pump, run_id))
    assert "no SQL statement" in pump.db.sql("select error from df.instances where id = %s", run_id)
