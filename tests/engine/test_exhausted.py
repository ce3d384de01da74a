"""df.retry(..., exhausted => 'pause'): a step whose attempts are used up pauses its run; df.resume tries again."""

import json
from typing import Any

import psycopg
import pytest

from tests.engine.test_pause import A, B, in_a_step, notes, resume, stands_still
from tests.engine.test_resume import broken
from tests.state import ATTEMPTS_IN_ORDER
from tests.support import Pump, Run

POLICY = "max_attempts => 2, initial_delay => '0', exhausted => 'pause'"


def reason(run: Run) -> str | None:
    text = run.db.sql("select wait_reason from df.instances where id = %s", run.id)
    return None if text is None else str(text)


def attempts(run: Run) -> list[int]:
    return [attempt for attempt, _ in run.db.rows(ATTEMPTS_IN_ORDER, user=None)]


def lease(pump: Pump, outcome: dict[str, Any]) -> None:
    """Leases the one step that there is for a worker, and says what came of it."""
    query = "select ticket from df_engine.claim_leased(%s, 'direct', 10)"
    [(ticket,)] = pump.supervisor.execute(query, [pump.worker]).fetchall()
    query = "select df_engine.complete_leased(%s, %s, %s)"
    assert pump.supervisor.execute(query, [pump.worker, ticket, json.dumps(outcome)]).fetchone() == (True,)


def paused(pump: Pump, flow: str) -> Run:
    run = pump.start(flow)
    pump.until(lambda: reason(run))
    return run


@pytest.mark.parametrize(
    "flow",
    [
        f"df.retry({A}, {POLICY}) ~> {B}",
        f"df.catch(df.retry({A}, {POLICY}), 'select 1 / 0') ~> {B}",
        f"(df.retry({A}, {POLICY}) & 'select 1') ~> {B}",
        f"df.loop(df.retry({A}, {POLICY}) ~> df.break()) ~> {B}",
        f"df.map('select 1 as x', df.retry({A}, {POLICY})) ~> {B}",
        f"df.race(df.retry({A}, {POLICY}), df.wait_for_signal('x')) ~> {B}",
        f"df.retry(df.block('select 1', {A}), {POLICY}) ~> {B}",
        f"df.undo(df.retry({A}, {POLICY}), 'select 1') ~> {B}",
    ],
)
def test_the_run_pauses_and_tries_again_with_a_fresh_policy(pump: Pump, flow: str) -> None:
    broken(pump, "a")
    run = paused(pump, flow)
    assert run.status == "running"
    assert (reason(run) or "").startswith("paused at ")
    assert "has failed 2 times, the last time with: SQL execution failed: " in (reason(run) or "")
    assert "a is broken" in (reason(run) or "")
    stands_still(pump, run)
    resume(run)
    pump.until(lambda: reason(run))
    assert attempts(run) == [1, 2, 1, 2]
    broken(pump)
    resume(run)
    pump.until(run.ended)
    assert (run.status, notes(pump.db), reason(run)) == ("completed", ["a", "b"], None)
    assert pump.db.rows("select * from df.check()", user=None) == []


def test_the_reason_names_the_node(pump: Pump) -> None:
    broken(pump, "a")
    run = paused(pump, f"'select 1' ~> df.retry({A}, {POLICY})")
    node = pump.db.sql("select id from df.nodes where instance_id = %s and query like '%%(''a'')%%'", run.id)
    assert f"node {node} has failed" in (reason(run) or "")
    events = pump.db.rows("select event, detail from df.timeline(%s) where event = 'paused'", run.id)
    assert [(event, str(node) in detail) for event, detail in events] == [("paused", True)]
    assert "has failed 2 times" in pump.db.sql("select string_agg(e, '') from df.explain(%s) e", run.id)
    assert pump.db.rows("select kind from df.waiting") == [("paused",)]


