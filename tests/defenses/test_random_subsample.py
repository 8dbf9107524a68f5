"""A random part of the rows: how many, which, and that the share of poison stays the same."""

from __future__ import annotations

import numpy as np
import pytest
from toy_poison import Counter

from subpop.defenses.random_subsample import PARTS, random_subsample
from subpop.testing.toy import gaussian
from subpop.types import BadInput, Knowledge


@pytest.mark.parametrize(("parts", "kept"), [(1, 264), (2, 132), (PARTS, 10), (1000, 1)])
def test_a_part_has_n_over_parts_rows(parts, kept):
    fit = Counter()
    found = random_subsample(gaussian(240, 2, n_poison=24).train(), fit, Knowledge(), seed=0, parts=parts)
    assert found.keep.sum() == len(fit.models[0].train) == kept
    assert found.model is fit.models[0]


def test_it_must_fail_because_the_share_of_poison_does_not_change():
    toy = gaussian(240, 2, n_poison=120)
    shares = [
        toy.poison[random_subsample(toy.train(), Counter(), Knowledge(), seed=seed, parts=10).keep].mean() for seed in range(60)
    ]
    assert np.mean(shares) == pytest.approx(1 / 3, abs=4 * np.std(shares) / np.sqrt(60))


def test_rows_are_drawn_by_content_and_seed():
    toy = gaussian(240, 2)
    order = np.random.default_rng(1).permutation(240)
    keep = random_subsample(toy.train(), Counter(), Knowledge(), seed=3).keep
    again = random_subsample(toy.reordered(order).train(), Counter(), Knowledge(), seed=3).keep
    np.testing.assert_array_equal(again, keep[order])
    assert not np.array_equal(random_subsample(toy.train(), Counter(), Knowledge(), seed=4).keep, keep)


@pytest.mark.parametrize("parts", [0, -3, 2.5, True])
def test_parts_are_whole_numbers(parts):
    with pytest.raises(BadInput, match=r"parts=.* must be a whole number of at least 1"):
        random_subsample(gaussian(20, 2).train(), Counter(), Knowledge(), seed=0, parts=parts)
