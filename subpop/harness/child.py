"""The child process of a plug-in defense, and its messages: JSON and plain arrays, never pickles.

It receives the training rows and the knowledge that the plug-in declared, but no pool, row numbers, poison mask, test labels or
trial names. Its environment is clean and its folder empty. When the harness ends, its supervisor kills it with all processes
that it started.
"""

from __future__ import annotations

import faulthandler
import io
import json
import math
import os
import pickle
import random
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from subpop.harness.batching import DefenseError, DefenseTask, TrialBatch
from subpop.harness.hiding import Hiding
from subpop.harness.outcome import Outcome
from subpop.harness.plugins import AttackSpec, DatasetSpec, DefenseSpec, load
from subpop.harness.watch import Watch
from subpop.types import Array, ArrayRows, AttackSample, BadInput, Ints, Knowledge, Model, TrainingSet
from subpop.types.printable import described

Arrays = Mapping[str, Array]
Message = tuple[dict[str, Any], dict[str, Array]]
Packer = Callable[[Any], tuple[dict[str, Any], dict[str, Array]]]
"""Converts the result of a loader to JSON values and numeric arrays."""

VALUES_BYTES = 1 << 24
ARRAYS_BYTES = 1 << 32
"""Largest size of a message: its JSON, and all of its arrays (eight times the training sets of the largest chunk)."""

# --- messages: JSON, then arrays --------------------------------------------------------------------------------------


def send_message(connection: Connection, kind: str, arrays: Arrays | None = None, **values: Any) -> None:
    """Send a message that its receiver need not trust."""
    connection.send_bytes(json.dumps({"kind": kind, "arrays": list(arrays or {}), **values}).encode())
    for array in (arrays or {}).values():
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        connection.send_bytes(buffer.getbuffer())


def receive_message(connection: Connection) -> Message:
    """(values, arrays) of one message. Raises ValueError if it is malformed or too large."""
    values = json.loads(_receive_bytes(connection, VALUES_BYTES))
    if not isinstance(values, dict) or not isinstance(values.get("kind"), str) or not isinstance(values.get("arrays"), list):
        raise ValueError("a message without a kind")
    arrays, left = {}, ARRAYS_BYTES
    for name in values["arrays"]:
        content = _receive_bytes(connection, left)
        left -= len(content)
        arrays[str(name)] = _array(content)
    return values, arrays


def _receive_bytes(connection: Connection, limit: int) -> bytes:
    try:
        return connection.recv_bytes(limit)
    except OSError as error:
        if "end of file" in str(error):  # in the middle of a message
            raise EOFError from error
        if error.errno is None:  # not the operating system's error: multiprocessing's own, of a length above the limit
            raise ValueError(f"a message of more than {limit:,} bytes") from error
        raise


