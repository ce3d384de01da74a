"""Sessions of two roles."""

from collections.abc import Iterator

import pytest

from tests.support import Database, Pump


@pytest.fixture
def pumps(db: Database) -> Iterator[tuple[Pump, Pump]]:
    """Sessions of app and of other."""
    db.admin("select df.grant_usage('other', include_http => true)")
    pumps = Pump(db), Pump(db, "other")
    yield pumps
    for pump in pumps:
        pump.close()
