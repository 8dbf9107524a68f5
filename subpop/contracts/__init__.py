"""Public checks for anybody's defense, victim or data set, small enough for a test suite of your own.

    @pytest.mark.parametrize(("name", "check"), defense_checks())
    def test_my_defense(name, check):
        check(my_defense)

A check raises where the contract is broken and warns (ContractWarning) where something is allowed but worth a look. Defenses
are checked on generated Gaussian data with scikit-learn's logistic regression as the victim, in this process.
"""

from __future__ import annotations

from collections.abc import Callable

from subpop.contracts.checks import CheckResult, ContractError, ContractWarning, run_checks
from subpop.contracts.datasets import DATASET_CHECKS
from subpop.contracts.defenses import DEFENSE_CHECKS, DefenseCheck
from subpop.contracts.toy import gaussian
from subpop.contracts.victims import VICTIM_CHECKS
from subpop.types import Dataset, Defense, Pool, Victim

__all__ = ["CheckResult", "ContractError", "ContractWarning", "check_dataset", "check_defense", "check_victim", "defense_checks"]


def check_defense(defense: Defense) -> list[CheckResult]:
    """Run every check of a defense, whatever the others find."""
    return run_checks(defense_checks(), defense)


def check_victim(victim: Victim, pool: Pool | None = None) -> list[CheckResult]:
    """Run every check of a victim, on generated rows or on a pool of the kind of data that it takes."""
    return run_checks(VICTIM_CHECKS, (victim, pool or gaussian(220, 2, seed=7).pool))


def check_dataset(dataset: Dataset | Callable[[], Dataset]) -> list[CheckResult]:
    """Run every check of a data set; given a function that loads it, also that loading it twice gives the same."""
    return run_checks(DATASET_CHECKS, dataset if callable(dataset) else lambda: dataset)


def defense_checks() -> list[tuple[str, DefenseCheck]]:
    """(name, check) pairs for `pytest.mark.parametrize`."""
    return list(DEFENSE_CHECKS)
