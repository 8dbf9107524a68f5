"""The harness's side of plug-in defenses, which run in a child process that can be killed without affecting anything else.

The child is started by a fork server (see `fork_server`). Its messages are validated and never unpickled; any failure in it
becomes a DefenseError that names the trial.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import pickle
import signal
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, NoReturn

import cloudpickle

from subpop.harness.batching import DEFENSE, HARNESS, DefenseError, DefenseTask, PoolRows, TrialBatch
from subpop.harness.child import Message, receive_message
from subpop.harness.fit_log import FitLog
from subpop.harness.fork_server import SERVER, search_path
from subpop.harness.manifest import Manifest, manifest_of
from subpop.harness.outcome import Outcome, check_outcome
from subpop.harness.plugins import DefenseSpec
from subpop.runtime.options import check_timeout
from subpop.runtime.output import Lines, Listener
from subpop.runtime.scratch import Scratch
from subpop.types import BadInput, FleetJob, Pool, TrainingSet
from subpop.types.printable import described

PATIENCE = 120.0
"""Seconds for importing the plug-in and for the harness's own steps in the child, where the time limit is shorter."""

HANDING_OVER = 1.0
"""Seconds for the steps between the turns of all trials."""

TEXT_BYTES = 4000
IMPORT = "import"


@contextlib.contextmanager
def ending_after(seconds: float, end: Callable[..., None], *args: object) -> Iterator[None]:
    """Call `end` if the block takes longer than this, however slowly a message comes in."""
    timer = threading.Timer(max(0.0, seconds), end, args)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class _Outgoing(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles objects for the child, those of classes in a user's file by value, and raises BadInput for objects that would
    reveal the poison (such as a model that refers to its job)."""

    def reducer_override(self, obj: object) -> Any:
        if isinstance(obj, Pool | FleetJob | PoolRows):
            raise BadInput(f"a plug-in defense would have received a {type(obj).__name__}; models must not refer to their job")
        return super().reducer_override(obj)


def run_in_child(
    spec: DefenseSpec,
    batch: TrialBatch,
    timeout: float = 300.0,
    listener: Listener | None = None,
    note_manifest: Callable[[Manifest], None] | None = None,
    note_begun: Callable[[], None] | None = None,
) -> Iterator[Outcome]:
    """Run a plug-in defense on every task of a batch in a child process and yield the outcomes in task order.

    timeout: seconds of a trial's own time, without start, `fit` and predictions, and the same for its predictions; all trials
    together, with their predictions, may take this times the number of trials, whatever the child reports about its turns.
    listener: receives the child's output; note_manifest: called at the end with what the outcomes depend on in addition to the
    plug-in's source; note_begun: called when the child has loaded the plug-in and has its tasks. Any failure in the child raises
    DefenseError; errors of `fit_many` are passed on.
    """
    check_timeout(timeout)
    tasks, test_x = batch.tasks, batch.inputs()
    child, log = _Child(spec, tasks, timeout, listener), FitLog([task.train for task in tasks], test_x)
    try:
        child.send((spec, batch.n_classes, len(tasks), child.folder, search_path()))
        child.receive("ready")
        for task in tasks:
            child.send(_handed_out(task, spec))
        child.receive("begun")
        if note_begun is not None:
            note_begun()
        child.limit_waiting(timeout * len(tasks) + HANDING_OVER)
        for i in range(len(tasks)):
            while (message := child.receive("fit", "inputs", "outcome"))[0]["kind"] != "outcome":
                if message[0]["kind"] == "inputs":
                    child.send(test_x)
                    continue
                requests = child.trusted(_requests, message, batch)
                child.count_fits(requests)
                models = batch.fit(requests)
                child.send(models)
                log.note(requests, models)
                child.restart_clock()
            yield log.checked(i, child.trusted(_outcome, message, i, batch))
            child.restart_clock()  # the caller's time between outcomes does not count
        values, _ = child.receive("manifest")
        if note_manifest is not None:
            note_manifest(child.trusted(manifest_of, values["seen"]))
    finally:
        child.end()


def _handed_out(task: DefenseTask, spec: DefenseSpec) -> tuple[Any, ...]:
    """Return what the child receives for one task: plain arrays, and the knowledge that the plug-in declared."""
    know, holdout = task.know, task.know.clean_holdout
    if know.poison_mask is not None:
        raise BadInput(f"{spec.name} would have received poison_mask, which plug-ins must not; leave it None in Knowledge")
    return (
        (task.train.x, task.train.y),
        know.n_poison if "n_poison" in spec.needs else None,
        (holdout.x, holdout.y) if holdout is not None and "clean_holdout" in spec.needs else None,
        know.representation if "representation" in spec.needs else None,
        know.groups if "groups" in spec.needs else None,
        task.seed,
    )


def _requests(message: Message, batch: TrialBatch) -> list[tuple[int, TrainingSet]]:
    """The training sets that the child's trials wait for, mapped back to the harness's own."""
    (values, arrays), tasks = message, batch.tasks
    requests: list[tuple[int, TrainingSet]] = []
    start = 0
    for number, (index, source, size) in enumerate(values["requests"]):
        if index not in range(requests[-1][0] if requests else 0, len(tasks)):  # a trial may ask for several sets at once
            raise BadInput(f"a request of trial {index} came out of order")
        y, ids = arrays["y"][start : start + size], arrays["ids"][start : start + size]
        start += size
        if size < 1 or len(y) != size or not 0 <= y.min() <= y.max() < batch.n_classes:
            raise BadInput(f"trial {index} asked for {size} rows with labels outside 0 to {batch.n_classes - 1}")
        base = tasks[index].train if source == "train" else tasks[index].know.clean_holdout
        if source == "new":
            requests.append((index, TrainingSet.of(arrays[f"x{number}"], y)))
        elif base is None or not 0 <= ids.min() <= ids.max() < len(base):
            raise BadInput(f"trial {index} named rows outside its {source} set")
        else:
            requests.append((index, TrainingSet(base._source, base.ids[ids], y)))
    return requests


def _outcome(message: Message, index: int, batch: TrialBatch) -> Outcome:
    values, arrays = message
    if values["task"] != index:
        raise BadInput(f"an outcome of trial {values['task']} came where that of trial {index} was due")
    outcome = Outcome(
        predictions={str(name): arrays[f"p{i}"] for i, name in enumerate(values["models"])},
        keep=arrays.get("keep"),
        certified_radii={str(name): arrays[f"r{i}"] for i, name in enumerate(values.get("certificates", []))},
        votes=arrays.get("votes"),
        diagnostics=values["diagnostics"],
        n_fits=int(values["n_fits"]),
        seconds=float(values["seconds"]),
    )
    check_outcome(outcome, len(batch.tasks[index].train), len(batch.inputs()), batch.n_classes)
    return outcome


class _Child:
    """The child process, as the harness sees it: messages, turns and its end."""

    def __init__(self, spec: DefenseSpec, tasks: Sequence[DefenseTask], timeout: float, listener: Listener | None = None) -> None:
        self._spec, self._names, self._timeout = spec, [task.name for task in tasks], timeout
        self._turn, self._since = (-1, IMPORT), time.monotonic()
        self._used: dict[tuple[int, str], float] = {}
        self._fits: Counter[int] = Counter()
        self._left = float("inf")
        self._ended = False
        self._late: bool | None = None  # set if a message came too slowly: True if the limit of all trials together was exceeded
        self._place = Scratch("defense")
        self._process = SERVER.child()
        self._connection = self._process.connection
        self._output = Output(self._process.output, listener)
        atexit.register(self.end)
        limit_waiting(self._connection, max(PATIENCE, timeout))

    @property
    def folder(self) -> str:
        """An empty folder, the child's working directory."""
        return self._place.name

    def send(self, value: object) -> None:
        """Send a value of ours; the child unpickles it."""
        buffer = io.BytesIO()
        try:
            _Outgoing(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise BadInput(f"a model cannot be sent to a plug-in defense ({error}); victims' models must be picklable") from error
        try:
            self._connection.send_bytes(buffer.getbuffer())
        except OSError:  # it died, or stopped reading
            self._fail_dead()
        self.restart_clock()

    def restart_clock(self) -> None:
        """Count the running turn from now on."""
        self._since = time.monotonic()

    def limit_waiting(self, seconds: float) -> None:
        """Limit the total time of waiting for the child's messages from now on."""
        self._left = seconds

    def count_fits(self, requests: Sequence[tuple[int, TrainingSet]]) -> None:
        """Raise DefenseError for a trial that calls `fit` more often than its defense may."""
        for index, _ in requests:
            self._fits[index] += 1
            if self._fits[index] > self._spec.max_fits:
                more = f"a defense that needs more declares it: {self._spec.function}.max_fits = {10 * self._spec.max_fits}"
                self._raise(index, f"it called fit more than {self._spec.max_fits:,} times; {more}", "")

    def receive(self, *kinds: str) -> Message:
        """Return the child's next message of these kinds, within the time limits of the current turn and of all trials."""
        started = time.monotonic()
        try:
            return self._receive(kinds, started + self._left)
        finally:
            self._left -= time.monotonic() - started

    def _receive(self, kinds: Sequence[str], deadline: float) -> Message:
        while True:
            now = time.monotonic()
            left = self._limit() - self._used.get(self._turn, 0.0) - (now - self._since)
            ready = wait([self._connection, self._process.control], max(0.0, min(left, deadline - now)))
            if not ready or now > deadline:
                self._fail_late(deadline - now < left)
            if not self._connection.poll():
                self._fail_dead()
            with ending_after(min(left, deadline - now), self._stop_reading, deadline - now < left):
                message: Message = self.trusted(receive_message, self._connection)
            if message[0]["kind"] == "turn":
                self.trusted(self._note_turn, message[0])
            elif message[0]["kind"] == "error":
                self.trusted(self._raise_reported, message[0])
            elif message[0]["kind"] in kinds:
                return message
            else:
                self._fail(f"sent {message[0]['kind']!r} out of turn")

    def trusted(self, read: Callable[..., Any], *args: Any) -> Any:
        """Apply `read` to data from the child; raises DefenseError if the data is invalid."""
        try:
            return read(*args)
        except (EOFError, OSError):
            self._fail_dead()
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError, MemoryError) as error:
            self._fail(f"sent a message that cannot be used ({described(error)})")

    def _stop_reading(self, together: bool) -> None:
        self._late = together
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self._connection.fileno())) as handle:
            handle.shutdown(socket.SHUT_RD)

    def _note_turn(self, values: dict[str, Any]) -> None:
        """Account for the time since the last turn; `at` is the child's reading of the system-wide monotonic clock."""
        at = min(max(float(values["at"]), self._since), time.monotonic())
        self._used[self._turn] = self._used.get(self._turn, 0.0) + at - self._since
        self._turn, self._since = (int(values["task"]), str(values["phase"])), at
        if self._turn[1] == HARNESS:
            self._used.pop(self._turn, None)  # each of the harness's steps has its own limit

    def _limit(self) -> float:
        return self._timeout if self._turn[0] >= 0 else max(self._timeout, PATIENCE)

    # Errors.

    def _fail_late(self, together: bool) -> NoReturn:
        if together:
            whole = f"{len(self._names)} x {self._timeout:g} s"
            stopped = f"its trials together ran over the limit of {whole} and were stopped"
            self._raise(None, f"{stopped}; make it faster or raise --defense-timeout", "")
        limit = f"over the limit of {self._limit():g} s and was stopped"
        if self._turn[1] == DEFENSE:
            self._fail(f"its own code ran {limit}; make it faster or raise --defense-timeout")
        if self._turn[0] >= 0:
            self._fail(f"predicting the test rows ran {limit}; make it faster or raise --defense-timeout")
        step = "importing its file" if self._turn[1] == IMPORT else "a thread that it started delayed the harness; a step"
        self._fail(f"{step} ran {limit}")

    def _fail_dead(self) -> NoReturn:
        if self._late is not None:
            self._fail_late(self._late)
        code = self._process.exitcode(1)
        if code is None:
            self._fail("its process stopped reading and writing")
        if code < 0:
            hint = " (out of memory?)" if -code == signal.SIGKILL else ""
            self._fail(f"its process was ended by {signal_name(-code)}{hint}")
        self._fail(f"its process ended itself with exit code {code}, as os._exit does; return a Defended instead")

    def _fail(self, reason: str) -> NoReturn:
        self._raise(self._turn[0], reason, "")

    def _raise_reported(self, values: dict[str, Any]) -> NoReturn:
        self._raise(values["task"], str(values["reason"])[:TEXT_BYTES], str(values["details"])[-TEXT_BYTES:])

    def _raise(self, task: object, reason: str, details: str) -> NoReturn:
        """End the child and raise a DefenseError with the trial and the last lines of output."""
        self.end()
        number = task if isinstance(task, int) and task in range(len(self._names)) else None
        tail = self._output.tail()
        details = "\n".join(filter(None, [details.rstrip(), tail and f"its last output:\n{tail}"]))
        raise DefenseError(number, f"{self._spec.name}: {reason}", details, "" if number is None else self._names[number])

    def end(self) -> None:
        """Kill the child and all processes that it started, and remove its folder."""
        if self._ended:
            return
        self._ended = True
        atexit.unregister(self.end)
        self._process.end()
        self._connection.close()
        self._output.close()
        self._place.cleanup()


