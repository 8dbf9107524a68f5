"""The page of details: every set-up with its defenses and attacks, the claims and tables of the paper, speed, terms."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping, Sequence

import pandas as pd

from subpop.report.board_table import board_table
from subpop.report.claims_table import claims_section
from subpop.report.figures import Picture, file_name
from subpop.report.figures.setups import (
    CONTROLS,
    MATCHED,
    MATCHED_MEANING,
    NO_VALUE,
    Row,
    RowKind,
    Setup,
    by_setup,
    headings_of,
    headline,
    metric_words,
    percent,
    rates_of,
    rows_of,
    short,
    summarize,
)
from subpop.report.intervals import NONE_BELOW, interval_words
from subpop.report.leaderboard import integrity_of, leaderboards
from subpop.report.leftovers import LAST_LINE
from subpop.report.markdown import escape, picture, table
from subpop.report.opening import RunInfo, failures, opening, skipped
from subpop.results.intervals import ESTIMANDS, ROWS, SEEDS
from subpop.results.metric_registry import HEADLINES, metric_of
from subpop.results.paired import (
    BETTER,
    EQUIVALENT,
    HURT,
    UNDECIDED,
    WORSE,
    Difference,
    Judged,
    damages_by_seed,
    judge,
    paired_difference,
)
from subpop.types import CellReport, CellResult
from subpop.types.kinds import by_kind, kind_of

RULE = (
    f"Against none: `{BETTER}` or `{WORSE}` than no defense, or `{EQUIVALENT}`, by the paired difference of target damages "
    f"(percentage points, averaged over alpha) over the subpopulations that lose {100 * HURT:g} or more undefended under other "
    f"seeds; at most 5 % of tables have any wrong verdict. Everything else is `{UNDECIDED}`."
)
KINDS: Mapping[RowKind, str] = {
    "defense": "",
    "own": "*own learners*",
    "control": "*controls*",
    "variant": "*given a wrong poison count*",
    "tuned": "*tuned*",
}
LEGEND = {
    "D, D_aux, D_test": "the victim's training set; the attacker's auxiliary set; the test set. They are disjoint",
    "subpopulation": "rows with the same annotated features (feature_match) or of the same k-means cluster (cluster_match)",
    "alpha": "poison rows / rows of the subpopulation in D_aux; 0 is the clean control",
    "target damage": "undefended clean minus (defended) poisoned accuracy on the subpopulation's test rows; lower is better",
    "cost + effect": "its two parts: undefended clean minus defended clean accuracy, and defended clean minus defended poisoned. "
    "Defenses are not ranked by the effect alone: a constant classifier has none",
    "worst-k": "mean of the k largest target damages, ranked for each alpha, over subpopulations with at least 20 test rows",
    "collateral damage": "the same accuracy lost on all other test rows; the largest over subpopulations",
    "recall / precision": "fraction of the flipped poison that a filter removed / fraction of flipped poison in the removed rows",
    "keep not checked": "the returned model was not trained by `fit` on exactly the rows in `keep`, so the mask is not scored",
    "worst-k, lower estimate": "the worst k are chosen on half of the seeds and test rows and read on the other half. It is not "
    "inflated by choosing the largest estimates, but lower than the true worst-k, since a half chooses less well: for a true "
    "worst-1 of 40.0 % it reads 34.0 % and worst-1 reads 47.0 % in a simulation",
    "±": f"half the width of a 95 % interval. Of damages it contains {ESTIMANDS[ROWS]}; of other numbers it contains "
    f"{ESTIMANDS[SEEDS]}, unless the page of the suite says otherwise. {NONE_BELOW}",
    "sd": "sample deviation over splits: how far one split lies from the mean, not an interval",
    "settings": "`name=value` after the attack: options of the cells that differ from their defaults; "
    "`help(subpop.types.specifications)` describes them",
    "knowledge": "side information of the defense beyond its training rows. Whoever knows the public size of D can "
    "count the poison rows in their training set; they do not know which these are",
    "integrity": "for plug-ins: whether probes found a known way to cheat; the pages of the suites list the probes that ran",
    "own learners": "defenses whose model was not trained by `fit`: ranked separately, because they replace the victim instead "
    "of repairing it; their accuracy on clean data is shown next to the victim's",
    "seconds": "total of all cells of the row; `stored`: read from the store, as recorded when they were computed",
    "pass, fail": "within the tolerance of the stored reference, or not",
    "no_power": "the smallest change that would be noticed is above 5 points, or above half of the damage at alpha 1",
    "no_reference": "there is no reference: the cell fails, except for plug-in defenses",
    "not_gated": "a detail, which is shown and not compared with a reference",
    "not_compared": "the run only looked (`--no-references`)",
    "published_only": "a published number from a different set-up is shown; informational, not gated",
    "skipped, error": "data or network weights are missing; the cell could not be measured, for the reason given",
}


def details(reports: Sequence[CellReport], run: RunInfo, pictures: Sequence[Picture] = ()) -> str:
    """The page as markdown."""
    failed = run.standing.also_failed if run.standing else ()
    setups = _setups_with_damages(reports)
    boards = {setup: own for setup, own in setups.items() if _has_defenses(own)}
    controls = {r.cell.defense.partition(":")[0] for r in reports}
    blocks = [
        "# Details",
        *opening(reports, run),
        *failures(reports, failed),
        *skipped(reports),
        *_leaderboards(reports),
        *_boards(boards, run, pictures),
        *attacks_section(reports),
        *claims_section(reports),
        *_papers(reports, pictures, run),
        *_speed(reports),
        *_legend(controls),
        LAST_LINE,
    ]
    return "\n\n".join(blocks) + "\n"


def _leaderboards(reports: Sequence[CellReport]) -> list[str]:
    """Every board with all of its rows, and controls."""
    boards = [(board.title, board_table(board)) for board in leaderboards(reports)]
    return [block for title, blocks in boards for block in (f"## Leaderboard of the {escape(title)}", *blocks)]


def _setups_with_damages(reports: Sequence[CellReport]) -> dict[Setup, list[CellReport]]:
    """The set-ups that are listed: without suites that measure no damage, such as the two worlds, unless nothing of them could
    be measured."""
    measured = [report for report in reports if kind_of(report.cell).on_scoreboard]
    groups = {s: of_setup for s, of_setup in by_setup(measured).items() if any(r.status != "skipped" for r in of_setup)}
    return {s: own for s, own in groups.items() if summarize(own, headline(own)) or not any(r.result for r in own)}


def _has_defenses(reports: Sequence[CellReport]) -> bool:
    return any(report.cell.defense not in ("none", "retrain") for report in reports)


# --- boards: defenses against an attack -------------------------------------------------------------------------------


def _boards(setups: Mapping[Setup, list[CellReport]], run: RunInfo, pictures: Sequence[Picture]) -> list[str]:
    if not setups:
        return []
    blocks = ["## Defenses", "Sorted by target damage, averaged over alpha: the first row of a table is the best defense."]
    blocks += [RULE]
    last = {(setup.stem, setup.tier, setup.dataset): setup for setup in setups}
    headings = headings_of(setups)
    for setup, reports in setups.items():
        blocks += [f"### {escape(headings[setup])}", *_board(setup, reports, run)]
        place = (setup.stem, setup.tier, setup.dataset)
        if last[place] == setup:
            shown = [p for p in pictures if (p.stem, p.tier, p.dataset) == place and not p.kind.startswith("collateral")]
            blocks += [picture(p.name, p.alt, p.caption, run.command) for p in shown]
    return blocks


def _board(setup: Setup, reports: Sequence[CellReport], run: RunInfo) -> list[str]:
    rows, rates, metric = rows_of(reports), rates_of(reports), headline(reports)
    alphas = [f"alpha {rate:g}" for rate in rates]
    names = [escape(row.name) + _own_accuracy(row) for row in rows]
    probed = any(integrity_of(_results(row)) for row in rows)
    judged = against_none(rows)
    damages = [
        [
            n,
            *(_damage(r, rate, metric) for rate in rates),
            *([_verdict(judged.get(r.name))] if judged else []),
            _knowledge(r, run),
            *_integrity(r, probed),
            _seconds(r),
        ]
        for n, r in zip(names, rows, strict=True)
    ]
    headers = [
        "defense",
        *alphas,
        *(["against none"] if judged else []),
        "knowledge",
        *(["integrity"] if probed else []),
        "seconds",
    ]
    others = [[n, *(_others(r, rate) for rate in rates)] for n, r in zip(names, rows, strict=True)]
    blocks = [
        f"[{escape(setup.stem)}]({file_name(setup.stem)}.md); {escape(setup.details)}; {sizes(reports)}. "
        f"{metric_words(metric)} in %, {spread_words(reports)} (defense cost + attack effect):",
        table(headers, _grouped(rows, damages)),
        *_intervals(reports, metric),
    ]
    if any(cell != NO_VALUE for row in others for cell in row[1:]):
        blocks += ["Largest collateral damage in %, then recall / precision of the filter in %:"]
        blocks += [table(["defense", *alphas], _grouped(rows, others))]
    missing = [r for r in reports if r.result is None]
    reasons = [f"- {escape(r.cell.defense)}, alpha {r.cell.rate:g}: {r.status}: {escape(short(r.reason, 200))}" for r in missing]
    return [*blocks, "\n".join(reasons)] if reasons else blocks


def against_none(rows: Sequence[Row]) -> dict[str, Judged]:
    """The verdicts on the rows of a set-up against its row `none`, by name; empty if nothing can be compared.

    `retrain` is not attacked, and has none. Tuned settings have none either, so that they do not count in the correction for the
    number of defenses.
    `sorted(judged, key=lambda name: judged[name].rank)` has the best defense first.
    """
    control = next((row for row in rows if row.name == "none"), None)
    if control is None or not any(len(damages_by_seed(r.result)) for each in control.cells.values() for r in each if r.result):
        return {}
    undefended = {rate: _damages(control, rate) for rate in control.cells}
    compared = [row for row in rows if row.defense not in ("none", "retrain") and row.kind != "tuned"]
    return judge({row.name: _difference(row, control, undefended) for row in compared})


def _difference(row: Row, control: Row, undefended: Mapping[float, pd.DataFrame]) -> Difference:
    """Compare damages averaged over the alphas that both rows have; alpha 0 is no attack."""
    shared = [
        (ours, theirs)
        for rate in row.cells
        if rate > 0 and len(ours := _damages(row, rate)) and len(theirs := undefended.get(rate, ()))
    ]
    if not shared:
        return Difference(reason="no alpha in common")
    ours, theirs = (_mean(each) for each in zip(*shared, strict=True))
    results = [*_results(row), *_results(control)]
    return paired_difference(ours, theirs, theirs, exact=all(result.exact for result in results))


def _mean(damages: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The mean of damages, of the subpopulations and seeds that all of them have."""
    if len(damages) == 1:
        return damages[0]
    found = functools.reduce(operator.add, damages) / len(damages)
    return found.dropna(axis=1, how="all").dropna() if found.isna().to_numpy().any() else found


