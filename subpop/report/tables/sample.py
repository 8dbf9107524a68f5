"""The attacker's sample: damage against the share of D_aux that the attacker sees."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from subpop.report.figures.setups import NO_VALUE
from subpop.report.markdown import escape, table
from subpop.report.tables.poisoning import Poisoning
from subpop.results.intervals import of_values
from subpop.results.metrics import eligible
from subpop.types import Cell, CellReport, CellResult

GROUPS = {"frozen": "given subpopulations", "derived": "own clusters"}
HOW_TO_READ = (
    "Mean target damage, and in brackets its difference to an attacker who sees all of D_aux and knows the subpopulations, with "
    "its 95 % interval over subpopulations. Subpopulations, test rows and the number of poison rows are the same for all "
    "attackers. Poison rows are drawn with replacement, because a small sample has too few for distinct ones. *Own clusters*: "
    "k-means on the rows that the attacker sees; damage is measured on the subpopulation, not on the cluster."
)
Key = tuple[str, str, float]


class Sample(Poisoning):
    """Poisoning cells of attackers who see a share of D_aux."""

    on_scoreboard = False

    def gates(self, cell: Cell) -> Callable[[str], bool]:
        """The mean damage with given subpopulations; own clusters may be others on another machine."""
        compared = ("target_damage_mean",) if cell.poisoning.aux_groups == "frozen" else ()
        return lambda metric: metric in compared

    def tables(self, reports: Sequence[CellReport]) -> list[str]:
        """A sentence for each data set, and the damages of all shares."""
        found = {_key(report.cell): report.result for report in reports if report.result}
        if not found:
            return []
        shares = sorted({share for _, _, share in found})
        datasets = list(dict.fromkeys(dataset for dataset, _, _ in found))
        pairs = [(dataset, groups) for dataset in datasets for groups in GROUPS]
        lines = [[escape(d), GROUPS[g], *(_entry(found, (d, g, share)) for share in shares)] for d, g in pairs]
        headings = ["data", "the attacker knows", *(f"sees {share:.0%} of D_aux" for share in shares)]
        return [" ".join(sentence(found, dataset) for dataset in datasets), table(headings, lines, left=2), HOW_TO_READ]


def sentence(found: Mapping[Key, CellResult], dataset: str) -> str:
    """What the smallest sample of a data set changes, with given subpopulations and with own clusters."""
    smallest = min(share for name, _, share in found if name == dataset)
    changes = {words: difference(found, (dataset, groups, smallest)) for groups, words in GROUPS.items()}
    changed = [f"by {_signed(change)} with {words} ({_trend(*change)})" for words, change in changes.items() if change]
    if not changed:
        return f"On {escape(dataset)} there is nothing to compare with an attacker who sees all of D_aux."
    return f"On {escape(dataset)}, seeing {smallest:.0%} of D_aux instead of all changes the mean damage {' and '.join(changed)}."


def difference(found: Mapping[Key, CellResult], key: Key) -> tuple[float, float] | None:
    """The mean damage of a cell less that of the whole sample, over the subpopulations that count for it, and half the width of
    its interval; None without both cells or with too few subpopulations.
    """
    whole = found.get((key[0], "frozen", 1.0))
    if whole is None or key not in found or found[key] is whole:
        return None
    before, after = (_damages(result) for result in (whole, found[key]))
    changes = np.round([after[name] - before[name] for name in before], 9)  # equal changes are no step of the interval
    width = of_values(changes)
    return None if width is None else (float(changes.mean()), width)


def _damages(result: CellResult) -> dict[str, float]:
    """The damage of each subpopulation that enters the mean."""
    rows = [row for row in result.table if eligible(float(row["n_test"]))]
    return {str(row["subpopulation"]): float(row["target_damage"]) for row in rows}


def _trend(change: float, width: float) -> str:
    return "less damage" if change + width < 0 else "more damage" if change - width > 0 else "no clear difference"


def _key(cell: Cell) -> Key:
    return cell.dataset, cell.poisoning.aux_groups, cell.poisoning.aux_share


def _entry(found: Mapping[Key, CellResult], key: Key) -> str:
    if key not in found:
        return NO_VALUE
    change = difference(found, key)
    return f"{found[key]['target_damage_mean']:.3f}" + (f" ({_signed(change)})" if change else "")


def _signed(change: tuple[float, float]) -> str:
    return f"{change[0]:+.3f} ± {change[1]:.3f}"
