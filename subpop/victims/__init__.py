"""Victims: the learning algorithms under attack, one file each. A name holding a colon is a scikit-learn class of your own:
`sklearn.ensemble:RandomForestClassifier`."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

from subpop.types import BadInput, StoredModel, Victim
from subpop.victims.conv_net import ConvNet
from subpop.victims.fine_tuned import CIFAR, FACES, FineTuned
from subpop.victims.last_layer import LastLayer, LastLayerModel
from subpop.victims.last_layer_adam import LastLayerAsReleased
from subpop.victims.linear_model import LinearModel
from subpop.victims.logistic import LogisticRegression
from subpop.victims.mlp import MLP, MLPModel
from subpop.victims.sklearn_adapter import SklearnVictim
from subpop.victims.torch_model import TorchModel

VICTIMS: dict[str, Callable[[str, Path | None], Victim]] = {
    "logistic_regression": lambda device, weights: LogisticRegression(),
    "last_layer": lambda device, weights: LastLayer(),
    "last_layer_as_released": lambda device, weights: LastLayerAsReleased(),
    "mlp": lambda device, weights: MLP(hidden=10, device=device),
    "mlp_wide": lambda device, weights: MLP(hidden=100, device=device),
    "conv_net": lambda device, weights: ConvNet(device=device),
    "conv_net_wide": lambda device, weights: ConvNet(width=32, device=device),
    "vgg16_fine_tuned": lambda device, weights: FineTuned(weights_root=weights, device=device, **FACES),
    "vgg16_fine_tuned_augmented": lambda device, weights: FineTuned(weights_root=weights, device=device, **CIFAR),
}
"""By name: device and the folder of network weights (None: where they are fetched to) -> victim."""

MODELS: dict[str, type[StoredModel]] = {
    "logistic_regression": LinearModel,
    "last_layer": LastLayerModel,
    "last_layer_as_released": LastLayerModel,
    "conv_net": TorchModel,
    "conv_net_wide": TorchModel,
    "vgg16_fine_tuned": TorchModel,
    "vgg16_fine_tuned_augmented": TorchModel,
    "mlp": MLPModel,
    "mlp_wide": MLPModel,
}
"""What each victim's models are restored from; a victim without an entry trains its clean model anew in each session."""


def make_victim(name: str, device: str = "cpu", weights_root: Path | None = None) -> Victim:
    """The victim of that name, or a scikit-learn class named `module:Class`, at its defaults."""
    if ":" in name:
        return SklearnVictim(_imported(name))
    if name not in VICTIMS:
        raise BadInput(f"no victim is named {name!r}; there are {', '.join(VICTIMS)}, and any scikit-learn class as module:Class")
    return VICTIMS[name](device, weights_root)


def _imported(name: str) -> Callable[[], object]:
    module_name, _, class_name = name.partition(":")
    try:
        found: Callable[[], object] = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise BadInput(
            f"victim {name!r} cannot be imported ({error}); write it as module:Class, e.g. sklearn.svm:LinearSVC"
        ) from error
    return found
