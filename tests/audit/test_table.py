"""Tables of a user: what is read, what is assumed and said, and what is refused in one sentence."""

import codecs
import datetime
import sys
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from subpop.audit import files
from subpop.audit.table import read_table
from subpop.datasets.split import split
from subpop.types import BadInput

N = 60


def frame_of(n=N, **columns):
    """Two classes in turn, one column of numbers and one of three cities."""
    rng = np.random.default_rng(0)
    plain = {
        "age": rng.normal(40, 9, n).round(2),
        "city": np.resize(["Bern", "Oslo", "Rome"], n),
        "paid": np.resize(["yes", "no"], n),
    }
    return pd.DataFrame(plain | columns)


def written(folder, text, encoding="utf-8"):
    path = folder / "data.csv"
    path.write_bytes(text.encode(encoding) if isinstance(text, str) else text)
    return path


def refused(source, label=None, **options):
    """The message, which is one sentence without a line break."""
    with pytest.raises(BadInput) as caught:
        read_table(source, label, **options)
    said = str(caught.value)
    assert "\n" not in said
    return said


# --- what is read -----------------------------------------------------------------------------------------------------


def test_a_frame_is_coded_in_sorted_order_and_vectorised_by_skrub():
    frame = frame_of()
    table = read_table(frame, "paid")
    assert table.classes == ("no", "yes")
    assert table.y.tolist() == [1, 0] * (N // 2)
    assert table.x.shape == (N, 4)  # age, and a column for each city
    assert table.x.dtype == np.float32
    assert list(table.frame.columns) == ["age", "city"]
    assert table.annotations["city"].tolist() == [0, 1, 2] * (N // 3)
    assert table.words["city"] == ("Bern", "Oslo", "Rome")
    # The scaling of skrub: centred at the median; one column for each city is constant within a city.
    assert np.median(table.x[:, 0]) == pytest.approx(0, abs=1e-6)
    for city in range(3):
        assert len(np.unique(table.x[city::3, 1:], axis=0)) == 1
    assert "fitted once on all rows, without labels" in table.notes[-1]


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([True, False] * 30, ("False", "True")),
        ([10, 9] * 30, ("9", "10")),
        ([2.0, 1.0] * 30, ("1", "2")),
        ([1.5, 0.5] * 30, ("0.5", "1.5")),
        (["b", "a", "c"] * 20, ("a", "b", "c")),
        (pd.Categorical(["b", "a"] * 30, categories=["b", "a"]), ("a", "b")),
        (pd.to_datetime(["2021-01-01", "2020-01-01"] * 30), ("2020-01-01", "2021-01-01")),
    ],
)
def test_labels_of_any_type_are_coded_in_sorted_order(labels, classes):
    table = read_table(frame_of().drop(columns="paid"), pd.Series(labels))
    assert table.classes == classes
    assert len(classes) == 3 or table.y[:2].tolist() == [1, 0]


def test_arrays_are_used_as_they_are():
    x = np.random.default_rng(0).normal(size=(N, 3))
    table = read_table(x, np.arange(N) % 2)
    assert table.frame is None
    assert np.array_equal(table.x, x.astype(np.float32))
    assert np.array_equal(table.dataset(as_rows=True).x, table.x)
    assert np.array_equal(read_table((x, np.arange(N) % 2)).x, table.x)


def test_arrays_with_missing_values_or_texts_are_read_as_frames():
    x = np.random.default_rng(0).normal(size=(N, 3))
    x[4, 1] = np.nan
    missing = read_table(x, np.arange(N) % 2)
    assert missing.frame.shape == (N, 3)
    assert missing.x.shape == (N, 4)  # and whether the second is missing
    assert np.isfinite(missing.x).all()
    texts = np.array([["a", 1.0], ["b", 2.0]] * 30, dtype=object)
    assert read_table(texts, np.arange(N) % 2).annotations["column 0"].tolist() == [0, 1] * 30


def test_missing_values_dates_and_texts_become_numbers():
    n = 200
    rng = np.random.default_rng(0)
    table = read_table(
        frame_of(
            n,
            age=np.where(np.arange(n) % 7, rng.normal(size=n), np.nan),
            hired=pd.date_range("2019-01-01", periods=n, freq="37h"),
            text=[f"row {i} says {rng.integers(1000)}" for i in range(n)],
            flag=pd.array([True, None, False, True] * 50, dtype="boolean"),
        ),
        "paid",
    )
    assert np.isfinite(table.x).all()
    assert set(table.annotations) == {"city", "flag"}
    assert table.words["flag"] == ("False", "True", "(missing)")


