"""What operators ask: df.queue, df.blocked_steps, df.stuck, and what df.waiting says of a paused run."""

from typing import Any

import psycopg
import pytest

from tests.state import A_WORKER_SEEN, LARGE_TABLES, WAIT_REASON
from tests.support import Database, Pump, read_by, wait_until

QUEUE = "select role::text, lane, ready, running, slots, paused, wait_reason from df.queue order by role, lane"
STUCK = "select instance_id, state, reason from df.stuck(%s::interval) order by since"
NO_WORKER = "no worker is running"


def test_the_queue_says_what_is_ready_and_why_nothing_runs(db: Database) -> None:
    assert db.rows(QUEUE) == []
    db.rows("select df.start('select 1') from generate_series(1, 3)")
    db.rows("select df.start('select 1')", user="other")
    db.sql("select df.pause(df.start('select 1'), 'wait')")
    own = ("app", "sql", 3, 0, 0, 1, NO_WORKER)
    assert db.rows(QUEUE) == [own]
    assert db.rows(QUEUE, user=None) == [own, ("other", "sql", 1, 0, 0, 0, NO_WORKER)]
    assert db.sql("select oldest_age between '0 s' and '1 min' from df.queue")
    db.admin(A_WORKER_SEEN, "0 s")
    assert db.rows(QUEUE) == [("app", "sql", 3, 0, 10, 1, None)]
    db.admin("select df.set_role_limit('app', sessions => 0)")
    limited = 'role "app" may have 0 of these at a time (df.set_role_limit), and has'
    assert db.rows(QUEUE) == [("app", "sql", 3, 0, 0, 1, limited)]
    db.admin("select df.set_role_limit('app', sessions => 4)")
    db.admin(WAIT_REASON, "its password is wrong")
    assert db.rows(QUEUE) == [("app", "sql", 3, 0, 4, 1, "its password is wrong")]


def test_what_is_cancelled_is_not_in_the_queue(db: Database) -> None:
    run = db.sql("select df.start('select 1')")
    assert db.sql("select ready from df.queue") == 1
    db.sql("select df.cancel(%s)", run)
    assert db.rows(QUEUE) == []


def test_each_lane_is_counted_by_itself(pump: Pump) -> None:
    pump.db.sql("select df.start(df.http('https://api.github.com/zen'))")
    pump.db.sql("select df.start('vacuum')")
    pump.db.sql("select df.start('select 1')")
    pump.until(lambda: pump.db.sql("select count(*) from df.queue") == 2)
    shown = "select lane, ready, running, slots, oldest_age is null from df.queue order by lane"
    assert pump.db.rows(shown) == [("direct", 1, 0, 10, False), ("http", 1, 0, 510, False)]
    assert pump.supervisor.execute("select df_engine.claim_leased(%s, 'http', 1)", [pump.worker]).fetchone()
    assert pump.db.rows(shown)[1] == ("http", 0, 1, 510, True)


def blocked(pump: Pump) -> tuple[psycopg.Connection[Any], psycopg.Connection[Any]]:
    """A session that runs a step which waits for a lock, and the session that holds it."""
    holder = pump.db.connect("app", autocommit=False)
    holder.execute("lock table fx")
    pump.start("'insert into fx values (1)'")
    session = pump.db.connect("app", options=Pump.OPTIONS, prepare_threshold=None)
    session.pgconn.send_query(b"call df_engine.work(1000, false, null)")
    wait_until(lambda: pump.db.admin("select count(*) from df.blocked_steps") == 1)
    return session, holder


def test_a_step_that_waits_for_a_lock_shows_who_holds_it(pump: Pump) -> None:
    session, holder = blocked(pump)
    view = (
        "select pid, query, waits_for, blocked_by, blocking_role::text, blocking_statement, "
        "waiting_since <= now(), blocking_state from df.blocked_steps"
    )
    shown = (session.info.backend_pid, "insert into fx values (1)", "RowExclusiveLock of fx", holder.info.backend_pid,
             "app", "lock table fx", True, "idle in transaction")  # fmt: skip
    assert pump.db.rows(view) == [shown]
    assert pump.db.rows(view, user=None) == [(*shown[:2], "RowExclusiveLock of public.fx", *shown[3:])] or (
        pump.db.rows(view, user=None) == [shown]
    )
    assert pump.db.rows(view, user="other") == []
    assert pump.db.rows(STUCK, "0 s")[0][1:] == (
        "running",
        f"it waits for a lock that pid {holder.info.backend_pid} holds (df.blocked_steps)",
    )
    assert pump.db.rows("select ready, running from df.queue") == [(0, 1)]
    holder.close()
    session.close()


