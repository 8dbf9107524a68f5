"""Cards of defenses: one case in which each must succeed and one in which it must fail, declared before it was measured."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from scipy.special import stdtrit

from subpop.defenses import DEFENSES, MATCHED, filter_of
from subpop.report.figures.lines import Styles
from subpop.report.markdown import escape, table
from subpop.report.tables.poisoning import Poisoning
from subpop.results.declared import Outcome, outcome
from subpop.types import Cell, CellReport, CellResult
from subpop.types.card import Card, Declared
from subpop.types.grid import grid
from subpop.types.kinds import Plan

SPLITS = (0, 1, 2)
STEM = "cards"
INTRODUCTION = (
    "Each defense declares two cases before they are measured. Where it must succeed, at least 80 % of an undefended mean damage "
    "of 20 % or more is gone and at most 2 percentage points of clean accuracy are lost. Where it must fail, it is not better "
    "by 5 percentage points than its control: a random filter that removes as many rows of each label, or no defense. Means over "
    "three splits; the 95 % interval is of the difference to no defense over the subpopulations that the attack hurts."
)


def cards() -> dict[str, Card]:
    """The cards of all registered defenses that have one, by name."""
    return {name: card for name, defense in DEFENSES.items() if (card := getattr(defense, "card", None)) is not None}


def control_of(name: str) -> str:
    """The control of a defense with a card."""
    return f"{MATCHED}{name}" if cards()[name].is_filter else "none"


def declared_cells(case: Declared, defense: str) -> list[Cell]:
    """The cells of a declared case with some defense, one for each split. Its own defense has the settings of the case."""
    card = cards().get(filter_of(defense))
    name = _with_settings(defense, case) if card is not None and case in (card.succeeds, card.fails) else defense
    return grid(stem=STEM, tier="embedded", kind="declared", defense=name, split=list(SPLITS), **case.cell)


def _with_settings(defense: str, case: Declared) -> str:
    return f"{defense}({', '.join(f'{name}={value!r}' for name, value in case.settings.items())})" if case.settings else defense


class Cards(Poisoning):
    """Poisoning cells of the declared cases of defenses."""

    on_scoreboard = False

    def gates(self, cell: Cell) -> Callable[[str], bool]:
        """The damage with a defense, unless there is a single seed; the claims of the suite assert the rest."""
        compared = cell.n_seeds > 1 and cell.defense.partition("(")[0] in cards()
        return lambda metric: compared and metric == "target_damage_mean"

    def figures(self, reports: Sequence[CellReport], styles: Styles) -> Iterator[Plan]:
        """None: a case is two numbers."""
        return iter(())

    def sections(self, reports: Sequence[CellReport]) -> list[str]:
        """A table of the cases that were measured with their controls."""
        results = {report.cell: report.result for report in reports if report.result is not None}
        rows = [row for name, card in cards().items() for row in _rows(name, card, results)]
        headings = [
            "defense",
            "must",
            "because",
            "undefended",
            "control",
            "defended",
            "gone",
            "against none, 95 %",
            "cost",
            "holds",
        ]
        return [INTRODUCTION, table(headings, rows, 3)] if rows else []


def _rows(name: str, card: Card, results: dict[Cell, CellResult]) -> Iterator[list[str]]:
    for must, case in (("succeed", card.succeeds), ("fail", card.fails)):
        found: dict[str, list[CellResult]] = defaultdict(list)
        for defense in (name, "none", control_of(name)):
            found[defense] = [results[cell] for cell in declared_cells(case, defense) if cell in results]
        if all(len(each) == len(SPLITS) for each in found.values()):
            own = outcome(found[name], found["none"], found[control_of(name)])
            holds = own.is_success if must == "succeed" else own.is_failure
            yield [escape(_with_settings(name, case)), must, escape(case.why), *_numbers(own), "yes" if holds else "no"]


def _numbers(own: Outcome) -> list[str]:
    return [
        *(f"{100 * value:.1f}%" for value in (own.undefended, own.control, own.defended, own.share_gone)),
        _interval(own),
        f"{100 * own.cost:+.1f}",
    ]


def _interval(own: Outcome) -> str:
    found = own.difference
    if found.reason:
        return escape(found.reason)
    half = float(stdtrit(found.freedom, 0.975)) * found.std_error if found.std_error else 0.0
    return f"{100 * found.value:+.1f} ± {100 * half:.1f}"
