"""Variables, and the guard against using what a helper returns as a graph."""

import psycopg
import pytest

from tests.support import Database


def test_set_get_unset_clear(app: Database) -> None:
    assert app.sql("select df.setvar('a', '1')") == "OK"
    assert app.sql("select df.setvar('a', '2')") == "OK"
    assert app.sql("select df.setvar('b', '3')") == "OK"
    assert app.rows("select df.getvar('a'), df.getvar('b'), df.getvar('c')") == [("2", "3", None)]
    assert app.sql("select df.unsetvar('a')") == "OK"
    assert app.sql("select df.unsetvar('a')") == "OK"
    assert app.rows("select df.getvar('a'), df.getvar('b')") == [(None, "3")]
    assert app.sql("select df.clearvars()") == "OK"
    assert app.sql("select count(*) from df.vars") == 0


def test_each_role_has_its_own_also_for_a_superuser(app: Database) -> None:
    app.sql("select df.setvar('a', 'app')")
    app.sql("select df.setvar('a', 'other')", user="other")
    assert app.admin("select df.getvar('a')") is None
    app.admin("select df.setvar('a', 'admin')")
    app.admin("select df.unsetvar('a')")
    app.admin("select df.clearvars()")
    assert app.sql("select df.getvar('a')") == "app"
    assert app.sql("select df.getvar('a')", user="other") == "other"


@pytest.mark.parametrize(
    "call", ["df.setvar(null, '1')", "df.setvar('a', null)", "df.getvar(null)", "df.unsetvar(null)"]
)
def test_null_gives_null_and_does_nothing(app: Database, call: str) -> None:
    app.sql("select df.setvar('a', 'kept')")
    assert app.sql(f"select {call}") is None
    assert app.sql("select df.getvar('a')") == "kept"


@pytest.mark.parametrize("call", ["setvar('a', '1')", "unsetvar('a')", "clearvars()"])
def test_not_inside_a_workflow(app: Database, call: str) -> None:
    with app.connect("app") as conn:
        conn.execute("set df.in_workflow = 'true'")
        assert conn.execute("select df.getvar('a')").fetchone() == (None,)
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="cannot be called inside a workflow"):
            conn.execute(f"select df.{call}".encode())


MISUSED = [
    ("df.setvar('a', '1') ~> 'b'", "setvar"),
    ("df.unsetvar('a') |=> 'x'", "unsetvar"),
    ("df.seq('b', df.clearvars())", "clearvars"),
    ("'c' ?> df.setvar('a', '1') !> 'b'", "setvar"),
    ("df.retry(df.setvar('a', '1'))", "setvar"),
    ("df.start(df.setvar('a', '1'))", "setvar"),
    ("df.start(df.clearvars(), transaction_mode => 'new')", "clearvars"),
]


@pytest.mark.parametrize(("expression", "function"), MISUSED)
def test_what_a_helper_returned_is_no_graph(app: Database, expression: str, function: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=f"{function} cannot be used as a workflow step"):
        app.sql(f"select {expression}")


def test_the_guard_fires_for_that_text_and_that_statement_only(app: Database) -> None:
    with app.connect("app", autocommit=False) as conn:
        conn.execute("select df.setvar('a', '1'), df.start('b' ~> 'c')")
        conn.execute("select df.start('OK')")
        conn.execute("select df.setvar('a', '1')")
        conn.execute("select df.seq('OK', 'b')")
