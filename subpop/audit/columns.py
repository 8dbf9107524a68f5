"""One column of a user's table: what it holds, whether it can be used, and the groups that its values make.

Rows are named in messages by the index of the frame; frames that `subpop.audit.files` reads number their rows from 1, the first
one below the header.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from subpop.datasets.embeddings import MOST_LEVELS, annotation_codes
from subpop.types import Array, BadInput, Ints
from subpop.types.printable import printable

if TYPE_CHECKING:
    import pandas as pd

MOST_CATEGORIES = 100
"""A text column with more distinct values is not categorical, nor is one with fewer than ten rows per value."""
MOST_WHOLE_LEVELS = 20
"""A column of whole numbers with more distinct values is not categorical."""
MOSTLY, PARTLY = 0.9, 0.5
"""Shares of numbers in a text column from which on the other values are taken for mistakes, or mentioned in a note."""
NULLS = ("", "?", "...", "NA", "N/A", "#N/A", "NaN", "nan", "null", "NULL", "None", "none", "<NA>", "n/a")
"""Texts for missing values, a part of those that skrub reads so."""
MISSING = "(missing)"
_POINT_ZERO = re.compile(r"\.0\b")
_DATE = r"\s*\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}"
_KINDS = {
    "string", "integer", "floating", "boolean", "mixed-integer-float", "decimal", "date", "datetime", "datetime64", "categorical",
    "empty",
}  # fmt: skip
"""Contents of a column of Python objects, as pandas names them, that are of one type."""


def checked(name: str, column: pd.Series[Any]) -> pd.Series[Any]:
    """The column, as numbers, texts, categories, booleans or dates.

    Raises
    ------
    BadInput
        For values of several types, infinite ones, and types that are neither of these.
    """
    import pandas as pd

    if isinstance(column.dtype, pd.ArrowDtype) and column.dtype.kind == "O" and not is_text(column):
        column = column.astype(object)  # dates, lists and the like
    if column.dtype == object:
        column = _of_one_type(name, column)
    if isinstance(column.dtype, pd.SparseDtype):
        column = column.astype(column.dtype.subtype)
    if isinstance(column.dtype, pd.PeriodDtype):
        column = column.dt.to_timestamp()
    if column.dtype.kind == "m":
        column = column.dt.total_seconds()
    if isinstance(column.dtype, pd.IntervalDtype):
        column = column.astype(str).where(column.notna())
    if column.dtype.kind in "cV":
        raise BadInput(f"column {shown(name)} is {column.dtype}; split it into columns of numbers, or leave it out")
    if column.dtype.kind == "f":
        values = column.to_numpy(dtype=np.float64, na_value=np.nan)
        wrong = np.flatnonzero(np.abs(values) > np.finfo(np.float32).max)
        if len(wrong):
            found = f"{values[wrong[0]]:g} in row {column.index[wrong[0]]}"
            raise BadInput(f"column {shown(name)} is {found}; write a number below 3e38 there, or nothing for a missing value")
        column = column.astype(np.float64) if column.dtype == np.longdouble else column
    return column


def _of_one_type(name: str, column: pd.Series[Any]) -> pd.Series[Any]:
    import pandas as pd

    kind = pd.api.types.infer_dtype(column, skipna=True)
    if kind not in _KINDS:
        raise BadInput(_several_types(name, column))
    if kind in ("date", "datetime", "datetime64"):
        try:
            return pd.to_datetime(column)
        except (ValueError, TypeError, OverflowError) as error:
            raise BadInput(f"column {shown(name)} holds dates that pandas cannot use ({error}); write them as texts") from error
    if kind in ("decimal", "empty", "floating", "mixed-integer-float"):
        return column.astype(np.float64)
    if kind == "boolean":
        return column.astype("boolean") if column.isna().any() else column.astype(bool)
    if kind == "integer":
        column = column.infer_objects()
        return column.astype(np.float64) if column.dtype == object else column  # beyond 64 bits
    return column


def _several_types(name: str, column: pd.Series[Any]) -> str:
    present = column[column.notna()]
    kinds = [type(value).__name__ for value in present]
    other = next((i for i, kind in enumerate(kinds) if kind != kinds[0]), None)
    first = f"{_short(present.iloc[0])} ({kinds[0]}) in row {present.index[0]}"
    if other is None:
        return f"column {shown(name)} holds {first}; a column holds numbers, texts, booleans or dates: convert or leave it out"
    second = f"{_short(present.iloc[other])} ({kinds[other]}) in row {present.index[other]}"
    fix = f"make it one type, such as frame[{_short(name)}].astype(str), or leave it out"
    return f"column {shown(name)} mixes types: {first} and {second}; {fix}"


def is_text(column: pd.Series[Any]) -> bool:
    """Whether the values are texts that are not categories."""
    import pandas as pd

    return pd.api.types.is_string_dtype(column.dtype) and not isinstance(column.dtype, pd.CategoricalDtype)


def spoilt_numbers(name: str, column: pd.Series[Any]) -> str:
    """A note on a text column of which a part are numbers; '' for all others.

    Raises
    ------
    BadInput
        If nearly all its values are numbers, so that the others are mistakes.
    """
    import pandas as pd

    if not is_text(column):
        return ""
    present = column[column.notna() & ~column.astype("string").str.strip().isin(NULLS).fillna(True).to_numpy(dtype=bool)]
    numbers = pd.to_numeric(present, errors="coerce").notna().to_numpy()
    if not len(present) or not PARTLY <= numbers.mean() < 1:
        return ""
    wrong = int(np.flatnonzero(~numbers)[0])
    where = f"{_short(present.iloc[wrong])} in row {present.index[wrong]}"
    found = f"column {shown(name)} has {numbers.sum():,} numbers and {(~numbers).sum():,} other values, the first {where}"
    if numbers.mean() >= MOSTLY:
        raise BadInput(f"{found}; correct these values, write nothing for a missing one, or leave the column out")
    return f"{found}: it is read as text"


def is_identifier(column: pd.Series[Any]) -> bool:
    """Whether every row has a value of its own that says nothing but which row it is.

    True for texts without a blank that are no dates, and whole numbers that are consecutive but for gaps as many as rows, or in
    ascending order.
    """
    if column.isna().any() or not column.is_unique or len(column) <= MOST_WHOLE_LEVELS:
        return False
    if column.dtype.kind in "iu":
        span = int(column.max()) - int(column.min())
        return span < 2 * len(column) or bool(column.is_monotonic_increasing)
    if not is_text(column) or column.astype("string").str.strip().str.contains(r"\s").any():
        return False
    return as_dates(column) is column


def as_dates(column: pd.Series[Any]) -> pd.Series[Any]:
    """A column of texts as dates if all of them are; any other as it is."""
    if not is_text(column) or not column.dropna().astype("string").str.match(_DATE).all():
        return column
    from skrub import to_datetime

    found: pd.Series[Any] = to_datetime(column)
    return column if is_text(found) else found


def is_categorical(column: pd.Series[Any]) -> bool:
    """Whether the values make groups as they are: 2 to 100 texts or categories, booleans, or 2 to 20 whole numbers."""
    import pandas as pd

    n_values = column.nunique(dropna=False)
    if isinstance(column.dtype, pd.CategoricalDtype) or is_text(column):
        return 2 <= n_values <= min(MOST_CATEGORIES, max(2, len(column) // 10))
    if pd.api.types.is_bool_dtype(column.dtype):
        return n_values >= 2
    return 2 <= n_values <= MOST_WHOLE_LEVELS and _is_whole(column)


def _is_whole(column: pd.Series[Any]) -> bool:
    import pandas as pd

    if not pd.api.types.is_numeric_dtype(column.dtype):
        return False
    values = column.dropna().to_numpy(dtype=np.float64)
    return bool((values == np.floor(values)).all())


def level_codes(name: str, column: pd.Series[Any]) -> tuple[Ints, tuple[str, ...]]:
    """(n,) int64 number of each row's value in sorted order, and the values as texts; missing ones come last.

    Numbers with more than 10 distinct values that are not categorical are binned at their quartiles, and dates by year, or by
    month or day if they are of one year or month.
    """
    import pandas as pd

    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        column = _by_time(column)
    missing = column.isna().to_numpy(dtype=bool)
    present = column[~missing]
    if pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype):
        own, words = _numbers(name, present.to_numpy(dtype=np.float64), is_categorical(column))
    else:
        levels, own = np.unique(present.astype(str).to_numpy(dtype=object), return_inverse=True)
        words = tuple(map(str, levels))
    codes = np.full(len(column), len(words), dtype=np.int64)
    codes[~missing] = own
    return codes, (*words, MISSING) if missing.any() else words


def _by_time(dates: pd.Series[Any]) -> pd.Series[Any]:
    """The year of each date; if that is the same for all, its month, or else its day."""
    found: pd.Series[Any] = dates.dt.year
    for unit in ("%Y-%m", "%Y-%m-%d"):
        if found.nunique() < 2:
            found = dates.dt.strftime(unit)
    return found


def _numbers(name: str, values: Array, as_they_are: bool) -> tuple[Array, tuple[str, ...]]:
    levels, codes = np.unique(values, return_inverse=True)
    if as_they_are or len(levels) <= MOST_LEVELS:
        return codes, tuple(f"{level:g}" if abs(level) < 1e6 else str(level) for level in levels.tolist())
    binned, words, _ = annotation_codes(Path(name), name, values)
    is_whole = bool((levels == np.floor(levels)).all())
    return binned, tuple(_POINT_ZERO.sub("", word) for word in words) if is_whole else words


def shown(value: object) -> str:
    """A name or value in a message: on one line, and not longer than a line."""
    said = " ".join(printable(value).split())
    return said if len(said) <= 60 else f"{said[:57]}..."


def _short(value: object) -> str:
    return shown(repr(value))
