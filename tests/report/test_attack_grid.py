"""Every attack against every defense: controls, pairs, the worst attack and which defense holds, from damages given by hand."""

import math

import numpy as np
import pytest

from subpop.report.figures.attack_grid import heat_map
from subpop.report.tables.attack_grid import HOLDS, AttackGrid, Grid
from subpop.results.intervals import of_values
from subpop.types import CellReport, CellResult, Number
from subpop.types.grid import grid

PLACES = [("digits", "a"), ("digits", "b"), ("mixture", "a"), ("mixture", "b"), ("mixture", "c")]
FEASIBLE = "rows of the subpopulation in D_aux with another label"


def cell(**changes):
    names = {"stem": "s", "kind": "every_attack", "tier": "laptop", "dataset": "digits", "victim": "logistic_regression"}
    return grid(**{**names, "partition": "feature_match", "rate": 1.0, **changes})[0]


def damages(*values):
    return dict(zip(PLACES, values, strict=True))


FLIPS = damages(0.5, 0.4, 0.3, 0.6, 0.2)
NONE = {
    ("none", "label_flip"): FLIPS,
    ("none", "proportional"): damages(0.6, 0.4, 0.4, 0.6, 0.5),
    ("none", "near_neighbours"): damages(0.9, 0.9, 0.9, 0.9, 0.9),
    ("none", "own_label"): damages(0.0, -0.1, 0.0, 0.0, 0.0),
    ("none", "scattered_flips"): damages(0.1, 0.0, 0.1, 0.0, 0.05),
    ("none", "other_group"): damages(0.7, 0.7, 0.7, 0.7, 0.7),
}


def of_defense(name, flips, other, neighbours, control=0.0):
    """Equal damages of all subpopulations."""
    given = {"label_flip": flips, "proportional": other, "near_neighbours": neighbours, "own_label": control}
    given |= {"scattered_flips": control - 0.1, "other_group": 0.9}
    return {(name, attack): damages(*[value] * 5) for attack, value in given.items()}


def test_the_control_that_does_more_damage_is_subtracted_from_each_subpopulation():
    found = Grid(NONE, {})
    assert found.control("none") == ("scattered_flips", pytest.approx(0.05))
    assert found.paired("none", "label_flip") == pytest.approx([0.4, 0.4, 0.2, 0.6, 0.15])
    assert found.net("none", "label_flip") == pytest.approx(0.35)
    assert found.net("none", "near_neighbours") == pytest.approx(0.85)
    own = of_defense("trim", 0.3, 0.2, 0.1, control=0.04)
    assert Grid({**NONE, **own}, {}).control("trim") == ("own_label", pytest.approx(0.04))
    assert Grid({**NONE, **own}, {}).net("trim", "label_flip") == pytest.approx(0.26)


def test_equal_controls_are_decided_by_their_order():
    same = {("none", each): FLIPS for each in ("own_label", "scattered_flips", "label_flip")}
    assert Grid(same, {}).control("none")[0] == "own_label"


def test_only_attacks_with_the_same_possible_poison_are_compared():
    found = Grid(NONE, {})
    assert found.compared == ["label_flip", "proportional"]
    assert found.others == {"near_neighbours": "(a)", "other_group": "(b)"}
    assert next(iter(found.attacks)) == FEASIBLE
    assert found.worst("none") == "proportional"  # not near_neighbours, whose damage is larger
    assert "(a) rows of D_aux outside the subpopulation with another label" in found.legend()


def test_equal_attacks_are_decided_by_their_order():
    own = {**NONE, ("none", "proportional"): FLIPS}
    assert Grid(own, {}).worst("none") == "label_flip"


def test_an_attack_that_lacks_a_subpopulation_is_not_measured():
    own = {**NONE, ("none", "proportional"): dict(list(FLIPS.items())[:4])}
    found = Grid(own, {})
    assert math.isnan(found.net("none", "proportional"))
    assert found.worst("none") == "label_flip"
    assert "–" in found.table()
    without = {key: value for key, value in NONE.items() if key[1] != "own_label"}
    assert Grid(without, {}).defenses == []


