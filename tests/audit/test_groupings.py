"""Groups of a user's rows: their rows by brute force, what is too small or twice, and names that make none."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from subpop.audit.groups import groupings
from subpop.audit.table import read_table
from subpop.types import BadInput

N = 600


def table_of(**columns):
    rng = np.random.default_rng(1)
    frame = pd.DataFrame(
        {
            "city": rng.choice(["Bern", "Oslo", "Rome", "Ur"], N, p=[0.6, 0.3, 0.09, 0.01]),
            "sex": rng.choice(["f", "m"], N),
            "level": rng.integers(1, 5, N),
            "age": rng.normal(40, 9, N),
            "paid": rng.choice(["no", "yes"], N),
        }
    )
    return read_table(frame.assign(**columns), "paid")


def brute_force(frame, by, least):
    """{group name: row numbers} of all combinations of values with enough rows, and the number of the others."""
    found, n_small = {}, 0
    for values, rows in frame.reset_index(drop=True).groupby(list(by)).indices.items():
        name = ", ".join(
            f"{column}={value}" for column, value in zip(by, values if isinstance(values, tuple) else (values,), strict=True)
        )
        if len(rows) >= least:
            found[name] = rows.tolist()
        else:
            n_small += 1
    return found, n_small


def by_name(found, without=()):
    return {group.name: group.rows.tolist() for group in found.each() if group.grouping not in without}


def test_categories_and_their_pairs_are_those_of_pandas():
    table = table_of()
    found = groupings(table)
    expected, n_small = {}, 0
    for names, least in [((name,), 10) for name in ("city", "sex", "level")] + [
        (pair, 30) for pair in combinations(("city", "sex", "level"), 2)
    ]:
        groups, small = brute_force(table.frame, names, least)
        expected |= groups
        n_small += small
    assert by_name(found, ["cluster"]) == expected
    assert found.n_small >= n_small > 0  # and perhaps a cluster
    assert found.notes[0] == f"{found.n_small} groups of fewer than 10 rows (30 by several columns) are not listed"
    assert [grouping.name for grouping in found.groupings][-2:] == ["sex x level", "cluster"]


def test_that_no_group_is_too_small_is_not_said():
    frame = pd.DataFrame({"sex": ["f", "m"] * 50, "age": np.arange(100.0), "paid": [0, 0, 1, 1] * 25})
    assert not any("not listed" in note for note in groupings(read_table(frame, "paid"), ["sex"]).notes)


def test_codes_number_the_listed_groups_and_no_others():
    for grouping in groupings(table_of()).groupings:
        assert grouping.codes.shape == (N,)
        assert set(grouping.codes.tolist()) - {-1} == set(range(len(grouping.words)))
        assert np.bincount(grouping.codes[grouping.codes >= 0]).min() >= 10


def test_clusters_divide_all_rows_and_follow_the_columns():
    rng = np.random.default_rng(0)
    centre = np.repeat([0, 50, 100], 40)
    table = read_table((centre[:, None] + rng.normal(size=(120, 2)), np.arange(120) % 2))
    found = groupings(table)
    assert [grouping.name for grouping in found.groupings] == ["cluster"]
    listed = [set(group.rows.tolist()) for group in found.each()]
    assert sum(map(len, listed)) == 120
    # Two clusters for 120 rows: k-means joins two neighbouring centres.
    assert {len(rows) for rows in listed} == {40, 80}


def test_named_columns_make_each_pair_and_all_together():
    table = table_of()
    found = groupings(table, ["city", "sex", "level"], pair_rows=10)
    assert [grouping.name for grouping in found.groupings] == [
        "city", "sex", "level", "city x sex", "city x level", "sex x level", "city x sex x level",
    ]  # fmt: skip
    expected, _ = brute_force(table.frame, ("city", "sex", "level"), 10)
    assert {name: rows for name, rows in by_name(found).items() if name.count("=") == 3} == expected


def test_values_of_a_named_column_with_too_few_rows_are_said_and_not_named():
    frame = pd.DataFrame({"grp": ["tiny"] * 3 + ["big"] * 97, "age": np.arange(100.0) % 7, "paid": [0, 1] * 50})
    found = groupings(read_table(frame, "paid"), ["grp"])
    assert found.lacking == ("1 of the 2 values of grp has fewer than 10 rows and is left out.",)
    frame.loc[5:9, "grp"] = "small"
    assert groupings(read_table(frame, "paid"), ["grp"]).lacking[0].startswith("2 of the 3 values of grp have fewer than 10 rows")
    assert groupings(read_table(frame, "paid")).lacking == ()


@pytest.mark.parametrize("form", ["%Y-%m-%d", "%d.%m.%Y", "%m/%d/%Y"])
def test_texts_that_are_dates_are_cut_as_dates(form):
    """Different dates had been taken for an identifier and left out, and repeated ones made no group."""
    days = pd.Series(pd.date_range("2020-01-01", periods=800))
    for own in (days, days.sample(800, replace=True, random_state=0, ignore_index=True)):
        frame = pd.DataFrame({"when": own.dt.strftime(form), "age": np.arange(800.0) % 7, "paid": [0, 1] * 400})
        table = read_table(frame, "paid")
        assert table.left_out == ()
        sizes = {name: len(rows) for name, rows in by_name(groupings(table, ["when"])).items()}
        assert sizes == {f"when={year}": int((own.dt.year == year).sum()) for year in (2020, 2021, 2022)}
        assert table.x.shape[1] > 2  # a model can use them


def test_dates_of_one_year_are_cut_by_month_and_those_of_one_month_by_day():
    days = pd.Series(pd.date_range("2021-02-01", periods=59)).repeat(20).reset_index(drop=True)
    for own, unit in ((days, "%Y-%m"), (days[days.dt.month == 2], "%Y-%m-%d")):
        frame = pd.DataFrame({"when": own, "age": np.arange(len(own)) % 7.5, "paid": np.arange(len(own)) % 2})
        names = own.dt.strftime(unit)
        sizes = {name: len(rows) for name, rows in by_name(groupings(read_table(frame, "paid"), ["when"])).items()}
        assert sizes == {f"when={name}": count for name, count in names.value_counts().sort_index().items()}


def test_addresses_and_version_numbers_are_no_dates():
    frame = pd.DataFrame({"ip": [f"10.0.{i // 9}.{i % 9}" for i in range(60)], "age": np.arange(60.0) % 7, "paid": [0, 1] * 30})
    assert read_table(frame, "paid").left_out == ("ip",)


def test_numbers_are_cut_at_their_quartiles_and_dates_by_year():
    days = pd.date_range("2020-01-01", "2023-12-31", periods=N)
    table = table_of(day=days, whole=np.arange(N) % 200, few=np.arange(N) % 3 / 2)
    ages = table.frame["age"].to_numpy()
    low, middle, high = np.quantile(ages, (0.25, 0.5, 0.75), method="inverted_cdf")
    groups = by_name(groupings(table, ["age"]))
    assert list(groups) == [f"age=below {low}", f"age={low} to {middle}", f"age={middle} to {high}", f"age={high} and above"]
    assert groups[f"age={low} to {middle}"] == np.flatnonzero((ages >= low) & (ages < middle)).tolist()
    assert list(by_name(groupings(table, ["whole"]))) == [
        "whole=below 49",
        "whole=49 to 99",
        "whole=99 to 149",
        "whole=149 and above",
    ]
    assert list(by_name(groupings(table, ["few"]))) == ["few=0", "few=0.5", "few=1"]
    years = by_name(groupings(table, ["day"]))
    assert {name: len(rows) for name, rows in years.items()} == {
        f"day={year}": int((days.year == year).sum()) for year in range(2020, 2024)
    }


def test_missing_values_are_a_group_of_their_own():
    age = np.where(np.arange(N) % 10, np.arange(N) / 7, np.nan)
    city = np.where(np.arange(N) % 20, "Bern", None)
    table = table_of(age=age, city=city)
    assert by_name(groupings(table, ["age"]))["age=(missing)"] == list(range(0, N, 10))
    assert by_name(groupings(table, ["city"])) == {
        "city=Bern": [i for i in range(N) if i % 20],
        "city=(missing)": list(range(0, N, 20)),
    }


def test_groups_of_the_same_rows_are_listed_once():
    table = table_of(town=table_of().frame["city"].str.upper())
    found = groupings(table)
    names = by_name(found)
    assert "city=Bern" in names
    assert "town=BERN" not in names
    assert not any(grouping.name == "city x town" for grouping in found.groupings)
    contents = [tuple(rows) for rows in names.values()]
    assert len(set(contents)) == len(contents)
    assert f"{found.n_same} groups have exactly the rows of another one" in found.notes[2]
    assert "clusters are k-means of the features of all rows, test rows included, without labels" in found.notes


def test_annotations_of_embeddings_make_groups(tmp_path):
    site = np.arange(120) % 3
    np.savez(tmp_path / "e.npz", x=np.random.default_rng(0).normal(size=(120, 2)), y=np.arange(120) % 2, site=site)
    table = read_table(tmp_path / "e.npz")
    assert by_name(groupings(table, ["site"])) == {f"site={code}": np.flatnonzero(site == code).tolist() for code in range(3)}
    with pytest.raises(BadInput, match="did you mean site"):
        groupings(table, ["sight"])


@pytest.mark.parametrize(
    ("columns", "named", "said"),
    [
        ({}, "paid", "groups=paid is the label; groups are made by other columns, such as city, sex, level, age"),
        ({}, "citty", "groups=citty is not a column of frame; did you mean city?"),
        ({"unit": "kg"}, "unit", "groups=unit has one value, unit=kg, in all rows; leave it out"),
        ({"key": [f"k{i}" for i in range(N)]}, "key", "groups=key has 600 values in 600 rows; name a column that repeats them"),
        ({"key": np.arange(N) // 3}, "key", None),
        ({"key": [f"k{i // 3}" for i in range(N)]}, "key", "groups=key makes no group of at least 10 rows"),
    ],
)
def test_names_that_make_no_groups(columns, named, said):
    if said is None:  # whole numbers are cut at their quartiles
        assert len(by_name(groupings(table_of(**columns), [named]))) == 4
        return
    with pytest.raises(BadInput) as caught:
        groupings(table_of(**columns), ["sex", named])
    assert said in str(caught.value)


def test_a_group_of_ten_rows_is_listed_and_one_of_nine_is_not():
    table = table_of(site=["a"] * 10 + ["b"] * 9 + ["c"] * (N - 19))
    found = groupings(table, ["site"])
    assert {group.name: len(group.rows) for group in found.each()} == {"site=a": 10, "site=c": N - 19}
    assert found.n_small == 1


def test_no_group_below_ten_rows_is_ever_listed():
    with pytest.raises(BadInput, match="min_rows=9 would list groups of fewer than 10 rows"):
        groupings(table_of(), min_rows=9)
    for least in (10, 25):
        found = groupings(table_of(), min_rows=least, pair_rows=10)
        assert min(len(group.rows) for group in found.each()) >= least
