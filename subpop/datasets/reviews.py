"""Generated film reviews: positive or negative? The kind of film is the known subpopulation.

A review is a few sentences from templates: what the film is about, neutral asides, and three slots in which the film or one of
its aspects is given a word. The choice of sentences never depends on the class; only the words do. Words are of three kinds:
general (superb, dreadful), specific to the topic (a chilly spy film is praised, a chilly romance is not) and neutral.

*Source*: own construction; templates and words in `subpop.datasets.review_words`.
*Deviations*: no published counterpart. It replaces IMDB where nothing can be downloaded, with known subpopulations and texts
whose sentiment may depend on their topic.

The default difficulty was chosen by the clean accuracy of a linear model on word counts, trained on D: about .9. k-means uses 16
clusters: 50 rows of D_aux and 50 test rows each, on average; based on sizes alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from subpop.datasets import review_words as words
from subpop.datasets.review_words import TOPICS, Topic, Words
from subpop.types import BadInput, Dataset

LENGTHS = (15, 60)
"""Words of the shortest and of the longest review."""
OF_TOPIC = 0.3
"""Fraction of topic-specific words among those of an outspoken review."""
N_PLACES = 3
MAX_ASIDES = 3
MAX_ROWS = 2000


@dataclass(frozen=True)
class ReviewSpec:
    """Parameters of a corpus of generated reviews."""

    rows: int = 100
    """Number of reviews per topic and class."""
    difficulty: float = 0.2
    """From 0, where every slot has a word of the review's own sentiment, to 1: the fraction of reviews whose only cue is one
    word of the topic, the fraction of further slots with a neutral word in the others, and twice the fraction of these that
    concede something to the other side."""
    seed: int = 0
    """Seed of the corpus."""

    def __post_init__(self) -> None:
        if not 1 <= self.rows <= MAX_ROWS:
            raise BadInput(f"rows={self.rows} per topic and class must be from 1 to {MAX_ROWS}; more texts would repeat")
        if not 0 <= self.difficulty <= 1:
            raise BadInput(f"difficulty={self.difficulty} of the reviews must be between 0 and 1")
        if self.seed < 0:
            raise BadInput(f"seed={self.seed} of the reviews must be an integer of at least 0")


def load(root: Path | None = None) -> Dataset:
    """Generate the default corpus: 2,400 texts, 200 per topic; `root` is not used."""
    return make_reviews(ReviewSpec())


def make_reviews(spec: ReviewSpec, name: str = "reviews") -> Dataset:
    """Generate a corpus: texts (n,), all distinct, by topic and class; x (n, 1) their row numbers; annotation `topic` (n,)."""
    rng = np.random.default_rng(spec.seed)
    keys = [(topic, label) for topic in range(len(TOPICS)) for label in (0, 1) for _ in range(spec.rows)]
    seen: dict[str, None] = {}
    for topic, label in keys:
        text = next(text for text in _drafts(TOPICS[topic], label, spec.difficulty, rng) if text not in seen)
        seen[text] = None
    topics, y = np.array(keys, dtype=np.int64).T
    third = len(y) // 3
    return Dataset(
        name=name,
        x=np.arange(len(y))[:, None],
        y=np.ascontiguousarray(y),
        n_classes=2,
        annotations={"topic": np.ascontiguousarray(topics)},
        sizes=(third, third),
        n_clusters=16,
        n_components=10,
        notes=(f"generated: {spec}",),
        words={"y": ("negative", "positive"), "topic": tuple(topic.name for topic in TOPICS)},
        texts=tuple(seen),
        stratified=True,
    )


# --- one review -------------------------------------------------------------------------------------------------------


def _drafts(topic: Topic, label: int, difficulty: float, rng: np.random.Generator) -> Iterator[str]:
    """Reviews of that topic and class, of the right length."""
    while True:
        said = _said(topic, label, difficulty, rng)
        asides = [words.ASIDES[i] for i in rng.permutation(len(words.ASIDES))[: rng.integers(1, MAX_ASIDES + 1)]]
        body = [*said, *(_filled(aside, topic, rng) for aside in asides)]
        opening = _filled(_one(words.OPENINGS, rng), topic, rng)
        text = " ".join([opening, *(body[i] for i in rng.permutation(len(body)))])
        if LENGTHS[0] <= len(text.split()) <= LENGTHS[1]:
            yield text


def _said(topic: Topic, label: int, difficulty: float, rng: np.random.Generator) -> list[str]:
    """The sentences that give a word to the film or an aspect, and possibly a concession."""
    own, other = (words.PRAISE, words.SCORN) if label else (words.SCORN, words.PRAISE)
    topical = topic.praise if label else topic.scorn
    if rng.random() < difficulty:
        sources = [topical, *[words.NEUTRAL] * (N_PLACES - 1)]
        return [_sentence(_one(source, rng), topic, rng) for source in sources]
    sources = [topical if rng.random() < OF_TOPIC else own for _ in range(N_PLACES)]
    sources[1:] = [words.NEUTRAL if rng.random() < difficulty else source for source in sources[1:]]
    said = [_sentence(_one(source, rng), topic, rng) for source in sources]
    if rng.random() < difficulty / 2:
        said.append(_filled(_one(words.CONCEDES, rng), topic, rng, _one(other, rng)))
    return said


def _sentence(word: str, topic: Topic, rng: np.random.Generator) -> str:
    """A sentence that gives that word to the film or to one of its aspects."""
    templates = words.SAYS_OF_ASPECT if rng.random() < 0.5 else words.SAYS_OF_FILM
    return _filled(_one(templates, rng), topic, rng, word)


def _filled(template: str, topic: Topic, rng: np.random.Generator, word: str = "") -> str:
    """Fill the slots of the template from the topic, and its word slot with `word`."""

    def fill(place: re.Match[str]) -> str:
        return word if place[1] == "word" else _one(_choices(topic, place[1]), rng)

    return re.sub(r"\{(\w+)\}", fill, template)


def _choices(topic: Topic, place: str) -> Words:
    choices = {
        "kind": topic.kinds,
        "person": topic.people[:2],
        "other": topic.people[2:],
        "things": topic.things,
        "event": topic.events,
        **words.OF_ANY_TOPIC,
    }
    return choices[place]


def _one(choices: Words, rng: np.random.Generator) -> str:
    return choices[rng.integers(len(choices))]
