"""Newton's method for many top layers in lockstep; heads that have converged are frozen.

The objective of w = sum_i a_i f_i is mean log-loss(margins) + decay / 2 a . margins, where margins = K a and K are the products
of rows. Its gradient is sum_i rho_i f_i with rho = pull + decay a and pull = (chance - y) / n; a Newton step d solves
(I + weight K) d = -rho / decay, weight = chance (1 - chance) / (n decay). With d = root q and root^2 = weight, this is
(I + root K root) q = -rho / (decay root), which is symmetric, with a moderate right-hand side because rows with a small weight
have a small pull.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from subpop.types import BadInput
from subpop.victims.top_layers.equations import Equations, Preconditioner
from subpop.victims.top_layers.gram import Gram, Products
from subpop.victims.top_layers.top_layer import HALVINGS, NEWTON_LIMIT, SLACK, SUFFICIENT

LOOSE = 3e-2
"""Loosest relative accuracy of the equations of a Newton step."""
FASTER = 1.5
"""The accuracy of a step is the last reduction factor of the residual to this power."""
FAR = 0.5
"""The preconditioner is recomputed if some margin has moved by more than this."""
SHORT = 1e-5
"""Steps from residuals below this are so short that float32 products suffice and no line search is needed."""
PATIENCE, ROUNDS = 25, 4
"""Maximum number of Newton steps of a head in lockstep, and of rounds that check all heads with exact products."""
BISECTIONS = 24


@dataclass(frozen=True, eq=False)
class Point:
    """The state of J heads, or a step. a: (J, n) coefficients of the rows; margin: (J, n) of all rows."""

    a: Tensor
    margin: Tensor

    def some(self, which: Tensor) -> Point:
        """Of some heads."""
        return Point(self.a[which], self.margin[which])


@dataclass(frozen=True, eq=False)
class Optima:
    """Solved problems. own: (J, n) products of their changed rows; near: a preconditioner; residual: (J,) gradient norms."""

    point: Point
    own: Tensor
    near: Preconditioner
    residual: Tensor

    def some(self, which: Tensor) -> Optima:
        """Of some heads."""
        return Optima(self.point.some(which), self.own[which], self.near.some(which), self.residual[which])


@dataclass(frozen=True, eq=False)
class Problems:
    """The problems of J heads, which share `gram`."""

    gram: Gram
    products: Products

    @property
    def n(self) -> int:
        """Number of training rows."""
        return len(self.gram.y)

    def some(self, which: Tensor) -> Problems:
        """The problems of some heads."""
        return Problems(self.gram, self.products.some(which))

    def pull(self, margin: Tensor) -> Tensor:
        """(J, n) first derivatives of the mean loss in the margins, with full relative accuracy even if they are small."""
        sign = 1 - 2 * self.gram.y
        return sign * (sign * margin).sigmoid() / self.n

    def rho(self, at: Point) -> Tensor:
        """(J, n) coefficients of the rows in the objective's gradient."""
        return self.pull(at.margin) + self.gram.decay * at.a

    def gradient_norm(self, at: Point, products: Products) -> Tensor:
        """(J,) norms of the objective's gradient."""
        rho = self.rho(at)
        return (rho * products.times(rho)).sum(1).clamp(min=0).sqrt()

    def weight(self, margin: Tensor) -> Tensor:
        """(J, n) second derivatives divided by the decay, bounded away from 0 because their roots are divisors."""
        return (margin.sigmoid() * (-margin).sigmoid() / (self.n * self.gram.decay)).clamp(min=self.gram.least_weight)

    def preconditioner(self, margin: Tensor) -> Preconditioner:
        """The preconditioner of the equations at these margins, also usable nearby."""
        return Preconditioner.of(self.gram, self.products, self.weight(margin), margin)

    def losses(self, margin: Tensor) -> Tensor:
        """(J,) mean log-loss, without the penalty."""
        return F.softplus((1 - 2 * self.gram.y) * margin).mean(1)


def minimise(problems: Problems, start: Optima) -> Optima:
    """The optima, starting from those for other changed rows. Raises BadInput if a residual stays above the tolerance."""
    a, near, residual = start.point.a + _first_step(problems, start), start.near, start.residual
    products, tolerance = problems.products, problems.gram.tolerance
    coarse, at = products.lowered(problems.gram.low), Point(a, products.times(a))
    for _ in range(ROUNDS):
        a, near, stuck = _descended(problems, coarse, at, near)
        for j in stuck[:, None]:
            a[j] = _from_scratch(problems.some(j))
        at = Point(a, products.times(a))
        residual = problems.gradient_norm(at, coarse)
        if not (residual > tolerance).any():
            return Optima(at, products.own, near, residual)
    worst = float(residual.max())
    raise BadInput(f"a top layer's residual stays at {worst:.1e}, above {tolerance:.1e}; scale the features")


