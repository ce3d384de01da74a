"""Tells the log of each run that has failed."""

from logging import WARNING
from time import monotonic

from pg_durable.log import event
from pg_durable.supervisor.connection import Supervisor

EVERY = 1.0  # seconds between two questions


class Failures:
    """Asks now and then. A run shows its end only once that is committed, so the engine's answers overlap."""

    def __init__(self) -> None:
        self._since: str | None = None
        self._again_at = 0.0
        self._known: set[str] = set()  # the last answer's runs

    async def log(self, db: Supervisor, at_once: bool = False) -> None:
        """Logs what has failed since the last time; `at_once`: without waiting until it is time."""
        if monotonic() < self._again_at and not at_once:
            return
        self._since, runs = await db.failed_since(self._since)
        for run in runs:
            if run.instance not in self._known:
                event(WARNING, "run failed", instance=run.instance, label=run.label, node=run.node, error=run.error)
        self._known = {run.instance for run in runs}
        self._again_at = monotonic() + EVERY
