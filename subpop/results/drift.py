"""Whether the numbers of a suite are off their references together, although each is within its own tolerance.

A tolerance leaves room for one number. Where all numbers of a suite move in the same direction, a bug is more likely than
chance, long before the first of them leaves its tolerance. The statistic was fixed before any run was tested: for each seed, the
mean over the stochastic headline numbers of a suite and victim of

    (number of the run - number of the reference) / tolerance,

with the sign turned where larger is better for the victim. The seeds of a run are the first seeds of its reference, so that both
have the same random draws. The suite has drifted if the mean over seeds exceeds LIMIT in either direction. One limit applies to
all suites, and so to their maximum.

`tests/drift_bank.py` measures how often a run without any change exceeds the limit, by resampling whole seeds of a bank that was
trained under different CPU kernels, and how often a common shift of half a tolerance does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from subpop.results.metric_registry import metric_of
from subpop.results.references import References, Row, cell_key, seeds_of
from subpop.types import Array, CellResult
from subpop.types.metric import Better

LIMIT = 0.25
"""Largest mean deviation of a suite's numbers, in tolerances."""
FEWEST_NUMBERS = 5
"""A suite and victim with fewer numbers than this is not tested as a whole."""


@dataclass(frozen=True)
class Drift:
    """The common deviation of the stochastic numbers of a suite and victim from their references."""

    stem: str
    victim: str
    by_seed: tuple[float, ...]
    """For each seed, the mean deviation over the numbers, in tolerances; positive if the victim is worse off."""
    n_numbers: int

    @property
    def mean(self) -> float:
        """The mean over seeds, in tolerances."""
        return float(np.mean(self.by_seed))

    @property
    def is_red(self) -> bool:
        """Whether the deviation exceeds LIMIT."""
        return abs(self.mean) > LIMIT

    def __str__(self) -> str:
        return (
            f"the {self.n_numbers} stochastic numbers of {self.stem} with {self.victim} deviate from their references by "
            f"{self.mean:+.2f} of their tolerance on average (limit {LIMIT:g})"
        )


def drifts(results: Iterable[CellResult], references: Mapping[str, References]) -> list[Drift]:
    """Test each suite and victim of which every number that has a reference with its seeds was measured.

    Parameters
    ----------
    results
        The results of cells, each with the number of seeds of its suite.
    references
        The references of each suite, by stem.

    Returns
    -------
    list of Drift
        By suite, victim and number of seeds. Those of which a cell was not measured, or that have fewer than FEWEST_NUMBERS
        numbers, are left out.
    """
    found: dict[tuple[str, str, str, int], list[Array]] = defaultdict(list)
    for result in results:
        cell = result.cell
        rows = references[cell.stem].rows.get(cell_key(cell), {})
        for number in result.numbers:
            row = rows.get((number.subpopulation, number.metric), {})
            if is_headline(row) and number.by_seed and cell.n_seeds == int(row["n_seeds"]):
                found[cell.stem, cell.tier, cell.victim, cell.n_seeds].append(deviations(number.by_seed, row))
    return [
        Drift(stem, victim, tuple(np.mean(own, axis=0)), len(own))
        for (stem, tier, victim, n_seeds), own in sorted(found.items())
        if len(own) >= max(FEWEST_NUMBERS, _n_headlines(references[stem], tier, victim, n_seeds))
        and len({len(each) for each in own}) == 1
    ]


def deviations(by_seed: Sequence[float], row: Row) -> Array:
    """Return (n_seeds,) deviations of a number from its reference, in tolerances; positive if the victim is worse off."""
    sign = -1.0 if metric_of(row["metric"]).better is Better.HIGHER else 1.0
    reference = seeds_of(row)
    n = min(len(by_seed), len(reference))
    return np.asarray(sign * (np.array(by_seed[:n]) - np.array(reference[:n])) / float(row["atol"]))


def is_headline(row: Row) -> bool:
    """Whether a row is a number over all subpopulations that has the value of each seed and a finite tolerance."""
    return bool(row) and not row["subpopulation"] and bool(row["by_seed"]) and 0 < float(row["atol"]) < np.inf


def _n_headlines(references: References, tier: str, victim: str, n_seeds: int) -> int:
    """How many rows of the tier and victim are headlines with that number of seeds."""
    rows = (row for of_cell in references.rows.values() for row in of_cell.values())
    wanted = (tier, victim, str(n_seeds))
    return sum((row["tier"], row["victim"], row["n_seeds"]) == wanted and is_headline(row) for row in rows)
