"""Victims trained step by step: the same training as in fleets, gradients of single rows, and orders that follow from content."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn import functional

from subpop.defenses.training.divide_mix import SemiSupervised
from subpop.defenses.training.loops import LogLoss
from subpop.types import FleetJob, Pool, TrainingSet
from subpop.victims import VICTIMS, make_victim
from subpop.victims.batched_jobs import Batches
from subpop.victims.conv_fleet import AdamStep, Task
from subpop.victims.conv_fleet import train as train_fleet
from subpop.victims.conv_net import LEARNING_RATE, PENALTY, ConvNet, initial
from subpop.victims.head_training import KERNEL_PENALTY, starts, with_ones
from subpop.victims.head_training import train as train_heads
from subpop.victims.stepwise import content_keys

SEED = 7


def digits(n=300, n_classes=10, flat=False):
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))[:n]
    x = (data.images[order, None] * 15).astype(np.uint8)
    return (data.data[order] / 16).astype(np.float32) if flat else x, data.target[order].astype(np.int64) % n_classes


def plain(recipe, train, epochs=None):
    """The victim's own training, by steps."""
    network, x, y = recipe.begin(train), train.x, train.y
    for epoch in range(recipe.epochs if epochs is None else epochs):
        for batch in recipe.batches(train, epoch):
            network.descend(x[batch], LogLoss(y[batch]))
    return network


def in_order_of_content(x, y):
    order = np.argsort(content_keys(x), kind="stable")
    return x[order], y[order]


@pytest.mark.parametrize("size", [(8, 8), (9, 11)])
def test_steps_of_a_convolutional_network_are_those_of_the_fleet(size):
    generator = np.random.default_rng(0)
    x, y = generator.integers(0, 256, (70, 3, *size), dtype=np.uint8), generator.integers(0, 3, 70)
    x, y = in_order_of_content(x, y)
    victim = ConvNet(width=4, epochs=3)
    shape = victim.shape_of(x.shape[1:], 3)
    task = Task(Batches.of(content_keys(x), np.arange(70), y, SEED, 3, 32), initial(SEED, shape))
    pixels = torch.from_numpy(np.array(x.transpose(0, 2, 3, 1), order="C"))
    [expected] = train_fleet(pixels, [task], shape, AdamStep(LEARNING_RATE, PENALTY))
    network = plain(victim.trainable(SEED), TrainingSet.of(x, y))
    np.testing.assert_allclose(network._weights.detach().numpy(), expected, atol=2e-4)
    assert np.abs(expected - initial(SEED, shape)).max() > 0.01
    np.testing.assert_allclose(network.model().predict_proba(x), network.proba(x), atol=1e-5)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_steps_of_a_last_layer_are_those_of_the_fleet(n_classes):
    x, y = in_order_of_content(*digits(n_classes=n_classes, flat=True))
    victim = make_victim("last_layer_as_released")
    batches = Batches.of(content_keys(x), np.arange(300), y, SEED, 12, 32)
    [expected] = train_heads(with_ones(x), [batches], starts([SEED], 65, n_classes), victim.recipe)
    network = plain(victim.trainable(SEED), TrainingSet.of(x, y))
    np.testing.assert_allclose(network._head, expected, atol=1e-4)
    np.testing.assert_allclose(network.model().predict_proba(x), network.proba(x), atol=1e-6)


@pytest.mark.parametrize("name", ["logistic_regression", "last_layer"])
@pytest.mark.parametrize("n_classes", [2, 10])
def test_the_objective_of_an_exact_victim_has_the_same_optimum(name, n_classes):
    x, y = digits(900, n_classes, flat=True)
    victim, pool = make_victim(name), Pool(x, y, 600, n_classes)
    [exact] = victim.fit_many([pool.clean_job()], [0])
    train = TrainingSet.of(x[:600].copy(), y[:600])
    network = victim.trainable(SEED).begin(train)
    head = np.hstack([-exact.coef / 2, exact.coef / 2]) if (name, n_classes) == ("last_layer", 2) else exact.coef
    network._head = head.T.copy()
    steps = []
    network._step = lambda gradient: steps.append(gradient + network._objective.shrink(network._head))
    network.descend(train.x, LogLoss(train.y))
    assert np.abs(steps[0]).max() < 1e-7
    model = plain(victim.trainable(SEED), train).model()
    assert type(model) is type(exact)
    assert (model.predict_proba(x[600:]).argmax(1) == exact.predict_proba(x[600:]).argmax(1)).mean() > 0.97


