"""A client for programs: start runs, wait for them, read what they returned, signal and cancel; over psycopg 3.

    with Client("dbname=app") as df:
        run = df.start("'SELECT 6 * 7 AS answer'", label="first")
        df.wait(run)                                    # 'completed', 'failed' or 'cancelled'
        df.result(run)                                  # [{'answer': 42}]

Waiting is by notification: listen, read the status, wait. No transaction stays open meanwhile. `AsyncClient` is the
same for asyncio, where any number of tasks wait over one connection.
"""

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from types import NoneType, TracebackType, UnionType
from typing import Any, Self, TypeVar, Union, get_args, get_origin, get_type_hints, overload
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.rows import class_row, dict_row

ENDED = ("completed", "failed", "cancelled")
CHANNEL = "pg_durable_ends"
AGAIN = 30.0  # seconds after which the status is read although nothing was heard: a notification can be lost
T = TypeVar("T")
Embed = Callable[[str], list[float]]

START = """
select df.start(case when starts_with(%(flow)s, '@') then %(flow)s else df.flow(%(flow)s) end, %(label)s, %(database)s,
                input => %(input)s::jsonb, key => %(key)s, on_conflict => %(on_conflict)s, start_at => %(start_at)s,
                priority => %(priority)s)"""
NOTIFY = "select df.notify_end(r.id, %s) from (select unnest(%s::text[]) as id order by 1) r"
STATUSES = "select i.id, i.status from df.instances i where i.id = any (%s)"
RESULT = "select i.status, i.error, df.result(i.id)::jsonb from df.instances i where i.id = %s"
ROWS = """
select r.* from jsonb_to_recordset(coalesce(df.result(%s)::jsonb -> 'rows', '[]')) as r({})"""
SIGNAL = "select df.signal(%s, %s, %s)"
CANCEL = "select df.cancel(%s, %s, %s)"
SEARCH = "select * from ai.search_vector(%(name)s, %(vector)s::text, %(query)s, k => %(k)s, filter => %(filter)s)"

SQL_TYPES: dict[Any, str] = {
    bool: "boolean", int: "bigint", float: "double precision", Decimal: "numeric", str: "text", bytes: "bytea",
    datetime: "timestamptz", date: "date", timedelta: "interval", UUID: "uuid", dict: "jsonb", list: "jsonb",
}  # fmt: skip


class RunError(Exception):
    """A run that has no result: it failed, was cancelled, has not ended, or is not there."""

    def __init__(self, run: str, status: str | None, error: str | None) -> None:
        super().__init__(
            f"run {run} {'is not there' if status is None else f'is {status}'}{f': {error}' if error else ''}"
        )
        self.run = run
        self.status = status
        self.error = error


def start_arguments(flow: str, label: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """What df.start is given."""
    known = {"database": None, "input": None, "key": None, "on_conflict": "return", "start_at": None, "priority": 0}
    if unknown := set(options) - set(known):
        raise TypeError(f"start() has no option {', '.join(sorted(unknown))}")
    given = {"flow": flow.strip(), "label": label} | known | dict(options)
    return given | {"input": None if given["input"] is None else json.dumps(given["input"])}


def search_arguments(pipeline: str, query: str, vector: list[float], k: int, condition: str | None) -> dict[str, Any]:
    """What ai.search_vector is given."""
    return {"name": pipeline, "vector": json.dumps(vector), "query": query, "k": k, "filter": condition}


def columns(row: type[Any]) -> sql.Composed:
    """The columns of a dataclass or NamedTuple, with the types that PostgreSQL has for theirs."""
    hints = get_type_hints(row)
    names = [field.name for field in fields(row)] if is_dataclass(row) else list(hints)
    parts = [sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(sql_type(name, hints[name]))) for name in names]
    return sql.SQL(", ").join(parts)


def sql_type(name: str, hint: Any) -> Any:
    """The type of a column; NULL is always possible."""
    if get_origin(hint) in (Union, UnionType):
        (hint,) = [part for part in get_args(hint) if part is not NoneType][:1]
    found = SQL_TYPES.get(get_origin(hint) or hint)
    if not found:
        raise TypeError(f"{name}: PostgreSQL has no type for {hint}")
    return found


def value(run: str, found: tuple[Any, ...] | None) -> Any:
    """The rows of a result, or what else it is; raises if there is none."""
    status, error, result = found or (None, None, None)
    if status != "completed":
        raise RunError(run, status, error)
    return result["rows"] if isinstance(result, dict) and "rows" in result else result


def ended(run: str, found: Mapping[str, str]) -> str | None:
    """The status of a run that has ended; None: it has not."""
    if run not in found:
        raise RunError(run, None, None)
    return found[run] if found[run] in ENDED else None


