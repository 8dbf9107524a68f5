"""Typical rows of a subpopulation: its members in D_aux nearest to its centroid."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from subpop.datasets.stage import Stage
from subpop.types import Array, Ints

TEXTS = 3


def nearest(space: Array, members: Array, count: int) -> Ints:
    """(count,) positions of the members, (n,) bool, nearest to their mean, or all if there are fewer."""
    rows = np.flatnonzero(members)
    apart = ((space[rows] - space[rows].mean(axis=0)) ** 2).sum(axis=1)
    return rows[np.argsort(apart, kind="stable")[:count]]


def nearest_texts(stage: Stage, space: Array, names: Iterable[str]) -> dict[str, Array]:
    """`texts:NAME` -> (TEXTS,) distinct texts of each named subpopulation. space: (|D_aux|, d) in which clusters were made."""
    texts = stage.dataset.texts or ()
    found = {}
    for name in names:
        members = stage.partition.aux == stage.partition.names.index(name)
        near = nearest(space, members, int(members.sum()))
        distinct = dict.fromkeys(texts[stage.data.splits.aux[i]] for i in near)
        found[f"texts:{name}"] = np.array(list(distinct)[:TEXTS])
    return found
