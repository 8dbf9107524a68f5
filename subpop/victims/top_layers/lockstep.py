"""Newton's method for many top layers in lockstep; heads that are done freeze.

The objective of w = sum_i a_i f_i is mean log-loss(margins) + decay / 2 a . margins, where margins = K a and K are the products
of rows. Its gradient is sum_i rho_i f_i with rho = pull + decay a and pull = (chance - y) / n; a Newton step d solves
(I + weight K) d = -rho / decay, weight = chance (1 - chance) / (n decay). With d = root q and root^2 = weight that is
(I + root K root) q = -rho / (decay root): symmetric, and its right side stays moderate, as a row of little weight pulls little.
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
"""Relative accuracy of the equations of a Newton step where nothing says that more would pay."""
FASTER = 1.5
"""Each step's accuracy is the last fall of the residual to this power."""
FAR = 0.5
"""A preconditioner is made anew where some margin has moved by more."""
SHORT = 1e-5
"""Steps from residuals below this are so short that products in float32 will do, and that none is too long."""
PATIENCE, ROUNDS = 25, 4
"""Newton steps a head is given in lockstep, and how often all are looked at with exact products."""
BISECTIONS = 24


@dataclass(frozen=True, eq=False)
class Point:
    """Where J heads are, or a step. a: (J, n) parts of the rows in the coefficients; margin: (J, n) of all rows."""

    a: Tensor
    margin: Tensor

    def some(self, which: Tensor) -> Point:
        """Of some heads."""
        return Point(self.a[which], self.margin[which])


@dataclass(frozen=True, eq=False)
class Optima:
    """Solved problems. own: (J, n) products of their changed rows; near: a preconditioner there; residual: (J,) of gradients."""

    point: Point
    own: Tensor
    near: Preconditioner
    residual: Tensor

    def some(self, which: Tensor) -> Optima:
        """Of some heads."""
        return Optima(self.point.some(which), self.own[which], self.near.some(which), self.residual[which])


@dataclass(frozen=True, eq=False)
class Problems:
    """J heads on their own rows, which share `gram`."""

    gram: Gram
    products: Products

    @property
    def n(self) -> int:
        """Training rows."""
        return len(self.gram.y)

    def some(self, which: Tensor) -> Problems:
        """Some of them."""
        return Problems(self.gram, self.products.some(which))

    def pull(self, margin: Tensor) -> Tensor:
        """(J, n) first derivatives of the mean loss in the margins, exact to the last digit also where they are small."""
        sign = 1 - 2 * self.gram.y
        return sign * (sign * margin).sigmoid() / self.n

    def rho(self, at: Point) -> Tensor:
        """(J, n) parts of the rows in the objective's gradient."""
        return self.pull(at.margin) + self.gram.decay * at.a

    def gradient_norm(self, at: Point, products: Products) -> Tensor:
        """(J,) of the objective."""
        rho = self.rho(at)
        return (rho * products.times(rho)).sum(1).clamp(min=0).sqrt()

    def weight(self, margin: Tensor) -> Tensor:
        """(J, n) second derivatives, over the decay; at least a very small one, as roots are divided by."""
        return (margin.sigmoid() * (-margin).sigmoid() / (self.n * self.gram.decay)).clamp(min=self.gram.least_weight)

    def preconditioner(self, margin: Tensor) -> Preconditioner:
        """For the equations there and nearby."""
        return Preconditioner.of(self.gram, self.products, self.weight(margin), margin)

    def losses(self, margin: Tensor) -> Tensor:
        """(J,) mean log-loss, without the penalty."""
        return F.softplus((1 - 2 * self.gram.y) * margin).mean(1)


def minimise(problems: Problems, start: Optima) -> Optima:
    """The optima, from those of problems whose changed rows were other ones; all residuals are below the tolerance."""
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
    """Near the optima, but for small errors in the margins, as short steps and residuals use coarse products; and who is not."""
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
        # Residuals fall ever faster: to solve for much more than the last fall, or than what is asked for, is wasted.
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
    """(1, n) the optimum of one head whose start was so bad that all losses are straight there: from 0, with whole matrices."""
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
    """A step that keeps the loss of the changed row as it is and replaces all else by its quadratic model at the start.

    A row that has just moved may be far on the wrong side, where its loss is straight: Newton's step would see no curvature and
    go much too far. Its part solves one equation in one unknown, by bisection.
    """
    gram, own, places, at = problems.gram, problems.products.own, problems.products.images[:, None], start.point
    root, part = problems.weight(at.margin).sqrt().scatter(1, places, 0), at.a.gather(1, places)
    # The start is an optimum but for this: its margins were products with the row as it was.
    shift = root * part * (start.own - own)
    twice = torch.arange(len(own)).repeat(2)
    both = Equations(problems.products.lowered(gram.low), root, start.near).some(twice)
    q = both.solve(torch.cat([shift, -root * own]), torch.full_like(own[:, 0], LOOSE).repeat(2))
    # How the others move while the changed row's part stays, and along with a unit of it.
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
    """Where the first of the lengths 1, 1/2, 1/4 ... leads that lowers the objective enough, head by head."""
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
