"""The scan of groups: moments and permutations by hand and by enumeration, false alarms on null data, planted changes."""

import itertools

import numpy as np
import pytest
from scipy import stats
from sklearn.neighbors import KNeighborsClassifier

from subpop import BadInput, SklearnVictim, make_victim
from subpop.audit import suspicion
from subpop.audit.folds import OutOfFold, calibrated, content_folds, out_of_fold
from subpop.audit.suspicion import corrected_p, flip_weights, members, moments, scan, shuffled, shuffled_sums


def predictions(chance_of_one, generator=None, n_folds=5):
    """Out-of-fold predictions that are right by construction, of rows in random folds."""
    proba = np.column_stack([1 - chance_of_one, chance_of_one])
    folds = (np.random.default_rng(0) if generator is None else generator).integers(n_folds, size=len(proba))
    return OutOfFold(proba, proba, folds)


def drawn(seed, n=600):
    """Probabilities with many sure rows, and labels drawn from them."""
    generator = np.random.default_rng(seed)
    chance = 1 / (1 + np.exp(-3 * generator.normal(size=n)))
    chance = np.clip(chance, 0.01, 0.99)
    return chance, (generator.random(n) < chance).astype(np.int64), generator


# --- folds and calibration --------------------------------------------------------------------------------------------


def test_equal_rows_share_a_fold_and_labels_are_spread():
    generator = np.random.default_rng(1)
    x = generator.integers(0, 4, size=(200, 3)).astype(np.float32)
    y = (x.sum(axis=1) > 4).astype(np.int64)
    folds = content_folds(x, y, 5, seed=3)
    distinct, content = np.unique(x, axis=0, return_inverse=True)
    assert all(len(set(folds[content == i])) == 1 for i in range(len(distinct)))
    for label in (0, 1):
        sizes = np.bincount([folds[content == i][0] for i in set(content[y == label])], minlength=5)
        assert sizes.max() - sizes.min() <= 1


def test_folds_do_not_depend_on_the_order_of_rows():
    generator = np.random.default_rng(1)
    x, y, order = generator.normal(size=(50, 2)), np.arange(50) % 2, generator.permutation(50)
    assert np.array_equal(content_folds(x, y, 5, seed=0)[order], content_folds(x[order], y[order], 5, seed=0))
    assert not np.array_equal(content_folds(x, y, 5, seed=0), content_folds(x, y, 5, seed=1))


def test_each_row_is_predicted_by_a_model_trained_without_its_content():
    """One nearest neighbour would find the row itself: a copy with another label is never found instead."""
    x = np.repeat(np.arange(20.0), 2)[:, None]
    y = np.tile([0, 1], 20)  # each input once with either label
    out = out_of_fold(SklearnVictim(KNeighborsClassifier(2), n_jobs=1), x, y, 2, n_folds=4)
    assert np.allclose(out.raw, 0.5)  # both copies of one other input


def test_calibration_uses_other_folds_only_and_keeps_the_sum():
    generator = np.random.default_rng(0)
    raw = generator.dirichlet([1, 1, 1], size=400)
    folds, y = np.arange(400) % 4, generator.integers(3, size=400)
    before = calibrated(raw, y, folds)
    assert np.allclose(before.sum(axis=1), 1)
    y[folds == 2] = (y[folds == 2] + 1) % 3
    after = calibrated(raw, y, folds)
    assert np.array_equal(before[folds == 2], after[folds == 2])
    assert not np.allclose(before[folds == 1], after[folds == 1])


def test_calibration_finds_the_logistic_curve():
    """Probabilities whose log odds are doubled: calibrated ones are those that labels were drawn from."""
    chance, y, _ = drawn(0, n=40_000)
    raw = np.column_stack([(1 - chance) ** 2, chance**2])
    raw /= raw.sum(axis=1, keepdims=True)
    out = calibrated(raw, y, np.arange(len(y)) % 5)
    assert np.abs(out[:, 1] - chance).max() < 0.02


def test_calibration_of_faultless_predictions():
    raw = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]])
    out = calibrated(raw, raw.argmax(axis=1), np.array([0, 0, 1, 1]))
    assert np.allclose(out[0], [2.5 / 3, 0.25 / 3, 0.25 / 3])


