"""Certificates: how many training labels can be flipped without changing a linear learner's prediction.

A linear smoother predicts from weights alpha, one per training row, that do not depend on the labels: the score of class c is the
sum of the weights of the rows with label c. `pairwise_exact_radius` certifies that predictor. `kl_radius` and
`neyman_pearson_radius` certify the vote over randomly flipped training labels; both follow from a bound on the probability of
losing that vote.
"""

from subpop.defenses.certificates.chernoff import pairwise_log_bounds
from subpop.defenses.certificates.collective import MostWrong, most_wrong
from subpop.defenses.certificates.exact import pairwise_exact_radius
from subpop.defenses.certificates.noise import MAX_RADIUS, kl_radius, neyman_pearson_radius

__all__ = [
    "MAX_RADIUS",
    "MostWrong",
    "kl_radius",
    "most_wrong",
    "neyman_pearson_radius",
    "pairwise_exact_radius",
    "pairwise_log_bounds",
]
