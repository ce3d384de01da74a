"""`make mutants` takes long; that each mutant still finds its text is seen at once."""

import pytest

from tests.mutants import MUTANTS, ROOT, Mutant, mutation


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.what)
def test_a_mutant_changes_the_engine(mutant: Mutant) -> None:
    template = ROOT / "templates" / f"{mutant.template}.sql.j2"
    assert mutation(mutant, ROOT) != template.read_text()
