"""Random flows without compensations: whatever is skipped of them, the rest is done once."""

from hypothesis import strategies as st

from tests.engine.test_resume import put

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
