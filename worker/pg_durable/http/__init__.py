"""The HTTP steps of the worker: policy, addresses, transport, bodies."""
