"""Two worlds: the harness builds them alike, sums are 1, and a harness that leaks is found out."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import hypergeom
from small_projects import parse_defense

from subpop.datasets.mixture import SPECS, centres_of
from subpop.experiments.experiment import Experiment
from subpop.experiments.impossibility import measure_impossibility
from subpop.experiments.impossibility.learners import LOCAL, CellModel, NearestCentre
from subpop.experiments.impossibility.measure import TIE_BREAKS, errors_of, independent_draws, paired_draws
from subpop.experiments.impossibility.runner import Runner, gathered
from subpop.experiments.impossibility.two_worlds import (
    OWN_DEFENSES,
    Errors,
    WorldRows,
    distance_allowed,
    origin_of,
    same_for_the_defender,
)
from subpop.harness.batching import job_of
from subpop.results.metric_registry import metric_of
from subpop.results.references import References, cell_key, rebaseline
from subpop.runtime.store import Store
from subpop.types import BadInput, Defended, FleetJob, Pool
from subpop.types.grid import grid

CENTRES = centres_of(SPECS["mixture_cells"])
WORLDS = {
    "stem": "impossibility",
    "kind": "two_worlds",
    "tier": "embedded",
    "dataset": "mixture_cells",
    "partition": "feature_match",
    "rate": 1.0,
    "sampling": "distinct",
    "alpha_base": "train",
    "n_seeds": 30,
    "worlds": "independent",
}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    return Experiment.on(Store(tmp_path_factory.mktemp("worlds") / "store.sqlite"))


def cell_of(victim="cell_majority", **changes):
    return grid(victim=victim, **{**WORLDS, **changes})[0]


def sums_to_one(total, std_error, n, n_pairs):
    """The verdict of the suite's claim."""
    return abs(total - 1) <= distance_allowed(std_error, n, n_pairs)


def drawn(draws, cell, experiment):
    return draws(Runner.of(cell, experiment))


def check(experiment, cell):
    """The verdict on independent draws, as the suite gives it, and the sum of errors."""
    found = Errors.of(errors_of(Runner.of(cell, experiment), drawn(independent_draws, cell, experiment))[0])
    return sums_to_one(found.total, found.std_error, found.n, n_pairs=30), found.total


# --- the worlds -------------------------------------------------------------------------------------------------------


def test_worlds_are_made_of_the_same_rows(experiment):
    base = experiment.context.stage(cell_of())
    shared = WorldRows.of(base, "component=1", 10)
    division = shared.division(0)
    assert sorted(division) == sorted(shared.target)
    assert len(set(division.tolist())) == 20
    one, two = shared.world(0, division), shared.world(1, np.roll(division, 10))
    for world, stage in enumerate((one, two)):
        assert stage.train_members("component=1").sum() == len(stage.aux_members("component=1")) == 10
        assert stage.attacked == ["component=1"]
        train = stage.pool.x[: stage.pool.n_train][stage.train_members("component=1")]
        assert np.array_equal(train, base.pool.x[division[10 * world :][:10]])
        members = base.test_members("component=1")
        assert np.array_equal(stage.data.test_y != base.data.test_y, members if world else np.zeros_like(members))
        origin = np.concatenate([stage.data.splits.train, stage.data.splits.aux])
        assert np.array_equal(stage.pool.x, stage.dataset.x[origin])
        changed = stage.pool.y != stage.dataset.y[origin]
        assert np.array_equal(changed, (stage.dataset.annotations["component"][origin] == 1) & bool(world))
        sizes = np.bincount(stage.partition.train)
        assert (sizes[1], sizes.max()) == (10, 10)


def test_swapping_the_halves_gives_the_same_training_set(experiment):
    draws = drawn(paired_draws, cell_of("logistic_regression", n_seeds=3, defense="trim"), experiment)
    for first, second in zip(draws[::2], draws[1::2], strict=True):
        assert same_for_the_defender(first.prepared, second.prepared)
        assert np.array_equal(origin_of(first.stage, first.prepared), origin_of(second.stage, second.prepared))
        assert first.prepared.task.know.n_poison == second.prepared.task.know.n_poison == 16
        clean, poison = (draw.prepared.rows >= draw.stage.pool.n_train for draw in (first, second))
        target = first.prepared.member | clean
        assert np.array_equal(clean[target], ~poison[target])  # what is clean in one world is poison in the other
        assert first.prepared.flipped.sum() == second.prepared.flipped.sum() == 16
        assert np.array_equal(second.prepared.flipped, poison)
        assert np.array_equal(second.prepared.member, clean)


