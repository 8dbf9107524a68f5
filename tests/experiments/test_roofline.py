"""The counts of matrix products in the speed cells, by hand on tiny fleets, and the peak of memory."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from roofline_table import table

from subpop.experiments.speed import roofline
from subpop.experiments.speed.certificate import products_of
from subpop.experiments.speed.roofline import Products, counted, counted_in_torch, of_network, peak_of, share_of, tasks_of
from subpop.types import FleetJob, Pool
from subpop.victims.logistic import LogisticRegression


def values(numbers) -> dict[str, float]:
    return {number.metric: number.value for number in numbers}


def tiny(n: int = 40, d: int = 3) -> Pool:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, d)).astype(np.float32)
    return Pool(x, (x[:, 0] + rng.standard_normal(n) > 0).astype(np.int64), n, 2)


def attacked(pool: Pool, first: int) -> FleetJob:
    n = pool.n_train
    return FleetJob(pool, np.r_[np.arange(n), first], np.r_[pool.y, 1 - pool.y[first]])


def test_products_count_operations_and_bytes_and_name_the_shape_where_most_operations_are():
    products = Products()
    products.add((2, 3, 4), np.float32, 10)
    products.add((5, 6, 7), np.float64)
    assert products.operations == 10 * 2 * 2 * 3 * 4 + 2 * 5 * 6 * 7
    assert products.bytes_moved == 10 * 4 * (6 + 12 + 8) + 8 * (30 + 42 + 35)
    assert products.typical == (2, 3, 4)
    assert products.of(np.float64).done == [((5, 6, 7), np.float64, 1)]


def test_a_share_divides_the_time_that_the_products_of_each_precision_take_alone(monkeypatch):
    monkeypatch.setattr(roofline, "matrix_rate", lambda shape, dtype: {np.float32: 4e9, np.float64: 2e9}[dtype])
    products = Products()
    products.add((1000, 1000, 500), np.float32, 2)  # 2e9 operations, .5 s
    products.add((1000, 1000, 500), np.float64)  # 1e9 operations, .5 s
    found = values(share_of(products, 4.0))
    assert found == {"gflops": 0.75, "share_of_matrix_product": 0.25, "product_gigabytes": pytest.approx(0.032)}


def test_a_matrix_product_reaches_its_own_rate(monkeypatch):
    monkeypatch.setattr(roofline, "SECONDS", 0.05)
    assert 1e6 < roofline.matrix_rate((64, 64, 64), np.float32) < 1e14


def test_a_newton_step_is_counted_as_the_products_that_it_makes(monkeypatch):
    from subpop.victims.counts import Columns, Design
    from subpop.victims.newton import DOUBLE, Newton, inverse_hessian

    pool = tiny()
    jobs = [attacked(pool, first) for first in (0, 1)]
    fleet = Design(jobs, Columns.of(pool, True), (np.float64,)).fleet(jobs, 1.0, False)
    clean = Design([pool.clean_job()], Columns.of(pool, True), (np.float64,)).fleet([pool.clean_job()], 1.0, False)
    inverse = inverse_hessian(clean, np.zeros((1, 1, 4)))
    with counted() as products:
        Newton(fleet, inverse, DOUBLE[0]._replace(steps=0)).run(np.zeros((2, 1, 4)), np.arange(2), np.zeros((2, 3)))
    # Margins and gradients of two problems, 40 rows and 3 features and an intercept; and the length of the next step.
    assert products.done == [((2, 4, 40), np.float64, 1), ((2, 40, 4), np.float64, 1), ((2, 4, 4), np.float64, 1)]


def test_both_precisions_of_a_wide_fleet_are_counted_and_counting_changes_nothing():
    pool = tiny(200, 90)
    jobs = [attacked(pool, first) for first in range(3)]
    before = LogisticRegression().fit_many(jobs, [0, 0, 0])
    with counted() as products:
        after = LogisticRegression().fit_many(jobs, [0, 0, 0])
    assert {dtype for _, dtype, _ in products.done} == {np.float32, np.float64}
    assert all(np.array_equal(a.coef, b.coef) for a, b in zip(before, after, strict=True))


def test_a_small_network_takes_two_products_with_its_first_layer_and_three_with_its_second(monkeypatch):
    monkeypatch.setattr(roofline, "matrix_rate", lambda shape, dtype: 1e9)
    pool = tiny(30, 5)
    _, tasks = tasks_of([attacked(pool, 0), attacked(pool, 1)], [0, 1], 10)
    found = values(of_network(tasks, [2, 3], 1.0))
    assert found["gflops"] * 1e9 == pytest.approx(31 * (2 + 3) * (2 * 2 * 5 * 10 + 3 * 2 * 10 * 1))


def test_torch_counts_layers_and_batches_of_products_forward_and_backward():
    layer, x = torch.nn.Linear(3, 5), torch.randn(2, 3)
    a, b = torch.randn(4, 2, 3), torch.randn(4, 3, 6)
    with counted_in_torch() as products:
        layer(x).sum().backward()
        torch.bmm(a, b)
    kind = np.float32
    assert products.done == [((2, 3, 5), kind, 1), ((5, 2, 3), kind, 1), ((2, 3, 6), kind, 4)]


def test_a_convolution_is_a_product_with_windows_and_its_gradient_ends_in_them():
    conv, x = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1), torch.randn(2, 3, 6, 6, requires_grad=True)
    conv.requires_grad_(False)
    with counted_in_torch() as products:
        (gradient,) = torch.autograd.grad(conv(x).sum(), x)
    assert gradient.shape == x.shape
    assert products.done == [((18, 27, 8), np.float32, 1), ((18, 8, 27), np.float32, 1)]
    conv.requires_grad_(True)
    with counted_in_torch() as products:
        conv(x.detach()).sum().backward()
    assert products.done == [((18, 27, 8), np.float32, 1), ((8, 18, 27), np.float32, 1)]


def test_operations_of_a_network_are_those_that_torch_counts_itself():
    from torch.utils.flop_counter import FlopCounterMode

    from subpop.victims.torch_network import body_named

    body, x = body_named("5/2 6/2", 1, 0), torch.randn(3, 1, 8, 8, requires_grad=True)
    with FlopCounterMode(display=False) as theirs:
        body.finish(body.channels(x)).sum().backward()
    with counted_in_torch() as products:
        body.finish(body.channels(x)).sum().backward()
    assert products.operations == theirs.get_total_flops() > 0


def test_products_of_a_certificate_are_those_of_its_smoother():
    found = products_of(n=100, d=8, kept=2, tests=10)
    assert found.operations == 2 * (100 * 8 * 8 + 110 * 8 * 2 + 100 * 2 * 2 + 10 * 2 * 100)


def peaks(program: str) -> list[float]:
    """The peaks that a program appends to `found`, in a process of its own: threads that earlier tests left also free memory."""
    lines = ["import gc, mmap, sys", "import numpy as np", "from subpop.experiments.speed.roofline import peak_of", "found = []"]
    lines += [program, "print([each.value for (each,) in found])"]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak begins anew on Linux only")
def test_a_peak_is_that_of_the_training_and_not_of_what_came_before():
    before = "np.ones(40_000_000)"  # 320 MB, and gone
    assert peaks(f"{before}; found.append(peak_of(lambda: np.ones(8_000_000)))") == pytest.approx([64], abs=3)
    small = "for _ in range(2): found.append(peak_of(lambda: [np.ones(100_000) for _ in range(80)]))"
    assert peaks(small) == pytest.approx([64, 64], abs=6)  # arrays whose memory would be used again


@pytest.mark.skipif(sys.platform != "linux", reason="the peak begins anew on Linux only")
def test_garbage_that_is_collected_meanwhile_does_not_make_a_peak_smaller():
    cycle = "cycle = [np.ones(4_000_000)]; cycle.append(cycle); del cycle"  # 32 MB
    assert peaks(f"{cycle}; found.append(peak_of(lambda: (gc.collect(), np.ones(8_000_000))))") == pytest.approx([64], abs=3)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak begins anew on Linux only")
def test_pages_of_files_that_are_taken_back_meanwhile_do_not_make_a_peak_smaller(tmp_path):
    (tmp_path / "library").write_bytes(b"code" * 5_000_000)  # 20 MB
    held = f"file = open({str(tmp_path / 'library')!r}, 'rb'); held = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)"
    taken_back = "(held.madvise(mmap.MADV_DONTNEED), np.ones(8_000_000))"
    assert peaks(f"{held}; sum(held[::4096]); found.append(peak_of(lambda: {taken_back}))") == pytest.approx([64], abs=3)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak begins anew on Linux only")
def test_a_peak_is_left_out_where_the_system_does_not_tell_it(monkeypatch, tmp_path):
    monkeypatch.setattr(roofline, "PROCESS", tmp_path / "missing")
    assert peak_of(lambda: None) == []


def test_the_table_has_a_line_for_each_fleet_with_medians_of_all_reports(tmp_path):
    def report(name: str, share: float):
        common = {"dataset": "adult", "victim": "mlp", "defense": "none", "setting": "against=x", "subpopulation": ""}
        numbers = {"fleet_seconds": 2.0, "gflops": 9.0, "share_of_matrix_product": share, "product_gigabytes": 0.5}
        rows = [{**common, "metric": metric, "value": value} for metric, value in numbers.items()]
        other = {**common, "victim": "another", "metric": "fleet_seconds", "value": 1.0}
        (tmp_path / name).write_text(json.dumps({"cells": [*rows, other]}))
        return tmp_path / name

    lines = table([report("a", 0.2), report("b", 0.4), report("c", 0.3)]).splitlines()
    assert lines[2:] == ["| mlp on adult (against x) | 2 | 9.0 | 30% | 0.5 | – |"]
