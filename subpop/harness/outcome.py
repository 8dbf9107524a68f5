"""The result of a defense in one trial, and the checks of everything that a defense returns."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from subpop.types import Array, BadInput, Bools, Defended, Floats, Ints, Model, TrainingSet
from subpop.types.printable import printable

SUM_TOLERANCE = 1e-3
SEALED_ROWS = 256
NAME_LENGTH = 100
MOST_FITS = 1 << 31


@dataclass(frozen=True, eq=False)
class Outcome:
    """The result of one trial's defense, without its models."""

    predictions: Mapping[str, Ints]
    """(n_test,) predicted classes, ties to the lowest, of the final model under '' and of each stage under its name."""
    keep: Bools | None = None
    """(n,) bool, or None for defenses that are not filters."""
    certified_radii: Mapping[str, Ints] = field(default_factory=dict)
    """(m,) int64 radii of the certified test rows by the certificate's name; '' for one without a name."""
    reference: Ints | None = None
    """(n_test,) classes predicted by the same learner trained on given labels, or None."""
    diagnostics: Mapping[str, float] = field(default_factory=dict)
    """Numbers to report next to the result, by name."""
    n_fits: int = 0
    """Number of calls of `fit`."""
    seconds: float = 0.0
    """The defense's own time, without `fit` and predictions."""
    made_by_fit: bool | None = None
    """Whether `fit` made the final model in this trial; None if unknown."""
    keep_checked: bool = False
    """Whether `fit` trained it on exactly the rows of `keep`."""
    lead: Floats | None = None
    """(n_test,) how far the most likely class of the final model leads, see `lead_of`; None from a child process."""
    votes: Ints | None = None
    """(n_test, k) classes that the members of an ensemble predict, or None."""


