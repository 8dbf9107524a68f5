"""Susceptibility: m50 of cells whose margins are known, what is censored or trivial, and the predictors by hand."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from subpop.attacks.drawing import draw_poison
from subpop.attacks.model_targeted import Pursuit, advance
from subpop.experiments import susceptibility
from subpop.experiments.experiment import Experiment
from subpop.experiments.susceptibility import Group, first_from_which_it_stays, grid, measure_susceptibility
from subpop.runtime.no_store import NoStore
from subpop.types import BadInput, Dataset
from subpop.types import grid as grids

NAMES = {
    "stem": "s",
    "kind": "m50",
    "tier": "embedded",
    "partition": "feature_match",
    "rate": 0.0,
    "sampling": "distinct",
    "n_seeds": 3,
}
TREE = "sklearn.tree:DecisionTreeClassifier"


def cell(**changes):
    return grids.grid(**{**NAMES, "dataset": "mixture", "victim": "logistic_regression", **changes})[0]


# --- the search -------------------------------------------------------------------------------------------------------


def test_the_grid_is_geometric_and_ends_at_the_last_row():
    assert grid(1) == [1]
    assert grid(12) == [1, 2, 3, 4, 6, 8, 11, 12]
    for end in range(1, 2000, 37):
        found = grid(end)
        assert found[0] == 1
        assert found[-1] == end
        assert all(1 <= b - a <= max(1, 0.5 * a) for a, b in pairwise(found))


def test_errors_must_stay_above_one_half():
    assert first_from_which_it_stays(np.array([0.0, 0.6, 0.4, 0.5, 0.7])) == 3
    assert first_from_which_it_stays(np.array([0.5, 0.9])) == 0
    assert first_from_which_it_stays(np.array([0.9, 0.4])) is None


def rows_on_a_line(sizes, labels, places) -> Dataset:
    """Subpopulation i holds sizes[i] rows with x = places[i] and label labels[i]."""
    group = np.repeat(np.arange(len(sizes)), sizes)
    x, y = (np.array(each)[group] for each in (places, labels))
    return Dataset("line", x[:, None].astype(np.float32), y, 2, annotations={"cell": group})


@pytest.fixture(scope="module")
def line():
    """Eight places on a line, a tree as the victim, which counts labels in each; the last subpopulation is in the fifth's."""
    own = cell(victim=TREE)
    experiment = Experiment.on(NoStore())
    experiment.context.supply(own, rows_on_a_line([60, 90, 150, 200, 240, 45, 30, 75, 24], [0, 1] * 4 + [1], [*range(8), 4]))
    return own, experiment, measure_susceptibility(own, experiment)


def test_m50_of_a_victim_that_counts_is_the_margin(line):
    """A place falls at the first number of the grid that is above its margin in D; a tie falls to label 0."""
    own, experiment, result = line
    stage, seen = experiment.context.stage(own), set()
    for row in result.table:
        name = row["subpopulation"]
        rows = stage.aux_members(name)
        place, label = stage.pool.x[rows[0]], stage.pool.y[rows[0]]
        there = stage.pool.y[: stage.pool.n_train][stage.pool.x[: stage.pool.n_train, 0] == place]
        margin = int((there == label).sum() - (there != label).sum())
        if margin < 0:
            continue  # trivial
        numbers = [number for number in grid(len(rows)) if number >= margin + (label == 0)]
        assert row["grid_end"] == row["n_aux"] == len(rows)
        assert row["m50_censored"] == (not numbers)
        assert row["m50"] == row["m50_low"] == row["m50_high"] == (numbers[0] if numbers else len(rows))
        assert row["m50_censored_draws"] == 3 * (not numbers)
        seen.add(not numbers)
    assert seen == {True, False}


def test_what_is_wrong_already_is_trivial(line):
    _, _, result = line
    rows = {row["subpopulation"]: row for row in result.table}
    trivial = [row for row in rows.values() if row["m50_trivial"]]
    assert {row["m50"] for row in trivial} <= {0}
    assert {name for name, row in rows.items() if row["target_clean_accuracy"] <= 0.5} == {r["subpopulation"] for r in trivial}
    assert result["trivial_share"] == pytest.approx(1 / 9)
    assert [row["subpopulation"] for row in trivial] == ["cell=8"]


def test_the_median_counts_censored_draws_as_largest():
    group = Group("g", np.array([4, 9, 9]), np.array([False, False, True]), 9, 3, 9, 5, 0.9, 0.1, 0.5)
    assert group.median == (9, False)
    assert group.row()["m50_share"] == 3
    assert replace(group, censored=np.array([False, True, True])).median == (9, True)
    even = replace(group, m50=np.array([2, 4, 9, 9]), censored=np.array([False, False, False, True]))
    assert even.median == (6.5, False)
    assert replace(even, censored=np.array([False, False, True, True])).median == (9, True)


# --- predictors -------------------------------------------------------------------------------------------------------


