import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from concurrent.futures import Future
from contextlib import closing, suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from threading import Timer

import numpy as np
import pytest

import subpop.experiments.experiment
from subpop.datasets import load_dataset
from subpop.experiments.executors import Ahead, in_order
from subpop.experiments.experiment import Experiment
from subpop.experiments.pools import NEEDED_PACKAGE, ClusterGone, Pool, check_executor, pool_of
from subpop.experiments.shared_arrays import SharedArrays
from subpop.experiments.tasks import Answer, Settings, Task, TaskStore, tasks_of, work
from subpop.harness.batching import DefenseError
from subpop.harness.plugins import AttackSpec, parse_plugin
from subpop.runtime.no_store import NoStore
from subpop.runtime.processes import descendants
from subpop.runtime.store import Store
from subpop.runtime.workers import discard_prepared, prepare_workers
from subpop.types import BadInput
from subpop.types.grid import grid
from subpop.types.kinds import Measurers

PARTITIONS = Path(__file__).parents[2] / "baselines" / "partitions"
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


NETWORKS = grid(
    stem="s",
    tier="embedded",
    dataset="digits_images",
    victim=["mlp", "conv_net"],
    partition="feature_match",
    rate=1.0,
    n_seeds=1,
)
"""Of stochastic victims: trials begin with their own seeds, so that on one machine they too are the same everywhere."""


def assert_same(here, there):
    """The same numbers and the same predictions, to the last bit."""
    for one, other in zip(map(timeless, here), map(timeless, there), strict=True):
        assert one.numbers == other.numbers
        assert one.arrays.keys() == other.arrays.keys()
        assert all(np.array_equal(one.arrays[name], other.arrays[name], equal_nan=True) for name in one.arrays)


def prefill(experiment, cells, executor, n_workers=2):
    """Train every missing chunk of the cells on workers."""
    ahead = Ahead(experiment, tasks_of(experiment, cells), executor, n_workers)
    ahead.start()
    ahead.join()
    assert ahead.error is None


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
    assert_same(here, there)
    for one, other in zip(map(timeless, here), map(timeless, there), strict=True):
        assert replace(one, seconds=0, arrays={}) == replace(other, seconds=0, arrays={})


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


def test_what_only_this_process_has_is_left_to_it(tmp_path):
    """A worker finds neither user-supplied data nor a user-supplied attack by its name, and used to fail on both."""
    (tmp_path / "mine.py").write_text("def flips(sample, count, *, seed):\n    return [0] * count, [0] * count\n")
    own_attack, own_data = CELLS[0].with_(attack="mine.flips", defense="none"), CELLS[0].with_(dataset="mine", defense="none")
    with Store(tmp_path / "s.sqlite") as store:
        spec = parse_plugin(AttackSpec, "mine.py:flips", tmp_path, "--attack ")
        experiment = Experiment.on(store, attacks={spec.name: spec})
        experiment.context.supply(own_data, load_dataset("digits"))
        tasks = tasks_of(experiment, [own_attack, own_data, CELLS[0]])
    assert {cell for task in tasks for cell, _ in task.chunks} == {CELLS[0]}


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
        monkeypatch.setattr("subpop.experiments.executors.pool_of", lambda executor, n_workers, gpu: iter([os.kill]))
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


def test_long_tasks_begin_first_and_the_others_in_the_order_of_the_tests():
    def task(seconds, victim="mlp"):
        return Task(whole=CELLS[0].with_(victim=victim), seconds=seconds)

    tasks = [task(each, f"v{each}") for each in (1.0, 30.0, 2.0, 0.5, 40.0, 1.5)]
    assert [task.seconds for task in in_order(tasks, 2)] == [40.0, 30.0, 2.0, 1.5, 1.0, 0.5]
    assert [task.seconds for task in in_order([task(0.0), task(0.0)], 2)] == [0.0, 0.0]
    alike = [task(40.0), task(30.0), task(35.0), task(20.0, "conv_net"), task(1.0), task(25.0, "conv_net"), task(0.5)]
    assert [task.seconds for task in in_order(alike, 2)] == [40.0, 25.0, 35.0, 30.0, 20.0, 1.0, 0.5]


