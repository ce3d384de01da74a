"""A plugin of pytest, for `make coverage`: notes which functions of df and df_engine the databases of the tests called.

The server counts them (track_functions). A function in SQL that is inlined is not called, so it is not counted.
"""

import os
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support import Database, Server, wait_until

NOTES = "PG_DURABLE_CALLED"  # the folder that they are written to
OTHERS = "select count(*) = 0 from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
CALLED = "select schemaname || '.' || funcname from pg_stat_user_functions where schemaname in ('df', 'df_engine')"
THERE = """
select distinct format('%s.%s %s', n.nspname, p.proname, l.lanname)
from pg_proc p join pg_namespace n on n.oid = p.pronamespace join pg_language l on l.oid = p.prolang
where n.nspname in ('df', 'df_engine') and p.prokind in ('f', 'p')"""

drop = Database.drop


def note(kind: str, database: Database, query: str) -> None:
    """Adds what a query finds to the file of this process."""
    with psycopg.connect(database.dsn(), autocommit=True) as conn:
        if kind == "called":  # sessions report when they end
            try:
                wait_until(lambda: conn.execute(OTHERS).fetchone() == (True,), 2)
            except AssertionError:
                conn.execute("select pg_stat_force_next_flush()")
            conn.execute("select pg_stat_clear_snapshot()")
        lines = [f"{row[0]}\n" for row in conn.execute(query.encode())]
    with Path(os.environ[NOTES], f"{kind}-{os.getpid()}").open("a") as file:
        file.writelines(lines)


def note_and_drop(database: Database) -> None:
    """Takes the place of Database.drop."""
    for conn in database.connections.values():
        conn.close()
    note("called", database, CALLED)
    drop(database)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, Any, Any]:
    """Counting begins with the template of all databases, and ends with it."""
    made = yield
    if fixturedef.argname == "template":
        server: Server = request.getfixturevalue("server")
        note("there", Database(server, made), THERE)
        fixturedef.addfinalizer(counted(server))
    return made


def counted(server: Server) -> Callable[[], None]:
    """Has the server count calls, until the answer is called."""
    patch = pytest.MonkeyPatch()
    patch.setattr(Database, "drop", note_and_drop)
    configure(server, "alter system set track_functions = 'all'")

    def end() -> None:
        patch.undo()
        configure(server, "alter system reset track_functions")

    return end


def configure(server: Server, statement: str) -> None:
    """Changes a setting of the server."""
    with psycopg.connect(server.dsn, autocommit=True) as conn:
        conn.execute(statement.encode())
        conn.execute("select pg_reload_conf()")
