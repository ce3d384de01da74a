"""The build: reproducible byte for byte, and dist/ is what it makes."""

import os
import subprocess
import sys
import tomllib

import pytest

from generator.render import ROOT, artifacts, release

HASH = (
    "import hashlib; from generator.render import artifacts; "
    "print(hashlib.sha256(repr(artifacts()).encode()).hexdigest())"
)


def build_hash(seed: str) -> str:
    """The hash of a build in a process of its own, with a hash seed of its own."""
    environment = os.environ | {"PYTHONHASHSEED": seed}
    command = [sys.executable, "-c", HASH]
    return subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout


def test_two_builds_are_the_same_byte_for_byte() -> None:
    assert build_hash("1") == build_hash("2")


@pytest.mark.parametrize("name", sorted(artifacts()))
def test_dist_is_what_the_build_makes(name: str) -> None:
    assert (ROOT / name).read_bytes() == artifacts()[name].encode()


def test_check_passes_when_dist_is_fresh() -> None:
    command = [sys.executable, "-m", "generator", "--check"]
    assert subprocess.run(command, cwd=ROOT, check=False, capture_output=True).returncode == 0


def test_the_installer_has_no_carriage_returns() -> None:
    assert "\r" not in artifacts()["dist/pg_durable.sql"]


def test_the_package_has_the_version_of_the_newest_change() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == release()[0]
