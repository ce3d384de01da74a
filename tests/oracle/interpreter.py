"""The reference interpreter: what the contract says a run does.

It follows a run. Where the contract leaves open what comes next (which of several branches, when a worker looks), the
oracle is told what did: `opened`, `called`, `tried` and `ended_leaf` name a node, which must be one that may do so now.
All that follows from it, it works out itself.
"""

import re
from dataclasses import dataclass, field

from tests.oracle.constructs import Constructs
from tests.oracle.state import Called, Ending, Error, Pending, Sent
from tests.oracle.steps import Moment, StepFailed, first_effect
from tests.oracle.tree import Node, ancestors
from tests.oracle.values import Refused, Unknown, Value, as_json

SECONDS = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)\s*")
MICROSECOND = 1e-6  # times are kept in whole ones


class Disagreement(AssertionError):
    """The engine did what the contract does not allow."""


@dataclass
class Oracle(Constructs):
    """One run."""

    variables: dict[str, str] = field(default_factory=dict)
    status: str = "pending"
    error: Error | None = None
    ends_as: tuple[str, Error | None] | None = None
    """How a run ends that is being undone."""
    inbox: list[Sent] = field(default_factory=list)
    effects: list[tuple[str, str]] = field(default_factory=list)
    calls: list[Called] = field(default_factory=list)
    tries: dict[Node, int] = field(default_factory=dict)
    """The stamps that the engine shows: when it says of a node that it runs is left open."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.enter(self.root, self.scope, self.over)

    # what happens to the run from outside

    @property
    def ended(self) -> bool:
        return self.status in ("completed", "failed", "cancelled")

    def send(self, name: str, data: str) -> None:
        """A signal: to every open wait of its name, else kept."""
        signal = Sent(name, as_json(data))
        self.inbox.append(signal)
        for wait in self.waits(name):
            self.answer(wait, signal)
        if self.ended:
            signal.status = "undeliverable"

    def keep(self, signal: Sent, node: Node) -> None:
        """A signal whose wait is gone before it has ended is not consumed: it is for another one, open or to come."""
        signal.to.remove(node)
        if not signal.to:
            signal.status = "pending"
            waits = self.waits(signal.name)
            for wait in waits[:1]:
                self.answer(wait, signal)
            self.unclear = "which wait gets a signal" if len(waits) > 1 else self.unclear

    def answer(self, wait: Pending, signal: Sent) -> None:
        wait.answer = signal
        signal.status = "delivered"
        signal.to.append(wait.node)

    def waits(self, name: str) -> list[Pending]:
        """The open waits of a name."""
        return [p for p in self.pending.values() if p.open and not p.answer and p.node.config["signal_name"] == name]

    def cancel(self, reason: str) -> None:
        if not self.ended:
            self.finish(*self.ends_as or ("cancelled", Error(None, "", (f"canceled: {reason}",))))

    def cancel_and_undo(self, reason: str) -> None:
        """All stops but for compensations that have begun; the others follow them."""
        if self.ended or self.ends_as:
            return
        self.ends_as = "cancelled", Error(None, "", (f"canceled: {reason}",))
        begun = self.open_compensations()
        kept = {node for each in begun if each.node.right for node in each.node.right.walk()}
        self.drop(self.root, kept)
        for each in begun:
            each.follows = self.undo_the_rest
        if not begun:
            self.undo_the_rest()

    def undo_the_rest(self) -> None:
        if not self.open_compensations():
            self.compensate(self.root, self.undone_all)

    def undone_all(self) -> None:
        assert self.ends_as
        self.finish(*self.ends_as)

    def begin(self) -> None:
        """Picked up."""
        if self.status == "pending":
            self.status = "running"

    def over(self, end: Ending) -> None:
        if end.error:
            self.ends_as = "failed", end.error
            self.undo_the_rest()
        else:
            self.finish("completed", None)

    def finish(self, status: str, error: Error | None) -> None:
        self.status, self.error = status, error
        if self.open_compensations():
            self.undo_status = "failed"
        self.drop(self.root)
        for signal in self.inbox:
            if signal.status == "pending":
                signal.status = "undeliverable"

    def next_due(self) -> float:
        return min((p.due for p in self.pending.values()), default=float("inf"))

    def overdue(self) -> list[Node]:
        """What a worker that says it has nothing to do has left undone."""
        return [
            p.node
            for p in self.pending.values()
            if p.answer or p.due <= self.now or (p.node.type == "SIGNAL" and not p.open)
        ]

    # what the run has done

    def take(self, node: Node) -> Pending:
        if node not in self.pending:
            raise Disagreement(f"{node.type} {node.label} may not do anything now")
        return self.pending[node]

    def opened(self, node: Node) -> None:
        """A wait is open; the oldest kept signal, if any, is for it."""
        wait = self.take(node)
        self.begin()
        wait.open = True
        kept = [s for s in self.inbox if s.status == "pending" and s.name == node.config["signal_name"]]
        if kept and not wait.answer:
            self.answer(wait, kept[0])

    def called(self, node: Node) -> None:
        """A CALL has started a run."""
        call = self.take(node)
        self.begin()
        if not call.called:
            raise Disagreement(f"{node.label} has nothing to call with")
        self.calls.append(call.called)

    def tried(self, node: Node, due: float) -> None:
        """A try of a step failed, and there will be another."""
        step = self.take(node)
        self.begin()
        end = self.try_step(step)
        step.attempts += 1
        step.due = due
        if not end.error or not end.error.retryable or step.attempts >= node.step.attempts:
            raise Disagreement(f"no reason to try {node.label} again: {end}")
        if not -MICROSECOND <= due - self.now <= node.step.longest_delay(step.attempts) + MICROSECOND:
            raise Disagreement(f"{node.label} is tried again at {due}, now is {self.now}")

    def ended_leaf(self, node: Node) -> None:
        """A leaf has ended, or an IF that could not be judged."""
        leaf = self.take(node)
        self.begin()
        if node.type == "SIGNAL" and not leaf.open:
            self.opened(node)
        ends = {"SQL": self.end_step, "BLOCK": self.end_step, "SIGNAL": self.end_signal}
        end = ends.get(node.type, self.end_other)(leaf)
        if node in self.pending:
            del self.pending[node]
            leaf.then(end)
        elif node.type != "TIMEOUT":
            self.close(node, leaf.scope, end)  # it has cancelled its own run

    def end_step(self, step: Pending) -> Ending:
        end = self.try_step(step)
        step.attempts += 1
        self.rows[step.node].attempts = step.attempts
        if end.error and end.error.retryable and step.attempts < step.node.step.attempts:
            raise Disagreement(f"{step.node.label} was not tried again: {end}")
        return end

    def try_step(self, step: Pending) -> Ending:
        node = step.node
        done = [label for label, _ in self.effects]
        moment = Moment(
            self.names(step.scope), self.variables, done.count(node.label), len(done), self.tries.get(node, 0)
        )
        try:
            value = node.step.run(moment, node.type == "BLOCK")
        except Refused as refused:
            end = self.failure(node, *refused.args)
            assert end.error
            end.error.fatal = isinstance(refused, Unknown)
            return end
        except StepFailed as failed:
            self.tries[node] = moment.tries + 1
            end = self.failure(node, "SQL execution failed", *failed.args)
            assert end.error
            end.error.retryable = node.step.retryable(failed.args[0])
            end.error.code = failed.args[0]
            return end
        self.tries[node] = moment.tries + 1
        if node.type == "BLOCK":
            self.effects.append((first_effect(node.label), moment.seen()))
        self.effects.append((node.label, moment.seen() if node.step.sees else ""))
        for signal in moment.signals:
            self.send(*signal)
        if moment.cancel:
            self.cancel(moment.cancel)
        return Ending("ok", value)

    def end_signal(self, wait: Pending) -> Ending:
        value = {"signal_name": wait.node.config["signal_name"], "timed_out": not wait.answer, "data": None}
        if wait.answer:
            value["data"] = wait.answer.data
        elif wait.due > self.now:
            raise Disagreement(f"no signal for {wait.node.label}, and its time is not up")
        return Ending("ok", Value(value))

    def end_other(self, leaf: Pending) -> Ending:
        node = leaf.node
        if leaf.due > self.now:
            raise Disagreement(f"{node.label} ends at {leaf.due}, not at {self.now}")
        if node.type == "SLEEP" and leaf.seconds is not None:
            return Ending("ok", Value({"slept": True, "seconds": as_json(f"{leaf.seconds:g}")}))
        if node.type == "CALL":
            return self.end_call(leaf)
        if node.type == "TIMEOUT":
            return self.failure(node, "timeout after")
        if node.type == "WAIT_SCHEDULE":
            return Ending("ok", Value({"scheduled": True}))
        if node.type in ("IF", "SLEEP"):
            end = self.failure(node)
            assert end.error
            end.error.code = leaf.code
            return end
        return self.break_ending(leaf)

    def call(self, leaf: Pending) -> None:
        text = leaf.node.config["input"]
        try:
            text = text and Moment(self.names(leaf.scope), self.variables).text(text)
        except Refused:
            return
        given = as_json(text)
        if text is not None and given == text:  # as it is, so it is no JSON
            leaf.code = "22P02"
            return
        leaf.seconds = float(leaf.node.config["seconds"])
        leaf.due = self.now + leaf.seconds
        leaf.called = Called(given)

    def end_call(self, leaf: Pending) -> Ending:
        """The value of the run that was called, or its error, as it is."""
        config = leaf.node.config
        if not leaf.called or config["value"] == "error":
            end = self.failure(leaf.node, "division by zero" if leaf.called else "CALL: ")
            assert end.error
            end.error.code = "22012" if leaf.called else leaf.code
        elif config["value"] == "row":
            end = Ending("ok", Value({"rows": [{"v": 7}], "row_count": 1}, ("v",)))
        else:
            end = Ending("ok", Value({"slept": True, "seconds": as_json(config["seconds"])}))
        if leaf.called:
            leaf.called.status = "failed" if end.error else "completed"
        return end

    def seconds(self, leaf: Pending) -> float | None:
        if isinstance(leaf.node.config, str):
            return float(leaf.node.config)
        try:
            text = Moment(self.names(leaf.scope), self.variables).text(leaf.node.config["duration"])
        except Refused:
            return None
        seconds = float(text) if SECONDS.fullmatch(text) else -1
        if seconds >= 0:
            return seconds
        leaf.code = "22023"
        return None

    def break_ending(self, leaf: Pending) -> Ending:
        text = leaf.node.config["break_value"]
        if not any(node.type == "LOOP" for node in ancestors(leaf.node, self.above)):
            return self.failure(leaf.node, "outside of a loop")
        try:
            moment = Moment(self.names(leaf.scope), self.variables)
            return Ending("broke", Value(as_json(None if text is None else moment.text(text))))
        except Refused as refused:
            return self.failure(leaf.node, *refused.args)
