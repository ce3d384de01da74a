"""What the oracle keeps: scopes with their names, rows of nodes, what is pending, signals."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from tests.oracle.tree import Node
from tests.oracle.values import Value

NOTHING = Value(None)


@dataclass
class Error:
    """An error text: what was put before the text of the node that failed first, and fragments of that text."""

    source: Node | None
    prefix: str
    fragments: tuple[str, ...] = ()
    retryable: bool = False
    fatal: bool = False
    """No loop continues after it."""
    code: str = ""
    """The SQLSTATE, where it is known."""
    parts: tuple["Error", ...] = ()
    """Of an ANY: the errors of its branches."""

    def within(self, prefix: str) -> "Error":
        return replace(self, prefix=prefix + self.prefix)


@dataclass
class Ending:
    """How a node ended: ok, broke or failed."""

    kind: str
    value: Value = NOTHING
    error: Error | None = None


@dataclass
class Row:
    """What df.nodes shows of a node."""

    status: str = "pending"
    stamp: str = ""
    value: Value = NOTHING
    error: Error | None = None
    attempts: int = 0

    @property
    def ended(self) -> bool:
        return self.status in ("completed", "failed")

    def go_on(self, stamp: str) -> None:
        self.status, self.stamp, self.value, self.error = "running", stamp, NOTHING, None


@dataclass
class Scope:
    """A part of the graph that iterates on its own. `own`: names bound in it; `names`: and those it began with."""

    id: str
    top: Node
    names: dict[str, Value] = field(default_factory=dict)
    own: dict[str, Value] = field(default_factory=dict)
    parent: "Scope | None" = None
    generation: int = 1

    @property
    def stamp(self) -> str:
        return f"{self.id}::{self.generation}"

    def bind(self, name: str, value: Value) -> None:
        self.names[name] = self.own[name] = value

    def take_names(self, child: "Scope") -> None:
        """What a branch or a loop hands on."""
        for name, value in child.own.items():
            self.bind(name, value)

    def next_generation(self) -> None:
        self.generation += 1
        if not self.parent:
            self.names.clear()
            self.own.clear()


@dataclass
class Sent:
    """A signal."""

    name: str
    data: Any
    status: str = "pending"
    to: list[Node] = field(default_factory=list)


@dataclass
class Called:
    """A run that a CALL has started. No status: it was stopped when it was just ending, so it has either."""

    input: Any
    status: str = "running"


@dataclass
class Pending:
    """What may happen next: a leaf that may end, an IF that cannot be judged, a loop whose next iteration is due.

    `seconds` is how long a SLEEP sleeps, or what a CALL has called; None: what it was given is unusable, and `code`
    says why. `called` is the run that it has called.
    A wait is `open` once a worker has begun with it; `answer` is the signal that ends it.
    """

    node: Node
    scope: Scope
    then: Callable[[Ending], None]
    due: float = 0
    attempts: int = 0
    seconds: float | None = None
    open: bool = False
    answer: Sent | None = None
    called: "Called | None" = None
    code: str = ""
