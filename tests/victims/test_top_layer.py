"""The top layer of a frozen network: exact alone, and exact in fleets that differ in a row each."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from frozen_toys import DECAY, SHAPES, dense_hessian, gaussian, residual_of
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from subpop.types import BadInput
from subpop.victims.top_layers import conjugate
from subpop.victims.top_layers.conjugate import SMALL
from subpop.victims.top_layers.equations import Equations, Preconditioner, solve_exactly
from subpop.victims.top_layers.gram import Gram, Products, times
from subpop.victims.top_layers.heads import HeadFleet
from subpop.victims.top_layers.top_layer import TopLayer, feature_gradients

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(params=[0, SMALL], ids=["BLAS copies", "BLAS need not copy"])
def kernels(request, monkeypatch):
    """Both ways to multiply, whatever this machine's BLAS does."""
    for module in ("gram", "equations"):
        monkeypatch.setattr(f"subpop.victims.top_layers.{module}.uncopied", lambda: request.param)


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_a_top_layer_is_scikit_learns(n, d):
    features, y = gaussian(n, d)
    top = TopLayer.fit(features, y, DECAY)
    own = LogisticRegression(C=1 / (n * DECAY), fit_intercept=False, solver="newton-cholesky", tol=1e-13, max_iter=200)
    w = own.fit(features, y).coef_[0]
    assert np.abs(top.w - w).max() < 1e-8
    assert top.kkt_residual <= top.tolerance <= 1.01e-11
    assert top.kkt_residual == pytest.approx(residual_of(top.w, features, y), abs=1e-14)
    assert top.loss() == pytest.approx(-np.log(own.predict_proba(features)[np.arange(n), y]).mean(), rel=1e-7)
    assert top.objective() == pytest.approx(top.loss() + DECAY / 2 * (w @ w), rel=1e-7)
    assert top.accuracy() == (own.predict(features) == y).mean()
    assert (top.right(features, y) == (own.predict(features) == y)).all()


def test_one_feature_by_hand():
    # Two rows at 1 and -1, classes 1 and 0: (1 - sigmoid(w)) = decay w.
    top = TopLayer.fit(np.array([[1.0], [-1.0]]), np.array([1, 0]), 0.1)
    assert 1 - expit(top.w[0]) == pytest.approx(0.1 * top.w[0], abs=1e-9)
    assert top.margins(np.array([[2.0]]))[0] == 2 * top.w[0]


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_equations_with_the_hessian(n, d):
    features, y = gaussian(n, d)
    top, g = TopLayer.fit(features, y, DECAY), np.random.default_rng(1).normal(size=(3, d))
    expected = np.linalg.solve(dense_hessian(top.w, features), g.T).T
    np.testing.assert_allclose(top.inverse_hessian_times(g), expected, rtol=1e-7, atol=1e-9 * np.abs(expected).max())


def test_repeated_rows_and_dead_features():
    features, y = gaussian(20, 60)
    features = np.vstack([features, features[:5]])
    features[:, 10:20] = 0
    labels = np.concatenate([y, y[:5]])
    top = TopLayer.fit(features, labels, DECAY)
    assert residual_of(top.w, features, labels) <= 1e-11
    assert (np.abs(top.w[10:20]) < 1e-12).all()


@pytest.mark.parametrize(
    ("features", "y", "decay"),
    [
        (np.ones((3, 2)), [0, 1, 2], DECAY),
        (np.ones((3, 2)), [0, 1, -1], DECAY),
        (np.ones((3, 2)), [0.5, 1, 0], DECAY),
        (np.ones((3, 2)), [1, 1, 1], DECAY),
        (np.ones((3, 2)), [0, 1], DECAY),
        (np.full((2, 2), np.nan), [0, 1], DECAY),
        (np.full((2, 2), np.inf), [0, 1], DECAY),
        (np.ones(2), [0, 1], DECAY),
        (np.ones((2, 0)), [0, 1], DECAY),
        (np.ones((2, 2)), [0, 1], 0.0),
        (np.ones((2, 2)), [0, 1], -1.0),
        (np.ones((2, 2)), [0, 1], np.nan),
    ],
)
def test_a_top_layer_refuses(features, y, decay):
    with pytest.raises(BadInput):
        TopLayer.fit(features, np.array(y), decay)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_resolving_is_fitting_from_scratch(n, d):
    features, y = gaussian(n, d)
    top, images, rng = TopLayer.fit(features, y, DECAY), np.array([0, 1, 7, 7]), np.random.default_rng(2)
    fleet = HeadFleet(top, images)
    changed = features[images].copy()
    for size in (0.0, 0.1, 1.0, 30.0):  # from nothing to far on the wrong side
        changed = changed + size * rng.normal(size=changed.shape)
        heads = fleet.resolve(changed)
        assert (heads.kkt_residual <= top.tolerance).all()
        for j, image in enumerate(images):
            rows = features.copy()
            rows[image] = changed[j]
            again = TopLayer.fit(rows, y, DECAY)
            assert np.abs(heads.w[j] - again.w).max() < 1e-8
            assert residual_of(heads.w[j], rows, y) <= 1.01 * top.tolerance
            assert heads.accuracy[j] == again.accuracy()
            assert heads.loss[j] == pytest.approx(again.loss(), rel=1e-7)
            assert heads.norm[j] == pytest.approx(np.linalg.norm(again.w), rel=1e-8)
            assert heads.own_margin[j] == pytest.approx(changed[j] @ again.w, abs=1e-7)
    assert heads.own_y.tolist() == y[images].tolist()


