"""Truth of a condition: which values continue a while-loop and take the THEN branch."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import Database, Server

TRUE: list[Any] = [
    True, 1, -1, 0.5, 1e-9, [0], {"a": None}, "true", "T", " yes ", "off", "n", "null", "0x", "0x0", "1e5",
    "-.5", "nan",
    "inf", "-infinity", "e0", "0 0", {"signal_name": "s", "timed_out": True, "data": None}, {"rows": 1}, {"rows": {}},
]  # fmt: skip
FALSE: list[Any] = [
    False, 0, 0.0, -0.0, None, [], {}, "", "  \t\n", "false", "F", "No", "0", "-0", "+0.0", ".0", "0.",
    "00e-5", " 0e3 ",
]  # fmt: skip


@pytest.fixture(scope="module")
def db(server: Server, template: str) -> Iterator[Database]:
    """One database for all: these functions leave nothing behind."""
    database = Database.clone(server, template)
    yield database
    database.drop()


def truth(db: Database, value: Any, columns: list[str] | None = None) -> bool:
    return bool(db.admin("select df_engine.truth(%s::jsonb, %s::text[])", json.dumps(value), columns))


@pytest.mark.parametrize("value", TRUE, ids=repr)
def test_these_are_true_whole_and_in_the_first_column(db: Database, value: Any) -> None:
    assert truth(db, value)
    assert truth(db, {"rows": [{"z": value, "a": False}], "row_count": 1}, ["z", "a"])


@pytest.mark.parametrize("value", FALSE, ids=repr)
def test_these_are_false_whole_and_in_the_first_column(db: Database, value: Any) -> None:
    assert not truth(db, value)
    assert not truth(db, {"rows": [{"z": value, "a": True}], "row_count": 1}, ["z", "a"])


def test_no_rows_are_false_and_rows_without_columns_are_true(db: Database) -> None:
    assert not truth(db, {"rows": [], "row_count": 0}, ["a"])
    assert truth(db, {"rows": [{}], "row_count": 1}, [])
    assert truth(db, {"rows": [0]})


def test_only_the_first_row_decides(db: Database) -> None:
    assert not truth(db, {"rows": [{"a": 0}, {"a": 1}]}, ["a"])


def test_without_known_columns_the_first_key_decides(db: Database) -> None:
    assert truth(db, {"rows": [{"a": 1, "b": 0}]})


def test_a_value_that_is_missing_is_false(db: Database) -> None:
    assert db.admin("select df_engine.truth(null, null)") is False
