"""The engine is driven in-process: the same calls a worker makes, one at a time."""

from collections.abc import Iterator

import pytest

from tests.support import Database, Pump


@pytest.fixture
def pump(db: Database) -> Iterator[Pump]:
    """Runs flows of the role `app`; table fx(i int, t text) is there for effects."""
    db.sql("create table fx (i int, t text)")
    pump = Pump(db)
    yield pump
    pump.close()


@pytest.fixture
def granted(db: Database) -> Database:
    """The database, with `app` and `other` as users of df."""
    db.admin("select df.grant_usage('app'), df.grant_usage('other')")
    return db
