"""Texts as victims read them, the clusters of their hidden states, and the reviews that show what a cluster is."""

from __future__ import annotations

import numpy as np
import pytest
from small_encoders import save_bert

from subpop.datasets.partitions import cluster_match
from subpop.experiments.experiment import Experiment
from subpop.experiments.nearest_texts import nearest
from subpop.runtime.no_store import NoStore
from subpop.runtime.store import Store
from subpop.types import BadInput, FleetJob
from subpop.types.grid import grid
from subpop.victims.bert_fine_tuned import BertFineTuned
from subpop.victims.bert_last_layer import BertLastLayer

pytestmark = pytest.mark.usefixtures("one_thread")

COMMON = {
    "stem": "s",
    "tier": "embedded",
    "dataset": "reviews",
    "partition": "cluster_match",
    "label_rule": "common",
    "rate": 2.0,
}


def cell_of(victim, **changes):
    (cell,) = grid(victim=victim, **{**COMMON, "rate": 2.0, **changes})
    return cell


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    return Experiment.on(Store(folder / "store.sqlite"), cache=folder / "cache")


LINEAR = cell_of("text_linear", encoder="tiny", n_seeds=1)
LAST = cell_of("tiny_bert_last_layer", clusters_on="hidden_states", n_attacked=3, attacked_by="low_middle_high", n_seeds=1)


def test_each_victim_reads_texts_its_own_way(experiment):
    pooled, tokens = experiment.context.dataset(LINEAR).x, experiment.context.dataset(LAST).x
    assert pooled.dtype == np.float32
    assert pooled.ndim == 2
    assert tokens.dtype == np.int64
    assert tokens.shape == (len(pooled), 64)
    shorter = experiment.context.dataset(LAST.with_(max_length=32)).x
    assert shorter.shape[1] == 32
    assert not np.array_equal(experiment.context.data(LAST).pool.x[:5], experiment.context.data(LINEAR).pool.x[:5])


def test_what_cannot_read_texts_is_refused(experiment):
    with pytest.raises(BadInput, match=r"mlp .* cannot read texts"):
        experiment.context.dataset(cell_of("mlp"))
    with pytest.raises(BadInput, match="encoder=NAME"):
        experiment.context.dataset(cell_of("text_linear"))
    with pytest.raises(BadInput, match="max_length=many"):
        experiment.context.dataset(LAST.with_(max_length="many"))
    with pytest.raises(BadInput, match="needs a victim that reads tokens"):
        experiment.context.stage(LINEAR.with_(clusters_on="hidden_states"))


def test_clusters_of_hidden_states_are_cut_in_their_components(experiment):
    data, features = experiment.context.data(LAST), experiment.context.cluster_features(LAST)
    assert features.shape == (len(data.dataset.y), data.dataset.n_components)
    own = cluster_match(data.dataset, data.splits, 0, features)
    np.testing.assert_array_equal(experiment.context.stage(LAST).partition.train, own.train)
    assert len(experiment.context.stage(LAST).attacked) == 3


def test_clusters_of_hidden_states_follow_the_weights_of_their_encoder(tmp_path):
    """Tokens stay the same where a folder gets other weights, and so does the hash of the data."""
    cell = LAST.with_(encoder=str(tmp_path / "bert"), max_length=16, n_attacked=None, attacked_by=None)
    keys = []
    for seed in (0, 1):
        save_bert(tmp_path / "bert", seed)
        context = Experiment.on(NoStore()).context
        keys.append((context.data(cell).fingerprint, context.partition_key(cell)))
    (data, first), (same, second) = keys
    assert data == same
    assert first != second


def test_settings_that_choose_clusters_do_not_change_trials_of_the_others(experiment):
    some, more = LAST, LAST.with_(n_attacked=6)
    assert set(experiment.context.stage(some).attacked) < set(experiment.context.stage(more).attacked)
    first = experiment.list_trials(some)[0]
    assert experiment.chunk_key(some, [first]) == experiment.chunk_key(more, [first])
    assert experiment.context.rows(some) != experiment.context.rows(some.with_(max_length=32))


def test_the_worst_clusters_are_shown_by_their_nearest_texts(experiment):
    result = experiment.run(LINEAR)
    worst = max(result.table, key=lambda row: row["target_damage"])["subpopulation"]
    shown = {name.removeprefix("texts:"): list(texts) for name, texts in result.arrays.items() if name.startswith("texts:")}
    assert worst in shown
    assert len(shown) == 3
    stage, texts = experiment.context.stage(LINEAR), experiment.context.dataset(LINEAR).texts
    for name, own in shown.items():
        members = {texts[row] for row in stage.data.splits.aux[stage.partition.aux == stage.partition.names.index(name)]}
        assert len(set(own)) == 3
        assert set(own) <= members


def test_nearest_by_hand():
    space = np.array([[0.0], [10.0], [4.0], [6.0], [5.5]])
    assert nearest(space, np.array([True, True, True, True, False]), 2).tolist() == [2, 3]  # the mean is 5; equal: the first
    assert nearest(space, np.array([False, True, False, False, False]), 2).tolist() == [1]


def test_victims_of_two_encoders_share_no_model(tmp_path, experiment):
    """Both encoders are uncased and read the same tokens: only what the victim is tells their fleets apart."""
    folders = [str(save_bert(tmp_path / name, seed)) for seed, name in enumerate(("first", "second"))]
    cells = [cell_of("tiny_bert_last_layer", encoder=folder, max_length=16, n_seeds=1) for folder in folders]
    pools = [experiment.context.data(cell).pool for cell in cells]
    np.testing.assert_array_equal(pools[0].x, pools[1].x)
    rows = np.arange(40)
    fits = [
        experiment.context.fit(cell, [FleetJob(pool, rows, pool.y[rows])], [0]) for cell, pool in zip(cells, pools, strict=True)
    ]
    first, second = (models[0].state() for models in fits)
    assert any(not np.array_equal(first[name], second[name]) for name in first if name.startswith("weights."))
    again = experiment.context.fit(cells[0], [FleetJob(pools[0], rows, pools[0].y[rows])], [0])
    assert again[0] is fits[0][0]


@pytest.mark.parametrize("change", [{"encoder": "other"}, {"max_length": 32}, {"victim": "tiny_bert_fine_tuned"}])
def test_one_function_says_what_identifies_a_victim(monkeypatch, change):
    """Each of the fields tells two victims apart, in every key: that of clean models, of fleets and of chunks."""
    experiment = Experiment.on(NoStore())
    for kind in (BertLastLayer, BertFineTuned):
        monkeypatch.setattr(kind, "weights_fingerprint", lambda self: "of one file")
    plain = cell_of("tiny_bert_last_layer", n_seeds=1)
    assert experiment.context.victim_identity(plain) == experiment.context.victim_identity(
        plain.with_(encoder="tiny", max_length=64)
    )
    assert experiment.context.victim_identity(plain) != experiment.context.victim_identity(plain.with_(**change))


def test_the_file_of_weights_and_the_device_identify_a_victim(monkeypatch):
    plain, told = cell_of("tiny_bert_last_layer"), iter(["one", "another", "another"])
    monkeypatch.setattr(BertLastLayer, "weights_fingerprint", lambda self: next(told))
    found = [Experiment.on(NoStore(), device=device).context.victim_identity(plain) for device in ("cpu", "cpu", "cuda:0")]
    assert len(set(found)) == 3
