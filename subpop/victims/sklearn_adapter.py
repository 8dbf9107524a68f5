"""Any scikit-learn classifier as a victim; models are trained separately, on all cores through joblib.

An estimator is trained on labels 0 to K-1, the classes in its training set, and its predictions are expanded to one column per
class of the data. Each fit and each prediction runs on one thread, so that the same rows and the same seed give bit-identical
results.

Inputs may also be numbers that stand for rows of something else, such as a frame of named columns: see `Rows`.

Deviations: training is not batched. `features` are the inputs themselves: a defense that reads the last layer's input (SEVER)
receives the rows, as for a linear model.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from functools import cache
from multiprocessing import TimeoutError as NotInTime
from typing import Any, Protocol

import numpy as np

from subpop.runtime.threads import one_thread
from subpop.types import Array, BadInput, FleetJob, Floats, Ints, Model, content_order
from subpop.types.printable import in_one_line
from subpop.victims.sklearn_parameters import fit_weighted, global_generators, is_random, prepare, taken

HERE_SECONDS = 1.0
"""Fits that take less than this together are done in this process."""
SUM_TOLERANCE = 1e-3
"""How far the probabilities of a row may be from a sum of one."""
LOWEST = -1e-6
"""Probabilities below 0 by rounding count as 0."""


class Rows(Protocol):
    """What inputs of one column stand for."""

    def inputs(self, x: Array) -> Any:
        """The n rows that an estimator is given for x, (n, 1)."""
        ...

    def features(self, x: Array) -> Floats:
        """(n, d) numbers for the rows that x, (n, 1), stands for."""
        ...


class SklearnVictim:
    """A scikit-learn classifier as a victim.

    Every `random_state` in it, including nested ones, is set from the trial's seed, and so are the global generators of Python,
    numpy and torch while it is trained.

    Parameters
    ----------
    estimator
        A classifier, its class, or a function without parameters that returns one.
    exact
        Whether the model does not depend on the seed. By default True for estimators without any `random_state`, although
        some that have one never use it.
    n_jobs
        Number of processes, as in joblib; -1 for one per core.
    rows
        What inputs stand for; None if they are the rows themselves.
    time_limit
        Seconds that one training may take, in a process that can be ended; None for any time.

    Raises
    ------
    BadInput
        If no classifier can be made of `estimator`.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> from subpop import Pool, SklearnVictim
    >>> pool = Pool(np.float32([[0], [1], [2], [3]]), np.array([0, 0, 1, 1]), n_train=4, n_classes=2)
    >>> victim = SklearnVictim(KNeighborsClassifier(1), n_jobs=1)
    >>> [model] = victim.fit_many([pool.clean_job()], seeds=[0])
    >>> model.predict_proba(np.float32([[0.1], [2.9]])).argmax(axis=1)
    array([0, 1])
    """

    def __init__(
        self,
        estimator: Any,
        exact: bool | None = None,
        n_jobs: int = -1,
        *,
        rows: Rows | None = None,
        time_limit: float | None = None,
    ) -> None:
        self._template, self.lost = _template(estimator)
        """The unfitted estimator, and the public attributes of the given one that its clones lack."""
        self._n_jobs, self._rows, self._time_limit = n_jobs, rows, time_limit
        self.exact = not is_random(self._template) if exact is None else exact

    @property
    def template(self) -> Any:
        """The unfitted estimator that is cloned for each job."""
        return self._template

    def fit_many(self, jobs: Sequence[FleetJob], seeds: Sequence[int]) -> list[Model]:
        """Train one estimator for each job, in parallel processes.

        Parameters
        ----------
        jobs
            Training sets.
        seeds
            One seed for each job.

        Returns
        -------
        list of Model
            In the order of the jobs.

        Raises
        ------
        BadInput
            If an estimator cannot be trained, takes longer than it may, or does not classify.
        """
        pairs = list(zip(jobs, seeds, strict=True))
        done = [] if self._time_limit is not None else self._begun(pairs)
        models = done + (self._in_processes(pairs[len(done) :]) if len(done) < len(pairs) else [])
        return [model.looking_up(self._rows) for model in models]

    def _begun(self, pairs: Sequence[tuple[FleetJob, int]]) -> list[SklearnModel]:
        """The models of the first two jobs, trained here, and of all others if sending them to processes would take longer."""
        models: list[SklearnModel] = []
        for i, (job, seed) in enumerate(pairs):
            started = time.perf_counter()
            models.append(_fit_one(self._template, *self._task(job), seed))
            if i == 1 and (time.perf_counter() - started) * (len(pairs) - 2) > HERE_SECONDS:
                break
        return models

    def _in_processes(self, pairs: Sequence[tuple[FleetJob, int]]) -> list[SklearnModel]:
        from joblib import Parallel, delayed, effective_n_jobs

        n_jobs = self._n_jobs
        if self._time_limit is not None and effective_n_jobs(n_jobs) == 1:
            n_jobs = 2  # one would be this process, which cannot be ended
        tasks = (delayed(_fit_quietly)(self._template, *self._task(job), seed) for job, seed in pairs)
        name = type(self._template).__name__
        try:
            models: list[SklearnModel] = Parallel(n_jobs=n_jobs, timeout=self._time_limit)(tasks)
        except BadInput:
            raise
        except (NotInTime, TimeoutError) as error:
            raise BadInput(
                f"{name} was still being trained after {self._time_limit:g} s; give it fewer rows, a faster setting, or more time"
            ) from error
        except Exception as error:  # a process that ended, or an estimator that cannot be sent to one
            raise BadInput(f"{name} cannot be trained in another process ({in_one_line(error)})") from error
        return models

    def _task(self, job: FleetJob) -> tuple[FleetJob, Any]:
        """A training set, and the rows that its inputs stand for: None if they are the inputs."""
        job = job.canonical()
        return job, None if self._rows is None else self._rows.inputs(job.x)


def _template(estimator: Any) -> tuple[Any, tuple[str, ...]]:
    """Make an unfitted estimator from an instance, a class or a function; and the attributes that it lost."""
    from sklearn.base import BaseEstimator, is_outlier_detector, is_regressor

    name = getattr(estimator, "__name__", type(estimator).__name__)
    makes = isinstance(estimator, type) or (callable(estimator) and not hasattr(estimator, "fit"))
    try:
        given = estimator() if makes else estimator
        made = _unfitted(given)
        other = isinstance(made, BaseEstimator) and (is_regressor(made) or is_outlier_detector(made))
    except (Exception, SystemExit) as error:  # of somebody else's code
        raise BadInput(
            f"no estimator can be made of {name} ({in_one_line(error)}); give a classifier whose parameters have defaults, an "
            "instance of one or a function without parameters that returns one"
        ) from error
    if not callable(getattr(made, "fit", None)) or isinstance(made, type):
        kind = type(made).__name__
        raise BadInput(f"{name} gives {kind}, which cannot be fitted; a victim must be a scikit-learn classifier")
    if other:
        raise BadInput(f"{type(made).__name__} does not predict classes; a victim must be a scikit-learn classifier")
    own, kept = (getattr(each, "__dict__", {}) for each in (given, made))
    return made, tuple(sorted(key for key in own if key not in kept and not (key.startswith("_") or key.endswith("_"))))


def _unfitted(estimator: Any) -> Any:
    from sklearn.base import clone

    return clone(estimator, safe=False)


def _fit_one(template: Any, job: FleetJob, inputs: Any, seed: int) -> SklearnModel:
    weights, n_classes = job.weights, job.pool.n_classes
    used = np.arange(len(job)) if weights is None else np.flatnonzero(weights)
    if not len(used):
        raise BadInput("a training set has no rows, or none with a weight above 0")
    present = np.unique(job.y[used])
    if len(present) == 1:  # many estimators cannot be trained on one class; the prediction is known
        return SklearnModel(None, n_classes, present)
    x, y = job.x.reshape(len(job), -1)[used], job.y[used]
    # Not in canonical order, which has poison last: estimators that break ties by row order (k-NN, trees) would exploit that.
    order = content_order(x, y)
    estimator = prepare(_unfitted(template), seed, present.tolist())
    codes = np.searchsorted(present, y[order])
    given = x[order] if inputs is None else taken(inputs, used[order])
    try:
        with one_thread(), global_generators(seed):
            fit_weighted(estimator, given, codes, None if weights is None else weights[used][order])
    except BadInput:
        raise
    except (Exception, SystemExit) as error:  # of somebody else's code
        name = type(template).__name__
        raise BadInput(
            f"{name} could not be trained on {len(x)} rows of {len(present)} classes ({in_one_line(error)})"
        ) from error
    return SklearnModel(estimator, n_classes, present)


def _fit_quietly(template: Any, job: FleetJob, inputs: Any, seed: int) -> SklearnModel:
    """`_fit_one` in another process, which does not know the filters of warnings of this one."""
    _allow_many_classes()
    return _fit_one(template, job, inputs, seed)


@cache
def _allow_many_classes() -> None:
    """Once in a process, since each change of the filters makes warnings appear again: labels are classes, however many."""
    warnings.filterwarnings("ignore", "The number of unique classes is greater than")


class SklearnModel:
    """A fitted scikit-learn classifier behind the Model protocol. present: (K,) the classes that it was trained on, sorted.

    estimator: None if there is only one class. rows: what inputs stand for.
    """

    def __init__(self, estimator: Any, n_classes: int, present: Ints, rows: Rows | None = None) -> None:
        self._estimator, self._n_classes, self._present, self._rows = estimator, n_classes, present, rows
        self._answer = "" if estimator is None else _answer(estimator)

    def looking_up(self, rows: Rows | None) -> SklearnModel:
        """The model for inputs that stand for these rows."""
        return self if rows is None else SklearnModel(self._estimator, self._n_classes, self._present, rows)

    def predict_proba(self, x: Array) -> Floats:
        """(n, C) float32, rows that sum to one.

        If the estimator has no probabilities, they are the logistic or softmax of its decision values; if it only predicts, the
        predicted class has probability one. A row whose probabilities are all 0 gets equal ones.
        """
        flat = np.asarray(x).reshape(len(x), int(np.prod(np.shape(x)[1:])))
        out = np.zeros((len(flat), self._n_classes), np.float32)
        if self._estimator is None:
            out[:, self._present[0]] = 1
        elif len(flat):
            out[:, self._present[self._codes()]] = self._probabilities(self._asked(flat))
        return out

    def features(self, x: Array) -> Floats:
        """(n, d) float32: the inputs, flattened, or the features of the rows that they stand for."""
        if self._rows is not None:
            return self._rows.features(x)
        return np.asarray(x, np.float32).reshape(len(x), -1)

    def _asked(self, flat: Array) -> Array:
        try:
            with one_thread(), global_generators(0):  # its predictions may draw from them, too
                found = np.asarray(
                    getattr(self._estimator, self._answer)(np.array(flat) if self._rows is None else self._rows.inputs(flat))
                )
        except (Exception, SystemExit) as error:  # of somebody else's code
            raise self._wrong(f"it raised {in_one_line(error)}") from error
        if found.ndim == 0 or len(found) != len(flat) or found.dtype.kind not in "fiub" + "OUS" * (self._answer == "predict"):
            raise self._wrong(f"it returned {found.dtype} of shape {found.shape} for {len(flat)} rows")
        return found

    def _codes(self) -> Ints:
        """The class, as an index into those present, of each column of a prediction."""
        width = len(self._present)
        own = getattr(self._estimator, "classes_", None) if self._answer != "predict" else None
        if own is None:
            return np.arange(width)
        codes = _whole(own, width)
        if codes is None or len(np.unique(codes)) != len(codes):
            raise self._wrong(f"it has classes_ {own!r} after it was trained on labels 0 to {width - 1}")
        return codes

    def _probabilities(self, found: Array) -> Array:
        if self._answer == "predict":
            return self._one_hot(found)
        proba = _from_decision(found) if self._answer == "decision_function" else found
        width = len(self._codes())
        if proba.shape != (len(found), width):
            raise self._wrong(f"it returned an array of shape {found.shape} for {len(found)} rows and {width} classes")
        undecided = (proba == 0).all(axis=1)
        right = (np.abs(proba.sum(axis=1) - 1) <= SUM_TOLERANCE) & (proba.min(axis=1) >= LOWEST)
        if not (right | undecided).all():
            row = int(np.flatnonzero(~right & ~undecided)[0])
            raise self._wrong(f"its probabilities of row {row} are {proba[row].tolist()}, not numbers from 0 to 1 with sum 1")
        return np.where(undecided[:, None], 1 / width, np.where(proba < 0, 0, proba))

    def _one_hot(self, labels: Array) -> Array:
        codes = _whole(labels, len(self._present))
        if codes is None:
            raise self._wrong(f"it returned {labels!r}, not labels 0 to {len(self._present) - 1}")
        return np.eye(len(self._present))[codes]

    def _wrong(self, found: str) -> BadInput:
        name = type(self._estimator).__name__
        return BadInput(f"{name}.{self._answer} cannot be used: {found}; correct the estimator or wrap it in one that classifies")


def _answer(estimator: Any) -> str:
    """The name of the method that is used for predictions of a fitted estimator."""
    from sklearn.base import BaseEstimator, is_classifier
    from sklearn.model_selection import FixedThresholdClassifier, TunedThresholdClassifierCV

    thresholds = isinstance(estimator, FixedThresholdClassifier | TunedThresholdClassifierCV)
    for name in ("predict_proba", "decision_function"):
        if hasattr(estimator, name) and not thresholds:  # only `predict` uses the tuned threshold
            return name
    if hasattr(estimator, "predict") and (is_classifier(estimator) or not isinstance(estimator, BaseEstimator)):
        return "predict"
    raise BadInput(
        f"{type(estimator).__name__} has neither predict_proba nor decision_function, nor is it a classifier that predicts; give "
        "a classifier (of a search: with refit=True)"
    )


def _whole(values: Any, below: int) -> Ints | None:
    """Return labels as (n,) int64, whatever their type; None if they are not integers in 0..below-1."""
    try:
        numbers = np.asarray(values).astype(np.float64)
    except (TypeError, ValueError):
        return None
    if numbers.ndim != 1 or not np.isin(numbers, np.arange(below)).all():
        return None
    return numbers.astype(np.int64)


def _from_decision(decision: Array) -> Array:
    from scipy.special import expit, softmax

    if decision.ndim == 1 or decision.shape[1:] == (1,):
        return np.column_stack([expit(-decision), expit(decision)])
    return np.asarray(softmax(decision, axis=1))
