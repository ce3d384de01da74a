"""Truth of a condition: which values continue a while-loop and take the THEN branch."""

import json
from typing import Any

import pytest

from tests.support import Database

TRUE: list[Any] = [
    True, 1, -1, 0.5, 1e-9, [0], {"a": None}, "true", "T", " yes ", "off", "n", "null", "0x", "0x0", "1e5",
    "-.5", "nan",
    "inf", "-infinity", "e0", "0 0", {"signal_name": "s", "timed_out": True, "data": None}, {"rows": 1}, {"rows": {}},
]  # fmt: skip
FALSE: list[Any] = [
    False, 0, 0.0, -0.0, None, [], {}, "", "  \t\n", "false", "F", "No", "0", "-0", "+0.0", ".0", "0.",
    "00e-5", " 0e3 ",
]  # fmt: skip


def truth(shared: Database, value: Any) -> bool:
    return bool(shared.admin("select df_engine.truth(%s::json)", json.dumps(value)))


@pytest.mark.parametrize("value", TRUE, ids=repr)
def test_these_are_true_whole_and_in_the_first_column(shared: Database, value: Any) -> None:
    assert truth(shared, value)
    assert truth(shared, {"rows": [{"z": value, "a": False}], "row_count": 1})


@pytest.mark.parametrize("value", FALSE, ids=repr)
def test_these_are_false_whole_and_in_the_first_column(shared: Database, value: Any) -> None:
    assert not truth(shared, value)
    assert not truth(shared, {"rows": [{"z": value, "a": True}], "row_count": 1})


def test_no_rows_are_false_and_rows_without_columns_are_true(shared: Database) -> None:
    assert not truth(shared, {"rows": [], "row_count": 0})
    assert truth(shared, {"rows": [{}], "row_count": 1})
    assert truth(shared, {"rows": [0]})


def test_only_the_first_row_decides(shared: Database) -> None:
    assert not truth(shared, {"rows": [{"a": 0}, {"a": 1}]})


def test_the_first_column_decides_whatever_the_names_are(shared: Database) -> None:
    assert truth(shared, {"rows": [{"b": 1, "a": 0}]})


def test_a_value_that_is_missing_is_false(shared: Database) -> None:
    assert shared.admin("select df_engine.truth(null)") is False
