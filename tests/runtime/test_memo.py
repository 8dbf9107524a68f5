"""What a memo serves from the store, and what it replaces there."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from subpop.runtime.memo import Memo
from subpop.runtime.store import Store


def test_a_fresh_run_replaces_what_earlier_sessions_stored(tmp_path: Path) -> None:
    """Also where a worker made it: results of an earlier session were shown as those of this one."""

    def asked(memo: Memo, value: int) -> tuple[int, bool]:
        arrays, stored = memo.arrays("key", lambda: {"value": np.array(value)})
        return int(arrays["value"]), stored

    with Store(tmp_path / "store.sqlite") as store:
        assert [asked(Memo(store), 1), asked(Memo(store), 2)] == [(1, False), (1, True)]
        here = Memo(store, fresh=True)
        assert [asked(here, 3), asked(here, 4)] == [(3, False), (3, True)]
        received = Memo(store, fresh=True)
        received.receive("key", {"value": np.array(5)})
        assert [asked(received, 6), asked(received, 7)] == [(5, False), (5, True)]
        assert asked(Memo(store), 8) == (5, True)