def _damages(row: Row, rate: float) -> pd.DataFrame:
    """The damages of all splits, without seeds that a split lacks."""
    found = [damages_by_seed(report.result) for report in row.cells.get(rate, ()) if report.result]
    return found[0] if len(found) == 1 else pd.concat(found, join="inner") if found else pd.DataFrame()


def _verdict(judged: Judged | None) -> str:
    """`better (-12.3)`, or `undecided` with the reason."""
    if judged is None:
        return ""
    found = judged.difference
    return f"{judged.verdict}: {found.reason}" if found.reason else f"{judged.verdict} ({100 * found.value:+.1f})"


def sizes(reports: Sequence[CellReport]) -> str:
    """The numbers of subpopulations, seeds and splits of a set-up."""
    counts = sorted({report.result.n_subpopulations for report in reports if report.result})
    subpopulations = "–".join(str(count) for count in sorted({counts[0], counts[-1]})) if counts else "0"
    splits = len({report.cell.option("split", "0") for report in reports})
    seeds = max((report.cell.n_seeds for report in reports), default=0)
    counted = [(subpopulations, "subpopulation"), (str(seeds), "seed"), (str(splits), "split")]
    return ", ".join(f"{count} {word}{'s' if count != '1' else ''}" for count, word in counted)


def spread_words(reports: Sequence[CellReport]) -> str:
    splits = len({report.cell.option("split", "0") for report in reports})
    return (
        f"mean over {splits} splits, sd: sample deviation of a split" if splits > 1 else "± half of an interval where it has one"
    )


