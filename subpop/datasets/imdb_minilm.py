"""IMDB reviews as 384 features of a small language model.

*Source*: the reviews of `subpop.datasets.imdb`, in its order; all-MiniLM-L6-v2 (sentence-transformers): its last hidden states
on the first 128 tokens, line break tags as spaces, averaged over the tokens, not normalised. The file `imdb_minilm_l6.npz` has
keys x (50000, 384), y, split ("train", "test") and name (file names). Texts are added if the reviews themselves are below the
data root too.

*Deviations*: features of another and smaller network than the paper's BERT, which is not trained with its last layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from subpop.datasets import imdb
from subpop.datasets.array_files import decoded_texts, read_arrays
from subpop.datasets.download import data_root, missing_by_hand
from subpop.datasets.embeddings import rows_of
from subpop.types import Array, BadInput, Dataset

BY_HAND = (
    "put imdb_minilm_l6.npz (x: the mean of the last hidden states of all-MiniLM-L6-v2 over the first 128 tokens, y: 0 negative, "
    "1 positive, split and file name of each review)"
)


def load(root: Path | None = None) -> Dataset:
    """Load the reviews as features: x (50000, 384) float32; with texts if the reviews themselves are available too.

    Raises MissingData if the file of features is not there, BadInput for one that does not fit.
    """
    path = found(root or data_root())
    if path is None:
        raise missing_by_hand("imdb_minilm", (root or data_root()) / "embeddings", BY_HAND)
    arrays = read_arrays(path)
    x = rows_of(path, _column(path, arrays, "x"))
    members = _members(path, arrays, len(x))
    reviews = imdb.load(root) if imdb.found(root or data_root()) else None
    same = reviews is not None and reviews.names is not None and reviews.names.tolist() == members
    difference = "" if reviews is None or same else "; the reviews in the data root are different, and their texts are not shown"
    notes = (f"features of the first 128 tokens by all-MiniLM-L6-v2, not by the paper's BERT{difference}",)
    data = imdb.dataset_of("imdb_minilm", members, reviews.texts if reviews and same else None, notes)
    whole = len(x) == len(imdb.FOLDERS) * imdb.PER_FOLDER
    return replace(data, x=x, sizes=(imdb.PER_FOLDER, imdb.PER_FOLDER) if whole else None)


def found(root: Path) -> Path | None:
    """Locate the file of features."""
    path = root / "embeddings" / "imdb_minilm_l6.npz"
    return path if path.is_file() else None


def _members(path: Path, arrays: Mapping[str, Array], n_rows: int) -> list[str]:
    """Return the member name of each row, from label, split and file name; raises BadInput if one is invalid."""
    y, half, name = (_column(path, arrays, key) for key in ("y", "split", "name"))
    if any(values.shape != (n_rows,) for values in (y, half, name)) or y.dtype.kind not in "iu":
        raise BadInput(f"{path}: {n_rows} rows of x need as many labels (whole numbers), splits and names")
    folders = [f"{each}/{('neg', 'pos')[label]}" if label in (0, 1) else "" for each, label in zip(half, y, strict=True)]
    members = [f"{imdb.TOP}/{folder}/{file}" for folder, file in zip(folders, name, strict=True)]
    wrong = [row for row, folder in enumerate(folders) if not (folder and imdb.is_review(members[row]))]
    if wrong:
        row = wrong[0]
        raise BadInput(f"{path}: row {row} is {str(name[row])!r} of split {str(half[row])!r} with label {y[row]}: {BY_HAND}")
    return members


def _column(path: Path, arrays: Mapping[str, Array], key: str) -> NDArray[Any]:
    if key not in arrays:
        raise BadInput(f"{path} lacks the key {key}; it has {', '.join(arrays)}: {BY_HAND}")
    values = arrays[key]
    return decoded_texts(path, key, values) if values.dtype.kind == "S" else values
