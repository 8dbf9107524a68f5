"""Victims: the learning algorithms under attack, one module each. A name with a colon refers to one from outside the
package: `sklearn.ensemble:RandomForestClassifier`, `my.py:make_model(depth=3)`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Any

from subpop.types import BadInput, StoredModel, Victim
from subpop.types.base import nearest
from subpop.types.printable import in_one_line
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
from subpop.victims.user_objects import user_object

MINILM: dict[str, Any] = {"encoder": "all-MiniLM-L6-v2", "max_length": 128}
TINY: dict[str, Any] = {"encoder": "tiny", "max_length": 64, "learning_rate": 1e-3}
"""Encoders that a CPU can train, with tokens per row. Learning rates were chosen by clean accuracy on D_aux alone, of `reviews`
and `imdb_small`."""

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
"""Factories of victims by name: (device, folder of network weights or None for the default) -> victim.

Examples
--------
>>> from subpop import VICTIMS
>>> VICTIMS["logistic_regression"]("cpu", None).exact
True
"""

OF_NUMBERS = ("logistic_regression", "last_layer", "last_layer_as_released", "mlp", "mlp_wide")
"""Victims that any data set of numbers can be given to."""
OF_PICTURES = ("conv_net", "conv_net_wide", "vgg16_fine_tuned", "vgg16_fine_tuned_augmented")
"""Victims that any data set of pictures can be given to."""

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
"""The class that restores a victim's models from the store; clean models of a victim without an entry are trained in each
session."""


def blind(victim: Victim) -> Victim:
    """Return the variant of a victim that plug-in defenses train: exact victims then reveal nothing about clean D."""
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
    """Make a victim by name.

    Parameters
    ----------
    name
        A name from `VICTIMS`, or `module:name` or `path.py:name` of a scikit-learn classifier, its class or a function that
        returns one, optionally with arguments: `sklearn.svm:LinearSVC(C=0.1)`. An object with `fit_many` is used as it is.
    device
        "cpu" or "cuda".
    weights_root
        Folder of network weights; None for the default.
    cache
        Folder in which text encoders cache hidden states; None to cache nothing.
    encoder
        Encoder of a text victim, instead of its default.
    max_length
        Tokens per text for a text victim, instead of its default.

    Returns
    -------
    Victim
        Not trained.

    Raises
    ------
    BadInput
        If no victim has this name, or the class cannot be imported.

    Examples
    --------
    >>> from subpop import make_victim
    >>> make_victim("sklearn.neighbors:KNeighborsClassifier").exact
    True
    """
    if not isinstance(name, str):
        raise BadInput(f"make_victim takes the name of a victim, not {type(name).__name__}; wrap an estimator in SklearnVictim")
    if not isinstance(weights_root, Path | None):
        raise BadInput(f"weights_root={weights_root!r} is {type(weights_root).__name__}; give a pathlib.Path or None")
    if ":" in name:
        return _outside(name)
    if name not in VICTIMS:
        raise BadInput(f"unknown victim {name!r}; {nearest(name, VICTIMS, ', or your own as module:Class or path.py:function')}")
    victim = VICTIMS[name](device, weights_root)
    if isinstance(victim, TextVictim):
        victim.cache, victim.encoder = cache, encoder or victim.encoder
        victim.max_length = victim.max_length if max_length is None else max_length
    return victim


def _outside(name: str) -> Victim:
    """The victim of a class, function or object from outside the package."""
    found: Any
    found, call = user_object(name, "victim ")
    if isinstance(found, FunctionType | partial):  # not a class, whose `fit_many` would be there too
        try:
            found = found()
        except (Exception, SystemExit) as error:  # of somebody else's code
            raise BadInput(
                f"no estimator can be made by {call} ({in_one_line(error)}); give its parameters defaults, or write the arguments"
            ) from error
    victim: Victim = found if hasattr(found, "fit_many") and not isinstance(found, type) else SklearnVictim(found)
    return victim


__all__ = ["MODELS", "VICTIMS", "SklearnVictim", "blind", "make_victim"]
