"""Rank correlations: scipy's without censoring, by hand with it, and resampled groups as repeated rows."""

import numpy as np
import pytest
from scipy.stats import kendalltau

from subpop.results.rank_correlation import RESAMPLES, Ranks, interval, kendall, partial_kendall, resampled
from subpop.types import BadInput


def tau(x, y, censored=None, **how):
    return kendall(Ranks.of(np.array(x, float)), Ranks.of(np.array(y, float), censored), **how)[0]


@pytest.mark.parametrize("values", [1000, 4])
def test_without_censoring_it_is_scipys(values):
    """With 4 different values of 12 there are ties: tau-b."""
    g = np.random.default_rng(values)
    for _ in range(20):
        x, y = g.integers(0, values, (2, 12))
        assert tau(x, y) == pytest.approx(kendalltau(x, y).statistic, abs=1e-12)


def test_only_pairs_of_known_order_count():
    beyond_2 = np.array([False, True, False, False])
    # 2+ is above 1; whether it is above 3 and 4 is unknown.
    assert tau([1, 2, 3, 4], [1, 2, 3, 4], beyond_2) == 1
    # Known: 3 > 1, 3 < 4, 2+ > 1, 1 < 4: two discordant pairs and two concordant ones.
    assert tau([1, 2, 3, 4], [3, 2, 1, 4], beyond_2) == 0
    # A value equal to the limit is below it; two censored values are no pair.
    assert tau([1, 2], [2, 2], np.array([False, True])) == 1
    assert np.isnan(tau([1, 2], [2, 9], np.array([True, True])))
    assert np.isnan(tau([1, 1, 1], [1, 2, 3]))


def test_censored_as_if_observed_would_differ():
    x, y = np.arange(6.0), np.array([1, 2, 3, 3, 2, 1.0])
    late = np.arange(6) >= 3
    assert tau(x, y) == pytest.approx(kendalltau(x, y).statistic)
    # Known pairs: three of the first three, (0, 3) (0, 4) (0, 5) (1, 3) (1, 4) (2, 3), all concordant.
    assert tau(x, y, late) == 1


def test_a_resampled_group_counts_as_often_as_it_is_drawn():
    g = np.random.default_rng(0)
    x, y = g.integers(0, 6, (2, 9)).astype(float)
    weights = resampled(9, g)
    assert weights.shape == (RESAMPLES, 9)
    assert (weights.sum(axis=1) == 9).all()
    found = kendall(Ranks.of(x), Ranks.of(y), weights)
    for own, value in list(zip(weights, found, strict=True))[:30]:
        rows = np.repeat(np.arange(9), own.astype(int))
        np.testing.assert_allclose(value, kendalltau(x[rows], y[rows]).statistic, atol=1e-12)


def test_partial_by_hand():
    """Of 1 2 3 4, 1 2 4 3 and 2 1 3 4: taus 2/3, 2/3 and 1/3; (2/3 - 2/9) / sqrt(5/9 * 8/9)."""
    x, y, z = (Ranks.of(np.array(v, float)) for v in ([1, 2, 3, 4], [1, 2, 4, 3], [2, 1, 3, 4]))
    assert (kendall(x, y)[0], kendall(x, z)[0], kendall(y, z)[0]) == pytest.approx((2 / 3, 2 / 3, 1 / 3))
    assert partial_kendall(x, y, z)[0] == pytest.approx((2 / 3 - 2 / 9) / (5 / 9 * 8 / 9) ** 0.5)


def test_partial_correlations_are_correlations_whatever_is_censored():
    g = np.random.default_rng(1)
    for _ in range(50):
        x, z = (Ranks.of(g.normal(size=8)) for _ in range(2))
        y = Ranks.of(g.normal(size=8), g.random(8) < 0.5)
        found = partial_kendall(x, y, z, resampled(8, g)[:200])
        assert (np.abs(found[np.isfinite(found)]) <= 1 + 1e-9).all()


def test_intervals():
    assert interval(np.append(np.linspace(0, 1, 1001), np.nan)) == pytest.approx((0.025, 0.975))
    assert np.isnan(interval(np.array([np.nan]))).all()


@pytest.mark.parametrize("share", [0, 0.2])
def test_the_interval_covers_the_true_tau(share):
    """Of normal variables tau is 2 / pi * arcsin(rho); 12 groups, the largest share of values censored."""
    g, hits = np.random.default_rng(2), 0
    rho, n, samples = 0.7, 12, 200
    for _ in range(samples):
        x = g.normal(size=n)
        y = rho * x + (1 - rho**2) ** 0.5 * g.normal(size=n)
        limit = np.quantile(y, 1 - share)
        low, high = interval(kendall(Ranks.of(x), Ranks.of(np.minimum(y, limit), y > limit), resampled(n, g)))
        hits += low <= 2 / np.pi * np.arcsin(rho) <= high
    assert 0.92 <= hits / samples < 1


def test_nan_has_no_rank():
    with pytest.raises(BadInput, match="1 of 3 values are NaN"):
        Ranks.of(np.array([1, np.nan, 3]))
