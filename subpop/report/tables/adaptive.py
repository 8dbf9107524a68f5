"""Attacks that know the defense: their damage beside that of fixed attacks, as paired differences with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import pandas as pd

from subpop.report.figures.lines import Styles
from subpop.report.markdown import escape, table
from subpop.report.tables.poisoning import Poisoning
from subpop.results.intervals import of_values
from subpop.types import Cell, CellReport
from subpop.types.kinds import Plan

FIXED = ("label_flip", "proportional")
"""The attacks that `best_of_list` chooses from."""
KNOWING = ("best_of_list", "adaptive")
HOW_TO_READ = (
    "Mean target damage in percent over the attacked subpopulations and splits, all attacks with the same number of rows and the "
    "same choice of rows. Differences are paired by subpopulation and split; ± is half the width of the 95 % interval over "
    "these, which counts them as independent and is not corrected for the number of rows. *Hindsight worst*: for each "
    "subpopulation and split, the fixed attack that turned out to do more damage, chosen on the test rows on which it is "
    "measured: an upper bound of `best_of_list`, which no attacker can reach but by luck, and no bound of `adaptive`."
)


class Adaptive(Poisoning):
    """Poisoning cells that compare attackers who know the defense with others who do not."""

    on_scoreboard = False

    def gates(self, cell: Cell) -> Callable[[str], bool]:
        """The damage of the search, and on the first split that of the choice; only in the small tier."""
        is_first = cell.data.split == 0 and cell.attack == "best_of_list"
        compared = cell.tier == "embedded" and (is_first or cell.attack == "adaptive")
        return lambda metric: compared and metric == "target_damage_mean"

    def figures(self, reports: Sequence[CellReport], styles: Styles) -> Iterator[Plan]:
        """None: all cells have the same alpha."""
        return iter(())

    def tables(self, reports: Sequence[CellReport]) -> list[str]:
        """For each tier, what adaptation adds against each defense, and a sentence for each attack that knows the defense."""
        blocks = []
        for tier in dict.fromkeys(report.cell.tier for report in reports):
            damages = damages_of([report for report in reports if report.cell.tier == tier])
            if len(damages):
                sentences = [*(sentence(damages, attack) for attack in KNOWING), countermeasure(damages)]
                blocks += [f"**{escape(tier)}**", *sentences, _table(damages)]
        return [*blocks, HOW_TO_READ] if blocks else []


def damages_of(reports: Sequence[CellReport]) -> pd.DataFrame:
    """Target damages with a column for each attack, of everything that all attacks have in common.

    The index is (defense, data set, split, subpopulation).
    """
    attacks = (*FIXED, *KNOWING)
    rows = [
        (
            r.cell.defense,
            r.cell.dataset,
            r.cell.option("split", "0"),
            str(row["subpopulation"]),
            r.cell.attack,
            row["target_damage"],
        )
        for r in reports
        if r.result is not None
        for row in r.result.table
    ]
    names = ["defense", "dataset", "split", "subpopulation"]
    found = pd.DataFrame(rows, columns=[*names, "attack", "damage"]).pivot(index=names, columns="attack", values="damage")
    return found.reindex(columns=list(attacks)).dropna().astype(float)


def added(damages: pd.DataFrame, attack: str, other: str) -> tuple[float, float]:
    """The mean paired difference of the damages of two attacks, and half the width of its interval, NaN if it has none."""
    differences = (damages[attack] - damages[other]).round(9).to_numpy()  # equal ones are equal: the interval counts steps
    width = of_values(differences)
    return float(differences.mean()), math.nan if width is None else width


def hindsight(damages: pd.DataFrame) -> float:
    """The mean damage of the fixed attack that turned out to be worse, chosen anew for each subpopulation and split."""
    return float(damages[list(FIXED)].max(axis=1).mean())


def sentence(damages: pd.DataFrame, attack: str) -> str:
    """What an attack that knows the defense adds to label flipping, over all defenses and against which of them."""
    defended = damages.drop(index="none", level="defense", errors="ignore")
    if not len(defended):
        return f"`{attack}` was measured against no defense only."
    by_pair = defended.groupby(level=["dataset", "split", "subpopulation"]).mean()
    found = {name: added(own, attack, "label_flip") for name, own in defended.groupby(level="defense")}
    sure = [f"{escape(name)} ({_points(value, width)})" for name, (value, width) in found.items() if abs(value) > width]
    n = len(defended.index.unique("defense"))
    clear = f"the 95 % interval excludes zero against {', '.join(sure)}" if sure else "no interval of a defense excludes zero"
    text = (
        f"`{attack}` changes the damage of `label_flip` by {_points(*added(by_pair, attack, 'label_flip'))} percentage points, "
        f"averaged over {n} defense{'s' * (n != 1)}; {clear}."
    )
    if attack == "best_of_list":
        mean, worst = 100 * defended[attack].mean(), 100 * hindsight(defended)
        text += f" In hindsight, the worse of its fixed attacks would do {worst:.1f} instead of {mean:.1f} % (an upper bound)."
    return text


def countermeasure(damages: pd.DataFrame) -> str:
    """The defense that leaves least damage to the attacker who knows it, and whether it certainly helps."""
    own = damages["adaptive"].unstack("defense").dropna()
    if "none" not in own or len(own.columns) < 2:
        return ""
    best = str(own.drop(columns="none").mean().idxmin())
    value, width = added(own, best, "none")
    helps = "" if value < -width else ", so that no defense of this table clearly helps against an attacker who adapts to it"
    return (
        f"Best countermeasure in these cells: with {escape(best)}, `adaptive` does {100 * own[best].mean():.1f} % of damage, "
        f"{100 * own['none'].mean():.1f} % without a defense ({_points(value, width)}; the best of {len(own.columns) - 1}, hence "
        f"optimistic){helps}."
    )


def _points(value: float, width: float) -> str:
    return f"{100 * value:+.1f}" + ("" if math.isnan(width) else f" ± {100 * width:.1f}")


def _table(damages: pd.DataFrame) -> str:
    lines = []
    groups = {str(name): own for name, own in damages.groupby(level="defense")}
    for name in sorted(groups, key=lambda name: (name != "none", name)):
        own = groups[name]
        means = [f"{100 * own[attack].mean():.1f}" for attack in ("label_flip", *KNOWING)]
        gains = [_points(*added(own, "adaptive", other)) for other in ("label_flip", "best_of_list")]
        lines.append([escape(name), *means, *gains, f"{100 * hindsight(own):.1f}", f"{len(own)}"])
    headings = ["defense", "label\\_flip", "best\\_of\\_list", "adaptive", "adaptive less label\\_flip"]
    headings += ["adaptive less best\\_of\\_list", "hindsight worst (upper bound of best\\_of\\_list)", "pairs"]
    return table(headings, lines)
