"""Whether wider networks suffer more from the same poison: the kind of measurement `width`.

One family of victims, the networks with one hidden layer of `subpop.victims.mlp`, is trained with 2 to 128 units on the same
poisoned sets. With `equal=epochs` all networks are trained for 200 epochs, the maximum of the family's recipe. With `equal=loss`
the network of a width and a seed is trained on clean D until an epoch's mean training loss is at most LOSS, and on the poisoned
sets for as many epochs. A network that stops before, or needs more than MOST_EPOCHS, has *not reached* the loss: the share of
seeds that reached it stands beside the damage, which is the mean over all seeds. The patience of the recipe may end training
earlier, so the mean numbers of epochs are reported.

A damage is the clean network's accuracy on the target less that of the poisoned network of the same width and seed. A seed's rank
correlation is Kendall's tau-b between width and damage, which is the mean over subpopulations, of the widths that reached the
loss with this seed; it is 0 if all damages are equal. The mean over seeds has a t-interval.

*Source*: the hypothesis that more parameters are more vulnerable, of "Fragile Giants" (arXiv 2410.08872), of which we had
the abstract only.
*Deviations*: theirs are deep models; this is a small family in which width alone varies. The attacked subpopulations are those
that the attacker's own model chooses, with the width of the victim `mlp`, and are the same for all widths. LOSS is .15 because
all seeds reach it from 4 units on. With .1, the first choice, 4 and 8 units reach it with seven of ten seeds, and the mean
correlation on digits was +.24 instead of +.02, with an interval from -.26 to +.74.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from subpop.attacks.drawing import check_attack, draw_poison
from subpop.datasets.stage import Stage
from subpop.experiments.experiment import Experiment
from subpop.results.intervals import SEEDS, of_values
from subpop.runtime.seeds import training_seed
from subpop.types import BadInput, Bools, Cell, CellResult, FleetJob, Model, Number
from subpop.types.specifications import Capacity
from subpop.victims.mlp import MLP, MLPModel

Doubles = NDArray[np.float64]
VICTIM = "mlp"
WIDTHS = (2, 4, 8, 16, 32, 64, 128)
EPOCHS = 200
"""Epochs of all widths with `equal=epochs`."""
LOSS = 0.15
"""The training loss on clean data, with the penalty, of all widths with `equal=loss`: chosen by who reaches it."""
MOST_EPOCHS = 2000
"""Maximum number of epochs with `equal=loss`."""
DIGITS = 9
"""Decimals of a damage."""
FEWEST = 3
"""Minimum number of widths for a rank correlation."""


@dataclass(frozen=True, eq=False)
class Width:
    """All networks of one width. Arrays (s, g) have a row for each seed and a column for each attacked subpopulation."""

    units: int
    clean: Doubles
    """(s, g) accuracy of the clean networks on each subpopulation."""
    attacked: Doubles
    """(s, g) accuracy of the poisoned networks on the subpopulation that is attacked."""
    accuracy: Doubles
    """(s,) accuracy of the clean networks on all test rows."""
    losses: Doubles
    """(s,) training loss of the clean networks."""
    reached: Bools | None
    """(s,) whether the clean network has the training loss that is asked for; None where none is."""
    epochs: tuple[float, float]
    """Mean number of epochs of the clean and of the poisoned networks."""

    @cached_property
    def by_seed(self) -> Doubles:
        """(s,) the damage of each seed, the mean over subpopulations, rounded so that equal ones are equal."""
        return np.asarray(np.round((self.clean - self.attacked).mean(axis=1), DIGITS))

    def numbers(self) -> list[Number]:
        """The mean damage with its interval over seeds, and what stands beside it."""
        found = [
            _mean(f"target_damage_width_{self.units}", self.by_seed),
            _mean(f"target_clean_accuracy_width_{self.units}", self.clean.mean(axis=1)),
        ]
        return found if self.reached is None else [*found, Number(f"reached_width_{self.units}", float(self.reached.mean()))]

    def rows(self, stage: Stage) -> list[dict[str, float | str]]:
        """The width's lines in the table, one for each subpopulation."""
        whole = {
            "clean_accuracy": float(self.accuracy.mean()),
            "training_loss": float(self.losses.mean()),
            "reached": float("nan") if self.reached is None else float(self.reached.mean()),
            "epochs": self.epochs[0],
            "attacked_epochs": self.epochs[1],
        }
        return [
            {
                "subpopulation": name,
                "width": float(self.units),
                "n_test": float(stage.test_members(name).sum()),
                "target_clean_accuracy": float(self.clean[:, i].mean()),
                "target_damage": float((self.clean - self.attacked)[:, i].mean()),
                **whole,
            }
            for i, name in enumerate(stage.attacked)
        ]


