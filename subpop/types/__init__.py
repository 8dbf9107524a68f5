"""The basic types of the project: data, what a defense receives, and results.

Everything here is plain data or a Protocol; nothing trains. Row numbers of a `Pool` would distinguish poison from clean rows
(poison comes from D_aux), so a defense receives a `TrainingSet` and never a `Pool` or a `FleetJob`.
"""

from subpop.types.base import Array, BadInput, Bools, Floats, Ints, Setting, Unsolved
from subpop.types.cell import Cell
from subpop.types.data import Dataset, Partition, Splits
from subpop.types.results import (
    CAN_COUNT,
    KEEP_UNCHECKED,
    OWN_LEARNER,
    VERDICTS,
    CellReport,
    CellResult,
    LeftOut,
    Number,
    Provenance,
    Trial,
    TrialResult,
    Verdict,
)
from subpop.types.roles import (
    GRANTED,
    AttackSample,
    Certificate,
    ChannelModel,
    Defended,
    Defense,
    Fit,
    Knowledge,
    Model,
    StoredModel,
    Victim,
)
from subpop.types.rows import ArrayRows, FleetJob, Pool, RowSource, TrainingSet, content_order

__all__ = [
    "GRANTED",
    "Array",
    "BadInput",
    "Bools",
    "Floats",
    "Ints",
    "Setting",
    "Unsolved",
    "ArrayRows",
    "FleetJob",
    "Pool",
    "RowSource",
    "TrainingSet",
    "content_order",
    "AttackSample",
    "Certificate",
    "ChannelModel",
    "Defended",
    "Defense",
    "Fit",
    "Knowledge",
    "Model",
    "StoredModel",
    "Victim",
    "Dataset",
    "Partition",
    "Splits",
    "Cell",
    "CellReport",
    "CellResult",
    "LeftOut",
    "Number",
    "Provenance",
    "Trial",
    "TrialResult",
    "KEEP_UNCHECKED",
    "OWN_LEARNER",
    "CAN_COUNT",
    "VERDICTS",
    "Verdict",
]
