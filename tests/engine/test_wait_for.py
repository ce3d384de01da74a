"""df.wait_for and df.poke: a condition that is asked again and again, until it is true or the time is up."""

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg import errors

from tests.crash.crew import problems
from tests.state import (
    CHECKS_DUE,
    CHECKS_DUE_WITHIN,
    DUE_AGO,
    FAILED_ATTEMPTS,
    LAST_CHECK_AGO,
    OUTCOMES,
    POKED_BY_START,
    POKES,
    TIMEOUT_IS_DUE,
    TIMERS,
)
from tests.support import Database, Pump, Run, wait_until

READY = "select v as done, 7 as n from flag where v"


@pytest.fixture
def flag(pump: Pump) -> Pump:
    """A table flag(v boolean) of `app`, whose only row is false, and which counts how often it is asked."""
    pump.db.sql("create table flag (v boolean); insert into flag values (false); create sequence asked")
    heard(pump)
    return pump


def heard(pump: Pump) -> None:
    """Until the start of the worker is heard of."""
    pump.until(lambda: pump.db.admin(POKED_BY_START) == 0)


def idle(pump: Pump, checks: int = 1) -> None:
    """Works until so many waits have nothing but the timers of their checks."""
    pump.until(lambda: pump.db.admin(CHECKS_DUE_WITHIN, "100 years") == checks)


def check(pump: Pump) -> None:
    """The next check of all waits."""
    pump.db.admin(DUE_AGO, "1 s", "1 s")
    pump.tick()
    pump.work()


def asked(db: Database) -> int:
    return int(db.admin("select last_value * is_called::int from asked"))


def test_a_condition_that_is_true_ends_the_wait_at_once(flag: Pump) -> None:
    run = flag.run("df.wait_for('select 1 as b, ''x'' as a') |=> 'w' ~> 'select $w.b || $w.a, $w.timed_out'")
    assert run.node("WAIT_FOR")["result"] == {"rows": [{"b": 1, "a": "x"}], "row_count": 1, "timed_out": False}
    assert run.node("WAIT_FOR")["result_columns"] == ["b", "a"]
    assert list(run.result["rows"][0].values()) == ["1x", False]
    assert flag.db.admin(TIMERS) == 0


def test_a_condition_is_asked_again_until_it_is_true(flag: Pump) -> None:
    run = flag.start(f"df.wait_for('{READY}') |=> 'w' ~> 'select $w.n as n'")
    idle(flag)
    check(flag)
    idle(flag)
    assert run.status == "running"
    flag.db.sql("update flag set v = true")
    check(flag)
    assert (run.status, run.value()) == ("completed", 7)


def test_the_first_check_of_an_interval_counts_from_the_beginning_of_the_last(flag: Pump) -> None:
    flag.start(f"df.wait_for('{READY}', '1 hour')")
    idle(flag)
    assert flag.db.admin(CHECKS_DUE_WITHIN, "59 minutes") == 0
    assert flag.db.admin(CHECKS_DUE_WITHIN, "61 minutes") == 1


def test_checks_leave_no_history(flag: Pump) -> None:
    flag.start(f"df.wait_for('{READY}')")
    idle(flag)
    before = flag.db.admin(OUTCOMES)
    for _ in range(5):
        check(flag)
    assert (before, flag.db.admin(OUTCOMES)) == (1, 1)
    assert flag.db.rows(FAILED_ATTEMPTS, user=None) == []


@pytest.mark.parametrize(
    "condition", ["select false", "select null", "select 0", "select 1 where false", "analyze flag"]
)
def test_the_rules_of_truth_are_those_of_if(flag: Pump, condition: str) -> None:
    run = flag.start(f"df.wait_for('{condition}')")
    idle(flag)
    assert (run.status, problems(flag.db)) == ("running", [])


