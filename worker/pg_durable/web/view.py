"""What each page is made with: who asks, what the database says, what is sent back."""

import hashlib
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, cast
from urllib.parse import urlencode

import psycopg
from psycopg import errors
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from pg_durable.login import reason
from pg_durable.web.database import Database, LoginError, Row, UnreachableError
from pg_durable.web.options import Options
from pg_durable.web.queries import text_of
from pg_durable.web.rendering import environment
from pg_durable.web.sessions import COOKIE, FLASH, Session, Sessions

TAG = "the-tag-of-this-page"  # stands in the head of each, by which scripts know whether what comes is what is shown
RETRY = 5  # seconds after which a page asks again when the database does not answer


class NotAllowedError(Exception):
    """A request that is not answered; the message says why."""


class NotFoundError(Exception):
    """There is no such thing, or the role may not see it."""


class View:
    """One request of somebody who is logged in."""

    def __init__(self, request: Request, session: Session) -> None:
        self.request = request
        self.session = session
        self.options: Options = request.app.state.options
        self.statements: list[str] = []
        database: Database = request.app.state.database
        self._pool = database.pool(session)

    async def rows(self, statement: str, /, **values: Any) -> list[Row]:
        """The rows of a query; the page shows its text."""
        text = text_of(statement, values)
        self.statements.append(text)
        return await self._pool.read(text)

    async def row(self, statement: str, /, **values: Any) -> Row | None:
        """The first row of a query."""
        rows = await self.rows(statement, **values)
        return rows[0] if rows else None

    async def do(self, statement: str, /, **values: Any) -> Row:
        """The first row of a statement that changes something; only what comes by POST, with its token, may."""
        self._may_change()
        rows = await self._pool.write(text_of(statement, values))
        return rows[0] if rows else {}

    async def do_each(self, statement: str, many: list[dict[str, Any]]) -> tuple[int, list[psycopg.Error]]:
        """The same statement many times, each in a transaction of its own: how many were done, and the refusals."""
        self._may_change()
        refusals = []
        for values in many:
            try:
                await self._pool.write(text_of(statement, values))
            except psycopg.Error as error:
                refusals.append(error)
        return len(many) - len(refusals), refusals

    def _may_change(self) -> None:
        if self.options.read_only:
            raise NotAllowedError("This page was started with --read-only: it changes nothing.")
        if self.request.method != "POST":
            raise NotAllowedError("Only a form that was sent may change something.")

    def render(self, template: str, status: int = 200, **context: Any) -> Response:
        """A page; 304 when the browser has this one already."""
        flash = self._sessions.read_flash(self.request.cookies.get(FLASH))
        body = render(self.request, template, view=self, session=self.session, flash=flash, **context)
        if status != 200 or self.request.method not in ("GET", "HEAD"):
            return HTMLResponse(body, status)
        digest = hashlib.sha256(body.encode()).hexdigest()[:24]
        body, tag = body.replace(TAG, digest, 1), f'"{digest}"'
        known = self.request.headers.get("if-none-match", "").removeprefix("W/") == tag
        response = Response(status_code=304) if known else HTMLResponse(body)
        response.headers["etag"] = tag
        if flash:
            response.delete_cookie(FLASH, httponly=True, samesite="strict")
        return response

    def confirm(self, title: str, sentences: list[str], button: str, **context: Any) -> Response:
        """A page that says what will happen, and asks. context: what confirm.html takes."""
        return self.render("confirm.html", title=title, sentences=sentences, button=button, **context)

    def redirect(self, to: str, message: str = "", kind: str = "good") -> Response:
        """Goes on to a page of ours, which shows the message."""
        response = RedirectResponse(to, 303)
        if message:
            set_cookie(self.request, response, FLASH, self._sessions.seal_flash(kind, message), 60)
        return response

    def url(self, **changes: Any) -> str:
        """This address with other parameters; None takes one away."""
        parameters = {**self.request.query_params, **changes}
        query = urlencode({key: value for key, value in parameters.items() if value not in (None, "")})
        return self.request.url.path + (f"?{query}" if query else "")

    def query(self, **more: Any) -> str:
        """The parameters of this address and more, with their question mark."""
        return "?" + urlencode({**self.request.query_params, **more})

    @property
    def here(self) -> str:
        """This address."""
        return self.url()

    @property
    def _sessions(self) -> Sessions:
        return cast(Sessions, self.request.app.state.sessions)


