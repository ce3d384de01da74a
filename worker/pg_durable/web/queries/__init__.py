"""Every statement of the web page, read from the files of this folder: `-- name: what it is for`, then the statement.

They ask public views and functions of schema df alone, as the role that has logged in.
"""

import re
from importlib.resources import files
from typing import Any

from psycopg import sql

PLACE = re.compile(r"%\((\w+)\)s")
HEAD = re.compile(r"^-- (\w+): .*(?:\n-- .*)*$", re.MULTILINE)


def statements() -> dict[str, str]:
    """The statements, by file.name."""
    found = {}
    for file in files(__name__).iterdir():
        if file.name.endswith(".sql"):
            _, *parts = HEAD.split(file.read_text(encoding="utf-8"))
            for name, text in zip(parts[::2], parts[1::2], strict=True):
                found[f"{file.name.removesuffix('.sql')}.{name}"] = text.strip().removesuffix(";")
    return found


QUERIES = statements()


def text_of(name: str, values: dict[str, Any]) -> str:
    """A statement with its values as literals: what is sent, and what the page shows to be copied."""
    return PLACE.sub(lambda place: sql.Literal(values[place[1]]).as_string(None).strip(), QUERIES[name])
