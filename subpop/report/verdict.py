"""The state of a session: what was planned, what failed, whether it was completed. The headline of every page follows from
it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from subpop.results.drift import Drift
from subpop.types import CellReport

KINDS = {
    "cell": ("cell", "cells"),
    "claim": ("claim", "claims"),
    "assertion": ("assertion after a measured cell", "assertions after measured cells"),
    "test": ("test", "tests"),
    "setup": ("set-up of a test", "set-ups of tests"),
    "teardown": ("teardown of a test", "teardowns of tests"),
    "collection": ("module that could not be collected", "modules that could not be collected"),
    "internal": ("internal error", "internal errors"),
    "drift": ("suite whose numbers have drifted together", "suites whose numbers have drifted together"),
}
"""Kinds of failures, in singular and plural. `cell`: its numbers failed, which the report lists separately."""

MEASURED = "measured"
NEW, PARTLY_NEW = "new", "partly new"
"""Outcomes of cells that fail only because none, or not all, of their numbers have references."""
COMPARED = ("pass", "no_power", "fail")
"""Statuses of cells of which at least one number was compared with a reference, or lacked one that it must have."""
WITHOUT_REFERENCES = ("published_only", "no_reference", "not_gated")
"""Statuses of cells of which no number was compared, because there is nothing to compare it with."""
INTERRUPT, SIGTERM, EXIT, NO_STORE = "interrupt", "SIGTERM", "pytest.exit", "a store that takes nothing any longer"
"""Reasons for which a session can end before its last test."""


@dataclass(frozen=True)
class FailedTest:
    """A test that failed, or an error of pytest. kind: one of KINDS; test: its node id."""

    kind: str
    test: str
    reason: str = ""


def failed_suite(drift: Drift) -> FailedTest:
    """The failure of a suite whose numbers deviate from their references together."""
    return FailedTest("drift", f"benchmarks/test_{drift.stem}.py", str(drift))


@dataclass(frozen=True)
class Standing:
    """planned: cells to be measured; exit_status: pytest's, None while the session runs; stopped: the reason if it ended
    early."""

    planned: int
    exit_status: int | None = None
    failed: tuple[FailedTest, ...] = ()
    stopped: str = ""
    rebaselined: bool = False
    claims: int = 0
    """Number of claims that passed."""
    planned_of: Mapping[str, int] = field(default_factory=dict)
    """Planned cells of each suite, by stem."""
    left: str = ""
    """What a session left because of `--budget`, or which parts of a store are missing; "" if nothing is."""

    @property
    def also_failed(self) -> tuple[FailedTest, ...]:
        """Failures other than those of cells."""
        return tuple(failed for failed in self.failed if failed.kind != "cell")

    def of_suite(self, stem: str, reports: Sequence[CellReport]) -> Standing:
        """The standing of one suite, whose reports these are. It may have passed in a session that failed."""
        planned = self.planned_of.get(stem, len(reports))
        own = tuple(failed for failed in self.failed if failed.test.partition("::")[0].endswith(f"test_{stem}.py"))
        early = len(reports) < planned
        red = early or bool(own) or any(report.status in ("fail", "error") for report in reports)
        status = self.exit_status if red or self.exit_status is None else 0
        stopped, left = (self.stopped, self.left) if early else ("", "")
        return replace(self, planned=planned, failed=own, stopped=stopped, left=left, exit_status=status)

    def is_complete(self, reports: Sequence[CellReport]) -> bool:
        """Return whether the session ended normally and every planned cell has a report, including `skipped` and `error`."""
        return self.exit_status in (0, 1) and not self.stopped and len(reports) >= self.planned


def headline(reports: Sequence[CellReport], standing: Standing | None) -> str:
    """The bold headline of a page: whether this run passed and, if not, why. standing: None if a store was read."""
    now = standing or Standing(len(reports), 0)
    measured = sum(report.result is not None for report in reports)
    failed = _failures(reports, now)
    if now.exit_status is None:
        return _joined(f"**Unfinished: {_of(measured, now)} measured.**", failed and f"Failed so far: {failed}.")
    if now.stopped:
        by = f" by {now.stopped}" if now.stopped != INTERRUPT else ""
        return _joined(f"**Interrupted{by}: {_of(measured, now)} measured.**", failed and f"**Failed: {failed}.**")
    early = f"; {now.left}" if now.left else "" if len(reports) >= now.planned else f"; stopped after {_of(measured, now)}"
    if now.left and not now.exit_status:
        return _joined(f"**Unfinished: {_of(measured, now)} measured; {now.left}.**", failed and f"**Failed: {failed}.**")
    if now.rebaselined:
        lead = "**References were rewritten**, so this run does not pass: review the changes and run again without --rebaseline."
        other = counted(Counter(failed.kind for failed in now.also_failed))
        return _joined(f"**Failed: {other}{early}.**" if other or early else "", lead)
    if failed:
        return f"**Failed: {failed}{early}.**"
    if not measured and (now.planned or not now.claims):
        return "**Nothing was measured**, so this run does not pass."
    if now.exit_status:
        return f"**Failed: pytest ended with exit status {now.exit_status}{early}.**"
    if not now.planned and now.claims:
        return f"**Passed: {counted({'claim': now.claims})}, and no cell was compared with a reference.**"
    if measured and not is_compared(reports):
        return f"**Not compared{early}: {_why_not_compared(reports, measured)}.**"
    return f"**Passed{early}.**"


def is_red(reports: Sequence[CellReport], standing: Standing | None) -> bool:
    """Whether the headline says anything but that the run passed, or that it compared nothing."""
    return not headline(reports, standing).startswith(("**Passed", "**Not compared"))


def is_compared(reports: Sequence[CellReport]) -> bool:
    """Whether a number of these cells was compared with a reference."""
    return any(report.status in COMPARED for report in reports)


def _why_not_compared(reports: Sequence[CellReport], measured: int) -> str:
    statuses = {report.status for report in reports}
    if "not_compared" in statuses:
        return "numbers were measured and compared with no reference"
    if "no_reference" in statuses:
        return f"{cells_that(measured, MEASURED)}, and there are no references for your own code and data"
    return f"{cells_that(measured, MEASURED)}, none with a number that is compared with a reference"


def so_far(reports: Sequence[CellReport], standing: Standing | None) -> str:
    """How a sentence about the cells begins: `In 40 of 180 cells measured so far: `, or with nothing if none is missing."""
    if standing is None or len(reports) >= standing.planned:
        return ""
    return f"In {_of(sum(report.result is not None for report in reports), standing)} measured so far: "


def _failures(reports: Sequence[CellReport], now: Standing) -> str:
    """`2 cells of 66, 1 claim`."""
    bad = 0 if now.rebaselined else sum(report.status in ("fail", "error") for report in reports)
    cells = f"{counted({'cell': bad})} of {max(now.planned, len(reports))}" if bad else ""
    others = counted(Counter(failed.kind for failed in now.also_failed))
    return ", ".join(filter(None, [cells, others]))


def n_cells(n: int) -> str:
    """`1 cell`, `1,204 cells`."""
    return f"{n:,} {'cell' if n == 1 else 'cells'}"


def outcome(report: CellReport) -> str:
    """The status of a cell, and in its place NEW or PARTLY_NEW if it fails only because references are missing."""
    verdicts = {verdict.verdict for verdict in report.verdicts}
    if report.status != "fail" or not verdicts or "fail" in verdicts:
        return report.status
    return PARTLY_NEW if verdicts & {*COMPARED} else NEW


def cells_that(n: int, status: str) -> str:
    """`1 cell passes`, `3 cells have no reference`."""
    one, many = {
        "pass": ("passes", "pass"),
        "no_power": ("passes with tolerances too wide to notice a change", "pass with tolerances too wide to notice a change"),
        "fail": ("fails", "fail"),
        "error": ("raised an error", "raised errors"),
        "skipped": ("was skipped", "were skipped"),
        MEASURED: ("was measured", "were measured"),
        NEW: ("fails only for lack of references", "fail only for lack of references"),
        PARTLY_NEW: ("fails only for lack of some references", "fail only for lack of some references"),
        "no_reference": ("has no reference", "have no reference"),
        "published_only": ("has published numbers only", "have published numbers only"),
        "not_gated": ("has no number that is compared", "have no number that is compared"),
        "not_compared": ("was measured and not compared", "were measured and not compared"),
    }.get(status, (status, status))
    return f"{n_cells(n)} {one if n == 1 else many}"


def counted(counts: dict[str, int]) -> str:
    """`1 claim, 2 tests`."""
    return ", ".join(f"{counts[kind]} {words[counts[kind] > 1]}" for kind, words in KINDS.items() if counts.get(kind))


def _of(measured: int, now: Standing) -> str:
    return f"{measured} of {counted({'cell': now.planned}) or '0 cells'}"


def _joined(*sentences: str) -> str:
    return " ".join(filter(None, sentences))
