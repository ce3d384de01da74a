"""df.test against the reference interpreter, on graphs at random whose signals come from mocks.

The oracle reads what the engine has logged in the test. Its clock begins at 0, and so does that of the log.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.oracle.engine import Change, prepare
from tests.oracle.generate import DATA, SIGNALS, Builder, Retrying, Undoing
from tests.oracle.interpreter import MICROSECOND, Oracle
from tests.oracle.play import Case, Play, follow, same
from tests.oracle.state import Scope
from tests.oracle.steps import VARIABLES
from tests.oracle.test_graphs import profile
from tests.oracle.tree import SESSION_STEPS, Node, labelled
from tests.oracle.values import as_json, json_text
from tests.state import TESTED_NODES, VIRTUAL_LOG
from tests.support import Database

TEST = """
select status, value, error, extract(epoch from at)::float
from df.test(%s, mocks => %s, steps => 1000) order by no"""
BEGUN = "select run, extract(epoch from at at time zone 'UTC')::float from public.tested"
CHANGES = """
select l.node, l.status, l.stamp, extract(epoch from l.retry_at - t.at)::float, l.result,
       extract(epoch from l.at - t.at)::float
from public.log l join public.tested t on t.run = l.run order by l.id"""
TIMED = ("SLEEP", "WAIT_SCHEDULE")


def laid_out(node: Node) -> Iterator[Node]:
    """In the order of their numbers: the condition of a LOOP comes after its body."""
    yield node
    for child in sorted(node.children, key=lambda child: node.type == "LOOP" and child is node.condition):
        yield from laid_out(child)


class Mocked(Case):
    """A graph, and the mocks of its signals: a value, or several in order."""

    def __init__(self, root: Node, signals: dict[str, Any]) -> None:
        super().__init__(labelled(root))
        self.signals = signals
        self.envelope = json.dumps(root.envelope())
        self.mocks = json.dumps({"signals": signals})

    def _repr_pretty_(self, printer: Any, _: bool) -> None:
        """What Hypothesis prints, and one can paste into a session that has the steps' table and functions."""
        printer.text(f"\nselect * from df.test($graph${self.envelope}$graph$, mocks => '{self.mocks}');\n")


@st.composite
def mocked(draw: st.DrawFn, builder: type[Builder]) -> Mocked:
    """A wait that has no time-out gets a signal however often it waits."""
    root = builder(draw, draw(st.integers(1, 10 if builder is Retrying else 24))).node()
    waits = [node.config for node in root.walk() if node.type == "SIGNAL"]
    endless = {wait["signal_name"] for wait in waits if wait["timeout_seconds"] is None}
    data = st.sampled_from(DATA).map(as_json)
    return Mocked(
        root, {name: draw(data if name in endless else data | st.lists(data, max_size=3)) for name in set(SIGNALS)}
    )


@dataclass
class Virtual(Oracle):
    """The oracle with a clock that begins at 0, when it is `begun` seconds after 1970."""

    begun: float = 0

    def leaf(self, node: Node, scope: Scope, then: Callable[..., None]) -> None:
        super().leaf(node, scope, then)
        if node.type == "WAIT_SCHEDULE":
            self.now += self.begun
            super().leaf(node, scope, then)
            self.now -= self.begun
            self.pending[node].due -= self.begun

    def move_clock_to(self, now: float) -> None:
        """The log has microseconds, and here are sums of floating-point numbers."""
        for wait in self.pending.values():
            if abs(wait.due - now) <= 2 * MICROSECOND:
                wait.due = now
        if now > self.now:
            same("what was due before", [], [p.node.label for p in self.pending.values() if p.due < now])
            self.move_clock(now)