def _intervals(reports: Sequence[CellReport], metric: str) -> list[str]:
    """What the ± of a board means, or why it has none; over several splits the heading says it."""
    several = len({report.cell.option("split") for report in reports}) > 1
    return [] if several else [words for words in [interval_words(reports, [metric])] if words]


def _grouped(rows: Sequence[Row], cells: Sequence[list[str]]) -> list[list[str]]:
    """Sort rows into groups with headings: defenses, controls, then defenses given a wrong poison count."""
    table_rows: list[list[str]] = []
    for kind, title in KINDS.items():
        members = [line for row, line in zip(rows, cells, strict=True) if row.kind == kind]
        if members and title:
            table_rows.append([title, *[""] * (len(members[0]) - 1)])
        table_rows += members
    return table_rows


def _damage(row: Row, rate: float, metric: str) -> str:
    """`45.2 ± 1.3 (0.4 + 44.8)`, over splits `45.2, sd 1.3 (0.4 + 44.8)`, or the status of cells without numbers."""
    reports = row.cells.get(rate, ())
    found = summarize(reports, metric)
    if found is None:
        return next((report.status for report in reports if report.result is None), NO_VALUE)
    parts = [percent(part.value) for name in metric_of(metric).parts if (part := summarize(reports, name))]
    split_up = f" ({' + '.join(parts)})" if len(parts) > 1 else ""
    some = f" [{found.n_splits} of {len(reports)} splits]" if found.n_splits < len(reports) else ""
    return percent(found.value) + found.spread_text.format(percent(found.spread)) + split_up + some


