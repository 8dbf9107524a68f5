"""Hashes of source code, data and plain values, and versions of libraries, from which keys of stored trials are built.

If a hash covers too much, trials are only trained again without need; if it covers too little, a stale number is returned. So
everything that might be imported is covered: imports inside functions or under `TYPE_CHECKING`, and strings that name a module
of the package, because registries load parts by name.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import Field, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from subpop.runtime.writing import write_atomically
from subpop.types import BadInput

PACKAGE = Path(__file__).resolve().parents[1]
LIBRARIES = ("torch", "numpy", "scipy", "scikit-learn", "numba", "transformers")
DIGEST_BYTES = 20


# --- source -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tree:
    """Modules under `base`. top: the only package to consider, or '' for all modules there (for a file outside a package)."""

    base: Path
    top: str

    def find(self, name: str) -> Path | None:
        """The file of a dotted module name; None if there is no such module here."""
        return _file_of_own(name) if self == _OWN else self._file_of(name)

    def _file_of(self, name: str) -> Path | None:
        if not name or not all(part.isidentifier() for part in name.split(".")):
            return None
        if self.top and name.split(".")[0] != self.top:
            return None
        plain = self.base.joinpath(*name.split("."))
        candidates = (plain / "__init__.py", plain.with_name(plain.name + ".py"))
        return next((path for path in candidates if path.is_file()), None)


@functools.cache
def _file_of_own(name: str) -> Path | None:
    """The file of a module of this package, whose modules come and go with an installation only."""
    return _OWN._file_of(name)


_OWN = _Tree(PACKAGE.parent, PACKAGE.name)


def source_hash(
    module_names: Iterable[str],
    package: Path = PACKAGE,
    *,
    alone: Set[str] = frozenset(),
    without: Set[str] = frozenset(),
) -> str:
    """Hash of the code of the named modules (`subpop.runtime.store`) and of every module of the package that they import.

    Nothing is imported. Layout, comments and docstrings are ignored, and so is the `__init__` of a parent package unless it is
    named (a registry in it would make every hash depend on the whole package).

    Parameters
    ----------
    alone
        Modules whose own code is included if they are imported, but not their imports.
    without
        Modules that are ignored.

    Raises
    ------
    BadInput
        If a name is not a module of the package.
    """
    return _hash_of(modules_of(module_names, package, alone=alone, without=without))


def modules_of(
    module_names: Iterable[str],
    package: Path = PACKAGE,
    *,
    alone: Set[str] = frozenset(),
    without: Set[str] = frozenset(),
) -> dict[str, str]:
    """The modules that `source_hash` covers: {name: code}."""
    tree = _Tree(package.parent, package.name)
    names = list(module_names)
    for name in names:
        if tree.find(name) is None:
            raise BadInput(f"no module {name!r} in {package}; name modules as {package.name}.store or {package.name}.victims")
    return _reached(names, [tree], alone=alone, without=without)


def plugin_hash(path: Path) -> str:
    """Hash of a plug-in's file, of the local modules that it imports and of the subpop modules that those import.

    Local modules are those of the same package, or of the same folder if the file is not in a package.
    """
    if not path.is_file():
        raise BadInput(f"{path} is not a file; a plug-in is named as file.py:function")
    base, parts = path.resolve().parent, [path.stem]
    while (base / "__init__.py").is_file():
        base, parts = base.parent, [base.name, *parts]
    parents = [".".join(parts[:i]) for i in range(1, len(parts))]
    name = ".".join(parts).removesuffix(".__init__")
    own = _Tree(base, parts[0] if parents else "")
    # The file itself is given by path: its name need not be a valid identifier.
    return _hash_of(_reached([name, *parents], [_Tree(PACKAGE.parent, PACKAGE.name), own], {name: path}))


def code_hash(path: Path) -> str:
    """Hash of one module's code without layout, comments and docstrings. Raises BadInput if it is not valid Python."""
    return _digest(_code_of(path, path.read_bytes(), "")[0].encode("utf-8", "surrogatepass"))


def _reached(
    names: Iterable[str],
    trees: list[_Tree],
    known: Mapping[str, Path] | None = None,
    *,
    alone: Set[str] = frozenset(),
    without: Set[str] = frozenset(),
) -> dict[str, str]:
    """The named modules and all that they import, directly or not: {name: code}."""
    found, waiting, codes = dict(known or {}), list(names), dict[str, str]()
    while waiting:
        name = waiting.pop()
        path = found.get(name) or next((p for p in (tree.find(name) for tree in trees) if p), None)
        if name in codes or name in without or path is None:
            continue
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        codes[name], imported = _code_of(path, _source_of(path), package)
        waiting += () if name in alone else _existing(imported) if trees == [_OWN] else imported
    return codes


def _source_of(path: Path) -> bytes:
    own = _sources_of_own()
    return own[path] if path in own else path.read_bytes()


@functools.cache
def _sources_of_own() -> dict[Path, bytes]:
    """The sources of this package, all read with the first, before anything is trained: this process runs no later edit."""
    return {path: path.read_bytes() for path in PACKAGE.rglob("*.py")}


