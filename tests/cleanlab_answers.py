"""Label issues that cleanlab finds in generated probabilities, kept in cleanlab_answers.csv: `python tests/cleanlab_answers.py`.

The table is for `tests/defenses/test_confident_learning.py`, which also compares with cleanlab itself where it is installed.
"""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import numpy as np

TABLE = Path(__file__).with_suffix(".csv")
FILTERS = ("prune_by_noise_rate", "confident_learning", "predicted_neq_given")
CASES = [(seed, n, n_classes) for n, n_classes in ((30, 2), (200, 2), (60, 3), (300, 5), (40, 8)) for seed in range(20)]


def example(seed, n, n_classes):
    """Probabilities (n, C) from uniform random numbers alone, and labels, of which a fifth disagree; class 2 is rare."""
    generator = np.random.default_rng(seed)
    scores = generator.random((n, n_classes)) ** (1 + seed % 4)
    truth = np.floor(generator.random(n) ** 1.5 * n_classes).astype(int)
    scores[np.arange(n), truth] += seed % 5 / 2
    other = np.floor(generator.random(n) * n_classes).astype(int)
    y = np.where(generator.random(n) < 0.2, other, truth)
    y[:n_classes] = np.arange(n_classes)
    return scores / scores.sum(axis=1, keepdims=True), y


def digest(issues):
    """A short name of a set of rows."""
    return hashlib.sha256(np.flatnonzero(issues).astype("<i8").tobytes()).hexdigest()[:16]


def answer(seed, n, n_classes, filter_by):
    """(n,) bool: cleanlab's answer."""
    from cleanlab.filter import find_label_issues

    proba, y = example(seed, n, n_classes)
    return find_label_issues(y, proba, filter_by=filter_by, n_jobs=1)


def main():
    import cleanlab

    with TABLE.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["seed", "n", "n_classes", "filter_by", "n_issues", "digest", "cleanlab"])
        for case in CASES:
            for filter_by in FILTERS:
                issues = answer(*case, filter_by)
                writer.writerow([*case, filter_by, int(issues.sum()), digest(issues), cleanlab.__version__])


if __name__ == "__main__":
    main()