def measure_capacity(cell: Cell, experiment: Experiment) -> CellResult:
    """The damage of every width, and its rank correlation with the width.

    Raises
    ------
    BadInput
        If the cell has another victim than the family's, or a defense.
    """
    started = time.perf_counter()
    if (cell.victim, cell.defense) != (VICTIM, "none"):
        raise BadInput(
            f"{cell.id}: a cell of kind width compares widths of the victim {VICTIM} without a defense, not {cell.victim} with "
            f"{cell.defense}; use victim={VICTIM} and defense=none"
        )
    stage = experiment.context.stage(cell)
    check_attack(stage, cell)
    jobs = [_attacked_job(cell, experiment, name, seed) for seed in range(cell.n_seeds) for name in stage.attacked]
    widths = [_train(units, cell, stage, jobs) for units in WIDTHS]
    numbers = [number for width in widths for number in width.numbers()]
    return CellResult(
        cell,
        (*numbers, *_correlation(widths)),
        tuple(row for width in widths for row in width.rows(stage)),
        exact=False,
        n_subpopulations=len(stage.attacked),
        n_fits=len(WIDTHS) * (len(jobs) + cell.n_seeds),
        seconds=time.perf_counter() - started,
    )


def seed_tau(widths: Sequence[int], damages: Doubles, reached: Bools) -> float:
    """Kendall's tau-b of width and damage over the widths that reached the loss; 0 if all damages are equal, NaN for too few.

    Examples
    --------
    >>> import numpy as np
    >>> seed_tau([2, 4, 8, 16], np.array([0.5, 0.1, 0.3, 0.2]), np.array([False, True, True, True]))
    0.333333333333
    """
    from scipy.stats import kendalltau

    if reached.sum() < FEWEST:
        return float("nan")
    tau = float(kendalltau(np.array(widths)[reached], np.round(damages[reached], DIGITS)).statistic)
    return round(tau, 12) if np.isfinite(tau) else 0.0


# --- one width --------------------------------------------------------------------------------------------------------


def _train(units: int, cell: Cell, stage: Stage, jobs: Sequence[FleetJob]) -> Width:
    """Train all networks of a width. jobs: the poisoned sets, all subpopulations of the first seed first.

    At equal epochs they are one fleet. At equal loss the clean networks tell for how many epochs the others are trained.
    """
    assert isinstance(cell.measurement, Capacity)
    seeds, n_groups = [training_seed(cell, seed) for seed in range(cell.n_seeds)], len(stage.attacked)
    clean_jobs, own = [stage.pool.clean_job().canonical()] * len(seeds), [seed for seed in seeds for _ in stage.attacked]
    to_loss = cell.measurement.equal == "loss"
    if to_loss:
        clean = _networks(MLP(units, MOST_EPOCHS, LOSS).fit_many(clean_jobs, seeds))
        attacked = _networks(MLP(units).fit_for(jobs, own, [each.n_epochs for each in clean for _ in stage.attacked]))
    else:
        both = _networks(MLP(units, EPOCHS).fit_many([*clean_jobs, *jobs], [*seeds, *own]))
        clean, attacked = both[: len(seeds)], both[len(seeds) :]
    members = [stage.test_members(name) for name in stage.attacked]
    right = np.array([_right(each, stage) for each in clean])
    hit = np.array([_right(each, stage)[members[i % n_groups]].mean() for i, each in enumerate(attacked)])
    losses = np.array([each.final_loss for each in clean])
    return Width(
        units,
        np.stack([right[:, own].mean(axis=1) for own in members], axis=1),
        hit.reshape(len(seeds), n_groups),
        right.mean(axis=1),
        losses,
        losses <= LOSS if to_loss else None,
        (float(np.mean([each.n_epochs for each in clean])), float(np.mean([each.n_epochs for each in attacked]))),
    )


def _attacked_job(cell: Cell, experiment: Experiment, name: str, seed: int) -> FleetJob:
    stage = experiment.context.stage(cell)
    poison = draw_poison(stage, cell, name, seed, experiment.context.label_attacker(cell))
    return stage.attacked_job(poison.rows, poison.y)


def _networks(models: Sequence[Model]) -> list[MLPModel]:
    return [model for model in models if isinstance(model, MLPModel)]


def _right(model: Model, stage: Stage) -> Bools:
    return np.asarray(model.predict_proba(stage.data.test_x).argmax(axis=1) == stage.data.test_y)


# --- numbers ----------------------------------------------------------------------------------------------------------


def _mean(metric: str, by_seed: Doubles) -> Number:
    """The mean over seeds, with its interval."""
    std = float(by_seed.std(ddof=1)) if len(by_seed) > 1 else None
    error = None if std is None else std / len(by_seed) ** 0.5
    width = of_values(by_seed)
    return Number(metric, float(by_seed.mean()), error, std=std, half_width=width, varies=SEEDS, by_seed=tuple(by_seed.tolist()))


def _correlation(widths: Sequence[Width]) -> list[Number]:
    """The mean of the seeds' correlations; nothing if a seed has too few widths."""
    damages, units = np.array([width.by_seed for width in widths]), [width.units for width in widths]
    reached = np.array([np.ones(damages.shape[1], bool) if width.reached is None else width.reached for width in widths])
    taus = np.array([seed_tau(units, damages[:, seed], reached[:, seed]) for seed in range(damages.shape[1])])
    return [] if np.isnan(taus).any() else [_mean("kendall_damage_width", taus)]
