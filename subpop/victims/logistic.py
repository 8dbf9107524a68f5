"""Logistic and softmax regression, solved exactly in batches: the paper's convex victim.

*Source*: sum_i c_i * logloss_i + rho / 2 * |w|^2 with the intercept as a last column of ones, penalised like the others
(liblinear's convention); rho = penalty (scikit-learn's 1 / C) or penalty * sum_i c_i. More than two classes: a softmax with one
column per class, all penalised. Solved by Newton's method with conjugate gradients preconditioned at the clean optimum.
*Deviations*: the released scripts stop their solvers far from the optimum; here each model's `kkt_residual` measures the
distance.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args
from weakref import WeakKeyDictionary

import joblib
import numpy as np
from numpy.typing import NDArray

from subpop.runtime.threads import on_threads, one_thread
from subpop.types import BadInput, FleetJob, Model, Pool, Unsolved
from subpop.types.roles import Trainable
from subpop.victims.linear_model import LinearModel, flat

if TYPE_CHECKING:  # compiled code, loaded at the first fit only
    from subpop.victims.counts import Columns, Design

Doubles = NDArray[np.float64]
PenaltyForm = Literal["sum", "mean"]

TOLERANCE = 1e-8
FLOAT32_FIRST, WIDE = 40, 80
"""From these numbers of features on, a batch of two classes or of more is solved in float32 first, which saves up to half of its
time. Chunks of at least WIDE features are larger."""
ROUNDING = 1e-13
"""Upper bound of the relative rounding error of a gradient in float64, several hundred units in the last place."""
FARTHEST = 1e6
"""Largest ratio of new inputs to the pool's."""
_CLEAN: WeakKeyDictionary[Pool, dict[tuple[float, str, bool], _Clean]] = WeakKeyDictionary()
_ONE_CALL = threading.Lock()
GRID = 2.0**-20
"""Blind parameters are rounded to this fraction of the largest: a hundred times the difference between solves from two starting
points, while margins change by about 1e-5 and predictions do not."""


@dataclass(frozen=True, eq=False)
class _Clean:
    """The clean optimum of a pool, where every solve starts. It has no reference to the pool, so that it does not keep it
    alive."""

    columns: Columns
    counts: Doubles
    w: Doubles
    inverse: Doubles
    model: LinearModel


