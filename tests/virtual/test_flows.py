"""What a flow does in df.test: each construct comes to the end that it comes to with a worker."""

import re
from typing import Any

import psycopg
import pytest

from tests.support import Database

Rows = list[tuple[Any, ...]]


def run(db: Database, flow: str, rest: str = "") -> Rows:
    """What df.test shows of a flow, given as an SQL expression: node, status, value, error; the run last."""
    return db.rows(f"select node, status, value, error from df.test({flow}{rest})")


def values(rows: Rows) -> list[Any]:
    """The first value of each step that has returned a row."""
    return [next(iter(value["rows"][0].values())) for _, _, value, _ in rows[:-1] if value and value.get("rows")]


def test_a_chain_with_names(granted: Database) -> None:
    flow = "'select 1 as a' |=> 'one' ~> 'select $one.a + 1 as b' |=> 'two' ~> 'select $two + $input.c as c'"
    rows = run(granted, flow, """, '{"c": 4}'""")
    assert [row[0] for row in rows] == ["one", "two", "root.right", None]
    assert values(rows) == [1, 2, 6]
    assert rows[-1][1:] == ("completed", {"rows": [{"c": 6}], "row_count": 1}, None)


def test_a_failure(granted: Database) -> None:
    rows = run(granted, "'insert into fx (t) values (''first'')' ~> 'select 1/0' ~> 'select 2'")
    assert [row[1] for row in rows] == ["completed", "failed", "failed"]
    assert "division by zero" in rows[-1][3]
    assert granted.rows("select t from fx") == [("first",)]


def test_if_and_loop(granted: Database) -> None:
    granted.sql("create sequence s")
    assert values(run(granted, "df.if('select false', 'select 1', 'select 2')"))[-1] == 2
    rows = run(granted, "df.loop('select nextval(''s'') as n' |=> 'n', 'select $n < 3')")
    assert [v for v in values(rows) if not isinstance(v, bool)] == [1, 2, 3]
    assert rows[-1][1] == "completed"


def test_join_race_any_and_map(granted: Database) -> None:
    rows = run(granted, "df.join('select 1' ~> 'select 2', 'select 3')")
    assert values(rows) == [1, 2, 3]
    rows = run(granted, "df.race(df.sleep(10) ~> 'select 1 as w', df.sleep(5) ~> 'select 2 as w')")
    assert values(rows) == [2]
    rows = run(granted, "df.any('select 1/0', df.sleep(1) ~> 'select 7')")
    assert values(rows) == [7]
    items = "select g as x from generate_series(1, 4) g"
    rows = run(granted, f"df.map('{items}', 'select $item.x * 10 as y', parallel => 2)")
    assert sorted(values(rows)[1:]) == [10, 20, 30, 40]
    assert rows[-1][1] == "completed"


def test_catch_undo_timeout(granted: Database) -> None:
    rows = run(granted, "df.catch('select 1/0', 'select $error.sqlstate as code')")
    assert values(rows) == ["22012"]
    did, undid = ("insert into fx (t) values (''did'')", "insert into fx (t) values (''undid'')")
    rows = run(granted, f"df.undo('{did}', '{undid}') ~> 'select 1/0'")
    assert rows[-1][1] == "failed"
    assert granted.rows("select t from fx order by ctid") == [("did",), ("undid",)]
    rows = run(granted, "df.timeout(df.sleep(3600), 60, 'select ''late''')")
    assert values(rows) == ["late"]
    assert "timeout after 60 s" in run(granted, "df.timeout(df.sleep(3600), 60)")[-1][3]


def test_a_retry(granted: Database) -> None:
    granted.sql("create sequence s")
    flow = "df.retry('select 1 / (nextval(''s'') / 3) as x', max_attempts => 3, initial_delay => '1 hour')"
    rows = run(granted, flow)
    assert [row[1] for row in rows] == ["failed", "failed", "completed", "completed"]


