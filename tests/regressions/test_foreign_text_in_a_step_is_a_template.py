"""Foreign text reaches a step whole: as $input, or written by df.literal. Paths go on through JSON."""

import json
import uuid
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from tests.support import Database
from tests.worker.conftest import spawn, worker  # noqa: F401 - fixtures
from tests.worker.process import WorkerProcess, await_end, error

Value = Callable[..., Any]
RESULT = "select (df.result(%s)::jsonb -> 'rows' -> 0)"
FOREIGN = ["hello {api_key}", "$x", "it's $x.y", "{sys_label}", "a\\b", "\\x41", "$$body$$", "line\nbreak\ttab\x07",
           "é€😀 {v}", "'; drop table t; --", "/* $x */ -- {y}", "E'$x'", "{{api_key}}", ""]  # fmt: skip
ORDER = {
    "id": 7, "price": 1.50, "paid": True, "note": "it's {api_key} and $x", "none": None, "ids": [3, 4],
    "buyer": {"name": "kim", "tags": [{"t": "x"}, {"t": "y"}], "0": "zero"},
    "rows": [{"a": 1}], "big": 12345678901234567890,
}  # fmt: skip


@pytest.fixture
def value(db: Database, worker: WorkerProcess) -> Value:  # noqa: F811
    """Runs a flow with an input; the first column of the first row."""
    del worker

    def value(flow: str, given: Any = None, *, start: str = "df.start({}, input => %s)") -> Any:
        run = db.sql("select " + start.format(flow), None if given is None else Jsonb(given))
        assert await_end(db, run, 30) == "completed", error(db, run)
        return next(iter(db.sql(RESULT, run).values()))

    return value


def failure(db: Database, flow: str, given: Any = None) -> str:
    run = db.sql(f"select df.start({flow}, input => %s)", None if given is None else Jsonb(given))
    assert await_end(db, run, 30) == "failed"
    return error(db, run)


PATHS = [
    ("'select $input.id + 1 as v'", 8),
    ("'select $input.price * 2 as v'", 3.0),
    ("'select not $input.paid as v'", False),
    ("'select $input.note as v'", ORDER["note"]),
    ("$$select 'say: $input.note' as v$$", "say: it's {api_key} and $x"),
    ("'select pg_typeof($input.note)::text as v'", "unknown"),
    ("'select $input.none? as v'", None),
    ("'select $input.ids.0 + $input.ids.1 as v'", 7),
    ("'select $input.buyer.name as v'", "kim"),
    ("'select $input.buyer.tags.1.t as v'", "y"),
    ("'select $input.buyer.0 as v'", "zero"),
    ("'select $input.buyer.nope.x? as v'", None),
    ("'select $input.ids.9? as v'", None),
    ("'select $input.big as v'", 12345678901234567890),
    ("'select ($input::jsonb) ->> ''note'' as v'", ORDER["note"]),
    ("'select ($input.rows::jsonb) -> 0 as v'", {"a": 1}),
    ("'select $input.rows.0.a as v'", 1),
    ("'select 1' ~> ('select $input.id as v' & 'select 2') ~> 'select $input.id as v'", 7),
    ("df.loop('select $input.id as v' ~> 'select $input.id as v', 'select $input.id < 7')", 7),
    ("'select 0' ~> df.loop('select 1', 'select $input.id < 7') ~> 'select $input.id as v'", 7),
    ("df.if('select $input.paid', 'select $input.id as v', 'select 0')", 7),
    ("df.loop(df.break('$input.buyer.tags.0')) |=> 'b' ~> 'select $b.t as v'", "x"),
    ("df.loop(df.break('{\"a\": {\"b\": [10, 20]}}')) |=> 'b' ~> 'select $b.a.b.1 as v'", 20),
    ("('select 1' & 'select 2') |=> 'j' ~> 'select $j.1.rows.0 as v'", '{"?column?": 2}'),
    ("'select jsonb_build_object(''k'', jsonb_build_array(5, 6)) as doc' |=> 'r' ~> 'select $r.doc.k.1 as v'", 6),
    ("'select 5 as id' |=> 'r' ~> 'select ''$r.id.json'' as v'", "5.json"),
    ("'select 5 as id' |=> 'r' ~> 'select ''v-$r.0'' as v'", "v-5.0"),
]


@pytest.mark.parametrize(("flow", "expected"), PATHS)
def test_a_path_into_the_input(value: Value, flow: str, expected: Any) -> None:
    assert value(flow, ORDER) == expected


