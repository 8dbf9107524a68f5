"""The training-set attack: influence against retraining, and what an attack may and may not do to a picture."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from frozen_toys import DECAY, SIDE, Case, Curved, Pixels, dense_hessian, gaussian, loss_of, pictures_of
from scipy.special import expit
from scipy.stats import pearsonr, spearmanr

from subpop.experiments.target_sets.ascent import AT_ONCE, Schedule, attack, first_order_effects
from subpop.runtime.threads import one_thread as one_thread_of_blas
from subpop.types import BadInput
from subpop.victims.top_layers.heads import HeadFleet
from subpop.victims.top_layers.top_layer import TopLayer, feature_gradients

pytestmark = pytest.mark.usefixtures("one_thread")


def test_leaving_a_row_out():
    features, y = gaussian(60, 5)
    top, targets = TopLayer.fit(features, y, 0.01), gaussian(20, 5, seed=9)[0]
    g = expit(targets @ top.w) @ targets / len(targets)
    s = top.inverse_hessian_times(g[None])[0]
    predicted = ((expit(features @ top.w) - y)[:, None] * features) @ s / 60
    # Without a row, and with the weight of the penalty as it was.
    true = [
        loss_of(TopLayer.fit(np.delete(features, i, 0), np.delete(y, i), 0.01 * 60 / 59).w, targets) - loss_of(top.w, targets)
        for i in range(60)
    ]
    assert pearsonr(predicted, true)[0] > 0.95
    assert spearmanr(predicted, true)[0] > 0.95


@pytest.mark.parametrize("d", [6, 70])
def test_moving_a_pixel_and_retraining(d):
    case, h, image = Case(d), 0.5, 3
    targets, picture = case.pool[:8], case.pictures[image].astype(float)
    fleet = HeadFleet(case.top, np.array([image]))
    features, pullback = case.backbone.features_and_pullback(picture[None])
    heads, own = fleet.resolve(features), [fleet.targets(targets)]
    gradient = pullback(heads.cotangents(own, [expit(margin) / 8 for margin in heads.margins(own)]))[0].ravel()
    predicted, true = -gradient / len(case.y), []
    for pixel in range(SIDE * SIDE):
        side = (h * (np.arange(SIDE * SIDE) == pixel)).reshape(picture.shape)
        up, down = (loss_of(case.retrained(image, picture + sign * side).w, targets) for sign in (1, -1))
        true.append((up - down) / (2 * h))
    np.testing.assert_allclose(predicted, true, rtol=2e-3, atol=1e-4 * np.abs(true).max())
    assert pearsonr(predicted, true)[0] > 0.999
    assert spearmanr(predicted, true)[0] > 0.95


@pytest.mark.parametrize("d", [6, 70])
def test_a_top_layer_is_exact_after_every_iteration(d):
    case, seen = Case(d), []

    class Watched(Curved):
        def features_and_pullback(self, pictures):
            seen.append(pictures.copy())
            return super().features_and_pullback(pictures)

    case.backbone = Watched(d)
    targets = case.pool[:10]
    (outcome,) = case.attack([targets], [3], [Schedule(40.0, 8.0, 6)])
    assert len(seen) == len(outcome.wrong)
    assert outcome.kkt_residual <= case.top.tolerance
    for k, pictures in enumerate(seen):
        own = case.retrained(3, pictures[0])
        assert outcome.target_loss[k] == pytest.approx(loss_of(own.w, targets), rel=1e-6)
        assert outcome.wrong[k] == (own.margins(targets)[outcome.start_right] > 0).mean()
    assert (seen[-1][0] == outcome.picture).all()
    assert outcome.target_loss[-1] > outcome.target_loss[0]
    assert outcome.train_accuracy == own.accuracy()
    assert outcome.train_loss == pytest.approx(own.loss(), rel=1e-6)
    assert outcome.coefficient_norm == pytest.approx(np.linalg.norm(own.w), rel=1e-8)
    chance = expit(own.margins(case.backbone.features(outcome.picture[None])))[0]
    assert outcome.own_probability == pytest.approx(chance if case.y[3] else 1 - chance, rel=1e-6)
    moved = case.backbone.features(np.stack([outcome.picture, case.pictures[3]]))
    assert outcome.feature_move == pytest.approx(np.linalg.norm(moved[0] - moved[1]), rel=1e-9)


def test_a_step_by_hand():
    pictures, y = pictures_of(30), np.arange(30) % 2
    top, targets = TopLayer.fit(Pixels().features(pictures), y, DECAY), Pixels().features(pictures_of(5, 7))
    (outcome,) = attack(Pixels(), top, pictures, [targets], 0, images=np.array([4]), schedules=[Schedule(3.0, 2.0, 1)])
    g = expit(targets @ top.w) @ targets / 5
    s = np.linalg.solve(dense_hessian(top.w, top.features), g)
    f = top.features[4]
    p = expit(f @ top.w)
    gradient = (p - y[4]) * s + p * (1 - p) * (s @ f) * top.w
    expected = np.clip(pictures[4].astype(float) - 2 * np.sign(gradient).reshape(1, SIDE, SIDE), 0, 255)
    if outcome.start_right.any():
        assert (outcome.picture == expected).all()
    assert outcome.picture.dtype == np.float32
    assert len(outcome.wrong) == 2


def test_box_and_range_hold_exactly():
    case = Case(70)
    case.pictures[3, 0, 0], case.pictures[3, 0, 1] = 0, 255
    boxes = [0.5, 1.0, 7.0, 300.0]
    outcomes = case.attack([case.pool[:10]] * 4, [3] * 4, [Schedule(box, box / 2, 6) for box in boxes])
    for box, outcome in zip(boxes, outcomes, strict=True):
        moved = np.abs(outcome.picture.astype(float) - case.pictures[3])
        assert 0.9 * min(box, 128) < moved.max() < box
        assert outcome.picture.min() >= 0
        assert outcome.picture.max() <= 255
    assert outcomes[3].picture.min() == 0
    assert outcomes[3].picture.max() == 255


def test_rounding_undoes_half_a_level():
    case = Case(70)
    (outcome,) = case.attack([case.pool[:10]], [3], [Schedule(0.5, 0.1, 30)])
    assert np.abs(outcome.picture - case.pictures[3]).max() > 0.4999
    assert (outcome.picture != case.pictures[3]).all()
    assert (np.rint(outcome.picture) == case.pictures[3]).all()
    (outcome,) = case.attack([case.pool[:10]], [3], [Schedule(2.0, 1.0, 5)])
    assert (np.rint(outcome.picture) != case.pictures[3]).any()


def test_an_attack_that_succeeds_ends_there():
    case = Case(70, scale=6.0)
    nearest = case.pool[np.argsort(-case.top.margins(case.pool))[:3]]
    images = first_order_effects(case.backbone, case.top, case.pictures, [nearest], 0).argmax(1)
    (outcome,) = case.attack([nearest], images, [Schedule(60.0, 12.0, 40)])
    assert outcome.start_right.all()
    assert outcome.first_complete == len(outcome.wrong) - 1 < 40
    assert outcome.wrong[0] == 0
    assert outcome.wrong[-1] == 1
    assert (outcome.wrong[:-1] < 1).all()
    assert (case.retrained(int(images[0]), outcome.picture).margins(nearest) > 0).all()


def test_what_the_network_does_not_see_does_not_move():
    case, half = Case(70), SIDE * SIDE // 2
    blind = Curved(70, seen=half)
    top = TopLayer.fit(blind.features(case.pictures), case.y, DECAY)
    sets = [case.pool[:5]]
    (outcome,) = attack(blind, top, case.pictures, sets, 0, images=np.array([3]), schedules=[Schedule(60.0, 12.0, 5)])
    moved = (outcome.picture != case.pictures[3]).ravel()
    assert moved[:half].all()
    assert not moved[half:].any()


def test_a_network_that_sees_nothing_cannot_be_attacked():
    case, blind = Case(70), Curved(70, seen=0)
    features = case.top.features.copy()
    features[3] = blind.features(case.pictures[3:4])[0]
    top = TopLayer.fit(features, case.y, DECAY)
    (outcome,) = attack(blind, top, case.pictures, [case.pool[:5]], 0, images=np.array([3]), schedules=[Schedule(60.0, 12.0, 5)])
    assert (outcome.picture == case.pictures[3]).all()
    assert len(set(outcome.wrong)) == 1
    assert outcome.first_complete is None
    assert len(outcome.wrong) == 6


def test_a_budget_that_ends():
    case, told = Case(70), []
    far = case.pool[np.argsort(case.top.margins(case.pool))[:10]]
    progress: Callable[[int, int], None] = lambda done, total: told.append((done, total))  # noqa: E731
    (outcome,) = case.attack([far], [3], [Schedule(0.5, 0.1, 4)], progress=progress)
    assert outcome.first_complete is None
    assert len(outcome.wrong) == len(outcome.target_loss) == 5
    assert outcome.wrong[-1] < 1
    assert told[-1] == (4, 4)


def test_targets_that_are_wrong_from_the_start():
    case = Case(70)
    others = case.backbone.features(pictures_of(200, 1))
    wrong = others[case.top.margins(others) > 0]
    mixed = np.vstack([wrong[:2], case.pool[:2]])
    told: list[tuple[int, int]] = []
    outcomes = case.attack([wrong[:4], mixed], [3, 3], [Schedule(4.0, 1.0, 3)] * 2, progress=lambda *now: told.append(now))
    assert not outcomes[0].start_right.any()
    assert outcomes[0].first_complete is None
    assert np.isnan(outcomes[0].wrong).all()
    assert len(outcomes[0].wrong) == 1
    assert (outcomes[0].picture == case.pictures[3]).all()
    assert outcomes[1].start_right.tolist() == [False, False, True, True]
    assert outcomes[1].wrong[0] == 0
    assert told[-1] == (6, 6)


def test_attacks_alone_and_together():
    case, schedules = Case(70), [Schedule(8.0, 2.0, 4), Schedule(0.5, 0.1, 3), Schedule(30.0, 10.0, 5)] * 5
    sets = [case.pool[k : k + 6] for k in range(15)]
    images = [3, 8, 20] * 5
    together = case.attack(sets, images, schedules)
    assert len(together) == 15 > AT_ONCE["cpu"]
    for j in (0, 7, 14):
        (alone,) = case.attack([sets[j]], [images[j]], [schedules[j]])
        assert alone.image == together[j].image == images[j]
        np.testing.assert_allclose(alone.picture, together[j].picture, atol=1e-4)
        np.testing.assert_allclose(alone.target_loss, together[j].target_loss, rtol=1e-5)
        assert (alone.wrong == together[j].wrong).all()
    again = case.attack(sets, images, schedules)
    assert all(
        (a.picture == b.picture).all() and (a.target_loss == b.target_loss).all() for a, b in zip(together, again, strict=True)
    )


def test_bits_do_not_depend_on_the_number_of_threads():
    """A worker of `-n N` has one thread: its records are those of a run in one process."""
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)  # `one_thread` puts it back
        rows = gaussian(300, 400)
        with one_thread_of_blas("blas"):
            top = TopLayer.fit(*rows)
        pictures = np.random.default_rng(0).integers(0, 256, (300, 1, 20, 20), dtype=np.uint8)
        targets = [gaussian(30, 400, seed=s)[0] for s in range(4)]
        outcomes = attack(Pixels(), top, pictures, targets, 0, images=np.arange(4), schedules=[Schedule(8.0, 2.0, 5)] * 4)
        found.append([top.w.tobytes(), *((o.kkt_residual, o.target_loss.tobytes(), o.picture.tobytes()) for o in outcomes)])
    assert found[0] == found[1]


def test_effects_one_picture_at_a_time(monkeypatch):
    case, sets = Case(70), []
    sets = [case.pool[:5], case.pool[5:12]]
    monkeypatch.setattr("subpop.experiments.target_sets.backbone.PIXELS", 7 * SIDE * SIDE)
    found = first_order_effects(case.backbone, case.top, case.pictures, sets, 0)
    expected = np.empty((2, 40))
    for j, targets in enumerate(sets):
        g = expit(targets @ case.top.w) @ targets / len(targets)
        s = np.linalg.solve(dense_hessian(case.top.w, case.top.features), g)
        for i in range(40):
            features, pullback = case.backbone.features_and_pullback(case.pictures[i : i + 1])
            cotangent = feature_gradients(case.top.w[None], s[None], features, case.y[i : i + 1])
            expected[j, i] = np.abs(pullback(cotangent)).sum()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_effect_is_what_a_small_step_does():
    case, step = Case(70), 0.05
    targets = case.pool[:6]
    effects = first_order_effects(case.backbone, case.top, case.pictures, [targets], 0)[0] / len(case.y)
    images = np.argsort(-effects)[:8]
    outcomes = case.attack([targets] * 8, images, [Schedule(1.0, step, 1)] * 8)
    gained = np.array([outcome.target_loss[1] - outcome.target_loss[0] for outcome in outcomes])
    np.testing.assert_allclose(gained, step * effects[images], rtol=0.1)


@pytest.mark.parametrize(
    "values", [(0.0, 1.0, 1), (-1.0, 1.0, 1), (1.0, 0.0, 1), (np.nan, 1.0, 1), (1.0, np.inf, 1), (1.0, 1.0, 0)]
)
def test_a_schedule_refuses(values):
    with pytest.raises(BadInput):
        Schedule(*values)


def test_an_attack_refuses_what_does_not_fit():
    case = Case(6)
    own, plan = case.pool[:3], Schedule(1.0, 0.5, 1)
    with pytest.raises(BadInput, match="give those rows' pictures"):
        attack(case.backbone, case.top, case.pictures[:5], [own], 0, images=np.array([0]), schedules=[plan])
    with pytest.raises(BadInput, match="target_y=2"):
        attack(case.backbone, case.top, case.pictures, [own], 2, images=np.array([0]), schedules=[plan])
    for sets, images, plans in (
        ([own], [0, 1], [plan]),
        ([own], [0], [plan, plan]),
        ([own], [0.5], [plan]),
        ([own], [40], [plan]),
        ([], [], []),
        ([own[:, :5]], [0], [plan]),
        ([own[:0]], [0], [plan]),
        ([np.full_like(own, np.nan)], [0], [plan]),
    ):
        with pytest.raises(BadInput):
            case.attack(sets, images, plans)
