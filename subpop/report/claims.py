"""The claims of the paper and its released notebooks, one entry each, and the verdict of a run on them. None is asserted here.

The margin of each claim follows from the paper's own words or numbers, from what one flipped test row changes, or is the bound
that a suite's test asserts; none is chosen by the numbers of a run. `why` gives the argument.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean

from scipy.special import ndtri, stdtrit

from subpop.results.intervals import CONFIDENCE
from subpop.results.references import SAME_SETUP
from subpop.types import CellReport, CellResult, Number

AGREES, DISAGREES, UNDECIDED = "agrees here", "disagrees here", "undecided"
REPRODUCED = "reproduced"
"""Instead of AGREES where the published number has the same set-up (`same set-up` in the column `certainty`)."""
VERDICTS = (REPRODUCED, AGREES, DISAGREES, UNDECIDED)
ONE_ROW = 0.01
"""What one test row is worth in worst-5: a ranked subpopulation has at least 20 test rows, so that it is at most 1 / (5 * 20)."""


# --- measured quantities ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """A quantity with the ends of its 95 % interval, or of an allowance for noise, or itself as both ends if it has neither."""

    value: float
    low: float
    high: float
    is_interval: bool = True
    """False for an allowance: the numbers have no interval, for example because there are fewer than 5 seeds."""

    def __sub__(self, other: Measured) -> Measured:
        """Treat the two as independent, which is conservative where they share test rows and poison draws."""
        value = self.value - other.value
        down = math.hypot(self.value - self.low, other.high - other.value)
        up = math.hypot(self.high - self.value, other.value - other.low)
        return Measured(value, value - down, value + up, self.is_interval and other.is_interval)

    def times(self, factor: float) -> Measured:
        """The quantity multiplied by a positive factor."""
        return Measured(factor * self.value, factor * self.low, factor * self.high, self.is_interval)

    @classmethod
    def mean(cls, found: Sequence[Measured]) -> Measured:
        """The mean of several. Its interval is not narrower than theirs, since splits and alphas share rows."""
        value, low, high = (fmean(getattr(each, name) for each in found) for name in ("value", "low", "high"))
        return cls(value, low, high, all(each.is_interval for each in found))


@dataclass(frozen=True)
class SetupCells:
    """The measured cells of one set-up, which differ in alpha, defense and split, and in what the claim compares."""

    reports: Sequence[CellReport]

    @property
    def rates(self) -> list[float]:
        """The alphas of actual attacks, in ascending order."""
        return sorted({report.cell.rate for report in self.reports if report.cell.rate})

    def options(self, name: str) -> list[str]:
        """The values of a setting of the cells, sorted as text, which is also the order of fractions below 1."""
        return sorted({report.cell.option(name) for report in self.reports} - {""})

    def of(self, metric: str, rate: float | None = None, defense: str = "", **settings: str) -> Measured | None:
        """A metric of the cells with this alpha, defense and settings, averaged over splits; None if one of them lacks it."""
        chosen = [
            report
            for report in self.reports
            if rate in (None, report.cell.rate)
            and defense in ("", report.cell.defense)
            and all(report.cell.option(name) == value for name, value in settings.items())
        ]
        found = [_measured(report.result, metric) for report in chosen if report.result]
        known = [each for each in found if each is not None]
        return Measured.mean(known) if known and len(known) == len(found) else None


def _measured(result: CellResult, metric: str) -> Measured | None:
    for number in result.numbers:
        if number.metric == metric and not number.subpopulation and math.isfinite(number.value):
            half = _allowance(number, result) if number.half_width is None else number.half_width
            return Measured(number.value, number.value - half, number.value + half, number.half_width is not None)
    return None


def _allowance(number: Number, result: CellResult) -> float:
    """For a number without an interval: its standard error, or the deviation over seeds, times Student's quantile of its seeds.

    0 for a number of an exact victim that has no interval in principle. Infinite if the noise is unknown.
    """
    n_seeds = result.cell.n_seeds
    error = number.std_error
    if error is None and number.std is not None:
        error = number.std / math.sqrt(n_seeds)
    if error is None:
        return 0.0 if result.exact and not number.varies else math.inf
    if n_seeds > 1:
        return float(stdtrit(n_seeds - 1, (1 + CONFIDENCE) / 2)) * error
    return float(ndtri((1 + CONFIDENCE) / 2)) * error if result.exact else math.inf


# --- how claims are measured ------------------------------------------------------------------------------------------

Found = Mapping[str, Measured]
"""What was measured in one set-up, by words such as `alpha 2`; empty if the cells that the claim needs were not measured."""


def _named(words: str, found: Measured | None) -> Found:
    return {} if found is None else {words: found}


def _between(words: str, first: Measured | None, second: Measured | None) -> Found:
    return {} if first is None or second is None else {words: first - second}


def _damage(cells: SetupCells, rate: float, defense: str = "none") -> Measured | None:
    """Worst-5, or worst-1 where there are fewer than five subpopulations."""
    worst_5 = cells.of("target_damage_worst_5", rate, defense)
    return worst_5 or cells.of("target_damage_worst_1", rate, defense)


def _growth(cells: SetupCells) -> Found:
    """Damage at the largest alpha less that at the smallest."""
    rates = cells.rates
    if len(rates) < 2:
        return {}
    low, high = rates[0], rates[-1]
    return _between(f"alpha {high:g} less {low:g}", _damage(cells, high), _damage(cells, low))


def _at_largest_alpha(metric: str, defense: str, cells: SetupCells) -> Found:
    return _named(f"alpha {cells.rates[-1]:g}", cells.of(metric, cells.rates[-1], defense)) if cells.rates else {}


def _at_each_alpha(metric: str, cells: SetupCells) -> Found:
    found = {f"alpha {rate:g}": cells.of(metric, rate, "none") for rate in cells.rates}
    return {words: each for words, each in found.items() if each is not None}


def _against_undefended(defense: str, share: float, cells: SetupCells) -> Found:
    """Damage with the defense less a share of that without, at the largest alpha with both. Undecided if nothing was damaged."""
    for rate in reversed(cells.rates):
        undefended, defended = _damage(cells, rate), _damage(cells, rate, defense)
        if undefended is not None and defended is not None:
            more = defended - undefended.times(share)
            return {f"alpha {rate:g}": more if undefended.low > 0 else Measured(more.value, -math.inf, math.inf)}
    return {}


def _after_less_before(cells: SetupCells) -> Found:
    """Damage of the certified defense less that without it, of the same ranked subpopulations, at the largest alpha."""
    rate = max(cells.rates, default=0.0)
    metric = "target_damage_worst_5_all"
    return _between(f"alpha {rate:g}", cells.of(metric, rate, "label_flip_smoothing"), cells.of(metric, rate, "none"))


def _certified_less_measured(cells: SetupCells) -> Found:
    rate, defense = max(cells.rates, default=0.0), "label_flip_smoothing"
    certified = cells.of("certified_damage_mean:exact", rate, defense)
    return _between(f"alpha {rate:g}", certified, cells.of("target_damage_mean", rate, defense))


def _fine_tuned_less_attacked(cells: SetupCells) -> Found:
    """Target accuracy after fine-tuning on the smallest holdout less that of the attacked model."""
    for holdout in cells.options("holdout")[:1]:
        after, before = (
            cells.of(f"{stage}_target_accuracy", defense="fine_pruning", holdout=holdout) for stage in ("finetuned", "attacked")
        )
        return _between(f"holdout {holdout}", after, before)
    return {}


def _largest_less_smallest_holdout(cells: SetupCells) -> Found:
    holdouts = cells.options("holdout")
    if len(holdouts) < 2:
        return {}
    small, large = (
        cells.of("finetuned_target_accuracy", defense="fine_pruning", holdout=holdout) for holdout in (holdouts[0], holdouts[-1])
    )
    return _between(f"holdout {holdouts[-1]} less {holdouts[0]}", large, small)


def _transferred(cells: SetupCells) -> tuple[str, str] | None:
    """The victim's own network and the other one. A last layer on frozen features is named after its network."""
    names = cells.options("clusters_on")
    victim = cells.reports[0].cell.victim
    own = [name for name in names if victim in (name, f"{name}_last_layer")]
    others = [name for name in names if name not in own]
    return (own[0], others[0]) if own and len(others) == 1 else None


