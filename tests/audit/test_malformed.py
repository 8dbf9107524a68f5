"""A hundred malformed files and specifications: each is refused in a sentence, or read rightly; nothing else is raised."""

import csv
import io
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from subpop.audit.estimator import estimator_of
from subpop.audit.table import MIN_ROWS, read_table
from subpop.types import BadInput

SEPARATORS = {"commas": ",", "semicolons": ";", "tabs": "\t", "vertical bars": "|"}
CITIES = ("Bern", "Oslo", "Zürich")
FEW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def frame_of(n):
    rng = np.random.default_rng(n)
    columns = {"age": rng.normal(40, 9, n).round(3), "city": rng.choice(CITIES, n), "paid": rng.choice(["no", "yes"], n)}
    return pd.DataFrame(columns)


def refused_or(make):
    """What `make` returns, or None if it raises BadInput with one printable sentence. Warnings are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            return make()
        except BadInput as error:
            said = str(error)
            assert len(said) > 20
            assert "\n" not in said
            return None


def check_table(table):
    """The invariants of every table."""
    assert len(table) == len(table.x) == len(table.y) >= MIN_ROWS
    assert np.isfinite(table.x).all()
    assert np.bincount(table.y, minlength=len(table.classes)).min() >= 5
    assert len(table.classes) >= 2
    assert table.frame is None or len(table.frame) == len(table)
    assert all(len(codes) == len(table) for codes in table.annotations.values())


# --- CSV --------------------------------------------------------------------------------------------------------------


@st.composite
def csv_bytes(draw):
    """A well-formed CSV file, its frame and its label."""
    frame = frame_of(draw(st.sampled_from([45, 60, 90])))
    separator = draw(st.sampled_from(list(SEPARATORS.values())))
    text = frame.to_csv(
        index=False,
        sep=separator,
        decimal="," if separator == ";" else ".",
        lineterminator=draw(st.sampled_from(["\n", "\r\n"])),
        quoting=draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC])),
    )
    return text.encode(draw(st.sampled_from(["utf-8", "utf-8-sig", "latin-1", "utf-16"]))), frame


@FEW
@given(csv_bytes())
def test_well_formed_files_are_read_rightly(tmp_path, made):
    content, frame = made
    (tmp_path / "data.csv").write_bytes(content)
    table = read_table(tmp_path / "data.csv", "paid")
    assert table.frame["city"].tolist() == frame["city"].tolist()
    assert table.frame["age"].tolist() == frame["age"].tolist()
    assert [table.classes[code] for code in table.y] == frame["paid"].tolist()


def cut(draw, content):
    return content[: draw(st.integers(0, max(0, len(content) - 1)))]


def other_bytes(draw, content):
    place = draw(st.integers(0, len(content)))
    return content[:place] + draw(st.binary(min_size=1, max_size=5)) + content[place + draw(st.integers(0, 5)) :]


def other_field(draw, content):
    """A line with a field more or less, another value, or none at all."""
    lines = content.split(b"\n")
    line = draw(st.integers(0, len(lines) - 1))
    new = draw(
        st.sampled_from(
            [b"", b",", b";;;", b'"', b"x", b"1", b"1,2", b"1,2,3,4", b"nan,nan,nan", b"1,Bern,maybe", b"inf,Bern,no"]
        )
    )
    lines[line] = draw(st.sampled_from([new, lines[line] + new, new + lines[line]]))
    return b"\n".join(lines)


def other_header(draw, content):
    names = draw(
        st.sampled_from([b"", b"age,age,paid", b"age", b"paid", b",,", b"a,b,c,d,paid", b"paid,paid,paid", b'"age,city,paid'])
    )
    return names + b"\n" + content.partition(b"\n")[2]


def only_bytes(draw, content):
    return draw(st.binary(max_size=200))


@st.composite
def malformed_csv(draw):
    content, _ = draw(csv_bytes())
    for change in draw(
        st.lists(st.sampled_from([cut, other_bytes, other_field, other_header, only_bytes]), min_size=1, max_size=2)
    ):
        content = change(draw, content)
    return "data.csv", content


def check_labels(path, table):
    """Labels and number of rows are those that Python's own reader finds."""
    content = path.read_bytes()
    encoding = "utf-8-sig"
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    elif any("Latin-1" in note for note in table.notes):
        encoding = "latin-1"
    separator = next((mark for name, mark in SEPARATORS.items() if any(f"by {name}" in note for note in table.notes)), ",")
    text = content.decode(encoding)
    records = [each for each in csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True) if each]
    place = records[0].index("paid")
    found = [each[place].strip() for each in records[1:]]
    assert [table.classes[code].strip() for code in table.y] == found


