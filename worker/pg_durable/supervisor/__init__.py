"""The supervising connection: what the worker asks the engine, and what is to be told it."""
