"""Checks of a victim, on generated rows or on a pool of the kind of data that it takes."""

from __future__ import annotations

import copy
import pickle
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from subpop.testing.checks import ContractWarning, require
from subpop.testing.toy import gaussian
from subpop.types import Array, FleetJob, Model, Pool, Victim

EXACT_AGREEMENT = 1e-6
"""Largest difference in probabilities between an exact victim trained alone and in a batch."""
STOCHASTIC_AGREEMENT = 0.1
"""Largest difference in accuracy between two trainings of a stochastic victim."""

SLOW_SECONDS = 0.5
"""Seconds of a fit of the few hundred rows of the toy data above which a victim is called slow."""
USUAL_FITS = 150
"""About as many victims are trained for a cell of a suite."""

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
            f"predict_proba has shape {proba.shape} for {len(pool)} rows and {pool.n_classes} classes; return "
            f"{(len(pool), pool.n_classes)}: a column for every class, also for one without training rows",
        )
        require(proba.dtype == np.float32, f"predict_proba returns {proba.dtype}; return float32, by .astype(np.float32)")
        wrong = np.flatnonzero(~(np.isfinite(proba).all(axis=1) & (proba >= 0).all(axis=1)))
        require(not len(wrong), f"predict_proba of row {wrong[:1]} is {proba[wrong[:1]]}; return numbers of 0 to 1")
        row = int(np.abs(proba.sum(1) - 1).argmax())
        gap = abs(float(proba[row].sum()) - 1)
        require(
            gap < 1e-3,
            f"probabilities of row {row} sum to {proba[row].sum():.3g}; rows of predict_proba do not sum to 1: scale them",
        )
    return found


def _returns_a_model_a_job(case: _Case) -> None:
    victim, pool = case
    advice = "use make_victim(name), or SklearnVictim for a scikit-learn classifier"
    require(hasattr(victim, "fit_many"), f"{type(victim).__name__} has no method fit_many; {advice}")
    before = pool.x.copy()
    models = victim.fit_many(_jobs(pool), [0, 1, 2])
    require(len(models) == 3, f"{len(models)} models for 3 jobs; return one for each job, in their order")
    _probabilities(models, pool)
    features = np.asarray(models[0].features(pool.x))
    require(features.ndim == 2 and len(features) == len(pool), f"features has shape {features.shape}; return ({len(pool)}, d)")
    require(features.dtype == np.float32 and np.isfinite(features).all(), f"features are {features.dtype}; return finite float32")
    n_changed = int((before != pool.x).any(axis=tuple(range(1, pool.x.ndim))).sum())
    require(not n_changed, f"fit_many wrote into {n_changed} rows of the pool, of which it may change none; work on copies")
    require(len(victim.fit_many([], [])) == 0, "fit_many of no jobs must return no models")


def _same_seed_same_model(case: _Case) -> None:
    victim, pool = case
    runs = [_probabilities(victim.fit_many(_jobs(pool), [3, 4, 5]), pool) for _ in range(2)]
    gap = max(float(np.abs(a - b).max()) for a, b in zip(*runs, strict=True))
    require(
        gap == 0,
        f"the same jobs and seeds gave different models, by up to {gap:.2g} in a probability, where 0 is allowed: draw every "
        "random number from the seed; an estimator of scikit-learn takes it as `random_state`, which is set for each training",
    )


def _alone_agrees_with_fleet(case: _Case) -> None:
    victim, pool = case
    seeds = [3, 4, 5]
    fleet = _probabilities(victim.fit_many(_jobs(pool), seeds), pool)
    alone = [_probabilities(victim.fit_many([job], [seed]), pool)[0] for job, seed in zip(_jobs(pool), seeds, strict=True)]
    if victim.exact:
        gap = max(np.abs(a - b).max() for a, b in zip(fleet, alone, strict=True))
        require(
            gap <= EXACT_AGREEMENT,
            f"probabilities trained alone and in a batch differ by {gap:.2g}; an exact victim must agree to {EXACT_AGREEMENT:g}: "
            "let a model depend on its own job only",
        )
    else:  # in distribution: by accuracy
        gap = max(
            abs(float((a.argmax(1) == pool.y).mean() - (b.argmax(1) == pool.y).mean())) for a, b in zip(fleet, alone, strict=True)
        )
        require(
            gap <= STOCHASTIC_AGREEMENT,
            f"accuracies trained alone and in a batch differ by {gap:.2f}; at most {STOCHASTIC_AGREEMENT:g} is allowed: let a "
            "model depend on its own job only",
        )


def _exact_means_any_seed(case: _Case) -> None:
    victim, pool = case
    a, b = _probabilities(victim.fit_many([pool.clean_job()] * 2, [0, 1]), pool)
    gap = float(np.abs(a - b).max())
    require(
        not victim.exact or gap <= EXACT_AGREEMENT,
        f"two seeds differ by {gap:.2g}, but the victim declares exact = True; declare False",
    )


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
    require(
        agree > 1 - STOCHASTIC_AGREEMENT, f"the same rows given as extra_x change {1 - agree:.0%} of the predictions; read job.x"
    )


