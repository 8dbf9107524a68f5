"""A pytest plug-in for `subpop.session.kernels --record`: digests of trained weights, by which kernels are told apart.

Accuracies of small test sets may be equal although a network was trained with another arithmetic; its weights are not. The first
trainings of each victim are noted in `weights.json` next to the report. Those of an earlier run with the same store, in which
nothing is trained again, are kept. Only this process notes them, and so all cells are trained in it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from subpop.types import Array, FleetJob, Model, StoredModel, Victim

if TYPE_CHECKING:
    import pytest

FILE, MOST = "weights.json", 20
"""Name of the file, and how many trainings of each victim are noted."""

Noted = dict[str, dict[str, str]]
"""By victim and training (its rows, labels and seed), the digest of the weights."""


def pytest_configure(config: pytest.Config) -> None:
    from subpop.session.options import report_directory
    from subpop.victims import VICTIMS

    config.option.executor, config.option.jobs = "here", None
    path = report_directory(config) / FILE
    noted = read_weights(path)
    VICTIMS.update({name: _noting(make, noted.setdefault(name, {})) for name, make in VICTIMS.items()})
    config.add_cleanup(lambda: _write(path, noted))


def read_weights(path: Path) -> Noted:
    """The digests in the file; empty if there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _write(path: Path, noted: Noted) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(noted, indent=1), encoding="utf-8")


def _noting(make: Callable[[str, Path | None], Victim], noted: dict[str, str]) -> Callable[[str, Path | None], Victim]:
    """A factory of the same victims, whose first trainings are noted."""

    def made(device: str, weights: Path | None) -> Victim:
        victim = make(device, weights)
        train = victim.fit_many

        def fit_many(jobs: Sequence[FleetJob], seeds: Sequence[int]) -> list[Model]:
            models = train(jobs, seeds)
            for job, seed, model in zip(jobs, seeds, models, strict=True):
                training = _digest([job.rows, job.y, job.pool.y, np.array(seed)])
                if isinstance(model, StoredModel) and (training in noted or len(noted) < MOST):
                    noted[training] = weights_of(model.state())
            return models

        victim.fit_many = fit_many  # type: ignore[method-assign]
        return victim

    return made


def weights_of(state: Mapping[str, Array]) -> str:
    """A digest of the floating-point arrays of a model, without names of files and the like."""
    return _digest([state[name] for name in sorted(state) if np.issubdtype(state[name].dtype, np.floating)])


def _digest(arrays: Sequence[Array]) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()[:16]
