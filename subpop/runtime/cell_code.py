"""The modules that the results of a cell depend on, whose code is part of the keys under which results are stored.

A key hashes the modules of the cell's own data, victim, attack and defense, with everything that these import. So an edit of
one defense leaves the trials of all others valid, and an edit of a report leaves all trials valid. Three kinds of modules are
special:

* a *registry* maps names to modules; a key includes only the modules of the cell's own names, not the registry;
* a *composer* calls the parts of any cell; its own code is included, but not all its imports;
* *bookkeeping* determines what is printed, cached or stored, and has no influence on any number.

`tests/runtime/test_cell_code.py` runs a cell of every registered part and fails if a module runs that no key includes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from subpop.runtime.fingerprint import key_of, modules_of, plugin_hash, source_hash

REGISTRIES = frozenset(
    {
        "subpop",
        "subpop.attacks",
        "subpop.datasets",
        "subpop.defenses",
        "subpop.defenses.configured",
        "subpop.types.kinds",
        "subpop.features.networks.frozen",
        "subpop.victims",
    }
)
COMPOSERS = frozenset({"subpop.experiments.attack_sets", "subpop.experiments.context", "subpop.experiments.experiment"})
BOOKKEEPING = frozenset(
    {
        "subpop.runtime.blobs",
        "subpop.runtime.cell_code",
        "subpop.runtime.estimate",
        "subpop.experiments.executors",
        "subpop.experiments.pools",
        "subpop.experiments.shared_arrays",
        "subpop.experiments.tasks",
        "subpop.runtime.feature_cache",
        "subpop.runtime.fingerprint",
        "subpop.harness.manifest",
        "subpop.runtime.memo",
        "subpop.runtime.no_store",
        "subpop.runtime.options",
        "subpop.runtime.output",
        "subpop.runtime.progress",
        "subpop.runtime.store",
        "subpop.runtime.store_merge",
        "subpop.runtime.store_rescue",
        "subpop.runtime.store_rows",
        "subpop.runtime.writing",
        "subpop.victims.identity",
    }
)
TRIALS = (
    "subpop.attacks.drawing",
    "subpop.experiments.trial",
    "subpop.harness.batching",
    "subpop.experiments.experiment",
)
"""Modules that draw the poison of any cell's trials, and prepare, run and score them."""


def modules_in_key(roots: frozenset[str]) -> frozenset[str]:
    """The modules of the package that a key with these roots covers."""
    return frozenset(modules_of(_own(roots), alone=COMPOSERS, without=REGISTRIES | BOOKKEEPING))


@cache
def code_key(roots: frozenset[str]) -> str:
    """Hash of the code of these modules and of their imports; for a module outside the package, of its local imports."""
    own = source_hash(_own(roots), alone=COMPOSERS, without=REGISTRIES | BOOKKEEPING)
    others = sorted(name for name in roots if not _is_own(name))
    return key_of({"own": own, "others": [plugin_hash(Path(str(sys.modules[name].__file__))) for name in others]})


def _own(roots: frozenset[str]) -> frozenset[str]:
    return frozenset(filter(_is_own, roots)) | {"subpop.experiments.context"}


def _is_own(module: str) -> bool:
    return module.partition(".")[0] == "subpop"


def entry_text(entry: Any, within: tuple[Any, ...] = ()) -> str:
    """A text that identifies a registry's entry: which function or class, with which arguments.

    Registries themselves are in no key, so a new entry invalidates nothing; a changed entry is noticed because its text changes.
    For functions defined in the registry's own file, the text includes their code and the values that they use.

    Parameters
    ----------
    entry
        The function, class or partial call.
    within
        Functions whose texts are being built and that use this entry: stops the recursion of functions that use each other.
    """
    if isinstance(entry, partial):
        given = [_value_text(value, within) for value in entry.args]
        given += [f"{name}={_value_text(value, within)}" for name, value in sorted(entry.keywords.items())]
        return f"{entry_text(entry.func, within)}({', '.join(given)})"
    if not hasattr(entry, "__qualname__"):
        return f"{entry_text(type(entry), within)} {entry!r}"
    text, code = f"{entry.__module__}.{entry.__qualname__}", getattr(entry, "__code__", None)
    if code is None or entry in within or not ("<lambda>" in text or entry.__module__ in REGISTRIES):
        return text
    used = {name: entry.__globals__[name] for name in code.co_names if name in entry.__globals__}
    used |= dict(zip(code.co_freevars, (cell.cell_contents for cell in entry.__closure__ or ()), strict=True))
    used |= {"defaults": (entry.__defaults__, sorted((entry.__kwdefaults__ or {}).items()))}
    for name, value in list(used.items()):
        if isinstance(value, ModuleType):
            used |= {f"{name}.{each}": getattr(value, each) for each in code.co_names if hasattr(value, each)}
    words = [f"{name}={_value_text(value, (*within, entry))}" for name, value in used.items()]
    return f"{text} {_code_text(code)} {words!r}"


def _value_text(value: Any, within: tuple[Any, ...]) -> str:
    if isinstance(value, ModuleType):
        return value.__name__
    return entry_text(value, within) if callable(value) else repr(value)


def _code_text(code: CodeType) -> str:
    consts = [_code_text(each) if isinstance(each, CodeType) else repr(each) for each in code.co_consts]
    return f"{code.co_code.hex()} {consts!r} {code.co_names!r}"


def modules_behind(entry: Callable[..., object]) -> Iterator[str]:
    """The modules of a registry's entry: a function, a class, or a partial call of one, with its callable arguments."""
    if isinstance(entry, partial):
        for each in (entry.func, *entry.args, *entry.keywords.values()):
            if callable(each):
                yield from modules_behind(each)
    else:
        yield entry.__module__
