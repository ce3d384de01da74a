"""Fixtures of the other folders."""

from tests.engine.conftest import pump
from tests.worker.conftest import locked_out, spawn, web, worker

__all__ = ["locked_out", "pump", "spawn", "web", "worker"]
