from dataclasses import replace

import numpy as np
import pytest

from subpop.attacks.drawing import base_size, draw_poison
from subpop.datasets import load_dataset
from subpop.datasets.stage import build_stage, split_data
from subpop.runtime.seeds import derived_seed, draw_identity
from subpop.types import Cell
from subpop.types.grid import grid


def cell(**changes) -> Cell:
    base = {"stem": "s", "tier": "embedded", "dataset": "digits", "victim": "mlp", "partition": "feature_match", "rate": 1.0}
    return grid(**{**base, **changes})[0]


def stage_of(target: Cell):
    return build_stage(target, split_data(target, load_dataset(target.dataset)))


def test_pool_rows_are_d_then_d_aux():
    stage = stage_of(cell())
    n = stage.pool.n_train
    np.testing.assert_array_equal(stage.pool.x[:n], stage.dataset.x[stage.data.splits.train])
    np.testing.assert_array_equal(stage.pool.x[n:], stage.dataset.x[stage.data.splits.aux])
    digits = stage.dataset.annotations["digit"]
    members = stage.aux_members("digit=4")
    assert members.min() >= n
    assert set(digits[stage.data.splits.aux[members - n]]) == {4}
    assert set(digits[stage.data.splits.test[stage.test_members("digit=4")]]) == {4}
    assert set(digits[stage.data.splits.train[stage.train_members("digit=4")]]) == {4}


def test_alpha_counts_rows_of_a_set_as_large_as_d():
    stage = stage_of(cell())
    assert base_size(stage, cell(), "digit=4") == len(stage.aux_members("digit=4"))
    assert base_size(stage, cell(alpha_base="train"), "digit=4") == stage.train_members("digit=4").sum()
    reserve = stage_of(cell(protocol="reserve"))
    assert base_size(reserve, cell(protocol="reserve"), "digit=4") == pytest.approx(
        len(reserve.aux_members("digit=4")) / 2, rel=0.01
    )


def test_poison_flips_members_of_the_subpopulation_in_d_aux():
    stage = stage_of(cell())
    poison = draw_poison(stage, cell(), "digit=4", 0, None)
    assert len(poison) == poison.n_flipped == len(stage.aux_members("digit=4"))
    assert set(poison.rows) <= set(stage.aux_members("digit=4"))
    assert (poison.y == 1 - stage.pool.y[poison.rows]).all()
    rarest = draw_poison(stage, cell(label_rule="rarest"), "digit=4", 0, None)
    assert set(rarest.y) == {1}


def test_an_attack_is_the_same_whoever_learns_and_defends():
    others = {"victim": "x", "encoder": "tiny", "max_length": 64, "defense": "trim", "n_poison_told": "half", "holdout": 0.1}
    assert draw_identity(cell()) == draw_identity(cell(**others, panels="yes", ranked_by="none", n_attacked=3))
    for change in ({"split": 1}, {"protocol": "reserve"}, {"partition": "x"}, {"label_rule": "common"}, {"sampling": "distinct"}):
        assert draw_identity(cell()) != draw_identity(cell(**change))
    assert derived_seed("a", 1) != derived_seed("a1")
    assert 0 <= derived_seed("a") < 2**63


def test_the_fingerprint_knows_data_split_and_partition():
    prints = {stage_of(cell(**c)).fingerprint for c in ({}, {"split": 1}, {"partition": "cluster_match"}, {"dataset": "mixture"})}
    assert len(prints) == 4


@pytest.mark.parametrize("side", ["train", "aux", "test"])
def test_the_fingerprint_knows_the_rows_of_each_side_and_their_order(side, monkeypatch):
    """What a victim gets right is stored by test row, under a key that holds this fingerprint alone."""
    data = load_dataset("digits")
    before = split_data(cell(), data)
    turned = replace(before.splits, **{side: getattr(before.splits, side)[::-1]})
    monkeypatch.setattr("subpop.datasets.stage.split", lambda *_: turned)
    assert split_data(cell(), data).fingerprint != before.fingerprint
