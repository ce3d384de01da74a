"""Definitions: flows that have a name, their versions, what uses them; starting one, defining one."""

import difflib
from typing import Any
from urllib.parse import urlencode

from starlette.responses import Response
from starlette.routing import Route

from pg_durable.web.database import Row
from pg_durable.web.pages.runs import as_json
from pg_durable.web.picture import picture
from pg_durable.web.view import NotFoundError, View, page

MOST = 500
LONGEST_DIFF = 2000  # lines


@page
async def definitions(view: View) -> Response:
    """The newest version of each."""
    return view.render(
        "definitions.html", title="Definitions", definitions=await view.rows("definitions.definitions", limit=MOST)
    )


@page
async def definition(view: View) -> Response:
    """One of them: a version, its graph, what changed, who uses it."""
    name, owner, versions = await the_versions(view)
    chosen = pick(versions, view.request.query_params.get("version")) or versions[0]
    earlier = pick(versions, view.request.query_params.get("against")) or before(versions, chosen)
    drawn = await view.row("definitions.picture", flow=chosen["flow"])
    return view.render(
        "definition.html", title=name, name=name, owner=owner, versions=versions, chosen=chosen, earlier=earlier,
        diff=diff(earlier, chosen) if earlier else [], picture=picture(drawn["svg"] if drawn else "", view.here, ""),
        scheduled=await view.rows("definitions.scheduled", called=name, owner=owner),
        callers=await view.rows("definitions.callers", called=name, owner=owner),
    )  # fmt: skip


async def the_versions(view: View) -> tuple[str, str, list[Row]]:
    """Name, owner and versions of the definition of the address; raises NotFoundError."""
    name, owner = view.request.query_params.get("name", ""), view.request.query_params.get("owner", "")
    versions = await view.rows("definitions.versions", called=name, owner=owner) if name and owner else []
    if not versions:
        raise NotFoundError(f"There is no definition {name}, or {view.session.role} may not see it.")
    return name, owner, versions


def pick(versions: list[Row], number: str | None) -> Row | None:
    """The version of a number, as an address has it."""
    return next((one for one in versions if str(one["version"]) == number), None)


def before(versions: list[Row], chosen: Row) -> Row | None:
    """The version before one."""
    return next((one for one in versions if one["version"] < chosen["version"]), None)


def diff(earlier: Row, chosen: Row) -> list[tuple[str, str]]:
    """What changed between two versions: lines, each with what it is."""
    kinds = {"+": "added", "-": "removed", "@": "place"}
    lines = difflib.unified_diff(earlier["flow"].splitlines(), chosen["flow"].splitlines(), n=3, lineterm="")
    return [(kinds.get(line[:1], ""), line) for line in list(lines)[2 : LONGEST_DIFF + 2]]


@page
async def start(view: View) -> Response:
    """Asks for the input, and starts a run."""
    name, owner, versions = await the_versions(view)
    number = view.request.query_params.get("version")
    chosen = pick(versions, number)
    what = f"@{name}:{chosen['version']}" if chosen else f"@{name}"
    form = {key: str(value).strip() for key, value in (await view.request.form()).items()}
    error = ""
    if view.request.method == "POST":
        try:
            given = as_json(form["input"]) if form.get("input") else None
        except ValueError as wrong:
            error = str(wrong)
        else:
            answer = await view.do("definitions.start", what=what, label=form.get("label") or None, input=given)
            return view.redirect(f"/runs/{answer['answer']}", "This is the new run.")
    inputs: list[dict[str, Any]] = [
        {"name": "label", "label": "Label", "value": form.get("label", "")},
        {"name": "input", "label": "Input", "help": "JSON: $input in the flow", "kind": "area",
         "value": form.get("input", ""), "error": error},
    ]  # fmt: skip
    sentences = [f"A run of {what} begins at once, as role {view.session.role}."]
    return view.confirm(
        f"Start {what}", sentences, "Start it", inputs=inputs, back=address(name, owner), action=view.here,
        status=400 if error else 200,
    )  # fmt: skip


@page
async def define(view: View) -> Response:
    """A form for a flow, and a new version of that name."""
    given = {**view.request.query_params, **{k: str(v) for k, v in (await view.request.form()).items()}}
    flow = given.get("flow", "")
    if view.request.method == "POST":
        name = given.get("name", "").strip()
        answer = await view.do("definitions.define", called=name, flow=flow, comment=given.get("comment") or None)
        me = await view.row("definitions.me")
        return view.redirect(address(name, me["role"] if me else ""), f"{name} has version {answer['answer']}.")
    if given.get("name") and not flow:
        _, _, versions = await the_versions(view)
        flow = versions[0]["flow"]
    inputs = [
        {"name": "name", "label": "Name", "value": given.get("name", ""), "required": True},
        {"name": "flow", "label": "Flow", "help": "'select 1' ~> 'select 2'", "kind": "area", "value": flow},
        {"name": "comment", "label": "Comment", "value": given.get("comment", "")},
    ]
    sentences = [
        f"The flow gets this name, as one of {view.session.role}. One that has it already gets a new version; "
        "runs that go on keep theirs.",
    ]
    return view.confirm(
        "Define a flow", sentences, "Define it", inputs=inputs, back="/definitions", action="/definitions/define"
    )


def address(name: str, owner: str) -> str:
    """The page of a definition."""
    return "/definitions/one?" + urlencode({"name": name, "owner": owner})


ROUTES = [
    Route("/definitions", definitions), Route("/definitions/one", definition),
    Route("/definitions/start", start, methods=["GET", "POST"]),
    Route("/definitions/define", define, methods=["GET", "POST"]),
]  # fmt: skip
