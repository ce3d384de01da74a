"""requirements-dev.lock has, by hash, a version that pyproject.toml allows of all that development needs."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from generator.render import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
LOCK = (ROOT / "requirements-dev.lock").read_text("utf-8")
LOCKED = {canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", LOCK, re.M)}


def needed(extra: str) -> set[str]:
    """The requirements of an extra, with those of the extras that it names."""
    found = set(PROJECT["dependencies"])
    for text in PROJECT["optional-dependencies"][extra]:
        named = Requirement(text)
        found |= set().union(*map(needed, named.extras)) if named.name == "pg-durable" else {text}
    return found


@pytest.mark.parametrize("text", sorted(needed("dev") | needed("docs")))
def test_what_is_needed_is_locked(text: str) -> None:
    wanted = Requirement(text)
    version = LOCKED.get(canonicalize_name(wanted.name))
    assert version is not None, "make lock"
    assert wanted.specifier.contains(version, prereleases=True), "make lock"


def test_each_has_a_hash_and_no_place() -> None:
    assert all("--hash=sha256:" in entry for entry in re.split(r"\n(?=\w)", LOCK)[1:])
    assert "://" not in LOCK