def test_time_is_virtual(granted: Database) -> None:
    rows = granted.rows(
        "select at, node, status, value from df.test(df.sleep('2 days') "
        "~> 'select df.now() - clock_timestamp() as ahead' ~> df.wait_for_schedule('0 0 1 * *') ~> df.sleep(60))"
    )
    assert rows[0][0].days == 2
    assert rows[1][3]["rows"][0]["ahead"].startswith("2 days") or "1 day 23:59" in rows[1][3]["rows"][0]["ahead"]
    assert rows[3][0].total_seconds() == rows[2][0].total_seconds() + 60
    assert abs(granted.sql("select extract(epoch from df.now() - clock_timestamp())")) < 10


def test_wait_for(granted: Database) -> None:
    late = "select df.now() > $s::timestamptz + interval ''1 hour''"
    flow = f"'select df.now() as since' |=> 's' ~> df.wait_for('{late}', every => '10 minutes')"
    rows = run(granted, flow)
    assert rows[-1][1] == "completed"
    assert len(rows) > 6
    rows = run(granted, "df.wait_for('select false', every => '1 hour', timeout => '3 hours')")
    assert rows[-1][2]["timed_out"] is True


def test_signals(granted: Database) -> None:
    flow = "df.wait_for_signal('approve') |=> 'a' ~> 'select $a.data.ok as ok'"
    rows = run(granted, flow, """, mocks => '{"signals": {"approve": {"ok": true}}}'""")
    assert values(rows) == [True]
    rows = run(granted, f"df.join({flow}, 'select 1/0')", """, mocks => '{"signals": {"approve": {"ok": true}}}'""")
    assert "branch 2 failed" in rows[-1][3]
    with pytest.raises(psycopg.Error, match=r'waits for signal "approve" \(a\)') as refused:
        run(granted, flow)
    assert refused.value.sqlstate == "DF502"
    with pytest.raises(psycopg.Error, match=r"root.right has failed: .* division by zero"):
        run(granted, f"df.join({flow}, 'select 1/0')")
    rows = run(granted, "df.wait_for_signal('approve', 60) |=> 'a'")
    assert rows[0][2]["timed_out"] is True
    flow = "df.wait_for_signal('s', 9) |=> 'a' ~> df.wait_for_signal('s', 9) |=> 'b' ~> df.wait_for_signal('s', 9)"
    rows = run(granted, flow, """, mocks => '{"signals": {"s": [1, 2]}}'""")
    assert [row[2]["data"] for row in rows[:3]] == [1, 2, None]


def test_a_step_signals_its_run(granted: Database) -> None:
    flow = "df.join(df.wait_for_signal('s') |=> 'got', 'select df.signal(''{sys_instance_id}'', ''s'', ''7'')')"
    rows = run(granted, flow)
    assert rows[-1][1] == "completed"
    assert next(row for row in rows if row[0] == "got")[2]["data"] == 7


def test_http(granted: Database) -> None:
    flow = "df.http('https://api.github.com/a', 'GET') |=> 'r' ~> 'select $r.status as status'"
    mocks = """, mocks => '{"http": {"https://api.github.com/*": {"status": 404, "body": {"no": 1}}}}'"""
    rows = run(granted, flow, mocks)
    assert values(rows) == [404]
    mocks = """, mocks => '{"http": {"https://api.github.com/*": [{"status": 503}, {"status": 200}]}}'"""
    rows = run(granted, "df.retry(df.http('https://api.github.com/a', 'GET'), max_attempts => 2)", mocks)
    assert [row[1] for row in rows] == ["failed", "completed", "completed"]
    rows = run(granted, flow)
    assert "no mock answers GET https://api.github.com/a" in rows[-1][3]
    rows = run(granted, "df.catch(df.http('https://api.github.com/a', 'GET'), 'select $error.sqlstate as code')")
    assert values(rows) == ["DF501"]


