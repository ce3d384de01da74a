"""Puts secrets into a request, at the places that the engine has marked, when it is sent."""

import base64
import re
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import quote

from pg_durable.http.errors import RequestFailed
from pg_durable.http.mask import Mask
from pg_durable.secret_keys import KeyRing, UndecryptableError

CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class Secrets:
    """The secrets of one request, as they are stored, and the mask that keeps them out of what comes of it."""

    def __init__(self, role: str = "", stored: Iterable[dict[str, Any]] = (), keys: KeyRing | None = None) -> None:
        self._role = role
        self._stored = {one["name"]: one for one in stored}
        self._keys = keys or KeyRing()
        self.mask = Mask()

    def put_into(self, request: dict[str, Any]) -> dict[str, Any]:
        """The request with values where it has marks, and its URL without them as `shown_url`, for errors."""
        if not request.get("secrets"):
            return request
        values = {name: self._value(name) for name in request["secrets"]}
        self.mask = Mask(values.values())
        mark = re.compile(rf"\{{secret:([^:}}]+):{re.escape(request['mark'])}\}}")

        def filled(text: str, form: Callable[[str, str], str]) -> str:
            return mark.sub(lambda found: form(found[1], values[found[1]]), text)

        path, question, query = request["url"].partition("?")
        return request | {
            "url": filled(path, _in_path) + question + filled(query, _in_query),
            "shown_url": mark.sub(r"{secret:\1}", request["url"]),
            "headers": {name: filled(text, _in_header) for name, text in request["headers"].items()},
            "body": filled(request["body"] or "", _as_it_is) or request["body"],
            "parts": [part | {"data_b64": filled(part["data_b64"], _in_base64)} for part in request["parts"] or ()],
        }

    def _value(self, name: str) -> str:
        stored = self._stored.get(name)
        if stored is None:
            why = f'role {self._role} has no secret "{name}"; set it: pg-durable secret set {name}'
            raise RequestFailed("refused", why)
        if not stored["encrypted"]:
            return str(stored["value"])
        try:
            return self._keys.decrypt(self._role, name, stored["value"])
        except UndecryptableError as error:
            raise RequestFailed("refused", str(error)) from error


def _as_it_is(_: str, value: str) -> str:
    return value


def _in_path(_: str, value: str) -> str:
    return quote(value)


def _in_query(_: str, value: str) -> str:
    return quote(value, safe="")


def _in_base64(_: str, value: str) -> str:
    return base64.b64encode(value.encode()).decode()


def _in_header(name: str, value: str) -> str:
    if CONTROL.search(value):
        why = f'secret "{name}" has a line break or another control character, which a header cannot hold'
        raise RequestFailed("refused", why)
    return value
