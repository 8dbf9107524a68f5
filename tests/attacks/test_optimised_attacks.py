"""Optimised poison on its way through the harness: the same draws, hidden among the rows, counted and trained on like any."""

import hashlib

import numpy as np
import pytest

from subpop.attacks import ATTACKS
from subpop.attacks.drawing import draw_poison
from subpop.experiments.experiment import Experiment
from subpop.harness.batching import PoolRows, job_of
from subpop.runtime.no_store import NoStore
from subpop.runtime.seeds import draw_identity
from subpop.types import BadInput, Cell, FleetJob, TrainingSet, Trial
from subpop.types.grid import grid
from subpop.types.specifications import attack_specification

BASE = {
    "stem": "s",
    "tier": "embedded",
    "dataset": "digits",
    "victim": "logistic_regression",
    "partition": "feature_match",
    "rate": 1.0,
    "n_seeds": 1,
}
MOVING = [
    {"attack": "gradient_match"},
    {"attack": "gradient_match", "objective": "cosine", "epsilon": 16},
    {"attack": "gradient_match", "objective": "distance"},
    {"attack": "influence"},
]
PICTURES = {"dataset": "digits_images", "victim": "conv_net", "epsilon": 16}


def cell(**changes) -> Cell:
    return grid(**{**BASE, **changes})[0]


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return Experiment.on(NoStore())


def digest(*arrays) -> str:
    found = hashlib.blake2b(digest_size=8)
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


# --- draws ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "name", "seed", "drawn", "shuffled", "defense_seed"),
    [
        ({}, "digit=4", 0, "fa70e18a5e8f843d", "517b06319b2bbe05", 1453395939),
        (
            {"sampling": "distinct", "rate": 0.5, "split": 2},
            "digit=7",
            3,
            "4d310985c84b78dc",
            "f8302d59cf42bd7b",
            3119457662,
        ),
        ({"rate": 2.0, "holdout": 0.1}, "digit=1", 0, "04f804de238a55f0", "bf65aff750cdc423", 2260717183),
    ],
)
def test_label_flipping_draws_what_it_always_drew(experiment, changes, name, seed, drawn, shuffled, defense_seed):
    """Recorded before any attack moved rows: references rest on these draws."""
    target = cell(**changes)
    poison = draw_poison(experiment.context.stage(target), target, name, seed, None)
    assert digest(poison.rows, poison.y) == drawn
    defended = experiment.prepare(target.with_(defense="trim"), Trial(name, seed))  # without a defense nothing is shuffled
    assert digest(defended.rows, defended.task.train.y) == shuffled
    assert experiment.prepare(target, Trial(name, seed)).task.seed == defense_seed


def test_identities():
    plain, moved = cell(), cell(attack="gradient_match", objective="cosine", epsilon=16)
    assert moved.plain() == plain == plain.plain()
    assert len({draw_identity(c) for c in (plain, moved, moved.with_(epsilon=8), moved.with_(objective="inner"))}) == 1
    assert draw_identity(moved.with_(split=1)) != draw_identity(moved)
    assert {name for name in ATTACKS if attack_specification(name).moves_rows} == {"gradient_match", "influence"}


@pytest.mark.parametrize("changes", [{}, {"objective": "cosine"}, {"epsilon": 4}])
def test_gradient_matching_is_paired_with_label_flipping(experiment, changes):
    """The same rows under the same labels, in the same places of the shuffled set."""
    plain = experiment.prepare(cell(), Trial("digit=3", 1))
    moved = experiment.prepare(cell(attack="gradient_match", **changes), Trial("digit=3", 1))
    pool = experiment.context.stage(cell()).pool
    poison = plain.rows >= pool.n_train
    assert np.array_equal(moved.rows >= len(pool), poison)
    assert np.array_equal(moved.rows[~poison], plain.rows[~poison])
    assert np.array_equal(moved.task.train.y, plain.task.train.y)
    assert np.array_equal(moved.flipped, plain.flipped)
    assert moved.n_poison == plain.n_poison
    assert np.array_equal(moved.task.reference_y, plain.task.reference_y)
    far = np.abs(moved.task.train.x - plain.task.train.x).max(axis=1)
    assert (far[~poison] == 0).all()
    assert (far[poison] > 0).all()


