"""Text victims: the last block against transformers' own, training against a plain loop, and what must never move."""

from __future__ import annotations

import pickle
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_encoders import BAD, CLS, FILM, GOOD, SEP, SHOUT, save_bert
from small_networks import one_thread  # noqa: F401
from torch.nn import functional

from subpop.datasets.download import MissingData
from subpop.features.encoders import encoder_fingerprint, lengths_of, load_encoder
from subpop.testing import check_victim
from subpop.types import BadInput, FleetJob, Knowledge, Pool, TrainingSet
from subpop.victims import MODELS, make_victim
from subpop.victims.bert_fine_tuned import BertFineTuned
from subpop.victims.bert_last_layer import BertLastLayer
from subpop.victims.text_linear import TextLinear
from subpop.victims.transformer_batches import WIDTH, epoch_batches, length_batches
from subpop.victims.transformer_network import new_head, new_whole

BOTH = [BertLastLayer, BertFineTuned]
KEY_BIAS = "attention.self.key.bias"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(save_bert(tmp_path_factory.mktemp("bert")))


def keyword(n_train=60, total=100, width=20, seed=0):
    """Does a row hold GOOD or BAD, among words that do not matter?"""
    rng = np.random.default_rng(seed)
    y = np.arange(total) % 2
    x = np.zeros((total, width), np.int64)
    for row, label in zip(x, y, strict=True):
        length = rng.integers(4, width + 1)
        row[:length] = [CLS, *rng.integers(FILM, SHOUT + 1, length - 2), SEP]
        row[rng.integers(1, length - 1)] = GOOD if label else BAD
    return Pool(x, y, n_train, 2)


def victim(kind, folder, **options):
    return kind(folder, **{"max_length": 20, "epochs": 2, "learning_rate": 1e-3, **options})


def fit(kind, folder, job, seed=0, **options):
    return victim(kind, folder, **options).fit_many([job], [seed])[0]


def weights(model):
    return {name: value for name, value in model.state().items() if name.startswith("weights.")}


def same(a, b):
    ours, theirs = weights(a), weights(b)
    return ours.keys() == theirs.keys() and all(np.array_equal(value, theirs[name]) for name, value in ours.items())


def accuracy(model, pool, rows=slice(None)):
    return float((model.predict_proba(pool.x[rows]).argmax(1) == pool.y[rows]).mean())


# --- the last block ---------------------------------------------------------------------------------------------------


def test_the_last_block_is_that_of_transformers_in_value_and_gradient(folder):
    bert = load_encoder(folder).bert()
    head, rng = new_head(bert, 3, 1).requires_grad_(True), torch.Generator().manual_seed(0)
    states, lengths = torch.randn(5, 9, 16, generator=rng), torch.tensor([9, 4, 1, 9, 6])
    logits = head(states, lengths)
    functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0, 1])).backward()
    own = {name: value.grad for name, value in head.named_parameters()}
    head.zero_grad()
    mask = torch.zeros(5, 1, 1, 9).masked_fill(torch.arange(9)[None, None, None] >= lengths[:, None, None, None], -1e9)
    found = head.block(states, attention_mask=mask)
    theirs = head.classifier(head.pooler(found if isinstance(found, torch.Tensor) else found[0]))
    np.testing.assert_allclose(logits.detach(), theirs.detach(), atol=1e-5)
    functional.cross_entropy(theirs, torch.tensor([0, 1, 2, 0, 1])).backward()
    for name, value in head.named_parameters():
        gradient = torch.zeros_like(value) if own[name] is None else own[name]
        np.testing.assert_allclose(gradient, value.grad, atol=1e-5, err_msg=name)
    assert own[f"block.{KEY_BIAS}"] is None  # and theirs is zero but for rounding