def test_a_defense_holds_if_no_attack_of_any_column_does_more():
    own = {
        **NONE,
        **of_defense("trim", 0.02, 0.01, HOLDS),  # exactly at the limit
        **of_defense("sever", 0.02, 0.01, HOLDS + 1e-6),  # a single attack with other poison
        **of_defense("dpa", 0.0, 0.0, 0.0),
        **of_defense("perfect_filter", 0.0, 0.0, 0.0),
        **of_defense("jtt", 0.2, 0.3, 0.0),
        **of_defense("randeigen", 0.1, 0.1, 0.0, control=0.2),  # random flips destroy it
    }
    accuracy = {"none": 0.9, "trim": 0.88, "sever": 0.9, "dpa": 0.8, "perfect_filter": 0.9, "jtt": 0.9, "randeigen": 0.9}
    found = Grid(own, accuracy)
    assert found.defenses == ["none", "randeigen", "dpa", "perfect_filter", "sever", "trim", "jtt"]
    assert found.holding() == ["dpa", "trim"]
    told = found.sentence()
    assert told.startswith("Of 5 defenses, 2 hold against every attack (at most 5 % damage net of controls, and of a control).")
    assert "at most 2 points of clean accuracy: trim; at a larger cost (in points): dpa (10.0)." in told
    assert told.endswith("Without a defense, proportional does most: 45.0 %.")
    none_holds = Grid({**NONE, **of_defense("jtt", 0.2, 0.3, 0.0)}, accuracy).sentence()
    assert none_holds.startswith(
        "Of 1 defense, 0 hold against every attack (at most 5 % damage net of controls, and of a control). Without"
    )


def test_a_line_of_the_table_by_hand():
    line = [each.strip() for each in Grid(NONE, {"none": 0.915}).table().splitlines()[2].split("|")[1:-1]]
    width = 100 * of_values([0.5, 0.4, 0.3, 0.6, 0.45])
    assert line == ["none", "35.0", "45.0", f"45.0 ± {width:.1f} (proportional)", "85.0", "65.0", "5.0 (scattered_flips)", "91.5"]


def reports():
    """The same damages as results, a cell for each defense, attack and data set."""
    found = []
    for (defense, attack), own in {**NONE, **of_defense("trim", 0.3, 0.2, 0.1)}.items():
        for dataset in ("digits", "mixture"):
            each = cell(defense=defense, attack=attack, dataset=dataset)
            rows = [{"subpopulation": name, "target_damage": value} for (where, name), value in own.items() if where == dataset]
            accuracy = Number("defended_clean_accuracy", 0.9 if dataset == "digits" else 0.7)
            found.append(CellReport(each, CellResult(each, (accuracy,), tuple(rows))))
    return found


def test_damages_come_from_the_reports():
    found = Grid.of(reports())
    assert found.damages["none", "label_flip"] == FLIPS
    assert found.accuracy == {"none": pytest.approx(0.8), "trim": pytest.approx(0.8)}
    assert found.net("trim", "label_flip") == pytest.approx(0.3)


def test_the_page_has_a_table_for_each_tier_and_one_figure():
    kind = AttackGrid()
    blocks = kind.tables(reports())
    assert blocks[0] == "**laptop**"
    assert len(blocks) == 5
    (plan,) = kind.figures(reports(), {})
    axis = plan.draw().axes[0]
    assert [each.get_text() for each in axis.get_xticklabels()] == [
        "label_flip",
        "proportional",
        "near_neighbours",
        "other_group",
    ]
    assert [each.get_text() for each in axis.get_yticklabels()] == ["none", "trim"]
    assert axis.texts[0].get_text() == "35"
    assert kind.tables([]) == []


def test_the_heat_map_frames_the_worst_attack_and_leaves_missing_ones_empty():
    figure = heat_map(np.array([[10.0, np.nan], [-0.2, 59.6]]), ["none", "trim"], ["x", "y"], [0, 1], 1)
    axis = figure.axes[0]
    assert [(each.get_x(), each.get_y()) for each in axis.patches] == [(-0.5, -0.5), (0.5, 0.5)]
    assert [each.get_text() for each in axis.texts] == ["10", "0", "60"]


def test_few_numbers_have_references():
    kind = AttackGrid()
    gated = [
        (tier, dataset, defense, attack)
        for tier in ("embedded", "laptop")
        for dataset in ("digits", "mixture")
        for defense in ("none", "knn_filter")
        for attack in (
            "label_flip",
            "proportional",
            "model_targeted",
            "influence",
            "gradient_match",
            "near_neighbours",
            "adaptive",
        )
        if kind.gates(cell(tier=tier, dataset=dataset, defense=defense, attack=attack))("target_damage_mean")
    ]
    assert len(gated) == 10 + 3
    assert {dataset for _, dataset, _, _ in gated} == {"digits"}
    assert {defense for tier, _, defense, _ in gated if tier == "laptop"} == {"none"}
    assert not kind.gates(cell())("clean_accuracy")
