"""One case: a graph and what is done to its run, played on the engine with the oracle following."""

import json
from dataclasses import dataclass, field, replace
from typing import Any

from tests.oracle.engine import Change, Engine
from tests.oracle.inference import inferred
from tests.oracle.interpreter import Disagreement, Oracle
from tests.oracle.state import Error
from tests.oracle.steps import VARIABLES
from tests.oracle.tree import LEAVES, SESSION_STEPS, Node
from tests.oracle.values import json_text

ROUNDS = 30
Act = tuple[str, ...] | None


@dataclass
class Case:
    """A graph, and what is done each time its run rests, first before it begins: signals, a cancel, or nothing."""

    root: Node
    acts: list[Act] = field(default_factory=list)

    def _repr_pretty_(self, printer: Any, _: bool) -> None:
        """What Hypothesis prints, and one can paste into a session that has the steps' table and functions."""
        graph = json.dumps(self.root.envelope(), indent=2)
        printer.text(f"\nselect df.start($graph${graph}$graph$, 'oracle');\n-- then, at each rest: {self.acts}\n")


def follow(oracle: Oracle, change: Change) -> None:
    """Tells the oracle what the log says."""
    node = change.node
    oracle.shown[node] = change.stamp
    if change.status in ("completed", "failed"):
        if node.type in LEAVES or (node in oracle.pending and (node.type == "IF" or oracle.is_over(node))):
            try:
                oracle.ended_leaf(node)
            except Disagreement as error:
                raise Disagreement(f"{error}; the engine says {change.status}: {json_text(change.result)}") from None
            if node.type == "TIMEOUT" and node.right:
                return
            row = oracle.ends[node]
            same(f"status and stamp of {node.label}", (change.status, change.stamp), (row.status, row.stamp))
            if change.status == "completed":
                same(f"value of {node.label}", json_text(change.result), json_text(row.value.json))
    elif change.retry_at is not None:
        oracle.tried(node, change.retry_at)
    elif node.type == "SIGNAL":
        oracle.opened(node)
    elif node.type == "CALL":
        oracle.called(node)


def same(what: str, engine: Any, oracle: Any) -> None:
    if engine != oracle:
        raise Disagreement(f"{what}: the engine says {engine}, the oracle {oracle}")


ROWS = """
select id, status, status_details ->> 'execution_id', result, error, attempts from df.nodes where instance_id = %s"""


