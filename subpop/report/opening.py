"""The beginning of a report: what ran, how many numbers passed, what failed and what was skipped."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from subpop.report.figures import file_name
from subpop.report.figures.setups import is_finite, quantity, short
from subpop.report.markdown import code, escape, folded
from subpop.report.verdict import KINDS, FailedTest, Standing, counted, headline
from subpop.results.drift import LIMIT, Drift
from subpop.types import VERDICTS, CellReport, LeftOut, Verdict
from subpop.types.results import Status

PURPOSE = (
    "For auditing your own models on public data. Race and sex are annotations of a data set, and a result about them is no "
    "statement about people. Licences and known faults of each data set, and how this board is kept: docs/ethics.md."
)
MOST_LISTED, MOST_OF_A_REASON = 100, 10
TRIAL = re.compile(r"^trial \d+( \([^)]*\))?: ")
"""How the reason of a cell begins in which a trial of a defense failed."""
NOT_GATED: Final = "not_gated"
STATUSES: Mapping[Status, str] = {"fail": "failed", "error": "in error", "skipped": "skipped"}


@dataclass(frozen=True)
class RunInfo:
    """Facts about a run for its report."""

    tier: str
    """The tiers that ran."""
    command: str
    """The command that repeats the run."""
    device: str = "cpu"
    """cpu or cuda."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of packages by name."""
    commit: str = ""
    """The commit of the clone, if known."""
    part: str = ""
    """Which part of a larger run this is, as a sentence; "" for a whole one."""
    seconds: float = 0.0
    """Duration of the run."""
    started: float | str = 0.0
    """Start in seconds since the epoch, or as text."""
    hardware: str = ""
    """The processor."""
    knowledge: Mapping[str, str] = field(default_factory=dict)
    """Side information of each defense, for cells that do not record it."""
    suites: Mapping[str, str] = field(default_factory=dict)
    """Docstrings of the suites by stem."""
    standing: Standing | None = None
    """The state of the session that measured; None if a store was read and no session ran."""
    left_out: Sequence[LeftOut] = ()
    """Cells of a store that are not shown, or with numbers of another version."""
    drifts: Sequence[Drift] = ()
    """The suites that were tested as a whole."""

    @property
    def started_text(self) -> str:
        """ISO 8601 in UTC, to the second."""
        if isinstance(self.started, str):
            return self.started
        return datetime.fromtimestamp(self.started, UTC).isoformat(timespec="seconds") if self.started else ""


def opening(reports: Sequence[CellReport], run: RunInfo) -> list[str]:
    """Summarise the run: whether it passed, what ran, how many numbers passed, and the command that repeats it."""
    scope = [_names(reports, name) for name in ("dataset", "victim", "partition")]
    return [
        lead(reports, run),
        f"Data: {scope[0]}. Victims: {scope[1]}. Subpopulations: {scope[2]}. Suites: {suite_links(reports, run)}.",
        made_by(run),
        *drift_words(run.drifts),
        *left_out(run.left_out),
    ]


def lead(reports: Sequence[CellReport], run: RunInfo) -> str:
    """The first line: whether the run passed, how much ran, and how many numbers passed."""
    counts = Counter(report.status for report in reports)
    measured = [report for report in reports if report.result]
    stored = sum(bool(report.result and report.result.from_store) for report in reports)
    also = [f"{stored} from the store"] if stored else []
    also += [f"{counts[status]} {words}" for status, words in STATUSES.items() if counts[status]]
    took = f" in {duration(run.seconds)}" if run.seconds else ""
    sentence = f"The {run.tier} tier ran on {run.device}: {_cells(len(measured))} measured{took}"
    numbers = Counter(verdict.verdict for report in reports for verdict in report.verdicts)
    by_verdict = ", ".join(f"{numbers[name]:,} {name}" for name in VERDICTS if numbers[name] and name != NOT_GATED) or "none"
    by_verdict += f"; {numbers[NOT_GATED]:,} more are details without a reference" if numbers[NOT_GATED] else ""
    words = " ".join(filter(None, [headline(reports, run.standing), run.part]))
    return f"{words} {escape(sentence)}{'; ' if also else ''}{', '.join(also)}. Numbers: {by_verdict}."


def suite_links(reports: Sequence[CellReport], run: RunInfo) -> str:
    """The suites, with links to their pages once these are written, which is at the end of a run."""
    written = run.standing is None or run.standing.exit_status is not None
    stems = sorted({report.cell.stem for report in reports})
    return ", ".join(f"[{escape(stem)}]({file_name(stem)}.md)" if written else escape(stem) for stem in stems) or "none"


def drift_words(drifts: Sequence[Drift]) -> list[str]:
    """Say of which suites the stochastic numbers deviate from their references together, or how far the farthest of them does."""
    if not drifts:
        return []
    red = [f"- **{escape(str(drift))}**" for drift in drifts if drift.is_red]
    if red:
        return ["\n".join(red)]
    farthest = max(drifts, key=lambda drift: abs(drift.mean))
    return [
        f"Stochastic numbers were also compared with their references as a whole, for {len(drifts)} suites and victims: none "
        f"deviates by more than {LIMIT:g} of the tolerances on average. The farthest: {escape(str(farthest))}."
    ]


