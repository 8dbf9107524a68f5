"""Label-flip smoothing: the ridge regression it is, certificates that hold where they say, what it stops and what it cannot."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import import_module

import numpy as np
import pytest
from real_data import UTKFACE_FEATURES, needs
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge, RidgeClassifier
from sklearn.preprocessing import StandardScaler

from subpop.datasets.download import data_root
from subpop.defenses import remembered
from subpop.defenses.certificates import smoother
from subpop.defenses.certificates.smoother import Learner, fit_projection
from subpop.defenses.label_flip_smoothing import CERTIFICATES, NOISE, all_radii, label_flip_smoothing
from subpop.defenses.remembered import Remembered
from subpop.testing.defenses import DEFENSE_CHECKS
from subpop.types import BadInput, Knowledge, Model, TrainingSet

module = import_module("subpop.defenses.label_flip_smoothing")  # the package holds the function under this name


def never(train):
    raise AssertionError("fit was called")


def defend(x, y, **options):
    return label_flip_smoothing(TrainingSet.of(x, y), never, Knowledge(), seed=0, **options)


def gaussians(generator, n, n_classes=2, distance=6.0, d=8):
    y = generator.integers(0, n_classes, n)
    centres = np.zeros((n_classes, d))
    centres[np.arange(n_classes), np.arange(n_classes)] = distance
    return (centres[y] + generator.standard_normal((n, d))).astype(np.float32), y


def overlapping(seed, n=400, n_classes=2, d=8):
    """Classes that overlap, columns of different units."""
    generator = np.random.default_rng(seed)
    x, y = gaussians(generator, n, n_classes, 1.5, d)
    return x * np.geomspace(1e-3, 1e3, d).astype(np.float32) + 5, y


# --- the learner ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 3])
def test_is_scikit_learns_ridge_on_the_same_components(n_classes):
    x, y = overlapping(0, n_classes=n_classes)
    test_x, _ = overlapping(1, n_classes=n_classes)
    found = defend(x, y)
    components = found.model.learner.components
    assert found.diagnostics["n_components"] == 8
    mean_square = (components(x) ** 2).sum() / 8
    assert found.diagnostics["penalty"] == pytest.approx(0.01 * mean_square)
    ridge = Ridge(found.diagnostics["penalty"]).fit(components(x), np.eye(n_classes)[y])
    np.testing.assert_allclose(found.model.scores(test_x), ridge.predict(components(test_x)), atol=1e-10)
    proba = found.model.predict_proba(test_x)
    classifier = RidgeClassifier(found.diagnostics["penalty"]).fit(components(x), y)
    np.testing.assert_array_equal(proba.argmax(1), classifier.predict(components(test_x)))
    np.testing.assert_allclose(proba.sum(1), 1, atol=1e-6)
    np.testing.assert_array_equal(found.model.features(test_x), components(test_x).astype(np.float32))
    assert proba.dtype == found.model.features(test_x).dtype == np.float32
    assert isinstance(found.model, Model)
    assert found.keep is None


@pytest.mark.parametrize("d", [10, 500])
def test_components_are_scikit_learns(d):
    """Fewer and more columns than rows; one component for every 50 rows."""
    generator = np.random.default_rng(0)
    x = (generator.normal(size=(250, d)) * np.geomspace(1, 30, d) @ generator.normal(size=(d, d))).astype(np.float32)
    found = fit_projection(x, None, 50)[0](x)
    expected = PCA(5, svd_solver="full").fit_transform(StandardScaler().fit_transform(x.astype(np.float64)))
    assert found.shape == (250, 5)
    np.testing.assert_allclose(found * np.sign((found * expected).sum(0)), expected, atol=2e-3 * expected.std())
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-9)


def test_constant_and_repeated_columns_carry_nothing():
    x, y = overlapping(0)
    useless = np.column_stack([x, np.full(len(x), 0.1, np.float32), x[:, :3], np.full(len(x), 1e6, np.float32)])
    projection, rows = fit_projection(useless, None, 1)
    assert rows.shape[1] == 8
    np.testing.assert_array_equal(projection.directions[[8, 12]], 0)
    moved = useless.copy()
    moved[:, [8, 12]] += 1
    np.testing.assert_array_equal(projection(moved), rows)
    assert np.isfinite(defend(useless, y).model.predict_proba(x=useless)).all()


def test_pictures_and_granted_representations():
    generator = np.random.default_rng(0)
    pictures = generator.integers(0, 256, (120, 3, 4, 4), dtype=np.uint8)
    y = (pictures[:, 0].mean((1, 2)) > 127).astype(np.int64)

    class Channels:
        calls = 0

        def features(self, x):
            Channels.calls += 1
            return x.mean((2, 3)).astype(np.float32)

    flat = defend(pictures, y).model
    np.testing.assert_array_equal(
        flat.scores(pictures), defend(pictures.reshape(120, 48).astype(np.float32), y).model.scores(pictures)
    )
    granted = label_flip_smoothing(TrainingSet.of(pictures, y), never, Knowledge(representation=Channels()), seed=0)
    means, test = pictures.mean((2, 3)).astype(np.float32), pictures[:50].copy()
    np.testing.assert_array_equal(granted.model.scores(pictures), defend(means, y).model.scores(means))
    Channels.calls = 0
    granted.model.predict_proba(test)
    granted.model.with_labels(1 - y).predict_proba(test)
    for radius in granted.certified_radius.values():
        radius(test)
    assert Channels.calls == 1
    assert label_flip_smoothing.needs == {"representation"}


@pytest.mark.parametrize("n_classes", [2, 4])
def test_other_labels_equal_a_fit_from_scratch(n_classes):
    x, y = overlapping(2, n_classes=n_classes)
    test_x, _ = overlapping(3, n_classes=n_classes)
    other = np.random.default_rng(0).integers(0, n_classes, len(y))
    relabelled, fresh = defend(x, y).model.with_labels(other), defend(x, other).model
    np.testing.assert_array_equal(relabelled.scores(test_x), fresh.scores(test_x))
    np.testing.assert_array_equal(relabelled.with_labels(y).scores(test_x), defend(x, y).model.scores(test_x))
    a, b = all_radii(relabelled, test_x), all_radii(fresh, test_x)
    assert all(np.array_equal(a[name], b[name]) for name in CERTIFICATES)


def test_weights_sum_to_one_so_that_both_codings_of_labels_agree():
    """{0, 1} with threshold 1/2 and {-1, 1} with threshold 0 are one classifier if the intercept is free."""
    x, y = overlapping(4)
    x, y = x[y + (np.arange(len(y)) % 5 == 0) > 0], y[y + (np.arange(len(y)) % 5 == 0) > 0]  # far from balanced
    test_x, _ = overlapping(5)
    model = defend(x, y).model
    inputs = model.learner.inputs(test_x)
    alpha = model.learner.weights(inputs)
    np.testing.assert_allclose(alpha.sum(1), 1, atol=1e-12)
    np.testing.assert_allclose(alpha @ (2 * y - 1), 2 * (alpha @ y) - 1, atol=1e-12)
    np.testing.assert_allclose(np.stack([alpha @ (1 - y), alpha @ y], 1), model.scores(test_x), atol=1e-12)
    predicted = model.predict_proba(test_x).argmax(1)
    rows, test_rows = model.learner.components(x), model.learner.components(test_x)
    for low, high, threshold in ((0, 1, 0.5), (-1, 1, 0)):
        ridge = Ridge(model.learner.penalty).fit(rows, np.where(y == 1, high, low))
        np.testing.assert_array_equal(ridge.predict(test_rows) > threshold, predicted == 1)


def test_probabilities_keep_the_order_of_scores_that_float32_cannot_tell_apart():
    x, y = overlapping(6)
    model = defend(x, y).model
    close = np.array([[0.5 - 1e-12, 0.5 + 1e-12], [0.5, 0.5], [0.5 + 1e-12, 0.5 - 1e-12], [-40.0, 41.0]])
    model = smoother.RidgeModel(model.learner, y, np.zeros(2), np.zeros((8, 2)))
    object.__setattr__(model, "scores", lambda x: close)
    proba = model.predict_proba(x[:4])
    assert proba.argmax(1).tolist() == [1, 0, 0, 1]
    np.testing.assert_allclose(proba.sum(1), 1, atol=1e-6)


# --- certificates -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_exact_radius_is_exact_for_the_deployed_model(n_classes):
    x, y = overlapping(7, n=150, n_classes=n_classes)
    test_x, _ = overlapping(8, n=60, n_classes=n_classes)
    found = defend(x, y)
    predicted = found.model.predict_proba(test_x).argmax(1)
    radius = found.certified_radius["exact"](test_x)
    assert (radius > 0).sum() > 40
    alpha = found.model.learner.weights(found.model.learner.inputs(test_x))
    for row in range(len(test_x)):
        turned = []
        for rival in set(range(n_classes)) - {predicted[row]}:
            gain = alpha[row] * ((y == predicted[row]) * 1.0 - (y == rival))
            best_label = np.where(alpha[row] > 0, rival, predicted[row])
            order = np.argsort(-(gain + np.abs(alpha[row])))
            for extra in (0, 1):
                attacked = y.copy()
                chosen = order[: radius[row] + extra]
                attacked[chosen] = best_label[chosen]
                scores = found.model.with_labels(attacked).scores(test_x[row : row + 1])[0]
                if extra == 0:
                    assert scores.argmax() == predicted[row]
                else:
                    turned.append(scores[rival] >= scores[predicted[row]] - 1e-12)
        assert any(turned)


def test_certificates_have_names_and_share_one_computation(monkeypatch):
    x, y = overlapping(9)
    found, calls = defend(x, y), []
    assert tuple(found.certified_radius) == CERTIFICATES
    assert set(CERTIFICATES) == {"exact", *(f"{kind}_q{q}" for kind in ("kl", "neyman_pearson") for q in NOISE)}
    monkeypatch.setattr(module, "all_radii", lambda *a: calls.append(1) or all_radii(*a))
    test_x, _ = overlapping(10)
    first = {name: radius(test_x) for name, radius in found.certified_radius.items()}
    assert len(calls) == 1
    for name, radius in all_radii(found.model, test_x).items():
        np.testing.assert_array_equal(radius, first[name])
        assert radius.dtype == np.int64
        assert (radius <= first["exact"]).all()
    for q in NOISE:
        assert (first[f"kl_q{q}"] <= first[f"neyman_pearson_q{q}"]).all()
    assert (first["neyman_pearson_q0.1"] > 0).mean() > 0.3
    test_x[:] = test_x[0]  # the same array with other content is another question
    assert len(set(found.certified_radius["exact"](test_x).tolist())) == 1
    assert len(calls) == 2


def test_blocks_do_not_change_radii(monkeypatch):
    x, y = overlapping(11, n_classes=3)
    test_x, _ = overlapping(12, n_classes=3)
    model = defend(x, y).model
    whole = all_radii(model, test_x)
    monkeypatch.setattr(module, "_BLOCK", 7 * len(y))
    for name, radius in all_radii(model, test_x).items():
        np.testing.assert_array_equal(radius, whole[name])
    assert all(len(radius) == 0 for radius in all_radii(model, test_x[:0]).values())


def test_a_penalty_chosen_on_labels_certifies_nothing():
    x, y = overlapping(13, n=100)
    found = defend(x, y, ridge="chosen on labels")
    assert found.certified_radius is None
    assert found.diagnostics["certified"] == 0
    assert defend(x, y).diagnostics["certified"] == 1
    projection, rows = fit_projection(x, None, module.ROWS_EACH)
    errors = {}
    for ridge in module.RIDGES:
        learner = Learner(projection, rows, ridge)
        left_out = [np.arange(len(y)) != i for i in range(len(y))]
        fits = [Ridge(learner.penalty).fit(rows[keep], np.eye(2)[y[keep]]) for keep in left_out]
        residuals = [fit.predict(rows[i : i + 1])[0] - np.eye(2)[y[i]] for i, fit in enumerate(fits)]
        errors[learner.penalty] = np.mean(np.square(residuals))
        assert learner.leave_one_out_error(y, 2) == pytest.approx(errors[learner.penalty], rel=1e-9)
    assert found.diagnostics["penalty"] == min(errors, key=errors.get)


def test_weights_do_not_depend_on_labels():
    x, y = overlapping(14)
    one, other = defend(x, y).model, defend(x, np.random.default_rng(0).permutation(y)).model
    inputs = one.learner.inputs(x)
    np.testing.assert_array_equal(inputs, other.learner.inputs(x))
    np.testing.assert_array_equal(one.learner.weights(inputs), other.learner.weights(inputs))


# --- what it stops and what it cannot ---------------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 3])
def test_random_flips_do_not_hurt(n_classes):
    generator = np.random.default_rng(0)
    x, y = gaussians(generator, 1000, n_classes)
    test_x, test_y = gaussians(generator, 2000, n_classes)
    noisy = np.where(generator.random(1000) < 0.2, (y + 1) % n_classes, y)
    found = defend(x, noisy)
    assert (found.model.predict_proba(test_x).argmax(1) == test_y).mean() > 0.98
    assert np.median(found.certified_radius["exact"](test_x)) > 25


def test_twice_the_subpopulation_is_lost_and_the_certificate_says_so():
    """alpha = 2: the defense must fail on it, and no certificate may claim the reference's predictions against that attack."""
    generator = np.random.default_rng(0)

    def sample(n):
        member, y = generator.random(n) < 0.06, generator.integers(0, 2, n)
        y[member] = 1
        x = generator.standard_normal((n, 4))
        x[:, 0] += np.where(y == 1, 2, -2)
        x[member, 1] += 6
        return x.astype(np.float32), y, member

    x, y, member = sample(1000)
    aux_x, aux_y, aux_member = sample(6000)
    rows = np.flatnonzero(aux_member)[: 2 * int(member.sum())]
    test_x, test_y, target = sample(4000)
    poisoned_x, true_y = np.concatenate([x, aux_x[rows]]), np.concatenate([y, aux_y[rows]])
    labels = np.concatenate([y, 1 - aux_y[rows]])
    found = defend(poisoned_x, labels)
    right = found.model.predict_proba(test_x).argmax(1) == test_y
    reference = found.model.with_labels(true_y)
    before = reference.predict_proba(test_x).argmax(1) == test_y
    assert before[target].mean() > 0.95
    assert right[target].mean() < 0.5
    assert right[~target].mean() > 0.9
    turned = (found.model.predict_proba(test_x).argmax(1) != reference.predict_proba(test_x).argmax(1)) & target
    assert turned.sum() > 100
    assert (all_radii(reference, test_x)["exact"][turned] < len(rows)).all()
    assert (all_radii(found.model, test_x)["exact"][turned] < len(rows)).all()


