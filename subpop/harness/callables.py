"""Defenses and attacks given as Python functions: in a file of their own or sent to the child by value."""

from __future__ import annotations

import ast
import inspect
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from subpop.harness.plugins import MAX_FITS, Spec, checked_needs, parse_plugin
from subpop.types import BadInput
from subpop.types.printable import printable


def notation_of(function: Callable[..., Any]) -> str | None:
    """`package.module:name(arguments)` or `path.py:name(arguments)` of a function, as the options of a run take it.

    None if no file has it by name: a function of a notebook, of the running script, of another function, a lambda or an object.
    """
    arguments = ""
    if isinstance(function, partial):
        given = [f"{name}={value!r}" for name, value in function.keywords.items()]
        if function.args or not all(map(_is_literal, function.keywords.values())):
            return None
        function, arguments = function.func, f"({', '.join(given)})"
    module, name = sys.modules.get(getattr(function, "__module__", None) or ""), getattr(function, "__qualname__", "")
    file = getattr(module, "__file__", None) or ""
    if not inspect.isfunction(function) or getattr(module, name, None) is not function or not file.endswith(".py"):
        return None
    assert module is not None
    if module.__name__ == "__main__":
        return None  # its import would run the script again
    where = module.__name__ if "." in module.__name__ else os.path.abspath(file)
    return f"{where}:{name}{arguments}"


def _is_literal(value: Any) -> bool:
    try:
        return bool(ast.literal_eval(repr(value)) == value)
    except (ValueError, SyntaxError):
        return False


def spec_of(kind: type[Spec], function: Callable[..., Any]) -> Spec:
    """The specification of a defense or an attack that is given as a function.

    Raises
    ------
    BadInput
        If it cannot be called as one, needs what no plug-in is told, or cannot be sent to another process.
    """
    notation = notation_of(function)
    if notation is not None:
        return parse_plugin(kind, notation, Path.cwd(), option=f"{kind.role.noun}=")
    name = printable(str(getattr(function, "__name__", type(function).__name__))).strip("<>")
    try:
        inspect.signature(function).bind(*[None] * kind.role.n_given, **({"seed": 0} if kind.role.takes_seed else {}))
    except (TypeError, ValueError) as error:
        raise BadInput(
            f"{kind.role.noun}={name} cannot be called as {name}{kind.role.call} ({error}); give it these parameters"
        ) from error
    needs, max_fits = getattr(function, "needs", ()), getattr(function, "max_fits", MAX_FITS)
    return kind(
        name=name,
        path=Path(f"<{name}>"),
        module="",
        function=name,
        folder=Path.cwd(),
        needs=checked_needs([str(each) for each in needs], name, Path("Python")),
        source=f"by value {os.urandom(16).hex()}",
        deterministic=bool(getattr(function, "deterministic", True)),
        max_fits=int(max_fits),
        pickled=by_value(function, name),
    )


def by_value(function: Callable[..., Any], name: str) -> bytes:
    """The function with all that it refers to; raises BadInput if that cannot be sent to another process."""
    import cloudpickle

    try:
        return bytes(cloudpickle.dumps(function))
    except Exception as error:  # of objects that it refers to
        raise BadInput(
            f"{name} cannot be sent to the process in which it runs ({type(error).__name__}: {error}); write it to a file, or "
            "let it refer to plain data and functions only"
        ) from error
