"""Hidden states: the right ones, whatever stands beside a row; a file that survives kills, damage and a full disk; their PCA."""

from __future__ import annotations

import copy
import errno
import os
import signal
import subprocess
import sys
from collections import namedtuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_encoders import SIZES, save_bert
from small_networks import one_thread  # noqa: F401

from subpop.features.encoders import HiddenStates, hidden_states, known_states, lengths_of, load_encoder, pca, streamed_pca
from subpop.features.encoders import known as known_module
from subpop.features.encoders import states as states_module
from subpop.runtime.feature_cache import cached_blocks
from subpop.types import BadInput

LENGTHS = [3, 9, 5, 5, 20, 4]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return load_encoder(str(save_bert(tmp_path_factory.mktemp("bert"))))


def rows(lengths=LENGTHS, width=20, seed=0):
    rng = np.random.default_rng(seed)
    tokens = np.zeros((len(lengths), width), np.int64)
    for row, length in zip(tokens, lengths, strict=True):
        row[:length] = [2, *rng.integers(5, SIZES["vocab_size"], length - 2), 3]
    tokens.setflags(write=False)
    return tokens


def theirs(encoder, row):
    """transformers' own input of the last block, of one row without padding."""
    with torch.inference_mode():
        found = encoder.bert()(torch.from_numpy(np.array(row[row > 0]))[None], output_hidden_states=True)
    return found.hidden_states[-2][0].numpy()


# --- what they are ----------------------------------------------------------------------------------------------------


def test_the_number_of_threads_changes_no_bit():
    encoder, found = load_encoder("tiny"), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(hidden_states(encoder, rows([64] * 20 + LENGTHS, 64)).values)
        assert torch.get_num_threads() == threads
    assert np.array_equal(*found)


def test_states_are_the_inputs_of_the_last_block_in_the_order_of_the_rows(encoder):
    tokens = rows()
    found = hidden_states(encoder, tokens)
    assert (len(found), found.hidden, found.lengths.tolist()) == (6, 16, LENGTHS)
    assert (found.values.shape, found.values.dtype) == ((sum(LENGTHS), 16), np.float32)
    for i, row in enumerate(tokens):
        np.testing.assert_allclose(found[i], theirs(encoder, row), atol=1e-5)
    assert not found.values.flags.writeable


def test_neither_padding_nor_other_rows_change_a_bit(encoder):
    tokens = rows()
    every = hidden_states(encoder, tokens)
    alone = [hidden_states(encoder, tokens[i : i + 1, : LENGTHS[i]]) for i in range(6)]
    assert all(np.array_equal(every[i], own[0]) for i, own in enumerate(alone))


def test_batches_of_padded_rows_agree_with_single_ones(encoder, monkeypatch):
    every = hidden_states(encoder, rows())
    monkeypatch.setattr(
        "subpop.features.encoders.states.batches_of", lambda lengths, budget: [np.array([4, 0, 2]), np.array([1, 3, 5])]
    )
    batched = hidden_states(encoder, rows())
    np.testing.assert_allclose(batched.values, every.values, atol=1e-5)


def test_rows_of_a_batch_are_of_about_the_same_length_and_fit_the_budget():
    lengths = np.random.default_rng(0).integers(1, 30, 50)
    batches = list(states_module.batches_of(lengths, 60))
    assert sorted(np.concatenate(batches)) == list(range(50))
    assert all(len(own) == 1 or len(own) * lengths[own].max() <= 60 for own in batches)
    assert max(np.ptp(lengths[own]) for own in batches) < 6
    assert [len(own) for own in states_module.batches_of(lengths, 0)] == [1] * 50


def test_two_bytes_a_number_keep_eight_bits(encoder):
    exact, short = (hidden_states(encoder, rows(), dtype=kind) for kind in ("float32", "bfloat16"))
    assert short.values.itemsize == 2
    for i in range(6):
        np.testing.assert_allclose(short[i], exact[i], rtol=2**-8, atol=0)
        assert np.array_equal(short[i], torch.from_numpy(exact[i].copy()).bfloat16().float().numpy())
    with pytest.raises(BadInput, match="float16"):
        hidden_states(encoder, rows(), dtype="float16")


def test_memory_stays_bounded_and_progress_is_reported(encoder, reported, monkeypatch):
    monkeypatch.setattr("subpop.features.encoders.states.PIECE_BYTES", 4 * 16 * 10)  # ten tokens at a time
    found = hidden_states(encoder, rows())
    assert reported == [(3, 46), (12, 46), (22, 46), (42, 46), (46, 46)]  # rows of 3 | 9 | 5 + 5 | 20 | 4 tokens
    monkeypatch.undo()
    assert np.array_equal(found.values, hidden_states(encoder, rows()).values)


