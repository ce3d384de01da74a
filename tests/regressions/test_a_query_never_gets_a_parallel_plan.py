"""A query runs with the plan that psql gets: the server's own log of plans shows a parallel one."""

from collections.abc import Iterator

import psycopg
import pytest

from tests.support import Pump

PARALLEL = {
    "parallel_setup_cost": "0",
    "parallel_tuple_cost": "0",
    "min_parallel_table_scan_size": "0",
    "max_parallel_workers_per_gather": "2",
    "parallel_leader_participation": "off",
}


@pytest.fixture
def many(pump: Pump) -> Iterator[Pump]:
    pump.db.sql("create table many as select i, i % 7 as k from generate_series(1, 20000) i")
    pump.db.sql("analyze many")
    for name, value in PARALLEL.items():
        pump.db.admin(f"alter database {pump.db.name} set {name} = '{value}'")
    another = Pump(pump.db)
    yield another
    another.close()


QUERIES = [
    "select {pid} as p from many limit 1",
    "select {pid} as p, count(*) from many group by p order by p;",
    "-- c\nwith x as (select {pid} as p from many) select p from x",
    "select {pid} as p, i from many where mod(i, 1000) = 0 order by i desc",
]


@pytest.mark.parametrize("query", QUERIES)
def test_other_processes_read_the_table(many: Pump, query: str) -> None:
    many.db.sql(
        "create function pid() returns int language plpgsql parallel safe as 'begin return pg_backend_pid(); end'"
    )
    done = many.run(many.db.sql("select quote_literal(%s)", query.format(pid="pid()")))
    assert done.error == ""
    assert done.result["rows"][0]["p"] != many.session.info.backend_pid


def test_the_log_of_plans_shows_a_gather(many: Pump) -> None:
    if not many.db.admin("select exists (select from pg_available_extensions where name = 'pg_stat_statements')"):
        pytest.skip("this server has no auto_explain")
    said: list[str] = []
    for setting in ("log_min_duration = 0", "log_nested_statements = on", "log_level = 'notice'"):
        many.db.admin(f"alter role app in database {many.db.name} set auto_explain.{setting}")
    many.db.admin(f"alter role app in database {many.db.name} set session_preload_libraries = 'auto_explain'")
    pump = Pump(many.db)
    pump.session.add_notice_handler(lambda notice: said.append(notice.message_primary or ""))
    pump.run("'select k, count(*) from many group by k order by k'")
    pump.close()
    assert "Gather" in "".join(text for text in said if "from many" in text)


def test_the_order_of_a_parallel_query_is_kept(many: Pump) -> None:
    done = many.run("'select i from many where mod(i, 1000) = 0 order by i desc'")
    assert [row["i"] for row in done.result["rows"]] == list(range(20000, 0, -1000))


SHAPES: dict[str, list[dict[str, object]] | None] = {
    "select 1 as a order by 1": [{"a": 1}],
    "values (2), (1) order by 1": [{"column1": 1}, {"column1": 2}],
    "table fx": [{"i": 1, "t": "x"}],
    "(select 1 as a) union all (select 2) order by a desc": [{"a": 2}, {"a": 1}],
    "select generate_series(1, 2) as g": [{"g": 1}, {"g": 2}],
    "select": [{}],
    "select from generate_series(1, 3)": [{}, {}, {}],
    "select fx from fx": [{"fx": {"i": 1, "t": "x"}}],
    "select q from (values (1)) q(q)": [{"q": 1}],
    "select row(1, 2) as r": [{"r": {"f1": 1, "f2": 2}}],
    "select i from fx for update": [{"i": 1}],
    "select 'x' as unknown, null as nothing": [{"unknown": "x", "nothing": None}],
    "select pg_notify('a', 'b') as void": [{"void": ""}],
    "select ') q' as a --)": [{"a": ") q"}],
    "with x as (insert into fx values (2) returning i) select * from x": [{"i": 2}],
    "with x as (select 'insert into' as a) select a from x": [{"a": "insert into"}],
    "update fx set i = 3 returning i": [{"i": 3}],
    "show server_encoding": [{"server_encoding": "UTF8"}],
    "execute nothing_prepared": None,
    "select 1) a, (select 2 as b": None,
    "select 1 +": None,
    "select (1": None,
    "select 1; select 2": None,
    "select nope from fx": None,
    "select 1 /* open": None,
    "select 'open": None,
}


@pytest.mark.parametrize("query", SHAPES)
def test_a_step_gives_what_psql_gives(pump: Pump, query: str) -> None:
    pump.db.sql("insert into fx values (1, 'x')")
    done = pump.run(pump.db.sql("select quote_literal(%s)", query))
    expected = SHAPES[query]
    if expected is not None:
        assert done.error == ""
        assert done.result == {"rows": expected, "row_count": len(expected)}
    elif ";" not in query:
        with pytest.raises(psycopg.Error) as plain:
            pump.db.sql(query)
        assert plain.value.diag.message_primary is not None
        assert f"{plain.value.diag.message_primary} (SQLSTATE {plain.value.sqlstate})" in done.error


def test_a_call_returns_what_its_parameters_hold(pump: Pump) -> None:
    pump.db.sql("create procedure twice(inout a int, out b text) language plpgsql as 'begin a := a * 2; b := a; end'")
    pump.db.sql("create procedure quiet(a int) language plpgsql as 'begin insert into fx values (a); end'")
    assert pump.run("'call twice(4, null)'").result["rows"] == [{"a": 8, "b": "8"}]
    assert pump.run("'-- c\ncall quiet(4)'").result == {"rows": [], "row_count": 0}
    assert pump.db.sql("select count(*) from fx") == 1
