"""How long cells will take: from what the store recorded of others like them, else from a table; corrected as a run goes on.

Nothing but the plan and the progress rests on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from subpop.types import BadInput, Cell

SECONDS_PER_VALUE = {
    "logistic_regression": 4e-8,
    "last_layer": 4e-8,
    "text_linear": 1e-8,
    "mlp": 1.2e-7,
    "mlp_wide": 1e-6,
    "conv_net": 6e-7,
    "tiny_bert_last_layer": 2e-5,
    "minilm_last_layer": 4e-4,
}
"""A victim's seconds on two cores for each value of D and fit, where nothing is recorded; of others OTHERS."""
OTHERS = 2e-6

FITS = {"trim": 5, "sever": 3, "sever_as_released": 5, "spectral_signatures": 2, "retrain": 0, "label_flip_smoothing": 0}
"""How often a defense trains in a trial, where nothing is recorded; others once."""
OWN_SECONDS = {"activation_clustering_as_released": 0.06, "label_flip_smoothing": 0.012, "activation_clustering": 0.01}
"""A defense's own seconds in a trial, where nothing is recorded."""
SUMMARY_SECONDS = 0.04
"""Of any cell beside its training: reading, summing up, comparing, drawing."""


@dataclass
class Rates:
    """Seconds and fits of a trial, learned; the nearest record counts: same victim, data and defense, else less of it."""

    _seen: dict[tuple[str, ...], list[float]] = field(default_factory=dict)

    def note(self, cell: Cell, trials: int, seconds: float, fits: int) -> None:
        """What trials of a cell took."""
        defense = cell.defense.partition(":")[0]
        for key in ((cell.victim, cell.dataset, defense), (cell.victim, cell.dataset), ("", "", defense)):
            found = self._seen.setdefault(key, [0.0, 0.0, 0.0])
            found[0], found[1], found[2] = found[0] + trials, found[1] + seconds, found[2] + fits

    @classmethod
    def recorded(cls, costs: Iterable[tuple[Mapping[str, Any], int, float, int]]) -> Rates:
        """From a store's `costs`."""
        rates = cls()
        for told, trials, seconds, fits in costs:
            with suppress(BadInput, TypeError):  # of another version
                rates.note(Cell.of(**told), trials, seconds, fits)
        return rates

    def fits(self, cell: Cell) -> float:
        """Fits that a trial of the cell is expected to ask for."""
        defense = cell.defense.partition(":")[0]
        for key in ((cell.victim, cell.dataset, defense), ("", "", defense)):
            if key in self._seen:
                return self._seen[key][2] / self._seen[key][0]
        return FITS.get(defense, 1)

    def seconds(self, cell: Cell, victim: str, n_values: int) -> float:
        """Seconds that a trial is expected to take. victim: its kind; n_values: numbers in D."""
        defense = cell.defense.partition(":")[0]
        if same := self._seen.get((cell.victim, cell.dataset, defense)):
            return same[1] / same[0]
        alike = self._seen.get((cell.victim, cell.dataset))
        per_fit = alike[1] / max(alike[0], alike[2]) if alike else SECONDS_PER_VALUE.get(victim, OTHERS) * n_values
        return per_fit * self.fits(cell) + OWN_SECONDS.get(defense, 0.0)


def readable_seconds(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@dataclass
class Forecast:
    """What is left of a run: expected seconds and fits of each cell, corrected by those that have ended.

    A defense that trains more often than expected is expected to do so in its other cells too.
    """

    seconds: dict[Cell, float] = field(default_factory=dict)
    fits: dict[Cell, float] = field(default_factory=dict)
    fits_done: int = 0
    done: set[Cell] = field(default_factory=set)
    _of_cell: int = 0
    _factors: dict[str, float] = field(default_factory=dict)

    def advance(self, fits: int) -> None:
        self.fits_done += fits
        self._of_cell += fits

    def receive(self, cell: Cell, fits: int) -> None:
        """Workers have done so many fits of a cell."""
        self.fits_done += fits
        self.fits[cell] = max(0.0, self.fits.get(cell, 0.0) - fits)

    def end(self, cell: Cell) -> None:
        """A cell has ended: what it asked for beyond its plan tells of the others of its defense."""
        planned, asked, self._of_cell = self.fits.get(cell, 0.0), self._of_cell, 0
        if cell not in self.done and planned and asked:
            self._factors[cell.defense] = asked / planned
        self.done.add(cell)

    @property
    def n_ended(self) -> int:
        """Cells of the plan that have ended; those that cannot run are in no plan."""
        return len(self.done & self.seconds.keys())

    @property
    def total_fits(self) -> int:
        """Those done and those expected; never less than those done."""
        left = sum(self._factors.get(c.defense, 1.0) * n for c, n in self.fits.items() if c not in self.done)
        return round(self.fits_done + max(0.0, left - self._of_cell))

    def seconds_left(self, passed: float) -> float:
        """From what is expected of the cells that are left, in the measure of those that have ended in `passed` seconds."""
        total = sum(self.seconds.values())
        ended = sum(expected for cell, expected in self.seconds.items() if cell in self.done)
        trust = 0.05 * total + 2  # the first cells tell little
        return max(0.0, total - ended) * (passed + trust) / (ended + trust)
