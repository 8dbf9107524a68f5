"""Objects that a user names as `path.py:name` or `package.module:name`, imported into this process.

A file is imported under a name that no installed module has. It and the modules beside it travel to other processes by value,
since these cannot import them. A path is relative to the working directory.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
import types
from difflib import get_close_matches
from pathlib import Path

from subpop.harness.watch import INSTALLED
from subpop.runtime.fingerprint import plugin_hash
from subpop.runtime.naming import Reference, parse_reference
from subpop.runtime.options import place
from subpop.types import BadInput
from subpop.types.printable import in_one_line, printable
from subpop.victims.identity import code_of

USAGE = (
    "write package.module:Class or path.py:function, optionally with arguments, such as "
    "sklearn.ensemble:RandomForestClassifier(n_estimators=50)"
)
SHOWN = 5
"""Names that a message lists where none of them is similar to the one that was given."""


def user_object(spec: str, option: str) -> tuple[object, str]:
    """What a specification names, with its arguments but not yet called, and its name.

    option: the beginning of messages, such as `--estimator `.

    Raises
    ------
    BadInput
        If it is malformed, or names what cannot be imported.
    """
    reference = parse_reference(spec, USAGE, option)
    module = _file_module(spec, reference, option) if reference.is_file else _named_module(spec, reference, option)
    try:
        found = getattr(module, reference.name, None)
    except Exception as error:  # of a module that imports its parts when they are asked for
        raise BadInput(f"{option}{spec!r} cannot be imported ({in_one_line(error)}); install it, or {USAGE}") from error
    if found is None:
        there = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        near, more = get_close_matches(reference.name, there, 2), f" and {len(there) - SHOWN} more" if len(there) > SHOWN else ""
        advice = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(there[:SHOWN]) or 'none'}{more}"
        raise BadInput(f"{option}{spec!r} cannot be imported: {reference.where} has no {reference.name}; {advice}")
    if reference.call and not callable(found):
        raise BadInput(f"{option}{spec!r}: {reference.name} is a {type(found).__name__}, which takes no arguments; {USAGE}")
    return (reference.bind(found) if callable(found) else found), printable(reference.name + reference.call)


def checked_name(spec: str, option: str) -> str:
    """The name of a victim in cells: the specification in canonical form. Nothing is imported.

    Raises
    ------
    BadInput
        If it is malformed, or there is no such file.
    """
    reference = parse_reference(spec, USAGE, option)
    if reference.is_file:
        _file_of(spec, reference, option)
    return printable(f"{reference.where}:{reference.name}{reference.call}")


def code_behind(spec: str) -> str:
    """Version of the distribution of what a specification names, or hash of its file and of the modules beside it."""
    reference = parse_reference(spec, USAGE)
    if reference.is_file:
        return plugin_hash(place(reference.where, Path.cwd()))
    importlib.import_module(reference.where)
    return code_of(reference.where)


def _named_module(spec: str, reference: Reference, option: str) -> types.ModuleType:
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        return importlib.import_module(reference.where)
    except (Exception, SystemExit) as error:  # of somebody else's code
        raise BadInput(f"{option}{spec!r} cannot be imported ({in_one_line(error)}); install it, or {USAGE}") from error


def _file_of(spec: str, reference: Reference, option: str) -> Path:
    path = place(reference.where, Path.cwd())
    if not path.is_file():
        raise BadInput(f"{option}{spec!r}: there is no file {path}; {USAGE}")
    return path


def _file_module(spec: str, reference: Reference, option: str) -> types.ModuleType:
    path = _file_of(spec, reference, option)
    name, before = f"subpop_own_{path.stem}", set(sys.modules)
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise BadInput(f"{option}{spec!r}: {path.name} cannot be imported; name a .py file")
    module = importlib.util.module_from_spec(found)
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # of somebody else's code
        del sys.modules[name]
        raise BadInput(f"{option}{spec!r}: importing {path.name} failed ({in_one_line(error)}); correct the file") from error
    _send_by_value(
        [each for each in map(sys.modules.get, {name, *sys.modules} - (before - {name})) if each is not None], path.parent
    )
    return module


def _send_by_value(modules: list[types.ModuleType], folder: Path) -> None:
    """Let joblib send what these modules of a folder define to other processes, which cannot import them."""
    for module in modules:
        file = getattr(module, "__file__", None) or ""
        for pickler in ("cloudpickle", "joblib.externals.cloudpickle") if _is_below(file, folder) else ():  # by joblib's version
            with contextlib.suppress(ImportError):
                importlib.import_module(pickler).register_pickle_by_value(module)


def _is_below(file: str, folder: Path) -> bool:
    return bool(file) and Path(file).is_relative_to(folder) and not file.startswith(INSTALLED)
