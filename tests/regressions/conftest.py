"""Fixtures of the other folders."""

from tests.engine.conftest import pump
from tests.worker.conftest import spawn, worker

__all__ = ["pump", "spawn", "worker"]
