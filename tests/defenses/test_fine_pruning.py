"""Fine-Pruning on networks small enough to know which channel does what."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subpop.defenses.fine_pruning import fine_pruning, fine_pruning_as_released, shifted, zero_candidates
from subpop.types import BadInput, Knowledge, TrainingSet

DEFENSES = [fine_pruning, fine_pruning_as_released]
UNKNOWN = 2  # the class of a row for which no channel speaks


class Net:
    """Channel i is relu of input i, one position; `readout` (c, 3) turns channels into votes; no vote means class 2."""

    def __init__(self, readout, keep=None, log=None, tuned_on=None):
        self.readout = np.asarray(readout, np.float64)
        self.keep = np.ones(len(self.readout), bool) if keep is None else keep
        self.log = {"predictions": 0, "tunings": []} if log is None else log
        self.tuned_on = tuned_on

    def channel_activations(self, x):
        return (np.maximum(x, 0) * self.keep).astype(np.float32)

    def channel_zeros(self, x):
        return (self.channel_activations(x) == 0).astype(np.float32)

    def predict_proba(self, x):
        self.log["predictions"] += 1
        votes = self.channel_activations(x) @ self.readout + np.eye(3)[UNKNOWN] * 1e-3
        proba = np.exp(votes - votes.max(axis=1, keepdims=True))
        return (proba / proba.sum(axis=1, keepdims=True)).astype(np.float32)

    def features(self, x):
        return self.channel_activations(x)

    def pruned(self, keep):
        return type(self)(self.readout, self.keep & keep, self.log)

    def fine_tuned(self, train, **how):
        self.log["tunings"].append(how)
        return type(self)(self.readout, self.keep, self.log, tuned_on=train)


def votes(*classes):
    return np.eye(3)[list(classes)]


def rows(*specification):
    """Rows by (channel, activation, label, count), each active in one channel; the number of channels is 8."""
    x, y = [], []
    for channel, activation, label, count in specification:
        x += [np.eye(8)[channel] * activation] * count
        y += [label] * count
    return np.array(x, np.float32), np.array(y)


def defend(defense, net, x, y, seed=0):
    train = TrainingSet.of(np.zeros((3, x.shape[1]), np.float32), np.zeros(3, int))
    asked = []

    def fit(given_rows):
        asked.append(given_rows)
        return net

    found = defense(train, fit, Knowledge(clean_holdout=TrainingSet.of(x, y)), seed=seed)
    assert asked == [train]
    return found


def gone(found):
    return np.flatnonzero(~found.stages["pruned"].keep).tolist()


def accuracy(model, x, y):
    return (model.predict_proba(x).argmax(axis=1) == y).mean()


# Channels 2 and 5 carry the attack: they never fire on clean rows and outvote channel 0, which knows the target's class.
BACKDOOR = votes(0, 1, 1, 0, 1, 1, 0, 1) * np.array([1, 1, 50, 1, 1, 50, 1, 1])[:, None]
CLEAN = rows((0, 3, 0, 20), (1, 4, 1, 20), (3, 1, 0, 10), (4, 2, 1, 10), (6, 5, 0, 20), (7, 6, 1, 20))


def target_rows(channels, n=12):
    x = np.zeros((n, 8), np.float32)
    x[:, [0, *channels]] = 1.0
    return x, np.zeros(n, int)


def test_prunes_exactly_the_channels_that_sleep_on_clean_rows():
    x, y = target_rows([2, 5])
    found = defend(fine_pruning, Net(BACKDOOR), *CLEAN)
    assert gone(found) == [2, 5]
    assert accuracy(found.stages["attacked"], x, y) == 0
    assert accuracy(found.stages["pruned"], x, y) == accuracy(found.model, x, y) == 1
    assert accuracy(found.stages["pruned"], *CLEAN) == 1
    assert found.diagnostics == {"n_pruned": 2.0, "holdout_rows": 100.0}
    assert found.keep is None


def test_released_order_prunes_others():
    """Zeros: .8 .8 1 .9 .9 1 .8 .8, cut-off .6, so all eight are candidates. Looked up in the shrinking layer, the first is
    channel 0, without which a fifth of the clean rows has no vote: pruning stops there, past the tolerance."""
    found = defend(fine_pruning_as_released, Net(BACKDOOR), *CLEAN)
    assert gone(found) == [0]
    assert accuracy(found.stages["pruned"], *CLEAN) == pytest.approx(0.8)
    x, y = target_rows([2, 5])
    assert accuracy(found.model, x, y) == 0


def test_released_runs_past_the_tolerance_and_skips_every_other_candidate():
    """Channels 0-5 decide 3, 0, 1, 0, 1, 7 of 100 rows: 0, 2, 4 go and cost 5; 1, 3 and 5 are stepped over."""
    x, y = rows((0, 1, 0, 3), (2, 1, 0, 1), (4, 1, 0, 1), (5, 1, 0, 7), (6, 1, 0, 44), (7, 1, 1, 44))
    net = Net(votes(0, 0, 0, 0, 0, 0, 0, 1))
    assert gone(defend(fine_pruning_as_released, net, x, y)) == [0, 2, 4]
    # By activation: the sleeping 1 and 3, then 2 and 4 (one row each); 0 would make it five.
    assert gone(defend(fine_pruning, net, x, y)) == [1, 2, 3, 4]


def test_pruning_does_not_help_if_the_attack_uses_active_channels():
    """Channel 7 is the busiest on clean rows and also carries the attack: class 1's own evidence outvotes the target's."""
    strong = votes(0, 1, 1, 0, 1, 1, 0, 1) * np.array([1, 1, 1, 1, 1, 1, 1, 50])[:, None]
    x, y = target_rows([7])
    found = defend(fine_pruning, Net(strong), *CLEAN)
    assert 7 not in gone(found)
    assert accuracy(found.stages["attacked"], x, y) == accuracy(found.model, x, y) == 0


@pytest.mark.parametrize(("n_rows", "allowed"), [(24, 0), (25, 1), (49, 1), (50, 2), (75, 3), (100, 4), (174, 6), (175, 7)])
def test_stops_before_more_than_four_points_are_lost(n_rows, allowed):
    """Pruned one after another, channels 1 to 7 cost a row each until the eighth would take the rest."""
    single = [(channel, 0.01 * channel, 0, 1) for channel in range(1, 8)]
    x, y = rows(*single, (0, 9, 1, n_rows - 7))
    net = Net(votes(1, 0, 0, 0, 0, 0, 0, 0))
    found = defend(fine_pruning, net, x, y)
    assert gone(found) == list(range(1, allowed + 1))
    released = defend(fine_pruning_as_released, Net(votes(0, 0, 0, 0, 0, 0, 0, 1)), x[:, ::-1].copy(), y)
    lost = 1 - accuracy(released.stages["pruned"], x[:, ::-1], y)
    assert lost * n_rows == pytest.approx(min(allowed + 1, 4))  # of 0-6 only 0, 2, 4, 6 can go


def test_accuracy_that_comes_back_does_not_hide_an_earlier_fall():
    """Channel 1 costs a tenth; 2 would give it back (its votes are wrong), but nobody looks past the first fall."""
    x, y = rows((1, 0.1, 0, 10), (2, 5, 0, 10), (0, 9, 1, 80))
    net = Net(votes(1, 0, 1, 0, 0, 0, 0, 0))
    assert gone(defend(fine_pruning, net, x, y)) == [3, 4, 5, 6, 7]


def test_equal_activations_go_by_index():
    x, y = rows((5, 1, 0, 2), (3, 1, 0, 2), (1, 1, 0, 2), (0, 9, 1, 94))
    assert gone(defend(fine_pruning, Net(votes(1, 0, 0, 0, 0, 0, 0, 0)), x, y)) == [1, 2, 3, 4, 6, 7]


def one_by_one(net, x, y):
    """Fine-Pruning's sequence, evaluated in full."""
    keep = np.ones(len(net.readout), bool)
    before = accuracy(net, x, y)
    for channel in np.argsort(net.channel_activations(x).astype(np.float64).mean(axis=0), kind="stable")[:-1]:
        following = keep & (np.arange(len(keep)) != channel)
        if before - accuracy(net.pruned(following), x, y) > 0.04 + 1e-9:
            break
        keep = following
    return np.flatnonzero(~keep).tolist()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(20, 80), st.floats(0, 1))