def _transfer(metric: str, cells: SetupCells) -> Found:
    names, rate = _transferred(cells), max(cells.rates, default=0.0)
    return _named(f"alpha {rate:g}", cells.of(metric, rate, clusters_on=names[1])) if names else {}


def _own_less_transferred(cells: SetupCells) -> Found:
    names, rate = _transferred(cells), max(cells.rates, default=0.0)
    if names is None:
        return {}
    own, other = (cells.of("target_damage_worst_5", rate, clusters_on=name) for name in names)
    return _between(f"alpha {rate:g}", own, other)


def _transfer_growth(cells: SetupCells) -> Found:
    names, rates = _transferred(cells), cells.rates
    if names is None or len(rates) < 2:
        return {}
    low, high = (cells.of("target_damage_worst_5", rate, clusters_on=names[1]) for rate in (rates[0], rates[-1]))
    return _between(f"alpha {rates[-1]:g} less {rates[0]:g}", high, low)


def _target_sets(metric: str, cells: SetupCells) -> Found:
    kind = cells.reports[0].cell.partition
    return _named("cluster less random" if metric.endswith("_difference") else kind, cells.of(metric))


def _purity(cells: SetupCells) -> Found:
    """Of each annotation, the purity of clusters less that of random ones."""
    prefix = "purity_share_"
    numbers = [number for report in cells.reports for number in (report.result.numbers if report.result else ())]
    names = sorted({n.metric.removeprefix(prefix) for n in numbers if n.metric.startswith(prefix)})
    found: dict[str, Measured] = {}
    for name in names:
        found |= _between(name, cells.of(f"{prefix}{name}"), cells.of(f"most_common_share_{name}"))
    return found


