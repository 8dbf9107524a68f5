"""The set-ups of Table 16, by data set: training pictures, target pictures, and the frozen network below the top layer.

*Source*: Koh and Liang (ICML 2017) and their released scripts: 1,800 pictures of dogs and fish, Inception-v3's pooled
features, decay .001, one training picture changed by half a level in 2,000 steps of .005 levels; Jagielski et al. (CCS 2021),
Table 16, for the sets of targets.
*Deviations*: the other tiers take 100 or 50 longer steps, with the same total length of 20 boxes. They vary the box (epsilon, in
8-bit levels), since half a level has little effect on such weak features. Their last map is not pooled but flattened and divided
by its overall deviation; pooled features leave an attacker far less room. On digits the targets are test rows of class 0, and
the network is the attacker's own, trained on D_aux.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from subpop.datasets import dogfish
from subpop.experiments.context import Context
from subpop.runtime.fingerprint import data_hash
from subpop.runtime.seeds import derived_seed
from subpop.types import Array, BadInput, Cell, Dataset, Ints

if TYPE_CHECKING:
    from subpop.experiments.target_sets.ascent import Schedule
    from subpop.experiments.target_sets.backbone import TorchBackbone

TARGET_CLASS = 0
WAY = 20.0
"""Total length of all steps in units of the box, as in the source: .005 * 2000 / .5."""
LAST_LAYER = "_last_layer"


@dataclass(frozen=True)
class Setup:
    """How a data set is attacked.

    network: below the top layer; pooled: use the mean of its last map instead of the scaled map; per_class: training pictures
    per class (0: all of D); n_clusters: of the pool of targets; epsilons: boxes in 8-bit levels, all attacked together.
    """

    network: str
    pooled: bool
    per_class: int
    set_size: int
    n_clusters: int
    epsilons: tuple[float, ...]
    iterations: int
    n_sets: int = 10
    decay: float = 0.001

    def schedule(self, epsilon: float) -> Schedule:
        """The steps of one attack."""
        from subpop.experiments.target_sets.ascent import Schedule

        return Schedule(epsilon, WAY * epsilon / self.iterations, self.iterations)


SETUPS: dict[str, Setup] = {
    # The numbers of clusters follow from sizes alone: about 23 of 279 test rows each, and 50 of 1,001 and of 5,000 dogs. Digits
    # have 100 training rows, fewer than features (128), as elsewhere: among 600, one picture would have no influence.
    "digits_images": Setup("conv_net", False, 50, 10, 12, (0.5, 4.0, 16.0), 50),
    "tiny_dogfish": Setup("resnet56_cifar10", False, 450, 30, 20, (0.5, 2.0, 4.0, 8.0, 16.0), 100),
    "dogfish": Setup("inception_v3", True, 0, 30, 100, (0.5,), 2000),
}


@dataclass(frozen=True, eq=False)
class Problem:
    """The pictures of one set-up, uint8, and their network.

    x, y: D; targets: the pool that sets are drawn from, all of TARGET_CLASS; one_dog: Koh and Liang's photos, possibly none;
    fingerprint: hash of all of these; weights: hash of the network's file, '' if it is trained here; backbone: loads or trains
    the network.
    """

    setup: Setup
    x: Array
    y: Ints
    targets: Array
    one_dog: Array
    test_x: Array
    test_y: Ints
    weights: str
    backbone: Callable[[], TorchBackbone]
    notes: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        return data_hash(self.x, self.y, self.targets, self.one_dog, self.test_x, self.test_y)


def problem_of(cell: Cell, context: Context) -> Problem:
    """The problem that a cell attacks. Raises BadInput if its data set or victim has no set-up."""
    if cell.dataset not in SETUPS:
        raise BadInput(f"{cell.id}: no training-set attack is set up on {cell.dataset!r}; there are {', '.join(SETUPS)}")
    setup = SETUPS[cell.dataset]
    if cell.victim != setup.network + LAST_LAYER:
        raise BadInput(
            f"{cell.id}: the attack on {cell.dataset} is on {setup.network + LAST_LAYER}; use it instead of {cell.victim}"
        )
    return _digits(cell, context, setup) if setup.network == "conv_net" else _dogs(cell, context, setup)


def _digits(cell: Cell, context: Context, setup: Setup) -> Problem:
    """The problem on digits: D of the usual split, and the attacker's network, trained on D_aux alone."""
    from subpop.victims.torch_model import TorchModel

    own = cell.with_(victim=setup.network)
    data = context.data(own)
    seed = derived_seed("training_set", cell.dataset, cell.data.split)
    rows = per_class_rows(data.pool.y[: data.pool.n_train], setup.per_class, seed, data.dataset)
    x, y = data.pool.x[rows], data.pool.y[rows]

    def backbone() -> TorchBackbone:
        from subpop.experiments.target_sets.backbone import ConvBackbone

        model = context.attacker(own)
        assert isinstance(model, TorchModel)
        return ConvBackbone(model, pooled=setup.pooled, device=context.device).scaled_on(x)

    targets, none = data.test_x[data.test_y == TARGET_CLASS], data.test_x[:0]
    return Problem(setup, x, y, targets, none, data.test_x, data.test_y, "", backbone)


def _dogs(cell: Cell, context: Context, setup: Setup) -> Problem:
    from subpop.features.networks.weights import weights_fingerprint, weights_path

    dataset = context.loaded(cell.dataset)
    weights = weights_fingerprint(weights_path(setup.network, context.weights_folder))
    rows = training_rows(dataset, setup.per_class, derived_seed("training_set", dataset.name, cell.data.split))
    x, source = dataset.x[rows], dataset.annotations["source"]

    def backbone() -> TorchBackbone:
        from subpop.experiments.target_sets.backbone import NetworkBackbone

        plain = NetworkBackbone(setup.network, context.weights_folder, pooled=setup.pooled, device=context.device)
        return plain if setup.pooled else plain.scaled_on(x)

    targets, one_dog, test = (source == code for code in (dogfish.KAGGLE, dogfish.ONE_DOG, dogfish.TEST))
    pictures = dataset.x[targets], dataset.x[one_dog], dataset.x[test]
    return Problem(setup, x, dataset.y[rows], *pictures, dataset.y[test], weights, backbone, dataset.notes)


def training_rows(dataset: Dataset, per_class: int, seed: int) -> Ints:
    """(n,) sorted rows of D: `per_class` distinct pictures of each class, none of them a test picture; 0: all pictures."""
    assert dataset.hashes is not None  # both copies declare them
    source = dataset.annotations["source"]
    rows = np.flatnonzero(source == dogfish.TRAIN)
    if per_class:
        rows = rows[np.unique(dataset.hashes[rows], return_index=True)[1]]
        rows = np.sort(rows[~np.isin(dataset.hashes[rows], dataset.hashes[source != dogfish.TRAIN])])
    return rows[per_class_rows(dataset.y[rows], per_class, seed, dataset)]


def per_class_rows(y: Ints, per_class: int, seed: int, dataset: Dataset) -> Ints:
    """Sorted positions in y of `per_class` rows of each class; 0: all rows."""
    if per_class == 0:
        return np.arange(len(y))
    generator, chosen = np.random.default_rng(seed), []
    for code in range(dataset.n_classes):
        own = np.flatnonzero(y == code)
        if len(own) < per_class:
            name = dataset.words.get("y", range(dataset.n_classes))[code]
            raise BadInput(
                f"{dataset.name} has {len(own)} different pictures of class {name} to train on; {per_class} are needed"
            )
        chosen.append(generator.choice(own, per_class, replace=False))
    return np.sort(np.concatenate(chosen))
