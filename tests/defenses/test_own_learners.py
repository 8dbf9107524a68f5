"""Learners of their own: exact answers, independent implementations, what they resist, and where they must fail."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import check_grad
from sklearn.linear_model import LogisticRegression as Reference
from sklearn.model_selection import PredefinedSplit, cross_val_score
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from subpop.defenses.chosen_penalty import FACTORS, chosen_penalty, folds_of, held_out_loss
from subpop.defenses.generalised_cross_entropy import generalised_cross_entropy, value_and_gradient
from subpop.defenses.kernel_svm import kernel_svm
from subpop.defenses.own_learner import own_pool
from subpop.testing.toy import gaussian
from subpop.types import BadInput, Knowledge, TrainingSet
from subpop.victims.logistic import LogisticRegression

NOTHING = Knowledge()
ALL = [chosen_penalty, generalised_cross_entropy, kernel_svm]


def never(train):
    pytest.fail("the victim was trained")


def blobs(n_clean, n_poison, seed=0):
    """Four blobs, classes 0 0 1 1 from left to right; the outer right one has n_clean rows and n_poison with label 0."""
    generator = np.random.default_rng(seed)
    sizes = [40, 40, 40, n_clean + n_poison]
    x = np.repeat([-9.0, -3.0, 3.0, 9.0], sizes)[:, None] * [1, 0] + generator.standard_normal((sum(sizes), 2))
    y = np.repeat([0, 0, 1, 1], sizes)
    y[len(y) - n_poison :] = 0
    return TrainingSet.of(x.astype(np.float32), y)


def target_label(model):
    """The label of most places in the attacked blob."""
    around = np.array([[9, 0], [9, 0.5], [9, -0.5], [9.5, 0], [8.5, 0]], np.float32)
    return round(model.predict_proba(around).argmax(1).mean())


# --- all of them --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("defense", ALL)
def test_two_clean_rows_outvote_one_poison_row(defense):
    model = defense(blobs(40, 20), never, NOTHING, seed=0).model
    assert target_label(model) == 1


def test_a_majority_of_poison_wins_with_a_local_boundary():
    """A linear model in one direction cannot give the outer blob a label of its own; a kernel machine can, and does."""
    assert target_label(kernel_svm(blobs(20, 40), never, NOTHING, seed=0).model) == 0
    assert target_label(kernel_svm(blobs(40, 20), never, NOTHING, seed=0).model) == 1


@pytest.mark.parametrize("defense", ALL)
def test_the_order_of_rows_does_not_matter(defense):
    toy = gaussian(150, 3, n_poison=15)
    other = toy.reordered(np.random.default_rng(1).permutation(165))
    np.testing.assert_array_equal(own_pool(toy.train(), "toy").x, own_pool(other.train(), "toy").x)
    one, two = (defense(each.train(), never, NOTHING, seed=0).model.predict_proba(toy.test_x) for each in (toy, other))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("defense", ALL)
def test_tokens_are_refused(defense):
    train = TrainingSet.of(np.zeros((20, 3), np.int64), np.arange(20) % 2)
    with pytest.raises(BadInput, match=f"{defense.__name__} trains a learner of its own on numbers; the inputs are int64"):
        defense(train, never, NOTHING, seed=0)


@pytest.mark.parametrize("defense", ALL)
def test_pictures_are_flattened(defense):
    generator = np.random.default_rng(0)
    y = np.arange(60) % 2
    x = (generator.integers(0, 100, (60, 1, 4, 4)) + 100 * y[:, None, None, None]).astype(np.uint8)
    model = defense(TrainingSet.of(x, y), never, NOTHING, seed=0).model
    assert (model.predict_proba(x).argmax(1) == y).mean() > 0.95


# --- the kernel machine -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_machine_is_that_of_scikit_learn(n_classes):
    toy = gaussian(200, n_classes, n_poison=20)
    train = toy.train()
    model = kernel_svm(train, never, NOTHING, seed=0, penalty=0.5, width=2.0).model
    scaler = StandardScaler().fit(train.x)
    reference = SVC(C=2.0, gamma=1 / (train.x.shape[1] * 4), tol=1e-6).fit(scaler.transform(train.x), train.y)
    decision = reference.decision_function(scaler.transform(toy.test_x))
    expected = (decision > 0).astype(int) if n_classes == 2 else decision.argmax(1)
    np.testing.assert_array_equal(model.predict_proba(toy.test_x).argmax(1), expected)
    if n_classes == 2:
        np.testing.assert_allclose(model.predict_proba(toy.test_x)[:, 1], 1 / (1 + np.exp(-decision)), atol=1e-5)


@pytest.mark.parametrize("setting", ["penalty", "width"])
@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan")])
def test_settings_of_the_machine(setting, value):
    with pytest.raises(BadInput, match=f"{setting}=.* of kernel_svm must be finite and above 0"):
        kernel_svm(blobs(40, 0), never, NOTHING, seed=0, **{setting: value})


# --- generalised cross-entropy ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [0.3, 0.7, 1.0])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_gradient_is_that_of_finite_differences(power, n_classes):
    generator = np.random.default_rng(0)
    rows, y = generator.standard_normal((30, 4)), generator.integers(0, n_classes, 30)
    w = generator.standard_normal(4 * (1 if n_classes == 2 else n_classes))
    penalty = np.array([1.0, 0.5, 2.0, 0.1])
    own = [lambda v, part=part: value_and_gradient(v, rows, y, power, penalty)[part] for part in (0, 1)]
    assert check_grad(*own, w, epsilon=1e-6) < 1e-4 * np.linalg.norm(own[1](w))


def test_the_loss_by_hand():
    """One row, x = 1, w = log 3, label 1: p = 3/4; loss (1 - .75^.5) / .5, and a penalty of log(3)^2."""
    value, _ = value_and_gradient(np.array([np.log(3)]), np.ones((1, 1)), np.array([1]), 0.5, np.array([2.0]))
    assert value == pytest.approx(2 * (1 - np.sqrt(0.75)) + np.log(3) ** 2, rel=1e-12)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_small_power_is_the_cross_entropy(n_classes):
    toy = gaussian(200, n_classes, n_poison=20)
    pool = own_pool(toy.train(), "toy")
    exact = LogisticRegression(1.0).fit_many([pool.clean_job()], [0])[0]
    near = generalised_cross_entropy(toy.train(), never, NOTHING, seed=0, power=1e-6).model
    far = generalised_cross_entropy(toy.train(), never, NOTHING, seed=0).model
    np.testing.assert_allclose(near.coef, exact.coef, atol=1e-3)
    assert np.abs(far.coef - exact.coef).max() > 0.1


def test_it_gives_up_a_minority_that_the_cross_entropy_follows():
    """30 of 100 rows at x = 1 are labelled 0: the cross-entropy says 70 %, the bounded loss nearly 100 %."""
    x = np.repeat([-1.0, 1.0], 100).astype(np.float32)[:, None]
    y = np.repeat([0, 1, 0], [100, 70, 30])
    model = generalised_cross_entropy(TrainingSet.of(x, y), never, NOTHING, seed=0, power=1.0).model
    exact = LogisticRegression(1.0).fit_many([own_pool(TrainingSet.of(x, y), "toy").clean_job()], [0])[0]
    place = np.ones((1, 1), np.float32)
    assert exact.predict_proba(place)[0, 1] == pytest.approx(0.7, abs=0.02)
    assert model.predict_proba(place)[0, 1] > 0.9
    flipped = TrainingSet.of(x, np.repeat([0, 1, 0], [100, 30, 70]))  # where poison is the majority, it gives up the clean rows
    assert generalised_cross_entropy(flipped, never, NOTHING, seed=0, power=1.0).model.predict_proba(place)[0, 1] < 0.2


@pytest.mark.parametrize("power", [0, -0.1, 1.1, float("nan")])
def test_powers(power):
    with pytest.raises(BadInput, match=r"power=.* must be above 0 and at most 1, such as 0.7"):
        generalised_cross_entropy(blobs(40, 0), never, NOTHING, seed=0, power=power)


# --- the chosen penalty -------------------------------------------------------------------------------------------------


def test_held_out_losses_are_those_of_scikit_learn():
    pool = own_pool(gaussian(120, 2, n_poison=12).train(), "toy")
    fold = folds_of(pool, 4, 0)
    columns = np.column_stack([pool.x, np.ones(len(pool))])
    for penalty in (1.0, 30.0):
        learner = Reference(C=1 / penalty, fit_intercept=False, tol=1e-10, max_iter=2000)
        scores = cross_val_score(learner, columns, pool.y, cv=PredefinedSplit(fold), scoring="neg_log_loss")
        weights = np.bincount(fold)
        assert held_out_loss(pool, fold, penalty) == pytest.approx(-np.average(scores, weights=weights), rel=1e-5)


def test_noise_asks_for_a_stronger_penalty_than_a_signal():
    generator = np.random.default_rng(0)
    x = generator.standard_normal((80, 30)).astype(np.float32)
    signal, noise = (10 * x[:, 0] > 0).astype(int), generator.integers(0, 2, 80)
    chosen = [chosen_penalty(TrainingSet.of(x, y), never, NOTHING, seed=0).diagnostics["penalty"] for y in (signal, noise)]
    assert chosen[0] == FACTORS[0]
    assert chosen[1] >= 100


def test_it_must_fail_on_a_coherent_subpopulation():
    """Poison that is the majority of its blob is predicted wrongly with every candidate, so also with the chosen one."""
    generator = np.random.default_rng(0)
    x = np.repeat([[-3.0, 0], [3, 0], [0, 6]], [60, 60, 60], axis=0) + generator.standard_normal((180, 2))
    y = np.repeat([0, 1, 1, 0], [60, 60, 20, 40])
    train = TrainingSet.of(x.astype(np.float32), y)
    model = chosen_penalty(train, never, NOTHING, seed=0).model
    assert (model.predict_proba(train.x[120:]).argmax(1) == 1).mean() < 0.5


def test_copies_of_a_row_are_in_one_fold():
    train = gaussian(100, 2).train()
    twice = TrainingSet.of(np.concatenate([train.x, train.x]), np.concatenate([train.y, train.y]))
    pool = own_pool(twice, "toy")
    fold = folds_of(pool, 5, 0)
    for row in train.x[:20]:
        assert len(set(fold[(pool.x == row).all(axis=1)])) == 1
    for label in (0, 1):
        assert np.ptp(np.bincount(fold[pool.y == label])) <= 2


def test_a_class_needs_as_many_rows_as_folds():
    x = np.arange(13, dtype=np.float32)[:, None]
    train = TrainingSet.of(x, np.repeat([0, 1], [9, 4]))
    with pytest.raises(BadInput, match="class 1 has 4 distinct rows, fewer than folds=5 of chosen_penalty"):
        chosen_penalty(train, never, NOTHING, seed=0)
    assert chosen_penalty(train, never, NOTHING, seed=0, folds=4).diagnostics["penalty"] >= 1


@pytest.mark.parametrize("folds", [1, 0, 2.5, True])
def test_folds_are_whole_numbers(folds):
    with pytest.raises(BadInput, match=r"folds=.* must be a whole number of at least 2"):
        chosen_penalty(blobs(40, 0), never, NOTHING, seed=0, folds=folds)


@pytest.mark.parametrize("defense", ALL)
def test_eight_configurations_the_first_of_which_are_the_defaults(defense):
    assert len(defense.configurations) == 8
    assert defense.configurations[0] == {}
    for settings in defense.configurations:
        defense(blobs(40, 10), never, NOTHING, seed=0, **settings)
