"""ACS income: does a person earn more than 50,000 dollars a year? The successor of Adult, from the American Community Survey.

*Source*: US Census Bureau, American Community Survey, Public Use Microdata Sample 2018, 1-year, persons of California:
`csv_pca.zip` with `psam_p06.csv`, a public work of the United States; its terms forbid to identify persons. The task is ACSIncome
of the package folktables (Ding, Hardt, Miller and Schmidt, Retiring Adult: New Datasets for Fair Machine Learning, 2021), whose
source code has the addresses, the columns and the filter: age above 16, income above 100 dollars, hours per week above 0 and a
person weight of at least 1. The codes are those of the survey's data dictionary of 2018. Another state's archive of 2018, such as
`csv_pvt.zip`, may be put into the folder instead.

*Not verified*: the file could not be fetched when this was written. No checksum is known, and the loader was tried on generated
files of this form only.

*Deviations*: occupation (OCCP) and place of birth (POBP), with hundreds of codes each, are left out; the other categories are one
column per level instead of numbers. *Faults*: the survey assigns race and sex in a few categories; incomes are what people said,
rounded and capped at the top; the threshold of 50,000 dollars makes results depend on where it lies; person weights are not used.

Annotations: sex (SEX), race (RAC1P) and schooling (SCHL), as positions in `TABLE.levels`.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd

from subpop.datasets.coded_tables import UNVERIFIED, Table
from subpop.datasets.download import MissingData, RemoteFile, data_root, fetch_command
from subpop.types import BadInput, Dataset

LICENCE = "public work of the US Census Bureau; do not identify persons"
FOLDER = "https://www2.census.gov/programs-surveys/acs/data/pums/2018/1-Year/"
FILES = (RemoteFile("csv_pca.zip", FOLDER + "csv_pca.zip"),)
THRESHOLD = 50_000
NAMES = ("AGEP", "WKHP", "COW", "SCHL", "MAR", "RELP", "SEX", "RAC1P")
"""The columns that a victim sees."""


def _codes(low: int, high: int) -> tuple[str, ...]:
    return tuple(map(str, range(low, high + 1)))


TABLE = Table(
    "acs_income",
    ranges={"AGEP": (0, 99), "WKHP": (1, 99), "PINCP": (-99_999, 9_999_999), "PWGTP": (0, 99_999)},
    levels={
        "COW": _codes(1, 9), "SCHL": _codes(1, 24), "MAR": _codes(1, 5), "RELP": _codes(0, 17), "SEX": _codes(1, 2),
        "RAC1P": _codes(1, 9),
    },
)  # fmt: skip
WORDS = {
    "y": ("up to 50,000", "above 50,000"),
    "SEX": ("male", "female"),
    "RAC1P": (
        "White alone", "Black or African American alone", "American Indian alone", "Alaska Native alone",
        "American Indian or Alaska Native, tribe not specified", "Asian alone",
        "Native Hawaiian or other Pacific Islander alone", "some other race alone", "two or more races",
    ),
}  # fmt: skip


def found(root: Path) -> Path | None:
    """Return the archive below a root: California's, or the only one of another state."""
    folder = root / "acs_income"
    if (folder / FILES[0].name).is_file():
        return folder / FILES[0].name
    others = sorted(folder.glob("csv_p??.zip"))
    return others[0] if len(others) == 1 else None


def load(root: Path | None = None) -> Dataset:
    """Load ACS income: x (n, 61) float32; raises MissingData, or BadInput for a file of another form."""
    path = found(root or data_root())
    if path is None:
        folder = (root or data_root()) / "acs_income"
        raise MissingData(f"acs_income: no csv_pca.zip in {folder}; download with: {fetch_command('acs_income', root)}")
    text = _read(path)
    asked = text[["AGEP", "PINCP", "WKHP", "PWGTP"]]
    values = {name: asked[name].where(asked[name].str.fullmatch(r"-?[0-9]{1,9}"), "-1").astype(float) for name in asked}
    # Children and people without work have no income or hours: their fields are blank, and the filter drops them.
    kept = (values["AGEP"] > 16) & (values["PINCP"] > 100) & (values["WKHP"] > 0) & (values["PWGTP"] >= 1)
    text = text[kept].reset_index(drop=True)
    if not len(text):
        raise TABLE.foreign(path, "no person above 16 with an income and hours of work", "thousands")
    # The survey's dictionary writes some codes with leading zeros: they are read with and without them.
    text = text.assign(**{name: text[name].str.replace(r"^0+(?=[0-9])", "", regex=True) for name in TABLE.levels})
    numbers, codes = TABLE.numbers(path, text), TABLE.codes(path, text)
    return Dataset(
        name="acs_income",
        x=TABLE.inputs(numbers, codes, NAMES),
        y=(numbers["PINCP"] > THRESHOLD).astype(np.int64),
        n_classes=2,
        annotations={name: codes[name] for name in ("SEX", "RAC1P", "SCHL")},
        group_bounds=(10, float("inf")),
        words=WORDS,
        notes=(UNVERIFIED, f"{path.name}, persons of 2018"),
    )


def _read(path: Path) -> pd.DataFrame:
    """The used columns of the only psam_pNN.csv of an archive, which is too large to be unpacked into memory."""
    try:
        with zipfile.ZipFile(path) as archive:
            inside = [name for name in archive.namelist() if re.fullmatch(r"psam_p[0-9]{2}\.csv", name)]
            if len(inside) != 1:
                raise BadInput(
                    f"{path} contains {len(inside)} files psam_pNN.csv, and one is expected; fetch the published archive"
                )
            with archive.open(inside[0]) as file:
                return TABLE.read(path, file)
    except (OSError, RuntimeError, zipfile.BadZipFile) as error:
        raise BadInput(f"{path} cannot be read as a zip archive ({error}); it is damaged or cut short: fetch it again") from error
