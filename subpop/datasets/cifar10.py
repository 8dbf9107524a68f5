"""CIFAR-10: ten classes of objects and animals, 32x32 pixels.

*Source*: Krizhevsky, Learning Multiple Layers of Features from Tiny Images (2009), https://www.cs.toronto.edu/~kriz/cifar.html;
`cifar-10-python.tar.gz` (md5 c58f30108f718f92721af3b95e74349a), read packed or from the folder `cifar-10-batches-py`. 50,000
pictures for training and the official 10,000 for testing; D and D_aux are random halves of the former. The batches are pickles,
read by an unpickler that accepts plain arrays only.

`cifar10_jpeg` is a copy of lossy pictures in an image folder (train/CLASS/*.jpg, test/CLASS/*.jpg), called "CIFAR-10 (JPEG
q75)". A network with 91.6 % accuracy on the originals has 80.5 % on it: do not compare its accuracies with published ones.

*Deviations*: no content hashes. All 60,000 pictures are different, and because `sizes` uses every training row, a picture that
also occurs in the test set could not be left out.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

import numpy as np

from subpop.datasets.archives import files_in
from subpop.datasets.download import MissingData, RemoteFile, data_root, fetch_command, missing_by_hand
from subpop.datasets.image_folder import read_folder
from subpop.types import Array, BadInput, Dataset

LICENCE = "no licence stated; cite Krizhevsky (2009)"
FILES = (
    RemoteFile(
        "cifar-10-python.tar.gz",
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        "c58f30108f718f92721af3b95e74349a",
        170_498_071,
    ),
)
JPEG_BY_HAND = (
    "this lossy copy has no public address (`subpop data fetch cifar10` gets the originals); put an image folder, "
    "train/CLASS/*.jpg with 5,000 pictures a class and test/CLASS/*.jpg with 1,000"
)
FOLDER = "cifar-10-batches-py"
BATCHES = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
"""The batches and their md5s, in the order of the rows."""
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
N_BATCH = 10_000
PER_CLASS = (5000, 1000)
"""Pictures per class, for training and testing."""


def load(root: Path | None = None) -> Dataset:
    """Load CIFAR-10: x (60000, 3, 32, 32) uint8, the 10,000 official test rows last.

    Raises MissingData if neither archive nor folder is there, BadInput for files that are not CIFAR-10.
    """
    contents = _contents(root)
    batches = [read_batch(contents[name], name) for name in BATCHES]
    differ = [name for name, md5 in BATCHES.items() if hashlib.md5(contents[name]).hexdigest() != md5]
    x, y, names = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    notes = (f"{', '.join(differ)} not byte for byte the published files",) if differ else ()
    test = np.arange(len(y)) >= N_BATCH * (len(BATCHES) - 1)
    return _dataset(Dataset("cifar10", x, y, len(CLASSES), official_test=test, names=names, notes=notes))


def load_jpeg(root: Path | None = None) -> Dataset:
    """Load the lossy copy: x (60000, 3, 32, 32) uint8; raises MissingData if it is not there, BadInput for other classes."""
    folder = found_jpeg(root or data_root())
    if folder is None:
        raise missing_by_hand("cifar10_jpeg", (root or data_root()) / "cifar10_jpeg", JPEG_BY_HAND)
    data = read_folder(folder, 32, "cifar10_jpeg")
    if data.words["y"] != CLASSES or data.official_test is None:
        raise BadInput(f"{folder} has classes {', '.join(data.words['y'])}; expected train/ and test/ of {', '.join(CLASSES)}")
    notes = ("CIFAR-10 (JPEG q75), not the original pixels: accuracies do not compare with published ones", *data.notes)
    return _dataset(replace(data, hashes=None, notes=notes))


def found(root: Path) -> Path | None:
    """Locate the batches below the root: the archive, otherwise the folder. Checks for existence only."""
    archive, folder = root / "cifar10" / FILES[0].name, root / "cifar10" / FOLDER
    if archive.is_file():
        return archive
    return folder if all((folder / name).is_file() for name in BATCHES) else None


def found_jpeg(root: Path) -> Path | None:
    """Locate the folder of the lossy copy."""
    folder = root / "cifar10_jpeg"
    return folder if (folder / "train").is_dir() and (folder / "test").is_dir() else None


def _dataset(data: Dataset) -> Dataset:
    """Add what all copies have in common; raises BadInput unless each class has its number of pictures."""
    assert data.official_test is not None  # both callers set it
    halves = (("training", ~data.official_test), ("test", data.official_test))
    for (half, chosen), wanted in zip(halves, PER_CLASS, strict=True):
        counts = np.bincount(data.y[chosen], minlength=len(CLASSES))
        if (counts != wanted).any():
            raise BadInput(f"{data.name}: {counts.tolist()} {half} pictures a class, expected {wanted} of each; fetch it again")
    return replace(data, sizes=(25_000, 25_000), n_clusters=100, n_components=40, words={"y": CLASSES})


# --- batches ----------------------------------------------------------------------------------------------------------


def _contents(root: Path | None) -> Mapping[str, bytes]:
    """The six batches, by name."""
    place = found(root or data_root())
    if place is None:
        folder = (root or data_root()) / "cifar10"
        raise MissingData(
            f"cifar10: neither {FILES[0].name} nor {FOLDER} found in {folder}; fetch it with: {fetch_command('cifar10', root)}"
        )
    if place.is_dir():
        return {name: (place / name).read_bytes() for name in BATCHES}
    inside = files_in(place, lambda name: PurePosixPath(name).name in BATCHES)
    contents = {PurePosixPath(name).name: content for name, content in inside.items()}
    if len(contents) < len(inside):
        raise BadInput(f"{place} contains {len(inside)} batches under {len(contents)} names; keep one folder of batches")
    lacking = [name for name in BATCHES if name not in contents]
    if lacking:
        raise BadInput(f"{place} lacks {', '.join(lacking)}; move it away and run: {fetch_command('cifar10', root)}")
    return contents


def read_batch(content: bytes, name: str) -> tuple[Array, Array, Array]:
    """Read one batch: x (10000, 3, 32, 32) uint8, y (10000,) int64, names (10000,); raises BadInput if it is invalid."""
    batch = _unpickled(content, name)
    fields: list[Any] = [batch.get(key) for key in (b"data", b"labels", b"filenames")]
    x, y, files = fields
    right = isinstance(x, np.ndarray) and x.shape == (N_BATCH, 3072) and x.dtype == np.uint8
    if not (right and _are(y, int) and _are(files, bytes) and set(y) <= set(range(len(CLASSES)))):
        raise BadInput(f"{name} is not a batch of {N_BATCH} pictures of 3x32x32 pixels with labels and names; fetch it again")
    names = np.array([f"{name}/{file.decode('latin1')}" for file in files])
    return x.reshape(-1, 3, 32, 32), np.array(y, dtype=np.int64), names


def _are(values: Any, kind: type) -> bool:
    return isinstance(values, list) and len(values) == N_BATCH and all(type(value) is kind for value in values)


_DAMAGE = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, MemoryError,
)  # fmt: skip
"""Exceptions that damaged pickles are known to raise."""


def _unpickled(content: bytes, name: str) -> dict[Any, Any]:
    try:
        batch = _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
    except BadInput as refused:
        raise BadInput(f"{name}: {refused}") from refused
    except _DAMAGE as error:
        reason = f"{type(error).__name__}: {error}"
        raise BadInput(f"{name} is not a complete pickle ({reason}); it is cut short: fetch cifar10 again") from error
    return batch if isinstance(batch, dict) else {}


class _ArraysOnly(pickle.Unpickler):
    """Unpickles numbers, texts, lists, dictionaries and numpy arrays; raises an error for any other name in the pickle."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np.zeros(0).__reduce__()[0]
        if (module, name) == ("_codecs", "encode"):
            return _latin1
        return _refuse(module, name)

    def persistent_load(self, pid: Any) -> NoReturn:
        _refuse("persistent", str(pid))


def _latin1(text: str, encoding: str) -> bytes:
    """The function by which Python 3 represents bytes in old pickles; no other codec is needed."""
    if encoding not in ("latin1", b"latin1"):
        _refuse("_codecs", f"encode to {encoding!r}")
    return text.encode("latin1")


def _refuse(module: str, name: str) -> NoReturn:
    raise BadInput(
        f"the pickle asks for {module}.{name}; a CIFAR batch contains plain arrays, lists and texts only, and nothing else is "
        "loaded: it may be malicious, fetch cifar10 again"
    )
