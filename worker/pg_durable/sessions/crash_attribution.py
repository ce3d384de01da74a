"""Who is to blame when sessions die: the step that ran in one, or something else that ended several."""

from dataclasses import dataclass
from math import inf
from time import monotonic

WINDOW = 0.3  # deaths this close together have one cause
STRONG, WEAK = 4, 1  # how much a death says about its step; the engine fails a step at 12
TERMINATED = "57P01"  # by an administrator, who may be the step itself
CRASH_OF_ANOTHER = "57P02"


@dataclass(frozen=True)
class Loss:
    """A connection that has ended; `told`: the SQLSTATE with which the server said why."""

    at: float
    told: str | None
    kind: str  # call, idle or supervisor
    role: int = 0
    step: tuple[int, str] | None = None  # row of the queue and node, where the session had named them
    server: float = 0.0  # when the server had been started


@dataclass(frozen=True)
class Accusation:
    """What the engine is told."""

    role: int
    ready: int
    node: str
    weight: int


class Inquest:
    """Collects losses until it is clear what else was lost at the same time."""

    def __init__(self) -> None:
        self.server = 0.0  # when the server was started, as it last said
        self._losses: list[Loss] = []
        self._open: list[Loss] = []  # those of calls, not judged yet

    def lost(self, kind: str, told: str | None, role: int = 0, step: tuple[int, str] | None = None) -> None:
        """Notes the end of a connection."""
        loss = Loss(monotonic(), told, kind, role, step, self.server)
        self._losses.append(loss)
        if kind == "call":
            self._open.append(loss)

    def due_at(self) -> float:
        """When the next loss can be judged; infinity without any."""
        return min((loss.at + WINDOW for loss in self._open), default=inf)

    def accusations(self, server: float) -> list[Accusation]:
        """Judges what is long enough ago. The supervising connection is there, to a server that was started then."""
        self.server = server
        before = monotonic() - WINDOW
        weights = [(loss, self._weight(loss, server)) for loss in self._open if loss.at <= before]
        self._open = [loss for loss in self._open if loss.at > before]
        self._losses = [loss for loss in self._losses if loss.at > before - WINDOW]
        return [Accusation(loss.role, *loss.step, weight) for loss, weight in weights if loss.step and weight]

    def _weight(self, loss: Loss, server: float) -> int:
        near = [other for other in self._losses if other is not loss and abs(other.at - loss.at) <= WINDOW]
        supervisor = next((other for other in near if other.kind == "supervisor"), None)
        if loss.told == CRASH_OF_ANOTHER or any(other.kind == "idle" for other in near if supervisor is None):
            return 0
        if supervisor is None:
            others = [other for other in near if other.step is None or other.step != loss.step]
            return WEAK if others or loss.told == TERMINATED else STRONG
        if supervisor.told == CRASH_OF_ANOTHER:
            return 0 if loss.told else STRONG  # the one that is told nothing is the one that has crashed
        # Without a word to anybody: the network, or the end of the whole server.
        return 0 if supervisor.told or server == loss.server else WEAK
