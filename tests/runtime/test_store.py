"""The store keeps values bit for bit, whole chunks only, and survives other writers, damage and kill -9."""

from __future__ import annotations

import contextlib
import inspect
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from chunks import CELL, assert_same, bits, chunk
from hypothesis import given, settings
from hypothesis.extra import numpy as st_numpy

from subpop.runtime import store as store_module
from subpop.runtime import store_rows
from subpop.runtime.store import Store
from subpop.types import BadInput, Trial, TrialResult

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "deep" / "store.sqlite"


# --- values -----------------------------------------------------------------------------------------------------------


def test_a_chunk_comes_back_as_it_was_after_the_file_is_closed(path: Path) -> None:
    with Store(path) as store:
        assert store.get_chunk("k") is None
        assert not store.has_chunk("k")
        store.put_chunk("k", CELL, chunk(1), "cpu")
    with Store(path) as store:
        assert store.has_chunk("k")
        assert_same(store.get_chunk("k"), chunk(1))
        assert store.get_chunk("other") is None


def test_a_chunk_is_read_once_for_has_chunk_and_the_get_chunk_that_follows(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []

    def read(connection: sqlite3.Connection, key: str) -> object:
        reads.append(key)
        return store_rows.read_chunk(connection, key)

    monkeypatch.setattr(store_module, "CHUNK", store_module.CHUNK._replace(read=read))
    with Store(path) as store:
        store.put_chunk("k", CELL, chunk(1), "cpu")
    reads.clear()
    with Store(path) as store:
        assert store.has_chunk("k")
        first, second = store.get_chunk("k"), store.get_chunk("k")
        assert reads == ["k", "k"], "one for the first two questions, and one for the third"
        assert_same(first, chunk(1))
        assert_same(second, chunk(1))
        assert first[0].arrays["right"] is not second[0].arrays["right"]


def test_trials_that_another_process_damages_after_has_chunk_are_not_returned(path: Path) -> None:
    with Store(path) as store:
        store.put_chunk("k", CELL, chunk(1), "cpu")
    with Store(path) as store:
        assert store.has_chunk("k")
        with contextlib.closing(sqlite3.connect(path)) as other:
            assert other.execute("UPDATE metrics SET value = value + 1 WHERE value IS NOT NULL").rowcount
            other.commit()
        assert store.get_chunk("k") is None
        assert "are damaged" in store.notes[0]


def test_trials_that_are_replaced_after_has_chunk_are_the_new_ones(path: Path) -> None:
    with Store(path) as store:
        store.put_chunk("k", CELL, chunk(1), "cpu")
    with Store(path) as store:
        assert store.has_chunk("k")
        store.put_chunk("k", CELL, chunk(2), "cpu", replace=True)
        assert_same(store.get_chunk("k"), chunk(2))


def test_trials_just_stored_are_not_read_again_unless_another_process_changed_the_file(path: Path) -> None:
    with Store(path) as store, Store(path) as other:
        for number in range(2):
            store.put_chunk(f"k{number}", CELL, chunk(number), "cpu")
        assert sorted(store._at_hand._rows) == ["k0", "k1"]
        assert store.has_chunk("k0")
        assert_same(store.get_chunk("k0"), chunk(0))
        assert sorted(store._at_hand._rows) == ["k1"]
        other.put_chunk("k1", CELL, chunk(2), "cpu", replace=True)
        assert_same(store.get_chunk("k1"), chunk(2))


def test_trials_that_another_process_replaces_while_they_are_verified_are_the_new_ones(path: Path) -> None:
    with Store(path) as store:
        store.put_chunk("k", CELL, chunk(1), "cpu")
    with Store(path) as store, Store(path) as other:
        verify = store._verified_chunk

        def slowly(key: str) -> object:
            rows = verify(key)
            other.put_chunk("k", CELL, chunk(2), "cpu", replace=True)
            return rows

        store._verified_chunk = slowly  # type: ignore[method-assign]
        assert store.has_chunk("k")
        store._verified_chunk = verify  # type: ignore[method-assign]
        assert_same(store.get_chunk("k"), chunk(2))


def test_verified_chunks_are_kept_up_to_a_number_of_bytes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(path) as store:
        for number in range(3):
            store.put_chunk(f"k{number}", CELL, chunk(number), "cpu")
        size = store_rows.read_chunk(store._connection, "k0").n_bytes
    monkeypatch.setattr(store_module, "AT_HAND", 2 * size)
    with Store(path) as store:
        assert all(store.has_chunk(f"k{number}") for number in range(3))
        assert sorted(store._at_hand._rows) == ["k0", "k1"]
        for number in range(3):
            assert_same(store.get_chunk(f"k{number}"), chunk(number))
        assert store._at_hand._rows == {}
        assert store._at_hand._room == 2 * size


def test_floats_survive_bit_for_bit(path: Path) -> None:
    values = [0.1, -0.0, 0.0, float("inf"), float("-inf"), float("nan"), 5e-324, -1.7976931348623157e308, 1.0, 2.0**60, 1 / 3]
    metrics = {f"m{i}": value for i, value in enumerate(values)}
    with Store(path) as store:
        store.put_chunk("k", CELL, [TrialResult(Trial("", 0), metrics)], "cpu")
    with Store(path) as store:
        found = store.get_chunk("k")
    assert found is not None
    assert [bits(v) for v in found[0].metrics.values()] == [bits(v) for v in values]


def test_numpy_scalars_become_plain_numbers(path: Path) -> None:
    trial = Trial("a", int(np.int64(3)), attacked=bool(np.bool_(False)))
    result = TrialResult(trial, {"f": np.float32(0.1), "i": np.int64(4), "b": np.bool_(True)}, n_fits=int(np.int64(2)))
    with Store(path) as store:
        store.put_chunk("k", CELL, [result], "cpu")
        found = store.get_chunk("k")
    assert found is not None
    assert found[0].metrics == {"f": float(np.float32(0.1)), "i": 4.0, "b": 1.0}
    assert found[0].trial == trial


ARRAYS = [
    np.zeros(0),
    np.zeros((3, 0, 2), np.bool_),
    np.array(True),
    np.array(2.5),
    np.arange(13) % 3 == 0,
    np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
    np.arange(5, dtype=">i4"),
    np.array(["a", "näm"]),
    np.array([np.nan, -0.0, np.inf], np.float32),
    np.array(["2020-01-02"], "datetime64[D]"),
    np.array([1 + 2j]),
    np.zeros(100_000),
    np.random.default_rng(0).integers(0, 256, 70_000, dtype=np.uint8),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype}-{a.shape}")
def test_arrays_survive(path: Path, array: np.ndarray) -> None:
    with Store(path) as store:
        store.put_arrays("k", {"a": array})
    with Store(path) as store:
        found = store.get_arrays("k")
    assert found is not None
    assert (found["a"].dtype, found["a"].shape, found["a"].tobytes()) == (array.dtype, array.shape, array.tobytes())
    assert found["a"].flags.writeable


@settings(max_examples=25, deadline=None)
@given(
    array=st_numpy.arrays(st_numpy.boolean_dtypes() | st_numpy.floating_dtypes(), st_numpy.array_shapes(min_dims=0, min_side=0))
)
def test_any_array_survives(tmp_path_factory: pytest.TempPathFactory, array: np.ndarray) -> None:
    with Store(tmp_path_factory.mktemp("any") / "s.sqlite") as store:
        store.put_arrays("k", {"a": array})
        found = store.get_arrays("k")
    assert found is not None
    assert (found["a"].dtype, found["a"].shape, found["a"].tobytes()) == (array.dtype, array.shape, array.tobytes())


def test_a_transposed_array_keeps_its_values(path: Path) -> None:
    array = np.arange(6).reshape(2, 3).T
    with Store(path) as store:
        store.put_arrays("k", {"a": array})
        found = store.get_arrays("k")
    assert found is not None
    np.testing.assert_array_equal(found["a"], array)


def test_equal_arrays_are_kept_once_and_small(path: Path) -> None:
    bools = np.random.default_rng(0).random(80_000) < 0.5
    zeros = np.zeros(80_000)
    with Store(path) as store:
        store.put_chunk("k", CELL, [TrialResult(Trial("", i), {}, {"b": bools, "z": zeros}) for i in range(5)], "cpu")
        store.put_arrays("a", {"again": bools.copy()})
    sizes = [row[0] for row in sqlite3.connect(path).execute("SELECT length(bytes) FROM blobs ORDER BY 1")]
    assert len(sizes) == 2
    assert sizes[0] < 4000
    assert 9_000 < sizes[1] <= 10_000


def test_a_key_that_is_there_stays_as_it_is(path: Path) -> None:
    with Store(path) as store:
        store.put_chunk("k", CELL, chunk(1, 2), "cpu")
        store.put_chunk("k", CELL, chunk(2, 3), "cpu")
        assert_same(store.get_chunk("k"), chunk(1, 2))
        store.put_arrays("a", {"x": np.ones(2)})
        store.put_arrays("a", {"y": np.zeros(2)})
        found = store.get_arrays("a")
    assert found is not None
    assert list(found) == ["x"]
    assert sqlite3.connect(path).execute("SELECT count(*) FROM trials").fetchone() == (2,)


def test_records_hold_the_last_word(path: Path) -> None:
    with Store(path) as store:
        assert store.records() == {}
        store.put_record("b", {"value": 1})
        store.put_record("a", {"value": [1.5, None, "x"]})
        store.put_record("b", {"value": 2})
    with Store(path) as store:
        assert list(store.records().items()) == [("a", {"value": [1.5, None, "x"]}), ("b", {"value": 2})]
        with pytest.raises(BadInput, match="record c is not JSON data"):
            store.put_record("c", {"value": np.zeros(2)})


def test_what_a_trial_ran_under_can_be_read_with_plain_sql(path: Path) -> None:
    with Store(path) as store:
        store.put_chunk("k", CELL, [TrialResult(Trial("g", 4), {"target_damage": 0.25})], "cuda")
    row = sqlite3.connect(path).execute(
        "SELECT key, cell ->> 'victim', device, versions ->> 'numpy', subpopulation, seed, metric, value "
        "FROM chunks JOIN trials ON trials.chunk = chunks.id JOIN metrics ON metrics.trial = trials.id"
    )
    assert row.fetchall() == [("k", "logistic_regression", "cuda", np.__version__, "g", 4, "target_damage", 0.25)]


# --- bad input --------------------------------------------------------------------------------------------------------


def test_what_cannot_be_kept_is_refused_and_nothing_of_it_is_written(path: Path) -> None:
    good = chunk(0, 1)[0]
    with Store(path) as store:
        with pytest.raises(BadInput, match=r"chunk k .* has no trials"):
            store.put_chunk("k", CELL, [], "cpu")
        with pytest.raises(BadInput, match="'m' is 'high'"):
            store.put_chunk("k", CELL, [good, TrialResult(Trial("", 0), {"m": "high"})], "cpu")  # type: ignore[dict-item]
        with pytest.raises(BadInput, match="'a' of object"):
            store.put_chunk("k", CELL, [good, TrialResult(Trial("", 0), {}, {"a": np.array([{}])})], "cpu")
        with pytest.raises(BadInput, match="no arrays"):
            store.put_arrays("k", {})
        assert store.get_chunk("k") is None


def test_an_error_in_the_middle_of_a_chunk_leaves_nothing(path: Path) -> None:
    with Store(path) as store:
        with pytest.raises(OverflowError):
            store.put_chunk("k", CELL, [*chunk(0, 3), TrialResult(Trial("", 2**70), {})], "cpu")
        store._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1000)
        large = TrialResult(Trial("", 4), {}, {"large": np.random.default_rng(0).random(500)})
        with pytest.raises(BadInput, match="cut the array into parts"):
            store.put_chunk("k", CELL, [*chunk(0, 3), large], "cpu")
        assert store.get_chunk("k") is None
    assert sqlite3.connect(path).execute("SELECT (SELECT count(*) FROM trials) + (SELECT count(*) FROM blobs)").fetchone() == (0,)


