"""A user's own estimator as a victim: any scikit-learn classifier or Pipeline, XGBoost, LightGBM, or an object with two methods.

An estimator is named as `package.module:Class(argument=value)` or `path.py:function(argument=value)`, or given as an instance,
a class, or a function without parameters that returns one. It needs `fit(x, y)`, where y contains 0, 1, ..., and
`predict_proba(x)`, `decision_function(x)` or `predict(x)`; a torch module needs the first two, which receive float32 arrays.

Estimators of a frame receive frames, so that a Pipeline finds its columns by name. One that cannot be trained on the frame as it
is gets skrub's `tabular_pipeline` in front, which is fitted on each training set anew. A few rows are tried first.
"""

from __future__ import annotations

import importlib.metadata
import sys
import types
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from multiprocessing import TimeoutError as NotInTime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from subpop.audit.table import Table, vectoriser
from subpop.harness.watch import INSTALLED
from subpop.runtime.fingerprint import data_hash, key_of, plugin_hash
from subpop.types import Array, BadInput, Floats, Ints, Pool, Victim
from subpop.types.printable import in_one_line, printable
from subpop.victims.sklearn_adapter import SklearnVictim
from subpop.victims.user_objects import user_object

if TYPE_CHECKING:
    import pandas as pd

TRIED_ROWS = (300, 10_000)
"""Numbers of rows on which an estimator is tried: first a few, then more for one that needs them."""
TRIED_SECONDS = 120.0
"""How long each trial may take, unless the estimator may take less."""
KNOWN = frozenset({"sklearn", "skrub", "xgboost", "lightgbm", "imblearn"})
"""Packages whose estimators are tried in this process, since they end by themselves on a few rows."""


