"""Secrets in what comes back: servers and proxies echo what they were sent, and it ends up in results and errors."""

import base64
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote, quote_plus

LEAST = 8  # bytes of a value that is masked: a shorter one would be found where it is none
STARS = "***"
ESCAPES = re.compile(r"%[0-9A-F]{2}")
SCRIPT_ESCAPES = str.maketrans({"<": r"\u003c", ">": r"\u003e", "&": r"\u0026"})


class Mask:
    """Replaces values, also as JSON, URLs and base64 write them, by stars."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        forms = {form for value in values if len(value.encode()) >= LEAST for form in _forms(value)}
        ordered = sorted(forms, key=lambda form: (-len(form), form))  # a form may be a part of another one
        self.longest = max((len(form.encode()) for form in ordered), default=0)
        self._text = re.compile("|".join(map(re.escape, ordered))) if ordered else None
        self._bytes = re.compile(b"|".join(re.escape(form.encode()) for form in ordered)) if ordered else None

    def text(self, text: str) -> str:
        """The text without the values."""
        return self._text.sub(STARS, text) if self._text else text

    def response(self, value: dict[str, Any]) -> dict[str, Any]:
        """The value of an HTTP node without them: in its body, and in its headers."""
        if not self._text or not self._bytes:
            return value
        if value["encoding"] == "text":
            body = self.text(value["body"])
        else:
            body = base64.b64encode(self._bytes.sub(STARS.encode(), base64.b64decode(value["body"]))).decode()
        headers = {
            self.text(name): self.text(held) if isinstance(held, str) else [self.text(one) for one in held]
            for name, held in value["headers"].items()
        }
        return value | {"body": body, "headers": headers}


def _forms(value: str) -> Iterator[str]:
    yield value
    for escaped in (json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]):
        for written in (escaped, escaped.translate(SCRIPT_ESCAPES)):
            yield from (written, written.replace("/", r"\/"))
    for encoded in (quote(value, safe=""), quote(value), quote(value, safe="!~*'()"), quote_plus(value)):
        yield from (encoded, ESCAPES.sub(lambda found: found[0].lower(), encoded))
    for packed in _packed(value.encode()):
        yield from (packed, packed.replace("+", "-").replace("/", "_"))


def _packed(value: bytes) -> Iterator[str]:
    """The value in base64, alone and inside of something longer: there it begins at any of three places, and what its
    neighbours decide of the first and the last character is left out."""
    whole = base64.b64encode(value).decode()
    yield from (whole, whole.rstrip("="))
    for before in range(3):
        text = base64.b64encode(bytes(before) + value).decode()
        yield text[-(-8 * before // 6) : 8 * (before + len(value)) // 6]