@functools.cache
def _existing(names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the names that are modules of this package: most strings of a module that contain a dot are none."""
    return tuple(name for name in dict.fromkeys(names) if _file_of_own(name))


def _hash_of(codes: Mapping[str, str]) -> str:
    return _digest("\0".join(f"{name}\0{_digest_of(codes[name])}" for name in sorted(codes)).encode("utf-8", "surrogatepass"))


@functools.cache
def _digest_of(code: str) -> str:
    """Hash of a module's code, which many hashes cover."""
    return _digest(code.encode("utf-8", "surrogatepass"))


@functools.cache
def _code_of(path: Path, source: bytes, package: str) -> tuple[str, tuple[str, ...]]:
    """A module's code and the names that it imports; parsed once per process, or once per version in a folder that keeps it."""
    module = f"{package}.{path.stem}" if path.is_relative_to(PACKAGE) else ""
    made_from = _made_from(source, package)
    found = _read_kept(module, made_from)
    if found is None:
        parsed = _parse(path, source)
        found = ast.dump(_without_docstrings(parsed)), tuple(_imported_names(parsed, package))
        _keep(module, made_from, found)
    return found


_FOLDERS: list[Path] = []


def keep_code_in(folder: Path) -> None:
    """Keep the parsed code of the package's modules in a folder, from which later processes read it instead of parsing again.

    Each file has the hashes of the module's source and of its own content, so that an edited module or a damaged file is parsed.
    """
    _FOLDERS[:] = [folder]


def _made_from(source: bytes, package: str) -> str:
    """Hash of what parsed code depends on: the source, this module and Python."""
    return _digest(b"\0".join([f"{package} {platform.python_version()}".encode(), _own_source(), source]))


@functools.cache
def _own_source() -> bytes:
    return Path(__file__).read_bytes()


def _read_kept(module: str, made_from: str) -> tuple[str, tuple[str, ...]] | None:
    """The parsed code of a module; None if it is not kept, is of another version, or is damaged."""
    for folder in _FOLDERS if module else ():
        with contextlib.suppress(OSError, ValueError):
            digest, _, content = (folder / f"{module}.json").read_bytes().partition(b"\n")
            if digest.decode() == _digest(made_from.encode() + content):
                said, names = json.loads(content)
                return said, tuple(names)
    return None


def _keep(module: str, made_from: str, found: tuple[str, tuple[str, ...]]) -> None:
    """Keep the parsed code of a module; where nothing can be written, it is parsed again next time."""
    content = json.dumps(found).encode()
    for folder in _FOLDERS if module else ():
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / f"{module}.json", _digest(made_from.encode() + content).encode() + b"\n" + content)


def _parse(path: Path, source: bytes) -> ast.Module:
    try:
        return ast.parse(source, filename=str(path))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BadInput(f"{path} is not valid Python ({error}); correct it") from error


def _without_docstrings(tree: ast.Module) -> ast.Module:
    """The tree without docstrings: those of modules, classes, functions and attributes."""
    for node in ast.walk(tree):
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list):
                setattr(node, name, [line for line in block if not _is_text(line)])
    return tree


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _imported_names(tree: ast.Module, package: str) -> list[str]:
    """Dotted names that an import, or a string such as `subpop.victims.mlp:MLP`, may load. package: for relative imports."""
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            above = parts[: max(0, len(parts) - node.level + 1)] if node.level else []
            module = ".".join(filter(None, [*above, node.module]))
            names += [module, *(f"{module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "." in node.value:
            name = node.value.partition(":")[0]
            name = package + name if name.startswith(".") else name
            names += [name, name.rpartition(".")[0]]
    return names


# --- versions, data, values -------------------------------------------------------------------------------------------


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that a number may depend on; imports none of them."""
    return {**{name: _version(name) for name in LIBRARIES}, "python": platform.python_version()}


@functools.cache
def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError as error:
        raise BadInput(f"{name} is not installed; install the requirements with `python -m pip install -e .`") from error


def data_hash(*arrays: ArrayLike) -> str:
    """Hash of the content of arrays, in order, including dtype and shape but not memory layout."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for values in arrays:
        array = np.asarray(values)
        if array.dtype.hasobject:
            raise BadInput(f"an array of {array.dtype} has no content to hash; give numbers, booleans or fixed-width strings")
        digest.update(f"{array.dtype.descr}{array.shape}\0".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def texts_hash(texts: Sequence[str]) -> str:
    """Content hash of texts, in order."""
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    lengths = np.array([len(own) for own in encoded])
    return data_hash(lengths, np.frombuffer(b"".join(encoded), np.uint8))


def key_of(mapping: Mapping[str, Any]) -> str:
    """Stable hash of nested plain data: None, bool, int, float, str, lists, tuples, dataclasses, mappings with string keys.

    The order of a mapping is ignored; a list and a tuple are equal; 1, 1.0, True and '1' are four different values.
    """
    return _digest(json.dumps(_plain(mapping, "key"), sort_keys=True).encode())


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in fields(value) if not _is_new_default(field, value)}
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {name: _plain(item, f"{where}.{name}") for name, item in value.items()}
    kind = type(value).__name__
    raise BadInput(f"{where} is {value!r} ({kind}), which has no stable hash; use plain values, str() or data_hash()")


def _is_new_default(field: Field[Any], value: Any) -> bool:
    """Whether a field that is newer than stored results has its default: their keys do not contain it."""
    return bool(field.metadata.get("later", False)) and getattr(value, field.name) == field.default


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).hexdigest()