@dataclass(frozen=True, eq=False)
class FrameRows:
    """The rows of a frame, which inputs of a victim name by the hashes of their content."""

    frame: pd.DataFrame
    """The columns, n rows."""
    x: Floats
    """(n, d) float32 features of the rows, for defenses that look at features."""
    hashes: Ints
    """(n,) int64."""

    @cached_property
    def _order(self) -> Ints:
        return np.argsort(self.hashes, kind="stable")

    def inputs(self, x: Array) -> pd.DataFrame:
        """The frame of the rows with these hashes, x (m, 1), numbered from 0."""
        return self.frame.iloc[self._positions(x)].reset_index(drop=True)

    def features(self, x: Array) -> Floats:
        """(m, d) float32 features of the rows with these hashes, x (m, 1)."""
        return np.asarray(self.x[self._positions(x)], np.float32)

    def _positions(self, x: Array) -> Ints:
        wanted = np.asarray(x).ravel()
        found = self._order[np.searchsorted(self.hashes, wanted, sorter=self._order).clip(max=len(self.hashes) - 1)]
        if not np.array_equal(self.hashes[found], wanted):
            raise BadInput("inputs are not rows of the frame; an estimator of a frame can only be given its own rows, unchanged")
        return np.asarray(found, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class OwnEstimator:
    """An estimator that was tried on some rows of a table."""

    name: str
    """The name in reports, such as `RandomForestClassifier(n_estimators=50)`."""
    victim: Victim
    """For `table.dataset(as_rows=True)`."""
    identity: str | None
    """Hash of its parameters, its code and the table; None if some part of it has no code in a file, such as a lambda."""
    notes: tuple[str, ...]
    """How it is given the table, each a sentence without its full stop."""


def estimator_of(spec: object, table: Table, *, n_jobs: int = -1, time_limit: float | None = None) -> OwnEstimator:
    """Make a victim of an estimator for a table.

    Parameters
    ----------
    spec
        A specification, an estimator, its class, or a function without parameters that returns one.
    table
        The data, some rows of which are used to try the estimator.
    n_jobs
        Number of processes, as in joblib; -1 for one per core.
    time_limit
        Seconds that one training may take; None for any time.

    Returns
    -------
    OwnEstimator
        With the victim, to be trained on `table.dataset(as_rows=True)`.

    Raises
    ------
    BadInput
        If the estimator cannot be found, made, copied or trained, takes too long, or does not predict classes.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from subpop.audit.estimator import estimator_of
    >>> from subpop.audit.table import read_table
    >>> frame = pd.DataFrame({"city": ["Bern", "Oslo", "Rome"] * 20, "age": np.arange(60.0), "paid": [0, 1] * 30})
    >>> own = estimator_of("sklearn.tree:DecisionTreeClassifier(max_depth=2)", read_table(frame, "paid"), n_jobs=1)
    >>> own.name, own.victim.exact
    ('DecisionTreeClassifier(max_depth=2)', False)
    """
    given, name = _found(spec)
    limit = min(TRIED_SECONDS, time_limit or TRIED_SECONDS)
    template = _made(given, name)
    rows = None if table.frame is None else FrameRows(table.frame, table.x, table.row_hashes)
    is_known = _modules_of(template) <= KNOWN
    options = _Options(name, rows, 1 if is_known else n_jobs, None if is_known else limit)
    front, exact = _tried(template, table, options)
    victim = SklearnVictim(front.estimator, exact=exact, n_jobs=n_jobs, rows=rows, time_limit=time_limit)
    identity = identity_of(front.estimator)
    key = None if identity is None else key_of({"estimator": identity, "table": table.fingerprint})
    return OwnEstimator(name, victim, key, (front.note,) if front.note else ())


# --- finding ----------------------------------------------------------------------------------------------------------


def _found(spec: object) -> tuple[object, str]:
    """What a specification names, not yet called, and its name; an object is its own."""
    return user_object(spec, "--estimator ") if isinstance(spec, str) else (spec, _name_of(spec))


def _name_of(spec: object) -> str:
    if isinstance(spec, type) or (callable(spec) and not hasattr(spec, "fit")):
        return printable(getattr(spec, "__name__", type(spec).__name__))
    steps = getattr(spec, "steps", None)
    if isinstance(steps, list):
        return printable(" + ".join(type(step).__name__ for _, step in steps if hasattr(step, "fit")))
    said = " ".join(repr(spec).split()) if hasattr(spec, "get_params") else type(spec).__name__
    return printable(said if len(said) <= 80 else type(spec).__name__)


def _made(given: object, name: str) -> Any:
    """The unfitted estimator. Raises BadInput if none can be made, or it cannot be trained."""
    makes = isinstance(given, type) or (callable(given) and not hasattr(given, "fit"))
    torch = sys.modules.get("torch")
    is_module = torch is not None and isinstance(given, torch.nn.Module)
    made = given
    if makes and not is_module:
        try:
            made = given()  # type: ignore[operator]
        except (Exception, SystemExit) as error:  # of somebody else's code
            raise BadInput(
                f"no estimator can be made by {name} ({in_one_line(error)}); give its parameters defaults, or write the arguments"
            ) from error
    if torch is not None and isinstance(made, torch.nn.Module) and not hasattr(made, "fit"):
        raise BadInput(
            f"{name} is a torch module without a training; give it fit(x, y) and predict_proba(x), where x is (n, d) float32 and "
            "y (n,) int64 of numpy, and predict_proba returns (n, C)"
        )
    for method, others in (("fit", ()), ("predict_proba", ("decision_function", "predict"))):
        if not any(hasattr(made, each) for each in (method, *others)):
            raise BadInput(
                f"{name} is a {type(made).__name__} without {method}{', ' * bool(others)}{' or '.join(others)}; give a classifier"
            )
    return made


# --- trying -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Front:
    estimator: Any
    note: str = ""


@dataclass(frozen=True)
class _Options:
    name: str
    rows: FrameRows | None
    n_jobs: int
    limit: float | None


def _tried(template: Any, table: Table, options: _Options) -> tuple[_Front, bool | None]:
    """The first of the ways to give the table to the estimator that works, and False if seeds change what it predicts."""
    errors: list[BadInput] = []
    for size in TRIED_ROWS:
        for front in _fronts(template, table, options.name):
            try:
                return front, _train(front, table, options, size)
            except BadInput as error:
                errors.append(error)
                if isinstance(error.__cause__, TimeoutError | NotInTime):
                    raise _useless(options.name, table, error) from error
        if len(table) <= size:
            break
    # A Pipeline of the user's is meant for the columns as they are; others, for what skrub makes of them.
    raise _useless(options.name, table, errors[0 if hasattr(template, "steps") else -1]) from errors[-1]


def _useless(name: str, table: Table, error: BadInput) -> BadInput:
    return BadInput(f"{name} cannot be trained on {table.name}: {error}")


def _fronts(template: Any, table: Table, name: str) -> list[_Front]:
    """The ways to give the table to an estimator, in the order in which they are tried."""
    from sklearn.pipeline import Pipeline, make_pipeline
    from skrub import DropCols, tabular_pipeline

    own = template if hasattr(template, "get_params") else _on_arrays(template)
    if table.frame is None:
        return [_Front(own)]
    drops = [DropCols(list(table.left_out))] if table.left_out else []
    without = f", without {', '.join(table.left_out)}" if drops else ""
    found = []
    if isinstance(template, Pipeline) or (own is template and not drops):
        found.append(_Front(template, f"{name} is given the columns as they are"))
    if own is template and drops:
        found.append(_Front(make_pipeline(*drops, template), f"{name} is given the columns as they are{without}"))
    try:
        dressed = tabular_pipeline(own)
    except TypeError:  # not quite an estimator of scikit-learn's interface
        dressed = make_pipeline(*(step for _, step in vectoriser().steps), own)
    note = f"{name} is given the columns by skrub's tabular_pipeline{without}, fitted on each training set"
    return [*found, _Front(make_pipeline(*drops, dressed) if drops else dressed, note)]


def _on_arrays(own: Any) -> Any:
    """An object with `fit` and a method that predicts as an estimator of scikit-learn, which gets float32 arrays."""
    from subpop.audit.plain_estimator import PlainEstimator

    return PlainEstimator(own)


def _train(front: _Front, table: Table, options: _Options, size: int) -> bool | None:
    """Train and predict on some rows. False if two seeds differ, although the estimator names no random state."""
    chosen = _sample(table, size)
    data = table.dataset(as_rows=True)
    pool = Pool(np.array(data.x[chosen]), np.array(table.y[chosen]), len(chosen), data.n_classes)
    victim = SklearnVictim(front.estimator, n_jobs=options.n_jobs, rows=options.rows, time_limit=options.limit)
    seeds = [0, 1] if victim.exact and options.limit is not None else [0]
    found = [model.predict_proba(pool.x) for model in victim.fit_many([pool.clean_job()] * len(seeds), seeds)]
    return False if len(found) > 1 and not np.array_equal(found[0], found[1]) else None


def _sample(table: Table, size: int) -> Ints:
    """Row numbers of a few rows of each class, and for each column of one that is missing, in ascending order."""
    order = np.random.default_rng(0).permutation(len(table))
    each = max(1, size // len(table.classes))
    chosen = [order[table.y[order] == code][:each] for code in range(len(table.classes))]
    if table.frame is not None:
        missing = table.frame.isna().to_numpy(dtype=bool)
        chosen += [np.flatnonzero(column)[:3] for column in missing.T]
    return np.unique(np.concatenate(chosen))


# --- identity ---------------------------------------------------------------------------------------------------------


class _Unknown(Exception):
    """Something has no code in a file, or no stable content."""


def identity_of(estimator: object) -> str | None:
    """Hash of the parameters of an estimator and of the code of everything in it; None if a part of it has neither."""
    try:
        return key_of({"estimator": _plain(estimator)})
    except (_Unknown, RecursionError, BadInput):
        return None


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return [type(value).__name__, repr(value)]
    if isinstance(value, np.ndarray | np.generic) and not value.dtype.hasobject:
        return ["array", data_hash(value)]
    if isinstance(value, list | tuple | set | frozenset):
        items = [_plain(each) for each in value]
        return [type(value).__name__, items if isinstance(value, list | tuple) else sorted(map(repr, items))]
    if isinstance(value, Mapping):
        return ["mapping", [[_plain(key), _plain(each)] for key, each in value.items()]]
    if isinstance(value, type | types.FunctionType | types.BuiltinFunctionType | np.ufunc):
        return ["code", *_code(value)]
    if isinstance(value, np.random.RandomState | np.random.Generator):
        return ["random"]  # which the seed of a trial replaces
    if hasattr(value, "get_params"):
        return ["estimator", *_code(type(value)), _plain(value.get_params(deep=False))]
    if not hasattr(value, "__dict__"):
        raise _Unknown
    return ["object", *_code(type(value)), _plain(vars(value))]


def _code(value: Any) -> list[str]:
    """The name of a function or class, and the version of its package or the hash of its file."""
    module = getattr(value, "__module__", None) or ("numpy" if isinstance(value, np.ufunc) else "builtins")
    name = getattr(value, "__qualname__", getattr(value, "__name__", "<none>"))
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    if "<" in name or module == "__main__":
        raise _Unknown
    if file.endswith(".py") and not file.startswith(INSTALLED):
        return [module, name, plugin_hash(Path(file))]
    return [module, name, *_versions(module.partition(".")[0])]


@cache
def _versions(package: str) -> list[str]:
    """The distributions that a package was installed from, with their versions; found once, since the search takes long."""
    names = importlib.metadata.packages_distributions().get(package, ())
    return [f"{name} {importlib.metadata.version(name)}" for name in sorted(set(names))]


def _modules_of(value: Any, depth: int = 0) -> set[str]:
    """Top-level packages of the classes and functions of an estimator and of everything in its parameters."""
    own = value if isinstance(value, types.FunctionType | type) else type(value)
    found = {own.__module__.partition(".")[0]} - {"builtins", "numpy", "scipy"}
    parts: list[Any] = []
    if hasattr(value, "get_params") and not isinstance(value, type):
        parts = list(value.get_params(deep=False).values())
    elif isinstance(value, list | tuple):
        parts = list(value)
    elif isinstance(value, Mapping):
        parts = list(value.values())
    return found.union(*(_modules_of(each, depth + 1) for each in parts)) if depth < 20 else found
