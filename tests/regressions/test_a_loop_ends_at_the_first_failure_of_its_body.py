"""A loop with continue_on_failure records that its body has failed, and goes on; what is fatal all the same."""

import json
from typing import Any

import psycopg
import pytest

from tests.support import Database, wait_until
from tests.worker.conftest import spawn, worker  # noqa: F401 - fixtures
from tests.worker.process import await_end, error, status

PREPARE = """
create table tried (n int generated always as identity, at timestamptz default clock_timestamp(), what text);
create sequence tries;
create function attempt(fails int) returns int language plpgsql as $$
declare v int := nextval('tries');
begin
  if v <= fails then raise exception 'no luck at %', v using errcode = 'P0001'; end if;
  return v;
end $$;
"""


@pytest.fixture
def home(db: Database, request: pytest.FixtureRequest) -> Database:
    """A database with a worker and short pauses; attempt(n) fails the first n times."""
    db.sql(PREPARE)
    db.admin("select df.set_setting('loop_min_interval', '0.01')")
    request.getfixturevalue("worker")
    return db


def loop(body: str, condition: str | None = None) -> str:
    return f"df.loop({body}, {condition or 'null'}, continue_on_failure => true)"


def start(db: Database, flow: str) -> str:
    return str(db.sql(f"select df.start({flow})"))


def completed(db: Database, flow: str) -> Any:
    run = start(db, flow)
    assert await_end(db, run, 40) == "completed", error(db, run)
    return json.loads(db.sql("select df.result(%s)", run))


def failed(db: Database, flow: str) -> str:
    run = start(db, flow)
    assert await_end(db, run, 40) == "failed"
    return error(db, run)


GO_ON = [
    loop("'select attempt(3) as n'", "'select false'"),
    loop("'select 1' ~> 'select attempt(3) as n' ~> 'select currval(''tries'') as n'", "'select false'"),
    loop("'select 0' & 'select attempt(3) as n'", "'select false'"),
    loop("df.race('select attempt(3) as n', df.wait_for_signal('never'))", "'select false'"),
    loop("df.if('select attempt(3) > 0', 'select 4 as n', 'select 0')", "'select false'"),
    loop("'select attempt(3) as n' ~> df.break('{\"n\": 4}')"),
    loop("df.loop('select attempt(3) as n', 'select false')", "'select false'"),
    loop("df.loop('select 4 as n', 'select attempt(3) is null')", "'select false'"),
    "'select 1' ~> " + loop("'select attempt(3) as n'", "'select false'"),
    "('select 1' & " + loop("'select attempt(3) as n'", "'select false'") + ")",
    loop("df.retry('select attempt(3) as n', 2, '0', retry_on => '{P0001}')", "'select false'"),
]


@pytest.mark.parametrize("flow", GO_ON)
def test_it_goes_on_until_the_body_succeeds(home: Database, flow: str) -> None:
    result = completed(home, flow)
    assert "4" in json.dumps(result)
    assert home.sql("select last_value from tries") == 4


def test_the_condition_is_not_asked_after_a_failure(home: Database) -> None:
    home.sql("create sequence asked")
    completed(home, loop("'select attempt(3)'", "'select nextval(''asked'') < 0'"))
    assert home.sql("select last_value from asked") == 1


def test_effects_of_steps_that_completed_stay(home: Database) -> None:
    before, after = (f"'insert into tried (what) values (''{what}'')'" for what in ("before", "after"))
    body = f"{before} ~> 'select attempt(2)' ~> {after}"
    completed(home, loop(body, "'select false'"))
    assert home.rows("select what, count(*) from tried group by what order by what") == [("after", 1), ("before", 3)]


def test_names_of_an_inner_loop_stay(home: Database) -> None:
    body = "'select coalesce($n.v?, 0) + 1 as v' |=> 'n' ~> 'select attempt(3)'"
    flow = "'select 0' ~> " + loop(body, "'select false'") + " ~> 'select $n.v as v'"
    assert completed(home, flow)["rows"] == [{"v": 4}]


FATAL = [
    (loop("'select 1'", "'select attempt(9)'"), "no luck at 1"),
    (loop("'select 1'", "df.map('select 1', 'select attempt(9)') ~> 'select false'"), "no luck at 1"),
    (loop("'select $nope'"), "no node binds the name"),
    (loop("'select 1' ~> ('select $nope' & 'select 2')"), "no node binds the name"),
    (loop("df.race('select $nope', df.wait_for_signal('never'))"), "no node binds the name"),
    (loop(loop("'select $nope'", "'select false'"), "'select false'"), "no node binds the name"),
    ("df.loop('select attempt(9)')", "no luck at 1"),
    ("df.loop('select attempt(9)', continue_on_failure => false)", "no luck at 1"),
]


