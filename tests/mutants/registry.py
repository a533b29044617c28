"""All mutants there are."""

from __future__ import annotations

from tests.mutants import patches_elections, patches_log, patches_reads, patches_storage
from tests.mutants.mutant import Mutant

MUTANTS: dict[str, Mutant] = {
    mutant.name: mutant
    for module in (patches_elections, patches_log, patches_storage, patches_reads)
    for mutant in module.MUTANTS
}

REQUIRED = frozenset((1, 2, 15, 16, 17, 18, 20, 22, 24, 25, 27, 29, 34, 36, 39, 40, 42))
"""Numbers that a mutant is demanded of."""
