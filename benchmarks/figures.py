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
    starts: int  # of one statement
    outcomes: int  # beside which one run is read


FULL = Scale(5, 4000, 6, 30, 10_000, 100_000, 1_000_000, 1_000_000, 1_000_000, 200, 100_000, 1_000_000)
QUICK = Scale(3, 600, 2, 12, 2_000, 10_000, 10_000, 2_000, 20_000, 20, 5_000, 50_000)


def at_least(name: str, value: float, target: float, raw: dict[str, Any] | None = None) -> Figure:
    """A ratio that should be high."""
    return Figure(name, value, f">= {target:g} x", value >= target, raw or {})


def at_most(name: str, value: float, target: float, unit: str = "", raw: dict[str, Any] | None = None) -> Figure:
    """A cost that should be low."""
    return Figure(name, value, f"<= {target:g}{unit}", value <= target, raw or {})


def ratios(rounds: int, ours: Callable[[], float], *theirs: Callable[[], float]) -> tuple[list[float], dict[str, Any]]:
    """The medians of the ratios to each of theirs, in alternating rounds; the order changes from round to round."""
    sides = [ours, *theirs]
    rows = []
    for number in range(rounds):
        order = range(len(sides)) if number % 2 == 0 else reversed(range(len(sides)))
        found = {side: sides[side]() for side in order}
        rows.append([found[side] for side in range(len(sides))])
    medians = [statistics.median(row[0] / row[side] for row in rows) for side in range(1, len(sides))]
    return medians, {"rounds": [[round(value, 1) for value in row] for row in rows]}


def ratio(rounds: int, ours: Callable[[], float], theirs: Callable[[], float]) -> tuple[float, dict[str, Any]]:
    """The median of the ratios of alternating rounds."""
    [value], raw = ratios(rounds, ours, theirs)
    return value, raw


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
