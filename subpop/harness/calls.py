"""One call of somebody else's attack or loader of data, in a child process of its own."""

from __future__ import annotations

import contextlib
import pickle
import threading
import time
from collections.abc import Set
from multiprocessing.connection import wait
from typing import NoReturn

from subpop.harness.batching import DefenseError
from subpop.harness.child import Message, receive_message
from subpop.harness.fork_server import SERVER, Child
from subpop.harness.plugins import DefenseSpec
from subpop.harness.sandbox import PATIENCE, TEXT_BYTES, Output, ending_after, limit_waiting, signal_name
from subpop.runtime.output import Listener
from subpop.runtime.scratch import Scratch
from subpop.types.printable import described


class Call:
    """One call in its child. spec: of the attack or the data set."""

    def __init__(self, spec: DefenseSpec, listener: Listener | None) -> None:
        self._spec = spec
        self.folder = Scratch("call")
        self._child: Child = SERVER.child()
        self._output = Output(self._child.output, listener)
        self._late = self._ended = False
        self._lock = threading.Lock()
        limit_waiting(self._child.connection, PATIENCE)

    def send(self, value: object) -> None:
        """Send values of ours; the child unpickles them."""
        with contextlib.suppress(OSError):  # it died; `receive` says why
            self._child.connection.send_bytes(pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL))

    def receive(self, kind: str, seconds: float, step: str, arrays: Set[str] = frozenset()) -> Message:
        """The child's next message, within this time. arrays: names of those that it must hold."""
        deadline = time.monotonic() + seconds
        if not wait([self._child.connection, self._child.control], seconds):
            self.fail(f"{step} ran over the limit of {seconds:g} s and was stopped; make it faster or raise --defense-timeout")
        try:
            with ending_after(deadline - time.monotonic(), self._stop):
                message = receive_message(self._child.connection)
        except (EOFError, OSError):
            self._fail_dead(f"{step} ran over the limit of {seconds:g} s and was stopped")
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError, MemoryError) as error:
            self.fail(f"it sent a message that cannot be used ({described(error)})")
        if message[0]["kind"] == "error":
            self.fail(str(message[0].get("reason"))[:TEXT_BYTES], str(message[0].get("details"))[-TEXT_BYTES:])
        if message[0]["kind"] != kind or not arrays <= message[1].keys():
            self.fail(f"it sent {message[0]['kind']!r} where {kind!r} was due")
        return message

    def _stop(self) -> None:
        self._late = True
        self._end()

    def _fail_dead(self, late: str) -> NoReturn:
        if self._late:
            self.fail(late)
        code = self._child.exitcode(1)
        if code is not None and code < 0:
            self.fail(f"its process was ended by {signal_name(-code)}")
        self.fail(f"its process ended itself with exit code {code}; return the result instead")

    def _end(self) -> None:
        with self._lock:  # a timer may end it too
            if not self._ended:
                self._ended = True
                self._child.end()

    def fail(self, reason: str, details: str = "") -> NoReturn:
        """End the child and raise a DefenseError with the last lines of its output."""
        self._end()
        tail = self._output.tail()
        report = "\n".join(filter(None, [details.rstrip(), tail and f"its last output:\n{tail}"]))
        raise DefenseError(None, f"{self._spec.role.noun} {self._spec.name}: {reason}", report)

    def close(self) -> None:
        """End the child and all processes that it started."""
        self._end()
        self._child.connection.close()
        self._output.close()
        self.folder.cleanup()