def test_mocks_of_steps(granted: Database) -> None:
    flow = "'insert into fx (t) values (''no'') returning 1 as id' |=> 'charge' ~> 'select $charge.id as id'"
    assert values(run(granted, flow, """, mocks => '{"steps": {"charge": {"id": 7}}}'""")) == [7, 7]
    assert values(run(granted, flow, """, mocks => '{"steps": {"root.left": [{"id": 8}, {"id": 9}]}}'""")) == [8, 8]
    assert granted.rows("select t from fx") == []
    twice = """{"error": "no money", "sqlstate": "40001", "times": 2}"""
    rows = run(granted, flow, f""", mocks => '{{"steps": {{"charge": {twice}}}}}'""")
    assert [row[1] for row in rows] == ["failed", "failed", "completed", "completed", "completed"]
    assert "no money" in rows[0][3]
    rows = run(granted, flow, """, mocks => '{"steps": {"charge": {"error": "no money"}}}'""")
    assert rows[-1][1] == "failed"
    with pytest.raises(psycopg.errors.InvalidParameterValue, match='no step "chrage"'):
        run(granted, flow, """, mocks => '{"steps": {"chrage": 1}}'""")


def test_what_cannot_be_in_a_transaction_needs_a_mock(granted: Database) -> None:
    rows = run(granted, "'vacuum fx' |=> 'v'")
    assert rows[-1][1] == "failed"
    assert "df.test cannot run a step outside of its transaction" in rows[-1][3]
    assert run(granted, "'vacuum fx' |=> 'v'", """, mocks => '{"steps": {"v": null}}'""")[-1][1] == "completed"


def test_calls_run_inline(granted: Database) -> None:
    granted.sql("select df.define('child', 'select $input.n * 2 as d' |=> 'double')")
    flow = "df.call('@child', '{\"n\": 21}') |=> 'c' ~> 'select $c.d as d'"
    rows = run(granted, flow)
    assert [row[0] for row in rows] == ["c > double", "c", "root.right", None]
    assert values(rows)[-1] == 42
    assert values(run(granted, flow, """, mocks => '{"steps": {"double": {"d": 5}}}'"""))[-1] == 5
    assert values(run(granted, "'@child'", """, '{"n": 1}'""")) == [2]


def test_a_tie_is_decided_by_the_order_of_the_branches(granted: Database) -> None:
    later = "'select 1' ~> df.sleep(5) ~> 'select 1 as w'"
    assert values(run(granted, f"df.race({later}, df.sleep(5) ~> 'select 2 as w')"))[-1] == 1
    called = f"df.call({later})"
    assert values(run(granted, f"df.race({called}, df.sleep(5) ~> 'select 2 as w')"))[-1] == 1


def test_a_branch_that_ends_at_once_leaves_no_step_of_the_others(granted: Database) -> None:
    rows = run(granted, "df.loop(df.race('insert into fx (i) values (1)', df.break('7')))")
    assert rows[-1][1:3] == ("completed", 7)
    assert granted.rows("select i from fx") == []


def test_a_step_knows_its_name(granted: Database) -> None:
    rows = run(granted, "'select current_setting(''application_name'') as n'")
    assert re.fullmatch("pg_durable:[0-9a-f]{8}:[0-9a-f]{8}", values(rows)[0])


POKED = """df.join(df.wait_for('select exists (select from fx)', '1 hour', 'arrived') ~> 'select df.now() as heard',
  df.sleep(90) ~> 'insert into fx values (1)' ~> 'select df.poke(''elsewhere''), df.poke(''arrived'')')"""


def test_a_poke_is_heard(granted: Database) -> None:
    [(at,)] = granted.rows(f"select at from df.test({POKED}) where query ~ 'heard'")
    assert at.total_seconds() == 90
    assert granted.rows("select current_setting('df_engine.poked', true)") in ([("",)], [(None,)])


def test_a_poke_of_a_step_that_fails_is_not_heard(granted: Database) -> None:
    poke = "df.poke(''arrived'')"
    waits = POKED.replace("df.sleep(90) ~> 'insert", "df.sleep(90) ~> df.catch('insert").replace(
        f" ~> 'select df.poke(''elsewhere''), {poke}')", f" ~> 'select {poke}, 1 / (i - 1) from fx', 'select 3'))"
    )
    [(at,)] = granted.rows(f"select at from df.test({waits}) where query ~ 'heard'")
    assert at.total_seconds() == 3600
