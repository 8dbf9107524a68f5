"""The clean top layer of a problem, the features of all possible targets, and the clusters of the targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from subpop.experiments.target_sets.setups import TARGET_CLASS, Problem
from subpop.experiments.target_sets.target_sets import cluster_notes, clusters_of
from subpop.runtime.threads import one_thread
from subpop.types import Array, Ints
from subpop.victims.top_layers.top_layer import Doubles, TopLayer

if TYPE_CHECKING:
    from subpop.experiments.target_sets.backbone import Backbone


@dataclass(frozen=True, eq=False)
class Solved:
    """targets, one_dog: (n, d) features of the pool and of Koh and Liang's dog; clusters: (n_pool,) of the targets."""

    backbone: Backbone
    top: TopLayer
    targets: Doubles
    one_dog: Doubles
    clusters: Ints
    test_accuracy: float
    notes: tuple[str, ...]

    def arrays(self) -> dict[str, Array]:
        """Numbers about the clean top layer for the report."""
        margins = self.top.margins(self.top.features)
        numbers = {
            "clean_train_accuracy": self.top.accuracy(),
            "clean_test_accuracy": self.test_accuracy,
            "target_pool_accuracy": float(self.top.right(self.targets, TARGET_CLASS).mean()),
            "clean_train_loss": self.top.loss(),
            "clean_objective": self.top.objective(),
            "clean_coefficient_norm": float(np.linalg.norm(self.top.w)),
        }
        own = 1 / (1 + np.exp(np.where(self.top.y == 1, -margins, margins)))
        return {**{k: np.array(v) for k, v in numbers.items()}, "own_probabilities": own, "notes": np.array(self.notes)}


def solve(problem: Problem, clusters: Ints | None = None) -> Solved:
    """Compute features of all pictures, the exact top layer on D, and the clusters of the targets if they are not given."""
    backbone, setup = problem.backbone(), problem.setup
    features = backbone.features(problem.x)
    with one_thread("blas"):  # bit-identical to a worker with one thread
        top = TopLayer.fit(features, problem.y, setup.decay)
    targets = backbone.features(problem.targets)
    clusters = clusters_of(targets, setup.n_clusters) if clusters is None else clusters
    one_dog = backbone.features(problem.one_dog) if len(problem.one_dog) else targets[:0]
    test_accuracy = float(top.right(backbone.features(problem.test_x), problem.test_y).mean())
    notes = cluster_notes(clusters, setup.set_size, setup.n_sets)
    return Solved(backbone, top, targets, one_dog, clusters, test_accuracy, notes)
