"""What many top layers share, each of which differs from a solved one in a single training row: products of rows.

A top layer is w = sum_i a_i f_i over its n training rows, so that everything but w itself takes n numbers and products of rows
with rows, however many features there are. All heads share the products of the clean rows; each has its changed row's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.linalg import eigh
from torch import Tensor

from subpop.types import Array, BadInput

if TYPE_CHECKING:
    from subpop.victims.top_layers.top_layer import TopLayer

RANK = 64
"""Directions of the rows that a preconditioner treats exactly; of the rest it knows each row's length."""
LARGEST = 10_000
"""Training rows: the table of products then takes 1.2 GB."""
NEGLIGIBLE = 1e-12
"""Curvature that is nothing beside the penalty's."""
STEEP = 1e6
"""Equations whose largest eigenvalue is beyond this are solved in float64, others in float32."""


@dataclass(frozen=True, eq=False)
class Gram:
    """The clean training rows. features, coarse: (n, d) in float64 and float32; products, low: (n, n) in float64 and as
    equations are solved; y: (n,).

    directions: (n, r), the products' leading part is directions @ directions.T; rest: (n,) what is left of their diagonal.
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
        """From a solved top layer; refuses more rows than memory would bear."""
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
            features=tensor(top.features),
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
    """The products of J heads' rows. shared: (n, n) of the clean rows; own: (J, n) of each changed row, with itself at its place.

    more: own minus what the clean row has; images: (J,) places of the changed rows.
    """

    shared: Tensor
    own: Tensor
    more: Tensor
    images: Tensor

    @classmethod
    def of(cls, gram: Gram, images: Tensor, changed: Tensor) -> Products:
        """With rows changed (J, d) in place of those at images."""
        own = changed @ gram.features.T
        own[torch.arange(len(own)), images] = (changed * changed).sum(1)
        return cls(gram.products, own, own - gram.products[images], images)

    def lowered(self, low: Tensor) -> Products:
        """The same in the precision of `low`, the clean rows' products."""
        return Products(low, self.own.to(low.dtype), self.more.to(low.dtype), self.images)

    def some(self, which: Tensor) -> Products:
        """Of some heads."""
        return Products(self.shared, self.own[which], self.more[which], self.images[which])

    def times(self, v: Tensor) -> Tensor:
        """(J, n): each head's products times its v (J, n), in the precision of the products."""
        v, places = v.to(self.shared.dtype), self.images[:, None]
        found = torch.addcmul(v @ self.shared, v.gather(1, places), self.more)
        return found.scatter_(1, places, (self.own * v).sum(1, keepdim=True))
