"""The sessions of the roles whose steps the worker runs."""
