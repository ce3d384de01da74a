"""An embedded PostgreSQL server from a PyPI wheel, for development, demos and tests."""

from pg_durable.embedded.server import EmbeddedServer

__all__ = ["EmbeddedServer"]
