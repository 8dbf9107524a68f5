"""Inner products of training rows, for many top layers that differ from a solved one in a single training row each.

A top layer is w = sum_i a_i f_i over its n training rows, so everything but w itself can be computed from the n coefficients a
and inner products of rows, for any number of features. All heads share the products of the clean rows; each has those of its own
changed row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.linalg import eigh
from torch import Tensor

from subpop.types import Array, BadInput
from subpop.victims.top_layers.conjugate import times_symmetric, times_table, uncopied

if TYPE_CHECKING:
    from subpop.victims.top_layers.top_layer import TopLayer

RANK = 64
"""Number of leading directions that a preconditioner treats exactly; of the rest it uses only the diagonal."""
LARGEST = 10_000
"""Maximum number of training rows, for which the tables of products take 1.2 GB."""
NEGLIGIBLE = 1e-12
"""Curvature that is negligible relative to that of the penalty."""
STEEP = 1e6
"""Equations with a largest eigenvalue above this are solved in float64, others in float32."""


@dataclass(frozen=True, eq=False)
class Gram:
    """The clean training rows. features, coarse: (n, d) in float64, feature by feature, and in float32; y: (n,).

    products, low: (n, n) in float64 and in the dtype in which equations are solved; directions: (n, r), such that the leading
    part of the products is directions @ directions.T; rest: (n,) the rest of their diagonal.
    """

    features: Tensor
    coarse: Tensor
    products: Tensor
    low: Tensor
    directions: Tensor
    rest: Tensor
    y: Tensor
    least_weight: float
    decay: float
    tolerance: float

    @classmethod
    def of(cls, top: TopLayer) -> Gram:
        """The Gram matrix of a solved top layer. Raises BadInput if there are too many rows for memory."""
        n = len(top.y)
        if n > LARGEST:
            raise BadInput(
                f"{n} training rows need a table of {n} x {n} products; attack a training set of at most {LARGEST} rows"
            )
        products = top.features @ top.features.T
        sizes, vectors = eigh(products, subset_by_index=[max(0, n - RANK), n - 1])
        directions = vectors * np.sqrt(np.maximum(sizes, 0))
        low = torch.float32 if sizes[-1] / (4 * n * top.decay) < STEEP else torch.float64

        def tensor(array: Array) -> Tensor:
            return torch.from_numpy(np.array(array, dtype=np.float64, order="C"))

        return cls(
            features=tensor(top.features.T).T,
            coarse=tensor(top.features).float(),
            products=tensor(products),
            low=tensor(products).to(low),
            directions=tensor(directions).to(low),
            rest=tensor(np.maximum(np.diag(products) - (directions**2).sum(axis=1), 0)),
            y=tensor(top.y),
            least_weight=NEGLIGIBLE / max(float(np.diag(products).max()), 1e-300),
            decay=top.decay,
            tolerance=top.tolerance,
        )


@dataclass(frozen=True, eq=False)
class Products:
    """Inner products of the rows of J heads. shared: (n, n) of the clean rows; own: (J, n) of each head's changed row.

    own has the product of the changed row with itself at the row's place; more: own minus the clean row's products; images: (J,)
    places of the changed rows.
    """

    shared: Tensor
    own: Tensor
    more: Tensor
    images: Tensor

    @classmethod
    def of(cls, gram: Gram, images: Tensor, changed: Tensor) -> Products:
        """The products if the rows at `images` are replaced by `changed` (J, d)."""
        own = times(changed, gram.features.T)
        own[torch.arange(len(own)), images] = (changed * changed).sum(1)
        return cls(gram.products, own, own - gram.products[images], images)

    def lowered(self, low: Tensor) -> Products:
        """The same products in the precision of `low`, the clean rows' products."""
        return Products(low, self.own.to(low.dtype), self.more.to(low.dtype), self.images)

    def some(self, which: Tensor) -> Products:
        """Of some heads."""
        return Products(self.shared, self.own[which], self.more[which], self.images[which])

    def times(self, v: Tensor) -> Tensor:
        """(J, n) each head's products times its v (J, n), in the precision of the products."""
        v, places = v.to(self.shared.dtype), self.images[:, None]
        found = torch.addcmul(times(v, self.shared, times_symmetric), v.gather(1, places), self.more)
        return found.scatter_(1, places, (self.own * v).sum(1, keepdim=True))


def times(rows: Tensor, table: Tensor, product: Callable[[Array, Array, int], Array] = times_table) -> Tensor:
    """rows (m, n) times table (n, k), of the same dtype. product: `times_symmetric` for a symmetric table."""
    found: Tensor = torch.from_numpy(product(rows.contiguous().numpy(), table.numpy(), uncopied()))
    return found