def test_an_encoder_that_gives_no_numbers_is_refused(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr("subpop.features.encoders.blocks.lower_states", lambda *_: torch.full((1, 20, 16), torch.inf))
    with pytest.raises(BadInput, match=r"NaN or infinite states in rows 0\.\.5"):
        hidden_states(encoder, rows(), cache=tmp_path)
    assert not list(tmp_path.glob("states-*"))[1:]  # the lock alone


# --- the file ---------------------------------------------------------------------------------------------------------


def test_a_second_run_maps_what_the_first_one_wrote(encoder, tmp_path, monkeypatch):
    first = hidden_states(encoder, rows(), cache=tmp_path)
    for other in (rows(seed=1), rows()[::-1]):
        hidden_states(encoder, other, cache=tmp_path)
    hidden_states(encoder, rows(), cache=tmp_path, dtype="bfloat16")
    other_weights = copy.copy(encoder)  # with the same vocabulary, so that the tokens are equal
    other_weights.fingerprint = "of other files"
    hidden_states(other_weights, rows(), cache=tmp_path)
    assert len(list(tmp_path.glob("states-*.npy"))) == 5
    monkeypatch.setattr("subpop.features.encoders.blocks.lower_states", lambda *_: pytest.fail("computed although it is cached"))
    again = hidden_states(encoder, rows(), cache=tmp_path)
    assert isinstance(again.values, np.memmap)
    assert np.array_equal(first.values, again.values)


def test_a_damaged_file_is_computed_again(encoder, tmp_path):
    first = np.array(hidden_states(encoder, rows(), cache=tmp_path).values)
    path = next(tmp_path.glob("states-*.npy"))
    for damaged in (path.read_bytes()[:-7], path.read_bytes().replace(b"\x3f", b"\x3e"), b""):
        path.write_bytes(damaged)
        with pytest.warns(UserWarning, match="computed again"):
            assert np.array_equal(hidden_states(encoder, rows(), cache=tmp_path).values, first)


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from subpop.runtime.feature_cache import cached_blocks
def blocks():
    yield np.zeros((2, 3), np.float32)
    os.kill(os.getpid(), signal.SIGKILL)
cached_blocks(Path(sys.argv[1]), "key", (4, 3), np.float32, blocks)
"""


def ones():
    yield from np.split(np.ones((4, 3), np.float32), 2)


def test_a_killed_process_leaves_no_file_that_is_read(tmp_path, recwarn):
    assert subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False).returncode == -signal.SIGKILL
    assert not (tmp_path / "key.npy").exists()
    assert np.array_equal(cached_blocks(tmp_path, "key", (4, 3), np.float32, ones), np.ones((4, 3)))
    assert not recwarn.list


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_and_leaves_no_half_file(tmp_path, monkeypatch, code):
    def full(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BadInput, match=rf"no room for 4\.8e-08 GB in {tmp_path}; free some, or name another folder"):
        cached_blocks(tmp_path, "key", (4, 3), np.float32, ones)
    assert [path.name for path in tmp_path.iterdir()] == ["key.lock"]


def test_a_disk_without_room_is_refused_before_anything_is_computed(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: namedtuple("usage", "total used free")(100, 60, 40))
    never = lambda: pytest.fail("computed")  # noqa: E731
    for folder in (tmp_path, None):
        with pytest.raises(BadInput, match="no room"):
            cached_blocks(folder, "key", (4, 3), np.float32, never)
    assert cached_blocks(tmp_path, "key", (3, 3), np.float32, lambda: [np.ones((3, 3), np.float32)]).sum() == 9


def test_other_errors_of_the_disk_are_not_renamed(tmp_path, monkeypatch):
    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="broken"):
        cached_blocks(tmp_path, "key", (4, 3), np.float32, ones)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([np.ones((3, 3), np.float32)], "blocks of 3 rows in all do not fit an array of 4"),
        ([np.ones((4, 2), np.float32)], "does not fit"),
        ([np.ones((4, 3))], "a block of float64"),
    ],
)
def test_blocks_that_do_not_fit_are_refused(tmp_path, blocks, message):
    with pytest.raises(BadInput, match=message):
        cached_blocks(tmp_path, "key", (4, 3), np.float32, lambda: blocks)
    assert not (tmp_path / "key.npy").exists()


# --- known rows -------------------------------------------------------------------------------------------------------


def test_rows_are_computed_once_however_they_come(encoder, tmp_path, monkeypatch):
    computed: list[int] = []
    lower = states_module._computed

    def counted(encoder, tokens, lengths, device):
        computed.append(len(tokens))
        return lower(encoder, tokens, lengths, device)

    monkeypatch.setattr("subpop.features.encoders.states._computed", counted)
    known, tokens = known_states(encoder, tmp_path), rows()
    assert known.find(tokens[[2, 0, 2]]).tolist() == [0, 1, 0]
    assert known.find(tokens).tolist() == [1, 2, 0, 3, 4, 5]
    assert known.find(tokens[1:4, :9]).tolist() == [2, 0, 3]  # less padding, the same rows
    assert (computed, len(known)) == ([2, 4], 6)
    states, lengths = known.padded(np.array([4, 1]))
    assert lengths.tolist() == [20, 3]
    np.testing.assert_allclose(states[0], theirs(encoder, tokens[4]), atol=1e-5)
    np.testing.assert_allclose(states[1, :3], theirs(encoder, tokens[0]), atol=1e-5)
    assert (states[1, 3:] == 0).all()
    some, every = known.of(tokens[::-1]), hidden_states(encoder, tokens)
    assert (len(some), some.lengths.tolist()) == (6, LENGTHS[::-1])
    backwards = streamed_pca(some, np.arange(6), 2, 20)[::-1]  # adds up in another order
    np.testing.assert_allclose(backwards, streamed_pca(every, np.arange(6)[::-1], 2, 20), rtol=1e-10, atol=1e-10)
    assert known_states(encoder, tmp_path) is known
    assert known_states(encoder, None) is not known
    with pytest.raises(BadInput, match="not all in"):
        known.find(tokens + 100)


def test_processes_that_share_a_cache_folder_compute_no_row_twice(encoder, tmp_path, monkeypatch):
    tokens = rows()
    first = known_module.KnownStates(encoder, tmp_path, "cpu")
    first.find(tokens[:2])
    first.find(tokens[2:5])
    computed: list[int] = []
    lower = states_module._computed
    monkeypatch.setattr(
        "subpop.features.encoders.states._computed",
        lambda e, t, lengths, device: computed.append(len(t)) or lower(e, t, lengths, device),
    )
    other = known_module.KnownStates(encoder, tmp_path, "cpu")
    places = other.find(tokens)
    assert (computed, len(other), len(set(places.tolist()))) == ([1], 6, 6)
    assert other.lengths(places).tolist() == LENGTHS
    every = hidden_states(encoder, tokens)
    for place, own in zip(places, every, strict=True):
        np.testing.assert_array_equal(other.row(int(place)), own)
    assert first.find(tokens[5:]).tolist() == [5]  # what the other computed since
    assert computed[1:] == [6]  # by `hidden_states` without a folder


def test_files_without_a_wanted_row_are_not_opened(encoder, tmp_path, monkeypatch):
    tokens = rows()
    first = known_module.KnownStates(encoder, tmp_path, "cpu")
    first.find(tokens[:2])
    first.find(tokens[2:5])
    opened: list[str] = []

    def counted(encoder, cache, key, *more):
        opened.append(key)
        return states_module.stored_states(encoder, cache, key, *more)

    monkeypatch.setattr("subpop.features.encoders.known.stored_states", counted)
    other = known_module.KnownStates(encoder, tmp_path, "cpu")
    other.find(tokens[:1])
    assert (len(opened), len(other)) == (1, 2)
    other.find(tokens[:2])
    assert len(opened) == 1
    other.find(tokens[4:5])
    assert (len(opened), len(other)) == (2, 5)


@pytest.mark.parametrize("damaged", ["rows-*.npy", "states-*.npy"])
def test_damaged_files_of_known_rows_are_computed_again(encoder, tmp_path, damaged):
    tokens = rows()
    known_module.KnownStates(encoder, tmp_path, "cpu").find(tokens)
    (path,) = tmp_path.glob(damaged)
    path.write_bytes(path.read_bytes()[:-40])
    other = known_module.KnownStates(encoder, tmp_path, "cpu")
    with pytest.warns(UserWarning, match="damaged"):
        places = other.find(tokens)
    np.testing.assert_array_equal(other.row(int(places[3])), hidden_states(encoder, tokens)[3])


# --- principal components ---------------------------------------------------------------------------------------------


def ragged(n: int, hidden: int, longest: int, seed: int = 0) -> tuple[HiddenStates, np.ndarray]:
    """States with a few strong directions, and the same as one dense matrix, zeros behind each end."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, longest + 1, n)
    strong = rng.normal(size=(4, longest, hidden)) * np.array([6, 4, 3, 2])[:, None, None]
    dense = np.einsum("nk,klh->nlh", rng.normal(size=(n, 4)), strong) + rng.normal(size=(n, longest, hidden)) + 5
    dense = dense.astype(np.float32) * (np.arange(longest) < lengths[:, None])[:, :, None]
    values = np.concatenate([own[:length] for own, length in zip(dense, lengths, strict=True)])
    return HiddenStates(values, np.concatenate([[0], np.cumsum(lengths)])), dense.reshape(n, -1)


def by_sklearn(dense, fitted, k):
    from sklearn.decomposition import PCA

    return PCA(k, svd_solver="full").fit(dense[fitted].astype(np.float64)).transform(dense.astype(np.float64))


@pytest.mark.parametrize(("hidden", "narrow"), [(8, 1024), (8, 0), (160, 1024)])
def test_projections_are_those_of_sklearn(monkeypatch, reported, hidden, narrow):
    states, dense = ragged(150, hidden, 12)
    fitted = np.random.default_rng(1).permutation(150)[:90]
    monkeypatch.setattr(pca, "NARROW", narrow)
    monkeypatch.setattr(pca, "MAX_STEPS", 20 if narrow else 8)  # so that a small case is not narrow
    monkeypatch.setattr(pca, "BLOCK_BYTES", 8 * dense.shape[1] * 7)  # seven rows at a time
    found = streamed_pca(states, fitted, 3, 12)
    expected = by_sklearn(dense, fitted, 3)
    signs = np.sign((found * expected).sum(axis=0))
    assert np.abs(found - expected * signs).max() < 1e-5 * np.abs(expected).max()
    assert np.abs(found[fitted].mean(axis=0)).max() < 1e-8 * np.abs(expected).max()
    assert reported[-1][0] <= reported[-1][1]
    assert [done for done, _ in reported] == sorted(done for done, _ in reported)


def test_it_does_not_depend_on_the_seed_or_on_rows_that_are_not_fitted():
    states, _ = ragged(120, 120, 12)
    fitted = np.arange(60)
    found = streamed_pca(states, fitted, 3, 12)
    np.testing.assert_allclose(streamed_pca(states, fitted, 3, 12, seed=5), found, atol=1e-5 * np.abs(found).max())
    some = HiddenStates(states.values[: states.offsets[80]], states.offsets[:81])
    np.testing.assert_allclose(streamed_pca(some, fitted, 3, 12), found[:80], atol=1e-9 * np.abs(found).max())
    np.testing.assert_allclose(streamed_pca(states, fitted, 3, 15), found, atol=1e-5 * np.abs(found).max())


@settings(max_examples=15, deadline=None)
@given(st.integers(3, 12), st.integers(1, 40), st.integers(1, 4), st.integers(0, 1000))
def test_any_small_case_gives_the_variances_of_sklearn(n, hidden, k, seed):
    k = min(k, n - 1, 3 * hidden)
    states, dense = ragged(n, hidden, 3, seed)
    found, expected = streamed_pca(states, np.arange(n), k, 3), by_sklearn(dense, np.arange(n), k)
    np.testing.assert_allclose(found.var(axis=0), expected.var(axis=0), rtol=1e-6, atol=1e-9 * expected.var())


def test_fewer_directions_than_components_are_found_and_no_noise():
    rng = np.random.default_rng(0)
    dense = (rng.normal(size=(40, 2)) @ rng.normal(size=(2, 1600))).astype(np.float32)  # rank 2, wide
    states = HiddenStates(dense.reshape(-1, 160), np.arange(0, 401, 10))
    found = streamed_pca(states, np.arange(40), 5, 10)
    assert (found.std(axis=0)[:2] > 1).all()
    assert np.abs(found[:, 2:]).max() < 1e-4


def test_components_that_do_not_settle_are_told(monkeypatch):
    states, _ = ragged(80, 120, 12)
    monkeypatch.setattr(pca, "MAX_STEPS", 1)
    with pytest.warns(UserWarning, match="after 1 passes"):
        streamed_pca(states, np.arange(80), 6, 12)


def test_bits_of_bfloat16_are_read_as_numbers(encoder):
    states = hidden_states(encoder, rows(), dtype="bfloat16")
    dense = np.zeros((6, 20 * 16))
    for i in range(6):
        dense[i, : states[i].size] = states[i].ravel()
    found, expected = streamed_pca(states, np.arange(6), 2, 20), by_sklearn(dense, np.arange(6), 2)
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-5)


@pytest.mark.parametrize(
    ("fitted", "k", "longest", "message"),
    [
        ([], 2, 12, "0 rows to fit on"),
        ([0, 150], 2, 12, r"not all in 0\.\.149"),
        ([0, 1, 2], 3, 12, "must be between 1 and 2"),
        ([0, 1, 2], 0, 12, "n_components=0"),
        ([0, 1, 2], 1, 5, "more than max_length=5"),
    ],
)
def test_what_cannot_be_projected(fitted, k, longest, message):
    states, _ = ragged(150, 8, 12)
    with pytest.raises(BadInput, match=message):
        streamed_pca(states, np.array(fitted, np.int64), k, longest)


def test_lengths_are_of_real_tokens():
    assert lengths_of(rows()).tolist() == LENGTHS
