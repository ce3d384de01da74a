"""How the operator commands show what they found: tables and trees on a terminal, JSON on request."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

Row = Mapping[str, Any]

STYLES = {
    "✓": "green", "✗": "bold red", "⏳": "bold yellow", "⊘": "dim", "○": "dim",
    "completed": "green", "failed": "bold red", "cancelled": "red", "running": "bold yellow", "skipped": "dim",
    "pending": "dim",
}  # fmt: skip
PIPE_WIDTH = 160
LONG = ("label", "query", "output", "outcome", "error", "waits_for", "signal_data")  # cut when the terminal is narrow


def console() -> Console:
    """Standard output; of a fixed width where it is no terminal."""
    screen = Console(highlight=False)
    if not screen.is_terminal:
        screen.width = PIPE_WIDTH
    return screen


def tree(text: str) -> Text:
    """What df.explain draws, each line coloured by the mark at its end."""
    lines = [line.rstrip() for line in text.splitlines()]
    return Text("\n", no_wrap=True, overflow="ellipsis").join(Text(line, STYLES.get(line[-1:], "")) for line in lines)


def table(rows: Sequence[Row], title: str | None = None) -> RenderableType:
    """Rows under their column names, a line each; numbers to the right."""
    if not rows:
        return Group(Text(title, "bold"), Text("  none\n", "dim")) if title else Text("none", "dim")
    grid = Table(box=SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    columns = {name: [cell(row[name]) for row in rows] for name in rows[0]}
    for name, cells in columns.items():
        number = all(isinstance(row[name], int | float | Decimal) and not isinstance(row[name], bool) for row in rows)
        width = None if name in LONG else max(len(name), *(one.cell_len for one in cells))
        grid.add_column(name, justify="right" if number else "left", no_wrap=name not in LONG, min_width=width)
    for line in zip(*columns.values(), strict=True):
        grid.add_row(*line)
    return grid


def cell(value: Any) -> Text:
    """A value on one line."""
    if isinstance(value, datetime):
        text = value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    elif isinstance(value, timedelta):
        text = str(timedelta(milliseconds=round(value / timedelta(milliseconds=1))))[:11]
    elif isinstance(value, bool):
        text = "yes" if value else "no"
    elif isinstance(value, dict | list):
        text = json.dumps(value, ensure_ascii=False)
    else:
        text = "" if value is None else " ".join(str(value).split())
    return Text(text, STYLES.get(text, ""), no_wrap=True, overflow="ellipsis")


def print_json(value: Row | Iterable[Row]) -> None:
    """One JSON document; times in ISO 8601, durations in seconds."""
    sys.stdout.write(json.dumps(value, default=plain, ensure_ascii=False, indent=2) + "\n")


def plain(value: Any) -> Any:
    """What JSON has no type for."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return float(value) if isinstance(value, Decimal) else str(value)
