"""Adult: the published table, and files that are not it."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from real_data import needs

from subpop.datasets import MissingData, load_dataset
from subpop.datasets.adult import COLUMNS, LEVELS, _read, load, rows_digest
from subpop.datasets.download import data_root
from subpop.types import BadInput, Dataset

needs_adult = needs("adult")


@cache
def adult() -> Dataset:
    return load()


def columns() -> list[str]:
    one_hot = [f"{name}={level}" for name, levels in LEVELS.items() for level in levels[1:]]
    return ["age", "capital_gain", "capital_loss", "hours_per_week", *one_hot]


def test_columns_are_in_the_published_order():
    names = columns()
    assert len(names) == 57
    starts = {
        "workclass": 4,
        "education_num": 12,
        "marital_status": 27,
        "occupation": 33,
        "relationship": 47,
        "race": 52,
        "sex": 56,
    }
    for name, start in starts.items():
        assert names[start] == f"{name}={LEVELS[name][1]}"
    # Levels of text are sorted, so that the one left out is the first of them.
    assert all(list(levels) == sorted(levels) for name, levels in LEVELS.items() if name != "education_num")


@needs_adult
def test_counts_are_the_published_ones():
    data = adult()
    assert (data.x.shape, data.x.dtype, data.y.dtype) == ((48842, 57), np.float32, np.int64)
    test = data.official_test
    assert (test.sum(), data.y[~test].sum(), data.y[test].sum()) == (16281, 7841, 3846)
    assert (data.balanced, data.group_bounds, data.n_clusters, data.notes) == (True, (10, 100), 100, ("the official rows",))
    assert {name: (int(v.min()), int(v.max())) for name, v in data.annotations.items()} == {
        "education_num": (1, 16),
        "race": (0, 4),
        "sex": (0, 1),
    }


@needs_adult
def test_rows_read_as_the_file_says():
    # First row of adult.data: 39, State-gov, 77516, Bachelors, 13, Never-married, Adm-clerical, Not-in-family, White, Male,
    # 2174, 0, 40, United-States, <=50K
    data, names = adult(), columns()
    row = dict(zip(names, data.x[0].tolist(), strict=True))
    ones = {
        "workclass=State-gov", "education_num=13", "marital_status=Never-married", "occupation=Adm-clerical",
        "relationship=Not-in-family", "race=White", "sex=Male",
    }  # fmt: skip
    assert {name for name in names[4:] if row[name] == 1} == ones
    assert [row[name] for name in names[:4]] == [39, 2174, 0, 40]
    assert [int(data.annotations[name][0]) for name in ("education_num", "race", "sex")] == [13, 4, 1]
    assert data.y[0] == 0


@needs_adult
def test_table_agrees_with_pandas_dummies():
    import pandas as pd

    read = [
        pd.read_csv(data_root() / "adult" / name, header=None, skiprows=skip)
        for name, skip in (("adult.data", 0), ("adult.test", 1))
    ]
    table = pd.concat(read, ignore_index=True)
    table.columns = list(COLUMNS)
    numbers = table[["age", "capital_gain", "capital_loss", "hours_per_week"]]
    dummies = pd.get_dummies(table[list(LEVELS)], columns=list(LEVELS), drop_first=True)
    expected = np.column_stack([numbers.to_numpy(np.float32), dummies.to_numpy(np.float32)])
    assert np.array_equal(adult().x, expected)
    assert np.array_equal(adult().y, table["income"].str.contains(">50K").to_numpy().astype(np.int64))


# --- files that are not the published ones ----------------------------------------------------------------------------


def edited(tmp_path: Path, name: str, change: object) -> Path:
    """A data root whose file `name` holds change(text) and whose other file is the original."""
    folder = tmp_path / "adult"
    folder.mkdir()
    for each in ("adult.data", "adult.test"):
        text = (data_root() / "adult" / each).read_text()
        (folder / each).write_text(change(text) if each == name else text)
    return tmp_path


HEADER = ",".join(COLUMNS) + "\n"
FIRST = "39, State-gov, 77516"

FOREIGN = {
    "header row": ("adult.data", lambda text: HEADER + text, "a header row"),
    "one row less": ("adult.data", lambda text: text.split("\n", 1)[1], "32560 rows, expected 32561"),
    "cut in a row": ("adult.data", lambda text: text[:2_000_000], "rows, expected 32561"),
    "one row less in test": ("adult.test", lambda text: text.rstrip("\n").rsplit("\n", 1)[0], "16280 rows, expected 16281"),
    "a column less": ("adult.data", lambda text: text.replace(", United-States", ""), "expected 15"),
    "a column less everywhere": (
        "adult.test",
        lambda text: "\n".join(line.split(",", 1)[1] for line in text.split("\n") if "," in line),
        "14 columns, expected 15",
    ),
    "unknown level": ("adult.data", lambda text: text.replace("State-gov", "State", 1), "'State' as workclass of data row 1"),
    "no number": ("adult.data", lambda text: text.replace(FIRST, "old" + FIRST[2:], 1), "'old' as age of data row 1"),
    "other labels": ("adult.data", lambda text: text.replace("<=50K", ">50K", 3), "7844 rows labelled >50K, expected 7841"),
    "numeric labels": ("adult.data", lambda text: text.replace("<=50K", "0"), "'0' as income"),
    "empty": ("adult.data", lambda text: "", "not a table"),
    "only a comment": ("adult.test", lambda text: "|1x3 Cross validator\n", "not a table"),
    "a page": ("adult.data", lambda text: "<html>\n<p>moved</p>\n</html>", "1 columns, expected 15"),
}


@needs_adult
@pytest.mark.parametrize("case", FOREIGN)
def test_a_foreign_file_is_refused(tmp_path, case):
    name, change, found = FOREIGN[case]
    root = edited(tmp_path, name, change)
    with pytest.raises(BadInput) as caught:
        load(root)
    message = str(caught.value)
    assert found in message
    assert str(root / "adult" / name) in message
    assert "subpop data fetch adult" in message


@needs_adult
def test_a_file_that_is_no_text_is_refused(tmp_path):
    root = edited(tmp_path, "adult.data", lambda text: text)
    (root / "adult" / "adult.data").write_bytes(b"\xff\xfe\x00\x01" * 100)
    with pytest.raises(BadInput, match="not a table"):
        load(root)


@needs_adult
def test_a_copy_without_blanks_and_comment_holds_the_official_rows(tmp_path):
    root = edited(tmp_path, "adult.test", lambda text: text.split("\n", 1)[1].replace(", ", ",").replace("K.", "K"))
    data = load(root)
    assert np.array_equal(data.x, adult().x)
    assert np.array_equal(data.y, adult().y)
    assert data.notes == ("the official rows",)


ROW = "{age}, Private, {weight}, HS-grad, 9, Divorced, Sales, Husband, White, Male, {gain}, {loss}, {hours}, Cuba, {label}"
VALUES = {"age": "39", "weight": "77516", "gain": "2174", "loss": "0", "hours": "40"}
"""Values of each numeric column, by its name in `ROW`."""


def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: object = lambda text: text, **values: str) -> Path:
    """A data root of 6 and 4 rows, which count as the published files; `values` stand in the last row to train on."""
    folder = tmp_path / "adult"
    folder.mkdir(exist_ok=True)
    monkeypatch.setattr("subpop.datasets.adult.COUNTS", ((6, 3), (4, 2)))
    for name, n in (("adult.data", 6), ("adult.test", 4)):
        rows = [{**VALUES, "weight": str(20_000 + i)} for i in range(n)]
        rows[-1] |= values if name == "adult.data" else {}
        lines = [ROW.format(**row, label=("<=50K", ">50K")[i % 2]) for i, row in enumerate(rows)]
        (folder / name).write_text(change("\n".join(lines) + "\n"))
    return tmp_path


SPELLINGS = {
    "as published": lambda text: "|1x3 Cross validator\n" + text.replace("K\n", "K.\n"),
    "without blanks": lambda text: text.replace(", ", ","),
    "line ends of Windows": lambda text: text.replace("\n", "\r\n"),
    "quoted": lambda text: text.replace("Private", '"Private"'),
    "leading zeros": lambda text: text.replace("\n39", "\n039"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_digest_is_of_the_rows_and_not_of_their_spelling(tmp_path, monkeypatch, spelling):
    digest = lambda root: [  # noqa: E731
        rows_digest(_read(root / "adult" / name, *counts)) for name, counts in (("adult.data", (6, 3)), ("adult.test", (4, 2)))
    ]
    official = digest(small(tmp_path, monkeypatch))
    monkeypatch.setattr("subpop.datasets.adult.ROWS", tuple(official))
    assert load(small(tmp_path, monkeypatch, SPELLINGS[spelling])).notes == ("the official rows",)
    assert digest(tmp_path) == official


@pytest.mark.parametrize("change", [{"age": "40"}, {"weight": "20006"}, {"hours": "41"}])
def test_rows_that_are_not_the_official_ones_are_noted(tmp_path, monkeypatch, change):
    root = small(tmp_path, monkeypatch)
    official = [rows_digest(_read(root / "adult" / name, *n)) for name, n in (("adult.data", (6, 3)), ("adult.test", (4, 2)))]
    monkeypatch.setattr("subpop.datasets.adult.ROWS", tuple(official))
    [note] = load(small(tmp_path, monkeypatch, **change)).notes
    assert note.startswith("adult.data: not the official rows")


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("age", "9" * 44, "age of data row 6, expected a whole number from 17 to 90"),
        ("age", "16", "'16' as age of data row 6"),
        ("age", "91", "'91' as age of data row 6"),
        ("age", "\u0663\u0669", "as age of data row 6"),
        ("age", "3.9e1", "as age of data row 6"),
        ("weight", "12284", "as fnlwgt of data row 6, expected a whole number from 12285 to 1490400"),
        ("gain", "100000", "as capital_gain of data row 6, expected a whole number from 0 to 99999"),
        ("gain", "inf", "'inf' as capital_gain"),
        ("loss", "4357", "as capital_loss of data row 6, expected a whole number from 0 to 4356"),
        ("loss", "-1", "'-1' as capital_loss"),
        ("hours", "0", "as hours_per_week of data row 6, expected a whole number from 1 to 99"),
        ("hours", "1" * 400, "as hours_per_week of data row 6"),
    ],
)
def test_each_number_has_its_range(tmp_path, monkeypatch, column, value, expected):
    root = small(tmp_path, monkeypatch, **{column: value})
    with pytest.raises(BadInput) as caught:
        load(root)
    assert expected in str(caught.value)


def test_missing_files_name_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("SUBPOP_DATA", str(tmp_path))
    with pytest.raises(MissingData, match=r"adult\.data, adult\.test not found in .*: subpop data fetch adult$"):
        load_dataset("adult")
    with pytest.raises(MissingData, match=r"subpop data fetch adult --data-root \S+other$"):
        load_dataset("adult", tmp_path / "other")
