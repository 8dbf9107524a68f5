"""What tells an estimator from all others in keys of the store: its parameters, and the code of all classes in it."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from subpop.harness.watch import INSTALLED
from subpop.runtime.fingerprint import plugin_hash


def identity_of(estimator: Any) -> str | None:
    """A text that is equal for equal estimators in any session, and differs if a parameter or the code of a class differs.

    Parameters
    ----------
    estimator
        An unfitted scikit-learn estimator or Pipeline.

    Returns
    -------
    str or None
        None if there is no such text: a class or a function in it was defined in a notebook, in the running script or inside a
        function, so that no file can be imported for it.
    """
    import joblib

    found = list(_parts(estimator))
    names = [module_and_name(each) for each in found]
    if None in names:
        return None
    try:
        return f"{joblib.hash(estimator)} {sorted({(module, code_of(module)) for module, _ in filter(None, names)})}"
    except Exception:  # a parameter that cannot be pickled
        return None


def module_and_name(thing: Any) -> tuple[str, str] | None:
    """The module of a class or function and its name there; None if it cannot be imported by them in another process."""
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", "")
    loaded = sys.modules.get(str(module))
    if module == "__main__" or loaded is None or "." in name or getattr(loaded, name, None) is not thing:
        return None
    return (str(module), name) if str(getattr(loaded, "__file__", None) or "").endswith((".py", ".so", ".pyd")) else None


def code_of(module: str) -> str:
    """Version of the distribution of an installed module, or hash of the source where nothing installed it."""
    file = getattr(sys.modules[module], "__file__", None) or ""
    if file.endswith(".py") and not file.startswith(tuple(INSTALLED)):
        return plugin_hash(Path(file))
    found = importlib.metadata.packages_distributions().get(module.partition(".")[0], ())
    return ", ".join(f"{each} {importlib.metadata.version(each)}" for each in sorted(set(found)))


def _parts(value: Any) -> Iterator[Any]:
    """The classes and functions in an estimator: its own class, and those of its parameters, at any depth."""
    if hasattr(value, "get_params") and not isinstance(value, type):
        yield type(value)
        yield from _parts(value.get_params(deep=False))
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _parts(each)
    elif isinstance(value, list | tuple | set):
        for each in value:
            yield from _parts(each)
    elif callable(value) and hasattr(value, "__qualname__"):
        yield value
    elif type(value).__module__ not in ("builtins", "numpy"):
        yield type(value)
