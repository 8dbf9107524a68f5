"""What `--device cuda` would do, on a machine without a GPU: every operation runs on the meta device and is recorded.

Inside `Recorded` each tensor that the code sends to `cuda` is on `meta` instead: it has a shape and a dtype, and no data. A
`TorchDispatchMode` sees each operation with its operands and notes what would be wrong or slow on a GPU:

* operands on several devices, which a GPU refuses (numbers without dimensions are allowed, as there);
* values that go back to the host (`.item()`, `bool(tensor)`, `.cpu()`, `nonzero` and others whose shape depends on values)
  between the first and the last step of training: each of them makes the GPU wait for the host;
* float64 on the device, which GPUs compute many times more slowly.

Values that the host asks for are ones. What no such check can tell: whether kernels exist for these shapes, their results, their
speed, and whether memory suffices.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

WAITS = (
    "_local_scalar_dense",
    "item",
    "nonzero",
    "masked_select",
    "unique",
    "_unique2",
    "equal",
    "is_nonzero",
    "unique_dim",
    "bincount",
)
"""Operations whose result the host waits for."""
COPIES, BETWEEN = ("_to_copy", "to", "copy_"), ("_has_compatible_shallow_copy_type",)
STEPS = ("_foreach_addcdiv_", "_fused_adam_", "_fused_adamw_", "addcdiv_")
"""Operations that end a step of Adam."""


class MixedDevices(AssertionError):
    """An operation has operands on several devices."""


@dataclass
class Record:
    """What happened on the device."""

    operations: Counter[str] = field(default_factory=Counter)
    wide: list[str] = field(default_factory=list)
    """Operations with results in float64."""
    uploads: list[int] = field(default_factory=list)
    """Numbers of bytes sent to the device between the first and the last step."""
    autocast: set[tuple[str, torch.dtype, bool]] = field(default_factory=set)
    """(device, dtype, enabled) of the contexts of low precision."""
    steps: int = 0
    waits: list[str] = field(default_factory=list)
    """Operations for which the host waits, between the first and the last step."""
    _since: list[str] = field(default_factory=list)
    _sent: list[int] = field(default_factory=list)

    def end_step(self) -> None:
        if self.steps:
            self.waits += self._since
            self.uploads += self._sent
        self.steps, self._since, self._sent = self.steps + 1, [], []


class _Here(TorchFunctionMode):
    """Replaces `cuda` by `meta` wherever a function of torch is told a device."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def moved(value: Any) -> Any:
            is_gpu = isinstance(value, torch.device) and value.type == "cuda"
            return torch.device("meta") if is_gpu or (isinstance(value, str) and value.split(":")[0] == "cuda") else value

        if function == torch.Tensor.is_cuda.__get__:
            return args[0].device.type == "meta"
        return function(*tree_map(moved, args), **tree_map(moved, kwargs or {}))


class _Operations(TorchDispatchMode):
    """Records each operation that has an operand or a result on the meta device."""

    def __init__(self, record: Record) -> None:
        super().__init__()
        self.record = record

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = function.overloadpacket.__name__
        operands = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)]
        on_device = [value for value in operands if value.device.type == "meta"]
        copies = name in COPIES
        if name in BETWEEN:
            return function(*args, **kwargs)
        if on_device and not copies and any(value.device.type != "meta" and value.dim() for value in operands):
            raise MixedDevices(f"{name}: {', '.join(f'{v.device.type} {tuple(v.shape)}' for v in operands)}")
        if on_device and (name in WAITS or (name.startswith("index") and any(v.dtype == torch.bool for v in operands[1:]))):
            self.record._since.append(name)
            if name in ("_local_scalar_dense", "item"):
                return torch.ones((), dtype=on_device[0].dtype).item()
            raise AssertionError(f"{name} on the device: the host would wait for its result, and its shape is not known here")
        if on_device and _goes_to_host(name, args, kwargs):
            self.record._since.append(f"{name} to the host")
            return _ones(name, args, kwargs)
        result = function(*args, **kwargs)
        for value in tree_flatten(result)[0]:
            if isinstance(value, torch.Tensor) and value.device.type == "meta":
                self.record.operations[name] += 1
                if value.dtype == torch.float64 and value.dim():
                    self.record.wide.append(f"{name} {tuple(value.shape)}")
                if copies and operands[-1].device.type != "meta" and operands[-1].dim():
                    self.record._sent.append(operands[-1].nbytes)
        if on_device and name in STEPS:
            self.record.end_step()
        return result


def _goes_to_host(name: str, args: Any, kwargs: Any) -> bool:
    if name == "copy_":
        return args[0].device.type != "meta" and args[1].device.type == "meta"
    told = [value for value in tree_flatten((args[1:], kwargs))[0] if isinstance(value, torch.device)]
    return name in COPIES and args[0].device.type == "meta" and any(value.type == "cpu" for value in told)


def _ones(name: str, args: Any, kwargs: Any) -> torch.Tensor:
    if name == "copy_":
        return args[0].fill_(1)  # type: ignore[no-any-return]
    return torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)


@contextlib.contextmanager
def recorded() -> Iterator[Record]:
    """A block in which `cuda` means the recorded meta device. Generators are the host's; optimizers are not fused."""
    record = Record()

    @contextlib.contextmanager
    def autocast(device: str, dtype: torch.dtype, enabled: bool = True) -> Iterator[None]:
        record.autocast.add((device, dtype, enabled))
        yield

    def plain(optimizer: Any) -> Any:
        return lambda parameters, *args, fused, **rest: optimizer(parameters, *args, foreach=True, **rest)

    adam, adamw = torch.optim.Adam, torch.optim.AdamW
    swapping = torch.__future__.get_swap_module_params_on_conversion()
    with (
        contextlib.ExitStack() as stack,
        mock.patch.object(torch, "autocast", autocast),
        mock.patch.object(torch.optim, "Adam", plain(adam)),
        mock.patch.object(torch.optim, "AdamW", plain(adamw)),
        mock.patch.object(torch.cuda, "is_available", return_value=True),
        _Here(),
        _Operations(record),
    ):
        # A parameter that moves to a GPU stays the same object, which otherwise is not so for the meta device.
        torch.__future__.set_swap_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_swap_module_params_on_conversion, swapping)
        yield record