Handler = Callable[[Request], Awaitable[Response]]


def page(handler: Callable[[View], Awaitable[Response]]) -> Handler:
    """Makes an endpoint of a function of a View: who is not logged in comes to the form, errors become pages."""

    @wraps(handler)
    async def endpoint(request: Request) -> Response:
        sessions: Sessions = request.app.state.sessions
        session = sessions.read(request.cookies.get(COOKIE))
        if session is None:
            return to_login(request)
        try:
            if request.method == "POST":
                await check_form(request, session)
            return await handler(View(request, session))
        except LoginError:
            sessions.end(session)
            return to_login(request)
        except (NotAllowedError, NotFoundError, UnreachableError, psycopg.Error) as error:
            return explained(request, session, error)

    return endpoint


def explained(request: Request, session: Session, error: Exception) -> Response:
    """The page that says what went wrong."""
    if isinstance(error, UnreachableError):
        return unreachable(request, str(error), session)
    if isinstance(error, psycopg.Error):
        return refused(request, error, session)
    if isinstance(error, NotFoundError):
        return problem(request, 404, "Not here", str(error), session=session)
    return problem(request, 403, "This was not done", str(error), session=session)


async def check_form(request: Request, session: Session) -> None:
    """Raises unless a form comes from a page of ours."""
    form = await request.form()
    if str(form.get("csrf", "")) != session.csrf:
        raise NotAllowedError("The form did not come from this page, or is of another login. Load its page again.")


def to_login(request: Request) -> Response:
    """The form, and then back here."""
    here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    target = "/login?" + urlencode({"next": here}) if request.method == "GET" else "/login"
    if request.headers.get("hx-request"):
        return Response(status_code=401, headers={"hx-redirect": target})
    return RedirectResponse(target, 303)


def unreachable(request: Request, why: str, session: Session | None = None) -> Response:
    """The database is down: the page asks again by itself."""
    response = problem(
        request, 503, "The database does not answer", why, session=session,
        hint=f"This page asks again every {RETRY} seconds.",
    )  # fmt: skip
    if request.method == "GET":
        response.headers["refresh"] = str(RETRY)
    response.headers["retry-after"] = str(RETRY)
    return response


def refused(request: Request, error: psycopg.Error, session: Session) -> Response:
    """What the database has said, with its hint."""
    title, status = "The database has refused this", 400
    hint = error.diag.message_hint or ""
    if isinstance(error, errors.QueryCanceled):
        title, status = "This took too long", 504
        hint = "Ask for less: a filter, or a shorter time."
    elif isinstance(error, errors.InvalidSchemaName | errors.UndefinedTable | errors.UndefinedFunction):
        title, hint = "This database has no pg_durable, or an older one", "pg-durable install --dsn ... installs it."
    elif isinstance(error, errors.InsufficientPrivilege):
        status = 403
        hint = hint or f"An administrator may let the role in: select df.grant_usage('{session.role}')"
    return problem(request, status, title, reason(error), session=session, hint=hint)


def problem(
    request: Request, status: int, title: str, text: str, *, session: Session | None = None, hint: str = ""
) -> Response:
    """A page that says what is wrong, and what to do."""
    body = render(request, "problem.html", view=None, session=session, title=title, text=text, hint=hint)
    return HTMLResponse(body, status)


def render(request: Request, template: str, **context: Any) -> str:
    """A template as text."""
    state = request.app.state
    return environment().get_template(template).render(
        request=request, path=request.url.path, navigation=state.navigation, version=state.version,
        read_only=state.options.read_only, by_itself=state.options.login_as is not None, **context,
    )  # fmt: skip


def set_cookie(request: Request, response: Response, name: str, value: str, age: int) -> None:
    """Sets a cookie that scripts and other sites do not get, and behind TLS nobody without it."""
    secure = request.app.state.options.secure or request.url.scheme == "https"
    response.set_cookie(name, value, max_age=age, httponly=True, samesite="strict", secure=secure)
