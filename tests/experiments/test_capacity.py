"""Capacity: training to a loss, rank correlations and damages by hand, and what the page says."""

import math
from dataclasses import replace

import numpy as np
import pytest

from subpop.experiments import capacity
from subpop.experiments.capacity import Width, measure_capacity, seed_tau
from subpop.experiments.experiment import Experiment
from subpop.report.tables.capacity import Capacity, sentence
from subpop.results.intervals import of_values
from subpop.runtime.no_store import NoStore
from subpop.runtime.seeds import training_seed
from subpop.types import BadInput, CellReport, CellResult, FleetJob, Number
from subpop.types.grid import grid
from subpop.victims.mlp import MLP


def cell(**changes):
    names = {"stem": "s", "kind": "width", "tier": "embedded", "dataset": "mixture", "victim": "mlp", "n_attacked": 2}
    return grid(**{**names, "partition": "feature_match", "rate": 1.0, "n_seeds": 3, **changes})[0]


def width(units, damages, reached=None):
    """A width whose clean networks are always right, with one subpopulation and the given damage of each seed."""
    found = np.array(damages)[:, None]
    ones = np.ones_like(found)
    return Width(units, ones, ones - found, ones[:, 0], found[:, 0], None if reached is None else np.array(reached), (200, 200))


def test_the_tau_of_a_seed_by_hand():
    """Of the six pairs of four widths, five agree and one does not; the ties of equal damages count half as in tau-b."""
    everything = np.ones(4, bool)
    assert seed_tau([2, 4, 8, 16], np.array([0.1, 0.3, 0.2, 0.4]), everything) == pytest.approx(4 / 6)
    assert seed_tau([2, 4, 8, 16], np.array([0.1, 0.2, 0.2, 0.4]), everything) == pytest.approx(5 / math.sqrt(6 * 5))
    assert seed_tau([2, 4, 8, 16], np.array([0.2, 0.1 + 0.1, 0.2, 0.2]), everything) == 0
    assert seed_tau([2, 4, 8, 16], np.array([0.9, 0.3, 0.2, 0.1]), np.array([False, True, True, True])) == -1
    assert math.isnan(seed_tau([2, 4, 8, 16], np.arange(4.0), np.array([False, False, True, True])))


def test_damages_that_differ_by_rounding_are_ties():
    assert seed_tau([2, 4, 8], np.array([0.3, 0.1 + 0.2, 0.1 + 0.2]), np.ones(3, bool)) == 0


def test_numbers_are_means_over_seeds():
    """Two seeds whose taus are 1 and 1/3; the damage of 4 units is the mean of .2 and .6."""
    widths = [width(2, [0.1, 0.5]), width(4, [0.2, 0.6]), width(8, [0.3, 0.55])]
    (tau,) = capacity._correlation(widths)
    assert tau.by_seed == pytest.approx((1, 1 / 3))
    assert tau.value == pytest.approx(2 / 3)
    damage = widths[1].numbers()[0]
    assert (damage.metric, damage.value) == ("target_damage_width_4", pytest.approx(0.4))
    assert damage.std == pytest.approx(0.4 / math.sqrt(2))
    assert damage.half_width is None  # two seeds are too few
    many = width(2, [0.1, 0.2, 0.3, 0.2, 0.1, 0.4]).numbers()[0]
    assert many.half_width == pytest.approx(of_values([0.1, 0.2, 0.3, 0.2, 0.1, 0.4]))


def test_a_width_that_misses_the_loss_is_left_out_of_that_seed_alone():
    shares = [True, True], [False, True], [True, True], [True, True]
    damages = [0.1, 0.1], [0.9, 0.2], [0.2, 0.3], [0.3, 0.4]
    widths = [width(2**i, *own) for i, own in enumerate(zip(damages, shares, strict=True), 1)]
    (tau,) = capacity._correlation(widths)
    assert tau.by_seed == (1, 1)
    assert [w.numbers()[2].value for w in widths] == [1, 0.5, 1, 1]
    assert widths[1].numbers()[0].value == pytest.approx(0.55)  # the mean damage is over all seeds
    few = [replace(each, reached=np.array([i > 1, True])) for i, each in enumerate(widths)]
    assert capacity._correlation(few) == []