def test_the_loss_difference_of_one_subpopulation_by_hand():
    """scikit-learn's models on the same poison: the smallest loss on D of those that reach half of the rows in D_aux."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    own, experiment = cell(n_seeds=1, n_attacked=1), Experiment.on(NoStore())
    result = measure_susceptibility(own, experiment)
    stage, context = experiment.context.stage(own), experiment.context
    (name,), n = stage.attacked, stage.pool.n_train
    x, y = stage.pool.x[:n], stage.pool.y[:n]

    def ones(values):
        return np.column_stack([values, np.ones(len(values))])

    def trained(rows, labels):
        model = LogisticRegression(C=1.0, solver="newton-cholesky", fit_intercept=False, tol=1e-10)
        return model.fit(ones(np.append(x, stage.pool.x[rows], axis=0)), np.append(y, labels))

    losses, members = [], stage.aux_members(name)
    for rate in (0.25, 0.5, 1, 2, 4, 8, 16, 32):
        at = own.with_(attack="proportional", sampling="with_replacement", rate=rate)
        poison = draw_poison(stage, at, name, 0, context.label_attacker(at))
        model = trained(poison.rows, poison.y)
        if (model.predict(ones(stage.pool.x[members])) != stage.pool.y[members]).mean() >= 0.5:
            losses.append(log_loss(y, model.predict_proba(ones(x))))
    clean = log_loss(y, trained(members[:0], y[:0]).predict_proba(ones(x)))
    assert 0 < len(losses) < 8
    assert result.table[0]["loss_difference"] == pytest.approx(min(losses) - clean, abs=1e-6)
    assert result.table[0]["loss_difference"] > 0.001


def test_the_share_of_the_attackers_label_among_similar_rows(line, monkeypatch):
    """Nearest to an inner cell are all rows of both its neighbours, which have the attacker's label; two cells on is its own."""
    own, experiment, _ = line
    stage = experiment.context.stage(own)
    name = "cell=1"
    assert susceptibility._Attacked(own.with_(rate=1.0), experiment, name)._label_share() == 1
    next_to, beyond = sum(len(stage.aux_members(f"cell={i}")) for i in (0, 2)), len(stage.aux_members("cell=3"))
    monkeypatch.setattr(susceptibility, "SIMILAR", next_to + beyond)
    expected = next_to / (next_to + beyond)
    assert susceptibility._Attacked(own.with_(rate=1.0), experiment, name)._label_share() == pytest.approx(expected)


def test_model_targeted_poisoning_beside_m50(line):
    """Rows on D_aux until half is wrong, and a bound below them; not of a tree."""
    own, experiment = cell(n_seeds=1), Experiment.on(NoStore())
    result = measure_susceptibility(own, experiment)
    stage, victim = experiment.context.stage(own), experiment.context.victim(own)
    for row in result.table[:5]:
        rows = stage.aux_members(row["subpopulation"])
        pursuit = Pursuit.of(victim, experiment.context.attacker(own), stage.pool, rows, 1 - stage.pool.y[rows], distinct=False)
        errors = [pursuit.error()]
        while errors[-1] < 0.5:
            advance([pursuit], 1)
            errors.append(pursuit.error())
        assert row["targeted_count"] == len(errors) - 1 >= row["targeted_bound"] == pursuit.bound()
        assert (row["targeted_bound"] > 0) == (row["targeted_count"] > 0)
    own = [row for row in result.table if not row["m50_trivial"] and row["targeted_count"]]
    ratios = [row["targeted_count"] / row["targeted_bound"] for row in own]
    assert result["count_over_bound_median"] == np.median(ratios) > 1
    _, _, tree = line
    assert all(math.isnan(row["targeted_count"]) for row in tree.table)
    assert not any(number.metric == "count_over_bound_median" for number in tree.numbers)


def groups(m50, **columns):
    zero = {"size": [10] * len(m50), "clean_accuracy": [0.9] * len(m50), "loss_difference": [0.1] * len(m50)}
    rows = zip(*({**zero, "label_share": [0.5] * len(m50), **columns}).values(), strict=True)
    found = []
    for m, (size, accuracy, loss, share) in zip(m50, rows, strict=True):
        end, above = (m, False) if m < 99 else (5, True)
        found.append(Group("g", np.full(3, end), np.full(3, above), end, size, 9, 9, accuracy, loss, share))
    return found


def test_correlations_leave_out_what_is_trivial_or_unknown():
    own, found = cell(), groups([1, 2, 3, 4, 6, 99, 0], clean_accuracy=[0.6, 0.7, 0.8, 0.9, 0.95, 1, 0.4])
    numbers = {number.metric: number.value for number in susceptibility._correlations(own, found)}
    assert numbers["kendall_m50_clean_accuracy"] == 1
    assert numbers["kendall_m50_clean_accuracy_low"] == numbers["kendall_m50_clean_accuracy_high"] == 1
    assert "kendall_m50_size" not in numbers  # all of one size
    assert "partial_kendall_m50_clean_accuracy" not in numbers
    unknown = groups([1, 2, 3, 4, 6, 7], loss_difference=[5, 4, 3, 2, 1, math.nan])
    assert {n.metric: n.value for n in susceptibility._correlations(own, unknown)}["kendall_m50_loss_difference"] == -1
    assert not susceptibility._correlations(own, groups([1, 2, 3, 4, 0], size=[1, 2, 3, 4, 5], clean_accuracy=[0.9] * 4 + [0.1]))


def test_summaries_count_groups():
    found = {n.metric: n.value for n in susceptibility._summary(groups([1, 2, 99, 0], clean_accuracy=[0.9, 0.9, 0.9, 0.2]))}
    assert found == {"trivial_share": 0.25, "censored_share": pytest.approx(1 / 3), "m50_share_median": 0.2}
    half = {n.metric for n in susceptibility._summary(groups([1, 99, 99]))}
    assert "m50_share_median" not in half  # it is censored itself
    assert [n.metric for n in susceptibility._summary(groups([0], clean_accuracy=[0.1]))] == ["trivial_share"]


@pytest.mark.parametrize(
    "changes", [{"attack": "own_label"}, {"sampling": "with_replacement"}, {"defense": "trim"}, {"rate": 1.0}]
)
def test_cells_of_other_settings_are_refused(changes):
    with pytest.raises(BadInput, match="sampling=distinct, defense=none and rate=0"):
        measure_susceptibility(cell(**changes), Experiment.on(NoStore()))