def test_a_folder_and_a_path_below_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is a folder"):
        Store(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadInput, match=r"cannot be created.*--store"):
        Store(tmp_path / "file" / "store.sqlite")


PROTECTED = """
import importlib.metadata, os, shutil, tempfile
from pathlib import Path
import numpy
from subpop.runtime.store import Store
from subpop.types import BadInput

folder = Path(tempfile.mkdtemp())
if os.geteuid() == 0:  # permissions bind no superuser
    os.chown(folder, 65534, 65534)
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
path = folder / "runs" / "store.sqlite"
Store(path).close()
path.chmod(0o400)
path.parent.chmod(0o500)
for name in ("store.sqlite", "new.sqlite", "below/new.sqlite"):
    try:
        Store(path.parent / name).close()
    except BadInput as error:
        print(error)
path.parent.chmod(0o700)
shutil.rmtree(folder)
"""


def test_a_file_or_folder_without_write_access_is_refused_at_once() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", PROTECTED], capture_output=True, text=True, check=True, env=environment)
    lines = run.stdout.splitlines()
    assert len(lines) == 3
    for line, fix in zip(lines, ["give write access", "give write access", "cannot be created"], strict=True):
        assert fix in line
        assert "--store" in line


def test_a_store_from_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    Store(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 7")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(BadInput, match=r"schema 7.*reads schema 3.*upgrade subpop.*--store"):
        Store(path)
    assert path.read_bytes() == before


def test_a_database_of_another_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE photos (id)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(BadInput, match=r"another program.*--store"):
        Store(path)
    assert path.read_bytes() == before


def filled(path: Path) -> bytes:
    with Store(path) as store:
        for number in range(4):
            store.put_chunk(f"k{number}", CELL, chunk(number), "cpu")
    return path.read_bytes()


@pytest.mark.parametrize("damage", ["truncated", "page", "header", "tables", "version"])
def test_a_damaged_store_is_rescued_and_kept(path: Path, damage: str) -> None:
    """What can be verified is in the new file, to the bit; the damaged file lies beside it, as it was, and is named."""
    content = filled(path)
    damaged = {
        "truncated": content[:-4096],
        "page": content[:-8192] + b"\xff" * 4096 + content[-4096:],
        "header": b"\0" * 100 + content[100:],
        "tables": content.replace(b"CREATE TABLE trials", b"CREATE TABLE trjals"),
        "version": content[:60] + b"\0" * 4 + content[64:],
    }[damage]
    path.write_bytes(damaged)
    with Store(path) as store:
        chunks = {number: store.get_chunk(f"k{number}") for number in range(4)}
        assert sum(f"renamed to {path.with_name('store.damaged.sqlite')}" in note for note in store.notes) == 1
        for number in range(4):
            store.put_chunk(f"k{number}", CELL, chunk(number), "cpu")
    whole = {number: found for number, found in chunks.items() if found is not None}
    for number, found in whole.items():
        assert_same(found, chunk(number))
    assert whole
    assert len(whole) == 4 or damage in ("truncated", "page")
    assert path.with_name("store.damaged.sqlite").read_bytes() == damaged
    with Store(path) as store:
        assert not store.notes
        for number in range(4):
            assert_same(store.get_chunk(f"k{number}"), chunk(number))


def test_what_is_no_store_is_refused_and_left_alone(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not a database at all, " * 100)
    with pytest.raises(BadInput, match=r"damaged or is not a store of subpop.*move it away.*--store"):
        Store(path)
    assert path.read_bytes() == b"not a database at all, " * 100
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_flipped_byte_inside_an_array_costs_that_array(path: Path) -> None:
    secret = np.random.default_rng(0).integers(0, 256, 3000, dtype=np.uint8)
    with Store(path) as store:
        store.put_arrays("a", {"x": secret})
        store.put_arrays("b", {"y": np.ones(3)})
    content = bytearray(path.read_bytes())
    content[content.find(secret.tobytes()[:50])] ^= 1
    path.write_bytes(content)
    with Store(path) as store:
        assert store.get_arrays("a") is None
        assert store.get_arrays("b") is not None
        assert [note for note in store.notes if "the arrays a" in note] == store.notes
        store.put_arrays("a", {"x": secret})
        found = store.get_arrays("a")
    assert found is not None
    assert np.array_equal(found["x"], secret)


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM trials WHERE id = 3",
        "UPDATE trials SET attacked = 1 - attacked WHERE id = 3",
        "UPDATE trials SET seconds = seconds + 1 WHERE id = 3",
        "UPDATE trials SET seed = 77 WHERE id = 3",
        "UPDATE metrics SET value = 24 WHERE trial = 3 AND position = 2",
        "UPDATE metrics SET metric = 'other' WHERE trial = 3 AND position = 2",
        "DELETE FROM metrics WHERE trial = 3",
        "UPDATE trial_arrays SET sha = (SELECT min(sha) FROM trial_arrays) WHERE trial = 3 AND position = 0",
        "UPDATE trial_arrays SET name = 'wrong' WHERE trial = 3 AND position = 0",
        "UPDATE blobs SET shape = '[11, 9]' WHERE sha = (SELECT sha FROM trial_arrays WHERE trial = 3 AND position = 0)",
        "UPDATE chunks SET device = 'cuda' WHERE key = 'k0'",
        "UPDATE chunks SET cell = replace(cell, 'digits', 'adult') WHERE key = 'k0'",
        "UPDATE chunks SET key = 'k9' WHERE key = 'k0'",
    ],
)
def test_a_changed_row_costs_its_chunk_alone(path: Path, change: str) -> None:
    """Every column counts; the chunk is dropped and said so once, and what is put in its place is whole."""
    filled(path)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        assert connection.execute(change).rowcount > 0
    with Store(path) as store:
        assert store.get_chunk("k9" if "k9" in change else "k0") is None
        assert len(store.notes) == 1
        for number in (1, 2, 3):
            assert_same(store.get_chunk(f"k{number}"), chunk(number))
        store.put_chunk("k0", CELL, chunk(0), "cpu")
        assert_same(store.get_chunk("k0"), chunk(0))


