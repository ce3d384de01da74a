"""What the web page was started with."""

import time
from collections.abc import Callable
from dataclasses import dataclass

SESSION_AGE = 8 * 3600.0


@dataclass(frozen=True)
class Options:
    """login_as: everybody is that role, by the means of the DSN, without a form; for development."""

    dsn: str = ""
    read_only: bool = False
    login_as: str | None = None
    secret: bytes = b""  # a Fernet key; empty: one is made, and sessions end with the process
    session_age: float = SESSION_AGE
    secure: bool = False  # cookies are for TLS alone, whatever the connection is
    statement_timeout: float = 10.0
    clock: Callable[[], float] = time.time
