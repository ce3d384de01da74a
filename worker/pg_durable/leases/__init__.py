"""The steps that a worker leases because they cannot be in a transaction."""
