"""What a check is, what it finds, and how a list of them is run."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from subpop.printable import described, printable, said_by
from subpop.types import BadInput


class ContractError(AssertionError):
    """A part does not keep its contract."""


class ContractWarning(UserWarning):
    """Allowed, but worth a look."""


@dataclass(frozen=True)
class CheckResult:
    """One check. status: `ok`, `warning` or `failed`; a warning passes."""

    name: str
    status: str
    message: str = ""
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        return self.status != "failed"

    def __str__(self) -> str:
        return f"{self.status:8}{self.name}" + (f": {self.message}" if self.message else "")


def run_checks(checks: Sequence[tuple[str, Callable[[Any], None]]], subject: Any) -> list[CheckResult]:
    return [_run_one(name, check, subject) for name, check in checks]


def _run_one(name: str, check: Callable[[Any], None], subject: Any) -> CheckResult:
    started = time.perf_counter()
    status, message = "ok", ""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", ContractWarning)
        try:
            check(subject)
        except Exception as error:
            status, message = "failed", said_by(error) if isinstance(error, ContractError | BadInput) else described(error)
    if status == "ok" and caught:
        status, message = "warning", printable("; ".join(str(warning.message) for warning in caught))
    return CheckResult(name, status, message, time.perf_counter() - started)


def require(holds: bool | np.bool_, message: str) -> None:
    if not holds:
        raise ContractError(message)
