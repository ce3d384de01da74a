"""Graphs at random. Every iteration of a loop has a step, so that none runs for ever: there is a limit."""

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from tests.oracle import steps
from tests.oracle.play import Case
from tests.oracle.steps import Column, Step
from tests.oracle.tree import Node, labelled

NAMES = ("a", "b", "c")
KINDS = ("SQL", "SQL", "SQL", "BLOCK")
BREAK_VALUES = (
    None, "5", '"x"', "plain", "", '{"row_count": 2}', "$a?", "$b", '[{v_num}, "$a?"]', "$z {v_brace}", "$a.v",
    "{v_ref}",
)  # fmt: skip
SIGNALS = ("go", "go", "stop")
DATA = ("{}", "7", "it's text", '{"ok": [true]}')
INPUTS = (None, "5", '{"k": [{v_num}, null]}', "$a", '"$b?"', '["$c.v"]', "{v_ref}")
DURATIONS = ("$a", "{v_num}", "$b.v?")
POLICIES = (
    None, {"max_attempts": 1}, {"max_attempts": 2, "initial_delay": 0}, {"max_attempts": 3, "retry_on": ["22"]},
    {"max_attempts": 3, "initial_delay": 2, "backoff": 3, "retry_on": ["transient", "23505"]},
)  # fmt: skip

CONSTANTS = (
    steps.const("1", 1), steps.const("0", 0), steps.const("-5", -5), steps.const("true", True),
    steps.const("false", False), steps.const("null::int", None), steps.const("'no'", "no"),
    steps.const("' 0.0 '", " 0.0 "),
    steps.const("'off'", "off"), steps.const("''", ""), steps.const("'it''s {v_none}'", "it's {v_none}"),
    steps.const("'[]'::jsonb", []), steps.const("'{\"k\": [1, null]}'::jsonb", {"k": [1, None]}),
    steps.const("{v_num}", 7),
)  # fmt: skip
SAFE = tuple(map(steps.read, ("$a?", "$b?", "$c?")))
TEXTS = tuple(map(steps.quoted, ("$b? {v_ref}", "$z $a?", "{v_brace} {sys_label}")))
RISKY = (
    *map(steps.read, ("$a", "$b", "$c", "$a.v", "$b.w?", "$b.data", "$c.nope?", "$z", "$item.v?", "$item_no")),
    *map(steps.quoted, ("<$a>", "$c.v", "$a.v?")),
)


def columns(risky: bool = False) -> st.SearchStrategy[tuple[Column, ...]]:
    """One column, or two whose order in JSON is not theirs."""
    one = st.sampled_from(RISKY if risky else CONSTANTS + SAFE + TEXTS)
    two = st.tuples(st.sampled_from([steps.const("2", 2, "w"), steps.const("null::text", None, "w")]), one)
    return one.map(lambda column: (column,)) | two


def step(acts: bool = True) -> st.SearchStrategy[Step]:
    """A step that shows what it sees, or one that runs as it is."""
    return st.builds(lambda step, blind: replace(step, blind=blind), seeing(acts), st.booleans())


@st.composite
def seeing(draw: st.DrawFn, acts: bool = True) -> Step:
    kinds = ["plain"] * 9 + ["fewer"] * 3 + ["none", "rows", "risky"]
    kind = draw(st.sampled_from(kinds + ["act", "trips"] * acts))
    if kind == "fewer":
        return Step((steps.fewer(draw(st.integers(1, 3))),))
    if kind == "act":
        signals = [steps.send(name, "7") for name in SIGNALS]
        return Step((draw(st.sampled_from([*signals * 2, steps.cancel("by itself")])),))
    if kind == "none":
        return Step(rows=None)
    if kind == "trips":
        code = st.sampled_from(["40001", "22012", "23505"])
        return Step(draw(columns()), 1, draw(st.integers(1, 3)), draw(code), draw(st.sampled_from(POLICIES)))
    return Step(draw(columns(kind == "risky")), draw(st.sampled_from([0, 2])) if kind == "rows" else 1)


