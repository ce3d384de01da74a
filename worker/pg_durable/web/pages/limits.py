"""Roles and limits: sessions, slots, what is in use; changing them where the role may."""

import re
from typing import Any

from starlette.responses import Response
from starlette.routing import Route

from pg_durable.web.database import Row
from pg_durable.web.view import NotAllowedError, NotFoundError, View, page

MOST = 200
NUMBER = re.compile(r"\d{0,9}")
INTERVAL = re.compile(r"[\w:. ]{1,40}")
WRONG = "Write a whole number, or nothing."


@page
async def limits(view: View) -> Response:
    """The page."""
    rights = await view.row("limits.rights")
    return view.render(
        "limits.html", title="Roles and limits", administrator=bool(rights and rights["administrator"]),
        limits=await view.rows("limits.limits", called=None, shared=False, limit=MOST),
        roles=await view.rows("limits.roles", role=None, limit=MOST),
    )  # fmt: skip


@page
async def change(view: View) -> Response:
    """Changes a limit, or makes one."""
    given = {**view.request.query_params, **{k: str(v).strip() for k, v in (await view.request.form()).items()}}
    name, shared = given.get("name", ""), given.get("shared", "") in ("on", "true")
    known = await view.row("limits.limits", called=name, shared=shared, limit=1) if name else None
    if known and not known["may_change"]:
        raise NotAllowedError(f"The limit {name} is shared by all roles: an administrator changes it.")
    wrong = {}
    if view.request.method == "POST":
        wrong = {key: WRONG for key in ("concurrency", "rate") if not NUMBER.fullmatch(given.get(key, ""))}
        if not INTERVAL.fullmatch(given.get("per") or "1 second"):
            wrong["per"] = "Write a length of time, such as 1 minute."
        if not wrong:
            await view.do(
                "limits.set", called=name, concurrency=given.get("concurrency") or None, rate=given.get("rate") or None,
                per=given.get("per") or "1 second", shared=shared,
            )  # fmt: skip
            return view.redirect("/limits", f"The limit {name} is set.")
    return ask_limit(view, known, given, wrong)


def ask_limit(view: View, known: Row | None, given: dict[str, Any], wrong: dict[str, str]) -> Response:
    """The page that asks."""
    name, shared = given.get("name", ""), given.get("shared", "") in ("on", "true")
    values = {key: given.get(key, text((known or {}).get(key))) for key in ("concurrency", "rate", "per")}
    inputs: list[dict[str, Any]] = [
        {"name": "name", "label": "Name", "value": name, "required": True},
        {"name": "concurrency", "label": "Steps at a time", "help": "nothing: any number; 0: none"},
        {"name": "rate", "label": "Steps that may begin", "help": "nothing: any number"},
        {"name": "per", "label": "within any", "help": "1 second, 5 minutes"},
        {"name": "shared", "label": "Shared by all roles (administrators)", "kind": "check", "value": "on" * shared},
    ]
    if known:
        inputs = inputs[1:-1]
    inputs = [{"value": values.get(item["name"], ""), "error": wrong.get(item["name"])} | item for item in inputs]
    sentences = ["Steps that run are not stopped when a limit is lowered: others wait until there is room."]
    if known:
        sentences.append("With neither number the limit is removed, and what waits in its line goes on.")
    fields = {"name": name, "shared": "true" if shared else ""} if known else {}
    return view.confirm(
        f"Change limit {name}" if known else "New limit", sentences, "Set the limit", inputs=inputs, fields=fields,
        back="/limits", action="/limits/change", status=400 if wrong else 200,
    )  # fmt: skip


@page
async def role(view: View) -> Response:
    """Changes what a role may have at a time."""
    given = {**view.request.query_params, **{k: str(v).strip() for k, v in (await view.request.form()).items()}}
    name = given.get("role", "")
    if not name:
        raise NotFoundError("Which role?")
    known = await view.row("limits.roles", role=name, limit=1) or {}
    keys = {"sessions": "Sessions", "http": "HTTP requests", "live_instances": "Runs that have not ended"}
    wrong = {}
    if view.request.method == "POST":
        wrong = {key: WRONG for key in keys if not NUMBER.fullmatch(given.get(key, ""))}
        if not wrong:
            plain = (await view.row("limits.plain", role=name) or {}).get("name", name)
            await view.do(
                "limits.role", role=plain, sessions=given.get("sessions") or None, http=given.get("http") or None,
                live=given.get("live_instances") or None,
            )  # fmt: skip
            return view.redirect("/limits", f"What {name} may have is set.")
    inputs = [
        {"name": key, "label": label, "help": "at a time; nothing: no limit", "error": wrong.get(key),
         "value": given.get(key, text(known.get(key)))}
        for key, label in keys.items()
    ]  # fmt: skip
    return view.confirm(
        f"What {name} may have", ["All workers together keep to it. What runs goes on."], "Set it", inputs=inputs,
        fields={"role": name}, back="/limits", action="/limits/role", status=400 if wrong else 200,
    )  # fmt: skip


def text(value: Any) -> str:
    """A value as a field shows it."""
    return "" if value is None else str(value)


ROUTES = [
    Route("/limits", limits), Route("/limits/change", change, methods=["GET", "POST"]),
    Route("/limits/role", role, methods=["GET", "POST"]),
]  # fmt: skip
