"""Rescue of a damaged store: all that can be verified is copied to a new file, and the damaged file is renamed.

A chunk is copied only if its digest matches. So the trials in the new file are correct, and missing ones are trained again.
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
OLDER = {1: "which has no digests to verify its trials with", 2: "whose keys name cells differently from this version"}
"""Why stores with earlier schemas cannot be used."""
UNREADABLE = (sqlite3.Error, Damaged, MemoryError, UnicodeError)
"""Exceptions that reading damaged rows raises; UnicodeError because SQLite's messages may quote invalid text."""
PAGE = 4096
CONSTANT = (slice(0, 18), slice(20, 24), slice(44, 48), slice(52, 60), slice(64, 68))
"""Bytes of SQLite's header that are equal in all stores: magic, page size, payload fractions, format, encoding, vacuum."""


def create_tables(connection: sqlite3.Connection) -> None:
    """Create the tables of an empty store, inside the caller's transaction."""
    for statement in TABLES:
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {SCHEMA}")


def looks_like_a_store(path: Path) -> bool:
    """Whether the first page of a file, even if damaged, looks like that of a store."""
    with path.open("rb") as file:
        page = file.read(PAGE)
    return page[68:72] == APPLICATION_ID.to_bytes(4, "big") or b"CREATE TABLE chunks (id INTEGER PRIMARY KEY" in page


def has_damaged_header(path: Path) -> bool:
    """Whether the constant bytes of a store's header differ from those of a new store. SQLite would misread such a file."""
    with path.open("rb") as file:
        header = file.read(100)
    if not header:
        return False
    fresh = _first_page()
    return any(header[part] != fresh[part] for part in CONSTANT) or not {header[18], header[19]} <= {1, 2}


def set_aside(path: Path, label: str) -> Path:
    """Rename a store and its log to `NAME.LABEL.sqlite`, with a number added if that name is taken; returns the new path."""
    kept = _free_name(path, label)
    os.link(path, kept)
    _move_log(path, kept)
    path.unlink()
    return kept


def rescue(path: Path) -> tuple[Path, dict[str, int]]:
    """Replace a damaged store by a new one with all that can be verified.

    Returns the new path of the damaged file, and how many chunks, sets of arrays and records were copied.
    """
    kept = _free_name(path, "damaged")
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder:
        new = Path(folder) / "new.sqlite"
        counts = _copy_verified(path, new)
        os.link(path, kept)
        _move_log(path, kept)  # SQLite would replay the old log into the new file
        new.replace(path)
    return kept, counts


@contextlib.contextmanager
def only_one(path: Path) -> Iterator[os.stat_result]:
    """Lock a file while it is being renamed; yields its stat, which shows whether another process has replaced it already."""
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
    """Copy all that can be verified, from two copies of the file: an exact one, and one with its first page rebuilt."""
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
    """All keys that can still be read from the table or its index. Each order of reading stops at a different damaged page."""
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
    """Write a copy with the first page of an empty store; tables begin at the same pages in every store."""
    content = bytearray(path.read_bytes())
    page = bytearray(_first_page())
    page[28:32] = (len(content) // PAGE).to_bytes(4, "big")
    content[:PAGE] = page
    copy.write_bytes(content)


def _first_page() -> bytes:
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        create_tables(connection)
        return connection.serialize()[:PAGE]
