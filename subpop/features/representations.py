"""Frozen features of a data set's rows, computed once and kept on disk: what last-layer victims and ClusterMatch work on.

Nothing here trains. A cached file is named by a hash of all that its content depends on: pictures, network, bytes of the
weights, input transform, kind of device, torch's version and the code of the networks.

Features are computed in float32, with TF32 off: its mantissa has 10 bits, so that a GPU's features would differ from a CPU's by
about one part in a thousand, where exact solvers are compared to 1e-6. For the same reason there is no bfloat16.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from subpop.datasets.download import MissingData
from subpop.datasets.download import data_root as default_data_root
from subpop.features.networks import NETWORKS
from subpop.features.networks.frozen import REPRESENTATIONS, Representation
from subpop.features.networks.transforms import InputTransform
from subpop.runtime.feature_cache import cached
from subpop.runtime.fingerprint import data_hash, key_of, versions
from subpop.runtime.progress import Report, reporting
from subpop.types import Array, BadInput, Dataset, Floats

CPU_PIXELS = 64 * 32 * 32
"""Pixels a batch: maps of 64 small pictures stay in a cache. Not by the number of threads, lest bits depend on it."""
CPU_LEAST, GPU_BATCH = 4, 256


def frozen_features(
    name: str,
    dataset: Dataset,
    *,
    data_root: Path | None = None,
    weights_root: Path | None = None,
    cache: Path | None = None,
    device: str = "cpu",
    transform: InputTransform | None = None,
    batch_size: int | None = None,
) -> Floats:
    """(n, n_features) features of all rows of a data set, read-only; mapped from disk where there is a cache.

    weights_root: DATA_ROOT/weights by default; cache: a folder, or None to keep nothing; transform: instead of the network's
    own, for pictures that the paper feeds otherwise.
    Raises MissingData where weights or published features are not at hand, BadInput for data that does not fit.
    """
    if name not in REPRESENTATIONS:
        raise BadInput(f"unknown representation {name!r}; known: {', '.join(REPRESENTATIONS)}")
    root = data_root or default_data_root()
    if REPRESENTATIONS[name].file:
        job = _published(REPRESENTATIONS[name], name, dataset, root / REPRESENTATIONS[name].file)
    else:
        job = _computed(name, dataset, weights_root or root / "weights", device, transform, batch_size)
    return cached(cache, job.key, job.shape, lambda: _checked(job, name))


@dataclass(frozen=True)
class _Job:
    """Features that may or may not have to be computed. key: hash of all that they depend on."""

    key: str
    shape: tuple[int, int]
    compute: Callable[[], Floats]


def _checked(job: _Job, name: str) -> Floats:
    features = job.compute()
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise BadInput(f"{name} gives NaN or infinite features for {len(bad)} rows, first {bad[0]}; check weights and pictures")
    return features


# --- from a network ---------------------------------------------------------------------------------------------------


def _computed(
    name: str,
    dataset: Dataset,
    weights_root: Path,
    device: str,
    transform: InputTransform | None,
    batch_size: int | None,
) -> _Job:
    from subpop.features.networks.weights import weights_fingerprint, weights_path

    transform = transform or NETWORKS[name].transform
    _check_pictures(dataset, name, transform)
    path = weights_path(name, weights_root)
    rows = batch_size or _rows_a_batch(transform, dataset.x, device)
    key = {
        "data": data_hash(dataset.x),
        "network": name,
        "weights": weights_fingerprint(path),
        "transform": transform,
        "device": device.partition(":")[0],
        "torch": versions()["torch"],
        "code": _code_hash(),
    }

    def compute() -> Floats:
        with reporting(f"features of {dataset.name} by {name}") as report:
            return _run(name, path.parent, dataset.x, transform, device, rows, report)

    return _Job(key_of(key), (len(dataset.x), NETWORKS[name].n_features), compute)


def _check_pictures(dataset: Dataset, name: str, transform: InputTransform) -> None:
    x, smallest = dataset.x, NETWORKS[name].smallest
    if x.ndim != 4 or x.shape[1] != 3 or x.dtype != np.uint8 or not len(x):
        raise BadInput(f"{name} needs pictures, (n, 3, h, w) uint8; {dataset.name} has {x.dtype} rows of shape {x.shape}")
    side = transform.size or min(x.shape[2:])
    if side < smallest:
        raise BadInput(f"{name} needs pictures of {smallest} pixels a side, not {side}; give a transform with size={smallest}")


def _rows_a_batch(transform: InputTransform, x: Array, device: str) -> int:
    height, width = (transform.size, transform.size) if transform.size else x.shape[2:]
    return max(CPU_LEAST, CPU_PIXELS // (height * width)) if device == "cpu" else GPU_BATCH


def _code_hash() -> str:
    """Hash of the files that decide what comes out; not of what they import, or a new data set would empty the cache."""
    files = [Path(__file__), *sorted((Path(__file__).parent / "networks").glob("*.py"))]
    return data_hash(*(np.frombuffer(file.read_bytes(), np.uint8) for file in files))


def _run(name: str, weights_root: Path, x: Array, transform: InputTransform, device: str, rows: int, report: Report) -> Floats:
    import torch

    from subpop.features.networks import load_network
    from subpop.features.networks.folding import folded

    network: Any = folded(load_network(name, weights_root)).to(device)
    network.to(memory_format=torch.channels_last)
    features = np.empty((len(x), NETWORKS[name].n_features), np.float32)
    exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    with torch.inference_mode(), exact:
        for start in range(0, len(x), rows):
            stop = min(start + rows, len(x))
            features[start:stop] = network.pooled(transform(x[start:stop], device)).cpu().numpy()
            report(stop, len(x))
    return features


# --- from a file ------------------------------------------------------------------------------------------------------


def _published(representation: Representation, name: str, dataset: Dataset, path: Path) -> _Job:
    """Features of a file with `x`, (m, d), and `name`, (m,): the picture that a row of x belongs to."""
    from subpop.features.networks.weights import weights_fingerprint

    if dataset.names is None:
        raise BadInput(f"{name} holds features by file name; {dataset.name} has none (Dataset.names is None)")
    if not path.is_file():
        raise MissingData(f"{name}: {path} not found; put the file of published features there")
    names = dataset.names
    key = key_of({"names": data_hash(names), "file": weights_fingerprint(path), "code": _code_hash()})
    shape = (len(names), representation.n_features)
    return _Job(key, shape, lambda: _matched(path, names, representation.n_features))


def _matched(path: Path, names: Array, n_features: int) -> Floats:
    try:
        with np.load(path, allow_pickle=False) as file:
            x, known = file["x"], [str(each) for each in file["name"]]
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise BadInput(f"{path} is not a file of features with keys x and name ({error}); fetch it again") from error
    rows = {each: i for i, each in enumerate(known)}
    if x.shape != (len(known), n_features) or len(rows) != len(known):
        raise BadInput(f"{path} has {x.shape} features for {len(rows)} different names; expected one row of {n_features} a name")
    lacking = [str(each) for each in names if str(each) not in rows]
    if lacking:
        raise BadInput(f"{path} lacks features of {len(lacking)} of {len(names)} rows, first {lacking[0]!r}; leave them out")
    return np.asarray(x[[rows[str(each)] for each in names]], dtype=np.float32)
