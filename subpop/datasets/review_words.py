"""The vocabulary of the generated reviews: kinds of film, and words of praise and criticism.

A word that praises one kind of film may criticise another: a silly cartoon is good, a silly horror film is not. A model that
counts words regardless of the film therefore gets some reviews wrong, depending on the topic.
"""

from __future__ import annotations

from dataclasses import dataclass

Words = tuple[str, ...]

PRAISE: Words = (
    "superb", "wonderful", "excellent", "brilliant", "delightful", "terrific", "splendid", "marvellous", "impressive",
    "masterful", "outstanding", "charming",
)  # fmt: skip
SCORN: Words = (
    "dreadful", "awful", "terrible", "dull", "tedious", "dismal", "poor", "lousy", "feeble", "wretched", "forgettable",
    "pointless",
)  # fmt: skip
NEUTRAL: Words = (
    "typical", "modern", "lengthy", "brief", "traditional", "contemporary", "straightforward", "familiar", "low-budget",
    "old-fashioned", "English", "episodic",
)  # fmt: skip
"""Neutral words in the place of praise or criticism."""

SAYS_OF_ASPECT: Words = (
    "The {aspect} is {word}.",
    "I found the {aspect} {word}.",
    "What stays with me is how {word} the {aspect} is.",
    "The {aspect}, by the way, is {word}.",
    "Nobody told me that the {aspect} would be so {word}.",
)
SAYS_OF_FILM: Words = (
    "As a {kind} it is {word}.",
    "For a {kind} it is rather {word}.",
    "I would call it {word}.",
    "The {things} are {word}.",
    "Everything about the {things} is {word}.",
    "Even the {things} look {word} to me.",
)
CONCEDES: Words = (
    "Granted, the {aspect} is {word}.",
    "Some people may call the {aspect} {word}.",
    "To be fair, the {aspect} is {word}.",
)
"""Used with a word of the other sentiment."""
OPENINGS: Words = (
    "In this {kind} {event}.",
    "This is a {kind} in which {event}.",
    "Here is another {kind} where {event}.",
    "Once more {event}, which is what a {kind} is for.",
)
ASIDES: Words = (
    "I saw it {time} with {company}.",
    "It runs for {minutes} minutes.",
    "The {person} has most of the scenes.",
    "Half of the running time goes to the {things}.",
    "My neighbour, who likes any {kind}, lent me the disc.",
    "The director had made {count} films before this one.",
    "The {person} and the {other} meet near the {half}.",
)
OF_ANY_TOPIC: dict[str, Words] = {
    "aspect": (
        "acting", "script", "music", "editing", "camera work", "dialogue", "ending", "story", "pacing", "lighting", "cast",
        "first half",
    ),
    "time": ("last night", "on a rainy Sunday", "years ago", "at a festival", "during a flight", "on late television"),
    "company": ("my sister", "two friends", "my parents", "a full house", "nobody else", "my flatmate"),
    "minutes": ("eighty", "ninety", "a hundred", "a hundred and ten", "a hundred and forty"),
    "count": ("no", "two", "three", "a dozen"),
    "half": ("start", "middle", "end"),
}  # fmt: skip
"""Values for the slots of any template."""


@dataclass(frozen=True)
class Topic:
    """A kind of film."""

    name: str
    """The name of the subpopulation."""
    kinds: Words
    """Expressions for it that fit after "a"."""
    people: Words
    """Two leading characters, and others."""
    things: Words
    """What is seen in it."""
    events: Words
    """What happens in it."""
    praise: Words
    """Words for a good one."""
    scorn: Words
    """Words for a bad one."""


