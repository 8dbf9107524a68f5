"""The leaderboard of a run as typed rows: which defense is left with how much damage, how sure that is, and what it costs.

A board belongs to one tier. If the suite `scoreboard` was measured, its cells are the board's; otherwise the board takes the
cells that the most defenses of the other suites have in common. Cells of the suite `scoreboard` whose victims are stochastic
have a board of their own, because other defenses can run there. All of them have one alpha, the one nearest to 1. A defense that
lacks a cell, because it failed there or was not measured, is described on its other cells, and comes after the ranked ones
without a rank; one that failed wherever it ran is only named.

Defenses are ranked by the mean target damage of the subpopulations with at least 20 test rows. Each subpopulation of each split
of a data set has the same weight, and each data set. Intervals of damages and ranks come from a bootstrap that draws
subpopulations, which keep their rows in all splits, and independently of them splits and, of stochastic victims, seeds. All
defenses share the draws. One draw less than there are members makes the variance of a draw that of the mean, and the deviations
are widened from the normal distribution to Student's t with the degrees of freedom of the smallest data set.

The verdict on a defense against none is `subpop.results.paired`'s: one difference for each data set over the subpopulations
that lose 0.1 or more undefended, their mean, and a correction for the number of defenses. With fewer than five splits, damages
are averaged over them before, and the verdict is about these splits. A subpopulation of one split then counts as much as one of
several, so that the difference is not that of two mean damages.

Tuned settings of the suite `scoreboard` are a number in the row of their defense, and nothing else on the board depends on them.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from subpop.report.figures.setups import CONTROLS, MATCHED, aggregates, is_control, is_finite, is_tuned_cell
from subpop.results.intervals import CONFIDENCE, FEWEST_VALUES
from subpop.results.metrics import Doubles, eligible
from subpop.results.paired import BY_SEED, HURT, Difference, Judged, damages_by_seed, judge, paired_difference
from subpop.types import Array, Cell, CellReport, CellResult, Setting
from subpop.types.kinds import kind_of

NONE = "none"
N_DRAWS = 2000
LONG = 60.0
"""Seconds that each undefended cell must have taken for times to be compared: in shorter ones, compilation and the start of
processes count as much as training."""
NOTHING, COUNT, HOLDOUT, GROUPS, POISON = "nothing", "count", "holdout", "group labels", "the poison"
KNOWLEDGE = {POISON: ("poison_mask",), GROUPS: ("groups", "group_labels"), HOLDOUT: ("clean_holdout",), COUNT: ("n_poison",)}
"""What a defender may know beyond the training rows, the most first, and the words that say so in `CellResult.knowledge`."""
LEVELS = {
    NOTHING: "no side information",
    COUNT: "knows the poison count",
    HOLDOUT: "has clean rows",
    GROUPS: "knows the groups",
    POISON: "knows the poison",
}
"""The groups of a board, in their order, with their headings."""


class Context(NamedTuple):
    """What the defenses of a board are compared on: the cell without its defense and the defense's own settings."""

    stem: str
    dataset: str
    victim: str
    partition: str
    attack: str
    setting: Setting
    rate: float
    split: str


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; low and high are None where there is none."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Rank:
    """A place on the board; defenses with equal damages share the first of their places."""

    value: int
    low: int | None = None
    high: int | None = None


@dataclass(frozen=True)
class Payer:
    """The subpopulation that loses most accuracy because of a defense when nobody attacks."""

    dataset: str
    subpopulation: str
    cost: float


