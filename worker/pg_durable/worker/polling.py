"""When the worker looks: the flag that tells writers to wake it, and the times at which it looks without being woken.

Writers notify only while the flag is up. It goes up before a look, so that a transaction that committed unseen is
found by the look. One that was under way meanwhile may have seen no flag: a few looks shortly afterwards find it.
"""

SWEEP = 2.0  # nothing is waited for longer than this; also the heartbeat
FLAG_MARGIN = 1.5  # the flag outlasts the sleep, so that there is no gap before it is renewed
LOOK_BACK = (0.02, 0.1, 0.5)  # after the flag went up
LOOK_SATURATED = 0.05  # no room: timers and other roles' work wait for a look
LOOK_BUSY = 0.25  # shows long steps as running
SHORTEST = 0.005


class Cadence:
    """The state of the flag. Times are those of the monotonic clock."""

    def __init__(self) -> None:
        self._flag_until: float | None = None
        self._look_back: list[float] = []

    def announcement_due(self, room: bool, now: float) -> bool:
        """Whether the flag must be put up, renewed or taken down."""
        if not room:
            return self._flag_until is not None
        return self._flag_until is None or self._flag_until - now < FLAG_MARGIN

    def announce(self, room: bool, now: float) -> int | None:
        """Notes that the flag is set now; answers for how many milliseconds, None to take it down."""
        if not room:
            self._flag_until = None
            self._look_back = []
            return None
        if self._flag_until is None:
            self._look_back = [now + delay for delay in LOOK_BACK]
        self._flag_until = now + SWEEP + FLAG_MARGIN
        return round((SWEEP + FLAG_MARGIN) * 1000)

    def look_again(self, now: float, room: bool, busy: bool, next_ms: float | None) -> float:
        """The time of the next look."""
        self._look_back = [at for at in self._look_back if at > now]
        times = [now + SWEEP, *self._look_back[:1]]
        if not room:
            times.append(now + LOOK_SATURATED)
        elif busy:
            times.append(now + LOOK_BUSY)
        if next_ms is not None:
            times.append(now + max(next_ms / 1000, SHORTEST))
        return min(times)
