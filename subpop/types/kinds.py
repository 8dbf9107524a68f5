"""The kinds of measurement: how cells are planned, measured, shown and drawn. One line of `KINDS` adds a kind.

A cell names its kind (`Cell.kind`). The class of that name implements everything that differs from poisoning cells, so neither
the run nor the report depends on names of suites. Classes are imported when the first cell of their kind is used.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

from subpop.types import BadInput, Cell, CellReport, CellResult
from subpop.types.base import nearest

KINDS = {
    "poisoning": "subpop.report.tables.poisoning:Poisoning",
    "adaptive": "subpop.report.tables.adaptive:Adaptive",
    "board": "subpop.report.tables.board:Board",
    "declared": "subpop.report.tables.cards:Cards",
    "width": "subpop.report.tables.capacity:Capacity",
    "certified": "subpop.report.tables.certified:Certified",
    "clusters": "subpop.report.tables.clusters:Clusters",
    "ensembles": "subpop.report.tables.ensembles:Ensembles",
    "fine_pruning": "subpop.report.tables.fine_pruning:FinePruning",
    "told_groups": "subpop.report.tables.told_groups:ToldGroups",
    "imdb": "subpop.report.tables.imdb:Imdb",
    "optimised": "subpop.report.tables.optimised:Optimised",
    "every_attack": "subpop.report.tables.attack_grid:AttackGrid",
    "sample": "subpop.report.tables.sample:Sample",
    "speed": "subpop.report.tables.speed:Speed",
    "m50": "subpop.report.tables.susceptibility:Susceptibility",
    "target_sets": "subpop.report.tables.target_sets:TargetSets",
    "transfer": "subpop.report.tables.transfer:Transfer",
    "two_worlds": "subpop.report.tables.two_worlds:TwoWorlds",
}
"""The class of each kind, as `module:name`."""

Measure = Callable[[Cell], CellResult]


@dataclass(frozen=True)
class Plan:
    """A figure that can be drawn."""

    kind: str
    """The last part of the file name."""
    draw: Callable[[], Any]
    """Returns the matplotlib figure."""
    alt: str
    """The alternative text."""
    caption: str
    """How to read it."""


class Kind(ABC):
    """How cells of one kind are measured, planned, compared, shown and drawn."""

    trains_trials = False
    """Whether a cell consists of trials, which are trained, stored and resumed one by one."""
    is_stored = True
    """Whether a cell's result is read from the store once it has been measured."""
    runs_by_default = True
    """Whether its suites run if no suite is named."""
    is_board = False
    """Whether its cells are made to compare defenses, and are preferred on the board of a report."""
    on_scoreboard = True
    """Whether its cells are rows of the scoreboard's tables of damages."""

    @abstractmethod
    def measurer(self, experiment: Any) -> Measure:
        """A function that measures cells with an `Experiment`; it may cache what they share for the duration of the run."""

    @abstractmethod
    def figures(self, reports: Sequence[CellReport], styles: Any) -> Iterator[Plan]:
        """The figures of cells with results. styles: the colour and the marker of each defense."""

    def expected_seconds(self, cell: Cell) -> float:
        """Seconds that a cell without trials is expected to take."""
        return 1.0

    def task_key(self, cell: Cell) -> Hashable | None:
        """A key that is equal for cells without trials that one worker measures together; None if only the test measures them."""
        return cell

    def parts(self, cell: Cell) -> int:
        """How many parts of a cell without trials can be measured on different workers, each kept in the store by itself."""
        return 1

    def measure_part(self, experiment: Any, cell: Cell, part: int) -> None:
        """Measure one part of a cell, or read it from the store; all of the cell unless a kind has several parts."""
        self.measurer(experiment)(cell)

    def is_compared(self, metric: str) -> bool:
        """Whether a number is compared with its reference; others are checked by assertions of the suite."""
        return True

    def gates(self, cell: Cell) -> Callable[[str], bool]:
        """Tells of each metric that the registry gates whether it is also gated in this cell; otherwise it is shown only."""
        return lambda metric: True

    def tables(self, reports: Sequence[CellReport]) -> list[str]:
        """Blocks of markdown: the table in the paper's layout, for the suite's page and the scoreboard."""
        return []

    def sections(self, reports: Sequence[CellReport]) -> list[str]:
        """Blocks of markdown that follow the numbers on the suite's page."""
        return []

    def speedups(self, reports: Sequence[CellReport]) -> list[list[str]]:
        """Rows of the scoreboard's table of speed-ups."""
        return []

    def figure_of(self, cell: Cell) -> str:
        """A key: cells of a suite and tier with equal keys share their figures."""
        return cell.dataset


@cache
def kind_named(name: str) -> Kind:
    """The kind of a name; raises BadInput for an unknown one."""
    module, _, found = KINDS[check_kind(name)].partition(":")
    kind: Kind = getattr(import_module(module), found)()
    return kind


def check_kind(name: str) -> str:
    """The name of a kind; raises BadInput for an unknown one, and suggests the most similar name."""
    if not isinstance(name, str) or name not in KINDS:
        raise BadInput(f"unknown kind of cell {name!r}; {nearest(str(name), KINDS)}")
    return name


def kind_of(cell: Cell) -> Kind:
    """The kind of a cell."""
    return kind_named(cell.kind)


def by_kind(reports: Iterable[CellReport]) -> dict[Kind, list[CellReport]]:
    """Reports by the kind of their cells, in the order of the registry."""
    found: dict[str, list[CellReport]] = {}
    for report in reports:
        found.setdefault(report.cell.kind, []).append(report)
    return {kind_named(name): found[name] for name in KINDS if name in found}


class Measurers:
    """Measures cells of any kind with one experiment."""

    def __init__(self, experiment: Any) -> None:
        self._experiment = experiment
        self._own: dict[str, Measure] = {}

    def __call__(self, cell: Cell) -> CellResult:
        """The numbers of a cell."""
        if cell.kind not in self._own:
            self._own[cell.kind] = kind_of(cell).measurer(self._experiment)
        return self._own[cell.kind](cell)

    def part(self, cell: Cell, part: int) -> CellResult | None:
        """Measure one part of a cell without trials, which is all of it for most kinds; the numbers if it is."""
        kind = kind_of(cell)
        if kind.parts(cell) == 1:
            return self(cell)
        kind.measure_part(self._experiment, cell, part)
        return None