@dataclass(frozen=True)
class Entry:
    """One defense on a board. Fractions are between 0 and 1; None: not measured, or not applicable."""

    defense: str
    knowledge: str
    """One of LEVELS."""
    damage: Estimate
    """Mean target damage."""
    by_dataset: Mapping[str, float]
    """The same for each data set."""
    rank: Rank | None = None
    """None for no defense and other controls, and for a defense that lacks cells."""
    judged: Judged | None = None
    """The paired verdict on the difference from no defense; None for no defense itself."""
    worst: float | None = None
    """Mean of the largest target damage of each cell."""
    hurt_share: float | None = None
    """The share of subpopulations with a damage of HURT or more."""
    collateral: float | None = None
    """The largest collateral damage of any attack."""
    clean_cost: float | None = None
    """Clean accuracy given up: the undefended clean victim's less the defended one's."""
    payer: Payer | None = None
    recall: float | None = None
    """Of a filter: the share of flipped rows that it removes, on the cells where its matched random filter was measured too."""
    matched_recall: float | None = None
    """The same of its matched random filter, which removes as many rows of each class."""
    removed_share: float | None = None
    certified: Mapping[str, float] | None = None
    """The mean certified damage by the name of the certificate; None without a certificate."""
    fits: float | None = None
    """Trained victims for each attacked trial."""
    seconds: float | None = None
    """Seconds of an attacked trial, relative to no defense; None if its cells took less than LONG."""
    integrity: str = ""
    """Of a plug-in: what its probes found; empty for built-in defenses."""
    own_learner: bool = False
    """Whether it replaces the victim: its model was not trained by `fit`."""
    n_missing: int = 0
    """The number of the board's cells that it lacks. All its numbers are about the others."""
    n_failed: int = 0
    """The number of these in which it failed."""
    undefended: float | None = None
    """Of a defense that lacks cells: the mean target damage without a defense on its own ones."""
    tuned: Estimate | None = None
    """The mean target damage with settings that were chosen on development data; None if they are those of this row."""
    tuned_as: str = ""
    """The defense with these settings."""

    @property
    def is_control(self) -> bool:
        """Whether it is no defense, or another control, which has no rank."""
        return is_control(self.defense)


@dataclass(frozen=True)
class Leaderboard:
    """The defenses of one tier, compared on the same cells."""

    tier: str
    stems: tuple[str, ...]
    """The suites of the cells."""
    contexts: tuple[Context, ...]
    entries: tuple[Entry, ...]
    """Ranked defenses, the best first, then those that lack cells."""
    controls: tuple[Entry, ...]
    """No defense first, then the others by damage."""
    stochastic: bool = False
    """Whether it is the tier's second board, of stochastic victims."""
    failed: Mapping[str, int] = field(default_factory=dict)
    """The defenses without any measured cell that failed: in how many cells."""

    @property
    def title(self) -> str:
        """`embedded tier`, or `embedded tier, conv_net`."""
        return f"{self.tier} tier" + (f", {', '.join(self.victims)}" if self.stochastic else "")

    @property
    def file_name(self) -> str:
        """The name of its figure and its data, without a suffix."""
        return f"leaderboard-{self.tier}" + ("-stochastic" if self.stochastic else "")

    @property
    def undefended(self) -> Entry:
        """No defense."""
        return self.controls[0]

    def undefended_damage(self, entry: Entry) -> float:
        """The mean target damage without a defense on the cells of a row."""
        return self.undefended.damage.value if entry.undefended is None else entry.undefended

    @property
    def rate(self) -> float:
        """The alpha of all cells."""
        return self.contexts[0].rate

    @cached_property
    def datasets(self) -> tuple[str, ...]:
        """The data sets, in the order of the alphabet."""
        return tuple(sorted({context.dataset for context in self.contexts}))

    @cached_property
    def victims(self) -> tuple[str, ...]:
        """The victims, in the order of the alphabet."""
        return tuple(sorted({context.victim for context in self.contexts}))

    @cached_property
    def levels(self) -> dict[str, tuple[Entry, ...]]:
        """The ranked defenses by what they know, the best first; levels without a defense are left out."""
        by_level = {level: tuple(entry for entry in self.entries if entry.knowledge == level) for level in LEVELS}
        return {level: entries for level, entries in by_level.items() if entries}


