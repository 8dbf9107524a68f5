"""Label-flip certificates: published vectors, laws written out, and every set of flips of thousands of small problems."""

from __future__ import annotations

import itertools
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import binom

from subpop.defenses.certificates import (
    MAX_RADIUS,
    chernoff,
    kl_radius,
    neyman_pearson_radius,
    pairwise_exact_radius,
    pairwise_log_bounds,
)
from subpop.defenses.certificates.noise import SLACK, _limits, _table_size
from subpop.types import BadInput

NOISE = (0.1, 0.2, 0.3, 0.4, 0.45)


def one_pair(margins):
    """Margins (T, n) of two classes as weights, labels and predictions: class 0 wins, and all training rows have its label."""
    return margins, np.zeros(margins.shape[1], int), np.zeros(len(margins), int)


def chernoff_log_bound(margins, q):
    """(T,) log B for two classes. margins: (T, n) alpha_i * s_i * (predicted sign), labels s_i in {-1, 1}."""
    return pairwise_log_bounds(*one_pair(margins), noise=[q], n_classes=2)[0]


def exact_radius(margins):
    """(T,) for two classes: the largest r with 2 * (sum of the r largest margins) < sum of all."""
    return pairwise_exact_radius(*one_pair(margins), n_classes=2)


# --- vectors and closed forms -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "q", "bound", "kl", "neyman_pearson", "losing", "from_losing"),
    [
        (25, 0.3, 0.1131074, 1, 1, 0.01746974, 6),
        (101, 0.4, 0.1272616, 5, 8, 0.02089669, 25),
        (1001, 0.4, 1.338912e-9, 117, 218, 8.0798e-11, 252),
    ],
)
def test_equal_weights(n, q, bound, kl, neyman_pearson, losing, from_losing):
    margins = np.full((1, n), 1 / n)
    log_b = chernoff_log_bound(margins, q)
    assert np.exp(log_b[0]) == pytest.approx(bound, rel=1e-6)
    assert log_b[0] == pytest.approx(n * np.log(2 * np.sqrt(q * (1 - q))), abs=1e-9)
    assert kl_radius(log_b, q).tolist() == [kl]
    assert neyman_pearson_radius(log_b, q).tolist() == [neyman_pearson]
    exact = binom.logcdf((n - 1) // 2, n, 1 - q)
    assert np.exp(exact) == pytest.approx(losing, rel=1e-4)
    assert neyman_pearson_radius(np.array([exact]), q).tolist() == [from_losing]
    assert exact_radius(margins).tolist() == [(n - 1) // 2]


def test_unequal_weights():
    margins, q = np.array([[0.5, 0.25, -0.25, 0.125, 0.0625]]), 0.1

    def at(t):
        return np.logaddexp(np.log1p(-q) - t * margins[0], np.log(q) + t * margins[0]).sum()

    log_b = chernoff_log_bound(margins, q)[0]
    assert np.exp(log_b) == pytest.approx(0.4923205, abs=5e-8)
    assert log_b == pytest.approx(at(2.2734), abs=1e-8)
    assert log_b < min(at(2.2), at(2.35))
    chance = sum(
        np.prod(np.where(kept, 1 - q, q))
        for kept in itertools.product([True, False], repeat=5)
        if np.where(kept, margins[0], -margins[0]).sum() <= 0
    )
    assert chance == pytest.approx(0.1, abs=5e-5)
    assert exact_radius(margins).tolist() == [0]


@pytest.mark.parametrize(
    ("q", "kl", "neyman_pearson"),
    [(0.3, [0, 1, 4, 8], [0, 1, 7, 14]), (0.4, [0, 6, 19, 34], [0, 10, 33, 58]), (0.1, [0, 0, 0, 1], [0, 0, 1, 2])],
)
def test_radius_from_a_probability(q, kl, neyman_pearson):
    log_b = np.log1p(-np.array([0.6, 0.9, 0.99, 0.999]))
    assert kl_radius(log_b, q).tolist() == kl
    assert neyman_pearson_radius(log_b, q).tolist() == neyman_pearson


@pytest.mark.parametrize("q", NOISE)
def test_two_classes_fill_binomial_masses(q):
    """The worst case, filled atom by atom as the definition says; certified only if it wins more than half."""
    for r in range(1, 60):
        kept = np.arange(r, -1, -1)  # likelihood ratio falling
        ours, theirs = binom.pmf(kept, r, 1 - q), binom.pmf(kept, r, q)
        limit = np.exp(_limits(q, 2, 64)[r - 1])
        for p, certified in ((1 - limit * (1 - 1e-6), True), (1 - limit * (1 + 1e-6), False)):
            filled = np.minimum(1, np.maximum(0, p - (np.cumsum(ours) - ours)) / ours)
            if p < 1 - 1e-9:  # else the sum above has no digits left
                assert ((filled * theirs).sum() > 0.5) == certified


@pytest.mark.parametrize(("k", "q"), [(3, 0.1), (3, 0.45), (4, 0.3), (10, 0.6)])
def test_more_classes_fill_trinomial_masses(k, q):
    other = q / (k - 1)
    for r in range(1, 25):
        law = {
            s: sum(
                comb(r, a) * comb(r - a, a - s) * (1 - q) ** a * other ** (a - s) * (q - other) ** (r - 2 * a + s)
                for a in range(max(0, s), (r + s) // 2 + 1)
            )
            for s in range(-r, r + 1)
        }
        assert sum(law.values()) == pytest.approx(1)
        taken, chance = 0.0, 0.0
        for s in range(-r, r + 1):  # lowest first: where the vote is lost
            share = min(1.0, (0.5 - taken) / law[-s])
            taken, chance = taken + share * law[-s], chance + share * law[s]
            if share < 1:
                break
        assert _limits(q, k, 32)[r - 1] == pytest.approx(np.log(chance), rel=1e-9)


def test_limits_reach_beyond_float64():
    limits = _limits(0.1, 2, 4096)
    assert (np.diff(limits) < 0).all()
    assert limits[-1] < -5000
    log_b = limits[[0, 9, 2999]] - 1e-6
    assert neyman_pearson_radius(log_b, 0.1).tolist() == [1, 10, 3000]
    assert neyman_pearson_radius(log_b + 2e-6, 0.1).tolist() == [0, 9, 2999]
    assert kl_radius(np.array([-1e4]), 0.1).tolist() == [int((1e4 - np.log(4)) / (1.6 * np.log(9)))]
    assert kl_radius(np.array([-1e6]), 0.1).tolist() == [MAX_RADIUS]
    assert _table_size(-1e6, 0.1, 2) == MAX_RADIUS  # the largest table


def test_nothing_is_certified_from_one_half_on():
    log_b = np.array([np.log(0.5), np.log(0.7), 0.0, 3.0])
    for q in NOISE:
        assert not kl_radius(log_b, q).any()
        assert not neyman_pearson_radius(log_b, q).any()
    assert chernoff_log_bound(np.array([[1.0, -1.0], [-1.0, 0.5], [0.0, 0.0]]), 0.3).tolist() == [0, 0, 0]
    assert exact_radius(np.array([[1.0, -1.0], [-1.0, 0.5], [0.0, 0.0]])).tolist() == [0, 0, 0]
    assert neyman_pearson_radius(np.zeros(0), 0.3).shape == (0,)


@pytest.mark.parametrize("scale", [1e-200, 1e-9, 1.0, 1e9, 1e200])
def test_the_scale_of_weights_does_not_matter(scale):
    margins = np.random.default_rng(0).normal(0.3, 1, (20, 200))
    for q in NOISE:
        np.testing.assert_allclose(chernoff_log_bound(margins * scale, q), chernoff_log_bound(margins, q), atol=1e-9)
    np.testing.assert_array_equal(exact_radius(margins * scale), exact_radius(margins))


def test_a_tie_is_a_change():
    assert exact_radius(np.full((1, 10), 0.1)).tolist() == [4]
    assert exact_radius(np.full((1, 3), 0.1)).tolist() == [1]
    assert exact_radius(np.array([[4.0, 1.0, 1.0, 1.0, 1.0]])).tolist() == [0]


# --- the bound against scipy ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["normal", "heavy", "one_giant", "few"])
def test_two_classes_agree_with_scipy(shape):
    generator = np.random.default_rng(1)
    margins = generator.normal(0.4, 1, (6, 5 if shape == "few" else 130))
    if shape == "heavy":
        margins = margins**5
    if shape == "one_giant":
        margins[:, 3] = 1e4
    margins *= np.sign(margins.sum(1))[:, None]
    for q in (1e-6, *NOISE):
        for row, found in zip(margins, chernoff_log_bound(margins, q), strict=True):
            assert found == pytest.approx(_by_scipy(row, np.full(len(row), 1 - q), np.full(len(row), q)), abs=1e-6)


@pytest.mark.parametrize("k", [3, 5])
def test_more_classes_agree_with_scipy(k):
    generator = np.random.default_rng(k)
    weights, y = generator.normal(0.2, 1, (6, 90)), generator.integers(0, k, 90)
    scores = weights @ np.eye(k)[y]
    winner = scores.argmax(1)
    found = pairwise_log_bounds(weights, y, winner, NOISE, k)
    for level, q in enumerate(NOISE):
        other = q / (k - 1)
        for row, c in enumerate(winner):
            bounds = [
                _by_scipy(weights[row], np.where(y == c, 1 - q, other), np.where(y == j, 1 - q, other))
                for j in range(k)
                if j != c
            ]
            assert found[level, row] == pytest.approx(max(bounds), abs=1e-6)


def _by_scipy(a, up, down):
    """min over t of sum log(up e^-ta + down e^ta + rest), up to scale, from a fine grid's best cell."""
    a = a / np.abs(a).max()

    def at(t):
        stacked = np.stack([np.log(up) - t * a, np.log(down) + t * a, np.log(np.maximum(1 - up - down, 1e-300)) + 0 * a])
        return np.logaddexp.reduce(stacked).sum()

    grid = np.concatenate([[0], np.geomspace(1e-3, 1e4, 80)])
    best = int(np.argmin([at(t) for t in grid]))
    bounds = grid[max(0, best - 1)], grid[min(len(grid) - 1, best + 1)]
    return min(0.0, minimize_scalar(at, bounds=bounds, method="bounded", options={"xatol": 1e-9 * bounds[1]}).fun)


# --- every set of flips -----------------------------------------------------------------------------------------------


def labellings(n, k):
    """(k^n, n) all labellings, in the order of a tensor with an axis a row."""
    return np.stack(np.unravel_index(np.arange(k**n), (k,) * n), axis=1)


def smoothed(lost, n, k, q):
    """(P, k^n) probability under noise on each labelling that `lost` (P, k^n) happens: the noise works on each axis."""
    noise = np.full((k, k), q / (k - 1))
    np.fill_diagonal(noise, 1 - q)
    values = lost.astype(np.float64)
    for _ in range(n):  # the first axis is multiplied and becomes the last
        values = (values.reshape(len(lost), k, -1).transpose(0, 2, 1) @ noise).reshape(len(lost), -1)
    return values


def worst(values, distance, n):
    """(P, n + 1) largest of values (P, k^n) over labellings at distance at most r from the base."""
    by_size = np.stack([values[:, distance == r].max(1) for r in range(n + 1)], axis=1)
    return np.maximum.accumulate(by_size, axis=1)


def problems(generator, count, n, k):
    """Weights and base labels with a clear winner, class 0 by name: ridge weights are mostly small and of either sign."""
    weights = generator.normal(0.6, generator.choice([0.05, 0.3, 0.6], (count, 1)), (count, n))
    y = np.where(generator.random(n) < 0.85, 0, generator.integers(0, k, n))
    return weights, y


def test_no_flips_break_two_classes():
    """Margins of two classes: labelling 0 is the base, 1 a flip."""
    n, generator = 10, np.random.default_rng(0)
    flips = labellings(n, 2)
    distance, margins = flips.sum(1), generator.normal(0.5, generator.choice([0.05, 0.3, 0.7], (1200, 1)), (1200, n))
    margins[:100] = np.round(margins[:100], 1)  # equal weights and ties
    scores = margins @ (1 - 2 * flips).T
    margins, scores = margins[scores[:, 0] > 1e-9], scores[scores[:, 0] > 1e-9]
    assert len(margins) > 1000
    worst_score = -worst(-scores, distance, n)
    rows, radius = np.arange(len(margins)), exact_radius(margins)
    assert (worst_score[rows, radius] > 0).all()
    assert (worst_score[rows, radius + 1] <= 1e-9).all()  # tight: one more flip changes it or makes it tie
    assert (radius >= 1).mean() > 0.8
    n_certified = 0
    for q in (0.1, 0.2, 0.3, 0.4):
        losing = smoothed(scores <= 1e-9, n, 2, q)
        log_b = chernoff_log_bound(margins, q)
        assert (np.log(losing[:, 0]) <= log_b + SLACK).all()
        worst_chance = worst(losing, distance, n)
        for chance in (np.log(losing[:, 0]), log_b):
            kl, best = kl_radius(chance, q), neyman_pearson_radius(chance, q)
            assert (kl <= best).all()
            assert (best <= radius).all()
            assert (worst_chance[rows, best][best > 0] < 0.5).all()  # radius 0 promises nothing
            n_certified += (best >= 1).sum()
    assert n_certified > 2000


def test_no_flips_break_three_classes():
    n, k, generator = 6, 3, np.random.default_rng(1)
    labels = labellings(n, k)
    n_problems = n_exact = n_certified = 0
    for _ in range(40):
        weights, y = problems(generator, 40, n, k)
        distance = (labels != y).sum(1)
        base = int(np.flatnonzero(distance == 0)[0])
        scores = np.stack([weights @ (labels == c).T for c in range(k)])  # (k, P, k^n)
        winner = scores[:, :, base].argmax(0)
        rows = np.arange(len(weights))
        gaps = np.stack([scores[winner, rows] - scores[(winner + step) % k, rows] for step in (1, 2)])
        radius = pairwise_exact_radius(weights, y, winner, k)
        worst_gap = -worst(-gaps.min(0), distance, n)
        clear = worst_gap[:, 0] > 1e-9
        assert (worst_gap[rows, radius][clear] > 0).all()
        assert (worst_gap[rows, np.minimum(radius + 1, n)][clear] <= 1e-9).all()
        n_problems += clear.sum()
        n_exact += (radius >= 1).sum()
        for q in (0.1, 0.3):
            losing = np.stack([smoothed(gap <= 1e-9, n, k, q) for gap in gaps]).max(0)  # the rival that wins most
            log_b = pairwise_log_bounds(weights, y, winner, [q], k)[0]
            assert (np.log(losing[:, base]) <= log_b + SLACK).all()
            worst_chance = worst(losing, distance, n)
            for chance in (np.log(losing[:, base]), log_b):
                kl, best = kl_radius(chance, q, k), neyman_pearson_radius(chance, q, k)
                assert (kl <= best).all()
                assert (best <= radius).all()
                assert (worst_chance[rows, best][best > 0] < 0.5).all()
                n_certified += (best >= 1).sum()
    assert n_problems > 1400
    assert n_exact > 1000
    assert n_certified > 1000


def test_the_brute_force_would_see_a_radius_that_is_one_too_large():
    """Equal weights: what the brute force compares with is reached, for the learner and for the smoothed vote."""
    n, q, flips = 9, 0.4, labellings(9, 2)
    margins = np.ones((1, n))
    scores, distance = margins @ (1 - 2 * flips).T, flips.sum(1)
    assert exact_radius(margins).tolist() == [4]
    worst_chance = worst(smoothed(scores <= 0, n, 2, q), distance, n)[0]
    assert (worst_chance < 0.5).sum() == 5  # 0 to 4 flips


# --- invariants -------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 400), mean=st.floats(0, 1), power=st.sampled_from([1, 3]))
def test_no_radius_exceeds_the_exact_one(seed, n, mean, power):
    margins = np.random.default_rng(seed).normal(mean, 0.5, (4, n)) ** power
    exact = exact_radius(margins)
    assert (exact <= (n - 1) // 2).all()
    for q in NOISE:
        log_b = chernoff_log_bound(margins, q)
        kl, best = kl_radius(log_b, q), neyman_pearson_radius(log_b, q)
        assert (kl <= best).all()
        assert (best <= exact).all()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 200), k=st.integers(2, 4))
def test_order_and_names_of_classes_do_not_matter(seed, n, k):
    generator = np.random.default_rng(seed)
    weights, y = generator.normal(0.2, 1, (3, n)), generator.integers(0, k, n)
    winner = (weights @ np.eye(k)[y]).argmax(1)
    order, names = generator.permutation(n), generator.permutation(k)
    a = pairwise_log_bounds(weights, y, winner, [0.2, 0.4], k)
    b = pairwise_log_bounds(weights[:, order], names[y[order]], names[winner], [0.2, 0.4], k)
    np.testing.assert_allclose(a, b, atol=1e-9)
    c = pairwise_exact_radius(weights, y, winner, k)
    np.testing.assert_array_equal(c, pairwise_exact_radius(weights[:, order], names[y[order]], names[winner], k))


def test_two_classes_are_margins():
    """Weights and labels of two classes say the same as alpha * s * (predicted sign)."""
    generator = np.random.default_rng(4)
    weights, y = generator.normal(size=(30, 80)), generator.integers(0, 2, 80)
    sign = 2 * y - 1
    winner = (weights @ sign > 0).astype(int)
    margins = weights * sign * (2 * winner - 1)[:, None]
    np.testing.assert_array_equal(pairwise_exact_radius(weights, y, winner, 2), exact_radius(margins))
    bounds = pairwise_log_bounds(weights, y, winner, NOISE, 2)
    for q, found in zip(NOISE, bounds, strict=True):
        np.testing.assert_allclose(found, chernoff_log_bound(margins, q), atol=1e-12)


def test_threads_do_not_change_bits(monkeypatch):
    weights = np.random.default_rng(0).normal(0.1, 1, (37, 300))
    found = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(chernoff.joblib, "cpu_count", lambda threads=threads: threads)
        found.append((chernoff_log_bound(weights, 0.3), exact_radius(weights)))
    for bound, radius in found[1:]:
        np.testing.assert_array_equal(bound, found[0][0])
        np.testing.assert_array_equal(radius, found[0][1])


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("q", [0.0, 0.5, -0.1, 0.7, float("nan")])
def test_noise_must_leave_the_true_label_likelier(q):
    for call in (
        lambda: chernoff_log_bound(np.ones((1, 3)), q),
        lambda: kl_radius(np.array([-1.0]), q),
        lambda: neyman_pearson_radius(np.array([-1.0]), q),
    ):
        with pytest.raises(BadInput, match=r"noise q=.* between 0 and 0\.5"):
            call()


def test_noise_of_more_classes_may_be_larger():
    assert kl_radius(np.array([-50.0]), 0.6, 3)[0] > 0
    with pytest.raises(BadInput, match="for k = 3"):
        kl_radius(np.array([-50.0]), 0.67, 3)
    with pytest.raises(BadInput, match="n_classes=1"):
        neyman_pearson_radius(np.array([-50.0]), 0.3, 1)


@pytest.mark.parametrize("log_b", [[-np.inf], [np.nan], -1.0, [[-1.0]]])
def test_a_chance_must_be_given_as_a_finite_logarithm(log_b):
    for radius in (kl_radius, neyman_pearson_radius):
        with pytest.raises(BadInput, match="as a logarithm"):
            radius(np.array(log_b), 0.3)


def test_inputs_must_fit_together():
    y, winner = np.zeros(3, int), np.zeros(2, int)
    for weights, labels, predicted, message in (
        (np.ones((2, 4)), y, winner, "do not fit"),
        (np.ones((3, 3)), y, winner, "do not fit"),
        (np.full((2, 3), np.nan), y, winner, "NaN"),
        (np.ones((2, 3)), y + 2, winner, "labels from 2 to 2"),
        (np.ones((2, 3)), y, winner - 1, "predictions from -1 to -1"),
    ):
        for call in (lambda *a: pairwise_log_bounds(*a, [0.1], 2), lambda *a: pairwise_exact_radius(*a, 2)):
            with pytest.raises(BadInput, match=message):
                call(weights, labels, predicted)
