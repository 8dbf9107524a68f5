"""Which shards of a division are in a store, and how many of the planned cells they should have measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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

    @property
    def is_whole(self) -> bool:
        """Whether every shard that has cells ended."""
        return self.ended >= set(self.cells.values())

    def __str__(self) -> str:
        counts = Counter(self.cells.values())
        lacking = {
            number: "did not end" if number in self.begun else "is not in this store" for number in set(counts) - self.ended
        }
        told = [f"shard {number} of {self.of} {why} ({counts[number]} cells)" for number, why in sorted(lacking.items())]
        return "; ".join(told) or f"all {self.of} shards are in this store ({len(self.cells)} cells)"


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
    return found
