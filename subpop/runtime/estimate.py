"""Estimates of how long cells take, from stored costs of similar cells or else from a table, corrected during the run.

Only the plan and the progress display use them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from threading import RLock
from typing import Any

from subpop.types import BadInput, Cell
from subpop.types.kinds import kind_of

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
"""Seconds of one fit on two cores, per value of D, by victim, used if no costs are recorded; OTHERS for all other victims."""
OTHERS = 2e-6

FITS = {"trim": 5, "sever": 3, "sever_as_released": 5, "spectral_signatures": 2, "retrain": 0, "label_flip_smoothing": 0}
"""How many models a defense trains in a trial, used if no costs are recorded; 1 for all other defenses."""
OWN_SECONDS = {"activation_clustering_as_released": 0.06, "label_flip_smoothing": 0.012, "activation_clustering": 0.01}
"""Seconds of a defense in a trial apart from training, used if no costs are recorded."""
SUMMARY_SECONDS = 0.04
"""Seconds of any cell apart from its training: reading, summarising, comparing, plotting."""

LEAST_AGAIN = 0.25
"""Share of the time of a plug-in's first cell that is expected of a cell alike, whatever its probes took."""
RECENT = 0.1
"""Work after which what finished before counts half in the time left, as a share of all: other work makes a machine slower."""

VALUES = {"digits": 25_600, "mixture": 10_000, "mixture_2d": 1_000, "mixture_cells": 5_000, "mixture_sizes": 100_000}
"""Number of values in D by data set, as far as `rough_seconds` needs them; OTHER_VALUES for other generated data."""
OTHER_VALUES = 25_600
SUBPOPULATIONS = 10


def rough_seconds(cell: Cell, *, trains: bool, whole: float) -> float:
    """Seconds of a cell by the tables alone, so that the estimate is the same on every machine and before any data is read.

    Parameters
    ----------
    cell
        The cell.
    trains
        Whether it consists of trials.
    whole
        Seconds of a cell that does not.
    """
    if not trains:
        return SUMMARY_SECONDS + whole
    defense = cell.defense.partition(":")[0]
    per_fit = SECONDS_PER_VALUE.get(cell.victim, OTHERS) * VALUES.get(cell.dataset, OTHER_VALUES)
    trial = per_fit * FITS.get(defense, 1) + OWN_SECONDS.get(defense, 0.0)
    return SUMMARY_SECONDS + cell.n_seeds * SUBPOPULATIONS * trial


@dataclass
class Rates:
    """Recorded seconds and fits of a trial. The most similar record is used: the same victim, data and defense if possible."""

    _seen: dict[tuple[str, ...], list[float]] = field(default_factory=dict)

    def note(self, cell: Cell, trials: int, seconds: float, fits: int) -> None:
        """Record what trials of a cell took."""
        defense = cell.defense.partition(":")[0]
        for key in ((cell.victim, cell.dataset, defense), (cell.victim, cell.dataset), ("", "", defense)):
            found = self._seen.setdefault(key, [0.0, 0.0, 0.0])
            found[0], found[1], found[2] = found[0] + trials, found[1] + seconds, found[2] + fits

    @classmethod
    def recorded(cls, costs: Iterable[tuple[Mapping[str, Any], int, float, int]]) -> Rates:
        """Rates from a store's `costs`."""
        rates = cls()
        for settings, trials, seconds, fits in costs:
            with suppress(BadInput, TypeError):  # written by another version
                rates.note(Cell.of(**settings), trials, seconds, fits)
        return rates

    def knows(self, cell: Cell) -> bool:
        """Whether trials of the same victim on the same data were recorded, or the cell has no trials."""
        return (cell.victim, cell.dataset) in self._seen or not kind_of(cell).trains_trials

    def knows_defense(self, cell: Cell) -> bool:
        """Whether trials of the same victim, data and defense were recorded."""
        return (cell.victim, cell.dataset, cell.defense.partition(":")[0]) in self._seen

    def fits(self, cell: Cell) -> float:
        """Expected number of fits in a trial of the cell."""
        defense = cell.defense.partition(":")[0]
        for key in ((cell.victim, cell.dataset, defense), ("", "", defense)):
            if key in self._seen:
                return self._seen[key][2] / self._seen[key][0]
        return FITS.get(defense, 1)

    def seconds(self, cell: Cell, victim: str, n_values: int) -> float:
        """Expected seconds of a trial. victim: its kind; n_values: number of values in D."""
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