class Client:
    """A connection of its own, in autocommit. For one thread at a time."""

    def __init__(self, dsn: str = "", channel: str = CHANNEL) -> None:
        self._conn = psycopg.connect(dsn, autocommit=True)
        self._channel = channel
        self._listening = False
        self._wanted: set[str] = set()
        self._heard: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *of: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self._conn.close()

    def start(
        self, flow: str, label: str | None = None, *, conn: psycopg.Connection[Any] | None = None, **options: Any
    ) -> str:
        """Starts a flow, in the text language or as @name of a definition; the id of the run.

        Options: input, key, on_conflict, start_at, priority, database. With `conn` it is started in the transaction
        that is open there, and nobody sees it before that has committed.
        """
        found = (conn or self._conn).execute(START, start_arguments(flow, label, options)).fetchone()
        return str(found[0]) if found else ""

    def status(self, run: str) -> str:
        """The status of a run."""
        found = self._statuses({run})
        ended(run, found)
        return found[run]

    def wait(self, run: str, timeout: float | None = None) -> str:
        """Waits until a run has ended; how. Raises TimeoutError."""
        return next(self.as_completed([run], timeout))[1]

    def as_completed(self, runs: Iterable[str], timeout: float | None = None) -> Iterator[tuple[str, str]]:
        """Each run and its status, in the order in which they end. Raises TimeoutError."""
        deadline = time.monotonic() + timeout if timeout is not None else None
        open_runs = set(runs)
        self._listen()
        self._wanted |= open_runs
        self._conn.execute(NOTIFY, [self._channel, list(open_runs)])
        asked = set(open_runs)
        try:
            while open_runs:
                found = self._statuses(asked)
                for run in sorted(asked):
                    if status := ended(run, found):
                        open_runs.discard(run)
                        self._wanted.discard(run)
                        yield run, status
                if open_runs:
                    asked = self._hear(open_runs, deadline)
        finally:
            self._wanted -= open_runs

    def result(self, run: str, row: type[T] | None = None) -> Any:
        """What a run returned: rows as dictionaries, or as instances of `row`, a dataclass or NamedTuple whose
        annotations say the types; what is no rows as it is. Raises RunError unless it has completed."""
        rows = value(run, self._conn.execute(RESULT, [run]).fetchone())
        if row is None:
            return rows
        cursor = self._conn.cursor(row_factory=class_row(row))
        return cursor.execute(sql.SQL(ROWS).format(columns(row)), [run]).fetchall()

    def signal(self, run: str, name: str, data: Any = None) -> None:
        """Sends a signal, with data that JSON has room for."""
        self._conn.execute(SIGNAL, [run, name, json.dumps({} if data is None else data)])

    def cancel(self, run: str, reason: str = "Cancelled by user", undo: bool = False) -> str:
        """Cancels a run; what came of it, as a sentence."""
        found = self._conn.execute(CANCEL, [run, reason, undo]).fetchone()
        return str(found[0]) if found else ""

    def search(
        self, pipeline: str, query: str, embed: Embed, *, k: int = 5, filter: str | None = None
    ) -> list[dict[str, Any]]:
        """The chunks of an AI pipeline that fit a query, the best first, as dictionaries with the columns of
        ai.search_vector. `embed` makes the vector of the query, such as an Embedder with the pipeline's model."""
        given = search_arguments(pipeline, query, embed(query), k, filter)
        return self._conn.cursor(row_factory=dict_row).execute(SEARCH, given).fetchall()

    def _statuses(self, runs: set[str]) -> dict[str, str]:
        return dict(self._conn.execute(STATUSES, [list(runs)]).fetchall())

    def _listen(self) -> None:
        if not self._listening:
            self._conn.execute(sql.SQL("listen {}").format(sql.Identifier(self._channel)))
            self._listening = True

    def _hear(self, open_runs: set[str], deadline: float | None) -> set[str]:
        """Waits; whose status is to be read."""
        again = time.monotonic() + AGAIN
        while not self._heard & open_runs:
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                raise TimeoutError(f"not ended in time: {', '.join(sorted(open_runs))}")
            if now >= again:
                return set(open_runs)
            until = again if deadline is None else min(again, deadline)
            for note in self._conn.notifies(timeout=until - now, stop_after=1):
                if note.payload in self._wanted:  # others wait on the same channel, for other runs
                    self._heard.add(note.payload)
        heard = self._heard & open_runs
        self._heard -= heard
        return heard


