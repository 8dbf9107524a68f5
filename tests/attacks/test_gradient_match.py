"""Gradient matching: gradients against finite differences, boxes that hold, descents that go down, and refusals."""

import math
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subpop.attacks import label_flip
from subpop.attacks.attacker import Attacker, Target
from subpop.attacks.boxes import Box
from subpop.attacks.descent import descend, largest_one, signs
from subpop.attacks.gradient_match import (
    cosine_and_slope,
    cosine_values,
    distance_values,
    gradient_match,
    inner_values,
    places,
)
from subpop.attacks.last_layers import Head, HiddenLayer, NoNetwork, split
from subpop.types import BadInput, Cell, Pool
from subpop.victims.conv_net import ConvNet
from subpop.victims.logistic import LogisticRegression
from subpop.victims.mlp import MLP


def rng(seed=0):
    return np.random.default_rng(seed)


def table_pool(n_classes=2, d=4, n=60, seed=0) -> Pool:
    """Blobs in D and D_aux, then a column of ages and one of a category."""
    g = rng(seed)
    y = g.integers(0, n_classes, 2 * n)
    y[-n_classes:] = np.arange(n_classes)
    x = g.normal(size=(2 * n, d)) + 1.5 * np.eye(max(d, n_classes))[y, :d]
    x = np.column_stack([x, g.integers(17, 90, 2 * n), g.integers(0, 2, 2 * n)])
    return Pool(x.astype(np.float32), y, n, n_classes)


def aux_model(pool, victim=None):
    from subpop.types import FleetJob

    rows = np.arange(pool.n_train, len(pool))
    return (victim or LogisticRegression()).fit_many([FleetJob(pool, rows, pool.y[rows])], [0])[0]


def attacker_of(pool, epsilon=None, victim=None) -> Attacker:
    victim = victim or LogisticRegression()
    return Attacker(aux_model(pool, victim), victim, pool, Box.of(pool, epsilon))


def picture_pool(n=40, n_classes=2) -> Pool:
    g = rng(1)
    y = np.arange(2 * n) % n_classes
    x = g.integers(0, 160, (2 * n, 1, 8, 8)) + 90 * (y % 2)[:, None, None, None] * (np.arange(8) < 4)
    return Pool(x.astype(np.uint8), y, n, n_classes)


def members_of(pool, label=0):
    return pool.n_train + np.flatnonzero(pool.y[pool.n_train :] == label)[:12]


def drawn(pool, rows, count, seed=0, target=None):
    rule = "own" if target is None else "common"
    how = {"n_classes": pool.n_classes, "rule": rule, "target": target, "sampling": "with_replacement"}
    return label_flip(rows, pool.y[rows], count, generator=rng(seed), **how)


def difference(function, x, h=1e-5):
    """Central differences of a scalar function."""
    slopes = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[i] = h
        slopes[i] = (function(x + step) - function(x - step)) / (2 * h)
    return slopes


# --- gradients --------------------------------------------------------------------------------------------------------


def test_one_feature_by_hand():
    """w = 2, b = 0, f = 1 as class 0, V = (3, 1): p = sigma(2), a = 4, value 4 p, slope 3 p + 2 p (1 - p) 4."""
    head = Head(np.array([[2.0]]), np.zeros(1))
    f, y, v = np.array([[1.0]]), np.array([0]), np.array([[3.0], [1.0]])
    p = 1 / (1 + math.exp(-2))
    assert head.pairings(f, y, v)[0] == pytest.approx(4 * p, rel=1e-14)
    assert head.pairing_gradients(f, y, v)[0, 0] == pytest.approx(3 * p + 8 * p * (1 - p), rel=1e-14)
    assert head.mean_gradient(f, np.array([1])).ravel() == pytest.approx([p - 1, p - 1], rel=1e-14)


