"""Credit, ACS income and COMPAS: loaders of files that could not be fetched, on generated files of the published form."""

import io
import zipfile

import numpy as np
import pandas as pd
import pytest

from subpop.datasets import DATASETS, MissingData, acs_income, compas, credit, load_dataset
from subpop.datasets.coded_tables import UNVERIFIED
from subpop.datasets.download import RemoteFile, fetch_files, verify
from subpop.session.cli import main
from subpop.types import BadInput

NAMES = ("south_german_credit", "german_credit", "acs_income", "compas")
PERSONAL = ("name", "first", "last", "dob", "c_case_number", "r_case_number", "vr_case_number")
"""Columns of COMPAS that identify people."""


def rows_of(table, n, seed=0):
    """n rows of random published values."""
    g = np.random.default_rng(seed)
    columns = {name: g.integers(low, min(high, low + 90) + 1, n) for name, (low, high) in table.ranges.items()}
    return pd.DataFrame(columns | {name: g.choice(levels, n) for name, levels in table.levels.items()})


def zipped(path, **members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name.replace("__", "."), text)


def south_german(root, **changes):
    """SouthGermanCredit.asc, with the first row of the published example of its documentation's form."""
    table = rows_of(credit.SOUTH_GERMAN, 1000).assign(kredit=["1"] * 700 + ["0"] * 300, **changes)
    header = (
        "laufkont laufzeit moral verw hoehe sparkont beszeit rate famges buerge wohnzeit verm alter weitkred wohn bishkred beruf"
    )
    text = table[[*header.split(), "pers", "telef", "gastarb", "kredit"]].to_csv(index=False, sep=" ")
    zipped(
        root / "south_german_credit" / credit.SOUTH_GERMAN_FILES[0].name, SouthGermanCredit__asc=text, codetable__txt="laufkont\n"
    )
    return table


FIRST = "A11 6 A34 A43 1169 A65 A75 4 A93 A101 4 A121 67 A143 A152 2 A173 1 A192 A201 1\n"
"""The first row of german.data, as many sources print it."""


def german(root, first=FIRST, n_good=700):
    table = rows_of(credit.GERMAN, 999).assign(credit=["1"] * (n_good - 1) + ["2"] * (1000 - n_good))
    (root / "german_credit").mkdir(parents=True, exist_ok=True)
    text = first + table[list(credit.HEADER)].to_csv(index=False, header=False, sep=" ")
    (root / "german_credit" / "german.data").write_text(text)


def acs(root, **changes):
    """Six persons: one young, one without income, one without hours, one without weight, and two that are kept."""
    rows = pd.DataFrame(
        {
            "RT": "P", "SERIALNO": "2018GQ0000001", "PWGTP": [10, 10, 10, 0, 10, 10], "AGEP": [16, 40, 40, 40, 40, 17],
            "COW": ["", "1", "1", "1", "1", "9"], "SCHL": ["12", "21", "21", "21", "21", "01"],
            "MAR": ["5", "1", "1", "1", "1", "5"], "RELP": ["02", "00", "00", "00", "00", "17"],
            "WKHP": ["", "40", "", "40", "40", "1"], "SEX": ["1", "2", "2", "2", "2", "1"],
            "RAC1P": ["1", "6", "6", "6", "6", "9"], "PINCP": ["", "100", "60000", "60000", "50001", "50000"],
        }
    ).assign(**changes)  # fmt: skip
    zipped(root / "acs_income" / "csv_pca.zip", psam_p06__csv=rows.to_csv(index=False), ACS2018_PUMS_README__pdf="")


def compas_file(root, n_dropped=1042, **changes):
    """The published header's columns with names and dates; the first rows are those that the filter drops."""
    n = compas.N_ROWS + n_dropped
    table = rows_of(compas.TABLE, n)
    about = dict.fromkeys(PERSONAL, "SECRET") | {"days_b_screening_arrest": "-1", "is_recid": "1", "score_text": "Low"}
    table = table.assign(**about)
    table.loc[: n_dropped - 1, "days_b_screening_arrest"] = "31"
    table.loc[:199, ["days_b_screening_arrest", "is_recid"]] = ["0", "-1"]
    table.loc[200:201, ["days_b_screening_arrest", "c_charge_degree"]] = ["0", "O"]
    table.loc[202:203, "days_b_screening_arrest"] = ""
    (root / "compas").mkdir(parents=True, exist_ok=True)
    table.assign(**changes).to_csv(root / "compas" / "compas-scores-two-years.csv", index=False)
    return table[n_dropped:].reset_index(drop=True)


