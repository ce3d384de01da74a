"""An endpoint in OpenAI's form on a real socket: deterministic embeddings, and refusals where a test asks for them."""

import hashlib
import json
import math
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.worker.http_server import HttpServer, Received, Writer, reply

DIMENSIONS = 16


def embedding(text: str, dimensions: int = DIMENSIONS) -> list[float]:
    """Texts with the same words are near each other: each word adds to one dimension."""
    vector = [0.01] * dimensions
    for word in re.findall(r"\w+", text.lower()):
        vector[hashlib.sha256(word.encode()).digest()[0] % dimensions] += 1.0
    length = math.sqrt(sum(x * x for x in vector))
    return [round(x / length, 6) for x in vector]


@dataclass
class Embeddings(HttpServer):
    """`sent` counts texts that were answered, `requests` has the size of each; a batch with a text in `refused` is
    answered 400; `failures` is what the next requests are answered instead: (status, headers)."""

    dimensions: int = DIMENSIONS
    sent: Counter[str] = field(default_factory=Counter)
    requests: list[int] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    failures: list[tuple[int, tuple[str, ...]]] = field(default_factory=list)
    down: int = 0

    @property
    def address(self) -> str:
        return self.url("/v1/embeddings")

    async def _do_v1(self, request: Received, writer: Writer) -> None:
        texts: list[str] = json.loads(request.body)["input"]
        self.requests.append(len(texts))
        self.tokens.append(request.headers.get("authorization", ""))
        if self.down:
            writer.write(reply(self.down, b"down"))
        elif self.failures:
            status, headers = self.failures.pop(0)
            writer.write(reply(status, b"not now", *headers))
        elif any(bad in text for text in texts for bad in self.refused):
            writer.write(reply(400, b'{"error": {"message": "this text is bad"}}'))
        else:
            self.sent.update(texts)
            writer.write(reply(200, json.dumps(self.answer(texts)).encode(), "Content-Type: application/json"))

    def answer(self, texts: list[str]) -> dict[str, Any]:
        """What OpenAI answers."""
        data = [
            {"object": "embedding", "index": index, "embedding": embedding(text, self.dimensions)}
            for index, text in enumerate(texts)
        ]
        count = sum(len(text.split()) for text in texts)
        return {"object": "list", "data": data, "usage": {"prompt_tokens": count, "total_tokens": count}}