def test_types_of_pandas_and_of_python_become_numbers():
    day = datetime.date(2020, 1, 1)
    table = read_table(
        frame_of(
            whole=pd.array([1, None, 3] * 20, dtype="Int64"),
            part=np.array([0.25, 0.5] * 30, np.longdouble),
            money=[Decimal("1.5"), Decimal(2)] * 30,
            large=[10**30, 2] * 30,
            month=pd.period_range("2020-01", periods=N, freq="M"),
            took=pd.to_timedelta(np.arange(N) % 7, unit="h"),
            day=[day, day.replace(year=1)] * 30,
            bins=pd.cut(np.arange(N), 3),
            sparse=pd.arrays.SparseArray([0.0, 1] * 30),
            mixed=pd.Categorical([1, "a"] * 30),
        ),
        "paid",
    )
    assert np.isfinite(table.x).all()
    assert table.left_out == ()
    assert {"whole", "bins", "sparse", "mixed"} <= set(table.annotations)
    assert table.words["mixed"] == ("1", "a")


def test_a_label_may_be_named_by_a_number_and_have_one_column():
    x = np.random.default_rng(0).normal(size=(N, 2))
    frame = pd.DataFrame(x).assign(y=[1, 0] * 30).rename(columns={"y": 2})
    expected = read_table(x, [1, 0] * 30).y
    assert np.array_equal(read_table(frame, 2).y, expected)
    assert np.array_equal(read_table(frame[[0, 1]], frame[[2]]).y, expected)


def test_a_csv_file_says_what_was_assumed(tmp_path):
    plain = frame_of()
    expected = read_table(plain, "paid")
    read = read_table(written(tmp_path, plain.to_csv(index=False)), "paid")
    assert read.frame.index.tolist() == list(range(1, N + 1))
    for text, encoding, note in [
        (plain.to_csv(index=False), "utf-8-sig", ""),
        (plain.to_csv(index=False), "utf-16", ""),
        (plain.to_csv(index=False, sep=";", decimal=","), "utf-8", "decimal comma"),
        (plain.to_csv(index=False, sep=";"), "utf-8", "separated by semicolons"),
        (plain.to_csv(index=False, sep="\t"), "utf-8", "separated by tabs"),
        (plain.to_csv(index=False).replace(",", ", "), "utf-8", ""),
        (plain.to_csv(index=False).replace("\n", "\r\n"), "utf-8", ""),
    ]:
        table = read_table(written(tmp_path, text, encoding), "paid")
        assert table.frame.equals(read.frame), encoding + note
        assert table.fingerprint == read.fingerprint
        assert np.array_equal(table.x, expected.x)
        assert note in " ".join(table.notes)


def test_names_of_columns_are_shown_on_one_line(tmp_path):
    names = "a long name of a column\n" * 9
    frame = frame_of().rename(columns={"age": names})
    said = refused(frame, "price")
    assert said.startswith("frame has no column 'price'; use one of a long name of a column a long name of a column")
    assert len(said) < 200
    assert refused(written(tmp_path, b"\xff\xfea"), "paid").endswith("save it as UTF-8")


def test_latin_1_is_read_and_said(tmp_path):
    frame = frame_of(city=np.resize(["Zürich", "Genève"], N))
    table = read_table(written(tmp_path, frame.to_csv(index=False), "latin-1"), "paid")
    assert table.words["city"] == ("Genève", "Zürich")
    assert "it is read as Latin-1" in table.notes[0]


def test_a_question_mark_is_a_missing_value(tmp_path):
    frame = frame_of(city=np.resize(["?", "Oslo", "Rome"], N))
    table = read_table(written(tmp_path, frame.to_csv(index=False)), "paid")
    assert table.words["city"] == ("Oslo", "Rome", "(missing)")
    assert table.annotations["city"][:3].tolist() == [2, 0, 1]