TOPICS: tuple[Topic, ...] = (
    Topic(
        "war",
        ("war film", "war picture", "battle epic"),
        ("sergeant", "young recruit", "medic", "general"),
        ("battle scenes", "trenches", "tanks", "uniforms"),
        ("a lost platoon has to hold a bridge", "two brothers enlist on the same day", "a unit waits for orders in the snow"),
        ("harrowing", "gritty", "unflinching", "sober", "tense", "bleak"),
        ("jingoistic", "bloodless", "sentimental", "glossy", "loud", "bouncy"),
    ),
    Topic(
        "western",
        ("western", "cowboy film", "frontier picture"),
        ("sheriff", "rancher", "gunslinger", "widow"),
        ("horses", "shoot-outs", "saloons", "canyons"),
        ("a stranger rides into a mining town", "a rancher defends the last well", "outlaws follow a wagon train"),
        ("laconic", "rugged", "sparse", "mythic", "gritty", "static"),
        ("talky", "sanitised", "glossy", "overlit", "jokey", "hurried"),
    ),
    Topic(
        "heist",
        ("heist film", "caper", "robbery film"),
        ("safecracker", "getaway driver", "fence", "guard"),
        ("vaults", "disguises", "blueprints", "alarms"),
        ("a crew plans to empty a casino", "an old thief takes one more job", "five strangers rob a moving train"),
        ("intricate", "slick", "crafty", "glossy", "cool", "hurried"),
        ("clumsy", "sluggish", "implausible", "sentimental", "sober", "preachy"),
    ),
    Topic(
        "horror",
        ("horror film", "ghost story", "slasher"),
        ("babysitter", "exorcist", "caretaker", "neighbour"),
        ("masks", "cellars", "shadows", "corridors"),
        ("a family moves into an empty asylum", "something follows four campers", "a doll turns up in every room"),
        ("terrifying", "nasty", "disturbing", "bleak", "claustrophobic", "loud"),
        ("tame", "bloodless", "silly", "cuddly", "overlit", "jokey"),
    ),
    Topic(
        "cartoon",
        ("cartoon", "family animation", "puppet film"),
        ("squirrel", "robot", "dragon", "penguin"),
        ("drawings", "backgrounds", "sidekicks", "songs"),
        ("a lonely robot looks for a garden", "a dragon is afraid of heights", "two squirrels sail to an island"),
        ("silly", "cuddly", "bouncy", "playful", "jokey", "garish"),
        ("disturbing", "nasty", "preachy", "bleak", "drab", "mechanical"),
    ),
    Topic(
        "documentary",
        ("documentary", "film essay", "portrait"),
        ("narrator", "witness", "historian", "fisherman"),
        ("interviews", "archive reels", "maps", "letters"),
        ("a village remembers its flood", "a beekeeper counts what is left", "three pilots look back at a strike"),
        ("sober", "thorough", "patient", "talky", "unflinching", "illuminating"),
        ("one-sided", "sensational", "slick", "staged", "hurried", "sentimental"),
    ),
    Topic(
        "romance",
        ("romance", "love story", "date film"),
        ("florist", "pianist", "bridegroom", "waitress"),
        ("letters", "kisses", "sunsets", "weddings"),
        ("two strangers share a night train", "a florist writes to the wrong man", "old lovers meet at a wedding"),
        ("tender", "sentimental", "dreamy", "patient", "swooning", "cosy"),
        ("chilly", "cool", "cynical", "laconic", "loveless", "mechanical"),
    ),
    Topic(
        "courtroom",
        ("courtroom drama", "trial film", "legal drama"),
        ("prosecutor", "juror", "judge", "defendant"),
        ("objections", "witnesses", "verdicts", "cross-examinations"),
        ("a young lawyer defends a senator", "one juror will not give in", "a judge opens an old case"),
        ("talky", "precise", "tense", "cerebral", "thorough", "claustrophobic"),
        ("hysterical", "implausible", "sensational", "garbled", "static", "swooning"),
    ),
    Topic(
        "space",
        ("space film", "science fiction film", "star voyage"),
        ("captain", "engineer", "android", "navigator"),
        ("planets", "airlocks", "engines", "space suits"),
        ("a crew wakes a century too late", "a probe comes back with a passenger", "the last station loses its captain"),
        ("visionary", "dreamy", "cerebral", "mythic", "chilly", "mechanical"),
        ("earthbound", "clumsy", "garbled", "talky", "cosy", "drab"),
    ),
    Topic(
        "sports",
        ("sports film", "boxing film", "team drama"),
        ("coach", "goalkeeper", "champion", "rookie"),
        ("matches", "training scenes", "locker rooms", "crowds"),
        ("a small team reaches the final", "a retired boxer trains a girl", "a coach takes over a losing side"),
        ("rousing", "sweaty", "loud", "rugged", "breathless", "one-sided"),
        ("listless", "static", "cerebral", "tame", "sparse", "patient"),
    ),
    Topic(
        "musical",
        ("musical", "song and dance film", "backstage musical"),
        ("understudy", "tap dancer", "composer", "chorus girl"),
        ("songs", "costumes", "dance numbers", "duets"),
        ("a chorus girl steps in on opening night", "a composer loses his partner", "a theatre has one week to pay its rent"),
        ("tuneful", "swooning", "garish", "bouncy", "hysterical", "staged"),
        ("off-key", "leaden", "drab", "sober", "gritty", "precise"),
    ),
    Topic(
        "spy",
        ("spy film", "secret service thriller", "cold war thriller"),
        ("double agent", "courier", "ambassador", "handler"),
        ("border crossings", "codes", "car chases", "safe houses"),
        ("an agent is sent back over the border", "a clerk copies the wrong file", "two handlers share one source"),
        ("cynical", "chilly", "cool", "crafty", "labyrinthine", "breathless"),
        ("cosy", "silly", "playful", "tender", "rousing", "transparent"),
    ),
)  # fmt: skip
