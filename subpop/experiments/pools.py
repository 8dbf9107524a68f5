"""Worker processes behind one small interface: processes of this machine (loky), or a Dask or Ray cluster.

A pool runs one task in each worker. If a worker dies, `LOST` is the error of its task, and with loky of all tasks that were sent;
`mend` then makes the pool usable again. Which of the tasks are tried again is decided in `executors`.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from threading import Thread
from threading import enumerate as running_threads
from typing import Any

from subpop.experiments.tasks import Answer, Settings, Task, work
from subpop.runtime.options import n_gpus
from subpop.runtime.threads import ONE_CORE
from subpop.runtime.workers import worker_processes
from subpop.types import BadInput

EXECUTORS = ("here", "loky", "dask", "ray")
OWN_CLUSTER = {
    "distributed.scheduler.allowed-failures": 0,  # `executors` decides about a second attempt
    "distributed.comm.timeouts.connect": "120s",  # on a busy machine its processes take long to start
    "distributed.comm.timeouts.tcp": "120s",
}
"""Settings of a Dask cluster that is started here."""
GONE = 20.0
"""Seconds after which the head of a Ray cluster that does not answer is given up. After 60 s Ray would end this process."""
ENDING = "leaves the Ray cluster"
LEAVING = 20.0
"""Seconds that leaving a Ray cluster may take. With a head that is stopped it would never end."""
NO_WORKER = 60.0
"""Seconds after which a Dask cluster is given up that has no worker, or no more, or whose scheduler does not answer."""
NO_GPU = "--device cuda: no worker of the {} cluster at {} offers a GPU; {}, or use --device cpu"
NEEDED_PACKAGE = {"dask": "distributed", "ray": "ray"}


def check_executor(name: str) -> None:
    """Raise BadInput for an executor that is unknown or whose package is not installed."""
    if name not in EXECUTORS:
        raise BadInput(f"--executor {name} is unknown; use one of {', '.join(EXECUTORS)}")
    package = NEEDED_PACKAGE.get(name)
    if package and find_spec(package) is None:
        raise BadInput(
            f"--executor {name} needs the package {package}, which is not installed; run `python -m pip install -e '.[{name}]'` "
            "in the clone, or use here or loky"
        )


class ClusterGone(ConnectionError):
    """A cluster does not answer, or has no workers. The message names it."""


def exit_if_ray_still_waits(status: int) -> None:
    """End this process with a status if Ray still waits for a cluster that does not answer: its clean-up would hang or crash."""
    if any(thread.name == ENDING for thread in running_threads()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


class Pool(ABC):
    """Processes that run tasks."""

    LOST: tuple[type[BaseException], ...]
    """Errors of a task whose worker died."""
    loses_all = False
    """Whether the death of one worker ends all tasks that were sent."""
    n_workers: int
    is_local = True
    """Whether the workers have this machine's disk."""
    places_gpus = False
    """Whether the pool gives each task a GPU, which it sees as the only one of its machine."""

    @abstractmethod
    def submit(self, settings: Settings, task: Task) -> Future[Answer]:
        """Send a task to a worker."""

    def check(self) -> None:
        """Raise ClusterGone if the cluster has been gone for some time and the pool would not notice by itself."""
        return

    def mend(self) -> None:
        """Replace dead workers where the pool does not do that itself. Tasks that were sent are given up."""
        return

    @abstractmethod
    def close(self) -> None:
        """End the workers, whatever they are doing."""


def pool_of(executor: str, n_workers: int, gpu: bool = False) -> Pool:
    """The pool of an executor. n_workers: ignored for a cluster that already runs elsewhere; gpu: each task needs a GPU.

    Raises BadInput if a cluster has none, and ClusterGone if it does not answer.
    """
    kinds: dict[str, Callable[[int, bool], Pool]] = {"loky": Loky, "dask": Dask, "ray": Ray}
    return kinds[executor](n_workers, gpu)