@pytest.mark.parametrize(
    "change", ["arrays = replace(arrays, 'x', 'y')", "arrays = (SELECT arrays FROM array_sets WHERE key = 'whole')", "key = 'b'"]
)
def test_a_changed_set_of_arrays_is_dropped(path: Path, change: str) -> None:
    """Every array is whole; what is wrong is which of them the key names."""
    with Store(path) as store:
        store.put_arrays("a", {"x": np.zeros(3)})
        store.put_arrays("whole", {"x": np.ones(3)})
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"UPDATE array_sets SET {change} WHERE key = 'a'")
    with Store(path) as store:
        assert store.get_arrays("b" if "key = 'b'" in change else "a") is None
        assert len(store.notes) == 1
        assert store.get_arrays("whole") is not None


@pytest.mark.parametrize("change", ["record = '{\"value\": 2}'", "updated = 'today'", "key = 'b'", "kind = 'cell'"])
def test_a_changed_record_is_dropped(path: Path, change: str) -> None:
    with Store(path) as store:
        store.put_record("a", {"value": 1}, kind="made")
        store.put_record("kept", {"value": 3}, kind="made")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"UPDATE records SET {change} WHERE key = 'a'")
    with Store(path) as store:
        assert store.records("made") == {"kept": {"value": 3}}
        assert store.records() == {}
        assert store.get_record("a", "made") is None
        assert len(store.notes) == 1


