"""Random graphs whose steps use up their attempts, and pause their runs: resumed, they end as if nothing had failed."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.test_resume import broken, sound
from tests.oracle.test_graphs import profile
from tests.oracle.test_resumed import Flow, a_little, finish, flows, rest, signal, undisturbed
from tests.support import Database, Pump

BUSY = """
create or replace function refuse() returns trigger language plpgsql as $$
begin
  if exists (select from broken b where b.t = new.t) then
    raise exception '% is busy', new.t using errcode = '55P03';
  end if;
  return new;
end $$"""
PAUSED = (
    "select df.resume(id) from df.instances where wait_reason like 'paused at %: node % has failed 2 times, %busy%'"
)


@pytest.fixture(scope="module")
def pump(shared: Database) -> Iterator[Pump]:
    shared.sql("create table fx (t text, seen text)")
    pump = Pump(shared)
    broken(pump)
    shared.sql(BUSY)
    for name, value in (("exhausted", "pause"), ("max_attempts", "2"), ("initial_delay", "0")):
        shared.admin("select df.set_setting(%s, %s)", f"retry_{name}", value)
    yield pump
    pump.close()


def resume(pump: Pump) -> int:
    """Mends everything, and resumes what is paused; answers how many runs that were."""
    broken(pump)
    resumed = len(pump.db.rows(PAUSED))
    sound(pump.db)
    return resumed


def test_what_was_paused_for_its_attempts_ends_as_if_it_had_never_failed(pump: Pump) -> None:
    pauses = 0

    @profile(60)
    @given(flows(), st.sampled_from(["strict", "relaxed"]), st.data())
    def agree(flow: Flow, policy: str, data: st.DataObject) -> None:
        nonlocal pauses
        expected = undisturbed(pump, flow, policy)
        run = pump.start(flow.text)
        steps = [f"s{n}" for n in range(1, flow.steps + 1)]
        for _ in range(data.draw(st.integers(1, 4))):
            broken(pump, *(data.draw(st.sets(st.sampled_from(steps), max_size=4)) if steps else ()))
            for transactions in data.draw(st.lists(st.integers(0, 9), max_size=3)):
                if transactions > 6:
                    rest(pump)
                else:
                    a_little(pump, transactions)
                signal(pump)
            pauses += resume(pump)
        rest(pump)
        pauses += resume(pump)
        assert finish(pump, run) == expected, (flow.text, run.error)

    agree()
    assert pauses
