"""Measuring a cell of the two worlds: independent draws of each world, or draws paired by swapping the halves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from subpop.attacks.drawing import draw_poison, n_poison
from subpop.datasets.stage import Stage
from subpop.defenses import DEFENSES
from subpop.experiments.experiment import trainable
from subpop.experiments.impossibility.runner import Runner
from subpop.experiments.impossibility.two_worlds import (
    OWN_DEFENSES,
    WORLDS,
    Errors,
    WorldRows,
    error_on,
    in_order_of,
    origin_of,
    same_for_the_defender,
    told_target,
)
from subpop.experiments.trial import Prepared, prepare
from subpop.harness.batching import DefenseError
from subpop.results.intervals import DRAWS, FEWEST_VALUES, half_width, part_of
from subpop.types import Array, BadInput, Bools, CellResult, Number, Trial

TIE_BREAKS = 60
"""Minimum number of draws if ties of scores decide: the mean of this many 0s and 1s has a standard error below .1."""


@dataclass(frozen=True, eq=False)
class Draw:
    """One training set of one world. scored: (n_test,) bool, the test rows of F whose errors are counted."""

    world: int
    stage: Stage
    prepared: Prepared
    scored: Bools


def measure_worlds(runner: Runner) -> CellResult:
    """Errors on F in both worlds, and their sum. If the defense cannot run on the learner, the notes give the reason.

    If a defense reports that ties of scores decided its result, each draw breaks them at random: then there are at least
    TIE_BREAKS draws, and the number `tied` is the fraction of draws with a tie.
    """
    cell = runner.cell
    kind = cell.two_worlds.worlds or "independent"
    if cell.attack != "label_flip":
        raise BadInput(f"attack {cell.attack} of {cell.id} moves rows, which reveals the poison; use label_flip")
    draw = KINDS[kind]
    exact = runner.victim.exact and getattr(DEFENSES.get(cell.defense), "exact", True)
    try:
        draws = draw(runner)
        found = errors_of(runner, draws)
        if found.tied.any() and cell.n_seeds < TIE_BREAKS:
            draws = draw(replace(runner, cell=cell.with_(n_seeds=TIE_BREAKS)))
            found = errors_of(runner, draws)
    except DefenseError as error:
        if cell.defense in runner.experiment.plugins:
            raise
        return CellResult(cell, (Number("can_run", 0.0),), notes=(f"{cell.defense} on {cell.victim}: {error.reason}",))
    numbers = _sums(found.errors, exact) if kind == "independent" else _paired_sums(found, draws)
    numbers += [Number("can_run", 1.0), Number("n_draws", float(found.errors.shape[1]))]
    numbers += [Number("tied", float(found.tied.mean()))] * bool(found.tied.any())
    knowledge = _knowledge(runner)
    return CellResult(cell, tuple(numbers), knowledge=knowledge, exact=exact, n_subpopulations=1, n_fits=found.n_fits)


class Found(NamedTuple):
    """Results on the draws. errors: (2, n) on F, by world and draw; tied: (2, n) whether ties of scores decided."""

    errors: Array
    tied: Bools
    n_fits: int


def errors_of(runner: Runner, draws: list[Draw]) -> Found:
    """Run the defense on every draw. Draws come in the order world 0, world 1, world 0, ..."""
    scored = draws[0].scored
    trials = [(draw.stage, draw.prepared) for draw in draws]
    test_x = draws[0].stage.data.test_x[scored]
    outcomes = runner.run(trials, test_x, OWN_DEFENSES)
    errors = [error_on(draw.stage, scored, outcome.predictions[""]) for draw, outcome in zip(draws, outcomes, strict=True)]
    tied = [outcome.diagnostics.get("tied", 0.0) > 0 for outcome in outcomes]
    first, second = (np.array(values).reshape(-1, len(WORLDS)).T for values in (errors, tied))
    return Found(first, second, sum(outcome.n_fits for outcome in outcomes))


def independent_draws(runner: Runner) -> list[Draw]:
    """`n_seeds` draws of each world, all with different seeds."""
    shared, draws = _world_rows(runner), []
    for seed in range(len(WORLDS) * runner.cell.n_seeds):
        world = WORLDS[seed % len(WORLDS)]
        draws.append(_draw(runner, shared.world(world, shared.division(seed)), world, seed))
    return draws


def paired_draws(runner: Runner) -> list[Draw]:
    """`n_seeds` draws of world 0, each followed by world 1 with the halves swapped and the same randomness."""
    shared, draws = _world_rows(runner), []
    for seed in range(runner.cell.n_seeds):
        division = shared.division(seed)
        swapped = np.roll(division, len(division) // 2)
        first = _draw(runner, shared.world(0, division), 0, seed)
        second = _draw(runner, shared.world(1, swapped), 1, seed)
        aligned = in_order_of(second.stage, second.prepared, origin_of(first.stage, first.prepared))
        draws += [first, replace(second, prepared=aligned)]
    return draws


KINDS: Mapping[str, Callable[[Runner], list[Draw]]] = {"independent": independent_draws, "paired": paired_draws}


def _world_rows(runner: Runner) -> WorldRows:
    """The cell's subpopulation (by default the first attacked one) with the rows from which both worlds are built."""
    cell, base = runner.cell, runner.stage
    name = cell.two_worlds.target or base.attacked[0]
    if name not in base.partition.names:
        raise BadInput(f"target={name} of {cell.id} is not a subpopulation; there are {', '.join(base.partition.names)}")
    return WorldRows.of(base, name, cell.two_worlds.clean_rows)


