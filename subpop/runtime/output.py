"""Forwarding the output of plug-in defenses to listeners: in whole lines, made printable, and limited in size."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable

from subpop.types.printable import printable

Listener = Callable[[str], None]
"""Receives whole lines of a defense's output; called from the thread that reads them."""

LINE_BYTES = 1 << 14
"""Longer lines are cut."""
TAIL_LINES = 200


class Lines:
    """Splits a stream of bytes into whole lines before they are made printable."""

    def __init__(self, listener: Listener) -> None:
        self._listener, self._rest = listener, b""

    def feed(self, chunk: bytes) -> None:
        """Pass on the lines that are complete after this chunk."""
        whole, end, rest = (self._rest + chunk).rpartition(b"\n")
        self._rest = rest
        if end:
            self._say(whole)
        while len(self._rest) > LINE_BYTES:
            self._say(self._rest[:LINE_BYTES])
            self._rest = self._rest[LINE_BYTES:]

    def end(self) -> None:
        """Pass on the output after the last newline."""
        if self._rest:
            self._say(self._rest)
        self._rest = b""

    def _say(self, line: bytes) -> None:
        self._listener(printable(line.decode("utf-8", "backslashreplace")) + "\n")


class Tail:
    """A listener that keeps the last lines."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=TAIL_LINES)
        self._n_lines = 0

    def __call__(self, text: str) -> None:
        lines = text.splitlines()
        self._n_lines += len(lines)
        self._lines.extend(lines)

    def take(self) -> str:
        """Return the stored lines ('' if there are none) and clear them."""
        left_out = self._n_lines - len(self._lines)
        kept = "\n".join([*([f"({left_out} lines before these are left out)"] if left_out else []), *self._lines])
        self._lines.clear()
        self._n_lines = 0
        return kept


def to_terminal(text: str) -> None:
    """A listener that writes everything to the terminal; characters that the terminal cannot show are escaped."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
    sys.stdout.flush()
