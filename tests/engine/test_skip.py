"""df.skip: an operator declares a node done with a value, and the run goes on from there."""

import psycopg
import pytest

from tests.engine.test_pause import in_a_step
from tests.engine.test_resume import SIGNALLED, A, B, C, broken, notes, put, sound
from tests.support import Pump, Run

X = put("x")
TWO = "'select g as v from generate_series(1, 2) g'"
USES = "$s$insert into fx (t) values ($n) returning t$s$"


def node(run: Run, like: str = "%", kind: str = "%") -> str:
    """The id of the first node of a run that is of a kind and has such a query."""
    found = run.db.rows(
        "select n.id from df.nodes n where n.instance_id = %s and coalesce(n.query, '') like %s and n.node_type like %s"
        " order by df_engine.node_of(n.instance_id, n.id)",
        run.id, like, kind,
    )  # fmt: skip
    return str(found[0][0])


def skip(run: Run, which: str, value: str | None = "null", scope: str | None = None) -> None:
    assert run.db.sql("select df.skip(%s, %s, %s::jsonb, %s)", run.id, which, value, scope) == "OK"
    sound(run.db)


def finish(pump: Pump, run: Run) -> tuple[str, str]:
    pump.until(run.ended)
    sound(pump.db)
    return run.status, "".join(notes(pump.db))


BROKEN_STEP = [
    (X, ""),
    (f"{A} ~> {X} ~> {B}", "ab"),
    (f"{X} |=> 'n' ~> {USES} ~> {B}", "5b"),
    (f"{A} ~> (({X} |=> 'n' ~> {USES}) & {B}) ~> {C}", "5abc"),
    (f"df.race({A} ~> {X} ~> {B}, {SIGNALLED}) ~> {C}", "abc"),
    (f"df.timeout({A} ~> {X} ~> {B}, '1 hour') ~> {C}", "abc"),
    (f"df.if({X}, {A}, {B})", "a"),
    (f"df.catch({X}, {A}, array['P0001']) ~> {B}", "b"),
    (f"df.catch({A} ~> 'select 1/0', {B} ~> {X} ~> {C})", "abc"),
    (f"df.loop({A} ~> {X} ~> df.break()) ~> {B}", "ab"),
    (f"{A} ~> df.loop({B} ~> {X} ~> df.break()) ~> {C}", "abc"),
    (f"df.loop({A}, {X} ~> 'select false') ~> {B}", "ab"),
    (f"df.map('select 1', {A} ~> {X}) ~> {B}", "ab"),
    (f"df.undo({X}, {A}) ~> {B}", "b"),
    (f"df.undo({X}, {A}) ~> {B} ~> 'select 1/0'", "ab"),
    (f"df.retry({X}, 2, '1 ms') ~> {A}", "a"),
]


@pytest.mark.parametrize(("flow", "left"), BROKEN_STEP)
def test_a_step_that_has_failed_is_done_with_the_value(pump: Pump, flow: str, left: str) -> None:
    broken(pump, "x")
    run = pump.run(flow)
    assert run.status == "failed", run.result
    skip(run, node(run, "%('x')%"), '{"rows": [{"v": 5}], "row_count": 1}')
    assert run.db.sql("select status from df.instances where id = %s", run.id) != "failed"
    assert finish(pump, run) == ("failed" if "1/0'" in flow and "catch" not in flow else "completed", left)


WAITING = [
    (f"{A} ~> {SIGNALLED} ~> {B}", "SIGNAL", "ab"),
    (f"{A} ~> df.wait_for_signal('go', 1000) ~> {B}", "SIGNAL", "ab"),
    (f"({SIGNALLED} |=> 'n') ~> {USES}", "SIGNAL", "5"),
    (f"{A} ~> df.sleep(100000) ~> {B}", "SLEEP", "ab"),
    (f"(({A} ~> {SIGNALLED}) & {B}) ~> {C}", "JOIN", "abc"),
    (f"(({A} ~> {SIGNALLED}) & {B}) ~> {C}", "SIGNAL", "abc"),
    (f"df.race({SIGNALLED}, df.sleep(100000)) ~> {B}", "SLEEP", "b"),
    (f"(df.race({SIGNALLED}, df.sleep(100000)) |=> 'n') ~> {USES}", "RACE", "5"),
    (f"df.any({SIGNALLED}, df.sleep(100000)) ~> {B}", "ANY", "b"),
    (f"df.timeout({A} ~> {SIGNALLED}, '1 hour') ~> {B}", "TIMEOUT", "ab"),
    (f"df.loop({A} ~> {SIGNALLED}) ~> {B}", "LOOP", "ab"),
    (f"{A} ~> df.loop({B} ~> {SIGNALLED}) ~> {C}", "LOOP", "abc"),
    (f"(({A} ~> df.loop({B} ~> {SIGNALLED})) & {C}) ~> 'select 1'", "LOOP", "abc"),
    (f"df.loop({SIGNALLED} ~> {A} ~> df.break()) ~> {B}", "SIGNAL", "ab"),
    (f"df.map('select g from generate_series(1, 3) g', {A} ~> {SIGNALLED}, 2) ~> {B}", "MAP", "aab"),
    (f"df.map('select 1', df.map('select g from generate_series(1, 2) g', {A} ~> {SIGNALLED})) ~> {B}", "MAP", "aab"),
    (f"{A} ~> df.call({B} ~> {SIGNALLED}) ~> {C}", "CALL", "abc"),
    (f"df.wait_for('select false', '1 hour') ~> {B}", "WAIT_FOR", "b"),
    (f"df.undo({A} ~> {SIGNALLED}, {X}) ~> {B}", "SIGNAL", "ab"),
]


