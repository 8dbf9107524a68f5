"""The simulation of runs on several machines against closed forms."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scale_simulation import paper_chunks, simulate

CHUNKS = st.lists(st.integers(1, 9).map(float), min_size=1, max_size=7)


def optimum(chunks, machines):
    """The shortest makespan, by trying every assignment."""
    every = itertools.product(range(machines), repeat=len(chunks))
    return min(max(sum(c for c, m in zip(chunks, own, strict=True) if m == i) for i in range(machines)) for own in every)


@settings(max_examples=60, deadline=None)
@given(CHUNKS, st.integers(1, 3))
def test_longest_first_keeps_the_bound_of_list_scheduling_and_all_work(chunks, machines):
    run, best = simulate(chunks, machines), optimum(chunks, machines)
    assert best <= run.makespan <= (4 / 3 - 1 / (3 * machines)) * best + 1e-9
    assert (run.useful, run.lost, run.failures) == (sum(chunks), 0.0, 0)


def test_the_worst_case_of_longest_first_is_reached():
    """Graham's example: 5, 5, 4, 4, 3, 3, 3 on three machines take 11, and 9 at best."""
    assert simulate([5.0, 5.0, 4.0, 4.0, 3.0, 3.0, 3.0], 3).makespan == 11.0
    assert optimum([5.0, 5.0, 4.0, 4.0, 3.0, 3.0, 3.0], 3) == 9.0


def test_a_machine_that_fails_takes_the_expected_time():
    """One chunk of s seconds, failures at rate r, repairs of d seconds: (e^(rs) - 1) (1 / r + d) on average."""
    mean, seconds, repair = 10.0, 8.0, 3.0
    runs = [simulate([seconds], 1, mean, repair, seed) for seed in range(4000)]
    expected = (math.exp(seconds / mean) - 1) * (mean + repair)
    found = sum(run.makespan for run in runs) / len(runs)
    spread = (sum((run.makespan - found) ** 2 for run in runs) / len(runs) ** 2) ** 0.5
    assert abs(found - expected) < 4 * spread
    assert all(run.useful == seconds for run in runs)
    assert all(run.makespan == pytest.approx(run.useful + run.lost + run.failures * repair) for run in runs)


def test_on_one_machine_nothing_is_idle():
    chunks = paper_chunks()
    assert simulate(chunks, 1).makespan == pytest.approx(sum(chunks))
