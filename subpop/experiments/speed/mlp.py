"""Speed of the small network on Adult: the fleet against scikit-learn's MLPClassifier, one at a time, and their damages."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from subpop.datasets.stage import Stage
from subpop.experiments.speed.roofline import of_network, peak_of, tasks_of
from subpop.experiments.speed.timing import ROUNDS, attacks, ratio_of_medians
from subpop.results.intervals import SEEDS, of_values
from subpop.runtime.seeds import derived_seed
from subpop.types import Array, Cell, FleetJob, Model, Number
from subpop.victims import make_victim
from subpop.victims.sklearn_adapter import SklearnModel

MAX_EPOCHS = 200
N_MLP = 102
"""Number of victims: a multiple of three, so that all rates are equally frequent."""


def mlp(cell: Cell, stage: Stage) -> tuple[list[Number], int]:
    """Train FeatureMatch victims with different seeds as a fleet and with MLPClassifier; both sides' mean target damage."""
    attacked = attacks(cell, stage)
    chosen = [attacked[i % len(attacked)] for i in range(N_MLP)]
    jobs, names = [job for job, _ in chosen], [name for _, name in chosen]
    seeds = [derived_seed("speed", i) % 2**32 for i in range(N_MLP)]
    clean = [stage.pool.clean_job().canonical()] * N_MLP
    make_victim(cell.victim).fit_many(jobs[:2], seeds[:2])  # compile
    _classifiers(jobs[:2], seeds[:2])  # start the workers
    from subpop.victims.mlp_narrow import train

    numbers, ours, theirs = ratio_of_medians(
        lambda: make_victim(cell.victim).fit_many(jobs, seeds), lambda: _classifiers(jobs, seeds)
    )
    x, tasks = tasks_of(jobs, seeds, make_victim(cell.victim).hidden)  # type: ignore[attr-defined]
    epochs = [trained.n_epochs for trained in train(x, tasks, [MAX_EPOCHS] * N_MLP)]
    numbers += of_network(tasks, epochs, next(each.value for each in numbers if each.metric == "fleet_seconds"))
    numbers += peak_of(lambda: make_victim(cell.victim).fit_many(jobs, seeds))
    mine = _damages(stage, names, make_victim(cell.victim).fit_many(clean, seeds), ours)
    other = _damages(stage, names, _classifiers(clean, seeds), theirs)
    numbers += [
        Number("n_victims", float(N_MLP)),
        _mean("fleet_target_damage_mean", mine, cell),
        _mean("one_at_a_time_target_damage_mean", other, cell),
        _mean("damage_difference", mine - other, cell),
    ]
    return numbers, 2 * (ROUNDS + 1) * N_MLP


def _mean(metric: str, damages: Array, cell: Cell) -> Number:
    """A mean over victims with different seeds. `std` is scaled so that std / sqrt(n_seeds) of the cell is its standard error."""
    error = float(damages.std(ddof=1) / math.sqrt(len(damages)))
    std = error * math.sqrt(cell.n_seeds)
    return Number(metric, float(damages.mean()), error, std=std, half_width=of_values(damages), varies=SEEDS)


def _classifiers(jobs: Sequence[FleetJob], seeds: Sequence[int]) -> list[SklearnModel]:
    from joblib import Parallel, delayed

    tasks = (delayed(_classifier)(job.x, job.y, job.pool.n_classes, seed) for job, seed in zip(jobs, seeds, strict=True))
    trained: list[SklearnModel] = Parallel(n_jobs=-1)(tasks)
    return trained


def _classifier(x: Array, y: Array, n_classes: int, seed: int) -> SklearnModel:
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # both sides stop at the same number of epochs
        fitted = MLPClassifier(hidden_layer_sizes=(10,), random_state=seed).fit(x, y)
    return SklearnModel(fitted, n_classes, np.arange(n_classes))


def _damages(stage: Stage, names: Sequence[str], clean: Sequence[Model], poisoned: Sequence[Model]) -> Array:
    """(n,) target damage of each victim, compared with the clean victim of the same seed."""
    data = stage.data
    masks = {name: stage.test_members(name) for name in set(names)}

    def accuracy(model: Model, name: str) -> float:
        rows = masks[name]
        return float((model.predict_proba(data.test_x[rows]).argmax(1) == data.test_y[rows]).mean())

    return np.array([accuracy(c, n) - accuracy(p, n) for c, p, n in zip(clean, poisoned, names, strict=True)])