def left_out(cells: Sequence[LeftOut]) -> list[str]:
    """Say how many cells of the store a page does not show, or shows with numbers of another version, and which."""
    by_reason: dict[str, list[LeftOut]] = defaultdict(list)
    for each in cells:
        by_reason[each.reason].append(each)
    blocks = []
    for reason, of in by_reason.items():
        names = sorted(f"- {escape(each.stem)}: {code(each.cell)}" for each in of)
        blocks.append(folded(f"{counted({of[0].what: len(of)})} {reason}", "\n".join(names)))
    return blocks


def _cells(count: int) -> str:
    return f"{count} cell" if count == 1 else f"{count} cells"


def _names(reports: Iterable[CellReport], field_name: str) -> str:
    return escape(", ".join(sorted({getattr(report.cell, field_name) for report in reports}))) or "none"


def duration(seconds: float) -> str:
    """`4.2 s`, `2 min 23 s`, `3 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def made_by(run: RunInfo) -> str:
    """The command that made every number and figure of a page, and where it ran."""
    where = [run.started_text, f"commit {run.commit}" if run.commit else "", run.hardware]
    where += [f"{name} {version}" for name, version in run.versions.items()]
    place = "; ".join(escape(part) for part in where if part)
    return f"Every number and figure here is made by {code(run.command)}" + (f" ({place})." if place else ".")


def judged(report: CellReport) -> list[Verdict]:
    """The verdicts of a cell, and `no_reference` for every number that was not compared."""
    seen = {(verdict.number.metric, verdict.number.subpopulation) for verdict in report.verdicts}
    numbers = report.result.numbers if report.result else ()
    return [*report.verdicts, *(Verdict(n, "no_reference") for n in numbers if (n.metric, n.subpopulation) not in seen)]


def failing(report: CellReport) -> list[Verdict]:
    """The verdicts that make a cell fail."""
    if report.status != "fail":
        return []
    worst = [verdict for verdict in report.verdicts if verdict.verdict in ("fail", "error")]
    lacking = [verdict for verdict in report.verdicts if verdict.verdict == "no_reference"]
    return worst or [verdict for verdict in lacking if verdict.reason] or lacking


def failures(reports: Sequence[CellReport], tests: Sequence[FailedTest] = ()) -> list[str]:
    """List failures: tests, the cells in error by reason, and the numbers of other failed cells with value, reference and
    tolerance."""
    lines = [f"- {KINDS[t.kind][0]}: {code(t.test)}: {escape(short(t.reason, 400))}" for t in tests]
    reasons: dict[str, list[CellReport]] = defaultdict(list)
    for report in reports:
        if report.status == "error":
            reasons[TRIAL.sub("", report.reason)].append(report)
    for reason, alike in reasons.items():
        cells = [report.cell.id for report in alike]
        if len(cells) == 1:
            lines.append(f"- {code(cells[0])}: **error**: {escape(short(alike[0].reason, 400))}")
            continue
        lines.append(f"- {_cells(len(cells))}: **error**: {escape(short(reason, 400))}")
        lines += [f"  - {code(cell)}" for cell in cells[:MOST_OF_A_REASON]]
        left = len(cells) - MOST_OF_A_REASON
        lines += [f"  - and {_cells(left)} more: see `verdict` in results.json"] if left > 0 else []
    for report in reports:
        lines += _failed_cell(report)
    left_out = len(lines) - MOST_LISTED
    more = [f"- and {left_out} more lines: see `verdict` in results.json"] if left_out > 0 else []
    return ["## What failed", "\n".join([*lines[:MOST_LISTED], *more])] if lines else []


def _failed_cell(report: CellReport) -> list[str]:
    bad = failing(report)
    if not bad:
        return []
    name = code(report.cell.id)
    if all(verdict.verdict == "no_reference" for verdict in bad):
        metrics = short(", ".join(metric_name(verdict) for verdict in bad), 200)
        return [f"- {name}: no reference for {len(bad)} of its numbers ({escape(metrics)}); `--rebaseline` records it"]
    return [f"- {name}", *(f"  - {_failed_number(verdict)}" for verdict in bad)]


def metric_name(verdict: Verdict) -> str:
    """The metric of a number, with its subpopulation if it has one."""
    number = verdict.number
    return f"{number.metric} of {number.subpopulation}" if number.subpopulation else number.metric


def _failed_number(verdict: Verdict) -> str:
    metric, value = verdict.number.metric, verdict.number.value
    named = [("run", value), ("reference", verdict.reference), ("tolerance", verdict.atol)]
    named_values = ", ".join(f"{word} {quantity(metric, shown, 2)}" for word, shown in named)
    # With all three values, the reason would repeat them.
    reason = verdict.reason.removeprefix(f"{metric}: ")
    complete = all(is_finite(shown) for _, shown in named)
    why = "" if complete or not reason else f" ({escape(short(reason, 200))})"
    return f"**{escape(metric_name(verdict))}**: {named_values}{why}"


def skipped(reports: Sequence[CellReport]) -> list[str]:
    reasons: dict[str, list[str]] = defaultdict(list)
    for report in reports:
        if report.status == "skipped":
            reasons[report.reason].append(report.cell.stem)
    lines = [f"- {_cells(len(of))} of {escape(', '.join(sorted(set(of))))}: {escape(reason)}" for reason, of in reasons.items()]
    return ["## What was skipped", "\n".join(lines)] if lines else []
