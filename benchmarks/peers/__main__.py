"""`python -m benchmarks.peers PACKAGE DSN RUNS`: measures one peer in a process of its own; one line of JSON."""

import importlib
import json
import sys


def main(package: str, dsn: str, runs: str) -> None:
    """Prints the seconds that so many runs took."""
    peer = importlib.import_module(f"benchmarks.peers.{package}_chain")
    print(json.dumps({"seconds": peer.serve(dsn, int(runs))}))


if __name__ == "__main__":
    main(*sys.argv[1:])
