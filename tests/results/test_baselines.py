"""The committed baselines as a whole: few rows, each with the power to notice a change that matters."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from subpop.results.evidence import FEWEST_KERNELS
from subpop.results.references import References, seeds_of

FOLDER = Path(__file__).parents[2] / "baselines"
MOST_ROWS = 6000
MOST_WITHOUT_POWER = {"embedded": 0.10, "laptop": 0.20}
NO_DAMAGES = ("figure2_trim", "figure3_clusters", "impossibility", "speed", "susceptibility", "table12", "table16")
"""Suites whose cells have other headlines, such as accuracies of stages or the success of an attack on single targets."""


@pytest.fixture(scope="module")
def rows():
    """(suite, row, whether it has power) of every row that a run is compared with."""
    tables = [(path.stem, References.load(path)) for path in sorted(FOLDER.glob("*.csv"))]
    cells = [(stem, table, row) for stem, table in tables for of_cell in table.rows.values() for row in of_cell.values()]
    return [(stem, row, table.has_power(row)) for stem, table, row in cells if row["value"]]


def test_a_reviewer_can_read_what_is_gated(rows):
    assert 4000 < len(rows) <= MOST_ROWS


@pytest.mark.parametrize("tier", MOST_WITHOUT_POWER)
def test_few_rows_are_without_power(rows, tier):
    found = [has_power for _, row, has_power in rows if row["tier"] == tier]
    assert len(found) > 1000
    assert found.count(False) <= MOST_WITHOUT_POWER[tier] * len(found)


def test_every_suite_victim_and_alpha_has_a_gated_damage(rows):
    found = defaultdict(set)
    for stem, row, _ in rows:
        found[stem, row["tier"], row["victim"], row["rate"]].add(row["metric"])
    without = [key for key, names in found.items() if not any(name.startswith("target_damage") for name in names)]
    assert len(found) > 80
    assert not [key for key in without if not key[0].startswith(NO_DAMAGES)]


def test_stochastic_rows_of_the_laptop_tier_are_recorded_over_kernels(rows):
    """A reference of one kernel failed on another processor, where a network pruned on 61 rows was 5 points more accurate."""
    noisy = [(stem, row) for stem, row, _ in rows if row["detects"] and row["tier"] == "laptop"]
    assert len(noisy) > 400
    single = {(stem, row["victim"]) for stem, row in noisy if int(row["n_kernels"]) < FEWEST_KERNELS}
    assert single == {("imdb_cluster_match", "minilm_last_layer"), ("table16_influence", "resnet56_cifar10_last_layer")}


def test_stochastic_rows_of_the_embedded_tier_keep_their_evidence(rows):
    """Their spread over at least five different kernels, and twice as many seeds as a run has; shares are no means over seeds."""
    noisy = [row for _, row, _ in rows if row["std"] and row["tier"] == "embedded"]
    assert len(noisy) > 400
    fewest = {"last_layer": 3, "tiny_bert_last_layer": 3}  # an order of rows does not change the training of the former
    assert not [row for row in noisy if not row["kernel_std"] or int(row["n_kernels"]) < fewest.get(row["victim"], 5)]
    assert not [row for row in noisy if row["by_seed"] and len(seeds_of(row)) < 2 * int(row["n_seeds"])]
    small = [row for row in noisy if row["victim"] not in fewest]
    assert {row["metric"] for row in small if not row["by_seed"]} <= {"share_without_damage", "share_within_published"}
