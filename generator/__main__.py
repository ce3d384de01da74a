"""`python -m generator` writes dist/; `--check` fails with a diff when dist/ is stale."""

import argparse
import difflib
import sys
from pathlib import Path

from generator.render import ROOT, artifacts


def stale(path: Path, text: str) -> str:
    """A unified diff from the file as it is to the text it should hold; empty when they agree."""
    current = path.read_text() if path.exists() else ""
    lines = difflib.unified_diff(
        current.splitlines(True), text.splitlines(True), f"{path} (on disk)", f"{path} (generated)"
    )
    return "".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m generator", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when dist/ is stale")
    check = parser.parse_args().check
    drift = False
    for name, text in artifacts().items():
        path = ROOT / name
        if check:
            diff = stale(path, text)
            sys.stdout.write(diff)
            drift = drift or bool(diff)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return int(drift)


if __name__ == "__main__":
    sys.exit(main())
