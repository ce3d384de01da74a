"""What the charts of the overview draw."""

from datetime import UTC, datetime, timedelta
from typing import Any

from pg_durable.web import charts

NOW = datetime(2026, 1, 2, 12, 0, 30, tzinfo=UTC)


def minute(ago: int, completed: int = 0, failed: int = 0, seconds: float = 1.0) -> dict[str, Any]:
    took = timedelta(seconds=seconds)
    at = NOW.replace(second=0) - timedelta(minutes=ago)
    return {
        "at": at, "completed": completed, "failed": failed, "cancelled": 0, "median_run": took, "longest_run": took * 2,
    }  # fmt: skip


def test_columns_are_as_high_as_the_minute_was_busy_and_what_failed_is_drawn_last() -> None:
    chart = charts.ended([minute(0, completed=3, failed=1), minute(1439, completed=2)], NOW)
    drawn = dict(chart.paths)
    assert [name for name, _ in chart.paths] == ["completed", "cancelled", "failed"]
    assert drawn["failed"] == "M1439 100.0v-25.0h3v25.0h-3z"
    assert drawn["completed"] == "M1439 75.0v-75.0h3v75.0h-3zM0 100.0v-50.0h3v50.0h-3z"
    assert chart.said == "6 runs ended, 1 of them failed; at most 4 in a minute"


def test_durations_stay_within_the_box() -> None:
    for seconds in (0.0, 0.0001, 1.0, 1e6):
        for _, path in charts.durations([minute(3, completed=1, seconds=seconds)], NOW).paths:
            assert 0 <= float(path.removeprefix("M1436 ").split("h")[0]) <= charts.HEIGHT


def test_nothing_is_drawn_of_nothing() -> None:
    assert not any(path for _, path in charts.ended([], NOW).paths + charts.durations([], NOW).paths)