def test_values_behind_the_end_of_a_row_do_not_count(folder):
    head, states = new_head(load_encoder(folder).bert(), 2, 0), torch.randn(2, 7, 16)
    lengths, other = torch.tensor([7, 3]), states.clone()
    other[1, 3:] = 1e3
    with torch.inference_mode():
        assert torch.equal(head(states, lengths), head(other, lengths))
        np.testing.assert_allclose(head(states, lengths)[1:], head(states[1:, :3], lengths[1:]), atol=1e-5)


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BOTH)
def test_training_follows_a_plain_loop_of_transformers(folder, kind):
    pool, bert = keyword(), load_encoder(folder).bert()
    ours = fit(kind, folder, pool.clean_job(), 4, batch_size=7, learning_rate=1e-3)
    theirs = new_whole(bert, 2, 4)
    network = type(bert)(bert.config).eval()
    network.embeddings, network.pooler = theirs.embeddings, theirs.head.pooler
    network.encoder.layer = torch.nn.ModuleList([*theirs.blocks, theirs.head.block])
    trained = [*theirs.head.block.parameters(), *theirs.classifier.parameters()]
    trained = list(theirs.parameters()) if kind is BertFineTuned else trained
    for parameter in trained:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(trained, 1e-3)
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 18)  # 2 epochs of 9 batches
    for batches in epoch_batches(np.arange(60), lengths_of(pool.x[:60]), 4, 2, 7):
        for batch in batches:
            tokens = torch.tensor(pool.x[batch])
            pooled = network(tokens, (tokens > 0).long()).pooler_output
            optimizer.zero_grad()
            functional.cross_entropy(theirs.classifier(pooled), torch.tensor(pool.y[batch])).backward()
            optimizer.step()
            falling.step()
    found = weights(ours)
    prefix = "head." if kind is BertLastLayer else ""
    for name, value in theirs.named_parameters():
        own = found.get(f"weights.{name.removeprefix(prefix)}")
        assert (own is None) == (kind is BertLastLayer and not name.startswith(("head.block", "head.classifier"))), name
        if own is not None and not name.endswith(KEY_BIAS):  # without effect: its gradient is rounding
            np.testing.assert_allclose(own, value.detach(), atol=2e-5, err_msg=name)


@pytest.mark.parametrize("name", ["saved", "tiny"])
def test_cached_and_uncached_training_give_the_same_weights(folder, name, tmp_path):
    pool, encoder = keyword(), folder if name == "saved" else "tiny"
    cached = fit(BertLastLayer, encoder, pool.clean_job(), cache=tmp_path)
    uncached = fit(BertLastLayer, encoder, pool.clean_job(), cached=False)
    for each, value in weights(cached).items():
        np.testing.assert_allclose(value, weights(uncached)[each], atol=1e-5, err_msg=each)
    assert len(list(tmp_path.glob("states-*.npy"))) == 1
    assert same(cached, fit(BertLastLayer, encoder, pool.clean_job()))  # a file in the cache or a temporary one


@pytest.mark.parametrize("kind", BOTH)
def test_frozen_parameters_never_move_and_others_do(folder, kind):
    bert = load_encoder(folder).bert()
    before = {name: value.clone() for name, value in bert.named_parameters()}
    model = fit(kind, folder, keyword().clean_job())
    assert all(torch.equal(value, before[name]) for name, value in bert.named_parameters())
    assert not any(value.requires_grad for value in bert.parameters())
    network = model._network
    head = network if kind is BertLastLayer else network.head
    moved = {name for name, value in head.pooler.named_parameters() if not torch.equal(value, before[f"pooler.{name}"])}
    assert moved == (set() if kind is BertLastLayer else {"dense.weight", "dense.bias"})
    block = {name: torch.equal(value, before[f"encoder.layer.2.{name}"]) for name, value in head.block.named_parameters()}
    assert {name for name, still in block.items() if still} == {KEY_BIAS}
    if kind is BertFineTuned:
        for i, lower in enumerate(network.blocks):
            assert not any(torch.equal(v, before[f"encoder.layer.{i}.{name}"]) for name, v in lower.named_parameters())
    assert not any(value.requires_grad for value in network.parameters())


@pytest.mark.parametrize("kind", BOTH)
def test_clean_and_unpoisoned_victims_are_the_same_bits(folder, kind):
    pool = keyword()
    n, shuffle = pool.n_train, np.random.default_rng(0).permutation(pool.n_train)
    clean = fit(kind, folder, pool.clean_job(), 3)
    none = np.zeros(0, np.int64)  # alpha = 0: no row of poison
    assert same(clean, fit(kind, folder, FleetJob(pool, np.r_[np.arange(n), none], np.r_[pool.y[:n], none]), 3))
    assert same(clean, fit(kind, folder, FleetJob(pool, shuffle, pool.y[shuffle]), 3))
    weightless = FleetJob(pool, np.r_[np.arange(n), 70], np.r_[pool.y[:n], 1], np.r_[np.ones(n), 0])
    poisoned = FleetJob(pool, np.r_[np.arange(n), 70, 71], np.r_[pool.y[:n], 1, 0])
    fleet = victim(kind, folder).fit_many([poisoned, weightless], [3, 3])
    assert same(clean, fleet[1])
    assert not same(clean, fleet[0])
    assert not same(clean, fit(kind, folder, pool.clean_job(), 4))


