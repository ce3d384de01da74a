"""Substitution once more, character by character: the second opinion of the differential test."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tests.oracle.values import characters, json_text

TAG = re.compile(r"\$(?:[^\W\d]\w*)?\$")
REFERENCE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)(\.\*|(?:\.(?:[^\W\d]\w*|[0-9]+))+)?(\?)?")
ESCAPED = re.compile(r"\$\$(?=[A-Za-z_])")
PREFIXED = re.compile(r"([EeBbXx]|[Uu]&)'")
GAP = re.compile(r"'([ \t\f\v]|--[^\n\r]*)*[\n\r]([ \t\f\v\n\r]|--[^\n\r]*[\n\r])*(?=')")

Names = dict[str, Any]
Piece = tuple[str, str]


class Refused(Exception):
    """The text cannot be rendered."""


def is_word(char: str) -> bool:
    return char == "_" or char.isalnum()


def end_of_word(text: str, at: int) -> int:
    while at < len(text) and (is_word(text[at]) or text[at] == "$"):
        at += 1
    return at


def end_of_literal(text: str, at: int, escapes: bool, joined: bool) -> int:
    """The end of a literal whose opening quote is at `at`; `joined`: white space with a line break may interrupt it."""
    at += 1
    while at < len(text):
        if (escapes and text[at] == "\\" and at + 1 < len(text)) or text.startswith("''", at):
            at += 2
        elif text[at] == "'":
            gap = GAP.match(text, at) if joined else None
            if not gap:
                return at + 1
            at = gap.end() + 1
        elif escapes and text[at] == "\\":
            return at
        else:
            at += 1
    return at


def end_of_comment(text: str, at: int) -> int:
    depth = 0
    while at < len(text):
        if text.startswith("/*", at):
            depth, at = depth + 1, at + 2
        elif text.startswith("*/", at):
            depth, at = depth - 1, at + 2
            if not depth:
                return at
        else:
            at += 1
    return at


def end_of_reference(text: str, found: re.Match[str]) -> int:
    """A $ after a column follows an identifier character: it and its word belong to the piece."""
    glued = found[2] not in (None, ".*") and not found[3] and text.startswith("$", found.end())
    return end_of_word(text, found.end()) if glued else found.end()


def pieces(text: str) -> Iterator[Piece]:
    """The regions of SQL text, in order: (kind, characters)."""
    at = 0
    while at < len(text):
        start = at
        kind = "code"
        if prefix := PREFIXED.match(text, at):
            escapes = prefix[1] in "Ee"
            kind = "escape" if escapes else "opaque"
            at = end_of_literal(text, prefix.end() - 1, escapes, joined=True)
        elif is_word(text[at]):
            at = end_of_word(text, at)
        elif text[at] == "'":
            kind = "literal"
            at = end_of_literal(text, at, escapes=False, joined=False)
        elif text[at] == '"':
            kind = "opaque"
            at = text.find('"', at + 1) + 1 or len(text)
        elif text.startswith("--", at):
            kind = "comment"
            at = min((end for end in (text.find("\n", at), text.find("\r", at)) if end >= 0), default=len(text))
        elif text.startswith("/*", at):
            kind = "comment"
            at = end_of_comment(text, at)
        elif tag := TAG.match(text, at):
            kind = "dollar"
            closing = text.find(tag[0], tag.end())
            at = closing + len(tag[0]) if closing >= 0 else len(text)
        elif found := REFERENCE.match(text, at):
            kind = "reference"
            at = end_of_reference(text, found)
        else:
            at += 1
        yield kind, text[start:at]


def inner_pieces(text: str, escapes: bool) -> Iterator[Piece]:
    """What is inside a literal: words, references and the rest."""
    at = 0
    while at < len(text):
        start = at
        kind = "text"
        if is_word(text[at]):
            at = end_of_word(text, at)
        elif found := REFERENCE.match(text, at):
            kind = "reference"
            at = end_of_reference(text, found)
        elif (escapes and text[at] == "\\") or (escapes and text.startswith("''", at)):
            at += 2
        elif escapes and (gap := GAP.match(text, at)):
            at = gap.end() + 1
        else:
            at += 1
        yield kind, text[start:at]


TEXT = re.compile(r'pg_catalog\."?(text|varchar|bpchar|char|name)"?')
JSON = re.compile(r'pg_catalog\."?jsonb?"?')


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def holds_object(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(map(holds_object, value)))


def array_text(value: list[Any], of_json: bool) -> str:
    """A JSON array as PostgreSQL reads arrays."""

    def element(item: Any) -> str:
        if item is None:
            return "NULL"
        if isinstance(item, list) and not of_json:
            return array_text(item, of_json)
        text = json_text(item) if of_json else characters(item)
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    return "{" + ",".join(map(element, value)) + "}"


def typed_text(value: Any, kind: str) -> str:
    """The characters of a value in the form in which PostgreSQL reads its type; JSON text of a composite."""
    of_json = bool(re.fullmatch(JSON.pattern + r"\[\]", kind))
    if isinstance(value, list) and (of_json or not holds_object(value)):
        return array_text(value, of_json)
    return characters(value)


def code(value: Any, kind: str | None = None) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, (bool, int, float)) and (kind is None or kind.startswith("pg_catalog.")):
        return json_text(value)
    if kind is None or TEXT.fullmatch(kind) or JSON.fullmatch(kind):
        return quoted(characters(value))
    text = typed_text(value, kind)
    if isinstance(value, (dict, list)) and text == characters(value):
        return quoted(text)
    return f"({quoted(text)}::{kind})" if isinstance(value, list) else f"{quoted(text)}::{kind}"


def cell(value: Any, kind: str | None, first: bool) -> str:
    """A value in a list of VALUES, of which the first row says the types."""
    if kind is None:
        return code(value) + "::text" * isinstance(value, (str, dict, list))
    cast = f"::{kind}" if first or not kind.startswith("pg_catalog.") else ""
    if value is None:
        return "NULL" + cast
    if JSON.fullmatch(kind):
        return quoted(json_text(value)) + cast
    if not TEXT.fullmatch(kind) and typed_text(value, kind) == characters(value) and holds_object(value):
        return f"(SELECT v FROM pg_catalog.jsonb_to_record({quoted(json_text({'v': value}))}) AS _(v {kind})){cast}"
    return quoted(typed_text(value, kind)) + cast


def is_rows(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("rows"), list)


def relation(name: str, value: Any, columns: list[str] | None, types: list[str] | None) -> str:
    names = ['"' + column.replace('"', '""') + '"' for column in columns or []]
    kinds: Sequence[str | None] = types or [None] * len(names)
    if not names:
        return f'(SELECT FROM pg_catalog.generate_series(1, {len(value["rows"])})) AS "{name}"'
    if not value["rows"]:
        nulls = (f"NULL{f'::{kind}' if kind else ''} AS {column}" for column, kind in zip(names, kinds, strict=True))
        return f'(SELECT {", ".join(nulls)} WHERE false) AS "{name}"'
    rows = [
        "("
        + ",".join(cell(row.get(column), kind, place == 0) for column, kind in zip(columns or [], kinds, strict=True))
        + ")"
        for place, row in enumerate(value["rows"])
    ]
    return f'(VALUES {",".join(rows)}) AS "{name}"({",".join(names)})'


def column_type(entry: Any, column: str | None) -> str | None:
    """The type that was recorded for the column of a reference."""
    types, columns = entry.get("types"), entry["columns"]
    if not types or (column is not None and column not in columns):
        return None
    return str(types[0 if column is None else columns.index(column)])


def lookup(value: Any, path: list[str], columns: list[str] | None) -> tuple[Any, int]:
    """The value of a reference, None where `?` may say NULL, and how much of the path belongs to it."""
    rows = is_rows(value)
    used = 0
    if rows and not value["rows"]:
        return None, len(path)
    if rows:
        used = int(bool(path) and not path[0][0].isdigit())
        value = value["rows"][0].get(path[0] if used else (columns or [""])[0])
    elif not path:
        return json_text(value), 0
    while used < len(path) and value is not None and not ((rows or used) and not isinstance(value, dict | list)):
        value = step(value, path[used])
        used += 1
    return value, len(path) if value is None else used


def step(value: Any, key: str) -> Any:
    """What a key of an object, or a place in an array, leads to."""
    if isinstance(value, dict):
        return value.get(key)
    if not isinstance(value, list) or not key.isdigit():
        raise Refused
    return value[int(key)] if int(key) < len(value) else None


def resolve(piece: str, names: Names, unknown: str, write: Callable[..., str]) -> str:
    """The text for a reference; `unknown` is "fail" or "keep"."""
    found = REFERENCE.match(piece)
    assert found
    name, path, optional = found.groups()
    if name not in names:
        if unknown == "fail":
            raise Refused
        return piece
    entry = names[name]
    if path == ".*" and entry is not None:
        if not is_rows(entry["value"]):
            raise Refused
        if write is code:
            return relation(name, entry["value"], entry["columns"], entry.get("types"))
        return write(entry["value"]["rows"])
    parts = (path or "").split(".")[1:]
    value, used = (None, len(parts)) if entry is None else lookup(entry["value"], parts, entry["columns"])
    if value is None and not optional:
        raise Refused
    if write is code and value is not None and used < len(parts) and entry is not None and not is_rows(entry["value"]):
        raise Refused
    rest = (
        piece[found.end() :]
        if used == len(parts)
        else "".join(f".{part}" for part in parts[used:]) + piece[found.end(2) :]
    )
    typed = write is code and entry is not None and used <= 1
    kind = (column_type(entry, parts[0] if used else None),) if typed else ()
    return ("NULL" if value is None else write(value, *kind)) + rest


def in_literal(piece: str, escapes: bool, names: Names) -> str:
    def write(value: Any) -> str:
        text = characters(value)
        return (text.replace("\\", "\\\\") if escapes else text).replace("'", "''")

    return "".join(
        resolve(part, names, "keep", write) if kind == "reference" else part
        for kind, part in inner_pieces(piece, escapes)
    )


def in_dollar_quotes(piece: str, render: Callable[[str], str]) -> str:
    opening = TAG.match(piece)
    assert opening
    tag = opening[0]
    closed = piece.endswith(tag) and len(piece) >= 2 * len(tag)
    body = piece[len(tag) : len(piece) - len(tag) * closed]
    rendered = render(body)
    if rendered != body and (rendered + tag).find(tag) < len(rendered):
        raise Refused
    return tag + rendered + tag * closed


def separator(value: str, before: list[Piece]) -> str:
    if value.startswith("-") and before and before[-1][1].endswith("-"):
        return " "
    blank = bool(before) and before[-1][1].isspace()
    solid = [piece for kind, piece in before if not piece.isspace() and not piece.startswith("--")]
    follows = bool(solid) and (blank or before[-1][1] == solid[-1]) and bool(PREFIXED.match(solid[-1]))
    return "/**/" if value.startswith("'") and follows else ""


def render_sql(text: str, names: Names, unknown: str = "fail") -> str:
    """`$name` in SQL text."""
    out = []
    seen = list(pieces(text))
    for index, (kind, piece) in enumerate(seen):
        if kind == "reference":
            value = resolve(piece, names, unknown, code)
            out.append(separator(value, seen[:index]) + value)
        elif kind in ("literal", "escape"):
            out.append(in_literal(piece, kind == "escape", names))
        elif kind == "dollar":
            out.append(in_dollar_quotes(piece, lambda body: render_sql(body, names, "keep")))
        else:
            out.append(piece)
    return "".join(out)


def render_raw(text: str, names: Names) -> str:
    """`$name` in text that is not SQL."""
    out, at = "", 0
    while at < len(text):
        if ESCAPED.match(text, at) and (name := REFERENCE.match(text, at + 1)):
            out, at = out + "$" + name[1], name.end(1)
        elif found := REFERENCE.match(text, at):
            out, at = out + resolve(found[0], names, "keep", characters), found.end()
        else:
            out, at = out + text[at], at + 1
    return out


def fill(text: str, variables: dict[str, str]) -> str:
    """`{name}` in text that is not SQL."""
    return re.sub(r"\{([A-Za-z_][A-Za-z0-9_]*)\}", lambda found: variables.get(found[1], found[0]), text)


def fill_sql(text: str, variables: dict[str, str]) -> str:
    """`{name}` in SQL text: everywhere but in comments."""
    out = ""
    pending = ""
    for kind, piece in pieces(text):
        if kind in ("comment", "dollar"):
            out += fill(pending, variables)
            pending = ""
        if kind == "comment":
            out += piece
        elif kind == "dollar":
            opening = TAG.match(piece)
            assert opening
            tag = opening[0]
            closed = piece.endswith(tag) and len(piece) >= 2 * len(tag)
            out += tag + fill_sql(piece[len(tag) : len(piece) - len(tag) * closed], variables) + tag * closed
        else:
            pending += piece
    return out + fill(pending, variables)


def shape(text: str) -> list[str]:
    """What the parser would see of SQL text: code as it is, literals and quoted names by kind only."""
    return [piece if kind in ("code", "reference") else kind for kind, piece in pieces(text)]