@pytest.mark.parametrize("changes", MOVING)
def test_nothing_tells_moved_rows_apart(experiment, changes):
    prepared = experiment.prepare(cell(rate=2.0, defense="drop_duplicates", **changes), Trial("digit=3", 0))
    train, pool = prepared.task.train, experiment.context.stage(cell()).pool
    poison = prepared.rows >= len(pool)
    assert poison.sum() == prepared.n_poison > 50
    assert train.x.dtype == pool.x.dtype
    assert train.x.shape[1:] == pool.x.shape[1:]
    assert train.ids.tolist() == list(range(len(poison)))
    thirds = np.array_split(poison, 3)
    assert min(part.mean() for part in thirds) > 0.4 * poison.mean()
    assert (prepared.task.know.n_poison, prepared.task.know.poison_mask) == (None, None)
    assert prepared.flipped.sum() == prepared.n_poison  # of one digit: every label is flipped
    assert prepared.member.sum() == experiment.context.stage(cell()).train_members("digit=3").sum()


def test_moved_pictures_are_bytes(experiment):
    for attack in ("gradient_match", "influence"):
        target = cell(attack=attack, rate=0.5, **PICTURES)
        prepared = experiment.prepare(target, Trial("digit=3", 0))
        pool = experiment.context.stage(target).pool
        x, poison = prepared.task.train.x, prepared.rows >= len(pool)
        assert x.dtype == np.uint8
        nearest = np.abs(x[poison][:, None].astype(int) - pool.x[experiment.context.stage(target).aux_members("digit=3")]).max(
            (2, 3, 4)
        )
        assert (nearest.min(axis=1) <= 16).all()
        assert (nearest.min(axis=1) > 0).any()


def test_influence_has_no_seed(experiment):
    one, other = (experiment.prepare(cell(attack="influence", defense="trim"), Trial("digit=3", seed)) for seed in (0, 1))
    assert np.array_equal(np.sort(one.rows), np.sort(other.rows))
    order, second = np.argsort(one.rows, kind="stable"), np.argsort(other.rows, kind="stable")
    assert np.array_equal(one.task.train.x[order], other.task.train.x[second])
    assert not np.array_equal(one.rows, other.rows)  # the shuffle differs


# --- training ---------------------------------------------------------------------------------------------------------


def test_damage_agrees_with_training_by_hand(experiment):
    """One trial of moved rows with scikit-learn, from what the defense is handed."""
    from sklearn.linear_model import LogisticRegression

    target = cell(attack="influence")
    results, _ = experiment.trials(target)
    prepared = experiment.prepare(target, results[4].trial)
    train, stage = prepared.task.train, experiment.context.stage(target)

    def ones(values):
        return np.column_stack([values, np.ones(len(values))])

    own = LogisticRegression(C=1.0, solver="newton-cholesky", fit_intercept=False, tol=1e-10).fit(ones(train.x), train.y)
    assert np.array_equal(own.predict(ones(stage.data.test_x)) == stage.data.test_y, results[4].arrays["right"])
    assert results[4].metrics["n_poison"] == results[4].metrics["n_flipped"] == prepared.n_poison


@pytest.mark.parametrize("changes", [*MOVING[1:], {"attack": "gradient_match", **PICTURES, "n_attacked": 2}])
def test_without_its_poison_a_set_trains_the_clean_victim(experiment, changes):
    """Bit for bit, though the set still knows of rows outside the pool."""
    for more in ({"rate": 0.0}, {"defense": "perfect_filter"}):
        target = cell(**{**changes, **more})
        for result in experiment.trials(target)[0]:
            assert np.array_equal(result.arrays["right"], experiment.context.clean_right(target, result.trial.seed))


def test_a_job_of_the_pool_alone_carries_no_other_rows(experiment):
    pool = experiment.context.stage(cell()).pool
    rows = np.array([0, 5, len(pool), len(pool) + 1])
    extra = pool.x[[1, 2]] + 1
    train = TrainingSet(PoolRows(pool, rows, extra), np.arange(4), pool.y[[0, 5, 1, 2]])
    whole = job_of(pool, train)
    assert whole.extra_x is extra
    assert np.array_equal(whole.x, train.x)
    kept = job_of(pool, train[np.array([True, True, False, False])])
    assert kept.extra_x is None
    assert kept.rows.tolist() == [0, 5]
    assert np.array_equal(job_of(pool, train[np.array([True, False, False, True])]).x, train.x[[0, 3]])
    assert isinstance(kept, FleetJob)


