"""Texts as victims read them (tokens or pooled features of an encoder), and the space in which ClusterMatch clusters them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from subpop.types import Array, BadInput, Cell, Dataset, Ints, Victim
from subpop.victims.bert_last_layer import TextVictim
from subpop.victims.text_linear import TextLinear

HIDDEN_STATES = "hidden_states"
"""Value of `clusters_on`: the input states of the last block of the victim's encoder, at all positions."""
MAX_LENGTH = 128
"""Default number of tokens per row."""


@dataclass(frozen=True)
class Reading:
    """How texts become rows. encoder: a name or folder; pooled: one vector per text instead of its tokens."""

    encoder: str
    max_length: int
    pooled: bool


def reading_of(cell: Cell, victim: Victim) -> Reading:
    """How the cell's victim reads texts: a TextVictim defines it itself, for text_linear the cell's settings do."""
    if isinstance(victim, TextVictim):
        return Reading(victim.encoder, victim.max_length, pooled=False)
    encoder = cell.learner.encoder
    if not isinstance(victim, TextLinear):
        raise BadInput(f"{cell.victim} of {cell.id} cannot read texts; use text_linear or one of the bert victims")
    if not encoder:
        raise BadInput(f"{cell.id}: text_linear reads texts through an encoder; add encoder=NAME or FOLDER to its setting")
    return Reading(encoder, cell.learner.max_length or MAX_LENGTH, pooled=True)


def read(dataset: Dataset, reading: Reading, weights_root: Path | None, cache: Path | None, device: str) -> Dataset:
    """The data set with tokens or pooled features as its x; both are cached in the cache folder."""
    from subpop.features.encoders import load_encoder, pooled_features, tokenise

    assert dataset.texts is not None  # callers check `holds_texts`
    encoder = load_encoder(reading.encoder, weights_root)
    tokens = tokenise(encoder, dataset.texts, reading.max_length, cache=cache)
    x = pooled_features(encoder, tokens, cache=cache, device=device) if reading.pooled else tokens
    return replace(dataset, x=x)


def state_components(
    dataset: Dataset, aux: Ints, reading: Reading, weights_root: Path | None, cache: Path | None, device: str
) -> Array:
    """(n, n_components) projections of all rows' flattened hidden states on their principal components in D_aux."""
    from subpop.features.encoders import known_states, load_encoder, streamed_pca

    if reading.pooled or dataset.n_components is None:
        raise BadInput(
            f"clusters_on={HIDDEN_STATES} needs a victim that reads tokens and a data set that names n_components; "
            f"leave it out for {dataset.name}"
        )
    encoder = load_encoder(reading.encoder, weights_root)
    states = known_states(encoder, cache, device).of(dataset.x)  # which the victims use too
    return streamed_pca(states, aux, dataset.n_components, reading.max_length)
