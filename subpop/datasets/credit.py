"""German and South German credit: was a loan of the 1970s paid back?

*Sources*: Hofmann, Statlog (German Credit Data), UCI Machine Learning Repository, number 144: `german.data`, 1,000 rows of 21
columns without a header, separated by blanks; the codes A11 to A202 are in its description, the label is 1 good, 2 bad.
Groemping, South German Credit (UPDATE), in the same repository, number 573: a zip archive with `SouthGermanCredit.asc`, the same
rows with German column names in a header, separated by blanks, and whole numbers as codes, of which `codetable.txt` beside it
has the meanings; `kredit` is 1 good, 0 bad. The repository licenses both under CC BY 4.0. The names, codes and counts here (700
good loans of 1,000) are those of these descriptions.

*Not verified*: neither file could be fetched when this was written. No checksum is known, and the loaders were tried on generated
files of this form only.

*Faults*: the code table of `german.data` is wrong in several columns (Groemping, South German Credit Data: Correcting a Widely
Used Data Set, 2019), which the second data set mends. Bad loans were oversampled, three of ten instead of about one of twenty.
The column of personal status and sex puts single men and women who are not single into one level, so that nobody's sex can be
read from it: it is an annotation as it is, and there is none of sex.

Annotations, which FeatureMatch combines: whether a person is older than 25 (`age_above_25`), personal status and sex
(`status_sex`), and whether a person is a foreign worker (`foreign_worker`). y is 1 for a loan that was paid back.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from subpop.datasets.coded_tables import UNVERIFIED, Table, content_of
from subpop.datasets.download import RemoteFile, require_files
from subpop.types import Dataset

LICENCE = "CC BY 4.0"
UCI = "https://archive.ics.uci.edu/"
GERMAN_FILES = (RemoteFile("german.data", UCI + "ml/machine-learning-databases/statlog/german/german.data"),)
SOUTH_GERMAN_FILES = (
    RemoteFile("south+german+credit+update.zip", UCI + "static/public/573/south%2Bgerman%2Bcredit%2Bupdate.zip"),
)
MEMBER = "SouthGermanCredit.asc"
N_ROWS, N_GOOD = 1_000, 700
YOUNG = 25
"""Persons of at most this age are the younger group, as in the literature on this table."""


def _codes(low: int, high: int) -> tuple[str, ...]:
    return tuple(map(str, range(low, high + 1)))


SOUTH_GERMAN = Table(
    "south_german_credit",
    ranges={"laufzeit": (1, 120), "hoehe": (1, 100_000), "alter": (15, 120)},
    levels={
        "laufkont": _codes(1, 4), "moral": _codes(0, 4), "verw": _codes(0, 10), "sparkont": _codes(1, 5), "beszeit": _codes(1, 5),
        "rate": _codes(1, 4), "famges": _codes(1, 4), "buerge": _codes(1, 3), "wohnzeit": _codes(1, 4), "verm": _codes(1, 4),
        "weitkred": _codes(1, 3), "wohn": _codes(1, 3), "bishkred": _codes(1, 4), "beruf": _codes(1, 4), "pers": _codes(1, 2),
        "telef": _codes(1, 2), "gastarb": _codes(1, 2), "kredit": ("0", "1"),
    },
)  # fmt: skip
SOUTH_GERMAN_STATUS = (
    "male, divorced or separated",
    "female, not single, or male, single",
    "male, married or widowed",
    "female, single",
)
HEADER = (
    "status", "duration", "history", "purpose", "amount", "savings", "employment", "rate", "status_sex", "debtors", "residence",
    "property", "age", "plans", "housing", "credits", "job", "liable", "telephone", "foreign_worker", "credit",
)  # fmt: skip
"""Names of the columns of german.data, which has no header."""


def _symbols(attribute: int, last: int, first: int = 1) -> tuple[str, ...]:
    return tuple(f"A{attribute}{level}" for level in range(first, last + 1))


GERMAN = Table(
    "german_credit",
    ranges={"duration": (1, 120), "amount": (1, 100_000), "age": (15, 120)},
    levels={
        "status": _symbols(1, 4), "history": _symbols(3, 4, 0), "purpose": _symbols(4, 10, 0), "savings": _symbols(6, 5),
        "employment": _symbols(7, 5), "rate": _codes(1, 4), "status_sex": _symbols(9, 5), "debtors": _symbols(10, 3),
        "residence": _codes(1, 4), "property": _symbols(12, 4), "plans": _symbols(14, 3), "housing": _symbols(15, 3),
        "credits": _codes(1, 4), "job": _symbols(17, 4), "liable": _codes(1, 2), "telephone": _symbols(19, 2),
        "foreign_worker": _symbols(20, 2), "credit": ("2", "1"),
    },
)  # fmt: skip


def load_south_german(root: Path | None = None) -> Dataset:
    """Load South German credit: x (1000, 55) float32; raises MissingData, or BadInput for a file of another form."""
    [path] = require_files("south_german_credit", SOUTH_GERMAN_FILES, root)
    names = {"age": "alter", "status_sex": "famges", "foreign_worker": "gastarb", "y": "kredit"}
    words = {"status_sex": SOUTH_GERMAN_STATUS, "foreign_worker": ("yes", "no")}
    return _loaded(SOUTH_GERMAN, path, content_of(path, MEMBER), names, words, header=None)


def load_german(root: Path | None = None) -> Dataset:
    """Load German credit: x (1000, 57) float32; raises MissingData, or BadInput for a file of another form."""
    [path] = require_files("german_credit", GERMAN_FILES, root)
    names = {"age": "age", "status_sex": "status_sex", "foreign_worker": "foreign_worker", "y": "credit"}
    words = {"status_sex": GERMAN.levels["status_sex"], "foreign_worker": ("yes", "no")}
    return _loaded(GERMAN, path, path.read_bytes(), names, words, header=HEADER)


def _loaded(
    table: Table,
    path: Path,
    content: bytes,
    names: dict[str, str],
    words: dict[str, tuple[str, ...]],
    header: tuple[str, ...] | None,
) -> Dataset:
    """The data set of a file. names: its columns of age, status and sex, foreign workers and labels."""
    text = table.read(path, content, header=header, separator=r"\s+")
    numbers, codes = table.numbers(path, text), table.codes(path, text)
    y = codes[names["y"]]
    if (len(y), int(y.sum())) != (N_ROWS, N_GOOD):
        raise table.foreign(path, f"{len(y):,} rows, {int(y.sum()):,} of them good", f"{N_ROWS:,} and {N_GOOD}")
    return Dataset(
        name=table.dataset,
        x=table.inputs(numbers, codes, [name for name in table.columns if name != names["y"]]),
        y=y,
        n_classes=2,
        annotations={
            "age_above_25": (numbers[names["age"]] > YOUNG).astype(np.int64),
            "status_sex": codes[names["status_sex"]],
            "foreign_worker": codes[names["foreign_worker"]],
        },
        group_bounds=(10, float("inf")),
        stratified=True,
        words={"y": ("bad", "good"), "age_above_25": ("up to 25", "above 25"), **words},
        notes=(UNVERIFIED,),
    )
