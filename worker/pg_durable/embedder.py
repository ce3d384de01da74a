"""Embeds texts at an endpoint of OpenAI's form, for queries: what pipelines embed, workers send."""

from collections.abc import Sequence
from typing import Any

import httpx

Vector = list[float]


class EmbeddingError(Exception):
    """An endpoint that has not embedded a text; the message is the endpoint's."""


class Embedder:
    """An endpoint: its address, the model's name there, the key that it asks for.

    embed = Embedder("http://127.0.0.1:8808/v1/embeddings", "all-MiniLM-L6-v2")
    embed("how do refunds work?")                   # [0.031, ...]
    """

    def __init__(
        self, url: str, model: str, key: str | None = None, dimensions: int | None = None, timeout: float = 30.0
    ) -> None:
        self.url = url
        self._asked = {"model": model, "encoding_format": "float"} | ({"dimensions": dimensions} if dimensions else {})
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._timeout = timeout

    def __call__(self, text: str) -> Vector:
        """The vector of a text."""
        return self.all([text])[0]

    def all(self, texts: Sequence[str]) -> list[Vector]:
        """The vectors of texts, in one request. Raises EmbeddingError."""
        try:
            answer = httpx.post(
                self.url, json=self._asked | {"input": list(texts)}, headers=self._headers, timeout=self._timeout
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise EmbeddingError(f"{self.url}: {error}") from error
        if answer.status_code != httpx.codes.OK:
            raise EmbeddingError(f"{self.url}: {answer.status_code} {message(answer)}")
        try:
            data = sorted(answer.json()["data"], key=lambda each: int(each["index"]))
            vectors: list[Vector] = [each["embedding"] for each in data]
        except (ValueError, KeyError, TypeError) as error:
            raise EmbeddingError(f"{self.url}: the answer is not in OpenAI's form") from error
        if len(vectors) != len(texts):
            raise EmbeddingError(f"{self.url}: {len(vectors)} vectors for {len(texts)} texts")
        return vectors


def message(answer: httpx.Response) -> str:
    """What an error in OpenAI's form says, or the beginning of another."""
    try:
        found: Any = answer.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        found = answer.text
    return str(found)[:500]
