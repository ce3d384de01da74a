"""Fixtures of another folder."""

from tests.worker.conftest import locked_out, spawn, web, worker

__all__ = ["locked_out", "spawn", "web", "worker"]
