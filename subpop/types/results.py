"""Trials, the results of trials and cells, and the verdicts on their numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, get_args

from subpop.types.base import Array
from subpop.types.cell import Cell


@dataclass(frozen=True, order=True)
class Trial:
    """One trained victim of a cell. `attacked` False: the defense runs on clean D, with the attacked trial's side information."""

    subpopulation: str
    seed: int
    attacked: bool = True


OWN_LEARNER, KEEP_UNCHECKED = "own_learner", "keep_unchecked"
"""Metrics that a trial has, with the value 1, if `fit` did not make its model, or if its mask could not be confirmed."""

CAN_COUNT = "can count the poison rows (its rows minus the public size of D)"
"""Said in `CellResult.knowledge` of a defense that is not told how many poison rows there are, and can find out."""


@dataclass(frozen=True)
class TrialResult:
    """The result of one trial: numbers by metric name, and arrays by name (such as which test rows are classified correctly)."""

    trial: Trial
    metrics: Mapping[str, float]
    arrays: Mapping[str, Array] = field(default_factory=dict)
    seconds: float = 0.0
    n_fits: int = 0


@dataclass(frozen=True)
class Number:
    """One number of a cell: a metric of one subpopulation, or of all together (subpopulation '')."""

    metric: str
    value: float
    std_error: float | None = None
    subpopulation: str = ""
    std: float | None = None
    """Sample deviation over seeds, from which `std_error` and tolerances are computed; None for deterministic numbers."""
    tolerance: float | None = None
    """Minimum tolerance of a rerun, if known, such as the standard error of a mean of draws."""
    half_width: float | None = None
    """Half the width of its 95 % interval (`subpop.results.intervals`); None where there is none."""
    varies: str = ""
    """What the interval is about: a key of `subpop.results.intervals.ESTIMANDS`."""
    by_seed: tuple[float, ...] = ()
    """The value of each seed, whose mean is `value`; empty where the number is no mean over seeds."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_seed", tuple(map(float, self.by_seed)))  # a list where it was read from JSON


@dataclass(frozen=True)
class CellResult:
    """All numbers of a cell, and their cost. `table` has one row per subpopulation; `arrays` has the data of figures."""

    cell: Cell
    numbers: tuple[Number, ...]
    table: tuple[Mapping[str, float | str], ...] = ()
    arrays: Mapping[str, Array] = field(default_factory=dict)
    knowledge: str = ""
    exact: bool = True
    n_subpopulations: int = 0
    n_fits: int = 0
    seconds: float = 0.0
    from_store: bool = False
    notes: tuple[str, ...] = ()
    n_own_learner: int = 0
    """Number of trials whose returned model was not made by `fit`."""
    n_keep_unchecked: int = 0
    """Number of trials in which `fit` did not train the returned model on exactly the rows of the mask."""
    max_fits: int | None = None
    """Calls of `fit` per trial that a plug-in declares, if more than the default limit."""
    integrity: str = ""
    """For a plug-in defense, whether a known cheat was found; see `subpop.experiments.integrity`."""
    probes: str = ""
    """The findings of its probes, and the reasons for those that were not run."""
    n_undecided: int | None = None
    """Of an exact victim: number of trials that the error of its solver could change, so that 0 means that all numbers agree
    exactly on every machine; None if there is no bound, see `subpop.experiments.undecided`."""

    @cached_property
    def aggregates(self) -> tuple[Number, ...]:
        """The finite numbers that are not of one subpopulation."""
        return tuple(number for number in self.numbers if not number.subpopulation and math.isfinite(number.value))

    def __getitem__(self, metric: str) -> float:
        """The value of an aggregate metric."""
        for number in self.numbers:
            if number.metric == metric and not number.subpopulation:
                return number.value
        known = sorted({number.metric for number in self.numbers if not number.subpopulation})
        raise KeyError(f"{metric!r} is not a metric of {self.cell.id}; it has {known}")


Status = Literal["pass", "fail", "no_power", "no_reference", "published_only", "not_gated", "not_compared", "skipped", "error"]
VERDICTS: tuple[Status, ...] = get_args(Status)


@dataclass(frozen=True)
class Verdict:
    """A number of a run, compared with its reference."""

    number: Number
    verdict: Status
    reason: str = ""
    reference: float | None = None
    atol: float | None = None
    published: float | None = None
    certainty: str = ""


@dataclass(frozen=True)
class Provenance:
    """What the numbers of a cell were made of, as digests. Only numbers with the same data, draws and secret are comparable."""

    data: str = ""
    """Of the rows, the split and the subpopulations."""
    draws: str = ""
    """Of the trials, and of the seeds that draw poison and holdout rows, shuffle, and train."""
    secret: str = ""
    """Of the store's secret that shuffles the training sets of plug-ins; empty for built-in defenses."""
    code: str = ""
    """Of the code that made the numbers."""


@dataclass(frozen=True)
class LeftOut:
    """A cell of a store that a report does not show, or shows with numbers of another version, or a claim that it leaves out."""

    stem: str
    cell: str
    """Its id, or the name of the claim."""
    reason: str
    what: Literal["cell", "claim"] = "cell"


@dataclass(frozen=True)
class CellReport:
    """What the reporter gets for each cell: its result (None where skipped or in error) and its verdicts."""

    cell: Cell
    result: CellResult | None
    verdicts: tuple[Verdict, ...] = ()
    status: Status = "pass"
    """The worst verdict of the cell, or `skipped` / `error`."""
    reason: str = ""
    made_of: Provenance | None = None
    """None if the cell was not measured, or by a version that did not record it."""
