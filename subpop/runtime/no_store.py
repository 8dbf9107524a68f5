"""A store in memory, for runs that must not write to the store: probes, the debugger, and workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from subpop.types import Array, TrialResult


class NoStore:
    """A replacement for `Store` that writes no file: it keeps arrays and records in memory, and discards trials."""

    def __init__(self) -> None:
        self._arrays: dict[str, dict[str, Array]] = {}
        self._records: dict[tuple[str, str], Any] = {}

    def has_chunk(self, key: str) -> bool:
        return False

    def get_chunk(self, key: str) -> list[TrialResult] | None:
        return None

    def put_chunk(self, *_: Any, **__: Any) -> None:
        return None

    def get_arrays(self, key: str) -> dict[str, Array] | None:
        return self._arrays.get(key)

    def put_arrays(self, key: str, arrays: Any, *, replace: bool = False) -> None:
        self._arrays[key] = dict(arrays)

    def get_record(self, key: str, kind: str = "cell") -> Any:
        return self._records.get((kind, key))

    def put_record(self, key: str, record: Any, kind: str = "cell") -> None:
        self.put_records(key, {kind: record})

    def put_records(self, key: str, records: Mapping[str, Any]) -> None:
        self._records |= {(kind, key): record for kind, record in records.items()}