def leaderboards(reports: Iterable[CellReport]) -> tuple[Leaderboard, ...]:
    """Return the boards of each tier on which a defense was compared with none, or failed, in the order of the alphabet.

    Parameters
    ----------
    reports
        The cells of a run, of any suite.

    Returns
    -------
    tuple of Leaderboard
        One board for each tier, and one for its stochastic victims; none if no defense ran where no defense at all was measured.
    """
    given = tuple(reports)
    if sorted(map(id, given)) != sorted(map(id, _LAST[0])):  # several pages of one report ask for the same boards, in any order
        _LAST[:] = [given, _leaderboards(given)]
    boards: tuple[Leaderboard, ...] = _LAST[1]
    return boards


_LAST: list[Any] = [(), ()]
"""The reports that boards were made of last, and those boards."""


def _leaderboards(reports: Sequence[CellReport]) -> tuple[Leaderboard, ...]:
    shown = [
        report
        for report in reports
        if kind_of(report.cell).on_scoreboard and report.cell.rate > 0 and not report.cell.option("n_poison_told")
    ]
    made_for_boards = [report.cell for report in shown if kind_of(report.cell).is_board]
    exact = {report.cell.victim for report in shown if report.result and report.result.exact}
    with_exact = {cell.tier for cell in made_for_boards if cell.victim in exact}
    second = {cell for cell in made_for_boards if cell.victim not in exact and cell.tier in with_exact}
    boards: dict[tuple[str, bool], list[CellReport]] = defaultdict(list)
    for report in shown:
        boards[report.cell.tier, report.cell in second].append(report)
    found = [_board(*key, sorted(own, key=lambda report: report.cell)) for key, own in sorted(boards.items())]
    return tuple(board for board in found if board)


def level_of(knowledge: str) -> str:
    """The level of a `CellResult.knowledge`, one of LEVELS. What follows from the public size of D counts as nothing."""
    words = set(knowledge.replace(",", " ").split())
    return next((level for level, names in KNOWLEDGE.items() if words & set(names)), NOTHING)


# --- the cells of a board ---------------------------------------------------------------------------------------------


Cells = Mapping[Context, Mapping[str, CellReport]]
"""The reports of each context, by defense."""


def context_of(cell: Cell) -> Context:
    """What a cell has in common with those of other defenses on its board."""
    own = cell.setting_of(*(each for each in cell.specifications if each is not cell.defender))
    setting = tuple((name, value) for name, value in own if name != "split")
    return Context(
        cell.stem, cell.dataset, cell.victim, cell.partition, cell.attack, setting, cell.rate, cell.option("split", "0")
    )


def _by_context(reports: Iterable[CellReport]) -> dict[Context, dict[str, CellReport]]:
    cells: dict[Context, dict[str, CellReport]] = defaultdict(dict)
    for report in sorted(reports, key=lambda each: (each.result is None, bool(each.cell.setting_of(each.cell.defender)))):
        cells[context_of(report.cell)].setdefault(report.cell.defense, report)  # measured ones, and those without settings, first
    return cells


