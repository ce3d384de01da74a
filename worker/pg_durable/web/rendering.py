"""How values become text of a page: times, durations, sizes, JSON. Everything is escaped; nothing of a run is HTML."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from pg_durable.printing import CONTROL

STATUSES = ("pending", "running", "completed", "failed", "cancelled")
UNITS = ((86400, "d"), (3600, "h"), (60, "min"))


@cache
def environment() -> Environment:
    """The templates; what is not defined is an error."""
    made = Environment(
        loader=PackageLoader("pg_durable.web"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "moment": moment, "age": age, "duration": duration, "pretty": pretty, "plain": plain, "clock": clock,
        "count": count, "since": since, "from_json": json.loads,
    }  # fmt: skip
    made.globals |= {"STATUSES": STATUSES}
    return made


def moment(value: datetime | None, kind: str = "moment") -> Markup:
    """A time: in UTC as text, in the zone of the browser where it has scripts, the exact one on hover."""
    if value is None:
        return Markup('<span class="none">–</span>')
    at = value.astimezone(UTC)
    return Markup('<time datetime="{}" title="{}" data-show="{}">{}</time>').format(
        at.isoformat(), f"{at:%Y-%m-%d %H:%M:%S.%f} UTC", kind, f"{at:%Y-%m-%d %H:%M:%S}Z"
    )


def age(value: datetime | None) -> Markup:
    """A time, as how long ago it was where the browser has scripts."""
    return moment(value, "age")


def since(value: datetime | None) -> Markup:
    """A time, as how long something goes on since then where the browser has scripts."""
    return moment(value, "since")


def clock(value: datetime | None) -> Markup:
    """A time of day."""
    return moment(value, "clock")


def duration(value: timedelta | float | Decimal | None) -> str:
    """How long, with two units: 1 h 20 min, 3.2 s, 15 ms."""
    if value is None:
        return "–"
    seconds = value.total_seconds() if isinstance(value, timedelta) else float(value)
    if abs(seconds) < 1:
        return f"{seconds * 1000:.0f} ms"
    if abs(seconds) < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    parts = []
    for size, unit in UNITS:
        number, whole = divmod(whole, size)
        if number:
            parts.append(f"{number} {unit}")
    return " ".join([*parts, f"{whole} s"][:2]) if parts else f"{whole} s"


def count(value: int | None) -> str:
    """A number with thin spaces between thousands."""
    return "–" if value is None else f"{value:,}".replace(",", "\u202f")


def pretty(value: Any) -> str:
    """A JSON value as lines of text."""
    return plain(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def plain(value: Any) -> str:
    """A text that others wrote: what would turn or hide the text around it is written out."""
    return CONTROL.sub(lambda found: repr(found[0])[1:-1], str(value))
