"""Gradient shaping: no row's gradient may be longer than a bound, and noise hides which rows there were.

*Source*: Hong et al. 2020, "On the Effectiveness of Mitigating Data Poisoning Attacks with Gradient Shaping" (abstract and
released scripts): DP-SGD, which scales each row's gradient down to a largest norm and adds Gaussian noise to the sum of a batch.
The scripts try the norms .1, 1, 2, 4, 8 and the deviations of noise 0, .00001, .001, .1; they name no default. Here the norm
is 1, `gradient_clipping` adds no noise and `gradient_shaping` adds .1.
*Deviations*: the victim's optimiser, Adam, takes the shaped gradients, not plain descent; the victim's penalty is not clipped.
Adam divides by the size of the gradients, so a small norm does not slow training down: it makes all rows count alike. A privacy
budget is not computed. Clipping bounds the influence of one row, not that of as many rows as a subpopulation has.
"""

from __future__ import annotations

import math

import numpy as np

from subpop.defenses.training.loops import stepwise
from subpop.types import BadInput, Defended, Fit, Knowledge, TrainingSet

NORM, NOISE = 1.0, 0.1


def gradient_clipping(train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int, norm: float = NORM) -> Defended:
    """Train the victim by its own recipe, with the gradient of each row scaled down to a largest norm. `fit` is not used.

    Parameters
    ----------
    train, fit, know, seed
        See `Defense`.
    norm
        Largest Euclidean norm of the gradient of one row's log loss.

    Returns
    -------
    Defended
        The model.

    Raises
    ------
    BadInput
        If the victim is not trained step by step, or `norm` is not a finite number above 0.

    Examples
    --------
    >>> from subpop import DEFENSES, Knowledge, make_victim
    >>> from subpop.testing import gaussian
    >>> toy = gaussian(240, 2, n_poison=24)
    >>> know = Knowledge(training=make_victim("logistic_regression").trainable(seed=0))
    >>> defended = DEFENSES["gradient_clipping"](toy.train(), toy.fit, know, seed=0)
    >>> defended.model.predict_proba(toy.test_x).shape
    (100, 2)
    """
    return _shaped(train, know, seed, norm, 0.0, "gradient_clipping")


def gradient_shaping(
    train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int, norm: float = NORM, noise: float = NOISE
) -> Defended:
    """Clip the gradients of rows as `gradient_clipping` does, and add noise to their sum in each batch. `fit` is not used.

    Parameters
    ----------
    train, fit, know, seed
        See `Defense`.
    norm
        Largest Euclidean norm of the gradient of one row's log loss.
    noise
        Standard deviation of the Gaussian noise in each entry of a batch's sum of gradients, at least 0.

    Returns
    -------
    Defended
        The model.

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
    >>> defended = DEFENSES["gradient_shaping"](toy.train(), toy.fit, know, seed=0)
    >>> defended.model.predict_proba(toy.test_x).shape
    (100, 2)
    """
    return _shaped(train, know, seed, norm, noise, "gradient_shaping")


for _defense in (gradient_clipping, gradient_shaping):
    _defense.needs = {"training"}  # type: ignore[attr-defined]
    _defense.exact = False  # type: ignore[attr-defined]  # the steps are stochastic for every victim

gradient_clipping.configurations = ({}, *({"norm": norm} for norm in (0.1, 0.25, 0.5, 2.0, 4.0, 8.0, 16.0)))  # type: ignore[attr-defined]
gradient_shaping.configurations = (  # type: ignore[attr-defined]
    {},
    *({"norm": norm, "noise": noise} for norm in (0.1, 1.0) for noise in (0.00001, 0.001)),
    *({"norm": norm} for norm in (0.1, 4.0, 8.0)),
)


def _shaped(train: TrainingSet, know: Knowledge, seed: int, norm: float, noise: float, defense: str) -> Defended:
    if not (math.isfinite(norm) and norm > 0 and math.isfinite(noise) and noise >= 0):
        raise BadInput(f"norm={norm} and noise={noise} of {defense}: give a finite norm above 0 and a finite noise of at least 0")
    recipe = stepwise(know, defense)
    network, x, y = recipe.begin(train), train.x, train.y
    generator = np.random.default_rng(seed)
    for epoch in range(recipe.epochs):
        for batch in recipe.batches(train, epoch):
            drawn = generator.normal(0, noise, network.size) if noise else None
            network.descend_clipped(x[batch], y[batch], norm, drawn)
    return Defended(network.model())
