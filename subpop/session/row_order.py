"""A pytest plug-in for `subpop.session.kernels`: networks add the rows of each batch in another order.

Kernels differ in the order in which they add. `--reverse-rows-in 4` reverses every four rows within a batch: the batches and
their sums remain the same up to rounding. Sizes of batches are multiples of 8, so that 2, 4 and 8 move no row to another batch.
It takes effect in this process only, and so all cells are trained in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    help_text = "number of successive rows of a batch that are reversed"
    parser.addoption("--reverse-rows-in", type=int, default=1, choices=(1, 2, 4, 8), help=help_text)


def pytest_configure(config: pytest.Config) -> None:
    """Replace the order of rows for all victims: text victims only within the batches that rows of similar length make."""
    from subpop.victims import batch_order, transformer_batches

    config.option.executor, config.option.jobs = "here", None
    size, batches_of = config.getoption("--reverse-rows-in"), transformer_batches.length_batches

    class Reversed(batch_order.BatchOrder):
        def epochs(self, first: int, count: int) -> NDArray[np.int32]:
            return reversed_in(super().epochs(first, count), size)

    batch_order.BatchOrder = Reversed  # type: ignore[misc]
    transformer_batches.length_batches = lambda *args: [reversed_in(batch, size) for batch in batches_of(*args)]


def reversed_in(rows: NDArray[Any], size: int) -> NDArray[Any]:
    """The rows, (..., n), with each `size` of them reversed; the last ones may be fewer."""
    places = np.arange(rows.shape[-1])
    starts = places // size * size
    ends = np.minimum(starts + size, len(places))
    return np.ascontiguousarray(rows[..., starts + ends - 1 - places])
