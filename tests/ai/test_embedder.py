"""pg_durable.embedder, which embeds what somebody searches for."""

import pytest
from pg_durable.embedder import Embedder, EmbeddingError

from tests.ai.model import NAME, ModelProcess
from tests.ai.moods import Proxy
from tests.worker.conftest import web  # noqa: F401 - a fixture
from tests.worker.http_server import HttpServer


def test_vectors_come_in_the_order_of_the_texts(model: ModelProcess) -> None:
    embed = Embedder(f"{model.address}/v1/embeddings", NAME, dimensions=384)
    texts = ["a much longer text than the other one", "short"]
    assert embed.all(texts) == model.embed(texts)
    assert embed("short") == pytest.approx(model.embed("short")[0], abs=1e-5)


def test_an_error_is_the_endpoints(model: ModelProcess) -> None:
    with pytest.raises(EmbeddingError, match=r'404 The model "x" does not exist'):
        Embedder(f"{model.address}/v1/embeddings", "x")("a")
    with Proxy(model.address, lambda _: 500) as proxy, pytest.raises(EmbeddingError, match="500 refused: 500"):
        Embedder(proxy.url, NAME)("a")


def test_what_is_no_endpoint_is_said(web: HttpServer) -> None:  # noqa: F811
    with pytest.raises(EmbeddingError, match="not in OpenAI's form"):
        Embedder(f"http://127.0.0.1:{web.port}/ok", "x")("a")
    with pytest.raises(EmbeddingError, match=r"^nonsense: "):
        Embedder("nonsense", "x")("a")