def test_draws_differ_in_division_order_and_seed(experiment):
    draws = drawn(independent_draws, cell_of(n_seeds=3), experiment)
    assert [draw.world for draw in draws] == [0, 1] * 3
    assert len({draw.prepared.task.seed for draw in draws}) == 6
    orders = {tuple(origin_of(draw.stage, draw.prepared).tolist()) for draw in draws}
    assert len(orders) == 6
    assert len({tuple(sorted(order)) for order in orders}) == 1


def test_any_difference_that_a_defender_could_see_is_seen(experiment):
    first, second = (draw.prepared for draw in drawn(paired_draws, cell_of(n_seeds=1, defense="trim"), experiment))
    assert same_for_the_defender(first, second)
    know, train = second.task.know, second.task.train
    changes = [
        {"know": replace(know, n_poison=17)},
        {"know": replace(know, poison_mask=np.zeros(len(train), bool))},
        {"seed": 1},
        {"train": train.relabel(1 - train.y)},
        {"train": train[np.arange(len(train))[::-1]]},
    ]
    for change in changes:
        assert not same_for_the_defender(first, replace(second, task=replace(second.task, **change))), change


def test_jobs_keep_their_rows_and_order_in_one_pool():
    pools = [Pool(np.arange(6.0).reshape(3, 2) + 10 * i, np.array([0, 1, i]), 2, 2) for i in range(2)]
    jobs = [FleetJob(pools[0], np.array([2, 0]), np.array([1, 1])), FleetJob(pools[1], np.array([1, 1, 2]), np.array([0, 1, 0]))]
    moved = gathered(jobs)
    assert moved[0].pool is moved[1].pool
    for before, after in zip(jobs, moved, strict=True):
        assert np.array_equal(before.x, after.x)
        assert np.array_equal(before.y, after.canonical().y)
        assert np.array_equal(after.rows, after.canonical().rows)


# --- sums -------------------------------------------------------------------------------------------------------------


def test_the_check_by_hand():
    found = Errors.of(np.array([[0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.0]]))
    assert (found.means, found.total, found.n) == ((0.5, 0.75), 1.25, 4)
    assert found.std_error == pytest.approx(np.sqrt((1 / 3 + 1 / 4) / 4))
    assert distance_allowed(0.1, 30, 1) == pytest.approx(0.1 * 2.0452, abs=1e-4)  # Student's t, 29 degrees of freedom
    assert distance_allowed(0.1, 30, 40) > distance_allowed(0.1, 30, 20) > distance_allowed(0.1, 300, 20)
    assert sums_to_one(1.2, 0.1, 30, 1)
    assert not sums_to_one(1.21, 0.1, 30, 1)
    assert sums_to_one(1 + 1e-12, 0.0, 30, 1)
    assert not sums_to_one(0.99, 0.0, 30, 1)


def test_false_alarms_are_as_rare_as_promised():
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(2000):
        p = rng.uniform(0.1, 0.9)
        errors = np.stack([rng.binomial(50, p, 30), 50 - rng.binomial(50, p, 30)]) / 50
        found = Errors.of(errors)
        alarms += not sums_to_one(found.total, found.std_error, found.n, n_pairs=1)
    assert alarms / 2000 < 0.07


@pytest.mark.parametrize("defense", ["none", "trim", "random_filter", "spectral_signatures"])
@pytest.mark.parametrize("victim", ["cell_majority", "logistic_regression"])
def test_defenses_do_not_tell_the_worlds_apart(experiment, defense, victim):
    independent, total = check(experiment, cell_of(victim, defense=defense))
    assert independent, total
    result = measure_impossibility(cell_of(victim, defense=defense, worlds="paired", n_seeds=3), experiment)
    assert result["error_sum_min"] == pytest.approx(1, abs=1e-12)
    assert result["error_sum_max"] == pytest.approx(1, abs=1e-12)
    assert result["identical_share"] == 1


def test_numbers_of_a_cell(experiment):
    result = measure_impossibility(cell_of("mlp", n_seeds=4), experiment)
    assert result["error_sum"] == pytest.approx(result["error_world_0"] + result["error_world_1"])
    assert result["error_worst"] == max(result["error_world_0"], result["error_world_1"])
    assert result["n_draws"] == 4
    assert result.n_fits == 8
    assert not result.exact
    (total,) = (number for number in result.numbers if number.metric == "error_sum")
    assert total.std_error == pytest.approx(total.std / 2)
    by_draw = {number.metric: number.by_seed for number in result.numbers if number.by_seed}
    assert by_draw["error_sum"] == pytest.approx(np.add(by_draw["error_world_0"], by_draw["error_world_1"]))
    assert by_draw["error_worst"] in (by_draw["error_world_0"], by_draw["error_world_1"])
    for metric, values in by_draw.items():
        assert len(values) == 4
        assert np.mean(values) == pytest.approx(result[metric])


