"""Co-teaching: two networks, each of which learns from the rows of a batch that the other finds easiest.

*Source*: Han et al. 2018, "Co-teaching: Robust Training of Deep Neural Networks with Extremely Noisy Labels", and its released
code: in each batch, each network passes the floor((1 - R(t)) B) rows with its smallest losses to the other. R(t) rises linearly
from 0 to `rate` within the first 10 epochs. The rate is the known share of noisy labels, by default .2.
*Deviations*: the networks, the optimiser and the epochs are the victim's: where these are fewer than 11, the rise takes all of
them. The released code divides the mean loss by the number of rows again, which Adam does not notice. The final model is the
first network; the release reports both. The rate is a setting, not the known number of poison rows: this defense is told nothing.
Poison of a subpopulation is no noise that is spread at random: once it is common among its neighbours, its losses are small. It
has no card: success was declared for pictures of digits with `conv_net_wide` at rate 1, and the damage rose from .45 to .63, for
.07 of clean accuracy (3 splits of 3 subpopulations).
"""

from __future__ import annotations

import numpy as np

from subpop.defenses.filters import highest
from subpop.defenses.training.loops import LogLoss, losses, stepwise
from subpop.types import BadInput, Defended, Fit, Knowledge, TrainingSet

RATE, GRADUAL = 0.2, 10


def co_teaching(
    train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int, rate: float = RATE, gradual: int = GRADUAL
) -> Defended:
    """Train two networks of the victim, each on the rows with the smallest losses under the other. `fit` and `seed` are not used.

    Parameters
    ----------
    train, fit, know, seed
        See `Defense`.
    rate
        Share of the rows of a batch that is left out in the end, at least 0 and below 1: the expected share of wrong labels.
    gradual
        Number of epochs in which this share rises linearly from 0.

    Returns
    -------
    Defended
        The first network, with the second one as the stage `second` and the diagnostic `left_out`, the final share.

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
    >>> defended = DEFENSES["co_teaching"](toy.train(), toy.fit, know, seed=0)
    >>> sorted(defended.stages)
    ['second']
    """
    if not 0 <= rate < 1 or gradual < 1:
        raise BadInput(f"rate={rate} and gradual={gradual} of co_teaching: give a rate of at least 0 and below 1, gradual >= 1")
    recipe = stepwise(know, "co_teaching")
    x, y = train.x, train.y
    networks = [recipe.begin(train, member) for member in range(2)]
    shares = np.interp(np.arange(recipe.epochs), [0, min(gradual, recipe.epochs) - 1 or 1], [0, rate])
    for epoch, share in enumerate(shares):
        for batch in recipe.batches(train, epoch):
            n_left_out = len(batch) - max(1, int((1 - share) * len(batch)))
            easy = [batch[~highest(losses(own, x[batch], y[batch]), train.ids[batch], n_left_out)] for own in networks]
            for own, taught in zip(networks, reversed(easy), strict=True):
                own.descend(x[taught], LogLoss(y[taught]))
    first, second = (own.model() for own in networks)
    return Defended(first, stages={"second": second}, diagnostics={"left_out": float(shares[-1])})


co_teaching.needs = {"training"}  # type: ignore[attr-defined]
co_teaching.exact = False  # type: ignore[attr-defined]  # the steps are stochastic for every victim
co_teaching.configurations = (  # type: ignore[attr-defined]
    {},
    {"rate": 0.05},
    {"rate": 0.1},
    {"rate": 0.3},
    {"rate": 0.45},
    {"gradual": 5},
    {"gradual": 15},
    {"rate": 0.1, "gradual": 5},
)