def test_a_time_out_gives_the_rows_of_the_last_check(flag: Pump) -> None:
    run = flag.start(
        "df.wait_for('select false as done, 3 as left', timeout => '1 hour') |=> 'w' ~> 'select $w.timed_out, $w.left'"
    )
    idle(flag)
    flag.db.admin(TIMEOUT_IS_DUE)
    flag.until(run.ended)
    assert run.node("WAIT_FOR")["result"] == {
        "rows": [{"done": False, "left": 3}],
        "row_count": 1,
        "timed_out": True,
    }
    assert list(run.result["rows"][0].values()) == [True, 3]
    assert problems(flag.db) == []


def test_a_wait_that_has_timed_out_is_false(flag: Pump) -> None:
    run = flag.start("df.wait_for('select false', timeout => '1 hour') ?> 'select 1' !> 'select 2'")
    idle(flag)
    flag.db.admin(TIMEOUT_IS_DUE)
    flag.until(run.ended)
    assert run.value() == 2


def test_a_time_out_before_the_first_check_has_no_rows(flag: Pump) -> None:
    run = flag.start(
        "df.sleep(0) ~> df.wait_for('select false as done', timeout => '1 hour') |=> 'w' ~> 'select $w.timed_out'"
    )
    flag.work()
    flag.tick()
    flag.db.admin(TIMEOUT_IS_DUE)
    flag.tick()
    assert run.node("WAIT_FOR")["result"] == {"rows": [], "row_count": 0, "timed_out": True}
    flag.until(run.ended)
    assert (run.value(), problems(flag.db)) == (True, [])


def test_a_time_out_interrupts_a_check_that_runs(flag: Pump) -> None:
    """The second check: that an earlier one has ended does not protect it."""
    db = flag.db
    run = flag.start("df.wait_for('select pg_sleep(60) is null from flag where v', timeout => '1 hour')")
    idle(flag)
    db.sql("update flag set v = true")
    db.admin(CHECKS_DUE)
    flag.tick()
    pid = flag.session.info.backend_pid
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(flag.work)
        wait_until(lambda: db.admin("select wait_event = 'PgSleep' from pg_stat_activity where pid = %s", pid))
        db.admin(TIMEOUT_IS_DUE)
        assert flag.tick()["interrupt"] == [pid]
        db.admin("select pg_cancel_backend(%s)", pid)
        working.result()
    assert (run.status, run.result["timed_out"]) == ("completed", True)
    assert run.node("flag where v")["result"] == {"rows": [], "row_count": 0}
    flag.work()
    assert problems(db) == []


def test_a_poke_makes_the_wait_check(flag: Pump) -> None:
    run = flag.start(f"df.wait_for('{READY}', '1 day', 'k')")
    idle(flag)
    flag.db.admin(LAST_CHECK_AGO, "2 s")
    flag.db.sql("update flag set v = true; select df.poke('k')")
    flag.tick()
    flag.work()
    assert (run.status, flag.db.admin(POKES)) == ("completed", 0)


def test_a_poke_of_another_key_says_nothing(flag: Pump) -> None:
    flag.start(f"df.wait_for('{READY}', '1 day', 'k') & df.wait_for('{READY}', '1 day')")
    idle(flag, 2)
    flag.db.admin(LAST_CHECK_AGO, "2 s")
    flag.db.sql("select df.poke('K'), df.poke('')")
    flag.tick()
    assert flag.db.admin(CHECKS_DUE_WITHIN, "1 hour") == 0


def test_a_poke_makes_a_wait_check_at_most_once_a_second(flag: Pump) -> None:
    flag.start(f"df.wait_for('{READY}', '1 day', 'k')")
    idle(flag)
    flag.db.admin(LAST_CHECK_AGO, "-1 hour")
    flag.db.sql("select df.poke('k')")
    flag.tick()
    assert flag.db.admin(CHECKS_DUE_WITHIN, "1 hour") == 0
    assert flag.db.admin(CHECKS_DUE_WITHIN, "1 hour 1 s") == 1


