"""Random graphs that fail or are cancelled, and are resumed: they end as one left alone, each step done once.

Every construct stands in every other one. They are stopped when they rest, and in the middle; more than once; and with
either commit policy.
"""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.test_resume import broken, put, quiet, sound
from tests.oracle.test_graphs import profile
from tests.support import Database, Pump, Run

NEVER = put("never")
FAILS = "'select 1 / 0'"
ROWS = "'select g as v from generate_series(1, {}) g'"
SEALED = ("race", "any", "timeout", "loop", "condition", "continues", "map", "collect")
"""What may hold no UNDO."""
TWICE = ("loop", "condition", "continues")
TWO = ("join", "wide", "then", "caught")
LEAVES = ("step", "step", "step", "signal", "signal", "block", "instant")
CONSTRUCTS = (
    "seq", "seq", "then", "join", "wide", "race", "any", "timeout", "if", "asked", "else", "rows", "loop", "condition",
    "continues", "map", "map", "collect", "call", "catch", "handler", "any error", "caught", "undo",
)  # fmt: skip


class Flow:
    """The text of a random flow; its steps have numbers and say what the names are that they see.

    `steady`: a step of it that fails would change what it does, so its steps do not.
    """

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.steps = 0
        self.names = 0
        self.room = 14
        self.times = 1  # how often what is drawn now may run
        self.sealed = 0
        self.steady = False
        self.undoes = False
        self.text = self.part(5, [])
        if self.undoes and self.among("fails", "completes") == "fails":
            self.text = f"({self.text}) ~> {FAILS}"

    def among(self, *choices: str) -> str:
        return str(self.draw(st.sampled_from(choices)))

    def effect(self, text: str, known: list[str]) -> str:
        seen = ", ".join(f"'{name}=', ${name}" for name in known[-3:])
        return f"$s$insert into fx (t, seen) values ('{text}', concat({seen or 'null'})) returning t as v$s$"

    def step(self, known: list[str]) -> str:
        self.steps += 1
        return self.effect(f"s{self.steps}", known)

    def leaf(self, kind: str, known: list[str]) -> str:
        if kind == "block":
            return f"df.block({self.effect('b', known)}, {self.step(known)})"
        if kind == "signal":
            return "df.wait_for_signal('go')"
        if kind == "instant":
            return self.among("df.sleep(0)", "df.sleep_until('2000-01-01')", "df.wait_for('select 1')")
        return self.step(known)

    def part(self, depth: int, known: list[str]) -> str:
        self.room -= 1
        constructs = [kind for kind in CONSTRUCTS if kind != "undo" or not self.sealed]
        kind = self.among(*(constructs if depth > 0 and self.room > 0 and self.draw(st.integers(0, 5)) else LEAVES))
        if kind in LEAVES or (kind in (*TWICE, "map", "collect") and self.times > 3):
            return self.leaf(kind, known)
        return self.construct(kind, depth, known)

    def construct(self, kind: str, depth: int, known: list[str]) -> str:
        self.names += 1
        name = f"n{self.names}"
        rows = int(self.among("1", "2", "3", "5")) if kind in ("map", "collect") else 2 if kind in TWICE else 1
        around = self.sealed, self.times
        self.times *= rows
        self.sealed = 0 if kind == "call" else self.sealed + (kind in SEALED)
        self.steady = self.steady or kind in ("collect", "continues", "undo")
        self.undoes = self.undoes or kind == "undo"
        here = {"seq": [*known, name], "call": [], "map": [*known, "item_no"], "collect": [*known, "item_no"]}
        before = self.step(known)
        inner = self.part(depth - 1, here.get(kind, known))
        second = self.part(depth - 1, known) if kind in TWO else ""
        self.sealed, self.times = around
        counted, zero = f"'select ${name} + 1 as k' |=> '{name}'", f"'select 0 as k' |=> '{name}'"
        parallel, stop = self.among("1", "2", "3"), self.among("fail", "stop")
        return {
            "seq": f"({before} |=> '{name}') ~> ({inner})",
            "then": f"({inner}) ~> ({second})",
            "join": f"(({inner}) & ({second})) ~> {before}",
            "wide": f"df.all({second}, {before}, {inner})",
            "race": f"df.race({inner}, df.sleep(100000) ~> {NEVER})",
            "any": f"df.any({inner}, {FAILS}) ~> {before}",
            "timeout": f"df.timeout({inner}, '10 hours') ~> {before}",
            "if": f"df.if({before} ~> 'select true', {inner}, {NEVER})",
            "asked": f"df.if(({inner}) ~> 'select true', {before})",
            "else": f"df.if('select false', {NEVER}, {inner})",
            "rows": f"({before} |=> '{name}') ~> df.if_rows('{name}', {inner}, {NEVER})",
            "loop": f"({zero}) ~> df.loop(({inner}) ~> ({counted}) ~> df.if('select ${name} = 2', df.break()))",
            "condition": f"({zero}) ~> df.loop({counted}, ({inner}) ~> 'select ${name} < 2')",
            "continues": f"({zero}) ~> df.loop(({inner}) ~> ({counted}), 'select ${name} < 2', true)",
            "map": f"df.map({ROWS.format(rows)}, {inner}, {parallel}, '{stop}')",
            "collect": f"df.map({ROWS.format(rows)}, {inner}, {parallel}, 'collect') ~> {before}",
            "call": f"{before} ~> df.call({inner})",
            "catch": f"df.catch({inner}, {NEVER}, array['P0001'])",
            "handler": f"df.catch({before} ~> {FAILS}, {inner}, array['22'])",
            "any error": f"df.catch({FAILS}, {inner})",
            "caught": f"df.catch(({inner}) ~> {FAILS}, {second}, array['22012'])",
            "undo": f"({before} |=> '{name}') ~> df.undo({inner}, {self.effect(f'u{self.names}', [*known, name])})",
        }[kind]


