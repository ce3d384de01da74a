"""Definitions: flows with a name, version by version, and what is started from them."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from tests.state import LATEST_HIDDEN
from tests.support import Database, Pump, Run, wait_until

LISTED = "select name, version, flow, comment, live_instances::int from df.definitions order by name, version"


def define(db: Database, flow: str, name: str = "bill", user: str = "app") -> int:
    """Defines a flow, an SQL expression; the number of the version."""
    return int(db.sql(f"select df.define(%s, {flow})", name, user=user))


def refused(db: Database, call: str, code: str, fragment: str = "") -> psycopg.errors.Diagnostic:
    with pytest.raises(psycopg.Error, match=fragment or None) as caught:
        db.sql(f"select {call}")
    assert caught.value.sqlstate == code
    return caught.value.diag


def test_versions(app: Database) -> None:
    assert [define(app, flow) for flow in ("'a'", "'a'", "'a' ~> 'b'", "df.sql('a')", "'a'")] == [1, 1, 2, 3, 3]
    assert app.rows(LISTED) == [
        ("bill", 1, "'a'", None, 0),
        ("bill", 2, "'a' ~> 'b'", None, 0),
        ("bill", 3, "'a'", None, 0),
    ]


def test_the_newest_is_started_and_a_version_by_its_number(pump: Pump) -> None:
    for number in (1, 2, 3):
        define(pump.db, f"'select {number}'")
    assert [pump.run(f"'{name}'").value() for name in ("@bill", "@bill:2", "  @bill:1\n")] == [3, 2, 1]
    query = "select definition from df.instances order by created_at"
    assert pump.db.rows(query) == [("bill:3",), ("bill:2",), ("bill:1",)]


def test_a_run_keeps_the_version_that_it_was_started_with(pump: Pump) -> None:
    define(pump.db, "df.sleep(0.01) ~> 'select 1 as n'")
    run = pump.start("'@bill'")
    define(pump.db, "'select 2 as n'")
    assert [row[1::3] for row in pump.db.rows(LISTED)] == [(1, 1), (2, 0)]
    pump.db.sql("select df.undefine('bill')")
    pump.until(run.ended)
    assert (run.status, run.value()) == ("completed", 1)
    assert pump.db.rows(LISTED) == []


def test_a_definition_is_started_with_all_that_a_start_takes(pump: Pump) -> None:
    define(pump.db, "'select $input.n + {more} as n'")
    pump.db.sql("select df.setvar('more', '1')")
    call = "select df.start('@bill', 'label', input => '{\"n\": 4}', key => 'k', priority => 3)"
    run = Run(pump.db, pump.db.sql(call))
    assert pump.db.sql(call) == run.id
    pump.until(run.ended)
    assert run.value() == 5


@pytest.mark.parametrize("name", ["@nothing", "@bill:2", "@bill:99999999999", "@bill:0"])
def test_an_unknown_name_raises_at_start(app: Database, name: str) -> None:
    define(app, "'a'")
    for call in (f"df.start('{name}')", f"df.start('b' ~> df.call('{name}'))", f"df.explain('{name}')"):
        assert "df.definitions" in str(refused(app, call, "42704", name).message_hint)


@pytest.mark.parametrize("name", ["@", "@9", "@a b", "@a:", "@a:x", "@a.flow"])
def test_what_is_no_name_raises_at_start(app: Database, name: str) -> None:
    refused(app, f"df.start('{name}')", "22023", "no name of a definition")


def test_the_definitions_are_the_submitters_own(pump: Pump) -> None:
    define(pump.db, "'select 1'")
    define(pump.db, "'select 2'", user="other")
    assert pump.run("'@bill'").value() == 1
    assert pump.db.rows(LISTED, user="other") == [("bill", 1, "'select 2'", None, 0)]
    define(pump.db, "'select 3'", "mine")
    with pytest.raises(psycopg.errors.UndefinedObject):
        pump.db.sql("select df.start('@mine')", user="other")


@pytest.mark.parametrize("step", ["'@bill' ~> 'b'", "'a' & '@bill:2'", "df.loop('@bill')", "df.retry('@bill')",
                                  "df.if('a', '@bill', 'b')", "df.all('@bill', 'b')", "'@bill' |=> 'x'"])  # fmt: skip
def test_as_an_operand_it_is_told_how_it_is_called(app: Database, step: str) -> None:
    define(app, "'a'")
    assert "df.call('@bill" in str(refused(app, step, "22023", "name of a definition").message_hint)


def test_in_a_flow_and_in_an_envelope_it_is_told_at_start(app: Database) -> None:
    define(app, "'a'")
    for graph in ("df.flow($f$'b' ~> ' @bill'$f$)", """replace('x' ~> 'b', '"x"', '"@bill"')"""):
        refused(app, f"df.start({graph})", "22P02", "df.call")


CALLS = ["df.call('@bill')", "df.flow($f$call('@bill', label => 'x')$f$)",
         """'{"node_type":"CALL","query":"{\\"flow\\":\\"@bill:1\\"}"}'"""]  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
def test_a_call_takes_the_version_of_the_moment_when_it_begins(pump: Pump, call: str) -> None:
    define(pump.db, "'select 1'")
    run = pump.start(f"df.wait_for_signal('go') ~> {call}")
    pump.work()
    define(pump.db, "'select 2'")
    pump.db.sql("select df.signal(%s, 'go')", run.id)
    pump.until(run.ended)
    version = 1 if ":1" in call else 2
    assert (run.value(), pump.db.sql("select definition from df.instances where parent_id = %s", run.id)) == (
        version,
        f"bill:{version}",
    )


def test_a_call_of_what_is_defined_no_more_fails_and_can_be_caught(pump: Pump) -> None:
    define(pump.db, "'select 1'")
    run = pump.start("df.catch(df.wait_for_signal('go') ~> df.call('@bill'), 'select $error.message, $error.sqlstate')")
    pump.work()
    pump.db.sql("select df.undefine('bill')")
    pump.db.sql("select df.signal(%s, 'go')", run.id)
    pump.until(run.ended)
    assert run.result["rows"] == [{"?column?": "CALL: there is no definition @bill", "?column?_2": "42704"}] or (
        "there is no definition @bill" in str(run.result)
    )


def test_a_definition_can_call_itself(pump: Pump) -> None:
    """Not for ever: runs stand so many levels below each other at most."""
    again = """df.call('@down', '{"n": $left}')"""
    flow = f"'select $input.n - 1 as n' |=> 'left' ~> ('select $left > 0' ?> {again} !> 'select 7')"
    define(pump.db, flow, "down")
    run = Run(pump.db, pump.db.sql("select df.start('@down', input => '{\"n\": 4}')"))
    pump.until(run.ended)
    assert (run.status, pump.db.sql("select count(*) from df.instances where definition = 'down:1'")) == (
        "completed",
        4,
    )


def test_explain_draws_a_definition_and_what_calls_it(app: Database) -> None:
    define(app, "'select 1' ~> 'select 2'")
    assert "select 2" in app.sql("select df.explain('@bill')")
    assert app.sql("select df.explain(' @bill:1 ')") == app.sql("select df.explain('@bill')")
    assert "CALL '@bill:1'" in app.sql("select df.explain(df.call('@bill:1'))")
    assert app.sql("select df.to_flow(df.call(' @bill:1 '))") == "call('@bill:1')"


@pytest.mark.parametrize(
    ("arguments", "code", "fragment"),
    [
        ("'1a', 'x'", "42602", "1a"),
        ("'', 'x'", "42602", "name"),
        ("'a:b', 'x'", "42602", "a:b"),
        ("null, 'x'", "22004", "name"),
        ("'a', null", "22004", "fut"),
        ("repeat('a', 64), 'x'", "54000", "63"),
        ("'a', 'x', repeat('c', 10001)", "54000", "10000"),
        ("'a', '@b'", "22023", "df.call|name"),
        ("'a', '{\"node_type\":\"X\"}'", "22P02", "Unknown node_type"),
        ("'a', 'x', owner => 'other'", "42501", "member"),
        ("'a', 'x', owner => 'nobody_there'", "42704", "nobody_there"),
    ],
)
def test_what_is_not_defined(app: Database, arguments: str, code: str, fragment: str) -> None:
    refused(app, f"df.define({arguments})", code, fragment)
    assert app.rows(LISTED) == []


def test_a_comment_is_the_versions_and_can_be_changed(app: Database) -> None:
    assert app.sql("select df.define('bill', 'a', 'first')") == 1
    assert app.sql("select df.define('bill', 'a', 'second')") == 1
    assert app.sql("select df.define('bill', 'a')") == 1
    assert app.rows(LISTED) == [("bill", 1, "'a'", "second", 0)]


def test_what_was_undefined_goes_on_with_the_next_version(app: Database) -> None:
    for flow in ("'a'", "'b'"):
        define(app, flow)
    assert app.sql("select df.undefine('bill')") == "OK"
    assert app.admin(LATEST_HIDDEN) == [2]
    refused(app, "df.undefine('bill')", "42704", "bill")
    refused(app, "df.start('@bill')", "42704")
    assert define(app, "'b'") == 3
    assert [row[1] for row in app.rows(LISTED)] == [3]


@pytest.fixture
def deployer(app: Database) -> Iterator[Database]:
    """A database where the role deployer is a member of app."""
    app.admin("drop role if exists deployer; create role deployer login; grant app to deployer")
    app.admin("select df.grant_usage('deployer')")
    yield app
    app.admin("drop owned by deployer; drop role deployer")


def test_members_of_a_role_define_and_see_what_it_runs(deployer: Database) -> None:
    deployer.sql("select df.define('bill', 'a', owner => 'app')", user="deployer")
    assert deployer.rows("select name, owner::text, created_by::text from df.definitions", user="deployer") == [
        ("bill", "app", "deployer")
    ]
    assert deployer.sql("select df.start('@bill')")
    with pytest.raises(psycopg.errors.UndefinedObject):
        deployer.sql("select df.start('@bill')", user="deployer")
    deployer.sql("select df.undefine('bill', 'app')", user="deployer")
    assert deployer.rows(LISTED) == []
    deployer.connections.pop("deployer").close()


def test_administrators_define_for_all_but_superusers(app: Database) -> None:
    app.admin("select df.define('bill', 'a', owner => 'app')")
    assert app.rows(LISTED) == [("bill", 1, "'a'", None, 0)]
    app.admin("grant execute on function df.set_setting(text, text) to other")
    assert app.sql("select df.define('bill', 'b', owner => 'app')", user="other") == 2
    superuser = app.admin("select current_user::text")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        app.sql("select df.define('bill', 'b', owner => %s::regrole)", superuser, user="other")
    assert app.sql("select df.undefine('bill', 'app')", user="other") == "OK"


def test_another_role_neither_hides_nor_replaces_a_definition(app: Database) -> None:
    define(app, "'a'")
    for call in ("df.undefine('bill', 'app')", "df.define('bill', 'b', owner => 'app')"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            app.sql(f"select {call}", user="other")
    assert len(app.rows(LISTED)) == 1


def test_two_versions_at_once_get_two_numbers(app: Database) -> None:
    with app.connect("app", autocommit=False) as one, ThreadPoolExecutor() as pool:
        one.execute("select df.define('bill', 'a')")
        second = pool.submit(define, app, "'b'")
        wait_until(
            lambda: app.admin(
                "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
            )
        )
        one.commit()
        assert second.result() == 2


def test_a_name_without_its_sign_is_told_where_there_is_such_a_definition(app: Database) -> None:
    for name in ("bill", "vacuum"):
        app.sql("select df.define(%s, 'select 1')", name)
    with pytest.raises(psycopg.errors.InvalidParameterValue, match='"bill" is no SQL statement') as raised:
        app.sql("select df.start(' bill')")
    assert raised.value.diag.message_hint == "There is a definition of this name: did you mean '@bill'?"
    with pytest.raises(psycopg.errors.InvalidParameterValue, match='"bill:2" is no SQL statement'):
        app.sql("select df.start('bill:2')")
    assert app.sql("select df.explain('bill')").endswith("did you mean '@bill'?")
    assert "did you mean" not in app.sql("select df.explain('bell')")
    assert app.sql("select df.status(df.start('vacuum'))") == "pending", "a statement stays one"
    assert app.sql("select df.status(df.start('bell'))") == "pending", "it fails when it runs"


def test_the_text_of_a_definition(app: Database) -> None:
    app.sql("select df.define('bill', 'select 1')")
    app.sql("select df.define('bill', 'select 2')")
    assert (app.sql("select df.to_flow(' @bill')"), app.sql("select df.to_flow('@bill:1')")) == (
        "'select 2'",
        "'select 1'",
    )
    with pytest.raises(psycopg.errors.UndefinedObject, match="there is no definition @bell"):
        app.sql("select df.to_flow('@bell')")