def test_a_poke_is_heard_when_it_commits(flag: Pump) -> None:
    run = flag.start(f"df.wait_for('{READY}', '1 day', 'k')")
    idle(flag)
    flag.db.admin(LAST_CHECK_AGO, "2 s")
    with flag.db.connect("app", autocommit=False) as conn:
        conn.execute("update flag set v = true")
        conn.execute("select df.poke('k')")
        flag.tick()
        assert flag.db.admin(CHECKS_DUE_WITHIN, "1 hour") == 0
        conn.commit()
    flag.tick()
    flag.work()
    assert run.status == "completed"


def test_a_poke_that_is_rolled_back_says_nothing(flag: Pump) -> None:
    flag.start(f"df.wait_for('{READY}', '1 day', 'k')")
    idle(flag)
    with flag.db.connect("app", autocommit=False) as conn:
        conn.execute("savepoint s; select df.poke('k'); rollback to s")
        conn.commit()
    assert flag.db.admin(POKES) == 0
    with flag.db.connect("app", autocommit=False) as conn:
        conn.execute("savepoint s; select df.poke('k'); rollback to s; select df.poke('k')")
        conn.commit()
    assert flag.db.admin(POKES) == 1


def test_a_poke_of_any_role_wakes_the_waits_of_all(flag: Pump) -> None:
    """In a trigger, too, with nothing but USAGE on df."""
    db = flag.db
    run = flag.start("df.wait_for('select v from flag', '1 day', 'k')")
    idle(flag)
    db.admin(LAST_CHECK_AGO, "2 s")
    db.admin("do $$ begin create role stranger login; exception when duplicate_object then null; end $$")
    db.sql("""create function tell() returns trigger language plpgsql as $$
                begin perform df.poke('k'); return null; end $$;
              create trigger tell after update on flag for each row execute function tell();
              grant all on flag to stranger""")
    db.admin("grant usage on schema df to stranger")
    db.sql("update flag set v = true", user="stranger")
    flag.tick()
    flag.work()
    assert run.status == "completed"


def test_a_statement_pokes_once_however_many_rows_it_has(flag: Pump) -> None:
    flag.db.sql("select df.poke('k') from generate_series(1, 10000)")
    assert flag.db.admin(POKES) == 1
    flag.db.sql("select df.poke('k' || i % 3) from generate_series(1, 1000) i")
    assert flag.db.admin(POKES) == 4


def test_pokes_are_not_kept_while_no_worker_is_alive(db: Database) -> None:
    db.sql("select df.poke('k')")
    assert db.admin(POKES) == 0
    with db.connect("app", autocommit=False) as conn:  # it may not see a worker that has been there since before
        conn.execute("set transaction isolation level repeatable read")
        conn.execute("select df.poke('k')")
        conn.commit()
    assert db.admin(POKES) == 1


def test_every_keyed_wait_checks_when_a_worker_starts(flag: Pump) -> None:
    run = flag.start(f"df.wait_for('{READY}', '1 day', 'k')")
    flag.start(f"df.wait_for('{READY}', '1 day')")
    idle(flag, 2)
    flag.db.admin(LAST_CHECK_AGO, "2 s")
    flag.db.sql("update flag set v = true")
    flag.tick()
    flag.work()
    assert run.status == "running"
    another = Pump(flag.db)
    heard(another)
    another.until(run.ended)
    another.close()
    assert run.status == "completed"
    assert flag.db.admin(CHECKS_DUE_WITHIN, "1 day") == 1


def test_a_round_of_df_work_asks_without_a_worker(db: Database) -> None:
    db.sql("create table flag (v boolean); insert into flag values (false)")
    run = Run(db, str(db.sql(f"select df.start(df.wait_for('{READY}', '1 day', 'k'))")))
    db.sql("call df.work()")
    assert (run.status, db.admin(CHECKS_DUE_WITHIN, "25 hours")) == ("running", 1)
    db.sql("update flag set v = true; select df.poke('k')")
    db.admin(LAST_CHECK_AGO, "2 s")
    db.sql("call df.work()")
    assert run.status == "completed"


