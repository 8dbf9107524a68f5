"""Defenses by name, also with settings of their own: `dpa(k=7)`."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping, MutableMapping
from functools import partial, update_wrapper
from typing import Any

from subpop.types import BadInput, Defense

PARAMETERS = ("train", "fit", "know", "seed")
"""The parameters of every defense, which are not settings."""


class Defenses(MutableMapping[str, Defense]):
    """A registry of defenses. A name may be followed by settings: `registry["dpa(k=7)"]` is `dpa` with `k=7`."""

    def __init__(self, plain: Mapping[str, Defense]) -> None:
        self._plain = dict(plain)

    def __getitem__(self, name: str) -> Defense:
        plain, bracket, _ = str(name).partition("(")
        if not bracket:
            return self._plain[name]
        return configured(self._plain[plain], settings_of(name))

    def __setitem__(self, name: str, defense: Defense) -> None:
        self._plain[name] = defense

    def __delitem__(self, name: str) -> None:
        del self._plain[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._plain)

    def __len__(self) -> int:
        return len(self._plain)


def settings_of(name: str) -> dict[str, Any]:
    """Return the settings in the name of a defense.

    Raises
    ------
    BadInput
        If they are not written like the keyword arguments of a call with literal values.

    Examples
    --------
    >>> settings_of("dpa(k=7)")
    {'k': 7}
    """
    try:
        call = ast.parse(name, mode="eval").body
        if not isinstance(call, ast.Call) or call.args or any(keyword.arg is None for keyword in call.keywords):
            raise ValueError
        return {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError):
        raise BadInput(
            f"the defense {name!r} cannot be read; write settings as in dpa(k=7), with numbers or quoted texts"
        ) from None


def configured(defense: Defense, settings: Mapping[str, Any]) -> Defense:
    """Return a defense with other settings; it keeps its attributes, such as `needs`.

    Raises
    ------
    BadInput
        If the defense has no such setting.
    """
    name = getattr(defense, "__name__", str(defense))
    allowed = [each for each in inspect.signature(defense).parameters if each not in PARAMETERS]
    for setting in settings:
        if setting not in allowed:
            raise BadInput(f"{name} has no setting {setting!r}; it has {', '.join(allowed) or 'none'}")
    return update_wrapper(partial(defense, **settings), defense)