# --- parquet and npz --------------------------------------------------------------------------------------------------


@st.composite
def malformed_parquet(draw):
    pytest.importorskip("pyarrow")
    frame = frame_of(45)
    frame = draw(
        st.sampled_from(
            [
                frame,
                frame.iloc[:0],
                frame.assign(paid=None),
                frame.assign(age=[[1.0, 2.0]] * 45),
                frame.assign(age=[{"a": 1}] * 45),
                frame.assign(age=np.inf),
                frame.set_index(["age", "city"]),
                frame.assign(age=pd.to_timedelta(frame["age"], unit="h")),
                frame.assign(age=[b"x"] * 45),
            ]
        )
    )
    file = io.BytesIO()
    frame.to_parquet(file)
    content = file.getvalue()
    change = draw(st.sampled_from(["cut", "magic", "footer", "text", "none"]))
    if change == "cut":
        content = cut(draw, content)
    elif change == "magic":
        content = b"PAR2" + content[4:-4] + b"PAR2"
    elif change == "footer":
        content = content[:-8] + draw(st.binary(min_size=4, max_size=4)) + content[-4:]
    elif change == "text":
        content = b"age,city,paid\n1,Bern,yes\n"
    return "data.parquet", content


@st.composite
def malformed_npz(draw):
    n = 40
    x = draw(
        st.sampled_from(
            [
                np.ones((n, 2)), np.full((n, 2), np.nan), np.ones(n), np.ones((n, 0)), np.ones((3, 2)), np.full((n, 2), 1e300),
                np.full((n, 2), "text"), np.ones((n, 2), complex), np.array([[1, "a"]] * n, dtype=object),
            ]
        )
    )  # fmt: skip
    y = draw(
        st.sampled_from(
            [
                np.arange(n) % 2, np.zeros(n, int), np.arange(n), np.arange(n) % 2 / 1.0, np.arange(n - 1) % 2, np.array(1),
                np.array(["a", "b"] * (n // 2)), np.arange(n) % 2 == 0, np.arange(n)[:, None] % 2,
            ]
        )
    )  # fmt: skip
    arrays = {"x": x, "y": y} | draw(
        st.sampled_from([{}, {"site": np.arange(n) % 3}, {"site": np.full(n, np.nan)}, {"site": np.ones(3)}])
    )
    for lost in draw(st.lists(st.sampled_from(["x", "y"]), max_size=1)):
        del arrays[lost]
    file = io.BytesIO()
    np.savez(file, **arrays)
    content = file.getvalue()
    return "data.npz", draw(st.sampled_from([content, content])) if draw(st.booleans()) else other_bytes(draw, content)


# --- specifications ---------------------------------------------------------------------------------------------------


@st.composite
def malformed_spec(draw):
    where = draw(
        st.sampled_from(
            ["", "sklearn.tree", "sklearn.nowhere", "no such", "json", "a.py", "..", "sklearn", "/", "sklearn.linear_model"]
        )
    )
    name = draw(
        st.sampled_from(
            ["", "DecisionTreeClassifier", "LinearRegression", "dumps", "JSONDecoder", "1x", "_private", "a.b", "tree"]
        )
    )
    call = draw(
        st.sampled_from(
            ["", "()", "(max_depth=2)", "(max_depth=-1)", "(", "(x=y)", "(**{})", "(1, 2, 3)", "(max_depth='a')", ")("]
        )
    )
    return draw(st.sampled_from([f"{where}:{name}{call}", f"{where}{name}{call}", f"{where}:{name}:{call}"]))


# --- the property -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def numbers():
    x = np.random.default_rng(0).normal(size=(60, 2))
    return read_table(x, x[:, 0] > 0)


@settings(max_examples=160, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.one_of(malformed_csv(), malformed_csv(), malformed_parquet(), malformed_npz(), malformed_spec()))
def test_what_is_malformed_is_refused_in_a_sentence_or_read_rightly(tmp_path, numbers, made):
    if isinstance(made, str):
        own = refused_or(lambda: estimator_of(made, numbers, n_jobs=1))
        assert own is None or own.name.startswith("DecisionTreeClassifier")
        return
    name, content = made
    path = tmp_path / name
    path.write_bytes(content)
    table = refused_or(lambda: read_table(path, None if name == "data.npz" else "paid"))
    if table is not None:
        check_table(table)
        if name == "data.csv":
            check_labels(path, table)
