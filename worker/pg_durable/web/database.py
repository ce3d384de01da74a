"""The database as each logged-in role sees it: a few connections a role, and answers that all its tabs share."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row

from pg_durable.login import reason
from pg_durable.web.options import Options
from pg_durable.web.sessions import Session

Row = dict[str, Any]
Connection = psycopg.AsyncConnection[Row]

CONNECTIONS = 4  # of a role
IDLE = 60.0  # seconds after which a connection that nobody uses is closed
FRESH = 1.0  # seconds for which an answer is given to others who ask the same
MOST_ANSWERS = 200
NO_PASSWORD_FILE = "/dev/null"  # only what was typed into the form counts
READ_WRITE = "set transaction read write"

SETTINGS = {
    "default_transaction_read_only": "on",  # what changes something says so
    "idle_in_transaction_session_timeout": "10s",
    "lock_timeout": "5s",
    "timezone": "UTC",
    "jit": "off",  # to compile takes longer than to answer
    "datestyle": "iso",
    "intervalstyle": "postgres",
    "search_path": "pg_catalog",
}


class UnreachableError(Exception):
    """The database does not answer; the message says why."""


class LoginError(Exception):
    """The database does not let the role in; the message says why."""


class Pool:
    """The connections of a role. Reads are shared for a second; actions have a transaction that may write."""

    def __init__(self, parameters: dict[str, str], asks_password: bool) -> None:
        self._parameters: dict[str, Any] = {**parameters}
        self._asks_password = asks_password
        self._idle: list[tuple[float, Connection]] = []
        self._room = asyncio.Semaphore(CONNECTIONS)
        self._answers: OrderedDict[str, tuple[float, asyncio.Future[list[Row]]]] = OrderedDict()
        self.used = time.monotonic()

    async def read(self, text: str) -> list[Row]:
        """The rows of a statement; who asks within a second of another gets the same."""
        now = time.monotonic()
        known = self._answers.get(text)
        if known is None or now > known[0] + FRESH:
            known = (now, asyncio.ensure_future(self._execute(text)))
            self._answers[text] = known
            self._answers.move_to_end(text)
            while len(self._answers) > MOST_ANSWERS or next(iter(self._answers.values()))[0] + FRESH < now:
                self._answers.popitem(last=False)
        return await asyncio.shield(known[1])

    def forget(self) -> None:
        """Something has changed: who asks from now on gets no answer from before."""
        self._answers.clear()

    async def write(self, text: str) -> list[Row]:
        """The rows of a statement that changes something; nobody gets an older answer afterwards."""
        try:
            return await self._written(text)
        except UnreachableError:
            await self.close_idle(0.0)
            raise
        finally:
            self.forget()

    async def _written(self, text: str) -> list[Row]:
        async with self.connection(tested=True) as conn, conn.transaction():
            await conn.execute(READ_WRITE)
            cursor = await conn.execute(text.encode(), prepare=False)
            return await cursor.fetchall()

    async def _execute(self, text: str) -> list[Row]:
        try:
            return await self._rows(text)
        except UnreachableError:  # perhaps the server was restarted since the connection was used last
            await self.close_idle(0.0)
            return await self._rows(text)

    async def _rows(self, text: str) -> list[Row]:
        async with self.connection() as conn:
            cursor = await conn.execute(text.encode(), prepare=False)
            return await cursor.fetchall()

    @asynccontextmanager
    async def connection(self, tested: bool = False) -> AsyncIterator[Connection]:
        """One of the connections, alone; tested: it has just answered. One that broke is not used again."""
        async with self._room:
            self.used = time.monotonic()
            conn = await self._take(tested)
            try:
                yield conn
            except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                if conn.closed or conn.broken:
                    raise UnreachableError(reason(error)) from error
                raise
            finally:
                if conn.closed or conn.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                    await conn.close()
                else:
                    self._idle.append((time.monotonic(), conn))

    async def _take(self, tested: bool) -> Connection:
        while self._idle:
            _, conn = self._idle.pop()
            if not conn.closed and (not tested or await alive(conn)):
                return conn
            await conn.close()
        return await self._connect()

    async def _connect(self) -> Connection:
        try:
            conn = await psycopg.AsyncConnection.connect(
                "", autocommit=True, prepare_threshold=None, row_factory=dict_row, **self._parameters
            )
        except psycopg.OperationalError as error:
            if refused(error):
                raise LoginError(reason(error)) from error
            raise UnreachableError(reason(error)) from error
        if self._asks_password and not conn.pgconn.used_password:
            await conn.close()
            raise LoginError(
                "the server lets this role in without a password, and would let everybody in: "
                "pg_hba.conf must ask for one (scram-sha-256)"
            )
        return conn

    async def close_idle(self, older: float = IDLE) -> None:
        """Closes what nobody has used for so long."""
        begin = time.monotonic() - older
        old, self._idle = ([i for i in self._idle if i[0] <= begin], [i for i in self._idle if i[0] > begin])
        for _, conn in old:
            await conn.close()


class Database:
    """The pools, by role and password."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._pools: dict[tuple[str, str | None], Pool] = {}

    def pool(self, session: Session) -> Pool:
        """That of a session."""
        key = (session.role, session.password)
        if key not in self._pools:
            self._pools[key] = Pool(self._parameters(session), session.password is not None)
        return self._pools[key]

    async def check(self, session: Session) -> None:
        """Logs in: raises LoginError or UnreachableError."""
        try:
            async with self.pool(session).connection() as conn:
                await conn.execute("select")
        except LoginError:
            self._pools.pop((session.role, session.password), None)
            raise

    async def close_idle(self, older: float = IDLE) -> None:
        """Closes connections that are not used, and forgets roles that nobody is."""
        for key, pool in list(self._pools.items()):
            await pool.close_idle(older)
            if pool.used < time.monotonic() - older:
                self._pools.pop(key, None)

    def _parameters(self, session: Session) -> dict[str, str]:
        settings = SETTINGS | {"statement_timeout": f"{int(self._options.statement_timeout * 1000)}ms"}
        given = {key: str(value) for key, value in conninfo_to_dict(self._options.dsn).items() if value is not None}
        options = [given.get("options", ""), *(f"-c {name}={value}" for name, value in settings.items())]
        own = {
            "options": " ".join(options).strip(),
            "user": session.role,
            "client_encoding": "UTF8",
            "connect_timeout": "5",
            "application_name": "pg_durable web",
        }
        if session.password is not None:
            own |= {"password": session.password, "passfile": NO_PASSWORD_FILE}
        return given | own


async def alive(conn: Connection) -> bool:
    """Whether a connection that was idle still answers: the server may have been restarted."""
    if conn.closed:
        return False
    try:
        await conn.execute("select")
    except psycopg.Error:
        return False
    return True


def refused(error: psycopg.OperationalError) -> bool:
    """Whether the server answers, and does not want this role: its password, its rights, its name."""
    if isinstance(error, errors.InvalidAuthorizationSpecification | errors.InvalidPassword):
        return True
    text = str(error)
    return any(
        sign in text
        for sign in ("authentication failed", "no password supplied", "does not exist", "is not permitted to log in",
                     "no pg_hba.conf entry", "permission denied for database")
    )  # fmt: skip
