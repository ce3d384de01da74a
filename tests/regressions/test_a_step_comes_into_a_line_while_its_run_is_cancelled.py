"""A step that came into the line of a limit just when its run was cancelled stayed there until a place was free."""

from concurrent.futures import ThreadPoolExecutor

from tests.crash.crew import problems
from tests.support import Pump, wait_until

CLAIM = "select df_engine.claim_step((select key from df_engine.own_key), null, 0, false)"
WAITS = "select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')"


def test_nothing_of_a_cancelled_run_is_left_in_a_line(pump: Pump) -> None:
    db = pump.db
    db.sql("select df.set_limit('api', 0)")
    run = pump.start("df.within('api', 'select 1')")
    with ThreadPoolExecutor() as threads, db.connect("app", autocommit=False) as session, db.connect("app") as user:
        session.execute(CLAIM)  # the step is in line when this commits
        cancel = threads.submit(user.execute, "select df.cancel(%s)", [run.id])
        wait_until(lambda: cancel.done() or db.admin(WAITS))
        session.commit()
        cancel.result()
    assert run.status == "cancelled"
    assert problems(db) == []
