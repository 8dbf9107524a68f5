"""DivideMix: two networks divide the rows for one another into clean and noisy ones, and the labels of noisy rows are ignored.

*Source*: Li, Socher, Hoi 2020, "DivideMix: Learning with Noisy Labels as Semi-supervised Learning", and its released code for
CIFAR-10: after a warm-up, in each epoch a mixture of two Gaussians is fitted to the losses of each network (scaled to [0, 1]; 10
iterations, tolerance .01, variance at least .0005). A row is clean for the other network if its posterior of the component with
the lower mean exceeds .5. Then MixMatch: labels of clean rows are mixed with predictions by this posterior, labels of noisy rows
are the mean prediction of both networks; both are sharpened (T = .5), and rows are mixed in pairs (Beta(4, 4)). The loss is the
cross-entropy on clean rows, plus 25 times the squared error on noisy rows, which rises over 16 epochs, plus a penalty on a mean
prediction far from equal shares of classes.
*Deviations*, reductions to a small scale: the architecture, optimiser and batches are the victim's, with its epochs after the
warm-up, of which there are `warm_up` (10) more; the rise of the squared error is cut off where the epochs end (12 of 16 for the
convolutional network). No augmentation: a row is predicted and mixed once, where the source takes two random crops of it. A batch
of clean rows meets as many noisy rows as there are, up to its own size. The mean of the two networks predicts. Inputs are mixed
as pixels or features in float32. A subpopulation's poison is about one row in a hundred, so that nine of ten rows of the noisy
component are hard clean rows. It was expected that poison is among them by chance only; in fact the small convolutional network
does not fit 1 % of poison in ten classes, and all of it is there. It has no card: success was declared for pictures of digits
with `conv_net` at rate 1, and the damage fell from .47 to .43 only, for .15 of clean accuracy (3 splits of 3 subpopulations).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import softmax

from subpop.defenses.training.loops import Average, LogLoss, losses, stepwise
from subpop.types import Array, BadInput, Bools, Defended, Fit, Knowledge, TrainingSet, content_order
from subpop.types.roles import Trainable, Training

if TYPE_CHECKING:
    from torch import Tensor

WARM_UP, THRESHOLD, TEMPERATURE, BETA, UNLABELLED, RISE = 10, 0.5, 0.5, 4.0, 25.0, 16


def divide_mix(
    train: TrainingSet,
    fit: Fit,
    know: Knowledge,
    *,
    seed: int,
    warm_up: int = WARM_UP,
    threshold: float = THRESHOLD,
    unlabelled: float = UNLABELLED,
) -> Defended:
    """Train two networks of the victim that treat the labels of rows with large losses as unknown. `fit` is not used.

    Parameters
    ----------
    train, fit, know, seed
        See `Defense`.
    warm_up
        Number of epochs of plain training before rows are divided.
    threshold
        Posterior above which a row is clean, above 0 and below 1.
    unlabelled
        Factor of the squared error on noisy rows, at least 0.

    Returns
    -------
    Defended
        The mean of both networks, with the diagnostic `noisy`, the share of rows in the noisy part in the last epoch.

    Raises
    ------
    BadInput
        If the victim is not trained step by step, or a setting is out of range.

    Examples
    --------
    >>> from subpop import DEFENSES, Knowledge, make_victim
    >>> from subpop.testing import gaussian
    >>> toy = gaussian(240, 2, n_poison=24)
    >>> know = Knowledge(training=make_victim("logistic_regression").trainable(seed=0))
    >>> defended = DEFENSES["divide_mix"](toy.train(), toy.fit, know, seed=0, warm_up=2)
    >>> 0 <= defended.diagnostics["noisy"] < 1
    True
    """
    if not (warm_up >= 0 and 0 < threshold < 1 and 0 <= unlabelled < np.inf):
        raise BadInput(
            f"warm_up={warm_up}, threshold={threshold}, unlabelled={unlabelled} of divide_mix: give warm_up >= 0, "
            "0 < threshold < 1 and a finite unlabelled of at least 0"
        )
    recipe = stepwise(know, "divide_mix")
    rows = train[train.ids[content_order(train.x, train.y)]]  # random numbers are drawn in an order of content
    x, y = rows.x, rows.y
    networks = [recipe.begin(rows, member) for member in range(2)]
    generator = np.random.default_rng(seed)
    noisy = 0.0
    for epoch in range(warm_up + recipe.epochs):
        if epoch < warm_up:
            for member, network in enumerate(networks):
                for batch in recipe.batches(rows, epoch, member):
                    network.descend(x[batch], LogLoss(y[batch]))
            continue
        posteriors = [clean_posterior(losses(network, x, y)) for network in networks]
        noisy = float(np.mean([posterior <= threshold for posterior in posteriors]))
        factor = unlabelled * min(1.0, (epoch - warm_up) / RISE)
        for member, network in enumerate(networks):
            division = _Division(rows, posteriors[1 - member], posteriors[1 - member] > threshold)
            _mixed_epoch(recipe, division, (network, networks[1 - member]), epoch, member, factor, generator)
    return Defended(Average([network.model() for network in networks]), diagnostics={"noisy": noisy})


divide_mix.needs = {"training"}  # type: ignore[attr-defined]
divide_mix.exact = False  # type: ignore[attr-defined]  # the steps are stochastic for every victim
divide_mix.configurations = (  # type: ignore[attr-defined]
    {},
    {"unlabelled": 0.0},
    {"unlabelled": 50.0},
    {"unlabelled": 150.0},
    {"warm_up": 5},
    {"warm_up": 20},
    {"threshold": 0.6},
    {"threshold": 0.6, "unlabelled": 0.0},
)


def clean_posterior(loss: Array) -> Array:
    """(n,) posterior of the component with the lower mean, in a mixture of two Gaussians fitted to the losses."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    spread = loss.max() - loss.min()
    if len(loss) < 2 or not spread > 0:
        return np.ones(len(loss))
    scaled = ((loss - loss.min()) / spread)[:, None]
    with warnings.catch_warnings():  # ten iterations, as released, need not converge
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture = GaussianMixture(2, max_iter=10, tol=1e-2, reg_covar=5e-4, random_state=0).fit(scaled)
    return np.asarray(mixture.predict_proba(scaled)[:, mixture.means_.argmin()])


