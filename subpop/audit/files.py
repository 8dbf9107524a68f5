"""Reading a user's CSV or parquet file as a frame, with everything that was assumed about it in notes.

CSV: UTF-8 with or without a byte-order mark, UTF-16 with one, otherwise Latin-1; fields separated by the
separator that makes the label a column; a decimal comma where fields are separated by semicolons. `?` and what pandas takes for
missing are missing values. Rows are numbered from 1, the first one below the header.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from subpop.audit.columns import shown
from subpop.types import BadInput
from subpop.types.printable import in_one_line

if TYPE_CHECKING:
    import pandas as pd

MOST_BYTES = 1 << 30
"""Largest file, and largest frame in memory."""
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
HEAD_BYTES = 1 << 16
"""How much of a file is looked at before it is read."""
TABLES = (".csv", ".tsv", ".txt", ".parquet", ".pq")
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
_CUT_BY_POINT = re.compile(r"[+-]?\d+\.\d+")


def read_file(path: Path, label: object) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The frame of a CSV or parquet file, and notes on how it was read.

    Raises
    ------
    BadInput
        For a file that is empty, too large, damaged, or no table.
    """
    size = path.stat().st_size
    if size == 0:
        raise BadInput(f"{path.name} is empty; give a file with a header and rows")
    if size > MOST_BYTES:
        raise BadInput(
            f"{path.name} has {_gigabytes(size)}{_widest(path)}; at most {_gigabytes(MOST_BYTES)} are read: {_SMALLER}"
        )
    frame, notes = _parquet(path) if path.suffix.lower() in (".parquet", ".pq") else _csv(path, label)
    return frame, notes


_SMALLER = "leave out long text columns, or keep a random sample of the rows"


def _gigabytes(size: int) -> str:
    return f"{size / (1 << 30):.1f} GB"


def check_size(frame: pd.DataFrame) -> None:
    """Raise BadInput for a frame that takes more memory than is allowed, with its largest column."""
    sizes = frame.memory_usage(index=False, deep=False)
    if len(frame) * len(frame.columns) < MOST_BYTES // 64:  # then texts are short enough to be looked at
        sizes = frame.memory_usage(index=False, deep=True)
    if int(sizes.sum()) > MOST_BYTES:
        largest = f"column {shown(sizes.idxmax())} has {_gigabytes(int(sizes.max()))}"
        total, most = _gigabytes(int(sizes.sum())), _gigabytes(MOST_BYTES)
        raise BadInput(f"the frame has {total}, of which {largest}; at most {most} are read: {_SMALLER}")


# --- CSV --------------------------------------------------------------------------------------------------------------


def _csv(path: Path, label: object) -> tuple[pd.DataFrame, tuple[str, ...]]:
    import pandas as pd

    encoding, notes = _encoding(path)
    head = _head(path, encoding)
    separator = _separator(head, label)
    names = _fields(head, separator)
    _check_names(path, names)
    if separator != ",":
        notes += (f"{path.name}: fields are separated by {SEPARATORS[separator]}",)
    how: dict[str, Any] = {
        "sep": separator, "encoding": encoding, "index_col": False, "low_memory": False, "skipinitialspace": True,
        "na_values": ["?"], "engine": "c",
    }  # fmt: skip
    if separator == ";" and _has_decimal_comma(head):
        how["decimal"] = ","
        notes += (f"{path.name}: numbers are written with a decimal comma",)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(path, **how)
    except pd.errors.ParserWarning as error:
        raise BadInput(
            f"{path.name} has rows with more fields than the {len(names)} of its header; end no line with a separator, and put "
            'texts that contain one into "quotation marks"'
        ) from error
    except UnicodeError as error:
        mark = encoding.removesuffix("-sig").upper()
        raise BadInput(
            f"{path.name} begins with the mark of {mark} and is not valid ({in_one_line(error)}); save it as UTF-8"
        ) from error
    except (ValueError, OverflowError, MemoryError, csv.Error) as error:
        raise BadInput(
            f"{path.name} cannot be read as a table ({in_one_line(error)}); give every line as many fields as the header has"
        ) from error
    if len(frame) and frame.iloc[:, -1].isna().any():
        _refuse_short_rows(path, encoding, separator, len(names))
    frame.index = pd.RangeIndex(1, len(frame) + 1)
    return frame, notes


def _encoding(path: Path) -> tuple[str, tuple[str, ...]]:
    with path.open("rb") as file:
        head = file.read(4)
        for mark, encoding in _MARKS:
            if head.startswith(mark):
                return encoding, ()
        file.seek(0)
        decoder, is_utf8 = codecs.getincrementaldecoder("utf-8")(), True
        while block := file.read(1 << 22):
            if b"\0" in block:
                raise BadInput(f"{path.name} is not a text file (it contains zero bytes); give a CSV or parquet file")
            try:
                is_utf8 and decoder.decode(block)
            except UnicodeDecodeError:
                is_utf8 = False
        try:
            is_utf8 and decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            is_utf8 = False
    if is_utf8:
        return "utf-8", ()
    return "latin-1", (f"{path.name} is not UTF-8; it is read as Latin-1",)


