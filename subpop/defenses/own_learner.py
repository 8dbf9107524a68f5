"""The training set of a defense that trains a learner of its own instead of the victim."""

from __future__ import annotations

import numpy as np

from subpop.types import BadInput, Pool, TrainingSet, content_order


def own_pool(train: TrainingSet, defense: str) -> Pool:
    """Return the rows in an order that depends on their contents alone, flattened, as float32 inputs.

    Raises BadInput if the inputs are no numbers, such as the tokens of texts.
    """
    x = np.asarray(train.x)
    if x.dtype.kind != "f" and x.dtype != np.uint8:
        raise BadInput(
            f"{defense} trains a learner of its own on numbers; the inputs are {x.dtype} of shape {x.shape[1:]}: use "
            "a data set of tables, pictures or frozen features, not tokens"
        )
    order = content_order(x, train.y)
    return Pool(x[order].reshape(len(x), -1).astype(np.float32), train.y[order].copy(), len(x), train.n_classes)
