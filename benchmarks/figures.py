"""What a measurement answers with: a figure, which is one row of the table."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """What was measured, the value, its target, whether it is met (None: there is no target), and the raw numbers."""

    name: str
    value: float | None
    target: str = ""
    met: bool | None = None
    raw: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scale:
    """How much of everything."""

    rounds: int  # alternating measurements of a ratio
    runs: int  # five-step runs a measurement
    seconds: int  # of pgbench
    idle_seconds: int
    asleep: int  # runs that sleep beside others
    kept: int  # finished runs that are kept
    memory_steps: int
    turns: int  # iterations of a loop
    timers: int
    roles: int


FULL = Scale(5, 4000, 6, 30, 10_000, 100_000, 1_000_000, 1_000_000, 1_000_000, 200)
QUICK = Scale(3, 600, 2, 12, 2_000, 10_000, 10_000, 2_000, 20_000, 20)


def at_least(name: str, value: float, target: float, raw: dict[str, Any] | None = None) -> Figure:
    """A ratio that should be high."""
    return Figure(name, value, f">= {target:g} x", value >= target, raw or {})


def at_most(name: str, value: float, target: float, unit: str = "", raw: dict[str, Any] | None = None) -> Figure:
    """A cost that should be low."""
    return Figure(name, value, f"<= {target:g}{unit}", value <= target, raw or {})


def ratio(rounds: int, ours: Callable[[], float], theirs: Callable[[], float]) -> tuple[float, dict[str, Any]]:
    """The median of the ratios of alternating rounds; the order changes from round to round."""
    pairs = []
    for number in range(rounds):
        if number % 2:
            b, a = theirs(), ours()
        else:
            a, b = ours(), theirs()
        pairs.append((a, b))
    return statistics.median(a / b for a, b in pairs), {"pairs": [(round(a, 1), round(b, 1)) for a, b in pairs]}


def table(title: str, figures: list[Figure]) -> Table:
    """The figures, for a person."""
    view = Table(title=title)
    for heading in ("what", "measured", "target", ""):
        view.add_column(heading, justify="right" if heading == "measured" else "left")
    for figure in figures:
        value = "-" if figure.value is None else f"{figure.value:,.{0 if abs(figure.value) >= 1000 else 2}f}"
        verdict = {True: "met", False: "missed", None: ""}[figure.met]
        view.add_row(figure.name, value, figure.target, verdict)
    return view
