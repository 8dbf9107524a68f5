"""Defenses with training loops of their own: what each gains on a toy, and where it must fail."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from subpop.defenses import DEFENSES
from subpop.defenses.training.co_teaching import co_teaching
from subpop.defenses.training.divide_mix import SemiSupervised, clean_posterior
from subpop.defenses.training.epic import isolated, medoids
from subpop.defenses.training.gradient_shaping import gradient_clipping, gradient_shaping
from subpop.types import BadInput, Knowledge, TrainingSet, content_order
from subpop.victims import make_victim
from subpop.victims.conv_net import ConvNet

LOOPS = [name for name, defense in DEFENSES.items() if "training" in getattr(defense, "needs", ())]


def never(train):
    raise AssertionError("a training loop does not call fit")


def told(victim="conv_net", seed=0, **more):
    return Knowledge(training=make_victim(victim).trainable(seed), **more)


def halves(train):
    """Knowledge with groups that follow from the inputs."""
    return told(groups=(train.x.reshape(len(train), -1).astype(int).sum(1) % 2).astype(np.int64))


def digits(seed, n_classes=10, flat=False):
    data = load_digits()
    order = np.random.default_rng(seed).permutation(len(data.target))
    x = (data.data[order] / 16).astype(np.float32) if flat else (data.images[order, None] * 15).astype(np.uint8)
    return x, data.target[order].astype(np.int64) % n_classes


def with_flips(seed, share, n=600, **options):
    """n training rows of digits, a share of them with another label at random, and the other rows for testing."""
    x, y = digits(seed, **options)
    generator, n_classes = np.random.default_rng(seed + 100), y.max() + 1
    flipped = generator.random(n) < share
    given = np.where(flipped, (y[:n] + generator.integers(1, n_classes, n)) % n_classes, y[:n])
    return TrainingSet.of(x[:n].copy(), given), flipped, x[n:], y[n:]


def accuracy(model, x, y):
    return float((model.predict_proba(x).argmax(1) == y).mean())


def undefended(train, know):
    """The victim's own recipe: clipping at infinity changes no gradient."""
    return gradient_clipping(train, never, know, seed=0, norm=1e30).model


# --- co-teaching ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("victim", "share", "n"), [(ConvNet(width=32, epochs=60), 0.2, 200), (make_victim("logistic_regression"), 0.4, 600)]
)
def test_co_teaching_beats_plain_training_under_random_flips(victim, share, n):
    """Where plain training fits the flips: a wide network for many epochs, or many flips."""
    gains = []
    for seed in range(2):
        train, _, x, y = with_flips(seed, share, n, flat=not isinstance(victim, ConvNet))
        know = Knowledge(training=victim.trainable(seed))
        found = co_teaching(train, never, know, seed=0, rate=share)
        gains.append(accuracy(found.model, x, y) - accuracy(undefended(train, know), x, y))
    assert np.mean(gains) > 0.02, gains


def test_co_teaching_leaves_out_what_it_says():
    train, *_ = with_flips(0, 0.2, n=100)
    assert co_teaching(train, never, told(), seed=0, rate=0.3).diagnostics == {"left_out": pytest.approx(0.3)}
    network = co_teaching(train, never, told(), seed=0, rate=0).model
    expected = undefended(train, told())
    np.testing.assert_allclose(network.predict_proba(train.x), expected.predict_proba(train.x), atol=1e-4)


