"""The victim and the data of `--victim` and `--dataset`, and the cells of suites with these in place of their own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from subpop.defenses import DEFENSES
from subpop.types import Cell, Dataset
from subpop.types.kinds import kind_of
from subpop.victims import OF_NUMBERS, OF_PICTURES

FEW_CLUSTERS = 3
"""All clusters are attacked where a cell would attack more than one in this many."""


@dataclass(frozen=True)
class Replacements:
    """What takes the place of the victim and the data of cells; '' and None for nothing."""

    victim: str = ""
    data: Dataset | None = None

    @property
    def names(self) -> frozenset[str]:
        """Names in cells for which there are no references."""
        return frozenset({self.victim, "" if self.data is None else self.data.name} - {""})

    def cells(self, cells: Iterable[Cell]) -> list[Cell]:
        """The cells of trials with this victim and data, each once.

        Left out are cells of victims that read texts and, with a replaced victim, of defenses that train the victim's network
        step by step, which only victims of this package offer.
        """
        fitting = OF_PICTURES if self._has_pictures and not self.victim else OF_NUMBERS
        chosen = [cell for cell in cells if kind_of(cell).trains_trials and (cell.victim in fitting or ":" in cell.victim)]
        if self.victim:
            chosen = [cell for cell in chosen if not _trains_itself(cell.defense)]
        return list(dict.fromkeys(map(self._replaced, chosen)))

    @property
    def _has_pictures(self) -> bool:
        return self.data is not None and self.data.x.ndim == 4

    def _replaced(self, cell: Cell) -> Cell:
        if self.victim:
            cell = cell.with_(victim=self.victim)
        if self.data is None:
            return cell
        # Of the other data: its columns, the space of its clusters, its released split.
        changes = {"dataset": self.data.name, "grouped_by": None, "clusters_on": None}
        if cell.option("protocol") == "as_released":
            changes["protocol"] = None
        if not self.data.annotations:
            changes["partition"] = "cluster_match"
        n_attacked = cell.subpopulations.n_attacked
        if n_attacked is not None and (self.data.annotations or self.data.n_clusters < FEW_CLUSTERS * n_attacked):
            return cell.with_(**changes, n_attacked=None)
        return cell.with_(**changes)


def _trains_itself(defense: str) -> bool:
    return defense in DEFENSES and "training" in getattr(DEFENSES[defense], "needs", ())