def _models_travel(case: _Case) -> None:
    victim, pool = case
    model = victim.fit_many([pool.clean_job()], [0])[0]
    again = pickle.loads(pickle.dumps(model))  # made here
    require(
        np.array_equal(model.predict_proba(pool.x), again.predict_proba(pool.x)),
        "a pickled model predicts differently after loading; keep all that it needs in its attributes",
    )


def _costs_little(case: _Case) -> str:
    """The seconds of one fit, in this process where the victim is an estimator."""
    victim, pool = case
    started = time.perf_counter()
    victim.fit_many([pool.clean_job()], [0])
    seconds = time.perf_counter() - started
    cost = f"a fit of {pool.n_train} rows takes {seconds:.2g} s"
    if seconds > SLOW_SECONDS:
        minutes = seconds * USUAL_FITS / 60
        warnings.warn(f"{cost}: a cell, which trains about {USUAL_FITS}, takes {minutes:.0f} min", ContractWarning, stacklevel=2)
    return cost


# --- of the estimator inside a victim ---------------------------------------------------------------------------------


def _template(case: _Case) -> Any:
    """The unfitted estimator of a victim that wraps one, otherwise None."""
    return getattr(case[0], "template", None)


def _fitted(estimator: Any, x: Array, y: Array) -> Any:
    state = np.random.get_state()
    np.random.seed(0)
    try:
        estimator.fit(x, y)
    finally:
        np.random.set_state(state)
    return estimator


def _answers(estimator: Any, x: Array) -> Array:
    method = next((each for each in ("predict_proba", "decision_function", "predict") if hasattr(estimator, each)), "")
    require(
        bool(method), f"{type(estimator).__name__} has neither predict_proba nor decision_function nor predict; give a classifier"
    )
    return np.asarray(getattr(estimator, method)(x))


def _toy() -> tuple[Array, Array]:
    pool = gaussian(240, 3, seed=3).pool
    return np.array(pool.x), np.array(pool.y)


def _is_clonable(case: _Case) -> None:
    """Clones are made of parameters alone; an attribute that was set afterwards is lost."""
    lost = getattr(case[0], "lost", ())
    require(
        not lost,
        f"clones lack the attribute {', '.join(lost)} of the estimator, and every victim is trained as a clone; make it a "
        "parameter of __init__, or give the estimator before it is fitted",
    )


def _leaves_its_data_alone(case: _Case) -> None:
    """Whoever writes into arrays fails where they are read-only, as in other processes they are."""
    template = _template(case)
    if template is None:
        return
    x, y = _toy()
    given = x.copy(), y.copy()
    fitted = _fitted(copy.deepcopy(template), *given)
    for method, step in (("fit", None), ("a prediction", fitted)):
        if step is not None:
            given = x.copy(), y.copy()
            _answers(step, given[0])
        n_changed = int((given[0] != x).any(axis=1).sum() + (given[1] != y).sum())
        require(not n_changed, f"{method} wrote into {n_changed} of the {len(x)} rows that it was given; work on a copy of them")


def _keeps_its_classes(case: _Case) -> None:
    template = _template(case)
    if template is None:
        return
    x, y = _toy()
    fitted = _fitted(copy.deepcopy(template), x, y)
    classes = getattr(fitted, "classes_", None)
    found_classes = [] if classes is None else np.asarray(classes).tolist()
    require(
        classes is None or sorted(found_classes) == [0, 1, 2],
        f"classes_ is {found_classes} after a training on the labels 0, 1, 2; set it to numpy.unique(y)",
    )
    if not hasattr(fitted, "predict") or not hasattr(fitted, "predict_proba"):
        return
    labels = np.asarray(fitted.predict(x))
    require(
        labels.shape == y.shape and np.isin(labels, [0, 1, 2]).all(),
        f"predict returns {labels.dtype} of shape {labels.shape}, from {labels.min()} to {labels.max()}; return labels that "
        f"occur in y, of shape {y.shape}",
    )
    best = np.asarray(found_classes if found_classes else [0, 1, 2])[np.asarray(fitted.predict_proba(x)).argmax(axis=1)]
    agree = float((best == labels).mean())
    require(
        agree > 0.5,
        f"predict and the largest column of predict_proba agree in {agree:.0%} of the rows, and must in most: order the columns "
        "as classes_",
    )


VICTIM_CHECKS: tuple[tuple[str, Callable[[_Case], str | None]], ...] = (
    ("returns_a_model_a_job", _returns_a_model_a_job),
    ("is_clonable", _is_clonable),
    ("same_seed_same_model", _same_seed_same_model),
    ("alone_agrees_with_fleet", _alone_agrees_with_fleet),
    ("exact_means_any_seed", _exact_means_any_seed),
    ("trains_on_few_rows_and_classes", _trains_on_few_rows_and_classes),
    ("trains_on_rows_outside_the_pool", _trains_on_rows_outside_the_pool),
    ("models_travel", _models_travel),
    ("leaves_its_data_alone", _leaves_its_data_alone),
    ("keeps_its_classes", _keeps_its_classes),
    ("costs_little", _costs_little),
)
