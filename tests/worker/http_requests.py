"""Requests as df_engine.http_request returns them, and resolvers that say what a test wants."""

from typing import Any
from urllib.parse import urlsplit


def request(url: str, **changes: Any) -> dict[str, Any]:
    """An approved GET of `url`, private addresses allowed."""
    split = urlsplit(url)
    base: dict[str, Any] = {
        "url": url,
        "method": "GET",
        "headers": {},
        "body": None,
        "parts": None,
        "timeout_seconds": 10,
        "max_response_bytes": 1 << 20,
        "max_result_bytes": 1 << 24,
        "host": split.hostname,
        "port": split.port or (443 if split.scheme == "https" else 80),
        "allow_private": True,
        "error_statuses": [],
    }
    return base | changes


class FixedResolver:
    """Answers each name with the addresses it was given, and remembers what it was asked."""

    def __init__(self, **answers: list[str]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    async def resolve(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        if host not in self.answers:
            raise OSError("no such name")
        return self.answers[host]

    def close(self) -> None:
        pass
