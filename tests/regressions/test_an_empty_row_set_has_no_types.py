"""$n.* has the PostgreSQL types of the columns, also without rows and where all values are NULL."""

import pytest

from tests.support import Database, Pump
from tests.worker.process import await_end, error, start

COLUMNS = (
    "1::int as i, 2::bigint as b, 3::smallint as s, 1.5::numeric as n, 2.5::float8 as f, true as ok, 'x'::text as t, "
    "'y'::varchar(5) as v, 'zz'::char(3) as c, '2026-05-01'::date as d, '2026-05-01 12:00+00'::timestamptz as at, "
    "'1 day'::interval as p, gen_random_uuid() as u, '\\xdead'::bytea as raw, array[1, 2]::int[] as ids, "
    "array['a', 'b,c', null] as names, '{\"a\": 1}'::jsonb as j, int4range(1, 5) as r, inet '10.0.0.1' as ip, "
    "'calm'::mood as m, 5::positive as k, row(1, 'x')::pair as pr, b'101' as bits, -5 as neg"
)
NULLS = ", ".join(f"null::{kind} as {name}" for name, kind in {
    "i": "int", "b": "bigint", "s": "smallint", "n": "numeric", "f": "float8", "ok": "boolean", "t": "text",
    "v": "varchar", "c": "bpchar", "d": "date", "at": "timestamptz", "p": "interval", "u": "uuid", "raw": "bytea",
    "ids": "int[]", "names": "text[]", "j": "jsonb", "r": "int4range", "ip": "inet", "m": "mood", "k": "positive",
    "pr": "pair", "bits": "bit(3)", "neg": "int",
}.items())  # fmt: skip
SOURCES = {
    "rows": f"select {COLUMNS}",
    "two rows": f"select {COLUMNS} union all select {NULLS}",
    "two rows, the first NULL": f"select {NULLS} union all select {COLUMNS}",
    "NULL": f"select {NULLS}",
    "nothing": f"select {COLUMNS} where false",
    "nothing after a comment": f"-- c\nselect {COLUMNS} where false;",
    "nothing of a table": "select * from kinds where false",
    "nothing of WITH": f"with x as (select {COLUMNS}) select * from x where false",
}
USES = {
    "INSERT SELECT": "insert into kinds select * from $r.*",
    "a sum": "select sum(i) + sum(b) + sum(s) + sum(n) as v from $r.*",
    "a join": "select count(*) as v from $r.* join kinds on kinds.b = r.b and kinds.u = r.u",
    "a boolean WHERE": "select count(*) as v from $r.* where ok",
    "UPDATE FROM": "update kinds set d = r.d, ids = r.ids, m = r.m from $r.* where kinds.i = r.i",
    "date arithmetic": "select max(d + 1) as v, max(at - p) as w from $r.*",
    "an array": "select count(*) as v from $r.* where 1 = any (ids) and ''a'' = any (names)",
    "JSON": "select max(j ->> ''a'') as v from $r.*",
    "a range": "select count(*) as v from $r.* where r @> 2",
    "UNION": "select i, d, k from kinds union all select i, d, k from $r.*",
    "the types": "insert into checked select pg_typeof(s)::text, pg_typeof(k)::text, pg_typeof(ids)::text, "
                 "pg_typeof(c)::text, pg_typeof(pr)::text, pg_typeof(bits)::text "
                 "from (select) d left join $r.* on true",
}  # fmt: skip


@pytest.fixture
def kinds(pump: Pump) -> Pump:
    pump.db.sql(
        "create type mood as enum ('calm', 'loud'); create type pair as (a int, b text); "
        "create domain positive as int check (value > 0)"
    )
    pump.db.sql(
        f"create table kinds as select {COLUMNS} limit 0; "
        "create table checked (a text, b text, c text, d text, e text, f text)"
    )
    return pump


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("use", USES)
def test_types_are_kept(kinds: Pump, source: str, use: str) -> None:
    query = kinds.db.sql("select quote_literal(%s)", SOURCES[source])
    done = kinds.run(f"({query} |=> 'r') ~> '{USES[use]}'")
    assert done.error == ""
    if use == "the types":
        assert kinds.db.rows("select distinct * from checked") == [
            ("smallint", "positive", "integer[]", "character", "pair", "bit")
        ]
    if use == "INSERT SELECT" and source.startswith("two rows"):
        assert kinds.db.rows(f"select {COLUMNS} except all select * from kinds where i is not null") != []
        assert kinds.db.rows("select ids, names, d::text, k, (pr).b, bits::text from kinds where i is not null") == [
            ([1, 2], ["a", "b,c", None], "2026-05-01", 5, "x", "101")
        ]


CARRIERS = {
    "a sequence": "('select 1' ~> {q}) |=> 'r'",
    "an IF": "('select true' ?> {q} !> 'select 2 as d') |=> 'r'",
    "a loop": "df.loop({q}, 'select false') |=> 'r'",
    "a loop that breaks a sequence": "df.loop('select 1' ~> {q}, 'select false') |=> 'r'",
    "a race": "({q} | df.sleep(60)) |=> 'r'",
    "a branch": "(({q} |=> 'r') & 'select 1')",
    "a variable's text": "({q} |=> 'r')",
}


@pytest.mark.parametrize("carrier", CARRIERS)
def test_types_reach_a_name_with_the_value(pump: Pump, carrier: str) -> None:
    pump.db.sql("select df.setvar('rows', '$r.*')")
    flow = CARRIERS[carrier].format(q="'select current_date as d where false'")
    source = "{rows}" if carrier == "a variable's text" else "$r.*"
    done = pump.run(f"({flow}) ~> 'select max(d + 1) as v from {source}'")
    assert done.error == ""
    assert done.result["rows"] == [{"v": None}]


@pytest.mark.parametrize(
    "statement",
    [
        "insert into fx select 1 where false returning current_date as d",
        "update fx set i = 1 where false returning current_date as d",
        "delete from fx where false returning current_date as d",
        "with x as (delete from fx where false returning current_date as d) select d from x",
        "insert into fx values (1) returning null::date as d",
    ],
)
def test_types_of_statements_that_write(pump: Pump, statement: str) -> None:
    if int(pump.db.sql("show server_version_num")) < 160000:
        pytest.skip("before PostgreSQL 16 nothing says them")
    done = pump.run(f"('{statement}' |=> 'r') ~> 'select max(d + 1) as v from $r.*'")
    assert done.error == ""
    assert done.result["rows"] == [{"v": None}]


def test_types_mean_the_same_under_another_search_path(pump: Pump) -> None:
    pump.db.sql("create type mood as enum ('calm')")
    pump.db.admin(
        f"create schema decoy authorization app; alter role app in database {pump.db.name} set search_path = public"
    )
    pump.db.sql("create domain decoy.mood as int; create domain decoy.date as text")
    done = pump.run(
        "('select ''calm''::mood as m, current_date as d where false' |=> 'r') ~> "
        "'do $x$ begin set local search_path = decoy, public, pg_catalog; "
        "perform max(d + 1), max(m::text) from $r.*; perform 1; end $x$'"
    )
    assert done.error == ""


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(
    "query",
    ["select current_date as d where false", "select null::date as d", "-- c\nselect current_date as d where false"],
)
def test_in_another_database(db: Database, query: str) -> None:
    literal = db.sql("select quote_literal(%s)", query)
    run_id = start(db, f"({literal} |=> 'r') ~> 'select max(d + 1) as v from $r.*'", database="postgres")
    assert await_end(db, run_id) == "completed", error(db, run_id)
