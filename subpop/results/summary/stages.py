"""Accuracies of the intermediate models of a defense (Table 12: attacked, pruned, fine-tuned), for each subpopulation.

They are computed on the test rows outside the defense's holdout, which never contains rows of the target.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from subpop.results.metrics import Doubles
from subpop.results.summary.ranked import over_seeds
from subpop.results.summary.subpopulation import Subpopulation, accuracy
from subpop.types import Number

PREFIX = "right:"


def stage_numbers(parts: Sequence[Subpopulation]) -> list[Number]:
    """`<stage>_test_accuracy`, `<stage>_target_accuracy` and its sample deviation over seeds; nothing without stages."""
    numbers = _holdout(parts)
    for name in [key.removeprefix(PREFIX) for key in parts[0].trials[0].arrays if key.startswith(PREFIX)]:
        pairs = [_accuracies(part, name) for part in parts]
        for metric, values in zip(("test_accuracy", "target_accuracy"), zip(*pairs, strict=True), strict=True):
            numbers.append(over_seeds(f"{name}_{metric}", np.stack(values)))
            numbers += [over_seeds(f"{name}_{metric}", own[None], p.name) for p, own in zip(parts, values, strict=True)]
        if len(pairs[0][1]) > 1:
            deviations = [float(target.std(ddof=1)) for _, target in pairs]
            # The standard error of a sample deviation is about the deviation divided by sqrt(2 (n - 1)).
            noise = [d / np.sqrt(2 * (len(pairs[0][1]) - 1)) * np.sqrt(len(pairs[0][1])) for d in deviations]
            numbers += [
                Number(f"{name}_target_accuracy_sd", d, subpopulation=part.name, std=float(n))
                for part, d, n in zip(parts, deviations, noise, strict=True)
            ]
    return numbers


def _holdout(parts: Sequence[Subpopulation]) -> list[Number]:
    rows = float(np.mean([(~part.scored).sum(1) for part in parts]))
    return [Number("holdout_rows", rows)] if rows else []


def _accuracies(part: Subpopulation, stage: str) -> tuple[Doubles, Doubles]:
    """(n_seeds,) accuracies on all scored test rows and on those of the subpopulation."""
    right = np.stack([np.asarray(trial.arrays[PREFIX + stage], bool) for trial in part.trials])
    return accuracy(right, part.scored), right[:, part.members].mean(1)
