"""Attacks on sets of targets, from cell to numbers: toy problems whose outcome is known, what is kept, what is refused."""

import numpy as np
import pytest
from table16_cells import cell_of

from subpop.types import BadInput


class Plain:
    """Features are the pixels themselves, divided by 100."""

    device = "cpu"

    def features(self, pictures):
        return pictures.reshape(len(pictures), -1).astype(np.float64) / 100

    def features_and_pullback(self, pictures):
        return self.features(pictures), lambda cotangents: (cotangents / 100).astype(np.float32).reshape(pictures.shape)


class Kept:
    """A store in memory that counts what is put into it."""

    def __init__(self):
        self.arrays, self.puts = {}, 0

    def get_arrays(self, key):
        return self.arrays.get(key)

    def put_arrays(self, key, arrays, *, replace=False):
        self.puts += 1
        self.arrays[key] = dict(arrays)


def toy(*, one_dog=0, copies=1, n=12):
    """Random pictures of 16 pixels, fewer than pixels; targets of class 0: noisy copies of the pictures of that class."""
    from subpop.experiments.target_sets.setups import Problem, Setup

    generator = np.random.default_rng(0)
    setup = Setup("toy", False, 0, 3, 2, (0.5, 120.0), 6, n_sets=5)
    x = generator.integers(60, 200, (n, 1, 4, 4), dtype=np.uint8)
    y = np.arange(n) % 2
    targets = np.clip(np.tile(x[y == 0], (4, 1, 1, 1)) + generator.integers(-9, 9, (2 * n, 1, 4, 4)), 0, 255).astype(np.uint8)
    rows = np.tile(np.arange(n), copies)
    return Problem(setup, x[rows], y[rows], targets, targets[:one_dog], x, y, "", Plain)


@pytest.fixture
def suite_of(monkeypatch):
    from subpop.experiments.context import Context
    from subpop.experiments.target_sets import measure

    def suite(problem, store=None, **options):
        monkeypatch.setattr(measure, "problem_of", lambda cell, parts: problem)
        # Reading the package's source for its hash would take longer than all attacks.
        return measure.TargetSuite(Context(store or Kept(), **options))

    return suite


def toy_cell(partition, epsilon, n_seeds=2):
    return cell_of(partition, epsilon, tier="embedded", dataset="toy", victim="toy_last_layer", n_seeds=n_seeds)


def test_a_wide_box_fells_targets_and_half_a_level_none(suite_of):
    suite = suite_of(toy())
    for kind in ("random", "cluster_match"):
        small, large = (suite.measure(toy_cell(kind, epsilon)) for epsilon in ("0.5", "120"))
        assert small["success_mean"] == 0
        assert large["success_mean"] > 0.2
        assert large["success_worst_1"] >= large["success_worst_5"] == pytest.approx(large["success_mean"])  # of 5 sets
        assert large["start_accuracy"] == small["start_accuracy"] == 1.0
        assert large["kkt_residual_max"] < 1e-9
        assert large["iterations_budget"] == 6
        assert not large.exact
        assert len(large.table) == large.n_subpopulations == 10


def test_one_of_many_copies_of_a_picture_has_no_say(suite_of):
    """Where every picture of D is there a hundred times, changing one of them fells nobody, however wide the box."""
    assert suite_of(toy(copies=100)).measure(toy_cell("random", "120"))["success_worst_1"] == 0


def test_clusters_are_compared_with_the_random_sets_of_the_same_draws(suite_of):
    suite = suite_of(toy())
    random, clusters = (suite.measure(toy_cell(kind, "120")) for kind in ("random", "cluster_match"))
    difference = clusters["success_mean_difference"]
    assert difference == pytest.approx(clusters["success_mean"] - random["success_mean"])
    assert clusters["success_mean_difference_low"] < difference < clusters["success_mean_difference_high"]
    assert "success_mean_difference" not in {number.metric for number in random.numbers}
    assert all("cluster" in row["subpopulation"] for row in clusters.table)
    assert len({(row["subpopulation"]) for row in clusters.table}) == 10
    assert "some clusters serve several sets" in clusters.notes[-1]


def test_half_a_level_is_lost_when_pixels_are_rounded(suite_of):
    suite = suite_of(toy())
    small, large = (suite.measure(toy_cell("random", epsilon)).arrays for epsilon in ("0.5", "120"))
    assert small["attacked"].dtype == np.float32
    assert 0.4999 < np.abs(small["attacked"] - small["original"]).max() < 0.5  # the next float inside the box
    assert np.array_equal(
        np.rint(np.where(small["attacked"] % 1 == 0.5, small["original"], small["attacked"])), small["original"]
    )
    inside = small["original"] + 0.998 * (small["attacked"] - small["original"])
    assert np.array_equal(np.rint(inside), small["original"])
    assert not np.array_equal(np.rint(large["attacked"]), large["original"])
    assert 0.5 < np.abs(large["attacked"] - large["original"]).max() <= 120


