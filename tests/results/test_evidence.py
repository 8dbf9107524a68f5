"""What stochastic references rest on: spreads over kernels, values of seeds, and what a number off its reference means."""

from __future__ import annotations

import doctest
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm, t

from subpop.results import evidence
from subpop.results.evidence import (
    FALSE_ALARM,
    Spread,
    explain,
    kernel_atol,
    moderated,
    pooled,
    smallest_detectable,
    two_sample_p_value,
)
from subpop.results.references import References, cell_key, compare, rebaseline, record_kernels
from subpop.session.kernels import Outcome, _of_rows
from subpop.types import BadInput, Cell, CellResult, Number

CELL = Cell.of("stem", "embedded", "digits", "mlp", "feature_match", "label_flip", 1.0, sampling="distinct")
KEY = (*cell_key(CELL), "", "target_damage_mean")
SEEDS = (0.21, 0.42, 0.08, 0.33, 0.26)


def noisy(*seeds: float, cell: Cell = CELL) -> CellResult:
    """A cell of which one stochastic number is known for each seed."""
    std = float(np.std(seeds, ddof=1))
    number = Number("target_damage_mean", float(np.mean(seeds)), std=std, by_seed=seeds)
    return CellResult(cell.with_(n_seeds=len(seeds)), (number,), exact=False)


