"""pg_durable: durable functions for PostgreSQL. This package holds the worker, the CLI and the embedded server."""
