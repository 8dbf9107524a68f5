"""Moved test rows: does a defense recognise the rows, or does it predict from the inputs?

A recorded trial is replayed twice with some test rows moved, once in each direction: by one step of the data's own grid (one
grey level, a few float32 steps) or by half the distance to the nearest other row. A table of test labels contains the row but
neither of the moved ones, so that the row is the *odd one out*: both moved rows get one prediction, and the row itself another.
For a model that learned from the training rows this is rare, because a decision boundary on one side of a row is not on the
other. The number and order of test rows stay the same.

Two exact one-sided sign tests must both be significant. Compared with the undefended victim of the same trial: rows that are odd
for the defense and not for the victim, against the reverse (for a model that `fit` did not make, the most sensitive of the
victim and four plain learners). Within the defense itself, which may be more sensitive than the victim without looking anything
up: rows that are odd, against rows of which the first moved copy is odd.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from subpop.experiments.integrity.findings import Finding, not_run, tested
from subpop.experiments.integrity.learners import answers_of_learners
from subpop.experiments.integrity.record import Record
from subpop.experiments.integrity.replay import Arena, AskedOtherwise, answers
from subpop.types import Array, Bools, Ints, Model

STEP, HALF = "moved test rows: one step", "moved test rows: half way"
ULPS = 4
"""Size of a step in float32 ulps, if the data has no grid."""
MOST_LEVELS = 256
TRIES = 4


@dataclass(frozen=True, eq=False)
class Moves:
    """sides: two arrays (n_test, ...) of test rows moved in opposite directions; step, half: (n_test,) bool, rows moved so."""

    sides: tuple[Array, Array]
    step: Bools
    half: Bools


def draw_moves(test_x: Array, first: Ints, grid: float | None, generator: np.random.Generator) -> Moves:
    """Move every other row by a step and the rest half the way to a neighbour; `first` (row numbers) is divided evenly."""
    order = np.concatenate([generator.permutation(first), generator.permutation(np.setdiff1d(np.arange(len(test_x)), first))])
    step, half = np.zeros(len(test_x), bool), np.zeros(len(test_x), bool)
    step[order[::2]] = True
    half[order[1::2]] = True
    flat = test_x.reshape(len(test_x), -1).astype(np.float64)
    room = np.minimum(flat - flat.min(axis=0), flat.max(axis=0) - flat)  # to either side, within the range of a column
    move = np.zeros_like(flat)
    move[step] = _step(flat[step], room[step], grid, generator)
    move[half] = _half_way(flat, half, room[half], generator)
    if grid is not None:
        move = np.round(move / grid) * grid
    sides = [(flat + sign * move).reshape(test_x.shape).astype(test_x.dtype) for sign in (1, -1)]
    return Moves((sides[0], sides[1]), step, half)


def grid_of(x: Array) -> float | None:
    """Return the step of the data's grid: 1 for grey levels, otherwise the spacing of equally spaced values; None without a
    grid."""
    if x.dtype == np.uint8:
        return 1.0
    values = np.unique(x)
    if not 2 < len(values) <= MOST_LEVELS:
        return None
    gap = float(np.diff(values).min())
    places = values.astype(np.float64) / gap
    return gap if np.allclose(places, np.round(places), atol=1e-3) else None


def _step(flat: Array, room: Array, grid: float | None, generator: np.random.Generator) -> Array:
    """(n, d) moves: one entry by a step of the grid, or all entries by some float32 steps."""
    if grid is None:
        eps = ULPS * np.spacing(np.abs(flat).astype(np.float32)).astype(np.float64)
        return np.asarray(np.where(room > 0, eps, 0.0) * generator.choice([-1.0, 1.0], flat.shape))
    move = np.zeros_like(flat)
    place = np.where(room >= 0.999 * grid, generator.random(flat.shape), -1).argmax(axis=1)
    at = (np.arange(len(flat)), place)
    move[at] = np.where(room[at] >= 0.999 * grid, grid, 0.0)
    return move


def _half_way(flat: Array, chosen: Bools, room: Array, generator: np.random.Generator) -> Array:
    """(n, d) moves in a random direction by half the distance to the nearest other row, limited by the column ranges."""
    from sklearn.neighbors import NearestNeighbors

    distinct = np.unique(flat, axis=0)
    distance = NearestNeighbors(n_neighbors=min(2, len(distinct))).fit(distinct).kneighbors(flat[chosen])[0][:, -1]
    direction = generator.normal(size=room.shape) * flat.std(axis=0) * (room > 0)
    move = np.zeros_like(direction)
    for _ in range(TRIES):  # entries at their bounds leave a larger step to the others
        length = np.linalg.norm(move, axis=1)
        short = np.maximum(distance / 2 - length, 0) / np.maximum(np.linalg.norm(direction, axis=1), 1e-30)
        move = np.clip(move + short[:, None] * direction, -room, room)
    return np.asarray(move)


# --- the probe ----------------------------------------------------------------------------------------------------------


def probe_moved(
    arena: Arena, records: Sequence[Record], victims: Sequence[Model], test_x: Array, generator: np.random.Generator
) -> list[Finding]:
    """Replay each record with moved test rows. victims: the undefended model of each record's trial."""
    if test_x.dtype.kind == "i":
        return [not_run(probe, "texts cannot be moved by a small step") for probe in (STEP, HALF)]
    grid = grid_of(test_x)
    counts: dict[str, list[Ints]] = {STEP: [], HALF: []}
    for record, victim in zip(records, victims, strict=True):
        assert record.outcome is not None
        own = record.outcome.predictions[""][: len(test_x)]
        known = answers_by(victim, test_x)
        moves = draw_moves(test_x, np.flatnonzero(own != known), grid, generator)
        sides = [_replayed(arena, record, x) for x in moves.sides]
        if sides[0] is None or sides[1] is None:
            return [not_run(probe, "the replayed trial made other requests") for probe in (STEP, HALF)]
        odd, first_odd = _odd(own, sides[0], sides[1]), _odd(sides[0], own, sides[1])
        references = [_odd(known, *(answers_by(victim, x) for x in moves.sides))]
        if not record.outcome.made_by_fit:
            references += _learners_odd(record, test_x, moves, generator)
        for probe, rows in ((STEP, moves.step), (HALF, moves.half)):
            reference = max(references, key=lambda each: int(each[rows].sum()))
            signs = [odd & ~reference, reference & ~odd, odd, first_odd, np.ones_like(odd)]
            counts[probe].append(np.array([(sign & rows).sum() for sign in signs]))
    return [_both_tests(probe, *map(int, np.sum(counts[probe], axis=0))) for probe in (STEP, HALF)]


