"""One session of the worker: logged in as the role whose steps it runs."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from time import monotonic

import psycopg
from psycopg.pq import ConnStatus, TransactionStatus

from pg_durable import statements
from pg_durable.login import Login
from pg_durable.sessions.bounded import BoundedConnection

BUDGET_MS = 1000
ONE_STEP_MS = 20
PROGRESS = "pg_durable progress"  # how the message of df.progress begins
MOST_SAID = 4000  # characters of its detail


class Session:
    """A connection of one role, in the home database unless another was asked for."""

    def __init__(self, role: str, oid: int, conn: BoundedConnection, budget: int) -> None:
        self.role = role
        self.oid = oid
        self.conn = conn
        self.pid = conn.info.backend_pid
        self.interrupted = False  # a cancel request was sent to the call that runs, or that ran last
        self.idle_since = 0.0
        self._opened_at = monotonic()
        self.fresh = True  # has not made a call yet
        self.names_steps = False  # always: the server will end it for a step that takes too long
        self.step: tuple[int, str] | None = None  # row of the queue and node of what runs, where the engine says so
        self.told: str | None = None  # the SQLSTATE with which the server said that it ends this session
        self.on_progress: Callable[[str], None] | None = None  # who wants to know what its step says of its progress
        self._budget = budget
        conn.add_notice_handler(self._hear)
        self._cancelling = asyncio.Lock()

    @classmethod
    async def open(cls, login: Login, role: str, database: str | None = None) -> "Session":
        """Logs in. A role with a statement_timeout of its own gets short calls, so that it is each step's own."""
        conn = await login.role(role, database)
        try:
            row = await (await conn.execute(statements.IDENTIFY)).fetchone()
        except BaseException:
            await conn.close()
            raise
        oid, timeout, transaction_timeout = row or (0, "0", None)
        session = cls(role, oid, conn, BUDGET_MS if timeout == "0" else ONE_STEP_MS)
        session.names_steps = transaction_timeout not in (None, "0")
        return session

    @property
    def age(self) -> float:
        """Seconds since it logged in."""
        return monotonic() - self._opened_at

    async def work(self, careful: bool, briefly: bool) -> str:
        """Lets the database run steps of this role for a while, or about one of them, and says how that ended."""
        self.interrupted = False
        self.step = None
        arguments = ONE_STEP_MS if briefly else self._budget, careful or self.names_steps
        row = await (await self.conn.execute(statements.WORK, arguments)).fetchone()
        return str(row[0]) if row else ""

    def _hear(self, notice: psycopg.errors.Diagnostic) -> None:
        if self.on_progress and (notice.message_primary or "").startswith(PROGRESS):
            if 0 < len(notice.message_detail or "") <= MOST_SAID:
                self.on_progress(notice.message_detail or "")
            return
        mark, _, step = (notice.message_primary or "").partition(":")
        ready, _, node = step.partition(":")
        if (
            notice.severity_nonlocalized == "INFO"
            and mark == "pg_durable"
            and len(ready) < 20
            and ready.isascii()
            and ready.isdigit()
        ):
            self.step = int(ready), node
        elif (notice.sqlstate or "").startswith("57P"):
            self.told = notice.sqlstate

    async def interrupt(self) -> None:
        """Asks the server to cancel the statement that runs."""
        self.interrupted = True
        async with self._cancelling:
            with suppress(psycopg.Error, OSError):
                await self.conn.cancel_safe(timeout=5)

    async def cancel_arrived(self) -> None:
        """Returns when a cancel request that is under way has arrived, lest it hit the next statement."""
        async with self._cancelling:
            pass

    def usable(self) -> bool:
        """Whether the server has neither closed the connection nor left it inside a transaction."""
        try:
            self.conn.pgconn.consume_input()
        except psycopg.Error:
            return False
        info = self.conn.info
        return info.status == ConnStatus.OK and info.transaction_status == TransactionStatus.IDLE

    async def close(self) -> None:
        """Ends the session; one that does not answer is left to the server."""
        with suppress(psycopg.Error, OSError, TimeoutError):
            async with asyncio.timeout(5):
                await self.conn.close()
