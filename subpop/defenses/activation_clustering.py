"""Activation clustering: split the features of each label in two, drop a part that is small and stands apart, refit once.

*Source*: Chen et al. 2018. For each given label: features of the model trained on the poisoned set, reduced to 10 dimensions,
2-means; the smaller cluster is poison if it holds less than .35 of the label (relative size) and the silhouette of the split is
at least .10. `activation_clustering_as_released` is what the paper's authors ran on images: 15 independent components, and the
smaller cluster goes wherever the silhouette is at least .1, whatever its size. Neither is told anything.
*Deviations*: PCA where the paper uses ICA: centred, not scaled, columns that do not vary left out; ICA, whose components all
have variance 1, belongs to the released variant. Both rules, size and silhouette, must hold: with the size alone, labels without
poison would lose rows too. Exclusionary retraining is left out. A share is not rounded to two digits before it is compared.
Everything random is seeded by constants and rows are put in order of their content first, so that the answer depends neither on
`seed` nor on the order of rows. The silhouette is the mean over at most 1,000 rows of a label, each against all rows.
ICA falls back to PCA where it does not converge or where fewer than its components vary; the diagnostic `pca_instead` counts it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from subpop.defenses.spectral_signatures import centred, refitted
from subpop.threads import one_thread
from subpop.types import Array, Bools, Defended, Fit, Knowledge, TrainingSet, content_order

N_COMPONENTS = 10
MAX_SHARE, MIN_SILHOUETTE = 0.35, 0.10
RELEASED_COMPONENTS, RELEASED_ITERATIONS, RELEASED_TOLERANCE = 15, 1000, 0.005
N_INIT = 10
SILHOUETTE_ROWS = 1000
MIN_ROWS = 3
"""Of fewer rows every split is a tie."""
NO_VARIANCE = 1e-10
"""Share of the first component's variance below which another is rounding of float32."""

Reduce = Callable[[Array], Array]
"""(n, d) centred columns -> (n, k) components."""


def activation_clustering(train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int) -> Defended:
    """Drop the smaller cluster of each label if it is small and apart; where none is, it is the undefended model.

    Diagnostics: silhouette and share of the smaller cluster of each label, and how much of the set was removed.
    """
    return _filter(train, fit, lambda columns: _principal(columns, N_COMPONENTS), MAX_SHARE)


def activation_clustering_as_released(train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int) -> Defended:
    """Drop the smaller cluster of independent components of each label if it is apart, however large it is."""
    n_fallbacks = 0

    def reduce(columns: Array) -> Array:
        nonlocal n_fallbacks
        principal = _principal(columns, RELEASED_COMPONENTS)
        independent = _independent(principal)
        n_fallbacks += independent is None
        return principal if independent is None else independent

    found = _filter(train, fit, reduce, max_share=1.0)
    return replace(found, diagnostics={**found.diagnostics, "pca_instead": float(n_fallbacks)})


def _filter(train: TrainingSet, fit: Fit, reduce: Reduce, max_share: float) -> Defended:
    model = fit(train)
    x = train.x
    features, order = model.features(x), content_order(x)
    keep = np.ones(len(train), dtype=np.bool_)
    diagnostics: dict[str, float] = {}
    with one_thread():  # threads of k-means add up in the order in which they finish: other bits each time
        for label in np.unique(train.y).tolist():
            rows = order[train.y[order] == label]
            smaller, apart = _smaller_part(features[rows], reduce)
            share = float(smaller.mean())
            if apart >= MIN_SILHOUETTE and share < max_share:
                keep[rows[smaller]] = False
            diagnostics |= {f"silhouette_{label}": apart, f"share_{label}": share}
    return refitted(train, fit, model, keep, {**diagnostics, "removed_share": float(1 - keep.mean())})


def _smaller_part(features: Array, reduce: Reduce) -> tuple[Bools, float]:
    """(n,) bool: the smaller of two clusters, and their silhouette; nothing and 0 where rows do not differ or are too few."""
    columns = centred(features)
    if len(columns) < MIN_ROWS or not columns.shape[1]:
        return np.zeros(len(features), dtype=np.bool_), 0.0
    from sklearn.cluster import KMeans

    points = reduce(columns)
    cluster = KMeans(2, n_init=N_INIT, random_state=0).fit(points).labels_
    smaller = cluster == np.bincount(cluster, minlength=2).argmin()
    return smaller, silhouette(points, smaller)


def silhouette(points: Array, part: Bools) -> float:
    """How well a part, (n,) bool with both values, is set apart from the rest: mean silhouette, in [-1, 1].

    points: (n, k). Over a sample of rows where there are many; a row alone in its cluster counts 0.
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
    """(n, at most n_components) principal components, in order of their variance."""
    from sklearn.decomposition import PCA

    pca = PCA(min(n_components, *columns.shape), random_state=0)
    return np.asarray(pca.fit_transform(columns.astype(np.float32)), dtype=np.float64)  # half the time; features are float32


def _independent(principal: Array) -> Array | None:
    """(n, k) independent components of variance 1, from as many principal ones; None where that fails.

    ICA whitens first, so that all it sees of the features are their principal components: these are cheaper to hand over.
    """
    from sklearn.decomposition import FastICA
    from sklearn.exceptions import ConvergenceWarning

    variance = principal.var(axis=0)
    if variance[-1] <= NO_VARIANCE * variance[0]:
        return None
    ica = FastICA(whiten="unit-variance", max_iter=RELEASED_ITERATIONS, tol=RELEASED_TOLERANCE, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            return np.asarray(ica.fit_transform(principal.astype(np.float32)), dtype=np.float64)
        except ConvergenceWarning:
            return None
