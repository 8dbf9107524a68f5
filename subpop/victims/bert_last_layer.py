"""The last block of a BERT and a classifier, trained on states that frozen blocks computed once: the paper's "BERT-LL".

*Source*: bert-base-uncased on IMDB, rows of 256 tokens; the last encoder block and the classifier train, the pooler and all
lower layers are frozen. AdamW at 1e-5, decreasing linearly to 0 without warm-up, 4 epochs, batches of 8.
*Deviations*: no dropout, in frozen and in trained parts, so that frozen states never change and can be cached. Batches contain
rows of similar length, in an order that depends on the seed, the epoch and the row. Of the last block only [CLS] is computed,
the one position that is read; the bias of its keys, which has no effect, gets no gradient. Weight decay is torch's .01, which at
this rate reduces weights by less than a thousandth.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from subpop.features.encoders import check_tokens, encoder_fingerprint, lengths_of
from subpop.features.encoders.tokens import check_max_length
from subpop.runtime.threads import on_cores
from subpop.types import BadInput, FleetJob, Ints, Model
from subpop.victims.batched_jobs import Recipe, present_jobs, stacked
from subpop.victims.transformer_model import LastLayerTextModel, Origin, TextModel

if TYPE_CHECKING:
    from subpop.victims.transformer_training import Inputs


class TextVictim(ABC):
    """The common part of both kinds of text victims: encoder, recipe, checks, and training one victim after another.

    encoder, weights_root: as for `load_encoder`; max_length: tokens per row; cache: folder of hidden states.
    """

    exact = False
    one_by_one = False
    """Whether a network with all its weights is trained, of which there may be no memory for several."""

    def __init__(
        self,
        encoder: str = "bert-base-uncased",
        *,
        max_length: int = 256,
        weights_root: Path | None = None,
        cache: Path | None = None,
        device: str = "cpu",
        epochs: int = 4,
        learning_rate: float = 1e-5,
        batch_size: int = 8,
        weight_decay: float = 0.01,
    ) -> None:
        if device.split(":")[0] not in ("cpu", "cuda"):
            raise BadInput(f"device={device!r} is unknown; use cpu or cuda")
        self.encoder, self.max_length, self.weights_root = encoder, max_length, weights_root
        self.cache, self.device = cache, device
        self.epochs, self.learning_rate, self.batch_size, self.weight_decay = epochs, learning_rate, batch_size, weight_decay

    @property
    def origin(self) -> Origin:
        return Origin(self.encoder, self.weights_root, self.cache, self.device)

    def weights_fingerprint(self) -> str:
        """Return a hash of the encoder's initial weights; raises MissingData if they are not available."""
        return encoder_fingerprint(self.encoder, self.weights_root)

    def fit_many(self, jobs: Sequence[FleetJob], seeds: Sequence[int]) -> list[Model]:
        """Train one model per job; seeds determine the classifier's weights and the batch order. Sample weights must be 0 or
        1."""
        jobs = present_jobs(jobs, seeds)
        if not jobs:
            return []
        recipe = Recipe(self.epochs, self.learning_rate, self.batch_size, weight_decay=self.weight_decay)
        encoder = self.origin.load()
        check_max_length(encoder, self.max_length)
        x, places = stacked(jobs)
        check_tokens(encoder, x)
        lengths = lengths_of(x)
        source = self._source(x, lengths)

        def trained(number: int) -> Model:
            rows = places[number]
            return self._trained(jobs[number], source(rows), lengths[rows], recipe, seeds[number])

        with on_cores(1 if self.one_by_one else len(jobs), self.device == "cpu") as mapped:
            return list(mapped(trained, range(len(jobs))))

    @abstractmethod
    def _source(self, x: Any, lengths: Ints) -> Callable[[Ints], Inputs]:
        """Return the network's inputs for the rows of x that a job names."""

    @abstractmethod
    def _trained(self, job: FleetJob, inputs: Inputs, lengths: Ints, recipe: Recipe, seed: int) -> TextModel:
        """Train one victim."""


class BertLastLayer(TextVictim):
    """Victims on hidden states. cached: False computes the frozen blocks in each step, for comparison."""

    def __init__(self, encoder: str = "bert-base-uncased", *, cached: bool = True, **options: Any) -> None:
        super().__init__(encoder, **options)
        self._cached = cached

    def _source(self, x: Any, lengths: Ints) -> Callable[[Ints], Inputs]:
        import torch

        if not self._cached:
            return self._recomputing(x, lengths)
        known = self.origin.states()
        places = known.find(x)

        def inputs(rows: Ints) -> Any:
            states, own = known.padded(places[rows])
            return torch.from_numpy(states).to(self.device), torch.from_numpy(own).to(self.device)

        return lambda rows: lambda batch, on_device: inputs(rows[batch])

    def _recomputing(self, x: Any, lengths: Ints) -> Callable[[Ints], Inputs]:
        import torch

        from subpop.features.encoders.blocks import lower_states

        bert = self.origin.load().bert(self.device)

        def inputs(rows: Ints) -> Any:
            tokens = torch.from_numpy(np.array(x[rows, : lengths[rows].max()])).to(self.device)
            own = torch.from_numpy(lengths[rows]).to(self.device)
            with torch.no_grad():
                return lower_states(bert.embeddings, bert.encoder.layer[:-1], tokens, own), own

        return lambda rows: lambda batch, on_device: inputs(rows[batch])

    def _trained(self, job: FleetJob, inputs: Inputs, lengths: Ints, recipe: Recipe, seed: int) -> TextModel:
        from subpop.victims.transformer_network import last_layer_parameters, new_head
        from subpop.victims.transformer_training import train

        head = new_head(self.origin.load().bert(), job.pool.n_classes, seed)
        trained = last_layer_parameters(head)
        train(head, trained, inputs, lengths=lengths, y=job.y, keys=job.rows, recipe=recipe, seed=seed, device=self.device)
        return LastLayerTextModel(head, self.origin)
