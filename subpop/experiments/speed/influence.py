"""Speed of training-set attacks on many target sets in one batch, against one attack at a time with a newly fitted top layer.

Three things are timed alternately in one run: iterations of 20 attacks at once; forward and backward passes of the network alone
on 20 pictures; and iterations of one attack at a time, with a batch of one picture and the top layer solved from scratch by the
faster of scikit-learn's lbfgs and our own solver. At half a level no attack succeeds, so all 20 take part in every iteration.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from subpop.experiments.context import Context
from subpop.experiments.speed.roofline import counted_in_torch, peak_of, share_of
from subpop.experiments.target_sets.setups import TARGET_CLASS, Problem, problem_of
from subpop.experiments.target_sets.solved import Solved, solve
from subpop.experiments.target_sets.target_sets import TargetSet, cluster_sets, random_sets
from subpop.runtime.seeds import derived_seed
from subpop.types import Array, Cell, Ints, Number

ROUNDS = 3
ITERATIONS = 6
SAMPLE = 4
"""Attacks per round of the one-at-a-time side; the time of all 20 is extrapolated from them."""
EPSILON = 0.5


def influence(cell: Cell, context: Context) -> tuple[list[Number], int]:
    """Seconds of a batched iteration, of a pass through the network alone, and of an iteration one attack at a time."""
    problem = problem_of(cell, context)
    solved = solve(problem)
    sets = _sets(problem, solved)
    images = np.argsort(np.abs(solved.top.margins(solved.top.features)), kind="stable")[: len(sets)]
    fit = min((_lbfgs, _own_fit), key=lambda each: _seconds(partial(each, solved, solved.top.features)))
    batch, network, alone, residual = [], [], [], 0.0
    for _ in range(ROUNDS):
        ticks, found = _iterations(problem, solved, sets, images)
        batch += ticks
        residual = max(residual, found)
        network += [_seconds(partial(_pass, solved, problem.x[images])) for _ in range(ITERATIONS)]
        attacks = [partial(_one_attack, problem, solved, sets[i], int(images[i]), fit) for i in range(SAMPLE)]
        alone += [_seconds(one) for one in attacks]
    with counted_in_torch() as products:  # of the network, which is nearly all of an iteration; the solves of top layers are not
        _pass(solved, problem.x[images])
    ours, bare, theirs = statistics.median(batch), statistics.median(network), len(sets) * statistics.median(alone)
    return [
        Number("speed_ratio", theirs / ours),
        *share_of(products, ours),
        *peak_of(lambda: _iterations(problem, solved, sets, images)),
        Number("iteration_over_backbone_pass", ours / bare),
        Number("iteration_seconds", ours),
        Number("backbone_pass_seconds", bare),
        Number("one_at_a_time_iteration_seconds", theirs),
        Number("n_attacks", float(len(sets))),
        Number("kkt_residual_max", residual),
    ], ROUNDS * (ITERATIONS * len(sets) + SAMPLE)


def _sets(problem: Problem, solved: Solved) -> list[TargetSet]:
    setup, generator = problem.setup, np.random.default_rng(derived_seed("speed", "target_sets"))
    random = random_sets(len(problem.targets), setup.set_size, setup.n_sets, generator)
    return random + cluster_sets(solved.clusters, setup.set_size, setup.n_sets, generator)


def _iterations(problem: Problem, solved: Solved, sets: list[TargetSet], images: Ints) -> tuple[list[float], float]:
    """Seconds of each iteration of all attacks at once, and the largest KKT residual of a top layer."""
    from subpop.experiments.target_sets.ascent import Schedule, attack

    ticks: list[float] = []
    schedule = Schedule(EPSILON, EPSILON / 5, ITERATIONS)
    outcomes = attack(
        solved.backbone,
        solved.top,
        problem.x,
        [solved.targets[own.rows] for own in sets],
        TARGET_CLASS,
        images=images,
        schedules=[schedule] * len(sets),
        progress=lambda done, total: ticks.append(time.perf_counter()),
    )
    return np.diff(ticks).tolist(), max(outcome.kkt_residual for outcome in outcomes)


def _pass(solved: Solved, pictures: Array) -> None:
    """A forward and a backward pass through the network."""
    features, pullback = solved.backbone.features_and_pullback(pictures.astype(np.float32))
    pullback(np.ones_like(features))


def _one_attack(problem: Problem, solved: Solved, targets: TargetSet, image: int, fit: Callable[[Solved, Array], Array]) -> None:
    """A straightforward iteration: features of one picture, a fit of the top layer, one solve, and the backward pass."""
    features, pullback = solved.backbone.features_and_pullback(problem.x[image : image + 1].astype(np.float32))
    rows = solved.top.features.copy()
    rows[image] = features[0]
    w = fit(solved, rows)
    aimed = solved.targets[targets.rows]
    slope = (1 / (1 + np.exp(-aimed @ w)) - TARGET_CLASS) @ aimed / len(aimed)
    s = solved.top.inverse_hessian_times(slope[None])[0]  # uses the clean Hessian, already factored: favours this side
    chance = 1 / (1 + np.exp(-rows[image] @ w))
    pullback(((chance - problem.y[image]) * s + chance * (1 - chance) * (s @ rows[image]) * w)[None])


def _own_fit(solved: Solved, rows: Array) -> Array:
    from subpop.victims.top_layers.top_layer import TopLayer

    return TopLayer.fit(rows, solved.top.y, solved.top.decay).w


def _lbfgs(solved: Solved, rows: Array) -> Array:
    from sklearn.linear_model import LogisticRegression

    strength = 1 / (len(rows) * solved.top.decay)
    estimator = LogisticRegression(C=strength, fit_intercept=False, solver="lbfgs", tol=1e-8, max_iter=5000)
    return np.asarray(estimator.fit(rows, solved.top.y).coef_[0])


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
