"""The numbers of a cell, computed from its trials: aggregates with standard errors, and one table row per subpopulation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from subpop.datasets.stage import Stage
from subpop.results.metrics import Collateral, Doubles, collateral, eligible
from subpop.results.paired import BY_SEED
from subpop.results.summary.certified import certified_numbers
from subpop.results.summary.collective import collective_numbers
from subpop.results.summary.ranked import Ranked, damages, over_seeds, worst
from subpop.results.summary.stages import stage_numbers
from subpop.results.summary.subpopulation import Subpopulation, accuracy, gather, table_row
from subpop.runtime.seeds import derived_seed
from subpop.types import KEEP_UNCHECKED, OWN_LEARNER, Array, Bools, Cell, CellResult, Ints, Number, TrialResult

PUBLISHED_RANGE = (0.145, 0.165)
"""The paper's text on Table 15 says that most subpopulations lose 15-16 %, to the nearest percent."""


def summarise(
    cell: Cell,
    stage: Stage,
    results: Sequence[TrialResult],
    clean: Bools,
    *,
    exact: bool,
    ranked_by: Sequence[TrialResult] | None = None,
    most_wrong: Ints | None = None,
) -> CellResult:
    """Compute all numbers of a cell from its trials.

    clean: (n_seeds, n_test) bool, correct predictions of the clean undefended victims. ranked_by: trials of the same attacks
    under another defense, whose damages rank the subpopulations. most_wrong: (S, n_seeds, points, 4) what the votes of an
    ensemble certify, see `subpop.experiments.collective`.
    """
    parts = _parts(cell, stage, results, clean)
    if most_wrong is not None:
        parts = [replace(part, most_wrong=own) for part, own in zip(parts, most_wrong, strict=True)]
    others = None if ranked_by is None else _parts(cell, stage, ranked_by, clean)
    seed = derived_seed("summary", cell.dataset, cell.partition)
    everything, ranked = (_ranked(parts, others, seed, of) for of in (list, _large))
    if len(ranked.parts) == len(parts):  # then the same damages need not be drawn and ranked again
        ranked = everything
    numbers = [
        over_seeds("clean_accuracy", np.stack([accuracy(clean, p.scored) for p in parts])),
        over_seeds("defended_clean_accuracy", np.stack([p.defended_clean_accuracy for p in parts])),
        over_seeds("poisoned_accuracy", np.stack([p.poisoned_accuracy for p in parts])),
        *damages(ranked),
        *worst(everything, "_all"),
        *_collateral(parts, seed),
        *_filter_numbers(parts),
        *_attack_numbers(parts, len(parts) - len(ranked.parts)),
        *_costs([trial for part in parts for trial in part.trials]),
        *stage_numbers(parts),
        *certified_numbers(ranked),
        *collective_numbers(ranked),
        *_rank_numbers(cell, everything),
    ]
    residuals = [r.metrics.get("kkt_residual", math.nan) for r in results]
    if np.isfinite(residuals).any():
        numbers.append(Number("kkt_residual_max", float(np.nanmax(residuals))))
    return CellResult(
        cell,
        tuple(numbers),
        table=tuple(table_row(p) for p in parts),
        arrays={BY_SEED: np.stack([p.bits.change_by_seed for p in parts]), **panels(results)},
        exact=exact,
        n_subpopulations=len(parts),
        n_fits=sum(int(r.n_fits) for r in results),
        seconds=sum(r.seconds for r in results),
        notes=stage.dataset.notes,
        n_own_learner=sum(OWN_LEARNER in r.metrics for r in results),
        n_keep_unchecked=sum(KEEP_UNCHECKED in r.metrics for r in results),
    )


def panels(results: Sequence[TrialResult]) -> dict[str, Array]:
    """The arrays of a figure's panels, which the first trial of a cell has if its suite draws them."""
    return {name: array for name, array in results[0].arrays.items() if name.startswith("panel_")}


