"""Ticks under fire: sessions and supervisors side by side, workers that are killed, and a clock that goes on."""

import random
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial

import psycopg

from tests.crash.crew import Crew, problems
from tests.state import CLOCK_AHEAD, CLOCK_AT, SCHEDULES_QUEUED
from tests.support import Database, wait_until
from tests.worker.process import WorkerProcess

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
RULES = ("skip", "queue", "cancel")
# Schedules of which two runs go on at a time, as committed.
TOO_MANY = """
select name, count(*) from df.schedule_ticks where instance_status in ('pending', 'running')
group by name having count(*) > 1"""
ACTS = (
    "select df.trigger_schedule(%s)",
    "select df.pause_schedule(%s)",
    "select df.resume_schedule(%s)",
    "select df.cancel(last_instance_id) from df.schedules where name = %s and last_status in ('pending', 'running')",
)
PUT = """
select df.schedule(%s, '* * * * *', 'select 1' ~> df.sleep(0.02) ~> 'select 2', overlap => %s, catch_up => '1 day')"""


def clock(db: Database, minute: int) -> None:
    db.admin(CLOCK_AT.format((NOON + timedelta(minutes=minute)).isoformat()))


def meddle(db: Database, seed: int) -> None:
    """Triggers, pauses, resumes, cancels and replaces schedules at random."""
    dice = random.Random(seed)
    with db.connect("app") as session:
        for _ in range(60):
            rule = dice.choice(RULES)
            try:
                if dice.random() < 0.2:
                    session.execute(PUT.encode(), [rule, rule])
                else:
                    session.execute(dice.choice(ACTS).encode(), [rule])
            except psycopg.Error as error:
                assert error.sqlstate == "55000", error  # an earlier run goes on; it is not paused
            assert session.execute(TOO_MANY.encode()).fetchall() == []


def test_no_two_runs_that_must_not_overlap(fx: Database) -> None:
    clock(fx, 0)
    for rule in RULES:
        fx.sql(PUT, rule, rule)
    with Crew(fx, 2, 2, interrupts=False) as crew, ThreadPoolExecutor(2) as pool:
        results = [pool.submit(meddle, fx, seed) for seed in range(2)]
        minute = 0
        while not all(result.done() for result in results) and minute < 600:
            minute += 1
            clock(fx, minute)
        for result in results:
            result.result()
        fx.rows("select df.pause_schedule(name) from df.schedules")
        fx.admin(CLOCK_AHEAD.format("2000 days"))
        crew.settled()
    assert fx.sql("select count(*) from df.schedule_ticks where status = 'failed'") == 0
    assert problems(fx) == []


def ticked(db: Database, count: int, anywhere: bool = False) -> bool:
    """Whether so many ticks have had their effect; anywhere: or are just being made."""
    return db.sql("select count(*) from ticked") == count or (anywhere and db.admin(SCHEDULES_QUEUED) > 0)


def test_workers_that_are_killed_lose_and_double_no_tick(fx: Database) -> None:
    """Three workers, of which one is killed at each hour; each tick has its effect once."""
    fx.sql("create table ticked (at timestamptz)")
    clock(fx, 0)
    fx.sql("""select df.schedule('hourly', '0 * * * *', 'insert into ticked values ($input.scheduled_for::timestamptz)',
                                 overlap => 'allow', catch_up => '1 day')""")
    dice = random.Random(7)
    workers = [WorkerProcess(fx).logged("registered", 60) for _ in range(3)]
    try:
        for hour in range(1, 7):
            clock(fx, 60 * hour)
            fx.admin("select df.run()")
            place = dice.randrange(3)
            wait_until(partial(ticked, fx, hour, anywhere=bool(hour % 2)), 60)
            workers[place].kill()
            workers[place] = WorkerProcess(fx)
        wait_until(partial(ticked, fx, 6), 60)
        wait_until(lambda: fx.sql("select bool_and(status = 'completed') from df.instances"), 60)
    finally:
        for worker in workers:
            worker.kill()
    expected = [(NOON + timedelta(hours=hour),) for hour in range(1, 7)]
    assert fx.rows("select at from ticked order by at") == expected
    assert fx.rows("select scheduled_for from df.schedule_ticks where status = 'started' order by 1") == expected
    assert problems(fx) == []
