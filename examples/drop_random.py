"""The smallest defense there is: drop a tenth of the rows at random and train on the rest.

    python -m pytest benchmarks/ --defense examples/drop_random.py:drop_random

Write yours the same way, in any file. It is called once a trial and may call `fit` as often as it likes. `subpop check
examples/drop_random.py:drop_random` tries it on toy data first.
"""

import numpy as np

from subpop import Defended


def drop_random(train, fit, know, *, seed):
    """Keep each row with probability 0.9.

    train: rows and labels, some perhaps poisoned: train.x, train.y, len(train); train[mask] is a part of it.
    fit: trains the victim on such a set and returns the model: fit(train).predict_proba(x) is (n, C), .features(x) is (n, d).
    know: what you asked to be told, see below. seed: for np.random.default_rng(seed), your only source of chance.
    """
    keep = np.random.default_rng(seed).random(len(train)) > 0.1
    return Defended(fit(train[keep]), keep)


# A defense that must know how many rows are poisoned says so, and finds the number in know.n_poison:
# drop_random.needs = {"n_poison"}
