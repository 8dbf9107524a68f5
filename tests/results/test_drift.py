"""Whether numbers that deviate together are noticed, while each is within its own tolerance."""

from __future__ import annotations

import csv
import subprocess
from pathlib import Path

import numpy as np
import pytest
from drift_bank import Group, synthetic, table, upper_bound
from small_projects import SUITE, make_project, numbers, run

from subpop.results.drift import LIMIT, Drift, deviations, drifts
from subpop.results.references import COLUMNS, References, cell_key
from subpop.types import Cell, CellResult, Number

CELL = Cell.of("stem", "embedded", "digits", "mlp", "feature_match", "label_flip", 1.0, sampling="distinct", n_seeds=2)
METRICS = ("target_damage_mean", "target_damage_worst_1", "target_damage_worst_5", "collateral_damage_max", "clean_accuracy")
SEEDS, ATOL = (0.30, 0.50), 0.10


def row(metric: str, **changes: str) -> dict[str, str]:
    own = {"metric": metric, "subpopulation": "", "value": "0.4", "std": "0.1", "n_seeds": "2", "by_seed": "0.3 0.5 0.7 0.9"}
    return {**dict.fromkeys(COLUMNS, ""), "tier": "embedded", "victim": "mlp", "atol": str(ATOL), **own, **changes}


def references(**changes: str) -> dict[str, References]:
    rows = {("", metric): row(metric, **changes) for metric in METRICS}
    return {"stem": References(Path("stem.csv"), {cell_key(CELL): rows})}


def result(by: float, metrics: tuple[str, ...] = METRICS, cell: Cell = CELL) -> CellResult:
    """A run whose numbers are all worse for the victim by this."""
    signs = [-1 if metric == "clean_accuracy" else 1 for metric in metrics]
    seeds = [tuple(seed + sign * by for seed in SEEDS) for sign in signs]
    return CellResult(cell, tuple(Number(m, float(np.mean(s)), std=0.1, by_seed=s) for m, s in zip(metrics, seeds, strict=True)))


def test_deviations_are_in_tolerances_and_positive_where_the_victim_is_worse_off() -> None:
    assert deviations((0.35, 0.50), row("target_damage_mean")) == pytest.approx([0.5, 0.0])
    assert deviations((0.35, 0.50), row("clean_accuracy")) == pytest.approx([-0.5, 0.0])


def test_a_common_shift_of_half_a_tolerance_is_red_and_a_fifth_of_one_is_not() -> None:
    (small,), (large,) = drifts([result(0.02)], references()), drifts([result(-0.05)], references())
    assert (small.by_seed, small.n_numbers, small.is_red) == (pytest.approx([0.2, 0.2]), 5, False)
    assert (large.by_seed, large.is_red) == (pytest.approx([-0.5, -0.5]), True)
    assert "5 stochastic numbers of stem with mlp" in str(large)
    assert "-0.50 of their tolerance" in str(large)


def test_numbers_that_deviate_in_both_directions_are_no_drift() -> None:
    apart = [*result(0.08, METRICS[:2]).numbers, *result(-0.08, METRICS[2:4]).numbers, *result(0.0, METRICS[4:]).numbers]
    (found,) = drifts([CellResult(CELL, tuple(apart))], references())
    assert found.mean == pytest.approx(0.0)
    assert not found.is_red


def test_a_suite_is_tested_only_where_all_its_numbers_were_measured_with_the_seeds_of_their_references() -> None:
    assert drifts([result(0.05, METRICS[:4])], references()) == []
    assert drifts([result(0.05, cell=CELL.with_(n_seeds=4))], references()) == []
    assert drifts([result(0.05)], references(by_seed="")) == []
    assert drifts([result(0.05)], references(atol="inf")) == []


