"""Published tables with coded columns: reading the used columns as text, checking every value, and one column per level.

The data sets that use it could not be fetched when their loaders were written. So no checksum is known, every value is compared
with the published codes, and a file of another form is refused by row, column and value.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd

from subpop.datasets.archives import files_in
from subpop.datasets.download import fetch_command
from subpop.types import BadInput, Floats, Ints

UNVERIFIED = "unverified: no checksum of the published file is known, and the loader was not tried on it"


@dataclass(frozen=True)
class Table:
    """Which columns of a file are used. All other columns are dropped while it is read."""

    dataset: str
    """Name of the data set."""
    ranges: Mapping[str, tuple[int, int]]
    """Smallest and largest whole number of each numeric column."""
    levels: Mapping[str, tuple[str, ...]]
    """The published codes of each other column, in order."""

    @property
    def columns(self) -> list[str]:
        return [*self.ranges, *self.levels]

    def read(
        self, path: Path, content: bytes | IO[bytes], *, header: Sequence[str] | None = None, separator: str = ","
    ) -> pd.DataFrame:
        """Return the used columns as text.

        Parameters
        ----------
        path
            The file, for messages.
        content
            Its bytes, or the open file.
        header
            The names of all columns of a file without a header.
        separator
            What separates its columns, a regular expression.

        Returns
        -------
        DataFrame
            One row for each row of the file, of strings without blanks around them; "" where there is no value.

        Raises
        ------
        BadInput
            If the file is no such table or lacks a column.
        """
        try:
            found = pd.read_csv(
                io.BytesIO(content) if isinstance(content, bytes) else content, sep=separator, header=None if header else 0,
                names=list(header) if header else None, usecols=self.columns, dtype=str, keep_default_na=False, index_col=False,
            )  # fmt: skip
        except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
            named = " ".join(str(error).split())
            raise self.foreign(
                path, f"something else ({named})", f"a table with the columns {', '.join(self.columns)}"
            ) from error
        if not len(found):
            raise self.foreign(path, "no row", "one row for each person")
        stripped = {name: found[name].fillna("").astype(str).str.strip() for name in self.columns}
        return pd.DataFrame(stripped)

    def numbers(self, path: Path, table: pd.DataFrame) -> dict[str, Floats]:
        """Return the numeric columns by name, (n,) float32 each; raises BadInput for a value out of its range."""
        values = {}
        for name, (low, high) in self.ranges.items():
            digits = table[name].str.fullmatch(r"-?[0-9]{1,9}(\.0+)?").to_numpy(dtype=bool)
            numbers = table[name].where(digits, str(low - 1)).astype(float).to_numpy()
            self._refuse(path, table[name], (numbers >= low) & (numbers <= high), f"a whole number from {low} to {high}")
            values[name] = numbers.astype(np.float32)
        return values

    def codes(self, path: Path, table: pd.DataFrame) -> dict[str, Ints]:
        """Return the positions of the coded columns in their levels, (n,) int64 each; raises BadInput for an unknown code."""
        found = {}
        for name, levels in self.levels.items():
            positions = pd.Index(levels).get_indexer(pd.Index(table[name]))
            self._refuse(path, table[name], positions >= 0, f"one of {' '.join(level or '(blank)' for level in levels)}")
            found[name] = positions.astype(np.int64)
        return found

    def _refuse(self, path: Path, column: pd.Series[str], right: np.ndarray, expected: str) -> None:
        wrong = np.flatnonzero(~right)
        if len(wrong):
            raise self.foreign(path, f"{column.iloc[wrong[0]]!r} as {column.name} of data row {wrong[0] + 1}", expected)

    def foreign(self, path: Path, found: str, expected: str) -> BadInput:
        """Return the error for a file that is not the published one."""
        command = fetch_command(self.dataset, path.parent.parent)
        return BadInput(
            f"{path} is not the published {path.name}: found {found}, expected {expected}; it is truncated or another copy: move "
            f"it away and run: {command}"
        )

    def inputs(self, numbers: Mapping[str, Floats], codes: Mapping[str, Ints], names: Sequence[str]) -> Floats:
        """Return (n, d) float32: each named number as it is, and for each named code a column per level except the first."""
        blocks = [
            numbers[name][:, None] if name in numbers else (codes[name][:, None] == np.arange(1, len(self.levels[name])))
            for name in names
        ]
        return np.concatenate(blocks, axis=1).astype(np.float32)


def content_of(path: Path, member: str) -> bytes:
    """Return the bytes of a file, or of the only file of that name in a zip archive; raises BadInput if there is none."""
    if path.suffix != ".zip":
        return path.read_bytes()
    inside = files_in(path, lambda name: name.rpartition("/")[2] == member)
    if len(inside) != 1:
        raise BadInput(f"{path} contains {len(inside)} files {member}, and one is expected; fetch the published archive")
    return next(iter(inside.values()))
