"""The HTTP steps of the worker: one request a call, on a connection of its own to an address that was checked."""

from pg_durable.http.runner import HttpRunner

__all__ = ["HttpRunner"]
