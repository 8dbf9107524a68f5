"""The MLP victim against scikit-learn run in step with it, and the properties that fleets must have."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

from subpop.types import BadInput, FleetJob, Pool
from subpop.victims import make_victim, mlp_recipe
from subpop.victims.batch_order import BatchOrder
from subpop.victims.mlp import MLP, MLPModel

PARTS = ("w1", "b1", "w2", "b2")


def digits_pool(n_train: int = 600, n_classes: int = 2) -> Pool:
    x, digit = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    y = digit % 2 if n_classes == 2 else digit
    return Pool(x[order].astype(np.float32), y[order].astype(np.int64), n_train, n_classes)


def poisoned(pool: Pool, count: int, seed: int = 0) -> FleetJob:
    drawn = np.random.default_rng(seed).integers(pool.n_train, 2 * pool.n_train, count)
    rows = np.r_[np.arange(pool.n_train), drawn]
    return FleetJob(pool, rows, np.r_[pool.y[: pool.n_train], (pool.y[drawn] + 1) % pool.n_classes])


def fit(job: FleetJob, seed: int = 0, **options: int) -> MLPModel:
    model = MLP(**options).fit_many([job], [seed])[0]
    assert isinstance(model, MLPModel)
    return model


def bits(model: MLPModel) -> str:
    return hashlib.sha256(b"".join(getattr(model, part).tobytes() for part in PARTS)).hexdigest()


def distance(a: MLPModel, b: MLPModel) -> float:
    return max(float(np.abs(getattr(a, part) - getattr(b, part)).max()) for part in PARTS)


# --- the same training as scikit-learn --------------------------------------------------------------------------------


@pytest.fixture
def in_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes scikit-learn start from our weights and visit rows in our order."""
    orders = {}

    def start(self: MLPClassifier, fan_in: int, fan_out: int, dtype: type) -> tuple[np.ndarray, np.ndarray]:
        outputs = 1 if len(self.classes_) == 2 else len(self.classes_)
        ours = mlp_recipe.initial(self.random_state, self.n_features_in_, self.hidden_layer_sizes, outputs)
        return (ours.w1.copy(), ours.b1.copy()) if fan_in == self.n_features_in_ else (ours.w2.copy(), ours.b2.copy())

    def shuffled(index: np.ndarray, random_state: object) -> np.ndarray:
        epoch = orders.setdefault("epoch", 0)
        orders["epoch"] += 1
        return BatchOrder(3, np.arange(len(index))).epochs(epoch, 1)[0]

    monkeypatch.setattr(MLPClassifier, "_init_coef", start)
    monkeypatch.setattr("sklearn.neural_network._multilayer_perceptron.shuffle", shuffled)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(("n", "hidden", "n_classes", "epochs"), [(450, 10, 2, 40), (601, 17, 10, 15), (90, 33, 2, 60)])
def test_weights_follow_scikit_learn_step_by_step(in_step: None, n: int, hidden: int, n_classes: int, epochs: int) -> None:
    pool = digits_pool(n, n_classes)
    theirs = MLPClassifier(hidden, max_iter=epochs, random_state=3).fit(pool.x[:n], pool.y[:n])
    ours = fit(pool.clean_job(), 3, hidden=hidden, max_epochs=epochs)
    for mine, other in zip((ours.w1, ours.w2, ours.b1, ours.b2), theirs.coefs_ + theirs.intercepts_, strict=True):
        np.testing.assert_allclose(mine, other, atol=2e-5)
    assert ours.final_loss == pytest.approx(theirs.loss_, rel=1e-5)
    np.testing.assert_allclose(ours.predict_proba(pool.x[n:]), theirs.predict_proba(pool.x[n:]), atol=1e-4)


def test_training_stops_where_scikit_learn_stops(in_step: None) -> None:
    pool = digits_pool(1000)
    theirs = MLPClassifier(10, random_state=3, max_iter=1000).fit(pool.x[:1000], pool.y[:1000])
    ours = fit(pool.clean_job(), 3, max_epochs=1000)
    assert ours.n_epochs == theirs.n_iter_ < 1000
    assert ours.final_loss == pytest.approx(theirs.loss_, rel=1e-3)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_agrees_with_scikit_learn_in_distribution_on_its_own_seeds() -> None:
    pool, seeds = digits_pool(400), range(10)
    x, y = pool.x[400:], pool.y[400:]
    ours = MLP(max_epochs=1000).fit_many([pool.clean_job()] * len(seeds), list(seeds))
    with threadpool_limits(1):
        theirs = [MLPClassifier(10, max_iter=1000, random_state=seed).fit(pool.x[:400], pool.y[:400]) for seed in seeds]
    accuracy = [(model.predict_proba(x).argmax(1) == y).mean() for model in ours], [model.score(x, y) for model in theirs]
    epochs = [model.n_epochs for model in ours], [model.n_iter_ for model in theirs]  # type: ignore[attr-defined]
    assert np.mean(accuracy[0]) > 0.9
    assert np.std(epochs[0]) > 0  # most fits stop before the limit
    for mine, other in (accuracy, epochs):
        assert scipy.stats.ttest_ind(mine, other, equal_var=False).pvalue > 0.01


