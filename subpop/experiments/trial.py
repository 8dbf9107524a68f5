"""One trial: preparing its training set, and scoring the outcome of its defense."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

import joblib
import numpy as np

from subpop.attacks.label_flip import Poison
from subpop.datasets.stage import Stage
from subpop.experiments.undecided import Undecided
from subpop.harness.batching import DefenseTask, PoolRows, TrialBatch
from subpop.harness.outcome import Outcome, undefended_outcome
from subpop.results.metrics import Doubles
from subpop.runtime.seeds import defense_seed, holdout_seed, shuffle_seed
from subpop.runtime.threads import on_threads, one_thread
from subpop.types import (
    KEEP_UNCHECKED,
    OWN_LEARNER,
    Array,
    BadInput,
    Bools,
    Cell,
    Ints,
    Knowledge,
    Model,
    TrainingSet,
    Trial,
    TrialResult,
)
from subpop.types.roles import Trainable
from subpop.victims.linear_model import LinearModel

REMOVED = "removed_per_class"
"""The name of the array (C,) of how many rows of each class a filter removed."""
TOLD = {"exact": 1.0, "half": 0.5, "twice": 2.0}
"""Factors by which the number of poison rows that a defense gets may differ from the true one."""
GRID = 240


@dataclass(frozen=True, eq=False)
class Prepared:
    """One trial before its defense runs, with its rows in the shuffled order in which the defense sees them.

    rows: (n,) row numbers of the pool, from len(pool) on for rows that an attack made; holdout: (n_test,) bool, test rows in the
    clean holdout, which are not scored; None without a holdout; attack_fits: number of defended models that the attacker trained.
    """

    trial: Trial
    task: DefenseTask
    rows: Ints
    n_poison: int
    flipped: Bools
    member: Bools
    holdout: Bools | None = None
    attack_fits: int = 0


def prepare(
    stage: Stage,
    cell: Cell,
    trial: Trial,
    poison: Poison,
    *,
    needs: Set[str],
    n_poison: int,
    secret: str = "",
    training: Trainable | None = None,
    shuffled: bool = True,
) -> Prepared:
    """Poison D, shuffle it, and add the side information of the defense.

    Parameters
    ----------
    poison
        The poison rows; none for a trial on clean data.
    needs
        Fields of Knowledge that the defense needs.
    n_poison
        Number of poison rows of the attacked trial, which a trial on clean data gets as well.
    secret
        Part of the seeds of the shuffle and of the defense, so that code that knows how seeds are derived cannot derive these.
    training
        How the victim of this trial is trained; None if it is not trained step by step.
    shuffled
        Whether the rows are shuffled; the order of rows that no defense sees changes nothing.
    """
    n, name = stage.pool.n_train, trial.subpopulation
    rows = np.concatenate([np.arange(n), poison.rows])
    y = np.concatenate([stage.pool.y[:n], poison.y])
    own_y = np.concatenate([stage.pool.y[:n], stage.pool.y[poison.rows if poison.origin is None else poison.origin]])
    member = np.zeros(len(rows), bool)
    member[:n] = stage.train_members(name) if name else False
    order = _shuffle(cell, trial, len(rows), secret) if shuffled else np.arange(len(rows))
    rows, y, own_y, member, is_poison = rows[order], y[order], own_y[order], member[order], order >= n
    holdout = clean_holdout(stage, cell, trial) if "clean_holdout" in needs else None
    task = DefenseTask(
        TrainingSet(PoolRows(stage.pool, rows, poison.extra_x), np.arange(len(rows)), y),
        Knowledge(
            n_poison=round(n_poison * TOLD[cell.defender.n_poison_told]) if "n_poison" in needs else None,
            clean_holdout=None if holdout is None else TrainingSet.of(stage.data.test_x[holdout], stage.data.test_y[holdout]),
            poison_mask=is_poison if "poison_mask" in needs else None,
            groups=told_groups(stage, cell, name, poison)[order] if "groups" in needs else None,
            training=training,
        ),
        defense_seed(cell, trial, secret),
        f"{name or 'clean data'}, seed {trial.seed}{'' if trial.attacked else ', not attacked'}",
        certify=np.flatnonzero(stage.test_members(name)) if trial.attacked else np.zeros(0, np.int64),
        reference_y=own_y if trial.attacked else None,
    )
    return Prepared(trial, task, rows, len(poison), is_poison & (y != own_y), member, holdout, poison.n_fits)


def told_groups(stage: Stage, cell: Cell, name: str, poison: Poison) -> Ints:
    """(n,) int64 groups, 0 or 1, of the rows of D and of the poison rows, by the cell's setting `groups_told`."""
    kind, names = cell.defender.groups_told, stage.partition.names
    if not name or (kind != "target" and len(names) < 3):
        raise BadInput(
            f"groups_told={kind} of {cell.id} needs {'an attacked subpopulation' if not name else 'at least 3 subpopulations'}; "
            f"there are {len(names)}: use {'another partition' if not name else 'groups_told=target'}"
        )
    own = names.index(name)
    chosen = {"target": [own], "superset": range(own % 2, len(names), 2), "unrelated": [(own + 1) % len(names)]}[kind]
    every = np.concatenate([stage.partition.train, stage.partition.aux])
    made_from = poison.rows if poison.origin is None else poison.origin
    return np.isin(every[np.concatenate([np.arange(stage.pool.n_train), made_from])], list(chosen)).astype(np.int64)


