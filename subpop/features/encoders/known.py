"""Hidden states by content of rows: known rows are looked up, others are computed and cached.

All victims of a cell share the rows of D and D_aux, and their models the test rows, so each row passes through the frozen blocks
once. Next to each file of states there is one with its rows, so that processes that share a cache folder also share rows.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from subpop.features.encoders.states import HiddenStates, hidden_states, maker_key, states_key, stored_states
from subpop.features.encoders.tokens import check_tokens, lengths_of
from subpop.runtime.feature_cache import keep, kept
from subpop.types import Array, Floats, Ints

if TYPE_CHECKING:
    from subpop.features.encoders.encoder import Encoder

REMEMBERED = 8
NAME_BYTES = 16
_KNOWN: OrderedDict[tuple[str, Path | None, str], KnownStates] = OrderedDict()
_LOCK = threading.RLock()


def known_states(encoder: Encoder, cache: Path | None = None, device: str = "cpu") -> KnownStates:
    """The known states of an encoder, shared by all users of the same encoder, cache and device."""
    with _LOCK:
        key = (encoder.fingerprint, cache, device)
        if key not in _KNOWN:
            _KNOWN[key] = KnownStates(encoder, cache, device)
        _KNOWN.move_to_end(key)
        while len(_KNOWN) > REMEMBERED:
            _KNOWN.popitem(last=False)
        return _KNOWN[key]


class KnownStates:
    """States of all requested rows. A row's place is its index among them. Thread-safe."""

    def __init__(self, encoder: Encoder, cache: Path | None, device: str) -> None:
        self.encoder, self._cache, self._device = encoder, cache, device
        self._places: dict[bytes, int] = {}
        self._blocks: list[HiddenStates] = []
        self._first = np.zeros(1, np.int64)
        self._unopened: dict[str, tuple[list[bytes], Ints]] = {}
        self._seen: set[str] = set()
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._places)

    def find(self, tokens: Array) -> Ints:
        """Return (n,) places of rows, regardless of padding; states of new rows are computed first."""
        check_tokens(self.encoder, tokens)
        lengths = lengths_of(tokens)
        names = [_name(row[:length]) for row, length in zip(tokens, lengths, strict=True)]
        with self._lock:
            if missing := set(names) - self._places.keys():
                self._read_folder(missing)
            new = {name: i for i, name in reversed(list(enumerate(names))) if name not in self._places}
            if new:
                rows = np.sort(np.fromiter(new.values(), np.int64, len(new)))
                self._compute(tokens[rows, : lengths[rows].max()], [names[i] for i in rows])
            return np.fromiter((self._places[name] for name in names), np.int64, len(names))

    def _compute(self, tokens: Array, names: list[bytes]) -> None:
        states = hidden_states(self.encoder, tokens, cache=self._cache, device=self._device)
        if self._cache is not None and self._device == "cpu":  # as required by `_read_folder`
            key = states_key(self.encoder, tokens, self._device)
            lengths = np.ascontiguousarray(states.lengths, "<i8")[:, None].view(np.uint8)
            keep(
                self._cache,
                self._names_file(key),
                np.hstack([np.frombuffer(b"".join(names), np.uint8).reshape(-1, NAME_BYTES), lengths]),
            )
            self._seen.add(key)
        self._add(states, names)

    def _read_folder(self, wanted: set[bytes]) -> None:
        """Use states that other processes computed, from each file that has a wanted row.

        On a CPU only: there the states of a row do not depend on the rows that it was computed with.
        """
        if self._cache is None or self._device != "cpu":
            return
        for path in sorted(self._cache.glob(f"{self._names_file('*')}.npy")):
            self._read_names(path.stem)
        for key, (names, lengths) in list(self._unopened.items()):
            if not wanted.isdisjoint(names):
                del self._unopened[key]
                states = stored_states(self.encoder, self._cache, key, lengths, self._device)
                if states is not None:
                    self._add(states, names)
                    wanted = wanted - set(names)

    def _read_names(self, file: str) -> None:
        """Record the rows of a file of states."""
        key = file.rpartition("-")[2]
        if self._cache is None or key in self._seen:
            return
        self._seen.add(key)
        rows = kept(self._cache, file)
        if rows is not None and rows.dtype == np.uint8 and rows.ndim == 2 and rows.shape[1] == NAME_BYTES + 8:
            lengths = np.ascontiguousarray(rows[:, NAME_BYTES:]).view("<i8")[:, 0]
            self._unopened[key] = [row[:NAME_BYTES].tobytes() for row in rows], lengths

    def _names_file(self, key: str) -> str:
        return f"rows-{maker_key(self.encoder, self._device)}-{key}"

    def _add(self, states: HiddenStates, names: list[bytes]) -> None:
        first = int(self._first[-1])
        self._blocks.append(states)
        self._places = {name: first + i for i, name in enumerate(names)} | self._places
        self._first = np.append(self._first, first + len(names))

    def lengths(self, places: Ints) -> Ints:
        """Return (n,) numbers of tokens of the rows at these places."""
        every = np.concatenate([block.lengths for block in self._blocks])
        return np.asarray(every[places], np.int64)

    def row(self, place: int) -> Floats:
        """Return (length, d) float32 states of the row at a place."""
        owner = int(np.searchsorted(self._first, place, side="right")) - 1
        return self._blocks[owner][int(place - self._first[owner])]

    def of(self, tokens: Array) -> KnownRows:
        """The states of rows, for `streamed_pca`."""
        places = self.find(tokens)
        return KnownRows(self, places, self.lengths(places))

    def padded(self, places: Ints) -> tuple[Floats, Ints]:
        """(n, longest, d) float32 states of rows, padded with zeros, and (n,) their lengths."""
        rows = [self.row(int(place)) for place in places]
        lengths = np.array([len(row) for row in rows], np.int64)
        out = np.zeros((len(rows), int(lengths.max()), self.encoder.hidden), np.float32)
        for i, row in enumerate(rows):
            out[i, : len(row)] = row
        return out, lengths


@dataclass(frozen=True, eq=False)
class KnownRows:
    """States of some rows: like `HiddenStates` for all rows of one file. places, lengths: (n,)."""

    known: KnownStates
    places: Ints
    lengths: Ints

    def __len__(self) -> int:
        return len(self.places)

    @property
    def hidden(self) -> int:
        return self.known.encoder.hidden

    def __getitem__(self, row: int) -> Floats:
        return self.known.row(int(self.places[row]))


def _name(row: Array) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(row).data, digest_size=NAME_BYTES).digest()
