"""Rates while sessions are killed: within no interval more steps begin than they say."""

from tests.crash.crew import problems
from tests.crash.test_limits import SPAN, run_all_while_sessions_are_killed
from tests.engine.test_limits import within
from tests.engine.test_rates import MOST_WITHIN
from tests.support import Pump


def test_no_more_steps_begin_than_a_rate_says_while_sessions_are_killed(pump: Pump) -> None:
    """By their own clocks; of those that were killed nothing is left, but they have spent a grant, too."""
    db = pump.db
    db.sql("create table spans (key text, began timestamptz, ended timestamptz)")
    db.sql("create view begun as select began as at from spans")
    db.sql("select df.set_limit('api', 3, 40, '2 s')")
    flow = within(SPAN.format(key="a"))
    db.sql(f"select count(df.start({flow} ~> {flow})) from generate_series(1, 100)")
    run_all_while_sessions_are_killed(db, 4)
    assert db.sql("select count(*) from spans") == 200
    assert int(str(db.sql(MOST_WITHIN, "2 s"))) <= 40
    assert problems(db) == []
