"""What is sent: the request that the database approved, as bytes."""

import base64
import re
from dataclasses import dataclass
from typing import Any

import httpx

from pg_durable.http.errors import RequestFailed
from pg_durable.http.multipart import encode_parts

DEFAULTS = ((b"Accept", b"*/*"), (b"Accept-Encoding", b"gzip, deflate"), (b"Connection", b"close"))
WITH_BODY = ("POST", "PUT", "PATCH")
ESCAPED_PLACE = re.compile(r"%7B(secret:[\w.-]+)%7D")

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Request:
    """One request and the limits it runs under."""

    method: str
    url: httpx.URL
    headers: Headers
    content: bytes | None
    timeout: float
    max_response_bytes: int
    max_result_bytes: int
    allow_private: bool
    error_statuses: frozenset[str]
    shown_url: str | None = None  # without the secrets that `url` has

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Request":
        """Takes what df_engine.http_request returned; refuses a URL that is read differently here."""
        url = _approved_url(data)
        headers = [(name.encode(), value.strip(" \t").encode()) for name, value in data["headers"].items()]
        content = data["body"].encode() if data.get("body") is not None else None
        if data.get("parts"):
            content_type, content = encode_parts(data["parts"])
            headers.append((b"Content-Type", content_type))
        if content is None and data["method"] in WITH_BODY:
            content = b""
        return cls(
            method=data["method"],
            url=url,
            headers=_complete(headers, url),
            content=content,
            timeout=float(data["timeout_seconds"]),
            max_response_bytes=int(data["max_response_bytes"]),
            max_result_bytes=int(data["max_result_bytes"]),
            allow_private=data["allow_private"],
            error_statuses=frozenset(data.get("error_statuses") or ()),
            shown_url=data.get("shown_url"),
        )

    @property
    def port(self) -> int:
        return self.url.port or _default_port(self.url)

    @property
    def title(self) -> str:
        """How errors name the request: without credentials and secrets."""
        target = self.url.raw_path.decode()
        if self.shown_url:
            target = ESCAPED_PLACE.sub(r"{\1}", httpx.URL(self.shown_url).raw_path.decode())
        return f"{self.method} {self.url.scheme}://{self.url.netloc.decode()}{target}"

    def is_failure(self, status: int) -> bool:
        """Whether a response with this status is an error of the step."""
        listed = {str(status), f"{status // 100}xx"} & self.error_statuses
        return status in (408, 425, 429) or status >= 500 or bool(listed)


def _default_port(url: httpx.URL) -> int:
    return 443 if url.scheme == "https" else 80


def _approved_url(data: dict[str, Any]) -> httpx.URL:
    try:
        url = httpx.URL(data["url"])
    except httpx.InvalidURL as error:
        raise RequestFailed("refused", f"invalid URL for host {data['host']}: {error}") from error
    host = url.raw_host.decode("ascii").lower()
    if (host, url.port or _default_port(url)) != (data["host"], data["port"]) or url.scheme not in ("http", "https"):
        raise RequestFailed("refused", "Blocked: the host of the URL is restricted: it can be read in two ways")
    return url


def _complete(headers: Headers, url: httpx.URL) -> Headers:
    """The headers with those that every request needs; credentials in the URL become Basic authentication."""
    defaults = [(b"Host", url.netloc), *DEFAULTS]
    if url.userinfo:
        token = base64.b64encode(f"{url.username}:{url.password}".encode())
        defaults.append((b"Authorization", b"Basic " + token))
    present = {name.lower() for name, _ in headers}
    return [(name, value) for name, value in defaults if name.lower() not in present] + headers
