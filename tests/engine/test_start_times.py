"""When a run begins: not before its start_at, and among those of its role by priority."""

import psycopg
import pytest

from tests.state import CLAIM_DIRECT, CLOCK_AHEAD, ONE_STEP, QUEUED_STEPS, TIMERS
from tests.support import Database, Pump, Run


def note(text: str) -> str:
    return f"insert into fx (t) values (''{text}'')"


def notes(pump: Pump) -> list[str]:
    """What steps have noted, in the order in which they ran."""
    return [text for (text,) in pump.db.rows("select t from fx order by ctid")]


def start(pump: Pump, flow: str, options: str) -> Run:
    return Run(pump.db, str(pump.db.sql(f"select df.start({flow}, {options})")))


@pytest.mark.parametrize(
    ("given", "shown"), [("1000 years", None), ("1 hour", "1 hour"), ("0", "0"), ("-1 day", "-1 day")]
)
def test_the_time_of_a_start(pump: Pump, given: str, shown: str | None) -> None:
    call = f"df.start('select 1', start_at => now() + interval '{given}')"
    if shown is None:
        with pytest.raises(psycopg.Error, match="start_at") as caught:
            pump.db.sql(f"select {call}")
        assert caught.value.sqlstate == "22023"
        return
    run = pump.db.sql(f"select {call}")
    waits = given == "1 hour"
    pump.work()
    pump.tick()
    assert pump.db.sql("select df.status(%s)", run) == ("pending" if waits else "completed")
    query = "select wait_reason like 'it does not start before %%' from df.instances where id = %s"
    assert pump.db.sql(query, run) is (True if waits else None)


def test_a_run_begins_at_its_time(pump: Pump) -> None:
    run = start(pump, "'select 1' |=> 'a' ~> 'select $a'", "start_at => now() + interval '1 hour'")
    query = """
        select kind, waits_for, due_at = i.start_at, node_id is not null
        from df.waiting join df.instances i on i.id = instance_id"""
    assert pump.db.rows(query) == [("start", "start_at", True, True)]
    assert pump.db.rows("select status from df.nodes") == [("pending",)] * 3
    assert "not start before" in pump.db.sql("select df.explain(%s)", run.id)
    assert pump.db.admin("select count(*) from df.check()") == 0
    pump.db.admin(CLOCK_AHEAD.format("59 minutes"))
    pump.tick()
    assert pump.db.admin(QUEUED_STEPS) == 0
    pump.db.admin(CLOCK_AHEAD.format("61 minutes"))
    pump.until(run.ended)
    assert (run.status, pump.db.sql("select wait_reason from df.instances")) == ("completed", None)


def test_df_work_starts_it_too(pump: Pump) -> None:
    run = start(pump, "'select 1'", "start_at => now() + interval '1 hour', priority => 7")
    pump.db.admin(CLOCK_AHEAD.format("61 minutes"))
    pump.db.sql("call df.work()")
    assert run.status == "completed"


def test_what_has_not_begun_can_be_cancelled(pump: Pump) -> None:
    run = start(pump, "'select 1'", "start_at => now() + interval '1 hour'")
    pump.db.sql("select df.cancel(%s)", run.id)
    assert (run.status, pump.db.admin(TIMERS)) == ("cancelled", 0)
    assert pump.db.rows("select status from df.nodes") == [("pending",)]


def test_a_key_and_a_time(pump: Pump) -> None:
    call = "select df.start('select 1', key => 'k', start_at => now() + interval '1 hour', priority => -3)"
    assert pump.db.sql(call) == pump.db.sql(call)
    assert pump.db.rows("select priority, start_at > now(), key from df.instances") == [(-3, True, "k")]


def test_runs_of_a_role_go_by_priority(pump: Pump) -> None:
    for priority in (0, -100, 1, 100, 0):
        start(pump, f"'{note(str(priority))}'", f"priority => {priority}")
    pump.work()
    assert notes(pump) == ["100", "1", "0", "0", "-100"]
    assert pump.db.rows("select priority from df.instances order by created_at") == [(0,), (-100,), (1,), (100,), (0,)]


@pytest.mark.parametrize(("seconds", "first"), [(597, "late"), (603, "early")])
def test_nothing_waits_longer_than_ten_minutes_for_what_comes_later(pump: Pump, seconds: int, first: str) -> None:
    start(pump, f"'{note('early')}'", "priority => -100")
    pump.db.admin(CLOCK_AHEAD.format(f"{seconds} seconds"))
    start(pump, f"'{note('late')}'", "priority => 100")
    pump.work()
    assert notes(pump)[0] == first


def test_branches_and_what_a_run_calls_have_its_priority(pump: Pump) -> None:
    urgent = start(pump, f"'select 1' & df.call('{note('child')}')", "priority => 50")
    start(pump, f"'{note('other')}'", "priority => 20")
    pump.work()
    assert notes(pump) == ["child", "other"]
    assert pump.db.sql("select priority from df.instances where parent_id = %s", urgent.id) == 50


def test_a_further_turn_keeps_its_priority(pump: Pump) -> None:
    start(pump, f"df.loop('{note('turn')}', 'select count(*) < 3 from fx')", "priority => 50")
    start(pump, f"'{note('other')}'", "priority => 20")
    pump.work()
    assert notes(pump) == ["turn", "turn", "turn", "other"]


def test_what_waited_keeps_its_priority(pump: Pump) -> None:
    start(pump, f"df.sleep(60) ~> '{note('waited')}'", "priority => 50")
    pump.work()
    pump.db.admin(CLOCK_AHEAD.format("61 seconds"))
    start(pump, f"'{note('other')}'", "priority => 20")
    pump.tick()
    pump.work()
    assert notes(pump) == ["waited", "other"]


def test_steps_outside_of_transactions_go_by_priority(pump: Pump) -> None:
    for priority in (0, 5, -5):
        start(pump, f"'vacuum /* {priority} */ fx'", f"priority => {priority}")
    pump.work()
    assert pump.db.rows(CLAIM_DIRECT, pump.worker, user="durable_worker") == [("5",), ("0",), ("-5",)]


def test_priorities_do_not_order_roles(pump: Pump) -> None:
    pump.db.sql("select df.start('select 1')", user="other")
    start(pump, "'select 1'", "priority => 100")
    assert [role["role"] for role in pump.tick()["roles"]] == ["other", "app"]


@pytest.mark.parametrize(
    "option", ["priority => 101", "priority => -101", "start_at => 'infinity'", "start_at => '-infinity'"]
)
def test_refused(db: Database, option: str) -> None:
    with pytest.raises(psycopg.Error, match=r"invalid (priority|start_at)") as caught:
        db.sql(f"select df.start('select 1', {option})")
    assert caught.value.sqlstate == "22023"


def test_many_starts_at_once_have_places_of_their_own(db: Database) -> None:
    query = "select count(df.start('select 1', priority => (n %% 3 - 1) * %s)) from generate_series(1, 3000) n"
    assert db.sql(query, 100) == 3000


def test_many_that_are_to_start_later_hide_no_run_that_has_begun(pump: Pump) -> None:
    later = "select count(df.start('select 1', start_at => now() + interval '1 day')) from generate_series(1, 300)"
    pump.db.sql(later, user="other")
    run = pump.start("'select 1' ~> 'select 2'")
    pump.session.execute(ONE_STEP)
    assert run.status == "pending"
    pump.tick()
    assert run.status == "running"
