"""Rows of the tables of a store, and the digests by which they are verified before use.

A digest covers all rows of one chunk of trials, one set of arrays or one record, including its key. If it does not match,
reading raises Damaged, so flipped, lost or swapped values are never returned.
"""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

from subpop.runtime.blobs import Blob, decode, encode_all, is_intact
from subpop.runtime.fingerprint import versions
from subpop.types import Array, BadInput, Cell, Trial, TrialResult

# `metrics.value` has no declared type: as REAL, SQLite would write -0.0 as the integer 0. NaN is stored as NULL.
TABLES = (
    "CREATE TABLE chunks (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, cell TEXT NOT NULL, n_trials INTEGER NOT NULL, "
    "device TEXT NOT NULL, created TEXT NOT NULL, versions TEXT NOT NULL, digest TEXT NOT NULL)",
    "CREATE TABLE trials (id INTEGER PRIMARY KEY, chunk INTEGER NOT NULL REFERENCES chunks, position INTEGER NOT NULL, "
    "subpopulation TEXT NOT NULL, seed INTEGER NOT NULL, attacked INTEGER NOT NULL, seconds REAL NOT NULL, "
    "n_fits INTEGER NOT NULL, UNIQUE (chunk, position))",
    "CREATE TABLE metrics (trial INTEGER NOT NULL REFERENCES trials, position INTEGER NOT NULL, metric TEXT NOT NULL, value, "
    "PRIMARY KEY (trial, position)) WITHOUT ROWID",
    "CREATE TABLE blobs (sha TEXT PRIMARY KEY, dtype TEXT NOT NULL, shape TEXT NOT NULL, codec TEXT NOT NULL, "
    "bytes BLOB NOT NULL)",
    "CREATE TABLE trial_arrays (trial INTEGER NOT NULL REFERENCES trials, position INTEGER NOT NULL, name TEXT NOT NULL, "
    "sha TEXT NOT NULL REFERENCES blobs, PRIMARY KEY (trial, position)) WITHOUT ROWID",
    "CREATE TABLE array_sets (key TEXT PRIMARY KEY, arrays TEXT NOT NULL, digest TEXT NOT NULL)",
    "CREATE TABLE records (kind TEXT NOT NULL, key TEXT NOT NULL, record TEXT NOT NULL, updated TEXT NOT NULL, "
    "digest TEXT NOT NULL, PRIMARY KEY (kind, key))",
)


VALUE_BYTES = 200
"""Memory of a name with its value."""


class Damaged(Exception):
    """Rows of a chunk, a set of arrays or a record differ from what was written."""


class TrialRow(NamedTuple):
    """One trial as stored: metrics as (name, value or None for NaN), arrays as (name, hash of the blob)."""

    subpopulation: str
    seed: int
    attacked: int
    seconds: float
    n_fits: int
    metrics: list[tuple[str, float | None]]
    arrays: list[tuple[str, str]]


@dataclass(frozen=True)
class ChunkRows:
    """All rows of one chunk. cell, versions: JSON; blobs: the blobs of the trials' arrays, by hash."""

    key: str
    cell: str
    device: str
    created: str
    versions: str
    trials: Sequence[TrialRow]
    blobs: Mapping[str, Blob] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        trials = [
            [*t[:3], _bits(t.seconds), t.n_fits, [(name, _bits(value)) for name, value in t.metrics], t.arrays]
            for t in self.trials
        ]
        return digest_of("chunk", self.key, self.cell, self.device, self.created, self.versions, trials)

    @property
    def n_bytes(self) -> int:
        """Roughly the memory of the rows and their blobs."""
        values = sum(len(trial.metrics) + len(trial.arrays) for trial in self.trials)
        return VALUE_BYTES * values + sum(len(blob[-1]) for blob in self.blobs.values())


def digest_of(*parts: object) -> str:
    """SHA-256 of plain values, in order. Values of different types differ, so a type that SQLite changed is noticed."""
    return hashlib.sha256(json.dumps(parts, default=repr).encode()).hexdigest()


def is_text(value: object) -> bool:
    """Whether a value is valid, non-empty text; invalid bytes are read as lone surrogates."""
    try:
        return bool(value.encode("utf-8")) if isinstance(value, str) else False
    except UnicodeEncodeError:
        return False


def _bits(value: object) -> str:
    if type(value) is float:  # most are; of NaN, `hex` is "nan", too
        return value.hex()
    if value is None or value != value:
        return "nan"
    return value.hex() if isinstance(value, float) else repr(value)


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


# --- chunks -----------------------------------------------------------------------------------------------------------


