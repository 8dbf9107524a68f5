"""The store: the trials, metrics and arrays of all runs, in one SQLite file.

A chunk of trials is written in one transaction and not modified afterwards, so a run that was killed resumes by looking up the
finished chunks. Arrays are blobs addressed by their content, so equal arrays are stored once. A new suite adds metric names,
never columns. Chunks, sets of arrays and records are verified on every read: damaged ones are deleted and reported in `notes`,
and the caller computes them again.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import methodcaller
from pathlib import Path
from typing import Any, TypeVar

from subpop.runtime.blobs import encode_all
from subpop.runtime.store_rescue import (
    APPLICATION_ID,
    OLDER,
    SCHEMA,
    create_tables,
    has_damaged_header,
    looks_like_a_store,
    only_one,
    rescue,
    set_aside,
)
from subpop.runtime.store_rows import (
    ARRAYS,
    CHUNK,
    RECORD,
    TABLES,
    ArraysRow,
    ChunkRows,
    Damaged,
    Item,
    RecordRow,
    is_text,
    now,
    read_chunk,
    results_of,
    rows_of,
)
from subpop.types import Array, BadInput, Cell, TrialResult

T = TypeVar("T")
BUSY_SECONDS = 60.0
AT_HAND = 1 << 27
"""Bytes, roughly, of verified chunks that are kept for the call of `get_chunk` that follows `has_chunk`."""
ELSEWHERE = "name another file with --store"
IMPLAUSIBLE = 1000
"""No schema will have a number this large: a larger one is the result of a flipped bit."""
FIXES = {
    sqlite3.SQLITE_READONLY: "give write access to the file and its folder",
    sqlite3.SQLITE_CANTOPEN: "give write access to the file and its folder",
    sqlite3.SQLITE_FULL: "free some disk space",
    sqlite3.SQLITE_TOOBIG: "cut the array into parts",
}
UNUSABLE = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}
"""SQLite's error codes for a file that no longer takes anything."""
DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CONSTRAINT}
"""SQLite's error codes for a damaged file. A violated constraint is one of them: an intact store violates none."""