OWN_VICTIMS = '''
import os, signal
from sklearn.naive_bayes import GaussianNB


def _die():
    if os.getpid() != int(os.environ["HARNESS"]):
        os.kill(os.getpid(), signal.SIGKILL)


class Fatal(GaussianNB):
    """Kills every worker that trains it."""

    def fit(self, x, y):
        _die()
        return super().fit(x, y)


class FatalToParentOnce(GaussianNB):
    """Kills the process that its first worker was forked from."""

    def fit(self, x, y):
        try:
            with open(os.environ["ONCE"], "x") as file:
                file.write(str(os.getpid()))
        except FileExistsError:
            return super().fit(x, y)
        os.kill(os.getppid(), signal.SIGKILL)
        return super().fit(x, y)


class Endless(GaussianNB):
    def fit(self, x, y):
        import time

        time.sleep(1000)


class FatalOnce(GaussianNB):
    """Kills the first worker that trains it."""

    def fit(self, x, y):
        try:
            open(os.environ["ONCE"], "x").close()
        except FileExistsError:
            return super().fit(x, y)
        _die()


class Large(GaussianNB):
    """Leaves 0.4 GB behind in its second task, and takes longer than the second between two looks at the memory."""

    fits = 0

    def fit(self, x, y):
        import time

        Large.fits += 1
        if Large.fits == 50:
            Large.held = b"x" * 400_000_000
            time.sleep(1.1)
        return super().fit(x, y)


class Counted(GaussianNB):
    """Leaves a byte for each fit, and tells how many threads OpenMP, BLAS, numba, torch and joblib may use."""

    def fit(self, x, y):
        from joblib import cpu_count
        from threadpoolctl import threadpool_info
        import numba, torch

        libraries = threadpool_info()
        assert {"openmp", "blas"} <= {each["user_api"] for each in libraries}
        threads = {cpu_count(), numba.get_num_threads(), torch.get_num_threads(), *(each["num_threads"] for each in libraries)}
        with open(os.environ["THREADS"], "a") as file:
            file.write("1" if threads == {1} else "2")
        return super().fit(x, y)
'''


