"""A worker as a process, as the tests of the worker have it."""

from tests.worker.conftest import spawn, worker

__all__ = ["spawn", "worker"]
