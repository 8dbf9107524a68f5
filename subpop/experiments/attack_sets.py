"""Attack sets recorded with the baselines: clusters, and which of them are attacked.

k-means and networks round differently on different processors, so the same set-up could give different clusters on another
machine. An entry is one file, `<set-up>.partition`, which contains only integers:

    line 1    `subpop partition`, the schema number, and the SHA-256 digest of all that follows
    line 2    JSON: the names of the set-up, a hash of the clustered data, type and length of each array
    the rest  the concatenated arrays, compressed by LZMA

The hash of the data covers labels, splits, annotations and everything else that is integers or text. Of floating-point columns
it covers only the shape, because their last bits also differ between machines. An entry is used only if its hash is that of the
current data.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from subpop.experiments.texts import Reading
from subpop.features.networks.frozen import REPRESENTATIONS
from subpop.results.metrics import MIN_TEST_ROWS
from subpop.runtime.fingerprint import data_hash
from subpop.runtime.writing import write_atomically
from subpop.types import Array, BadInput, Cell, Dataset, Ints, Partition, Splits
from subpop.types.specifications import Learner
from subpop.victims import VICTIMS

FOLDER = "partitions"
"""The folder of entries, inside the folder of the baselines."""
SCHEMA = 1
MAGIC = "subpop partition"
SUFFIX = ".partition"
DTYPES = ("uint8", "uint16", "uint32")
NONE_OFFSET = 1
"""Added to values in files, which are unsigned, so that -1 (a row without a cluster) can be stored."""

Name = Mapping[str, str]
USUAL = {"split": "0", "protocol": "default", "partition_seed": "0", "clusters_on": "inputs"}


@dataclass(frozen=True, eq=False)
class Entry:
    """The content of one file. digest: of the content, which is part of the keys of stored results."""

    name: Name
    content: str
    arrays: Mapping[str, Ints]
    digest: str


@dataclass(frozen=True, eq=False)
class Recorded:
    """The entries of one set-up: its clusters, and the choice of the attacked ones; None if there is no entry.

    A name is empty if there is nothing to record: partitions other than clusters are the same on all machines.
    """

    clusters_name: Name = field(default_factory=dict)
    choice_name: Name = field(default_factory=dict)
    content: str = ""
    clusters: Entry | None = None
    choice: Entry | None = None

    @property
    def complete(self) -> bool:
        """Whether all entries that the set-up needs exist."""
        named = bool(self.clusters_name or self.choice_name)
        missing = (self.clusters_name and self.clusters is None) or (self.choice_name and self.choice is None)
        return named and not missing

    @property
    def digests(self) -> list[str]:
        return [entry.digest if entry else "" for entry in (self.clusters, self.choice)]

    @property
    def sides(self) -> tuple[Ints, Ints, Ints]:
        """The cluster of each row of D, D_aux and D_test."""
        assert self.clusters is not None
        return self.clusters.arrays["train"], self.clusters.arrays["aux"], self.clusters.arrays["test"]

    @property
    def attacked(self) -> tuple[int, ...]:
        """The attacked subpopulations, in order."""
        assert self.choice is not None
        return tuple(self.choice.arrays["attacked"].tolist())


@dataclass
class AttackSets:
    """The entries of a folder, and arrays computed in this run that have no entry yet. folder: None to use no entries."""

    folder: Path | None = None
    new: dict[str, tuple[Name, str, Mapping[str, Ints]]] = field(default_factory=dict)

    def find(self, clusters: Name, choice: Name, content: str) -> Recorded:
        """The recorded entries of a set-up."""
        first = self.get(clusters, content) if clusters else None
        if not choice or (clusters and first is None):  # a choice is meaningless for other clusters
            return Recorded(clusters, choice, content, first)
        bound = content if first is None else _bound(content, first.arrays)
        return Recorded(clusters, choice, content, first, self.get(choice, bound))

    def get(self, name: Name, content: str) -> Entry | None:
        """The entry of that name; None if there is none for this data. Raises BadInput if the file is damaged."""
        if self.folder is None or not (path := self.folder / file_name(name)).is_file():
            return None
        entry = read_entry(path)
        if entry.name != name:
            raise BadInput(f"{path} belongs to the set-up {entry.name}, not to {name}; give it back its own name")
        return entry if entry.content == content else None

    def note(self, recorded: Recorded, partition: Partition) -> None:
        """Remember a partition that was computed here, for `record`."""
        sides, content = {"train": partition.train, "aux": partition.aux, "test": partition.test}, recorded.content
        if recorded.clusters_name and recorded.clusters is None:
            self.add(recorded.clusters_name, content, sides)
        if recorded.choice_name and recorded.choice is None:
            bound = _bound(content, sides) if recorded.clusters_name else content
            self.add(recorded.choice_name, bound, {"attacked": np.array(partition.attacked, np.int64)})

    def add(self, name: Name, content: str, arrays: Mapping[str, Ints]) -> None:
        """Remember arrays without an entry, for `record`, unless their name contains a path, which differs between machines."""
        if self.folder is not None and not any(_has_path(key, value) for key, value in name.items()):
            self.new[file_name(name)] = (name, content, arrays)

    def record(self) -> tuple[list[Path], list[Path]]:
        """Write missing files. Returns the files written, and existing ones that were not changed: they belong to other data."""
        written, left = [], []
        for file, (name, content, arrays) in self.new.items():
            assert self.folder is not None  # checked by `add`
            path = self.folder / file
            if path.exists():
                left.append(path)
            else:
                write_entry(path, name, content, arrays)
                written.append(path)
        self.new.clear()
        return written, left


# --- names ------------------------------------------------------------------------------------------------------------


def _has_path(key: str, value: str) -> bool:
    """Whether a part of a name contains a path; a victim may be a class of an installed module, `module:Class`."""
    is_class = key == "victim" and ".py:" not in value
    return "/" in value or os.sep in value or (":" in value and not is_class)


def chosen(cell: Cell) -> tuple[str, str]:
    """The cell's options for how many subpopulations are attacked, and which."""
    return cell.option("n_attacked"), cell.option("attacked_by")


