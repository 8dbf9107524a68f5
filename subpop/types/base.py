"""Array types by content, and the error for invalid input."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

import numpy as np
from numpy.typing import NDArray

from subpop.types.printable import printable

Array = NDArray[Any]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]
Setting = tuple[tuple[str, str], ...]


class BadInput(ValueError):
    """Invalid input. The message names the value, what is allowed and how to fix it.

    Control characters in the message are escaped, since the value may be text from any source.

    Examples
    --------
    >>> from subpop import BadInput, load_dataset
    >>> try:
    ...     load_dataset("digit")
    ... except BadInput as error:
    ...     print(str(error)[:24])
    unknown data set 'digit'
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*(printable(arg) if isinstance(arg, str) else arg for arg in args))


def nearest(name: str, known: Iterable[str], others: str = "") -> str:
    """Return the advice for an unknown name: the most similar known name, or else all of them and `others`."""
    names = list(known)
    near = get_close_matches(name, names, 1)
    return f"did you mean {near[0]}?" if near else f"use one of {', '.join(names)}{others}"


class Unsolved(BadInput):
    """Training sets on which an exact victim cannot be solved.

    Parameters
    ----------
    jobs
        Positions of these training sets in the list given to `fit_many`.
    reason
        The message.
    """

    def __init__(self, jobs: tuple[int, ...], reason: str) -> None:
        super().__init__(jobs, reason)
        self.jobs, self.reason = jobs, reason

    def __str__(self) -> str:
        return self.reason
