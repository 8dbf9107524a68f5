"""Every attack against every defense: mean damage net of controls."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from subpop.attacks import ATTACKS
from subpop.attacks.control_attacks import Control
from subpop.report.figures.attack_grid import heat_map
from subpop.report.figures.lines import Styles
from subpop.report.figures.setups import NO_VALUE, is_control
from subpop.report.markdown import escape, table
from subpop.report.tables.poisoning import Poisoning
from subpop.results.intervals import of_values
from subpop.types import Cell, CellReport
from subpop.types.kinds import Plan
from subpop.types.specifications import attack_specification

SUBTRACTED = ("own_label", "scattered_flips")
"""The controls of which the one that does more damage is subtracted."""
COMMON_SET = "label_flip"
"""The attack whose possible poison is that of the attacks that are compared."""
GATED = ("label_flip", "proportional", "model_targeted", "near_neighbours", "gradient_match")
HOLDS = 0.05
"""A defense holds if no attack does more damage than this, net of controls, and no control does."""
MARKS = ("(a)", "(b)", "(c)", "(d)")
GIVES_UP = 0.02
"""The clean accuracy that a defense may cost to be named without it."""
HOW_TO_READ = (
    "Mean target damage in percent over data sets and subpopulations, less that of the control that does more damage against the "
    "same defense: the rows of label flipping with their own labels, or as many flips spread at random. All attacks have equally "
    "many poison rows. *Worst in hindsight*: the largest of the columns with the same possible poison, chosen on the damages "
    "that are shown, so too large on average; ± is half the width of its 95 % interval over data sets and subpopulations, not "
    "corrected for the choice. A dash: not measured (an attacker cannot train this defense, or it is too slow)."
)
CAPTION = (
    "Damage in percent net of controls; a frame marks the worst attack of a line among those with the same possible poison, "
    "chosen in hindsight. The vertical line separates attacks whose poison may be other rows; `other_group` is a control."
)


class AttackGrid(Poisoning):
    """Poisoning cells that differ in attack and defense."""

    on_scoreboard = False

    def gates(self, cell: Cell) -> Callable[[str], bool]:
        """The damage on digits of some attacks, with both defenses of the small tier or without a defense."""
        undefended = GATED[:3] if cell.defense == "none" else ()
        wanted = GATED if cell.tier == "embedded" else undefended
        compared = cell.dataset == "digits" and cell.attack in wanted
        return lambda metric: compared and metric == "target_damage_mean"

    def tables(self, reports: Sequence[CellReport]) -> list[str]:
        """For each tier a sentence, and the table of defenses and attacks."""
        blocks = []
        for tier in dict.fromkeys(report.cell.tier for report in reports):
            found = Grid.of([report for report in reports if report.cell.tier == tier])
            if found.defenses:
                blocks += [f"**{escape(tier)}**", found.sentence(), found.table(), found.legend()]
        return [*blocks, HOW_TO_READ] if blocks else []

    def figure_of(self, cell: Cell) -> str:
        """All data sets share one figure."""
        return "all"

    def figures(self, reports: Sequence[CellReport], styles: Styles) -> Iterator[Plan]:
        """The heat map."""
        found = Grid.of(reports)
        if found.defenses:
            columns = [*found.compared, *found.others]
            values = 100 * np.array([[found.net(defense, attack) for attack in columns] for defense in found.defenses])
            framed = [columns.index(found.worst(defense)) for defense in found.defenses]
            draw = partial(heat_map, values, found.defenses, columns, framed, len(found.compared))
            yield Plan("heat", draw, "damage of every attack against every defense, net of controls", CAPTION)


@dataclass(frozen=True, eq=False)
class Grid:
    """Damages of all attacks and defenses of a tier."""

    damages: Mapping[tuple[str, str], Mapping[tuple[str, str], float]]
    """By defense and attack, the damage of each data set and subpopulation."""
    accuracy: Mapping[str, float]
    """Of each defense, on clean data."""

    @classmethod
    def of(cls, reports: Sequence[CellReport]) -> Grid:
        """From the reports of one tier."""
        damages: dict[tuple[str, str], dict[tuple[str, str], float]] = {}
        clean: dict[str, list[float]] = {}
        for cell, result in ((report.cell, report.result) for report in reports):
            if result is not None:
                found = {(cell.dataset, str(row["subpopulation"])): float(row["target_damage"]) for row in result.table}
                damages.setdefault((cell.defense, cell.attack), {}).update(found)
                if cell.attack == COMMON_SET:
                    clean.setdefault(cell.defense, []).append(result["defended_clean_accuracy"])
        return cls(damages, {defense: sum(values) / len(values) for defense, values in clean.items()})

    @cached_property
    def attacks(self) -> dict[str, list[str]]:
        """The attacks by what poison may be, that of label flips first; without the controls that are subtracted."""
        measured = {attack for _, attack in self.damages}
        found: dict[str, list[str]] = {attack_specification(COMMON_SET).feasible: []}
        for name in ATTACKS:
            if name in measured and name not in SUBTRACTED:
                found.setdefault(attack_specification(name).feasible, []).append(name)
        return found

    @property
    def compared(self) -> list[str]:
        """The attacks with the same possible poison."""
        return self.attacks[attack_specification(COMMON_SET).feasible]

    @property
    def others(self) -> dict[str, str]:
        """The attacks with other possible poison, each with its mark."""
        sets = list(self.attacks.values())[1:]
        return {name: mark for mark, names in zip(MARKS, sets, strict=False) for name in names}

    @cached_property
    def defenses(self) -> list[str]:
        """No defense first, then the smallest worst net damages; without those that lack label flips or a control."""
        complete = [name for name, _ in self.damages if all((name, attack) in self.damages for attack in SUBTRACTED)]
        names = {name for name in complete if self.paired(name, COMMON_SET)}
        return sorted(names, key=lambda name: (name != "none", self.net(name, self.worst(name)), name))

    def control(self, defense: str) -> tuple[str, float]:
        """The control that does more damage against a defense, and its mean damage; of equal ones the first."""
        means = {name: _mean(list(self.damages[defense, name].values())) for name in SUBTRACTED}
        name = max(means, key=lambda each: means[each])
        return name, means[name]

    def paired(self, defense: str, attack: str) -> list[float]:
        """The damages of an attack less those of the control of each subpopulation; empty if these differ."""
        own, control = self.damages.get((defense, attack), {}), self.damages[defense, self.control(defense)[0]]
        return [] if own.keys() != control.keys() else [round(own[key] - control[key], 9) for key in control]

    def net(self, defense: str, attack: str) -> float:
        """The mean damage of an attack net of controls; NaN where it was not measured."""
        return _mean(self.paired(defense, attack))

    def worst(self, defense: str) -> str:
        """The attack of the largest net damage among those that are compared; of equal ones the first."""
        return max((name for name in self.compared if self.paired(defense, name)), key=lambda name: self.net(defense, name))

    def holding(self) -> list[str]:
        """The defenses against which neither an attack of any column, net of controls, nor a control does more than HOLDS.

        Without the second condition, a defense that random flips destroy would hold.
        """
        attacks = [name for feasible, names in self.attacks.items() for name in names if feasible != Control.feasible]
        robust = [name for name in self._real() if self.control(name)[1] <= HOLDS]
        return [name for name in robust if not any(self.net(name, attack) > HOLDS for attack in attacks)]

    def sentence(self) -> str:
        """Which defenses hold against all attacks, and what clean accuracy they cost."""
        n, held = len(self._real()), self.holding()
        free = [name for name in held if self.cost(name) <= GIVES_UP]
        costly = [f"{escape(name)} ({100 * self.cost(name):.1f})" for name in held if name not in free]
        said = f"Of {n} defense{'s' * (n != 1)}, {len(held)} hold{'s' * (len(held) == 1)} against every attack"
        said += f" (at most {100 * HOLDS:g} % damage net of controls, and of a control)."
        if held:
            said += f" At a cost of at most {100 * GIVES_UP:g} points of clean accuracy: {', '.join(map(escape, free)) or 'none'}"
            said += f"; at a larger cost (in points): {', '.join(costly)}." if costly else "."
        if "none" in self.defenses:
            worst = self.worst("none")
            said += f" Without a defense, {escape(worst)} does most: {_percent(self.net('none', worst))} %."
        return said

    def table(self) -> str:
        """A line for each defense."""
        headings = ["defense", *self.compared, "worst in hindsight", *(f"{name} {mark}" for name, mark in self.others.items())]
        return table([*headings, "control", "clean accuracy"], [self._line(name) for name in self.defenses])

    def legend(self) -> str:
        """What poison may be, in words, for the columns that are not compared with label flips."""
        first, *others = self.attacks
        marked = [f"{mark} {feasible}" for mark, feasible in zip(MARKS, others, strict=False)]
        return f"Poison may be: {'; '.join([f'without a mark, {first}', *marked])}."

    def cost(self, defense: str) -> float:
        """The clean accuracy that a defense gives up; NaN if it was not measured without a defense."""
        return round(self.accuracy.get("none", math.nan) - self.accuracy.get(defense, math.nan), 9)

    def _real(self) -> list[str]:
        return [name for name in self.defenses if not is_control(name)]

    def _line(self, defense: str) -> list[str]:
        worst, (control, damage) = self.worst(defense), self.control(defense)
        width = of_values(self.paired(defense, worst))
        interval = "" if width is None else f" ± {100 * width:.1f}"
        return [
            escape(f"{defense} (control)" if is_control(defense) and defense != "none" else defense),
            *(_percent(self.net(defense, attack)) for attack in self.compared),
            f"{_percent(self.net(defense, worst))}{interval} ({escape(worst)})",
            *(_percent(self.net(defense, attack)) for attack in self.others),
            f"{_percent(damage)} ({escape(control)})",
            _percent(self.accuracy.get(defense, math.nan)),
        ]


def _mean(values: Sequence[float]) -> float:
    return round(math.fsum(values) / len(values), 9) if values else math.nan


def _percent(value: float) -> str:
    return NO_VALUE if math.isnan(value) else f"{100 * value:.1f}".replace("-0.0", "0.0")