def test_cells_of_other_numbers_of_seeds_are_tested_apart() -> None:
    """The two worlds have 30 draws, and the theory's cells of the same suite and victim three seeds."""
    cell = CELL.with_(n_seeds=3, rate=0.5)
    own = {("", metric): row(metric, n_seeds="3", by_seed="0.3 0.5 0.4") for metric in METRICS}
    both = References(Path("stem.csv"), {**references()["stem"].rows, cell_key(cell): own})
    others = [Number(metric, 0.4, std=0.1, by_seed=(0.3, 0.5, 0.4)) for metric in METRICS]
    found = drifts([result(-0.05), CellResult(cell, tuple(others))], {"stem": both})
    assert [(each.n_numbers, len(each.by_seed), each.is_red) for each in found] == [(5, 2, True), (5, 3, False)]
    assert len(drifts([result(-0.05)], {"stem": both})) == 1


# --- the bank ---------------------------------------------------------------------------------------------------------


def test_a_synthetic_run_is_compared_with_the_other_kernels_on_its_own_seeds() -> None:
    of_seeds = np.random.default_rng(0).normal(size=(3, 60))  # as large as three tolerances, and the same under all kernels
    apart = np.array([0.0, 0.1, -0.1])[:, None, None]
    found = synthetic(Group("suite", of_seeds + apart, 5), 300, np.random.default_rng(1))
    assert {round(abs(value), 6) for value in found.common} == {0.0, 0.15}
    assert found.largest == pytest.approx(np.abs(found.common))
    moved = synthetic(Group("suite", of_seeds + apart, 5), 300, np.random.default_rng(1), 0.5)
    assert moved.is_red.all()


def test_noise_between_kernels_of_a_whole_tolerance_is_red() -> None:
    values = np.random.default_rng(0).normal(scale=3, size=(4, 10, 60))
    lines, n_red = table([Group("suite", values, 5)], n_runs=50)
    assert n_red == 50
    assert lines["red without a change"].tolist() == ["100.0%"]


def test_the_upper_bound_of_no_event_in_a_thousand_runs() -> None:
    assert upper_bound(0, 1000) == pytest.approx(1 - 0.05 ** (1 / 1000))
    assert upper_bound(1000, 1000) == 1.0


# --- a run ------------------------------------------------------------------------------------------------------------


def test_a_run_whose_cells_all_pass_is_red_if_its_numbers_have_drifted_together(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    suite = project / "benchmarks" / "test_little.py"
    suite.write_text(
        SUITE.replace("logistic_regression", "mlp")
        .replace('"none", "trim", "matched_random_filter:trim"', '"none"')
        .replace("RATES", "[0.5, 1.0]")
    )
    assert "References were rewritten" in run(project, "--rebaseline").stdout
    assert "Passed" in run(project).stdout
    assert "compared with their references as a whole" in (project / "runs/report/README.md").read_text()
    before = numbers(project)
    _shift_references(project / "baselines" / "little.csv", 0.45)
    red = run(project)
    assert numbers(project) == before
    page = (project / "runs/report/README.md").read_text()
    assert red.returncode == 1
    assert "2 cells pass" in red.stdout
    assert "stochastic numbers of little with mlp deviate from their references by -0.45" in red.stdout
    assert "**Failed: 1 suite whose numbers have drifted together.**" in page.splitlines()[2]
    assert f"(limit {LIMIT:g})" in page
    assert "drift" in (project / "runs/report/results.json").read_text()
    assert "**Passed.**" in _partly(project)


def _partly(project: Path) -> str:
    """The page of a run of one of the two cells, which are not the whole suite."""
    done: subprocess.CompletedProcess[str] = run(project, "-k", "test_cell and 0.5")
    assert done.returncode == 0, done.stdout
    return (project / "runs/report/README.md").read_text()


def _shift_references(path: Path, by: float) -> None:
    """Move the references of all numbers up by a part of their tolerances, or down where larger is better for the victim."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for each in rows:
        if each["by_seed"]:
            move = by * float(each["atol"]) * (-1 if "accuracy" in each["metric"] else 1)
            each["value"] = repr(float(each["value"]) + move)
            each["by_seed"] = " ".join(repr(float(value) + move) for value in each["by_seed"].split())
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def test_a_drift_says_how_far() -> None:
    assert Drift("stem", "mlp", (0.2, 0.4), 7).mean == pytest.approx(0.3)
