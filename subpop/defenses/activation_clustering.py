"""Activation clustering: split the features of each label in two clusters, remove a small and separated one, refit once.

*Source*: Chen et al. 2018. For each given label: features of the model trained on the poisoned set, reduced to 10 dimensions,
2-means; the smaller cluster is poison if it has less than .35 of the label's rows (relative size) and the silhouette of the
split is at least .10. `activation_clustering_as_released` is what the paper's authors ran on images: FastICA with 15 components,
and the smaller cluster is removed if the silhouette is at least .1, whatever its size. Neither needs side information.
*Deviations*: PCA instead of the paper's ICA: centred, not scaled, without constant columns. The released variant uses whitened
PCA (components of variance 1) without ICA, which is equivalent: FastICA whitens first and then looks for an orthogonal matrix,
so that its components are rotated whitened ones, whether or not it has converged, and neither 2-means nor silhouettes change
under a rotation. Components without variance are omitted instead of being divided by 0. Both criteria, size and silhouette, must
be met: with the size alone, labels without poison would lose rows too. Exclusionary retraining is omitted. Fractions are not
rounded to two digits before the comparison. The silhouette is the mean over at most 1,000 rows of a label, each against all
rows. All random numbers have constant seeds and rows are sorted by content first, so that the result depends neither on `seed`
nor on the order of rows. Nor does it depend on rounding: whitened points are perturbed slightly to break ties of distances, and
of two clusters of equal size the one without the first row is removed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from subpop.defenses.filters import centred, refitted
from subpop.runtime.threads import one_thread
from subpop.types import Array, Bools, Defended, Fit, Knowledge, TrainingSet, content_order

N_COMPONENTS = 10
MAX_SHARE, MIN_SILHOUETTE = 0.35, 0.10
RELEASED_COMPONENTS = 15
N_INIT = 10
SILHOUETTE_ROWS = 1000
MIN_ROWS = 3
"""With fewer rows, every split is a tie."""
NO_VARIANCE = 1e-10
"""Fraction of the first component's variance below which another one counts as float32 rounding."""
SAME_VARIANCE = 1e-6
"""Components whose variances differ by a smaller fraction form one eigenspace, whose basis is arbitrary."""
SHIFT = 1e-7
"""Perturbation of whitened points, in standard deviations, that breaks ties of distances; far above rounding errors."""

Reduce = Callable[[Array], Array]
"""(n, d) centred columns -> (n, k) components."""


def activation_clustering(train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int) -> Defended:
    """Remove the smaller cluster of each label if it is small and well separated.

    Parameters
    ----------
    train, fit, know, seed
        See `Defense`.

    Returns
    -------
    Defended
        With the diagnostics silhouette_{label}, share_{label} and removed_share.

    Examples
    --------
    >>> from subpop import DEFENSES, Knowledge
    >>> from subpop.testing import gaussian
    >>> toy = gaussian(240, 2, n_poison=24)
    >>> defended = DEFENSES["activation_clustering"](toy.train(), toy.fit, Knowledge(), seed=0)
    >>> sorted(defended.diagnostics)[0]
    'removed_share'
    """
    return _filter(train, fit, lambda columns: _principal(columns, N_COMPONENTS), MAX_SHARE)


def activation_clustering_as_released(train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int) -> Defended:
    """Remove the smaller cluster of each label's whitened components if it is well separated, whatever its size.

    Parameters
    ----------
    train, fit, know, seed
        See `Defense`.

    Returns
    -------
    Defended
        With the diagnostics silhouette_{label}, share_{label} and removed_share.

    Examples
    --------
    >>> from subpop import DEFENSES, Knowledge
    >>> from subpop.testing import gaussian
    >>> toy = gaussian(240, 2, n_poison=24)
    >>> defended = DEFENSES["activation_clustering_as_released"](toy.train(), toy.fit, Knowledge(), seed=0)
    >>> sorted(defended.diagnostics)[0]
    'removed_share'
    """
    return _filter(train, fit, lambda columns: _whitened(columns, RELEASED_COMPONENTS), max_share=1.0)


