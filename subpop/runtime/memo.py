"""A cache of results for one session: in memory and, for arrays, also in the store, by a hash of all that they depend on."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from subpop.runtime.cell_code import code_key
from subpop.runtime.fingerprint import key_of, versions
from subpop.types import Array

T = TypeVar("T")
RECENT = 4
"""Number of results that `Memo.recent` caches."""


class KeepsArrays(Protocol):
    """The part of a store that a memo uses."""

    def get_arrays(self, key: str) -> dict[str, Array] | None: ...
    def put_arrays(self, key: str, arrays: Mapping[str, Array], *, replace: bool = False) -> None: ...


class NotStored(Exception):
    """A result would have to be made, while a memo only reads."""


class Memo:
    """A cache of results by key.

    Parameters
    ----------
    store
        Where arrays are read and written.
    fresh
        Whether to ignore arrays in the store that earlier sessions made.
    device
        `cpu`, `cuda` or `cuda:N`; its kind is part of every key in the store.
    """

    def __init__(self, store: KeepsArrays, *, fresh: bool = False, device: str = "cpu") -> None:
        self.store, self.fresh, self._device = store, fresh, device.partition(":")[0]
        self._made: dict[Hashable, Any] = {}
        self._recent: OrderedDict[Hashable, Any] = OrderedDict()
        self._made_now: set[str] = set()
        self._received: set[str] = set()
        self.only_reads = False
        """Whether what is not in the store may not be made now."""
        self.served: set[str] = set()
        """Keys of the arrays that were asked for."""

    # --- in memory ----------------------------------------------------------------------------------------------------

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """The result of `make`, which is called only the first time that a key is requested."""
        if key not in self._made:
            self._made[key] = make()
        made: T = self._made[key]
        return made

    def supply(self, key: Hashable, value: object) -> None:
        """Set the value of a key."""
        self._made[key] = value

    def recent(self, key: Hashable, make: Callable[[], T], is_small: Callable[[T], bool]) -> T:
        """The result of `make`, cached if it is small and while it is among the most recently requested."""
        if key in self._recent:
            self._recent.move_to_end(key)
            found: T = self._recent[key]
            return found
        made = make()
        if is_small(made):
            self._recent[key] = made
        while len(self._recent) > RECENT:
            self._recent.popitem(last=False)
        return made

    # --- in the store -------------------------------------------------------------------------------------------------

    def key(self, code: Iterable[str], **parts: Any) -> str:
        """Hash of plain values and specifications, and of the code that computes a result from them.

        code: modules such as `subpop.victims.mlp`; their imports are included, see `subpop.runtime.cell_code`.
        """
        return key_of({**parts, "code": code_key(frozenset(code)), "versions": versions(), "device": self._device})

    def arrays(self, key: str, make: Callable[[], Mapping[str, Array]]) -> tuple[Mapping[str, Array], bool]:
        """Arrays from the store, or newly made and stored, and whether they were in the store before this session."""
        stored = self.store.get_arrays(key) if self.may_serve(key) else None
        if stored is not None:
            self.served.add(key)
            return stored, not self.was_received(key)
        if self.only_reads:
            raise NotStored(key)
        made = make()
        self.store.put_arrays(key, made, replace=self.fresh)
        self.note(key)
        self.served.add(key)
        return made, False

    @contextmanager
    def reading(self) -> Iterator[None]:
        """A context in which `arrays` raises NotStored instead of making what is not in the store."""
        self.only_reads = True
        try:
            yield
        finally:
            self.only_reads = False

    def receive(self, key: str, arrays: Mapping[str, Array]) -> None:
        """Store arrays that a worker made. The first request for them is answered as if it had made them."""
        self.store.put_arrays(key, arrays, replace=self.fresh)
        self.note(key, received=True)

    def may_serve(self, key: str) -> bool:
        """Whether arrays in the store under a key may be used."""
        return not self.fresh or key in self._made_now

    def note(self, key: str, *, received: bool = False) -> None:
        """Note that this session made what is stored under a key; received: that one of its workers did."""
        self._made_now.add(key)
        if received:
            self._received.add(key)

    def was_received(self, key: str) -> bool:
        """Whether a worker made this and it has not been requested yet; true only on the first call."""
        found = key in self._received
        self._received.discard(key)
        return found