@pytest.mark.parametrize("name", ["tiny_bert_last_layer", "tiny_bert_fine_tuned"])
def test_same_jobs_and_seeds_give_the_same_bits_however_many_threads(name):
    """A run of several processes trains with one thread in each; what is left of it when it resumes, in one process."""
    pool, found = keyword(150, 200, 64), []
    jobs = [pool.clean_job(), FleetJob(pool, np.arange(140), pool.y[:140])]
    for threads in (1, 2):
        torch.set_num_threads(threads)
        own = make_victim(name)
        own.epochs = 1
        found.append(own.fit_many(jobs, [0, 1]))
        assert torch.get_num_threads() == threads
    assert all(same(a, b) for a, b in zip(*found, strict=True))
    assert not same(*found[0])


@pytest.mark.parametrize("kind", BOTH)
def test_it_learns_a_keyword_and_nothing_from_shuffled_labels(folder, kind):
    pool = keyword(120, 240)
    shuffled = FleetJob(pool, np.arange(120), np.random.default_rng(0).permutation(pool.y[:120]))
    models = victim(kind, folder, epochs=8, learning_rate=5e-3).fit_many([pool.clean_job(), shuffled], [0, 0])
    assert accuracy(models[0], pool, slice(120, None)) > 0.9
    assert accuracy(models[1], pool, slice(120, None)) < 0.75


@pytest.mark.parametrize("kind", BOTH)
def test_they_keep_the_contract_of_victims(folder, kind):
    results = check_victim(victim(kind, folder, epochs=1, learning_rate=1e-4), keyword(48, 60, 12))
    assert {result.name: result.message for result in results if result.status != "ok"} == {}


def test_rows_outside_the_pool_count_and_are_told_apart(folder):
    pool = keyword()
    rows, y = np.r_[:60, 100, 101], np.r_[pool.y[:60], 1, 1]
    inside = FleetJob(pool, np.r_[:60, 80, 82], y)
    first, second = (FleetJob(pool, rows, y, extra_x=pool.x[chosen].copy()) for chosen in ([80, 82], [84, 86]))
    once, other, alike = victim(BertLastLayer, folder).fit_many([first, second, inside], [0, 0, 0])
    assert not same(once, other)
    assert not same(once, alike)  # another row number is another place in the batch order
    assert same(once, fit(BertLastLayer, folder, first))


