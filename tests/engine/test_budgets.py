"""What a look of a worker does for all roles at once is bounded by settings."""

from tests import state
from tests.support import Database, Pump

STEP = "'select 1'"


def wide(branches: int) -> str:
    return f"df.sleep(0) ~> ({' & '.join([STEP] * branches)})"


def test_a_worker_leaves_what_has_many_branches_to_a_session_of_the_role(db: Database) -> None:
    db.admin("select df.set_setting('max_transition_rows', '10')")
    pump = Pump(db)
    few, many = pump.start(wide(5)), pump.start(wide(20))
    pump.work()
    pump.tick()
    assert db.admin(state.QUEUED_STEPS) <= 5 + 10
    assert db.rows("select * from df.check()", user=None) == []
    pump.until(lambda: few.ended() and many.ended())
    assert (few.status, many.status) == ("completed", "completed")
    pump.close()


def test_branches_of_branches_count_together(db: Database) -> None:
    db.admin("select df.set_setting('max_transition_rows', '5')")
    pump = Pump(db)
    run = pump.start(
        "df.sleep(0) ~> (('select 1' & 'select 2') & (('select 3' & 'select 4') & ('select 5' | 'select 6')))"
    )
    pump.work()
    pump.tick()
    assert 1 < db.admin(state.QUEUED_STEPS) < 6
    pump.until(run.ended)
    assert run.status == "completed"
    pump.close()


def test_a_poll_fires_so_many_timers_a_transaction_and_says_how_many(db: Database) -> None:
    db.admin("select df.set_setting('tick_timers', '3'), df.set_setting('tick_time', '0.05')")
    pump = Pump(db)
    for _ in range(7):
        pump.start("df.sleep(0)")
    pump.work()
    db.admin(state.POKES_HEARD)
    tick = pump.tick()["tick"]
    assert (tick["most_timers"], tick["most_ms"]) == (3, 50)
    assert 3 <= tick["timers"] <= 7
    assert tick["ms"] >= 0
    pump.close()


NO_TIME = """
create or replace function df_engine.deadline(p_ms int) returns timestamptz language sql as
$$ select '-infinity'::timestamptz $$"""


def test_a_poll_without_time_fires_one_transaction_of_timers(db: Database) -> None:
    db.admin("select df.set_setting('tick_timers', '3')")
    pump = Pump(db)
    for _ in range(7):
        pump.start("df.sleep(0)")
    pump.work()
    db.admin(state.POKES_HEARD)
    db.admin(NO_TIME)
    assert [pump.tick()["tick"]["timers"] for _ in range(3)] == [4, 3, 0]
    pump.close()