def test_folds_are_refused_by_name():
    with pytest.raises(BadInput, match="class 1 has 2 different inputs, fewer than the 3 folds"):
        content_folds(np.arange(8.0)[:, None] // 1, np.array([0] * 6 + [1] * 2), 3, seed=0)
    with pytest.raises(BadInput, match="3 rows and 2 labels"):
        content_folds(np.zeros((3, 1)), np.zeros(2, dtype=np.int64), 2, seed=0)
    with pytest.raises(BadInput, match="n_classes=2"):
        out_of_fold(make_victim("logistic_regression"), np.arange(9.0)[:, None], np.arange(9) % 3, 2, n_folds=2)


# --- the statistic ----------------------------------------------------------------------------------------------------


def test_moments_are_those_of_all_outcomes():
    expected, weight = np.array([0.1, 0.3, 0.6]), np.array([2.0, 1.0, 0.5])
    outcomes = np.array(list(itertools.product([0, 1], repeat=3)))
    chance = np.prod(np.where(outcomes == 1, expected, 1 - expected), axis=1)
    total = outcomes @ weight
    mean = chance @ total
    found = [part.sum() for part in moments(expected, weight)]
    assert np.allclose(found, [mean, chance @ (total - mean) ** 2, chance @ (total - mean) ** 3])
    assert np.isclose(moments(np.array([0.1, 0.2, 0.5]), np.ones(3))[1].sum(), 0.5)  # .09 + .16 + .25


def test_weights_are_the_log_likelihood_ratio_of_changed_labels():
    """Of two classes, an error of chance .2 becomes one of chance .9 * .2 + .1 * .8 = .26 if a tenth of labels change."""
    [weight, none] = flip_weights(np.array([0.2, 0.5]), 2)
    assert np.isclose(weight, np.log(0.26 / 0.74 / (0.2 / 0.8)))
    assert np.isclose(none, 0, atol=1e-12)
    # Of three classes a wrong label is changed to the predicted one in half of the cases: .2 - .1 * .2 / 2 + .1 * .8.
    assert np.isclose(flip_weights(np.array([0.2]), 3)[0], np.log(0.27 / 0.73 / 0.25))


def test_permutations_keep_strata_and_are_equally_likely():
    stratum = np.array([0, 1, 0, 1, 0])
    generator = np.random.default_rng(0)
    counts = {}
    for permutation in shuffled(stratum, 6000, generator):
        assert np.array_equal(stratum[permutation], stratum)
        counts[tuple(permutation)] = counts.get(tuple(permutation), 0) + 1
    assert len(counts) == 12  # 3! * 2!
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


def test_permutation_p_is_that_of_all_permutations():
    """The largest sum of two overlapping groups under all 4! permutations, and under drawn ones within their own error."""
    values = np.array([3.0, 1.0, -1.0, 0.5])
    member = members([("a", np.array([0, 1])), ("b", np.array([1, 2, 3]))], 4)
    every = [np.array(p) for p in itertools.permutations(range(4))]
    by_hand = np.array([[values[p[0]] + values[p[1]], values[p[1]] + values[p[2]] + values[p[3]]] for p in every]).T
    assert np.allclose(shuffled_sums(member, values, iter(every)), by_hand)
    scores = member @ values
    exact = (by_hand.max(axis=0)[None, :] >= scores[:, None]).mean(axis=1)
    assert exact[0] < 0.5 < exact[1]
    null = shuffled_sums(member, values, shuffled(np.zeros(4, dtype=np.int64), 4000, np.random.default_rng(1)))
    found = corrected_p(scores, null)
    assert np.allclose(found, exact, atol=4 * np.sqrt(0.25 / 4000))


def test_corrected_p_counts_the_data_itself():
    null = np.array([[1.0, 2.0, 3.0], [4.0, 0.0, 0.0]])  # largest: 4, 2, 3
    assert corrected_p(np.array([5.0, 3.0, 0.0]), null).tolist() == [1 / 4, 3 / 4, 1.0]


def test_spread_of_groups_is_recovered():
    generator = np.random.default_rng(0)
    slope, variance = np.full(4000, 10.0), np.full(4000, 4.0)
    excess = generator.normal(size=4000) * np.sqrt(4 + (0.5 * 10) ** 2)
    assert abs(suspicion.estimated_spread(excess, variance, slope) - 0.5) < 0.03
    excess[:200] = 1e6  # a twentieth of the groups is poisoned
    assert suspicion.estimated_spread(excess, variance, slope) < 0.6
    assert suspicion.estimated_spread(excess / 10, variance, slope) == suspicion.LEAST_SPREAD
    assert suspicion.estimated_spread(excess[-5:], variance[:5], slope[:5]) == suspicion.LEAST_SPREAD


def test_scores_are_tail_probabilities_of_sampling_and_effect():
    """Against two million draws of a gamma variable of the same three moments plus a scaled t variable."""
    generator = np.random.default_rng(0)
    null = suspicion._Deviation(np.array([4.0]), np.array([6.0]), np.array([3.0]), spread=0.5)
    shape = 4 * 4.0**3 / 6.0**2
    sampling = (generator.gamma(shape, size=2_000_000) - shape) * np.sqrt(4 / shape)
    total = sampling + 1.5 * generator.standard_t(suspicion.TAIL, size=len(sampling))
    for at in (2.0, 5.0, 10.0):
        assert np.isclose(np.exp(-null.scores(np.array([[at]]))[0, 0]), (total >= at).mean(), rtol=0.03)


# --- verdicts ---------------------------------------------------------------------------------------------------------


def test_groups_that_are_wrong_anyway_say_nothing():
    """A model of 60 classes that knows nothing: no error has weight. A division of 0 by 0 had given p that are no numbers."""
    raw = np.full((200, 60), 1 / 60)
    out = OutOfFold(raw, raw, np.arange(200) % 5)
    groups = [("one", np.arange(90)), ("other", np.arange(90, 200))]
    with np.errstate(all="raise"):
        found = scan(out, np.arange(200) % 60, groups, n_shuffles=19)
    assert [(each.p, each.verdict) for each in found] == [(1.0, "ordinary")] * 2
    null = suspicion._Deviation(np.array([0.0, 4.0]), np.array([0.0, 6.0]), np.array([0.0, 3.0]), spread=0.5)
    alone = suspicion._Deviation(np.array([4.0]), np.array([6.0]), np.array([3.0]), spread=0.5)
    excess = np.array([[0.0, 0.0], [1.0, 3.0]])
    assert np.array_equal(null.scores(excess), np.vstack([[0.0, 0.0], alone.scores(excess[1:])]))


def test_false_alarms_stay_below_the_level_on_null_data():
    """Labels drawn from the expected probabilities; 30 overlapping groups. An alarm is any group."""
    alarms = 0
    for seed in range(150):
        chance, y, generator = drawn(seed)
        groups = [(str(i), np.sort(generator.choice(600, generator.integers(10, 80), replace=False))) for i in range(30)]
        found = scan(predictions(chance, generator), y, groups, n_shuffles=99, seed=seed)
        alarms += any(f.verdict == "differs from the rest" for f in found)
    assert alarms <= stats.binom.ppf(0.999, 150, suspicion.LEVEL)


def planted():
    """30 groups of 40 rows: a quarter of group 3 has changed labels, all rows of group 7 are near the boundary."""
    chance, y, generator = drawn(5, n=1200)
    hard = np.arange(280, 320)
    chance[hard] = 0.45
    y[hard] = generator.random(40) < 0.45
    changed = 120 + np.flatnonzero(np.abs(chance[120:160] - 0.5) > 0.3)[:10]
    y[changed] = chance[changed] < 0.5
    groups = [(f"group {i}", np.arange(40 * i, 40 * i + 40)) for i in range(30)]
    return predictions(chance, generator), y, groups


def test_changed_labels_are_found_and_a_hard_group_is_called_hard():
    out, y, groups = planted()
    found = {f.name: f for f in scan(out, y, groups)}
    assert [name for name, f in found.items() if f.verdict == "differs from the rest"] == ["group 3"]
    assert [name for name, f in found.items() if f.verdict == "hard"] == ["group 7"]
    hard, rows = found["group 7"], groups[7][1]
    errors = int((y[rows] == 1).sum())
    assert (hard.n, hard.errors, hard.accuracy) == (40, errors, 1 - errors / 40)
    assert np.isclose(hard.expected_errors, 0.45 * 40)
    interval = stats.binomtest(40 - errors, 40).proportion_ci()
    assert np.allclose([hard.low, hard.high], [interval.low, interval.high])


def test_the_order_of_groups_changes_nothing_but_draws():
    out, y, groups = planted()
    backwards = scan(out, y, groups[::-1])[::-1]
    assert [f.verdict for f in backwards] == [f.verdict for f in scan(out, y, groups)]
    assert scan(out, y, groups) == scan(out, y, groups)


def test_a_group_without_errors_has_an_interval_up_to_one():
    out = predictions(np.full(60, 0.1))
    [found] = scan(out, np.zeros(60, dtype=np.int64), [("all", np.arange(60))], n_shuffles=19)
    assert (found.accuracy, found.high, found.errors) == (1.0, 1.0, 0)
    assert np.isclose(found.low, 0.025 ** (1 / 60))
    assert scan(out, np.zeros(60, dtype=np.int64), []) == []


@pytest.mark.parametrize("rows", [[], [3, 2], [1, 1], [-1, 2], [5, 60], [0.5, 1.5]])
def test_groups_that_are_no_row_numbers_are_refused(rows):
    with pytest.raises(BadInput, match="group 'a'"):
        scan(predictions(np.full(60, 0.1)), np.zeros(60, dtype=np.int64), [("a", np.array(rows))])


def test_labels_and_shuffles_are_checked():
    out = predictions(np.full(60, 0.1))
    with pytest.raises(BadInput, match="59 labels"):
        scan(out, np.zeros(59, dtype=np.int64), [("a", np.arange(3))])
    with pytest.raises(BadInput, match="n_shuffles=0"):
        scan(out, np.zeros(60, dtype=np.int64), [("a", np.arange(3))], n_shuffles=0)
