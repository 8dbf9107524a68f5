"""The split of a data set into D, D_aux and D_test: row-disjoint, seeded, with rows of equal content on the same side.

The test set is cut first, so that all protocols of a seed are measured on the same test rows:

default      D and D_aux of the sizes that the data set specifies, otherwise a third of the rows each (a half each where the
             source reserves a test set).
reserve      D one third and D_aux two thirds of the rows that are not tested: the attacker's pool is twice as large, so
             that distinct poison rows suffice up to alpha = 2.
as_released  the split of the paper's released scripts, with its defect; only for data sets listed in `RELEASED`.

If a data set sets `stratified`, all sides have the same class proportions.

*Source*: the released Adult script for the order of the draws of balanced data; the released image script for UTKFace.
*Deviations*: balanced data is drawn from the right class; `as_released` keeps the defect for comparison.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from subpop.types import Array, BadInput, Dataset, Ints, Splits

Sides = tuple[Ints, Ints, Ints]


def split(dataset: Dataset, seed: int = 0, protocol: str = "default") -> Splits:
    """Divide the rows of a data set into D, D_aux and D_test.

    Parameters
    ----------
    dataset
        The rows to divide.
    seed
        Seed of the draw.
    protocol
        "default": D and D_aux of the sizes that the data set specifies. "reserve": D_aux twice as large as D.
        "as_released": the split of the paper's released scripts, for data sets that have one.

    Returns
    -------
    Splits
        Row numbers of the three sides. They share no row, except under "as_released".

    Raises
    ------
    BadInput
        If the protocol is not defined for the data set, the data is malformed, there are too few rows, or all rows of D belong
        to one class.

    Examples
    --------
    >>> from subpop import load_dataset
    >>> from subpop.datasets.split import split
    >>> sides = split(load_dataset("digits"), protocol="reserve")
    >>> len(sides.train), len(sides.aux), len(sides.test)
    (400, 800, 597)
    """
    check_dataset(dataset)
    _check_seed(seed)
    if protocol not in protocols(dataset):
        allowed = ", ".join(protocols(dataset))
        raise BadInput(f"protocol {protocol!r} is not defined for {dataset.name}; it has: {allowed}")
    if protocol == "as_released":
        train, aux, test = RELEASED[dataset.name](dataset, seed)
    else:
        train, aux, test = _disjoint(dataset, seed, protocol)
    _check_sides(dataset, train, aux, test)
    return Splits(train, aux, test, protocol, seed)


def protocols(dataset: Dataset) -> tuple[str, ...]:
    """Return the names of the split protocols that are defined for a data set."""
    return ("default", "reserve", *(["as_released"] if dataset.name in RELEASED else []))


# --- disjoint splits --------------------------------------------------------------------------------------------------


def _disjoint(dataset: Dataset, seed: int, protocol: str) -> Sides:
    order, held_out = _draw(dataset, seed)
    if held_out is not None and dataset.hashes is not None:
        order = order[~np.isin(dataset.hashes[order], dataset.hashes[held_out])]
    sizes = _sizes(dataset, len(order), held_out is not None, protocol)
    if dataset.hashes is not None:
        test, train, aux = _cut_by_content(order, sizes, dataset.hashes)
    elif dataset.stratified:
        test, train, aux = _cut_by_class(order, sizes, dataset.y)
    else:
        test, train, aux = _cut(order, sizes)
    return train, aux, test if held_out is None else held_out


def _draw(dataset: Dataset, seed: int) -> tuple[Ints, Ints | None]:
    """Return the rows to divide, in random order, and the rows that the source reserves for testing."""
    if dataset.balanced:
        return _draw_balanced(dataset, seed, right_class=True)
    rng = np.random.default_rng(seed)
    if dataset.official_test is None:
        return rng.permutation(len(dataset.y)), None
    return rng.permutation(np.flatnonzero(~dataset.official_test)), np.flatnonzero(dataset.official_test)


def _draw_balanced(dataset: Dataset, seed: int, right_class: bool) -> tuple[Ints, Ints]:
    """All rows of the rarer class and equally many of the other, for training (shuffled) and for testing."""
    # The legacy generator and this order of draws (train, test, shuffle) reproduce the released split and its counts.
    rng = np.random.RandomState(seed)
    assert dataset.official_test is not None  # checked by check_dataset
    halves = []
    for table in (np.flatnonzero(~dataset.official_test), np.flatnonzero(dataset.official_test)):
        labels = dataset.y[table]
        common, rare = np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)
        if len(common) < len(rare):
            common, rare = rare, common
        drawn = rng.choice(len(common), len(rare), replace=False)
        halves.append(table[np.concatenate([common[drawn] if right_class else drawn, rare])])
    train, test = halves
    return train[rng.permutation(len(train))], test


def _sizes(dataset: Dataset, n_rows: int, has_test: bool, protocol: str) -> tuple[int, int, int]:
    """Return how many of `n_rows` go to D_test (0 if the source reserves a test set), D and D_aux."""
    wanted = dataset.sizes
    if wanted is None:
        third = n_rows // 3
        wanted = (n_rows // 2, n_rows - n_rows // 2) if has_test else (third, third)
    free = sum(wanted)
    n_test = 0 if has_test else n_rows - free
    if min(wanted) < 1 or n_test < (0 if has_test else 1) or free > n_rows:
        raise BadInput(
            f"{dataset.name}: {n_rows} rows cannot be divided into D and D_aux of {wanted[0]} and {wanted[1]} rows"
            f"{'' if has_test else ' with at least one row left for testing'}; use more rows or smaller `sizes`"
        )
    n_train = free // 3 if protocol == "reserve" else wanted[0]
    return n_test, n_train, free - n_train


def _cut(order: Ints, sizes: tuple[int, int, int]) -> Sides:
    first, second, third = np.cumsum(sizes)
    return order[:first], order[first:second], order[second:third]


def _cut_by_class(order: Ints, sizes: tuple[int, int, int], y: Ints) -> Sides:
    """Like `_cut`, but all sides have the class proportions of all rows, up to rounding.

    Rows are assigned by their relative position within their class in the random order, which is preserved within a side.
    """
    labels = y[order]
    along = np.empty(len(order))
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        along[own] = (np.arange(len(own)) + 0.5) / len(own)
    first, second, third = (order[np.sort(positions)] for positions in _cut(np.argsort(along, kind="stable"), sizes))
    return first, second, third


def _cut_by_content(order: Ints, sizes: tuple[int, int, int], hashes: Array) -> Sides:
    """Like `_cut`, but rows of equal content stay together: each group goes to the first side with room for all of it.

    The size of a side may be off by less than the largest group; groups that fit nowhere go to the last side.
    """
    _, first, group = np.unique(hashes[order], return_index=True, return_inverse=True)
    members = np.split(order[np.argsort(group, kind="stable")], np.cumsum(np.bincount(group))[:-1])
    sides: list[list[int]] = [[], [], []]
    leave_out = sum(sizes) < len(order)
    for g in np.argsort(first):
        room = [side for side, size in zip(sides, sizes, strict=True) if len(side) + len(members[g]) <= size]
        if room or not leave_out:
            (room or sides[-1:])[0].extend(members[g].tolist())
    test, train, aux = (np.array(side, dtype=np.int64) for side in sides)
    return test, train, aux


# --- released splits --------------------------------------------------------------------------------------------------


def _adult_as_released(dataset: Dataset, seed: int) -> Sides:
    """The split with the released defect: positions among the negatives index the whole table.

    So a quarter of the "negatives" are positives; D, D_aux and D_test contain 62 % positives and some rows repeatedly, and D and
    D_aux share hundreds of rows.
    """
    order, test = _draw_balanced(dataset, seed, right_class=False)
    half = len(order) // 2
    return order[:half], order[half:], test


def _utkface_as_released(dataset: Dataset, seed: int) -> Sides:
    """The released split: as many draws with replacement as there are rows; the first are D, then D_aux, and the rest D_test.

    Sides repeat and share rows: 29.5 % of the test draws are also in D, and the 7,000 draws of D are about 5,900 distinct rows.
    """
    drawn = np.random.RandomState(seed).choice(len(dataset.y), len(dataset.y))
    _, n_train, n_aux = _sizes(dataset, len(dataset.y), False, "default")
    return drawn[:n_train], drawn[n_train : n_train + n_aux], drawn[n_train + n_aux :]


RELEASED: dict[str, Callable[[Dataset, int], Sides]] = {"adult": _adult_as_released, "utkface": _utkface_as_released}


# --- checks -----------------------------------------------------------------------------------------------------------


def check_dataset(dataset: Dataset) -> None:
    """Raise BadInput for NaN, labels outside the classes and annotations of the wrong length, before anything is trained."""
    n_rows, name = len(dataset.x), dataset.name
    per_row = {"y": dataset.y, "official_test": dataset.official_test, "hashes": dataset.hashes, **dataset.annotations}
    for what, values in per_row.items():
        if values is not None and np.shape(values) != (n_rows,):
            raise BadInput(f"{name}: {what} has shape {np.shape(values)}; {n_rows} rows of x need shape ({n_rows},)")
    _check_labels(dataset)
    _check_texts(dataset)
    if dataset.official_test is not None and dataset.official_test.dtype != bool:
        raise BadInput(f"{name}: official_test is {dataset.official_test.dtype}; it must be a boolean mask")
    if dataset.x.dtype.kind == "f":
        bad = ~np.isfinite(dataset.x.reshape(n_rows, -1)).all(axis=1)
        if bad.any():
            raise BadInput(
                f"{name}: {bad.sum()} of {n_rows} rows contain NaN or infinite features, the first is row "
                f"{np.flatnonzero(bad)[0]}; remove or impute them"
            )
    if dataset.balanced and (dataset.n_classes != 2 or dataset.official_test is None):
        raise BadInput(f"{name}: balanced data needs two classes and an official test set; set balanced=False")
    if dataset.stratified and dataset.hashes is not None:
        raise BadInput(f"{name}: `hashes` and equal class proportions cannot both be respected; set stratified=False")


def _check_texts(dataset: Dataset) -> None:
    """Require one text per row, none of them blank."""
    if dataset.texts is None:
        return
    if len(dataset.texts) != len(dataset.x):
        raise BadInput(f"{dataset.name}: {len(dataset.texts)} texts for {len(dataset.x)} rows of x; give one text per row")
    blank = next((row for row, text in enumerate(dataset.texts) if not text.strip()), None)
    if blank is not None:
        raise BadInput(f"{dataset.name}: the text of row {blank} is blank; leave the row out")


def _check_labels(dataset: Dataset) -> None:
    y = np.asarray(dataset.y)
    if y.dtype.kind not in "iu":
        raise BadInput(f"{dataset.name}: labels are {y.dtype}; they must be integers in [0, {dataset.n_classes})")
    outside = (y < 0) | (y >= dataset.n_classes)
    if outside.any():
        row = np.flatnonzero(outside)[0]
        raise BadInput(f"{dataset.name}: label {y[row]} of row {row} is outside [0, {dataset.n_classes}); renumber the classes")


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**32:
        raise BadInput(f"split seed {seed} is outside [0, 2**32); use a small whole number")


def _check_sides(dataset: Dataset, train: Ints, aux: Ints, test: Ints) -> None:
    counts = {"D": len(train), "D_aux": len(aux), "D_test": len(test)}
    if min(counts.values()) == 0:
        raise BadInput(f"{dataset.name}: its {len(dataset.y)} rows leave {counts}; each side needs at least one row")
    classes = np.unique(dataset.y[train])
    if len(classes) < 2:
        raise BadInput(
            f"{dataset.name}: D contains {len(train)} rows, all of class {classes[0]}; nothing can be learned from one class: "
            "use more rows of the other classes or another split seed"
        )
