"""When the worker polls: it says that it is idle, so that writers wake it, and polls at times without being woken.

Writers notify only a worker that is idle. It says so before a poll, so that a transaction that committed unseen is
found by the poll. One that was under way meanwhile may not have seen it: a few polls shortly afterwards find that.
"""

SWEEP = 2.0  # seconds; the longest pause between two polls, which are the heartbeat, too
IDLE_MARGIN = 1.5  # seconds; a worker counts as idle for longer than the pause, so that there is no gap between
POLLS_AFTERWARDS = (0.02, 0.1, 0.5)  # seconds after the worker has said that it is idle
POLL_SATURATED = 0.05  # no room: timers and other roles' work wait for a poll
POLL_BUSY = 0.25  # shows long steps as running
SHORTEST = 0.005


class Polling:
    """Until when the worker is idle, as it has said. Times are those of the monotonic clock."""

    def __init__(self) -> None:
        self._idle_until: float | None = None
        self._afterwards: list[float] = []

    def idle_due(self, room: bool, now: float) -> bool:
        """Whether it is time to say that the worker is idle, again, or not any more."""
        if not room:
            return self._idle_until is not None
        return self._idle_until is None or self._idle_until - now < IDLE_MARGIN

    def say_idle(self, room: bool, now: float) -> int | None:
        """Notes that it is said now; answers for how many milliseconds the worker is idle, None when it has no room."""
        if not room:
            self._idle_until = None
            self._afterwards = []
            return None
        if self._idle_until is None:
            self._afterwards = [now + delay for delay in POLLS_AFTERWARDS]
        self._idle_until = now + SWEEP + IDLE_MARGIN
        return round((SWEEP + IDLE_MARGIN) * 1000)

    def next_poll(self, now: float, room: bool, busy: bool, next_ms: float | None) -> float:
        """The time of the next poll."""
        self._afterwards = [at for at in self._afterwards if at > now]
        times = [now + SWEEP, *self._afterwards[:1]]
        if not room:
            times.append(now + POLL_SATURATED)
        elif busy:
            times.append(now + POLL_BUSY)
        if next_ms is not None:
            times.append(now + max(next_ms / 1000, SHORTEST))
        return min(times)