def answers_by(model: Model, x: Array) -> Ints:
    """(n,) most likely classes."""
    return np.asarray(model.predict_proba(x).argmax(axis=1))


def _odd(one: Ints, other: Ints, third: Ints) -> Bools:
    """Where the first prediction is the odd one out: the other two agree and differ from it."""
    return np.asarray((other == third) & (one != other))


def _replayed(arena: Arena, record: Record, x: Array) -> Ints | None:
    """Return (n_test,) the recorded trial's predictions for moved rows; None if it does not repeat itself."""
    try:
        (outcome,) = arena.run([record.prepared.task], answers(record, []), x)
    except AskedOtherwise:
        return None
    return np.asarray(outcome.predictions[""])


def _learners_odd(record: Record, test_x: Array, moves: Moves, generator: np.random.Generator) -> list[Bools]:
    train = record.prepared.task.train
    x = train.x.reshape(len(train), -1).astype(np.float64)
    asked = np.concatenate([part.reshape(len(part), -1) for part in (test_x, *moves.sides)]).astype(np.float64)
    given = answers_of_learners(x, train.y, asked, int(generator.integers(2**31)))
    return [_odd(*np.split(of_one, 3)) for of_one in given]


def _both_tests(probe: str, more: int, fewer: int, odd: int, first_odd: int, n_rows: int) -> Finding:
    p_value = max(_sign_test(more, fewer), _sign_test(odd, first_odd))
    figures = (
        f"of {n_rows} rows, {odd} are odd and {first_odd} have an odd first copy; "
        f"{more} are odd for the plug-in only and {fewer} for the reference only"
    )
    return tested(probe, p_value, "looks test rows up", figures)


def _sign_test(ups: int, downs: int) -> float:
    from scipy.stats import binomtest

    return float(binomtest(ups, ups + downs, 0.5, "greater").pvalue) if ups + downs else 1.0