def test_a_parquet_file_is_the_frame_that_was_written(tmp_path):
    pytest.importorskip("pyarrow")
    frame_of().to_parquet(tmp_path / "data.parquet")
    read = read_table(tmp_path / "data.parquet", "paid")
    assert np.array_equal(read.x, read_table(frame_of(), "paid").x)
    frame_of().set_index("city").to_parquet(tmp_path / "data.parquet")
    assert "city" in read_table(tmp_path / "data.parquet", "paid").frame.columns


def test_embeddings_and_pictures_are_the_data_sets_of_the_benchmark(tmp_path):
    from PIL import Image

    from subpop import load_dataset

    rng = np.random.default_rng(0)
    path, folder = tmp_path / "e.npz", tmp_path / "pictures"
    ids = np.array([f"id {i}" for i in range(N)])
    np.savez(path, x=rng.normal(size=(N, 4)), y=np.arange(N) % 2, site=np.arange(N) % 5, key=ids)
    table, same = read_table(path), load_dataset(f"embeddings:{path}")
    assert np.array_equal(table.dataset().x, same.x)
    assert list(table.annotations) == ["site"]
    assert any("key has a different value in every row" in note for note in table.notes)
    sides, others = split(table.dataset()), split(same)
    assert np.array_equal(sides.test, others.test)
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for i in range(20):
            Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(folder / name / f"{i}.png")
    pictures = read_table(folder)
    assert pictures.x.dtype == np.uint8
    assert pictures.classes == ("cat", "dog")


# --- rows as hashes ---------------------------------------------------------------------------------------------------


def test_rows_have_hashes_by_content_alone():
    frame = frame_of()
    table, turned = read_table(frame, "paid"), read_table(frame[::-1], "paid")
    assert len(np.unique(table.row_hashes)) == N
    assert np.array_equal(table.row_hashes, turned.row_hashes[::-1])
    data = table.dataset(as_rows=True)
    assert data.x.shape == (N, 1)
    assert data.x.dtype == np.int64
    assert data.x.min() >= 0


def test_the_fingerprint_depends_on_all_that_is_trained_on():
    frame = frame_of()
    prints = {
        read_table(each, "paid").fingerprint
        for each in [
            frame,
            frame.assign(age=frame.age + 1),
            frame.assign(paid=frame.paid[::-1].to_numpy()),
            frame.rename(columns={"age": "years"}),
            frame.assign(paid=frame.paid.replace("yes", "Yes")),
            frame[::-1],
        ]
    }
    assert len(prints) == 6
    assert read_table(frame.copy(), "paid").fingerprint in prints


def test_copies_of_a_row_stay_on_one_side_of_a_split():
    frame = pd.concat([frame_of(), frame_of().iloc[[0, 1, 2]].assign(paid="yes")], ignore_index=True)
    table = read_table(frame, "paid")
    assert "3 rows repeat the features of an earlier row, 1 of them with another label" in " ".join(table.notes)
    for as_rows in (False, True):
        for seed in range(5):
            sides = split(table.dataset(as_rows), seed)
            for copy in range(3):
                assert len({copy, N + copy} & set(sides.train.tolist())) in (0, 2)
                assert len({copy, N + copy} & set(sides.test.tolist())) in (0, 2)


def test_many_copies_are_taken_for_rows_that_are_alike_by_chance():
    frame = frame_of()[["city", "paid"]]
    table = read_table(frame, "paid")
    assert table.hashes is None
    assert f"{N - 3} rows repeat" in " ".join(table.notes)


# --- what is left out -------------------------------------------------------------------------------------------------


def test_identifiers_and_constants_are_left_out_and_said():
    ids = np.random.default_rng(0).permutation(N) + 1000
    frame = frame_of(
        id=ids, uuid=[f"u{i * 7919 % 10007}" for i in range(N)], unit="kg", empty=np.nan, name=[f"Mr {i}" for i in range(N)]
    )
    table = read_table(frame, "paid")
    assert table.left_out == ("id", "uuid", "unit", "empty")
    said = " ".join(table.notes)
    assert "column id has a different value in every row" in said
    assert "column unit is 'kg' in all rows" in said
    assert "column empty is missing in all rows" in said
    assert list(table.frame.columns) == ["age", "city", "id", "uuid", "unit", "empty", "name"]
    changed = read_table(frame.assign(id=ids[::-1]), "paid")
    assert np.array_equal(changed.x, table.x)


def test_a_measurement_of_whole_numbers_is_no_identifier():
    values = np.random.default_rng(0).choice(10**6, N, replace=False)
    assert read_table(frame_of(income=values), "paid").left_out == ()


