"""Logistic regression on pooled features of a frozen text encoder, solved exactly: the cheap relative of BERT-LL.

*Source*: our own, for machines without a GPU: the mean over tokens of an encoder's last hidden state (`pooled_features`, or a
file of published ones), and scikit-learn's logistic regression at its default C = 1, as the paper uses on Adult.
*Deviations*: it is not the paper's BERT-LL, which trains the last encoder block too (`bert_last_layer`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from subpop.types import BadInput, FleetJob, Model
from subpop.victims.logistic import LogisticRegression

PENALTY = 1.0
"""scikit-learn's 1 / C."""


class TextLinear:
    """Logistic regressions trained in batches on a pool of pooled features; the models are those of `logistic_regression`."""

    exact = True

    def __init__(self) -> None:
        self._solver = LogisticRegression(PENALTY)

    def blind(self) -> TextLinear:
        """See `LogisticRegression.blind`."""
        other = TextLinear()
        other._solver = self._solver.blind()
        return other

    def fit_many(self, jobs: Sequence[FleetJob], seeds: Sequence[int]) -> list[Model]:
        """Train one LinearModel per job; seeds are not used. Raises BadInput for pools of tokens."""
        for x in (job.pool.x for job in jobs[:1]):
            if x.dtype.kind != "f":
                raise BadInput(f"text_linear takes pooled features, not {x.dtype} {x.shape}; use pooled_features on tokens")
            if not np.isfinite(x).all():
                raise BadInput("pooled features contain NaN or infinite values; compute them again")
        return self._solver.fit_many(jobs, seeds)
