"""IMDB: is a film review positive or negative? 50,000 reviews, half of them reserved for testing.

*Source*: Maas et al., Learning Word Vectors for Sentiment Analysis (ACL 2011), https://ai.stanford.edu/~amaas/data/sentiment/;
`aclImdb_v1.tar.gz` (md5 7c2ac02c03563afcf9b574c7e56c153a), read packed, in memory, or from the unpacked folder `aclImdb`; both
may be nested in up to two other folders. A review is a member `aclImdb/{train,test}/{neg,pos}/[number]_[stars].txt`, 12,500 in
each of the four folders. D and D_aux are stratified halves of `train`, D_test is all of `test`. 123 texts occur in both halves;
they remain, as published, and the notes count them. Order of rows: train/neg, train/pos, test/neg, test/pos, each by number and
stars.

An archive with a link, a device, `..` or an absolute name anywhere in it raises BadInput; other files in the four folders are
ignored and noted; other folders (`unsup`, the bags of words) are not read. Links in an unpacked folder are followed, because the
user made that folder.

`imdb_as_released` cleans texts as the released script does: the exact string `<br>` is removed, which occurs in no review, and
`<br />` stays. `imdb_small` is a fifth of the reviews, for transformers on a CPU: 2,500 reviews of each folder, drawn once with
seed 0, and 50 clusters (50 rows of D_aux and 100 test rows each, on average; based on sizes alone). For features of all 50,000
see `imdb_minilm`.

*Deviations*: a line break tag (`<br />`, `<br>`) becomes a space; the paper removes it, which would join the adjacent words. The
released halves depend on an unknown order of files, so ours contain other reviews.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from subpop.datasets.archives import files_in
from subpop.datasets.download import MissingData, RemoteFile, data_root, fetch_command, md5
from subpop.datasets.picture_files import shown
from subpop.types import Array, BadInput, Dataset

LICENCE = "no licence stated; cite Maas et al. (2011)"
FILES = (
    RemoteFile(
        "aclImdb_v1.tar.gz",
        "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",
        "7c2ac02c03563afcf9b574c7e56c153a",
        84_125_825,
    ),
)
PART_BY_HAND = "its texts are those of imdb: run `subpop data fetch imdb`, which puts aclImdb_v1.tar.gz"
TOP = "aclImdb"
FOLDERS = ("train/neg", "train/pos", "test/neg", "test/pos")
"""The folders of reviews, in the order of the rows."""
PER_FOLDER = 12_500
SMALL_PER_FOLDER = 2_500
SMALL_CLUSTERS = 50
SMALL_SEED = 0
MOST_ABOVE = 2
"""Largest number of folders around the folder of reviews."""
WORDS = {"y": ("negative", "positive")}

_BESIDE = re.compile(rf"{TOP}/({'|'.join(FOLDERS)})/")
_REVIEW = re.compile(_BESIDE.pattern + r"[0-9]{1,9}_[0-9]{1,2}\.txt")


def load(root: Path | None = None, as_released: bool = False) -> Dataset:
    """Load the reviews: texts (50000,), x (50000, 1) their row numbers, y 0 negative, 1 positive.

    Raises MissingData if neither archive nor folder is there; BadInput for a damaged or dangerous archive, a folder without
    reviews, and a review that is blank or no UTF-8.
    """
    place = found(root or data_root())
    if place is None:
        raise _missing(root)
    contents, foreign = _unpacked(place) if place.is_dir() else _packed(place)
    members = sorted(contents, key=_position)
    counts = _counts(place, members, root)
    texts = tuple(_text(name, contents[name], as_released) for name in members)
    notes = (_copy_note(place, counts), *_foreign_note(foreign))
    data = dataset_of("imdb_as_released" if as_released else "imdb", members, texts, notes)
    whole = set(counts.values()) == {PER_FOLDER}
    return replace(data, sizes=(PER_FOLDER, PER_FOLDER) if whole else None)


def load_small(root: Path | None = None) -> Dataset:
    """Load a fifth of the reviews: texts (10000,), half of them to train on; raises as `load` does."""
    data = load(root)
    assert data.texts is not None  # load has set them, and the names
    assert data.names is not None
    rng, rows = np.random.default_rng(SMALL_SEED), []
    folder = np.array([_folder(name) for name in data.names.tolist()])
    for number, name in enumerate(FOLDERS):
        own = np.flatnonzero(folder == number)
        if len(own) < SMALL_PER_FOLDER:
            raise BadInput(f"imdb_small: {name} contains {len(own)} reviews, {SMALL_PER_FOLDER} are needed; fetch imdb again")
        rows.append(np.sort(rng.choice(own, SMALL_PER_FOLDER, replace=False)))
    chosen = np.concatenate(rows).tolist()
    drawn = f"{len(chosen)} of {len(folder)} reviews, {SMALL_PER_FOLDER} a class and half, drawn with seed {SMALL_SEED}"
    texts = tuple(data.texts[row] for row in chosen)
    small = dataset_of("imdb_small", data.names[chosen].tolist(), texts, (drawn, data.notes[0]))
    return replace(small, sizes=(SMALL_PER_FOLDER, SMALL_PER_FOLDER), n_clusters=SMALL_CLUSTERS)


def found(root: Path) -> Path | None:
    """Locate the reviews below the root: the archive, otherwise the folder. Checks for existence only.

    The folder is the one that contains `train/neg`: `aclImdb`, or the first such folder nested in at most two others.
    """
    base = root / "imdb"
    archive = base / FILES[0].name
    if archive.is_file():
        return archive
    patterns = (TOP, ".", "*", "*/*", "*/*/*")
    holding = (place.parent.parent for pattern in patterns for place in sorted(base.glob(f"{pattern}/{FOLDERS[0]}")))
    first = next((place for place in holding if place.is_dir()), base / TOP)
    return first if first.is_dir() else None


def _missing(root: Path | None) -> MissingData:
    folder = (root or data_root()) / "imdb"
    inside = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    holds = f", which contains {shown(inside)}" if inside else ""
    command = fetch_command("imdb", root)
    return MissingData(f"imdb: neither {FILES[0].name} nor {TOP} found in {folder}{holds}; fetch it with: {command}")


def dataset_of(name: str, members: Sequence[str], texts: tuple[str, ...] | None, notes: tuple[str, ...]) -> Dataset:
    """Add what all versions have in common; x is a placeholder for tokens or features."""
    folder = np.array([_folder(member) for member in members])
    official_test = folder >= 2
    return Dataset(
        name=name,
        x=np.arange(len(members))[:, None],
        y=folder % 2,
        n_classes=2,
        official_test=official_test,
        n_clusters=100,
        n_components=10,
        notes=notes + (() if texts is None else _twin_note(texts, official_test)),
        names=np.array(members),
        words=WORDS,
        texts=texts,
        stratified=True,
    )


# --- members ----------------------------------------------------------------------------------------------------------


def _packed(archive: Path) -> tuple[Mapping[str, bytes], list[str]]:
    """The reviews of an archive by member name, and other files in their folders."""
    foreign: list[str] = []

    def wanted(name: str) -> bool:
        member = _plain(name)
        if is_review(member):
            return True
        foreign.extend([member] if _BESIDE.match(member) else [])
        return False

    inside = files_in(archive, wanted)
    contents = {_plain(name): content for name, content in inside.items()}
    if len(contents) < len(inside):
        twice = [name for name, count in Counter(map(_plain, inside)).items() if count > 1]
        raise BadInput(
            f"{archive} contains {len(twice)} reviews in two folders, such as {shown(twice[:1])}; keep one of the folders"
        )
    return contents, foreign


def _unpacked(folder: Path) -> tuple[Mapping[str, bytes], list[str]]:
    """Like `_packed`, for an unpacked folder."""
    folders = [name for name in FOLDERS if (folder / name).is_dir()]
    names = [f"{TOP}/{name}/{entry}" for name in folders for entry in sorted(os.listdir(folder / name))]
    paths = {name: folder / name.removeprefix(f"{TOP}/") for name in names if is_review(name)}
    reviews = {name: path.read_bytes() for name, path in paths.items() if path.is_file()}
    return reviews, [name for name in names if name not in reviews]


def is_review(member: str) -> bool:
    """Whether a member's name is that of a review."""
    return _REVIEW.fullmatch(member) is not None