@pytest.mark.parametrize("columns", [1, 3])
def test_the_pairing_is_the_inner_product_with_the_losss_gradient(columns):
    g = rng(2)
    weights, f, v = g.normal(size=(5, columns)), g.normal(size=(6, 4)), g.normal(size=(5, columns))
    y = g.integers(0, max(2, columns), 6)

    def loss(w, i):
        z = f[i] @ w[:-1] + w[-1]
        z = np.array([0.0, z[0]]) if columns == 1 else z
        return math.log(np.exp(z).sum()) - z[y[i]]

    head = Head(weights[:-1], weights[-1])
    own = [difference(lambda w, i=i: loss(w, i), weights) for i in range(6)]
    np.testing.assert_allclose(head.pairings(f, y, v), [(each * v).sum() for each in own], rtol=1e-7)
    np.testing.assert_allclose(head.mean_gradient(f, y), np.mean(own, axis=0), rtol=1e-7)
    slopes = difference(lambda f: head.pairings(f, y, v).sum(), f)
    np.testing.assert_allclose(head.pairing_gradients(f, y, v), slopes, rtol=1e-6, atol=1e-9)


def test_two_softmax_columns_are_one_column_twice():
    g = rng(3)
    w, f, v, y = g.normal(size=(5, 2)), g.normal(size=(6, 4)), g.normal(size=(5, 1)), np.array([0, 1, 1, 0, 1, 0])
    two = Head(w[:-1], w[-1])
    one = Head(w[:-1, 1:] - w[:-1, :1], w[-1, 1:] - w[-1, :1])
    both = np.concatenate([-v, v], axis=1)
    np.testing.assert_allclose(two.pairings(f, y, both), 2 * one.pairings(f, y, v), rtol=1e-12)


def values_of(network, head, y, direction, kind):
    attacker = SimpleNamespace(network=network, head=head)
    return kind(attacker, y, direction)


@pytest.mark.parametrize("kind", [inner_values, cosine_values, partial(distance_values, length=0.7)])
@pytest.mark.parametrize("below", ["nothing", "hidden", "convolutions"])
def test_gradients_through_the_network(kind, below):
    g = rng(4)
    y = np.array([1, 0, 1])
    if below == "convolutions":
        network, head = split(aux_model(picture_pool(), ConvNet(width=4, epochs=2)))
        network.network.double()
        x = g.uniform(0, 255, (3, 1, 8, 8))
    else:
        network = NoNetwork() if below == "nothing" else HiddenLayer(g.normal(size=(4, 5)), g.normal(size=5))
        head = Head(g.normal(size=(4 if below == "nothing" else 5, 1)), g.normal(size=1))
        x = g.normal(size=(3, 4))
    direction = g.normal(size=(len(head.kernel) + 1, 1))
    values = values_of(network, head, y, direction, kind)
    value, gradient = values(x)
    assert value.shape == (3,)

    def total(x):
        found = values(x)[0]
        return found.sum() if kind is inner_values else found[0]

    np.testing.assert_allclose(gradient(), difference(total, x, 1e-4), rtol=2e-4, atol=1e-8)


def test_cosines():
    one, other = np.array([[3.0], [0.0]]), np.array([[1.0], [1.0]])
    assert cosine_and_slope(one, other)[0] == pytest.approx(math.sqrt(0.5))
    assert cosine_and_slope(one, 7 * one)[0] == pytest.approx(1)
    slope = difference(lambda m: cosine_and_slope(m, other)[0], one)
    np.testing.assert_allclose(cosine_and_slope(one, other)[1], slope, atol=1e-9)
    assert cosine_and_slope(np.zeros((2, 1)), other) == (0.0, pytest.approx(np.zeros((2, 1))))


