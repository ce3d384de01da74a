"""The login form, and logging out."""

import asyncio
import math

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from pg_durable.web.database import Database, LoginError, UnreachableError
from pg_durable.web.sessions import COOKIE, Attempts, Sessions
from pg_durable.web.view import View, page, render, set_cookie, unreachable

MOST_AT_A_TIME = 4
LONGEST = 1000  # of a role's name or a password


async def login(request: Request) -> Response:
    """Shows the form, and takes it."""
    if request.app.state.options.login_as:
        return RedirectResponse("/", 303)
    if request.method != "POST":
        return form(request)
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return form(request, "The form came from another site.", status=403)
    sent = await request.form()
    role, password = str(sent.get("role", "")).strip()[:LONGEST], str(sent.get("password", ""))[:LONGEST]
    if not role or not password:
        return form(request, "A role and its password, please.", role, 400)
    return await attempt(request, role, password, str(sent.get("next", "")))


async def attempt(request: Request, role: str, password: str, target: str) -> Response:
    """Logs in, unless there were too many attempts that failed."""
    state = request.app.state
    attempts: Attempts = state.attempts
    address = request.client.host if request.client else ""
    wait = attempts.wait(address, role)
    if wait:
        response = form(request, f"Too many attempts. Try again in {math.ceil(wait)} s.", role, 429)
        response.headers["retry-after"] = str(math.ceil(wait))
        return response
    sessions: Sessions = state.sessions
    database: Database = state.database
    session = sessions.begin(role, password)
    try:
        async with state.logins:
            await database.check(session)
    except LoginError as error:
        attempts.failed(address, role)
        said = str(error)
        return form(request, said[:1].upper() + said[1:] + ".", role, 403)
    except UnreachableError as error:
        return unreachable(request, str(error))
    response = RedirectResponse(ours(target), 303)
    set_cookie(request, response, COOKIE, sessions.seal(session), sessions.age)
    return response


def ours(target: str) -> str:
    """An address of this page, whatever was sent."""
    plain = target.startswith("/") and not target.startswith("//") and "\\" not in target
    return target if plain and target.isprintable() else "/"


def form(request: Request, message: str = "", role: str = "", status: int = 200) -> Response:
    """The form."""
    target = request.query_params.get("next", "/")
    body = render(request, "login.html", view=None, session=None, message=message, role=role, target=ours(target))
    return HTMLResponse(body, status)


@page
async def logout(view: View) -> Response:
    """Ends the session, here and in all tabs."""
    view.request.app.state.sessions.end(view.session)
    response = RedirectResponse("/login", 303)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return response


def limit() -> asyncio.Semaphore:
    """So many logins are tried at the same time: each costs the server a hash."""
    return asyncio.Semaphore(MOST_AT_A_TIME)


ROUTES = [
    Route("/login", login, methods=["GET", "POST"]),
    Route("/logout", logout, methods=["POST"]),
]
