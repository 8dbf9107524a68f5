"""Checks, their results, and running a list of them."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from subpop.harness.batching import DefenseError
from subpop.types import BadInput
from subpop.types.printable import described, printable, said_by


class ContractError(AssertionError):
    """A defense, victim or data set violates its contract.

    Examples
    --------
    >>> from subpop import Defended
    >>> from subpop.testing import ContractError, defense_checks
    >>> def counts_its_calls(train, fit, know, *, seed, calls=[]):
    ...     calls.append(seed)
    ...     keep = train.ids >= len(calls)
    ...     return Defended(fit(train[keep]), keep)
    >>> try:
    ...     dict(defense_checks())["same_seed_same_answer"](counts_its_calls)
    ... except ContractError as error:
    ...     print(str(error)[:44])
    two calls with the same data and seed differ
    """


class ContractWarning(UserWarning):
    """Something that is allowed but unusual, such as a slow defense."""


CheckStatus = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class CheckResult:
    """The result of one check.

    Examples
    --------
    >>> from subpop.testing import CheckResult
    >>> print(CheckResult("is_fast", "warning", "2.1 s for 528 rows"))
    warning is_fast: 2.1 s for 528 rows
    """

    name: str
    """Name of the check."""
    status: CheckStatus
    """`ok`, `warning` or `failed`."""
    message: str = ""
    """What was found; of a check that is `ok`, often nothing."""
    seconds: float = 0.0
    """Duration of the check."""

    @property
    def passed(self) -> bool:
        """Whether the status is not `failed`; a check with a warning has passed."""
        return self.status != "failed"

    def __str__(self) -> str:
        return f"{self.status:8}{self.name}" + (f": {self.message}" if self.message else "")


Check = Callable[[Any], str | None]
"""Raises ContractError or BadInput, warns, or returns what is worth saying of a subject that passes."""


def run_checks(checks: Sequence[tuple[str, Check]], subject: Any) -> list[CheckResult]:
    return [_run_one(name, check, subject) for name, check in checks]


def _run_one(name: str, check: Check, subject: Any) -> CheckResult:
    started = time.perf_counter()
    status: CheckStatus = "ok"
    message = ""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", ContractWarning)
        try:
            message = check(subject) or ""
        except DefenseError as error:  # without the number of the trial: a check has only one
            status, message = "failed", "\n".join(filter(None, [error.reason, error.details.rstrip()]))
        except Exception as error:
            status, message = "failed", said_by(error) if isinstance(error, ContractError | BadInput) else described(error)
    if status == "ok" and caught:
        status, message = "warning", printable("; ".join(str(warning.message) for warning in caught))
    return CheckResult(name, status, message, time.perf_counter() - started)


def require(holds: bool | np.bool_, message: str) -> None:
    if not holds:
        raise ContractError(message)