def test_agrees_with_evaluating_every_step(seed, n_rows, sleeping):
    generator = np.random.default_rng(seed)
    x = generator.exponential(1, (n_rows, 10)) * (generator.random((n_rows, 10)) < 0.3)
    x = (x * (generator.random(10) > sleeping)).astype(np.float32)
    readout = generator.standard_normal((10, 3))
    y = Net(readout).predict_proba(x + generator.normal(0, 0.2, x.shape).astype(np.float32)).argmax(axis=1)
    net = Net(readout)
    found = defend(fine_pruning, net, x, y)
    silent = int((x <= 0).all(axis=0).sum())
    assert gone(found) == one_by_one(Net(readout), x, y)
    assert net.log["predictions"] <= 2 + max(0, found.diagnostics["n_pruned"] - min(silent, 9))


def test_a_mean_of_zero_is_not_sleep_where_activations_have_signs():
    """Channel 0 has positions +1 and -1: its mean is 0, and class 0 hangs on it."""

    class Signed(Net):
        def channel_activations(self, x):
            return super().channel_activations(x) * np.array([0, -1, 1, 1, 1, 1, 1, 1])

        def predict_proba(self, x):
            return Net(self.readout, self.keep, self.log).predict_proba(x)

    x, y = rows((0, 1, 0, 50), (1, 1, 1, 1), (2, 1, 1, 49))
    found = defend(fine_pruning, Signed(votes(0, 1, 1, 0, 0, 0, 0, 0)), x, y)
    assert gone(found) == [1]  # the most negative goes first and costs one row; 0 is next


