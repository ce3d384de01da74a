"""The engine is driven in-process: the same calls a worker makes, one at a time."""

import pytest

from tests.support import Database


@pytest.fixture
def granted(db: Database) -> Database:
    """The database, with `app` and `other` as users of df."""
    db.admin("select df.grant_usage('app'), df.grant_usage('other')")
    return db
