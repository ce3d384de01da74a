"""`make mutants` takes long; that each mutant still finds its place is seen at once."""

import shutil
from pathlib import Path

import pytest

from tests.mutants import MUTANTS, ROOT, Mutant, markers, mutate


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.what)
def test_a_mutant_changes_the_engine(mutant: Mutant, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "templates", tmp_path / "templates")
    mutate(mutant, tmp_path)
    template = markers(ROOT)[mutant.what][0]
    changed = [
        path for path in (tmp_path / "templates").rglob("*.j2")
        if path.read_text() != (ROOT / "templates" / path.relative_to(tmp_path / "templates")).read_text()
    ]  # fmt: skip
    assert [path.name for path in changed] == [template.name]


def test_every_marker_has_its_mutant() -> None:
    assert sorted(markers(ROOT)) == sorted(mutant.what for mutant in MUTANTS)
    assert len(MUTANTS) >= 22


def test_markers_are_not_installed() -> None:
    assert "mutant:" not in (ROOT / "dist" / "pg_durable.sql").read_text()