# A store as the last version without digests made it.
SCHEMA_1 = """
CREATE TABLE chunks (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, cell TEXT NOT NULL, n_trials INTEGER NOT NULL,
    device TEXT NOT NULL, created TEXT NOT NULL, versions TEXT NOT NULL);
CREATE TABLE trials (id INTEGER PRIMARY KEY, chunk INTEGER NOT NULL REFERENCES chunks, position INTEGER NOT NULL,
    subpopulation TEXT NOT NULL, seed INTEGER NOT NULL, attacked INTEGER NOT NULL, seconds REAL NOT NULL, n_fits INTEGER NOT NULL,
    UNIQUE (chunk, position));
INSERT INTO chunks VALUES (1, 'k', '{}', 1, 'cpu', '', '{}');
INSERT INTO trials VALUES (1, 1, 0, 'group 1', 0, 1, 0.5, 1);
PRAGMA application_id = 0x73627070;
PRAGMA user_version = 1;
"""


def test_a_store_of_schema_1_is_set_aside_and_named(path: Path) -> None:
    """Its numbers cannot be verified, so none is served; none is deleted either."""
    path.parent.mkdir(parents=True)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(SCHEMA_1)
    before, kept = path.read_bytes(), path.with_name("store.schema-1.sqlite")
    with Store(path) as store:
        assert store.get_chunk("k") is None
        (note,) = store.notes
        assert "schema 1" in note
        assert str(kept) in note
        store.put_chunk("k", CELL, chunk(1, 2), "cpu")
    assert kept.read_bytes() == before
    with Store(path) as store:
        assert not store.notes
        assert_same(store.get_chunk("k"), chunk(1, 2))


