"""Contract checks for your own defenses, victims and data sets, small enough for your own test suite.

    @pytest.mark.parametrize(("name", "check"), defense_checks())
    def test_my_defense(name, check):
        check(my_defense)

A check raises ContractError if the contract is violated, and warns (ContractWarning) about something that is allowed but
unusual. Defenses are checked on generated Gaussian data with scikit-learn's logistic regression as the victim, in this process.
"""

from __future__ import annotations

from collections.abc import Callable

from subpop.testing.attacks import ATTACK_CHECKS, Attack
from subpop.testing.checks import CheckResult, ContractError, ContractWarning, run_checks
from subpop.testing.datasets import DATASET_CHECKS, Loads
from subpop.testing.defenses import DEFENSE_CHECKS, DefenseCheck
from subpop.testing.toy import Toy, gaussian
from subpop.testing.victims import VICTIM_CHECKS
from subpop.types import Dataset, Defense, Pool, Victim

__all__ = [
    "CheckResult",
    "ContractError",
    "ContractWarning",
    "Toy",
    "check_attack",
    "check_dataset",
    "check_defense",
    "check_victim",
    "defense_checks",
    "gaussian",
]


def check_defense(defense: Defense) -> list[CheckResult]:
    """Run all checks of a defense.

    Parameters
    ----------
    defense
        The function to check.

    Returns
    -------
    list of CheckResult
        One result per check. Nothing is raised: a violated contract is a result with the status `failed`.

    Examples
    --------
    >>> from subpop import Defended
    >>> from subpop.testing import check_defense
    >>> def returns_nothing(train, fit, know, *, seed):
    ...     fit(train)
    >>> results = check_defense(returns_nothing)
    >>> results[0].name, results[0].status
    ('returns_defended', 'failed')
    """
    return run_checks(defense_checks(), defense)


def check_attack(attack: Attack) -> list[CheckResult]:
    """Run all checks of an attack of your own.

    Parameters
    ----------
    attack
        A function (sample, count, *, seed); see `AttackSample`.

    Returns
    -------
    list of CheckResult
        One result per check. Nothing is raised.

    Examples
    --------
    >>> import numpy as np
    >>> from subpop.testing import check_attack
    >>> def flips_too_few(sample, count, *, seed):
    ...     return sample.members[:1], 1 - sample.y[sample.members[:1]]
    >>> check_attack(flips_too_few)[0].message
    'its rows are int64 of shape (1,); return 24 whole numbers, of shape (24,)'
    """
    return run_checks(ATTACK_CHECKS, attack)


def check_victim(victim: Victim, pool: Pool | None = None) -> list[CheckResult]:
    """Run all checks of a victim.

    Parameters
    ----------
    victim
        The victim to check. The estimator inside one of `SklearnVictim` is checked too.
    pool
        Rows of the kind of data that the victim trains on; None for generated Gaussian rows.

    Returns
    -------
    list of CheckResult
        One result per check. Nothing is raised.

    Examples
    --------
    >>> from sklearn.naive_bayes import GaussianNB
    >>> from subpop import SklearnVictim
    >>> from subpop.testing import check_victim
    >>> [result.name for result in check_victim(SklearnVictim(GaussianNB(), n_jobs=1)) if not result.passed]
    []
    """
    return run_checks(VICTIM_CHECKS, (victim, pool or gaussian(220, 2, seed=7).pool))


def check_dataset(dataset: Dataset | Callable[[], Dataset]) -> list[CheckResult]:
    """Run all checks of a data set.

    Parameters
    ----------
    dataset
        The data set, or a function that loads it, which is called twice to compare the results.

    Returns
    -------
    list of CheckResult
        One result per check. Nothing is raised.

    Examples
    --------
    >>> from subpop import load_dataset
    >>> from subpop.testing import check_dataset
    >>> all(result.passed for result in check_dataset(load_dataset("mixture_2d")))
    True
    """
    return run_checks(DATASET_CHECKS, Loads(dataset if callable(dataset) else lambda: dataset))


def defense_checks() -> list[tuple[str, DefenseCheck]]:
    """Return the checks of a defense, for `pytest.mark.parametrize`.

    Returns
    -------
    list of tuple
        Pairs (name, check); `check(defense)` raises ContractError or BadInput if the contract is violated.

    Examples
    --------
    >>> from subpop.testing import defense_checks
    >>> defense_checks()[0][0]
    'returns_defended'
    """
    return list(DEFENSE_CHECKS)
