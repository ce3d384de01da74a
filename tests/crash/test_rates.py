"""Rates while sessions are killed: within no interval more steps begin than they say."""

from tests.crash.crew import problems
from tests.crash.test_limits import KILL_ONE, SPAN, sessions_that_are_replaced
from tests.engine.test_limits import within
from tests.engine.test_rates import MOST_WITHIN
from tests.state import UNFINISHED
from tests.support import Pump, wait_until


def test_no_more_steps_begin_than_a_rate_says_while_sessions_are_killed(pump: Pump) -> None:
    """By their own clocks; of those that were killed nothing is left, but they have spent a grant, too."""
    db = pump.db
    db.sql("create table spans (key text, began timestamptz, ended timestamptz)")
    db.sql("create view begun as select began as at from spans")
    db.sql("select df.set_limit('api', 3, 40, '2 s')")
    flow = within(SPAN.format(key="a"))
    db.sql(f"select count(df.start({flow} ~> {flow})) from generate_series(1, 100)")
    killed = 0
    with sessions_that_are_replaced(db, 4):

        def ended() -> bool:
            nonlocal killed
            killed += int(db.admin(KILL_ONE))
            return not db.admin(UNFINISHED)

        wait_until(ended, 240, "all runs to end")
    assert killed > 10
    assert db.sql("select count(*) from spans") == 200
    assert db.sql("select count(*) from df.instances where status <> 'completed'") == 0
    assert 10 < int(str(db.sql(MOST_WITHIN, "2 s"))) <= 40
    assert problems(db) == []
