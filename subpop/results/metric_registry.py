"""The registry of metrics: unit, better direction, how a metric is compared with its reference, and titles.

To add a metric, add one line to METRICS. Baselines, tables and figures use these lines and never parse names. The numbers
themselves are computed elsewhere: see `subpop.results.metrics` and `subpop.results.summary`.

A new line begins with `Metric(`: the number appears in results.json and, if it has a column, in the reports, but it is neither
compared nor recorded, so it cannot fail a cell. To have it compared, write `gated(` instead and record it with `--rebaseline`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from functools import lru_cache, partial
from string import Formatter

from subpop.types import BadInput
from subpop.types.metric import Better, Metric, Tolerance, Unit

PATTERNS = {"k": "[0-9]+", "certificate": "(?::.+)?", "world": "[01]", "end": "(?:low|high)", "model": "(?:clean|attacked)"}
PATTERNS |= {"outcome": "m50(?:_share)?", "predictor": "(?:size|clean_accuracy|loss_difference|label_share)"}
PATTERNS |= {"width": "[0-9]+"}
"""Regular expressions of the parts in braces; other parts may be any text, since defenses and data sets name them."""
HEADLINES = ("target_damage_worst_5", "target_damage_worst_1", "target_damage_mean")
"""Metrics by which tables are sorted: the first of these that the set-up has."""

gated = partial(Metric, gated=True)
FRACTION, PROBABILITY, COUNT, SECONDS, RATIO, NUMBER = Unit
LOWER, HIGHER, NEITHER = Better
WORST, WORST_OF_ALL = Tolerance.WORST_ROW, Tolerance.WORST_ROW_OF_ALL
UPPER_BOUND, LOWER_BOUND, TIMED = Tolerance.UPPER_BOUND, Tolerance.LOWER_BOUND, Tolerance.TIMED
SPLIT = ("defense_cost_worst_{k}", "attack_effect_worst_{k}")
SPLIT_10, TEN = ("defense_cost_worst_10", "attack_effect_worst_10"), {"k": "10"}
LOWER_ESTIMATE, LEFT = "worst-{k}, lower estimate", "clean target in removed"
WELCH_END = "{end} end of Welch's interval of that difference, every set a value (covers too seldom: a reference only)"

# Tables show columns in the order of these lines.
METRICS = (
    # --- sizes of a subpopulation ---
    Metric("n_test", COUNT, "rows in D_test", subpopulation_column="in D_test"),
    Metric("n_train", COUNT, "rows in D", subpopulation_column="in D"),
    Metric("n_aux", COUNT, "rows in D_aux", subpopulation_column="in D_aux"),
    Metric("n_poison", COUNT, "poison rows", subpopulation_column="poison"),
    gated("n_flipped", COUNT, "poison rows with a wrong label", subpopulation_column="flipped"),
    # --- damage and accuracy ---
    gated("target_damage_worst_{k}", FRACTION, "worst-{k} target damage", LOWER, WORST, "worst-{k}", parts=SPLIT),
    Metric("target_damage_worst_10", FRACTION, "worst-10 target damage", LOWER, WORST, "worst-10", parts=SPLIT_10, values=TEN),
    Metric("target_damage_worst_{k}_all", FRACTION, "worst-{k} of all", LOWER, WORST_OF_ALL, "worst-{k}, all", column_k=5),
    Metric("target_damage_worst_{k}_selection_free", FRACTION, LOWER_ESTIMATE, LOWER, WORST, LOWER_ESTIMATE, column_k=5),
    gated("target_damage_mean", FRACTION, "mean target damage", LOWER, column="mean"),
    Metric("target_damage_min", FRACTION, "smallest target damage", LOWER),
    Metric("target_damage_max", FRACTION, "largest target damage", LOWER),
    Metric("target_damage", FRACTION, "target damage", LOWER, subpopulation_column="target damage"),
    Metric(
        "target_clean_accuracy", FRACTION, "clean accuracy on the target", HIGHER, subpopulation_column="target clean accuracy"
    ),
    Metric("defense_cost", FRACTION, "defense cost", LOWER, subpopulation_column="cost"),
    Metric("defense_cost_worst_{k}", FRACTION, "defense cost in worst-{k}", LOWER, WORST),
    Metric("attack_effect", FRACTION, "attack effect", LOWER, subpopulation_column="effect"),
    Metric("attack_effect_worst_{k}", FRACTION, "attack effect in worst-{k}", LOWER, WORST),
    Metric("collateral_damage", FRACTION, "collateral damage", LOWER, subpopulation_column="collateral"),
    gated("collateral_damage_max", FRACTION, "largest collateral damage", LOWER, column="collateral, max"),
    Metric("collateral_damage_mean", FRACTION, "mean collateral damage", LOWER),
    *(
        Metric(
            f"{measure}_difference_{model}",
            FRACTION,
            f"{words} difference to all other test rows, {model} victim",
            LOWER,
            subpopulation_column=f"{short}, {model}",
        )
        for measure, words, short in (
            ("demographic_parity", "demographic parity", "parity"),
            ("equalised_odds", "equalised odds", "odds"),
        )
        for model in ("clean", "poisoned")
    ),
    gated("clean_accuracy", FRACTION, "clean accuracy", HIGHER, column="clean accuracy"),
    gated("defended_clean_accuracy", FRACTION, "defended clean accuracy", HIGHER, column="defended clean accuracy"),
    Metric("poisoned_accuracy", FRACTION, "poisoned accuracy", HIGHER, column="poisoned accuracy"),
    gated("gain_over_label_flip", FRACTION, "mean target damage less that of label flipping", LOWER),
    Metric("effective_rate", FRACTION, "poison rows / rows of the subpopulation in D"),
    Metric("n_left_out", COUNT, "subpopulations too small to be ranked"),
    gated("kkt_residual_max", NUMBER, "largest KKT residual of a trained model", LOWER, UPPER_BOUND),
    # --- what a defense costs ---
    Metric("fits_a_trial", COUNT, "victims trained in an attacked trial", LOWER),
    Metric("attack_fits_a_trial", COUNT, "defended models that the attacker trained for a trial"),
    Metric("seconds_a_trial", SECONDS, "seconds of an attacked trial", LOWER, TIMED),
    # --- what a filter removed ---
    gated("poison_recall", FRACTION, "flipped poison rows that were removed", HIGHER, subpopulation_column="recall"),
    Metric("poison_precision", FRACTION, "flipped poison rows among the removed", HIGHER, subpopulation_column="precision"),
    gated("removed_share", FRACTION, "training rows that were removed", column="removed"),
    Metric("removed_target_clean_share", FRACTION, LEFT, LOWER, column=LEFT, subpopulation_column=LEFT),
    # --- certificates, and the models that a defense passes through ---
    gated("certified_accuracy_mean{certificate}", FRACTION, "mean certified accuracy{certificate}", HIGHER),
    Metric("certified_radius_median{certificate}", COUNT, "median certified radius{certificate}", HIGHER),
    gated("certified_damage_mean{certificate}", FRACTION, "mean certified damage{certificate}", LOWER),
    Metric("certified_damage_worst_{k}{certificate}", FRACTION, "worst-{k} certified damage{certificate}", LOWER, WORST),
    gated("collective_damage_mean", FRACTION, "mean collective certified damage", LOWER),
    Metric("collective_damage", FRACTION, "largest damage certified", LOWER, subpopulation_column="certified"),
    Metric("collective_damage_worst_{k}", FRACTION, "worst-{k} collective certified damage", LOWER, WORST),
    Metric("collective_damage_mean_at_{m}", FRACTION, "mean collective certified damage at {m} insertions", LOWER),
    Metric("collective_share", FRACTION, "attacks that the certificate does not leave everything", HIGHER),
    Metric("collective_solved", FRACTION, "collective certificates solved within the time limit", HIGHER),
    Metric("pointwise_damage_mean", FRACTION, "mean certified damage, row by row", LOWER),
    gated("{stage}_test_accuracy", FRACTION, "test accuracy of the {stage} model", HIGHER),
    gated("{stage}_target_accuracy", FRACTION, "accuracy of the {stage} model on the target", HIGHER),
    Metric("{stage}_target_accuracy_sd", FRACTION, "sample deviation of the {stage} model's accuracy on the target"),
    gated("holdout_rows", COUNT, "clean test rows that the defender was given"),
    # --- Tables 13 to 15, and Figure 3 ---
    gated("share_without_damage", FRACTION, "subpopulations without damage", HIGHER),
    gated("share_within_published", FRACTION, "subpopulations whose damage is in the published range"),
    Metric("mean_size_worst_{k}", COUNT, "mean size of the worst {k} subpopulations", tolerance=WORST),
    gated("purity_share_{annotation}", FRACTION, "most common {annotation} of a cluster, mean over its rows"),
    gated("most_common_share_{annotation}", FRACTION, "most common {annotation} of all rows"),
    # --- impossibility: the theorem bounds errors and their sum as numbers, and so they are printed ---
    gated("can_run", NUMBER, "1 where the defense can run, else 0"),
    Metric("n_draws", COUNT, "draws of each world"),
    gated("tied", FRACTION, "draws that equal scores decided"),
    Metric("error_world_{world}", PROBABILITY, "mean error in world {world}", LOWER),
    gated("error_worst", PROBABILITY, "larger mean error of the two worlds", LOWER),
    gated("error_sum", NUMBER, "sum of the mean errors in both worlds", LOWER),
    gated("error_sum_min", NUMBER, "smallest sum of the errors in a pair of worlds", LOWER),
    gated("error_sum_max", NUMBER, "largest sum of the errors in a pair of worlds", LOWER),
    gated("identical_share", FRACTION, "pairs of worlds that are the same to the defender"),
    Metric("alpha_mean", RATIO, "mean alpha, poison rows / clean rows in D"),
    Metric("poison_share_mean", FRACTION, "mean share of poison among a subpopulation's rows in D"),
    gated("flipped_damage_mean", FRACTION, "mean damage where every label is flipped", LOWER),
    gated("tied_damage_mean", FRACTION, "mean damage where every cell is tied", LOWER),
    # --- susceptibility ---
    gated("m50_share_median", RATIO, "median of m50 / rows in D", HIGHER),
    gated("censored_share", FRACTION, "subpopulations that resist all of their rows in D_aux", HIGHER),
    gated("count_over_bound_median", RATIO, "rows of model-targeted poisoning / lower bound for its model, median", LOWER),
    gated("trivial_share", FRACTION, "subpopulations of which half is wrong without an attack", LOWER),
    gated("kendall_{outcome}_{predictor}", NUMBER, "Kendall's tau of {outcome} and {predictor}"),
    Metric("kendall_{outcome}_{predictor}_{end}", NUMBER, "{end} end of its 95 % interval: {outcome}, {predictor}"),
    Metric("partial_kendall_{outcome}_{predictor}", NUMBER, "the same after clean accuracy: {outcome}, {predictor}"),
    Metric("partial_kendall_{outcome}_{predictor}_{end}", NUMBER, "{end} end of its 95 % interval: {outcome}, {predictor}"),
    # --- capacity ---
    gated("target_damage_width_{width}", FRACTION, "mean target damage, {width} units", LOWER),
    Metric("target_clean_accuracy_width_{width}", FRACTION, "clean accuracy on the targets, {width} units", HIGHER),
    Metric("reached_width_{width}", FRACTION, "seeds that reach the training loss, {width} units", HIGHER),
    Metric("kendall_damage_width", NUMBER, "Kendall's tau of damage and width, mean over seeds"),
    # --- Table 16 ---
    gated("success_worst_{k}", FRACTION, "worst-{k} success", LOWER),
    gated("success_worst_{k}_difference", FRACTION, "worst-{k} success, clusters less random sets", LOWER),
    Metric("success_worst_{k}_difference_{end}", FRACTION, WELCH_END, LOWER),
    gated("success_mean", FRACTION, "mean success", LOWER),
    gated("success_mean_difference", FRACTION, "mean success, clusters less random sets", LOWER),
    Metric("success_mean_difference_{end}", FRACTION, WELCH_END, LOWER),
    gated("iterations_successful", COUNT, "iterations of a complete attack", HIGHER),
    gated("iterations_successful_difference", COUNT, "iterations, clusters less random sets", HIGHER),
    Metric("iterations_successful_difference_{end}", COUNT, WELCH_END, HIGHER),
    Metric("iterations_budget", COUNT, "iterations that an attack may take"),
    gated("share_complete", FRACTION, "sets of which every target fell", LOWER),
    gated("start_accuracy", FRACTION, "accuracy on the targets before the attack", HIGHER),
    Metric("clean_train_accuracy", FRACTION, "training accuracy of the clean model", HIGHER),
    Metric("clean_test_accuracy", FRACTION, "test accuracy of the clean model", HIGHER),
    Metric("target_pool_accuracy", FRACTION, "accuracy on all possible targets", HIGHER),
    gated("hours_of_a_successful_attack", NUMBER, "hours of a successful attack", HIGHER),
    gated("attacked_train_accuracy", FRACTION, "training accuracy of the attacked model", HIGHER),
    gated("{model}_target_loss", NUMBER, "loss of the {model} model on the targets", LOWER),
    gated("{model}_coefficient_norm", NUMBER, "norm of the {model} model's coefficients"),
    gated("{model}_own_probability", PROBABILITY, "probability of the changed picture's class, {model} model"),
    gated("clean_train_loss", NUMBER, "training loss of the clean model", LOWER),
    gated("clean_objective", NUMBER, "regularised training loss of the clean model", LOWER),
    gated("feature_move", NUMBER, "how far the picture's features moved"),
    gated("picture_move_levels", NUMBER, "largest change of a pixel, in 8-bit levels"),
    gated("picture_move_l2", NUMBER, "Euclidean norm of the picture's change"),
    # --- speed ---
    gated("speed_ratio", RATIO, "one-at-a-time seconds / our seconds", HIGHER, LOWER_BOUND),
    gated("iteration_over_backbone_pass", RATIO, "seconds of an iteration / of a pass through the network", LOWER),
    gated("coefficient_difference_max", NUMBER, "largest difference of a coefficient", LOWER),
    gated("weight_difference_max", NUMBER, "largest difference of a weight", LOWER),
    gated("one_at_a_time_kkt_residual_max", NUMBER, "largest KKT residual, one at a time", LOWER, UPPER_BOUND),
    gated("fleet_target_damage_mean", FRACTION, "mean target damage, fleet", LOWER),
    gated("one_at_a_time_target_damage_mean", FRACTION, "mean target damage, one at a time", LOWER),
    gated("damage_difference", FRACTION, "mean target damage, fleet less one at a time"),
    gated("trials_that_differ", COUNT, "trials whose results differ", LOWER),
    gated("radii_that_differ", COUNT, "certified radii that differ", LOWER),
    gated("n_victims", COUNT, "victims that were trained"),
    gated("n_one_at_a_time", COUNT, "victims that were trained one at a time"),
    gated("n_attacks", COUNT, "attacks"),
    gated("n_rows_certified", COUNT, "rows that were certified"),
    gated("n_levels", COUNT, "noise levels of the certificate"),
    gated("tokens", COUNT, "tokens that were read"),
    Metric("cached_tokens_per_second", RATIO, "tokens per second, cached states", HIGHER, TIMED),
    Metric("uncached_tokens_per_second", RATIO, "tokens per second, nothing cached", HIGHER, TIMED),
    Metric("cached_seconds", SECONDS, "seconds, cached states", LOWER, TIMED),
    Metric("uncached_seconds", SECONDS, "seconds, nothing cached", LOWER, TIMED),
    Metric("states_seconds", SECONDS, "seconds to compute hidden states", LOWER, TIMED),
    Metric("fleet_seconds", SECONDS, "seconds of the fleet", LOWER, TIMED),
    Metric("gflops", NUMBER, "billions of floating-point operations a second", HIGHER, TIMED),
    Metric("share_of_matrix_product", FRACTION, "rate / that of matrix products of the same shapes", HIGHER, TIMED),
    Metric("product_gigabytes", NUMBER, "GB that matrix products read and write", NEITHER, TIMED),
    Metric("peak_megabytes", NUMBER, "peak of memory while training, above that before, MB", LOWER, TIMED),
    Metric("fleet_seconds_a_victim", SECONDS, "seconds of the fleet per victim", LOWER, TIMED),
    Metric("one_at_a_time_seconds", SECONDS, "seconds one at a time", LOWER, TIMED),
    Metric("one_at_a_time_seconds_a_victim", SECONDS, "seconds per victim, one at a time", LOWER, TIMED),
    Metric("one_at_a_time_seconds_a_row", SECONDS, "seconds per row, one at a time", LOWER, TIMED),
    Metric("one_at_a_time_iteration_seconds", SECONDS, "seconds per iteration, one at a time", LOWER, TIMED),
    Metric("certificate_seconds", SECONDS, "seconds of the certificate", LOWER, TIMED),
    Metric("iteration_seconds", SECONDS, "seconds of an iteration", LOWER, TIMED),
    Metric("backbone_pass_seconds", SECONDS, "seconds of a pass through the network", LOWER, TIMED),
)


# --- looking one up ---------------------------------------------------------------------------------------------------


def metric_of(name: str) -> Metric:
    """Return the metric of this name; a member of a family comes with its own name and title.

    Raises
    ------
    BadInput
        If no such metric is registered. The message names the nearest one.

    Examples
    --------
    >>> metric_of("target_damage_worst_5").title
    'worst-5 target damage'
    """
    found = find_metric(name)
    if found is None:
        near = get_close_matches(name, [metric.name for metric in METRICS], 1, 0.5)
        hint = f"did you mean {near[0]!r}? A new metric" if near else "a new metric"
        raise BadInput(
            f"the metric {name!r} is not registered; {hint} needs a line in METRICS in subpop/results/metric_registry.py"
        )
    return found


@lru_cache(maxsize=4096)
def find_metric(name: str) -> Metric | None:
    """Return the metric of this name, or None. An exact name takes precedence over a family."""
    families = {metric.name: metric for metric in METRICS}
    if name in families and "{" not in name:
        return replace(families[name], family=name)
    matches = ((metric, _pattern(metric.name).fullmatch(name)) for metric in METRICS if "{" in metric.name)
    return next((_member(metric, name, match.groupdict("")) for metric, match in matches if match), None)


def check_registered(names: Iterable[str]) -> None:
    """Raise BadInput for the first of these metrics, in the order of the alphabet, that is not registered."""
    for name in sorted(names):
        metric_of(name)


def columns(names: Iterable[str]) -> list[Metric]:
    """Return those of these metrics that have a `column`, in the order of METRICS; members of a family by their k."""
    order = [metric.name for metric in METRICS]
    found = [metric for metric in map(metric_of, set(names)) if metric.column]
    return sorted(found, key=lambda metric: (order.index(metric.family), metric.k))


def subpopulation_columns(names: Iterable[str]) -> list[Metric]:
    """Return the metrics that are columns of a table of subpopulations and are among these names, in the order of METRICS."""
    there = set(names)
    return [metric for metric in METRICS if metric.subpopulation_column and metric.name in there]


def _member(family: Metric, name: str, values: Mapping[str, str]) -> Metric:
    column = family.column.format(**values) if family.column_k in (0, int(values.get("k", 0))) else ""
    parts = tuple(part.format(**values) for part in family.parts)
    title = family.title.format(**values)
    return replace(family, name=name, title=title, column=column, parts=parts, family=family.name, values=values)


@lru_cache(maxsize=256)
def _pattern(name: str) -> re.Pattern[str]:
    pieces = ""
    for text, part, *_ in Formatter().parse(name):
        pieces += re.escape(text) + (f"(?P<{part}>{PATTERNS.get(part, '.+')})" if part else "")
    return re.compile(pieces, re.DOTALL)
