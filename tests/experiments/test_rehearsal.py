"""The defense in the attacker's hands: trained on D_aux alone, told what it is told, and part of the poison of a trial."""

from dataclasses import replace

import numpy as np
import pytest

from subpop.attacks.best_of_list import World
from subpop.attacks.drawing import draw_poison
from subpop.defenses import DEFENSES, MATCHED
from subpop.defenses.ensembles import parts_of
from subpop.experiments.experiment import Experiment
from subpop.experiments.rehearsal import OwnWorlds, parts_of_rows, rehearsal
from subpop.harness.plugins import DefenseSpec
from subpop.runtime.no_store import NoStore
from subpop.types import BadInput, FleetJob, Knowledge, TrainingSet, Trial
from subpop.types.grid import grid

NAMES = {"stem": "s", "tier": "embedded", "dataset": "digits", "victim": "logistic_regression", "partition": "feature_match"}
SETTINGS = {"rate": 1.0, "sampling": "distinct", "protocol": "reserve", "n_attacked": 2, "n_seeds": 1}
TARGET = "digit=8"


def cell(**changes):
    return grid(**{**NAMES, **SETTINGS, "attack": "adaptive", "defense": "trim", "n_fits": 20, **changes})[0]


@pytest.fixture(scope="module")
def experiment():
    return Experiment.on(NoStore())


def drawn(experiment, own, name=TARGET, seed=0):
    """Pool rows of the poison of a trial."""
    prepared = experiment.prepare(own, Trial(name, seed))
    return np.sort(prepared.rows[prepared.rows >= experiment.context.stage(own).pool.n_train])


