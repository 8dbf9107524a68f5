"""Findings of probes, the significance levels of flags, and the text of the `integrity` column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

LEVELS = {
    "label canaries: training": 2e-4,
    "label canaries: answers": 2e-4,
    "membership": 1e-4,
    "moved test rows: one step": 1e-4,
    "moved test rows: half way": 1e-4,
    "secret poison": 1e-4,
    "secret mixture: score": 5e-5,
    "secret mixture: accuracy": 5e-5,
    "secret view": 1e-4,
}
"""The significance of each test. They add up to 1 in 1,000, so an honest defense has at most one flag in 1,000 cells.

Replaying a trial is no test: the same code on the same data either gives the same bytes or does not.
"""

Status = Literal["passed", "flag", "not run", "varies"]
PASSED: Final = "passed"
FLAG: Final = "flag"
NOT_RUN: Final = "not run"
VARIES: Final = "varies"
CLEAN, UNCHECKED, DECLARED = "no known cheat found", "unchecked", "nondeterministic (declared)"
NO_TIME = "its time was used up"
"""Why a probe was not run, unless there is another reason."""
BUILT_IN = ""
"""The column of built-in defenses and controls, whose code is the project's own."""


@dataclass(frozen=True)
class Finding:
    """The result of one probe of a cell."""

    probe: str
    """Name of the probe."""
    status: Status
    """How the probe ended."""
    words: str = ""
    """What was found, or why the probe was not run."""
    p_value: float | None = None
    """The p value of the test; None without a test."""
    claim: str = ""
    """What a flag accuses the defense of."""
    secret: str = ""
    """The secret from which the probe drew its numbers, in hexadecimal digits."""


def tested(probe: str, p_value: float, claim: str, figures: str) -> Finding:
    """The finding of a one-sided test: a flag if its p value is below the level of the probe."""
    return Finding(probe, FLAG if p_value < LEVELS[probe] else PASSED, f"{figures}, p = {p_value:.1g}", p_value, claim)


def not_run(probe: str, why: str) -> Finding:
    """Return the finding of a probe that could not be run."""
    return Finding(probe, NOT_RUN, why)


def column(findings: Sequence[Finding], deterministic: bool = True) -> str:
    """Return the text of the `integrity` column: the flags, otherwise what is known about the defense."""
    flags = list(dict.fromkeys(finding.claim for finding in findings if finding.status == FLAG))
    if deterministic and any(finding.status == VARIES for finding in findings):
        flags.append("two identical replays differ; declare it with `deterministic = False`")
    if flags:
        return "flag: " + "; ".join(flags)
    if not deterministic:
        return DECLARED
    return CLEAN if any(finding.status == PASSED for finding in findings) else UNCHECKED


def details(findings: Sequence[Finding]) -> str:
    """One line for reports: which probes passed, which flagged and which were not run, and why."""
    return "; ".join(f"{f.probe}: {f.status}" + (f" ({f.words})" if f.words else "") for f in findings)
