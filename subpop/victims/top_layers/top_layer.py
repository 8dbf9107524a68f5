"""The victim of a training-set attack: logistic regression without intercept on the features of a frozen network.

*Source*: Koh and Liang, Understanding Black-box Predictions via Influence Functions (ICML 2017), section 5.2: the last layer on
Inception features, mean log-loss + decay / 2 |w|^2 with decay .001, which is scikit-learn's C = 1 / (n decay).
*Deviations*: solved by Newton's method with a direct factorisation; they used L-BFGS and solved with the Hessian approximately.

If there are more features than rows, everything is computed in the span of the rows, which contains the solution; outside it the
Hessian is that of the penalty.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, qr
from scipy.special import expit

from subpop.types import Array, BadInput, Bools, Ints

Doubles = NDArray[np.float64]

DECAY = 0.001
ERROR = 1e-8
"""Maximum distance of solutions from the optimum, which is at most the gradient's norm / decay."""
NEWTON_LIMIT = 100
HALVINGS = 40
SUFFICIENT, SLACK = 1e-4, 1e-12
"""A step must reduce the objective by this fraction of the decrease that its slope predicts, up to rounding."""
ROUNDING = float(np.finfo(np.float64).eps)


class TopLayer:
    """A minimiser of mean log-loss + decay / 2 |w|^2; the probability of class 1 is sigmoid(w . f). Made by `fit`.

    features: (n, d); y: (n,); w: (d,); kkt_residual: Euclidean norm of the objective's gradient; tolerance: bound of the
    residual, here and for all heads of a fleet.
    """

    def __init__(self, features: Doubles, y: Ints, decay: float) -> None:
        self.features, self.y, self.decay = features, y, decay
        self.basis, self.rows = row_space(features)
        self.point, self.tolerance = self._solve()
        self.w: Doubles = self.point if self.basis is None else self.point @ self.basis
        gradient = (expit(features @ self.w) - y) @ features / len(y) + decay * self.w
        self.kkt_residual = float(np.linalg.norm(gradient))

    @classmethod
    def fit(cls, features: Array, y: Array, decay: float = DECAY) -> TopLayer:
        """Fit to features (n, d) and y (n,) in {0, 1}. Raises BadInput unless both classes occur, decay > 0 and all is finite."""
        if not (np.isfinite(decay) and decay > 0):
            raise BadInput(f"decay={decay}; it must be > 0, or the Hessian may be singular")
        rows, labels = checked_features(features, "training features"), np.asarray(y)
        if labels.shape != (len(rows),):
            raise BadInput(f"labels have shape {labels.shape}; give one for each of {len(rows)} rows of features")
        found = np.unique(labels)
        if not np.isin(found, (0, 1)).all():
            raise BadInput(f"labels {found[:5].tolist()}; a top layer knows the classes 0 and 1 only: relabel or select rows")
        if len(found) < 2:
            raise BadInput(f"all {len(rows)} rows have class {found.tolist()}; give rows of both classes 0 and 1")
        return cls(rows, labels.astype(np.int64), float(decay))

    def margins(self, features: Array) -> Doubles:
        """(k,) w . f for (k, d) features; positive for class 1."""
        return np.asarray(features @ self.w, dtype=np.float64)

    def right(self, features: Array, y: int | Array) -> Bools:
        """(k,) whether class y is predicted."""
        return np.asarray((self.margins(features) > 0) == np.asarray(y, dtype=bool))

    def loss(self) -> float:
        """Mean log-loss of the training rows, without the penalty."""
        return float(log_loss(self.margins(self.features), self.y).mean())

    def objective(self) -> float:
        """Mean log-loss of the training rows plus the penalty."""
        return self.loss() + self.decay / 2 * float(self.w @ self.w)

    def accuracy(self) -> float:
        """Fraction of training rows that are classified correctly."""
        return float(self.right(self.features, self.y).mean())

    def inverse_hessian_times(self, g: Array) -> Doubles:
        """(k, d) solutions of H s = g, for (k, d) right-hand sides."""
        if self.basis is None:
            return np.asarray(cho_solve(self.factor, g.T).T)
        within = g @ self.basis.T
        solved = cho_solve(self.factor, within.T).T
        return np.asarray(g / self.decay + (solved - within / self.decay) @ self.basis)

    @cached_property
    def hessian(self) -> Doubles:
        """(m, m) Hessian at the solution, in the coordinates of `rows`."""
        chance = expit(self.rows @ self.point)
        return _hessian(self.rows, chance * (1 - chance), self.decay)

    @cached_property
    def factor(self) -> tuple[Doubles, bool]:
        """The Hessian's Cholesky factor, for scipy's cho_solve."""
        return cho_factor(self.hessian, lower=True)  # type: ignore[no-any-return]

    def _solve(self) -> tuple[Doubles, float]:
        """The optimum in the coordinates of `rows`, and the bound of its residual."""
        n, longest = len(self.y), float(np.linalg.norm(self.rows, axis=1).max())
        w = np.zeros(self.rows.shape[1])
        for _ in range(NEWTON_LIMIT):
            margin = self.rows @ w
            chance = expit(margin)
            gradient = (chance - self.y) @ self.rows / n + self.decay * w
            tolerance = tolerance_of(self.decay, longest, float(np.abs(margin).max()))
            if np.linalg.norm(gradient) <= tolerance:
                return w, tolerance
            step = -cho_solve(cho_factor(_hessian(self.rows, chance * (1 - chance), self.decay), lower=True), gradient)
            w = w + self._length(w, step, margin, float(gradient @ step)) * step
        raise BadInput(
            f"the top layer did not converge in {NEWTON_LIMIT} steps; scale its features (rows up to {longest:.3g} long)"
        )

    def _length(self, w: Doubles, step: Doubles, margin: Doubles, slope: float) -> float:
        """The first step length among 1, 1/2, 1/4, ... that reduces the objective enough."""
        change, length = self.rows @ step, 1.0
        start = log_loss(margin, self.y).mean() + self.decay / 2 * (w @ w)
        for _ in range(HALVINGS):
            there = w + length * step
            value = log_loss(margin + length * change, self.y).mean() + self.decay / 2 * (there @ there)
            if value <= start + SUFFICIENT * length * slope + SLACK * abs(start):
                break
            length /= 2
        return length


