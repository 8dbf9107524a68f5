"""Controls: the rows of label flipping with their own labels, as many flips elsewhere, and what neither of them can damage."""

import numpy as np
import pytest
from counting import damage, pool_of, task_of

from subpop.attacks import ATTACKS
from subpop.attacks.control_attacks import Control, flip_another_group, keep_labels, scatter_flips
from subpop.attacks.label_flip import flip_labels
from subpop.experiments.experiment import Experiment
from subpop.runtime.no_store import NoStore
from subpop.runtime.seeds import draw_identity
from subpop.types import BadInput, Trial
from subpop.types.grid import grid
from subpop.types.specifications import attack_specification

TEN = [(cell, cell % 2, 6) for cell in range(10)]
POOL = pool_of(TEN, TEN)
BASE = {
    "stem": "s",
    "tier": "embedded",
    "dataset": "digits",
    "victim": "logistic_regression",
    "partition": "feature_match",
    "rate": 1.0,
    "n_seeds": 2,
}


def cell(**changes):
    return grid(**{**BASE, **changes})[0]


@pytest.fixture(scope="module")
def experiment():
    return Experiment.on(NoStore())


# --- counting labels in cells: flips of a cell beyond its margin are the best poison, and only they do damage ----------


@pytest.mark.parametrize("seed", range(4))
def test_only_flips_in_the_cell_damage_a_victim_that_counts(seed):
    def attacked(make):
        return damage(POOL, make(task_of(POOL, [4], 7, seed=seed)), 4)

    assert attacked(flip_labels) == 1  # 7 flips against 6 clean rows
    assert attacked(keep_labels) == attacked(scatter_flips) == attacked(flip_another_group) == 0
    elsewhere = flip_another_group(task_of(POOL, [4], 7, seed=seed))
    (other,) = set(POOL.x[elsewhere.rows].ravel().tolist())
    assert damage(POOL, elsewhere, int(other), label=int(other) % 2) == 1


def test_own_labels_are_those_of_the_rows_that_label_flipping_draws():
    flipped, kept = flip_labels(task_of(POOL, [4, 5], 9)), keep_labels(task_of(POOL, [4, 5], 9))
    assert np.array_equal(kept.rows, flipped.rows)
    assert np.array_equal(kept.y, 1 - flipped.y)
    assert np.array_equal(kept.y, POOL.y[kept.rows])
    assert kept.n_flipped == 0


@pytest.mark.parametrize("sampling", ["distinct", "with_replacement"])
def test_scattered_flips_are_of_the_same_kinds_all_over_the_sample(sampling):
    def drawn(make, count, seed=0):
        return make(task_of(POOL, [4, 5], count, settings=Control(sampling=sampling), seed=seed))

    flipped, scattered = drawn(flip_labels, 10), drawn(scatter_flips, 10)
    assert np.array_equal(scattered.y, flipped.y)
    assert np.array_equal(POOL.y[scattered.rows], POOL.y[flipped.rows])
    assert scattered.n_flipped == flipped.n_flipped == 10
    assert (scattered.rows >= POOL.n_train).all()
    seen = {x for seed in range(20) for x in POOL.x[drawn(scatter_flips, 10, seed).rows].ravel().tolist()}
    assert seen == set(range(10))
    if sampling == "distinct":
        assert len(set(scattered.rows.tolist())) == 10
    else:
        assert len(set(drawn(scatter_flips, 40).rows.tolist())) < 40
    assert np.array_equal(drawn(scatter_flips, 4).rows, scattered.rows[:4])


def test_rows_that_have_the_label_already_are_flipped_nowhere():
    flipped, scattered = (make(task_of(POOL, [4, 5], 12, target=1)) for make in (flip_labels, scatter_flips))
    assert 0 < scattered.n_flipped == flipped.n_flipped < 12
    assert (POOL.y[scattered.rows] != 1).sum() == scattered.n_flipped


def test_the_other_group_is_the_nearest_in_size():
    pool = pool_of(TEN, [(0, 0, 9), (1, 1, 5), (2, 0, 2), (3, 1, 8), (4, 0, 5)])

    def chosen(cell, count=2, **changes):
        own = Control(sampling="distinct")
        return set(pool.x[flip_another_group(task_of(pool, [cell], count, settings=own, **changes)).rows].ravel().tolist())

    assert chosen(0) == {3}
    assert chosen(2) == {1}  # and not 4, which has as many rows and comes later
    assert chosen(1) == {4}
    assert chosen(4, count=6) == {3}  # 1 has too few distinct rows
    assert chosen(0, target=1) == {4}  # 3 has this label already
    with pytest.raises(BadInput, match="second subpopulation with 9 rows"):
        chosen(0, count=9)
    groups = np.where(pool.x[pool.n_train :].ravel() == 0, 0, -1)  # rows of no subpopulation are none
    with pytest.raises(BadInput, match="a partition with more subpopulations"):
        chosen(0, groups=groups)


# --- in the harness -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", ["own_label", "scattered_flips", "other_group"])
def test_a_control_is_paired_with_label_flipping(experiment, attack):
    """The same shuffle, so that poison rows have the same places; of `own_label` it is the same rows."""
    control, trial = cell(attack=attack), Trial("digit=3", 1)
    assert control.plain() == cell()
    assert cell().with_(attack=attack) == control
    assert draw_identity(control) == draw_identity(cell())
    ours, theirs = experiment.prepare(control, trial), experiment.prepare(cell(), trial)
    n = experiment.context.stage(cell()).pool.n_train
    assert np.array_equal(ours.rows >= n, theirs.rows >= n)
    assert ours.n_poison == theirs.n_poison
    assert ours.flipped.sum() == (0 if attack == "own_label" else theirs.flipped.sum())
    assert np.array_equal(ours.rows, theirs.rows) == (attack == "own_label")
    assert np.array_equal(ours.member, theirs.member)  # damage is measured on the target


def test_net_damage_is_the_gain_of_the_control_with_the_other_sign(experiment):
    flips, control = experiment.run(cell()), experiment.run(cell(attack="own_label"))
    net = flips["target_damage_mean"] - control["target_damage_mean"]
    assert control["gain_over_label_flip"] == pytest.approx(-net, abs=1e-12)
    assert net > 0.05


def test_attacks_are_compared_with_their_like():
    feasible = {name: attack_specification(name).feasible for name in ATTACKS}
    assert feasible["label_flip"] == feasible["proportional"] != feasible["near_neighbours"]
    assert feasible["label_flip"] == feasible["best_of_list"] == feasible["adaptive"]
    assert feasible["gradient_match"] == feasible["influence"] != feasible["label_flip"]
    assert feasible["own_label"] == feasible["scattered_flips"] == feasible["other_group"]
    assert "control" in feasible["own_label"]