def _filter(train: TrainingSet, fit: Fit, reduce: Reduce, max_share: float) -> Defended:
    model = fit(train)
    x = train.x
    features, order = model.features(x), content_order(x)
    keep = np.ones(len(train), dtype=np.bool_)
    diagnostics: dict[str, float] = {}
    with one_thread():  # with several threads, k-means sums in a different order each time
        for label in np.unique(train.y).tolist():
            rows = order[train.y[order] == label]
            smaller, apart = _smaller_part(features[rows], reduce)
            share = float(smaller.mean())
            if apart >= MIN_SILHOUETTE and share < max_share:
                keep[rows[smaller]] = False
            diagnostics |= {f"silhouette_{label}": apart, f"share_{label}": share}
    return refitted(train, fit, model, keep, {**diagnostics, "removed_share": float(1 - keep.mean())})


def _smaller_part(features: Array, reduce: Reduce) -> tuple[Bools, float]:
    """Return the smaller of two clusters, (n,) bool, and their silhouette; none and 0 if rows are equal or too few."""
    from sklearn.cluster import KMeans

    columns = centred(features)
    if len(columns) < MIN_ROWS or not columns.shape[1]:
        return np.zeros(len(features), dtype=np.bool_), 0.0
    points = reduce(columns * np.ldexp(1.0, -int(np.frexp(np.abs(columns).max())[1])))  # float32 holds squares up to 1e38
    part = KMeans(2, n_init=N_INIT, random_state=0).fit(points).labels_ == 1
    n_part = int(part.sum())
    goes = not part[0] if 2 * n_part == len(part) else 2 * n_part < len(part)
    smaller = np.asarray(part if goes else ~part)
    return smaller, silhouette(points, smaller)


def silhouette(points: Array, part: Bools) -> float:
    """Return the mean silhouette, in [-1, 1], of two clusters: the points (n, k) inside and outside `part`, (n,) bool.

    With many rows it is averaged over a sample; a row alone in its cluster counts 0.
    """
    from scipy.spatial.distance import cdist

    n = len(points)
    rows = np.arange(n) if n <= SILHOUETTE_ROWS else np.random.default_rng(0).permutation(n)[:SILHOUETTE_ROWS]
    own = part[rows].astype(np.int64)
    sizes = np.array([n - part.sum(), part.sum()])
    distances = cdist(points[rows], points)
    sums = np.stack([distances @ ~part, distances @ part], axis=1)
    each = np.arange(len(rows))
    inner, outer = sums[each, own] / np.maximum(sizes[own] - 1, 1), sums[each, 1 - own] / sizes[1 - own]
    larger = np.maximum(inner, outer)
    counts = (sizes[own] > 1) & (larger > 0)
    return float(np.where(counts, (outer - inner) / np.where(counts, larger, 1.0), 0.0).mean())


def _principal(columns: Array, n_components: int) -> Array:
    """Return (n, at most n_components) principal components, in order of their variance."""
    from sklearn.decomposition import PCA

    pca = PCA(min(n_components, *columns.shape), random_state=0)
    return np.asarray(pca.fit_transform(columns.astype(np.float32)), dtype=np.float64)  # half the time; features are float32


def _whitened(columns: Array, n_components: int) -> Array:
    """Return (n, k) principal components of variance 1: n_components, fewer if fewer vary, more if the last ones tie."""
    from scipy.linalg import eigh

    n, d = columns.shape
    products = columns.T @ columns if d <= n else columns @ columns.T
    size = len(products)
    values, vectors = eigh(products, subset_by_index=(max(0, size - 2 * n_components), size - 1))
    last = values[-min(n_components, len(values))]
    chosen = values > max(NO_VARIANCE * values[-1], (1 - SAME_VARIANCE) * last)
    found = columns @ vectors[:, chosen] / np.sqrt(values[chosen]) if d <= n else vectors[:, chosen]
    return _in_place(found * np.sqrt(n))


def _in_place(points: Array) -> Array:
    """Rotate the points (n, k) in a way that only their distances and order determine, and perturb them slightly.

    Signs of eigenvectors are arbitrary, as are bases of eigenspaces; and if distances tie, as between rows of one-hot features,
    the split would depend on rounding. Both would differ between CPUs.
    """
    generator = np.random.default_rng(0)
    q, r = np.linalg.qr(points.T @ generator.standard_normal(points.shape))
    moved = points @ (q * np.where(np.diag(r) < 0, -1.0, 1.0)) + SHIFT * generator.standard_normal(points.shape)
    return np.asarray(moved)
