"""Dog or fish? The training data of Koh and Liang's training-set attack, and the dogs that it targets.

*Source*: `dogfish`: Koh and Liang, Understanding Black-box Predictions via Influence Functions (ICML 2017), 900 pictures of
ImageNet's dogs (n02084071) and 900 of its fish (n02512053) for training, 300 of each for testing, 299x299; research use only.
Targets are dogs of the Kaggle Cats-and-Dogs set (`dog.*.jpg`), as in Jagielski et al. (CCS 2021), Table 16, and the 30 photos of
one dog that Koh and Liang attacked. `tiny_dogfish` is a substitute at 32x32: dogs and fish of Tiny ImageNet and the same Kaggle
dogs.

All files are below one root:

    NAME/train/dog, NAME/train/fish, NAME/test/dog, NAME/test/fish    pictures, any names; NAME is dogfish or tiny_dogfish
    NAME/koh_dog                                                      the 30 photos, if they are to be attacked
    dogs_vs_cats                                                      Kaggle's pictures, dog.*.jpg anywhere below it

The class is 0 for a dog and 1 for a fish; targets are dogs. The annotation `source` is 0 for training rows, 1 for test rows, 2
for Kaggle's dogs and 3 for the one dog. Rows of sources 1 to 3 are not trained on. A picture that cannot be decoded raises an
error with its name. A target with the same pixels as another row is left out, which the notes report.

*Deviations*: Kaggle's own test pictures have no labels, so that "the test part" that the paper mentions cannot be rebuilt;
targets are labelled dogs, at most `KAGGLE_DOGS` of them, evenly spaced in the order of names. Pictures are cropped to their
central square.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from subpop.datasets.download import data_root, missing_by_hand
from subpop.datasets.images import Decoded, decode
from subpop.datasets.picture_files import Picture, pictures_below, shown
from subpop.types import Array, BadInput, Dataset, Ints

LICENCE = "ImageNet's and Kaggle's terms: research only"
CLASSES = ("dog", "fish")
SOURCES = ("train", "test", "kaggle_dogs", "koh_dog")
TRAIN, TEST, KAGGLE, ONE_DOG = range(4)
KAGGLE_DOGS = 5000
ONE_DOG_PHOTOS = 30


@dataclass(frozen=True)
class Recipe:
    """The required contents of a copy. counts: pictures per class for (train, test), exactly, or None for at least one each."""

    size: int
    counts: tuple[int, int] | None
    by_hand: str


_LAYOUT = "train/dog, train/fish, test/dog and test/fish"
_TARGETS = "and Kaggle's Dogs vs. Cats pictures (dog.*.jpg) into the folder dogs_vs_cats next to it; put the former"
RECIPES: Mapping[str, Recipe] = {
    "dogfish": Recipe(
        299,
        (900, 300),
        f"get Koh and Liang's dog-fish pictures as folders {_LAYOUT}, 900 and 300 a class (and, to attack it, the 30 photos of "
        f"their dog as koh_dog), {_TARGETS}",
    ),
    "tiny_dogfish": Recipe(32, None, f"get dogs and goldfish of Tiny ImageNet as folders {_LAYOUT}, {_TARGETS}"),
}
ONE_DOG_BY_HAND = "get the 30 photos of Koh and Liang's dog and put them, any names"


def load(root: Path | None, name: str) -> Dataset:
    """Load `dogfish` or `tiny_dogfish`: x (n, 3, size, size) uint8, in the order of SOURCES, then of names.

    Raises MissingData if a folder is not there, BadInput for other counts, broken pictures or no dogs.
    """
    recipe, base = RECIPES[name], root or data_root()
    if found(base, name) is None:
        raise missing_by_hand(name, base / name, recipe.by_hand)
    parts = {f"{half}/{each}": pictures_below(base / name / half / each) for half in SOURCES[:2] for each in CLASSES}
    parts[SOURCES[KAGGLE]] = evenly_spaced(_dogs(base / "dogs_vs_cats"), KAGGLE_DOGS)
    parts[SOURCES[ONE_DOG]] = pictures_below(base / name / SOURCES[ONE_DOG])
    _check_counts(base / name, parts, recipe)
    pictures = [Picture(f"{part}/{p.name}", p.read) for part, own in parts.items() for p in own]
    source, y = _codes(parts)
    return _dataset(name, decode(pictures, recipe.size, name, limit=0.0), pictures, source, y)


def found(root: Path, name: str) -> Path | None:
    """Locate the pictures below the root: None unless all required folders exist. Looks at names only."""
    folder = root / name
    needed = [*(folder / half / each for half in SOURCES[:2] for each in CLASSES), root / "dogs_vs_cats"]
    return folder if all(path.is_dir() for path in needed) else None


def evenly_spaced(pictures: Sequence[Picture], most: int) -> list[Picture]:
    """At most `most` pictures, evenly spaced, in order."""
    count = min(most, len(pictures))
    return [pictures[i * len(pictures) // count] for i in range(count)]


def _dogs(folder: Path) -> list[Picture]:
    return [picture for picture in pictures_below(folder) if picture.file_name.lower().startswith("dog.")]


def _check_counts(folder: Path, parts: Mapping[str, Sequence[Picture]], recipe: Recipe) -> None:
    counts = {part: len(own) for part, own in parts.items()}
    if not counts[SOURCES[KAGGLE]]:
        raise BadInput(f"{folder.parent / 'dogs_vs_cats'} contains no dog.*.jpg; put Kaggle's training pictures there")
    if counts[SOURCES[ONE_DOG]] not in (0, ONE_DOG_PHOTOS):
        raise BadInput(f"{folder}/koh_dog contains {counts['koh_dog']} pictures; Koh and Liang's dog has {ONE_DOG_PHOTOS} photos")
    for half, wanted in zip(SOURCES[:2], recipe.counts or (None, None), strict=True):
        for each in CLASSES:
            own = counts[f"{half}/{each}"]
            if own == 0 or (wanted is not None and own != wanted):
                raise BadInput(f"{folder}/{half}/{each} contains {own} pictures; expected {wanted or 'at least one'}")


def _codes(parts: Mapping[str, Sequence[Picture]]) -> tuple[Ints, Ints]:
    """(n,) source and (n,) class of every picture."""
    source = [SOURCES.index(part.partition("/")[0]) for part, own in parts.items() for _ in own]
    y = [CLASSES.index(part.partition("/")[2] or "dog") for part, own in parts.items() for _ in own]
    return np.array(source, np.int64), np.array(y, np.int64)


def _dataset(name: str, decoded: Decoded, pictures: Sequence[Picture], source: Ints, y: Ints) -> Dataset:
    # A digest of pixels, not of files: a picture may have been compressed again.
    hashes = np.array([hashlib.md5(picture.tobytes()).hexdigest() for picture in decoded.x])
    repeated = _repeated_targets(hashes, source)
    kept, names = ~repeated, np.array([picture.name for picture in pictures])
    notes = []
    if repeated.any():
        notes.append(f"{repeated.sum()} targets left out, equal to another picture: {shown(names[repeated].tolist())}")
    return Dataset(
        name=name,
        x=decoded.x[kept] if repeated.any() else decoded.x,
        y=y[kept],
        n_classes=len(CLASSES),
        annotations={"source": source[kept]},
        official_test=source[kept] != TRAIN,
        hashes=hashes[kept],
        n_components=40,
        n_clusters=20,
        notes=(*notes, *decoded.notes),
        names=names[kept],
        words={"y": CLASSES, "source": SOURCES},
    )


def _repeated_targets(hashes: Array, source: Ints) -> Array:
    """(n,) bool: targets whose pixels occur in an earlier row."""
    _, first = np.unique(hashes, return_index=True)
    repeated = np.ones(len(hashes), bool)
    repeated[first] = False
    return np.asarray(repeated & (source >= KAGGLE))


load_full = partial(load, name="dogfish")
load_tiny = partial(load, name="tiny_dogfish")
found_full = partial(found, name="dogfish")
found_tiny = partial(found, name="tiny_dogfish")
