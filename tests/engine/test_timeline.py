"""df.timeline: what has happened to a run, in order, and who did it."""

from typing import Any

import psycopg
import pytest

from tests.support import Pump, Run, member_of_other, read_by

REFUSED = psycopg.errors.InsufficientPrivilege


def events(run: Run, *columns: str, arguments: str = "", user: str | None = "app") -> list[tuple[Any, ...]]:
    return run.db.rows(
        f"select event, {', '.join(columns) or 'query'} from df.timeline(%s{arguments})", run.id, user=user
    )


def test_steps_and_their_attempts_are_in_order(pump: Pump) -> None:
    run = pump.run("'select 1' ~> df.retry('select 1/0', max_attempts => 3, initial_delay => '1 ms') ~> 'select 2'")
    error = "division by zero (SQLSTATE 22012)"
    assert events(run, "query", "attempt", "by", "detail") == [
        ("run started", None, None, "app", None),
        ("node completed", "select 1", 1, None, None),
        ("attempt failed", "select 1/0", 1, None, error),
        ("attempt failed", "select 1/0", 2, None, error),
        ("node failed", "select 1/0", 3, None, error),
        ("run failed", None, None, None, error),
    ]
    assert pump.db.sql(
        "select bool_and(t.at >= x) from (select t.*, lag(at) over () as x from df.timeline(%s) t) t", run.id
    )
    assert pump.db.sql("select count(*) from df.timeline(%s) where duration >= '0 s'", run.id) == 3
    assert (
        pump.db.sql("select node_id from df.timeline(%s) where event = 'node failed'", run.id) == run.node("1/0")["id"]
    )


def test_signals_calls_and_iterations_are_there(pump: Pump) -> None:
    run = pump.start("df.loop(df.wait_for_signal('go') ~> df.call('select 1'), 'select false')")
    pump.work()
    pump.db.sql("select df.signal(%s, 'go')", run.id)
    pump.until(run.ended)
    child = pump.db.sql("select id from df.instances where parent_id = %s", run.id)
    found = events(run, "by", "detail", "node_type")
    assert ("signal sent", "app", "go", None) in found
    assert ("signal delivered", None, "go", "SIGNAL") in found
    assert ("run called", None, child, "CALL") in found
    names = [event for event, *_ in found]
    assert names.index("signal sent") < names.index("signal delivered") < names.index("run called")
    assert names[-1] == "run completed"


def test_an_earlier_iteration_has_ended_at_its_time(pump: Pump) -> None:
    pump.db.admin("select df.set_setting('loop_min_interval', '0')")
    run = pump.run("df.loop('insert into fx values (1)', 'select count(*) < 3 from fx')")
    assert [row for row in events(run, "detail") if row[0] == "iteration ended"] == [
        ("iteration ended", "1"), ("iteration ended", "2")
    ]  # fmt: skip


def test_what_operators_do_says_who_when_and_why(pump: Pump) -> None:
    run = pump.start("'select 1'")
    db = pump.db
    db.sql("select df.pause(%s, 'wait')", run.id)
    db.admin("select df.resume(%s)", run.id)
    owner = db.admin("select current_user")
    db.sql("select df.cancel(%s, 'enough')", run.id)
    again = Run(db, db.sql("select df.rerun(%s)", run.id))
    assert events(run, "by", "detail") == [
        ("run started", "app", None), ("paused", "app", "wait"), ("resumed", owner, None),
        ("cancel asked", "app", "enough"),
        ("run cancelled", None, "canceled: enough"),
    ]  # fmt: skip
    assert events(again, "by", "detail")[1] == ("run again", "app", f"of {run.id}")
    db.sql("select df.cancel(%s)", run.id)
    db.sql("select df.forget(%s)", run.id)
    assert events(run, "by", "detail")[3:] == [
        ("cancel asked", "app", None), ("run cancelled", None, None), ("forgotten", "app", None)
    ]  # fmt: skip
    assert "Forgotten: by app at " in db.sql("select df.explain(%s)", run.id)


def test_who_acts_as_another_role_shows_as_both(pump: Pump) -> None:
    with member_of_other(pump.db), pump.db.connect("app") as conn:
        conn.execute("set role other")
        row = conn.execute("select df.start('select 1')").fetchone()
        assert row
        run = Run(pump.db, row[0])
        conn.execute("select df.pause(%s)", [run.id])
    assert events(run, "by", user="other") == [("run started", "other"), ("paused", "other (logged in as app)")]


def test_a_start_with_the_same_key_says_that_it_has_cancelled(pump: Pump) -> None:
    run = Run(pump.db, pump.db.sql("select df.start('select 1', key => 'k')"))
    pump.db.sql("select df.start('select 2', key => 'k', on_conflict => 'replace')")
    assert ("cancel asked", "app", "replaced by a start with the same key") in events(run, "by", "detail")


def test_pages_are_read_from_the_end(pump: Pump) -> None:
    run = pump.run(" ~> ".join(f"'select {n}'" for n in range(5)))
    whole = pump.db.rows("select at, event from df.timeline(%s)", run.id)
    assert len(whole) == 7
    last = pump.db.rows("select at, event from df.timeline(%s, 3)", run.id)
    assert last == whole[-3:]
    assert pump.db.rows("select at, event from df.timeline(%s, 100, %s)", run.id, last[0][0]) == whole[:-3]
    for wrong in (0, 10_001, None):
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="limit_count must be from 1 to 10000"):
            pump.db.rows("select from df.timeline(%s, %s)", run.id, wrong)


def test_the_items_of_a_map_say_which_they_are(pump: Pump) -> None:
    run = pump.run("df.map('select * from generate_series(1, 3)', 'select 1')")
    assert {detail for event, detail in events(run, "detail") if event == "node completed"} >= {
        "item 1",
        "item 2",
        "item 3",
    }


def test_others_have_no_timeline_to_see(pump: Pump) -> None:
    run = pump.start("'select 1'")
    for user, which in (("other", run.id), ("app", "deadbeef")):
        with pytest.raises(REFUSED, match="not found"):
            pump.db.rows("select from df.timeline(%s)", which, user=user)
    assert pump.db.rows("select from df_engine.visible_timeline", user="other") == []
    assert len(events(run, user=None)) == 1


def test_only_what_belongs_to_the_run_is_read(pump: Pump) -> None:
    runs = [pump.start("'select 1' ~> 'select 2'") for _ in range(300)]
    pump.until(runs[-1].ended)
    pump.db.admin("analyze")
    query = f"select * from df_engine.visible_timeline where instance_id = '{runs[7].id}' order by at desc limit 10"
    assert read_by(pump.db, query) < 100