class Store:
    """One SQLite file, opened for reading and writing; safe under several threads and processes, and under kill -9.

    Values are returned exactly as they were stored: floats bit for bit (NaN as NaN), arrays with the same dtype and shape,
    C-contiguous and writable. If the file is damaged, all that can be verified is copied to a new file, and the damaged one is
    renamed; `notes` names both. A file that is not a store, or that a newer version of subpop wrote, raises BadInput and is not
    changed.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.notes: list[str] = []
        self._n_reported = 0
        if self.path.is_dir():
            raise BadInput(f"{self.path} is a folder; name a file, such as {self.path / 'store.sqlite'}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"the folder of the store {self.path} cannot be created ({error}); {ELSEWHERE}") from error
        self._lock = threading.RLock()
        self._verified: set[str] = set()
        self._at_hand = _AtHand()
        self._open_or_rescue()

    def has_chunk(self, key: str) -> bool:
        """Whether `get_chunk` would return trials. The first call for a key verifies them, and keeps them for `get_chunk`."""
        if key not in self._verified:
            with self._lock:
                version = self._version()  # before the rows: what another process changes in between has a later one
                rows = self._verified_chunk(key)
                if rows is not None:
                    self._at_hand.put(version, rows)
            return rows is not None
        return bool(self._in_transaction("BEGIN", lambda c: c.execute("SELECT 1 FROM chunks WHERE key = ?", (key,)).fetchone()))

    def get_chunk(self, key: str) -> list[TrialResult] | None:
        """The trials of a chunk, in the order in which they were stored; None if the chunk is missing or damaged."""
        with self._lock:
            rows = self._at_hand.take(self._version(), key) or self._verified_chunk(key)
        return None if rows is None else results_of(rows)

    def _version(self) -> Any:
        """A value that changes when another connection changes the file."""
        return self._in_transaction("BEGIN", lambda c: c.execute("PRAGMA data_version").fetchone()[0])

    def _verified_chunk(self, key: str) -> Any:
        rows = self._get(CHUNK, key)
        (self._verified.discard if rows is None else self._verified.add)(key)
        return rows

    def put_chunk(
        self,
        key: str,
        cell: Cell,
        results: Sequence[TrialResult],
        device: str,
        *,
        replace: bool = False,
        instead_of: Sequence[str] = (),
    ) -> None:
        """Store the trials of a chunk atomically. An existing chunk is overwritten only if `replace` is true.

        instead_of: keys of chunks with some of the same trials, which are deleted in the same transaction.
        """
        if not results:
            raise BadInput(f"chunk {key} of {cell.id} has no trials; put a chunk when its trials are finished")
        # Everything that takes time is done before the write lock is taken.
        rows = rows_of(key, cell, results, device)
        with self._lock:
            for each in (key, *instead_of):
                self._at_hand.drop(each)
            self._verified.difference_update(instead_of)
            version = self._version()  # as in `has_chunk`; what this connection writes does not change it
            written = self._put(CHUNK, (key,), rows, replace, instead_of)
            if written is not None:
                self._verified.add(key)
                self._at_hand.put(version, written)

    def drop_chunks(self, keys: Sequence[str]) -> None:
        """Delete chunks in one transaction; keys that are not in the store are ignored."""
        with self._lock:
            self._verified.difference_update(keys)
            for key in keys:
                self._at_hand.drop(key)
            self._in_transaction("BEGIN IMMEDIATE", lambda connection: [CHUNK.delete(connection, key) for key in keys])

    def get_arrays(self, key: str) -> dict[str, Array] | None:
        """The arrays stored under a key, by name, in the order in which they were stored; None if there are none."""
        rows = self._get(ARRAYS, key)
        return None if rows is None else rows.arrays()

    def put_arrays(self, key: str, arrays: Mapping[str, Array], *, replace: bool = False) -> None:
        """Store arrays under a key atomically. Existing arrays are overwritten only if `replace` is true."""
        if not arrays:
            raise BadInput(f"no arrays to keep under {key}; give at least one")
        encoded = encode_all(arrays)
        names = [(name, blob[0]) for name, blob in encoded]
        self._put(ARRAYS, (key,), ArraysRow(key, names, {blob[0]: blob for _, blob in encoded}), replace)

    def put_record(self, key: str, record: Mapping[str, Any], kind: str = "cell") -> None:
        """Store a record (plain JSON data), replacing any previous one. Kind `cell` is the last report of a cell."""
        self.put_records(key, {kind: record})

    def put_records(self, key: str, records: Mapping[str, Mapping[str, Any]]) -> None:
        """Store records with the same key, by kind, atomically, each replacing any previous one."""
        try:
            rows = [RecordRow(kind, key, json.dumps(record), now()) for kind, record in records.items()]
        except (TypeError, ValueError) as error:
            raise BadInput(f"the record {key} is not JSON data ({error}); give numbers, strings, lists, mappings") from error

        def insert(connection: sqlite3.Connection) -> None:
            for row in rows:
                RECORD.insert(connection, row)

        self._in_transaction("BEGIN IMMEDIATE", insert)

    def get_record(self, key: str, kind: str = "cell") -> Any:
        """The record stored under a key; None if it is missing or damaged."""
        row = self._get(RECORD, kind, key)
        return None if row is None else json.loads(row.text)

    def costs(self) -> list[tuple[dict[str, Any], int, float, int]]:
        """(cell, trials, seconds, fits) of every chunk, unverified: only for estimating how long other cells will take."""
        costs = "cell, count(*), sum(seconds), sum(n_fits)"
        asked = f"SELECT {costs} FROM chunks JOIN trials ON trials.chunk = chunks.id GROUP BY chunks.id"
        rows = self._in_transaction("BEGIN", lambda c: c.execute(asked).fetchall())
        found = []
        for text, trials, seconds, fits in rows:
            with contextlib.suppress(ValueError, TypeError):  # damage is reported when the chunk itself is read
                cell, cost = json.loads(text), float(seconds)
                if isinstance(cell, dict) and 0 <= cost < float("inf"):
                    found.append((cell, int(trials), cost, int(fits)))
        return found

    def records(self, kind: str = "cell") -> dict[str, Any]:
        """All records of a kind, sorted by key. Those of kind `cell` are the last reports of all cells."""
        names = "SELECT key FROM records WHERE kind = ? ORDER BY key"
        keys = self._in_transaction("BEGIN", lambda c: [row[0] for row in c.execute(names, (kind,))])
        found = {key: self.get_record(key, kind) for key in keys if is_text(key)}
        return {key: record for key, record in found.items() if record is not None}

    def in_one_transaction(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` on the connection in one write transaction: all of it is stored, or nothing if it raises an exception."""
        return self._in_transaction("BEGIN IMMEDIATE", work)

    def new_notes(self) -> list[str]:
        """Notes added since the last call: damage that was found, and files that were renamed."""
        first, self._n_reported = self._n_reported, len(self.notes)
        return self.notes[first:]

    def close(self) -> None:
        """Close the file. Closing it again does nothing."""
        self._connection.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- verified reading and writing ---------------------------------------------------------------------------------

    def _get(self, item: Item, *key: str) -> Any:
        """The verified rows of a key. Damaged rows are deleted, so that the caller computes them again."""
        try:
            return self._in_transaction("BEGIN", lambda connection: item.read(connection, *key))
        except Damaged as damage:
            self._note(f"{item.words} {' '.join(key)} in the store {self.path} are damaged ({damage}); they are made again")
        self._in_transaction("BEGIN IMMEDIATE", lambda connection: _drop_damaged(connection, self.path, item, key))
        return None

    def _put(self, item: Item, key: tuple[str, ...], rows: Any, replace: bool = False, instead_of: Sequence[str] = ()) -> Any:
        """Write rows, unless the key is there; returns what can then be read, or None if nothing was written.

        instead_of: keys whose rows are deleted.
        """
        names = " AND ".join(f"{column} = ?" for column in item.columns)

        def put(connection: sqlite3.Connection) -> Any:
            there = connection.execute(f"SELECT 1 FROM {item.table} WHERE {names}", key).fetchone()
            if there and replace:
                item.delete(connection, *key)
            for each in instead_of:
                item.delete(connection, each)
            if there and not replace:
                return None
            item.insert(connection, rows)
            return _read_back(connection, self.path, item, key)

        return self._in_transaction("BEGIN IMMEDIATE", put)

    def _in_transaction(self, begin: str, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in one transaction, rolled back on any exception. `BEGIN IMMEDIATE` takes the write lock at once.

        If SQLite finds the file damaged, the file is rescued and the transaction is run once more.
        """
        with self._lock:
            try:
                return self._attempt(begin, work)
            except Corrupt as damage:
                self._rescue(damage)
            return self._attempt(begin, work)

    def _attempt(self, begin: str, work: Callable[[sqlite3.Connection], T]) -> T:
        with explained(self.path):
            self._connection.execute(begin)
            try:
                done = work(self._connection)
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
        return done

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    # --- opening ------------------------------------------------------------------------------------------------------

    def _open_or_rescue(self) -> None:
        try:
            self._open()
        except Corrupt as damage:
            self._rescue(damage)

    def _rescue(self, damage: Corrupt) -> None:
        """Continue with a new file that has all that could be verified. Another process may have created it already."""
        self.close()
        try:
            if not looks_like_a_store(self.path):
                raise damage
            with only_one(self.path) as file:
                if os.path.samestat(file, self.path.stat()):
                    kept, counts = rescue(self.path)
                    copied = (
                        f"{counts['chunks']} chunks of trials, {counts['array_sets']} sets of arrays, {counts['records']} records"
                    )
                    self._note(
                        f"the store {self.path} was damaged ({damage.what}): {copied} were verified and copied to a new file, "
                        f"missing trials are trained again, and the damaged file was renamed to {kept}"
                    )
        except (OSError, sqlite3.Error) as error:
            raise BadInput(f"{damage}; copying its undamaged part failed too ({error})") from error
        self._verified.clear()
        self._at_hand = _AtHand()
        self._open()

    def _open(self) -> None:
        """Check that the file is a store before changing it, then switch it to WAL and create missing tables."""
        try:
            self._connect()
            self._check_and_create()
        except BaseException:
            with contextlib.suppress(AttributeError):  # it could not even be opened
                self.close()
            raise

    def _connect(self) -> None:
        self._opened = self._identity()
        with explained(self.path):
            self._connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        self._connection.text_factory = methodcaller("decode", "utf-8", "surrogateescape")
        with contextlib.suppress(FileNotFoundError):  # another process has just renamed it
            if looks_like_a_store(self.path) and has_damaged_header(self.path):
                raise Corrupt(self.path, "its header is not SQLite's")

    def _identity(self) -> tuple[int, int] | None:
        """Device and inode of the file at the store's path; None if there is no file."""
        with contextlib.suppress(OSError):
            found = self.path.stat()
            return found.st_dev, found.st_ino
        return None

    def _check_and_create(self) -> None:
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                if self._check():
                    self._select("PRAGMA journal_mode = WAL")
                    break
            except _Busy:
                # The switch to WAL needs an exclusive lock and does not wait for it.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            except BadInput:
                if self._identity() == self._opened:
                    raise
                self.close()  # another process has just renamed the file
                self._connect()
        self._select("PRAGMA synchronous = NORMAL")

        def create(connection: sqlite3.Connection) -> None:
            if not connection.execute("PRAGMA user_version").fetchone()[0]:
                create_tables(connection)
            # SQLite opens a write-protected file without an error; this write fails now rather than after hours of training.
            connection.execute(f"PRAGMA user_version = {SCHEMA}")

        self._attempt("BEGIN IMMEDIATE", create)

    def _check(self) -> bool:
        """Whether the file can be used as it is; False after a file with an older schema has been renamed."""
        # One statement reads one snapshot: another process may be creating the tables right now.
        tables = "(SELECT group_concat(sql, ';') FROM (SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid))"
        columns = f"{tables}, application_id, user_version"
        statements, application, version = self._select(f"SELECT {columns} FROM pragma_application_id, pragma_user_version")[0]
        ours = application == APPLICATION_ID or (statements and looks_like_a_store(self.path))
        if statements and not ours:
            raise BadInput(f"{self.path} is an SQLite database of another program; {ELSEWHERE}")
        if SCHEMA < version < IMPLAUSIBLE:
            newer = f"has schema {version}, written by a newer subpop; this one reads schema {SCHEMA}"
            raise BadInput(f"the store {self.path} {newer}: upgrade subpop, or {ELSEWHERE}")
        if version in OLDER:
            self._set_aside(version)
            return False
        if statements and (statements != ";".join(TABLES) or (application, version) != (APPLICATION_ID, SCHEMA)):
            raise Corrupt(self.path, "its list of tables is not that of a store")
        health = self._select("PRAGMA quick_check(1)")[0][0]
        if health != "ok":
            raise Corrupt(self.path, health)
        return True

    def _set_aside(self, version: int) -> None:
        """Rename a file with an older schema and start a new one. Another process may have done so already."""
        self.close()
        with contextlib.suppress(FileNotFoundError), only_one(self.path) as file:
            if os.path.samestat(file, self.path.stat()):
                kept = set_aside(self.path, f"schema-{version}")
                self._note(
                    f"the store {self.path} had schema {version}, {OLDER[version]}: it was renamed to {kept}, and its trials are "
                    "trained again; delete the old file unless an older version of subpop still uses it"
                )
        self._connect()

    def _select(self, statement: str) -> list[Any]:
        with explained(self.path):
            return self._connection.execute(statement).fetchall()


class _AtHand:
    """Verified rows of chunks, each for one reader, until another connection changes the file."""

    def __init__(self) -> None:
        self._version: object = None
        self._rows: dict[str, ChunkRows] = {}
        self._room = AT_HAND

    def put(self, version: object, rows: ChunkRows) -> None:
        self._check(version)
        size = rows.n_bytes
        if size <= self._room:
            self._room -= size
            self._rows[rows.key] = rows

    def take(self, version: object, key: str) -> ChunkRows | None:
        self._check(version)
        return self.drop(key)

    def drop(self, key: str) -> ChunkRows | None:
        rows = self._rows.pop(key, None)
        self._room += rows.n_bytes if rows is not None else 0
        return rows

    def _check(self, version: object) -> None:
        if version != self._version:
            self._version, self._room = version, AT_HAND
            self._rows.clear()


def read_records(path: Path, kind: str) -> dict[str, Any]:
    """All records of a kind by key, read without changing the file: a store of another schema is refused, not set aside."""
    with reading(path) as connection:
        keys = [key for (key,) in connection.execute("SELECT key FROM records WHERE kind = ? ORDER BY key", (kind,))]
        rows = {key: RECORD.read(connection, kind, key) for key in keys}
    return {key: json.loads(row.text) for key, row in rows.items()}


def read_chunks(path: Path) -> Iterator[ChunkRows]:
    """All chunks of trials in the order in which they were stored, verified, and read as `read_records` does."""
    with reading(path) as connection:
        for (key,) in connection.execute("SELECT key FROM chunks ORDER BY id").fetchall():
            rows = read_chunk(connection, key)
            if rows is not None:  # another process may have deleted it
                yield rows


@contextlib.contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A read-only connection to a store of this schema; damage that a reader finds is explained."""
    with explained(path), contextlib.closing(_read_only(path)) as connection:
        if not path.stat().st_size:
            raise BadInput(f"{path} is empty; name a store that a run with --store has written")
        application, version = connection.execute("SELECT * FROM pragma_application_id, pragma_user_version").fetchone()
        if application != APPLICATION_ID and not looks_like_a_store(path):
            raise BadInput(f"{path} is a database of another program; name a store of subpop")
        if version != SCHEMA:
            again = f"run `python -m pytest benchmarks/ --store {path}`, which begins a new store"
            fix = "upgrade subpop" if version > SCHEMA else again
            raise BadInput(f"the store {path} has schema {version}; this subpop reads schema {SCHEMA}: {fix}")
        try:
            yield connection
        except Damaged as damage:
            raise Corrupt(path, damage) from damage


def _read_only(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", timeout=BUSY_SECONDS, isolation_level=None, uri=True)


def _drop_damaged(connection: sqlite3.Connection, path: Path, item: Item, key: tuple[str, ...]) -> None:
    """Delete rows unless another process has repaired them in the meantime. Raises Corrupt if an index is damaged as well."""
    try:
        item.read(connection, *key)
    except Damaged:
        health = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if health != "ok":
            raise Corrupt(path, health) from None
        item.delete(connection, *key)


def _read_back(connection: sqlite3.Connection, path: Path, item: Item, key: tuple[str, ...]) -> Any:
    """The rows just written, as they can be read: a damaged index may lose them."""
    try:
        found = item.read(connection, *key)
    except Damaged as damage:
        raise Corrupt(path, damage) from damage
    if found is None:
        raise Corrupt(path, f"{item.words} {' '.join(key)} cannot be read back")
    return found


class _Busy(BadInput):
    """Another process has locked the file."""


class Unusable(BadInput):
    """The file cannot be written or read any longer, as on a full disk, so that no cell can be measured."""


class Corrupt(BadInput):
    """The file is damaged or is not a store."""

    def __init__(self, path: Path, what: object) -> None:
        self.path = path
        self.what = " ".join(str(what).split()).encode("ascii", "backslashreplace").decode()
        kept = f"nothing was changed or deleted: move it away, or {ELSEWHERE}"
        super().__init__(f"the store {path} is damaged or is not a store of subpop ({self.what}); {kept}")


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into errors that name the file and suggest a fix."""
    try:
        yield
    except UnicodeDecodeError as error:  # SQLite's own message quotes damaged text
        raise Corrupt(path, error) from error
    except sqlite3.Error as error:
        # The lowest byte of an extended code is the primary code.
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in DAMAGE:
            raise Corrupt(path, error) from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise _Busy(f"another process keeps the store {path} locked; wait for it, stop it, or {ELSEWHERE}") from error
        fix = FIXES.get(code, "check the file and its disk")
        kind = Unusable if code in UNUSABLE else BadInput
        raise kind(f"the store {path} cannot be used ({error}); {fix}, or {ELSEWHERE}") from error
