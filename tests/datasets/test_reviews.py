"""Generated reviews: distinct, repeatable, told apart by the intended words only, and as hard as they are asked to be."""

import re
from collections import defaultdict
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subpop.datasets import load_dataset, review_words
from subpop.datasets.review_words import NEUTRAL, PRAISE, SCORN, TOPICS
from subpop.datasets.reviews import LENGTHS, ReviewSpec, make_reviews
from subpop.datasets.split import split
from subpop.testing import check_dataset
from subpop.types import BadInput, Dataset

CUES = {*PRAISE, *SCORN, *(word for topic in TOPICS for word in (*topic.praise, *topic.scorn))}


@cache
def reviews() -> Dataset:
    return load_dataset("reviews")


@cache
def corpus(difficulty: float, rows: int = 40) -> Dataset:
    return make_reviews(ReviewSpec(rows, difficulty))


def tokens(text: str) -> list[str]:
    return re.findall(r"[\w-]+", text)


# --- words ------------------------------------------------------------------------------------------------------------


def test_no_word_of_the_templates_is_a_cue():
    templates = [
        *review_words.SAYS_OF_ASPECT,
        *review_words.SAYS_OF_FILM,
        *review_words.CONCEDES,
        *review_words.OPENINGS,
        *review_words.ASIDES,
        *(choice for choices in review_words.OF_ANY_TOPIC.values() for choice in choices),
        *(phrase for topic in TOPICS for phrase in (topic.name, *topic.kinds, *topic.people, *topic.things, *topic.events)),
        *NEUTRAL,
    ]
    used = {word.lower() for template in templates for word in tokens(template)}
    assert not used & CUES


def test_a_word_says_one_thing_within_a_topic_and_often_another_elsewhere():
    assert len(TOPICS) >= 12
    assert not set(PRAISE) & set(SCORN)
    for topic in TOPICS:
        both = [*PRAISE, *SCORN, *topic.praise, *topic.scorn]
        assert len(set(both)) == len(both), topic.name
        turned = {word for other in TOPICS for word in topic.praise if word in other.scorn}
        turned |= {word for other in TOPICS for word in topic.scorn if word in other.praise}
        assert len(turned) >= 3, topic.name


def test_kinds_follow_the_article_that_templates_have():
    assert not [kind for topic in TOPICS for kind in topic.kinds if kind[0] in "aeiou"]


# --- the corpus -------------------------------------------------------------------------------------------------------


def test_the_default_corpus():
    data = reviews()
    assert (data.x.shape, data.x.dtype, data.x[:, 0].tolist()) == ((2400, 1), np.int64, list(range(2400)))
    assert len(set(data.texts)) == len(data.texts) == 2400
    lengths = [len(text.split()) for text in data.texts]
    assert LENGTHS[0] <= min(lengths)
    assert max(lengths) <= LENGTHS[1]
    table = np.zeros((12, 2), int)
    np.add.at(table, (data.annotations["topic"], data.y), 1)
    assert (table == 100).all()
    assert not [text for text in data.texts if "{" in text or "  " in text]
    assert (data.sizes, data.stratified, data.n_clusters, data.n_components) == ((800, 800), True, 16, 10)
    assert data.words["topic"] == tuple(topic.name for topic in TOPICS)


def test_it_keeps_the_contract_of_data_sets():
    assert {
        result.name: result.status for result in check_dataset(lambda: make_reviews(ReviewSpec(5))) if result.status != "ok"
    } == {"has_groups_to_attack": "warning"}


def test_the_same_spec_gives_the_same_texts_and_another_seed_others():
    first, again, other = (make_reviews(ReviewSpec(5, seed=seed)).texts for seed in (0, 0, 1))
    assert first == again
    assert len(set(first) & set(other)) < 5


