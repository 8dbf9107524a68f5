"""Local learners and the curves: hand-counted cells, two implementations of one rule, exact steps, 1-NN's closed form."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subpop.attacks import poison_count
from subpop.datasets import load_dataset
from subpop.datasets.mixture import SIZES, SPECS, centres_of
from subpop.datasets.stage import build_stage, split_data
from subpop.experiments.experiment import Experiment
from subpop.experiments.impossibility import measure_impossibility
from subpop.experiments.impossibility.curves import Target
from subpop.experiments.impossibility.learners import (
    LOCAL,
    Bins,
    CellHistogram,
    CellMajority,
    NearestCentre,
    NearestNeighbours,
    make_learner,
)
from subpop.runtime.store import Store
from subpop.types import BadInput, FleetJob, Pool
from subpop.types.grid import grid

CENTRES = centres_of(SPECS["mixture_cells"])
CURVE = {
    "stem": "impossibility",
    "kind": "two_worlds",
    "tier": "embedded",
    "partition": "feature_match",
    "sampling": "distinct",
    "alpha_base": "train",
    "n_seeds": 1,
}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    return Experiment.on(Store(tmp_path_factory.mktemp("theory") / "store.sqlite"))


@pytest.fixture(scope="module")
def stage():
    cell = grid(victim="mlp", rate=1.0, dataset="mixture_cells_noisy", **CURVE)[0]
    return build_stage(cell, split_data(cell, load_dataset(cell.dataset)))


def job_of(cells, labels, classes=2):
    """One row at the centre of each of the cells named."""
    pool = Pool(CENTRES[cells].astype(np.float32), np.array(labels), len(cells), classes)
    return FleetJob(pool, np.arange(len(cells)), np.array(labels))


def predicted(victim, job, x=CENTRES):
    return victim.fit_many([job], [0])[0].predict_proba(x.astype(np.float32)).argmax(1)


# --- supports ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SIZES)
def test_bins_and_nearest_centres_are_the_components(name):
    data = load_dataset(name)
    component = data.annotations["component"]
    centres = centres_of(SPECS[name])
    assert np.array_equal(NearestCentre(centres).cell_of(data.x), component)
    bins = Bins.around(centres)
    assert bins.coordinates == (0, 1, 2)
    code = bins.cell_of(data.x)
    assert len(set(zip(code.tolist(), component.tolist(), strict=True))) == len(centres) == len(set(code.tolist()))


@pytest.mark.parametrize("name", SIZES)
def test_d_aux_holds_distinct_poison_for_every_alpha_of_the_curve(name):
    data = load_dataset(name)
    cell = grid(victim="mlp", rate=2.0, dataset=name, **CURVE)[0]
    stage = build_stage(cell, split_data(cell, data))
    assert (stage.pool.n_train, stage.n_aux) == SIZES[name]
    for target in stage.attacked:
        assert len(stage.aux_members(target)) >= 2 * stage.train_members(target).sum()


def test_centres_are_those_of_the_rows():
    for name in ("mixture", "mixture_cells"):
        data = load_dataset(name)
        assert np.array_equal(NearestCentre(centres_of(SPECS[name])).cell_of(data.x), data.annotations["component"])


def test_centres_without_bins_of_their_own_are_refused():
    with pytest.raises(BadInput, match="cannot be told apart by bins"):
        Bins.around(centres_of(SPECS["mixture_2d"]))


def test_pure_and_noisy_cells_have_the_same_rows_and_margins():
    pure, noisy = load_dataset("mixture_cells"), load_dataset("mixture_cells_noisy")
    assert np.array_equal(pure.x, noisy.x)
    for component in range(8):
        own = pure.annotations["component"] == component
        assert len(set(pure.y[own].tolist())) == 1
        assert (pure.y[own] != noisy.y[own]).mean() == 0.125


# --- learners ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("learner", [CellMajority, CellHistogram])
def test_counted_by_hand(learner):
    job = job_of([0, 0, 0, 1, 1, 2, 2, 2], [1, 1, 0, 0, 1, 0, 0, 1])
    model = learner(CENTRES).fit_many([job], [0])[0]
    shares = model.predict_proba(CENTRES.astype(np.float32))
    np.testing.assert_allclose(shares[0], [1 / 3, 2 / 3], rtol=1e-6)
    np.testing.assert_allclose(shares[2], [2 / 3, 1 / 3], rtol=1e-6)
    assert shares[1].tolist() == [0.5, 0.5]  # a tie: class 0
    assert shares[3].tolist() == [0.5, 0.5]  # a cell without rows: class 0
    assert shares.dtype == np.float32
    assert shares.argmax(1)[:4].tolist() == [1, 0, 0, 0]
    features = model.features(CENTRES.astype(np.float32))
    assert features.shape == (8, 8)
    assert np.array_equal(features.sum(1), np.ones(8))
    assert np.array_equal(features @ features.T, np.eye(8))


@pytest.mark.parametrize("learner", [CellMajority, CellHistogram])
def test_weights_count(learner):
    job = job_of([0, 0, 0], [0, 0, 1])
    weighted = FleetJob(job.pool, job.rows, job.y, np.array([1.0, 1.0, 2.5]))
    assert predicted(learner(CENTRES), job)[0] == 0
    assert predicted(learner(CENTRES), weighted)[0] == 1


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 80), classes=st.integers(2, 4))
def test_both_counting_rules_agree_and_neither_minds_order_or_other_cells(seed, n, classes):
    rng = np.random.default_rng(seed)
    data = load_dataset("mixture_cells")
    rows, y = rng.permutation(len(data.x))[:n], rng.integers(0, classes, n)
    pool = Pool(data.x[rows], y, n, classes)
    job = FleetJob(pool, np.arange(n), y)
    one = CellMajority(CENTRES).fit_many([job], [0])[0].predict_proba(data.x)
    two = CellHistogram(CENTRES).fit_many([job], [1])[0].predict_proba(data.x)
    np.testing.assert_allclose(one, two, atol=1e-6)
    assert np.array_equal(one.argmax(1), two.argmax(1))
    order = rng.permutation(n)
    shuffled = CellMajority(CENTRES).fit_many([FleetJob(pool, order, y[order])], [0])[0].predict_proba(data.x)
    assert np.array_equal(one, shuffled)
    cell = data.annotations["component"]
    elsewhere = cell[rows] != cell[rows[0]]
    other = CellMajority(CENTRES).fit_many([FleetJob(pool, np.arange(n), np.where(elsewhere, 0, y))], [0])[0]
    assert np.array_equal(other.predict_proba(data.x)[cell == cell[rows[0]]], one[cell == cell[rows[0]]])


def test_nearest_neighbours_are_scikit_learns_and_lie_in_their_own_cell():
    from sklearn.neighbors import NearestNeighbors

    data = load_dataset("mixture_cells")
    cell = data.annotations["component"]
    train, test = np.arange(0, len(cell), 6), np.arange(1, len(cell), 6)
    nearest = NearestNeighbors(n_neighbors=7).fit(data.x[train]).kneighbors(data.x[test])[1]
    assert (cell[train][nearest] == cell[test][:, None]).mean() > 0.99
    y = np.random.default_rng(0).integers(0, 2, len(train))
    job = FleetJob(Pool(data.x[train], y, len(train), 2), np.arange(len(train)), y)
    model = NearestNeighbours(CENTRES, 7).fit_many([job], [0])[0]
    np.testing.assert_allclose(model.predict_proba(data.x[test])[:, 1], y[nearest].mean(1), atol=1e-6)


def test_fewer_rows_than_neighbours_and_a_missing_class():
    job = job_of([0, 1], [1, 1])
    assert predicted(NearestNeighbours(CENTRES, 7), job).tolist() == [1] * 8


def test_neighbours_take_no_weights():
    job = job_of([0, 1], [0, 1])
    with pytest.raises(BadInput, match="no weights"):
        NearestNeighbours(CENTRES, 1).fit_many([FleetJob(job.pool, job.rows, job.y, np.ones(2))], [0])


def test_learners_by_name():
    assert all(make_learner(name, "mixture_cells").exact for name in LOCAL)
    assert not make_learner("mlp", "digits").exact
    with pytest.raises(BadInput, match="supports"):
        make_learner("cell_majority", "digits")
    with pytest.raises(BadInput, match="unknown victim"):
        make_learner("cell_minority", "mixture_cells")


# --- curves -----------------------------------------------------------------------------------------------------------


def test_margins_are_counted(stage):
    for name in stage.attacked:
        y = stage.pool.y[: stage.pool.n_train][stage.train_members(name)]
        target = Target.of(stage, name)
        assert target.size == len(y)
        assert target.margin == abs(int((y == 0).sum()) - int((y == 1).sum())) > 0
        assert (y == target.own).sum() > len(y) / 2
        assert target.damage_if(target.own) == 0
        assert target.damage_if(1 - target.own) == pytest.approx(2 * (target.test_y == target.own).mean() - 1)


@pytest.mark.parametrize("margin", range(30))
def test_the_rate_of_one_row_more_gives_one_row_more(margin):
    for size in range(max(1, margin), 45):
        assert poison_count(margin / size, size) == margin


def measured(experiment, victim, **changes):
    cell = grid(victim=victim, **{"rate": 1.0, "dataset": "mixture_cells", **CURVE, **changes})[0]
    return measure_impossibility(cell, experiment)


@pytest.mark.parametrize("victim", ["cell_majority", "cell_histogram"])
@pytest.mark.parametrize("dataset", SIZES)
def test_a_cell_is_flipped_by_one_row_more_than_its_margin(experiment, victim, dataset):
    common = {"dataset": dataset, "label_rule": "rarest"}
    less, tied, more = (
        measured(experiment, victim, rows=rows, **common) for rows in ("margin_less_1", "margin", "margin_plus_1")
    )
    assert less["target_damage_min"] == less["target_damage_max"] == 0
    assert tied["target_damage_mean"] == pytest.approx(tied["tied_damage_mean"])
    assert 0 < tied["target_damage_mean"] < more["target_damage_mean"] == pytest.approx(more["flipped_damage_mean"])
    assert more["target_damage_min"] > 0.4
    assert (more["flipped_damage_mean"] == 1) == (dataset == "mixture_cells")
    assert less["alpha_mean"] < tied["alpha_mean"] < more["alpha_mean"]


def test_curves_of_a_counting_and_a_smooth_learner(experiment):
    below = [measured(experiment, name, rate=0.9) for name in ("cell_majority", "knn_1", "logistic_regression")]
    above = [measured(experiment, name, rate=1.1) for name in ("cell_majority", "knn_1", "logistic_regression")]
    assert (below[0]["target_damage_mean"], above[0]["target_damage_mean"]) == (0, 1)
    for smooth in (1, 2):  # on these the step must not be found
        assert 0.2 < below[smooth]["target_damage_mean"] < above[smooth]["target_damage_mean"] < 0.8
    assert above[1]["poison_share_mean"] == pytest.approx(1.1 / 2.1, abs=0.01)
    assert below[0]["alpha_mean"] == pytest.approx(0.9, abs=0.03)


def test_clean_data_has_no_damage_and_fits_are_counted(experiment):
    result = measured(experiment, "knn_1", rate=0.0, n_seeds=2)
    assert result["target_damage_mean"] == result["target_damage_max"] == result["poison_share_mean"] == 0
    assert result.n_fits == 2 + 8 * 2
    assert result.n_subpopulations == 8


def test_a_stochastic_learner_tells_its_deviation_and_no_extremes(experiment):
    result = measured(experiment, "mlp", rate=2.0, n_seeds=2)
    (number,) = (number for number in result.numbers if number.metric.startswith("target_damage"))
    assert not result.exact
    assert number.std > 0
    assert number.value > 0.5


def test_a_defended_curve_is_measured_against_the_undefended_clean_victim(experiment):
    filtered = measured(experiment, "cell_majority", rate=1.1, defense="perfect_filter")
    assert filtered["target_damage_max"] == 0


def test_bad_settings_are_refused(experiment):
    with pytest.raises(BadInput, match="margin_less_1"):
        measured(experiment, "cell_majority", rows="some")
    with pytest.raises(BadInput, match="two classes"):
        measured(experiment, "logistic_regression", dataset="mixture_multiclass")
    with pytest.raises(BadInput, match="unknown defense"):
        measured(experiment, "cell_majority", defense="hope")
