"""The runs: a table with filters, and what can be done with some of them, or with all that match."""

import json
import re
from typing import Any

from starlette.responses import Response
from starlette.routing import Route

from pg_durable.login import reason
from pg_durable.web.database import Row
from pg_durable.web.rendering import STATUSES
from pg_durable.web.view import NotFoundError, View, page

PAGE = 50
SCAN = 500  # runs that are searched for filters that no index serves
MOST_AT_ONCE = 1000
RUN = re.compile(r"[0-9a-f]{8}")
SINCE = {"1 h": "1 hour", "24 h": "24 hours", "7 d": "7 days", "30 d": "30 days"}
FILTERS = ("status", "label", "definition", "role", "error", "since")

# What can be done with many: what is said, whom it is for, whether it takes something away.
ACTS: dict[str, dict[str, Any]] = {
    "cancel": {
        "button": "Cancel", "danger": True, "statuses": ("pending", "running"),
        "says": "Nothing of them starts any more, running statements are cancelled.",
    },
    "pause": {
        "button": "Pause", "danger": False, "statuses": ("pending", "running"),
        "says": "Nothing new of them begins until they are resumed; what runs ends and is recorded.",
    },
    "resume": {
        "button": "Resume", "danger": False, "statuses": ("failed", "cancelled", "paused"),
        "says": "They go on from what has failed or had not begun; what has completed is not run again.",
    },
    "rerun": {
        "button": "Run again", "danger": False, "statuses": STATUSES,
        "says": "For each, a new run of the same graph begins, with the same input.",
    },
}  # fmt: skip
DONE = {"cancel": "cancelled", "pause": "paused", "resume": "resumed", "rerun": "run again"}


@page
async def runs(view: View) -> Response:
    """The newest runs that match."""
    asked = filters(view)
    narrow = any(asked[name] for name in ("definition", "role", "error", "since"))
    listed = await view.rows("runs.page", **asked, after=cursor(view), scan=SCAN if narrow else PAGE)
    found = [row for row in listed if row["matches"]]
    doing = await view.rows("runs.doing", ids=ids(found)) if any(live(row) for row in found) else []
    return view.render(
        "runs.html", title="Runs", runs=found, asked=asked, narrow=narrow, acts=ACTS, since=SINCE, after=cursor(view),
        doing={row["id"]: row for row in reversed(doing)}, older=older(listed), searched=listed[:1],
        shown={name: value for name, value in view.request.query_params.items() if name in FILTERS and value},
    )  # fmt: skip


def filters(view: View) -> dict[str, str | None]:
    """What the address asks for; what makes no sense is left out."""
    given = {name: view.request.query_params.get(name, "").strip()[:200] or None for name in FILTERS}
    given["status"] = given["status"] if given["status"] in STATUSES else None
    given["since"] = SINCE.get(given["since"] or "")
    return given


def cursor(view: View) -> str | None:
    """Where the page begins."""
    return view.request.query_params.get("after") or None


def live(run: Row) -> bool:
    """Whether a run has not ended."""
    return run["status"] in ("pending", "running")


def ids(found: list[Row]) -> list[str]:
    """Their ids."""
    return [row["id"] for row in found]


def older(listed: list[Row]) -> str | None:
    """The cursor of what comes next; none when that would be too old."""
    if not listed or not listed[-1]["recent"]:
        return None
    after: str | None = listed[0]["next_cursor"]
    return after


@page
async def act(view: View) -> Response:
    """Asks whether it shall be done with the runs that were chosen, or that match; then does it."""
    name = view.request.path_params["act"]
    if name not in ACTS:
        raise NotFoundError(f"Runs cannot be asked to {name}.")
    if view.request.method == "POST":
        return await do(view, name)
    chosen = [one for one in view.request.query_params.getlist("id") if RUN.fullmatch(one)][:MOST_AT_ONCE]
    found, more = (await view.rows("runs.chosen", ids=chosen), False) if chosen else await matching(view)
    fit = [row for row in found if row["status"] in ACTS[name]["statuses"] and fits(row, name)]
    return ask(view, name, fit, len(found) - len(fit), more)


def fits(run: Row, name: str) -> bool:
    """Whether it is in a state for this."""
    if name == "pause":
        return live(run) and not run["paused"]
    return name != "resume" or run["paused"] or not live(run)


async def matching(view: View) -> tuple[list[Row], bool]:
    """The runs that match the filters, newest first, and whether there are more than one may ask for at once."""
    listed = await view.rows("runs.page", **filters(view), after=cursor(view), scan=MOST_AT_ONCE)
    return [row for row in listed if row["matches"]], bool(listed and listed[0]["next_cursor"])


def ask(view: View, name: str, fit: list[Row], unfit: int, more: bool) -> Response:
    """The page that says how many there are, and asks."""
    verb = ACTS[name]["button"]
    back = view.request.query_params.get("back") or "/runs"
    back = back if back.startswith("/runs") else "/runs"
    if not fit:
        text = "None of these runs is in a state for that." if unfit else "No run was chosen, and none matches."
        return view.redirect(back, f"{verb}: nothing to do. {text}", "bad")
    sentences = [ACTS[name]["says"]]
    if unfit:
        sentences.append(f"{unfit} more match, but are not in a state for that: they are left alone.")
    if more:
        sentences.append(f"These are the newest {MOST_AT_ONCE} that were searched; do it again for older ones.")
    sample = [f"{row['id']} {row['status']} {row['label'] or ''}" for row in fit[:10]]
    if len(fit) > 10:
        sample.append(f"… and {len(fit) - 10} more")
    number = f"{len(fit)} run{'s' if len(fit) > 1 else ''}"
    return view.confirm(
        f"{verb}: {number}", sentences, f"{verb} {number}" if name != "rerun" else f"Run {number} again", sample=sample,
        fields={"ids": ",".join(ids(fit)), "back": back}, back=back, danger=ACTS[name]["danger"],
    )  # fmt: skip


async def do(view: View, name: str) -> Response:
    """Does it, one run after the other: what is refused for one does not undo the others."""
    form = await view.request.form()
    back = str(form.get("back", "/runs"))
    chosen = [one for one in str(form.get("ids", "")).split(",") if RUN.fullmatch(one)][:MOST_AT_ONCE]
    done, refusals = await view.do_each(f"run.{name}", [
        {"id": one, "reason": None, "undo": False, "input": None} for one in chosen
    ])  # fmt: skip
    said = f"{done} run{'' if done == 1 else 's'} {DONE[name]}."
    if refusals:
        said += f" {len(refusals)} refused, the first with: {reason(refusals[0])}"
    return view.redirect(back if back.startswith("/runs") else "/runs", said, "bad" if refusals else "good")


def as_json(text: str) -> str:
    """A JSON text, checked; raises ValueError with a sentence."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"This is not JSON: {error.msg}, line {error.lineno}, column {error.colno}.") from None
    return text


ROUTES = [Route("/runs", runs), Route("/runs/all/{act}", act, methods=["GET", "POST"])]