def _draw(runner: Runner, stage: Stage, world: int, seed: int) -> Draw:
    cell, name = runner.cell, stage.attacked[0]
    own = OWN_DEFENSES.get(cell.defense)
    needs = runner.needs if own is None else frozenset(getattr(own, "needs", ()))
    poison, count = draw_poison(stage, cell, name, seed, None), n_poison(stage, cell, name)
    training = trainable(runner.victim, cell, seed) if "training" in needs else None
    prepared = prepare(
        stage, cell, Trial(name, seed), poison, needs=needs, n_poison=count, secret=runner.secret, training=training
    )
    if cell.two_worlds.told:
        return Draw(world, stage, *told_target(stage, prepared, name))
    return Draw(world, stage, prepared, stage.test_members(name))


def _knowledge(runner: Runner) -> str:
    """The `knowledge` column."""
    cell = runner.cell
    if cell.defense not in OWN_DEFENSES:
        return runner.experiment.knowledge(cell)
    return f"clean_holdout {'with' if cell.option('told', '') == 'target' else 'without'} rows of the subpopulation"


# --- numbers ----------------------------------------------------------------------------------------------------------


def _sums(errors: Array, exact: bool) -> list[Number]:
    """Mean errors of random draws. Even for an exact learner, the tolerance of each mean is its standard error."""
    found = Errors.of(errors)
    worlds = [
        _mean(f"error_world_{world}", mean, std, errors[[world]], exact)
        for world, mean, std in zip(WORLDS, found.means, found.stds, strict=True)
    ]
    total = _mean("error_sum", found.total, found.std, errors, exact)
    return [total, *worlds, replace(max(worlds, key=lambda number: number.value), metric="error_worst")]


def _mean(metric: str, value: float, std: float, errors: Array, exact: bool) -> Number:
    """A sum of means of the draws in each row of errors, of deviation std. Learners that draw again vary as much."""
    std_error = std / errors.shape[1] ** 0.5
    width = half_width([part_of(own) for own in errors]) if errors.shape[1] >= FEWEST_VALUES else None
    number = Number(metric, value, std_error, half_width=width, varies=DRAWS, by_seed=tuple(errors.sum(axis=0)))
    return replace(number, tolerance=std_error) if exact else replace(number, std=std)


def _paired_sums(found: Found, draws: list[Draw]) -> list[Number]:
    sums, pairs = found.errors.sum(axis=0), zip(draws[::2], draws[1::2], strict=True)
    identical = [same_for_the_defender(first.prepared, second.prepared) for first, second in pairs]
    worlds = [Number(f"error_world_{world}", float(found.errors[world].mean())) for world in WORLDS]
    if found.tied.any():  # only then is a draw's result random
        worlds = [number for number in _sums(found.errors, exact=True) if number.metric in {own.metric for own in worlds}]
    extremes = [Number("error_sum_min", float(sums.min())), Number("error_sum_max", float(sums.max()))]
    return [*extremes, *worlds, Number("identical_share", float(np.mean(identical)))]