# --- fleets -----------------------------------------------------------------------------------------------------------


def test_bits_depend_on_a_task_alone_and_not_on_its_fleet() -> None:
    pool = digits_pool(300)
    extra = FleetJob(pool, np.r_[np.arange(300), len(pool)], np.r_[pool.y[:300], 0], extra_x=pool.x[:1] + 1)
    jobs, seeds = [pool.clean_job(), poisoned(pool, 40), extra, FleetJob(pool, np.arange(30), pool.y[:30])], [0, 1, 2, 0]
    together = MLP(max_epochs=30).fit_many(jobs, seeds)
    assert [bits(model) for model in together] == [
        bits(fit(job, seed, max_epochs=30)) for job, seed in zip(jobs, seeds, strict=True)
    ]  # type: ignore[arg-type]


def test_bits_do_not_depend_on_the_order_of_rows() -> None:
    pool = digits_pool(300)
    job = poisoned(pool, 60)
    shuffle = np.random.default_rng(0).permutation(len(job))
    assert bits(fit(FleetJob(pool, job.rows[shuffle], job.y[shuffle]), max_epochs=20)) == bits(fit(job, max_epochs=20))


def test_nothing_added_is_the_clean_victim() -> None:
    pool = digits_pool(300)
    empty = FleetJob(pool, np.arange(300), pool.y[:300], np.ones(300), extra_x=np.empty((0, 64), np.float32))
    clean, seeds = bits(fit(pool.clean_job(), max_epochs=20)), {bits(fit(pool.clean_job(), s, max_epochs=20)) for s in range(3)}
    assert bits(fit(empty, max_epochs=20)) == clean
    assert len(seeds) == 3


def test_rows_outside_the_pool_train_like_rows_of_a_larger_one() -> None:
    pool = digits_pool(300)
    small = Pool(pool.x[:400].copy(), pool.y[:400].copy(), 300, 2)
    rows, y = np.r_[np.arange(300), 350, 405, 400], np.r_[pool.y[:300], 0, 1, 1]
    outside = FleetJob(small, rows, y, extra_x=pool.x[400:410])
    other = FleetJob(small, rows, y, extra_x=pool.x[400:410] * 0)
    found = MLP(max_epochs=5).fit_many([other, outside], [0, 0])
    assert bits(found[1]) == bits(fit(FleetJob(pool, rows, y), max_epochs=5)) != bits(found[0])  # type: ignore[arg-type]


def test_a_repeated_row_counts_as_often_as_it_occurs() -> None:
    x = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    pool = Pool(x, np.array([0, 1]), 2, 2)
    often = fit(FleetJob(pool, np.array([0] * 3 + [1]), np.array([0, 0, 1, 1])), max_epochs=5)
    rows = np.vstack([x[[0]]] * 3 + [x[[1]]])
    apart = fit(Pool(rows, np.array([0, 0, 1, 1]), 4, 2).clean_job(), max_epochs=5)
    assert distance(often, apart) < 1e-6


@pytest.mark.parametrize("count", [1, 2, 199, 200, 201])
def test_few_rows_and_a_single_class_can_be_learnt(count: int) -> None:
    digits = digits_pool(300, 10)
    pool = Pool(digits.x / 16, digits.y, 300, 10)  # a loss above the clipping limit would end training at once
    model = fit(FleetJob(pool, np.arange(count), np.full(count, 7)), max_epochs=1000)
    proba = model.predict_proba(pool.x[:count])
    assert proba.shape == (count, 10)
    assert (proba[:, 7] > 0.5).all()


def test_raw_features_of_very_different_size_train() -> None:
    rng = np.random.default_rng(0)
    x = np.c_[rng.integers(0, 2, (500, 8)), rng.choice([0, 99_999], 500, p=[0.95, 0.05])].astype(np.float32)
    model = fit(Pool(x, x[:, 0].astype(np.int64), 500, 2).clean_job())
    assert np.isfinite(model.final_loss)
    assert (model.predict_proba(x).argmax(1) == x[:, 0]).mean() > 0.8


def test_the_victim_can_be_imported_without_torch_and_numba() -> None:
    code = "import sys, subpop.victims.mlp; print(sorted({'torch', 'numba'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_rows_of_weight_0_are_left_out() -> None:
    pool = digits_pool(300)
    weighted = FleetJob(pool, np.arange(300), pool.y[:300], (np.arange(300) >= 50).astype(float))
    assert bits(fit(weighted, max_epochs=5)) == bits(fit(FleetJob(pool, np.arange(50, 300), pool.y[50:300]), max_epochs=5))


def test_the_victim_is_trained_on_the_cpu_whatever_the_device() -> None:
    job = digits_pool(30).clean_job()
    for name, hidden in (("mlp", 10), ("mlp_wide", 100)):
        found, plain = (make_victim(name, device).fit_many([job], [0])[0] for device in ("cuda", "cpu"))
        assert isinstance(found, MLPModel)
        assert found.w1.shape == (64, hidden)
        assert bits(found) == bits(plain)  # type: ignore[arg-type]


