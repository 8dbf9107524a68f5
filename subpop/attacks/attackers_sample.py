"""What an attacker with a smaller sample knows: a share of D_aux, with given groups or with clusters of its own.

With `aux_share` below 1 the attacker sees that share of each subpopulation's rows in D_aux, rounded up, and of the rows that are
in none; a smaller share is contained in a larger one. Which subpopulations there are, which of them are attacked and the number
of poison rows remain those of the whole D_aux, so that only the choice of poison rows becomes poorer.

With `aux_groups=derived` the attacker does not know the clusters either. It clusters the rows that it sees, with as many clusters
and the same seed, and takes for its target the cluster that holds most of the target's rows that it sees; of equal ones the
first. Poison is drawn from this cluster, and damage is measured on the target.

*Source*: own construction.
*Deviations*: the paper's attacker always has a sample as large as D. Only label flips with a label that needs no model are
supported: other attacks train a model on D_aux.
"""

from __future__ import annotations

import math
from weakref import WeakKeyDictionary

import numpy as np

from subpop.datasets.partitions import cluster_match
from subpop.datasets.stage import Stage
from subpop.runtime.seeds import derived_seed
from subpop.types import BadInput, Bools, Cell, Ints, Splits

_CLUSTERS: WeakKeyDictionary[Stage, dict[tuple[float, int], Ints]] = WeakKeyDictionary()


def known_members(stage: Stage, cell: Cell, name: str) -> Ints:
    """(a,) pool rows that the attacker takes for rows of the subpopulation: all of its rows in D_aux if it sees them all."""
    own = cell.poisoning
    if own.aux_share == 1 and own.aux_groups == "frozen":
        return stage.aux_members(name)
    seen = seen_rows(stage, cell)
    members = seen & (stage.partition.aux == stage.partition.names.index(name))
    if own.aux_groups == "derived":
        clusters = _clusters(stage, cell, seen)
        members = clusters == np.bincount(clusters[members]).argmax()
    return stage.pool.n_train + np.flatnonzero(members)


def seen_rows(stage: Stage, cell: Cell) -> Bools:
    """(n_aux,) bool: the rows of D_aux that the attacker sees."""
    groups, share = stage.partition.aux, cell.poisoning.aux_share
    seen = np.zeros(len(groups), bool)
    generator = np.random.default_rng(derived_seed("attacker's sample", cell.dataset, cell.data.protocol, cell.data.split))
    order = generator.permutation(len(groups))
    for group in np.unique(groups):
        rows = order[groups[order] == group]
        seen[rows[: math.ceil(share * len(rows) * (1 - 1e-12))]] = True
    return seen


def check_sample(cell: Cell, n_classes: int) -> None:
    """Raise BadInput for a smaller sample where the attack would not use it alone."""
    own = cell.poisoning
    if own.aux_share == 1 and own.aux_groups == "frozen":
        return
    settings = f"aux_share={own.text('aux_share')} and aux_groups={own.aux_groups} of {cell.id}"
    rule = own.label_rule or ("own" if n_classes == 2 else "common")
    if cell.attack != "label_flip" or rule == "common":
        raise BadInput(
            f"{settings}: attack {cell.attack} with label_rule={rule} trains a model on all of D_aux; use attack=label_flip with "
            "label_rule=own or rarest, or leave aux_share and aux_groups out"
        )
    if own.aux_groups == "derived" and (cell.partition, cell.subpopulations.clusters_on) != ("cluster_match", "inputs"):
        raise BadInput(
            f"{settings}: the attacker clusters inputs; use partition=cluster_match with clusters_on=inputs, or aux_groups=frozen"
        )


def _clusters(stage: Stage, cell: Cell, seen: Bools) -> Ints:
    """(n_aux,) the attacker's own cluster of each row that it sees, -1 for the others."""
    known = _CLUSTERS.setdefault(stage, {})
    key = (cell.poisoning.aux_share, cell.subpopulations.partition_seed)
    if key not in known:
        splits = stage.data.splits
        own = Splits(splits.train, splits.aux[seen], splits.test, splits.protocol, splits.seed)
        found = np.full(len(seen), -1)
        found[seen] = cluster_match(stage.dataset, own, cell.subpopulations.partition_seed).aux
        known[key] = found
    return known[key]
