"""UTKFace: is the person in the picture a man or a woman? Subpopulations are race x age.

*Source*: Zhang, Song and Qi, Age Progression/Regression by Conditional Adversarial Autoencoder (CVPR 2017),
https://susanqq.github.io/UTKFace/, "Aligned & Cropped Faces": 23,708 JPEG pictures of 200x200, for non-commercial research only.
The file name is the annotation, `[age]_[gender]_[race]_[date].jpg`: gender 0 male, 1 female; race 0 White, 1 Black, 2 Asian, 3
Indian, 4 other. No checksum is published; the 20,054 pictures of age 15 or more that the paper uses are identified by `CONTENT`,
the md5 of their sorted md5s.

The pictures are read from the one folder below ROOT/utkface/ that contains most of them, or from an archive there
(UTKFace.tar.gz, or a zip), in memory. Rows are in the order of file names. Three names lack the race and are left out; two more
are malformed after the race and are used.

Annotations: race 0..4, and age_bucket 0..3, the number of edges among 30, 45, 60 that are at most the age.

*Deviations*: the order of the paper's rows is not known, so our splits contain other pictures than the paper's. D, D_aux and
D_test share no row and no equal content (350 of the 20,054 pictures are exact copies of others); how the released script drew
them, with replacement, is `as_released` in `subpop.datasets.split`. PCA computes 40 components; the paper computes
100 and uses the first 40, which are the same.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from subpop.datasets.archives import is_archive
from subpop.datasets.array_files import decoded_texts, read_arrays
from subpop.datasets.download import data_root, missing_by_hand
from subpop.datasets.embeddings import rows_of
from subpop.datasets.images import decode
from subpop.datasets.picture_files import Picture, pictures_below, pictures_in, shown
from subpop.types import Array, BadInput, Dataset, Ints

LICENCE = "non-commercial research only"
BY_HAND = (
    "get 'Aligned & Cropped Faces' (UTKFace.tar.gz, 107 MB, non-commercial research only) from "
    "https://susanqq.github.io/UTKFace/ and put it, packed or unpacked"
)
MOBILENET_BY_HAND = (
    "put utkface_mobilenet_v1.npz (x: the pooled features of an ImageNet MobileNet-v1, y: gender, age, race, md5 and name of "
    "each UTKFace picture of age 15 or more)"
)
CONTENT = "d5b7052d4d3f4a8bf6b61f867a383dc8"
GROUP_SIZES = (
    2539, 2325, 1907, 1811, 1997, 1493, 494, 345, 1382, 642, 157, 281, 1594, 913, 692, 233, 774, 344, 113, 18,
)  # fmt: skip
"""Pictures of age 15 or more by 4 * race + age_bucket."""
MIN_AGE = 15
EDGES = (30, 45, 60)
WORDS = {
    "y": ("male", "female"),
    "race": ("White", "Black", "Asian", "Indian", "Other"),
    "age_bucket": ("15-29", "30-44", "45-59", "60+"),
}

_READABLE = re.compile(r"(\d{1,3})_([01])_([0-4])_\d")
_WELL_FORMED = re.compile(r"\d{1,3}_[01]_[0-4]_\d+\.jpg(\.chip\.jpg)?")


def load(root: Path | None = None, size: int = 100) -> Dataset:
    """Load the pictures of age 15 or more: x (n, 3, size, size) uint8, n = 20,054 for the whole set, y 0 male, 1 female.

    Raises MissingData if there are none, BadInput for a damaged archive or too many undecodable pictures.
    """
    pictures, notes = _pictures(root)
    readable = {picture: _READABLE.match(picture.file_name) for picture in pictures}
    notes += _name_notes(readable)
    labelled = [(picture, tuple(map(int, name.groups()))) for picture, name in readable.items() if name]
    adults = [(picture, label) for picture, label in labelled if label[0] >= MIN_AGE]
    if not adults:
        raise BadInput(f"utkface: {len(pictures)} pictures, none named [age]_[gender]_[race]_[date].jpg with age >= {MIN_AGE}")
    decoded = decode([picture for picture, _ in adults], size, f"UTKFace {size}x{size}")
    age, gender, race = np.array([adults[i][1] for i in decoded.kept], dtype=np.int64).T
    names = np.array([adults[i][0].file_name for i in decoded.kept])
    notes += (*decoded.notes, _pixels_note(decoded.hashes, decoded.original_sizes))
    return _dataset(decoded.x, gender, race, age, names, decoded.hashes, notes)


def load_mobilenet(root: Path | None = None) -> Dataset:
    """Load the same pictures as features: x (20054, 1024) float32; raises MissingData if the file is not there."""
    path = found_mobilenet(root or data_root())
    if path is None:
        raise missing_by_hand("utkface_mobilenet", (root or data_root()) / "embeddings", MOBILENET_BY_HAND)
    arrays = read_arrays(path)
    x = rows_of(path, _column(path, arrays, "x"))
    y, race, age = (_codes(path, arrays, key, len(x), top) for key, top in (("y", 1), ("race", 4), ("age", 999)))
    hashes, names = (_column(path, arrays, key) for key in ("md5", "name"))
    if hashes.shape != (len(x),) or names.shape != (len(x),) or age.min() < MIN_AGE:
        raise BadInput(f"{path}: {len(x)} rows of x need as many md5s and names, of age {MIN_AGE} or more")
    known = "the official pictures" if _content(hashes) == CONTENT else "another choice of pictures than the official ones"
    notes = (f"features of {known} by an ImageNet MobileNet-v1, not by the paper's VGG-16",)
    return _dataset(x, y, race, age, decoded_texts(path, "name", names), hashes, notes)


def found(root: Path) -> Path | None:
    """Locate pictures or an archive below the root; looks at names only, and at one picture at most."""
    folder = root / "utkface"
    for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
        if is_archive(entry) or entry.suffix == ".jpg" or (entry.is_dir() and next(entry.rglob("*.jpg"), None)):
            return folder
    return None


def found_mobilenet(root: Path) -> Path | None:
    """Locate the file of features."""
    path = root / "embeddings" / "utkface_mobilenet_v1.npz"
    return path if path.is_file() else None


def _dataset(x: Array, gender: Ints, race: Ints, age: Ints, names: Array, hashes: Array, notes: tuple[str, ...]) -> Dataset:
    bucket = np.searchsorted(EDGES, age, side="right").astype(np.int64)
    return Dataset(
        name="utkface",
        x=x,
        y=np.ascontiguousarray(gender),
        n_classes=2,
        annotations={"race": np.ascontiguousarray(race), "age_bucket": bucket},
        hashes=hashes,
        sizes=(7000, 7000),
        n_clusters=100,
        n_components=40,
        notes=notes + _group_notes(race, bucket),
        names=names,
        words=WORDS,
    )


# --- files ------------------------------------------------------------------------------------------------------------


def _pictures(root: Path | None) -> tuple[list[Picture], tuple[str, ...]]:
    """Return the pictures of the folder that contains most of them, by file name, and a note if other folders are ignored."""
    folder = (root or data_root()) / "utkface"
    pictures = pictures_below(folder) or _archived(folder)
    if not pictures:
        raise missing_by_hand("utkface", folder, BY_HAND)
    # Re-packed copies contain the set twice, or with its uncropped originals.
    counts = Counter(str(PurePosixPath(picture.name).parent) for picture in pictures)
    chosen, count = counts.most_common(1)[0]
    others = f"{len(pictures) - count} pictures outside the folder {chosen!r} are not used"
    own = [picture for picture in pictures if str(PurePosixPath(picture.name).parent) == chosen]
    return own, (others,) if len(counts) > 1 else ()


def _archived(folder: Path) -> list[Picture]:
    archives = [path for path in sorted(folder.iterdir()) if is_archive(path)] if folder.is_dir() else []
    official = [path for path in archives if path.name.startswith("UTKFace.")]
    if len(official or archives) > 1:
        raise BadInput(
            f"{folder} contains several archives: {', '.join(path.name for path in archives)}; keep UTKFace.tar.gz only"
        )
    return pictures_in((official or archives)[0]) if archives else []


# --- what a report should say -----------------------------------------------------------------------------------------


def _name_notes(readable: Mapping[Picture, re.Match[str] | None]) -> tuple[str, ...]:
    without = [picture.file_name for picture, name in readable.items() if name is None]
    odd = [picture.file_name for picture, name in readable.items() if name and not _WELL_FORMED.fullmatch(picture.file_name)]
    notes = []
    if without:
        notes.append(f"{len(without)} left out, whose names are not [age]_[gender]_[race]_[date].jpg: {shown(without)}")
    if odd:
        notes.append(f"{len(odd)} read in spite of malformed names: {shown(odd)}")
    return tuple(notes)


def _pixels_note(hashes: NDArray[np.str_], sizes: Ints) -> str:
    if _content(hashes) == CONTENT:
        return "the official pictures"
    common = Counter(map(tuple, sizes.tolist())).most_common(1)[0][0]
    resized = f": they are {common[0]}x{common[1]}, the official ones 200x200" if common != (200, 200) else ", but another set"
    return f"not the official pixels{resized}"


def _content(hashes: Sequence[str] | Array) -> str:
    """md5 of the sorted md5s, which does not depend on the names of the pictures."""
    return hashlib.md5("".join(sorted(str(each) for each in hashes)).encode()).hexdigest()


def _group_notes(race: Ints, bucket: Ints) -> tuple[str, ...]:
    sizes = np.bincount(4 * race + bucket, minlength=len(GROUP_SIZES)).tolist()
    differ = [
        f"{WORDS['race'][i // 4]} {WORDS['age_bucket'][i % 4]} {size} instead of {published}"
        for i, (size, published) in enumerate(zip(sizes, GROUP_SIZES, strict=True))
        if size != published
    ]
    if not differ:
        return ()
    return (f"{len(race)} pictures instead of {sum(GROUP_SIZES)}; groups that differ from the paper's: {shown(differ)}",)


# --- the file of features ---------------------------------------------------------------------------------------------


def _column(path: Path, arrays: Mapping[str, Array], key: str) -> NDArray[Any]:
    if key not in arrays:
        raise BadInput(f"{path} lacks the key {key}; it has {', '.join(arrays)}: {MOBILENET_BY_HAND}")
    values = arrays[key]
    return decoded_texts(path, key, values) if values.dtype.kind == "S" else values


def _codes(path: Path, arrays: Mapping[str, Array], key: str, n_rows: int, top: int) -> Ints:
    values = _column(path, arrays, key)
    if values.shape != (n_rows,) or values.dtype.kind not in "iu" or values.min() < 0 or values.max() > top:
        raise BadInput(f"{path}: {key} is {values.dtype} of shape {values.shape}; {n_rows} whole numbers in 0..{top} are needed")
    return values.astype(np.int64)
