"""Names that installed packages declare, for user-supplied defenses, attacks, victims and data sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from subpop.harness.plugins import Spec, parse_plugin
from subpop.runtime.declared import GROUPS, declared, looked_up


def built_in(noun: str) -> Callable[[str], bool]:
    """Tells whether this package has a defense, attack, victim or data set of a name."""
    if noun == "defense":
        from subpop.defenses import is_built_in

        return is_built_in
    return _registry(noun).__contains__


def _registry(noun: str) -> Mapping[str, object]:
    from subpop.attacks import ATTACKS
    from subpop.datasets import DATASETS
    from subpop.defenses import DEFENSES
    from subpop.victims import VICTIMS

    return {"defense": DEFENSES, "attack": ATTACKS, "victim": VICTIMS, "data set": DATASETS}[noun]


def parse_given(kind: type[Spec], text: str, base_dir: Path, option: str | None = None) -> Spec:
    """Find a plug-in without importing it: by a path, a module, or a name that an installed package declares.

    Raises
    ------
    BadInput
        If there is none; its message begins with `option`, by default that of the kind.
    """
    option = kind.role.option if option is None else option
    reference, name = looked_up(text, kind.role.noun, option, built_in(kind.role.noun))
    spec = parse_plugin(kind, reference, base_dir, option)
    return replace(spec, name=name) if name else spec


def given_victim(text: str, option: str) -> str:
    """The name of a victim in cells, of a path, a module, or a name that an installed package declares."""
    from subpop.victims.user_objects import checked_name

    return checked_name(looked_up(text, "victim", option, built_in("victim"))[0], option)


def rows(noun: str | None) -> list[tuple[str, str, str, str]]:
    """(kind, name, where it comes from, what to write) of everything, or of one kind: built-in names first."""
    found = []
    for each in GROUPS if noun is None else [noun]:
        found += [(each, name, "built in", name) for name in _registry(each)]
        for entry in declared(each):
            refused = built_in(each)(entry.name) or [other.name for other in declared(each)].count(entry.name) > 1
            found.append((each, entry.name, entry.package, entry.reference if refused else entry.name))
    return found
