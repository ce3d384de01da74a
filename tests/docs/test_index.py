"""tests/README.md is what the folders and files of tests say of themselves, and all of them say something."""

from pathlib import Path

import pytest

from tests import index

MODULES = [path for path in sorted(index.ROOT.rglob("*.py")) if path.name != "conftest.py"]


def test_the_index_is_fresh() -> None:
    assert index.PAGE.read_text("utf-8") == index.index(), "run: make build"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(index.ROOT).as_posix())
def test_each_file_says_what_it_is_about(path: Path) -> None:
    assert index.about(path)
