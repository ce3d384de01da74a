"""The time line of a run as bars: which step ran when, and when attempts of it failed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

LEAST = 0.4  # per cent: what is shorter is seen all the same


@dataclass(frozen=True)
class Bar:
    """One step; places are per cent of the whole."""

    step: dict[str, Any]
    left: float
    width: float
    took: timedelta
    failures: list[float]


@dataclass(frozen=True)
class Waterfall:
    """The bars, and what their scale is."""

    bars: list[Bar]
    begin: datetime
    length: timedelta
    more: int


def waterfall(steps: Sequence[dict[str, Any]], events: Sequence[dict[str, Any]]) -> Waterfall | None:
    """The bars of steps; None where nothing has begun."""
    if not steps:
        return None
    now = datetime.now(UTC)
    begin = min(step["started_at"] for step in steps)
    end = max(step["completed_at"] or now for step in steps)
    length = max(end - begin, timedelta(milliseconds=1))
    failures: dict[str, list[datetime]] = {}
    for event in events:
        if event["event"] == "attempt failed" and begin <= event["at"] <= end:
            failures.setdefault(event["node_id"], []).append(event["at"])

    def place(at: datetime) -> float:
        share: float = (at - begin) / length
        return round(100 * share, 2)

    bars = []
    for step in steps:
        last = step["completed_at"] or now
        left = min(place(step["started_at"]), 100 - LEAST)
        ticks = [place(at) for at in failures.get(step["node_id"], []) if step["started_at"] <= at <= last]
        bars.append(Bar(step, left, max(place(last) - left, LEAST), last - step["started_at"], ticks))
    return Waterfall(bars, begin, length, steps[0]["all_of_them"] - len(steps))
