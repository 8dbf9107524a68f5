"""A user's own data as one table: a CSV or parquet file, a frame, arrays, embeddings in an `.npz` file, or a folder of pictures.

Frames are vectorised by skrub's `tabular_pipeline` for a linear model: categories become one-hot columns, long texts embeddings,
dates numbers; missing values are imputed and all columns scaled. It is fitted once, on all rows and without labels. Arrays and
embeddings are used as they are. A victim of the user's own receives the rows of the frame instead, see `Table.dataset`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from subpop.audit.columns import checked, is_categorical, is_identifier, level_codes, shown, spoilt_numbers
from subpop.audit.files import TABLES, check_size, read_file
from subpop.datasets import embeddings, image_folder
from subpop.datasets.embeddings import n_clusters, n_components
from subpop.runtime.fingerprint import data_hash
from subpop.types import Array, BadInput, Bools, Dataset, Floats, Ints
from subpop.types.base import nearest
from subpop.types.printable import in_one_line, printable
from subpop.victims.sklearn_parameters import prepare

if TYPE_CHECKING:
    import pandas as pd

MIN_ROWS = 30
"""Fewer rows cannot be divided into thirds of ten."""
MIN_CLASS_ROWS = 5
"""A class with fewer rows would be missing in one of five folds."""
MOST_CLASSES = 100
FEW_COPIES = 0.1
"""Share of rows that repeat another row up to which these count as one record, which is kept on one side of a split."""


@dataclass(frozen=True, eq=False)
class Table:
    """Labelled rows of a user.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from subpop.audit.table import read_table
    >>> rng = np.random.default_rng(0)
    >>> frame = pd.DataFrame({"age": rng.normal(40, 9, 60), "city": rng.choice(["Bern", "Oslo"], 60), "paid": ["yes", "no"] * 30})
    >>> table = read_table(frame, "paid")
    >>> table.x.shape, table.classes, list(table.annotations)
    ((60, 2), ('no', 'yes'), ['city'])
    """

    name: str
    """The file or folder, or `frame` or `arrays`."""
    x: Array
    """(n, d) float32 columns, or (n, 3, s, s) uint8 pictures: what the default victim is trained on."""
    y: Ints
    """(n,) int64 positions in `classes`."""
    classes: tuple[str, ...]
    """The labels in sorted order."""
    frame: pd.DataFrame | None = None
    """The columns without the label, n rows; None for arrays and pictures."""
    label: str = "y"
    """The name of the label."""
    left_out: tuple[str, ...] = ()
    """Columns of the frame that `x` does not use: identifiers, and those with one value."""
    annotations: Mapping[str, Ints] = field(default_factory=dict)
    """(n,) int64 codes by name: the categorical columns of a frame, the annotations of an npz file."""
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The meaning of the codes of each annotation; one without an entry is its own meaning."""
    official_test: Bools | None = None
    """(n,) rows that the source reserves for testing; None if it reserves none."""
    hashes: Array | None = None
    """(n,) equal for rows that are kept on the same side of a split; None if each row stands for itself."""
    notes: tuple[str, ...] = ()
    """What was assumed, left out or found, each a sentence without its full stop."""

    def __len__(self) -> int:
        return len(self.y)

    @cached_property
    def row_hashes(self) -> Ints:
        """(n,) int64 >= 0, a number for each row that depends on its features alone; equal for rows of equal features."""
        if self.frame is None:
            flat = np.ascontiguousarray(self.x.reshape(len(self), -1))
            return np.array([int(data_hash(row)[:15], 16) for row in flat], dtype=np.int64)
        return hashes_of(self.frame)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything in the table that a result may depend on."""
        names = [] if self.frame is None else [f"{name}\0{kind}" for name, kind in self.frame.dtypes.astype(str).items()]
        said = "\0\0".join([self.label, *self.classes, *names]).encode("utf-8", "surrogatepass")
        return data_hash(self.row_hashes, self.x, self.y, np.frombuffer(said, np.uint8))

    def dataset(self, as_rows: bool = False) -> Dataset:
        """The table as a data set of the benchmark.

        Parameters
        ----------
        as_rows
            Whether `x` contains `row_hashes`, (n, 1) int64, for a victim that looks the rows of the frame up by them; False for
            the vectorised columns. Without a frame, both are the same.

        Returns
        -------
        Dataset
            With the categorical columns as annotations. Rows of equal features have equal hashes.
        """
        x = self.row_hashes[:, None] if as_rows and self.frame is not None else self.x
        return Dataset(
            name=self.name,
            x=x,
            y=self.y,
            n_classes=len(self.classes),
            annotations=self.annotations,
            official_test=self.official_test,
            hashes=self.hashes,
            n_clusters=n_clusters(len(self)),
            n_components=n_components(len(self), self.x[0].size),
            notes=self.notes,
            words={"y": self.classes, **self.words},
        )


def read_table(source: object, label: object = None, *, drop: Sequence[str] = ()) -> Table:
    """Read a user's data.

    Parameters
    ----------
    source
        The path of a CSV or parquet file, of an `.npz` file (see `subpop.datasets.embeddings`) or of a folder of pictures (see
        `subpop.datasets.image_folder`); a pandas frame; or an array of rows.
    label
        The name of the label's column; or, for frames and arrays, (n,) labels of any type. None for npz files and folders,
        which have their own.
    drop
        Columns to leave out.

    Returns
    -------
    Table
        With the classes in sorted order.

    Raises
    ------
    BadInput
        For data that cannot be audited; the message names the column, the row, the value and the fix.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from subpop.audit.table import read_table
    >>> table = read_table(*load_wine(return_X_y=True))
    >>> len(table), table.classes, table.frame is None
    (178, ('0', '1', '2'), True)
    """
    if isinstance(source, str | os.PathLike):
        return _of_path(Path(source).expanduser(), label, drop)
    frame = _as_frame(source)
    if frame is not None:
        return _of_frame("frame", frame, label, drop)
    return _of_arrays(source, label)


# --- sources ----------------------------------------------------------------------------------------------------------


def _of_path(path: Path, label: object, drop: Sequence[str]) -> Table:
    ending = path.suffix.lower()
    if not os.path.exists(path):
        raise BadInput(
            f"there is no {shown(path)}; give the path of a {', '.join(TABLES)} or .npz file, or of a folder of pictures"
        )
    if path.is_dir() or ending == ".npz":
        if label not in (None, "y"):
            raise BadInput(f"label={label!r} cannot be chosen for {path.name}; {_own_label(path)}: leave the label out")
        reader = image_folder if path.is_dir() else embeddings
        return _of_dataset(path.name, reader.load(str(path.resolve())))
    if ending not in TABLES:
        raise BadInput(
            f"{path.name} ends in {ending or 'nothing'}; give a {', '.join(TABLES)} or .npz file, or a folder of pictures"
        )
    try:
        frame, notes = read_file(path, label)
    except OSError as error:
        raise BadInput(f"{shown(path)} cannot be read ({error.strerror}); give a file that you may read") from error
    if label is not None and not isinstance(label, str):
        raise BadInput(f"the label of {path.name} is {type(label).__name__}; give the name of its column")
    return _of_frame(path.name, frame, label, drop, notes)


def _own_label(path: Path) -> str:
    return "the folders of its classes are its labels" if path.is_dir() else "an .npz file has its labels under the key y"


def _of_dataset(name: str, data: Dataset) -> Table:
    names = [key for key, codes in data.annotations.items() if len(np.unique(codes)) == len(codes)]
    words = {key: said for key, said in data.words.items() if key not in ("y", *names)}
    notes = [said for said in data.notes if not said.startswith(tuple(f"{key} is numbered" for key in names))]
    notes += [f"{key} has a different value in every row: it makes no groups" for key in names]
    classes = data.words.get("y") or tuple(map(str, range(data.n_classes)))
    _check_classes("y", data.y, classes, None)
    return Table(
        name, data.x, data.y, classes, annotations={key: data.annotations[key] for key in data.annotations if key not in names},
        words=words, official_test=data.official_test, hashes=data.hashes, notes=tuple(notes),
    )  # fmt: skip


def _as_frame(source: object) -> pd.DataFrame | None:
    import pandas as pd

    if isinstance(source, pd.Series):
        return source.to_frame()
    if isinstance(source, pd.DataFrame):
        return source
    convert = getattr(source, "to_pandas", None)  # a frame of polars or pyarrow
    made = convert() if callable(convert) else None
    return made if isinstance(made, pd.DataFrame) else None


def _of_arrays(source: object, label: object) -> Table:
    if isinstance(source, tuple) and label is None and len(source) == 2:
        source, label = source
    if hasattr(source, "toarray"):
        raise BadInput(f"the rows are a sparse {type(source).__name__}; give {type(source).__name__}.toarray(), or fewer columns")
    try:
        x = np.asarray(source)
    except (ValueError, TypeError) as error:
        raise BadInput(f"the rows are not an array ({in_one_line(error)}); give (n, d) numbers or a pandas frame") from error
    if x.ndim == 4 and x.dtype == np.uint8:
        rows: Array = x
    elif x.ndim != 2 or 0 in x.shape:
        raise BadInput(
            f"the rows are {x.dtype} of shape {x.shape}; give (n, d) numbers or a frame, or (n, 3, s, s) uint8 pictures"
        )
    elif x.dtype.kind not in "fiub" or not np.isfinite(x).all():
        import pandas as pd

        names = [f"column {i}" for i in range(x.shape[1])]
        return _of_frame("frame", pd.DataFrame(x, columns=names).infer_objects(), label, ())
    else:
        rows = embeddings.rows_of(Path("the array"), x)
    if label is None or isinstance(label, str):
        raise BadInput("an array of rows needs an array of labels; give both, x and y")
    y, classes, notes = _labels("y", label, len(rows))
    return Table("arrays", rows, y, classes, notes=notes)


# --- frames -----------------------------------------------------------------------------------------------------------


def _of_frame(name: str, frame: pd.DataFrame, label: object, drop: Sequence[str], notes: tuple[str, ...] = ()) -> Table:
    import pandas as pd

    frame = _named_columns(frame)
    if frame.empty:
        raise BadInput(f"{name} has {len(frame)} rows and {len(frame.columns)} columns; give at least {MIN_ROWS} rows")
    if label is None:
        raise BadInput(f"the label of {name} is not named; name one of its columns {_listed(frame.columns)}")
    labels: Any
    label = str(label) if np.ndim(label) == 0 else label  # type: ignore[arg-type]
    if isinstance(label, str):
        if label not in frame.columns:
            others = "" if len(frame.columns) > 1 else "; is this the separator of the file?"
            raise BadInput(f"{name} has no column {label!r}; {nearest(label, map(shown, frame.columns))}{others}")
        label_name, labels = label, frame[label]
        frame = frame.drop(columns=label)
    else:
        label_name = str(getattr(label, "name", None) or "y")
        labels = label
    unknown = [each for each in drop if each not in frame.columns]
    if unknown:
        raise BadInput(f"{name} has no column {unknown[0]!r} to leave out; {nearest(unknown[0], map(shown, frame.columns))}")
    frame = frame.drop(columns=list(drop))
    check_size(frame)
    y, classes, label_notes = _labels(label_name, labels, len(frame), frame.index)
    columns = [_column(key, frame[key]) for key in frame.columns]
    frame = pd.DataFrame({each.name: each.values for each in columns}, index=frame.index)
    left_out = tuple(each.name for each in columns if each.left_out)
    column_notes = tuple(each.note for each in columns if each.note)
    if len(left_out) == len(columns):
        found = "; ".join(column_notes) or "the label is its only column"
        raise BadInput(f"{name} has no column to learn from: {found}; add features")
    coded = {each.name: each.codes for each in columns if each.codes is not None}
    hashes, copy_notes = _copies(hashes_of(frame), y)
    x, x_notes = _vectorised(name, frame.drop(columns=list(left_out)))
    return Table(
        name=name,
        x=x,
        y=y,
        classes=classes,
        frame=frame,
        label=label_name,
        left_out=left_out,
        annotations={key: codes for key, (codes, _) in coded.items()},
        words={key: said for key, (_, said) in coded.items()},
        hashes=hashes,
        notes=(*notes, *label_notes, *column_notes, *copy_notes, *x_notes),
    )


def _listed(names: Any) -> str:
    return ", ".join(map(shown, names[:20])) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def _named_columns(frame: pd.DataFrame) -> pd.DataFrame:
    names = [printable(" ".join(map(str, name)) if isinstance(name, tuple) else name) for name in frame.columns]
    twice = [each for each in names if names.count(each) > 1] if len(set(names)) < len(names) else []
    if twice:
        raise BadInput(f"two columns are named {shown(twice[0])}; rename one of them")
    return frame.set_axis(names, axis=1)


@dataclass(frozen=True)
class _Column:
    """A checked column, whether it says nothing, its codes and their meaning if it is categorical, and a note or ''."""

    name: str
    values: pd.Series[Any]
    left_out: bool = False
    codes: tuple[Ints, tuple[str, ...]] | None = None
    note: str = ""


def _column(name: str, column: pd.Series[Any]) -> _Column:
    try:
        column = checked(name, column)
        note = spoilt_numbers(name, column)
        if column.nunique(dropna=False) < 2:
            value = "missing" if column.isna().all() else shown(repr(column.iloc[0]))
            return _Column(name, column, True, note=f"column {shown(name)} is {value} in all rows: it is left out")
        if is_identifier(column):
            reason = f"column {shown(name)} has a different value in every row: it is taken for an identifier and left out"
            return _Column(name, column, True, note=reason)
        hashes_of(column.to_frame())
        return _Column(name, column, codes=level_codes(name, column) if is_categorical(column) else None, note=note)
    except BadInput:
        raise
    except Exception as error:  # of pandas, for types that it does not fully support
        raise BadInput(
            f"column {shown(name)} of {column.dtype} cannot be used ({in_one_line(error)}); convert it to numbers or texts, or "
            "leave it out"
        ) from error


def hashes_of(frame: pd.DataFrame) -> Ints:
    """(n,) int64 >= 0 hashes of the rows of a frame by content."""
    import pandas as pd

    return np.asarray(pd.util.hash_pandas_object(frame, index=False).to_numpy() >> np.uint64(1), dtype=np.int64)


def _copies(hashes: Ints, y: Ints) -> tuple[Ints | None, tuple[str, ...]]:
    """The hashes if some rows are copies of others and are to stay together, and a note on copies."""
    _, first, group = np.unique(hashes, return_index=True, return_inverse=True)
    n_copies = len(hashes) - len(first)
    if not n_copies:
        return None, ()
    other = int((y != y[first[group]]).sum())
    found = f"{n_copies:,} rows repeat the features of an earlier row, {other:,} of them with another label"
    if n_copies > FEW_COPIES * len(hashes):
        return None, (f"{found}: so many are taken for rows that are alike by chance, and are divided like all others",)
    return hashes, (f"{found}: copies are kept on the same side of every split",)


def vectoriser() -> Any:
    """The unfitted steps that turn a frame into numbers for a linear model."""
    from sklearn.linear_model import LogisticRegression
    from skrub import tabular_pipeline

    return prepare(tabular_pipeline(LogisticRegression())[:-1], 0, ())


def _vectorised(name: str, frame: pd.DataFrame) -> tuple[Floats, tuple[str, ...]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            made = np.asarray(vectoriser().fit_transform(frame), dtype=np.float32)
        except Exception as error:  # of any column
            raise BadInput(
                f"skrub cannot turn the columns of {name} into numbers ({in_one_line(error)}); convert or leave out the column "
                "that it names"
            ) from error
    if not made.shape[1] or not np.isfinite(made).all():
        raise BadInput(f"skrub turns the columns of {name} into {made.shape[1]} columns, not all of them finite; convert them")
    note = (
        f"the {len(frame.columns)} columns are turned into {made.shape[1]} numbers by skrub's tabular_pipeline for a linear "
        "model, fitted once on all rows, without labels"
    )
    return np.ascontiguousarray(made), (note,)


# --- labels -----------------------------------------------------------------------------------------------------------


def _labels(name: str, labels: Any, n_rows: int, index: Any = None) -> tuple[Ints, tuple[str, ...], tuple[str, ...]]:
    """(n,) int64 positions of labels in the sorted classes, the classes as texts, and notes."""
    import pandas as pd

    name = shown(name)
    try:
        if not isinstance(labels, pd.Series) and np.ndim(labels) == 2 and np.shape(labels)[1] == 1:
            labels = np.ravel(labels)
        column = pd.Series(labels if isinstance(labels, list | tuple) else np.asarray(labels).tolist())
    except (ValueError, TypeError) as error:
        raise BadInput(f"the labels are not a column ({in_one_line(error)}); give one label per row") from error
    if np.ndim(labels) != 1 or len(column) != n_rows:
        raise BadInput(f"the labels have shape {np.shape(labels)}; {n_rows} rows need shape ({n_rows},)")
    rows = pd.RangeIndex(n_rows) if index is None else index
    missing = np.flatnonzero(column.isna().to_numpy(dtype=bool))
    if len(missing):
        raise BadInput(
            f"label {name} is missing in {len(missing):,} rows, the first is row {rows[missing[0]]} (in a file: nothing, ?, "
            "NA, N/A, NaN, null or None); leave these rows out, or give them a label"
        )
    if n_rows < MIN_ROWS:
        raise BadInput(f"there are {n_rows} rows; at least {MIN_ROWS} are needed, a third of them for testing: add rows")
    column.index = rows
    column = checked(name, column)
    if column.dtype.kind not in "fiub":
        column = column.astype(str)
    values, codes = np.unique(column.to_numpy(), return_inverse=True)
    words = tuple(_word(value) for value in values.tolist())
    if len(words) > MOST_CLASSES:
        found = f"{len(words):,} values, from {shown(words[0])} to {shown(words[-1])}"
        raise BadInput(
            f"label {name} has {found}; at most {MOST_CLASSES} classes can be audited: name another column, or cut this one into "
            f"classes first, such as pandas.qcut(frame[{name!r}], 4)"
        )
    y = codes.astype(np.int64)
    _check_classes(name, y, words, rows)
    return y, words, _alike(name, words)


def _word(value: object) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _check_classes(name: str, y: Ints, classes: Sequence[str], rows: Any) -> None:
    if len(classes) < 2:
        raise BadInput(f"label {name} is {shown(classes[0])} in all {len(y):,} rows; nothing can be learned from one class")
    counts = np.bincount(y, minlength=len(classes))
    rare = int(counts.argmin())
    if counts[rare] < MIN_CLASS_ROWS:
        count, first = ("1 row", ":") if counts[rare] == 1 else (f"{counts[rare]} rows", ", the first is")
        where = "" if rows is None or not counts[rare] else f"{first} row {rows[int(np.flatnonzero(y == rare)[0])]}"
        raise BadInput(
            f"class {shown(classes[rare])} of label {name} has {count}{where}; a class needs at least "
            f"{MIN_CLASS_ROWS}: correct these labels, leave the rows out, or merge classes"
        )
    if len(y) < MIN_ROWS:
        raise BadInput(f"there are {len(y)} rows; at least {MIN_ROWS} are needed, a third of them for testing: add rows")


def _alike(name: str, classes: Sequence[str]) -> tuple[str, ...]:
    """A note on classes whose names differ in capitals, blanks and full stops only."""
    seen: dict[str, str] = {}
    for each in classes:
        plain = each.strip().rstrip(".").casefold()
        if plain in seen and not plain.replace(".", "").isdigit():
            both = f"{shown(repr(seen[plain]))} and {shown(repr(each))}"
            return (f"classes {both} of label {name} count as two, although they are spelt almost alike",)
        seen.setdefault(plain, each)
    return ()