def clusters_name(cell: Cell, rows_of: Callable[[Cell], object]) -> dict[str, str]:
    """The name of a cell's clusters; empty for other partitions. rows_of: how a cell's victim reads rows, None: unchanged."""
    if cell.partition != "cluster_match":
        return {}
    named = cell.subpopulations.clusters_on
    clustered_by = replace(cell, learner=Learner(named)) if named in VICTIMS else cell
    rows = "" if named in REPRESENTATIONS else _in_words(rows_of(clustered_by))
    return {**_setup(cell), "partition_seed": cell.subpopulations.text("partition_seed"), "clusters_on": named, "rows": rows}


def choice_name(cell: Cell, rows_of: Callable[[Cell], object]) -> dict[str, str]:
    """The name of the choice of subpopulations, if it depends on the confidence of the attacker's model; otherwise empty."""
    count, by = chosen(cell)
    if not count:
        return {}
    own = {**(clusters_name(cell, rows_of) or _setup(cell)), "rows": _in_words(rows_of(cell))}
    return {**own, "n_attacked": count, "attacked_by": by, "victim": cell.victim}


def _setup(cell: Cell) -> dict[str, str]:
    split, protocol = cell.data.text("split"), cell.data.protocol
    return {"dataset": cell.dataset, "split": split, "protocol": protocol, "partition": cell.partition}


def _in_words(rows: object) -> str:
    if isinstance(rows, Reading):
        return f"{rows.encoder} {rows.max_length} {'pooled' if rows.pooled else 'tokens'}"
    return str(rows or "")


