"""The trained part of a BERT: the last block with the classifier, or all of it. There is no dropout: modules stay in eval mode.

Of the last block only [CLS] is read. Queries are therefore computed for [CLS] alone, and keys and values never explicitly: a
head's query q is applied to the states x as (W_K^T q) x, and their weighted sum is projected by W_V afterwards. This is the same
function as the block's, at about L * d / (2 * heads) of its cost for rows of L tokens of width d. (The bias of the keys cancels
in the softmax.)
"""

from __future__ import annotations

import copy
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from subpop.features.encoders.blocks import attended, lower_states

DEVIATION = 0.02
"""Standard deviation of a new classifier's weights, as in BERT."""


class Head(nn.Module):
    """Last block, pooler and classifier: maps the input states of the last block, (n, L, d), to logits."""

    def __init__(self, block: nn.Module, pooler: nn.Module, classifier: nn.Linear) -> None:
        super().__init__()
        self.block, self.pooler, self.classifier = block, pooler, classifier

    def features(self, states: Tensor, lengths: Tensor) -> Tensor:
        """(n, d): the pooled [CLS]. Values after a row's end have no influence, but must be finite."""
        block = cast(Any, self.block)
        first = states[:, 0]
        attention = block.attention.output(_collected(block.attention.self, first, states, lengths), first)
        out = block.output(block.intermediate(attention), attention)
        pooled: Tensor = self.pooler(out[:, None])
        return pooled

    def forward(self, states: Tensor, lengths: Tensor) -> Tensor:
        """(n, C) logits."""
        logits: Tensor = self.classifier(self.features(states, lengths))
        return logits


def _collected(attention: Any, first: Tensor, states: Tensor, lengths: Tensor) -> Tensor:
    """Return (n, d) the weighted sums over positions that the heads of [CLS] compute."""
    heads, each = attention.num_attention_heads, attention.attention_head_size
    keys, values = (layer.weight.view(heads, each, -1) for layer in (attention.key, attention.value))
    query = attention.query(first).view(-1, heads, each) * each**-0.5
    scores = torch.einsum("bhe,hed->bhd", query, keys) @ states.transpose(1, 2)
    mask = attended(lengths, states.shape[1])
    if mask is not None:
        scores = scores.masked_fill(~mask[:, 0], torch.finfo(scores.dtype).min)
    seen = scores.softmax(-1).to(states.dtype) @ states
    found: Tensor = torch.einsum("bhd,hed->bhe", seen, values).flatten(1) + attention.value.bias
    return found


class Whole(nn.Module):
    """Embeddings, lower blocks and head: maps tokens, (n, L), to logits."""

    def __init__(self, embeddings: nn.Module, blocks: nn.ModuleList, head: Head) -> None:
        super().__init__()
        self.embeddings, self.blocks, self.head = embeddings, blocks, head

    def features(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """(n, d): the pooled [CLS]."""
        return self.head.features(lower_states(self.embeddings, self.blocks, tokens, lengths), lengths)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """(n, C) logits."""
        logits: Tensor = self.head.classifier(self.features(tokens, lengths))
        return logits

    @property
    def classifier(self) -> nn.Linear:
        return self.head.classifier


def new_head(bert: Any, n_classes: int, seed: int) -> Head:
    """Copies of the last block and the pooler, and a classifier drawn from `seed`."""
    with torch.device("meta"):
        classifier = nn.Linear(bert.config.hidden_size, n_classes)
    classifier.to_empty(device="cpu")
    drawn = np.random.default_rng([seed, 0]).normal(0, DEVIATION, (n_classes, bert.config.hidden_size))
    with torch.no_grad():
        classifier.weight.copy_(torch.from_numpy(drawn))
        classifier.bias.zero_()
    return Head(copy.deepcopy(bert.encoder.layer[-1]), copy.deepcopy(bert.pooler), classifier).eval()


def new_whole(bert: Any, n_classes: int, seed: int) -> Whole:
    """A copy of a whole BERT, with a classifier drawn from `seed`."""
    lower = copy.deepcopy(bert.embeddings), copy.deepcopy(bert.encoder.layer[:-1])
    return Whole(*lower, new_head(bert, n_classes, seed)).eval()


def last_layer_parameters(head: Head) -> list[nn.Parameter]:
    """The trained parameters of a last-layer victim: the block and the classifier, not the pooler."""
    return [*head.block.parameters(), *head.classifier.parameters()]


def moved(network: Head | Whole, device: str) -> Head | Whole:
    """The network itself on the CPU, a copy on any other device."""
    return network if device == "cpu" else copy.deepcopy(network).to(device)
