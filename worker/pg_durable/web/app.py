"""The application: its pages, what is around them, and what must be closed when it ends."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pg_durable import log
from pg_durable.web import live, login_page
from pg_durable.web.database import Database
from pg_durable.web.options import Options
from pg_durable.web.sessions import COOKIE, Attempts, Session, Sessions
from pg_durable.web.view import problem

# The pages: modules of pg_durable.web.pages with ROUTES. A page plugs in by its line here.
PAGES = (
    "runs",
    "run",
    "overview",
    "people",
    "schedules",
    "definitions",
    "limits",
    "workers",
)  # fmt: skip

# What the head of each page leads to; an entry is shown when its page is there.
NAVIGATION = (
    ("Overview", "/"),
    ("Runs", "/runs"),
    ("People", "/people"),
    ("Schedules", "/schedules"),
    ("Definitions", "/definitions"),
    ("Limits", "/limits"),
    ("Workers", "/workers"),
)

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")
LARGEST_FORM = 2_000_000
TIDY = 15.0  # seconds


def application(options: Options) -> Starlette:
    """The page, to be served by any ASGI server."""
    database = Database(options)
    hub = live.Hub(database)
    routes = all_routes()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        tidying = asyncio.create_task(tidy(database))
        yield
        tidying.cancel()
        hub.stop()
        await database.close_idle(0.0)

    handlers: dict[Any, Any] = {404: not_found, 405: not_found, 500: broken}
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers, middleware=[
        Middleware(Guard, local=options.login_as is not None), Middleware(GZipMiddleware, minimum_size=2000),
    ])  # fmt: skip
    app.state.options = options
    app.state.database = database
    app.state.hub = hub
    app.state.sessions = Sessions(options)
    app.state.attempts = Attempts(options.clock)
    app.state.logins = login_page.limit()
    app.state.version = version_of_files()
    app.state.navigation = navigation(routes)
    return app


def all_routes() -> list[BaseRoute]:
    """Where everything is."""
    with as_file(files("pg_durable.web") / "static") as folder:
        static = StaticFiles(directory=folder)
    routes: list[BaseRoute] = [Route("/healthz", healthz), Mount("/static", static), *login_page.ROUTES, *live.ROUTES]
    for name in PAGES:
        routes += import_module(f"pg_durable.web.pages.{name}").ROUTES
    if not any(isinstance(route, Route) and route.path == "/" for route in routes):
        routes.append(Route("/", lambda request: RedirectResponse("/runs")))
    return routes


def navigation(routes: list[BaseRoute]) -> list[tuple[str, str]]:
    """The entries whose pages there are."""
    paths = {route.path for route in routes if isinstance(route, Route)}
    return [entry for entry in NAVIGATION if entry[1] in paths]


def version_of_files() -> str:
    """Changes with any static file, so that browsers keep them for as long as they are the same."""
    with as_file(files("pg_durable.web") / "static") as folder:
        contents = [path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()]
    return hashlib.sha256(b"".join(contents)).hexdigest()[:12]


async def healthz(request: Request) -> Response:
    """For probes: the page is there. Whether the database is, its pages say."""
    return PlainTextResponse("ok\n")


async def not_found(request: Request, error: Exception) -> Response:
    """An address that leads nowhere."""
    sessions: Sessions = request.app.state.sessions
    session: Session | None = sessions.read(request.cookies.get(COOKIE))
    return problem(request, 404, "Not here", f"There is no page {request.url.path}.", session=session)


async def broken(request: Request, error: Exception) -> Response:
    """A fault of ours: the log has it."""
    log.LOGGER.error("page failed", exc_info=error, extra={"fields": {"path": request.url.path}})
    return problem(request, 500, "This page has a fault", "The log of pg-durable web says which.")


async def tidy(database: Database) -> None:
    """Closes connections that nobody uses, for as long as the page runs."""
    while True:
        await asyncio.sleep(TIDY)
        await database.close_idle()


class Guard:
    """Adds the security headers; refuses forms that are too large and, where no login is asked, foreign host names."""

    def __init__(self, app: ASGIApp, local: bool) -> None:
        self.app = app
        self.local = local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *headers(scope, message)]
            await send(message)

        answer = self.refusal(scope)
        await (answer or self.app)(scope, receive, with_headers)

    def refusal(self, scope: Scope) -> Response | None:
        """Why a request is refused."""
        request = Request(scope)
        host = request.headers.get("host", "")
        if self.local and host.rpartition(":")[0] not in LOCAL_HOSTS and host not in LOCAL_HOSTS:
            return PlainTextResponse("This page is for the machine that it runs on.\n", 421)
        length = request.headers.get("content-length", "0")
        if request.method == "POST" and (not length.isdecimal() or int(length) > LARGEST_FORM):
            return PlainTextResponse("The form is too large.\n", 413)
        return None


def headers(scope: Scope, message: Message) -> list[tuple[bytes, bytes]]:
    """What each answer says besides; files are kept by the browser, pages are asked for again each time."""
    given = {name for name, _ in message["headers"]}
    added = dict(HEADERS)
    if b"cache-control" not in given:
        is_file = scope["path"].startswith("/static/") and b"v=" in scope.get("query_string", b"")
        added["cache-control"] = "public, max-age=31536000, immutable" if is_file else "private, no-cache"
    if scope.get("scheme") == "https":
        added["strict-transport-security"] = "max-age=31536000"
    return [(name.encode(), value.encode()) for name, value in added.items()]
