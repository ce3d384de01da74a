"""Random graphs that fail or are cancelled, and are resumed: they end as one left alone, each step done once."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.test_resume import broken, notes, put, quiet, sound
from tests.oracle.test_graphs import profile
from tests.support import Database, Pump, Run

NEVER = put("never")
ROWS = "'select g as v from generate_series(1, {}) g'"


class Flow:
    """The text of a random flow; its steps have numbers, some names that later ones refer to."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.steps = 0
        self.names = 0
        self.text = self.part(4, [])

    def among(self, *choices: str) -> str:
        return str(self.draw(st.sampled_from(choices)))

    def step(self, known: list[str]) -> str:
        self.steps += 1
        value = "t"
        if known and bool(self.draw(st.booleans())):
            value = f"concat(t, $n{self.draw(st.sampled_from(known))})"
        return put(f"s{self.steps}", value)

    def part(self, depth: int, known: list[str]) -> str:
        kinds = ["step", "step", "signal"]
        if depth > 0:
            kinds += ["seq", "seq", "join", "race", "timeout", "if", "loop", "map", "call", "catch", "handler", "then"]
        kind = self.among(*kinds)
        if kind == "step":
            return self.step(known)
        if kind == "signal":
            return "df.wait_for_signal('go')"
        self.names += 1
        name = str(self.names)
        here = [*known, name] if kind == "seq" else [] if kind == "call" else known
        before = self.step(known)
        inner = self.part(depth - 1, here)
        second = self.part(depth - 1, known) if kind in ("join", "then") else ""
        return {
            "seq": f"({before} |=> 'n{name}') ~> ({inner})",
            "join": f"(({inner}) & ({second})) ~> {before}",
            "then": f"({inner}) ~> ({second})",
            "call": f"{before} ~> df.call({inner})",
            "race": f"df.race({inner}, df.sleep(100000) ~> {NEVER})",
            "timeout": f"df.timeout({inner}, '10 hours') ~> {before}",
            "if": f"df.if({before} ~> 'select true', {inner}, {NEVER})",
            "loop": f"('select 0 as k' |=> 'k{name}') ~> df.loop(({inner}) ~> "
            f"('select $k{name} + 1 as k' |=> 'k{name}') ~> df.if('select $k{name} = 2', df.break()))",
            "map": f"df.map({ROWS.format(self.draw(st.integers(1, 5)))}, {inner}, {self.draw(st.integers(1, 3))}, "
            f"'{self.among('fail', 'stop')}')",
            "catch": f"df.catch({inner}, {NEVER}, array['P0001'])",
            "handler": f"df.catch({before} ~> 'select 1/0', {inner})",
        }[kind]


@st.composite
def flows(draw: st.DrawFn) -> tuple[str, int]:
    flow = Flow(draw)
    return flow.text, flow.steps


@pytest.fixture(scope="module")
def pump(shared: Database) -> Iterator[Pump]:
    shared.sql("create table fx (i int, t text)")
    pump = Pump(shared)
    broken(pump)
    yield pump
    pump.close()


def rest(pump: Pump) -> None:
    pump.until(lambda: quiet(pump), 30)
    sound(pump.db)


def signal(pump: Pump) -> None:
    pump.db.sql("select df.signal(id, 'go') from df.instances where status in ('pending', 'running')")


def finish(pump: Pump, run: Run) -> tuple[list[str], str]:
    for _ in range(100):
        rest(pump)
        if run.ended():
            break
        signal(pump)
    left = notes(pump.db)
    pump.db.sql("delete from fx")
    return left, run.status


def test_what_is_resumed_ends_as_if_it_had_been_left_alone(pump: Pump) -> None:
    @profile(60)
    @given(flows(), st.data())
    def agree(flow: tuple[str, int], data: st.DataObject) -> None:
        text, steps = flow
        pump.db.sql("select df.cancel(id) from df.instances where status in ('pending', 'running')")
        pump.db.sql("delete from fx")
        broken(pump)
        expected = finish(pump, pump.start(text))
        run = pump.start(text)
        names = st.sampled_from([f"s{n}" for n in range(1, steps + 1)]) if steps else st.nothing()
        for _ in range(data.draw(st.integers(1, 4))):
            broken(pump, *(data.draw(st.sets(names, max_size=3)) if steps else ()))
            for _ in range(data.draw(st.integers(0, 3))):
                rest(pump)
                signal(pump)
            rest(pump)
            if not run.ended() and data.draw(st.booleans()):
                pump.db.sql("select df.cancel(%s)", run.id)
                sound(pump.db)
            if run.status in ("failed", "cancelled"):
                broken(pump)
                assert pump.db.sql("select df.resume(%s)", run.id) == "OK"
                sound(pump.db)
        broken(pump)
        rest(pump)
        if run.status == "failed":
            pump.db.sql("select df.resume(%s)", run.id)
        assert finish(pump, run) == expected, (text, run.error)

    agree()
