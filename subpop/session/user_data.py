"""User-supplied data: a `Dataset`, a tuple (features, labels) or (features, labels, groups), or a loader of one, run in a child.

Features are rows of numbers or a pandas frame, which is read as `subpop audit` reads it; then the labels, and the groups, may be
names of its columns. Groups are the annotations that FeatureMatch matches; without them, subpopulations are clusters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from subpop.audit.columns import checked, level_codes, shown
from subpop.audit.table import read_table
from subpop.datasets import OWN_DATA
from subpop.harness.batching import DefenseError
from subpop.harness.child import Message
from subpop.harness.dataset_child import load_in_child
from subpop.harness.plugins import DatasetSpec
from subpop.runtime.output import Listener
from subpop.testing import check_dataset
from subpop.testing.datasets import FEW_ROWS
from subpop.types import Array, BadInput, Dataset
from subpop.types.base import nearest

FEWEST_ROWS_OF_A_CLUSTER = 30
"""The number of clusters of data without annotations is chosen so that the average one has this many rows of D_aux."""
FORMS = "a subpop.Dataset, or (x, y) or (x, y, groups) of rows of numbers or a frame, their labels and their groups"
_VALUES = ("name", "n_classes", "sizes", "balanced", "group_bounds", "n_clusters", "n_components", "notes", "stratified")


def dataset_of(found: Any) -> Dataset:
    """The data set of what somebody gave or what a loader returned.

    Raises
    ------
    BadInput
        If it is no data; the message names what is wrong and what is allowed.
    """
    if isinstance(found, Dataset):
        return found
    if not isinstance(found, tuple) or len(found) not in (2, 3):
        raise BadInput(f"{type(found).__name__} is not a data set; give {FORMS}")
    x, y, groups = (*found, None)[:3]
    if not isinstance(x, pd.DataFrame):
        data = _of_arrays(x, y)
        return data if groups is None else _grouped(data, _columns_of(groups, None, len(data.y)))
    names = [groups] if isinstance(groups, str) else groups
    columns = {} if groups is None else _columns_of(names, x, len(x))
    return _grouped(read_table(x, y).dataset(), columns)


def is_of_loader(name: str) -> bool:
    """Whether the name of a data set is `path.py:function` or `package.module:function`."""
    return ":" in name and name.partition(":")[0] not in OWN_DATA


def checked_dataset(data: Dataset) -> Dataset:
    """The data set; raises BadInput if it breaks its contract."""
    failed = [result for result in check_dataset(data) if not result.passed]
    if failed:
        raise BadInput(f"the data set {data.name!r} cannot be used: {failed[0].message}; see subpop.testing.check_dataset")
    return data


def load_user_data(spec: DatasetSpec, timeout: float = 300.0, listener: Listener | None = None) -> Dataset:
    """The data set of a loader, which runs in a child process, checked. timeout: seconds.

    Raises
    ------
    BadInput
        If the loader fails, takes too long, or returns what is no data.
    """
    return checked_dataset(loaded(spec, timeout, listener))


def loaded(spec: DatasetSpec, timeout: float = 300.0, listener: Listener | None = None) -> Dataset:
    """The same, not checked by its contract."""
    try:
        made = _dataset_from(load_in_child(spec, packed, timeout, listener))
    except DefenseError as error:
        raise BadInput("\n".join(filter(None, [error.reason, error.details.rstrip()]))) from error
    return replace(made, name=spec.name)


# --- between the processes --------------------------------------------------------------------------------------------


def packed(found: Any) -> Message:
    """What a child sends of the data that a loader returned: values for JSON, and arrays of numbers."""
    data = dataset_of(found)
    if data.texts is not None:
        raise BadInput("it returned texts, which a loader of yours cannot supply; return embeddings of them")
    values = {name: getattr(data, name) for name in _VALUES}
    values |= {"group_bounds": list(map(str, data.group_bounds)), "words": dict(data.words), "groups": list(data.annotations)}
    hashes = None if data.hashes is None else np.unique(data.hashes, return_inverse=True)[1]
    arrays = {"x": data.x, "y": data.y, "official_test": data.official_test, "hashes": hashes}
    arrays |= {f"group {i}": codes for i, codes in enumerate(data.annotations.values())}
    return values, {name: np.asarray(array) for name, array in arrays.items() if array is not None}


def _dataset_from(message: Message) -> Dataset:
    """The data set in a message of a child; raises BadInput if `packed` cannot have made the message."""
    values, arrays = message
    try:
        fields = {name: values[name] for name in _VALUES}
        sizes = fields["sizes"]
        fields |= {
            "sizes": None if sizes is None else (int(sizes[0]), int(sizes[1])),
            "group_bounds": (float(fields["group_bounds"][0]), float(fields["group_bounds"][1])),
            "notes": tuple(map(str, fields["notes"])),
            "n_classes": int(fields["n_classes"]),
            "n_clusters": int(fields["n_clusters"]),
            "annotations": {str(name): arrays[f"group {i}"] for i, name in enumerate(values["groups"])},
            "words": {str(name): tuple(map(str, words)) for name, words in values["words"].items()},
        }
        return Dataset(
            x=arrays["x"], y=arrays["y"], official_test=arrays.get("official_test"), hashes=arrays.get("hashes"), **fields
        )
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise BadInput(f"the loader's process did not send a data set ({error}); let the loader return {FORMS}") from error


# --- forms ------------------------------------------------------------------------------------------------------------


def _grouped(data: Dataset, columns: Mapping[str, Any]) -> Dataset:
    """The data set with these columns as its only annotations."""
    coded = {name: level_codes(name, checked(name, column)) for name, column in columns.items()}
    alone = [name for name, (_, words) in coded.items() if len(words) < 2]
    if alone:
        raise BadInput(f"group {shown(alone[0])} has one value in all rows; leave it out")
    words = {"y": data.words["y"], **{name: note for name, (_, note) in coded.items()}}
    annotations, bounds = {name: codes for name, (codes, _) in coded.items()}, (FEW_ROWS, float("inf"))
    return replace(data, annotations=annotations, words=words, group_bounds=bounds)


def _columns_of(groups: Any, frame: pd.DataFrame | None, n_rows: int) -> dict[str, pd.Series[Any]]:
    """The groups of the rows by name: a column each."""
    if isinstance(groups, list | tuple) and groups and all(isinstance(name, str) for name in groups) and frame is not None:
        unknown = [name for name in groups if name not in frame.columns]
        if unknown and len(groups) != n_rows:
            raise BadInput(f"groups: there is no column {unknown[0]!r}; {nearest(unknown[0], map(str, frame.columns))}")
        if not unknown:
            return {str(name): pd.Series(frame[name]) for name in groups}
    named: Any = dict(groups) if isinstance(groups, Mapping | pd.DataFrame) else {"group": groups}
    found = {}
    for name, values in named.items():
        if np.shape(values) != (n_rows,):
            raise BadInput(f"group {shown(name)} has shape {np.shape(values)} for {n_rows} rows; give one value for each row")
        found[str(name)] = pd.Series(np.asarray(values).tolist() if not isinstance(values, pd.Series) else values.to_numpy())
    return found


def _of_arrays(x: Any, y: Any) -> Dataset:
    rows, labels = _numbers(x), np.asarray(y)
    if labels.shape != (len(rows),):
        raise BadInput(f"y has shape {labels.shape} for {len(rows)} rows of x; give one label for each row")
    lacking = np.flatnonzero(pd.isna(labels))
    if len(lacking):
        raise BadInput(f"{len(lacking)} labels are missing, the first in row {lacking[0]}; leave these rows out")
    words, codes = np.unique(labels.astype(str) if labels.dtype == object else labels, return_inverse=True)
    if not 2 <= len(words) <= max(2, len(labels) // 2):
        raise BadInput(
            f"y has {len(words)} different values in {len(labels)} rows; give the class of each row, with two classes or more"
        )
    n_clusters = int(np.clip(len(rows) // 3 // FEWEST_ROWS_OF_A_CLUSTER, 2, 100))
    return Dataset(
        "own data", rows, codes.astype(np.int64), len(words), n_clusters=n_clusters, words={"y": tuple(map(str, words))}
    )


def _numbers(given: Any) -> Array:
    """(n, ...) float32 rows of numbers, or uint8 pictures as they are."""
    x = np.asarray(given)
    if x.dtype == np.uint8 and x.ndim == 4:
        return x
    try:
        found = x.astype(np.float32)
    except (TypeError, ValueError) as error:
        raise BadInput(
            f"x holds values that are not numbers ({error}); give a pandas frame, or encode text and categories as numbers first"
        ) from error
    if found.ndim < 2:
        raise BadInput(f"x has shape {x.shape}; give rows of numbers, of shape (n, d)")
    bad = np.flatnonzero(~np.isfinite(found.reshape(len(found), -1)).all(axis=1))
    if len(bad):
        raise BadInput(
            f"{len(bad)} rows of x have missing or infinite values, the first is row {bad[0]}; fill them in or leave the rows out"
        )
    return found
