"""What a caller of `subpop.measure` gives for the parts of a cell: names as suites write them, or Python objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from subpop.attacks import ATTACKS
from subpop.datasets import DATASETS
from subpop.defenses import DEFENSES, is_built_in
from subpop.experiments.context import Context
from subpop.harness.callables import spec_of
from subpop.harness.plugins import AttackSpec, DatasetSpec, DefenseSpec, Spec
from subpop.runtime.declared import declared
from subpop.runtime.output import to_terminal
from subpop.session.installed import built_in, given_victim, parse_given
from subpop.session.user_data import checked_dataset, dataset_of, is_of_loader, load_user_data
from subpop.types import BadInput, Cell, Dataset, Victim
from subpop.types.printable import printable
from subpop.victims import VICTIMS, SklearnVictim
from subpop.victims.identity import identity_of

LONGEST_NAME = 60


@dataclass
class Given:
    """The objects that were given, by the names that their cells have."""

    data: dict[str, Dataset] = field(default_factory=dict)
    victims: dict[str, tuple[Victim, str | None]] = field(default_factory=dict)
    defenses: dict[str, DefenseSpec] = field(default_factory=dict)
    attacks: dict[str, AttackSpec] = field(default_factory=dict)

    def dataset(self, given: Any) -> str:
        """The name of a data set; `given`: a name, `path.py:function`, or data in one of the forms of `user_data.FORMS`."""
        if isinstance(given, str) and not is_of_loader(given) and not _is_declared(given, "data set"):
            return given
        if isinstance(given, str):
            made = load_user_data(parse_given(DatasetSpec, given, Path.cwd(), option="dataset="), listener=to_terminal)
        else:
            made = checked_dataset(dataset_of(given))
        name = _new(made.name, {*DATASETS, *self.data})
        self.data[name] = replace(made, name=name)
        return name

    def victim(self, given: Any) -> str:
        """The name of a victim; `given`: a name, a scikit-learn estimator, its class, a function that makes one, or a Victim."""
        if isinstance(given, str):
            return given_victim(given, "victim=") if _is_declared(given, "victim") else given
        made, identity = (given, None) if hasattr(given, "fit_many") else _estimator(given)
        text = getattr(given, "__name__", None) or (type(given).__name__ if hasattr(given, "fit_many") else str(given))
        name = _new(text, {*VICTIMS, *self.victims})
        self.victims[name] = made, identity
        return name

    def defense(self, given: Any) -> str:
        """The name of a defense; `given`: a name, `path.py:function`, a function or None."""
        if given is None or (isinstance(given, str) and is_built_in(given)):
            return given or "none"
        return _plugin(DefenseSpec, given, DEFENSES, self.defenses)

    def attack(self, given: Any) -> str:
        """The name of an attack; `given`: a name, `path.py:function` or a function."""
        return _plugin(AttackSpec, given, ATTACKS, self.attacks)

    def supply(self, context: Context, cells: Iterable[Cell]) -> None:
        """Let the context have the data and the victims under the names in the cells."""
        for cell in cells:
            if cell.dataset in self.data:
                context.supply(cell, self.data[cell.dataset])
        for learner, cell in {cell.learner: cell for cell in cells}.items():
            if learner.name in self.victims:
                context.supply_victim(cell, *self.victims[learner.name])


def _is_declared(name: str, noun: str) -> bool:
    """Whether an installed package declares this name, with arguments or without."""
    word = name.partition("(")[0]
    return not built_in(noun)(word) and any(each.name == word for each in declared(noun))


def _new(text: str, known: Iterable[str]) -> str:
    """A name that is not known yet, and that a cell can have."""
    plain = " ".join(printable(text).replace(";", ",").split()) or "own"
    name = plain if len(plain) <= LONGEST_NAME else plain[: LONGEST_NAME - 1] + "…"
    taken, number, found = set(known), 2, name
    while found in taken or is_built_in(found):
        found, number = f"{name} {number}", number + 1
    return found


def _plugin(kind: type[Spec], given: Any, registered: Mapping[str, object], own: dict[str, Spec]) -> str:
    """The name of a plug-in that is given as text or as a function; it is added to `own`."""
    noun = kind.role.noun
    if isinstance(given, str):
        if ":" not in given and not _is_declared(given, noun):
            return given
        spec = parse_given(kind, given, Path.cwd(), option=f"{noun}=")
    elif not callable(given):
        raise BadInput(f"{noun}={given!r} is {type(given).__name__}; give a name, path.py:function or a function")
    else:
        built_in = next((name for name, each in registered.items() if each is given), None)
        if built_in is not None:
            return built_in
        spec = spec_of(kind, given)
    same = next((name for name, each in own.items() if replace(each, name=spec.name) == spec), None)
    if same is not None:
        return same
    name = _new(spec.name, {*registered, *own, "none"})
    own[name] = replace(spec, name=name)
    return name


def _estimator(given: Any) -> tuple[Victim, str | None]:
    victim = SklearnVictim(given)
    return victim, identity_of(victim.template)
