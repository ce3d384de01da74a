"""`make coverage TESTS="tests/language ..."`: the lines of the package, and the functions of the database, that those
tests do not reach. Without TESTS it takes all of them."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.called import NOTES

COVERAGE = (sys.executable, "-m", "coverage")


def main(tests: Sequence[str]) -> int:
    """Runs the tests and prints both reports; the exit code is that of pytest."""
    with tempfile.TemporaryDirectory() as notes:
        coverage("erase")
        failed = coverage("run", "-m", "pytest", "-p", "tests.called", *tests, **{NOTES: notes})
        coverage("combine", "--quiet")
        coverage("report")
        print(uncalled(Path(notes)))
    return failed


def coverage(*arguments: str, **environment: str) -> int:
    """One command of coverage.py."""
    return subprocess.run([*COVERAGE, *arguments], env=os.environ | environment, check=False).returncode


def uncalled(notes: Path) -> str:
    """The functions that no test called, those in PL/pgSQL first: SQL is often inlined, and then not counted."""
    there = dict(line.split() for line in lines(notes, "there"))
    missing = sorted(there.keys() - lines(notes, "called"))
    report = [f"{len(there) - len(missing)} of {len(there)} functions called"]
    for language in sorted(set(there.values())):
        names = [name for name in missing if there[name] == language]
        hint = ", which may have been inlined" if language == "sql" else ""
        report += ["", f"in {language}{hint}: {len(names)} not called", *(f"  {name}" for name in names)]
    return "\n".join(report)


def lines(notes: Path, kind: str) -> set[str]:
    """What all processes of the tests have noted of a kind."""
    return {line for path in notes.glob(f"{kind}-*") for line in path.read_text().splitlines()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
