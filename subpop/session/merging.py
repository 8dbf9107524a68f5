"""`subpop merge`: combine stores, and refuse two different results of a deterministic trial."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from subpop.defenses import filter_of, is_built_in
from subpop.experiments.parts import drop_parts_of_whole_chunks
from subpop.experiments.undecided import CUT, REST, TARGET
from subpop.results.plugin_records import cell_of
from subpop.results.shards import KIND, divisions
from subpop.runtime.blobs import decode
from subpop.runtime.store import ELSEWHERE, Store
from subpop.runtime.store_merge import merge
from subpop.runtime.store_rows import ChunkRows, TrialRow
from subpop.session.shards import is_exact_cell
from subpop.types import BadInput, Trial

SOLVER = {"kkt_residual", TARGET, REST, CUT}
"""Metrics that say how exactly a model was solved: other kernels may change them in any digit."""
ROUNDING = 1e-6
"""Relative difference of other numbers that are no counts, between two types of processor."""


def merged(sources: Sequence[Path], into: Path) -> str:
    """Unite stores.

    Parameters
    ----------
    sources
        Stores of the shards of a run, or of several runs.
    into
        The store that receives everything.

    Returns
    -------
    str
        What was copied, and whether shards are missing.

    Raises
    ------
    BadInput
        If a store cannot be read, or if two stores disagree on a deterministic trial.
    """
    try:
        done = merge(sources, into, _differing)
    except BadInput as error:
        raise BadInput(str(error).replace(ELSEWHERE, "name another file")) from error
    with Store(into) as store:
        drop_parts_of_whole_chunks(store)
        recorded = store.records()
        parts = [each.description(recorded) for each in divisions(store.records(KIND))]
        n_trials = sum(n for _, n, _, _ in store.costs())
    lines = [
        f"{into}: {n_trials:,} trials, {min(done.trials, n_trials):,} of them new; "
        f"{done.known['chunks']:,} chunks of trials were in more than one store and are kept once"
    ]
    if done.differing:
        which = "trials of stochastic or user-supplied victims or defenses"
        lines.append(f"{done.differing:,} {which} differ between stores; those of the first store were kept")
    lines += [f"left out, to be made again: {each}" for each in done.damaged]
    but = ", without what was left out above" if done.damaged else ""
    return "\n".join([*lines, *(f"{part}{but}" for part in parts)])


def _differing(one: ChunkRows, other: ChunkRows) -> int:
    """How many trials of a chunk differ. Raises BadInput for the first one of an exact victim and defense."""
    pairs = list(zip(one.trials, other.trials, strict=False))
    different = [(a, why) for a, b in pairs if (why := _difference(a, b, one, other))]
    cell = cell_of(json.loads(one.cell))
    # A store must not make this process import and call what it names; rows of plug-ins are shuffled by the secret of each store.
    is_own = cell is None or ":" in cell.victim or not is_built_in(filter_of(cell.defense))
    if different and cell is not None and not is_own and is_exact_cell(cell):
        row, why = different[0]
        raise BadInput(
            f"two stores disagree on a trial of {cell.stem} {cell.id}: {_in_words(row)} has {why}, although it is deterministic; "
            "find the machine or version that computes it wrongly with `subpop why`, and merge without its store"
        )
    return len(different) + abs(len(one.trials) - len(other.trials))


def _in_words(row: TrialRow) -> str:
    trial = Trial(row.subpopulation, row.seed, bool(row.attacked))
    where = f"subpopulation {trial.subpopulation!r}" if trial.subpopulation else "all rows"
    return f"{where}, seed {trial.seed}, {'attacked' if trial.attacked else 'not attacked'},"


def _difference(a: TrialRow, b: TrialRow, one: ChunkRows, other: ChunkRows) -> str:
    """What differs between two results of a trial; "" if they agree. How long they took is no part of them."""
    if a[:3] != b[:3]:
        return "another place in the chunk"
    if [name for name, _ in a.metrics] != [name for name, _ in b.metrics]:
        return "other metrics"
    for (metric, x), (_, y) in zip(a.metrics, b.metrics, strict=True):
        if metric not in SOLVER and not _equal(x, y):
            return f"{metric} {x} and {y}"
    if [name for name, _ in a.arrays] != [name for name, _ in b.arrays]:
        return "other arrays"
    for (name, own), (_, beside) in zip(a.arrays, b.arrays, strict=True):
        if own == beside:
            continue
        first, second = decode(one.blobs[own]), decode(other.blobs[beside])
        same = first.dtype == second.dtype and first.shape == second.shape
        if not same or not (first.dtype.kind == "f" and np.allclose(first, second, ROUNDING, ROUNDING, equal_nan=True)):
            count = int(np.count_nonzero(first != second)) if same else first.size
            return f"different values of {name!r} ({count} of {first.size})"
    return ""


def _equal(x: float | None, y: float | None) -> bool:
    if x is None or y is None:
        return x is y
    counts = float(x).is_integer() and float(y).is_integer()
    return x == y if counts else math.isclose(x, y, rel_tol=ROUNDING, abs_tol=ROUNDING)
