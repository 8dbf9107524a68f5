"""The table of attacks that know the defense: means, paired differences and hindsight worked by hand."""

import re

import pytest

from subpop.report.tables.adaptive import Adaptive, added, countermeasure, damages_of, hindsight, sentence
from subpop.types import CellReport, CellResult
from subpop.types.grid import grid

NAMES = ("a", "b", "c")
FLIPS = {"none": [0.2, 0.3, 0.4], "trim": [0.1, 0.2, 0.3]}
MORE = {
    "label_flip": [0, 0, 0],
    "proportional": [0.1, -0.1, -0.1],
    "best_of_list": [0.1, 0, -0.1],
    "adaptive": [0.10, 0.12, 0.14],
}


def cells():
    names = {"stem": "adaptive", "kind": "adaptive", "tier": "embedded", "dataset": "digits", "victim": "logistic_regression"}
    settings = {"partition": "feature_match", "rate": 1.0, "sampling": "distinct", "split": [0, 1], "n_seeds": 1}
    return grid(**names, **settings, attack=list(MORE), defense=list(FLIPS))


def report(cell):
    """The second split has a hundredth more damage for all attacks."""
    shift = 0.01 * cell.data.split
    damages = [flip + more + shift for flip, more in zip(FLIPS[cell.defense], MORE[cell.attack], strict=True)]
    rows = tuple({"subpopulation": name, "target_damage": damage} for name, damage in zip(NAMES, damages, strict=True))
    return CellReport(cell, CellResult(cell, (), rows))


REPORTS = list(map(report, cells()))


def test_differences_are_paired_by_subpopulation_and_split():
    own = damages_of(REPORTS).xs("trim", level="defense")
    assert len(own) == 6
    value, width = added(own, "adaptive", "label_flip")
    assert value == pytest.approx(0.12)
    # deviation .0179 over 6 pairs, 4 degrees of freedom, and two more values that are off by a step of .02
    assert width == pytest.approx(2.776 * (0.00032 / 6 + 2 * (0.02 / 6) ** 2) ** 0.5, rel=1e-3)
    assert added(own, "adaptive", "best_of_list")[0] == pytest.approx(0.12)
    assert hindsight(own) == pytest.approx((0.2 + 0.2 + 0.3) / 3 + 0.005)


def test_what_not_all_attacks_were_measured_on_is_left_out():
    lacking = [r for r in REPORTS if not (r.cell.attack == "adaptive" and r.cell.defense == "trim" and r.cell.data.split == 1)]
    found = damages_of([*lacking, CellReport(cells()[0], None, status="error")])
    assert found.groupby(level="defense").size().to_dict() == {"none": 6, "trim": 3}
    assert "nan" not in "".join(Adaptive().tables(lacking))
    assert Adaptive().tables([CellReport(cells()[0], None, status="error")]) == []


def test_the_sentences_name_the_defenses_whose_interval_excludes_zero():
    damages = damages_of(REPORTS)
    searched, chosen = sentence(damages, "adaptive"), sentence(damages, "best_of_list")
    assert "by +12.0 ± 2.4 percentage points, averaged over 1 defense;" in searched
    assert "excludes zero against trim (+12.0 ± 2.4)" in searched
    assert "by +0.0 ± " in chosen
    assert "no interval of a defense excludes zero" in chosen
    assert "would do 23.8 instead of 20.5 % (an upper bound)" in chosen


def test_the_best_countermeasure_is_named_and_whether_it_helps():
    damages = damages_of(REPORTS)
    damages.loc[("trim", "digits", "0", "a"), "adaptive"] += 0.03
    damages.loc[("trim", "digits", "0", "b"), "adaptive"] -= 0.03
    text = countermeasure(damages)
    assert "with trim, `adaptive` does 32.5 % of damage, 42.5 % without a defense (-10.0" in text
    assert text.endswith("hence optimistic).")
    better = damages[damages.index.get_level_values("defense") == "none"]
    assert countermeasure(better) == ""
    few = damages[damages.index.get_level_values("split") == "0"]
    assert "clearly helps" in countermeasure(few)  # three pairs have no interval
    noisy = damages.copy()
    noisy.loc[("trim", "digits", "0", "a"), "adaptive"] = 0.9
    text = countermeasure(noisy)
    assert text.endswith("no defense of this table clearly helps against an attacker who adapts to it.")


def test_the_table_has_a_row_for_each_defense_and_no_defense_first():
    text = "\n".join(Adaptive().tables(REPORTS))
    rows = [line for line in text.splitlines() if re.match(r"\| (none|trim)", line)]
    assert [re.split(r"\s*\|\s*", row.strip("| ")) for row in rows] == [
        ["none", "30.5", "30.5", "42.5", "+12.0 ± 2.4", "+12.0 ± 14.5", "33.8", "6"],
        ["trim", "20.5", "20.5", "32.5", "+12.0 ± 2.4", "+12.0 ± 14.5", "23.8", "6"],
    ]
    assert text.count("**embedded**") == 1


def test_few_numbers_have_references():
    kind = Adaptive()
    gated = [cell for cell in cells() if kind.gates(cell)("target_damage_mean")]
    assert {(cell.attack, cell.data.split) for cell in gated} == {("adaptive", 0), ("adaptive", 1), ("best_of_list", 0)}
    assert not any(
        kind.gates(cell)("clean_accuracy") or kind.gates(cell.with_(tier="laptop"))("target_damage_mean") for cell in cells()
    )
