"""$n.c is a literal of the column's type in SQL code, and just the characters inside a literal."""

import pytest

from tests.support import Database, Pump
from tests.worker.process import await_end, error, start

USES = {
    "an int array in ANY": ("array[1, 2, 3]", "select 2 = any ($r.v) as v", True),
    "an array in unnest": ("array[3, 4]", "select sum(x) as v from unnest($r.v) x", 7),
    "an array in array_length": ("array[[1, 2], [3, 4]]", "select array_length($r.v, 2) as v", 2),
    "a subscript": ("array[''a'', ''b'']", "select $r.v[2] as v", "b"),
    "hostile elements": (
        "array[''a\"b'', ''c\\d'', ''e,f'', ''{g}'', '''', ''NULL'', null, ''it''''s'', ''$x'']",
        "select $r.v = array[''a\"b'', ''c\\d'', ''e,f'', ''{g}'', '''', ''NULL'', null, ''it''''s'', ''$x''] as v",
        True,
    ),
    "an empty array": ("''{}''::int[]", "select cardinality($r.v) as v", 0),
    "a boolean array": ("array[true, false]", "select $r.v[1] as v", True),
    "a date array": ("array[date ''2026-05-01'']", "select $r.v[1] + 1 as v", "2026-05-02"),
    "an enum array": ("array[''calm''::mood]", "select ''calm'' = any ($r.v) as v", True),
    "a json array": ("array[''[1, {\"a\": \"b\"}]''::jsonb, ''\"x\"'']", "select $r.v[1] -> 1 ->> ''a'' as v", "b"),
    "an ANY of a table": ("array[1, 2]", "select count(*) as v from (values (1), (3)) t(id) where id = any ($r.v)", 1),
    "a uuid": ("''0e37df36-f698-11e6-8dd4-cb9ced3df976''::uuid", "select uuid_send($r.v) is not null as v", True),
    "a date": ("date ''2026-05-01''", "select $r.v + 1 as v", "2026-05-02"),
    "a timestamptz": (
        "timestamptz ''2026-05-01 12:00+02''",
        "select extract(hour from $r.v)::int as v",
        10,
    ),
    "a timestamp": ("timestamp ''2026-05-01 12:00''", "select date_trunc(''day'', $r.v)::date as v", "2026-05-01"),
    "an interval": ("interval ''26 hours''", "select extract(hour from $r.v)::int as v", 26),
    "twice an interval": ("interval ''26 hours''", "select extract(hour from 2 * $r.v)::int as v", 52),
    "bytea": ("''\\xdead''::bytea", "select length($r.v) as v", 2),
    "an enum": ("''calm''::mood", "select enum_first($r.v)::text as v", "calm"),
    "a domain": ("5::positive", "select pg_typeof($r.v)::text as v", "positive"),
    "a range": ("int4range(1, 5)", "select upper($r.v) as v", 5),
    "an inet": ("inet ''10.0.0.1/8''", "select masklen($r.v) as v", 8),
    "bits": ("b''101''", "select length($r.v) as v", 3),
    "char(3)": ("''ab''::char(3)", "select $r.v || ''c'' as v", "ab c"),
    "a time": ("time ''10:30''", "select extract(minute from $r.v)::int as v", 30),
    "a first column": ("array[1, 2]", "select cardinality($r) as v", 2),
    "an optional one": ("date ''2026-05-01''", "select $r.v? + 1 as v", "2026-05-02"),
    "an optional NULL": ("null::date", "select $r.v?::date + 1 as v", None),
    "not a number": ("''NaN''::float8", "select $r.v > 1 as v", True),
    "an integer": ("7", "select $r.v / 2 as v", 3),
    "a negative number": ("-7", "select 1 -$r.v as v", 8),
    "a boolean": ("true", "select not $r.v as v", False),
    "a text as a type": ("''5''::text", "select $r.v + 1 as v", 6),
    "a text": ("''it''''s''::text", "select $r.v || ''!'' as v", "it's!"),
    "json": ("''{\"a\": [1, 2]}''::jsonb", "select $r.v::jsonb -> ''a'' -> 1 as v", 2),
    "a date in a literal": ("date ''2026-05-01''", "select ''on $r.v!'' as v", "on 2026-05-01!"),
    "an array in a literal": ("array[1, 2]", "select ''$r.v'' as v", "[1, 2]"),
    "a uuid in a body": (
        "''0e37df36-f698-11e6-8dd4-cb9ced3df976''::uuid",
        "select position(''::pg_catalog.uuid'' in $$ $r.v $$) > 0 as v",
        True,
    ),
    "an array after a literal with escapes": ("array[1]", "select E''a''\n || $r.v[1] as v", "a1"),
    "a composite read as it says": (
        "row(1, ''x'')::pair",
        "select (jsonb_populate_record(null::pair, $r.v)).b as v",
        "x",
    ),
}


@pytest.fixture
def typed(pump: Pump) -> Pump:
    pump.db.sql(
        "create type mood as enum ('calm', 'loud'); create domain positive as int check (value > 0); "
        "create type pair as (a int, b text)"
    )
    return pump


@pytest.mark.parametrize("use", USES)
def test_a_value_has_the_type_of_its_column(typed: Pump, use: str) -> None:
    expression, text, value = USES[use]
    done = typed.run(f"('select {expression} as v' |=> 'r') ~> '{text}'")
    assert done.error == ""
    assert done.result["rows"] == [{"v": value}]


@pytest.mark.parametrize(
    "text", ["select ($r.p::pair).a", "insert into pairs values ($r.p)", "select a from $r.* where p = $r.p::pair"]
)
def test_a_composite_that_is_refused_says_how_it_is_read(typed: Pump, text: str) -> None:
    typed.db.sql("create table pairs (p pair)")
    done = typed.run(f"('select row(1, ''x'')::pair as p, 1 as a' |=> 'r') ~> '{text}'")
    assert "malformed record literal" in done.error
    assert "SQLSTATE 22P02" in done.error
    assert "jsonb_populate_record" in done.error


@pytest.mark.usefixtures("worker")
def test_in_another_database(db: Database) -> None:
    flow = (
        "('select array[1, 2] as ids, current_date as d' |=> 'r') ~> "
        "'insert into scratch select $r.d - current_date, 2 = any ($r.ids)'"
    )
    run_id = start(db, flow.replace("insert into scratch ", ""), database="postgres")
    assert await_end(db, run_id) == "completed", error(db, run_id)
