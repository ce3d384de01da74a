"""`pg-durable web`: the web page. You log in as a role of the database, and see what that role may see."""

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pg_durable import log
from pg_durable.cli.worker_command import address, seconds
from pg_durable.errors import CommandError

LISTEN = "127.0.0.1:8807"
NEEDED = ("starlette", "uvicorn", "jinja2", "multipart", "cryptography")
MISSING = "needs an extra: pip install 'pg-durable[web]'"


def register(subparsers: Any) -> None:
    """Adds the sub-command."""
    command = subparsers.add_parser("web", help="serve the web page", description=__doc__)
    command.add_argument("--dsn", default="", help="the home database; the role is who logs in; default: libpq's PG*")
    command.add_argument(
        "--listen", type=address, default=LISTEN, metavar="[HOST:]PORT", help=f"where; default {LISTEN}"
    )
    command.add_argument("--read-only", action="store_true", help="nothing can be changed")
    command.add_argument(
        "--cookie-key-file", metavar="FILE", default=None,
        help="file with the key of session cookies (openssl rand -base64 32), for several processes, or logins that "
             "outlast a restart; default: a new key",
    )  # fmt: skip
    command.add_argument(
        "--login-age", type=seconds, default="28800", metavar="SECONDS", help="how long a login lasts; default 8 h"
    )
    command.add_argument("--tls-cert", metavar="FILE", help="serve TLS with this certificate, and what signs it")
    command.add_argument("--tls-key", metavar="FILE", help="its private key")
    command.add_argument(
        "--proxy", default="", metavar="ADDRESSES",
        help="addresses of proxies, by commas, whose X-Forwarded-For and -Proto are believed",
    )  # fmt: skip
    command.add_argument("--log-format", choices=("text", "json"), default="text")
    command.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    command.set_defaults(run=run)


def available() -> bool:
    """Whether the extra is installed."""
    return all(find_spec(name) for name in NEEDED)


def run(arguments: argparse.Namespace) -> int:
    """Serves until SIGTERM or Ctrl-C."""
    if not available():
        raise CommandError(MISSING)
    from pg_durable.web.options import Options  # noqa: PLC0415 - all of it needs the extra
    from pg_durable.web.server import Place, serve  # noqa: PLC0415

    if bool(arguments.tls_cert) != bool(arguments.tls_key):
        raise CommandError("--tls-cert and --tls-key go together")
    log.configure(arguments.log_format, arguments.log_level)
    options = Options(
        arguments.dsn,
        read_only=arguments.read_only,
        secret=cookie_key(arguments.cookie_key_file),
        session_age=arguments.login_age,
    )
    serve(options, Place.of(arguments.listen, arguments.tls_cert, arguments.tls_key, arguments.proxy))
    return 0


def cookie_key(path: str | None) -> bytes:
    """The key of a file, as Fernet wants it; empty: none was given."""
    from pg_durable.web.server import as_key  # noqa: PLC0415 - it needs the extra

    return as_key(path, Path(path).read_bytes()) if path else b""
