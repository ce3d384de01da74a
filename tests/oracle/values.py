"""Values and what they mean: JSON as text, references to named results, the truth of a condition."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

REFERENCE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)(?:\.([A-Za-z_]\w*))?(\?)?")
PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


class Refused(Exception):
    """A reference that cannot be replaced; the arguments are fragments of the message."""


class Unknown(Refused):
    """A name that nothing in the graph binds."""


@dataclass(frozen=True)
class Value:
    """The value of a node, with the column order of an SQL result."""

    json: Any
    columns: tuple[str, ...] = ()

    @property
    def is_rows(self) -> bool:
        return isinstance(self.json, dict) and isinstance(self.json.get("rows"), list)


Names = dict[str, Value | None]
"""The known names; None: known, but without a value."""


def json_text(value: Any) -> str:
    """JSON as jsonb prints it: keys by length, then by bytes."""
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: (len(key.encode()), key.encode()))
        return "{" + ", ".join(f"{json_text(key)}: {json_text(value[key])}" for key in keys) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(json_text, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def as_json(text: str | None) -> Any:
    """A text as JSON if it parses, else as a string; none is null."""
    try:
        return None if text is None else json.loads(text, parse_constant=int)
    except ValueError:
        return text


def characters(value: Any) -> str:
    return value if isinstance(value, str) else json_text(value)


def look_up(reference: str, names: Names) -> Any:
    """What stands for a reference; None for NULL."""
    found = REFERENCE.fullmatch(reference)
    assert found
    name, column, optional = found.groups()
    if name not in names:
        raise Unknown(name)
    try:
        return find(names[name], column)
    except Refused as refused:
        if optional and refused.args != ("neither a row set nor a JSON object",):
            return None
        raise


def find(value: Value | None, column: str | None) -> Any:
    if value is None:
        raise Refused("has no value")
    if value.is_rows:
        if not value.json["rows"]:
            raise Refused("has no rows")
        row = value.json["rows"][0]
        return present(row, column or (value.columns or ("",))[0])
    if column is None:
        return json_text(value.json)
    if not isinstance(value.json, dict):
        raise Refused("neither a row set nor a JSON object")
    return present(value.json, column)


def present(row: dict[str, Any], column: str) -> Any:
    if column not in row:
        raise Refused(column, *row)
    if row[column] is None:
        raise Refused("is NULL")
    return row[column]


def insert(text: str, names: Names, variables: dict[str, str]) -> str:
    """A text that is no SQL code, with the references to known names and variables replaced."""

    def replace(found: re.Match[str]) -> str:
        if found[1] not in names:
            return found[0]
        value = look_up(found[0], names)
        return "NULL" if value is None else characters(value)

    return REFERENCE.sub(replace, PLACEHOLDER.sub(lambda found: variables.get(found[1], found[0]), text))


def truth(value: Value) -> bool:
    if not value.is_rows:
        return scalar_truth(value.json)
    rows = value.json["rows"]
    return bool(rows) and (rows[0] == {} or scalar_truth(rows[0][(value.columns or (next(iter(rows[0])),))[0]]))


def scalar_truth(value: Any) -> bool:
    return string_truth(value.strip().lower()) if isinstance(value, str) else bool(value)


def string_truth(text: str) -> bool:
    if text in ("", "false", "f", "no"):
        return False
    number: Callable[[str], float] = float
    try:
        return number(text) != 0
    except ValueError:
        return True