def test_what_another_role_holds_is_shown_without_its_statement(pump: Pump) -> None:
    pump.db.sql("grant all on fx to other")
    session, holder = pump.db.connect("app", options=Pump.OPTIONS), pump.db.connect("other", autocommit=False)
    holder.execute("lock table fx")
    pump.start("'insert into fx values (1)'")
    session.pgconn.send_query(b"call df_engine.work(1000, false, null)")
    wait_until(lambda: pump.db.admin("select count(*) from df.blocked_steps") == 1)
    shown = pump.db.rows("select blocked_by, blocking_statement from df.blocked_steps")
    assert shown == [(holder.info.backend_pid, "<insufficient privilege>")]
    holder.close()
    session.close()


def test_stuck_says_what_does_not_move_and_why(pump: Pump) -> None:
    db = pump.db
    waits = pump.start("df.wait_for_signal('go')")
    patient = pump.start("df.wait_for_signal('go', 3600)")
    sleeps = pump.start("df.sleep(0.01) ~> 'select 1'")
    pump.work()
    paused = pump.start("'select 1'")
    db.sql("select df.pause(%s, 'wait')", paused.id)
    ready = pump.start("'select 1'")
    found = {run: (state, reason) for run, state, reason in db.rows(STUCK, "0 s")}
    assert set(found) == {waits.id, sleeps.id, paused.id, ready.id}
    assert patient.id not in found
    assert found[waits.id] == ("signal", 'it waits for the signal "go", without a time-out')
    assert found[sleeps.id][0] == "due"
    assert found[paused.id][0] == "paused"
    assert found[paused.id][1].startswith("paused by app at ")
    assert found[paused.id][1].endswith(": wait")
    assert found[ready.id] == ("ready", "it waits for its turn: 0 steps of its role run, of 10 places")
    assert db.rows("select from df.stuck()") == []
    assert db.rows(STUCK, "0 s", user="other") == []
    assert len(db.rows(STUCK, "0 s", user=None)) == 4


def test_a_time_that_is_negative_is_none(db: Database) -> None:
    with pytest.raises(
        psycopg.errors.InvalidParameterValue, match="for_at_least must not be negative, and is -00:00:01"
    ):
        db.sql("select * from df.stuck('-1 s')")


def test_a_chain_that_goes_on_is_not_stuck(pump: Pump) -> None:
    run = pump.start("'select pg_sleep(0.2)' ~> 'select 1' ~> 'select 2'")
    before = pump.db.sql("select clock_timestamp()")
    pump.session.execute("call df_engine.work(100, false, null)")
    since = pump.db.sql("select since from df.stuck('0 s') where instance_id = %s", run.id)
    assert since > before


def test_a_paused_run_waits_for_who_paused_it(pump: Pump) -> None:
    run = pump.start("df.sleep(60)")
    pump.work()
    pump.db.sql("select df.pause(%s, 'wait')", run.id)
    pump.db.sql("select df.pause(%s, 'wait again')", run.id)
    query = "select kind, waits_for ~ '^paused by app at .*: wait again$' from df.waiting order by kind"
    assert pump.db.rows(query) == [("paused", True), ("sleep", False)]
    assert pump.db.rows(query, user="other") == []
    pump.db.sql("select df.resume(%s)", run.id)
    assert pump.db.rows(query) == [("sleep", False)]


def test_views_read_little_beside_many_runs(pump: Pump) -> None:
    db = pump.db
    db.rows("select df.start('select 1') from generate_series(1, 2000)")
    wait_until(lambda: pump.work() == "empty", 90)
    db.rows("select df.start(df.sleep(86400)) from generate_series(1, 2000)")
    wait_until(lambda: pump.work() == "empty", 90)
    pump.tick()
    db.sql("select df.start('select 1')")
    for table in LARGE_TABLES:
        db.admin(f"vacuum analyze {table}")
    for query in ("select * from df.queue", "select * from df.blocked_steps",
                  "select * from df_engine.visible_standstill"):  # fmt: skip
        assert read_by(db, query) < 1000, query
