"""The wrong versions of the package that `mutants.py` measures, the cells that should notice them, and the placebos.

The number, its direction and the cell of each mutant were written down before it was measured. Predictions follow from what the
change does; those about penalties from scikit-learn, on draws of its own. Where a prediction failed, `why` says so.

`python tests/wrong_versions.py CELL ...` prints the numbers of cells as the package on the path makes them, a line of JSON each.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from subpop.datasets import load_dataset
from subpop.datasets.mixture import MixtureSpec, make_mixture
from subpop.types import Dataset, Defended, Fit, Knowledge, TrainingSet

REPETITIONS = 10
UP, DOWN, ANY = "up", "down", "any"

LINEAR = {"dataset": "mixture", "victim": "logistic_regression", "partition": "feature_match"}
DISTINCT = {"protocol": "reserve", "sampling": "distinct"}
LINE = {**LINEAR, "dataset": "mixture_2d"}
TREE = {**LINE, "victim": "sklearn.tree:DecisionTreeClassifier"}
DIGITS = {**LINEAR, "dataset": "digits", "victim": "last_layer"}
PRUNE = {**DIGITS, "rate": 1.0, "n_attacked": 2, "defense": "fine_pruning"}
SEEDS_OF = {
    "knn_relabel": 400,
    "deep_knn": 100,
    "generalised_cross_entropy": 60,
    "kernel_svm": 60,
    "group_roni(groups=10, repetitions=2)": 60,
    "holdout_influence": 150,
    "train_and_holdout": 60,
    "gradient_clipping": 100,
    "gradient_shaping": 50,
    "group_dro": 100,
    "co_teaching": 100,
}
CELLS: dict[str, dict[str, Any]] = {
    # 16 subpopulations of a mixture in 20 dimensions
    "linear": {**LINEAR, "rate": 1.0},
    "idle": {**LINEAR, "rate": 0.0},
    "double": {**LINEAR, "rate": 2.0, "n_seeds": 50},
    "classes": {**LINEAR, "dataset": "mixture_multiclass", "rate": 1.0},
    "clusters": {**LINEAR, "partition": "cluster_match", "rate": 1.0},
    "two_targets": {**LINEAR, "victim": "mlp", "rate": 1.0, "n_attacked": 2, "n_seeds": 50},
    "idle_network": {**LINEAR, "victim": "mlp", "rate": 0.0, "n_seeds": 200},
    "two_steps": {**LINEAR, "rate": 1.0, "defense": "in_two_steps"},
    **{
        name: {**LINEAR, "rate": 1.0, **DISTINCT, "defense": name}
        for name in ("trim", "sever", "spectral_signatures", "activation_clustering", "perfect_filter", "random_filter")
    },
    "rarest": {**LINEAR, "rate": 1.0, "label_rule": "rarest", "defense": "random_filter"},
    "few_filtered": {**LINEAR, "rate": 1.0, "defense": "perfect_filter", "n_attacked": 4, "n_seeds": 200},
    "certified_network": {
        **LINEAR,
        "victim": "mlp",
        "rate": 0.25,
        "defense": "label_flip_smoothing",
        "n_attacked": 2,
        "n_seeds": 100,
    },
    **{
        name.partition("(")[0]: {**LINEAR, "rate": 0.5, **DISTINCT, "defense": name, "n_seeds": SEEDS_OF.get(name, 20)}
        for name in (
            *("knn_relabel", "knn_filter", "deep_knn", "confident_learning", "randeigen", "jtt", "random_subsample"),
            *("generalised_cross_entropy", "kernel_svm", "chosen_penalty", "dpa(k=7)", "group_roni(groups=10, repetitions=2)"),
        )
    },
    **{
        name: {**LINEAR, "rate": 0.5, **DISTINCT, "defense": name, "holdout": 0.1, "n_seeds": SEEDS_OF.get(name, 20)}
        for name in ("holdout_influence", "holdout_only", "train_and_holdout")
    },
    **{
        name: {**LINEAR, "rate": 1.0, **DISTINCT, "defense": name, "n_attacked": 2, "n_seeds": SEEDS_OF[name]}
        for name in ("gradient_clipping", "gradient_shaping", "group_dro", "co_teaching")
    },
    "own_label": {**LINEAR, "attack": "own_label", "rate": 1.0},
    "scattered": {**LINEAR, "attack": "scattered_flips", "rate": 1.0},
    "neighbours": {**LINEAR, "attack": "near_neighbours", "rate": 0.5},
    "proportional": {**LINEAR, "attack": "proportional", "rate": 1.0},
    "targeted": {**LINEAR, "attack": "model_targeted", "rate": 0.5},
    # one subpopulation in two dimensions, which a line gets right as long as it is tilted
    "tilt": {**LINE, "rate": 0.5, "n_seeds": 400},
    "tilt_spectral": {**LINE, "rate": 1.0, **DISTINCT, "defense": "spectral_signatures"},
    "network": {**LINE, "victim": "mlp", "rate": 1.0, "n_seeds": 400},
    "tree": {**TREE, "rate": 1.0},
    "tree_distinct": {**TREE, "rate": 1.0, **DISTINCT, "n_seeds": 800},
    "certified": {**LINE, "rate": 0.25, "defense": "label_flip_smoothing", "n_seeds": 400},
    "ties": {**LINEAR, "rate": 0.2, "defense": "label_flip_smoothing", "n_seeds": 20},
    "moved": {**LINE, "attack": "influence", "rate": 0.5, "epsilon": 16},
    "moved_near": {**LINE, "attack": "gradient_match", "objective": "distance", "rate": 0.5, "epsilon": 16},
    # 8 subpopulations at the corners of a cube, which are hurt alike
    "cube": {**TREE, "dataset": "mixture_cells", "rate": 1.0, "n_seeds": 400},
    # 48 rows of D in 6 dimensions, where the penalty matters
    "few_rows": {**LINEAR, "rate": 2.0, "n_seeds": 600},
    "last_layer": {**LINEAR, "victim": "last_layer", "rate": 1.0, "n_seeds": 200},
    "last_layer_double": {**LINEAR, "victim": "last_layer", "rate": 2.0, "n_seeds": 300},
    # digits
    "components": {**DIGITS, "partition": "cluster_match", "rate": 1.0},
    "small_clusters": {**DIGITS, "partition": "cluster_match", "rate": 1.0, "protocol": "reserve", "n_seeds": 20},
    "fine_pruning": {**PRUNE, "holdout": 0.2},
    "large_holdout": {**PRUNE, "holdout": 0.5, "n_seeds": 800},
    "small_holdout": {**PRUNE, "holdout": 0.02, "n_seeds": 200},
}
"""The cells by name; ten repetitions share their seeds, 100 where a cell does not say."""


def _few_rows(scale: float) -> Dataset:
    spec = MixtureSpec(6, 4, 60, separability=4.0, label_noise=0.0, seed=5, classes=(0, 0, 0, 1))
    mixture = make_mixture(spec, "mixture")
    return replace(mixture, x=mixture.x * np.float32(scale), sizes=(48, 48))


def _ties() -> Dataset:
    """A group of one class beside a group of pairs with both labels, which no side of the split divides.

    D has 48 rows of the first group, so that a third of their number, 16 poison rows, leaves a gap of 32 equal weights: 16 flips
    make a tie.
    """
    group, number = np.repeat([0, 1], [174, 480]), np.arange(654)
    pairs = np.where(group == 0, number, -1 - number // 2)
    x, y = (2 * group - 1)[:, None].astype(np.float32), np.where(group == 0, 1, number % 2)
    return Dataset("mixture", x, y, 2, annotations={"component": group}, group_bounds=(0, 120), hashes=pairs)


OWN_DATA: dict[str, Callable[[], Dataset]] = {
    "few_rows": lambda: _few_rows(0.3),
    "last_layer": lambda: _few_rows(0.15),
    "last_layer_double": lambda: _few_rows(0.3),
    "ties": _ties,
    "components": lambda: replace(load_dataset("digits"), n_components=10),
}
"""Data of cells that have their own, under the name of the data set in the cell."""


def in_two_steps(train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int) -> Defended:
    """The perfect filter, which removes one half of the poison first and then the other."""
    assert know.poison_mask is not None
    first = ~know.poison_mask | (train.ids % 2 == 0)
    half = train[first]
    return Defended(fit(half[~know.poison_mask[first]]), ~know.poison_mask)


in_two_steps.needs = {"poison_mask"}  # type: ignore[attr-defined]

DAMAGE, WORST, COLLATERAL = "target_damage_mean", "target_damage_worst_5", "collateral_damage_max"
RECALL, REMOVED, CLEAN = "poison_recall", "removed_share", "clean_accuracy"
DEFENDED = "defended_clean_accuracy"
PRUNED, CERTIFIED, GAIN = "pruned_test_accuracy", "certified_accuracy_mean:exact", "gain_over_label_flip"


@dataclass(frozen=True)
class Mutant:
    """One change of one file.

    spread: whether the deviation over seeds is predicted to change, not the mean; then `effect` is its direction. seen: False for
    a mutant that this cell cannot see; `why` says why, and the table how many seeds it would need.
    """

    name: str
    file: str
    old: str
    new: str
    cell: str
    metric: str = DAMAGE
    effect: str = ANY
    spread: bool = False
    seen: bool = True
    why: str = ""


DRAWING, FLIP, SEEDS = "attacks/drawing.py", "attacks/label_flip.py", "runtime/seeds.py"
TRIAL, CONTEXT, SUMMARY = "experiments/trial.py", "experiments/context.py", "results/summary"
FILTERS, SEVER, SPECTRAL = "defenses/filters.py", "defenses/sever.py", "defenses/spectral_signatures.py"
CLUSTERING, CONTROLS, LOGISTIC = "defenses/activation_clustering.py", "defenses/controls.py", "victims/logistic.py"
PRUNING, ATTACKED = "defenses/fine_pruning.py", "attacks/control_attacks.py"
COUNT = "math.floor(rate * base * (1 + 1e-12))"
LOSS = "return _in_order_of_loss(probabilities(fit, model, train), train.y)"
TOP, SECOND = "vectors[:, values >= (1 - SAME_VARIANCE) * values[-1]]", "vectors[:, -2:-1]"
BATCHES = """        for start in range(0, n, size):
            count = min(size, n - start)
            for i in range(count):
                batch[i], labels[i] = samples.rows[orders[e, start + i]], samples.labels[orders[e, start + i]]
