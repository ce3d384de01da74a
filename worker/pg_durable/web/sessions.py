"""Who is logged in: a role and its password, encrypted in a cookie. The server keeps nothing but who has logged out."""

import json
import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from cryptography.fernet import Fernet, InvalidToken

from pg_durable.web.options import Options

COOKIE, FLASH = "pg_durable_session", "pg_durable_flash"
LARGEST_COOKIE = 4000


@dataclass(frozen=True)
class Session:
    """One login."""

    role: str
    password: str | None  # None: by the means of the DSN
    id: str
    csrf: str
    started: float

    @classmethod
    def begin(cls, role: str, password: str | None, now: float) -> "Session":
        """A new one; its tokens are random."""
        return cls(role, password, secrets.token_urlsafe(16), secrets.token_urlsafe(24), now)


class Sessions:
    """Reads and writes the cookies."""

    def __init__(self, options: Options) -> None:
        self._cipher = Fernet(options.secret or Fernet.generate_key())
        self._age = options.session_age
        self._clock = options.clock
        self._ended: dict[str, float] = {}  # by id: when the session would have expired
        self._everybody = Session.begin(options.login_as, None, options.clock()) if options.login_as else None

    @property
    def age(self) -> int:
        """How long a session lasts, in seconds."""
        return int(self._age)

    def begin(self, role: str, password: str) -> Session:
        """A session of who has just logged in."""
        return Session.begin(role, password, self._clock())

    def seal(self, session: Session) -> str:
        """The value of its cookie."""
        return self._encrypt("session", asdict(session))

    def read(self, cookie: str | None) -> Session | None:
        """The session of a cookie, if it is one, has not expired and was not ended."""
        if self._everybody:
            return self._everybody
        found: Any = self._decrypt("session", cookie)
        if found is None:
            return None
        session = Session(**found)
        return None if session.id in self._ended or self.expired(session) else session

    def expired(self, session: Session) -> bool:
        """Whether its time is over, or who had it has logged out."""
        return session is not self._everybody and (
            session.id in self._ended or self._clock() >= session.started + self._age
        )

    def end(self, session: Session) -> None:
        """From now on its cookie is worth nothing."""
        now = self._clock()
        self._ended = {key: until for key, until in self._ended.items() if until > now}
        self._ended[session.id] = session.started + self._age

    def seal_flash(self, kind: str, text: str) -> str:
        """A message for the next page, as a cookie."""
        return self._encrypt("flash", {"kind": kind, "text": text[:800]})

    def read_flash(self, cookie: str | None) -> dict[str, str] | None:
        """The message that the page before has left."""
        return self._decrypt("flash", cookie)

    def _encrypt(self, what: str, content: dict[str, object]) -> str:
        return self._cipher.encrypt(json.dumps({"what": what} | content).encode()).decode()

    def _decrypt(self, what: str, cookie: str | None) -> dict[str, str] | None:
        if not cookie or len(cookie) > LARGEST_COOKIE:
            return None
        try:
            content: dict[str, str] = json.loads(self._cipher.decrypt(cookie.encode()))
        except InvalidToken:
            return None
        return content if content.pop("what", None) == what else None


class Attempts:
    """Counts logins that failed, and says who must wait: passwords cannot be guessed here."""

    OF_ADDRESS, OF_ROLE, WINDOW = 5, 20, 60.0
    MOST_KEYS = 10000

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failed: dict[str, deque[float]] = {}

    def wait(self, address: str, role: str) -> float:
        """How many seconds until the next attempt; 0: now."""
        return max(self._left(f"address {address}", self.OF_ADDRESS), self._left(f"role {role}", self.OF_ROLE))

    def failed(self, address: str, role: str) -> None:
        """Notes a failure."""
        if len(self._failed) >= self.MOST_KEYS:
            self._tidy()
        for key in (f"address {address}", f"role {role}"):
            self._failed.setdefault(key, deque(maxlen=self.OF_ROLE)).append(self._clock())

    def forget(self) -> None:
        """Nothing was tried."""
        self._failed.clear()

    def _left(self, key: str, most: int) -> float:
        times = self._failed.get(key, ())
        if len(times) < most:
            return 0.0
        return max(0.0, times[len(times) - most] + self.WINDOW - self._clock())

    def _tidy(self) -> None:
        """Drops what is over; under attack from everywhere, the oldest half too."""
        begin = self._clock() - self.WINDOW
        self._failed = {key: times for key, times in self._failed.items() if times[-1] > begin}
        for key in list(self._failed)[: max(0, len(self._failed) - self.MOST_KEYS // 2)]:
            del self._failed[key]
