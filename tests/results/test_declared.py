"""What counts as the declared success or failure of a defense."""

import numpy as np
import pytest

from subpop.report.tables.cards import cards, declared_cells
from subpop.results.declared import Outcome, outcome
from subpop.results.paired import BY_SEED, Difference
from subpop.types import BadInput, Cell, CellResult, Number
from subpop.types.card import Declared


def result(split, damages, accuracy):
    """A cell of three subpopulations with the same damage under two seeds."""
    cell = Cell.of("cards", "embedded", "mixture", "knn_1", "feature_match", rate=1.0, split=split)
    numbers = (
        Number("target_damage_mean", float(np.mean(damages))),
        Number("clean_accuracy", 0.9),
        Number("defended_clean_accuracy", accuracy),
    )
    table = tuple({"subpopulation": f"g{i}", "n_test": 30.0} for i in range(3))
    return CellResult(cell, numbers, table, arrays={BY_SEED: np.tile(np.array(damages)[:, None], 2)}, exact=True)


def test_means_over_splits_and_the_paired_difference_by_hand():
    plain = [result(s, [0.3, 0.4, 0.5], 0.9) for s in range(3)]
    own = [result(s, [0.0, 0.1, 0.02 * s], 0.88) for s in range(3)]
    found = outcome(own, plain, plain)
    assert (found.undefended, found.control) == (pytest.approx(0.4), pytest.approx(0.4))
    assert found.defended == pytest.approx(0.04)
    assert found.share_gone == pytest.approx(0.9)
    assert found.cost == pytest.approx(0.02)
    assert found.difference.value == pytest.approx(-0.36)


@pytest.mark.parametrize(
    ("undefended", "defended", "cost", "expected"),
    [
        (0.2, 0.04, 0.02, True),
        (0.19, 0.0, 0.0, False),
        (0.4, 0.081, 0.0, False),
        (0.4, 0.0, 0.021, False),
        (0.0, 0.0, 0.0, False),
    ],
)
def test_what_is_a_success(undefended, defended, cost, expected):
    assert Outcome(undefended, defended, undefended, cost, Difference()).is_success is expected


@pytest.mark.parametrize(("control", "defended", "expected"), [(0.3, 0.26, True), (0.3, 0.24, False), (0.3, 0.5, True)])
def test_what_is_a_failure(control, defended, expected):
    assert Outcome(0.3, defended, control, 0.0, Difference()).is_failure is expected


def test_a_declared_case_is_complete_and_leaves_the_rest_to_the_suite():
    assert Declared("why", dataset="mixture", victim="knn_1", rate=1).cell["partition"] == "feature_match"
    with pytest.raises(BadInput, match="needs dataset, victim and rate; victim, rate is missing"):
        Declared("why", dataset="mixture")
    with pytest.raises(BadInput, match="cannot set split"):
        Declared("why", dataset="mixture", victim="knn_1", rate=1, split=0)


def test_the_settings_of_a_case_are_those_of_its_own_defense_only():
    """Confident learning succeeds with a setting, which its matched control has too; it fails with its defaults."""
    card = cards()["confident_learning"]
    names = {
        defense: {cell.defense for cell in declared_cells(card.succeeds, defense)}
        for defense in ("confident_learning", "none", "random_filter", "matched_random_filter:confident_learning")
    }
    own = "confident_learning(filter_by='predicted_neq_given')"
    assert names == {
        "confident_learning": {own},
        "none": {"none"},
        "random_filter": {"random_filter"},
        "matched_random_filter:confident_learning": {f"matched_random_filter:{own}"},
    }
    assert {cell.defense for cell in declared_cells(card.fails, "confident_learning")} == {"confident_learning"}
    assert Declared("why", {"k": 3}, dataset="mixture", victim="mlp", rate=1).settings == {"k": 3}
