"""What a cell measures, as typed specifications: its data, subpopulations, attack, victim, defender and kind of measurement.

Each specification is a frozen dataclass that validates its fields once, when it is built. A field may be given as its text in
a baseline file, such as `"0.25"`, and is converted to its type. `subpop.types.Cell` combines one specification of each sort.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from importlib import import_module
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from subpop.types.base import BadInput

Sampling = Literal["with_replacement", "distinct"]
LabelRule = Literal["own", "common", "rarest"]
AlphaBase = Literal["aux", "train"]
AttackedBy = Literal["least_confident", "low_middle_high"]
Budget = Literal["exact", "half", "twice"]
GroupsTold = Literal["target", "superset", "unrelated"]
Worlds = Literal["independent", "paired"]
MarginRows = Literal["margin_less_1", "margin", "margin_plus_1"]
Equal = Literal["epochs", "loss"]
AuxGroups = Literal["frozen", "derived"]

LARGEST_WHOLE = 999_999_999


LATER: Mapping[str, Any] = {"later": True}
"""Metadata of a field that is newer than stored results: while it has its default, no hash contains it."""


def _whole(default: int | None, least: int = 0) -> Any:
    return field(default=default, metadata={"least": least})


def between(default: float | None, above: float, below: float, example: str) -> Any:
    """A field that holds a number between two bounds; example: one that is allowed, for messages."""
    return field(default=default, metadata={"above": above, "below": below, "example": example})


@dataclass(frozen=True)
class Specification:
    """Base of all specifications.

    Raises
    ------
    BadInput
        If a field has a value that its type or range does not allow.
    """

    enters_draws: ClassVar[bool] = True
    """Whether cells that differ in this specification alone draw different poison."""

    def __post_init__(self) -> None:
        for each in fields(self):
            if each.name != "name":
                value = _checked(each.name, _types(self.__class__)[each.name], getattr(self, each.name), each.metadata)
                object.__setattr__(self, each.name, value)

    @classmethod
    def settings(cls) -> tuple[str, ...]:
        """Names of the fields that a cell can set."""
        return tuple(each.name for each in fields(cls) if each.name != "name")

    def text(self, name: str) -> str:
        """The value of a field as baseline files write it."""
        return text_of(getattr(self, name))


@dataclass(frozen=True)
class Data(Specification):
    """A data set and how it is split."""

    name: str = ""
    """A name of `subpop.datasets.DATASETS`, or a user's own data as `kind:PATH`."""
    protocol: str = "default"
    """How D, D_aux and D_test are drawn."""
    split: int = _whole(0)
    """Seed of the split."""


@dataclass(frozen=True)
class Subpopulations(Specification):
    """How rows are divided into subpopulations, and which of these are attacked."""

    name: str = ""
    """A name of `subpop.datasets.partitions.PARTITIONS`, or `none`."""
    clusters_on: str = "inputs"
    """What ClusterMatch clusters: the inputs, hidden states, the features of a network, or those of a victim trained on D_aux."""
    partition_seed: int = _whole(0)
    n_attacked: int | None = _whole(None, 1)
    """How many subpopulations are attacked; None for all that are large enough."""
    attacked_by: AttackedBy = "least_confident"
    """Which ones, by the mean confidence of the attacker's model in their rows of D_aux."""
    grouped_by: str = field(default="", metadata=LATER)
    """The annotations that FeatureMatch matches, separated by commas; empty for all of the data set."""


@dataclass(frozen=True)
class LabelFlip(Specification):
    """Poison rows are members of the subpopulation in D_aux with another label."""

    name: str = "label_flip"
    label_rule: LabelRule | None = None
    """None flips own labels if there are two classes, and otherwise gives all rows one common label."""
    sampling: Sampling = "with_replacement"
    alpha_base: AlphaBase = "aux"
    """Whether alpha counts rows of the subpopulation in D_aux, which an attacker can see, or in D."""
    aux_share: float = field(default=1.0, metadata={**LATER, "above": 0, "most": 1, "example": "0.5"})
    """The share of D_aux that the attacker sees. Subpopulations and numbers of poison rows are those of all of D_aux."""
    aux_groups: AuxGroups = field(default="frozen", metadata=LATER)
    """Whether the attacker knows which of the rows that it sees are in the subpopulation, or derives clusters from them."""

    shares_draws: ClassVar[bool] = False
    """Whether a trial uses the seeds of label flipping, so that both are compared trial by trial."""
    moves_rows: ClassVar[bool] = False
    """Whether the attack changes inputs of rows by the gradients of the attacker's model."""
    asks_model: ClassVar[bool] = False
    """Whether predictions of the attacker's model decide which rows become poison."""
    asks_defense: ClassVar[bool] = False
    """Whether the attacker trains the cell's defense on rows of his own, so that the poison depends on the defense."""
    feasible: ClassVar[str] = "rows of the subpopulation in D_aux with another label"
    """What poison may be. Attacks are compared only if this is the same, and with equally many rows."""


@dataclass(frozen=True)
class Learner(Specification):
    """A victim and how it reads texts."""

    name: str = ""
    """A name of `subpop.victims.VICTIMS`, or a scikit-learn class as `module:Class`."""
    encoder: str = ""
    """Encoder of a text victim, by name or folder; empty for the victim's own."""
    max_length: int | None = _whole(None, 1)
    """Tokens in a row; None for the victim's own."""

    enters_draws: ClassVar[bool] = False


