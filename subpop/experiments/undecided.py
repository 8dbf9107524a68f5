"""Which predictions and selections of an exact victim the error of its solver could change.

A model is trained to within a known distance of the optimum (`LinearModel.error`), and how far it stays away differs between
processors. A prediction is *undecided* if the two most likely classes are so close that ten times this error could exchange
them, and so is the selection of a filter if a removed and a remaining row are that close. All other predictions are those of the
optimum itself, and so they are the same on every machine where they are decided.

The bound is relative to the inputs as they are. It covers neither inputs that were computed, such as features of a network or
rows that an attack moved, nor parts of a defense that do not report how near they were to another decision. Filters that rank
rows by a loss report it as the diagnostic `gap`; directions of largest variance (SEVER, spectral signatures), clusters and
certificates have no such number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from subpop.datasets.stage import SplitData
from subpop.harness.outcome import Outcome, lead_of
from subpop.types import Array, Bools, Floats, Ints, Model, TrialResult

SAFETY = 10.0
"""Multiple of the error bound within which a decision is undecided."""
ROUNDING = 2.0**-20
"""Bound of the rounding errors in the difference of two probabilities in float32, or of what filters compute from them."""
TARGET, REST, CUT = "undecided_target", "undecided_rest", "undecided_cut"
"""Metrics of a trial: the numbers of undecided test rows inside and outside the subpopulation; 1 if the selection of the filter
is undecided, otherwise 0."""


@dataclass(frozen=True, eq=False)
class Undecided:
    """What is undecided on some data, given the error of a model."""

    data: SplitData

    def rows(self, lead: Floats, error: float) -> Bools:
        """(n_test,) undecided predictions. lead: (>= n_test,) as `lead_of` returns it, which changes by half of its margin."""
        return np.asarray(lead[: len(self._test)] <= SAFETY * error * self._per_margin * self._test / 2 + ROUNDING)

    def cut(self, gap: float, error: float) -> bool:
        """Whether a selection is undecided. gap: the difference of two numbers, each of which changes by at most a margin."""
        return not gap > SAFETY * error * self._per_margin * self._longest * 2 + ROUNDING

    def least_likely(self, model: Model, rows: Ints) -> bool:
        """Whether it is undecided which class is the least likely one, on average over these rows of the pool."""
        mean = np.asarray(model.predict_proba(self.data.pool.x[rows]), np.float64).mean(axis=0)
        lowest, second = np.sort(mean)[:2]
        return self.cut(float(second - lowest), error_of(model))

    def in_trial(self, outcome: Outcome, error: float, members: Bools, scored: Bools) -> dict[str, float]:
        """The metrics of a trial, NaN without a bound. members, scored: (n_test,) rows of the subpopulation, and outside the
        holdout."""
        if outcome.lead is None or not outcome.made_by_fit or math.isnan(error):
            return {TARGET: math.nan, REST: math.nan}
        rows = self.rows(outcome.lead, error) & scored
        found = {TARGET: float((rows & members).sum()), REST: float((rows & ~members).sum())}
        gap = outcome.diagnostics.get("gap")
        return found if gap is None else {**found, CUT: float(self.cut(gap, error))}

    def of_clean(self, model: Model) -> float:
        """The number of undecided predictions of an undefended model for the test rows; NaN without a bound."""
        error = error_of(model)
        return math.nan if math.isnan(error) else float(self.rows(lead_of(model.predict_proba(self.data.test_x)), error).sum())

    @property
    def _per_margin(self) -> float:
        """How much the margin between two classes changes if the scores do by 1: two classes have one score, their margin."""
        return 1.0 if self.data.dataset.n_classes == 2 else math.sqrt(2)

    @cached_property
    def _test(self) -> Floats:
        return _lengths(self.data.test_x)

    @cached_property
    def _longest(self) -> float:
        return float(_lengths(self.data.pool.x).max())


def error_of(model: Model) -> float:
    """The bound of a model's error, NaN if it has none."""
    return float(getattr(model, "error_bound", math.nan))


def is_undecided(result: TrialResult, *, ranks_rows: bool) -> float:
    """1 if something in a trial is undecided, 0 if nothing is, NaN if that is unknown. ranks_rows: of its defense."""
    names = (TARGET, REST, CUT) if ranks_rows else (TARGET, REST)
    return float(np.sign(sum(result.metrics.get(name, math.nan) for name in names)))


def _lengths(x: Array) -> Floats:
    """(n,) Euclidean lengths of the rows with a one appended."""
    rows = x.reshape(len(x), math.prod(x.shape[1:]))
    return np.asarray(np.sqrt(1 + np.einsum("ij,ij->i", rows, rows, dtype=np.float64, casting="unsafe")))
