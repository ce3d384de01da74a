"""Server-sent events: one statement a second for each role that has a page open, shared by all its tabs."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import psycopg
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from pg_durable.web.database import Database, LoginError, UnreachableError
from pg_durable.web.queries import text_of
from pg_durable.web.sessions import COOKIE, Session, Sessions

EVERY = 1.0  # seconds
KEEP_ALIVE = 15  # turns without news after which a comment is sent, so that proxies keep the stream
MOST_IDS = 200


@dataclass(eq=False)
class Listener:
    """One tab."""

    session: Session
    run: str | None
    greeted: bool = False  # it was told to load again, for what has changed between its page and its stream
    queue: asyncio.Queue[str] = field(default_factory=lambda: asyncio.Queue(maxsize=8))

    def say(self, event: str, ids: list[str]) -> None:
        """Passes an event on; of a tab that shows one run only what is of that run. A slow tab misses none."""
        if event == "change" and self.run and ids and self.run not in ids:
            return
        if not self.queue.full():
            self.queue.put_nowait(f"event: {event}\ndata: {json.dumps(ids[:MOST_IDS])}\n\n")


class Hub:
    """Asks for each role with listeners; without any it is silent."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._listeners: dict[tuple[str, str | None], set[Listener]] = {}
        self._tasks: dict[tuple[str, str | None], asyncio.Task[None]] = {}
        self.asked = 0  # statements, for tests

    @property
    def listening(self) -> int:
        """How many tabs hear it."""
        return sum(len(listeners) for listeners in self._listeners.values())

    def join(self, listener: Listener) -> None:
        """A tab is open."""
        key = (listener.session.role, listener.session.password)
        self._listeners.setdefault(key, set()).add(listener)
        if key not in self._tasks:
            self._tasks[key] = asyncio.create_task(self._serve(key, listener.session))

    def leave(self, listener: Listener) -> None:
        """A tab was closed or hidden."""
        key = (listener.session.role, listener.session.password)
        listeners = self._listeners.get(key, set())
        listeners.discard(listener)
        if not listeners:
            self._listeners.pop(key, None)
            task = self._tasks.pop(key, None)
            if task:
                task.cancel()

    def stop(self) -> None:
        """Ends all streams."""
        for task in self._tasks.values():
            task.cancel()
        for listeners in list(self._listeners.values()):
            for listener in listeners:
                listener.say("bye", [])

    async def _serve(self, key: tuple[str, str | None], session: Session) -> None:
        mark: str | None = None
        down = False
        while True:
            try:
                mark, ids = await self._changes(session, mark)
                self._tell(key, session, [] if down else ids, bool(ids) or down)
                down = False
            except (UnreachableError, LoginError, psycopg.Error):
                if not down:
                    self._say(key, "down", [])
                down = True
                mark = None
            await asyncio.sleep(EVERY)

    async def _changes(self, session: Session, mark: str | None) -> tuple[str | None, list[str]]:
        self.asked += 1
        rows: list[dict[str, Any]] = await self._database.pool(session).read(text_of("live.changes", {"mark": mark}))
        ids = [row["instance_id"] for row in rows if row["instance_id"]]
        return rows[-1]["mark"] if rows else mark, ids if mark is not None else []

    def _tell(self, key: tuple[str, str | None], session: Session, ids: list[str], changed: bool) -> None:
        """Says what has changed; a tab that is new loads again in any case."""
        listeners = self._listeners.get(key, set())
        fresh = [listener for listener in listeners if not listener.greeted]
        if changed or fresh:
            self._database.pool(session).forget()
        for listener in fresh:
            listener.greeted = True
            listener.say("change", [])
        if changed:
            self._say(key, "change", ids)

    def _say(self, key: tuple[str, str | None], event: str, ids: list[str]) -> None:
        for listener in self._listeners.get(key, ()):
            listener.say(event, ids)


async def live(request: Request) -> Response:
    """The stream of a tab: change (ids of runs; none: anything), down, expired, bye. ?run: of one run alone."""
    sessions: Sessions = request.app.state.sessions
    session = sessions.read(request.cookies.get(COOKIE))
    if session is None:
        return Response(status_code=204)  # the browser does not try again
    listener = Listener(session, request.query_params.get("run"))
    return StreamingResponse(
        stream(request.app.state.hub, sessions, listener),
        media_type="text/event-stream",
        headers={"cache-control": "no-store", "x-accel-buffering": "no"},
    )


async def stream(hub: Hub, sessions: Sessions, listener: Listener) -> AsyncIterator[str]:
    """What is sent to a tab, until it leaves."""
    hub.join(listener)
    try:
        yield "retry: 2000\n\n"
        silent = 0
        while True:
            if sessions.expired(listener.session):
                yield "event: expired\ndata: []\n\n"
                return
            try:
                text = await asyncio.wait_for(listener.queue.get(), EVERY)
            except TimeoutError:
                silent += 1
                if silent % KEEP_ALIVE == 0:
                    yield ": still here\n\n"
                continue
            yield text
            if text.startswith("event: bye"):
                return
    finally:
        hub.leave(listener)


ROUTES = [Route("/live", live)]
