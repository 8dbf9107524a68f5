"""All weights of a BERT and a classifier, trained from its published weights: the paper's "BERT-FT", one victim after another.

*Source*: bert-base-uncased on IMDB, rows of 256 tokens; AdamW at 1e-5, decreasing linearly to 0 without warm-up, 4 epochs,
batches of 8 for victims (the released clean models: 16; here both are trained in the same way).
*Deviations*: no dropout. Batches contain rows of similar length, in an order that depends on the seed, the epoch and the row. Of
the last block only [CLS] is computed. Weight decay is torch's .01. On a GPU layers run in bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from subpop.types import FleetJob, Ints
from subpop.victims.batched_jobs import Recipe
from subpop.victims.bert_last_layer import TextVictim
from subpop.victims.transformer_model import TextModel, WholeTextModel

if TYPE_CHECKING:
    from subpop.victims.transformer_training import Inputs


class BertFineTuned(TextVictim):
    """Victims on tokens, which are copied to the device as a whole."""

    one_by_one = True

    def _source(self, x: Any, lengths: Ints) -> Callable[[Ints], Inputs]:
        import torch

        tokens, every = torch.from_numpy(np.array(x)).to(self.device), torch.from_numpy(lengths).to(self.device)

        def of_job(rows: Ints) -> Inputs:
            places = torch.from_numpy(rows).to(self.device)

            def inputs(batch: Ints, on_device: Any) -> Any:
                chosen = places[on_device]
                return tokens[chosen, : int(lengths[rows[batch]].max())], every[chosen]

            return inputs

        return of_job

    def _trained(self, job: FleetJob, inputs: Inputs, lengths: Ints, recipe: Recipe, seed: int) -> TextModel:
        from subpop.victims.transformer_network import new_whole
        from subpop.victims.transformer_training import train

        whole = new_whole(self.origin.load().bert(), job.pool.n_classes, seed)
        trained = list(whole.parameters())
        train(whole, trained, inputs, lengths=lengths, y=job.y, keys=job.rows, recipe=recipe, seed=seed, device=self.device)
        return WholeTextModel(whole, self.origin)
