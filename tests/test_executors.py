import pytest

from subpop.cells import grid
from subpop.executors import check_executor, prefill
from subpop.experiment import Experiment
from subpop.store import Store
from subpop.types import BadInput

CELLS = grid(
    stem="s",
    tier="embedded",
    dataset="digits",
    victim="logistic_regression",
    partition="feature_match",
    rate=[0.5, 1.0],
    n_seeds=2,
    defense="trim",
)


def test_workers_leave_what_a_run_here_finds(tmp_path):
    with Store(tmp_path / "here.sqlite") as store:
        here = [Experiment(store).run(cell) for cell in CELLS]
    with Store(tmp_path / "there.sqlite") as store:
        experiment = Experiment(store)
        prefill(experiment, CELLS, "loky")
        assert not [chunk for cell in CELLS for chunk in experiment.missing_chunks(cell)]
        there = [experiment.run(cell) for cell in CELLS]
    assert all(result.from_store for result in there)
    for one, other in zip(here, there, strict=True):
        assert {n.metric: n.value for n in one.numbers} == pytest.approx({n.metric: n.value for n in other.numbers}, abs=1e-9)


def test_one_bad_cell_takes_no_other_along(tmp_path):
    with Store(tmp_path / "s.sqlite") as store:
        experiment = Experiment(store)
        prefill(experiment, [CELLS[0].with_(rate=-1.0), CELLS[0]], "loky")
        assert not experiment.missing_chunks(CELLS[0])


def test_an_unknown_executor_is_refused():
    with pytest.raises(BadInput, match="loky"):
        check_executor("cloud")