class VirtualPlay(Play):
    """A case in df.test: all of it happens at once, and then the oracle follows the log."""

    def __init__(self, db: Database, case: Mocked) -> None:
        self.db = db
        self.case = case
        self.signals = case.signals
        self.mocks_used = dict.fromkeys(case.signals, 0)
        self.changes = []
        db.admin("truncate public.log, public.tested")
        for node in case.root.walk():
            if node.step.trips:
                db.sql("select setval(%s, 1, false)", f"tries_{node.label}")
        self.rows = db.rows(TEST, case.envelope, case.mocks)
        [(run, begun)] = db.rows(BEGUN, user=None)
        nodes = list(laid_out(case.root))
        ids = [id for (id,) in db.rows(TESTED_NODES, run, len(nodes), user=None)]
        self.nodes = dict(zip(ids, nodes, strict=True))
        self.places = {node: place for place, node in enumerate(nodes)}
        variables = VARIABLES | {"sys_instance_id": run, "sys_label": ""}
        self.oracle = Virtual(case.root, run, dict(zip(nodes, ids, strict=True)), variables=variables, begun=begun)

    def through(self) -> None:
        for node, status, stamp, retry_at, result, at in self.db.rows(CHANGES, user=None):
            change = Change(self.nodes[node], status, stamp, retry_at, result)
            self.oracle.move_clock_to(at)  # type: ignore[attr-defined]
            self.send_mock(change)
            self.compare_due(change)
            self.compare_order(change)
            follow(self.oracle, change)
            self.changes.append(change)
        self.compare_end()

    def send_mock(self, change: Change) -> None:
        """That of a wait which has ended though no step has sent it a signal, and its time was not over."""
        wait = self.oracle.pending.get(change.node)
        if not wait or change.node.type != "SIGNAL" or change.status != "completed" or wait.answer:
            return
        if not change.result["timed_out"]:
            name = wait.node.config["signal_name"]
            mock, used = self.signals[name], self.mocks_used[name]
            self.mocks_used[name] += 1
            self.oracle.send(name, json.dumps(mock[used] if isinstance(mock, list) else mock))

    def compare_due(self, change: Change) -> None:
        """A step runs when it is due: one that is tried again, and the check of a WAIT_FOR."""
        wait = self.oracle.pending.get(change.node)
        if wait and change.node.type in SESSION_STEPS:
            same(f"when {change.node.label} runs", True, wait.due <= self.oracle.now)

    def compare_order(self, change: Change) -> None:
        """What is due at the same time happens in the order of the graph."""
        if change.node.type in TIMED and change.status == "completed":
            before = [
                wait.node.label
                for wait in self.oracle.pending.values()
                if wait.node.type in TIMED and wait.due <= self.oracle.now
                and self.places[wait.node] < self.places[change.node]
            ]  # fmt: skip
            same("what comes before it in the graph", [], before)

    def compare_end(self) -> None:
        oracle = self.oracle
        status, value, error, at = self.rows[-1]
        same("status", status, oracle.status)
        same(
            "effects", self.db.rows("select step, seen from fx where run = %s order by id", oracle.run), oracle.effects
        )
        ended = [(c.node.label, c.status, c.stamp) for c in self.changes if c.status in ("completed", "failed")]
        same("history", self.recorded(ended), self.recorded(oracle.history))
        if oracle.ended:  # else it is out of steps
            same("nodes left alone", [], self.left_alone())
            same("duration", abs(at - oracle.now) <= 2 * MICROSECOND, True)
        if status == "completed":
            same("result", json_text(value), json_text(oracle.rows[oracle.root].value.json))
        texts = dict.fromkeys(self.places, "") | {c.node: c.result for c in self.changes if c.status == "failed"}
        self.compare_error("the run", error, oracle.error, texts)


@pytest.fixture(scope="module")
def db(shared: Database) -> Database:
    prepare(shared)
    shared.admin(VIRTUAL_LOG)
    return shared


@pytest.mark.parametrize(("builder", "examples"), [(Builder, 150), (Retrying, 50), (Undoing, 80)])
def test_a_test_and_the_oracle_agree(db: Database, builder: type[Builder], examples: int) -> None:
    @profile(examples)
    @given(mocked(builder))
    def agree(case: Mocked) -> None:
        VirtualPlay(db, case).through()

    agree()