def chance_of_an_error(draw):
    """Of spectral signatures with a learner that counts, in the draw's world: 24 rows of each label go at random.

    All rows of a label tie, since each of its cells holds 16. The cell of F keeps those of its 16 + 16 rows that do not go.
    """
    y = draw.prepared.task.train.y
    kept = np.arange(17)
    left = [hypergeom(int((y == label).sum()), 16, 24).pmf(16 - kept) for label in (0, 1)]
    zero = kept[:, None] >= kept  # of equal counts the lowest class
    p_zero = float((left[0][:, None] * left[1] * zero).sum())
    true = draw.stage.data.test_y[draw.scored]
    return float((true == 1).mean() * p_zero + (true == 0).mean() * (1 - p_zero))


def test_where_all_scores_tie_the_error_is_a_mean_over_tie_breaks_at_random(experiment):
    for kind in ("independent", "paired"):
        cell = cell_of(defense="spectral_signatures", worlds=kind, n_seeds=3)
        result = measure_impossibility(cell, experiment)
        assert (result["tied"], result["n_draws"]) == (1, TIE_BREAKS)
        for draw in drawn(independent_draws, cell.with_(n_seeds=1), experiment):
            name = f"error_world_{draw.world}"
            (number,) = (number for number in result.numbers if number.metric == name)
            assert number.tolerance == number.std_error > 0
            assert abs(number.value - chance_of_an_error(draw)) < 3 * number.std_error


def test_where_nothing_ties_no_draw_is_added(experiment):
    for kind in ("independent", "paired"):
        for changes in ({"defense": "none"}, {"victim": "logistic_regression", "defense": "spectral_signatures"}):
            result = measure_impossibility(cell_of(worlds=kind, n_seeds=3, **changes), experiment)
            assert result["n_draws"] == 3
            assert "tied" not in {number.metric for number in result.numbers}


def test_means_of_draws_are_held_to_their_standard_error(experiment, tmp_path):
    cell = cell_of("logistic_regression", defense="trim")
    result = measure_impossibility(cell, experiment)
    rebaseline(tmp_path / "impossibility.csv", [result])
    rows = References.load(tmp_path / "impossibility.csv").rows[cell_key(cell)]
    gated = [each for each in result.numbers if metric_of(each.metric).gated and ("", each.metric) in rows]
    assert {"error_sum", "error_worst"} <= {each.metric for each in gated}
    for number in gated:
        atol = float(rows["", number.metric]["atol"])
        if number.metric.startswith("error_"):
            assert atol == number.std_error > 0.01
        else:
            assert atol == pytest.approx(0.01 * max(1, number.value))


def test_telling_labels_or_poison_ends_the_argument(experiment):
    for defense, changes in [("perfect_filter", {}), ("agrees_with_holdout", {"holdout": 0.25, "told": "target"})]:
        holds, total = check(experiment, cell_of(defense=defense, **changes))
        assert not holds
        assert total < 0.2
    holds, total = check(experiment, cell_of(defense="agrees_with_holdout", holdout=0.25))
    assert holds, f"a holdout without rows of the subpopulation tells the worlds apart: {total:.3f}"


def test_rows_handed_out_are_not_scored(experiment):
    (draw, _) = drawn(
        independent_draws, cell_of(n_seeds=1, defense="agrees_with_holdout", holdout=0.25, told="target"), experiment
    )
    assert draw.scored.sum() == pytest.approx(draw.stage.test_members("component=0").sum() / 2, abs=0.5)
    assert not (draw.scored & draw.prepared.holdout).any()
    (draw, _) = drawn(independent_draws, cell_of(n_seeds=1, defense="agrees_with_holdout", holdout=0.25), experiment)
    assert not (draw.prepared.holdout & draw.stage.test_members("component=0")).any()


def test_a_pair_that_cannot_run_says_why(experiment):
    result = measure_impossibility(cell_of(defense="fine_pruning", holdout=0.25, n_seeds=2), experiment)
    assert [(number.metric, number.value) for number in result.numbers] == [("can_run", 0)]
    assert "channel_activations" in result.notes[0]


def test_a_plug_in_is_held_to_the_same(tmp_path):
    path = tmp_path / "half.py"
    path.write_text(
        "import numpy as np\nfrom subpop import Defended\n\n"
        "def half(train, fit, know, *, seed):\n"
        "    keep = np.random.default_rng(seed).random(len(train)) > 0.5\n"
        "    return Defended(fit(train[keep]), keep)\n"
    )
    spec = parse_defense(f"{path}:half", tmp_path)
    experiment = Experiment.on(Store(tmp_path / "store.sqlite"), plugins={spec.name: spec})
    result = measure_impossibility(cell_of(defense=spec.name, worlds="paired", n_seeds=3), experiment)
    assert result["identical_share"] == 1
    assert result["error_sum_min"] == result["error_sum_max"] == 1


