"""Proportional sampling: shares worked by hand, the cell that tips first, margins that it cannot turn, and trees."""

from itertools import product

import numpy as np
import pytest
from counting import Cells, damage, pool_of, task_of

from subpop.attacks import ATTACKS
from subpop.attacks.proportional import FLOOR, Proportional, sample_in_proportion
from subpop.experiments.experiment import Experiment
from subpop.runtime.no_store import NoStore
from subpop.types import BadInput, Trial
from subpop.types.grid import grid

# Cells 0 and 1 are one subpopulation of label 0; 1 holds four rows of label 1 beside five, 0 none beside nine.
SIDE = [(0, 0, 9), (1, 0, 5), (1, 1, 4), (2, 1, 9)]
POOL = pool_of(SIDE, SIDE)


def model():
    return Cells(POOL.x[POOL.n_train :], POOL.y[POOL.n_train :])


def drawn(count, seed=0, **settings):
    return sample_in_proportion(
        task_of(POOL, [0, 1], count, settings=Proportional(**settings), model=model(), seed=seed, target=1)
    )


def test_rows_are_drawn_in_proportion_to_the_models_belief():
    """Rows of cell 0 weigh 0, those of cell 1 4/9 as label 1; a hundredth of the mean is added."""
    belief = np.where(POOL.x[POOL.n_train :][:18].ravel() == 1, np.round(4 / 9, 6), 0)
    weights = belief + FLOOR * belief.mean()
    expected = weights[belief == 0].sum() / weights.sum()
    many = drawn(20_000)
    in_0 = (POOL.x[many.rows] == 0).mean()
    assert expected == pytest.approx(0.00495, abs=5e-6)
    assert in_0 == pytest.approx(expected, abs=4 * (expected / 20_000) ** 0.5)
    assert set(np.unique(many.rows - POOL.n_train)) >= set(range(9, 18))
    assert many.n_flipped == (POOL.y[many.rows] == 0).sum() < len(many)  # cell 1 holds rows of label 1
    assert (many.y == 1).all()


@pytest.mark.parametrize("sampling", ["distinct", "with_replacement"])
def test_a_smaller_count_draws_the_first_rows(sampling):
    most = drawn(18, sampling=sampling)
    assert np.array_equal(drawn(5, sampling=sampling).rows, most.rows[:5])
    assert (len(set(most.rows.tolist())) == 18) == (sampling == "distinct")
    assert not len(drawn(0, sampling=sampling))
    if sampling == "distinct":
        assert (POOL.x[most.rows[:9]] == 1).mean() > 0.8
        with pytest.raises(BadInput, match="19 distinct poison rows"):
            drawn(19, sampling=sampling)


def test_the_cell_that_tips_first_gets_the_poison():
    """Of all ways to place two rows, only those with both in cell 1 turn a prediction; label flipping seldom finds them."""
    best = {}
    for cells in product([0, 1], repeat=2):
        rows = np.array([POOL.n_train + 9 * cell for cell in cells])
        poison = type(drawn(0))(rows, np.ones(2, np.int64), 2)
        best[cells] = damage(POOL, poison, 0) + damage(POOL, poison, 1)
    assert {cells for cells, total in best.items() if total} == {(1, 1)}
    found = [damage(POOL, drawn(2, seed), 1) for seed in range(50)]
    flips = [damage(POOL, ATTACKS["label_flip"](task_of(POOL, [0, 1], 2, seed=seed, target=1)), 1) for seed in range(50)]
    assert np.mean(found) > 0.9 > 0.5 > np.mean(flips)


def test_a_margin_larger_than_the_poison_cannot_be_turned():
    pool = pool_of([(0, 0, 9), (1, 1, 9)], [(0, 0, 9), (1, 1, 9)])
    task = task_of(pool, [0], 9, model=Cells(pool.x[pool.n_train :], pool.y[pool.n_train :]), settings=Proportional())
    poison = sample_in_proportion(task)  # no row is believed at all: every row is equally likely
    assert poison.n_flipped == 9
    assert damage(pool, poison, 0) == 0


def test_without_a_model_it_is_refused():
    with pytest.raises(BadInput, match="give draw_poison an attacker"):
        sample_in_proportion(task_of(POOL, [0], 1, settings=Proportional()))


def test_it_runs_on_trees():
    tree = "sklearn.tree:DecisionTreeClassifier"
    names = {"stem": "s", "tier": "embedded", "dataset": "digits", "victim": tree, "partition": "feature_match"}
    target = grid(**names, rate=1.0, attack="proportional", n_seeds=1)[0]
    experiment = Experiment.on(NoStore())
    prepared = experiment.prepare(target, Trial("digit=8", 0))
    stage = experiment.context.stage(target)
    poison = prepared.rows >= stage.pool.n_train
    assert poison.sum() == prepared.n_poison == prepared.flipped.sum() > 30
    assert np.isin(prepared.rows[poison], stage.aux_members("digit=8")).all()
    assert len(experiment.run_chunk(target, [Trial("digit=8", 0)])) == 1