def seal(train: TrainingSet) -> int:
    """Return a checksum of ids, labels and some hundred rows, to detect later whether the set was modified."""
    rows = train._source.gather(train.ids[:: max(1, len(train) // SEALED_ROWS)])
    return zlib.crc32(np.ascontiguousarray(rows).data, zlib.crc32(train.y.tobytes(), zlib.crc32(train.ids.tobytes())))


def check_defended(
    defended: object,
    train: TrainingSet,
    sealed: int,
    test_x: Array,
    n_classes: int,
    certify: Ints | None = None,
    reference_y: Ints | None = None,
) -> Outcome:
    """Check everything that a defense returned, and compute its predictions. sealed: `seal(train)` from before it ran.

    certify: rows of test_x whose radius is requested (None: all); reference_y: (n,) labels with which a model that has
    `with_labels` is trained for the reference.
    """
    if not isinstance(defended, Defended):
        raise BadInput(f"the defense returned {type(defended).__name__}; it must return Defended(model) or Defended(model, keep)")
    keep = _checked_keep(defended.keep, len(train))
    models = {"": defended.model, **_named(defended.stages, "stages", "a model for each name of a stage")}
    probabilities = {name: _probabilities(model, name, test_x, n_classes) for name, model in models.items()}
    predictions = {name: _most_likely(proba) for name, proba in probabilities.items()}
    votes = None if defended.votes is None else checked_votes(defended.votes(test_x), len(test_x), n_classes)
    certified_x = test_x.view() if certify is None else test_x[certify]
    certified_x.setflags(write=False)
    radii = _radii(defended.certified_radius, certified_x)
    reference = _reference(defended.model, reference_y, test_x, n_classes)
    diagnostics = _named(defended.diagnostics, "diagnostics", "a number for each name")
    numbers = {name: _checked_number(name, value) for name, value in diagnostics.items()}
    if seal(train) != sealed:
        raise BadInput("the defense wrote into its training set; work on copies: y = train.y.copy(), then train.relabel(y)")
    return Outcome(predictions, keep, radii, reference, numbers, lead=lead_of(probabilities[""]), votes=votes)


def undefended_outcome(model: Model, test_x: Array, n_classes: int) -> Outcome:
    """Return the outcome of a trial without a defense, whose victim `fit` trained."""
    proba = _probabilities(model, "", test_x, n_classes)
    return Outcome({"": _most_likely(proba)}, n_fits=1, made_by_fit=True, lead=lead_of(proba))


def lead_of(proba: Array) -> Floats:
    """Return (n,) float64 differences between the largest and the second largest of the probabilities (n, C) of each row."""
    proba = np.asarray(proba, dtype=np.float64)
    if proba.shape[1] == 2:
        return np.asarray(np.abs(proba[:, 1] - proba[:, 0]))
    two = np.partition(proba, -2, axis=1)[:, -2:]
    return np.asarray(two[:, 1] - two[:, 0])


def _checked_keep(keep: object, n: int) -> Bools | None:
    if keep is None:
        return None
    if not isinstance(keep, np.ndarray) or keep.dtype != np.bool_ or keep.shape != (n,):
        shape = f"{keep.dtype} of shape {keep.shape}" if isinstance(keep, np.ndarray) else type(keep).__name__
        raise BadInput(f"keep is {shape}; it must be a boolean array of shape ({n},), True for the rows of `train` to train on")
    if not keep.any():
        raise BadInput(
            f"keep removes all {n} rows, so that there is nothing to train on; keep at least one row, or return keep=None"
        )
    return keep.copy()


def _named(values: object, what: str, allowed: str) -> dict[str, Any]:
    if not isinstance(values, Mapping) or not all(isinstance(name, str) and name for name in values):
        raise BadInput(f"{what} is {values!r}; it must be a mapping with {allowed}, under non-empty names")
    for name in values:
        _check_name(name, what)
    return dict(values)


def _check_name(name: str, what: str) -> None:
    """Check a name, which appears in reports, file names and the store."""
    if len(name) > NAME_LENGTH or name != printable(name) or name != " ".join(name.split()):
        raise BadInput(
            f"{what} has the name {name[:NAME_LENGTH]!r}; a name is one line of at most {NAME_LENGTH} characters without control "
            "characters"
        )


def _most_likely(proba: Array) -> Ints:
    """(n,) predicted classes, ties to the lowest."""
    if proba.shape[1] == 2:  # as argmax, which is slow along short rows
        return np.asarray(proba[:, 1] > proba[:, 0], dtype=np.int64)
    return np.asarray(proba.argmax(1), dtype=np.int64)


def _probabilities(model: Any, name: str, x: Array, n_classes: int) -> Array:
    """(n, C) float64 probabilities of a model, checked."""
    whose = f"stage {name!r}" if name else "the model"
    if not callable(getattr(model, "predict_proba", None)):
        kind = type(model).__name__
        raise BadInput(
            f"{whose} is {kind}, which has no predict_proba(x); return a model from `fit`, or an object with this method"
        )
    proba = np.asarray(model.predict_proba(x))
    if proba.shape != (len(x), n_classes) or proba.dtype.kind not in "fiub":
        raise BadInput(
            f"predict_proba of {whose} returned {proba.dtype} of shape {proba.shape} for {len(x)} rows; it must return numbers "
            f"of shape ({len(x)}, {n_classes}), one column per class"
        )
    proba = proba.astype(np.float64)
    if not np.isfinite(proba).all():
        n_bad = (~np.isfinite(proba)).any(1).sum()
        raise BadInput(f"predict_proba of {whose} has NaN or infinite values in {n_bad} of {len(x)} rows; make them finite")
    gap = np.abs(proba.sum(1) - 1)
    if proba.size and (proba.min() < 0 or gap.max() > SUM_TOLERANCE):
        raise BadInput(
            f"predict_proba of {whose} has entries down to {proba.min():.4g} and rows whose sum differs from 1 by up to "
            f"{gap.max():.4g}; probabilities must be at least 0 and sum to 1: divide each row by its sum"
        )
    return proba


def _radii(certificates: Any, x: Array) -> dict[str, Ints]:
    """The radii of each certificate by name; '' if it has none."""
    if certificates is None or not len(x):
        return {}
    by_name = {"": certificates} if callable(certificates) else _named(certificates, "certified_radius", "a function for each")
    return {name: _checked_radius(radius(x), len(x)) for name, radius in by_name.items()}


def _reference(model: Any, y: Ints | None, x: Array, n_classes: int) -> Ints | None:
    if y is None or not callable(getattr(model, "with_labels", None)):
        return None
    return _most_likely(_probabilities(model.with_labels(y), "reference", x, n_classes))


def _checked_radius(radius: object, n: int) -> Ints:
    values = np.asarray(radius)
    if values.shape != (n,) or values.dtype.kind not in "iu" or (values.size and values.min() < 0):
        raise BadInput(
            f"certified_radius returned {values.dtype} of shape {values.shape}; it must return {n} integers at least 0, one "
            "per row of x"
        )
    return values.astype(np.int64)


def checked_votes(votes: object, n: int, n_classes: int) -> Ints:
    """Return the votes (n, k) of an ensemble, checked."""
    values = np.asarray(votes)
    if values.ndim != 2 or len(values) != n or not values.shape[1] or values.dtype.kind not in "iu":
        raise BadInput(
            f"votes returned {values.dtype} of shape {values.shape} for {n} rows; it must return integers of shape ({n}, k), one "
            "column for each of the k members"
        )
    if values.size and not 0 <= values.min() <= values.max() < n_classes:
        raise BadInput(f"votes are from {values.min()} to {values.max()}; they must be classes from 0 to {n_classes - 1}")
    return values.astype(np.int64)


def _checked_number(name: str, value: object) -> float:
    if not isinstance(value, int | float | np.integer | np.floating | np.bool_) or not np.isfinite(value):
        raise BadInput(f"diagnostics[{name!r}] is {value!r}; it must be one finite number")
    return float(value)


def check_outcome(outcome: Outcome, n_rows: int, n_test: int, n_classes: int) -> None:
    """Check an outcome from another process by the same rules: shapes, dtypes and ranges."""
    for name, predicted in outcome.predictions.items():
        if (
            predicted.shape != (n_test,)
            or predicted.dtype != np.int64
            or (n_test and not 0 <= predicted.min() <= predicted.max() < n_classes)
        ):
            raise BadInput(f"predictions {name!r} are not {n_test} classes from 0 to {n_classes - 1}")
    if "" not in outcome.predictions:
        raise BadInput("there are no predictions of the final model")
    _checked_keep(outcome.keep, n_rows)
    for name in filter(None, [*outcome.predictions, *outcome.certified_radii]):
        _check_name(name, "the outcome")
    for radius in outcome.certified_radii.values():
        _checked_radius(radius, n_test)
    if outcome.votes is not None:
        checked_votes(outcome.votes, n_test, n_classes)
    for name, value in _named(outcome.diagnostics, "diagnostics", "a number for each name").items():
        _checked_number(name, value)
    if not 0 <= outcome.n_fits < MOST_FITS or not 0 <= outcome.seconds < float("inf"):
        raise BadInput(f"{outcome.n_fits} fits in {outcome.seconds} s are not valid counts")
