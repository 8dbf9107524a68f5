"""How suites write down their cells: the product of the axes they name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import Any

from subpop.types import Cell, CellResult
from subpop.types.kinds import check_kind


def grid(**axes: Any) -> list[Cell]:
    """One cell for each combination; a list is an axis, anything else is fixed; names are those of `Cell.of`.


    `grid(stem="s", tier="embedded", dataset="digits", victim=["mlp"], partition="feature_match", rate=[0.5, 1], split=[0, 1])`
    gives four cells.
    """
    listed = {name: value if isinstance(value, list) else [value] for name, value in axes.items()}
    listed.setdefault("attack", ["label_flip"])
    for kind in listed.get("kind", ()):
        check_kind(kind)
    return [Cell.of(**dict(zip(listed, values, strict=True))) for values in product(*listed.values())]


def sweeps(cells: Iterable[Cell]) -> list[tuple[Cell, ...]]:
    """Cells that differ in their poisoning rate and their split alone, each group in the order of its rates."""
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
