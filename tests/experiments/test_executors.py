import os
from dataclasses import replace

import numpy as np
import pytest

from subpop.experiments.executors import Ahead, check_executor, prefill, tasks_of
from subpop.experiments.experiment import Experiment
from subpop.runtime.no_store import NoStore
from subpop.runtime.store import Store
from subpop.types import BadInput
from subpop.types.grid import grid
from subpop.types.kinds import Measurers

CELLS = grid(
    stem="s",
    tier="embedded",
    dataset="digits",
    victim="logistic_regression",
    partition="feature_match",
    rate=[0.5, 1.0],
    n_seeds=2,
    defense=["trim", "matched_random_filter:trim"],
)


def timeless(result):
    """A result without the numbers of a clock."""
    return replace(result, numbers=tuple(number for number in result.numbers if number.metric != "seconds_a_trial"))


def test_workers_leave_what_a_run_here_finds(tmp_path):
    with Store(tmp_path / "here.sqlite") as store:
        here = [Experiment.on(store).run(cell) for cell in CELLS]
    with Store(tmp_path / "there.sqlite") as store:
        experiment = Experiment.on(store)
        prefill(experiment, CELLS, "loky")
        assert not [chunk for cell in CELLS for chunk in experiment.missing_chunks(cell)]
        there = [experiment.run(cell) for cell in CELLS]
        again = [experiment.run(cell) for cell in CELLS]
    assert not any(result.from_store for result in there), "who asks first counts as having trained them"
    assert all(result.from_store for result in again)
    for one, other in zip(map(timeless, here), map(timeless, there), strict=True):
        assert replace(one, seconds=0, arrays={}) == replace(other, seconds=0, arrays={})
        assert one.arrays.keys() == other.arrays.keys()
        assert all(np.array_equal(one.arrays[name], other.arrays[name]) for name in one.arrays)
        assert one.numbers == other.numbers


def test_workers_do_controls_with_their_defense_cells_as_a_whole_and_no_speed(tmp_path):
    two_worlds = grid(
        stem="impossibility",
        kind="two_worlds",
        tier="embedded",
        dataset="mixture_cells",
        victim="cell_majority",
        rate=1.0,
        n_seeds=2,
        partition="feature_match",
        sampling="distinct",
        alpha_base="train",
        worlds="paired",
        holdout=0.25,
    )
    speed = grid(
        stem="speed_fleet", kind="speed", tier="laptop", dataset="adult", victim="mlp", partition="feature_match", rate=1.0
    )
    with Store(tmp_path / "s.sqlite") as store:
        experiment = Experiment.on(store)
        measure = Measurers(experiment)
        here = Measurers(Experiment.on(NoStore()))(two_worlds[0])
        tasks = tasks_of(experiment, [*CELLS, *two_worlds, *speed])
        assert [[cell.defense for cell, _ in task.chunks] for task in tasks] == [["trim", "matched_random_filter:trim"]] * 2 + [
            []
        ]
        assert [task.whole for task in tasks] == [None, None, two_worlds[0]]
        ahead = Ahead(experiment, tasks, "loky", 2)
        ahead.start()
        assert ahead.has_made(two_worlds[0])
        assert all(ahead.has_made(cell) for cell in CELLS)
        assert ahead.error is None
        found = measure(two_worlds[0])
        assert not found.from_store
        assert found.numbers == here.numbers
        assert measure(two_worlds[0]).from_store
        ahead.join()


def test_tasks_come_in_the_order_of_the_tests_that_wait_for_them(tmp_path):
    clusters = grid(
        stem="figure3_clusters",
        kind="clusters",
        tier="embedded",
        dataset="digits_images",
        victim="conv_net",
        partition="cluster_match",
        rate=0.0,
    )
    with Store(tmp_path / "s.sqlite") as store:
        experiment = Experiment.on(store)
        tasks = tasks_of(experiment, [CELLS[0], *clusters, *CELLS[1:]])
    assert [task.whole for task in tasks] == [None, clusters[0], None]


def test_workers_that_die_leave_the_rest_to_the_tests(tmp_path, monkeypatch):
    with Store(tmp_path / "s.sqlite") as store:
        ahead = Ahead(Experiment.on(store), tasks_of(Experiment.on(store), CELLS[:1]), "loky", 2)
        monkeypatch.setattr(ahead, "_answers", lambda: iter([os.kill]))
        ahead.start()
        assert not ahead.has_made(CELLS[0]), "nobody waits for what will not come"
        assert ahead.error is not None


def test_one_bad_cell_takes_no_other_along(tmp_path):
    with Store(tmp_path / "s.sqlite") as store:
        experiment = Experiment.on(store)
        prefill(experiment, [CELLS[0].with_(rate=100.0, sampling="distinct"), CELLS[0]], "loky")
        assert not experiment.missing_chunks(CELLS[0])


def test_an_unknown_executor_is_refused():
    with pytest.raises(BadInput, match="loky"):
        check_executor("cloud")
