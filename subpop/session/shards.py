"""Division of a session's tests into shards that separate machines run, for `--shard i/n`.

Tests that train together stay together: those of one cell, of cells that are compared trial by trial, of a filter and the random
filter matched to it, of stochastic victims that start from the same fleet, and a claim with all cells that it is about. These
groups are dealt out longest first, each to the shard with the least expected time so far. The division follows from the tests
alone: not from the machine, its store, or the order in which tests were collected.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from subpop.defenses import filter_of, is_exact
from subpop.features.networks.frozen import is_frozen
from subpop.runtime.estimate import rough_seconds
from subpop.runtime.seeds import draw_identity
from subpop.session.collecting import cells_of, is_of_suite
from subpop.types import BadInput, Cell
from subpop.types.kinds import kind_of
from subpop.victims import make_victim


@dataclass(frozen=True)
class Shard:
    """The shard `number`, from 1, of `of` shards."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard that `i/n` names. Raises BadInput unless i is from 1 to n.

        Examples
        --------
        >>> Shard.parse("2/4")
        Shard(number=2, of=4)
        """
        found = re.fullmatch(r"([0-9]{1,4})/([0-9]{1,4})", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise BadInput(f"--shard {text} must be i/n with whole numbers and i from 1 to n, such as 1/4 to 4/4")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"shard {self.number} of {self.of}"


def divide(items: Sequence[Any], n_shards: int) -> list[int]:
    """(len(items),) the shard of each test, from 1. Tests that belong to no suite are in the first one."""
    own = [item for item in items if is_of_suite(item)]
    shard_of: dict[Any, int] = {}
    loads = [0.0] * n_shards
    groups = [(sorted(group, key=_name), _seconds(group)) for group in _groups(own)]
    for group, seconds in sorted(groups, key=lambda each: (-each[1], _name(each[0][0]))):
        lightest = loads.index(min(loads))
        loads[lightest] += seconds
        shard_of |= dict.fromkeys(group, lightest + 1)
    return [shard_of.get(item, 1) for item in items]


def _name(item: Any) -> tuple[str, str]:
    """The name of a test, wherever its suite lies."""
    return item.path.name, item.name


def _seconds(items: Iterable[Any]) -> float:
    cells = {cell for item in items for cell in cells_of(item)}
    kinds = [(cell, kind_of(cell)) for cell in cells]
    return math.fsum(rough_seconds(cell, trains=kind.trains_trials, whole=kind.expected_seconds(cell)) for cell, kind in kinds)


def _groups(items: Sequence[Any]) -> list[list[Any]]:
    """The tests that belong together: those that share a token, directly or through others."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    whole_suites = {item.path.name for item in items if not cells_of(item)}
    numbers: dict[Hashable, int] = {}
    edges = [
        (row, numbers.setdefault(token, len(numbers))) for row, item in enumerate(items) for token in _tokens(item, whole_suites)
    ]
    if not edges:
        return []
    rows, columns = zip(*edges, strict=True)
    size = len(items) + len(numbers)
    links = coo_matrix(([1] * len(edges), (rows, [len(items) + column for column in columns])), (size, size))
    groups: dict[int, list[Any]] = {}
    for item, label in zip(items, connected_components(links, directed=False)[1][: len(items)].tolist(), strict=True):
        groups.setdefault(label, []).append(item)
    return list(groups.values())


def _tokens(item: Any, whole_suites: set[str]) -> Iterator[Hashable]:
    """What a test shares with others that belong to it. A claim that names no cells may be about all of its suite's."""
    if item.path.name in whole_suites:
        yield item.path.name
    for cell in cells_of(item):
        yield from related(cell)


@cache
def related(cell: Cell) -> frozenset[Hashable]:
    """Keys of the trials that a cell reads, of its own and of others, and of the fleet that a stochastic victim starts from."""
    kind = kind_of(cell)
    if not kind.trains_trials:
        return frozenset({cell, ("whole", kind.task_key(cell) or cell)})
    base = cell.with_(defense=filter_of(cell.defense))
    read = (cell, base, cell.plain(), cell.with_(defense=cell.ranked_by))
    found = {(*_setup(each), each.poisoning, each.defender) for each in read}
    return frozenset(found if is_exact_cell(cell) else {*found, (*_setup(cell), draw_identity(cell))})


def _setup(cell: Cell) -> tuple[Hashable, ...]:
    return cell.data, cell.subpopulations, cell.rate, cell.learner


@cache
def is_exact_cell(cell: Cell) -> bool:
    """Whether a cell's trials have the same results each time; not if its victim is unknown here."""
    if not is_exact(cell.defense):
        return False
    try:
        return is_frozen(cell.victim) is not None or bool(make_victim(cell.victim).exact)
    except Exception:  # its test reports it
        return False