def _array(content: bytes) -> Array:
    """The array of an .npy message. Its header must match the received size; otherwise it could allocate all memory."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"an array in version {version} of the format; only 1.0 is read")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    came = len(content) - file.tell()
    if dtype.kind not in "biuf" or math.prod(shape) * dtype.itemsize != came:
        raise ValueError(f"an array with a header for {dtype} of shape {shape} and {came:,} bytes of data")
    flat = np.frombuffer(content, dtype, offset=file.tell())
    return flat.reshape(shape, order="F" if fortran else "C").copy()


# --- the child's side -------------------------------------------------------------------------------------------------


def child_main(connection: Connection, output: Connection) -> None:
    """Run the child: load the plug-in, receive the tasks, run the batch of trials, report."""
    os.setsid()
    _redirect_output(output)
    _forget_chance()
    sys.argv = ["defense"]
    try:
        _serve(connection)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the harness has closed the connection
    except DefenseError as error:
        send_message(connection, "error", task=error.task, reason=error.reason, details=error.details)
    except BaseException as error:
        send_message(connection, "error", task=None, reason=described(error), details="")
    sys.stdout.flush()
    os._exit(0)  # threads that the defense left behind end here


def _serve(connection: Connection) -> None:
    asked = _receive_own(connection)
    if isinstance(asked[0], AttackSpec):
        _serve_attack(connection, *asked)
    elif isinstance(asked[0], DatasetSpec):
        _serve_dataset(connection, *asked)
    else:
        _serve_defense(connection, *asked)


def _serve_defense(connection: Connection, spec: DefenseSpec, n_classes: int, n_tasks: int, folder: str, path: list[str]) -> None:
    sys.path[:] = path
    os.chdir(folder)
    if spec.hidden_since is not None:
        Hiding(spec.hidden_since, spec.path)
    watch = Watch()
    try:
        defense = load(spec)
    except BadInput as error:
        raise DefenseError(None, str(error)) from error
    send_message(connection, "ready")
    tasks = [_task(n_classes, *_receive_own(connection)) for _ in range(n_tasks)]
    send_message(connection, "begun")
    client = _HarnessClient(connection, tasks)
    batch = TrialBatch(tasks, client.fit_many, client.inputs, n_classes)
    for i, outcome in enumerate(batch.run(defense, client.note_turn)):
        client.report(i, outcome)
    send_message(connection, "manifest", seen=watch.seen())


def _serve_attack(
    connection: Connection, spec: AttackSpec, sample: AttackSample, count: int, seed: int, folder: str, path: list[str]
) -> None:
    """Run an attack once, and send the arrays that it returns, and what its process opened."""
    sys.path[:] = path
    os.chdir(folder)
    watch = Watch()
    try:
        attack = load(spec)
    except BadInput as error:
        raise DefenseError(None, str(error)) from error
    send_message(connection, "ready")
    try:
        found = attack(sample, count, seed=seed)
    except (Exception, SystemExit) as error:
        raise DefenseError(None, described(error), traceback.format_exc(limit=-3)) from error
    if not isinstance(found, tuple) or len(found) not in (2, 3):
        raise DefenseError(None, f"it returned {type(found).__name__}; return (rows, labels) or (rows, labels, x)")
    arrays = {name: np.asarray(each) for name, each in zip(("rows", "labels", "x"), found, strict=False) if each is not None}
    other = [name for name, array in arrays.items() if array.dtype.kind not in "biuf"]
    if other:
        raise DefenseError(None, f"its {other[0]} are {arrays[other[0]].dtype}; return arrays of numbers")
    sys.stdout.flush()
    send_message(connection, "poison", arrays, seen=watch.seen())


def _serve_dataset(connection: Connection, spec: DatasetSpec, pack: Packer, folder: str, path: list[str]) -> None:
    """Load data once, and send the arrays and values that `pack` makes of it."""
    sys.path[:] = path
    os.chdir(folder)
    try:
        make = load(spec)
    except BadInput as error:
        raise DefenseError(None, str(error)) from error
    send_message(connection, "ready")
    try:
        values, arrays = pack(make())
    except BadInput as error:
        raise DefenseError(None, str(error)) from error
    except (Exception, SystemExit) as error:
        raise DefenseError(None, described(error), traceback.format_exc(limit=-3)) from error
    sys.stdout.flush()
    send_message(connection, "data", arrays, **values)


def _receive_own(connection: Connection) -> Any:
    return pickle.loads(connection.recv_bytes())  # from the harness


def _task(
    n_classes: int,
    rows: Any,
    n_poison: int | None,
    holdout: Any,
    representation: Model | None,
    groups: Ints | None,
    seed: int,
) -> DefenseTask:
    """The task as the child knows it: ids are positions."""
    know = Knowledge(n_poison, None if holdout is None else _rows(n_classes, *holdout), representation, groups=groups)
    return DefenseTask(_rows(n_classes, *rows), know, seed)


def _rows(n_classes: int, x: Array, y: Array) -> TrainingSet:
    x.setflags(write=False)
    return TrainingSet(ArrayRows(x, n_classes), np.arange(len(y)), y)


class _HarnessClient:
    """The child's side of the connection, which turns the requests of a batch of trials into messages."""

    def __init__(self, connection: Connection, tasks: Sequence[DefenseTask]) -> None:
        self._connection, self._tasks = connection, tasks
        self._test_x: Array | None = None

    def note_turn(self, index: int, phase: str) -> None:
        send_message(self._connection, "turn", task=index, phase=phase, at=time.monotonic())

    def inputs(self) -> Array:
        """The test rows, requested before the first prediction."""
        if self._test_x is None:
            send_message(self._connection, "inputs")
            self._test_x = _receive_own(self._connection)
        return self._test_x

    def fit_many(self, requests: list[tuple[int, TrainingSet]]) -> list[Model]:
        sources = [self._source(index, train) for index, train in requests]
        arrays = {f"x{number}": requests[number][1].x for number, source in enumerate(sources) if source == "new"}
        arrays["y"] = np.concatenate([train.y for _, train in requests])
        arrays["ids"] = np.concatenate([train.ids for _, train in requests])
        header = [(i, source, len(train)) for (i, train), source in zip(requests, sources, strict=True)]
        send_message(self._connection, "fit", arrays, requests=header)
        models: list[Model] = _receive_own(self._connection)
        return models

    def _source(self, index: int, train: TrainingSet) -> str:
        task = self._tasks[index]
        if train._source is task.train._source:
            return "train"
        return "holdout" if task.know.clean_holdout is not None and train._source is task.know.clean_holdout._source else "new"

    def report(self, index: int, outcome: Outcome) -> None:
        arrays: dict[str, Array] = {f"p{i}": predicted for i, predicted in enumerate(outcome.predictions.values())}
        arrays |= {f"r{i}": radius for i, radius in enumerate(outcome.certified_radii.values())}
        if outcome.keep is not None:
            arrays["keep"] = outcome.keep
        if outcome.votes is not None:
            arrays["votes"] = outcome.votes
        values: dict[str, Any] = {"models": list(outcome.predictions), "certificates": list(outcome.certified_radii)}
        values |= {"diagnostics": dict(outcome.diagnostics), "n_fits": outcome.n_fits}
        sys.stdout.flush()  # the process is killed right after the last outcome
        send_message(self._connection, "outcome", arrays, task=index, seconds=outcome.seconds, **values)


def _forget_chance() -> None:
    """Reseed the random generators, which would otherwise be in the same state in all children of the fork server."""
    random.seed()
    np.random.seed()
    if "torch" in sys.modules:
        sys.modules["torch"].seed()


def _redirect_output(output: Connection) -> None:
    for stream in (1, 2):
        os.dup2(output.fileno(), stream)
    output.close()
    # New streams: those inherited from the fork server may be missing or captured.
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", 1, "utf-8", "backslashreplace", closefd=False) for stream in (1, 2))
    faulthandler.enable(all_threads=False)  # a segmentation fault leaves a traceback