class Loky(Pool):
    """Processes of this machine, started by joblib's loky. All of them use the GPU that `--device` names."""

    loses_all = True

    def __init__(self, n_workers: int, gpu: bool = False) -> None:
        from joblib.externals.loky.process_executor import BrokenProcessPool, ShutdownExecutorError

        self.LOST, self.n_workers = (BrokenProcessPool, ShutdownExecutorError), n_workers
        self._executor = self._started()

    def _started(self) -> Any:
        return worker_processes(self.n_workers)

    def submit(self, settings: Settings, task: Task) -> Future[Answer]:
        sent: Future[Answer] = self._executor.submit(work, settings, task)
        return sent

    def mend(self) -> None:
        self.close()
        self._executor = self._started()

    def close(self) -> None:
        self._executor.shutdown(wait=True, kill_workers=True)


class Dask(Pool):
    """The workers of the Dask scheduler at $DASK_SCHEDULER_ADDRESS, or of one started here.

    Tasks that need a GPU go to workers that offer the resource GPU. Workers started here take this machine's GPUs in turn.
    """

    def __init__(self, n_workers: int, gpu: bool = False) -> None:
        dask, distributed = import_module("dask"), import_module("distributed")
        address = os.environ.get("DASK_SCHEDULER_ADDRESS") or None
        self._cluster = None
        self.is_local = address is None
        if address is None:
            dask.config.set(OWN_CLUSTER)
            start = _on_gpus if gpu else _on_cores
            self._cluster = start(n_workers)
        try:
            self._client = distributed.Client(address or self._cluster)
        except BaseException as error:
            if self._cluster is not None:
                self._cluster.close()
            elif isinstance(error, OSError):
                raise ClusterGone(f"no Dask scheduler answers at {address} ({error})") from error
            raise
        self._name, self._had_worker = address or "this machine", time.monotonic()
        self.places_gpus = gpu
        self._executor = self._client.get_executor(pure=False, **({"resources": {"GPU": 1}} if gpu else {}))
        self.LOST = (distributed.KilledWorker,)
        workers = self._workers()
        offered = sum(int(each["resources"].get("GPU", 0)) for each in workers.values())
        if gpu and not offered:
            self.close()
            fix = 'start its workers with `dask worker ADDRESS --resources "GPU=1"`'
            raise BadInput(NO_GPU.format("Dask", self._name, fix))
        self.n_workers = offered if gpu else len(workers) or n_workers

    def _workers(self) -> dict[str, Any]:
        """What the scheduler says about each worker."""
        try:
            answer: dict[str, Any] = self._client.sync(self._client.scheduler.identity, n_workers=-1, callback_timeout=NO_WORKER)
        except TimeoutError as error:
            raise ClusterGone(f"the Dask scheduler at {self._name} has not answered for {NO_WORKER:.0f} s") from error
        except OSError:  # the client cancels all tasks if the connection stays lost
            return {}
        workers: dict[str, Any] = answer["workers"]
        return workers

    def check(self) -> None:
        if self._workers():
            self._had_worker = time.monotonic()
        elif time.monotonic() - self._had_worker > NO_WORKER:
            raise ClusterGone(f"the Dask cluster at {self._name} has had no worker for {NO_WORKER:.0f} s")

    def submit(self, settings: Settings, task: Task) -> Future[Answer]:
        sent: Future[Answer] = self._executor.submit(work, settings, task)
        return sent

    def close(self) -> None:
        self._client.close()
        if self._cluster is not None:
            self._cluster.close()


def _on_cores(n_workers: int) -> Any:
    """A Dask cluster of this machine."""
    options = {"threads_per_worker": 1, "dashboard_address": None, "silence_logs": 50, "env": ONE_CORE}
    return import_module("distributed").LocalCluster(n_workers=n_workers, **options)


