"""The supervising connection: what the worker asks the engine and tells it. One asyncio task owns it."""

import asyncio
import re
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import psycopg
from psycopg import errors, sql

from pg_durable import statements
from pg_durable.login import Login


@dataclass(frozen=True)
class Tick:
    """What the engine says is to be done."""

    ready: dict[str, int] = field(default_factory=dict)
    direct: int = 0
    http: int = 0
    next_ms: int | None = None
    interrupt: tuple[int, ...] = ()
    leases: frozenset[int] = frozenset()  # those of this worker that still count
    max_sessions: int = 1
    reserved: int = 0
    max_http: int = 1
    reserved_http: int = 0
    max_rows: int = 1
    tick: dict[str, int] = field(default_factory=dict)  # what this poll did, and how much it might have done
    max_bytes: int = 1
    left: tuple[str, ...] = ()  # lanes with steps that are not leased
    limits: dict[str, int] = field(default_factory=dict)  # of sessions, by role
    server_started: float = 0.0
    pent_up: bool = False  # notifications that nobody is told of

    @classmethod
    def parse(cls, said: dict[str, Any]) -> "Tick":
        """From the engine's JSON."""
        return cls(
            ready={entry["role"]: int(entry["ready"]) for entry in said.get("roles") or []},
            direct=said.get("direct") or 0,
            http=said.get("http") or 0,
            next_ms=said.get("next_ms"),
            interrupt=tuple(said.get("interrupt") or ()),
            leases=frozenset(said.get("leases") or ()),
            max_sessions=said.get("max_sessions") or 1,
            reserved=said.get("reserved") or 0,
            max_http=said.get("max_http") or 1,
            reserved_http=said.get("reserved_http") or 0,
            max_rows=said.get("max_rows") or 1,
            tick=said.get("tick") or {},
            max_bytes=said.get("max_bytes") or 1,
            left=tuple(said.get("left") or ()),
            limits=said.get("limits") or {},
            server_started=said.get("server_started") or 0.0,
            pent_up=bool(said.get("notifications_pent_up")),
        )


@dataclass(frozen=True)
class Lease:
    """A step that runs outside a transaction, leased to this worker."""

    ticket: int
    role: str
    database: str | None
    database_exists: bool
    request: dict[str, Any]
    bytes: int  # of the request
    secrets: list[dict[str, Any]] | None = field(repr=False)  # that the request names, as they are stored


@dataclass(frozen=True)
class FailedRun:
    """A run that has failed, and the step that is to blame where there is one."""

    instance: str
    label: str | None
    node: str | None
    error: str | None


class RefusedError(Exception):
    """The database lets no worker of this role register; the message says what helps."""


# What the database says to a worker that has to register again: its grant or the installation is gone, or made anew.
GONE = (
    errors.InsufficientPrivilege,
    errors.InvalidSchemaName,
    errors.UndefinedFunction,
    errors.ObjectNotInPrerequisiteState,
)

# What a notification can say: see df_engine.notify.
HINT = re.compile("[ltxc]|r [0-9]{1,10}")
CHANNEL_CHANGED = "c"
SOMETHING = "t"
MOST_HINTS = 1000
LISTEN_AGAIN = 10.0  # seconds between two attempts to pass over what fills the queue of notifications