"""

KNN, TRAINING = "defenses/knn.py", "defenses/training"

SUBTLE = ("poison from D instead of D_aux", "2 % of the training rows dropped")
"""Mutants that only a certain cell sees; the table says how many seeds other families of victims would need."""

MUTANTS: tuple[Mutant, ...] = (
    # --- the attack ---
    Mutant("alpha x 1.1", FLIP, COUNT, "math.floor(rate * base * 1.1)", "linear", DAMAGE, UP),
    Mutant("alpha x 0.9", FLIP, COUNT, "math.floor(rate * base * 0.9)", "linear", DAMAGE, DOWN),
    Mutant(
        "the answer of another alpha", DRAWING, "poison_count(cell.rate, base", "poison_count(1.0, base", "double", DAMAGE, DOWN
    ),
    Mutant("one poison row a trial", FLIP, COUNT, "min(1, math.floor(rate * base * 2))", "linear", DAMAGE, DOWN),
    Mutant(
        "poison from D instead of D_aux",
        DRAWING,
        "    members = known_members(stage, cell, name)\n    rule",
        "    members = np.flatnonzero(stage.train_members(name))\n    rule",
        "tree",
        DAMAGE,
        UP,
    ),
    Mutant(
        "poison from the test rows",
        "datasets/split.py",
        "return train, aux, test if held_out is None else held_out",
        "return train, test, test",
        "tree",
        DAMAGE,
        UP,
    ),
    Mutant(
        "poison from all of D_aux",
        DRAWING,
        "    members = known_members(stage, cell, name)\n    rule",
        "    members = np.arange(stage.pool.n_train, len(stage.pool))\n    rule",
        "linear",
        DAMAGE,
        DOWN,
    ),
    Mutant("poison keeps its labels", FLIP, "1 - y if target is None", "y if target is None", "linear", DAMAGE, DOWN),
    Mutant(
        "one label for two classes",
        DRAWING,
        '("own" if n_classes == 2 else "common")',
        '"rarest"',
        "perfect_filter",
        "poison_precision",
        DOWN,
    ),
    Mutant("the rarest label for several classes", DRAWING, 'else "common")', 'else "rarest")', "classes"),
    Mutant("the most likely label", FLIP, "proba.mean(axis=0).argmin()", "proba.mean(axis=0).argmax()", "classes", DAMAGE, DOWN),
    Mutant(
        "with replacement where distinct",
        FLIP,
        'if sampling == "with_replacement"',
        'if sampling != ""',
        "tree_distinct",
        DAMAGE,
        DOWN,
    ),
    Mutant("distinct where with replacement", FLIP, 'if sampling == "with_replacement"', 'if sampling == ""', "linear"),
    Mutant(
        "all seeds share one draw",
        SEEDS,
        'derived_seed("poison", draw_identity(cell), subpopulation, seed)',
        'derived_seed("poison", draw_identity(cell), subpopulation)',
        "linear",
        DAMAGE,
        DOWN,
        spread=True,
    ),
    Mutant("alpha counts rows of D", DRAWING, 'cell.poisoning.alpha_base == "train"', "True", "perfect_filter", REMOVED, UP),
    # --- training ---
    Mutant(
        "a tenth of the training rows lost",
        "types/rows.py",
        "key = _sorted(key)\n",
        "key = np.sort(key)[len(key) // 10 :]\n",
        "tilt",
        DAMAGE,
        UP,
    ),
    Mutant(
        "2 % of the training rows dropped",
        "experiments/experiment.py",
        "job_of(pool, train).canonical() for",
        "job_of(pool, train[train.ids % 50 != 0]).canonical() for",
        "few_filtered",
        "poisoned_accuracy",
        UP,
        spread=True,
    ),
    Mutant("penalty doubled", LOGISTIC, "penalty: float = 1.0", "penalty: float = 2.0", "few_rows", DAMAGE, UP),
    Mutant(
        "penalty of the mean form",
        LOGISTIC,
        'penalty_form: PenaltyForm = "sum"',
        'penalty_form: PenaltyForm = "mean"',
        "tilt",
        DAMAGE,
        DOWN,
    ),
    Mutant(
        "intercept not penalised",
        LOGISTIC,
        "penalise_intercept: bool = True",
        "penalise_intercept: bool = False",
        "few_rows",
        DAMAGE,
        DOWN,
    ),
    Mutant("intercept penalised", "victims/last_layer.py", '"mean", False)', '"mean", True)', "last_layer", DAMAGE, UP),
    Mutant(
        "penalty scaled with n instead of n + m",
        "victims/counts.py",
        "penalty * (weight if mean_form",
        "penalty * (np.full(len(jobs), self.pool.n_train) if mean_form",
        "last_layer_double",
        DAMAGE,
        DOWN,
    ),
    Mutant(
        "weights rounded to float32",
        LOGISTIC,
        "coef = (w / columns.scale).T",
        "coef = (w / columns.scale).T.astype(np.float32).astype(np.float64)",
        "tilt",
        seen=False,
        why="answers change only for rows within 1e-7 of the boundary, and there is none",
    ),
    Mutant(
        "warm start returned",
        LOGISTIC,
        "residual = solve(fleet, w, clean.inverse, MIXED if len(design.dtypes) > 1 else DOUBLE)",
        "residual = np.zeros((len(jobs), 3))",
        "linear",
        DAMAGE,
        DOWN,
    ),
    Mutant(
        "models of two trials swapped", CONTEXT, "[known[key] for key in keys]", "[known[key] for key in keys[::-1]]", "linear"
    ),
    Mutant(
        "the clean victim for every training set",
        CONTEXT,
        "return [known[key] for key in keys]",
        "return [self.clean_model(cell, seed) for seed in seeds]",
        "linear",
        DAMAGE,
        DOWN,
    ),
    Mutant(
        "models of two networks swapped",
        CONTEXT,
        "[known[key] for key in keys]",
        "[known[key] for key in keys[::-1]]",
        "two_targets",
        DAMAGE,
        DOWN,
    ),
    Mutant(
        "networks of all seeds alike",
        SEEDS,
        'derived_seed("train", cell.dataset, cell.data.split, seed)',
        'derived_seed("train", cell.dataset, cell.data.split)',
        "idle_network",
        CLEAN,
        DOWN,
        spread=True,
    ),
    Mutant(
        "poison always in the last batch",
        "victims/batch_order.py",
        "        _sorted_epochs(self._identities, first, orders)",
        "        orders[:] = np.arange(orders.shape[1], dtype=np.int32)",
        "network",
        DAMAGE,
        UP,
    ),
    Mutant(
        "poison lost with the last batch",
        "victims/mlp_kernel.py",
        BATCHES,
        BATCHES.replace("range(0, n, size)", "range(0, n - size + 1, size)").replace("orders[e, start + i]", "start + i"),
        "network",
        DAMAGE,
        DOWN,
    ),
    Mutant(
        "a tenth of the epochs", "victims/mlp.py", "max_epochs: int = 200", "max_epochs: int = 20", "idle_network", CLEAN, DOWN
    ),
    Mutant(
        "dropout left on",
        "victims/mlp.py",
        "np.maximum(rows @ self.w1 + self.b1, 0)",
        "2 * (np.random.default_rng(0).random((len(rows), len(self.b1))) < 0.5) * np.maximum(rows @ self.w1 + self.b1, 0)",
        "idle_network",
        CLEAN,
        DOWN,
    ),
    # --- data and subpopulations ---
    Mutant(
        "D and D_test share rows",
        "datasets/split.py",
        "order[:first], order[first",
        "order[second - first : second], order[first",
        "linear",
        CLEAN,
        UP,
    ),
    Mutant(
        "clusters fitted on D",
        "datasets/partitions.py",
        ".fit(space[1])",
        ".fit(space[0])",
        "clusters",
        seen=False,
        why="clusters of well separated components are the same rows wherever they are fitted",
    ),
    Mutant(
        "assigned without the centring of the PCA",
        "datasets/partitions.py",
        "(pca.transform(side) for side in (train, aux, test))",
        "(train @ pca.components_.T, pca.transform(aux), test @ pca.components_.T)",
        "components",
        DAMAGE,
        DOWN,
    ),
    # --- scoring ---
    Mutant(
        "damage against the defended clean model",
        "results/metrics.py",
        "self.clean.astype(np.float64) - self.poisoned",
        "self.defended_clean.astype(np.float64) - self.poisoned",
        "trim",
    ),
    Mutant(
        "worst-k ranked in each seed",
        f"{SUMMARY}/ranked.py",
        "np.stack([self.bits[i].change_by_seed for i in self.order[:k]]).mean(axis=0)",
        "np.sort(np.stack([each.change.mean(axis=1) for each in self.bits]), axis=0)[-k:].mean(axis=0)",
        "cube",
        "target_damage_worst_1",
        UP,
    ),
    Mutant(
        "20 test rows counted in D_aux",
        f"{SUMMARY}/__init__.py",
        "eligible(p.bits.clean.shape[1])",
        'eligible(p.sizes["n_aux"])',
        "small_clusters",
        "n_left_out",
        DOWN,
    ),
    Mutant(
        "clean twin of another seed",
        "experiments/experiment.py",
        "self.context.clean_right(cell, seed) for",
        "self.context.clean_right(cell, seed + 1) for",
        "idle_network",
        DAMAGE,
        UP,
        spread=True,
    ),
    Mutant(
        "clean twin of another split",
        "experiments/experiment.py",
        "self.context.clean_right(cell, seed) for",
        "self.context.clean_right(cell.with_(split=1), seed) for",
        "idle",
        "target_damage_worst_1",
        UP,
    ),
    Mutant(
        "attacked results of another seed",
        f"{SUMMARY}/subpopulation.py",
        "attacked = tuple(by_trial[Trial(name, seed)]",
        "attacked = tuple(by_trial[Trial(name, (seed + 1) % n_seeds)]",
        "idle_network",
        DAMAGE,
        UP,
        spread=True,
    ),
    Mutant(
        "attacked results of another subpopulation",
        f"{SUMMARY}/subpopulation.py",
        "attacked = tuple(by_trial[Trial(name, seed)]",
        "attacked = tuple(by_trial[Trial(stage.attacked[0], seed)]",
        "linear",
        DAMAGE,
        DOWN,
    ),
    Mutant(
        "target rows inside collateral",
        f"{SUMMARY}/subpopulation.py",
        "accuracy(poisoned, scored & ~members)",
        "accuracy(poisoned, scored)",
        "linear",
        COLLATERAL,
        UP,
    ),
    Mutant(
        "collateral of the target alone",
        f"{SUMMARY}/subpopulation.py",
        "accuracy(poisoned, scored & ~members)",
        "accuracy(poisoned, scored & members)",
        "linear",
        COLLATERAL,
        UP,
    ),
    Mutant(
        "wrong rows count as right",
        TRIAL,
        "predicted[:n_test] == stage.data.test_y}",
        "predicted[:n_test] != stage.data.test_y}",
        "linear",
    ),
    # --- defenses ---
    Mutant(
        "TRIM trains on all rows",
        FILTERS,
        "model = fit(train[keep])\n        scores",
        "model = fit(train)\n        scores",
        "trim",
    ),
    Mutant(
        "TRIM keeps the wrong side",
        FILTERS,
        "scores = score(model)\n        dropped",
        "scores = -score(model)\n        dropped",
        "trim",
        RECALL,
        DOWN,
    ),
    Mutant(
        "TRIM ranks by the confidence in its answer",
        "defenses/trim.py",
        LOSS,
        "return -model.predict_proba(train.x).max(axis=1)",
        "trim",
        RECALL,
        DOWN,
    ),
    Mutant(
        "TRIM is told half of the poison",
        "defenses/trim.py",
        'told_poison(know, train, "trim")',
        'told_poison(know, train, "trim") // 2',
        "trim",
        REMOVED,
        DOWN,
    ),
    Mutant(
        "n_poison counts half of the rows",
        TRIAL,
        "round(n_poison * TOLD",
        "round(0.5 * n_poison * TOLD",
        "random_filter",
        REMOVED,
        DOWN,
    ),
    Mutant(
        "n_poison counts flipped rows",
        TRIAL,
        "round(n_poison * TOLD",
        "round(poison.n_flipped * TOLD",
        "rarest",
        REMOVED,
        DOWN,
    ),
    Mutant(
        "ids of a part of a part not composed",
        "types/rows.py",
        "return TrainingSet(self._source, self._ids[chosen], self._y[chosen])",
        "return TrainingSet(self._source, np.flatnonzero(chosen), self._y[chosen])",
        "two_steps",
        DAMAGE,
        UP,
    ),
    Mutant(
        "SEVER not centred",
        SEVER,
        "gradients -= gradients.mean(axis=0)\n",
        "gradients *= 1.0\n",
        "sever",
        RECALL,
        seen=False,
        why="it finds a little more poison here, for which ten seeds are too few; in two dimensions, where that was predicted, "
        "it finds as much as the correct version",
    ),
    Mutant("SEVER along the second direction", "defenses/eigenspaces.py", TOP, SECOND, "sever", RECALL, DOWN),
    Mutant("spectral signatures of the second direction", "defenses/eigenspaces.py", TOP, SECOND, "tilt_spectral", RECALL, DOWN),
    Mutant(
        "SEVER across classes",
        SEVER,
        "        members = y == label\n        scores[members] = _along",
        "        members = y >= 0\n        scores[members] = _along",
        "sever",
        RECALL,
    ),
    Mutant("SEVER in one round", SEVER, "for round_ in range(N_ROUNDS):", "for round_ in range(1):", "sever", REMOVED, DOWN),
    Mutant(
        "spectral signatures not centred",
        SPECTRAL,
        "centred(features[members])",
        "np.asarray(features[members], np.float64)",
        "spectral_signatures",
        RECALL,
    ),
    Mutant(
        "spectral signatures without the factor 1.5",
        SPECTRAL,
        "(3 * n_poison + 1) // 2",
        "n_poison",
        "spectral_signatures",
        REMOVED,
        DOWN,
    ),
    Mutant(
        "representations shuffled against labels",
        SPECTRAL,
        "signature_scores(model.features(train.x), train.y)",
        "signature_scores(model.features(train.x)[::-1], train.y)",
        "spectral_signatures",
        RECALL,
    ),
    Mutant(
        "clustering drops the larger cluster",
        CLUSTERING,
        "part if goes else ~part",
        "~part if goes else part",
        "activation_clustering",
        REMOVED,
    ),
    Mutant(
        "clustering without the limit of its size",
        CLUSTERING,
        "share < max_share",
        "share < 1.0",
        "activation_clustering",
        REMOVED,
        UP,
    ),
    Mutant(
        "the perfect filter keeps the poison",
        CONTROLS,
        "filtered(train, fit, ~mask)",
        "filtered(train, fit, mask if mask.any() else ~mask)",
        "perfect_filter",
        DAMAGE,
        UP,
    ),
    Mutant(
        "the random filter removes the first rows",
        CONTROLS,
        "permutation(len(train))[:n_drop]] = False",
        "permutation(len(train))[: n_drop // 2]] = False",
        "random_filter",
        REMOVED,
        DOWN,
    ),
    Mutant("Fine-Pruning prunes too many channels", PRUNING, "TOLERANCE = 0.04", "TOLERANCE = 0.2", "fine_pruning", PRUNED, DOWN),
    Mutant(
        "Fine-Pruning by the index of a channel",
        PRUNING,
        'order = np.argsort(clean.activations.mean(axis=0, dtype=np.float64), kind="stable")',
        "order = np.arange(clean.activations.shape[1])",
        "large_holdout",
        PRUNED,
        UP,
    ),
    Mutant(
        "Fine-Pruning on the test rows",
        TRIAL,
        "TrainingSet.of(stage.data.test_x[holdout], stage.data.test_y[holdout])",
        "TrainingSet.of(stage.data.test_x, stage.data.test_y)",
        "small_holdout",
        PRUNED,
        DOWN,
        spread=True,
    ),
    Mutant(
        "a holdout with target rows",
        TRIAL,
        "np.flatnonzero(~stage.test_members(trial.subpopulation)) if trial.subpopulation else np.arange(n_test)",
        "np.arange(n_test)",
        "fine_pruning",
        "attacked_test_accuracy",
        UP,
    ),
    # --- certificates and moved poison ---
    Mutant(
        "certificate off by one",
        "defenses/certificates/exact.py",
        "min(radius[row], r)",
        "min(radius[row], r + 1)",
        "certified",
        CERTIFIED,
        UP,
    ),
    Mutant(
        "a tie certified",
        "defenses/certificates/exact.py",
        "total - len(y) * 4.5e-16 * size",
        "total + len(y) * 4.5e-16 * size",
        "ties",
        CERTIFIED,
        UP,
    ),
    Mutant(
        "features fitted on poisoned labels",
        "defenses/label_flip_smoothing.py",
        "representation = know.representation",
        "representation = fit(train)",
        "certified_network",
        CERTIFIED,
        UP,
    ),
    Mutant(
        "influence with its sign turned",
        "attacks/influence.py",
        "s = attacker.curvature.solve(",
        "s = -attacker.curvature.solve(",
        "moved",
        GAIN,
        DOWN,
    ),
    Mutant(
        "influence takes the least harmful rows",
        "attacks/influence.py",
        "np.argsort(pairings[distinct]",
        "np.argsort(-pairings[distinct]",
        "moved",
        GAIN,
        DOWN,
    ),
    Mutant(
        "poison moved uphill", "attacks/descent.py", "lower_now = new < value", "lower_now = new > value", "moved", GAIN, DOWN
    ),
    Mutant(
        "gradients matched along the target's",
        "attacks/gradient_match.py",
        "wanted = -direction",
        "wanted = direction",
        "moved_near",
        GAIN,
        DOWN,
        seen=False,
        why="the prediction was wrong: matching by distance makes poison less harmful than flips, and the opposite more",
    ),
    Mutant("own labels are wrong ones", ATTACKED, "task.pool.y[drawn.rows], 0)", "drawn.y, 0)", "own_label", DAMAGE, UP),
    Mutant(
        "scattered flips stay in the subpopulation",
        ATTACKED,
        "task.aux[y[task.aux] == label]",
        "task.members[task.y == label]",
        "scattered",
        DAMAGE,
        UP,
    ),
    Mutant(
        "the farthest neighbours",
        "attacks/neighbours.py",
        "rounded_distances(task.pool.x, candidates, task.members).min(axis=1)",
        "-rounded_distances(task.pool.x, candidates, task.members).min(axis=1)",
        "neighbours",
        DAMAGE,
        DOWN,
    ),
    Mutant(
        "in proportion to the own label",
        "attacks/proportional.py",
        "np.arange(len(labels)), labels]",
        "np.arange(len(labels)), task.y]",
        "proportional",
        DAMAGE,
        UP,
    ),
    Mutant(
        "the row nearest to the target model",
        "attacks/model_targeted.py",
        "self.candidates, -gaps))",
        "self.candidates, gaps))",
        "targeted",
        DAMAGE,
        DOWN,
    ),
)
MUTANTS += (
    # --- defenses of the scoreboard ---
    Mutant(
        "k-NN relabelling counts the row itself",
        KNN,
        "(len(train), -1), train.y, k, with_self=False)",
        "(len(train), -1), train.y, k, with_self=True)",
        "knn_relabel",
        DAMAGE,
        UP,
    ),
    Mutant(
        "the k-NN filter keeps what neighbours contradict",
        KNN,
        "sanitised_labels(train, k, eta) == train.y",
        "sanitised_labels(train, k, eta) != train.y",
        "knn_filter",
        REMOVED,
        UP,
    ),
    Mutant(
        "Deep k-NN leaves the row itself out",
        KNN,
        "train.y, k, with_self=True)",
        "train.y, k, with_self=False)",
        "deep_knn",
        REMOVED,
        UP,
    ),
    Mutant(
        "confident learning trains on the fold that it judges",
        "defenses/confident_learning.py",
        "[train[fold != each] for each in range(folds)]",
        "[train for each in range(folds)]",
        "confident_learning",
        REMOVED,
        DOWN,
    ),
    Mutant(
        "RandEigen keeps the rows that stand out",
        "defenses/randeigen.py",
        "generator.random(len(left)) > along / largest",
        "generator.random(len(left)) < along / largest",
        "randeigen",
        REMOVED,
        UP,
    ),
    Mutant(
        "JTT repeats the rows that are right",
        "defenses/jtt.py",
        "argmax(axis=1) != train.y",
        "argmax(axis=1) == train.y",
        "jtt",
        DEFENDED,
        UP,
    ),
    Mutant(
        "random subsampling by half as much",
        "defenses/random_subsample.py",
        "len(train) // parts",
        "2 * len(train) // parts",
        "random_subsample",
        REMOVED,
        DOWN,
    ),
    Mutant(
        "generalised cross-entropy close to the log loss",
        "defenses/generalised_cross_entropy.py",
        "POWER = 0.7",
        "POWER = 0.07",
        "generalised_cross_entropy",
        DAMAGE,
        UP,
    ),
    Mutant(
        "kernel SVM of twice the width",
        "defenses/kernel_svm.py",
        "(pool.x.shape[1] * width**2)",
        "(pool.x.shape[1] * (2 * width) ** 2)",
        "kernel_svm",
        DAMAGE,
        UP,
    ),
    Mutant(
        "the worst penalty is chosen",
        "defenses/chosen_penalty.py",
        "int(np.argmin(losses[::-1]))",
        "int(np.argmax(losses[::-1]))",
        "chosen_penalty",
        DEFENDED,
        DOWN,
    ),
    Mutant(
        "DPA divides rows by input and label",
        "defenses/ensembles.py",
        "content_hash(train.x) % np.uint64(k)",
        "(content_hash(train.x) + train.y.astype(np.uint64)) % np.uint64(k)",
        "dpa",
        seen=False,
        why="a flipped row is in another part, which changes the certificate's meaning and not the damage; toys notice it",
    ),
    Mutant(
        "DPA's radius is the whole lead",
        "defenses/dpa.py",
        "[1].min(axis=1) // 2)",
        "[1].min(axis=1))",
        "dpa",
        "certified_radius_median:insertions",
        UP,
    ),
    Mutant(
        "group RONI rejects what helps",
        "defenses/roni.py",
        "rejected = cost / repetitions > least_loss",
        "rejected = cost / repetitions < least_loss",
        "group_roni",
        REMOVED,
        UP,
    ),
    Mutant(
        "the influence filter removes what helps the holdout",
        "defenses/holdout_influence.py",
        "np.asarray(-(residuals(p, train.y) * along).sum(axis=1))",
        "np.asarray((residuals(p, train.y) * along).sum(axis=1))",
        "holdout_influence",
        RECALL,
        why="predicted: down; a holdout without rows of the subpopulation hardly feels its poison, and recall rises instead",
    ),
    Mutant(
        "the holdout alone is the whole training set",
        "defenses/holdouts.py",
        "Defended(fit(holdout), diag",
        "Defended(fit(train), diag",
        "holdout_only",
        DEFENDED,
        UP,
    ),
    Mutant(
        "the holdout is not added",
        "defenses/holdouts.py",
        "order = content_order(x, y)",
        "order = content_order(x[: len(train)], y[: len(train)])",
        "train_and_holdout",
        DEFENDED,
        why="predicted: down; the holdout lacks the subpopulation's rows, and the accuracy is higher without it",
    ),
    Mutant(
        "gradients are not clipped",
        "victims/stepwise.py",
        "np.minimum(norm / np.maximum(lengths, np.finfo(np.float64).tiny), 1)",
        "np.ones(len(lengths))",
        "gradient_clipping",
        why="predicted: up; clipping shortens the gradients of clean rows too, and the damage is smaller without it",
    ),
    Mutant(
        "no noise in gradients",
        f"{TRAINING}/gradient_shaping.py",
        "generator.normal(0, noise, network.size) if noise else None",
        "None",
        "gradient_shaping",
        seen=False,
        why="Adam averages noise of this size away",
    ),
    Mutant(
        "GroupDRO lowers the weight of large losses",
        f"{TRAINING}/group_dro.py",
        "np.exp(step * (each + more))",
        "np.exp(-step * (each + more))",
        "group_dro",
        DAMAGE,
        UP,
    ),
    Mutant(
        "co-teaching passes the hardest rows",
        f"{TRAINING}/co_teaching.py",
        "batch[~highest(",
        "batch[highest(",
        "co_teaching",
        DEFENDED,
        DOWN,
    ),
)
MUTANTS += tuple(
    replace(mutant, name=f"{mutant.name} ({family})", cell=cell, metric=DAMAGE, effect=effect, spread=False, seen=False, why=why)
    for family, cell, why, effects in (
        ("networks", "network", "networks vary more from seed to seed", {"alpha x 1.1": UP, **dict.fromkeys(SUBTLE, ANY)}),
        (
            "logistic regression",
            "linear",
            "the mean damage hardly depends on it",
            dict.fromkeys((*SUBTLE, "penalty doubled"), ANY),
        ),
    )
    for mutant in MUTANTS
    for effect in [effects.get(mutant.name)]
    if effect
)

SALT = 'hashlib.blake2b("\\x1f".join(map(str, purpose))'
OTHER_SALT = SALT.replace("x1f", "x1e")
PLACEBOS = (
    Mutant("other random streams", SEEDS, SALT, OTHER_SALT, "linear"),
    Mutant("other random streams of networks", SEEDS, SALT, OTHER_SALT, "network"),
    Mutant("other random streams of clean networks", SEEDS, SALT, OTHER_SALT, "idle_network", CLEAN),
    Mutant("other random streams of trees", SEEDS, SALT, OTHER_SALT, "tree"),
    Mutant("other random streams of a tilted line", SEEDS, SALT, OTHER_SALT, "tilt"),
    Mutant("other random streams of pruned models", SEEDS, SALT, OTHER_SALT, "fine_pruning", PRUNED),
    Mutant("other random streams of certificates", SEEDS, SALT, OTHER_SALT, "certified", CERTIFIED),
    Mutant(
        "another seed of k-means",
        "datasets/partitions.py",
        "random_state=seed).fit(space",
        "random_state=seed + 1).fit(space",
        "clusters",
    ),
    Mutant("another order of the training rows", SEEDS, 'derived_seed("shuffle"', 'derived_seed("order"', "trim"),
    Mutant("other seeds of defenses", SEEDS, 'derived_seed("defense"', 'derived_seed("filter"', "random_filter"),
    Mutant("rows sorted from last to first", "types/rows.py", "key = _sorted(key)\n", "key = np.sort(key)[::-1]\n", "linear"),
    Mutant("every solve starts at zero", LOGISTIC, "if self._blind else np.repeat(clean.w, len(jobs), axis=0)", "", "linear"),
    Mutant("a looser solver", LOGISTIC, "TOLERANCE = 1e-8", "TOLERANCE = 1e-7", "linear"),
    Mutant(
        "equal losses go to other rows",
        FILTERS,
        'np.argsort(ids[ties], kind="stable")',
        'np.argsort(-ids[ties], kind="stable")',
        "trim",
    ),
    Mutant(
        "poison drawn by permutation",
        FLIP,
        "generator.integers(0, max(len(rows), 1), size=count)",
        "generator.choice(max(len(rows), 1), size=count)",
        "linear",
    ),
)

EQUIVALENT = {
    "ceil instead of floor in the number of poison rows": "alpha times the number of rows is whole in every cell in which D and "
    "D_aux have the same size and alpha is 1 or 2, and so are floor and ceil; a test computes them.",
    "at most instead of less in the exact certificate": "the gap is lowered by more than all rounding errors together, so that "
    "the worst flips of a true tie exceed it either way. Where the two comparisons differ, the flips are truly below the gap.",
}
"""Changes that change no number, with the proof."""


# --- measuring --------------------------------------------------------------------------------------------------------


def n_seeds(cell: str) -> int:
    """The seeds of a cell, which its repetitions share."""
    return int(CELLS[cell].get("n_seeds", 100))


def measure(name: str) -> dict[str, list[float]]:
    """Every number of a cell: its value for each seed, or its only value where it has none for each seed."""
    from subpop.defenses import DEFENSES
    from subpop.experiments.experiment import Experiment
    from subpop.runtime.no_store import NoStore
    from subpop.types.grid import grid

    DEFENSES[in_two_steps.__name__] = in_two_steps  # type: ignore[index]
    (cell,) = grid(stem="mutants", tier="embedded", **{**CELLS[name], "n_seeds": n_seeds(name)})
    experiment = Experiment.on(NoStore())
    if name in OWN_DATA:
        experiment.context.supply(cell, OWN_DATA[name]())
    numbers = [number for number in experiment.run(cell).numbers if not number.subpopulation]
    return {number.metric: list(number.by_seed or [number.value] * n_seeds(name)) for number in numbers}


if __name__ == "__main__":
    for asked in sys.argv[1:]:
        print(json.dumps([asked, measure(asked)]), flush=True)