@pytest.fixture(scope="module")
def measured():
    """Both cells on the mixture with two widths."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(capacity, "WIDTHS", (4, 16, 32))
        experiment = Experiment.on(NoStore())
        return experiment, {equal: measure_capacity(cell(equal=equal), experiment) for equal in ("epochs", "loss")}


@pytest.mark.parametrize("equal", ["epochs", "loss"])
def test_a_damage_is_that_of_networks_trained_one_by_one(measured, equal):
    """The first subpopulation and the last seed, with 16 units, trained alone."""
    experiment, results = measured
    own, seed = cell(equal=equal), 2
    stage = experiment.context.stage(own)
    name, pool, start = stage.attacked[0], stage.pool, training_seed(own, seed)
    n, poison = pool.n_train, capacity.draw_poison(stage, own, name, seed, None)
    job = FleetJob(pool, np.append(np.arange(n), poison.rows), np.append(pool.y[:n], poison.y)).canonical()
    victim = MLP(16, 2000, capacity.LOSS) if equal == "loss" else MLP(16)
    (clean,) = victim.fit_many([pool.clean_job().canonical()], [start])
    assert equal == "epochs" or clean.n_epochs < 200
    (attacked,) = MLP(16, clean.n_epochs).fit_many([job], [start])
    members = stage.test_members(name)
    before, after = (
        (m.predict_proba(stage.data.test_x).argmax(1) == stage.data.test_y)[members].mean() for m in (clean, attacked)
    )
    with pytest.MonkeyPatch.context() as patch:
        jobs = [capacity._attacked_job(own, experiment, each, s) for s in range(3) for each in stage.attacked]
        patch.setattr(capacity, "WIDTHS", (16,))
        found = capacity._train(16, own, stage, jobs)
    assert (found.clean - found.attacked)[seed, 0] == before - after
    (row,) = (row for row in results[equal].table if (row["width"], row["subpopulation"]) == (16, name))
    assert row["target_damage"] == pytest.approx((found.clean - found.attacked)[:, 0].mean(), abs=1e-15)


def test_all_widths_have_the_same_clean_loss(measured):
    rows = measured[1]["loss"].table
    assert all(0.9 * capacity.LOSS < row["training_loss"] <= capacity.LOSS for row in rows if row["reached"] == 1)
    assert {row["width"] for row in rows if row["reached"] == 1} >= {16, 32}
    losses = [row["training_loss"] for row in measured[1]["epochs"].table]
    assert max(losses) > 2 * min(losses)


def test_both_cells_have_the_same_poison(measured):
    stage = measured[0].context.stage(cell())
    first, second = (capacity.draw_poison(stage, cell(equal=equal), "component=0", 0, None) for equal in ("epochs", "loss"))
    np.testing.assert_array_equal(first.rows, second.rows)


def test_other_victims_and_defenses_are_refused():
    for changes in ({"victim": "mlp_wide"}, {"defense": "trim"}):
        with pytest.raises(BadInput, match="use victim=mlp and defense=none"):
            measure_capacity(cell(**changes), Experiment.on(NoStore()))
    with pytest.raises(BadInput, match="equal=rows is unknown; use one of epochs, loss"):
        cell(equal="rows")


# --- the page ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tau", "half_width", "words"),
    [
        (0.6, 0.2, "damage increases with the width: Kendall's tau +0.60, 95 % interval over seeds [+0.40, +0.80]"),
        (-0.9, 0.3, "damage decreases with the width: Kendall's tau -0.90, 95 % interval over seeds [-1.00, -0.60]"),
        (0.1, 0.3, "damage has no clear trend: Kendall's tau +0.10, 95 % interval over seeds [-0.20, +0.40]"),
    ],
)
def test_the_sentence_follows_the_interval(tau, half_width, words):
    result = CellResult(cell(), (Number("kendall_damage_width", tau, half_width=half_width),))
    assert words in sentence(cell(), result)


def test_the_sentence_names_widths_that_miss_the_loss():
    numbers = Number("kendall_damage_width", 0.1, half_width=0.3), Number("reached_width_2", 0.4), Number("reached_width_4", 1.0)
    told = sentence(cell(equal="loss"), CellResult(cell(equal="loss"), numbers))
    assert told.endswith("Not all seeds reach this loss with 2 units.")
    assert "too few widths" in sentence(cell(), CellResult(cell(), ()))


def test_the_table_and_the_figure_show_every_width(measured, monkeypatch):
    monkeypatch.setattr("subpop.report.tables.capacity.WIDTHS", (4, 16, 32))
    reports = [CellReport(result.cell, result) for result in measured[1].values()]
    table = Capacity().tables(reports)[2]
    assert len(table.splitlines()) == 2 + 2 * 3
    (plan,) = Capacity().figures(reports, {})
    assert [axis.get_title() for axis in plan.draw().axes] == [
        "mixture, at an equal number of epochs",
        "mixture, at an equal training loss on clean data",
    ]


def test_headlines_are_gated_only():
    gates = Capacity().gates(cell())
    assert gates("target_damage_width_8")
    assert not gates("target_damage_width_16")
    assert not gates("target_clean_accuracy_width_8")