class Builder:
    """Draws a graph from the top; `room` is the number of nodes that may still come."""

    def __init__(self, draw: st.DrawFn, room: int) -> None:
        self.draw = draw
        self.room = room
        self.loops = 0
        self.sealed = 0  # constructs around that may hold no UNDO

    def pick(self, *choices: Any) -> Any:
        return self.draw(st.sampled_from(choices))

    def node(self, depth: int = 0) -> Node:
        self.room -= 1
        make = self.pick(*(self.constructs() if self.room > 1 and depth < 7 else self.leaves()))
        sealing = make.__name__ in ("loop", "race", "any_", "timeout", "map")
        self.sealed += sealing
        node: Node = make(depth + 1)
        self.sealed -= sealing
        node.name = self.pick(None, None, None, *NAMES)
        return node

    def leaves(self) -> list[Any]:
        breaks = [self.break_] * (4 if self.loops else self.pick(0, 0, 0, 0, 0, 1))
        return [*[self.sql] * 9, self.sleep, self.sleep, self.signal, self.signal, self.schedule, self.call, *breaks]

    def constructs(self) -> list[Any]:
        nested = [self.if_, self.if_rows, self.loop, self.loop, self.join, self.join, self.race, self.race]
        nested += [self.any_, self.catch, self.catch, self.timeout, self.timeout, self.call, *[self.map] * 2]
        nested += self.undoes(4)
        return [self.sql, *[self.then] * 6, *nested, *([self.break_] if self.loops else [])]

    def sql(self, _: int) -> Node:
        return Node(self.pick(*KINDS), step=self.draw(step()))

    def sleep(self, _: int) -> Node:
        return Node("SLEEP", config=self.pick("0", "0.5", "2", "10", *({"duration": text} for text in DURATIONS)))

    def signal(self, _: int) -> Node:
        return Node("SIGNAL", config={"signal_name": self.pick(*SIGNALS), "timeout_seconds": self.pick(None, 1, 5)})

    def schedule(self, _: int) -> Node:
        return Node("WAIT_SCHEDULE", config={"cron_expr": self.pick("* * * * *", "*/5 * * * *")})

    def call(self, depth: int) -> Node:
        seconds, value = self.pick("0", "0.5", "2", "10"), self.pick("row", "row", "slept", "error")
        return Node("CALL", config={"seconds": seconds, "value": value, "input": self.pick(*INPUTS)})

    def break_(self, _: int) -> Node:
        return Node("BREAK", config={"break_value": self.pick(*BREAK_VALUES)})

    def then(self, depth: int) -> Node:
        return Node("THEN", self.node(depth), self.node(depth))

    def if_(self, depth: int) -> Node:
        otherwise = self.pick(self.node, self.node, None)
        return Node("IF", self.node(depth), otherwise and otherwise(depth), self.node(depth))

    def if_rows(self, depth: int) -> Node:
        config = {"condition_type": "result_has_rows", "result_name": self.pick(*NAMES, "z")}
        decision = Node("IF", self.node(depth), self.node(depth), config=config)
        rows = Node("SQL", step=Step((steps.const("1", 1),), self.pick(0, 1, None)), name=config["result_name"])
        return self.pick(Node("THEN", rows, decision), Node("THEN", rows, decision), decision)  # type: ignore[no-any-return]

    def loop(self, depth: int) -> Node:
        """With a condition that is a step, or a body that begins with one."""
        self.loops += 1
        self.room -= 2
        if self.pick(True, False):
            loop = Node("LOOP", self.node(depth), condition=self.judge(depth))
        else:
            loop = Node("LOOP", Node("THEN", self.sql(depth), self.node(depth)))
        loop.config = self.pick(None, None, {"continue_on_failure": True})
        self.loops -= 1
        return loop

    def judge(self, depth: int) -> Node:
        self.room -= 1
        step = Node("SQL", step=Step((steps.fewer(self.pick(1, 2, 3)),)))
        return self.pick(step, step, Node("THEN", self.sql(depth), self.node(depth)))  # type: ignore[no-any-return]

    def join(self, depth: int) -> Node:
        extras = [self.node(depth) for _ in range(self.pick(0, 0, 1, 3))]
        return Node("JOIN", self.node(depth), self.node(depth), extras=extras)

    def race(self, depth: int) -> Node:
        extras = [self.node(depth) for _ in range(self.pick(0, 0, 0, 1, 2))]
        return Node("RACE", self.node(depth), self.node(depth), extras=extras)

    def any_(self, depth: int) -> Node:
        extras = [self.node(depth) for _ in range(self.pick(0, 0, 1))]
        return Node("ANY", self.node(depth), self.node(depth), extras=extras)

    def catch(self, depth: int) -> Node:
        config = self.pick(None, None, {"errors": ["22012"]}, {"errors": ["40", "23505"]}, {"errors": ["22", "42"]})
        return Node("CATCH", self.node(depth), self.node(depth), config=config)

    def undoes(self, weight: int) -> list[Any]:
        return [] if self.sealed else [self.undo] * weight

    def failing(self, _: int) -> Node:
        return Node("SQL", step=Step((steps.const("1", 1),), 1, 9, self.pick("22012", "23505")))

    def undo(self, depth: int) -> Node:
        step = self.node(depth)
        self.sealed += 1
        undo = Node("UNDO", step, self.node(depth))
        self.sealed -= 1
        return self.pick(undo, undo, Node("THEN", undo, self.failing(depth)))  # type: ignore[no-any-return]

    def map(self, depth: int) -> Node:
        self.room -= 1
        items = Node("SQL", step=Step(self.draw(columns()), self.pick(0, 1, 2, 3), blind=self.pick(True, False)))
        on_error = self.pick("fail", "stop", "collect")
        config = {"parallel": 1, "on_error": on_error} | ({"collect_values": False} if on_error == "collect" else {})
        return Node("MAP", self.node(depth), condition=items, config=config)

    def timeout(self, depth: int) -> Node:
        otherwise = self.node(depth) if self.pick(True, False) else None
        return Node("TIMEOUT", self.node(depth), otherwise, config={"after": self.pick(0.25, 1.5, 3, 20)})


