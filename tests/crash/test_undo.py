"""Runs that are undone while something of them is under way."""

import random
import time

import pytest

from tests.crash.crew import Crew, problems
from tests.crash.load import FLOWS, Load, prepare
from tests.crash.test_interleavings import STEP_WAITS_FOR, effect, start
from tests.state import WAITS
from tests.support import Database, Pump, wait_until

UNDONE = f"df.undo({effect('a')}, {effect('-a')})"


@pytest.mark.parametrize("decision", ["commit", "rollback"])
def test_a_step_that_runs_while_its_run_is_undone_leaves_nothing(fx: Database, decision: str) -> None:
    """The step has ended when the cancel is made, but for its commit, which waits for what becomes of the cancel."""
    run = start(fx, f"{UNDONE} ~> 'insert into fx select ''s'' from pg_advisory_lock(7)' ~> {effect('b')}")
    with (
        fx.connect() as holder,
        fx.connect("app", autocommit=False) as canceller,
        Crew(fx, 2, interrupts=False) as crew,
    ):
        holder.execute("select pg_advisory_lock(7)")
        wait_until(lambda: fx.admin(STEP_WAITS_FOR) == "advisory", what="the step to wait")
        canceller.execute("set local statement_timeout = '20s'")  # a cancel does not wait for the step
        canceller.execute("select df.cancel(%s, undo => true)", [run])
        holder.execute("select pg_advisory_unlock(7)")
        wait_until(lambda: fx.admin(STEP_WAITS_FOR) in ("tuple", "transactionid"), what="its end to wait")
        canceller.execute(decision)
        crew.settled()
    ended = {"commit": ("cancelled", ["a", "-a"]), "rollback": ("completed", ["a", "s", "b"])}
    left = [name for (name,) in fx.rows("select t from fx order by ctid")]
    assert (fx.sql("select df.status(%s)", run), left) == ended[decision]


def test_a_step_of_a_run_that_is_undone_is_interrupted(fx: Database) -> None:
    """The compensation waits for nobody: another session runs it, and the step that is under way is cancelled."""
    run = start(fx, f"{UNDONE} ~> 'insert into fx select ''s'' from pg_advisory_lock(7)' ~> {effect('b')}")
    with fx.connect() as holder, Crew(fx, 2) as crew:
        holder.execute("select pg_advisory_lock(7)")
        wait_until(lambda: fx.admin(STEP_WAITS_FOR) == "advisory", what="the step to wait")
        fx.sql("select df.cancel(%s, undo => true)", run)
        crew.settled()
    assert [name for (name,) in fx.rows("select t from fx order by ctid")] == ["a", "-a"]


def test_compensations_in_two_branches_that_end_at_the_same_time_are_followed_once(fx: Database) -> None:
    """A cancel has found both open: whichever of them ends last goes on with what is left."""
    prepare(fx)
    branches = [
        f"df.catch(df.undo({effect(n)}, df.wait_for_signal('go') ~> {effect('-' + n)}) ~> 'select 1/0', {effect('h')})"
        for n in "bc"
    ]
    pump = Pump(fx)
    runs = [start(fx, f"{UNDONE} ~> ({branches[0]} & {branches[1]})") for _ in range(20)]
    pump.until(lambda: fx.admin(WAITS) == 40)
    pump.close()
    for run in runs:
        fx.sql("select df.cancel(%s, undo => true)", run)
    assert problems(fx) == []
    with Crew(fx, 6, 2) as crew:
        for run in runs:
            fx.sql("select df.signal(%s, 'go')", run)
        crew.settled()
    expected = [(run, name, 1) for run in sorted(runs) for name in ("-a", "-b", "-c", "a", "b", "c")]
    assert fx.rows('select run, t, count(*) from fx group by run, t order by run, t collate "C"') == expected
    assert fx.rows("select distinct status, undo_status from df.instances") == [("cancelled", "completed")]


def test_whenever_a_run_is_undone_each_thing_is_undone_once(db: Database) -> None:
    prepare(db)
    load, chance = Load(db), random.Random(3)
    sagas = [flow for flow in FLOWS if flow.name.startswith("saga")]
    with Crew(db, 6, 2) as crew:
        for number in range(80):
            run = load.start(sagas[number % 2])
            time.sleep(chance.random() / 25)
            load.undo(run)
        crew.settled()
    assert load.wrong() == []
    assert db.admin("select count(*) from df.instances where status = 'cancelled' and undo_status = 'completed'") > 0
