"""The attack for the Adversarial Robustness Toolbox: which rows it draws, their labels, and the damage that they do."""

from __future__ import annotations

import doctest
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.tree import DecisionTreeClassifier

from subpop.attacks.adapters import SubpopulationAttack
from subpop.datasets import load_dataset
from subpop.datasets.partitions import cluster_match
from subpop.datasets.split import split
from subpop.types import BadInput

NO_TOOLBOX = "pip install adversarial-robustness-toolbox"
GROUPS = np.repeat(np.arange(4), 10)
X, Y = np.eye(4, dtype=np.float32)[GROUPS], GROUPS % 2
"""Four groups of ten equal rows, with the labels 0, 1, 0, 1: a tree learns the majority of each group."""


def alone():
    """The module as it is where the toolbox is not installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "art.attacks.attack", None)
        spec = importlib.util.find_spec("subpop.attacks.adapters")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def one_hot(y, n_classes=2):
    return np.eye(n_classes)[y]


# --- the toolbox's interface ------------------------------------------------------------------------------------------


def test_it_is_an_attack_of_the_toolbox():
    attack = pytest.importorskip("art.attacks.attack", reason=NO_TOOLBOX)
    assert issubclass(SubpopulationAttack, attack.PoisoningAttackBlackBox)
    found = SubpopulationAttack(alpha=0.5, target=2)
    assert found.estimator is None
    assert "alpha=0.5, target=2" in repr(found)
    assert "PoisoningAttackBlackBox" not in str(alone().SubpopulationAttack.__mro__)


def test_without_the_toolbox_it_makes_the_same_poison():
    other = alone().SubpopulationAttack
    assert other.__bases__ == (object,)
    for options in ({"target": 2}, {"target": 1, "n_clusters": 4}):
        made, again = (kind(0.7, **options).poison(X, Y, groups=GROUPS) for kind in (SubpopulationAttack, other))
        assert all(np.array_equal(one, two) for one, two in zip(made, again, strict=True))


def test_settings_can_be_changed_as_in_the_toolbox():
    attack = SubpopulationAttack(alpha=1.0, target=0)
    attack.set_params(alpha=0.5, target=3)
    assert len(attack.poison(X, Y, groups=GROUPS)[0]) == 5
    with pytest.raises(BadInput, match="no setting 'rate'; use one of alpha"):
        attack.set_params(rate=1)
    with pytest.raises(BadInput, match="alpha=-1"):
        attack.set_params(target=1, alpha=-1)
    assert (attack.alpha, attack.target) == (0.5, 3)


# --- rows and labels --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("alpha", "count"), [(0.1, 1), (0.5, 5), (0.79, 7), (1, 10), (2.0, 20)])
def test_poison_is_alpha_times_the_group_and_from_it_alone(alpha, count):
    x = np.arange(40.0)[:, None]
    before = x.copy(), Y.copy()
    x_poison, y_poison = SubpopulationAttack(alpha, target=2).poison(x, Y, groups=GROUPS)
    assert len(x_poison) == len(y_poison) == count
    assert set(x_poison.ravel().astype(int)) <= set(range(20, 30))
    assert (y_poison == 1).all()
    x_poison[:] = y_poison[:] = -1
    assert np.array_equal(x, before[0])
    assert np.array_equal(Y, before[1])


def test_the_same_seed_gives_the_same_poison():
    x = np.arange(40.0)[:, None]
    first, again, other = (
        SubpopulationAttack(0.5, target=2, seed=seed, sampling="distinct").poison(x, Y, groups=GROUPS)[0] for seed in (0, 0, 1)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len(np.unique(first)) == 5


def test_own_labels_are_flipped_and_a_common_label_is_for_all():
    y = np.arange(40) % 2
    x = np.arange(40.0)[:, None]
    x_poison, own = SubpopulationAttack(2.0, target=0).poison(x, y, groups=GROUPS)
    assert np.array_equal(own, 1 - x_poison.ravel().astype(int) % 2)
    assert set(own) == {0, 1}
    common = SubpopulationAttack(2.0, target=0, poison_label=1).poison(x, y, groups=GROUPS)[1]
    assert set(common) == {1}
    of_three = SubpopulationAttack(target=0, poison_label=2).poison(x, one_hot(y, 3), groups=GROUPS)[1]
    assert np.array_equal(of_three, np.tile([0.0, 0.0, 1.0], (10, 1)))


def test_labels_have_the_form_of_the_given_ones():
    attack = SubpopulationAttack(0.3, target=1)
    for y, shape in ((Y.astype(np.int32), (3,)), (Y[:, None].astype(float), (3, 1)), (one_hot(Y).astype(np.float32), (3, 2))):
        found = attack.poison(X, y, groups=GROUPS)[1]
        assert found.shape == shape
        assert found.dtype == y.dtype
        assert (found.argmax(axis=1) if shape == (3, 2) else found.ravel()).tolist() == [0, 0, 0]


def test_several_annotations_match_together():
    groups = np.column_stack([GROUPS, np.arange(40) % 2])
    x = np.arange(40.0)[:, None]
    attack = SubpopulationAttack(1.0, target=(2, 1), sampling="distinct")
    assert sorted(attack.poison(x, Y, groups=groups)[0].ravel()) == [21, 23, 25, 27, 29]
    assert np.flatnonzero(attack.members(x, groups=groups)).tolist() == [21, 23, 25, 27, 29]


def test_clusters_are_those_of_cluster_match():
    data = load_dataset("mixture_2d")
    sides = split(data)
    partition = cluster_match(data, sides, seed=3)
    for cluster in (0, 2):
        attack = SubpopulationAttack(target=cluster, n_clusters=data.n_clusters, seed=3, sampling="distinct")
        x_poison, _ = attack.poison(data.x[sides.aux], data.y[sides.aux])
        own = data.x[sides.aux][partition.aux == cluster]
        assert sorted(map(tuple, x_poison)) == sorted(map(tuple, own))
        assert np.array_equal(attack.members(data.x[sides.test]), partition.test == cluster)


def test_given_features_are_clustered():
    """The rows themselves are all the same."""
    attack = SubpopulationAttack(target=0, n_clusters=4, sampling="distinct")
    attack.poison(np.zeros((40, 1, 8, 8)), Y, features=X)
    found = attack.members(np.zeros((40, 1, 8, 8)), features=X)
    assert found.sum() == 10
    assert len(set(GROUPS[found])) == 1


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["scikit-learn", "toolbox"])
def fitted(request):
    """A function that trains a tree and returns its predicted labels."""
    if request.param == "scikit-learn":
        return lambda x, y: DecisionTreeClassifier(random_state=0).fit(x, y.argmax(axis=1)).predict(X)
    estimators = pytest.importorskip("art.estimators.classification", reason=NO_TOOLBOX)

    def fit(x, y):
        classifier = estimators.SklearnClassifier(model=DecisionTreeClassifier(random_state=0))
        classifier.fit(x, y)
        return classifier.predict(X).argmax(axis=1)

    return fit


@pytest.mark.parametrize("clusters", [None, 4])
@pytest.mark.parametrize(("alpha", "damage"), [(0.9, 0.0), (1.1, 1.0)])
def test_the_group_is_lost_where_poison_is_its_majority_and_no_other_row_is(fitted, clusters, alpha, damage):
    """Nine poison rows against ten clean ones change nothing, and eleven turn all ten."""
    y = one_hot(Y)
    clean = fitted(X, y)
    assert np.array_equal(clean, Y)
    attack = SubpopulationAttack(alpha, target=3, n_clusters=clusters)
    x_poison, y_poison = attack.poison(X, y, groups=GROUPS)
    found = fitted(np.vstack([X, x_poison]), np.vstack([y, y_poison]))
    member = attack.members(X, groups=GROUPS)
    assert member.sum() == 10
    assert (found != Y)[member].mean() == damage
    assert (found != Y)[~member].mean() == 0


def test_the_examples_of_the_page_run():
    """Where the toolbox is not installed, those that do not ask for it."""
    page = (Path(__file__).parents[2] / "docs" / "adapters.md").read_text()
    blocks = [block.partition("```")[0] for block in page.split("```python\n")[1:]]
    assert len(blocks) == 4
    if importlib.util.find_spec("art") is None:
        blocks = [block for block in blocks if "art_filter" not in block and "from art" not in block]
        assert len(blocks) == 2
    example = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, "docs/adapters.md", None, 0)
    output = []
    found = doctest.DocTestRunner().run(example, out=output.append)
    assert found.attempted >= 9
    assert found.failed == 0, "".join(output)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0}, "alpha=0 must be a finite number above 0"),
        ({"alpha": float("nan")}, "alpha=nan"),
        ({"alpha": float("inf")}, "alpha=inf"),
        ({"alpha": "1"}, "alpha='1'"),
        ({"alpha": True}, "alpha=True"),
        ({"n_clusters": 0}, "n_clusters=0 must be a whole number of at least 1 or None"),
        ({"n_clusters": 2.0}, "n_clusters=2.0"),
        ({"poison_label": -1}, "poison_label=-1 must be a whole number of at least 0 or None"),
        ({"seed": None}, "seed=None must be a whole number of at least 0"),
        ({"sampling": "all"}, "unknown sampling 'all'; choose one of with_replacement, distinct"),
        ({"n_clusters": 4, "target": 4}, "target=4 must be the number of a cluster, from 0 to 3"),
        ({"n_clusters": 4, "target": (1, 2)}, "target=.1, 2. must be the number of a cluster"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(options, message):
    with pytest.raises(BadInput, match=message) as found:
        SubpopulationAttack(**options)
    assert isinstance(found.value, ValueError), "the toolbox raises ValueError"


@pytest.mark.parametrize(
    ("options", "changes", "message"),
    [
        ({}, {"y": None}, "true labels y .* are needed"),
        ({}, {"y": Y[:-1]}, r"labels of shape \(39,\) for 40 rows"),
        ({}, {"x": X[:0], "y": Y[:0], "groups": GROUPS[:0]}, "at least one row"),
        ({}, {"y": one_hot(Y) / 2}, "must be one-hot"),
        ({}, {"y": Y - 1}, "-1 is the smallest"),
        ({}, {"y": Y + 0.5}, "whole numbers from 0"),
        ({}, {"y": GROUPS}, "there are 4; give a poison_label"),
        ({"poison_label": 2}, {}, "poison_label=2 is not a label of y; use one from 0 to 1"),
        ({}, {"groups": None}, "FeatureMatch needs the groups of 40 rows, and got none"),
        ({}, {"groups": GROUPS[:-1]}, r"got an array of shape \(39,\)"),
        ({"target": (0, 1)}, {}, "one value for each of the 1 columns of groups"),
        ({"target": 7}, {}, "an empty subpopulation"),
        ({"alpha": 0.01}, {}, "gives no poison row: raise the rate to 0.1"),
        ({"alpha": 1.5, "sampling": "distinct"}, {}, "15 distinct poison rows from 10"),
        ({"n_clusters": 41}, {}, "n_clusters=41 is more than the 40 rows"),
        ({"n_clusters": 4}, {"x": np.full((40, 2), np.nan)}, "finite numbers"),
        ({"n_clusters": 4}, {"features": X[:-1]}, "must be 40 rows"),
    ],
)
def test_rows_that_do_not_fit_are_refused(options, changes, message):
    with pytest.raises(BadInput, match=message):
        SubpopulationAttack(**options).poison(**{"x": X, "y": Y, "groups": GROUPS, **changes})


def test_clusters_must_be_found_first():
    attack = SubpopulationAttack(n_clusters=4)
    with pytest.raises(BadInput, match="call poison first"):
        attack.members(X)
    attack.poison(X, Y)
    attack.set_params(target=2)
    assert attack.members(X).sum() == 10
    attack.set_params(seed=1)
    with pytest.raises(BadInput, match="call poison first"):
        attack.members(X)
