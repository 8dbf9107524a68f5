"""The store: every trial, metric and array that a run leaves behind, in one SQLite file.

A chunk of trials is written in one transaction and never changed, so a run that was killed resumes by look-up. Arrays are
blobs named by their content: equal arrays are kept once. A new suite adds metric names, never columns.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from subpop.fingerprint import versions
from subpop.types import Array, BadInput, Cell, Trial, TrialResult

APPLICATION_ID = 0x73627070
SCHEMA = 1
BUSY_SECONDS = 60.0
ZLIB_PAYS = 0.9
ZLIB_SAMPLE = 1 << 16
ELSEWHERE = "name another file with --store"
FIXES = {
    sqlite3.SQLITE_READONLY: "give write access to the file and its folder",
    sqlite3.SQLITE_CANTOPEN: "give write access to the file and its folder",
    sqlite3.SQLITE_FULL: "free some disk space",
    sqlite3.SQLITE_TOOBIG: "cut the array into parts",
}

# `metrics.value` has no declared type: as REAL, SQLite would write -0.0 as the integer 0. It keeps NaN as NULL.
TABLES = f"""
CREATE TABLE chunks (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, cell TEXT NOT NULL, n_trials INTEGER NOT NULL,
    device TEXT NOT NULL, created TEXT NOT NULL, versions TEXT NOT NULL);
CREATE TABLE trials (id INTEGER PRIMARY KEY, chunk INTEGER NOT NULL REFERENCES chunks, position INTEGER NOT NULL,
    subpopulation TEXT NOT NULL, seed INTEGER NOT NULL, attacked INTEGER NOT NULL, seconds REAL NOT NULL, n_fits INTEGER NOT NULL,
    UNIQUE (chunk, position));
CREATE TABLE metrics (trial INTEGER NOT NULL REFERENCES trials, position INTEGER NOT NULL, metric TEXT NOT NULL, value,
    PRIMARY KEY (trial, position)) WITHOUT ROWID;
CREATE TABLE blobs (sha TEXT PRIMARY KEY, dtype TEXT NOT NULL, shape TEXT NOT NULL, codec TEXT NOT NULL, bytes BLOB NOT NULL);
CREATE TABLE trial_arrays (trial INTEGER NOT NULL REFERENCES trials, position INTEGER NOT NULL, name TEXT NOT NULL,
    sha TEXT NOT NULL REFERENCES blobs, PRIMARY KEY (trial, position)) WITHOUT ROWID;
CREATE TABLE array_sets (key TEXT NOT NULL, position INTEGER NOT NULL, name TEXT NOT NULL,
    sha TEXT NOT NULL REFERENCES blobs, PRIMARY KEY (key, position)) WITHOUT ROWID;
