"""The notation for user code: `path.py:name` or `package.module:name`, with optional arguments in parentheses.

`my_defense.py:my_defense(share=0.1)` and `sklearn.svm:LinearSVC(C=0.1)` are examples. Arguments are Python literals, so parsing
a name runs no code.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any

from subpop.types import BadInput

COPIED = ("__name__", "__doc__", "needs", "deterministic", "max_fits")
"""Attributes of a function that are copied when arguments are bound to it."""
_NAME_AND_CALL = re.compile(r"(?P<name>[^\W\d]\w*)(?P<call>\(.*\))?", re.DOTALL)


@dataclass(frozen=True)
class Reference:
    """A name in a file or module, with arguments."""

    where: str
    """Path of a file, or dotted name of a module."""
    name: str
    """Name of the function or class."""
    positional: tuple[Any, ...] = ()
    """Arguments by position."""
    named: tuple[tuple[str, Any], ...] = ()
    """Arguments by name, sorted."""

    @property
    def is_file(self) -> bool:
        """Whether `where` is the path of a file."""
        return self.where.endswith(".py") or "/" in self.where

    @property
    def call(self) -> str:
        """The arguments in parentheses, in canonical form; empty without arguments."""
        given = [*map(repr, self.positional), *(f"{name}={value!r}" for name, value in self.named)]
        return f"({', '.join(given)})" if given else ""

    def bind(self, found: Callable[..., Any]) -> Callable[..., Any]:
        """The function or class with these arguments, and with the attributes of the original."""
        if not self.positional and not self.named:
            return found
        bound = partial(found, *self.positional, **dict(self.named))
        for name in COPIED if not isinstance(found, type) else ():
            if hasattr(found, name):
                setattr(bound, name, getattr(found, name))
        return bound


def parse_reference(text: str, usage: str, option: str = "") -> Reference:
    """Read `path.py:name(arguments)` or `package.module:name(arguments)`.

    Parameters
    ----------
    text
        What a user wrote.
    usage
        The end of an error message: the correct notation, with an example.
    option
        The beginning of an error message, such as `--defense `.

    Raises
    ------
    BadInput
        If the text does not follow the notation, or an argument is not a literal.
    """
    problem = "names no function"
    for colon in reversed([match.start() for match in re.finditer(":", text)]):  # paths and texts may contain colons too
        found = _NAME_AND_CALL.fullmatch(text, colon + 1)
        if not text[:colon] or found is None:
            continue
        try:
            parsed = ast.parse(f"f{found['call'] or '()'}", mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            problem = f"has arguments that are not valid Python ({error})"
            continue
        if isinstance(parsed, ast.Call) and isinstance(parsed.func, ast.Name):
            positional = tuple(_literal(each, option + repr(text)) for each in parsed.args)
            named = [
                (str(each.arg), _literal(each.value, option + repr(text))) for each in parsed.keywords if each.arg is not None
            ]
            if len(named) < len(parsed.keywords):
                raise BadInput(f"{option}{text!r} has arguments after **; write each argument by its name")
            return Reference(text[:colon], found["name"], positional, tuple(sorted(named, key=itemgetter(0))))
    raise BadInput(f"{option}{text!r} {problem}; {usage}")


def _literal(value: ast.expr, text: str) -> Any:
    try:
        return ast.literal_eval(value)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise BadInput(
            f"the argument {ast.unparse(value)} of {text} is not a literal; give numbers, texts, True, False, None, or lists, "
            "tuples and dictionaries of them"
        ) from error
