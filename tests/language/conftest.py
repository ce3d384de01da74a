"""Fixtures for the language: builders as a role without rights sees them, and a database to start in."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support import Database, Server


@pytest.fixture(scope="module")
def pure(server: Server, template: str) -> Iterator[Callable[..., Any]]:
    """Asks as `onlooker`, a role that has nothing but USAGE on df: builders need no more, and write nothing."""
    database = Database.clone(server, template)
    database.admin("do $$ begin create role onlooker login; exception when duplicate_object then null; end $$")
    database.admin("grant usage on schema df to onlooker")

    def ask(query: str, *args: Any) -> Any:
        return database.sql(query, *args, user="onlooker")

    ask("set default_transaction_read_only = on")
    yield ask
    database.drop()


@pytest.fixture
def app(db: Database) -> Database:
    """A database in which the roles app and other may start instances."""
    for role in ("app", "other"):
        db.admin(f"select df.grant_usage('{role}')")
    return db


@pytest.fixture(scope="module")
def ask(server: Server, template: str) -> Iterator[Callable[..., Any]]:
    """Asks as the superuser in a database that the tests of a module share: for what leaves nothing behind."""
    database = Database.clone(server, template)
    yield database.admin
    database.drop()
