"""The harness's side of attacks of other people, each call of which runs in a child process of its own.

The child receives the attacker's rows and labels, the subpopulation, the number of poison rows and a seed: nothing of D, D_test,
the defense or the cell. What it returns is read as plain arrays and checked; a crash, a hang or a wrong answer is a DefenseError
that costs the cells of this attack only.
"""

from __future__ import annotations

import contextlib
import pickle
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import NoReturn

import numpy as np

from subpop.harness.batching import DefenseError
from subpop.harness.child import Message, receive_message
from subpop.harness.fork_server import SERVER, Child, search_path
from subpop.harness.plugins import AttackSpec
from subpop.harness.sandbox import PATIENCE, TEXT_BYTES, Output, limit_waiting, signal_name
from subpop.runtime.output import Listener
from subpop.types import Array, AttackSample, BadInput, Ints
from subpop.types.printable import described


@dataclass(frozen=True, eq=False)
class Chosen:
    """What an attack returned, checked. rows: (m,) positions in the sample; y: (m,) labels; x: (m, ...) inputs, or None."""

    rows: Ints
    y: Ints
    x: Array | None = None


def attack_in_child(
    spec: AttackSpec, sample: AttackSample, count: int, seed: int, timeout: float = 300.0, listener: Listener | None = None
) -> Chosen:
    """Call an attack in a child process. timeout: seconds of the call, without the import of its file.

    Raises
    ------
    DefenseError
        If the attack fails, takes too long, or returns what is no poison.
    """
    call = _Call(spec, listener)
    with contextlib.closing(call):
        call.send((spec, sample, count, seed, call.folder.name, search_path()))
        call.receive("ready", max(PATIENCE, timeout), "importing its file")
        _, arrays = call.receive("poison", timeout, "its code")
        try:
            return checked(sample, count, arrays)
        except BadInput as error:
            call.fail(str(error))


def checked(sample: AttackSample, count: int, arrays: dict[str, Array]) -> Chosen:
    """The arrays of an attack as poison; raises BadInput for what is none."""
    rows, y, x = _whole("rows", arrays["rows"], count), _whole("labels", arrays["labels"], count), arrays.get("x")
    for name, values, below in (("rows", rows, len(sample.y)), ("labels", y, sample.n_classes)):
        if count and not 0 <= values.min() <= values.max() < below:
            raise BadInput(f"its {name} run from {values.min()} to {values.max()}; they must be in 0 to {below - 1}")
    if x is None:
        return Chosen(rows, y)
    if x.shape != (count, *sample.x.shape[1:]):
        raise BadInput(f"its x has shape {x.shape}; return inputs of shape {(count, *sample.x.shape[1:])}")
    if sample.x.dtype.kind == "f" and x.dtype.kind in "fiu":
        x = x.astype(sample.x.dtype)
    if x.dtype != sample.x.dtype or sample.x.dtype == np.int64:
        wanted = "rows of texts cannot be changed" if sample.x.dtype == np.int64 else f"return inputs as {sample.x.dtype}"
        raise BadInput(f"its x is {x.dtype}; {wanted}")
    if not np.isfinite(x).all():
        raise BadInput("its x has NaN or infinite values; return finite inputs")
    return Chosen(rows, y, x)


def _whole(name: str, values: Array, count: int) -> Ints:
    if values.shape != (count,) or (values.dtype.kind not in "iu" and count):
        raise BadInput(
            f"its {name} are {values.dtype} of shape {values.shape}; return {count} whole numbers, of shape {(count,)}"
        )
    if values.dtype.kind == "u" and count and values.max() > np.iinfo(np.int64).max:
        raise BadInput(f"its {name} reach {values.max()}; return whole numbers that int64 holds")
    return values.astype(np.int64)


class _Call:
    """One call of an attack in its child."""

    def __init__(self, spec: AttackSpec, listener: Listener | None) -> None:
        self._spec = spec
        self.folder = tempfile.TemporaryDirectory(prefix="attack-", ignore_cleanup_errors=True)
        self._child: Child = SERVER.child()
        self._output = Output(self._child.output, listener)
        self._late = self._ended = False
        self._lock = threading.Lock()
        limit_waiting(self._child.connection, PATIENCE)

    def send(self, value: object) -> None:
        """Send values of ours; the child unpickles them."""
        with contextlib.suppress(OSError):  # it died; `receive` says why
            self._child.connection.send_bytes(pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL))

    def receive(self, kind: str, seconds: float, step: str) -> Message:
        """The child's next message, within this time."""
        deadline = time.monotonic() + seconds
        if not wait([self._child.connection, self._child.control], seconds):
            self.fail(f"{step} ran over the limit of {seconds:g} s and was stopped; make it faster or raise --defense-timeout")
        try:
            with self._ending(deadline - time.monotonic()):
                message = receive_message(self._child.connection)
        except (EOFError, OSError):
            self._fail_dead(f"{step} ran over the limit of {seconds:g} s and was stopped")
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError, MemoryError) as error:
            self.fail(f"it sent a message that cannot be used ({described(error)})")
        if message[0]["kind"] == "error":
            self.fail(str(message[0].get("reason"))[:TEXT_BYTES], str(message[0].get("details"))[-TEXT_BYTES:])
        if message[0]["kind"] != kind or (not {"rows", "labels"} <= message[1].keys() and kind == "poison"):
            self.fail(f"it sent {message[0]['kind']!r} where {kind!r} was due")
        return message

    @contextlib.contextmanager
    def _ending(self, seconds: float) -> Iterator[None]:
        """Kill the child if the rest of a message takes longer than this."""
        timer = threading.Timer(max(0.0, seconds), self._stop)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _stop(self) -> None:
        self._late = True
        self._end()

    def _fail_dead(self, late: str) -> NoReturn:
        if self._late:
            self.fail(late)
        code = self._child.exitcode(1)
        if code is not None and code < 0:
            self.fail(f"its process was ended by {signal_name(-code)}")
        self.fail(f"its process ended itself with exit code {code}; return (rows, labels) instead")

    def _end(self) -> None:
        with self._lock:  # a timer may end it too
            if not self._ended:
                self._ended = True
                self._child.end()

    def fail(self, reason: str, details: str = "") -> NoReturn:
        """End the child and raise a DefenseError with the last lines of its output."""
        self._end()
        tail = self._output.tail()
        told = "\n".join(filter(None, [details.rstrip(), tail and f"its last output:\n{tail}"]))
        raise DefenseError(None, f"attack {self._spec.name}: {reason}", told)

    def close(self) -> None:
        """End the child and all processes that it started."""
        self._end()
        self._child.connection.close()
        self._output.close()
        self.folder.cleanup()
