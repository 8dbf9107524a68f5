"""A trained convolutional network that implements the protocols: predictions, features, its last channels, and storage as
arrays.

Weights are float32, stay on the CPU, and are copied to the model's device for each call, so that hundreds of models do not fill
a GPU. Models are immutable: methods that change one return a new model. torch is imported when a model is made, not before.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from subpop.types import Array, BadInput, Bools, Floats, TrainingSet
from subpop.victims.pictures import check_pictures

if TYPE_CHECKING:
    from torch import nn

    from subpop.victims.torch_network import ConvClassifier

_PIXELS = 640 << 10
"""Maximum number of pixels in a batch of at most _ROWS rows."""
_ROWS = 512


class _LastFeatures:
    """Unmasked features of the last requested pictures; shared by a model and all models pruned from it.

    Pruning step by step predicts the same rows hundreds of times. Only read-only arrays are cached.
    """

    def __init__(self) -> None:
        self._held: tuple[weakref.ref[Array], Floats] | None = None

    def get(self, x: Array) -> Floats | None:
        held = self._held
        return held[1] if held is not None and held[0]() is x and _immutable(x) else None

    def put(self, x: Array, features: Floats) -> None:
        if _immutable(x):
            self._held = weakref.ref(x, self._forget), features

    def _forget(self, gone: weakref.ref[Array]) -> None:
        held = self._held
        if held is not None and held[0] is gone:
            self._held = None


def _immutable(x: Array) -> bool:
    """Return whether the array and the arrays that it is a view of are all read-only."""
    while isinstance(x, np.ndarray):
        if x.flags.writeable:
            return False
        x = x.base  # type: ignore[assignment]
    return x is None


class TorchModel:
    """A convolutional classifier of uint8 pictures (n, channels, height, width). `network` must not be modified afterwards."""

    def __init__(self, network: ConvClassifier, device: str = "cpu", seen: _LastFeatures | None = None) -> None:
        self._network, self.device = network, device
        self._seen = seen or _LastFeatures()

    @property
    def module(self) -> nn.Module:
        """A copy of the network in eval mode on the CPU: maps pixels in 0..255, uint8 or float, to (n, C) logits."""
        return copy.deepcopy(self._network)

    def predict_proba(self, x: Array) -> Floats:
        """(n, C) float32, rows sum to 1."""
        import torch

        with torch.inference_mode():
            return self._network.head(torch.from_numpy(self.features(x))).softmax(1).numpy()  # type: ignore[no-any-return]

    def features(self, x: Array) -> Floats:
        """(n, d) float32: the mean over positions of the last map, with masked channels set to 0."""
        found = self._seen.get(x)
        if found is None:
            found = self._batches(x, lambda network, maps: network.body.finish(maps).mean((2, 3)))
            self._seen.put(x, found)
        return np.asarray(found * self._kept)  # masking commutes with pooling

    def channel_activations(self, x: Array) -> Floats:
        """(n, c) mean over positions of the last convolution's activations; 0 for a masked channel."""
        return np.asarray(self._batches(x, lambda network, maps: maps.mean((2, 3))) * self._kept)

    def channel_zeros(self, x: Array) -> Floats:
        """Return (n, c) the fraction of positions at which a channel is zero; 1 for a masked channel."""
        found = self._batches(x, lambda network, maps: (maps == 0).float().mean((2, 3)))
        return np.where(self._kept > 0, found, np.float32(1))

    def pruned(self, keep: Bools) -> TorchModel:
        """Return the same network with more channels masked; raises BadInput for another shape than (c,) bool."""
        from subpop.victims.torch_network import ConvClassifier

        kept, own = np.asarray(keep), self._network
        if kept.dtype != np.bool_ or kept.shape != self._kept.shape:
            raise BadInput(f"keep is {kept.dtype} of shape {kept.shape}; give a bool for each of {len(self._kept)} channels")
        network = ConvClassifier(own.name, own.body, own.head, own.offset, own.penalty, kept & (self._kept > 0))
        return TorchModel(network.eval(), self.device, self._seen)

    def fine_tuned(self, train: TrainingSet, *, epochs: int, learning_rate: float, batch_size: int, seed: int) -> TorchModel:
        """Return a copy trained further with Adam, all layers, with the head's penalty; `seed` determines the batch order
        only."""
        from subpop.victims.batched_jobs import Recipe
        from subpop.victims.torch_training import train_on

        recipe = Recipe(epochs, learning_rate, batch_size)
        x, y = train.x, train.y
        check_pictures([x])
        if not len(y) or y.min() < 0 or y.max() >= self._network.head.out_features:
            raise BadInput(f"{len(y)} rows with labels {set(y.tolist())}; give at least one, all of the model's classes")
        own, rows = copy.deepcopy(self._network), np.arange(len(y))
        network = train_on(own, x, y, rows, recipe=recipe, seed=seed, device=self.device)
        return TorchModel(network, self.device)

    def state(self) -> dict[str, Array]:
        """Plain arrays that `from_state` turns back into this model."""
        from subpop.victims.torch_network import to_state

        return {**to_state(self._network), "device": np.array(self.device)}

    @classmethod
    def from_state(cls, state: Mapping[str, Array]) -> TorchModel:
        """The model with this state, on the CPU if its device is not available."""
        import torch

        from subpop.victims.torch_network import of_state

        device = str(state["device"])
        return cls(of_state(state), device if device == "cpu" or torch.cuda.is_available() else "cpu")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_state, (self.state(),)

    @property
    def _kept(self) -> Floats:
        kept: Floats = self._network.keep.numpy()
        return kept

    def _batches(self, x: Array, what: Any) -> Floats:
        """Return (n, c) float32 results of `what`(network, maps) over all rows."""
        import torch

        x = np.asarray(x)
        check_pictures([x])
        first = next(p for p in self._network.body.parameters() if p.ndim == 4)
        if x.shape[1] != first.shape[1]:
            raise BadInput(f"pictures have {x.shape[1]} channels; this model was trained on {first.shape[1]}")
        size = max(1, min(_ROWS, _PIXELS // max(1, x.shape[2] * x.shape[3])))
        found = np.empty((len(x), len(self._kept)), np.float32)
        with torch.inference_mode(), _on(self._network, self.device) as network:
            for start in range(0, len(x), size):
                batch = torch.from_numpy(np.array(x[start : start + size])).to(self.device)
                found[start : start + size] = what(network, network.maps(batch)).cpu().numpy()
        return found


@contextmanager
def _on(network: ConvClassifier, device: str) -> Iterator[ConvClassifier]:
    """The network on a device, with deterministic results."""
    from torch.backends import cudnn

    if device == "cpu":
        yield network
        return
    with cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield copy.deepcopy(network).to(device)