SENT = st.tuples(st.just("signal"), st.sampled_from(SIGNALS), st.sampled_from(DATA))
TWO = st.tuples(st.just("signal"), *[st.sampled_from(SIGNALS), st.sampled_from(DATA)] * 2)
UNDONE = st.just(("undo", "so"))
ACTS = st.none() | SENT | TWO | SENT | SENT | st.none() | SENT | st.just(("cancel", "why")) | UNDONE


class Independent(Builder):
    """Graphs whose outcome does not depend on who is faster: one runner a race, one wait a signal."""

    maps = 0

    def map(self, depth: int) -> Node:
        self.maps += 1
        node = super().map(depth)
        self.maps -= 1
        return node

    def sql(self, _: int) -> Node:
        return Node(self.pick(*KINDS), step=self.draw(step(acts=False)))

    def sleep(self, _: int) -> Node:
        return Node("SLEEP", config=self.pick("0", "0.01"))

    def signal(self, depth: int) -> Node:
        if self.loops or self.maps:
            return self.sleep(depth)
        return Node("SIGNAL", config={"signal_name": f"w{self.room}", "timeout_seconds": None})

    def schedule(self, depth: int) -> Node:
        return self.sleep(depth)

    def call(self, depth: int) -> Node:
        value = self.pick("row", "slept", "error")
        return Node("CALL", config={"seconds": self.pick("0", "0.01"), "value": value, "input": self.pick(*INPUTS)})

    def loop(self, depth: int) -> Node:
        self.loops += 1
        self.room -= 1
        loop = Node("LOOP", self.node(depth), condition=Node("SQL", step=Step((steps.fewer(self.pick(1, 2, 3)),))))
        self.loops -= 1
        return loop

    def race(self, depth: int) -> Node:
        never = Node("SIGNAL", config={"signal_name": "never", "timeout_seconds": None})
        return Node("RACE", *self.pick([self.node(depth), never], [never, self.node(depth)]))

    def any_(self, depth: int) -> Node:
        """None: a branch that fails leaves it to the other one, which waits for ever or is as fast as it is."""
        return self.race(depth)

    def timeout(self, depth: int) -> Node:
        return Node("TIMEOUT", self.node(depth), self.pick(None, self.sql(depth)), config={"after": 86400})


