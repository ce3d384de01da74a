"""A table for effects: one row a time a step has run."""

import pytest

from tests.support import Database


@pytest.fixture
def fx(db: Database) -> Database:
    """A database with the table fx(t text, run text), of the role `app`."""
    db.sql("create table fx (t text, run text)")
    return db
