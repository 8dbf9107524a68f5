"""Principal components of rows of states, flattened to (max_length * hidden) columns, without allocating that matrix.

*Source*: Jagielski et al. (CCS 2021), ClusterMatch on BERT: the states before the last layer at all positions, flattened (256 x
768 = 196,608 columns), PCA fitted on D_aux. Solved by a block Lanczos method with full orthogonalisation: each step reads the
states once, in blocks of rows, and multiplies each block by the basis and back.
*Deviations*: positions after a row's end count as zeros (BERT's output there depends on the padding only).

Memory: one block of rows (BLOCK_BYTES), and at most MAX_STEPS bases of n_components + SPARE columns in float64: for 10
components of BERT's 196,608 columns at most 0.7 GB, regardless of the number of rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from subpop.runtime.progress import Report, reporting
from subpop.runtime.threads import one_thread
from subpop.types import BadInput, Floats, Ints

Doubles = NDArray[np.float64]
BLOCK_BYTES = 64 << 20
MAX_STEPS = 20
SPARE = 6
TOLERANCE = 1e-7
"""Largest residual of a component, as a fraction of the largest variance."""
NARROW = 1024
"""Up to this number of columns, the covariance matrix is formed."""


class States(Protocol):
    """States of n rows, read one row at a time: `HiddenStates`, or `KnownStates.of`."""

    @property
    def lengths(self) -> Ints: ...
    @property
    def hidden(self) -> int: ...
    def __len__(self) -> int: ...
    def __getitem__(self, row: int, /) -> Floats: ...


def streamed_pca(
    states: States,
    rows: Ints,
    n_components: int,
    max_length: int,
    *,
    seed: int = 0,
) -> Doubles:
    """(n, n_components) projections of all rows on the principal components of `rows`, centred on the mean of `rows`.

    Signs are chosen such that the entry of each component with the largest absolute value is positive. Warns if the components
    have not converged after MAX_STEPS passes.
    """
    wide, rows = max_length * states.hidden, np.asarray(rows, np.int64)
    _check(states, rows, n_components, max_length)
    with one_thread("blas"), reporting("principal components") as report:
        reader = _Reader(states, rows, wide, report)
        mean = reader.mean()
        components = _components(reader, mean, n_components, seed)
        return reader.projected(mean, components)


def _check(states: States, rows: Ints, n_components: int, max_length: int) -> None:
    if not len(rows) or rows.min() < 0 or rows.max() >= len(states):
        raise BadInput(f"{len(rows)} rows to fit on, not all in 0..{len(states) - 1}; give numbers of the rows that have states")
    if int(states.lengths.max()) > max_length:
        raise BadInput(f"a row has {states.lengths.max()} tokens, more than max_length={max_length}; raise max_length")
    most = min(len(rows) - 1, max_length * states.hidden)
    if not 1 <= n_components <= most:
        raise BadInput(f"n_components={n_components} must be between 1 and {most} for {len(rows)} rows to fit on")


class _Reader:
    """Reads the states repeatedly, in dense blocks of rows."""

    def __init__(self, states: States, rows: Ints, wide: int, report: Report) -> None:
        self._states, self.rows, self.wide, self._report = states, rows, wide, report
        self._each = max(1, BLOCK_BYTES // (8 * wide))
        self._read, self._most = 0, (MAX_STEPS + 1) * len(rows) + len(states)

    def mean(self) -> Doubles:
        total = np.zeros(self.wide)
        for row in self.rows:
            flat = self._states[int(row)].ravel()
            total[: len(flat)] += flat
        self._report_read(len(self.rows))
        return total / len(self.rows)

    def covariance_times(self, mean: Doubles, basis: Doubles) -> Doubles:
        """(wide, k) covariance of the fitted rows times `basis` (wide, k)."""
        out = np.zeros(basis.shape)
        for block in self._blocks(self.rows, mean):
            out += block.T @ (block @ basis)
        return out / (len(self.rows) - 1)

    def projected(self, mean: Doubles, components: Doubles) -> Doubles:
        blocks = self._blocks(np.arange(len(self._states)), mean)
        return np.concatenate([block @ components for block in blocks])

    def _blocks(self, rows: Ints, mean: Doubles) -> Iterator[Doubles]:
        """Yield (some, wide) centred rows; the memory is reused for the next block."""
        held = np.empty((self._each, self.wide))
        for start in range(0, len(rows), self._each):
            some = rows[start : start + self._each]
            held[: len(some)] = -mean
            for own, row in zip(held, some, strict=False):
                flat = self._states[int(row)].ravel()
                own[: len(flat)] += flat
            yield held[: len(some)]
            self._report_read(len(some))

    def _report_read(self, rows: int) -> None:
        self._read += rows
        self._report(self._read, self._most)


def _components(reader: _Reader, mean: Doubles, n_components: int, seed: int) -> Doubles:
    """(wide, n_components) orthonormal, by descending variance."""
    k = min(n_components + SPARE, reader.wide)
    if reader.wide <= max(NARROW, k * MAX_STEPS):
        found = np.linalg.eigh(reader.covariance_times(mean, np.eye(reader.wide)))[1][:, ::-1][:, :n_components]
    else:
        bases, vectors = _krylov(reader, mean, np.random.default_rng(seed).normal(size=(reader.wide, k)), n_components)
        chosen = vectors.reshape(len(bases), k, n_components)
        found = sum((own @ part for own, part in zip(bases, chosen, strict=True)), np.zeros((reader.wide, n_components)))
    largest = np.abs(found).argmax(axis=0)
    return np.asarray(found * np.sign(found[largest, np.arange(n_components)]))


def _krylov(reader: _Reader, mean: Doubles, start: Doubles, n_components: int) -> tuple[list[Doubles], Doubles]:
    """Orthonormal bases, (wide, k) each, and the components in their coordinates."""
    bases, columns, k = [np.linalg.qr(start)[0]], list[list[Doubles]](), start.shape[1]
    while True:
        image = reader.covariance_times(mean, bases[-1])
        columns.append([own.T @ image for own in bases])
        variances, vectors = np.linalg.eigh(_projected_covariance(columns))
        following, left = np.linalg.qr(_orthogonal(image, bases))
        chosen = vectors[:, ::-1][:, :n_components]
        residual = np.linalg.norm(left @ chosen[-k:], axis=0).max() / max(variances[-1], np.finfo(float).tiny)
        if residual <= TOLERANCE or len(bases) == MAX_STEPS:
            break
        # Once more: if the rest is 0, the factorisation adds columns that may be in the span of the bases.
        bases.append(np.linalg.qr(_orthogonal(following, bases))[0])
    if residual > TOLERANCE:
        warnings.warn(f"after {MAX_STEPS} passes principal components have a residual of {residual:.1g}", stacklevel=4)
    return bases, chosen


def _orthogonal(image: Doubles, bases: Sequence[Doubles]) -> Doubles:
    """Project `image` on the orthogonal complement of all bases; twice, to remove rounding errors."""
    for _ in range(2):
        for own in bases:
            image = image - own @ (own.T @ image)
    return image


def _projected_covariance(columns: Sequence[Sequence[Doubles]]) -> Doubles:
    """The covariance in the coordinates of all bases; each step computed the upper part of one block column."""
    k, steps = columns[0][0].shape[0], len(columns)
    out = np.zeros((k * steps, k * steps))
    for j, column in enumerate(columns):
        for i, part in enumerate(column):
            out[i * k : (i + 1) * k, j * k : (j + 1) * k] = part
            out[j * k : (j + 1) * k, i * k : (i + 1) * k] = part.T
    return out