def _parts(cell: Cell, stage: Stage, results: Sequence[TrialResult], clean: Bools) -> list[Subpopulation]:
    by_trial = {result.trial: result for result in results}
    return [gather(cell.n_seeds, stage, by_trial, name, clean) for name in stage.attacked]


def _large(parts: Sequence[Subpopulation]) -> list[Subpopulation]:
    return [p for p in parts if eligible(p.bits.clean.shape[1])]


def _ranked(
    parts: Sequence[Subpopulation],
    others: Sequence[Subpopulation] | None,
    seed: int,
    kept: Callable[[Sequence[Subpopulation]], list[Subpopulation]],
) -> Ranked:
    """The kept subpopulations, ranked by their own damages or by those of the others."""
    return Ranked(kept(parts), seed, None if others is None else Ranked(kept(others), seed))


def _collateral(parts: Sequence[Subpopulation], seed: int) -> list[Number]:
    clean, poisoned = np.stack([p.clean_rest for p in parts]), np.stack([p.poisoned_rest for p in parts])
    found: Collateral = collateral(clean, poisoned, seed=seed)
    lost = clean - poisoned
    largest = lost[lost.mean(axis=1).argmax()]
    return [
        Number("collateral_damage_max", found.max, std=_finite(found.max_seed_std), by_seed=tuple(largest)),
        Number("collateral_damage_mean", found.mean, std=_finite(found.mean_seed_std), by_seed=tuple(lost.mean(axis=0))),
    ]


def _filter_numbers(parts: Sequence[Subpopulation]) -> list[Number]:
    if not all(len(p.scores) == len(p.trials) for p in parts):  # no filter, or not in every trial
        return []
    names = {"poison_recall": "recall", "poison_precision": "precision"}
    names |= {name: name for name in ("removed_share", "removed_target_clean_share")}
    numbers = []
    for metric, field in names.items():
        values = np.array([[getattr(score, field) for score in p.scores] for p in parts])
        if np.isfinite(values).any():
            numbers.append(over_seeds(metric, values))
    return numbers


def _attack_numbers(parts: Sequence[Subpopulation], n_left_out: int) -> list[Number]:
    rates = [p.mean("n_poison") / p.sizes["n_train"] for p in parts if p.sizes["n_train"]]
    return [
        Number("effective_rate", float(np.mean(rates)) if rates else math.nan),
        Number("n_flipped", float(np.mean([p.mean("n_flipped") for p in parts]))),
        Number("n_left_out", float(n_left_out)),
    ]


def _costs(attacked: Sequence[TrialResult]) -> list[Number]:
    searched = [trial.metrics["attack_fits"] for trial in attacked if "attack_fits" in trial.metrics]
    return [
        Number("fits_a_trial", float(np.mean([trial.n_fits for trial in attacked]))),
        Number("seconds_a_trial", float(np.mean([trial.seconds for trial in attacked]))),
        *([Number("attack_fits_a_trial", float(np.mean(searched)))] if searched else []),
    ]


def _rank_numbers(cell: Cell, ranked: Ranked) -> list[Number]:
    """Numbers of Tables 13 to 15 about all subpopulations; only for cells that set `ranked_by`."""
    if not cell.option("ranked_by"):
        return []
    sizes = np.array([part.sizes["n_aux"] for part in ranked.parts], float)
    low, high = PUBLISHED_RANGE
    return [
        ranked.number("share_without_damage", lambda values, _: (values <= 0).mean(axis=-1)),
        ranked.number("share_within_published", lambda values, _: ((values >= low) & (values < high)).mean(axis=-1)),
        *(ranked.number(f"mean_size_worst_{k}", partial(_mean_size, sizes, k)) for k in ranked.ranks),
    ]


def _mean_size(sizes: Doubles, k: int, values: Doubles, order: Array) -> Doubles:
    """(...,) mean size of the first k subpopulations in the order."""
    return np.asarray(sizes[order[..., :k]].mean(axis=-1))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
