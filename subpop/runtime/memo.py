"""What a session makes once: remembered in memory, and arrays also in the store, under a hash of all that they depend on."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, Protocol, TypeVar

from subpop.runtime.cell_code import code_key
from subpop.runtime.fingerprint import key_of, versions
from subpop.types import Array

T = TypeVar("T")
RECENT = 4
"""Results that `Memo.recent` remembers."""


class KeepsArrays(Protocol):
    """What a memo asks of a store."""

    def get_arrays(self, key: str) -> dict[str, Array] | None: ...
    def put_arrays(self, key: str, arrays: Mapping[str, Array], *, replace: bool = False) -> None: ...


class Memo:
    """Results by key.

    Parameters
    ----------
    store
        Where arrays are read and written.
    fresh
        Whether only what this session made is read from the store.
    device
        `cpu`, `cuda` or `cuda:N`; its kind is part of every key in the store.
    """

    def __init__(self, store: KeepsArrays, *, fresh: bool = False, device: str = "cpu") -> None:
        self.store, self.fresh, self._device = store, fresh, device.partition(":")[0]
        self._made: dict[Hashable, Any] = {}
        self._recent: OrderedDict[Hashable, Any] = OrderedDict()
        self._made_now: set[str] = set()
        self._received: set[str] = set()

    # --- in memory ----------------------------------------------------------------------------------------------------

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """The result of `make`, called when this key is first asked for."""
        if key not in self._made:
            self._made[key] = make()
        made: T = self._made[key]
        return made

    def supply(self, key: Hashable, value: object) -> None:
        """Use this value under the key."""
        self._made[key] = value

    def recent(self, key: Hashable, make: Callable[[], T], is_small: Callable[[T], bool]) -> T:
        """The result of `make`, remembered while it is small and among the last few that were asked for."""
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
        """Hash of plain values and specifications, and of the code that makes a result of them.

        code: modules such as `subpop.victims.mlp`; everything that they import counts, see `subpop.runtime.cell_code`.
        """
        return key_of({**parts, "code": code_key(frozenset(code)), "versions": versions(), "device": self._device})

    def arrays(self, key: str, make: Callable[[], Mapping[str, Array]]) -> tuple[Mapping[str, Array], bool]:
        """Arrays from the store, or made and stored; and whether the store had them before this session."""
        stored = self.store.get_arrays(key) if self.may_serve(key) else None
        if stored is not None:
            return stored, not self.was_received(key)
        made = make()
        self.store.put_arrays(key, made, replace=self.fresh)
        self.note(key)
        return made, False

    def receive(self, key: str, arrays: Mapping[str, Array]) -> None:
        """Store arrays that a worker made; the first who asks for them counts as having made them."""
        self.store.put_arrays(key, arrays, replace=self.fresh)
        self.note(key, received=True)

    def may_serve(self, key: str) -> bool:
        """Whether what the store holds under a key may be used."""
        return not self.fresh or key in self._made_now

    def note(self, key: str, *, received: bool = False) -> None:
        """Note that this session made what the store holds under a key; received: in a worker."""
        self._made_now.add(key)
        if received:
            self._received.add(key)

    def was_received(self, key: str) -> bool:
        """Whether a worker made this for whoever asks first, and nobody has asked until now."""
        found = key in self._received
        self._received.discard(key)
        return found
