"""What was received, as the result of a node or as the text of its error."""

import base64
import codecs
import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from pg_durable.http.mask import Mask

QUOTED_BYTES = 512

TEXT_TYPE = re.compile(
    r"text/.*|.*\+(json|xml|yaml)"
    r"|application/(json|xml|javascript|ecmascript|x-www-form-urlencoded|graphql|yaml|x-yaml)"
)
CHARSET = re.compile(r";\s*charset\s*=\s*[\"']?([^\s;\"']+)", re.I)
# Python's codecs that are no charset of the web: slow, or able to make characters that text cannot hold.
NO_CHARSETS = ("idna", "punycode", "unicode-escape", "raw-unicode-escape", "undefined")


Headers = dict[str, str | list[str]]


def header_map(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Names in lower case; repeated ones are joined, set-cookie is a list. What is not UTF-8 is read as Latin-1."""
    found: dict[str, list[str]] = {}
    for raw_name, raw_value in headers:
        found.setdefault(raw_name.decode("latin-1").lower(), []).append(_header_text(raw_value))
    return {name: values if name == "set-cookie" else ", ".join(values) for name, values in found.items()}


def header(headers: Headers, name: str) -> str:
    """One header as text; empty when it is not there."""
    value = headers.get(name, "")
    return value if isinstance(value, str) else ", ".join(value)


def _header_text(value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = value.decode("latin-1")
    return text.replace("\0", "")


# What a character of a text becomes in JSON, where that is longer than the character.
IN_SIX_BYTES = bytes(set(range(32)) - set(b"\b\f\n\r\t"))
IN_TWO_BYTES = b'\b\f\n\r\t"\\'


def json_size(text: str) -> int:
    """Bytes of a text as JSON. It is not made: control characters would take six times as much."""
    data = text.encode()
    sixes = len(data) - len(data.translate(None, IN_SIX_BYTES))
    twos = len(data) - len(data.translate(None, IN_TWO_BYTES))
    return 2 + len(data) + 5 * sixes + twos


def response_size(status: int, headers: Headers, body: bytes | bytearray) -> int:
    """Bytes of what response_object returns, as JSON."""
    text = as_text(body, header(headers, "content-type"))
    size = 2 + 4 * ((len(body) + 2) // 3) if text is None else json_size(text)
    rest = response_object(status, headers, b"", 0) | {"duration_ms": 10**6, "encoding": "base64"}
    return size + len(json.dumps(rest, ensure_ascii=False).encode())


def response_object(status: int, headers: Headers, body: bytes | bytearray, duration: float) -> dict[str, Any]:
    """The value of an HTTP node."""
    text = as_text(body, header(headers, "content-type"))
    return {
        "status": status,
        "body": base64.b64encode(body).decode() if text is None else text,
        "encoding": "base64" if text is None else "text",
        "headers": headers,
        "ok": 200 <= status <= 299,
        "duration_ms": round(duration * 1000),
    }


def as_text(body: bytes | bytearray, content_type: str) -> str | None:
    """The body as text that the database can hold, or None when it is none."""
    declared = TEXT_TYPE.fullmatch(content_type.partition(";")[0].strip().lower())
    charset = CHARSET.search(content_type) if declared else None
    try:
        text = body.decode(_codec(charset[1]) if charset else "utf-8").removeprefix("\ufeff")
        text.encode()
    except (UnicodeError, LookupError):
        return None
    return None if "\0" in text else text


def _codec(charset: str) -> str:
    name = codecs.lookup(charset).name
    if name in NO_CHARSETS:
        raise LookupError(charset)
    return name


def quoted_body(body: bytes, content_type: str, mask: Mask) -> str:
    """At most 512 bytes of a body, for an error text. Masked before it is cut: half of a secret is not known again."""
    text = as_text(body, content_type)
    if text is None:
        text = body.decode("utf-8", "ignore").replace("\0", "")
    return mask.text(text).encode()[:QUOTED_BYTES].decode("utf-8", "ignore").strip()


def retry_after(headers: Headers, now: datetime | None = None) -> float | None:
    """Seconds to wait as the server asks, by a number or a date; None when it does not, or not in such a form."""
    value = header(headers, "retry-after").strip()
    if re.fullmatch(r"[0-9]{1,12}", value):
        return float(value)
    try:
        date = parsedate_to_datetime(value)
        if date.tzinfo is None:
            date = date.replace(tzinfo=UTC)
        return max(0.0, (date - (now or datetime.now(UTC))).total_seconds())
    except (ValueError, OverflowError):
        return None