def _head(path: Path, encoding: str) -> str:
    """The first lines of a file, the last one complete unless it is longer than all that is looked at."""
    with path.open("rb") as file:
        raw = file.read(HEAD_BYTES)
        is_all = not file.read(1)
    text = raw.decode(encoding, errors="replace")
    return text if is_all or "\n" not in text else text[: text.rindex("\n") + 1]


def _fields(head: str, separator: str) -> list[str]:
    """The names of the columns: the first record that is not blank."""
    try:
        records = csv.reader(io.StringIO(head, newline=""), delimiter=separator, skipinitialspace=True)
        return next((record for record in records if record), [])
    except csv.Error:
        return []


def _separator(head: str, label: object) -> str:
    found = {separator: _fields(head, separator) for separator in SEPARATORS}
    named = [separator for separator, names in found.items() if label in names and len(names) > 1]
    return max(named or found, key=lambda separator: len(found[separator]))


def _check_names(path: Path, names: list[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1 and name]
    if twice:
        raise BadInput(f"{path.name} has two columns named {shown(twice[0])}; rename one of them")
    if not names:
        raise BadInput(f"{path.name} has no header; its first line must hold the names of the columns")


def _has_decimal_comma(head: str) -> bool:
    fields = [field.strip() for record in csv.reader(io.StringIO(head, newline=""), delimiter=";") for field in record]
    return any(map(_DECIMAL_COMMA.fullmatch, fields)) and not any(map(_CUT_BY_POINT.fullmatch, fields))


def _refuse_short_rows(path: Path, encoding: str, separator: str, width: int) -> None:
    """Raise BadInput for a row with fewer fields than the header, whose missing ones pandas fills in silently."""
    with path.open(encoding=encoding, newline="") as file:
        try:
            for record in (reader := csv.reader(file, delimiter=separator, skipinitialspace=True)):
                if record and len(record) < width:
                    raise BadInput(
                        f"{path.name}, line {reader.line_num}: {len(record)} fields instead of {width}; the file may be cut "
                        "off there: complete or remove the line"
                    )
        except csv.Error as error:
            raise BadInput(f"{path.name}, line {reader.line_num}: {error}; correct the line") from error


def _widest(path: Path) -> str:
    """`, most of it in column NAME`, judged by the first rows; '' where that cannot be told."""
    if path.suffix.lower() in (".parquet", ".pq"):
        return ""
    head = _head(path, "latin-1")
    separator = _separator(head, None)
    names, sizes = _fields(head, separator), Counter[str]()
    try:
        for record in csv.reader(io.StringIO(head, newline=""), delimiter=separator):
            sizes.update({name: len(field) for name, field in zip(names, record, strict=False)})
    except csv.Error:
        return ""
    total, widest = sum(sizes.values()), sizes.most_common(1)
    return f", most of it in column {shown(widest[0][0])}" if widest and widest[0][1] > total / 2 and len(names) > 1 else ""


# --- parquet ----------------------------------------------------------------------------------------------------------


def _parquet(path: Path) -> tuple[pd.DataFrame, tuple[str, ...]]:
    import pandas as pd

    try:
        import pyarrow.parquet as engine
    except ImportError as error:
        raise BadInput(
            f"{path.name} is a parquet file, and pyarrow, which reads it, is not installed; run "
            "`python -m pip install 'subpop[parquet]'`, or save the table as CSV"
        ) from error
    try:
        about = engine.ParquetFile(path).metadata
        sizes = Counter[str]()
        for group in map(about.row_group, range(about.num_row_groups)):
            for column in map(group.column, range(group.num_columns)):
                sizes[column.path_in_schema] += column.total_uncompressed_size
        if (total := sum(sizes.values())) > MOST_BYTES:
            name, size = sizes.most_common(1)[0]
            raise BadInput(
                f"{path.name} holds {_gigabytes(total)}, of which column {shown(name)} has {_gigabytes(size)}; at most "
                f"{_gigabytes(MOST_BYTES)} are read: {_SMALLER}"
            )
        frame = pd.read_parquet(path, engine="pyarrow")
    except BadInput:
        raise
    except Exception as error:  # damaged files raise errors of many kinds
        raise BadInput(f"{path.name} cannot be read as a parquet file ({in_one_line(error)}); write it again") from error
    if not isinstance(frame.index, pd.RangeIndex):
        frame = frame.reset_index(names=_free_name(frame))
    frame.index = pd.RangeIndex(1, len(frame) + 1)
    return frame, ()


def _free_name(frame: pd.DataFrame) -> list[str]:
    names = [str(name) if name is not None else f"index {i}" for i, name in enumerate(frame.index.names)]
    return [name if name not in frame.columns else f"{name} (index)" for name in names]
