"""Merging stores, such as those of the shards of a run, into one.

Everything is verified on reading and written in one transaction: after a kill or an error the destination is what it was. A chunk
that both stores have is compared trial by trial and kept once, and of two records of a name the newer one is kept.
"""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from subpop.runtime.store import Corrupt, Store, explained, reading
from subpop.runtime.store_rows import ARRAYS, CHUNK, RECORD, ChunkRows, Damaged, Item, RecordRow, is_text
from subpop.types import BadInput

Compare = Callable[[ChunkRows, ChunkRows], int]
"""Called with the kept and the other rows of a chunk; returns how many of its trials differ, or raises BadInput."""


@dataclass
class Merged:
    """What a merge did, counted by table."""

    added: Counter[str] = field(default_factory=Counter)
    """Rows that the destination did not have, or records that it had in an older version."""
    known: Counter[str] = field(default_factory=Counter)
    """Rows that it had already."""
    trials: int = 0
    """Trials added."""
    differing: int = 0
    """Trials of which the stores have different results; those that came first were kept."""
    damaged: list[str] = field(default_factory=list)
    """Chunks, arrays and records of sources that could not be verified and were left out."""


def merge(sources: Sequence[Path], into: Path, compare: Compare) -> Merged:
    """Copy everything in some stores into another one, which is created if it does not exist.

    Parameters
    ----------
    sources
        Stores; they are not changed. One that is also the destination is skipped.
    into
        The destination.
    compare
        Compares two versions of a chunk.

    Returns
    -------
    Merged
        What was copied.

    Raises
    ------
    BadInput
        If a source is missing or is not a store of this version, or `compare` raises it; the destination is then unchanged.
    """
    for path in sources:
        if not path.is_file():
            raise BadInput(f"there is no store {path}; name stores that runs with --store have written")
        with reading(path):
            pass  # a store of this version, before anything is written
    is_new = not into.exists()
    try:
        with Store(into) as store:
            own = [path for path in sources if not os.path.samefile(path, into)]
            return store.in_one_transaction(lambda connection: _Copy(connection, into, compare).all_of(own))
    except BaseException:
        if is_new and _is_empty(into):
            for suffix in ("", "-wal", "-shm"):
                into.with_name(into.name + suffix).unlink(missing_ok=True)
        raise


def _is_empty(path: Path) -> bool:
    """Whether nobody has stored anything: another process may have begun to use the store in the meantime."""
    with suppress(BadInput, Corrupt), reading(path) as store:
        tables = (item.table for item in (CHUNK, ARRAYS, RECORD))
        return not any(store.execute(f"SELECT EXISTS (SELECT 1 FROM {table})").fetchone()[0] for table in tables)
    return False


@dataclass
class _Copy:
    """Copies into the connection of the destination, whose path is `into`."""

    target: sqlite3.Connection
    into: Path
    compare: Compare
    merged: Merged = field(default_factory=Merged)

    def all_of(self, sources: Sequence[Path]) -> Merged:
        for path in sources:
            try:
                with reading(path) as source:
                    source.execute("BEGIN")  # one snapshot, whatever a running session writes meanwhile
                    self._store(source, path)
            except Corrupt as damage:
                if damage.path != path:
                    raise
                fix = f"`subpop report --store {path}` rescues what can be verified; then merge again"
                raise BadInput(f"the store {path} is damaged ({damage.what}); {fix}") from damage
        return self.merged

    def _store(self, source: sqlite3.Connection, path: Path) -> None:
        for item in (CHUNK, ARRAYS, RECORD):
            for key in source.execute(f"SELECT {', '.join(item.columns)} FROM {item.table} ORDER BY rowid").fetchall():
                try:
                    rows = item.read(source, *key) if all(map(is_text, key)) else None
                except Damaged as damage:
                    self.merged.damaged.append(f"{item.words} {' '.join(key)} in {path} ({damage})")
                else:
                    with explained(self.into):
                        self._rows(item, key, rows)

    def _rows(self, item: Item, key: tuple[str, ...], rows: object) -> None:
        if rows is None:
            return
        try:
            there = item.read(self.target, *key)
        except Damaged:
            item.delete(self.target, *key)
            there = None
        if isinstance(rows, ChunkRows) and there is not None:
            self.merged.differing += self.compare(there, rows)
        if there is not None and (item is not RECORD or _age(there) >= _age(rows)):
            self.merged.known[item.table] += 1
            return
        item.insert(self.target, rows)
        self.merged.added[item.table] += 1
        self.merged.trials += len(rows.trials) if isinstance(rows, ChunkRows) else 0


def _age(record: object) -> tuple[str, str]:
    """Orders two versions of a record, whichever store is read first."""
    assert isinstance(record, RecordRow)
    return record.updated, record.text
