"""Serves the page: uvicorn, with our log."""

import base64
import binascii
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import uvicorn

from pg_durable import log
from pg_durable.errors import CommandError
from pg_durable.printing import say
from pg_durable.web.app import application
from pg_durable.web.options import Options

GRACE = 3  # seconds


@dataclass(frozen=True)
class Place:
    """Where the page is served."""

    host: str
    port: int
    certificate: str | None = None
    key: str | None = None
    proxies: str = ""

    @classmethod
    def of(cls, listen: str, certificate: str | None = None, key: str | None = None, proxies: str = "") -> "Place":
        """That of the command line."""
        host, _, port = listen.rpartition(":")
        return cls(host.strip("[]") or "127.0.0.1", int(port), certificate, key, proxies)

    @property
    def url(self) -> str:
        """Its address in a browser."""
        host = {"0.0.0.0": "localhost", "::": "localhost"}.get(self.host, self.host)
        scheme = "https" if self.certificate else "http"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}/"


class Server(uvicorn.Server):
    """One that ends the streams of open tabs before it waits for what is under way."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends it."""
        app: Any = self.config.app
        app.state.hub.stop()
        await super().shutdown(sockets)


def server(options: Options, place: Place) -> Server:
    """The server, not started yet."""
    return Server(uvicorn.Config(
        application(options),
        host=place.host,
        port=place.port,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        ssl_certfile=place.certificate,
        ssl_keyfile=place.key,
        proxy_headers=bool(place.proxies),
        forwarded_allow_ips=place.proxies or None,
        timeout_graceful_shutdown=GRACE,
        lifespan="on",
    ))  # fmt: skip


def serve(options: Options, place: Place) -> None:
    """Serves until SIGTERM or Ctrl-C."""
    check_free(place)
    log.event(logging.INFO, "web page", address=place.url, read_only=options.read_only)
    say(f"The page is at {place.url}")
    server(options, place).run()


@contextmanager
def beside(options: Options, place: Place) -> Iterator[Place]:
    """Serves the page in a thread, next to what the process does; on a free port where that one is taken."""
    if not is_free(place):
        place = replace(place, port=free_port(place.host))
    page = server(options, place)
    thread = threading.Thread(target=page.run, daemon=True, name="web page")
    thread.start()
    try:
        yield place
    finally:
        page.should_exit = True
        thread.join(GRACE + 2)


def is_free(place: Place) -> bool:
    """Whether nobody listens there."""
    try:
        check_free(place)
    except CommandError:
        return False
    return True


def free_port(host: str) -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def check_free(place: Place) -> None:
    """Says in words when the address cannot be had."""
    family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((place.host, place.port))
        except OSError as error:
            raise CommandError(f"cannot listen on {place.host}:{place.port}: {error.strerror}") from error


def as_key(path: str, text: bytes) -> bytes:
    """A key of 32 bytes in base64, as Fernet wants it."""
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except binascii.Error:
        key = b""
    if len(key) != 32:
        raise CommandError(f"{path} does not hold a key of 32 bytes in base64\nopenssl rand -base64 32 > FILE")
    return base64.urlsafe_b64encode(key)
