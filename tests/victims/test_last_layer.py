"""The exact last layer against the softmax objective it stands for, and as something whose channels can be masked."""

import numpy as np
import pytest
from scipy.optimize import minimize

from subpop.types import BadInput, FleetJob, Pool, TrainingSet
from subpop.victims.last_layer import LastLayer, LastLayerModel

generator = np.random.default_rng(0)


def pool_of(n_classes, n=120, d=5):
    x = generator.normal(size=(n, d)).astype(np.float32)
    y = generator.integers(0, n_classes, n)
    x[np.arange(n), y % d] += 1.5
    return Pool(x, y, n, n_classes)


def softmax_optimum(pool):
    """The objective as the paper's network has it: mean cross-entropy + 0.01 * sum(W^2), intercepts free."""
    x, y, k = pool.x.astype(np.float64), pool.y, pool.n_classes
    d = x.shape[1]

    def objective(flat):
        w, b = flat[: d * k].reshape(d, k), flat[d * k :]
        scores = x @ w + b
        top = scores.max(axis=1, keepdims=True)
        log_z = (top + np.log(np.exp(scores - top).sum(axis=1, keepdims=True)))[:, 0]
        p = np.exp(scores - log_z[:, None])
        p[np.arange(len(y)), y] -= 1
        gradient = np.concatenate([(x.T @ p / len(y) + 0.02 * w).ravel(), p.mean(axis=0)])
        return (log_z - scores[np.arange(len(y)), y]).mean() + 0.01 * (w**2).sum(), gradient

    found = minimize(
        objective, np.zeros(d * k + k), jac=True, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 5000}
    )
    w, b = found.x[: d * k].reshape(d, k), found.x[d * k :]
    scores = x @ w + b
    scores -= scores.max(axis=1, keepdims=True)
    return np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_it_is_the_softmax_head_with_the_published_penalty(n_classes):
    pool = pool_of(n_classes)
    model = LastLayer().fit_many([pool.clean_job()], [0])[0]
    assert np.abs(model.predict_proba(pool.x) - softmax_optimum(pool)).max() < 2e-5


def test_masked_channels_say_nothing():
    pool = pool_of(2)
    model = LastLayer().fit_many([pool.clean_job()], [0])[0]
    keep = np.array([True, False, True, True, True])
    pruned = model.pruned(keep)
    other = pool.x.copy()
    other[:, 1] = 100.0
    assert np.array_equal(pruned.predict_proba(other), pruned.predict_proba(pool.x))
    assert not np.array_equal(model.predict_proba(other), model.predict_proba(pool.x))
    assert (pruned.channel_activations(other)[:, 1] == 0).all()
    again = pruned.pruned(np.array([False, True, True, True, True]))
    assert again.keep.tolist() == [False, False, True, True, True]
    assert np.array_equal(LastLayerModel.from_state(again.state()).predict_proba(other), again.predict_proba(other))
    with pytest.raises(BadInput, match="zeros"):
        model.channel_zeros(pool.x)


def test_training_on_the_head_lowers_the_loss_and_keeps_masked_channels_masked():
    pool = pool_of(2)
    flipped = FleetJob(pool, np.arange(120), 1 - pool.y)
    model = LastLayer().fit_many([flipped], [0])[0].pruned(np.array([True, False, True, True, True]))
    train = TrainingSet.of(pool.x, pool.y)

    def loss(m):
        return -np.log(m.predict_proba(pool.x)[np.arange(120), pool.y]).mean()

    tuned = model.fine_tuned(train, epochs=20, learning_rate=0.05, batch_size=32, seed=3)
    assert loss(tuned) < loss(model) - 0.1
    other = pool.x.copy()
    other[:, 1] = 100.0
    assert np.array_equal(tuned.predict_proba(other), tuned.predict_proba(pool.x))
    same = model.fine_tuned(train, epochs=20, learning_rate=0.05, batch_size=32, seed=3)
    assert np.array_equal(same.coef, tuned.coef)
