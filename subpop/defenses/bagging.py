"""Bagging: a vote of members that are trained on few rows drawn with replacement, certified with a stated confidence.

The certificate is about the vote of infinitely many members. With probability 1 - alpha for all test rows of one call together,
Clopper-Pearson intervals of the observed votes bound the probability p of the winner from below and that of the strongest
rival, q, from above. A set of n rows and one that differs from it give the same bag of b rows with a probability that is high
if few rows differ, so that p - q > (1 + r / n)^b - 1 certifies r insertions or deletions, and p - q > 2 - 2 (1 - r / n)^b
certifies r flipped labels or changed rows.

*Source*: Jia, Cao and Gong 2021, "Intrinsic Certified Robustness of Bagging against Data Poisoning Attacks"; only the released
code was read. Both conditions are cases of its certificate, which covers insertions, deletions and changes by one radius.
*Deviations*: 100 members instead of 1,000. Probabilities are not rounded to multiples of n^-b. The level is alpha / (rows *
classes) for each bound: one alpha for all rows of a call, as in the released code, and all classes. A bag of one class is not
trained. Rows are drawn in the order of their content, so that the order of the training set does not matter. The collective
certificate is not computed, because a row reaches many members.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from subpop.defenses.ensembles import VotingModel, card_of, counts_of, train_members
from subpop.types import Array, BadInput, Defended, Fit, Ints, Knowledge, TrainingSet
from subpop.types.rows import content_order

N_LEARNERS = 100
ROWS = 100
ALPHA = 0.001
SLACK = 1e-9
"""By how much a radius, before it is rounded down, is reduced for rounding errors."""


def bagging(
    train: TrainingSet,
    fit: Fit,
    know: Knowledge,
    *,
    seed: int,
    n_learners: int = N_LEARNERS,
    rows: int = ROWS,
    alpha: float = ALPHA,
) -> Defended:
    """Train members on random bags of rows and let them vote; `know` is not used.

    Parameters
    ----------
    train, fit, know, seed
        See `Defense`.
    n_learners
        Number of members.
    rows
        Rows of a bag, drawn with replacement.
    alpha
        Probability that some radius of a call is too large.

    Returns
    -------
    Defended
        With the certificates `insertions` and `label_flips`, and the diagnostic confidence, 1 - alpha.

    Raises
    ------
    BadInput
        If a number of members or rows is below 1, or alpha is not strictly between 0 and 1.

    Examples
    --------
    >>> from subpop import DEFENSES, Knowledge
    >>> from subpop.testing import gaussian
    >>> toy = gaussian(240, 2, n_poison=24)
    >>> defended = DEFENSES["bagging"](toy.train(), toy.fit, Knowledge(), seed=0, n_learners=50, rows=20)
    >>> defended.diagnostics["confidence"]
    0.999
    """
    for name, value in (("n_learners", n_learners), ("rows", rows)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise BadInput(f"{name}={value!r} must be a whole number of at least 1")
    if not 0 < alpha < 1:
        raise BadInput(f"alpha={alpha} must be strictly between 0 and 1; the source uses {ALPHA}")
    ids = train.ids[content_order(train.x, train.y)]
    draws = np.random.default_rng(seed).integers(len(train), size=(n_learners, rows))
    model = VotingModel(train_members([train[ids[draw]] for draw in draws], fit, train.n_classes), train.n_classes)
    n = len(train)

    def insertions(x: Array) -> Ints:
        return insertion_radius(leads(model, x, alpha), n, rows)

    def label_flips(x: Array) -> Ints:
        return change_radius(leads(model, x, alpha), n, rows)

    certificates = {"insertions": insertions, "label_flips": label_flips}
    return Defended(model, certified_radius=certificates, diagnostics={"confidence": 1 - alpha})


bagging.card = card_of("mixture")  # type: ignore[attr-defined]
bagging.configurations = (  # type: ignore[attr-defined]
    {},
    {"rows": 30},
    {"rows": 50},
    {"rows": 200},
    {"rows": 400},
    {"n_learners": 50},
    {"n_learners": 400},
    {"n_learners": 1000},
)


def leads(model: VotingModel, x: Array, alpha: float) -> NDArray[np.float64]:
    """(n,) lower bounds of p - q, which hold for all rows together with probability 1 - alpha."""
    from scipy.stats import beta

    votes = model.votes(x)
    counts, k = np.sort(counts_of(votes, model.n_classes), axis=1), votes.shape[1]
    level = alpha / (max(1, len(votes)) * model.n_classes)
    top, next_ = counts[:, -1], counts[:, -2]
    p = beta.ppf(level, top, k - top + 1)
    q = beta.ppf(1 - level, next_ + 1, k - next_)
    return np.asarray(p - np.minimum(q, 1 - p), np.float64)


def insertion_radius(lead: NDArray[np.float64], n: int, rows: int) -> Ints:
    """(n,) largest r with (1 + r / n)^rows - 1 below the lead: insertions need more of it than deletions."""
    return _below(n * np.expm1(np.log1p(np.maximum(lead, 0)) / rows))


def change_radius(lead: NDArray[np.float64], n: int, rows: int) -> Ints:
    """(n,) largest r with 2 - 2 (1 - r / n)^rows below the lead."""
    return _below(-n * np.expm1(np.log1p(-np.maximum(lead, 0) / 2) / rows))


def _below(limit: NDArray[np.float64]) -> Ints:
    """The largest whole numbers below the limits, at least 0."""
    return np.asarray(np.maximum(np.ceil(limit - SLACK) - 1, 0), np.int64)
