"""Arrays by what is in them, and the one error for input that cannot be used."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from subpop.printable import printable

Array = NDArray[Any]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]
Setting = tuple[tuple[str, str], ...]


class BadInput(ValueError):
    """Input that cannot be used: the message names the value, what is allowed and the fix.

    The value may be anybody's text, so the message is made printable here.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*(printable(arg) if isinstance(arg, str) else arg for arg in args))


class Unsolved(BadInput):
    """Training sets on which an exact victim cannot be trained. jobs: their positions in the list that was given."""

    def __init__(self, jobs: tuple[int, ...], reason: str) -> None:
        super().__init__(jobs, reason)
        self.jobs, self.reason = jobs, reason

    def __str__(self) -> str:
        return self.reason
