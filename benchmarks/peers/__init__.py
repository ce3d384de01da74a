"""Peers: the same work on the same server, each used as its own documentation recommends for throughput.

A peer is a program: `python -m benchmarks.peers.<name> DSN RUNS` makes its tables in an empty database that has a table
fx, gets ready, and prints one line of JSON with the seconds from the first submission to the last step.
"""
