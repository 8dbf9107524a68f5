"""Gaussian mixtures with known subpopulations of disjoint support.

Each component is a subpopulation of a single class. A component is a unit Gaussian truncated to the region in which its own
centre is the nearest, less a margin: rows of two components are never closer than `GAP`.

*Source*: own construction, after the paper's mixture model of disjoint subpopulations; `mixture_2d` is the set-up of its Figure
2: two large components and a small one of class 1 next to them, above the class-0 component. A clean linear model tilts far
enough to classify it correctly; poison undoes the tilt without affecting any other row. `mixture_cells` is for learners that
know the supports: the components are at the corners of a cube, so that halving three coordinates puts each into a separate bin,
and each extends along a separate axis, so that a linear model can label them arbitrarily.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from subpop.types import BadInput, Dataset, Ints

GAP = 0.1
"""Smallest distance between rows of two components, in standard deviations."""
CANDIDATES = 16
"""Number of candidates for each new centre; the one farthest from the others is used."""
MAX_DRAWS = 2000
"""Maximum number of draws per row before centres are considered too close for truncation."""

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class MixtureSpec:
    """Parameters of a mixture."""

    dimension: int = 20
    """Number of features."""
    n_subpopulations: int = 16
    """Number of components."""
    rows: int | tuple[int, ...] = 120
    """Number of rows per subpopulation: one number, or one for each."""
    separability: float = 6.0
    """Distance of the nearest two centres, in standard deviations of a component."""
    label_noise: float | tuple[float, ...] = 0.02
    """Fraction of rows with another class than their component's: one number, or one for each."""
    n_classes: int = 2
    """Number of classes."""
    seed: int = 0
    """Seed of the mixture."""
    centres: tuple[tuple[float, ...], ...] = ()
    """One centre per subpopulation; drawn at random if empty."""
    classes: tuple[int, ...] = ()
    """One class per subpopulation; drawn at random if empty."""

    def __post_init__(self) -> None:
        k, d = self.n_subpopulations, self.dimension
        checks = {
            f"dimension={d}: at least 1": d >= 1,
            f"n_classes={self.n_classes}: from 2 to n_subpopulations={k}": 2 <= self.n_classes <= k,
            f"rows={self.rows}: {k} numbers >= 1, or one": all(n >= 1 for n in self.row_counts) and len(self.row_counts) == k,
            f"label_noise={self.label_noise}: {k} shares in [0, 1], or one": all(0 <= s <= 1 for s in self.noise_shares)
            and len(self.noise_shares) == k,
            f"separability={self.separability}: above 0": 0 < self.separability < float("inf"),
            f"centres: {k} points of {d} numbers, or none": not self.centres or np.shape(self.centres) == (k, d),
            f"classes={self.classes}: {k} numbers in [0, {self.n_classes}), or none": not self.classes
            or (len(self.classes) == k and set(self.classes) <= set(range(self.n_classes))),
        }
        for allowed, holds in checks.items():
            if not holds:
                raise BadInput(f"a mixture cannot have {allowed}")

    @property
    def row_counts(self) -> tuple[int, ...]:
        return (self.rows,) * self.n_subpopulations if isinstance(self.rows, int) else self.rows

    @property
    def noise_shares(self) -> tuple[float, ...]:
        return self.label_noise if isinstance(self.label_noise, tuple) else (self.label_noise,) * self.n_subpopulations


def make_mixture(spec: MixtureSpec, name: str = "mixture", group_bounds: tuple[float, float] = (0, float("inf"))) -> Dataset:
    """Generate a mixture: x (n, dimension) float32, all rows distinct; annotation `component` (n,).

    Raises BadInput if the centres are so close that truncation leaves nothing of a component.
    """
    rng = np.random.default_rng(spec.seed)
    centres = _centres(spec, rng)
    classes = spec.classes or tuple(rng.permutation(np.arange(spec.n_subpopulations) % spec.n_classes).tolist())
    x = np.concatenate([_component_rows(i, n, centres, rng) for i, n in enumerate(spec.row_counts)])
    y = np.concatenate([_component_labels(spec, i, classes[i], rng) for i in range(spec.n_subpopulations)])
    component = np.repeat(np.arange(spec.n_subpopulations), spec.row_counts)
    return Dataset(
        name=name,
        x=x,
        y=y,
        n_classes=spec.n_classes,
        annotations={"component": component},
        group_bounds=group_bounds,
        n_clusters=spec.n_subpopulations,
        notes=(f"generated: {spec}",),
    )


def centres_of(spec: MixtureSpec) -> Matrix:
    """(k, d) centres of a mixture's components, in their order: a row belongs to the nearest one."""
    return _centres(spec, np.random.default_rng(spec.seed))


def _centres(spec: MixtureSpec, rng: np.random.Generator) -> Matrix:
    return np.array(spec.centres, dtype=np.float64) if spec.centres else _spread_centres(spec, rng)


