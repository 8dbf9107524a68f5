"""Checks of a victim, on generated rows or on a pool of the kind of data that it takes."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence

import numpy as np

from subpop.testing.checks import require
from subpop.types import Array, FleetJob, Model, Pool, Victim

EXACT_AGREEMENT = 1e-6
"""Largest difference in probabilities between an exact victim trained alone and in a batch."""
STOCHASTIC_AGREEMENT = 0.1
"""Largest difference in accuracy between two trainings of a stochastic victim."""

_Case = tuple[Victim, Pool]


def _jobs(pool: Pool) -> list[FleetJob]:
    """Return three jobs: D, D without every tenth row, and D with every tenth row repeated under the next label."""
    n, every = pool.n_train, np.arange(pool.n_train)
    tenth = every[every % 10 == 0]
    flipped = np.concatenate([pool.y[:n], (pool.y[tenth] + 1) % pool.n_classes])
    return [
        pool.clean_job(),
        FleetJob(pool, every[every % 10 > 0], pool.y[:n][every % 10 > 0]),
        FleetJob(pool, np.concatenate([every, tenth]), flipped),
    ]


def _probabilities(models: Sequence[Model], pool: Pool) -> list[Array]:
    """Return each model's probabilities, (N, C), on all rows of the pool, after checking them."""
    found = [np.asarray(model.predict_proba(pool.x)) for model in models]
    for proba in found:
        require(
            proba.shape == (len(pool), pool.n_classes),
            f"predict_proba has shape {proba.shape}, not {(len(pool), pool.n_classes)}",
        )
        require(proba.dtype == np.float32, f"predict_proba returns {proba.dtype}, not float32")
        require(np.isfinite(proba).all() and proba.min() >= 0, "predict_proba has negative, NaN or infinite values")
        require(np.abs(proba.sum(1) - 1).max() < 1e-3, "rows of predict_proba do not sum to 1")
    return found


def _returns_a_model_a_job(case: _Case) -> None:
    victim, pool = case
    advice = "use make_victim(name), or SklearnVictim for a scikit-learn classifier"
    require(hasattr(victim, "fit_many"), f"{type(victim).__name__} has no method fit_many; {advice}")
    before = pool.x.copy()
    models = victim.fit_many(_jobs(pool), [0, 1, 2])
    require(len(models) == 3, f"{len(models)} models for 3 jobs")
    _probabilities(models, pool)
    features = np.asarray(models[0].features(pool.x))
    require(features.ndim == 2 and len(features) == len(pool), f"features has shape {features.shape}, not ({len(pool)}, d)")
    require(features.dtype == np.float32 and np.isfinite(features).all(), "features must be finite float32")
    require(np.array_equal(before, pool.x), "fit_many wrote into the pool")
    require(len(victim.fit_many([], [])) == 0, "fit_many of no jobs must return no models")


def _same_seed_same_model(case: _Case) -> None:
    victim, pool = case
    runs = [_probabilities(victim.fit_many(_jobs(pool), [3, 4, 5]), pool) for _ in range(2)]
    require(all(np.array_equal(a, b) for a, b in zip(*runs, strict=True)), "the same jobs and seeds gave different models")


def _alone_agrees_with_fleet(case: _Case) -> None:
    victim, pool = case
    seeds = [3, 4, 5]
    fleet = _probabilities(victim.fit_many(_jobs(pool), seeds), pool)
    alone = [_probabilities(victim.fit_many([job], [seed]), pool)[0] for job, seed in zip(_jobs(pool), seeds, strict=True)]
    if victim.exact:
        gap = max(np.abs(a - b).max() for a, b in zip(fleet, alone, strict=True))
        require(
            gap <= EXACT_AGREEMENT,
            f"probabilities trained alone and in a batch differ by {gap:.2g}; an exact victim must agree to {EXACT_AGREEMENT:g}",
        )
    else:  # in distribution: by accuracy
        gap = max(
            abs(float((a.argmax(1) == pool.y).mean() - (b.argmax(1) == pool.y).mean())) for a, b in zip(fleet, alone, strict=True)
        )
        require(
            gap <= STOCHASTIC_AGREEMENT,
            f"accuracies trained alone and in a batch differ by {gap:.2f}; at most {STOCHASTIC_AGREEMENT:g} is allowed",
        )


def _exact_means_any_seed(case: _Case) -> None:
    victim, pool = case
    a, b = _probabilities(victim.fit_many([pool.clean_job()] * 2, [0, 1]), pool)
    gap = float(np.abs(a - b).max())
    require(not victim.exact or gap <= EXACT_AGREEMENT, f"two seeds differ by {gap:.2g}, but the victim declares exact = True")


def _trains_on_few_rows_and_classes(case: _Case) -> None:
    victim, pool = case
    some = np.arange(8)
    one_class = np.flatnonzero(pool.y[: pool.n_train] == pool.y[0])
    _probabilities(
        victim.fit_many([FleetJob(pool, some, pool.y[some]), FleetJob(pool, one_class, pool.y[one_class])], [0, 1]), pool
    )


def _trains_on_rows_outside_the_pool(case: _Case) -> None:
    victim, pool = case
    rows = np.arange(pool.n_train)
    outside = FleetJob(pool, len(pool) + rows, pool.y[rows], extra_x=np.array(pool.x[rows]))
    a, b = _probabilities(victim.fit_many([pool.clean_job(), outside], [0, 0]), pool)
    agree = float((a.argmax(1) == b.argmax(1)).mean())
    require(agree > 1 - STOCHASTIC_AGREEMENT, f"the same rows given as extra_x change {1 - agree:.0%} of the predictions")


def _models_travel(case: _Case) -> None:
    victim, pool = case
    model = victim.fit_many([pool.clean_job()], [0])[0]
    again = pickle.loads(pickle.dumps(model))  # made here
    require(
        np.array_equal(model.predict_proba(pool.x), again.predict_proba(pool.x)),
        "a pickled model predicts differently after loading",
    )


VICTIM_CHECKS: tuple[tuple[str, Callable[[_Case], None]], ...] = (
    ("returns_a_model_a_job", _returns_a_model_a_job),
    ("same_seed_same_model", _same_seed_same_model),
    ("alone_agrees_with_fleet", _alone_agrees_with_fleet),
    ("exact_means_any_seed", _exact_means_any_seed),
    ("trains_on_few_rows_and_classes", _trains_on_few_rows_and_classes),
    ("trains_on_rows_outside_the_pool", _trains_on_rows_outside_the_pool),
    ("models_travel", _models_travel),
)
