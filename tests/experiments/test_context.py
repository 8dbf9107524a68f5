"""What cells share: inputs of frozen victims, whose features are clustered, who is attacked, and what a defender is handed."""

import numpy as np
import pytest

from subpop.experiments.experiment import Experiment
from subpop.experiments.trial import clean_holdout
from subpop.runtime.no_store import NoStore
from subpop.runtime.seeds import draw_identity
from subpop.runtime.store import Store
from subpop.types import BadInput, Trial
from subpop.types.grid import grid

DIGITS = {
    "stem": "s",
    "tier": "embedded",
    "dataset": "digits",
    "victim": "last_layer",
    "partition": "cluster_match",
    "rate": 1.0,
    "n_seeds": 2,
}


def cell(**changes):
    return grid(**{**DIGITS, **changes})[0]


@pytest.fixture(scope="module")
def experiment():
    return Experiment.on(NoStore())


def test_features_of_the_attackers_own_model_may_be_clustered(experiment):
    """The features of a last layer on pixels are the pixels: the clusters are those of the inputs, found by another way."""
    own = experiment.context.stage(cell(clusters_on="logistic_regression")).partition
    inputs = experiment.context.stage(cell()).partition
    assert np.array_equal(own.aux, inputs.aux)
    with pytest.raises(BadInput, match="resnet1001"):
        experiment.context.stage(cell(clusters_on="resnet1001"))


def test_the_least_confident_subpopulations_are_attacked_first(experiment):
    everything = experiment.context.stage(cell())
    some = experiment.context.stage(cell(n_attacked=3))
    assert len(some.attacked) == 3
    assert set(some.attacked) < set(everything.attacked)
    proba = experiment.context.attacker(cell()).predict_proba(everything.pool.x)
    own = proba[np.arange(len(proba)), everything.pool.y]

    def confidence(name):
        return own[everything.aux_members(name)].mean()

    large = [name for name in everything.attacked if everything.test_members(name).sum() >= 20]
    assert max(map(confidence, some.attacked)) <= min(confidence(name) for name in set(large) - set(some.attacked))
    with pytest.raises(BadInput, match="n_attacked=99"):
        experiment.context.stage(cell(n_attacked=99))


def test_each_victim_chooses_by_its_own_confidence(experiment):
    experiment.context.stage(cell(n_attacked=1))
    other = cell(n_attacked=1, victim="mlp")
    assert experiment.context.stage(other).attacked == Experiment.on(NoStore()).context.stage(other).attacked


def test_what_is_reported_does_not_change_the_attack(experiment):
    plain = cell(defense="trim")
    for change in ({"holdout": 0.1}, {"ranked_by": "none"}, {"n_attacked": 3}):
        assert draw_identity(plain.with_(**change)) == draw_identity(plain)
    ranked = plain.with_(ranked_by="none")
    assert experiment.chunk_key(ranked, [Trial("cluster 1", 0)]) == experiment.chunk_key(plain, [Trial("cluster 1", 0)])
    assert experiment.chunk_key(cell(holdout=0.1), []) != experiment.chunk_key(cell(holdout=0.2), [])


PARTS = {
    "rate": {"rate": 2.0},
    "split": {"split": 1},
    "partition": {"partition": "feature_match"},
    "attack": {"attack": "influence"},
    "a setting of the attack": {"epsilon": 16, "attack": "influence"},
    "base of alpha": {"alpha_base": "train"},
    "a default that the suite names, which enters the draws": {"sampling": "with_replacement"},
    "victim": {"victim": "logistic_regression"},
    "defense": {"defense": "trim"},
    "told count": {"defense": "trim", "n_poison_told": "half"},
    "control of a filter": {"defense": "matched_random_filter:trim"},
    "control of another filter": {"defense": "matched_random_filter:sever"},
    "holdout": {"holdout": 0.1},
    "panels": {"panels": "yes"},
}


def test_every_part_of_a_cell_is_in_the_key_of_its_trials(experiment):
    """Whatever is left out of the key is served from the store for cells that differ in it."""
    keys = {what: experiment.chunk_key(cell(**change), [Trial("cluster 1", 0)]) for what, change in {"": {}, **PARTS}.items()}
    assert len(set(keys.values())) == len(keys), keys
    elsewhere = Experiment.on(NoStore(), device="cuda:0").context.memo
    assert elsewhere.key([], a=1) != experiment.context.memo.key([], a=1)


def test_a_holdout_never_holds_rows_of_the_target(experiment):
    stage = experiment.context.stage(cell())
    name = stage.attacked[0]
    held = [clean_holdout(stage, cell(holdout=0.2), Trial(name, seed)) for seed in (0, 1, 0)]
    assert not any((own & stage.test_members(name)).any() for own in held)
    assert [own.sum() for own in held] == [round(0.2 * len(stage.data.test_y))] * 3
    assert np.array_equal(held[0], held[2])
    assert not np.array_equal(held[0], held[1])
    assert clean_holdout(stage, cell(), Trial(name, 0)) is None