def test_a_check_of_a_condition(pump: Pump) -> None:
    pump.db.sql("create table ready (at int)")
    run = paused(
        pump, f"df.retry(df.wait_for('select 1 / count(*) = 1 from ready'), {POLICY.replace('2', '1')}) ~> {B}"
    )
    stands_still(pump, run)
    pump.db.sql("insert into ready values (1)")
    resume(run)
    pump.until(run.ended)
    assert notes(pump.db) == ["b"]


def test_the_setting_is_for_steps_whose_policy_says_nothing(pump: Pump) -> None:
    for name, value in (("exhausted", "pause"), ("max_attempts", "1")):
        pump.db.admin("select df.set_setting(%s, %s)", f"retry_{name}", value)
    busy = "'do $do$ begin raise exception ''busy'' using errcode = ''55P03''; end $do$'"
    assert "has failed once, the last time with: SQL execution failed: busy" in (reason(paused(pump, busy)) or "")
    assert "has failed once" in (reason(paused(pump, "df.retry('select 1 / 0')")) or "")
    assert pump.run("'select 1 / 0'").status == "failed"  # not transient: it has had no attempts to use up
    assert pump.run(f"df.retry({busy}, exhausted => 'fail')").status == "failed"


@pytest.mark.parametrize(
    "error", ["select $x", "do $do$ begin raise exception ''no'' using errcode = ''42501''; end $do$"]
)
def test_what_is_not_tried_again_fails(pump: Pump, error: str) -> None:
    assert pump.run(f"df.retry('{error}', {POLICY}, retry_on => '{{transient}}')").status == "failed"


def test_a_step_outside_of_transactions(pump: Pump) -> None:
    run = pump.start(f"df.retry('vacuum fx', {POLICY.replace('2', '1')}) ~> {B}")
    pump.work()
    lease(pump, {"message": "fx is locked", "sqlstate": "55P03"})
    assert "has failed once, the last time with: SQL execution failed: fx is locked" in (reason(run) or "")
    stands_still(pump, run)
    resume(run)
    pump.work()
    lease(pump, {"rows": [], "row_count": 0, "columns": [], "types": []})
    pump.until(run.ended)
    assert notes(pump.db) == ["b"]


def test_a_branch_beside_it_ends_and_stops(pump: Pump) -> None:
    """Its step is recorded while the run is paused, and what follows waits."""
    flow = f"({A} ~> {B}) & df.retry('select 1 / (count(*) - 1) from broken', {POLICY.replace('2', '1')})"
    broken(pump, "x")
    other = Pump(pump.db)
    run = pump.start(flow)
    pump.session.execute("call df_engine.work(0, false, null)")
    with in_a_step(pump):
        other.work()
        assert reason(run)
    stands_still(pump, run)
    assert notes(pump.db) == ["a"]
    broken(pump)
    resume(run)
    pump.until(run.ended)
    assert (run.status, notes(pump.db)) == ("completed", ["a", "b"])
    other.close()


def test_what_was_paused_is_cancelled_or_skipped(pump: Pump) -> None:
    broken(pump, "a")
    run = paused(pump, f"df.retry({A}, {POLICY}) ~> {B}")
    pump.db.sql(
        "select df.skip(%s, id, '1') from df.nodes where instance_id = %s and query like '%%(''a'')%%'", run.id, run.id
    )
    resume(run)
    pump.until(run.ended)
    assert (run.status, notes(pump.db)) == ("completed", ["b"])
    run = paused(pump, f"df.retry({A}, {POLICY}) ~> {B}")
    pump.db.sql("select df.cancel(%s)", run.id)
    pump.tick()
    assert (run.status, reason(run)) == ("cancelled", None)


@pytest.mark.parametrize("word", ["stop", "", "PAUSE"])
def test_no_other_word(pump: Pump, word: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=r"exhausted must be fail or pause\nHINT:  What"):
        pump.db.sql("select df.retry('select 1', exhausted => %s)", word)
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        pump.db.admin("select df.set_setting('retry_exhausted', %s)", word)
