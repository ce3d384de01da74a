"""Runs one SQL step that cannot be in a transaction, or is in another database, and says how it ended as a JSON text.

Values are rendered by the server, so they are exactly what a step inside the engine would have stored.
"""

import json
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import sql

from pg_durable import statements
from pg_durable.http.room import Room
from pg_durable.login import reason
from pg_durable.sessions.bounded import MOST_BYTES, BoundedConnection, TooLargeError

NO_ROWS = '{"rows": [], "row_count": 0, "columns": null, "types": null}'
NOT_IN_A_TRANSACTION = ("25001", "2D000")
PSEUDO_TYPES = (2249, 2278)  # record and void: nothing can be cast to them

Connection = BoundedConnection


async def run_step(conn: Connection, request: dict[str, Any], room: Room) -> str:
    """Runs the step in a transaction if that is possible, else on its own."""
    conn.most_bytes = MOST_BYTES + request["max_result_bytes"]
    try:
        await conn.execute(statements.NAME_STEP, (request["application_name"],))
        if request.get("block"):
            try:
                return await _in_block(conn, request["block"], room)
            except psycopg.Error as error:
                if error.sqlstate not in NOT_IN_A_TRANSACTION or request["sql"] is None:  # a block has no other way
                    raise
        return await _alone(conn, request, room)
    except psycopg.Error as error:
        return failure(error)


def failure(error: psycopg.Error) -> str:
    """The outcome of a statement that failed; without an SQLSTATE it was the connection that did."""
    if isinstance(error, TooLargeError):  # it may have committed, and would send as much again
        return json.dumps({"error": f"SQL execution failed: {error}", "sqlstate": "DF012", "class": "refused"})
    if error.sqlstate is None:
        return connection_failure(reason(error))
    said = {"message": error.diag.message_primary, "detail": error.diag.message_detail, "hint": error.diag.message_hint}
    return json.dumps({**said, "sqlstate": error.sqlstate, "class": "sql"})


def connection_failure(why: str) -> str:
    """The outcome of a step that lost its connection, or did not get one."""
    text = f"SQL execution failed: {why} (SQLSTATE 08006)"
    return json.dumps({"error": text, "sqlstate": "08006", "class": "connection"})


def no_database(name: str) -> str:
    """The outcome of a step in a database that does not exist."""
    text = f'SQL execution failed: database "{name}" does not exist (SQLSTATE 3D000)'
    return json.dumps({"error": text, "sqlstate": "3D000", "class": "sql"})


def too_large(limit: int) -> str:
    """The outcome of a statement that has ended, and whose result is refused: it is not run again."""
    text = f"SQL execution failed: the result has more bytes of JSON than max_result_bytes allows ({limit})"
    hint = "HINT: Return keys, and leave the data in a table that the next step reads."
    return json.dumps({"error": f"{text} (SQLSTATE DF012)\n{hint}", "sqlstate": "DF012", "class": "refused"})


async def _in_block(conn: Connection, block: str, room: Room) -> str:
    async with conn.transaction():
        await conn.execute(block.encode())
        size = await (await conn.execute(statements.STEP_RESULT_SIZE)).fetchone()
        await room.hold(2 * size[0] if size else 0)
        row = await (await conn.execute(statements.STEP_RESULT)).fetchone()
    return str(row[0]) if row else NO_ROWS


async def _alone(conn: Connection, request: dict[str, Any], room: Room) -> str:
    # With an argument list, even an empty one, the server takes a single statement only.
    cursor = psycopg.AsyncRawCursor(conn)
    await cursor.execute(request["sql"].encode(), ())
    if not cursor.description or not cursor.pgresult:
        return NO_ROWS
    limit, result = request["max_result_bytes"], cursor.pgresult
    size = sum(len(cell) for index in range(result.ntuples) for cell in _row(result, index) if cell)
    if size > limit:
        return too_large(limit)
    await room.hold(2 * size)
    return await _render(conn, cursor.pgresult, request.get("name_types"), limit)


async def _render(conn: Connection, result: psycopg.pq.abc.PGresult, name_types: str | None, limit: int) -> str:
    """A result with rows, as the server renders values of those types; their names, where the engine asks for them."""
    columns = [(result.fname(i) or b"").decode() for i in range(result.nfields)]
    oids = [result.ftype(i) for i in range(result.nfields)]
    types = await _type_names(conn, oids, [result.fmod(i) for i in range(result.nfields)])
    cells = [sql.SQL("{}::{}").format(sql.Placeholder(), sql.SQL(name)) for name in types]
    named = [sql.SQL("{} as {}").format(cell, sql.Identifier(name)) for cell, name in zip(cells, columns, strict=True)]
    render = sql.SQL(statements.RENDER_ROW).format(sql.SQL(", ").join(named))
    rows, size = [], 0
    for index in range(result.ntuples):
        rows.append(await _value(conn, render, _row(result, index)))
        size += len(rows[-1].encode())
        if size > limit:
            return too_large(limit)
    known = await (await conn.execute(name_types.encode(), (oids,))).fetchone() if name_types else None
    shape = {"row_count": len(rows), "columns": columns, "types": known[0] if known else None}
    return f'{{"rows": [{", ".join(rows)}], {json.dumps(shape)[1:]}'


async def _type_names(conn: Connection, oids: Sequence[int], modifiers: Sequence[int]) -> list[str]:
    castable = [25 if oid in PSEUDO_TYPES else oid for oid in oids]
    cursor = await conn.execute(statements.TYPE_NAMES, (castable, modifiers))
    return [name for (name,) in await cursor.fetchall()]


def _row(result: psycopg.pq.abc.PGresult, index: int) -> list[str | None]:
    cells = [result.get_value(index, column) for column in range(result.nfields)]
    return [None if cell is None else bytes(cell).decode() for cell in cells]


async def _value(conn: Connection, query: sql.Composed, args: list[str | None]) -> str:
    row = await (await conn.execute(query, args)).fetchone()
    return str(row[0]) if row else "null"
