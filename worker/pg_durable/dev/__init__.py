"""`pg-durable dev`, and what programs take from it: the names of its database and roles, and how both are made."""

from pg_durable.dev.command import ADMIN, DATABASE, USER, WORKER, prepare

__all__ = ["ADMIN", "DATABASE", "USER", "WORKER", "prepare"]
