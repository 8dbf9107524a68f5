"""The subpopulations of a user's table: by named columns, by every categorical column and pair of them, and by clusters.

A column that has few values makes a group of each; a named column of numbers is cut at its quartiles, and one of dates by year,
or by month or day where all are of one year or month. Texts that are dates count as such.
Groups of fewer than ten rows are counted but never named. Groups that contain exactly the rows of an earlier one are counted
too. Clusters are k-means of the columns that the default victim is trained on (see `subpop.datasets.partitions`), cut on at most
10,000 rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from subpop.audit.columns import as_dates, is_identifier, level_codes, shown
from subpop.audit.table import Table
from subpop.datasets.partitions import cluster_match
from subpop.types import BadInput, Ints, Splits
from subpop.types.base import nearest

MIN_ROWS = 10
"""Smaller groups are never named: their rows are people."""
PAIR_ROWS = 30
"""Groups by two columns have at least as many rows."""
CLUSTERED_ROWS = 10_000
CLUSTERS = "cluster"
_FIX = "name a column with fewer values, or add one that merges some of them"


@dataclass(frozen=True, eq=False)
class Grouping:
    """One way to divide the rows into groups."""

    name: str
    """The columns, such as `race x sex`, or `cluster`."""
    codes: Ints
    """(n,) int64 positions in `words`, -1 for rows in no group that is large enough."""
    words: tuple[str, ...]
    """The name of each group, such as `race=Black, sex=Female`."""


@dataclass(frozen=True, eq=False)
class Group:
    """One subpopulation."""

    name: str
    """Such as `race=Black, sex=Female`."""
    rows: Ints
    """(m,) int64 row numbers of the table, ascending."""
    grouping: str
    """The name of the grouping."""


@dataclass(frozen=True, eq=False)
class Groups:
    """All groupings of a table, and what was left out."""

    groupings: tuple[Grouping, ...]
    """Each with at least one group."""
    n_small: int
    """How many groups had too few rows to be named."""
    n_same: int
    """How many had exactly the rows of another one."""
    notes: tuple[str, ...]
    """These counts, and columns that make no groups, each a sentence without its full stop."""
    lacking: tuple[str, ...] = ()
    """Sentences on values of named columns that are left out."""

    def each(self) -> Iterator[Group]:
        """All groups, grouping by grouping."""
        for grouping in self.groupings:
            for code, rows in enumerate(_members(grouping.codes, len(grouping.words))):
                yield Group(grouping.words[code], rows, grouping.name)


def groupings(
    table: Table, named: Sequence[str] = (), *, min_rows: int = MIN_ROWS, pair_rows: int = PAIR_ROWS, seed: int = 0
) -> Groups:
    """Divide the rows of a table into groups.

    Parameters
    ----------
    table
        The user's data.
    named
        Columns that make the groups: each of them, each pair, and all together. Empty for every categorical column, every pair
        of them, and clusters.
    min_rows
        Number of rows from which a group is listed.
    pair_rows
        The same for groups by several columns; at least `min_rows`.
    seed
        Seed of the clusters.

    Returns
    -------
    Groups
        In the order of the columns; clusters last.

    Raises
    ------
    BadInput
        For a name that is no column, is the label, or makes no groups.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from subpop.audit.groups import groupings
    >>> from subpop.audit.table import read_table
    >>> frame = pd.DataFrame({"city": ["Bern"] * 35 + ["Oslo"] * 20 + ["Rome"] * 5, "age": np.arange(60.0), "paid": [0, 1] * 30})
    >>> found = groupings(read_table(frame, "paid"), ["city"])
    >>> [(group.name, len(group.rows)) for group in found.each()], found.n_small
    ([('city=Bern', 35), ('city=Oslo', 20)], 1)
    """
    if min_rows < MIN_ROWS:
        raise BadInput(f"min_rows={min_rows} would list groups of fewer than {MIN_ROWS} rows; use at least {MIN_ROWS}")
    chosen = list(dict.fromkeys(named))
    singles = [_by_column(table, name) for name in chosen] if chosen else _by_categories(table)
    joint = [_joined(pair) for pair in combinations(singles, 2)]
    joint += [_joined(singles)] if len(chosen) > 2 else []
    every = [(each, min_rows) for each in singles] + [(each, max(min_rows, pair_rows)) for each in joint]
    if not chosen:
        every.append((_clusters(table, seed), min_rows))
    return _listed(every, {each.name for each in singles} if chosen else set())


def _by_categories(table: Table) -> list[Grouping]:
    return [_named(name, codes, table.words.get(name)) for name, codes in table.annotations.items()]


def _by_column(table: Table, name: str) -> Grouping:
    known = list(table.annotations) if table.frame is None else list(table.frame.columns)
    if name == table.label:
        raise BadInput(f"groups={name} is the label; groups are made by other columns, such as {_examples(known)}")
    if name not in known:
        raise BadInput(
            f"groups={name} is not a column of {table.name}; {nearest(name, map(shown, known)) if known else 'it has none'}"
        )
    if name in table.annotations:
        codes, words = table.annotations[name], table.words.get(name)
    else:
        assert table.frame is not None  # otherwise all known columns are annotations
        column = as_dates(table.frame[name])
        if is_identifier(column) or (column.nunique() > len(column) // 2 and column.dtype.kind not in "iufM"):
            raise BadInput(
                f"groups={name} has {column.nunique():,} values in {len(column):,} rows; name a column that repeats them"
            )
        codes, words = level_codes(name, column)
    found = _named(name, codes, words)
    if len(found.words) < 2:
        raise BadInput(f"groups={name} has one value, {shown(found.words[0])}, in all rows; leave it out")
    return found


def _examples(names: Sequence[str]) -> str:
    return ", ".join(map(shown, names[:5]))


def _named(name: str, codes: Ints, words: Sequence[str] | None) -> Grouping:
    levels, own = np.unique(codes, return_inverse=True)
    said = [str(level) if words is None else words[level] for level in levels.tolist()]
    return Grouping(name, own.astype(np.int64), tuple(f"{name}={each}" for each in said))


def _joined(parts: Sequence[Grouping]) -> Grouping:
    """The groups of rows that are in the same group of every part."""
    levels, own = np.unique(np.column_stack([each.codes for each in parts]), axis=0, return_inverse=True)
    words = tuple(", ".join(part.words[code] for part, code in zip(parts, level, strict=True)) for level in levels)
    return Grouping(" x ".join(each.name for each in parts), own.ravel().astype(np.int64), words)


def _clusters(table: Table, seed: int) -> Grouping:
    data = table.dataset()
    rows = np.arange(len(table))
    drawn = np.sort(np.random.default_rng(seed).choice(rows, min(CLUSTERED_ROWS, len(rows)), replace=False))
    own = replace(data, annotations={}, n_clusters=min(data.n_clusters, max(2, len(drawn) // MIN_ROWS)))
    codes = cluster_match(own, Splits(rows, drawn, drawn[:1], "all", seed), seed).train
    return _named(CLUSTERS, codes, None)


def _listed(every: Sequence[tuple[Grouping, int]], named: set[str]) -> Groups:
    """The groupings with the groups that are large enough and not yet listed."""
    kept, seen, n_small, n_same, notes, lacking = [], set[bytes](), 0, 0, [], list[str]()
    for grouping, least in every:
        before = n_small
        codes, words = np.full(len(grouping.codes), -1, dtype=np.int64), list[str]()
        for code, rows in enumerate(_members(grouping.codes, len(grouping.words))):
            if len(rows) < least:
                n_small += 1
            elif (content := rows.tobytes()) in seen:
                n_same += 1
            else:
                seen.add(content)
                codes[rows] = len(words)
                words.append(grouping.words[code])
        if grouping.name in named and n_small > before:
            lacking.append(_too_few(grouping, n_small - before, least))
        if words:
            kept.append(Grouping(grouping.name, codes, tuple(words)))
        elif grouping.name in named:
            raise BadInput(f"groups={grouping.name} makes no group of at least {least} rows; {_FIX}")
    least, most = min(size for _, size in every), max(size for _, size in every)
    sizes = f"{least} rows" if least == most else f"{least} rows ({most} by several columns)"
    if n_small:
        notes.append(f"{n_small:,} groups of fewer than {sizes} are not listed")
    if any(each.name == CLUSTERS for each in kept):
        notes.append("clusters are k-means of the features of all rows, test rows included, without labels")
    if n_same:
        notes.append(f"{n_same:,} {'group has' if n_same == 1 else 'groups have'} exactly the rows of another one")
    return Groups(tuple(kept), n_small, n_same, tuple(notes), tuple(lacking))


def _too_few(grouping: Grouping, count: int, least: int) -> str:
    """A sentence on the values of a column that make no groups; they are not named, since so few rows are people."""
    verb = "has" if count == 1 else "have"
    return (
        f"{count:,} of the {len(grouping.words):,} values of {shown(grouping.name)} {verb} fewer than {least} rows and "
        f"{'is' if count == 1 else 'are'} left out."
    )


def _members(codes: Ints, n_groups: int) -> list[Ints]:
    """The row numbers of each group."""
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.searchsorted(codes[order], np.arange(n_groups + 1)))[1:-1]
