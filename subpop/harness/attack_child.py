"""The harness's side of attacks of other people, each call of which runs in a child process of its own.

The child receives the attacker's rows and labels, the subpopulation, the number of poison rows and a seed: nothing of D, D_test,
the defense or the cell. What it returns is read as plain arrays and checked; a crash, a hang or a wrong answer is a DefenseError
that costs the cells of this attack only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from subpop.harness.calls import Call
from subpop.harness.fork_server import search_path
from subpop.harness.plugins import AttackSpec
from subpop.harness.sandbox import PATIENCE
from subpop.runtime.output import Listener
from subpop.types import Array, AttackSample, BadInput, Ints


@dataclass(frozen=True, eq=False)
class Chosen:
    """What an attack returned, checked. rows: (m,) positions in the sample; y: (m,) labels; x: (m, ...) inputs, or None.

    seen: what its process says that it opened, as `harness.watch.Watch.seen`, unchecked.
    """

    rows: Ints
    y: Ints
    x: Array | None = None
    seen: Mapping[str, Any] = field(default_factory=dict)


def attack_in_child(
    spec: AttackSpec, sample: AttackSample, count: int, seed: int, timeout: float = 300.0, listener: Listener | None = None
) -> Chosen:
    """Call an attack in a child process. timeout: seconds of the call, without the import of its file.

    Raises
    ------
    DefenseError
        If the attack fails, takes too long, or returns what is no poison.
    """
    call = Call(spec, listener)
    with contextlib.closing(call):
        call.send((spec, sample, count, seed, call.folder.name, search_path()))
        call.receive("ready", max(PATIENCE, timeout), "importing its file")
        values, arrays = call.receive("poison", timeout, "its code", {"rows", "labels"})
        try:
            return replace(checked(sample, count, arrays), seen=values.get("seen") or {})
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