def file_name(name: Name) -> str:
    """`digits-split=1-partition=cluster_match.partition`: the data set, then non-default settings; '' for an empty name."""
    if not name:
        return ""
    settings = [f"{key}={value}" for key, value in name.items() if key != "dataset" and value != USUAL.get(key, "")]
    return re.sub(r"[^\w.=-]", "_", "-".join([name["dataset"], *settings])) + SUFFIX


# --- one file ---------------------------------------------------------------------------------------------------------


def content_of(dataset: Dataset, splits: Splits) -> str:
    """Hash of the integers and texts of a data set, its split, and the parameters for making and choosing clusters.

    Of floating-point columns only the shape is included.
    """
    x = dataset.x if dataset.x.dtype.kind in "iub" else np.array(dataset.x.shape)
    counts = f"{dataset.n_clusters} {dataset.n_components} {dataset.group_bounds} {MIN_TEST_ROWS}"
    words = "\0".join([counts, *dataset.annotations, *(dataset.texts or ())]).encode("utf-8", "surrogatepass")
    sides = (splits.train, splits.aux, splits.test)
    return data_hash(dataset.y, *sides, x, np.frombuffer(words, np.uint8), *dataset.annotations.values())


def _bound(content: str, sides: Mapping[str, Ints]) -> str:
    """The hash of a choice's data, which includes the clusters from which it was made."""
    return data_hash(np.frombuffer(content.encode(), np.uint8), *(sides[side] for side in ("train", "aux", "test")))


def write_entry(path: Path, name: Name, content: str, arrays: Mapping[str, Ints]) -> None:
    """Write an entry atomically."""
    packed = {key: _packed(values) for key, values in arrays.items()}
    header = {"name": dict(name), "content": content, "arrays": {key: [a.dtype.name, len(a)] for key, a in packed.items()}}
    body = json.dumps(header).encode() + b"\n" + lzma.compress(b"".join(a.tobytes() for a in packed.values()), preset=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, f"{MAGIC} {SCHEMA} {hashlib.sha256(body).hexdigest()}\n".encode() + body)


def read_entry(path: Path) -> Entry:
    """Read an entry and check its digest. Raises BadInput if the file is damaged or was written by another version."""
    first, _, body = path.read_bytes().partition(b"\n")
    words = first.decode("ascii", "replace").removeprefix(MAGIC).split()
    if not first.startswith(MAGIC.encode()) or len(words) != 2:
        raise _damaged(path, f"its first line is not {MAGIC!r}, a schema number and a digest")
    if words[0] != str(SCHEMA):
        raise BadInput(f"{path} has schema {words[0]}, this version reads schema {SCHEMA}; use the version that wrote it")
    digest = hashlib.sha256(body).hexdigest()
    if digest != words[1]:
        raise _damaged(path, "its content does not match its digest")
    first_line, _, packed = body.partition(b"\n")
    header = json.loads(first_line)
    return Entry(header["name"], header["content"], _unpacked(lzma.decompress(packed), header["arrays"]), digest)


def _damaged(path: Path, why: str) -> BadInput:
    fix = "restore it from the repository, or delete it and record it anew with --rebaseline"
    return BadInput(f"{path} is damaged ({why}); {fix}")


def _packed(values: Ints) -> Array:
    shifted = np.asarray(values, np.int64) + NONE_OFFSET
    dtype = next(dtype for dtype in DTYPES if shifted.max(initial=0) <= np.iinfo(dtype).max)
    return shifted.astype(np.dtype(dtype).newbyteorder("<"))


def _unpacked(plain: bytes, arrays: Mapping[str, Any]) -> dict[str, Ints]:
    found, start = {}, 0
    for key, (dtype, length) in arrays.items():
        stored = np.dtype(dtype).newbyteorder("<")
        found[key] = np.frombuffer(plain, stored, length, start).astype(np.int64) - NONE_OFFSET
        start += length * stored.itemsize
    return found