class Supervisor:
    """A registered worker, as the engine sees it."""

    def __init__(self, conn: psycopg.AsyncConnection[Any], number: int) -> None:
        self.number = number
        self._conn = conn
        self._hints: dict[str, None] = {}  # what notifications have said, each once
        self._listen_again_at = 0.0
        self.told: str | None = None  # the SQLSTATE with which the server said that it ends this session
        conn.add_notice_handler(self._hear)
        conn.add_notify_handler(lambda notify: self._note(notify.payload))

    @classmethod
    async def open(cls, login: Login) -> "Supervisor":
        """Connects, listens and registers."""
        conn = await login.supervisor()
        try:
            await conn.execute(statements.LISTEN)
            row = await (await conn.execute(statements.REGISTER)).fetchone()
        except (errors.InsufficientPrivilege, errors.InvalidSchemaName, errors.UndefinedFunction) as error:
            remedy = _remedy(error, conn.info.user, conn.info.dbname)
            await conn.close()
            raise RefusedError(remedy) from error
        except BaseException:
            await conn.close()
            raise
        assert row is not None
        return cls(conn, row[0])

    @property
    def lost(self) -> bool:
        """Whether the connection is gone, and with it the registration."""
        return self._conn.closed

    async def tick(self) -> Tick:
        """Does what is due and asks what is to be done."""
        tick = Tick.parse(await self._value(statements.TICK, self.number))
        if tick.pent_up and monotonic() >= self._listen_again_at:
            # A transaction that failed because the queue was full has told nobody to read. A new listener skips all.
            self._listen_again_at = monotonic() + LISTEN_AGAIN
            await self._conn.execute(statements.UNLISTEN)
            await self._conn.execute(statements.LISTEN)
        return tick

    async def say_idle(self, milliseconds: int | None) -> None:
        """Says that the worker is idle and polls again in so many milliseconds; None: that it has no room."""
        await self._value(statements.SAY_IDLE, self.number, milliseconds)

    async def claim(self, lane: str, limit: int, room: int, sated: list[str]) -> list[Lease]:
        """Leases steps of a lane, with about so many bytes of requests, but of no role that is sated."""
        values = (self.number, self.number, lane, limit, room, sated)
        cursor = await self._conn.execute(statements.CLAIM_LEASED, values)
        return [Lease(*row) for row in await cursor.fetchall()]

    async def clear_crash_scores(self, former: int, tickets: Sequence[int]) -> None:
        """Says that this worker, which had another number, is alive although it lost these leases."""
        await self._value(statements.CLEAR_CRASH_SCORES, former, list(tickets))

    # The next seven answer False when the engine cannot do it now: somebody's open transaction has locked the run.

    async def complete(self, ticket: int, outcome: bytes) -> bool:
        """Stores the outcome, a JSON text, of a leased step."""
        return await self._value(statements.COMPLETE_LEASED, self.number, ticket, outcome) is not None

    async def raise_crash_score(self, role: int, queue_id: int, node: str, weight: int) -> bool:
        """Says that a session died while it ran a step, and how much that says."""
        return await self._value(statements.RAISE_CRASH_SCORE, role, queue_id, node, weight) is not False

    async def fail_stopped(self, role: int, queue_id: int, node: str, sqlstate: str, said: str) -> bool:
        """Fails a step that was stopped from outside of it."""
        return await self._value(statements.FAIL_STOPPED, role, queue_id, node, sqlstate, said) is not False

    async def release(self, tickets: Sequence[int]) -> bool:
        """Gives back steps that were not run."""
        return await self._value(statements.RELEASE_LEASED, self.number, list(tickets)) is not False

    async def role_unreachable(self, role: str, reason: str, login: bool) -> bool:
        """Says why the runs of a role wait: it cannot log in, or its sessions fail."""
        return await self._value(statements.ROLE_UNREACHABLE, role, reason, login) is not False

    async def role_waits(self, role: str, reason: str) -> bool:
        """Says that the runs of a role wait for a session."""
        return await self._value(statements.ROLE_WAITS, role, reason) is not False

    async def role_reachable(self, role: str) -> bool:
        """Says that they do not have to wait any more."""
        return await self._value(statements.ROLE_REACHABLE, role) is not False

    async def note_short_of_bytes(self, tickets: Sequence[int], roles: Sequence[str]) -> None:
        """Says which leased steps wait for room in memory, and of which roles no more are leased; "": of all."""
        await self._value(statements.NOTE_SHORT_OF_BYTES, self.number, list(tickets), list(roles))

    async def note_progress(self, pid: int, ticket: int | None, said: str) -> None:
        """Hands on what the step in a session of this worker says of its progress; `ticket`: of one that is leased."""
        await self._value(statements.NOTE_PROGRESS, pid, ticket, said)

    async def failed_since(self, since: str | None) -> tuple[str, list[FailedRun]]:
        """Runs that have failed since the time of the last answer, and the time of this one. Some come twice."""
        said = await self._value(statements.FAILED_RUNS, since)
        return said["upto"], [FailedRun(**run) for run in said["runs"]]

    async def leave(self) -> None:
        """Unregisters."""
        await self._value(statements.UNREGISTER, self.number)

    async def close(self) -> None:
        """Closes the connection."""
        with suppress(psycopg.Error, OSError, TimeoutError):
            async with asyncio.timeout(5):
                await self._conn.close()

    async def wait(self, wake: asyncio.Event, seconds: float) -> list[str]:
        """Waits for a notification, for `wake` or for so long; returns the hints that came."""
        self._receive()
        if not self._hints:
            loop, socket = asyncio.get_running_loop(), self._conn.fileno()
            loop.add_reader(socket, wake.set)
            try:
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(seconds, 0)):
                        await wake.wait()
            finally:
                loop.remove_reader(socket)
            self._receive()
        wake.clear()
        hints = list(self._hints)
        self._hints.clear()
        if CHANNEL_CHANGED in hints:
            await self._conn.execute(statements.LISTEN)
        return hints

    def _note(self, payload: str) -> None:
        """Keeps a hint. What is none, or one too many, is kept as one that says nothing but that there is something."""
        known = HINT.fullmatch(payload) and len(self._hints) < MOST_HINTS
        self._hints[payload if known else SOMETHING] = None

    def _hear(self, notice: psycopg.errors.Diagnostic) -> None:
        if (notice.sqlstate or "").startswith("57P"):
            self.told = notice.sqlstate

    def _receive(self) -> None:
        self._conn.pgconn.consume_input()
        while notify := self._conn.pgconn.notifies():
            self._note(notify.extra.decode("utf-8", "replace"))

    async def _value(self, statement: str, *args: Any) -> Any:
        cursor = await self._conn.execute(statement.encode(), args)
        row = await cursor.fetchone()
        return row[0] if row else None


def _remedy(error: psycopg.Error, user: str, database: str) -> str:
    """What the database said, and what to do about it."""
    said = error.diag.message_primary
    if isinstance(error, errors.InsufficientPrivilege):
        grant = sql.SQL("SELECT df.grant_worker({})").format(user).as_string()
        return f'{said}\nAs an administrator of database "{database}": {grant};'
    command = f"pg-durable install --worker-role {shlex.quote(user)}"
    return f'{said}\nAs an administrator of database "{database}": {command}'