def clean_holdout(stage: Stage, cell: Cell, trial: Trial) -> Bools | None:
    """(n_test,) bool: the fraction `holdout` of the test rows, drawn for each seed, none of them in the subpopulation."""
    share = cell.defender.holdout
    if share is None:
        return None
    n_test = len(stage.data.test_y)
    others = np.flatnonzero(~stage.test_members(trial.subpopulation)) if trial.subpopulation else np.arange(n_test)
    count = round(share * n_test)
    if not 0 < count < len(others):
        raise BadInput(
            f"holdout={cell.option('holdout')} of {cell.id} asks for {count} of the {len(others)} test rows outside "
            f"{trial.subpopulation!r}; it must be at least one row and leave one to be scored"
        )
    generator = np.random.default_rng(holdout_seed(cell, trial.subpopulation, trial.seed))
    chosen = np.zeros(n_test, bool)
    chosen[generator.permutation(others)[:count]] = True
    return chosen


def _shuffle(cell: Cell, trial: Trial, n_rows: int, secret: str) -> Ints:
    return np.random.default_rng(shuffle_seed(cell, trial, secret)).permutation(n_rows)


def undefended(batch: TrialBatch) -> list[Outcome]:
    """The outcomes of trials without a defense: they are trained as one batch, and no trial needs a thread of its own."""
    models = batch.fit([(i, task.train) for i, task in enumerate(batch.tasks)])
    test_x = batch.inputs()
    threads = joblib.cpu_count() if all(isinstance(model, LinearModel) for model in models) else 1
    with one_thread("blas"), on_threads(threads) as mapped:
        return list(mapped(lambda model: undefended_outcome(model, test_x, batch.n_classes), models))


