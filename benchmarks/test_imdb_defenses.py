"""Defenses against ClusterMatch on texts: TRIM, SEVER, activation clustering and spectral signatures.

A cell attacks clusters of reviews and defends each trial, compared with controls. `poison_recall` is the fraction of flipped
rows that were removed.

Source: the paper's defenses; the authors' released notebooks ran three of them on one cluster of IMDB each.

Deviations: the correct methods. The released notebooks cannot serve as references for them because of their defects: TRIM never
trains on the trimmed set, and activation clustering and spectral signatures combine the representations of shuffled rows with
unshuffled labels, so that they find poison at chance level. Poison rows are distinct (`protocol=reserve`: D has a third of the
training reviews). The laptop tier uses the 10 clusters with the lowest confidence of the attacker's model, in the features of
another encoder.
"""

import pytest

from subpop import grid

STEM = "imdb_defenses"
open_to_defenses = True

COMMON = {
    "stem": STEM,
    "partition": "cluster_match",
    "sampling": "distinct",
    "protocol": "reserve",
    "label_rule": "common",
    "rate": 2.0,
}
CONTROLS = ["none", "perfect_filter", "random_filter", "drop_duplicates"]
FILTERS = ["trim", "sever", "activation_clustering", "spectral_signatures"]
MATCHED = [f"matched_random_filter:{name}" for name in FILTERS]
RELEASED = ["none", "trim", "activation_clustering", "spectral_signatures"]
ATTACKED_30 = {"n_attacked": 30, "attacked_by": "low_middle_high", "n_seeds": 1}

CELLS = [
    *grid(
        tier="embedded",
        dataset="reviews",
        victim="text_linear",
        encoder="tiny",
        defense=[*CONTROLS, *FILTERS, *MATCHED],
        n_seeds=3,
        **COMMON,
    ),
    *grid(
        tier="laptop",
        dataset="imdb_minilm",
        victim="text_linear",
        defense=[*CONTROLS, *FILTERS, *MATCHED],
        n_attacked=10,
        n_seeds=2,
        **COMMON,
    ),
    *grid(
        tier="paper",
        dataset="imdb",
        victim="bert_last_layer",
        clusters_on="hidden_states",
        defense=[*CONTROLS, *FILTERS],
        **ATTACKED_30,
        **COMMON,
    ),
    *grid(
        tier="paper",
        dataset="imdb",
        victim="bert_fine_tuned",
        clusters_on="bert_fine_tuned",
        defense=[*CONTROLS, *FILTERS],
        **ATTACKED_30,
        **COMMON,
    ),
]


def test_cell(cell, measure):
    measure(cell)


@pytest.mark.cells(defense="perfect_filter", victim="text_linear")
def test_perfect_filter_is_the_clean_victim(sweep, result_of):
    for cell in sweep:
        assert all(row["target_damage"] == 0 for row in result_of(cell).table), cell.id


@pytest.mark.cells(defense="trim", victim="text_linear")
def test_trim_does_not_repair(sweep, result_of):
    """Repaired would be: half of the undefended damage or less."""
    for cell in sweep:
        undefended = result_of(cell.with_(defense="none"))["target_damage_worst_5"]
        assert result_of(cell)["target_damage_worst_5"] > undefended / 2, cell.id


@pytest.mark.cells(defense="drop_duplicates", victim="text_linear")
def test_dropping_duplicates_ties_with_no_defense(sweep, result_of):
    """Poison rows are distinct. Twins among the reviews themselves are dropped, which moves single answers."""
    for cell in sweep:
        undefended = result_of(cell.with_(defense="none"))["target_damage_worst_5"]
        assert abs(result_of(cell)["target_damage_worst_5"] - undefended) < 0.03, cell.id
