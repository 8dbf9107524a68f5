"""Adult: the published table, and files that are not it."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from real_data import needs

from subpop.datasets import MissingData, load_dataset
from subpop.datasets.adult import COLUMNS, LEVELS, load
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
    assert (data.balanced, data.group_bounds, data.n_clusters, data.notes) == (True, (10, 100), 100, ())
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
    "empty": ("adult.data", lambda text: "", "no table"),
    "only a comment": ("adult.test", lambda text: "|1x3 Cross validator\n", "no table"),
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
    with pytest.raises(BadInput, match="no table"):
        load(root)


@needs_adult
def test_a_copy_without_blanks_and_comment_is_used_and_noted(tmp_path):
    root = edited(tmp_path, "adult.test", lambda text: text.split("\n", 1)[1].replace(", ", ","))
    data = load(root)
    assert np.array_equal(data.x, adult().x)
    assert np.array_equal(data.y, adult().y)
    assert len(data.notes) == 1
    assert "adult.test" in data.notes[0]
    assert "35238206dfdf7f1fe215bbb874adecdc" in data.notes[0]


def test_missing_files_name_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("SUBPOP_DATA", str(tmp_path))
    with pytest.raises(MissingData, match=r"adult\.data, adult\.test not found in .*: subpop data fetch adult$"):
        load_dataset("adult")
    with pytest.raises(MissingData, match=r"subpop data fetch adult --data-root \S+other$"):
        load_dataset("adult", tmp_path / "other")
