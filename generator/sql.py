"""How Python values are written as SQL: the Jinja filters of the templates."""

import json
import re
from collections.abc import Callable, Iterable
from typing import Any


def literal(value: str | int | bool | None) -> str:
    """A value as an SQL literal that needs no particular standard_conforming_strings."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    escape = "E" if re.search(r"[\\\t\r\f]", value) else ""
    for character, written in (("\\", r"\\"), ("'", "''"), ("\t", r"\t"), ("\r", r"\r"), ("\f", r"\f")):
        value = value.replace(character, written)
    return f"{escape}'{value}'"


def literals(values: Iterable[str | int]) -> str:
    """Values as a comma-separated list of literals."""
    return ", ".join(literal(value) for value in values)


def array(values: Iterable[str | int]) -> str:
    """Values as an array constructor."""
    return f"array[{literals(values)}]"


def json_literal(value: Any) -> str:
    """A JSON value as a literal of its compact text."""
    return literal(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def int_array(values: Iterable[int]) -> str:
    """Numbers as the text of an array, to stand between quotes."""
    return "{" + ",".join(map(str, values)) + "}"


FILTERS: dict[str, Callable[..., str]] = {
    "literal": literal,
    "literals": literals,
    "array": array,
    "json_literal": json_literal,
    "int_array": int_array,
}
