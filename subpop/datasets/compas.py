"""COMPAS: was a person charged with another crime within two years?

*Source*: Larson, Mattu, Kirchner and Angwin, How We Analyzed the COMPAS Recidivism Algorithm, ProPublica (2016), and
https://github.com/propublica/compas-analysis: `compas-scores-two-years.csv`, a row for each of 7,214 people who were scored in
Broward County, Florida, in 2013 and 2014. Their notebook has the columns and the filter, which leaves 6,172 rows: a charge within
30 days of the score, a known outcome, no ordinary traffic offence and a score.

*Licence*: the repository states none. The file is fetched from its authors if you ask for it, and never redistributed.

*Persons*: the file has names, birth dates and case numbers of real people. They are dropped while it is read: no code after the
reader sees any column but the ten of `TABLE`. Delete the file when you no longer need it.

*Not verified*: the file could not be fetched when this was written. No checksum is known, and the loader was tried on generated
files of this form only.

*Faults*: a charge stands for a crime, so that labels also measure whom the police charge; the outcome was cut off at two years
for people without another charge only, which makes recidivism look more frequent than it was (Barenstein, ProPublica's COMPAS
Data Revisited, 2019); race was assigned by others, in six categories of very unequal size. The score of COMPAS is not used.

x: age, prior and juvenile counts, then a column for each level except the first of the degree of the charge, sex and race.
Annotations: race and sex, as positions in `TABLE.levels`, and the file's three age groups, in the order of its names.
"""

from __future__ import annotations

from pathlib import Path

from subpop.datasets.coded_tables import UNVERIFIED, Table
from subpop.datasets.download import RemoteFile, require_files
from subpop.types import Dataset

LICENCE = "no licence stated; cite ProPublica (2016)"
FILES = (
    RemoteFile(
        "compas-scores-two-years.csv",
        "https://raw.githubusercontent.com/propublica/compas-analysis/master/compas-scores-two-years.csv",
    ),
)
N_ROWS = 6_172
"""Rows that the authors' filter leaves."""
COUNTS = ("priors_count", "juv_fel_count", "juv_misd_count", "juv_other_count")
TABLE = Table(
    "compas",
    ranges={"age": (15, 120), **dict.fromkeys(COUNTS, (0, 200))},
    levels={
        "c_charge_degree": ("F", "M"),
        "sex": ("Female", "Male"),
        "race": ("African-American", "Asian", "Caucasian", "Hispanic", "Native American", "Other"),
        "age_cat": ("Less than 25", "25 - 45", "Greater than 45"),
        "two_year_recid": ("0", "1"),
    },
)
FILTER = Table("compas", ranges={}, levels={"days_b_screening_arrest": (), "is_recid": (), "score_text": (), **TABLE.levels})


def load(root: Path | None = None) -> Dataset:
    """Load COMPAS: x (6172, 12) float32; raises MissingData, or BadInput for a file of another form."""
    [path] = require_files("compas", FILES, root)
    content = path.read_bytes()
    about, text = FILTER.read(path, content), TABLE.read(path, content)
    days = about["days_b_screening_arrest"]
    near = days.where(days.str.fullmatch(r"-?[0-9]{1,6}(\.0+)?"), "999").astype(float).abs() <= 30
    known = (about["is_recid"] != "-1") & (about["score_text"] != "N/A") & (about["c_charge_degree"] != "O")
    text = text[near & known].reset_index(drop=True)
    if len(text) != N_ROWS:
        raise TABLE.foreign(path, f"{len(text):,} rows after the authors' filter", f"{N_ROWS:,}")
    numbers, codes = TABLE.numbers(path, text), TABLE.codes(path, text)
    return Dataset(
        name="compas",
        x=TABLE.inputs(numbers, codes, ("age", *COUNTS, "c_charge_degree", "sex", "race")),
        y=codes["two_year_recid"],
        n_classes=2,
        annotations={name: codes[name] for name in ("race", "sex", "age_cat")},
        group_bounds=(10, float("inf")),
        words={"y": ("no charge", "another charge"), **{name: TABLE.levels[name] for name in ("race", "sex", "age_cat")}},
        notes=(UNVERIFIED,),
    )