@pytest.mark.parametrize(("flow", "says"), FATAL)
def test_what_is_fatal_all_the_same(home: Database, flow: str, says: str) -> None:
    assert says in failed(home, flow)


def test_a_reference_without_a_value_is_no_unknown_one(home: Database) -> None:
    body = "df.if('select attempt(0) > 2', 'select 5 as n' |=> 'n', 'select 0') ~> 'select $n.n as n'"
    assert completed(home, loop(body, "'select false'"))["rows"] == [{"n": 5}]


def test_failures_are_shown_while_it_goes_on(home: Database) -> None:
    home.admin("select df.set_setting('loop_min_interval', '1')")
    run = start(home, loop("'select attempt(1000)'"))
    query = "select error from df.nodes where instance_id = %s and node_type = 'LOOP' and status = 'running'"
    wait_until(lambda: "no luck at 2" in (home.sql(query, run) or ""), 40)
    assert status(home, run) == "running"
    outputs = home.rows("select status, output from df.instance_executions(%s) order by execution_id", run)
    assert outputs[0][0] == "ContinuedAsNew"
    assert "no luck at 1" in outputs[0][1]
    waits = "select waits_for from df.waiting where instance_id = %s"
    wait_until(lambda: "no luck" in (home.sql(waits, run) or ""), 40)
    home.sql("select df.cancel(%s)", run)
    assert await_end(home, run) == "cancelled"


def test_there_is_a_pause_after_each_failure_which_is_doubled(home: Database) -> None:
    home.admin("select df.set_setting('loop_min_interval', '0.2')")
    home.sql("create function note() returns void language sql as $$ insert into tried default values $$")
    completed(home, loop("'select note()' ~> 'select attempt(3)'", "'select false'"))
    gaps = home.sql(
        "select array_agg(extract(epoch from g)::float order by n) "
        "from (select n, at - lag(at) over (order by n) as g from tried) t where g is not null"
    )
    assert len(gaps) == 3
    assert all(gap >= least for gap, least in zip(gaps, [0.2, 0.4, 0.8], strict=True))


ENVELOPE = (
    '{"node_type":"LOOP","left_node":{"node_type":"SQL","query":"a"},"condition_node":{"node_type":"SQL","query":"b"},'
    '"query":"{\\"continue_on_failure\\":true}"}'
)
WRITTEN = [
    "df.loop('a', 'b', true)",
    "df.flow($$loop('a', 'b', true)$$)",
    "df.flow($$loop('a', while => 'b', continue_on_failure => true)$$)",
    "df.flow($$df.loop(continue_on_failure => TRUE, condition => 'b', body => 'a')$$)",
    "df.flow(df.to_flow(df.loop('a', 'b', true)))",
]


@pytest.mark.parametrize("written", WRITTEN)
def test_all_forms_mean_the_same(shared: Database, written: str) -> None:
    assert shared.sql(f"select {written}") == ENVELOPE


def test_to_flow_and_explain_show_it(shared: Database) -> None:
    assert (
        shared.sql("select df.to_flow(df.loop('a', continue_on_failure => true))")
        == "loop('a', continue_on_failure => true)"
    )
    assert shared.sql("select df.to_flow(df.loop('a'))") == "@> 'a'"
    assert "continues on failure" in shared.sql("select df.explain(df.loop('a', 'b', true))")
    assert "continues" not in shared.sql("select df.explain(df.loop('a', 'b'))")


def test_an_envelope_must_say_true_or_false(shared: Database) -> None:
    for value in ('"yes"', "1", "[]"):
        text = ENVELOPE.replace("true", value.replace('"', '\\\\\\"').replace("\\\\\\", "\\"))
        with pytest.raises(
            psycopg.errors.InvalidTextRepresentation, match="continue_on_failure in LOOP must be true or false"
        ):
            shared.sql("select df.start(%s)", text)


def test_there_is_one_df_loop(shared: Database) -> None:
    query = (
        "select array_agg(pg_get_function_identity_arguments(oid)) from pg_proc where oid::regproc::text = 'df.loop'"
    )
    assert shared.sql(query) == ["body text, condition text, continue_on_failure boolean"]
