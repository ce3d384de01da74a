"""What /metrics and /healthz show: what the worker counts, and what the database does."""
