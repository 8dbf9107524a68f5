"""A trained text classifier that implements the protocols: rows of tokens to probabilities and features, and storage as arrays.

Weights are float32 and stay on the CPU; they are copied to the model's device for each call. A model is stored as its trained
weights and the name of the encoder that it was trained on, whose files must be the same when it is restored.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from subpop.features.encoders import Encoder, KnownStates, check_tokens, known_states, lengths_of, load_encoder
from subpop.types import Array, BadInput, Floats, Ints

if TYPE_CHECKING:
    from torch import nn

    from subpop.victims.transformer_network import Head, Whole

ROWS_A_TIME = 64
PREFIX = "weights."


@dataclass(frozen=True)
class Origin:
    """Where to find an encoder. weights_root: DATA_ROOT/weights by default; cache: folder of hidden states, None for no cache."""

    encoder: str
    weights_root: Path | None = None
    cache: Path | None = None
    device: str = "cpu"

    def load(self) -> Encoder:
        return load_encoder(self.encoder, self.weights_root)

    def states(self) -> KnownStates:
        return known_states(self.load(), self.cache, self.device)

    def arrays(self) -> dict[str, Array]:
        texts = (self.encoder, str(self.weights_root or ""), str(self.cache or ""), self.device, self.load().fingerprint)
        return {"origin": np.array(texts)}

    @classmethod
    def of(cls, arrays: Mapping[str, Array]) -> Origin:
        """The stored origin, on the CPU if its device is not available; raises BadInput if the encoder has changed."""
        import torch

        name, root, cache, device, fingerprint = map(str, arrays["origin"])
        own = device if device == "cpu" or torch.cuda.is_available() else "cpu"
        origin = cls(name, Path(root) if root else None, Path(cache) if cache else None, own)
        if origin.load().fingerprint != fingerprint:
            raise BadInput(f"the files of encoder {name!r} are not those that this model was trained on; train it again")
        return origin


class TextModel(ABC):
    """The common part of both kinds of models. `network` must not be modified afterwards."""

    def __init__(self, network: Head | Whole, origin: Origin) -> None:
        self._network, self.origin = network, origin

    @property
    def device(self) -> str:
        return self.origin.device

    def predict_proba(self, x: Array) -> Floats:
        """(n, C) float32, rows sum to 1."""
        import torch

        with torch.inference_mode():
            logits = self._network.classifier(torch.from_numpy(self.features(x)))
            return logits.softmax(1).numpy()  # type: ignore[no-any-return]

    @abstractmethod
    def features(self, x: Array) -> Floats:
        """(n, d) float32: the pooled [CLS], input of the classifier."""

    def state(self) -> dict[str, Array]:
        """Plain arrays that `from_state` turns back into this model."""
        arrays = {f"{PREFIX}{name}": value.detach().numpy().copy() for name, value in self._trained().items()}
        return {**self.origin.arrays(), **arrays}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_state, (self.state(),)  # type: ignore[attr-defined]

    def _trained(self) -> dict[str, nn.Parameter]:
        return dict(self._network.named_parameters())

    def _batched(self, lengths: Ints, own: Any) -> Floats:
        """(n, d) results of `own`(network on the device, rows), computed on batches of rows in order of length."""
        import torch

        from subpop.victims.transformer_network import moved

        out = np.empty((len(lengths), self._network.classifier.in_features), np.float32)
        order, kind = np.argsort(lengths, kind="stable"), self.device.partition(":")[0]
        with torch.inference_mode(), torch.autocast(kind, torch.bfloat16, enabled=kind != "cpu"):
            network = moved(self._network, self.device)
            for start in range(0, len(order), ROWS_A_TIME):
                rows = order[start : start + ROWS_A_TIME]
                out[rows] = own(network, rows).float().cpu().numpy()
        return out


class LastLayerTextModel(TextModel):
    """Last block and classifier on an encoder's states, which are computed once per row and cached."""

    _network: Head

    def __init__(self, network: Head, origin: Origin) -> None:
        super().__init__(network, origin)
        self._states = origin.states()

    def features(self, x: Array) -> Floats:
        import torch

        places = self._states.find(np.asarray(x))

        def own(network: Any, rows: Ints) -> Any:
            states, lengths = self._states.padded(places[rows])
            return network.features(torch.from_numpy(states).to(self.device), torch.from_numpy(lengths).to(self.device))

        return self._batched(lengths_of(x), own)

    def _trained(self) -> dict[str, nn.Parameter]:
        return {name: value for name, value in self._network.named_parameters() if not name.startswith("pooler.")}

    @classmethod
    def from_state(cls, state: Mapping[str, Array]) -> LastLayerTextModel:
        """The model that gave this state; its encoder must be on disk."""
        from subpop.victims.transformer_network import new_head

        origin = Origin.of(state)
        head = new_head(origin.load().bert(), len(state[f"{PREFIX}classifier.bias"]), 0)
        return cls(_filled(head, state), origin)


class WholeTextModel(TextModel):
    """A network with all its weights, which processes tokens in each call."""

    _network: Whole

    def features(self, x: Array) -> Floats:
        import torch

        x = np.asarray(x)
        check_tokens(self.origin.load(), x)
        lengths = lengths_of(x)

        def own(network: Any, rows: Ints) -> Any:
            tokens = torch.from_numpy(np.array(x[rows, : lengths[rows].max()]))
            return network.features(tokens.to(self.device), torch.from_numpy(lengths[rows]).to(self.device))

        return self._batched(lengths, own)

    @classmethod
    def from_state(cls, state: Mapping[str, Array]) -> WholeTextModel:
        """The model that gave this state; its encoder must be on disk."""
        from subpop.victims.transformer_network import new_whole

        origin = Origin.of(state)
        whole = new_whole(origin.load().bert(), len(state[f"{PREFIX}head.classifier.bias"]), 0)
        return cls(_filled(whole, state), origin)


def _filled(network: Any, state: Mapping[str, Array]) -> Any:
    import torch

    # Always the same memory layout, because it determines how sums are rounded.
    own = {name: torch.from_numpy(np.array(value, order="C")) for name, value in state.items() if name.startswith(PREFIX)}
    network.load_state_dict({name.removeprefix(PREFIX): value for name, value in own.items()}, strict=False)
    return network.requires_grad_(False)
