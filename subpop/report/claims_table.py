"""What a run says about the paper's claims: a table of claims with measured cells, and the lines below a suite's own table."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from subpop.report.claims import CLAIMS, VERDICTS, Claim, Measured, SetupCells, is_same_setup
from subpop.report.figures.setups import NO_VALUE, Setup, headings_of, percent, plain_number, setup_of
from subpop.report.markdown import escape, folded, table
from subpop.report.paper_tables import by_value
from subpop.results.intervals import CONFIDENCE
from subpop.types import CellReport

TIERS = ("embedded", "laptop", "paper")
EXPLAINED = (
    "What this run says about each claim of the paper whose cells it measured. *agrees here* or *disagrees here*: the whole "
    f"{CONFIDENCE:.0%} interval of the quantity lies on one side of a margin that does not depend on the run "
    "(`subpop/report/claims.py`); otherwise *undecided*. *reproduced*: the published number has the same set-up. Where there are "
    "too few seeds for an interval, the standard error times Student's quantile takes its place (*noise*); a number with neither "
    "is compared as it is. Each verdict is of one comparison: among many, some are wrong by chance."
).replace("95%", "95 %")


@dataclass(frozen=True)
class Finding:
    """A claim in one set-up of a run."""

    claim: Claim
    setup: Setup
    words: str
    """At which alpha, or between which cells."""
    found: Measured
    verdict: str


def findings(reports: Iterable[CellReport], claims: Sequence[Claim] = CLAIMS) -> list[Finding]:
    """Every claim in every set-up where its cells were measured; a claim without measured cells is left out."""
    measured = [report for report in reports if report.result and not report.cell.option("n_poison_told")]
    return [
        Finding(claim, setup, words, found, claim.verdict(found, is_same_setup(own)))
        for claim in claims
        for setup, own in _setups(claim, measured).items()
        for words, found in claim.measure(SetupCells(own)).items()
    ]


def _setups(claim: Claim, reports: Iterable[CellReport]) -> dict[Setup, list[CellReport]]:
    """The reports of the claim's suites by set-up, without the settings in which the compared cells differ."""
    groups: dict[Setup, list[CellReport]] = defaultdict(list)
    for report in reports:
        if report.cell.stem in claim.suites:
            setup = setup_of(report.cell)
            setting = tuple((name, value) for name, value in setup.setting if name not in claim.across)
            groups[setup._replace(setting=setting)].append(report)
    return {setup: groups[setup] for setup in sorted(groups, key=lambda s: (s[:6], by_value(tuple(v for _, v in s.setting))))}


def claims_section(reports: Iterable[CellReport]) -> list[str]:
    """The section of the page of details: a row for each claim and tier, and the measured quantities, folded."""
    found = findings(reports)
    if not found:
        return []
    rows: dict[tuple[Claim, str], list[Finding]] = defaultdict(list)
    for each in found:
        rows[each.claim, each.setup.tier].append(each)
    order = sorted(rows, key=lambda row: (CLAIMS.index(row[0]), TIERS.index(row[1])))
    headers = ["claim", "agrees here if", "source", "test", "tier", "data", "verdict"]
    lines = [
        [
            escape(c.words),
            escape(criterion(c)),
            escape(c.source),
            escape(_tests(c)),
            tier,
            _data(rows[c, tier]),
            _summary(rows[c, tier]),
        ]
        for c, tier in order
    ]
    return ["## Claims of the paper", EXPLAINED, table(headers, lines, left=len(headers)), _details(found)]


def criterion(claim: Claim) -> str:
    """`worst-5 target damage ... is above 1.0 %`."""
    low, high = (_quantity(claim, end) for end in (claim.above, claim.below))
    if math.isfinite(claim.above) and math.isfinite(claim.below):
        return f"{claim.quantity} is between {low} and {high}"
    return f"{claim.quantity} is {f'above {low}' if math.isfinite(claim.above) else f'below {high}'}"


def _tests(claim: Claim) -> str:
    """The tests that assert it, each with its suites."""
    suites: dict[str, list[str]] = defaultdict(list)
    for suite, _, test in (each.partition("::") for each in claim.tests):
        suites[test].append(suite)
    return "; ".join(f"{'reported' if test == 'test_cell' else test} in {', '.join(own)}" for test, own in suites.items())


def _data(found: Sequence[Finding]) -> str:
    return escape(", ".join(sorted({each.setup.dataset for each in found})))


def _summary(found: Sequence[Finding]) -> str:
    """`**agrees here** (5 comparisons)`, or how many comparisons have each verdict."""
    counts = Counter(each.verdict for each in found)
    if len(counts) == 1:
        return f"**{found[0].verdict}** ({len(found)} comparison{'s' if len(found) > 1 else ''})"
    return ", ".join(f"{word} in {counts[word]}" for word in VERDICTS if counts[word]) + f" of {len(found)}"


def _details(found: Sequence[Finding]) -> str:
    blocks = []
    for claim in dict.fromkeys(each.claim for each in found):
        own = [each for each in found if each.claim == claim]
        headings = headings_of(dict.fromkeys(each.setup for each in own))
        lines = [
            [
                escape(f"{each.setup.stem}: {headings[each.setup]}"),
                each.setup.tier,
                escape(each.words),
                _measured(each),
                each.verdict,
            ]
            for each in own
        ]
        why = f"{claim.why[:1].upper()}{claim.why[1:]}."
        blocks.append(f"**{escape(claim.words)}** Agrees if {escape(criterion(claim))}. {escape(why)}")
        blocks.append(table(["suite and set-up", "tier", "compared", "measured", "verdict"], lines, left=3))
    return folded("The measured quantity of each claim and set-up, and why its margin is what it is", "\n\n".join(blocks))


def _measured(each: Finding) -> str:
    """`5.0 % (-1.0 % to 11.0 %)`, `5.0 % (noise: -9.0 % to 19.0 %)`, or only the value if it has no error."""
    found, value = each.found, _quantity(each.claim, each.found.value)
    if not math.isfinite(found.low):
        return f"{value} (noise unknown, or nothing was damaged)"
    if found.low == found.high:
        return value
    noise = "" if found.is_interval else "noise: "
    return f"{value} ({noise}{_quantity(each.claim, found.low)} to {_quantity(each.claim, found.high)})"


def _quantity(claim: Claim, value: float) -> str:
    if not math.isfinite(value):
        return NO_VALUE
    return f"{percent(value)} %" if claim.percent else plain_number(value)


def claim_lines(reports: Sequence[CellReport]) -> list[str]:
    """The claims about the cells of one table, a line for each, for the blocks below the table."""
    found = findings(reports)
    headings = headings_of(dict.fromkeys(each.setup for each in found))
    lines: dict[Claim, list[str]] = defaultdict(list)
    for each in found:
        where = ", ".join(filter(None, [_settings(headings[each.setup]), each.words]))
        lines[each.claim].append(f"{escape(where)}: **{each.verdict}**, {_measured(each)}")
    items = [f"- {escape(claim.words)}\n" + "\n".join(f"  - {line}" for line in own) for claim, own in lines.items()]
    return (
        ["Claims of the paper (95 % interval of each comparison, or an allowance for noise):", "\n".join(items)] if items else []
    )


def _settings(heading: str) -> str:
    """The settings in brackets at the end of a heading; data and victim are in the title of the table."""
    return heading[heading.index(" (") + 2 : -1] if heading.endswith(")") else ""
