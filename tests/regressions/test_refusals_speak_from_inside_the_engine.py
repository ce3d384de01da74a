"""What cannot be a step is refused with what to write instead, and limits are named with their numbers."""

import pytest

from tests.support import Database, Pump
from tests.worker.process import await_end, error, start

INSIDE = ("PL/pgSQL", "pl/pgsql", "EXECUTE of", "INTO used with", "df_engine", "CONTEXT", "q.*")
REFUSED = {
    "savepoint a": "transaction",
    "SAVEPOINT a;": "transaction",
    "-- c\nrollback to savepoint a": "transaction",
    "release savepoint a": "transaction",
    "begin": "transaction",
    "start transaction": "transaction",
    "commit": "transaction",
    "end": "transaction",
    "rollback": "transaction",
    "abort": "transaction",
    "prepare transaction 'x'": "transaction",
    "commit prepared 'x'": "transaction",
    "\ufeffcommit": "transaction",
    "copy fx to stdout": "COPY",
    "copy (select 1) to stdout": "COPY",
    "copy fx from stdin": "COPY",
    "COPY fx FROM STDIN;": "COPY",
    "/* c */ copy fx (i) to stdout with (format csv)": "COPY",
    "select 1 as a into new_table": "CREATE TABLE",
    "SELECT i INTO TEMP x FROM fx;": "CREATE TABLE",
    "-- c\nselect i into unlogged table x from fx": "CREATE TABLE",
    "with y as (select 1 as a) select a into x from y": "CREATE TABLE",
    "(select 1 as a into x)": "CREATE TABLE",
}


@pytest.mark.parametrize("text", REFUSED)
def test_a_refusal_says_what_to_write_instead(pump: Pump, text: str) -> None:
    done = pump.run(pump.db.sql("select quote_literal(%s)", text))
    assert done.status == "failed"
    assert done.error.startswith("SQL execution failed: ")
    assert REFUSED[text] in done.error
    assert "HINT: " in done.error
    assert "SQLSTATE" in done.error
    assert [word for word in INSIDE if word in done.error] == []


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("savepoint a", "transaction"),
        ("copy pg_class to stdout", "COPY"),
        ("select 1 as a into x", "CREATE TABLE"),
        ("commit", "transaction"),
    ],
)
def test_the_same_in_another_database(db: Database, text: str, fragment: str) -> None:
    run_id = start(db, f"'{text}'", database="postgres")
    assert await_end(db, run_id) == "failed"
    assert fragment in error(db, run_id)
    assert "HINT: " in error(db, run_id)
    assert [word for word in INSIDE if word in error(db, run_id)] == []


@pytest.mark.parametrize(
    "text", ["select 'into' as a", "insert into fx values (1)",
             "with x as (insert into fx values (1) returning i) table x",
             "select i as \"into\" from fx", "with x as (select 1 as a) insert into fx select a from x"]
)  # fmt: skip
def test_what_only_looks_like_it_runs(pump: Pump, text: str) -> None:
    assert pump.run(pump.db.sql("select quote_literal(%s)", text)).error == ""


QUERIES = ["select repeat(''x'', 5000) as a", "select i, i from generate_series(1, 5000) i",
           "insert into fx select i from generate_series(1, 5000) i returning i"]  # fmt: skip


@pytest.mark.parametrize("query", QUERIES)
def test_a_result_that_is_too_large_says_limit_and_size(pump: Pump, query: str) -> None:
    pump.db.admin("select df.set_setting('max_result_bytes', '2000')")
    done = pump.run(f"'{query}'")
    assert "max_result_bytes" in done.error
    assert "2000" in done.error
    assert max(int(word) for word in done.error.replace("(", " ").split() if word.isdigit()) > 2000
    assert "HINT: " in done.error
    assert pump.db.sql("select count(*) from fx") == 0


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("query", ["select repeat(''x'', 5000) as a", "-- c\nselect i from generate_series(1, 5000) i"])
def test_the_same_of_a_result_from_another_database(db: Database, query: str) -> None:
    db.admin("select df.set_setting('max_result_bytes', '2000')")
    run_id = start(db, f"'{query}'", database="postgres")
    assert await_end(db, run_id) == "failed"
    assert "max_result_bytes" in error(db, run_id)
    assert "2000" in error(db, run_id)


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_rows_without_columns_are_counted(pump: Pump, rows: int) -> None:
    done = pump.run(f"('select from generate_series(1, {rows})' |=> 'r') ~> 'select count(*) as v from $r.*'")
    assert done.error == ""
    assert done.result["rows"] == [{"v": rows}]
