"""How suites define their cells: as the product of axes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import Any

from subpop.types import Cell, CellResult
from subpop.types.kinds import check_kind


def grid(**axes: Any) -> list[Cell]:
    """Build the cells of a suite: one for each combination of the axes.

    Parameters
    ----------
    **axes
        Keyword arguments of `Cell.of`: the names of a cell and its settings. A list is an axis; anything else is fixed.

    Returns
    -------
    list of Cell
        The product of the axes; the last axis varies fastest.

    Raises
    ------
    BadInput
        If a setting or a kind is unknown (the message suggests the most similar name), or a value is not allowed. Names of data
        sets, victims, partitions, attacks and defenses are checked when a run is planned.

    Examples
    --------
    >>> from subpop import grid
    >>> names = dict(stem="mine", tier="embedded", dataset="digits", partition="feature_match")
    >>> cells = grid(victim="logistic_regression", rate=[0.5, 1], defense=["none", "trim"], **names)
    >>> [(cell.rate, cell.defense) for cell in cells]
    [(0.5, 'none'), (0.5, 'trim'), (1.0, 'none'), (1.0, 'trim')]
    """
    listed = {name: value if isinstance(value, list) else [value] for name, value in axes.items()}
    listed.setdefault("attack", ["label_flip"])
    for kind in listed.get("kind", ()):
        check_kind(kind)
    return [Cell.of(**dict(zip(listed, values, strict=True))) for values in product(*listed.values())]


def sweeps(cells: Iterable[Cell]) -> list[tuple[Cell, ...]]:
    """Groups of cells that differ only in their poisoning rate and split, each in the order of its rates."""
    groups: dict[Cell, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.with_(rate=0.0, split=None), []).append(cell)
    return [tuple(sorted(group, key=lambda c: (c.rate, c.setting))) for group in groups.values()]


def sweep_id(sweep: Sequence[Cell]) -> str:
    """The id of a sweep: that of its cells, without rate and split."""
    cell = sweep[0].with_(split=None)
    return cell.id.replace(f"-{cell.rate:g}-", "-", 1)


def mean_by_rate(sweep: Sequence[Cell], result_of: Callable[[Cell], CellResult], metric: str) -> dict[float, float]:
    """A metric of a sweep, averaged over its splits: {rate: value}, in the order of the rates."""
    values: dict[float, list[float]] = {}
    for cell in sweep:
        values.setdefault(cell.rate, []).append(result_of(cell)[metric])
    return {rate: sum(found) / len(found) for rate, found in values.items()}
