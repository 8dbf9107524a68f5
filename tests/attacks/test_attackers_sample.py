"""The attacker's sample: rows that it sees, counts that stay, clusters of its own, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest

from subpop.attacks import attackers_sample
from subpop.attacks.attackers_sample import known_members, seen_rows
from subpop.attacks.drawing import check_attack, draw_poison, n_poison
from subpop.datasets.stage import build_stage, split_data
from subpop.experiments.experiment import Experiment
from subpop.report.tables.sample import Sample, difference, sentence
from subpop.results.intervals import of_values
from subpop.runtime.fingerprint import key_of
from subpop.runtime.no_store import NoStore
from subpop.runtime.seeds import draw_identity
from subpop.types import BadInput, CellReport, CellResult, Dataset, Number
from subpop.types.grid import grid


def cell(**changes):
    names = {"stem": "s", "kind": "sample", "tier": "embedded", "dataset": "mixture", "victim": "logistic_regression"}
    return grid(**{**names, "partition": "cluster_match", "rate": 1.0, "n_seeds": 2, **changes})[0]


def two_blobs(n_clusters=2):
    """60 rows at 0 with label 0 and 90 rows at 100 with label 1; as many annotated cells."""
    place = np.repeat([0, 1], [60, 90])
    x = (100 * place + np.linspace(0, 1, 150)).astype(np.float32)[:, None]
    return Dataset("mixture", x, place, 2, annotations={"blob": place}, n_clusters=n_clusters)


def stage_of(own, dataset=None):
    return build_stage(own, split_data(own, dataset or two_blobs()))


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_the_attacker_sees_its_share_of_every_subpopulation_rounded_up(share):
    own = cell(partition="feature_match", aux_share=share)
    stage = stage_of(own)
    seen = seen_rows(stage, own)
    for group in (0, 1):
        in_aux = stage.partition.aux == group
        assert seen[in_aux].sum() == -(-in_aux.sum() * round(share * 10) // 10)  # ceiling in whole numbers
        name = stage.partition.names[group]
        np.testing.assert_array_equal(known_members(stage, own, name), stage.pool.n_train + np.flatnonzero(seen & in_aux))


def test_a_smaller_sample_is_contained_in_a_larger_one():
    stage = stage_of(cell(partition="feature_match"))
    tenth, half, whole = (seen_rows(stage, cell(aux_share=share)) for share in (0.1, 0.5, 1.0))
    assert not (tenth & ~half).any()
    assert tenth.sum() < half.sum() < whole.sum() == len(whole)
    other = seen_rows(stage, cell(aux_share=0.5, split=1))
    assert (other != half).any()


def test_the_number_of_poison_rows_and_the_labels_stay():
    """Poison comes from seen rows alone, is as much as with the whole sample, and every label is the other one."""
    own, whole = cell(partition="feature_match", aux_share=0.1), cell(partition="feature_match")
    stage = stage_of(own)
    for name in stage.attacked:
        poison = draw_poison(stage, own, name, 0, None)
        assert len(poison) == n_poison(stage, whole, name) > len(known_members(stage, own, name))
        assert set(poison.rows) <= set(known_members(stage, own, name))
        np.testing.assert_array_equal(poison.y, 1 - stage.pool.y[poison.rows])


def test_a_share_of_one_is_the_cell_without_the_setting_bit_for_bit():
    """Trials, draws and store keys are the same, although the suite names the setting."""
    plain = cell(dataset="digits", partition="feature_match", kind="poisoning")
    told = plain.with_(aux_share=1.0, aux_groups="frozen")
    assert told != plain
    assert draw_identity(told) == draw_identity(plain)
    assert key_of({"attack": told.poisoning}) == key_of({"attack": plain.poisoning})
    results = [Experiment.on(NoStore()).run(each) for each in (plain, told, plain.with_(aux_share=0.1))]
    numbers = [[number for number in each.numbers if number.metric != "seconds_a_trial"] for each in results]
    assert numbers[0] == numbers[1]
    assert results[0].table == results[1].table
    assert numbers[0] != numbers[2]


def test_derived_clusters_of_all_rows_are_the_given_ones():
    own = cell(aux_groups="derived", dataset="digits")
    stage = Experiment.on(NoStore()).context.stage(cell(dataset="digits"))
    for name in stage.attacked:
        np.testing.assert_array_equal(known_members(stage, own, name), stage.aux_members(name))


def test_the_attacker_takes_its_cluster_that_holds_most_of_the_target(monkeypatch):
    """Of the target's rows 0, 1, 2 (seen: all) two are in cluster 4; the attacker draws from 4's rows, also those of others."""
    stage = stage_of(cell())
    target = stage.attacked[0]
    rows = np.flatnonzero(stage.partition.aux == stage.partition.names.index(target))
    clusters = np.full(stage.n_aux, 7)
    clusters[rows] = 3
    clusters[rows[: len(rows) // 2 + 1]] = 4
    others = np.setdiff1d(np.arange(stage.n_aux), rows)[:5]
    clusters[others] = 4
    monkeypatch.setattr(attackers_sample, "_clusters", lambda *told: clusters)
    found = known_members(stage, cell(aux_groups="derived"), target)
    np.testing.assert_array_equal(found - stage.pool.n_train, np.sort(np.append(rows[: len(rows) // 2 + 1], others)))


def test_of_equal_clusters_the_first_is_taken(monkeypatch):
    stage = stage_of(cell())
    target = stage.attacked[0]
    rows = np.flatnonzero(stage.partition.aux == stage.partition.names.index(target))[: stage.n_aux // 8 * 2]
    clusters = np.full(stage.n_aux, -1)
    clusters[rows[::2]], clusters[rows[1::2]] = 6, 2
    monkeypatch.setattr(attackers_sample, "_clusters", lambda *told: clusters)
    seen = np.isin(np.arange(stage.n_aux), rows)
    monkeypatch.setattr(attackers_sample, "seen_rows", lambda *told: seen)
    found = known_members(stage, cell(aux_groups="derived"), target)
    np.testing.assert_array_equal(found - stage.pool.n_train, np.sort(rows[1::2]))


def test_clusters_are_cut_on_the_rows_that_are_seen():
    """Two far blobs: the attacker's two clusters are the blobs, and rows that it does not see are in none."""
    own = cell(aux_groups="derived", aux_share=0.1)
    stage = stage_of(own)
    seen = seen_rows(stage, own)
    clusters = attackers_sample._clusters(stage, own, seen)
    assert set(clusters[~seen]) == {-1}
    for name in stage.attacked:
        np.testing.assert_array_equal(known_members(stage, own, name), known_members(stage, own.with_(aux_groups=None), name))
    assert known_members(stage, own, stage.attacked[0]).size < 10


