"""Charts, drawn by the server as SVG: no script, no style attribute, colours by class."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import log
from typing import Any

from pg_durable.web.database import Row

MINUTES = 1440
HEIGHT = 100
WIDTH = 3  # of what stands for a minute
LEAST = 0.001  # seconds: where a scale of durations begins


@dataclass(frozen=True)
class Chart:
    """What a template draws. The paths are in a box of MINUTES x HEIGHT, from the oldest minute to the newest."""

    paths: list[tuple[str, str]]  # class, d
    top: str  # what the upper edge stands for, in words
    said: str  # the same in words


def ended(rows: list[Row], now: datetime) -> Chart:
    """How many runs ended in each minute: columns, what failed below what completed."""
    most = max((total(row) for row in rows), default=0)
    height = HEIGHT / most if most else 0.0
    paths = []
    for name, below in (("failed", ()), ("cancelled", ("failed",)), ("completed", ("failed", "cancelled"))):
        columns = [
            column(minute(row["at"], now), sum(row[other] for other in below) * height, row[name] * height)
            for row in rows
            if row[name]
        ]
        paths.append((name, "".join(columns)))
    runs = sum(total(row) for row in rows)
    failed = sum(row["failed"] for row in rows)
    said = f"{runs} runs ended, {failed} of them failed; at most {most} in a minute"
    return Chart(paths[::-1], f"up to {most} a minute", said)  # what failed is drawn last: nothing hides it


def durations(rows: list[Row], now: datetime) -> Chart:
    """How long runs took: the median and the longest of each minute, on a logarithmic scale."""
    longest = max((row["longest_run"].total_seconds() for row in rows), default=0.0)
    if longest <= LEAST:
        longest = 1.0
    paths = []
    for name in ("longest_run", "median_run"):
        dots = [
            mark(minute(row["at"], now), level(row[name], longest)) for row in rows if row[name] is not None
        ]  # fmt: skip
        paths.append((name.removesuffix("_run"), "".join(dots)))
    middle = sorted(row["median_run"] for row in rows if row["median_run"] is not None)
    typical = middle[len(middle) // 2].total_seconds() if middle else 0.0
    return Chart(paths, f"up to {longest:.3g} s", f"a typical run took {typical:.3g} s, the longest {longest:.3g} s")


def total(row: Row) -> int:
    """All runs of a minute."""
    return int(row["completed"] + row["failed"] + row["cancelled"])


def minute(at: datetime, now: datetime) -> int:
    """Where a minute is, from the left."""
    passed = int((now.astimezone(UTC).replace(second=0, microsecond=0) - at.astimezone(UTC)) / timedelta(minutes=1))
    return min(max(MINUTES - 1 - passed, 0), MINUTES - 1)


def column(left: int, bottom: float, height: float) -> str:
    """A column of a minute, wide enough to be seen."""
    return f"M{left} {HEIGHT - bottom:.1f}v{-height:.1f}h{WIDTH}v{height:.1f}h-{WIDTH}z"


def mark(left: int, height: float) -> str:
    """A dash at a height."""
    return f"M{left} {HEIGHT - height:.1f}h{WIDTH}"


def level(took: timedelta, longest: float) -> float:
    """The height of a duration, on a logarithmic scale from LEAST to the longest."""
    seconds = max(took.total_seconds(), LEAST)
    return HEIGHT * 0.97 * log(seconds / LEAST) / log(max(longest, LEAST * 1.001) / LEAST)


def sparks(history: list[Row]) -> list[dict[str, Any]]:
    """The newest times of a schedule, as columns: what came of each."""
    return [
        {"x": number * 6, "status": row["status"], "row": row, "said": f"{row['scheduled_for']:%Y-%m-%d %H:%M} UTC"}
        for number, row in enumerate(history)
    ]
