"""The groups of rows that a defense is told: by inputs, so that poison is in the group of the rows that it was made from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from subpop.attacks.drawing import NO_POISON
from subpop.defenses import DEFENSES
from subpop.experiments.experiment import Experiment
from subpop.experiments.trial import told_groups
from subpop.runtime.fingerprint import key_of
from subpop.runtime.no_store import NoStore
from subpop.types import BadInput, Cell, Trial
from subpop.types.specifications import Defender

NAME = "digit=3"


def cell(**changes):
    own = {
        "dataset": "digits",
        "victim": "logistic_regression",
        "partition": "feature_match",
        "defense": "group_dro",
        "rate": 1.0,
    }
    return Cell.of("mine", "embedded", **{**own, **changes})


@pytest.fixture(scope="module")
def experiment():
    return Experiment.on(NoStore())


def told(experiment, **changes):
    """The groups of a trial, in the order of the pool's rows; and the places of these rows in the partition."""
    prepared = experiment.prepare(cell(**changes), Trial(NAME, 0))
    partition = experiment.context.stage(cell()).partition
    places = np.concatenate([partition.train, partition.aux])[prepared.rows]
    return prepared.task.know.groups, places, partition.names, prepared


def test_the_target_and_all_poison_are_one_group(experiment):
    groups, places, names, prepared = told(experiment)
    assert groups.dtype == np.int64
    np.testing.assert_array_equal(groups == 1, places == names.index(NAME))
    n_train = experiment.context.stage(cell()).pool.n_train
    assert (groups[prepared.rows >= n_train] == 1).all()
    assert (groups[prepared.rows < n_train] == 1).sum() == prepared.member.sum() > 0


def test_a_superset_contains_the_target_and_others(experiment):
    groups, places, names, _ = told(experiment, groups_told="superset")
    assert set(places[groups == 1]) == set(range(names.index(NAME) % 2, len(names), 2))
    assert names.index(NAME) in places[groups == 1]


def test_an_unrelated_group_is_another_subpopulation(experiment):
    groups, places, names, _ = told(experiment, groups_told="unrelated")
    assert set(places[groups == 1]) == {(names.index(NAME) + 1) % len(names)}


def test_moved_poison_is_in_the_group_of_the_rows_that_it_was_made_from(experiment):
    own = {"attack": "influence", "victim": "logistic_regression", "epsilon": 16.0, "n_attacked": 2}
    target = cell(**own)
    name = experiment.context.stage(target).attacked[0]
    prepared = experiment.prepare(target, Trial(name, 0))
    is_poison = prepared.rows >= len(experiment.context.stage(target).pool)
    assert is_poison.any()
    assert (prepared.task.know.groups[is_poison] == 1).all()


def test_nobody_else_is_told(experiment):
    assert experiment.prepare(cell(defense="trim"), Trial(NAME, 0)).task.know.groups is None


def test_a_trial_on_clean_data_has_groups_too(experiment):
    trials = experiment.list_trials(cell())
    clean = [trial for trial in trials if not trial.attacked]
    assert {trial.subpopulation for trial in clean} == set(experiment.context.stage(cell()).attacked)
    groups = experiment.prepare(cell(), clean[0]).task.know.groups
    assert 0 < groups.sum() < len(groups)


def test_a_partition_without_other_subpopulations_is_refused(experiment):
    stage = experiment.context.stage(cell())
    few = replace(stage, partition=replace(stage.partition, names=stage.partition.names[:2]))
    with pytest.raises(BadInput, match=r"groups_told=unrelated of embedded-digits.* needs at least 3 subpopulations"):
        told_groups(few, cell(groups_told="unrelated"), few.partition.names[0], NO_POISON)


def test_the_new_setting_changes_no_key_at_its_default():
    before = {"name": "trim", "n_poison_told": "exact", "holdout": None}
    assert key_of({"defender": Defender("trim")}) == key_of({"defender": before})
    assert key_of({"defender": Defender("trim", groups_told="superset")}) != key_of({"defender": before})


def test_only_group_dro_needs_groups():
    assert [name for name, defense in DEFENSES.items() if "groups" in getattr(defense, "needs", ())] == ["group_dro"]