@pytest.mark.parametrize("name", [name for name, _ in DEFENSE_CHECKS])
def test_keeps_the_contract_of_defenses(name):
    dict(DEFENSE_CHECKS)[name](label_flip_smoothing)


# --- what is refused --------------------------------------------------------------------------------------------------


def test_refuses_what_has_no_solution():
    x, y = overlapping(15)
    with pytest.raises(BadInput, match="singular"):
        defend(np.ones((100, 3), np.float32), y[:100])
    with pytest.raises(BadInput, match="at least 2 rows"):
        defend(x[:1], y[:1])
    for ridge in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(BadInput, match=f"ridge={ridge}"):
            defend(x, y, ridge=ridge)
    with pytest.raises(BadInput, match="ridge='best'"):
        defend(x, y, ridge="best")
    spoiled = x.copy()
    spoiled[3, 2] = np.nan
    with pytest.raises(BadInput, match="feature 2 contains NaN"):
        fit_projection(spoiled, None, 50)
    with pytest.raises(BadInput, match="must be 400 integers in 0"):
        defend(x, y).model.with_labels(y + 1)
    with pytest.raises(BadInput, match="trained on 8"):
        defend(x, y).model.predict_proba(x[:, :5])


def test_remembered_answers_by_content():
    calls = []
    double = Remembered(lambda x: calls.append(1) or 2 * x)
    x = np.arange(6).reshape(2, 3)
    for _ in range(3):
        np.testing.assert_array_equal(double(x), 2 * x)
    double(x.copy())
    assert len(calls) == 1
    for changed in (x + 1, x.T, x.astype(float), x.reshape(3, 2)):
        np.testing.assert_array_equal(double(changed), 2 * changed)
    assert len(calls) == 5


