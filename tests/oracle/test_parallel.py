"""Many sessions and supervisors at once: what does not depend on who is faster is as the oracle says."""

import os

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.crash.crew import Crew
from tests.oracle.engine import Engine, prepare
from tests.oracle.generate import independent
from tests.oracle.play import Case, Play
from tests.oracle.steps import LIMIT
from tests.support import Database

EXAMPLES = int(os.environ.get("ORACLE_EXAMPLES", "0"))


@settings(
    max_examples=EXAMPLES // 25 or 3,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(st.lists(independent(), min_size=25, max_size=25))
def check(db: Database, cases: list[Case]) -> None:
    engine = Engine(db)
    plays = []
    for case in cases:
        play = Play(engine, case, now=float("inf"))
        for act in case.acts:
            assert act
            play.act(*act)
        plays.append(play)
    with Crew(db, 5, 2, interrupts=False) as crew:
        crew.settled()
    engine.pump.close()
    for play in plays:
        # which steps come too late is nobody's choice
        if db.sql("select count(*) from fx where run = %s", play.run.id) < LIMIT:
            play.look()
            play.ordered = False
            play.compare_end()


def test_runs_side_by_side_end_as_the_oracle_says(db: Database) -> None:
    prepare(db)
    check(db)