def test_heads_agree_alone_and_in_a_fleet():
    features, y = gaussian(40, 80)
    top, images = TopLayer.fit(features, y, DECAY), np.arange(12)
    changed = features[images] + np.random.default_rng(0).normal(size=(12, 80)) * np.linspace(0, 5, 12)[:, None]
    together = HeadFleet(top, images).resolve(changed)
    for j in (0, 5, 11):
        alone = HeadFleet(top, images[j : j + 1]).resolve(changed[j : j + 1])
        assert np.abs(alone.w[0] - together.w[j]).max() < 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("m", "n", "k"), [(1, 700, 700), (3, 900, 900), (10, 1021, 900), (20, 40, 30), (2, 5, 20_000)])
def test_products_in_blocks_are_those_of_one_product(m, n, k, dtype):
    generator = torch.Generator().manual_seed(0)
    rows, table = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((m, n), (n, k)))
    found = times(rows.to(dtype), table.to(dtype))
    assert found.dtype == dtype
    close = 1e-3 if dtype == torch.float32 else 1e-11
    assert torch.allclose(found.double(), rows @ table, rtol=0, atol=close)


def test_some_heads_go_on():
    features, y = gaussian(30, 50)
    top = TopLayer.fit(features, y, DECAY)
    fleet, changed = HeadFleet(top, np.array([3, 4, 5])), features[3:6] + 1.0
    fleet.resolve(changed)
    part = fleet.part(np.array([1]))
    fleet.keep(np.array([True, False, True]))
    assert (len(fleet), fleet.images.tolist(), part.images.tolist()) == (2, [3, 5], [4])
    for own, row in ((fleet, 2), (part, 1)):
        rows = features.copy()
        rows[3 + row] = changed[row] * 2
        assert (
            np.abs(own.resolve(changed[[0, 2] if own is fleet else [1]] * 2).w[-1] - TopLayer.fit(rows, y, DECAY).w).max() < 1e-8
        )


def test_a_head_that_does_not_get_there_starts_again(monkeypatch):
    features, y = gaussian(25, 90)
    top, images = TopLayer.fit(features, y, DECAY), np.array([2, 9])
    changed = features[images] + 3 * np.random.default_rng(0).normal(size=(2, 90))
    expected = HeadFleet(top, images).resolve(changed).w
    monkeypatch.setattr("subpop.victims.top_layers.lockstep.PATIENCE", 1)
    heads = HeadFleet(top, images).resolve(changed)
    assert np.abs(heads.w - expected).max() < 1e-8
    assert (heads.kkt_residual <= top.tolerance).all()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_features_of_any_size(scale):
    features, y = gaussian(40, 70)
    features = features * scale
    top = TopLayer.fit(features, y, DECAY)
    changed = features[:2] + scale * np.random.default_rng(0).normal(size=(2, 70))
    heads = HeadFleet(top, np.array([0, 1])).resolve(changed)
    rows = features.copy()
    rows[1] = changed[1]
    expected = TopLayer.fit(rows, y, DECAY).w
    assert np.abs(heads.w[1] - expected).max() < 1e-8 * max(1, np.abs(expected).max())


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_cotangents_are_the_formula(n, d):
    features, y = gaussian(n, d)
    top, images, rng = TopLayer.fit(features, y, DECAY), np.array([2, 3]), np.random.default_rng(3)
    changed, sets = features[images] + rng.normal(size=(2, d)), [rng.normal(size=(6, d)), rng.normal(size=(4, d))]
    fleet = HeadFleet(top, images)
    heads, targets = fleet.resolve(changed), [fleet.targets(each) for each in sets]
    margins = heads.margins(targets)
    found = heads.cotangents(targets, [expit(own) / len(own) for own in margins])
    for j, image in enumerate(images):
        rows = features.copy()
        rows[image] = changed[j]
        np.testing.assert_allclose(margins[j], sets[j] @ heads.w[j], atol=1e-9)
        g = (expit(sets[j] @ heads.w[j]) @ sets[j]) / len(sets[j])
        s = np.linalg.solve(dense_hessian(heads.w[j], rows), g)
        expected = feature_gradients(heads.w[[j]], s[None], changed[[j]], y[[image]])[0]
        np.testing.assert_allclose(found[j], expected, atol=1e-4 * np.abs(expected).max())


