"""When the file of a store is damaged: what can be verified goes into a new file, and the old one is kept beside it.

A chunk is copied where its digest proves every number in it. So what comes out is right or it is missing, and what is missing
is trained again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

from subpop.runtime.store_rows import ARRAYS, CHUNK, RECORD, TABLES, Damaged, Item, is_text

APPLICATION_ID = 0x73627070
SCHEMA = 3
OLDER = {1: "without digests that prove its numbers", 2: "whose keys name cells as no version after it does"}
"""What is wrong with stores of earlier schemas."""
UNREADABLE = (sqlite3.Error, Damaged, MemoryError, UnicodeError)
"""What reading damaged rows raises; SQLite's messages may quote text that is none."""
PAGE = 4096
CONSTANT = (slice(0, 18), slice(20, 24), slice(44, 48), slice(52, 60), slice(64, 68))
"""Bytes of SQLite's header that are the same in every store: magic and page size, fractions, format, encoding, vacuum."""


def create_tables(connection: sqlite3.Connection) -> None:
    """Make an empty store; the caller holds a transaction."""
    for statement in TABLES:
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {SCHEMA}")


def looks_like_a_store(path: Path) -> bool:
    """Whether the first page of a file, even a damaged one, is that of a store."""
    with path.open("rb") as file:
        page = file.read(PAGE)
    return page[68:72] == APPLICATION_ID.to_bytes(4, "big") or b"CREATE TABLE chunks (id INTEGER PRIMARY KEY" in page


def has_damaged_header(path: Path) -> bool:
    """Whether the header of a store differs from that of a new one where all are the same; SQLite misreads such a file."""
    with path.open("rb") as file:
        header = file.read(100)
    if not header:
        return False
    fresh = _first_page()
    return any(header[part] != fresh[part] for part in CONSTANT) or not {header[18], header[19]} <= {1, 2}


def set_aside(path: Path, label: str) -> Path:
    """Rename a store and its log to `NAME.LABEL.sqlite`, or with a number where that is taken; returns the new path."""
    kept = _free_name(path, label)
    os.link(path, kept)
    _move_log(path, kept)
    path.unlink()
    return kept


def rescue(path: Path) -> tuple[Path, dict[str, int]]:
    """Put a new store with all that can be verified in the place of a damaged one.

    Returns where the damaged one is kept, and how many chunks, sets of arrays and records were copied.
    """
    kept = _free_name(path, "damaged")
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder:
        new = Path(folder) / "new.sqlite"
        counts = _copy_verified(path, new)
        os.link(path, kept)
        _move_log(path, kept)  # a new file must not meet the old log: SQLite would play it back
        new.replace(path)
    return kept, counts


@contextlib.contextmanager
def only_one(path: Path) -> Iterator[os.stat_result]:
    """Let one process at a time move a file; the file's identity, which tells whether another was quicker."""
    with path.open("rb") as file:
        with contextlib.suppress(OSError):  # some network disks have no locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield os.fstat(file.fileno())


def _free_name(path: Path, label: str) -> Path:
    names = (path.with_name(f"{path.stem}.{label}{number}{path.suffix}") for number in ("", *(f"-{i}" for i in range(2, 10**6))))
    return next(name for name in names if not name.exists())


def _move_log(path: Path, kept: Path) -> None:
    for suffix in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).replace(kept.with_name(kept.name + suffix))


def _copy_verified(path: Path, new: Path) -> dict[str, int]:
    """Copy what is whole, read from copies of the file: as it is, and with its first page made anew."""
    with contextlib.closing(sqlite3.connect(new, isolation_level=None)) as target:
        target.execute("BEGIN")
        create_tables(target)
        for make in (shutil.copyfile, _with_new_first_page):
            copy = new.with_name(f"{make.__name__}.sqlite")
            make(path, copy)
            log = path.with_name(path.name + "-wal")
            if log.exists():
                shutil.copyfile(log, copy.with_name(copy.name + "-wal"))
            with contextlib.suppress(*UNREADABLE), contextlib.closing(sqlite3.connect(copy, isolation_level=None)) as source:
                source.text_factory = _tolerant
                for item in (CHUNK, ARRAYS, RECORD):
                    _copy_items(source, target, item)
        tables = {
            item.table: target.execute(f"SELECT count(*) FROM {item.table}").fetchone()[0] for item in (CHUNK, ARRAYS, RECORD)
        }
        target.execute("COMMIT")
    return tables


def _copy_items(source: sqlite3.Connection, target: sqlite3.Connection, item: Item) -> None:
    for key in sorted(_keys(source, item)):
        with contextlib.suppress(*UNREADABLE):
            if item.read(target, *key) is None and (row := item.read(source, *key)) is not None:
                item.insert(target, row)


def _keys(source: sqlite3.Connection, item: Item) -> set[tuple[str, ...]]:
    """Every key that the table or its index still names: each way of reading stops at another damaged page."""
    keys: set[tuple[str, ...]] = set()
    columns = ", ".join(item.columns)
    for order in ("rowid", "rowid DESC", columns, ", ".join(f"{column} DESC" for column in item.columns)):
        with contextlib.suppress(*UNREADABLE):
            for key in source.execute(f"SELECT {columns} FROM {item.table} ORDER BY {order}"):
                if all(map(is_text, key)):
                    keys.add(key)
    return keys


def _tolerant(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")


def _with_new_first_page(path: Path, copy: Path) -> None:
    """A copy with the first page of an empty store: its tables begin at the same pages in every store."""
    content = bytearray(path.read_bytes())
    page = bytearray(_first_page())
    page[28:32] = (len(content) // PAGE).to_bytes(4, "big")
    content[:PAGE] = page
    copy.write_bytes(content)


def _first_page() -> bytes:
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        create_tables(connection)
        return connection.serialize()[:PAGE]
