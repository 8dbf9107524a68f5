"""Transformer encoders by name or folder, which turn texts into tokens, hidden states and features.

An encoder is a BERT (`BertModel`) read from a folder with config.json, tokenizer.json (or vocab.txt) and model.safetensors;
nothing is downloaded, and no pickle is read. `tiny` needs no folder. Nothing here trains, and importing this package does not
import torch or transformers.

A row of tokens is (L,) int64: [CLS], words, [SEP], then zeros. Padding is never computed on: the states of a row do not depend
on the amount of padding nor, on a CPU, on other rows of the batch.
"""

from __future__ import annotations

from subpop.features.encoders.encoder import Encoder, encoder_fingerprint, load_encoder
from subpop.features.encoders.known import KnownStates, known_states
from subpop.features.encoders.pca import streamed_pca
from subpop.features.encoders.pooled import pooled_features
from subpop.features.encoders.states import HiddenStates, hidden_states
from subpop.features.encoders.tokens import check_tokens, lengths_of, tokenise

__all__ = [
    "Encoder",
    "HiddenStates",
    "KnownStates",
    "check_tokens",
    "encoder_fingerprint",
    "hidden_states",
    "known_states",
    "lengths_of",
    "load_encoder",
    "pooled_features",
    "streamed_pca",
    "tokenise",
]