@pytest.fixture
def own_victims(tmp_path, monkeypatch):
    """Cells of the victims of `OWN_VICTIMS`, by name; the file that they write."""
    (tmp_path / "victims_of_workers.py").write_text(OWN_VICTIMS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("HARNESS", str(os.getpid()))
    monkeypatch.setenv("ONCE", str(tmp_path / "once"))
    monkeypatch.setenv("THREADS", str(tmp_path / "threads"))
    return lambda name: CELLS[0].with_(defense="none", victim=f"victims_of_workers:{name}")


@pytest.mark.parametrize("prepared", ["", "prepare_workers('subpop.experiments.experiment')"])
def test_workers_that_were_still_starting_end_with_a_harness_that_was_killed(prepared):
    """Two of them: one that had a task, and one that had none. The outputs of all are this pipe."""
    code = (
        "import os, signal; from subpop.experiments.pools import Loky; from subpop.experiments.tasks import Settings, Task\n"
        f"from subpop.runtime.workers import prepare_workers; {prepared}\n"
        "pool = Loky(2); pool.submit(Settings(None, 'cpu', None, None, None), Task())\n"
        "print(len(pool._executor._processes), flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout.split()[0]) == (-signal.SIGKILL, "2")


@pytest.fixture
def executor(request):
    """The name of an executor; with `forked`, its workers are forked from a process that has imported everything."""
    name, _, is_forked = request.param.partition(" ")
    if name in NEEDED_PACKAGE:
        pytest.importorskip(NEEDED_PACKAGE[name])
    if is_forked:
        prepare_workers("subpop.session.preloaded")
    yield name
    discard_prepared()


@pytest.mark.parametrize("executor", ["loky", "loky forked", "dask", "ray"], indirect=True)
def test_a_worker_that_dies_loses_nothing_and_one_that_dies_again_its_own_cell_only(tmp_path, own_victims, executor):
    cells = [own_victims("Fatal"), own_victims("FatalOnce"), own_victims("Counted"), *CELLS, *NETWORKS]
    with Store(tmp_path / "here.sqlite") as store:
        (tmp_path / "once").touch()
        here = [Experiment.on(store).run(cell) for cell in cells[1:]]
        (tmp_path / "once").unlink()
        (tmp_path / "threads").unlink()
    with Store(tmp_path / "there.sqlite") as store:
        experiment = Experiment.on(store)
        ahead = Ahead(experiment, tasks_of(experiment, cells), executor, 2)
        experiment.await_chunk = ahead.wait
        ahead.start()
        with pytest.raises(DefenseError, match=r"died twice.*victims_of_workers:Fatal"):
            experiment.run(cells[0])
        assert all(ahead.has_made(cell) for cell in cells[1:]), "nobody else trains them"
        there = [experiment.run(cell) for cell in cells[1:]]
        ahead.join()
    assert ahead.n_deaths >= 2
    assert ahead.error is None
    assert len({span.worker for span in ahead.spans}) >= 2
    assert set((tmp_path / "threads").read_text()) == {"1"}, "some library of a worker had more than one thread"
    assert_same(here, there)


def test_workers_end_with_the_limit_of_time_and_no_test_waits_longer(tmp_path, own_victims):
    cells, room = [own_victims("Counted"), own_victims("Endless")], [100.0]

    def check():
        if not room[0]:
            raise TimeoutError

    with Store(tmp_path / "s.sqlite") as store:
        experiment = Experiment.on(store)
        ahead = Ahead(experiment, tasks_of(experiment, cells), "loky", 1, lambda: room[0])
        experiment.await_chunk, ahead.idle = ahead.wait, check
        ahead.start()
        assert ahead.has_made(cells[0])
        room[0] = 0.0
        for _ in range(2):  # while the workers end, and afterwards
            with pytest.raises(TimeoutError):
                experiment.run(cells[1])
            ahead._thread.join(20)
        assert not ahead._thread.is_alive()
        assert not experiment.missing_chunks(cells[0])


def test_with_a_limit_of_time_what_a_test_waits_for_is_sent_first_and_no_task_that_is_too_long():
    clusters = [CELLS[0].with_(kind="clusters", rate=rate) for rate in (0.1, 0.2, 0.3, 0.4)]
    short, long, last, wanted = (Task(whole=cell, seconds=s) for cell, s in zip(clusters, (1.0, 9.0, 2.0, 9.0), strict=True))
    ahead = Ahead(Experiment.on(NoStore()), [long, short, last, wanted], "loky", 1, lambda: 5.0)
    ahead._wanted = f"part 0 of {clusters[3]!r}"
    assert [task.seconds for task in ahead._next(0, 1)] == [9.0, 1.0]
    assert [*ahead._next(0, 1)] == [last]
    assert ahead._waiting == deque([long])


@pytest.mark.parametrize("executor", ["loky forked"], indirect=True)
def test_the_death_of_the_process_that_workers_are_forked_from_loses_nothing(tmp_path, own_victims, executor):
    cells = [own_victims("FatalToParentOnce"), own_victims("Counted"), *CELLS]
    with Store(tmp_path / "s.sqlite") as store:
        experiment = Experiment.on(store)
        ahead = Ahead(experiment, tasks_of(experiment, cells), executor, 2)
        ahead.start()
        assert all(ahead.has_made(cell) for cell in cells)
        ahead.join()
    assert ahead.error is None
    orphan = int((tmp_path / "once").read_text())
    assert not Path(f"/proc/{orphan}").exists()


class Lost(Exception):
    pass


class PlayedPool(Pool):
    """A pool of one worker that dies as often as it is told for each task; what waits behind a task is lost a moment after it."""

    LOST, n_workers = (Lost,), 1

    def __init__(self, deaths):
        self._deaths, self._queue = deaths, []

    def submit(self, settings, task):
        future = Future()
        self._queue.append(future)
        if len(self._queue) == 1:
            Timer(0.1, self._end, [task]).start()
        return future

    def _end(self, task):
        first, *behind = self._queue
        self._queue = []
        if not self._deaths[task.seconds]:
            first.set_result(Answer())
            return
        self._deaths[task.seconds] -= 1
        first.set_exception(Lost())
        time.sleep(0.3)
        for each in behind:
            each.set_exception(Lost())

    def close(self):
        pass


def test_a_task_whose_loss_behind_another_is_told_later_is_not_blamed(monkeypatch):
    blamed, other = (Task(whole=CELLS[0].with_(kind="clusters", rate=s / 10), seconds=s) for s in (1.0, 2.0))
    pool = PlayedPool({1.0: 3, 2.0: 1})  # the first death of the second task is its own
    monkeypatch.setattr("subpop.experiments.executors.pool_of", lambda executor, n_workers, gpu: pool)
    ahead = Ahead(Experiment.on(NoStore()), [blamed, other], "played", 1)
    ahead.start()
    ahead.join()
    assert ahead.error is None
    with pytest.raises(DefenseError, match="died twice"):
        ahead.check(blamed.whole)
    ahead.wait(f"part 0 of {other.whole!r}")


def test_a_task_that_waits_in_the_queue_of_a_worker_that_dies_is_not_blamed(tmp_path, own_victims):
    """Dask sends a worker its next task ahead of time, and a death loses both."""
    pytest.importorskip("distributed")
    cells = [own_victims("Fatal"), own_victims("FatalOnce")]
    with Store(tmp_path / "s.sqlite") as store:
        experiment = Experiment.on(store)
        ahead = Ahead(experiment, tasks_of(experiment, cells), "dask", 1)
        experiment.await_chunk = ahead.wait
        ahead.start()
        assert ahead.has_made(cells[1])
        with pytest.raises(DefenseError, match=r"died twice.*victims_of_workers:Fatal"):
            ahead.has_made(cells[0])
        ahead.join()
    assert ahead.error is None


def test_a_ray_cluster_whose_head_is_dead_is_given_up(monkeypatch):
    """Ray ends the process that started it a minute after the death of the head: no report, and not a word."""
    pytest.importorskip("ray")
    monkeypatch.setattr("subpop.experiments.pools.GONE", 0.5)
    with closing(pool_of("ray", 1)) as pool:
        pool.check()
        os.kill(head_of_ray(), signal.SIGKILL)
        with pytest.raises(ClusterGone, match="head of the Ray cluster"):
            check_for_a_minute(pool)


def test_a_ray_cluster_whose_head_does_not_answer_is_given_up(monkeypatch):
    """A stopped process keeps its connections, and the run waited without end."""
    pytest.importorskip("ray")
    monkeypatch.setattr("subpop.experiments.pools.GONE", 2.0)
    monkeypatch.setattr("subpop.experiments.pools.LEAVING", 2.0)
    pool = pool_of("ray", 1)
    pool.check()
    head = head_of_ray()
    os.kill(head, signal.SIGSTOP)
    try:
        with pytest.raises(ClusterGone, match="has not answered for 2 s"):
            check_for_a_minute(pool)
        pool.close()
    finally:
        with suppress(ProcessLookupError):
            os.kill(head, signal.SIGCONT)


OUTLIVES_A_DEAD_HEAD = """
import os, signal, time
from contextlib import suppress
from subpop.experiments import pools
from test_executors import check_for_a_minute, head_of_ray

pools.GONE = 0.5
pool = pools.pool_of("ray", 1)
os.kill(head_of_ray(), signal.SIGKILL)
with suppress(pools.ClusterGone):
    check_for_a_minute(pool)
pool.close()
time.sleep(70)
print("trained the rest")
os._exit(0)
"""


@pytest.mark.slow
def test_a_run_goes_on_after_the_death_of_its_ray_head():
    """Ray ended it a minute later, with status 1 and not a word about the run, when the cluster had long been given up."""
    pytest.importorskip("ray")
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    command, environment = [sys.executable, "-c", OUTLIVES_A_DEAD_HEAD], {**os.environ, "PYTHONPATH": path}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert (ran.returncode, ran.stdout.splitlines()[-1:]) == (0, ["trained the rest"]), ran.stderr


ENDS_BESIDE_A_STOPPED_HEAD = """
import os, signal
from subpop.experiments import pools
from tests.experiments.test_executors import head_of_ray

def test_pool(monkeypatch):
    monkeypatch.setattr(pools, "LEAVING", 1.0)
    pool = pools.pool_of("ray", 1)
    head = head_of_ray()
    print(head)
    os.kill(head, signal.SIGSTOP)
    pool.close()
    assert {}
"""


@pytest.mark.parametrize(("outcome", "status"), [("True", 0), ("False", 1)])
def test_a_run_beside_a_stopped_ray_head_ends_with_its_own_status(tmp_path, outcome, status):
    """It crashed in Ray's clean-up after its last line."""
    pytest.importorskip("ray")
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["subpop.pytest_plugin"]')
    test = tmp_path / "test_pool.py"
    test.write_text(ENDS_BESIDE_A_STOPPED_HEAD.replace("{}", outcome))
    command = [sys.executable, "-m", "pytest", "-qs", "-p", "no:cacheprovider", str(test)]
    with (tmp_path / "output").open("w+") as output:  # a pipe would be held open by the processes of Ray
        ran = subprocess.run(command, cwd=Path(__file__).parents[2], stdout=output, stderr=output, timeout=300, check=False)
        printed = output.seek(0) or output.read()
    os.kill(int(re.search(r"^\d+$", printed, re.MULTILINE).group()), signal.SIGKILL)
    assert ran.returncode == status, printed


def head_of_ray():
    """The process of the head of the Ray cluster that this process has started."""
    (head,) = (pid for pid in descendants(os.getpid()) if b"gcs_server" in command_of(pid).split(b"\0")[0])
    return head


@pytest.fixture
def closed_address():
    """An address of this machine where nothing listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


def test_a_ray_address_where_nothing_listens_is_given_up_at_once(monkeypatch, closed_address):
    """Ray tried for many minutes."""
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", closed_address)
    with pytest.raises(ClusterGone, match=f"no Ray cluster answers at {closed_address} .*refused"):
        pool_of("ray", 1)


def test_a_dask_address_where_nothing_listens_is_named(monkeypatch, closed_address):
    pytest.importorskip("distributed")
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", closed_address)
    quickly = import_module("dask").config.set({"distributed.comm.timeouts.connect": "1s"})
    with quickly, pytest.raises(ClusterGone, match=f"no Dask scheduler answers at {closed_address}"):
        pool_of("dask", 1)


@pytest.mark.parametrize(("executor", "package"), [("dask", "distributed"), ("ray", "ray")])
def test_an_empty_address_is_none(executor, package, monkeypatch):
    """As an input of a workflow that nobody has set."""
    pytest.importorskip(package)
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", "")
    monkeypatch.setenv("RAY_ADDRESS", "")
    with closing(pool_of(executor, 1)) as pool:
        assert pool.is_local


def test_a_dask_cluster_without_workers_is_given_up_but_not_before_one_may_have_joined(monkeypatch):
    """A run waited for a worker without end, from the start or after the death of the last one."""
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr("subpop.experiments.pools.work", lambda settings, task: "done")
    scheduler = {"cls": distributed.Scheduler, "options": {"port": 0, "dashboard": False}}
    worker = {"cls": distributed.Worker, "options": {"nthreads": 1}}
    with distributed.SpecCluster(workers={}, worker=worker, scheduler=scheduler) as cluster:
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", cluster.scheduler_address)
        with closing(pool_of("dask", 1)) as pool:
            sent = pool.submit(None, None)
            pool.check()
            cluster.scale(1)
            assert sent.result(30) == "done"
            monkeypatch.setattr("subpop.experiments.pools.NO_WORKER", 1.0)
            pool.check()
            cluster.scale(0)
            with pytest.raises(ClusterGone, match=rf"the Dask cluster at {cluster.scheduler_address} has had no worker for 1 s"):
                check_for_a_minute(pool)


def test_a_dask_scheduler_that_does_not_answer_is_given_up(monkeypatch):
    """A stopped process keeps its connections, and the run waited without end."""
    pytest.importorskip("distributed")
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard", "--host", "127.0.0.1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as scheduler:
        try:
            lines = (re.search(r"tcp://127\.0\.0\.1:\d+", line) for line in scheduler.stderr)
            address = next(found.group() for found in lines if found)
            monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", address)
            with closing(pool_of("dask", 1)) as pool:
                pool.check()
                monkeypatch.setattr("subpop.experiments.pools.NO_WORKER", 2.0)
                scheduler.send_signal(signal.SIGSTOP)
                with pytest.raises(ClusterGone, match=f"the Dask scheduler at {address} has not answered for 2 s"):
                    pool.check()
        finally:
            scheduler.kill()


# --- placement on GPUs: neither engine looks whether a GPU that a worker is said to have exists ------------------------


def gpu_of(settings, task):
    """What a task sees: the numbers of its GPUs, and when."""
    started = time.time()
    time.sleep(1.0)
    return os.environ.get("CUDA_VISIBLE_DEVICES"), started, time.time()


@pytest.mark.parametrize(("executor", "package"), [("dask", "distributed"), ("ray", "ray")])
def test_tasks_that_run_at_the_same_time_have_a_gpu_each(executor, package, monkeypatch):
    pytest.importorskip(package)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("subpop.experiments.pools.n_gpus", lambda: 2)
    monkeypatch.setattr("subpop.experiments.pools.work", gpu_of)
    with closing(pool_of(executor, 2, gpu=True)) as pool:
        assert pool.places_gpus
        assert pool.n_workers == 2
        seen = [future.result(120) for future in [pool.submit(None, None) for _ in range(4)]]
    assert {gpu for gpu, _, _ in seen} == {"0", "1"}
    for gpu, started, ended in seen:
        others = [other for other, begun, done in seen if begun < ended and started < done]
        assert others.count(gpu) == 1


def test_workers_of_dask_take_the_gpus_that_this_process_may_use(monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.setattr("subpop.experiments.pools.n_gpus", lambda: 2)
    monkeypatch.setattr("subpop.experiments.pools.work", gpu_of)
    with closing(pool_of("dask", 2, gpu=True)) as pool:
        seen = [future.result(120) for future in [pool.submit(None, None) for _ in range(4)]]
    assert {gpu for gpu, _, _ in seen} == {"3", "5"}


@pytest.mark.parametrize(("executor", "package"), [("dask", "distributed"), ("ray", "ray")])
def test_a_cluster_without_a_gpu_is_refused_and_does_not_wait_for_one(executor, package, monkeypatch):
    pytest.importorskip(package)
    monkeypatch.setattr("subpop.experiments.pools.n_gpus", lambda: 0)
    with pytest.raises(BadInput, match=rf"(?i)no worker of the {executor} cluster at this machine offers a GPU"):
        pool_of(executor, 2, gpu=True)


def test_tasks_for_a_gpu_go_to_the_workers_of_a_dask_cluster_that_offer_one(monkeypatch):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr("subpop.experiments.pools.work", lambda settings, task: distributed.get_worker().name)
    nanny = {"cls": distributed.Worker, "options": {"nthreads": 1}}
    with_gpu = {"cls": distributed.Worker, "options": {"nthreads": 1, "resources": {"GPU": 1}}}
    scheduler = {"cls": distributed.Scheduler, "options": {"port": 0, "dashboard": False}}
    with distributed.SpecCluster(workers={"plain": nanny, "gpu": with_gpu}, scheduler=scheduler) as cluster:
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", cluster.scheduler_address)
        with closing(pool_of("dask", 2, gpu=True)) as pool:
            assert pool.n_workers == 1
            assert [pool.submit(None, None).result(60) for _ in range(3)] == ["gpu"] * 3
        with closing(pool_of("dask", 2)) as pool:
            assert pool.n_workers == 2


def check_for_a_minute(pool):
    for _ in range(600):
        pool.check()
        time.sleep(0.1)


def command_of(pid):
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def test_a_worker_uses_one_core_and_trains_nothing_twice(tmp_path, own_victims, as_many_threads_as_cores):
    cells = [own_victims("Counted").with_(rate=rate) for rate in (0.5, 1.0, 1.5, 2.0)]
    counts = []
    for n_workers in (1, 3):
        (tmp_path / "threads").unlink(missing_ok=True)
        with Store(tmp_path / f"{n_workers}.sqlite") as store:
            prefill(Experiment.on(store), cells, "loky", n_workers)
        told = (tmp_path / "threads").read_text()
        assert set(told) == {"1"}, "some library of a worker had more than one thread"
        counts.append(len(told))
    assert counts[0] == counts[1]


def test_a_filter_is_run_once_where_the_control_matched_to_it_comes_first(monkeypatch):
    experiment, timed, run = Experiment.on(NoStore()), Experiment.timed_chunk, []
    (task,) = tasks_of(experiment, [cell for cell in CELLS if cell.rate == 0.5][::-1])
    assert [cell.defense for cell, _ in task.chunks] == ["matched_random_filter:trim", "trim"]
    monkeypatch.setattr(Experiment, "timed_chunk", lambda own, cell, chunk: run.append(cell.defense) or timed(own, cell, chunk))
    monkeypatch.setattr("subpop.experiments.tasks.settle", lambda: None)  # which confines the process to one core for good
    answer = work(Settings.of(experiment), task)
    assert all(answer.chunks)
    assert sorted(run) == ["matched_random_filter:trim", "trim"]


def test_what_fails_in_a_worker_alone_is_noted(tmp_path, monkeypatch):
    """It was then trained here, and nobody knew why the run was slow."""
    monkeypatch.setattr("subpop.experiments.tasks.settle", lambda: None)
    with Store(tmp_path / "s.sqlite") as store:
        experiment = Experiment.on(store)
        tasks = tasks_of(experiment, CELLS[:1])
        ahead = Ahead(experiment, tasks, "loky", 1)
        with monkeypatch.context() as patch:
            patch.setattr(Experiment, "timed_chunk", lambda *told: (_ for _ in ()).throw(OSError("no data on this machine")))
            answer = work(Settings.of(experiment), tasks[0])
        assert answer.chunks == [None] * len(tasks[0].chunks)
        ahead._commit(tasks[0], answer)
        assert ahead.failures
        assert all("OSError: no data on this machine" in each and f"s {CELLS[0].id} on " in each for each in ahead.failures)


def test_a_task_that_fails_at_once_keeps_no_other_worker_waiting(tmp_path, monkeypatch):
    """Others waited without end for arrays that it had begun to make."""
    experiment = Experiment.on(NoStore())
    (task, *_) = tasks_of(experiment, CELLS)
    monkeypatch.setattr("subpop.experiments.tasks.settle", lambda: None)
    settings = replace(Settings.of(experiment), shared=tmp_path)
    stored = (*task.chunks[0], ())

    def fails(own, cell, chunk, results):
        own.store.get_arrays("begun")
        raise BadInput("nonsense")

    monkeypatch.setattr(Experiment, "commit", fails)
    with pytest.raises(BadInput, match="nonsense"):
        work(settings, replace(task, stored=(stored,)))
    with (tmp_path / "begun.lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_arrays_that_a_worker_can_read_again_are_not_kept_without_end(tmp_path):
    store = TaskStore(SharedArrays(tmp_path))
    for number in range(8):
        store.begin_task()
        store.put_arrays(str(number), {"x": np.full(8 << 20, number, np.float64)})
        store.end_task()
        assert len(store._arrays) <= 5, "256 MB, and one more"
    assert store.get_arrays("0")["x"][-1] == 0
    assert store.get_arrays("7")["x"][-1] == 7


def test_a_worker_that_reads_much_data_is_not_replaced(tmp_path, own_victims):
    pytest.importorskip("psutil")
    cells = [own_victims("Large").with_(rate=rate) for rate in (0.5, 1.0, 1.5, 2.0)]
    with Store(tmp_path / "s.sqlite") as store:
        experiment = Experiment.on(store)
        ahead = Ahead(experiment, tasks_of(experiment, cells), "loky", 1)
        ahead.start()
        ahead.join()
    assert len(ahead.spans) == 4
    assert len({span.worker for span in ahead.spans}) == 1


def test_results_of_a_worker_with_other_code_are_not_used(tmp_path, monkeypatch):
    with Store(tmp_path / "s.sqlite") as store:
        experiment = Experiment.on(store)
        ahead = Ahead(experiment, tasks_of(experiment, CELLS[:1]), "loky", 1)
        monkeypatch.setattr(experiment, "chunk_key", lambda cell, chunk: "another key")
        ahead.start()
        ahead.join()
        assert not ahead.has_made(CELLS[0])
        assert "other code, data or libraries" in str(ahead.error)


def test_what_is_stored_is_no_task(tmp_path):
    clusters = grid(
        stem="figure3_clusters",
        kind="clusters",
        tier="embedded",
        dataset="digits_images",
        victim="logistic_regression",
        partition="cluster_match",
        rate=0.0,
    )
    with Store(tmp_path / "s.sqlite") as store:
        experiment = Experiment.on(store)
        assert [task.whole for task in tasks_of(experiment, clusters)] == clusters
        Measurers(experiment)(clusters[0])
        assert tasks_of(Experiment.on(store), clusters) == []


def test_draws_of_target_sets_are_measured_apart_and_are_those_of_a_run_here(tmp_path):
    targets = grid(
        stem="table16_influence",
        kind="target_sets",
        tier="embedded",
        dataset="digits_images",
        victim="conv_net_last_layer",
        attack="influence",
        partition=["random", "cluster_match"],
        epsilon=[0.5, 16],
        rate=0.0,
        n_seeds=2,
    )
    here = [Measurers(Experiment.on(NoStore()))(cell) for cell in targets]
    with Store(tmp_path / "s.sqlite") as store:
        experiment = Experiment.on(store)
        tasks = tasks_of(experiment, targets, lambda cell, n_trials: 3.0)
        assert [(task.whole, task.part, task.seconds) for task in tasks] == [(targets[0], 0, 6.0), (targets[0], 1, 6.0)]
        Measurers(experiment).part(targets[0], 1)
        tasks = tasks_of(Experiment.on(store), targets)
        assert [(task.whole, task.part) for task in tasks] == [(targets[0], 0)]
        ahead = Ahead(experiment, tasks_of(experiment, targets), "loky", 2)
        ahead.start()
        assert ahead.has_made(targets[1])
        there = [Measurers(experiment)(cell) for cell in targets]
        ahead.join()
        assert ahead.error is None
        assert tasks_of(Experiment.on(store), targets) == []
    for one, other in zip(here, there, strict=True):
        assert one.numbers == other.numbers


def test_chunks_of_a_stochastic_victim_are_tasks_of_their_own_with_its_defenses(tmp_path, monkeypatch):
    """They start from one fleet a chunk, so that only cells of the same attack and the same trials belong together."""
    monkeypatch.setattr(subpop.experiments.experiment, "CHUNK_TRIALS", 4)
    common = {"stem": "s", "tier": "embedded", "dataset": "digits", "victim": "mlp", "partition": "feature_match"}
    cells = grid(rate=1.0, n_seeds=1, n_attacked=6, defense=["none", "trim"], **common)
    with Store(tmp_path / "s.sqlite") as store:
        tasks = tasks_of(Experiment.on(store), cells)
    found = [[(cell.defense, len(chunk)) for cell, chunk in task.chunks] for task in tasks]
    assert found == [[("none", 4), ("trim", 4)], [("none", 2), ("trim", 4)], [("trim", 4)]]
    assert tasks[0].chunks[0][1] == tasks[0].chunks[1][1]


def test_victims_that_are_trained_one_by_one_have_one_trial_a_chunk():
    """The sixteen clusters are those that were recorded: to cut them anew would need the hidden states of all reviews."""
    common = {"stem": "s", "tier": "embedded", "dataset": "reviews", "clusters_on": "hidden_states", "n_seeds": 2, "rate": 1.0}
    experiment = Experiment.on(NoStore(), partitions=PARTITIONS)
    [cell] = grid(victim="tiny_bert_fine_tuned", partition="cluster_match", **common)
    assert [len(chunk) for chunk in experiment.chunks(cell)] == [1] * 32
    assert len(tasks_of(experiment, [cell])) == 32
    assert [len(chunk) for chunk in experiment.chunks(cell.with_(victim="tiny_bert_last_layer"))] == [32]