@settings(max_examples=12, deadline=None)
@given(difficulty=st.floats(0, 1), seed=st.integers(0, 1000), rows=st.integers(1, 4))
def test_every_spec_gives_distinct_balanced_texts(difficulty, seed, rows):
    data = make_reviews(ReviewSpec(rows, difficulty, seed))
    assert len(set(data.texts)) == len(data.y) == 2 * rows * len(TOPICS)
    assert np.bincount(data.y).tolist() == [rows * len(TOPICS)] * 2
    assert LENGTHS[0] <= min(len(text.split()) for text in data.texts)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_each_topic_can_be_attacked(seed):
    data = reviews()
    splits = split(data, seed)
    for rows in (splits.train, splits.aux, splits.test):
        assert np.bincount(data.y[rows]).tolist() == [400, 400]
        assert np.bincount(data.annotations["topic"][rows], minlength=12).min() >= 20


@pytest.mark.parametrize("wrong", [{"rows": 0}, {"rows": 2001}, {"difficulty": -0.1}, {"difficulty": 1.1}, {"seed": -1}])
def test_a_spec_that_cannot_be_is_refused(wrong):
    [(name, value)] = wrong.items()
    with pytest.raises(BadInput, match=f"{name}={value}"):
        ReviewSpec(**wrong)


# --- what tells the classes apart -------------------------------------------------------------------------------------


def test_only_cues_lean_to_a_class_within_a_topic():
    data = reviews()
    counts: dict[tuple[int, str], list[int]] = defaultdict(lambda: [0, 0])
    for text, topic, label in zip(data.texts, data.annotations["topic"].tolist(), data.y.tolist(), strict=True):
        for word in set(tokens(text.lower())):
            counts[topic, word][label] += 1
    plain = {key: pair for key, pair in counts.items() if key[1] not in CUES and sum(pair) >= 20}
    assert len(plain) > 500
    assert min(min(pair) for pair in plain.values()) >= 1
    # 100 reviews of each class: the difference of two shares, in standard deviations, over some hundred words.
    leans = [abs(a - b) / np.sqrt(a + b - (a + b) ** 2 / 200) for a, b in plain.values() if a + b < 190]
    assert max(leans) < 4.2
    # Cues do lean: general ones in every topic.
    praise, scorn = (np.sum([pair for (_, word), pair in counts.items() if word in own], axis=0) for own in (PRAISE, SCORN))
    assert praise[1] > 5 * praise[0]
    assert scorn[0] > 5 * scorn[1]


def verdict(text: str, topic: int) -> int:
    """What a reader who knows the topic's words and hears a concession out makes of a review: praise less scorn."""
    heard = [s for s in text.split(". ") if not s.startswith(("Granted", "Some people", "To be fair"))]
    said = {word for sentence in heard for word in tokens(sentence)}
    return len(said & {*PRAISE, *TOPICS[topic].praise}) - len(said & {*SCORN, *TOPICS[topic].scorn})


@pytest.mark.parametrize("difficulty", [0.0, 0.2, 1.0])
def test_whoever_knows_the_topic_can_tell_every_review(difficulty):
    data = corpus(difficulty)
    said = np.array([verdict(text, topic) for text, topic in zip(data.texts, data.annotations["topic"].tolist(), strict=True)])
    assert ((said > 0) == (data.y == 1)).all()
    assert (said != 0).all()


def accuracy(data: Dataset, seed: int) -> float:
    """Test accuracy of a linear model on counts of words, trained on D."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    splits, texts = split(data, seed), np.array(data.texts, dtype=object)
    counter = CountVectorizer(token_pattern=r"[\w-]+")
    model = LogisticRegression(max_iter=1000).fit(counter.fit_transform(texts[splits.train]), data.y[splits.train])
    return float(model.score(counter.transform(texts[splits.test]), data.y[splits.test]))


def test_counts_of_words_get_about_nine_of_ten_right():
    assert all(0.85 <= accuracy(reviews(), seed) <= 0.95 for seed in (0, 1, 2))


def test_difficulty_lowers_accuracy():
    easy, middle, hard, hardest = (np.mean([accuracy(corpus(d, 60), seed) for seed in (0, 1)]) for d in (0.0, 0.2, 0.5, 0.9))
    assert easy > 0.96
    assert easy > middle + 0.04
    assert middle > hard + 0.04
    assert hard > hardest + 0.02
    assert hardest > 0.55
