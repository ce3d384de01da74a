"""The plugin of pytest: the fixture `durable`, a database of its own for each test, with pg_durable installed.

It stands on pytest-postgresql: `postgresql_noproc` is the server and the template database, into which df is installed
the first time that a test asks for it. Nothing else is imported before that, and nothing is added to other tests.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pg_durable.testing.durable import Durable

NEEDED = "the fixture durable needs pytest-postgresql: pip install 'pg-durable[testing]'"


@pytest.fixture
def durable(request: pytest.FixtureRequest) -> "Iterator[Durable]":
    """A new database with df: `durable.test(flow)` in virtual time, `durable.run(flow)` with a worker."""
    from pg_durable.testing.durable import database, prepare_template  # noqa: PLC0415 - only where it is used

    try:
        server: Any = request.getfixturevalue("postgresql_noproc")
    except pytest.FixtureLookupError:
        pytest.fail(NEEDED, pytrace=False)
    prepare_template(server)
    with database(server) as found:
        yield found