@pytest.mark.parametrize("defense", DEFENSES)
def test_at_least_one_channel_is_left(defense):
    x, y = np.zeros((30, 8), np.float32), np.full(30, UNKNOWN)
    found = defend(defense, Net(BACKDOOR), x, y)
    assert found.stages["pruned"].keep.sum() >= 1
    if defense is fine_pruning:
        assert gone(found) == list(range(7))


def test_candidates_by_hand():
    assert zero_candidates(np.array([0, 1, 0.5, 0.7])).tolist() == [1, 3]  # .55 + .364 is above .6
    assert zero_candidates(np.array([0, 0, 0, 0.4])).tolist() == [3]  # .1 + .1732
    assert zero_candidates(np.array([0.6, 0.59, 1, 1])).tolist() == [0, 2, 3]
    assert zero_candidates(np.full(3, 0.25)).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("candidates", "n_channels", "expected"),
    [
        ([0, 1, 2, 3], 8, [0, 2, 4, 6]),
        ([0, 1, 2, 3, 4, 5, 6, 7], 8, [0, 2, 4, 6]),  # the fifth number is 4; four channels are left
        ([1, 2, 5], 6, [1, 3]),
        ([3, 4], 10, [3, 5]),
        ([1, 4, 6], 10, [1, 5, 8]),
        ([], 4, []),
    ],
)
def test_numbers_shift_with_each_deletion(candidates, n_channels, expected):
    assert shifted(candidates, n_channels) == expected


@settings(max_examples=50, deadline=None)
@given(st.sets(st.integers(0, 30)), st.integers(1, 31))
def test_shift_equals_deleting_from_an_array(candidates, n_channels):
    """A candidate is number i of what is left; the i-th channel left is i plus the channels gone at or below it."""
    layer, expected = np.arange(n_channels), []
    for candidate in sorted(candidates):
        if candidate >= len(layer):
            break
        expected.append(int(layer[candidate]))
        layer = np.delete(layer, candidate)
    found = shifted(sorted(candidates), n_channels)
    assert found == expected
    assert all(channel == candidate + step for step, (candidate, channel) in enumerate(zip(sorted(candidates), found)))  # noqa: B905


@pytest.mark.parametrize("defense", DEFENSES)
def test_fine_tunes_the_pruned_network_on_the_holdout(defense):
    net = Net(BACKDOOR)
    found = defend(defense, net, *CLEAN, seed=17)
    assert net.log["tunings"] == [{"epochs": 2, "learning_rate": 1e-4, "batch_size": 32, "seed": 17}]
    np.testing.assert_array_equal(found.model.tuned_on.x, CLEAN[0])
    np.testing.assert_array_equal(found.model.keep, found.stages["pruned"].keep)
    assert found.stages["attacked"] is net


@pytest.mark.parametrize("defense", DEFENSES)
@pytest.mark.parametrize("holdout", [None, TrainingSet.of(np.zeros((0, 8), np.float32), np.zeros(0, int))])
def test_needs_clean_rows_before_anything_is_trained(defense, holdout):
    def fit(train):
        raise AssertionError("nothing is to be trained")

    train = TrainingSet.of(np.zeros((3, 8), np.float32), np.zeros(3, int))
    with pytest.raises(BadInput, match=f"{defense.__name__} needs clean_holdout"):
        defense(train, fit, Knowledge(clean_holdout=holdout), seed=0)


@pytest.mark.parametrize("defense", DEFENSES)
def test_says_what_a_model_lacks(defense):
    class Linear:
        channel_zeros = None

        def predict_proba(self, x):
            return np.ones((len(x), 1), np.float32)

        def pruned(self, keep):
            return self

    with pytest.raises(BadInput, match=r"Linear, which has no channel_activations, channel_zeros, fine_tuned: choose"):
        defend(defense, Linear(), *CLEAN)


def test_needs():
    assert all(defense.needs == {"clean_holdout"} for defense in DEFENSES)
