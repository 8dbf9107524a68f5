"""Where cells run: here, or joblib workers (processes, a Dask or a Ray cluster) that train chunks ahead of the tests.

Workers send rows to the one writer and never open the store. Chunks are the same wherever they run, so the results are
those of `here`, up to the bits that another number of BLAS threads rounds differently.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from subpop.defenses import MATCHED
from subpop.experiment import Experiment
from subpop.types import Array, BadInput, Cell, Trial, TrialResult

EXECUTORS = ("here", "loky", "dask", "ray")
NEEDED_PACKAGE = {"dask": "distributed", "ray": "ray"}


class NoStore:
    """What stands in a worker's place for the store: it keeps arrays in memory and no trials."""

    def __init__(self) -> None:
        self._arrays: dict[str, dict[str, Array]] = {}
        self._records: dict[tuple[str, str], Any] = {}

    def has_chunk(self, key: str) -> bool:
        return False

    def get_chunk(self, key: str) -> list[TrialResult] | None:
        return None

    def put_chunk(self, key: str, cell: Cell, results: Sequence[TrialResult], device: str, *, replace: bool = False) -> None:
        return None

    def get_arrays(self, key: str) -> dict[str, Array] | None:
        return self._arrays.get(key)

    def put_arrays(self, key: str, arrays: Any) -> None:
        self._arrays[key] = dict(arrays)

    def get_record(self, key: str, kind: str = "cell") -> Any:
        return self._records.get((kind, key))

    def put_record(self, key: str, record: Any, kind: str = "cell") -> None:
        self._records[kind, key] = record


def prefill(experiment: Experiment, cells: Sequence[Cell], executor: str) -> None:
    """Train every missing chunk of the cells on the executor's workers and commit each as it comes back.

    Left to the tests: plug-in defenses, which have a child process of their own, and controls matched to another defense.
    """
    check_executor(executor)
    if executor == "here":
        return
    from joblib import Parallel, delayed

    work = [item for cell in cells if _can_travel(experiment, cell) for item in _missing(experiment, cell)]
    settings = (experiment.root, experiment.device, experiment.cache, experiment.weights_root, experiment.partitions)
    with _backend(executor):
        returned = Parallel(return_as="generator_unordered")(
            delayed(_train)(settings, number, *item) for number, item in enumerate(work)
        )
        for number, results in returned:
            if results is not None:
                cell, chunk = work[number]
                experiment.commit(cell, chunk, results)


def check_executor(name: str) -> None:
    """Refuse, by name, an executor that is unknown or whose package is not installed."""
    if name not in EXECUTORS:
        raise BadInput(f"--executor {name} is unknown; use one of {', '.join(EXECUTORS)}")
    package = NEEDED_PACKAGE.get(name)
    if package and find_spec(package) is None:
        raise BadInput(
            f"--executor {name} needs the package {package}, which is not installed; run `python -m pip install -e '.[{name}]'` "
            "in the clone, or use here or loky"
        )


def _can_travel(experiment: Experiment, cell: Cell) -> bool:
    return cell.defense not in experiment.plugins and not cell.defense.startswith(MATCHED)


def _missing(experiment: Experiment, cell: Cell) -> list[tuple[Cell, list[Trial]]]:
    """A cell that cannot run has nothing to send: its own test will tell why."""
    try:
        return experiment.missing_chunks(cell)
    except Exception:
        return []


Settings = tuple[Path | None, str, Path | None, Path | None, Path | None]


def _train(settings: Settings, number: int, cell: Cell, chunk: list[Trial]) -> tuple[int, list[TrialResult] | None]:
    """A chunk trained in a worker; None where it failed, which its own test will find again and report."""
    try:
        return number, _worker_experiment(*settings).timed_chunk(cell, chunk)
    except Exception:
        return number, None


@lru_cache(maxsize=1)
def _worker_experiment(
    root: Path | None, device: str, cache: Path | None, weights_root: Path | None, partitions: Path | None
) -> Experiment:
    """One a worker process, so that data is split and clustered once."""
    return Experiment(NoStore(), root, device, cache=cache, weights_root=weights_root, partitions=partitions)


@contextmanager
def _backend(executor: str) -> Iterator[None]:
    from joblib import parallel_config

    if executor == "ray":
        from ray.util.joblib import register_ray

        register_ray()
    elif executor == "dask":
        from distributed import Client

        Client(os.environ.get("DASK_SCHEDULER_ADDRESS"))
    with parallel_config(backend=executor, n_jobs=-1):
        yield
