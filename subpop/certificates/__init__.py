"""How many training labels may be flipped before a linear learner's prediction can change: certificates, as pure numbers.

A linear smoother predicts from weights alpha, one a training row, that do not depend on the labels: class c scores the sum of
the weights of the rows labelled c. `pairwise_exact_radius` certifies that predictor. `kl_radius` and `neyman_pearson_radius`
certify another one, the vote over training labels flipped at random; both follow from a bound on how often that vote is lost.
"""

from subpop.certificates.chernoff import pairwise_log_bounds
from subpop.certificates.exact import pairwise_exact_radius
from subpop.certificates.noise import MAX_RADIUS, kl_radius, neyman_pearson_radius

__all__ = [
    "MAX_RADIUS",
    "kl_radius",
    "neyman_pearson_radius",
    "pairwise_exact_radius",
    "pairwise_log_bounds",
]