@pytest.mark.parametrize("victim", [LogisticRegression(), MLP(hidden=4, max_epochs=5), ConvNet(width=4, epochs=1)])
def test_a_model_taken_apart_predicts_as_it_did(victim):
    pool = picture_pool() if isinstance(victim, ConvNet) else table_pool()
    model = aux_model(pool, victim)
    network, head = split(model)
    features, _ = network.features(pool.x)
    np.testing.assert_allclose(features, model.features(pool.x), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(head.probabilities(features)[:, 0], model.predict_proba(pool.x)[:, 1], atol=1e-5)


def test_a_model_without_a_last_layer_is_refused():
    with pytest.raises(BadInput, match="logistic_regression, last_layer, mlp"):
        split(SimpleNamespace())


# --- boxes ------------------------------------------------------------------------------------------------------------


def test_columns_keep_their_kind():
    box = Box.of(table_pool(), None)
    assert box.free.tolist() == [True] * 5 + [False]
    assert box.whole.tolist() == [False] * 4 + [True, True]
    constant = table_pool()
    x = constant.x.copy()
    x[:, 1] = 3.5
    assert Box.of(Pool(x, constant.y, 60, 2), None).free.tolist() == [True, False, True, True, True, False]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([None, 0.5, 16.0, 300.0]), st.floats(0.01, 1e4))
def test_rows_of_a_table_stay_in_its_range(seed, epsilon, far):
    pool = table_pool()
    box, g = Box.of(pool, epsilon), rng(seed)
    start = pool.x[pool.n_train :][:9]
    settled = box.settle(start + far * g.normal(size=start.shape), start)
    aux = pool.x[pool.n_train :]
    assert settled.dtype == np.float32
    assert (settled >= aux.min(0)).all()
    assert (settled <= aux.max(0)).all()
    assert np.array_equal(settled[:, 5], start[:, 5])
    assert np.array_equal(settled[:, 4], np.rint(settled[:, 4]))
    if epsilon is not None:
        reach = (aux.max(0).astype(float) - aux.min(0)) * (epsilon / 255)
        assert (settled.astype(float) <= start.astype(float) + reach).all()
        assert (settled.astype(float) >= start.astype(float) - reach).all()


@pytest.mark.parametrize("epsilon", [1.0, 2.5, 16.0, 400.0])
def test_pictures_stay_near_theirs(epsilon):
    pool = picture_pool()
    start, box = pool.x[:7], Box.of(pool, epsilon)
    largest = max(255 - start.min(), start.max())
    settled = box.settle(start + 1000 * rng().normal(size=start.shape), start)
    assert settled.dtype == np.uint8
    assert np.abs(settled.astype(int) - start).max() == min(math.floor(epsilon), largest)  # reached


@pytest.mark.parametrize(
    ("pool", "epsilon", "message"),
    [
        (picture_pool(), None, "epsilon=None.*1 or more"),
        (picture_pool(), 0.5, "rounding would undo"),
        (picture_pool(), 0.0, "1 or more"),
        (picture_pool(), math.nan, "1 or more"),
        (table_pool(), 0.0, "above 0"),
        (table_pool(), -1.0, "above 0"),
        (table_pool(), math.inf, "above 0"),
        (Pool(np.zeros((4, 3), np.int64), np.zeros(4, np.int64), 2, 2), None, "int64.*label_flip"),
        (Pool(np.eye(4, dtype=np.float32), np.zeros(4, np.int64), 2, 2), None, "categories cannot be moved"),
    ],
)
def test_what_cannot_be_moved_is_refused(pool, epsilon, message):
    with pytest.raises(BadInput, match=message):
        Box.of(pool, epsilon)


# --- descent ----------------------------------------------------------------------------------------------------------


def test_a_bowl_is_walked_to_its_bottom():
    pool = table_pool()
    box = Box.of(pool, None)
    start = pool.x[pool.n_train :][:5]
    bottom = np.clip(0.3, box.low, box.high) * box.free + start * ~box.free

    def values(x):
        return ((x - bottom) ** 2).sum(axis=1), lambda: 2 * (x - bottom)

    for direction in (largest_one, signs):
        # Ages are whole, and none is near .3: it stands at the edge of its box.
        end = descend(start, values, box, direction, 0.2, steps=200)
        np.testing.assert_allclose(end, bottom, atol=0.05)