@pytest.mark.parametrize("paused", [False, True])
@pytest.mark.parametrize(("flow", "kind", "left"), WAITING)
def test_what_waits_is_done_with_the_value(pump: Pump, flow: str, kind: str, left: str, paused: bool) -> None:
    run = pump.start(flow)
    while pump.work() != "empty" or pump.tick()["roles"]:
        pass
    if paused:
        run.db.sql("select df.pause(%s)", run.id)
    before = len(notes(pump.db))
    skip(run, node(run, kind=kind), "5")
    if paused:
        assert pump.work() == "empty"
        assert len(notes(pump.db)) == before
        run.db.sql("select df.resume(%s)", run.id)
    assert finish(pump, run) == ("completed", left)
    assert pump.db.sql("select count(*) from df.instances where status in ('pending', 'running')") == 0


def test_a_step_that_is_next_is_skipped(pump: Pump) -> None:
    run = pump.start(f"{X} ~> {A} ~> {B}")
    skip(run, node(run, "%('x')%"), "1")
    skip(run, node(run, "%('a')%"), "1")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="is not open"):
        skip(run, node(run, "%('a')%"), "1")
    assert finish(pump, run) == ("completed", "b")


def test_a_step_that_waits_for_its_next_attempt_is_skipped(pump: Pump) -> None:
    broken(pump, "x")
    run = pump.start(f"df.retry({X}, 5, '10 hours') ~> {A}")
    while pump.work() != "empty":
        pass
    skip(run, node(run, "%('x')%"), "1")
    assert finish(pump, run) == ("completed", "a")


def test_an_item_is_named_by_its_number(pump: Pump) -> None:
    run = pump.start(f"df.map({TWO}, df.map({TWO}, {SIGNALLED} ~> {A}))")
    while pump.work() != "empty":
        pass
    which = node(run, kind="SIGNAL")
    with pytest.raises(psycopg.errors.AmbiguousParameter, match="is open 4 times") as refused:
        skip(run, which)
    assert refused.value.diag.message_detail == "It is open in: 1.1, 1.2, 2.1, 2.2"
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=r"not open in scope 2\.3"):
        skip(run, which, scope="2.3")
    for scope in ("2.1", "1.2", "1.1", "2.2"):
        skip(run, which, scope=scope)
    assert finish(pump, run) == ("completed", "aaaa")


def test_a_step_that_runs_is_not_skipped(pump: Pump) -> None:
    run = pump.start(f"({A} ~> {B}) & {SIGNALLED}")
    pump.db.sql("set lock_timeout = '5 s'")
    with in_a_step(pump):
        for which in (node(run, "%('a')%"), node(run, kind="JOIN")):
            with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="runs right now") as refused:
                skip(run, which)
            assert "df.pause" in str(refused.value.diag.message_hint)
        skip(run, node(run, kind="SIGNAL"))
    assert finish(pump, run) == ("completed", "ab")


def test_what_cannot_be_skipped_says_why(pump: Pump) -> None:
    run = pump.start(f"({SIGNALLED} ~> df.if('select true', {A}, {B}))")
    pump.work()
    for which, problem in (
        (node(run, kind="IF"), "is no step"),
        (node(run, kind="THEN"), "is no step"),
        (node(run, "%('a')%"), "is not open"),
        ("00000000", "no such node"),
        ("nonsense", "not the id of a node"),
    ):
        with pytest.raises(psycopg.Error, match=problem) as refused:
            skip(run, which)
        assert refused.value.diag.message_hint
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        pump.db.sql("select df.skip(%s, %s, 'null')", run.id, node(run, kind="SIGNAL"), user="other")
    skip(run, node(run, kind="SIGNAL"), None)
    assert finish(pump, run) == ("completed", "a")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="is completed"):
        skip(run, node(run, "%('a')%"))


def test_who_has_skipped_what_is_said(pump: Pump) -> None:
    run = pump.start(SIGNALLED)
    pump.work()
    which = node(run)
    assert pump.db.admin("select df.skip(%s, %s, '1')", run.id, which) == "OK"
    said = pump.db.rows("select by is not null, detail from df.timeline(%s) where event = 'skipped'", run.id)
    assert said == [(True, f"node {which}")]
    assert run.status == "completed"


def test_a_call_that_has_failed_leaves_what_it_has_called_as_it_is(pump: Pump) -> None:
    broken(pump, "x")
    run = pump.run(f"df.call({X}) ~> {A}")
    skip(run, node(run, kind="CALL"), "1")
    assert finish(pump, run) == ("completed", "a")
    assert pump.db.rows("select status from df.instances where id <> %s", run.id) == [("failed",)]
