"""A step is held while it runs: the rest of its run goes on, is cancelled or decides a race; then it may end."""

import threading
from collections.abc import Iterator
from itertools import cycle

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.oracle.engine import Engine, prepare, stop_clock
from tests.oracle.generate import cases
from tests.oracle.play import Case, Play
from tests.oracle.test_graphs import judge, profile
from tests.oracle.tree import SESSION_STEPS
from tests.state import UNLOCKED_WORK_IS_LEFT
from tests.support import Database, Pump, wait_until

GATE = """
create table held (step text);
insert into held values ('');
create function at_gate() returns trigger language plpgsql as $$
begin
  if exists (select from held where step = new.step) then
    perform pg_advisory_xact_lock_shared(4711);
  end if;
  return new;
end $$;
create trigger at_gate before insert on fx for each row execute function at_gate();
"""


class Holding(Engine):
    """Two sessions; one may be held at the gate while the other goes on. `interrupts`: doomed steps are told."""

    def __init__(self, db: Database) -> None:
        super().__init__(db)
        self.limited = cycle([False])  # a step that is held would hold its place
        self.pumps = [self.pump, Pump(db)]
        self.gate = db.connect()
        self.gate.execute("select pg_advisory_lock(4711)")
        self.stuck: dict[Pump, threading.Thread] = {}
        self.interrupts = False
        self.failures: list[psycopg.Error] = []

    def settle(self) -> None:
        for _ in range(100):
            self.stuck = {pump: thread for pump, thread in self.stuck.items() if thread.is_alive()}
            if len(self.stuck) < 2:
                self.work()
            work = self.pump.tick()
            if self.interrupts:
                self.interrupt(work["interrupt"])
            assert self.failures == []
            if len(self.stuck) == 2 or not self.db.admin(UNLOCKED_WORK_IS_LEFT):
                return
        raise AssertionError("the run does not come to rest")

    def work(self) -> None:
        """A call by a session that is free, until it ends or has to wait."""
        pump = next(pump for pump in self.pumps if pump not in self.stuck)
        thread = threading.Thread(target=self.call, args=[pump], daemon=True)
        thread.start()
        wait_until(lambda: not thread.is_alive() or self.waits(pump))
        if thread.is_alive():
            self.stuck[pump] = thread

    def call(self, pump: Pump) -> None:
        try:
            report = pump.work()
            if report.startswith("interrupted:"):
                pump.fail_stopped(report)
        except psycopg.errors.QueryCanceled:
            pass  # the request came when the step was no longer there: a worker calls again
        except psycopg.Error as error:
            self.failures.append(error)

    def waits(self, pump: Pump) -> bool:
        query = "select wait_event_type = 'Lock' from pg_stat_activity where pid = %s"
        return bool(self.db.admin(query, pump.session.info.backend_pid))

    def interrupt(self, pids: list[int]) -> None:
        for pump, thread in list(self.stuck.items()):
            if pump.session.info.backend_pid in pids:
                self.db.admin("select pg_cancel_backend(%s)", pump.session.info.backend_pid)
                thread.join(10)
                del self.stuck[pump]

    def let_go(self) -> None:
        self.gate.execute("select pg_advisory_unlock(4711)")
        for thread in self.stuck.values():
            thread.join(10)
        self.stuck.clear()
        self.gate.execute("select pg_advisory_lock(4711)")
        self.settle()


class HeldPlay(Play):
    """A play in which one step, if there is any, is held whenever it runs."""

    engine: Holding
    ordered = False

    def hold(self, number: int) -> None:
        steps = [node for node in self.case.root.walk() if node.type in SESSION_STEPS]
        if steps:
            self.oracle.hold(steps[number % len(steps)])
            self.engine.db.sql("update held set step = %s", steps[number % len(steps)].label)

    def left_alone(self) -> list[str]:
        if self.engine.stuck and self.oracle.held:
            self.oracle.hold(self.oracle.held)  # also at its next try
        return [] if len(self.engine.stuck) == 2 else super().left_alone()

    def act(self, kind: str, *details: str) -> None:
        if len(self.engine.stuck) == 2:
            self.engine.let_go()  # the second waits for the first, and holds the run
            self.look()
        super().act(kind, *details)

    def pass_time(self) -> None:
        if self.oracle.next_due() == float("inf") and self.engine.stuck:
            self.engine.let_go()
        else:
            super().pass_time()


@pytest.fixture(scope="module")
def engine(shared: Database) -> Iterator[Holding]:
    prepare(shared)
    stop_clock(shared)
    shared.sql(GATE)
    engine = Holding(shared)
    yield engine
    engine.gate.close()
    for pump in engine.pumps:
        pump.close()


def test_what_happens_while_a_step_runs(engine: Holding) -> None:
    @profile(60)
    @given(cases(), st.integers(0, 9), st.booleans())
    def agree(case: Case, number: int, interrupts: bool) -> None:
        engine.let_go()
        engine.interrupts = interrupts
        play = HeldPlay(engine, case)
        play.hold(number)
        judge(play)

    agree()