@pytest.mark.parametrize(
    ("given", "text"), [(5, "$input + 1"), (True, "not $input"), ("a'b", "$input"), ([1, 2], "$input.1")]
)
def test_an_input_that_is_no_object_is_typed(value: Value, given: Any, text: str) -> None:
    expected = {5: 6, True: False, "a'b": "a'b"}[given] if not isinstance(given, list) else 2
    assert value(f"'select {text} as v'", given) == expected


@pytest.mark.parametrize("text", FOREIGN)
def test_foreign_text_as_input_stays_what_it_is(db: Database, value: Value, text: str) -> None:
    db.sql("select df.setvar('api_key', 'SECRET'), df.setvar('v', 'V')")
    flow = "'select 1 as x' |=> 'x' ~> 'select $input.t as v'"
    assert value(flow, {"t": text}) == text
    assert value(flow.replace("$input.t as v", "''$input.t'' as v"), {"t": text}) == text


@pytest.mark.parametrize("setting", ["on", "off"])
@pytest.mark.parametrize("text", FOREIGN)
def test_foreign_text_as_a_literal_stays_what_it_is(db: Database, value: Value, text: str, setting: str) -> None:
    db.sql("select df.setvar('api_key', 'SECRET'), df.setvar('v', 'V')")
    db.sql(f"set standard_conforming_strings = {setting}")
    written = db.sql("select df.literal(%s::text)", text)
    assert "$" not in written
    assert "{" not in written
    assert db.sql(f"select {written}".replace("%", "%%")) == text
    flow = sql.Literal("select 1 as x").as_string(), sql.Literal(f"select {written} as v").as_string()
    assert value(f"({flow[0]} |=> 'x' ~> {flow[1]})".replace("%", "%%"), {}) == text


TYPED = ["5::int", "1.50::numeric", "true", "'{1,2}'::int[]", "'{\"a b\",NULL}'::text[]",
         "'{\"k\": \"$x {v}\"}'::jsonb", "'{\"k\":  1}'::json", "'2026-05-01 12:00+02'::timestamptz",
         "'-1 day 2 hours'::interval",
         "'\\xdead'::bytea", "0.1::float8", "'NaN'::float4", "'[1,5)'::int4range", "'10.0.0.1'::inet", "B'101'",
         "gen_random_uuid()", "'happy'::mood", "row(1, 'a$x')::pair", "'12:30'::timetz"]  # fmt: skip


@pytest.mark.parametrize("expression", TYPED)
def test_a_typed_value_as_a_literal(db: Database, expression: str) -> None:
    db.sql("create type mood as enum ('happy'); create type pair as (n int, t text)")
    db.sql("set datestyle = 'german'; set intervalstyle = 'sql_standard'; set timezone = 'Asia/Tokyo'")
    value, written, kind = db.rows(
        f"select v::text, df.literal(v), format_type(pg_typeof(v), -1) from (select {expression} as v) x"
    )[0]
    assert db.rows(f"select ({written})::text, format_type(pg_typeof({written}), -1)".replace("%", "%%")) == [
        (value, kind)
    ]
    assert "$" not in written
    assert "{" not in written


@pytest.mark.parametrize("expression", ["'a'::varchar", "'ab'::char(5)", "'abc'::name", "'k'"])
def test_a_string_of_any_type_is_a_text(db: Database, expression: str) -> None:
    assert db.sql(f"select df.literal({expression})") == f"E'{db.sql(f'select ({expression})::text')}'::text"


def test_a_missing_value_is_null(db: Database) -> None:
    assert db.rows("select df.literal(null), df.literal(null::text), df.literal(null::int), df.literal('x')") == [
        ("NULL", "NULL", "NULL", "E'x'::text")]  # fmt: skip
    assert db.sql("select df.literal(%s)", "a$b") == "E'a\\x24b'::text"


FAILS = [
    ("'select $input.nope'", '"input" has no key "nope"; it has:'),
    ("'select $input.buyer.nope'", '"input.buyer" has no key "nope"; it has: 0, name, tags'),
    ("'select $input.none'", 'key "none" of "input" is NULL'),
    ("'select $input.none.x'", 'key "none" of "input" is NULL'),
    ("'select $input.id.x'", "neither a row set nor a JSON object"),
    ("'select $input.id.x?'", "neither a row set nor a JSON object"),
    ("'select $input.ids.x'", "neither a row set nor a JSON object"),
    ("'select $input.ids.2'", '"input.ids" has no element 2; it has 2'),
    ("'select * from $input.*'", "is not a row set"),
]


@pytest.mark.usefixtures("worker")
def test_a_path_that_leads_nowhere_says_where_it_ended(db: Database) -> None:
    for flow, says in FAILS:
        assert says in failure(db, flow, ORDER)