@dataclass(frozen=True)
class Defender(Specification):
    """A defense and its side information."""

    name: str = "none"
    n_poison_told: Budget = "exact"
    """The number of poison rows that a defense which needs it is given, relative to the true number."""
    holdout: float | None = between(None, 0, 1, "0.05")
    """Share of the test rows, none of them in the subpopulation, that a defense which needs it is given as clean data."""
    groups_told: GroupsTold = field(default="target", metadata=LATER)
    """What group 1 is, for a defense that needs the groups of rows: the attacked subpopulation, that one with every second other
    subpopulation, or the next subpopulation alone."""

    enters_draws: ClassVar[bool] = False


@dataclass(frozen=True)
class Measurement(Specification):
    """What is computed from the trials of a cell."""

    ranked_by: str = ""
    """Defense whose damages rank the subpopulations; empty for the cell's own."""
    panels: bool = False
    """Whether the rows and a grid of predictions are stored for drawing; 2-D data only."""

    enters_draws: ClassVar[bool] = False


@dataclass(frozen=True)
class TwoWorlds(Specification):
    """A point of a curve of damages over alpha, or a pair of worlds that have the same training sets."""

    worlds: Worlds | None = None
    """How the training sets of two worlds are drawn; None for a point of a curve."""
    rows: MarginRows | None = None
    """Number of poison rows of a point relative to the margin of the subpopulation; None for the cell's rate."""
    told: Literal["target"] | None = None
    """Whether the defender's clean rows include rows of the subpopulation."""
    target: str = ""
    """The subpopulation; empty for the first that is attacked."""
    clean_rows: int = _whole(16, 1)
    """Clean rows of the subpopulation in either world."""


@dataclass(frozen=True)
class Speed(Specification):
    """A comparison of running times."""

    against: str = ""
    """The implementation that ours is compared with."""


@dataclass(frozen=True)
class Capacity(Specification):
    """A comparison of networks of several widths."""

    equal: Equal = "epochs"
    """What is the same for all widths: the number of epochs, or the training loss on clean data."""

    enters_draws: ClassVar[bool] = False


MEASUREMENTS: Mapping[str, type[Specification]] = {
    "width": Capacity,
    "two_worlds": TwoWorlds,
    "speed": Speed,
    "clusters": Specification,
    "target_sets": Specification,
}
"""The specification of each kind of cell with settings of its own; other kinds have those of `Measurement`."""


@cache
def attack_specification(name: str) -> type[LabelFlip]:
    """The settings of the attack of that name: `S` if its function takes an `AttackTask[S]`."""
    make = import_module("subpop.attacks").ATTACKS.get(name)
    return LabelFlip if make is None else _settings_of(make)


def _settings_of(attack: Callable[..., Any]) -> type[LabelFlip]:
    hints = get_type_hints(attack)
    hints.pop("return", None)
    given = get_args(next(iter(hints.values()), None))
    return given[0] if given else LabelFlip


def measurement_specification(kind: str) -> type[Specification]:
    """The specification of measurements of that kind."""
    return MEASUREMENTS.get(kind, Measurement)


def all_settings() -> tuple[str, ...]:
    """Names of all settings that any cell can have."""
    attacks = map(_settings_of, import_module("subpop.attacks").ATTACKS.values())
    registered: list[type[Specification]] = [*attacks, *MEASUREMENTS.values()]
    every: list[type[Specification]] = [Data, Subpopulations, LabelFlip, Learner, Defender, Measurement, *registered]
    return tuple(dict.fromkeys(name for each in every for name in each.settings()))


# --- values -----------------------------------------------------------------------------------------------------------


def text_of(value: object) -> str:
    """A value as baseline files and test ids write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def _types(kind: Any) -> dict[str, Any]:
    return _hints(kind)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _checked(name: str, kind: Any, value: object, metadata: Mapping[str, Any]) -> object:
    """The value of a field, converted to its type; raises BadInput where that cannot be."""
    allowed = [each for each in get_args(kind) if each is not type(None)] if type(None) in get_args(kind) else [kind]
    if value is None and type(None) in get_args(kind):
        return None
    kind = allowed[0]
    if get_origin(kind) is Literal:
        return _choice(name, value, get_args(kind))
    if kind is bool:
        return _choice(name, text_of(value), ("yes", "no")) == "yes"
    if kind is int:
        return _whole_number(name, value, metadata["least"])
    if kind is float:
        return _number(name, value, metadata)
    return _text(name, value)


def _text(name: str, value: object) -> str:
    """A text that can be written into a row of a baseline, `name=value;name=value`, in one way only."""
    text = str(value)
    if ";" in text or not text.isprintable():
        raise BadInput(
            f"{name}={text!r} may contain any printable characters but ';', which separates settings in a baseline; use another "
            "name, such as that of a link to the file or folder"
        )
    return text


def _choice(name: str, value: object, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise BadInput(f"{name}={value} is unknown; use {'one of ' * (len(allowed) > 1)}{', '.join(allowed)}")
    return str(value)


def _whole_number(name: str, value: object, least: int) -> int:
    text = str(value)
    if not re.fullmatch("[0-9]{1,9}", text) or int(text) < least:  # str.isdigit accepts superscripts too
        raise BadInput(f"{name}={text} must be a whole number of at least {least} and at most {LARGEST_WHOLE}")
    return int(text)


def _number(name: str, value: object, metadata: Mapping[str, Any]) -> float:
    """A number above `above`, and either below `below` or at most `most`."""
    try:
        number = float(text_of(float(str(value))))  # as baseline files write it, so that a cell read from its row is the same
    except ValueError:
        number = math.nan
    above, below, most = metadata["above"], metadata.get("below", math.inf), metadata.get("most", math.inf)
    if not (above < number < below and number <= most):
        upper = f" and at most {most:g}" if math.isfinite(most) else f" and below {below:g}" if math.isfinite(below) else ""
        raise BadInput(f"{name}={value} must be a number above {above:g}{upper}, such as {metadata['example']}")
    return number
