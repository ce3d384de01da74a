"""Peers: the same work on the same server, each used as its own documentation recommends for throughput.

A module `<package>_chain` has a function `serve(dsn, runs)`. It makes the peer's tables in an empty database that has a
table fx, gets ready, and answers with the seconds from the first submission to the last step.
"""

STEPS = 5
CONCURRENCY = 8
INSERT = "insert into fx values (1, 'x')"
