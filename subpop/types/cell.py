"""The unit of measurement: a cell, which combines typed specifications and is named by its row in a baseline file."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from functools import cached_property
from typing import Any

from subpop.types.base import BadInput, Setting
from subpop.types.specifications import (
    Data,
    Defender,
    LabelFlip,
    Learner,
    Measurement,
    Specification,
    Speed,
    Subpopulations,
    TwoWorlds,
    all_settings,
    attack_specification,
    measurement_specification,
    text_of,
)

LARGEST_RATE = 100.0
NAMES = ("stem", "tier", "dataset", "victim", "partition", "attack", "rate", "defense", "n_seeds", "kind")
"""Names of the fields that every cell has, as suites write them; all others are settings."""


def _name_of(specification: str) -> Any:
    """A field that holds the name in a specification of the cell."""
    return field(init=False, repr=False, compare=False, metadata={"of": specification})


@dataclass(frozen=True)
class Cell:
    """One experiment of a suite: a data set, victim, attack, rate and defense, measured on all subpopulations and seeds.

    Use `grid` or `Cell.of` to build cells from names.

    Raises
    ------
    BadInput
        If the rate or the number of seeds is out of range.

    Examples
    --------
    >>> from subpop import Cell
    >>> cell = Cell.of("mine", "embedded", "digits", "mlp", "feature_match", rate=1.0, sampling="distinct")
    >>> cell.poisoning.sampling, cell.setting_text, cell.with_(rate=2.0).rate
    ('distinct', 'sampling=distinct', 2.0)
    """

    stem: str
    """The suite: `benchmarks/test_<stem>.py`, `baselines/<stem>.csv`, `reports/<stem>.md`."""
    tier: str
    """`embedded`, `laptop` or `paper`."""
    data: Data
    """The data set and its split."""
    subpopulations: Subpopulations
    """How rows are divided, and which subpopulations are attacked."""
    poisoning: LabelFlip
    """The attack with its settings."""
    rate: float
    """alpha: poison rows for each row of the subpopulation."""
    learner: Learner
    """The victim with its settings."""
    defender: Defender
    """The defense with its side information."""
    measurement: Specification
    """Settings of the kind of measurement."""
    n_seeds: int = 5
    """Number of poison draws; a victim is trained on each of them."""
    kind: str = "poisoning"
    """How the cell is measured and shown: a name of `subpop.types.kinds.KINDS`."""
    named: tuple[str, ...] = ()
    """Names of the settings that the suite gives explicitly, sorted. They identify the cell in baseline files and determine its
    random draws; a setting that is left at its default does neither."""
    dataset: str = _name_of("data")
    """Name of the data set."""
    partition: str = _name_of("subpopulations")
    """Name of the partition into subpopulations."""
    attack: str = _name_of("poisoning")
    """Name of the attack."""
    victim: str = _name_of("learner")
    """Name of the victim."""
    defense: str = _name_of("defender")
    """Name of the defense."""

    def __post_init__(self) -> None:
        for each in fields(self):
            if "of" in each.metadata:
                object.__setattr__(self, each.name, getattr(self, each.metadata["of"]).name)
        for name in (each for each in NAMES if each not in ("rate", "n_seeds")):
            if not isinstance(getattr(self, name), str):
                raise BadInput(
                    f"{name}={getattr(self, name)!r} must be a string; grid takes a list of strings for several values"
                )
        object.__setattr__(self, "rate", _number(self.rate))
        if not (math.isfinite(self.rate) and 0 <= self.rate <= LARGEST_RATE):
            raise BadInput(
                f"rate={self.rate:g} must be finite, at least 0 and at most {LARGEST_RATE:g}: it is the number of poison rows "
                "per row of the subpopulation in D_aux"
            )
        if not isinstance(self.n_seeds, int) or isinstance(self.n_seeds, bool) or self.n_seeds < 1:
            raise BadInput(f"n_seeds={self.n_seeds} must be a whole number of at least 1")

    def __hash__(self) -> int:
        if "_hash" not in self.__dict__:  # cells are looked up hundreds of thousands of times in a session
            object.__setattr__(self, "_hash", hash(tuple(getattr(self, each.name) for each in fields(self) if each.compare)))
        return int(self.__dict__["_hash"])

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_hash"}  # which differs between processes

    @classmethod
    def of(
        cls,
        stem: str = "",
        tier: str = "",
        dataset: str = "",
        victim: str = "",
        partition: str = "",
        attack: str = "label_flip",
        rate: float = 0.0,
        defense: str = "none",
        *,
        n_seeds: int = 5,
        kind: str = "poisoning",
        **settings: Any,
    ) -> Cell:
        """Build a cell from names.

        Parameters
        ----------
        stem, tier, dataset, victim, partition, attack, defense
            Names, as suites and baselines write them.
        rate
            alpha: poison rows for each row of the subpopulation.
        n_seeds
            Number of poison draws.
        kind
            How the cell is measured, such as `poisoning` or `speed`.
        **settings
            Fields of the cell's specifications by name, such as `split=1`; None means the default.

        Returns
        -------
        Cell
            The cell.

        Raises
        ------
        BadInput
            If a setting is unknown, does not belong to this attack or kind of cell, or has a value that is not allowed.
        """
        given = {name: value for name, value in settings.items() if value is not None}
        parts: dict[str, tuple[type[Any], str | None]] = {
            "data": (Data, dataset),
            "subpopulations": (Subpopulations, partition),
            "poisoning": (attack_specification(attack), attack),
            "learner": (Learner, victim),
            "defender": (Defender, defense),
            "measurement": (measurement_specification(kind), None),
        }
        built: dict[str, Any] = {}
        for field_name, (specification, name) in parts.items():
            own = {each: given[each] for each in specification.settings() if each in given}
            built[field_name] = specification(**own) if name is None else specification(name=name, **own)
        known = {each for specification, _ in parts.values() for each in specification.settings()}
        for name in given:
            if name not in known:
                raise BadInput(_unknown(name, given[name], attack, kind, known))
        return cls(stem, tier, rate=rate, n_seeds=n_seeds, kind=kind, named=tuple(sorted(given)), **built)

    # --- names --------------------------------------------------------------------------------------------------------

    @cached_property
    def id(self) -> str:
        """The id of the cell's test; all its characters are accepted by pytest's `-k`.

        `feature_match` is shortened to `feature`, so that `-k feature_match` selects the suite of that name only.
        """
        partition = self.partition.removesuffix("_match")
        parts = [self.tier, self.dataset, self.victim, partition, self.attack, f"{self.rate:g}", self.defense]
        return re.sub(r"[^\w:+\-./]", "_", "-".join([*parts, *(f"{name}:{value}" for name, value in self.setting)]))

    # --- settings -----------------------------------------------------------------------------------------------------

    @cached_property
    def setting(self) -> Setting:
        """The settings that the suite gives explicitly, as (name, text) pairs sorted by name."""
        return self.setting_of(*self.specifications)

    @property
    def specifications(self) -> tuple[Specification, ...]:
        """The specifications of data, subpopulations, attack, victim, defense and measurement."""
        return self.data, self.subpopulations, self.poisoning, self.learner, self.defender, self.measurement

    def setting_of(self, *specifications: Specification) -> Setting:
        """Return the explicitly given settings of some specifications.

        Parameters
        ----------
        *specifications
            Specifications of the cell.

        Returns
        -------
        tuple
            (name, text) pairs, sorted by name.
        """
        texts = {name: each.text(name) for each in specifications for name in each.settings() if name in self.named}
        return tuple(sorted(texts.items()))

    @cached_property
    def setting_text(self) -> str:
        """`name=value;...`, as baselines and reports write it."""
        return ";".join(f"{name}={value}" for name, value in self.setting)

    def option(self, name: str, default: str = "") -> str:
        """Return the text of a setting that the suite gives explicitly, for keys and tables.

        Parameters
        ----------
        name
            Name of the setting.
        default
            Returned if the suite does not give the setting.

        Returns
        -------
        str
            The text.
        """
        return dict(self.setting).get(name, default)

    @property
    def two_worlds(self) -> TwoWorlds:
        """Settings of a cell of kind `two_worlds`; of other kinds, the defaults."""
        return self.measurement if isinstance(self.measurement, TwoWorlds) else TwoWorlds()

    @property
    def speed(self) -> Speed:
        """Settings of a cell of kind `speed`; of other kinds, the defaults."""
        return self.measurement if isinstance(self.measurement, Speed) else Speed()

    @property
    def ranked_by(self) -> str:
        """The defense whose damages rank the cell's subpopulations."""
        return getattr(self.measurement, "ranked_by", "") or self.defense

    @cached_property
    def panels(self) -> bool:
        """Whether rows and predictions are stored for drawing."""
        return isinstance(self.measurement, Measurement) and self.measurement.panels

    @property
    def epsilon(self) -> float | None:
        """Largest change of an input of a poison row, in 8-bit levels; None if unlimited or if the attack changes no inputs."""
        return getattr(self.poisoning, "epsilon", None)

    # --- other cells --------------------------------------------------------------------------------------------------

    def with_(self, **changes: Any) -> Cell:
        """Return a copy of the cell with some names or settings changed.

        Parameters
        ----------
        **changes
            The new names or settings; None restores the default of a setting.

        Returns
        -------
        Cell
            The changed copy.

        Raises
        ------
        BadInput
            If a name is unknown or a value is not allowed.
        """
        return Cell.of(**{**self.record(), **changes})

    def plain(self) -> Cell:
        """Return the corresponding cell of label flipping, with which the cell is compared trial by trial.

        Returns
        -------
        Cell
            The cell itself if its attack does not share the draws of label flipping.
        """
        if not self.poisoning.shares_draws:
            return self
        spared = {name: None for name in self.poisoning.settings() if name not in LabelFlip.settings()}
        return self.with_(attack="label_flip", **spared)

    def record(self) -> dict[str, Any]:
        """Return the names and settings of the cell.

        Returns
        -------
        dict
            Keyword arguments of `Cell.of`.
        """
        return {**{name: getattr(self, name) for name in NAMES}, **dict(self.setting)}

    def __lt__(self, other: Cell) -> bool:
        return self._order < other._order

    @cached_property
    def _order(self) -> tuple[Any, ...]:
        names = ("stem", "tier", "dataset", "victim", "partition", "attack", "rate", "defense", "setting", "n_seeds", "kind")
        return tuple(getattr(self, name) for name in names)


def _number(rate: Any) -> float:
    """A rate as a float, so that 1, 1.0 and "1", and 0.0 and -0.0, give equal cells with the same repr."""
    try:
        return float(rate) + 0.0
    except (TypeError, ValueError) as error:
        raise BadInput(f"rate={rate!r} must be a number, such as 0.5; grid takes a list of numbers for several values") from error


def _unknown(name: str, value: object, attack: str, kind: str, known: set[str]) -> str:
    what, allowed = f"{name}={text_of(value)}", ", ".join(sorted(known))
    if name in all_settings():
        return f"{what} does not apply to a cell of kind {kind} with attack {attack}; leave it out, or use one of {allowed}"
    near = get_close_matches(name, [*sorted(known), *NAMES], 1)
    return f"{what} is not a known setting; {f'did you mean {near[0]}?' if near else f'use one of {allowed}'}"
