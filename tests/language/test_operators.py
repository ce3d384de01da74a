"""Operators: what they build, how they group, and what a partial IF is."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from generator.render import artifacts
from tests.support import Database, install

Ask = Callable[..., Any]

MEANINGS = [
    ("'a' ~> 'b'", "df.seq('a', 'b')"),
    ("'a' |=> 'x'", "df.as('a', 'x')"),
    ("'a' & 'b'", "df.join('a', 'b')"),
    ("'a' | 'b'", "df.race('a', 'b')"),
    ("'c' ?> 'a' !> 'b'", "df.if('c', 'a', 'b')"),
    ("@> 'a'", "df.loop('a')"),
]

GROUPINGS = [
    ("'a' ~> 'b' |=> 'x'", "df.as(df.seq('a', 'b'), 'x')"),
    ("'a' |=> 'x' ~> 'b' |=> 'y' ~> 'c'", "df.seq(df.as(df.seq(df.as('a', 'x'), 'b'), 'y'), 'c')"),
    ("'a' & 'b' ~> 'c'", "df.seq(df.join('a', 'b'), 'c')"),
    ("'a' ~> 'b' & 'c'", "df.join(df.seq('a', 'b'), 'c')"),
    ("'a' | 'b' & 'c'", "df.join(df.race('a', 'b'), 'c')"),
    ("'a' |=> 'x' & 'b' |=> 'y'", "df.as(df.join(df.as('a', 'x'), 'b'), 'y')"),
    ("@> 'a' ~> 'b'", "df.seq(df.loop('a'), 'b')"),
    ("@> ('a') |=> 'x'", "df.as(df.loop('a'), 'x')"),
    ("'p' ~> 'c' ?> 'a' !> 'b'", "df.if(df.seq('p', 'c'), 'a', 'b')"),
    ("'c' ?> 'a' !> 'b' ~> 'z'", "df.seq(df.if('c', 'a', 'b'), 'z')"),
    ("'c' ?> 'a' !> 'd' ?> 'e' !> 'f'", "df.if(df.if('c', 'a', 'd'), 'e', 'f')"),
    ("'c' ?> 'a' !> ('d' ?> 'e' !> 'f')", "df.if('c', 'a', df.if('d', 'e', 'f'))"),
    ("'x' ~> 'y' || 'v'", "df.seq('x', 'y') || 'v'"),
    ("df.sleep(1) ~> (@> ('a' & 'b'))", "df.seq(df.sleep(1), df.loop(df.join('a', 'b')))"),
]


@pytest.mark.parametrize(("written", "meant"), MEANINGS + GROUPINGS)
def test_operators_build_what_the_functions_build(pure: Ask, written: str, meant: str) -> None:
    assert pure(f"select {written}") == pure(f"select {meant}")


@pytest.mark.parametrize("written", [
    "'c' ?> 'a' ~> 'x' !> 'b'", "'c' ?> 'a' |=> 'n' !> 'b'", "'{}' !> 'b'", "'[1]' !> 'b'",
    """'{"_partial_if":true,"condition":"c"}' !> 'b'""",
    """'{"_partial_if":false,"condition":"c","then_branch":"a"}' !> 'b'""",
])  # fmt: skip
def test_only_a_partial_takes_an_else_branch(pure: Ask, written: str) -> None:
    with pytest.raises(psycopg.errors.InvalidTextRepresentation, match=r"^Invalid if-then-else"):
        pure(f"select {written}")


def test_an_else_branch_of_no_json_is_the_ordinary_cast_error(pure: Ask) -> None:
    with pytest.raises(psycopg.errors.InvalidTextRepresentation, match="invalid input syntax for type json"):
        pure("select 'a' !> 'b'")


def test_a_partial_keeps_its_operands_as_raw_text(pure: Ask) -> None:
    partial = pure("""select ('c "q"' ?> df.sleep(1))::jsonb""")
    assert partial == {"_partial_if": True, "condition": 'c "q"', "then_branch": '{"node_type":"SLEEP","query":"1"}'}


def test_a_partial_may_hold_objects(pure: Ask) -> None:
    condition, branch = pure("select df.sql('c')"), pure("select df.sleep(1)")
    partial = f'{{"_partial_if":true,"condition":{condition},"then_branch":{branch}}}'
    assert pure("select %s::text !> 'b'", partial) == pure("select df.if('c', df.sleep(1), 'b')")


def test_a_partial_that_is_left_over_has_no_else(pure: Ask) -> None:
    alone = pure("select df.if('c', 'a')")
    branch, condition = pure("select df.sql('a')"), pure("select df.sql('c')")
    assert alone == f'{{"node_type":"IF","left_node":{branch},"condition_node":{condition}}}'
    assert pure("select 'c' ?> 'a' ~> 'b'") == pure("select df.seq(%s, 'b')", alone)
    assert pure("select 'c' ?> 'a' |=> 'n'") == pure("select df.as(%s, 'n')", alone)


def test_an_else_after_more_operators_is_refused_with_the_remedy(pure: Ask) -> None:
    for written in ("('c' ?> 'a') ~> 'x' !> 'b'", "('c' ?> 'a') |=> 'n' !> 'b'"):
        with pytest.raises(psycopg.errors.InvalidTextRepresentation, match=r"^Invalid if-then-else") as refused:
            pure(f"select {written}")
        assert "parentheses" in (refused.value.diag.message_hint or "")


@pytest.mark.parametrize(
    "expression",
    ["null::text |=> 'x'", "'a' |=> null", "null::text ?> 'a'", "'a' ?> null", "null::text !> 'a'", "@> null::text"],
)
def test_operator_support_refuses_null(pure: Ask, expression: str) -> None:
    with pytest.raises(psycopg.errors.NullValueNotAllowed):
        pure(f"select {expression}")


def test_operator_support_is_immutable_not_strict_and_pins_its_path(pure: Ask) -> None:
    assert pure("""select array_agg(proname::text order by proname) from pg_proc
        where pronamespace = 'df'::regnamespace and provolatile = 'i' and not proisstrict
          and proconfig::text like '%search_path%' and proname like any ('{%_op}')""") == [
        "as_op", "if_else_op", "if_then_op", "loop_prefix_op"]  # fmt: skip


def test_operators_are_commented_and_in_the_schema_chosen_at_first_installation(db: Database) -> None:
    kept = """select array_agg(distinct n.nspname::text), count(*), count(obj_description(o.oid, 'pg_operator'))
        from pg_operator o join pg_namespace n on n.oid = o.oprnamespace join pg_proc p on p.oid = o.oprcode
        where p.pronamespace = 'df'::regnamespace"""
    assert db.rows(kept) == [(["public"], 7, 7)]
    db.admin("create schema ops")
    install(db.dsn(), artifacts()["dist/pg_durable.sql"], operator_schema="ops")
    assert db.rows(kept) == [(["public"], 7, 7)]
    db.admin("drop schema df cascade; drop schema df_engine cascade")
    install(db.dsn(), artifacts()["dist/pg_durable.sql"], operator_schema="ops")
    assert db.rows(kept) == [(["ops"], 7, 7)]
    assert db.admin("select 'a' operator(ops.~>) 'b' = df.seq('a', 'b')")