def _on_gpus(n_workers: int) -> Any:
    """A Dask cluster of this machine whose workers see one GPU each, in turn, of those that this process may use."""
    distributed, there = import_module("distributed"), n_gpus()
    may_use = [each for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if each] or [*map(str, range(there))]
    options = {"nthreads": 1, "resources": {"GPU": 1}, "silence_logs": 50, "host": "127.0.0.1"}
    envs = [{**ONE_CORE, "CUDA_VISIBLE_DEVICES": may_use[i % there]} for i in range(n_workers if there else 0)]
    workers = {i: {"cls": distributed.Nanny, "options": {**options, "env": env}} for i, env in enumerate(envs)}
    scheduler = {"cls": distributed.Scheduler, "options": {"host": "127.0.0.1", "port": 0, "dashboard": False}}
    return distributed.SpecCluster(workers=workers, scheduler=scheduler, silence_logs=50)


class Ray(Pool):
    """The workers of the Ray cluster at $RAY_ADDRESS, or of one started here.

    Ray gives each task that needs a GPU one of its own.
    """

    def __init__(self, n_workers: int, gpu: bool = False) -> None:
        ray, errors = import_module("ray"), import_module("ray.exceptions")
        address = os.environ.get("RAY_ADDRESS")
        if address:
            _check_answers(address)
        own: dict[str, Any] = {} if address else {"address": "local", "num_cpus": n_workers, "include_dashboard": False}
        own |= {"num_gpus": n_gpus()} if own and gpu else {}
        self.is_local, self.places_gpus = bool(own), gpu
        paths = os.pathsep.join(filter(None, sys.path))
        try:
            with _that_outlives_its_head():
                ray.init(log_to_driver=False, runtime_env={"env_vars": {**ONE_CORE, "PYTHONPATH": paths}}, **own)
        except ConnectionError as error:
            fix = "set RAY_AUTH_MODE=token if it was started with a token, the default of `ray start`"
            raise ClusterGone(f"the Ray cluster at {address or 'this machine'} refuses the connection; {fix}") from error
        self._ray, self._work = ray, ray.remote(max_retries=0, num_cpus=1, num_gpus=int(gpu))(work)
        self.LOST = (errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError)
        there = ray.cluster_resources()
        if gpu and not there.get("GPU"):
            self.close()
            fix = "start its nodes with `ray start --address ADDRESS --num-gpus N`"
            raise BadInput(NO_GPU.format("Ray", address or "this machine", fix))
        self.n_workers = max(1, int(there["GPU"] if gpu else there.get("CPU", n_workers)))
        self._head, self._answered = ray.get_runtime_context().gcs_address, time.monotonic()

    def check(self) -> None:
        asking = Thread(target=self._ask, name="asks the head of the Ray cluster", daemon=True)
        asking.start()
        asking.join(GONE)  # Ray would wait for a head that is stopped without end
        if asking.is_alive() or time.monotonic() - self._answered > GONE:
            raise ClusterGone(f"the head of the Ray cluster at {self._head} has not answered for {GONE:.0f} s")

    def _ask(self) -> None:
        with suppress(Exception):
            self._ray.nodes()
            self._answered = time.monotonic()

    def submit(self, settings: Settings, task: Task) -> Future[Answer]:
        sent: Future[Answer] = self._work.remote(settings, task).future()
        return sent

    def close(self) -> None:
        ending = Thread(target=self._ray.shutdown, name=ENDING, daemon=True)
        ending.start()
        ending.join(LEAVING)


@contextmanager
def _that_outlives_its_head() -> Iterator[None]:
    """A context in which Ray is started such that it does not end this process a minute after the head of its cluster has died.

    By then the cluster is given up, and this process trains the rest.
    """
    limit = "RAY_gcs_rpc_server_reconnect_timeout_s"
    if limit in os.environ:
        yield
        return
    os.environ[limit] = str(10**6)
    try:
        yield
    finally:
        del os.environ[limit]


def _check_answers(address: str) -> None:
    """Raise ClusterGone if nothing listens at the address of a Ray cluster, for which Ray would wait many minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdigit():  # such as `auto`
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=GONE).close()
    except OSError as error:
        raise ClusterGone(f"no Ray cluster answers at {address} ({error})") from error
