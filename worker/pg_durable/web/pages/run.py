"""One run: its graph, its time line, a chosen node, and what can be done with it."""

import re
from typing import Any

from starlette.responses import Response
from starlette.routing import Route

from pg_durable.web.database import Row
from pg_durable.web.pages.runs import RUN, as_json
from pg_durable.web.picture import picture
from pg_durable.web.view import NotFoundError, View, page
from pg_durable.web.waterfall import waterfall

STEPS, EVENTS = 200, 100
REFERENCE = re.compile(r"\$(\w+)")
LARGEST = 200_000  # characters of a value that a page shows; what is larger is for SQL
Input = dict[str, Any]

JSON_HELP = "JSON; empty: what it had"
INPUTS: dict[str, list[Input]] = {
    "cancel": [
        {"name": "reason", "label": "Reason", "help": "kept with the run"},
        {"name": "undo", "label": "Run its compensations first (df.undo)", "kind": "check"},
    ],
    "pause": [{"name": "reason", "label": "Reason", "help": "shown as long as it is paused"}],
    "resume": [{"name": "input", "label": "Input", "help": JSON_HELP, "kind": "area"}],
    "rerun": [{"name": "input", "label": "Input", "help": JSON_HELP, "kind": "area"}],
    "skip": [
        {"name": "value", "label": "Value", "help": "JSON: what the node shall have answered", "kind": "area"},
        {"name": "scope", "label": "Item", "help": "in a map: its number, in nested ones 2.7"},
    ],
    "signal": [
        {"name": "name", "label": "Signal", "required": True},
        {"name": "data", "label": "Data", "help": "JSON", "kind": "area"},
    ],
}
SAYS = {
    "cancel": "Nothing of it starts any more, and its running statements are cancelled.",
    "pause": "Nothing new of it begins until it is resumed. What runs ends and is recorded; timers keep their time.",
    "resume": "It goes on from what has failed or had not begun; what has completed is not run again.",
    "rerun": "A new run of the same graph begins, from its beginning. This one stays as it is.",
    "skip": "The node is declared done with the value below; what comes after it goes on.",
    "signal": "Every open wait of that name gets it; where there is none, the next wait finds it.",
}
BUTTONS = {
    "cancel": "Cancel the run", "pause": "Pause the run", "resume": "Resume the run", "rerun": "Run it again",
    "skip": "Skip the node", "signal": "Send the signal",
}  # fmt: skip
DONE = {
    "cancel": "It is being cancelled.", "pause": "It is paused.", "resume": "It goes on.",
    "rerun": "This is the new run.", "skip": "The node is declared done.", "signal": "The signal is sent.",
}  # fmt: skip


@page
async def run(view: View) -> Response:
    """The page of a run."""
    here = await the_run(view)
    key = here["id"]
    node = view.request.query_params.get("node", "")
    node = node if RUN.fullmatch(node) else ""
    drawn = await view.row("run.picture", id=key)
    steps = await view.rows("run.steps", id=key, limit=STEPS)
    events = await view.rows("run.events", id=key, limit=EVENTS + 1, before=before(view))
    alive = here["status"] in ("pending", "running")
    return view.render(
        "run.html", title=here["label"] or key, run=here, stream=f"run={key}",
        picture=picture(drawn["svg"] if drawn else "", f"/runs/{key}", node),
        waterfall=waterfall(steps, events), events=events[:EVENTS], more=len(events) > EVENTS,
        running=await view.rows("run.running", id=key) if alive else [],
        waits=await view.rows("run.waits", id=key) if alive else [],
        signals=await view.rows("run.signals", id=key), children=await view.rows("run.children", id=key),
        node=await the_node(view, here, node) if node else None, acts=acts(here), largest=LARGEST,
    )  # fmt: skip


async def the_run(view: View) -> Row:
    """The run of the address; raises NotFoundError."""
    key = view.request.path_params["id"]
    found = await view.row("run.run", id=key) if RUN.fullmatch(key) else None
    if found is None:
        raise NotFoundError(f"There is no run {key}, or {view.session.role} may not see it.")
    return found


async def the_node(view: View, here: Row, node: str) -> Row | None:
    """The chosen node, with what it reads and its items."""
    found = await view.row("run.node", id=here["id"], node=node)
    if found is None:
        return None
    names = list(dict.fromkeys(REFERENCE.findall(found["query"] or "")))[:50]
    read = await view.rows("run.bindings", id=here["id"], names=names) if names else []
    reads = {row["result_name"]: row["result"] for row in read}
    if "input" in names:
        reads["input"] = here["input"]
    items = await view.rows("run.items", id=here["id"], node=node)
    return found | {"reads": reads, "by_item": items}


def before(view: View) -> str | None:
    """Where the history begins."""
    at = view.request.query_params.get("before", "")
    return at if re.fullmatch(r"[0-9T:.+ -]{10,40}", at) else None


def acts(here: Row) -> list[str]:
    """What its state allows."""
    if here["status"] in ("pending", "running"):
        return ["signal", "resume" if here["paused"] else "pause", "cancel", "rerun"]
    return ["resume", "rerun"] if here["status"] in ("failed", "cancelled") else ["rerun"]


@page
async def act(view: View) -> Response:
    """Asks, and does it."""
    name = view.request.path_params["act"]
    if name not in INPUTS:
        raise NotFoundError(f"A run cannot be asked to {name}.")
    here = await the_run(view)
    if view.request.method != "POST":
        return ask(view, here, name, dict(view.request.query_params))
    form = {key: str(value) for key, value in (await view.request.form()).items()}
    try:
        values = checked(name, form)
    except ValueError as error:
        return ask(view, here, name, form, str(error))
    answer = (await view.do(f"run.{name}", id=here["id"], **values)).get("answer")
    target = f"/runs/{answer}" if name == "rerun" else f"/runs/{here['id']}"
    return view.redirect(target, DONE[name])


def checked(name: str, form: dict[str, str]) -> dict[str, Any]:
    """What a statement takes, of what was sent; raises ValueError."""
    given = {key: value.strip() or None for key, value in form.items()}
    match name:
        case "cancel":
            return {"reason": given.get("reason"), "undo": bool(given.get("undo"))}
        case "pause":
            return {"reason": given.get("reason")}
        case "resume" | "rerun":
            return {"input": as_json(given.get("input") or "null") if given.get("input") else None}
        case "skip":
            value = as_json(given.get("value") or "null")
            return {"node": given.get("node"), "value": value, "scope": given.get("scope")}
    if not given.get("name"):
        raise ValueError("Which signal?")
    return {"name": given["name"], "data": as_json(given.get("data") or "{}")}


def ask(view: View, here: Row, name: str, given: dict[str, str], error: str = "") -> Response:
    """The page that says what will happen, and asks."""
    inputs = [item | {"value": given.get(item["name"], "")} for item in INPUTS[name]]
    if error:
        asked = next(item for item in inputs if item["name"] in ("input", "value", "data"))
        asked["error"] = error
    title = f"{BUTTONS[name]}: {here['label'] or here['id']}"
    sentences = [f"Run {here['id']} of {here['role']}, {here['status']}.", SAYS[name]]
    fields = {"node": given["node"]} if name == "skip" and given.get("node") else {}
    return view.confirm(
        title, sentences, BUTTONS[name], inputs=inputs, fields=fields, back=f"/runs/{here['id']}",
        danger=name == "cancel", status=400 if error else 200,
    )  # fmt: skip


ROUTES = [Route("/runs/{id}", run), Route("/runs/{id}/{act}", act, methods=["GET", "POST"])]
