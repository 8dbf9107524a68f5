"""Certified damage of an ensemble in whole cells: never below the measured one, and computed once."""

from __future__ import annotations

import numpy as np
import pytest

from subpop.defenses.certificates import collective
from subpop.experiments.experiment import Experiment
from subpop.runtime.no_store import NoStore
from subpop.runtime.store import Store
from subpop.types import Cell, Trial
from subpop.types.grid import grid

CLUSTERS = {
    "stem": "s",
    "tier": "embedded",
    "dataset": "digits",
    "victim": "logistic_regression",
    "partition": "cluster_match",
    "sampling": "distinct",
    "defense": "dpa",
    "n_attacked": 5,
    "n_seeds": 2,
}


def cell(**changes: object) -> Cell:
    return grid(**{**CLUSTERS, "rate": 0.1, **changes})[0]


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.2])
def test_certified_damage_is_never_below_the_measured_one(rate):
    """For every subpopulation and seed; at these rates an attack has 1 to 8 rows, and DPA eleven members."""
    experiment = Experiment.on(NoStore())
    own = cell(rate=rate)
    found = experiment.run(own)
    assert len(found.table) == 5
    for row in found.table:
        assert row["collective_damage"] >= row["target_damage"] - 1e-12, row["subpopulation"]
    assert found["collective_solved"] == 1
    assert found["collective_share"] > 0 if rate < 0.2 else found["collective_share"] < 1
    assert found["pointwise_damage_mean"] >= found["collective_damage_mean"] >= found["target_damage_mean"]
    trials = {result.trial: result for result in experiment.trials(own)[0]}
    votes = trials[Trial("", 0, attacked=False)].arrays["votes"]
    assert votes.shape == (597, 11)
    assert votes.dtype == np.uint8
    assert "votes" not in trials[Trial(found.table[0]["subpopulation"], 0)].arrays


def test_certificates_are_computed_once(tmp_path, monkeypatch):
    with Store(tmp_path / "s.sqlite") as store:
        first = Experiment.on(store).run(cell())
        monkeypatch.setattr(collective, "most_wrong", None)  # called again, it would fail
        assert Experiment.on(store).run(cell())["collective_damage_mean"] == first["collective_damage_mean"]
        with pytest.raises(TypeError):
            Experiment.on(store).run(cell(rate=0.2))


def test_what_few_rows_refuse_names_the_trial_and_the_fix():
    from subpop.harness.batching import DefenseError

    with pytest.raises(DefenseError, match=r"k=11: .* parts have fewer than 30 rows.*choose k of at most about"):
        Experiment.on(NoStore()).run(cell(dataset="mixture_cells", partition="feature_match"))
