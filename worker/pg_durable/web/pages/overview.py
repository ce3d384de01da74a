"""The overview: what runs, what failed, what waits, and what hurts."""

import time
from datetime import UTC, datetime
from typing import Any, cast

from starlette.responses import Response
from starlette.routing import Route

from pg_durable.cli.doctor import PROBLEM, UNSEEN
from pg_durable.web import charts
from pg_durable.web.database import Row
from pg_durable.web.examination import examined
from pg_durable.web.view import View, page

MOST = 50_000  # runs that df.recent_throughput reads
AGAIN = 15.0  # seconds for which the minutes hold


@page
async def overview(view: View) -> Response:
    """The page."""
    minutes = await throughput(view)
    queue = await view.rows("overview.queue")
    workers = await view.rows("workers.workers")
    late = await view.rows("overview.late")
    now = datetime.now(UTC)
    return view.render(
        "overview.html", title="Overview", minutes=minutes, ended=charts.ended(minutes, now),
        durations=charts.durations(minutes, now), cut=sum(map(charts.total, minutes)) >= MOST, queue=queue,
        workers=workers, running=await view.rows("overview.running"), failures=await view.rows("overview.failures"),
        people=await view.row("overview.people"), limits=await view.rows("overview.limits"),
        warnings=await warnings(view, queue, late),
    )  # fmt: skip


async def throughput(view: View) -> list[Row]:
    """The minutes of a day. They are many, so they are asked for every quarter of a minute, whatever changes."""
    state = view.request.app.state
    if not hasattr(state, "minutes"):
        state.minutes = {}
    key = (view.session.role, view.session.password)
    at, rows, statements = state.minutes.get(key, (0.0, [], []))
    if at and time.monotonic() < at + AGAIN:
        view.statements += statements
        return cast(list[Row], rows)
    before = len(view.statements)
    rows = await view.rows("overview.throughput")
    state.minutes[key] = (time.monotonic(), rows, view.statements[before:])
    return rows


async def warnings(view: View, queue: list[Row], late: list[Row]) -> list[dict[str, Any]]:
    """What hurts, in words: problems before notes, each with what to do."""
    found: list[dict[str, Any]] = [
        {"level": one.level, "text": one.finding, "todo": one.todo}
        for one in (await examined(view)).findings
        if not one.finding.startswith(UNSEEN)
    ]
    found += [
        {"level": PROBLEM, "text": f"{row['role']}, lane {row['lane']}: {row['wait_reason']}", "todo": None}
        for row in queue
        if row["wait_reason"] and row["wait_reason"] != "no worker is running"
    ]
    found += [
        {"level": PROBLEM, "text": f"Schedule {row['name']} of {row['owner']} is late: {row['wait_reason'] or ''}",
         "todo": None}
        for row in late
    ]  # fmt: skip
    return sorted(found, key=lambda one: one["level"] != PROBLEM)


@page
async def doctor(view: View) -> Response:
    """All that an examination finds, with the statements."""
    examination = await examined(view, anew=True)
    view.statements += examination.statements
    return view.render("doctor.html", title="Examination", examination=examination)


ROUTES = [Route("/", overview), Route("/doctor", doctor)]
