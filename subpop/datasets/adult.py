"""UCI Adult: does a person earn more than 50,000 dollars a year?

*Source*: Becker and Kohavi, Adult, UCI Machine Learning Repository (1996), https://doi.org/10.24432/C5XW20, licence CC BY 4.0.
Files: `adult.data` (32,561 rows, md5 5d7c39d7b8804f071cdd1f2a7c460872) and `adult.test` (16,281 rows after a comment line,
labels with a trailing dot, md5 35238206dfdf7f1fe215bbb874adecdc).

57 columns: 0-3 age, capital gain, capital loss, hours per week, unscaled; then one column for each level except the first (in
sorted order) of 4-11 workclass, 12-26 education_num, 27-32 marital_status, 33-46 occupation, 47-51 relationship, 52-55 race, 56
sex. A missing value ("?") is a separate level. fnlwgt, education and native_country are omitted. Annotations: education_num
1..16; race and sex as positions in `LEVELS`.

*Deviations*: none from the released script's table; how its rows were drawn is in `subpop.datasets.split`. A copy is official if
the digest of its rows is `ROWS`; blanks, the comment line and dots after labels do not count. A copy of other rows is used if its
number of rows, columns, ranges, levels and label counts are the published ones; its notes say so.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from subpop.datasets.download import RemoteFile, fetch_command, require_files
from subpop.types import BadInput, Bools, Dataset, Floats, Ints

if TYPE_CHECKING:
    import pandas as pd

URL = "https://archive.ics.uci.edu/ml/machine-learning-databases/adult/"
FILES = (
    RemoteFile("adult.data", URL + "adult.data", "5d7c39d7b8804f071cdd1f2a7c460872", 3_974_305),
    RemoteFile("adult.test", URL + "adult.test", "35238206dfdf7f1fe215bbb874adecdc", 2_003_153),
)
COUNTS = ((32_561, 7_841), (16_281, 3_846))
"""Rows and positives of each file."""

COLUMNS = (
    "age", "workclass", "fnlwgt", "education", "education_num", "marital_status", "occupation", "relationship", "race", "sex",
    "capital_gain", "capital_loss", "hours_per_week", "native_country", "income",
)  # fmt: skip
NUMERIC = ("age", "capital_gain", "capital_loss", "hours_per_week")
RANGES = {
    "age": (17, 90), "fnlwgt": (12_285, 1_490_400), "capital_gain": (0, 99_999), "capital_loss": (0, 4_356),
    "hours_per_week": (1, 99),
}  # fmt: skip
"""Smallest and largest value of each numeric column in the published files."""
ROWS = (
    "b43511ac80486a00e4f35d1c3d76a3cec2c89246510a76a4e455d7e45d4fb4b9",
    "b4fb33eebc4e7132a442ff3696ca87564aa4b27c96b63cd346860e4c190f495f",
)
"""sha256 of each file's canonical rows, see `rows_digest`."""
LEVELS: dict[str, tuple[str, ...]] = {
    "workclass": (
        "?", "Federal-gov", "Local-gov", "Never-worked", "Private", "Self-emp-inc", "Self-emp-not-inc", "State-gov",
        "Without-pay",
    ),
    "education_num": tuple(str(years) for years in range(1, 17)),
    "marital_status": (
        "Divorced", "Married-AF-spouse", "Married-civ-spouse", "Married-spouse-absent", "Never-married", "Separated", "Widowed",
    ),
    "occupation": (
        "?", "Adm-clerical", "Armed-Forces", "Craft-repair", "Exec-managerial", "Farming-fishing", "Handlers-cleaners",
        "Machine-op-inspct", "Other-service", "Priv-house-serv", "Prof-specialty", "Protective-serv", "Sales", "Tech-support",
        "Transport-moving",
    ),
    "relationship": ("Husband", "Not-in-family", "Other-relative", "Own-child", "Unmarried", "Wife"),
    "race": ("Amer-Indian-Eskimo", "Asian-Pac-Islander", "Black", "Other", "White"),
    "sex": ("Female", "Male"),
}  # fmt: skip