def score(stage: Stage, prepared: Prepared, outcome: Outcome, undecided: Undecided, accuracy: Doubles, draw: bool) -> TrialResult:
    """The result of a trial; the only function that sees predictions, test labels and the poison mask together.

    accuracy: (2,) the largest KKT residual and the largest error bound of the trial's models, NaN where unknown.
    """
    n_test, name = len(stage.data.test_y), prepared.trial.subpopulation
    residual, error = accuracy.tolist()
    predicted = outcome.predictions[""]
    arrays: dict[str, Array] = {"right": predicted[:n_test] == stage.data.test_y}
    arrays |= {f"right:{name}": p[:n_test] == stage.data.test_y for name, p in outcome.predictions.items() if name}
    if prepared.holdout is not None:
        arrays["holdout"] = prepared.holdout
    if not prepared.trial.attacked and outcome.votes is not None:
        arrays["votes"] = outcome.votes[:n_test].astype(np.min_scalar_type(stage.dataset.n_classes - 1))
    if prepared.trial.attacked and outcome.certified_radii:
        arrays |= _certified(stage, prepared, outcome)
    metrics = {"n_poison": float(prepared.n_poison), "n_flipped": float(prepared.flipped.sum()), "kkt_residual": residual}
    members = stage.test_members(name) if name else np.zeros(n_test, bool)
    scored = np.ones(n_test, bool) if prepared.holdout is None else ~prepared.holdout
    if prepared.attack_fits:
        metrics["attack_fits"] = float(prepared.attack_fits)
    metrics |= undecided.in_trial(outcome, error, members, scored)
    if outcome.keep is not None:
        removed = ~outcome.keep
        y = prepared.task.train.y[removed]
        arrays[REMOVED] = np.bincount(y, minlength=stage.dataset.n_classes).astype(np.int64)
        if outcome.keep_checked:
            metrics["removed"] = float(removed.sum())
            metrics["removed_flipped"] = float((removed & prepared.flipped).sum())
            metrics["removed_target_clean"] = float((removed & prepared.member).sum())
        else:
            metrics[KEEP_UNCHECKED] = 1.0
    if outcome.made_by_fit is False:
        metrics[OWN_LEARNER] = 1.0
    metrics |= {f"diagnostic:{name}": float(value) for name, value in outcome.diagnostics.items()}
    if draw:
        arrays |= _panel_arrays(stage, prepared, outcome, predicted[n_test:])
    return TrialResult(prepared.trial, metrics, arrays, outcome.seconds, outcome.n_fits)


def _certified(stage: Stage, prepared: Prepared, outcome: Outcome) -> dict[str, Array]:
    """Radii of the subpopulation's test rows, and which of them the reference predicts correctly."""
    members = stage.test_members(prepared.trial.subpopulation)
    n_members = int(members.sum())
    radii = {f"radius:{n}": r if len(r) == n_members else r[: len(members)][members] for n, r in outcome.certified_radii.items()}
    if outcome.reference is None:
        return radii
    return {**radii, "reference_right": (outcome.reference[: len(members)] == stage.data.test_y)[members]}


def _panel_arrays(stage: Stage, prepared: Prepared, outcome: Outcome, on_grid: Array) -> dict[str, Array]:
    """The data of a panel of Figure 2 for one trial: points, their roles, and the predicted class on a grid."""
    arrays = {
        "panel_x": np.asarray(prepared.task.train.x),
        "panel_y": np.asarray(prepared.task.train.y),
        "panel_poison": prepared.rows >= stage.pool.n_train,
        "panel_target": prepared.member,
        "panel_proba": on_grid.reshape(GRID, GRID).astype(np.float32),
        "panel_extent": grid(stage)[1],
    }
    return {**arrays, "panel_keep": outcome.keep} if outcome.keep is not None and outcome.keep_checked else arrays


def grid(stage: Stage) -> tuple[Array, Array]:
    """(GRID * GRID, 2) points, row by row from the lower left, and their extent (xmin, xmax, ymin, ymax)."""
    if stage.pool.x.ndim != 2 or stage.pool.x.shape[1] != 2:
        raise BadInput(f"panels=yes draws 2-D data only; {stage.dataset.name} has rows of shape {stage.pool.x.shape[1:]}")
    low, high = stage.pool.x.min(0), stage.pool.x.max(0)
    margin = 0.08 * (high - low)
    low, high = low - margin, high + margin
    across, up = (np.linspace(low[i], high[i], GRID) for i in (0, 1))
    points = np.stack(np.meshgrid(across, up), -1).reshape(-1, 2).astype(np.float32)
    return points, np.array([low[0], high[0], low[1], high[1]], np.float64)


def right_of(model: Model, x: Array, y: Ints) -> Bools:
    """(n,) bool: where the most likely class (ties to the lowest index) is the label."""
    return np.asarray(model.predict_proba(x).argmax(1) == y)