def test_columns_are_dropped_on_demand():
    table = read_table(frame_of(), "paid", drop=["city"])
    assert list(table.frame.columns) == ["age"]
    assert "no column 'cty' to leave out; did you mean city?" in refused(frame_of(), "paid", drop=["cty"])


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "label", "said"),
    [
        ({}, "paied", "no column 'paied'; did you mean paid?"),
        ({}, None, "the label of frame is not named; name one of its columns age, city, paid"),
        ({"paid": "yes"}, "paid", "label paid is yes in all 60 rows; nothing can be learned from one class"),
        ({"paid": np.where(np.arange(N) == 7, None, "yes")}, "paid", "label paid is missing in 1 rows, the first is row 7"),
        (
            {"paid": np.where(np.arange(N) == 7, "no", "yes")},
            "paid",
            "class no of label paid has 1 row: row 7; a class needs",
        ),
        ({"paid": np.arange(N) // 0.7}, "age", "label age has 60 values, from"),
        ({"age": np.where(np.arange(N) == 9, np.inf, 1.0)}, "paid", "column age is inf in row 9; write a number below 3e38"),
        ({"age": [1, "a"] * 30}, "paid", "column age mixes types: 1 (int) in row 0 and 'a' (str) in row 1; make it one type"),
        ({"age": [[1]] * N}, "paid", "column age holds [1] (list) in row 0; a column holds numbers, texts"),
        ({"age": [b"x"] * N}, "paid", "column age holds b'x' (bytes) in row 0"),
        ({"age": np.where(np.arange(N) == 8, -1e39, 1.0)}, "paid", "column age is -1e+39 in row 8; write a number below 3e38"),
        (
            {"age": pd.Series(["\ud800", "b"] * 30, dtype=object)},
            "paid",
            "column age of object cannot be used (UnicodeEncodeError",
        ),
        ({"age": [1j] * N}, "paid", "column age is complex128"),
        (
            {"age": [*map(str, range(N - 1)), "n.n."]},
            "paid",
            "column age has 59 numbers and 1 other values, the first 'n.n.' in row 59",
        ),
        ({"age": 1, "city": "Bern"}, "paid", "frame has no column to learn from: column age is"),
    ],
)
def test_columns_and_labels_that_cannot_be_used(columns, label, said, monkeypatch):
    monkeypatch.setattr("subpop.audit.table.MOST_CLASSES", 50)
    assert said in refused(frame_of(**columns), label)


def test_a_label_of_many_values():
    frame = frame_of(10_000, price=np.arange(10_000) // 2)
    said = refused(frame, "price")
    assert said == (
        "label price has 5,000 values, from 0 to 4999; at most 100 classes can be audited: name another column, or cut this one "
        "into classes first, such as pandas.qcut(frame['price'], 4)"
    )


def test_three_rows():
    assert refused(frame_of(3), "paid") == "there are 3 rows; at least 30 are needed, a third of them for testing: add rows"
    assert "3 rows; at least 30" in refused(np.ones((3, 2)), [0, 1, 0])


def test_columns_of_the_same_name():
    frame = frame_of()
    frame.columns = ["age", "age", "paid"]
    assert refused(frame, "paid") == "two columns are named age; rename one of them"


def test_a_text_column_too_large_for_memory(tmp_path, monkeypatch):
    path = tmp_path / "big.csv"
    path.write_text("age,comment,paid\n" + "1,a very long comment indeed,yes\n" * 20)
    with path.open("r+b") as file:
        file.truncate(2 << 30)  # a file with a hole: takes no space
    assert refused(path, "paid") == (
        "big.csv has 2.0 GB, most of it in column comment; at most 1.0 GB are read: leave out long text columns, or keep a "
        "random sample of the rows"
    )
    monkeypatch.setattr(files, "MOST_BYTES", 5000)
    assert "of which column text has 0.0 GB" in refused(frame_of(text=["word " * 30 + str(i) for i in range(N)]), "paid")


def test_a_large_parquet_file_is_refused_by_its_footer(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    path = tmp_path / "d.parquet"
    frame_of(500, text=[f"{i} long text " * 50 for i in range(500)]).to_parquet(path)
    monkeypatch.setattr(files, "MOST_BYTES", path.stat().st_size)
    monkeypatch.setattr(pd, "read_parquet", lambda *args, **kwargs: pytest.fail("it was read"))
    assert "of which column text has" in refused(path, "paid")


def test_parquet_without_its_engine(tmp_path, monkeypatch):
    (tmp_path / "d.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert refused(tmp_path / "d.parquet", "paid") == (
        "d.parquet is a parquet file, and pyarrow, which reads it, is not installed; run `python -m pip install "
        "'subpop[parquet]'`, or save the table as CSV"
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "data.csv is empty"),
        (b"\n\n", "has no header"),
        (b"age,paid\n", "has 0 rows"),
        (b"age,age,paid\n1,2,yes\n", "two columns named age"),
        (b"PK\x03\x04\0\0\0\0", "is not a text file"),
        ("age,paid\n" + "1,yes\n" * 40 + "1\n", "data.csv, line 42: 1 fields instead of 2"),
        ("age,paid\n" + "1,yes\n" * 40 + "1,2,yes\n", "Expected 2 fields in line 42, saw 3"),
        ("age,paid\n" + "1,yes,2\n" * 40, "more fields than the 2 of its header"),
        ('age,paid\n"1,yes\n' + "1,yes\n" * 40, "cannot be read as a table"),
        ("39,State-gov,yes\n" * 40, "no column 'paid'"),
        ("age;paid\n" + "1;yes\n" * 40, "label paid is yes in all 40 rows"),
        (codecs.BOM_UTF16_LE + b"a", "data.csv"),
    ],
)
def test_files_that_are_no_table(tmp_path, content, said):
    assert said in refused(written(tmp_path, content), "paid")


def test_a_spoilt_number_is_named_by_its_row(tmp_path):
    frame = frame_of().astype({"age": object})
    frame.loc[16, "age"] = "4O"
    said = refused(written(tmp_path, frame.to_csv(index=False)), "paid")
    assert said == (
        "column age has 59 numbers and 1 other values, the first '4O' in row 17; correct these values, write nothing for a "
        "missing one, or leave the column out"
    )


def test_texts_of_which_many_are_numbers_are_read_as_texts_and_said():
    frame = frame_of(ticket=[f"A {i}" if i % 3 == 0 else str(i * i) for i in range(N)])
    assert (
        "column ticket has 40 numbers and 20 other values, the first 'A 0' in row 0: it is read as text"
        in read_table(frame, "paid").notes
    )


@pytest.mark.parametrize(
    ("source", "label", "said"),
    [
        (np.ones(N), np.zeros(N), "the rows are float64 of shape (60,)"),
        (np.ones((N, 2)), None, "needs an array of labels"),
        (np.ones((N, 2)), "y", "needs an array of labels"),
        (np.ones((N, 2)), [0, 1], "the labels have shape (2,); 60 rows need shape (60,)"),
        (np.ones((N, 2)), np.eye(N), "the labels have shape (60, 60)"),
        (3, [1], "the rows are int64 of shape ()"),
        ([[1, 2], [3]], [0, 1], "the rows are not an array"),
        (np.ones((N, 2)), [1, "a"] * 30, "column y mixes types: 1 (int) in row 0 and 'a' (str) in row 1"),
        ("x" * 5000 + ".csv", "paid", "there is no xxx"),
        ("nowhere.csv", "paid", "there is no nowhere.csv; give the path of a .csv"),
        (__file__, "paid", "ends in .py; give a .csv"),
    ],
)
def test_sources_that_are_no_data(source, label, said):
    assert said in refused(source, label)


def test_a_sparse_matrix():
    from scipy.sparse import csr_array

    assert "are a sparse csr_array; give csr_array.toarray()" in refused(csr_array(np.eye(N)), np.arange(N) % 2)


def test_labels_of_files_that_have_their_own(tmp_path):
    np.savez(tmp_path / "e.npz", x=np.ones((N, 2)), y=np.arange(N) % 2)
    assert "label='site' cannot be chosen for e.npz; an .npz file has its labels under the key y" in refused(
        tmp_path / "e.npz", "site"
    )


def test_classes_that_are_spelt_almost_alike_are_said():
    table = read_table(frame_of(paid=np.resize(["yes", "no", "Yes"], N)), "paid")
    assert "classes 'Yes' and 'yes' of label paid count as two, although they are spelt almost alike" in table.notes