def _spread_centres(spec: MixtureSpec, rng: np.random.Generator) -> Matrix:
    """Random, well separated centres, scaled so that the nearest two are `separability` apart."""
    centres = rng.normal(size=(1, spec.dimension))
    while len(centres) < spec.n_subpopulations:
        candidates = rng.normal(size=(CANDIDATES, spec.dimension))
        nearest = _squared_distances(candidates, centres).min(axis=1)
        centres = np.concatenate([centres, candidates[[nearest.argmax()]]])
    between = _squared_distances(centres, centres)[np.triu_indices(len(centres), 1)]
    return np.asarray(centres * (spec.separability / np.sqrt(between.min())))


def _component_rows(own: int, n_rows: int, centres: Matrix, rng: np.random.Generator) -> NDArray[np.float32]:
    """(n_rows, d) distinct rows around centre `own`, at least GAP / 2 on its side of each bisecting plane."""
    kept = np.empty((0, centres.shape[1]), dtype=np.float32)
    for _ in range(MAX_DRAWS):
        drawn = (centres[own] + rng.normal(size=(n_rows, centres.shape[1]))).astype(np.float32)
        kept = np.concatenate([kept, drawn[_depth(drawn, own, centres) >= GAP / 2]])
        kept = kept[np.sort(np.unique(kept, axis=0, return_index=True)[1])]
        if len(kept) >= n_rows:
            return kept[:n_rows]
    raise BadInput(f"component {own} has no space between its neighbours: centres must be farther apart; raise separability")


def _depth(x: NDArray[np.float32], own: int, centres: Matrix) -> Matrix:
    """Distance of each row from the nearest bisecting plane to another centre; negative beyond it."""
    others = np.delete(np.arange(len(centres)), own)
    squared = _squared_distances(x.astype(np.float64), centres)
    apart = np.linalg.norm(centres[others] - centres[own], axis=1)
    if not apart.all():
        raise BadInput(f"centre {own} equals another centre; give each component its own centre")
    return np.asarray(((squared[:, others] - squared[:, [own]]) / (2 * apart)).min(axis=1))


def _squared_distances(a: Matrix, b: Matrix) -> Matrix:
    return np.asarray(((a[:, None] - b[None]) ** 2).sum(axis=2))


def _component_labels(spec: MixtureSpec, component: int, own_class: int, rng: np.random.Generator) -> Ints:
    """Return the component's class, except for an exact fraction of rows (rounded) that get one of the other classes."""
    n_rows = spec.row_counts[component]
    labels = np.full(n_rows, own_class, dtype=np.int64)
    noisy = rng.permutation(n_rows)[: round(spec.noise_shares[component] * n_rows)]
    labels[noisy] = (own_class + rng.integers(1, spec.n_classes, len(noisy))) % spec.n_classes
    return labels


def _corners(half_side: float, reach: float) -> tuple[tuple[float, ...], ...]:
    """Eight corners of a cube, each moved along a separate axis: points of 3 + 8 coordinates."""
    corner = [[half_side if i >> bit & 1 else -half_side for bit in range(3)] for i in range(8)]
    return tuple(tuple(corner[i] + [reach * (axis == i) for axis in range(8)]) for i in range(8))


CELLS = MixtureSpec(dimension=11, n_subpopulations=8, rows=208, label_noise=0.0, seed=3, centres=_corners(5.0, 4.0))
SPECS: dict[str, MixtureSpec] = {
    "mixture": MixtureSpec(),
    "mixture_multiclass": MixtureSpec(n_subpopulations=15, n_classes=3, seed=1),
    "mixture_2d": MixtureSpec(
        dimension=2,
        n_subpopulations=3,
        rows=(600, 600, 240),
        label_noise=0.0,
        seed=2,
        centres=((-2.5, 0.0), (2.5, 0.0), (-1.5, 5.0)),
        classes=(0, 1, 1),
    ),
    "mixture_cells": CELLS,
    "mixture_cells_noisy": replace(CELLS, label_noise=0.125),
}
BOUNDS: dict[str, tuple[float, float]] = {"mixture_2d": (20, 160)}
"""Only the small component of the 2-D mixture is attacked."""
SIZES: dict[str, tuple[int, int]] = dict.fromkeys(("mixture_cells", "mixture_cells_noisy"), (256, 1024))
"""|D| and |D_aux| if they are not thirds: a pool four times as large has enough distinct poison for alpha = 2 of D."""


def load(name: str, root: Path | None = None) -> Dataset:
    """Generate one of the named mixtures of `SPECS`; `root` is not used."""
    generated = make_mixture(SPECS[name], name, BOUNDS.get(name, (0, float("inf"))))
    return replace(generated, sizes=SIZES.get(name))