def test_a_store_of_schema_2_is_set_aside_and_named(path: Path) -> None:
    """The tables are those of today, but keys and cells are written in another way."""
    with Store(path) as store:
        store.put_chunk("k", CELL, chunk(1, 2), "cpu")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 2")
    with Store(path) as store:
        (note,) = store.notes
        assert "schema 2, whose keys" in note
        assert str(path.with_name("store.schema-2.sqlite")) in note
        assert store.get_chunk("k") is None


@pytest.mark.parametrize("moment", ["only_one", "looks_like_a_store"])
def test_another_process_may_set_an_old_store_aside_first(path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """Between the look at the file and the lock, or while it is opened, the file is gone and no new one is there yet."""
    with Store(path) as store:
        store.put_chunk("k", CELL, chunk(1, 2), "cpu")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 2")
    looks = getattr(store_module, moment)

    def later(own: Path) -> object:
        if not (other := path.with_name("other.sqlite")).exists():
            own.replace(other)
        return looks(own)

    monkeypatch.setattr(store_module, moment, later)
    with Store(path) as store:
        assert store.get_chunk("k") is None
        store.put_chunk("k", CELL, chunk(1, 2), "cpu")
    with Store(path) as store:
        assert_same(store.get_chunk("k"), chunk(1, 2))


def test_a_store_that_stays_locked_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store(path).close()
    monkeypatch.setattr(store_module, "BUSY_SECONDS", 0.05)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(BadInput, match=r"another process keeps the store .* locked.*--store"):
        Store(path)
    other.execute("ROLLBACK")
    with Store(path) as store:
        other.execute("BEGIN IMMEDIATE")
        assert store.get_chunk("k") is None
        with pytest.raises(BadInput, match="locked"):
            store.put_arrays("a", {"x": np.ones(1)})
        other.execute("ROLLBACK")
        store.put_arrays("a", {"x": np.ones(1)})


# --- several writers, and kill -9 -------------------------------------------------------------------------------------

WRITER = f"""
import sys
from pathlib import Path
import numpy as np
from subpop.runtime.store import Store
from subpop.types import Cell, Trial, TrialResult

{inspect.getsource(chunk)}

path, first, last = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
with Store(path) as store:
    for number in range(first, last):
        store.put_chunk(f"k{{number}}", Cell.of(**{CELL.record()!r}), chunk(number), "cpu")
        print(f"k{{number}}", flush=True)
"""


def writer(path: Path, first: int, last: int) -> subprocess.Popen[str]:
    """A process that puts chunks first..last as soon as it reads a line, and names each one that it has put."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, "-c", WRITER, str(path), str(first), str(last)]
    return subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def start_together(writers: Sequence[subprocess.Popen[str]]) -> None:
    for process in writers:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in writers:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


def killed(process: subprocess.Popen[str]) -> set[str]:
    """Kill -9; the chunks that the process said it had put and nobody has read yet."""
    process.send_signal(signal.SIGKILL)
    return set(process.communicate()[0].split())


def whole_chunks(path: Path) -> set[str]:
    """Check the file and every chunk in it against what was put; the keys of all."""
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    with Store(path) as store:  # makes the tables, where the writers were killed before they could
        keys = [row[0] for row in connection.execute("SELECT key FROM chunks")]
        for key in keys:
            assert_same(store.get_chunk(key), chunk(int(key[1:])))
    unowned = "SELECT count(*) FROM trials WHERE chunk NOT IN (SELECT id FROM chunks)"
    assert connection.execute(unowned).fetchone() == (0,)
    connection.close()
    return set(keys)


def test_processes_that_write_at_once_lose_nothing(path: Path) -> None:
    # The file does not exist yet, and neighbours put some of the same chunks.
    writers = [writer(path, first, first + 8) for first in (0, 4, 8, 12)]
    start_together(writers)
    assert [process.wait(60) for process in writers] == [0] * 4
    for process in writers:
        process.communicate()
    assert whole_chunks(path) == {f"k{number}" for number in range(20)}


def test_kill_at_random_moments_leaves_whole_chunks_only(path: Path) -> None:
    draw = np.random.default_rng()
    promised: set[str] = set()
    for attempt in range(12):
        first = 1000 * attempt
        pair = [writer(path, first, first + 1000), writer(path, first + 2, first + 1002)]
        start_together(pair)
        # Some are killed while the file is made, the others after a few chunks, in the middle of the next one.
        for _ in range(attempt % 4):
            promised.add(pair[0].stdout.readline().strip())  # type: ignore[union-attr]
        time.sleep(draw.uniform(0.0, 0.03))
        for process in pair:
            promised |= killed(process)
        if path.exists():
            assert whole_chunks(path) >= promised
    assert len(promised) >= 18
    with Store(path) as store:
        store.put_chunk("k99999", CELL, chunk(99999), "cpu")
    assert whole_chunks(path) >= {*promised, "k99999"}


def test_threads_share_one_store(path: Path) -> None:
    with Store(path) as store:
        threads = [threading.Thread(target=store.put_chunk, args=(f"k{i}", CELL, chunk(i, 5), "cpu")) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for i in range(8):
            assert_same(store.get_chunk(f"k{i}"), chunk(i, 5))


def test_a_closed_store_says_so(path: Path) -> None:
    store = Store(path)
    store.close()
    store.close()
    with pytest.raises(BadInput, match="closed"):
        store.get_chunk("k")