def test_nothing_moves_uphill_or_without_a_gradient():
    pool = table_pool()
    box, start = Box.of(pool, None), pool.x[pool.n_train :][:5]
    flat = descend(start, lambda x: (np.zeros(len(x)), lambda: np.zeros_like(x)), box, largest_one, 0.2)
    assert np.array_equal(flat, start)
    lying = descend(start, lambda x: (x.sum(axis=1), lambda: -np.ones_like(x)), box, signs, 0.2)
    assert np.array_equal(lying, start)
    assert descend(start[:0], lambda x: pytest.fail("no rows"), box, signs, 0.2).shape == (0, 6)


@pytest.mark.parametrize("objective", ["inner", "cosine"])
@pytest.mark.parametrize(("epsilon", "n_classes"), [(None, 2), (16.0, 2), (None, 3)])
def test_the_objective_falls(objective, epsilon, n_classes):
    pool = table_pool(n_classes)
    attacker, rows = attacker_of(pool, epsilon), members_of(pool)
    plain = drawn(pool, rows, 15, target=None if n_classes == 2 else 1)
    poison_y = np.ones(len(rows), np.int64)
    moved = gradient_match(plain, Target(rows, poison_y), attacker, objective)
    wanted = attacker.gradient(rows)
    kind = inner_values if objective == "inner" else cosine_values
    values = kind(attacker, plain.y, wanted)
    before, after = values(pool.x[plain.rows].astype(float))[0], values(moved.extra_x.astype(float))[0]
    assert (after <= before).all()
    left = 1 + after[0] if objective == "cosine" else after.sum()
    assert left < (0.9 * (1 + before[0]) if objective == "cosine" else before.sum() - 0.01 * abs(before.sum()))


def test_the_distance_is_from_a_gradient_as_long_as_that_of_the_flips():
    """By hand: the aim points against G and is as long as the flipped group's mean gradient; matching comes nearer to it."""
    pool = table_pool()
    attacker, rows = attacker_of(pool), members_of(pool)
    plain, flips = drawn(pool, rows, 15), 1 - pool.y[rows]
    wanted, f = attacker.gradient(rows), attacker.features(pool.x[rows])
    p = attacker.head.probabilities(f)[:, 0]
    long = np.linalg.norm(np.append(f, np.ones((len(f), 1)), axis=1).T @ (p - flips) / len(f))
    aim = -wanted * long / np.linalg.norm(wanted)

    def distance(x):
        return np.linalg.norm(attacker.head.mean_gradient(attacker.features(x), plain.y) - aim)

    found = distance_values(attacker, plain.y, wanted, length=float(long))(pool.x[plain.rows].astype(float))[0]
    np.testing.assert_allclose(found, distance(pool.x[plain.rows]) ** 2, rtol=1e-12)
    moved = gradient_match(plain, Target(rows, flips), attacker, "distance")
    assert distance(moved.extra_x) < 0.9 * distance(pool.x[plain.rows])
    cosine = gradient_match(plain, Target(rows, flips), attacker, "cosine")
    assert distance(moved.extra_x) < distance(cosine.extra_x)


def test_the_nearest_of_all_places_is_found():
    """One row on the line: no place of a fine grid of its box has a gradient that is nearer to the aim."""
    g = rng(8)
    y = np.arange(120) % 2
    pool = Pool((g.normal(size=(120, 1)) + 2 * y[:, None]).astype(np.float32), y, 60, 2)
    attacker, rows = attacker_of(pool), members_of(pool)
    plain = drawn(pool, rows, 1)
    values = distance_values(attacker, plain.y, attacker.gradient(rows), length=0.9)
    grid = np.linspace(attacker.box.low[0], attacker.box.high[0], 2001)
    best = min(values(np.array([[x]]))[0][0] for x in grid)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("subpop.attacks.gradient_match._length", lambda *_: 0.9)
        moved = gradient_match(plain, Target(rows, 1 - pool.y[rows]), attacker, "distance")
    reached, start = values(moved.extra_x.astype(float))[0][0], values(pool.x[plain.rows].astype(float))[0][0]
    assert reached <= best + 0.02 * (start - best)
    assert start > best