def _board(tier: str, stochastic: bool, reports: Sequence[CellReport]) -> Leaderboard | None:
    cells = _by_context(report for report in reports if not is_tuned_cell(report.cell))
    chosen = _chosen({context: _comparable(own) for context, own in cells.items() if _damages(own.get(NONE)) is not None})
    if not chosen:
        return None
    of = {name: _measured(chosen, name) for name in sorted({n for own in chosen.values() for n in own if not is_control(n)})}
    failures = Counter(name for own in chosen.values() for name, report in own.items() if report.status == "error")
    defenses = [name for name, own in of.items() if len(own) == len(chosen)]
    lacking = {name: _Table(own, [NONE, name]) for name, own in of.items() if 0 < len(own) < len(chosen)}
    failed = {name: failures[name] for name, own in of.items() if not own and failures[name]}
    if not (defenses or lacking or failed):
        return None
    known_controls = [name for name in CONTROLS if name not in (NONE, "retrain")]
    controls = [name for name in known_controls if all(_damages(own.get(name)) is not None for own in chosen.values())]
    table = _Table(chosen, [NONE, *defenses, *controls])
    for each in lacking.values():
        each.exact &= table.exact
    tables = {**dict.fromkeys(table.names, table), **lacking}
    judged = judge({name: each.difference(name) for name, each in tables.items() if name != NONE})
    ranks = table.ranks(defenses)
    tuned = _tuned(chosen, _by_context(report for report in reports if is_tuned_cell(report.cell)), table.exact)
    entries = [_entry(name, chosen, each, judged.get(name), ranks.get(name)) for name, each in tables.items()]
    entries = [
        replace(entry, n_failed=failures[entry.defense], **tuned.get(entry.defense.partition("(")[0], {})) for entry in entries
    ]
    by_damage = sorted(entries, key=lambda entry: (entry.defense in lacking, round(entry.damage.value, 12), entry.defense))
    of_controls = sorted((entry for entry in by_damage if entry.is_control), key=lambda entry: entry.defense != NONE)
    stems = tuple(sorted({context.stem for context in chosen}))
    ranked = tuple(entry for entry in by_damage if not entry.is_control)
    return Leaderboard(tier, stems, tuple(sorted(chosen)), ranked, tuple(of_controls), stochastic, failed)


def _measured(cells: Cells, name: str) -> Cells:
    """The contexts in which a defense was measured."""
    return {context: own for context, own in cells.items() if _damages(own.get(name)) is not None}


def _comparable(own: Mapping[str, CellReport]) -> dict[str, CellReport]:
    """The cells of a context without those that lack the damages by seed that no defense has: records of earlier versions."""
    known = {name for name, report in own.items() if report.result is None or BY_SEED in report.result.arrays}
    return {name: report for name, report in own.items() if name in known or NONE not in known}


def _tuned(chosen: Cells, tuned: Cells, exact: bool) -> dict[str, dict[str, Any]]:
    """What an entry says of its tuned settings, by the defense's name without settings.

    These have a table of their own, so that no rank, verdict or interval of the board depends on whether they were measured.
    exact: whether the board's own table is, so that both intervals of a row contain the same kinds of variation.
    """
    cells = {context: {NONE: own[NONE], **tuned.get(context, {})} for context, own in chosen.items()}
    names = sorted({name for own in cells.values() for name in own} - {NONE})
    table = _Table(cells, [NONE, *names])
    table.exact &= exact
    return {name.partition("(")[0]: {"tuned": table.estimate(name), "tuned_as": name} for name in names}


def _chosen(cells: Cells) -> Cells:
    """The cells of the suite `scoreboard`, or else those that the most defenses have in common, at one alpha."""
    own = {context: each for context, each in cells.items() if any(kind_of(report.cell).is_board for report in each.values())}
    rates = {context.rate for context, each in (own or cells).items() if any(not is_control(name) for name in each)}
    if not rates:
        return {}
    rate = min(rates, key=lambda rate: (abs(math.log(rate)), rate))
    found = {context: each for context, each in (own or cells).items() if context.rate == rate}
    if own:
        return found
    defenses = {context: frozenset(name for name in each if not is_control(name)) for context, each in found.items()}
    counts = {common: sum(common <= other for other in defenses.values()) for common in set(defenses.values())}
    best = max(counts, key=lambda common: (len(common) * counts[common], len(common), sorted(common)))
    return {
        context: {name: report for name, report in each.items() if is_control(name) or name in best}
        for context, each in found.items()
        if best <= defenses[context]
    }


def _damages(report: CellReport | None) -> pd.DataFrame | None:
    """Target damages: rows (split, partition and subpopulation), columns seeds; None for a cell without any.

    A cell that is known by its aggregates only, such as one of the baselines, has one row.
    """
    if report is None or report.result is None:
        return None
    cell, found = report.cell, damages_by_seed(report.result)
    if not len(found):
        mean = next((number.value for number in aggregates(report) if number.metric == "target_damage_mean"), None)
        index = pd.MultiIndex.from_tuples([(cell.option("split", "0"), "")], names=["split", "subpopulation"])
        return None if mean is None else pd.DataFrame([[mean]], index)
    names = [(split, f"{cell.partition} {name}") for split, name in found.index]
    return found.set_axis(pd.MultiIndex.from_tuples(names, names=found.index.names))