def test_a_second_attacker_makes_the_same_poison(experiment):
    second = Experiment.on(NoStore())
    second.context.supply(cell(), experiment.context.loaded("digits"))
    for changes in MOVING:
        target = cell(**changes)
        one, other = (e.prepare(target, Trial("digit=8", 0)).task.train.x for e in (experiment, second))
        assert np.array_equal(one, other)
        assert second.context.optimiser(target) is not experiment.context.optimiser(target)


def test_distinct_poison_has_no_twins(experiment):
    for changes in MOVING:
        target = cell(sampling="distinct", protocol="reserve", **changes)
        prepared = experiment.prepare(target, Trial("digit=3", 0))
        poison = prepared.task.train.x[prepared.rows >= len(experiment.context.stage(target).pool)]
        assert len(np.unique(poison, axis=0)) == len(poison) == prepared.n_poison


def test_a_certificate_refers_to_the_labels_that_rows_had(experiment):
    target = cell(attack="gradient_match", defense="label_flip_smoothing", n_attacked=2, victim="last_layer")
    results = [result for result in experiment.trials(target)[0] if result.trial.attacked]
    for result in results:
        right = result.arrays["right"][experiment.context.stage(target).test_members(result.trial.subpopulation)]
        protected = result.arrays["radius:exact"] >= result.metrics["n_flipped"]
        assert np.array_equal(right[protected], result.arrays["reference_right"][protected])


def test_several_classes(experiment):
    for changes in MOVING:
        target = cell(dataset="mixture_multiclass", **changes)
        name = experiment.context.stage(target).attacked[0]
        prepared = experiment.prepare(target, Trial(name, 0))
        poison = prepared.rows >= len(experiment.context.stage(target).pool)
        assert len(set(prepared.task.train.y[poison].tolist())) == 1
        assert prepared.flipped.sum() <= prepared.n_poison == poison.sum()


def test_the_gain_over_label_flipping_is_the_difference_of_the_damages(experiment):
    """Where all subpopulations are large enough the mean damages tell it too."""
    target = cell(attack="gradient_match", epsilon=16)
    ours, plain = experiment.run(target), experiment.run(cell())
    assert ours["n_left_out"] == 0
    gain = next(number for number in ours.numbers if number.metric == "gain_over_label_flip")
    assert gain.value == pytest.approx(ours["target_damage_mean"] - plain["target_damage_mean"], abs=1e-12)
    apart = [a["target_damage"] - b["target_damage"] for a, b in zip(ours.table, plain.table, strict=True)]
    assert gain.std_error == pytest.approx(np.std(apart, ddof=1) / len(apart) ** 0.5, abs=1e-12)
    assert not any(number.metric == "gain_over_label_flip" for number in plain.numbers)


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attack": "magic"}, "label_flip, gradient_match, influence"),
        ({"epsilon": 16}, "epsilon=16 does not apply to a cell of kind poisoning with attack label_flip"),
        ({"attack": "influence", "objective": "inner"}, "objective=inner does not apply .* with attack influence"),
        ({"attack": "gradient_match", "objective": "angle"}, "use one of inner, cosine, distance"),
        ({"attack": "gradient_match", "epsilon": "wide"}, "epsilon=wide"),
        ({"attack": "gradient_match", "epsilon": 0}, "above 0"),
        ({"attack": "influence", **PICTURES, "epsilon": 0.5}, "rounding would undo"),
        ({"attack": "influence", **PICTURES, "epsilon": None}, "in 8-bit levels, 1 or more"),
        ({"attack": "influence", "victim": "mlp"}, "penalised last layer"),
        ({"attack": "influence", "rate": 2.0, "sampling": "distinct"}, "protocol=reserve"),
    ],
)
def test_what_an_attack_cannot_do_is_refused(experiment, changes, message):
    with pytest.raises(BadInput, match=message):
        experiment.trials(cell(**changes))


def test_an_attack_that_moves_rows_needs_an_optimiser(experiment):
    target = cell(attack="influence")
    with pytest.raises(BadInput, match="give draw_poison an optimiser"):
        draw_poison(experiment.context.stage(target), target, "digit=3", 0, None)
