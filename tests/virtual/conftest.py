"""df.test: no worker, no second session."""

import pytest

from tests.support import Database


@pytest.fixture
def granted(db: Database) -> Database:
    """The database, with `app` and `other` as users of df."""
    db.admin("select df.grant_usage('app', include_http => true), df.grant_usage('other')")
    db.sql("create table fx (i int, t text)")
    return db