class ByTorch:
    """A linear classifier trained with torch's gradients and its own Adam, an independent way to the same steps."""

    def __init__(self, head, penalty, learning_rate):
        self.weights = torch.from_numpy(head.copy()).requires_grad_()
        self.penalty = penalty
        self.optimiser = torch.optim.Adam([self.weights], learning_rate, eps=1e-7)

    def logits(self, x):
        scores = functional.linear(torch.from_numpy(x.astype(np.float64)), self.weights[:, :-1], self.weights[:, -1])
        return functional.pad(scores, (1, 0)) if scores.shape[1] == 1 else scores

    def descend(self, x, loss):
        self.optimiser.zero_grad()
        (loss(self.logits(x)) + self.penalty(self.weights)).backward()
        self.optimiser.step()

    def descend_clipped(self, x, y, norm, noise):
        total = torch.from_numpy(noise).view_as(self.weights).clone()
        for own, label in zip(x, y, strict=True):
            loss = functional.cross_entropy(self.logits(own[None]), torch.tensor([label]))
            (gradient,) = torch.autograd.grad(loss, self.weights)
            total += gradient * min(1, norm / float(gradient.norm()))
        self.optimiser.zero_grad()
        self.penalty(self.weights).backward()
        self.weights.grad += total / len(x)
        self.optimiser.step()


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize(
    ("name", "penalty"),
    [
        ("logistic_regression", lambda weights: 1 / 200 / 2 * weights.square().sum()),
        ("last_layer", lambda weights: KERNEL_PENALTY * weights[:, :-1].square().sum()),
    ],
)
def test_closed_forms_of_linear_victims_take_the_steps_of_torch(name, penalty, n_classes):
    x, y = digits(200, n_classes, flat=True)
    train, recipe, generator = TrainingSet.of(x, y), make_victim(name).trainable(SEED), np.random.default_rng(1)
    network = recipe.begin(train)
    other = ByTorch(network._head, penalty, recipe.recipe.learning_rate)
    for epoch in range(2):
        for i, batch in enumerate(recipe.batches(train, epoch)):
            weights, targets = generator.random(len(batch)), generator.dirichlet(np.ones(n_classes), len(batch))
            noise = generator.normal(0, 0.1, network.size)
            losses = [LogLoss(y[batch]), LogLoss(y[batch], weights), SemiSupervised(targets, len(batch) // 2, 25.0)]
            for each in (network, other):
                if i % 4 == 3:
                    each.descend_clipped(x[batch], y[batch], 0.5, noise)
                else:
                    each.descend(x[batch], losses[i % 4])
    assert np.abs(network._head - recipe.begin(train)._head).max() > 0.05
    np.testing.assert_allclose(network._head, other.weights.detach().numpy(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["conv_net", "last_layer", "logistic_regression"])
def test_gradients_of_single_rows_are_clipped(name):
    x, y = digits(40, flat=name != "conv_net")
    network = make_victim(name).trainable(SEED).begin(TrainingSet.of(x, y))
    alone = [network.clipped_sum(x[i : i + 1], y[i : i + 1], np.inf) for i in range(40)]
    lengths = np.array([np.linalg.norm(gradient) for gradient in alone])
    norm = float(np.median(lengths))
    assert lengths.min() < norm < lengths.max()
    expected = sum(gradient * min(1.0, norm / length) for gradient, length in zip(alone, lengths, strict=True))
    np.testing.assert_allclose(network.clipped_sum(x, y, norm), expected, rtol=1e-4, atol=1e-5)
    assert all(np.linalg.norm(network.clipped_sum(x[i : i + 1], y[i : i + 1], norm)) <= norm * (1 + 1e-5) for i in range(40))


@pytest.mark.parametrize("name", ["conv_net", "last_layer", "logistic_regression"])
def test_without_a_bound_clipped_steps_are_plain_steps(name):
    x, y = digits(64, flat=name != "conv_net")
    train, recipe = TrainingSet.of(x, y), make_victim(name).trainable(SEED)
    clipped = recipe.begin(train)
    for epoch in range(3):
        for batch in recipe.batches(train, epoch):
            clipped.descend_clipped(x[batch], y[batch], np.inf)
    np.testing.assert_allclose(clipped.proba(x), plain(recipe, train, 3).proba(x), atol=1e-4)


def test_batches_follow_from_content():
    x, y = digits(100)
    train, recipe = TrainingSet.of(x, y), make_victim("conv_net").trainable(SEED)
    visited = np.concatenate(recipe.batches(train, 0))
    assert sorted(visited) == list(range(100))
    assert [len(batch) for batch in recipe.batches(train, 0)] == [32, 32, 32, 4]
    shuffled = np.random.default_rng(1).permutation(100)
    again = np.concatenate(recipe.batches(train[shuffled], 0))
    np.testing.assert_array_equal(shuffled[again], visited)
    keep = np.arange(100) % 3 > 0
    fewer = np.concatenate(recipe.batches(train[keep], 0))
    np.testing.assert_array_equal(np.flatnonzero(keep)[fewer], visited[keep[visited]])
    assert (np.concatenate(recipe.batches(train, 1)) != visited).any()
    assert (np.concatenate(recipe.batches(train, 0, member=1)) != visited).any()


def test_the_same_seed_gives_the_same_bits_and_members_differ():
    x, y = digits(64)
    train, recipe = TrainingSet.of(x, y), make_victim("conv_net").trainable(SEED)
    one, same = plain(recipe, train, 2), plain(recipe, train[np.arange(64)[::-1]], 2)
    np.testing.assert_array_equal(one.proba(x), same.proba(x))
    assert (recipe.begin(train, 1).proba(x) != recipe.begin(train).proba(x)).any()


def test_rows_may_be_averages_of_two_pictures():
    x, y = digits(4)
    network = make_victim("conv_net").trainable(SEED).begin(TrainingSet.of(x, y))
    np.testing.assert_array_equal(network.proba(x.astype(np.float32)), network.proba(x))
    between = network.proba((x[:1].astype(np.float32) + x[1:2]) / 2)
    assert (between != network.proba(x[:1])).any()


def test_only_some_victims_train_by_steps():
    from subpop.defenses.training.loops import TRAINABLE

    assert tuple(sorted(name for name in VICTIMS if hasattr(VICTIMS[name]("cpu", None), "trainable"))) == TRAINABLE


def test_the_seed_of_a_trial_is_that_of_its_victim():
    """A job of the pool, in an order that does not depend on content, starts from the same parameters."""
    x, y = digits(64)
    untrained = ConvNet(width=4).trainable(SEED).begin(TrainingSet.of(x, y))
    [model] = ConvNet(width=4, epochs=1).fit_many([FleetJob(Pool(x, y, 64, 10), np.arange(64), y)], [SEED])
    shape = ConvNet(width=4).shape_of(x.shape[1:], 10)
    np.testing.assert_array_equal(untrained._weights.numpy(), initial(SEED, shape))
    assert model.predict_proba(x).shape == (64, 10)