@pytest.mark.parametrize("name", ["co_teaching", "divide_mix", "epic"])
def test_they_must_fail_on_poison_that_is_the_majority_of_its_place(name):
    """Nine times as many zeros labelled 1 as true zeros: their losses are the small ones."""
    x, y = digits(0)
    zeros = np.flatnonzero(y[:900] == 0)
    rest = np.flatnonzero(y[:900] != 0)[:500]
    clean, poison = zeros[: len(zeros) // 10], zeros[len(zeros) // 10 :]
    rows = np.concatenate([rest, clean, poison])
    train = TrainingSet.of(x[rows], np.concatenate([y[rest], y[clean], np.ones(len(poison), int)]))
    found = DEFENSES[name](train, never, told(), seed=0)
    of_zeros = found.model.predict_proba(x[900:][y[900:] == 0]).argmax(1)
    assert (of_zeros == 1).mean() > 0.9


# --- gradient shaping -------------------------------------------------------------------------------------------------


def with_outliers(copies):
    """Two classes on a line, and rows far out with the wrong label."""
    generator = np.random.default_rng(0)
    y = np.arange(200) % 2
    x = np.column_stack([4.0 * y - 2 + generator.standard_normal(200), generator.standard_normal(200)])
    far = np.tile([[-40.0, 0.0]], (copies, 1))
    return TrainingSet.of(np.concatenate([x, far]).astype(np.float32), np.concatenate([y, np.ones(copies, int)]))


def shift(train_one, copies):
    """How much the probabilities of clean rows change with the outliers."""
    clean = with_outliers(0)
    without, with_them = (train_one(with_outliers(n)).predict_proba(clean.x) for n in (0, copies))
    return float(np.abs(without - with_them).mean())


def test_clipping_bounds_the_influence_of_a_row():
    know = told("logistic_regression")
    assert shift(lambda train: undefended(train, know), 1) > 0.05
    for norm in (0.1, 1.0):
        assert shift(lambda train, norm=norm: gradient_clipping(train, never, know, seed=0, norm=norm).model, 1) < 0.002
    assert shift(lambda train: gradient_shaping(train, never, know, seed=0, norm=1.0, noise=0.001).model, 1) < 0.005


def test_clipping_must_fail_against_many_rows():
    know = told("logistic_regression")
    assert shift(lambda train: gradient_clipping(train, never, know, seed=0, norm=0.1).model, 400) > 0.3


def test_noise_is_drawn_from_the_seed_and_costs_accuracy():
    train, _, x, y = with_flips(0, 0.0, n=200, flat=True)
    know = told("logistic_regression")
    models = [gradient_shaping(train, never, know, seed=seed, noise=1.0).model for seed in (0, 0, 1)]
    same, again, other = (model.predict_proba(x) for model in models)
    np.testing.assert_array_equal(same, again)
    assert np.abs(same - other).max() > 0.01
    loud = gradient_shaping(train, never, know, seed=0, noise=1000.0).model
    assert accuracy(loud, x, y) < accuracy(undefended(train, know), x, y) - 0.2


def test_noise_of_zero_is_clipping():
    train, *_ = with_flips(0, 0.1, n=64)
    one, other = (
        gradient_shaping(train, never, told(), seed=0, noise=0.0),
        gradient_clipping(train, never, told(), seed=5),
    )
    np.testing.assert_array_equal(one.model.predict_proba(train.x), other.model.predict_proba(train.x))


# --- GroupDRO ---------------------------------------------------------------------------------------------------------


def one_group_differs(n_clean, n_poison):
    """Two classes by the first input; in group 1, far out on the second, `n_clean` rows of class 1 and `n_poison` of class 0.

    All rows of group 1 have inputs of class 0, so that a model has to spend its second weight on them.
    """
    generator = np.random.default_rng(0)
    y = np.arange(400) % 2
    x = np.column_stack([3.0 * y - 1.5 + generator.standard_normal(400), generator.standard_normal(400)])
    other = np.column_stack([generator.standard_normal(n_clean + n_poison) - 1.5, generator.normal(2, 0.5, n_clean + n_poison)])
    labels = np.repeat([1, 0], [n_clean, n_poison])
    rows = np.concatenate([x, other]).astype(np.float32)
    groups = np.concatenate([np.zeros(400, int), np.ones(n_clean + n_poison, int)])
    return TrainingSet.of(rows, np.concatenate([y, labels])), groups


def right_in_group_1(model, train, groups):
    """Share of the group's rows that get class 1, which is right."""
    return float((model.predict_proba(train.x[groups == 1]).argmax(1) == 1).mean())


def test_group_dro_fits_a_small_group():
    train, groups = one_group_differs(12, 0)
    know = told("logistic_regression", groups=groups)
    found = DEFENSES["group_dro"](train, never, know, seed=0)
    assert right_in_group_1(undefended(train, know), train, groups) < 0.6
    assert right_in_group_1(found.model, train, groups) > 0.8


def test_group_dro_amplifies_a_majority_of_poison_and_weakens_a_minority():
    """With the target told, the group follows the label of most of its rows, more closely than without a defense."""
    for n_clean, n_poison, helps in ((12, 6, True), (12, 18, False)):
        train, groups = one_group_differs(n_clean, n_poison)
        know = told("logistic_regression", groups=groups)
        found = DEFENSES["group_dro"](train, never, know, seed=0)
        before, after = (right_in_group_1(model, train, groups) for model in (undefended(train, know), found.model))
        assert after > before + 0.1 if helps else after <= before


def test_group_dro_with_step_zero_weights_groups_equally():
    train, groups = one_group_differs(12, 0)
    found = DEFENSES["group_dro"](train, never, told("logistic_regression", groups=groups), seed=0, step=0.0)
    assert found.diagnostics == {"weight_0": 0.5, "weight_1": 0.5}


def test_weights_of_groups_follow_the_exponentiated_losses():
    """One group has the loss of a coin, since its rows have both labels, and the other soon none.

    So ln(w1 / w0) is .01 times the sum over steps of differences that are at most ln 2.
    """
    x = np.repeat([[5.0], [0.0]], 64, axis=0).astype(np.float32)
    y = np.concatenate([np.ones(64, int), np.arange(64) % 2])
    know = told("logistic_regression", groups=np.repeat([0, 1], 64))
    found = DEFENSES["group_dro"](TrainingSet.of(x, y), never, know, seed=0)
    ratio = np.log(found.diagnostics["weight_1"] / found.diagnostics["weight_0"])
    n_steps = 30 * 4  # every batch of both groups
    assert 0.3 * 0.01 * np.log(2) * n_steps < ratio < 0.01 * np.log(2) * n_steps


@pytest.mark.parametrize("groups", [None, np.zeros(3, int), np.full(32, -1)])
def test_group_dro_needs_groups(groups):
    train, *_ = with_flips(0, 0.1, n=32)
    with pytest.raises(BadInput, match="group_dro needs groups, one number from 0 on for each of the 32 rows"):
        DEFENSES["group_dro"](train, never, told(groups=groups), seed=0)


# --- EPIC -------------------------------------------------------------------------------------------------------------


def test_medoids_are_those_of_a_greedy_choice_written_out():
    for seed in range(5):
        points = np.random.default_rng(seed).standard_normal((30, 3))
        distances = np.linalg.norm(points[:, None] - points[None], axis=2)
        chosen, nearest = [], np.full(30, distances.max())
        for _ in range(6):
            sums = [np.minimum(nearest, row).sum() for row in distances]
            chosen.append(int(np.argmin(sums)))
            nearest = np.minimum(nearest, distances[chosen[-1]])
        assert medoids(distances, 6).tolist() == chosen


def test_a_row_that_stands_alone_is_found_and_a_group_is_not():
    """Two classes of 20 rows that fit, one row that does not, and a group of six that do not in the same way."""
    proba = np.tile([0.9, 0.1], (47, 1)) + np.random.default_rng(0).uniform(-0.01, 0.01, 47)[:, None] * [1, -1]
    y = np.zeros(47, int)
    proba[20:40], y[20:40] = proba[20:40, ::-1], 1
    proba[40] = [0.02, 0.98]
    proba[41:47], y[41:47] = [0.98, 0.02], 1
    found = isolated(proba, y, 0.1, 1)
    assert found[40]
    assert not found[41:47].any()
    assert isolated(proba, y, 0.1, 6)[41:47].all()


def dropped_by_epic(train):
    """The rows that EPIC drops, in the order of the training set."""
    dropped, order = np.zeros(len(train), bool), content_order(train.x, train.y)

    def note(*arguments):
        found = isolated(*arguments)
        dropped[order[found]] = True
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("subpop.defenses.training.epic.isolated", note)
        found = DEFENSES["epic"](train, never, told(), seed=0)
    assert found.diagnostics == {"dropped": float(dropped.sum())}
    return dropped


def test_epic_drops_scattered_flips_but_must_fail_on_those_of_a_subpopulation():
    x, y = digits(0)
    enrichment = {}
    for name, rows in (("spread", np.random.default_rng(1).permutation(500)[:10]), ("alike", np.flatnonzero(y[:500] == 0)[:25])):
        given = y[:500].copy()
        given[rows] = (given[rows] + 1) % 10
        dropped = dropped_by_epic(TrainingSet.of(x[:500].copy(), given))
        enrichment[name] = dropped[rows].mean() / dropped.mean()
    assert enrichment["spread"] > 2, enrichment
    assert enrichment["alike"] < 1.5, enrichment


# --- DivideMix --------------------------------------------------------------------------------------------------------


def test_the_posterior_divides_two_heaps_of_losses():
    generator = np.random.default_rng(0)
    loss = np.concatenate([generator.normal(0.1, 0.03, 80), generator.normal(2.0, 0.3, 20)])
    assert ((clean_posterior(loss) > 0.5) == (np.arange(100) < 80)).all()
    assert clean_posterior(np.ones(5)).tolist() == [1] * 5


def test_the_semi_supervised_loss_by_hand():
    """Two labelled rows and one unlabelled row of two classes."""
    proba = np.array([[0.8, 0.2], [0.4, 0.6], [0.7, 0.3]])
    targets = np.array([[1.0, 0.0], [0.5, 0.5], [0.9, 0.1]])
    found = float(SemiSupervised(targets, 2, 3.0)(torch.from_numpy(np.log(proba))))
    labelled = -(np.log(0.8) + 0.5 * np.log(0.4) + 0.5 * np.log(0.6)) / 2
    unlabelled = ((0.7 - 0.9) ** 2 + (0.3 - 0.1) ** 2) / 2
    mean = proba.mean(0)
    assert found == pytest.approx(labelled + 3 * unlabelled + (0.5 * np.log(0.5 / mean)).sum())


def noisy_part(train, know):
    """(n,) bool: the rows that the second network calls noisy in the last epoch; and the model."""
    seen = []

    def note(loss):
        seen.append(clean_posterior(loss))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("subpop.defenses.training.divide_mix.clean_posterior", note)
        model = DEFENSES["divide_mix"](train, never, know, seed=0).model
    part = np.zeros(len(train), bool)
    part[content_order(train.x, train.y)] = seen[-1] <= 0.5
    return part, model


def test_divide_mix_finds_many_random_flips_and_beats_plain_training():
    train, flipped, x, y = with_flips(0, 0.4)
    part, model = noisy_part(train, told())
    assert part[flipped].mean() > 0.8
    assert part[~flipped].mean() < 0.3
    assert accuracy(model, x, y) > accuracy(undefended(train, told()), x, y) + 0.03


@pytest.mark.parametrize("seed", [0, 1])
def test_the_noisy_part_has_all_of_one_percent_of_poison_but_is_mostly_clean(seed):
    """The expectation was that poison is there by chance. In fact this small network does not fit it: all of it is there, with
    seven to ten times its share of all rows; nine of ten rows there are clean."""
    x, y = digits(seed)
    flat, centre = x.reshape(len(x), -1).astype(float), np.random.default_rng(seed).integers(600)
    same = np.flatnonzero(y == y[centre])
    near = same[np.argsort(((flat[same] - flat[centre]) ** 2).sum(1))]
    poison = near[near >= 600][:8]
    rows = np.concatenate([np.arange(600), poison])
    given = np.concatenate([y[:600], np.full(8, (y[centre] + 1) % 10)])
    part, _ = noisy_part(TrainingSet.of(x[rows], given), told(seed=seed))
    assert part[600:].all()
    assert 5 * 8 / 608 < part[600:].sum() / part.sum() < 0.2
    assert 0.05 < part[:600].mean() < 0.2


# --- what all of them must do -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOOPS)
def test_the_order_of_rows_does_not_matter(name):
    train, *_ = with_flips(0, 0.1, n=96)
    order = np.random.default_rng(0).permutation(96)
    one, other = (DEFENSES[name](rows, never, halves(rows), seed=3).model for rows in (train, train[order]))
    np.testing.assert_array_equal(one.predict_proba(train.x), other.predict_proba(train.x))


@pytest.mark.parametrize("name", LOOPS)
def test_few_rows_and_a_missing_class(name):
    x, y = digits(0)
    train = TrainingSet.of(x[:6], y[:6] % 2)
    model = DEFENSES[name](train, never, halves(train), seed=0).model
    assert model.predict_proba(x[:3]).shape == (3, 2)
    one_class = TrainingSet.of(x[:40], np.zeros(40, int))
    assert accuracy(DEFENSES[name](one_class, never, halves(one_class), seed=0).model, x[:40], 0) == 1


@pytest.mark.parametrize("name", [*LOOPS, "jtt"])
def test_eight_configurations_that_the_defense_accepts(name):
    configurations = DEFENSES[name].configurations
    assert len(configurations) == 8
    assert configurations[0] == {}
    assert len({str(each) for each in configurations}) == 8
    parameters = inspect.signature(DEFENSES[name]).parameters
    assert all(set(each) <= set(parameters) - {"train", "fit", "know", "seed"} for each in configurations)


@pytest.mark.parametrize("name", LOOPS)
def test_victims_without_steps_are_refused_by_name(name):
    train, *_ = with_flips(0, 0.1, n=32)
    with pytest.raises(BadInput, match=f"{name} trains the victim's network itself.*conv_net, conv_net_wide, last_layer"):
        DEFENSES[name](train, never, Knowledge(), seed=0)


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("co_teaching", {"rate": 1.0}),
        ("co_teaching", {"rate": -0.1}),
        ("co_teaching", {"gradual": 0}),
        ("divide_mix", {"threshold": 1.0}),
        ("divide_mix", {"warm_up": -1}),
        ("epic", {"share": 0.0}),
        ("epic", {"after": 2.0}),
        ("group_dro", {"step": -1.0}),
        ("group_dro", {"adjustment": float("inf")}),
        ("gradient_clipping", {"norm": 0.0}),
        ("gradient_shaping", {"norm": float("nan")}),
        ("gradient_shaping", {"noise": -1.0}),
    ],
)
def test_settings_out_of_range_are_refused(name, setting):
    train, *_ = with_flips(0, 0.1, n=32)
    (key,) = setting
    with pytest.raises(BadInput, match=f"{key}=.*of {name}"):
        DEFENSES[name](train, never, told(), seed=0, **setting)
