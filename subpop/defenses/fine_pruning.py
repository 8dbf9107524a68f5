"""Fine-Pruning: mask channels that clean rows do not activate, as long as accuracy holds, then fine-tune on clean rows.

*Source*: Liu, Dolan-Gavitt, Garg 2018. Channels of the last convolutional layer are pruned one by one, in increasing order of
their mean activation on clean rows, until accuracy would fall by more than 4 points below the original network's; the pruned
network is then trained on the clean rows: Adam at 1e-4, 2 epochs, batches of 32, all layers. `fine_pruning_as_released` is the
procedure of the paper's authors (Table 12), with its defects: candidates are the channels whose share of zeros is at least
min(.6, mean + deviation over channels), in the order of their *index*; a candidate's number is looked up among the remaining
channels, whose numbers shift by one with each deletion, so that for 0, 1, 2, 3 the channels 0, 2, 4, 6 are deleted; and accuracy
is tested after a deletion that is not undone, so that the network loses more than 4 points.
*Deviations*: channels are masked, not removed; at least one is left. The clean holdout, without the target subpopulation, is used
in all three steps: the released runs measured zeros and accuracy on the rest of the test set, which a defender does not have, and
drew the holdout from it, including target rows. They raised an error if the candidates ran out before accuracy fell; here
pruning ends.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import numpy as np

from subpop.defenses.holdouts import clean_holdout
from subpop.types import Array, BadInput, Bools, ChannelModel, Defended, Fit, Ints, Knowledge, Model, TrainingSet

TOLERANCE = 0.04
EPOCHS, LEARNING_RATE, BATCH_SIZE = 2, 1e-4, 32
RELEASED_ZEROS = 0.6
METHODS = ("channel_activations", "channel_zeros", "pruned", "fine_tuned")


def fine_pruning(train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int) -> Defended:
    """Prune the least active channels while accuracy on the clean holdout falls by at most 4 points, then fine-tune on it.

    Parameters
    ----------
    train, fit, know, seed
        See `Defense`.

    Returns
    -------
    Defended
        The fine-tuned model, with the stages `attacked` (undefended), `pruned` and `finetuned`.

    Raises
    ------
    BadInput
        If there is no clean holdout, or the model is not a `ChannelModel`.

    Examples
    --------
    >>> from subpop import DEFENSES, Knowledge, TrainingSet
    >>> from subpop.testing import gaussian
    >>> toy = gaussian(240, 2, n_poison=24)
    >>> know = Knowledge(clean_holdout=TrainingSet.of(toy.test_x, toy.test_y))
    >>> defended = DEFENSES["fine_pruning"](toy.train(), toy.fit, know, seed=0)
    >>> sorted(defended.stages)
    ['attacked', 'finetuned', 'pruned']
    """
    holdout = clean_holdout(know, "fine_pruning")
    model = channel_model(fit(train), "fine_pruning")
    clean = _Clean(model, holdout.x, holdout.y)
    order = np.argsort(clean.activations.mean(axis=0, dtype=np.float64), kind="stable")
    return _tuned(model, clean.left(order, past=False), holdout, seed)


fine_pruning.needs = {"clean_holdout"}  # type: ignore[attr-defined]
fine_pruning.exact = False  # type: ignore[attr-defined]  # fine-tuning is stochastic for every victim


def fine_pruning_as_released(train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int) -> Defended:
    """Delete candidates by index from a shrinking layer until accuracy has fallen by more than 4 points, then fine-tune.

    Parameters
    ----------
    train, fit, know, seed
        See `Defense`.

    Returns
    -------
    Defended
        The fine-tuned model, with the stages `attacked` (undefended), `pruned` and `finetuned`.

    Raises
    ------
    BadInput
        If there is no clean holdout, or the model is not a `ChannelModel`.

    Examples
    --------
    >>> from subpop import DEFENSES, Knowledge, TrainingSet
    >>> from subpop.testing import gaussian
    >>> toy = gaussian(240, 2, n_poison=24)
    >>> know = Knowledge(clean_holdout=TrainingSet.of(toy.test_x, toy.test_y))
    >>> defended = DEFENSES["fine_pruning_as_released"](toy.train(), toy.fit, know, seed=0)
    >>> sorted(defended.stages)
    ['attacked', 'finetuned', 'pruned']
    """
    holdout = clean_holdout(know, "fine_pruning_as_released")
    model = channel_model(fit(train), "fine_pruning_as_released")
    clean = _Clean(model, holdout.x, holdout.y)
    zeros = model.channel_zeros(clean.x).mean(axis=0, dtype=np.float64)
    order = shifted(zero_candidates(zeros), len(zeros))
    return _tuned(model, clean.left(order, past=True), holdout, seed)


fine_pruning_as_released.needs = {"clean_holdout"}  # type: ignore[attr-defined]
fine_pruning_as_released.exact = False  # type: ignore[attr-defined]


def zero_candidates(zeros: Array) -> Ints:
    """Return the channels, ascending, whose fraction of zeros, (c,) in [0, 1], reaches the released threshold."""
    cut = min(RELEASED_ZEROS, float(zeros.mean() + zeros.std()))
    return np.flatnonzero(zeros >= cut)


def shifted(candidates: Iterable[int], n_channels: int) -> list[int]:
    """Return the deleted channels if each candidate's number is looked up among the remaining ones, until a number is too
    large."""
    left = list(range(n_channels))
    gone: list[int] = []
    for candidate in candidates:
        if candidate >= len(left):
            break
        gone.append(left.pop(candidate))
    return gone


def channel_model(model: Model, defense: str) -> ChannelModel:
    """Return the model; raises BadInput if it lacks the methods of ChannelModel."""
    missing = [name for name in METHODS if not callable(getattr(model, name, None))]
    if missing:
        raise BadInput(
            f"{defense} prunes convolutional networks; the victim's model is {type(model).__name__}, which has no "
            f"{', '.join(missing)}: choose a victim with a convolutional layer, or give the model these methods of ChannelModel"
        )
    return cast(ChannelModel, model)


def _tuned(model: ChannelModel, keep: Bools, holdout: TrainingSet, seed: int) -> Defended:
    pruned = model.pruned(keep)
    tuned = pruned.fine_tuned(holdout, epochs=EPOCHS, learning_rate=LEARNING_RATE, batch_size=BATCH_SIZE, seed=seed)
    diagnostics = {"n_pruned": float((~keep).sum()), "holdout_rows": float(len(holdout))}
    return Defended(tuned, stages={"attacked": model, "pruned": pruned, "finetuned": tuned}, diagnostics=diagnostics)


@dataclass(eq=False)
class _Clean:
    """The clean rows, and the accuracy that pruning loses on them."""

    model: ChannelModel
    x: Array
    y: Ints

    def __post_init__(self) -> None:
        self.activations = self.model.channel_activations(self.x)
        # If activations are never negative, a channel with mean 0 is never active: masking it changes no prediction.
        self._silent = (self.activations == 0).all(axis=0) & bool((self.activations >= 0).all())
        self._right = self._count(self.model)

    def left(self, order: Iterable[int], *, past: bool) -> Bools:
        """Return the channels, (c,) bool, that remain when one of `order` loses more than the tolerance; past: that one is masked
        too."""
        keep = np.ones(self.activations.shape[1], dtype=np.bool_)
        for channel in order:
            following = keep.copy()
            following[channel] = False
            if not following.any():
                break
            fallen = not self._silent[channel] and self._fallen(following)
            if past or not fallen:
                keep = following
            if fallen:
                break
        return keep

    def _fallen(self, keep: Bools) -> bool:
        lost = self._right - self._count(self.model.pruned(keep))
        return lost > TOLERANCE * len(self.y) + 1e-9  # exactly 4 points are allowed, whatever .04 is in binary

    def _count(self, model: Model) -> int:
        return int((model.predict_proba(self.x).argmax(axis=1) == self.y).sum())
