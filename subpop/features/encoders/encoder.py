"""An encoder in memory: its tokenizer, and its BERT with the weights as they were published, frozen."""

from __future__ import annotations

import functools
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from subpop.features.encoders import tiny
from subpop.features.encoders.folders import CONFIG, WEIGHTS, encoder_folder, read_config, tokenizer_file
from subpop.features.encoders.tokenizer_files import SETTINGS, Encode, read_tokenizer
from subpop.runtime.fingerprint import key_of
from subpop.types import BadInput

if TYPE_CHECKING:  # torch and transformers take seconds to import
    from transformers.models.bert.modeling_bert import BertModel

TINY = "tiny"
_LOADING = threading.RLock()
UNUSED = ("cls.", "classifier.", "lm_head.")
"""Parts of checkpoints other than the encoder: heads of other tasks."""


class Encoder:
    """Tokenizer and BERT of one folder. vocabulary, max_positions, hidden: sizes; fingerprint: hash of all its files."""

    def __init__(self, name: str, config: dict[str, Any], fingerprint: str, encode: Encode, folder: Path | None) -> None:
        self.name, self.fingerprint, self.encode, self._config, self._folder = name, fingerprint, encode, config, folder
        self.vocabulary, self.hidden = int(config["vocab_size"]), int(config["hidden_size"])
        self.max_positions, self.n_blocks = int(config["max_position_embeddings"]), int(config["num_hidden_layers"])
        self._on: dict[str, BertModel] = {}

    def bert(self, device: str = "cpu") -> BertModel:
        """The network on a device, in eval mode, without gradients; shared, never to be changed."""
        with _LOADING:
            if device not in self._on:
                self._on[device] = _network(self._config, self._folder).to(device)  # type: ignore[arg-type]
            return self._on[device]

    def __repr__(self) -> str:
        return f"Encoder({self.name!r}, {self.n_blocks} blocks of {self.hidden})"


def load_encoder(name: str, weights_root: Path | None = None) -> Encoder:
    """The encoder of a name or folder, read once a process as long as its files stay. `tiny` needs no files.

    Raises MissingData for one that is not on disk, BadInput for files that do not fit; weights are read at their first use.
    """
    with _LOADING:
        return _loaded(name, weights_root, encoder_fingerprint(name, weights_root))


def encoder_fingerprint(name: str, weights_root: Path | None = None) -> str:
    """Hash of all the files that an encoder is read from."""
    if name == TINY:
        return key_of({"config": tiny.CONFIG, "seed": tiny.SEED, "scales": (tiny.POSITION_SCALE, tiny.BLOCK_SCALE)})
    from subpop.features.networks.weights import weights_fingerprint

    folder = encoder_folder(name, weights_root)
    files = (folder / CONFIG, folder / WEIGHTS, tokenizer_file(folder), folder / SETTINGS)
    return key_of({path.name: weights_fingerprint(path) for path in files if path.is_file()})


@functools.lru_cache(maxsize=4)
def _loaded(name: str, weights_root: Path | None, fingerprint: str) -> Encoder:
    if name == TINY:
        return Encoder(name, tiny.CONFIG, fingerprint, tiny.encode, None)
    folder = encoder_folder(name, weights_root)
    return Encoder(name, read_config(folder), fingerprint, read_tokenizer(folder), folder)


def _network(config: dict[str, Any], folder: Path | None) -> BertModel:
    """Built without weights, so that torch's global generator is neither used nor moved; then filled."""
    import torch

    bert = _empty(config)
    if folder is None:
        tiny.fill(bert)
    else:
        _fill(bert, folder / WEIGHTS)
    for name, value in bert.named_parameters():
        if not bool(torch.isfinite(value).all()):
            raise BadInput(f"{folder}: weight {name} contains NaN or infinite values; fetch {WEIGHTS} again")
    bert.eval()  # type: ignore[no-untyped-call]
    bert.requires_grad_(False)
    return bert


def _empty(config: dict[str, Any]) -> BertModel:
    from subpop._torchvision import import_torchvision

    import_torchvision()
    import torch
    from transformers import BertConfig
    from transformers.models.bert.modeling_bert import BertModel

    own = BertConfig(**{name: value for name, value in config.items() if name != "model_type"})
    own._attn_implementation = "sdpa"  # masks are given as booleans, which the other implementations do not take
    with torch.device("meta"):
        bert: BertModel = BertModel(own)
    bert.to_empty(device="cpu")
    bert.embeddings.register_buffer("position_ids", torch.arange(own.max_position_embeddings)[None], persistent=False)
    none = torch.zeros((1, own.max_position_embeddings), dtype=torch.int64)
    bert.embeddings.register_buffer("token_type_ids", none, persistent=False)
    return bert


def _fill(bert: BertModel, path: Path) -> None:
    from subpop.features.networks.weights import load_into, read_weights

    state = {_renamed(name): value.float() for name, value in read_weights(path).items()}
    others = [name for name in state if name.startswith(UNUSED) or name.endswith(("position_ids", "token_type_ids"))]
    load_into(bert, state, "this BERT's configuration", path, others)


def _renamed(name: str) -> str:
    """Without the prefix of a model around it; norms by their present names, not those of the first release."""
    own = name.removeprefix("bert.")
    return own.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
