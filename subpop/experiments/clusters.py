"""Description of the clusters of ClusterMatch (Figure 3): the pictures nearest to a centroid, and the composition of its rows.

Everything is computed on D_aux, the attacker's own sample. The clusters shown are those whose composition differs most from that
of D_aux.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from subpop.datasets.stage import Stage
from subpop.experiments.context import Context
from subpop.experiments.nearest_texts import nearest
from subpop.types import Array, BadInput, Cell, CellResult, Dataset, Ints, Number

SHOWN = 6
PICTURES = 24
SMALLEST = 1e-9


def describe_clusters(cell: Cell, context: Context) -> CellResult:
    """The six most distinctive clusters of a cell's partition: pictures, composition, and the purity of all clusters."""
    started = time.perf_counter()
    stage = context.stage(cell)
    dataset = stage.dataset
    if dataset.x.ndim != 4:
        raise BadInput(f"{cell.id}: rows of {dataset.name} have shape {dataset.x.shape[1:]}; Figure 3 needs pictures")
    codes = known_of(dataset)
    aux = stage.data.splits.aux
    shares = {name: _shares(stage.partition.aux, values[aux], len(stage.partition.names)) for name, values in codes.items()}
    shown = _most_distinctive(stage, shares, codes)
    space = context.cluster_space(cell)
    table, names = tuple(_row(stage, i, shares, dataset) for i in shown), stage.partition.names
    return CellResult(
        cell,
        tuple(_purity(stage, shares)),
        table,
        {f"pictures:{names[i]}": dataset.x[aux[nearest(space, stage.partition.aux == i, PICTURES)]] for i in shown},
        n_subpopulations=len(stage.attacked),
        seconds=time.perf_counter() - started,
        notes=dataset.notes,
    )


def known_of(dataset: Dataset) -> dict[str, Ints]:
    """Everything known about rows other than the pictures: annotations, and the label under the name `label`."""
    return {**dataset.annotations, "label": dataset.y}


def _shares(groups: Ints, values: Ints, n_groups: int) -> Array:
    """(n_groups, codes) fraction of each code among the rows of a group."""
    counts = np.zeros((n_groups, int(values.max()) + 1))
    np.add.at(counts, (groups[groups >= 0], values[groups >= 0]), 1)
    return np.asarray(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))


def _most_distinctive(stage: Stage, shares: Mapping[str, Array], codes: Mapping[str, Ints]) -> list[int]:
    """Attacked clusters with enough rows, sorted by the difference of their composition from D_aux (sum of KL divergences)."""
    aux, distance = stage.data.splits.aux, np.zeros(len(stage.partition.names))
    for name, own in shares.items():
        overall = np.bincount(codes[name][aux], minlength=own.shape[1]) / len(aux)
        distance += (own * np.log(np.maximum(own, SMALLEST) / np.maximum(overall, SMALLEST))).sum(axis=1)
    large = [i for i in stage.partition.attacked if (stage.partition.aux == i).sum() >= PICTURES]
    if len(large) < SHOWN:
        raise BadInput(f"{len(large)} clusters have {PICTURES} rows in D_aux; {SHOWN} are needed: cut fewer clusters")
    return sorted(large, key=lambda i: (-distance[i], i))[:SHOWN]


def _row(stage: Stage, group: int, shares: Mapping[str, Array], dataset: Dataset) -> dict[str, float | str]:
    """A cluster's name, sizes, and the most common value of each annotation with its share."""
    row: dict[str, float | str] = {
        "subpopulation": stage.partition.names[group],
        "n_aux": float((stage.partition.aux == group).sum()),
        "n_test": float((stage.partition.test == group).sum()),
    }
    for name, own in shares.items():
        code = int(own[group].argmax())
        row[name] = words_of(dataset, name)[code] if words_of(dataset, name) else str(code)
        row[f"{name}_share"] = float(own[group].max())
    return row


def words_of(dataset: Dataset, name: str) -> tuple[str, ...]:
    """The names of the codes of an annotation (or of `label`), if the data set has them."""
    return dataset.words.get("y" if name == "label" else name, ())


def _purity(stage: Stage, shares: Mapping[str, Array]) -> list[Number]:
    """Fraction of the most common value in attacked clusters, averaged over rows; and that fraction in all of them together."""
    attacked = list(stage.partition.attacked)
    sizes = np.array([(stage.partition.aux == i).sum() for i in attacked], float)
    numbers = []
    for name, own in shares.items():
        numbers.append(Number(f"purity_share_{name}", float(np.average(own[attacked].max(axis=1), weights=sizes))))
        numbers.append(Number(f"most_common_share_{name}", float(np.average(own[attacked], axis=0, weights=sizes).max())))
    return numbers