def _mean_gain(cells: SetupCells) -> Found:
    gains = [gain for rate in cells.rates if (gain := cells.of("gain_over_label_flip", rate)) is not None]
    return {"mean over alpha": Measured.mean(gains)} if gains else {}


# --- the registry -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Claim:
    """One claim of the paper. A run agrees with it where the whole interval of the quantity lies between `above` and `below`."""

    name: str
    words: str
    """The claim in one sentence."""
    source: str
    """Table, figure or section."""
    tests: tuple[str, ...]
    """`suite::test`. `test_cell` only measures: what such tests measure is reported and not asserted."""
    quantity: str
    """What is measured, in words."""
    measure: Callable[[SetupCells], Found]
    why: str
    """Why this margin."""
    above: float = -math.inf
    below: float = math.inf
    across: tuple[str, ...] = ()
    """Settings in which the compared cells differ."""
    percent: bool = True
    """False for a count."""

    @property
    def suites(self) -> list[str]:
        """The stems of the suites whose cells are its evidence."""
        return [test.partition("::")[0] for test in self.tests]

    def verdict(self, found: Measured, same_setup: bool = False) -> str:
        """Compare an interval with the margin: it must lie on one side of it, otherwise the claim is undecided."""
        if self.above < found.low and found.high < self.below:
            return REPRODUCED if same_setup else AGREES
        return DISAGREES if found.high <= self.above or found.low >= self.below else UNDECIDED


def is_same_setup(reports: Sequence[CellReport]) -> bool:
    """Whether all published numbers of these cells were measured in the same set-up; False if there are none."""
    certainties = [verdict.certainty for r in reports for verdict in r.verdicts if verdict.published is not None]
    return bool(certainties) and all(SAME_SETUP in certainty for certainty in certainties)


REPAIR = "a defense repairs if it removes at least half of the damage, as the suites' own tests of TRIM define it"
ROW = "one flipped test row of the smallest ranked subpopulation changes worst-5 by at most 1 %"

