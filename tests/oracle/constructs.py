"""The constructs of the language, as the contract tells them: no queues, locks or tables."""

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any

from tests.oracle.state import Ending, Error, Pending, Row, Scope, Sent
from tests.oracle.tree import Node, ancestors, is_forever, parents
from tests.oracle.values import Names, Value, truth

KEEP_NO_NAME = ("SLEEP", "WAIT_SCHEDULE", "BREAK")
Then = Callable[[Ending], None]


@dataclass
class Compensation:
    """What undoes a step that has completed. `follows` is what happens when it has ended, once it is open."""

    node: Node
    scope: Scope
    follows: Callable[[], None] | None = None


def end_with(node: Node, above: dict[Node, Node]) -> Iterator[Node]:
    """The node, and those around it that end when it does."""
    yield node
    while node in above:
        part, node = node, above[node]
        last = {"THEN": node.right, "UNDO": node.left}.get(node.type, part)
        if node.type not in ("THEN", "UNDO", "IF", "CATCH") or last is not part or part is node.condition:
            return
        yield node


def branch_name(number: int) -> str:
    """How an error names a branch of a race."""
    return ("left branch", "right branch", f"branch {number + 1}")[min(number, 2)]


@dataclass
class Constructs:
    """A graph that is being run. `now` is the time, in seconds; `pending` is what may happen next."""

    root: Node
    run: str
    ids: dict[Node, str]
    now: float = 0
    pace: float = 1
    rows: dict[Node, Row] = field(default_factory=dict)
    pending: dict[Node, Pending] = field(default_factory=dict)
    entered: set[Node] = field(default_factory=set)
    history: list[tuple[str, str, str]] = field(default_factory=list)
    unclear: str = ""
    shown: dict[Node, str] = field(default_factory=dict)
    ends: dict[Node, Row] = field(default_factory=dict)
    """How nodes have ended last, also in an item of a MAP that is over."""
    handled: dict[Node, str] = field(default_factory=dict)
    """CATCHes and TIMEOUTs whose right side has begun, and their stamps then."""
    held: Node | None = None
    registered: list[Compensation] = field(default_factory=list)
    undone: list[Compensation] = field(default_factory=list)
    """Those that have begun."""
    undo_status: str | None = None
    failed_to_undo: bool = False

    def __post_init__(self) -> None:
        self.rows = {node: Row() for node in self.root.walk()}
        self.scope = Scope(self.run, self.root)
        self.above = parents(self.root)
        loops = [node for node in self.root.walk() if node.type == "LOOP"]
        self.in_loops = {node for loop in loops for node in loop.walk()}

    def hold(self, step: Node) -> None:
        """Nobody knows how long this step takes."""
        self.held = step
        if step in self.pending:
            self.pending[step].due = float("inf")

    def move_clock(self, now: float) -> None:
        """Lets time pass; loops that were held back go on."""
        self.now = now
        for wait in [p for p in self.pending.values() if p.node.type == "LOOP" and p.due <= now]:
            del self.pending[wait.node]
            wait.then(Ending("ok"))

    def names(self, scope: Scope) -> Names:
        known: Names = {node.name: None for node in self.rows if node.name}
        return known | scope.names

    def enter(self, node: Node, scope: Scope, then: Then) -> None:
        """Begins with a node; `then` gets its ending, once it is recorded."""
        self.entered.add(node)
        own = scope if node.type != "LOOP" or scope.top is node else self.open(scope, node)

        def leave(end: Ending) -> None:
            self.close(node, own, end)
            if own is not scope:
                scope.take_names(own)
            if end.kind != "failed" and node.name and node.type not in KEEP_NO_NAME:
                scope.bind(node.name, end.value)
            then(end)

        constructs = {
            "THEN": self.sequence, "IF": self.if_, "LOOP": self.loop, "JOIN": self.join, "RACE": self.race,
            "ANY": self.any_, "CATCH": self.catch, "TIMEOUT": self.timeout, "MAP": self.map,
            "UNDO": self.undo, "WAIT_FOR": self.wait_for,
        }  # fmt: skip
        constructs.get(node.type, self.leaf)(node, own, leave)

    def open(self, parent: Scope, top: Node) -> Scope:
        return Scope(f"{parent.stamp}::{self.ids[top]}", top, dict(parent.names), parent=parent)

    def close(self, node: Node, scope: Scope, end: Ending) -> None:
        self.entered.discard(node)
        row = self.rows[node]
        row.status, row.stamp = "failed" if end.error else "completed", scope.stamp
        row.value, row.error = end.value, end.error
        self.ends[node] = row
        self.history.append((node.label, row.status, row.stamp))

    def leaf(self, node: Node, scope: Scope, then: Then) -> None:
        leaf = self.pending[node] = Pending(node, scope, then)
        if node is self.held:
            leaf.due = float("inf")
        elif node.type == "SLEEP":
            leaf.seconds = self.seconds(leaf)
            leaf.due = self.now + (leaf.seconds or 0)
        elif node.type == "CALL":
            self.call(leaf)
        elif node.type == "WAIT_SCHEDULE":
            minutes = int(node.config["cron_expr"].split()[0].removeprefix("*/").replace("*", "1"))
            leaf.due = (self.now // (60 * minutes) + 1) * 60 * minutes
        elif node.type == "SIGNAL":
            timeout = node.config["timeout_seconds"]
            leaf.due = float("inf") if timeout is None else self.now + timeout

    def seconds(self, leaf: Pending) -> float | None:
        """How long a SLEEP sleeps."""
        raise NotImplementedError

    def call(self, leaf: Pending) -> None:
        """A CALL calls."""
        raise NotImplementedError

    def sequence(self, node: Node, scope: Scope, then: Then) -> None:
        assert node.left and node.right
        right = node.right
        self.enter(node.left, scope, lambda end: self.enter(right, scope, then) if end.kind == "ok" else then(end))

    def if_(self, node: Node, scope: Scope, then: Then) -> None:
        assert node.left
        branches = {True: node.left, False: node.right}

        def branch(taken: bool) -> None:
            chosen = branches[taken]
            if chosen:
                self.enter(chosen, scope, then)
            else:
                then(Ending("ok", Value(None)))

        if node.condition:
            self.enter(node.condition, scope, lambda end: branch(truth(end.value)) if end.kind == "ok" else then(end))
            return
        value = self.names(scope).get(node.config["result_name"])
        count = value.json.get("row_count") if value and isinstance(value.json, dict) else None
        if isinstance(count, int) and not isinstance(count, bool) and count >= 0:
            branch(count > 0)
        else:
            self.pending[node] = Pending(node, scope, then)

    def loop(self, node: Node, scope: Scope, then: Then) -> None:
        assert node.left
        body, condition, started, failures = node.left, node.condition, self.now, 0
        continues = bool(node.config and node.config["continue_on_failure"])
        if not self.rows[node].ended:
            self.rows[node].status = "pending"  # also one that a race around it has left running

        def start(_: Ending) -> None:
            self.enter(body, scope, after_body)

        def after_body(last: Ending) -> None:
            if continues and last.error and not last.error.fatal:
                iterate(failures + 1)
            elif condition and last.kind == "ok":
                self.enter(condition, scope, partial(after_condition, last))
            else:
                after_condition(last, last)

        def after_condition(last: Ending, judged: Ending) -> None:
            if judged.kind == "broke":
                then(Ending("ok", judged.value))
            elif judged.kind == "failed":
                then(judged)
            elif condition and not truth(judged.value):
                then(last)
            else:
                iterate()

        def iterate(failed: int = 0) -> None:
            nonlocal started, failures
            failures = failed
            started = max(self.now, started + self.pace) if is_forever(node) else self.now
            if failed:
                started = max(started, self.now + min(self.pace * 2 ** (failed - 1), 300))
            scope.next_generation()
            self.rows[node].go_on(scope.stamp)
            self.pending[node] = Pending(node, scope, start, started)
            self.move_clock(self.now)

        start(Ending("ok"))

    def join(self, node: Node, scope: Scope, then: Then) -> None:
        scopes = [self.open(scope, branch) for branch in node.branches]
        ends: dict[int, Ending] = {}

        def arrive(number: int, end: Ending) -> None:
            ends[number] = end
            if len(ends) == len(scopes):
                last = decide()
                self.forget_maps(node, last)
                then(last)

        def decide() -> Ending:
            for number, branch in enumerate(scopes):
                end = ends[number]
                if end.error:
                    return Ending("failed", error=end.error.within(f"JOIN branch {number + 1} failed: "))
                scope.take_names(branch)
                if end.kind == "broke":
                    return end
            return Ending("ok", Value([ends[number].value.json for number in range(len(scopes))]))

        self.enter_branches(scopes, arrive)

    def race(self, node: Node, scope: Scope, then: Then) -> None:
        scopes = [self.open(scope, branch) for branch in node.branches]

        def arrive(winner: int, end: Ending) -> None:
            for loser in scopes:
                if loser is not scopes[winner]:
                    self.lose(loser)
            self.forget_maps(node, end)
            if end.error:
                end = Ending("failed", error=end.error.within(f"RACE {branch_name(winner)} failed: "))
            else:
                scope.take_names(scopes[winner])
            then(end)

        self.enter_branches(scopes, arrive)

    def enter_branches(self, scopes: list[Scope], arrive: Callable[[int, Ending], None]) -> None:
        for number, branch in enumerate(scopes):
            self.enter(branch.top, branch, partial(arrive, number))

    def any_(self, node: Node, scope: Scope, then: Then) -> None:
        scopes = [self.open(scope, branch) for branch in node.branches]
        failed: dict[int, Error] = {}

        def arrive(number: int, end: Ending) -> None:
            if not end.error:
                for other in range(len(scopes)):
                    if other != number and other not in failed:
                        self.lose(scopes[other])
                self.forget_maps(node, end)
                scope.take_names(scopes[number])
                then(end)
                return
            failed[number] = end.error.within(f"ANY {branch_name(number)} failed: ")
            if len(failed) == len(scopes):
                parts = tuple(failed[place] for place in sorted(failed))
                fatal = any(part.fatal for part in parts)
                last = Ending("failed", error=Error(node, "", (), False, fatal, parts[0].code, parts))
                self.forget_maps(node, last)
                then(last)

        self.enter_branches(scopes, arrive)

    def catch(self, node: Node, scope: Scope, then: Then) -> None:
        assert node.left and node.right
        body, handler = node.left, node.right
        errors = node.config["errors"] if node.config else None

        def after_body(end: Ending) -> None:
            if end.error and (errors is None or any(item in (end.error.code, end.error.code[:2]) for item in errors)):
                self.handled[node] = scope.stamp
                self.compensate(body, lambda: self.enter(handler, scope, then))
            else:
                then(end)

        self.enter(body, scope, after_body)

    def undo(self, node: Node, scope: Scope, then: Then) -> None:
        assert node.left

        def after_step(end: Ending) -> None:
            if end.kind == "ok":
                names = {part.name: end.value for part in end_with(node, self.above) if part.name}
                kept = Scope(scope.id, scope.top, scope.names | names, parent=scope.parent)
                self.registered.append(Compensation(node, kept))
            then(end)

        self.enter(node.left, scope, after_step)

    def compensate(self, inside: Node, follows: Callable[[], None]) -> None:
        """What is registered in a part of the graph, one after the other, the last one first."""
        below = set(inside.walk())
        due = [each for each in self.registered if each.node in below]
        if not due:
            follows()
            return
        last = due[-1]
        assert last.node.right
        self.registered.remove(last)
        self.undone.append(last)
        self.undo_status = "running"
        last.follows = partial(self.compensate, inside, follows)

        def ended(end: Ending) -> None:
            go_on = last.follows
            assert go_on
            last.follows = None
            self.failed_to_undo = self.failed_to_undo or bool(end.error)
            if not self.open_compensations():
                self.undo_status = "failed" if self.failed_to_undo else "completed"
            go_on()

        self.enter(last.node.right, last.scope, ended)

    def open_compensations(self) -> list[Compensation]:
        return [each for each in self.undone if each.follows]

    def timeout(self, node: Node, scope: Scope, then: Then) -> None:
        assert node.left
        inside = self.open(scope, node.left)
        otherwise = node.right

        def after_body(end: Ending) -> None:
            del self.pending[node]
            if not end.error:
                scope.take_names(inside)
            then(end)

        def time_is_over(end: Ending) -> None:
            self.drop(inside.top)
            self.forget_maps(inside.top, end if otherwise is None else None)
            if otherwise:
                self.handled[node] = scope.stamp
                self.enter(otherwise, scope, then)
            else:
                then(end)

        self.pending[node] = Pending(node, scope, time_is_over, self.now + node.config["after"])
        self.enter(inside.top, inside, after_body)

    def wait_for(self, node: Node, scope: Scope, then: Then) -> None:
        check, every = node.condition, node.config["every"]
        assert check
        last = Value({"rows": [], "row_count": 0})

        def finish(end: Ending) -> None:
            self.pending.pop(node, None)
            then(end)

        def with_timed_out(value: Value, timed_out: bool) -> Ending:
            return Ending("ok", replace(value, json={**value.json, "timed_out": timed_out}))

        def after_check(end: Ending) -> None:
            nonlocal last
            if end.error:
                finish(end)
            elif truth(end.value):
                finish(with_timed_out(end.value, False))
            else:
                last, row = end.value, replace(self.rows[check])
                self.enter(check, scope, after_check)
                self.pending[check].due = self.now + every
                self.entered.discard(check)
                self.rows[check] = row

        def time_is_over(_: Ending) -> None:
            self.drop(check)
            then(with_timed_out(last, True))

        if "timeout" in node.config:
            self.pending[node] = Pending(node, scope, time_is_over, self.now + node.config["timeout"])
        self.enter(check, scope, after_check)

    def map(self, node: Node, scope: Scope, then: Then) -> None:
        """One item at a time, so that it is known which have begun."""
        assert node.left and node.condition
        body, ends = node.left, list[Ending]()

        def finish(end: Ending) -> None:
            self.forget_maps(node, end)
            then(end)

        def begin(rows: list[Any]) -> None:
            if len(ends) == len(rows):
                failed = sum(1 for end in ends if end.error)
                counts = {"ok": len(ends) - failed, "failed": failed}
                finish(
                    Ending(
                        "ok", Value(counts if node.config["on_error"] == "collect" else [e.value.json for e in ends])
                    )
                )
                return
            self.forget(body)
            known = {"item": Value(rows[len(ends)]), "item_no": Value(len(ends) + 1)}
            inside = self.open(scope, body)
            inside.names |= known
            inside.generation = len(ends) + 1
            self.enter(body, inside, partial(arrive, rows))

        def arrive(rows: list[Any], end: Ending) -> None:
            ends.append(end)
            if end.kind == "broke" or (end.error and node.config["on_error"] != "collect"):
                finish(end)
            else:
                begin(rows)

        self.enter(node.condition, scope, lambda end: begin(end.value.json["rows"]) if end.kind == "ok" else then(end))

    def forget(self, top: Node) -> None:
        """What is shown of nodes is that of the last item."""
        for node in top.walk():
            self.rows[node] = Row()
            self.handled.pop(node, None)
            self.shown.pop(node, None)

    def forget_maps(self, construct: Node, end: Ending | None) -> None:
        """Of MAPs in a loop nothing is shown any more, unless it may be with this that the run ends."""
        if end and end.error and self.ends_run(construct, end.error):
            return
        for node in self.in_loops & set(construct.walk()):
            if node.type == "MAP" and node.left:
                self.forget(node.left)

    def ends_run(self, node: Node, error: Error) -> bool:
        """Whether nothing around a construct handles its failure, or another one that may take its place."""
        kinds = {error.code, error.code[:2]}
        replaced = False
        for part, around in pairwise([node, *ancestors(node, self.above)]):
            config = around.config or {}
            body = part is around.left
            if (
                around.type == "CATCH"
                and body
                and ("errors" not in config or not (replaced or kinds.isdisjoint(config["errors"])))
            ):
                return False
            if around.type == "LOOP" and body and config and not replaced and not error.fatal:
                return False
            if (around.type == "UNDO" and not body) or (
                around.type == "MAP" and body and config["on_error"] == "collect"
            ):
                return False
            replaced = replaced or around.type in ("JOIN", "ANY") or (around.type == "MAP" and body)
        return True

    def is_over(self, node: Node) -> bool:
        """The time of a TIMEOUT. In a MAP its next item may have begun before the log says how the last one ended."""
        return node.type in ("TIMEOUT", "WAIT_FOR") and self.pending[node].due <= self.now < float("inf")

    def lose(self, scope: Scope) -> None:
        """Drops what a branch was about to do."""
        self.drop(scope.top)
        if scope.top.type == "LOOP":
            for node in scope.top.walk():
                if node is scope.top or node.type == "SIGNAL":
                    self.shown.pop(node, None)  # a wait that is gone does not say in which iteration it was
            scope.generation = 1
            self.close(scope.top, scope, self.failure(scope.top, "lost", "race"))

    def failure(self, node: Node, *fragments: str) -> Ending:
        return Ending("failed", error=Error(node, "", fragments))

    def drop(self, top: Node, but: Container[Node] = ()) -> None:
        """Nothing below a node happens any more."""
        waits = [self.pending.pop(node) for node in top.walk() if node in self.pending and node not in but]
        for wait in waits:
            if wait.answer:
                self.keep(wait.answer, wait.node)
            if wait.called:
                wait.called.status = "cancelled" if wait.due > self.now else ""

    def keep(self, signal: Sent, node: Node) -> None:
        """A signal is not consumed by the wait it was for."""
        raise NotImplementedError