def test_south_german_credit_reads_every_row(tmp_path):
    table = south_german(tmp_path)
    data = load_dataset("south_german_credit", tmp_path)
    assert (data.x.shape, data.x.dtype, int(data.y.sum())) == ((1000, 55), np.float32, 700)
    assert data.x[:, :3].tolist() == table[["laufzeit", "hoehe", "alter"]].astype(float).to_numpy().tolist()
    expected = pd.get_dummies(table[["laufkont", "moral"]], drop_first=True).to_numpy(float)  # all levels occur
    assert np.array_equal(data.x[:, 3:10], expected)
    assert data.annotations["age_above_25"].tolist() == (table["alter"] > 25).astype(int).tolist()
    assert data.annotations["status_sex"].tolist() == (table["famges"].astype(int) - 1).tolist()
    assert data.annotations["foreign_worker"].tolist() == (table["gastarb"] == "2").astype(int).tolist()
    assert "sex" not in data.annotations
    assert UNVERIFIED in data.notes


def test_german_credit_reads_the_row_that_is_printed_everywhere(tmp_path):
    german(tmp_path)
    data = load_dataset("german_credit", tmp_path)
    assert (len(data.x), int(data.y.sum())) == (1000, 700)
    numbers, levels = [6, 1169, 67], []
    parts = dict(zip(credit.HEADER, FIRST.split(), strict=True))
    for name, codes in credit.GERMAN.levels.items():
        if name != "credit":
            levels += [float(parts[name] == code) for code in codes[1:]]
    assert data.x[0].tolist() == [*numbers, *levels]
    assert data.x.shape[1] == 3 + len(levels)
    assert [int(codes[0]) for codes in data.annotations.values()] == [1, 2, 0]


def test_acs_income_filters_as_the_package_does(tmp_path):
    acs(tmp_path)
    data = load_dataset("acs_income", tmp_path)
    assert data.y.tolist() == [1, 0]  # 50,001 and 50,000 dollars
    assert data.x[:, :2].tolist() == [[40, 40], [17, 1]]
    assert data.x.shape[1] == 2 + 8 + 23 + 4 + 17 + 1 + 8
    assert {name: codes.tolist() for name, codes in data.annotations.items()} == {"SEX": [1, 0], "RAC1P": [5, 8], "SCHL": [20, 0]}
    assert "csv_pca.zip, persons of 2018" in data.notes


def test_another_state_may_lie_in_the_folder(tmp_path):
    acs(tmp_path)
    folder = tmp_path / "acs_income"
    (folder / "csv_pca.zip").rename(folder / "csv_pvt.zip")
    assert load_dataset("acs_income", tmp_path).notes[1] == "csv_pvt.zip, persons of 2018"
    (folder / "csv_pny.zip").touch()
    with pytest.raises(MissingData, match=r"no csv_pca\.zip in"):
        load_dataset("acs_income", tmp_path)


def test_compas_filters_and_drops_what_names_people(tmp_path, monkeypatch):
    kept = compas_file(tmp_path)
    read = []
    original = pd.read_csv
    monkeypatch.setattr(pd, "read_csv", lambda *args, **options: read.append(original(*args, **options)) or read[-1])
    data = load_dataset("compas", tmp_path)
    assert data.x.shape == (6172, 5 + 1 + 1 + 5)
    assert data.y.tolist() == kept["two_year_recid"].astype(int).tolist()
    assert data.x[:, :5].tolist() == kept[["age", *compas.COUNTS]].astype(float).to_numpy().tolist()
    assert data.annotations["race"].tolist() == [compas.TABLE.levels["race"].index(each) for each in kept["race"]]
    assert read
    assert not any(set(frame.columns) & set(PERSONAL) or (frame == "SECRET").any(axis=None) for frame in read)