# --- the model, and bad input -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 10])
def test_a_model_survives_storage_and_keeps_its_protocol(n_classes: int) -> None:
    pool = digits_pool(300, n_classes)
    model = fit(pool.clean_job(), max_epochs=10)
    for copy in (MLPModel.from_state(model.state()), pickle.loads(pickle.dumps(model))):
        assert (bits(copy), copy.n_epochs, copy.final_loss) == (bits(model), 10, model.final_loss)
    proba, features = model.predict_proba(pool.x), model.features(pool.x)
    assert proba.dtype == features.dtype == np.float32
    assert proba.shape == (len(pool), n_classes)
    assert features.shape == (len(pool), 10)
    np.testing.assert_allclose(proba.sum(1), 1, atol=1e-6)
    outputs = features @ model.w2 + model.b2
    outputs = np.hstack([0 * outputs, outputs]) if n_classes == 2 else outputs
    np.testing.assert_allclose(proba[:, 1] / proba[:, 0], np.exp(outputs[:, 1] - outputs[:, 0]), rtol=1e-3)
    with pytest.raises(BadInput, match="63 features"):
        model.predict_proba(pool.x[:, :63])


def with_value(pool: Pool, value: float) -> Pool:
    x = pool.x.copy()
    x[5] = value
    return Pool(x, pool.y, pool.n_train, pool.n_classes)


def bad_jobs() -> dict[str, FleetJob]:
    pool = digits_pool(20)
    rows, y = np.arange(20), pool.y[:20]
    return {
        "NaN or infinite": with_value(pool, np.nan).clean_job(),
        "remove or impute": with_value(pool, np.inf).clean_job(),
        "diverged": with_value(pool, 3.4e38).clean_job(),
        "weights": FleetJob(pool, rows, y, np.full(20, 2.0)),
        "a job of 0 rows": FleetJob(pool, rows[:0], y[:0]),
        "are not all in the pool": FleetJob(pool, rows + len(pool) - 19, y),
        "rows -1": FleetJob(pool, rows - 1, y),
        "are not all in 0..1": FleetJob(pool, rows, y + 1),
        "takes numbers": Pool(np.array([["a"], ["b"]]), np.array([0, 1]), 2, 2).clean_job(),
        "n_classes=1": Pool(pool.x, pool.y * 0, 20, 1).clean_job(),
    }


@pytest.mark.parametrize("words", list(bad_jobs()))
def test_bad_jobs_are_refused(words: str) -> None:
    with pytest.raises(BadInput, match=words):
        fit(bad_jobs()[words], max_epochs=3)


def test_bad_fleets_and_settings_are_refused() -> None:
    job, other = digits_pool(20).clean_job(), digits_pool(20).clean_job()
    for jobs, seeds, words in (([job], [0, 1], "2 seeds"), ([job, other], [0, 0], "share one pool"), ([job], [-1], "negative")):
        with pytest.raises(BadInput, match=words):
            MLP().fit_many(jobs, seeds)
    for options in ({"hidden": 0}, {"max_epochs": 0}):
        with pytest.raises(BadInput, match=next(iter(options))):
            MLP(**options)  # type: ignore[arg-type]
    assert MLP().fit_many([], []) == []


# --- when training stops ----------------------------------------------------------------------------------------------


def test_training_stops_after_the_first_epoch_whose_loss_is_small_enough() -> None:
    pool = digits_pool()
    job = pool.clean_job()
    long = [fit(job, max_epochs=epochs).final_loss for epochs in range(1, 31)]
    enough = (long[11] + long[12]) / 2
    stopped = fit(job, max_epochs=30, enough=enough)
    assert stopped.n_epochs == 1 + next(i for i, loss in enumerate(long) if loss <= enough) == 13
    assert bits(stopped) == bits(fit(job, max_epochs=13))
    assert fit(job, max_epochs=30, enough=1e-9).n_epochs == 30


def test_networks_of_one_fleet_can_have_their_own_number_of_epochs() -> None:
    pool = digits_pool()
    jobs = [poisoned(pool, 20, seed) for seed in range(3)]
    fleet = MLP().fit_for(jobs, [0, 1, 2], [3, 11, 5])
    alone = [fit(job, seed, max_epochs=epochs) for seed, (job, epochs) in enumerate(zip(jobs, (3, 11, 5), strict=True))]
    assert list(map(bits, fleet)) == list(map(bits, alone))


@pytest.mark.parametrize("epochs", [[5], [5, 0]])
def test_every_job_needs_a_number_of_epochs(epochs: list[int]) -> None:
    pool = digits_pool()
    with pytest.raises(BadInput, match="give one number of at least 1 per job"):
        MLP().fit_for([pool.clean_job()] * 2, [0, 1], epochs)
    with pytest.raises(BadInput, match=r"enough=-0.1; it must be a training loss of at least 0"):
        MLP(enough=-0.1)
