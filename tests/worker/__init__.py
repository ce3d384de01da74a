"""The worker: its parts with an imagined clock, and as a process beside a real server."""
