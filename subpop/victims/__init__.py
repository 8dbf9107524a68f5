"""Victims: the learning algorithms under attack, one file each. A name holding a colon is a scikit-learn class of your own:
`sklearn.ensemble:RandomForestClassifier`."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from subpop.printable import in_one_line
from subpop.types import BadInput, StoredModel, Victim
from subpop.victims.bert_fine_tuned import BertFineTuned
from subpop.victims.bert_last_layer import BertLastLayer, TextVictim
from subpop.victims.conv_net import ConvNet
from subpop.victims.fine_tuned import CIFAR, FACES, FineTuned
from subpop.victims.last_layer import LastLayer, LastLayerModel
from subpop.victims.last_layer_adam import LastLayerAsReleased
from subpop.victims.linear_model import LinearModel
from subpop.victims.logistic import LogisticRegression
from subpop.victims.mlp import MLP, MLPModel
from subpop.victims.sklearn_adapter import SklearnVictim
from subpop.victims.text_linear import TextLinear
from subpop.victims.torch_model import TorchModel
from subpop.victims.transformer_model import LastLayerTextModel, WholeTextModel

MINILM: dict[str, Any] = {"encoder": "all-MiniLM-L6-v2", "max_length": 128}
TINY: dict[str, Any] = {"encoder": "tiny", "max_length": 64, "learning_rate": 1e-3}
"""Encoders that a CPU can train, and tokens a row. Rates: by clean accuracy on D_aux alone, of `reviews` and of `imdb_small`."""

VICTIMS: dict[str, Callable[[str, Path | None], Victim]] = {
    "logistic_regression": lambda device, weights: LogisticRegression(),
    "last_layer": lambda device, weights: LastLayer(),
    "last_layer_as_released": lambda device, weights: LastLayerAsReleased(),
    "mlp": lambda device, weights: MLP(hidden=10),
    "mlp_wide": lambda device, weights: MLP(hidden=100),
    "conv_net": lambda device, weights: ConvNet(device=device),
    "conv_net_wide": lambda device, weights: ConvNet(width=32, device=device),
    "vgg16_fine_tuned": lambda device, weights: FineTuned(weights_root=weights, device=device, **FACES),
    "vgg16_fine_tuned_augmented": lambda device, weights: FineTuned(weights_root=weights, device=device, **CIFAR),
    "text_linear": lambda device, weights: TextLinear(),
    "bert_last_layer": lambda device, weights: BertLastLayer(weights_root=weights, device=device),
    "bert_fine_tuned": lambda device, weights: BertFineTuned(weights_root=weights, device=device),
    "minilm_last_layer": lambda device, weights: BertLastLayer(weights_root=weights, device=device, learning_rate=3e-4, **MINILM),
    "minilm_fine_tuned": lambda device, weights: BertFineTuned(weights_root=weights, device=device, learning_rate=5e-5, **MINILM),
    "tiny_bert_last_layer": lambda device, weights: BertLastLayer(device=device, **TINY),
    "tiny_bert_fine_tuned": lambda device, weights: BertFineTuned(device=device, **TINY),
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
    "text_linear": LinearModel,
    "bert_last_layer": LastLayerTextModel,
    "bert_fine_tuned": WholeTextModel,
    "minilm_last_layer": LastLayerTextModel,
    "minilm_fine_tuned": WholeTextModel,
    "tiny_bert_last_layer": LastLayerTextModel,
    "tiny_bert_fine_tuned": WholeTextModel,
}
"""What each victim's models are restored from; a victim without an entry trains its clean model anew in each session."""


def blind(victim: Victim) -> Victim:
    """The victim as plug-in defenses meet it: exact ones tell nothing of clean D; others are as they are."""
    make: Callable[[], Victim] | None = getattr(victim, "blind", None)
    return victim if make is None else make()


def make_victim(
    name: str,
    device: str = "cpu",
    weights_root: Path | None = None,
    cache: Path | None = None,
    *,
    encoder: str = "",
    max_length: int | None = None,
) -> Victim:
    """The victim of that name, or a scikit-learn class at its defaults, or what a function returns: `module:Class_or_function`.

    cache: folder of hidden states; encoder, max_length: of a text victim, instead of its own.
    """
    if ":" in name:
        return SklearnVictim(_imported(name))
    if name not in VICTIMS:
        raise BadInput(f"no victim is named {name!r}; there are {', '.join(VICTIMS)}, and any scikit-learn class as module:Class")
    victim = VICTIMS[name](device, weights_root)
    if isinstance(victim, TextVictim):
        victim.cache, victim.encoder = cache, encoder or victim.encoder
        victim.max_length = victim.max_length if max_length is None else max_length
    return victim


def _imported(name: str) -> Callable[[], object]:
    module_name, _, class_name = name.partition(":")
    try:
        found: Callable[[], object] = getattr(importlib.import_module(module_name), class_name)
    except (Exception, SystemExit) as error:  # the module is somebody else's code, which may do anything
        raise BadInput(
            f"victim {name!r} cannot be imported ({in_one_line(error)}); write it as module:Class or module:function, "
            "e.g. sklearn.svm:LinearSVC"
        ) from error
    return found


__all__ = ["MODELS", "VICTIMS", "SklearnVictim", "blind", "make_victim"]
