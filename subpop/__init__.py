"""A pytest benchmark for subpopulation data poisoning.

Importing this package is cheap: each public name is loaded from its module when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from subpop.attacks import ATTACKS, Poison, label_flip
    from subpop.datasets import DATASETS, MissingData, load_dataset
    from subpop.datasets.partitions import cluster_match, feature_match
    from subpop.defenses import DEFENSES
    from subpop.defenses.fits import fit_all
    from subpop.results.frames import load_results
    from subpop.results.metrics import Damage, RightBits, Worst, damage, worst_k
    from subpop.session.api import Results, measure
    from subpop.types import (
        AttackSample,
        BadInput,
        Cell,
        Certificate,
        ChannelModel,
        Dataset,
        Defended,
        Defense,
        Fit,
        FleetJob,
        Knowledge,
        Model,
        Partition,
        Pool,
        Splits,
        StoredModel,
        TrainingSet,
        Victim,
    )
    from subpop.types.grid import grid
    from subpop.victims import VICTIMS, SklearnVictim, make_victim

__version__ = "0.1.0"

_MODULES = {
    "attacks": ("ATTACKS", "Poison", "label_flip"),
    "datasets": ("DATASETS", "MissingData", "load_dataset"),
    "defenses": ("DEFENSES",),
    "defenses.fits": ("fit_all",),
    "results.frames": ("load_results",),
    "session.api": ("Results", "measure"),
    "results.metrics": ("Damage", "RightBits", "Worst", "damage", "worst_k"),
    "datasets.partitions": ("cluster_match", "feature_match"),
    "types": (
        *(
            "AttackSample",
            "BadInput",
            "Cell",
            "Certificate",
            "ChannelModel",
            "Dataset",
            "Defended",
            "Defense",
            "Fit",
            "FleetJob",
            "Knowledge",
            "Model",
        ),
        *("Partition", "Pool", "Splits", "StoredModel", "TrainingSet", "Victim"),
    ),
    "types.grid": ("grid",),
    "victims": ("VICTIMS", "SklearnVictim", "make_victim"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "ATTACKS",
    "DATASETS",
    "DEFENSES",
    "VICTIMS",
    "AttackSample",
    "BadInput",
    "Cell",
    "Certificate",
    "ChannelModel",
    "Damage",
    "Dataset",
    "Defended",
    "Defense",
    "Fit",
    "FleetJob",
    "Knowledge",
    "MissingData",
    "Model",
    "Partition",
    "Poison",
    "Pool",
    "Results",
    "RightBits",
    "SklearnVictim",
    "Splits",
    "StoredModel",
    "TrainingSet",
    "Victim",
    "Worst",
    "cluster_match",
    "damage",
    "feature_match",
    "fit_all",
    "grid",
    "label_flip",
    "load_dataset",
    "load_results",
    "make_victim",
    "measure",
    "worst_k",
]


def __getattr__(name: str) -> Any:
    if name == "audit":  # a package that can be called
        return importlib.import_module("subpop.audit")
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"subpop.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module 'subpop' has no attribute {name!r}; it offers {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted([*(name for name in globals() if name.startswith("__")), *__all__])