def test_a_key_may_hold_references(flag: Pump) -> None:
    run = Run(flag.db, str(flag.db.sql(
        "select df.start(df.sleep(0) ~> "
        "df.wait_for('select v from flag', '1 day', 'order-$input.id-{sys_label}'), 'l', "
        "input => '{\"id\": 7}')")))  # fmt: skip
    idle(flag)
    flag.db.admin(LAST_CHECK_AGO, "2 s")
    flag.db.sql("update flag set v = true; select df.poke('order-7-l')")
    flag.tick()
    flag.work()
    assert run.status == "completed"


@pytest.mark.parametrize(
    ("key", "error"),
    [
        ("$input.nothing", "WAIT_FOR: reference $input.nothing: "),
        ("$input.long$input.long", "WAIT_FOR: the key of a wait has at most 1024 bytes, and this one has 1200"),
    ],
)
def test_a_key_that_cannot_be_made_fails_the_wait(flag: Pump, key: str, error: str) -> None:
    start = (
        f"df.start(df.wait_for('select true', key => '{key}'), input => jsonb_build_object('long', repeat('x', 600)))"
    )
    run = Run(flag.db, str(flag.db.sql(f"select {start}")))
    flag.until(run.ended)
    assert run.status == "failed" and run.error.startswith(error)
    assert run.node("WAIT_FOR")["status"] == "failed"


def test_a_key_has_at_most_one_kilobyte(db: Database) -> None:
    for call in ("df.wait_for('select 1', key => repeat('ä', 513))", "df.poke(repeat('ä', 513))"):
        with pytest.raises(errors.ProgramLimitExceeded, match="has 1026"):
            db.sql(f"select {call}")
    assert db.sql("select df.poke(null)") is None


def test_a_condition_that_fails_fails_the_wait(flag: Pump) -> None:
    run = flag.run("df.wait_for('select 1 / 0') ~> 'select 1'")
    assert (run.status, "division by zero" in run.error) == ("failed", True)
    assert [run.node(each)["status"] for each in ("WAIT_FOR", "select 1 / 0")] == ["failed", "failed"]


def test_a_condition_is_tried_again_as_the_wait_says(flag: Pump) -> None:
    flag.db.sql("create sequence tried")
    run = flag.start("df.retry(df.wait_for('select v or 1 / (nextval(''tried'') - 2) > 5 from flag'), 3, '0 s')")
    idle(flag)
    check(flag)
    flag.until(lambda: flag.db.admin("select last_value from tried") == 3)
    idle(flag)
    assert flag.db.rows(FAILED_ATTEMPTS, user=None) == [(1, "22012")]
    for _ in range(2):
        check(flag)
    idle(flag)
    assert flag.db.rows(FAILED_ATTEMPTS, user=None) == [(1, "22012")]
    assert (run.status, run.node("WAIT_FOR")["retry_policy"]) == ("running", {"max_attempts": 3, "initial_delay": 0})
    flag.db.sql("drop table flag")
    check(flag)
    flag.until(run.ended)
    assert [attempt for attempt, _ in flag.db.rows(FAILED_ATTEMPTS, user=None)] == [1, 2]


def test_a_race_a_join_and_a_loop_treat_it_as_any_wait(flag: Pump) -> None:
    race = flag.start(f"df.wait_for('{READY}', key => 'k') | df.wait_for_signal('go')")
    join = flag.start("df.wait_for('select true', key => 'k') & df.wait_for_signal('go')")
    loop = flag.start(
        "df.loop(df.wait_for('select nextval(''asked'') %% 2 = 0', '0.01 s'), 'select last_value < 6 from asked')"
    )
    flag.until(loop.ended)
    for run in (race, join):
        flag.db.sql("select df.signal(%s, 'go')", run.id)
        flag.until(run.ended)
    assert race.result["signal_name"] == "go"
    assert [join.result[0]["timed_out"], join.result[1]["timed_out"]] == [False, False]
    assert (loop.status, asked(flag.db)) == ("completed", 6)
    assert (flag.db.admin(TIMERS), problems(flag.db)) == (0, [])


