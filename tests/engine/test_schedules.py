"""Schedules: which runs they start at which times, and what becomes of the times at which they start none."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest

from tests.language.test_cron import reference_times
from tests.state import (
    CLOCK_AT,
    EARLIER_TICKS,
    MANY_SCHEDULES,
    SCHEDULES_LOST,
    SCHEDULES_QUEUED,
    SCHEDULES_QUEUED_AGAIN,
    SCHEDULES_READ,
    ZONE_OF_SCHEDULE,
)
from tests.support import Database, Pump, Run

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
HOURLY = "0 * * * *"
WAITS = "df.wait_for_signal(''go'')"


def clock(db: Database, at: datetime) -> None:
    db.admin(CLOCK_AT.format(at.isoformat()))


def hour(number: float) -> datetime:
    """That many hours after noon."""
    return NOON + timedelta(hours=number)


def make(db: Database, flow: str = "'select 1'", cron: str = HOURLY, name: str = "s", rest: str = "") -> Any:
    return db.sql(f"select df.schedule('{name}', '{cron}', {flow}{rest and ', ' + rest})")


def go(pump: Pump, at: datetime, careful: bool = False) -> None:
    """Sets the clock and does all that there is to do then."""
    clock(pump.db, at)
    for _ in range(200):
        work = pump.tick()
        assert pump.work(careful) in ("empty", "budget")
        if pump.tick()["next_ms"] != 0 and not work["roles"] and pump.db.admin(SCHEDULES_QUEUED) == 0:
            assert pump.db.rows("select * from df.check()", user=None) == []
            return
    raise AssertionError("there is always more to do")


def ticks(db: Database, columns: str = "status") -> list[Any]:
    """What has become of each time: the hour after noon, and more."""
    query = f"""select extract(epoch from scheduled_for - %s)::float / 3600, {columns}
                from df.schedule_ticks order by scheduled_for"""
    return db.rows(query, NOON)


def runs(db: Database) -> list[Run]:
    rows = db.rows("select instance_id from df.schedule_ticks where instance_id is not null order by scheduled_for")
    return [Run(db, run) for (run,) in rows]


@pytest.fixture
def noon(pump: Pump) -> Pump:
    clock(pump.db, NOON)
    return pump


def test_a_tick_starts_a_run(noon: Pump) -> None:
    db = noon.db
    first = make(db, "'select $input.scheduled_for as at, $input.n as n, {who} as who'", rest="input => '{\"n\": 7}'")
    assert first == hour(1)
    assert db.rows("select next_at, last_at, last_status, paused, waiting from df.schedules") == [
        (hour(1), None, None, False, 0)
    ]
    db.sql("select df.setvar('who', '''me''')")
    go(noon, hour(1) - timedelta(seconds=1))
    assert ticks(db) == []
    go(noon, hour(1.001))
    (run,) = runs(db)
    assert run.result["rows"] == [{"at": "2030-01-01T13:00:00+00:00", "n": 7, "who": "me"}]
    assert db.rows("select label, submitted_by::text from df.instances") == [("s", "app")]
    assert ticks(db, "status, made_by, instance_status, reason") == [(1, "started", "cron", "completed", None)]
    assert db.rows("select next_at, last_at, last_status, last_instance_id from df.schedules") == [
        (hour(2), hour(1), "completed", run.id)
    ]
    go(noon, hour(1.5))
    assert len(ticks(db)) == 1


def test_the_definition_of_that_moment(noon: Pump) -> None:
    db = noon.db
    with pytest.raises(psycopg.Error, match="no definition @bill"):
        make(db, "'@bill'")
    db.sql("select df.define('bill', 'select 1 as n')")
    make(db, "'@bill'")
    db.sql("select df.define('bill', 'select 2 as n')")
    go(noon, hour(1))
    assert [run.value() for run in runs(db)] == [2]
    db.sql("select df.undefine('bill')")
    go(noon, hour(2))
    assert ticks(db, "status, reason like 'there is no definition @bill%%42704%%'") == [
        (1, "started", None),
        (2, "failed", True),
    ]
    assert db.rows("select last_status, last_error like 'there is no%%', next_at from df.schedules") == [
        ("failed", True, hour(3))
    ]
    db.sql("select df.define('bill', 'select 3 as n')")
    go(noon, hour(3))
    assert [run.value() for run in runs(db)] == [2, 3]


@pytest.mark.parametrize(
    ("overlap", "expected"),
    [
        ("skip", ["started", "skipped", "skipped"]),
        ("allow", ["started", "started", "started"]),
        ("cancel", ["started", "started", "started"]),
        ("queue", ["started", "skipped", "waiting"]),
    ],
)
def test_overlap(noon: Pump, overlap: str, expected: list[str]) -> None:
    db = noon.db
    make(db, "df.wait_for_signal('go')", rest=f"overlap => '{overlap}'")
    for number in (1, 2, 3):
        go(noon, hour(number))
    assert [tick[1] for tick in ticks(db)] == expected
    statuses = [run.status for run in runs(db)]
    assert statuses == {"allow": ["running"] * 3, "cancel": ["cancelled", "cancelled", "running"]}.get(
        overlap, ["running"]
    )
    db.sql("select df.signal(%s, 'go')", runs(db)[0].id)
    go(noon, hour(3.5))
    assert [tick[1] for tick in ticks(db)] == [*expected[:2], expected[2].replace("waiting", "started")]
    if overlap == "queue":
        assert [run.status for run in runs(db)] == ["completed", "running"]
        assert db.sql("select scheduled_for from df.schedule_ticks where instance_status = 'running'") == hour(3)
    if overlap == "skip":
        reason = db.sql("select distinct reason from df.schedule_ticks where status = 'skipped'")
        assert reason == f"instance {runs(db)[0].id}, of an earlier tick, has not ended"
    go(noon, hour(4))
    assert ticks(db)[-1][1] == ("waiting" if overlap == "queue" else "started")


@pytest.mark.parametrize("end", ["df.cancel(%s)", "df.signal(%s, 'go')"])
def test_what_waits_is_started_however_the_run_ends(noon: Pump, end: str) -> None:
    db = noon.db
    make(db, "df.wait_for_signal('go')", rest="overlap => 'queue'")
    go(noon, hour(1))
    go(noon, hour(2))
    db.sql(f"select {end}", runs(db)[0].id)
    go(noon, hour(2.1))
    assert [tick[1] for tick in ticks(db)] == ["started", "started"]


def test_ticks_that_were_missed_are_made_up_oldest_first(noon: Pump) -> None:
    db = noon.db
    make(db, rest="overlap => 'allow', catch_up => '3 hours'")
    go(noon, hour(10))
    assert ticks(db) == [(1, "missed"), (7, "started"), (8, "started"), (9, "started"), (10, "started")]
    assert db.sql("select reason from df.schedule_ticks where status = 'missed'") == (
        "nothing was started from here to 2030-01-01T19:00:00+00:00, which is next: more than catch_up late"
    )
    labels = db.rows("select input ->> 'scheduled_for' from df.instances order by created_at, id")
    assert sorted(labels) == labels or len(labels) == 4
    go(noon, hour(30))
    assert ticks(db)[5] == (11, "missed")
    assert db.sql("select next_at from df.schedules") == hour(31)


def test_without_catch_up_a_tick_may_be_a_minute_late(noon: Pump) -> None:
    db = noon.db
    make(db, rest="catch_up => '0'")
    go(noon, hour(1) + timedelta(seconds=59))
    go(noon, hour(2) + timedelta(seconds=61))
    assert ticks(db) == [(1, "started"), (2, "missed")]


@pytest.mark.parametrize("step", [1, -1])
def test_a_step_of_the_clock_by_an_hour(noon: Pump, step: int) -> None:
    """None is doubled, none is lost."""
    db = noon.db
    make(db, cron="*/30 * * * *", rest="overlap => 'allow', catch_up => '2 hours'")
    for number in (0.5, 1, 1 + step, 1.5 + step, 2, 2.5, 3):
        go(noon, hour(number))
    assert ticks(db) == [(number / 2, "started") for number in range(1, 7)]
    assert db.admin("select count(*) from df.instances") == 6


def test_a_queued_tick_survives(noon: Pump) -> None:
    """It is queued again if the row is lost, and nothing is queued twice."""
    db = noon.db
    make(db)
    clock(db, hour(1))
    for _ in range(3):
        noon.tick()
    assert db.admin(SCHEDULES_QUEUED) == 1
    db.admin(SCHEDULES_LOST)
    noon.tick()
    assert db.admin(SCHEDULES_QUEUED) == 0
    go(noon, hour(1.05))
    assert ticks(db) == [(1, "started")]


def test_two_rows_for_one_tick_start_one_run(noon: Pump) -> None:
    db = noon.db
    make(db)
    clock(db, hour(1))
    noon.tick()
    db.admin(SCHEDULES_QUEUED_AGAIN)
    go(noon, hour(1))
    assert ticks(db) == [(1, "started")]


def test_jitter(noon: Pump) -> None:
    db = noon.db
    make(db, rest="jitter => '20 minutes'")
    seen = []
    for minute in range(1, 22):
        go(noon, hour(1 + minute / 60))
        seen.append(len(ticks(db)))
    assert seen[-1] == 1
    for number in (*range(2, 9), 8.34):
        go(noon, hour(number))
    assert [tick[1] for tick in ticks(db)] == ["started"] * 8


def test_the_same_name_replaces_it(noon: Pump) -> None:
    db = noon.db
    make(db, "'select 1 as n'")
    go(noon, hour(1))
    clock(db, hour(2))
    assert make(db, "'select 2 as n'") == hour(2)  # due, and not lost
    go(noon, hour(2.01))
    assert [run.value() for run in runs(db)] == [1, 2]
    assert make(db, cron="30 * * * *") == hour(2.5)
    db.sql("select df.pause_schedule('s')")
    assert make(db, cron="30 * * * *") is None
    assert db.rows("select count(*), bool_and(paused), max(cron) from df.schedules") == [(1, True, "30 * * * *")]
    assert len(ticks(db)) == 2


def test_pause_and_resume(noon: Pump) -> None:
    db = noon.db
    make(db)
    db.sql("select df.pause_schedule('s', 'for repairs')")
    assert db.rows("select paused, next_at, wait_reason ~ 'paused by app at .*: for repairs' from df.schedules") == [
        (True, None, True)
    ]
    go(noon, hour(3.5))
    assert ticks(db) == []
    assert db.sql("select df.resume_schedule('s')") == hour(4)
    assert ticks(db, "status, reason like '%%the schedule was paused'") == [(1, "missed", True)]
    go(noon, hour(4))
    assert ticks(db)[1:] == [(4, "started")]
    with pytest.raises(psycopg.Error, match="not paused") as caught:
        db.sql("select df.resume_schedule('s')")
    assert caught.value.sqlstate == "55000"


def test_a_tick_in_the_queue_of_a_paused_schedule_starts_nothing(noon: Pump) -> None:
    db = noon.db
    make(db)
    clock(db, hour(1))
    noon.tick()
    db.sql("select df.pause_schedule('s')")
    go(noon, hour(1))
    assert ticks(db) == []


def test_unschedule(noon: Pump) -> None:
    db = noon.db
    make(db, "df.wait_for_signal('go')")
    go(noon, hour(1))
    (run,) = runs(db)
    clock(db, hour(2))
    noon.tick()
    assert db.sql("select df.unschedule('s')") == "OK"
    go(noon, hour(2))
    assert run.status == "running"
    assert db.rows("select * from df.schedules") == db.rows("select * from df.schedule_ticks") == []
    with pytest.raises(psycopg.Error, match='no schedule "s"') as caught:
        db.sql("select df.unschedule('s')")
    assert caught.value.sqlstate == "42704"


def test_trigger(noon: Pump) -> None:
    db = noon.db
    make(db, "df.wait_for_signal('go')")
    db.sql("select df.pause_schedule('s')")
    run = Run(db, db.sql("select df.trigger_schedule('s')"))
    assert ticks(db, "status, made_by, instance_id") == [(0, "started", "trigger", run.id)]
    with pytest.raises(psycopg.Error, match="has not ended") as caught:
        db.sql("select df.trigger_schedule('s')")
    assert caught.value.sqlstate == "55000"
    make(db, "df.wait_for_signal('go')", rest="overlap => 'queue'")
    assert db.sql("select df.trigger_schedule('s')") is None
    db.sql("select df.resume_schedule('s')")
    db.sql("select df.signal(%s, 'go')", run.id)
    go(noon, hour(0.1))
    assert [tick[1] for tick in ticks(db)] == ["started", "started"]
    make(db, "'select {nothing}'", name="t")
    with pytest.raises(psycopg.Error, match="nothing"):
        db.sql("select df.trigger_schedule('t')")


@pytest.mark.parametrize("overlap", ["skip", "queue", "allow", "cancel"])
def test_backfill(noon: Pump, overlap: str) -> None:
    db = noon.db
    make(db, "df.wait_for_signal('go')", rest=f"overlap => '{overlap}'")
    go(noon, hour(1))
    assert db.sql("select df.backfill('s', %s, %s)", hour(-3), hour(1)) == 3
    go(noon, hour(1.1))
    if overlap != "allow":
        assert ticks(db) == [(-2, "waiting"), (-1, "waiting"), (0, "waiting"), (1, "started")]
        for number in range(3):
            running = db.sql("select instance_id from df.schedule_ticks where instance_status = 'running'")
            db.sql("select df.signal(%s, 'go')", running)
            go(noon, hour(1.2))
            assert [tick[1] for tick in ticks(db)].count("waiting") == 2 - number
    assert [tick[1] for tick in ticks(db)] == ["started"] * 4
    assert db.sql("select df.backfill('s', %s, %s)", hour(-3), hour(1)) == 0


def test_a_backfill_makes_up_what_was_skipped(noon: Pump) -> None:
    db = noon.db
    make(db, "df.wait_for_signal('go')")
    for number in (1, 2, 3):
        go(noon, hour(number))
    assert db.sql("select df.backfill('s', %s, %s)", hour(0), hour(2)) == 1
    db.sql("select df.signal(%s, 'go')", runs(db)[0].id)
    go(noon, hour(3.1))
    assert ticks(db, "status, made_by") == [
        (1, "started", "cron"),
        (2, "started", "backfill"),
        (3, "skipped", "cron"),
    ]
    for after, until, match in (
        ("-infinity", hour(1).isoformat(), "have passed"),
        (hour(0).isoformat(), hour(9).isoformat(), "have passed"),
        (hour(-2000).isoformat(), hour(0).isoformat(), "at most 1000 ticks"),
    ):
        with pytest.raises(psycopg.Error, match=match):
            db.sql(f"select df.backfill('s', '{after}', '{until}')")


@pytest.mark.parametrize(
    ("arguments", "match", "code"),
    [
        ("'', '* * * * *', 'select 1'", "1 to 1024 bytes", "22023"),
        ("'s', '* * * *', 'select 1'", "five fields", "22023"),
        ("'s', null, 'select 1'", "cron of df.schedule is NULL", "22004"),
        ("'s', '* * * * *', '{\"node_type\":\"X\"}'", "Invalid durable function", None),
        ("'s', '* * * * *', 'select 1', 'Mars'", 'unknown time zone "Mars"', "22023"),
        ("'s', '* * * * *', 'select 1', input => '1'", "JSON object", "22023"),
        ("'s', '* * * * *', 'select 1', overlap => 'no'", 'invalid overlap "no"', "22023"),
        ("'s', '* * * * *', 'select 1', catch_up => '-1 s'", "invalid catch_up", "22023"),
        ("'s', '* * * * *', 'select 1', jitter => '2 days'", "invalid jitter", "22023"),
        ("'s', '* * * * *', '@none'", "no definition @none", "42704"),
    ],
)
def test_what_is_refused(db: Database, arguments: str, match: str, code: str | None) -> None:
    with pytest.raises(psycopg.Error, match=match) as caught:
        db.sql(f"select df.schedule({arguments})")
    assert code in (None, caught.value.sqlstate)
    assert db.rows("select * from df.schedules") == []


def test_a_role_has_a_bounded_number(db: Database) -> None:
    db.sql("select df.schedule('s' || n, '* * * * *', 'select 1') from generate_series(1, 1000) n")
    with pytest.raises(psycopg.Error, match="1000 schedules") as caught:
        make(db, name="one more")
    assert caught.value.sqlstate == "54000"
    make(db, name="s1")


def test_the_history_is_bounded(noon: Pump) -> None:
    db = noon.db
    make(db, cron="* * * * *", rest="overlap => 'skip', catch_up => '2 days'")
    go(noon, hour(1))
    assert len(ticks(db)) == 60
    db.admin(EARLIER_TICKS, NOON, "1990 minutes", NOON)
    go(noon, hour(1 + 1 / 60))
    assert len(ticks(db)) == 1000
    assert ticks(db)[-1][1] == "started"


@pytest.mark.parametrize("careful", [True, False])
def test_a_tick_is_done_by_a_careful_session_too(noon: Pump, careful: bool) -> None:
    make(noon.db)
    go(noon, hour(1), careful)
    assert [run.status for run in runs(noon.db)] == ["completed"]


def test_df_work_makes_the_ticks_of_its_caller(db: Database) -> None:
    db.sql("create table fx (i int)")
    clock(db, NOON)
    make(db, "'insert into fx values (1)'")
    make_other = "select df.schedule('o', '0 * * * *', 'select 1')"
    db.sql(make_other, user="other")
    clock(db, hour(1))
    db.sql("call df.work(5)")
    assert db.sql("select count(*) from fx") == 1
    assert ticks(db) == [(1, "started")]
    assert db.admin("select count(*) from df.schedule_ticks") == 1
    db.sql("call df.work(5)", user="other")
    assert db.rows("select status from df.schedule_ticks", user="other") == [("started",)]


def test_what_keeps_a_role_from_starting_is_its_ticks(noon: Pump) -> None:
    db = noon.db
    make(db, "df.wait_for_signal('go')", rest="overlap => 'allow'")
    db.admin("select df.set_role_limit('app', live_instances => 1)")
    go(noon, hour(1))
    go(noon, hour(2))
    assert ticks(db, "status, reason like '%%may have 1 live instances%%54000%%'") == [
        (1, "started", None),
        (2, "failed", True),
    ]


def test_a_schedule_that_is_locked_is_made_later(noon: Pump) -> None:
    db = noon.db
    make(db)
    clock(db, hour(1))
    with db.connect("app", autocommit=False) as conn:
        conn.execute("select df.pause_schedule('s')")
        work = noon.tick()
        assert (work["roles"], work["next_ms"]) == ([], 50)
        conn.rollback()
        noon.tick()
        conn.execute("select df.pause_schedule('s')")
        assert noon.work() == "empty"  # the row is gone
        conn.rollback()
    assert ticks(db) == []
    go(noon, hour(1.02))
    assert ticks(db) == [(1, "started")]


def test_a_time_zone_that_is_gone_stops_nothing_else(noon: Pump) -> None:
    db = noon.db
    make(db)
    make(db, name="bad")
    db.admin(ZONE_OF_SCHEDULE, "Mars", "bad")
    go(noon, hour(1))
    assert db.rows("select name, wait_reason from df.schedules order by 1") == [
        ("bad", 'time zone "Mars" not recognized'),
        ("s", None),
    ]
    assert ticks(db) == [(1, "started")]
    db.admin(ZONE_OF_SCHEDULE, None, "bad")
    go(noon, hour(1.02))
    assert ticks(db) == [(1, "started")] * 2


def test_others_see_nothing_and_administrators_act(noon: Pump) -> None:
    db = noon.db
    make(db)
    assert db.rows("select * from df.schedules", user="other") == []
    for call in (
        "unschedule('s', owner => 'app')", "pause_schedule('s', owner => 'app')", "trigger_schedule('s', 'app')",
        "resume_schedule('s', 'app')", "backfill('s', now(), now(), 'app')",
    ):  # fmt: skip
        with pytest.raises(psycopg.Error, match="no schedule"):
            db.sql(f"select df.{call}", user="other")
    db.admin("select df.pause_schedule('s', 'by me', 'app')")
    assert db.sql("select wait_reason ~ 'paused by .*: by me' from df.schedules")
    run = Run(db, db.admin("select df.trigger_schedule('s', 'app')"))
    assert db.sql("select submitted_by::text from df.instances where id = %s", run.id) == "app"


def test_a_role_that_is_gone(db: Database) -> None:
    db.admin("create role leaver login")
    try:
        db.admin("select df.grant_usage('leaver')")
        pump = Pump(db)
        clock(db, NOON)
        db.sql("select df.schedule('s', '0 * * * *', 'select 1')", user="leaver")
        clock(db, hour(1))
        pump.tick()
        assert db.admin(SCHEDULES_QUEUED) == 1
        db.connections.pop("leaver").close()
        db.admin("drop owned by leaver")
    finally:
        db.admin("drop role leaver")
    pump.tick()
    assert db.admin(SCHEDULES_QUEUED) == 0
    clock(db, hour(1.1))
    assert pump.tick()["next_ms"] is None
    assert db.admin("select wait_reason from df.schedules") == "its role does not exist any more"
    assert db.rows("select * from df.check()", user=None) == []
    db.admin("select df.unschedule('s', (select owner from df.schedules))")
    pump.close()


def test_a_role_without_rights_has_failed_ticks(noon: Pump) -> None:
    db = noon.db
    make(db)
    clock(db, hour(1))
    noon.tick()
    db.admin("select df.revoke_usage('app')")
    with pytest.raises(psycopg.Error, match="permission denied"):
        noon.work()
    with pytest.raises(psycopg.Error, match="role app has no USAGE on schema df any more"):
        db.admin("select df.trigger_schedule('s', 'app')")
    db.admin("select df.grant_usage('app')")
    go(noon, hour(1.1))
    assert ticks(db) == [(1, "started")]


@pytest.mark.parametrize("expr", ["*/20 * * * *", "15,45 */2 * * *", "30 2 * * *"])
@pytest.mark.parametrize(
    ("zone", "change"),
    [
        ("Europe/London", datetime(2024, 3, 31, 1, tzinfo=UTC)),
        ("America/New_York", datetime(2024, 11, 3, 6, tzinfo=UTC)),
        ("Australia/Lord_Howe", datetime(2024, 4, 6, 15, tzinfo=UTC)),
    ],
)
def test_the_times_around_changes_of_the_clock(noon: Pump, expr: str, zone: str, change: datetime) -> None:
    """Each time that croniter and the rules give, once, however late it is made."""
    db = noon.db
    start = change - timedelta(hours=12)
    clock(db, start)
    make(db, cron=expr, rest=f"timezone => '{zone}', overlap => 'allow', catch_up => '3 days'")
    go(noon, start + timedelta(hours=5))
    go(noon, start + timedelta(hours=24))
    expected = reference_times(expr, ZoneInfo(zone), start, 24 * 60 + 1)
    assert db.rows("select scheduled_for, status from df.schedule_ticks order by 1") == [
        (at, "started") for at in expected
    ]


def test_what_is_not_due_is_one_probe_of_an_index(db: Database) -> None:
    db.admin(MANY_SCHEDULES, 1000)
    pump = Pump(db)
    pump.supervisor.autocommit = False
    read = []
    for _ in range(9):  # until plans are kept, and on
        pump.supervisor.execute("select df_engine.fire_due(50)")
        pump.supervisor.execute("select df_engine.next_due_ms()")
        read.append(pump.supervisor.execute(SCHEDULES_READ.encode()).fetchone() or ())
    assert [after - before for before, after in zip(read[-2], read[-1], strict=True)] == [0, 2, 1]
    pump.close()
