"""The paper's claims: verdicts on each side of their margins, evidence from the cells of a run, and the front page's table."""

import ast
import math
from pathlib import Path

import pytest
from seed_table import all_cells

from subpop.report.claims import (
    AGREES,
    CLAIMS,
    DISAGREES,
    REPRODUCED,
    UNDECIDED,
    Measured,
    SetupCells,
    is_same_setup,
)
from subpop.report.claims_table import claims_section, findings
from subpop.report.details import details
from subpop.report.opening import RunInfo
from subpop.results.metric_registry import find_metric
from subpop.types import Cell, CellReport, CellResult, Number, Verdict

ROOT = Path(__file__).parents[2]
NAMED = {claim.name: claim for claim in CLAIMS}
BY_NAME = pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)


def cell(stem, rate=1.0, defense="none", dataset="digits", victim="logistic_regression", partition="cluster_match", **settings):
    attack = settings.pop("attack", "label_flip")
    return Cell.of(stem, "embedded", dataset, victim, partition, attack, rate, defense, **settings)


def report(of, certainty=None, exact=True, **metrics):
    """metrics: a value, or a value with half the width of its interval."""
    pairs = {name: each if isinstance(each, tuple) else (each, None) for name, each in metrics.items()}
    numbers = tuple(Number(name, value, half_width=width) for name, (value, width) in pairs.items())
    verdicts = [Verdict(n, "pass", published=None if certainty is None else 0.5, certainty=certainty or "") for n in numbers]
    return CellReport(of, CellResult(of, numbers, exact=exact), tuple(verdicts))


def only(name, *reports):
    """The one finding of a claim."""
    (found,) = findings(reports, [NAMED[name]])
    return found


# --- the registry -----------------------------------------------------------------------------------------------------