def test_a_race_between_two_waits_is_decided_by_the_first_that_is_true(flag: Pump) -> None:
    run = flag.start(f"df.wait_for('{READY}', key => 'a') | df.wait_for('select true as b', key => 'b')")
    flag.until(run.ended)
    assert run.result["rows"] == [{"b": True}]
    assert (flag.db.admin(TIMERS), problems(flag.db)) == (0, [])


@pytest.mark.parametrize("queued", [False, True])
def test_a_cancel_takes_the_wait_away(flag: Pump, queued: bool) -> None:
    run = flag.start(f"df.wait_for('{READY}', key => 'k', timeout => '1 hour')")
    idle(flag)
    if queued:
        flag.db.admin(CHECKS_DUE)
        flag.tick()
    flag.db.sql("select df.cancel(%s)", run.id)
    assert (run.status, flag.db.admin(TIMERS), problems(flag.db)) == ("cancelled", 0, [])


def test_what_a_wait_is_waiting_for_can_be_seen(flag: Pump) -> None:
    run = flag.start(f"df.wait_for('{READY}', '1 hour', 'k', '1 day')")
    idle(flag)
    row = flag.db.rows("select node_id, kind, waits_for, due_at > now() + interval '5 minutes' from df.waiting")[0]
    assert row == (run.node("WAIT_FOR")["id"], "condition", f"poke k or {READY}", True)
    assert run.node("WAIT_FOR")["status"] == "running"
    assert run.node("WAIT_FOR")["query"].startswith('{"every":3600,"key":"k","timeout":86400,"condition_node":"')
    drawn = flag.db.sql("select df.explain(%s)", run.id)
    assert [line.rstrip() for line in drawn.split("\n")[-3:]] == [
        "WAIT_FOR (every 3600s, key 'k', 86400s at most) ⏳",
        "    ? until:",
        f"      └─SQL: {READY[:47]}... ✓" if len(READY) > 50 else f"      └─SQL: {READY} ✓",
    ]


def test_many_waits_of_one_key_hear_of_one_poke(flag: Pump) -> None:
    db = flag.db
    db.sql("select count(df.start(df.wait_for('select v from flag', '1 day', 'k'))) from generate_series(1, 2500)")
    flag.until(lambda: db.admin(CHECKS_DUE_WITHIN, "100 years") == 2500, 60)
    db.admin(LAST_CHECK_AGO, "2 s")
    db.sql("update flag set v = true; select df.poke('k')")
    flag.until(lambda: db.admin("select count(*) from df.instances where status = 'completed'") == 2500, 60)
    assert (db.admin(POKES), problems(db)) == (0, [])


def test_a_poke_while_runs_are_held_is_not_lost(flag: Pump) -> None:
    run = flag.start(f"df.wait_for('{READY}', '1 day', 'k')")
    idle(flag)
    flag.db.admin(LAST_CHECK_AGO, "2 s")
    with flag.db.connect("app", autocommit=False) as conn:
        conn.execute("select df.cancel(%s)", [run.id])
        flag.db.sql("update flag set v = true; select df.poke('k')")
        flag.tick()
        conn.rollback()
    flag.until(run.ended)
    assert run.status == "completed"


def test_a_condition_is_one_sql_step(db: Database) -> None:
    with pytest.raises(psycopg.Error, match=r"the condition of df\.wait_for is one SQL step, not THEN"):
        db.sql("select df.wait_for('select 1' ~> 'select 2')")