def _descended(problems: Problems, coarse: Products, done: Point, near: Preconditioner) -> tuple[Tensor, Preconditioner, Tensor]:
    """Approximate optima, up to small errors of coarse products in short steps and residuals; and heads that did not converge."""
    tolerance, residual = problems.gram.tolerance, torch.full_like(done.a[:, 0], torch.inf)
    live, here = torch.arange(len(residual)), problems
    for _ in range(PATIENCE):
        if (done.margin - near.made_at).abs().max() > FAR:
            near = problems.preconditioner(done.margin)
        at = done.some(live)
        before, residual[live] = residual[live], here.gradient_norm(at, coarse)
        going = (residual[live] > tolerance).nonzero()[:, 0]
        if not len(going):
            return done.a, near, going
        if len(going) < len(live):
            live, here, at, coarse, before = live[going], here.some(going), at.some(going), coarse.some(going), before[going]
        # Convergence is superlinear: much more accuracy than the last reduction, or than required, would be wasted.
        fall = torch.where(before.isfinite(), residual[live] / before, 1) ** FASTER
        accuracy = torch.maximum(fall.clamp(max=LOOSE), tolerance / residual[live] / 3)
        root, rho = here.weight(at.margin).sqrt(), here.rho(at)
        step = root * Equations(coarse, root, near.some(live)).solve(-rho / (here.gram.decay * root), accuracy)
        if residual[live].max() > SHORT:
            moved = _searched(here, at, rho, Point(step, here.products.times(step)))
        else:
            moved = Point(at.a + step, at.margin + coarse.times(step))
        done.a[live], done.margin[live] = moved.a, moved.margin
    return done.a, near, live


def _from_scratch(problem: Problems) -> Tensor:
    """(1, n) the optimum of one head, computed from 0 with full matrices, if all losses are nearly linear at its start."""
    gram, products = problem.gram, problem.products
    table, image = products.shared.clone(), products.images
    table[image], table[:, image] = products.own, products.own.T
    at = Point(torch.zeros_like(products.own), torch.zeros_like(products.own))
    for _ in range(NEWTON_LIMIT):
        if problem.gradient_norm(at, products) <= gram.tolerance:
            break
        root, rho = problem.weight(at.margin).sqrt(), problem.rho(at)
        factor = torch.linalg.cholesky(torch.eye(problem.n, dtype=root.dtype) + root.T * table * root)
        step = root * torch.cholesky_solve((-rho / (gram.decay * root)).T, factor).T
        at = _searched(problem, at, rho, Point(step, products.times(step)))
    return at.a


def _first_step(problems: Problems, start: Optima) -> Tensor:
    """A step that uses the exact loss of the changed row and a quadratic model of everything else.

    A row that has just moved may be far on the wrong side, where its loss is nearly linear: a Newton step would see no curvature
    and go much too far. The row's coefficient solves one equation in one unknown, by bisection.
    """
    gram, own, places, at = problems.gram, problems.products.own, problems.products.images[:, None], start.point
    root, part = problems.weight(at.margin).sqrt().scatter(1, places, 0), at.a.gather(1, places)
    # The start is an optimum except that its margins are products with the previous changed row.
    shift = root * part * (start.own - own)
    twice = torch.arange(len(own)).repeat(2)
    both = Equations(problems.products.lowered(gram.low), root, start.near).some(twice)
    q = both.solve(torch.cat([shift, -root * own]), torch.full_like(own[:, 0], LOOSE).repeat(2))
    # How the other coefficients move if that of the changed row is fixed, and per unit change of it.
    free, along = root * q[: len(own)], (root * q[len(own) :]).scatter(1, places, 1)
    margin, slope = (own * (at.a + free)).sum(1), (own * along).sum(1)
    goal = _part_of_one(margin - slope * part[:, 0], slope, gram.y[places[:, 0]], problems.n * gram.decay)
    return free + (goal[:, None] - part) * along


def _part_of_one(margin: Tensor, slope: Tensor, y: Tensor, strength: float) -> Tensor:
    """(J,) a with strength a = y - chance(margin + slope a), slope > 0."""
    low, high = margin - slope / strength, margin + slope / strength
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        above = middle + slope / strength * (middle.sigmoid() - y) > margin
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return (y - middle.sigmoid()) / strength


def _searched(problems: Problems, at: Point, rho: Tensor, step: Point) -> Point:
    """Backtracking line search: for each head, the point at the first of the lengths 1, 1/2, 1/4, ... with enough decrease."""
    half = problems.gram.decay / 2
    still, cross, far = (half * (x * y).sum(1) for x, y in ((at.a, at.margin), (at.a, step.margin), (step.a, step.margin)))
    slope, start = (rho * step.margin).sum(1), problems.losses(at.margin) + still
    length, there = torch.ones_like(slope), at
    for _ in range(HALVINGS):
        column = length[:, None]
        there = Point(at.a + column * step.a, at.margin + column * step.margin)
        value = problems.losses(there.margin) + still + length * (2 * cross + length * far)
        worse = value > start + SUFFICIENT * length * slope + SLACK * start
        if not worse.any():
            break
        length = torch.where(worse, length / 2, length)
    return there
