"""A minimal defense: remove a tenth of the rows at random and train on the rest.

    python -m pytest benchmarks/ --defense examples/drop_random.py:drop_random

Write your own in the same way, in any file. It is called once per trial and may call `fit` repeatedly (up to 2,000 times by
default). `subpop check examples/drop_random.py:drop_random` first runs the contract checks on generated data.
"""

import numpy as np

from subpop import Defended


def drop_random(train, fit, know, *, seed):
    """Keep each row with probability 0.9.

    train: rows and labels, of which some may be poisoned: train.x, train.y, len(train); train[mask] selects rows.
    fit: trains the victim on a training set and returns the model; fit(train).predict_proba(x) has shape (n, C) and
    fit(train).features(x) shape (n, d).
    know: the side information that the defense declares, see below.
    seed: use it in np.random.default_rng(seed), and draw all random numbers from that generator.
    """
    keep = np.random.default_rng(seed).random(len(train)) > 0.1
    return Defended(fit(train[keep]), keep)


# A defense that must know how many rows are poisoned declares it and reads the number from know.n_poison:
# drop_random.needs = {"n_poison"}
