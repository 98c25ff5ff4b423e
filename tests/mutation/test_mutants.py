"""The faults of `make mutants` can all still be planted."""

from __future__ import annotations

import pytest

from .mutants import MUTANTS, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_it_changes_the_file_it_names(mutant: Mutant) -> None:
    assert mutant.before != mutant.after
    assert mutant.after in mutant.planted()
