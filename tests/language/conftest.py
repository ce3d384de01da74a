"""Fixtures for the language: builders as a role without rights sees them, and a database to start in."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.support import Database


@pytest.fixture(scope="module")
def pure(shared: Database) -> Callable[..., Any]:
    """Asks as `onlooker`, a role that has nothing but USAGE on df: builders need no more, and write nothing."""
    shared.admin("do $$ begin create role onlooker login; exception when duplicate_object then null; end $$")
    shared.admin("grant usage on schema df to onlooker")

    def ask(query: str, *args: Any) -> Any:
        return shared.sql(query, *args, user="onlooker")

    ask("set default_transaction_read_only = on")
    return ask


@pytest.fixture
def app(db: Database) -> Database:
    """A database in which the roles app and other may start instances."""
    for role in ("app", "other"):
        db.admin(f"select df.grant_usage('{role}')")
    return db


@pytest.fixture(scope="module")
def ask(shared: Database) -> Callable[..., Any]:
    """Asks as the superuser."""
    return shared.admin