@dataclass(frozen=True, eq=False)
class _Division:
    """Rows, their posteriors of being clean, and which of them are clean."""

    rows: TrainingSet
    posterior: Array
    clean: Bools


def _mixed_epoch(
    recipe: Trainable,
    division: _Division,
    networks: tuple[Training, Training],
    epoch: int,
    member: int,
    factor: float,
    generator: np.random.Generator,
) -> None:
    """One epoch of MixMatch for the first network; the second one only predicts."""
    rows, own = division.rows, networks[0]
    x, one_hot = rows.x, np.eye(rows.n_classes)[rows.y]
    labelled, others = np.flatnonzero(division.clean), np.flatnonzero(~division.clean)
    if not len(labelled):
        return
    waiting = np.zeros(0, np.int64)
    for batch in recipe.batches(rows[rows.ids[labelled]], epoch, member):
        clean = labelled[batch]
        if len(waiting) < len(clean):
            waiting = np.concatenate([waiting, generator.permutation(others)])
        noisy, waiting = waiting[: len(clean)], waiting[len(clean) :]
        own_share = division.posterior[clean][:, None]
        known = _sharpened(own_share * one_hot[clean] + (1 - own_share) * own.proba(x[clean]))
        guessed = [network.proba(x[noisy]) for network in networks] if len(noisy) else [np.zeros((0, rows.n_classes))]
        places = np.concatenate([clean, noisy])
        targets = np.concatenate([known, _sharpened(np.mean(guessed, axis=0))])
        share = generator.beta(BETA, BETA)
        share = max(share, 1 - share)
        pairs = generator.permutation(len(places))
        inputs = share * x[places].astype(np.float32) + (1 - share) * x[places[pairs]].astype(np.float32)
        own.descend(inputs.astype(np.float32), SemiSupervised(share * targets + (1 - share) * targets[pairs], len(clean), factor))


def _sharpened(proba: Array) -> Array:
    powers = proba ** (1 / TEMPERATURE)
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


@dataclass(frozen=True, eq=False)
class SemiSupervised:
    """The loss of MixMatch as a `Loss`, for targets (B, C) of which the first `n_labelled` are labels.

    The log loss of labelled rows, `factor` times the squared error of the others, and the divergence of the mean prediction from
    equal shares.
    """

    targets: Array
    n_labelled: int
    factor: float

    def __call__(self, logits: Tensor) -> Tensor:
        """See `Loss`."""
        import torch

        wanted, n = torch.from_numpy(np.array(self.targets, np.float64)), self.n_labelled
        logs = logits.log_softmax(1)
        total = -(logs[:n] * wanted[:n]).sum(1).mean()
        if len(wanted) > n:
            total = total + self.factor * (logs[n:].exp() - wanted[n:]).square().mean()
        mean = logs.exp().mean(0)
        equal = 1 / logits.shape[1]
        return total + (equal * (equal / mean).log()).sum()

    def gradient(self, logits: Array) -> Array:
        """See `Loss`."""
        wanted, n = self.targets, self.n_labelled
        proba: Array = softmax(logits, axis=1)
        by_proba = np.tile(-1 / (proba.shape[1] * proba.sum(axis=0)), (len(proba), 1))
        if len(wanted) > n:
            by_proba[n:] += 2 * self.factor * (proba[n:] - wanted[n:]) / wanted[n:].size
        gradient: Array = proba * (by_proba - (by_proba * proba).sum(axis=1, keepdims=True))
        gradient[:n] += (proba[:n] * wanted[:n].sum(axis=1, keepdims=True) - wanted[:n]) / n
        return gradient
