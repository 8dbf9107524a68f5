"""Defenses by name. `matched_random_filter` is a factory: one is made for each trial of a filter defense."""

from __future__ import annotations

from collections.abc import Mapping

from subpop.defenses.activation_clustering import activation_clustering, activation_clustering_as_released
from subpop.defenses.bagging import bagging
from subpop.defenses.chosen_penalty import chosen_penalty
from subpop.defenses.confident_learning import confident_learning
from subpop.defenses.configured import Defenses
from subpop.defenses.controls import drop_duplicates, matched_random_filter, none, perfect_filter, random_filter
from subpop.defenses.dpa import dpa
from subpop.defenses.fine_pruning import fine_pruning, fine_pruning_as_released
from subpop.defenses.finite_aggregation import finite_aggregation
from subpop.defenses.generalised_cross_entropy import generalised_cross_entropy
from subpop.defenses.holdout_influence import holdout_influence
from subpop.defenses.holdouts import holdout_only, train_and_holdout
from subpop.defenses.jtt import jtt
from subpop.defenses.kernel_svm import kernel_svm
from subpop.defenses.knn import deep_knn, knn_filter, knn_relabel
from subpop.defenses.label_flip_smoothing import label_flip_smoothing
from subpop.defenses.randeigen import randeigen
from subpop.defenses.random_subsample import random_subsample
from subpop.defenses.roni import group_roni, group_roni_with_holdout
from subpop.defenses.run_off_election import run_off_election
from subpop.defenses.sever import sever, sever_as_released, sever_per_label
from subpop.defenses.spectral_signatures import spectral_signatures, spectral_signatures_as_released
from subpop.defenses.training.co_teaching import co_teaching
from subpop.defenses.training.divide_mix import divide_mix
from subpop.defenses.training.epic import epic
from subpop.defenses.training.gradient_shaping import gradient_clipping, gradient_shaping
from subpop.defenses.training.group_dro import group_dro
from subpop.defenses.trim import trim
from subpop.types import Defense

_PLAIN: Mapping[str, Defense] = {
    "none": none,
    "perfect_filter": perfect_filter,
    "random_filter": random_filter,
    "drop_duplicates": drop_duplicates,
    "trim": trim,
    "sever": sever,
    "sever_per_label": sever_per_label,
    "sever_as_released": sever_as_released,
    "activation_clustering": activation_clustering,
    "activation_clustering_as_released": activation_clustering_as_released,
    "spectral_signatures": spectral_signatures,
    "spectral_signatures_as_released": spectral_signatures_as_released,
    "fine_pruning": fine_pruning,
    "fine_pruning_as_released": fine_pruning_as_released,
    "label_flip_smoothing": label_flip_smoothing,
    "jtt": jtt,
    "dpa": dpa,
    "knn_relabel": knn_relabel,
    "knn_filter": knn_filter,
    "deep_knn": deep_knn,
    "confident_learning": confident_learning,
    "randeigen": randeigen,
    "gradient_clipping": gradient_clipping,
    "gradient_shaping": gradient_shaping,
    "co_teaching": co_teaching,
    "group_dro": group_dro,
    "epic": epic,
    "divide_mix": divide_mix,
    "finite_aggregation": finite_aggregation,
    "run_off_election": run_off_election,
    "bagging": bagging,
    "group_roni": group_roni,
    "group_roni_with_holdout": group_roni_with_holdout,
    "holdout_influence": holdout_influence,
    "holdout_only": holdout_only,
    "train_and_holdout": train_and_holdout,
    "chosen_penalty": chosen_penalty,
    "generalised_cross_entropy": generalised_cross_entropy,
    "kernel_svm": kernel_svm,
    "random_subsample": random_subsample,
}
DEFENSES: Mapping[str, Defense] = Defenses(_PLAIN)
"""Every built-in defense by name. A name may be followed by settings of the defense, as in `dpa(k=7)`.

Examples
--------
>>> from subpop import DEFENSES
>>> DEFENSES["trim"].needs
{'n_poison'}
>>> DEFENSES["trim(max_rounds=3)"].keywords
{'max_rounds': 3}
"""

MATCHED = "matched_random_filter:"
"""Prefix of the control of a filter, followed by the filter's name."""
RETRAIN = "retrain"
"""The noise floor: the clean victim trained with another seed."""


def is_exact(name: str) -> bool:
    """Return whether the model of a defense is determined by its training set if that of the victim is."""
    return bool(getattr(DEFENSES.get(name), "exact", True))


def filter_of(defense: str) -> str:
    """The filter that a control is matched to; of any other defense, its own name."""
    return defense.removeprefix(MATCHED)


def is_built_in(name: str) -> bool:
    """Return whether a name belongs to a built-in defense or control."""
    return name in DEFENSES or name == RETRAIN or name.startswith(MATCHED)


__all__ = ["DEFENSES", "MATCHED", "RETRAIN", "filter_of", "is_built_in", "is_exact", "matched_random_filter"]