@pytest.mark.parametrize("share", ["0", "1", "-0.1", "nan", "many", "0.9999", "0.0001"])
def test_a_holdout_that_cannot_be(experiment, share):
    stage = experiment.context.stage(cell())
    with pytest.raises(BadInput, match=f"holdout={share}"):
        clean_holdout(stage, cell(holdout=share), Trial(stage.attacked[0], 0))


def test_certificates_are_asked_for_the_target_alone(experiment):
    target = cell(defense="label_flip_smoothing", n_attacked=2, n_seeds=1)
    stage = experiment.context.stage(target)
    results, _ = experiment.trials(target)
    attacked = [result for result in results if result.trial.attacked]
    assert len(attacked) == 2
    for result in attacked:
        members = stage.test_members(result.trial.subpopulation)
        assert result.arrays["radius:exact"].shape == result.arrays["reference_right"].shape == (members.sum(),)
        # A row that tolerates all flips is right exactly where it is right without them.
        protected = result.arrays["radius:exact"] >= result.metrics["n_flipped"]
        assert np.array_equal(result.arrays["right"][members][protected], result.arrays["reference_right"][protected])
    assert not any(name.startswith("radius") for result in results if not result.trial.attacked for name in result.arrays)


def test_the_same_fleet_is_trained_once(experiment, monkeypatch):
    """Of a stochastic victim: cells that begin with the same fleet share it, to the last bit."""
    calls = []
    mlp = cell(victim="mlp", n_attacked=2, sampling="distinct", rate=0.5)
    victim = experiment.context.victim(mlp)
    original = victim.fit_many
    monkeypatch.setattr(victim, "fit_many", lambda jobs, seeds: calls.append(len(jobs)) or original(jobs, seeds))
    first, _ = experiment.trials(mlp)
    trained = sum(calls)
    again, _ = experiment.trials(mlp)  # nothing is stored
    assert sum(calls) == trained
    assert all(np.array_equal(a.arrays["right"], b.arrays["right"]) for a, b in zip(first, again, strict=True))


def test_clusters_are_cut_once(tmp_path, monkeypatch):
    """From the store they come back as they were cut, without the attacker's network; other settings have other clusters."""
    store = Store(tmp_path / "store.sqlite")
    target = cell(clusters_on="mlp", n_attacked=3)
    first = Experiment.on(store).context.stage(target).partition
    again = Experiment.on(store)
    monkeypatch.setattr(again.context, "attacker", lambda cell: pytest.fail("trained again"))
    second = again.context.stage(target).partition
    assert second.names == first.names
    assert second.attacked == first.attacked
    for side in ("train", "aux", "test"):
        assert np.array_equal(getattr(first, side), getattr(second, side))
    keys = {
        again.context.partition_key(cell(**change)) for change in ({}, {"partition_seed": 1}, {"split": 1}, {"n_attacked": 3})
    }
    assert len(keys) == 4
    assert again.context.partition_key(cell()) == again.context.partition_key(cell(victim="logistic_regression"))


@pytest.mark.parametrize(("identity", "is_served"), [("naive Bayes", True), (None, False)])
def test_a_supplied_victim_on_supplied_data_agrees_with_the_named_one(tmp_path, identity, is_served):
    """Only with an identity is what it trained served to a second session."""
    from dataclasses import replace

    from sklearn.naive_bayes import GaussianNB

    from subpop import SklearnVictim, load_dataset

    named = cell(victim="sklearn.naive_bayes:GaussianNB", dataset="mixture", partition="feature_match", n_seeds=1)
    own = named.with_(victim="mine", dataset="my rows")

    def measured():
        found = Experiment.on(Store(tmp_path / "store.sqlite"))
        found.context.supply(own, replace(load_dataset("mixture"), name="my rows"))
        found.context.supply_victim(own, SklearnVictim(GaussianNB(), n_jobs=1), identity)
        return found.run(own)

    first, second = measured(), measured()
    assert not first.from_store
    assert second.from_store == is_served
    assert first["clean_accuracy"] == second["clean_accuracy"]
    expected = Experiment.on(NoStore()).run(named)
    assert [row["n_test"] for row in first.table] == [row["n_test"] for row in expected.table]
    assert first["clean_accuracy"] == expected["clean_accuracy"]
    with pytest.raises(BadInput, match="'last_layer', as a registered one; give it another name"):
        Experiment.on(NoStore()).context.supply_victim(cell(), SklearnVictim(GaussianNB()))