def rows_of(key: str, cell: Cell, results: Sequence[TrialResult], device: str) -> ChunkRows:
    """The rows of a chunk's trials. Raises BadInput for values that cannot be stored."""
    trials: list[TrialRow] = []
    blobs: dict[str, Blob] = {}
    for result in results:
        metrics = [(metric, _as_number(metric, value)) for metric, value in result.metrics.items()]
        encoded = encode_all(result.arrays)
        blobs |= {blob[0]: blob for _, blob in encoded}
        which = (result.trial.subpopulation, int(result.trial.seed), int(result.trial.attacked))
        cost = (float(result.seconds), int(result.n_fits))
        trials.append(TrialRow(*which, *cost, metrics, [(name, blob[0]) for name, blob in encoded]))
    return ChunkRows(key, json.dumps(cell.record()), device, now(), json.dumps(versions()), trials, blobs)


def _as_number(metric: str, value: object) -> float | None:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise BadInput(f"metric {metric!r} is {value!r}; a metric is one number") from error
    return None if math.isnan(number) else number


def results_of(chunk: ChunkRows) -> list[TrialResult]:
    """The trials of verified rows."""
    return [
        TrialResult(
            Trial(row.subpopulation, row.seed, bool(row.attacked)),
            {metric: math.nan if value is None else value for metric, value in row.metrics},
            {name: decode(chunk.blobs[sha]) for name, sha in row.arrays},
            row.seconds,
            row.n_fits,
        )
        for row in chunk.trials
    ]


def insert_chunk(connection: sqlite3.Connection, chunk: ChunkRows) -> None:
    """Write the rows of a chunk whose key is not in the store yet."""
    about = (chunk.key, chunk.cell, len(chunk.trials), chunk.device, chunk.created, chunk.versions, chunk.digest)
    number = connection.execute("INSERT INTO chunks VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)", about).lastrowid
    insert_blobs(connection, chunk.blobs.values())
    for position, row in enumerate(chunk.trials):
        values = (number, position, *row[:5])
        trial = connection.execute("INSERT INTO trials VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)", values).lastrowid
        for table, parts in (("metrics", row.metrics), ("trial_arrays", row.arrays)):
            connection.executemany(f"INSERT INTO {table} VALUES (?, ?, ?, ?)", [(trial, i, *p) for i, p in enumerate(parts)])


def read_chunk(connection: sqlite3.Connection, key: str) -> ChunkRows | None:
    """The verified rows of a chunk; None if there is none."""
    columns = "id, cell, device, created, versions, n_trials, digest"
    found = connection.execute(f"SELECT {columns} FROM chunks WHERE key = ?", (key,)).fetchone()
    if found is None:
        return None
    number, cell, device, created, by, n_trials, digest = found
    columns = "id, subpopulation, seed, attacked, seconds, n_fits"
    trials = connection.execute(f"SELECT {columns} FROM trials WHERE chunk = ? ORDER BY position", (number,)).fetchall()
    if len(trials) != n_trials:
        raise Damaged(f"{len(trials)} of {n_trials} trials are there")
    metrics = _by_trial(connection.execute(_PARTS.format("metric, value", "metrics"), (number,)))
    arrays = _by_trial(connection.execute(_PARTS.format("name, sha", "trial_arrays"), (number,)))
    rows = [
        TrialRow(name, seed, attacked, seconds, n_fits, metrics.get(trial, []), arrays.get(trial, []))
        for trial, name, seed, attacked, seconds, n_fits in trials
    ]
    chunk = ChunkRows(key, cell, device, created, by, rows)
    if chunk.digest != digest:
        raise Damaged("its rows do not fit their digest")
    return replace(chunk, blobs=read_blobs(connection, (sha for row in rows for _, sha in row.arrays)))


_PARTS = "SELECT trial, {} FROM {} AS part JOIN trials ON trials.id = part.trial WHERE chunk = ? ORDER BY trial, part.position"


def _by_trial(rows: Iterable[Any]) -> dict[int, list[tuple[Any, Any]]]:
    parts: dict[int, list[tuple[Any, Any]]] = {}
    for trial, name, value in rows:
        parts.setdefault(trial, []).append((name, value))
    return parts


def delete_chunk(connection: sqlite3.Connection, key: str) -> None:
    """Delete all rows of a chunk except its blobs, which other chunks may share."""
    for (chunk,) in connection.execute("SELECT id FROM chunks WHERE key = ?", (key,)).fetchall():
        for table in ("metrics", "trial_arrays"):
            connection.execute(f"DELETE FROM {table} WHERE trial IN (SELECT id FROM trials WHERE chunk = ?)", (chunk,))
        connection.execute("DELETE FROM trials WHERE chunk = ?", (chunk,))
        connection.execute("DELETE FROM chunks WHERE id = ?", (chunk,))