def test_remembered_hashes_no_read_only_array_twice(monkeypatch):
    calls = []
    double = Remembered(lambda x: 2 * x)
    x = np.arange(6).reshape(2, 3).copy()
    monkeypatch.setattr(remembered.hashlib, "sha256", lambda data: calls.append(1) or hashlib.sha3_256(data))
    x.setflags(write=False)
    for rows in (x, x[:], x[:], x):
        np.testing.assert_array_equal(double(rows), 2 * rows)
    assert len(calls) == 1
    np.testing.assert_array_equal(double(x[1:]), 2 * x[1:])
    assert len(calls) == 2
    x.setflags(write=True)
    seen = x[:]
    seen.setflags(write=False)
    for value in (7, 8):  # the owner can be written to
        x[0, 0] = value
        assert double(seen)[0, 0] == 2 * value
    assert len(calls) == 4


# --- real data --------------------------------------------------------------------------------------------------------


@cache
def utkface():
    archive = np.load(data_root() / "embeddings" / "utkface_mobilenet_v1.npz", allow_pickle=False)
    order = np.random.default_rng(0).permutation(len(archive["y"]))
    return archive["x"][order].astype(np.float32), archive["y"][order]


@needs(UTKFACE_FEATURES)
def test_faces_have_radii_worth_having():
    x, y = utkface()
    found = defend(x[:7000], y[:7000])
    test_x, test_y = x[14000:14600], y[14000:14600]
    radii = {name: radius(test_x) for name, radius in found.certified_radius.items()}
    assert found.diagnostics["n_components"] == 140
    assert (found.model.predict_proba(test_x).argmax(1) == test_y).mean() > 0.87
    assert (radii["exact"] > 0).mean() > 0.97
    assert np.median(radii["exact"]) > 2 * np.median(radii["neyman_pearson_q0.1"]) > 2 * np.median(radii["kl_q0.1"]) > 0
    assert all((radius <= radii["exact"]).all() for radius in radii.values())
