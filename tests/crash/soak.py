"""`make soak`: harm at random for as long as asked, in judged rounds; prints what was done and what became of it."""

import argparse
import random
import time

from tests.crash.chaos import Chaos


def main() -> None:
    """Runs until the time is up or something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    until = time.monotonic() + options.minutes * 60
    with Chaos(options.seed, standby=True) as chaos:
        while time.monotonic() < until:
            chaos.rage(min(30, until - time.monotonic()))
            chaos.settle()
            print(chaos.summary(), flush=True)
    print("every run ended, every effect is there once, df.check() shows nothing")


if __name__ == "__main__":
    main()