# --- batches ----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 80), min_size=1, max_size=60), st.integers(1, 9), st.integers(0, 99))
def test_batches_hold_every_row_once_and_rows_of_like_length(lengths, size, seed):
    lengths = np.array(lengths)
    order = np.random.default_rng(seed).permutation(len(lengths))
    batches = length_batches(order, lengths, size)
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    assert len(batches) == -(-len(lengths) // size)
    assert sorted(map(len, batches))[1:] == [size] * (len(batches) - 1)
    mixed = sum(len(set(lengths[own] // WIDTH)) > 1 for own in batches)
    assert mixed <= len(set(lengths // WIDTH))


def test_batches_stand_where_their_rows_stand():
    order, lengths = np.arange(8), np.array([5, 40, 5, 40, 40, 5, 40, 5])
    assert [own.tolist() for own in length_batches(order, lengths, 2)] == [[0, 2], [1, 3], [4, 6], [5, 7]]


def test_a_row_that_joins_leaves_other_lengths_alone():
    lengths = np.where(np.arange(160) < 80, 10, 30)  # ten full batches of 8 each
    more = np.append(lengths, 10)
    for plain, joined in zip(
        epoch_batches(np.arange(160), lengths, 5, 2, 8), epoch_batches(np.arange(161), more, 5, 2, 8), strict=True
    ):
        long = [[own.tolist() for own in each if lengths[own[0] % 160] == 30] for each in (plain, joined)]
        assert long[0] == long[1]
        assert [own.tolist() for own in plain] != [own.tolist() for own in joined]


# --- models -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BOTH)
def test_models_are_stored_and_travel(folder, kind, tmp_path):
    pool = keyword()
    model = fit(kind, folder, pool.clean_job(), cache=tmp_path)
    state = model.state()
    assert all(value.dtype.kind in "fU" for value in state.values())
    for again in (type(model).from_state(state), pickle.loads(pickle.dumps(model))):
        assert np.array_equal(again.predict_proba(pool.x), model.predict_proba(pool.x))
        assert again.origin == model.origin
    proba = model.predict_proba(pool.x)
    logits = model.features(pool.x) @ model._network.classifier.weight.numpy().T + model._network.classifier.bias.numpy()
    np.testing.assert_allclose(proba, np.exp(logits) / np.exp(logits).sum(1, keepdims=True), atol=1e-5)
    np.testing.assert_allclose(model.predict_proba(pool.x[7:8, : (pool.x[7] > 0).sum()]), proba[7:8], atol=1e-5)
    assert model.predict_proba(pool.x[:0]).shape == (0, 2)


def test_a_model_of_another_encoder_is_not_restored(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "bert")
    model = fit(BertLastLayer, str(copy), keyword().clean_job(), epochs=1)
    state = model.state()
    save_bert(copy, seed=1)
    with pytest.raises(BadInput, match="not those that this model was trained on"):
        type(model).from_state(state)


def test_defenses_work_on_them(folder):
    from subpop.defenses import DEFENSES

    pool = keyword(80, 120)
    y = pool.y.copy()
    y[:6] = 1 - y[:6]
    train, own = TrainingSet.of(pool.x[:80], y[:80]), victim(BertLastLayer, folder, epochs=1)

    def trained(t):
        return own.fit_many([FleetJob(pool, t.ids, t.y)], [0])[0]

    for name in ("trim", "sever", "activation_clustering", "spectral_signatures"):
        found = DEFENSES[name](train, trained, Knowledge(n_poison=6), seed=0)
        assert found.keep.shape == (80,)
        assert found.keep.sum() == 74 or name != "trim"
        assert same(found.model, trained(train[found.keep])), name


def test_their_names_make_them_and_say_what_restores_them():
    encoders = {"bert": ("bert-base-uncased", 256), "minilm": ("all-MiniLM-L6-v2", 128), "tiny_bert": ("tiny", 64)}
    for start, (encoder, length) in encoders.items():
        for end, kind in (("last_layer", BertLastLayer), ("fine_tuned", BertFineTuned)):
            made = make_victim(f"{start}_{end}")
            assert isinstance(made, kind)
            assert (made.encoder, made.max_length, made.exact) == (encoder, length, False)
            assert hasattr(MODELS[f"{start}_{end}"], "from_state")
    assert make_victim("tiny_bert_last_layer").weights_fingerprint() == encoder_fingerprint("tiny")


# --- text_linear ------------------------------------------------------------------------------------------------------


def test_text_linear_is_logistic_regression_with_a_penalised_intercept():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 6)).astype(np.float32)
    pool = Pool(x, (x[:, 0] + rng.normal(size=80) > 0).astype(np.int64), 60, 2)
    model = TextLinear().fit_many([pool.clean_job()], [0])[0]
    ones = np.column_stack([x, np.ones(80)])
    theirs = LogisticRegression(C=1, fit_intercept=False, tol=1e-10, max_iter=1000).fit(ones[:60], pool.y[:60])
    np.testing.assert_allclose(model.predict_proba(x), theirs.predict_proba(ones), atol=1e-5)
    with pytest.raises(BadInput, match=r"takes pooled features, not int64 \(100, 20\)"):
        TextLinear().fit_many([keyword().clean_job()], [0])
    assert TextLinear().fit_many([], []) == []
    assert isinstance(make_victim("text_linear"), TextLinear)


# --- bad input --------------------------------------------------------------------------------------------------------


def other_pool(**changes):
    pool = keyword()
    x = pool.x.copy()
    for (row, column), value in changes.pop("at", {}).items():
        x[row, column] = value
    return Pool(changes.pop("x", x), pool.y, 60, 2)


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"x": np.zeros((100, 5), np.float32)}, {}, "inputs are float32 .* takes .* int64 tokens"),
        ({"at": {(3, 1): 500}}, {}, r"tokens 0\.\.500 are not all in 0\.\.11"),
        ({"at": {(3, 0): 0}}, {}, "pad at the end only"),
        ({"x": np.full((100, 30), 5)}, {}, "rows of up to 30 tokens; .* has 20 positions"),
        ({}, {"max_length": 21}, "max_length=21"),
        ({}, {"learning_rate": -1.0}, "cannot train"),
        ({}, {"batch_size": 0}, "cannot train"),
        ({}, {"learning_rate": float("inf")}, "diverged at learning_rate=inf"),
        ({}, {"device": "tpu"}, "device='tpu' is unknown"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(folder, kind, changes, options, message):
    with pytest.raises(BadInput, match=message):
        fit(kind, folder, other_pool(**changes).clean_job(), **options)


def test_an_encoder_that_is_not_on_disk_is_missing_data(tmp_path):
    for told in (BertLastLayer(weights_root=tmp_path).weights_fingerprint, BertFineTuned(weights_root=tmp_path).origin.load):
        with pytest.raises(MissingData, match="hf download google-bert/bert-base-uncased"):
            told()
