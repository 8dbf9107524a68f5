"""Which shards of a division are in a store, and how many of the planned cells they should have measured."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from subpop.runtime.fingerprint import key_of
from subpop.types import Cell
from subpop.types.printable import printable

KIND = "shard"
"""The kind of these records in the store."""


def name_of(cell: Cell) -> str:
    """The name of a cell in the store's records and in divisions: its suite and its id."""
    return printable(f"{cell.stem} {cell.id}")


def record_of_shard(number: int, of: int, division: Sequence[tuple[str, int]]) -> tuple[str, dict[str, Any]]:
    """The key and the record of a shard in the store.

    Parameters
    ----------
    number
        The shard, from 1.
    of
        Number of shards.
    division
        (cell, shard) for each planned cell of all shards; a cell is named by its suite and id.
    """
    whole = sorted(division)
    key = key_of({"of": of, "division": whole})
    return f"{key} {number}", {"shard": number, "of": of, "cells": whole, "ended": False}


@dataclass(frozen=True)
class Division:
    """One division of a session's cells, as far as a store has its shards."""

    of: int
    """Number of shards."""
    cells: Mapping[str, int]
    """The shard of each planned cell, by suite and id."""
    begun: frozenset[int]
    """Shards that are in the store."""
    ended: frozenset[int]
    """Shards whose sessions ended."""
    elsewhere: frozenset[int] = frozenset()
    """Shards that are in the store with another selection of cells only."""

    def lacking(self, done: Container[str]) -> list[int]:
        """The shards that did not end, or that the store lacks with one of their cells. done: the names of cells in the store."""
        absent = {shard for name, shard in self.cells.items() if name not in done}
        return sorted(shard for shard in {*self.cells.values()} - self.ended if shard in self.begun | absent)

    def description(self, done: Container[str]) -> str:
        """Which shards are lacking and, if another selection of cells has them, how to avoid that; else that none is."""
        lacking = self.lacking(done)
        if not lacking:
            what = "" if self.ended >= {*self.cells.values()} else "the cells of "
            shards = "the only shard is" if self.of == 1 and not what else f"all {self.of} shards are"
            return f"{what}{shards} in this store ({_n(len(self.cells))})"
        words = "; ".join(self._lacking_shard(number, done) for number in lacking)
        differs = self.elsewhere.intersection(lacking)
        return words + (": give all shards the same -k, tier and suites" if differs else "")

    def _lacking_shard(self, number: int, done: Container[str]) -> str:
        own = [name for name, shard in self.cells.items() if shard == number]
        if number in self.begun:
            why, counted = "did not end", f"{sum(name in done for name in own)} of {_n(len(own))} measured"
        else:
            chose = "is in this store with another selection of cells" if number in self.elsewhere else "is not in this store"
            why, counted = chose, _n(len(own))
        return f"shard {number} of {self.of} {why} ({counted})"


def divisions(records: Mapping[str, Mapping[str, Any]]) -> list[Division]:
    """The divisions in a store's records of kind `shard`, by key."""
    by_key: dict[str, list[Mapping[str, Any]]] = {}
    for key, record in records.items():
        by_key.setdefault(key.split(" ")[0], []).append(record)
    found = []
    for _, shards in sorted(by_key.items()):
        begun = frozenset(int(each["shard"]) for each in shards)
        ended = frozenset(int(each["shard"]) for each in shards if each["ended"])
        found.append(Division(int(shards[0]["of"]), {name: int(shard) for name, shard in shards[0]["cells"]}, begun, ended))
    parts = [each for each in found if not each.ended >= {*each.cells.values()}]
    return [replace(each, elsewhere=_elsewhere(each, parts)) if each in parts else each for each in found]


def _elsewhere(division: Division, parts: Sequence[Division]) -> frozenset[int]:
    """The shards that a division lacks and that others, which lack shards themselves, have."""
    others = (other.begun for other in parts if other is not division and other.of == division.of)
    return frozenset().union(*others) - division.begun


def unfinished(stored: Iterable[Division], done: Container[str]) -> list[str]:
    """What a report of a store lacks, one entry for each division with lacking shards, and one for the cells of all others.

    Parameters
    ----------
    stored
        The divisions in the store.
    done
        The names of the cells that the report shows.
    """
    stored = list(stored)
    lines = [each.description(done) for each in stored if each.lacking(done)]
    gone = {name for each in stored for name, shard in each.cells.items() if shard in each.ended and name not in done}
    return lines + ([f"{_n(len(gone))} of shards that ended {'is' if len(gone) == 1 else 'are'} left out"] if gone else [])


def _n(count: int) -> str:
    return f"{count} cell" if count == 1 else f"{count} cells"
