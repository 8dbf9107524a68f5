"""Solving the linear equations of Newton steps of many top layers, by preconditioned conjugate gradients in lockstep."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from subpop.types import Array
from subpop.victims.top_layers.conjugate import Near, System, conjugate_gradients, uncopied
from subpop.victims.top_layers.gram import Gram, Products

CONJUGATE_LIMIT = 300
FINEST = 1e-5
"""Relative accuracy that float32 reaches reliably."""
EXACT, ROUNDS = 1e-7, 10
"""Relative accuracy of final solutions, for which the pixel gradients of an attack are accurate to a few parts in 100,000, and
the maximum number of refinements."""


@dataclass(frozen=True, eq=False)
class Preconditioner:
    """The inverse of I + root K root for J heads, with K approximated by its leading directions and diagonal.

    inner: (J, n) inverse of the diagonal part; outer: (J, n) root times inner; core: (J, r, r); made_at: (J, n) margins.
    """

    made_at: Tensor
    directions: Tensor
    inner: Tensor
    outer: Tensor
    core: Tensor

    @classmethod
    def of(cls, gram: Gram, products: Products, weight: Tensor, margin: Tensor) -> Preconditioner:
        """The preconditioner at margin (J, n); root is the square root of weight (J, n), computed from margin."""
        places, low = products.images[:, None], gram.low.dtype
        change = products.more.gather(1, places)
        rest = gram.rest.repeat(len(weight), 1).scatter_add_(1, places, change).clamp_(min=0)
        inner = 1 / (1 + weight * rest)
        # Head by head: all at once would not fit into a cache.
        core = torch.stack([(gram.directions * each[:, None]).T @ gram.directions for each in (weight * inner).to(low)])
        core.diagonal(dim1=1, dim2=2).add_(1)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(core))
        return cls(margin.clone(), gram.directions, inner.to(low), (weight.sqrt() * inner).to(low), inverse)

    def some(self, which: Tensor) -> Preconditioner:
        """Of some heads."""
        return Preconditioner(self.made_at[which], self.directions, self.inner[which], self.outer[which], self.core[which])

    def times(self, v: Tensor) -> Tensor:
        """(J, n)."""
        core = torch.bmm(((self.outer * v) @ self.directions)[:, None], self.core)[:, 0]
        return torch.addcmul(self.inner * v, self.outer, core @ self.directions.T, value=-1)


@dataclass(frozen=True, eq=False)
class Equations:
    """(I + root K root) z = b for J heads, with K the products of their rows and root (J, n); solved in the precision of K.

    preconditioner: may have been computed for similar equations.
    """

    products: Products
    root: Tensor
    preconditioner: Preconditioner

    def some(self, which: Tensor) -> Equations:
        """Of some heads."""
        return Equations(self.products.some(which), self.root[which], self.preconditioner.some(which))

    def times(self, v: Tensor) -> Tensor:
        """(I + root K root) v."""
        return torch.addcmul(v, self.root, self.products.times(self.root * v))

    def solve(self, b: Tensor, accuracy: Tensor) -> Tensor:
        """(J, n) z to a relative accuracy (J,) in the preconditioner's norm, limited by the precision."""
        size = b.norm(dim=1, keepdim=True).clamp(min=torch.finfo(b.dtype).tiny)
        left = (b / size).to(self.products.shared.dtype)
        products, near = self.products, self.preconditioner
        rows = (products.shared, products.own, products.more, products.images, self.root.to(left.dtype))
        system = System(*map(_array, rows))
        inverse = Near(*map(_array, (near.inner, near.outer, near.core, near.directions)))
        goal = _array(accuracy.clamp(min=FINEST))
        found = conjugate_gradients(system, inverse, _array(left), goal, CONJUGATE_LIMIT, uncopied())
        solution: Tensor = torch.from_numpy(found).double() * size
        return solution


def _array(tensor: Tensor) -> Array:
    array: Array = tensor.contiguous().numpy()
    return array


def solve_exactly(products: Products, equations: Equations, root: Tensor, b: Tensor) -> Tensor:
    """(J, n) z with (I + root K root) z = b to the accuracy `EXACT`, with refinement in float64 if the equations are float32."""
    size, z, left = b.norm(dim=1).clamp(min=torch.finfo(b.dtype).tiny), torch.zeros_like(b), b
    for _ in range(ROUNDS):
        share = left.norm(dim=1) / size
        accuracy = EXACT / share.clamp(min=EXACT) / 2
        z = z + equations.solve(left, accuracy)
        if not (accuracy < FINEST).any():  # float32 was accurate enough
            break
        left = b - z - root * products.times(root * z)
    return z