def signal_name(number: int) -> str:
    """SIGKILL, SIGSEGV, ...; a number for real-time signals, most of which have no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class Output:
    """The child's output: read without ever blocking it, passed on to a listener; only the last lines are stored."""

    def __init__(self, connection: Connection, listener: Listener | None) -> None:
        self._connection, self._tail = connection, b""
        self._lines = None if listener is None else Lines(listener)
        self._thread = threading.Thread(target=self._drain, daemon=True)
        self._thread.start()

    def _drain(self) -> None:
        with contextlib.suppress(OSError):
            while chunk := os.read(self._connection.fileno(), 1 << 16):
                self._tail = (self._tail + chunk)[-TEXT_BYTES:]
                self._tell(chunk)
        self._tell(b"")

    def _tell(self, chunk: bytes) -> None:
        if self._lines is not None:
            with contextlib.suppress(Exception):  # an error of the listener must not block the child
                self._lines.feed(chunk) if chunk else self._lines.end()

    def tail(self) -> str:
        """The last lines, once the child is dead."""
        self._thread.join(1)
        return self._tail.decode(errors="replace").strip()

    def close(self) -> None:
        self._thread.join(1)
        if not self._thread.is_alive():  # otherwise a process outside the group still has the other end open
            self._connection.close()


def limit_waiting(connection: Connection, seconds: float) -> None:
    """Let no read or write block longer than this: a child that stops in the middle must not stop the harness."""
    limit = struct.pack("ll", int(seconds) + 1, 0)
    with socket.socket(fileno=os.dup(connection.fileno())) as handle:
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
