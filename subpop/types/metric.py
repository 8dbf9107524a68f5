"""An entry of the metric registry, `subpop.results.metric_registry`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class Unit(Enum):
    """The unit of a metric, which determines how its values are printed."""

    FRACTION = "fraction"
    """Printed in percent."""
    PROBABILITY = "probability"
    """Printed between 0 and 1, as theorems and released logs state it."""
    COUNT = "count"
    SECONDS = "seconds"
    RATIO = "ratio"
    NUMBER = "number"
    """Any other number, printed unchanged."""


class Better(Enum):
    """Which direction is better for the victim and its defender."""

    LOWER = "lower"
    HIGHER = "higher"
    NEITHER = "neither"


class Tolerance(Enum):
    """How a number is compared with its stored reference; `subpop.results.references` sets and applies the tolerance itself."""

    ABSOLUTE = "absolute"
    """The difference is at most the recorded tolerance."""
    WORST_ROW = "worst row"
    """ABSOLUTE, and one test row of the smallest ranked subpopulation may flip, which changes a worst-k by 1/k of it."""
    WORST_ROW_OF_ALL = "worst row of all"
    """WORST_ROW, for rankings that include subpopulations with few test rows."""
    UPPER_BOUND = "upper bound"
    """The number is at most the recorded tolerance."""
    LOWER_BOUND = "lower bound"
    """The number is at least its reference, a bound that is edited manually."""
    TIMED = "timed"
    """Never compared and never recorded: it differs from run to run."""


@dataclass(frozen=True)
class Metric:
    """A metric, or a family of metrics whose name has parts in braces, such as `target_damage_worst_{k}`."""

    name: str
    """As in results.json and in the baselines."""
    unit: Unit
    title: str
    """A description; parts in braces are filled in."""
    better: Better = Better.NEITHER
    tolerance: Tolerance = Tolerance.ABSOLUTE
    column: str = ""
    """Heading of its column in the table of a set-up's cells; empty for a detail, which has no column there."""
    column_k: int = 0
    """The only k of a family for which there is a column; 0 for all."""
    subpopulation_column: str = ""
    """Heading of its column in the table of a cell's subpopulations; empty if it has none."""
    parts: tuple[str, ...] = ()
    """The metrics of which it is the sum."""
    gated: bool = False
    """Whether a number that is out of tolerance, or has no reference, fails its cell."""
    family: str = ""
    """Set by `metric_of`: the registered name, with its braces."""
    values: Mapping[str, str] = field(default_factory=dict)
    """Set by `metric_of`: the value of each part in braces."""

    @property
    def k(self) -> int:
        """The k of a worst-k; 0 for other metrics."""
        return int(self.values.get("k", 0))

    @property
    def is_recorded(self) -> bool:
        """Whether baselines contain references of it."""
        return self.gated and self.tolerance is not Tolerance.TIMED
