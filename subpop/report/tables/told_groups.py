"""Defenses that use groups, compared with no defense on the same attacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from subpop.report.figures.setups import NO_VALUE
from subpop.report.markdown import escape, table
from subpop.report.tables.poisoning import Poisoning
from subpop.results.paired import damages_by_seed, judge, paired_difference
from subpop.types import Cell, CellReport, CellResult

HEADINGS = ["defense", "groups given", "target damage", "against none", "95 % interval", "verdict", "clean accuracy given up"]
HOW_TO_READ = (
    "Damages and differences in percent, of the subpopulations that lose at least 10 % without a defense. A positive difference: "
    "the defense amplifies the attack. Verdicts are corrected for the number of lines of their table."
)


class ToldGroups(Poisoning):
    """Poisoning cells that differ in the defense and in the groups that it is told."""

    on_scoreboard = False

    def gates(self, cell: Cell) -> Callable[[str], bool]:
        """The undefended damage of the embedded tier only: the intervals are the result."""
        is_compared = cell.tier == "embedded" and cell.defense == "none"
        return lambda metric: is_compared and metric == "target_damage_mean"

    def tables(self, reports: Sequence[CellReport]) -> list[str]:
        """A table for each tier, data set and victim."""
        setups: dict[tuple[str, str, str], list[CellResult]] = {}
        for report in reports:
            if report.result is not None:
                cell = report.cell
                setups.setdefault((cell.tier, cell.dataset, cell.victim), []).append(report.result)
        blocks = []
        for setup, results in setups.items():
            lines = _lines(results)
            if lines:
                blocks += [f"**{escape(', '.join(setup))}**", table(HEADINGS, lines)]
        return [*blocks, HOW_TO_READ] if blocks else []


def _lines(results: Sequence[CellResult]) -> list[list[str]]:
    none = next((result for result in results if result.cell.defense == "none"), None)
    if none is None:
        return []
    plain = damages_by_seed(none)
    others = [result for result in results if result is not none]
    frames = {_name(result.cell): damages_by_seed(result) for result in others}
    judged = judge({name: paired_difference(frame, plain, plain) for name, frame in frames.items()})
    lines = [["none", NO_VALUE, _percent(none["target_damage_mean"]), NO_VALUE, NO_VALUE, NO_VALUE, NO_VALUE]]
    for result in others:
        found = judged[_name(result.cell)]
        difference, width = found.difference, found.difference.half_width
        known = not difference.reason
        lines.append(
            [
                escape(result.cell.defense),
                result.cell.defender.groups_told if result.cell.defense == "group_dro" else NO_VALUE,
                _percent(result["target_damage_mean"]),
                f"{100 * difference.value:+.1f}" if known else NO_VALUE,
                f"{100 * (difference.value - width):+.1f} to {100 * (difference.value + width):+.1f}" if known else NO_VALUE,
                found.verdict if known else difference.reason,
                _percent(result["clean_accuracy"] - result["defended_clean_accuracy"]),
            ]
        )
    return lines


def _name(cell: Cell) -> str:
    return f"{cell.defense} {cell.defender.groups_told}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"