def shifted(by: float) -> tuple[float, ...]:
    return tuple(value + by for value in SEEDS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file recorded on one kernel, then over five that differ by a few rows, with three further seeds."""
    path = tmp_path / "stem.csv"
    rebaseline(path, [noisy(*SEEDS)])
    runs = [{KEY: (float(np.mean(SEEDS)) + by, shifted(by))} for by in (0.0, 0.001, -0.001, 0.002, -0.002)]
    more = {KEY: (0.3, (*SEEDS, 0.1, 0.5, 0.3))}
    assert record_kernels(path, runs, more) == 1
    return path


# --- tolerances -------------------------------------------------------------------------------------------------------


def test_spreads_are_pooled_by_degrees_of_freedom_and_too_few_kernels_do_not_count() -> None:
    assert pooled([Spread(0.02, 5), Spread(0.01, 3)]) == (pytest.approx(math.sqrt((4 * 0.0004 + 2 * 0.0001) / 6)), 6)
    assert pooled([Spread(0.02, 5), Spread(9.0, 2), Spread(math.nan, 5)]) == (pytest.approx(0.02), 4)
    assert pooled([Spread(9.0, 2)]) is None


def test_a_number_that_varies_more_than_others_of_its_kind_has_a_wider_tolerance() -> None:
    assert moderated(Spread(0.03, 5), (0.01, 40)) == pytest.approx(math.sqrt((0.0009 + 0.0001) / 2))
    assert moderated(Spread(0.0, 5), (0.01, 40)) == pytest.approx(0.01 / math.sqrt(2))
    assert moderated(None, (0.01, 40)) == moderated(Spread(9.0, 2), (0.01, 40)) == 0.01


def test_a_tolerance_over_kernels_by_hand() -> None:
    # t(1 - .05/100/2, 40) of a run on one kernel against the mean over five: sqrt(1 + 1/5).
    quantile = t.ppf(1 - FALSE_ALARM / 100 / 2, 40)
    assert quantile == pytest.approx(3.788, abs=1e-3)
    assert kernel_atol(Spread(0.01, 5), (0.01, 40), 100) == pytest.approx(quantile * 0.01 * math.sqrt(1.2))
    assert kernel_atol(None, (0.01, 40), 100) == pytest.approx(quantile * 0.01 * math.sqrt(2))
    found = smallest_detectable(0.02, Spread(0.01, 5), (0.01, 40))
    assert found == pytest.approx(0.02 + 0.8416 * 0.01 * math.sqrt(1.2), abs=1e-6)


def test_the_deviation_of_a_number_is_at_least_one_test_row_of_one_seed(path: Path) -> None:
    quantile = t.ppf(1 - FALSE_ALARM / 100 / 2, 40)
    assert kernel_atol(Spread(0.0, 5), (0.001, 40), 100, 0.01) == pytest.approx(quantile * 0.01 * math.sqrt(1.2))
    assert kernel_atol(Spread(0.02, 5), (0.02, 40), 100, 0.01) == kernel_atol(Spread(0.02, 5), (0.02, 40), 100)
    assert smallest_detectable(0.02, Spread(0.0, 5), (0.001, 40), 0.01) == pytest.approx(0.02 + 0.8416212 * 0.01 * math.sqrt(1.2))
    runs = [{KEY: (0.26, SEEDS)} for _ in range(5)]
    record_kernels(path, runs, {}, least={KEY: 0.004})
    (row,) = References.load(path).rows[KEY[:8]].values()
    quantile = t.ppf(1 - FALSE_ALARM / 2, 4)
    assert float(row["atol"]) == pytest.approx(quantile * 0.004 * math.sqrt(1.2))


def test_a_number_that_happens_to_be_equal_for_all_seeds_is_stochastic_if_it_differs_between_kernels(tmp_path: Path) -> None:
    path = tmp_path / "stem.csv"
    rebaseline(path, [noisy(0.3, 0.3)])
    assert not References.load(path).rows[KEY[:8]][KEY[8:]]["std"]
    record_kernels(path, [{KEY: (0.3, (0.3, 0.3))}] * 3, {})
    assert not References.load(path).rows[KEY[:8]][KEY[8:]]["std"]
    assert record_kernels(path, [{KEY: (0.3 - by, (0.3, 0.3 - 2 * by))} for by in (0.0, 0.01, 0.02)], {}) == 1
    row = References.load(path).rows[KEY[:8]][KEY[8:]]
    assert (row["std"], row["n_kernels"], float(row["value"])) == ("0", "3", pytest.approx(0.29))
    assert float(row["kernel_std"]) == pytest.approx(0.01)
    assert float(row["atol"]) == pytest.approx(t.ppf(1 - FALSE_ALARM / 2, 2) * 0.01 * math.sqrt(4 / 3))


def test_the_smallest_detectable_change_is_detected_in_four_of_five_runs() -> None:
    generator, own, pool = np.random.default_rng(0), Spread(0.01, 5), (0.01, 40)
    atol = kernel_atol(own, pool, 100)
    change = smallest_detectable(atol, own, pool)
    differences = change + generator.normal(0, 0.01, 40_000) - generator.normal(0, 0.01, (40_000, 5)).mean(axis=1)
    assert np.mean(np.abs(differences) > atol) == pytest.approx(0.8, abs=0.01)
    assert np.mean(np.abs(differences - change) > atol) < FALSE_ALARM / 50


@pytest.mark.parametrize(
    ("n_numbers", "share", "most"), [(80, 0.0, 0.0), (20, 0.5, 0.025), (80, 0.5, 0.025), (600, 0.5, 0.025), (80, 1.0, 0.18)]
)
def test_holm_would_turn_the_same_runs_red_and_list_few_further_numbers(n_numbers: int, share: float, most: float) -> None:
    """Why tolerances are Bonferroni's: the argument in the docstring of `evidence`."""
    own, pool, n_runs = Spread(1.0, 5), (1.0, 200), 1000
    limit = kernel_atol(own, pool, n_numbers)
    further = []
    for change in (2, 3, 4, 5, 6) if share else (0,):
        deviations = np.random.default_rng(change).standard_t(pool[1], (n_runs, n_numbers))
        deviations[:, : round(share * n_numbers)] += change
        p_values = np.sort(2 * t.sf(np.abs(deviations), pool[1]), axis=1)
        passed = np.cumprod(p_values <= FALSE_ALARM / (n_numbers - np.arange(n_numbers)), axis=1)
        by_holm, by_tolerance = passed.sum(axis=1), (np.abs(deviations) * math.sqrt(1.2) > limit).sum(axis=1)
        assert ((by_holm > 0) == (by_tolerance > 0)).all()
        assert (by_holm >= by_tolerance).all()
        further.append(float((by_holm - by_tolerance).mean()) / n_numbers)
        assert share or np.mean(by_tolerance > 0) == pytest.approx(FALSE_ALARM, abs=0.02)
    assert max(further) <= most


# --- what a number off its reference means ----------------------------------------------------------------------------


def test_the_same_draws_with_a_shift_are_a_change_of_the_number() -> None:
    assert explain(shifted(0.05), SEEDS) == (
        "the random draws are the same and the number changed: by +0.05 in the mean over seeds"
    )
    nearly = [value + 0.05 + noise for value, noise in zip(SEEDS, (0.01, -0.02, 0.0, 0.02, -0.01), strict=True)]
    assert explain(nearly, SEEDS).startswith("the random draws are the same and the number changed")


def test_other_draws_of_the_same_distribution_are_told_from_other_numbers() -> None:
    generator = np.random.default_rng(1)
    reference = generator.normal(0.3, 0.1, 10)
    assert "is compatible with its reference" in explain(generator.normal(0.3, 0.1, 5), reference)
    assert "and the number with them" in explain(generator.normal(0.7, 0.1, 5), reference)


def test_two_seeds_or_unknown_values_explain_nothing() -> None:
    assert explain(SEEDS[:2], SEEDS) == explain((math.nan, 0.1, 0.2), SEEDS) == explain((), SEEDS) == ""


def test_the_two_sample_test_needs_three_values_on_a_side() -> None:
    assert two_sample_p_value(SEEDS[:2], SEEDS) is None
    assert two_sample_p_value([0.5] * 3, [0.5] * 3) == 1
    assert two_sample_p_value([0.5] * 3, [0.6] * 3) == 0
    # By hand: means 2 and 5, pooled variance 1, t = -3 / sqrt(2 / 3), four degrees of freedom.
    assert two_sample_p_value([1, 2, 3], [4, 5, 6]) == pytest.approx(2 * t.sf(3 / math.sqrt(2 / 3), 4))


def test_the_examples_of_the_docstrings_hold() -> None:
    assert doctest.testmod(evidence).failed == 0


# --- in a file --------------------------------------------------------------------------------------------------------


def test_a_row_keeps_the_mean_over_kernels_its_spread_and_every_seed(path: Path) -> None:
    (row,) = References.load(path).rows[cell_key(CELL)].values()
    assert float(row["value"]) == pytest.approx(np.mean(SEEDS))
    assert (row["n_kernels"], row["n_seeds"]) == ("5", "5")
    assert float(row["kernel_std"]) == pytest.approx(np.std([0, 1, -1, 2, -2], ddof=1) / 1000, rel=1e-5)
    assert [float(value) for value in row["by_seed"].split()] == pytest.approx([*SEEDS, 0.1, 0.5, 0.3])
    own = Spread(float(row["kernel_std"]), 5)
    expected = float(t.ppf(1 - FALSE_ALARM / 2, 4)) * own.std * math.sqrt(1.2)
    assert float(row["atol"]) == pytest.approx(max(0.01, expected))
    assert float(row["detects"]) == pytest.approx(float(row["atol"]) + norm.ppf(0.8) * own.std * math.sqrt(1.2), rel=1e-2)


def test_a_number_known_under_two_kernels_only_is_recorded_under_the_first(path: Path) -> None:
    """Its spread of two values would have one degree of freedom; the spread that an earlier recording had goes as well."""
    runs = [{KEY: (float(np.mean(SEEDS)) + by, shifted(by))} for by in (0.05, 0.01)]
    assert record_kernels(path, runs, {}) == 0
    (row,) = References.load(path).rows[cell_key(CELL)].values()
    assert (row["n_kernels"], row["kernel_std"]) == ("1", "")
    assert [float(value) for value in row["by_seed"].split()] == pytest.approx(shifted(0.05))
    assert float(row["value"]) == pytest.approx(np.mean(SEEDS) + 0.05)
    by_seeds = float(t.ppf(1 - FALSE_ALARM / 2, 4)) * float(np.std(SEEDS, ddof=1)) * math.sqrt(2 / 5)
    assert float(row["atol"]) == pytest.approx(by_seeds)


def test_equal_values_have_no_spread_by_rounding(path: Path) -> None:
    """The mean of three times 0.1 is not 0.1 in floating point."""
    assert np.mean([0.1] * 3) != 0.1
    record_kernels(path, [{KEY: (0.1, (0.1,) * 5)}] * 3, {})
    (row,) = References.load(path).rows[cell_key(CELL)].values()
    assert (row["value"], row["kernel_std"], row["n_kernels"]) == ("0.1", "0", "3")


def test_a_shift_by_a_tenth_of_the_spread_over_seeds_is_noticed_and_explained(path: Path) -> None:
    """The tolerance over seeds was five times wider than the shift, so that such a bug turned nothing red."""
    references = References.load(path)
    (same,) = compare(noisy(*shifted(0.002)), references)
    (bug,) = compare(noisy(*shifted(0.013)), references)
    assert (same.verdict, bug.verdict) == ("pass", "fail")
    assert "the random draws are the same and the number changed: by +0.013 in the mean over seeds" in bug.reason
    assert t.ppf(1 - FALSE_ALARM / 2, 4) * np.std(SEEDS, ddof=1) * math.sqrt(2 / 5) > 0.2


def test_recording_on_one_kernel_again_uses_the_spread_of_the_rest_of_its_pool(path: Path) -> None:
    other = CELL.with_(rate=2.0)
    rebaseline(path, [noisy(*shifted(0.1), cell=other)])
    row = References.load(path).rows[cell_key(other)]["", "target_damage_mean"]
    assert (row["n_kernels"], row["kernel_std"]) == ("1", "")
    assert float(row["atol"]) < 0.02  # over seeds it would be above .2


def test_a_damage_with_half_of_it_below_what_is_detected_has_no_power(path: Path) -> None:
    small = CELL.with_(partition="cluster_match")
    runs = [{(*cell_key(small), "", "target_damage_mean"): (0.01 + by, (0.01 + by,) * 3)} for by in (0.0, 0.001, -0.001)]
    rebaseline(path, [noisy(0.0, 0.01, 0.02, cell=small)])
    record_kernels(path, runs, {})
    references = References.load(path)
    (verdict,) = compare(noisy(0.0, 0.01, 0.02, cell=small), references)
    assert verdict.verdict == "no_power"
    (verdict,) = compare(noisy(*SEEDS), references)
    assert verdict.verdict == "pass"


def test_fresh_seeds_are_compared_without_those_that_the_reference_has(path: Path) -> None:
    references, known = References.load(path), (*SEEDS, 0.1, 0.5, 0.3)
    fine, wrong = (noisy(*known, *(value + by for value in known)) for by in (0.01, 0.9))
    assert [v.verdict for v in compare(fine, references, fresh_seeds=True)] == ["pass"]
    (verdict,) = compare(wrong, references, fresh_seeds=True)
    assert verdict.verdict == "fail"
    assert "on seeds that its reference does not have" in verdict.reason
    exact = replace(fine, numbers=(*fine.numbers, Number("clean_accuracy", 0.9)))
    assert compare(exact, references, fresh_seeds=True)[-1].verdict == "not_gated"
    assert [v.verdict for v in compare(noisy(*known, 0.2), references, fresh_seeds=True)] == ["no_power"]


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ("0.1 none", "by_seed is '0.1 none'; give one number for each seed"),
        ("0.1 0.2", "by_seed has 2 values for 5 seeds; record the cell again"),
    ],
)
def test_a_row_without_its_seeds_is_refused(path: Path, seeds: str, message: str) -> None:
    text = path.read_text()
    (row,) = References.load(path).rows[cell_key(CELL)].values()
    path.write_text(text.replace(row["by_seed"], seeds))
    with pytest.raises(BadInput, match=rf"stem\.csv, line 2: {message}"):
        References.load(path)


def test_baselines_of_the_schema_before_are_refused_by_name(path: Path) -> None:
    (path.parent / "SCHEMA").write_text("1\n")
    with pytest.raises(BadInput, match=r"declares schema '1'.*reads schema 2"):
        References.load(path)


def test_rows_of_a_report_have_the_keys_of_their_baselines() -> None:
    report = {"value": 0.3, "by_seed": [0.2, 0.4]}
    key = ("stem", "embedded", "digits", "mlp", "feature_match", "label_flip", "1.0", "none", "sampling=distinct")
    found = _of_rows(Outcome({(*key, "", "target_damage_mean"): report, (*key, "", "clean_accuracy"): {"value": None}}))
    assert found == {("stem", *KEY): (0.3, [0.2, 0.4])}