def test_distinct_poison_needs_enough_rows_that_are_seen():
    own = cell(partition="feature_match", aux_share=0.5, sampling="distinct")
    with pytest.raises(BadInput, match=r"distinct poison rows of 'blob=0' but the attacker sees .* sampling=with_replacement"):
        check_attack(stage_of(own), own)
    check_attack(stage_of(own), own.with_(rate=0.4))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attack": "proportional", "aux_share": 0.5}, "attack proportional with label_rule=own trains a model on all of D_aux"),
        ({"label_rule": "common", "aux_share": 0.5}, "use attack=label_flip with label_rule=own or rarest"),
        ({"partition": "feature_match", "aux_groups": "derived"}, "use partition=cluster_match with clusters_on=inputs"),
    ],
)
def test_attacks_that_use_more_than_the_sample_are_refused(changes, words):
    own = cell(**changes)
    with pytest.raises(BadInput, match=words):
        check_attack(stage_of(own), own)


@pytest.mark.parametrize("share", [0, 1.1, -0.5, "half", float("nan")])
def test_shares_are_above_0_and_at_most_1(share):
    with pytest.raises(BadInput, match=r"aux_share=.* must be a number above 0 and at most 1, such as 0.5"):
        cell(aux_share=share)


# --- the page ---------------------------------------------------------------------------------------------------------


def result(damages, **changes):
    """A result with a line for each damage; the last subpopulation is too small to enter a mean."""
    own = cell(**changes)
    sizes = [40] * (len(damages) - 1) + [3]
    rows = [
        {"subpopulation": str(i), "n_test": n, "target_damage": d} for i, (n, d) in enumerate(zip(sizes, damages, strict=True))
    ]
    return CellResult(own, (Number("target_damage_mean", float(np.mean(damages[:-1]))),), tuple(rows))


def test_differences_are_paired_by_subpopulation_and_leave_out_small_ones():
    before, after = [0.1, 0.5, 0.3, 0.4, 0.2, 0.0], [0.0, 0.3, 0.2, 0.1, 0.1, 0.9]
    found = {("mixture", "frozen", 1.0): result(before, aux_share=1.0), ("mixture", "frozen", 0.1): result(after, aux_share=0.1)}
    mean, width = difference(found, ("mixture", "frozen", 0.1))
    assert mean == pytest.approx(-0.16)
    assert width == pytest.approx(of_values([-0.1, -0.2, -0.1, -0.3, -0.1]))
    assert difference(found, ("mixture", "frozen", 1.0)) is None
    assert difference(found, ("mixture", "derived", 0.1)) is None
    told = sentence(found, "mixture")
    assert told.startswith("On mixture, seeing 10% of D_aux instead of all changes the mean damage by -0.160 ± ")
    assert told.endswith("with given subpopulations (less damage).")


def test_the_table_has_a_line_for_each_knowledge_of_the_attacker():
    found = [result([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], aux_share=share) for share in (0.5, 1.0)]
    lines = Sample().tables([CellReport(each.cell, each) for each in found])[1].splitlines()
    assert [line.split("|")[2].strip() for line in lines[2:]] == ["given subpopulations", "own clusters"]
    assert "0.300" in lines[2]
    assert Sample().gates(found[0].cell)("target_damage_mean")
    assert not Sample().gates(replace(found[0].cell.with_(aux_groups="derived")))("target_damage_mean")
