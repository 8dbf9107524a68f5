"""Solving many top layers at once that differ from a solved one in a single training row each, for each step of an attack."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from subpop.types import Array, BadInput, Bools, Floats, Ints
from subpop.victims.top_layers.equations import Equations, solve_exactly
from subpop.victims.top_layers.gram import Gram, Products, times
from subpop.victims.top_layers.lockstep import Optima, Point, Problems, minimise
from subpop.victims.top_layers.top_layer import Doubles, TopLayer, checked_features


@dataclass(frozen=True, eq=False)
class Targets:
    """Rows whose loss an attack increases. features: (t, d); products: (t, n) with the clean training rows."""

    features: Tensor
    products: Tensor


class HeadFleet:
    """J problems like that of a top layer, each with changing features of one training row, images[j]. Keeps its last solutions.

    gram: shared by all fleets of one top layer.
    """

    def __init__(self, top: TopLayer, images: Array) -> None:
        images = np.asarray(images, dtype=np.int64)
        if images.ndim != 1 or ((images < 0) | (images >= len(top.y))).any():
            raise BadInput(f"images {images.tolist()}: give row numbers of the {len(top.y)} training rows")
        self.gram, self.images = Gram.of(top), images
        gram, margin = self.gram, torch.from_numpy(top.margins(top.features))
        a = (gram.y - margin.sigmoid()) / (len(top.y) * gram.decay)
        point = Point(a.repeat(len(images), 1), margin.repeat(len(images), 1))
        clean = self._problems(gram.features[torch.from_numpy(images)])
        residual = torch.full_like(point.a[:, 0], top.kkt_residual)
        self._last = Optima(point, clean.products.own, clean.preconditioner(point.margin), residual)

    def __len__(self) -> int:
        return len(self.images)

    @torch.inference_mode()
    def resolve(self, changed: Array) -> Heads:
        """Solve all problems, with row images[j] replaced by changed[j] of (J, d), starting from the previous solutions."""
        rows, expected = checked_features(changed, "features of changed pictures"), (len(self), self.gram.features.shape[1])
        if rows.shape != expected:
            raise BadInput(f"changed features have shape {rows.shape}; give {expected}, a row for each head")
        own = torch.from_numpy(rows)
        problems = self._problems(own)
        self._last = minimise(problems, self._last)
        return Heads(problems, self._last, own)

    def keep(self, live: Bools) -> None:
        """Continue with some of the problems, (J,) bool."""
        which = torch.from_numpy(np.flatnonzero(live))
        self.images, self._last = self.images[live], self._last.some(which)

    def part(self, which: Ints) -> HeadFleet:
        """Some of the problems as a separate fleet, which shares `gram`."""
        part = copy.copy(self)
        part.images, part._last = self.images[which], self._last.some(torch.from_numpy(which))
        return part

    def targets(self, features: Array) -> Targets:
        """Targets with features (t, d); several heads may share them."""
        rows = torch.from_numpy(checked_features(features, "targets"))
        return Targets(rows, times(rows, self.gram.features.T))

    def _problems(self, changed: Tensor) -> Problems:
        return Problems(self.gram, Products.of(self.gram, torch.from_numpy(self.images), changed))


class Heads:
    """J solved top layers. kkt_residual: (J,) Euclidean norms of the objectives' gradients; own_y: (J,) classes.

    own_margin: (J,) of the changed row; norm: (J,) of w; accuracy, loss: (J,) on the training rows including the changed one,
    without the penalty.
    """

    def __init__(self, problems: Problems, optima: Optima, changed: Tensor) -> None:
        self._problems, self._at, self._near, self._changed = problems, optima.point, optima.near, changed
        self._images, y, at = problems.products.images[:, None], problems.gram.y, optima.point
        self.kkt_residual, self.loss = _array(optima.residual), _array(problems.losses(at.margin))
        self.own_y = _array(y[self._images[:, 0]]).astype(np.int64)
        self.own_margin = _array(at.margin.gather(1, self._images)[:, 0])
        self.norm = _array((at.a * at.margin).sum(1).clamp(min=0).sqrt())
        self.accuracy = _array(((at.margin > 0) == (y > 0)).double().mean(1))

    def __len__(self) -> int:
        return len(self._changed)

    @cached_property
    def w(self) -> Doubles:
        """(J, d) coefficients."""
        a, gram = self._at.a, self._problems.gram
        others = a.scatter(1, self._images, 0) @ gram.features
        return _array(torch.addcmul(others, a.gather(1, self._images), self._changed))

    def margins(self, targets: Sequence[Targets]) -> list[Doubles]:
        """(t,) w . f of each head's own targets."""
        own = self._at.a.gather(1, self._images)[:, 0]
        others = self._at.a.scatter(1, self._images, 0)
        parts = zip(targets, others, own, self._changed, strict=True)
        return [_array(each.products @ a + part * (each.features @ row)) for each, a, part, row in parts]

    @torch.inference_mode()
    def cotangents(self, targets: Sequence[Targets], slopes: Sequence[Doubles]) -> Floats:
        """(J, d) float32 gradients of s . grad_w logloss with respect to the features of the changed rows, with s = H^-1 g.

        slopes: for each head, (t,) derivatives of the targets' loss with respect to their margins; g is its gradient in w.
        """
        given = [torch.from_numpy(each) for each in slopes]
        g = torch.stack([slope @ each.features for slope, each in zip(given, targets, strict=True)])
        along = torch.stack([slope @ each.products for slope, each in zip(given, targets, strict=True)])
        part, along_own = self._solved(g, along)
        margin, y = self._at.margin.gather(1, self._images), self._problems.gram.y[self._images]
        pull = (margin.sigmoid() - y) / self._problems.gram.decay
        bend = margin.sigmoid() * (-margin).sigmoid() * along_own
        rows = bend * self._at.a - pull * part
        own = torch.addcmul(pull * g, rows.gather(1, self._images), self._changed)
        return (own.float() + rows.scatter(1, self._images, 0).float() @ self._problems.gram.coarse).numpy()

    def _solved(self, g: Tensor, along: Tensor) -> tuple[Tensor, Tensor]:
        """(J, n) p with H^-1 g = (g - sum of rows times p) / decay, and (J, 1) products of that with the changed rows.

        along: (J, n) products of the clean rows with g. Uses the matrix inversion lemma: outside the span of the rows, the
        Hessian is that of the penalty.
        """
        problems, root = self._problems, self._problems.weight(self._at.margin).sqrt()
        along = along.scatter(1, self._images, (g * self._changed).sum(1, keepdim=True))
        equations = Equations(problems.products.lowered(problems.gram.low), root, self._near)
        z = solve_exactly(problems.products, equations, root, root * along)
        return root * z, z.gather(1, self._images) / (problems.gram.decay * root.gather(1, self._images))


def _array(tensor: Tensor) -> Doubles:
    return tensor.detach().numpy().astype(np.float64, copy=False)