def test_a_draw_that_is_kept_is_not_attacked_again(suite_of):
    store = Kept()
    first = suite_of(toy(), store).measure(toy_cell("cluster_match", "120", n_seeds=1))
    assert (store.puts, first.from_store) == (1, False)
    more = suite_of(toy(), store).measure(toy_cell("random", "120", n_seeds=2))  # killed after a draw: one is left to do
    assert (store.puts, more.from_store) == (2, False)
    again = suite_of(toy(), store).measure(toy_cell("cluster_match", "120", n_seeds=1))
    assert (store.puts, again.from_store) == (2, True)
    assert again.numbers == first.numbers
    assert again.seconds == first.seconds
    undisturbed = suite_of(toy()).measure(toy_cell("random", "120", n_seeds=2))
    assert repr(undisturbed.numbers) == repr(more.numbers)
    suite_of(toy(), store, fresh=True).measure(toy_cell("random", "0.5", n_seeds=2))
    assert store.puts == 4


def test_koh_and_liangs_dog(suite_of):
    suite = suite_of(toy(one_dog=4))
    result = suite.measure(toy_cell("koh_dog", "120", n_seeds=1))
    assert len(result.table) == 1
    assert result["success_worst_1"] in {0, 0.25, 0.5, 0.75, 1}
    assert result["picture_move_levels"] <= 120
    moved = result.arrays["attacked"].astype(float) - result.arrays["original"]
    assert result["picture_move_l2"] == pytest.approx(np.sqrt((moved**2).sum()) * 2 / 255)
    assert result["attacked_target_loss"] > result["clean_target_loss"]
    assert result["clean_objective"] == pytest.approx(
        result["clean_train_loss"] + 0.001 / 2 * result["clean_coefficient_norm"] ** 2
    )
    assert result["feature_move"] == pytest.approx(np.linalg.norm(moved) / 100, rel=1e-5)


def test_what_cannot_be_attacked(suite_of):
    from subpop.datasets import MissingData
    from subpop.experiments.context import Context
    from subpop.experiments.target_sets.setups import problem_of

    suite = suite_of(toy())
    with pytest.raises(BadInput, match=r"epsilon=3 is not attacked; use one of 0.5, 120 levels"):
        suite.measure(toy_cell("random", "3"))
    with pytest.raises(BadInput, match="random, cluster_match, koh_dog at rate 0"):
        suite.measure(toy_cell("feature_match", "0.5"))
    with pytest.raises(BadInput, match="at rate 0"):
        suite.measure(toy_cell("random", "0.5").with_(rate=1.0))
    with pytest.raises(MissingData, match="30 photos"):
        suite.measure(toy_cell("koh_dog", "0.5"))
    with pytest.raises(BadInput, match="set up on 'adult'; there are digits_images"):
        problem_of(cell_of("random", dataset="adult"), Context(Kept()))
    with pytest.raises(BadInput, match="is on conv_net_last_layer; use it instead of mlp"):
        problem_of(cell_of("random", dataset="digits_images", victim="mlp"), Context(Kept()))


def test_digits_aim_at_test_rows_of_even_digits():
    from subpop.experiments.context import Context
    from subpop.experiments.target_sets.setups import SETUPS, problem_of

    parts = Context(Kept())
    cell = cell_of("random", dataset="digits_images", victim="conv_net_last_layer")
    problem, data = problem_of(cell, parts), parts.data(cell.with_(victim="conv_net"))
    per_class = SETUPS["digits_images"].per_class
    assert np.bincount(problem.y).tolist() == [per_class, per_class]
    assert len(problem.targets) == (data.test_y == 0).sum()
    of_d = {picture.tobytes() for picture in data.pool.x[: data.pool.n_train]}
    assert {picture.tobytes() for picture in problem.x} <= of_d
    assert len(problem.one_dog) == 0
    assert problem.fingerprint == problem_of(cell, parts).fingerprint
    assert problem.fingerprint != problem_of(cell.with_(split=1), parts).fingerprint


def test_cells_of_another_protocol_do_not_share_a_problem(monkeypatch):
    from subpop.experiments.context import Context
    from subpop.experiments.target_sets import measure

    monkeypatch.setattr(measure, "problem_of", lambda cell, context: cell.data.protocol)
    suite = measure.TargetSuite(Context(Kept()))
    asked = [cell_of("random"), cell_of("random", protocol="reserve")]
    assert [suite._problem(cell) for cell in asked] == ["default", "reserve"]
