"""All columns are kept: the first of a name keeps it, later ones are numbered."""

import pytest

from tests.support import Database, Pump
from tests.worker.process import run

COLUMNS = {
    "select 1, 2": {"?column?": 1, "?column?_2": 2},
    "select 1 as a, 2 as a, 3 as a": {"a": 1, "a_2": 2, "a_3": 3},
    "select 1 as a, 2 as a, 3 as a_2": {"a": 1, "a_3": 2, "a_2": 3},
    "select 1 as a_2, 2 as a, 3 as a": {"a_2": 1, "a": 2, "a_3": 3},
    "select 1 as a, 2 as a, 3 as a_2, 4 as a_2": {"a": 1, "a_3": 2, "a_2": 3, "a_2_2": 4},
    "select 1 as b, 2 as a, 3 as b": {"b": 1, "a": 2, "b_2": 3},
    "select null as a, 2 as a": {"a": None, "a_2": 2},
    "select * from (values (1, 2)) x(k, v), (values (1, 3)) y(k, v)": {"k": 1, "v": 2, "k_2": 1, "v_2": 3},
    "select * from (values (1, 2)) x(k, v) join (values (1, 3)) y(k, v) using (k)": {"k": 1, "v": 2, "v_2": 3},
    "select count(*), count(*) filter (where false) from generate_series(1, 5)": {"count": 5, "count_2": 0},
    "insert into fx values (1, 'x') returning i, i, t as i": {"i": 1, "i_2": 1, "i_3": "x"},
    "with x as (insert into fx values (1) returning i) select i, i + 1 as i from x": {"i": 1, "i_2": 2},
    'select 1 as "A", 2 as a, 3 as "A"': {"A": 1, "a": 2, "A_2": 3},
    'select \'{"b": 1, "b": 2}\'::json as a, 2 as a': {"a": {"b": 2}, "a_2": 2},
}


@pytest.mark.parametrize(("query", "row"), COLUMNS.items())
def test_all_columns_are_kept_in_order(pump: Pump, query: str, row: dict[str, object]) -> None:
    literal = pump.db.sql("select quote_literal(%s)", query)
    done = pump.run(literal)
    assert done.error == ""
    assert done.result["rows"] == [row]
    assert done.node("SQL")["result_columns"] == list(row)


def test_names_are_recorded_also_without_rows(pump: Pump) -> None:
    done = pump.run("'select 1 as a, 2 as a, 3 as b where false'")
    assert done.result == {"rows": [], "row_count": 0}
    assert done.node("SQL")["result_columns"] == ["a", "a_2", "b"]


@pytest.mark.parametrize(
    ("condition", "branch"),
    [
        ("select 1 > 2, 3 > 2", "no"),
        ("select 3 > 2, 1 > 2", "yes"),
        ("select count(*), count(*) filter (where false) from generate_series(1, 3)", "yes"),
        ("select false as a, true as a", "no"),
        ("select null, 1", "no"),
    ],
)
def test_truth_is_that_of_the_first_column(pump: Pump, condition: str, branch: str) -> None:
    done = pump.run(f"'{condition}' ?> 'select 1 as yes' !> 'select 1 as no'")
    assert done.result["rows"] == [{branch: 1}]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("select $c as v", 5),
        ("select $c.count as v", 5),
        ("select $c.count_2 as v", 0),
        ("select ''$c $c.count_2'' as v", "5 0"),
        ("select count_2 as v from $c.*", 0),
        ("select count + count_2 as v from $c.* where count_2 = 0", 5),
    ],
)
def test_references_tell_the_columns_apart(pump: Pump, text: str, value: object) -> None:
    query = "'select count(*), count(*) filter (where false) from generate_series(1, 5)' |=> 'c'"
    done = pump.run(f"({query}) ~> '{text}'")
    assert done.error == ""
    assert done.result["rows"] == [{"v": value}]


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("query", ["select 1 as a, 2 as a", "values (1)"])
def test_in_another_database(db: Database, query: str) -> None:
    expected = {"a": 1, "a_2": 2} if "as a" in query else {"column1": 1}
    assert run(db, f"'{query}'", database="postgres")["rows"] == [expected]


@pytest.mark.usefixtures("worker")
def test_outside_a_transaction(db: Database) -> None:
    db.sql("create procedure p(inout a int, inout b int) language plpgsql as 'begin commit; end'")
    assert run(db, "'call p(1, 2)'")["rows"] == [{"a": 1, "b": 2}]