CLAIMS = (
    Claim(
        "damage_grows",
        "Target damage grows with alpha.",
        "Tables 13 and 14, columns 'before'",
        (
            "feature_match::test_damage_grows_with_alpha",
            "cluster_match::test_damage_grows_with_alpha",
            "imdb_cluster_match::test_damage_grows_with_alpha",
            "table14_certified_by_undefended::test_damage_grows_with_alpha",
        ),
        "worst-5 target damage at the largest alpha less that at the smallest",
        _growth,
        f"{ROW}; the smallest published increase of worst-5 is 14 %",
        above=ONE_ROW,
    ),
    Claim(
        "collateral_is_small",
        "Rows outside the attacked subpopulation are hardly affected.",
        "section B (at most 2 %); the released IMDB trials (at most 1 %)",
        (
            "feature_match::test_nobody_else_is_hurt",
            "cluster_match::test_nobody_else_is_hurt",
            "defenses_trim_sever::test_nobody_else_is_hurt",
        ),
        "largest undefended collateral damage at the largest alpha",
        partial(_at_largest_alpha, "collateral_damage_max", "none"),
        "the bound that the suites' tests assert: above the published 2 %, because it is the maximum over subpopulations and the "
        "data sets are smaller than the paper's",
        below=0.05,
    ),
    Claim(
        "trim_makes_it_worse",
        "TRIM makes the attack worse.",
        "Figure 2c; section A",
        (
            "figure2_trim::test_trim_makes_it_worse",
            "defenses_trim_sever::test_trim_does_not_repair",
            "imdb_defenses::test_trim_does_not_repair",
        ),
        "worst-5 target damage with TRIM less that without (worst-1 in Figure 2)",
        partial(_against_undefended, "trim", 1.0),
        ROW,
        above=ONE_ROW,
    ),
    Claim(
        "sever_makes_it_worse",
        "SEVER makes the attack worse, as TRIM does.",
        "section A ('similar results appear for the SEVER defense')",
        ("figure2_trim::test_cell", "defenses_trim_sever::test_cell", "imdb_defenses::test_cell"),
        "worst-5 target damage with SEVER less that without (worst-1 in Figure 2)",
        partial(_against_undefended, "sever", 1.0),
        ROW,
        above=ONE_ROW,
    ),
    Claim(
        "activation_clustering_does_not_repair",
        "Activation clustering does not repair the model.",
        "released notebooks (70 % and 91 % of the damage remain)",
        ("utkface_detection::test_cell", "imdb_defenses::test_cell"),
        "worst-5 target damage with the defense less half of that without",
        partial(_against_undefended, "activation_clustering", 0.5),
        REPAIR,
        above=0.0,
    ),
    Claim(
        "spectral_signatures_do_not_repair",
        "Spectral signatures do not repair the model.",
        "released notebooks (all of the damage remains)",
        ("utkface_detection::test_cell", "imdb_defenses::test_cell"),
        "worst-5 target damage with the defense less half of that without",
        partial(_against_undefended, "spectral_signatures", 0.5),
        REPAIR,
        above=0.0,
    ),
    Claim(
        "fine_pruning_does_not_repair",
        "Fine-Pruning with a small clean holdout does not repair the model.",
        "Table 12; section A",
        ("table12_fine_pruning::test_cell",),
        "target accuracy after fine-tuning on the smallest holdout less that of the attacked model",
        _fine_tuned_less_attacked,
        "half of the smallest damage in the caption of Table 12 (18 %)",
        below=0.09,
        across=("holdout",),
    ),
    Claim(
        "fine_pruning_needs_a_large_holdout",
        "Fine-Pruning requires a large clean holdout.",
        "section A; Table 12 (that its settings are holdouts of growing size is an inference)",
        ("table12_fine_pruning::test_cell",),
        "target accuracy after fine-tuning on the largest holdout less that on the smallest",
        _largest_less_smallest_holdout,
        "half of the smallest difference between the first and the last setting of a subpopulation in Table 12 (20.5 %)",
        above=0.1,
        across=("holdout",),
    ),
    Claim(
        "half_are_unhurt",
        "About half of the subpopulations see no damage, at each alpha.",
        "caption of Table 13",
        ("table13_certified_by_defended::test_cell",),
        "share of subpopulations without damage, undefended",
        partial(_at_each_alpha, "share_without_damage"),
        "the caption says 'roughly 50 %': within ten points of it",
        above=0.4,
        below=0.6,
    ),
    Claim(
        "certified_leaves_damage",
        "The certified defense still permits high damage.",
        "section A; Tables 13 and 14, columns 'after'",
        ("table13_certified_by_defended::test_the_defense_leaves_high_damage",),
        "effect of the attack on worst-5 under the defense, without what the defense costs, at the largest alpha",
        partial(_at_largest_alpha, "attack_effect_worst_5", "label_flip_smoothing"),
        "below every published worst-5 at alpha 2 (16 and 28 %); two of the 20 test rows of the smallest ranked subpopulation",
        above=0.1,
    ),
    Claim(
        "certified_can_harm",
        "The subpopulations that are worst under the certified defense lose more with it than without it.",
        "Table 13",
        ("table13_certified_by_defended::test_cell",),
        "worst-5 target damage after the defense less before it, at the largest alpha",
        _after_less_before,
        "half of the smallest increase of worst-5 in Table 13 (13 %)",
        above=0.065,
    ),
    Claim(
        "certified_can_help",
        "The subpopulations that are worst undefended lose less with the certified defense.",
        "Table 14",
        ("table14_certified_by_undefended::test_cell",),
        "worst-5 target damage after the defense less before it, at the largest alpha",
        _after_less_before,
        "half of the smallest decrease of worst-5 in Table 14 (16 %)",
        below=-0.08,
    ),
    Claim(
        "certified_damage_is_larger",
        "Certified damage is strictly larger than the damage measured under the defense.",
        "captions of Tables 13 and 14",
        ("table13_certified_by_defended::test_cell",),
        "mean certified damage (exact radius) less mean target damage under the defense, at the largest alpha",
        _certified_less_measured,
        "the captions say 'strictly'",
        above=0.0,
    ),
    Claim(
        "transfer_15_to_16",
        "With clusters of another network, most subpopulations lose 15 to 16 %.",
        "section B, beside Table 15",
        ("table15_transfer::test_cell",),
        "share of subpopulations whose damage lies in that range",
        partial(_transfer, "share_within_published"),
        "'most' means more than half",
        above=0.5,
        across=("clusters_on",),
    ),
    Claim(
        "transfer_works",
        "The attack works with clusters of another network.",
        "section B; Table 15",
        ("table15_transfer::test_transferred_clusters_are_hurt_too",),
        "worst-5 target damage with transferred clusters, at the largest alpha",
        partial(_transfer, "target_damage_worst_5"),
        "a third of the smallest published value (15.5 %), rounded; also what the suite's test asserts",
        above=0.05,
        across=("clusters_on",),
    ),
    Claim(
        "transfer_collateral",
        "Transferred clusters cause at most 2 % collateral damage.",
        "section B, beside Table 15",
        ("table15_transfer::test_transferred_clusters_are_hurt_too",),
        "largest collateral damage with transferred clusters, at the largest alpha",
        partial(_transfer, "collateral_damage_max"),
        "the paper's own number",
        below=0.02,
        across=("clusters_on",),
    ),
    Claim(
        "transfer_is_weaker",
        "The attack is less successful with transferred clusters than with the victim's own.",
        "section B",
        ("table15_transfer::test_cell",),
        "worst-5 target damage with own clusters less that with transferred ones, at the largest alpha",
        _own_less_transferred,
        ROW,
        above=ONE_ROW,
        across=("clusters_on",),
    ),
    Claim(
        "transfer_hardly_depends_on_alpha",
        "With transferred clusters, damage hardly depends on alpha (the table shows it, the text does not say it).",
        "Table 15 (worst-5: 15.9, 15.7 and 16.1 %)",
        ("table15_transfer::test_cell",),
        "worst-5 target damage with transferred clusters at the largest alpha less that at the smallest",
        _transfer_growth,
        f"{ROW}; the largest published difference between alphas is 0.5 %",
        above=-ONE_ROW,
        below=ONE_ROW,
        across=("clusters_on",),
    ),
    Claim(
        "clusters_are_easier",
        "Targets from one cluster are easier to attack than random ones.",
        "Table 16, worst-5; section D",
        ("table16_influence::test_cell",),
        "worst-5 success less that on random sets",
        partial(_target_sets, "success_worst_5_difference"),
        "the claim names a direction and no size: the interval alone decides",
        above=0.0,
    ),
    Claim(
        "clusters_are_easier_on_average",
        "The same of all target sets, not only the worst five.",
        "section D (no number; the mean over all sets is less noisy)",
        ("table16_influence::test_cell",),
        "mean success less that on random sets",
        partial(_target_sets, "success_mean_difference"),
        "the claim names a direction and no size: the interval alone decides",
        above=0.0,
    ),
    Claim(
        "clusters_take_fewer_iterations",
        "Successful attacks on targets from one cluster take fewer iterations.",
        "Table 16; section D",
        ("table16_influence::test_cell",),
        "iterations of successful attacks less those on random sets",
        partial(_target_sets, "iterations_successful_difference"),
        "the claim names a direction and no size: the interval alone decides",
        below=0.0,
        percent=False,
    ),
    Claim(
        "some_sets_resist",
        "Multiple target sets are resistant to the attack, random ones and those from one cluster.",
        "section D",
        ("table16_influence::test_cell",),
        "share of the ten sets whose targets are all misclassified",
        partial(_target_sets, "share_complete"),
        "'multiple' of ten sets are at least two: the middle between 80 % (two sets resist) and 90 % (one does)",
        below=0.85,
    ),
    Claim(
        "clusters_follow_annotations",
        "Clusters follow patterns that people recognise, such as age and sex.",
        "Figure 3; section C",
        ("figure3_clusters::test_clusters_follow_annotations",),
        "share of the most common value of an annotation in a cluster less that in all rows",
        _purity,
        "the paper gives no number; the bound of the suite's test",
        above=0.02,
    ),
    Claim(
        "optimised_poison_does_more",
        "Optimised poison rows do more damage than flipped labels.",
        "abstract (optimised attacks in continuous domains; no number)",
        ("optimised_poison::test_cell",),
        "mean target damage less that of label flipping at the same budget, mean over alpha",
        _mean_gain,
        "the abstract gives no size: the interval alone decides",
        above=0.0,
    ),
)
