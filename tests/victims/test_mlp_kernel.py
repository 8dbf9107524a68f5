"""The CPU kernel of the MLP victim against a float64 reference, and what its bits may depend on."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from subpop.victims import batch_order, compiled, lanes, mlp_kernel, mlp_narrow, mlp_recipe, plain_lanes
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


# --- vector code, and the plain code that stands in for it -------------------------------------------------------------


def test_the_kernel_is_made_of_vector_code_where_that_works() -> None:
    assert lanes.works() == ""
    assert mlp_kernel.WORDS is lanes


WORDS = ("get", "load", "store", "fill", "multiply_add", "where_positive", "total")


def test_both_kinds_of_code_offer_the_same_words() -> None:
    for word in (*WORDS, "compiled", "LANES"):
        assert hasattr(lanes, word)
        assert hasattr(plain_lanes, word)


WITHOUT_LANES = """
import sys, warnings
sys.modules["subpop.victims.lanes"] = None  # cannot be imported
warnings.simplefilter("ignore")
"""
NETWORKS = """
import numpy as np, sys
from subpop.victims import mlp_kernel, mlp_narrow, mlp_recipe
from subpop.victims.batch_order import BatchOrder
found = {"words": np.array(mlp_kernel.WORDS.__name__)}
for n, d, hidden, k, share in ((300, 57, 10, 1, 0.2), (203, 20, 17, 4, 1.0)):
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(n, d)) * (rng.random((n, d)) < share)).astype(np.float32)
    labels, rows = rng.integers(0, max(2, k), n).astype(np.int32), np.arange(n)
    task = mlp_recipe.Task(rows, labels, BatchOrder(0, rows), mlp_recipe.initial(0, d, hidden, k))
    trained = mlp_narrow._train_one(mlp_narrow._rows(x), task, 6)
    found |= {f"{name}{k}": part for name, part in trained.parameters._asdict().items()}
    found[f"loss{k}"] = np.array(trained.final_loss)
np.savez(sys.argv[1], **found)
"""


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, np.ndarray]]:
    """Networks trained in a process of its own, and the module that its kernel is made of; each process runs once."""

    @cache
    def trained(code: str, *variables: tuple[str, str]) -> dict[str, np.ndarray]:
        path = tmp_path_factory.mktemp("networks") / "networks.npz"
        run = [sys.executable, "-c", code, str(path)]
        result = subprocess.run(run, env={**os.environ, **dict(variables)}, capture_output=True, text=True)
        assert not result.returncode, result.stderr
        with np.load(path) as file:
            return dict(file)

    return trained


def test_plain_code_takes_over_where_vector_code_cannot_be_had_and_agrees_with_it(networks: Any) -> None:
    vector, plain = networks(NETWORKS), networks(WITHOUT_LANES + NETWORKS)
    assert (vector["words"], plain["words"]) == ("subpop.victims.lanes", "subpop.victims.plain_lanes")
    for name in vector.keys() - {"words"}:
        np.testing.assert_allclose(plain[name], vector[name], atol=1e-5)


@pytest.mark.slow
def test_plain_code_has_the_bits_of_a_processor_without_fused_multiply_add(networks: Any) -> None:
    plain = networks(WITHOUT_LANES + NETWORKS)
    unfused = networks(NETWORKS, ("NUMBA_CPU_NAME", "generic"), ("NUMBA_CPU_FEATURES", ""))
    assert (unfused["words"], plain["words"]) == ("subpop.victims.lanes", "subpop.victims.plain_lanes")
    for name in unfused.keys() - {"words"}:
        assert np.array_equal(plain[name], unfused[name]), name


FAULTS = {
    "raises": "AttributeError: PointerType has no pointee",
    "wrong sums": "wrong sums",
    "cannot be imported": "halted|cannot import",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_vector_code_that_does_not_work_is_named_and_not_used(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    def refusing(array: np.ndarray) -> float:
        if fault == "raises":
            raise AttributeError("PointerType has no pointee")
        return 0.0

    monkeypatch.setattr(lanes, "_all_words", refusing)
    if fault == "cannot be imported":
        monkeypatch.setitem(sys.modules, "subpop.victims.lanes", None)
        monkeypatch.delattr("subpop.victims.lanes")
    with pytest.warns(RuntimeWarning, match=FAULTS[fault]):
        assert mlp_kernel._words() is plain_lanes


def test_nowhere_to_keep_machine_code_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(function: Any = None, *, cache: bool = False, **options: Any) -> Any:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(function, **options) if function else njit(**options)

    njit = compiled.njit
    monkeypatch.setattr(compiled, "njit", refusing)
    assert compiled.compiled(lambda value: value + 1)(1) == 2
