"""Keys of one role passed the steps of another in a shared line; what the end of a step had called was locked too."""

from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from tests.state import QUEUE
from tests.support import Database, Pump

LINE = f"select submitter::regrole::text from {QUEUE} where waits_for is not null order by turn, id"


@pytest.fixture
def shared_limit(db: Database) -> Database:
    db.admin("select df.set_limit('shared', 2, shared => true)")
    return db


@contextmanager
def no_place_is_free(db: Database) -> Iterator[None]:
    with db.connect(None, autocommit=False) as steps:
        steps.execute("select from df_engine.limit_places for update")
        yield


def in_line(db: Database, role: str, key: str, steps: int) -> None:
    """Lets steps of a role, of which each has its key, come to a limit that has no place."""
    flow = f"df.within('shared', 'select 1', {key})"
    db.sql(f"select count(df.start({flow})) from generate_series(1, {steps}) i", user=role)
    with closing(Pump(db, role)) as pump:
        pump.work()


def test_roles_take_turns_whatever_their_keys_are(shared_limit: Database) -> None:
    with no_place_is_free(shared_limit):
        in_line(shared_limit, "other", "''", 3)
        in_line(shared_limit, "app", "'key ' || i", 5)
    line = [role for (role,) in shared_limit.rows(LINE, user=None)]
    assert line == ["other", "app", "other", "app", "other", "app", "app", "app"]


def test_a_transaction_that_stays_open_after_a_step_keeps_none_of_another_role(shared_limit: Database) -> None:
    with no_place_is_free(shared_limit):
        in_line(shared_limit, "other", "''", 3)
    with shared_limit.connect(None, autocommit=False) as app:
        app.execute("select df_engine.leave_limits('app'::regrole, '{\"shared\": \"\"}')")
        with closing(Pump(shared_limit, "other")) as other:
            for _ in range(3):
                other.tick()
                other.work()
        done = shared_limit.sql("select count(*) from df.instances where status = 'completed'", user="other")
    assert done == 3