# --- arrays and records -----------------------------------------------------------------------------------------------


def insert_blobs(connection: sqlite3.Connection, blobs: Iterable[Blob]) -> None:
    """Write missing blobs, and overwrite damaged ones."""
    mend = ", ".join(f"{column} = excluded.{column}" for column in ("dtype", "shape", "codec", "bytes"))
    differs = "(dtype, shape, codec, bytes) IS NOT (excluded.dtype, excluded.shape, excluded.codec, excluded.bytes)"
    conflict = f"ON CONFLICT (sha) DO UPDATE SET {mend} WHERE {differs}"
    connection.executemany(f"INSERT INTO blobs VALUES (?, ?, ?, ?, ?) {conflict}", list(blobs))


def read_blobs(connection: sqlite3.Connection, names: Iterable[str]) -> dict[str, Blob]:
    """Blobs by hash. Raises Damaged if one is missing or damaged."""
    blobs: dict[str, Blob] = {}
    for sha in dict.fromkeys(names):
        row = connection.execute("SELECT dtype, shape, codec, bytes FROM blobs WHERE sha = ?", (sha,)).fetchone()
        if row is None or not is_intact((sha, *row)):
            raise Damaged(f"the array {sha[:12]} is gone or does not fit its hash")
        blobs[sha] = (sha, *row)
    return blobs


@dataclass(frozen=True)
class ArraysRow:
    """A set of arrays. names: (name, hash of the blob), in order."""

    key: str
    names: Sequence[tuple[str, str]]
    blobs: Mapping[str, Blob]

    def arrays(self) -> dict[str, Array]:
        return {name: decode(self.blobs[sha]) for name, sha in self.names}


def insert_arrays(connection: sqlite3.Connection, row: ArraysRow) -> None:
    """Write a set of arrays whose key is not in the store yet."""
    insert_blobs(connection, row.blobs.values())
    text = json.dumps(row.names)
    connection.execute("INSERT INTO array_sets VALUES (?, ?, ?)", (row.key, text, digest_of("arrays", row.key, text)))


def read_arrays(connection: sqlite3.Connection, key: str) -> ArraysRow | None:
    """A verified set of arrays; None if there is none."""
    found = connection.execute("SELECT arrays, digest FROM array_sets WHERE key = ?", (key,)).fetchone()
    if found is None:
        return None
    if digest_of("arrays", key, found[0]) != found[1]:
        raise Damaged("its names do not fit their digest")
    names = [(name, sha) for name, sha in json.loads(found[0])]
    return ArraysRow(key, names, read_blobs(connection, (sha for _, sha in names)))


def delete_arrays(connection: sqlite3.Connection, key: str) -> None:
    connection.execute("DELETE FROM array_sets WHERE key = ?", (key,))


@dataclass(frozen=True)
class RecordRow:
    """A record as JSON, with the time at which it was written."""

    kind: str
    key: str
    text: str
    updated: str

    @property
    def digest(self) -> str:
        return digest_of("record", self.kind, self.key, self.text, self.updated)


def insert_record(connection: sqlite3.Connection, row: RecordRow) -> None:
    """Write a record, replacing any previous one."""
    values = (row.kind, row.key, row.text, row.updated, row.digest)
    connection.execute("INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?)", values)


def read_record(connection: sqlite3.Connection, kind: str, key: str) -> RecordRow | None:
    """A verified record; None if there is none."""
    where = "WHERE kind = ? AND key = ?"
    found = connection.execute(f"SELECT record, updated, digest FROM records {where}", (kind, key)).fetchone()
    if found is None:
        return None
    row = RecordRow(kind, key, *found[:2])
    if row.digest != found[2]:
        raise Damaged("it does not fit its digest")
    return row


def delete_record(connection: sqlite3.Connection, kind: str, key: str) -> None:
    connection.execute("DELETE FROM records WHERE kind = ? AND key = ?", (kind, key))


class Item(NamedTuple):
    """How one kind of content is read and verified, written and deleted by its key."""

    words: str
    table: str
    columns: tuple[str, ...]
    read: Callable[..., Any]
    insert: Callable[..., None]
    delete: Callable[..., None]


CHUNK = Item("the trials of chunk", "chunks", ("key",), read_chunk, insert_chunk, delete_chunk)
ARRAYS = Item("the arrays", "array_sets", ("key",), read_arrays, insert_arrays, delete_arrays)
RECORD = Item("the record", "records", ("kind", "key"), read_record, insert_record, delete_record)