class AsyncClient:
    """The same for asyncio: `async with AsyncClient("dbname=app") as df`. One connection for what is asked, and one
    that listens, for all tasks together."""

    def __init__(self, dsn: str = "", channel: str = CHANNEL) -> None:
        self._dsn = dsn
        self._channel = channel
        self._conn: psycopg.AsyncConnection[Any] | None = None
        self._listener: asyncio.Task[None] | None = None
        self._listens = asyncio.Event()
        self._waiting: dict[str, set[asyncio.Event]] = {}

    async def __aenter__(self) -> Self:
        self._conn = await psycopg.AsyncConnection.connect(self._dsn, autocommit=True)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections."""
        if self._listener:
            self._listener.cancel()
            await asyncio.wait({self._listener})
        if self._conn:
            await self._conn.close()

    async def start(
        self, flow: str, label: str | None = None, *, conn: psycopg.AsyncConnection[Any] | None = None, **options: Any
    ) -> str:
        """As Client.start."""
        cursor = await (conn or self._own).execute(START, start_arguments(flow, label, options))
        found = await cursor.fetchone()
        return str(found[0]) if found else ""

    async def status(self, run: str) -> str:
        """The status of a run."""
        found = await self._statuses(run)
        ended(run, found)
        return found[run]

    async def wait(self, run: str) -> str:
        """Waits until a run has ended; how. `asyncio.timeout` limits that."""
        await self._listen()
        heard = asyncio.Event()
        self._waiting.setdefault(run, set()).add(heard)
        try:
            await self._own.execute(NOTIFY, [self._channel, [run]])
            while not (status := ended(run, await self._statuses(run))):
                await self._hear(heard)
            return status
        finally:
            self._waiting[run].discard(heard)
            if not self._waiting[run]:
                del self._waiting[run]

    @overload
    async def result(self, run: str, row: None = None) -> Any: ...
    @overload
    async def result(self, run: str, row: type[T]) -> list[T]: ...
    async def result(self, run: str, row: type[T] | None = None) -> Any:
        """As Client.result."""
        rows = value(run, await (await self._own.execute(RESULT, [run])).fetchone())
        if row is None:
            return rows
        cursor = self._own.cursor(row_factory=class_row(row))
        return await (await cursor.execute(sql.SQL(ROWS).format(columns(row)), [run])).fetchall()

    async def signal(self, run: str, name: str, data: Any = None) -> None:
        """Sends a signal, with data that JSON has room for."""
        await self._own.execute(SIGNAL, [run, name, json.dumps({} if data is None else data)])

    async def cancel(self, run: str, reason: str = "Cancelled by user", undo: bool = False) -> str:
        """Cancels a run; what came of it, as a sentence."""
        found = await (await self._own.execute(CANCEL, [run, reason, undo])).fetchone()
        return str(found[0]) if found else ""

    async def search(
        self, pipeline: str, query: str, embed: Embed, *, k: int = 5, filter: str | None = None
    ) -> list[dict[str, Any]]:
        """As Client.search; `embed` runs in a thread."""
        given = search_arguments(pipeline, query, await asyncio.to_thread(embed, query), k, filter)
        return await (await self._own.cursor(row_factory=dict_row).execute(SEARCH, given)).fetchall()

    @property
    def _own(self) -> psycopg.AsyncConnection[Any]:
        if not self._conn:
            raise RuntimeError("use it as `async with AsyncClient(...) as df`")
        return self._conn

    async def _statuses(self, run: str) -> dict[str, str]:
        return dict(await (await self._own.execute(STATUSES, [[run]])).fetchall())

    async def _hear(self, heard: asyncio.Event) -> None:
        """Waits until the run's end was heard, or for a while; raises if nothing will be heard any more."""
        listener = self._listener
        waiter = asyncio.create_task(heard.wait())
        try:
            await asyncio.wait(
                {waiter, listener} if listener else {waiter}, timeout=AGAIN, return_when="FIRST_COMPLETED"
            )
        finally:
            waiter.cancel()
        heard.clear()
        if listener and listener.done():
            listener.result()

    async def _listen(self) -> None:
        """Listens, once for all tasks; anew after the connection was lost."""
        if self._listener is None or self._listener.done():
            self._listens.clear()
            self._listener = asyncio.create_task(self._notifications())
        listens = asyncio.create_task(self._listens.wait())
        await asyncio.wait({listens, self._listener}, return_when="FIRST_COMPLETED")
        listens.cancel()
        if self._listener.done():
            self._listener.result()

    async def _notifications(self) -> None:
        async with await psycopg.AsyncConnection.connect(self._dsn, autocommit=True) as conn:
            await conn.execute(sql.SQL("listen {}").format(sql.Identifier(self._channel)))
            self._listens.set()
            async for note in conn.notifies():
                for heard in self._waiting.get(note.payload, ()):
                    heard.set()
