"""Fleets: databases with pg_durable, over postgres_fdw."""