class Play:
    """A case on its way. `ordered`: one session does it all, so effects and signals are committed as they are made."""

    ordered = True

    def __init__(self, engine: Engine, case: Case, now: float = 0) -> None:
        self.engine = engine
        self.case = case
        self.run, self.ids = engine.begin(case.root)
        self.nodes = {id: node for node, id in self.ids.items()}
        variables = VARIABLES | {"sys_instance_id": self.run.id, "sys_label": "oracle"}
        self.oracle = Oracle(case.root, self.run.id, self.ids, now, variables=variables)
        self.changes: list[Change] = []

    def through(self) -> None:
        """To the end of the run, and compares at every rest."""
        self.engine.move_clock(0)
        first, *rest = self.case.acts or [None]
        self.round(first, still=True)
        for act in [*rest, *[None] * ROUNDS][:ROUNDS]:
            self.round(act)
        self.round(("cancel", "enough"))
        self.engine.let_go()
        self.look()
        self.compare_end()

    def abandon(self) -> None:
        """Nothing of the run may happen while the next one is played: their steps count their tries together."""
        self.engine.let_go()
        self.engine.db.sql("select df.cancel(%s, 'abandoned')", self.run.id)

    def round(self, act: Act, still: bool = False) -> None:
        """Something happens, by default time passes; then the run goes on until it rests again."""
        if act:
            self.act(*act)
        elif not still and not self.oracle.ended:
            self.pass_time()
        if act or not self.oracle.ended:
            self.engine.settle()
            self.look()

    def act(self, kind: str, *details: str) -> None:
        if kind == "signal":
            for name, data in zip(details[::2], details[1::2], strict=True):
                self.engine.db.sql("select df.signal(%s, %s, %s)", self.run.id, name, data)
                self.oracle.send(name, data)
        elif kind == "undo":
            self.engine.db.sql("select df.cancel(%s, %s, undo => true)", self.run.id, *details)
            self.oracle.cancel_and_undo(*details)
        else:
            self.engine.db.sql("select df.cancel(%s, %s)", self.run.id, *details)
            self.oracle.cancel(*details)

    def pass_time(self) -> None:
        """To the next moment at which something is due; where nothing is, the run waits for a signal and gets one."""
        due = self.oracle.next_due()
        if due == float("inf"):
            wait = next(iter(self.oracle.pending))
            self.act("signal", wait.config["signal_name"], "[]")
        else:
            self.engine.move_clock(due)
            self.oracle.move_clock(due)

    def look(self) -> None:
        """Compares what has happened, and what has not."""
        changes = self.engine.changes(self.run, self.nodes, len(self.changes))
        self.changes += changes
        for change in changes:
            follow(self.oracle, change)
        same("nodes left alone", [], self.left_alone())
        same("the end", self.run.ended(), self.oracle.ended)
        undo_status = self.engine.db.sql("select undo_status from df.instances where id = %s", self.run.id)
        same("undo_status", undo_status, self.oracle.undo_status)
        self.compare_states()

    def left_alone(self) -> list[str]:
        return [node.label for node in self.oracle.overdue()]

    def compare_states(self) -> None:
        """What monitoring infers."""
        rows = self.engine.db.rows(
            "select node_id, inferred_status, inferred_status_from_ancestor_id from df.instance_nodes(%s)", self.run.id
        )
        shown = {self.nodes[id]: (status, ancestor) for id, status, ancestor in rows}
        for node, (status, decider) in inferred(self.oracle).items():
            same(f"inferred status of {node.label}", *map(self.loosely, (shown[node][0], status)))
            if status == "skipped":
                same(f"decider of {node.label}", shown[node][1], decider and self.ids[decider])

    def loosely(self, status: str) -> str:
        """When a node that has been begun is shown as running is left open."""
        return "unfinished" if status in ("pending", "running") else status

    def compare_end(self) -> None:
        """Compares what the run has left."""
        oracle, run, db = self.oracle, self.run, self.engine.db
        same("status", run.status, oracle.status)
        effects = db.rows("select step, seen from fx where run = %s order by id", run.id)
        same("effects", *(x if self.ordered else sorted(x) for x in (effects, oracle.effects)))
        ended = [(c.node.label, c.status, c.stamp) for c in self.changes if c.status in ("completed", "failed")]
        same("history", self.recorded(ended), self.recorded(oracle.history))
        self.compare_rows()
        value = oracle.rows[oracle.root].value.json
        completed = oracle.rows[oracle.root].status == "completed"
        same("result", db.sql("select df.result(%s)", run.id), json_text(value) if completed else None)
        count = db.sql("select execution_count from df.list_instances() where instance_id = %s", run.id)
        same("generations", count, oracle.scope.generation)
        self.compare_signals()
        self.compare_calls()

    def recorded(self, history: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
        """Without what may have no outcome of its own: what became of them is worked out when somebody asks."""
        structure = {
            node.label
            for node in self.case.root.walk()
            if node.type in ("THEN", "IF", "CATCH", "MAP", "UNDO") or (node.type == "TIMEOUT" and node.right)
        }
        return sorted(entry for entry in history if entry[0] not in structure)

    def compare_rows(self) -> None:
        rows = {self.nodes[row[0]]: row[1:] for row in self.engine.db.rows(ROWS, self.run.id)}
        errors = {node: row[3] or "" for node, row in rows.items()}
        for node, (status, stamp, result, error, attempts) in rows.items():
            row = self.oracle.rows[node]
            if row.ended and (status == row.status or node not in self.oracle.entered):
                same(f"status and stamp of {node.label}", (status, stamp), (row.status, row.stamp))
                self.compare_error(node.label, error, row.error, errors)
                same(f"result of {node.label}", json_text(result), json_text(error if error else row.value.json))
                if node.type in SESSION_STEPS:
                    same(f"attempts of {node.label}", attempts, row.attempts)
            else:
                same(f"status of {node.label}", self.loosely(status), "unfinished")
        self.compare_error("the run", self.run.error or None, self.oracle.error, errors)

    def compare_error(self, what: str, text: str | None, error: Error | None, texts: dict[Node, str]) -> None:
        """The text of the node that failed first is free but for fragments; all others follow from it."""
        if not error:
            same(f"error of {what}", text, None)
            return
        if error.parts and any(part.source and not texts[part.source] for part in error.parts):
            same(f"parts of {what}", [part.prefix for part in error.parts if part.prefix not in (text or "")], [])
            return  # one of them is in an earlier item of a map
        if error.parts:
            error = replace(
                error, source=None, prefix=error.prefix + self.joined(error, texts), fragments=("",), parts=()
            )
        core = texts[error.source] if error.source else error.fragments[0]
        if not core and text and text.startswith(error.prefix):
            return  # the node that failed first is in a later iteration
        same(f"error of {what}", text, error.prefix + core)
        missing = [fragment for fragment in error.fragments if fragment not in core]
        same(f"fragments not in {core}", missing, [])

    def joined(self, error: Error, texts: dict[Node, str]) -> str:
        """The errors of the branches of an ANY, all in one."""
        return "; ".join(
            part.prefix + (self.joined(part, texts) if part.parts else texts[part.source] if part.source else "")
            for part in error.parts
        )

    def compare_signals(self) -> None:
        rows = self.engine.db.rows(
            "select signal_name, signal_data, status, delivered_to from df.signals where instance_id = %s "
            "order by signal_id", self.run.id,
        )  # fmt: skip
        shown = [(name, json_text(data), status, sorted(to or [])) for name, data, status, to in rows]
        sent = [
            (s.name, json_text(s.data), s.status, sorted(self.ids[node] for node in s.to)) for s in self.oracle.inbox
        ]
        same("signals", *(x if self.ordered else sorted(x) for x in (shown, sent)))

    def compare_calls(self) -> None:
        """What it has called, with which input, and what has become of it."""
        rows = self.engine.db.rows("select input, status from df.instances where parent_id = %s", self.run.id)
        shown = sorted((json_text(given), status) for given, status in rows)
        for call in sorted(self.oracle.calls, key=lambda call: call.status, reverse=True):
            fits = [row for row in shown if row[0] == json_text(call.input) and call.status in (row[1], "")]
            same(f"a called run with input {json_text(call.input)} that is {call.status}", bool(fits), True)
            shown.remove(fits[0])
        same("called runs", shown, [])
