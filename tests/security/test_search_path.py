"""Hostile names: what shadows its names, in the caller's search_path or in pg_temp, pg_durable never uses."""

from typing import Any

import psycopg
import pytest

from tests.support import Database

# Called with everything qualified, as a client under a strange search_path has to.
EXERCISE = """
select df.setvar('a', 'b');
select df.getvar('a');
select set_config('t.run', df.start(
  df.seq(df.as('SELECT 1 AS n, ''{a}''', 'x'), df.if('SELECT $x.n = 1', df.sleep(0.01), df.wait_for_signal('s', 5))),
  'a label'), false);
select df.start(df.race(df.join(df.sql('SELECT 1'), 'SELECT 2'), df.wait_for_schedule('0 5 * * 1-5', 'Europe/Zurich')));
select df.start(df.loop(df.retry('SELECT 1', max_attempts => 2), 'SELECT false'));
select df.start(df.http('https://api.github.com/zen', 'GET', headers => '{"a": "b"}'));
select df.status(current_setting('t.run'));
select df.result(current_setting('t.run'));
select * from df.list_instances();
select * from df.list_instances(null, 10, 'a label');
select * from df.instance_info(current_setting('t.run'));
select * from df.instance_nodes(current_setting('t.run'));
select * from df.instance_executions(current_setting('t.run'));
select df.explain(current_setting('t.run'));
select df.explain('SELECT 1');
select df.svg(current_setting('t.run'));
select df.svg('SELECT 1');
select df.mermaid(current_setting('t.run'));
select df.signal(current_setting('t.run'), 's', '{"ok": true}');
select * from df.signals;
select df.run(current_setting('t.run'));
select df.cancel(current_setting('t.run'));
select df.await_instance(current_setting('t.run'), 1);
select df.setting('timezone');
select df.version();
select df.target_database();
select df.unsetvar('a');
select df.clearvars();
call df_engine.work(1000, true, null);
"""

TYPES = ("text", "jsonb", "json", "jsonpath", "timestamptz", "date", "oid", "xid8", "uuid", "name", "regrole",
         "regclass", "regprocedure", "bool", "int4", "int8", "numeric", "varchar", "interval")  # fmt: skip
RELATIONS = ("pg_roles", "pg_database", "pg_class", "instances", "nodes", "settings", "ready", "vars", "pg_locks",
             "pg_stat_activity", "pg_timezone_names")  # fmt: skip


def exercise(conn: psycopg.Connection[Any], settings: str) -> None:
    """Runs the calls above, each under the given search_path."""
    conn.execute(settings.encode())
    for statement in EXERCISE.strip().split(";\n"):
        conn.execute(statement.encode())


def set_trap(conn: psycopg.Connection[Any], schema: str) -> None:
    conn.execute(
        f"""create function {schema}.trap() returns boolean language plpgsql
            as $$ begin raise exception 'hijacked as %', current_user using errcode = 'XX999'; end $$""".encode()
    )


@pytest.mark.parametrize("path", ["", "pg_catalog", "df, public", "nowhere", "df, public, pg_temp, pg_catalog"])
def test_any_search_path_will_do(db: Database, path: str) -> None:
    with db.connect("app") as conn:
        exercise(conn, f"select set_config('search_path', '{path}', false)")


def test_operators_and_functions_in_front_of_pg_catalog_are_not_used(db: Database) -> None:
    db.admin("create schema evil authorization app")
    with db.connect("app") as conn:
        set_trap(conn, "evil")
        for operator, left, right in [("=", "text", "text"), ("<>", "text", "text"), ("||", "text", "text"),
                                      ("~", "text", "text"), ("->>", "jsonb", "text"), ("->", "jsonb", "text"),
                                      ("?", "jsonb", "text"), ("<", "timestamptz", "timestamptz"),
                                      ("=", "oid", "oid"),
                                      ("+", "int", "int"), ("=", "int", "int"),
                                      ("=", "varchar", "varchar")]:  # fmt: skip
            name = f"f{abs(hash((operator, left)))}"
            conn.execute(
                f"""create function evil.{name}({left}, {right}) returns boolean language sql
                    as 'select evil.trap()';
                    create operator evil.{operator} (leftarg = {left}, rightarg = {right}, function = evil.{name})
                 """.encode()
            )
        for signature in ("lower(text)", "length(text)", "now()", "clock_timestamp()", "quote_ident(text)",
                          "quote_literal(text)", "to_jsonb(text)", "gen_random_uuid()", "jsonb_typeof(jsonb)",
                          "pg_notify(text, text)", "format(text, text)",
                          "set_config(text, text, boolean)"):  # fmt: skip
            conn.execute(
                f"create function evil.{signature} returns boolean language sql as 'select evil.trap()'".encode()
            )
        statements = EXERCISE.replace("set_config(", "pg_catalog.set_config(")
        conn.execute("set search_path = evil, pg_catalog, public")
        for statement in statements.strip().split(";\n"):
            if not statement.startswith("call"):  # the driver runs the run's own statements with this search_path
                conn.execute(statement.encode())


@pytest.mark.parametrize("shadow", TYPES)
def test_types_in_pg_temp_are_not_used(db: Database, shadow: str) -> None:
    with db.connect("app") as conn:
        set_trap(conn, "pg_temp")
        conn.execute(f"create domain pg_temp.{shadow} as pg_catalog.{shadow} check (pg_temp.trap())".encode())
        exercise(conn, "set search_path = pg_catalog, pg_temp")
    with db.connect("app") as conn:
        set_trap(conn, "pg_temp")
        conn.execute(f"create domain pg_temp.{shadow} as pg_catalog.{shadow} check (pg_temp.trap())".encode())
        exercise(conn, "set search_path = ''")


def test_record_in_pg_temp_is_not_used(db: Database) -> None:
    with db.connect("app") as conn:
        conn.execute("create type pg_temp.record as (x int)")
        exercise(conn, "set search_path = ''")


def test_relations_in_pg_temp_are_not_used(db: Database) -> None:
    with db.connect("app") as conn:
        for relation in RELATIONS:
            conn.execute(f"create temp table {relation} (x int)".encode())
        exercise(conn, "set search_path = ''")
