"""The cells of Table 16: sets of targets are drawn and attacked all at once, and the outcomes are stored draw by draw.

The unit of work is a draw: all kinds of sets at all epsilons of the set-up, so that neither results nor stored arrays depend on
which cells were requested. A run that was killed resumes with the missing draws. Each set is attacked through the one training
picture with the largest first-order effect on its loss, chosen once for all epsilons.

Attacked pictures exist in float pixels only: if epsilon is half a level, rounding to 8 bits restores the original.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from subpop.experiments.attack_sets import Entry
from subpop.experiments.context import Context
from subpop.experiments.target_sets.setups import TARGET_CLASS, Problem, problem_of
from subpop.experiments.target_sets.solved import Solved, solve
from subpop.experiments.target_sets.success import Sets, differences, numbers_of
from subpop.experiments.target_sets.target_sets import CLUSTER, KINDS, ONE_DOG, RANDOM, TargetSet, cluster_sets, random_sets
from subpop.runtime.seeds import derived_seed
from subpop.types import Array, BadInput, Cell, CellResult, Number
from subpop.types.specifications import Data, Learner
from subpop.victims import VICTIMS

Arrays = Mapping[str, Array]
LEVELS_TO_SIGNED = 2 / 255
"""Converts 8-bit levels to pixels in [-1, 1], in which Koh and Liang measure distances."""


@dataclass
class TargetSuite:
    """Measures cells, and caches what they share for the duration of a run."""

    context: Context

    def measure(self, cell: Cell) -> CellResult:
        """The numbers of one kind of set (the cell's partition) at one epsilon."""
        problem = self._problem(cell)
        epsilon = _checked_epsilon(cell, problem)
        found = [self._draw(cell, problem, draw) for draw in range(cell.n_seeds)]
        draws = [arrays for arrays, _ in found]
        own = [_of(arrays, cell.partition, epsilon) for arrays in draws]
        numbers = [*numbers_of([_sets(each) for each in own]), *_more_numbers(problem, draws[0], own)]
        if cell.partition == CLUSTER:
            random = [_sets(_of(arrays, RANDOM, epsilon)) for arrays in draws]
            numbers += differences([_sets(each) for each in own], random)
        if cell.partition == ONE_DOG:
            numbers += _recorded_by_koh(problem, draws[0], own[0])
        return CellResult(
            cell,
            tuple(numbers),
            _table(own),
            _strip(problem, own),
            exact=False,
            n_subpopulations=sum(len(each["success"]) for each in own),
            n_fits=int(sum(each["iterations"].sum() for each in own)),
            seconds=sum(float(a["seconds"]) * len(each["success"]) / len(a["kind"]) for a, each in zip(draws, own, strict=True)),
            from_store=all(stored for _, stored in found),
            notes=(*problem.notes, *map(str, draws[0]["notes"])),
        )

    def measure_draw(self, cell: Cell, draw: int) -> None:
        """One of the draws that `measure` sums up; it is stored."""
        self._draw(cell, self._problem(cell), draw)

    def _problem(self, cell: Cell) -> Problem:
        return self.context.memo.once(("problem", *_set_up(cell)), lambda: problem_of(cell, self.context))

    def _draw(self, cell: Cell, problem: Problem, draw: int) -> tuple[Arrays, bool]:
        """The outcomes of a draw, and whether they were in the store."""
        return self.context.memo.once(("draw", *_set_up(cell), draw), lambda: self._stored_draw(cell, problem, draw))

    def _stored_draw(self, cell: Cell, problem: Problem, draw: int) -> tuple[Arrays, bool]:
        memo, recorded, network = self.context.memo, self._recorded(cell, problem), problem.setup.network
        trained = cell.with_(victim=network) if network in VICTIMS else None
        key = memo.key(
            {__name__, "subpop.datasets.stage"},
            training_set_attack=(problem.setup, *_identity(cell), draw),
            data=problem.fingerprint,
            weights=problem.weights,
            network="" if trained is None else self.context.model_key(trained, "attacker", 0),
            clusters=recorded.digest if recorded else "",
        )
        return memo.arrays(key, lambda: self._attacked(cell, problem, draw))

    def _recorded(self, cell: Cell, problem: Problem) -> Entry | None:
        """The clusters of the targets, if they are recorded with the baselines."""
        return self.context.attack_sets.get(_clusters_name(cell, problem), problem.fingerprint)

    def _solve(self, cell: Cell, problem: Problem) -> Solved:
        recorded = self._recorded(cell, problem)
        if recorded is not None:
            return solve(problem, recorded.arrays["clusters"])
        solved = solve(problem)
        self.context.attack_sets.add(_clusters_name(cell, problem), problem.fingerprint, {"clusters": solved.clusters})
        return solved

    def _attacked(self, cell: Cell, problem: Problem, draw: int) -> Arrays:
        started = time.perf_counter()
        with self.context.progress.showing(f"{cell.dataset}, draw {draw}"):
            solved = self.context.memo.once(("solved", *_set_up(cell)), lambda: self._solve(cell, problem))
            arrays = attacked(problem, solved, _drawn(problem, solved, (*_identity(cell), draw)))
        return {**arrays, "seconds": np.array(time.perf_counter() - started)}


def _set_up(cell: Cell) -> tuple[Data, Learner]:
    """Cells with equal data and learner have the same problem."""
    return cell.data, cell.learner


def _identity(cell: Cell) -> tuple[str, str]:
    """The parts of a cell on which the draws of sets depend."""
    return cell.dataset, str(cell.data.split)


def _clusters_name(cell: Cell, problem: Problem) -> dict[str, str]:
    """The name under which the clusters of the targets are recorded with the baselines."""
    dataset, split = _identity(cell)
    return {"dataset": dataset, "split": split, "partition": "targets", "clusters_on": problem.setup.network}


def _checked_epsilon(cell: Cell, problem: Problem) -> float:
    """The cell's epsilon. Raises BadInput if the set-up does not attack it, and for an unknown kind of set."""
    from subpop.datasets.dogfish import ONE_DOG_BY_HAND
    from subpop.datasets.download import MissingData

    epsilon, allowed = cell.epsilon, problem.setup.epsilons
    if epsilon is None or epsilon not in allowed:
        named, levels = cell.option("epsilon", "none"), ", ".join(f"{each:g}" for each in allowed)
        raise BadInput(f"{cell.id}: epsilon={named} is not attacked; use one of {levels} levels")
    if cell.partition not in KINDS or cell.rate != 0:
        raise BadInput(f"{cell.id}: target sets are {', '.join(KINDS)} at rate 0, for nothing is added to D")
    if cell.partition == ONE_DOG and not len(problem.one_dog):
        raise MissingData(f"{cell.dataset}: no photos in the folder koh_dog; {ONE_DOG_BY_HAND}, into {cell.dataset}/koh_dog")
    return epsilon


# --- one draw ---------------------------------------------------------------------------------------------------------


def _drawn(problem: Problem, solved: Solved, key: tuple[object, ...]) -> list[TargetSet]:
    """The sets of a draw, ordered by kind."""

    def generator(kind: str) -> np.random.Generator:
        return np.random.default_rng(derived_seed("target_sets", kind, *key))

    setup = problem.setup
    sets = random_sets(len(problem.targets), setup.set_size, setup.n_sets, generator(RANDOM))
    sets += cluster_sets(solved.clusters, setup.set_size, setup.n_sets, generator(CLUSTER))
    return sets + ([TargetSet(ONE_DOG, np.arange(len(problem.one_dog)))] if len(problem.one_dog) else [])


def attacked(problem: Problem, solved: Solved, sets: Sequence[TargetSet]) -> dict[str, Array]:
    """Attack every set at every epsilon, as one batch; the outcomes are ordered by set, then epsilon."""
    from subpop.experiments.target_sets.ascent import attack, first_order_effects

    setup = problem.setup
    features = [solved.one_dog[own.rows] if own.kind == ONE_DOG else solved.targets[own.rows] for own in sets]
    effects = first_order_effects(solved.backbone, solved.top, problem.x, features, TARGET_CLASS)
    chosen = effects.argmax(axis=1)
    jobs = [(i, epsilon) for i in range(len(sets)) for epsilon in setup.epsilons]
    outcomes = attack(
        solved.backbone,
        solved.top,
        problem.x,
        [features[i] for i, _ in jobs],
        TARGET_CLASS,
        images=np.array([chosen[i] for i, _ in jobs]),
        schedules=[setup.schedule(epsilon) for _, epsilon in jobs],
    )
    never = math.nan
    return {
        "kind": np.array([sets[i].kind for i, _ in jobs]),
        "epsilon": np.array([epsilon for _, epsilon in jobs]),
        "cluster": np.array([sets[i].cluster for i, _ in jobs]),
        "success": np.array([outcome.wrong[-1] for outcome in outcomes]),
        "completed": np.array([never if o.first_complete is None else o.first_complete for o in outcomes], np.float64),
        "start": np.array([outcome.start_right.mean() for outcome in outcomes]),
        "n_right": np.array([outcome.start_right.sum() for outcome in outcomes]),
        "iterations": np.array([len(outcome.wrong) - 1 for outcome in outcomes]),
        "loss": np.array([(outcome.target_loss[0], outcome.target_loss[-1]) for outcome in outcomes]),
        **{name: np.array([getattr(outcome, name) for outcome in outcomes]) for name in _PLAIN},
        **solved.arrays(),
    }


_PLAIN = ("image", "kkt_residual", "train_accuracy", "own_probability", "coefficient_norm", "feature_move", "picture")
"""Fields of an outcome that are stored unchanged."""
_BY_ATTACK = ("cluster", "success", "completed", "start", "n_right", "iterations", "loss", *_PLAIN)


def _of(arrays: Arrays, kind: str, epsilon: float) -> dict[str, Array]:
    """The attacks of one kind at one epsilon."""
    chosen = (arrays["kind"] == kind) & (arrays["epsilon"] == epsilon)
    return {name: arrays[name][chosen] for name in _BY_ATTACK}


# --- results for the report -------------------------------------------------------------------------------------------


def _sets(own: Arrays) -> Sets:
    return Sets(own["success"], own["completed"], own["start"], own["cluster"])


def _more_numbers(problem: Problem, first: Arrays, own: Sequence[Arrays]) -> list[Number]:
    """Numbers that do not depend on the kind of set."""
    names = ("clean_train_accuracy", "clean_test_accuracy", "target_pool_accuracy")
    return [
        Number("iterations_budget", float(problem.setup.iterations), std=0.0),
        Number("kkt_residual_max", max(float(each["kkt_residual"].max()) for each in own)),
        *(Number(name, float(first[name]), std=0.0) for name in names),
    ]


def _recorded_by_koh(problem: Problem, first: Arrays, own: Arrays) -> list[Number]:
    """Numbers that are also in Koh and Liang's released output, for the attack on the photos of one dog."""
    moved = np.abs(own["picture"][0].astype(np.float64) - problem.x[own["image"][0]])
    values = {
        **{name: float(first[name]) for name in ("clean_train_loss", "clean_objective", "clean_coefficient_norm")},
        "clean_target_loss": float(own["loss"][0, 0]),
        "attacked_target_loss": float(own["loss"][0, 1]),
        "attacked_train_accuracy": float(own["train_accuracy"][0]),
        "attacked_coefficient_norm": float(own["coefficient_norm"][0]),
        "clean_own_probability": float(first["own_probabilities"][own["image"][0]]),
        "attacked_own_probability": float(own["own_probability"][0]),
        "feature_move": float(own["feature_move"][0]),
        "picture_move_levels": float(moved.max()),
        "picture_move_l2": float(np.linalg.norm(moved)) * LEVELS_TO_SIGNED,
    }
    return [Number(name, value) for name, value in values.items()]


def _table(draws: Sequence[Arrays]) -> tuple[dict[str, float | str], ...]:
    """One row per set."""
    return tuple(
        {
            "subpopulation": f"draw {draw}, set {i}" + (f", cluster {own['cluster'][i]}" if own["cluster"][i] >= 0 else ""),
            "n_right": float(own["n_right"][i]),
            "start_accuracy": float(own["start"][i]),
            "success": float(own["success"][i]),
            "first_complete": float(own["completed"][i]),
            "iterations": float(own["iterations"][i]),
            "training_picture": float(own["image"][i]),
        }
        for draw, own in enumerate(draws)
        for i in range(len(own["success"]))
    )


def _strip(problem: Problem, draws: Sequence[Arrays]) -> dict[str, Array]:
    """The picture of the most successful set, before and after (float32). Ties: the fastest set, then the first."""
    candidates = [
        (-own["success"][i], own["iterations"][i], draw, i)
        for draw, own in enumerate(draws)
        for i in range(len(own["success"]))
        if not math.isnan(own["success"][i])
    ]
    draw, i = min(candidates)[2:]
    best = draws[draw]
    return {"original": problem.x[best["image"][i]], "attacked": best["picture"][i], "success": best["success"][i : i + 1]}
