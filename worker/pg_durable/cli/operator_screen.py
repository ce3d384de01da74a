"""How the operator commands show what they found: tables and trees on a terminal, JSON on request."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pg_durable.printing import printable, printable_json, say_json

Row = Mapping[str, Any]

STYLES = {
    "✓": "green", "✗": "bold red", "⏳": "bold yellow", "⊘": "dim", "○": "dim",
    "completed": "green", "failed": "bold red", "cancelled": "red", "running": "bold yellow", "skipped": "dim",
    "pending": "dim",
}  # fmt: skip
PIPE_WIDTH = 160
LONG = (
    "label",
    "query",
    "step",
    "progress",
    "output",
    "outcome",
    "waits_for",
    "signal_data",
    "reason",
    "detail",
    "wait_reason",
)  # cut when the terminal is narrow
NUMBERS = (int, float, Decimal, timedelta)
NARROW = 100  # columns; with fewer these are left out, so that there is room for the long ones
LEAST = 60  # columns that a table needs
SPARE = ("iteration", "node_type", "attempts", "worker", "sent_by", "delivered_at", "slots", "attempt")
SHORT = {"instance_id": "run", "created_at": "created", "failed_at": "failed", "node_type": "type", "iteration": "iter",
         "stuck_for": "for"}  # fmt: skip


def console() -> Console:
    """Standard output; of a fixed width where it is no terminal, or one that does not know its own."""
    screen = Console(highlight=False)
    if not screen.is_terminal or screen.width < 1:
        screen.width = PIPE_WIDTH
    return screen


def tree(text: str, height: int | None = None) -> RenderableType:
    """What df.explain draws, coloured line by line by the mark at its end; of a tall one, where the run is. Lines that
    are too long are cut, but for those above the tree: they say why the run failed."""
    lines = excerpt([printable(line.rstrip()) for line in text.removesuffix("\n").split("\n")], height)
    head = lines.index("") if "" in lines else 0
    drawn = [Text(line, STYLES.get(line[-1:], ""), overflow="fold") for line in lines]
    for line in drawn[head:]:
        line.no_wrap, line.overflow = True, "ellipsis"
    return Group(*drawn)


def excerpt(lines: list[str], height: int | None) -> list[str]:
    """As many lines as there is room for: those above the tree, then those that end where the run is."""
    if not height or len(lines) <= height:
        return lines
    head = lines.index("") + 1 if "" in lines else 0
    room = max(height - head - 2, 1)
    here = max((n for n, line in enumerate(lines) if n > head and line.endswith(("⏳", "✗"))), default=len(lines) - 1)
    last = min(max(here + 3, head + room), len(lines))
    first = last - room
    above = [f"… {first - head} lines"] if first > head else []
    below = [f"… {len(lines) - last} lines"] if last < len(lines) else []
    return [*lines[:head], *above, *lines[first:last], *below]


def table(rows: Sequence[Row], title: str | None = None) -> RenderableType:
    """Rows under their column names, a line each; numbers to the right."""
    if not rows:
        return Group(Text(title, "bold"), Text("  none\n", "dim")) if title else Text("none", "dim")
    if console().width < LEAST:
        return records(rows, title)
    grid = Table(
        box=SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False, padding=(0, 1, 0, 0)
    )
    names = [name for name in rows[0] if name not in SPARE or console().width >= NARROW]
    columns = {name: [cell(row[name], name == "output" and failed(row)) for row in rows] for name in names}
    for name, cells in columns.items():
        number = all(isinstance(row[name], NUMBERS) and not isinstance(row[name], bool) for row in rows)
        head = SHORT.get(name, name)
        width = None if name in LONG else max(len(head), *(one.cell_len for one in cells))
        justify: JustifyMethod = "right" if number else "left"
        grid.add_column(head, justify=justify, no_wrap=name not in LONG, min_width=width)
    for line in zip(*columns.values(), strict=True):
        grid.add_row(*line)
    return grid


def records(rows: Sequence[Row], title: str | None) -> RenderableType:
    """Rows where there is no room for columns: a line a value, and an empty one after each row."""
    lines = [Text(title, "bold")] if title else []
    for row in rows:
        values = {SHORT.get(name, name): cell(value, whole=True) for name, value in row.items() if name not in SPARE}
        lines += [Text.assemble((f"{name} ", "dim"), value) for name, value in values.items() if value]
        lines.append(Text())
    for line in lines:
        line.overflow = "fold"
    return Group(*lines)


def failed(row: Row) -> bool:
    """Whether a row is of a run or a step that failed."""
    return bool(row.get("status") == "failed")


def cell(value: Any, whole: bool = False) -> Text:
    """A value on one line, or, when it is to be seen whole, on several."""
    if isinstance(value, datetime):
        text = moment(value.astimezone())
    elif isinstance(value, timedelta):
        text = duration(value)
    elif isinstance(value, bool):
        text = "yes" if value else "no"
    elif isinstance(value, dict | list):
        text = printable_json(json.dumps(value, ensure_ascii=False))
    else:
        text = "" if value is None else printable(" ".join(str(value).split()))
    return Text(text, STYLES.get(text, ""), no_wrap=not whole, overflow="fold" if whole else "ellipsis")


def moment(value: datetime) -> str:
    """The time of day, and the day when it is not today."""
    return value.strftime("%H:%M:%S" if value.date() == datetime.now().astimezone().date() else "%Y-%m-%d %H:%M")


def duration(value: timedelta) -> str:
    """Milliseconds, seconds, or hours, minutes and seconds."""
    seconds = value.total_seconds()
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.2f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))


def overview(found: Mapping[str, Sequence[Row]], height: int | None = None) -> RenderableType:
    """What `top` shows: a line for what has but a few numbers, then tables, in no more than `height` lines."""
    room = max(2, (height - 17) // 3) if height else None
    tables = [table(found[title][:room], title) for title in ("longest running steps", "waiting")]
    return Group(
        runs_line(found["runs"]),
        speed_line(found["done in the last 10 s"][0]),
        workers_line(found["workers"]),
        "",
        *tables,
        failures(found["failed last"][:room], "failed last"),
    )


def failures(rows: Sequence[Row], title: str) -> RenderableType:
    """Which step failed, on a line; why, on as many as it takes."""
    parts: list[RenderableType] = [Text(title, "bold"), ""]
    for row in rows:
        where = Text.assemble(
            f"{row['instance_id']}  ", cell(row["failed_at"]), "  ", cell(row["label"]), "  " if row["label"] else "",
            cell(row["query"]),
        )  # fmt: skip
        where.no_wrap, where.overflow = True, "ellipsis"
        parts += [where, Padding(Text(printable(str(row["error"])), "red", overflow="fold"), (0, 0, 0, 10))]
    return Group(*parts) if rows else table((), title)


def runs_line(runs: Sequence[Row]) -> Text:
    """How many runs of each status."""
    parts = [Text(f"{row['runs']} {row['status']}", STYLES.get(row["status"], "")) for row in runs]
    return Text.assemble(("runs     ", "bold"), Text(" · ").join(parts) if parts else ("none", "dim"))


def speed_line(done: Row) -> Text:
    """What got done just now."""
    return Text.assemble(
        ("speed    ", "bold"), f"{done['steps_per_second']} steps/s · ",
        f"{done['runs']} runs ended and {done['steps']} steps in the last 10 s",
    )  # fmt: skip


def workers_line(workers: Sequence[Row]) -> Text:
    """Who is there; the one that was seen last."""
    alive = [row for row in workers if row["alive"]]
    if not alive:
        return Text.assemble(("workers  ", "bold"), ("none is alive: nothing goes on", "bold red"))
    last = min(alive, key=lambda row: row["silent_for"])
    held = sum(row["leases"] for row in alive)
    return Text.assemble(
        ("workers  ", "bold"), (f"{len(alive)} alive", "green"), f" · last seen {duration(last['silent_for'])} ago",
        f" · {held} steps outside transactions" if held else "",
    )  # fmt: skip


def print_json(value: Row | Iterable[Row]) -> None:
    """One JSON document; times in ISO 8601, durations in seconds."""
    say_json(json.dumps(value, default=plain, ensure_ascii=False, indent=2))


def plain(value: Any) -> Any:
    """What JSON has no type for."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return float(value) if isinstance(value, Decimal) else str(value)