def test_bad_settings_are_refused(experiment):
    for changes, message in [
        ({"worlds": "three"}, "independent, paired"),
        ({"attack": "gradient_match"}, "use label_flip"),
        ({"target": "component=9"}, "is not a subpopulation"),
        ({"clean_rows": 500}, "need 1000 distinct rows"),
        ({"dataset": "mixture_multiclass", "victim": "logistic_regression"}, "two labels"),
    ]:
        with pytest.raises(BadInput, match=message):
            measure_impossibility(cell_of(**changes), experiment)


# --- a harness that leaks ---------------------------------------------------------------------------------------------


def first_rows(train, fit, know, *, seed):
    """Keep all but the last n_poison rows: what whoever knows the order of rows would do."""
    keep = np.arange(len(train)) < len(train) - know.n_poison
    return Defended(fit(train[keep]), keep)


first_rows.needs = {"n_poison"}


def as_many_as_told(train, fit, know, *, seed):
    """In the cell that holds n_poison rows of one label beside another number of the other, drop the n_poison rows."""
    cell = NearestCentre(CENTRES).cell_of(train.x)
    keep = np.ones(len(train), bool)
    for own in range(len(CENTRES)):
        groups = [(cell == own) & (train.y == label) for label in (0, 1)]
        sizes = [int(group.sum()) for group in groups]
        if min(sizes) > 0 and sizes[0] != sizes[1] and know.n_poison in sizes:
            keep &= ~groups[sizes.index(know.n_poison)]
    return Defended(fit(train[keep]), keep)


as_many_as_told.needs = {"n_poison"}


def test_poison_that_is_appended_and_not_shuffled_is_found_out(experiment, monkeypatch):
    monkeypatch.setitem(OWN_DEFENSES, "first_rows", first_rows)
    holds, total = check(experiment, cell_of(defense="first_rows"))
    assert holds, f"the shuffled order tells the worlds apart: {total:.3f}"
    monkeypatch.setattr("subpop.experiments.trial._shuffle", lambda cell, trial, n_rows, secret: np.arange(n_rows))
    for victim, most in (("cell_majority", 0.0), ("logistic_regression", 0.3)):
        holds, total = check(experiment, cell_of(victim, defense="first_rows"))
        assert not holds
        assert total <= most


def test_poison_with_replacement_is_found_out(experiment):
    cell = cell_of("knn_7", clean_rows=40, defense="drop_duplicates")
    holds, total = check(experiment, cell)
    assert holds, total
    holds, total = check(experiment, cell.with_(sampling="with_replacement"))
    assert not holds
    assert total < 0.6


def test_one_poison_row_more_with_n_poison_told_is_found_out(experiment, monkeypatch):
    monkeypatch.setitem(OWN_DEFENSES, "counts", as_many_as_told)
    cell = cell_of(defense="counts", clean_rows=40)
    holds, total = check(experiment, cell)
    assert holds, total
    whole = WorldRows.of.__func__

    def one_more(cls, base, name, m):
        shared, larger = whole(cls, base, name, m), whole(cls, base, name, m + 1)
        return replace(shared, target=larger.target[: 2 * m + 1])

    monkeypatch.setattr(WorldRows, "of", classmethod(one_more))
    draws = drawn(independent_draws, cell.with_(rate=41 / 40), experiment)
    assert {(int(draw.prepared.member.sum()), draw.prepared.n_poison) for draw in draws} == {(40, 41)}
    found = Errors.of(errors_of(Runner.of(cell.with_(rate=41 / 40), experiment), draws)[0])
    assert not sums_to_one(found.total, found.std_error, found.n, n_pairs=30)
    assert found.total < 0.1


class FirstOfCell:
    """1-NN where all rows of a cell are equally near, and the first of them decides."""

    exact = True

    def fit_many(self, jobs, seeds):
        return [CellModel(NearestCentre(CENTRES), np.eye(2, dtype=np.float32)[self._first(job)]) for job in jobs]

    def _first(self, job):
        cell = NearestCentre(CENTRES).cell_of(job.x)
        return [job.y[cell == own][0] for own in range(len(CENTRES))]


def test_a_learner_whose_ties_go_by_row_order_is_found_out(experiment, monkeypatch):
    """Victims get their rows in canonical order, poison last: who breaks ties by it sees which rows are poison."""
    monkeypatch.setitem(LOCAL, "tied", lambda centres: FirstOfCell())
    holds, total = check(experiment, cell_of("tied"))
    assert not holds
    assert total == 0
    draw = drawn(independent_draws, cell_of(n_seeds=1), experiment)[0]
    job = job_of(draw.stage.pool, draw.prepared.task.train).canonical()
    assert (job.rows[-16:] >= draw.stage.pool.n_train).all()
