"""Schedules: when they start what, what came of it, and what can be done with them."""

import re
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from starlette.responses import Response
from starlette.routing import Route

from pg_durable.web import charts
from pg_durable.web.database import Row
from pg_durable.web.view import NotFoundError, View, page

MOST = 200
SPARKS = 30  # of a schedule in the list
HISTORY = 100  # times on the page of one

SAYS = {
    "trigger": "A run of it begins now, whatever its times are, unless its overlap rule lets an earlier one go on.",
    "pause": "It starts nothing until it is resumed. Its runs go on.",
    "resume": "It goes on with its next time. Times that passed meanwhile are not made up.",
    "backfill": "The times between the two below that have no run are made up, oldest first.",
}
BUTTONS = {"trigger": "Run it now", "pause": "Pause it", "resume": "Resume it", "backfill": "Make up"}
INPUTS: dict[str, list[dict[str, Any]]] = {
    "trigger": [],
    "pause": [{"name": "reason", "label": "Reason", "help": "shown as long as it is paused"}],
    "resume": [],
    "backfill": [
        {"name": "after", "label": "After", "help": "2026-01-31 08:00, in UTC", "required": True},
        {"name": "until", "label": "Until", "help": "the same", "required": True},
    ],
}


@page
async def schedules(view: View) -> Response:
    """All of them, the next first."""
    found = await view.rows("schedules.schedules", called=None, owner=None, limit=MOST)
    past = await history(view, found, SPARKS)
    return view.render(
        "schedules.html",
        title="Schedules",
        schedules=found,
        sparks={key: charts.sparks(rows) for key, rows in past.items()},
    )


@page
async def schedule(view: View) -> Response:
    """One of them."""
    one = await the_schedule(view)
    past = await history(view, [one], HISTORY)
    return view.render(
        "schedule.html", title=one["name"], schedule=one, acts=acts(one),
        history=list(reversed(past.get((one["name"], one["owner"]), []))),
    )  # fmt: skip


async def history(view: View, found: list[Row], limit: int) -> dict[tuple[str, str], list[Row]]:
    """The newest times of each, oldest first."""
    past: dict[tuple[str, str], list[Row]] = {}
    if found:
        names, owners = [row["name"] for row in found], [row["owner"] for row in found]
        for row in await view.rows("schedules.history", names=names, owners=owners, limit=limit):
            past.setdefault((row["name"], row["owner"]), []).append(row)
    return past


async def the_schedule(view: View) -> Row:
    """The schedule of the address; raises NotFoundError."""
    given = view.request.query_params
    name, owner = given.get("name", ""), given.get("owner", "")
    one = await view.row("schedules.schedules", called=name, owner=owner, limit=1) if name and owner else None
    if one is None:
        raise NotFoundError(f"There is no schedule {name}, or {view.session.role} may not see it.")
    return one


def acts(one: Row) -> list[str]:
    """What its state allows."""
    return ["trigger", "resume" if one["paused"] else "pause", "backfill"]


@page
async def act(view: View) -> Response:
    """Asks, and does it."""
    name = view.request.path_params["act"]
    if name not in SAYS:
        raise NotFoundError(f"A schedule cannot be asked to {name}.")
    one = await the_schedule(view)
    if view.request.method != "POST":
        return ask(view, one, name, {})
    form = {key: str(value).strip() for key, value in (await view.request.form()).items()}
    wrong = {key: "Write a time such as 2026-01-31 08:00." for key in ("after", "until")
             if name == "backfill" and not is_time(form.get(key, ""))}  # fmt: skip
    if wrong:
        return ask(view, one, name, form, wrong)
    answer = (await view.do(
        f"schedules.{name}", called=one["name"], owner=one["owner"], reason=form.get("reason") or None,
        after=form.get("after"), until=form.get("until"),
    )).get("answer")  # fmt: skip
    return view.redirect(address(one), said(name, answer))


def ask(view: View, one: Row, name: str, given: dict[str, str], wrong: dict[str, str] | None = None) -> Response:
    """The page that says what will happen, and asks."""
    inputs = [
        item | {"value": given.get(item["name"], ""), "error": (wrong or {}).get(item["name"])} for item in INPUTS[name]
    ]
    sentences = [f"Schedule of {one['owner']}: {one['cron']}, {one['timezone']}.", SAYS[name]]
    return view.confirm(
        f"{BUTTONS[name]}: {one['name']}", sentences, BUTTONS[name], inputs=inputs, back=address(one), action=view.here,
        status=400 if wrong else 200,
    )  # fmt: skip


def said(name: str, answer: Any) -> str:
    """What was done."""
    match name:
        case "trigger":
            return f"Run {answer} has begun." if answer else "It waits for the end of an earlier run."
        case "pause":
            return "It is paused."
        case "resume":
            return "It goes on."
    return f"{answer} times are made up."


def is_time(text: str) -> bool:
    """Whether it is a time as one writes it."""
    try:
        datetime.fromisoformat(re.sub(r"Z$", "+00:00", text))
    except ValueError:
        return False
    return True


def address(one: Row) -> str:
    """The page of a schedule."""
    return "/schedules/one?" + urlencode({"name": one["name"], "owner": one["owner"]})


ROUTES = [
    Route("/schedules", schedules), Route("/schedules/one", schedule),
    Route("/schedules/{act}", act, methods=["GET", "POST"]),
]  # fmt: skip