def load(root: Path | None = None) -> Dataset:
    """Load Adult: x (48842, 57) float32, the rows of adult.data first; raises MissingData, or BadInput for a foreign file."""
    paths = require_files("adult", FILES, root)
    tables = [_read(path, *counts) for path, counts in zip(paths, COUNTS, strict=True)]
    codes = {name: np.concatenate([_codes(table[name], name) for table in tables]) for name in LEVELS}
    numbers = np.concatenate([table[list(NUMERIC)].to_numpy(dtype=np.float32) for table in tables])
    n_train = COUNTS[0][0]
    return Dataset(
        name="adult",
        x=_one_hot(numbers, codes),
        y=np.concatenate([_labels(table) for table in tables]),
        n_classes=2,
        annotations={"education_num": codes["education_num"] + 1, "race": codes["race"], "sex": codes["sex"]},
        official_test=np.arange(len(numbers)) >= n_train,
        balanced=True,
        group_bounds=(10, 100),
        n_clusters=100,
        notes=_notes(tables),
    )


def _read(path: Path, n_rows: int, n_positives: int) -> pd.DataFrame:
    """Read one file as a table of text, and check its shape, values and label counts."""
    table = _parse(path)
    if len(table.columns) != len(COLUMNS):
        raise _foreign(path, f"{len(table.columns)} columns", f"{len(COLUMNS)} separated by commas")
    table.columns = list(COLUMNS)
    if len(table) and table["age"].iloc[0].strip().lower() == "age":
        raise _foreign(path, "a header row", "data from the first row on")
    if len(table) != n_rows:
        raise _foreign(path, f"{len(table)} rows", f"{n_rows}")
    _check_values(path, table)
    positives = int(_labels(table).sum())
    if positives != n_positives:
        raise _foreign(path, f"{positives} rows labelled >50K", f"{n_positives}")
    return table


def _parse(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        # The first line of adult.test is a comment; "?" and the like must stay text.
        return pd.read_csv(path, header=None, comment="|", skipinitialspace=True, dtype=str, keep_default_na=False)
    except ValueError as error:
        raise _foreign(path, f"something that is not a table ({error})", f"{len(COLUMNS)} columns separated by commas") from error


def _check_values(path: Path, table: pd.DataFrame) -> None:
    allowed = {**LEVELS, "income": ("<=50K", "<=50K.", ">50K", ">50K.")}
    for name, levels in allowed.items():
        _refuse(path, table, name, table[name].isin(levels).to_numpy(dtype=bool), " ".join(levels))
    for name, (low, high) in RANGES.items():
        digits = table[name].str.fullmatch(r"[0-9]{1,7}").to_numpy(dtype=bool)
        values = table[name].where(digits, str(low - 1)).astype(np.int64)
        _refuse(
            path, table, name, digits & values.between(low, high).to_numpy(dtype=bool), f"a whole number from {low} to {high}"
        )


def _refuse(path: Path, table: pd.DataFrame, name: str, right: Bools, expected: str) -> None:
    wrong = np.flatnonzero(~right)
    if len(wrong):
        raise _foreign(path, f"{table[name].iloc[wrong[0]]!r} as {name} of data row {wrong[0] + 1}", expected)


def _foreign(path: Path, found: str, expected: str) -> BadInput:
    return BadInput(
        f"{path} is not the original {path.name}: found {found}, expected {expected}; it is truncated or a re-hosted copy: "
        f"move it away and run: {fetch_command('adult', path.parent.parent)}"
    )


def _labels(table: pd.DataFrame) -> Ints:
    return np.asarray(table["income"].str.rstrip(".") == ">50K", dtype=np.int64)


def _codes(values: pd.Series[str], name: str) -> Ints:
    position = {level: code for code, level in enumerate(LEVELS[name])}
    return np.asarray(values.map(position), dtype=np.int64)


def _one_hot(numbers: Floats, codes: dict[str, Ints]) -> Floats:
    """The numeric columns, then one column for each level except the first of each categorical column."""
    blocks = [numbers]
    for name, levels in LEVELS.items():
        blocks.append((codes[name][:, None] == np.arange(1, len(levels))).astype(np.float32))
    return np.concatenate(blocks, axis=1)


def rows_digest(table: pd.DataFrame) -> str:
    """sha256 of the rows in order: comma-separated fields, numbers without leading zeros, labels without a dot."""
    numbers = {name: table[name].astype(np.int64).astype(str) for name in RANGES}
    plain = table.assign(income=table["income"].str.rstrip("."), **numbers)
    return hashlib.sha256("\n".join(map(",".join, plain.to_numpy().tolist())).encode()).hexdigest()


def _notes(tables: list[pd.DataFrame]) -> tuple[str, ...]:
    other = [file.name for table, file, rows in zip(tables, FILES, ROWS, strict=True) if rows_digest(table) != rows]
    if not other:
        return ("the official rows",)
    return (
        f"{' and '.join(other)}: not the official rows, though their number, ranges, levels and label counts are as published",
    )