@st.composite
def flows(draw: st.DrawFn) -> Flow:
    return Flow(draw)


@pytest.fixture(scope="module")
def pump(shared: Database) -> Iterator[Pump]:
    shared.sql("create table fx (t text, seen text)")
    pump = Pump(shared)
    broken(pump)
    yield pump
    pump.close()


def effects(db: Database) -> list[tuple[str, str]]:
    return sorted(db.rows("select t, seen from fx"))


def rest(pump: Pump) -> None:
    pump.until(lambda: quiet(pump), 60)
    sound(pump.db)


def a_little(pump: Pump, transactions: int) -> None:
    """So many transactions of a session, then what is due."""
    for _ in range(transactions):
        pump.session.execute("call df_engine.work(0, false, null)")
    pump.tick()
    sound(pump.db)


def signal(pump: Pump) -> None:
    pump.db.sql("select df.signal(id, 'go') from df.instances where status in ('pending', 'running')")


def to_the_end(pump: Pump, run: Run) -> None:
    """Sends signals until it has ended, or does not move any more."""
    for _ in range(200):
        rest(pump)
        if run.ended():
            break
        signal(pump)


def finish(pump: Pump, run: Run) -> tuple[list[tuple[str, str]], str]:
    """What the run has done in the end, and its status."""
    to_the_end(pump, run)
    left = effects(pump.db)
    pump.db.sql("delete from fx")
    return left, run.status


def undisturbed(pump: Pump, flow: Flow, policy: str) -> tuple[list[tuple[str, str]], str]:
    """What a flow does, and how it ends, when nothing fails and nobody stops it."""
    pump.db.sql("select df.cancel(id) from df.instances where status in ('pending', 'running')")
    pump.db.sql("delete from fx")
    pump.db.admin("select df.set_setting('commit_policy', %s)", policy)
    broken(pump)
    return finish(pump, pump.start(flow.text))


def resume(pump: Pump, run: Run, stopped: tuple[str, ...]) -> None:
    if run.status in stopped:
        broken(pump)
        assert pump.db.sql("select df.resume(%s)", run.id) == "OK"
        sound(pump.db)


def test_what_is_resumed_ends_as_if_it_had_been_left_alone(pump: Pump) -> None:
    @profile(80)
    @given(flows(), st.sampled_from(["strict", "relaxed"]), st.data())
    def agree(flow: Flow, policy: str, data: st.DataObject) -> None:
        expected = undisturbed(pump, flow, policy)
        run = pump.start(flow.text)
        breakable = [] if flow.steady else [f"s{n}" for n in range(1, flow.steps + 1)]
        names = st.sampled_from(breakable) if breakable else st.nothing()
        stopped = ("cancelled",) if flow.undoes else ("cancelled", "failed")
        for _ in range(data.draw(st.integers(1, 4))):
            broken(pump, *(data.draw(st.sets(names, max_size=3)) if breakable else ()))
            for transactions in data.draw(st.lists(st.integers(0, 9), max_size=3)):
                if transactions > 6:
                    rest(pump)
                else:
                    a_little(pump, transactions)
                signal(pump)
            if not run.ended() and data.draw(st.sampled_from([True, True, False])):
                pump.db.sql("select df.cancel(%s)", run.id)
                sound(pump.db)
            resume(pump, run, stopped)
        broken(pump)
        rest(pump)
        resume(pump, run, stopped)
        assert finish(pump, run) == expected, (flow.text, run.error)

    agree()
