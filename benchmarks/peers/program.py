"""What the programs of the peers share."""

import json
import sys
from collections.abc import Callable

STEPS = 5
CONCURRENCY = 8
INSERT = "insert into fx values (1, 'x')"


def main(measure: Callable[[str, int], float]) -> None:
    """Reads the arguments, measures and prints the seconds."""
    dsn, runs = sys.argv[1:]
    print(json.dumps({"seconds": measure(dsn, int(runs))}))