def test_a_box_without_room_leaves_label_flipping():
    """Nothing can be gained where a row may move by less than float32 resolves."""
    pool = table_pool()
    attacker, rows = attacker_of(pool, 1e-9), members_of(pool)
    plain = drawn(pool, rows, 9)
    moved = gradient_match(plain, Target(rows, 1 - pool.y[rows]), attacker, "distance")
    assert np.array_equal(moved.extra_x, pool.x[plain.rows])


def test_pictures_are_matched_through_the_network():
    pool = picture_pool()
    attacker, rows = attacker_of(pool, 16.0, ConvNet(width=4, epochs=3)), members_of(pool)
    plain = drawn(pool, rows, 6)
    moved = gradient_match(plain, Target(rows, 1 - pool.y[rows]), attacker)
    values = inner_values(attacker, plain.y, attacker.gradient(rows))
    before, after = values(pool.x[plain.rows].astype(float))[0], values(moved.extra_x.astype(float))[0]
    assert (after <= before).all()
    assert after.sum() < before.sum()
    far = np.abs(moved.extra_x.astype(int) - pool.x[plain.rows])
    assert moved.extra_x.dtype == np.uint8
    assert 1 <= far.max() <= 16


# --- the attack -------------------------------------------------------------------------------------------------------


def test_poison_begins_as_the_rows_that_label_flipping_drew():
    pool = table_pool()
    attacker, rows = attacker_of(pool), members_of(pool)
    plain = drawn(pool, rows, 15)
    moved = gradient_match(plain, Target(rows, 1 - pool.y[rows]), attacker)
    assert np.array_equal(moved.origin, plain.rows)
    assert np.array_equal(moved.y, plain.y)
    assert moved.n_flipped == plain.n_flipped == 15
    assert moved.rows.tolist() == list(range(len(pool), len(pool) + 15))
    assert moved.extra_x.dtype == pool.x.dtype
    assert np.array_equal(moved.extra_x[:, 5], pool.x[plain.rows][:, 5])  # a category stays
    assert (moved.extra_x[:, :5] != pool.x[plain.rows][:, :5]).any(axis=1).all()
    # A row's end depends on the row alone, whoever else is drawn, at whatever rate.
    fewer = gradient_match(drawn(pool, rows, 4), Target(rows, 1 - pool.y[rows]), attacker)
    assert np.array_equal(fewer.extra_x, moved.extra_x[:4])


def test_flipped_rows_are_counted_by_the_label_that_they_had():
    pool = table_pool(3)
    rows = pool.n_train + np.arange(12)
    plain = drawn(pool, rows, 12, target=1)
    moved = gradient_match(plain, Target(rows, np.ones(12, np.int64)), attacker_of(pool))
    assert moved.n_flipped == plain.n_flipped == int((pool.y[plain.rows] != 1).sum()) < 12


def test_no_poison_stays_none():
    pool = table_pool()
    rows = members_of(pool)
    for objective in ("inner", "cosine", "distance"):
        none = gradient_match(drawn(pool, rows, 0), Target(rows, 1 - pool.y[rows]), attacker_of(pool), objective)
        assert (len(none), none.n_flipped, none.extra_x) == (0, 0, None)


def test_an_unknown_objective_is_refused():
    with pytest.raises(BadInput, match="objective=angle is unknown; use one of inner, cosine, distance"):
        Cell.of(attack="gradient_match", objective="angle")


def test_places():
    assert places(np.array([7, 3, 7]), np.array([3, 9, 7, 7])).tolist() == [2, 0, 2]
