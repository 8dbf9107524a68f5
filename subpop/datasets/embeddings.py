"""A user's own rows in an `.npz` file, named `embeddings:PATH.npz`: embeddings of any network, or any table of numbers.

Keys: `x` (n, d) numbers; `y` (n,) integers or booleans, the classes; and optionally `hashes` (n,), equal for rows of equal
content, which are then put on the same side of a split; `names` (n,) texts; `official_test` (n,) booleans, rows reserved for
testing. Every other array (such as `groups`) is an annotation of n values for FeatureMatch: integers and booleans are used
unchanged, texts are numbered in sorted order, and floating-point values are numbered if there are few distinct ones and binned
at their quartiles otherwise; the notes explain the numbers. Classes are renumbered 0, 1, ... in order. A relative path is
relative to the data root, otherwise to the working directory. For limits of a file see `subpop.datasets.array_files`.

k-means uses one cluster per 90 rows, at most 100, which is about 30 test rows per cluster, based on sizes alone; on 40 principal
components.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np

from subpop.datasets.array_files import decoded_texts, read_arrays
from subpop.datasets.download import MissingData, data_root
from subpop.types import Array, BadInput, Dataset, Floats, Ints

OWN_KEYS = ("x", "y", "hashes", "names", "official_test")
ROWS_PER_CLUSTER = 90
MAX_CLUSTERS = 100
N_COMPONENTS = 40
MOST_LEVELS = 10
"""Floating-point annotations with more distinct values are binned at their quartiles; notes list at most this many levels."""


def load(path: str, root: Path | None = None) -> Dataset:
    """Load a file of rows: x (n, d) float32; raises MissingData if it is not there, BadInput for one that does not fit."""
    file = own_path(path, root, "embeddings")
    arrays = read_arrays(file)
    lacking = [key for key in ("x", "y") if key not in arrays]
    if lacking:
        raise BadInput(f"{file} has keys {', '.join(arrays) or 'none'} and lacks {', '.join(lacking)}; save it with x=..., y=...")
    x = rows_of(file, arrays["x"])
    n = len(x)
    for key, values in arrays.items():
        if values.shape[:1] != (n,) or (key != "x" and values.ndim != 1):
            raise BadInput(f"{file}: {key} has shape {values.shape}; {n} rows of x need shape ({n},)")
    y, classes, notes = class_codes(file, arrays["y"])
    coded = {key: annotation_codes(file, key, values) for key, values in arrays.items() if key not in OWN_KEYS}
    return Dataset(
        name=f"embeddings:{path}",
        x=x,
        y=y,
        n_classes=len(classes),
        annotations={key: codes for key, (codes, _, _) in coded.items()},
        official_test=_booleans(file, arrays.get("official_test")),
        hashes=arrays.get("hashes"),
        n_clusters=n_clusters(n),
        n_components=n_components(n, x.shape[1]),
        notes=(*notes, *(note for _, _, note in coded.values() if note)),
        names=decoded_texts(file, "names", arrays["names"]) if "names" in arrays else None,
        words={"y": classes, **{key: words for key, (_, words, _) in coded.items() if words}},
    )


def own_path(path: str, root: Path | None, what: str) -> Path:
    """Resolve a user's path: below the data root if it exists there, otherwise in the working directory; raises MissingData if
    in neither."""
    below_root, here = (root or data_root()) / Path(path).expanduser(), Path.cwd() / Path(path).expanduser()
    for candidate in (below_root, here):
        if candidate.exists():
            return candidate
    places = dict.fromkeys((str(below_root), str(here)))
    raise MissingData(f"{what}:{path}: {' and '.join(places)} not found; give a path below the data root or an absolute one")


def rows_of(path: Path, x: Array) -> Floats:
    """The rows as float32, (n, d); raises BadInput for another shape, no rows, or NaN and infinite values."""
    if x.ndim != 2 or x.dtype.kind not in "fiub" or 0 in x.shape:
        raise BadInput(
            f"{path}: x is {x.dtype} of shape {x.shape}; it must be an array of numbers, (n, d) with n and d at least 1"
        )
    with np.errstate(over="ignore"):  # values too large for float32 become infinite and raise an error below
        rows = np.ascontiguousarray(x, dtype=np.float32)
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise BadInput(
            f"{path}: {len(bad)} of {len(x)} rows of x contain NaN, infinite or too large values for float32, the first is row "
            f"{bad[0]}; remove or impute them"
        )
    return rows


def class_codes(path: Path, y: Array) -> tuple[Ints, tuple[str, ...], tuple[str, ...]]:
    """Return labels as 0, 1, ..., their meanings, and a note if they were renumbered; raises BadInput if they are no classes."""
    if y.dtype.kind not in "iub":
        raise BadInput(f"{path}: y is {y.dtype}; give whole numbers, one for each class")
    values, codes = np.unique(y, return_inverse=True)
    if len(values) < 2:
        raise BadInput(f"{path}: all labels are {values[0]}; nothing can be learned from one class")
    words = tuple(str(value) for value in values.tolist())
    renumbered = not np.array_equal(values, np.arange(len(values)))
    notes = (f"classes {', '.join(words[:10])}{', ...' if len(words) > 10 else ''} renumbered 0 to {len(words) - 1}",)
    return codes.astype(np.int64), words, notes if renumbered else ()


def annotation_codes(path: Path, key: str, values: Array) -> tuple[Ints, tuple[str, ...], str]:
    """Return an annotation as integers, the meaning of each, and a note; no meanings if the integers are its own values.

    Raises BadInput for values that do not define groups, such as NaN and dates.
    """
    kind = values.dtype.kind
    if kind in "ib" or (kind == "u" and (not len(values) or values.max() <= np.iinfo(np.int64).max)):
        return values.astype(np.int64), (), ""
    if kind == "f" and len(values):
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise BadInput(f"{path}: {key} is {values[bad[0]]} in row {bad[0]}; give that row a value, or save {key} as texts")
        if len(np.unique(values)) > MOST_LEVELS:
            return _quartiles(key, values)
    if kind not in "USuf":
        raise BadInput(f"{path}: {key} is {values.dtype}; annotations are whole numbers, booleans, texts or fractions")
    levels, codes = np.unique(decoded_texts(path, key, values) if kind in "US" else values, return_inverse=True)
    words = tuple(str(level) for level in levels)
    meanings = [f"{code} {word}" for code, word in enumerate(words[:MOST_LEVELS])] + ["..."] * (len(words) > MOST_LEVELS)
    return codes.astype(np.int64), words, f"{key} is numbered: {', '.join(meanings)}"


def _quartiles(key: str, values: Array) -> tuple[Ints, tuple[str, ...], str]:
    """Values binned at their quartiles, which are values that occur."""
    cuts = np.unique(np.quantile(values, (0.25, 0.5, 0.75), method="inverted_cdf"))
    used, codes = np.unique(np.searchsorted(cuts, values, side="right"), return_inverse=True)
    ends = [str(cut) for cut in cuts]
    every = (f"below {ends[0]}", *(f"{low} to {high}" for low, high in pairwise(ends)), f"{ends[-1]} and above")
    words = tuple(every[part] for part in used.tolist())
    levels = ", ".join(f"{code} {word}" for code, word in enumerate(words))
    return codes.astype(np.int64), words, f"{key} is cut at its quartiles: {levels}"


def n_clusters(n_rows: int) -> int:
    """The number of clusters of ClusterMatch, from the number of rows alone."""
    return int(np.clip(n_rows // ROWS_PER_CLUSTER, 2, MAX_CLUSTERS))


def n_components(n_rows: int, n_columns: int) -> int | None:
    """Number of principal components for ClusterMatch; None unless there are more columns and more rows of D_aux than that."""
    return N_COMPONENTS if n_columns > N_COMPONENTS and n_rows // 3 > N_COMPONENTS else None


def _booleans(path: Path, mask: Array | None) -> Array | None:
    if mask is not None and mask.dtype != bool:
        raise BadInput(f"{path}: official_test is {mask.dtype}; it must be boolean, True for test rows")
    return mask