class _Table:
    """The damages of all rows of a board, by data set: one column for each of `names`, the first of which is no defense."""

    def __init__(self, cells: Cells, names: Sequence[str]) -> None:
        self.names = list(names)
        self.exact = all(report.result.exact for own in cells.values() for report in own.values() if report.result)
        self._of: dict[str, dict[str, pd.DataFrame]] = {}
        for dataset in sorted({context.dataset for context in cells}):
            own = [each for context, each in cells.items() if context.dataset == dataset]
            plain = self._frame(own, NONE)
            frames = {name: self._frame(own, name).reindex(index=plain.index, columns=plain.columns) for name in names}
            self._of[dataset] = {name: frame.fillna(plain) for name, frame in frames.items()}

    @staticmethod
    def _frame(of_contexts: Sequence[Mapping[str, CellReport]], name: str) -> pd.DataFrame:
        """The damages of a defense, averaged over the contexts that have the same subpopulations of the same split."""
        found = []
        for own in of_contexts:
            plain, damages = _damages(own[NONE]), _damages(own.get(name))
            assert plain is not None
            found.append(plain if damages is None else damages)
        frame = pd.concat(found, join="inner")
        return frame.groupby(level=[0, 1], sort=True).mean()

    def mean(self, name: str) -> dict[str, float]:
        """The mean damage of a defense on each data set."""
        return {dataset: float(of[name].to_numpy().mean()) for dataset, of in self._of.items()}

    def hurt_share(self, name: str) -> float:
        """The share of subpopulations and splits with a mean damage of HURT or more."""
        shares = [(of[name].mean(axis=1) >= HURT - 1e-12).mean() for of in self._of.values()]
        return float(np.mean(shares))

    def difference(self, name: str) -> Difference:
        """The paired difference from no defense, with equal weight for each data set on which there is one."""
        found = []
        for of in self._of.values():
            ours, theirs = (over_splits(of[each]) for each in (name, NONE))
            found.append(paired_difference(ours, theirs, theirs, exact=self.exact))
        return mean_difference(found)

    @cached_property
    def _drawn(self) -> Doubles | None:
        """(N_DRAWS, n_names) mean damages of resampled subpopulations, splits and seeds, less their means; None if too few."""
        generator = np.random.default_rng(0)
        total, fewest = np.zeros((N_DRAWS, len(self.names))), math.inf
        for of in self._of.values():
            splits, groups = (pd.factorize(of[NONE].index.get_level_values(level))[0] for level in (0, 1))
            n_groups = groups.max() + 1
            if n_groups < FEWEST_VALUES:
                return None
            fewest = min(fewest, n_groups)
            weights = (_draws(generator, groups) * _draws(generator, splits))[:, :, None]
            values = np.stack([of[name].to_numpy(float) for name in self.names], axis=-1)  # (S, n_seeds, n_names)
            seeds = np.arange(values.shape[1])
            of_seeds = np.ones((1, len(seeds))) if self.exact else _draws(generator, seeds)
            weights = weights * of_seeds[:, None, :]
            with np.errstate(invalid="ignore"):  # a draw without any row is 0 / 0, and counts as the mean
                drawn = np.einsum("bsn,snd->bd", weights, values) / weights.sum(axis=(1, 2))[:, None]
            total += np.nan_to_num(drawn - values.mean(axis=(0, 1)))
        return total / len(self._of) * _widening(fewest - 1)

    def estimate(self, name: str) -> Estimate:
        """The mean damage with its interval."""
        value = float(np.mean(list(self.mean(name).values())))
        if self._drawn is None:
            return Estimate(value)
        low, high = np.percentile(value + self._drawn[:, self.names.index(name)], _TAILS)
        return Estimate(value, float(low), float(high))

    def ranks(self, defenses: Sequence[str]) -> dict[str, Rank]:
        """The places of these defenses among each other. Damages that differ by rounding only are equal."""
        if not defenses:
            return {}
        values = np.array([np.mean(list(self.mean(name).values())) for name in defenses])
        places = pd.Series(values.round(12)).rank(method="min")
        if self._drawn is None:
            return {name: Rank(int(place)) for name, place in zip(defenses, places, strict=True)}
        drawn = (values + self._drawn[:, [self.names.index(name) for name in defenses]]).round(12)
        first, last = (pd.DataFrame(drawn).rank(axis=1, method=method).to_numpy() for method in ("min", "max"))
        low = np.percentile(first, _TAILS[0], axis=0, method="lower")
        high = np.percentile(last, _TAILS[1], axis=0, method="higher")
        return {name: Rank(int(places[i]), int(low[i]), int(high[i])) for i, name in enumerate(defenses)}