def test_feature_gradients_by_finite_differences():
    rng, h = np.random.default_rng(0), 1e-6
    w, s, f = rng.normal(size=(3, 2, 5))
    y = np.array([0, 1])
    grad_w = lambda f: (s * ((expit((w * f).sum(1)) - y)[:, None] * f)).sum(1)  # noqa: E731
    found = feature_gradients(w, s, f, y)
    for k in range(5):
        side = h * (np.arange(5) == k)
        np.testing.assert_allclose(found[:, k], (grad_w(f + side) - grad_w(f - side)) / (2 * h), rtol=1e-6, atol=1e-8)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("low", [torch.float32, torch.float64])
def test_equations_of_many_heads_against_dense_ones(low):
    features, y = gaussian(90, 200)
    top, rng = TopLayer.fit(features, y, DECAY), np.random.default_rng(5)
    gram, images = Gram.of(top), torch.tensor([4, 80, 9])
    changed = torch.from_numpy(rng.normal(size=(3, 200)))
    products = Products.of(gram, images, changed)
    weight, b = torch.from_numpy(rng.random((3, 90)) ** 8), torch.from_numpy(rng.normal(size=(3, 90)))
    near = Preconditioner.of(gram, products, weight, torch.zeros_like(weight))
    parts = (part.to(low) for part in (near.directions, near.inner, near.outer, near.core))
    equations = Equations(products.lowered(gram.products.to(low)), weight.sqrt(), Preconditioner(near.made_at, *parts))
    accuracy = torch.tensor([1e-2, 1e-4, 1e-5], dtype=torch.float64)
    solved = equations.solve(b, accuracy)
    refined = solve_exactly(products, equations, weight.sqrt(), b)
    for j in range(3):
        rows = features.copy()
        rows[images[j]] = changed[j].numpy()
        root = weight[j].sqrt().numpy()
        exact = np.linalg.solve(np.eye(90) + root[:, None] * (rows @ rows.T) * root, b[j].numpy())
        for found, allowed in ((solved, 100 * accuracy[j]), (refined, 1e-5)):
            assert np.linalg.norm(found[j].numpy() - exact) < float(allowed) * np.linalg.norm(exact)


@pytest.mark.parametrize("images", [[40], [-1], [[0]]])
def test_a_fleet_refuses_rows_that_are_not_there(images):
    with pytest.raises(BadInput, match="training rows"):
        HeadFleet(TopLayer.fit(*gaussian(40, 3)), np.array(images))


def test_a_fleet_refuses_features_that_do_not_fit():
    fleet = HeadFleet(TopLayer.fit(*gaussian(40, 3)), np.array([0, 1]))
    for changed in (np.ones((1, 3)), np.ones((2, 4)), np.full((2, 3), np.nan)):
        with pytest.raises(BadInput):
            fleet.resolve(changed)


def test_too_many_rows_for_a_table(monkeypatch):
    monkeypatch.setattr("subpop.victims.top_layers.gram.LARGEST", 30)
    with pytest.raises(BadInput, match="at most 30 rows"):
        HeadFleet(TopLayer.fit(*gaussian(40, 3)), np.array([0]))


@pytest.mark.parametrize(
    ("names", "expected"),
    [(["SkylakeX"], SMALL), (["SapphireRapids"] * 2, SMALL), (["Haswell"], 0), (["SkylakeX", "Zen"], 0), ([None], 0), ([], 0)],
)
def test_blocks_are_for_kernels_that_need_not_copy(names, expected, monkeypatch):
    found = [{"user_api": "blas", "architecture": name} for name in names] + [{"user_api": "openmp"}]
    monkeypatch.setattr(conjugate, "threadpool_info", lambda: found)
    assert conjugate.uncopied.__wrapped__() == expected


@pytest.mark.parametrize("small", [0, 20_000, SMALL])
@pytest.mark.parametrize("m", [1, 3, 20])
def test_a_product_in_blocks_is_the_product(m, small):
    rng = np.random.default_rng(0)
    rows, shared = rng.normal(size=(m, 301)), rng.normal(size=(301, 97))
    np.testing.assert_allclose(conjugate.times_table(rows, shared, small), rows @ shared, rtol=0, atol=1e-12)


@pytest.mark.parametrize("small", [0, 20_000, SMALL])
@pytest.mark.parametrize("m", [1, 3, 20])
def test_a_product_with_a_symmetric_table_is_the_product(m, small):
    rng = np.random.default_rng(0)
    rows, half = rng.normal(size=(m, 301)), rng.normal(size=(301, 301))
    product = conjugate.times_symmetric(rows, half + half.T, small)
    np.testing.assert_allclose(product, rows @ (half + half.T), rtol=0, atol=1e-12)
    assert product.flags.c_contiguous