class Retrying(Builder):
    """Steps that are tried again, beside waits, in branches and in races that are run again."""

    def leaves(self) -> list[Any]:
        return [*[self.sql] * 6, *[self.signal] * 4, self.sleep, *([self.break_] * 2 if self.loops else [])]

    def constructs(self) -> list[Any]:
        handled = [self.catch, self.any_, self.timeout, *self.undoes(2)]
        return [*[self.then] * 2, *[self.join] * 2, *[self.race] * 2, *[self.loop] * 4, *handled]

    def loop(self, depth: int) -> Node:
        self.loops += 1
        loop = Node("LOOP", self.race(depth), condition=Node("SQL", step=Step((steps.fewer(self.pick(1, 2)),))))
        loop.config = self.pick(None, {"continue_on_failure": True})
        self.loops -= 1
        return loop

    def race(self, depth: int) -> Node:
        return Node("RACE", self.pick(self.sql, self.node)(depth), self.pick(self.signal, self.node)(depth))

    def sql(self, _: int) -> Node:
        policy = self.pick(*POLICIES, {"max_attempts": 2, "initial_delay": 2})
        return Node(self.pick(*KINDS), step=Step((steps.const("1", 1),), 1, self.pick(0, 1, 2, 3), "40001", policy))


class Undoing(Builder):
    """Steps that are undone, in sequences, branches and catches, beside waits during which the run is cancelled."""

    def leaves(self) -> list[Any]:
        return [*[self.sql] * 6, *[self.sleep] * 2, *[self.signal] * 4, self.failing]

    def constructs(self) -> list[Any]:
        handled = [*[self.catch] * 3, *[self.join] * 3, self.if_, self.race]
        return [*[self.then] * 4, *self.undoes(8), *handled]

    def sql(self, _: int) -> Node:
        return Node("SQL", step=self.draw(step(acts=self.pick(True, False, False, False))))


@st.composite
def independent(draw: st.DrawFn) -> Case:
    """Sends each wait its signal in advance."""
    root = Independent(draw, draw(st.integers(4, 24))).node()
    waits = {node.config["signal_name"]: None for node in root.walk() if node.type == "SIGNAL"}
    return Case(labelled(root), [("signal", name, "1") for name in waits if name != "never"])


@st.composite
def cases(draw: st.DrawFn) -> Case:
    root = Builder(draw, draw(st.integers(1, 24))).node()
    return Case(labelled(root), draw(st.lists(ACTS, max_size=5)))


@st.composite
def undoing(draw: st.DrawFn) -> Case:
    root = Undoing(draw, draw(st.integers(4, 24))).node()
    acts = st.none() | UNDONE | UNDONE | SENT | SENT | st.just(("cancel", "why"))
    return Case(labelled(root), [draw(st.none() | SENT), *draw(st.lists(acts, max_size=6))])


@st.composite
def retrying(draw: st.DrawFn) -> Case:
    root = Retrying(draw, draw(st.integers(2, 10))).node()
    return Case(labelled(root), draw(st.lists(st.none() | SENT | SENT, max_size=8)))