def over_splits(damages: pd.DataFrame) -> pd.DataFrame:
    """Damages averaged over the splits of each subpopulation, if the splits are too few to say how much splits vary.

    The verdict is then about subpopulations like these on these splits, as it is with a single split. The variance over two or
    three splits has so few degrees of freedom that it would leave everything undecided.
    """
    splits = damages.index.get_level_values(0)
    if splits.nunique() >= FEWEST_VALUES:
        return damages
    found = damages.groupby(level=1, sort=True).mean()
    return found.set_axis(pd.MultiIndex.from_product([["all"], found.index], names=damages.index.names))


_TAILS = (50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE))


def _draws(generator: np.random.Generator, codes: Array) -> Doubles:
    """(N_DRAWS, len(codes)) how often the member of each code is drawn: one draw less than there are members."""
    n = int(codes.max()) + 1
    weights = generator.multinomial(max(n - 1, 1), np.full(n, 1 / n), size=N_DRAWS)
    return np.asarray(weights[:, codes], float)


def _widening(freedom: float) -> float:
    """The quantile of Student's t over that of the normal distribution."""
    from scipy.special import ndtri, stdtrit

    upper = (1 + CONFIDENCE) / 2
    return float(stdtrit(freedom, upper) / ndtri(upper))


def mean_difference(differences: Sequence[Difference]) -> Difference:
    """The mean of independent differences, each with the same weight; those that could not be judged are left out.

    The degrees of freedom are Satterthwaite's.
    """
    found = [each for each in differences if not each.reason]
    if not found:
        return differences[0]
    variances = [each.std_error**2 for each in found]
    total = sum(variances)
    rest = sum(variance**2 / each.freedom for variance, each in zip(variances, found, strict=True))
    freedom = total**2 / rest if rest else min(each.freedom for each in found)
    value = float(np.mean([each.value for each in found]))
    return Difference(value, math.sqrt(total) / len(found), freedom, sum(each.n_groups for each in found))


# --- one row ----------------------------------------------------------------------------------------------------------