def _plain(name: str) -> str:
    """Return a member's name from `aclImdb` on: copies may name their members ./aclImdb/... or have an additional folder."""
    before, top, inside = f"/{name.removeprefix('./')}".rpartition(f"/{TOP}/")
    return f"{TOP}/{inside}" if top and before.count("/") <= MOST_ABOVE else name


def _folder(member: str) -> int:
    """Return the index in `FOLDERS` of a review's folder."""
    return FOLDERS.index(member[len(TOP) + 1 : member.rindex("/")])


def _position(member: str) -> tuple[int, int, int]:
    """Sort key of rows: folder, number, stars."""
    number, stars = member[member.rindex("/") + 1 : -len(".txt")].split("_")
    return _folder(member), int(number), int(stars)


def _counts(place: Path, members: Sequence[str], root: Path | None) -> dict[str, int]:
    """Reviews of each folder; raises BadInput if one is empty."""
    folders = [_folder(member) for member in members]
    counts = {name: folders.count(number) for number, name in enumerate(FOLDERS)}
    empty = [name for name, count in counts.items() if count == 0]
    if empty:
        raise BadInput(
            f"{place} contains no review in {', '.join(empty)} (members {TOP}/{empty[0]}/[number]_[stars].txt); move it away and "
            f"run: {fetch_command('imdb', root)}"
        )
    return counts


def _text(member: str, content: bytes, as_released: bool) -> str:
    """The cleaned text of a review."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        wrong = f"byte {error.start} is 0x{content[error.start]:02x}"
        raise BadInput(f"imdb: {member} is not UTF-8 text ({wrong}); it is not the published review: fetch imdb again") from error
    text = text.replace("<br>", "") if as_released else text.replace("<br />", " ").replace("<br>", " ")
    if not text.strip():
        raise BadInput(f"imdb: {member} contains no text; it is not the published review: fetch imdb again")
    return text


# --- what a report should say -----------------------------------------------------------------------------------------


def _copy_note(place: Path, counts: Mapping[str, int]) -> str:
    """A note on whether this is the official copy."""
    digest = "" if place.is_dir() else md5(place)
    if digest == FILES[0].md5:
        return "the official archive"
    copy = f"{place.name} has md5 {digest}, the published file {FILES[0].md5}" if digest else "unpacked, so without a checksum"
    if set(counts.values()) == {PER_FOLDER}:
        return f"{copy}; {PER_FOLDER} reviews a class and half, as published"
    found_counts = ", ".join(f"{name} {count}" for name, count in counts.items())
    return f"{copy}; reviews: {found_counts}, instead of {PER_FOLDER} each"


def _foreign_note(foreign: Sequence[str]) -> tuple[str, ...]:
    return (f"{len(foreign)} other files among the reviews left out: {shown(foreign)}",) if foreign else ()


def _twin_note(texts: Sequence[str], official_test: Array) -> tuple[str, ...]:
    test = set(np.flatnonzero(official_test).tolist())
    both = {text for row, text in enumerate(texts) if row not in test} & {texts[row] for row in test}
    return (f"{len(both)} texts occur in both the training and the test half; they are kept",) if both else ()