def _others(row: Row, rate: float) -> str:
    reports = row.cells.get(rate, ())
    names = ("collateral_damage_max", "poison_recall", "poison_precision")
    collateral, recall, precision = (summarize(reports, name) for name in names)
    if collateral is None:
        return NO_VALUE
    filtered = f"; {percent(recall.value)} / {percent(precision.value if precision else None)}" if recall else ""
    unchecked = any(report.result and report.result.n_keep_unchecked for report in reports)
    return percent(collateral.value) + ("; keep not checked" if unchecked else filtered)


def _knowledge(row: Row, run: RunInfo) -> str:
    known = {result.knowledge for result in _results(row)}
    known = {words for words in known if words} or {run.knowledge.get(row.defense, "")}
    return escape(", ".join(sorted(known))) or "nothing"


def _results(row: Row) -> list[CellResult]:
    return [report.result for of_rate in row.cells.values() for report in of_rate if report.result]


def _integrity(row: Row, probed: bool) -> list[str]:
    return [escape(short(integrity_of(_results(row)), 400)) or NO_VALUE] if probed else []


def _own_accuracy(row: Row) -> str:
    """For an own learner, return its clean accuracy next to the undefended victim's, because it replaces that victim."""
    if row.kind != "own":
        return ""
    reports = [report for of_rate in row.cells.values() for report in of_rate]
    own, victim = (summarize(reports, metric) for metric in ("defended_clean_accuracy", "clean_accuracy"))
    return f" (clean: {percent(own.value)}, the victim {percent(victim.value)})" if own and victim else ""