def _trust(total: float) -> float:
    """Seconds of work as expected that count as finished, since the first cells say little about the rest. total: of all work."""
    return 0.05 * total + 2


@dataclass
class Forecast:
    """The rest of a run: expected seconds and fits of each cell, corrected by the cells that have finished.

    If a defense trained more models than expected, the same is assumed for its other cells. Another thread reads the
    numbers while cells end, and so a lock keeps the two apart.
    """

    seconds: dict[Cell, float] = field(default_factory=dict)
    fits: dict[Cell, float] = field(default_factory=dict)
    trials: dict[Cell, int] = field(default_factory=dict)
    """Trials of each cell that are missing."""
    fits_done: int = 0
    done: set[Cell] = field(default_factory=set)
    guessed: dict[Cell, tuple[str, str]] = field(default_factory=dict)
    """Cells that run somebody's own code of which no times are recorded, by what takes the same time a fit: its name, and the
    victim, or the data of an own victim."""
    once: dict[Cell, float] = field(default_factory=dict)
    """Seconds that a guessed cell may take and cells alike do not: those with which the probes of a plug-in begin."""
    probes: float = 0.0
    """Seconds of probes that are expected for each second of a plug-in's trials."""
    under_way: float = 0.0
    """Seconds that is expected of what runs now, since the last work finished: so long it is taken to be on schedule."""
    jobs: int = 1
    """Number of processes that train."""
    _timed: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict)
    """Seconds and fits of what was guessed and has finished."""
    _n_run: dict[Cell, int] = field(default_factory=dict)
    _parts: dict[Cell, tuple[float, float]] = field(default_factory=dict)
    """Seconds and fits of the finished parts of guessed cells."""
    _of_cell: int = 0
    _ahead: dict[Cell, float] = field(default_factory=dict)
    _n_ended: int = 0
    _factors: dict[str, float] = field(default_factory=dict)
    _seen: tuple[float, float] = (0.0, 0.0)
    """When more work was seen to have finished, and the expected seconds of all that had."""
    _recent: tuple[float, float] = (0.0, 0.0)
    """Actual and expected seconds of what has finished, weighted."""
    _lock: Any = field(default_factory=RLock, repr=False, compare=False)

    def advance(self, fits: int) -> None:
        with self._lock:
            self.fits_done += fits
            self._of_cell += fits

    def receive(self, cell: Cell, fits: int, seconds: float = 0.0) -> None:
        """Count fits of a cell that workers have done, and the same share of its seconds. seconds: what they took a worker."""
        with self._lock:
            self.fits_done += fits
            if fits and self.guessed.get(cell, ("", "")) not in {*self._timed, ("", "")}:
                self._replace_guesses(self.guessed[cell], seconds / self.jobs, fits)
            expected = self.fits.get(cell, 0.0)
            if expected:
                done = self._ahead.get(cell, 0.0)
                self._ahead[cell] = done + min(1.0, fits / expected) * (self.seconds.get(cell, 0.0) - done)
            self.fits[cell] = max(0.0, expected - fits)

    def run_part(self, cell: Cell, trials: int, seconds: float) -> None:
        """Count some trials of a cell that a plug-in has run, by which the rest of it and cells alike can be judged."""
        with self._lock:
            self.trials[cell] = planned = max(trials, self.trials.get(cell, 0))
            share, self._n_run[cell] = trials / planned, self._n_run.get(cell, 0) + trials
            self.under_way = 0.0
            group, fits = self.guessed.get(cell), share * self.fits.get(cell, 0.0)
            if group is None or not fits:
                expected = self.seconds.get(cell, 0.0)
                self._ahead[cell] = min(expected, self._ahead.get(cell, 0.0) + share * expected)
                return
            with_probes = (1 + self.probes) * seconds
            spent, fits_before = self._parts.get(cell, (0.0, 0.0))
            self._parts[cell] = spent + with_probes, fits_before + fits
            self._replace_guesses(group, with_probes, fits)
            self._ahead[cell] = min(self._ahead.get(cell, 0.0) + seconds, self.seconds[cell])
            if self._n_run[cell] >= planned:
                self.under_way = self.probes * self._ahead[cell]

    def end(self, cell: Cell, seconds: float | None = None) -> None:
        """Mark a cell as finished. The ratio of its actual to its planned fits corrects other cells with its defense.

        seconds: what it took, which takes the place of guesses, its own and those of cells alike.
        """
        with self._lock:
            if cell in self._parts:  # the whole says more: it has what is besides the trials
                before, fits_before = (-each for each in self._parts.pop(cell))
                del self._ahead[cell]
                self._replace_guesses(self.guessed[cell], before, fits_before)
            if cell in self.guessed and cell not in {*self.done, *self._ahead} and seconds is not None:
                if self.fits.get(cell):
                    again = max(seconds - self.once.get(cell, 0.0), LEAST_AGAIN * seconds)
                    self._replace_guesses(self.guessed[cell], again, self.fits[cell])
                self.seconds[cell] = seconds
            planned, asked, self._of_cell = self.fits.get(cell, 0.0), self._of_cell, 0
            if cell not in self.done and planned and asked:
                self._factors[cell.defense] = asked / planned
            self.under_way = 0.0
            self._n_ended += cell not in self.done and cell in self.seconds
            self.done.add(cell)

    def _replace_guesses(self, group: tuple[str, str], seconds: float, fits: float) -> None:
        """Expect of each fit in the cells of a group what the fits that have finished took on average."""
        before, fits_before = self._timed.get(group, (0.0, 0.0))
        self._timed[group] = all_seconds, all_fits = before + seconds, fits_before + fits
        if all_fits < 1e-9:
            del self._timed[group]
            return
        for cell, own in self.guessed.items():
            if own == group and cell not in self.done:
                self.seconds[cell] = SUMMARY_SECONDS + all_seconds / all_fits * self.fits.get(cell, 0.0)

    @property
    def untimed(self) -> list[Cell]:
        """The cells left of which a guess is all that is known; `seconds_left` is without them."""
        with self._lock:
            return [cell for cell, group in self.guessed.items() if cell not in self.done and group not in self._timed]

    @property
    def has_begun(self) -> bool:
        """Whether any work has finished, by which the rest can be judged."""
        return self._sums()[1] > 0

    @property
    def n_ended(self) -> int:
        """Cells of the plan that have finished; cells that cannot run are not in the plan."""
        with self._lock:
            return self._n_ended

    @property
    def total_fits(self) -> int:
        """Fits done plus fits still expected."""
        with self._lock:
            left = sum(self._factors.get(c.defense, 1.0) * n for c, n in self.fits.items() if c not in self.done)
            return round(self.fits_done + max(0.0, left - self._of_cell))

    def seconds_left(self, passed: float) -> float:
        """Expected seconds of the remaining work, scaled by how long the finished part took, of which the latest counts most.

        passed: seconds since the start, in each call at least as many as in the one before.
        """
        whole = self.pace(passed)
        with self._lock:
            total, ended = self._sums()
            (before, ended_before), (took, expected) = self._seen, self._recent
            if ended > ended_before:
                kept = 0.5 ** ((ended - ended_before) / (RECENT * total + 2))
                took, expected = kept * took + passed - before, kept * expected + ended - ended_before
                self._seen, self._recent, before = (passed, ended), (took, expected), passed
        trust, now = _trust(total), passed - before
        on_schedule = min(now, self.under_way)
        assumed = 1 + (whole - 1) * ended / (ended + trust)
        known = total - ended - on_schedule - sum(self.seconds.get(cell, 0.0) for cell in self.untimed)
        return max(0.0, known) * (took + now + trust * assumed) / (expected + on_schedule + trust)

    def seconds_of(self, cells: Iterable[Cell]) -> float:
        """Expected seconds of cells, without what workers have done of them."""
        with self._lock:
            return sum(max(0.0, self.seconds.get(cell, 0.0) - self._ahead.get(cell, 0.0)) for cell in sorted(cells))

    def pace(self, passed: float) -> float:
        """How many times as long as expected the finished part took, in a run of so many seconds."""
        total, ended = self._sums()
        trust = _trust(total)
        return (passed + trust) / (ended + trust)

    def _sums(self) -> tuple[float, float]:
        """Expected seconds of all cells, and of what has finished: cells, and the parts of others that workers have done."""
        with self._lock:
            ended = sum(all_ if cell in self.done else self._ahead.get(cell, 0.0) for cell, all_ in self.seconds.items())
            return sum(self.seconds.values()), ended