def row_space(features: Doubles) -> tuple[Doubles | None, Doubles]:
    """(m, d) orthonormal rows that span the features, and (n, m) coordinates; None and the features if d <= n."""
    n, d = features.shape
    if d <= n:
        return None, features
    # Householder's method: orthonormal even if rows repeat or features are 0. `one_thread` limits the threads of scipy's qr.
    q, r = qr(features.T, mode="economic")
    return np.ascontiguousarray(q.T), np.ascontiguousarray(r.T)


def checked_features(features: Array, what: str) -> Doubles:
    """(n, d) float64 with n and d at least 1. Raises BadInput for other shapes and values that are not finite."""
    found: Doubles = np.ascontiguousarray(features, dtype=np.float64)
    if found.ndim != 2 or not found.size:
        raise BadInput(f"{what} have shape {found.shape}; give (rows, features), at least one of each")
    bad = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if len(bad):
        raise BadInput(f"{what} are NaN or infinite in {len(bad)} rows, first {bad[0]}; check the pictures and the network")
    return found


def tolerance_of(decay: float, longest: float, largest_margin: float) -> float:
    """The bound of a residual: from `ERROR`, or larger if rounding of long rows requires it."""
    return max(ERROR * decay, 8 * ROUNDING * longest * (1 + largest_margin))


def log_loss(margin: Doubles, y: Array | int) -> Doubles:
    """Log-loss of each margin for its class."""
    return np.asarray(np.logaddexp(0, (1 - 2 * y) * margin))


def feature_gradients(w: Doubles, s: Doubles, features: Doubles, y: Array) -> Doubles:
    """Gradient of s . grad_w logloss(f, y) in f, (p - y) s + p (1 - p) (s . f) w, row by row; arrays are (J, d), y (J,)."""
    chance = expit((features * w).sum(axis=1))
    bend = chance * (1 - chance) * (features * s).sum(axis=1)
    return np.asarray((chance - y)[:, None] * s + bend[:, None] * w)


def _hessian(rows: Doubles, curvature: Doubles, decay: float) -> Doubles:
    found: Doubles = np.asarray((rows * (curvature / len(rows))[:, None]).T @ rows)
    found[np.diag_indices_from(found)] += decay
    return found