def _seconds(row: Row) -> str:
    results = _results(row)
    if not results:
        return NO_VALUE
    total = sum(result.seconds for result in results)
    declared = max((result.max_fits or 0 for result in results), default=0)
    limit = f"; declares up to {declared:,} fits per trial" if declared else ""
    return f"{total:.1f}" + (" stored" if all(result.from_store for result in results) else "") + limit


# --- attacks without a defense, and speed -----------------------------------------------------------------------------


def attacks_section(reports: Sequence[CellReport]) -> list[str]:
    """The set-ups without a defense, as one table."""
    setups = {setup: own for setup, own in _setups_with_damages(reports).items() if not _has_defenses(own)}
    if not setups:
        return []
    rates = rates_of(report for own in setups.values() for report in own)
    lines = []
    for setup, own in setups.items():
        rows = {row.defense: row for row in rows_of(own)}
        metric = headline(own)
        undefended = rows.get("none")
        cells = [_damage(undefended, rate, metric).partition(" (")[0] if undefended else NO_VALUE for rate in rates]
        floor = rows.get("retrain")
        noise = _damage(floor, min(floor.cells), metric).partition(" (")[0] if floor else NO_VALUE
        worst = summarize(undefended.cells[max(undefended.cells)], "collateral_damage_max") if undefended else None
        collateral = percent(worst.value) if worst else NO_VALUE
        setting = f" ({'; '.join(f'{name}={value}' for name, value in setup.setting)})" if setup.setting else ""
        other = "" if metric == HEADLINES[0] else f": {metric_words(metric).lower()}"
        lines.append([escape(setup.title + setting + other), *cells, noise, collateral])
    words = (
        "Worst-5 target damage in %, ± and sd as explained below. Noise floor: the value from retraining alone. "
        "Collateral: the largest collateral damage in %, at the largest alpha."
    )
    headers = ["set-up", *(f"alpha {rate:g}" for rate in rates), "noise floor", "collateral"]
    return ["## Attacks without a defense", words, table(headers, lines)]


def _papers(reports: Sequence[CellReport], pictures: Sequence[Picture], run: RunInfo) -> list[str]:
    """Tables of the paper in its layout, and the pictures of its Figure 3."""
    blocks = []
    for stem in sorted({report.cell.stem for report in reports}):
        kinds = by_kind(report for report in reports if report.cell.stem == stem)
        tables = [block for kind, own in kinds.items() for block in kind.tables(own)]
        blocks += [f"### [{escape(stem)}]({file_name(stem)}.md)", *tables] if tables else []
    blocks += [picture(p.name, p.alt, p.caption, run.command) for p in pictures if p.kind.startswith(("clusters", "holdout"))]
    return ["## Tables and figures of the paper", *blocks] if blocks else []


def _speed(reports: Sequence[CellReport]) -> list[str]:
    lines = [line for kind, own in by_kind(reports).items() for line in kind.speedups(own)]
    words = "Seconds one at a time / seconds in batches, medians of one run; higher is faster."
    introduction = f"{words} {interval_words(reports, ['speed_ratio'])}".strip()
    return ["## Speed", introduction, table(["comparison", "speed-up", "reference", "verdict"], lines)] if lines else []


def _legend(defenses: set[str]) -> list[str]:
    meanings = {**CONTROLS, MATCHED: MATCHED_MEANING}
    controls = [f"- **{escape(name)}**: {words}" for name, words in meanings.items() if name in defenses]
    words = [f"- **{escape(word)}**: {meaning}" for word, meaning in LEGEND.items()]
    blocks = ["## Controls", "\n".join(controls)] if controls else []
    return [*blocks, "## Terms", "\n".join(words)]
