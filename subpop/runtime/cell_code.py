"""Which modules the results of a cell depend on: they are part of the keys under which results are stored.

A key hashes the modules of the cell's own data, victim, attack and defense, with everything that these import. So an edit of
one defense leaves the trials of all others valid, and an edit of a report leaves all trials valid. Three sorts of modules are
treated apart:

* a *registry* maps names to modules; a key has the modules of its own names instead;
* a *composer* calls the parts of any cell; its own code counts, but not all that it imports;
* *bookkeeping* decides what is printed, remembered or stored, and has no influence on any number.

`tests/runtime/test_cell_code.py` runs a cell of every registered part and fails if a module runs that is in no key.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

from subpop.runtime.fingerprint import key_of, modules_of, plugin_hash, source_hash

REGISTRIES = frozenset(
    {
        "subpop",
        "subpop.attacks",
        "subpop.datasets",
        "subpop.defenses",
        "subpop.types.kinds",
        "subpop.features.networks",
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
        "subpop.runtime.feature_cache",
        "subpop.runtime.fingerprint",
        "subpop.harness.manifest",
        "subpop.runtime.memo",
        "subpop.runtime.options",
        "subpop.runtime.output",
        "subpop.runtime.progress",
        "subpop.runtime.store",
        "subpop.runtime.store_rescue",
        "subpop.runtime.store_rows",
        "subpop.runtime.writing",
    }
)
TRIALS = (
    "subpop.attacks.drawing",
    "subpop.experiments.trial",
    "subpop.harness.batching",
    "subpop.experiments.experiment",
)
"""What draws the poison of, prepares, runs and scores the trials of any cell."""


def modules_in_key(roots: frozenset[str]) -> frozenset[str]:
    """The modules of the package that a key with these roots covers."""
    return frozenset(modules_of(_own(roots), alone=COMPOSERS, without=REGISTRIES | BOOKKEEPING))


@cache
def code_key(roots: frozenset[str]) -> str:
    """Hash of the code of these modules and of what they import; of a module outside the package, with its own local imports."""
    own = source_hash(_own(roots), alone=COMPOSERS, without=REGISTRIES | BOOKKEEPING)
    others = sorted(name for name in roots if not _is_own(name))
    return key_of({"own": own, "others": [plugin_hash(Path(str(sys.modules[name].__file__))) for name in others]})


def _own(roots: frozenset[str]) -> frozenset[str]:
    return frozenset(filter(_is_own, roots)) | {"subpop.experiments.context"}


def _is_own(module: str) -> bool:
    return module.partition(".")[0] == "subpop"


def entry_text(entry: Any) -> str:
    """What a registry holds under a name, in words that change with it: which function or class, with which arguments.

    Registries themselves are in no key, so that a new line invalidates nothing; a line that changes is noticed by these words.
    """
    if isinstance(entry, partial):
        given = [*map(repr, entry.args), *(f"{name}={value!r}" for name, value in sorted(entry.keywords.items()))]
        return f"{entry_text(entry.func)}({', '.join(given)})"
    text = f"{entry.__module__}.{entry.__qualname__}"
    code = getattr(entry, "__code__", None)
    if code is None or "<lambda>" not in text:
        return text
    used = {name: entry.__globals__[name] for name in code.co_names if name in entry.__globals__}
    words = [entry_text(value) if callable(value) else f"{name}={value!r}" for name, value in used.items()]
    return f"{text} {code.co_consts!r} {code.co_names!r} {words!r}"


def modules_behind(entry: Callable[..., object]) -> Iterator[str]:
    """The modules of what a registry holds under a name: a function, a class, or a partial call of one with its arguments."""
    if isinstance(entry, partial):
        for each in (entry.func, *entry.args, *entry.keywords.values()):
            if callable(each):
                yield from modules_behind(each)
    else:
        yield entry.__module__
