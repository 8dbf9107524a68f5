"""The target sets of an attack: drawn at random from the pool, or from one cluster.

*Source*: Jagielski et al. (CCS 2021), Table 16: 10 sets of 30 dogs by uniform random draw, and 10 sets of 30 dogs each drawn
from one subpopulation of ClusterMatch.
*Deviations*: the paper says neither what was clustered nor into how many clusters. Here the top layer's input features of the
pool of targets are clustered by k-means on their first 40 principal components (or all, if there are fewer).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from subpop.runtime.threads import one_thread
from subpop.types import Array, BadInput, Ints

COMPONENTS = 40
N_INIT, MAX_ITER = 10, 300
RANDOM, CLUSTER, ONE_DOG = "random", "cluster_match", "koh_dog"
KINDS = (RANDOM, CLUSTER, ONE_DOG)


@dataclass(frozen=True, eq=False)
class TargetSet:
    """Rows of the pool that one attack targets. cluster: the cluster from which they were drawn, -1 for none."""

    kind: str
    rows: Ints
    cluster: int = -1


def random_sets(n_pool: int, size: int, count: int, generator: np.random.Generator) -> list[TargetSet]:
    """`count` independently drawn sets of `size` distinct rows of the pool; different sets may share rows."""
    _check_size(n_pool, size, count)
    return [TargetSet(RANDOM, np.sort(generator.choice(n_pool, size, replace=False))) for _ in range(count)]


def cluster_sets(labels: Ints, size: int, count: int, generator: np.random.Generator) -> list[TargetSet]:
    """`count` sets of `size` distinct rows of one cluster, among clusters with at least that many rows.

    No cluster is used twice before all have been used once. labels: (n_pool,) the cluster of each row.
    """
    _check_size(len(labels), size, count)
    large = large_clusters(labels, size)
    if not len(large):
        raise BadInput(
            f"the largest of {labels.max() + 1} clusters has {np.bincount(labels).max()} rows, a target set needs {size}: use "
            "smaller sets, fewer clusters or a larger pool of targets"
        )
    rounds = -(-count // len(large))
    chosen = np.concatenate([generator.permutation(large) for _ in range(rounds)])[:count]
    return [
        TargetSet(CLUSTER, np.sort(generator.choice(np.flatnonzero(labels == own), size, replace=False)), int(own))
        for own in chosen
    ]


def large_clusters(labels: Ints, size: int) -> Ints:
    """The clusters with at least `size` rows, in order."""
    return np.flatnonzero(np.bincount(labels) >= size)


def cluster_notes(labels: Ints, size: int, count: int) -> tuple[str, ...]:
    """Notes for the report: sizes of clusters, how many are large enough, and whether some are used for several sets."""
    sizes, n_large = np.bincount(labels), len(large_clusters(labels, size))
    words = (
        f"ClusterMatch: {len(sizes)} clusters of {sizes.min()} to {sizes.max()} targets, {sizes.mean():.0f} on average; "
        f"{n_large} hold a set of {size}"
    )
    repeats = f"too few for {count} sets of different clusters: some clusters serve several sets of a draw"
    return (words if n_large >= count else f"{words}, {repeats}",)


def clusters_of(features: Array, n_clusters: int, seed: int = 0) -> Ints:
    """(n,) the cluster of each row, 0..n_clusters - 1, by PCA and k-means, on one thread so that results are reproducible."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    n, d = features.shape
    if not 1 <= n_clusters <= n:
        raise BadInput(f"n_clusters={n_clusters} must lie between 1 and the {n} targets; use fewer clusters or more targets")
    if not np.isfinite(features).all():
        raise BadInput("features of the targets hold NaN or infinite values; check the pictures and the weights of the network")
    values = np.asarray(features, np.float64)
    with one_thread():
        space = PCA(min(COMPONENTS, n, d), random_state=seed).fit_transform(values) if min(n, d) > 1 else values
        kmeans = KMeans(n_clusters, n_init=N_INIT, max_iter=MAX_ITER, random_state=seed).fit(space)
    return np.asarray(kmeans.labels_, np.int64)


def _check_size(n_pool: int, size: int, count: int) -> None:
    if not 1 <= size <= n_pool:
        raise BadInput(f"a target set of {size} cannot be drawn from {n_pool} targets; give sets of 1 to {n_pool}")
    if count < 1:
        raise BadInput(f"{count} target sets; draw at least one")