def _entry(name: str, cells: Cells, table: _Table, judged: Judged | None, rank: Rank | None) -> Entry:
    own = {context: each[name] for context, each in _measured(cells, name).items()}
    results = [report.result for report in own.values() if report.result]
    plain = {context: each[NONE] for context, each in cells.items()}
    matched = {context: each[f"{MATCHED}:{name}"] for context, each in cells.items() if f"{MATCHED}:{name}" in each}
    compared = {context: report for context, report in own.items() if context in matched} or own
    levels = Counter(level_of(result.knowledge) for result in results)
    known = max(levels, key=lambda level: list(LEVELS).index(level)) if levels else NOTHING
    n_missing = len(cells) - len(own)
    undefended = {context: plain[context] for context in own}
    is_long = all(report.result and report.result.seconds >= LONG for report in undefended.values())
    relative = _ratio(_mean(own, "seconds_a_trial"), _mean(undefended, "seconds_a_trial")) if is_long else None
    return Entry(
        name,
        NOTHING if name == NONE else known,
        table.estimate(name),
        table.mean(name),
        rank,
        judged,
        _mean(own, "target_damage_worst_1"),
        table.hurt_share(name) if any(len(damages_by_seed(result)) for result in results) else None,
        _largest(own, "collateral_damage_max"),
        _difference(_mean(own, "clean_accuracy"), _mean(own, "defended_clean_accuracy")),
        _payer(results) if name != NONE else None,
        _mean(compared, "poison_recall"),
        _mean({context: report for context, report in matched.items() if context in own}, "poison_recall"),
        _mean(compared, "removed_share"),
        _certified(own),
        _mean(own, "fits_a_trial"),
        relative,
        integrity_of(results),
        any(result.n_own_learner for result in results),
        n_missing,
        undefended=table.estimate(NONE).value if n_missing else None,
    )


FLAG, UNCHECKED, PASSED, NO_TIME = "flag", "unchecked", ": passed", "its time was used up"


def integrity_of(results: Sequence[CellResult]) -> str:
    """Summarise the probes of a plug-in over its cells: a flag, or what is known and of how many cells; '' for built-in ones."""
    found = [result.integrity for result in results if result.integrity]
    flags = [words for words in found if words.startswith(FLAG)]
    if flags:
        words = "; ".join(dict.fromkeys(part for flag in flags for part in flag.removeprefix(f"{FLAG}: ").split("; ")))
        return f"{FLAG} in {len(flags)} of {len(found)} cells: {words}"
    probed = [each.integrity for each in results if each.integrity not in ("", UNCHECKED) and PASSED in (each.probes or PASSED)]
    words = f"{len(probed)} of {len(found)} cells probed: {probed[0]}" if probed and len(found) > 1 else "".join(found[:1])
    late = "; the time for probes was used up" if any(NO_TIME in result.probes for result in results) else ""
    return words + late


def _values(reports: Mapping[Context, CellReport], metric: str) -> dict[str, list[float]]:
    """The values of a metric by data set."""
    values: dict[str, list[float]] = defaultdict(list)
    for context, report in reports.items():
        values[context.dataset] += [number.value for number in aggregates(report) if number.metric == metric]
    return {dataset: found for dataset, found in values.items() if found}


def _mean(reports: Mapping[Context, CellReport], metric: str) -> float | None:
    """The mean of a metric, with the same weight for each data set; None where no cell has it."""
    values = _values(reports, metric)
    return float(np.mean([np.mean(found) for found in values.values()])) if values else None


def _largest(reports: Mapping[Context, CellReport], metric: str) -> float | None:
    return max((value for found in _values(reports, metric).values() for value in found), default=None)


def _difference(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _ratio(one: float | None, other: float | None) -> float | None:
    return None if one is None or not other else one / other


def _payer(results: Sequence[CellResult]) -> Payer | None:
    """The subpopulation with the largest cost; None if no subpopulation loses anything."""
    rows = [
        Payer(result.cell.dataset, str(row["subpopulation"]), float(row["defense_cost"]))
        for result in results
        for row in result.table
        if is_finite(row.get("defense_cost")) and eligible(float(row["n_test"]))
    ]
    most = max(rows, key=lambda row: (row.cost, row.dataset, row.subpopulation), default=None)
    return most if most and most.cost > 0 else None


def _certified(reports: Mapping[Context, CellReport]) -> Mapping[str, float] | None:
    """The mean certified damages by the name of their certificate."""
    prefix = "certified_damage_mean"
    metrics = sorted({n.metric for report in reports.values() for n in aggregates(report) if n.metric.startswith(prefix)})
    found = {metric.removeprefix(prefix).removeprefix(":"): _mean(reports, metric) for metric in metrics}
    return {name: value for name, value in found.items() if value is not None} or None
