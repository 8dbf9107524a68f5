"""What installed packages declare for this one: defenses, attacks, victims and data sets, as entry points.

A package writes, for example in its `pyproject.toml`:

    [project.entry-points."subpop.defenses"]
    my_filter = "my_package.filters:my_filter"
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points

from subpop.types import BadInput
from subpop.types.base import nearest

GROUPS = {
    "defense": "subpop.defenses",
    "attack": "subpop.attacks",
    "victim": "subpop.victims",
    "data set": "subpop.datasets",
}
"""The group of entry points of each kind."""
_NAME_AND_CALL = re.compile(r"(?P<name>[^\W\d][\w.\-]*)(?P<call>\(.*\))?", re.DOTALL)
_OR_FILE = ", or write path.py:name or package.module:name"
_REFERENCE = re.compile(r"[^\W\d][\w.]*:[^\W\d]\w*")


@dataclass(frozen=True)
class Declared:
    """A name that an installed package declares."""

    name: str
    reference: str
    """`package.module:name`."""
    package: str
    """The package and its version."""


def declared(noun: str) -> list[Declared]:
    """What packages declare of a kind, by name. noun: one of `GROUPS`."""
    found = {
        Declared(each.name, each.value.partition("[")[0].strip(), f"{each.dist.name} {each.dist.version}" if each.dist else "")
        for each in entry_points(group=GROUPS[noun])
    }
    return sorted(found, key=lambda each: (each.name, each.package))


def looked_up(text: str, noun: str, option: str, is_built_in: Callable[[str], bool]) -> tuple[str, str]:
    """The reference of a name that a package declares, with the arguments after it, and the name with these arguments.

    Any other text is returned as it is, with an empty name. option: the beginning of messages, such as `--defense `.

    Raises
    ------
    BadInput
        If packages declare other names only, or two of them this one, or it is a built-in one, or its reference is none.
    """
    found = _NAME_AND_CALL.fullmatch(text)
    named = [each for each in declared(noun) if found is not None and each.name == found["name"]]
    if found is None or not named:
        others = [each.name for each in declared(noun)]
        if found is not None and others and not is_built_in(found["name"]):
            raise BadInput(f"{option}{text!r} is declared by no installed package; {nearest(found['name'], others, _OR_FILE)}")
        return text, ""
    first, *also = named
    call = found["call"] or ""
    if also:
        packages = " and ".join(each.package for each in named)
        raise BadInput(
            f"{option}{text!r}: {packages} both declare this {noun}; write {first.reference}{call}, or that of the other"
        )
    if is_built_in(first.name):
        raise BadInput(
            f"{option}{text!r}: {first.package} declares a {noun} with the name of a built-in one; write "
            f"{first.reference}{call}, and ask its authors for another name"
        )
    if not _REFERENCE.fullmatch(first.reference):
        raise BadInput(
            f"{option}{text!r}: {first.package} declares it as {first.reference!r}, which is not of the form package.module:name"
        )
    return first.reference + call, first.name + call