CREATE TABLE cells (key TEXT PRIMARY KEY, record TEXT NOT NULL, updated TEXT NOT NULL);
PRAGMA application_id = {APPLICATION_ID}"""


class Store:
    """One SQLite file, opened for reading and writing; safe under several threads and processes, and under kill -9.

    Values come back as they went in: floats bit for bit (NaN as NaN), arrays with dtype and shape, C-contiguous and writable.
    A file that cannot be used raises BadInput and is left as it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        if self.path.is_dir():
            raise BadInput(f"{self.path} is a folder; --store names a file, such as {self.path / 'store.sqlite'}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"the folder of the store {self.path} cannot be created ({error}); {ELSEWHERE}") from error
        self._lock = threading.Lock()
        with _explained(self.path):
            self._connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def has_chunk(self, key: str) -> bool:
        """Whether `get_chunk` would return trials; reads none of them."""
        return bool(self._select("SELECT 1 FROM chunks WHERE key = ?", key))

    def get_chunk(self, key: str) -> list[TrialResult] | None:
        """The trials of a chunk, in the order in which they were put; None if it was never finished."""
        found = self._select("SELECT id, n_trials FROM chunks WHERE key = ?", key)
        if not found:
            return None
        chunk, n_trials = found[0]
        columns = "id, subpopulation, seed, attacked, seconds, n_fits"
        trials = self._select(f"SELECT {columns} FROM trials WHERE chunk = ? ORDER BY position", chunk)
        if len(trials) != n_trials:
            raise _corrupt(self.path, f"chunk {key} holds {len(trials)} of {n_trials} trials")
        of_chunk = "JOIN trials ON trials.id = part.trial WHERE chunk = ? ORDER BY trial, part.position"
        metrics: dict[int, dict[str, float]] = {row[0]: {} for row in trials}
        for trial, metric, value in self._select(f"SELECT trial, metric, value FROM metrics AS part {of_chunk}", chunk):
            metrics[trial][metric] = math.nan if value is None else value
        arrays: dict[int, dict[str, Array]] = {row[0]: {} for row in trials}
        blobs = "SELECT trial, name, sha, dtype, shape, codec, bytes FROM trial_arrays AS part LEFT JOIN blobs USING (sha)"
        for trial, name, *blob in self._select(f"{blobs} {of_chunk}", chunk):
            arrays[trial][name] = _decode(blob, self.path)
        named = [(Trial(name, seed, bool(attacked)), trial, cost) for trial, name, seed, attacked, *cost in trials]
        return [TrialResult(which, metrics[trial], arrays[trial], *cost) for which, trial, cost in named]

    def put_chunk(self, key: str, cell: Cell, results: Sequence[TrialResult], device: str, *, replace: bool = False) -> None:
        """Keep the trials of a chunk, all or none; a chunk that is already there stays as it is, unless told to replace it."""
        if not results:
            raise BadInput(f"chunk {key} of {cell.id} has no trials; put a chunk when its trials are finished")
        # Everything that takes time is done before the write lock is taken.
        metrics = [[(metric, _as_float(metric, value)) for metric, value in result.metrics.items()] for result in results]
        arrays = [_encode_all(result.arrays) for result in results]
        about = (key, json.dumps(asdict(cell)), len(results), device, _now(), json.dumps(versions()))
        with self._writing() as connection:
            there = connection.execute("SELECT id FROM chunks WHERE key = ?", (key,)).fetchone()
            if there and not replace:
                return
            if there:
                _delete_chunk(connection, there[0])
            chunk = connection.execute("INSERT INTO chunks VALUES (NULL, ?, ?, ?, ?, ?, ?)", about).lastrowid
            for position, (result, numbers, blobs) in enumerate(zip(results, metrics, arrays, strict=True)):
                which = (result.trial.subpopulation, int(result.trial.seed), bool(result.trial.attacked))
                row = (chunk, position, *which, float(result.seconds), int(result.n_fits))
                trial = connection.execute("INSERT INTO trials VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)", row).lastrowid
                rows = [(trial, i, *number) for i, number in enumerate(numbers)]
                connection.executemany("INSERT INTO metrics VALUES (?, ?, ?, ?)", rows)
                _insert_arrays(connection, "trial_arrays", trial, blobs)

    def get_arrays(self, key: str) -> dict[str, Array] | None:
        """The arrays put under a key, by name, in the order in which they were put; None if there are none."""
        columns = "name, sha, dtype, shape, codec, bytes"
        rows = self._select(f"SELECT {columns} FROM array_sets LEFT JOIN blobs USING (sha) WHERE key = ? ORDER BY position", key)
        return {name: _decode(blob, self.path) for name, *blob in rows} or None

    def put_arrays(self, key: str, arrays: Mapping[str, Array]) -> None:
        """Keep arrays under a key, all or none; a key that is already there stays as it is."""
        if not arrays:
            raise BadInput(f"no arrays to keep under {key}; give at least one")
        blobs = _encode_all(arrays)
        with self._writing() as connection:
            if not connection.execute("SELECT 1 FROM array_sets WHERE key = ?", (key,)).fetchone():
                _insert_arrays(connection, "array_sets", key, blobs)

    def put_record(self, key: str, record: Mapping[str, Any]) -> None:
        """Keep the last report of a cell, plain JSON data, in place of the one before."""
        try:
            text = json.dumps(record)
        except (TypeError, ValueError) as error:
            raise BadInput(f"the record {key} is not JSON data ({error}); give numbers, strings, lists, mappings") from error
        with self._writing() as connection:
            connection.execute("INSERT OR REPLACE INTO cells VALUES (?, ?, ?)", (key, text, _now()))

    def records(self) -> dict[str, Any]:
        """The last report of every cell, by key, sorted."""
        return {key: json.loads(record) for key, record in self._select("SELECT key, record FROM cells ORDER BY key")}

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._connection.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> None:
        """Check whose file this is before anything in it is changed, then switch it to WAL and create what is missing."""
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                self._check()
                self._select("PRAGMA journal_mode = WAL")
                break
            except _Busy:
                # The switch to WAL asks for the whole file without waiting its turn.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        self._select("PRAGMA synchronous = NORMAL")
        with self._writing() as connection:
            if not connection.execute("PRAGMA user_version").fetchone()[0]:
                for statement in TABLES.split(";"):
                    connection.execute(statement)
            # SQLite opens a write-protected file without a word; this write fails now instead of after hours of training.
            connection.execute(f"PRAGMA user_version = {SCHEMA}")

    def _check(self) -> None:
        # One statement is one snapshot: another process may be creating the tables at this moment.
        counts = "(SELECT count(*) FROM sqlite_master), application_id, user_version"
        tables, application, version = self._select(f"SELECT {counts} FROM pragma_application_id, pragma_user_version")[0]
        if tables and application != APPLICATION_ID:
            raise BadInput(f"{self.path} is a database of another program; {ELSEWHERE}")
        if version > SCHEMA:
            newer = f"has schema {version}, written by a newer subpop; this one reads schema {SCHEMA}"
            raise BadInput(f"the store {self.path} {newer}: upgrade subpop, or {ELSEWHERE}")
        health = self._select("PRAGMA quick_check(1)")[0][0]
        if health != "ok":
            raise _corrupt(self.path, health)

    def _select(self, statement: str, *values: object) -> list[Any]:
        with self._lock, _explained(self.path):
            return self._connection.execute(statement, values).fetchall()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction that has the file's write lock from its start; rolled back whatever goes wrong."""
        with self._lock, _explained(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise


class _Busy(BadInput):
    """Another process holds the file."""


def _corrupt(path: Path, what: object) -> BadInput:
    what = " ".join(str(what).split())
    kept = f"nothing was changed or deleted: move it away, or {ELSEWHERE}"
    return BadInput(f"the store {path} is damaged or is no store ({what}); {kept}")


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ones that name the file and the fix."""
    try:
        yield
    except sqlite3.Error as error:
        # Extended codes keep the primary one in their lowest byte.
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise _corrupt(path, error) from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise _Busy(f"another process keeps the store {path} locked; wait for it, stop it, or {ELSEWHERE}") from error
        fix = FIXES.get(code, "check the file and its disk")
        raise BadInput(f"the store {path} cannot be used ({error}); {fix}, or {ELSEWHERE}") from error


# sha of dtype, shape and plain bytes; dtype; shape; codec; content, bool packed to bits and zlib where it pays
Blob = tuple[str, str, str, str, bytes]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _as_float(metric: str, value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise BadInput(f"metric {metric!r} is {value!r}; a metric is one number") from error


def _delete_chunk(connection: sqlite3.Connection, chunk: int) -> None:
    for table in ("metrics", "trial_arrays"):
        connection.execute(f"DELETE FROM {table} WHERE trial IN (SELECT id FROM trials WHERE chunk = ?)", (chunk,))
    connection.execute("DELETE FROM trials WHERE chunk = ?", (chunk,))
    connection.execute("DELETE FROM chunks WHERE id = ?", (chunk,))


def _insert_arrays(connection: sqlite3.Connection, table: str, owner: object, arrays: Iterable[tuple[str, Blob]]) -> None:
    for position, (name, blob) in enumerate(arrays):
        connection.execute("INSERT OR IGNORE INTO blobs VALUES (?, ?, ?, ?, ?)", blob)
        connection.execute(f"INSERT INTO {table} VALUES (?, ?, ?, ?)", (owner, position, name, blob[0]))


def _encode_all(arrays: Mapping[str, Array]) -> list[tuple[str, Blob]]:
    for name, array in arrays.items():
        if np.asarray(array).dtype.kind not in "biufcSUmM":
            raise BadInput(f"array {name!r} of {np.asarray(array).dtype} cannot be kept; give numbers, booleans or strings")
    return [(name, _encode(np.asarray(array))) for name, array in arrays.items()]


def _encode(array: Array) -> Blob:
    dtype, shape, plain = array.dtype.str, json.dumps(array.shape), array.tobytes()
    packed = np.packbits(array).tobytes() if array.dtype == np.bool_ else plain
    # A sample decides: compressing a large array of random bits to no end would take seconds.
    sample = packed[:ZLIB_SAMPLE]
    pays = len(zlib.compress(sample, 1)) < ZLIB_PAYS * len(sample)
    return _sha(dtype, shape, plain), dtype, shape, "zlib" if pays else "raw", zlib.compress(packed, 1) if pays else packed


def _decode(blob: Sequence[Any], path: Path) -> Array:
    """The array of a blob; its bytes are checked against their hash."""
    sha, dtype, shape, codec, content = blob
    try:
        plain = zlib.decompress(content) if codec == "zlib" else content
        if np.dtype(dtype) == np.bool_:
            plain = np.unpackbits(np.frombuffer(plain, np.uint8), count=math.prod(json.loads(shape))).tobytes()
        array = np.frombuffer(bytearray(plain), dtype).reshape(json.loads(shape))
    except (zlib.error, ValueError, TypeError) as error:
        raise _corrupt(path, f"blob {sha}: {error}") from error
    if _sha(dtype, shape, plain) != sha:
        raise _corrupt(path, f"blob {sha} does not match its content")
    return array


def _sha(dtype: str, shape: str, plain: bytes) -> str:
    digest = hashlib.sha256(f"{dtype}{shape}\0".encode())
    digest.update(plain)
    return digest.hexdigest()
