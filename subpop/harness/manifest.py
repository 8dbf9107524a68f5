"""What a plug-in's trials depend on in addition to its own source; verified before they are reused from the store.

A specification leads to a manifest, and trials are reused only if every entry of it is unchanged: installed distributions with
their versions and recorded files, packages that the plug-in loaded, the code of its other modules, the files that it opened and
the folders that it listed. If the plug-in did something that cannot be watched, its trials are not reusable and run again.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from subpop.harness.watch import INSTALLED, STDLIB, stamp
from subpop.runtime.fingerprint import code_hash, key_of
from subpop.types import BadInput

ABSENT = ""
LARGEST = 1 << 32
MOST = 20_000
"""Bytes of a file, and entries of a manifest, beyond which nothing is reused."""
CHANGED = "files that it read changed while it ran"
NATIVE_READERS = {
    "cv2", "duckdb", "h5py", "lmdb", "netCDF4", "osgeo", "polars", "pyarrow", "rasterio", "safetensors", "tables",
    "imread", "read_feather", "read_hdf", "read_orc", "read_parquet",
}  # fmt: skip
"""Modules and functions that open files in native code, which the audit hook does not see."""

Manifest = dict[str, Any]
Seen = Mapping[str, Any]


def manifest_of(seen: Seen) -> Manifest:
    """Make the manifest of what a child used (`subpop.harness.watch`). `reasons`: why its trials must not be reused, if any.

    Raises LookupError, TypeError or ValueError if the child's data is invalid.
    """
    modules = {str(name): str(file) for name, file in seen["modules"].items()}
    files = {str(path): seen["files"][path] for path in seen["files"]}
    new = {str(name) for name in seen["new"]}
    installed = {name for name, file in modules.items() if _is_installed(file)}
    own = sorted({file for name, file in modules.items() if name in new and not _is_known(file)})
    reasons = [str(reason)[:200] for reason in seen["reasons"]]
    reasons += [f"{os.path.basename(file)} is native code" for file in own if not file.endswith(".py")]
    reasons += [f"{path} changed while it ran" for path, before in files.items() if _as_stamp(before) != stamp(path)]
    if len(own) + len(files) + len(seen["folders"]) > MOST:
        return {"reasons": [f"it opens more than {MOST} files"]}
    readers = sorted({name for file in own for name in _native_readers(file)})
    reasons += [f"{name} opens files in native code" for name in readers]
    found: Manifest = {
        "distributions": {name: _distribution(name) for name in _distributions({name.split(".")[0] for name in installed})},
        "packages": {top: _tree(top) for top in sorted({_top(modules[name], name) for name in installed & new})},
        "modules": {file: _code(file) for file in own if file.endswith(".py")},
        "files": {path: _content(path) for path in sorted(files)},
        "folders": {str(path): _listing(str(path)) for path in seen["folders"]},
    }
    unread = [path for kind in ("modules", "files") for path, digest in found[kind].items() if digest is None]
    return {**found, "reasons": sorted({*reasons, *(f"{path} cannot be hashed" for path in unread)})}


def still_holds(manifest: Manifest) -> bool:
    """Whether everything listed in a manifest is unchanged, and it may be reused at all."""
    if manifest["reasons"]:
        return False
    return all(check(name) == then for kind, check in KINDS.items() for name, then in manifest[kind].items())


class KeepsRecords(Protocol):
    """The methods of a store that manifests use."""

    def get_record(self, key: str, kind: str = "cell") -> Any: ...
    def put_record(self, key: str, record: Mapping[str, Any], kind: str = "cell") -> None: ...


class Manifests:
    """Maps keys of specifications to keys of trials. Each specification has one manifest, that of its last run."""

    def __init__(self, store: KeepsRecords) -> None:
        self._store = store
        self._now: dict[str, Manifest] = {}

    def note(self, key: str, manifest: Manifest) -> None:
        """Record what the trials that were just run depend on."""
        if not manifest["reasons"] and not still_holds(manifest):
            manifest = {**manifest, "reasons": [CHANGED]}
        self._now[key] = manifest
        self._store.put_record(key, manifest, kind="manifest")

    def join(self, key: str, parts: Iterable[str]) -> None:
        """Record what trials depend on that ran in several children, each with a manifest of its own."""
        gone: Manifest = {"reasons": [CHANGED]}
        found = [self._now.get(part) or self._store.get_record(part, kind="manifest") or gone for part in parts]
        joined: Manifest = {kind: {} for kind in KINDS}
        reasons = {reason for manifest in found for reason in manifest["reasons"]}
        for manifest in found:
            for kind, entries in joined.items():
                own = manifest.get(kind, {})
                reasons |= {CHANGED for name, digest in own.items() if entries.get(name, digest) != digest}
                entries.update(own)
        self.note(key, {**joined, "reasons": sorted(reasons)})

    def key(self, key: str) -> str | None:
        """Return where the trials of a specification are stored; None if none were run or their dependencies have changed.

        Trials that are not reusable are found only in the session that ran them.
        """
        if key in self._now and self._now[key]["reasons"]:
            return key_of({"specification": key, "manifest": "not reusable"})
        manifest = self._now.get(key) or self._store.get_record(key, kind="manifest")
        if manifest is None or not still_holds(manifest):
            return None
        return key_of({"specification": key, "manifest": manifest})

    def reasons(self, key: str) -> list[str]:
        """Why the trials that this session ran are not reusable."""
        return list(self._now.get(key, {}).get("reasons", []))


# --- locations -----------------------------------------------------------------------------------------------------------


def _is_installed(file: str) -> bool:
    return os.path.realpath(file).startswith(INSTALLED)


def _is_known(file: str) -> bool:
    """Return whether a file belongs to Python itself or to an installed distribution."""
    return _is_installed(file) or os.path.realpath(file).startswith(STDLIB)


def _top(file: str, name: str) -> str:
    """The folder of the top-level package of an installed module, or the file of a module outside a package."""
    depth = name.count(".") + (os.path.basename(file) == "__init__.py")
    top = file if depth == 0 else str(Path(file).parents[depth - 1])
    return top if os.path.realpath(top).startswith(INSTALLED) else file  # a module's name may differ from its location


def _as_stamp(value: object) -> tuple[int, int] | None:
    return (int(value[0]), int(value[1])) if isinstance(value, list | tuple) else None


# --- entries ----------------------------------------------------------------------------------------------------------


@functools.cache
def _owners() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


def _distributions(tops: Iterable[str]) -> list[str]:
    return sorted({owner for top in tops for owner in _owners().get(top, [])})


@functools.cache
def _distribution(name: str) -> list[str]:
    """Version, and digest of the list of installed files with their hashes."""
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return [ABSENT, ABSENT]
    record = found.read_text("RECORD") or found.read_text("SOURCES.txt") or ""
    return [found.version, hashlib.sha256(record.encode("utf-8", "surrogateescape")).hexdigest()]


@functools.cache
def _tree(top: str) -> str:
    """Return a digest of the Python files of an installed package, which may have been edited in place."""
    files = sorted(Path(top).rglob("*.py")) if os.path.isdir(top) else [Path(top)]
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{os.path.relpath(file, top)}\0{_content(str(file))}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _code(file: str) -> str | None:
    """Return a hash of a module's code without comments and docstrings; None if it cannot be read."""
    known = stamp(file)
    return ABSENT if known is None else _hashed_code(file, known)


