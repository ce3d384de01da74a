"""`pg-durable embed` as users run it, and what tests ask it."""

import os
import re
import signal
import subprocess
import sys
from typing import Any

import httpx

from tests.worker.process import ROOT

NAME = "all-MiniLM-L6-v2"
SERVED = re.compile(r"is served at (http://\S+)/v1/embeddings")


class ModelProcess:
    """The model, in a process of its own on a free port."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "pg_durable", "embed", "--port", "0", *arguments]
        environment = os.environ | {"PYTHONPATH": str(ROOT / "worker")}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, env=environment, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout
        found = SERVED.search(self.process.stdout.readline())
        assert found, "the model has not started"
        self.address = found[1]

    @property
    def host(self) -> str:
        """HOST:PORT, as df.http_allow takes it."""
        return self.address.removeprefix("http://")

    def post(self, body: Any, **more: Any) -> httpx.Response:
        """What it answers to a request."""
        given = {"content": body} if isinstance(body, bytes) else {"json": body}
        return httpx.post(f"{self.address}/v1/embeddings", **given, timeout=60, **more)

    def embed(self, texts: str | list[str], **more: Any) -> list[Any]:
        """The vectors of texts."""
        answer = self.post({"model": NAME, "input": texts, **more})
        assert answer.status_code == 200, answer.text
        data = answer.json()["data"]
        assert [each["index"] for each in data] == list(range(len(data)))
        return [each["embedding"] for each in data]

    def totals(self) -> dict[str, Any]:
        """What it has served."""
        found: dict[str, Any] = httpx.get(f"{self.address}/healthz", timeout=60).json()
        return found

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


def likeness(one: list[float], other: list[float]) -> float:
    """The cosine of two vectors of length 1."""
    return sum(a * b for a, b in zip(one, other, strict=True))
