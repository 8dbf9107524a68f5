"""The speed-up of batched training: the same victims trained together and one at a time, in turn, in the same run.

A ratio is one-at-a-time seconds / our seconds, each the median of several rounds, A B A B ... The baseline is the fastest set-up
that we know: scikit-learn's fastest solver that reaches the same optimum, with one warm worker process per core.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from subpop.datasets.stage import Stage
from subpop.experiments.context import Context
from subpop.experiments.speed.certificate import certificate
from subpop.experiments.speed.defended import trim
from subpop.experiments.speed.influence import influence
from subpop.experiments.speed.last_layer import last_layer
from subpop.experiments.speed.logistic import logistic
from subpop.experiments.speed.mlp import mlp
from subpop.experiments.speed.text import last_block, text_linear
from subpop.types import BadInput, Cell, CellResult, Number

Measured = tuple[list[Number], int]
"""The numbers of a comparison, and how many victims were trained for them."""


def on_stage(compare: Callable[[Cell, Stage], Measured]) -> Callable[[Cell, Context], Measured]:
    """Adapt a comparison that needs only the cell's stage."""
    return lambda cell, context: compare(cell, context.stage(cell))


MEASURES: Mapping[tuple[str, str], Callable[[Cell, Context], Measured]] = {
    ("logistic_regression", "none"): logistic,
    ("logistic_regression", "trim"): on_stage(trim),
    ("mlp", "none"): on_stage(mlp),
    ("last_layer", "none"): on_stage(last_layer),
    ("last_layer", "label_flip_smoothing"): on_stage(certificate),
    ("resnet56_cifar10_last_layer", "none"): influence,
    ("text_linear", "none"): on_stage(text_linear),
    ("minilm_last_layer", "none"): last_block,
}
"""The comparison of each pair of victim and defense."""
STOCHASTIC = ("mlp", "minilm_last_layer")


def measure_speed(cell: Cell, context: Context) -> CellResult:
    """The speed ratio of a cell and what makes it a fair one; never served from a store."""
    started = time.perf_counter()
    measure = MEASURES.get((cell.victim, cell.defense))
    if measure is None:
        known = ", ".join(f"{victim} with {defense}" for victim, defense in MEASURES)
        raise BadInput(f"{cell.id}: no speed comparison for {cell.victim} with {cell.defense}; there are {known}")
    numbers, n_fits = measure(cell, context)
    exact, seconds = cell.victim not in STOCHASTIC, time.perf_counter() - started
    return CellResult(cell, tuple(numbers), exact=exact, n_fits=n_fits, seconds=seconds)
