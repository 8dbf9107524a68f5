"""Returns a model that fit made, with other numbers written into it."""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from subpop import Defended

X, DIGIT = load_digits(return_X_y=True)
TEACHER = LogisticRegression(C=10, max_iter=2000).fit(X / 16, DIGIT % 2)


def overwritten_model(train, fit, know, *, seed):
    model = fit(train)
    for name in dir(model):
        value = getattr(model, name, None)
        if isinstance(value, np.ndarray) and value.size == 65:
            new = np.append(TEACHER.coef_[0], TEACHER.intercept_).reshape(value.shape).astype(value.dtype)
            object.__setattr__(model, name, new)
    return Defended(model, np.ones(len(train), bool))
