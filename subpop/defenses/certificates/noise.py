"""Certified radii of a vote over noisy labels, from the probability that the vote is lost.

*Source*: Rosenfeld et al. 2020 (the KL form); the Neyman-Pearson form is the largest radius for the same
probability. Noise keeps a label with probability 1 - q, otherwise it draws one of the k - 1 others; q < (k - 1) / k.
*Deviations*: where rounding could have increased a radius, it is one lower: a certificate may be too small, never too large.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from subpop.types import Array, BadInput, Ints
from subpop.victims.compiled import compiled

Doubles = NDArray[np.float64]

MAX_RADIUS = 100_000
"""Largest reported radius; noise close to its limit would need unbounded tables."""
SLACK = 1e-9
"""Bound of the rounding error of the logarithm of a probability."""
_NOTHING = 1e-40


def check_noise(q: float, n_classes: int) -> None:
    """Raise BadInput unless the noise leaves the true label more likely than each other label."""
    if n_classes < 2:
        raise BadInput(f"n_classes={n_classes}; labels can only be flipped between at least 2 classes")
    limit = (n_classes - 1) / n_classes
    if not 0 < q < limit:
        raise BadInput(f"noise q={q} must be strictly between 0 and {limit:.6g} = (k - 1) / k for k = {n_classes} classes")


def tilt_of(q: float, n_classes: int) -> float:
    """Return the log ratio of the probability of keeping a label to that of drawing a particular other one."""
    return math.log1p(-q) - math.log(q / (n_classes - 1))


def drift_of(q: float, n_classes: int) -> float:
    """Return the probability of keeping a label minus that of drawing a particular other one."""
    return 1 - q * n_classes / (n_classes - 1)


def kl_radius(log_b: Array, q: float, n_classes: int = 2) -> Ints:
    """Certify a vote over noisy labels by the Kullback-Leibler divergence between the noise of two labellings.

    Parameters
    ----------
    log_b
        (n,) logarithm of an upper bound of the probability that the vote is lost; with several rivals, the largest. For a
        probability p of winning, np.log1p(-p).
    q
        Probability that the noise changes a label.
    n_classes
        Number of classes.

    Returns
    -------
    Ints
        (n,) number of flips that cannot change the vote; 0 where the bound is 1/2 or more.

    Raises
    ------
    BadInput
        If q is not strictly between 0 and (k - 1) / k for k classes, or log_b is NaN or minus infinity.

    Examples
    --------
    >>> import numpy as np
    >>> from subpop.defenses.certificates import kl_radius
    >>> kl_radius(np.log([1e-6, 0.5]), q=0.3)
    array([18,  0])
    """
    check_noise(q, n_classes)
    log_b = _checked(log_b)
    small = np.minimum(log_b, -math.log(2))
    divergence = -(math.log(4) + np.log1p(-np.exp(small)) + small) / 2
    flips = np.floor(divergence / (drift_of(q, n_classes) * tilt_of(q, n_classes)) - SLACK)
    return np.clip(flips, 0, MAX_RADIUS).astype(np.int64)


def neyman_pearson_radius(log_b: Array, q: float, n_classes: int = 2) -> Ints:
    """Certify a vote over noisy labels by the Neyman-Pearson lemma: the largest radius that the probability alone implies.

    Parameters
    ----------
    log_b, q, n_classes
        As in `kl_radius`.

    Returns
    -------
    Ints
        (n,) number of flips that cannot change the vote.

    Raises
    ------
    BadInput
        As in `kl_radius`.

    Examples
    --------
    >>> import numpy as np
    >>> from subpop.defenses.certificates import neyman_pearson_radius
    >>> neyman_pearson_radius(np.log([1e-6, 0.5]), q=0.3)
    array([33,  0])
    """
    check_noise(q, n_classes)
    log_b = _checked(log_b)
    if not log_b.size:
        return np.zeros(0, np.int64)
    limits = _limits(float(q), n_classes, _table_size(float(log_b.min()), q, n_classes))
    return np.searchsorted(-limits, -(log_b + SLACK), side="left").astype(np.int64)


def _checked(log_b: Array) -> Doubles:
    values = np.asarray(log_b, dtype=np.float64)
    if values.ndim != 1 or np.isnan(values).any() or (values == -np.inf).any():
        raise BadInput(
            f"log_b of shape {values.shape} must be one log probability of losing per row, above minus infinity; "
            "compute it as a logarithm: 1 - p rounds to 0"
        )
    return values


def _table_size(least: float, q: float, n_classes: int) -> int:
    """Return a number of flips, a power of two, that is more than a probability exp(least) of losing certifies.

    r flips leave the likelier half of the worst case a mass of at most exp(tilt * median) / 2 under the true labels, and the
    median is within one deviation of the mean -drift * r.
    """
    tilt, drift = tilt_of(q, n_classes), drift_of(q, n_classes)
    spread = tilt * math.sqrt(1 - q + q / (n_classes - 1) - drift**2)
    needed = max(0.0, -least - math.log(2)) + SLACK
    root = (spread + math.sqrt(spread**2 + 4 * tilt * drift * needed)) / (2 * tilt * drift)
    return min(MAX_RADIUS, 1 << math.ceil(math.log2(root**2 + 1)))


@lru_cache(maxsize=64)
def _limits(q: float, n_classes: int, size: int) -> Doubles:
    """Return (size,) descending: entry r - 1 is the log probability of losing below which r flips are certified."""
    limits = np.empty(size)
    other = q / (n_classes - 1)
    _fill_limits(1 - q, other, q - other, tilt_of(q, n_classes), limits)
    limits.setflags(write=False)
    return limits


@compiled
def _fill_limits(keep: float, other: float, rest: float, tilt: float, limits: Doubles) -> None:
    """A flipped row scores +1 if its noisy label is the old one, -1 if it is the new one, and 0 otherwise.

    The distribution of the sum S of r rows under the flipped labels is convolved row by row; under the true labels its masses are
    exp(tilt * S) times these. The worst case puts the probability of losing on the lowest S, and changes the vote once that set
    has mass 1/2 under the flipped labels: the limit is that set's mass under the true labels. Masses are computed relative to its
    last S.
    """
    middle = len(limits) + 1
    law = np.zeros(2 * middle + 1)
    law[middle] = 1.0
    first = last = middle
    for r in range(len(limits)):
        before = 0.0
        for s in range(first - 1, last + 2):
            own = law[s]
            law[s] = keep * law[s + 1] + rest * own + other * before
            before = own
        first, last = first - 1, last + 1
        while law[first] < _NOTHING:
            law[first] = 0.0
            first += 1
        while law[last] < _NOTHING:
            law[last] = 0.0
            last -= 1
        mass, below, s = 0.0, 0.0, first
        while s < last and mass + law[s] < 0.5:
            mass += law[s]
            below = (below + law[s]) * math.exp(-tilt)
            s += 1
        limits[r] = tilt * (s - middle) + math.log(below + max(0.0, 0.5 - mass))
