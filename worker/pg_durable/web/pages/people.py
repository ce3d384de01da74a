"""People: runs that wait for somebody's answer, and a form for it."""

import json
from typing import Any

from starlette.responses import Response
from starlette.routing import Route

from pg_durable.web.database import Row
from pg_durable.web.pages.runs import RUN, as_json
from pg_durable.web.view import NotFoundError, View, page

MOST = 100


@page
async def people(view: View) -> Response:
    """Who waits, longest first."""
    waits = await view.rows("people.waits", id=None, limit=MOST)
    known = await results(view, [wait["instance_id"] for wait in waits])
    data = {wait["instance_id"]: lines(wait["input"], known.get(wait["instance_id"], {})) for wait in waits}
    return view.render("people.html", title="People", waits=waits, data=data, most=MOST)


def lines(given: Any, known: dict[str, Any]) -> list[str]:
    """The data of a run, a line each; of rows nothing but these."""
    named = ({"input": given} if given is not None else {}) | known
    return [f"{name}: {json.dumps(bare(value), ensure_ascii=False, default=str)}" for name, value in named.items()]


def bare(value: Any) -> Any:
    """The rows of a result; of a single one, it alone."""
    rows = value.get("rows") if isinstance(value, dict) else None
    if not isinstance(rows, list):
        return value
    return rows[0] if len(rows) == 1 else rows


async def results(view: View, ids: list[str]) -> dict[str, dict[str, Any]]:
    """What the runs have found out so far: name and value, by run."""
    found: dict[str, dict[str, Any]] = {}
    for row in await view.rows("people.results", ids=sorted(set(ids))) if ids else []:
        found.setdefault(row["instance_id"], {})[row["name"]] = row["result"]
    return found


@page
async def answer(view: View) -> Response:
    """The form for an answer; sends it as a signal."""
    wait = await the_wait(view)
    known = (await results(view, [wait["instance_id"]])).get(wait["instance_id"], {})
    if view.request.method != "POST":
        return ask(view, wait, known, "{}")
    data = str((await view.request.form()).get("data", "")).strip() or "{}"
    try:
        as_json(data)
    except ValueError as error:
        return ask(view, wait, known, data, str(error))
    await view.do("people.answer", id=wait["instance_id"], signal=wait["signal"], data=data)
    return view.redirect("/people", f"Run {wait['instance_id']} has its answer to {wait['signal']}.")


def ask(view: View, wait: Row, known: dict[str, Any], data: str, error: str = "") -> Response:
    """The page with the form."""
    return view.render(
        "answer.html", 400 if error else 200, title=f"Answer {wait['signal']}", wait=wait, results=known, data=data,
        error=error,
    )  # fmt: skip


async def the_wait(view: View) -> Row:
    """The wait of the address; raises NotFoundError."""
    key = view.request.path_params["id"]
    signal = view.request.query_params.get("signal", "")
    waits = await view.rows("people.waits", id=key, limit=MOST) if RUN.fullmatch(key) else []
    for wait in waits:
        if wait["signal"] == signal:
            return wait
    raise NotFoundError(f"Run {key} does not wait for this signal: perhaps somebody has answered already.")


ROUTES = [Route("/people", people), Route("/people/{id}", answer, methods=["GET", "POST"])]
