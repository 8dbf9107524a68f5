"""Assign rows to subpopulations: by annotated features (FeatureMatch) or by cluster (ClusterMatch).

Both are defined on D_aux alone: rows of D and D_test are assigned afterwards and change nothing.

*Source*: Jagielski, Severi, Pousette Harger, Oprea, Subpopulation Data Poisoning Attacks (CCS 2021), FeatureMatch and
ClusterMatch.
*Deviations*: k-means is seeded and runs on one thread, so that its centroids are the same bits on any number of cores.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from subpop.runtime.threads import one_thread
from subpop.types import Array, BadInput, Cell, Dataset, Ints, Partition, Splits
from subpop.types.base import nearest

N_INIT, MAX_ITER = 10, 300
Sides = tuple[Ints, Ints, Ints]


def feature_match(dataset: Dataset, splits: Splits, grouped_by: str = "") -> Partition:
    """Group rows by exact equality of annotations; each combination that occurs in D_aux is a subpopulation.

    Parameters
    ----------
    dataset
        A data set with annotations.
    splits
        Its split.
    grouped_by
        Names of the annotations to match, separated by commas; empty for all.

    Returns
    -------
    Partition
        With names such as `education_num=9,race=4,sex=0`, in ascending order of the codes.

    Raises
    ------
    BadInput
        If `splits` is not a split, the data set has no annotations or none of a name, or no subpopulation has a size that can be
        attacked.

    Examples
    --------
    >>> from subpop import feature_match, load_dataset
    >>> from subpop.datasets.split import split
    >>> data = load_dataset("mixture")
    >>> partition = feature_match(data, split(data))
    >>> len(partition.names), partition.names[0]
    (16, 'component=0')
    """
    if not isinstance(splits, Splits):
        raise BadInput(f"splits is of type {type(splits).__name__}; pass what subpop.datasets.split.split returns")
    if not dataset.annotations:
        raise BadInput(f"{dataset.name} has no annotated features to match; use cluster_match or add annotations")
    matched = {name: dataset.annotations[name] for name in matched_names(dataset, grouped_by)}
    vectors = np.column_stack([np.asarray(values) for values in matched.values()])
    distinct, code = np.unique(vectors, axis=0, return_inverse=True)
    seen = np.unique(code[splits.aux])
    group = np.full(len(distinct), -1, dtype=np.int64)
    group[seen] = np.arange(len(seen))
    names = [",".join(f"{name}={value}" for name, value in zip(matched, distinct[i], strict=True)) for i in seen]
    sides = (group[code[splits.train]], group[code[splits.aux]], group[code[splits.test]])
    return _partition(dataset, sides, tuple(names))


def in_words(dataset: Dataset, grouped_by: str, name: str) -> str:
    """The name of a subpopulation of FeatureMatch with words for codes where there are any, such as `sex=Female, town=Bern`.

    Other names are returned as they are. Seeds and stored trials are found by the name with the codes.

    Examples
    --------
    >>> import numpy as np
    >>> from subpop import Dataset
    >>> from subpop.datasets.partitions import in_words
    >>> codes = np.array([0, 1])
    >>> data = Dataset("own", np.zeros((2, 1)), codes, 2, {"sex": codes, "age": codes}, words={"sex": ("Female", "Male")})
    >>> in_words(data, "", "sex=1,age=0"), in_words(data, "", "cluster 1")
    ('sex=Male, age=0', 'cluster 1')
    """
    matched = matched_names(dataset, grouped_by)
    found = re.fullmatch(",".join(rf"{re.escape(each)}=(-?\d+)" for each in matched), name)
    if found is None:
        return name
    parts = []
    for each, code in zip(matched, map(int, found.groups()), strict=True):
        words = dataset.words.get(each, ())
        parts.append(f"{each}={words[code] if 0 <= code < len(words) else code}")
    return ", ".join(parts)


def matched_names(dataset: Dataset, grouped_by: str) -> tuple[str, ...]:
    """Return the annotations that FeatureMatch matches; raises BadInput for a name that the data set does not have, or has twice.

    A name may contain commas itself: the longest name that an annotation has is read first.
    """
    if not grouped_by:
        return tuple(dataset.annotations)
    names: list[str] = []
    words = grouped_by.split(",")
    while words:
        lengths = [n for n in range(len(words), 0, -1) if ",".join(words[:n]).strip() in dataset.annotations]
        name = ",".join(words[: lengths[0] if lengths else 1]).strip()
        if not lengths or name in names:
            what = f"is named twice in grouped_by={grouped_by}" if name in names else f"is not an annotation of {dataset.name}"
            raise BadInput(f"{name!r} {what}; {nearest(name, dataset.annotations)}")
        names.append(name)
        words = words[lengths[0] :]
    return tuple(names)


def cluster_match(
    dataset: Dataset, splits: Splits, seed: int = 0, features: Array | None = None, standardise: bool = False
) -> Partition:
    """Cluster a representation of D_aux with k-means, after PCA if the data set specifies `n_components`.

    Parameters
    ----------
    dataset
        The data, with the number of clusters.
    splits
        Its split.
    seed
        Seed of PCA and k-means.
    features
        (n, ...) representation of all rows of the data set; None for the inputs. Rows are flattened.
    standardise
        Whether to centre each column and divide it by its standard deviation in D_aux first.

    Returns
    -------
    Partition
        With names such as `cluster 17`.

    Raises
    ------
    BadInput
        If the features have the wrong number of rows or NaN, D_aux has fewer rows than clusters, or no cluster has a size
        that can be attacked.

    Examples
    --------
    >>> from subpop import cluster_match, load_dataset
    >>> from subpop.datasets.split import split
    >>> data = load_dataset("mixture_2d")
    >>> partition = cluster_match(data, split(data), seed=0)
    >>> partition.names[:2]
    ('cluster 0', 'cluster 1')
    """
    return clusters_partition(dataset, _assign(cluster_space(dataset, splits, seed, features, standardise), dataset, seed))


def clusters_partition(dataset: Dataset, sides: Sides) -> Partition:
    """Return the partition for known cluster numbers of the rows of D, D_aux and D_test."""
    return _partition(dataset, sides, tuple(f"cluster {i}" for i in range(dataset.n_clusters)))


def cluster_space(
    dataset: Dataset, splits: Splits, seed: int = 0, features: Array | None = None, standardise: bool = False
) -> tuple[Array, Array, Array]:
    """Return D, D_aux and D_test, (n, d) float64 each, in the space that `cluster_match` clusters: after PCA fitted on D_aux."""
    values = _representation(dataset, features)
    train, aux, test = (values[rows] for rows in (splits.train, splits.aux, splits.test))
    _check_fit(dataset, aux)
    if standardise:
        mean, deviation = aux.mean(axis=0), aux.std(axis=0)
        deviation[deviation == 0] = 1
        train, aux, test = ((side - mean) / deviation for side in (train, aux, test))
    if dataset.n_components is not None:
        from sklearn.decomposition import PCA

        with one_thread():
            pca = PCA(dataset.n_components, random_state=seed).fit(aux)
            train, aux, test = (pca.transform(side) for side in (train, aux, test))
    first, second, third = (np.ascontiguousarray(side, dtype=np.float64) for side in (train, aux, test))
    return first, second, third


PARTITIONS = ("feature_match", "cluster_match")
"""Names of the ways to divide rows into subpopulations."""


def partition_rows(cell: Cell, dataset: Dataset, splits: Splits, features: Array | None = None) -> Partition:
    """Return the subpopulations of a cell; raises BadInput for an unknown partition, or settings of another one.

    features: (rows of the data set, d) clustered by ClusterMatch instead of the inputs.
    """
    own = cell.subpopulations
    if own.name == "feature_match":
        return feature_match(dataset, splits, own.grouped_by)
    if own.name != "cluster_match":
        raise BadInput(f"unknown partition {own.name!r}; use one of {', '.join(PARTITIONS)}")
    if own.grouped_by:
        raise BadInput(f"grouped_by={own.grouped_by} of {cell.id} names annotations, which clusters do not match; leave it out")
    return cluster_match(dataset, splits, own.partition_seed, features)


def confidence_order(partition: Partition, proba: Array, y: Ints) -> tuple[int, ...]:
    """Sort the attacked subpopulations by the attacker model's mean confidence on their D_aux rows, lowest first.

    proba: (n_aux, C) the attacker model's probabilities; y: (n_aux,) the rows' own labels. Ties keep their order.
    """
    if len(proba) != len(partition.aux) or len(y) != len(partition.aux):
        raise BadInput(
            f"{len(proba)} probabilities and {len(y)} labels for {len(partition.aux)} rows of D_aux; give one of each per row"
        )
    own = np.asarray(proba, dtype=np.float64)[np.arange(len(y)), y]
    confidence = [own[partition.aux == i].mean() for i in partition.attacked]
    return tuple(partition.attacked[i] for i in np.argsort(confidence, kind="stable"))


def attacked_of(order: Sequence[int], count: int, which: str) -> tuple[int, ...]:
    """Select `count` subpopulations, given least confident first: the first ones, or a third each of the first, middle and
    last."""
    if which == "least_confident":
        return tuple(order[:count])
    if which != "low_middle_high" or count % 3:
        allowed = "use least_confident, or low_middle_high with n_attacked a multiple of 3"
        raise BadInput(f"attacked_by={which} is not possible with n_attacked={count} subpopulations; {allowed}")
    third = count // 3
    middle = (len(order) - third) // 2
    places = [*range(third), *range(middle, middle + third), *range(len(order) - third, len(order))]
    return tuple(order[i] for i in dict.fromkeys(places))


# --- steps of ClusterMatch --------------------------------------------------------------------------------------------


def _representation(dataset: Dataset, features: Array | None) -> Array:
    values = np.asarray(dataset.x if features is None else features)
    n_rows = len(dataset.y)
    if len(values) != n_rows:
        raise BadInput(f"features have {len(values)} rows, {dataset.name} has {n_rows}; give one row of features per row")
    if features is None and values.dtype == np.int64:
        raise BadInput(
            f"{dataset.name} contains tokens, between which distances have no meaning; pass `features` to cluster_match"
        )
    values = values.reshape(n_rows, -1)
    if values.dtype not in (np.float32, np.float64):
        values = values.astype(np.float32)
    if not np.isfinite(values).all():
        raise BadInput(f"features of {dataset.name} contain NaN or infinite values; remove or impute them before clustering")
    return values


def _check_fit(dataset: Dataset, aux: Array) -> None:
    n_rows, n_columns = aux.shape
    if not 1 <= dataset.n_clusters <= n_rows:
        raise BadInput(
            f"{dataset.name}: n_clusters={dataset.n_clusters} must be between 1 and the {n_rows} rows of D_aux; lower n_clusters"
        )
    if dataset.n_components is not None and not 1 <= dataset.n_components <= min(n_rows, n_columns):
        raise BadInput(
            f"{dataset.name}: n_components={dataset.n_components} must be between 1 and {min(n_rows, n_columns)}, "
            f"the smaller side of the {n_rows} x {n_columns} features of D_aux; lower n_components or use None"
        )


def _assign(space: tuple[Array, Array, Array], dataset: Dataset, seed: int) -> Sides:
    """Fit k-means on D_aux and assign each row to its nearest centroid."""
    from sklearn.cluster import KMeans

    # Several threads add up the centroids in the order in which they finish, so that rounding would differ from run to run.
    with one_thread():
        kmeans = KMeans(dataset.n_clusters, n_init=N_INIT, max_iter=MAX_ITER, random_state=seed).fit(space[1])
        first, second, third = (kmeans.predict(side).astype(np.int64) for side in space)
    return first, second, third


# --- selecting the attacked -----------------------------------------------------------------------------------------------


def _partition(dataset: Dataset, sides: Sides, names: tuple[str, ...]) -> Partition:
    """Select the attacked: size in D_aux strictly between the data set's bounds (and above 0), and at least one test row."""
    low, high = dataset.group_bounds
    train, aux, test = sides
    in_aux, in_test = _count(aux, len(names)), _count(test, len(names))
    qualifies = (in_aux > max(low, 0)) & (in_aux < high)
    attacked = np.flatnonzero(qualifies & (in_test > 0))
    if not len(attacked):
        raise BadInput(
            f"no subpopulation of {dataset.name} can be attacked: sizes in D_aux run from {in_aux.min()} to {in_aux.max()}, "
            f"{qualifies.sum()} of {len(names)} lie strictly between {low} and {high}, and none of these has a test row; "
            "widen group_bounds, use more rows, or change n_clusters"
        )
    return Partition(train, aux, test, names, tuple(attacked.tolist()))


def _count(groups: Ints, n_groups: int) -> NDArray[np.int64]:
    return np.asarray(np.bincount(groups[groups >= 0], minlength=n_groups))


# --- to and from a store -----------------------------------------------------------------------------------------------


def arrays_of(partition: Partition) -> dict[str, Array]:
    """Return a partition as arrays by name."""
    attacked = np.array(partition.attacked, np.int64)
    sides = {"train": partition.train, "aux": partition.aux, "test": partition.test}
    return {**sides, "names": np.array(partition.names), "attacked": attacked}


def partition_of(arrays: Mapping[str, Array]) -> Partition:
    """Restore the partition from the arrays of `arrays_of`."""
    names = tuple(map(str, arrays["names"]))
    return Partition(arrays["train"], arrays["aux"], arrays["test"], names, tuple(arrays["attacked"].tolist()))
