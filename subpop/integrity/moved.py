"""Moved test rows: does a defense answer for the rows that it knows, or for the inputs that it sees?

A recorded trial is replayed with some test rows moved: by one step of the data's own grid (one grey level, a few float32 steps)
or by half the distance to the nearest other row. A model changes few answers, and the undefended victim of the same trial shows
how few. A table of test labels loses all that it knew. The number of test rows and their order stay.

The test is McNemar's, exact and one-sided: rows where the defense changes its answer and no reference does, against rows where it
is the other way round. The references of a model that `fit` made are the victim's; of another, also those of four plain learners,
of which the one that changes most is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from subpop.integrity.findings import Finding, not_run, tested
from subpop.integrity.learners import answers_of_learners
from subpop.integrity.record import Record
from subpop.integrity.replay import Arena, _AskedOtherwise, answers
from subpop.sandbox import run_in_child
from subpop.types import Array, Bools, Ints, Model

STEP, HALF = "moved test rows: one step", "moved test rows: half way"
ULPS = 4
"""float32 steps where the data has no grid of its own."""
MOST_LEVELS = 256


@dataclass(frozen=True, eq=False)
class Moves:
    """x: (n_test, ...) test rows, some of them moved in place; step, half: (n_test,) bool, which ones and how."""

    x: Array
    step: Bools
    half: Bools


def draw_moves(test_x: Array, first: Ints, grid: float | None, generator: np.random.Generator) -> Moves:
    """Move every other row by a step and the rest half the way to a neighbour; `first` (row numbers) is divided evenly."""
    order = np.concatenate([generator.permutation(first), generator.permutation(np.setdiff1d(np.arange(len(test_x)), first))])
    step, half = np.zeros(len(test_x), bool), np.zeros(len(test_x), bool)
    step[order[::2]] = True
    half[order[1::2]] = True
    flat = test_x.reshape(len(test_x), -1).astype(np.float64)
    low, high = flat.min(axis=0), flat.max(axis=0)
    varies = np.flatnonzero(high > low)
    out = flat.copy()
    out[step] = _stepped(test_x.reshape(len(test_x), -1)[step], varies, low, high, grid, generator)
    out[half] = _half_way(flat, half, varies, generator)
    if grid is not None:
        out[half] = np.round(out[half] / grid) * grid
    out[half] = np.clip(out[half], low, high)
    return Moves(out.reshape(test_x.shape).astype(test_x.dtype), step, half)


def grid_of(x: Array) -> float | None:
    """The step of the data's grid: 1 for grey levels, else the gap of equally spaced values; None where there is no grid."""
    if x.dtype == np.uint8:
        return 1.0
    values = np.unique(x)
    if not 2 < len(values) <= MOST_LEVELS:
        return None
    gap = float(np.diff(values).min())
    places = values.astype(np.float64) / gap
    return gap if np.allclose(places, np.round(places), atol=1e-3) else None


def _stepped(flat: Array, varies: Ints, low: Array, high: Array, grid: float | None, generator: np.random.Generator) -> Array:
    """Rows with one entry a grid step up or down, or with all entries some float32 steps away; never out of a column's range."""
    out = flat.astype(np.float64)
    up = generator.random(out.shape) < 0.5
    if grid is None:
        eps = ULPS * np.spacing(np.abs(flat).astype(np.float32)).astype(np.float64)
        out[:, varies] += np.where(up, eps, -eps)[:, varies]
        return out
    chosen = generator.choice(varies, len(out))
    at = (np.arange(len(out)), chosen)
    sign = np.where(out[at] + grid > high[chosen], -1.0, np.where(out[at] - grid < low[chosen], 1.0, np.where(up[at], 1.0, -1.0)))
    out[at] += sign * grid
    return out


def _half_way(flat: Array, chosen: Bools, varies: Ints, generator: np.random.Generator) -> Array:
    """Rows moved in a random direction by half the distance to their nearest row that is not the same."""
    from sklearn.neighbors import NearestNeighbors

    distinct = np.unique(flat, axis=0)
    distance = NearestNeighbors(n_neighbors=min(2, len(distinct))).fit(distinct).kneighbors(flat[chosen])[0][:, -1]
    direction = np.zeros((int(chosen.sum()), flat.shape[1]))
    direction[:, varies] = generator.normal(size=(len(direction), len(varies)))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return np.asarray(flat[chosen] + 0.5 * distance[:, None] * direction)


# --- the probe ----------------------------------------------------------------------------------------------------------


def probe_moved(
    arena: Arena, records: Sequence[Record], victims: Sequence[Model], test_x: Array, generator: np.random.Generator
) -> list[Finding]:
    """Replay each record with moved test rows. victims: the undefended model of each record's trial."""
    if test_x.dtype.kind == "i":
        return [not_run(probe, "texts cannot be moved by a small step") for probe in (STEP, HALF)]
    grid = grid_of(test_x)
    counts = {STEP: [0, 0, 0], HALF: [0, 0, 0]}
    for record, victim in zip(records, victims, strict=True):
        before = {"victim": victim.predict_proba(test_x).argmax(axis=1)}
        assert record.outcome is not None
        own = record.outcome.predictions[""][: len(test_x)]
        moves = draw_moves(test_x, np.flatnonzero(own != before["victim"]), grid, generator)
        changed = _changed(arena, record, own, moves)
        if changed is None:
            return [not_run(probe, "the replayed trial asked for something else") for probe in (STEP, HALF)]
        references = [victim.predict_proba(moves.x).argmax(axis=1) != before["victim"]]
        if not _made_by_fit(record):
            references += _learners_changed(record, test_x, moves, generator)
        for probe, rows in ((STEP, moves.step), (HALF, moves.half)):
            reference = max(references, key=lambda moved: int(moved[rows].sum()))
            for i, count in enumerate(((changed & ~reference & rows).sum(), (reference & ~changed & rows).sum(), rows.sum())):
                counts[probe][i] += int(count)
    return [_mcnemar(probe, *counts[probe]) for probe in (STEP, HALF)]


def _changed(arena: Arena, record: Record, own: Ints, moves: Moves) -> Bools | None:
    try:
        fit_many = answers(record, [])
        outcomes = run_in_child(arena.spec, [record.prepared.task], fit_many, moves.x, arena.n_classes, arena.timeout)
        (outcome,) = outcomes
    except _AskedOtherwise:
        return None
    return np.asarray(outcome.predictions[""] != own)


def _made_by_fit(record: Record) -> bool:
    return bool(getattr(record.outcome, "made_by_fit", None))


def _learners_changed(record: Record, test_x: Array, moves: Moves, generator: np.random.Generator) -> list[Bools]:
    train = record.prepared.task.train
    x = train.x.reshape(len(train), -1).astype(np.float64)
    seed = int(generator.integers(2**31))
    both = np.concatenate([part.reshape(len(part), -1) for part in (test_x, moves.x)]).astype(np.float64)
    given = answers_of_learners(x, train.y, both, seed)
    return [moved != still for still, moved in zip(given[:, : len(test_x)], given[:, len(test_x) :], strict=True)]


def _mcnemar(probe: str, more: int, fewer: int, n_rows: int) -> Finding:
    from scipy.stats import binomtest

    p_value = float(binomtest(more, more + fewer, 0.5, "greater").pvalue) if more + fewer else 1.0
    figures = f"of {n_rows} rows, {more} answers changed where no reference does, {fewer} the other way round"
    return tested(probe, p_value, "looks test rows up", figures)