def halves_and_poisons(stage, count, seed=0):
    generator = np.random.default_rng(seed)
    aux, members = np.arange(stage.pool.n_train, len(stage.pool)), stage.aux_members(TARGET)
    order = generator.permutation(aux)
    rows = [np.sort(generator.permutation(members)[:20]) for _ in range(count)]
    world_poison = [World.poison.__get__(FakeWorld(stage, members))(np.isin(members, own)) for own in rows]
    return np.sort(order[: len(aux) // 2]), np.sort(order[len(aux) // 2 :]), world_poison


class FakeWorld:
    def __init__(self, stage, members):
        self.members, self.labels, self.n_fits = members, 1 - stage.pool.y[members], 0
        self.task = type("Task", (), {"pool": stage.pool})


@pytest.mark.parametrize("defense", ["none", "trim", "dpa(k=5)"])
def test_models_are_those_of_the_defense_on_the_surrogate_half_and_poison(experiment, defense):
    """Trained again outside the harness, in another order of the rows."""
    own = cell(defense=defense)
    stage, victim = experiment.context.stage(own), experiment.context.victim(own)
    surrogate, selection, poisons = halves_and_poisons(stage, 3)
    worlds = OwnWorlds(stage, own, stage.aux_members(TARGET), victim, experiment.needs(own))
    found = worlds(surrogate, selection, poisons, selection, 7)
    for (wrong, lead), poison in zip(found, poisons, strict=True):
        rows, y = np.concatenate([surrogate, poison.rows]), np.concatenate([stage.pool.y[surrogate], poison.y])

        def fit(train):
            jobs = [FleetJob(stage.pool, len(stage.pool) + np.arange(len(train)), train.y, extra_x=train.x)]
            return victim.fit_many(jobs, [0])[0]

        defended = DEFENSES[defense](TrainingSet.of(stage.pool.x[rows], y), fit, Knowledge(n_poison=len(poison)), seed=0)
        proba = np.asarray(defended.model.predict_proba(stage.pool.x[selection]), np.float64)
        assert np.array_equal(wrong, proba.argmax(axis=1) != stage.pool.y[selection])
        assert lead == pytest.approx(np.abs(proba[:, 1] - proba[:, 0]), abs=1e-5)
    assert 0 < np.mean([wrong.mean() for wrong, _ in found]) < 0.5


def test_victims_of_the_attacker_see_d_aux_alone(experiment, monkeypatch):
    own = cell()
    stage, victim = experiment.context.stage(own), experiment.context.victim(own)
    seen, fit_many = [], type(victim).fit_many
    monkeypatch.setattr(type(victim), "fit_many", lambda self, jobs, seeds: seen.extend(jobs) or fit_many(self, jobs, seeds))
    attacker, optimiser = experiment.context.attacker(own), rehearsal(stage, own, TARGET, victim, {"n_poison"})
    seen.clear()
    draw_poison(stage, own, TARGET, 0, attacker, optimiser=optimiser, victim=victim)
    assert len(seen) >= 20
    aux = {row.tobytes() for row in stage.pool.x[stage.pool.n_train :]}
    for pool in {job.pool for job in seen}:
        assert len(pool) == stage.n_aux
        assert pool.n_train == stage.n_aux // 2
        assert {row.tobytes() for row in pool.x} == aux


def test_a_defense_is_told_the_count_and_clean_rows_outside_the_subpopulation(experiment, monkeypatch):
    told = []

    def curious(train, fit, know, *, seed):
        told.append((know, train))
        return DEFENSES["none"](train, fit, know, seed=seed)

    curious.needs = {"n_poison", "clean_holdout"}
    monkeypatch.setitem(DEFENSES, "curious", curious)
    own = cell(defense="curious", attack="best_of_list", n_fits=None, holdout=0.1, n_poison_told="half")
    stage = experiment.context.stage(own)
    poison = drawn(experiment, own)
    assert len(told) == 2
    members, aux = stage.pool.x[stage.aux_members(TARGET)], {row.tobytes() for row in stage.pool.x[stage.pool.n_train :]}
    for know, train in told:
        assert know.n_poison == round(len(poison) / 2)
        clean = know.clean_holdout
        assert len(clean) == round(0.1 * len(stage.data.test_y))
        assert {row.tobytes() for row in clean.x} <= aux - {row.tobytes() for row in members}
        assert len(train) == stage.n_aux // 2 + len(poison)
        assert know.poison_mask is None


def test_the_poison_depends_on_the_defense_and_not_on_the_order_of_cells(experiment):
    cells = [cell(defense=defense) for defense in ("trim", "knn_filter")]
    first = [drawn(experiment, own) for own in cells]
    again = [drawn(Experiment.on(NoStore()), own) for own in reversed(cells)][::-1]
    assert all(map(np.array_equal, first, again))
    assert not np.array_equal(*first)
    flips = drawn(experiment, cells[0].with_(attack="label_flip", n_fits=None))
    assert len(flips) == len(first[0])
    assert np.isin(first, experiment.context.stage(cells[0]).aux_members(TARGET)).all()


def test_keys_of_trials_cover_the_defense_and_the_budget_of_the_search(experiment):
    keys = {experiment.chunk_key(own, experiment.chunks(own)[0][:1]) for own in (cell(), cell(defense="sever"), cell(n_fits=30))}
    assert len(keys) == 3
    module = "subpop.experiments.rehearsal"
    assert module in experiment.code(cell())
    assert module not in experiment.code(cell(attack="label_flip", n_fits=None))
    assert "subpop.defenses.trim" in experiment.code(cell())


def test_results_say_how_many_models_the_attacker_trained(experiment):
    found = experiment.run(cell(n_fits=25))
    flips = experiment.run(cell(attack="label_flip", n_fits=None))
    assert found["attack_fits_a_trial"] == 25
    assert found["gain_over_label_flip"] == pytest.approx(found["target_damage_mean"] - flips["target_damage_mean"], abs=1e-12)
    assert found["n_flipped"] == flips["n_flipped"]
    with pytest.raises(KeyError):
        flips["attack_fits_a_trial"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"defense": MATCHED + "trim"}, "a plug-in in its child process or a matched control cannot do"),
        ({"defense": "perfect_filter"}, "does not know poison_mask"),
        ({"defense": "group_dro"}, "does not know groups"),
        ({"sampling": None}, "give the cell sampling=distinct"),
        ({"rate": 1.9}, "use protocol=reserve .* or a lower rate"),
    ],
)
def test_what_cannot_be_rehearsed_is_refused_before_anything_is_trained(experiment, changes, said):
    with pytest.raises(BadInput, match=said):
        experiment.chunks(cell(**changes))


def test_a_plugin_is_refused():
    spec = DefenseSpec.__new__(DefenseSpec)
    object.__setattr__(spec, "needs", ())
    experiment = Experiment.on(NoStore(), plugins={"mine": spec})
    with pytest.raises(BadInput, match="attack adaptive trains the defense hundreds of times, which a plug-in"):
        experiment._cut(cell(defense="mine"))


def test_parts_are_those_of_the_ensemble():
    x = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    train = TrainingSet.of(x, np.arange(200) % 2)
    assert np.array_equal(parts_of_rows("dpa(k=7)", x), parts_of(train, 7))
    assert np.array_equal(parts_of_rows("dpa", x), parts_of(train, 11))
    assert np.array_equal(parts_of_rows("finite_aggregation(k=5)", x), parts_of(train, 10))
    assert parts_of_rows("trim", x) is None


def test_the_harness_refuses_nothing_for_the_noise_floor(experiment):
    experiment.chunks(replace(cell(), n_seeds=1).with_(defense="retrain"))