@pytest.mark.parametrize(
    ("write", "name", "said"),
    [
        (lambda root: german(root, n_good=699), "german_credit", "1,000 rows, 699 of them good, expected 1,000 and 700"),
        (
            lambda root: german(root, FIRST.replace("A34", "A39")),
            "german_credit",
            "'A39' as history of data row 1, expected one of A30",
        ),
        (
            lambda root: german(root, FIRST.replace(" 6 ", " six ")),
            "german_credit",
            "'six' as duration of data row 1, expected a whole",
        ),
        (
            lambda root: south_german(root, famges="5"),
            "south_german_credit",
            "'5' as famges of data row 1, expected one of 1 2 3 4",
        ),
        (lambda root: acs(root, SEX="3"), "acs_income", "'3' as SEX of data row 1, expected one of 1 2"),
        (lambda root: acs(root, PINCP="0"), "acs_income", "no person above 16 with an income and hours of work"),
        (lambda root: compas_file(root, race="X"), "compas", "'X' as race of data row 1"),
        (lambda root: compas_file(root, is_recid="-1"), "compas", "0 rows after the authors' filter, expected 6,172"),
    ],
)
def test_another_file_is_refused_by_row_column_and_value(tmp_path, write, name, said):
    write(tmp_path)
    with pytest.raises(BadInput, match="is not the published") as error:
        load_dataset(name, tmp_path)
    assert said in str(error.value)
    assert f"subpop data fetch {name}" in str(error.value)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"<html>not found</html>\n", b"a,b\n1,2\n"])
def test_no_table_is_refused(tmp_path, name, content):
    (tmp_path / name).mkdir()
    (tmp_path / name / DATASETS[name].files[0].name).write_bytes(content)
    with pytest.raises(BadInput, match=name):
        load_dataset(name, tmp_path)


def test_an_archive_without_its_table_is_refused(tmp_path):
    zipped(tmp_path / "acs_income" / "csv_pca.zip", other__csv="")
    with pytest.raises(BadInput, match=r"contains 0 files psam_pNN\.csv"):
        load_dataset("acs_income", tmp_path)
    zipped(tmp_path / "south_german_credit" / credit.SOUTH_GERMAN_FILES[0].name, other__csv="")
    with pytest.raises(BadInput, match=r"contains 0 files SouthGermanCredit\.asc"):
        load_dataset("south_german_credit", tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_they_are_fetched_only_when_asked_and_never_called_verified(tmp_path, name, capsys):
    with pytest.raises(MissingData, match=f"subpop data fetch {name}"):
        load_dataset(name, tmp_path)
    assert all(file.md5 == "" for file in DATASETS[name].files)  # nobody has computed one from the real file
    assert "unverified" in DATASETS[name].summary
    path = tmp_path / name / DATASETS[name].files[0].name
    path.parent.mkdir()
    path.write_text("any")
    assert [state.state for state in verify(name, tmp_path)] == ["unverified"]
    assert main(["data", "verify", name, "--data-root", str(tmp_path)]) == 0
    assert (
        "unverified (md5 100b8cad7cf2a56f6df78f171f97a1ec; no checksum of the published file is known" in capsys.readouterr().out
    )
    assert main(["data", "list", "--data-root", str(tmp_path)]) == 0


def test_a_file_without_a_checksum_is_kept_as_it_came(tmp_path, monkeypatch):
    def downloader(url, output_file, pooch):
        with open(output_file, "wb") as file:
            file.write(io.BytesIO(b"content").read())

    monkeypatch.setattr("pooch.HTTPDownloader", lambda **_: downloader)
    [state] = fetch_files("compas", [RemoteFile("a.csv", "https://example.org/a.csv")], tmp_path, progress=False)
    assert (state.state, (tmp_path / "compas" / "a.csv").read_bytes()) == ("unverified", b"content")


def test_acs_codes_are_words_too():
    assert all(len(acs_income.WORDS[name]) == len(acs_income.TABLE.levels[name]) for name in ("SEX", "RAC1P"))