class LogisticRegression:
    """Exact penalised logistic regression. `fit_many` may be called from several threads, and runs one call at a time.

    penalty: rho of the sum form (scikit-learn's 1 / C), or lambda of the mean form if penalty_form is "mean";
    penalise_intercept: False leaves the intercept unpenalised; memory_bytes: approximate size of the working arrays of a batch.
    """

    exact = True

    def __init__(
        self,
        penalty: float = 1.0,
        penalty_form: PenaltyForm = "sum",
        penalise_intercept: bool = True,
        memory_bytes: int = 1 << 30,
    ) -> None:
        if not (np.isfinite(penalty) and penalty > 0):
            raise BadInput(f"penalty={penalty} must be finite and above 0: without it separable data have no optimum")
        if penalty_form not in get_args(PenaltyForm):
            raise BadInput(f"penalty_form={penalty_form!r} is neither 'sum' (scikit-learn's 1 / C) nor 'mean' (lambda)")
        self.penalty, self.penalty_form, self.penalise_intercept = float(penalty), penalty_form, bool(penalise_intercept)
        self.memory_bytes, self._blind = memory_bytes, False

    def blind(self) -> LogisticRegression:
        """The same victim, whose models do not reveal how near a training set is to clean D.

        Every solve, including that of D, starts at zero, and parameters are rounded to well above the solver error.
        """
        other = copy.copy(self)
        other._blind = True
        return other

    def trainable(self, seed: int) -> Trainable:
        """The recipe of the victim of a trial, for defenses that train it themselves, by steps instead of exactly."""
        from subpop.victims.stepwise import LONGER, LinearSteps

        return LinearSteps(LONGER, seed, LinearModel, self.penalty)

    def fit_many(self, jobs: Sequence[FleetJob], seeds: Sequence[int]) -> list[Model]:
        """Train one LinearModel per job; seeds are not used. Raises Unsolved if a `kkt_residual` stays above 1e-8."""
        from subpop.victims.job_checks import check_job

        if len(jobs) != len(seeds):
            raise BadInput(f"{len(jobs)} jobs and {len(seeds)} seeds: give one seed per job")
        for job in jobs:
            check_job(job, jobs[0].pool)
        if not jobs:
            return []
        _check_scale(jobs)
        # One BLAS thread per chunk: no barriers between cores, and results that do not depend on their number.
        with _ONE_CALL, one_thread("blas"):
            clean = self._clean(jobs[0].pool)
            models = [clean.model if not self._blind and _is_clean(job, clean) else None for job in jobs]
            attacked = [i for i, model in enumerate(models) if model is None]
            for i, model in zip(attacked, self._solve([jobs[i] for i in attacked], clean), strict=True):
                models[i] = model
        fitted = [model for model in models if model is not None]
        _check_solved(fitted, jobs)
        return [*fitted]

    def _solve(self, jobs: list[FleetJob], clean: _Clean) -> list[LinearModel]:
        """Solve in chunks of consecutive jobs, whose sizes do not depend on the number of cores."""
        from subpop.victims.counts import Design

        if not jobs:
            return []
        wide = len(clean.columns.scale) > WIDE
        first = len(clean.columns.scale) > (FLOAT32_FIRST if clean.w.shape[1] == 1 else WIDE)
        design = Design(jobs, clean.columns, (np.float64, np.float32) if first else (np.float64,))
        bytes_each = 64 * clean.w.shape[1] * max(len(job) for job in jobs)
        limit = min(128 if wide else 32, max(1, self.memory_bytes // 4 // bytes_each))
        paired = 8 if wide or clean.w.shape[1] > 1 else 16
        chunks = np.array_split(np.arange(len(jobs)), _n_chunks(len(jobs), limit, paired))
        threads = min(len(chunks), joblib.cpu_count(), max(1, self.memory_bytes // (bytes_each * limit)))
        with on_threads(threads) as mapped:
            solved = mapped(lambda chunk: self._solve_chunk([jobs[i] for i in chunk], design, clean), chunks)
            return [model for models in solved for model in models]

    def _solve_chunk(self, jobs: list[FleetJob], design: Design, clean: _Clean) -> list[LinearModel]:
        from subpop.victims.newton import DOUBLE, MIXED, solve

        w = np.zeros((len(jobs), *clean.w.shape[1:])) if self._blind else np.repeat(clean.w, len(jobs), axis=0)
        fleet = design.fleet(jobs, self.penalty, self.penalty_form == "mean")
        with np.errstate(over="ignore", invalid="ignore"):  # problems with non-finite results are solved alone
            residual = solve(fleet, w, clean.inverse, MIXED if len(design.dtypes) > 1 else DOUBLE)
        if self._blind:
            w = np.stack([_rounded(own, _spread(job, clean.columns)) for job, own in zip(jobs, w, strict=True)])
        solved = zip(jobs, w, residual, strict=True)
        return [
            self._model(own, clean.columns, job, r) if r[0] <= TOLERANCE else self._solve_alone(job, clean)
            for job, own, r in solved
        ]

    def _solve_alone(self, job: FleetJob, clean: _Clean) -> LinearModel:
        """Solve a training set far from the pool's scale in its own units, with its own curvature.

        Gradients grow with the inputs, so the residual is reported as if the largest feature had the pool's scale.
        """
        from subpop.victims.counts import Design
        from subpop.victims.newton import DOUBLE, Newton

        own = FleetJob(Pool(job.x, job.y, len(job), job.pool.n_classes), np.arange(len(job)), job.y, job.weights)
        residual = np.full((1, 3), np.inf)
        try:
            with np.errstate(all="ignore"):
                found = self._solve_clean(own)
                larger = max(1.0, found.columns.scale[:-1].max(initial=1) / clean.columns.scale[:-1].max(initial=1))
                bound = DOUBLE[0]._replace(residual=TOLERANCE * larger)
                fleet = Design([own], found.columns, (np.float64,)).fleet([own], self.penalty, self.penalty_form == "mean")
                if not len(Newton(fleet, found.inverse, bound).run(found.w, np.arange(1), residual)):
                    w = _rounded(found.w[0], np.ones(found.w.shape[2])) if self._blind else found.w[0]
                    model = self._model(w, found.columns, own, residual[0])
                    return replace(model, kkt_residual=model.kkt_residual / larger)
        except (np.linalg.LinAlgError, ZeroDivisionError):
            pass
        return LinearModel(np.full((len(clean.columns.scale), clean.w.shape[1]), np.nan))

    def _clean(self, pool: Pool) -> _Clean:
        """The clean optimum, solved once per pool and cached as long as the pool exists."""
        settings = (self.penalty, self.penalty_form, self.penalise_intercept)
        kept = _CLEAN.setdefault(pool, {})
        if settings not in kept:
            kept[settings] = LogisticRegression(*settings)._solve_clean(pool.clean_job())
        return kept[settings]

    def _solve_clean(self, job: FleetJob) -> _Clean:
        from subpop.victims.counts import Columns, Design, count
        from subpop.victims.job_checks import check_job
        from subpop.victims.newton import TIGHT, inverse_hessian, solve

        check_job(job, job.pool)
        columns = Columns.of(job.pool, self.penalise_intercept)
        design = Design([job], columns, (np.float64,))
        fleet = design.fleet([job], self.penalty, self.penalty_form == "mean")
        w, residual = np.zeros((1, design.n_columns, len(columns.scale))), np.full((1, 3), np.inf)
        for turn in range(10):  # at least twice: batches need the inverse at the optimum, not at the start
            inverse, before = inverse_hessian(fleet, w), residual
            residual = solve(fleet, w, inverse, (TIGHT,))
            if turn and (residual[0, 0] <= TIGHT.residual or residual[0, 0] > before[0, 0] / 2):
                break
        return _Clean(columns, count(job), w, inverse, self._model(w[0], columns, job, residual[0]))

    def _model(self, w: Doubles, columns: Columns, job: FleetJob, residual: Doubles) -> LinearModel:
        """The model in the inputs' own units. residual: (3,) as `newton.solve` returns it."""
        coef = (w / columns.scale).T
        if not self.penalise_intercept and coef.shape[1] > 1:
            coef[-1] -= coef[-1].mean()  # free intercepts of a softmax are defined up to a common shift
        from subpop.victims.counts import longest_row

        weight = len(job) if job.weights is None else job.weights.sum()
        longest = columns.longest if job.extra_x is None else max(columns.longest, longest_row(job.extra_x))
        return LinearModel(coef, float(residual[0]), self._error(residual, columns, float(weight), longest))

    def _error(self, residual: Doubles, columns: Columns, weight: float, longest: float) -> float:
        """A bound of the distance between the parameters and the optimum; NaN if there is none, as for rounded parameters.

        residual: (3,) as `newton.solve` returns it, with a lower bound l of the Hessian's eigenvalues; longest: length of the
        longest training row with a one appended. With a penalty on every parameter, l holds everywhere, so that
        |gradient| >= l * distance. Otherwise it holds at the end only. If a margin changes by dz, its curvature changes by a
        factor of at most exp(|dz|), so that |gradient| >= l * (1 - exp(-longest * distance)) / longest (as in Bach 2010,
        Electronic Journal of Statistics 4): the distance is at most 2 |gradient| / l if this is at most 1 / longest.
        """
        if self._blind or not residual[2] > 0:
            return float("nan")
        distance = float((residual[1] + ROUNDING * weight * np.linalg.norm(columns.scale)) / residual[2])
        if self.penalise_intercept:
            return distance
        return 2 * distance if 2 * distance * longest <= 1 else float("nan")


def _n_chunks(n: int, limit: int, paired: int) -> int:
    """How many chunks n jobs are solved in: of at most `limit`, and an even number from `paired` jobs on.

    An odd number would leave one of two cores idle for a whole chunk; but two threads that each solve a few small problems wait
    for the interpreter lock for longer than they compute.
    """
    least = max(-(-n // limit), min(8, n // 16))
    return least if n < paired else least + least % 2 or 2


def _is_clean(job: FleetJob, clean: _Clean) -> bool:
    from subpop.victims.counts import count

    if job.weights is None and (len(job) != job.pool.n_train or job.rows.max() >= job.pool.n_train):
        return False
    return np.array_equal(count(job), clean.counts)


def _spread(job: FleetJob, columns: Columns) -> Doubles:
    """(d',) root mean square of a training set's scaled features; ones if all its rows are in the pool."""
    own = np.ones(len(columns.scale))
    if job.extra_x is not None:
        x = flat(job.x)
        own[:-1] = np.sqrt(np.einsum("ij,ij->j", x, x, dtype=np.float64, casting="unsafe") / len(x)) / columns.scale[:-1]
    return np.where(own > 0, own, 1.0)


def _rounded(w: Doubles, spread: Doubles) -> Doubles:
    """w (K', d') rounded to GRID times its largest contribution to a score; spread: (d',) of the features, as in `_spread`."""
    part = 2.0 ** np.round(np.log2(spread))
    largest = np.abs(w * part).max()
    if not 0 < largest < np.inf:
        return w
    step = 2.0 ** np.floor(np.log2(largest)) * GRID / part
    return np.asarray(np.round(w / step) * step)


def _check_scale(jobs: Sequence[FleetJob]) -> None:
    """Raise Unsolved for inputs that are too large for any solver."""
    usual = float(np.abs(flat(jobs[0].pool.x)).max()) or 1.0
    for i, job in enumerate(jobs):
        largest = 0.0 if job.extra_x is None or not job.extra_x.size else float(np.abs(job.extra_x).max())
        if largest > FARTHEST * usual:
            raise Unsolved(
                (i,),
                f"its inputs reach {largest:.3g}, those of the data {usual:.3g}; at most {FARTHEST:g} times as large can be "
                "solved: rescale or clip them",
            )


def _check_solved(models: Sequence[LinearModel], jobs: Sequence[FleetJob]) -> None:
    """Raise Unsolved for models that are not near their optimum: they would be close to the starting point."""
    far = tuple(i for i, model in enumerate(models) if not model.kkt_residual <= TOLERANCE)
    if not far:
        return
    largest = max(float(np.abs(flat(jobs[i].x)).max()) for i in far)
    usual = float(np.abs(flat(jobs[0].pool.x)).max())
    raise Unsolved(
        far,
        f"{len(far)} of {len(models)} logistic regressions did not converge: residual {models[far[0]].kkt_residual:.1e}, which "
        f"must be at most {TOLERANCE:g}. Their inputs reach {largest:.3g}, those of the data {usual:.3g}: rescale or clip them, "
        "or raise the penalty",
    )