@BY_NAME
def test_a_claim_names_tests_that_exist(claim):
    for suite, _, test in (each.partition("::") for each in claim.tests):
        tree = ast.parse((ROOT / "benchmarks" / f"test_{suite}.py").read_text())
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        imported = {alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
        assert test in functions | imported, f"{suite} has no {test}"


@BY_NAME
def test_a_claim_says_where_it_is_made_and_why_its_margin_is_what_it_is(claim):
    assert claim.source
    assert claim.quantity
    assert len(claim.why) > 20
    assert claim.above < claim.below
    assert math.isfinite(claim.above) or math.isfinite(claim.below)


METRICS = (
    "target_damage_worst_5",
    "target_damage_worst_5_all",
    "target_damage_mean",
    "attack_effect_worst_5",
    "collateral_damage_max",
    "share_without_damage",
    "share_within_published",
    "certified_damage_mean:exact",
    "attacked_target_accuracy",
    "finetuned_target_accuracy",
    "success_worst_5_difference",
    "success_mean_difference",
    "iterations_successful_difference",
    "share_complete",
    "gain_over_label_flip",
    "purity_share_label",
    "most_common_share_label",
)


@pytest.fixture(scope="module")
def everything_measured():
    """Every cell of every suite, with made-up numbers of every metric that claims read."""
    return [report(each, **dict.fromkeys(METRICS, 0.1)) for each in all_cells()]


@BY_NAME
def test_a_claim_finds_its_cells_in_each_of_its_suites(claim, everything_measured):
    found = {each.setup.stem for each in findings(everything_measured, [claim])}
    assert found == set(claim.suites)


def test_metrics_of_claims_are_registered():
    assert all(find_metric(name) for name in METRICS)


def test_a_transfer_is_found_on_every_tier(everything_measured):
    found = findings(everything_measured, [NAMED["transfer_is_weaker"]])
    assert {(each.setup.tier, each.setup.dataset) for each in found} == {
        ("embedded", "digits_images"),
        ("laptop", "cifar10_jpeg"),
        ("laptop", "utkface_32"),
        ("paper", "cifar10"),
    }


def test_names_are_distinct():
    assert len(NAMED) == len(CLAIMS)


# --- verdicts ---------------------------------------------------------------------------------------------------------


@BY_NAME
def test_the_verdict_on_each_side_of_each_margin(claim):
    width = 0.001
    for margin, inside in ((claim.above, 1), (claim.below, -1)):
        if math.isfinite(margin):
            good, bad = margin + 2 * inside * width, margin - 2 * inside * width
            assert claim.verdict(Measured(good, good - width, good + width)) == AGREES
            assert claim.verdict(Measured(good, good - width, good + width), same_setup=True) == REPRODUCED
            assert claim.verdict(Measured(bad, bad - width, bad + width), same_setup=True) == DISAGREES
            assert claim.verdict(Measured(good, good - 3 * width, good + 3 * width), same_setup=True) == UNDECIDED
            assert claim.verdict(Measured(bad, bad - 3 * width, bad + 3 * width)) == UNDECIDED
            assert claim.verdict(Measured(margin, margin, margin)) == DISAGREES, "the margin itself does not agree"
            assert claim.verdict(Measured(good, -math.inf, math.inf)) == UNDECIDED


def test_an_interval_across_a_whole_range_is_undecided():
    assert NAMED["half_are_unhurt"].verdict(Measured(0.5, 0.3, 0.7)) == UNDECIDED


def test_a_difference_is_as_uncertain_as_both_of_its_parts():
    found = Measured(0.5, 0.47, 0.53) - Measured(0.2, 0.16, 0.24)
    assert (found.value, found.low, found.high) == pytest.approx((0.3, 0.25, 0.35))
    uneven = Measured(0.5, 0.5, 0.5) - Measured(0.2, 0.2, 0.3)
    assert (uneven.low, uneven.high) == pytest.approx((0.2, 0.3))


# --- evidence ---------------------------------------------------------------------------------------------------------


def grown(error):
    rates = {0.0: 0.0, 0.5: 0.1, 2.0: 0.3}
    return [report(cell("cluster_match", rate), target_damage_worst_5=(value, error)) for rate, value in rates.items()]


def test_growth_compares_the_largest_alpha_with_the_smallest_attack():
    found = only("damage_grows", *grown(0.01))
    assert found.words == "alpha 2 less 0.5"
    assert (found.found.value, found.found.high - found.found.low) == pytest.approx((0.2, 2 * 0.01 * 2**0.5))
    assert found.verdict == AGREES
    assert only("damage_grows", *grown(0.15)).verdict == UNDECIDED, "noise"
    assert findings(grown(0.01)[:2], [NAMED["damage_grows"]]) == [], "one alpha does not grow"


def test_splits_are_averaged_and_do_not_narrow_the_interval():
    three = [
        report(cell("cluster_match", 1.0, split=split), collateral_damage_max=(value, 0.01))
        for split, value in enumerate((0.0, 0.01, 0.05))
    ]
    found = only("collateral_is_small", *three).found
    assert (found.value, found.high) == pytest.approx((0.02, 0.02 + 0.01))


def test_a_split_without_the_number_leaves_the_claim_out():
    """Otherwise the mean would be of other splits than that of the cells compared with."""
    splits = [cell("cluster_match", 1.0, split=split) for split in (0, 1)]
    reports = [report(splits[0], collateral_damage_max=0.01), report(splits[1], clean_accuracy=0.9)]
    assert findings(reports, [NAMED["collateral_is_small"]]) == []


def test_a_defense_is_compared_with_no_defense_on_the_same_attack():
    def trim(before, after, error=0.01):
        own = {"none": before, "trim": after}
        cells = [(cell("defenses_trim_sever", 2.0, name, sampling="distinct"), value) for name, value in own.items()]
        return only("trim_makes_it_worse", *(report(of, target_damage_worst_5=(value, error)) for of, value in cells))

    assert trim(0.3, 0.5).verdict == AGREES
    assert trim(0.5, 0.3).verdict == DISAGREES
    assert trim(0.3, 0.32).verdict == UNDECIDED
    assert trim(0.01, 0.5).verdict == UNDECIDED, "an attack without effect has nothing to worsen"


def test_repair_is_half_of_the_damage():
    def verdict(after):
        own = {"none": 0.4, "activation_clustering": after}
        cells = [(cell("utkface_detection", 1.0, name), value) for name, value in own.items()]
        reports = (report(of, target_damage_worst_5=(value, 0.01)) for of, value in cells)
        return only("activation_clustering_does_not_repair", *reports).verdict

    assert verdict(0.3) == AGREES
    assert verdict(0.1) == DISAGREES
    assert verdict(0.2) == UNDECIDED


def test_holdouts_are_compared_in_the_order_of_their_size():
    def pruned(holdout, after):
        of = cell("table12_fine_pruning", 2.0, "fine_pruning", kind="fine_pruning", holdout=holdout)
        return report(of, attacked_target_accuracy=(0.6, 0.01), finetuned_target_accuracy=(after, 0.01))

    reports = [pruned("0.2", 0.9), pruned("0.01", 0.5), pruned("0.1", 0.7)]
    assert only("fine_pruning_needs_a_large_holdout", *reports).words == "holdout 0.2 less 0.01"
    assert only("fine_pruning_needs_a_large_holdout", *reports).found.value == pytest.approx(0.4)
    assert only("fine_pruning_does_not_repair", *reports).found.value == pytest.approx(-0.1)
    assert findings(reports[:1], [NAMED["fine_pruning_needs_a_large_holdout"]]) == []


def test_the_released_variant_of_fine_pruning_is_not_averaged_in():
    def pruned(defense, after):
        of = cell("table12_fine_pruning", 2.0, defense, kind="fine_pruning", holdout="0.01")
        return report(of, attacked_target_accuracy=0.6, finetuned_target_accuracy=after)

    found = only("fine_pruning_does_not_repair", pruned("fine_pruning", 0.5), pruned("fine_pruning_as_released", 0.9))
    assert found.found.value == pytest.approx(-0.1)


def test_transferred_clusters_are_told_from_the_victims_own():
    def on(network, damage, rate=2.0):
        of = cell("table15_transfer", rate, dataset="x", victim="resnet20_last_layer", kind="transfer", clusters_on=network)
        return report(of, target_damage_worst_5=(damage, 0.01), share_within_published=(0.1, 0.01))

    reports = [on("resnet20", 0.5), on("resnet56", 0.3)]
    assert only("transfer_works", *reports).found.value == pytest.approx(0.3)
    assert only("transfer_is_weaker", *reports).found.value == pytest.approx(0.2)
    assert only("transfer_15_to_16", *reports).verdict == DISAGREES
    assert findings(reports[:1], [NAMED["transfer_works"]]) == [], "own clusters are no transfer"


def test_a_stochastic_number_without_any_error_decides_nothing():
    of = cell("cluster_match", 1.0)
    assert only("collateral_is_small", report(of, collateral_damage_max=0.01)).verdict == AGREES
    assert only("collateral_is_small", report(of, exact=False, collateral_damage_max=0.01)).verdict == UNDECIDED


def of_number(number, n_seeds, exact=True):
    of = cell("cluster_match", 1.0, n_seeds=n_seeds)
    found = only("collateral_is_small", CellReport(of, CellResult(of, (number,), exact=exact))).found
    return found.high - found.value, found.is_interval


def test_too_few_seeds_leave_an_allowance_by_students_quantile():
    """3.18, 4.30 and 1.96 are the quantiles at 3, 2 and infinitely many degrees of freedom."""
    name = "collateral_damage_max"
    assert of_number(Number(name, 0.01, std=0.02), 4) == (pytest.approx(3.182446 * 0.02 / 2), False)
    assert of_number(Number(name, 0.01, std_error=0.01, std=0.5), 3) == (pytest.approx(4.302653 * 0.01), False)
    assert of_number(Number(name, 0.01, std_error=0.01), 1) == (pytest.approx(1.959964 * 0.01), False)
    assert of_number(Number(name, 0.01, std_error=0.01), 1, exact=False) == (math.inf, False), "one seed says nothing of others"
    assert of_number(Number(name, 0.01, varies="rows"), 3) == (math.inf, False), "it has an interval, had there been more seeds"
    assert of_number(Number(name, 0.01, std_error=0.01, half_width=0.03), 3) == (0.03, True)


def test_a_wrong_poison_count_is_no_evidence():
    told = cell("defenses_trim_sever", 2.0, "trim", n_poison_told="half")
    reports = [report(told, target_damage_worst_5=0.9), report(cell("defenses_trim_sever", 2.0), target_damage_worst_5=0.1)]
    assert findings(reports, [NAMED["trim_makes_it_worse"]]) == []


def test_a_claim_without_measured_cells_is_left_out():
    own = [each.claim.name for each in findings(grown(0.01))]
    assert set(own) == {"damage_grows"}
    other_suite = report(cell("mine", 1.0), collateral_damage_max=0.01, target_damage_worst_5=0.1)
    skipped = CellReport(cell("cluster_match", 1.0), None, status="skipped")
    assert findings([other_suite, skipped]) == []
    assert claims_section([other_suite, skipped]) == []


def test_reproduced_needs_the_same_set_up():
    of = cell("table13_certified_by_defended", 1.0, kind="certified", ranked_by="none")

    def verdict(certainty):
        return only("half_are_unhurt", report(of, certainty, share_without_damage=0.5)).verdict

    assert verdict("certain; same set-up") == REPRODUCED
    assert verdict("certain; VGG-16, not MobileNet features") == AGREES
    assert verdict(None) == AGREES
    assert not is_same_setup([report(of, "certain; same set-up", a=1.0), report(of, "certain", b=1.0)])
    assert SetupCells([report(of, a=1.0)]).of("b") is None


def test_no_baseline_claims_a_rebuilt_set_up_to_be_the_same():
    """So that no claim can be reproduced before a run of the paper's own set-up has been recorded."""
    assert not [path.name for path in (ROOT / "baselines").glob("*.csv") if "same set-up" in path.read_text()]


# --- the table --------------------------------------------------------------------------------------------------------


def test_the_front_page_shows_the_table():
    page = details(
        [*grown(0.01), report(cell("cluster_match", 2.0, dataset="mixture"), collateral_damage_max=0.06)],
        RunInfo("embedded", "x"),
    )
    section = page[page.index("## Claims of the paper") :]
    rows = [[each.strip() for each in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("|")]
    assert rows[0] == ["claim", "agrees here if", "source", "test", "tier", "data", "verdict"]
    assert rows[2][0] == "Target damage grows with alpha."
    assert rows[2][1].endswith("is above 1.0 %")
    assert rows[2][4:] == ["embedded", "digits", "**agrees here** (1 comparison)"]
    assert rows[3][0].startswith("Rows outside")
    assert rows[3][4:] == ["embedded", "mixture", "**disagrees here** (1 comparison)"]
    assert "20.0 % (18.6 % to 21.4 %)" in section
    assert "no size" not in section, "only claims with measured cells are shown"


def test_mixed_verdicts_are_counted():
    good, bad = (
        report(cell("cluster_match", 2.0, dataset=name), collateral_damage_max=value)
        for name, value in (("digits", 0.01), ("mixture", 0.2))
    )
    assert "agrees here in 1, disagrees here in 1 of 2" in claims_section([good, bad])[2]
