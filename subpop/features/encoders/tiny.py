"""`tiny`: a BERT of two blocks with seeded random weights, and a tokenizer that hashes words. No file is read.

For suites that must run anywhere. It is not pretrained, so a victim learns from its own rows alone. Embeddings of words have
unit variance and blocks add little to them, so that states of different words differ: width and scales were chosen by clean
accuracy on D_aux of the generated reviews.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from transformers.models.bert.modeling_bert import BertModel

SEED = 0
CONFIG: dict[str, Any] = {
    "model_type": "bert",
    "vocab_size": 4096,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}
POSITION_SCALE, BLOCK_SCALE = 0.1, 0.3
"""Deviations: of embeddings of positions, and of a block's weights times the root of their fan-in."""
CLS, SEP, FIRST_WORD = 1, 2, 3
_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?|[!?]")


def encode(texts: Sequence[str], max_length: int) -> list[list[int]]:
    """Ids of lower-case words, "!" and "?"; a word's id is a hash of it, so that two words may have the same id."""
    return [[CLS, *[_id(word) for word in _WORD.findall(text.lower())[: max_length - 2]], SEP] for text in texts]


def _id(word: str) -> int:
    digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
    return FIRST_WORD + int.from_bytes(digest, "little") % (int(CONFIG["vocab_size"]) - FIRST_WORD)


def fill(bert: BertModel, seed: int = SEED) -> None:
    """Draw all weights from a generator of their own, in the order of the module's parameters."""
    import torch

    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, value in bert.named_parameters():
            if "LayerNorm" in name or value.ndim == 1:
                value.fill_(1.0 if name.endswith("LayerNorm.weight") else 0.0)
                continue
            value.copy_(torch.from_numpy(rng.normal(0, _deviation(name, value.shape[1]), tuple(value.shape))))


def _deviation(name: str, fan_in: int) -> float:
    if name.startswith("embeddings"):
        return 1.0 if "word" in name else POSITION_SCALE
    return float((1.0 if name.startswith("pooler") else BLOCK_SCALE) / np.sqrt(fan_in))
