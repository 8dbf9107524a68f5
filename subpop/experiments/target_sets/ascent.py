"""The training-set attack: signed gradient steps on one training picture that increase the loss on chosen targets.

*Source*: Koh and Liang, Understanding Black-box Predictions via Influence Functions (ICML 2017), section 5.2 and their released
code; many targets at once as in Table 16 of Jagielski et al. (CCS 2021). A step moves the picture's pixels by a fixed length
against the sign of G, the gradient with respect to the pixels of s . grad_w logloss(picture), where s = H^-1 g and g is the
gradient of the targets' mean loss. Then the top layer is retrained to its optimum, and everything is recomputed. The label is
not changed.
*Deviations*: many attacks run at once; H^-1 g is exact; an attack ends when all its targets fail. Their step and box at 299x299
are .005 and .5 levels in 2,000 iterations.

Pixels are float32 in 0..255 and never rounded: with a box of half a level, rounding would restore the original picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit

from subpop.experiments.target_sets.backbone import Backbone, pictures_at_a_time
from subpop.runtime.threads import in_one_thread, on_cores
from subpop.types import Array, BadInput, Bools, Floats
from subpop.victims.top_layers.top_layer import Doubles, TopLayer, checked_features, feature_gradients, log_loss

if TYPE_CHECKING:
    from subpop.victims.top_layers.heads import HeadFleet, Heads, Targets

Progress = Callable[[int, int], None]
"""Called with the number of finished iterations of all attacks, and with their total number."""

AT_ONCE = {"cpu": 10, "gpu": 32}
"""Maximum number of attacks in a part, which bounds memory. Parts are of nearly equal size, independent of the cores."""


@dataclass(frozen=True)
class Schedule:
    """Limits of an attack. box: bound on the total change of a pixel; step: change per iteration; both in 8-bit levels."""

    box: float
    step: float
    iterations: int

    def __post_init__(self) -> None:
        for name, value in (("box", self.box), ("step", self.step)):
            if not (np.isfinite(value) and value > 0):
                raise BadInput(f"{name}={value}; it is in 8-bit levels, finite and > 0")
        if self.iterations < 1:
            raise BadInput(f"iterations={self.iterations}; give at least 1")


@dataclass(frozen=True, eq=False)
class Outcome:
    """The result of one attack after k iterations: fewer than scheduled if all targets failed earlier.

    start_right: (t,) whether the clean top layer classifies each target correctly; wrong: (k + 1,) fraction of these targets
    misclassified after each iteration, with wrong[0] before the first, or [NaN] if none was correct; first_complete: the first
    iteration after which all are misclassified; target_loss: (k + 1,) mean log-loss of all t targets; picture: (c, h, w) float32
    at the end, not to be rounded; kkt_residual: the largest of all iterations. The other fields describe the last top layer:
    own_probability is its probability of the changed row's class, feature_move the Euclidean change of that row's features.
    """

    image: int
    start_right: Bools
    wrong: Doubles
    first_complete: int | None
    target_loss: Doubles
    picture: Floats
    kkt_residual: float
    train_accuracy: float
    train_loss: float
    own_probability: float
    coefficient_norm: float
    feature_move: float


# --- which picture ----------------------------------------------------------------------------------------------------


def first_order_effects(
    backbone: Backbone,
    top: TopLayer,
    pictures: Array,
    targets: Sequence[Array],
    target_y: int,
) -> Doubles:
    """(J, n) L1 norms of G, the effect of a signed step, for each set of targets, (t, d) features, and training picture.

    It takes one forward pass over the pictures, in chunks, and a backward pass for each chunk and set.
    """
    sets = _checked_targets(top, pictures, targets, target_y)
    with in_one_thread():
        pull = top.inverse_hessian_times(np.stack([_target_gradient(top.w, each, target_y) for each in sets]))
    size = pictures_at_a_time(pictures)
    chunks = [slice(at, min(at + size, len(pictures))) for at in range(0, len(pictures), size)]

    def effects(chunk: slice) -> Doubles:
        features, pullback = backbone.features_and_pullback(pictures[chunk])
        gradients = (pullback(feature_gradients(top.w, s, features, top.y[chunk])) for s in pull)
        return np.stack([np.abs(each).reshape(len(each), -1).sum(axis=1, dtype=np.float64) for each in gradients])

    with on_cores(len(chunks), backbone.device == "cpu") as mapped:
        found = list(mapped(effects, chunks))
    if not all(np.isfinite(part).all() for part in found):
        raise BadInput("gradients in the pixels are NaN or infinite; check the network's weights and the pictures")
    return np.concatenate(found, axis=1)


# --- the attack -------------------------------------------------------------------------------------------------------


def attack(
    backbone: Backbone,
    top: TopLayer,
    pictures: Array,
    targets: Sequence[Array],
    target_y: int,
    *,
    images: Array,
    schedules: Sequence[Schedule],
    progress: Progress | None = None,
) -> list[Outcome]:
    """Run J attacks at once: on targets[j], (t, d) features of class target_y, by changing pictures[images[j]] on schedules[j].

    top: fitted to the features of all pictures, (n, c, h, w). Top layers are retrained on the CPU, even with a GPU backbone.
    """
    from subpop.victims.top_layers.heads import HeadFleet  # imports torch

    sets = _checked_targets(top, pictures, targets, target_y)
    rows = np.asarray(images)
    if rows.shape != (len(sets),) or len(schedules) != len(sets) or rows.dtype.kind not in "iu":
        raise BadInput(f"{len(sets)} sets of targets, images {rows.tolist()}, {len(schedules)} schedules; give one of each a set")
    each_with = zip(rows, sets, schedules, strict=True)
    with in_one_thread():
        fleet = HeadFleet(top, rows)
        attacks = [_Attack(top, pictures[row], int(row), own, target_y, schedule) for row, own, schedule in each_with]
        parts = _parts(backbone, fleet, attacks)
    total, done = sum(schedule.iterations for schedule in schedules), 0
    with on_cores(len(parts), backbone.device == "cpu") as mapped:
        while any(part.attacks for part in parts):
            done += sum(mapped(_Part.advance, [part for part in parts if part.attacks]))
            if progress is not None:
                progress(done, total)
    return [each.outcome() for each in attacks]


class _Attack:
    """The state of one attack."""

    def __init__(self, top: TopLayer, picture: Array, image: int, targets: Doubles, target_y: int, schedule: Schedule) -> None:
        self.image, self.targets, self.target_y, self.schedule = image, targets, target_y, schedule
        self.original = picture.astype(np.float32)
        # The next float inside the box: a pixel exactly half a level away could be rounded in either direction.
        box = np.float32(schedule.box)
        self.low = np.nextafter(self.original - box, self.original).clip(min=0)
        self.high = np.nextafter(self.original + box, self.original).clip(max=255)
        self.picture = self.original.copy()
        self.start_right = top.right(targets, target_y)
        self.wrong: list[float] = []
        self.target_loss: list[float] = []
        self.residual = 0.0
        self.last: dict[str, float] = {}
        self.start_features = top.features[image]

    @property
    def goes_on(self) -> bool:
        """Whether some target is still classified correctly and iterations are left."""
        return bool(self.wrong[-1] < 1) and len(self.wrong) <= self.schedule.iterations

    @property
    def left(self) -> int:
        """Number of iterations left."""
        return self.schedule.iterations + 1 - len(self.wrong)

    def step(self, gradient: Floats) -> None:
        """One signed step of the picture, within its bounds."""
        moved = self.picture - np.float32(self.schedule.step) * np.sign(gradient)
        self.picture = np.clip(moved, self.low, self.high)

    def look(self, heads: Heads, j: int, margins: Doubles, features: Doubles) -> None:
        """Record results of the j-th retrained top layer: (t,) margins of the targets and (d,) features of the picture."""
        wrong = (margins > 0) != bool(self.target_y)
        self.wrong.append(float(wrong[self.start_right].mean()) if self.start_right.any() else np.nan)
        self.target_loss.append(float(log_loss(margins, self.target_y).mean()))
        self.residual = max(self.residual, float(heads.kkt_residual[j]))
        own = heads.own_margin[j]
        self.last = {
            "train_accuracy": float(heads.accuracy[j]),
            "train_loss": float(heads.loss[j]),
            "own_probability": float(expit(own if heads.own_y[j] else -own)),
            "coefficient_norm": float(heads.norm[j]),
            "feature_move": float(np.linalg.norm(features - self.start_features)),
        }

    def outcome(self) -> Outcome:
        complete = len(self.wrong) - 1 if self.wrong[-1] == 1 else None
        wrong, loss = np.array(self.wrong), np.array(self.target_loss)
        return Outcome(self.image, self.start_right, wrong, complete, loss, self.picture, self.residual, **self.last)


def _parts(backbone: Backbone, fleet: HeadFleet, attacks: Sequence[_Attack]) -> list[_Part]:
    # Attacks on the same targets share their rows.
    targets = {id(each.targets): fleet.targets(each.targets) for each in attacks}
    n_parts = -(-len(attacks) // AT_ONCE["cpu" if backbone.device == "cpu" else "gpu"])
    parts = []
    for which in np.array_split(np.arange(len(attacks)), n_parts):
        own = [attacks[j] for j in which]
        parts.append(_Part(backbone, fleet.part(which), own, [targets[id(each.targets)] for each in own]))
    return parts


class _Part:
    """Some of the attacks, which share passes through the network and solves of the top layer."""

    def __init__(self, backbone: Backbone, fleet: HeadFleet, attacks: list[_Attack], targets: list[Targets]) -> None:
        self.backbone, self.fleet, self.attacks, self.targets = backbone, fleet, attacks, targets

    def advance(self) -> int:
        """Run one iteration; returns how many it completed, including those skipped by attacks that ended early.

        The forward pass of a changed picture is used for both the retraining and the next step's backward pass.
        """
        features, pullback = self.backbone.features_and_pullback(np.stack([each.picture for each in self.attacks]))
        heads = self.fleet.resolve(features)
        margins = heads.margins(self.targets)
        for j, each in enumerate(self.attacks):
            each.look(heads, j, margins[j], features[j])
        going = np.array([each.goes_on for each in self.attacks])
        settled = sum(1 if goes else each.left for each, goes in zip(self.attacks, going, strict=True))
        if going.any():
            slopes = [(expit(margin) - each.target_y) / len(margin) for margin, each in zip(margins, self.attacks, strict=True)]
            gradients = pullback(heads.cotangents(self.targets, slopes))
            for each, gradient in compress(zip(self.attacks, gradients, strict=True), going):
                each.step(gradient)
        self.fleet.keep(going)
        self.attacks, self.targets = list(compress(self.attacks, going)), list(compress(self.targets, going))
        return settled


def _target_gradient(w: Doubles, targets: Doubles, target_y: int) -> Doubles:
    """(d,) gradient of the targets' mean loss with respect to w, without the penalty."""
    return np.asarray((expit(targets @ w) - target_y) @ targets / len(targets))


def _checked_targets(top: TopLayer, pictures: Array, targets: Sequence[Array], target_y: int) -> list[Doubles]:
    if len(pictures) != len(top.y):
        raise BadInput(f"{len(pictures)} pictures, but the top layer was fitted to {len(top.y)} rows; give those rows' pictures")
    if target_y not in (0, 1):
        raise BadInput(f"target_y={target_y}; a top layer knows the classes 0 and 1 only")
    kept = {id(each): checked_features(each, f"targets of set {j}") for j, each in enumerate(targets)}
    sets = [kept[id(each)] for each in targets]
    if not sets:
        raise BadInput("no sets of targets; give at least one")
    wrong = [each.shape[1] for each in sets if each.shape[1] != len(top.w)]
    if wrong:
        raise BadInput(f"targets have {wrong[0]} features and training rows {len(top.w)}; take both from the same backbone")
    return sets