@functools.lru_cache(maxsize=4096)
def _hashed_code(file: str, known: tuple[int, int]) -> str | None:
    try:
        return code_hash(Path(file))
    except (OSError, BadInput):
        return None


def _content(path: str) -> str | None:
    """Return a hash of a file's bytes, '' if it does not exist, None if it is no regular file or too large."""
    known = stamp(path)
    return ABSENT if known is None else _hashed_content(path, known)


@functools.lru_cache(maxsize=MOST * 4)
def _hashed_content(path: str, known: tuple[int, int]) -> str | None:
    try:
        if os.path.isdir(path):
            return "folder"
        if not stat.S_ISREG(os.stat(path).st_mode) or known[0] > LARGEST:
            return None
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _listing(path: str) -> str:
    try:
        names = sorted(name for name in os.listdir(path) if name != "__pycache__")
    except OSError:
        return ABSENT
    return hashlib.sha256("\0".join(names).encode("utf-8", "surrogateescape")).hexdigest()


@functools.lru_cache(maxsize=4096)
def _native_readers(file: str) -> frozenset[str]:
    """Names of native readers that one of the plug-in's own modules uses."""
    try:
        tree = ast.parse(Path(file).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return frozenset()
    said = {part for node in ast.walk(tree) for name in _names(node) for part in name.split(".")}
    return frozenset(said & NATIVE_READERS)


def _names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module or "", *(alias.name for alias in node.names)]
    return [node.attr] if isinstance(node, ast.Attribute) else []


KINDS: Mapping[str, Callable[[str], object]] = {
    "distributions": _distribution,
    "packages": _tree,
    "modules": _code,
    "files": _content,
    "folders": _listing,
}
"""The kinds of a manifest's entries, with what makes the digest of one."""
