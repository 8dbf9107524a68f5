"""Sets the parameters of a scikit-learn estimator, including nested ones, before it is trained.

Nested estimators are the steps of a pipeline, the members of an ensemble, the model inside a search or a calibration, the
candidates of a search grid, and a cross-validation splitter. A fitted estimator must depend on its rows and on the seed alone:

* every `random_state` is set, the outermost one to the seed itself and each other one to a derived seed;
* every `n_jobs` is one, because threads add the trees of a forest in any order, which changes the last bits; where it is None
  it stays so in scikit-learn, where this means one, and is one in other packages, where it often means all cores;
* a `class_weight` for labels 0, 1, ... is mapped to the labels of the training set, in their new numbering;
* `decision_function_shape` is "ovr": one column per class, which does not affect training.
"""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from subpop.types import Array, BadInput

Path = tuple[str | int, ...]
Change = Callable[[Path, Any], Any]
MOST_REPEATS = 100
"""Largest average number of copies of a row by which weights may be replaced."""


def prepare(estimator: Any, seed: int, present: Sequence[int]) -> Any:
    """Set an estimator's parameters for one training. present: the labels of the training set, which become 0, 1, ..."""
    codes = {label: code for code, label in enumerate(present)}

    def change(path: Path, value: Any) -> Any:
        name = _name(path)
        if name == "random_state":
            return _seed_at(path, seed)
        if name == "n_jobs":
            return None if value is None else 1
        if name == "class_weight" and isinstance(value, Mapping):
            return {codes[label]: weight for label, weight in value.items() if label in codes}
        return "ovr" if name == "decision_function_shape" else value

    made = _rebuilt(estimator, change, ())
    for each in (made, *_inside(made)):
        is_foreign = _has_parameters(each) and not type(each).__module__.startswith(("sklearn.", "skrub."))
        if is_foreign and each.get_params(deep=False).get("n_jobs", 1) is None:
            each.set_params(n_jobs=1)
    return made


@contextmanager
def global_generators(seed: int) -> Iterator[None]:
    """A context in which the generators that Python, numpy and torch share start from a seed; they are restored after it."""
    torch = sys.modules.get("torch")
    before = random.getstate(), np.random.get_state(), None if torch is None else torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    if torch is not None:
        torch.manual_seed(seed % 2**63)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        if torch is not None:
            torch.set_rng_state(before[2])


def is_random(estimator: Any) -> bool:
    """Return whether anything in an estimator takes a random state, or whether it does not list its parameters."""
    found: list[Path] = []

    def look(path: Path, value: Any) -> Any:
        found.extend([path] if _name(path) == "random_state" else [])
        return value

    _rebuilt(estimator, look, ())
    return bool(found) or not _has_parameters(estimator)


def taken(rows: Any, chosen: Array) -> Any:
    """The chosen rows of an array or a frame, which is then numbered from 0."""
    return rows.iloc[chosen].reset_index(drop=True) if hasattr(rows, "iloc") else rows[chosen]


def fit_weighted(estimator: Any, x: Any, y: Array, weights: Array | None) -> None:
    """Fit with weights if the estimator and everything inside it support them; otherwise repeat rows according to integer
    weights.

    A pipeline whose last step takes weights passes other weights to the steps that take them: its other steps see each row once.
    Raises BadInput if neither is possible.
    """
    if weights is None:
        estimator.fit(x, y)
        return
    parameters, complete = _weight_parameters(estimator, weights)
    if not complete and np.array_equal(weights, np.round(weights)) and weights.sum() <= MOST_REPEATS * len(weights):
        rows = np.repeat(np.arange(len(x)), weights.astype(np.int64))
        estimator.fit(taken(x, rows), y[rows])
    elif parameters:
        estimator.fit(x, y, **parameters)
    else:
        raise BadInput(
            f"{type(estimator).__name__} takes no sample weights, and weights up to {weights.max():g} cannot be replaced by "
            f"repeating rows: they must be integers of at most {MOST_REPEATS} on average; use such weights or another victim"
        )


def _weight_parameters(estimator: Any, weights: Array) -> tuple[dict[str, Array], bool]:
    """Return the arguments of `fit`, and whether every part of the estimator gets its weights by them."""
    from sklearn.pipeline import Pipeline

    if not isinstance(estimator, Pipeline):
        taken = _takes_weights(estimator)
        return ({"sample_weight": weights} if taken else {}), taken
    steps = [(name, step) for name, step in estimator.steps if step is not None and step != "passthrough"]
    taking = {name: _takes_weights(step) for name, step in steps}
    if not steps or not taking[steps[-1][0]]:
        return {}, False
    return {f"{name}__sample_weight": weights for name, taken in taking.items() if taken}, all(taking.values())


def _takes_weights(estimator: Any) -> bool:
    from sklearn.utils.validation import has_fit_parameter

    return all(has_fit_parameter(each, "sample_weight") for each in (estimator, *_inside(estimator)))


def _inside(value: Any) -> Iterator[Any]:
    """All estimators among an estimator's parameters, and theirs."""
    for _, each in _items(value):
        if hasattr(each, "fit"):
            yield each
        yield from _inside(each)


# --- nested parameters ------------------------------------------------------------------------------------------------


def _rebuilt(value: Any, change: Change, path: Path) -> Any:
    """Return a value with `change` applied to nested parameters; estimators are changed in place, everything else is copied."""
    if not _is_nested(value) or (_name(path) == "class_weight" and isinstance(value, dict)):
        return change(path, value)
    new = {key: _rebuilt(each, change, (*path, key)) for key, each in _items(value)}
    changed = {key: new[key] for key, each in _items(value) if new[key] is not each}
    if not changed:
        return value
    if _has_parameters(value):
        return value.set_params(**changed)
    if type(value) in (list, tuple):
        return type(value)(new.values())
    if isinstance(value, dict):
        return new
    other = copy.copy(value)  # a splitter, or an estimator without get_params
    other.random_state = changed["random_state"]
    return other


def _items(value: Any) -> list[tuple[Any, Any]]:
    """Return names and values directly inside a value."""
    if _has_parameters(value):
        return sorted(value.get_params(deep=False).items())
    if type(value) in (list, tuple):
        return list(enumerate(value))
    if isinstance(value, dict):
        return list(value.items())
    return [("random_state", value.random_state)] if hasattr(value, "random_state") else []


def _is_nested(value: Any) -> bool:
    return _has_parameters(value) or type(value) in (list, tuple, dict) or hasattr(value, "random_state")


def _has_parameters(value: Any) -> bool:
    return hasattr(value, "get_params") and hasattr(value, "set_params") and not isinstance(value, type)


def _name(path: Path) -> str:
    """The parameter that a path leads to: a grid names it `step__parameter` and lists values of it."""
    names = [part for part in path if isinstance(part, str)]
    return names[-1].rpartition("__")[2] if names else ""


def _seed_at(path: Path, seed: int) -> int:
    if path == ("random_state",):
        return seed % 2**32
    words = "/".join(map(str, path)).encode()
    return int(np.random.SeedSequence([seed % 2**64, *words]).generate_state(1)[0])
