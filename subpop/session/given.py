"""What a caller of `subpop.measure` gives for the parts of a cell: names as suites write them, or Python objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from subpop.attacks import ATTACKS
from subpop.datasets import DATASETS
from subpop.defenses import DEFENSES, is_built_in
from subpop.experiments.context import Context
from subpop.harness.callables import spec_of
from subpop.harness.plugins import AttackSpec, DefenseSpec, Spec, parse_plugin
from subpop.testing import check_dataset
from subpop.types import BadInput, Cell, Dataset, Victim
from subpop.types.printable import printable
from subpop.victims import VICTIMS, SklearnVictim
from subpop.victims.identity import identity_of

LONGEST_NAME = 60
FEWEST_ROWS_OF_A_CLUSTER = 30
"""The number of clusters of data without annotations is chosen so that the average one has this many rows of D_aux."""


@dataclass
class Given:
    """The objects that were given, by the names that their cells have."""

    data: dict[str, Dataset] = field(default_factory=dict)
    victims: dict[str, tuple[Victim, str | None]] = field(default_factory=dict)
    defenses: dict[str, DefenseSpec] = field(default_factory=dict)
    attacks: dict[str, AttackSpec] = field(default_factory=dict)

    def dataset(self, given: Any) -> str:
        """The name of a data set; `given`: a name, a Dataset or a pair (x, y)."""
        if isinstance(given, str):
            return given
        made = given if isinstance(given, Dataset) else _dataset_of(given)
        failed = [result for result in check_dataset(made) if not result.passed]
        if failed:
            raise BadInput(f"the data set {made.name!r} cannot be used: {failed[0].message}; see subpop.testing.check_dataset")
        name = _new(made.name, {*DATASETS, *self.data})
        self.data[name] = replace(made, name=name)
        return name

    def victim(self, given: Any) -> str:
        """The name of a victim; `given`: a name, a scikit-learn estimator, its class, a function that makes one, or a Victim."""
        if isinstance(given, str):
            return given
        made, identity = (given, None) if hasattr(given, "fit_many") else _estimator(given)
        text = getattr(given, "__name__", None) or (type(given).__name__ if hasattr(given, "fit_many") else str(given))
        name = _new(text, {*VICTIMS, *self.victims})
        self.victims[name] = made, identity
        return name

    def defense(self, given: Any) -> str:
        """The name of a defense; `given`: a name, `path.py:function`, a function or None."""
        if given is None or (isinstance(given, str) and is_built_in(given)):
            return given or "none"
        return _plugin(DefenseSpec, given, DEFENSES, self.defenses)

    def attack(self, given: Any) -> str:
        """The name of an attack; `given`: a name, `path.py:function` or a function."""
        return _plugin(AttackSpec, given, ATTACKS, self.attacks)

    def supply(self, context: Context, cells: Iterable[Cell]) -> None:
        """Let the context have the data and the victims under the names in the cells."""
        for cell in cells:
            if cell.dataset in self.data:
                context.supply(cell, self.data[cell.dataset])
        for learner, cell in {cell.learner: cell for cell in cells}.items():
            if learner.name in self.victims:
                context.supply_victim(cell, *self.victims[learner.name])


def _new(text: str, known: Iterable[str]) -> str:
    """A name that is not known yet, and that a cell can have."""
    plain = " ".join(printable(text).replace(";", ",").split()) or "own"
    name = plain if len(plain) <= LONGEST_NAME else plain[: LONGEST_NAME - 1] + "…"
    taken, number, found = set(known), 2, name
    while found in taken or is_built_in(found):
        found, number = f"{name} {number}", number + 1
    return found


def _plugin(kind: type[Spec], given: Any, registered: Mapping[str, object], own: dict[str, Spec]) -> str:
    """The name of a plug-in that is given as text or as a function; it is added to `own`."""
    noun = kind.role.noun
    if isinstance(given, str):
        if ":" not in given:
            return given
        spec = parse_plugin(kind, given, Path.cwd(), option=f"{noun}=")
    elif not callable(given):
        raise BadInput(f"{noun}={given!r} is {type(given).__name__}; give a name, path.py:function or a function")
    else:
        built_in = next((name for name, each in registered.items() if each is given), None)
        if built_in is not None:
            return built_in
        spec = spec_of(kind, given)
    same = next((name for name, each in own.items() if replace(each, name=spec.name) == spec), None)
    if same is not None:
        return same
    name = _new(spec.name, {*registered, *own, "none"})
    own[name] = replace(spec, name=name)
    return name


def _estimator(given: Any) -> tuple[Victim, str | None]:
    victim = SklearnVictim(given)
    return victim, identity_of(victim.template)


def _dataset_of(given: Any) -> Dataset:
    """The data set of a pair (x, y)."""
    if not isinstance(given, tuple) or len(given) != 2:
        raise BadInput(
            f"dataset={type(given).__name__} is no data; give the name of a data set, a subpop.Dataset, or a pair (x, y) of rows "
            "of numbers and their labels"
        )
    x, y = _numbers(given[0]), np.asarray(given[1])
    if y.shape != (len(x),):
        raise BadInput(f"y has shape {y.shape} for {len(x)} rows of x; give one label for each row")
    lacking = np.flatnonzero(pd.isna(y))
    if len(lacking):
        raise BadInput(f"{len(lacking)} labels are missing, the first in row {lacking[0]}; leave these rows out")
    words, codes = np.unique(y.astype(str) if y.dtype == object else y, return_inverse=True)
    if not 2 <= len(words) <= max(2, len(y) // 2):
        raise BadInput(
            f"y has {len(words)} different values in {len(y)} rows; give the class of each row, with two classes or more"
        )
    n_clusters = int(np.clip(len(x) // 3 // FEWEST_ROWS_OF_A_CLUSTER, 2, 100))
    labels = {"y": tuple(map(str, words))}
    return Dataset("own data", x, codes.astype(np.int64), len(words), n_clusters=n_clusters, words=labels)


def _numbers(given: Any) -> np.ndarray[Any, Any]:
    """(n, ...) float32 rows of numbers, or uint8 pictures as they are."""
    x = np.asarray(given)
    if x.dtype == np.uint8 and x.ndim == 4:
        return x
    try:
        found = x.astype(np.float32)
    except (TypeError, ValueError) as error:
        raise BadInput(f"x holds values that are no numbers ({error}); encode text and categories as numbers first") from error
    if found.ndim < 2:
        raise BadInput(f"x has shape {x.shape}; give rows of numbers, of shape (n, d)")
    bad = np.flatnonzero(~np.isfinite(found.reshape(len(found), -1)).all(axis=1))
    if len(bad):
        raise BadInput(
            f"{len(bad)} rows of x have missing or infinite values, the first is row {bad[0]}; fill them in or leave the rows out"
        )
    return found
