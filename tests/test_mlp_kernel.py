"""The CPU kernel of the MLP victim against a float64 reference, and what its bits may depend on."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from subpop.victims import batch_order, compiled, mlp_kernel, mlp_narrow, mlp_recipe
from subpop.victims.batch_order import BatchOrder


def tiny_net(n_classes: int, share: float) -> tuple[np.ndarray, mlp_recipe.Task]:
    rng = np.random.default_rng(1)
    x = (rng.normal(size=(11, 5)) * (rng.random((11, 5)) < share)).astype(np.float32)
    rows = np.arange(9)
    start = mlp_recipe.initial(0, 5, 6, 1 if n_classes == 2 else n_classes)
    return x, mlp_recipe.Task(rows, rng.integers(0, n_classes, 9).astype(np.int32), BatchOrder(0, rows), start)


def reference_loss(parameters: mlp_recipe.Parameters, x: np.ndarray, y: np.ndarray) -> float:
    """Summed log loss and penalty of one batch, in float64, with nothing shared with the kernel."""
    w1, b1, w2, b2 = parameters
    z = np.maximum(x @ w1 + b1, 0) @ w2 + b2
    if z.shape[1] == 1:
        z = np.hstack([np.zeros_like(z), z])
    log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
    return float(-log_p[np.arange(len(y)), y].sum() + 0.5e-4 * ((w1**2).sum() + (w2**2).sum()))


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("sparse", [False, True])
def test_gradient_agrees_with_finite_differences_of_a_float64_loss(n_classes: int, sparse: bool) -> None:
    x, task = tiny_net(n_classes, 0.5)
    rows, net = mlp_narrow._rows(x, sparse), mlp_narrow._net(task)
    mlp_kernel._forward(rows, task.rows, net)
    loss = mlp_kernel._errors(task.labels, net)
    mlp_kernel._backward(rows, task.rows, net)
    gradient = mlp_narrow._views(net._replace(weights=net.gradient), 6)

    exact = mlp_recipe.Parameters(*(part.astype(np.float64) for part in task.start))
    data = x[task.rows].astype(np.float64), task.labels
    assert loss == pytest.approx(reference_loss(exact, *data), rel=1e-6)
    for part, found in zip(exact, gradient, strict=True):
        for at in np.ndindex(part.shape):
            kept, sides = part[at], []
            for step in (1e-6, -1e-6):
                part[at] = kept + step
                sides.append(reference_loss(exact, *data))
            part[at] = kept
            slope = (sides[0] - sides[1]) / 2e-6
            penalty = 1e-4 * kept if part.ndim == 2 else 0.0  # the kernel adds the penalty's gradient in its Adam step
            assert found[at] == pytest.approx(slope - penalty, abs=2e-5)


@pytest.mark.parametrize("shape", [(300, 57, 10, 1), (7, 6, 17, 4), (203, 1, 3, 1)])
def test_skipping_zeros_changes_no_bit(shape: tuple[int, int, int, int]) -> None:
    n, d, hidden, k = shape
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(n, d)) * (rng.random((n, d)) < 0.3)).astype(np.float32)
    rows, labels = np.arange(n), rng.integers(0, max(2, k), n).astype(np.int32)
    task = mlp_recipe.Task(rows, labels, BatchOrder(0, rows), mlp_recipe.initial(0, d, hidden, k))
    skipped, whole = (mlp_narrow._train_one(mlp_narrow._rows(x, sparse), task, 8) for sparse in (True, False))
    assert skipped.final_loss == whole.final_loss
    assert all(np.array_equal(a, b) for a, b in zip(skipped.parameters, whole.parameters, strict=True))


def stop_epoch(losses: list[float]) -> int | None:
    progress = np.array([0, 0, np.inf, np.inf, 0])
    return next((epoch for epoch, loss in enumerate(losses, 1) if mlp_kernel.note_epoch(loss, progress)), None)


STOPS = [
    ([1.0] * 20, 12),  # the first loss beats infinity, then eleven epochs bring nothing
    ([1.0 - 2e-4 * i for i in range(40)], None),
    ([1.0 - 5e-5 * i for i in range(40)], 12),  # steps too small, however far they lead
    ([1.0] * 11 + [0.9] + [0.9] * 20, 23),  # a gain in the last moment starts the count anew
    ([1.0, 0.5] + [0.9, 0.6] * 10, 13),
    ([1.0, float("nan"), 0.5], 2),
]


@pytest.mark.parametrize(("losses", "epoch"), STOPS)
def test_stopping_rule(losses: list[float], epoch: int | None) -> None:
    assert stop_epoch(losses) == epoch


def test_machine_code_on_disk_follows_the_files_it_is_built_from() -> None:
    folder = Path(mlp_kernel.__file__).parent
    sources = b"".join((folder / name).read_bytes() for name in ("compiled.py", "lanes.py", "mlp_recipe.py"))
    digest = hashlib.sha256(sources).hexdigest()[: len(mlp_kernel.BUILT_FROM)]
    assert digest == mlp_kernel.BUILT_FROM, f"set BUILT_FROM in mlp_kernel.py to {digest!r}: a file that it builds on has changed"


def test_no_function_is_compiled_with_fastmath() -> None:
    functions = [f for module in (mlp_kernel, batch_order) for f in vars(module).values() if hasattr(f, "targetoptions")]
    assert len(functions) > 10
    assert not any(function.targetoptions.get("fastmath") for function in functions)


TRAIN = """
import hashlib, numpy as np
from subpop.types import Pool
from subpop.victims.mlp import MLP
rng = np.random.default_rng(0)
x = rng.normal(size=(3000, 20)).astype(np.float32)
pool = Pool(x, (x[:, 0] * x[:, 1] > 0).astype(np.int64), 3000, 2)
model = MLP(max_epochs=4).fit_many([pool.clean_job()], [0])[0]
print(hashlib.sha256(b"".join(getattr(model, part).tobytes() for part in ("w1", "b1", "w2", "b2"))).hexdigest())
"""


@pytest.mark.slow
def test_a_process_that_compiles_and_one_that_loads_kept_code_get_the_same_bits(tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    run = [subprocess.run([sys.executable, "-c", TRAIN], env=environment, capture_output=True, text=True) for _ in range(2)]
    assert [process.returncode for process in run] == [0, 0], run[0].stderr
    assert run[0].stdout == run[1].stdout
    assert list(tmp_path.rglob("mlp_kernel.train_epochs*.nbc"))


def test_nowhere_to_keep_machine_code_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(function: Any = None, *, cache: bool = False, **options: Any) -> Any:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(function, **options) if function else njit(**options)

    njit = compiled.njit
    monkeypatch.setattr(compiled, "njit", refusing)
    assert compiled.compiled(lambda value: value + 1)(1) == 2
