"""A step that was cancelled keeps its row of the queue locked until it has ended.

Retention waited for that, with the connection that acts for every role.
"""

from tests.engine.test_retention import left, pass_now
from tests.state import ENDED, STEP_LOCKED
from tests.support import Database


def test_a_run_whose_step_still_runs_is_left_alone(db: Database) -> None:
    runs = [db.sql("select df.start('select 1')") for _ in range(2)]
    db.admin("set lock_timeout = '5s'")
    with db.connect(autocommit=False) as step:
        step.execute(STEP_LOCKED, runs[:1])
        for run in runs:
            db.admin(ENDED, "cancelled", 365, 0, run)
        assert pass_now(db) == 1
        assert left(db) == runs[:1]
        step.rollback()
    pass_now(db)
    assert left(db) == []