@pytest.mark.usefixtures("worker")
def test_without_an_input_the_name_is_unknown(db: Database, value: Value) -> None:
    assert "started without input" in failure(db, "'select $input.x'")
    assert value("'select ''mutation($input: X!) {'' as v'") == "mutation($input: X!) {"
    assert value("df.loop(df.break('($input: X!)')) |=> 'b' ~> 'select $b as v'") == '"($input: X!)"'


def test_an_envelope_by_hand_may_use_the_name(value: Value) -> None:
    binds = {"node_type": "SQL", "query": "select 9 as n", "result_name": "input"}
    reads = {"node_type": "SQL", "query": "select $input.n as v"}
    envelope = json.dumps({"node_type": "THEN", "left_node": binds, "right_node": reads})
    assert value(f"$e${envelope}$e$", {"n": 1}) == 9


def test_two_dollars_before_a_name_are_one_in_raw_text(value: Value) -> None:
    texts = {"$$id and $id": "$id and 3", "$$$id": "$$id", "$$5 $$": "$$5 $$", "cost $$unknown": "cost $unknown"}
    for text, expected in texts.items():
        flow = (
            f"'select 3' |=> 'id' ~> df.loop(df.break(E'\"{text}\"')) |=> 'b' ~> 'select ($b::jsonb) #>> ''{{}}'' as v'"
        )
        assert value(flow) == expected


@pytest.mark.parametrize("name", ["input", "item", "item_no", "error"])
def test_a_result_cannot_have_the_name_of_what_a_run_binds(shared: Database, name: str) -> None:
    for written in (f"'a' |=> '{name}'", f"df.as('a', '{name}')", f"df.flow($$'a' |=> {name}$$)"):
        with pytest.raises(psycopg.errors.InvalidParameterValue, match=rf"\${name} is what a run binds itself"):
            shared.sql(f"select {written}")


UNKNOWN = [
    ("'select {nope}'", "root"),
    ("'select 1' ~> 'select * from {nope}.t'", "root.right"),
    ("df.loop('select 1', 'select {region} = {nope}')", "root.condition_node"),
    ("'select 1' & 'select 2' & ('select 3 {nope}' ~> 'x')", "root.right.left"),
    ("'select ''{a}'', \"{b}\", /* {c} */ $d${e}$d$, {nope} -- {f}'", "root"),
    ("'select {sys_label}{nope}'", "root"),
]
FINE = ["'select ''{nope}'' as v'", "'select \"{nope}\" from (select 1) t(\"{nope}\")'",
        "'select 1 /* {nope} */ as v -- {nope}'",
        "'do $d$ begin perform ''{nope}''; end $d$'", "'select {region} as v'", "'select E''{nope}'' as v'",
        "df.loop(df.break('{nope}'))", "'select U&''{nope}'' as v'"]  # fmt: skip


@pytest.mark.parametrize(("flow", "path"), UNKNOWN)
def test_an_unknown_variable_in_code_fails_at_the_start(db: Database, flow: str, path: str) -> None:
    db.sql("select df.setvar('region', '''emea''')")
    with pytest.raises(
        psycopg.errors.InvalidParameterValue, match=rf"graph: {path}: the run has no variable {{nope}}"
    ) as caught:
        db.sql(f"select df.start({flow})")
    assert "{region}, {sys_instance_id}, {sys_label}" in str(caught.value.diag.message_primary)
    assert "df.setvar" in str(caught.value.diag.message_hint)
    assert db.sql("select count(*) from df.instances") == 0


@pytest.mark.parametrize("flow", FINE)
def test_a_brace_that_is_no_code_starts(db: Database, flow: str) -> None:
    db.sql("select df.setvar('region', '''emea''')")
    assert db.sql(f"select df.start({flow})")


def test_the_input_of_a_run_is_shown(db: Database) -> None:
    label = uuid.uuid4().hex
    db.sql("select df.start('select 1', %s, null, 'caller', %s)", label, Jsonb({"a": [1]}))
    assert db.sql("select input from df.instances where label = %s", label) == {"a": [1]}
    db.sql("select df.start('select 2', %s)", label + "b")
    assert db.rows("select input from df.instances where label = %s", label + "b") == [(None,)]


def test_there_is_one_df_start(shared: Database) -> None:
    query = (
        "select array_agg(pg_get_function_identity_arguments(oid)) from pg_proc where oid::regproc::text = 'df.start'"
    )
    assert shared.sql(query) == [
        "fut text, label text, database text, transaction_mode text, input jsonb, key text, on_conflict text, "
        "start_at timestamp with time zone, priority integer"
    ]
