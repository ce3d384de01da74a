"""What the command line of a worker says."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pg_durable.login import ROLE
from pg_durable.secret_keys import KeyRing


@dataclass(frozen=True)
class Options:
    """The databases, and what holds for all of them."""

    dsns: Sequence[str]
    sessions: int | None = None  # of each database as many as its setting max_user_connections allows
    grace: float = 10.0
    metrics: str | None = None
    session_age: float = 60.0
    login_format: str = ROLE
    otel: bool = False
    keys: KeyRing = field(default_factory=KeyRing, repr=False)  # of encrypted secrets
